/* Opening a table of a ClickHouse server, and what it can be to us.
 *
 * Hides what stands in a URL. Invariant: user and password are in two headers, and nowhere else. */
#include "backend/clickhouse/clickhouse.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HTTP_PORT 8123
#define HTTPS_PORT 8443
#define TIMEOUT_MS 300000
#define DEFAULT_DATABASE "default"
#define SCRATCH_KEEP_BYTES ((size_t)1024 * 1024)

/* --- the URL --------------------------------------------------------------------------------- */

static ledger_rc join(char **ret_text, ledger_error *err, const char *fmt, ...) LEDGER_PRINTF(3, 4);
static ledger_rc join(char **ret_text, ledger_error *err, const char *fmt, ...)
{
    char room[8192], *text = NULL;
    ledger_rc rc = LEDGER_OK;
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(room, sizeof(room), fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(room))
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "the URL, or its user or password, is too long");
    else if ((text = ldg_strdup(room)) == NULL)
        rc = ldg_fail_nomem(err);
    explicit_bzero(room, sizeof(room)); /* it may be a password */
    if (rc == LEDGER_OK)
        *ret_text = text;
    return rc;
}

static ledger_rc take_line(void *ctx, const char *line, size_t number, ledger_error *err)
{
    char **password = ctx;

    if (number != 1 && *password != NULL)
        return ldg_fail(
            err, LEDGER_ERR_INVALID,
            "the file of --secret-file holds more than one line; of ClickHouse it holds "
            "the password alone");
    *password = ldg_strdup(line);
    return *password != NULL ? LEDGER_OK : ldg_fail_nomem(err);
}

/* A line that ends in the header, or begins a new one, must not come of a name. */
static bool is_header_text(const char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7F)
            return false;
    }
    return true;
}

static ledger_rc set_user(struct ldg_clickhouse *ch, const struct ldg_http_url *url,
                          const ledger_http_options *http, ledger_error *err)
{
    const char *user = url->user != NULL ? url->user : getenv("CLICKHOUSE_USER");
    const char *password = url->password;
    char *from_file = NULL;
    ledger_rc rc = LEDGER_OK;

    user = user != NULL && user[0] != '\0' ? user : "default";
    if (password == NULL && http->secret_file != NULL)
        rc = ldg_http_read_lines(http->secret_file, "the file of --secret-file", take_line,
                                 &from_file, err);
    if (rc == LEDGER_OK && password == NULL && http->secret_file != NULL && from_file == NULL)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the file of --secret-file holds no password; its first line is taken");
    if (password == NULL)
        password = from_file != NULL ? from_file : getenv("CLICKHOUSE_PASSWORD");
    password = password != NULL ? password : "";
    if (rc == LEDGER_OK && (!is_header_text(user) || !is_header_text(password)))
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the user or password of the ClickHouse server holds control characters");
    if (rc == LEDGER_OK)
        rc = join(&ch->user, err, "X-ClickHouse-User: %s", user);
    if (rc == LEDGER_OK)
        rc = join(&ch->key, err, "X-ClickHouse-Key: %s", password);
    ldg_free_secret(from_file);
    return rc;
}

static bool is_name(const char *text, size_t size)
{
    bool is = size > 0 && !(text[0] >= '0' && text[0] <= '9');

    for (size_t i = 0; i < size && is; i++)
        is = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z') ||
             (text[i] >= '0' && text[i] <= '9') || text[i] == '_';
    return is;
}

static ledger_rc set_database(struct ldg_clickhouse *ch, const struct ldg_http_url *url,
                              ledger_error *err)
{
    const char *name = url->path[0] == '/' ? url->path + 1 : url->path;
    size_t size = strlen(name);

    if (size > 0 && name[size - 1] == '/')
        size--;
    if (size == 0)
        return join(&ch->database, err, "%s", DEFAULT_DATABASE);
    if (!is_name(name, size))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "what follows the server in the URL has to be the name of a database "
                        "(letters, digits and _): clickhouse://host:8123/database");
    return join(&ch->database, err, "%.*s", (int)size, name);
}

/* ?quorum=N or auto: an insert waits for so many replicas, and a query sees what was inserted. */
static ledger_rc take_options(const char *query, char settings[256], ledger_error *err)
{
    static const char quorum[] = "quorum=";
    const char *value = query + sizeof(quorum) - 1;
    char *end = NULL;

    settings[0] = '\0';
    if (query[0] == '\0')
        return LEDGER_OK;
    if (strncmp(query, quorum, sizeof(quorum) - 1) != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "the URL has options that are not known; there is ?quorum=auto, or with a "
                        "number of replicas");
    if (strcmp(value, "auto") != 0 &&
        (strtol(value, &end, 10) < 2 || end == value || *end != '\0' || end - value > 3))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "?quorum= takes auto, or a number of replicas from 2 to 999");
    (void)snprintf(settings, 256,
                   "&insert_quorum=%s&insert_quorum_parallel=0&select_sequential_consistency=1",
                   value);
    return LEDGER_OK;
}

static ledger_rc set_base(struct ldg_clickhouse *ch, const struct ldg_http_url *url,
                          ledger_error *err)
{
    char settings[256];
    ledger_rc rc = take_options(url->query, settings, err);

    if (rc == LEDGER_OK)
        rc = set_database(ch, url, err);
    /* An answer is sent once it is whole, so that an error has a status of its own. */
    if (rc == LEDGER_OK)
        rc = join(&ch->base, err, "%s/?database=%s&wait_end_of_query=1%s", url->origin,
                  ch->database, settings);
    return rc;
}

/* --- opening --------------------------------------------------------------------------------- */

static void clickhouse_close(void *ctx)
{
    struct ldg_clickhouse *ch = ctx;

    ldg_http_close(&ch->http);
    ldg_free(ch->base);
    ldg_free(ch->user);
    ldg_free_secret(ch->key);
    ldg_free(ch->database);
    ldg_free(ch->table);
    ldg_free(ch->wake_key);
    ldg_free(ch->origins);
    ldg_ch_trimmed_forget(ch);
    ldg_ch_block_fini(&ch->rows);
    ldg_arena_fini(&ch->scratch);
    ldg_arena_fini(&ch->ahead.arena);
    memset(ch, 0, sizeof(*ch));
}

static ledger_rc open_http(struct ldg_clickhouse *ch, const struct ldg_open *open,
                           const struct ldg_http_url *url, ledger_error *err)
{
    const struct ldg_http_config config = {
        .url = url,
        .options = open->http,
        .user = "", /* not as basic authentication: the server takes one way alone */
        .timeout_ms = TIMEOUT_MS,
        .slots = 1,
        .backend = "clickhouse",
        .wait = open->wait,
    };

    return ldg_http_open(&config, &ch->http, err);
}

static ledger_rc clickhouse_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const bool is_tls = strncasecmp(open->url, "clickhouses:", strlen("clickhouses:")) == 0;
    struct ldg_http_url url = { 0 };
    ledger_rc rc;

    ldg_arena_init(&ch->scratch, SCRATCH_KEEP_BYTES);
    ldg_arena_init(&ch->ahead.arena, 0);
    ldg_ch_block_init(&ch->rows);
    ch->nonce = ldg_random_u64() | 1;
    ch->may_be_known = ch->parked_any = true;
    rc = ldg_http_url_parse(open->url, is_tls, is_tls ? HTTPS_PORT : HTTP_PORT, &url, err);
    if (rc == LEDGER_OK)
        rc = ldg_http_url_check(&url, open->http->insecure, "clickhouses", err);
    if (rc == LEDGER_OK)
        rc = set_base(ch, &url, err);
    if (rc == LEDGER_OK)
        rc = set_user(ch, &url, open->http, err);
    if (rc == LEDGER_OK)
        rc = join(&ch->table, err, "%s", open->table);
    if (rc == LEDGER_OK)
        rc = join(&ch->wake_key, err, "clickhouse:%s/%s", url.server, ch->database);
    if (rc == LEDGER_OK && open->log == LEDGER_MUTATION_LOG_ON)
        rc = ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                      "a ClickHouse store has no mutation log: it can be a bridge's sink, and not "
                      "its source");
    if (rc == LEDGER_OK)
        rc = open_http(ch, open, &url, err);
    ldg_http_url_fini(&url);
    if (rc == LEDGER_OK)
        rc = ldg_ch_schema_open(ch, open->flags, err);
    if (rc != LEDGER_OK)
        clickhouse_close(ch);
    return rc;
}

/* --- what it is ------------------------------------------------------------------------------ */

static ledger_rc clickhouse_health(void *ctx, ledger_error *err)
{
    return ldg_ch_exec(ctx, "asking for a sign of life", err, "SELECT 1 FORMAT Null");
}

static bool clickhouse_has_text_ids(void *ctx)
{
    return true;
}

static const char *clickhouse_wake_key(void *ctx)
{
    return ((const struct ldg_clickhouse *)ctx)->wake_key;
}

static const struct ldg_store_role store_role = {
    .read = ldg_ch_read,
    .count = ldg_ch_count,
    .stat = ldg_ch_stat,
    .list_streams = ldg_ch_list_streams,
    .find_by_source_id = ldg_ch_find_by_source_id,
};

static const struct ldg_sink_role sink_role = {
    .takes = 1 << LDG_OP_APPEND | 1 << LDG_OP_SET_TAGS | 1 << LDG_OP_SET_ANNOTATIONS |
             1 << LDG_OP_TRIM | 1 << LDG_OP_PARK,
    .apply = ldg_ch_apply,
};

static const struct ldg_state_role state_role = {
    .identity = ldg_ch_identity,
    .cursor_get = ldg_ch_cursor_get,
    .cursor_set = ldg_ch_cursor_set,
    .cursor_list = ldg_ch_cursor_list,
    .origin_get = ldg_ch_origin_get,
    .origin_list = ldg_ch_origin_list,
    .origin_adopt = ldg_ch_origin_adopt,
    .origin_last = ldg_ch_origin_last,
    .origin_rewind = ldg_ch_origin_rewind,
    .parked_list = ldg_ch_parked_list,
    .parked_near = ldg_ch_parked_near,
    .parked_count = ldg_ch_parked_count,
    .parked_retry = ldg_ch_parked_retry,
    .parked_note = ldg_ch_parked_note,
    .parked_drop = ldg_ch_parked_drop,
};

static const struct ldg_verify_role verify_role = {
    .history = ldg_ch_history,
    .history_of = ldg_ch_history_of,
    .snapshot_begin = ldg_ch_snapshot_begin,
    .snapshot_end = ldg_ch_snapshot_end,
};

extern const struct ldg_backend ldg_backend_clickhouse;
const struct ldg_backend ldg_backend_clickhouse = {
    .name = "clickhouse",
    .scheme = "clickhouse",
    .caps = LDG_CAP_OVERLAP_APPLY | LDG_CAP_SEARCH | LDG_CAP_TEXT_KEYS,
    .ctx_size = sizeof(struct ldg_clickhouse),
    .open = clickhouse_open,
    .close = clickhouse_close,
    .health = clickhouse_health,
    .has_text_ids = clickhouse_has_text_ids,
    .wake_key = clickhouse_wake_key,
    .check = ldg_ch_check,
    .store = &store_role,
    .sink = &sink_role,
    .state = &state_role,
    .verify = &verify_role,
};

/* One query: over HTTP, its values bound, its answer looked at.
 *
 * Hides URLs, headers and what an answer of the server may be. Invariants: no value is pasted into
 * a statement; user and password go in headers, and stand in no URL and no message; an answer that
 * holds an error is never taken for rows. */
#include "backend/clickhouse/clickhouse.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define URL_MAX ((size_t)1024 * 1024)
#define SQL_MAX ((size_t)256 * 1024 * 1024)
/* A server reads so much of a statement, unless it is told otherwise. */
#define SQL_PLAIN_BYTES ((size_t)200 * 1024)
#define ANSWER_MAX ((size_t)64 * 1024 * 1024)
/* Nothing comes or goes for so long, while something should. */
#define STALL_MS 60000

void ldg_ch_begin(struct ldg_ch_query *q, struct ldg_clickhouse *ch, const char *doing)
{
    *q = (struct ldg_ch_query){ .ch = ch, .doing = doing, .answer_max = ANSWER_MAX };
    ldg_buf_init(&q->url, URL_MAX);
    ldg_buf_init(&q->sql, SQL_MAX);
}

/* --- what is asked --------------------------------------------------------------------------- */

LEDGER_PRINTF(2, 0)
static void put_sql(struct ldg_ch_query *q, const char *fmt, va_list args)
{
    char room[4096];
    const int n = vsnprintf(room, sizeof(room), fmt, args);

    if (n < 0 || (size_t)n >= sizeof(room))
        q->sql.rc = LEDGER_ERR_TOO_LARGE;
    else
        (void)ldg_buf_append(&q->sql, room, (size_t)n);
}

void ldg_ch_sql(struct ldg_ch_query *q, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    put_sql(q, fmt, args);
    va_end(args);
}

static void put_encoded(struct ldg_buf *out, char c)
{
    static const char digits[] = "0123456789ABCDEF";
    const unsigned char byte = (unsigned char)c;
    const char code[3] = { '%', digits[byte >> 4], digits[byte & 15] };

    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
        c == '_' || c == '.')
        (void)ldg_buf_putc(out, c);
    else
        (void)ldg_buf_append(out, code, sizeof(code));
}

/* The server reads the value of a parameter as a field of TabSeparated. */
static void put_value(struct ldg_buf *out, const char *value)
{
    static const char special[] = "\\\t\n\r\b\f", names[] = "\\tnrbf";

    for (; *value != '\0'; value++) {
        const char *at = strchr(special, *value);

        if (at != NULL)
            put_encoded(out, '\\');
        put_encoded(out, at != NULL ? names[at - special] : *value);
    }
}

void ldg_ch_bind(struct ldg_ch_query *q, const char *name, const char *value)
{
    (void)ldg_buf_printf(&q->url, "&param_%s=", name);
    put_value(&q->url, value);
}

void ldg_ch_bind_int(struct ldg_ch_query *q, const char *name, int64_t value)
{
    (void)ldg_buf_printf(&q->url, "&param_%s=%" PRId64, name, value);
}

void ldg_ch_bind_u64(struct ldg_ch_query *q, const char *name, uint64_t value)
{
    (void)ldg_buf_printf(&q->url, "&param_%s=%" PRIu64, name, value);
}

void ldg_ch_setting(struct ldg_ch_query *q, const char *name, const char *value)
{
    (void)ldg_buf_printf(&q->url, "&%s=%s", name, value);
}

/* --- lists ----------------------------------------------------------------------------------- */

void ldg_ch_list_begin(struct ldg_ch_query *q, const char *columns)
{
    ldg_ch_sql(q, "(SELECT %s FROM (SELECT splitByChar(' ', arrayJoin(splitByChar(',', '", columns);
}

void ldg_ch_list_item(struct ldg_ch_query *q, size_t index)
{
    if (index > 0)
        (void)ldg_buf_putc(&q->sql, ',');
}

void ldg_ch_list_field(struct ldg_ch_query *q, const char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (; *text != '\0'; text++) {
        const unsigned char byte = (unsigned char)*text;
        const char pair[2] = { digits[byte >> 4], digits[byte & 15] };

        (void)ldg_buf_append(&q->sql, pair, sizeof(pair));
    }
    (void)ldg_buf_putc(&q->sql, ' '); /* ends it: of an empty text nothing else is seen */
}

void ldg_ch_list_end(struct ldg_ch_query *q)
{
    (void)ldg_buf_puts(&q->sql, "'))) AS p))");
}

/* --- what comes ------------------------------------------------------------------------------ */

/* An answer that is no ClickHouse's own, of a proxy perhaps. */
static ledger_rc fail_status(const struct ldg_ch_query *q, ledger_error *err)
{
    const struct ldg_http_exchange *exchange = q->exchange;
    char excerpt[LDG_HTTP_EXCERPT_MAX];
    ledger_rc rc = LEDGER_ERR_SCHEMA;

    if (exchange->status == 401 || exchange->status == 403 || exchange->status == 407)
        rc = LEDGER_ERR_PERMISSION;
    else if (exchange->status == 408 || exchange->status == 429 || exchange->status >= 500)
        rc = LEDGER_ERR_CONNECT;
    ldg_http_excerpt(&exchange->answer, excerpt);
    return ldg_fail_native(err, rc, "clickhouse", exchange->status,
                           "%s: HTTP status %d%s%s; is this the address of a ClickHouse server's "
                           "HTTP interface (port 8123, with TLS 8443)?",
                           q->doing, exchange->status, excerpt[0] != '\0' ? ": " : "", excerpt);
}

/* The body first: a server that fails in the middle of an answer says so there, and breaks off. */
static ledger_rc judge(struct ldg_ch_query *q, ledger_error *err)
{
    const struct ldg_http_exchange *exchange = q->exchange;
    const ledger_bytes body = { exchange->answer.data, exchange->answer.size };
    const char *code = ldg_http_header(exchange, "X-ClickHouse-Exception-Code");
    struct ldg_ch_error error;
    int64_t number;

    if (ldg_ch_find_error(body, ldg_http_header(exchange, "X-ClickHouse-Exception-Tag"), &error))
        return ldg_ch_fail(q->doing, &error, err);
    if (exchange->trouble != LDG_HTTP_OK)
        return ldg_http_fail(q->ch->http, exchange, err);
    if (exchange->status == 200)
        return LEDGER_OK;
    if (code != NULL && ldg_int64_parse(code, false, &number) && number < INT32_MAX) {
        error = (struct ldg_ch_error){ (int)number, body };
        return ldg_ch_fail(q->doing, &error, err);
    }
    return fail_status(q, err);
}

static ledger_rc fail_text(const struct ldg_ch_query *q, ledger_error *err)
{
    const ledger_rc rc = q->sql.rc != LEDGER_OK ? q->sql.rc : q->url.rc;

    return rc == LEDGER_ERR_NOMEM
               ? ldg_fail_nomem(err)
               : ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%s: the statement is too large", q->doing);
}

/* The statement goes into the URL where rows fill the body. */
static void place_statement(struct ldg_ch_query *q)
{
    char size[32];

    if (q->data != NULL) {
        (void)ldg_buf_puts(&q->url, "&query=");
        for (size_t i = 0; i < q->sql.size; i++)
            put_encoded(&q->url, q->sql.data[i]);
    } else if (q->sql.size > SQL_PLAIN_BYTES) {
        (void)snprintf(size, sizeof(size), "%zu", 2 * q->sql.size);
        ldg_ch_setting(q, "max_query_size", size);
    }
}

ledger_rc ldg_ch_run(struct ldg_ch_query *q, ledger_error *err)
{
    const struct ldg_clickhouse *ch = q->ch;
    const char *const headers[] = { ch->user, ch->key, "Content-Encoding: zstd" };
    struct ldg_http_piece body = { q->sql.data, q->sql.size };
    struct ldg_http_request request = {
        .method = "POST",
        .headers = headers,
        .header_count = q->data != NULL ? 3 : 2,
        .body = &body,
        .body_count = 1,
        .answer_max = q->answer_max,
        .stall_ms = STALL_MS,
    };
    struct ldg_buf url;

    ldg_buf_init(&url, SIZE_MAX);
    if (q->data != NULL)
        body = (struct ldg_http_piece){ q->data->data, q->data->size };
    place_statement(q);
    q->rc = q->sql.rc != LEDGER_OK || q->url.rc != LEDGER_OK ? fail_text(q, err) : LEDGER_OK;
    if (q->rc == LEDGER_OK && (ldg_buf_puts(&url, ch->base) != LEDGER_OK ||
                               ldg_buf_append(&url, q->url.data, q->url.size) != LEDGER_OK))
        q->rc = ldg_fail_nomem(err);
    request.url = url.data;
    if (q->rc == LEDGER_OK)
        q->rc = ldg_http_run(ch->http, &request, &q->exchange, err);
    if (q->rc == LEDGER_OK)
        q->rc = judge(q, err);
    if (q->exchange != NULL)
        q->exchange->request = NULL; /* it was ours, and ends here */
    if (q->rc == LEDGER_OK) {
        const struct ldg_buf *answer = &q->exchange->answer;
        const uint8_t *start =
            answer->data != NULL ? (const uint8_t *)answer->data : (const uint8_t *)"";

        q->reader = (struct ldg_ch_reader){ .p = start, .end = start + answer->size };
    }
    ldg_buf_fini(&url);
    return q->rc;
}

bool ldg_ch_row(struct ldg_ch_query *q)
{
    return q->rc == LEDGER_OK && ldg_ch_read_row(&q->reader);
}

char *ldg_ch_copy(struct ldg_ch_query *q, struct ldg_arena *arena)
{
    const ledger_bytes bytes = ldg_ch_read_bytes(&q->reader);
    char *copy = ldg_arena_strndup(arena, bytes.data, bytes.size);

    if (copy == NULL && q->rc == LEDGER_OK)
        q->rc = LEDGER_ERR_NOMEM;
    return copy;
}

static void take_name(struct ldg_ch_query *q, ledger_names *names, size_t *cap)
{
    const ledger_bytes bytes = ldg_ch_read_bytes(&q->reader);
    char *name;

    if (names->count == *cap) {
        const size_t more = *cap == 0 ? 16 : *cap * 2;
        char **items = ldg_realloc(names->items, more * sizeof(*items));

        if (items == NULL) {
            q->rc = LEDGER_ERR_NOMEM;
            return;
        }
        names->items = items;
        *cap = more;
    }
    name = ldg_malloc(bytes.size + 1);
    if (name == NULL) {
        q->rc = LEDGER_ERR_NOMEM;
        return;
    }
    memcpy(name, bytes.data, bytes.size);
    name[bytes.size] = '\0';
    names->items[names->count++] = name;
}

ledger_rc ldg_ch_end_names(struct ldg_ch_query *q, ledger_names *ret_names, ledger_error *err)
{
    ledger_names names = { 0 };
    size_t cap = 0;
    ledger_rc rc;

    (void)!ldg_ch_run(q, err);
    while (ldg_ch_row(q))
        take_name(q, &names, &cap);
    rc = ldg_ch_end(q, err);
    if (rc == LEDGER_OK)
        *ret_names = names;
    else
        ledger_names_destroy(&names);
    return rc;
}

ledger_rc ldg_ch_end_count(struct ldg_ch_query *q, uint64_t *ret_count, ledger_error *err)
{
    uint64_t count = 0;
    ledger_rc rc;

    (void)!ldg_ch_run(q, err);
    if (ldg_ch_row(q))
        count = ldg_ch_read_u64(&q->reader);
    rc = ldg_ch_end(q, err);
    if (rc == LEDGER_OK)
        *ret_count = count;
    return rc;
}

void ldg_ch_take(struct ldg_ch_query *q, char *text, size_t size)
{
    const ledger_bytes bytes = ldg_ch_read_bytes(&q->reader);

    (void)snprintf(text, size, "%.*s", (int)(bytes.size < size ? bytes.size : size),
                   (const char *)bytes.data);
}

/* An answer that is none of ours may be an error that an old server wrote behind some rows. */
static ledger_rc fail_answer(const struct ldg_ch_query *q, ledger_error *err)
{
    const struct ldg_ch_reader *reader = &q->reader;
    const ledger_bytes rest = { reader->p, (size_t)(reader->end - reader->p) };
    struct ldg_ch_error error;

    if (ldg_ch_parse_error(rest, &error))
        return ldg_ch_fail(q->doing, &error, err);
    return ldg_fail_native(err, LEDGER_ERR_IO, "clickhouse", 0,
                           "%s: the server's answer is not whole, or not what was asked for",
                           q->doing);
}

ledger_rc ldg_ch_end(struct ldg_ch_query *q, ledger_error *err)
{
    ledger_rc rc = q->rc;

    if (rc == LEDGER_OK && q->reader.bad)
        rc = fail_answer(q, err);
    else if (rc == LEDGER_ERR_NOMEM)
        rc = ldg_fail_nomem(err);
    if (q->exchange != NULL)
        ldg_http_done(q->exchange);
    q->exchange = NULL;
    ldg_buf_fini(&q->url);
    ldg_buf_fini(&q->sql);
    return rc;
}

/* --- statements without an answer ------------------------------------------------------------ */

ledger_rc ldg_ch_exec(struct ldg_clickhouse *ch, const char *doing, ledger_error *err,
                      const char *fmt, ...)
{
    struct ldg_ch_query q;
    va_list args;

    ldg_ch_begin(&q, ch, doing);
    va_start(args, fmt);
    put_sql(&q, fmt, args);
    va_end(args);
    (void)!ldg_ch_run(&q, err);
    return ldg_ch_end(&q, err);
}

ledger_rc ldg_ch_insert(struct ldg_clickhouse *ch, const char *doing, const char *suffix,
                        const char *columns, uint64_t salt, ledger_error *err)
{
    struct ldg_ch_query q;
    char token[40];
    ledger_rc rc = ldg_ch_block_end(&ch->rows, err);

    if (rc == LEDGER_OK) {
        ldg_ch_begin(&q, ch, doing);
        q.data = &ch->rows.packed;
        ldg_ch_sql(&q, "INSERT INTO `%s%s` %s FORMAT RowBinary", ch->table, suffix, columns);
        ldg_ch_setting(&q, "async_insert", "0");
        ldg_ch_setting(&q, "insert_distributed_sync", "1");
        (void)snprintf(token, sizeof(token), "%016" PRIx64 "-%016" PRIx64, salt, ch->rows.hash);
        if (salt != 0)
            ldg_ch_setting(&q, "insert_deduplication_token", token);
        (void)!ldg_ch_run(&q, err);
        rc = ldg_ch_end(&q, err);
    }
    ldg_ch_block_reset(&ch->rows);
    return rc;
}

/* ClickHouse servers for tests: see clickhouse.h. */
#include "clickhouse.h"

#include "fixtures.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static struct tst_ch *shared;

/* --- what is here -----------------------------------------------------------------------------
 */

static const char *old_server(void)
{
    const char *named = getenv("LEDGER_TEST_CLICKHOUSE");
    return named != NULL && named[0] != '\0' ? named : "/usr/sbin/clickhouse-server";
}

static const char *python(void)
{
    return access("/usr/bin/python3", X_OK) == 0 ? "/usr/bin/python3" : "/usr/local/bin/python3";
}

bool tst_ch_here(enum tst_ch_kind kind, const char **ret_why)
{
    const char *why = "";
    char path[600];
    if (kind == TST_CH_OLD) {
        if (access(old_server(), X_OK) != 0)
            why = "Debian's clickhouse-server is not installed; ./dev deps test installs it";
    } else {
        snprintf(path, sizeof path, "%s/chdb/_chdb.abi3.so",
                 tst_partner_place("LEDGER_TEST_CHDB", "chdb-core"));
        if (access(path, R_OK) != 0 || access(python(), X_OK) != 0)
            why = "ClickHouse's engine (PyPI's chdb-core) is not here; ./dev deps test fetches it";
    }
    if (ret_why != NULL)
        *ret_why = why;
    return why[0] == '\0';
}

/* --- from birth to death -----------------------------------------------------------------------
 */

static void configure_old(struct tst_ch *ch)
{
    const char *dir = ch->partner->dir;
    char text[2000];
    ch->partner->port = tst_free_port();
    snprintf(text, sizeof text,
             "<yandex><logger><level>warning</level><console>1</console></logger>"
             "<http_port>%d</http_port><listen_host>127.0.0.1</listen_host><path>%s/data/</path>"
             "<tmp_path>%s/tmp/</tmp_path><user_files_path>%s/files/</user_files_path>"
             "<format_schema_path>%s/schemas/</format_schema_path>"
             "<users_config>users.xml</users_config><default_profile>default</default_profile>"
             "<default_database>default</default_database><timezone>UTC</timezone>"
             "<mark_cache_size>67108864</mark_cache_size></yandex>\n",
             ch->partner->port, dir, dir, dir, dir);
    tst_partner_put(ch->partner, "config.xml", text);
    snprintf(text, sizeof text,
             "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><%s>"
             "<password>%s</password><networks><ip>127.0.0.1</ip></networks>"
             "<profile>default</profile><quota>default</quota></%s></users></yandex>\n",
             ch->user, ch->password != NULL ? ch->password : "", ch->user);
    tst_partner_put(ch->partner, "users.xml", text);
}

struct tst_ch *tst_ch_start(enum tst_ch_kind kind, const struct tst_ch_options *options)
{
    static const struct tst_ch_options none = { 0 };
    const char *why;
    if (!tst_ch_here(kind, &why))
        tst_skip(why);
    struct tst_ch *ch = calloc(1, sizeof *ch);
    assert_non_null(ch);
    if (options == NULL)
        options = &none;
    ch->kind = kind;
    ch->user = options->user != NULL ? options->user : "default";
    ch->password = options->password;
    ch->certificate = options->certificate;
    ch->key = options->key;
    ch->record = options->record;
    ch->partner = tst_partner_make("clickhouse");
    if (kind == TST_CH_OLD)
        configure_old(ch);
    else
        tst_partner_put(ch->partner, "password", ch->password != NULL ? ch->password : "");
    tst_ch_run(ch);
    return ch;
}

struct tst_ch *tst_ch_shared(void)
{
    if (shared == NULL)
        shared = tst_ch_start(TST_CH_ENGINE, NULL);
    else if (shared->partner->pid == 0)
        tst_ch_run(shared);
    return shared;
}

void tst_ch_run(struct tst_ch *ch)
{
    const char *dir = ch->partner->dir;
    char script[600], config[300], password[300], port[16];
    const char *args[TST_PARTNER_ARGS_MAX] = { 0 };
    size_t count = 0;
    if (ch->kind == TST_CH_OLD) {
        snprintf(config, sizeof config, "--config-file=%s/config.xml", dir);
        tst_partner_run(ch->partner, (const char *[]){ old_server(), config, NULL });
        return;
    }
    snprintf(script, sizeof script, "%s/tests/support/clickhouse_front.py", tst_source_root());
    snprintf(password, sizeof password, "%s/password", dir);
    snprintf(port, sizeof port, "%d", ch->partner->port);
    assert_int_equal(
        setenv("LEDGER_TEST_CHDB", tst_partner_place("LEDGER_TEST_CHDB", "chdb-core"), 1), 0);
    args[count++] = python();
    args[count++] = script;
    args[count++] = dir;
    args[count++] = "--port";
    args[count++] = port;
    args[count++] = "--user";
    args[count++] = ch->user;
    args[count++] = "--password-file";
    args[count++] = password;
    if (ch->certificate != NULL) {
        args[count++] = "--certificate";
        args[count++] = ch->certificate;
        args[count++] = "--key";
        args[count++] = ch->key;
    }
    if (ch->record)
        args[count++] = "--record";
    tst_partner_run(ch->partner, args);
}

void tst_ch_stop(struct tst_ch *ch)
{
    tst_partner_stop(ch->partner, SIGTERM);
}

void tst_ch_kill(struct tst_ch *ch)
{
    tst_partner_stop(ch->partner, SIGKILL);
}

void tst_ch_destroy(struct tst_ch **ch)
{
    if (*ch == NULL)
        return;
    tst_partner_destroy(&(*ch)->partner);
    if (*ch == shared)
        shared = NULL;
    free(*ch);
    *ch = NULL;
}

/* --- asking ------------------------------------------------------------------------------------
 */

const char *tst_ch_url(const struct tst_ch *ch, const char *database, int port)
{
    static char urls[8][400];
    static size_t turn;
    char *url = urls[turn++ % 8];
    snprintf(url, sizeof urls[0], "clickhouse%s://%s%s%s@127.0.0.1:%d/%s",
             ch->certificate != NULL ? "s" : "", ch->user, ch->password != NULL ? ":" : "",
             ch->password != NULL ? ch->password : "", port != 0 ? port : ch->partner->port,
             database != NULL ? database : "default");
    return url;
}

const char *tst_ch_database(struct tst_ch *ch, const char *database)
{
    tst_ch_sql(ch, NULL, "CREATE DATABASE IF NOT EXISTS `%s`", database);
    return tst_ch_url(ch, database, 0);
}

struct text {
    char *data;
    size_t size;
};

static size_t keep(char *data, size_t one, size_t size, void *ctx)
{
    struct text *text = ctx;
    char *grown = realloc(text->data, text->size + size + 1);
    if (grown == NULL)
        return 0;
    memcpy(grown + text->size, data, size);
    text->data = grown;
    text->size += size;
    grown[text->size] = '\0';
    return size;
}

static char *ask(const struct tst_ch *ch, const char *database, const char *query)
{
    struct text text = { calloc(1, 1), 0 };
    CURL *curl = curl_easy_init();
    char url[300];
    long status = 0;
    CURLcode rc;
    assert_non_null(curl);
    assert_non_null(text.data);
    snprintf(url, sizeof url, "http%s://127.0.0.1:%d/?database=%s",
             ch->certificate != NULL ? "s" : "", ch->partner->port,
             database != NULL ? database : "default");
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(curl, CURLOPT_USERNAME, ch->user);
    curl_easy_setopt(curl, CURLOPT_PASSWORD, ch->password != NULL ? ch->password : "");
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, query);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &text);
    rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    if (rc != CURLE_OK || status != 200)
        tst_fail("%s\n%s, HTTP status %ld: %s", query, curl_easy_strerror(rc), status, text.data);
    if (text.size > 0 && text.data[text.size - 1] == '\n')
        text.data[text.size - 1] = '\0';
    return text.data;
}

LEDGER_PRINTF(3, 0)
static char *ask_with(const struct tst_ch *ch, const char *database, const char *fmt, va_list args)
{
    char *query, *answer;
    va_list again;
    int size;
    va_copy(again, args);
    size = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    query = malloc((size_t)size + 1);
    assert_non_null(query);
    vsnprintf(query, (size_t)size + 1, fmt, args);
    answer = ask(ch, database, query);
    free(query);
    return answer;
}

void tst_ch_sql(const struct tst_ch *ch, const char *database, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    free(ask_with(ch, database, fmt, args));
    va_end(args);
}

int64_t tst_ch_int(const struct tst_ch *ch, const char *database, const char *fmt, ...)
{
    char *answer, *end;
    int64_t value;
    va_list args;
    va_start(args, fmt);
    answer = ask_with(ch, database, fmt, args);
    va_end(args);
    value = strtoll(answer, &end, 10);
    if (end == answer || *end != '\0')
        tst_fail("%s: '%s' is no number", fmt, answer);
    free(answer);
    return value;
}

char *tst_ch_text(const struct tst_ch *ch, const char *database, const char *fmt, ...)
{
    char *answer;
    va_list args;
    va_start(args, fmt);
    answer = ask_with(ch, database, fmt, args);
    va_end(args);
    return answer;
}

/* --- the front's own ---------------------------------------------------------------------------
 */

void tst_ch_fault(const struct tst_ch *ch, const char *lines)
{
    assert_int_equal(ch->kind, TST_CH_ENGINE);
    tst_partner_put(ch->partner, "fault", lines);
}

static const char *held_path(const struct tst_ch *ch)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/held", ch->partner->dir);
    return path;
}

void tst_ch_await_held(const struct tst_ch *ch)
{
    TST_AWAIT(access(held_path(ch), F_OK) == 0);
}

void tst_ch_release(const struct tst_ch *ch)
{
    assert_int_equal(unlink(held_path(ch)), 0);
}

size_t tst_ch_requests(const struct tst_ch *ch, const char *text)
{
    char *all = tst_partner_get(ch->partner, "requests");
    size_t count = 0;
    for (char *line = all; line != NULL && *line != '\0';) {
        size_t size = strcspn(line, "\n");
        const char *found;
        if (line[size] == '\n')
            line[size++] = '\0';
        found = strstr(line, text);
        count += found != NULL;
        line += size;
    }
    free(all);
    return count;
}

/* The wrapped libpq: see pg_script.h. Each wrapper asks whether its turn has come, and calls the
 * real function in any case but TST_PQ_FAIL. */
#include "pg_script.h"

#include <libpq-fe.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum what { CONNECTS, SENDS, RECEIVES, RESULTS, OTHERS };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char function[40];
    char sqlstate[8];
    char hit_at[40];
    enum tst_pq_fault fault;
    uint64_t n, count;
    bool armed, hit;
} script;

void tst_pq_arm(const char *function, uint64_t n, enum tst_pq_fault fault, const char *sqlstate)
{
    (void)pthread_mutex_lock(&mutex);
    memset(&script, 0, sizeof script);
    snprintf(script.function, sizeof script.function, "%s", function != NULL ? function : "");
    snprintf(script.sqlstate, sizeof script.sqlstate, "%s", sqlstate != NULL ? sqlstate : "");
    script.n = n;
    script.fault = fault;
    script.armed = true;
    (void)pthread_mutex_unlock(&mutex);
}

void tst_pq_disarm(void)
{
    (void)pthread_mutex_lock(&mutex);
    script.armed = false;
    (void)pthread_mutex_unlock(&mutex);
}

bool tst_pq_hit(void)
{
    bool hit;
    (void)pthread_mutex_lock(&mutex);
    hit = script.hit;
    (void)pthread_mutex_unlock(&mutex);
    return hit;
}

const char *tst_pq_hit_at(void)
{
    return script.hit_at;
}

uint64_t tst_pq_count(void)
{
    uint64_t count;
    (void)pthread_mutex_lock(&mutex);
    count = script.count;
    (void)pthread_mutex_unlock(&mutex);
    return count;
}

static bool applies(enum tst_pq_fault fault, enum what what)
{
    switch (fault) {
    case TST_PQ_STATUS:
        return what == RESULTS;
    case TST_PQ_SQLSTATE:
        return what == SENDS;
    case TST_PQ_CUT:
    case TST_PQ_CUT_AFTER: /* a result is taken from what has been read: noticed by the next read */
        return what == SENDS || what == RECEIVES;
    default:
        return true;
    }
}

/* Has the turn of this call come? */
static bool due(const char *function, enum what what, enum tst_pq_fault *ret_fault,
                char sqlstate[8])
{
    bool is_due = false;
    (void)pthread_mutex_lock(&mutex);
    if (script.armed && (script.function[0] == '\0' || strcmp(script.function, function) == 0) &&
        applies(script.fault, what)) {
        is_due = ++script.count == script.n;
        if (is_due) {
            script.armed = false;
            script.hit = true;
            snprintf(script.hit_at, sizeof script.hit_at, "%s", function);
            *ret_fault = script.fault;
            memcpy(sqlstate, script.sqlstate, sizeof script.sqlstate);
        }
    }
    (void)pthread_mutex_unlock(&mutex);
    return is_due;
}

int __real_PQflush(PGconn *conn);
int __real_PQconsumeInput(PGconn *conn);

static void cut(PGconn *conn)
{
    if (PQsocket(conn) >= 0)
        (void)shutdown(PQsocket(conn), SHUT_RDWR);
}

/* The server gets the whole request, and time to carry it out. */
static void cut_after_request(PGconn *conn)
{
    struct pollfd fd = { .fd = PQsocket(conn), .events = POLLIN };
    for (int i = 0; i < 1000 && __real_PQflush(conn) > 0; i++) {
        struct pollfd out = { .fd = PQsocket(conn), .events = POLLOUT };
        (void)poll(&out, 1, 10);
    }
    (void)poll(&fd, 1, 20); /* the answer is there, unread; in a pipeline there may be none */
    cut(conn);
}

#define DO_RAISE "DO $$ BEGIN RAISE EXCEPTION 'by script' USING ERRCODE = '%s'; END $$"

int __real_PQsendQuery(PGconn *conn, const char *text);

/* A request goes wrong: true, with what the call returns. */
static bool request(const char *function, PGconn *conn, int (*again)(void *ctx), void *ctx,
                    int *ret_value)
{
    enum tst_pq_fault fault;
    char sqlstate[8], text[160];
    if (!due(function, SENDS, &fault, sqlstate))
        return false;
    switch (fault) {
    case TST_PQ_CUT:
        cut(conn);
        *ret_value = again(ctx);
        break;
    case TST_PQ_CUT_AFTER:
        *ret_value = again(ctx);
        cut_after_request(conn);
        break;
    case TST_PQ_SQLSTATE:
        snprintf(text, sizeof text, DO_RAISE, sqlstate);
        *ret_value = PQsendQueryParams(conn, text, 0, NULL, NULL, NULL, NULL, 0);
        break;
    default:
        *ret_value = 0;
        break;
    }
    return true;
}

/* PQsendQueryParams above is our own wrapper, which is not due twice. */

struct query {
    PGconn *conn;
    const char *text;
    int count, format;
    const Oid *types;
    const char *const *values;
    const int *lengths, *formats;
};

#define WRAP_SEND(name, parameters, fill, call)                                                    \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    static int again_##name(void *ctx)                                                             \
    {                                                                                              \
        struct query *q = ctx;                                                                     \
        return __real_##name call;                                                                 \
    }                                                                                              \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        struct query q = fill;                                                                     \
        int value;                                                                                 \
        return request(#name, conn, again_##name, &q, &value) ? value : again_##name(&q);          \
    }

#define Q(...)                                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
WRAP_SEND(PQsendQuery, (PGconn * conn, const char *text), Q(.conn = conn, .text = text),
          (q->conn, q->text))
WRAP_SEND(PQsendQueryParams,
          (PGconn * conn, const char *text, int count, const Oid *types, const char *const *values,
           const int *lengths, const int *formats, int format),
          Q(conn, text, count, format, types, values, lengths, formats),
          (q->conn, q->text, q->count, q->types, q->values, q->lengths, q->formats, q->format))
WRAP_SEND(PQsendQueryPrepared,
          (PGconn * conn, const char *name, int count, const char *const *values,
           const int *lengths, const int *formats, int format),
          Q(conn, name, count, format, NULL, values, lengths, formats),
          (q->conn, q->text, q->count, q->values, q->lengths, q->formats, q->format))

/* A call with a connection that returns a number: `failed` when it goes wrong. */
#define WRAP_INT(name, what, failed, parameters, arguments)                                        \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        enum tst_pq_fault fault;                                                                   \
        char sqlstate[8];                                                                          \
        int value;                                                                                 \
        if (!due(#name, what, &fault, sqlstate))                                                   \
            return __real_##name arguments;                                                        \
        if (fault == TST_PQ_CUT)                                                                   \
            cut(conn);                                                                             \
        else if (fault == TST_PQ_FAIL)                                                             \
            return failed;                                                                         \
        value = __real_##name arguments;                                                           \
        if (fault == TST_PQ_CUT_AFTER)                                                             \
            cut_after_request(conn);                                                               \
        return value;                                                                              \
    }

/* These are no statements, so they cannot become one that fails. */
WRAP_INT(PQsendPrepare, RECEIVES, 0,
         (PGconn * conn, const char *name, const char *text, int count, const Oid *types),
         (conn, name, text, count, types))
WRAP_INT(PQpipelineSync, RECEIVES, 0, (PGconn * conn), (conn))
WRAP_INT(PQconsumeInput, RECEIVES, 0, (PGconn * conn), (conn))
WRAP_INT(PQflush, RECEIVES, -1, (PGconn * conn), (conn))
WRAP_INT(PQputCopyData, RECEIVES, -1, (PGconn * conn, const char *data, int size),
         (conn, data, size))
WRAP_INT(PQputCopyEnd, RECEIVES, -1, (PGconn * conn, const char *why), (conn, why))
WRAP_INT(PQenterPipelineMode, OTHERS, 0, (PGconn * conn), (conn))
WRAP_INT(PQexitPipelineMode, OTHERS, 0, (PGconn * conn), (conn))
WRAP_INT(PQsetnonblocking, OTHERS, -1, (PGconn * conn, int on), (conn, on))

PGresult *__real_PQgetResult(PGconn *conn);
PGresult *__wrap_PQgetResult(PGconn *conn);
PGresult *__wrap_PQgetResult(PGconn *conn)
{
    enum tst_pq_fault fault;
    char sqlstate[8];
    PGresult *result;
    if (!due("PQgetResult", RESULTS, &fault, sqlstate))
        return __real_PQgetResult(conn);
    result = __real_PQgetResult(conn);
    if (result != NULL) { /* FAIL or STATUS */
        PQclear(result);
        result =
            PQmakeEmptyPGresult(conn, fault == TST_PQ_FAIL ? PGRES_FATAL_ERROR : PGRES_EMPTY_QUERY);
    }
    return result;
}

PGconn *__real_PQconnectStartParams(const char *const *keys, const char *const *values, int expand);
PGconn *__wrap_PQconnectStartParams(const char *const *keys, const char *const *values, int expand);
PGconn *__wrap_PQconnectStartParams(const char *const *keys, const char *const *values, int expand)
{
    enum tst_pq_fault fault;
    char sqlstate[8];
    if (due("PQconnectStartParams", CONNECTS, &fault, sqlstate))
        return NULL;
    return __real_PQconnectStartParams(keys, values, expand);
}

PostgresPollingStatusType __real_PQconnectPoll(PGconn *conn);
PostgresPollingStatusType __wrap_PQconnectPoll(PGconn *conn);
PostgresPollingStatusType __wrap_PQconnectPoll(PGconn *conn)
{
    enum tst_pq_fault fault;
    char sqlstate[8];
    PostgresPollingStatusType status;
    bool is_due = due("PQconnectPoll", RECEIVES, &fault, sqlstate);
    if (is_due && fault == TST_PQ_FAIL)
        return PGRES_POLLING_FAILED;
    if (is_due && fault == TST_PQ_CUT)
        cut(conn);
    status = __real_PQconnectPoll(conn);
    if (is_due && fault == TST_PQ_CUT_AFTER)
        cut(conn);
    return status;
}

PQconninfoOption *__real_PQconninfo(PGconn *conn);
PQconninfoOption *__wrap_PQconninfo(PGconn *conn);
PQconninfoOption *__wrap_PQconninfo(PGconn *conn)
{
    enum tst_pq_fault fault;
    char sqlstate[8];
    return due("PQconninfo", OTHERS, &fault, sqlstate) ? NULL : __real_PQconninfo(conn);
}

PQconninfoOption *__real_PQconninfoParse(const char *text, char **message);
PQconninfoOption *__wrap_PQconninfoParse(const char *text, char **message);
PQconninfoOption *__wrap_PQconninfoParse(const char *text, char **message)
{
    enum tst_pq_fault fault;
    char sqlstate[8];
    if (!due("PQconninfoParse", OTHERS, &fault, sqlstate))
        return __real_PQconninfoParse(text, message);
    if (message != NULL)
        *message = NULL; /* as documented for want of memory */
    return NULL;
}

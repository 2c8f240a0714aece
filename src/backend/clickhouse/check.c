/* Findings about a store: what is missing, what will be in the way, what this database cannot do.
 *
 * Hides nothing; changes nothing. */
#include "backend/clickhouse/schema.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct findings {
    struct ldg_clickhouse *ch;
    ledger_finding_fn fn;
    void *ctx;
};

static void say(const struct findings *f, ledger_severity severity, const char *subject,
                const char *fmt, ...) LEDGER_PRINTF(4, 5);
static void say(const struct findings *f, ledger_severity severity, const char *subject,
                const char *fmt, ...)
{
    char text[LEDGER_ERROR_MESSAGE_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    f->fn(f->ctx, severity, subject, text);
}

static void check_tables(const struct findings *f, const struct ldg_ch_shape shapes[LDG_CH_TABLES])
{
    for (int i = 0; i < LDG_CH_TABLES; i++) {
        const struct ldg_ch_shape *shape = &shapes[i];
        const bool is_view = i == LDG_CH_CURRENT;
        char name[LEDGER_MAX_TABLE_BYTES + 16];

        (void)snprintf(name, sizeof(name), "%s%s", f->ch->table, ldg_ch_suffixes[i]);
        if (!shape->is_there)
            say(f, is_view ? LEDGER_FINDING_WARNING : LEDGER_FINDING_ERROR, name,
                "is missing, or this user may not see it; `ledgerctl store init` makes it");
        else if (shape->fault[0] != '\0')
            say(f, LEDGER_FINDING_ERROR, name, "%s", shape->fault);
        else if (ldg_ch_shape_is_distributed(shape))
            say(f, LEDGER_FINDING_WARNING, name,
                "is Distributed, and the tables behind it are not looked at: each has to be of the "
                "Replacing family, and the sharding key has to keep all rows of an entry together, "
                "as cityHash64(stream) does");
        else
            say(f, LEDGER_FINDING_OK, name, "%s", is_view ? "is there" : shape->engine);
    }
}

/* The engine argument that takes what was trimmed away when rows are merged. */
static void check_deleted(const struct findings *f, const struct ldg_ch_shape *shape)
{
    if (shape->is_there && shape->fault[0] == '\0' && !ldg_ch_shape_is_distributed(shape) &&
        strstr(shape->full, "version, is_deleted") == NULL)
        say(f, LEDGER_FINDING_WARNING, f->ch->table,
            "its engine does not name is_deleted, so queries with FINAL give trimmed entries, too, "
            "unless they ask for is_deleted = 0; %s_current does",
            f->ch->table);
}

/* A batch reads what the last one has written: on several replicas only with a quorum. */
static ledger_rc check_replicas(const struct findings *f, ledger_error *err)
{
    struct ldg_ch_query q;
    uint64_t replicas = 0;
    bool is_sequential = false;
    ledger_rc rc;

    ldg_ch_begin(&q, f->ch, "looking at the replicas");
    ldg_ch_sql(&q, "SELECT toUInt8(1), toUInt64((SELECT max(total_replicas) FROM system.replicas "
                   "WHERE database = currentDatabase() AND table = {t:String})), "
                   "(SELECT max(value) FROM system.settings "
                   "WHERE name = 'select_sequential_consistency') FORMAT RowBinary");
    ldg_ch_bind(&q, "t", f->ch->table);
    (void)!ldg_ch_run(&q, err);
    if (ldg_ch_row(&q)) {
        replicas = ldg_ch_read_u64(&q.reader);
        is_sequential = ldg_ch_read_bytes(&q.reader).size == 1;
    }
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK && replicas > 1)
        say(f, is_sequential ? LEDGER_FINDING_OK : LEDGER_FINDING_WARNING, f->ch->table,
            "%" PRIu64 " replicas%s", replicas,
            is_sequential
                ? ""
                : ": name one of them in the URL, not a balancer, or add ?quorum=auto, so "
                  "that what was written is seen");
    return rc;
}

static void check_limits(const struct findings *f)
{
    say(f, LEDGER_FINDING_WARNING, f->ch->table,
        "dedup keys are not enforced across origins: two sources that use one key in a stream both "
        "keep their entry");
    say(f, LEDGER_FINDING_WARNING, f->ch->table,
        "no mutation log: this store is a bridge's sink, and cannot be its source");
}

ledger_rc ldg_ch_check(void *ctx, ledger_finding_fn fn, void *fn_ctx, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const struct findings f = { ch, fn, fn_ctx };
    struct ldg_ch_shape *shapes = ldg_calloc(LDG_CH_TABLES, sizeof(*shapes));
    char version[64];
    ledger_rc rc = shapes != NULL ? ldg_ch_shapes(ch, shapes, version, err) : ldg_fail_nomem(err);

    if (rc == LEDGER_OK) {
        say(&f, LEDGER_FINDING_OK, ch->database, "ClickHouse %s", version);
        check_tables(&f, shapes);
        check_deleted(&f, &shapes[LDG_CH_ENTRIES]);
        check_limits(&f);
        if (strncmp(shapes[LDG_CH_ENTRIES].engine, "Replicated", strlen("Replicated")) == 0)
            rc = check_replicas(&f, err);
    }
    ldg_free(shapes);
    return rc;
}

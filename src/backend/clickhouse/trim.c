/* Trims: what is here of a stream, up to an entry, is replaced by rows that say that it is gone.
 *
 * Hides the statement: one INSERT … SELECT for all trims of a range, made on the server, so that no
 * entry has to come here to be deleted. Invariants: what the source still has stays; nothing is
 * mutated, so a trim is as cheap and as repeatable as any insert. */
#include "backend/clickhouse/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Where the entries begin that a trim may reach. */
static const char *low_of(const struct ldg_ch_batch *b, const struct ldg_op *op)
{
    const char *low = op->key.text != NULL ? ":" : "0"; /* keys of its kind */
    const char *known = ldg_ch_trimmed_to(b->ch, op->origin, op->stream);

    return known != NULL && known[0] != '\0' && (known[0] == ':') == (low[0] == ':') ? known : low;
}

/* Between these two keys lies all that the trims reach. */
static void bind_range(struct ldg_ch_query *q, const struct ldg_ch_batch *b)
{
    char key[LDG_CH_KEY_MAX], highest[LDG_CH_KEY_MAX] = "";
    const char *lowest = NULL;

    for (size_t i = b->s.first; i < b->s.end; i++) {
        const char *low;

        if (!ldg_sink_trims(&b->s, i))
            continue;
        low = low_of(b, &b->ops[i]);
        if (lowest == NULL || strcmp(low, lowest) < 0)
            lowest = low;
        ldg_ch_key(b->ops[i].key, key);
        if (strcmp(key, highest) > 0)
            memcpy(highest, key, sizeof(highest));
    }
    ldg_ch_bind(q, "low", lowest != NULL ? lowest : "");
    ldg_ch_bind(q, "high", highest);
}

/* The trims of the range, as a table. */
static void put_trims(struct ldg_ch_query *q, const struct ldg_ch_batch *b)
{
    /* clang-format off */
    static const char columns[] =
        "unhex(p[1]) AS stream, unhex(p[2]) AS origin, unhex(p[3]) AS low, unhex(p[4]) AS high, "
        "toInt64(unhex(p[5])) AS position, toUInt32(unhex(p[6])) AS n";
    /* clang-format on */
    size_t count = 0;

    ldg_ch_list_begin(q, columns);
    for (size_t i = b->s.first; i < b->s.end; i++) {
        const struct ldg_op *op = &b->ops[i];
        const struct ldg_ch_origin *origin = ldg_ch_origin_of(b->ch, op->origin);
        char key[LDG_CH_KEY_MAX], number[24];

        if (!ldg_sink_trims(&b->s, i))
            continue;
        ldg_ch_key(op->key, key);
        ldg_ch_list_item(q, count++);
        ldg_ch_list_field(q, op->stream);
        ldg_ch_list_field(q, origin != NULL ? origin->text : "-");
        ldg_ch_list_field(q, low_of(b, op));
        ldg_ch_list_field(q, key[0] != '\0' ? key : "-");
        (void)snprintf(number, sizeof(number), "%" PRId64, op->position);
        ldg_ch_list_field(q, number);
        (void)snprintf(number, sizeof(number), "%zu", i);
        ldg_ch_list_field(q, number);
    }
    ldg_ch_list_end(q);
}

/* What the source still has, by trim. false: there is none. */
static bool put_kept(struct ldg_ch_query *q, const struct ldg_ch_batch *b)
{
    size_t count = 0;

    for (size_t i = b->s.first; i < b->s.end; i++) {
        for (size_t k = 0; ldg_sink_trims(&b->s, i) && k < b->ops[i].survivor_count; k++) {
            char key[LDG_CH_KEY_MAX], number[24];

            if (count == 0)
                ldg_ch_list_begin(q, "toUInt32(unhex(p[1])), unhex(p[2])");
            (void)snprintf(number, sizeof(number), "%zu", i);
            ldg_ch_key(b->ops[i].survivors[k], key);
            ldg_ch_list_item(q, count++);
            ldg_ch_list_field(q, number);
            ldg_ch_list_field(q, key);
        }
    }
    if (count > 0)
        ldg_ch_list_end(q);
    return count > 0;
}

/* What the trims reach that is here: e, a row; r, the trim. */
static void put_reached(struct ldg_ch_query *q, const struct ldg_ch_batch *b)
{
    /* clang-format off */
    static const char rows[] =
        "FROM (SELECT stream, origin, entry_key, id, schema_version, source_id, created_at, "
            "updated_at, version, appended_position, tags_position, annotations_position, "
            "trimmed_position, foreign_positions FROM `%s` FINAL "
            "PREWHERE entry_key >= {low:String} AND entry_key <= {high:String} "
            "AND (stream, origin) GLOBAL IN (SELECT stream, origin FROM ";
    /* clang-format on */
    size_t bare;

    bind_range(q, b);
    ldg_ch_sql(q, rows, b->ch->table);
    put_trims(q, b);
    ldg_ch_sql(q, ") WHERE is_deleted = 0) AS e GLOBAL INNER JOIN ");
    put_trims(q, b);
    ldg_ch_sql(q, " AS r ON e.stream = r.stream AND e.origin = r.origin "
                  "WHERE e.entry_key >= r.low AND e.entry_key <= r.high");
    bare = q->sql.size;
    ldg_ch_sql(q, " AND (r.n, e.entry_key) GLOBAL NOT IN ");
    if (!put_kept(q, b))
        q->sql.size = bare;
}

/* How many rows the server says that it has written; it may be a server that does not. */
static bool has_written(const struct ldg_ch_query *q)
{
    const char *summary = ldg_http_header(q->exchange, "X-ClickHouse-Summary");

    return summary == NULL || strstr(summary, "\"written_rows\":") == NULL ||
           (strstr(summary, "\"written_rows\":\"0\"") == NULL &&
            strstr(summary, "\"written_rows\": \"0\"") == NULL);
}

/* *ret_any: it found something. A trim that comes again does not, unless another one beside it
 * does.
 */
static ledger_rc write_reached(struct ldg_ch_batch *b, bool *ret_any, ledger_error *err)
{
    static const char insert[] =
        "INSERT INTO `%s` (" LDG_CH_ROW_COLUMNS ") SELECT " LDG_CH_ROW_BURIED " ";
    struct ldg_ch_query q;

    ldg_ch_begin(&q, b->ch, "trimming streams");
    ldg_ch_sql(&q, insert, b->ch->table);
    put_reached(&q, b);
    ldg_ch_setting(&q, "insert_distributed_sync", "1");
    ldg_ch_setting(&q, "insert_deduplicate", "0");
    if (ldg_ch_run(&q, err) == LEDGER_OK)
        *ret_any = has_written(&q);
    return ldg_ch_end(&q, err);
}

static ledger_rc trim_parked(struct ldg_ch_batch *b, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;

    for (size_t i = b->s.first; rc == LEDGER_OK && i < b->s.end; i++) {
        bool any = false;

        if (!ldg_sink_trims(&b->s, i) || b->ops[i].origin <= 0)
            continue;
        rc = ldg_ch_parked_trim(b, &b->ops[i], &any, err);
        for (size_t k = 0; k < b->park_count; k++) { /* of ranges before this one */
            struct ldg_ch_park *park = &b->parks[k];

            if (park->op->origin == b->ops[i].origin && !ldg_id_is_none(park->op->key) &&
                strcmp(ldg_or_empty(park->op->stream), b->ops[i].stream) == 0 &&
                ldg_op_trims(&b->ops[i], park->op->key))
                park->is_gone = any = true;
        }
        if (rc == LEDGER_OK)
            ldg_sink_trimmed(&b->s, i, 0, any);
    }
    return rc;
}

ledger_rc ldg_ch_trim(struct ldg_ch_batch *b, ledger_error *err)
{
    bool any = false;
    ledger_rc rc = write_reached(b, &any, err);

    for (size_t i = b->s.first; rc == LEDGER_OK && i < b->s.end; i++) {
        if (ldg_sink_trims(&b->s, i))
            ldg_sink_trimmed(&b->s, i, any, false);
    }
    return rc == LEDGER_OK && b->s.parked_any ? trim_parked(b, err) : rc;
}

/* What verification reads: all entries of an origin, in order of their ids there.
 *
 * The table is ordered by stream, so that order costs a look at all of it; it is looked at for many
 * pages at once, by the small columns, and the rows of a page are found by their keys. Invariants:
 * no more than AHEAD_ROWS keys and one page stand in memory; what vanishes between the two looks is
 * left out, as if it had been gone before. */
#include "backend/clickhouse/clickhouse.h"

#include <string.h>

#define AHEAD_ROWS 50000
#define OF_ROWS 1000 /* keys that are looked for in one go */

static const char reading[] = "reading entries for a comparison";

/* Entries of a store's own, and what Go left, are in no table that we take. */
static bool has_rows(int origin)
{
    return origin > 0;
}

/* --- keys ------------------------------------------------------------------------------------ */

static ledger_rc take_keys(struct ldg_ch_query *q, struct ldg_arena *arena,
                           struct ldg_ch_ahead_key **ret_keys, size_t *ret_count, ledger_error *err)
{
    struct ldg_ch_ahead_key *keys = NULL;
    size_t count = 0, cap = 0;
    ledger_rc rc;

    (void)!ldg_ch_run(q, err);
    while (ldg_ch_row(q)) {
        keys = ldg_arena_grow(arena, keys, sizeof(*keys), count, &cap);
        if (keys == NULL) {
            q->rc = LEDGER_ERR_NOMEM;
            break;
        }
        keys[count].stream = ldg_ch_copy(q, arena);
        keys[count++].key = ldg_ch_copy(q, arena);
    }
    rc = ldg_ch_end(q, err);
    if (rc == LEDGER_OK) {
        *ret_keys = keys;
        *ret_count = count;
    }
    return rc;
}

static ledger_rc look_ahead(struct ldg_clickhouse *ch, int origin, ledger_id after,
                            ledger_error *err)
{
    struct ldg_ch_ahead *ahead = &ch->ahead;
    const struct ldg_ch_origin *known;
    char key[LDG_CH_KEY_MAX];
    struct ldg_id_own from = { 0 }; /* after may be the one that is there */
    struct ldg_ch_query q;
    ledger_rc rc = ldg_ch_origin_find(ch, origin, &known, err);

    ldg_id_own_set(&from, after);
    ldg_arena_reset(&ahead->arena);
    ahead->count = ahead->next = 0;
    ahead->is_set = false;
    if (rc != LEDGER_OK)
        return rc;
    ldg_ch_key(from.id, key);
    ldg_ch_begin(&q, ch, reading);
    q.answer_max = LDG_CH_ANSWER_ANY;
    ldg_ch_sql(&q,
               "SELECT toUInt8(1), stream, entry_key FROM `%s` FINAL WHERE is_deleted = 0 AND "
               "origin = {o:String} AND entry_key > {k:String} ORDER BY entry_key LIMIT %d "
               "FORMAT RowBinary",
               ch->table, AHEAD_ROWS);
    ldg_ch_bind(&q, "o", known->text);
    ldg_ch_bind(&q, "k", key);
    rc = take_keys(&q, &ahead->arena, &ahead->keys, &ahead->count, err);
    if (rc == LEDGER_OK) {
        ahead->origin = origin;
        ldg_id_own_set(&ahead->from, from.id);
        ahead->is_last = ahead->count < AHEAD_ROWS;
        ahead->is_set = true;
    }
    return rc;
}

/* --- rows of keys ---------------------------------------------------------------------------- */

/* source_id is the id as the origin writes it. */
static ledger_rc take_row(struct ldg_ch_query *q, struct ldg_arena *arena,
                          struct ldg_history_row *row, ledger_error *err)
{
    ledger_entry *entry = ldg_arena_calloc(arena, 1, sizeof(*entry));

    if (entry == NULL)
        return q->rc = LEDGER_ERR_NOMEM;
    ldg_ch_take_entry(q, arena, true, entry, err);
    *row = (struct ldg_history_row){ .entry = entry };
    if (q->rc == LEDGER_OK && !q->reader.bad && !ldg_id_parse(entry->source_id, &row->key))
        q->rc = ldg_fail_native(err, LEDGER_ERR_DATA, "clickhouse", 0,
                                "entry %.64s of table \"%s\": source_id cannot be read",
                                entry->id.text, q->ch->table);
    return q->rc;
}

static ledger_rc read_rows(struct ldg_clickhouse *ch, const struct ldg_ch_origin *origin,
                           const struct ldg_ch_ahead_key *keys, size_t key_count, size_t max_bytes,
                           struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                           size_t *ret_count, ledger_error *err)
{
    struct ldg_history_row *rows = ldg_arena_calloc(arena, key_count, sizeof(*rows));
    struct ldg_ch_query q;
    size_t count = 0;
    ledger_rc rc;

    if (rows == NULL)
        return ldg_fail_nomem(err);
    ldg_ch_begin(&q, ch, reading);
    ldg_ch_page_begin(&q, "entry_key", max_bytes);
    ldg_ch_list_begin(&q, "unhex(p[1]), {o:String}, unhex(p[2])");
    for (size_t i = 0; i < key_count; i++) {
        ldg_ch_list_item(&q, i);
        ldg_ch_list_field(&q, keys[i].stream);
        ldg_ch_list_field(&q, keys[i].key);
    }
    ldg_ch_list_end(&q);
    ldg_ch_page_end(&q, "entry_key");
    ldg_ch_bind(&q, "o", origin->text);
    (void)!ldg_ch_run(&q, err);
    while (count < key_count && ldg_ch_row(&q) &&
           take_row(&q, arena, &rows[count], err) == LEDGER_OK)
        count++;
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK) {
        *ret_rows = rows;
        *ret_count = count;
    }
    return rc;
}

/* How many keys the rows answer for: up to the last one, or all where there is none. */
static size_t answered(const struct ldg_ch_ahead_key *keys, size_t key_count,
                       const struct ldg_history_row *rows, size_t count)
{
    char last[LDG_CH_KEY_MAX];
    size_t n = 0;

    if (count == 0)
        return key_count;
    ldg_ch_key(rows[count - 1].key, last);
    while (n < key_count && strcmp(keys[n].key, last) <= 0)
        n++;
    return n;
}

/* --- the callbacks --------------------------------------------------------------------------- */

/* A run from the beginning is a new one: the last may have found nothing where rows are now. */
static bool is_ahead_of(const struct ldg_ch_ahead *ahead, int origin, ledger_id after)
{
    return ahead->is_set && ahead->origin == origin && !ldg_id_is_none(after) &&
           ldg_id_equal(ahead->from.id, after);
}

ledger_rc ldg_ch_history(void *ctx, int origin, ledger_id after, size_t limit, size_t max_bytes,
                         struct ldg_arena *arena, struct ldg_history_row **ret_rows,
                         size_t *ret_count, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_ahead *ahead = &ch->ahead;
    const struct ldg_ch_origin *known;
    struct ldg_history_row *rows = NULL;
    size_t count = 0;
    ledger_rc rc = LEDGER_OK;

    if (has_rows(origin) && !is_ahead_of(ahead, origin, after))
        rc = look_ahead(ch, origin, after, err);
    while (rc == LEDGER_OK && has_rows(origin) && count == 0) {
        const size_t left = ahead->count - ahead->next, n = left < limit ? left : limit;
        const struct ldg_ch_ahead_key *keys = ahead->keys + ahead->next;

        if (left == 0 && ahead->is_last)
            break;
        if (left == 0) {
            rc = look_ahead(ch, origin, ahead->from.id, err);
            continue;
        }
        rc = ldg_ch_origin_find(ch, origin, &known, err);
        if (rc == LEDGER_OK)
            rc = read_rows(ch, known, keys, n, max_bytes, arena, &rows, &count, err);
        if (rc == LEDGER_OK) {
            ledger_id last;

            ahead->next += answered(keys, n, rows, count);
            if (ldg_ch_key_parse(ahead->keys[ahead->next - 1].key, &last))
                ldg_id_own_set(&ahead->from, count > 0 ? rows[count - 1].key : last);
        }
    }
    if (rc != LEDGER_OK) {
        ahead->is_set = false;
        return rc;
    }
    *ret_rows = rows;
    *ret_count = count;
    return LEDGER_OK;
}

/* Those of the ids that are here, with their streams. */
static ledger_rc find_keys(struct ldg_clickhouse *ch, const struct ldg_ch_origin *origin,
                           const ledger_id *ids, size_t count, struct ldg_ch_ahead_key **ret_keys,
                           size_t *ret_count, ledger_error *err)
{
    struct ldg_ch_query q;

    ldg_ch_begin(&q, ch, reading);
    ldg_ch_sql(&q,
               "SELECT toUInt8(1), stream, entry_key FROM `%s` FINAL WHERE is_deleted = 0 AND "
               "origin = {o:String} AND entry_key GLOBAL IN ",
               ch->table);
    ldg_ch_list_begin(&q, "unhex(p[1])");
    for (size_t i = 0; i < count; i++) {
        char key[LDG_CH_KEY_MAX];

        ldg_ch_key(ids[i], key);
        ldg_ch_list_item(&q, i);
        ldg_ch_list_field(&q, key);
    }
    ldg_ch_list_end(&q);
    ldg_ch_sql(&q, " ORDER BY entry_key FORMAT RowBinary");
    ldg_ch_bind(&q, "o", origin->text);
    return take_keys(&q, &ch->scratch, ret_keys, ret_count, err);
}

ledger_rc ldg_ch_history_of(void *ctx, int origin, const ledger_id *keys, size_t count,
                            size_t max_bytes, struct ldg_arena *arena,
                            struct ldg_history_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const struct ldg_ch_origin *known = NULL;
    struct ldg_history_row *rows = NULL;
    size_t row_count = 0;
    ledger_rc rc = has_rows(origin) ? ldg_ch_origin_find(ch, origin, &known, err) : LEDGER_OK;

    for (size_t at = 0; rc == LEDGER_OK && known != NULL && row_count == 0 && at < count;
         at += OF_ROWS) {
        const size_t n = count - at < OF_ROWS ? count - at : OF_ROWS;
        struct ldg_ch_ahead_key *found = NULL;
        size_t found_count = 0;

        ldg_arena_reset(&ch->scratch);
        rc = find_keys(ch, known, keys + at, n, &found, &found_count, err);
        if (rc == LEDGER_OK && found_count > 0)
            rc = read_rows(ch, known, found, found_count, max_bytes, arena, &rows, &row_count, err);
    }
    if (rc == LEDGER_OK) {
        *ret_rows = rows;
        *ret_count = row_count;
    }
    return rc;
}

/* There are no snapshots of several queries. Cursor and rows only move forward, so rows that are
 * read after the cursor hold at least what it stands for. A bridge that changes an entry between
 * the two looks may make it differ for this once; the next run does not find that. */
ledger_rc ldg_ch_snapshot_begin(void *ctx, ledger_error *err)
{
    return LEDGER_OK;
}

void ldg_ch_snapshot_end(void *ctx)
{
}

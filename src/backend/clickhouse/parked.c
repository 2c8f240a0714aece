/* Parked events: kept aside with their reason until somebody retries or drops them.
 *
 * A row stands for one op, by its place: source, log position and entry. It goes by a row that says
 * so. Invariant: what is parked is written before the cursor passes it, and a row goes
 * only after what it stands for was written. */
#include "backend/clickhouse/apply.h"

#include <inttypes.h>
#include <string.h>

static const char looking[] = "looking for parked events";

/* --- rows ------------------------------------------------------------------------------------ */

void ldg_ch_parked_put(struct ldg_clickhouse *ch, const struct ldg_ch_parked *parked, bool is_gone)
{
    const struct ldg_parked_row *row = &parked->row;
    const uint64_t now_us = (uint64_t)ldg_clock_now_us();
    struct ldg_ch_block *block = &ch->rows;
    char key[LDG_CH_KEY_MAX];

    ldg_ch_key(row->key, key);
    ldg_ch_block_i64(block, row->id);
    ldg_ch_block_text(block, row->source_uuid);
    ldg_ch_block_i64(block, row->log_position);
    ldg_ch_block_text(block, parked->origin);
    ldg_ch_block_text(block, key);
    ldg_ch_block_text(block, row->stream);
    ldg_ch_block_text(block, row->type_name);
    ldg_ch_block_text(block, row->reason);
    ldg_ch_block_u64(block, row->attempts);
    ldg_ch_block_i64(block, row->parked_at_us != LEDGER_NO_TIME ? row->parked_at_us : 0);
    ldg_ch_block_i64(block, row->time_us != LEDGER_NO_TIME ? row->time_us : 0);
    ldg_ch_block_bytes(block, is_gone ? (ledger_bytes){ "", 0 } : row->event);
    ldg_ch_block_u64(block, now_us > parked->version ? now_us : parked->version + 1);
    ldg_ch_block_u8(block, is_gone);
    ldg_ch_block_row(block);
}

ledger_rc ldg_ch_parked_insert(struct ldg_clickhouse *ch, ledger_error *err)
{
    return ldg_ch_insert(ch, "parking events", "_parked",
                         "(id, source_uuid, log_position, origin, entry_key, stream, type, reason, "
                         "attempts, parked_at, event_time, event, version, is_deleted)",
                         0, err);
}

/* event: '' where it is not wanted. */
static void begin_list(struct ldg_ch_query *q, struct ldg_clickhouse *ch, const char *event)
{
    ldg_ch_begin(q, ch, looking);
    q->answer_max = LDG_CH_ANSWER_ANY;
    ldg_ch_sql(q,
               "SELECT toUInt8(1), id, source_uuid, log_position, origin, entry_key, stream, type, "
               "reason, attempts, toUnixTimestamp64Micro(parked_at), "
               "toUnixTimestamp64Micro(event_time), version, %s FROM `%s_parked` FINAL "
               "WHERE is_deleted = 0 AND ",
               event, ch->table);
}

static int64_t time_or_none(int64_t time_us)
{
    return time_us != 0 ? time_us : LEDGER_NO_TIME;
}

static void take_row(struct ldg_ch_query *q, struct ldg_arena *arena, struct ldg_ch_parked *parked)
{
    struct ldg_parked_row *row = &parked->row;
    const char *key;
    ledger_bytes event;

    memset(parked, 0, sizeof(*parked));
    row->id = ldg_ch_read_i64(&q->reader);
    ldg_ch_take(q, row->source_uuid, sizeof(row->source_uuid));
    row->log_position = ldg_ch_read_i64(&q->reader);
    parked->origin = ldg_ch_copy(q, arena);
    key = ldg_ch_copy(q, arena);
    row->stream = ldg_ch_copy(q, arena);
    row->type_name = ldg_ch_copy(q, arena);
    row->reason = ldg_ch_copy(q, arena);
    row->attempts = ldg_ch_read_u64(&q->reader);
    row->parked_at_us = time_or_none(ldg_ch_read_i64(&q->reader));
    row->time_us = time_or_none(ldg_ch_read_i64(&q->reader));
    parked->version = ldg_ch_read_u64(&q->reader);
    event = ldg_ch_read_bytes(&q->reader);
    row->event = (ledger_bytes){ ldg_arena_memdup(arena, event.data, event.size), event.size };
    if (row->event.data == NULL && q->rc == LEDGER_OK)
        q->rc = LEDGER_ERR_NOMEM;
    if (q->rc == LEDGER_OK && !ldg_ch_key_parse(key, &row->key))
        row->key = (ledger_id){ 0 };
}

/* The numbers of origins, which rows name by text. */
static ledger_rc number_origins(struct ldg_clickhouse *ch, struct ldg_ch_parked *parked,
                                size_t count, ledger_error *err)
{
    bool loaded = false;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_ch_origin *origin = ldg_ch_origin_named(ch, parked[i].origin);

        if (origin == NULL && parked[i].origin[0] != '\0' && !loaded) {
            rc = ldg_ch_origins_load(ch, err);
            origin = ldg_ch_origin_named(ch, parked[i].origin);
            loaded = true;
        }
        parked[i].row.origin = origin != NULL ? origin->number : 0;
    }
    return rc;
}

static ledger_rc take_rows(struct ldg_ch_query *q, struct ldg_arena *arena,
                           struct ldg_ch_parked **ret_parked, size_t *ret_count, ledger_error *err)
{
    struct ldg_clickhouse *ch = q->ch;
    struct ldg_ch_parked *parked = NULL;
    size_t count = 0, cap = 0;
    ledger_rc rc;

    ldg_ch_sql(q, " FORMAT RowBinary");
    (void)!ldg_ch_run(q, err);
    while (ldg_ch_row(q)) {
        parked = ldg_arena_grow(arena, parked, sizeof(*parked), count, &cap);
        if (parked == NULL) {
            q->rc = LEDGER_ERR_NOMEM;
            break;
        }
        take_row(q, arena, &parked[count++]);
    }
    rc = ldg_ch_end(q, err);
    if (rc == LEDGER_OK)
        rc = number_origins(ch, parked, count, err);
    if (rc == LEDGER_OK) {
        *ret_parked = parked;
        *ret_count = count;
    }
    return rc;
}

static ledger_rc give_rows(const struct ldg_ch_parked *parked, size_t count,
                           struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                           size_t *ret_count, ledger_error *err)
{
    struct ldg_parked_row *rows = ldg_arena_calloc(arena, count + 1, sizeof(*rows));

    if (rows == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < count; i++)
        rows[i] = parked[i].row;
    *ret_rows = rows;
    *ret_count = count;
    return LEDGER_OK;
}

/* --- lists ----------------------------------------------------------------------------------- */

ledger_rc ldg_ch_parked_list(void *ctx, int64_t after, size_t limit, struct ldg_arena *arena,
                             struct ldg_parked_row **ret_rows, size_t *ret_count, ledger_error *err)
{
    struct ldg_ch_parked *parked = NULL;
    struct ldg_ch_query q;
    size_t count = 0;
    ledger_rc rc;

    begin_list(&q, ctx, "event");
    ldg_ch_sql(&q, "id > {after:Int64} ORDER BY id LIMIT %zu", limit);
    ldg_ch_bind_int(&q, "after", after);
    rc = take_rows(&q, arena, &parked, &count, err);
    return rc == LEDGER_OK ? give_rows(parked, count, arena, ret_rows, ret_count, err) : rc;
}

ledger_rc ldg_ch_parked_find(struct ldg_clickhouse *ch, int64_t id, struct ldg_arena *arena,
                             struct ldg_ch_parked *ret_parked, ledger_error *err)
{
    struct ldg_ch_parked *parked = NULL;
    struct ldg_ch_query q;
    size_t count = 0;
    ledger_rc rc;

    begin_list(&q, ch, "event");
    ldg_ch_sql(&q, "id = {id:Int64}");
    ldg_ch_bind_int(&q, "id", id);
    rc = take_rows(&q, arena, &parked, &count, err);
    if (rc == LEDGER_OK && count == 0)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
    if (rc == LEDGER_OK)
        *ret_parked = parked[0];
    return rc;
}

/* Those of the ops' entries, of their log's positions, without entry, and trims. */
ledger_rc ldg_ch_parked_near_all(struct ldg_clickhouse *ch, const struct ldg_op *ops, size_t count,
                                 struct ldg_arena *arena, struct ldg_ch_parked **ret_parked,
                                 size_t *ret_count, ledger_error *err)
{
    int64_t lowest = INT64_MAX, highest = INT64_MIN;
    bool changes = false, keyed = false;
    struct ldg_ch_query q;

    begin_list(&q, ch, "''");
    ldg_ch_sql(&q, "(entry_key GLOBAL IN ");
    ldg_ch_list_begin(&q, "unhex(p[1])");
    for (size_t i = 0; i < count; i++) {
        char key[LDG_CH_KEY_MAX];

        lowest = ops[i].log_position < lowest ? ops[i].log_position : lowest;
        highest = ops[i].log_position > highest ? ops[i].log_position : highest;
        changes = changes || ldg_op_is_change(&ops[i]);
        keyed = keyed || ldg_op_has_dedup_key(&ops[i]);
        ldg_ch_key(ops[i].key, key);
        ldg_ch_list_item(&q, i);
        ldg_ch_list_field(&q, key[0] != '\0' ? key : "-");
    }
    ldg_ch_list_end(&q);
    ldg_ch_sql(&q, " OR (source_uuid = {u:String} AND log_position BETWEEN {a:Int64} AND {b:Int64})"
                   " OR ({c:Int64} != 0 AND entry_key = '') OR ({k:Int64} != 0 AND type NOT IN "
                   "('append', 'set_tags', 'set_annotations')))");
    ldg_ch_bind(&q, "u", ldg_or_empty(ops[0].source_uuid));
    ldg_ch_bind_int(&q, "a", lowest);
    ldg_ch_bind_int(&q, "b", highest);
    ldg_ch_bind_int(&q, "c", changes);
    ldg_ch_bind_int(&q, "k", keyed);
    return take_rows(&q, arena, ret_parked, ret_count, err);
}

ledger_rc ldg_ch_parked_near(void *ctx, const struct ldg_op *ops, size_t count,
                             struct ldg_arena *arena, struct ldg_parked_row **ret_rows,
                             size_t *ret_count, ledger_error *err)
{
    struct ldg_ch_parked *parked = NULL;
    size_t parked_count = 0;
    ledger_rc rc = ldg_ch_parked_near_all(ctx, ops, count, arena, &parked, &parked_count, err);

    return rc == LEDGER_OK ? give_rows(parked, parked_count, arena, ret_rows, ret_count, err) : rc;
}

ledger_rc ldg_ch_parked_count(void *ctx, const char *source_uuid, uint64_t *ret_count,
                              ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_query q;

    ldg_ch_begin(&q, ch, looking);
    ldg_ch_sql(&q, "SELECT toUInt8(1), count() FROM `%s_parked` FINAL WHERE is_deleted = 0",
               ch->table);
    if (source_uuid != NULL) {
        ldg_ch_sql(&q, " AND source_uuid = {u:String}");
        ldg_ch_bind(&q, "u", source_uuid);
    }
    ldg_ch_sql(&q, " FORMAT RowBinary");
    return ldg_ch_end_count(&q, ret_count, err);
}

/* --- what goes, and what stays --------------------------------------------------------------- */

static ledger_rc drop_rows(struct ldg_clickhouse *ch, const struct ldg_ch_parked *parked,
                           size_t count, const struct ldg_op *trim, uint64_t *ret_dropped,
                           ledger_error *err)
{
    uint64_t dropped = 0;
    ledger_rc rc = LEDGER_OK;

    for (size_t i = 0; i < count; i++) {
        if (trim != NULL && !ldg_op_trims(trim, parked[i].row.key))
            continue;
        ldg_ch_parked_put(ch, &parked[i], true);
        dropped++;
    }
    if (dropped > 0)
        rc = ldg_ch_parked_insert(ch, err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
    return rc;
}

/* Somebody may be trying one again at this moment: what is added then counts less than a row that
 * says it was trimmed. */
static ledger_rc bury_entries(struct ldg_ch_batch *b, const struct ldg_ch_parked *parked,
                              size_t count, const struct ldg_op *trim, ledger_error *err)
{
    const struct ldg_ch_origin *origin;
    ledger_rc rc = ldg_ch_origin_find(b->ch, trim->origin, &origin, err);

    for (size_t i = 0; rc == LEDGER_OK && i < count; i++) {
        const struct ldg_parked_row *row = &parked[i].row;
        struct ldg_ch_row_texts texts;
        struct ldg_ch_row buried;

        if (strcmp(row->type_name, "append") != 0 || !ldg_op_trims(trim, row->key))
            continue;
        ldg_ch_row_begin(&buried, &texts, origin, row->key, row->stream);
        buried.created_at_us = ldg_sink_time(&b->s, trim);
        ldg_ch_row_bury(&buried, trim->position);
        ldg_ch_put_row(&b->ch->rows, &buried);
    }
    return rc == LEDGER_OK ? ldg_ch_flush(b, err) : rc;
}

ledger_rc ldg_ch_parked_trim(struct ldg_ch_batch *b, const struct ldg_op *op, bool *ret_any,
                             ledger_error *err)
{
    struct ldg_clickhouse *ch = b->ch;
    const struct ldg_ch_origin *origin;
    struct ldg_ch_parked *parked = NULL;
    struct ldg_ch_query q;
    uint64_t dropped = 0;
    size_t count = 0;
    ledger_rc rc = ldg_ch_origin_find(ch, op->origin, &origin, err);

    *ret_any = false;
    if (rc != LEDGER_OK)
        return rc;
    begin_list(&q, ch, "''");
    ldg_ch_sql(&q, "origin = {o:String} AND stream = {s:String} AND entry_key != ''");
    ldg_ch_bind(&q, "o", origin->text);
    ldg_ch_bind(&q, "s", ldg_or_empty(op->stream));
    rc = take_rows(&q, &ch->scratch, &parked, &count, err);
    if (rc == LEDGER_OK)
        rc = bury_entries(b, parked, count, op, err);
    if (rc == LEDGER_OK)
        rc = drop_rows(ch, parked, count, op, &dropped, err);
    *ret_any = dropped > 0;
    return rc;
}

ledger_rc ldg_ch_parked_note(void *ctx, int64_t id, const char *reason, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_parked parked;
    ledger_rc rc;

    ldg_arena_reset(&ch->scratch);
    rc = ldg_ch_parked_find(ch, id, &ch->scratch, &parked, err);
    if (rc != LEDGER_OK)
        return rc;
    parked.row.attempts++;
    parked.row.reason = reason;
    ldg_ch_parked_put(ch, &parked, false);
    return ldg_ch_parked_insert(ch, err);
}

ledger_rc ldg_ch_parked_drop(void *ctx, int64_t id, uint64_t *ret_dropped, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_parked *parked = NULL;
    struct ldg_ch_query q;
    uint64_t dropped = 0;
    size_t count = 0;
    ledger_rc rc;

    ldg_arena_reset(&ch->scratch);
    begin_list(&q, ch, "''");
    ldg_ch_sql(&q, "({id:Int64} = 0 OR id = {id:Int64})");
    ldg_ch_bind_int(&q, "id", id);
    rc = take_rows(&q, &ch->scratch, &parked, &count, err);
    if (rc == LEDGER_OK && count == 0 && id != 0)
        rc = ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no parked event %" PRId64, id);
    if (rc == LEDGER_OK)
        rc = drop_rows(ch, parked, count, NULL, &dropped, err);
    if (rc == LEDGER_OK)
        *ret_dropped = dropped;
    return rc;
}

/* Who is who, and where a bridge stands: <table>_origins and <table>_cursors.
 *
 * Nothing here is locked. A row is replaced by one with a higher version, made of the one that was
 * read, so a bridge that was left behind cannot move a cursor back. Invariants: a cursor is written
 * after the data that it stands for; an origin has one number, and no two that were registered one
 * after the other have the same. */
#include "backend/clickhouse/clickhouse.h"

#include <inttypes.h>
#include <string.h>

#define ORIGINS_MAX 100000
/* Two that register at the same moment find out, and one of them tries again. */
#define REGISTER_TRIES 20
/* A cursor that is set has a version so much higher than the row that was looked at: a bridge may
 * have moved it meanwhile, by batches that it had read before. */
#define SET_AHEAD 10000

/* --- origins --------------------------------------------------------------------------------- */

static ledger_rc add_origin(struct ldg_clickhouse *ch, size_t *cap, struct ldg_ch_query *q)
{
    struct ldg_ch_origin *origin;

    if (ch->origin_count == *cap) {
        const size_t more = *cap == 0 ? 8 : *cap * 2;
        void *origins = ldg_realloc(ch->origins, more * sizeof(*ch->origins));

        if (origins == NULL)
            return LEDGER_ERR_NOMEM;
        ch->origins = origins;
        *cap = more;
    }
    origin = &ch->origins[ch->origin_count++];
    memset(origin, 0, sizeof(*origin));
    origin->number = (int)ldg_ch_read_u32(&q->reader);
    ldg_ch_take(q, origin->identity.uuid, sizeof(origin->identity.uuid));
    origin->identity.epoch = ldg_ch_read_i64(&q->reader);
    ldg_ch_origin_text(&origin->identity, origin->text);
    return LEDGER_OK;
}

/* Of two with one number the first one has it, by time, then by uuid: so everybody decides, and so
 * a table's own identity (number 0) is the one that was given last. */
ledger_rc ldg_ch_origins_load(struct ldg_clickhouse *ch, ledger_error *err)
{
    /* clang-format off */
    static const char list[] =
        "SELECT toUInt8(1), number, uuid, epoch FROM `%s_origins` FINAL "
        "ORDER BY number, if(number = 0, -toUnixTimestamp64Micro(registered_at), "
            "toUnixTimestamp64Micro(registered_at)), uuid, epoch FORMAT RowBinary";
    /* clang-format on */
    struct ldg_ch_query q;
    size_t cap = 0;

    ldg_ch_trimmed_forget(ch); /* it goes by numbers */
    ldg_free(ch->origins);
    ch->origins = NULL;
    ch->origin_count = 0;
    ldg_ch_begin(&q, ch, "reading the origins");
    ldg_ch_sql(&q, list, ch->table);
    (void)!ldg_ch_run(&q, err);
    while (ldg_ch_row(&q) && ch->origin_count < ORIGINS_MAX)
        q.rc = add_origin(ch, &cap, &q);
    return ldg_ch_end(&q, err);
}

static const struct ldg_ch_origin *own_identity(const struct ldg_clickhouse *ch)
{
    return ch->origin_count > 0 && ch->origins[0].number == 0 ? &ch->origins[0] : NULL;
}

const struct ldg_ch_origin *ldg_ch_origin_of(const struct ldg_clickhouse *ch, int number)
{
    for (size_t i = 0; i < ch->origin_count; i++) {
        if (ch->origins[i].number == number)
            return &ch->origins[i];
    }
    return NULL;
}

const struct ldg_ch_origin *ldg_ch_origin_named(const struct ldg_clickhouse *ch, const char *text)
{
    for (size_t i = 0; i < ch->origin_count; i++) {
        if (strcmp(ch->origins[i].text, text) == 0)
            return &ch->origins[i];
    }
    return NULL;
}

ledger_rc ldg_ch_origin_find(struct ldg_clickhouse *ch, int number,
                             const struct ldg_ch_origin **ret_origin, ledger_error *err)
{
    const struct ldg_ch_origin *origin = ldg_ch_origin_of(ch, number);
    ledger_rc rc = origin == NULL ? ldg_ch_origins_load(ch, err) : LEDGER_OK;

    if (rc == LEDGER_OK && origin == NULL)
        origin = ldg_ch_origin_of(ch, number);
    if (rc == LEDGER_OK && origin == NULL)
        rc = ldg_fail_native(err, LEDGER_ERR_SCHEMA, "clickhouse", 0,
                             "table \"%s_origins\" has no row %d any more", ch->table, number);
    if (rc == LEDGER_OK)
        *ret_origin = origin;
    return rc;
}

static ledger_rc write_origin(struct ldg_clickhouse *ch, int number,
                              const struct ldg_identity *identity, const char *name,
                              int64_t registered_us, ledger_error *err)
{
    ldg_ch_block_i32(&ch->rows, number);
    ldg_ch_block_text(&ch->rows, identity->uuid);
    ldg_ch_block_i64(&ch->rows, identity->epoch);
    ldg_ch_block_text(&ch->rows, name);
    ldg_ch_block_i64(&ch->rows, registered_us);
    ldg_ch_block_u64(&ch->rows, (uint64_t)registered_us);
    ldg_ch_block_row(&ch->rows);
    return ldg_ch_insert(ch, "registering an origin", "_origins",
                         "(number, uuid, epoch, name, registered_at, version)", 0, err);
}

ledger_rc ldg_ch_identity_make(struct ldg_clickhouse *ch, bool anew, ledger_error *err)
{
    struct ldg_identity identity = { .epoch = 1 };
    ledger_rc rc = ldg_ch_origins_load(ch, err);

    if (rc != LEDGER_OK || (own_identity(ch) != NULL && !anew))
        return rc;
    ldg_uuid_new(identity.uuid);
    rc = write_origin(ch, 0, &identity, "", ldg_clock_now_us(), err);
    return rc == LEDGER_OK ? ldg_ch_origins_load(ch, err) : rc;
}

ledger_rc ldg_ch_identity(void *ctx, struct ldg_identity *ret_identity, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    ledger_rc rc = own_identity(ch) == NULL ? ldg_ch_origins_load(ch, err) : LEDGER_OK;

    if (rc == LEDGER_OK && own_identity(ch) == NULL)
        rc = ldg_fail_native(err, LEDGER_ERR_SCHEMA, "clickhouse", 0,
                             "table \"%s_origins\" has no row 0, which says who the store is; "
                             "`ledgerctl store init` writes it",
                             ch->table);
    if (rc == LEDGER_OK)
        *ret_identity = own_identity(ch)->identity;
    return rc;
}

/* Has another one that was registered before it the number of this one? */
static bool is_taken(const struct ldg_clickhouse *ch, const struct ldg_ch_origin *origin)
{
    return ldg_ch_origin_of(ch, origin->number) != origin;
}

static int next_number(const struct ldg_clickhouse *ch)
{
    int highest = 0;

    for (size_t i = 0; i < ch->origin_count; i++) {
        if (ch->origins[i].number > highest)
            highest = ch->origins[i].number;
    }
    return highest + 1;
}

ledger_rc ldg_ch_origin_get(void *ctx, const struct ldg_identity *identity, const char *name,
                            int *ret_origin, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const struct ldg_ch_origin *origin = NULL;
    char text[LDG_CH_ORIGIN_TEXT_MAX];
    bool done = false;
    ledger_rc rc = LEDGER_OK;

    ldg_ch_origin_text(identity, text);
    for (int i = 0; rc == LEDGER_OK && !done && i < REGISTER_TRIES; i++) {
        rc = ldg_ch_origins_load(ch, err);
        origin = rc == LEDGER_OK ? ldg_ch_origin_named(ch, text) : NULL;
        done = origin != NULL && !is_taken(ch, origin);
        if (rc == LEDGER_OK && !done)
            rc = write_origin(ch, next_number(ch), identity, name, ldg_clock_now_us(), err);
    }
    if (rc == LEDGER_OK && !done)
        rc = ldg_fail_native(err, LEDGER_ERR_BUSY, "clickhouse", 0,
                             "many sources register at table \"%s_origins\" at once, or what is "
                             "written there is not seen",
                             ch->table);
    if (rc == LEDGER_OK)
        *ret_origin = origin->number;
    return rc;
}

ledger_rc ldg_ch_origin_list(void *ctx, struct ldg_arena *arena, struct ldg_identity **ret_items,
                             int **ret_numbers, size_t *ret_count, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_identity *items;
    int *numbers;
    size_t count = 0;
    ledger_rc rc = ldg_ch_origins_load(ch, err);

    if (rc != LEDGER_OK)
        return rc;
    items = ldg_arena_calloc(arena, ch->origin_count + 1, sizeof(*items));
    numbers = ldg_arena_calloc(arena, ch->origin_count + 1, sizeof(*numbers));
    if (items == NULL || numbers == NULL)
        return ldg_fail_nomem(err);
    for (size_t i = 0; i < ch->origin_count; i++) {
        if (ch->origins[i].number == 0 || is_taken(ch, &ch->origins[i]))
            continue;
        items[count] = ch->origins[i].identity;
        numbers[count++] = ch->origins[i].number;
    }
    *ret_items = items;
    *ret_numbers = numbers;
    *ret_count = count;
    return LEDGER_OK;
}

/* A table that the Go module made is not taken, so there is nothing that it left. */
ledger_rc ldg_ch_origin_adopt(void *ctx, int origin, const struct ldg_claim *claims, size_t count,
                              uint64_t *ret_adopted, ledger_error *err)
{
    *ret_adopted = 0;
    return LEDGER_OK;
}

ledger_rc ldg_ch_origin_last(void *ctx, int origin, struct ldg_arena *arena, ledger_id *ret_id,
                             ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const struct ldg_ch_origin *known;
    ledger_id id = { 0 };
    struct ldg_ch_query q;
    ledger_rc rc = ldg_ch_origin_find(ch, origin, &known, err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_ch_begin(&q, ch, "looking for the last entry");
    ldg_ch_sql(&q,
               "SELECT toUInt8(1), argMax(id, entry_key) FROM `%s` FINAL WHERE is_deleted = 0 AND "
               "origin = {o:String} FORMAT RowBinary",
               ch->table);
    ldg_ch_bind(&q, "o", known->text);
    (void)!ldg_ch_run(&q, err);
    if (ldg_ch_row(&q))
        id.text = ldg_ch_copy(&q, arena);
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK && id.text != NULL && id.text[0] == '\0')
        id.text = NULL;
    if (rc == LEDGER_OK)
        *ret_id = id;
    return rc;
}

/* Positions are what versions are made of, and versions only grow: there is no way back. */
ledger_rc ldg_ch_origin_rewind(void *ctx, int origin, int64_t position, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    const struct ldg_ch_origin *known;
    struct ldg_ch_query q;
    uint64_t behind = 0;
    ledger_rc rc = ldg_ch_origin_find(ch, origin, &known, err);

    if (rc != LEDGER_OK)
        return rc;
    ldg_ch_begin(&q, ch, "looking for changes behind a position");
    ldg_ch_sql(&q,
               "SELECT toUInt8(1), count() FROM `%s` FINAL WHERE origin = {o:String} AND "
               "greatest(appended_position, tags_position, annotations_position, "
               "trimmed_position) > {p:Int64} FORMAT RowBinary",
               ch->table);
    ldg_ch_bind(&q, "o", known->text);
    ldg_ch_bind_int(&q, "p", position);
    rc = ldg_ch_end_count(&q, &behind, err);
    if (rc == LEDGER_OK && behind > 0)
        rc = ldg_fail_native(err, LEDGER_ERR_UNSUPPORTED, "clickhouse", 0,
                             "table \"%s\" holds %" PRIu64 " entries as they were behind that "
                             "position, and a ClickHouse sink cannot take that back: give the "
                             "source an identity of its own (`ledgerctl store init "
                             "--new-identity`), or carry it into another --table",
                             ch->table, behind);
    return rc;
}

/* --- cursors --------------------------------------------------------------------------------- */

ledger_rc ldg_ch_cursor_look(struct ldg_clickhouse *ch, const char *name,
                             struct ldg_ch_cursor_row *ret_row, ledger_error *err)
{
    /* clang-format off */
    static const char look[] =
        "SELECT toUInt8(1), count(), max(version), "
            "argMax((state, cursor, toUnixTimestamp64Micro(moved_at)), "
                "(version, moved_at, state)), "
            "(SELECT count() FROM `%s_parked` FINAL WHERE is_deleted = 0), "
            "(SELECT count() FROM `%s_origins` FINAL) "
        "FROM `%s_cursors` WHERE name = {name:String} FORMAT RowBinary";
    /* clang-format on */
    struct ldg_ch_query q;

    memset(ret_row, 0, sizeof(*ret_row));
    ldg_ch_begin(&q, ch, "reading a cursor");
    ldg_ch_sql(&q, look, ch->table, ch->table, ch->table);
    ldg_ch_bind(&q, "name", name);
    (void)!ldg_ch_run(&q, err);
    if (ldg_ch_row(&q)) {
        ret_row->is_there = ldg_ch_read_u64(&q.reader) > 0;
        ret_row->version = ldg_ch_read_u64(&q.reader);
        ldg_ch_take(&q, ret_row->cursor.state, sizeof(ret_row->cursor.state));
        ldg_ch_take(&q, ret_row->cursor.readable, sizeof(ret_row->cursor.readable));
        ret_row->cursor.moved_at_us = ldg_ch_read_i64(&q.reader);
        if (ret_row->cursor.moved_at_us == 0)
            ret_row->cursor.moved_at_us = LEDGER_NO_TIME;
        ret_row->parked_count = ldg_ch_read_u64(&q.reader);
        ret_row->origin_count = ldg_ch_read_u64(&q.reader);
    }
    return ldg_ch_end(&q, err);
}

ledger_rc ldg_ch_cursor_write(struct ldg_clickhouse *ch, const char *name,
                              const struct ldg_cursor *cursor, uint64_t version, ledger_error *err)
{
    ldg_ch_block_text(&ch->rows, name);
    ldg_ch_block_text(&ch->rows, cursor->readable);
    ldg_ch_block_text(&ch->rows, cursor->state);
    ldg_ch_block_i64(&ch->rows, cursor->moved_at_us != LEDGER_NO_TIME ? cursor->moved_at_us : 0);
    ldg_ch_block_u64(&ch->rows, version);
    ldg_ch_block_row(&ch->rows);
    return ldg_ch_insert(ch, "moving the cursor", "_cursors",
                         "(name, cursor, state, moved_at, version)", 0, err);
}

ledger_rc ldg_ch_cursor_get(void *ctx, const char *name, bool create, struct ldg_cursor *ret_cursor,
                            ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_cursor_row *row = ldg_malloc(sizeof(*row));
    ledger_rc rc = row != NULL ? ldg_ch_cursor_look(ch, name, row, err) : ldg_fail_nomem(err);

    if (rc == LEDGER_OK && !row->is_there) {
        row->cursor.moved_at_us = LEDGER_NO_TIME;
        rc = create ? ldg_ch_cursor_write(ch, name, &row->cursor, 1, err)
                    : ldg_fail(err, LEDGER_ERR_NOT_FOUND, "no cursor \"%.64s\"", name);
    }
    if (rc == LEDGER_OK)
        *ret_cursor = row->cursor;
    ldg_free(row);
    return rc;
}

ledger_rc ldg_ch_cursor_set(void *ctx, const char *name, const struct ldg_cursor *expected,
                            const struct ldg_cursor *next, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_cursor_row *row = ldg_malloc(sizeof(*row));
    ledger_rc rc = row != NULL ? ldg_ch_cursor_look(ch, name, row, err) : ldg_fail_nomem(err);

    if (rc == LEDGER_OK && expected != NULL)
        rc = ldg_cursor_compare(name, row->is_there ? &row->cursor : NULL, expected, err);
    if (rc == LEDGER_OK)
        rc = ldg_ch_cursor_write(ch, name, next, row->version + SET_AHEAD, err);
    ldg_free(row);
    return rc;
}

ledger_rc ldg_ch_cursor_list(void *ctx, ledger_names *ret_names, ledger_error *err)
{
    struct ldg_clickhouse *ch = ctx;
    struct ldg_ch_query q;

    ldg_ch_begin(&q, ch, "listing cursors");
    ldg_ch_sql(&q,
               "SELECT toUInt8(1), name FROM `%s_cursors` GROUP BY name ORDER BY name "
               "FORMAT RowBinary",
               ch->table);
    return ldg_ch_end_names(&q, ret_names, err);
}

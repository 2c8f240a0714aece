/* What a sink holds, as text, and the comparison of two.
 *
 * Ids of the sink's own are named by what they stand for, times are told as far as all stores keep
 * them. Of a sink without transactions whole histories are read, as `verify` does, and what it
 * documents to be otherwise is left out: each place says why. */
#include "random.h"

/* --- what a sink holds ----------------------------------------------------------------------- */

static void put(struct ldg_buf *buf, const char *fmt, ...) LEDGER_PRINTF(2, 3);
static void put(struct ldg_buf *buf, const char *fmt, ...)
{
    char line[4096];
    va_list args;
    va_start(args, fmt);
    const int size = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    assert_true(size >= 0 && (size_t)size < sizeof line);
    assert_int_equal(ldg_buf_append(buf, line, (size_t)size), LEDGER_OK);
}

/* As far as all stores keep it. */
static void put_time(struct ldg_buf *buf, const char *name, int64_t time_us)
{
    if (time_us == LEDGER_NO_TIME)
        put(buf, " %s=none", name);
    else if (time_us >= RECENT_US)
        put(buf, " %s=now", name);
    else
        put(buf, " %s=%" PRId64, name, (time_us - SINK_TIME_US / 1000 * 1000) / 1000);
}

char world_letter(const struct world *w, const char *origin)
{
    for (int i = A; i < STORES; i++)
        if (strncmp(origin, w->identities[i].uuid, strlen(w->identities[i].uuid)) == 0)
            return "oabc"[i];
    return *origin ? 'o' : '-';
}

/* Which of the sink's own entries has this id; -1: none. */
static int64_t own_pos(const struct side *side, int64_t id)
{
    int64_t pos = ENTRIES_MAX - 1;
    while (pos >= 0 && side->own_ids[pos] != id && id != NEVER_THERE + pos)
        pos--;
    return pos;
}

/* The sink's own entries by their order, others by their id at the origin. */
static void put_key(const struct world *w, const struct side *side, const char *origin,
                    const char *key, struct ldg_buf *buf)
{
    int64_t id = 0;
    const char letter = world_letter(w, origin);
    if ((letter == 'o' || letter == '-') && ldg_int64_parse(key, false, &id))
        put(buf, "o%" PRId64, own_pos(side, id));
    else
        put(buf, "%c%s", letter, key);
}

static void put_map(struct ldg_buf *buf, const char *name, ledger_map map)
{
    for (size_t i = 0; i < map.count; i++)
        put(buf, " %s{%s=%s}", name, map.items[i].key,
            map.items[i].value ? map.items[i].value : "(null)");
}

static void put_list(struct ldg_buf *buf, ledger_list list)
{
    for (size_t i = 0; i < list.count; i++)
        put(buf, " [%s]", list.items[i]);
}

static void put_entry(const struct world *w, const struct side *side, const ledger_entry *e,
                      struct ldg_buf *buf)
{
    char id[24];
    snprintf(id, sizeof id, "%" PRId64, e->id.number);
    put(buf, "\nentry %s ", e->stream);
    put_key(w, side, e->origin, *e->origin ? e->source_id : id, buf);
    put(buf, " %.*s o=%s k=%s v=%d", (int)e->payload.size, (const char *)e->payload.data,
        e->order_key, e->dedup_key, e->schema_version);
    put_time(buf, "created", e->created_at_us);
    put_time(buf, "updated", e->updated_at_us);
    put_map(buf, "metadata", e->metadata);
    put_list(buf, e->tags);
    put_map(buf, "", e->annotations);
}

static void put_stream(const struct world *w, const struct side *side, const char *stream,
                       struct ldg_buf *buf)
{
    ledger_batch *batch = conf_read(side->store, stream, NULL);
    for (size_t i = 0; i < ledger_batch_count(batch); i++)
        put_entry(w, side, ledger_batch_entry(batch, i), buf);
    ledger_batch_destroy(&batch);
}

/* Which of the store's entries has this key. */
int64_t entry_pos(struct world *w, int store, ledger_id key)
{
    int64_t pos = ENTRIES_MAX - 1;
    while (pos > 0 && !ldg_id_equal(entry_key(w, &w->sides[MEMORY], store, pos), key))
        pos--;
    return pos;
}

static void read_history(struct world *w, struct side *side)
{
    ledger_error err;
    for (int i = A; i <= w->last_store; i++) {
        side->row_counts[i] = 0;
        if (!w->touched[i])
            continue;
        ok(ldg_store_history(side->store, side->origins[i], ldg_id_of(0), ENTRIES_MAX, SIZE_MAX,
                             &w->arena, &side->rows[i], &side->row_counts[i], &err));
        side->there[i] = 0;
        for (size_t k = 0; k < side->row_counts[i]; k++)
            side->there[i] |= entry_bit(entry_pos(w, i, side->rows[i][k].key));
    }
}

bool entry_is_gone(const struct world *w, int store, int64_t pos)
{
    return w->alone && (w->gone[store] & entry_bit(pos)) != 0;
}

/* As `verify` reads it. A part of the log that comes once more brings the memory's trimmed entries
 * back until the trim comes, too; a sink of versions keeps that they are gone. */
static void put_history(struct world *w, const struct side *side, struct ldg_buf *buf)
{
    for (int i = A; i <= w->last_store; i++)
        for (size_t k = 0; k < side->row_counts[i]; k++) {
            const struct ldg_history_row *row = &side->rows[i][k];
            const int64_t pos = entry_pos(w, i, row->key);
            if (!entry_is_gone(w, i, pos))
                put_entry(w, side, row->entry, buf);
        }
}

static const struct event *world_row_event(const struct world *w, const struct ldg_parked_row *row)
{
    const int log = world_letter(w, row->source_uuid) == 'a' ? A : B;
    return &w->logs[log].events[row->log_position - 1];
}

/* Of entries that are back in memory alone: there they need not wait. */
static bool is_of_gone(struct world *w, const struct ldg_parked_row *row)
{
    const struct event *e = world_row_event(w, row);
    bool gone = e->kind != LDG_OP_TRIM && e->store != OWN;
    for (size_t i = 0; i < e->count && gone; i++)
        gone = (!ldg_id_is_none(row->key) && entry_pos(w, e->store, row->key) != e->entries[i]) ||
               entry_is_gone(w, e->store, e->entries[i]);
    return gone;
}

size_t world_parked(struct world *w, const struct side *side, struct ldg_parked_row **ret_rows)
{
    struct ldg_parked_row *rows = NULL;
    size_t count = 0, kept = 0;
    ledger_error err;
    ok(ldg_store_parked_list(side->store, 0, 5000, &w->arena, &rows, &count, &err));
    for (size_t i = 0; i < count; i++)
        if (!w->alone || !is_of_gone(w, &rows[i]))
            rows[kept++] = rows[i];
    *ret_rows = rows;
    return kept;
}

/* Of what the database said itself only that it did. */
static void put_parked(struct world *w, const struct side *side, struct ldg_buf *buf)
{
    struct ldg_parked_row *rows = NULL;
    const size_t count = world_parked(w, side, &rows);
    for (size_t i = 0; i < count; i++) {
        const struct ldg_parked_row *row = &rows[i];
        const bool ours = strncmp(row->reason, "behind", 6) == 0 ||
                          strncmp(row->reason, "its ", 4) == 0 ||
                          strncmp(row->reason, "noted", 5) == 0 ||
                          strncmp(row->reason, "cannot be read", 14) == 0;
        const struct event *e = world_row_event(w, row);
        const bool own = e->store == OWN && row->key.number != 0;
        char key[LEDGER_ID_TEXT_MAX];
        if (own)
            snprintf(key, sizeof key, "o%" PRId64, own_pos(side, row->key.number));
        put(buf, "\nparked %c/%" PRId64 " entry %s %s of %s, %" PRIu64 ": %s",
            world_letter(w, row->source_uuid), row->log_position,
            own ? key : ldg_id_text(row->key, key), row->type_name, row->stream,
            w->broken ? 0 : row->attempts, ours ? row->reason : "refused");
        put_time(buf, "event", row->time_us);
        if (e->store != OWN) /* else it names ids of the sink */
            put(buf, " %.*s", (int)row->event.size, (const char *)row->event.data);
    }
}

/* Which entry had an id of the sink's: the log has told. */
struct names {
    const struct world *w;
    const struct side *side;
    struct ldg_arena *arena;
    struct {
        const char *id;
        const char *name;
    } items[EVENTS_MAX * EVENT_ENTRIES];
    size_t count;
};

static void name_put(struct names *names, const char *id, struct ldg_buf *buf)
{
    for (size_t i = names->count; i-- > 0;)
        if (strcmp(names->items[i].id, id) == 0) {
            put(buf, " id=%s", names->items[i].name);
            return;
        }
    put(buf, " id=%s", *id ? "?" : "");
}

static void put_logged_entry(struct names *names, const ledger_mutation_event *event,
                             const ledger_append_entry *e, struct ldg_buf *buf)
{
    const char *origin = *event->entry_origin ? event->entry_origin : event->origin;
    put(buf, " ");
    const size_t name = buf->size;
    put_key(names->w, names->side, origin, *origin ? e->source_id : e->id, buf);
    assert_true(names->count < sizeof names->items / sizeof names->items[0]);
    names->items[names->count].id = ldg_arena_strdup(names->arena, e->id);
    names->items[names->count++].name =
        ldg_arena_strndup(names->arena, buf->data + name, buf->size - name);
    put(buf, " %.*s o=%s k=%s v=%d", (int)e->payload.size, (const char *)e->payload.data,
        e->order_key, e->dedup_key, e->schema_version);
    put_time(buf, "created", e->created_at_us);
    put_map(buf, "metadata", e->metadata);
    put_list(buf, e->tags);
}

/* An append of several entries may go out in parts. */
static bool is_next_part(const ledger_mutation_event *before, const ledger_mutation_event *e)
{
    return before->type == LEDGER_MUTATION_APPEND && e->type == LEDGER_MUTATION_APPEND &&
           *e->origin != '\0' && strcmp(before->origin, e->origin) == 0 &&
           before->origin_pos == e->origin_pos && strcmp(before->stream, e->stream) == 0;
}

static void put_event(struct names *names, const ledger_mutation_event *before,
                      const ledger_mutation_event *e, struct ldg_buf *buf)
{
    if (before && is_next_part(before, e)) {
        for (size_t i = 0; i < e->entry_count; i++)
            put_logged_entry(names, e, &e->entries[i], buf);
        return;
    }
    put(buf, "\nlog %s %s by %c/%" PRId64 " of %c ", e->type_name, e->stream,
        world_letter(names->w, e->origin), e->origin_pos, world_letter(names->w, e->entry_origin));
    if (*e->source_id)
        put_key(names->w, names->side, *e->entry_origin ? e->entry_origin : e->origin, e->source_id,
                buf);
    put_time(buf, "at", e->created_at_us);
    name_put(names, e->type == LEDGER_MUTATION_TRIM ? e->before_id : e->entry_id, buf);
    put_list(buf, e->tags);
    put_map(buf, "", e->annotations);
    for (size_t i = 0; i < e->entry_count; i++)
        put_logged_entry(names, e, &e->entries[i], buf);
}

void world_put_log(struct world *w, const struct side *side, char *ret_state, struct ldg_buf *buf)
{
    const struct ldg_log_limits limits = { .max_count = 10000, .max_bytes = SIZE_MAX };
    struct names *names = ldg_arena_calloc(&w->arena, 1, sizeof *names);
    struct ldg_log_batch batch = { 0 };
    ledger_mutation_event events[2];
    ledger_error err;
    *names = (struct names){ .w = w, .side = side, .arena = &w->arena };
    ldg_arena_init(&batch.arena, 0);
    ok(ldg_store_log_read(side->store, side->log_state, &limits, &batch, &err));
    for (size_t i = 0; i < batch.count; i++) {
        ok(ldg_event_decode(batch.rows[i].payload, &w->arena, &events[i & 1], &err));
        put_event(names, i > 0 ? &events[~i & 1] : NULL, &events[i & 1], buf);
    }
    if (ret_state)
        memcpy(ret_state, batch.next_state, sizeof batch.next_state);
    ldg_arena_fini(&batch.arena);
}

static void put_all(struct world *w, struct side *side, struct ldg_buf *buf)
{
    struct ldg_cursor cursor;
    ledger_error err;
    for (int i = 0; i < STREAMS && !w->alone; i++)
        put_stream(w, side, w->streams[i], buf);
    if (w->alone)
        put_history(w, side, buf);
    put_parked(w, side, buf);
    if (w->has_log)
        world_put_log(w, side, NULL, buf);
    ok(ldg_store_cursor_get(side->store, "c", false, &cursor, &err));
    put(buf, "\ncursor %s %s\n", cursor.readable, cursor.state);
}

static void note_aside(struct world *w)
{
    struct ldg_parked_row *rows = NULL;
    const size_t count = world_parked(w, &w->sides[MEMORY], &rows);
    memset(w->aside, 0, sizeof w->aside);
    for (size_t i = 0; i < count; i++) {
        const int store = world_row_event(w, &rows[i])->store;
        if (strcmp(rows[i].type_name, "append") == 0 && !ldg_id_is_none(rows[i].key))
            w->aside[store] |= entry_bit(entry_pos(w, store, rows[i].key));
    }
}

static void look(struct world *w)
{
    EACH(side)
    read_history(w, &w->sides[side]);
    note_aside(w);
    for (int i = A; i <= w->last_store; i++)
        if ((w->sides[TESTED].there[i] & w->gone[i]) != 0)
            world_differ(w, "entry %d of store %c was trimmed, and is back",
                         __builtin_ctzll(w->sides[TESTED].there[i] & w->gone[i]), "oabc"[i]);
}

/* The first line in which the sides differ. */
void world_compare(struct world *w)
{
    struct ldg_buf bufs[SIDES];
    if (w->alone)
        look(w);
    EACH(side)
    {
        ldg_buf_init(&bufs[side], 1 << 24);
        put_all(w, &w->sides[side], &bufs[side]);
    }
    const char *want = bufs[MEMORY].data, *got = bufs[TESTED].data;
    size_t at = 0, line = 0;
    for (; want[at] == got[at] && want[at] != '\0'; at++)
        line = want[at] == '\n' ? at + 1 : line;
    if (want[at] != got[at])
        world_differ(w, "memory has\n%.*s\nnot\n%.*s", (int)strcspn(want + line, "\n"), want + line,
                     (int)strcspn(got + line, "\n"), got + line);
    EACH(side)
    ldg_buf_fini(&bufs[side]);
}

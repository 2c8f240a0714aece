/* Random batches, handed straight to apply(): each backend comes to the same as memory, which is
 * the specification. After each batch the outcomes are equal, and at the end entries, parked events
 * and the sink's own log.
 *
 * The logs of two stores A and B are read, in pieces, forth and back again. In them are entries of
 * A, of B, of C (which A has from elsewhere), and of the sink itself, which come back. A stream is
 * refused for a time, some events cannot be read at first, and parked ones are tried again, noted
 * or dropped. Between the batches a program writes into the sink.
 *
 * A third of the rounds is calm, so that batches go in at once. Where the backend takes them, the
 * keys of A, B and C are now numbers, now texts. All rounds use the same tables, with new origins
 * and streams: what others have there must change nothing. LEDGER_TEST_SEED, as a failure prints
 * it, repeats its round alone, compared after each step; LEDGER_TEST_SCALE=1000 runs ten times as
 * many rounds.
 *
 * A sink without transactions (`alone`) has no log, and nobody else writes to it. It is compared
 * after each step: histories as `verify` reads them, parked events, cursor, and outcomes as far as
 * may_differ() says. Its logs are faithful: an entry is added once and keeps its position, since
 * versions are made of those, and a dedup key is used once, since nobody looks at it. Batches break
 * off at a request and are given again, and the bridge is another one now and then. What is refused
 * and not parked is given again at once, for a part of the batch may be done. A quarter of these
 * rounds has one source and a new table, so that changes, too, go the optimistic way. */
#include "random.h"

#define ROUNDS 100 /* with a log, and without */
#define ALONE_S 12 /* no more of them begin behind so many seconds */
#define STEPS 16

/* --- batches --------------------------------------------------------------------------------- */

/* How a batch is applied, besides its ops. */
struct manner {
    bool park_rejected, stale, keeps_cursor;
};

static ledger_rc apply_side(struct side *side, const struct manner *how, ledger_error *err)
{
    struct ldg_cursor stale = side->cursor, next = side->cursor;
    snprintf(stale.state, sizeof stale.state, "another");
    snprintf(next.state, sizeof next.state, "state %" PRId64, ++side->moves);
    snprintf(next.readable, sizeof next.readable, "%019" PRId64, side->moves);
    next.moved_at_us = SINK_TIME_US;
    const struct ldg_apply apply = { .name = "c",
                                     .expected = how->stale ? &stale : &side->cursor,
                                     .next = how->keeps_cursor ? NULL : &next,
                                     .ops = side->ops,
                                     .count = side->op_count,
                                     .park_rejected = how->park_rejected };
    memset(side->outcomes, 0xff, sizeof side->outcomes);
    const ledger_rc rc = ldg_store_apply(side->store, &apply, side->outcomes, err);
    if (rc == LEDGER_OK && !how->keeps_cursor)
        side->cursor = next;
    side->done_count = rc == LEDGER_ERR_REJECTED ? err->done_count : 0;
    return rc;
}

/* --- what a sink without transactions does otherwise ----------------------------------------- */

/* Entries of the store that the trim is about. */
static uint64_t op_reaches(struct world *w, const struct ldg_op *op, int store)
{
    uint64_t reached = 0;
    for (int64_t pos = 1; store != OWN && pos < ENTRIES_MAX; pos++)
        if (strcmp(w->streams[entry_stream(w, store, pos)], op->stream) == 0 &&
            ldg_op_trims(op, entry_key(w, &w->sides[MEMORY], store, pos)))
            reached |= entry_bit(pos);
    return reached;
}

static const struct event *op_event(const struct world *w, const struct ldg_op *op)
{
    const int log = world_letter(w, op->source_uuid) == 'a' ? A : B;
    return &w->logs[log].events[op->event_index];
}

/* What the ops have trimmed that the sink remembers: entries that were there, came with the same
 * batch, or were parked as appends. outcomes NULL: all are done. */
static void note_gone(struct world *w, const struct ldg_op *ops, const uint8_t *outcomes,
                      size_t count)
{
    uint64_t came[STORES] = { 0 };
    for (size_t i = 0; i < count; i++) {
        const struct event *e = op_event(w, &ops[i]);
        if (ops[i].kind == LDG_OP_APPEND && (!outcomes || outcomes[i] == LDG_OUTCOME_APPLIED))
            came[e->store] |= entry_bit(entry_pos(w, e->store, ops[i].key));
        if (ops[i].kind == LDG_OP_TRIM && (!outcomes || outcomes[i] != LDG_OUTCOME_PARKED) &&
            !ldg_op_was_made_here(&ops[i]))
            w->gone[e->store] |=
                op_reaches(w, &ops[i], e->store) &
                (w->sides[MEMORY].there[e->store] | w->aside[e->store] | came[e->store]);
    }
}

/* Does the batch trim the entry behind this op? */
static bool is_trimmed_behind(struct world *w, size_t i)
{
    const struct side *side = &w->sides[MEMORY];
    const struct event *e = op_event(w, &side->ops[i]);
    bool trimmed = false;
    for (size_t k = i + 1; k < side->op_count && !trimmed; k++)
        trimmed = side->ops[k].kind == LDG_OP_TRIM &&
                  op_event(w, &side->ops[k])->store == e->store &&
                  (op_reaches(w, &side->ops[k], e->store) &
                   entry_bit(entry_pos(w, e->store, side->ops[i].key))) != 0;
    return trimmed;
}

/* May the outcome of a trim be another one here? Those of a batch are one statement, and which of
 * them has deleted something is not known; of a batch that is halved they were done before; and
 * entries may be back in memory alone. */
static bool trim_may_differ(struct world *w, const struct ldg_op *op, int store)
{
    const struct side *side = &w->sides[MEMORY];
    size_t trims = 0;
    for (size_t i = 0; i < side->op_count; i++)
        trims += side->ops[i].kind == LDG_OP_TRIM;
    return trims > 1 || w->refusing || (op_reaches(w, op, store) & w->gone[store]) != 0;
}

/* The same of any op. A batch that is not asked about takes what it brings for new, and its trims
 * come before its changes. */
static bool may_differ(struct world *w, size_t i)
{
    const struct ldg_op *op = &w->sides[MEMORY].ops[i];
    const struct event *e = op_event(w, op);
    const uint8_t want = w->sides[MEMORY].outcomes[i], got = w->sides[TESTED].outcomes[i];
    if (op->kind == LDG_OP_TRIM)
        return got != LDG_OUTCOME_PARKED && trim_may_differ(w, op, e->store);
    if (op->kind != LDG_OP_PARK && entry_is_gone(w, e->store, entry_pos(w, e->store, op->key)))
        return true;
    if (w->informed && !w->refusing)
        return false;
    return (want == LDG_OUTCOME_REPLAYED && got == LDG_OUTCOME_APPLIED) ||
           (ldg_op_is_change(op) && is_trimmed_behind(w, i) &&
            (got == LDG_OUTCOME_MISSING || got == LDG_OUTCOME_PARKED));
}

/* One of the next requests, or of those that bring rows, fails, before or after it did its work, or
 * its answer is cut; twice, for libcurl sends it once more where a connection was used before. */
static void break_soon(struct world *w)
{
    static const char *const acts[] = { "\"act\":\"error\",\"code\":241,\"when\":\"before\"",
                                        "\"act\":\"error\",\"code\":241",
                                        "\"act\":\"cut\",\"when\":\"before\"",
                                        "\"act\":\"cut\",\"bytes\":-1", "\"act\":\"cut\"" };
    const char *act = acts[world_below(w, sizeof acts / sizeof acts[0])];
    const bool of_rows = world_below(w, 2) == 0;
    char line[160];
    snprintf(line, sizeof line, "{%s,\"match\":\"%s\",\"times\":2,\"skip\":%u}\n", act,
             of_rows ? "INSERT INTO" : "", world_below(w, of_rows ? 3 : 8));
    w->env->backend->fault(line);
}

static bool broke_off(ledger_rc rc, const ledger_error *err)
{
    return rc != LEDGER_OK && rc != LEDGER_ERR_FENCED && (err->flags & LEDGER_ERROR_RETRY) != 0;
}

/* As a bridge does: what broke off comes again, unless the cursor says that it was all. */
static ledger_rc apply_until_whole(struct world *w, struct side *side, const struct manner *how,
                                   ledger_error *err)
{
    struct ldg_cursor cursor;
    ledger_error e;
    for (int tries = 0;; tries++) {
        const bool breaks = tries < 3 && world_below(w, 3) == 0;
        if (breaks)
            break_soon(w);
        const ledger_rc rc = apply_side(side, how, err);
        if (breaks)
            w->env->backend->fault("");
        if (!breaks || !broke_off(rc, err))
            return rc;
        w->broken = true;
        w->whole = false;
        assert_int_equal(ldg_store_cursor_get(side->store, "c", false, &cursor, &e), LEDGER_OK);
        if (strcmp(cursor.state, side->cursor.state) != 0) {
            side->cursor = cursor;
            return LEDGER_OK;
        }
        side->moves--;
    }
}

/* --- a batch --------------------------------------------------------------------------------- */

static void compare_outcomes(struct world *w)
{
    const struct side *want = &w->sides[MEMORY], *got = &w->sides[TESTED];
    char key[LEDGER_ID_TEXT_MAX];
    for (size_t i = 0; i < want->op_count; i++)
        if (want->outcomes[i] != got->outcomes[i] && !(w->alone && may_differ(w, i)))
            world_differ(w, "event %c/%" PRId64 " (%s of %d/%s in %s): outcome %d, not %d",
                         world_letter(w, want->ops[i].source_uuid), want->ops[i].log_position,
                         want->ops[i].type_name, want->ops[i].origin,
                         ldg_id_text(want->ops[i].key, key), want->ops[i].stream, got->outcomes[i],
                         want->outcomes[i]);
}

static void touch(struct world *w, const struct ldg_op *ops, size_t count)
{
    for (size_t i = 0; i < count && w->alone; i++)
        w->touched[op_event(w, &ops[i])->store] = true;
}

/* True: it is done. again: it was refused, and what was done before is not undone here. */
static bool apply(struct world *w, const struct manner *how, bool again)
{
    const struct side *want = &w->sides[MEMORY], *got = &w->sides[TESTED];
    ledger_error errs[SIDES] = { { 0 } };
    ledger_rc rcs[SIDES];
    w->whole = !again;
    touch(w, want->ops, want->op_count);
    EACH(side)
    rcs[side] = side == TESTED && w->alone ? apply_until_whole(w, &w->sides[side], how, &errs[side])
                                           : apply_side(&w->sides[side], how, &errs[side]);
    if (rcs[MEMORY] != rcs[TESTED] || want->done_count != got->done_count)
        world_differ(w, "a batch gave %s at %zu (%s), not %s at %zu (%s)",
                     ledger_rc_name(rcs[TESTED]), got->done_count,
                     rcs[TESTED] ? errs[TESTED].message : "", ledger_rc_name(rcs[MEMORY]),
                     want->done_count, rcs[MEMORY] ? errs[MEMORY].message : "");
    if (rcs[MEMORY] == LEDGER_OK && w->whole)
        compare_outcomes(w);
    if (rcs[MEMORY] == LEDGER_OK && w->alone)
        note_gone(w, want->ops, want->outcomes, want->op_count);
    w->informed = rcs[MEMORY] != LEDGER_OK;
    return rcs[MEMORY] == LEDGER_OK;
}

/* What is added and trimmed in one batch need not be written, and then is not refused. */
static bool trims_refused(const struct world *w, const struct ldg_op *op)
{
    return w->refusing && op->kind == LDG_OP_TRIM && strcmp(op->stream, w->streams[REFUSED]) == 0;
}

static void open_side(struct world *w, struct side *side)
{
    struct conf_env as = *w->env;
    ledger_error err;
    as.backend = side->backend;
    as.store_count = 0;
    side->store = conf_open_with(&as, "sink", side->table,
                                 w->has_log ? LEDGER_MUTATION_LOG_ON : LEDGER_MUTATION_LOG_OFF, 0);
    ok(ldg_store_cursor_get(side->store, "c", true, &side->cursor, &err));
}

/* The next batch is the first of another bridge. */
static void reopen(struct world *w)
{
    struct side *side = &w->sides[TESTED];
    ledger_store_close(&side->store);
    open_side(w, side);
    w->informed = side->cursor.state[0] != '\0'; /* else none was there to bring anything */
}

/* An append of entries that are there; where they are not, nobody knows what they were. */
static bool is_known_append(const struct world *w, const struct event *e)
{
    bool known = e->kind == LDG_OP_APPEND && e->odd == PLAIN;
    for (size_t i = 0; i < e->count && known; i++)
        known = (w->sides[TESTED].there[e->store] & entry_bit(e->entries[i])) != 0;
    return known;
}

static bool draw_altered(struct world *w, int log, size_t from, bool back)
{
    if (!w->alone)
        return world_below(w, 12) == 0;
    return back && w->informed && world_below(w, 3) == 0 &&
           is_known_append(w, &w->logs[log].events[from]);
}

/* What is back in memory alone is brought anew here, and may be refused. */
static bool brings_gone(struct world *w)
{
    const struct side *side = &w->sides[MEMORY];
    bool gone = false;
    for (size_t i = 0; i < side->op_count && !gone; i++) {
        const int store = op_event(w, &side->ops[i])->store;
        gone = side->ops[i].kind == LDG_OP_APPEND &&
               entry_is_gone(w, store, entry_pos(w, store, side->ops[i].key));
    }
    return gone;
}

/* New events, or, as after `bridge cursor set`, some from before first. */
static void carry(struct world *w)
{
    const int log = w->single || world_below(w, 2) ? A : B;
    struct log *l = &w->logs[log];
    const bool back = l->read > 0 && world_below(w, 4) == 0;
    const size_t from = back ? world_below(w, l->read) : l->read,
                 size = 1 + world_below(w, BATCH_EVENTS);
    if (w->alone && world_below(w, back ? 2 : 10) == 0)
        reopen(w);
    const bool altered = draw_altered(w, log, from, back);
    struct manner how = { .park_rejected = altered || world_below(w, 5) != 0,
                          .stale = world_below(w, 30) == 0,
                          .keeps_cursor = world_below(w, 15) == 0 };
    const size_t changed = w->alone ? 0 : world_below(w, size);
    while (l->count < from + size)
        w->alone ? world_write_faithfully(w, log) : world_write(w, log);
    size_t end = from;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        s->op_count = 0;
        for (end = from; end < from + size; end++) {
            struct ldg_op *ops = s->ops + s->op_count;
            const size_t count =
                world_ops(w, s, log, end, w->readable, altered && end == from + changed, ops);
            if (end > from && count > 0 && trims_refused(w, ops))
                break;
            s->op_count += count;
        }
    }
    how.park_rejected = how.park_rejected || brings_gone(w);
    bool done = apply(w, &how, false);
    if (!done && w->alone && !how.stale && !altered) { /* what was done of it stays */
        how.park_rejected = true;
        done = apply(w, &how, true);
    }
    if (!w->alone || done)
        l->read = end > l->read ? end : l->read;
}

/* --- parked events --------------------------------------------------------------------------- */

/* The ops of a parked event, of which the row may hold one entry. */
static size_t row_ops(struct world *w, const struct side *side, const struct ldg_parked_row *row,
                      bool readable, struct ldg_op *ops)
{
    struct ldg_op all[EVENT_ENTRIES];
    const int log = world_letter(w, row->source_uuid) == 'a' ? A : B;
    const size_t most =
        world_ops(w, side, log, (size_t)row->log_position - 1, readable, false, all);
    size_t count = 0;
    for (size_t i = 0; i < most; i++)
        if (ldg_id_is_none(row->key) || ldg_id_equal(all[i].key, row->key))
            ops[count++] = all[i];
    return count;
}

static void retry(struct world *w, const struct side *side, int64_t id, const struct ldg_op *ops,
                  size_t count, bool *ret_applied)
{
    const bool breaks = w->alone && side == &w->sides[TESTED] && world_below(w, 4) == 0;
    ledger_error err;
    if (breaks)
        break_soon(w);
    ledger_rc rc = ldg_store_parked_retry(side->store, id, ops, count, ret_applied, &err);
    if (breaks)
        w->env->backend->fault("");
    if (breaks && broke_off(rc, &err)) {
        w->broken = true;
        rc = ldg_store_parked_retry(side->store, id, ops, count, ret_applied, &err);
        if (rc == LEDGER_ERR_NOT_FOUND) {
            *ret_applied = true; /* that was all */
            return;
        }
    }
    ok(rc);
}

/* As `bridge parked retry` and `drop` do it. */
static void try_parked(struct world *w)
{
    const unsigned dice = world_below(w, 12), index = world_below(w, 1000);
    char key[LEDGER_ID_TEXT_MAX];
    struct ldg_op all[SIDES][EVENT_ENTRIES];
    size_t op_count = 0;
    bool applied[SIDES] = { false, false };
    ledger_error err;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        struct ldg_parked_row *rows = NULL;
        struct ldg_op *ops = all[side];
        uint64_t dropped;
        const size_t count = world_parked(w, s, &rows);
        if (count == 0)
            return;
        const struct ldg_parked_row *row = &rows[index % count];
        op_count = dice < 10 ? row_ops(w, s, row, dice > 0, ops) : 0;
        if (dice == 10)
            ok(ldg_store_parked_note(s->store, row->id, "noted", &err));
        else if (dice == 11)
            ok(ldg_store_parked_drop(s->store, row->id, &dropped, &err));
        else
            retry(w, s, row->id, ops, dice == 1 ? 0 : op_count, &applied[side]);
        if (side == MEMORY)
            touch(w, ops, op_count);
        if (side == TESTED && applied[MEMORY] != applied[TESTED])
            world_differ(w,
                         "parked event %" PRId64
                         " (%s of %s, entry %s) tried again: applied is %d, not %d",
                         row->log_position, row->type_name, row->stream, ldg_id_text(row->key, key),
                         applied[TESTED], applied[MEMORY]);
    }
    if (w->alone && applied[MEMORY]) /* once both have chosen among what is not gone */
        note_gone(w, all[MEMORY], NULL, dice == 1 ? 0 : op_count);
}

/* --- a program's writes ---------------------------------------------------------------------- */

static void append_own(struct world *w)
{
    const int64_t pos = (int64_t)w->own_count;
    ledger_error err;
    if (w->own_count + 1 >= ENTRIES_MAX || (w->refusing && entry_stream(w, OWN, pos) == REFUSED))
        return;
    EACH(side)
    {
        struct side *s = &w->sides[side];
        ledger_append_entry entry;
        ledger_ids ids;
        entry_fill(w, s, OWN, pos, false, &entry);
        const ledger_append_input input = { .payload = entry.payload,
                                            .order_key = entry.order_key,
                                            .dedup_key = entry.dedup_key,
                                            .schema_version = entry.schema_version,
                                            .metadata = entry.metadata,
                                            .tags = entry.tags };
        const char *stream = w->streams[entry_stream(w, OWN, pos)];
        ok(ledger_store_append(s->store, stream, &input, 1, &ids, &err));
        s->own_ids[pos] = ids.count > 0 ? ids.items[0].number : 0;
        ledger_ids_destroy(&ids);
        ledger_batch *batch = conf_read(s->store, stream, NULL);
        const size_t count = ledger_batch_count(batch);
        s->own_times[pos] =
            s->own_ids[pos] ? ledger_batch_entry(batch, count - 1)->created_at_us : 0;
        ledger_batch_destroy(&batch);
    }
    w->own_count++;
}

/* Of any entry of a stream, or up to it. */
static void change_local(struct world *w)
{
    const char *stream = w->streams[world_below(w, STREAMS - 1)];
    const unsigned dice = world_below(w, 9), index = world_below(w, 1000);
    const char *value = world_values[world_below(w, VALUES)];
    ledger_error err;
    EACH(side)
    {
        ledger_store *store = w->sides[side].store;
        ledger_batch *batch = conf_read(store, stream, NULL);
        const size_t count = ledger_batch_count(batch);
        const ledger_id id = count > 0 ? ledger_batch_entry(batch, index % count)->id : conf_id(0);
        ledger_batch_destroy(&batch);
        if (count == 0)
            return;
        if (dice < 4)
            ok(ledger_store_set_tags(store, stream, id, conf_list(value), &err));
        else if (dice < 8)
            ok(ledger_store_set_annotations(store, stream, id,
                                            conf_map({ "k0", dice < 6 ? value : NULL }), &err));
        else
            ok(ledger_store_trim(store, stream, id, NULL, &err));
    }
}

/* --- rounds ---------------------------------------------------------------------------------- */

static void refuse(struct world *w, bool on)
{
    w->refusing = on;
    EACH(side)
    w->sides[side].backend->refuse(
        w->sides[side].url, w->sides[side].table ? w->sides[side].table : LEDGER_DEFAULT_TABLE,
        on ? w->streams[REFUSED] : NULL);
}

/* A source that is the only one of its table, or one that others have used. */
static void open_round(struct world *w)
{
    snprintf(w->table, sizeof w->table, "single_%u", w->round);
    EACH(side)
    {
        struct side *s = &w->sides[side];
        ledger_store *before = s->store; /* with its last handle memory would be gone */
        s->table = w->single ? w->table : NULL;
        open_side(w, s);
        ledger_store_close(&before);
    }
}

static void round_begin(struct world *w)
{
    ledger_error err;
    w->random = w->seed;
    w->calm = w->seed % 3 == 0;
    w->single = w->alone && w->seed % 4 == 0;
    w->last_store = w->single ? A : C;
    w->broken = false;
    w->informed = false;
    memset(w->gone, 0, sizeof w->gone);
    memset(w->aside, 0, sizeof w->aside);
    if (w->alone)
        open_round(w);
    const bool takes_texts = (ldg_store_caps(w->sides[TESTED].store) & LDG_CAP_TEXT_KEYS) != 0;
    memset(w->last, 0, sizeof w->last);
    w->own_count = 0;
    w->readable = false;
    memset(w->logs, 0, sizeof w->logs);
    for (int i = 0; i < STREAMS; i++)
        snprintf(w->streams[i], sizeof w->streams[i], "r%u.%d", w->round, i);
    for (int i = A; i < STORES; i++) {
        ldg_uuid_new(w->identities[i].uuid);
        w->identities[i].epoch = 1;
        w->texts[i] = takes_texts && (w->seed / 3 >> i & 1) != 0;
    }
    EACH(side)
    {
        struct side *s = &w->sides[side];
        memset(s->own_ids, 0, sizeof s->own_ids);
        memset(s->own_times, 0, sizeof s->own_times);
        memset(s->there, 0, sizeof s->there);
        for (int i = A; i <= w->last_store; i++)
            ok(ldg_store_origin_get(s->store, &w->identities[i], "", &s->origins[i], &err));
    }
}

/* The next round's part of the log begins behind this one's, and nothing stays parked. */
static void round_end(struct world *w)
{
    struct ldg_buf ignored;
    uint64_t dropped;
    ledger_error err;
    if (w->refusing)
        refuse(w, false);
    memset(w->touched, true, sizeof w->touched);
    world_compare(w);
    ldg_buf_init(&ignored, 1 << 24);
    EACH(side)
    {
        struct side *s = &w->sides[side];
        if (w->has_log)
            world_put_log(w, s, s->log_state, &ignored);
        ok(ldg_store_parked_drop(s->store, 0, &dropped, &err));
    }
    ldg_buf_fini(&ignored);
}

static void step(struct world *w)
{
    const unsigned dice = world_below(w, 24);
    if (dice < 3 && !w->alone)
        append_own(w);
    else if (dice < 5 && !w->alone)
        change_local(w);
    else if (dice < 9)
        try_parked(w);
    else if (dice == 9 && !w->calm)
        refuse(w, !w->refusing);
    else if (dice == 10)
        w->readable = !w->readable;
    else
        carry(w);
}

static void run_rounds(struct conf_env *env, ledger_log_mode log)
{
    const bool once = getenv("LEDGER_TEST_SEED") && !getenv("LEDGER_TEST_SCALE");
    const unsigned rounds = once ? 1 : (unsigned)tst_scale(ROUNDS);
    const int64_t end_us = tst_mono_us() + (int64_t)tst_scale(ALONE_S) * 1000000;
    struct world *w = test_calloc(1, sizeof *w);
    const uint64_t seed = tst_seed();
    w->env = env;
    w->has_log = log == LEDGER_MUTATION_LOG_ON;
    w->alone = env->backend->alone;
    ldg_arena_init(&w->arena, 0);
    EACH(side)
    {
        struct conf_env as = *env;
        struct side *s = &w->sides[side];
        s->backend = as.backend = side == MEMORY ? conf_oracle() : env->backend;
        snprintf(s->url, sizeof s->url, "%s", conf_url(&as, "sink"));
        if (!w->alone)
            open_side(w, s);
    }
    for (w->round = 0; w->round < rounds; w->round++) {
        if (w->alone && w->round > 0 && tst_mono_us() > end_us)
            break;
        w->seed = seed + w->round;
        round_begin(w);
        for (int i = 0; i < STEPS; i++) {
            ldg_arena_reset(&w->arena);
            memset(w->touched, false, sizeof w->touched);
            step(w);
            if (once || w->alone)
                world_compare(w);
        }
        round_end(w);
    }
    EACH(side)
    ledger_store_close(&w->sides[side].store);
    ldg_arena_fini(&w->arena);
    test_free(w);
}

static void random_batches(struct conf_env *env)
{
    run_rounds(env, LEDGER_MUTATION_LOG_ON);
}

static void random_batches_without_a_log(struct conf_env *env)
{
    run_rounds(env, LEDGER_MUTATION_LOG_OFF);
}

#define RANDOM                                                                                     \
    (LDG_CAP_ATOMIC_BATCH | LDG_CAP_TX_CURSOR | LDG_CAP_ORIGINS | LDG_CAP_PARK | LDG_CAP_TAGS |    \
     LDG_CAP_ANNOTATIONS | LDG_CAP_TRIM | LDG_CAP_MUTATION_LOG)
const struct conf_case conf_random_cases[] = {
    { "random batches", random_batches, RANDOM, offsetof(struct conf_backend, refuse), true },
    { "random batches without a log", random_batches_without_a_log, RANDOM,
      offsetof(struct conf_backend, refuse), true, .alone = true },
};
const size_t conf_random_case_count = sizeof(conf_random_cases) / sizeof(conf_random_cases[0]);

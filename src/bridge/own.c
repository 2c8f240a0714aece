/* A program's own sink (ledger/sink.h) as a backend that only takes ops.
 *
 * Hides what a program may do wrong in there: what it returns is looked at before it counts, and a
 * call back into the bridge is told apart from one of another thread. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/options.h"
#include "bridge/stages.h"
#include "event/event.h"

struct ldg_own_sink {
    struct ldg_backend backend; /* first: a handle finds the rest by it */
    struct ldg_sink_role role;
    ledger_sink sink;
    atomic_llong since_us; /* monotonic: in deliver() since then; 0: it is not */
    char source_uuid[LDG_UUID_TEXT_MAX], state_uuid[LDG_UUID_TEXT_MAX];
    struct ldg_own_sink *next; /* of those that bridges of this process deliver to */
};

static const struct ldg_options sink_options = {
    .name = "ledger_sink",
    .defaults =
        &(const ledger_sink){
            .size = sizeof(ledger_sink),
            .takes = 1U << LEDGER_MUTATION_APPEND | 1U << LEDGER_MUTATION_SET_TAGS |
                     1U << LEDGER_MUTATION_SET_ANNOTATIONS | 1U << LEDGER_MUTATION_TRIM,
        },
    .size = sizeof(ledger_sink),
    .least = LDG_OPTIONS_UP_TO(ledger_sink, close),
};

void ledger_sink_init(ledger_sink *sink, size_t size)
{
    ldg_options_init(&sink_options, sink, size);
}

/* --- the thread that is in there -------------------------------------------------------------- */

/* Sinks whose deliver() this thread is in: one may carry on another bridge. */
struct inside {
    const struct ldg_own_sink *own;
    const struct inside *outer;
};
static _Thread_local const struct inside *inside;

bool ldg_own_is_inside(const struct ldg_own_sink *own)
{
    const struct inside *at = inside;
    while (at != NULL && at->own != own)
        at = at->outer;
    return own != NULL && at != NULL;
}

int64_t ldg_own_inside_ms(struct ldg_own_sink *own)
{
    const int64_t since_us = own != NULL ? atomic_load(&own->since_us) : 0;
    return since_us != 0 ? (ldg_clock_mono_us() - since_us) / 1000 : 0;
}

/* --- those of this process -------------------------------------------------------------------- */

static pthread_mutex_t entered_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct ldg_own_sink *entered;

/* Why the two cannot go on side by side; NULL: they can. */
static const char *find_clash(const struct ldg_own_sink *a, const struct ldg_own_sink *b)
{
    const bool same_sink = a->sink.deliver == b->sink.deliver && a->sink.ctx == b->sink.ctx;
    const bool same_state = strcmp(a->state_uuid, b->state_uuid) == 0;
    if (strcmp(a->source_uuid, b->source_uuid) != 0 || same_sink == same_state)
        return NULL;
    return same_sink ? "another bridge of this process carries this source to the same sink (the "
                       "same deliver and ctx) and keeps its state elsewhere, so all would be "
                       "delivered twice; give both the same --state"
                     : "another bridge of this process carries this source to another sink and "
                       "keeps its state in the same table, so what one of the sinks refuses would "
                       "be kept from both; give each a --state-table of its own";
}

ledger_rc ldg_own_enter(struct ldg_own_sink *own, const char *source_uuid, const char *state_uuid,
                        ledger_error *err)
{
    const char *clash = NULL;
    (void)snprintf(own->source_uuid, sizeof(own->source_uuid), "%s", source_uuid);
    (void)snprintf(own->state_uuid, sizeof(own->state_uuid), "%s", state_uuid);
    pthread_mutex_lock(&entered_mutex);
    for (const struct ldg_own_sink *at = entered; at != NULL && clash == NULL; at = at->next)
        clash = find_clash(at, own);
    if (clash == NULL) {
        own->next = entered;
        entered = own;
    }
    pthread_mutex_unlock(&entered_mutex);
    return clash == NULL ? LEDGER_OK : ldg_fail(err, LEDGER_ERR_INVALID, "%s", clash);
}

static void leave(struct ldg_own_sink *own)
{
    pthread_mutex_lock(&entered_mutex);
    struct ldg_own_sink **link = &entered;
    while (*link != NULL && *link != own)
        link = &(*link)->next;
    if (*link != NULL)
        *link = own->next;
    pthread_mutex_unlock(&entered_mutex);
}

/* --- ops as mutations ------------------------------------------------------------------------- */

static bool translate(const struct ldg_op *op, struct ldg_arena *arena, ledger_mutation *mutation)
{
    char key[LDG_DELIVERY_KEY_MAX], origin[LDG_DELIVERY_KEY_MAX];
    ldg_op_delivery_key(op, key);
    (void)snprintf(origin, sizeof(origin), "%s:%" PRId64, op->source_uuid, op->source_epoch);
    *mutation = (ledger_mutation){
        .key = ldg_arena_strdup(arena, key),
        .type = ldg_op_type(op->kind),
        .stream = op->stream,
        .origin = op->origin_text[0] != '\0' ? op->origin_text : ldg_arena_strdup(arena, origin),
        .id = op->key,
        .survivors = op->survivors,
        .survivor_count = op->survivor_count,
        .entry = op->entry,
        .tags = op->tags,
        .annotations = op->annotations,
        .time_us = op->time_us,
        .position = op->log_position,
    };
    return mutation->key != NULL && mutation->origin != NULL;
}

/* --- what it returns -------------------------------------------------------------------------- */

/* As text that every store takes: the program may have written anything. */
static const char *reason_of(ledger_delivery *result)
{
    result->reason[LEDGER_DELIVERY_REASON_MAX - 1] = '\0';
    const size_t size = strlen(result->reason);
    if (!ldg_utf8_valid(result->reason, size))
        for (size_t i = 0; i < size; i++)
            if ((unsigned char)result->reason[i] >= 0x80)
                result->reason[i] = '?';
    return result->reason;
}

static ledger_rc judge(const ledger_mutation *mutation, ledger_delivery *result, ledger_error *err)
{
    const char *reason = reason_of(result);
    switch (result->code) {
    case LEDGER_DELIVERY_DONE:
        return LEDGER_OK;
    case LEDGER_DELIVERY_LATER:
        return ldg_fail(err, LEDGER_ERR_BUSY, "the sink wants %s later%s%s", mutation->key,
                        reason[0] != '\0' ? ": " : "", reason);
    case LEDGER_DELIVERY_REFUSED:
        if (reason[0] != '\0')
            return ldg_fail(err, LEDGER_ERR_REJECTED, "%s", reason);
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "deliver() of the program's sink refused %s without a reason; set "
                        "results[i].reason",
                        mutation->key);
    }
    return ldg_fail(err, LEDGER_ERR_INVALID,
                    "deliver() of the program's sink returned code %d for %s, which is none of "
                    "ledger_delivery_code",
                    (int)result->code, mutation->key);
}

/* results: room for one more than count, which has to stay as it is. */
static size_t call(struct ldg_own_sink *own, const ledger_mutation *const *mutations, size_t count,
                   ledger_delivery *results)
{
    const struct inside here = { .own = own, .outer = inside };
    memset(results, 0, (count + 1) * sizeof(*results));
    inside = &here;
    atomic_store(&own->since_us, ldg_clock_mono_us());
    const size_t given = own->sink.deliver(own->sink.ctx, mutations, count, results);
    atomic_store(&own->since_us, 0);
    inside = here.outer;
    return given;
}

static bool is_untouched(const ledger_delivery *result)
{
    static const ledger_delivery zeroes;
    return memcmp(result, &zeroes, sizeof(zeroes)) == 0;
}

/* One call after the other, until it has all. *ret_done: how many it has. */
static ledger_rc deliver(struct ldg_own_sink *own, const struct ldg_apply *apply,
                         const ledger_mutation *const *mutations, ledger_delivery *results,
                         size_t *ret_done, ledger_error *err)
{
    const size_t count = apply->count;
    ledger_rc rc = LEDGER_OK;
    while (rc == LEDGER_OK && *ret_done < count) {
        const ledger_mutation *const *rest = mutations + *ret_done;
        const size_t left = count - *ret_done;
        const size_t given = call(own, rest, left, results);
        if (!is_untouched(&results[left]))
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "deliver() of the program's sink filled results for more than the %zu "
                            "mutations that it was given, from %s on",
                            left, rest[0]->key);
        if (given > left)
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "deliver() of the program's sink returned %zu results for %zu "
                            "mutations, from %s on",
                            given, left, rest[0]->key);
        if (given == 0) /* LATER, as it was before the call */
            rc = judge(rest[0], memset(&results[0], 0, sizeof(results[0])), err);
        for (size_t i = 0; rc == LEDGER_OK && i < given; i++) {
            rc = judge(rest[i], &results[i], err);
            if (rc == LEDGER_OK)
                ldg_apply_op_done(apply, (*ret_done)++);
        }
    }
    return rc;
}

/* --- the backend ------------------------------------------------------------------------------ */

static ledger_rc own_open(void *ctx, const struct ldg_open *open, ledger_error *err)
{
    (void)err;
    *(const struct ldg_backend **)ctx = open->backend;
    return LEDGER_OK;
}

static void own_close(void *ctx)
{
    (void)ctx; /* the program's close() comes once, when the bridge ends */
}

static ledger_rc own_health(void *ctx, ledger_error *err)
{
    (void)ctx;
    (void)err;
    return LEDGER_OK;
}

static ledger_rc own_apply(void *ctx, const struct ldg_apply *apply, uint8_t *ret_outcomes,
                           ledger_error *err)
{
    struct ldg_own_sink *own = *(struct ldg_own_sink **)ctx;
    struct ldg_arena arena;
    size_t done = 0;
    ldg_arena_init(&arena, 0);
    ledger_mutation *mutations = ldg_arena_calloc(&arena, apply->count, sizeof(*mutations));
    const ledger_mutation **list = ldg_arena_calloc(&arena, apply->count, sizeof(*list));
    ledger_delivery *results = ldg_arena_calloc(&arena, apply->count + 1, sizeof(*results));
    ledger_rc rc =
        mutations != NULL && list != NULL && results != NULL ? LEDGER_OK : ldg_fail_nomem(err);
    for (size_t i = 0; rc == LEDGER_OK && i < apply->count; i++) {
        list[i] = &mutations[i];
        if (!translate(&apply->ops[i], &arena, &mutations[i]))
            rc = ldg_fail_nomem(err);
    }
    if (rc == LEDGER_OK)
        rc = deliver(own, apply, list, results, &done, err);
    memset(ret_outcomes, LDG_OUTCOME_APPLIED, done);
    if (rc != LEDGER_OK)
        err->done_count = done;
    ldg_arena_fini(&arena);
    return rc;
}

static uint32_t kinds_of(uint32_t types)
{
    uint32_t kinds = 0;
    for (int kind = LDG_OP_APPEND; kind <= LDG_OP_TRIM; kind++)
        if ((types >> ldg_op_type((enum ldg_op_kind)kind) & 1) != 0)
            kinds |= 1U << kind;
    return kinds;
}

ledger_rc ldg_own_create(const ledger_sink *sink, struct ldg_own_sink **ret_own, ledger_error *err)
{
    ledger_sink taken;
    ledger_rc rc = ldg_options_take(&sink_options, sink, &taken, err);
    if (rc != LEDGER_OK)
        return rc;
    if (taken.deliver == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "sink: deliver is NULL");
    if ((taken.takes >> LEDGER_MUTATION_APPEND & 1) == 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "sink: takes lacks appends");
    if (taken.takes >> LEDGER_MUTATION_UNKNOWN != 0)
        return ldg_fail(err, LEDGER_ERR_INVALID, "sink: takes names a type that does not exist");
    struct ldg_own_sink *own = ldg_calloc(1, sizeof(*own));
    if (own == NULL)
        return ldg_fail_nomem(err);
    own->sink = taken;
    own->role = (struct ldg_sink_role){ .takes = kinds_of(taken.takes), .apply = own_apply };
    own->backend = (struct ldg_backend){
        .name = "own",
        .scheme = "own",
        .caps = LDG_CAP_TEXT_KEYS,
        .ctx_size = sizeof(const struct ldg_backend *),
        .open = own_open,
        .close = own_close,
        .health = own_health,
        .sink = &own->role,
    };
    *ret_own = own;
    return LEDGER_OK;
}

ledger_rc ldg_own_open(const struct ldg_own_sink *own, ledger_store **ret_store, ledger_error *err)
{
    const ledger_store_options options = { .size = sizeof(options), .url = "own:sink" };
    return ldg_store_open_as(&own->backend, &options, LDG_ROLE_USER, ret_store, err);
}

void ldg_own_destroy(struct ldg_own_sink **own, bool close)
{
    if (*own != NULL)
        leave(*own);
    if (*own != NULL && close && (*own)->sink.close != NULL)
        (*own)->sink.close((*own)->sink.ctx);
    ldg_free(*own);
    *own = NULL;
}

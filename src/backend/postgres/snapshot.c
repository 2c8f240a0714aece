/* Sets of transaction numbers, and the cursor's text.
 *
 *     postgres:1:<uuid>:<epoch>:<system id>:<position>:<floor>:<carried>
 *         :<tally count>:<tally sum>:<since>:<s0>:<before, or s1>[:<last>:<end>:<top>]:<hash>
 *
 * A witness is <id>.<txid>.<hash16>; a set is its xmax and then, each behind a '-', the distances
 * of the numbers in progress from xmax downwards, in base 36, which keeps a thousand of them short.
 * The hash of all before it refuses texts that were cut or changed. */
#include "backend/postgres/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"

#define PREFIX "postgres:1:"
#define HASH_DIGITS 16
#define TXID_MAX ((uint64_t)INT64_MAX)

static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";

/* --- sets ------------------------------------------------------------------------------------ */

/* Index of the first number in xip that is not below txid. */
static size_t lower_bound(const struct ldg_pg_snapshot *s, uint64_t txid)
{
    size_t low = 0, high = s->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (s->xip[middle] < txid)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool ldg_pg_snapshot_sees(const struct ldg_pg_snapshot *s, uint64_t txid)
{
    if (txid >= s->xmax)
        return false;
    size_t at = lower_bound(s, txid);
    return at == s->count || s->xip[at] != txid;
}

static bool take_txid(const char **p, uint64_t *ret_value)
{
    uint64_t value = 0;
    const char *c = *p;

    if (*c < '0' || *c > '9')
        return false;
    for (; *c >= '0' && *c <= '9'; c++) {
        if (value > (TXID_MAX - (uint64_t)(*c - '0')) / 10)
            return false;
        value = value * 10 + (uint64_t)(*c - '0');
    }
    *p = c;
    *ret_value = value;
    return true;
}

static size_t count_char(const char *text, char c)
{
    size_t count = 0;

    for (; *text; text++)
        count += *text == c;
    return count;
}

bool ldg_pg_snapshot_parse(const char *text, struct ldg_arena *arena,
                           struct ldg_pg_snapshot *ret_snapshot)
{
    struct ldg_pg_snapshot s = { 0 };
    uint64_t xmin, last = 0;
    const char *p = text;

    if (!take_txid(&p, &xmin) || *p++ != ':' || !take_txid(&p, &s.xmax) || *p++ != ':' ||
        xmin == 0 || xmin > s.xmax)
        return false;
    s.xip = ldg_arena_calloc(arena, *p ? count_char(p, ',') + 1 : 0, sizeof(*s.xip));
    if (!s.xip)
        return false;
    while (*p) {
        uint64_t txid;

        if (!take_txid(&p, &txid) || txid < xmin || txid >= s.xmax || txid <= last)
            return false;
        s.xip[s.count++] = last = txid;
        if (*p == ',' && p[1])
            p++;
        else if (*p)
            return false;
    }
    *ret_snapshot = s;
    return true;
}

void ldg_pg_snapshot_print(const struct ldg_pg_snapshot *s, struct ldg_buf *out)
{
    uint64_t xmax = s->xmax ? s->xmax : 1;

    ldg_buf_printf(out, "%" PRIu64 ":%" PRIu64 ":", s->count ? s->xip[0] : xmax, xmax);
    for (size_t i = 0; i < s->count; i++)
        ldg_buf_printf(out, i ? ",%" PRIu64 : "%" PRIu64, s->xip[i]);
}

/* An empty one with room. */
static bool make(uint64_t xmax, size_t room, struct ldg_arena *arena,
                 struct ldg_pg_snapshot *ret_snapshot)
{
    struct ldg_pg_snapshot s = { .xmax = xmax };

    s.xip = ldg_arena_calloc(arena, room, sizeof(*s.xip));
    if (s.xip)
        *ret_snapshot = s;
    return s.xip != NULL;
}

bool ldg_pg_snapshot_copy(const struct ldg_pg_snapshot *from, struct ldg_arena *arena,
                          struct ldg_pg_snapshot *ret_snapshot)
{
    return ldg_pg_snapshot_cut(from, from->xmax, arena, ret_snapshot);
}

bool ldg_pg_snapshot_cut(const struct ldg_pg_snapshot *from, uint64_t xmax, struct ldg_arena *arena,
                         struct ldg_pg_snapshot *ret_snapshot)
{
    struct ldg_pg_snapshot s;
    size_t count = lower_bound(from, xmax);

    if (!make(xmax < from->xmax ? xmax : from->xmax, count, arena, &s))
        return false;
    if (count > 0)
        memcpy(s.xip, from->xip, count * sizeof(*s.xip));
    s.count = count;
    *ret_snapshot = s;
    return true;
}

bool ldg_pg_snapshot_hide(const struct ldg_pg_snapshot *from, uint64_t txid,
                          struct ldg_arena *arena, struct ldg_pg_snapshot *ret_snapshot)
{
    struct ldg_pg_snapshot s;
    size_t at = lower_bound(from, txid);
    bool add = txid > 0 && ldg_pg_snapshot_sees(from, txid);

    if (!make(from->xmax, from->count + add, arena, &s))
        return false;
    if (at > 0)
        memcpy(s.xip, from->xip, at * sizeof(*s.xip));
    if (add)
        s.xip[at] = txid;
    if (from->count > at)
        memcpy(s.xip + at + add, from->xip + at, (from->count - at) * sizeof(*s.xip));
    s.count = from->count + add;
    *ret_snapshot = s;
    return true;
}

static bool is_among(uint64_t txid, const uint64_t *items, size_t count)
{
    const struct ldg_pg_snapshot list = { .count = count, .xip = (uint64_t *)items };
    size_t at = lower_bound(&list, txid);

    return at < count && items[at] == txid;
}

bool ldg_pg_snapshot_settle(const struct ldg_pg_snapshot *from, const struct ldg_pg_snapshot *later,
                            const uint64_t *keep, size_t keep_count, struct ldg_arena *arena,
                            struct ldg_pg_snapshot *ret_snapshot)
{
    struct ldg_pg_snapshot s;

    if (!make(from->xmax, from->count, arena, &s))
        return false;
    for (size_t i = 0; i < from->count; i++)
        if (!ldg_pg_snapshot_sees(later, from->xip[i]) || is_among(from->xip[i], keep, keep_count))
            s.xip[s.count++] = from->xip[i];
    *ret_snapshot = s;
    return true;
}

bool ldg_pg_snapshot_ended(const struct ldg_pg_snapshot *from, const struct ldg_pg_snapshot *later,
                           struct ldg_arena *arena, uint64_t **ret_items, size_t *ret_count)
{
    size_t count = 0;
    uint64_t *items = ldg_arena_calloc(arena, from->count, sizeof(*items));

    if (!items)
        return false;
    for (size_t i = 0; i < from->count; i++)
        if (ldg_pg_snapshot_sees(later, from->xip[i]))
            items[count++] = from->xip[i];
    *ret_items = items;
    *ret_count = count;
    return true;
}

struct ldg_pg_witness ldg_pg_witness_higher(struct ldg_pg_witness a, struct ldg_pg_witness b)
{
    bool b_wins =
        a.id == 0 || (b.id != 0 && (b.txid > a.txid || (b.txid == a.txid && b.id > a.id)));

    return b_wins ? b : a;
}

/* --- the cursor's text ----------------------------------------------------------------------- */

static void put_set(const struct ldg_pg_snapshot *s, struct ldg_buf *out)
{
    uint64_t above = s->xmax;

    ldg_buf_printf(out, ":%" PRIu64, s->xmax);
    for (size_t i = s->count; i-- > 0;) {
        uint64_t distance = above - s->xip[i];
        char text[16];
        size_t at = sizeof(text);

        for (; distance > 0; distance /= 36)
            text[--at] = digits[distance % 36];
        ldg_buf_putc(out, '-');
        ldg_buf_append(out, text + at, sizeof(text) - at);
        above = s->xip[i];
    }
}

static void put_witness(const struct ldg_pg_witness *w, struct ldg_buf *out)
{
    ldg_buf_printf(out, ":%" PRId64 ".%" PRIu64 ".%016" PRIx64, w->id, w->txid, w->hash);
}

ledger_rc ldg_pg_cursor_format(const struct ldg_pg_cursor *c, char text[LDG_CURSOR_STATE_MAX],
                               ledger_error *err)
{
    struct ldg_buf out;
    ledger_rc rc;

    ldg_buf_init(&out, LDG_CURSOR_STATE_MAX - 1);
    ldg_buf_printf(&out, PREFIX "%s:%" PRId64 ":%s:%" PRId64 ":%" PRId64, c->identity.uuid,
                   c->identity.epoch, c->system_id, c->position, c->floor);
    put_witness(&c->carried, &out);
    ldg_buf_printf(&out, ":%" PRIu64 ":%" PRIu64 ":%" PRId64, c->tally_count, c->tally_sum,
                   c->since);
    put_set(&c->s0, &out);
    put_set(c->open ? &c->s1 : &c->before, &out);
    if (c->open) {
        ldg_buf_printf(&out, ":%" PRId64 ":%" PRId64, c->last, c->end);
        put_witness(&c->top, &out);
    }
    if (out.rc == LEDGER_OK)
        ldg_buf_printf(&out, ":%016" PRIx64, ldg_hash64(out.data, out.size, 0));
    rc = out.rc;
    if (rc == LEDGER_OK)
        memcpy(text, out.data, out.size + 1);
    else if (rc == LEDGER_ERR_TOO_LARGE)
        rc = ldg_fail(err, LEDGER_ERR_BUSY,
                      "%zu transactions are open at the source, more than a cursor can note; the "
                      "bridge goes on when some of them have ended",
                      c->s0.count);
    else
        rc = ldg_fail_nomem(err);
    ldg_buf_fini(&out);
    return rc;
}

static bool take_number(const char **p, char end, int64_t *ret_value)
{
    uint64_t value;

    if (!take_txid(p, &value) || **p != end)
        return false;
    ++*p;
    *ret_value = (int64_t)value;
    return true;
}

/* Up to the next ':', which must come. */
static bool take_text(const char **p, char *out, size_t out_size)
{
    size_t size = strcspn(*p, ":");

    if ((*p)[size] != ':' || size >= out_size)
        return false;
    memcpy(out, *p, size);
    out[size] = '\0';
    *p += size + 1;
    return true;
}

static bool take_hash(const char **p, uint64_t *ret_hash)
{
    uint64_t value = 0;

    for (int i = 0; i < HASH_DIGITS; i++, ++*p) {
        const char *digit = **p ? memchr(digits, **p, 16) : NULL;

        if (!digit)
            return false;
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *ret_hash = value;
    return true;
}

static bool take_witness(const char **p, struct ldg_pg_witness *w)
{
    int64_t txid;

    if (!take_number(p, '.', &w->id) || !take_number(p, '.', &txid) || !take_hash(p, &w->hash) ||
        **p != ':')
        return false;
    ++*p;
    w->txid = (uint64_t)txid;
    return true;
}

static bool take_distance(const char **p, uint64_t *ret_value)
{
    const char *digit, *begin = *p;
    uint64_t value = 0;

    while (**p && (digit = memchr(digits, **p, 36)) != NULL) {
        uint64_t unit = (uint64_t)(digit - digits);

        if (value > (TXID_MAX - unit) / 36)
            return false;
        value = value * 36 + unit;
        ++*p;
    }
    *ret_value = value;
    return *p > begin && value > 0;
}

/* *ret_nomem tells the two kinds of false apart. */
static bool take_set(const char **p, struct ldg_arena *arena, struct ldg_pg_snapshot *s,
                     bool *ret_nomem)
{
    struct ldg_pg_snapshot set = { 0 };
    size_t size = strcspn(*p, ":"), room = 0;
    uint64_t above;

    for (size_t i = 0; i < size; i++)
        room += (*p)[i] == '-';
    if (!take_txid(p, &set.xmax))
        return false;
    *ret_nomem = !make(set.xmax, room, arena, &set);
    if (*ret_nomem)
        return false;
    set.count = room;
    above = set.xmax;
    for (size_t i = room; i-- > 0;) {
        uint64_t distance;

        if (*(*p)++ != '-' || !take_distance(p, &distance) || distance >= above)
            return false;
        set.xip[i] = above -= distance;
    }
    if (*(*p)++ != ':')
        return false;
    *s = set;
    return true;
}

static bool parse(const char *text, struct ldg_arena *arena, struct ldg_pg_cursor *c,
                  bool *ret_nomem)
{
    size_t size = strlen(text);
    struct ldg_pg_snapshot second;
    const char *p = text, *tail;
    int64_t tally[2];
    uint64_t hash;

    if (size < sizeof(PREFIX) + HASH_DIGITS || strncmp(p, PREFIX, sizeof(PREFIX) - 1) != 0)
        return false;
    tail = text + size - HASH_DIGITS;
    if (!take_hash(&tail, &hash) || hash != ldg_hash64(text, size - HASH_DIGITS - 1, 0))
        return false;
    tail = text + size - HASH_DIGITS; /* behind the last ':' */
    p += sizeof(PREFIX) - 1;
    if (!take_text(&p, c->identity.uuid, sizeof(c->identity.uuid)) ||
        !take_number(&p, ':', &c->identity.epoch) ||
        !take_text(&p, c->system_id, sizeof(c->system_id)) || !take_number(&p, ':', &c->position) ||
        !take_number(&p, ':', &c->floor) || !take_witness(&p, &c->carried) ||
        !take_number(&p, ':', &tally[0]) || !take_number(&p, ':', &tally[1]) ||
        !take_number(&p, ':', &c->since) || !take_set(&p, arena, &c->s0, ret_nomem) ||
        !take_set(&p, arena, &second, ret_nomem) || p > tail)
        return false;
    c->tally_count = (uint64_t)tally[0];
    c->tally_sum = (uint64_t)tally[1];
    c->open = p < tail;
    *(c->open ? &c->s1 : &c->before) = second;
    if (c->open && (!take_number(&p, ':', &c->last) || !take_number(&p, ':', &c->end) ||
                    !take_witness(&p, &c->top)))
        return false;
    c->set = true;
    return p == tail && c->identity.uuid[0] != '\0' &&
           (c->open ? c->s1.xmax >= c->s0.xmax : c->s0.xmax >= c->before.xmax);
}

ledger_rc ldg_pg_cursor_parse(const char *text, struct ldg_arena *arena,
                              struct ldg_pg_cursor *ret_cursor, ledger_error *err)
{
    struct ldg_pg_cursor c = { .set = false };
    bool nomem = false;
    ledger_rc rc = LEDGER_OK;

    if (*text && !parse(text, arena, &c, &nomem))
        rc = nomem ? ldg_fail_nomem(err) : ldg_cursor_fail(text, "postgres", "PostgreSQL", err);
    if (rc == LEDGER_OK)
        *ret_cursor = c;
    return rc;
}

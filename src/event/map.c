/* Sorted string maps, and decimal ids. A sorted map is ascending by the bytes of its keys, each key
 * once; what is sorted already is used as it is and costs one pass. */
#include <string.h>

#include "event/event.h"

#include "base/error.h"

static bool is_sorted(ledger_map map)
{
    for (size_t i = 1; i < map.count; i++) {
        if (strcmp(map.items[i - 1].key, map.items[i].key) >= 0)
            return false;
    }
    return true;
}

/* Merges from[low..mid) and from[mid..high) into to; of equal keys the left comes first. */
static void merge_runs(const ledger_pair *from, ledger_pair *to, size_t low, size_t mid,
                       size_t high)
{
    size_t left = low, right = mid;
    for (size_t i = low; i < high; i++) {
        bool take_left =
            left < mid && (right == high || strcmp(from[left].key, from[right].key) <= 0);
        to[i] = take_left ? from[left++] : from[right++];
    }
}

ledger_rc ldg_map_sort(ledger_map map, struct ldg_arena *arena, ledger_map *ret_map,
                       ledger_error *err)
{
    if (is_sorted(map)) {
        *ret_map = map;
        return LEDGER_OK;
    }
    ledger_pair *from = ldg_arena_memdup(arena, map.items, map.count * sizeof *from);
    ledger_pair *to = ldg_arena_alloc(arena, map.count * sizeof *to);
    if (from == NULL || to == NULL)
        return ldg_fail_nomem(err);
    /* Stable (merge) sort from the bottom up: a repeated key keeps its order, so the last wins. */
    for (size_t width = 1; width < map.count; width *= 2) {
        for (size_t low = 0; low < map.count; low += 2 * width) {
            size_t mid = map.count - low > width ? low + width : map.count;
            size_t high = map.count - mid > width ? mid + width : map.count;
            merge_runs(from, to, low, mid, high);
        }
        ledger_pair *swap = from;
        from = to;
        to = swap;
    }
    size_t count = 0;
    for (size_t i = 0; i < map.count; i++) {
        if (count > 0 && strcmp(from[count - 1].key, from[i].key) == 0)
            count--;
        from[count++] = from[i];
    }
    *ret_map = (ledger_map){ from, count };
    return LEDGER_OK;
}

ledger_rc ldg_map_merge(ledger_map base, ledger_map changes, struct ldg_arena *arena,
                        ledger_map *ret_map, ledger_error *err)
{
    ledger_map left, right;
    ledger_rc rc = ldg_map_sort(base, arena, &left, err);
    if (rc == LEDGER_OK)
        rc = ldg_map_sort(changes, arena, &right, err);
    if (rc != LEDGER_OK)
        return rc;
    /* Both are in memory, so the product fits. */
    ledger_pair *items = ldg_arena_alloc(arena, (left.count + right.count) * sizeof *items);
    if (items == NULL)
        return ldg_fail_nomem(err);
    size_t i = 0, j = 0, count = 0;
    while (i < left.count || j < right.count) {
        int order = i == left.count    ? 1
                    : j == right.count ? -1
                                       : strcmp(left.items[i].key, right.items[j].key);
        ledger_pair pair = order < 0 ? left.items[i] : right.items[j];
        if (order <= 0)
            i++;
        if (order >= 0)
            j++;
        if (pair.value != NULL)
            items[count++] = pair;
    }
    *ret_map = (ledger_map){ items, count };
    return LEDGER_OK;
}

/* Both NULL, or the same text. */
static bool same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

bool ldg_map_equal(ledger_map a, ledger_map b)
{
    if (a.count != b.count)
        return false;
    for (size_t i = 0; i < a.count; i++) {
        if (!same(a.items[i].key, b.items[i].key) || !same(a.items[i].value, b.items[i].value))
            return false;
    }
    return true;
}

bool ldg_list_equal(ledger_list a, ledger_list b)
{
    if (a.count != b.count)
        return false;
    for (size_t i = 0; i < a.count; i++) {
        if (!same(a.items[i], b.items[i]))
            return false;
    }
    return true;
}

bool ldg_int64_parse(const char *text, bool padded, int64_t *ret_value)
{
    int64_t value = 0;
    const char *p = text;
    if (*p == '\0' || (!padded && p[0] == '0' && p[1] != '\0'))
        return false;
    for (; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *p - '0', &value))
            return false;
    }
    *ret_value = value;
    return true;
}

/* Any bytes into the readers of maps and lists, the checker of payloads, and the small parsers of
 * times. What is read must be JSON and valid text, and written canonically read the same. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "event/event.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_map(ledger_bytes text, bool allow_null, struct ldg_arena *arena)
{
    struct ldg_buf buf;
    ledger_map map, again;
    if (ldg_json_get_map(text, allow_null, arena, &map, NULL) != LEDGER_OK)
        return;
    check(ldg_json_check(text, NULL) == LEDGER_OK);
    ldg_buf_init(&buf, (size_t)1 << 30);
    check(ldg_json_put_map(&buf, map) == LEDGER_OK);
    check(ldg_json_get_map((ledger_bytes){ buf.data, buf.size }, allow_null, arena, &again, NULL) ==
          LEDGER_OK);
    check(ldg_map_equal(map, again));
    ldg_buf_fini(&buf);
}

static void check_list(ledger_bytes text, struct ldg_arena *arena)
{
    struct ldg_buf buf;
    ledger_list list, again;
    if (ldg_json_get_list(text, arena, &list, NULL) != LEDGER_OK)
        return;
    check(ldg_json_check(text, NULL) == LEDGER_OK);
    ldg_buf_init(&buf, (size_t)1 << 30);
    check(ldg_json_put_list(&buf, list) == LEDGER_OK);
    check(ldg_json_get_list((ledger_bytes){ buf.data, buf.size }, arena, &again, NULL) ==
          LEDGER_OK);
    check(ldg_list_equal(list, again));
    ldg_buf_fini(&buf);
}

static void check_small(ledger_bytes text, struct ldg_arena *arena)
{
    char out[64];
    int64_t value, again;
    const char *s = ldg_arena_strndup(arena, text.data, text.size);
    check(s != NULL);
    ldg_mask_url(s, out, sizeof out);
    check(strlen(out) < sizeof out);
    if (ldg_duration_parse(s, &value))
        check(value >= 0);
    if (ldg_time_parse(text.data, text.size, &value)) {
        bool four_digits = value >= INT64_C(-62167219200000000) &&
                           value <= INT64_C(253402300799999999); /* a zone can lead out of them */
        ldg_time_format_rfc3339(value, out);
        check(!four_digits || (ldg_time_parse(out, strlen(out), &again) && again == value));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ldg_arena arena;
    ledger_bytes text = { data, size };
    ldg_arena_init(&arena, 0);
    if (ldg_json_check(text, NULL) == LEDGER_OK)
        check(ldg_utf8_valid((const char *)data, size));
    check_map(text, true, &arena);
    check_map(text, false, &arena);
    check_list(text, &arena);
    check_small(text, &arena);
    ldg_arena_fini(&arena);
    return 0;
}

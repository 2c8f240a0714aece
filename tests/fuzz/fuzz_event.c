/* Any bytes into the event decoder. What decodes must encode, and decode to the same again; what
 * does not must say so with a message, and leave names that can be printed. */
#include <stdlib.h>
#include <string.h>

#include "event/event.h"

#include "event_util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static void check_again(const ledger_mutation_event *event, struct ldg_arena *arena)
{
    struct ldg_buf buf;
    ledger_error err = { 0 };
    ledger_mutation_event again;
    ldg_buf_init(&buf, (size_t)1 << 30);
    ledger_rc rc = ldg_event_encode(event, &buf, &err);
    /* A time with a zone can lie before the year 0 or after 9999 by some hours. */
    if (rc != LEDGER_ERR_DATA || strstr(err.message, "created_at") == NULL) {
        check(rc == LEDGER_OK);
        check(ldg_event_decode((ledger_bytes){ buf.data, buf.size }, arena, &again, &err) ==
              LEDGER_OK);
        check(event_difference(event, &again) == NULL);
    }
    ldg_buf_fini(&buf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ldg_arena arena;
    ledger_mutation_event event;
    ledger_error err = { 0 };
    ldg_arena_init(&arena, 0);
    ledger_rc rc = ldg_event_decode((ledger_bytes){ data, size }, &arena, &event, &err);
    check(rc == LEDGER_OK || (err.code == rc && err.message[0] != '\0'));
    check(ldg_utf8_valid(event.stream, strlen(event.stream)));
    check(ldg_utf8_valid(event.type_name, strlen(event.type_name)));
    if (rc == LEDGER_OK)
        check_again(&event, &arena);
    ldg_arena_fini(&arena);
    return 0;
}

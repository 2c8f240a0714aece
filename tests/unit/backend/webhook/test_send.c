/* What each status means for what was sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backend/webhook/webhook.h"

static enum ldg_webhook_verdict wanted(int status)
{
    switch (status) {
    case 408: /* too slow */
    case 425: /* too early */
    case 429: /* too many */
        return LDG_WEBHOOK_LATER;
    case 401: /* our credentials, the proxy's, and an endpoint that is gone: every event's fault */
    case 407:
    case 410:
        return LDG_WEBHOOK_STOP;
    default:
        break;
    }
    if (status < 200 || (status >= 300 && status < 400))
        return LDG_WEBHOOK_STOP;
    return status < 300   ? LDG_WEBHOOK_TAKEN
           : status < 500 ? LDG_WEBHOOK_REFUSED
                          : LDG_WEBHOOK_LATER;
}

static void every_status(void **state)
{
    for (int status = 100; status < 1000; status++)
        if (ldg_webhook_judge(status) != wanted(status))
            fail_msg("%d: %d", status, (int)ldg_webhook_judge(status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

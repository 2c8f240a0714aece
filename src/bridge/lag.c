/* How long the oldest event behind the cursor has waited. Pure.
 *
 * An event carries the time of its writer's clock, which may be wrong by years; what stands in the
 * cursor's row is the time of the bridge's. A running bridge also knows by a clock that never jumps
 * when it saw events wait, and when it saw that there were none. Invariants: a lag is never
 * negative, and a bridge that stands is not hidden by a clock that is ahead. */
#include "bridge/stages.h"

#define EARLIEST_US (INT64_C(946684800) * 1000000) /* 2000: no event was written before it */
#define SKEW_US (INT64_C(2) * 1000000) /* clocks that are kept right differ by less than this */

struct ldg_lag ldg_lag_of_pair(int64_t now_us, int64_t oldest_us, int64_t moved_us)
{
    struct ldg_lag lag = { .known = true };
    int64_t since_us = oldest_us;

    lag.wrong_time =
        oldest_us == LEDGER_NO_TIME || oldest_us < EARLIEST_US || oldest_us - SKEW_US > now_us;
    if (lag.wrong_time) {
        since_us = moved_us;
        lag.known =
            moved_us != LEDGER_NO_TIME && moved_us >= EARLIEST_US && moved_us - SKEW_US <= now_us;
    }
    if (lag.known && now_us > since_us)
        lag.seconds = (double)(now_us - since_us) / 1e6;
    return lag;
}

void ldg_backlog_look(struct ldg_backlog *seen, bool any, int64_t mono_us)
{
    if (!any) {
        seen->since_us = 0;
        seen->empty_us = mono_us;
    } else if (seen->since_us == 0) {
        seen->since_us = mono_us;
    }
}

void ldg_backlog_progress(struct ldg_backlog *seen, bool more, int64_t mono_us)
{
    seen->since_us = more ? mono_us : 0;
}

double ldg_backlog_lag(const struct ldg_backlog *seen, int64_t age_us, int64_t mono_us)
{
    int64_t least = seen->since_us != 0 ? mono_us - seen->since_us : 0;

    if (seen->empty_us != 0 && age_us > mono_us - seen->empty_us)
        age_us = mono_us - seen->empty_us;
    if (age_us < least)
        age_us = least;
    return age_us > 0 ? (double)age_us / 1e6 : 0;
}

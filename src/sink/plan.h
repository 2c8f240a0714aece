/* The tables of a plan: entries by key, dedup keys by stream, what a trim may reach. Between
 * plan.c and apply.c, resolve.c, known.c, parking.c. */
#ifndef LDG_SINK_PLAN_H
#define LDG_SINK_PLAN_H

#include "sink/sink.h"

/* Entries of one origin in one stream, for trims. */
struct ldg_sink_group {
    int origin;
    const char *stream;
    uint32_t first, last; /* items that are here, in the order in which they came */
    uint32_t last_trim;   /* op; plan->before[] has the others */
    bool trimmed;
    ledger_id reach; /* the highest key that one of its trims reaches */
};

/* An empty plan for the range in hand. */
ledger_rc ldg_plan_begin(struct ldg_sink_batch *b, bool informed, ledger_error *err);
/* NULL: the plan has none of it. */
struct ldg_sink_item *ldg_plan_find(const struct ldg_sink_plan *p, int origin, ledger_id key);
/* Made where there is none. The key's text has to outlive the plan. */
struct ldg_sink_item *ldg_plan_item(struct ldg_sink_plan *p, int origin, ledger_id key,
                                    const char *stream);
/* The item is here from now on, with its stream and dedup key. */
void ldg_plan_enter(struct ldg_sink_plan *p, struct ldg_sink_item *item);
static inline bool ldg_plan_is_here(const struct ldg_sink_item *item)
{
    return item->state == LDG_SINK_STORED || item->state == LDG_SINK_ADDED;
}
/* Made where there is none. Of a plan with trims. */
struct ldg_sink_group *ldg_plan_group(struct ldg_sink_plan *p, int origin, const char *stream);
/* The entry that has the dedup key in the stream; NULL: it is free, as far as is known. */
struct ldg_sink_item *ldg_plan_holder(struct ldg_sink_plan *p, const char *stream, const char *key);

#endif

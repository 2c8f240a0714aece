/* Ops for the tests of the webhook: as a bridge hands them over. */
#ifndef TEST_WEBHOOK_OPS_H
#define TEST_WEBHOOK_OPS_H

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/webhook/webhook.h"

#define OPS_MAX 64
#define UUID "0b8cf04a-6c3f-4a37-9d8c-8f2f4f6d7e10"

struct test_ops {
    struct ldg_op ops[OPS_MAX];
    ledger_append_entry entries[OPS_MAX];
    char payloads[OPS_MAX][64], ids[OPS_MAX][24], events[OPS_MAX][256];
    size_t count;
};

static inline struct ldg_op *test_op(struct test_ops *all, enum ldg_op_kind kind,
                                     const char *stream)
{
    const size_t i = all->count++;
    struct ldg_op *op = &all->ops[i];
    const int64_t position = (int64_t)i + 1;
    (void)snprintf(all->ids[i], sizeof(all->ids[i]), "%" PRId64, 100 + position);
    (void)snprintf(all->payloads[i], sizeof(all->payloads[i]), "{\"n\": %" PRId64 "}", position);
    (void)snprintf(all->events[i], sizeof(all->events[i]),
                   "{\"type\":\"%s\",\"stream\":\"s\",\"n\":%" PRId64 "}",
                   ledger_mutation_type_name(ldg_op_type(kind)), position);
    all->entries[i] = (ledger_append_entry){
        .id = all->ids[i],
        .payload = { all->payloads[i], strlen(all->payloads[i]) },
        .order_key = "",
        .dedup_key = "",
        .schema_version = 1,
        .created_at_us = LEDGER_NO_TIME,
        .source_id = "",
    };
    *op = (struct ldg_op){
        .kind = kind,
        .position = position,
        .log_position = position,
        .stream = stream,
        .key = { .number = 100 + position },
        .time_us = LEDGER_NO_TIME,
        .entry = kind == LDG_OP_APPEND ? &all->entries[i] : NULL,
        .source_uuid = UUID,
        .source_epoch = 7,
        .origin_text = "",
        .log_time_us = LEDGER_NO_TIME,
        .event = { all->events[i], strlen(all->events[i]) },
        .event_index = (uint32_t)i,
        .parts = 1,
        .delivery = 1,
    };
    return op;
}

#endif

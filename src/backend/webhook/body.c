/* Bodies and ids of requests. Pure: an op has the same bytes on every try.
 *
 * Payloads and events are JSON that was checked; they go in as they are. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/webhook/webhook.h"
#include "event/event.h"

/* What RFC 3339 can write: the years 0 to 9999. */
#define TIME_MIN_US INT64_C(-62167219200000000)
#define TIME_MAX_US INT64_C(253402300799999999)

#define PUT(body, literal) ldg_buf_append((body), literal, sizeof(literal) - 1)

/* --- what every form has --------------------------------------------------------------------- */

static void put_time(struct ldg_buf *body, const char *key, int64_t time_us)
{
    char text[LDG_TIME_TEXT_MAX + 1];
    if (time_us == LEDGER_NO_TIME || time_us < TIME_MIN_US || time_us > TIME_MAX_US)
        return;
    ldg_time_format_rfc3339(time_us, text);
    const size_t size = strlen(text);
    text[size] = '"';
    ldg_buf_puts(body, key);
    ldg_buf_append(body, text, size + 1);
}

static void put_id(struct ldg_buf *body, ledger_id id)
{
    if (id.text != NULL) {
        ldg_json_put_string(body, id.text);
        return;
    }
    /* Digits from the end on; printf is slow. */
    char text[24], *p = text + sizeof(text);
    uint64_t left = id.number < 0 ? 0 - (uint64_t)id.number : (uint64_t)id.number;
    *--p = '"';
    do
        *--p = (char)('0' + left % 10);
    while ((left /= 10) > 0);
    if (id.number < 0)
        *--p = '-';
    *--p = '"';
    ldg_buf_append(body, p, (size_t)(text + sizeof(text) - p));
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void put_json(struct ldg_buf *body, ledger_bytes json)
{
    const char *p = json.data;
    size_t size = json.size;
    while (size > 0 && is_space(p[size - 1]))
        size--;
    while (size > 0 && is_space(*p)) {
        p++;
        size--;
    }
    ldg_buf_append(body, p, size);
}

static void put_extras(struct ldg_buf *body, const ledger_append_entry *entry)
{
    PUT(body, ",\"order_key\":");
    ldg_json_put_string(body, ldg_or_empty(entry->order_key));
    PUT(body, ",\"dedup_key\":");
    ldg_json_put_string(body, ldg_or_empty(entry->dedup_key));
    if (entry->schema_version == 1)
        PUT(body, ",\"schema_version\":1");
    else
        ldg_buf_printf(body, ",\"schema_version\":%d", entry->schema_version);
    PUT(body, ",\"metadata\":");
    if (entry->metadata.count > 0)
        ldg_json_put_map(body, entry->metadata);
    else
        PUT(body, "{}");
    PUT(body, ",\"tags\":");
    if (entry->tags.count > 0)
        ldg_json_put_list(body, entry->tags);
    else
        PUT(body, "[]");
}

/* Nearly all entries are. */
static bool is_plain(const ledger_append_entry *entry)
{
    return ldg_or_empty(entry->order_key)[0] == '\0' && ldg_or_empty(entry->dedup_key)[0] == '\0' &&
           entry->schema_version == 1 && entry->metadata.count == 0 && entry->tags.count == 0;
}

/* The Go module's fields, all of them; then ours. */
static void put_entry(struct ldg_buf *body, const struct ldg_op *op)
{
    const ledger_append_entry *entry = op->entry;
    PUT(body, "{\"payload\":");
    put_json(body, entry->payload);
    if (is_plain(entry)) {
        PUT(body, ",\"order_key\":\"\",\"dedup_key\":\"\",\"schema_version\":1,\"metadata\":{},"
                  "\"tags\":[]");
    } else {
        put_extras(body, entry);
    }
    PUT(body, ",\"source_id\":");
    put_id(body, op->key);
    put_time(body, ",\"created_at\":\"", op->time_us);
    if (ldg_or_empty(op->origin_text)[0] != '\0') {
        PUT(body, ",\"origin\":");
        ldg_json_put_string(body, op->origin_text);
    }
    ldg_buf_putc(body, '}');
}

/* Which entries a trim leaves although their ids are not above its own: its event does not say. */
static void put_survivors(struct ldg_buf *body, const struct ldg_op *op)
{
    if (op->kind != LDG_OP_TRIM || op->survivor_count == 0 || body->rc != LEDGER_OK)
        return;
    body->size--; /* the event's '}' */
    PUT(body, ",\"survivors\":[");
    for (size_t i = 0; i < op->survivor_count; i++) {
        if (i > 0)
            ldg_buf_putc(body, ',');
        put_id(body, op->survivors[i]);
    }
    PUT(body, "]}");
}

/* As it was read; of an append of several entries the part that is this op's. */
static void put_event(struct ldg_buf *body, const struct ldg_op *op)
{
    if (op->kind != LDG_OP_APPEND || op->parts <= 1) {
        put_json(body, op->event);
        put_survivors(body, op);
        return;
    }
    ledger_append_entry entry = *op->entry;
    ledger_mutation_event event = ldg_op_event(op, op->log_time_us);
    event.origin = ldg_or_empty(op->origin_text);
    if (event.origin[0] == '\0')
        event.origin_pos = 0;
    entry.created_at_us = event.created_at_us;
    event.entries = &entry;
    event.entry_count = 1;
    const ledger_rc rc = ldg_event_encode(&event, body, NULL);
    if (rc != LEDGER_OK && body->rc == LEDGER_OK)
        body->rc = rc;
}

static void put_cloud_event(struct ldg_buf *body, const struct ldg_op *op)
{
    char key[LDG_DELIVERY_KEY_MAX];
    ldg_op_delivery_key(op, key);
    PUT(body, "{\"specversion\":\"1.0\",\"id\":\"");
    ldg_buf_puts(body, key);
    PUT(body, "\",\"source\":\"urn:uuid:");
    ldg_buf_puts(body, op->source_uuid);
    PUT(body, "\",\"type\":\"ledger.");
    ldg_buf_puts(body, ledger_mutation_type_name(ldg_op_type(op->kind)));
    ldg_buf_putc(body, '"');
    if (op->stream[0] != '\0') { /* there is no empty subject */
        PUT(body, ",\"subject\":");
        ldg_json_put_string(body, op->stream);
    }
    put_time(body, ",\"time\":\"", op->time_us != LEDGER_NO_TIME ? op->time_us : op->log_time_us);
    PUT(body, ",\"datacontenttype\":\"application/json\",\"data\":");
    if (op->kind == LDG_OP_APPEND)
        put_entry(body, op);
    else
        put_event(body, op);
    ldg_buf_putc(body, '}');
}

/* --- whole bodies ---------------------------------------------------------------------------- */

/* In the reference's form everything but appends is an event, alone. */
static bool is_alone(ledger_http_body form, const struct ldg_op *op)
{
    return form == LEDGER_HTTP_BODY_REFERENCE && op->kind != LDG_OP_APPEND;
}

void ldg_webhook_body_begin(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op)
{
    if (is_alone(form, op))
        return;
    if (form != LEDGER_HTTP_BODY_REFERENCE) {
        ldg_buf_putc(body, '[');
        return;
    }
    PUT(body, "{\"stream\":");
    ldg_json_put_string(body, op->stream);
    PUT(body, ",\"entries\":[");
}

void ldg_webhook_body_add(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op,
                          bool is_first)
{
    if (!is_first)
        ldg_buf_putc(body, ',');
    if (form == LEDGER_HTTP_BODY_CLOUDEVENTS)
        put_cloud_event(body, op);
    else if (form == LEDGER_HTTP_BODY_REFERENCE && op->kind == LDG_OP_APPEND)
        put_entry(body, op);
    else
        put_event(body, op);
}

void ldg_webhook_body_end(struct ldg_buf *body, ledger_http_body form, const struct ldg_op *op)
{
    if (is_alone(form, op))
        return;
    if (form == LEDGER_HTTP_BODY_REFERENCE)
        PUT(body, "]}");
    else
        ldg_buf_putc(body, ']');
}

bool ldg_webhook_body_joins(ledger_http_body form, const struct ldg_op *first,
                            const struct ldg_op *next)
{
    return first->delivery == next->delivery && !is_alone(form, first) && !is_alone(form, next);
}

const char *ldg_webhook_content_type(ledger_http_body form)
{
    return form == LEDGER_HTTP_BODY_CLOUDEVENTS ? "Content-Type: application/cloudevents-batch+json"
                                                : "Content-Type: application/json";
}

/* --- ids ------------------------------------------------------------------------------------- */

void ldg_webhook_id(const struct ldg_op *first, const struct ldg_op *last, size_t count,
                    char text[LDG_WEBHOOK_ID_MAX])
{
    char part[24] = "";
    ldg_op_delivery_key(first, text);
    if (count <= 1)
        return;
    const size_t size = strlen(text);
    if (last->parts > 1)
        (void)snprintf(part, sizeof(part), ":%" PRIu32, last->part);
    (void)snprintf(text + size, LDG_WEBHOOK_ID_MAX - size, "-%" PRId64 "%s-%zu", last->log_position,
                   part, count);
}

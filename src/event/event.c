/* Mutation events to bytes and back: the one place that knows the format of the log. Fields and
 * omission rules are those of the Go module; ours are added behind them, where Go ignores them.
 * Decoding is one pass over the text. Only when that fails is the text walked once more, to find
 * out whose event it was, or that its type is one of a later version. */
#include "ledger/event.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "event/json.h"

#define MAX_EVENT_BYTES ((size_t)1000 * 1000 * 1000) /* SQLite's own limit of a row */

static const char *const type_names[] = {
    [LEDGER_MUTATION_APPEND] = "append",
    [LEDGER_MUTATION_SET_TAGS] = "set_tags",
    [LEDGER_MUTATION_SET_ANNOTATIONS] = "set_annotations",
    [LEDGER_MUTATION_TRIM] = "trim",
    [LEDGER_MUTATION_UNKNOWN] = "unknown",
};

const char *ledger_mutation_type_name(ledger_mutation_type type)
{
    size_t number = (size_t)type;
    return type_names[number < LEDGER_MUTATION_TYPE_COUNT ? number : LEDGER_MUTATION_UNKNOWN];
}

ledger_mutation_type ledger_mutation_type_parse(const char *name)
{
    int type = LEDGER_MUTATION_APPEND;
    while (type < LEDGER_MUTATION_UNKNOWN && (name == NULL || strcmp(name, type_names[type]) != 0))
        type++;
    return (ledger_mutation_type)type;
}

ledger_mutation_event ldg_event_blank(ledger_mutation_type type, const char *stream,
                                      int64_t created_at_us)
{
    return (ledger_mutation_event){
        .type = type,
        .type_name = ledger_mutation_type_name(type),
        .stream = stream,
        .entry_id = "",
        .before_id = "",
        .created_at_us = created_at_us,
        .origin = "",
        .entry_origin = "",
        .source_id = "",
    };
}

/* --- decoding ------------------------------------------------------------------------------ */

enum field {
    FIELD_TYPE,
    FIELD_STREAM,
    FIELD_ENTRIES,
    FIELD_ENTRY_ID,
    FIELD_TAGS,
    FIELD_ANNOTATIONS,
    FIELD_BEFORE_ID,
    FIELD_CREATED_AT,
    FIELD_ORIGIN,
    FIELD_ORIGIN_POS,
    FIELD_ENTRY_ORIGIN,
    FIELD_SOURCE_ID,
    FIELD_ID,
    FIELD_PAYLOAD,
    FIELD_ORDER_KEY,
    FIELD_DEDUP_KEY,
    FIELD_SCHEMA_VERSION,
    FIELD_METADATA,
    FIELD_PAYLOAD_HEAD,
    FIELD_PAYLOAD_TAIL,
    FIELD_UNKNOWN,
};

struct field_name {
    enum field field;
    unsigned size;
    const char *name;
};
/* clang-format off */
#define NAME(field, name) { field, sizeof name - 1, name }
/* clang-format on */

/* Both in the order in which they are written. */
static const struct field_name event_fields[] = {
    NAME(FIELD_TYPE, "type"),
    NAME(FIELD_STREAM, "stream"),
    NAME(FIELD_ENTRIES, "entries"),
    NAME(FIELD_ENTRY_ID, "entry_id"),
    NAME(FIELD_TAGS, "tags"),
    NAME(FIELD_ANNOTATIONS, "annotations"),
    NAME(FIELD_BEFORE_ID, "before_id"),
    NAME(FIELD_CREATED_AT, "created_at"),
    NAME(FIELD_ORIGIN, "origin"),
    NAME(FIELD_ORIGIN_POS, "origin_pos"),
    NAME(FIELD_ENTRY_ORIGIN, "entry_origin"),
    NAME(FIELD_SOURCE_ID, "source_id"),
};
static const struct field_name entry_fields[] = {
    NAME(FIELD_ID, "id"),
    NAME(FIELD_PAYLOAD, "payload"),
    NAME(FIELD_ORDER_KEY, "order_key"),
    NAME(FIELD_DEDUP_KEY, "dedup_key"),
    NAME(FIELD_SCHEMA_VERSION, "schema_version"),
    NAME(FIELD_METADATA, "metadata"),
    NAME(FIELD_TAGS, "tags"),
    NAME(FIELD_CREATED_AT, "created_at"),
    NAME(FIELD_SOURCE_ID, "source_id"),
    NAME(FIELD_PAYLOAD_HEAD, "payload_head"),
    NAME(FIELD_PAYLOAD_TAIL, "payload_tail"),
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct decoder {
    struct ldg_json json;
    struct ldg_arena *arena;
    const char *field; /* being read, for the message; NULL: none */
    size_t entry;      /* index of the entry being read */
    bool in_entry;
    bool too_large;
    ledger_append_entry *entries; /* those of the event, still to be changed */
};

/* Which field is this key? *hint is where the search starts: fields mostly come in order. */
static const struct field_name *find_field(const struct field_name *names, size_t count,
                                           size_t *hint, const struct ldg_json_str *key)
{
    char plain[6 * 16]; /* no name is longer than 16 bytes, no byte has more than 6 as an escape */
    const char *text = key->raw;
    size_t size = key->size;
    if (key->escaped && key->illegal == NULL && key->size <= sizeof plain) {
        size = ldg_json_unescape(key, plain);
        text = plain;
    }
    for (size_t i = 0; i < count; i++) {
        size_t at = *hint + i < count ? *hint + i : *hint + i - count;
        if (names[at].size == size && memcmp(names[at].name, text, size) == 0) {
            *hint = at + 1 < count ? at + 1 : 0;
            return &names[at];
        }
    }
    return NULL;
}

/* The readers below take null for "absent", as Go does. */

static bool read_text(struct decoder *decoder, const char **ret_text)
{
    if (ldg_json_peek(&decoder->json) == 'n') {
        *ret_text = NULL;
        return ldg_json_read_null(&decoder->json);
    }
    return ldg_json_read_string(&decoder->json, decoder->arena, ret_text);
}

static bool read_integer(struct decoder *decoder, int64_t min, int64_t max, int64_t absent,
                         int64_t *ret_value)
{
    struct ldg_json *json = &decoder->json;
    ledger_bytes raw;
    int64_t value = 0;
    if (ldg_json_peek(json) == 'n') {
        *ret_value = absent;
        return ldg_json_read_null(json);
    }
    const char *at = json->p;
    if (!ldg_json_skip_value(json, LEDGER_MAX_JSON_DEPTH, &raw))
        return false;
    const char *p = raw.data, *end = p + raw.size;
    bool negative = *p == '-', good = true;
    for (p += negative ? 1 : 0; good && p < end; p++)
        good = *p >= '0' && *p <= '9' && !__builtin_mul_overflow(value, 10, &value) &&
               !__builtin_sub_overflow(value, *p - '0', &value); /* downwards: holds INT64_MIN */
    if (good && !negative)
        good = !__builtin_sub_overflow((int64_t)0, value, &value);
    if (!good || value < min || value > max)
        return ldg_json_fault(json, "an integer in range is expected", at);
    *ret_value = value;
    return true;
}

static bool read_time(struct decoder *decoder, int64_t *ret_time_us)
{
    struct ldg_json *json = &decoder->json;
    struct ldg_json_str str;
    if (ldg_json_peek(json) == 'n') {
        *ret_time_us = LEDGER_NO_TIME;
        return ldg_json_read_null(json);
    }
    const char *at = json->p;
    if (!ldg_json_scan_string(json, &str))
        return false;
    if (!ldg_time_parse(str.raw, str.size, ret_time_us))
        return ldg_json_fault(json, "an RFC 3339 time is expected", at);
    return true;
}

/* payload_head and payload_tail: white space only. */
static bool read_space(struct decoder *decoder, const char **ret_text)
{
    const char *at = decoder->json.p;
    if (!read_text(decoder, ret_text))
        return false;
    if (*ret_text != NULL && (*ret_text)[strspn(*ret_text, " \t\r\n")] != '\0')
        return ldg_json_fault(&decoder->json, "only white space is expected", at);
    return true;
}

static bool read_payload(struct decoder *decoder, ledger_bytes *ret_payload)
{
    return ldg_json_skip_value(&decoder->json, LEDGER_MAX_JSON_DEPTH, ret_payload);
}

/* Puts the white space back around the payload, and looks at its size. */
static bool finish_payload(struct decoder *decoder, const char *head, const char *tail,
                           const char *at, ledger_bytes *payload)
{
    size_t head_size = head != NULL ? strlen(head) : 0;
    size_t tail_size = tail != NULL ? strlen(tail) : 0;
    size_t size = payload->size + head_size + tail_size; /* no more than the text has bytes */
    decoder->field = "payload";
    if (size > LEDGER_MAX_PAYLOAD_BYTES) {
        decoder->too_large = true;
        return ldg_json_fault(&decoder->json, "value over its limit", at);
    }
    if (size == payload->size)
        return true;
    char *glued = ldg_arena_alloc(decoder->arena, size);
    if (glued == NULL) {
        decoder->json.nomem = true;
        return ldg_json_fault(&decoder->json, "out of memory", at);
    }
    if (head_size > 0)
        memcpy(glued, head, head_size);
    memcpy(glued + head_size, payload->data, payload->size);
    if (tail_size > 0)
        memcpy(glued + head_size + payload->size, tail, tail_size);
    *payload = (ledger_bytes){ glued, size };
    return true;
}

/* False, unless the field is there. */
static bool require(struct decoder *decoder, bool there, const char *field, const char *at)
{
    if (there)
        return true;
    decoder->field = field;
    return ldg_json_fault(&decoder->json, "required field is missing", at);
}

static bool read_entry_field(struct decoder *decoder, enum field field, ledger_append_entry *entry,
                             const char **head, const char **tail)
{
    int64_t number = 0;
    switch (field) {
    case FIELD_ID:
        return read_text(decoder, &entry->id);
    case FIELD_PAYLOAD:
        return read_payload(decoder, &entry->payload);
    case FIELD_ORDER_KEY:
        return read_text(decoder, &entry->order_key);
    case FIELD_DEDUP_KEY:
        return read_text(decoder, &entry->dedup_key);
    case FIELD_SCHEMA_VERSION:
        if (!read_integer(decoder, INT32_MIN, INT32_MAX, 1, &number))
            return false;
        entry->schema_version = (int)number;
        return true;
    case FIELD_METADATA:
        return ldg_json_read_map(&decoder->json, false, decoder->arena, &entry->metadata);
    case FIELD_TAGS:
        return ldg_json_read_list(&decoder->json, decoder->arena, &entry->tags);
    case FIELD_CREATED_AT:
        return read_time(decoder, &entry->created_at_us);
    case FIELD_SOURCE_ID:
        return read_text(decoder, &entry->source_id);
    case FIELD_PAYLOAD_HEAD:
        return read_space(decoder, head);
    case FIELD_PAYLOAD_TAIL:
        return read_space(decoder, tail);
    default:
        return ldg_json_skip_value(&decoder->json, LEDGER_MAX_JSON_DEPTH, NULL);
    }
}

static void set_absent(const char **text)
{
    if (*text == NULL)
        *text = "";
}

static bool read_entry(struct decoder *decoder, ledger_append_entry *ret_entry)
{
    struct ldg_json *json = &decoder->json;
    ledger_append_entry entry = { .schema_version = 1, .created_at_us = LEDGER_NO_TIME };
    const char *head = NULL, *tail = NULL;
    struct ldg_json_str key;
    size_t hint = 0;
    bool first = true;
    ldg_json_skip_space(json);
    const char *at = json->p;
    decoder->in_entry = true;
    decoder->field = NULL;
    if (!ldg_json_expect(json, '{', "an object is expected"))
        return false;
    while (ldg_json_next_key(json, &first, &key)) {
        const struct field_name *name = find_field(entry_fields, COUNT(entry_fields), &hint, &key);
        decoder->field = name != NULL ? name->name : NULL;
        if (!read_entry_field(decoder, name != NULL ? name->field : FIELD_UNKNOWN, &entry, &head,
                              &tail))
            return false;
        decoder->field = NULL;
    }
    if (json->fault != NULL)
        return false;
    if (!require(decoder, entry.id != NULL, "id", at) ||
        !require(decoder, entry.payload.data != NULL, "payload", at) ||
        !finish_payload(decoder, head, tail, at, &entry.payload))
        return false;
    set_absent(&entry.order_key);
    set_absent(&entry.dedup_key);
    set_absent(&entry.source_id);
    decoder->in_entry = false;
    *ret_entry = entry;
    return true;
}

static bool read_entries(struct decoder *decoder, ledger_mutation_event *event)
{
    struct ldg_json *json = &decoder->json;
    void *items = NULL;
    size_t cap = 0, count = 0;
    bool first = true;
    if (ldg_json_peek(json) == 'n') {
        event->entries = NULL;
        event->entry_count = 0;
        return ldg_json_read_null(json);
    }
    if (!ldg_json_expect(json, '[', "an array is expected"))
        return false;
    while (ldg_json_next_item(json, &first)) {
        decoder->entry = count;
        if (!ldg_json_grow(decoder->arena, &items, count, &cap, sizeof(ledger_append_entry))) {
            json->nomem = true;
            return ldg_json_fault(json, "out of memory", json->p);
        }
        if (!read_entry(decoder, &((ledger_append_entry *)items)[count]))
            return false;
        decoder->field = "entries";
        count++;
    }
    event->entries = decoder->entries = items;
    event->entry_count = count;
    return json->fault == NULL;
}

static bool read_event_field(struct decoder *decoder, enum field field,
                             ledger_mutation_event *event)
{
    switch (field) {
    case FIELD_TYPE:
        return read_text(decoder, &event->type_name);
    case FIELD_STREAM:
        return read_text(decoder, &event->stream);
    case FIELD_ENTRIES:
        return read_entries(decoder, event);
    case FIELD_ENTRY_ID:
        return read_text(decoder, &event->entry_id);
    case FIELD_TAGS:
        return ldg_json_read_list(&decoder->json, decoder->arena, &event->tags);
    case FIELD_ANNOTATIONS:
        return ldg_json_read_map(&decoder->json, true, decoder->arena, &event->annotations);
    case FIELD_BEFORE_ID:
        return read_text(decoder, &event->before_id);
    case FIELD_CREATED_AT:
        return read_time(decoder, &event->created_at_us);
    case FIELD_ORIGIN:
        return read_text(decoder, &event->origin);
    case FIELD_ORIGIN_POS:
        return read_integer(decoder, 0, INT64_MAX, 0, &event->origin_pos);
    case FIELD_ENTRY_ORIGIN:
        return read_text(decoder, &event->entry_origin);
    case FIELD_SOURCE_ID:
        return read_text(decoder, &event->source_id);
    default:
        return ldg_json_skip_value(&decoder->json, LEDGER_MAX_JSON_DEPTH, NULL);
    }
}

static bool is_set(const char *text)
{
    return text != NULL && *text != '\0';
}

/* Everything that its type needs is there. at: for the message. */
static bool check_required(struct decoder *decoder, const ledger_mutation_event *event,
                           const char *at)
{
    if (!require(decoder, event->type_name != NULL, "type", at))
        return false;
    if (event->type == LEDGER_MUTATION_UNKNOWN)
        return true;
    if (!require(decoder, event->stream != NULL, "stream", at))
        return false;
    switch (event->type) {
    case LEDGER_MUTATION_APPEND:
        return require(decoder, event->entry_count > 0, "entries", at);
    case LEDGER_MUTATION_SET_TAGS:
    case LEDGER_MUTATION_SET_ANNOTATIONS:
        return require(decoder, is_set(event->entry_id), "entry_id", at);
    default: /* a trim */
        if (is_set(event->origin) || is_set(event->entry_origin))
            return is_set(event->before_id) ||
                   require(decoder, is_set(event->source_id), "source_id", at);
        return require(decoder, is_set(event->before_id), "before_id", at);
    }
}

static void set_all_absent(ledger_mutation_event *event)
{
    set_absent(&event->type_name);
    set_absent(&event->stream);
    set_absent(&event->entry_id);
    set_absent(&event->before_id);
    set_absent(&event->origin);
    set_absent(&event->entry_origin);
    set_absent(&event->source_id);
}

/* An entry without a time of its own was made with its event. */
static void inherit_time(ledger_append_entry *entries, size_t count, int64_t time_us)
{
    for (size_t i = 0; i < count; i++)
        if (entries[i].created_at_us == LEDGER_NO_TIME)
            entries[i].created_at_us = time_us;
}

static const ledger_mutation_event empty_event = { .type = LEDGER_MUTATION_UNKNOWN,
                                                   .created_at_us = LEDGER_NO_TIME };

static bool read_event(struct decoder *decoder, ledger_mutation_event *ret_event)
{
    struct ldg_json *json = &decoder->json;
    ledger_mutation_event event = empty_event;
    struct ldg_json_str key;
    size_t hint = 0;
    bool first = true;
    ldg_json_skip_space(json);
    const char *at = json->p;
    if (!ldg_json_expect(json, '{', "an object is expected"))
        return false;
    while (ldg_json_next_key(json, &first, &key)) {
        const struct field_name *name = find_field(event_fields, COUNT(event_fields), &hint, &key);
        decoder->field = name != NULL ? name->name : NULL;
        if (!read_event_field(decoder, name != NULL ? name->field : FIELD_UNKNOWN, &event))
            return false;
        decoder->field = NULL;
    }
    if (json->fault != NULL || !ldg_json_finish(json))
        return false;
    event.type = ledger_mutation_type_parse(event.type_name);
    if (!check_required(decoder, &event, at))
        return false;
    set_all_absent(&event);
    inherit_time(decoder->entries, event.entry_count, event.created_at_us);
    *ret_event = event;
    return true;
}

/* Reads only type, stream and entry_id, as far as they are there. Returns whether all of it is
 * JSON. */
static bool peek_event(struct ldg_json *json, struct ldg_arena *arena, ledger_mutation_event *event)
{
    struct ldg_json_str key;
    size_t hint = 0;
    bool first = true;
    if (!ldg_json_expect(json, '{', "an object is expected"))
        return false;
    while (ldg_json_next_key(json, &first, &key)) {
        const struct field_name *name = find_field(event_fields, COUNT(event_fields), &hint, &key);
        const char **target = name == NULL                    ? NULL
                              : name->field == FIELD_TYPE     ? &event->type_name
                              : name->field == FIELD_STREAM   ? &event->stream
                              : name->field == FIELD_ENTRY_ID ? &event->entry_id
                                                              : NULL;
        struct ldg_json value = *json;
        if (!ldg_json_skip_value(json, LEDGER_MAX_JSON_DEPTH, NULL))
            return false;
        if (target == NULL)
            continue;
        *target = NULL;
        if (!ldg_json_read_string(&value, arena, target) && value.nomem) {
            json->nomem = true;
            return false;
        }
    }
    return json->fault == NULL && ldg_json_finish(json);
}

static ledger_rc decode_fail(const struct decoder *decoder, ledger_error *err)
{
    const struct ldg_json *json = &decoder->json;
    ledger_rc code = decoder->too_large ? LEDGER_ERR_TOO_LARGE : LEDGER_ERR_DATA;
    size_t at = (size_t)(json->at - json->start);
    char where[64] = "";
    if (decoder->in_entry)
        snprintf(where, sizeof where, "entries[%zu]%s%s: ", decoder->entry,
                 decoder->field != NULL ? "." : "", decoder->field != NULL ? decoder->field : "");
    else if (decoder->field != NULL)
        snprintf(where, sizeof where, "%s: ", decoder->field);
    return ldg_fail(err, code, "event: %s%s at byte %zu", where, json->fault, at);
}

ledger_rc ldg_event_decode(ledger_bytes json, struct ldg_arena *arena,
                           ledger_mutation_event *ret_event, ledger_error *err)
{
    struct decoder decoder = { .arena = arena };
    ldg_json_init(&decoder.json, json);
    if (read_event(&decoder, ret_event))
        return LEDGER_OK;
    if (decoder.json.nomem)
        return ldg_fail_nomem(err);

    struct ldg_json again;
    ledger_mutation_event event = empty_event;
    ldg_json_init(&again, json);
    bool valid = peek_event(&again, arena, &event);
    if (again.nomem)
        return ldg_fail_nomem(err);
    bool later_version = valid && event.type_name != NULL &&
                         ledger_mutation_type_parse(event.type_name) == LEDGER_MUTATION_UNKNOWN;
    event.type = ledger_mutation_type_parse(event.type_name);
    set_all_absent(&event);
    *ret_event = event;
    return later_version ? LEDGER_OK : decode_fail(&decoder, err);
}

/* --- encoding ------------------------------------------------------------------------------ */

/* key: with comma, quotes and colon. */
#define PUT(out, literal) ldg_buf_append(out, literal, sizeof(literal) - 1)

static void put_text(struct ldg_buf *out, const char *key, const char *value)
{
    if (is_set(value)) {
        ldg_buf_puts(out, key);
        ldg_json_put_string(out, value);
    }
}

static void put_map(struct ldg_buf *out, const char *key, ledger_map map)
{
    if (map.count > 0) {
        ldg_buf_puts(out, key);
        ldg_json_put_map(out, map);
    }
}

static void put_list(struct ldg_buf *out, const char *key, ledger_list list)
{
    if (list.count > 0) {
        ldg_buf_puts(out, key);
        ldg_json_put_list(out, list);
    }
}

static ledger_rc put_time(struct ldg_buf *out, int64_t time_us, ledger_error *err)
{
    /* 0000-01-01 to 9999-12-31: the years that RFC 3339 can write. */
    const int64_t min_us = INT64_C(-62167219200000000), max_us = INT64_C(253402300799999999);
    char text[LDG_TIME_TEXT_MAX];
    if (time_us == LEDGER_NO_TIME)
        return LEDGER_OK;
    if (time_us < min_us || time_us > max_us)
        return ldg_fail(err, LEDGER_ERR_DATA, "event: created_at is outside the years 0 to 9999");
    ldg_time_format_rfc3339(time_us, text);
    PUT(out, ",\"created_at\":\"");
    ldg_buf_puts(out, text);
    ldg_buf_putc(out, '"');
    return LEDGER_OK;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* event_time_us: an entry that was made with its event, as nearly all are, does not repeat it. */
static ledger_rc put_entry(struct ldg_buf *out, const ledger_append_entry *entry, size_t index,
                           int64_t event_time_us, bool without_id, ledger_error *err)
{
    const char *start = entry->payload.data, *end = start;
    if (entry->payload.size > LEDGER_MAX_PAYLOAD_BYTES)
        return ldg_fail(err, LEDGER_ERR_TOO_LARGE, "event: entries[%zu].payload: over %zu bytes",
                        index, LEDGER_MAX_PAYLOAD_BYTES);
    if (entry->payload.size > 0)
        end += entry->payload.size;
    const char *head_end = start, *tail = end;
    while (head_end < end && is_space(*head_end))
        head_end++;
    while (tail > head_end && is_space(tail[-1]))
        tail--;
    if (head_end == tail)
        return ldg_fail(err, LEDGER_ERR_DATA, "event: entries[%zu].payload: is empty", index);

    PUT(out, "{\"id\":");
    ldg_json_put_string(out, without_id ? "" : entry->id);
    PUT(out, ",\"payload\":");
    ldg_buf_append(out, head_end, (size_t)(tail - head_end));
    put_text(out, ",\"order_key\":", entry->order_key);
    put_text(out, ",\"dedup_key\":", entry->dedup_key);
    if (entry->schema_version == 1)
        PUT(out, ",\"schema_version\":1"); /* nearly always; printf is slow */
    else
        ldg_buf_printf(out, ",\"schema_version\":%d", entry->schema_version);
    put_map(out, ",\"metadata\":", entry->metadata);
    put_list(out, ",\"tags\":", entry->tags);
    ledger_rc rc = entry->created_at_us == event_time_us ? LEDGER_OK
                                                         : put_time(out, entry->created_at_us, err);
    put_text(out, ",\"source_id\":", entry->source_id);
    if (head_end > start) {
        PUT(out, ",\"payload_head\":");
        ldg_json_put_text(out, start, (size_t)(head_end - start));
    }
    if (tail < end) {
        PUT(out, ",\"payload_tail\":");
        ldg_json_put_text(out, tail, (size_t)(end - tail));
    }
    ldg_buf_putc(out, '}');
    return rc;
}

static ledger_rc put_entries(struct ldg_buf *out, const ledger_mutation_event *event,
                             struct ldg_event_place *places, ledger_error *err)
{
    ledger_rc rc = LEDGER_OK;
    if (event->entry_count == 0)
        return rc;
    PUT(out, ",\"entries\":[");
    for (size_t i = 0; i < event->entry_count && rc == LEDGER_OK; i++) {
        if (i > 0)
            ldg_buf_putc(out, ',');
        if (places != NULL)
            places[i] = (struct ldg_event_place){ out->size, out->size + strlen("{\"id\":\""), 0 };
        rc = put_entry(out, &event->entries[i], i, event->created_at_us, places != NULL, err);
        if (places != NULL)
            places[i].behind = out->size;
    }
    ldg_buf_putc(out, ']');
    return rc;
}

static ledger_rc encode(const ledger_mutation_event *event, struct ldg_buf *out,
                        struct ldg_event_place *places, ledger_error *err)
{
    bool known = (size_t)event->type < LEDGER_MUTATION_UNKNOWN;
    const char *type_name = known ? type_names[event->type] : event->type_name;
    if (type_name == NULL)
        return ldg_fail(err, LEDGER_ERR_DATA, "event: type: required field is missing");
    PUT(out, "{\"type\":");
    ldg_json_put_string(out, type_name);
    PUT(out, ",\"stream\":");
    ldg_json_put_string(out, event->stream);
    ledger_rc rc = put_entries(out, event, places, err);
    if (rc != LEDGER_OK)
        return rc;
    put_text(out, ",\"entry_id\":", event->entry_id);
    put_list(out, ",\"tags\":", event->tags);
    put_map(out, ",\"annotations\":", event->annotations);
    put_text(out, ",\"before_id\":", event->before_id);
    rc = put_time(out, event->created_at_us, err);
    if (rc != LEDGER_OK)
        return rc;
    put_text(out, ",\"origin\":", event->origin);
    if (event->origin_pos != 0)
        ldg_buf_printf(out, ",\"origin_pos\":%lld", (long long)event->origin_pos);
    put_text(out, ",\"entry_origin\":", event->entry_origin);
    put_text(out, ",\"source_id\":", event->source_id);
    ldg_buf_putc(out, '}');
    if (out->rc == LEDGER_ERR_NOMEM)
        return ldg_fail_nomem(err);
    if (out->rc != LEDGER_OK)
        return ldg_fail(err, out->rc, "event: over %zu bytes", out->max);
    return LEDGER_OK;
}

ledger_rc ldg_event_encode(const ledger_mutation_event *event, struct ldg_buf *out,
                           ledger_error *err)
{
    return encode(event, out, NULL, err);
}

ledger_rc ldg_event_encode_places(const ledger_mutation_event *event, struct ldg_buf *out,
                                  struct ldg_event_place *ret_places, ledger_error *err)
{
    return encode(event, out, ret_places, err);
}

/* --- the public calls ---------------------------------------------------------------------- */

struct ledger_event {
    struct ldg_arena arena;
    ledger_mutation_event content;
};

ledger_rc ledger_event_decode(ledger_bytes json, ledger_event **ret_event, ledger_error *err)
{
    ledger_rc rc;
    ledger_event *event = ldg_calloc(1, sizeof *event);
    if (event == NULL)
        return ldg_fail_nomem(err);
    ldg_arena_init(&event->arena, 0);
    const void *copy = ldg_arena_memdup(&event->arena, json.data, json.size);
    if (copy == NULL) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    rc = ldg_event_decode((ledger_bytes){ copy, json.size }, &event->arena, &event->content, err);
    if (rc != LEDGER_OK)
        goto out;
    *ret_event = event;
    event = NULL;
out:
    ledger_event_destroy(&event);
    return rc;
}

const ledger_mutation_event *ledger_event_get(const ledger_event *event)
{
    return &event->content;
}

void ledger_event_destroy(ledger_event **event)
{
    if (event == NULL || *event == NULL)
        return;
    ldg_arena_fini(&(*event)->arena);
    ldg_free(*event);
    *event = NULL;
}

/* A caller's payload could hold more than one value, and so smuggle in fields. */
static ledger_rc check_payloads(const ledger_mutation_event *event, ledger_error *err)
{
    ledger_error cause;
    for (size_t i = 0; i < event->entry_count; i++) {
        ledger_rc rc = ldg_json_check(event->entries[i].payload, &cause);
        if (rc != LEDGER_OK)
            return ldg_fail(err, rc, "event: entries[%zu].payload: %s", i, cause.message);
    }
    return LEDGER_OK;
}

ledger_rc ledger_event_encode(const ledger_mutation_event *event, char **ret_json, size_t *ret_size,
                              ledger_error *err)
{
    struct ldg_buf out;
    struct ldg_arena arena;
    ledger_mutation_event check;
    ldg_buf_init(&out, MAX_EVENT_BYTES);
    ldg_arena_init(&arena, 0);
    ledger_rc rc = check_payloads(event, err);
    if (rc == LEDGER_OK)
        rc = ldg_event_encode(event, &out, err);
    /* What no reader would take is not written: bad UTF-8, a field that its type needs. */
    if (rc == LEDGER_OK)
        rc = ldg_event_decode((ledger_bytes){ out.data, out.size }, &arena, &check, err);
    if (rc == LEDGER_OK) {
        *ret_size = out.size;
        *ret_json = ldg_buf_take(&out);
    }
    ldg_arena_fini(&arena);
    ldg_buf_fini(&out);
    return rc;
}

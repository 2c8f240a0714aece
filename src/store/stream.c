/* Typed streams on top of the public store calls: codec, schema version, upcasters.
 *
 * Invariant: upcasters are sorted by `from`, each once, all in 1..schema_version - 1; a payload
 * with a version passes every one from its own version up, or it is not given. */
#include "ledger/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/options.h"

struct ledger_stream {
    ledger_store *store;
    char *id;
    int schema_version;
    bool read_only;
    ledger_codec codec;
    ledger_upcaster *upcasters;
    size_t upcaster_count;
};

struct ledger_values {
    ledger_codec codec;
    ledger_batch *batch;
    void **values;
    size_t count; /* decoded so far */
};

static const struct ldg_options stream_options = {
    .name = "ledger_stream_options",
    .defaults =
        &(const ledger_stream_options){
            .size = sizeof(ledger_stream_options),
            .schema_version = 1,
        },
    .size = sizeof(ledger_stream_options),
    .least = LDG_OPTIONS_UP_TO(ledger_stream_options, upcaster_count),
};

void ledger_stream_options_init(ledger_stream_options *options, size_t size)
{
    ldg_options_init(&stream_options, options, size);
}

static int compare_upcasters(const void *a, const void *b)
{
    const ledger_upcaster *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

static ledger_rc check_options(const ledger_stream_options *options, ledger_error *err)
{
    if (!options->id)
        return ldg_fail(err, LEDGER_ERR_INVALID, "stream id is NULL");
    if (options->schema_version < 1)
        return ldg_fail(err, LEDGER_ERR_INVALID, "schema_version is %d; it is at least 1",
                        options->schema_version);
    if (!options->codec.decode || (!options->codec.encode && !options->read_only))
        return ldg_fail(err, LEDGER_ERR_INVALID, "a codec needs encode and decode");
    if (options->upcaster_count && !options->upcasters)
        return ldg_fail(err, LEDGER_ERR_INVALID, "upcasters is NULL");
    for (size_t i = 0; i < options->upcaster_count; i++) {
        const ledger_upcaster *u = &options->upcasters[i];
        if (!u->upcast)
            return ldg_fail(err, LEDGER_ERR_INVALID, "upcaster from version %d has no function",
                            u->from);
        if (u->from < 1 || u->from >= options->schema_version)
            return ldg_fail(err, LEDGER_ERR_INVALID,
                            "upcaster from version %d: the stream's versions are 1 to %d, the last "
                            "needs none",
                            u->from, options->schema_version);
    }
    return LEDGER_OK;
}

ledger_rc ledger_stream_create(ledger_store *store, const ledger_stream_options *options,
                               ledger_stream **ret_stream, ledger_error *err)
{
    ledger_stream *stream = NULL;
    ledger_stream_options o;
    ledger_rc rc = LEDGER_OK;
    if (!store || !options || !ret_stream) {
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "store, options or ret_stream is NULL");
        goto out;
    }
    rc = ldg_options_take(&stream_options, options, &o, err);
    if (rc == LEDGER_OK)
        rc = check_options(&o, err);
    if (rc != LEDGER_OK)
        goto out;
    stream = ldg_calloc(1, sizeof(*stream));
    if (!stream) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    stream->store = store;
    stream->schema_version = o.schema_version;
    stream->read_only = o.read_only;
    stream->codec = o.codec;
    stream->id = ldg_strdup(o.id);
    stream->upcasters = ldg_calloc(o.upcaster_count + 1, sizeof(*stream->upcasters));
    if (!stream->id || !stream->upcasters) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    stream->upcaster_count = o.upcaster_count;
    if (stream->upcaster_count) {
        memcpy(stream->upcasters, o.upcasters, stream->upcaster_count * sizeof(*stream->upcasters));
        qsort(stream->upcasters, stream->upcaster_count, sizeof(*stream->upcasters),
              compare_upcasters);
    }
    for (size_t i = 1; i < stream->upcaster_count && rc == LEDGER_OK; i++) {
        if (stream->upcasters[i].from == stream->upcasters[i - 1].from)
            rc = ldg_fail(err, LEDGER_ERR_INVALID, "two upcasters from version %d",
                          stream->upcasters[i].from);
    }
out:
    if (rc == LEDGER_OK)
        *ret_stream = stream;
    else
        ledger_stream_destroy(&stream);
    return rc;
}

void ledger_stream_destroy(ledger_stream **stream)
{
    if (!stream || !*stream)
        return;
    ldg_free((*stream)->upcasters);
    ldg_free((*stream)->id);
    ldg_free(*stream);
    *stream = NULL;
}

const char *ledger_stream_id(const ledger_stream *stream)
{
    return stream ? stream->id : "";
}

int ledger_stream_schema_version(const ledger_stream *stream)
{
    return stream ? stream->schema_version : 0;
}

static ledger_rc fail_closed(ledger_error *err)
{
    return ldg_fail(err, LEDGER_ERR_CLOSED, "the stream is closed (its handle is NULL)");
}

static ledger_rc check_writable(const ledger_stream *stream, ledger_error *err)
{
    if (!stream)
        return fail_closed(err);
    return stream->read_only ? ldg_fail(err, LEDGER_ERR_READ_ONLY,
                                        "this stream was opened read-only: only its bridge writes "
                                        "to it")
                             : LEDGER_OK;
}

/* A callback of the program may fail without filling err. */
static void fill_error(ledger_error *err, ledger_rc rc, const char *who)
{
    if (err->code != rc)
        (void)!ldg_fail(err, rc, "%s failed: %s", who, ledger_rc_text(rc));
}

/* --- writing --------------------------------------------------------------------------------- */

static ledger_rc encode_value(const ledger_stream *stream, const void *value, ledger_bytes *payload,
                              ledger_error *err)
{
    char *json = NULL;
    size_t size = 0;
    err->code = LEDGER_OK;
    ledger_rc rc = stream->codec.encode(stream->codec.ctx, value, &json, &size, err);
    if (rc == LEDGER_OK)
        *payload = (ledger_bytes){ .data = json, .size = size };
    else
        fill_error(err, rc, "the stream's codec");
    return rc;
}

ledger_rc ledger_stream_append(ledger_stream *stream, const ledger_stream_input *inputs,
                               size_t count, ledger_ids *ret_ids, ledger_error *err)
{
    ledger_error local_err;
    ledger_append_input *encoded = NULL;
    size_t encoded_count = 0;
    if (!err)
        err = &local_err;

    ledger_rc rc = check_writable(stream, err);
    if (rc != LEDGER_OK)
        goto out;
    if (!inputs && count) {
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "inputs is NULL");
        goto out;
    }
    if (count > LEDGER_MAX_APPEND_ENTRIES) {
        rc = ldg_fail(err, LEDGER_ERR_TOO_LARGE, "%zu entries in one append; the limit is %d",
                      count, LEDGER_MAX_APPEND_ENTRIES);
        goto out;
    }
    encoded = ldg_calloc(count + 1, sizeof(*encoded));
    if (!encoded) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    for (; encoded_count < count; encoded_count++) {
        const ledger_stream_input *input = &inputs[encoded_count];
        encoded[encoded_count] = (ledger_append_input){
            .order_key = input->order_key,
            .dedup_key = input->dedup_key,
            .schema_version = stream->schema_version,
            .metadata = input->metadata,
            .tags = input->tags,
        };
        rc = encode_value(stream, input->value, &encoded[encoded_count].payload, err);
        if (rc != LEDGER_OK)
            goto out;
    }
    rc = ledger_store_append(stream->store, stream->id, encoded, count, ret_ids, err);
out:
    for (size_t i = 0; i < encoded_count; i++)
        ldg_free((void *)encoded[i].payload.data);
    ldg_free(encoded);
    return rc;
}

ledger_rc ledger_stream_set_tags(ledger_stream *stream, ledger_id id, ledger_list tags,
                                 ledger_error *err)
{
    ledger_rc rc = check_writable(stream, err);
    if (rc == LEDGER_OK)
        rc = ledger_store_set_tags(stream->store, stream->id, id, tags, err);
    return rc;
}

ledger_rc ledger_stream_set_annotations(ledger_stream *stream, ledger_id id, ledger_map annotations,
                                        ledger_error *err)
{
    ledger_rc rc = check_writable(stream, err);
    if (rc == LEDGER_OK)
        rc = ledger_store_set_annotations(stream->store, stream->id, id, annotations, err);
    return rc;
}

/* --- reading --------------------------------------------------------------------------------- */

size_t ledger_values_count(const ledger_values *values)
{
    return values ? values->count : 0;
}

void *ledger_values_value(const ledger_values *values, size_t index)
{
    return values && index < values->count ? values->values[index] : NULL;
}

const ledger_entry *ledger_values_entry(const ledger_values *values, size_t index)
{
    return values ? ledger_batch_entry(values->batch, index) : NULL;
}

void ledger_values_destroy(ledger_values **values)
{
    if (!values || !*values)
        return;
    ledger_values *v = *values;
    for (size_t i = 0; i < v->count; i++) {
        if (v->codec.release)
            v->codec.release(v->codec.ctx, v->values[i]);
        else
            ldg_free(v->values[i]);
    }
    ldg_free(v->values);
    ledger_batch_destroy(&v->batch);
    ldg_free(v);
    *values = NULL;
}

static const ledger_upcaster *find_upcaster(const ledger_stream *stream, int from)
{
    const ledger_upcaster key = { .from = from };
    return stream->upcaster_count ? bsearch(&key, stream->upcasters, stream->upcaster_count,
                                            sizeof(key), compare_upcasters)
                                  : NULL;
}

static void id_text(ledger_id id, char *out, size_t out_size)
{
    if (id.text)
        snprintf(out, out_size, "%s", id.text);
    else
        snprintf(out, out_size, "%lld", (long long)id.number);
}

static ledger_rc decode_entry(const ledger_stream *stream, const ledger_entry *entry,
                              void **ret_value, ledger_error *err)
{
    ledger_bytes json = entry->payload;
    char *owned = NULL; /* the last upcaster's result */
    char id[LEDGER_ID_TEXT_MAX];
    ledger_rc rc = LEDGER_OK;

    id_text(entry->id, id, sizeof(id));
    if (entry->schema_version > stream->schema_version) {
        rc =
            ldg_fail(err, LEDGER_ERR_UPCAST,
                     "stream \"%.128s\", entry %s has schema version %d, newer than this program's "
                     "%d",
                     stream->id, id, entry->schema_version, stream->schema_version);
        goto out;
    }
    /* Without a version (Go writes 0) no upcaster is meant for it: it is read as it is. */
    const int first = entry->schema_version > 0 ? entry->schema_version : stream->schema_version;
    for (int version = first; version < stream->schema_version; version++) {
        const ledger_upcaster *upcaster = find_upcaster(stream, version);
        char *next = NULL;
        size_t next_size = 0;
        if (!upcaster) {
            rc = ldg_fail(err, LEDGER_ERR_UPCAST,
                          "stream \"%.128s\", entry %s has schema version %d; no upcaster leads "
                          "from version %d to %d (the stream's version is %d)",
                          stream->id, id, entry->schema_version, version, version + 1,
                          stream->schema_version);
            goto out;
        }
        err->code = LEDGER_OK;
        rc = upcaster->upcast(upcaster->ctx, json, &next, &next_size, err);
        if (rc != LEDGER_OK) {
            fill_error(err, rc, "an upcaster");
            goto out;
        }
        if (!next) {
            rc = ldg_fail(err, LEDGER_ERR_INTERNAL, "the upcaster from version %d gave nothing",
                          version);
            goto out;
        }
        ldg_free(owned);
        owned = next;
        json = (ledger_bytes){ .data = next, .size = next_size };
    }
    err->code = LEDGER_OK;
    rc = stream->codec.decode(stream->codec.ctx, json, ret_value, err);
    if (rc != LEDGER_OK)
        fill_error(err, rc, "the stream's codec");
out:
    ldg_free(owned);
    return rc;
}

ledger_rc ledger_stream_read(ledger_stream *stream, const ledger_read_options *options,
                             ledger_values **ret_values, ledger_error *err)
{
    ledger_error local_err;
    ledger_values *values = NULL;
    ledger_rc rc = LEDGER_OK;
    if (!err)
        err = &local_err;

    if (!stream) {
        rc = fail_closed(err);
        goto out;
    }
    if (!ret_values) {
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "ret_values is NULL");
        goto out;
    }
    values = ldg_calloc(1, sizeof(*values));
    if (!values) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    values->codec = stream->codec;
    rc = ledger_store_read(stream->store, stream->id, options, &values->batch, err);
    if (rc != LEDGER_OK)
        goto out;
    size_t count = ledger_batch_count(values->batch);
    values->values = ldg_calloc(count + 1, sizeof(*values->values));
    if (!values->values) {
        rc = ldg_fail_nomem(err);
        goto out;
    }
    while (rc == LEDGER_OK && values->count < count) {
        rc = decode_entry(stream, ledger_batch_entry(values->batch, values->count),
                          &values->values[values->count], err);
        if (rc == LEDGER_OK)
            values->count++;
    }
    /* What can be read is given first; the entry that cannot is then the first of its page. */
    if (values->count > 0 && rc != LEDGER_ERR_NOMEM)
        rc = LEDGER_OK;
out:
    if (rc == LEDGER_OK)
        *ret_values = values;
    else
        ledger_values_destroy(&values);
    return rc;
}

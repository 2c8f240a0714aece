/* The bridge's log lines, its six instruments and its span, behind calls that cost nothing when
 * they are switched off. Names, units and attributes are the reference's; streams are never
 * attributes. */
#include <string.h>

#include "bridge/stages.h"

static void *instrument(struct ldg_telemetry *t, const char *meter, ledger_instrument_kind kind,
                        const char *name, const char *unit, const char *description)
{
    return t->meter.instrument(t->meter.ctx, meter, kind, name, unit, description);
}

ledger_rc ldg_telemetry_init(struct ldg_telemetry *t, const ledger_bridge_options *options,
                             ledger_error *err)
{
    memset(t, 0, sizeof(*t));
    t->logger = options->logger;
    t->bridge_name = options->name;
    t->tracer = options->tracer;
    t->tracer_name = options->tracer_name;
    t->traces_enabled = options->traces_enabled;
    if (!options->metrics_enabled)
        return LEDGER_OK;
    t->meter = options->meter;
    const char *meter = options->meter_name;
    t->polls =
        instrument(t, meter, LEDGER_COUNTER, "ledger.bridge.polls", "{poll}", "Total poll cycles");
    t->poll_duration = instrument(t, meter, LEDGER_HISTOGRAM, "ledger.bridge.poll.duration", "s",
                                  "Duration of a poll cycle");
    t->applied = instrument(t, meter, LEDGER_COUNTER, "ledger.bridge.mutations.applied",
                            "{mutation}", "Mutations written to the sink");
    t->skipped = instrument(t, meter, LEDGER_COUNTER, "ledger.bridge.mutations.skipped",
                            "{mutation}", "Mutations not written to the sink, on purpose");
    t->errors = instrument(t, meter, LEDGER_COUNTER, "ledger.bridge.mutations.errors", "{mutation}",
                           "Mutations that could not be applied");
    t->lag = instrument(t, meter, LEDGER_HISTOGRAM, "ledger.bridge.lag", "s",
                        "Age of the oldest mutation of a poll");
    if (t->polls == NULL || t->poll_duration == NULL || t->applied == NULL || t->skipped == NULL ||
        t->errors == NULL || t->lag == NULL)
        return ldg_fail(err, LEDGER_ERR_INTERNAL, "the meter could not make an instrument");
    t->metrics_enabled = true;
    return LEDGER_OK;
}

void ldg_log(const struct ldg_telemetry *t, ledger_log_level level, const char *message,
             const ledger_error *err)
{
    if (t->logger.log == NULL)
        return;
    ledger_attr attrs[3] = { { "bridge.name", t->bridge_name } };
    size_t count = 1;
    if (err != NULL) {
        attrs[count++] = (ledger_attr){ "error.code", ledger_rc_name(err->code) };
        attrs[count++] = (ledger_attr){ "error", err->message };
    }
    t->logger.log(t->logger.ctx, level, message, attrs, count);
}

void *ldg_telemetry_poll_start(const struct ldg_telemetry *t)
{
    if (!t->traces_enabled)
        return NULL;
    ledger_attr attr = { "bridge.name", t->bridge_name };
    return t->tracer.start(t->tracer.ctx, t->tracer_name, "ledger.bridge.Poll", &attr, 1);
}

void ldg_telemetry_poll_end(const struct ldg_telemetry *t, void *span, double seconds,
                            const ledger_error *err)
{
    ledger_attr attrs[2] = { { "bridge.name", t->bridge_name },
                             { "status", err == NULL ? "success" : "error" } };
    if (t->metrics_enabled) {
        t->meter.record(t->meter.ctx, t->polls, 1, attrs, 2);
        t->meter.record(t->meter.ctx, t->poll_duration, seconds, attrs, 2);
    }
    if (span != NULL)
        t->tracer.end(t->tracer.ctx, span, attrs, 2, err == NULL ? NULL : err->message);
}

void ldg_telemetry_count(const struct ldg_telemetry *t, void *counter, ledger_mutation_type type,
                         uint64_t n)
{
    if (!t->metrics_enabled || n == 0)
        return;
    ledger_attr attrs[2] = { { "bridge.name", t->bridge_name },
                             { "mutation.type", ledger_mutation_type_name(type) } };
    t->meter.record(t->meter.ctx, counter, (double)n, attrs, 2);
}

void ldg_telemetry_lag(const struct ldg_telemetry *t, double seconds)
{
    ledger_attr attr = { "bridge.name", t->bridge_name };
    if (t->metrics_enabled)
        t->meter.record(t->meter.ctx, t->lag, seconds, &attr, 1);
}

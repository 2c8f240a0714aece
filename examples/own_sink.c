/* A sink of a program's own: feeds a search index, one line "word stream id" each, from a ledger.
 *
 * own_sink SOURCE.db INDEX STATE.db: carries what is new and ends. The bridge keeps its cursor, and
 * what was refused, in STATE.db; `ledgerctl bridge status --source sqlite:SOURCE.db --state
 * sqlite:STATE.db` looks at it. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <ledger/ledger.h>

static void index_words(FILE *index, const ledger_mutation *m)
{
    const unsigned char *text = m->entry->payload.data, *end = text + m->entry->payload.size;
    while (text < end) {
        const unsigned char *word = text;
        while (text < end && isalnum(*text))
            text++;
        if (text > word)
            fprintf(index, "%.*s %s %s\n", (int)(text - word), word, m->stream, m->entry->id);
        text += text < end;
    }
}

/* A line that comes twice, after a crash, says the same thing twice: nothing to be done. */
static size_t deliver(void *ctx, const ledger_mutation *const *mutations, size_t count,
                      ledger_delivery *results)
{
    FILE *index = ctx;
    for (size_t i = 0; i < count; i++) {
        const ledger_mutation *m = mutations[i];
        results[i].code = LEDGER_DELIVERY_DONE;
        if (m->type == LEDGER_MUTATION_TRIM) {
            fprintf(index, "- %s %lld\n", m->stream, (long long)m->id.number);
        } else if (*(const char *)m->entry->payload.data == '{') {
            index_words(index, m);
        } else { /* it is parked; the rest comes in the next call */
            results[i].code = LEDGER_DELIVERY_REFUSED;
            snprintf(results[i].reason, sizeof results[i].reason, "payload is no object");
            count = i + 1;
        }
    }
    /* Done is what is on the disk; else the bridge waits, and delivers all of it again. */
    return fflush(index) == 0 && fsync(fileno(index)) == 0 ? count : 0;
}

int main(int argc, char **argv)
{
    char source_url[4096], state_url[4096];
    ledger_store_options store_options;
    ledger_bridge_options options;
    ledger_bridge_stats stats;
    ledger_store *source = NULL;
    ledger_bridge *bridge = NULL;
    ledger_sink sink;
    ledger_error err;
    FILE *index = argc == 4 ? fopen(argv[2], "a") : NULL;

    if (index == NULL) {
        fprintf(stderr, "usage: %s SOURCE.db INDEX STATE.db\n", argv[0]);
        return 2;
    }
    snprintf(source_url, sizeof source_url, "sqlite:%s", argv[1]);
    snprintf(state_url, sizeof state_url, "sqlite:%s", argv[3]);
    ledger_store_options_defaults(&store_options);
    store_options.url = source_url;
    ledger_bridge_options_defaults(&options);
    options.state_url = state_url;
    options.skip_types = 1U << LEDGER_MUTATION_SET_TAGS | 1U << LEDGER_MUTATION_SET_ANNOTATIONS;
    ledger_sink_defaults(&sink);
    sink.ctx = index;
    sink.takes = 1U << LEDGER_MUTATION_APPEND | 1U << LEDGER_MUTATION_TRIM;
    sink.deliver = deliver;

    ledger_rc rc = ledger_store_open(&store_options, &source, &err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_create_to(source, &sink, &options, &bridge, &err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_start(bridge, &err);
    if (rc == LEDGER_OK)
        rc = ledger_bridge_wait(bridge, true, 60000, &err);
    if (rc == LEDGER_OK) {
        ledger_bridge_get_stats(bridge, &stats);
        printf("%llu delivered, %llu parked\n", (unsigned long long)stats.apply_count,
               (unsigned long long)stats.park_count);
    } else {
        fprintf(stderr, "own_sink: %s\n", err.message);
    }
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&source);
    fclose(index);
    return ledger_rc_exit_code(rc);
}

/* Two ledgers and the bridge between them, in one page.
 *
 * quickstart SOURCE.db SINK.db: writes one order, carries it over, proves that both are equal. */
#include <stdio.h>
#include <string.h>

#include <ledger/ledger.h>

static ledger_rc open_store(const char *path, ledger_log_mode log, ledger_store **ret_store,
                            ledger_error *err)
{
    char url[4096];
    ledger_store_options options;
    ledger_store_options_defaults(&options);
    snprintf(url, sizeof url, "sqlite:%s", path);
    options.url = url;
    options.log = log; /* on: this one can be the source of a bridge; off: only ever a sink */
    options.flags = LEDGER_STORE_CREATE;
    return ledger_store_open(&options, ret_store, err);
}

int main(int argc, char **argv)
{
    static const char payload[] = "{\"order\": 1, \"total\": 9.50}";
    const char *tags[] = { "paid" };
    ledger_append_input input = { .payload = { payload, strlen(payload) }, .dedup_key = "order-1" };
    ledger_store *source = NULL, *sink = NULL;
    ledger_bridge *bridge = NULL;
    ledger_ids ids = { 0 };
    ledger_verify_result result;
    ledger_error err;
    int status = 1;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SOURCE.db SINK.db\n", argv[0]);
        return 2;
    }
    if (open_store(argv[1], LEDGER_MUTATION_LOG_ON, &source, &err) != LEDGER_OK ||
        open_store(argv[2], LEDGER_MUTATION_LOG_OFF, &sink, &err) != LEDGER_OK)
        goto out;

    /* The entry, its tag, and the event of each, commit together. */
    if (ledger_store_append(source, "orders", &input, 1, &ids, &err) != LEDGER_OK)
        goto out;
    if (ids.count == 1 && /* 0: the key order-1 was there already */
        ledger_store_set_tags(source, "orders", ids.items[0], (ledger_list){ tags, 1 }, &err) !=
            LEDGER_OK)
        goto out;

    if (ledger_bridge_create(source, sink, NULL, &bridge, &err) != LEDGER_OK ||
        ledger_bridge_start(bridge, &err) != LEDGER_OK ||
        ledger_bridge_wait(bridge, true, 10000, &err) != LEDGER_OK ||
        ledger_bridge_verify(source, sink, NULL, &result, &err) != LEDGER_OK)
        goto out;
    printf("source %llu, sink %llu, differences %llu\n", (unsigned long long)result.source_count,
           (unsigned long long)result.sink_count, (unsigned long long)result.difference_count);
    status = result.difference_count == 0 ? 0 : 10;

out:
    if (status == 1)
        fprintf(stderr, "quickstart: %s\n", err.message);
    ledger_ids_destroy(&ids);
    ledger_bridge_destroy(&bridge);
    ledger_store_close(&sink);
    ledger_store_close(&source);
    return status;
}

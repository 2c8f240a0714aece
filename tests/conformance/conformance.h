/* The conformance suite: what every backend must do, case by case, through the store's own calls.
 *
 * A backend takes part by one line in the table of conformance.c. Cases that need a capability
 * which it does not have are left out; so are those that need a door of the table line that is
 * NULL. */
#ifndef TEST_CONFORMANCE_H
#define TEST_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/mem.h"
#include "event/event.h"
#include "ledger/ledger.h"
#include "store/intern.h"

#define CONF_STORES_MAX 16
#define CONF_URL_MAX 512

/* What the suite needs to know of a backend, and ways round the back of it. */
struct conf_backend {
    const char *name;
    /* URL of a database; equal for equal names within one test. */
    void (*make_url)(const char *dir, const char *database, char *url, size_t url_size);
    /* An entry as the Go bridge leaves it in a sink. NULL: Go never wrote here. */
    void (*put_legacy)(const char *url, const char *table, const char *stream, const char *payload,
                       const char *source_id);
    /* Changes what the log holds at a position, as a restored backup does. */
    void (*damage_log)(const char *url, const char *log_table, int64_t position);
    /* From now on the database refuses bridged entries and changes of this stream. NULL: it cannot
     * be made to. stream NULL: no more. */
    void (*refuse)(const char *url, const char *table, const char *stream);
    bool overlapping; /* two open transactions may both write */
    /* A sink that no program writes to, and without transactions: of the cases those that are
     * `alone`. */
    bool alone;
    /* What goes wrong with one of its next requests, in lines of clickhouse_front.py; "": nothing.
     * Of those that are `alone`. */
    void (*fault)(const char *lines);
};

struct conf_env {
    const struct conf_backend *backend;
    uint64_t caps;
    char dir[256];
    unsigned serial; /* of the test: memory databases live in one process */
    ledger_store *stores[CONF_STORES_MAX];
    size_t store_count;
    struct ldg_arena arena; /* for results; reset by nobody */
};

struct conf_case {
    const char *name;
    void (*run)(struct conf_env *env);
    uint64_t caps;
    size_t door;   /* offset of a member of conf_backend that must not be NULL; 0: none */
    bool compares; /* with conf_oracle(), so not the oracle itself */
    bool alone;    /* holds for such a backend, whatever caps say */
};

extern const struct conf_case conf_user_cases[], conf_change_cases[], conf_source_cases[],
    conf_sink_cases[], conf_handle_cases[], conf_overlap_cases[], conf_parked_cases[],
    conf_text_cases[], conf_random_cases[], conf_interrupt_cases[];
extern const size_t conf_user_case_count, conf_change_case_count, conf_source_case_count,
    conf_sink_case_count, conf_handle_case_count, conf_overlap_case_count, conf_parked_case_count,
    conf_text_case_count, conf_random_case_count, conf_interrupt_case_count;

/* Fails with the text of err. */
#define ok(rc) ok_at((rc), &err, #rc, __FILE__, __LINE__)
#define fails(rc, want) fails_at((rc), LEDGER_ERR_##want, &err, #rc, __FILE__, __LINE__)
void ok_at(ledger_rc rc, const ledger_error *err, const char *text, const char *file, int line);
void fails_at(ledger_rc rc, ledger_rc want, const ledger_error *err, const char *text,
              const char *file, int line);

/* Memory: what every backend is to do. */
const struct conf_backend *conf_oracle(void);
const char *conf_url(struct conf_env *env, const char *database); /* until the next call */
/* Open handles are closed at the end of the test. flags 0: CREATE. */
ledger_store *conf_open(struct conf_env *env, const char *database);
ledger_store *conf_open_with(struct conf_env *env, const char *database, const char *table,
                             ledger_log_mode log, uint32_t flags);
/* One that was opened elsewhere is closed with them. */
void conf_keep(struct conf_env *env, ledger_store *store);
void conf_close(struct conf_env *env, ledger_store *store);

int64_t conf_append(ledger_store *store, const char *stream, const char *payload);
int64_t conf_append_dedup(ledger_store *store, const char *stream, const char *payload,
                          const char *dedup_key); /* 0: known already */
uint64_t conf_count(ledger_store *store, const char *stream);
ledger_batch *conf_read(ledger_store *store, const char *stream, const ledger_read_options *o);
ledger_id conf_id(int64_t number);
ledger_bytes conf_bytes(const char *text);
#define conf_list(...)                                                                             \
    ((ledger_list){ .items = (const char *const[]){ __VA_ARGS__ },                                 \
                    .count = sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *) })
#define conf_map(...)                                                                              \
    ((ledger_map){ .items = (const ledger_pair[]){ __VA_ARGS__ },                                  \
                   .count = sizeof((const ledger_pair[]){ __VA_ARGS__ }) / sizeof(ledger_pair) })
bool conf_list_is(ledger_list list, const char *joined); /* "a,b" */
bool conf_map_is(ledger_map map, const char *joined);    /* "k=v,l=w" */

void conf_check_ids(ledger_store *store, const char *stream, const ledger_read_options *o,
                    const int64_t *want, size_t count);

/* All events of the log, decoded; what they point to is in env's arena. */
size_t conf_events(struct conf_env *env, ledger_store *store, ledger_mutation_event **ret_events,
                   struct ldg_log_row **ret_rows);

#endif

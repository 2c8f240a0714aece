/* Inside of a store handle, for the files of this folder: its state, and the checks that every call
 * makes before it reaches a backend.
 *
 * Checks return the code and fill err, which is never NULL here. */
#ifndef LDG_STORE_HANDLE_H
#define LDG_STORE_HANDLE_H

#include <stdatomic.h>

#include "base/error.h"
#include "base/mem.h"
#include "store/intern.h"

#define LDG_LOG_SUFFIX "_mutations"
#define LDG_LOG_TABLE_MAX_BYTES (LEDGER_MAX_TABLE_BYTES + sizeof(LDG_LOG_SUFFIX) - 1)
#define LDG_LABEL_MAX 512
/* http.c: options of any version (NULL: the defaults), checked, as ours, with their strings; freed
 * by ldg_free(). */
ledger_rc ldg_http_options_copy(const ledger_http_options *options, ledger_http_options **ret_copy,
                                ledger_error *err);
/* Flags for the one opening that they are given to. */
#define LDG_FLAGS_ONCE                                                                             \
    ((uint32_t)(LEDGER_STORE_CREATE | LEDGER_STORE_NEW_IDENTITY | LEDGER_OWN_CONN |                \
                LEDGER_STORE_NOTIFY | LEDGER_STORE_FULL_TEXT))

struct ledger_store {
    const struct ldg_backend *backend;
    void *ctx;
    struct ldg_open open; /* strings are ours */
    char *url;            /* with its secrets; NULL with a connection */
    char *shown_url;      /* secrets masked */
    char *table;
    char *log_table;
    char *label;
    ledger_http_options *http;
    atomic_bool interrupted; /* the call that runs, or ran last */
    const ledger_wait *wait; /* whom the program named; NULL: nobody */
    ledger_wait waits;       /* whom the backend asks: of the interrupt, and that one */
    struct ldg_arena scratch;
    bool in_tx;
    bool in_snapshot;
    bool tx_wrote;
};

enum ldg_use {
    LDG_USE_READ,
    LDG_USE_WRITE,
};

/* Has the store's backend this callback of a role? store may be NULL. */
#define LDG_HAS(store, role, callback)                                                             \
    ((store) && (store)->backend->role && (store)->backend->role->callback)

/* A call begins: may the handle do this now? store NULL: CLOSED. has_callback false: this backend
 * cannot do it; what: the ability, for the message. An interrupt that came before is forgotten, so
 * this is not called again once a backend was. */
ledger_rc ldg_check_use(ledger_store *store, enum ldg_use use, bool has_callback, const char *what,
                        ledger_error *err);
/* As ldg_check_use, for calls that are a transaction of their own. */
ledger_rc ldg_check_use_alone(ledger_store *store, enum ldg_use use, bool has_callback,
                              const char *what, ledger_error *err);
ledger_rc ldg_fail_closed(ledger_error *err);
/* Is the handle one that only adds entries? */
ledger_rc ldg_check_not_append_only(const ledger_store *store, ledger_error *err);
ledger_rc ldg_fail_unsupported(const ledger_store *store, const char *what, ledger_error *err);
ledger_rc ldg_fail_null(const char *what, ledger_error *err);
ledger_rc ldg_fail_no_cursor(const char *name, ledger_error *err);

/* Text: not NULL, within its limit, UTF-8. */
ledger_rc ldg_check_text(const char *text, size_t max_bytes, const char *what, ledger_error *err);
ledger_rc ldg_check_stream(const char *stream, ledger_error *err);
ledger_rc ldg_check_cursor_name(const char *name, ledger_error *err);
ledger_rc ldg_check_list(ledger_list list, const char *what, ledger_error *err);
ledger_rc ldg_check_map(ledger_map map, bool allow_null, const char *key_what,
                        const char *value_what, ledger_error *err);
/* Does it lie before every entry's id: a number of 0 or less, or an empty text? */
bool ldg_id_is_zero(const ledger_store *store, ledger_id id);
/* least: 1 for an entry's id, INT64_MIN for an end of a range. */
ledger_rc ldg_check_id(const ledger_store *store, ledger_id id, int64_t least, const char *what,
                       ledger_error *err);
ledger_rc ldg_check_input(const ledger_append_input *input, ledger_error *err);
ledger_rc ldg_check_table_name(const char *name, size_t max_bytes, const char *what,
                               ledger_error *err);
/* The log must be none of the tables that stand beside `table`. Case never tells tables apart. */
ledger_rc ldg_check_log_table(const char *table, const char *log_table, ledger_error *err);

void ldg_store_free(ledger_store *store);
/* Wakes who waits, at once or at the commit. */
void ldg_store_wrote(ledger_store *store);
/* store.c: read options of any version (NULL: the defaults) as ours. */
ledger_rc ldg_read_options_take(const ledger_read_options *options,
                                ledger_read_options *ret_options, ledger_error *err);
/* store.c: as ledger_store_read(), in the midst of a call: stream was checked. */
ledger_rc ldg_store_read_more(ledger_store *store, const char *stream,
                              const ledger_read_options *options, ledger_batch **ret_batch,
                              ledger_error *err);
/* store.c: options are checked, stream was; only with the callback. */
ledger_rc ldg_store_read_gaps(ledger_store *store, const char *stream,
                              const ledger_read_options *options, const int64_t *known,
                              size_t known_count, ledger_batch **ret_batch, ledger_error *err);

#endif

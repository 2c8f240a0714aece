/* Which backends this library has. */
#ifndef LDG_STORE_REGISTRY_H
#define LDG_STORE_REGISTRY_H

#include "store/backend.h"

#define LDG_REGISTRY_LIST_MAX 256

/* The backend for the scheme of a URL ("sqlite:PATH"); *ret_path: behind the colon. Errors: INVALID
 * (no scheme), UNSUPPORTED (unknown, or left out of this build; lists what there is). */
ledger_rc ldg_registry_find(const char *url, const struct ldg_backend **ret_backend,
                            const char **ret_path, ledger_error *err);
/* The backend that takes a caller's own connection of this kind. Errors: INVALID (no kind),
 * UNSUPPORTED (left out of this build). */
ledger_rc ldg_registry_find_connection(ledger_connection_kind kind,
                                       const struct ldg_backend **ret_backend, ledger_error *err);
/* All of them; index from 0; NULL behind the last. */
const struct ldg_backend *ldg_registry_get(size_t index);
/* What is wrong with a backend's table of functions; NULL: nothing. */
const char *ldg_registry_problem(const struct ldg_backend *backend);

#endif

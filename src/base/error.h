/* Filling a ledger_error. All return the code, so that a failing path is one line. */
#ifndef LDG_BASE_ERROR_H
#define LDG_BASE_ERROR_H

#include "ledger/error.h"

/* err may be NULL. Flags are the code's defaults. */
ledger_rc ldg_fail(ledger_error *err, ledger_rc code, const char *fmt, ...) LEDGER_PRINTF(3, 4);
ledger_rc ldg_fail_native(ledger_error *err, ledger_rc code, const char *backend, int native_code,
                          const char *fmt, ...) LEDGER_PRINTF(5, 6);
ledger_rc ldg_fail_nomem(ledger_error *err);

/* Copies url into out with passwords masked ("postgresql://u:***@host/db"). */
void ldg_mask_url(const char *url, char *out, size_t out_size);

#endif

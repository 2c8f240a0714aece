/* The whole public API, in reading order. */
#ifndef LEDGER_LEDGER_H
#define LEDGER_LEDGER_H

/* clang-format off */
#include "ledger/error.h"
#include "ledger/types.h"
#include "ledger/event.h"
#include "ledger/http.h"
#include "ledger/store.h"
#include "ledger/stream.h"
#include "ledger/telemetry.h"
#include "ledger/sink.h"
#include "ledger/bridge.h"
/* clang-format on */

#define LEDGER_VERSION "0.1.0"

#ifdef __cplusplus
extern "C" {
#endif
/* "0.1.0": the version of the library that is linked. */
LEDGER_API const char *ledger_version(void);
#ifdef __cplusplus
}
#endif
#endif

/* What ClickHouse says when something fails: the number in its answer, and what that means here. */
#ifndef LDG_BACKEND_CLICKHOUSE_FAIL_H
#define LDG_BACKEND_CLICKHOUSE_FAIL_H

#include "ledger/types.h"

/* An error in the body of an answer. */
struct ldg_ch_error {
    int code;
    ledger_bytes text; /* a view: what follows the number */
};

/* Is the body an error, or ends it in one? At its start "Code: N", also behind a status of 200; or
 * the block that a server appends which fails in the middle of a result, between the tag that it
 * has told beforehand (X-ClickHouse-Exception-Tag; NULL: none) twice. Only the number is read. */
bool ldg_ch_find_error(ledger_bytes body, const char *tag, struct ldg_ch_error *ret_error);
/* The text of an error that stands where a row should begin. */
bool ldg_ch_parse_error(ledger_bytes text, struct ldg_ch_error *ret_error);

/* What to do about it. What is not known is IO, which is tried again. */
ledger_rc ldg_ch_code(int code);
/* Fills err. */
ledger_rc ldg_ch_fail(const char *doing, const struct ldg_ch_error *error, ledger_error *err);

#endif

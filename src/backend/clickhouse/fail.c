/* Errors of ClickHouse. Pure.
 *
 * Hides where in an answer an error stands, and which number means what. Invariant: the number
 * alone decides; texts differ from server to server, and are shown only, cleaned. */
#include "backend/clickhouse/fail.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "http/http.h"

#define UNKNOWN_DATABASE 81 /* as ClickHouse numbers it */
#define BLOCK "\r\n__exception__\r\n"
#define BLOCK_SIZE (sizeof(BLOCK) - 1)
#define TAG_MAX 64

/* --- where it stands ------------------------------------------------------------------------- */

bool ldg_ch_parse_error(ledger_bytes text, struct ldg_ch_error *ret_error)
{
    static const char prefix[] = "Code: ";
    const char *p = text.data, *end = p + text.size;
    int code = 0;

    if (text.size <= sizeof(prefix) - 1 || memcmp(p, prefix, sizeof(prefix) - 1) != 0)
        return false;
    p += sizeof(prefix) - 1;
    if (*p < '0' || *p > '9')
        return false;
    for (; p < end && *p >= '0' && *p <= '9'; p++) {
        if (code > 1000000)
            return false;
        code = code * 10 + (*p - '0');
    }
    while (p < end && (*p == '.' || *p == ',' || *p == ' '))
        p++;
    *ret_error = (struct ldg_ch_error){ code, { p, (size_t)(end - p) } };
    return true;
}

/* The block begins where the tag stands behind its word; the tag is the server's, and no data can
 * know it. */
static bool find_block(ledger_bytes body, const char *tag, struct ldg_ch_error *ret_error)
{
    char opening[BLOCK_SIZE + TAG_MAX + 3];
    const size_t size = tag != NULL ? strlen(tag) : 0;
    const char *start, *end = (const char *)body.data + body.size;
    ledger_bytes text;

    if (size == 0 || size > TAG_MAX)
        return false;
    (void)snprintf(opening, sizeof(opening), BLOCK "%s\r\n", tag);
    start = memmem(body.data, body.size, opening, strlen(opening));
    if (start == NULL)
        return false;
    start += strlen(opening);
    text = (ledger_bytes){ start, (size_t)(end - start) };
    if (!ldg_ch_parse_error(text, ret_error))
        *ret_error = (struct ldg_ch_error){ 0, text };
    return true;
}

bool ldg_ch_find_error(ledger_bytes body, const char *tag, struct ldg_ch_error *ret_error)
{
    return body.size > 0 &&
           (ldg_ch_parse_error(body, ret_error) || find_block(body, tag, ret_error));
}

/* --- what it means --------------------------------------------------------------------------- */

static const struct meaning {
    int code;
    ledger_rc rc;
} meanings[] = {
    { 8, LEDGER_ERR_SCHEMA },  /* THERE_IS_NO_COLUMN */
    { 10, LEDGER_ERR_SCHEMA }, /* NOT_FOUND_COLUMN_IN_BLOCK */
    { 16, LEDGER_ERR_SCHEMA }, /* NO_SUCH_COLUMN_IN_TABLE */
    { 36, LEDGER_ERR_SCHEMA }, /* BAD_ARGUMENTS */
    { 44, LEDGER_ERR_SCHEMA }, /* ILLEGAL_COLUMN */
    { 46, LEDGER_ERR_SCHEMA }, /* UNKNOWN_FUNCTION */
    { 47, LEDGER_ERR_SCHEMA }, /* UNKNOWN_IDENTIFIER */
    { 48, LEDGER_ERR_SCHEMA }, /* NOT_IMPLEMENTED */
    { 50, LEDGER_ERR_SCHEMA }, /* UNKNOWN_TYPE */
    { 53, LEDGER_ERR_SCHEMA }, /* TYPE_MISMATCH */
    { 56, LEDGER_ERR_SCHEMA }, /* UNKNOWN_STORAGE */
    { 57, LEDGER_ERR_SCHEMA }, /* TABLE_ALREADY_EXISTS */
    { 60, LEDGER_ERR_SCHEMA }, /* UNKNOWN_TABLE */
    { 62, LEDGER_ERR_SCHEMA }, /* SYNTAX_ERROR: of a server that is too old */
    { UNKNOWN_DATABASE, LEDGER_ERR_SCHEMA },
    { 115, LEDGER_ERR_SCHEMA },     /* UNKNOWN_SETTING */
    { 181, LEDGER_ERR_SCHEMA },     /* ILLEGAL_FINAL */
    { 344, LEDGER_ERR_SCHEMA },     /* SUPPORT_IS_DISABLED */
    { 164, LEDGER_ERR_READ_ONLY },  /* READONLY: of the user's profile */
    { 192, LEDGER_ERR_PERMISSION }, /* UNKNOWN_USER */
    { 193, LEDGER_ERR_PERMISSION }, /* WRONG_PASSWORD */
    { 194, LEDGER_ERR_PERMISSION }, /* REQUIRED_PASSWORD */
    { 195, LEDGER_ERR_PERMISSION }, /* IP_ADDRESS_NOT_ALLOWED */
    { 291, LEDGER_ERR_PERMISSION }, /* DATABASE_ACCESS_DENIED */
    { 452, LEDGER_ERR_PERMISSION }, /* SETTING_CONSTRAINT_VIOLATION */
    { 497, LEDGER_ERR_PERMISSION }, /* ACCESS_DENIED */
    { 516, LEDGER_ERR_PERMISSION }, /* AUTHENTICATION_FAILED */
    { 128, LEDGER_ERR_REJECTED },   /* TOO_LARGE_ARRAY_SIZE */
    { 131, LEDGER_ERR_REJECTED },   /* TOO_LARGE_STRING_SIZE */
    { 469, LEDGER_ERR_REJECTED },   /* VIOLATED_CONSTRAINT */
    { 158, LEDGER_ERR_BUSY },       /* TOO_MANY_ROWS: over a limit of the user's profile */
    { 173, LEDGER_ERR_NOMEM },      /* CANNOT_ALLOCATE_MEMORY */
    { 202, LEDGER_ERR_BUSY },       /* TOO_MANY_SIMULTANEOUS_QUERIES */
    { 236, LEDGER_ERR_BUSY },       /* ABORTED */
    { 241, LEDGER_ERR_BUSY },       /* MEMORY_LIMIT_EXCEEDED */
    { 242, LEDGER_ERR_BUSY },       /* TABLE_IS_READ_ONLY: a replica without its Keeper */
    { 252, LEDGER_ERR_BUSY },       /* TOO_MANY_PARTS */
    { 285, LEDGER_ERR_BUSY },       /* TOO_FEW_LIVE_REPLICAS */
    { 286, LEDGER_ERR_BUSY },       /* UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE */
    { 289, LEDGER_ERR_BUSY },       /* REPLICA_IS_NOT_IN_QUORUM */
    { 319, LEDGER_ERR_BUSY },       /* UNKNOWN_STATUS_OF_INSERT: a replay adds nothing */
    { 394, LEDGER_ERR_BUSY },       /* QUERY_WAS_CANCELLED */
    { 473, LEDGER_ERR_BUSY },       /* DEADLOCK_AVOIDED */
    { 159, LEDGER_ERR_TIMEOUT },    /* TIMEOUT_EXCEEDED */
    { 160, LEDGER_ERR_TIMEOUT },    /* TOO_SLOW */
    { 201, LEDGER_ERR_FULL },       /* QUOTA_EXCEEDED */
    { 243, LEDGER_ERR_FULL },       /* NOT_ENOUGH_SPACE */
    { 209, LEDGER_ERR_CONNECT },    /* SOCKET_TIMEOUT: to another server of its cluster */
    { 210, LEDGER_ERR_CONNECT },    /* NETWORK_ERROR */
    { 225, LEDGER_ERR_CONNECT },    /* NO_ZOOKEEPER */
    { 279, LEDGER_ERR_CONNECT },    /* ALL_CONNECTION_TRIES_FAILED */
    { 999, LEDGER_ERR_CONNECT },    /* KEEPER_EXCEPTION */
};

ledger_rc ldg_ch_code(int code)
{
    ledger_rc rc = LEDGER_ERR_IO;

    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
        if (meanings[i].code == code)
            rc = meanings[i].rc;
    }
    return rc;
}

/* What to change, where the server's own words do not say it. */
static const char *advice(ledger_rc rc, int code)
{
    if (code == UNKNOWN_DATABASE)
        return "; correct the name in the URL, or make it: `store init` makes no database";
    switch ((int)rc) {
    case LEDGER_ERR_PERMISSION:
        return "; docs/CLICKHOUSE.md lists the privileges, and where user and password come from";
    case LEDGER_ERR_READ_ONLY:
        return "; give this user a profile without `readonly`";
    case LEDGER_ERR_SCHEMA:
        return "; `ledgerctl store check` tells what is wrong with the tables";
    case LEDGER_ERR_FULL:
        return "; free space, or raise the quota";
    default:
        return "";
    }
}

ledger_rc ldg_ch_fail(const char *doing, const struct ldg_ch_error *error, ledger_error *err)
{
    static const char exception[] = "DB::Exception: ";
    const char *text = error->text.data;
    const ledger_rc rc = ldg_ch_code(error->code);
    char shown[LDG_HTTP_EXCERPT_MAX];
    size_t size = error->text.size;

    if (size >= sizeof(exception) - 1 && memcmp(text, exception, sizeof(exception) - 1) == 0) {
        text += sizeof(exception) - 1;
        size -= sizeof(exception) - 1;
    }
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n' || text[i] == '\r' || text[i] == '\0')
            size = i;
    }
    ldg_http_excerpt(&(const struct ldg_buf){ .data = (char *)(uintptr_t)text, .size = size },
                     shown);
    return ldg_fail_native(err, rc, "clickhouse", error->code, "%s: ClickHouse says %s (%d)%s",
                           doing, shown, error->code, advice(rc, error->code));
}

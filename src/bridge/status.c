/* Looking at a pair of stores from outside, and moving its cursor on purpose. */
#include <stdio.h>
#include <string.h>

#include "bridge/stages.h"

static ledger_rc keeper_init(struct ldg_cursor_keeper *keeper, ledger_store *sink, const char *name,
                             ledger_error *err)
{
    memset(keeper, 0, sizeof(*keeper));
    if ((ldg_store_caps(sink) & LDG_CAP_TX_CURSOR) == 0)
        return ldg_fail(err, LEDGER_ERR_UNSUPPORTED,
                        "the sink (%s) keeps no cursors; look into the bridge's cursor file",
                        ledger_store_backend(sink));
    keeper->store = sink;
    keeper->name = name != NULL ? name : LEDGER_BRIDGE_DEFAULT_NAME;
    keeper->codec = &ledger_int64_codec;
    return LEDGER_OK;
}

static void position_text(int64_t position, char text[LEDGER_ID_TEXT_MAX])
{
    ledger_id id = { .number = position };
    if (ledger_int64_codec.encode(id, text, NULL) != LEDGER_OK)
        text[0] = '\0';
}

ledger_rc ledger_bridge_status_get(ledger_store *source, ledger_store *sink, const char *name,
                                   ledger_bridge_status *ret_status, ledger_error *err)
{
    ledger_error local;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || ret_status == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "status: source, sink or result is NULL");
    ledger_bridge_status status = { .moved_at_us = LEDGER_NO_TIME };
    struct ldg_cursor_keeper *keeper = ldg_calloc(1, sizeof(*keeper));
    struct ldg_identity identity;
    struct ldg_log_stat stat;
    int64_t position = 0;
    if (keeper == NULL)
        return ldg_fail_nomem(err);

    ledger_rc rc = keeper_init(keeper, sink, name, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_identity(source, &identity, err);
    if (rc == LEDGER_OK) {
        rc = ldg_cursor_look(keeper, source, &position, err);
        status.has_cursor = rc == LEDGER_OK;
        if (rc == LEDGER_ERR_NOT_FOUND)
            rc = LEDGER_OK;
    }
    if (rc == LEDGER_OK)
        rc = ldg_store_log_stat(source, keeper->from, &stat, err);
    if (rc == LEDGER_OK && (ldg_store_caps(sink) & LDG_CAP_PARK) != 0)
        rc = ldg_store_parked_count(sink, identity.uuid, &status.parked_count, err);
    if (rc == LEDGER_OK) {
        (void)snprintf(status.source_uuid, sizeof(status.source_uuid), "%s", identity.uuid);
        if (status.has_cursor) {
            position_text(position, status.position);
            status.moved_at_us = keeper->row.moved_at_us;
        }
        position_text(stat.head, status.head);
        status.backlog_count = stat.backlog_count;
        status.oldest_us = stat.backlog_count > 0 ? stat.oldest_us : LEDGER_NO_TIME;
        if (stat.backlog_count > 0) {
            struct ldg_lag lag =
                ldg_lag_of_pair(ldg_clock_now_us(), stat.oldest_us, status.moved_at_us);
            status.lag_seconds = lag.seconds;
            status.wrong_time = lag.wrong_time;
            status.lag_unknown = !lag.known;
        }
        *ret_status = status;
    }
    ldg_free(keeper);
    return rc;
}

/* Where the cursor stands, also when the source no longer agrees with it. */
static ledger_rc present_position(struct ldg_cursor_keeper *keeper, ledger_store *source,
                                  int64_t *ret_position, bool *ret_adopt, bool *ret_rewound,
                                  bool *ret_agrees, ledger_error *err)
{
    ledger_id id = { 0 };
    ledger_rc rc = ldg_cursor_load(keeper, source, true, ret_adopt, err);
    switch (rc) {
    case LEDGER_OK:
        *ret_agrees = true;
        if (keeper->from[0] != '\0')
            return ldg_store_log_check(source, keeper->from, ret_position, err);
        *ret_position = 0;
        return LEDGER_OK;
    case LEDGER_ERR_SOURCE_REWOUND:
        (void)keeper->codec->decode(keeper->row.readable, &id, NULL);
        *ret_position = id.number;
        *ret_rewound = true;
        return LEDGER_OK;
    case LEDGER_ERR_CURSOR_MISMATCH:
    case LEDGER_ERR_DATA:
        *ret_position = 0;
        return LEDGER_OK;
    default:
        return rc;
    }
}

/* What the Go bridge left becomes this source's before its cursor, the only sign of it, is gone.
 * And where the source was put back, changes of the history it lost must not stand in the way of
 * new ones with the same positions. */
static ledger_rc settle_entries(const struct ldg_cursor_keeper *keeper, ledger_store *source,
                                ledger_store *sink, bool adopt, bool rewound, int64_t position,
                                ledger_error *err)
{
    const bool first = keeper->row.state[0] == '\0' && keeper->row.readable[0] == '\0';
    struct ldg_taker taker = { .cursor = keeper, .source = source, .sink = sink };
    struct ldg_identity identity;
    struct ldg_takeover taken;
    ledger_rc rc = ldg_store_identity(source, &identity, err);
    if (rc != LEDGER_OK || !(first || adopt || rewound))
        return rc;
    rc = ldg_store_origin_get(sink, &identity, keeper->name, &taker.origin, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_origin_carry_ids(sink, &taker.go_origin, err);
    if (rc == LEDGER_OK && first)
        rc = ldg_takeover_first(&taker, &taken, err);
    else if (rc == LEDGER_OK && adopt)
        rc = ldg_takeover_adopt(&taker, ldg_id_of(0), &taken, err);
    if (rc == LEDGER_OK && rewound)
        rc = ldg_store_origin_rewind(sink, taker.origin, position, err);
    return rc;
}

ledger_rc ledger_bridge_cursor_set(ledger_store *source, ledger_store *sink, const char *name,
                                   const char *position, bool allow_skip, ledger_error *err)
{
    ledger_error local;
    int64_t wanted, present = 0;
    bool adopt = false, rewound = false, agrees = false;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL || position == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "cursor set: source, sink or position is NULL");
    if (!ldg_int64_parse(position, true, &wanted))
        return ldg_fail(err, LEDGER_ERR_INVALID,
                        "\"%s\" is not a position: give a log position of the source, or 0 for the "
                        "beginning",
                        position);
    struct ldg_cursor_keeper *keeper = ldg_calloc(1, sizeof(*keeper));
    struct ldg_cursor *next = ldg_calloc(1, sizeof(*next));
    struct ldg_log_stat stat;
    ledger_rc rc =
        keeper == NULL || next == NULL ? ldg_fail_nomem(err) : keeper_init(keeper, sink, name, err);
    if (rc == LEDGER_OK)
        rc = present_position(keeper, source, &present, &adopt, &rewound, &agrees, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_log_stat(source, "", &stat, err);
    if (rc == LEDGER_OK && wanted > stat.head)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "position %lld is past the end of the log, which is %lld", (long long)wanted,
                      (long long)stat.head);
    if (rc == LEDGER_OK && wanted > present && !allow_skip)
        rc = ldg_fail(err, LEDGER_ERR_INVALID,
                      "the cursor stands at %lld; going forward to %lld would skip events for good "
                      "(--allow-skip does it)",
                      (long long)present, (long long)wanted);
    if (rc == LEDGER_OK)
        rc = settle_entries(keeper, source, sink, adopt, rewound, wanted, err);
    if (rc == LEDGER_OK && (!agrees || wanted < present))
        rc = ldg_store_origin_unguard(sink, err);
    /* A skip leaves out what lies before it, going back never does. */
    if (rc == LEDGER_OK && wanted <= present && agrees && keeper->from[0] != '\0')
        rc = ldg_cursor_back(source, keeper->from, wanted, next->state, &wanted, err);
    else if (rc == LEDGER_OK)
        rc = ldg_store_log_cursor_at(source, wanted, next->state, err);
    if (rc == LEDGER_OK) {
        position_text(wanted, next->readable);
        next->moved_at_us = ldg_clock_now_us();
        rc = ldg_store_cursor_set(sink, keeper->name, &keeper->row, next, err);
    }
    ldg_free(next);
    ldg_free(keeper);
    return rc;
}

ledger_rc ledger_bridge_cursor_acknowledge(ledger_store *source, ledger_store *sink,
                                           const char *name, bool *ret_changed, ledger_error *err)
{
    ledger_error local;
    bool needed = false;
    int64_t position = 0;
    err = err != NULL ? err : &local;
    if (source == NULL || sink == NULL)
        return ldg_fail(err, LEDGER_ERR_INVALID, "cursor acknowledge: source or sink is NULL");
    struct ldg_cursor_keeper *keeper = ldg_calloc(1, sizeof(*keeper));
    struct ldg_cursor *next = ldg_calloc(1, sizeof(*next));
    ledger_rc rc =
        keeper == NULL || next == NULL ? ldg_fail_nomem(err) : keeper_init(keeper, sink, name, err);
    if (rc == LEDGER_OK)
        rc = ldg_store_cursor_get(sink, keeper->name, false, &keeper->row, err);
    if (rc == LEDGER_OK)
        rc = ldg_cursor_not_lost(keeper->name, &keeper->row, err);
    if (rc == LEDGER_OK && keeper->row.state[0] != '\0') {
        rc = ldg_store_log_check(source, keeper->row.state, &position, err);
        if (rc == LEDGER_ERR_CURSOR_MISMATCH || rc == LEDGER_ERR_SOURCE_REWOUND) {
            ledger_error refused = *err;
            ledger_rc refused_rc = rc;
            rc = ldg_store_log_acknowledge(source, keeper->row.state, &needed, next->state, err);
            if (rc == LEDGER_OK && !needed) { /* this kind of source has no such move */
                *err = refused;
                rc = refused_rc;
            }
        }
    }
    if (rc == LEDGER_OK && needed)
        rc = ldg_store_log_check(source, next->state, &position, err);
    if (rc == LEDGER_OK && needed) {
        position_text(position, next->readable);
        next->moved_at_us = ldg_clock_now_us();
        rc = ldg_store_cursor_set(sink, keeper->name, &keeper->row, next, err);
    }
    if (rc == LEDGER_OK && ret_changed != NULL)
        *ret_changed = needed;
    ldg_free(next);
    ldg_free(keeper);
    return rc;
}

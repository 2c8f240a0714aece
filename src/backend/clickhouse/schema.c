/* The tables: made, and looked at.
 *
 * Hides their statements and what the server says of them. Invariants: a table that is there is
 * never changed; one in which an entry would stay twice is not written to. */
#include "backend/clickhouse/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first version with is_deleted in ReplacingMergeTree. */
#define YEAR_MIN 23
#define MONTH_MIN 2

const char *const ldg_ch_suffixes[LDG_CH_TABLES] = {
    [LDG_CH_ENTRIES] = "",         [LDG_CH_CURSORS] = "_cursors", [LDG_CH_PARKED] = "_parked",
    [LDG_CH_ORIGINS] = "_origins", [LDG_CH_CURRENT] = "_current",
};

/* clang-format off */
/* Go's columns come first. An insert is on the disk before its answer: the cursor comes behind. An
 * entry is found among 1,024 others, not among 8,192. */
static const char create_entries[] =
    "CREATE TABLE IF NOT EXISTS `%s` ("
        "id String, stream String, payload String, order_key String, dedup_key String, "
        "schema_version Int32, metadata String, tags String, source_id String, "
        "created_at DateTime64(6, 'UTC'), "
        "annotations String, updated_at Nullable(DateTime64(6, 'UTC')), "
        "origin LowCardinality(String), entry_key String, version UInt64, is_deleted UInt8, "
        "appended_position Int64, tags_position Int64, annotations_position Int64, "
        "trimmed_position Int64, foreign_positions String"
    ") ENGINE = ReplacingMergeTree(version, is_deleted) ORDER BY (stream, origin, entry_key) "
    "SETTINGS index_granularity = 1024, non_replicated_deduplication_window = 1000, "
        "fsync_after_insert = 1, fsync_part_directory = 1";
static const char create_cursors[] =
    "CREATE TABLE IF NOT EXISTS `%s_cursors` ("
        "name String, cursor String, state String, moved_at DateTime64(6, 'UTC'), version UInt64"
    ") ENGINE = ReplacingMergeTree(version) ORDER BY name";
static const char create_parked[] =
    "CREATE TABLE IF NOT EXISTS `%s_parked` ("
        "id Int64, source_uuid String, log_position Int64, origin String, entry_key String, "
        "stream String, type String, reason String, attempts UInt64, "
        "parked_at DateTime64(6, 'UTC'), event_time DateTime64(6, 'UTC'), event String, "
        "version UInt64, is_deleted UInt8"
    ") ENGINE = ReplacingMergeTree(version, is_deleted) "
    "ORDER BY (source_uuid, log_position, entry_key) "
    "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";
static const char create_origins[] =
    "CREATE TABLE IF NOT EXISTS `%s_origins` ("
        "number Int32, uuid String, epoch Int64, name String, "
        "registered_at DateTime64(6, 'UTC'), version UInt64"
    ") ENGINE = ReplacingMergeTree(version) ORDER BY (uuid, epoch)";
static const char create_view[] =
    "CREATE VIEW IF NOT EXISTS `%s_current` AS SELECT "
        "stream, id, payload, order_key, dedup_key, schema_version, "
        "JSONExtract(metadata, 'Map(String, String)') AS metadata, "
        "JSONExtract(tags, 'Array(String)') AS tags, "
        "JSONExtract(annotations, 'Map(String, String)') AS annotations, "
        "created_at, updated_at, source_id, origin "
    "FROM `%s` FINAL WHERE is_deleted = 0";

static const struct column {
    enum ldg_ch_table table;
    const char *name, *type;
} columns[] = {
    { LDG_CH_ENTRIES, "id", "String" }, { LDG_CH_ENTRIES, "stream", "String" },
    { LDG_CH_ENTRIES, "payload", "String" }, { LDG_CH_ENTRIES, "order_key", "String" },
    { LDG_CH_ENTRIES, "dedup_key", "String" }, { LDG_CH_ENTRIES, "schema_version", "Int32" },
    { LDG_CH_ENTRIES, "metadata", "String" }, { LDG_CH_ENTRIES, "tags", "String" },
    { LDG_CH_ENTRIES, "source_id", "String" }, { LDG_CH_ENTRIES, "created_at", "DateTime64(6)" },
    { LDG_CH_ENTRIES, "annotations", "String" },
    { LDG_CH_ENTRIES, "updated_at", "Nullable(DateTime64(6))" },
    { LDG_CH_ENTRIES, "origin", "String" }, { LDG_CH_ENTRIES, "entry_key", "String" },
    { LDG_CH_ENTRIES, "version", "UInt64" }, { LDG_CH_ENTRIES, "is_deleted", "UInt8" },
    { LDG_CH_ENTRIES, "appended_position", "Int64" }, { LDG_CH_ENTRIES, "tags_position", "Int64" },
    { LDG_CH_ENTRIES, "annotations_position", "Int64" },
    { LDG_CH_ENTRIES, "trimmed_position", "Int64" },
    { LDG_CH_ENTRIES, "foreign_positions", "String" },
    { LDG_CH_CURSORS, "name", "String" }, { LDG_CH_CURSORS, "cursor", "String" },
    { LDG_CH_CURSORS, "state", "String" }, { LDG_CH_CURSORS, "moved_at", "DateTime64(6)" },
    { LDG_CH_CURSORS, "version", "UInt64" },
    { LDG_CH_PARKED, "id", "Int64" }, { LDG_CH_PARKED, "source_uuid", "String" },
    { LDG_CH_PARKED, "log_position", "Int64" }, { LDG_CH_PARKED, "origin", "String" },
    { LDG_CH_PARKED, "entry_key", "String" }, { LDG_CH_PARKED, "stream", "String" },
    { LDG_CH_PARKED, "type", "String" }, { LDG_CH_PARKED, "reason", "String" },
    { LDG_CH_PARKED, "attempts", "UInt64" }, { LDG_CH_PARKED, "parked_at", "DateTime64(6)" },
    { LDG_CH_PARKED, "event_time", "DateTime64(6)" }, { LDG_CH_PARKED, "event", "String" },
    { LDG_CH_PARKED, "version", "UInt64" }, { LDG_CH_PARKED, "is_deleted", "UInt8" },
    { LDG_CH_ORIGINS, "number", "Int32" }, { LDG_CH_ORIGINS, "uuid", "String" },
    { LDG_CH_ORIGINS, "epoch", "Int64" }, { LDG_CH_ORIGINS, "name", "String" },
    { LDG_CH_ORIGINS, "registered_at", "DateTime64(6)" }, { LDG_CH_ORIGINS, "version", "UInt64" },
};
/* clang-format on */
#define COLUMN_COUNT (sizeof(columns) / sizeof(columns[0]))

/* --- judging --------------------------------------------------------------------------------- */

bool ldg_ch_version_is_new(const char *version)
{
    char *end = NULL;
    const long year = strtol(version, &end, 10);
    const long month = *end == '.' ? strtol(end + 1, NULL, 10) : 0;

    return year > YEAR_MIN || (year == YEAR_MIN && month >= MONTH_MIN);
}

/* In the same form, values are the same: LowCardinality(String), DateTime64(6, 'UTC'). */
static bool is_type(const char *type, const char *wanted)
{
    static const char low[] = "LowCardinality(";
    const size_t size = strlen(wanted);
    size_t open = strcspn(wanted, ")");

    if (strncmp(type, low, sizeof(low) - 1) == 0)
        return strncmp(type + sizeof(low) - 1, wanted, size) == 0 &&
               strcmp(type + sizeof(low) - 1 + size, ")") == 0;
    if (strncmp(type, wanted, open) != 0)
        return false;
    type += open;
    wanted += open;
    if (type[0] == ',' && wanted[0] == ')') /* a time zone is for show */
        type = strchr(type, ')');
    return type != NULL && strcmp(type, wanted) == 0;
}

bool ldg_ch_shape_is_distributed(const struct ldg_ch_shape *shape)
{
    return strcmp(shape->engine, "Distributed") == 0;
}

/* The engine's arguments name the column. */
static bool has_argument(const struct ldg_ch_shape *shape, const char *name)
{
    const char *at = shape->full + strcspn(shape->full, "( "), *end = strchr(at, ')');
    const size_t size = strlen(name);

    if (*at != '(' || end == NULL)
        return false;
    while ((at = strstr(at, name)) != NULL && at < end) {
        if ((at[-1] == '(' || at[-1] == ' ' || at[-1] == '`') &&
            (at[size] == ')' || at[size] == ',' || at[size] == '`'))
            return true;
        at += size;
    }
    return false;
}

void ldg_ch_shape_judge(struct ldg_ch_shape *shape, const char *table, enum ldg_ch_table which)
{
    static const char *const keys[LDG_CH_TABLES] = {
        [LDG_CH_ENTRIES] = "stream, origin, entry_key",
        [LDG_CH_CURSORS] = "name",
        [LDG_CH_PARKED] = "source_uuid, log_position, entry_key",
        [LDG_CH_ORIGINS] = "uuid, epoch",
    };
    const bool replaces = strstr(shape->engine, "Replacing") != NULL;
    const char *suffix = ldg_ch_suffixes[which];

    if (shape->fault[0] != '\0' || ldg_ch_shape_is_distributed(shape))
        return;
    if (!replaces)
        (void)snprintf(shape->fault, sizeof(shape->fault),
                       "table \"%s%s\" is a %s, in which an entry that is carried again would stay "
                       "twice (the Go module makes such tables); take another --table, or make it "
                       "a ReplacingMergeTree as docs/CLICKHOUSE.md shows",
                       table, suffix, shape->engine);
    else if (!has_argument(shape, "version"))
        (void)snprintf(shape->fault, sizeof(shape->fault),
                       "table \"%s%s\" replaces rows by no version: its engine has to be "
                       "%s(…version…) as in docs/CLICKHOUSE.md",
                       table, suffix, shape->engine);
    else if (strcmp(shape->sorting_key, keys[which]) != 0)
        (void)snprintf(shape->fault, sizeof(shape->fault),
                       "table \"%s%s\" is ordered by (%.100s); it has to be ORDER BY (%s)", table,
                       suffix, shape->sorting_key, keys[which]);
}

/* --- looking --------------------------------------------------------------------------------- */

static const char looking[] = "looking at the tables";

static ledger_rc ask_version(struct ldg_clickhouse *ch, char version[64], ledger_error *err)
{
    struct ldg_ch_query q;
    ledger_rc rc;

    ldg_ch_begin(&q, ch, "asking the server for its version");
    ldg_ch_sql(&q, "SELECT toUInt8(1), version() FORMAT RowBinary");
    (void)!ldg_ch_run(&q, err);
    version[0] = '\0';
    if (ldg_ch_row(&q))
        ldg_ch_take(&q, version, 64);
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK && !ldg_ch_version_is_new(version))
        rc = ldg_fail_native(err, LEDGER_ERR_UNSUPPORTED, "clickhouse", 0,
                             "the ClickHouse server is of version %.40s, which is too old: %d.%d "
                             "is the first that can replace deleted rows",
                             version, YEAR_MIN, MONTH_MIN);
    return rc;
}

static struct ldg_ch_shape *shape_named(const struct ldg_clickhouse *ch,
                                        struct ldg_ch_shape shapes[LDG_CH_TABLES],
                                        ledger_bytes name, enum ldg_ch_table *ret_which)
{
    const size_t size = strlen(ch->table);

    for (int i = 0; i < LDG_CH_TABLES; i++) {
        const char *suffix = ldg_ch_suffixes[i];

        if (name.size == size + strlen(suffix) && memcmp(name.data, ch->table, size) == 0 &&
            memcmp((const char *)name.data + size, suffix, strlen(suffix)) == 0) {
            *ret_which = (enum ldg_ch_table)i;
            return &shapes[i];
        }
    }
    return NULL;
}

static const struct column *column_named(enum ldg_ch_table table, const char *name, size_t *ret_at)
{
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        if (columns[i].table == table && strcmp(columns[i].name, name) == 0) {
            *ret_at = i;
            return &columns[i];
        }
    }
    return NULL;
}

static void take_column(struct ldg_ch_query *q, struct ldg_ch_shape *shape, enum ldg_ch_table which,
                        bool seen[COLUMN_COUNT])
{
    const struct column *column;
    char name[64], type[128];
    size_t at = 0;

    ldg_ch_take(q, name, sizeof(name));
    ldg_ch_take(q, type, sizeof(type));
    column = shape != NULL ? column_named(which, name, &at) : NULL;
    if (column == NULL)
        return;
    seen[at] = true;
    if (!is_type(type, column->type) && shape->fault[0] == '\0')
        (void)snprintf(shape->fault, sizeof(shape->fault),
                       "column %s of table \"%s%s\" is of type %.60s and has to be %s", name,
                       q->ch->table, ldg_ch_suffixes[which], type, column->type);
}

static void take_table(struct ldg_ch_query *q, struct ldg_ch_shape *shape)
{
    struct ldg_ch_shape ignored;

    shape = shape != NULL ? shape : &ignored;
    shape->is_there = true;
    ldg_ch_take(q, shape->engine, sizeof(shape->engine));
    ldg_ch_take(q, shape->full, sizeof(shape->full));
    ldg_ch_take(q, shape->sorting_key, sizeof(shape->sorting_key));
}

static void note_missing(const struct ldg_clickhouse *ch, struct ldg_ch_shape shapes[LDG_CH_TABLES],
                         const bool seen[COLUMN_COUNT])
{
    for (size_t i = 0; i < COLUMN_COUNT; i++) {
        struct ldg_ch_shape *shape = &shapes[columns[i].table];

        if (!seen[i] && shape->is_there && shape->fault[0] == '\0')
            (void)snprintf(shape->fault, sizeof(shape->fault),
                           "table \"%s%s\" has no column %s, or this user may not read it; one "
                           "that the Go module or somebody else made is left alone: give another "
                           "--table (docs/CLICKHOUSE.md shows what a table of ours looks like)",
                           ch->table, ldg_ch_suffixes[columns[i].table], columns[i].name);
    }
}

/* A row of either kind has the same five values. */
static void begin_look(struct ldg_ch_query *q, struct ldg_clickhouse *ch)
{
    /* clang-format off */
    static const char sql[] =
        "SELECT toUInt8(1), toUInt8(0), name, engine, engine_full, sorting_key "
        "FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {t:String}) "
        "UNION ALL "
        "SELECT toUInt8(1), toUInt8(1), table, name, type, '' "
        "FROM system.columns WHERE database = currentDatabase() AND startsWith(table, {t:String}) "
        "FORMAT RowBinary";
    /* clang-format on */

    ldg_ch_begin(q, ch, looking);
    ldg_ch_sql(q, "%s", sql);
    ldg_ch_bind(q, "t", ch->table);
}

ledger_rc ldg_ch_shapes(struct ldg_clickhouse *ch, struct ldg_ch_shape shapes[LDG_CH_TABLES],
                        char version[64], ledger_error *err)
{
    bool seen[COLUMN_COUNT] = { false };
    struct ldg_ch_query q;
    ledger_rc rc = ask_version(ch, version, err);

    memset(shapes, 0, LDG_CH_TABLES * sizeof(*shapes));
    if (rc != LEDGER_OK)
        return rc;
    begin_look(&q, ch);
    (void)!ldg_ch_run(&q, err);
    while (ldg_ch_row(&q)) {
        const bool is_column = ldg_ch_read_byte(&q.reader) != 0;
        enum ldg_ch_table which = LDG_CH_ENTRIES;
        struct ldg_ch_shape *shape = shape_named(ch, shapes, ldg_ch_read_bytes(&q.reader), &which);

        if (is_column) {
            take_column(&q, shape, which, seen);
            (void)ldg_ch_read_bytes(&q.reader);
        } else {
            take_table(&q, shape);
        }
    }
    rc = ldg_ch_end(&q, err);
    if (rc == LEDGER_OK)
        note_missing(ch, shapes, seen);
    for (int i = 0; rc == LEDGER_OK && i < LDG_CH_CURRENT; i++) {
        if (shapes[i].is_there)
            ldg_ch_shape_judge(&shapes[i], ch->table, (enum ldg_ch_table)i);
    }
    return rc;
}

/* --- opening --------------------------------------------------------------------------------- */

static ledger_rc fail_missing(const struct ldg_clickhouse *ch, const char *suffix,
                              ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "clickhouse", 0,
                           "database \"%s\" has no table \"%s%s\", or this user may not see it; "
                           "`ledgerctl store init` makes it, and docs/CLICKHOUSE.md has the "
                           "statements for a cluster",
                           ch->database, ch->table, suffix);
}

static ledger_rc fail_fault(const struct ldg_ch_shape *shape, ledger_error *err)
{
    return ldg_fail_native(err, LEDGER_ERR_SCHEMA, "clickhouse", 0, "%s", shape->fault);
}

static ledger_rc create(struct ldg_clickhouse *ch, const struct ldg_ch_shape shapes[LDG_CH_TABLES],
                        ledger_error *err)
{
    static const char *const statements[LDG_CH_TABLES] = {
        [LDG_CH_ENTRIES] = create_entries, [LDG_CH_CURSORS] = create_cursors,
        [LDG_CH_PARKED] = create_parked,   [LDG_CH_ORIGINS] = create_origins,
        [LDG_CH_CURRENT] = create_view,
    };
    ledger_rc rc = LEDGER_OK;

    for (int i = 0; rc == LEDGER_OK && i < LDG_CH_TABLES; i++) {
        char sql[2048];
        const char *at = statements[i];
        size_t used = 0;

        if (shapes[i].is_there)
            continue;
        for (const char *name; (name = strstr(at, "%s")) != NULL; at = name + 2)
            used += (size_t)snprintf(sql + used, sizeof(sql) - used, "%.*s%s", (int)(name - at), at,
                                     ch->table);
        (void)snprintf(sql + used, sizeof(sql) - used, "%s", at);
        rc = ldg_ch_exec(ch, "making a table", err, "%s", sql);
    }
    return rc;
}

ledger_rc ldg_ch_schema_open(struct ldg_clickhouse *ch, uint32_t flags, ledger_error *err)
{
    struct ldg_ch_shape *shapes = ldg_arena_alloc(&ch->scratch, LDG_CH_TABLES * sizeof(*shapes));
    const bool creates = (flags & LEDGER_STORE_CREATE) != 0;
    char version[64];
    ledger_rc rc = shapes != NULL ? ldg_ch_shapes(ch, shapes, version, err) : ldg_fail_nomem(err);

    for (int i = 0; rc == LEDGER_OK && i < LDG_CH_CURRENT; i++) {
        if (shapes[i].fault[0] != '\0')
            rc = fail_fault(&shapes[i], err);
    }
    if (rc == LEDGER_OK && !shapes[LDG_CH_ENTRIES].is_there && !creates)
        rc = fail_missing(ch, "", err);
    if (rc == LEDGER_OK && creates)
        rc = create(ch, shapes, err);
    if (rc == LEDGER_OK && creates)
        rc = ldg_ch_identity_make(ch, (flags & LEDGER_STORE_NEW_IDENTITY) != 0, err);
    ldg_arena_reset(&ch->scratch);
    return rc;
}

ledger_rc ldg_ch_schema_verify(struct ldg_clickhouse *ch, ledger_error *err)
{
    struct ldg_ch_shape *shapes = ldg_calloc(LDG_CH_TABLES, sizeof(*shapes));
    char version[64];
    ledger_rc rc = shapes != NULL ? ldg_ch_shapes(ch, shapes, version, err) : ldg_fail_nomem(err);

    for (int i = 0; rc == LEDGER_OK && i < LDG_CH_CURRENT; i++) {
        if (!shapes[i].is_there)
            rc = fail_missing(ch, ldg_ch_suffixes[i], err);
        else if (shapes[i].fault[0] != '\0')
            rc = fail_fault(&shapes[i], err);
    }
    ldg_free(shapes);
    return rc;
}

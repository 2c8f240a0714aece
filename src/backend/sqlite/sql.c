/* The texts of the sink's statements, which do not stand beside their caller yet. */
#include "backend/sqlite/sqlite.h"

#include "backend/sqlite/sql.h"

#define ENTRY_INSERT_COLUMNS                                                                       \
    "(id, stream, payload, order_key, dedup_key, schema_version, metadata, tags, created_at, "     \
    "origin, source_pos, source_id)"
/* OR FAIL needs no statement journal; whoever runs it rolls back everything when it fails. */
#define MANY_ROWS "INSERT OR FAIL INTO main.\"%T\"" ENTRY_INSERT_COLUMNS " VALUES %V"

static const char *const statements[LDG_STMT_COUNT] = {
    /* ?1 id, ?2 text, ?3 time */
    [LDG_STMT_SET_TAGS] = "UPDATE main.\"%T\" SET tags = ?2, updated_at = ?3 WHERE id = ?1",
    [LDG_STMT_DELETE] = "DELETE FROM main.\"%T\" WHERE id = ?1",
    [LDG_STMT_ORIGIN_IDENTITY] = "SELECT uuid, epoch FROM main.\"%T_origins\" WHERE id = ?1",
    /* ordered: in each stream the origin's ids here rise with its own ids */
    [LDG_STMT_ORIGIN_ORDER] =
        "SELECT ordered, coalesce((SELECT max(source_pos) FROM main.\"%T\" "
        "WHERE origin = ?1 AND source_pos IS NOT NULL), 0) FROM main.\"%T_origins\" WHERE id = ?1",
    /* ?1 source_id */
    [LDG_STMT_GO_FIND] = "SELECT stream, payload, origin = 0 AND source_pos IS NULL "
                         "FROM main.\"%T\" WHERE source_id = ?1 AND source_id != ''",
    [LDG_STMT_APPLY_INSERT_1] = MANY_ROWS,
    [LDG_STMT_APPLY_INSERT_8] = MANY_ROWS,
    [LDG_STMT_APPLY_INSERT_32] = MANY_ROWS,
    [LDG_STMT_APPLY_INSERT_SAFE] =
        "INSERT INTO main.\"%T\"" ENTRY_INSERT_COLUMNS
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) "
        "ON CONFLICT (origin, source_pos) WHERE source_pos IS NOT NULL DO NOTHING "
        "ON CONFLICT (stream, dedup_key) WHERE dedup_key != '' DO NOTHING",
    /* ?1 origin, ?2 source_pos */
    [LDG_STMT_APPLY_FIND] =
        "SELECT stream, payload, order_key, dedup_key, schema_version, metadata, source_id, "
        "created_at FROM main.\"%T\" WHERE origin = ?1 AND source_pos = ?2",
    [LDG_STMT_APPLY_FIND_LOCAL] =
        "SELECT stream, payload, order_key, dedup_key, schema_version, metadata, source_id, "
        "created_at FROM main.\"%T\" WHERE id = ?2 AND +origin = ?1",
    [LDG_STMT_APPLY_FIND_DEDUP] =
        "SELECT id FROM main.\"%T\" WHERE stream = ?1 AND dedup_key = ?2 AND dedup_key != ''",
    [LDG_STMT_APPLY_LOOK] = "SELECT id, annotations, coalesce(annotations_pos, mutation_pos) "
                            "FROM main.\"%T\" "
                            "WHERE origin = ?1 AND source_pos = ?2 AND +stream = ?3",
    [LDG_STMT_APPLY_LOOK_LOCAL] = "SELECT id, annotations, NULL FROM main.\"%T\" "
                                  "WHERE id = ?2 AND +origin = ?1 AND +stream = ?3",
    /* ?1 origin, ?2 source_pos, ?3 stream, ?4 tags, ?5 time, ?6 mutation position. A kind of change
     * that was left out for a while comes late: what was changed after it keeps its time. */
    [LDG_STMT_APPLY_TAGS] =
        "UPDATE main.\"%T\" SET tags = ?4, tags_pos = ?6, "
        "updated_at = CASE WHEN annotations_pos > ?6 THEN updated_at ELSE ?5 END "
        "WHERE origin = ?1 AND source_pos = ?2 AND +stream = ?3 "
        "AND coalesce(tags_pos, mutation_pos, 0) < ?6",
    /* ?1 id, ?2 mutation position: is the last change of its tags an older one? */
    [LDG_STMT_APPLY_TAGS_OLDER] =
        "SELECT coalesce(tags_pos, mutation_pos, 0) < ?2 FROM main.\"%T\" WHERE id = ?1",
    [LDG_STMT_TRIGGERS] = "SELECT EXISTS (SELECT 1 FROM main.sqlite_master WHERE type = 'trigger' "
                          "AND tbl_name = '%T' COLLATE NOCASE)",
    /* ?1 id, ?2 annotations, ?3 time, ?4 mutation position or NULL: keep it */
    [LDG_STMT_APPLY_ANNOTATIONS] =
        "UPDATE main.\"%T\" SET annotations = ?2, "
        "annotations_pos = coalesce(?4, annotations_pos), "
        "updated_at = CASE WHEN tags_pos > ?4 THEN updated_at ELSE ?3 END WHERE id = ?1",
    /* ?1 origin, ?2 source_pos, ?3 stream; the index of the origin would visit other streams too */
    [LDG_STMT_APPLY_TRIM] =
        "DELETE FROM main.\"%T\" WHERE stream = ?3 AND +origin = ?1 AND +source_pos <= ?2",
    /* ?4 id of the last entry that goes */
    [LDG_STMT_APPLY_TRIM_ORDERED] = "DELETE FROM main.\"%T\" WHERE stream = ?3 AND id <= ?4 "
                                    "AND +origin = ?1 AND +source_pos <= ?2",
    /* the same entries: the highest id */
    [LDG_STMT_APPLY_TRIM_HIGHEST] =
        "SELECT coalesce(max(id), 0) FROM main.\"%T\" WHERE stream = ?3 "
        "AND +origin = ?1 AND +source_pos <= ?2",
    [LDG_STMT_APPLY_TRIM_HIGHEST_ORDERED] =
        "SELECT coalesce(max(id), 0) FROM main.\"%T\" WHERE stream = ?3 AND id <= ?4 "
        "AND +origin = ?1 AND +source_pos <= ?2",
    [LDG_STMT_APPLY_TRIM_HIGHEST_LOCAL] =
        "SELECT coalesce(max(id), 0) FROM main.\"%T\" WHERE stream = ?3 AND id <= ?2 "
        "AND +origin = ?1 AND +source_pos IS NULL AND +source_id = ''",
    /* newest first: what stands against the order is mostly there */
    [LDG_STMT_APPLY_LATER] = "SELECT 1 FROM main.\"%T\" WHERE stream = ?3 AND +origin = ?1 "
                             "AND +source_pos > ?2 ORDER BY id DESC LIMIT 1",
    [LDG_STMT_APPLY_TRIM_LOCAL] = "DELETE FROM main.\"%T\" WHERE stream = ?3 AND id <= ?2 "
                                  "AND +origin = ?1 AND +source_pos IS NULL AND +source_id = ''",
    [LDG_STMT_APPLY_TRIM_LIST] = "SELECT id, source_pos FROM main.\"%T\" "
                                 "WHERE stream = ?3 AND +origin = ?1 AND +source_pos <= ?2",
    [LDG_STMT_APPLY_TRIM_LIST_LOCAL] =
        "SELECT id, id FROM main.\"%T\" WHERE stream = ?3 AND id <= ?2 "
        "AND +origin = ?1 AND +source_pos IS NULL AND +source_id = ''",
    /* A row counts while the entry has the id that it had then: what is deleted here and carried
     * again begins anew. ?1 origin, ?2 entry, ?3 mutation origin, ?4 kind, ?5 id, ?6 position */
    [LDG_STMT_FOREIGN_ANY] = "SELECT EXISTS (SELECT 1 FROM main.\"%T_foreign\" WHERE kind < 3)",
    [LDG_STMT_FOREIGN_GET] =
        "SELECT position FROM main.\"%T_foreign\" WHERE origin = ?1 AND entry = ?2 "
        "AND mutation_origin = ?3 AND kind = ?4 AND id = ?5",
    [LDG_STMT_FOREIGN_PUT] = "INSERT OR REPLACE INTO main.\"%T_foreign\"(origin, entry, "
                             "mutation_origin, kind, id, position) "
                             "VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    /* ?1 origin, ?2 source_pos, ?3 stream, ?4 highest id */
    [LDG_STMT_FOREIGN_TRIM] =
        "DELETE FROM main.\"%T_foreign\" WHERE origin = ?1 AND entry IN ("
        "SELECT coalesce(source_pos, id) FROM main.\"%T\" WHERE stream = ?3 AND id <= ?4 "
        "AND +origin = ?1 AND coalesce(source_pos, id) <= ?2)",
    /* ?1 origin, ?2 id */
    [LDG_STMT_FOREIGN_DELETE] = "DELETE FROM main.\"%T_foreign\" WHERE origin = ?1 AND entry = "
                                "(SELECT coalesce(source_pos, id) FROM main.\"%T\" WHERE id = ?2)",
    [LDG_STMT_APPLY_NEXT_ID] = "SELECT max(coalesce((SELECT seq FROM main.sqlite_sequence WHERE "
                               "name = '%T' COLLATE NOCASE), 0), "
                               "coalesce((SELECT max(id) FROM main.\"%T\"), 0)) + 1",

    /* parked.c */
    [LDG_STMT_PARKED_ANY] = "SELECT EXISTS (SELECT 1 FROM main.\"%T_parked\")",
    /* ?1 origin, ?2 entry, ?3 source_uuid, ?4 log_position, ?5 own id. Positions of two logs cannot
     * be compared: there the one that was parked first goes first, together with what its own log
     * has before it. So no two ever wait for each other. */
    [LDG_STMT_PARKED_OF_ENTRY] =
        "SELECT min(log_position) FROM main.\"%T_parked\" WHERE origin = ?1 AND entry = ?2 "
        "AND id != ?5 AND CASE WHEN source_uuid = ?3 THEN log_position < ?4 ELSE id < min(?5, "
        "(SELECT coalesce(min(id), ?5) FROM main.\"%T_parked\" WHERE origin = ?1 AND entry = ?2 "
        "AND source_uuid = ?3 AND log_position > ?4)) END",
    /* ?1 source_uuid, ?2 stream, ?3 log_position, ?4 own id */
    [LDG_STMT_PARKED_UNKNOWN] =
        "SELECT min(log_position) FROM main.\"%T_parked\" WHERE source_uuid = ?1 AND +entry = 0 "
        "AND stream IN ('', ?2) AND log_position < ?3 AND id != ?4",
    /* ?1 source_uuid, ?2 stream, ?3 log_position, ?4 own id, ?5 dedup_key. A trim that deletes the
     * entry with the key; or, of op's own log, what may be one: of those its entry is not known. */
    [LDG_STMT_PARKED_OF_KEY] =
        "SELECT min(p.log_position) FROM main.\"%T_parked\" AS p WHERE p.id != ?4 AND CASE "
        "WHEN p.type = 'trim' AND p.entry > 0 THEN p.stream = ?2 AND CASE WHEN p.source_uuid = ?1 "
        "THEN p.log_position < ?3 ELSE p.id < ?4 END AND EXISTS (SELECT 1 FROM main.\"%T\" AS e "
        "WHERE e.stream = ?2 AND e.dedup_key = ?5 AND e.dedup_key != '' AND e.origin = p.origin "
        "AND coalesce(e.source_pos, e.id) <= p.entry) "
        "ELSE p.source_uuid = ?1 AND p.log_position < ?3 AND p.stream IN ('', ?2) "
        "AND p.type NOT IN ('append', 'set_tags', 'set_annotations') END",
    [LDG_STMT_PARK] =
        "INSERT INTO main.\"%T_parked\"(source_uuid, origin, log_position, entry, stream, type, "
        "reason, parked_at, event_time, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) "
        "ON CONFLICT (source_uuid, log_position, entry) DO UPDATE SET origin = excluded.origin, "
        "stream = excluded.stream, type = excluded.type, reason = excluded.reason, "
        "event_time = excluded.event_time, event = excluded.event, "
        "attempts = attempts + 1, attempted_at = excluded.parked_at RETURNING attempts",
    /* ?1 source_uuid, ?2 log_position, ?3 entry */
    [LDG_STMT_PARKED_DONE] = "DELETE FROM main.\"%T_parked\" WHERE source_uuid = ?1 "
                             "AND log_position = ?2 AND entry IN (0, ?3)",
    /* ?1 origin, ?2 entry, ?3 stream */
    [LDG_STMT_PARKED_TRIM] =
        "DELETE FROM main.\"%T_parked\" WHERE origin = ?1 AND entry > 0 AND entry <= ?2 "
        "AND stream = ?3",
    [LDG_STMT_PARKED_TRIM_LIST] =
        "SELECT id, entry FROM main.\"%T_parked\" WHERE origin = ?1 AND entry > 0 AND entry <= ?2 "
        "AND stream = ?3",
    /* ?1 after, ?2 limit */
    [LDG_STMT_PARKED_LIST] =
        "SELECT id, source_uuid, log_position, entry, type, stream, reason, attempts, parked_at, "
        "event_time, event FROM main.\"%T_parked\" WHERE id > ?1 ORDER BY id LIMIT ?2",
    [LDG_STMT_PARKED_COUNT] =
        "SELECT count(*) FROM main.\"%T_parked\" WHERE ?1 IS NULL OR source_uuid = ?1",
    /* ?1 id, ?2 reason, ?3 time */
    [LDG_STMT_PARKED_NOTE] = "UPDATE main.\"%T_parked\" SET attempts = attempts + 1, reason = ?2, "
                             "attempted_at = ?3 WHERE id = ?1",
    [LDG_STMT_PARKED_DROP] = "DELETE FROM main.\"%T_parked\" WHERE ?1 = 0 OR id = ?1",
};

static void begin(struct ldg_sql *q, struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id,
                  const char *doing, ledger_error *err)
{
    const int rows = id == LDG_STMT_APPLY_INSERT_32  ? 32
                     : id == LDG_STMT_APPLY_INSERT_8 ? 8
                     : id == LDG_STMT_APPLY_INSERT_1 ? 1
                                                     : 0;
    ldg_sql_begin_rows(q, s, doing, statements[id], 12, rows, err);
    sqlite3_reset(q->stmt);
}

sqlite3_stmt *ldg_sqlite_stmt(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, ledger_error *err)
{
    struct ldg_sql q;

    begin(&q, s, id, "", err);
    return q.stmt;
}

ledger_rc ldg_sqlite_run_ints(struct ldg_sqlite *s, enum ldg_sqlite_stmt_id id, const char *doing,
                              const int64_t *values, int count, int64_t *ret_value,
                              ledger_error *err)
{
    struct ldg_sql q;

    begin(&q, s, id, doing, err);
    for (int i = 0; i < count; i++)
        ldg_sql_int(&q, values[i]);
    if (ldg_sql_row(&q) && ret_value != NULL)
        *ret_value = sqlite3_column_int64(q.stmt, 0);
    return ldg_sql_end(&q);
}

/* What is said of a table by what the server tells of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "backend/clickhouse/schema.h"

static void versions(void **state)
{
    static const struct {
        const char *version;
        bool is_new;
    } rows[] = {
        { "23.2.1.1", true },  { "23.10.1", true },  { "24.1", true },     { "26.9.2.1", true },
        { "23.1.9.9", false }, { "22.12.1", false }, { "18.16.1", false }, { "", false },
        { "x", false },        { "23", false },      { "100.1", true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(ldg_ch_version_is_new(rows[i].version), rows[i].is_new);
}

static void engines(void **state)
{
    static const char key[] = "stream, origin, entry_key";
    static const struct {
        const char *engine, *full, *key, *word; /* word NULL: taken */
    } rows[] = {
        { "ReplacingMergeTree", "ReplacingMergeTree(version, is_deleted) ORDER BY x", key, NULL },
        { "ReplacingMergeTree", "ReplacingMergeTree(version) ORDER BY x", key, NULL },
        { "ReplacingMergeTree", "ReplacingMergeTree(`version`) ORDER BY x", key, NULL },
        { "ReplicatedReplacingMergeTree",
          "ReplicatedReplacingMergeTree('/p/{uuid}', '{replica}', version, is_deleted) ORDER BY x",
          key, NULL },
        { "SharedReplacingMergeTree",
          "SharedReplacingMergeTree('/p', '{r}', version, is_deleted) ORDER BY x", key, NULL },
        { "Distributed", "Distributed('c', 'd', 't', cityHash64(stream))", "", NULL },
        { "ReplacingMergeTree", "ReplacingMergeTree ORDER BY (version)", key, "by no version" },
        { "ReplacingMergeTree", "ReplacingMergeTree(my_version) ORDER BY x", key, "by no version" },
        { "ReplacingMergeTree", "ReplacingMergeTree(version_2) ORDER BY x", key, "by no version" },
        { "MergeTree", "MergeTree ORDER BY stream", key, "Go module" },
        { "SummingMergeTree", "SummingMergeTree(version) ORDER BY x", key, "stay twice" },
        { "ReplacingMergeTree", "ReplacingMergeTree(version) ORDER BY id", "id", "ORDER BY" },
        { "ReplacingMergeTree", "ReplacingMergeTree(version) ORDER BY x", "origin, stream",
          "stream, origin, entry_key" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ldg_ch_shape shape = { .is_there = true };
        snprintf(shape.engine, sizeof shape.engine, "%s", rows[i].engine);
        snprintf(shape.full, sizeof shape.full, "%s", rows[i].full);
        snprintf(shape.sorting_key, sizeof shape.sorting_key, "%s", rows[i].key);
        ldg_ch_shape_judge(&shape, "t", LDG_CH_ENTRIES);
        assert_int_equal(shape.fault[0] == '\0', rows[i].word == NULL);
        if (rows[i].word != NULL)
            assert_non_null(strstr(shape.fault, rows[i].word));
        assert_int_equal(ldg_ch_shape_is_distributed(&shape), i == 5);
    }
    /* a fault of its columns comes first */
    struct ldg_ch_shape shape = { .is_there = true, .engine = "Memory", .fault = "other" };
    ldg_ch_shape_judge(&shape, "t", LDG_CH_ENTRIES);
    assert_string_equal(shape.fault, "other");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions),
        cmocka_unit_test(engines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

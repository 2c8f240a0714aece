/* Parked events of the SQLite backend: what is its own in keeping them. */
#include "sink.h"

#include "../parked_cases.h"
#include "alloc_fail.h"

static int setup(void **state)
{
    int rc = tst_setup(state);

    if (rc == 0) {
        sink_open(&k, tst_path(*state, "sink.db"), LEDGER_MUTATION_LOG_OFF);
        tst_exec(k.db, "CREATE TRIGGER refuse BEFORE INSERT ON t WHEN CAST(NEW.payload AS TEXT) = "
                       "'\"bad\"' BEGIN SELECT RAISE(ABORT, 'no bad ones'); END");
    }
    return rc;
}

static int teardown(void **state)
{
    sink_close(&k);
    return tst_teardown(state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_cut_append),
        TEST(test_attempts_have_times),
        TEST(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

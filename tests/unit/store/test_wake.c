#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "store/wake.h"

static int new_fd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static uint64_t drain(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void signals_reach_their_key(void **state)
{
    int a = new_fd(), b = new_fd(), other = new_fd();
    ledger_error err;
    ldg_wake_signal("db");
    assert_int_equal(ldg_wake_add("db", a, &err), LEDGER_OK);
    assert_int_equal(ldg_wake_add("db", b, &err), LEDGER_OK);
    assert_int_equal(ldg_wake_add("db2", other, &err), LEDGER_OK);
    ldg_wake_signal("db");
    ldg_wake_signal("db");
    ldg_wake_signal("d");
    assert_int_equal(drain(a), 2);
    assert_int_equal(drain(b), 2);
    assert_int_equal(drain(other), 0);
    ldg_wake_remove("db", a);
    ldg_wake_remove("db", a);     /* not there any more */
    ldg_wake_remove("db", other); /* not under this key */
    ldg_wake_signal("db");
    ldg_wake_signal("db2");
    assert_int_equal(drain(a), 0);
    assert_int_equal(drain(b), 1);
    assert_int_equal(drain(other), 1);
    ldg_wake_remove("db", b);
    ldg_wake_remove("db2", other);
    ldg_wake_signal("db");
    assert_int_equal(drain(b), 0);
    close(a);
    close(b);
    close(other);
}

static void each_registration_counts(void **state)
{
    int fd = new_fd();
    ledger_error err;
    assert_int_equal(ldg_wake_add("db", fd, &err), LEDGER_OK);
    assert_int_equal(ldg_wake_add("db", fd, &err), LEDGER_OK);
    ldg_wake_signal("db");
    assert_int_equal(drain(fd), 2);
    ldg_wake_remove("db", fd);
    ldg_wake_signal("db");
    assert_int_equal(drain(fd), 1);
    ldg_wake_remove("db", fd);
    close(fd);
}

static ledger_rc add_and_remove(void *ctx)
{
    int fd = *(int *)ctx;
    ledger_rc rc = ldg_wake_add("db", fd, NULL);
    if (rc == LEDGER_OK)
        ldg_wake_remove("db", fd);
    return rc;
}

static void out_of_memory(void **state)
{
    int fd = new_fd();
    assert_int_equal(alloc_fail_each(add_and_remove, &fd), 1);
    close(fd);
}

static void *signal_often(void *ctx)
{
    for (int i = 0; i < 2000; i++)
        ldg_wake_signal("db");
    return NULL;
}

static void *come_and_go(void *ctx)
{
    for (int i = 0; i < 500; i++) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (ldg_wake_add("db", fd, NULL) == LEDGER_OK)
            ldg_wake_remove("db", fd);
        close(fd); /* no signal may come after this */
    }
    return NULL;
}

static void threads_come_and_go(void **state)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, i % 2 ? come_and_go : signal_often, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_reach_their_key),
        cmocka_unit_test(each_registration_counts),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(threads_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

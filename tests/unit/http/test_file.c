/* Files of settings: which lines there are, and what is refused without showing any of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "alloc_fail.h"
#include "base/error.h"
#include "http/http.h"

static char path[64];

static int make_file(void **state)
{
    (void)snprintf(path, sizeof(path), "/tmp/ledger-test-file-XXXXXX");
    const int fd = mkstemp(path);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_file(void **state)
{
    return unlink(path);
}

static void write_file(const char *text, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

struct seen {
    char text[256];
    size_t stop_at;
};

static ledger_rc see(void *ctx, const char *line, size_t number, ledger_error *err)
{
    struct seen *seen = ctx;
    const size_t used = strlen(seen->text);
    (void)snprintf(seen->text + used, sizeof(seen->text) - used, "%zu[%s]", number, line);
    return number == seen->stop_at ? ldg_fail(err, LEDGER_ERR_INVALID, "enough") : LEDGER_OK;
}

static ledger_rc read_it(struct seen *seen, ledger_error *err)
{
    return ldg_http_read_lines(path, "the file", see, seen, err);
}

static void lines(void **state)
{
    static const char text[] = "# a comment\n\n  first \t\r\n\t# another\nsecond\n\r\n \nlast";
    struct seen seen = { 0 }, stopped = { .stop_at = 3 };
    ledger_error err;
    write_file(text, sizeof(text) - 1);
    assert_int_equal(read_it(&seen, &err), LEDGER_OK);
    assert_string_equal(seen.text, "3[first]5[second]8[last]");
    assert_int_equal(read_it(&stopped, &err), LEDGER_ERR_INVALID);
    assert_string_equal(stopped.text, "3[first]");
    assert_string_equal(err.message, "enough");
    write_file("\xef\xbb\xbfmarked\n", 10); /* as editors on Windows write it */
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(read_it(&seen, &err), LEDGER_OK);
    assert_string_equal(seen.text, "1[marked]");
    write_file("", 0);
    memset(&seen, 0, sizeof(seen));
    assert_int_equal(read_it(&seen, &err), LEDGER_OK);
    assert_string_equal(seen.text, "");
}

static void what_is_refused(void **state)
{
    struct seen seen = { 0 };
    ledger_error err;
    write_file("a\0b\n", 4);
    assert_int_equal(read_it(&seen, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "the file holds NUL"));
    FILE *file = fopen(path, "w");
    for (size_t i = 0; i <= LDG_HTTP_FILE_MAX_BYTES; i++)
        assert_int_equal(fputc('x', file), 'x');
    assert_int_equal(fclose(file), 0);
    assert_int_equal(read_it(&seen, &err), LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "larger than 65536"));
    assert_int_equal(truncate(path, (off_t)LDG_HTTP_FILE_MAX_BYTES), 0);
    assert_int_equal(read_it(&seen, &err), LEDGER_OK);
    assert_int_equal(ldg_http_read_lines("/nowhere/at/all", "the file", see, &seen, &err),
                     LEDGER_ERR_INVALID);
    assert_non_null(strstr(err.message, "the file cannot be read: No such file"));
    assert_int_equal(ldg_http_read_lines("/tmp", "the file", see, &seen, &err), LEDGER_ERR_INVALID);
}

static ledger_rc read_once(void *ctx)
{
    return read_it(ctx, NULL);
}

static void out_of_memory(void **state)
{
    struct seen seen = { 0 };
    write_file("x\n", 2);
    assert_int_equal(alloc_fail_each(read_once, &seen), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}

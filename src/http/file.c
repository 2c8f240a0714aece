/* Files of settings: headers, secrets, a password.
 *
 * Invariant: what was read is wiped, and no message shows any of it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "http/http.h"

static ledger_rc fail_file(const char *what, int number, ledger_error *err)
{
    const ledger_rc code = number == EACCES || number == EPERM ? LEDGER_ERR_PERMISSION
                           : number == EIO || number == EMFILE || number == ENFILE ? LEDGER_ERR_IO
                           : number == ENOMEM ? LEDGER_ERR_NOMEM
                                              : LEDGER_ERR_INVALID;
    return ldg_fail(err, code, "%s cannot be read: %s", what, strerror(number));
}

static ledger_rc read_all(const char *path, const char *what, char *text, size_t *ret_size,
                          ledger_error *err)
{
    FILE *file = fopen(path, "re");
    ledger_rc rc = LEDGER_OK;
    if (file == NULL)
        return fail_file(what, errno, err);
    /* Else stdio keeps a copy that nobody wipes. */
    (void)setvbuf(file, NULL, _IONBF, 0);
    const size_t size = fread(text, 1, LDG_HTTP_FILE_MAX_BYTES + 1, file);
    if (ferror(file))
        rc = fail_file(what, errno, err);
    else if (size > LDG_HTTP_FILE_MAX_BYTES)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "%s is larger than %zu bytes", what,
                      LDG_HTTP_FILE_MAX_BYTES);
    else if (memchr(text, '\0', size) != NULL)
        rc = ldg_fail(err, LEDGER_ERR_INVALID, "%s holds NUL bytes and is no text", what);
    (void)fclose(file);
    text[size] = '\0';
    *ret_size = size;
    return rc;
}

ledger_rc ldg_http_read_lines(const char *path, const char *what, ldg_http_line_fn fn, void *ctx,
                              ledger_error *err)
{
    const size_t room = LDG_HTTP_FILE_MAX_BYTES + 2;
    char *text = ldg_malloc(room);
    size_t size = 0, number = 0;
    if (text == NULL)
        return ldg_fail_nomem(err);
    ledger_rc rc = read_all(path, what, text, &size, err);
    /* Editors on Windows put a byte order mark before it. */
    char *next = size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? text + 3 : text;
    while (rc == LEDGER_OK && next < text + size) {
        char *line = next, *end = line + strcspn(line, "\n");
        next = end + 1;
        number++;
        line += strspn(line, " \t\r\n");
        if (line >= end || *line == '#')
            continue;
        while (strchr(" \t\r", end[-1]) != NULL)
            end--;
        *end = '\0';
        rc = fn(ctx, line, number, err);
    }
    explicit_bzero(text, room);
    ldg_free(text);
    return rc;
}

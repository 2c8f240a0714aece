/* Everything that ledgerctl prints goes through here, except data of one command. Hides buffering,
 * closed and full outputs, and the progress line.
 *
 * Invariant: a failed write to stdout never ends in exit code 0. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

static bool quiet, progress_possible, output_failed, may_be_cut;
static int verbosity;
/* Log lines come from the bridge's thread. */
static pthread_mutex_t words_lock = PTHREAD_MUTEX_INITIALIZER;
static size_t progress_width; /* of the line that stands on the terminal, 0: none */

/* --- descriptors ----------------------------------------------------------------------------- */

void cli_output_init(void)
{
    /* A closed 0, 1 or 2 would be given to the first file that is opened, a database for instance.
     * The stand-ins are opened the wrong way round, so that using them fails. */
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
            int flags = fd == 1 ? O_RDONLY : O_WRONLY; /* words on a closed stderr just vanish */
            if (open("/dev/null", flags) != fd)
                _exit(CLI_EXIT_FAILED);
        }
    }
    signal(SIGPIPE, SIG_IGN); /* both become errors of write() */
    signal(SIGXFSZ, SIG_IGN);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
}

void cli_output_setup(bool be_quiet, bool json, int verbose)
{
    quiet = be_quiet;
    verbosity = verbose;
    progress_possible = isatty(STDERR_FILENO) && !quiet && !json;
}

bool cli_quiet(void)
{
    return quiet;
}

int cli_verbosity(void)
{
    return verbosity;
}

void cli_output_may_be_cut(void)
{
    may_be_cut = true;
}

bool cli_flush(void)
{
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed && !output_failed) {
        output_failed = true;
        if (errno != EPIPE || !may_be_cut)
            cli_error("cannot write the output: %s", errno != 0 ? strerror(errno) : "write error");
    }
    return !output_failed;
}

int cli_finish(int rc)
{
    if (!cli_flush())
        return CLI_EXIT_FAILED;
    /* Some file systems tell of a full disk or quota only at close. */
    if (close(STDOUT_FILENO) != 0 && errno != EBADF) {
        cli_error("cannot write the output: %s", strerror(errno));
        return CLI_EXIT_FAILED;
    }
    return rc;
}

/* --- words ----------------------------------------------------------------------------------- */

static void rub_out(void)
{
    if (progress_width > 0)
        fprintf(stderr, "\r%*s\r", (int)progress_width, "");
    progress_width = 0;
}

static void LEDGER_PRINTF(2, 0) say(const char *prefix, const char *fmt, va_list args)
{
    pthread_mutex_lock(&words_lock);
    rub_out();
    fputs(prefix, stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    fflush(stderr);
    pthread_mutex_unlock(&words_lock);
}

void cli_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    say("ledgerctl: ", fmt, args);
    va_end(args);
}

void cli_note(const char *fmt, ...)
{
    if (quiet)
        return;
    va_list args;
    va_start(args, fmt);
    say("", fmt, args);
    va_end(args);
}

int cli_fail(ledger_rc rc, const ledger_error *err, const char *what)
{
    const char *message = err->message[0] != '\0' ? err->message : ledger_rc_text(rc);
    cli_error("%s%s%s", what != NULL ? what : "", what != NULL ? ": " : "", message);
    if (verbosity > 0)
        cli_note("(%s%s%s, native code %d)", ledger_rc_name(rc), err->backend[0] ? ", " : "",
                 err->backend, err->native_code);
    return ledger_rc_exit_code(rc);
}

void cli_log(void *ctx, ledger_log_level level, const char *message, const ledger_attr *attrs,
             size_t attr_count)
{
    static const char *const names[] = { "debug", "info", "warn", "error" };
    ledger_log_level lowest = verbosity >= 2   ? LEDGER_LOG_DEBUG
                              : verbosity == 1 ? LEDGER_LOG_INFO
                                               : LEDGER_LOG_WARN;
    if (level < lowest || level > LEDGER_LOG_ERROR)
        return;
    if (level == LEDGER_LOG_ERROR && verbosity == 0)
        return; /* it ends the command, which says so itself */
    pthread_mutex_lock(&words_lock);
    rub_out();
    fprintf(stderr, "%s ", names[level]);
    print_plain(stderr, message, strlen(message));
    for (size_t i = 0; i < attr_count; i++) {
        const char *value = attrs[i].value != NULL ? attrs[i].value : "";
        fprintf(stderr, " %s=", attrs[i].key);
        if (value[0] == '\0' || strpbrk(value, " \t\n\"=") != NULL)
            json_string(stderr, value, strlen(value));
        else
            print_plain(stderr, value, strlen(value));
    }
    fputc('\n', stderr);
    fflush(stderr);
    pthread_mutex_unlock(&words_lock);
}

/* --- progress line --------------------------------------------------------------------------- */

bool cli_progress_possible(void)
{
    return progress_possible;
}

void cli_progress_show(const char *text)
{
    struct winsize window = { 0 };
    size_t columns = 80;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1)
        columns = window.ws_col;
    size_t width = strlen(text); /* ASCII */
    if (width > columns - 1)
        width = columns - 1; /* never wraps */
    pthread_mutex_lock(&words_lock);
    size_t blanks = progress_width > width ? progress_width - width : 0;
    if (width + blanks > columns - 1)
        blanks = columns - 1 - width; /* the window was made narrower */
    fprintf(stderr, "\r%.*s%*s", (int)width, text, (int)blanks, "");
    fflush(stderr);
    progress_width = width;
    pthread_mutex_unlock(&words_lock);
}

void cli_progress_clear(void)
{
    pthread_mutex_lock(&words_lock);
    rub_out();
    fflush(stderr);
    pthread_mutex_unlock(&words_lock);
}

/* --- memory ------------------------------------------------------------------------------------
 */

void *cli_alloc(void *old, size_t size)
{
    void *p = realloc(old, size > 0 ? size : 1); /* the program's only allocation */
    if (p == NULL) {
        cli_error("out of memory");
        exit(CLI_EXIT_TEMPORARY);
    }
    return p;
}

void cli_free(void *p)
{
    free(p);
}

/* chain: a backlog of appends from A into B, which has a mutation log of its own, and from there
 * into C: how fast B and C fill, in SQLite and in PostgreSQL.
 *
 * Each bridge is a process of ledgerctl, so that another build's can be its peer in the same run:
 * LEDGER_BENCH_BASE names that program. Starting and ending the process count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pg.h"

enum store { A, B, C, STORES };
enum build { THIS, BASE, BUILDS };

/* The stores of a chain; B and C once for each build. */
struct chain {
    size_t count;
    const char *ledgerctl[BUILDS];
    char places[STORES][BUILDS][BENCH_PATH_MAX];
    enum store filled; /* by the run at hand */
    void (*make)(char place[BENCH_PATH_MAX], enum store store, enum build build); /* an empty one */
    void (*settle)(void);
    void (*same_rows)(const char *source, const char *sink, bool times);
};

static void sqlite_make(char place[BENCH_PATH_MAX], enum store store, enum build build)
{
    char name[16];

    snprintf(name, sizeof(name), "%c%d.db", "abc"[store], (int)build);
    bench_path(place, name);
    bench_remove(place);
}

/* C is where A is, so that no bridge has both its ends in one server. */
static void pg_make(char place[BENCH_PATH_MAX], enum store store, enum build build)
{
    char name[16];

    snprintf(name, sizeof(name), "%c%d", "abc"[store], (int)build);
    bench_pg_database_empty(place, store == B ? BENCH_PG_SINK : BENCH_PG_SOURCE, name);
}

static void ledgerctl(const char *program, const char *const *args)
{
    bench_join(bench_spawn_program(program, args), NULL);
}

static double run(void *ctx, bool is_peer)
{
    struct chain *chain = ctx;
    const enum build build = is_peer ? BASE : THIS;
    const char *program = chain->ledgerctl[build];
    const char *from = chain->places[chain->filled - 1][chain->filled == B ? THIS : build];
    char *to = chain->places[chain->filled][build];
    char source[BENCH_URL_MAX], sink[BENCH_URL_MAX];
    double seconds;
    int64_t start;

    chain->make(to, chain->filled, build);
    bench_url(source, from);
    bench_url(sink, to);
    ledgerctl(program, (const char *const[]){ "store", "init", "--quiet", "--store", sink,
                                              chain->filled == C ? "--no-log" : NULL, NULL });
    chain->settle();
    start = bench_now_ns();
    ledgerctl(program, (const char *const[]){ "bridge", "run", "--until-empty", "--quiet",
                                              "--source", source, "--sink", sink, NULL });
    seconds = bench_seconds_since(start);
    chain->same_rows(chain->places[A][THIS], to, true);
    return seconds;
}

/* values: those of B and C. */
static void run_chain(struct chain *chain, const char *name, double *ret_values)
{
    const bool has_base = chain->ledgerctl[BASE];

    for (enum store store = B; store <= C; store++) {
        printf("%s, %s:\n", name, store == B ? "A to B, which has a log" : "B to C");
        chain->filled = store;
        *ret_values++ =
            bench_pairs_run(&(struct bench_pairs){ .name = "bridge",
                                                   .peer_name = has_base ? "base" : NULL,
                                                   .run = run,
                                                   .ctx = chain,
                                                   .mutations = chain->count });
    }
}

int main(void)
{
    struct chain chain = { .count = bench_scaled(300000, BENCH_PG_PER_TX),
                           .ledgerctl = { getenv("LEDGERCTL"), getenv("LEDGER_BENCH_BASE") } };
    const struct bench_fill fill = { .count = chain.count, .per_tx = BENCH_PG_PER_TX };
    const bool has_base = chain.ledgerctl[BASE];
    double values[4];

    if (!chain.ledgerctl[THIS])
        bench_die("LEDGERCTL names no program: ./dev bench chain sets it");
    bench_title("chain", has_base ? "A to B to C, against another build"
                                  : "A to B to C; LEDGER_BENCH_BASE names no ledgerctl of another "
                                    "build, so there are rates alone");

    chain.make = sqlite_make;
    chain.settle = bench_settle;
    chain.same_rows = bench_same_rows;
    bench_path(chain.places[A][THIS], "a.db");
    bench_source_build(chain.places[A][THIS], &fill);
    run_chain(&chain, "SQLite", values);

    bench_pg_start(NULL);
    chain.make = pg_make;
    chain.settle = bench_pg_settle;
    chain.same_rows = bench_pg_same_rows;
    bench_pg_source_build(chain.places[A][THIS], "a", &fill);
    run_chain(&chain, "PostgreSQL", values + 2);

    printf("chain");
    for (int i = 0; i < 4; i++)
        printf(has_base ? " %.2f" : " %.0f/s", values[i]);
    puts(has_base ? " 1.0 1.0 1.0 1.0" : " - - - -");
    return 0;
}

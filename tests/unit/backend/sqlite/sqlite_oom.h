/* Makes SQLite's own allocations fail. For tests with one thread. */
#ifndef TESTS_UNIT_BACKEND_SQLITE_OOM_H
#define TESTS_UNIT_BACKEND_SQLITE_OOM_H

#include <sqlite3.h>
#include <stdbool.h>

static sqlite3_mem_methods oom_real;
static long oom_left; /* 0: off */
static bool oom_hit;

static bool oom_now(void)
{
    if (oom_left > 0 && --oom_left == 0)
        oom_hit = true;
    return oom_hit && oom_left == 0;
}

/* One failure only: the one that makes the count zero. */
static void *oom_malloc(int size)
{
    bool before = oom_hit;
    return oom_now() && !before ? NULL : oom_real.xMalloc(size);
}

static void *oom_realloc(void *p, int size)
{
    bool before = oom_hit;
    return oom_now() && !before ? NULL : oom_real.xRealloc(p, size);
}

/* Before the first use of SQLite. */
static void sqlite_oom_install(void)
{
    sqlite3_mem_methods mine;
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &oom_real);
    mine = oom_real;
    mine.xMalloc = oom_malloc;
    mine.xRealloc = oom_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &mine);
}

/* The n-th allocation from now fails. */
static void sqlite_oom_at(long n)
{
    oom_hit = false;
    oom_left = n;
}

static bool sqlite_oom_off(void)
{
    bool hit = oom_hit;
    oom_hit = false;
    oom_left = 0;
    return hit;
}

#endif

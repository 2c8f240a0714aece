/* What the benchmarks into ClickHouse share: its current engine behind the tests' HTTP front, in a
 * process of its own, and the proof that it holds what the source does. */
#ifndef BENCH_CH_H
#define BENCH_CH_H

#include "http.h"

/* records: of the requests that bring rows. Ends the program when there is no engine here. */
struct tst_ch *bench_ch_start(bool records);
/* The database "bench", made anew with the library's tables. */
void bench_ch_make(struct tst_ch *ch, char url[BENCH_URL_MAX]);
/* By plain SQL on both sides: every entry of the source is in the table with the same values, and
 * nothing else is. */
void bench_ch_same_rows(const struct tst_ch *ch, const char *source_path);

#endif

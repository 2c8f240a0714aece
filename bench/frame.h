/* What the servers of the tests' support need of the program that they are used by: in a test
 * cmocka and fixtures.c, in a benchmark this.
 *
 * Servers and their folders are gone when the program ends, also after a signal. */
#ifndef BENCH_FRAME_H
#define BENCH_FRAME_H

/* Call first, in the program that the user started. show_logs: the end of the servers' logs, where
 * something fails in them. */
void bench_frame_begin(void (*show_logs)(void));

#endif

/* How far threads of a test have come, for those that wait for them. */
#ifndef TESTS_SUPPORT_STAGE_H
#define TESTS_SUPPORT_STAGE_H

/* Raises it, for others to see; it never falls. */
void tst_stage_reach(int *stage, int value);
/* Waits until it is so high. */
void tst_stage_await(const int *stage, int value);

#endif

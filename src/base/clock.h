/* Time, randomness of pauses, and the text forms of times. A test can replace both clocks. */
#ifndef LDG_BASE_CLOCK_H
#define LDG_BASE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int64_t ldg_clock_now_us(void);  /* wall clock, UTC */
int64_t ldg_clock_mono_us(void); /* never goes back */
uint64_t ldg_random_u64(void);   /* from the kernel */

/* For tests; NULL restores the real one. */
void ldg_clock_set_now(int64_t (*now_us)(void));
void ldg_clock_set_mono(int64_t (*mono_us)(void));

#define LDG_TIME_TEXT_MAX 32
/* "2026-11-23T03:42:14.123" UTC, truncated to milliseconds (SQLite's text form). */
void ldg_time_format_ms(int64_t time_us, char text[LDG_TIME_TEXT_MAX]);
/* "2026-11-23T03:42:14.123Z", or with six digits where the microseconds are not whole ms. */
void ldg_time_format_rfc3339(int64_t time_us, char text[LDG_TIME_TEXT_MAX]);
/* Reads both, a blank instead of T, 0 to 9 digits of fraction, Z or +hh:mm or nothing (UTC). */
bool ldg_time_parse(const char *text, size_t size, int64_t *ret_time_us);

/* "5s", "250ms", "1m30s", "2h", as Go writes durations; a bare 0 too. */
bool ldg_duration_parse(const char *text, int64_t *ret_us);

#define LDG_UUID_TEXT_MAX 40
void ldg_uuid_new(char text[LDG_UUID_TEXT_MAX]); /* version 4 */

#endif

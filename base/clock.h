/* Time: a monotonic clock for durations, the wall clock for records. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void); /* nanoseconds, never goes back */
double clock_mono(void);      /* seconds, the same clock */
int64_t clock_wall_ms(void);  /* milliseconds since 1970-01-01T00:00:00Z */

/* "2026-01-31T12:34:56.789Z" */
void clock_iso8601(int64_t wall_ms, char out[32]);

#endif

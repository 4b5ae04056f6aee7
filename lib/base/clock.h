/*
 * clock.h: the two clocks of the system. L1 rooms call neither: they are
 * handed `now`.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary start; never steps back. For durations. */
uint64_t clock_mono_ns(void);

/* Nanoseconds since 1970-01-01T00:00:00Z; may step either way. For ids. */
uint64_t clock_wall_ns(void);

#endif

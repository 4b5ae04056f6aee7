/*
 * histogram.h: how often which duration, in constant space. The buckets are
 * log-linear: exact below 2 * HISTOGRAM_STEPS, and above that HISTOGRAM_STEPS
 * of equal width to each power of two, so that what a quantile says is never
 * below the truth and above it by less than 1/HISTOGRAM_STEPS (1.6 %).
 * All of uint64_t has a bucket. Zeroed memory is an empty histogram; it has no
 * pointers, so it may be copied and may lie in shared memory.
 */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>

enum {
	HISTOGRAM_BITS	= 6,
	HISTOGRAM_STEPS	= 1 << HISTOGRAM_BITS,
	HISTOGRAM_BUCKETS = (65 - HISTOGRAM_BITS) * HISTOGRAM_STEPS,
};

struct histogram {
	uint64_t	n;			/* values in it */
	uint64_t	max;			/* exact; 0 when empty */
	uint64_t	buckets[HISTOGRAM_BUCKETS];
};

/* The largest value that shares bucket i. */
uint64_t histogram_bucket_max(unsigned i);

/* The bucket of v. */
static inline unsigned
histogram_bucket(uint64_t v)
{
	unsigned	shift;

	if (v < 2 * HISTOGRAM_STEPS)
		return (unsigned)v;
	shift = 63 - HISTOGRAM_BITS - (unsigned)__builtin_clzll(v);
	return shift * HISTOGRAM_STEPS + (unsigned)(v >> shift);
}

static inline void
histogram_add(struct histogram *h, uint64_t v)
{
	h->buckets[histogram_bucket(v)]++;
	h->n++;
	if (v > h->max)
		h->max = v;
}

/* Add everything in from to h. */
void histogram_merge(struct histogram *h, const struct histogram *from);

/* The least value that at least the share q (0..1) of all values does not
 * exceed, as exact as the buckets are; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double q);

#endif

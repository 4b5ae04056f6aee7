#include "load/histogram.h"
#include "base/util.h"

uint64_t
histogram_bucket_max(unsigned i)
{
	unsigned	shift;

	if (i < 2 * HISTOGRAM_STEPS)
		return i;
	shift = i / HISTOGRAM_STEPS - 1;
	/* of the last bucket this wraps round to the largest number */
	return ((uint64_t)(i - shift * HISTOGRAM_STEPS + 1) << shift) - 1;
}

void
histogram_merge(struct histogram *h, const struct histogram *from)
{
	unsigned	i;

	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->buckets[i] += from->buckets[i];
	h->n += from->n;
	h->max = MAX(h->max, from->max);
}

uint64_t
histogram_quantile(const struct histogram *h, double q)
{
	uint64_t	sum = 0;
	unsigned	i;

	for (i = 0; i < HISTOGRAM_BUCKETS && h->n > 0; i++) {
		sum += h->buckets[i];
		if (sum > 0 && (double)sum >= q * (double)h->n)
			return MIN(histogram_bucket_max(i), h->max);
	}
	return h->max;
}

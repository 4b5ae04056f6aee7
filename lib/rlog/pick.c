#include "rlog/rlog.h"

/* The k-th usable one. */
static size_t
usable(const struct rlog_core *cores, size_t n, size_t k)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (cores[i].usable && k-- == 0)
			break;
	return i;
}

size_t
rlog_pick_core(const struct rlog_core *cores, size_t n, uint64_t current,
    bool may, uint64_t r1, uint64_t r2)
{
	size_t	 i, a, b, here = n, count = 0;
	uint64_t w;

	for (i = 0; i < n; i++)
		if (cores[i].usable) {
			count++;
			if (cores[i].node == current)
				here = i;
		}
	if (count == 0 || (here < n && (!may || count == 1)))
		return here;
	/* Two different ones, if there are two. */
	a = (size_t)(r1 % count);
	b = count == 1 ? a : (a + 1 + (size_t)(r2 % (count - 1))) % count;
	a = usable(cores, n, a);
	b = usable(cores, n, b);
	if (cores[b].weight < cores[a].weight)
		a = b;
	if (here == n || a == here)
		return a;
	w = cores[here].weight;		/* we are one of these */
	return (uint64_t)cores[a].weight + 2 <= w &&
	    (uint64_t)cores[a].weight * 4 <= w * 3 ? a : here;
}

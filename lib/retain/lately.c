#include "retain/lately.h"

static struct lately_item *
set_of(const struct lately *t, uint64_t hi, uint64_t lo)
{
	uint64_t h = (hi ^ lo * UINT64_C(0xc2b2ae3d27d4eb4f)) *
	    UINT64_C(0x9e3779b97f4a7c15);

	return (struct lately_item *)(uintptr_t)t->item +
	    (h >> 32) % LATELY_SETS * LATELY_WAYS;
}

/* The place of that one, or the one it takes. */
static struct lately_item *
place_of(const struct lately *t, uint64_t hi, uint64_t lo)
{
	struct lately_item	*set = set_of(t, hi, lo), *oldest = set;
	unsigned		 i;

	for (i = 0; i < LATELY_WAYS; i++) {
		if (set[i].no == 0 || (set[i].hi == hi && set[i].lo == lo))
			return &set[i];
		if ((int32_t)(set[i].no - oldest->no) < 0)
			oldest = &set[i];
	}
	return oldest;
}

void
lately_add(struct lately *t, uint64_t hi, uint64_t lo)
{
	t->now += t->now == UINT32_MAX ? 2 : 1;		/* never 0 */
	*place_of(t, hi, lo) = (struct lately_item){ hi, lo, t->now };
}

bool
lately_came(const struct lately *t, uint64_t hi, uint64_t lo, uint32_t since)
{
	const struct lately_item *i = place_of(t, hi, lo);

	return i->no != 0 && i->hi == hi && i->lo == lo &&
	    (int32_t)(i->no - since) > 0;
}

void
lately_restore(struct lately *t, const struct lately_item *item)
{
	*place_of(t, item->hi, item->lo) = *item;
}

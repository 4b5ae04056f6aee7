#include "base/spread.h"

#include <stdbool.h>
#include <stdlib.h>
#include "base/err.h"

enum { CAP_MIN = 8 };

void
spread_fini(struct spread *sp)
{
	unsigned i;

	for (i = 0; i < SPREAD_PARTS; i++) {
		free(sp->part[i].items);
		sp->part[i] = (struct spread_part){ NULL, 0, 0 };
	}
	sp->n = 0;
}

static inline uint32_t *
keys_of(struct spread_part *p)
{
	return (uint32_t *)(void *)(p->items + p->cap);
}

static inline size_t
after(const struct spread_part *p, size_t cell)
{
	return cell + 1 < p->cap ? cell + 1 : 0;
}

static void
put(struct spread_part *p, uint32_t key, void *item)
{
	uint32_t	*keys = keys_of(p);
	size_t		 i = spread_home(p, key);

	while (keys[i] != 0)
		i = after(p, i);
	keys[i] = key;
	p->items[i] = item;
	p->n++;
}

static int
resize(struct spread_part *p, uint32_t cap)
{
	struct spread_part	 other = { NULL, cap, 0 };
	const uint32_t		*keys;
	uint32_t		 i;

	other.items = calloc(cap, sizeof(void *) + sizeof(uint32_t));
	if (other.items == NULL)
		return ERR_NOMEM;
	if (p->n > 0)
		for (keys = keys_of(p), i = 0; i < p->cap; i++)
			if (keys[i] != 0)
				put(&other, keys[i], p->items[i]);
	free(p->items);
	*p = other;
	return 0;
}

int
spread_add(struct spread *sp, uint64_t hash, void *item)
{
	struct spread_part	*p = &sp->part[hash >> 56];
	int			 rc;

	if (p->n >= UINT32_MAX / 8)
		return ERR_FULL;
	if ((p->n + 1) * 8u > p->cap * 7u && (rc = resize(p, p->cap == 0 ?
	    CAP_MIN : p->cap + p->cap / 4)) < 0)
		return rc;
	put(p, spread_key(hash), item);
	sp->n++;
	return 0;
}

void
spread_del(struct spread *sp, uint64_t hash, const void *item)
{
	struct spread_part	*p = &sp->part[hash >> 56];
	uint32_t		*keys = keys_of(p);
	size_t			 i = spread_first(sp, hash), j, home;
	bool			 stays;

	while (keys[i] == 0 || p->items[i] != item)
		i = after(p, i);

	/* Close the gap: move back what would no longer be found past it. */
	for (j = after(p, i); keys[j] != 0; j = after(p, j)) {
		home = spread_home(p, keys[j]);
		stays = i <= j ? i < home && home <= j : i < home || home <= j;
		if (stays)
			continue;
		keys[i] = keys[j];
		p->items[i] = p->items[j];
		i = j;
	}
	keys[i] = 0;
	p->items[i] = NULL;
	sp->n--;
	p->n--;
	if (p->n == 0) {
		free(p->items);
		*p = (struct spread_part){ NULL, 0, 0 };
	} else if (p->cap > CAP_MIN && p->n < p->cap / 4) {
		(void)resize(p, p->cap / 2);	/* or stay large */
	}
}

void *
spread_next(const struct spread *sp, unsigned *part, size_t *cell)
{
	const struct spread_part *p;

	for (; *part < SPREAD_PARTS; ++*part, *cell = 0) {
		p = &sp->part[*part];
		while (*cell < p->cap)
			if (p->items[(*cell)++] != NULL)
				return p->items[*cell - 1];
	}
	return NULL;
}

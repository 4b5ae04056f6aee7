/*
 * spread.h: a table of very many pointers by a 64-bit hash the caller computes,
 * like htab.h, but never slow for long and with little memory: 256 tables, of
 * which one at a time grows, by a quarter; 12 bytes an item, 5/8 to 7/8 full.
 * The lower half of a hash, and the top 8 bits, must be good. With ten million
 * items the longest pause is some 0.3 ms.
 *
 *   for (i = spread_first(&sp, h); (p = spread_at(&sp, h, &i)) != NULL; i++)
 *	if (same(p, key))
 *		return p;
 *
 * An item lies at or behind the cell that its hash is due to, behind the last
 * comes the first. Larger keys are due to later cells, however many cells there
 * are. All zero is a valid empty one. Not thread safe.
 */
#ifndef BASE_SPREAD_H
#define BASE_SPREAD_H

#include <stddef.h>
#include <stdint.h>

enum { SPREAD_PARTS = 256 };

struct spread_part {
	void		**items;	/* cap of them, then cap hashes */
	uint32_t	  cap, n;
};

struct spread {
	struct spread_part part[SPREAD_PARTS];
	size_t		   n;
};

void spread_fini(struct spread *sp);	/* the items are the caller's */

/* Add item (not NULL) under hash; duplicates are kept apart. ERR_NOMEM,
 * ERR_FULL (a part has 2^29). */
int spread_add(struct spread *sp, uint64_t hash, void *item);

/* Remove exactly this item; it must be there. */
void spread_del(struct spread *sp, uint64_t hash, const void *item);

/* All of them: the next item, or NULL. Both numbers start at 0. */
void *spread_next(const struct spread *sp, unsigned *part, size_t *cell);

/* --- Inline parts -------------------------------------------------------- */

/* What stands for a hash in its part; 0 is a free cell. */
static inline uint32_t
spread_key(uint64_t hash)
{
	return (uint32_t)hash != 0 ? (uint32_t)hash : 1;
}

static inline const uint32_t *
spread_keys(const struct spread_part *p)
{
	return (const uint32_t *)(const void *)(p->items + p->cap);
}

/* The cell that is due to a key. */
static inline size_t
spread_home(const struct spread_part *p, uint32_t key)
{
	return (size_t)((uint64_t)key * p->cap >> 32);
}

static inline size_t
spread_first(const struct spread *sp, uint64_t hash)
{
	return spread_home(&sp->part[hash >> 56], spread_key(hash));
}

/* The next item with this hash (or one like it) at or after *i, or NULL; *i is
 * its cell. */
static inline void *
spread_at(const struct spread *sp, uint64_t hash, size_t *i)
{
	const struct spread_part *p = &sp->part[hash >> 56];
	const uint32_t		 *keys;
	uint32_t		  key = spread_key(hash);
	size_t			  k = *i;

	if (p->n == 0)
		return NULL;
	for (keys = spread_keys(p);; k++) {
		if (k >= p->cap)
			k = 0;
		if (keys[k] == 0)
			return NULL;
		if (keys[k] == key) {
			*i = k;
			return p->items[k];
		}
	}
}

#endif

/*
 * htab.h: an open-addressing table of pointers by a hash the caller computes
 * (keyed, where keys come from outside), of which the low 32 bits count. It
 * knows nothing of keys: the caller walks the candidates of one hash and
 * compares.
 *
 *   for (i = htab_first(&t, h); (p = htab_at(&t, h, &i)) != NULL; i++)
 *	if (same(p, key))
 *		return p;
 *
 * Linear probing, at most 4/5 full, halves again when 1/8 full. Not thread safe.
 */
#ifndef BASE_HTAB_H
#define BASE_HTAB_H

#include <stddef.h>
#include <stdint.h>

/* 12 bytes: of a million sessions each is in two such tables, and thrice in
 * another. */
struct htab_cell {
	uint32_t	 hash;		/* the low half */
	void		*item;		/* NULL: free */
} __attribute__((packed, aligned(4)));

struct htab {
	struct htab_cell *cells;	/* NULL until the first item */
	size_t		  mask;		/* cells - 1 */
	size_t		  n;
};

void htab_init(struct htab *t);
void htab_fini(struct htab *t);		/* the items are the caller's */

/* Add item (not NULL) under hash; duplicates are kept apart. ERR_NOMEM. */
int htab_add(struct htab *t, uint64_t hash, void *item);

/* Remove exactly this item; it must be there. */
void htab_del(struct htab *t, uint64_t hash, const void *item);

static inline size_t
htab_first(const struct htab *t, uint64_t hash)
{
	return (size_t)hash & t->mask;
}

/* The next item with this hash at or after *i, or NULL; *i is its cell. */
static inline void *
htab_at(const struct htab *t, uint64_t hash, size_t *i)
{
	size_t k = *i;

	if (t->n == 0)
		return NULL;
	for (;; k++) {
		const struct htab_cell *c = &t->cells[k & t->mask];

		if (c->item == NULL)
			return NULL;
		if (c->hash == (uint32_t)hash) {
			*i = k;
			return c->item;
		}
	}
}

#endif

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "rib/pool.h"

void
pool_init(struct pool *p, size_t item)
{
	*p = (struct pool){ .item = item };
}

void
pool_fini(struct pool *p)
{
	size_t i;

	for (i = 0; i < p->nchunks; i++)
		free(p->chunks[i]);
	free(p->chunks);
	pool_init(p, p->item);
}

uint32_t
pool_take(struct pool *p)
{
	uint8_t		**chunks;
	uint32_t	 i;

	if ((i = p->free) != 0) {
		memcpy(&p->free, pool_at(p, i), sizeof(p->free));
	} else {
		i = p->n + 1;
		if (i == UINT32_MAX)
			return 0;
		if (i / POOL_CHUNK >= p->room) {
			size_t room = MAX(p->room * 2, 16);

			if ((chunks = realloc(p->chunks,
			    room * sizeof(*chunks))) == NULL)
				return 0;
			p->chunks = chunks;
			p->room = room;
		}
		if (i / POOL_CHUNK >= p->nchunks) {
			if ((p->chunks[p->nchunks] =
			    malloc(POOL_CHUNK * p->item)) == NULL)
				return 0;
			p->nchunks++;
		}
		p->n = i;
	}
	memset(pool_at(p, i), 0, p->item);
	p->used++;
	return i;
}

void
pool_give(struct pool *p, uint32_t i)
{
	memset(pool_at(p, i), 0, p->item);
	memcpy(pool_at(p, i), &p->free, sizeof(p->free));
	p->free = i;
	p->used--;
}

/* --- Index ----------------------------------------------------------- */

static inline struct index_table *
table_of(const struct index *ix, uint64_t hash)
{
	return (struct index_table *)(uintptr_t)
	    &ix->tables[(hash >> 1) % INDEX_TABLES];
}

static inline uint32_t
place_of(const struct index_table *t, uint64_t slot)
{
	return (uint32_t)(slot >> 32) & (t->room - 1);
}

static int
table_grow(struct index *ix, struct index_table *t)
{
	uint32_t	 room = MAX(t->room * 2, 8), i, at;
	struct index_table n = { .room = room, .used = t->used };

	if ((n.slots = calloc(room, sizeof(*n.slots))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < t->room; i++) {
		if (t->slots[i] == 0)
			continue;
		at = place_of(&n, t->slots[i]);
		while (n.slots[at] != 0)
			at = (at + 1) & (room - 1);
		n.slots[at] = t->slots[i];
	}
	free(t->slots);
	ix->bytes += (uint64_t)(room - t->room) * sizeof(*n.slots);
	*t = n;
	return 0;
}

void
index_fini(struct index *ix)
{
	size_t i;

	for (i = 0; i < INDEX_TABLES; i++)
		free(ix->tables[i].slots);
	memset(ix, 0, sizeof(*ix));
}

int
index_add(struct index *ix, uint64_t hash, uint32_t number)
{
	struct index_table *t = table_of(ix, hash);
	uint64_t	slot = (hash & ~(uint64_t)UINT32_MAX) | number;
	uint32_t	at;
	int		rc;

	if ((uint64_t)(t->used + 1) * 4 > (uint64_t)t->room * 3 &&
	    (rc = table_grow(ix, t)) < 0)
		return rc;
	at = place_of(t, slot);
	while (t->slots[at] != 0)
		at = (at + 1) & (t->room - 1);
	t->slots[at] = slot;
	t->used++;
	return 0;
}

void
index_del(struct index *ix, uint64_t hash, uint32_t number)
{
	struct index_table *t = table_of(ix, hash);
	uint64_t	slot = (hash & ~(uint64_t)UINT32_MAX) | number;
	uint32_t	mask = t->room - 1, at, hole, home;

	if (t->room == 0)
		return;
	for (at = place_of(t, slot); t->slots[at] != slot; at = (at + 1) & mask)
		if (t->slots[at] == 0)
			return;
	for (hole = at;;) {
		at = (at + 1) & mask;
		if (t->slots[at] == 0)
			break;
		home = place_of(t, t->slots[at]);
		if (((at - home) & mask) >= ((at - hole) & mask)) {
			t->slots[hole] = t->slots[at];
			hole = at;
		}
	}
	t->slots[hole] = 0;
	t->used--;
}

uint32_t
index_next(const struct index *ix, struct index_walk *walk)
{
	const struct index_table *t = table_of(ix, walk->hash);
	uint64_t	slot;

	for (;;) {
		slot = t->slots[walk->at];
		walk->at = (walk->at + 1) & (t->room - 1);
		if (slot == 0)
			return 0;
		if (slot >> 32 == walk->hash >> 32)
			return (uint32_t)slot;
	}
}

uint32_t
index_first(const struct index *ix, uint64_t hash, struct index_walk *walk)
{
	const struct index_table *t = table_of(ix, hash);

	if (t->room == 0)
		return 0;
	walk->hash = hash;
	walk->at = place_of(t, hash);
	return index_next(ix, walk);
}

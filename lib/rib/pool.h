/*
 * pool.h: numbered items of one size that never move, and an index from 64-bit
 * hashes to such numbers. Numbers instead of pointers halve the links, and a
 * walk by number survives changes. Private to lib/rib.
 */
#ifndef RIB_POOL_H
#define RIB_POOL_H

#include <stddef.h>
#include <stdint.h>

#define POOL_CHUNK	4096u

struct pool {
	uint8_t		**chunks;
	size_t		 nchunks, room;
	size_t		 item;		/* bytes; the first 4 link free items */
	uint32_t	 n;		/* numbers given out so far, from 1 */
	uint32_t	 free;		/* 0: none */
	uint32_t	 used;
};

void pool_init(struct pool *p, size_t item);
void pool_fini(struct pool *p);

/* A zeroed item's number, or 0 if out of memory. */
uint32_t pool_take(struct pool *p);
void pool_give(struct pool *p, uint32_t i);

static inline void *
pool_at(const struct pool *p, uint32_t i)
{
	return p->chunks[i / POOL_CHUNK] + i % POOL_CHUNK * p->item;
}

/*
 * The index is many small tables by the low bits of the hash, so that growing
 * never stops the world for longer than one of them takes.
 */
#define INDEX_TABLES	1024u

struct index_table {
	uint64_t	*slots;		/* hash high half << 32 | number */
	uint32_t	 room, used;	/* room: a power of two */
};

struct index {
	struct index_table tables[INDEX_TABLES];
	uint64_t	bytes;
};

struct index_walk {
	uint64_t	hash;
	uint32_t	at;
};

void index_fini(struct index *ix);
int index_add(struct index *ix, uint64_t hash, uint32_t number);
void index_del(struct index *ix, uint64_t hash, uint32_t number);

/* Numbers added under this hash, and perhaps others; 0 ends. */
uint32_t index_first(const struct index *ix, uint64_t hash,
    struct index_walk *walk);
uint32_t index_next(const struct index *ix, struct index_walk *walk);

#endif

/*
 * roster.h: which client ids may have a stored session: a set of hashes that
 * answers "surely not" or "perhaps". A session-store keeps one of its sessions
 * and tells it to the listeners, so that a clean start that has nothing to
 * discard need not ask. Nothing is ever taken out.
 */
#ifndef SESSION_ROSTER_H
#define SESSION_ROSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ROSTER_BITS_MIN = 16, ROSTER_BITS_MAX = 26 };	/* log2 of the size */

/* All zero: unknown, everything is perhaps there. */
struct roster {
	uint8_t		*bits;
	unsigned	 log2;
	size_t		 ones;
};

/* An empty one of 2^log2 bits. ERR_INVAL, ERR_NOMEM. */
int roster_init(struct roster *r, unsigned log2);
void roster_fini(struct roster *r);		/* all zero again */

/* The size for so many ids: one in sixteen of others is "perhaps". */
unsigned roster_log2_for(size_t ids);

static inline size_t
roster_bytes(const struct roster *r)
{
	return ((size_t)1 << r->log2) / 8;
}

/* hash: XXH3-64 of the id; its high bits count. True if it is news. */
bool roster_add(struct roster *r, uint64_t hash);

static inline bool
roster_maybe(const struct roster *r, uint64_t hash)
{
	uint64_t bit;

	if (r->bits == NULL)
		return true;
	bit = hash >> (64 - r->log2);
	return r->bits[bit / 8] >> (bit % 8) & 1;
}

#endif

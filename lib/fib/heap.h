/*
 * heap.h: the writer's memory in the segment: pieces, blocks within pieces, and
 * what is retired but may still be seen. All bookkeeping is private memory;
 * the segment holds nothing but what readers need. Private to lib/fib.
 */
#ifndef FIB_HEAP_H
#define FIB_HEAP_H

#include <stdint.h>

#include "fib/layout.h"

#define HEAP_CLASS_MIN	5u	/* blocks of 32 bytes ... */
#define HEAP_CLASS_MAX	16u	/* ... to 64 KiB, a whole piece */

enum piece_kind { PIECE_FREE, PIECE_FIXED, PIECE_BUCKET, PIECE_SLAB };

struct slab {				/* of a piece of blocks */
	uint32_t	refs[FIB_PIECE >> HEAP_CLASS_MIN];
	uint16_t	links[FIB_PIECE >> HEAP_CLASS_MIN];
};

struct piece {
	uint8_t		 kind;
	uint8_t		 depth;		/* bucket: local depth; slab: class */
	uint16_t	 live;		/* entries; blocks */
	uint16_t	 deleted;	/* entries; slab: first free block */
	uint32_t	 next, prev;	/* free pieces; slabs with room */
	struct slab	*slab;
};

enum held_kind { HELD_PIECE, HELD_BLOCK, HELD_DEST, HELD_NOTHING };

struct held {
	uint64_t	epoch;
	uint64_t	ms;
	uint64_t	what;		/* piece number, offset, slot */
	uint32_t	bytes;
	uint32_t	kind;
};

struct heap {
	uint8_t		*base;
	struct fib_header *header;
	struct fib_epoch *epochs;
	int		(*grow)(void *, size_t);
	void		*grow_ctx;

	struct piece	*pieces;	/* [npieces], private */
	size_t		 pieces_room;
	uint64_t	 npieces;	/* that were ever used */
	uint64_t	 committed;	/* that have memory */
	uint64_t	 limit;
	uint32_t	 free_piece;	/* list, 0 ends it */
	uint64_t	 nfree;
	uint32_t	 slabs[HEAP_CLASS_MAX + 1];

	struct held	*held;		/* ring, room a power of two */
	size_t		 held_room, held_first, held_n;
	uint64_t	 held_bytes;
	uint64_t	 epoch, now_ms;
	uint64_t	 passed;	/* no reader has an epoch below */
	size_t		 evict_bytes;
	uint64_t	 evict_ms;
	uint64_t	 evictions, leaked;
	void		(*dest_free)(void *ctx, unsigned slot);
	void		*dest_ctx;
};

/* Take one piece, not cleared. Its number, or ERR_*. */
int64_t heap_piece(struct heap *h, enum piece_kind kind);

/* Take n pieces in a row. The first one's number, or ERR_*. */
int64_t heap_run(struct heap *h, uint64_t n);

/* Take a block of so many bytes, with one reference. Its offset, or ERR_*. */
int64_t heap_block(struct heap *h, size_t bytes);

void heap_block_free(struct heap *h, uint64_t off);
void heap_piece_free(struct heap *h, uint64_t piece);

/* Keep it until no reader can see it, then free it. */
void heap_retire(struct heap *h, enum held_kind kind, uint64_t what,
    uint32_t bytes);
void heap_reclaim(struct heap *h);

/* It is now_ms: what was retired since the last call ages from here. */
void heap_time(struct heap *h, uint64_t now_ms);

static inline uint32_t *
heap_refs(struct heap *h, uint64_t off)
{
	struct piece *p = &h->pieces[off / FIB_PIECE];

	return &p->slab->refs[(off % FIB_PIECE) >> p->depth];
}

static inline size_t
heap_block_bytes(struct heap *h, uint64_t off)
{
	return (size_t)1 << h->pieces[off / FIB_PIECE].depth;
}

static inline _Atomic uint64_t *
heap_words(struct heap *h, uint64_t off)
{
	return (_Atomic uint64_t *)(void *)(h->base + off);
}

#endif

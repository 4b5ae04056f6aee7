#include <stdlib.h>

#include "base/err.h"
#include "fib/heap.h"

/* Memory is asked for ahead: at least so many pieces, or 1/64 of what is. */
#define GROW_MIN	4u

static int
pieces_private(struct heap *h, uint64_t n)
{
	size_t		 room = h->pieces_room;
	struct piece	*p;

	if (n <= room)
		return 0;
	room = MAX(room * 2, (size_t)n + 64);
	if ((p = realloc(h->pieces, room * sizeof(*p))) == NULL)
		return ERR_NOMEM;
	memset(p + h->pieces_room, 0, (room - h->pieces_room) * sizeof(*p));
	h->pieces = p;
	h->pieces_room = room;
	return 0;
}

static int
pieces_commit(struct heap *h, uint64_t n)
{
	uint64_t	ahead;
	int		rc;

	if (n <= h->committed)
		return 0;
	if (n > h->limit)
		return ERR_FULL;
	ahead = MIN(h->limit, n + MAX(GROW_MIN, n / 64));
	if (h->grow != NULL &&
	    h->grow(h->grow_ctx, ahead * FIB_PIECE) < 0) {
		ahead = n;
		if ((rc = h->grow(h->grow_ctx, ahead * FIB_PIECE)) < 0)
			return rc;
	}
	h->committed = ahead;
	atomic_store_explicit(&h->header->pieces, ahead, memory_order_release);
	return 0;
}

int64_t
heap_run(struct heap *h, uint64_t n)
{
	uint64_t	first = h->npieces, i;
	int		rc;

	if ((rc = pieces_private(h, first + n)) < 0 ||
	    (rc = pieces_commit(h, first + n)) < 0)
		return rc;
	for (i = first; i < first + n; i++)
		h->pieces[i] = (struct piece){ .kind = PIECE_FIXED };
	h->npieces = first + n;
	return (int64_t)first;
}

int64_t
heap_piece(struct heap *h, enum piece_kind kind)
{
	int64_t		n;

	if (h->free_piece == 0 && h->held_bytes >= 16 * FIB_PIECE)
		heap_reclaim(h);
	if ((n = h->free_piece) != 0) {
		h->free_piece = h->pieces[n].next;
		h->nfree--;
	} else if ((n = heap_run(h, 1)) < 0) {
		heap_reclaim(h);
		if (h->free_piece == 0)
			return n;
		n = h->free_piece;
		h->free_piece = h->pieces[n].next;
		h->nfree--;
	}
	h->pieces[n] = (struct piece){ .kind = (uint8_t)kind };
	return n;
}

void
heap_piece_free(struct heap *h, uint64_t piece)
{
	free(h->pieces[piece].slab);
	h->pieces[piece] = (struct piece){ .next = h->free_piece };
	h->free_piece = (uint32_t)piece;
	h->nfree++;
}

/* --- Blocks ---------------------------------------------------------- */

#define NO_BLOCK	0xffffu

static void
slab_unlink(struct heap *h, uint32_t n)
{
	struct piece	*p = &h->pieces[n];

	if (p->prev != 0)
		h->pieces[p->prev].next = p->next;
	else
		h->slabs[p->depth] = p->next;
	if (p->next != 0)
		h->pieces[p->next].prev = p->prev;
	p->next = p->prev = 0;
}

static void
slab_link(struct heap *h, uint32_t n)
{
	struct piece	*p = &h->pieces[n];

	p->prev = 0;
	p->next = h->slabs[p->depth];
	if (p->next != 0)
		h->pieces[p->next].prev = n;
	h->slabs[p->depth] = n;
}

static int
slab_new(struct heap *h, unsigned class)
{
	struct slab	*s;
	int64_t		 n;
	unsigned	 i, blocks = FIB_PIECE >> class;

	if ((s = malloc(sizeof(*s))) == NULL)
		return ERR_NOMEM;
	if ((n = heap_piece(h, PIECE_SLAB)) < 0) {
		free(s);
		return (int)n;
	}
	for (i = 0; i < blocks; i++) {
		s->refs[i] = 0;
		s->links[i] = (uint16_t)(i + 1 < blocks ? i + 1 : NO_BLOCK);
	}
	h->pieces[n].slab = s;
	h->pieces[n].depth = (uint8_t)class;
	h->pieces[n].deleted = 0;
	slab_link(h, (uint32_t)n);
	return 0;
}

int64_t
heap_block(struct heap *h, size_t bytes)
{
	unsigned	 class = HEAP_CLASS_MIN, block;
	struct piece	*p;
	uint32_t	 n;
	int		 rc;

	while (((size_t)1 << class) < bytes)
		class++;
	if (class > HEAP_CLASS_MAX)
		return ERR_FULL;
	if (h->slabs[class] == 0 && (rc = slab_new(h, class)) < 0)
		return rc;
	n = h->slabs[class];
	p = &h->pieces[n];
	block = p->deleted;
	p->deleted = p->slab->links[block];
	p->slab->refs[block] = 1;
	p->live++;
	if (p->deleted == NO_BLOCK)
		slab_unlink(h, n);
	return (int64_t)n * FIB_PIECE + ((int64_t)block << class);
}

void
heap_block_free(struct heap *h, uint64_t off)
{
	uint32_t	 n = (uint32_t)(off / FIB_PIECE);
	struct piece	*p = &h->pieces[n];
	unsigned	 block = (unsigned)((off % FIB_PIECE) >> p->depth);

	if (p->deleted == NO_BLOCK)
		slab_link(h, n);
	p->slab->refs[block] = 0;
	p->slab->links[block] = p->deleted;
	p->deleted = (uint16_t)block;
	if (--p->live == 0) {
		slab_unlink(h, n);
		heap_piece_free(h, n);
	}
}

/* --- What is retired ------------------------------------------------- */

static int
held_room(struct heap *h)
{
	size_t		 room = MAX(h->held_room * 2, 1024), i;
	struct held	*ring;

	if (h->held_n < h->held_room)
		return 0;
	if ((ring = malloc(room * sizeof(*ring))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < h->held_n; i++)
		ring[i] = h->held[(h->held_first + i) & (h->held_room - 1)];
	free(h->held);
	h->held = ring;
	h->held_room = room;
	h->held_first = 0;
	return 0;
}

void
heap_retire(struct heap *h, enum held_kind kind, uint64_t what,
    uint32_t bytes)
{
	if (held_room(h) < 0) {
		h->leaked++;	/* lost to this generation; nothing breaks */
		return;
	}
	h->held[(h->held_first + h->held_n++) & (h->held_room - 1)] =
	    (struct held){ h->epoch, 0, what, bytes, kind };
	h->held_bytes += bytes;
	if (h->held_bytes > h->evict_bytes)
		heap_reclaim(h);
}

/* The lowest epoch announced by a reader; ~0 if none reads. */
static uint64_t
epoch_lowest(struct heap *h)
{
	uint64_t	low = ~(uint64_t)0, e;
	unsigned	i;

	for (i = 0; i < FIB_READERS; i++) {
		e = atomic_load_explicit(&h->epochs[i].announced,
		    memory_order_acquire);
		if (e != FIB_OUT && e != FIB_EVICTED && e < low)
			low = e;
	}
	return low;
}

static void
evict_upto(struct heap *h, uint64_t epoch)
{
	uint64_t	e;
	unsigned	i;

	for (i = 0; i < FIB_READERS; i++) {
		e = atomic_load_explicit(&h->epochs[i].announced,
		    memory_order_acquire);
		if (e == FIB_OUT || e == FIB_EVICTED || e > epoch)
			continue;
		if (atomic_compare_exchange_strong_explicit(
		    &h->epochs[i].announced, &e, FIB_EVICTED,
		    memory_order_acq_rel, memory_order_acquire))
			h->evictions++;
	}
}

static void
held_free(struct heap *h, uint64_t low)
{
	struct held	item;

	h->passed = MAX(h->passed, MIN(low, h->epoch));
	while (h->held_n > 0) {
		item = h->held[h->held_first];
		if (item.epoch >= low)
			return;
		h->held_first = (h->held_first + 1) & (h->held_room - 1);
		h->held_n--;
		h->held_bytes -= item.bytes;
		switch ((enum held_kind)item.kind) {
		case HELD_PIECE:
			heap_piece_free(h, item.what);
			break;
		case HELD_BLOCK:
			heap_block_free(h, item.what);
			break;
		case HELD_DEST:
			h->dest_free(h->dest_ctx, (unsigned)item.what);
			break;
		case HELD_NOTHING:
			break;
		}
	}
}

static bool
held_old(const struct heap *h, const struct held *item)
{
	return item->ms != 0 && h->now_ms - item->ms > h->evict_ms;
}

/*
 * What was retired in epoch e was unlinked before e + 1 was published, so who
 * announces more than e cannot have seen it. A reader that announces between
 * our look at its slot and our freeing has, by the two fences (the other is in
 * fib_enter), not looked at the index before we had unlinked.
 */
void
heap_reclaim(struct heap *h)
{
	if (h->held_n == 0)
		return;
	atomic_store_explicit(&h->header->epoch, ++h->epoch,
	    memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	held_free(h, epoch_lowest(h));
	while (h->held_n > 0 && (h->held_bytes > h->evict_bytes ||
	    held_old(h, &h->held[h->held_first]))) {
		evict_upto(h, h->held[h->held_first].epoch);
		held_free(h, epoch_lowest(h));
	}
}

void
heap_time(struct heap *h, uint64_t now_ms)
{
	struct held	*item;
	size_t		 i;

	h->now_ms = MAX(now_ms, 1);
	for (i = h->held_n; i-- > 0;) {
		item = &h->held[(h->held_first + i) & (h->held_room - 1)];
		if (item->ms != 0)
			return;
		item->ms = h->now_ms;
	}
}

/*
 * writer.c: the one who changes a segment. Everything it needs to know beyond
 * what readers need lies in private memory.
 */
#include <stdlib.h>

#include "base/err.h"
#include "fib/hash.h"
#include "fib/heap.h"

/* A bucket is split at LIMIT entries, or only rewritten if most of them are
 * deleted ones. */
#define LIMIT		(FIB_ENTRIES * 4 / 5)
#define SPLIT_MIN	(FIB_ENTRIES * 5 / 8)

#define DIR_DEPTH(d)	((unsigned)((d) & 0xff))
#define DIR_PIECE(d)	((d) >> 8)

enum dest_use { DEST_FREE, DEST_USED, DEST_HELD };

struct fib_writer {
	struct heap	 heap;
	struct fib_header *header;
	struct fib_row	*rows;
	struct fib_name	*names;
	struct fib_key	 key;
	uint64_t	 dir;		/* as in the header */
	uint64_t	 changes;
	uint64_t	 entries, anchors, splits, rewrites, set_uses;
	uint64_t	 group_sets, groups;
	uint64_t	 dead_groups;	/* without slots, and still there */
	uint64_t	*sets;		/* hash table of set offsets, 0 free */
	size_t		 sets_room, nsets;
	uint8_t		 dests[FIB_SLOTS];
	uint16_t	 more[FIB_MORE_MAX];	/* scratch of fib_get */
};

static inline uint64_t
load(_Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_relaxed);
}

static inline void
store(_Atomic uint64_t *p, uint64_t v)
{
	atomic_store_explicit(p, v, memory_order_relaxed);
}

static inline void
store_release(_Atomic uint64_t *p, uint64_t v)
{
	atomic_store_explicit(p, v, memory_order_release);
}

/* --- Directory and buckets ------------------------------------------- */

static inline _Atomic uint32_t *
dir_at(struct fib_writer *w, uint64_t dir, uint64_t i)
{
	return (_Atomic uint32_t *)(void *)(w->heap.base +
	    DIR_PIECE(dir) * FIB_PIECE) + i;
}

static inline uint64_t
dir_index(uint64_t dir, uint64_t fp)
{
	return fp >> 1 & (((uint64_t)1 << DIR_DEPTH(dir)) - 1);
}

static inline uint32_t
bucket_of(struct fib_writer *w, uint64_t fp)
{
	return atomic_load_explicit(dir_at(w, w->dir, dir_index(w->dir, fp)),
	    memory_order_relaxed);
}

static inline struct fib_entry *
bucket_at(struct fib_writer *w, uint64_t piece)
{
	return (struct fib_entry *)(void *)(w->heap.base + piece * FIB_PIECE);
}

static inline unsigned
home_of(uint64_t fp)
{
	return (unsigned)(fp >> 32) % FIB_GROUPS * FIB_GROUP;
}

static void
bucket_clear(struct fib_entry *b)
{
	unsigned i;

	for (i = 0; i < FIB_ENTRIES; i++) {
		store(&b[i].key, FIB_EMPTY);
		store(&b[i].word, 0);
	}
}

/* Into a bucket no reader knows. */
static void
bucket_add(struct fib_entry *b, uint64_t key, uint64_t word)
{
	unsigned i = home_of(key);

	while (load(&b[i].key) != FIB_EMPTY)
		i = (i + 1) % FIB_ENTRIES;
	store(&b[i].word, word);
	store(&b[i].key, key);
}

static int
dir_double(struct fib_writer *w)
{
	unsigned	depth = DIR_DEPTH(w->dir);
	uint64_t	n = (uint64_t)1 << depth, i, dir = w->dir + 1;
	uint64_t	old = w->dir, have, want;
	int64_t		run;

	if (depth == FIB_DEPTH_MAX)
		return ERR_FULL;
	have = (n + FIB_PER_DIR - 1) / FIB_PER_DIR;
	want = (2 * n + FIB_PER_DIR - 1) / FIB_PER_DIR;
	if (want > have) {
		if ((run = heap_run(&w->heap, want)) < 0)
			return (int)run;
		dir = (uint64_t)run << 8 | (depth + 1);
	}
	for (i = 0; i < 2 * n; i++)
		atomic_store_explicit(dir_at(w, dir, i),
		    atomic_load_explicit(dir_at(w, w->dir, i & (n - 1)),
		    memory_order_relaxed), memory_order_relaxed);
	w->dir = dir;
	store_release(&w->header->dir, dir);
	for (i = 0; want > have && i < have; i++)
		heap_retire(&w->heap, HELD_PIECE, DIR_PIECE(old) + i,
		    FIB_PIECE);
	return 0;
}

/* Copy a bucket that is full of deleted entries into a fresh one, or into two
 * by the next bit of the fingerprints. */
static int
bucket_split(struct fib_writer *w, uint64_t fp)
{
	uint32_t	 old = bucket_of(w, fp);
	unsigned	 depth = w->heap.pieces[old].depth, i, side, n;
	bool		 split = w->heap.pieces[old].live >= SPLIT_MIN;
	struct fib_entry *from, *to[2];
	int64_t		 piece[2];
	uint64_t	 key, at, live[2] = { 0, 0 };
	int		 rc;

	if (split && depth == DIR_DEPTH(w->dir) && (rc = dir_double(w)) < 0)
		return rc;
	n = split ? 2 : 1;
	for (i = 0; i < n; i++)
		if ((piece[i] = heap_piece(&w->heap, PIECE_BUCKET)) < 0) {
			rc = (int)piece[i];
			while (i-- > 0)
				heap_piece_free(&w->heap, (uint64_t)piece[i]);
			return rc;
		}
	for (i = 0; i < n; i++) {
		to[i] = bucket_at(w, (uint64_t)piece[i]);
		bucket_clear(to[i]);
	}
	from = bucket_at(w, old);
	for (i = 0; i < FIB_ENTRIES; i++) {
		key = load(&from[i].key);
		if (key == FIB_EMPTY || key == FIB_DELETED)
			continue;
		side = split ? key >> (1 + depth) & 1 : 0;
		bucket_add(to[side], key, load(&from[i].word));
		live[side]++;
	}
	for (i = 0; i < n; i++) {
		w->heap.pieces[piece[i]].live = (uint16_t)live[i];
		w->heap.pieces[piece[i]].depth =
		    (uint8_t)(split ? depth + 1 : depth);
	}
	for (at = fp >> 1 & (((uint64_t)1 << depth) - 1);
	    at < (uint64_t)1 << DIR_DEPTH(w->dir);
	    at += (uint64_t)1 << depth) {
		side = split ? at >> depth & 1 : 0;
		atomic_store_explicit(dir_at(w, w->dir, at),
		    (uint32_t)piece[side], memory_order_release);
	}
	heap_retire(&w->heap, HELD_PIECE, old, FIB_PIECE);
	if (split)
		w->splits++;
	else
		w->rewrites++;
	return 0;
}

/* The entry of fp, or NULL and *room is where it would go (NULL: nowhere). */
static struct fib_entry *
entry_find(struct fib_writer *w, uint64_t fp, struct fib_entry **room)
{
	struct fib_entry *b = bucket_at(w, bucket_of(w, fp));
	unsigned	 i = home_of(fp), n;
	uint64_t	 key;

	*room = NULL;
	for (n = 0; n < FIB_ENTRIES; n++, i = (i + 1) % FIB_ENTRIES) {
		key = load(&b[i].key);
		if (key == fp)
			return &b[i];
		if (key == FIB_DELETED && *room == NULL)
			*room = &b[i];
		if (key == FIB_EMPTY) {
			if (*room == NULL)
				*room = &b[i];
			break;
		}
	}
	return NULL;
}

/* Set the word of fp; *old is the one before, 0 if there was none. */
static int
entry_put(struct fib_writer *w, uint64_t fp, uint64_t word, uint64_t *old)
{
	struct fib_entry *e, *room;
	struct piece	*p;
	int		 rc;

	for (;;) {
		if ((e = entry_find(w, fp, &room)) != NULL) {
			*old = load(&e->word);
			store_release(&e->word, word);
			return 0;
		}
		p = &w->heap.pieces[bucket_of(w, fp)];
		if (room != NULL && load(&room->key) == FIB_DELETED) {
			p->deleted--;
			break;
		}
		if (room != NULL && p->live + p->deleted < (int)LIMIT)
			break;
		if ((rc = bucket_split(w, fp)) < 0)
			return rc;
	}
	p->live++;
	w->entries++;
	*old = 0;
	store_release(&room->word, word);
	store_release(&room->key, fp);
	return 0;
}

/* Remove fp. An entry before an empty one becomes empty itself, and so on
 * backwards; others stay as deleted, for what comes after them is found
 * across them. */
static uint64_t
entry_del(struct fib_writer *w, uint64_t fp)
{
	struct fib_entry *e, *room, *b;
	struct piece	*p;
	uint64_t	 word;
	unsigned	 i;

	if ((e = entry_find(w, fp, &room)) == NULL)
		return 0;
	word = load(&e->word);
	b = bucket_at(w, bucket_of(w, fp));
	p = &w->heap.pieces[bucket_of(w, fp)];
	i = (unsigned)(e - b);
	p->live--;
	w->entries--;
	if (load(&b[(i + 1) % FIB_ENTRIES].key) != FIB_EMPTY) {
		store_release(&e->key, FIB_DELETED);
		p->deleted++;
		return word;
	}
	store_release(&e->key, FIB_EMPTY);
	for (;;) {
		i = (i + FIB_ENTRIES - 1) % FIB_ENTRIES;
		if (load(&b[i].key) != FIB_DELETED)
			return word;
		store_release(&b[i].key, FIB_EMPTY);
		p->deleted--;
	}
}

static void
changed(struct fib_writer *w)
{
	store_release(&w->header->changes, ++w->changes);
}

/* --- Interned sets --------------------------------------------------- */

static uint64_t
set_hash_of(struct fib_writer *w, const struct fib_dests *d)
{
	struct sip	s;
	size_t		i;

	sip_init(&s, w->key.k1, w->key.k0);
	sip_word(&s, d->slots);
	for (i = 0; i < d->nmore; i++)
		sip_word(&s, d->more[i]);
	return sip_end(s, d->nmore);
}

static void
set_read(struct fib_writer *w, uint64_t off, struct fib_dests *d)
{
	_Atomic uint64_t *words = heap_words(&w->heap, off);
	size_t		 i;

	d->nmore = load(&words[0]) & 0xffff;
	d->slots = load(&words[1]);
	d->more = w->more;
	for (i = 0; i < d->nmore; i++)
		w->more[i] = (uint16_t)(load(&words[2 + i / 4]) >> i % 4 * 16);
}

static uint64_t
set_hash(struct fib_writer *w, uint64_t off)
{
	_Atomic uint64_t *words = heap_words(&w->heap, off);
	uint64_t	 nmore = load(&words[0]) & 0xffff, i;
	struct sip	 s;

	sip_init(&s, w->key.k1, w->key.k0);
	sip_word(&s, load(&words[1]));
	for (i = 0; i < nmore; i++)
		sip_word(&s, (uint16_t)(load(&words[2 + i / 4]) >> i % 4 * 16));
	return sip_end(s, nmore);
}

static bool
set_is(struct fib_writer *w, uint64_t off, const struct fib_dests *d)
{
	_Atomic uint64_t *words = heap_words(&w->heap, off);
	size_t		 i;

	if (load(&words[0]) != d->nmore || load(&words[1]) != d->slots)
		return false;	/* sets with groups are not in the table */
	for (i = 0; i < d->nmore; i++)
		if ((uint16_t)(load(&words[2 + i / 4]) >> i % 4 * 16) !=
		    d->more[i])
			return false;
	return true;
}

static int
sets_grow(struct fib_writer *w)
{
	size_t		 room = MAX(w->sets_room * 2, 64), i, at;
	uint64_t	*t;

	if ((w->nsets + 1) * 2 <= w->sets_room)
		return 0;
	if ((t = calloc(room, sizeof(*t))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < w->sets_room; i++) {
		if (w->sets[i] == 0)
			continue;
		at = set_hash(w, w->sets[i]) & (room - 1);
		while (t[at] != 0)
			at = (at + 1) & (room - 1);
		t[at] = w->sets[i];
	}
	free(w->sets);
	w->sets = t;
	w->sets_room = room;
	return 0;
}

/* All of a set but its groups, into a block no reader knows. */
static void
set_write(_Atomic uint64_t *words, uint64_t head, const struct fib_dests *d)
{
	uint64_t	v;
	size_t		i, j;

	store(&words[0], head | d->nmore);
	store(&words[1], d->slots);
	for (i = 0; i < d->nmore; i += 4) {
		for (v = 0, j = i; j < MIN(i + 4, d->nmore); j++)
			v |= (uint64_t)d->more[j] << j % 4 * 16;
		store(&words[2 + i / 4], v);
	}
}

/* Find or make the set; takes a reference. Its offset, or ERR_*. */
static int64_t
set_intern(struct fib_writer *w, const struct fib_dests *d)
{
	size_t		 at;
	int64_t		 off;
	int		 rc;

	if ((rc = sets_grow(w)) < 0)
		return rc;
	at = set_hash_of(w, d) & (w->sets_room - 1);
	for (; w->sets[at] != 0; at = (at + 1) & (w->sets_room - 1))
		if (set_is(w, w->sets[at], d)) {
			++*heap_refs(&w->heap, w->sets[at]);
			return (int64_t)w->sets[at];
		}
	if ((off = heap_block(&w->heap, 8 * set_words(d->nmore))) < 0)
		return off;
	set_write(heap_words(&w->heap, (uint64_t)off), 0, d);
	w->sets[at] = (uint64_t)off;
	w->nsets++;
	return off;
}

/* Drop a reference. The last one takes the set out of the table at once, so
 * that an equal one is a new one, and retires its block. */
static void
set_unref(struct fib_writer *w, uint64_t off)
{
	size_t		mask = w->sets_room - 1, at, hole, home;

	if (--*heap_refs(&w->heap, off) > 0)
		return;
	at = set_hash(w, off) & mask;
	while (w->sets[at] != off)
		at = (at + 1) & mask;
	for (hole = at;;) {
		at = (at + 1) & mask;
		if (w->sets[at] == 0)
			break;
		home = set_hash(w, w->sets[at]) & mask;
		if (((at - home) & mask) >= ((at - hole) & mask)) {
			w->sets[hole] = w->sets[at];
			hole = at;
		}
	}
	w->sets[hole] = 0;
	w->nsets--;
	heap_retire(&w->heap, HELD_BLOCK, off,
	    (uint32_t)heap_block_bytes(&w->heap, off));
}

/* --- Groups ---------------------------------------------------------- */

static void
block_retire(struct fib_writer *w, uint64_t off)
{
	heap_retire(&w->heap, HELD_BLOCK, off,
	    (uint32_t)heap_block_bytes(&w->heap, off));
}

static inline bool
word_is_own_set(struct fib_writer *w, uint64_t word)
{
	return (word & FIB_WORD_BLOCK) != 0 &&
	    (load(&heap_words(&w->heap, word & ~FIB_WORD_BLOCK)[0]) &
	    SET_OWN) != 0;
}

/* Where the groups of a set lie; *n of them. */
static _Atomic uint64_t *
set_groups(struct fib_writer *w, uint64_t word, size_t *n)
{
	_Atomic uint64_t *words;

	*n = 0;
	if (!word_is_own_set(w, word))
		return NULL;
	words = heap_words(&w->heap, word & ~FIB_WORD_BLOCK);
	*n = SET_NGROUPS(load(&words[0]));
	return words + set_words(SET_NMORE(load(&words[0])));
}

/* Where id is among n groups, or where it would be. */
static size_t
group_place(struct fib_writer *w, _Atomic uint64_t *groups, size_t n,
    const struct fib_group *g, bool *there)
{
	_Atomic uint64_t *words;
	size_t		 low = 0, high = n, i;
	uint64_t	 hi, lo;

	*there = false;
	while (low < high) {
		i = (low + high) / 2;
		words = heap_words(&w->heap, load(&groups[i]));
		hi = load(&words[0]);
		lo = load(&words[1]);
		if (hi == g->id_hi && lo == g->id_lo) {
			*there = true;
			return i;
		}
		if (hi < g->id_hi || (hi == g->id_hi && lo < g->id_lo))
			low = i + 1;
		else
			high = i;
	}
	return low;
}

static int64_t
group_new(struct fib_writer *w, const struct fib_group *g)
{
	_Atomic uint64_t *words;
	int64_t		 off;
	size_t		 i;

	if ((off = heap_block(&w->heap, 8 * (GROUP_HEAD + g->nslots))) < 0)
		return off;
	words = heap_words(&w->heap, (uint64_t)off);
	store(&words[0], g->id_hi);
	store(&words[1], g->id_lo);
	store(&words[2], g->nslots);
	for (i = 0; i < g->nslots; i++)
		store(&words[GROUP_HEAD + i],
		    GROUP_WORD(g->slots[i].slot, g->slots[i].members));
	return off;
}

/*
 * Give the slots of a group that stands already the counts of g, 0 to those
 * that g has not. Not done (if `do_it`), and false, if g has others.
 */
static bool
group_in_place(struct fib_writer *w, uint64_t off, const struct fib_group *g,
    bool do_it, size_t *gone)
{
	_Atomic uint64_t *words = heap_words(&w->heap, off);
	size_t		 n = load(&words[2]), i, k = 0;
	uint64_t	 word, now;

	*gone = 0;
	for (i = 0; i < n; i++) {
		word = load(&words[GROUP_HEAD + i]);
		if (k < g->nslots && g->slots[k].slot < GROUP_SLOT(word))
			return false;
		if (k < g->nslots && g->slots[k].slot == GROUP_SLOT(word)) {
			now = GROUP_WORD(GROUP_SLOT(word), g->slots[k].members);
			k++;
		} else {
			now = GROUP_WORD(GROUP_SLOT(word), 0);
			++*gone;
		}
		if (do_it && now != word)
			store_release(&words[GROUP_HEAD + i], now);
	}
	return k == g->nslots;
}

/*
 * A set as its terminal's own: destinations d, and the groups of `from` with
 * the one at `at` left out (skip) or `add` put before it (0: neither).
 */
static int64_t
set_own(struct fib_writer *w, const struct fib_dests *d, uint64_t from,
    size_t at, bool skip, uint64_t add)
{
	_Atomic uint64_t *words, *groups;
	size_t		 n, i, to = 0;
	uint64_t	 count;
	int64_t		 off;

	groups = set_groups(w, from, &n);
	count = n + (add != 0) - skip;
	if ((off = heap_block(&w->heap, 8 * (set_words(d->nmore) + count))) < 0)
		return off;
	words = heap_words(&w->heap, (uint64_t)off);
	set_write(words, SET_OWN | count << 16, d);
	words += set_words(d->nmore);
	for (i = 0; i < n; i++) {
		if (i == at && add != 0)
			store(&words[to++], add);
		if (i != at || !skip)
			store(&words[to++], load(&groups[i]));
	}
	if (at == n && add != 0)
		store(&words[to++], add);
	w->group_sets++;
	return off;
}

/* --- Terminals ------------------------------------------------------- */

/* The set alone: its groups are those of another set by now, or none. */
static void
terminal_release(struct fib_writer *w, uint64_t word)
{
	if ((word & FIB_WORD_BLOCK) == 0)
		return;
	if (word_is_own_set(w, word)) {
		block_retire(w, word & ~FIB_WORD_BLOCK);
		w->group_sets--;
		return;
	}
	set_unref(w, word & ~FIB_WORD_BLOCK);
	w->set_uses--;
}

/* The word for destinations alone; takes a reference. ERR_*. */
static int
dests_word(struct fib_writer *w, const struct fib_dests *d, uint64_t *word)
{
	struct fib_dests set = { d->slots & ~FIB_WORD_BLOCK, d->more,
	    d->nmore };
	int64_t		off;

	*word = set.slots;
	if (d->nmore == 0)
		return 0;
	if ((off = set_intern(w, &set)) < 0)
		return (int)off;
	*word = FIB_WORD_BLOCK | (uint64_t)off;
	w->set_uses++;
	return 0;
}

static uint64_t
word_now(struct fib_writer *w, uint64_t fp)
{
	struct fib_entry *e, *room;

	return (e = entry_find(w, fp, &room)) == NULL ? 0 : load(&e->word);
}

/* What stands there beside groups, in the writer's scratch. */
static void
word_dests(struct fib_writer *w, uint64_t word, struct fib_dests *d)
{
	if (word & FIB_WORD_BLOCK)
		set_read(w, word & ~FIB_WORD_BLOCK, d);
	else
		*d = (struct fib_dests){ word, NULL, 0 };
}

/* Put the word under fp, 0 takes the entry out, and let go of the old one. */
static int
word_put(struct fib_writer *w, uint64_t fp, uint64_t word)
{
	uint64_t	old;
	int		rc;

	if (word == 0)
		old = entry_del(w, fp);
	else if ((rc = entry_put(w, fp, word, &old)) < 0) {
		terminal_release(w, word);
		return rc;
	}
	changed(w);
	terminal_release(w, old);
	return 0;
}

/* A group that is not there yet. */
static int
group_add(struct fib_writer *w, uint64_t fp, uint64_t now, size_t at,
    const struct fib_group *g)
{
	struct fib_dests d;
	int64_t		group, set;
	int		rc;

	if ((group = group_new(w, g)) < 0)
		return (int)group;
	word_dests(w, now, &d);
	if ((set = set_own(w, &d, now, at, false, (uint64_t)group)) < 0) {
		heap_block_free(&w->heap, (uint64_t)group);
		return (int)set;
	}
	if ((rc = word_put(w, fp, FIB_WORD_BLOCK | (uint64_t)set)) < 0) {
		heap_block_free(&w->heap, (uint64_t)group);
		return rc;
	}
	w->groups++;
	return 0;
}

/*
 * Readers do not see it from the first step on. False: there is no memory for a
 * set without it, so it is left there dead.
 */
static bool
group_del(struct fib_writer *w, uint64_t fp, uint64_t now, size_t at,
    uint64_t off)
{
	const struct fib_group none = { 0 };
	struct fib_dests d;
	uint64_t	word;
	int64_t		set;
	size_t		n;

	(void)group_in_place(w, off, &none, true, &n);
	changed(w);
	(void)set_groups(w, now, &n);
	word_dests(w, now, &d);
	if (n > 1) {
		if ((set = set_own(w, &d, now, at, true, 0)) < 0)
			return false;
		word = FIB_WORD_BLOCK | (uint64_t)set;
	} else if (dests_word(w, &d, &word) < 0)
		return false;
	(void)word_put(w, fp, word);	/* the entry is there: cannot fail */
	block_retire(w, off);
	w->groups--;
	return true;
}

static bool
group_is_dead(struct fib_writer *w, uint64_t off)
{
	_Atomic uint64_t *words = heap_words(&w->heap, off);
	uint64_t	 n = load(&words[2]), i;

	for (i = 0; i < n; i++)
		if (GROUP_MEMBERS(load(&words[GROUP_HEAD + i])) != 0)
			return false;
	return true;
}

/* Take out what group_del had to leave under fp. */
static void
groups_clean(struct fib_writer *w, uint64_t fp)
{
	_Atomic uint64_t *groups;
	uint64_t	 now = word_now(w, fp), off;
	size_t		 n, i;

	groups = set_groups(w, now, &n);
	for (i = n; i-- > 0 && w->dead_groups > 0;) {
		off = load(&groups[i]);
		if (!group_is_dead(w, off))
			continue;
		if (!group_del(w, fp, now, i, off))
			return;
		w->dead_groups--;
		now = word_now(w, fp);
		groups = set_groups(w, now, &n);
	}
}

/* A group that stands at *place. */
static int
group_change(struct fib_writer *w, _Atomic uint64_t *place,
    const struct fib_group *g)
{
	uint64_t	old = load(place);
	size_t		gone;
	bool		fits = group_in_place(w, old, g, false, &gone);
	int64_t		off = 0;

	if (fits && gone == 0)
		(void)group_in_place(w, old, g, true, &gone);
	else if ((off = group_new(w, g)) >= 0) {
		store_release(place, (uint64_t)off);
		block_retire(w, old);
	} else if (fits)
		(void)group_in_place(w, old, g, true, &gone);
	else
		return (int)off;
	changed(w);
	return 0;
}

int
fib_group_put(struct fib_writer *w, uint64_t fp, const struct fib_group *g)
{
	_Atomic uint64_t *groups;
	uint64_t	 now;
	size_t		 n, at, i;
	bool		 there, dead;
	int		 rc;

	if ((fp & 1) != 0 || fp < 4 || g->nslots > FIB_SLOTS)
		return ERR_INVAL;
	for (i = 0; i < g->nslots; i++)
		if (g->slots[i].slot >= FIB_SLOTS || g->slots[i].members == 0 ||
		    (i > 0 && g->slots[i].slot <= g->slots[i - 1].slot))
			return ERR_INVAL;
	if (w->dead_groups > 0)
		groups_clean(w, fp);
	now = word_now(w, fp);
	groups = set_groups(w, now, &n);
	at = group_place(w, groups, n, g, &there);
	if (there && g->nslots == 0) {
		if (!group_is_dead(w, load(&groups[at])) &&
		    !group_del(w, fp, now, at, load(&groups[at])))
			w->dead_groups++;
		return 0;
	}
	if (there) {
		dead = group_is_dead(w, load(&groups[at]));
		if ((rc = group_change(w, &groups[at], g)) == 0 && dead)
			w->dead_groups--;
		return rc;
	}
	if (g->nslots == 0)
		return 0;
	return n >= FIB_GROUPS_MAX ? ERR_FULL : group_add(w, fp, now, at, g);
}

int
fib_put(struct fib_writer *w, uint64_t fp, const struct fib_dests *d)
{
	struct fib_dests set = { d->slots & ~FIB_WORD_BLOCK, d->more,
	    d->nmore };
	uint64_t	word, now = 0;
	int64_t		off;
	size_t		i;
	int		rc;

	if ((fp & 1) != 0 || fp < 4 || d->nmore > FIB_MORE_MAX)
		return ERR_INVAL;
	for (i = 0; i < d->nmore; i++)
		if (d->more[i] < FIB_WORD_SLOTS || d->more[i] >= FIB_SLOTS ||
		    (i > 0 && d->more[i] <= d->more[i - 1]))
			return ERR_INVAL;
	if (w->dead_groups > 0)
		groups_clean(w, fp);
	if (w->groups > 0)
		now = word_now(w, fp);
	if (word_is_own_set(w, now)) {
		if ((off = set_own(w, &set, now, 0, false, 0)) < 0)
			return (int)off;
		word = FIB_WORD_BLOCK | (uint64_t)off;
	} else if ((rc = dests_word(w, d, &word)) < 0)
		return rc;
	return word_put(w, fp, word);
}

int
fib_get(struct fib_writer *w, uint64_t fp, struct fib_dests *d)
{
	struct fib_entry *e, *room;

	if ((e = entry_find(w, fp, &room)) == NULL)
		return ERR_NOTFOUND;
	word_dests(w, load(&e->word), d);
	return 0;
}

/* --- Anchors --------------------------------------------------------- */

static int64_t
shapes_block(struct fib_writer *w, const uint64_t *shapes, size_t n)
{
	_Atomic uint64_t *words;
	int64_t		 off;
	size_t		 i;

	if ((off = heap_block(&w->heap, 8 * (1 + n))) < 0)
		return off;
	words = heap_words(&w->heap, (uint64_t)off);
	store(&words[0], n);
	for (i = 0; i < n; i++)
		store(&words[1 + i], shapes[i]);
	return off;
}

static void
shapes_release(struct fib_writer *w, uint64_t word)
{
	if (word & FIB_WORD_BLOCK)
		heap_retire(&w->heap, HELD_BLOCK, word & ~FIB_WORD_BLOCK,
		    (uint32_t)heap_block_bytes(&w->heap,
		    word & ~FIB_WORD_BLOCK));
}

int
fib_anchor_put(struct fib_writer *w, uint64_t anchor, uint64_t levels,
    const uint64_t *shapes, size_t n)
{
	uint64_t	word = 0, old;
	bool		shorts = n <= FIB_SHORTS;
	int64_t		off;
	size_t		i;
	int		rc;

	if ((anchor & 1) == 0 || anchor < 4 || n > FIB_SHAPES_MAX)
		return ERR_INVAL;
	if (n == 0) {
		if ((old = entry_del(w, anchor)) != 0)
			w->anchors--;
		changed(w);
		shapes_release(w, old);
		return 0;
	}
	for (i = 0; i < n; i++) {
		if (shapes[i] == FIB_SHAPE_NONE || shapes[i] == FIB_SHAPE_DEEP)
			return ERR_INVAL;
		if (shape_levels(shapes[i]) > 15)
			shorts = false;
	}
	if (shorts)
		for (i = 0; i < n; i++)
			word |= shape_short(shapes[i]) << i * FIB_SHORT_BITS;
	else {
		if ((off = shapes_block(w, shapes, n)) < 0)
			return (int)off;
		word = FIB_WORD_BLOCK | (uint64_t)off;
	}
	if ((levels & ~load(&w->header->anchor_levels)) != 0)
		store_release(&w->header->anchor_levels,
		    load(&w->header->anchor_levels) | levels);
	if ((rc = entry_put(w, anchor, word, &old)) < 0) {
		if (word & FIB_WORD_BLOCK)
			heap_block_free(&w->heap, word & ~FIB_WORD_BLOCK);
		return rc;
	}
	if (old == 0)
		w->anchors++;
	changed(w);
	shapes_release(w, old);
	return 0;
}

/* --- Destinations ---------------------------------------------------- */

static void
dest_free(void *ctx, unsigned slot)
{
	struct fib_writer *w = ctx;

	w->dests[slot] = DEST_FREE;
	store_release(&w->rows[slot].what, 0);
	store_release(&w->rows[slot].incarnation, 0);
}

static void
dest_write(struct fib_writer *w, unsigned slot, const struct fib_slot *d)
{
	store_release(&w->rows[slot].incarnation, d->incarnation);
	store_release(&w->rows[slot].what, (uint64_t)(uint8_t)d->state |
	    (uint64_t)(uint8_t)d->kind << 8 | (uint64_t)d->node << 16 |
	    (uint64_t)d->instance << 32);
	changed(w);
}

int
fib_dest_open(struct fib_writer *w, const struct fib_slot *d, unsigned *slot)
{
	unsigned i;

	if (d->kind == FIB_NONE)
		return ERR_INVAL;
	for (i = 0; i < FIB_SLOTS; i++)
		if (w->dests[i] == DEST_FREE) {
			w->dests[i] = DEST_USED;
			dest_write(w, i, d);
			*slot = i;
			return 0;
		}
	return ERR_FULL;
}

void
fib_dest_set(struct fib_writer *w, unsigned slot, enum fib_state state,
    uint64_t incarnation)
{
	uint64_t	what;

	if (slot >= FIB_SLOTS || w->dests[slot] != DEST_USED)
		return;
	what = load(&w->rows[slot].what);
	store_release(&w->rows[slot].incarnation, incarnation);
	store_release(&w->rows[slot].what,
	    (what & ~(uint64_t)0xff) | (uint8_t)state);
	changed(w);
}

void
fib_dest_close(struct fib_writer *w, unsigned slot)
{
	if (slot >= FIB_SLOTS || w->dests[slot] != DEST_USED)
		return;
	fib_dest_set(w, slot, FIB_DOWN, 0);
	w->dests[slot] = DEST_HELD;
	heap_retire(&w->heap, HELD_DEST, slot, 0);
}

int
fib_node_name_set(struct fib_writer *w, unsigned node, const char *name)
{
	size_t		 len = strnlen(name, FIB_NODE_NAME), i;
	uint64_t	 words[FIB_NODE_NAME / 8] = { 0 };
	struct fib_name	*row;

	if (node == 0 || node >= FIB_NODES || len == 0 || len == FIB_NODE_NAME)
		return ERR_INVAL;
	row = &w->names[node];
	if (load(&row->words[0]) != 0)
		return strcmp(row->text, name) == 0 ? 0 : ERR_EXISTS;
	memcpy(words, name, len);
	for (i = NELEM(words); i-- > 1; )
		store(&row->words[i], words[i]);
	store_release(&row->words[0], words[0]);
	return 0;
}

/* --- The rest -------------------------------------------------------- */

void
fib_reclaim(struct fib_writer *w, uint64_t now_ms)
{
	heap_time(&w->heap, now_ms);
	heap_reclaim(&w->heap);
}

uint64_t
fib_grace(struct fib_writer *w)
{
	heap_retire(&w->heap, HELD_NOTHING, 0, 0);
	return w->heap.epoch;
}

bool
fib_grace_over(const struct fib_writer *w, uint64_t ticket)
{
	return w->heap.passed > ticket;
}

void
fib_reader_gone(struct fib_writer *w, uint64_t owner)
{
	struct fib_epoch *e;
	unsigned	 i;

	for (i = 0; i < FIB_READERS; i++) {
		e = &w->heap.epochs[i];
		if (owner == 0 || atomic_load_explicit(&e->owner,
		    memory_order_acquire) != owner)
			continue;
		store_release(&e->announced, FIB_OUT);
		store_release(&e->owner, 0);
	}
}

static int
first_pieces(struct fib_writer *w)
{
	int64_t		fixed, dir, bucket;

	if ((fixed = heap_run(&w->heap, FIB_FIXED_PIECES)) < 0)
		return (int)fixed;
	if ((dir = heap_run(&w->heap, 1)) < 0)
		return (int)dir;
	if ((bucket = heap_piece(&w->heap, PIECE_BUCKET)) < 0)
		return (int)bucket;
	bucket_clear(bucket_at(w, (uint64_t)bucket));
	w->dir = (uint64_t)dir << 8;
	atomic_store_explicit(dir_at(w, w->dir, 0), (uint32_t)bucket,
	    memory_order_release);
	return 0;
}

int
fib_writer_open(struct fib_writer **out, const struct fib_writer_opts *o)
{
	struct fib_writer *w;
	struct fib_header *h;
	int		 rc;

	if (o->data == NULL || o->len < FIB_LEN_MIN || o->epochs == NULL ||
	    o->epochs_len < FIB_EPOCHS_LEN ||
	    (uintptr_t)o->data % FIB_LINE != 0 ||
	    (uintptr_t)o->epochs % FIB_LINE != 0)
		return ERR_INVAL;
	if ((w = calloc(1, sizeof(*w))) == NULL)
		return ERR_NOMEM;
	h = o->data;
	w->header = h;
	w->rows = (struct fib_row *)(void *)((uint8_t *)o->data +
	    FIB_TABLE_PIECE * FIB_PIECE);
	w->names = (struct fib_name *)(void *)((uint8_t *)o->data +
	    FIB_NAMES_PIECE * FIB_PIECE);
	w->key = o->key;
	w->heap.base = o->data;
	w->heap.header = h;
	w->heap.epochs = o->epochs;
	w->heap.grow = o->grow;
	w->heap.grow_ctx = o->grow_ctx;
	w->heap.limit = MIN(o->len / FIB_PIECE, (uint64_t)1 << 31);
	w->heap.evict_bytes = o->evict_bytes ? o->evict_bytes : 64u << 20;
	w->heap.evict_ms = o->evict_ms ? o->evict_ms : 1000;
	w->heap.dest_free = dest_free;
	w->heap.dest_ctx = w;
	w->heap.epoch = FIB_EPOCH_FIRST;
	/* The header needs its memory before the heap writes to it. */
	if (o->grow != NULL && (rc = o->grow(o->grow_ctx, FIB_PIECE)) < 0)
		goto free_writer;
	if ((rc = first_pieces(w)) < 0)
		goto free_writer;
	h->version = FIB_VERSION;
	h->header_len = sizeof(*h);
	h->piece = FIB_PIECE;
	h->slots = FIB_SLOTS;
	h->readers = FIB_READERS;
	h->key_bits = o->key.bits;
	h->len = w->heap.limit * FIB_PIECE;
	h->generation = o->generation;
	h->k0 = o->key.k0;
	h->k1 = o->key.k1;
	store_release(&h->epoch, FIB_EPOCH_FIRST);
	store_release(&h->dir, w->dir);
	h->magic = FIB_MAGIC;
	*out = w;
	return 0;

free_writer:
	free(w->heap.pieces);
	free(w);
	return rc;
}

void
fib_writer_close(struct fib_writer **wp)
{
	struct fib_writer *w = *wp;
	size_t		 i;

	if (w == NULL)
		return;
	for (i = 0; i < w->heap.npieces; i++)
		free(w->heap.pieces[i].slab);
	free(w->heap.pieces);
	free(w->heap.held);
	free(w->sets);
	free(w);
	*wp = NULL;
}

const struct fib_key *
fib_writer_key(const struct fib_writer *w)
{
	return &w->key;
}

void
fib_writer_stats(const struct fib_writer *w, struct fib_stats *out)
{
	unsigned i;

	*out = (struct fib_stats){
		.entries = w->entries, .anchors = w->anchors,
		.sets = w->nsets, .set_uses = w->set_uses,
		.group_sets = w->group_sets, .groups = w->groups,
		.bytes = w->heap.committed * FIB_PIECE,
		.pieces_used = w->heap.npieces - w->heap.nfree,
		.pieces_free = w->heap.nfree,
		.held_bytes = w->heap.held_bytes,
		.evictions = w->heap.evictions, .epoch = w->heap.epoch,
		.splits = w->splits, .rewrites = w->rewrites,
		.depth = DIR_DEPTH(w->dir),
	};
	for (i = 0; i < FIB_READERS; i++)
		if (atomic_load_explicit(&w->heap.epochs[i].owner,
		    memory_order_relaxed) != 0)
			out->readers++;
}

int
fib_reader_epoch(const struct fib_writer *w, uint64_t owner, uint64_t *epoch)
{
	const struct fib_epoch	*e;
	uint64_t		 at;
	unsigned		 i;

	for (i = 0; i < FIB_READERS; i++) {
		e = &w->heap.epochs[i];
		if (atomic_load_explicit(&e->owner,
		    memory_order_relaxed) != owner)
			continue;
		at = atomic_load_explicit(&e->announced, memory_order_relaxed);
		*epoch = at == FIB_EVICTED ? FIB_OUT : at;
		return 0;
	}
	return ERR_NOTFOUND;
}

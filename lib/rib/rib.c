/*
 * rib.c: routes, and what of them stands in the forwarding index.
 *
 *	filter	text, its rows (one per owner), member of a group if it has a
 *		wildcard; found by its fingerprint, which two may share
 *	group	the filters of one shape at one anchor, counted by owner
 *	anchor	its groups, installed or widened; the owners that stand under
 *		`anchor/#` because of the widened ones, counted
 *	share	a shared group ($share/name/filter) of a filter, with rows of
 *		its own (`srow`, one per owner); `shared` are all those of the
 *		filters of a group, for they are widened and narrowed together
 *
 * The word of a fingerprint is always computed anew from the filters that have
 * it and, for `anchor/#`, the anchor's count of wide owners: nothing is added
 * to or taken from a word, so nothing can be left over in one. So are the slots
 * of a share, from the rows of all that have its id and stand there.
 *
 * Which shape is widened when an anchor has too many. What widening costs is
 * traffic: each owner of the widened filters gets all that is published below
 * the anchor. So first choice is a shape whose owners are wide there anyway:
 * it costs nobody anything. Else the lowest of routes / crowd^2, where crowd
 * is how many shapes the owner with the fewest of them has there: 33 shapes of
 * one filter each rank far below the single filter of somebody else, and so do
 * 33 shapes of 100 filters; one well used shape ranks above them all. Among
 * equals the newest. A widened shape is looked at again when its routes reach
 * a power of two, and takes the place of one worth half as much. Rows of shares
 * count as routes, but always cost something: each share of a widened shape is
 * asked for a member whatever is published below the anchor. A shape whose
 * shares find no place under `anchor/#` is not widened.
 *
 * Moving a filter between its own entry and `anchor/#` must not lose a
 * message for a reader that read the anchor before and looks for the
 * terminal after. So the new entry comes first, then the anchor's word, then
 * readers have to pass an epoch (fib_grace), then the old entries go; a `job`
 * per group that moves, done in slices by rib_tidy.
 */
#include <assert.h>
#include <stdlib.h>

#include "base/err.h"
#include "fib/hash.h"
#include "rib/pool.h"
#include "rib/rib.h"
#include "topic/filter.h"
#include "topic/group.h"

#define FIBS		2
#define OWNERS		FIB_SLOTS
#define NARROW_LOOK	64	/* widened shapes looked at for the best */

struct count {
	uint32_t	owner;
	uint32_t	n;
};

struct counts {				/* by owner, unordered */
	uint32_t	 n, room;	/* room 0: `one` holds at most one */
	union {
		struct count	 one;
		struct count	*many;
	} u;
};

struct filter {
	uint32_t	 next, prev;	/* of its group */
	uint8_t		*text;		/* NULL: a free item */
	uint64_t	 fp;
	uint32_t	 len;
	uint32_t	 anchor_len;
	uint32_t	 group;		/* 0: no wildcard */
	uint32_t	 rows;
	uint32_t	 shares;
	uint32_t	 anchor_levels:31;
	uint32_t	 own:1;		/* counts in the word of fp */
};

struct row {
	uint32_t	 next;		/* of its filter */
	uint32_t	 filter;	/* 0: a free item */
	uint32_t	 onext, oprev;	/* of its owner */
	uint16_t	 owner;
	uint8_t		 qos;
	uint8_t		 mark;
};

struct share {
	uint32_t	 next;		/* of its filter */
	uint32_t	 filter;	/* 0: a free item */
	uint32_t	 snext, sprev;	/* of its filter's group */
	uint32_t	 rows;
	uint32_t	 nlen;
	uint64_t	 hi, lo;	/* group_id_of */
	uint8_t		*name;
};

struct srow {
	uint32_t	 next;		/* of its share */
	uint32_t	 share;		/* 0: a free item */
	uint32_t	 onext, oprev;	/* of its owner */
	uint32_t	 members;
	uint16_t	 owner;
	uint8_t		 mark;
};

struct shared {				/* of a group that has shares */
	uint32_t	 head;		/* shares */
	uint32_t	 n;
	struct counts	 counts;	/* their rows by owner */
	bool		 wide;		/* they stand under `anchor/#` */
};

enum group_state { GROUP_INSTALLED, GROUP_WIDE };

struct group {
	uint32_t	 next, prev;	/* of its anchor and state */
	uint32_t	 anchor;
	uint32_t	 head;		/* filters */
	uint64_t	 shape;
	uint64_t	 age;		/* serial number */
	struct counts	 counts;	/* routes by owner, without shares */
	uint32_t	 rows;		/* with those of shares */
	uint32_t	 filters;
	uint32_t	 shared;	/* 0: no shares */
	uint32_t	 job:31;	/* 0: none */
	uint32_t	 state:1;
};

struct anchor {
	uint32_t	 installed, widened;	/* groups */
	uint64_t	 fp;
	struct counts	 wide;		/* routes that stand under `anchor/#` */
	uint64_t	 levels;	/* fib_levels of all its filters */
	uint32_t	 ninstalled;	/* or on their way; without `#` */
	uint32_t	 nwidened;
	uint32_t	 hash;		/* the group of shape `#`, 0: none */
	uint32_t	 wide_shares;	/* that stand under `anchor/#` */
};

enum job_kind {
	JOB_SWEEP,	/* widened: take filters out of their own words */
	JOB_FILL,	/* to be narrowed: put filters into their own words */
	JOB_UNWIDE,	/* narrowed: take its owners from `anchor/#` */
};

struct job {
	uint32_t	 next, prev;
	uint32_t	 group;
	uint32_t	 at;		/* the filter that is next; 0: done */
	uint64_t	 ticket[FIBS];
	uint8_t		 kind;
};

struct owner {
	struct fib_slot	 dest;		/* kind FIB_NONE: free */
	uint32_t	 rows, srows;	/* lists */
	uint32_t	 sweep, ssweep;	/* rib_owner_sweep: the next row */
	bool		 sweeping;
	uint64_t	 nrows;		/* of both lists */
	uint16_t	 slot[FIBS];
	uint8_t		 mark;
};

struct attached {
	struct fib_writer *w;
	uint32_t	 filled;	/* filters up to here are in it */
	bool		 filling;
};

struct rib {
	struct fib_key	 key;
	unsigned	 anchor_shapes;
	uint64_t	 routes_max;
	struct attached	 fibs[FIBS];

	struct pool	 filters, rows, groups, anchors, jobs;
	struct pool	 shares, srows, shareds;
	struct index	 by_fp;		/* filters */
	struct index	 by_shape;	/* groups */
	struct index	 by_anchor;	/* anchors */
	struct index	 by_id;		/* shares */
	struct owner	*owners;	/* [OWNERS] */
	unsigned	 nowners;
	uint32_t	 job_first, job_last;
	uint64_t	 serial;
	uint64_t	 text_bytes, count_bytes;
	uint64_t	 widened_filters, widened_shapes, wide_anchors;
	uint64_t	 widenings, narrowings;

	uint64_t	 bits[FIB_SLOTS / 64];	/* scratch of gathering */
	uint16_t	 more[FIB_SLOTS];
	uint32_t	 members[FIB_SLOTS];
	void		(*changed)(void *ctx, const struct rib_change *c);
	void		*changed_ctx;
	unsigned	 changed_kinds;
	struct fib_group_slot gslots[FIB_SLOTS];
	uint32_t	 crowd[OWNERS];		/* scratch, zero between uses */
};

static inline struct filter *
filter_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->filters, i);
}

static inline struct row *
row_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->rows, i);
}

static inline struct group *
group_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->groups, i);
}

static inline struct anchor *
anchor_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->anchors, i);
}

static inline struct job *
job_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->jobs, i);
}

static inline struct share *
share_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->shares, i);
}

static inline struct srow *
srow_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->srows, i);
}

static inline struct shared *
shared_at(const struct rib *rib, uint32_t i)
{
	return pool_at(&rib->shareds, i);
}

/* --- Counts by owner ------------------------------------------------- */

static struct count *
counts_all(struct counts *c)
{
	return c->room == 0 ? &c->u.one : c->u.many;
}

static struct count *
counts_find(struct counts *c, uint32_t owner)
{
	struct count	*all = counts_all(c);
	uint32_t	 i;

	for (i = 0; i < c->n; i++)
		if (all[i].owner == owner)
			return &all[i];
	return NULL;
}

static uint32_t
counts_of(struct counts *c, uint32_t owner)
{
	struct count *e = counts_find(c, owner);

	return e == NULL ? 0 : e->n;
}

static int
counts_add(struct rib *rib, struct counts *c, uint32_t owner, uint32_t n)
{
	struct count	*e = counts_find(c, owner), *many;
	uint32_t	 room;

	if (e != NULL) {
		e->n += n;
		return 0;
	}
	if (c->n >= MAX(c->room, 1)) {
		room = MAX(c->room * 2, 4);
		if ((many = malloc(room * sizeof(*many))) == NULL)
			return ERR_NOMEM;
		memcpy(many, counts_all(c), c->n * sizeof(*many));
		if (c->room > 0)
			free(c->u.many);
		rib->count_bytes += (room - c->room) * sizeof(*many);
		c->room = room;
		c->u.many = many;
	}
	counts_all(c)[c->n++] = (struct count){ owner, n };
	return 0;
}

static void
counts_fini(struct rib *rib, struct counts *c)
{
	if (c->room > 0) {
		free(c->u.many);
		rib->count_bytes -= c->room * sizeof(struct count);
	}
	*c = (struct counts){ 0 };
}

static void
counts_sub(struct rib *rib, struct counts *c, uint32_t owner, uint32_t n)
{
	struct count *e = counts_find(c, owner);

	if (e == NULL)
		return;
	if (e->n > n) {
		e->n -= n;
		return;
	}
	*e = counts_all(c)[--c->n];
	if (c->n == 0)
		counts_fini(rib, c);
}

/* --- Finding --------------------------------------------------------- */

static uint64_t
shape_hash_of(uint64_t anchor, uint64_t shape)
{
	struct sip s;

	sip_init(&s, anchor, ~anchor);	/* anchor is secret already */
	sip_word(&s, shape);
	return sip_end(s, 0xff);
}

static uint32_t
filter_find(const struct rib *rib, uint64_t fp, const void *text, size_t len)
{
	struct index_walk walk;
	uint32_t	 i;
	struct filter	*f;

	for (i = index_first(&rib->by_fp, fp, &walk); i != 0;
	    i = index_next(&rib->by_fp, &walk)) {
		f = filter_at(rib, i);
		if (f->fp == fp && f->len == len &&
		    memcmp(f->text, text, len) == 0)
			return i;
	}
	return 0;
}

static uint32_t
anchor_find(const struct rib *rib, uint64_t fp)
{
	struct index_walk walk;
	uint32_t	 i;

	for (i = index_first(&rib->by_anchor, fp, &walk); i != 0;
	    i = index_next(&rib->by_anchor, &walk))
		if (anchor_at(rib, i)->fp == fp)
			return i;
	return 0;
}

static uint32_t
group_find(const struct rib *rib, uint64_t anchor, uint64_t shape)
{
	uint64_t	 hash = shape_hash_of(anchor, shape);
	struct index_walk walk;
	uint32_t	 i;
	struct group	*g;

	for (i = index_first(&rib->by_shape, hash, &walk); i != 0;
	    i = index_next(&rib->by_shape, &walk)) {
		g = group_at(rib, i);
		if (g->shape == shape &&
		    anchor_at(rib, g->anchor)->fp == anchor)
			return i;
	}
	return 0;
}

static uint32_t
row_find(const struct rib *rib, const struct filter *f, unsigned owner)
{
	uint32_t i;

	for (i = f->rows; i != 0; i = row_at(rib, i)->next)
		if (row_at(rib, i)->owner == owner)
			return i;
	return 0;
}

/* Ids are known to everybody: chosen ones are not to meet in a table. */
static uint64_t
id_hash_of(const struct rib *rib, uint64_t hi, uint64_t lo)
{
	struct sip s;

	sip_init(&s, rib->key.k0, ~rib->key.k1);
	sip_word(&s, hi);
	sip_word(&s, lo);
	return sip_end(s, 0xff);
}

static uint32_t
share_find(const struct rib *rib, uint32_t filter, const void *name,
    size_t nlen, uint64_t hi, uint64_t lo)
{
	uint64_t	 hash = id_hash_of(rib, hi, lo);
	struct index_walk walk;
	struct share	*s;
	uint32_t	 i;

	for (i = index_first(&rib->by_id, hash, &walk); i != 0;
	    i = index_next(&rib->by_id, &walk)) {
		s = share_at(rib, i);
		if (s->hi == hi && s->lo == lo && s->filter == filter &&
		    s->nlen == nlen && memcmp(s->name, name, nlen) == 0)
			return i;
	}
	return 0;
}

static uint32_t
srow_find(const struct rib *rib, const struct share *s, unsigned owner)
{
	uint32_t i;

	for (i = s->rows; i != 0; i = srow_at(rib, i)->next)
		if (srow_at(rib, i)->owner == owner)
			return i;
	return 0;
}

/* --- Publishing ------------------------------------------------------ */

static inline void
gather_owner(struct rib *rib, unsigned fib, unsigned owner,
    uint64_t *slots, bool *big)
{
	unsigned slot = rib->owners[owner].slot[fib];

	if (slot < FIB_WORD_SLOTS) {
		*slots |= (uint64_t)1 << slot;
		return;
	}
	if (!*big) {
		memset(rib->bits, 0, sizeof(rib->bits));
		*big = true;
	}
	rib->bits[slot / 64] |= (uint64_t)1 << slot % 64;
}

static void
gather(struct rib *rib, unsigned fib, uint64_t fp, struct fib_dests *d)
{
	struct index_walk walk;
	struct filter	*f;
	struct counts	*wide;
	uint32_t	 i, r;
	bool		 big = false;
	unsigned	 w;

	*d = (struct fib_dests){ .more = rib->more };
	for (i = index_first(&rib->by_fp, fp, &walk); i != 0;
	    i = index_next(&rib->by_fp, &walk)) {
		f = filter_at(rib, i);
		if (f->fp != fp || !f->own)
			continue;
		for (r = f->rows; r != 0; r = row_at(rib, r)->next)
			gather_owner(rib, fib, row_at(rib, r)->owner,
			    &d->slots, &big);
	}
	if (rib->wide_anchors > 0 && (i = anchor_find(rib, fp | 1)) != 0) {
		wide = &anchor_at(rib, i)->wide;
		for (r = 0; r < wide->n; r++)
			gather_owner(rib, fib, counts_all(wide)[r].owner,
			    &d->slots, &big);
	}
	if (!big)
		return;
	for (w = 0; w < NELEM(rib->bits); w++)
		while (rib->bits[w] != 0) {
			rib->more[d->nmore++] = (uint16_t)(w * 64 +
			    (unsigned)__builtin_ctzll(rib->bits[w]));
			rib->bits[w] &= rib->bits[w] - 1;
		}
}

static int
publish_to(struct rib *rib, unsigned fib, uint64_t fp)
{
	struct fib_dests d;

	gather(rib, fib, fp, &d);
	return fib_put(rib->fibs[fib].w, fp, &d);
}

/* What stands under a fingerprint, into every fib. */
static int
publish(struct rib *rib, uint64_t fp)
{
	unsigned	i;
	int		rc, bad = 0;

	for (i = 0; i < FIBS; i++)
		if (rib->fibs[i].w != NULL &&
		    (rc = publish_to(rib, i, fp)) < 0)
			bad = rc;
	return bad;
}

static bool
share_is_wide(const struct rib *rib, const struct filter *f)
{
	const struct group *g;

	if (f->group == 0 || (g = group_at(rib, f->group))->shared == 0)
		return false;
	return shared_at(rib, g->shared)->wide;
}

/* Does a share of this filter stand under fp? */
static bool
share_stands(const struct rib *rib, const struct filter *f, uint64_t fp)
{
	if (f->own && f->fp == fp)
		return true;
	return share_is_wide(rib, f) && fp == fib_wide(anchor_at(rib,
	    group_at(rib, f->group)->anchor)->fp);
}

/* The slots of all shares of this id that stand under fp; there is one, unless
 * somebody has found two of the same hash. */
static void
gather_group(struct rib *rib, unsigned fib, uint64_t fp, struct fib_group *g)
{
	uint64_t	 hash = id_hash_of(rib, g->id_hi, g->id_lo);
	struct index_walk walk;
	struct share	*s;
	struct srow	*r;
	uint32_t	 i, k;
	unsigned	 slot, w;

	memset(rib->bits, 0, sizeof(rib->bits));
	for (i = index_first(&rib->by_id, hash, &walk); i != 0;
	    i = index_next(&rib->by_id, &walk)) {
		s = share_at(rib, i);
		if (s->hi != g->id_hi || s->lo != g->id_lo ||
		    !share_stands(rib, filter_at(rib, s->filter), fp))
			continue;
		for (k = s->rows; k != 0; k = r->next) {
			r = srow_at(rib, k);
			slot = rib->owners[r->owner].slot[fib];
			rib->members[slot] = rib->bits[slot / 64] >>
			    slot % 64 & 1 ?
			    group_count_max(rib->members[slot], r->members) :
			    r->members;
			rib->bits[slot / 64] |= (uint64_t)1 << slot % 64;
		}
	}
	g->slots = rib->gslots;
	g->nslots = 0;
	for (w = 0; w < NELEM(rib->bits); w++)
		for (; rib->bits[w] != 0; rib->bits[w] &= rib->bits[w] - 1) {
			slot = w * 64 +
			    (unsigned)__builtin_ctzll(rib->bits[w]);
			rib->gslots[g->nslots++] = (struct fib_group_slot){
			    (uint16_t)slot, 0, rib->members[slot] };
		}
}

static int
publish_group_to(struct rib *rib, unsigned fib, uint64_t fp, uint64_t hi,
    uint64_t lo)
{
	struct fib_group g = { .id_hi = hi, .id_lo = lo };

	gather_group(rib, fib, fp, &g);
	return fib_group_put(rib->fibs[fib].w, fp, &g);
}

/* What stands of a group under a fingerprint, into every fib. */
static int
publish_group(struct rib *rib, uint64_t fp, uint64_t hi, uint64_t lo)
{
	unsigned	i;
	int		rc, bad = 0;

	for (i = 0; i < FIBS; i++)
		if (rib->fibs[i].w != NULL &&
		    (rc = publish_group_to(rib, i, fp, hi, lo)) < 0)
			bad = rc;
	return bad;
}

/* A share, wherever it stands. */
static int
publish_share(struct rib *rib, const struct share *s)
{
	const struct filter *f = filter_at(rib, s->filter);
	int		rc;

	if (f->own && (rc = publish_group(rib, f->fp, s->hi, s->lo)) < 0)
		return rc;
	if (!share_is_wide(rib, f))
		return 0;
	return publish_group(rib, fib_wide(anchor_at(rib, group_at(rib,
	    f->group)->anchor)->fp), s->hi, s->lo);
}

/* A filter under its own fingerprint, its shares with it. */
static int
publish_filter(struct rib *rib, const struct filter *f)
{
	struct share	*s;
	uint32_t	 i;
	int		 rc, bad = publish(rib, f->fp);

	for (i = f->shares; i != 0; i = s->next) {
		s = share_at(rib, i);
		if ((rc = publish_group(rib, f->fp, s->hi, s->lo)) < 0)
			bad = rc;
	}
	return bad;
}

/* All shares of a group, under `anchor/#`. */
static int
publish_shared(struct rib *rib, const struct group *g)
{
	uint64_t	 fp = fib_wide(anchor_at(rib, g->anchor)->fp);
	struct share	*s;
	uint32_t	 i;
	int		 rc, bad = 0;

	if (g->shared == 0)
		return 0;
	for (i = shared_at(rib, g->shared)->head; i != 0; i = s->snext) {
		s = share_at(rib, i);
		if ((rc = publish_group(rib, fp, s->hi, s->lo)) < 0)
			bad = rc;
	}
	return bad;
}

static bool
anchor_is_wide(const struct anchor *a)
{
	return a->wide.n > 0 || a->wide_shares > 0;
}

static int
publish_anchor_to(struct rib *rib, unsigned fib, const struct anchor *a)
{
	uint64_t	shapes[FIB_SHAPE_LEVELS + 64];
	size_t		n = 0;
	uint32_t	i;

	if (a->hash != 0 || anchor_is_wide(a))
		shapes[n++] = FIB_SHAPE_HASH;
	for (i = a->installed; i != 0; i = group_at(rib, i)->next)
		if (i != a->hash)
			shapes[n++] = group_at(rib, i)->shape;
	return fib_anchor_put(rib->fibs[fib].w, a->fp, a->levels, shapes, n);
}

static int
publish_anchor(struct rib *rib, const struct anchor *a)
{
	unsigned	i;
	int		rc, bad = 0;

	for (i = 0; i < FIBS; i++)
		if (rib->fibs[i].w != NULL &&
		    (rc = publish_anchor_to(rib, i, a)) < 0)
			bad = rc;
	return bad;
}

/* --- Jobs ------------------------------------------------------------ */

static void
job_end(struct rib *rib, uint32_t i)
{
	struct job *j = job_at(rib, i);

	group_at(rib, j->group)->job = 0;
	if (j->prev != 0)
		job_at(rib, j->prev)->next = j->next;
	else
		rib->job_first = j->next;
	if (j->next != 0)
		job_at(rib, j->next)->prev = j->prev;
	else
		rib->job_last = j->prev;
	pool_give(&rib->jobs, i);
}

/* Start a job, in place of the one the group may have. */
static int
job_start(struct rib *rib, uint32_t group, enum job_kind kind)
{
	struct group	*g = group_at(rib, group);
	struct job	*j;
	uint32_t	 i;
	unsigned	 f;

	if ((i = g->job) == 0) {
		if ((i = pool_take(&rib->jobs)) == 0)
			return ERR_NOMEM;
		j = job_at(rib, i);
		j->group = group;
		j->prev = rib->job_last;
		if (rib->job_last != 0)
			job_at(rib, rib->job_last)->next = i;
		else
			rib->job_first = i;
		rib->job_last = i;
		g->job = i;
	}
	j = job_at(rib, i);
	j->kind = (uint8_t)kind;
	j->at = g->head;
	for (f = 0; f < FIBS; f++)
		j->ticket[f] = rib->fibs[f].w == NULL || kind == JOB_FILL ? 0 :
		    fib_grace(rib->fibs[f].w);
	return 0;
}

static bool
job_waits(const struct rib *rib, const struct job *j)
{
	unsigned f;

	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w != NULL && j->ticket[f] != 0 &&
		    !fib_grace_over(rib->fibs[f].w, j->ticket[f]))
			return true;
	return false;
}

/* --- Groups of an anchor --------------------------------------------- */

static bool
group_has_job(const struct rib *rib, const struct group *g, enum job_kind kind)
{
	return g->job != 0 && job_at(rib, g->job)->kind == kind;
}

/* Do its routes stand under `anchor/#`? */
static bool
group_is_wide(const struct rib *rib, const struct group *g)
{
	return g->state == GROUP_WIDE || group_has_job(rib, g, JOB_UNWIDE);
}

/* Does it take one of the anchor's places for shapes? */
static bool
group_has_place(const struct rib *rib, const struct group *g)
{
	return g->shape != FIB_SHAPE_HASH && (g->state == GROUP_INSTALLED ||
	    group_has_job(rib, g, JOB_FILL));
}

static uint32_t *
group_list(struct rib *rib, const struct group *g)
{
	struct anchor *a = anchor_at(rib, g->anchor);

	return g->state == GROUP_INSTALLED ? &a->installed : &a->widened;
}

static void
group_link(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	uint32_t	*list = group_list(rib, g);

	g->prev = 0;
	g->next = *list;
	if (g->next != 0)
		group_at(rib, g->next)->prev = i;
	*list = i;
}

static void
group_unlink(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);

	if (g->prev != 0)
		group_at(rib, g->prev)->next = g->next;
	else
		*group_list(rib, g) = g->next;
	if (g->next != 0)
		group_at(rib, g->next)->prev = g->prev;
	g->next = g->prev = 0;
}

static void
group_turn(struct rib *rib, uint32_t i, enum group_state state)
{
	struct group	*g = group_at(rib, i);
	struct anchor	*a = anchor_at(rib, g->anchor);

	group_unlink(rib, i);
	g->state = (uint8_t)state;
	group_link(rib, i);
	if (state == GROUP_WIDE) {
		a->nwidened++;
		rib->widened_shapes++;
		rib->widened_filters += g->filters;
		rib->widenings++;
	} else {
		a->nwidened--;
		rib->widened_shapes--;
		rib->widened_filters -= g->filters;
		rib->narrowings++;
	}
}

static int
wide_add(struct rib *rib, struct anchor *a, uint32_t owner, uint32_t n)
{
	uint32_t	had = a->wide.n;
	int		rc;

	if ((rc = counts_add(rib, &a->wide, owner, n)) < 0)
		return rc;
	if (had == 0)
		rib->wide_anchors++;
	return 0;
}

static void
wide_sub(struct rib *rib, struct anchor *a, uint32_t owner, uint32_t n)
{
	if (a->wide.n == 0)
		return;
	counts_sub(rib, &a->wide, owner, n);
	if (a->wide.n == 0)
		rib->wide_anchors--;
}

/* The shares of g stand under `anchor/#` from now on, or no longer. */
static void
shared_turn(struct rib *rib, const struct group *g, bool wide)
{
	struct anchor	*a = anchor_at(rib, g->anchor);
	struct shared	*s;

	if (g->shared == 0 || (s = shared_at(rib, g->shared))->wide == wide)
		return;
	s->wide = wide;
	if (wide)
		a->wide_shares += s->n;
	else
		a->wide_shares -= s->n;
}

/* Is there room under `anchor/#` for the shares of g? */
static bool
shared_fits(const struct rib *rib, const struct group *g)
{
	const struct anchor *a = anchor_at(rib, g->anchor);
	const struct group *hash;
	uint64_t	 n = a->wide_shares;

	if (g->shared == 0 || shared_at(rib, g->shared)->wide)
		return true;
	if (a->hash != 0 && (hash = group_at(rib, a->hash))->shared != 0)
		n += shared_at(rib, hash->shared)->n;
	return n + shared_at(rib, g->shared)->n <= FIB_GROUPS_MAX;
}

/* The owners of a widened or narrowed group leave `anchor/#`, unless others
 * keep them there. */
static void
group_leave_wide(struct rib *rib, struct group *g)
{
	struct anchor	*a = anchor_at(rib, g->anchor);
	uint32_t	 i;

	for (i = 0; i < g->counts.n; i++)
		wide_sub(rib, a, counts_all(&g->counts)[i].owner,
		    counts_all(&g->counts)[i].n);
	shared_turn(rib, g, false);
	if (!anchor_is_wide(a))
		(void)publish_anchor(rib, a);
	(void)publish(rib, fib_wide(a->fp));
	(void)publish_shared(rib, g);
}

static int
group_enter_wide(struct rib *rib, struct group *g)
{
	struct anchor	*a = anchor_at(rib, g->anchor);
	struct count	*c = counts_all(&g->counts);
	uint32_t	 i;
	int		 rc = 0;

	if (!shared_fits(rib, g))
		return ERR_FULL;
	for (i = 0; i < g->counts.n; i++)
		if ((rc = wide_add(rib, a, c[i].owner, c[i].n)) < 0)
			break;
	shared_turn(rib, g, true);
	if (rc == 0)
		rc = publish(rib, fib_wide(a->fp));
	if (rc == 0)
		rc = publish_shared(rib, g);
	if (rc == 0)
		return 0;
	while (i-- > 0)
		wide_sub(rib, a, c[i].owner, c[i].n);
	shared_turn(rib, g, false);
	(void)publish(rib, fib_wide(a->fp));
	(void)publish_shared(rib, g);
	return rc;
}

/* Widen an installed group. */
static int
group_widen(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	struct anchor	*a = anchor_at(rib, g->anchor);
	bool		 was = group_is_wide(rib, g);
	uint32_t	 job;
	int		 rc;

	if ((job = g->job) == 0 && (rc = job_start(rib, i, JOB_SWEEP)) < 0)
		return rc;
	if (!was && (rc = group_enter_wide(rib, g)) < 0) {
		if (job == 0)
			job_end(rib, g->job);
		return rc;
	}
	group_turn(rib, i, GROUP_WIDE);
	if ((rc = publish_anchor(rib, a)) < 0) {
		group_turn(rib, i, GROUP_INSTALLED);
		(void)publish_anchor(rib, a);
		(void)job_start(rib, i, JOB_UNWIDE);
		return rc;
	}
	a->ninstalled--;
	return job_start(rib, i, JOB_SWEEP);
}

/* Begin to narrow a widened group: it has its place from now on. */
static int
group_narrow(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	int		 rc;

	if ((rc = job_start(rib, i, JOB_FILL)) < 0)
		return rc;
	anchor_at(rib, g->anchor)->ninstalled++;
	return 0;
}

/* All filters of the group are in their own words: let readers look there. */
static int
group_narrowed(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	int		 rc;

	group_turn(rib, i, GROUP_INSTALLED);
	if ((rc = publish_anchor(rib, anchor_at(rib, g->anchor))) < 0) {
		group_turn(rib, i, GROUP_WIDE);
		return rc;
	}
	return job_start(rib, i, JOB_UNWIDE);
}

/* --- Which one to widen ---------------------------------------------- */

struct rank {
	bool		free;
	uint64_t	rows, crowd;	/* rows / crowd^2 */
	uint64_t	age;
};

/* a is to be widened before b. */
static bool
rank_before(const struct rank *a, const struct rank *b)
{
	uint64_t x, y;

	if (a->free != b->free)
		return a->free;
	x = a->rows * b->crowd * b->crowd;
	y = b->rows * a->crowd * a->crowd;
	if (a->free)
		x = a->rows, y = b->rows;
	return x != y ? x < y : a->age > b->age;
}

static void
crowd_add(struct rib *rib, struct group *g, uint32_t n)
{
	struct shared	*s;
	uint32_t	 i, owner;

	for (i = 0; i < g->counts.n; i++)
		rib->crowd[counts_all(&g->counts)[i].owner] += n;
	if (g->shared == 0)
		return;
	s = shared_at(rib, g->shared);
	for (i = 0; i < s->counts.n; i++) {
		owner = counts_all(&s->counts)[i].owner;
		if (counts_find(&g->counts, owner) == NULL)
			rib->crowd[owner] += n;
	}
}

/* `beside` stands under `anchor/#` now, and would not if it had a place. */
static struct rank
rank_of(struct rib *rib, struct group *g, struct group *beside)
{
	struct anchor	*a = anchor_at(rib, g->anchor);
	struct rank	 rank = { true, g->rows, UINT32_MAX, g->age };
	struct counts	*s;
	struct count	*c;
	uint32_t	 i, wide;

	for (i = 0; i < g->counts.n; i++) {
		c = &counts_all(&g->counts)[i];
		wide = counts_of(&a->wide, c->owner);
		if (group_is_wide(rib, g))
			wide -= c->n;
		if (beside != NULL && beside != g)
			wide -= counts_of(&beside->counts, c->owner);
		if (wide == 0)
			rank.free = false;
		rank.crowd = MIN(rank.crowd, rib->crowd[c->owner]);
	}
	if (g->shared != 0) {
		s = &shared_at(rib, g->shared)->counts;
		rank.free = false;
		for (i = 0; i < s->n; i++)
			rank.crowd = MIN(rank.crowd,
			    rib->crowd[counts_all(s)[i].owner]);
	}
	if (rank.crowd == 0 || rank.crowd == UINT32_MAX)
		rank.crowd = 1;
	return rank;
}

/*
 * The group to widen: one of the installed or g, which wants a place; 0 if none
 * can be. wide: g is widened now.
 */
static uint32_t
victim(struct rib *rib, uint32_t g, bool wide, struct rank *rank)
{
	struct anchor	*a = anchor_at(rib, group_at(rib, g)->anchor);
	struct group	*beside = wide ? group_at(rib, g) : NULL;
	struct rank	 one;
	uint32_t	 i, best = g;

	if (!shared_fits(rib, group_at(rib, g)))
		best = 0;
	for (i = a->installed; i != 0; i = group_at(rib, i)->next)
		if (i != a->hash && i != g)
			crowd_add(rib, group_at(rib, i), 1);
	crowd_add(rib, group_at(rib, g), 1);
	*rank = rank_of(rib, group_at(rib, g), beside);
	for (i = a->installed; i != 0; i = group_at(rib, i)->next) {
		if (i == a->hash || i == g)
			continue;
		if (!shared_fits(rib, group_at(rib, i)))
			continue;
		one = rank_of(rib, group_at(rib, i), beside);
		if (best == 0 || rank_before(&one, rank)) {
			best = i;
			*rank = one;
		}
	}
	return best;
}

static void
victim_end(struct rib *rib, uint32_t g)
{
	struct anchor	*a = anchor_at(rib, group_at(rib, g)->anchor);
	uint32_t	 i;

	for (i = a->installed; i != 0; i = group_at(rib, i)->next)
		if (i != a->hash && i != g)
			crowd_add(rib, group_at(rib, i), (uint32_t)-1);
	crowd_add(rib, group_at(rib, g), (uint32_t)-1);
}

/* A new group has its first row: find it a place, or stand it under
 * `anchor/#`. */
static int
group_place(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	struct anchor	*a = anchor_at(rib, g->anchor);
	struct rank	 rank;
	uint32_t	 v;
	int		 rc;

	if (g->shape == FIB_SHAPE_HASH)
		return 0;
	if (g->shape != FIB_SHAPE_DEEP) {
		if (a->ninstalled <= rib->anchor_shapes)
			return 0;	/* it is counted already */
		v = victim(rib, i, false, &rank);
		victim_end(rib, i);
		if (v != 0 && v != i && group_widen(rib, v) == 0)
			return 0;
	}
	if ((rc = group_enter_wide(rib, g)) < 0)
		return rc;
	group_turn(rib, i, GROUP_WIDE);
	a->ninstalled--;
	filter_at(rib, g->head)->own = false;
	return 0;
}

/* Would an owner stand under `anchor/#` no more if this group had a place? */
static bool
narrowing_helps(struct rib *rib, struct group *g)
{
	struct anchor	*a = anchor_at(rib, g->anchor);
	struct count	*c;
	uint32_t	 i;

	for (i = 0; i < g->counts.n; i++) {
		c = &counts_all(&g->counts)[i];
		if (counts_of(&a->wide, c->owner) == c->n)
			return true;
	}
	return g->shared != 0;
}

/* A widened group has grown: is it worth the place of another by now? */
static void
group_grown(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	struct rank	 worst, own;
	uint32_t	 v;

	if ((g->rows & (g->rows - 1)) != 0 || g->shape == FIB_SHAPE_DEEP ||
	    g->job != 0 || !narrowing_helps(rib, g))
		return;
	v = victim(rib, i, true, &worst);
	own = rank_of(rib, g, g);
	victim_end(rib, i);
	if (v == i || (!worst.free && 2 * worst.rows * own.crowd * own.crowd >
	    own.rows * worst.crowd * worst.crowd))
		return;
	if (group_widen(rib, v) == 0)
		(void)group_narrow(rib, i);
}

/* A place has become free: who gets it? */
static void
anchor_room(struct rib *rib, uint32_t i)
{
	struct anchor	*a = anchor_at(rib, i);
	struct group	*g;
	uint32_t	 at, best = 0, looked = 0;
	bool		 helps, best_helps = false;

	while (a->ninstalled < rib->anchor_shapes && a->nwidened > 0) {
		best = 0;
		for (at = a->widened; at != 0 && looked < NARROW_LOOK;
		    at = g->next, looked++) {
			g = group_at(rib, at);
			if (g->shape == FIB_SHAPE_DEEP ||
			    group_has_job(rib, g, JOB_FILL))
				continue;
			helps = narrowing_helps(rib, g);
			if (best == 0 || (helps && !best_helps) ||
			    (helps == best_helps &&
			    g->rows > group_at(rib, best)->rows)) {
				best = at;
				best_helps = helps;
			}
		}
		if (best == 0 || group_narrow(rib, best) < 0)
			return;
	}
}

/* --- Making and unmaking --------------------------------------------- */

static uint32_t
anchor_make(struct rib *rib, const struct fib_cut *cut)
{
	struct anchor	*a;
	uint32_t	 i;

	if ((i = anchor_find(rib, cut->anchor)) != 0)
		return i;
	if ((i = pool_take(&rib->anchors)) == 0)
		return 0;
	if (index_add(&rib->by_anchor, cut->anchor, i) < 0) {
		pool_give(&rib->anchors, i);
		return 0;
	}
	a = anchor_at(rib, i);
	a->fp = cut->anchor;
	return i;
}

static void
anchor_unmake(struct rib *rib, uint32_t i)
{
	struct anchor *a = anchor_at(rib, i);

	if (a->installed != 0 || a->widened != 0)
		return;
	index_del(&rib->by_anchor, a->fp, i);
	if (a->wide.n > 0)
		rib->wide_anchors--;
	assert(a->wide_shares == 0);
	counts_fini(rib, &a->wide);
	pool_give(&rib->anchors, i);
}

static uint32_t
group_make(struct rib *rib, const struct fib_cut *cut)
{
	struct group	*g;
	struct anchor	*a;
	uint32_t	 i, anchor;

	if ((i = group_find(rib, cut->anchor, cut->shape)) != 0)
		return i;
	if ((anchor = anchor_make(rib, cut)) == 0)
		return 0;
	if ((i = pool_take(&rib->groups)) == 0)
		goto unmake_anchor;
	if (index_add(&rib->by_shape, shape_hash_of(cut->anchor, cut->shape),
	    i) < 0)
		goto give_group;
	a = anchor_at(rib, anchor);
	g = group_at(rib, i);
	g->anchor = anchor;
	g->shape = cut->shape;
	g->age = ++rib->serial;
	group_link(rib, i);
	if (g->shape == FIB_SHAPE_HASH)
		a->hash = i;
	else
		a->ninstalled++;
	return i;

give_group:
	pool_give(&rib->groups, i);
unmake_anchor:
	anchor_unmake(rib, anchor);
	return 0;
}

/* The last filter is out of it. Readers stop looking for its shape first. */
static void
group_unmake(struct rib *rib, uint32_t i)
{
	struct group	*g = group_at(rib, i);
	struct anchor	*a = anchor_at(rib, g->anchor);
	uint32_t	 anchor = g->anchor;

	if (g->shape == FIB_SHAPE_HASH)
		a->hash = 0;
	else if (group_has_place(rib, g))
		a->ninstalled--;
	if (g->job != 0)
		job_end(rib, g->job);
	if (g->state == GROUP_WIDE) {
		a->nwidened--;
		rib->widened_shapes--;
	}
	group_unlink(rib, i);
	index_del(&rib->by_shape, shape_hash_of(a->fp, g->shape), i);
	counts_fini(rib, &g->counts);
	if (g->state == GROUP_INSTALLED)
		(void)publish_anchor(rib, a);
	pool_give(&rib->groups, i);
	if (a->installed != 0 || a->widened != 0)
		anchor_room(rib, anchor);
	else
		anchor_unmake(rib, anchor);
}

static uint32_t
filter_make(struct rib *rib, const struct fib_cut *cut, const void *text,
    size_t len, bool *new_anchor)
{
	struct filter	*f;
	struct group	*g;
	struct anchor	*a;
	uint32_t	 i;

	if ((i = pool_take(&rib->filters)) == 0)
		return 0;
	f = filter_at(rib, i);
	if ((f->text = malloc(MAX(len, 1))) == NULL)
		goto give_filter;
	if (index_add(&rib->by_fp, cut->fp, i) < 0)
		goto free_text;
	if (cut->shape != FIB_SHAPE_NONE) {
		if ((f->group = group_make(rib, cut)) == 0)
			goto del_index;
		g = group_at(rib, f->group);
		f->next = g->head;
		if (f->next != 0)
			filter_at(rib, f->next)->prev = i;
		g->head = i;
		g->filters++;
		if (g->state == GROUP_WIDE)
			rib->widened_filters++;
		f->own = g->state == GROUP_INSTALLED ||
		    group_has_job(rib, g, JOB_FILL);
		a = anchor_at(rib, g->anchor);
		*new_anchor = g->filters == 1 ||
		    (a->levels & fib_levels(cut->anchor_levels)) == 0;
		a->levels |= fib_levels(cut->anchor_levels);
	} else
		f->own = true;
	memcpy(f->text, text, len);
	f->len = (uint32_t)len;
	f->fp = cut->fp;
	f->anchor_len = cut->anchor_len;
	f->anchor_levels = cut->anchor_levels & 0x7fffffff;
	rib->text_bytes += len;
	return i;

del_index:
	index_del(&rib->by_fp, cut->fp, i);
free_text:
	free(f->text);
give_filter:
	pool_give(&rib->filters, i);
	return 0;
}

static void
filter_unmake(struct rib *rib, uint32_t i)
{
	struct filter	*f = filter_at(rib, i);
	uint32_t	 group = f->group;
	uint64_t	 fp = f->fp;
	bool		 own = f->own;
	struct group	*g;

	assert(f->shares == 0 && f->rows == 0);
	if (group != 0) {
		g = group_at(rib, group);
		if (g->job != 0 && job_at(rib, g->job)->at == i)
			job_at(rib, g->job)->at = f->next;
		if (f->prev != 0)
			filter_at(rib, f->prev)->next = f->next;
		else
			g->head = f->next;
		if (f->next != 0)
			filter_at(rib, f->next)->prev = f->prev;
		g->filters--;
		if (g->state == GROUP_WIDE)
			rib->widened_filters--;
		if (g->filters == 0)
			group_unmake(rib, group);
	}
	index_del(&rib->by_fp, fp, i);
	rib->text_bytes -= f->len;
	free(f->text);
	pool_give(&rib->filters, i);
	if (own)
		(void)publish(rib, fp);
}

/* --- Watching -------------------------------------------------------- */

/* What the owners of this kind have of a filter, or of a share of it. */
static void
look(const struct rib *rib, enum fib_kind kind, const struct filter *f,
    const struct share *s, struct rib_change *c)
{
	uint32_t	at;

	*c = (struct rib_change){ .kind = kind, .filter = f->text,
	    .len = f->len };
	if (s == NULL) {
		for (at = f->rows; at != 0; at = row_at(rib, at)->next)
			c->owners += rib->owners[row_at(rib, at)->owner].
			    dest.kind == kind;
		return;
	}
	c->name = s->name;
	c->nlen = s->nlen;
	for (at = s->rows; at != 0; at = srow_at(rib, at)->next) {
		if (rib->owners[srow_at(rib, at)->owner].dest.kind != kind)
			continue;
		c->owners++;
		c->first += srow_at(rib, at)->members & UINT16_MAX;
		c->second += srow_at(rib, at)->members >> 16;
	}
}

static void
tell(struct rib *rib, unsigned owner, const struct filter *f,
    const struct share *s)
{
	enum fib_kind	  kind = rib->owners[owner].dest.kind;
	struct rib_change c;

	if (LIKELY(rib->changed == NULL) ||
	    (rib->changed_kinds >> kind & 1) == 0)
		return;
	look(rib, kind, f, s, &c);
	c.owner = owner;
	rib->changed(rib->changed_ctx, &c);
}

void
rib_watch(struct rib *rib, unsigned kinds,
    void (*changed)(void *ctx, const struct rib_change *c), void *ctx)
{
	rib->changed = changed;
	rib->changed_ctx = ctx;
	rib->changed_kinds = kinds;
}

static void
row_remove(struct rib *rib, uint32_t i)
{
	struct row	*r = row_at(rib, i), *p;
	struct filter	*f = filter_at(rib, r->filter);
	struct owner	*o = &rib->owners[r->owner];
	uint32_t	 filter = r->filter, owner = r->owner, at;
	struct group	*g;
	struct anchor	*a;

	if (f->rows == i)
		f->rows = r->next;
	else {
		for (at = f->rows; (p = row_at(rib, at))->next != i;
		    at = p->next)
			;
		p->next = r->next;
	}
	if (o->sweep == i)
		o->sweep = r->onext;
	if (r->oprev != 0)
		row_at(rib, r->oprev)->onext = r->onext;
	else
		o->rows = r->onext;
	if (r->onext != 0)
		row_at(rib, r->onext)->oprev = r->oprev;
	o->nrows--;
	memset(r, 0, sizeof(*r));
	pool_give(&rib->rows, i);
	if (f->group != 0) {
		g = group_at(rib, f->group);
		a = anchor_at(rib, g->anchor);
		g->rows--;
		counts_sub(rib, &g->counts, owner, 1);
		if (group_is_wide(rib, g)) {
			wide_sub(rib, a, owner, 1);
			if (counts_of(&a->wide, owner) == 0) {
				if (!anchor_is_wide(a))
					(void)publish_anchor(rib, a);
				(void)publish(rib, fib_wide(a->fp));
			}
		}
	}
	tell(rib, owner, f, NULL);
	if (f->rows == 0 && f->shares == 0)
		filter_unmake(rib, filter);
	else if (f->own)
		(void)publish(rib, f->fp);
}

/* A row of a filter that is in its group already: into the counts. */
static int
row_count(struct rib *rib, struct filter *f, unsigned owner)
{
	struct group	*g = group_at(rib, f->group);
	struct anchor	*a = anchor_at(rib, g->anchor);
	int		 rc;

	if ((rc = counts_add(rib, &g->counts, owner, 1)) < 0)
		return rc;
	if (group_is_wide(rib, g) && (rc = wide_add(rib, a, owner, 1)) < 0) {
		counts_sub(rib, &g->counts, owner, 1);
		return rc;
	}
	g->rows++;
	return 0;
}

/* A row is new: let readers find it, terminal before anchor. */
static int
row_publish(struct rib *rib, uint32_t filter, unsigned owner, bool new_anchor)
{
	struct filter	*f = filter_at(rib, filter);
	struct group	*g;
	struct anchor	*a;
	int		 rc;

	if (f->group == 0)
		return publish(rib, f->fp);
	g = group_at(rib, f->group);
	a = anchor_at(rib, g->anchor);
	if (g->rows == 1 && (rc = group_place(rib, f->group)) < 0)
		return rc;
	if (f->own && (rc = publish(rib, f->fp)) < 0)
		return rc;
	if (group_is_wide(rib, g) && counts_of(&a->wide, owner) == 1 &&
	    (rc = publish(rib, fib_wide(a->fp))) < 0)
		return rc;
	if (new_anchor && (rc = publish_anchor(rib, a)) < 0)
		return rc;
	if (g->state == GROUP_WIDE)
		group_grown(rib, f->group);
	return 0;
}

int
rib_add(struct rib *rib, unsigned owner, const void *text, size_t len,
    uint8_t qos)
{
	struct owner	*o;
	struct filter	*f;
	struct row	*r;
	struct fib_cut	 cut;
	uint32_t	 filter, i;
	bool		 first = false, new_anchor = false;
	int		 rc = ERR_NOMEM;

	if (owner >= OWNERS || rib->owners[owner].dest.kind == FIB_NONE ||
	    len > TOPIC_MAX)
		return ERR_INVAL;
	o = &rib->owners[owner];
	fib_cut(&rib->key, text, len, &cut);
	filter = filter_find(rib, cut.fp, text, len);
	if (filter != 0 &&
	    (i = row_find(rib, filter_at(rib, filter), owner)) != 0) {
		row_at(rib, i)->qos = qos;
		row_at(rib, i)->mark = o->mark;
		return 0;
	}
	if (rib->routes_max > 0 && (uint64_t)rib->rows.used +
	    rib->srows.used >= rib->routes_max)
		return ERR_FULL;
	if (filter == 0) {
		if ((filter = filter_make(rib, &cut, text, len,
		    &new_anchor)) == 0)
			return ERR_NOMEM;
		first = true;
	}
	f = filter_at(rib, filter);
	if ((i = pool_take(&rib->rows)) == 0)
		goto unmake_filter;
	if (f->group != 0 && (rc = row_count(rib, f, owner)) < 0)
		goto give_row;
	r = row_at(rib, i);
	r->filter = filter;
	r->owner = (uint16_t)owner;
	r->qos = qos;
	r->mark = o->mark;
	r->next = f->rows;
	f->rows = i;
	r->onext = o->rows;
	if (r->onext != 0)
		row_at(rib, r->onext)->oprev = i;
	o->rows = i;
	o->nrows++;
	if ((rc = row_publish(rib, filter, owner, new_anchor)) < 0) {
		row_remove(rib, i);
		return rc;
	}
	tell(rib, owner, filter_at(rib, filter), NULL);
	return 0;

give_row:
	pool_give(&rib->rows, i);
unmake_filter:
	if (first)
		filter_unmake(rib, filter);
	return rc;
}

int
rib_del(struct rib *rib, unsigned owner, const void *text, size_t len)
{
	struct fib_cut	 cut;
	uint32_t	 filter, i;

	if (owner >= OWNERS || len > TOPIC_MAX)
		return ERR_NOTFOUND;
	fib_cut(&rib->key, text, len, &cut);
	if ((filter = filter_find(rib, cut.fp, text, len)) == 0 ||
	    (i = row_find(rib, filter_at(rib, filter), owner)) == 0)
		return ERR_NOTFOUND;
	row_remove(rib, i);
	return 0;
}

/* --- Shares ---------------------------------------------------------- */

/* The record of all shares at this filter's shape, made if need be; 0: none,
 * for want of memory or of a wildcard. */
static struct shared *
shared_of(struct rib *rib, const struct filter *f, bool make)
{
	struct group	*g;
	struct shared	*d;

	if (f->group == 0)
		return NULL;
	g = group_at(rib, f->group);
	if (g->shared == 0) {
		if (!make || (g->shared = pool_take(&rib->shareds)) == 0)
			return NULL;
		d = shared_at(rib, g->shared);
		d->wide = group_is_wide(rib, g);
	}
	return shared_at(rib, g->shared);
}

static void
shared_drop(struct rib *rib, const struct filter *f)
{
	struct group	*g;

	if (f->group == 0 || (g = group_at(rib, f->group))->shared == 0 ||
	    shared_at(rib, g->shared)->n > 0)
		return;
	counts_fini(rib, &shared_at(rib, g->shared)->counts);
	pool_give(&rib->shareds, g->shared);
	g->shared = 0;
}

static uint32_t
share_make(struct rib *rib, uint32_t filter, const void *name, size_t nlen,
    uint64_t hi, uint64_t lo)
{
	struct filter	*f = filter_at(rib, filter);
	struct shared	*d = shared_of(rib, f, true);
	struct share	*s;
	uint32_t	 i;

	if (f->group != 0 && d == NULL)
		return 0;
	if ((i = pool_take(&rib->shares)) == 0)
		goto drop_shared;
	s = share_at(rib, i);
	if ((s->name = malloc(MAX(nlen, 1))) == NULL)
		goto give_share;
	if (index_add(&rib->by_id, id_hash_of(rib, hi, lo), i) < 0)
		goto free_name;
	memcpy(s->name, name, nlen);
	s->nlen = (uint32_t)nlen;
	s->hi = hi;
	s->lo = lo;
	s->filter = filter;
	s->next = f->shares;
	f->shares = i;
	if (d != NULL) {
		s->snext = d->head;
		if (s->snext != 0)
			share_at(rib, s->snext)->sprev = i;
		d->head = i;
		d->n++;
		if (d->wide)
			anchor_at(rib, group_at(rib,
			    f->group)->anchor)->wide_shares++;
	}
	rib->text_bytes += nlen;
	return i;

free_name:
	free(s->name);
give_share:
	pool_give(&rib->shares, i);
drop_shared:
	shared_drop(rib, f);
	return 0;
}

/* The last row is out of it. Readers find it no more when this returns. */
static void
share_unmake(struct rib *rib, uint32_t i)
{
	struct share	*s = share_at(rib, i);
	struct filter	*f = filter_at(rib, s->filter);
	struct shared	*d = shared_of(rib, f, false);
	struct anchor	*a = NULL;
	uint32_t	*at;

	(void)publish_share(rib, s);
	for (at = &f->shares; *at != i; at = &share_at(rib, *at)->next)
		;
	*at = s->next;
	if (d != NULL) {
		if (s->sprev != 0)
			share_at(rib, s->sprev)->snext = s->snext;
		else
			d->head = s->snext;
		if (s->snext != 0)
			share_at(rib, s->snext)->sprev = s->sprev;
		d->n--;
		if (d->wide)
			a = anchor_at(rib, group_at(rib, f->group)->anchor);
	}
	index_del(&rib->by_id, id_hash_of(rib, s->hi, s->lo), i);
	rib->text_bytes -= s->nlen;
	free(s->name);
	pool_give(&rib->shares, i);
	shared_drop(rib, f);
	if (a != NULL && --a->wide_shares == 0 && !anchor_is_wide(a))
		(void)publish_anchor(rib, a);
}

static void
srow_remove(struct rib *rib, uint32_t i)
{
	struct srow	*r = srow_at(rib, i);
	struct share	*s = share_at(rib, r->share);
	struct filter	*f = filter_at(rib, s->filter);
	struct owner	*o = &rib->owners[r->owner];
	struct shared	*d = shared_of(rib, f, false);
	uint32_t	 share = r->share, filter = s->filter, *at;
	unsigned	 owner = r->owner;

	for (at = &s->rows; *at != i; at = &srow_at(rib, *at)->next)
		;
	*at = r->next;
	if (o->ssweep == i)
		o->ssweep = r->onext;
	if (r->oprev != 0)
		srow_at(rib, r->oprev)->onext = r->onext;
	else
		o->srows = r->onext;
	if (r->onext != 0)
		srow_at(rib, r->onext)->oprev = r->oprev;
	o->nrows--;
	if (d != NULL) {
		counts_sub(rib, &d->counts, r->owner, 1);
		group_at(rib, f->group)->rows--;
	}
	pool_give(&rib->srows, i);
	tell(rib, owner, f, s);
	if (s->rows != 0)
		(void)publish_share(rib, s);	/* fewer: it cannot fail */
	else
		share_unmake(rib, share);
	if (f->rows == 0 && f->shares == 0)
		filter_unmake(rib, filter);
}

/* A row of a share is new: let readers find it, terminal before anchor. */
static int
srow_publish(struct rib *rib, uint32_t share, bool new_anchor)
{
	struct share	*s = share_at(rib, share);
	struct filter	*f = filter_at(rib, s->filter);
	struct group	*g;
	int		 rc;

	if (f->group == 0)
		return publish_share(rib, s);
	g = group_at(rib, f->group);
	if (g->rows == 1 && (rc = group_place(rib, f->group)) < 0)
		return rc;
	if ((rc = publish_share(rib, s)) < 0)
		return rc;
	if (new_anchor &&
	    (rc = publish_anchor(rib, anchor_at(rib, g->anchor))) < 0)
		return rc;
	if (g->state == GROUP_WIDE)
		group_grown(rib, f->group);
	return 0;
}

static int
srow_add(struct rib *rib, unsigned owner, uint32_t share, uint32_t members,
    bool new_anchor)
{
	struct share	*s = share_at(rib, share);
	struct filter	*f = filter_at(rib, s->filter);
	struct owner	*o = &rib->owners[owner];
	struct shared	*d = shared_of(rib, f, false);
	struct srow	*r;
	uint32_t	 i;
	int		 rc;

	if ((i = pool_take(&rib->srows)) == 0)
		return ERR_NOMEM;
	if (d != NULL) {
		if ((rc = counts_add(rib, &d->counts, owner, 1)) < 0) {
			pool_give(&rib->srows, i);
			return rc;
		}
		group_at(rib, f->group)->rows++;
	}
	r = srow_at(rib, i);
	*r = (struct srow){ .next = s->rows, .share = share,
	    .onext = o->srows, .members = members, .owner = (uint16_t)owner,
	    .mark = o->mark };
	s->rows = i;
	if (r->onext != 0)
		srow_at(rib, r->onext)->oprev = i;
	o->srows = i;
	o->nrows++;
	if ((rc = srow_publish(rib, share, new_anchor)) == 0) {
		tell(rib, owner, f, s);
		return 0;
	}
	/* The caller lets go of a share and a filter that are empty. */
	s->rows = r->next;
	o->srows = r->onext;
	if (o->srows != 0)
		srow_at(rib, o->srows)->oprev = 0;
	o->nrows--;
	if (d != NULL) {
		counts_sub(rib, &d->counts, owner, 1);
		group_at(rib, f->group)->rows--;
	}
	pool_give(&rib->srows, i);
	if (s->rows != 0)
		(void)publish_share(rib, s);
	return rc;
}

static int
srow_change(struct rib *rib, uint32_t i, uint32_t members)
{
	struct srow	*r = srow_at(rib, i);
	struct share	*s = share_at(rib, r->share);
	uint32_t	 was = r->members;
	int		 rc;

	r->mark = rib->owners[r->owner].mark;
	if (members == was)
		return 0;
	r->members = members;
	if ((rc = publish_share(rib, s)) < 0)
		r->members = was;
	else
		tell(rib, r->owner, filter_at(rib, s->filter), s);
	return rc;
}

int
rib_group(struct rib *rib, unsigned owner, const void *text, size_t len,
    const void *name, size_t nlen, uint32_t members)
{
	struct fib_cut	 cut;
	struct group_id	 id;
	uint64_t	 hi, lo;
	uint32_t	 filter, share = 0, i = 0;
	bool		 new_anchor = false;
	int		 rc = ERR_NOMEM;

	if (owner >= OWNERS || rib->owners[owner].dest.kind == FIB_NONE ||
	    len > TOPIC_MAX || nlen > TOPIC_MAX)
		return ERR_INVAL;
	fib_cut(&rib->key, text, len, &cut);
	id = group_id_of(name, nlen, text, len);
	hi = id.hi;
	lo = id.lo;
	if ((filter = filter_find(rib, cut.fp, text, len)) != 0 &&
	    (share = share_find(rib, filter, name, nlen, hi, lo)) != 0)
		i = srow_find(rib, share_at(rib, share), owner);
	if (i == 0 && members == 0)
		return ERR_NOTFOUND;
	if (members == 0) {
		srow_remove(rib, i);
		return 0;
	}
	if (i != 0)
		return srow_change(rib, i, members);
	if (rib->routes_max > 0 && (uint64_t)rib->rows.used +
	    rib->srows.used >= rib->routes_max)
		return ERR_FULL;
	if (filter == 0 && (filter = filter_make(rib, &cut, text, len,
	    &new_anchor)) == 0)
		return ERR_NOMEM;
	if (share == 0)
		share = share_make(rib, filter, name, nlen, hi, lo);
	if (share != 0 && (rc = srow_add(rib, owner, share, members,
	    new_anchor)) == 0)
		return 0;
	if (share != 0 && share_at(rib, share)->rows == 0)
		share_unmake(rib, share);
	if (filter_at(rib, filter)->rows == 0 &&
	    filter_at(rib, filter)->shares == 0)
		filter_unmake(rib, filter);
	return rc;
}

void
rib_look(const struct rib *rib, enum fib_kind kind, const void *text,
    size_t len, const void *name, size_t nlen, struct rib_change *out)
{
	struct fib_cut	 cut;
	struct group_id	 id;
	uint32_t	 filter, share;

	*out = (struct rib_change){ .kind = kind, .filter = text, .len = len,
	    .name = name, .nlen = nlen };
	fib_cut(&rib->key, text, len, &cut);
	if ((filter = filter_find(rib, cut.fp, text, len)) == 0)
		return;
	if (name == NULL) {
		look(rib, kind, filter_at(rib, filter), NULL, out);
		return;
	}
	id = group_id_of(name, nlen, text, len);
	if ((share = share_find(rib, filter, name, nlen, id.hi, id.lo)) != 0)
		look(rib, kind, filter_at(rib, filter), share_at(rib, share),
		    out);
}

/* --- Jobs, a slice at a time ----------------------------------------- */

/* True if the job has ended or goes on as another. */
static bool
job_step(struct rib *rib, uint32_t i, size_t *budget)
{
	struct job	*j = job_at(rib, i);
	struct filter	*f;
	bool		 own = j->kind == JOB_FILL;

	if (j->kind == JOB_UNWIDE) {
		uint32_t group = j->group;

		job_end(rib, i);
		group_leave_wide(rib, group_at(rib, group));
		return true;
	}
	for (; j->at != 0 && *budget > 0; --*budget) {
		f = filter_at(rib, j->at);
		if (f->own != own) {
			f->own = own;
			if (publish_filter(rib, f) < 0 && own) {
				f->own = false;
				(void)publish_filter(rib, f);
				return false;	/* another turn */
			}
		}
		j->at = f->next;
	}
	if (j->at != 0)
		return false;
	if (j->kind == JOB_FILL)
		return group_narrowed(rib, j->group) == 0;
	job_end(rib, i);
	return true;
}

int
rib_tidy(struct rib *rib, size_t budget)
{
	uint32_t	i, next;
	size_t		had;

	for (i = rib->job_first; i != 0 && budget > 0; i = next) {
		next = job_at(rib, i)->next;
		if (job_waits(rib, job_at(rib, i)))
			continue;
		had = budget;
		(void)job_step(rib, i, &budget);
		if (budget == had)
			budget--;
	}
	return i != 0 && budget == 0;
}

/* --- Forwarding indexes ---------------------------------------------- */

int
rib_attach(struct rib *rib, struct fib_writer *w)
{
	const struct fib_key *key = fib_writer_key(w);
	struct owner	*o;
	unsigned	 f, i, slot;
	uint32_t	 j;
	int		 rc;

	if (key->k0 != rib->key.k0 || key->k1 != rib->key.k1 ||
	    key->bits != rib->key.bits)
		return ERR_INVAL;
	for (f = 0; f < FIBS && rib->fibs[f].w != NULL; f++)
		;
	if (f == FIBS)
		return ERR_FULL;
	for (i = 0; i < OWNERS; i++) {
		o = &rib->owners[i];
		if (o->dest.kind == FIB_NONE)
			continue;
		if ((rc = fib_dest_open(w, &o->dest, &slot)) < 0)
			goto close_dests;
		o->slot[f] = (uint16_t)slot;
	}
	for (j = rib->job_first; j != 0; j = job_at(rib, j)->next)
		job_at(rib, j)->ticket[f] = 0;
	rib->fibs[f] = (struct attached){ w, 0, rib->filters.used > 0 };
	return 0;

close_dests:
	while (i-- > 0)
		if (rib->owners[i].dest.kind != FIB_NONE)
			fib_dest_close(w, rib->owners[i].slot[f]);
	return rc;
}

void
rib_detach(struct rib *rib, struct fib_writer *w)
{
	unsigned f;

	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w == w)
			rib->fibs[f] = (struct attached){ 0 };
}

static int
fill_one(struct rib *rib, unsigned fib, uint32_t i)
{
	struct filter	*f = filter_at(rib, i);
	struct group	*g;
	struct anchor	*a;
	struct share	*s;
	uint32_t	 k;
	int		 rc;

	if (f->text == NULL)
		return 0;
	if (f->own && (rc = publish_to(rib, fib, f->fp)) < 0)
		return rc;
	for (k = f->own ? f->shares : 0; k != 0; k = s->next) {
		s = share_at(rib, k);
		if ((rc = publish_group_to(rib, fib, f->fp, s->hi, s->lo)) < 0)
			return rc;
	}
	if (f->group == 0 || (g = group_at(rib, f->group))->head != i)
		return 0;
	a = anchor_at(rib, g->anchor);
	if (a->wide.n > 0 &&
	    (rc = publish_to(rib, fib, fib_wide(a->fp))) < 0)
		return rc;
	if (share_is_wide(rib, f))
		for (k = shared_at(rib, g->shared)->head; k != 0;
		    k = s->snext) {
			s = share_at(rib, k);
			if ((rc = publish_group_to(rib, fib, fib_wide(a->fp),
			    s->hi, s->lo)) < 0)
				return rc;
		}
	return publish_anchor_to(rib, fib, a);
}

/*
 * A group's anchor is put in with its first filter, and may list a shape
 * before all of its terminals are in; nobody reads this fib yet.
 */
int
rib_fill(struct rib *rib, struct fib_writer *w, size_t budget)
{
	struct attached	*att = NULL;
	unsigned	 f;
	int		 rc;

	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w == w) {
			att = &rib->fibs[f];
			break;
		}
	if (att == NULL)
		return ERR_NOTFOUND;
	for (; att->filling && budget > 0; budget--) {
		if (att->filled == rib->filters.n) {
			att->filling = false;
			break;
		}
		if ((rc = fill_one(rib, f, att->filled + 1)) < 0)
			return rc;
		att->filled++;
	}
	return att->filling ? 1 : 0;
}

/* --- Owners ---------------------------------------------------------- */

static struct owner *
owner_at(const struct rib *rib, unsigned i)
{
	return i < OWNERS && rib->owners[i].dest.kind != FIB_NONE ?
	    &rib->owners[i] : NULL;
}

int
rib_owner_open(struct rib *rib, const struct fib_slot *d, unsigned *owner)
{
	struct owner	*o;
	unsigned	 i, f, slot;
	int		 rc;

	if (d->kind == FIB_NONE)
		return ERR_INVAL;
	for (i = 0; i < OWNERS && rib->owners[i].dest.kind != FIB_NONE; i++)
		;
	if (i == OWNERS)
		return ERR_FULL;
	o = &rib->owners[i];
	*o = (struct owner){ 0 };
	for (f = 0; f < FIBS; f++) {
		if (rib->fibs[f].w == NULL)
			continue;
		if ((rc = fib_dest_open(rib->fibs[f].w, d, &slot)) < 0)
			goto close_dests;
		o->slot[f] = (uint16_t)slot;
	}
	o->dest = *d;
	rib->nowners++;
	*owner = i;
	return 0;

close_dests:
	while (f-- > 0)
		if (rib->fibs[f].w != NULL)
			fib_dest_close(rib->fibs[f].w, o->slot[f]);
	return rc;
}

void
rib_owner_set(struct rib *rib, unsigned owner, enum fib_state state,
    uint64_t incarnation)
{
	struct owner	*o = owner_at(rib, owner);
	unsigned	 f;

	if (o == NULL)
		return;
	o->dest.state = state;
	o->dest.incarnation = incarnation;
	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w != NULL)
			fib_dest_set(rib->fibs[f].w, o->slot[f], state,
			    incarnation);
}

int
rib_owner_clear(struct rib *rib, unsigned owner, size_t budget)
{
	struct owner	*o = owner_at(rib, owner);

	if (o == NULL)
		return 0;
	for (; o->rows != 0 && budget > 0; budget--)
		row_remove(rib, o->rows);
	for (; o->srows != 0 && budget > 0; budget--)
		srow_remove(rib, o->srows);
	return o->rows != 0 || o->srows != 0;
}

void
rib_owner_close(struct rib *rib, unsigned owner)
{
	struct owner	*o = owner_at(rib, owner);
	unsigned	 f;

	if (o == NULL)
		return;
	(void)rib_owner_clear(rib, owner, SIZE_MAX);
	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w != NULL)
			fib_dest_close(rib->fibs[f].w, o->slot[f]);
	*o = (struct owner){ 0 };
	rib->nowners--;
}

void
rib_owner_mark(struct rib *rib, unsigned owner)
{
	struct owner	*o = owner_at(rib, owner);

	if (o != NULL) {
		o->mark++;	/* the last one may never have been swept */
		o->sweep = o->ssweep = 0;
		o->sweeping = false;
	}
}

/* New rows are put in front with the owner's mark, so one walk from the front
 * as it is at the first call meets all old ones. */
int
rib_owner_sweep(struct rib *rib, unsigned owner, size_t budget)
{
	struct owner	*o = owner_at(rib, owner);
	uint32_t	 i;

	if (o == NULL)
		return 0;
	if (!o->sweeping) {
		o->sweep = o->rows;
		o->ssweep = o->srows;
		o->sweeping = true;
	}
	for (; (i = o->sweep) != 0 && budget > 0; budget--) {
		o->sweep = row_at(rib, i)->onext;
		if (row_at(rib, i)->mark != o->mark)
			row_remove(rib, i);
	}
	for (; (i = o->ssweep) != 0 && budget > 0; budget--) {
		o->ssweep = srow_at(rib, i)->onext;
		if (srow_at(rib, i)->mark != o->mark)
			srow_remove(rib, i);
	}
	o->sweeping = o->sweep != 0 || o->ssweep != 0;
	return o->sweeping;
}

int
rib_owner_slot(const struct rib *rib, unsigned owner,
    const struct fib_writer *w, unsigned *slot)
{
	const struct owner *o = owner_at(rib, owner);
	unsigned	 f;

	if (o == NULL || w == NULL)
		return ERR_NOTFOUND;
	for (f = 0; f < FIBS; f++)
		if (rib->fibs[f].w == w) {
			*slot = o->slot[f];
			return 0;
		}
	return ERR_NOTFOUND;
}

uint64_t
rib_owner_routes(const struct rib *rib, unsigned owner)
{
	const struct owner *o = owner_at(rib, owner);

	return o == NULL ? 0 : o->nrows;
}

/* --- Questions ------------------------------------------------------- */

typedef bool row_fn(void *ctx, const struct rib_row *row);

static bool
row_tell(struct rib *rib, const struct filter *f, const struct row *r,
    row_fn *fn, void *ctx)
{
	struct rib_row	row = {
		.filter = f->text, .len = f->len, .owner = r->owner,
		.qos = r->qos, .anchor_len = f->anchor_len,
		.wild = f->group != 0,
		.widened = f->group != 0 &&
		    group_at(rib, f->group)->state == GROUP_WIDE,
	};

	return fn(ctx, &row);
}

static bool
srow_tell(struct rib *rib, const struct srow *r, row_fn *fn, void *ctx)
{
	const struct share *s = share_at(rib, r->share);
	const struct filter *f = filter_at(rib, s->filter);
	struct rib_row	row = {
		.filter = f->text, .len = f->len, .owner = r->owner,
		.anchor_len = f->anchor_len, .wild = f->group != 0,
		.widened = f->group != 0 &&
		    group_at(rib, f->group)->state == GROUP_WIDE,
		.name = s->name, .nlen = s->nlen, .members = r->members,
	};

	return fn(ctx, &row);
}

/* Every row of a filter; false: fn has had enough. */
static bool
filter_tell(struct rib *rib, const struct filter *f, row_fn *fn, void *ctx)
{
	uint32_t i, k;

	for (i = f->rows; i != 0; i = row_at(rib, i)->next)
		if (!row_tell(rib, f, row_at(rib, i), fn, ctx))
			return false;
	for (i = f->shares; i != 0; i = share_at(rib, i)->next)
		for (k = share_at(rib, i)->rows; k != 0;
		    k = srow_at(rib, k)->next)
			if (!srow_tell(rib, srow_at(rib, k), fn, ctx))
				return false;
	return true;
}

/* The rows of one owner by their numbers; those of shares, whose cursors have
 * this bit, after the others. */
#define CURSOR_SHARES	((uint64_t)1 << 63)

static int
list_owner(struct rib *rib, unsigned owner, uint64_t *cursor, size_t budget,
    row_fn *fn, void *ctx)
{
	struct row	*r;
	struct srow	*s;

	for (; *cursor < rib->rows.n && budget > 0; ++*cursor, budget--) {
		r = row_at(rib, (uint32_t)*cursor + 1);
		if (r->filter != 0 && r->owner == owner &&
		    !row_tell(rib, filter_at(rib, r->filter), r, fn, ctx))
			return 1;
	}
	if (*cursor < rib->rows.n)
		return 1;
	if ((*cursor & CURSOR_SHARES) == 0)
		*cursor = CURSOR_SHARES;
	for (; (*cursor & ~CURSOR_SHARES) < rib->srows.n && budget > 0;
	    ++*cursor, budget--) {
		s = srow_at(rib, (uint32_t)*cursor + 1);
		if (s->share != 0 && s->owner == owner &&
		    !srow_tell(rib, s, fn, ctx))
			return 1;
	}
	return (*cursor & ~CURSOR_SHARES) < rib->srows.n;
}

int
rib_list(struct rib *rib, int owner, uint64_t *cursor, size_t budget,
    row_fn *fn, void *ctx)
{
	struct filter	*f;

	if (owner >= 0)
		return list_owner(rib, (unsigned)owner, cursor, budget, fn,
		    ctx);
	for (; *cursor < rib->filters.n && budget > 0; ++*cursor, budget--) {
		f = filter_at(rib, (uint32_t)*cursor + 1);
		if (f->text != NULL && !filter_tell(rib, f, fn, ctx))
			return 1;
	}
	return *cursor < rib->filters.n;
}

int
rib_group_find(const struct rib *rib, uint64_t id_hi, uint64_t id_lo,
    struct rib_row *out)
{
	uint64_t	 hash = id_hash_of(rib, id_hi, id_lo);
	struct index_walk walk;
	const struct filter *f;
	struct share	*s;
	uint32_t	 i;

	for (i = index_first(&rib->by_id, hash, &walk); i != 0;
	    i = index_next(&rib->by_id, &walk)) {
		s = share_at(rib, i);
		if (s->hi != id_hi || s->lo != id_lo)
			continue;
		f = filter_at(rib, s->filter);
		*out = (struct rib_row){ .filter = f->text, .len = f->len,
		    .name = s->name, .nlen = s->nlen };
		return 0;
	}
	return ERR_NOTFOUND;
}

struct matching {
	struct rib	*rib;
	const uint8_t	*topic;
	size_t		 len, given, limit;
	row_fn		*fn;
	void		*ctx;
	bool		 stop;
};

static bool
match_row(void *ctx, const struct rib_row *row)
{
	struct matching	*m = ctx;

	if (m->given++ == m->limit || !m->fn(m->ctx, row))
		m->stop = true;
	return !m->stop;
}

static void
match_filter(struct matching *m, const struct filter *f)
{
	(void)filter_tell(m->rib, f, match_row, m);
}

/* All filters of this fingerprint, group (0: none) and anchor that do match. */
static void
match_fp(struct matching *m, uint64_t fp, uint32_t group, unsigned level)
{
	struct index_walk walk;
	struct filter	*f;
	uint32_t	 i;

	for (i = index_first(&m->rib->by_fp, fp, &walk); i != 0 && !m->stop;
	    i = index_next(&m->rib->by_fp, &walk)) {
		f = filter_at(m->rib, i);
		if (f->fp == fp && f->group == group &&
		    f->anchor_levels == level &&
		    topic_matches(f->text, f->len, m->topic, m->len))
			match_filter(m, f);
	}
}

struct levels {
	uint64_t	*hash;
	struct sip	*state;
	unsigned	 n;
};

static void
match_group(struct matching *m, uint32_t i, const struct levels *l,
    unsigned level)
{
	struct group	*g = group_at(m->rib, i);
	unsigned	 n = shape_levels(g->shape), left = l->n - level, k;
	uint32_t	 f;
	struct sip	 s;

	if (g->shape == FIB_SHAPE_DEEP) {
		for (f = g->head; f != 0 && !m->stop;
		    f = filter_at(m->rib, f)->next)
			if (filter_at(m->rib, f)->anchor_levels == level &&
			    topic_matches(filter_at(m->rib, f)->text,
			    filter_at(m->rib, f)->len, m->topic, m->len))
				match_filter(m, filter_at(m->rib, f));
		return;
	}
	if (n > left || (n < left && !shape_hash(g->shape)))
		return;
	if (n == 0) {
		match_fp(m, fib_wide(anchor_at(m->rib, g->anchor)->fp), i,
		    level);
		return;
	}
	s = l->state[level];
	for (k = 0; k < n; k++)
		sip_word(&s, shape_plus(g->shape, k) ? FIB_PLUS :
		    l->hash[level + k]);
	match_fp(m, prefix_terminal(&s, prefix_mask(&m->rib->key),
	    shape_hash(g->shape)), i, level);
}

static void
match_levels(struct matching *m, const struct levels *l)
{
	uint64_t	 mask = prefix_mask(&m->rib->key);
	unsigned	 level = m->len > 0 && m->topic[0] == '$';
	uint32_t	 a, i;

	match_fp(m, prefix_terminal(&l->state[l->n], mask, false), 0, 0);
	for (; level <= l->n && !m->stop; level++) {
		a = anchor_find(m->rib, prefix_anchor(&l->state[level], mask));
		if (a == 0)
			continue;
		for (i = anchor_at(m->rib, a)->installed; i != 0 && !m->stop;
		    i = group_at(m->rib, i)->next)
			match_group(m, i, l, level);
		for (i = anchor_at(m->rib, a)->widened; i != 0 && !m->stop;
		    i = group_at(m->rib, i)->next)
			match_group(m, i, l, level);
	}
}

size_t
rib_match(struct rib *rib, const void *topic, size_t len, size_t limit,
    row_fn *fn, void *ctx)
{
	struct matching	 m = { rib, topic, len, 0, limit, fn, ctx, false };
	const uint8_t	*p = topic, *end = p + len, *q = p;
	struct levels	 l = { 0 };
	unsigned	 room;

	if (len > TOPIC_MAX)
		return 0;
	room = topic_levels(topic, len) + 1;
	l.hash = malloc(room * sizeof(*l.hash));
	l.state = malloc((room + 1) * sizeof(*l.state));
	if (l.hash == NULL || l.state == NULL)
		goto free_levels;
	prefix_init(&l.state[0], &rib->key);
	for (;; p = ++q) {
		while (q < end && *q != '/')
			q++;
		l.hash[l.n] = sip_bytes(rib->key.k0, rib->key.k1, p,
		    (size_t)(q - p));
		l.state[l.n + 1] = l.state[l.n];
		sip_word(&l.state[l.n + 1], l.hash[l.n]);
		l.n++;
		if (q == end)
			break;
	}
	match_levels(&m, &l);
free_levels:
	free(l.hash);
	free(l.state);
	return m.given;
}

int
rib_anchors(struct rib *rib, uint64_t *cursor, size_t budget, unsigned min,
    void (*each)(void *ctx, const struct rib_anchor *a), void *ctx)
{
	struct rib_anchor	 out;
	struct anchor		*a;
	struct filter		*f;
	uint32_t		 head;

	for (; *cursor < rib->anchors.n && budget > 0; ++*cursor, budget--) {
		a = anchor_at(rib, (uint32_t)*cursor + 1);
		/* One that is free has none. */
		out.shapes = a->ninstalled + a->nwidened + (a->hash != 0);
		out.widened = a->nwidened;
		if (out.shapes < min)
			continue;
		head = group_at(rib, a->installed != 0 ? a->installed :
		    a->widened)->head;
		f = filter_at(rib, head);
		out.text = out.filter = f->text;
		out.len = f->anchor_len;
		out.filter_len = f->len;
		each(ctx, &out);
	}
	return *cursor < rib->anchors.n;
}

void
rib_stats(const struct rib *rib, struct rib_stats *out)
{
	*out = (struct rib_stats){
		.filters = rib->filters.used,
		.routes = (uint64_t)rib->rows.used + rib->srows.used,
		.groups = rib->shares.used, .group_rows = rib->srows.used,
		.owners = rib->nowners, .anchors = rib->anchors.used,
		.shapes = rib->groups.used,
		.widened_shapes = rib->widened_shapes,
		.widened_filters = rib->widened_filters,
		.widenings = rib->widenings, .narrowings = rib->narrowings,
		.bytes = rib->text_bytes + rib->count_bytes +
		    rib->by_fp.bytes + rib->by_shape.bytes +
		    rib->by_anchor.bytes + rib->by_id.bytes + POOL_CHUNK *
		    (rib->filters.nchunks * rib->filters.item +
		    rib->rows.nchunks * rib->rows.item +
		    rib->groups.nchunks * rib->groups.item +
		    rib->anchors.nchunks * rib->anchors.item +
		    rib->jobs.nchunks * rib->jobs.item +
		    rib->shares.nchunks * rib->shares.item +
		    rib->srows.nchunks * rib->srows.item +
		    rib->shareds.nchunks * rib->shareds.item),
	};
}

int
rib_new(struct rib **out, const struct rib_opts *o)
{
	struct rib *rib;

	if (o->anchor_shapes > 63)
		return ERR_INVAL;
	if ((rib = calloc(1, sizeof(*rib))) == NULL)
		return ERR_NOMEM;
	if ((rib->owners = calloc(OWNERS, sizeof(*rib->owners))) == NULL) {
		free(rib);
		return ERR_NOMEM;
	}
	rib->key = o->key;
	rib->anchor_shapes = o->anchor_shapes ? o->anchor_shapes : 32;
	rib->routes_max = o->routes_max;
	pool_init(&rib->filters, sizeof(struct filter));
	pool_init(&rib->rows, sizeof(struct row));
	pool_init(&rib->groups, sizeof(struct group));
	pool_init(&rib->anchors, sizeof(struct anchor));
	pool_init(&rib->jobs, sizeof(struct job));
	pool_init(&rib->shares, sizeof(struct share));
	pool_init(&rib->srows, sizeof(struct srow));
	pool_init(&rib->shareds, sizeof(struct shared));
	*out = rib;
	return 0;
}

void
rib_free(struct rib **ribp)
{
	struct rib	*rib = *ribp;
	uint32_t	 i;

	if (rib == NULL)
		return;
	for (i = 1; i <= rib->filters.n; i++)
		free(filter_at(rib, i)->text);
	for (i = 1; i <= rib->groups.n; i++)
		counts_fini(rib, &group_at(rib, i)->counts);
	for (i = 1; i <= rib->anchors.n; i++)
		counts_fini(rib, &anchor_at(rib, i)->wide);
	for (i = 1; i <= rib->shares.n; i++)
		free(share_at(rib, i)->name);
	for (i = 1; i <= rib->shareds.n; i++)
		counts_fini(rib, &shared_at(rib, i)->counts);
	pool_fini(&rib->shares);
	pool_fini(&rib->srows);
	pool_fini(&rib->shareds);
	pool_fini(&rib->filters);
	pool_fini(&rib->rows);
	pool_fini(&rib->groups);
	pool_fini(&rib->anchors);
	pool_fini(&rib->jobs);
	index_fini(&rib->by_fp);
	index_fini(&rib->by_shape);
	index_fini(&rib->by_anchor);
	index_fini(&rib->by_id);
	free(rib->owners);
	free(rib);
	*ribp = NULL;
}

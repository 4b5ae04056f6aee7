#include "registrar/registrar.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct claim {
	uint64_t	 x, node, epoch;
	uint64_t	 asked;			/* by the desk, and */
	uint64_t	 serial;		/* by us: answers carry it */
	struct claim_msg found;			/* holders so far */
	struct {
		uint64_t core, deadline_ms;	/* UINT64_MAX: it waits */
	}		 open[REGISTRAR_PEERS];
	unsigned	 nopen;
	bool		 provisional;
	bool		 here;			/* our own answer waits */
};

/* Whose claim is answered when the move of x has ended. */
struct waiter {
	uint64_t	 x, core, node, serial;
};

struct registrar_member {
	uint64_t	 node;
	unsigned	 number;	/* in our rows */
	uint64_t	 told;		/* its last row, */
	uint64_t	 marked;	/* and when the last mark was sent */
	bool		 follows, uploading;
	bool		 known;		/* all cores in reach have its rows */
};

void
registrar_init(struct registrar *r, uint64_t self,
    const struct registrar_ops *ops, void *ctx)
{
	memset(r, 0, sizeof(*r));
	r->self = self;
	r->ops = ops;
	r->ctx = ctx;
	held_init(&r->rows);
	htab_init(&r->claims);
	htab_init(&r->waiters);
	htab_init(&r->nodes);
}

static void *
walk(const struct htab *t, size_t *cell)
{
	void	*p;

	if (t->cells == NULL)
		return NULL;
	while (*cell <= t->mask)
		if ((p = t->cells[(*cell)++].item) != NULL)
			return p;
	return NULL;
}

/* Where a walk goes on that has just removed the item it was given: another one
 * may have moved into its cell, or all into a smaller table. */
static size_t
again(const struct htab *t, size_t mask, size_t cell)
{
	return t->mask == mask ? cell - 1 : 0;
}

static void
empty(struct htab *t)
{
	void	*p;

	for (size_t i = 0; (p = walk(t, &i)) != NULL;)
		free(p);
	htab_fini(t);
}

void
registrar_fini(struct registrar *r)
{
	held_fini(&r->rows);
	empty(&r->claims);
	empty(&r->waiters);
	empty(&r->nodes);
}

static struct claim *
claim_of(const struct registrar *r, uint64_t x)
{
	struct claim	*c;

	for (size_t i = htab_first(&r->claims, x);
	    (c = htab_at(&r->claims, x, &i)) != NULL && c->x != x; i++)
		;
	return c;
}

static struct registrar_member *
member_of(const struct registrar *r, uint64_t node)
{
	struct registrar_member	*n;

	for (size_t i = htab_first(&r->nodes, node);
	    (n = htab_at(&r->nodes, node, &i)) != NULL && n->node != node; i++)
		;
	return n;
}

static void *
add(struct htab *t, uint64_t hash, size_t size)
{
	void	*p = calloc(1, size);

	if (p != NULL && htab_add(t, hash, p) < 0) {
		free(p);
		p = NULL;
	}
	return p;
}

/* Also who has not uploaded: its rows need a number. */
static int
find_or_make_member(struct registrar *r, uint64_t node,
    struct registrar_member **out)
{
	struct registrar_member	*n = member_of(r, node);
	unsigned		 i;

	if (n == NULL) {
		for (i = 0; i < r->nmembers && r->members[i] != NULL; i++)
			;
		if (i == HELD_NODES)
			return ERR_FULL;
		if ((n = add(&r->nodes, node, sizeof(*n))) == NULL)
			return ERR_NOMEM;
		n->node = node;
		n->number = i;
		r->members[i] = n;
		r->nmembers = MAX(r->nmembers, i + 1);
	}
	*out = n;
	return 0;
}

static bool
row_of(const struct registrar *r, uint64_t x, uint64_t node, struct held *w)
{
	const struct registrar_member	*n = member_of(r, node);

	return n != NULL && held_get(&r->rows, x, n->number, w);
}

static struct claim_holder
holder(const struct registrar *r, const struct held *w)
{
	return (struct claim_holder){ r->members[w->node]->node, w->epoch,
		w->flags };
}

static void
drop_claim(struct registrar *r, struct claim *c)
{
	htab_del(&r->claims, c->x, c);
	free(c);
}

static bool
is_moving(const struct registrar *r, uint64_t x, uint64_t but)
{
	struct held	w;

	for (uint32_t at = HELD_FIRST; held_next(&r->rows, x, &at, &w);)
		if (w.flags & CLAIM_MOVING && holder(r, &w).node != but)
			return true;
	return false;
}

/* What we know of x, for a claim of node. */
static void
gather(const struct registrar *r, uint64_t x, uint64_t node,
    struct claim_msg *m)
{
	struct registrar_member	*n;
	struct claim_holder	 h;
	struct held		 w;

	for (uint32_t at = HELD_FIRST; held_next(&r->rows, x, &at, &w);) {
		h = holder(r, &w);
		if (h.node != node)
			claim_add(m, &h);
	}
	for (size_t i = 0; (n = walk(&r->nodes, &i)) != NULL;)
		if (n->follows && n->uploading && n->node != node) {
			h = (struct claim_holder){ n->node, 0, CLAIM_UNSURE };
			claim_add(m, &h);
		}
}

static void
tell_desk(struct registrar *r, const struct claim *c, uint8_t kind)
{
	struct claim_msg	m = { .kind = kind, .x = c->x };

	m.node = c->node;
	m.epoch = c->epoch;
	m.asked = c->asked;
	r->ops->desk(r->ctx, c->node, &m);
}

static void
lose(struct registrar *r, struct claim *c)
{
	r->stats.lost++;
	tell_desk(r, c, CLAIM_LOST);
	drop_claim(r, c);
}

static void
answer(struct registrar *r, uint64_t core, uint64_t x, uint64_t node,
    uint64_t serial)
{
	struct claim_msg	m = { .kind = CLAIM_ANSWER, .x = x };

	m.node = node;
	m.asked = serial;
	gather(r, x, node, &m);
	r->ops->peer(r->ctx, core, &m);
}

static void
ask(struct registrar *r, struct claim *c, uint64_t core, uint64_t now_ms)
{
	struct claim_msg	m = { .kind = CLAIM_CLAIM, .x = c->x };
	unsigned		i;

	for (i = 0; i < c->nopen && c->open[i].core != core; i++)
		;
	if (i == REGISTRAR_PEERS)
		return;
	if (i == c->nopen)
		c->nopen++;
	c->open[i].core = core;
	c->open[i].deadline_ms = now_ms + REGISTRAR_WAIT_MS;
	m.node = c->node;
	m.epoch = c->epoch;
	m.asked = c->serial;
	r->ops->peer(r->ctx, core, &m);
}

static void
ask_all(struct registrar *r, struct claim *c, uint64_t now_ms)
{
	c->nopen = 0;
	c->serial = ++r->serials;
	c->here = is_moving(r, c->x, c->node);
	memset(&c->found, 0, sizeof(c->found));
	for (unsigned i = 0; i < r->npeers; i++)
		ask(r, c, r->peers[i].node, now_ms);
}

static int	put_row(struct registrar *r, uint64_t node,
		    const struct claim_msg *m);

/* Everybody has answered, or had time to. */
static void
decide(struct registrar *r, struct claim *c, uint64_t now_ms)
{
	struct claim_msg	m;
	uint64_t		high = 0;

	if (c->nopen > 0 || c->here)
		return;
	gather(r, c->x, c->node, &c->found);
	for (unsigned i = 0; i < c->found.nholders; i++)
		high = MAX(high, c->found.holders[i].epoch);
	if (high >= c->epoch) {
		/* Clocks: the holder's epoch must be below ours. */
		r->stats.raised++;
		c->epoch = high + 1;
		ask_all(r, c, now_ms);
		decide(r, c, now_ms);
		return;
	}
	m = c->found;
	m.kind = CLAIM_GRANT;
	m.x = c->x;
	m.node = c->node;
	m.epoch = c->epoch;
	m.asked = c->asked;
	m.flags = c->provisional || r->partial ? CLAIM_PROVISIONAL : 0;
	r->stats.granted++;
	r->stats.provisional += m.flags != 0;
	drop_claim(r, c);
	r->ops->desk(r->ctx, m.node, &m);
	/* From here on it is granted: others wait for the end of its move. */
	m.flags = CLAIM_MOVING | CLAIM_CONNECTED;
	put_row(r, m.node, &m);
}

static void
send_row(struct registrar *r, uint64_t core, uint64_t x,
    const struct claim_holder *h)
{
	struct claim_msg	m = { .kind = CLAIM_ROW, .flags = h->flags };

	m.x = x;
	m.node = h->node;
	m.epoch = h->epoch;
	r->ops->peer(r->ctx, core, &m);
}

static void
merge(struct registrar *r, uint64_t x, uint64_t winner,
    const struct claim_holder *loser)
{
	struct claim_msg	m = { .kind = CLAIM_MERGE, .x = x };

	r->stats.conflicts++;
	m.node = winner;
	claim_add(&m, loser);
	r->ops->desk(r->ctx, winner, &m);
}

/* Another node has x, too, as we have just heard from a core, or from a desk
 * (core 0). Who wins is told; if it is not ours, its core hears of ours. */
static void
compare(struct registrar *r, uint64_t core, uint64_t x,
    const struct claim_holder *h)
{
	struct claim_holder	own;
	struct held		w;

	if (h->flags & (CLAIM_MOVING | CLAIM_UNSURE))
		return;
	for (uint32_t at = HELD_FIRST; held_next(&r->rows, x, &at, &w);) {
		own = holder(r, &w);
		if (own.node == h->node || own.flags & CLAIM_MOVING)
			continue;
		if (claim_beats(&own, h))
			merge(r, x, own.node, h);
		else if (core == 0)
			merge(r, x, h->node, &own);
		else
			send_row(r, core, x, &own);
	}
}

/* The move of x may have ended: those who wait for that are answered. unsure:
 * its node went on with it elsewhere. */
static void
moved(struct registrar *r, uint64_t x, uint64_t now_ms)
{
	struct waiter	*w;
	struct claim	*c;

	if (is_moving(r, x, 0))
		return;
	for (;;) {
		size_t	i = htab_first(&r->waiters, x);

		while ((w = htab_at(&r->waiters, x, &i)) != NULL && w->x != x)
			i++;
		if (w == NULL)
			break;
		htab_del(&r->waiters, x, w);
		answer(r, w->core, x, w->node, w->serial);
		free(w);
	}
	if ((c = claim_of(r, x)) != NULL && c->here) {
		c->here = false;
		decide(r, c, now_ms);
	}
}

static int
put_row(struct registrar *r, uint64_t node, const struct claim_msg *m)
{
	struct registrar_member	*n;
	struct held		 w = { .x = m->x, .epoch = m->epoch };
	int			 rc;

	if ((rc = find_or_make_member(r, node, &n)) < 0)
		return rc;
	w.node = (uint16_t)n->number;
	w.flags = m->flags & (uint8_t)~CLAIM_PROVISIONAL;
	return held_put(&r->rows, &w);
}

/* After the last rows: marks to all cores; their echoes confirm the branch. */
static void
mark(struct registrar *r)
{
	struct claim_msg	 m = { .kind = CLAIM_MARK };
	struct registrar_member		*n;

	for (size_t i = 0; (n = walk(&r->nodes, &i)) != NULL;)
		n->marked = n->told;
	r->confirming = true;
	m.asked = ++r->marks;
	for (unsigned i = 0; i < r->npeers; i++) {
		r->peers[i].mark = m.asked;
		r->ops->peer(r->ctx, r->peers[i].node, &m);
	}
}

static void
tell_branch(struct registrar *r, uint8_t kind)
{
	struct claim_msg	 m = { .kind = kind };
	struct registrar_member		*n;

	for (size_t i = 0; (n = walk(&r->nodes, &i)) != NULL;)
		if (n->follows && !n->uploading) {
			m.node = n->node;
			m.asked = n->marked;
			r->ops->desk(r->ctx, n->node, &m);
		}
}

static void
tell_uploaded(struct registrar *r, uint64_t core,
    const struct registrar_member *n)
{
	struct claim_msg	m = { .kind = CLAIM_BRANCH, .node = n->node };

	r->ops->peer(r->ctx, core, &m);
}

static void
confirm(struct registrar *r)
{
	struct registrar_member	*n;

	if (!r->confirming)
		return;
	for (unsigned i = 0; i < r->npeers; i++)
		if (r->peers[i].echoed < r->peers[i].mark)
			return;
	r->confirming = false;
	/* Not before: a claim asked us before the upload, and asks the core it
	 * left after that has forgotten it. Now its core has seen the rows. */
	for (size_t i = 0; (n = walk(&r->nodes, &i)) != NULL;)
		if (n->follows && !n->uploading && !n->known) {
			n->known = true;
			for (unsigned k = 0; k < r->npeers; k++)
				tell_uploaded(r, r->peers[k].node, n);
		}
	tell_branch(r, CLAIM_CONFIRMED);
}

/* It crossed a grant of ours, which the desk will answer. */
static bool
is_outdated(const struct held *w, const struct claim_msg *m)
{
	return !w->stale && m->epoch < w->epoch;
}

static int
desk_row(struct registrar *r, uint64_t node, const struct claim_msg *m,
    uint64_t now_ms)
{
	struct claim_holder	 h = { node, m->epoch, m->flags };
	struct claim		*c = claim_of(r, m->x);
	struct registrar_member		*n = member_of(r, node);
	struct held		 w;
	int			 rc;

	if (n != NULL)
		n->told = m->asked;
	/* It no longer waits for our answer. */
	if (c != NULL && c->node == node && m->flags & CLAIM_MOVING)
		drop_claim(r, c);
	if (row_of(r, m->x, node, &w) && is_outdated(&w, m))
		return 0;
	if ((rc = put_row(r, node, m)) < 0)
		return rc;
	h.flags &= (uint8_t)~CLAIM_PROVISIONAL;
	if (!(m->flags & CLAIM_MOVING)) {
		for (unsigned i = 0; i < r->npeers; i++)
			send_row(r, r->peers[i].node, m->x, &h);
		compare(r, 0, m->x, &h);
		moved(r, m->x, now_ms);
		if (m->flags & CLAIM_PROVISIONAL)
			mark(r);
		confirm(r);
	}
	return 0;
}

static void
gone(struct registrar *r, uint64_t node, const struct claim_msg *m,
    uint64_t now_ms)
{
	struct held	w;

	if (!row_of(r, m->x, node, &w) || is_outdated(&w, m))
		return;
	held_del(&r->rows, w.x, w.node);
	moved(r, m->x, now_ms);
}

static void
send_all(struct registrar *r, uint64_t core)
{
	struct registrar_member	*n;
	struct held_walk	at = { .table = 0 };
	struct claim_holder	h;
	struct held		w;

	while (held_walk(&r->rows, &at, &w)) {
		h = holder(r, &w);
		if (!(h.flags & CLAIM_MOVING))
			send_row(r, core, w.x, &h);
	}
	for (size_t i = 0; (n = walk(&r->nodes, &i)) != NULL;)
		if (n->follows && n->known)
			tell_uploaded(r, core, n);
}

static void
ask_again(struct registrar *r, uint64_t core, uint64_t now_ms)
{
	struct claim	*c;

	for (size_t i = 0; (c = walk(&r->claims, &i)) != NULL;)
		for (unsigned k = 0; k < c->nopen; k++)
			if (c->open[k].core == core)
				ask(r, c, core, now_ms);
}

int
registrar_peer_up(struct registrar *r, uint64_t core, uint64_t now_ms)
{
	struct claim_msg	 m = { .kind = CLAIM_SYNC };
	struct claim		*c;

	registrar_peer_down(r, core);
	if (r->npeers == REGISTRAR_PEERS)
		return ERR_FULL;
	memset(&r->peers[r->npeers], 0, sizeof(r->peers[0]));
	r->peers[r->npeers++].node = core;
	tell_branch(r, CLAIM_UNCONFIRMED);
	r->ops->peer(r->ctx, core, &m);
	send_all(r, core);
	mark(r);
	for (size_t i = 0; (c = walk(&r->claims, &i)) != NULL;)
		ask(r, c, core, now_ms);
	return 0;
}

void
registrar_peer_down(struct registrar *r, uint64_t core)
{
	struct claim	*c;
	struct waiter	*w;
	size_t		 mask;
	unsigned	 i, k;

	for (i = 0; i < r->npeers && r->peers[i].node != core; i++)
		;
	if (i == r->npeers)
		return;
	r->peers[i] = r->peers[--r->npeers];
	for (size_t at = 0; (c = walk(&r->claims, &at)) != NULL;)
		for (k = 0; k < c->nopen; k++)
			if (c->open[k].core == core)
				c->open[k].deadline_ms = 0;
	for (size_t at = 0; (w = walk(&r->waiters, &at)) != NULL;)
		if (w->core == core) {
			mask = r->waiters.mask;
			htab_del(&r->waiters, w->x, w);
			free(w);
			at = again(&r->waiters, mask, at);
		}
	/* The claims go on at the next tick, the branch is confirmed by those
	 * who are left. */
	confirm(r);
}

static void
close_open(struct claim *c, unsigned i)
{
	c->open[i] = c->open[--c->nopen];
}

static int
attach(struct registrar *r, uint64_t node, const struct claim_msg *m,
    uint64_t now_ms)
{
	struct claim	*c = claim_of(r, m->x);

	r->stats.claims++;
	if (c != NULL && c->node != node && (c->epoch > m->epoch ||
	    (c->epoch == m->epoch && c->node > node))) {
		struct claim no = { .x = m->x, .node = node };

		no.epoch = no.asked = m->epoch;
		r->stats.lost++;
		tell_desk(r, &no, CLAIM_LOST);
		return 0;
	}
	if (c != NULL && c->node != node)
		lose(r, c);
	else if (c != NULL)
		drop_claim(r, c);	/* asked again after a break */
	if ((c = add(&r->claims, m->x, sizeof(*c))) == NULL)
		return ERR_NOMEM;
	c->x = m->x;
	c->node = node;
	c->epoch = c->asked = m->epoch;
	ask_all(r, c, now_ms);
	decide(r, c, now_ms);
	return 0;
}

static int
claimed(struct registrar *r, uint64_t core, const struct claim_msg *m)
{
	struct claim_msg	 out = { .x = m->x, .node = m->node };
	struct claim		*c = claim_of(r, m->x);
	struct waiter		*w;

	out.asked = m->asked;
	if (c != NULL && (c->epoch > m->epoch ||
	    (c->epoch == m->epoch && c->node > m->node))) {
		out.kind = CLAIM_BUSY;
		r->ops->peer(r->ctx, core, &out);
		return 0;
	}
	if (c != NULL)
		lose(r, c);
	if (!is_moving(r, m->x, m->node)) {
		answer(r, core, m->x, m->node, m->asked);
		return 0;
	}
	/* One of each core: its newest. */
	for (size_t i = htab_first(&r->waiters, m->x);
	    (w = htab_at(&r->waiters, m->x, &i)) != NULL; i++)
		if (w->x == m->x && w->core == core)
			break;
	if (w == NULL &&
	    (w = add(&r->waiters, m->x, sizeof(*w))) == NULL)
		return ERR_NOMEM;
	w->x = m->x;
	w->core = core;
	w->node = m->node;
	w->serial = m->asked;
	r->stats.waited++;
	out.kind = CLAIM_WAIT;
	r->ops->peer(r->ctx, core, &out);
	return 0;
}

static void
answered(struct registrar *r, uint64_t core, const struct claim_msg *m,
    uint64_t now_ms)
{
	struct claim	*c = claim_of(r, m->x);
	struct held	 w;
	unsigned	 i;

	for (i = 0; c != NULL && i < c->nopen; i++)
		if (c->open[i].core == core)
			break;
	if (c == NULL || c->serial != m->asked ||
	    i == c->nopen) {
		/* Late. If it was granted meanwhile, that node has one more
		 * to release. */
		if (m->kind == CLAIM_ANSWER && row_of(r, m->x, m->node, &w))
			for (i = 0; i < m->nholders; i++)
				compare(r, core, m->x, &m->holders[i]);
		return;
	}
	if (m->kind == CLAIM_BUSY) {
		lose(r, c);
	} else if (m->kind == CLAIM_WAIT) {
		c->open[i].deadline_ms = UINT64_MAX;
	} else {
		for (unsigned k = 0; k < m->nholders; k++)
			if (m->holders[k].node != c->node)
				claim_add(&c->found, &m->holders[k]);
		close_open(c, i);
		decide(r, c, now_ms);
	}
}

/* node has uploaded to that core: what we kept of it is its to say. */
static void
went(struct registrar *r, uint64_t node, uint64_t now_ms)
{
	struct registrar_member	*n = member_of(r, node);
	struct held_walk	 at = { .table = 0 };
	struct held		 w;

	if (n == NULL || n->follows)
		return;
	/* Who waits for a move of it here is told to ask it. */
	while (held_walk(&r->rows, &at, &w))
		if (w.node == n->number && w.flags & CLAIM_MOVING) {
			w.flags = CLAIM_UNSURE;
			held_walk_set(&r->rows, &at, &w);
			moved(r, w.x, now_ms);
		}
	registrar_forget(r, node, now_ms);
}

int
registrar_from_peer(struct registrar *r, uint64_t core,
    const struct claim_msg *m, uint64_t now_ms)
{
	struct claim_holder	 h = { m->node, m->epoch, m->flags };
	struct claim_msg	 out = { .kind = CLAIM_ECHO };
	struct claim		*c;

	switch (m->kind) {
	case CLAIM_CLAIM:
		return claimed(r, core, m);
	case CLAIM_ANSWER:
	case CLAIM_BUSY:
	case CLAIM_WAIT:
		answered(r, core, m, now_ms);
		return 0;
	case CLAIM_ROW:
		/* It may be news since that core answered. */
		if ((c = claim_of(r, m->x)) != NULL && h.node != c->node)
			claim_add(&c->found, &h);
		compare(r, core, m->x, &h);
		return 0;
	case CLAIM_SYNC:
		/* It thought we were away, and has forgotten our claims. */
		send_all(r, core);
		ask_again(r, core, now_ms);
		return 0;
	case CLAIM_MARK:
		out.asked = m->asked;
		r->ops->peer(r->ctx, core, &out);
		return 0;
	case CLAIM_ECHO:
		for (unsigned i = 0; i < r->npeers; i++)
			if (r->peers[i].node == core)
				r->peers[i].echoed = m->asked;
		confirm(r);
		return 0;
	case CLAIM_BRANCH:
		went(r, m->node, now_ms);
		return 0;
	default:
		return ERR_PROTO;
	}
}

static int
upload(struct registrar *r, uint64_t node)
{
	struct registrar_member	*n;
	struct held_walk	 at = { .table = 0 };
	struct held		 w;
	int			 rc;

	if ((rc = find_or_make_member(r, node, &n)) < 0)
		return rc;
	n->follows = n->uploading = true;
	n->known = false;
	while (held_walk(&r->rows, &at, &w))
		if (w.node == n->number && !w.stale) {
			w.stale = true;
			held_walk_set(&r->rows, &at, &w);
		}
	return 0;
}

static bool
is_of(const struct held *w, unsigned number)
{
	return w->node == number;
}

static bool
is_stale_of(const struct held *w, unsigned number)
{
	return w->node == number && w->stale;
}

static bool
is_live_of(const struct held *w, unsigned number)
{
	return w->node == number && !(w->flags & (CLAIM_DURABLE |
	    CLAIM_MOVING | CLAIM_UNSURE));
}

/* Take away the rows of n that drop() names. Somebody waits for those alone
 * whose move has not ended. */
static void
sweep(struct registrar *r, const struct registrar_member *n,
    bool (*drop)(const struct held *w, unsigned number), uint64_t now_ms)
{
	struct held_walk	at = { .table = 0 };
	struct held		w;

	while (held_walk(&r->rows, &at, &w))
		if (w.flags & CLAIM_MOVING && drop(&w, n->number)) {
			held_walk_del(&r->rows, &at, &w);
			moved(r, w.x, now_ms);
		}
	held_drop(&r->rows, drop, n->number);
}

static void
uploaded(struct registrar *r, uint64_t node, uint64_t told, uint64_t now_ms)
{
	struct registrar_member	*n = member_of(r, node);

	if (n == NULL || !n->uploading)
		return;
	sweep(r, n, is_stale_of, now_ms);
	n->uploading = false;
	n->told = told;
	mark(r);
	confirm(r);
}

int
registrar_from_desk(struct registrar *r, uint64_t node,
    const struct claim_msg *m, uint64_t now_ms)
{
	switch (m->kind) {
	case CLAIM_UPLOAD:
		return upload(r, node);
	case CLAIM_ROW:
		return desk_row(r, node, m, now_ms);
	case CLAIM_GONE:
		gone(r, node, m, now_ms);
		return 0;
	case CLAIM_UPLOADED:
		uploaded(r, node, m->asked, now_ms);
		return 0;
	case CLAIM_ATTACH:
		return attach(r, node, m, now_ms);
	default:
		return ERR_PROTO;
	}
}

void
registrar_left(struct registrar *r, uint64_t node)
{
	struct registrar_member	*n = member_of(r, node);
	struct claim		*c;
	size_t			 mask;

	if (n != NULL)
		n->follows = false;
	for (size_t i = 0; (c = walk(&r->claims, &i)) != NULL;)
		if (c->node == node) {
			mask = r->claims.mask;
			drop_claim(r, c);
			i = again(&r->claims, mask, i);
		}
}

void
registrar_node_down(struct registrar *r, uint64_t node, uint64_t now_ms)
{
	struct registrar_member	*n = member_of(r, node);
	struct held_walk	 at = { .table = 0 };
	struct held		 w;

	registrar_left(r, node);
	if (n == NULL)
		return;
	held_drop(&r->rows, is_live_of, n->number);
	while (held_walk(&r->rows, &at, &w))
		if (w.node == n->number && w.flags != CLAIM_DURABLE &&
		    w.flags != CLAIM_UNSURE) {
			w.flags = w.flags & CLAIM_DURABLE ? CLAIM_DURABLE :
			    CLAIM_UNSURE;
			held_walk_set(&r->rows, &at, &w);
			moved(r, w.x, now_ms);
		}
}

void
registrar_forget(struct registrar *r, uint64_t node, uint64_t now_ms)
{
	struct registrar_member	*n = member_of(r, node);

	registrar_left(r, node);
	if (n == NULL)
		return;
	sweep(r, n, is_of, now_ms);
	r->members[n->number] = NULL;
	htab_del(&r->nodes, node, n);
	free(n);
}

void
registrar_whole(struct registrar *r, bool whole)
{
	r->partial = !whole;
}

void
registrar_tick(struct registrar *r, uint64_t now_ms)
{
	struct claim	*c;
	size_t		 mask, n;
	unsigned	 k;

	for (size_t i = 0; (c = walk(&r->claims, &i)) != NULL;) {
		for (k = 0; k < c->nopen;)
			if (c->open[k].deadline_ms <= now_ms) {
				c->provisional = true;
				close_open(c, k);
			} else
				k++;
		if (c->nopen > 0 || c->here) {
			tell_desk(r, c, CLAIM_WAIT);
			continue;
		}
		mask = r->claims.mask;
		n = r->claims.n;
		decide(r, c, now_ms);
		if (r->claims.n < n)
			i = again(&r->claims, mask, i);
	}
}

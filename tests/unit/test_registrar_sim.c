/*
 * registrar: many nodes in one process. Desks and registrars as they are, a
 * toy store at each node, a scheduler that delays, breaks, partitions, crashes,
 * suspects wrongly and skews clocks; clients that hop. Then it becomes quiet,
 * and each client identifier must have one holder in each connected part.
 *
 *   REG_SEED=n replays one seed, REG_SEEDS=n runs so many (default 1000)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "registrar/desk.h"
#include "registrar/registrar.h"

enum { NODES = 6, XS = 3, QUEUE = 4096, RELEASES = 64, DOWN_MS = 2000,
	GIVE_UP_MS = 3000, LONG_DOWN_MS = 5000 };

/* What a seed may meet, each with some probability. */
enum { F_BREAK = 1, F_PART = 2, F_CRASH = 4, F_SUSPECT = 8, F_SWITCH = 16,
	F_SKEW = 32, F_STOP = 64, F_ALL = 127 };

static uint64_t seed, state_rnd;
static unsigned faults;
static bool verbose;

static uint32_t
rnd(uint32_t n)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return (uint32_t)((state_rnd >> 20) % n);
}

#define CHECK(x) check_at(x, #x, __LINE__)

static void
check_at(bool good, const char *what, int line)
{
	if (!good)
		fail_msg("seed %llu (faults %u): line %d: %s",
		    (unsigned long long)seed, faults, line, what);
}

/* --- The world ----------------------------------------------------------- */

enum what { TO_PEER, TO_REGISTRAR, TO_DESK, RELEASE, RELEASED, REFUSED };

struct event {
	uint64_t		at;
	unsigned		from, to;
	uint32_t		life[2], link;	/* dead if either changed */
	enum what		what;
	uint8_t			flags;
	struct claim_msg	m;
};

struct release {
	bool		used, merge;
	uint64_t	x, epoch, since, next;
	unsigned	to;
};

struct node {
	uint64_t		 id;
	bool			 core, up, stopped;
	uint32_t		 life;
	int64_t			 skew;
	struct registrar	 r;
	struct desk		 d;
	unsigned		 my_core;	/* NODES: none */
	uint64_t		 switch_at, stop_until;
	struct release		 rel[RELEASES];
	uint64_t		 token[XS];	/* connected */
	uint64_t		 logged[XS];	/* epoch of a durable session */
	uint64_t		 settle_at[XS];
};

static struct node	 nodes[NODES];
static unsigned		 nnodes, ncores;
static struct event	*queue;
static unsigned		 nqueue;
static uint64_t		 now;
static bool		 cut[NODES][NODES];	/* no bytes pass */
static uint32_t		 links[NODES][NODES];	/* incarnations */
static bool		 sees[NODES][NODES];	/* core to core: up */
static bool		 linked[NODES][NODES];	/* a connection is there */
static uint64_t		 relink[NODES][NODES];
static uint64_t		 last_due[NODES][NODES][2];
static uint64_t		 tokens, attaches, grants, refused, provisional, lost;
static uint64_t		 all_attaches, all_conflicts, all_provisional;
static uint64_t		 all_waited, all_raised, all_refused;
static uint64_t		 xs[XS];

static uint64_t
clock_of(const struct node *n)
{
	return (uint64_t)((int64_t)now + n->skew);
}

static unsigned
index_of(uint64_t id)
{
	unsigned	i;

	for (i = 0; i < nnodes && nodes[i].id != id; i++)
		;
	return i;
}

static unsigned
x_of(uint64_t x)
{
	unsigned	i;

	for (i = 0; i < XS && xs[i] != x; i++)
		;
	CHECK(i < XS);
	return i;
}

static void
post(unsigned from, unsigned to, enum what what, const struct claim_msg *m,
    uint8_t flags)
{
	struct event	*e;
	bool		 fifo = what <= TO_DESK;
	uint64_t	*last = &last_due[from][to][0];

	if (to >= nnodes || cut[from][to] || !nodes[to].up)
		return;
	CHECK(nqueue < QUEUE);
	e = &queue[nqueue++];
	e->at = now + (from == to ? 0 : 1 + rnd(rnd(8) == 0 ? 200 : 12));
	if (fifo) {
		e->at = MAX(e->at, *last);
		*last = e->at;
	}
	e->from = from;
	e->to = to;
	e->life[0] = nodes[from].life;
	e->life[1] = nodes[to].life;
	e->link = links[from][to];
	e->what = what;
	e->flags = flags;
	e->m = *m;
}

static void
send_peer(void *ctx, uint64_t core, const struct claim_msg *m)
{
	struct node	*n = ctx;

	if (linked[n - nodes][index_of(core)])
		post((unsigned)(n - nodes), index_of(core), TO_PEER, m, 0);
}

static void
send_desk(void *ctx, uint64_t node, const struct claim_msg *m)
{
	struct node	*n = ctx;
	unsigned	 to = index_of(node);

	if (to < nnodes && nodes[to].my_core == (unsigned)(n - nodes))
		post((unsigned)(n - nodes), to, TO_DESK, m, 0);
}

static const struct registrar_ops reg_ops = { send_peer, send_desk };

static void
desk_send(void *ctx, const struct claim_msg *m)
{
	struct node	*n = ctx;

	CHECK(n->my_core < NODES);
	post((unsigned)(n - nodes), n->my_core, TO_REGISTRAR, m, 0);
}

static void
release_one(struct node *n, uint64_t x, uint64_t epoch, unsigned to, bool merge)
{
	struct release	*r;

	for (r = n->rel; r < n->rel + RELEASES; r++)
		if (r->used && r->x == x && r->to == to) {
			if (!merge) {
				r->merge = false;
				r->since = r->next = now;
			}
			r->epoch = MAX(r->epoch, epoch);
			return;
		}
	for (r = n->rel; r < n->rel + RELEASES && r->used; r++)
		;
	CHECK(r < n->rel + RELEASES);
	*r = (struct release){ true, merge, x, epoch, now, now, to };
}

static void
desk_grant(void *ctx, uint64_t token, const struct claim_msg *m)
{
	struct node	*n = ctx;

	grants++;
	provisional += (m->flags & CLAIM_PROVISIONAL) != 0;
	n->token[x_of(m->x)] = token;
	for (unsigned i = 0; i < m->nholders; i++)
		release_one(n, m->x, m->epoch, index_of(m->holders[i].node),
		    false);
	n->settle_at[x_of(m->x)] = now + rnd(4) * rnd(100);
}

static void
desk_refuse(void *ctx UNUSED, uint64_t x UNUSED, uint64_t token UNUSED)
{
	lost++;
}

static void
desk_merge(void *ctx, const struct claim_msg *m)
{
	struct node	*n = ctx;

	for (unsigned i = 0; i < m->nholders; i++)
		release_one(n, m->x, m->epoch, index_of(m->holders[i].node),
		    true);
}

static const struct desk_ops desk_ops = { desk_send, desk_grant, desk_refuse,
	desk_merge };

static void
start(struct node *n)
{
	n->up = true;
	n->life++;
	n->my_core = NODES;
	n->switch_at = now + rnd(50);
	memset(n->rel, 0, sizeof(n->rel));
	memset(n->token, 0, sizeof(n->token));
	memset(n->settle_at, 0, sizeof(n->settle_at));
	desk_init(&n->d, n->id, &desk_ops, n);
	if (n->core)
		registrar_init(&n->r, n->id, &reg_ops, n);
	for (unsigned i = 0; i < XS; i++)
		if (n->logged[i] != 0)
			CHECK(desk_restore(&n->d, xs[i], n->logged[i]) == 0);
}

static void	unlink_nodes(unsigned a, unsigned b);
static void	leave_core(struct node *n);

static void
count(const struct node *n)
{
	all_conflicts += n->r.stats.conflicts;
	all_waited += n->r.stats.waited;
	all_raised += n->r.stats.raised;
}

static void
stop(struct node *n)
{
	unsigned	self = (unsigned)(n - nodes);

	leave_core(n);
	for (unsigned i = 0; i < nnodes; i++) {
		if (nodes[i].up && nodes[i].my_core == self)
			leave_core(&nodes[i]);
		if (i != self)
			unlink_nodes(self, i);
	}
	n->up = false;
	n->life++;
	desk_fini(&n->d);
	if (n->core) {
		count(n);
		registrar_fini(&n->r);
	}
}

/* What the store of n knows of x reaches its log. */
static void
write_log(struct node *n, unsigned x)
{
	struct claim_holder	h;

	n->logged[x] = desk_holds(&n->d, xs[x], &h) &&
	    h.flags & CLAIM_DURABLE ? h.epoch : 0;
}

static void
try_settle(struct node *n, unsigned x)
{
	struct claim_holder	h;

	if (!desk_holds(&n->d, xs[x], &h) || !(h.flags & CLAIM_MOVING) ||
	    now < n->settle_at[x])
		return;
	for (unsigned i = 0; i < RELEASES; i++)
		if (n->rel[i].used && n->rel[i].x == xs[x] && !n->rel[i].merge)
			return;
	desk_state(&n->d, xs[x], CLAIM_CONNECTED | (x > 0 ? CLAIM_DURABLE : 0));
	desk_settled(&n->d, xs[x], now);
	write_log(n, x);
}

/* Epochs of two clocks may be equal: the node decides. */
static bool
is_later(uint64_t a, uint64_t a_node, uint64_t b, uint64_t b_node)
{
	return a > b || (a == b && a_node > b_node);
}

static void
on_release(struct node *n, const struct event *e)
{
	struct claim_holder	h;
	unsigned		x = x_of(e->m.x);
	struct claim_msg	m = e->m;

	if (desk_holds(&n->d, e->m.x, &h)) {
		if (is_later(h.epoch, n->id, e->m.epoch, nodes[e->from].id)) {
			m.epoch = h.epoch;
			m.asked = e->m.epoch;	/* which release */
			post(e->to, e->from, REFUSED, &m, e->flags);
			return;
		}
		if (h.flags & CLAIM_MOVING)
			return;		/* asked again later */
		n->token[x] = 0;
		desk_gone(&n->d, e->m.x, now);
		write_log(n, x);
	}
	post(e->to, e->from, RELEASED, &m, e->flags);
}

static void
on_released(struct node *n, const struct event *e)
{
	unsigned	x = x_of(e->m.x);

	for (unsigned i = 0; i < RELEASES; i++) {
		struct release	*r = &n->rel[i];

		if (!r->used || r->x != e->m.x || r->to != e->from ||
		    (e->what == REFUSED ? r->epoch != e->m.asked :
		    r->epoch > e->m.epoch))
			continue;
		r->used = false;
		if (e->what == REFUSED) {
			struct claim_holder	h;

			refused++;
			all_refused++;
			if (desk_holds(&n->d, e->m.x, &h) &&
			    is_later(e->m.epoch, nodes[e->from].id, h.epoch,
			    n->id) && h.flags & CLAIM_MOVING) {
				n->token[x] = 0;
				desk_gone(&n->d, e->m.x, now);
				write_log(n, x);
			}
		}
	}
}

static void
push_releases(struct node *n)
{
	for (unsigned i = 0; i < RELEASES; i++) {
		struct release		*r = &n->rel[i];
		struct claim_msg	 m = { .x = r->x, .epoch = r->epoch };
		struct claim_holder	 h;

		if (!r->used || now < r->next)
			continue;
		r->next = now + 300;
		if (!desk_holds(&n->d, r->x, &h) ||
		    (!r->merge && now > r->since + GIVE_UP_MS)) {
			r->used = false;	/* unreachable = new */
			continue;
		}
		post((unsigned)(n - nodes), r->to, RELEASE, &m, 0);
	}
}

/* --- Connections --------------------------------------------------------- */

static void
unlink_nodes(unsigned a, unsigned b)
{
	links[a][b]++;
	links[b][a]++;
	if (!linked[a][b])
		return;
	linked[a][b] = linked[b][a] = false;
	relink[a][b] = relink[b][a] = now + rnd(300);
	if (sees[a][b] && nodes[a].up)
		registrar_peer_down(&nodes[a].r, nodes[b].id);
	if (sees[b][a] && nodes[b].up)
		registrar_peer_down(&nodes[b].r, nodes[a].id);
	sees[a][b] = sees[b][a] = false;
}

static void
link_cores(unsigned a, unsigned b)
{
	links[a][b]++;
	links[b][a]++;
	linked[a][b] = linked[b][a] = true;
	sees[a][b] = sees[b][a] = true;
	CHECK(registrar_peer_up(&nodes[a].r, nodes[b].id,
	    now) == 0);
	CHECK(registrar_peer_up(&nodes[b].r, nodes[a].id,
	    now) == 0);
}

static void
leave_core(struct node *n)
{
	unsigned	self = (unsigned)(n - nodes), c = n->my_core;

	if (c >= NODES)
		return;
	n->my_core = NODES;
	n->switch_at = now + 1 + rnd(400);
	desk_down(&n->d);
	if (self != c) {
		links[self][c]++;
		links[c][self]++;
	}
	if (nodes[c].up)
		registrar_left(&nodes[c].r, n->id);
}

static void
join_core(struct node *n)
{
	unsigned	self = (unsigned)(n - nodes), c;

	c = n->core ? self : rnd(ncores);
	if (!nodes[c].up || cut[self][c] || nodes[c].stopped)
		return;
	if (self != c) {
		links[self][c]++;
		links[c][self]++;
	}
	n->my_core = c;
	desk_up(&n->d);
}

static void
connections(void)
{
	for (unsigned a = 0; a < nnodes; a++) {
		struct node	*n = &nodes[a];

		if (n->up && n->my_core < NODES && cut[a][n->my_core])
			leave_core(n);
		if (n->up && n->my_core >= NODES && now >= n->switch_at)
			join_core(n);
		for (unsigned b = a + 1; b < ncores && a < ncores; b++) {
			bool	can = n->up && nodes[b].up && !cut[a][b] &&
			    !n->stopped && !nodes[b].stopped;

			if (linked[a][b] && (cut[a][b] || !n->up ||
			    !nodes[b].up))
				unlink_nodes(a, b);
			else if (!linked[a][b] && can && now >= relink[a][b])
				link_cores(a, b);
		}
	}
}

/* --- Steps --------------------------------------------------------------- */

static void
deliver(const struct event *e)
{
	struct node	*n = &nodes[e->to];
	bool		 same = links[e->from][e->to] == e->link;

	if (!n->up || n->life != e->life[1] ||
	    (e->what <= TO_DESK && (nodes[e->from].life != e->life[0] ||
	    !same)) || cut[e->from][e->to])
		return;
	switch (e->what) {
	case TO_PEER:
		CHECK(registrar_from_peer(&n->r, nodes[e->from].id, &e->m,
		    now) == 0);
		break;
	case TO_REGISTRAR:
		CHECK(registrar_from_desk(&n->r, nodes[e->from].id, &e->m,
		    now) == 0);
		break;
	case TO_DESK:
		if (n->my_core == e->from)
			desk_take(&n->d, &e->m, now);
		break;
	case RELEASE:
		on_release(n, e);
		break;
	case RELEASED:
	case REFUSED:
		on_released(n, e);
		break;
	}
	for (unsigned x = 0; x < XS; x++)
		write_log(n, x);
}

static void
deliver_due(void)
{
	for (;;) {
		unsigned	best = nqueue;
		struct event	e;

		for (unsigned i = 0; i < nqueue; i++)
			if (queue[i].at <= now && !nodes[queue[i].to].stopped &&
			    (best == nqueue || queue[i].at < queue[best].at))
				best = i;
		if (best == nqueue)
			return;
		e = queue[best];
		memmove(&queue[best], &queue[best + 1],
		    (nqueue - best - 1) * sizeof(e));
		nqueue--;
		deliver(&e);
	}
}

/* Without faults there are never two whose moves have ended. */
static void
check_one(void)
{
	for (unsigned x = 0; x < XS; x++) {
		unsigned	settled = 0;

		for (unsigned i = 0; i < nnodes; i++) {
			struct claim_holder	h;

			if (!nodes[i].up ||
			    !desk_holds(&nodes[i].d, xs[x], &h))
				continue;
			settled += !(h.flags & CLAIM_MOVING);
		}
		CHECK(settled <= 1);
	}
}

static void
step(void)
{
	now += 1 + rnd(30);
	connections();
	deliver_due();
	for (unsigned i = 0; i < nnodes; i++) {
		struct node	*n = &nodes[i];

		if (n->stopped && now >= n->stop_until)
			n->stopped = false;
		if (!n->up || n->stopped)
			continue;
		if (n->core)
			registrar_tick(&n->r, now);
		desk_tick(&n->d, now);
		push_releases(n);
		for (unsigned x = 0; x < XS; x++)
			try_settle(n, x);
	}
	if ((faults & ~(unsigned)(F_SKEW | F_SWITCH)) == 0 && provisional == 0)
		check_one();
}

static void
client(void)
{
	struct node	*n = &nodes[rnd(nnodes)];
	unsigned	 x = rnd(XS);

	if (!n->up || n->stopped)
		return;
	if (rnd(4) == 0) {
		/* The connection ends; sometimes the session does. */
		if (n->token[x] == 0)
			return;
		n->token[x] = 0;
		desk_state(&n->d, xs[x], x > 0 && rnd(4) ? CLAIM_DURABLE : 0);
		write_log(n, x);
		return;
	}
	attaches++;
	all_attaches++;
	desk_clock(&n->d, clock_of(n));
	CHECK(desk_attach(&n->d, xs[x], ++tokens, now) == 0);
}

static void
trouble(void)
{
	unsigned	 a = rnd(nnodes), b = rnd(nnodes);
	struct node	*n = &nodes[a];

	switch (1u << rnd(7) & faults) {
	case F_BREAK:
		if (a != b && a < ncores && b < ncores)
			unlink_nodes(a, b);
		break;
	case F_PART:
		if (rnd(2)) {
			memset(cut, 0, sizeof(cut));
		} else if (a != b && rnd(2)) {
			cut[a][b] = cut[b][a] = true;
		} else {
			unsigned	part = rnd(1u << nnodes);

			for (a = 0; a < nnodes; a++)
				for (b = 0; b < nnodes; b++)
					cut[a][b] = (part >> a & 1) !=
					    (part >> b & 1);
		}
		break;
	case F_CRASH:
		if (n->up)
			stop(n);
		else
			start(n);
		break;
	case F_SUSPECT:
		if (a == b || a >= ncores || b >= ncores || !linked[a][b])
			break;
		if (sees[a][b])
			registrar_peer_down(&n->r, nodes[b].id);
		else
			CHECK(registrar_peer_up(&n->r, nodes[b].id,
			    now) == 0);
		sees[a][b] = !sees[a][b];
		break;
	case F_SWITCH:
		if (!n->core)
			leave_core(n);
		break;
	case F_SKEW:
		n->skew = (int64_t)rnd(16000) - 8000;
		break;
	case F_STOP:
		n->stopped = true;
		n->stop_until = now + rnd(3000);
		break;
	default:
		break;
	}
}

static void
wait_for_quiet(void)
{
	uint64_t	end = now + 25000;

	for (unsigned i = 0; i < nnodes; i++) {
		nodes[i].stopped = false;
		if (!nodes[i].up)
			start(&nodes[i]);
	}
	for (unsigned a = 0; a < ncores; a++)
		for (unsigned b = 0; b < ncores; b++)
			if (a != b && linked[a][b] && !sees[a][b]) {
				CHECK(registrar_peer_up(&nodes[a].r,
				    nodes[b].id, now) == 0);
				sees[a][b] = true;
			}
	while (now < end) {
		step();
		now += 40;
	}
}

static bool
same_part(unsigned a, unsigned b)
{
	/* Through cores that see each other; parts are cliques here. */
	if (nodes[a].my_core >= NODES || nodes[b].my_core >= NODES)
		return a == b;
	return (nodes[a].my_core == nodes[b].my_core ||
	    linked[nodes[a].my_core][nodes[b].my_core]) && !cut[a][b];
}

static unsigned
rows_in(const struct registrar *r)
{
	return (unsigned)r->rows.n;
}

static void
check_rest(bool whole)
{
	for (unsigned x = 0; x < XS; x++)
		for (unsigned a = 0; a < nnodes; a++) {
			struct claim_holder	h, o;

			if (!desk_holds(&nodes[a].d, xs[x], &h))
				continue;
			CHECK(!(h.flags & CLAIM_MOVING));
			if (whole)
				CHECK(desk_is_confirmed(&nodes[a].d, xs[x]));
			for (unsigned b = a + 1; b < nnodes; b++)
				if (same_part(a, b))
					CHECK(!desk_holds(&nodes[b].d, xs[x],
					    &o));
		}
	if (!whole)
		return;
	for (unsigned c = 0; c < ncores; c++) {
		unsigned	rows = 0;

		for (unsigned a = 0; a < nnodes; a++)
			for (unsigned x = 0; x < XS; x++) {
				struct claim_holder	h;

				rows += nodes[a].my_core == c &&
				    desk_holds(&nodes[a].d, xs[x], &h);
			}
		CHECK(rows_in(&nodes[c].r) == rows);
		CHECK(nodes[c].r.claims.n == 0);
		CHECK(nodes[c].r.waiters.n == 0);
	}
}

static void
one_seed(void)
{
	unsigned	steps = 60 + (unsigned)(seed % 7) * 30;
	bool		parted = false;

	state_rnd = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (unsigned i = 0; i < 8; i++)
		rnd(2);
	memset(nodes, 0, sizeof(nodes));
	memset(cut, 0, sizeof(cut));
	memset(linked, 0, sizeof(linked));
	memset(sees, 0, sizeof(sees));
	memset(relink, 0, sizeof(relink));
	memset(last_due, 0, sizeof(last_due));
	now = 1000000;
	nqueue = 0;
	attaches = grants = refused = provisional = lost = 0;
	faults = rnd(4) == 0 ? rnd(2) * F_SKEW | rnd(2) * F_SWITCH :
	    rnd(3) == 0 ? F_ALL : rnd(F_ALL + 1);
	ncores = 1 + rnd(3);
	nnodes = ncores + rnd(NODES - ncores + 1);
	for (unsigned i = 0; i < nnodes; i++) {
		nodes[i].id = 1000 + rnd(1000) * 16 + i;
		nodes[i].core = i < ncores;
		if (faults & F_SKEW)
			nodes[i].skew = (int64_t)rnd(16000) - 8000;
		start(&nodes[i]);
	}
	for (unsigned i = 0; i < XS; i++)
		xs[i] = UINT64_C(0x1234567890) * (i + 1);
	for (unsigned i = 0; i < 30; i++)
		step();
	for (unsigned i = 0; i < steps; i++) {
		step();
		if (rnd(3) == 0)
			client();
		if (rnd(5) == 0)
			trouble();
	}
	for (unsigned a = 0; a < nnodes; a++)
		for (unsigned b = 0; b < nnodes; b++)
			parted |= cut[a][b];
	if (parted && rnd(2)) {
		wait_for_quiet();
		check_rest(false);
	}
	memset(cut, 0, sizeof(cut));
	wait_for_quiet();
	check_rest(true);
	if ((faults & ~(unsigned)F_SKEW) == 0) {
		CHECK(provisional == 0);
		CHECK(grants + lost == attaches);
	}
	all_provisional += provisional;
	for (unsigned i = 0; i < nnodes; i++)
		stop(&nodes[i]);
}

static void
one_holder_at_rest(void **state UNUSED)
{
	const char	*s = getenv("REG_SEED"), *n = getenv("REG_SEEDS");
	uint64_t	 first = s ? strtoull(s, NULL, 10) : 1;
	uint64_t	 many = n ? strtoull(n, NULL, 10) : s ? 1 : 1000;

	verbose = s != NULL;
	queue = calloc(QUEUE, sizeof(*queue));
	assert_non_null(queue);
	for (seed = first; seed < first + many; seed++)
		one_seed();
	free(queue);
	print_message("%llu attaches, %llu provisional, %llu waited, %llu "
	    "raised, %llu conflicts, %llu refused\n",
	    (unsigned long long)all_attaches,
	    (unsigned long long)all_provisional,
	    (unsigned long long)all_waited, (unsigned long long)all_raised,
	    (unsigned long long)all_conflicts,
	    (unsigned long long)all_refused);
	/* The seeds must have met what they are to prove. */
	if (many >= 1000) {
		assert_true(all_provisional > 100);
		assert_true(all_waited > 100);
		assert_true(all_raised > 100);
		assert_true(all_conflicts > 100);
	}
}

/* The vectors of the reference: key 00..0f, input 00..len-1. */
static void
hash_is_siphash_2_4(void **state UNUSED)
{
	uint8_t	key[16], in[16];

	for (uint8_t i = 0; i < 16; i++)
		key[i] = in[i] = i;
	assert_true(claim_hash(key, in, 0) == UINT64_C(0x726fdb47dd0e0e31));
	assert_true(claim_hash(key, in, 8) == UINT64_C(0x93f5f5799a932462));
	assert_true(claim_hash(key, in, 15) == UINT64_C(0xa129ca6149be45e5));
}

/* --- Small ones ---------------------------------------------------------- */

static struct claim_msg	 small[16];
static unsigned		 nsmall;
static uint64_t		 small_token;

static void
small_send(void *ctx UNUSED, const struct claim_msg *m)
{
	if (nsmall < NELEM(small))
		small[nsmall++] = *m;
}

static void
small_grant(void *ctx UNUSED, uint64_t token, const struct claim_msg *m)
{
	small_token = token;
	small_send(NULL, m);
}

static void
small_refuse(void *ctx UNUSED, uint64_t x UNUSED, uint64_t token UNUSED)
{
}

static void
small_merge(void *ctx UNUSED, const struct claim_msg *m UNUSED)
{
}

static const struct desk_ops small_ops = {
	.send = small_send, .grant = small_grant, .refuse = small_refuse,
	.merge = small_merge,
};

static void
small_peer(void *ctx UNUSED, uint64_t node UNUSED, const struct claim_msg *m)
{
	small_send(NULL, m);
}

/* Tables know the low half of a hash only; clients and desks are told apart by
 * all of it. */
static void
those_of_half_a_hash_are_two(void **state UNUSED)
{
	static const struct registrar_ops rops = {
		.peer = small_peer, .desk = small_peer,
	};
	const uint64_t		x = 7, y = 7 | UINT64_C(1) << 40;
	struct claim_msg	m = { .kind = CLAIM_UPLOAD, .node = x };
	struct claim_holder	h;
	struct registrar	r;
	struct desk		d;

	desk_init(&d, 1, &small_ops, NULL);
	assert_int_equal(desk_restore(&d, x, 5), 0);
	assert_false(desk_holds(&d, y, &h));
	assert_int_equal(desk_restore(&d, y, 6), 0);
	assert_true(desk_holds(&d, x, &h));
	assert_int_equal(h.epoch, 5);
	desk_fini(&d);

	/* Nodes x and y each have x, and y. */
	registrar_init(&r, 1, &rops, NULL);
	for (unsigned i = 0; i < 2; i++) {
		m = (struct claim_msg){ .kind = CLAIM_UPLOAD };
		m.node = i == 0 ? x : y;
		registrar_from_desk(&r, m.node, &m, 0);
		m.kind = CLAIM_ROW;
		m.flags = CLAIM_DURABLE;
		m.x = x;
		m.epoch = 3 + i;
		registrar_from_desk(&r, m.node, &m, 0);
		m.kind = CLAIM_UPLOADED;
		registrar_from_desk(&r, m.node, &m, 0);
	}
	assert_int_equal(r.rows.n, 2);
	assert_int_equal(r.nmembers, 2);
	nsmall = 0;
	m = (struct claim_msg){ .kind = CLAIM_ATTACH, .x = y, .node = 99 };
	m.epoch = 9;
	registrar_from_desk(&r, 99, &m, 0);
	assert_int_equal(small[0].kind, CLAIM_GRANT);
	assert_int_equal(small[0].nholders, 0);
	nsmall = 0;
	m.x = x;
	registrar_from_desk(&r, 99, &m, 0);
	assert_int_equal(small[0].nholders, 2);
	registrar_fini(&r);
}

/* An attach heard of late has the epoch of its CONNECT, above what is here. */
static void
an_epoch_begins_when_it_connected(void **state UNUSED)
{
	struct claim_holder	h;
	struct desk		d;

	desk_init(&d, 1, &small_ops, NULL);
	desk_clock(&d, 1000);
	desk_up(&d);
	nsmall = 0;
	assert_int_equal(desk_attach_at(&d, 5, 77, 500, 0), 0);
	assert_int_equal(small[0].kind, CLAIM_ATTACH);
	assert_int_equal(small[0].epoch, 500);
	desk_tick(&d, DESK_WAIT_MS);
	assert_int_equal(small_token, 77);
	assert_true(desk_holds(&d, 5, &h));
	desk_settled(&d, 5, 0);
	nsmall = 0;
	assert_int_equal(desk_attach_at(&d, 5, 78, 400, 0), 0);
	assert_int_equal(small[0].kind, CLAIM_ATTACH);
	assert_true(small[0].epoch > h.epoch);
	desk_fini(&d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hash_is_siphash_2_4),
		cmocka_unit_test(those_of_half_a_hash_are_two),
		cmocka_unit_test(an_epoch_begins_when_it_connected),
		cmocka_unit_test(one_holder_at_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

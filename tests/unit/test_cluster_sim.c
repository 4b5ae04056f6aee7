/*
 * registrar and move together: many nodes in one process, each with a desk and
 * a store, cores with a registrar, durable sessions whose clients hop,
 * publishers at all nodes. Links delay and break, the network parts, nodes
 * crash with what they had not logged, are stopped, are wrongly thought down,
 * clocks are skewed, messages between stores come twice or never. Then it
 * becomes quiet. What struct node does here is what mqttc-session-store does.
 *
 * Must hold: at rest one holder of each identifier in each connected part (i);
 * what a store has logged for a session is delivered (ii), in order but for
 * counted late relays (iii), of QoS 2 once unless the session was truly split
 * (iv); steps that come twice change nothing (viii).
 *
 *   CLUSTER_SEED=n replays one seed, CLUSTER_SEEDS=n runs so many (or 1200)
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
#include "move/move.h"
#include "move/seen.h"
#include "registrar/desk.h"
#include "registrar/registrar.h"

enum { NODES = 6, XS = 2, IDS = 40, ITEMS = NODES * IDS, QUEUE = 16384,
	STREAM = XS * IDS + 512, FREEZES = 512, TODO = NODES, RANGES = 256,
	DOWN_MS = 2000, GIVE_UP_MS = 3000, WINDOW = 8, TAILS = 6 };

/* What a seed may meet, each with some probability. */
enum { F_BREAK = 1, F_PART = 2, F_CRASH = 4, F_SUSPECT = 8, F_SWITCH = 16,
	F_SKEW = 32, F_STOP = 64, F_LOSS = 128, F_DOUBLE = 256, F_ALL = 511,
	FAULTS = 9 };

static uint64_t seed, state_rnd;
static unsigned faults, met;

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
		    (unsigned long long)seed, met, line, what);
}

/* --- The world ----------------------------------------------------------- */

enum state { QUEUED, SENT, REC };

struct item {
	unsigned	src, n;
	uint32_t	off;
	uint8_t		qos, state;
	bool		rec_logged;
	uint64_t	at;		/* its id: when it was published */
	uint64_t	snap;		/* a relay: no message, but the ids
					 * that were known at that freeze */
};

/* One session at one store; struct move_ops get its address. */
struct session {
	unsigned	node, x;
	bool		have, unsure;
	uint64_t	epoch;
	struct item	q[ITEMS];
	unsigned	nq;
	uint32_t	next, frozen_at;
	uint64_t	alone_snap;	/* of which freeze we went on alone */
	struct seen	seen;
	struct item	aside[ITEMS], relays[2 * ITEMS], merged[ITEMS];
	unsigned	naside, nrelays, nmerged;
	struct move	in, merge, out;
	struct move	tails[TAILS];	/* earlier ins: relays still come */
};

/* What is not logged. */
struct attached {
	uint64_t	token;		/* granted, not begun */
	struct claim_msg grant;
	uint64_t	todo[TODO];	/* holders to merge */
	unsigned	ntodo;
	uint64_t	frozen_ms, in_ms;
	unsigned	pushed;		/* relays said once */
	unsigned	total;		/* ... when the echoes were in, */
	bool		counted, every;	/* of who flows; of all */
	bool		echoed[NODES];
	bool		connected;
};

enum what { TO_PEER, TO_REGISTRAR, TO_DESK, MOVE };

struct event {
	uint64_t		at;
	unsigned		from, to;
	uint32_t		life[2], link;	/* dead if either changed */
	enum what		what;
	struct claim_msg	m;
	struct move_msg		mv;
	struct item		it;
};

struct record {
	unsigned	x;
	struct item	it;
	uint64_t	echo;		/* epoch of the move; 0: a message */
};

struct stream {
	struct record	r[STREAM];
	unsigned	n;
};

struct node {
	uint64_t		 id;
	bool			 core, up, stopped, dirty;
	uint32_t		 life;
	int64_t			 skew;
	struct registrar	 r;
	struct desk		 d;
	unsigned		 my_core;	/* NODES: none */
	uint64_t		 switch_at, stop_until, down_at;
	struct session		 s[XS], disk[XS];
	struct attached		 a[XS];
	unsigned		 mark[NODES], disk_mark[NODES];
	uint32_t		 serial;	/* of freezes */
	struct frozen {			/* what goes as one item more */
		struct seen	seen;
		uint32_t	next;
		uint64_t	alone_snap;
		bool		waits[NODES][IDS];	/* tell themselves */
	}			 frozen[FREEZES];
};

static struct node	 nodes[NODES];
static unsigned		 nnodes, ncores;
static struct event	*queue;
static unsigned		 nqueue;
static uint64_t		 now;
static bool		 cut[NODES][NODES];	/* no bytes pass */
static uint64_t		 cut_since[NODES][NODES];
static uint32_t		 links[NODES][NODES];	/* incarnations */
static bool		 sees[NODES][NODES];	/* core to core: up */
static bool		 linked[NODES][NODES];	/* a connection is there */
static uint64_t		 relink[NODES][NODES];
static uint64_t		 last_due[NODES][NODES];
static struct stream	 streams[NODES][NODES];
static bool		 route[NODES][XS], view[NODES][NODES][XS];
static uint64_t		 route_seq[NODES][XS], view_seq[NODES][NODES][XS];
static uint64_t		 view_at[NODES][NODES][XS];
static struct {
	uint64_t	 epoch, seq;
	unsigned	 of;
}			 want[NODES][NODES][XS];	/* echoes asked for */
static unsigned		 published[NODES][XS];
static bool		 stored[XS][NODES][IDS], excused[XS][NODES][IDS];
static struct {
	unsigned	 at;		/* NODES: nowhere */
	bool		 pend[ITEMS * RANGES];
	unsigned	 got[NODES][IDS], last[NODES];
}			 client[XS];
static bool		 split[XS];	/* two delivered of it */
static uint32_t		 served[NODES][XS];	/* it, or whom it has it of,
						 * delivered after so many
						 * freezes, + 1 */
static bool		 covered[XS][NODES][IDS]; /* its routes were seen */
static uint64_t		 late[XS], tokens;
static unsigned		 ranges;
static uint64_t		 all_attaches, all_moves, all_merges, all_late,
			 all_alone, all_crashes, all_given_up, all_conflicts,
			 all_delivered;
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

static struct event *
post(unsigned from, unsigned to, enum what what)
{
	struct event	*e;

	if (to >= nnodes || cut[from][to] || !nodes[to].up)
		return NULL;
	CHECK(nqueue < QUEUE);
	e = &queue[nqueue++];
	memset(e, 0, sizeof(*e));
	e->at = now + (from == to ? 0 : 1 + rnd(rnd(8) == 0 ? 200 : 12));
	if (what != MOVE)
		e->at = last_due[from][to] = MAX(e->at, last_due[from][to]);
	e->from = from;
	e->to = to;
	e->life[0] = nodes[from].life;
	e->life[1] = nodes[to].life;
	e->link = links[from][to];
	e->what = what;
	return e;
}

static void
send_peer(void *ctx, uint64_t core, const struct claim_msg *m)
{
	unsigned	 self = (unsigned)((struct node *)ctx - nodes);
	struct event	*e;

	if (linked[self][index_of(core)] &&
	    (e = post(self, index_of(core), TO_PEER)) != NULL)
		e->m = *m;
}

static void
send_desk(void *ctx, uint64_t node, const struct claim_msg *m)
{
	unsigned	 self = (unsigned)((struct node *)ctx - nodes);
	unsigned	 to = index_of(node);
	struct event	*e;

	if (to < nnodes && nodes[to].my_core == self &&
	    (e = post(self, to, TO_DESK)) != NULL)
		e->m = *m;
}

static const struct registrar_ops reg_ops = { send_peer, send_desk };

/* --- Moves: what a store does -------------------------------------------- */

static struct node *
node_of(const struct session *s)
{
	return &nodes[s->node];
}

static struct attached *
attached(const struct session *s)
{
	return &node_of(s)->a[s->x];
}

static bool
is_idle(const struct move *m)
{
	return m->step == MOVE_OWN || m->step == MOVE_FORGOTTEN ||
	    m->step >= MOVE_CLOSED;
}

static bool
tails_are_idle(const struct session *s)
{
	for (unsigned i = 0; i < TAILS; i++)
		if (!is_idle(&s->tails[i]))
			return false;
	return true;
}

static bool
lays_aside(const struct session *s)
{
	return s->in.step >= MOVE_ASKING && s->in.step <= MOVE_ENDING;
}

/* Given to another one. */
static bool
is_away(const struct session *s)
{
	return s->out.step >= MOVE_GIVING && s->out.step <= MOVE_FORGETTING;
}

static void
set_route(const struct session *s, bool on)
{
	if (route[s->node][s->x] == on)
		return;
	route[s->node][s->x] = on;
	route_seq[s->node][s->x]++;
	for (unsigned i = 0; i < nnodes; i++)
		view_at[i][s->node][s->x] = now + (i == s->node ? 0 :
		    rnd(150));
}

static void
post_move(const struct session *s, unsigned to, const struct move_msg *m,
    const struct item *it)
{
	unsigned	 copies = faults & F_DOUBLE && rnd(4) == 0 ? 2 : 1;
	struct event	*e;

	if (faults & F_LOSS && rnd(6) == 0)
		return;
	for (; copies > 0; copies--)
		if ((e = post(s->node, to, MOVE)) != NULL) {
			e->mv = *m;
			if (it != NULL)
				e->it = *it;
		}
}

static void
op_send(void *ctx, uint64_t node, const struct move_msg *m)
{
	post_move(ctx, index_of(node), m, NULL);
}

static void
op_log(void *ctx, struct move *m)
{
	struct session	*s = ctx;

	node_of(s)->dirty = true;
	if (m->flags & MOVE_MERGE)
		return;
	if (m->step == MOVE_LOST && !s->have) {
		s->nq = s->naside = 0;
		if (!is_away(s))
			set_route(s, false);
	} else if (m->step == MOVE_INSTALLING)
		set_route(s, true);
}

static void	forget_done(struct session *s);

static void
op_freeze(void *ctx, struct move *m)
{
	struct session	*s = ctx;
	struct node	*n = node_of(s);

	forget_done(s);
	CHECK((uint32_t)m->snap == n->serial + 1);
	CHECK(++n->serial < FREEZES);
	CHECK(seen_copy(&n->frozen[n->serial].seen, &s->seen) == 0);
	n->frozen[n->serial].next = s->frozen_at = s->next;
	n->frozen[n->serial].alone_snap = s->alone_snap;
	for (unsigned i = 0; i < s->nq; i++)
		if (s->q[i].state == QUEUED || s->q[i].qos < 2)
			n->frozen[n->serial].waits[s->q[i].src][s->q[i].n] =
			    true;
	s->nrelays = 0;
	memset(attached(s)->echoed, 0, sizeof(attached(s)->echoed));
	attached(s)->counted = attached(s)->every = false;
	attached(s)->pushed = 0;
	attached(s)->frozen_ms = now + rnd(300);
	n->dirty = true;
}

static uint64_t
op_state(void *ctx, struct move *m, uint64_t seq)
{
	struct session	*s = ctx;
	struct move_msg	 out = { .kind = MOVE_STATE, .x = m->x };
	uint64_t	 n = 0, page = seq + 1 + rnd(40);

	out.epoch = m->epoch;
	out.snap = m->snap;
	for (unsigned i = 0; i < s->nq; i++)
		if (s->q[i].off < s->frozen_at) {
			out.seq = n;
			if (n >= seq && n < page)
				post_move(s, index_of(m->peer), &out,
				    &s->q[i]);
			n++;
		}
	return n;
}

static void
op_relay(void *ctx, struct move *m, uint64_t seq)
{
	struct session	*s = ctx;
	struct move_msg	 out = { .kind = MOVE_RELAY, .x = m->x };
	unsigned	 logged = node_of(s)->disk[s->x].nrelays;

	out.epoch = m->epoch;
	out.snap = m->snap;
	for (; seq < logged; seq++) {
		out.seq = seq;
		post_move(s, index_of(m->peer), &out, &s->relays[seq]);
	}
}

static void
op_barrier(void *ctx, struct move *m)
{
	struct session	*s = ctx;

	for (unsigned i = 0; i < nnodes; i++)
		if (!attached(s)->echoed[i] &&
		    want[i][s->node][s->x].epoch != m->epoch) {
			want[i][s->node][s->x].epoch = m->epoch;
			want[i][s->node][s->x].seq = m->seen;
			want[i][s->node][s->x].of = index_of(m->peer);
		}
}

static void
op_thaw(void *ctx, struct move *m UNUSED)
{
	struct session	*s = ctx;

	forget_done(s);
	s->nrelays = 0;
	s->unsure = true;
}

static void
op_drop(void *ctx, struct move *m UNUSED)
{
	struct session	*s = ctx;

	if (!is_idle(&s->in) && s->in.step < MOVE_DIRECT) {
		/* It is coming back. */
		s->nrelays = 0;
		return;
	}
	s->have = s->unsure = false;
	s->nq = s->nrelays = 0;
	seen_clear(&s->seen);
	served[s->node][s->x] = 0;
	s->alone_snap = 0;
	node_of(s)->dirty = true;
	set_route(s, false);
}

static void
op_restart(void *ctx, struct move *m)
{
	struct session	*s = ctx;

	if (m->flags & MOVE_MERGE) {
		s->nmerged = 0;
		return;
	}
	CHECK(!s->have);
	s->nq = 0;
	s->next = 0;
	seen_clear(&s->seen);
}

static struct seen_id
id_of(const struct item *it)
{
	return (struct seen_id){ it->at, (uint64_t)it->src << 32 | it->n };
}

static void
add_relay(struct session *s, struct item it)
{
	CHECK(s->nrelays < NELEM(s->relays));
	s->relays[s->nrelays++] = it;
	node_of(s)->dirty = true;
}

static bool
append(struct session *s, struct item it)
{
	/* Given away, it is not ours to know, but may be again. */
	if (is_away(s) && s->out.step != MOVE_GIVING) {
		add_relay(s, it);
		return false;
	}
	if (seen_has(&s->seen, id_of(&it)) != SEEN_NEW)
		return false;
	/* Always: who is cut off, or another began without, does not know. */
	CHECK(seen_add(&s->seen, id_of(&it)) == 0);
	CHECK(s->nq < ITEMS);
	it.off = s->next++;
	it.state = QUEUED;
	s->q[s->nq++] = it;
	if (!is_idle(&s->out))
		add_relay(s, it);
	node_of(s)->dirty = true;
	return true;
}

static void
append_late(struct session *s, struct item it)
{
	if (append(s, it)) {
		late[s->x]++;
		all_late++;
	}
}

static bool
is_done(const struct frozen *f, const struct item *it)
{
	return !f->waits[it->src][it->n] &&
	    seen_has(&f->seen, id_of(it)) == SEEN_BEFORE;
}

static void
purge(struct session *s, const struct frozen *f)
{
	for (struct item *it = s->q; it < s->q + s->nq;)
		if (it->qos == 2 && it->state != REC && is_done(f, it)) {
			excused[s->x][it->src][it->n] = true;
			memmove(it, it + 1, (size_t)(s->q + s->nq - it - 1) *
			    sizeof(*it));
			s->nq--;
		} else
			it++;
}

/* What the other one had delivered counts now, too, also where the session goes
 * to: of QoS 2 that is not to be sent again. What waits there comes as items.
 * What is told of the state stays as it is: who gets it does the same. */
static void
take_seen(struct session *s, uint64_t snap)
{
	const struct frozen	*f = &nodes[snap >> 32].frozen[(uint32_t)snap];

	if (snap == 0)
		return;
	for (uint32_t i = 0; i < f->seen.n; i++) {
		struct seen_id	id = seen_at(&f->seen, i);

		if (!f->waits[id.lo >> 32][(uint32_t)id.lo])
			CHECK(seen_add(&s->seen, id) == 0);
	}
	if (is_idle(&s->out))
		purge(s, f);
	else
		add_relay(s, (struct item){ .snap = snap });
}

/* The state is not told any more, and stays. */
static void
forget_done(struct session *s)
{
	for (unsigned i = 0; i < s->nrelays; i++)
		if (s->relays[i].snap != 0)
			purge(s, &nodes[s->relays[i].snap >> 32].frozen[
			    (uint32_t)s->relays[i].snap]);
}

static void
own(struct session *s, uint64_t epoch, bool alone, bool anew)
{
	/* Packet identifiers of two that both go on lie apart. */
	if (alone || anew) {
		CHECK(ranges < RANGES);
		s->next = ITEMS * ranges++;
	}
	/* It comes back before all have seen that it was away: what that one
	 * has not got is ours. */
	if (s->out.step == MOVE_RELAYING) {
		unsigned	first = (unsigned)s->out.relays;

		memset(&s->out, 0, sizeof(s->out));
		for (unsigned i = first; i < s->nrelays; i++)
			if (s->relays[i].snap != 0)
				take_seen(s, s->relays[i].snap);
			else
				append_late(s, s->relays[i]);
		s->nrelays = 0;
	}
	s->have = true;
	s->epoch = MAX(s->epoch, epoch);
	if (alone) {
		s->unsure = true;
		all_alone++;
	}
	set_route(s, true);
	node_of(s)->dirty = true;
}

static void
op_own(void *ctx, struct move *m)
{
	struct session	*s = ctx;

	if (m->flags & MOVE_MERGE)
		return;
	own(s, m->epoch, m->alone, m->anew);
	if (m->alone)
		s->alone_snap = m->snap;
	if (served[index_of(m->peer)][s->x] != 0 && !m->anew)
		served[s->node][s->x] = node_of(s)->serial + 1;
}

/* Only now it is not the other's to deliver any more, and what that one has
 * learnt meanwhile is here. */
static void
merge_direct(struct session *s, const struct move *m)
{
	bool	ours = s->have || is_away(s);

	for (unsigned i = 0; i < s->nmerged; i++)
		if (ours) {
			append_late(s, s->merged[i]);
		} else if (lays_aside(s)) {
			CHECK(s->naside < ITEMS);
			s->aside[s->naside++] = s->merged[i];
		}
	s->nmerged = 0;
	if (ours)
		take_seen(s, m->snap);
	node_of(s)->dirty = true;
}

static void
op_direct(void *ctx, struct move *m)
{
	struct session	*s = ctx;

	if (m->flags & MOVE_MERGE) {
		merge_direct(s, m);
		return;
	}
	for (unsigned i = 0; i < s->naside; i++)
		append(s, s->aside[i]);
	s->naside = 0;
	node_of(s)->dirty = true;
}

static const struct move_ops ops = { op_send, op_log, op_freeze, op_state,
	op_relay, op_barrier, op_thaw, op_drop, op_restart, op_own, op_direct };

static bool
serves(const struct session *s)
{
	return s->have && is_idle(&s->out) && (!lays_aside(s) ||
	    s->in.step >= MOVE_TAKEN);
}

static void
arrive(struct node *n, const struct record *r, unsigned src)
{
	struct session	*s = &n->s[r->x];

	if (r->echo != 0) {
		if (s->out.epoch == r->echo)
			n->a[r->x].echoed[src] = true;
	} else if (is_away(s)) {
		append(s, r->it);
	} else if (lays_aside(s)) {
		CHECK(s->naside < ITEMS);
		s->aside[s->naside++] = r->it;
	} else if (s->have)
		append(s, r->it);
}

static void
state_item(struct session *s, struct item it, bool merge)
{
	if (merge) {
		CHECK(s->nmerged < ITEMS);
		if (it.qos < 2 || it.state == QUEUED)
			s->merged[s->nmerged++] = it;
		else
			/* It may have been sent: not again. */
			excused[s->x][it.src][it.n] = true;
		return;
	}
	CHECK(seen_add(&s->seen, id_of(&it)) == 0);
	CHECK(s->nq < ITEMS);
	s->q[s->nq++] = it;
}

static void
take_move(struct node *n, const struct event *e)
{
	const struct move_msg	*m = &e->mv;
	struct session		*s = &n->s[x_of(m->x)];
	struct claim_holder	 h = { .epoch = 0 };
	struct move		*in = &s->in;
	uint64_t		 from = nodes[e->from].id, epoch;
	bool			 merge;

	n->dirty = true;
	/* Whoever attaches here after this is later. */
	desk_clock(&n->d, m->epoch);
	switch (m->kind) {
	case MOVE_RELEASE:
	case MOVE_INSTALLED:
	case MOVE_RELAYED:
	case MOVE_VISIBLE:
	case MOVE_DONE_ACK:
	case MOVE_SETTLED_ACK:
		/* The next waits for this one, also if it has not begun. (Who
		 * wants it back from us may still be giving it to us.) */
		if (lays_aside(s) && s->in.epoch < m->epoch)
			return;
		if (desk_holds(&n->d, m->x, &h) && h.flags & CLAIM_MOVING &&
		    h.epoch < m->epoch && m->kind == MOVE_RELEASE)
			return;
		/* Also refused: what is coming to us under a later one. */
		epoch = lays_aside(s) ? s->in.epoch : s->have ?
		    MAX(s->epoch, h.epoch) : 0;
		epoch += epoch == m->epoch && n->id > from;
		move_out_take(&s->out, &ops, s, from, m, epoch,
		    (uint64_t)s->node << 32 | (n->serial + 1), now);
		return;
	default:
		break;
	}
	merge = s->merge.epoch == m->epoch && s->merge.peer == from &&
	    s->merge.step != MOVE_OWN;
	if (merge)
		in = &s->merge;
	for (unsigned i = 0; i < TAILS; i++)
		if (s->tails[i].epoch == m->epoch && s->tails[i].peer == from &&
		    s->tails[i].step != MOVE_OWN && !merge)
			in = &s->tails[i];
	if (in->epoch != m->epoch || in->peer != from) {
		struct move_msg	ack = *m;

		/* Or it says so for ever. */
		ack.kind = MOVE_SETTLED_ACK;
		if (m->kind == MOVE_SETTLED)
			post_move(s, e->from, &ack, NULL);
		return;
	}
	if (move_in_take(in, &ops, s, m)) {
		if (m->kind == MOVE_STATE)
			state_item(s, e->it, merge);
		else if (e->it.snap != 0 && (s->have || is_away(s)))
			take_seen(s, e->it.snap);
		else if (is_away(s))
			append(s, e->it);
		else if (!s->have && lays_aside(s) && e->it.snap == 0) {
			CHECK(s->naside < ITEMS);
			s->aside[s->naside++] = e->it;
		} else if (s->have && (in->step == MOVE_DIRECT || merge))
			append_late(s, e->it);
		else if (s->have)
			append(s, e->it);
	}
	if (m->kind == MOVE_END && in->step == MOVE_INSTALLING &&
	    m->snap == in->snap && !merge) {
		take_seen(s, in->snap);
		s->next = nodes[m->snap >> 32].frozen[(uint32_t)m->snap].next;
		s->alone_snap = nodes[m->snap >> 32].frozen[
		    (uint32_t)m->snap].alone_snap;
	}
}

static void
copy_session(struct session *to, const struct session *from)
{
	seen_clear(&to->seen);
	*to = *from;
	CHECK(seen_copy(&to->seen, &from->seen) == 0);
}

static void
sync_node(struct node *n)
{
	n->dirty = false;
	memcpy(n->disk_mark, n->mark, sizeof(n->mark));
	for (unsigned x = 0; x < XS; x++) {
		struct session	*s = &n->s[x];

		for (unsigned i = 0; i < s->nq; i++) {
			s->q[i].rec_logged = s->q[i].state == REC;
			if (s->have && !is_away(s))
				stored[x][s->q[i].src][s->q[i].n] = true;
		}
		copy_session(&n->disk[x], s);
	}
	for (unsigned x = 0; x < XS; x++) {
		struct session	*s = &n->s[x];
		struct move	*m[] = { &s->in, &s->merge, &s->out };

		for (unsigned i = 0; i < NELEM(m); i++)
			if (m[i]->pending)
				move_synced(m[i], &ops, s);
		for (unsigned i = 0; i < TAILS; i++) {
			if (s->tails[i].pending)
				move_synced(&s->tails[i], &ops, s);
			move_relayed(&s->tails[i], &ops, s);
		}
		move_relayed(&s->in, &ops, s);
		move_relayed(&s->merge, &ops, s);
		if (s->out.step == MOVE_RELAYING && s->nrelays >
		    n->a[x].pushed) {
			op_relay(s, &s->out, n->a[x].pushed);
			n->a[x].pushed = s->nrelays;
		}
	}
}

/* --- The desk, and what it begins ---------------------------------------- */

static void
desk_send(void *ctx, const struct claim_msg *m)
{
	struct node	*n = ctx;
	struct event	*e;

	CHECK(n->my_core < NODES);
	if ((e = post((unsigned)(n - nodes), n->my_core, TO_REGISTRAR)) !=
	    NULL)
		e->m = *m;
}

static void
desk_grant(void *ctx, uint64_t token, const struct claim_msg *m)
{
	struct node	*n = ctx;
	struct attached	*a = &n->a[x_of(m->x)];

	a->token = token;
	a->grant = *m;
}

static void
desk_refuse(void *ctx, uint64_t x, uint64_t token UNUSED)
{
	struct node	*n = ctx;

	if (client[x_of(x)].at == (unsigned)(n - nodes) &&
	    !n->a[x_of(x)].connected)
		client[x_of(x)].at = NODES;
}

static void
add_todo(struct attached *a, uint64_t node)
{
	for (unsigned i = 0; i < a->ntodo; i++)
		if (a->todo[i] == node)
			return;
	CHECK(a->ntodo < TODO);
	a->todo[a->ntodo++] = node;
}

static void
desk_merge(void *ctx, const struct claim_msg *m)
{
	struct node	*n = ctx;

	for (unsigned i = 0; i < m->nholders; i++)
		if (is_idle(&n->s[x_of(m->x)].merge) ||
		    n->s[x_of(m->x)].merge.peer != m->holders[i].node)
			add_todo(&n->a[x_of(m->x)], m->holders[i].node);
}

static const struct desk_ops desk_ops = { desk_send, desk_grant, desk_refuse,
	desk_merge };

static void
settle(struct session *s)
{
	struct node	*n = node_of(s);

	attached(s)->connected = true;
	desk_state(&n->d, xs[s->x], CLAIM_DURABLE | CLAIM_CONNECTED);
	desk_settled(&n->d, xs[s->x], now);
}

/* The grant begins: from the highest holder comes the state, the others are
 * merged. */
static void
begin_grant(struct session *s)
{
	struct attached		*a = attached(s);
	struct claim_msg	*m = &a->grant;
	struct claim_holder	*best = NULL;
	struct move		*tail = NULL;
	bool			 here = false;

	if (s->have && (s->out.step == MOVE_FREEZING ||
	    s->out.step == MOVE_FROZEN))
		/* It stays: whom it was to go to is refused. */
		move_peer_down(&s->out, &ops, s);
	if (is_away(s) && s->out.epoch > m->epoch) {
		/* It was given to a later one meanwhile: 0x8E. */
		a->token = 0;
		desk_gone(&node_of(s)->d, xs[s->x], now);
		return;
	}
	/* Who gave it to us before may still relay: that goes on beside. */
	for (unsigned i = 0; i < TAILS && s->in.step == MOVE_DIRECT &&
	    !s->in.pending; i++)
		if (is_idle(&s->tails[i]))
			tail = &s->tails[i];
	if (s->have && !is_away(s) && is_idle(&s->out) && (is_idle(&s->in) ||
	    s->in.step == MOVE_DIRECT))
		here = true;
	else if ((!is_idle(&s->in) && tail == NULL) || (!is_idle(&s->out) &&
	    s->out.step != MOVE_RELAYING && (s->out.step != MOVE_FORGETTING ||
	    s->out.pending)))
		return;
	a->token = 0;
	if (!here && tail != NULL)
		*tail = s->in;
	if (!here) {
		/* What we remember went along. */
		s->have = false;
		s->nq = 0;
		seen_clear(&s->seen);
		memset(&s->in, 0, sizeof(s->in));
	}
	/* It went to that one after we were granted it. */
	if (!here && m->nholders == 0 && s->out.step >= MOVE_RELAYING)
		claim_add(m, &(struct claim_holder){ s->out.peer,
		    s->out.epoch, CLAIM_DURABLE });
	for (unsigned i = 0; i < m->nholders; i++) {
		struct claim_holder	*h = &m->holders[i];

		if (best == NULL || (h->flags & CLAIM_UNSURE) <
		    (best->flags & CLAIM_UNSURE) ||
		    ((h->flags & CLAIM_UNSURE) == (best->flags &
		    CLAIM_UNSURE) && claim_beats(h, best)))
			best = h;
	}
	if (here || best == NULL) {
		own(s, m->epoch, false, !here);
		s->unsure |= m->flags & CLAIM_PROVISIONAL;
		best = NULL;
	}
	for (unsigned i = 0; i < m->nholders; i++)
		if (&m->holders[i] != best)
			add_todo(a, m->holders[i].node);
	if (best == NULL) {
		settle(s);
		return;
	}
	all_moves++;
	a->in_ms = now;
	s->naside = 0;
	if (s->out.step != MOVE_RELAYING) {
		s->nrelays = 0;
		memset(&s->out, 0, sizeof(s->out));
	}
	move_in_begin(&s->in, &ops, s, xs[s->x], m->epoch, best->node, 0, now);
}

static void
begin_merge(struct session *s)
{
	struct attached	*a = attached(s);
	uint64_t	 node;

	if (!s->have || is_away(s)) {
		a->ntodo = 0;
		return;
	}
	if (a->ntodo == 0 || !is_idle(&s->merge) || !serves(s) ||
	    lays_aside(s))
		return;
	node = a->todo[--a->ntodo];
	/* That one is still giving it to us. */
	if (!is_idle(&s->in) && s->in.peer == node)
		return;
	all_merges++;
	late[s->x]++;		/* of two sessions, in the order of neither */
	memset(&s->merge, 0, sizeof(s->merge));
	s->nmerged = 0;
	move_in_begin(&s->merge, &ops, s, xs[s->x], s->epoch, node, MOVE_MERGE,
	    now);
}

/* Both judges say that node i is down. */
static bool
is_down(const struct node *n, unsigned i)
{
	unsigned	self = (unsigned)(n - nodes);

	if (!nodes[i].up)
		return now > nodes[i].down_at + DOWN_MS;
	return cut[self][i] && now > cut_since[self][i] + DOWN_MS;
}

static void
peer_down(struct session *s, unsigned i)
{
	uint64_t	id = nodes[i].id;

	if (s->in.peer == id)
		move_peer_down(&s->in, &ops, s);
	if (s->out.peer == id)
		move_peer_down(&s->out, &ops, s);
	if (s->merge.peer == id && s->merge.step == MOVE_ASKING &&
	    !s->merge.pending)
		/* It is found again when it is back. */
		memset(&s->merge, 0, sizeof(s->merge));
	else if (s->merge.peer == id)
		move_peer_down(&s->merge, &ops, s);
}

static void
tick_session(struct session *s)
{
	struct node		*n = node_of(s);
	struct attached		*a = attached(s);
	struct claim_holder	 h;
	bool			 every = true;
	uint8_t			 out = s->out.step;

	for (unsigned i = 0; i < nnodes; i++)
		every &= a->echoed[i];
	if (s->out.step == MOVE_FREEZING && now >= a->frozen_ms && !n->dirty) {
		move_frozen(&s->out, &ops, s);
	}
	if (s->out.step == MOVE_RELAYING && s->out.seen != 0 && (every ||
	    now > s->out.since_ms + MOVE_ECHO_MS)) {
		every &= is_idle(&s->in) && is_idle(&s->merge) &&
		    tails_are_idle(s);
		/* What comes later is of those that have not echoed. */
		if (!a->counted || (every && !a->every))
			a->total = s->nrelays;
		a->counted = true;
		a->every |= every;
		move_echoed(&s->out, &ops, s, a->every, a->total);
	}
	move_visible(&s->in, &ops, s, route_seq[s->node][s->x]);
	move_visible(&s->merge, &ops, s, route_seq[s->node][s->x]);
	move_tick(&s->in, &ops, s, 0, now);
	move_tick(&s->merge, &ops, s, 0, now);
	for (unsigned i = 0; i < TAILS; i++)
		move_tick(&s->tails[i], &ops, s, 0, now);
	move_tick(&s->out, &ops, s, n->disk[s->x].nrelays, now);
	for (unsigned i = 0; i < nnodes; i++)
		if (is_down(n, i) || (faults & F_SUSPECT && i != s->node &&
		    rnd(600) == 0))
			peer_down(s, i);
	if (s->in.step == MOVE_ASKING && !s->in.pending &&
	    now > a->in_ms + GIVE_UP_MS &&
	    is_down(n, index_of(s->in.peer))) {
		/* session.unreachable = new */
		all_given_up++;
		s->nq = 0;
		seen_clear(&s->seen);
		own(s, s->in.epoch, true, true);
		memset(&s->in, 0, sizeof(s->in));
		op_direct(s, &s->in);
		settle(s);
	}
	if (s->in.step == MOVE_LOST) {
		memset(&s->in, 0, sizeof(s->in));
		if (!s->have) {
			a->connected = false;
			desk_gone(&n->d, xs[s->x], now);
		}
	}
	if (out <= MOVE_FROZEN && is_away(s))
		a->connected = false;
	if (is_away(s) && s->out.step != MOVE_GIVING &&
	    desk_holds(&n->d, xs[s->x], &h) && !(h.flags & CLAIM_MOVING))
		desk_gone(&n->d, xs[s->x], now);
	if ((s->in.step == MOVE_DIRECT || s->in.step >= MOVE_CLOSED) &&
	    s->have && desk_holds(&n->d, xs[s->x], &h) &&
	    h.flags & CLAIM_MOVING && a->token == 0 && !is_away(s))
		settle(s);
	/* A merge raised it. */
	if (s->have && !is_away(s) && desk_holds(&n->d, xs[s->x], &h) &&
	    !(h.flags & CLAIM_MOVING) && h.epoch > s->epoch) {
		s->epoch = h.epoch;
		n->dirty = true;
	}
	if (a->token != 0)
		begin_grant(s);
	begin_merge(s);
}

/* While another one has it, too, nobody can know what that one has delivered,
 * and the order is that of neither. Who went on alone knows what was before the
 * freeze. */
static void
note_split(const struct session *s)
{
	unsigned	x = s->x;
	uint32_t	known;

	served[s->node][x] = node_of(s)->serial + 1;
	for (unsigned i = 0; i < nnodes; i++) {
		if (i == s->node || !nodes[i].s[x].have ||
		    is_away(&nodes[i].s[x]))
			continue;
		known = s->alone_snap >> 32 == i ? (uint32_t)s->alone_snap : 0;
		split[x] |= served[i][x] > known;
		late[x]++;
	}
}

static void
deliver_client(struct session *s)
{
	struct node	*n = node_of(s);
	unsigned	 x = s->x;

	if (s->nq > 0)
		note_split(s);

	for (unsigned i = 0, k = 0; k < 4 && i < s->nq; i++) {
		struct item	*it = &s->q[i];
		unsigned	*got = &client[x].got[it->src][it->n];

		if (it->off >= n->disk[x].next || rnd(5) == 0 ||
		    n->disk[x].nq == 0 ||
		    it->off >= n->disk[x].q[0].off + WINDOW)
			return;
		k++;
		if (it->state == REC) {
			if (!it->rec_logged)
				return;
			client[x].pend[it->off] = false;
			if (rnd(2))
				return;
		} else {
			if (it->qos < 2 || !client[x].pend[it->off]) {
				if (*got == 0 && late[x] == 0 && !split[x] &&
				    covered[x][it->src][it->n])
					CHECK(it->n >= client[x].last[it->src]);
				client[x].last[it->src] = MAX(it->n,
				    client[x].last[it->src]);
				++*got;
				all_delivered++;
				CHECK(it->qos < 2 || *got == 1 || split[x]);
			}
			if (it->qos == 2)
				client[x].pend[it->off] = true;
			it->state = SENT;
			if (rnd(3) == 0)
				return;
			n->dirty = true;
			if (it->qos == 2) {
				it->state = REC;
				continue;
			}
		}
		memmove(it, it + 1, (s->nq - i - 1) * sizeof(*it));
		s->nq--;
		i--;
		n->dirty = true;
	}
}

static void
tick_store(struct node *n)
{
	unsigned	self = (unsigned)(n - nodes);

	for (unsigned i = 0; i < nnodes; i++)
		for (unsigned k = rnd(4); k > 0 && !cut[i][self] &&
		    n->mark[i] < streams[i][self].n; k--) {
			arrive(n, &streams[i][self].r[n->mark[i]++], i);
			n->dirty = true;
		}
	for (unsigned x = 0; x < XS; x++) {
		tick_session(&n->s[x]);
		if (client[x].at == self && n->a[x].connected &&
		    serves(&n->s[x]))
			deliver_client(&n->s[x]);
	}
	if (n->dirty && rnd(3) == 0)
		sync_node(n);
}

/* --- Start and stop ------------------------------------------------------ */

static void
start(struct node *n)
{
	n->up = n->dirty = true;
	n->life++;
	n->my_core = NODES;
	n->switch_at = now + rnd(50);
	memset(n->a, 0, sizeof(n->a));
	desk_init(&n->d, n->id, &desk_ops, n);
	if (n->core)
		registrar_init(&n->r, n->id, &reg_ops, n);
	for (unsigned x = 0; x < XS; x++) {
		struct session	*s = &n->s[x];

		for (unsigned i = 0; i < nnodes; i++)
			want[i][s->node][x].epoch = 0;
		/* Whom it was for is gone; nobody has given us anything. */
		if (s->in.step == MOVE_ASKING)
			memset(&s->in, 0, sizeof(s->in));
		if (s->merge.step == MOVE_ASKING)
			memset(&s->merge, 0, sizeof(s->merge));
		if (!s->have && is_idle(&s->in))
			s->nq = s->naside = 0;
		if (s->have && !is_away(s)) {
			s->unsure = true;
			/* What was sent is not logged. */
			for (unsigned i = 0; i < s->nq && s->q[i].off <
			    s->q[0].off + WINDOW; i++)
				if (s->q[i].state == QUEUED)
					s->q[i].state = SENT;
		}
		if ((s->have && !is_away(s)) || lays_aside(s))
			CHECK(desk_restore(&n->d, xs[x], MAX(s->epoch,
			    lays_aside(s) ? s->in.epoch : 0)) == 0);
		if (s->in.step != 0)
			move_resume(&s->in, &ops, s, now);
		if (s->merge.step != 0)
			move_resume(&s->merge, &ops, s, now);
		for (unsigned i = 0; i < TAILS; i++)
			if (s->tails[i].step != 0)
				move_resume(&s->tails[i], &ops, s, now);
		if (s->out.step != 0)
			move_resume(&s->out, &ops, s, now);
	}
}

static void	unlink_nodes(unsigned a, unsigned b);
static void	leave_core(struct node *n);

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
	n->down_at = now;
	n->life++;
	memcpy(n->mark, n->disk_mark, sizeof(n->mark));
	for (unsigned x = 0; x < XS; x++) {
		copy_session(&n->s[x], &n->disk[x]);
		if (client[x].at == self)
			client[x].at = NODES;
	}
	desk_fini(&n->d);
	if (n->core) {
		all_conflicts += n->r.stats.conflicts;
		registrar_fini(&n->r);
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

	if (!n->up || n->life != e->life[1] || cut[e->from][e->to] ||
	    (e->what != MOVE && (nodes[e->from].life != e->life[0] || !same)))
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
	case MOVE:
		take_move(n, e);
		break;
	}
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

/* Publishers, and routes as they become known. */
static void
sources(void)
{
	for (unsigned s = 0; s < nnodes; s++)
		for (unsigned d = 0; d < nnodes; d++)
			for (unsigned x = 0; x < XS; x++) {
				struct stream	*f = &streams[s][d];
				unsigned	 of = want[s][d][x].of;

				if (!nodes[s].up || cut[s][d])
					continue;
				if (now >= view_at[s][d][x] && nodes[d].up) {
					view[s][d][x] = route[d][x];
					view_seq[s][d][x] = route_seq[d][x];
				}
				if (want[s][d][x].seq == 0 ||
				    want[s][d][x].epoch == 0 ||
				    view_seq[s][of][x] < want[s][d][x].seq)
					continue;
				CHECK(f->n < STREAM);
				f->r[f->n++] = (struct record){ .x = x,
				    .echo = want[s][d][x].epoch };
				want[s][d][x].seq = 0;
			}
}

static void
publish(unsigned s, unsigned x)
{
	struct record	r = { .x = x };

	if (!nodes[s].up || published[s][x] == IDS)
		return;
	r.it.src = s;
	r.it.n = published[s][x]++;
	r.it.at = now;
	r.it.qos = (uint8_t)(1 + rnd(2));
	for (unsigned d = 0; d < nnodes; d++)
		if (view[s][d][x]) {
			covered[x][s][r.it.n] |= nodes[d].s[x].have &&
			    nodes[d].s[x].out.step <= MOVE_FORGETTING;
			CHECK(streams[s][d].n < STREAM);
			streams[s][d].r[streams[s][d].n++] = r;
		}
}

/* What the router knows of the members. */
static bool
is_whole(unsigned core)
{
	for (unsigned i = 0; i < nnodes; i++)
		if (!nodes[i].up || nodes[i].my_core >= NODES ||
		    (nodes[i].my_core != core &&
		    !sees[core][nodes[i].my_core]))
			return false;
	return true;
}

static void
step(void)
{
	now += 1 + rnd(30);
	connections();
	for (unsigned i = 0; i < ncores; i++)
		if (nodes[i].up)
			registrar_whole(&nodes[i].r, is_whole(i));
	sources();
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
		tick_store(n);
	}
}

static void
attach(struct node *n, unsigned x)
{
	for (unsigned i = 0; i < nnodes; i++)
		if (client[x].at == i && nodes[i].up && &nodes[i] != n &&
		    nodes[i].a[x].connected && rnd(2)) {
			/* It closed that connection. */
			nodes[i].a[x].connected = false;
			desk_state(&nodes[i].d, xs[x], CLAIM_DURABLE);
		}
	client[x].at = (unsigned)(n - nodes);
	all_attaches++;
	desk_clock(&n->d, clock_of(n));
	CHECK(desk_attach(&n->d, xs[x], ++tokens, now) == 0);
}

static void
hop(void)
{
	struct node	*n = &nodes[rnd(nnodes)];

	if (n->up && !n->stopped)
		attach(n, rnd(XS));
}

static void
set_cut(unsigned a, unsigned b, bool on)
{
	if (on && !cut[a][b])
		cut_since[a][b] = now;
	cut[a][b] = on;
}

static void
trouble(void)
{
	unsigned	 a = rnd(nnodes), b = rnd(nnodes);
	struct node	*n = &nodes[a];

	switch (1u << rnd(FAULTS) & faults) {
	case F_BREAK:
		if (a != b && a < ncores && b < ncores)
			unlink_nodes(a, b);
		break;
	case F_PART:
		if (rnd(2)) {
			memset(cut, 0, sizeof(cut));
		} else if (a != b && rnd(2)) {
			set_cut(a, b, true);
			set_cut(b, a, true);
		} else {
			unsigned	part = rnd(1u << nnodes);

			for (a = 0; a < nnodes; a++)
				for (b = 0; b < nnodes; b++)
					set_cut(a, b, (part >> a & 1) !=
					    (part >> b & 1));
		}
		break;
	case F_CRASH:
		if (n->up) {
			all_crashes++;
			stop(n);
		} else
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

static bool
same_part(unsigned a, unsigned b)
{
	if (nodes[a].my_core >= NODES || nodes[b].my_core >= NODES)
		return a == b;
	return (nodes[a].my_core == nodes[b].my_core ||
	    linked[nodes[a].my_core][nodes[b].my_core]) && !cut[a][b];
}

static bool
at_rest(void)
{
	for (unsigned i = 0; i < nnodes; i++)
		for (unsigned x = 0; x < XS; x++) {
			const struct session	*s = &nodes[i].s[x];

			if (!is_idle(&s->in) || !is_idle(&s->merge) ||
			    !is_idle(&s->out) || !tails_are_idle(s) ||
			    s->naside > 0 || s->nq > 0 ||
			    nodes[i].a[x].ntodo > 0 || nodes[i].dirty)
				return false;
		}
	for (unsigned i = 0; i < nnodes; i++)
		for (unsigned d = 0; d < nnodes; d++)
			if (nodes[d].mark[i] < streams[i][d].n)
				return false;
	return nqueue == 0;
}

static void
wait_for_quiet(bool whole)
{
	uint64_t	end = now + (whole ? 240000 : 120000), rest = 0;

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
	for (unsigned i = 0; now < end; i++) {
		step();
		now += 10;
		/* The client comes to who has its session. */
		for (unsigned x = 0; x < XS && whole && i % 256 == 255; x++)
			for (unsigned k = 0; k < nnodes; k++)
				if (serves(&nodes[k].s[x]) &&
				    (client[x].at != k ||
				    !nodes[k].a[x].connected)) {
					attach(&nodes[k], x);
					break;
				}
		rest = whole && at_rest() ? rest + 1 : 0;
		if (rest > 300)
			return;
	}
	CHECK(!whole);
}

/* (i) */
static void
check_one_holder(void)
{
	for (unsigned x = 0; x < XS; x++)
		for (unsigned a = 0; a < nnodes; a++) {
			struct claim_holder	h;

			if (!desk_holds(&nodes[a].d, xs[x], &h))
				continue;
			for (unsigned b = a + 1; b < nnodes; b++)
				CHECK(!same_part(a, b) || !desk_holds(
				    &nodes[b].d, xs[x], &h));
		}
}

static void
check_whole(void)
{
	check_one_holder();
	for (unsigned x = 0; x < XS; x++) {
		unsigned	n = 0, any = 0;

		for (unsigned a = 0; a < nnodes; a++) {
			struct claim_holder	h;

			n += nodes[a].s[x].have;
			CHECK(nodes[a].s[x].have == desk_holds(&nodes[a].d,
			    xs[x], &h));
			if (nodes[a].s[x].have)
				CHECK(desk_is_confirmed(&nodes[a].d, xs[x]));
		}
		CHECK(n <= 1);
		for (unsigned s = 0; s < nnodes; s++)
			for (unsigned i = 0; i < published[s][x]; i++) {
				any += stored[x][s][i];
				if (stored[x][s][i] && !excused[x][s][i])
					/* (ii) */
					CHECK(client[x].got[s][i] > 0);
			}
		CHECK(n == 1 || any == 0);
	}
	for (unsigned c = 0; c < ncores; c++)
		CHECK(nodes[c].r.claims.n == 0 && nodes[c].r.waiters.n == 0);
}

static void
clear(void)
{
	for (unsigned i = 0; i < NODES; i++) {
		for (unsigned x = 0; x < XS; x++) {
			seen_clear(&nodes[i].s[x].seen);
			seen_clear(&nodes[i].disk[x].seen);
		}
		for (unsigned k = 0; k <= nodes[i].serial; k++)
			seen_clear(&nodes[i].frozen[k].seen);
	}
	memset(nodes, 0, sizeof(nodes));
	memset(cut, 0, sizeof(cut));
	memset(linked, 0, sizeof(linked));
	memset(sees, 0, sizeof(sees));
	memset(relink, 0, sizeof(relink));
	memset(last_due, 0, sizeof(last_due));
	memset(streams, 0, sizeof(streams));
	memset(route, 0, sizeof(route));
	memset(view, 0, sizeof(view));
	memset(route_seq, 0, sizeof(route_seq));
	memset(view_seq, 0, sizeof(view_seq));
	memset(view_at, 0, sizeof(view_at));
	memset(want, 0, sizeof(want));
	memset(published, 0, sizeof(published));
	memset(stored, 0, sizeof(stored));
	memset(excused, 0, sizeof(excused));
	memset(covered, 0, sizeof(covered));
	memset(client, 0, sizeof(client));
	memset(split, 0, sizeof(split));
	memset(served, 0, sizeof(served));
	memset(late, 0, sizeof(late));
	nqueue = ranges = 0;
}

static void
one_seed(void)
{
	unsigned	steps = 100 + (unsigned)(seed % 5) * 60;
	bool		parted = false;

	state_rnd = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (unsigned i = 0; i < 8; i++)
		rnd(2);
	clear();
	now = 1000000;
	faults = rnd(5) == 0 ? 0 : rnd(3) == 0 ? F_ALL : rnd(F_ALL + 1);
	met = faults;
	ncores = 1 + rnd(3);
	nnodes = ncores + rnd(NODES - ncores + 1);
	nnodes = MAX(nnodes, 2);
	for (unsigned i = 0; i < XS; i++) {
		xs[i] = UINT64_C(0x1234567890) * (i + 1);
		client[i].at = NODES;
	}
	for (unsigned i = 0; i < nnodes; i++) {
		nodes[i].id = 1000 + rnd(1000) * 16 + i;
		nodes[i].core = i < ncores;
		if (faults & F_SKEW)
			nodes[i].skew = (int64_t)rnd(16000) - 8000;
		for (unsigned x = 0; x < XS; x++) {
			nodes[i].s[x].node = i;
			nodes[i].s[x].x = x;
			nodes[i].s[x].seen.max = ITEMS;
			copy_session(&nodes[i].disk[x], &nodes[i].s[x]);
		}
		start(&nodes[i]);
	}
	for (unsigned i = 0; i < 30; i++)
		step();
	for (unsigned i = 0; i < steps; i++) {
		step();
		if (rnd(6) == 0)
			hop();
		if (rnd(2))
			publish(rnd(nnodes), rnd(XS));
		if (rnd(8) == 0)
			trouble();
	}
	faults = 0;
	for (unsigned a = 0; a < nnodes; a++)
		for (unsigned b = 0; b < nnodes; b++)
			parted |= cut[a][b];
	if (parted && rnd(2)) {
		wait_for_quiet(false);
		check_one_holder();
	}
	memset(cut, 0, sizeof(cut));
	wait_for_quiet(true);
	check_whole();
	for (unsigned i = 0; i < nnodes; i++)
		stop(&nodes[i]);
}

static void
one_session_whatever_happens(void **state UNUSED)
{
	const char	*s = getenv("CLUSTER_SEED");
	const char	*n = getenv("CLUSTER_SEEDS");
	uint64_t	 first = s ? strtoull(s, NULL, 10) : 1;
	uint64_t	 many = n ? strtoull(n, NULL, 10) : s ? 1 : 1200;

	queue = calloc(QUEUE, sizeof(*queue));
	assert_non_null(queue);
	for (seed = first; seed < first + many; seed++)
		one_seed();
	clear();
	free(queue);
	print_message("%llu attaches, %llu moves, %llu merges, %llu alone, "
	    "%llu given up, %llu conflicts, %llu crashes, %llu delivered, "
	    "%llu late\n", (unsigned long long)all_attaches,
	    (unsigned long long)all_moves, (unsigned long long)all_merges,
	    (unsigned long long)all_alone, (unsigned long long)all_given_up,
	    (unsigned long long)all_conflicts, (unsigned long long)all_crashes,
	    (unsigned long long)all_delivered, (unsigned long long)all_late);
	/* The seeds must have met what they are to prove. */
	if (many < 500)
		return;
	assert_true(all_moves > 500 && all_merges > 50 && all_alone > 5);
	assert_true(all_conflicts > 50 && all_crashes > 100);
	assert_true(all_delivered > 1000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_session_whatever_happens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

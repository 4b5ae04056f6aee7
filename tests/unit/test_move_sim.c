/*
 * move: one durable session among the stores of some nodes, publishers at all
 * of them, routes that are seen late, streams that stall and resend, messages
 * between stores that are lost, doubled and overtake each other, stores that
 * die with what they had not logged. The client must get every message, QoS 2
 * once, in order but for counted late relays.
 *
 *   MOVE_SEED=n replays one seed, MOVE_SEEDS=n runs so many (default 3000)
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

enum { NODES = 4, IDS = 96, ITEMS = NODES * IDS, STREAM = 2 * IDS + 64,
	MAIL = 4096, X = 7, DOWN_MS = 1000 };
enum { F_LOSS = 1, F_DOUBLE = 2, F_CRASH = 4, F_STALL = 8, F_LATE = 16,
	F_LONG = 32, F_SUSPECT = 64, F_ALL = 127 };

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
	unsigned	src, n;		/* the id: n-th of publisher src */
	uint32_t	off;
	uint8_t		qos, state;
	bool		rec_logged;
};

struct session {
	bool		have;		/* it is in our log */
	uint64_t	epoch;
	struct item	q[ITEMS];
	unsigned	nq;
	uint32_t	next, frozen_at;
	bool		seen[NODES][IDS];	/* ids remembered */
	struct item	aside[ITEMS];
	unsigned	naside;
	struct item	relays[ITEMS];	/* what came after the freeze */
	unsigned	nrelays;
	unsigned	mark[NODES];	/* records taken of each stream */
	struct move	in, merge, out;
};

struct store {
	bool		up, dirty;
	uint64_t	down_at;
	struct session	s, disk;
	uint64_t	serial;		/* of freezes: never goes back */
	uint64_t	frozen_ms;	/* when the last acks are in */
	bool		echoed[NODES];	/* for out */
	bool		frozen_seen[256][NODES][IDS];	/* by freeze */
};

struct record {
	struct item	it;
	uint64_t	echo;		/* epoch of the move; 0: a message */
};

struct stream {
	struct record	r[STREAM];
	unsigned	n, due;		/* due: how many may be taken */
	uint64_t	stalled_until;
};

struct mail {
	uint64_t	at;
	unsigned	from, to;
	struct move_msg	m;
	struct item	it;
};

static struct store	 st[NODES];
static bool		 split;		/* somebody was wrongly thought down */
static struct stream	 streams[NODES][NODES];
static struct mail	*mail;
static unsigned		 nmail, nnodes;
static uint64_t		 last_due[NODES][NODES];
static uint64_t		 now;
static bool		 route[NODES], view[NODES][NODES];
static uint64_t		 route_seq[NODES], view_seq[NODES][NODES];
static uint64_t		 view_at[NODES][NODES];
static uint64_t		 want_seq[NODES][NODES], want_epoch[NODES][NODES];
static unsigned		 want_of[NODES][NODES];
static unsigned		 published[NODES];
static uint8_t		 qos_of[NODES][IDS];

static struct {
	unsigned	 at;		/* NODES: nowhere */
	bool		 pend[ITEMS * 64];
	unsigned	 got[NODES][IDS];
	unsigned	 last[NODES];
} client;
static uint64_t		 epoch, late, all_late, all_moves, all_crashes;
static uint64_t		 all_merges, all_thaws, steps_crashed[MOVE_LOST + 1];

static void
set_route(unsigned n, bool on)
{
	if (route[n] == on)
		return;
	route[n] = on;
	route_seq[n]++;
	for (unsigned s = 0; s < nnodes; s++)
		view_at[s][n] = now + (s == n ? 0 : rnd(faults & F_LATE &&
		    rnd(6) == 0 ? 9000 : 150));
}

static void
post(unsigned from, unsigned to, const struct move_msg *m,
    const struct item *it)
{
	unsigned	copies = faults & F_DOUBLE && rnd(4) == 0 ? 2 : 1;

	if (faults & F_LOSS && rnd(5) == 0)
		return;
	for (; copies > 0; copies--) {
		CHECK(nmail < MAIL);
		mail[nmail].at = now + 1 + rnd(rnd(6) == 0 ? 400 : 20);
		if (!(faults & F_DOUBLE))
			mail[nmail].at = last_due[from][to] =
			    MAX(mail[nmail].at, last_due[from][to]);
		mail[nmail].from = from;
		mail[nmail].to = to;
		mail[nmail].m = *m;
		if (it != NULL)
			mail[nmail].it = *it;
		nmail++;
	}
}

static void
op_send(void *ctx, uint64_t node, const struct move_msg *m)
{
	post((unsigned)((struct store *)ctx - st), (unsigned)node, m, NULL);
}

static void
op_log(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	t->dirty = true;
	/* All of that is at H, too, whose routes are still there. */
	if (m->step == MOVE_LOST && !t->s.have) {
		t->s.nq = t->s.naside = 0;
		set_route((unsigned)(t - st), false);
	}
	if (m->step == MOVE_INSTALLING)
		set_route((unsigned)(t - st), true);
}

static void
op_freeze(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	t->s.frozen_at = t->s.next;
	memcpy(t->frozen_seen[m->snap % 256], t->s.seen,
	    sizeof(t->s.seen));
	t->s.nrelays = 0;
	memset(t->echoed, 0, sizeof(t->echoed));
	t->frozen_ms = now + rnd(300);
	t->dirty = true;
}

static uint64_t
op_state(void *ctx, struct move *m)
{
	struct store	*t = ctx;
	struct move_msg	 out = { .kind = MOVE_STATE, .x = X };
	uint64_t	 n = 0;

	out.epoch = m->epoch;
	out.snap = m->snap;
	for (unsigned i = 0; i < t->s.nq; i++)
		if (t->s.q[i].off < t->s.frozen_at) {
			out.seq = n++;
			post((unsigned)(t - st), (unsigned)m->peer, &out,
			    &t->s.q[i]);
		}
	return n;
}

static void
op_relay(void *ctx, struct move *m, uint64_t seq)
{
	struct store	*t = ctx;
	struct move_msg	 out = { .kind = MOVE_RELAY, .x = X };

	out.epoch = m->epoch;
	out.snap = m->snap;
	for (; seq < t->disk.nrelays; seq++) {
		out.seq = seq;
		post((unsigned)(t - st), (unsigned)m->peer, &out,
		    &t->s.relays[seq]);
	}
}

static void
op_barrier(void *ctx, struct move *m)
{
	unsigned	h = (unsigned)((struct store *)ctx - st);

	for (unsigned s = 0; s < nnodes; s++)
		if (!st[h].echoed[s] && want_epoch[s][h] != m->epoch) {
			want_epoch[s][h] = m->epoch;
			want_seq[s][h] = m->seen;
			want_of[s][h] = (unsigned)m->peer;
		}
}

static void
op_thaw(void *ctx, struct move *m UNUSED)
{
	struct store	*t = ctx;

	t->s.nrelays = 0;
	all_thaws++;
}

static void
op_drop(void *ctx, struct move *m UNUSED)
{
	struct store	*t = ctx;

	t->s.have = false;
	t->s.nq = t->s.nrelays = 0;
	t->dirty = true;
	set_route((unsigned)(t - st), false);
}

static void
op_restart(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE)
		return;
	t->s.nq = 0;
	t->s.next = 0;
	memset(t->s.seen, 0, sizeof(t->s.seen));
}

static void
op_own(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE)
		return;
	t->s.have = true;
	t->s.epoch = m->epoch;
	if (m->alone)
		t->s.next += ITEMS;
	t->dirty = true;
}

static void
append(struct store *t, struct item it)
{
	struct session	*s = &t->s;

	if (s->seen[it.src][it.n])
		return;
	s->seen[it.src][it.n] = true;
	CHECK(s->nq < ITEMS);
	it.off = s->next++;
	it.state = QUEUED;
	s->q[s->nq++] = it;
	if (s->out.step != MOVE_OWN && s->out.step != MOVE_FORGOTTEN)
		s->relays[s->nrelays++] = it;
	t->dirty = true;
}

static void
append_late(struct store *t, struct item it)
{
	if (!t->s.seen[it.src][it.n]) {
		late++;
		all_late++;
	}
	append(t, it);
}

static void
op_direct(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE)
		return;
	for (unsigned i = 0; i < t->s.naside; i++)
		append(t, t->s.aside[i]);
	t->s.naside = 0;
	t->dirty = true;
}

static const struct move_ops ops = { op_send, op_log, op_freeze, op_state,
	op_relay, op_barrier, op_thaw, op_drop, op_restart, op_own, op_direct };

/* --- A store ------------------------------------------------------------- */

static bool
lays_aside(const struct session *s)
{
	return s->in.step >= MOVE_ASKING && s->in.step <= MOVE_ENDING;
}

static bool
serves(const struct session *s)
{
	return s->have && (s->out.step == MOVE_OWN ||
	    s->out.step == MOVE_FORGOTTEN) && (s->in.step < MOVE_ASKING ||
	    s->in.step >= MOVE_TAKEN) && s->in.step != MOVE_LOST;
}

static void
arrive(struct store *t, const struct record *r, unsigned src)
{
	if (r->echo != 0) {
		if (t->s.out.epoch == r->echo)
			t->echoed[src] = true;
		return;
	}
	if (lays_aside(&t->s)) {
		CHECK(t->s.naside < ITEMS);
		t->s.aside[t->s.naside++] = r->it;
	} else if (t->s.have) {
		append(t, r->it);
	}
}

static void
state_item(struct store *t, const struct mail *l, bool merge)
{
	struct item	it = l->it;

	if (merge) {
		if (it.qos < 2 || it.state == QUEUED)
			append_late(t, it);
		return;
	}
	t->s.seen[it.src][it.n] = true;
	CHECK(t->s.nq < ITEMS);
	t->s.q[t->s.nq++] = it;
	t->s.next = MAX(t->s.next, it.off + 1);
}

static void
take(struct store *t, const struct mail *l)
{
	const struct move_msg	*m = &l->m;
	struct move		*in = &t->s.in;
	bool			 merge = t->s.merge.epoch == m->epoch;

	switch (m->kind) {
	case MOVE_RELEASE:
	case MOVE_INSTALLED:
	case MOVE_RELAYED:
	case MOVE_VISIBLE:
	case MOVE_DONE_ACK:
	case MOVE_SETTLED_ACK:
		if (lays_aside(&t->s) && t->s.in.epoch < m->epoch)
			return;		/* the next waits for done */
		move_out_take(&t->s.out, &ops, t, l->from, m,
		    t->s.have ? t->s.epoch : 0,
		    (uint64_t)(t - st) << 32 | ++t->serial, now);
		t->dirty = true;
		return;
	default:
		break;
	}
	if (merge)
		in = &t->s.merge;
	if (in->epoch != m->epoch || in->peer != l->from)
		return;
	if (move_in_take(in, &ops, t, m)) {
		if (m->kind == MOVE_STATE) {
			state_item(t, l, merge);
		} else {
			if (in->step == MOVE_DIRECT || merge)
				append_late(t, l->it);
			else
				append(t, l->it);
		}
	}
	/* The ids remembered at the freeze go along, as one item more. */
	if (m->kind == MOVE_END && in->step == MOVE_INSTALLING &&
	    m->snap == in->snap)
		for (unsigned i = 0; i < NODES * IDS; i++)
			t->s.seen[i / IDS][i % IDS] |=
			    st[l->from].frozen_seen[m->snap % 256]
			    [i / IDS][i % IDS];
	t->dirty = true;
}

static void
sync_store(struct store *t)
{
	struct move	*m[] = { &t->s.in, &t->s.merge, &t->s.out };

	t->dirty = false;
	for (unsigned i = 0; i < t->s.nq; i++)
		t->s.q[i].rec_logged = t->s.q[i].state == REC;
	t->disk = t->s;
	for (unsigned i = 0; i < NELEM(m); i++)
		if (m[i]->pending)
			move_synced(m[i], &ops, t);
	move_relayed(&t->s.in, &ops, t);
	move_relayed(&t->s.merge, &ops, t);
}

static void
deliver_client(struct store *t)
{
	struct session	*s = &t->s;

	for (unsigned i = 0, k = 0; k < 4 && i < s->nq; i++) {
		struct item	*it = &s->q[i];

		if (it->off >= t->disk.next || rnd(5) == 0)
			return;
		k++;
		if (it->state == REC) {
			/* Logged before PUBREL. */
			if (!it->rec_logged)
				return;
			client.pend[it->off] = false;
			if (rnd(2))
				return;
		} else {
			bool	fresh = it->qos < 2 || !client.pend[it->off];

			if (fresh) {
				unsigned *got = &client.got[it->src][it->n];

				if (*got == 0) {
					if (late == 0 && !split)
						CHECK(it->n >=
						    client.last[it->src]);
					client.last[it->src] = MAX(it->n,
					    client.last[it->src]);
				}
				++*got;
				CHECK(it->qos < 2 || *got == 1 ||
				    split);
			}
			if (it->qos == 2)
				client.pend[it->off] = true;
			it->state = SENT;
			if (rnd(3) == 0)
				return;	/* the answer is not here yet */
			t->dirty = true;
			if (it->qos == 2) {
				it->state = REC;
				continue;
			}
		}
		memmove(it, it + 1, (s->nq - i - 1) * sizeof(*it));
		s->nq--;
		i--;
		t->dirty = true;
	}
}

static void
tick_store(struct store *t)
{
	unsigned	self = (unsigned)(t - st);
	struct session	*s = &t->s;
	bool		every = true;

	for (unsigned i = 0; i < nnodes; i++) {
		struct stream	*f = &streams[i][self];

		if (now < f->stalled_until)
			continue;
		for (unsigned k = rnd(4); k > 0 && s->mark[i] < f->n; k--) {
			arrive(t, &f->r[s->mark[i]++], i);
			t->dirty = true;
		}
		every &= t->echoed[i];
	}
	for (unsigned i = 0; i < nnodes; i++)
		every &= t->echoed[i];
	if (s->out.step == MOVE_FREEZING && now >= t->frozen_ms)
		move_frozen(&s->out, &ops, t);
	if (s->out.step == MOVE_RELAYING && s->out.seen != 0 && (every ||
	    now > s->out.since_ms + MOVE_ECHO_MS))
		move_echoed(&s->out, &ops, t,
		    every && (s->in.step < MOVE_ASKING ||
		    s->in.step >= MOVE_CLOSED) &&
		    (s->merge.step == MOVE_OWN ||
		    s->merge.step >= MOVE_CLOSED), s->nrelays);
	move_visible(&s->in, &ops, t, route_seq[self]);
	move_visible(&s->merge, &ops, t, route_seq[self]);
	move_tick(&s->in, &ops, t, 0, now);
	move_tick(&s->merge, &ops, t, 0, now);
	move_tick(&s->out, &ops, t, t->disk.nrelays, now);
	for (unsigned i = 0; i < nnodes; i++)
		if ((!st[i].up && now > st[i].down_at + DOWN_MS) ||
		    (faults & F_SUSPECT && rnd(400) == 0)) {
			/* Both going on is a true split: each serves. */
			split |= st[i].up;
			if (s->in.peer == i)
				move_peer_down(&s->in, &ops, t);
			if (s->out.peer == i)
				move_peer_down(&s->out, &ops, t);
		}
	if (client.at == self && serves(s))
		deliver_client(t);
	if (t->dirty && rnd(3) == 0)
		sync_store(t);
}

static void
crash(struct store *t)
{
	all_crashes++;
	steps_crashed[t->s.in.step]++;
	steps_crashed[t->s.out.step]++;
	t->up = false;
	t->down_at = now;
	t->s = t->disk;
	if (client.at == (unsigned)(t - st))
		client.at = NODES;
}

static void
restart(struct store *t)
{
	t->up = true;
	t->dirty = true;
	memset(t->echoed, 0, sizeof(t->echoed));
	for (unsigned s = 0; s < nnodes; s++)
		want_epoch[s][t - st] = 0;
	if (t->s.in.step != 0)
		move_resume(&t->s.in, &ops, t, now);
	if (t->s.merge.step != 0)
		move_resume(&t->s.merge, &ops, t, now);
	if (t->s.out.step != 0)
		move_resume(&t->s.out, &ops, t, now);
}

/* --- Publishers and the rest --------------------------------------------- */

static void
publish(unsigned s)
{
	struct item	it = { .src = s, .n = published[s] };
	bool		any = false;

	if (published[s] == IDS)
		return;
	it.qos = qos_of[s][it.n] = (uint8_t)(1 + rnd(2));
	published[s]++;
	for (unsigned d = 0; d < nnodes; d++)
		if (view[s][d]) {
			struct stream	*f = &streams[s][d];

			any = true;
			CHECK(f->n < STREAM);
			f->r[f->n++] = (struct record){ it, 0 };
		}
	CHECK(any);
}

static void
sources(void)
{
	for (unsigned s = 0; s < nnodes; s++)
		for (unsigned d = 0; d < nnodes; d++) {
			struct stream	*f = &streams[s][d];

			if (now >= view_at[s][d]) {
				view[s][d] = route[d];
				view_seq[s][d] = route_seq[d];
			}
			if (want_epoch[s][d] != 0 && want_epoch[s][d] <
			    UINT64_MAX && want_seq[s][d] != 0 &&
			    view_seq[s][want_of[s][d]] >= want_seq[s][d]) {
				CHECK(f->n < STREAM);
				f->r[f->n++] = (struct record){
					.echo = want_epoch[s][d],
				};
				want_seq[s][d] = 0;
			}
		}
}

static unsigned
holder(void)
{
	unsigned	best = NODES;

	for (unsigned i = 0; i < nnodes; i++)
		if (st[i].s.have && (best == NODES ||
		    st[i].s.epoch > st[best].s.epoch))
			best = i;
	return best;
}

/* What the desks and registrars do elsewhere: one grant after the other. */
static void
hop(void)
{
	unsigned	h = holder(), a = rnd(nnodes);
	struct session	*s = &st[a].s;

	if (!st[a].up || h == NODES)
		return;
	for (unsigned i = 0; i < nnodes; i++)
		if (lays_aside(&st[i].s))
			return;
	if (a == h) {
		if (serves(s))
			client.at = a;
		return;
	}
	/* It does not return to who has not forgotten it yet. */
	if (!st[h].up || s->have || (s->out.step != MOVE_OWN &&
	    s->out.step != MOVE_FORGOTTEN) || (s->in.step != MOVE_OWN &&
	    s->in.step < MOVE_CLOSED) || (s->merge.step != MOVE_OWN &&
	    s->merge.step < MOVE_CLOSED))
		return;
	all_moves++;
	client.at = a;
	memset(&s->out, 0, sizeof(s->out));
	memset(&s->merge, 0, sizeof(s->merge));
	s->naside = 0;
	s->nrelays = 0;
	move_in_begin(&s->in, &ops, &st[a], X, ++epoch, h, 0, now);
}

/* Two holders: the later one takes what the other has. */
static void
find_two(void)
{
	unsigned	w = holder();
	struct session	*s;

	if (w == NODES || !st[w].up)
		return;
	s = &st[w].s;
	if (lays_aside(s) || s->out.step != MOVE_OWN || (s->merge.step != MOVE_OWN &&
	    s->merge.step < MOVE_CLOSED))
		return;
	for (unsigned i = 0; i < nnodes; i++)
		if (i != w && st[i].up && st[i].s.have &&
		    st[i].s.out.step <= MOVE_FROZEN) {
			all_merges++;
			s->epoch = ++epoch;
			move_in_begin(&s->merge, &ops, &st[w], X, epoch, i,
			    MOVE_MERGE, now);
			return;
		}
}

static void
step(bool quiet)
{
	now += 1 + rnd(40);
	sources();
	for (unsigned i = 0; i < nmail;) {
		struct mail	l = mail[i];

		if (l.at > now) {
			i++;
			continue;
		}
		memmove(&mail[i], &mail[i + 1], (--nmail - i) *
		    sizeof(*mail));
		if (st[l.to].up)
			take(&st[l.to], &l);
	}
	for (unsigned i = 0; i < nnodes; i++)
		if (st[i].up)
			tick_store(&st[i]);
	find_two();
	if (quiet)
		return;
	if (rnd(2))
		publish(rnd(nnodes));
	if (rnd(4) == 0)
		hop();
	if (faults & F_CRASH && rnd(40) == 0) {
		struct store	*t = &st[rnd(nnodes)];

		if (t->up)
			crash(t);
	}
	for (unsigned i = 0; i < nnodes; i++)
		if (!st[i].up && now > st[i].down_at + (faults & F_LONG ?
		    2500 : 200))
			restart(&st[i]);
	if (faults & F_STALL && rnd(30) == 0)
		streams[rnd(nnodes)][rnd(nnodes)].stalled_until = now +
		    rnd(rnd(4) ? 1000 : 9000);
}

static bool
at_rest(void)
{
	unsigned	h = holder(), n = 0;

	for (unsigned i = 0; i < nnodes; i++) {
		n += st[i].s.have;
		for (unsigned d = 0; d < nnodes; d++)
			if (st[d].s.mark[i] < streams[i][d].n)
				return false;
		if (st[i].s.naside > 0 || st[i].dirty)
			return false;
	}
	return n == 1 && st[h].s.nq == 0 && serves(&st[h].s) && nmail == 0;
}

static void
one_seed(void)
{
	unsigned	h, left;

	state_rnd = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (unsigned i = 0; i < 8; i++)
		rnd(2);
	memset(st, 0, sizeof(st));
	memset(streams, 0, sizeof(streams));
	memset(&client, 0, sizeof(client));
	memset(published, 0, sizeof(published));
	memset(route, 0, sizeof(route));
	memset(view, 0, sizeof(view));
	memset(view_at, 0, sizeof(view_at));
	memset(route_seq, 0, sizeof(route_seq));
	memset(view_seq, 0, sizeof(view_seq));
	memset(want_seq, 0, sizeof(want_seq));
	memset(want_epoch, 0, sizeof(want_epoch));
	memset(last_due, 0, sizeof(last_due));
	nmail = 0;
	late = 0;
	split = false;
	now = 1000;
	faults = rnd(3) == 0 ? F_ALL : rnd(F_ALL + 1);
	met = faults;
	nnodes = 2 + rnd(NODES - 1);
	epoch = 1;
	for (unsigned i = 0; i < nnodes; i++)
		st[i].up = true;
	st[0].s.have = true;
	st[0].s.epoch = 1;
	st[0].disk = st[0].s;
	route[0] = true;
	route_seq[0] = 1;
	client.at = 0;
	sources();
	for (unsigned i = 0; i < 400; i++)
		step(false);
	faults = 0;
	for (unsigned i = 0; i < nnodes; i++)
		if (!st[i].up)
			restart(&st[i]);
	for (unsigned i = 0; i < 4000 && !at_rest(); i++) {
		step(true);
		h = holder();
		if (h != NODES && serves(&st[h].s))
			client.at = h;
	}
	left = 0;
	for (unsigned i = 0; i < nnodes; i++) {
		left += st[i].s.have;
		CHECK(st[i].s.naside == 0);
	}
	CHECK(left == 1);
	h = holder();
	CHECK(st[h].s.nq == 0);
	for (unsigned s = 0; s < nnodes; s++)
		for (unsigned n = 0; n < published[s]; n++)
			CHECK(client.got[s][n] > 0);
}

static void
nothing_is_lost_or_doubled(void **state UNUSED)
{
	static const uint8_t lasting[] = {
		MOVE_FREEZING, MOVE_FROZEN, MOVE_RELAYING, MOVE_ASKING,
		MOVE_WAITING, MOVE_TAKEN, MOVE_DIRECT, MOVE_CLOSED,
	};
	const char	*s = getenv("MOVE_SEED"), *n = getenv("MOVE_SEEDS");
	uint64_t	 first = s ? strtoull(s, NULL, 10) : 1;
	uint64_t	 many = n ? strtoull(n, NULL, 10) : s ? 1 : 3000;

	mail = calloc(MAIL, sizeof(*mail));
	assert_non_null(mail);
	for (seed = first; seed < first + many; seed++)
		one_seed();
	free(mail);
	print_message("%llu moves, %llu crashes, %llu merges, %llu thaws, "
	    "%llu late\n", (unsigned long long)all_moves,
	    (unsigned long long)all_crashes, (unsigned long long)all_merges,
	    (unsigned long long)all_thaws, (unsigned long long)all_late);
	if (many < 500)
		return;
	/* The seeds must have met what they are to prove: a crash in each of
	 * the steps that last. */
	for (unsigned i = 0; i < NELEM(lasting); i++)
		assert_true(steps_crashed[lasting[i]] > 0);
	assert_true(all_merges > 0);
	assert_true(all_thaws > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_or_doubled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

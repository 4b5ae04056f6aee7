/*
 * move: one durable session among the stores of some nodes, publishers at all
 * of them, routes that are seen late, streams that stall and resend, messages
 * between stores that are lost, doubled and overtake each other, stores and
 * sources that die with what they had not logged. The client hops, leaves,
 * starts clean, publishes with QoS 2, and each of its connections has a will;
 * the session expires. lib/move/README says what must hold.
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
#include "move/seen.h"

enum { NODES = 4, IDS = 96, ITEMS = NODES * IDS, MANY = 4 * ITEMS,
	STREAM = 2 * IDS + 64,
	MAIL = 8192, X = 7, DOWN_MS = 1000, FREEZES = 1024, PIDS = 4, KS = 512,
	CONNS = 4096 };
enum { F_LOSS = 1, F_DOUBLE = 2, F_CRASH = 4, F_STALL = 8, F_LATE = 16,
	F_LONG = 32, F_SUSPECT = 64, F_CLEAN = 128, F_EXPIRE = 256,
	F_SOURCE = 512, F_SMALL = 1024, F_ALL = 2047 };

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
	uint64_t	gen;		/* of which session it is */
	uint64_t	snap;		/* a relay: no message, but the ids
					 * that were known at that freeze */
};

/* QoS 2 of the client itself that is not released: 1 + which message. */
struct inbound {
	unsigned	k;
	bool		logged;
};

struct session {
	bool		have;		/* it is in our log */
	uint64_t	epoch;
	uint64_t	clean;		/* the epoch it began under */
	struct item	q[MANY];	/* QoS 1 may come again and again */
	unsigned	nq;
	uint32_t	next, frozen_at;
	struct seen	seen;		/* ids remembered */
	bool		unsure;		/* another one may have it, too */
	struct inbound	inb[PIDS];
	unsigned	conn;		/* that the grant was for, */
	unsigned	will;		/* whose will is here; 0: none */
	unsigned	due[8], ndue;	/* wills to be published when logged */
	struct item	aside[MANY];
	unsigned	naside;
	struct item	relays[MANY];	/* what came after the freeze */
	struct item	merged[MANY];	/* not ours before the other gave it */
	unsigned	nmerged;
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
	struct frozen {			/* what goes as one item more */
		struct seen	seen;
		struct inbound	inb[PIDS];
		unsigned	will;
		uint32_t	next;
		uint64_t	clean;
	}		frozen[FREEZES];
};

struct record {
	struct item	it;
	uint64_t	echo;		/* epoch of the move; 0: a message */
	bool		dead;		/* went with its source */
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
static bool		 quiet_now;

static unsigned	holder(void);

static uint64_t		 last_due[NODES][NODES];
static uint64_t		 now;
static bool		 route[NODES], view[NODES][NODES];
static uint64_t		 route_seq[NODES], view_seq[NODES][NODES];
static uint64_t		 view_at[NODES][NODES];
static uint64_t		 want_seq[NODES][NODES], want_epoch[NODES][NODES];
static unsigned		 want_of[NODES][NODES];
static unsigned		 published[NODES];

static struct {
	unsigned	 at;		/* NODES: nowhere */
	bool		 pend[ITEMS * 256];
	unsigned	 got[NODES][IDS];
	uint64_t	 got_in[NODES][IDS];	/* which session */
	unsigned	 last[NODES];
} client;
static uint64_t		 gen, gen_of[NODES][IDS], published_at[NODES][IDS];
static unsigned		 gen_node;	/* where it began, seq of its route */
static uint64_t		 gen_seq;
static bool		 gen_seen[NODES];	/* sources that see that */
static bool		 excused[NODES][IDS];	/* not acked, or unknown */
static unsigned		 conns, will_count[CONNS];
static bool		 will_delayed[CONNS], will_logged[CONNS],
			 will_kept[CONNS];	/* withdrawn by DISCONNECT */
static unsigned		 ks, emitted[KS];
static bool		 completed[KS];
static struct {
	unsigned	 k, step;
} pids[PIDS];
static uint64_t		 client_gen;
static uint64_t		 all_cleans, all_expired, all_wills, all_inbound,
			 all_source_crashes, all_unknown, all_pages;
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

static struct seen_id
id_of(const struct item *it)
{
	return (struct seen_id){ published_at[it->src][it->n],
		(uint64_t)it->src << 32 | it->n };
}

/* The will of a connection that ended is published when that is logged. */
static void
will_due(struct store *t)
{
	if (t->s.will == 0)
		return;
	CHECK(t->s.ndue < NELEM(t->s.due));
	t->s.due[t->s.ndue++] = t->s.will;
	t->s.will = 0;
	t->dirty = true;
}

static struct frozen *
frozen_of(uint64_t snap)
{
	CHECK((uint32_t)snap < FREEZES);
	return &st[snap >> 32].frozen[(uint32_t)snap];
}

/* The ids as they are now, not when all is on disk: what comes meanwhile is
 * relayed. */
static void
op_freeze(void *ctx, struct move *m)
{
	struct store	*t = ctx;
	struct frozen	*f = frozen_of(m->snap);

	CHECK((uint32_t)m->snap == t->serial + 1);
	t->serial++;
	t->s.frozen_at = f->next = t->s.next;
	t->s.nrelays = 0;
	if (t->s.will != 0 && !will_delayed[t->s.will])
		will_due(t);
	CHECK(seen_copy(&f->seen, &t->s.seen) == 0);
	memset(t->echoed, 0, sizeof(t->echoed));
	t->frozen_ms = now + rnd(300);
	t->dirty = true;
}

/* All is on disk and acknowledged. */
static void
freeze_done(struct store *t)
{
	struct frozen	*f = frozen_of(t->s.out.snap);

	memcpy(f->inb, t->s.inb, sizeof(f->inb));
	f->will = t->s.will;
	f->clean = t->s.clean;
}

static uint64_t
op_state(void *ctx, struct move *m, uint64_t seq)
{
	struct store	*t = ctx;
	struct move_msg	 out = { .kind = MOVE_STATE, .x = X };
	uint64_t	 n = 0, page = seq + 1 + rnd(rnd(2) ? 4 : ITEMS);

	out.epoch = m->epoch;
	out.snap = m->snap;
	for (unsigned i = 0; i < t->s.nq; i++)
		if (t->s.q[i].off < t->s.frozen_at) {
			if (n >= seq && n < page) {
				out.seq = n;
				post((unsigned)(t - st), (unsigned)m->peer,
				    &out, &t->s.q[i]);
			}
			n++;
		}
	all_pages += n > page;
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
	t->s.unsure = true;
	all_thaws++;
}

/* Nothing is left of it, but for what its moves still need. */
static void
forget(struct store *t)
{
	t->s.have = false;
	t->s.nq = t->s.naside = t->s.nrelays = 0;
	t->s.unsure = false;
	t->s.will = 0;
	t->s.clean = 0;
	memset(t->s.inb, 0, sizeof(t->s.inb));
	seen_clear(&t->s.seen);
	t->dirty = true;
	set_route((unsigned)(t - st), false);
}

static void
op_drop(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_CLEAN)
		will_due(t);		/* the session ends */
	forget(t);
}

static void
op_restart(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE) {
		t->s.nmerged = 0;
		return;
	}
	CHECK(!t->s.have);
	t->s.nq = 0;
	t->s.next = 0;
	t->s.will = 0;
	memset(t->s.inb, 0, sizeof(t->s.inb));
	seen_clear(&t->s.seen);
}

/* A session begins at t, with nothing. */
static void
anew(struct store *t, uint64_t at)
{
	t->s.have = true;
	t->s.epoch = t->s.clean = at;
	t->s.nq = t->s.naside = 0;
	memset(t->s.inb, 0, sizeof(t->s.inb));
	seen_clear(&t->s.seen);
	t->dirty = true;
	set_route((unsigned)(t - st), true);
	if (at <= gen)
		return;			/* once more, after a crash */
	gen = at;
	gen_node = (unsigned)(t - st);
	gen_seq = route_seq[gen_node];
	memset(gen_seen, 0, sizeof(gen_seen));
}

/* May it come by another way, too? Then its id is remembered. What is
 * remembered counts longer: a stream may have stood still since then. */
static bool
remembers(const struct session *s)
{
	return (s->in.step >= MOVE_ASKING && s->in.step < MOVE_CLOSED) ||
	    (s->merge.step >= MOVE_ASKING && s->merge.step < MOVE_CLOSED) ||
	    (s->out.step != MOVE_OWN && s->out.step != MOVE_FORGOTTEN) ||
	    s->unsure;
}

static void
append(struct store *t, struct item it)
{
	struct session		*s = &t->s;
	enum seen_answer	 a = seen_has(&s->seen, id_of(&it));

	if (a == SEEN_BEFORE)
		return;
	if (a == SEEN_UNKNOWN && it.qos == 2) {
		/* At most once. */
		CHECK(met & F_SMALL);
		all_unknown++;
		excused[it.src][it.n] = true;
		return;
	}
	if (remembers(s))
		CHECK(seen_add(&s->seen, id_of(&it)) == 0);
	CHECK(s->nq < MANY);
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
	if (seen_has(&t->s.seen, id_of(&it)) != SEEN_BEFORE) {
		late++;
		all_late++;
	}
	append(t, it);
}

/* What another one had remembered counts now, too; also where the session goes
 * to. */
static void
take_seen(struct session *s, uint64_t snap)
{
	const struct seen	*f = &frozen_of(snap)->seen;

	seen_raise(&s->seen, f->floor);
	for (uint32_t i = 0; i < f->n; i++)
		CHECK(seen_add(&s->seen, seen_at(f, i)) == 0);
	if (s->out.step == MOVE_OWN || s->out.step == MOVE_FORGOTTEN)
		return;
	CHECK(s->nrelays < NELEM(s->relays));
	s->relays[s->nrelays++] = (struct item){ .snap = snap };
}

/* Only now it is not the other's to deliver any more, and what that one has
 * learnt meanwhile is here. Nothing counts of one that is older than our
 * session. */
static void
merge_direct(struct store *t, const struct move *m)
{
	if (t->s.have && m->epoch > t->s.clean) {
		for (unsigned i = 0; i < t->s.nmerged; i++) {
			t->s.merged[i].gen = t->s.clean;
			append_late(t, t->s.merged[i]);
		}
		take_seen(&t->s, m->snap);
	}
	t->s.nmerged = 0;
	t->dirty = true;
}

static void
op_own(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE)
		return;
	if (m->anew)
		anew(t, m->epoch);
	t->s.have = true;
	t->s.epoch = m->epoch;
	/* The session is resumed: its will is void, ours counts. */
	t->s.will = t->s.conn;
	if (m->alone) {
		t->s.next += ITEMS;
		t->s.unsure = true;
	}
	t->dirty = true;
}

static void
op_direct(void *ctx, struct move *m)
{
	struct store	*t = ctx;

	if (m->flags & MOVE_MERGE) {
		merge_direct(t, m);
		return;
	}
	for (unsigned i = 0; i < t->s.naside && t->s.have; i++) {
		t->s.aside[i].gen = t->s.clean;
		append(t, t->s.aside[i]);
	}
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
		CHECK(t->s.naside < MANY);
		t->s.aside[t->s.naside++] = r->it;
	} else if (t->s.have) {
		struct item	it = r->it;

		it.gen = t->s.clean;
		append(t, it);
	}
}

static void
state_item(struct store *t, const struct mail *l, bool merge)
{
	struct item	it = l->it;

	if (merge) {
		CHECK(t->s.nmerged < MANY);
		if (it.qos < 2 || it.state == QUEUED)
			t->s.merged[t->s.nmerged++] = it;
		return;
	}
	CHECK(seen_add(&t->s.seen, id_of(&it)) == 0);
	CHECK(t->s.nq < MANY);
	t->s.q[t->s.nq++] = it;
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
		    (uint64_t)(t - st) << 32 | (t->serial + 1), now);
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
		if (m->kind == MOVE_STATE)
			state_item(t, l, merge);
		else if (!t->s.have || in->epoch < t->s.clean)
			;	/* of a session that ended: just acknowledged */
		else if (l->it.snap != 0)
			take_seen(&t->s, l->it.snap);
		else if (in->step == MOVE_DIRECT || merge)
			append_late(t, l->it);
		else
			append(t, l->it);
	}
	/* One item more: what is remembered, the QoS 2 of the client, the will,
	 * when it began. */
	if (m->kind == MOVE_END && in->step == MOVE_INSTALLING &&
	    m->snap == in->snap && !merge) {
		const struct frozen	*f = frozen_of(m->snap);

		take_seen(&t->s, m->snap);
		memcpy(t->s.inb, f->inb, sizeof(t->s.inb));
		t->s.will = f->will;
		t->s.clean = f->clean;
		t->s.next = f->next;
	}
	t->dirty = true;
}

/* *to is as *from. */
static void
copy_session(struct session *to, const struct session *from)
{
	seen_clear(&to->seen);
	*to = *from;
	CHECK(seen_copy(&to->seen, &from->seen) == 0);
}

static void
sync_store(struct store *t)
{
	struct move	*m[] = { &t->s.in, &t->s.merge, &t->s.out };

	t->dirty = false;
	for (unsigned i = 0; i < t->s.nq; i++)
		t->s.q[i].rec_logged = t->s.q[i].state == REC;
	/* What is logged goes out, once. */
	for (unsigned i = 0; i < PIDS; i++)
		if (t->s.inb[i].k != 0 && !t->s.inb[i].logged) {
			t->s.inb[i].logged = true;
			CHECK(++emitted[t->s.inb[i].k - 1] == 1 || split);
			all_inbound++;
		}
	for (unsigned i = 0; i < t->s.ndue; i++) {
		CHECK(++will_count[t->s.due[i]] == 1);
		all_wills++;
	}
	t->s.ndue = 0;
	if (t->s.have && t->s.will == t->s.conn)
		will_logged[t->s.will] = true;
	copy_session(&t->disk, &t->s);
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

				/* What came by the routes of the session
				 * before, or what only some got of a source
				 * that died, may come whenever. */
				if (*got == 0 && gen_of[it->src][it->n] ==
				    s->clean && !excused[it->src][it->n]) {
					if (late == 0 && !split)
						CHECK(it->n >=
						    client.last[it->src]);
					client.last[it->src] = MAX(it->n,
					    client.last[it->src]);
				}
				++*got;
				/* Once in a session. */
				CHECK(it->qos < 2 || *got == 1 || split ||
				    client.got_in[it->src][it->n] != s->clean);
				client.got_in[it->src][it->n] = s->clean;
				/* Nothing of a session that was discarded. */
				CHECK(it->gen == s->clean || split);
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

/* The client's own QoS 2: PUBLISH until PUBREC, PUBREL until PUBCOMP. */
static void
client_inbound(struct store *t)
{
	unsigned	 p = rnd(PIDS);
	struct inbound	*in = &t->s.inb[p];

	if (client_gen != t->s.clean) {
		/* CONNACK: no session present. */
		client_gen = t->s.clean;
		memset(pids, 0, sizeof(pids));
		memset(client.pend, 0, sizeof(client.pend));
	}
	if (rnd(4) != 0)
		return;
	if (pids[p].step == 0 && ks < KS && !quiet_now) {
		pids[p].k = ++ks;
		pids[p].step = 1;
	}
	switch (pids[p].step) {
	case 1:
		if (in->k == 0) {
			*in = (struct inbound){ pids[p].k, false };
			t->dirty = true;
		} else if (in->logged && rnd(2)) {
			/* PUBREC, of the one that was kept. */
			CHECK(in->k == pids[p].k || split);
			pids[p].step = 2;
		}
		break;
	case 2:
		if (in->k != 0) {
			in->k = 0;
			t->dirty = true;
		} else if (!t->dirty && rnd(2)) {
			completed[pids[p].k - 1] = true;
			pids[p].step = 0;
		}
		break;
	default:
		break;
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
			if (!f->r[s->mark[i]].dead)
				arrive(t, &f->r[s->mark[i]], i);
			s->mark[i]++;
			t->dirty = true;
		}
		every &= t->echoed[i];
	}
	for (unsigned i = 0; i < nnodes; i++)
		every &= t->echoed[i];
	if (s->out.step == MOVE_FREEZING && now >= t->frozen_ms && !t->dirty) {
		freeze_done(t);
		move_frozen(&s->out, &ops, t);
	}
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
	if (client.at == self && serves(s)) {
		/* CONNACK when it is logged that it began. */
		if (t->disk.have && t->disk.clean == s->clean) {
			client_inbound(t);
			deliver_client(t);
		}
	} else if (s->will != 0 && serves(s) && holder() == self &&
	    (!will_delayed[s->will] || rnd(200) == 0)) {
		will_due(t);
	}
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
	copy_session(&t->s, &t->disk);
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
	/* Not confirmed: it may have been frozen. */
	if (t->s.have && !t->s.unsure) {
		t->s.unsure = true;
		for (unsigned i = 0; i < t->s.nq; i++)
			CHECK(seen_add(&t->s.seen, id_of(&t->s.q[i])) == 0);
	}
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
	it.qos = (uint8_t)(1 + rnd(2));
	published[s]++;
	published_at[s][it.n] = now;
	gen_of[s][it.n] = gen_seen[s] ? gen : UINT64_MAX;
	for (unsigned d = 0; d < nnodes; d++)
		if (view[s][d]) {
			struct stream	*f = &streams[s][d];

			any = true;
			CHECK(f->n < STREAM);
			f->r[f->n++] = (struct record){ it, 0, false };
		}
	CHECK(any || !gen_seen[s]);
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
			gen_seen[s] |= d == gen_node && view[s][d] &&
			    view_seq[s][d] >= gen_seq;
		}
}

/* A source dies with what not everybody has; the next of its name begins with
 * the routes as they are. */
static void
crash_source(unsigned s)
{
	all_source_crashes++;
	for (unsigned d = 0; d < nnodes; d++) {
		struct stream	*f = &streams[s][d];

		for (unsigned i = st[d].disk.mark[s]; i < f->n; i++) {
			f->r[i].dead = true;
			if (f->r[i].echo == 0)
				excused[s][f->r[i].it.n] = true;
		}
		view_at[s][d] = now;
		want_epoch[s][d] = want_seq[s][d] = 0;
	}
}

/* Given to another one. */
static bool
is_away(const struct session *s)
{
	return s->out.step >= MOVE_GIVING && s->out.step <= MOVE_FORGETTING;
}

static unsigned
holder(void)
{
	unsigned	best = NODES;

	for (unsigned i = 0; i < nnodes; i++)
		if (st[i].s.have && (best == NODES ||
		    st[i].s.epoch > st[best].s.epoch))
			best = i;
	/* Not one of before, while the last is on its way. */
	if (best != NODES && is_away(&st[best].s))
		return NODES;
	return best;
}

static unsigned
new_conn(void)
{
	CHECK(++conns < CONNS);
	will_delayed[conns] = rnd(2);
	return conns;
}

static void
end_conn(struct store *t, bool graceful)
{
	if (graceful && t->s.will != 0) {
		will_kept[t->s.will] = true;
		t->s.will = 0;
		t->dirty = true;
	} else if (t->s.will != 0 && !will_delayed[t->s.will])
		will_due(t);
}

/* A CONNECT at who has the session. */
static void
attach_here(struct store *t, bool clean)
{
	end_conn(t, false);
	if (clean) {
		will_due(t);		/* the session ends */
		anew(t, ++epoch);
		all_cleans++;
	}
	t->s.conn = t->s.will = new_conn();
	t->dirty = true;
	client.at = (unsigned)(t - st);
}

static bool
is_idle(const struct move *m)
{
	return m->step == MOVE_OWN || m->step == MOVE_FORGOTTEN ||
	    m->step >= MOVE_CLOSED;
}

/* What the desks and registrars do elsewhere: one grant after the other. */
static void
hop(void)
{
	unsigned	h = holder(), a = rnd(nnodes);
	struct session	*s = &st[a].s;
	bool		clean = faults & F_CLEAN && rnd(4) == 0, all_up = true;

	if (!st[a].up)
		return;
	for (unsigned i = 0; i < nnodes; i++) {
		all_up &= st[i].up;
		if (lays_aside(&st[i].s))
			return;
		if (st[i].s.in.step == MOVE_CLEARING)
			return;
	}
	if (a == h) {
		if (serves(s))
			attach_here(&st[a], clean);
		return;
	}
	/* It does not return to who has not forgotten it yet. */
	if (s->have || !is_idle(&s->in) || !is_idle(&s->merge) ||
	    !is_idle(&s->out))
		return;
	if (h == NODES ? !all_up : !st[h].up)
		return;
	client.at = a;
	memset(&s->in, 0, sizeof(s->in));
	memset(&s->out, 0, sizeof(s->out));
	memset(&s->merge, 0, sizeof(s->merge));
	s->naside = 0;
	s->nrelays = 0;
	s->conn = new_conn();
	st[a].dirty = true;
	if (h == NODES) {
		/* Nobody has one. */
		anew(&st[a], ++epoch);
		s->will = s->conn;
		return;
	}
	all_moves++;
	all_cleans += clean;
	move_in_begin(&s->in, &ops, &st[a], X, ++epoch, h,
	    clean ? MOVE_CLEAN : 0, now);
}

/* The client leaves; then its session may expire. */
static void
leave(void)
{
	struct store	*t = &st[client.at];

	if (client.at != NODES && t->up && serves(&t->s)) {
		end_conn(t, rnd(2));
		client.at = NODES;
	}
}

static void
expire(void)
{
	unsigned	 h = holder();
	struct store	*t = &st[h];

	if (h == NODES || !t->up || client.at == h || !serves(&t->s))
		return;
	/* Timers rest while another one may have it. */
	for (unsigned i = 0; i < nnodes; i++)
		if (i != h && ((st[i].s.have && !is_away(&st[i].s)) ||
		    lays_aside(&st[i].s)))
			return;
	if (!is_idle(&t->s.merge))
		return;
	all_expired++;
	will_due(t);
	forget(t);
	gen_node = NODES;
	memset(gen_seen, 0, sizeof(gen_seen));
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
	if (lays_aside(s) || s->out.step != MOVE_OWN ||
	    (s->merge.step != MOVE_OWN && s->merge.step < MOVE_CLOSED))
		return;
	for (unsigned i = 0; i < nnodes; i++)
		if (i != w && st[i].up && st[i].s.have &&
		    st[i].s.out.step <= MOVE_FROZEN) {
			all_merges++;
			s->epoch = ++epoch;
			s->nmerged = 0;
			move_in_begin(&s->merge, &ops, &st[w], X, epoch, i,
			    MOVE_MERGE | (st[i].s.epoch < s->clean ?
			    MOVE_CLEAN : 0), now);
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
	if (rnd(40) == 0)
		leave();
	if (faults & F_EXPIRE && rnd(10) == 0)
		expire();
	if (faults & F_SOURCE && rnd(40) == 0)
		crash_source(rnd(nnodes));
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
		if (!is_idle(&st[i].s.in) || !is_idle(&st[i].s.merge) ||
		    !is_idle(&st[i].s.out))
			return false;
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
	uint32_t	memory;

	state_rnd = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (unsigned i = 0; i < 8; i++)
		rnd(2);
	for (unsigned i = 0; i < NODES; i++) {
		seen_clear(&st[i].s.seen);
		seen_clear(&st[i].disk.seen);
		for (unsigned k = 0; k <= st[i].serial; k++)
			seen_clear(&st[i].frozen[k].seen);
	}
	memset(st, 0, sizeof(st));
	memset(gen_of, 0, sizeof(gen_of));
	memset(gen_seen, 0, sizeof(gen_seen));
	memset(excused, 0, sizeof(excused));
	memset(will_count, 0, sizeof(will_count));
	memset(will_logged, 0, sizeof(will_logged));
	memset(will_kept, 0, sizeof(will_kept));
	memset(emitted, 0, sizeof(emitted));
	memset(completed, 0, sizeof(completed));
	memset(pids, 0, sizeof(pids));
	conns = ks = 0;
	quiet_now = false;
	client_gen = gen = 1;
	gen_node = 0;
	gen_seq = 1;
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
	memory = faults & F_SMALL ? 1 + rnd(40) : ITEMS;
	epoch = 1;
	for (unsigned i = 0; i < nnodes; i++)
		st[i].up = true;
	st[0].s.have = true;
	st[0].s.epoch = st[0].s.clean = 1;
	for (unsigned i = 0; i < nnodes; i++)
		st[i].s.seen.max = memory;
	st[0].s.conn = st[0].s.will = new_conn();
	for (unsigned i = 0; i < nnodes; i++)
		copy_session(&st[i].disk, &st[i].s);
	route[0] = true;
	route_seq[0] = 1;
	client.at = 0;
	sources();
	for (unsigned i = 0; i < 400; i++)
		step(false);
	faults = 0;
	quiet_now = true;
	for (unsigned i = 0; i < nnodes; i++)
		if (!st[i].up)
			restart(&st[i]);
	for (unsigned i = 0; i < 4000 && !at_rest(); i++) {
		step(true);
		h = holder();
		if (h != NODES && serves(&st[h].s)) {
			if (client.at != h)
				attach_here(&st[h], false);
		} else if (h == NODES)
			hop();
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
			if (gen_of[s][n] == st[h].s.clean && !excused[s][n])
				CHECK(client.got[s][n] > 0);
	for (unsigned k = 0; k < ks; k++)
		CHECK(!completed[k] || emitted[k] == 1 || split);
	for (unsigned c = 1; c <= conns; c++)
		CHECK(will_count[c] <= 1 && (c == st[h].s.will ||
		    will_delayed[c] || !will_logged[c] || will_kept[c] ||
		    will_count[c] == 1));
}

static void
nothing_is_lost_or_doubled(void **state UNUSED)
{
	static const uint8_t lasting[] = {
		MOVE_FREEZING, MOVE_FROZEN, MOVE_RELAYING, MOVE_ASKING,
		MOVE_WAITING, MOVE_TAKEN, MOVE_DIRECT, MOVE_CLOSED,
		MOVE_CLEARED,
	};
	const char	*s = getenv("MOVE_SEED"), *n = getenv("MOVE_SEEDS");
	uint64_t	 first = s ? strtoull(s, NULL, 10) : 1;
	uint64_t	 many = n ? strtoull(n, NULL, 10) : s ? 1 : 3000;

	mail = calloc(MAIL, sizeof(*mail));
	assert_non_null(mail);
	for (seed = first; seed < first + many; seed++)
		one_seed();
	free(mail);
	print_message("%llu clean starts, %llu expired, %llu wills, %llu of "
	    "QoS 2 in, %llu sources crashed, %llu unknown, %llu pages\n",
	    (unsigned long long)all_cleans, (unsigned long long)all_expired,
	    (unsigned long long)all_wills, (unsigned long long)all_inbound,
	    (unsigned long long)all_source_crashes,
	    (unsigned long long)all_unknown, (unsigned long long)all_pages);
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
	assert_true(all_cleans > 0 && all_expired > 0 && all_wills > 0);
	assert_true(all_inbound > 0 && all_source_crashes > 0);
	assert_true(all_unknown > 0 && all_pages > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_or_doubled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

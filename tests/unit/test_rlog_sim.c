/*
 * rlog: many nodes in one process under a seeded scheduler. Connections are in
 * order and lose their tails when they break, which each side notices when it
 * does; nodes are parted, stopped, started empty in a new incarnation, closed
 * on suspicion, and replicants change cores. What each node holds is compared
 * with what the writers wrote.
 *
 *   RLOG_SEEDS=n (default 2000) RLOG_SEED=first (alone: replays that one)
 *   RLOG_TRACE=1 tells what happens
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "rlog/message.h"
#include "rlog/rlog.h"

enum {
	NODES = 7, TABLES = 2, KEYS = 9, LIVES = 24, CHANGES = 1400, CONNS = 48,
	FLIGHT = 5, STEPS = 320, NODE_ID = 100, BUF = RLOG_BUF_MIN
};

static uint64_t first_seed = 1, nseeds = 2000, seed, state_rnd;
static bool	trace;

static uint32_t
rnd(uint32_t n)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return (uint32_t)((state_rnd >> 20) % n);
}

static bool
chance(uint32_t percent)
{
	return rnd(100) < percent;
}

#define CHECK(x) check_at((x), #x, __LINE__)

static void
check_at(bool good, const char *what, int line)
{
	if (!good)
		fail_msg("RLOG_SEED=%" PRIu64 ": line %d: %s", seed, line,
		    what);
}

#define TRACE(...) do { if (trace) printf(__VA_ARGS__); } while (0)

/* --- What was written ---------------------------------------------------- */

struct change {
	uint8_t		key;		/* KEYS: the end mark */
	bool		deleted;
	uint32_t	value;
};

struct life {
	uint64_t	incarnation;
	uint32_t	n;
	struct change	at[CHANGES];	/* seq - 1 */
};

static struct life lives[NODES][TABLES][LIVES];
static unsigned	   nlives[NODES][TABLES];

static struct life *
life_of(unsigned w, unsigned t, uint64_t incarnation)
{
	unsigned i;

	for (i = 0; i < nlives[w][t]; i++)
		if (lives[w][t][i].incarnation == incarnation)
			return &lives[w][t][i];
	return NULL;
}

/* --- The world ----------------------------------------------------------- */

struct cell {				/* what a node was told of a key */
	bool		there;
	uint32_t	value;
	uint64_t	incarnation, seq;	/* of the last word on it */
	bool		deleted;
};

struct node {
	struct rlog	*r;
	bool		 core, up, gone, steady;
	unsigned	 ended;		/* bits: own tables */
	uint64_t	 incarnation;
	struct rlog_stream *own[TABLES];
	struct cell	 seen[NODES][TABLES][KEYS];
};

struct flight {
	uint8_t		*bytes;
	size_t		 len;
};

struct conn {
	bool		 used, broken;	/* broken: nothing more is sent */
	unsigned	 n[2];
	struct rlog_link *l[2];
	struct flight	 q[2][FLIGHT];	/* towards n[i] */
	unsigned	 nq[2];
	unsigned	 stall[2];	/* steps in which nothing arrives */
	bool		 moving;	/* a replicant's next one */
};

static struct node  nodes[NODES];
static struct conn  conns[CONNS];
static unsigned	    nnodes, ncores, ntables;
static bool	    parted[NODES][NODES];
static bool	    quiet;		/* everything flows */
static bool	    strict;		/* nothing breaks: replicants move */
static uint64_t	    now, incarnations, tombstones, serial;
static uint8_t	    buf[BUF];
static size_t	    room;		/* in a message: few rows, or all */
static unsigned	    refusals;		/* percent of row callbacks fail */
static uint64_t	    total_boots, total_scans, total_lag, total_acked;

/* --- Keys and values ----------------------------------------------------- */

static struct slice
key_of(unsigned k, char *text)
{
	int n = snprintf(text, 32, "key/%u%s", k, k % 3 == 0 ? "/long/er" : "");

	return (struct slice){ (const uint8_t *)text, (size_t)n };
}

static unsigned
key_index(struct slice key)
{
	CHECK(key.len > 4);
	return (unsigned)key.data[4] - '0';
}

static uint32_t
value_of(struct slice v)
{
	CHECK(v.len == 4);
	return get_le32(v.data);
}

/* --- Callbacks ----------------------------------------------------------- */

static int
on_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row)
{
	struct node	  *n = ctx;
	struct rlog_status st;
	struct cell	  *c;

	rlog_look(s, &st);
	c = &n->seen[st.id.writer - NODE_ID][st.id.table - 1]
	    [key_index(row->key)];
	if (refusals > 0 && chance(refusals))
		return ERR_NOMEM;
	/* (vi), and no row goes back to what it was before. */
	if (c->incarnation == st.incarnation) {
		CHECK(row->seq >= c->seq);
		if (c->deleted && !row->deleted)
			CHECK(row->seq > c->seq);
	} else
		CHECK(c->incarnation < st.incarnation);
	CHECK(row->deleted ? c->there : true);
	c->incarnation = st.incarnation;
	c->seq = row->seq;
	c->deleted = row->deleted;
	c->there = !row->deleted;
	c->value = row->deleted ? 0 : value_of(row->value);
	return 0;
}

static void check_rows(struct node *, struct rlog_stream *, uint64_t);

static void
on_acked(void *ctx, struct rlog_stream *s, uint64_t seq)
{
	struct node	  *n = ctx, *o;
	struct rlog_status st;
	struct rlog_stream *other;
	unsigned	   i;

	rlog_look(s, &st);
	total_acked++;
	CHECK(seq <= st.seq);
	if (!strict || !n->steady)
		return;
	/* Nothing ever broke: all are waited for, whoever moves. */
	for (i = 0; i < nnodes; i++) {
		o = &nodes[i];
		if (o == n || !o->steady)
			continue;
		other = rlog_find(o->r, st.id);
		CHECK(other != NULL);
		rlog_look(other, &st);
		CHECK(st.incarnation == n->incarnation && st.seq >= seq);
		check_rows(o, other, seq);
	}
}

static void
on_wake(void *ctx UNUSED, struct rlog_link *l UNUSED)
{
}

static const struct rlog_calls calls = {
	on_row, on_acked, on_wake, NULL, NULL
};

/* --- Nodes and connections ----------------------------------------------- */

static void
node_start(unsigned i)
{
	struct node	*n = &nodes[i];
	struct rlog_opts o = {
		.node = NODE_ID + i, .core = n->core, .timeout_ms = strict ?
		    UINT32_MAX : 200, .tombstones = tombstones,
		.seed = seed, .calls = &calls, .ctx = n,
	};
	struct life	*l;
	unsigned	 t;

	n->incarnation = o.incarnation = ++incarnations;
	memset(n->seen, 0, sizeof(n->seen));
	n->ended = 0;
	n->up = true;
	CHECK(rlog_new(&n->r, &o) == 0);
	rlog_tick(n->r, now);
	rlog_members(n->r, nnodes);
	for (t = 0; t < ntables; t++) {
		CHECK(rlog_open(n->r, t + 1, NULL, NULL, &n->own[t]) == 0);
		CHECK(nlives[i][t] < LIVES);
		l = &lives[i][t][nlives[i][t]++];
		l->incarnation = n->incarnation;
		l->n = 0;
	}
	TRACE("start %u inc %" PRIu64 "\n", i, n->incarnation);
}

static void
flight_drop(struct conn *c, unsigned side, unsigned keep)
{
	while (c->nq[side] > keep)
		free(c->q[side][--c->nq[side]].bytes);
}

/* One side notices that it is over. */
static void
conn_close(struct conn *c, unsigned side, bool left)
{
	if (c->l[side] != NULL) {
		TRACE("close %u-%u at %u\n", c->n[0], c->n[1], c->n[side]);
		rlog_link_close(&c->l[side], left);
	}
	flight_drop(c, side, 0);
	c->broken = true;
	if (c->l[0] == NULL && c->l[1] == NULL) {
		flight_drop(c, !side, 0);
		c->used = false;
	}
}

static void
conn_break(struct conn *c)
{
	c->broken = true;
	c->moving = false;
	flight_drop(c, 0, rnd(c->nq[0] + 1));
	flight_drop(c, 1, rnd(c->nq[1] + 1));
	if (chance(50))
		conn_close(c, rnd(2), false);
}

static void
node_stop(unsigned i)
{
	struct node *n = &nodes[i];
	unsigned     k, side;

	if (!n->up)
		return;
	TRACE("stop %u\n", i);
	for (k = 0; k < CONNS; k++)
		for (side = 0; side < 2; side++)
			if (conns[k].used && conns[k].n[side] == i) {
				conns[k].l[side] = NULL;
				conn_break(&conns[k]);
				if (conns[k].used)
					conn_close(&conns[k], side, false);
			}
	rlog_free(&n->r);
	n->up = n->steady = false;
}

static unsigned
degree(unsigned i, bool whole)
{
	unsigned k, side, d = 0;

	for (k = 0; k < CONNS; k++)
		for (side = 0; side < 2; side++)
			d += conns[k].used && conns[k].n[side] == i &&
			    (!whole || !conns[k].broken) &&
			    conns[k].l[side] != NULL;
	return d;
}

static struct conn *
conn_between(unsigned a, unsigned b)
{
	unsigned k;

	for (k = 0; k < CONNS; k++)
		if (conns[k].used && ((conns[k].n[0] == a &&
		    conns[k].n[1] == b) || (conns[k].n[0] == b &&
		    conns[k].n[1] == a)))
			return &conns[k];
	return NULL;
}

static struct conn *
conn_open(unsigned a, unsigned b)
{
	struct conn *c;
	unsigned     k, side;

	for (k = 0; k < CONNS && conns[k].used; k++)
		;
	CHECK(k < CONNS);
	c = &conns[k];
	memset(c, 0, sizeof(*c));
	c->used = true;
	c->n[0] = a;
	c->n[1] = b;
	TRACE("connect %u-%u\n", a, b);
	for (side = 0; side < 2; side++)
		CHECK(rlog_link_open(nodes[c->n[side]].r,
		    NODE_ID + c->n[!side], nodes[c->n[!side]].incarnation, c,
		    &c->l[side]) == 0);
	return c;
}

static bool
may_connect(unsigned a, unsigned b)
{
	return a != b && nodes[a].up && nodes[b].up && !parted[a][b] &&
	    (nodes[a].core || nodes[b].core) && conn_between(a, b) == NULL;
}

/* Send what there is to say from `side`, if there is room. */
static bool
pull(struct conn *c, unsigned side)
{
	struct flight *f;
	size_t	       len;

	if (c->l[side] == NULL || c->broken || c->nq[!side] == FLIGHT)
		return false;
	len = rlog_next(c->l[side], buf, room, quiet || !chance(3));
	if (len == 0)
		return false;
	f = &c->q[!side][c->nq[!side]++];
	CHECK((f->bytes = malloc(len)) != NULL);
	memcpy(f->bytes, buf, len);
	f->len = len;
	return true;
}

static void
show(const struct conn *c, unsigned side, const struct flight *f)
{
	static const char *const names[] = { "", "offer", "follow", "leave",
	    "ack", "rows" };
	struct rlog_in	in;
	struct rlog_msg	m;
	struct rlog_row	row;
	struct rlog_word w;

	CHECK(rlog_in_init(&in, f->bytes, f->len) == 0);
	while (rlog_msg_next(&in, &m) == 1) {
		printf("%u>%u %s %u:%u/%u home %u seq %u hops %u ticket %u "
		    "flags %u", c->n[!side], c->n[side], names[m.kind], (unsigned)m.writer - NODE_ID,
		    m.table, (unsigned)m.incarnation, (unsigned)m.home,
		    (unsigned)m.seq, m.hops, m.ticket, m.flags);
		while (m.kind == RLOG_ACK && rlog_words_next(&m.rows, &w) == 1)
			printf(" %u:%u/%u", (unsigned)w.node - NODE_ID,
			    (unsigned)w.seq, w.flags);
		if (m.kind == RLOG_ROWS)
			printf(" %u-%u head %u whole %u seen %u floor %u "
			    "end %u stable %u:",
			    (unsigned)m.from, (unsigned)m.upto,
			    (unsigned)m.head, (unsigned)m.whole,
			    (unsigned)m.seen, (unsigned)m.floor,
			    (unsigned)m.end, (unsigned)m.stable);
		while (m.kind == RLOG_ROWS &&
		    rlog_rows_next(&m.rows, &row) == 1)
			printf(" %s%u@%u", row.deleted ? "-" : "",
			    key_index(row.key), (unsigned)row.seq);
		printf("\n");
	}
}

static bool
deliver(struct conn *c, unsigned side)
{
	struct flight f;
	int	      rc;

	if (c->l[side] == NULL || c->nq[side] == 0)
		return false;
	f = c->q[side][0];
	memmove(&c->q[side][0], &c->q[side][1],
	    --c->nq[side] * sizeof(c->q[0][0]));
	if (trace)
		show(c, side, &f);
	rc = rlog_take(c->l[side], f.bytes, f.len);
	free(f.bytes);
	CHECK(rc == 0 || (rc == ERR_NOMEM && refusals > 0));
	if (rc < 0)
		conn_close(c, side, false);
	return true;
}

/* --- What is right ------------------------------------------------------- */

/* Each row is here as it was at `whole`, or as it was later. */
static void
check_rows(struct node *n, struct rlog_stream *s, uint64_t whole)
{
	struct rlog_status st;
	struct rlog_row	   row;
	struct life	  *l;
	struct change	  *last;
	struct cell	  *c;
	unsigned	   w, t, k;
	uint64_t	   i, last_seq;
	char		   text[32];
	bool		   old, have, later;

	rlog_look(s, &st);
	w = (unsigned)(st.id.writer - NODE_ID);
	t = st.id.table - 1;
	if (st.incarnation == 0 || st.incarnation == UINT64_MAX)
		return;
	l = life_of(w, t, st.incarnation);
	CHECK(l != NULL && st.seq <= l->n);
	CHECK(st.floor <= st.seq && st.whole <= st.seq);
	for (k = 0; k < KEYS; k++) {
		last = NULL;
		last_seq = 0;
		later = false;
		for (i = 1; i <= l->n; i++) {
			if (l->at[i - 1].key != k)
				continue;
			if (i <= whole) {
				last = &l->at[i - 1];
				last_seq = i;
			} else
				later |= l->at[i - 1].deleted;
		}
		have = rlog_get(s, key_of(k, text), &row, &old) == 0;
		c = &n->seen[w][t][k];
		if (!st.own) {
			CHECK(c->there == have);
			CHECK(!have || c->value == value_of(row.value));
		}
		if (have && old) {
			CHECK(!st.ended);		/* (v) */
			/* Deleted anew, before a scan, it is not named. */
			CHECK(last == NULL || last->deleted);
		} else if (have) {
			if (st.sweeping && row.seq < last_seq)
				continue;	/* it goes */
			CHECK(row.seq <= l->n && row.seq >= last_seq);
			CHECK(l->at[row.seq - 1].key == k);
			CHECK(!l->at[row.seq - 1].deleted);
			CHECK(l->at[row.seq - 1].value == value_of(row.value));
			CHECK(last == NULL || !last->deleted ||
			    row.seq > last_seq);
		} else if (last != NULL && !last->deleted && !later)
			fail_msg("RLOG_SEED=%" PRIu64 ": key %u of %u:%u with "
			    "seq %" PRIu64 " is not at %u, which is at %" PRIu64
			    " floor %" PRIu64 " phase %d incarnation %" PRIu64,
			    seed, k, w, t + 1, last_seq, (unsigned)(n - nodes),
			    whole, st.floor, st.phase, st.incarnation);
		else			/* since() skipped nothing */
			CHECK(last == NULL || last->deleted || later);
	}
}

/* Who is waited for has what the writer was told that all have. */
static void
check_acked(unsigned i, unsigned t)
{
	struct rlog_status  st, other;
	struct rlog_stream *s = nodes[i].own[t], *o;
	struct rlog_follower f;
	struct node	   *n;
	uint32_t	    k;

	rlog_look(s, &st);
	for (k = 1; rlog_follower(s, k, &f) == 1; k++) {
		CHECK(f.node >= NODE_ID && f.node < NODE_ID + nnodes);
		n = &nodes[f.node - NODE_ID];
		CHECK(f.seq <= st.seq);
		if (!n->up || n->incarnation != f.incarnation)
			continue;
		if ((o = rlog_find(n->r, st.id)) == NULL) {
			CHECK(f.seq == 0);
			continue;
		}
		rlog_look(o, &other);
		CHECK(other.incarnation > st.incarnation ||
		    (other.incarnation == st.incarnation &&
		    other.whole >= f.seq) || f.seq == 0);
	}
}

static void
check_node(unsigned i)
{
	struct rlog_stream *s;
	struct rlog_status  st;
	unsigned	    t;

	for (s = rlog_walk(nodes[i].r, NULL); s != NULL;
	    s = rlog_walk(nodes[i].r, s)) {
		rlog_look(s, &st);
		check_rows(&nodes[i], s, st.whole);
		CHECK(st.acked <= st.seq);
		if (st.phase == RLOG_NORMAL && !st.ragged && st.ended)
			CHECK(st.tombstones <= tombstones);
	}
	for (t = 0; t < ntables; t++)
		check_acked(i, t);
}

/* --- What happens -------------------------------------------------------- */

static void
record(unsigned i, unsigned t, struct change ch, uint64_t seq)
{
	struct life *l = &lives[i][t][nlives[i][t] - 1];

	CHECK(seq == l->n + 1 && l->n < CHANGES);
	l->at[l->n++] = ch;
}

static void
write_some(unsigned i, unsigned n)
{
	struct node	  *nd = &nodes[i];
	struct rlog_status st;
	struct change	   ch;
	uint64_t	   seq;
	unsigned	   t;
	uint8_t		   v[4];
	char		   text[32];
	int		   rc;

	while (n-- > 0) {
		t = rnd(ntables);
		rlog_look(nd->own[t], &st);
		ch = (struct change){ (uint8_t)rnd(KEYS), chance(40),
		    (uint32_t)(chance(80) ? ++serial : 7) };
		put_le32(v, ch.value);
		rc = ch.deleted ? rlog_del(nd->own[t], key_of(ch.key, text),
		    &seq) : rlog_put(nd->own[t], key_of(ch.key, text),
		    (struct slice){ v, 4 }, &seq);
		CHECK(rc == 0 || (ch.deleted && rc == ERR_NOTFOUND));
		if (seq > st.seq)
			record(i, t, ch, seq);
	}
}

static void
end_table(unsigned i, unsigned t)
{
	struct rlog_status st;

	if (nodes[i].ended >> t & 1)
		return;
	rlog_end(nodes[i].own[t]);
	rlog_look(nodes[i].own[t], &st);
	record(i, t, (struct change){ .key = KEYS }, st.seq);
	nodes[i].ended |= 1u << t;
}

static bool
tidy(unsigned i, size_t budget)
{
	int rc = rlog_tidy(nodes[i].r, budget);

	CHECK(rc >= 0 || (rc == ERR_NOMEM && refusals > 0));
	return rc == 1;
}

/* A replicant that has two cores lets go of the old one when it can. */
static void
finish_moves(void)
{
	struct conn *c, *o;
	unsigned     k, j, side;

	for (k = 0; k < CONNS; k++) {
		c = &conns[k];
		if (!c->used || !c->moving)
			continue;
		side = nodes[c->n[0]].core;	/* the replicant's */
		if (c->l[side] == NULL || !rlog_link_settled(c->l[side]))
			continue;
		c->moving = false;
		TRACE("moved %u to %u\n", c->n[side], c->n[!side]);
		for (j = 0; j < CONNS; j++) {
			o = &conns[j];
			if (!o->used || o == c || (o->n[0] != c->n[side] &&
			    o->n[1] != c->n[side]))
				continue;
			/* What it said arrives; what it was told does not. */
			conn_close(o, o->n[1] == c->n[side], true);
		}
	}
}

static void
move(unsigned i)
{
	struct conn *c;
	unsigned     b = rnd(ncores), k, side;

	if (nodes[i].core || !may_connect(i, b) || degree(i, true) != 1)
		return;
	for (k = 0; k < CONNS; k++)
		for (side = 0; side < 2; side++)
			if (conns[k].used && conns[k].n[side] == i &&
			    conns[k].l[side] != NULL)
				rlog_link_prefer(conns[k].l[side], false);
	c = conn_open(i, b);
	rlog_link_prefer(c->l[0], true);
	c->moving = true;
}

/* Replicants keep one core, sometimes for a moment two. */
static void
connect_some(void)
{
	unsigned a = rnd(nnodes), b = rnd(ncores);

	if (may_connect(a, b) && (nodes[a].core || degree(a, false) == 0))
		conn_open(a, b);
}

static void
part(void)
{
	unsigned a, b, how = rnd(3), k;
	unsigned side = rnd(1u << nnodes);

	memset(parted, 0, sizeof(parted));
	if (how == 0)
		return;
	for (a = 0; a < nnodes; a++)
		for (b = 0; b < a; b++)
			if (how == 1 ? (side >> a & 1) != (side >> b & 1) :
			    chance(35))
				parted[a][b] = parted[b][a] = true;
	for (k = 0; k < CONNS; k++)
		if (conns[k].used && !conns[k].broken &&
		    parted[conns[k].n[0]][conns[k].n[1]])
			conn_break(&conns[k]);
	TRACE("parted\n");
}

static void
disturb(unsigned trouble)
{
	unsigned     i;
	struct conn *c = &conns[rnd(CONNS)];

	if (strict || !chance(trouble))
		return;
	switch (rnd(8)) {
	case 0:
	case 1:
		if (c->used)
			conn_break(c);
		break;
	case 2:			/* suspected: one side closes */
		if (c->used)
			conn_close(c, rnd(2), false);
		break;
	case 3:
		part();
		break;
	case 4:
		i = rnd(nnodes);
		if (nodes[i].up && nlives[i][0] < LIVES - 2)
			node_stop(i);
		break;
	default:
		i = rnd(nnodes);
		if (!nodes[i].up && !nodes[i].gone)
			node_start(i);
		break;
	}
}

static void
step(unsigned trouble)
{
	unsigned     i = rnd(nnodes), side = rnd(2), k, tries;
	struct conn *c = NULL;

	now += rnd(4);
	for (tries = 0; tries < 8; tries++) {
		c = &conns[rnd(CONNS)];
		if (c->used)
			break;
	}
	switch (rnd(12)) {
	case 0:
		if (nodes[i].up)
			write_some(i, 1 + rnd(chance(10) ? 20 : 3));
		break;
	case 1:
		connect_some();
		break;
	case 2:
		if (nodes[i].up && chance(30))
			end_table(i, rnd(ntables));
		else if (nodes[i].up)
			move(i);
		break;
	case 3:
		disturb(trouble);
		break;
	case 4:
		if (nodes[i].up) {
			rlog_tick(nodes[i].r, now);
			(void)tidy(i, 1 + rnd(6));
		}
		if (c->used && chance(10))
			c->stall[side] = rnd(300);
		break;
	default:
		/* Towards `side`; both now and then, in turns. */
		if (!c->used)
			break;
		for (k = 0; k < 1 + rnd(3); k++) {
			(void)pull(c, !side);
			if (c->stall[side] > 0)
				c->stall[side]--;
			else
				(void)deliver(c, side);
			side ^= chance(40);
		}
		/* A broken one is noticed when it has run dry. */
		if (c->used && c->broken && c->nq[side] == 0 && chance(40))
			conn_close(c, side, false);
		break;
	}
	finish_moves();
	if (nodes[i].up && chance(8))
		check_node(i);
}

/* Until nobody has anything to say. */
static void
settle(void)
{
	unsigned k, i, side, rounds = 0;
	bool	 busy = true;

	quiet = true;
	while (busy) {
		busy = false;
		CHECK(++rounds < 3000);
		for (k = 0; k < CONNS; k++)
			for (side = 0; side < 2; side++) {
				if (!conns[k].used)
					continue;
				busy |= pull(&conns[k], side);
				while (conns[k].used && deliver(&conns[k],
				    side))
					busy = true;
				if (conns[k].used && conns[k].broken) {
					conn_close(&conns[k], side, false);
					busy = true;
				}
			}
		for (i = 0; i < nnodes; i++)
			if (nodes[i].up) {
				rlog_tick(nodes[i].r, now);
				busy |= tidy(i, 10);
			}
		finish_moves();
	}
	quiet = false;
}

/* Mesh or not, all cores that are up are of one part. */
static void
connect_all(bool mesh)
{
	unsigned a, b;

	for (a = 1; a < ncores; a++) {
		for (b = 0; b < a; b++)
			if (may_connect(a, b) && (mesh || chance(30)))
				conn_open(a, b);
		for (b = a; b-- > 0;)	/* one way at least */
			if (conn_between(a, b) != NULL)
				break;
		if (b != (unsigned)-1)
			continue;
		for (b = a; b-- > 0;)
			if (may_connect(a, b)) {
				conn_open(a, b);
				break;
			}
	}
	for (a = ncores; a < nnodes; a++)
		while (nodes[a].up && degree(a, true) == 0) {
			b = rnd(ncores);
			if (may_connect(a, b))
				conn_open(a, b);
		}
}

/* (vii): every two have the same, and of who is up what it wrote. */
static void
check_all(void)
{
	struct rlog_status st, first;
	struct rlog_stream *s;
	unsigned	   w, t, i;
	bool		   any;

	for (i = 0; i < nnodes; i++)
		if (nodes[i].up)
			check_node(i);
	for (w = 0; w < nnodes; w++)
		for (t = 0; t < ntables; t++) {
			any = false;
			for (i = 0; i < nnodes; i++) {
				if (!nodes[i].up)
					continue;
				s = rlog_find(nodes[i].r, (struct rlog_id){
				    t + 1, NODE_ID + w });
				CHECK(s != NULL || !nodes[w].up);
				st = (struct rlog_status){ 0 };
				if (s != NULL)
					rlog_look(s, &st);
				if (nodes[w].up) {
					CHECK(st.incarnation ==
					    nodes[w].incarnation);
					CHECK(st.phase == RLOG_NORMAL);
					CHECK(st.whole == st.seq);
					CHECK(st.ended);
					CHECK(st.seq == lives[w][t][
					    nlives[w][t] - 1].n);
					CHECK(!st.own || (st.acked == st.seq &&
					    (nodes[0].gone || st.waited ==
					    nnodes - 1)));
					/* But those one has dropped itself
					 * it does not speak of. */
					CHECK(st.tombstones == 0 ||
					    nodes[0].gone || tombstones < 100);
				}
				if (!any) {
					first = st;
					any = true;
					continue;
				}
				CHECK(st.incarnation == first.incarnation);
				CHECK(st.seq == first.seq);
				if ((!st.ended || st.ragged || first.ragged) &&
				    !nodes[w].up)
					continue;
				CHECK(st.digest == first.digest);
				CHECK(st.rows == first.rows);
			}
		}
}

static void
world_fini(void)
{
	struct rlog_stream *s;
	struct rlog_status  st;
	struct rlog_stats   all;
	unsigned	    i, k;

	for (i = 0; i < nnodes; i++)
		if (nodes[i].up) {
			for (s = rlog_walk(nodes[i].r, NULL); s != NULL;
			    s = rlog_walk(nodes[i].r, s)) {
				rlog_look(s, &st);
				total_boots += st.bootstraps;
			}
			rlog_stats(nodes[i].r, &all);
			total_scans += all.scans;
			total_lag += all.laggards;
			node_stop(i);
		}
	for (k = 0; k < CONNS; k++) {
		CHECK(!conns[k].used);
		flight_drop(&conns[k], 0, 0);
		flight_drop(&conns[k], 1, 0);
	}
}

static uint64_t
boots(void)
{
	struct rlog_stream *s;
	struct rlog_status  st;
	unsigned	    i;
	uint64_t	    n = 0;

	for (i = 0; i < nnodes; i++)
		for (s = rlog_walk(nodes[i].r, NULL); s != NULL;
		    s = rlog_walk(nodes[i].r, s)) {
			rlog_look(s, &st);
			n += st.bootstraps;
		}
	return n;
}

static void
one_seed(uint64_t n)
{
	unsigned i, t, k, trouble;
	uint64_t before = 0;
	bool	 mesh;

	seed = n;
	state_rnd = n * 0x9e3779b97f4a7c15u | 1;
	for (i = 0; i < 10; i++)
		(void)rnd(2);
	memset(nodes, 0, sizeof(nodes));
	memset(conns, 0, sizeof(conns));
	memset(nlives, 0, sizeof(nlives));
	memset(parted, 0, sizeof(parted));
	strict = chance(25);
	incarnations = now = serial = 0;
	nnodes = 2 + rnd(NODES - 1);
	ncores = 1 + rnd(MIN(nnodes, 4));
	ntables = 1 + rnd(TABLES);
	tombstones = strict ? 100000 : 1 + rnd(chance(50) ? 4 : 200);
	refusals = !strict && chance(20) ? 2 : 0;
	trouble = rnd(100);
	room = chance(70) ? 150 + rnd(200) : BUF;
	mesh = chance(60);
	for (i = 0; i < nnodes; i++) {
		nodes[i].core = i < ncores;
		if (strict || chance(80))
			node_start(i);
	}
	if (strict) {
		connect_all(mesh);
		for (i = 0; i < nnodes; i++)
			write_some(i, 5);
		settle();
		for (i = 0; i < nnodes; i++)
			nodes[i].steady = true;
		before = boots();
	}
	for (k = 0; k < STEPS; k++)
		step(trouble);
	if (strict) {
		settle();
		CHECK(boots() == before);	/* changing cores costs none */
	}
	/* Quiet again: some never come back. */
	refusals = 0;
	memset(parted, 0, sizeof(parted));
	for (i = 0; i < nnodes; i++) {
		nodes[i].gone = !strict && i > 0 && chance(10);
		if (nodes[i].gone)
			node_stop(i);
		else if (!nodes[i].up)
			node_start(i);
	}
	for (k = 0; k < CONNS; k++)
		if (conns[k].used && conns[k].broken)
			for (t = 0; t < 2; t++)
				if (conns[k].used)
					conn_close(&conns[k], t, false);
	settle();
	connect_all(mesh);
	for (i = 0; i < nnodes; i++)
		nodes[i].steady = false;
	for (i = 0; i < nnodes; i++)
		for (t = 0; t < ntables && nodes[i].up; t++) {
			end_table(i, t);
			write_some(i, 2);
		}
	settle();
	now += 1000;		/* who was late has caught up */
	for (i = 0; i < nnodes; i++)
		for (t = 0; t < ntables && nodes[i].up; t++)
			write_some(i, 3);
	settle();
	for (i = 1; i < nnodes; i++)	/* members: those that are up */
		nodes[0].gone |= nodes[i].gone;
	check_all();
	world_fini();
}

static void
seeds_run(void **state UNUSED)
{
	const char *n = getenv("RLOG_SEEDS"), *f = getenv("RLOG_SEED");
	uint64_t    i;

	trace = getenv("RLOG_TRACE") != NULL;
	if (f != NULL) {
		first_seed = strtoull(f, NULL, 10);
		nseeds = 1;
	}
	if (n != NULL)
		nseeds = strtoull(n, NULL, 10);
	for (i = first_seed; i < first_seed + nseeds; i++)
		one_seed(i);
	if (getenv("RLOG_SEEDS") != NULL)
		printf("%" PRIu64 " seeds: %" PRIu64 " bootstraps, %" PRIu64
		    " scans, %" PRIu64 " late, %" PRIu64 " acked\n", nseeds,
		    total_boots, total_scans, total_lag, total_acked);
	if (nseeds >= 1000)		/* the cases do come up */
		CHECK(total_boots > 0 && total_lag > 0 && total_acked > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seeds_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * route/tell.h against a router that is played, over a stream that is played,
 * too: seeded chance decides what comes, goes and breaks. Whatever happens, a
 * SUBACK leaves only for what the router has, and at rest it has all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pb_encode.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/route.h"
#include "proto/route.pb.h"
#include "route/tell.h"

enum {
	SEEDS		= 24,
	STEPS		= 700,
	TEXTS		= 3000,
	TEXT_MAX	= 60000,
	KINDS		= 3,		/* plain, and two groups */
	OWNERS		= 4,
	WAITS		= 4096,
	ROWS_A_TURN	= 1024 + 16 * KINDS	/* of a snapshot */
};

static const struct slice groups[KINDS] = { { NULL, 0 },
	{ (const uint8_t *)"g", 1 }, { (const uint8_t *)"gg", 2 } };

static struct metric	m_short = METRIC_COUNTER("short", "");
static struct metric *const metrics[] = { &m_short };

/* --- The stream ----------------------------------------------------------- */

struct frame {
	struct frame	*next;
	size_t		 len;
	uint8_t		 body[];
};

struct bus_peer {
	struct frame	*head, **tail;
	uint64_t	 sent, got, incarnation;
	size_t		 kept, kept_max;
	bool		 full;
	bool		 breaks;	/* find no memory now and then */
	bool		 refused;	/* something, since this was cleared */
	size_t		 rows;		/* sent, since this was set to 0 */
};

static struct bus_peer	stream;
static uint64_t		seed;

static uint64_t
chance(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

int
bus_peer_open(struct bus_peer **out, struct bus *b UNUSED,
    const char *name UNUSED, uint64_t incarnation,
    const char *endpoint UNUSED, void *user UNUSED)
{
	stream.head = NULL;
	stream.tail = &stream.head;
	stream.sent = stream.got = stream.kept = 0;
	stream.full = false;
	stream.incarnation = incarnation;
	*out = &stream;
	return 0;
}

static struct frame *
take_frame(void)
{
	struct frame *f = stream.head;

	if (f == NULL)
		return NULL;
	if ((stream.head = f->next) == NULL)
		stream.tail = &stream.head;
	stream.kept -= f->len;
	stream.got++;
	return f;
}

void
bus_peer_close(struct bus_peer **p)
{
	struct frame *f;

	while ((f = take_frame()) != NULL)
		free(f);
	*p = NULL;
}

uint64_t
bus_peer_sent(const struct bus_peer *p)
{
	return p->sent;
}

uint64_t
bus_peer_got(const struct bus_peer *p)
{
	return p->got;
}

bool
bus_peer_blocked(const struct bus_peer *p)
{
	return p->full;
}

int
bus_stream_send(struct bus_peer *p, enum kind kind, const void *body,
    size_t len, uint64_t *seq UNUSED)
{
	struct frame	*f;
	struct routes	 m;

	assert_int_equal(kind, KIND_ROUTES);
	assert_true(len <= BUS_BODY_MAX);
	if (p->kept > 0 && p->kept + len > p->kept_max) {
		p->full = p->refused = true;
		return ERR_FULL;
	}
	if (p->breaks && chance() % 64 == 0) {
		p->refused = true;
		return ERR_NOMEM;
	}
	assert_non_null(f = malloc(sizeof(*f) + len));
	memcpy(f->body, body, len);
	f->len = len;
	f->next = NULL;
	*p->tail = f;
	p->tail = &f->next;
	p->kept += len;
	p->sent++;
	assert_int_equal(routes_decode(&m, f->body, f->len), 0);
	p->rows += m.rows;
	return 0;
}

/* --- The router ----------------------------------------------------------- */

struct row {
	uint32_t	members;	/* 0: it has none */
	bool		old;		/* unless the snapshot names it */
};

struct wait {
	uint64_t	seq;
	unsigned	text, kind;
	unsigned	version;
};

struct world {
	struct index	*index;
	struct index_owner subs[OWNERS];
	struct route_tell tell;
	bool		 has[OWNERS][TEXTS][KINDS];
	uint32_t	 count[TEXTS];		/* of members, as told */
	unsigned	 version[TEXTS][KINDS];	/* how often it went */
	struct wait	 waits[WAITS];
	size_t		 nwaits, released;
	unsigned	 snapshots, aimed;

	/* The router. */
	bool		 up;
	uint64_t	 incarnation, seq;
	enum { UNKNOWN, LEARNING, SYNCED, ASKED } state;
	struct row	 rows[TEXTS][KINDS];
	uint64_t	 ack;		/* on its way */
	bool		 resync;
};

static char	*texts[TEXTS];

/* One in so many is long: batches are filled by their bytes, or else rows fill
 * a page. */
static void
texts_make(unsigned few)
{
	unsigned i;
	size_t	 len;

	for (i = 0; i < TEXTS; i++) {
		len = i % few == 7 ? TEXT_MAX / 4 + i * 15 : 24;
		assert_non_null(texts[i] = malloc(len + 1));
		memset(texts[i], 'x', len);
		texts[i][len] = '\0';
		texts[i][snprintf(texts[i], 16, i % 3 == 0 ? "%u/+/" : "%u/",
		    i)] = 'x';
	}
}

static void
texts_free(void)
{
	unsigned i;

	for (i = 0; i < TEXTS; i++)
		free(texts[i]);
}

static void
router_row(struct world *w, const struct route_row *row, bool add)
{
	unsigned	 i = (unsigned)strtoul((const char *)row->filter.data,
			     NULL, 10);
	unsigned	 k = (unsigned)row->share.len;
	struct row	*r = &w->rows[i][k];

	assert_true(i < TEXTS && k < KINDS);
	assert_int_equal(row->filter.len, strlen(texts[i]));
	assert_true(!add || k == 0 || row->members > 0);
	r->members = !add ? 0 : k == 0 ? 1 : row->members;
	r->old = false;
}

static void
router_takes(struct world *w, const struct frame *f)
{
	struct routes	 m;
	struct route_row row;
	unsigned	 i, k;
	bool		 add;

	assert_int_equal(routes_decode(&m, f->body, f->len), 0);
	assert_int_equal(m.router_incarnation, w->incarnation);
	if (w->state == ASKED && !m.snapshot_begin)
		return;
	if (m.snapshot_begin) {
		for (i = 0; i < TEXTS; i++)
			for (k = 0; k < KINDS; k++)
				w->rows[i][k].old = true;
		w->state = LEARNING;
		w->snapshots++;
	} else {
		assert_int_not_equal(w->state, UNKNOWN);
		assert_int_equal(m.seq, w->seq + 1);
	}
	w->seq = m.seq;
	while (routes_next(&m, &row, &add) == 1)
		router_row(w, &row, add);
	if (!m.snapshot_end)
		return;
	assert_int_equal(w->state, LEARNING);
	w->state = SYNCED;
	for (i = 0; i < TEXTS; i++)
		for (k = 0; k < KINDS; k++)
			if (w->rows[i][k].old)
				w->rows[i][k].members = 0;
}

/* It takes some frames; true if there were any. */
static bool
router_works(struct world *w, unsigned n)
{
	struct frame	*f;
	bool		 any = false;

	if (!w->up)
		return false;
	while (n-- > 0 && (f = take_frame()) != NULL) {
		any = true;
		router_takes(w, f);
		free(f);
	}
	if (stream.full && stream.kept <= stream.kept_max / 2) {
		stream.full = false;
		route_tell_room(&w->tell);
	}
	return any;
}

static void
router_says(struct world *w, uint64_t incarnation, uint64_t seq, bool resync)
{
	RouteAck	 m = { .incarnation = 30, .seq = seq,
			       .resync = resync };
	uint8_t		 buf[RouteAck_size];
	pb_ostream_t	 out = pb_ostream_from_buffer(buf, sizeof(buf));
	struct bus_frame f = { .from = { .incarnation = incarnation } };

	assert_true(pb_encode(&out, RouteAck_fields, &m));
	f.body = buf;
	f.len = out.bytes_written;
	assert_int_equal(route_tell_ack(&w->tell, &f), 0);
}

static bool
acks_arrive(struct world *w)
{
	uint64_t ack = w->ack;

	if (!w->up)
		return false;
	if (w->resync) {
		w->resync = false;
		router_says(w, w->incarnation, 0, true);
		return true;
	}
	w->ack = 0;
	if (ack > 0)
		router_says(w, w->incarnation, ack, false);
	return ack > 0;
}

static void
router_is(struct world *w, bool up, uint64_t incarnation)
{
	struct proc_peer p = { .name = "router", .kind = PROC_ROUTER };

	if (incarnation != w->incarnation) {
		memset(w->rows, 0, sizeof(w->rows));
		w->state = UNKNOWN;
		w->seq = 0;
	}
	w->ack = 0;
	w->resync = false;
	w->up = up;
	w->incarnation = p.incarnation = incarnation;
	p.state = up ? PROC_READY : PROC_DOWN;
	stream.rows = 0;
	/* Nobody waits for what nobody can say. */
	w->nwaits = 0;
	route_tell_router(&w->tell, &p);
}

/* --- The owner ------------------------------------------------------------ */

static uint32_t
wanted(const struct world *w, unsigned i, unsigned k)
{
	unsigned	o;
	bool		any = false;

	for (o = 0; o < OWNERS; o++)
		any |= w->has[o][i][k];
	return !any ? 0 : k == 0 ? 1 : w->count[i];
}

static bool
is_due(const struct world *w, const struct wait *x)
{
	return x->seq > w->tell.acked && w->tell.router != NULL;
}

/* Those whose number was acknowledged get their SUBACK: the router has it. */
static void
release(void *ctx)
{
	struct world	*w = ctx;
	struct wait	*x;
	size_t		 i, n = 0;

	for (i = 0; i < w->nwaits; i++) {
		x = &w->waits[i];
		if (is_due(w, x)) {
			w->waits[n++] = *x;
			continue;
		}
		if (x->version != w->version[x->text][x->kind] ||
		    wanted(w, x->text, x->kind) == 0)
			continue;		/* gone meanwhile */
		assert_true(w->rows[x->text][x->kind].members > 0);
		w->released++;
	}
	w->nwaits = n;
}

static void
rebase(void *ctx, uint64_t seq)
{
	struct world	*w = ctx;
	size_t		 i;

	assert_int_equal(seq, w->tell.seq);
	for (i = 0; i < w->nwaits; i++)
		if (w->waits[i].seq > w->tell.acked)
			w->waits[i].seq = seq;
}

static bool
waited(void *ctx)
{
	return ((struct world *)ctx)->nwaits > 0;
}

static uint32_t
members(void *ctx, const struct index_filter *f)
{
	struct world *w = ctx;

	return w->count[strtoul(f->text, NULL, 10)];
}

static const struct route_hooks hooks = {
	.members = members, .waited = waited, .rebase = rebase,
	.acked = release,
};

static void
subscribe(struct world *w, unsigned o, unsigned i, unsigned k)
{
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f;
	int			 rc;

	rc = k == 0 ? index_subscribe(w->index, &w->subs[o], texts[i],
	    strlen(texts[i]), &opts, &f) : index_share(w->index, &w->subs[o],
	    &groups[k], texts[i], strlen(texts[i]), &opts, &f);
	assert_int_equal(rc, !w->has[o][i][k]);
	w->has[o][i][k] = true;
	route_tell_changed(&w->tell, f);
	if (w->tell.router == NULL || w->nwaits == WAITS)
		return;
	w->waits[w->nwaits++] = (struct wait){ route_seq_of(&w->tell, f), i,
	    k, w->version[i][k] };
	if (!is_due(w, &w->waits[w->nwaits - 1]))
		release(w);
	/* A store says no filter but means any. */
	assert_true(route_seq_of(&w->tell, f) <= w->tell.acked ||
	    route_seq_all(&w->tell) > w->tell.acked);
}

static void
unsubscribe(struct world *w, unsigned o, unsigned i, unsigned k)
{
	struct index_filter	*f;
	int			 rc;

	rc = k == 0 ? index_unsubscribe(w->index, &w->subs[o], texts[i],
	    strlen(texts[i]), &f) : index_unshare(w->index, &w->subs[o],
	    &groups[k], texts[i], strlen(texts[i]), &f);
	assert_int_equal(rc, w->has[o][i][k] ? 0 : ERR_NOTFOUND);
	if (rc < 0)
		return;
	w->has[o][i][k] = false;
	w->version[i][k] += wanted(w, i, k) == 0;
	route_tell_changed(&w->tell, f);
}

/* Other members count, or none. */
static void
recount(struct world *w, unsigned i)
{
	struct index_filter	*f;
	uint32_t		 was = w->count[i];
	unsigned		 k;

	w->count[i] = (uint32_t)(chance() % 3);
	for (k = 1; k < KINDS; k++) {
		w->version[i][k] += was == 0 || w->count[i] == 0;
		f = index_find(w->index, &groups[k], texts[i],
		    strlen(texts[i]));
		if (f != NULL)
			route_tell_changed(&w->tell, f);
	}
}

static void
turn(struct world *w)
{
	size_t changed = w->tell.ndirty;

	stream.rows = 0;
	stream.refused = false;
	route_tell_flush(&w->tell);
	assert_int_equal(w->tell.ndirty, 0);
	assert_true(stream.rows <= changed + ROWS_A_TURN);
	/* It goes on by itself, but tries nothing in vain. */
	if (w->tell.router == NULL || !w->tell.snapshot || stream.full ||
	    (stream.refused && changed == 0))
		assert_false(route_tell_more(&w->tell));
	else if (!stream.refused)
		assert_true(route_tell_more(&w->tell));
}

static int
collect(void *ctx, struct index_filter *f)
{
	bool *hit = ctx;

	hit[strtoul(f->text, NULL, 10)] = true;
	return 0;
}

/* What is told a second time goes, or comes, just now. */
static void
aim(struct world *w)
{
	static bool	hit[TEXTS];
	uint64_t	at = w->tell.at;
	unsigned	i, k, o;

	memset(hit, 0, sizeof(hit));
	index_page(w->index, &at, collect, hit);
	for (i = 0; i < TEXTS; i++)
		for (k = 0; hit[i] && k < KINDS; k++)
			if (chance() % 8 == 0)
				subscribe(w, 0, i, k);
			else
				for (o = 0; o < OWNERS; o++)
					unsubscribe(w, o, i, k);
	w->aimed++;
}

static void
changes(struct world *w)
{
	/* Some hours all come, in others they go. */
	static const unsigned	mood[] = { 10, 3, 7, 5 };
	unsigned		n = (unsigned)(chance() % 60), i;

	while (n-- > 0) {
		i = (unsigned)(chance() % TEXTS);
		if (chance() % 10 < mood[chance() / 64 % NELEM(mood)])
			subscribe(w, (unsigned)(chance() % OWNERS), i,
			    (unsigned)(chance() % 5) % KINDS);
		else if (chance() % 4 == 0)
			recount(w, i);
		else
			unsubscribe(w, (unsigned)(chance() % OWNERS), i,
			    (unsigned)(chance() % 5) % KINDS);
	}
}

static void
step(struct world *w)
{
	switch (chance() % 64) {
	case 0:			/* the connection breaks */
		w->ack = 0;
		route_tell_lost(&w->tell);
		if (w->up) {
			w->resync |= w->state == ASKED;
			route_tell_up(&w->tell);
		}
		return;
	case 1:			/* it lost something */
		if (w->up && w->state != UNKNOWN) {
			w->state = ASKED;
			w->resync = true;
		}
		return;
	case 2:
		if (chance() % 4 == 0)
			router_is(w, false, w->incarnation);
		return;
	case 3: case 4:
		if (!w->up || chance() % 8 == 0)
			router_is(w, true, w->incarnation + chance() % 2);
		return;
	case 5:
		stream.kept_max = chance() % 2 ? 600 << 10 : 8 << 20;
		return;
	default:
		break;
	}
	if (chance() % 3 == 0)
		changes(w);
	if (w->tell.snapshot && w->tell.at < w->tell.far && chance() % 2)
		aim(w);
	if (chance() % 4 != 0)
		turn(w);
	if (chance() % 3 == 0)
		(void)router_works(w, (unsigned)(chance() % 6));
	if (w->up && w->state == SYNCED && chance() % 3 == 0)
		w->ack = w->seq;
	if (chance() % 3 == 0)
		(void)acks_arrive(w);
}

/* Nothing comes from outside any more: what is under way comes to its end. */
static void
settle(struct world *w)
{
	unsigned	n;
	bool		any;

	stream.breaks = false;
	if (!w->up)
		router_is(w, true, w->incarnation + 1);
	w->resync |= w->state == ASKED;
	route_tell_up(&w->tell);
	turn(w);			/* a timer, at last */
	for (n = 0; w->resync || !route_tell_is_known(&w->tell); n++) {
		assert_true(n < 10000);
		any = route_tell_more(&w->tell);
		turn(w);
		any |= router_works(w, 1);
		if (w->state == SYNCED && w->tell.acked < w->seq)
			w->ack = w->seq;
		any |= acks_arrive(w);
		assert_true(any);	/* somebody has to wake us */
	}
}

static void
the_same_is_known_here_and_there(const struct world *w)
{
	unsigned i, k;

	assert_int_equal(w->state, SYNCED);
	assert_int_equal(w->nwaits, 0);
	for (i = 0; i < TEXTS; i++)
		for (k = 0; k < KINDS; k++)
			assert_int_equal(w->rows[i][k].members,
			    wanted(w, i, k));
}

static void
a_suback_leaves_for_what_the_router_has(void **state UNUSED)
{
	struct index_limits	 lim = { 4096, 4096 };
	struct index_filter	*f;
	struct world		*w;
	unsigned		 run, n, o, aimed = 0, snapshots = 0;
	size_t			 released = 0;

	for (run = 1; run <= SEEDS; run++) {
		print_message("seed %u\n", run);
		seed = run * UINT64_C(0x9e3779b97f4a7c15);
		texts_make(run % 3 == 0 ? 512 : 16);
		assert_non_null(w = calloc(1, sizeof(*w)));
		assert_non_null(w->index = index_new(run, &lim));
		stream.kept_max = 8 << 20;
		route_tell_init(&w->tell, NULL, w->index, 30, &hooks, w,
		    &m_short);
		for (n = 0; n < TEXTS; n++)
			w->count[n] = 1;
		for (n = 0; n < TEXTS; n++)
			if (chance() % 2 == 0)
				subscribe(w, 0, n, (unsigned)(chance() % 9) %
				    KINDS);
		turn(w);
		router_is(w, true, 20);
		for (n = 0; n < STEPS; n++) {
			stream.breaks = n % 256 > 128;
			step(w);
			if (n % 128 == 127) {
				settle(w);
				the_same_is_known_here_and_there(w);
			}
		}
		settle(w);
		the_same_is_known_here_and_there(w);
		for (o = 0; o < OWNERS; o++)
			while (index_unsubscribe_one(w->index, &w->subs[o],
			    &f) == 0)
				route_tell_changed(&w->tell, f);
		memset(w->has, 0, sizeof(w->has));
		settle(w);
		the_same_is_known_here_and_there(w);
		assert_int_equal(index_nfilters(w->index), 0);
		released += w->released;
		aimed += w->aimed;
		snapshots += w->snapshots;
		route_tell_fini(&w->tell);
		index_free(&w->index);
		free(w);
		texts_free();
	}
	/* It was not all in vain. */
	print_message("released %zu, snapshots %u, aimed %u\n", released,
	    snapshots, aimed);
	assert_true(released > 1000 && snapshots > 100 && aimed > 20);
}

static void
a_slow_router_is_told_no_more_than_it_can_take(void **state UNUSED)
{
	struct index_limits	 lim = { 4096, 4096 };
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f;
	struct world		*w = calloc(1, sizeof(*w));
	char			 text[24];
	unsigned		 i;
	uint64_t		 sent;

	assert_non_null(w);
	assert_non_null(w->index = index_new(1, &lim));
	stream.kept_max = 64 << 20;
	stream.breaks = false;
	route_tell_init(&w->tell, NULL, w->index, 30, &hooks, w, &m_short);
	for (i = 0; i < 100000; i++) {
		snprintf(text, sizeof(text), "%u/x", i);
		assert_int_equal(index_subscribe(w->index, &w->subs[0], text,
		    strlen(text), &opts, &f), 1);
	}
	router_is(w, true, 20);
	assert_int_equal(stream.sent, 1);	/* not all in one turn */
	for (i = 0; i < 1000 && route_tell_more(&w->tell); i++)
		route_tell_flush(&w->tell);
	assert_true(w->tell.snapshot);
	sent = stream.sent;
	route_tell_flush(&w->tell);
	assert_int_equal(stream.sent, sent);
	free(take_frame());
	assert_true(route_tell_more(&w->tell));
	route_tell_flush(&w->tell);
	assert_int_equal(stream.sent, sent + 1);
	route_tell_fini(&w->tell);
	while (index_unsubscribe_one(w->index, &w->subs[0], &f) == 0)
		index_filter_drop(w->index, f);
	index_free(&w->index);
	free(w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_suback_leaves_for_what_the_router_has),
		cmocka_unit_test(
		    a_slow_router_is_told_no_more_than_it_can_take),
	};

	metric_register(metrics, NELEM(metrics));
	return cmocka_run_group_tests_name("tell", tests, NULL, NULL);
}

/*
 * The metadata channel: its rules by themselves, then nodes in one process,
 * each with a loop and an address of its own, over real sockets. Who is not
 * stepped is as good as stopped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include <ev.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "log/log.h"
#include "mesh/mesh.h"
#include "metric/metric.h"
#include "proto/wire.h"

#define S(s)	((struct slice){ (const uint8_t *)(s), strlen(s) })
#define SEC	UINT64_C(1000000000)

/* --- Messages --------------------------------------------------------------- */

static void
a_hello_comes_out_as_it_went_in(void **state UNUSED)
{
	struct mesh_msg	m = { .version = 3, .oldest = 2, .node = S("a1@h"),
	    .incarnation = 1ull << 60, .core = true, .cluster = S("c"),
	    .member = S("opaque"), .clock = 77, .id = ~0ull, .to = 5,
	    .replicants = 9, .seen = 6, .called = S("b2@i"), .status = 4,
	    .why = S("so"), .ports = { 0, 5371, 0, 6369 } }, got;
	uint8_t		buf[MESH_BUF_MIN];
	long		n = mesh_encode(&m, buf, sizeof(buf)), i;

	assert_true(n > 0);
	assert_int_equal(mesh_decode(&got, buf, (size_t)n, true), 0);
	assert_int_equal(got.version, 3);
	assert_int_equal(got.oldest, 2);
	assert_memory_equal(got.node.data, "a1@h", 4);
	assert_memory_equal(got.member.data, "opaque", 6);
	assert_memory_equal(got.called.data, "b2@i", 4);
	assert_true(got.core && got.id == ~0ull && got.to == 5);
	assert_true(got.seen == 6 && got.clock == 77 && got.replicants == 9);
	assert_memory_equal(got.ports, m.ports, sizeof(m.ports));
	for (i = 0; i < n; i++)		/* a cut one never reads outside */
		(void)mesh_decode(&got, buf, (size_t)i, true);
	assert_int_equal(mesh_encode(&m, buf, 20), ERR_FULL);
	m.ports[0] = 65536;
	assert_int_equal(mesh_encode(&m, buf, sizeof(buf)), ERR_INVAL);
}

static void
who_says_hello_says_who_it_is(void **state UNUSED)
{
	struct mesh_msg	m = { .node = S("a@b"), .incarnation = 1, .id = 1 },
	    got;
	uint8_t		buf[MESH_BUF_MIN];
	struct wire_out	w;
	long		n;

	n = mesh_encode(&m, buf, sizeof(buf));
	assert_int_equal(mesh_decode(&got, buf, (size_t)n, true), 0);
	m.id = 0;
	n = mesh_encode(&m, buf, sizeof(buf));
	assert_int_equal(mesh_decode(&got, buf, (size_t)n, true), ERR_PROTO);
	assert_int_equal(mesh_decode(&got, buf, (size_t)n, false), 0);
	m.id = 1;
	m.node = (struct slice){ (const uint8_t *)"a\0b", 3 };
	assert_int_equal(mesh_encode(&m, buf, sizeof(buf)), ERR_INVAL);

	/* What a later version says beyond this is skipped. */
	wire_out_init(&w, buf, sizeof(buf));
	wire_put_bytes(&w, 3, S("a@b"));
	wire_put_uint(&w, 4, 1);
	wire_put_uint(&w, 10, 1);
	wire_put_bytes(&w, 1000, S("news"));
	wire_put_uint(&w, 1001, 5);
	assert_int_equal(mesh_decode(&got, buf, wire_out_len(&w), true), 0);
}

/* --- Rules ------------------------------------------------------------------ */

static struct mesh_self
self(const char *name)
{
	return (struct mesh_self){ .node = name, .cluster = "c",
	    .incarnation = 5, .core = true, .version = 3, .oldest = 2,
	    .max_skew_ns = 10 * SEC };
}

static void
who_does_not_fit_is_refused_with_a_reason(void **state UNUSED)
{
	static const struct {
		struct mesh_msg	 m;
		enum mesh_status want;
		const char	*says;
	} rows[] = {
		{ { .version = 3, .oldest = 3 }, MESH_OK, "" },
		{ { .version = 9, .oldest = 3 }, MESH_OK, "" },
		{ { .version = 2, .oldest = 1 }, MESH_OK, "" },
		{ { .version = 1, .oldest = 1 }, MESH_TOO_OLD, "version 1" },
		{ { .version = 9, .oldest = 4 }, MESH_TOO_NEW, "version 4" },
		{ { .version = 3, .clock = 110 * SEC }, MESH_OK, "" },
		{ { .version = 3, .clock = 110 * SEC + 1000000 }, MESH_SKEW,
		    "10001 ms ahead" },
		{ { .version = 3, .clock = 1 }, MESH_OK, "" },
	};
	struct mesh_self me = self("b@h");
	struct mesh_msg	 m;
	char		 why[256];
	size_t		 i;

	for (i = 0; i < NELEM(rows); i++) {
		m = rows[i].m;
		m.node = S("a@h");
		m.core = true;
		why[0] = '\0';
		assert_int_equal(mesh_judge(&me, &m, 100 * SEC, why,
		    sizeof(why)), rows[i].want);
		assert_non_null(strstr(why, rows[i].says));
	}
	m = (struct mesh_msg){ .version = 3, .node = S("b@h"), .core = true };
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)),
	    MESH_SAME_NAME);
	m.node = S("a@h");
	m.called = S("x@h");
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)),
	    MESH_OTHER_NAME);
	m.called = S("b@h");
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)), MESH_OK);
	m.cluster = S("d");
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)),
	    MESH_OTHER_CLUSTER);
	m.cluster = S("c");
	m.core = false;
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)), MESH_OK);
	me.core = false;
	assert_int_equal(mesh_judge(&me, &m, 0, why, sizeof(why)),
	    MESH_ROLES);
}

/* Of two connections each side keeps the same one, whichever came first. */
static void
both_sides_keep_the_same_connection(void **state UNUSED)
{
	bool	a, b;
	int	first;

	for (first = 0; first < 2; first++) {
		/* Made by a (first 1) or by b is there; here is the other. */
		a = mesh_replaces("a", "b", first, !first);
		b = mesh_replaces("b", "a", !first, first);
		assert_int_equal(a, b);
		assert_int_equal(a, !first);
	}
	assert_true(mesh_replaces("a", "b", true, true));
	assert_true(mesh_replaces("b", "a", false, false));
}

static void
calls_are_spaced_and_spread(void **state UNUSED)
{
	uint64_t r;

	for (r = 0; r < 10000; r += 7) {
		assert_in_range(mesh_pause_ms(1, MESH_OK, r), 250, 749);
		assert_in_range(mesh_pause_ms(30, MESH_OK, r), 2000, 5999);
		assert_in_range(mesh_pause_ms(1, MESH_OTHER_CLUSTER, r), 2500,
		    7499);
		assert_in_range(mesh_pause_ms(1, MESH_DUPLICATE, r), 250, 749);
	}
	assert_true(mesh_pause_ms(1, MESH_OK, 1) !=
	    mesh_pause_ms(1, MESH_OK, 2));
}

static void
time_that_was_not_ours_is_no_silence(void **state UNUSED)
{
	assert_int_equal(mesh_lost_ms(100, 100), 0);
	assert_int_equal(mesh_lost_ms(200, 100), 0);
	assert_int_equal(mesh_lost_ms(5000, 100), 4900);
}

static void
a_reason_is_logged_once_in_a_while(void **state UNUSED)
{
	struct mesh_limit l = { 0 };
	uint64_t	  more = 9;

	assert_true(mesh_may_log(&l, 1, 1000, &more));
	assert_int_equal(more, 0);
	assert_false(mesh_may_log(&l, 1, 1001, &more));
	assert_false(mesh_may_log(&l, 1, 10999, &more));
	assert_true(mesh_may_log(&l, 1, 11000, &more));
	assert_int_equal(more, 2);
	assert_true(mesh_may_log(&l, 2, 11001, &more));
}

/* --- Nodes ------------------------------------------------------------------ */

#define NODES	4
#define PATIENCE 20000		/* ms, then a test has failed */

struct node {
	struct ev_loop	*loop;
	struct mesh	*m;
	char		 name[64], host[32];
	unsigned	 ups, downs, messages, changes, writables, refusals;
	enum mesh_status down_why;
	uint64_t	 last;		/* number in the last message */
	bool		 disorder, bad;
	int		 rc;		/* of the message handler */
	enum mesh_status verdict;	/* of judge */
	char		 filled[32];
};

static struct node	nodes[NODES];
static struct secret	secret;
static struct mesh_opts	opts;		/* changed by a test before start */
static uint64_t		incarnations = 100;

static void
on_up(void *ctx, struct mesh_node *n UNUSED)
{
	((struct node *)ctx)->ups++;
}

static void
on_down(void *ctx, struct mesh_node *n UNUSED, enum mesh_status why)
{
	struct node *d = ctx;

	d->downs++;
	d->down_why = why;
}

/* {number 8, length 4, filler of that number} */
static int
on_message(void *ctx, struct mesh_node *n UNUSED, unsigned kind,
    const void *body, size_t len)
{
	struct node	*d = ctx;
	const uint8_t	*b = body;

	if (kind != MESH_RLOG || len < 8)
		d->bad = true;
	else {
		d->disorder |= get_le64(b) != d->last + 1;
		d->last = get_le64(b);
		d->bad |= b[len - 1] != (uint8_t)(len > 8 ? d->last :
		    b[len - 1]);
	}
	d->messages++;
	return d->rc;
}

static void
on_writable(void *ctx, struct mesh_node *n UNUSED)
{
	((struct node *)ctx)->writables++;
}

static void
on_changed(void *ctx, struct mesh_node *n UNUSED)
{
	((struct node *)ctx)->changes++;
}

static void
on_refused(void *ctx, struct mesh_node *n UNUSED, const struct mesh_msg *m)
{
	struct node *d = ctx;

	d->refusals++;
	snprintf(d->filled, sizeof(d->filled), "%.*s", (int)m->member.len,
	    m->member.data);
}

static size_t
fill(void *ctx, const char *to, void *buf, size_t size UNUSED)
{
	struct node *d = ctx;

	return (size_t)snprintf(buf, 64, "%s to %s", d->name, to);
}

static enum mesh_status
judge(void *ctx, const struct mesh_msg *m, bool called UNUSED,
    struct mesh_answer *a)
{
	struct node *d = ctx;

	snprintf(d->filled, sizeof(d->filled), "%.*s", (int)m->member.len,
	    m->member.data);
	a->member = S("because");
	return d->verdict;
}

static const struct mesh_events events = { .fill = fill, .judge = judge,
	.refused = on_refused, .up = on_up, .down = on_down,
	.message = on_message, .writable = on_writable,
	.changed = on_changed };

static uint16_t
port_of(int i)
{
	return (uint16_t)(14370 + i);
}

static void
start(int i)
{
	struct node	*d = &nodes[i];
	struct mesh_opts o = opts;

	if (d->loop == NULL)
		d->loop = ev_loop_new(0);
	o.loop = d->loop;
	o.self.node = d->name;
	o.self.incarnation = incarnations++;
	if (o.self.version == 0)
		o.self.version = o.self.oldest = 1;
	o.id = (uint64_t)i + 1;
	o.host = d->host;
	o.port = port_of(i);
	if (o.secret == NULL)
		o.secret = &secret;
	o.events = &events;
	o.ctx = d;
	assert_int_equal(mesh_open(&d->m, &o), 0);
}

static void
call(int a, int b)
{
	assert_int_equal(mesh_add(nodes[a].m, nodes[b].name, nodes[b].host,
	    port_of(b)), 0);
}

static bool
look(int a, int b, struct mesh_look *out)
{
	struct mesh_node *n = mesh_find(nodes[a].m, nodes[b].name);

	memset(out, 0, sizeof(*out));
	if (n != NULL)
		mesh_look(n, out);
	return out->up;
}

static bool
linked(int a, int b)
{
	struct mesh_look l;

	return look(a, b, &l) && look(b, a, &l);
}

static unsigned	stepped = (1u << NODES) - 1;

static void
step(void)
{
	int i;

	for (i = 0; i < NODES; i++)
		if (nodes[i].m != NULL && (stepped >> i & 1))
			ev_run(nodes[i].loop, EVRUN_NOWAIT);
	usleep(300);
}

#define until(what) do {						\
	uint64_t end = clock_mono_ns() / 1000000 + PATIENCE;		\
	while (!(what)) {						\
		if (clock_mono_ns() / 1000000 > end)			\
			fail_msg("waited in vain for %s", #what);	\
		step();							\
	}								\
} while (0)

static uint64_t
counter(const char *name)
{
	return metric_get(metric_find(name));
}

static int
fresh(void **state UNUSED)
{
	unsigned pid = (unsigned)getpid();
	int	 i;

	memset(nodes, 0, sizeof(nodes));
	opts = (struct mesh_opts){ .self = { .cluster = "c", .core = true,
	    .max_skew_ns = 10 * SEC } };
	stepped = (1u << NODES) - 1;
	for (i = 0; i < NODES; i++) {
		snprintf(nodes[i].name, sizeof(nodes[i].name), "n%d@h", i);
		snprintf(nodes[i].host, sizeof(nodes[i].host), "127.%u.%u.%u",
		    64 + (pid >> 16) % 64, pid >> 8 & 255, pid & 255);
	}
	return 0;
}

static int
gone(void **state UNUSED)
{
	int i;

	for (i = 0; i < NODES; i++) {
		mesh_close(&nodes[i].m);
		if (nodes[i].loop != NULL)
			ev_loop_destroy(nodes[i].loop);
	}
	return 0;
}

static void
two_nodes_that_call_each_other_have_one_link(void **state UNUSED)
{
	struct mesh_look a, b;

	start(0);
	start(1);
	call(0, 1);
	call(1, 0);
	until(linked(0, 1));
	/* And it stays one: say something each way, both come on it. */
	assert_true(look(0, 1, &a) && look(1, 0, &b));
	assert_int_equal(a.id, 2);
	assert_int_equal(b.id, 1);
	until(look(0, 1, &a) && look(1, 0, &b) && a.ours != b.ours);
	assert_true(a.core && a.version == 1 && a.port == port_of(1));
}

static void
who_is_called_need_not_call(void **state UNUSED)
{
	struct mesh_look l;

	start(0);
	start(1);
	call(1, 0);			/* the higher name made it */
	until(linked(0, 1));
	assert_true(look(1, 0, &l) && l.ours);
	assert_true(look(0, 1, &l) && !l.ours && l.port == 0);
	assert_string_equal(nodes[0].filled, "n1@h to n0@h");
	assert_string_equal(nodes[1].filled, "n0@h to n1@h");
}

static void
everybody_is_linked_with_everybody(void **state UNUSED)
{
	int a, b;

	for (a = 0; a < NODES; a++)
		start(a);
	for (a = 0; a < NODES; a++)
		for (b = 0; b < NODES; b++)
			if (a != b)
				call(a, b);
	until(linked(0, 1) && linked(0, 2) && linked(0, 3) && linked(1, 2) &&
	    linked(1, 3) && linked(2, 3));
}

/* Send up to `most` messages of these sizes; how many were taken. */
static uint64_t
pour(int a, int b, uint64_t from, uint64_t most, size_t size)
{
	static uint8_t	 body[300000];
	struct mesh_node *n = mesh_find(nodes[a].m, nodes[b].name);
	uint64_t	 k;
	int		 rc;

	for (k = 0; k < most; k++) {
		put_le64(body, from + k + 1);
		body[size - 1] = size > 8 ? (uint8_t)(from + k + 1) :
		    body[size - 1];
		if ((rc = mesh_send(n, MESH_RLOG, body, size)) < 0) {
			assert_int_equal(rc, ERR_AGAIN);
			break;
		}
	}
	return k;
}

static void
messages_keep_their_order_and_none_is_lost(void **state UNUSED)
{
	uint64_t there = 0, back = 0;

	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	while (there < 3000 || back < 3000) {
		there += pour(0, 1, there, MIN(40, 3000 - there),
		    9 + there % 20000);
		back += pour(1, 0, back, MIN(40, 3000 - back),
		    9 + back % 30000);
		step();
	}
	until(nodes[1].messages == 3000 && nodes[0].messages == 3000);
	assert_false(nodes[0].disorder || nodes[1].disorder);
	assert_false(nodes[0].bad || nodes[1].bad);
	assert_int_equal(nodes[0].downs + nodes[1].downs, 0);
}

static void
what_waits_is_bounded_and_room_is_told(void **state UNUSED)
{
	struct mesh_look l;
	uint64_t	 n, more;
	int		 side;

	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	for (side = 0; side < 2; side++) {	/* DEALER, then ROUTER */
		stepped = 1u << side;
		n = 0;
		/* The other one reads nothing: it ends. */
		do {
			more = pour(side, !side, n, 1000, 200000);
			n += more;
		} while (more == 1000);
		assert_true(look(side, !side, &l));
		assert_true(l.queued <= MESH_QUEUE);
		assert_int_equal(mesh_room(mesh_find(nodes[side].m,
		    nodes[!side].name)) < 200000, true);
		assert_int_equal(nodes[side].writables, 0);
		stepped = 3;
		until(nodes[side].writables > 0);
		until(nodes[!side].messages == n);
		assert_false(nodes[!side].disorder);
	}
}

static void
who_goes_is_down_at_once(void **state UNUSED)
{
	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	mesh_close(&nodes[1].m);
	until(nodes[0].downs == 1);
	assert_true(nodes[0].down_why == MESH_GOING ||
	    nodes[0].down_why == MESH_CLOSED);
	start(1);			/* it is called again */
	until(linked(0, 1));
	assert_int_equal(nodes[0].ups, 2);
}

static void
who_is_silent_is_down_and_comes_back(void **state UNUSED)
{
	struct mesh_look l;

	start(0);
	start(1);
	start(2);
	call(0, 1);
	call(0, 2);
	until(linked(0, 1) && linked(0, 2));
	stepped = 1 | 4;
	until(look(0, 1, &l) && l.suspect);
	until(nodes[0].downs == 1);
	assert_int_equal(nodes[0].down_why, MESH_SILENT);
	assert_true(linked(0, 2));	/* who speaks is not */
	assert_int_equal(nodes[2].downs, 0);
	stepped = 7;
	until(linked(0, 1) && nodes[0].ups == 3);
}

/* A start of a node ends what was with the one before, which cannot come back. */
static void
a_later_incarnation_takes_the_place(void **state UNUSED)
{
	struct mesh_look l;
	uint64_t	 first;
	struct mesh	*old;
	struct ev_loop	*loop;
	int		 i;

	start(0);
	start(1);
	call(1, 0);
	until(linked(0, 1));
	assert_true(look(0, 1, &l));
	first = l.incarnation;
	/* The same name again, elsewhere; the first one still lives. */
	old = nodes[1].m;
	loop = nodes[1].loop;
	nodes[1].m = NULL;
	nodes[1].loop = NULL;
	opts.port = 0;
	snprintf(nodes[1].host, sizeof(nodes[1].host), "127.255.%d.%d",
	    getpid() >> 8 & 255, getpid() & 255);
	start(1);
	call(1, 0);
	until(look(0, 1, &l) && l.incarnation > first);
	for (i = 0; i < 50; i++) {
		ev_run(loop, EVRUN_NOWAIT);
		step();
	}
	assert_true(look(0, 1, &l) && l.incarnation > first);
	mesh_close(&old);
	ev_loop_destroy(loop);
}

static void
another_cookie_is_no_node(void **state UNUSED)
{
	uint64_t	before = counter("mesh_handshakes_failed_total");
	struct secret	other;
	struct mesh_look l;

	assert_int_equal(secret_keys(&other, "other", 5), 0);
	start(0);
	opts.secret = &other;
	start(1);
	call(1, 0);
	/* Both sides count it. */
	until(counter("mesh_handshakes_failed_total") >= before + 2);
	assert_false(look(1, 0, &l));
	assert_null(mesh_find(nodes[0].m, nodes[1].name));
	/* The other way round as well. */
	call(0, 1);
	until(counter("mesh_handshakes_failed_total") >= before + 4);
	assert_int_equal(nodes[0].ups + nodes[1].ups, 0);
}

static void
with_curve_on_one_side_there_is_no_link(void **state UNUSED)
{
	uint64_t	before = counter("mesh_handshakes_failed_total");
	struct secret	none = { .curve = false };

	start(0);
	opts.secret = &none;
	start(1);
	start(2);
	call(1, 0);
	call(1, 2);
	until(linked(1, 2));		/* off on both: it works */
	until(counter("mesh_handshakes_failed_total") >= before + 2);
	assert_int_equal(nodes[0].ups, 0);
}

static void
who_is_too_far_ahead_is_refused_by_both_logs(void **state UNUSED)
{
	uint64_t	 before = counter("mesh_refused_total");
	struct mesh_look l;

	start(0);
	start(1);
	mesh_witness(nodes[1].m, clock_wall_ns() + 3600 * SEC);
	call(1, 0);
	until(counter("mesh_refused_total") >= before + 2);
	until(!look(1, 0, &l) && l.refused == MESH_SKEW);
	assert_int_equal(nodes[0].ups + nodes[1].ups, 0);
	/* The one that is called may be ahead as well. */
	call(0, 1);
	until(!look(0, 1, &l) && l.refused == MESH_SKEW &&
	    counter("mesh_skewed_nodes") == 1);
}

static void
the_program_may_refuse_and_say_why(void **state UNUSED)
{
	struct mesh_look l;

	start(0);
	start(1);
	nodes[0].verdict = MESH_NO_MEMBER;
	call(1, 0);
	until(nodes[1].refusals > 0);
	assert_string_equal(nodes[1].filled, "because");
	assert_false(look(1, 0, &l));
	assert_int_equal(l.refused, MESH_NO_MEMBER);
	/* Who called may refuse, too. */
	nodes[0].verdict = MESH_OK;
	nodes[1].verdict = MESH_NO_MEMBER;
	until(nodes[0].downs > 0);
	assert_int_equal(nodes[0].down_why, MESH_NO_MEMBER);
	nodes[1].verdict = MESH_OK;
	until(linked(0, 1));
}

static void
ports_and_replicants_are_told_at_each_change(void **state UNUSED)
{
	uint32_t	 ports[NODE_LINKS_MAX] = { 5370, 6369 };
	struct mesh_look l;

	start(0);
	start(1);
	mesh_set_ports(nodes[0].m, ports);
	call(1, 0);
	until(linked(0, 1));
	assert_true(look(1, 0, &l));
	assert_int_equal(l.ports[1], 6369);
	ports[1] = 6370;
	mesh_set_ports(nodes[0].m, ports);
	until(look(1, 0, &l) && l.ports[1] == 6370);
	mesh_set_replicants(nodes[0].m, 7);
	until(look(1, 0, &l) && l.replicants == 7);
	assert_int_equal(nodes[1].changes, 2);
}

static void
clocks_follow_the_highest(void **state UNUSED)
{
	uint64_t ahead = clock_wall_ns() + 5 * SEC;

	start(0);
	start(1);
	mesh_witness(nodes[1].m, ahead);
	call(0, 1);
	until(linked(0, 1));
	assert_true(mesh_clock(nodes[0].m) >= ahead);
}

static void
a_message_that_cannot_be_taken_ends_the_link(void **state UNUSED)
{
	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	nodes[1].rc = ERR_PROTO;
	assert_int_equal(pour(0, 1, 0, 1, 20), 1);
	until(nodes[0].downs == 1 && nodes[1].downs == 1);
	assert_int_equal(nodes[0].down_why, MESH_NONSENSE);
	nodes[1].rc = 0;
	until(linked(0, 1));		/* and is made anew */
}

static void
a_node_that_is_forgotten_is_called_no_more(void **state UNUSED)
{
	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	mesh_forget(nodes[0].m, nodes[1].name);
	assert_null(mesh_find(nodes[0].m, nodes[1].name));
	until(nodes[1].downs == 1);
	assert_int_equal(nodes[1].down_why, MESH_GOING);
}

/* Bytes that are no ZMTP, a connection that says nothing, and (with CURVE off)
 * messages that are none: links of others do not notice. */
static void
nonsense_from_outside_harms_nobody(void **state UNUSED)
{
	static const struct { const char *bytes; size_t len; } rows[] = {
		{ "", 0 }, { "\1", 1 }, { "\1garbage", 8 }, { "\2\377", 2 },
		{ "\4\0\0", 3 }, { "\40hello", 6 }, { "\377", 1 },
		{ "\1\32\3a@b\40\1\120\1", 9 },
	};
	struct secret	 none = { .curve = false };
	struct sockaddr_in sin = { .sin_family = AF_INET };
	uint64_t	 before, stray;
	char		 where[64], noise[512];
	void		*ctx = zmq_ctx_new(), *z = zmq_socket(ctx, ZMQ_DEALER);
	int		 fd[3], i, linger = 0;
	size_t		 k;

	opts.secret = &none;
	start(0);
	start(1);
	call(0, 1);
	until(linked(0, 1));
	before = counter("mesh_nonsense_total");
	stray = counter("mesh_stray_total");
	sin.sin_port = htons(port_of(0));
	inet_pton(AF_INET, nodes[0].host, &sin.sin_addr);
	for (k = 0; k < sizeof(noise); k++)
		noise[k] = (char)(k * 7);
	for (i = 0; i < 3; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(connect(fd[i], (struct sockaddr *)&sin,
		    sizeof(sin)), 0);
		if (i > 0)
			(void)!send(fd[i], noise, i == 1 ? 64 : sizeof(noise),
			    MSG_NOSIGNAL);
	}
	snprintf(where, sizeof(where), "tcp://%s:%u", nodes[0].host,
	    port_of(0));
	assert_int_equal(zmq_setsockopt(z, ZMQ_LINGER, &linger,
	    sizeof(linger)), 0);
	assert_int_equal(zmq_connect(z, where), 0);
	for (k = 0; k < NELEM(rows); k++)
		assert_true(zmq_send(z, rows[k].bytes, rows[k].len, 0) >= 0);
	assert_true(zmq_send(z, "\1", 1, ZMQ_SNDMORE) >= 0);
	assert_true(zmq_send(z, "a", 1, ZMQ_SNDMORE) >= 0);
	assert_true(zmq_send(z, "b", 1, 0) >= 0);
	/* Each is one or the other; the last one is three parts. */
	until(counter("mesh_nonsense_total") - before +
	    counter("mesh_stray_total") - stray == NELEM(rows) + 1);
	assert_int_equal(pour(0, 1, 0, 10, 100), 10);
	until(nodes[1].messages == 10);
	assert_int_equal(nodes[0].downs + nodes[1].downs, 0);
	assert_int_equal(nodes[0].ups, 1);
	for (i = 0; i < 3; i++)
		close(fd[i]);
	zmq_close(z);
	zmq_ctx_term(ctx);
}

static void
a_port_that_is_taken_is_an_error(void **state UNUSED)
{
	struct mesh_opts o = { .self = self("x@h"), .id = 9,
	    .host = nodes[0].host, .port = port_of(0), .secret = &secret,
	    .events = &events };
	struct mesh	*m = NULL;

	start(0);
	o.loop = nodes[0].loop;
	assert_int_equal(mesh_open(&m, &o), ERR_IO);
	assert_null(m);
	assert_int_equal(mesh_add(nodes[0].m, nodes[0].name, "h", 1),
	    ERR_INVAL);
	assert_int_equal(mesh_add(nodes[0].m, "x", "", 1), ERR_INVAL);
	assert_int_equal(mesh_add(nodes[0].m, "x", "h", 0), ERR_INVAL);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hello_comes_out_as_it_went_in),
		cmocka_unit_test(who_says_hello_says_who_it_is),
		cmocka_unit_test(who_does_not_fit_is_refused_with_a_reason),
		cmocka_unit_test(both_sides_keep_the_same_connection),
		cmocka_unit_test(calls_are_spaced_and_spread),
		cmocka_unit_test(time_that_was_not_ours_is_no_silence),
		cmocka_unit_test(a_reason_is_logged_once_in_a_while),
		T(two_nodes_that_call_each_other_have_one_link),
		T(who_is_called_need_not_call),
		T(everybody_is_linked_with_everybody),
		T(messages_keep_their_order_and_none_is_lost),
		T(what_waits_is_bounded_and_room_is_told),
		T(who_goes_is_down_at_once),
		T(who_is_silent_is_down_and_comes_back),
		T(a_later_incarnation_takes_the_place),
		T(another_cookie_is_no_node),
		T(with_curve_on_one_side_there_is_no_link),
		T(who_is_too_far_ahead_is_refused_by_both_logs),
		T(the_program_may_refuse_and_say_why),
		T(ports_and_replicants_are_told_at_each_change),
		T(clocks_follow_the_highest),
		T(a_message_that_cannot_be_taken_ends_the_link),
		T(a_node_that_is_forgotten_is_called_no_more),
		T(nonsense_from_outside_harms_nobody),
		T(a_port_that_is_taken_is_an_error),
	};

	log_init("test", LOG_L_ERROR);
	if (secret_keys(&secret, "cookie", 6) < 0)
		return 1;
	return cmocka_run_group_tests_name("mesh", tests, NULL, NULL);
}

/*
 * Streams to another node: a source, the relay of its own link, the link of
 * the other node and a receiver there, each a bus of its own on one loop, with
 * a real TCP connection in the middle. Any of them goes away and comes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include <cmocka.h>
#include <ev.h>
#include <zmq.h>

#include "base/err.h"
#include "bus/bus.h"
#include "bus/internal.h"
#include "bus/stream.h"
#include "log/log.h"
#include "proto/msgid.h"

#define PATIENCE_S	20

static char		 dir[64];
static struct ev_loop	*loop;
static struct msgid_gen	 ids;
static char		 tcp[64];
static struct bus_secret secret, other_secret;

/* One process. */
struct proc {
	struct bus	*bus;
	char		 name[BUS_NAME_MAX], endpoint[BUS_ENDPOINT_MAX];
	struct bus_peer	*peer;
	struct bus_relay *relay;
	struct stream_origin *origin;	/* a far link: of its one source */
	struct stream_in *in;		/* of that source */
	uint64_t	 seq, bytes;	/* taken of it */
	uint64_t	 passed;	/* last seq towards its own peer */
	uint64_t	 records, last_number;
	uint64_t	 ups, losts, relay_ups, relay_downs, gone;
	bool		 disorder, holds_back, refuses_nodes, done_at_once;
	char		 from[BUS_NODE_MAX];
	char		 origin_name[64];
};

static int	looks_left;

static void
on_patience(EV_P_ ev_timer *w, int revents UNUSED)
{
	(void)loop;
	(void)w;
	looks_left--;
}

#define until(cond) do { \
	ev_timer patience; \
	bool	 holds; \
	looks_left = PATIENCE_S * 20; \
	ev_timer_init(&patience, on_patience, .05, .05); \
	ev_timer_start(loop, &patience); \
	while (!(holds = (cond)) && looks_left > 0) \
		ev_run(loop, EVRUN_ONCE); \
	ev_timer_stop(loop, &patience); \
	if (!holds) \
		fail_msg("never: %s", #cond); \
} while (0)

static void
some_turns(int n)
{
	while (n-- > 0) {
		usleep(1000);
		ev_run(loop, EVRUN_NOWAIT);
	}
}

/* The receiver: what arrives is counted, once. */
static int
on_local(void *ctx, struct bus_frame *f)
{
	struct proc	*p = ctx;
	struct record	 r;
	uint64_t	 number;
	int		 rc;

	if (f->origin != NULL)
		snprintf(p->origin_name, sizeof(p->origin_name), "%s",
		    f->origin);
	while ((rc = bus_frame_next(f, &r)) == 1) {
		number = get_le64(r.payload.data);
		p->disorder |= number <= p->last_number;
		p->last_number = number;
		p->records++;
	}
	return rc;
}

/* The far link: hands on and says it is done when its peer has it. */
static int
on_far(void *ctx, struct bus_frame *f)
{
	struct proc	*p = ctx;
	struct record	 r;
	int		 rc;

	assert_int_equal(f->from.class, PEER_LISTENER | PEER_REMOTE);
	snprintf(p->from, sizeof(p->from), "%s", f->from.node);
	if (bus_frame_kept(f) == NULL) {
		bus_frame_keep(f, p);
		stream_origin_unref(&p->origin);
		p->origin = stream_origin_new(f->from.name, f->from.node,
		    f->from.incarnation, 0);
		p->in = f->stream;
		p->bytes = 0;
	}
	while ((rc = bus_frame_next(f, &r)) == 1) {
		p->records++;
		if (p->peer != NULL)
			assert_int_equal(bus_record_of(p->peer, p->origin, &r,
			    NULL, &p->passed), 0);
	}
	p->seq = f->seq;
	p->bytes += bus_frame_cost(f);
	if (p->done_at_once)
		bus_done(p->bus, p->in, p->seq, p->bytes, p->seq);
	return rc;
}

static void
on_got(void *ctx, struct bus_peer *b UNUSED, uint64_t seq)
{
	struct proc *p = ctx;

	if (p->in != NULL && seq == p->passed && !p->holds_back)
		bus_done(p->bus, p->in, p->seq, p->bytes, p->seq);
}

static void
on_up(void *ctx, struct bus_peer *b UNUSED)
{
	((struct proc *)ctx)->ups++;
}

static void
on_lost(void *ctx, struct bus_peer *b UNUSED)
{
	((struct proc *)ctx)->losts++;
}

static bool
on_admits(void *ctx, const char *node)
{
	return !((struct proc *)ctx)->refuses_nodes &&
	    strcmp(node, "a@h") == 0;
}

static void
on_gone(void *ctx, void *user)
{
	struct proc *p = ctx;

	assert_ptr_equal(user, p);
	p->gone++;
	p->in = NULL;
}

static void
on_relay(void *ctx, struct bus_relay *r, bool up)
{
	struct proc *p = ctx;

	assert_true(bus_relay_is_up(r) == up);
	if (up)
		p->relay_ups++;
	else
		p->relay_downs++;
}

static const struct bus_events events = {
	.got = on_got, .up = on_up, .lost = on_lost, .admits = on_admits,
	.gone = on_gone, .relay = on_relay,
};

static const struct bus_rule accepts[] = {
	{ KIND_RECORDS,	PEER_LISTENER | PEER_REMOTE, 0,	on_far },
	{ KIND_RECORDS,	PEER_LINK, 0,			on_local },
};

static void
start(struct proc *p, const char *name, const char *node, uint64_t incarnation)
{
	struct bus_opts o = {
		.loop = loop, .node = node, .name = p->name,
		.incarnation = incarnation, .endpoint = p->endpoint,
		.accepts = accepts, .naccepts = NELEM(accepts),
		.events = &events, .ctx = p, .credit = 64 * 1024,
	};

	memset(p, 0, sizeof(*p));
	snprintf(p->name, sizeof(p->name), "%s", name);
	snprintf(p->endpoint, sizeof(p->endpoint), "ipc://%c.%s.%d.ipc",
	    node[0], name, (int)incarnation);
	assert_int_equal(bus_open(&p->bus, &o), 0);
}

static void
stop(struct proc *p)
{
	bus_close(&p->bus);
	stream_origin_unref(&p->origin);
}

/* The link of node a, with its relay to b. */
static void
near_link(struct proc *p, uint64_t incarnation, const struct bus_secret *s)
{
	struct bus_relay_opts o = { .node = "b@h", .endpoint = tcp,
	    .secret = s };

	start(p, "cluster_link.0", "a@h", incarnation);
	assert_int_equal(bus_relay_open(&p->relay, p->bus, &o), 0);
}

/* The link of node b, which hands on to `to`, if that is not NULL. */
static void
far_link(struct proc *p, uint64_t incarnation, struct proc *to)
{
	start(p, "cluster_link.0", "b@h", incarnation);
	assert_int_equal(bus_bind_outer(p->bus, tcp, false, &secret), 0);
	if (to != NULL)
		assert_int_equal(bus_peer_open(&p->peer, p->bus, to->name, 7,
		    to->endpoint, p), 0);
}

static void
source_to(struct proc *p, const struct proc *link)
{
	char at[BUS_ENDPOINT_MAX];

	assert_int_equal(bus_relay_endpoint(at, link->endpoint, "b@h"), 0);
	if (p->peer != NULL)
		assert_int_equal(bus_peer_reroute(p->peer, at), 0);
	else
		assert_int_equal(bus_peer_open_far(&p->peer, p->bus,
		    "cluster_link.0", "b@h", at, p), 0);
}

static uint64_t	number;

static int
put(struct proc *p, unsigned flags, size_t size)
{
	static uint8_t	payload[4096];
	struct record	r = {
		.id = msgid_next(&ids), .expiry_s = RECORD_NO_EXPIRY,
		.flags = (uint16_t)(1 | RECORD_SUBS | flags),
		.topic = { (const uint8_t *)"a/b", 3 },
		.payload = { payload, size },
	};

	put_le64(payload, ++number);
	return bus_record(p->peer, &r, NULL, NULL);
}

static int
group_setup(void **state UNUSED)
{
	struct sockaddr_in	a = { .sin_family = AF_INET };
	socklen_t		n = sizeof(a);
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	snprintf(dir, sizeof(dir), "/tmp/test_far.XXXXXX");
	if (mkdtemp(dir) == NULL || chdir(dir) < 0)
		return -1;
	loop = ev_loop_new(0);
	msgid_init(&ids, 0, 1, 1);
	log_set_level(LOG_L_ERROR);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &n) < 0)
		return -1;
	close(fd);
	snprintf(tcp, sizeof(tcp), "tcp://127.0.0.1:%u",
	    (unsigned)ntohs(a.sin_port));
	return zmq_curve_keypair(secret.public, secret.private) |
	    zmq_curve_keypair(other_secret.public, other_secret.private);
}

static int
group_teardown(void **state UNUSED)
{
	if (chdir("/") < 0)
		return -1;
	return rmdir(dir);
}

static int
each_setup(void **state UNUSED)
{
	number = 0;
	return 0;
}

static void
records_cross_and_are_acknowledged_when_they_arrived(void **state UNUSED)
{
	struct proc	a, la, lb, b;
	int		i;

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	for (i = 0; i < 1000; i++)
		assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 1000);
	assert_false(b.disorder);
	assert_string_equal(lb.from, "a@h");
	assert_string_equal(b.origin_name, "listener.3@a@h");
	assert_int_equal(la.relay_ups, 1);
	assert_string_equal(bus_peer_node(a.peer), "b@h");
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b);
}

/* What was taken but is not where it belongs is neither acknowledged nor paid
 * for: credit ends. */
static void
nothing_is_acknowledged_before_it_is_done(void **state UNUSED)
{
	struct proc	a, la, lb;
	uint64_t	was;
	int		i;

	start(&a, "listener.3", "a@h", 5);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, NULL);
	source_to(&a, &la);
	for (i = 0; i < 100; i++)
		assert_int_equal(put(&a, RECORD_LIVE | RECORD_DURABLE, 4000),
		    0);
	until(lb.records > 0 && bus_peer_blocked(a.peer));
	some_turns(100);
	assert_true(lb.records < 100);
	assert_int_equal(bus_peer_got(a.peer), 0);
	/* Got: credit and the next ones; but the disk has none. */
	while (lb.records < 100) {
		was = lb.records;
		bus_done(lb.bus, lb.in, lb.seq, lb.bytes, 0);
		until(lb.records > was);
	}
	bus_done(lb.bus, lb.in, lb.seq, lb.bytes, 0);
	until(bus_peer_got(a.peer) == bus_peer_sent(a.peer));
	assert_false(bus_idle(a.bus));
	bus_done(lb.bus, lb.in, 0, 0, lb.seq);
	until(bus_idle(a.bus));
	assert_int_equal(bus_peer_stored(a.peer), bus_peer_sent(a.peer));
	stop(&a);
	stop(&la);
	stop(&lb);
}

/* What nobody wants, or was dropped, is done within its handler. */
static void
what_is_done_at_once_is_paid_for(void **state UNUSED)
{
	struct proc	a, la, lb;
	int		i;

	start(&a, "listener.3", "a@h", 5);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, NULL);
	lb.done_at_once = true;
	source_to(&a, &la);
	for (i = 0; i < 1000; i++)
		assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
	until(bus_idle(a.bus));
	assert_int_equal(lb.records, 1000);
	stop(&a);
	stop(&la);
	stop(&lb);
}

/* ... nor when the connection breaks and is made good. */
static void
a_welcome_acknowledges_nothing(void **state UNUSED)
{
	struct proc	a, la, lb;
	int		i;

	start(&a, "listener.3", "a@h", 5);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, NULL);
	source_to(&a, &la);
	for (i = 0; i < 10; i++)
		assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(lb.records == 10);
	stop(&la);
	near_link(&la, 2, &secret);
	source_to(&a, &la);
	until(a.ups == 2);
	assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(lb.records == 11);
	assert_int_equal(bus_peer_got(a.peer), 0);
	bus_done(lb.bus, lb.in, lb.seq, lb.bytes, lb.seq);
	until(bus_idle(a.bus));
	assert_int_equal(lb.records, 11);
	stop(&a);
	stop(&la);
	stop(&lb);
}

/* The relay's process dies, and another one relays. */
static void
a_relay_may_die(void **state UNUSED)
{
	struct proc	a, la, lb, b;
	int		i, k;

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	for (k = 2; k < 6; k++) {
		for (i = 0; i < 300; i++) {
			assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
			if (i % 100 == 0)
				ev_run(loop, EVRUN_NOWAIT);
		}
		stop(&la);
		near_link(&la, (uint64_t)k, &secret);
		source_to(&a, &la);
	}
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 1200);
	assert_false(b.disorder);
	assert_int_equal(lb.gone, 0);
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b);
}

/* The far link dies with what it had handed on and not said: it comes again,
 * and the receivers know it. */
static void
the_far_link_may_die(void **state UNUSED)
{
	struct proc	a, la, lb, b;
	int		i, k;
	uint64_t	dup = metric_get(&bus_m_records_duplicate);

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	for (k = 3; k < 7; k++) {
		lb.holds_back = true;
		for (i = 0; i < 20; i++)
			assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
		until(b.records == (uint64_t)(k - 2) * 20);
		stop(&lb);
		far_link(&lb, (uint64_t)k, &b);
	}
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 80);
	assert_false(b.disorder);
	assert_true(metric_get(&bus_m_records_duplicate) >= dup + 20);
	assert_true(a.losts >= 4 && a.ups == a.losts + 1);
	assert_true(la.relay_downs >= 4);
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b);
}

static void
a_source_that_is_replaced_gives_its_books_back(void **state UNUSED)
{
	struct proc	a, la, lb, b;

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(bus_idle(a.bus));
	stop(&a);
	start(&a, "listener.3", "a@h", 6);
	source_to(&a, &la);
	assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(bus_idle(a.bus));
	assert_int_equal(lb.gone, 1);
	assert_int_equal(b.records, 2);
	bus_forget_node(lb.bus, "a@h");
	assert_int_equal(lb.gone, 2);
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b);
}

static void
who_has_another_secret_or_is_no_member_stays_out(void **state UNUSED)
{
	struct proc	a, la, lb;
	uint64_t	was = metric_get(&bus_m_hello_name);

	start(&a, "listener.3", "a@h", 5);
	near_link(&la, 1, &other_secret);
	far_link(&lb, 2, NULL);
	source_to(&a, &la);
	assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(bus_relay_trouble(la.relay) != NULL);
	assert_int_equal(la.relay_ups, 0);
	stop(&la);
	near_link(&la, 2, NULL);		/* none at all */
	source_to(&a, &la);
	until(bus_relay_trouble(la.relay) != NULL);
	assert_int_equal(la.relay_ups, 0);
	stop(&la);
	lb.refuses_nodes = true;
	near_link(&la, 3, &secret);
	source_to(&a, &la);
	until(metric_get(&bus_m_hello_name) > was);
	assert_int_equal(lb.records, 0);
	lb.refuses_nodes = false;
	until(lb.records == 1);
	stop(&a);
	stop(&la);
	stop(&lb);
}

static void
garbage_at_the_port_harms_nobody(void **state UNUSED)
{
	struct proc	a, la, lb, b;
	void		*zctx = zmq_ctx_new(), *z;
	uint8_t		 junk[300];
	size_t		 i, k;
	uint64_t	 was = metric_get(&bus_m_dropped_malformed);

	for (i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)(i * 91);
	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	z = zmq_socket(zctx, ZMQ_DEALER);	/* who has the secret even */
	assert_int_equal(socket_far(z, false, &secret, false), 0);
	zmq_setsockopt(z, ZMQ_ROUTING_ID, junk, 1);
	zmq_connect(z, tcp);
	for (k = 1; k < 6; k++) {
		for (i = 1; i < k; i++)
			zmq_send(z, junk, i * 37, ZMQ_SNDMORE);
		zmq_send(z, junk, 5, 0);
	}
	until(metric_get(&bus_m_dropped_malformed) > was + 3);
	assert_int_equal(put(&a, RECORD_LIVE, 100), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 1);
	i = 0;
	zmq_setsockopt(z, ZMQ_LINGER, &i, sizeof(int));
	zmq_close(z);
	zmq_ctx_term(zctx);
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b);
}

static int
import_piece(void *ctx, const void *piece, size_t len)
{
	return bus_import(ctx, piece, len);
}

/* Both ends of it travel in an upgrade. */
static void
a_successor_goes_on_with_the_streams(void **state UNUSED)
{
	struct proc	a, a2, la, lb, b;
	struct bus_opts o = {
		.loop = loop, .node = "a@h", .name = "listener.3",
		.incarnation = 5, .endpoint = "ipc://a.listener.3.5.ipc",
		.accepts = accepts, .naccepts = NELEM(accepts),
		.events = &events, .ctx = &a2, .credit = 64 * 1024,
		.unbound = true,
	};
	int		i;

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	lb.holds_back = true;
	for (i = 0; i < 50; i++)
		assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
	until(b.records == 50);
	memset(&a2, 0, sizeof(a2));
	assert_int_equal(bus_open(&a2.bus, &o), 0);
	assert_int_equal(bus_export(a.bus, import_piece, a2.bus), 0);
	assert_int_equal(bus_import_end(a2.bus), 0);
	stop(&a);
	assert_int_equal(bus_bind(a2.bus), 0);
	source_to(&a2, &la);
	lb.holds_back = false;
	for (i = 0; i < 50; i++)
		assert_int_equal(put(&a2, RECORD_LIVE, 500), 0);
	until(bus_idle(a2.bus));
	assert_int_equal(b.records, 100);
	assert_false(b.disorder);
	stop(&a2);
	stop(&la);
	stop(&lb);
	stop(&b);
}

/* ... and of a receiver: what came by a link that died before it said so. */
static void
a_successor_knows_what_came_from_afar(void **state UNUSED)
{
	struct proc	a, la, lb, b, b2;
	struct bus_opts o = {
		.loop = loop, .node = "b@h", .name = "listener.1",
		.incarnation = 7, .endpoint = "ipc://b.listener.1.7.ipc",
		.accepts = accepts, .naccepts = NELEM(accepts),
		.events = &events, .ctx = &b2, .credit = 64 * 1024,
		.unbound = true,
	};

	start(&a, "listener.3", "a@h", 5);
	start(&b, "listener.1", "b@h", 7);
	near_link(&la, 1, &secret);
	far_link(&lb, 2, &b);
	source_to(&a, &la);
	lb.holds_back = true;
	assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
	until(b.records == 1);
	memset(&b2, 0, sizeof(b2));
	assert_int_equal(bus_open(&b2.bus, &o), 0);
	assert_int_equal(bus_export(b.bus, import_piece, b2.bus), 0);
	assert_int_equal(bus_import_end(b2.bus), 0);
	stop(&b);
	assert_int_equal(bus_bind(b2.bus), 0);
	strcpy(b2.name, "listener.1");
	strcpy(b2.endpoint, o.endpoint);
	stop(&lb);
	far_link(&lb, 3, &b2);
	assert_int_equal(put(&a, RECORD_LIVE, 500), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b2.records, 1);
	assert_int_equal(b2.last_number, 2);
	stop(&a);
	stop(&la);
	stop(&lb);
	stop(&b2);
}

#define T(t)	cmocka_unit_test_setup(t, each_setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(records_cross_and_are_acknowledged_when_they_arrived),
		T(nothing_is_acknowledged_before_it_is_done),
		T(what_is_done_at_once_is_paid_for),
		T(a_welcome_acknowledges_nothing),
		T(a_relay_may_die),
		T(the_far_link_may_die),
		T(a_source_that_is_replaced_gives_its_books_back),
		T(who_has_another_secret_or_is_no_member_stays_out),
		T(garbage_at_the_port_harms_nobody),
		T(a_successor_goes_on_with_the_streams),
		T(a_successor_knows_what_came_from_afar),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

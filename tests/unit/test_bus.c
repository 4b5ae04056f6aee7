/*
 * The bus over real sockets: two or more in one process on one loop, and
 * forked processes that die. Tests wait for events; a watchdog ends a test
 * that would wait for ever.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>
#include <ev.h>
#include <zmq.h>

#include "base/err.h"
#include "bus/ask.h"
#include "bus/bus.h"
#include "bus/envelope.h"
#include "bus/internal.h"
#include "log/log.h"
#include "proto/msgid.h"

#define PATIENCE_S	20

static char		 dir[64];
static struct ev_loop	*loop;
static struct msgid_gen	 ids;

/* One process of a test. */
struct node {
	struct bus	*bus;
	char		 name[BUS_NAME_MAX];
	char		 endpoint[BUS_ENDPOINT_MAX];
	uint64_t	 incarnation;
	struct bus_peer	*peer;
	/* What came in. */
	uint64_t	 frames, records, bytes, last_number, attaches, singles;
	bool		 disorder;
	int		 refuse_next;		/* rc of the handler, once */
	uint32_t	 per_turn;		/* records before ERR_AGAIN */
	uint64_t	 sum;
	/* What it was told. */
	uint64_t	 ups, losts, gots, credits;
	bool		 close_on_got;
	struct bus_addr	 asker;
};

static int	looks_left;

/* Wakes the loop now and then: not all that is waited for does. */
static void
on_patience(EV_P_ ev_timer *w, int revents UNUSED)
{
	(void)loop;
	(void)w;
	looks_left--;
}

/* Run the loop until cond holds. */
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

/* Some turns in which nothing more should happen. */
static void
some_turns(int n)
{
	while (n-- > 0) {
		usleep(1000);
		ev_run(loop, EVRUN_NOWAIT);
	}
}

static int
on_records(void *ctx, struct bus_frame *f)
{
	struct node	*n = ctx;
	struct record	 r;
	uint32_t	 taken = 0;
	uint64_t	 number;
	int		 rc;

	while ((n->per_turn == 0 || taken < n->per_turn) &&
	    (rc = bus_frame_next(f, &r)) == 1) {
		taken++;
		number = r.payload.len >= 8 ? get_le64(r.payload.data) : 0;
		if (number != 0 && number <= n->last_number)
			n->disorder = true;
		n->last_number = number;
		n->records++;
		n->bytes += r.payload.len;
	}
	if (n->per_turn != 0 && taken == n->per_turn)
		return ERR_AGAIN;
	n->frames++;
	return rc;
}

static int
on_attach(void *ctx, struct bus_frame *f)
{
	struct node	*n = ctx;
	int		 rc = n->refuse_next;

	n->refuse_next = 0;
	assert_int_equal(f->from.class, PEER_LISTENER);
	n->attaches++;
	return rc;
}

static int
on_single(void *ctx, struct bus_frame *f)
{
	struct node *n = ctx;

	n->singles++;
	n->sum += f->len;
	n->asker = f->from.addr;
	return 0;
}

static int
on_query(void *ctx, struct bus_frame *f)
{
	struct node	   *n = ctx;
	struct query	    q;
	struct reply_writer w;
	struct kv_row	    row;
	uint8_t		    buf[256];
	long		    len;
	uint64_t	    i, first;

	if (query_decode(&q, f->body, f->len) < 0)
		return ERR_PROTO;
	if (q.what == 99) {
		len = reply_error(buf, sizeof(buf), q.id, 64, "no such thing");
		return bus_reply(n->bus, &f->from.addr, KIND_REPLY, buf,
		    (size_t)len);
	}
	first = q.cursor.len == 8 ? get_le64(q.cursor.data) : 0;
	reply_begin(&w, buf, sizeof(buf), q.id);
	for (i = first; i < 100; i++) {
		row.key = row.value = (struct slice){ (uint8_t *)&i, 8 };
		if (reply_kv(&w, &row) == ERR_FULL)
			break;
	}
	len = reply_end(&w, i < 100 ? (struct slice){ (uint8_t *)&i, 8 } :
	    (struct slice){ NULL, 0 });
	assert_true(len > 0);
	return bus_reply(n->bus, &f->from.addr, KIND_REPLY, buf, (size_t)len);
}

static const struct bus_rule accepts[] = {
	{ KIND_RECORDS,	  PEER_LISTENER | PEER_STORE, 0, on_records },
	{ KIND_ATTACH,	  PEER_LISTENER, 1, on_attach },
	{ KIND_ROUTE_ACK, PEER_ANY,	 0, on_single },
	{ KIND_QUERY,	  PEER_TOOL,	 0, on_query },
};

static void
on_up(void *ctx, struct bus_peer *p UNUSED)
{
	((struct node *)ctx)->ups++;
}

static void
on_lost(void *ctx, struct bus_peer *p UNUSED)
{
	((struct node *)ctx)->losts++;
}

static void
on_got(void *ctx, struct bus_peer *p, uint64_t seq)
{
	struct node *n = ctx;

	assert_int_equal(seq, bus_peer_got(p));
	n->gots++;
	if (n->close_on_got)
		bus_peer_close(&n->peer);
}

static void
on_credit(void *ctx, struct bus_peer *p)
{
	assert_false(bus_peer_blocked(p));
	((struct node *)ctx)->credits++;
}

static const struct bus_events events = {
	.got = on_got, .credit = on_credit, .up = on_up, .lost = on_lost,
};

static void
node_open_with(struct node *n, const char *name, uint64_t incarnation,
    uint32_t credit, uint32_t stream_max)
{
	struct bus_opts o = {
		.loop = loop, .node = "n@h", .name = n->name,
		.incarnation = incarnation, .endpoint = n->endpoint,
		.accepts = accepts, .naccepts = NELEM(accepts),
		.events = &events, .ctx = n, .credit = credit,
		.stream_max = stream_max,
	};

	memset(n, 0, sizeof(*n));
	snprintf(n->name, sizeof(n->name), "%s", name);
	snprintf(n->endpoint, sizeof(n->endpoint), "ipc://%s.%d.ipc", name,
	    (int)incarnation);
	n->incarnation = incarnation;
	assert_int_equal(bus_open(&n->bus, &o), 0);
}

static void
node_open(struct node *n, const char *name, uint64_t incarnation)
{
	node_open_with(n, name, incarnation, 0, 0);
}

static void
node_to(struct node *from, const struct node *to)
{
	assert_int_equal(bus_peer_open(&from->peer, from->bus, to->name,
	    to->incarnation, to->endpoint, from), 0);
}

static uint64_t	number;

static int
send_record(struct node *n, size_t size, unsigned qos, uint64_t *seq)
{
	static uint8_t	payload[4 << 20];
	struct record	r = {
		.id = msgid_next(&ids), .expiry_s = RECORD_NO_EXPIRY,
		.flags = (uint16_t)(qos | RECORD_LIVE | RECORD_SUBS),
		.topic = { (const uint8_t *)"a/b", 3 },
		.payload = { payload, size },
	};
	int		rc;

	if (size >= 8)
		put_le64(payload, number + 1);
	if ((rc = bus_record(n->peer, &r, NULL, seq)) == 0)
		number++;
	return rc;
}

static int
group_setup(void **state UNUSED)
{
	snprintf(dir, sizeof(dir), "/tmp/test_bus.XXXXXX");
	if (mkdtemp(dir) == NULL || chdir(dir) < 0)
		return -1;
	loop = ev_loop_new(0);	/* the default one would reap our children */
	msgid_init(&ids, 0, 1, 1);
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_L_ERROR);
	return 0;
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
records_arrive_in_order_and_are_acknowledged(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq = 0;
	int		i;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	for (i = 0; i < 5000; i++)		/* before it has answered */
		assert_int_equal(send_record(&a, 64, 1, &seq), 0);
	until(bus_peer_got(a.peer) == seq);
	assert_int_equal(b.records, 5000);
	assert_int_equal(b.frames, seq);
	assert_false(b.disorder);
	assert_true(bus_idle(a.bus));
	assert_int_equal(a.ups, 1);
	for (i = 0; i < 5; i++) {		/* one a turn */
		assert_int_equal(send_record(&a, 64, 2, &seq), 0);
		until(bus_peer_got(a.peer) == seq);
	}
	assert_int_equal(b.records, 5005);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
acks_of_qos0_come_too_if_later(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	assert_int_equal(send_record(&a, 64, 0, &seq), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 1);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
both_directions_drain_without_credit(void **state UNUSED)
{
	struct node	a, b;
	int		i;

	node_open_with(&a, "listener.0", 1, 4096, 8 << 20);
	node_open_with(&b, "listener.1", 2, 4096, 8 << 20);
	node_to(&a, &b);
	node_to(&b, &a);
	for (i = 0; i < 3000; i++) {
		assert_int_equal(send_record(&a, 1000, 1, NULL), 0);
		assert_int_equal(send_record(&b, 1000, 1, NULL), 0);
	}
	assert_true(bus_peer_blocked(a.peer));
	assert_true(bus_peer_blocked(b.peer));
	assert_int_equal(send_record(&a, 1000, 0, NULL), ERR_FULL);
	until(bus_idle(a.bus) && bus_idle(b.bus));
	assert_int_equal(a.records, 3000);
	assert_int_equal(b.records, 3000);
	assert_false(a.disorder || b.disorder);
	assert_true(a.credits > 0 && b.credits > 0);
	assert_false(bus_peer_blocked(a.peer));
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
a_message_larger_than_the_credit_passes(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq;

	node_open_with(&a, "listener.0", 1, 65536, 1 << 20);
	node_open_with(&b, "listener.1", 2, 65536, 1 << 20);
	node_to(&a, &b);
	assert_int_equal(send_record(&a, 3 << 20, 2, &seq), 0);
	assert_int_equal(send_record(&a, 100, 2, &seq), ERR_FULL);
	until(a.credits == 1);
	assert_int_equal(b.bytes, 3 << 20);
	assert_int_equal(send_record(&a, 100, 2, &seq), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 2);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
a_stopped_receiver_stops_its_senders_and_nothing_else(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	sent = 0;

	node_open_with(&a, "listener.0", 1, 0, 4 << 20);
	node_open_with(&b, "listener.1", 2, 0, 4 << 20);
	node_to(&a, &b);
	until(bus_peer_ready(a.peer));
	bus_pause(b.bus);
	while (send_record(&a, 1000, 1, NULL) == 0) {
		if (sent++ % 500 == 0)
			ev_run(loop, EVRUN_NOWAIT);
	}
	assert_in_range(sent * 1043, (4 << 20) - 1043, 4 << 20);
	some_turns(20);
	assert_int_equal(b.records, 0);
	assert_int_equal(bus_peer_got(a.peer), 0);
	bus_resume(b.bus);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, sent);
	assert_false(b.disorder);
	assert_int_equal(a.credits, 1);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
a_frame_may_take_many_turns(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq;
	int		i;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	b.per_turn = 7;
	for (i = 0; i < 100; i++)
		assert_int_equal(send_record(&a, 64, 1, &seq), 0);
	assert_int_equal(seq, 1);
	until(b.records >= 14);
	assert_true(b.records < 100);
	assert_int_equal(bus_peer_got(a.peer), 0);
	until(bus_peer_got(a.peer) == 1);
	assert_int_equal(b.records, 100);
	assert_int_equal(b.frames, 1);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
other_kinds_keep_their_place_and_are_acknowledged(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	assert_int_equal(bus_stream_send(a.peer, KIND_ATTACH, "x", 1, &seq), 0);
	assert_int_equal(seq, 2);
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	b.refuse_next = ERR_PROTO;		/* refused is consumed too */
	until(bus_peer_got(a.peer) == 3);
	assert_int_equal(b.attaches, 1);
	/* Not accepted from there, or not in this state: the same. */
	assert_int_equal(bus_stream_send(a.peer, KIND_ROUTES, "x", 1, &seq), 0);
	bus_set_state(b.bus, 2);
	assert_int_equal(bus_stream_send(a.peer, KIND_ATTACH, "x", 1, &seq), 0);
	until(bus_peer_got(a.peer) == 5);
	assert_int_equal(b.attaches, 1);
	assert_int_equal(bus_stream_send(a.peer, KIND_RECORDS, "x", 1, &seq),
	    ERR_INVAL);
	assert_int_equal(bus_stream_send(a.peer, KIND_QUERY, "x", 1, &seq),
	    ERR_INVAL);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
single_messages_go_either_way(void **state UNUSED)
{
	struct node a, b;

	node_open(&a, "listener.0", 1);
	node_open(&b, "router", 2);
	node_to(&a, &b);
	assert_int_equal(bus_send(a.peer, KIND_ROUTE_ACK, "abc", 3), 0);
	until(b.singles == 1);
	assert_int_equal(b.sum, 3);
	assert_int_equal(bus_reply(b.bus, &b.asker, KIND_ROUTE_ACK, "abcd", 4),
	    0);
	until(a.singles == 1);
	assert_int_equal(a.sum, 4);
	b.asker.id[0] ^= 1;
	assert_int_equal(bus_reply(b.bus, &b.asker, KIND_ROUTE_ACK, "", 0),
	    ERR_NOTFOUND);
	assert_int_equal(bus_send(a.peer, KIND_ATTACH, "abc", 3), ERR_INVAL);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
a_peer_may_be_closed_from_its_callback(void **state UNUSED)
{
	struct node a, b;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	a.close_on_got = true;
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	until(a.gots == 1);
	some_turns(5);
	assert_null(a.peer);
	node_to(&a, &b);		/* and opened again */
	a.close_on_got = false;
	until(bus_peer_ready(a.peer));
	bus_close(&a.bus);
	bus_close(&b.bus);
}

/* What only a broken or hostile process sends: nobody falls over. */
static void
strange_messages_are_counted_and_dropped(void **state UNUSED)
{
	static const char *const ids_[] = { "listener.9/9", "tool.x", "z" };
	struct node	a, b;
	void		*zctx = zmq_ctx_new(), *z;
	uint8_t		 buf[ENVELOPE_MAX], junk[64];
	Envelope	 e = Envelope_init_zero;
	uint64_t	 before = metric_get(&bus_m_dropped_malformed);
	uint64_t	 unwelcome = metric_get(&bus_m_dropped_unwelcome);
	size_t		 i, n;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	for (i = 0; i < sizeof(junk); i++)
		junk[i] = (uint8_t)(i * 37);
	for (i = 0; i < NELEM(ids_); i++) {
		z = zmq_socket(zctx, ZMQ_DEALER);
		socket_options(z, ZMQ_DEALER);
		zmq_setsockopt(z, ZMQ_ROUTING_ID, ids_[i], strlen(ids_[i]));
		zmq_connect(z, b.endpoint);
		zmq_send(z, junk, sizeof(junk), 0);
		zmq_send(z, "", 0, 0);
		zmq_send(z, junk, 1, ZMQ_SNDMORE);
		zmq_send(z, junk, 2, ZMQ_SNDMORE);
		zmq_send(z, junk, 3, ZMQ_SNDMORE);
		zmq_send(z, junk, 4, ZMQ_SNDMORE);
		zmq_send(z, junk, 5, 0);
		e.kind = KIND_HELLO;
		n = envelope_put(buf, &e);
		zmq_send(z, buf, n, ZMQ_SNDMORE);
		zmq_send(z, junk, sizeof(junk), 0);
		e.kind = KIND_RECORDS;
		e.seq = 1;
		e.count = 1;
		n = envelope_put(buf, &e);
		zmq_send(z, buf, n, ZMQ_SNDMORE);
		zmq_send(z, junk, sizeof(junk), 0);
		until(metric_get(&bus_m_dropped_unwelcome) > unwelcome + i);
		zmq_close(z);
	}
	assert_true(metric_get(&bus_m_dropped_malformed) >=
	    before + 2 * NELEM(ids_));
	node_to(&a, &b);		/* and it still serves */
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 1);
	zmq_ctx_term(zctx);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

/* Say hello as told; what status comes back? */
static int
hello_as(const struct node *to, const char *id, const char *name,
    uint32_t version, uint64_t incarnation, const char *node)
{
	void	*zctx = zmq_ctx_new(), *z = zmq_socket(zctx, ZMQ_DEALER);
	uint8_t	 buf[ENVELOPE_MAX], body[ENVELOPE_MAX];
	Envelope e = Envelope_init_zero;
	Hello	 h = Hello_init_zero;
	Welcome	 w = Welcome_init_zero;
	int	 n = -1;

	socket_options(z, ZMQ_DEALER);
	zmq_setsockopt(z, ZMQ_ROUTING_ID, id, strlen(id));
	zmq_connect(z, to->endpoint);
	e.kind = KIND_HELLO;
	h.version = version;
	h.incarnation = incarnation;
	snprintf(h.name, sizeof(h.name), "%s", name);
	snprintf(h.node, sizeof(h.node), "%s", node);
	zmq_send(z, buf, envelope_put(buf, &e), ZMQ_SNDMORE);
	zmq_send(z, body, hello_put(body, &h), 0);
	while (n < 0) {
		ev_run(loop, EVRUN_NOWAIT);
		n = zmq_recv(z, buf, sizeof(buf), ZMQ_DONTWAIT);
	}
	n = zmq_recv(z, body, sizeof(body), 0);
	assert_int_equal(welcome_get(&w, body, (size_t)n), 0);
	assert_int_equal(w.version, PROTO_VERSION);
	zmq_close(z);
	zmq_ctx_term(zctx);
	return (int)w.status;
}

static void
wrong_versions_and_stale_incarnations_are_refused(void **state UNUSED)
{
	struct node b;

	node_open(&b, "listener.1", 2);
	assert_int_equal(hello_as(&b, "listener.0/5", "listener.0",
	    PROTO_VERSION + 1, 5, "n@h"), WELCOME_VERSION);
	assert_int_equal(hello_as(&b, "listener.0/5", "listener.0",
	    PROTO_VERSION, 5, "other@h"), WELCOME_NAME);
	assert_int_equal(hello_as(&b, "listener.0/6", "listener.0",
	    PROTO_VERSION, 5, "n@h"), WELCOME_NAME);
	assert_int_equal(hello_as(&b, "nobody/5", "nobody", PROTO_VERSION, 5,
	    "n@h"), WELCOME_NAME);
	assert_int_equal(hello_as(&b, "listener.0/5", "listener.0",
	    PROTO_VERSION, 5, "n@h"), WELCOME_OK);
	assert_int_equal(hello_as(&b, "listener.0/4", "listener.0",
	    PROTO_VERSION, 4, "n@h"), WELCOME_STALE);
	assert_int_equal(hello_as(&b, "listener.0/7", "listener.0",
	    PROTO_VERSION, 7, "n@h"), WELCOME_OK);
	assert_int_equal(hello_as(&b, "listener.0/5", "listener.0",
	    PROTO_VERSION, 5, "n@h"), WELCOME_STALE);
	assert_true(metric_get(&bus_m_hello_stale) >= 2);
	assert_true(metric_get(&bus_m_hello_version) >= 1);
	bus_close(&b.bus);
}

static void
many_tools_are_served_and_forgotten(void **state UNUSED)
{
	struct node	b;
	char		id[32];
	int		i;

	node_open(&b, "listener.1", 2);
	for (i = 0; i < TOOLS_MAX + 10; i++) {
		snprintf(id, sizeof(id), "tool/%d", i);
		assert_int_equal(hello_as(&b, id, "tool.x", PROTO_VERSION, 1,
		    ""), WELCOME_OK);
	}
	assert_int_equal(b.bus->ntools, TOOLS_MAX);
	bus_close(&b.bus);
}

/* A frame is forged out of order: the receiver says what it has. */
static void
a_gap_is_answered_with_a_welcome(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	gaps = metric_get(&bus_m_gaps);
	uint64_t	resent = metric_get(&bus_m_frames_resent);

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	until(bus_peer_ready(a.peer));
	/* Frame 1 is said to have left. */
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	{
		struct stream_frame *f;

		assert_int_equal(stream_next(&a.peer->out, &f), 1);
		stream_sent(&a.peer->out);
	}
	assert_int_equal(send_record(&a, 64, 1, NULL), 0);
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 2);
	assert_false(b.disorder);
	assert_int_equal(metric_get(&bus_m_gaps), gaps + 1);
	assert_int_equal(metric_get(&bus_m_frames_resent), resent + 2);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

/* --- Broken connections ------------------------------------------------ */

/* The same pair again: the sender's socket is replaced under its stream. */
static void
a_broken_connection_is_made_good(void **state UNUSED)
{
	struct node	a, b;
	int		i, round;

	node_open_with(&a, "listener.0", 1, 0, 0);
	node_open_with(&b, "listener.1", 2, 0, 0);
	node_to(&a, &b);
	for (round = 0; round < 20; round++) {
		for (i = 0; i < 200; i++)
			assert_int_equal(send_record(&a, 500, 1, NULL), 0);
		for (i = 0; i < round; i++)
			ev_run(loop, EVRUN_NOWAIT);
		/* resend: what was under way on the old socket is lost. */
		assert_int_equal(bus_peer_move(a.peer, b.incarnation,
		    b.endpoint, true), 0);
	}
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 20 * 200);
	assert_false(b.disorder);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
a_new_incarnation_takes_up_the_stream(void **state UNUSED)
{
	struct node	a, b, c;
	uint64_t	seq, after;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	until(bus_peer_ready(a.peer));
	bus_pause(b.bus);
	assert_int_equal(send_record(&a, 500, 1, &seq), 0);
	some_turns(5);
	bus_close(&b.bus);
	until(a.losts == 1);
	assert_int_equal(send_record(&a, 500, 1, &seq), 0);
	node_open(&c, "listener.1", 3);
	/* Its sessions died with it: taken. */
	assert_int_equal(bus_peer_move(a.peer, 3, c.endpoint, false), 0);
	assert_int_equal(bus_peer_got(a.peer), seq);
	assert_true(bus_idle(a.bus));
	assert_int_equal(send_record(&a, 500, 1, &after), 0);
	assert_int_equal(after, seq + 1);
	until(bus_peer_got(a.peer) == after);
	assert_int_equal(c.records, 1);
	bus_close(&a.bus);
	bus_close(&c.bus);
}

static void
what_is_on_disk_there_is_not_sent_again(void **state UNUSED)
{
	struct node	a, b, c;
	uint64_t	seq;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	assert_int_equal(send_record(&a, 500, 1, &seq), 0);
	until(bus_idle(a.bus));
	bus_close(&b.bus);
	until(a.losts == 1);
	assert_int_equal(send_record(&a, 500, 1, &seq), 0);
	assert_int_equal(send_record(&a, 500, 1, &seq), 0);
	node_open(&c, "listener.1", 3);
	assert_int_equal(bus_peer_move(a.peer, 3, c.endpoint, true), 0);
	until(bus_peer_got(a.peer) == seq);
	assert_int_equal(c.records, 2);
	bus_close(&a.bus);
	bus_close(&c.bus);
}

/* Its ids rise over all its starts: what it sends again is known by them. */
static void
a_store_that_starts_again_repeats_nothing(void **state UNUSED)
{
	struct msgid_gen before = ids;
	struct node	 a, b, c;
	uint64_t	 seq;

	node_open(&a, "session_store.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	assert_int_equal(send_record(&a, 500, 2, &seq), 0);
	until(b.records == 1);
	bus_close(&a.bus);
	node_open(&c, "session_store.0", 3);
	node_to(&c, &b);
	ids = before;
	assert_int_equal(send_record(&c, 500, 2, &seq), 0);
	assert_int_equal(send_record(&c, 500, 2, &seq), 0);
	until(bus_peer_got(c.peer) == seq);
	assert_int_equal(b.records, 2);
	bus_close(&b.bus);
	bus_close(&c.bus);
}

/*
 * A wire that breaks: everything between two endpoints goes through here, and
 * is cut, both ways, after every so many bytes.
 */
static int
unix_socket(const char *path, bool listening)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int		   fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (listening) {
		if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
		    listen(fd, 8) < 0)
			_exit(1);
	} else if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		_exit(1);
	}
	return fd;
}

static void
carry(int from, int to, long *budget)
{
	static char	buf[8192];
	ssize_t		n;

	if ((n = read(from, buf, sizeof(buf))) <= 0) {
		*budget = 0;
		return;
	}
	if (n > *budget)
		n = *budget;
	if (write(to, buf, (size_t)n) != n)
		*budget = 0;
	else
		*budget -= n;
}

static void
cutting_wire(const char *path, const char *to)
{
	struct pollfd	p[2];
	long		budget, cuts = 0;
	int		fd = unix_socket(path, true);

	for (;;) {
		p[0].fd = accept(fd, NULL, NULL);
		p[1].fd = unix_socket(to, false);
		p[0].events = p[1].events = POLLIN;
		budget = 20000 + 7919 * (cuts++ % 31);
		while (budget > 0 && poll(p, 2, -1) > 0) {
			if (p[0].revents)
				carry(p[0].fd, p[1].fd, &budget);
			if (budget > 0 && p[1].revents)
				carry(p[1].fd, p[0].fd, &budget);
		}
		close(p[0].fd);
		close(p[1].fd);
	}
}

static void
a_wire_that_breaks_loses_and_doubles_nothing(void **state UNUSED)
{
	struct node	a, b;
	pid_t		pid;
	int		i, tries = 0;

	node_open(&a, "listener.0", 1);
	node_open_with(&b, "listener.1", 2, 200000, 0);
	if ((pid = fork()) == 0) {
		signal(SIGPIPE, SIG_IGN);
		cutting_wire("wire.ipc", "listener.1.2.ipc");
	}
	while (access("wire.ipc", F_OK) < 0 && tries++ < 5000)
		usleep(1000);
	assert_int_equal(bus_peer_open(&a.peer, a.bus, b.name, b.incarnation,
	    "ipc://wire.ipc", NULL), 0);
	for (i = 0; i < 4000; i++) {
		while (send_record(&a, 100 + (size_t)i % 1000, 1, NULL) < 0)
			ev_run(loop, EVRUN_ONCE);
		if (i % 7 == 0)
			ev_run(loop, EVRUN_NOWAIT);
	}
	until(bus_idle(a.bus));
	assert_int_equal(b.records, 4000);
	assert_false(b.disorder);
	assert_true(a.losts >= 5);
	assert_true(a.ups >= a.losts);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	unlink("wire.ipc");
	bus_close(&a.bus);
	bus_close(&b.bus);
}

/* --- Processes --------------------------------------------------------- */

/* A receiver in its own process; says on a pipe that it is bound. */
static pid_t
fork_receiver(const char *name, uint64_t incarnation, bool stop_after_one)
{
	struct node	n;
	int		fds[2];
	char		c = 0;
	pid_t		pid;

	assert_int_equal(pipe(fds), 0);
	if ((pid = fork()) != 0) {
		assert_int_equal(read(fds[0], &c, 1), 1);
		close(fds[0]);
		close(fds[1]);
		return pid;
	}
	loop = ev_loop_new(0);
	node_open(&n, name, incarnation);
	if (write(fds[1], "x", 1) != 1)
		_exit(1);
	for (;;) {
		ev_run(loop, EVRUN_ONCE);
		if (stop_after_one && n.records > 0)
			raise(SIGSTOP);
	}
}

static void
kill_9_of_a_receiver_is_noticed_and_counts_as_taken(void **state UNUSED)
{
	struct node	a;
	pid_t		pid;
	uint64_t	seq, sent;
	int		i;

	pid = fork_receiver("listener.1", 7, true);
	node_open_with(&a, "listener.0", 1, 0, 1 << 20);
	assert_int_equal(bus_peer_open(&a.peer, a.bus, "listener.1", 7,
	    "ipc://listener.1.7.ipc", NULL), 0);
	until(bus_peer_ready(a.peer));
	/* It takes some, stops, and we run into every bound without waiting. */
	for (i = 0; send_record(&a, 1000, 1, &seq) == 0; i++)
		ev_run(loop, EVRUN_NOWAIT);
	assert_true(i >= 1000);
	assert_true(bus_peer_blocked(a.peer));
	assert_int_equal(send_record(&a, 1000, 0, NULL), ERR_FULL);
	some_turns(5);
	assert_int_equal(a.losts, 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	until(a.losts == 1);
	sent = bus_peer_sent(a.peer);
	assert_true(bus_peer_got(a.peer) < sent);
	bus_peer_close(&a.peer);
	assert_true(bus_idle(a.bus));
	some_turns(3);

	pid = fork_receiver("listener.1", 8, false);
	assert_int_equal(bus_peer_open(&a.peer, a.bus, "listener.1", 8,
	    "ipc://listener.1.8.ipc", NULL), 0);
	assert_int_equal(send_record(&a, 1000, 1, &seq), 0);
	until(bus_peer_got(a.peer) == seq);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	bus_close(&a.bus);
	unlink("listener.1.7.ipc");
	unlink("listener.1.8.ipc");
}

/* A sender that dies in the middle and comes back as a new incarnation. */
static void
a_sender_that_dies_hurts_nobody(void **state UNUSED)
{
	struct node	b, a;
	pid_t		pid;
	int		round;

	node_open(&b, "listener.1", 2);
	for (round = 1; round <= 3; round++) {
		if ((pid = fork()) == 0) {
			loop = ev_loop_new(0);
			node_open(&a, "listener.0", (uint64_t)round);
			node_to(&a, &b);
			for (;;) {
				(void)send_record(&a, 1000, 1, NULL);
				ev_run(loop, EVRUN_NOWAIT);
			}
		}
		b.last_number = 0;
		until(b.records >= (uint64_t)round * 200);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		some_turns(20);		/* what was under way */
		assert_false(b.disorder);
		{
			char path[64];

			snprintf(path, sizeof(path), "listener.0.%d.ipc",
			    round);
			unlink(path);
		}
	}
	bus_close(&b.bus);
}

static bool
add_key(void *ctx, struct reply_row *row)
{
	uint64_t *sum = ctx;

	if (row->kind != REPLY_KV)
		return false;
	*sum += get_le64(row->kv.key.data);
	return true;
}

static int
ask_all(const char *endpoint)
{
	struct bus_ask	*ask;
	struct query	 q = { .what = QUERY_STATS };
	uint64_t	 sum = 0;
	uint32_t	 status = 1;
	char		 error[64] = "x";

	if (bus_ask_open(&ask, "ipc://nobody.ipc", "t", 50) != ERR_AGAIN)
		return 1;
	if (bus_ask_open(&ask, endpoint, "t", PATIENCE_S * 1000) < 0)
		return 2;
	if (bus_ask_query(ask, &q, add_key, &sum, &status, error,
	    sizeof(error), PATIENCE_S * 1000) < 0)
		return 3;
	if (sum != 4950 || status != 0 || error[0] != '\0')
		return 4;
	q.what = 99;
	if (bus_ask_query(ask, &q, add_key, &sum, &status, error,
	    sizeof(error), PATIENCE_S * 1000) < 0)
		return 5;
	if (status != 64 || strcmp(error, "no such thing") != 0)
		return 6;
	bus_ask_close(&ask);
	return 0;
}

static void
a_tool_asks_page_by_page(void **state UNUSED)
{
	struct node	b;
	int		status = -1;
	pid_t		pid;

#ifdef __SANITIZE_THREAD__
	skip();			/* it knows no threads made after a fork */
#endif
	node_open(&b, "router", 2);
	if ((pid = fork()) == 0)
		_exit(ask_all(b.endpoint));
	until(waitpid(pid, &status, WNOHANG) == pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	bus_close(&b.bus);
}

static void
names_tell_classes(void **state UNUSED)
{
	assert_int_equal(peer_class_of("listener.0"), PEER_LISTENER);
	assert_int_equal(peer_class_of("listener.12"), PEER_LISTENER);
	assert_int_equal(peer_class_of("router"), PEER_ROUTER);
	assert_int_equal(peer_class_of("session_store.3"), PEER_STORE);
	assert_int_equal(peer_class_of("cluster_link.1"), PEER_LINK);
	assert_int_equal(peer_class_of("tool"), PEER_TOOL);
	assert_int_equal(peer_class_of("tool.mqttc-route"), PEER_TOOL);
	assert_int_equal(peer_class_of("listener"), 0);
	assert_int_equal(peer_class_of("listener."), 0);
	assert_int_equal(peer_class_of("listener.x"), 0);
	assert_int_equal(peer_class_of("router.1"), 0);
	assert_int_equal(peer_class_of("toolbox"), 0);
	assert_int_equal(peer_class_of(""), 0);
}

static void
a_bad_endpoint_is_an_error(void **state UNUSED)
{
	struct bus	*b = NULL;
	struct bus_opts	 o = {
		.loop = loop, .node = "n@h", .name = "router",
		.incarnation = 1, .endpoint = "ipc://no/such/dir.ipc",
	};

	assert_int_equal(bus_open(&b, &o), ERR_IO);
	o.name = "nobody";
	assert_int_equal(bus_open(&b, &o), ERR_INVAL);
	assert_null(b);
}

/* --- A successor ------------------------------------------------------- */

static int
into(void *ctx, const void *piece, size_t len)
{
	return bus_import(ctx, piece, len);
}

/* Another process takes the place of n: same name, same incarnation. */
static void
succeed(struct node *n)
{
	struct bus_opts	 o = {
		.loop = loop, .node = "n@h", .name = n->name,
		.incarnation = n->incarnation, .endpoint = n->endpoint,
		.accepts = accepts, .naccepts = NELEM(accepts),
		.events = &events, .ctx = n, .unbound = true,
	};
	struct bus	*next;

	assert_int_equal(bus_open(&next, &o), 0);
	assert_int_equal(bus_export(n->bus, into, next), 0);
	assert_int_equal(bus_import_end(next), 0);
	bus_close(&n->bus);
	assert_int_equal(bus_bind(next), 0);
	n->bus = next;
}

static void
a_successor_goes_on_with_the_streams(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq = 0, there = 0, back;
	int		round, i;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	node_to(&b, &a);
	for (round = 0; round < 6; round++) {
		/* Frames sealed and open, on their way both ways, one of them
		 * with a handler half done, one of another kind, a large one */
		a.per_turn = 10;
		for (i = 0; i < 300; i++) {
			assert_int_equal(send_record(&a, 64, 1, &seq), 0);
			there++;
		}
		assert_int_equal(bus_stream_send(a.peer, KIND_ATTACH, "x", 1,
		    &seq), 0);
		assert_int_equal(send_record(&a, 200000, 1, &seq), 0);
		there++;
		number = (uint64_t)round * 50;
		for (i = 0; i < 50; i++)
			assert_int_equal(send_record(&b, 64, 1, &back), 0);
		number = there;
		until(a.records >= (uint64_t)round * 50 + 10);
		for (i = 0; i < 20; i++) {
			assert_int_equal(send_record(&a, 64, 1, &seq), 0);
			there++;
		}
		succeed(&a);
		node_to(&a, &b);
		/* Before anything was said: numbers go on. */
		assert_int_equal(bus_peer_sent(a.peer), seq);
		assert_int_equal(send_record(&a, 64, 1, &seq), 0);
		there++;
		a.per_turn = 0;
		until(bus_peer_got(a.peer) == seq &&
		    bus_peer_got(b.peer) == back);
		assert_int_equal(b.records, there);
		assert_int_equal(a.records, (uint64_t)(round + 1) * 50);
		assert_int_equal(b.attaches, round + 1);
		assert_false(a.disorder);
		assert_false(b.disorder);
		assert_int_equal(b.ups - b.losts, 1);
	}
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static void
credit_goes_on_in_a_successor(void **state UNUSED)
{
	struct node	a, b;
	uint64_t	seq = 0;
	uint32_t	n = 0;

	node_open(&a, "listener.0", 1);
	node_open_with(&b, "listener.1", 2, 100000, 0);
	node_to(&a, &b);
	until(a.ups == 1);
	bus_pause(b.bus);
	while (!bus_peer_blocked(a.peer) || n < 5000) {
		assert_int_equal(send_record(&a, 100, 1, &seq), 0);
		n++;
	}
	assert_int_equal(send_record(&a, 100, 0, NULL), ERR_FULL);
	some_turns(3);
	succeed(&a);
	node_to(&a, &b);
	assert_true(bus_peer_blocked(a.peer));
	assert_int_equal(send_record(&a, 100, 0, NULL), ERR_FULL);
	bus_resume(b.bus);
	until(bus_peer_got(a.peer) == seq);
	until(a.credits == 1);
	assert_int_equal(b.records, n);
	assert_false(b.disorder);
	bus_close(&a.bus);
	bus_close(&b.bus);
}

static int
count_pieces(void *ctx, const void *piece UNUSED, size_t len UNUSED)
{
	return --*(int *)ctx == 0 ? ERR_FULL : 0;
}

struct piece_skipper {
	struct bus	*to;
	int		 skip, n;
};

static int
all_but_one(void *ctx, const void *piece, size_t len)
{
	struct piece_skipper *s = ctx;

	return s->n++ == s->skip ? 0 : bus_import(s->to, piece, len);
}

static void
pieces_that_are_missing_are_noticed(void **state UNUSED)
{
	struct node		a, b;
	struct bus_opts		o = {
		.loop = loop, .node = "n@h", .name = "listener.0",
		.incarnation = 1, .endpoint = "ipc://unbound.ipc",
		.unbound = true,
	};
	struct piece_skipper	s = { NULL, 0, 0 };
	int			i, stop = 3, total;

	node_open(&a, "listener.0", 1);
	node_open(&b, "listener.1", 2);
	node_to(&a, &b);
	until(a.ups == 1);
	bus_pause(b.bus);
	for (i = 0; i < 4; i++) {
		assert_int_equal(send_record(&a, 64, 1, NULL), 0);
		bus_flush(a.bus);
	}
	assert_int_equal(bus_export(a.bus, count_pieces, &stop), ERR_FULL);
	stop = 0;
	assert_int_equal(bus_export(a.bus, count_pieces, &stop), 0);
	total = -stop;
	assert_int_equal(total, 6);		/* bus, stream, four frames */
	for (s.skip = 1; s.skip < total; s.skip++) {
		assert_int_equal(bus_open(&s.to, &o), 0);
		s.n = 0;
		if (bus_export(a.bus, all_but_one, &s) == 0)
			assert_int_equal(bus_import_end(s.to), ERR_PROTO);
		bus_close(&s.to);
	}
	bus_close(&a.bus);
	bus_close(&b.bus);
}

#define T(t)	cmocka_unit_test_setup(t, each_setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(names_tell_classes),
		T(a_bad_endpoint_is_an_error),
		T(records_arrive_in_order_and_are_acknowledged),
		T(acks_of_qos0_come_too_if_later),
		T(both_directions_drain_without_credit),
		T(a_message_larger_than_the_credit_passes),
		T(a_stopped_receiver_stops_its_senders_and_nothing_else),
		T(a_frame_may_take_many_turns),
		T(other_kinds_keep_their_place_and_are_acknowledged),
		T(single_messages_go_either_way),
		T(a_peer_may_be_closed_from_its_callback),
		T(strange_messages_are_counted_and_dropped),
		T(wrong_versions_and_stale_incarnations_are_refused),
		T(many_tools_are_served_and_forgotten),
		T(a_gap_is_answered_with_a_welcome),
		T(a_broken_connection_is_made_good),
		T(a_new_incarnation_takes_up_the_stream),
		T(what_is_on_disk_there_is_not_sent_again),
		T(a_store_that_starts_again_repeats_nothing),
		T(a_wire_that_breaks_loses_and_doubles_nothing),
		T(kill_9_of_a_receiver_is_noticed_and_counts_as_taken),
		T(a_sender_that_dies_hurts_nobody),
		T(a_tool_asks_page_by_page),
		T(a_successor_goes_on_with_the_streams),
		T(credit_goes_on_in_a_successor),
		T(pieces_that_are_missing_are_noticed),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

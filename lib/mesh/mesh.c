/*
 * mesh.c: sockets, connections and links. A `conn` is one connection: a DEALER
 * of ours, which makes one attempt and is thrown away (so what it held for a
 * connection that broke cannot come out in the next one), or one routing id of
 * the ROUTER. A `mesh_node` has at most one conn that is its link, and one more
 * that is being made by us.
 */
#include "mesh/mesh.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <ev.h>
#include <uthash.h>
#include <utlist.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "log/log.h"
#include "metric/metric.h"

enum {
	TICK_MS		= 100,
	HWM		= 16,		/* messages, in ZeroMQ */
	ROUTER_TURN	= 64,		/* messages of all */
	DEALER_TURN	= 16,		/* of one */
	LINGER_MS	= 200,		/* for a last word */
	HANDSHAKE_MS	= 3000,
	REAP_MS		= 15000,	/* a connection nobody answers on */
	ID_MAX		= 255,
	MEMBER_MAX	= 64 * 1024,	/* `member` of a hello */
	FDS_MAX		= 65536,	/* whose address is remembered */
	ADDR_MAX	= 64,
};

#define COUNTER(id, name, help) \
	static struct metric id = METRIC_COUNTER(name, help)
#define GAUGE(id, name, help) \
	static struct metric id = METRIC_GAUGE(name, help)

GAUGE(m_links, "mesh_links", "Nodes that there is a link with");
GAUGE(m_nodes, "mesh_nodes", "Nodes that are called, or have called");
GAUGE(m_skewed, "mesh_skewed_nodes",
    "Nodes that were refused because their clock is too far ahead");
COUNTER(m_up, "mesh_up_total", "Links that came up");
COUNTER(m_down, "mesh_down_total", "Links that went down");
COUNTER(m_silent, "mesh_silent_total",
    "Links that went down because nothing was heard");
COUNTER(m_refused, "mesh_refused_total", "Nodes that were refused, or refused "
    "us");
COUNTER(m_handshakes, "mesh_handshakes_failed_total",
    "Connections that did not get as far as hello, as with another cookie");
COUNTER(m_nonsense, "mesh_nonsense_total", "Messages that made no sense");
COUNTER(m_stray, "mesh_stray_total",
    "Messages on connections that are no link (any more)");
COUNTER(m_in, "mesh_messages_in_total", "Messages from other nodes");
COUNTER(m_out, "mesh_messages_out_total", "Messages to other nodes");
COUNTER(m_bytes_in, "mesh_bytes_in_total", "Bytes of them");
COUNTER(m_bytes_out, "mesh_bytes_out_total", "Bytes of them");
COUNTER(m_full, "mesh_full_total",
    "Times a message found no room on its way to another node");

static struct metric *const metrics[] = { &m_links, &m_nodes, &m_skewed, &m_up,
	&m_down, &m_silent, &m_refused, &m_handshakes, &m_nonsense, &m_stray,
	&m_in, &m_out, &m_bytes_in, &m_bytes_out, &m_full };

struct message {			/* that waits */
	struct message	*next;
	size_t		 len;
	uint8_t		 bytes[];	/* kind, body */
};

enum conn_state { CONN_CALLING, CONN_UP, CONN_DEAD };

struct conn {
	UT_hash_handle	 hh;		/* of those that called us, by id */
	struct conn	*next, *prev;	/* all of the mesh */
	struct mesh	*m;
	struct mesh_node *node;
	enum conn_state	 state;
	bool		 out;
	bool		 connected, shaken;	/* out: as the monitor says */
	bool		 gone;		/* closed; what came is read first */
	bool		 todo, used;	/* look for what came; ask for events */
	bool		 wanted;	/* somebody was told to wait */
	uint64_t	 since_ms, heard_ms, said_ms;
	struct message	*first, *last;
	size_t		 queued;

	void		*z, *mon;	/* out */
	ev_io		 io, mio;
	uint8_t		 id[ID_MAX];	/* in */
	size_t		 idlen;
	int		 fd;		/* in; -1: not known */
};

struct mesh_node {
	UT_hash_handle	 hh;
	struct mesh	*m;
	char		 name[NODE_NAME_MAX + 1];
	char		 host[MESH_HOST_MAX];
	uint16_t	 port;
	bool		 added;
	struct conn	*link;		/* up */
	struct conn	*call;		/* being made by us */
	uint64_t	 retry_ms;
	unsigned	 failed;
	enum mesh_status last;		/* why the last attempt failed */
	struct mesh_limit limit;
	void		*user;

	uint64_t	 id, incarnation, clock;
	uint64_t	 seen;		/* highest incarnation */
	bool		 core;
	uint32_t	 replicants, version;
	uint32_t	 ports[NODE_LINKS_MAX];
	uint64_t	 heard_ms;
};

struct mesh {
	struct mesh_opts o;
	struct secret	 secret;
	char		 pub[SECRET_KEY], priv[SECRET_KEY];	/* of callers */
	void		*zctx;
	void		*z, *mon;
	ev_io		 io, mio;
	bool		 todo, used;
	ev_check	 check;
	ev_prepare	 prepare;
	ev_idle		 idle;
	ev_timer	 tick;
	uint64_t	 tick_ms;	/* the last one */
	uint64_t	 clock;
	uint32_t	 ports[NODE_LINKS_MAX];
	uint32_t	 replicants;

	struct mesh_node *nodes;	/* uthash, by name */
	struct conn	*conns;		/* all, utlist */
	struct conn	*called;	/* those that called us, uthash by id */
	bool		 dead;		/* some conn is to be freed */

	char		(*addrs)[ADDR_MAX];	/* by descriptor */
	size_t		 naddrs;
	struct mesh_limit limit;	/* of handshakes */
	struct mesh_limit stray;	/* of refusals of nobody we know */
	uint64_t	 failed_value;	/* of a handshake that just failed, */
	int		 failed;	/* and how; 0: none */
	uint8_t		*buf;		/* scratch of messages that go out */
};

static uint64_t
now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

static uint64_t
random_number(void)
{
	uint64_t v = 0;

	(void)!getrandom(&v, sizeof(v), 0);
	return v;
}

uint64_t
mesh_clock(struct mesh *m)
{
	m->clock = MAX(m->clock, clock_wall_ns());
	return m->clock;
}

void
mesh_witness(struct mesh *m, uint64_t clock_ns)
{
	m->clock = MAX(m->clock, clock_ns);
}

/* --- Sending ------------------------------------------------------------- */

/* 0, ERR_AGAIN, or ERR_IO: nobody is there any more. */
static int
conn_write(struct conn *c, const uint8_t *bytes, size_t len)
{
	void	*z = c->out ? c->z : c->m->z;

	if (c->out) {
		c->used = true;
	} else {
		c->m->used = true;
		if (zmq_send(z, c->id, c->idlen, ZMQ_SNDMORE | ZMQ_DONTWAIT) <
		    0)
			return errno == EAGAIN ? ERR_AGAIN : ERR_IO;
	}
	if (zmq_send(z, bytes, len, ZMQ_DONTWAIT) < 0)
		return errno == EAGAIN ? ERR_AGAIN : ERR_IO;
	metric_inc(&m_out);
	metric_add(&m_bytes_out, len);
	return 0;
}

static void
conn_lose(struct conn *c)
{
	c->gone = true;
	ev_idle_start(c->m->o.loop, &c->m->idle);
}

/* What waits, as far as it goes. */
static void
conn_flush(struct conn *c)
{
	struct message	*q;
	int		 rc;

	while ((q = c->first) != NULL) {
		if ((rc = conn_write(c, q->bytes, q->len)) == ERR_AGAIN)
			return;
		if (rc < 0) {
			conn_lose(c);
			return;
		}
		c->said_ms = now_ms();
		c->queued -= q->len;
		if ((c->first = q->next) == NULL)
			c->last = NULL;
		free(q);
	}
}

static int
conn_queue(struct conn *c, const uint8_t *bytes, size_t len)
{
	struct message	*q;

	if ((q = malloc(sizeof(*q) + len)) == NULL)
		return ERR_NOMEM;
	q->next = NULL;
	q->len = len;
	memcpy(q->bytes, bytes, len);
	if (c->last != NULL)
		c->last->next = q;
	else
		c->first = q;
	c->last = q;
	c->queued += len;
	return 0;
}

/* bytes: kind, body. Queued if need be, whatever waits already. */
static int
conn_say(struct conn *c, const uint8_t *bytes, size_t len)
{
	int	rc;

	if (c->first == NULL) {
		rc = conn_write(c, bytes, len);
		if (rc == 0)
			c->said_ms = now_ms();
		if (rc == ERR_IO)
			conn_lose(c);
		if (rc != ERR_AGAIN)
			return rc;
	}
	return conn_queue(c, bytes, len);
}

static int
conn_say_msg(struct conn *c, enum mesh_kind kind, const struct mesh_msg *msg)
{
	uint8_t	*buf = c->m->buf;
	long	 n;

	buf[0] = (uint8_t)kind;
	n = mesh_encode(msg, buf + 1, MESH_BODY_MAX);
	return n < 0 ? (int)n : conn_say(c, buf, 1 + (size_t)n);
}

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* HELLO, or WELCOME to such a hello. */
static int
conn_say_hello(struct conn *c, const struct mesh_msg *to)
{
	static uint8_t		 member[MEMBER_MAX];
	struct mesh		*m = c->m;
	struct mesh_node	*n = c->node;
	struct mesh_msg		 h = {
		.version = m->o.self.version,
		.oldest = m->o.self.oldest,
		.node = text(m->o.self.node),
		.cluster = text(m->o.self.cluster),
		.called = text(n->name),
		.incarnation = m->o.self.incarnation,
		.id = m->o.id,
		.core = m->o.self.core,
		.clock = mesh_clock(m),
		.replicants = m->replicants,
		.seen = n->seen,
		.to = to != NULL ? to->incarnation : 0,
	};

	memcpy(h.ports, m->ports, sizeof(h.ports));
	if (m->o.events->fill != NULL) {
		h.member.data = member;
		h.member.len = MIN(m->o.events->fill(m->o.ctx, n->name, member,
		    sizeof(member)), sizeof(member));
	}
	return conn_say_msg(c, to != NULL ? MESH_WELCOME : MESH_HELLO, &h);
}

static void
conn_say_why(struct conn *c, enum mesh_kind kind, enum mesh_status status,
    const char *why, struct slice member)
{
	struct mesh_msg	h = { .status = status, .why = text(why),
			      .member = member,
			      .incarnation = c->m->o.self.incarnation,
			      .seen = c->node != NULL ? c->node->seen : 0 };

	(void)conn_say_msg(c, kind, &h);
}

/* --- Connections ----------------------------------------------------------- */

static void
on_io(EV_P_ ev_io *w, int revents UNUSED)
{
	(void)loop;
	*(bool *)w->data = true;
}

static int
watch(struct mesh *m, void *z, ev_io *w, bool *todo)
{
	size_t	n = sizeof(int);
	int	fd;

	if (zmq_getsockopt(z, ZMQ_FD, &fd, &n) < 0)
		return ERR_IO;
	ev_io_init(w, on_io, fd, EV_READ);
	w->data = todo;
	ev_set_priority(w, EV_MAXPRI);
	ev_io_start(m->o.loop, w);
	*todo = true;
	return 0;
}

/* Where the events of a socket come out. */
static void *
monitor_open(struct mesh *m, void *z)
{
	const int	events = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_CONNECTED |
			    ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED |
			    ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
			    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
			    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
			    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
	static unsigned	 serial;
	char		 where[64];
	int		 linger = 0;
	void		*mon;

	snprintf(where, sizeof(where), "inproc://mesh-%p-%u", (void *)m,
	    serial++);
	if (zmq_socket_monitor(z, where, events) < 0)
		return NULL;
	if ((mon = zmq_socket(m->zctx, ZMQ_PAIR)) == NULL)
		return NULL;
	(void)zmq_setsockopt(mon, ZMQ_LINGER, &linger, sizeof(linger));
	if (zmq_connect(mon, where) < 0) {
		zmq_close(mon);
		return NULL;
	}
	return mon;
}

/* The next event: 1, 0: none, ERR_IO. */
static int
monitor_next(void *mon, int *event, uint64_t *value)
{
	uint8_t		head[6], where[1];
	uint16_t	what;
	uint32_t	v;

	if (zmq_recv(mon, head, sizeof(head), ZMQ_DONTWAIT) < 0)
		return errno == EAGAIN ? 0 : ERR_IO;
	(void)zmq_recv(mon, where, sizeof(where), ZMQ_DONTWAIT);
	memcpy(&what, head, sizeof(what));
	memcpy(&v, head + sizeof(what), sizeof(v));
	*event = what;
	*value = v;
	return 1;
}

static void
set_int(void *z, int option, int value)
{
	(void)zmq_setsockopt(z, option, &value, sizeof(value));
}

static int
socket_options(struct mesh *m, void *z, bool out)
{
	int64_t	most = 1 + (int64_t)MESH_BODY_MAX;
	int	rc = 0, on = 1;

	set_int(z, ZMQ_LINGER, 0);
	set_int(z, ZMQ_SNDHWM, HWM);
	set_int(z, ZMQ_RCVHWM, HWM);
	set_int(z, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
	set_int(z, ZMQ_IPV6, m->o.v6);
	rc |= zmq_setsockopt(z, ZMQ_MAXMSGSIZE, &most, sizeof(most));
	if (out) {
		set_int(z, ZMQ_IMMEDIATE, 1);
		set_int(z, ZMQ_RECONNECT_IVL, -1);
		set_int(z, ZMQ_CONNECT_TIMEOUT, MESH_CALL_MS);
	} else {
		set_int(z, ZMQ_ROUTER_MANDATORY, 1);
		set_int(z, ZMQ_HEARTBEAT_IVL, REAP_MS / 3);
		set_int(z, ZMQ_HEARTBEAT_TIMEOUT, REAP_MS);
		set_int(z, ZMQ_BACKLOG, 512);
	}
	if (!m->secret.curve)
		return rc < 0 ? ERR_IO : 0;
	if (out) {
		rc |= zmq_setsockopt(z, ZMQ_CURVE_SERVERKEY, m->secret.public,
		    SECRET_KEY - 1);
		rc |= zmq_setsockopt(z, ZMQ_CURVE_PUBLICKEY, m->pub,
		    SECRET_KEY - 1);
		rc |= zmq_setsockopt(z, ZMQ_CURVE_SECRETKEY, m->priv,
		    SECRET_KEY - 1);
	} else {
		rc |= zmq_setsockopt(z, ZMQ_CURVE_SERVER, &on, sizeof(on));
		rc |= zmq_setsockopt(z, ZMQ_CURVE_SECRETKEY,
		    m->secret.private, SECRET_KEY - 1);
	}
	return rc < 0 ? ERR_IO : 0;
}

static void
endpoint(const struct mesh *m, const char *host, uint16_t port, char *out,
    size_t size)
{
	if (host == NULL)
		host = m->o.v6 ? "::" : "0.0.0.0";
	snprintf(out, size, strchr(host, ':') != NULL ? "tcp://[%s]:%u" :
	    "tcp://%s:%u", host, (unsigned)port);
}

static struct conn *
conn_new(struct mesh *m, struct mesh_node *n, bool out)
{
	struct conn	*c = calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->m = m;
	c->node = n;
	c->out = out;
	c->fd = -1;
	c->since_ms = c->heard_ms = c->said_ms = now_ms();
	DL_APPEND(m->conns, c);
	return c;
}

/* Dead: the end of the turn frees it. */
static void
conn_kill(struct conn *c)
{
	struct mesh	*m = c->m;

	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_DEAD;
	m->dead = true;
	if (!c->out)
		HASH_DEL(m->called, c);
	if (c->node != NULL && c->node->call == c)
		c->node->call = NULL;
	if (c->node != NULL && c->node->link == c)
		c->node->link = NULL;
	c->node = NULL;
	ev_idle_start(m->o.loop, &m->idle);
}

static void
conn_free(struct conn *c, bool last_word)
{
	struct mesh	*m = c->m;
	struct message	*q;

	while ((q = c->first) != NULL) {
		c->first = q->next;
		free(q);
	}
	if (c->mon != NULL) {
		ev_io_stop(m->o.loop, &c->mio);
		(void)zmq_socket_monitor(c->z, NULL, 0);
		zmq_close(c->mon);
	}
	if (c->z != NULL) {
		ev_io_stop(m->o.loop, &c->io);
		set_int(c->z, ZMQ_LINGER, last_word ? LINGER_MS : 0);
		zmq_close(c->z);
	}
	DL_DELETE(m->conns, c);
	free(c);
}

static void
conns_reap(struct mesh *m)
{
	struct conn	*c, *next;

	if (!m->dead)
		return;
	m->dead = false;
	DL_FOREACH_SAFE(m->conns, c, next)
		if (c->state == CONN_DEAD)
			conn_free(c, true);
}

/* --- Nodes ----------------------------------------------------------------- */

static struct mesh_node *
node_get(struct mesh *m, const char *name, int *rc)
{
	struct mesh_node	*n;

	HASH_FIND_STR(m->nodes, name, n);
	if (n != NULL)
		return n;
	*rc = ERR_FULL;
	if (HASH_COUNT(m->nodes) >= NODES_MAX)
		return NULL;
	*rc = ERR_NOMEM;
	if ((n = calloc(1, sizeof(*n))) == NULL)
		return NULL;
	n->m = m;
	snprintf(n->name, sizeof(n->name), "%s", name);
	HASH_ADD_STR(m->nodes, name, n);
	metric_set(&m_nodes, HASH_COUNT(m->nodes));
	return n;
}

/* Nobody adds it and nothing connects us. */
static void
node_may_go(struct mesh_node *n)
{
	if (n->added || n->link != NULL || n->call != NULL)
		return;
	HASH_DEL(n->m->nodes, n);
	metric_set(&m_nodes, HASH_COUNT(n->m->nodes));
	free(n);
}

static void
gauges(struct mesh *m)
{
	struct mesh_node	*n;
	unsigned		 links = 0, skewed = 0;

	for (n = m->nodes; n != NULL; n = n->hh.next) {
		links += n->link != NULL;
		skewed += n->link == NULL && n->last == MESH_SKEW;
	}
	metric_set(&m_links, links);
	metric_set(&m_skewed, skewed);
}

/* The link of n is over. */
static void
link_down(struct mesh_node *n, enum mesh_status why, const char *words)
{
	struct mesh	*m = n->m;

	if (n->link == NULL)
		return;
	if (why == MESH_DUPLICATE || why == MESH_GOING)
		log_info("mesh.down", "node=%s why=%s text=%s", n->name,
		    mesh_status_name(why), log_quote(words));
	else
		log_warn("mesh.down", "node=%s why=%s text=%s", n->name,
		    mesh_status_name(why), log_quote(words));
	conn_kill(n->link);
	metric_inc(&m_down);
	if (why == MESH_SILENT)
		metric_inc(&m_silent);
	n->last = why;
	n->failed = 0;
	n->retry_ms = now_ms() + mesh_pause_ms(1, why, random_number());
	m->o.events->down(m->o.ctx, n, why);
	gauges(m);
	node_may_go(n);
}

static void
node_learn(struct mesh_node *n, const struct mesh_msg *h)
{
	struct mesh	*m = n->m;

	n->id = h->id;
	n->incarnation = h->incarnation;
	n->seen = MAX(n->seen, h->incarnation);
	n->core = h->core;
	n->replicants = h->replicants;
	n->version = MIN(h->version, m->o.self.version);
	n->clock = h->clock;
	memcpy(n->ports, h->ports, sizeof(n->ports));
	mesh_witness(m, h->clock);
}

/* c, on which hello was said, is the link of its node from now on. */
static void
link_up(struct mesh_node *n, struct conn *c, const struct mesh_msg *h)
{
	struct mesh	*m = n->m;

	c->state = CONN_UP;
	if (n->call == c)
		n->call = NULL;
	n->link = c;
	n->failed = 0;
	n->last = MESH_OK;
	c->heard_ms = n->heard_ms = now_ms();
	node_learn(n, h);
	metric_inc(&m_up);
	log_info("mesh.up", "node=%s incarnation=%llu role=%s version=%u by=%s",
	    n->name, (unsigned long long)n->incarnation,
	    n->core ? "core" : "replicant", n->version, c->out ? "us" : "it");
	m->o.events->up(m->o.ctx, n);
	gauges(m);
}

/* An attempt of ours came to nothing. */
static void
call_failed(struct conn *c, enum mesh_status why, const char *words)
{
	struct mesh_node	*n = c->node;
	uint64_t		 now = now_ms(), more;

	conn_kill(c);
	n->failed++;
	n->last = why;
	n->retry_ms = now + mesh_pause_ms(n->failed, why, random_number());
	if (why != MESH_DUPLICATE && mesh_may_log(&n->limit, why, now, &more))
		log_warn("mesh.call_failed", "node=%s host=%s port=%u why=%s "
		    "text=%s unsaid=%llu", n->name, n->host, n->port,
		    mesh_status_name(why), log_quote(words),
		    (unsigned long long)more);
	gauges(n->m);
	node_may_go(n);
}

static void
conn_over(struct conn *c, enum mesh_status why, const char *words)
{
	if (c->node == NULL)
		conn_kill(c);
	else if (c->node->link == c)
		link_down(c->node, why, words);
	else
		call_failed(c, why, words);
}

static void
node_call(struct mesh_node *n)
{
	struct mesh	*m = n->m;
	struct conn	*c;
	char		 where[MESH_HOST_MAX + 32];

	if ((c = conn_new(m, n, true)) == NULL)
		return;
	n->call = c;
	endpoint(m, n->host, n->port, where, sizeof(where));
	if ((c->z = zmq_socket(m->zctx, ZMQ_DEALER)) == NULL ||
	    socket_options(m, c->z, true) < 0 ||
	    (c->mon = monitor_open(m, c->z)) == NULL ||
	    watch(m, c->mon, &c->mio, &c->todo) < 0 ||
	    watch(m, c->z, &c->io, &c->todo) < 0 ||
	    zmq_connect(c->z, where) < 0)
		call_failed(c, MESH_UNREACHED, zmq_strerror(errno));
}

/* --- Hello -------------------------------------------------------------------- */

static void
refuse_log(struct mesh_limit *l, const struct mesh_msg *h,
    enum mesh_status status, const char *why)
{
	uint64_t	more;

	metric_inc(&m_refused);
	if (status != MESH_DUPLICATE && mesh_may_log(l, status, now_ms(),
	    &more))
		log_warn("mesh.refused", "node=%s why=%s text=%s unsaid=%llu",
		    log_quote_n(h->node.data, h->node.len),
		    mesh_status_name(status), log_quote(why),
		    (unsigned long long)more);
}

static enum mesh_status
judge(struct mesh *m, const struct mesh_msg *h, bool called,
    struct mesh_answer *a)
{
	enum mesh_status	status;

	*a = (struct mesh_answer){ .member = { NULL, 0 } };
	status = mesh_judge(&m->o.self, h, clock_wall_ns(), a->why,
	    sizeof(a->why));
	if (status == MESH_OK && m->o.events->judge != NULL)
		status = m->o.events->judge(m->o.ctx, h, called, a);
	return status;
}

/* Somebody at this routing id said HELLO. */
static void
on_hello(struct mesh *m, const uint8_t *id, size_t idlen, int fd,
    const uint8_t *body, size_t len)
{
	struct conn		*c, tmp = { .m = m, .fd = fd, .idlen = idlen };
	char			 name[NODE_NAME_MAX + 1];
	struct mesh_answer	 a;
	struct mesh_msg		 h;
	struct mesh_node	*n = NULL;
	enum mesh_status	 status;
	int			 rc = 0;

	memcpy(tmp.id, id, idlen);
	if (mesh_decode(&h, body, len, true) < 0) {
		metric_inc(&m_nonsense);
		h = (struct mesh_msg){ .node = text("?") };
		refuse_log(&m->stray, &h, MESH_NONSENSE, "a HELLO that "
		    "makes no sense");
		return;
	}
	snprintf(name, sizeof(name), "%.*s", (int)h.node.len, h.node.data);
	status = judge(m, &h, true, &a);
	if (status == MESH_OK && (n = node_get(m, name, &rc)) == NULL) {
		status = MESH_FULL;
		snprintf(a.why, sizeof(a.why), "%s", err_str(rc));
	}
	if (status == MESH_OK && h.incarnation < n->seen) {
		status = MESH_STALE;
		snprintf(a.why, sizeof(a.why), "a later start of it was here "
		    "(incarnation %llu)", (unsigned long long)n->seen);
	}
	/* A new life ends what was with the one before. */
	if (status == MESH_OK && n->link != NULL &&
	    h.incarnation == n->incarnation &&
	    !mesh_replaces(m->o.self.node, name, n->link->out, false)) {
		status = MESH_DUPLICATE;
		snprintf(a.why, sizeof(a.why), "there is a connection made by "
		    "the node with the lower name");
	}
	if (status != MESH_OK) {
		if (n == NULL)
			HASH_FIND_STR(m->nodes, name, n);
		refuse_log(n != NULL ? &n->limit : &m->stray, &h, status,
		    a.why);
		if (n != NULL && n->link == NULL)
			n->last = status;
		tmp.node = n;
		conn_say_why(&tmp, MESH_REFUSED, status, a.why, a.member);
		for (; tmp.first != NULL; tmp.first = tmp.last) {
			tmp.last = tmp.first->next;	/* no second try */
			free(tmp.first);
		}
		gauges(m);
		return;
	}
	if ((c = conn_new(m, n, false)) == NULL)
		return;
	memcpy(c->id, id, idlen);
	c->idlen = idlen;
	c->fd = fd;
	HASH_ADD(hh, m->called, id, idlen, c);
	n->seen = MAX(n->seen, h.incarnation);
	if (n->link != NULL) {
		bool	added = n->added;

		n->added = true;	/* it is still wanted here */
		link_down(n, MESH_DUPLICATE, "it has called again");
		n->added = added;
	}
	if (n->call != NULL && strcmp(m->o.self.node, name) > 0)
		conn_kill(n->call);
	if (conn_say_hello(c, &h) < 0 || c->gone) {
		conn_kill(c);
		node_may_go(n);
		return;
	}
	link_up(n, c, &h);
}

static void
on_welcome(struct conn *c, const uint8_t *body, size_t len)
{
	struct mesh_node	*n = c->node;
	struct mesh		*m = c->m;
	struct mesh_answer	 a;
	struct mesh_msg		 h;
	enum mesh_status	 status;
	bool			 added = n->added;

	if (c->state != CONN_CALLING ||
	    mesh_decode(&h, body, len, true) < 0 ||
	    h.to != m->o.self.incarnation) {
		metric_inc(&m_nonsense);
		conn_over(c, MESH_NONSENSE, "a WELCOME that makes no sense");
		return;
	}
	status = judge(m, &h, false, &a);
	if (status == MESH_OK && (h.node.len != strlen(n->name) ||
	    memcmp(h.node.data, n->name, h.node.len) != 0)) {
		status = MESH_OTHER_NAME;
		snprintf(a.why, sizeof(a.why), "it is %.*s", (int)MIN(
		    h.node.len, 200), h.node.data);
	}
	if (status == MESH_OK && h.incarnation < n->seen) {
		status = MESH_STALE;
		snprintf(a.why, sizeof(a.why), "a later start of it was here");
	}
	if (status != MESH_OK) {
		metric_inc(&m_refused);
		conn_say_why(c, MESH_REFUSED, status, a.why, a.member);
		call_failed(c, status, a.why);
		return;
	}
	if (n->link != NULL && !(h.incarnation > n->incarnation) &&
	    !mesh_replaces(m->o.self.node, n->name, n->link->out, true)) {
		conn_say_why(c, MESH_BYE, MESH_DUPLICATE, "", a.member);
		call_failed(c, MESH_DUPLICATE, "");
		return;
	}
	n->added = true;
	link_down(n, MESH_DUPLICATE, "our own call came through");
	n->added = added;
	link_up(n, c, &h);
}

/* They do not want us, or no longer. */
static void
on_why(struct conn *c, unsigned kind, const uint8_t *body, size_t len)
{
	struct mesh_node	*n = c->node;
	struct mesh		*m = c->m;
	char			 why[MESH_WHY_MAX + 1];
	struct mesh_msg		 h;

	if (mesh_decode(&h, body, len, false) < 0 || h.status == MESH_OK) {
		metric_inc(&m_nonsense);
		conn_over(c, MESH_NONSENSE, "a refusal that makes no sense");
		return;
	}
	snprintf(why, sizeof(why), "it says: %.*s", (int)MIN(h.why.len, 200),
	    h.why.data);
	if (kind == MESH_REFUSED) {
		metric_inc(&m_refused);
		if (m->o.events->refused != NULL &&
		    h.status != MESH_DUPLICATE)
			m->o.events->refused(m->o.ctx, n, &h);
		if (c->state == CONN_DEAD)
			return;
	}
	conn_over(c, (enum mesh_status)h.status, why);
}

static void
on_beat(struct conn *c, unsigned kind, const uint8_t *body, size_t len)
{
	struct mesh_node	*n = c->node;
	struct mesh		*m = c->m;
	uint64_t		 wall = clock_wall_ns();
	struct mesh_msg		 h;
	bool			 changed;

	if (mesh_decode(&h, body, len, false) < 0) {
		metric_inc(&m_nonsense);
		mesh_drop(n, MESH_NONSENSE, "a message that makes no sense");
		return;
	}
	if (h.clock > wall && m->o.self.max_skew_ns != 0 &&
	    h.clock - wall > m->o.self.max_skew_ns) {
		mesh_drop(n, MESH_SKEW, "the clock of one is too far ahead");
		return;
	}
	mesh_witness(m, h.clock);
	n->clock = h.clock != 0 ? h.clock : n->clock;
	changed = kind == MESH_PORTS ?
	    memcmp(n->ports, h.ports, sizeof(n->ports)) != 0 :
	    n->replicants != h.replicants;
	if (kind == MESH_PORTS)
		memcpy(n->ports, h.ports, sizeof(n->ports));
	else
		n->replicants = h.replicants;
	if (changed && m->o.events->changed != NULL)
		m->o.events->changed(m->o.ctx, n);
}

/* A message on a connection that we know. */
static void
on_message(struct conn *c, const uint8_t *bytes, size_t len)
{
	struct mesh_node	*n = c->node;
	struct mesh		*m = c->m;
	unsigned		 kind;

	metric_inc(&m_in);
	metric_add(&m_bytes_in, len);
	if (len == 0 || c->state == CONN_DEAD) {
		metric_inc(len == 0 ? &m_nonsense : &m_stray);
		return;
	}
	c->heard_ms = n->heard_ms = now_ms();
	kind = bytes[0];
	if (kind == MESH_WELCOME && c->out) {
		on_welcome(c, bytes + 1, len - 1);
	} else if (kind == MESH_REFUSED || kind == MESH_BYE) {
		on_why(c, kind, bytes + 1, len - 1);
	} else if (n->link != c) {
		metric_inc(&m_stray);
	} else if (kind == MESH_BEAT || kind == MESH_PORTS) {
		on_beat(c, kind, bytes + 1, len - 1);
	} else if (kind >= MESH_ROOMS) {
		if (m->o.events->message(m->o.ctx, n, kind, bytes + 1,
		    len - 1) < 0 && c->state == CONN_UP) {
			metric_inc(&m_nonsense);
			mesh_drop(n, MESH_NONSENSE,
			    "a message that cannot be taken");
		}
	}
	/* Kinds of later versions are skipped. */
}

/* --- What came ----------------------------------------------------------------- */

static bool
enough(struct mesh *m)
{
	return m->o.events->enough != NULL && m->o.events->enough(m->o.ctx);
}

/* One message to the ROUTER: 1; 0: there is none. */
static int
router_next(struct mesh *m)
{
	zmq_msg_t	 id, msg, rest;
	struct conn	*c = NULL;
	const uint8_t	*bytes;
	size_t		 len, idlen;
	int		 parts = 1;

	zmq_msg_init(&id);
	if (zmq_msg_recv(&id, m->z, ZMQ_DONTWAIT) < 0) {
		zmq_msg_close(&id);
		return 0;
	}
	zmq_msg_init(&msg);
	if (zmq_msg_more(&id) && zmq_msg_recv(&msg, m->z, ZMQ_DONTWAIT) >= 0)
		parts++;
	while (zmq_msg_more(parts == 1 ? &id : &msg)) {
		zmq_msg_init(&rest);
		if (zmq_msg_recv(&rest, m->z, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(&rest);
			break;
		}
		parts++;
		if (!zmq_msg_more(&rest)) {
			zmq_msg_close(&rest);
			break;
		}
		zmq_msg_close(&rest);
	}
	bytes = zmq_msg_data(&msg);
	len = zmq_msg_size(&msg);
	idlen = zmq_msg_size(&id);
	if (idlen <= ID_MAX)
		HASH_FIND(hh, m->called, zmq_msg_data(&id), idlen, c);
	if (parts != 2 || idlen > ID_MAX || len == 0)
		metric_inc(&m_nonsense);
	else if (bytes[0] == MESH_HELLO && c == NULL)
		on_hello(m, zmq_msg_data(&id), idlen, zmq_msg_get(&msg,
		    ZMQ_SRCFD), bytes + 1, len - 1);
	else if (c != NULL)
		on_message(c, bytes, len);
	else
		metric_inc(&m_stray);
	zmq_msg_close(&msg);
	zmq_msg_close(&id);
	return 1;
}

static void
conn_drain(struct conn *c)
{
	zmq_msg_t	msg;
	int		n;

	c->todo = false;
	for (n = 0; n < DEALER_TURN && c->state != CONN_DEAD; n++) {
		if (enough(c->m))
			break;
		zmq_msg_init(&msg);
		if (zmq_msg_recv(&msg, c->z, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(&msg);
			return;
		}
		if (!zmq_msg_more(&msg))
			on_message(c, zmq_msg_data(&msg), zmq_msg_size(&msg));
		else
			metric_inc(&m_nonsense);
		zmq_msg_close(&msg);
	}
	c->todo = c->state != CONN_DEAD;
}

static void
conn_monitor(struct conn *c)
{
	uint64_t	value;
	int		event;

	while (c->state != CONN_DEAD &&
	    monitor_next(c->mon, &event, &value) == 1)
		switch (event) {
		case ZMQ_EVENT_CONNECTED:
			c->connected = true;
			break;
		case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
			c->shaken = true;
			if (conn_say_hello(c, NULL) < 0)
				conn_lose(c);
			break;
		case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
		case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
		case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
		case ZMQ_EVENT_DISCONNECTED:
		case ZMQ_EVENT_CLOSED:
			conn_lose(c);
			break;
		}
}

/* A connection of ours closed, and what had come on it is read. */
static void
call_over(struct conn *c)
{
	struct mesh	*m = c->m;

	if (c->state == CONN_UP) {
		conn_over(c, MESH_CLOSED, "the connection closed");
	} else if (!c->connected) {
		conn_over(c, MESH_UNREACHED, "nobody answers there");
	} else if (!c->shaken) {
		metric_inc(&m_handshakes);
		conn_over(c, MESH_NO_HANDSHAKE, m->secret.curve ?
		    "no handshake: wrong cookie?" :
		    "no handshake: cluster.curve is on there?");
	} else {
		conn_over(c, MESH_CLOSED, "the connection closed");
	}
}

/* --- Who connects to us --------------------------------------------------------- */

static void
addr_note(struct mesh *m, uint64_t fd)
{
	struct sockaddr_storage	ss;
	socklen_t		len = sizeof(ss);
	const void		*a;
	char			(*more)[ADDR_MAX];
	size_t			 want;
	uint16_t		 port;
	char			 host[INET6_ADDRSTRLEN] = "?";

	if (fd >= FDS_MAX)
		return;
	if (fd >= m->naddrs) {
		want = MAX(64, fd + 1 + fd / 2);
		if ((more = realloc(m->addrs, want * ADDR_MAX)) == NULL)
			return;
		memset(more + m->naddrs, 0, (want - m->naddrs) * ADDR_MAX);
		m->addrs = more;
		m->naddrs = want;
	}
	if (getpeername((int)fd, (struct sockaddr *)&ss, &len) < 0) {
		m->addrs[fd][0] = '\0';
		return;
	}
	if (ss.ss_family == AF_INET6) {
		a = &((struct sockaddr_in6 *)(void *)&ss)->sin6_addr;
		port = ntohs(((struct sockaddr_in6 *)(void *)&ss)->sin6_port);
	} else {
		a = &((struct sockaddr_in *)(void *)&ss)->sin_addr;
		port = ntohs(((struct sockaddr_in *)(void *)&ss)->sin_port);
	}
	(void)inet_ntop(ss.ss_family, a, host, sizeof(host));
	snprintf(m->addrs[fd], ADDR_MAX, "%s:%u", host, port);
}

static void
handshake_failed(struct mesh *m, const char *from)
{
	uint64_t	more;

	metric_inc(&m_handshakes);
	if (mesh_may_log(&m->limit, (uint64_t)m->failed, now_ms(), &more))
		log_warn("mesh.handshake_failed", "from=%s error=0x%llx text=%s"
		    " unsaid=%llu", from[0] != '\0' ? from : "?",
		    (unsigned long long)m->failed_value, m->secret.curve ?
		    "\"wrong cookie, or no node?\"" :
		    "\"cluster.curve is on there, or no node?\"",
		    (unsigned long long)more);
	m->failed = 0;
}

static void
router_monitor(struct mesh *m)
{
	struct conn	*c;
	uint64_t	 value;
	int		 event;

	while (monitor_next(m->mon, &event, &value) == 1)
		switch (event) {
		case ZMQ_EVENT_ACCEPTED:
			addr_note(m, value);
			break;
		case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
		case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
		case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
			if (m->failed != 0)
				handshake_failed(m, "");
			m->failed = event;
			m->failed_value = value;
			break;
		case ZMQ_EVENT_DISCONNECTED:
			if (m->failed != 0)
				handshake_failed(m, value < m->naddrs ?
				    m->addrs[value] : "");
			DL_FOREACH(m->conns, c)
				if (!c->out && c->fd >= 0 &&
				    (uint64_t)c->fd == value)
					conn_lose(c);
			break;
		}
}

/* --- The turn ----------------------------------------------------------------- */

static void
on_check(EV_P_ ev_check *w, int revents UNUSED)
{
	struct mesh	*m = w->data;
	struct conn	*c, *next;
	bool		 drained = true;
	int		 n;

	(void)loop;
	if (m->todo) {
		m->todo = false;
		router_monitor(m);
		for (n = 0; n < ROUTER_TURN && !enough(m); n++)
			if (router_next(m) == 0)
				break;
		drained = n < ROUTER_TURN && !enough(m);
		m->todo = !drained;
		DL_FOREACH(m->conns, c)
			if (!c->out && c->first != NULL)
				c->todo = true;
	}
	DL_FOREACH_SAFE(m->conns, c, next) {
		if (c->state == CONN_DEAD)
			continue;
		if (c->out && (c->todo || c->gone)) {
			conn_monitor(c);
			if (c->state != CONN_DEAD)
				conn_drain(c);
		}
		if (c->state == CONN_DEAD)
			continue;
		if (c->first != NULL)
			conn_flush(c);
		if (!c->out)
			c->todo = false;
		if (c->wanted && c->first == NULL && c->state == CONN_UP) {
			c->wanted = false;
			m->o.events->writable(m->o.ctx, c->node);
		}
		if (c->gone && c->state != CONN_DEAD && !c->todo &&
		    (c->out || drained)) {
			if (c->out)
				call_over(c);
			else
				conn_over(c, MESH_CLOSED,
				    "the connection closed");
		}
	}
	conns_reap(m);
}

/* What we sent may have used up what a descriptor had to tell: ask. */
static bool
events_come(void *z, int what)
{
	size_t	n = sizeof(int);
	int	events;

	return zmq_getsockopt(z, ZMQ_EVENTS, &events, &n) == 0 &&
	    (events & what) != 0;
}

static void
on_prepare(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct mesh	*m = w->data;
	struct conn	*c;
	bool		 more;

	conns_reap(m);
	if (m->used && events_come(m->z, ZMQ_POLLIN))
		m->todo = true;
	m->used = false;
	more = m->todo;
	DL_FOREACH(m->conns, c) {
		if (c->used && c->out && events_come(c->z, ZMQ_POLLIN |
		    (c->first != NULL ? ZMQ_POLLOUT : 0)))
			c->todo = true;
		c->used = false;
		more |= c->todo || c->gone;
	}
	if (more)
		ev_idle_start(loop, &m->idle);
	else
		ev_idle_stop(loop, &m->idle);
}

static void
on_idle(EV_P_ ev_idle *w UNUSED, int revents UNUSED)
{
	(void)loop;		/* being active is all it is for */
}

static void
conn_tick(struct conn *c, uint64_t now, uint64_t lost)
{
	struct mesh_msg	h = { .clock = mesh_clock(c->m),
			      .replicants = c->m->replicants };

	c->heard_ms += MIN(lost, now - c->heard_ms);
	if (c->state == CONN_CALLING) {
		if (now - c->since_ms > MESH_CALL_MS)
			conn_over(c, MESH_UNREACHED, c->shaken ?
			    "no answer to HELLO" : "nobody answers there");
		return;
	}
	if (now - c->heard_ms > MESH_SILENT_MS) {
		conn_say_why(c, MESH_BYE, MESH_SILENT, "nothing was heard from "
		    "you", (struct slice){ NULL, 0 });
		conn_over(c, MESH_SILENT, "nothing was heard");
		return;
	}
	if (c->first != NULL)
		c->todo = true;		/* try again, and be heard by that */
	else if (now - c->said_ms >= MESH_BEAT_MS)
		(void)conn_say_msg(c, MESH_BEAT, &h);
}

static void
on_tick(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct mesh		*m = w->data;
	struct mesh_node	*n, *nnext;
	struct conn		*c, *next;
	uint64_t		 now = now_ms(), lost;

	(void)loop;
	lost = mesh_lost_ms(now - m->tick_ms, TICK_MS);
	m->tick_ms = now;
	DL_FOREACH_SAFE(m->conns, c, next)
		if (c->state != CONN_DEAD && !c->gone)
			conn_tick(c, now, lost);
	HASH_ITER(hh, m->nodes, n, nnext)
		if (n->added && n->link == NULL && n->call == NULL &&
		    now >= n->retry_ms)
			node_call(n);
	conns_reap(m);
}

/* --- Opening and closing ---------------------------------------------------------- */

static int
bind_socket(struct mesh *m)
{
	uint8_t		 addr[16];
	char		 where[MESH_HOST_MAX + 32];
	const char	*host = m->o.host;

	if (host != NULL && inet_pton(AF_INET, host, addr) != 1 &&
	    inet_pton(AF_INET6, host, addr) != 1)
		host = NULL;
	if ((m->z = zmq_socket(m->zctx, ZMQ_ROUTER)) == NULL ||
	    socket_options(m, m->z, false) < 0 ||
	    (m->mon = monitor_open(m, m->z)) == NULL)
		return ERR_IO;
	endpoint(m, host, m->o.port, where, sizeof(where));
	return zmq_bind(m->z, where) < 0 ? ERR_IO : 0;
}

static void
metrics_register(void)
{
	static bool	 done;
	struct metric	*rows[NELEM(metrics)];

	if (done)
		return;
	memcpy(rows, metrics, sizeof(rows));
	metric_register(rows, NELEM(rows));
	done = true;
}

static void
mesh_free(struct mesh *m)
{
	struct mesh_node	*n, *next;
	struct conn		*c, *cnext;

	DL_FOREACH_SAFE(m->conns, c, cnext) {
		if (!c->out && c->state != CONN_DEAD)
			HASH_DEL(m->called, c);
		conn_free(c, true);
	}
	HASH_ITER(hh, m->nodes, n, next) {
		HASH_DEL(m->nodes, n);
		free(n);
	}
	if (m->mon != NULL)
		zmq_close(m->mon);
	if (m->z != NULL) {
		set_int(m->z, ZMQ_LINGER, LINGER_MS);
		zmq_close(m->z);
	}
	if (m->zctx != NULL)
		zmq_ctx_term(m->zctx);
	secret_fini(&m->secret);
	free(m->addrs);
	free(m->buf);
	free(m);
}

int
mesh_open(struct mesh **out, const struct mesh_opts *o)
{
	struct mesh	*m;
	int		 rc = ERR_NOMEM, e;

	metrics_register();
	if ((m = calloc(1, sizeof(*m))) == NULL)
		return ERR_NOMEM;
	m->o = *o;
	m->secret = *o->secret;
	m->tick_ms = now_ms();
	if ((m->buf = malloc(1 + MESH_BODY_MAX)) == NULL ||
	    (m->zctx = zmq_ctx_new()) == NULL)
		goto fail;
	(void)zmq_ctx_set(m->zctx, ZMQ_MAX_SOCKETS, 8 * NODES_MAX);
	rc = ERR_IO;
	if (m->secret.curve && zmq_curve_keypair(m->pub, m->priv) < 0)
		goto fail;
	if ((rc = bind_socket(m)) < 0)
		goto fail;
	if ((rc = watch(m, m->mon, &m->mio, &m->todo)) < 0 ||
	    (rc = watch(m, m->z, &m->io, &m->todo)) < 0)
		goto fail;
	ev_check_init(&m->check, on_check);
	ev_prepare_init(&m->prepare, on_prepare);
	ev_set_priority(&m->prepare, EV_MINPRI);
	ev_idle_init(&m->idle, on_idle);
	ev_timer_init(&m->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	m->check.data = m->prepare.data = m->idle.data = m->tick.data = m;
	ev_check_start(m->o.loop, &m->check);
	ev_prepare_start(m->o.loop, &m->prepare);
	ev_timer_start(m->o.loop, &m->tick);
	*out = m;
	return 0;

fail:
	e = errno;
	if (m->z != NULL && ev_is_active(&m->io))
		ev_io_stop(m->o.loop, &m->io);
	if (m->mon != NULL && ev_is_active(&m->mio))
		ev_io_stop(m->o.loop, &m->mio);
	mesh_free(m);
	errno = e;
	return rc;
}

void
mesh_close(struct mesh **mp)
{
	struct mesh	*m = *mp;
	struct conn	*c;

	if (m == NULL)
		return;
	*mp = NULL;
	DL_FOREACH(m->conns, c)
		if (c->state == CONN_UP)
			conn_say_why(c, MESH_BYE, MESH_GOING, "the router ends",
			    (struct slice){ NULL, 0 });
	ev_check_stop(m->o.loop, &m->check);
	ev_prepare_stop(m->o.loop, &m->prepare);
	ev_idle_stop(m->o.loop, &m->idle);
	ev_timer_stop(m->o.loop, &m->tick);
	ev_io_stop(m->o.loop, &m->io);
	ev_io_stop(m->o.loop, &m->mio);
	mesh_free(m);
}

/* --- For the program ------------------------------------------------------------- */

int
mesh_add(struct mesh *m, const char *name, const char *host, uint16_t port)
{
	struct mesh_node	*n;
	int			 rc = 0;

	if (name[0] == '\0' || strlen(name) > NODE_NAME_MAX ||
	    host[0] == '\0' || strlen(host) >= MESH_HOST_MAX || port == 0 ||
	    strcmp(name, m->o.self.node) == 0)
		return ERR_INVAL;
	if ((n = node_get(m, name, &rc)) == NULL)
		return rc;
	if (!n->added || strcmp(n->host, host) != 0 || n->port != port)
		n->retry_ms = 0;	/* news: at once */
	snprintf(n->host, sizeof(n->host), "%s", host);
	n->port = port;
	n->added = true;
	return 0;
}

void
mesh_forget(struct mesh *m, const char *name)
{
	struct mesh_node	*n;

	HASH_FIND_STR(m->nodes, name, n);
	if (n == NULL)
		return;
	n->added = false;
	if (n->call != NULL)
		conn_kill(n->call);
	if (n->link != NULL)
		mesh_drop(n, MESH_GOING, "it is no peer any more");
	else
		node_may_go(n);
}

struct mesh_node *
mesh_find(struct mesh *m, const char *name)
{
	struct mesh_node	*n;

	HASH_FIND_STR(m->nodes, name, n);
	return n;
}

struct mesh_node *
mesh_next(struct mesh *m, struct mesh_node *at)
{
	return at == NULL ? m->nodes : at->hh.next;
}

void
mesh_look(const struct mesh_node *n, struct mesh_look *out)
{
	*out = (struct mesh_look){
		.name = n->name, .host = n->host, .port = n->port,
		.up = n->link != NULL,
		.suspect = n->link != NULL &&
		    now_ms() - n->link->heard_ms > MESH_SUSPECT_MS,
		.ours = n->link != NULL && n->link->out,
		.id = n->id, .incarnation = n->incarnation, .core = n->core,
		.replicants = n->replicants, .version = n->version,
		.ports = n->ports, .clock = n->clock,
		.heard_ms = n->heard_ms,
		.queued = n->link != NULL ? n->link->queued : 0,
		.refused = n->last, .failed = n->failed,
	};
}

void
mesh_set_user(struct mesh_node *n, void *user)
{
	n->user = user;
}

void *
mesh_user(const struct mesh_node *n)
{
	return n->user;
}

size_t
mesh_room(struct mesh_node *n)
{
	struct conn	*c = n->link;

	if (c == NULL || c->gone)
		return 0;
	if (c->queued >= MESH_QUEUE) {
		c->wanted = true;
		return 0;
	}
	if (c->queued > 0)
		c->wanted = true;
	return MESH_QUEUE - c->queued;
}

int
mesh_send(struct mesh_node *n, unsigned kind, const void *body, size_t len)
{
	struct conn	*c = n->link;
	uint8_t		*buf = n->m->buf;

	if (c == NULL || c->gone)
		return ERR_NOTFOUND;
	if (kind < MESH_ROOMS || kind > UINT8_MAX || len > MESH_BODY_MAX)
		return ERR_INVAL;
	if (c->first != NULL && c->queued + len > MESH_QUEUE) {
		metric_inc(&m_full);
		c->wanted = true;
		return ERR_AGAIN;
	}
	buf[0] = (uint8_t)kind;
	if (len > 0)
		memcpy(buf + 1, body, len);
	return conn_say(c, buf, 1 + len);
}

void
mesh_drop(struct mesh_node *n, enum mesh_status why, const char *words)
{
	if (n->link == NULL)
		return;
	conn_say_why(n->link, MESH_BYE, why, words,
	    (struct slice){ NULL, 0 });
	link_down(n, why, words);
}

void
mesh_set_ports(struct mesh *m, const uint32_t ports[NODE_LINKS_MAX])
{
	struct mesh_msg	 h = { .clock = mesh_clock(m) };
	struct conn	*c;

	if (memcmp(m->ports, ports, sizeof(m->ports)) == 0)
		return;
	memcpy(m->ports, ports, sizeof(m->ports));
	memcpy(h.ports, ports, sizeof(h.ports));
	DL_FOREACH(m->conns, c)
		if (c->state == CONN_UP && !c->gone)
			(void)conn_say_msg(c, MESH_PORTS, &h);
}

void
mesh_set_replicants(struct mesh *m, uint32_t n)
{
	struct mesh_msg	 h = { .clock = mesh_clock(m), .replicants = n };
	struct conn	*c;

	if (m->replicants == n)
		return;
	m->replicants = n;
	DL_FOREACH(m->conns, c)
		if (c->state == CONN_UP && !c->gone)
			(void)conn_say_msg(c, MESH_BEAT, &h);
}

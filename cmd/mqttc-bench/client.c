/*
 * client.c: the connections of one worker.
 *
 * Every read lands in one buffer and is parsed there; nothing is allocated per
 * message, and all that a connection has to say leaves in one send(2) at the
 * end of the turn. So the generator costs a small fraction of the broker.
 */
#include <sys/epoll.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "bench.h"
#include "mqtt/decode.h"
#include "mqtt/encode.h"

enum {
	READ_MAX	= 256 << 10,
	OUT_MAX		= 64 << 20,	/* waiting for one connection */
	KEEPALIVE_S	= 65535,
	SESSION_EXPIRY_S = 3600,
};

struct conn	*conns;
unsigned	 nconns, nsubs, nup, nopening, subacks_due;
uint64_t	 now_ns;
bool		 publishing, measuring;
int		 ep = -1;

static struct conn	**dirty;
static unsigned		 ndirty, worker, opened;
static uint8_t		*read_buf;
static size_t		 read_cap;
static unsigned		 keepalive_s = KEEPALIVE_S;	/* the least granted */
static uint64_t		 pinged_ns;
static struct sockaddr_storage to;
static socklen_t	 to_len;
static int		 why_code;	/* what the last failure was; its text
					   is in the tally */

static void because(int code, const char *fmt, ...) PRINTF(2, 3);

static void
because(int code, const char *fmt, ...)
{
	va_list	ap;

	why_code = code;
	va_start(ap, fmt);
	vsnprintf(tally->why, sizeof(tally->why), fmt, ap);
	va_end(ap);
}

void
conns_fail(void)
{
	_exit(why_code);
}

/* --- Closing ------------------------------------------------------------- */

static void
conn_close(struct conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->state == CONN_UP)
		nup--;
	else
		nopening--;
	subacks_due -= c->subacks_due;
	c->subacks_due = 0;
	c->state = CONN_CLOSED;
	c->out_off = c->out_len = c->carry_len = 0;
	c->blocked = false;
	close(c->fd);
	c->fd = -1;
}

/* It ended, and not because we wanted it. error: errno, 0 for an end of file,
 * -1 when it was said why. */
static void
conn_lost(struct conn *c, int error)
{
	const char	*text = error > 0 ? strerror(error) : "end of file";

	if (c->state == CONN_OPENING)
		because(EX_UNAVAILABLE, "cannot connect to %s:%u: %s",
		    opt.host, c->port, text);
	else if (error >= 0)
		because(EX_UNAVAILABLE, "%s:%u closed a connection%s: %s",
		    opt.host, c->port,
		    c->state == CONN_CONNACK_DUE ? " before CONNACK" : "",
		    text);
	tally->now.closed++;
	tally->now.reset += error == ECONNRESET || error == EPIPE;
	tally->now.told += error < 0;
	conn_close(c);
}

/* The broker does what MQTT does not allow, or what we did not ask for. */
static void
malformed(struct conn *c, const char *what)
{
	fail(EX_PROTOCOL, "%s:%u sent a malformed %s", opt.host, c->port,
	    what);
}

/* --- Output -------------------------------------------------------------- */

uint8_t *
conn_reserve(struct conn *c, size_t n)
{
	if (c->out_off == c->out_len)
		c->out_off = c->out_len = 0;
	if (c->out_len + n > c->out_cap && c->out_off > 0) {
		memmove(c->out, c->out + c->out_off, c->out_len - c->out_off);
		c->out_len -= c->out_off;
		c->out_off = 0;
	}
	if (c->out_len + n > c->out_cap) {
		if (c->out_len > OUT_MAX)
			fail(EX_UNAVAILABLE, "%s:%u does not read", opt.host,
			    c->port);
		c->out_cap = MAX(c->out_cap * 2, c->out_len + n);
		if ((c->out = realloc(c->out, c->out_cap)) == NULL)
			fail(EX_OSERR, "out of memory");
	}
	if (!c->dirty) {
		c->dirty = true;
		dirty[ndirty++] = c;
	}
	return c->out + c->out_len;
}

static void
conn_watch(struct conn *c, bool output)
{
	struct epoll_event ev = {
		.events = EPOLLIN | (output ? (uint32_t)EPOLLOUT : 0),
		.data.ptr = c,
	};

	if (c->blocked == output)
		return;
	if (epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev) < 0)
		fail(EX_OSERR, "epoll_ctl: %s", strerror(errno));
	c->blocked = output;
}

static void
conn_flush(struct conn *c)
{
	ssize_t	n;

	if (c->state == CONN_CLOSED || c->out_off == c->out_len)
		return;
	n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off,
	    MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOTCONN) {
		conn_lost(c, errno);
		return;
	}
	if (n > 0)
		c->out_off += (size_t)n;
	conn_watch(c, c->out_off < c->out_len);
	if (!c->blocked && opt.mode == IDLE) {	/* it has said all it will */
		free(c->out);
		c->out = NULL;
		c->out_off = c->out_len = c->out_cap = 0;
	}
}

void
conns_flush(void)
{
	struct conn	*c;
	unsigned	 i, last = ndirty;

	ndirty = 0;
	for (i = 0; i < last; i++) {
		c = dirty[i];
		c->dirty = false;
		if (!c->blocked)
			conn_flush(c);
		if (c->pub != NULL && !c->blocked && c->state == CONN_UP &&
		    publisher_may_go_on(c->pub))
			touch(c->pub);
	}
}

static void
put_connect(struct conn *c)
{
	struct mqtt_connect m = {
		.version = (uint8_t)opt.version, .clean_start = true,
		.keep_alive_s = KEEPALIVE_S,
	};
	char	id[96];

	if (opt.durable && c->pub == NULL) {
		m.clean_start = false;
		if (opt.version == MQTT_V5)
			MQTT_PROP_SET(&m.props, SESSION_EXPIRY,
			    session_expiry_s, SESSION_EXPIRY_S);
	}
	if (!opt.nameless)
		m.client_id.len = (size_t)snprintf(id, sizeof(id), "%s-%u",
		    opt.prefix, c->number);
	m.client_id.data = (uint8_t *)id;
	if (opt.username != NULL) {
		m.has_username = true;
		m.username.data = (const uint8_t *)opt.username;
		m.username.len = strlen(opt.username);
	}
	if (opt.password != NULL) {
		m.has_password = true;
		m.password.data = (const uint8_t *)opt.password;
		m.password.len = strlen(opt.password);
	}
	c->out_len += mqtt_connect_encode(&m,
	    conn_reserve(c, mqtt_connect_size(&m)));
}

static void
put_subscribe(struct conn *c, uint16_t id, const char *filter)
{
	struct mqtt_subscription s = {
		.name = { (const uint8_t *)filter, strlen(filter) },
		.qos = (uint8_t)opt.qos,
	};
	uint8_t	*p;

	p = conn_reserve(c, mqtt_subscribe_size(opt.version, &s, 1, NULL));
	c->out_len += mqtt_subscribe_encode(opt.version, id, &s, 1, NULL, p);
	c->subacks_due++;
	subacks_due++;
}

void
conn_subscribe_wildcard(struct conn *c, uint16_t id, unsigned f)
{
	char	name[128];

	wildcard_name(name, sizeof(name), f, true);
	put_subscribe(c, id, name);
}

static void
put_ack(struct conn *c, enum mqtt_type type, uint16_t id)
{
	c->out_len += mqtt_ack_encode_short(type, id, conn_reserve(c, 4));
}

/* --- Connecting ---------------------------------------------------------- */

static void
host_resolve(void)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *ai;
	int		rc;

	if ((rc = getaddrinfo(opt.host, NULL, &hints, &ai)) != 0)
		fail(EX_NOHOST, "host '%s': %s", opt.host, gai_strerror(rc));
	memcpy(&to, ai->ai_addr, ai->ai_addrlen);
	to_len = ai->ai_addrlen;
	freeaddrinfo(ai);
	if (opt.sources > 1 && to.ss_family != AF_INET)
		fail(EX_USAGE, "--sources: '%s' is no IPv4 address", opt.host);
}

/* One source address has ports for some 28 000 connections to one port. */
static void
bind_source(struct conn *c)
{
	struct sockaddr_in from = { .sin_family = AF_INET };
	int		   one = 1;

	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 +
	    (worker + opened++ * opt.procs) % opt.sources);
	setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one,
	    sizeof(one));
	if (bind(c->fd, (void *)&from, sizeof(from)) < 0)
		fail(EX_OSERR, "cannot bind a source address: %s",
		    strerror(errno));
}

void
conn_open(struct conn *c)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c };
	int		   one = 1;

	c->fd = socket(to.ss_family,
	    SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		fail(EX_OSERR, "cannot make a socket: %s", strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (opt.sources > 1)
		bind_source(c);
	if (to.ss_family == AF_INET)
		((struct sockaddr_in *)&to)->sin_port = htons(c->port);
	else
		((struct sockaddr_in6 *)&to)->sin6_port = htons(c->port);
	c->opened_ns = clock_mono_ns();
	c->state = CONN_OPENING;
	nopening++;
	if (connect(c->fd, (void *)&to, to_len) < 0 && errno != EINPROGRESS) {
		conn_lost(c, errno);
		return;
	}
	if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		fail(EX_OSERR, "epoll_ctl: %s", strerror(errno));
	c->blocked = true;
	put_connect(c);
}

/* What c, connected, asks for. False if that is nothing. */
static bool
conn_subscribe(struct conn *c)
{
	unsigned	sub = (unsigned)(c - conns), f;
	char		name[128];

	if (c->flows == NULL)
		return false;
	if (opt.mode == SHARED) {
		group_name(name, sizeof(name), sub / opt.members);
		put_subscribe(c, 1, name);
		return true;
	}
	if (opt.mode != WILDCARD) {
		topic_name(name, sizeof(name), opt.mode == PAIRS ? sub : 0);
		put_subscribe(c, 1, name);
		return true;
	}
	for (f = sub; f < opt.filters.v[0]; f += nsubs)
		conn_subscribe_wildcard(c, (uint16_t)(1 + f / nsubs), f);
	return c->subacks_due > 0;
}

/* --- Input --------------------------------------------------------------- */

/* c has its CONNACK, or its last SUBACK. */
static void
on_ready(struct conn *c)
{
	uint8_t	bye[2];

	c->state = CONN_UP;
	nopening--;
	nup++;
	tally->now.connects++;
	if (opt.mode != CHURN)
		return;
	mqtt_disconnect_encode(opt.version, 0, NULL, bye);
	(void)!send(c->fd, bye, sizeof(bye), MSG_NOSIGNAL);
	conn_close(c);
	c->again = publishing && opt.rate == 0;
}

static void
on_refusal(struct conn *c, unsigned code)
{
	static const char *const v3[] = { "Accepted",
	    "unacceptable protocol version", "identifier rejected",
	    "server unavailable", "bad user name or password",
	    "not authorized" };
	bool	v5 = opt.version == MQTT_V5, denied;

	denied = v5 ? code == MQTT_BAD_USER_NAME_OR_PASSWORD ||
	    code == MQTT_NOT_AUTHORIZED || code == MQTT_BANNED :
	    code == MQTT_V3_BAD_USER_OR_PASSWORD ||
	    code == MQTT_V3_NOT_AUTHORIZED;
	because(denied ? EX_NOPERM : EX_UNAVAILABLE,
	    "%s:%u refused a connection: %s (0x%02x)", opt.host, c->port,
	    v5 ? mqtt_reason_name(code) : code < NELEM(v3) ? v3[code] :
	    "unknown", code);
	tally->now.refused++;
	conn_close(c);
}

static void
on_connack(struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_connack	 m;
	const struct mqtt_props	*p = &m.props;

	if ((c->state != CONN_CONNACK_DUE && c->state != CONN_OPENING) ||
	    mqtt_decode_connack(f, opt.version, &m) != 0)
		malformed(c, "CONNACK");
	if (m.code != 0) {
		on_refusal(c, m.code);
		return;
	}
	if (mqtt_props_has(p, MQTT_P_RECEIVE_MAXIMUM) && c->pub != NULL)
		c->pub->window = MIN(c->pub->window, p->receive_maximum);
	if (mqtt_props_has(p, MQTT_P_MAXIMUM_QOS) && p->maximum_qos < opt.qos)
		fail(EX_UNAVAILABLE, "%s:%u has no QoS above %u", opt.host,
		    c->port, p->maximum_qos);
	if (mqtt_props_has(p, MQTT_P_SERVER_KEEP_ALIVE) &&
	    p->server_keep_alive_s > 0)
		keepalive_s = MIN(keepalive_s, p->server_keep_alive_s);
	if (measuring && (opt.mode == CONNECT || opt.mode == CHURN))
		histogram_add(&tally->latency, now_ns > c->opened_ns ?
		    now_ns - c->opened_ns : 0);
	c->state = CONN_SUBACK_DUE;
	if (!conn_subscribe(c))
		on_ready(c);
}

static void
on_suback(struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_suback	m;
	unsigned		code;

	if (c->subacks_due == 0 ||
	    mqtt_decode_suback(f, opt.version, &m) != 0 || m.codes.len != 1)
		malformed(c, "SUBACK");
	if ((code = m.codes.data[0]) >= 0x80) {
		because(EX_UNAVAILABLE, "%s:%u refused a subscription: %s",
		    opt.host, c->port, mqtt_reason_name(code));
		tally->now.refused++;
		conn_close(c);
		return;
	}
	if (code != opt.qos)
		fail(EX_UNAVAILABLE, "%s:%u granted QoS %u, not %u", opt.host,
		    c->port, code, opt.qos);
	subacks_due--;
	if (--c->subacks_due == 0 && c->state == CONN_SUBACK_DUE)
		on_ready(c);
}

static void
on_publish(struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_publish	m;

	if (mqtt_decode_publish(f, opt.version,
	    MQTT_FROM_SERVER | MQTT_TOPIC_UNCHECKED, 0, &m) != 0)
		malformed(c, "PUBLISH");
	message_count(c, m.payload.data, m.payload.len);
	if (m.qos > 0)
		put_ack(c, m.qos == 1 ? MQTT_PUBACK : MQTT_PUBREC,
		    m.packet_id);
}

/* The end of what c's publisher sent. */
static void
on_settled(struct conn *c, bool refused)
{
	if (c->pub == NULL || c->pub->unacked == 0) {
		tally->now.alien++;
		return;
	}
	c->pub->unacked--;
	tally->now.refused += refused;
	touch(c->pub);
}

static void
on_ack(struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_ack	m;
	bool		refused;

	if (mqtt_decode_ack(f, opt.version, &m) != 0)
		malformed(c, mqtt_type_name(f->type));
	refused = m.reason >= 0x80;
	if (f->type == MQTT_PUBREL)
		put_ack(c, MQTT_PUBCOMP, m.packet_id);
	else if (f->type == MQTT_PUBREC && !refused)
		put_ack(c, MQTT_PUBREL, m.packet_id);
	else
		on_settled(c, refused);
}

static void
on_disconnect(struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_disconnect	m;

	if (mqtt_decode_disconnect(f, opt.version, MQTT_FROM_SERVER, &m) != 0)
		malformed(c, "DISCONNECT");
	because(EX_UNAVAILABLE, "%s:%u disconnected a client: %s (0x%02x)",
	    opt.host, c->port, mqtt_reason_name(m.reason), m.reason);
	conn_lost(c, -1);
}

static void
on_packet(struct conn *c, const struct mqtt_frame *f)
{
	switch (f->type) {
	case MQTT_PUBLISH:
		on_publish(c, f);
		return;
	case MQTT_PUBACK: case MQTT_PUBREC: case MQTT_PUBREL: case MQTT_PUBCOMP:
		on_ack(c, f);
		return;
	case MQTT_CONNACK:
		on_connack(c, f);
		return;
	case MQTT_SUBACK:
		on_suback(c, f);
		return;
	case MQTT_DISCONNECT:
		on_disconnect(c, f);
		return;
	case MQTT_PINGRESP:
		return;
	default:
		tally->now.alien++;
	}
}

/* Handle the whole packets in buf; returns the bytes they took. */
static size_t
conn_parse(struct conn *c, const uint8_t *buf, size_t len)
{
	struct mqtt_frame	f;
	size_t			off = 0;
	int			rc = 0;

	while (off < len && c->state != CONN_CLOSED) {
		rc = mqtt_frame_parse(buf + off, len - off, opt.version,
		    (uint32_t)read_cap, &f);
		if (rc != 0)
			break;
		on_packet(c, &f);
		off += f.size;
	}
	if (rc == ERR_PROTO || rc == ERR_FULL)
		malformed(c, "packet");
	return c->state == CONN_CLOSED ? len : off;
}

static void
conn_keep(struct conn *c, const uint8_t *buf, size_t len)
{
	if (len > c->carry_cap) {
		c->carry_cap = MAX(len, 256u);
		if ((c->carry = realloc(c->carry, c->carry_cap)) == NULL)
			fail(EX_OSERR, "out of memory");
	}
	memcpy(c->carry, buf, len);
}

static void
conn_read(struct conn *c)
{
	size_t	len, used;
	ssize_t	n;

	if (c->carry_len > 0)
		memcpy(read_buf, c->carry, c->carry_len);
	n = recv(c->fd, read_buf + c->carry_len, read_cap - c->carry_len,
	    MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_lost(c, n < 0 ? errno : 0);
		return;
	}
	if (c->state == CONN_OPENING)
		c->state = CONN_CONNACK_DUE;
	len = c->carry_len + (size_t)n;
	c->carry_len = 0;
	now_ns = clock_mono_ns();
	used = conn_parse(c, read_buf, len);
	if (used < len) {
		conn_keep(c, read_buf + used, len - used);
		c->carry_len = len - used;
	}
	if (c->again) {
		c->again = false;
		conn_open(c);
	}
}

void
conn_event(struct conn *c, uint32_t events)
{
	if (c->state == CONN_CLOSED)
		return;
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
		conn_read(c);
	if (!(events & EPOLLOUT) || c->state == CONN_CLOSED)
		return;
	if (c->state == CONN_OPENING)
		c->state = CONN_CONNACK_DUE;
	conn_flush(c);
	if (c->pub != NULL && !c->blocked)
		touch(c->pub);
}

/* --- Keep-alive, set-up -------------------------------------------------- */

void
conns_tick(void)
{
	unsigned	i;

	if (now_ns - pinged_ns < keepalive_s * SEC / 2)
		return;
	pinged_ns = now_ns;
	for (i = 0; i < nconns; i++)
		if (conns[i].state == CONN_UP)
			conns[i].out_len += mqtt_ping_encode(MQTT_PINGREQ,
			    conn_reserve(&conns[i], 2));
}

void
clients_plan(unsigned number)
{
	const struct list	*ports;
	struct conn		*c;
	unsigned		 i;

	worker = number;
	host_resolve();
	nconns = nsubs + npubs;
	conns = zalloc(nconns, sizeof(*conns));
	dirty = zalloc(nconns, sizeof(struct conn *));
	read_cap = MAX((size_t)READ_MAX, 2 * opt.size + 65536);
	read_buf = zalloc(1, read_cap);
	now_ns = pinged_ns = clock_mono_ns();
	for (i = 0; i < nconns; i++) {
		c = &conns[i];
		c->number = i;
		c->fd = -1;
		ports = i < nsubs ? &opt.sub_ports : &opt.pub_ports;
		/* spread over the ports also where each worker has few */
		c->port = (uint16_t)ports->v[((i < nsubs ? i : i - nsubs) *
		    opt.procs + number) % ports->n];
		if (i >= nsubs || npubs == 0)
			continue;
		c->flow_base = opt.mode == PAIRS ? i : 0;
		c->nflows = opt.mode == PAIRS ? 1 : npubs;
		if (opt.mode != SHARED || i % opt.members == 0)
			c->flows = zalloc(c->nflows, sizeof(*c->flows));
		else
			c->flows = c[-1].flows;
		if (opt.mode == SHARED)
			c->member = zalloc(1, sizeof(*c->member) +
			    npubs * sizeof(c->member->newest[0]));
	}
}

/*
 * bench_broker.c: a load for any MQTT broker, and what the broker paid for it.
 *
 * One thread, one epoll set, one buffer that every read lands in and is parsed
 * in; nothing is allocated per message and everything a connection has to say
 * leaves in one send(2) at the end of the turn. So the generator costs a small
 * fraction of the broker it measures.
 *
 * A publisher never has more deliveries under way than --outstanding allows,
 * so no broker is made to drop what it may drop (QoS 0, full queues), and
 * what is counted is what arrived. Every payload carries its publisher and a
 * sequence number: lost, duplicate and reordered messages are told apart.
 *
 * Broker CPU is the sum over the threads of every --pid of the nanoseconds in
 * /proc/P/task/T/schedstat, memory is Pss of /proc/P/smaps_rollup.
 */
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

#define SEC		1000000000ull
#define MSEC		1000000ull
#define LIST_MAX	16	/* ports, pids, steps */
#define EVENTS_MAX	512	/* per turn */
#define READ_MAX	(256u << 10)
#define FILL_MAX	(128u << 10) /* bytes one publisher adds in one turn */
#define PAYLOAD_MIN	16u	/* publisher, sequence, time sent */
#define SEEN_BITS	65536u	/* how far back late is told from duplicate */
#define HANDSHAKES_MAX	64	/* connections being made at once */
#define PROCS_MAX	64
#define KEEPALIVE_S	1200
#define HIST_SUB	32u	/* histogram steps per power of two */

enum mode { PAIRS, FANOUT, FANIN, WILDCARD, IDLE, CONNECT, CHURN, NMODES };

static const char *const mode_names[NMODES] = {
	[PAIRS] = "pairs", [FANOUT] = "fanout", [FANIN] = "fanin",
	[WILDCARD] = "wildcard", [IDLE] = "idle", [CONNECT] = "connect",
	[CHURN] = "churn",
};

struct list {
	unsigned	 n;
	uint64_t	 v[LIST_MAX];
};

static struct {
	enum mode	 mode;
	const char	*host;
	struct list	 pub_ports, sub_ports, pids;
	struct list	 clients;	/* pairs, or the steps of idle */
	struct list	 filters;	/* in all; steps with idle */
	unsigned	 publishers, subscribers;
	unsigned	 qos, version, window;
	uint64_t	 outstanding, burst, count;
	size_t		 size;
	double		 rate, seconds, warmup, patience, settle;
	unsigned	 procs, sources;
	const char	*prefix;
	bool		 unbounded, json, wait, hold;
} opt = {
	.host = "127.0.0.1", .qos = 0, .version = 4, .window = 100, .size = 64,
	.seconds = 3, .warmup = 0.5, .patience = 2, .settle = 1, .procs = 1,
	.sources = 1, .prefix = "bench",
};

/* --- Connections ---------------------------------------------------------- */

enum conn_state { CONN_OPENING, CONN_CONNACK_DUE, CONN_SUBACK_DUE, CONN_UP,
    CONN_CLOSED };

/* What one subscriber has had of one publisher. */
struct flow {
	uint32_t	 next;		/* lowest sequence not yet passed */
	uint64_t	*seen;		/* from the first gap on: a bit each */
};

struct conn {
	int		 fd;
	enum conn_state	 state;
	bool		 dirty;		/* listed: has bytes to send */
	bool		 blocked;	/* EPOLLOUT is on */
	uint32_t	 number;
	uint32_t	 subacks_due;
	uint64_t	 opened_ns;
	uint8_t		*out;
	size_t		 out_off, out_len, out_cap;
	uint8_t		*carry;		/* the start of an unfinished packet */
	size_t		 carry_len, carry_cap;
	struct publisher *pub;		/* or */
	struct flow	*flows;		/* of publishers flow_base.. */
	uint32_t	 flow_base, nflows;
};

struct head {			/* a PUBLISH up to its packet identifier */
	const uint8_t	*bytes;
	uint32_t	 len;
};

struct publisher {
	struct conn	*conn;
	struct head	 head;		/* the topic, unless it is drawn */
	uint32_t	 seq;		/* next */
	uint32_t	 fan;		/* deliveries each message makes */
	uint32_t	 unacked, window;
	uint16_t	 packet_id;
	bool		 touched;
	uint64_t	 due;		/* deliveries, of all published */
	uint64_t	 settled;	/* of those: arrived, or passed over */
	uint64_t	 next_ns;	/* with a rate: when the next goes */
};

static struct {
	uint64_t	 published, delivered, duplicate, reordered, alien;
	uint64_t	 refused, closed, connects;
	uint64_t	 last_ns;	/* of the last delivery or connect */
} stats;

static struct conn	*conns;
static unsigned		 nconns, nup, nopening, subacks_due;
static struct publisher	*pubs;
static unsigned		 npubs;
static struct conn	*subs;
static unsigned		 nsubs;
static struct conn	**dirty;
static unsigned		 ndirty;
static struct publisher	**touched;
static unsigned		 ntouched;
static struct head	*topics;	/* of wildcard: one per filter */
static unsigned		 ntopics;
static bool		 publishing, sparse;
static int		 ep = -1;
static uint64_t		 now_ns;
static uint8_t		*read_buf;
static size_t		 read_cap;
static uint64_t		 hist[64 * HIST_SUB];

static uint64_t
clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec;
}

static void *
zalloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	if (p == NULL)
		errx(EX_OSERR, "out of memory");
	return p;
}

static void
hist_add(uint64_t ns)
{
	unsigned shift;

	if (ns < HIST_SUB) {
		hist[ns]++;
		return;
	}
	shift = 58 - (unsigned)__builtin_clzll(ns);	/* keeps 5 bits + 1 */
	hist[shift * HIST_SUB + (ns >> shift)]++;
}

/* The latency in microseconds that the share q (0..1) stays below. */
static double
hist_quantile(double q)
{
	uint64_t total = 0, sum = 0;
	unsigned i, shift;

	for (i = 0; i < NELEM(hist); i++)
		total += hist[i];
	for (i = 0; i < NELEM(hist) && total > 0; i++) {
		sum += hist[i];
		if ((double)sum < q * (double)total || sum == 0)
			continue;
		if (i < 2 * HIST_SUB)
			return i / 1e3;
		shift = i / HIST_SUB - 1;
		return (double)((uint64_t)(i - shift * HIST_SUB) << shift) /
		    1e3;
	}
	return 0;
}

/* --- Output --------------------------------------------------------------- */

/* Room for n more bytes of output; the caller adds what it wrote to out_len. */
static uint8_t *
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
		c->out_cap = MAX(c->out_cap * 2, c->out_len + n);
		if ((c->out = realloc(c->out, c->out_cap)) == NULL)
			errx(EX_OSERR, "out of memory");
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
		err(EX_OSERR, "epoll_ctl");
	c->blocked = output;
}

static void
conn_close(struct conn *c)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->state == CONN_UP)
		nup--;
	else
		nopening--;
	c->state = CONN_CLOSED;
	c->out_off = c->out_len = c->carry_len = 0;
	c->blocked = false;
	close(c->fd);
	c->fd = -1;
}

static void
conn_lost(struct conn *c)
{
	stats.closed++;
	conn_close(c);
}

static void
conn_flush(struct conn *c)
{
	ssize_t n;

	if (c->state == CONN_CLOSED || c->out_off == c->out_len)
		return;
	n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off,
	    MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOTCONN) {
		conn_lost(c);
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

static uint8_t *
put_str(uint8_t *p, const char *s, size_t len)
{
	put_be16(p, (uint16_t)len);
	memcpy(p + 2, s, len);
	return p + 2 + len;
}

static uint8_t *
put_varint(uint8_t *p, size_t v)
{
	do {
		*p++ = (uint8_t)((v & 127) | (v > 127 ? 128 : 0));
	} while ((v >>= 7) > 0);
	return p;
}

static void
put_connect(struct conn *c)
{
	bool v5 = opt.version == 5;
	char id[64];
	uint8_t *p;
	size_t len;

	len = (size_t)snprintf(id, sizeof(id), "%s-%u", opt.prefix, c->number);
	p = conn_reserve(c, 32 + len);
	c->out_len += 2 + 12 + v5 + len;
	*p++ = 0x10;
	*p++ = (uint8_t)(12 + v5 + len);
	p = put_str(p, "MQTT", 4);
	*p++ = (uint8_t)opt.version;
	*p++ = 0x02;			/* clean */
	put_be16(p, KEEPALIVE_S);
	p += 2;
	if (v5)
		*p++ = 0;		/* no properties */
	put_str(p, id, len);
}

static void
put_subscribe(struct conn *c, uint16_t id, const char *filter)
{
	size_t flen = strlen(filter);
	size_t rest = 2 + (opt.version == 5) + 2 + flen + 1;
	uint8_t *p = conn_reserve(c, rest + 5), *start = p;

	*p++ = 0x82;
	p = put_varint(p, rest);
	put_be16(p, id);
	p += 2;
	if (opt.version == 5)
		*p++ = 0;
	p = put_str(p, filter, flen);
	*p++ = (uint8_t)opt.qos;
	c->out_len += (size_t)(p - start);
	c->subacks_due++;
	subacks_due++;
}

static void
put_ack(struct conn *c, uint8_t first, const uint8_t *id)
{
	uint8_t *p = conn_reserve(c, 4);

	p[0] = first;
	p[1] = 2;
	p[2] = id[0];
	p[3] = id[1];
	c->out_len += 4;
}

/* --- What subscribers count ----------------------------------------------- */

static bool
flow_bit(struct flow *f, uint32_t seq)
{
	return f->seen[seq % SEEN_BITS / 64] >> (seq % 64) & 1;
}

static void
flow_set(struct flow *f, uint32_t seq, bool on)
{
	uint64_t bit = 1ull << (seq % 64), *w = &f->seen[seq % SEEN_BITS / 64];

	*w = on ? *w | bit : *w & ~bit;
}

/* Everything before seq counts as passed: what has not come is missing. */
static void
flow_pass(struct flow *f, uint32_t seq)
{
	if (f->seen == NULL) {
		f->seen = zalloc(SEEN_BITS / 64, sizeof(*f->seen));
		memset(f->seen, 0xff, SEEN_BITS / 8);
	}
	if (seq - f->next > SEEN_BITS)
		f->next = seq - SEEN_BITS;
	for (; f->next < seq; f->next++)
		flow_set(f, f->next, false);
}

/* A sequence that is not the one expected. Returns false for a duplicate. */
static bool
flow_odd(struct flow *f, uint32_t seq, struct publisher *p)
{
	if (sparse) {		/* gaps are what other clients get */
		p->settled++;
		if (seq < f->next)
			stats.reordered++;
		else
			f->next = seq + 1;
		return true;
	}
	if (seq >= f->next) {
		p->settled += seq - f->next + 1;
		if (seq > f->next)
			flow_pass(f, seq);
		f->next = seq + 1;
		flow_set(f, seq, true);
		return true;
	}
	if (f->next - seq > SEEN_BITS || f->seen == NULL || flow_bit(f, seq)) {
		stats.duplicate++;
		return false;
	}
	flow_set(f, seq, true);
	stats.reordered++;
	return true;
}

static void
touch(struct publisher *p)
{
	if (p->touched)
		return;
	p->touched = true;
	touched[ntouched++] = p;
}

static void
on_message(struct conn *c, const uint8_t *payload, size_t len)
{
	struct publisher *p;
	struct flow *f;
	uint32_t from, seq;
	uint64_t sent_ns;

	if (len != opt.size || c->flows == NULL) {
		stats.alien++;
		return;
	}
	from = get_le32(payload);
	seq = get_le32(payload + 4);
	sent_ns = get_le64(payload + 8);
	if (from - c->flow_base >= c->nflows) {
		stats.alien++;
		return;
	}
	f = &c->flows[from - c->flow_base];
	p = &pubs[from];
	if (LIKELY(seq == f->next && f->seen == NULL)) {
		f->next++;
		p->settled++;
	} else if (!flow_odd(f, seq, p))
		return;
	stats.delivered++;
	hist_add(now_ns - sent_ns);
	touch(p);
}

/* --- Connecting ----------------------------------------------------------- */

static void
conn_open(struct conn *c, uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct sockaddr_in from = { .sin_family = AF_INET };
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c };
	static unsigned turns_round;
	int one = 1;

	to.sin_port = htons(port);
	if (inet_pton(AF_INET, opt.host, &to.sin_addr) != 1)
		errx(EX_USAGE, "%s: not an IPv4 address", opt.host);
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		err(EX_OSERR, "socket");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (opt.sources > 1) {
		from.sin_addr.s_addr =
		    htonl(INADDR_LOOPBACK + 1 + turns_round++ % opt.sources);
		setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one,
		    sizeof(one));
		if (bind(c->fd, (void *)&from, sizeof(from)) < 0)
			err(EX_OSERR, "bind");
	}
	if (connect(c->fd, (void *)&to, sizeof(to)) < 0 && errno != EINPROGRESS)
		err(EX_UNAVAILABLE, "connect to port %u", port);
	if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
		err(EX_OSERR, "epoll_ctl");
	c->state = CONN_OPENING;
	c->blocked = true;
	c->subacks_due = 0;
	c->opened_ns = clock_ns();
	nopening++;
	put_connect(c);
}

static uint16_t
port_of(const struct list *ports, unsigned i)
{
	return (uint16_t)ports->v[i % ports->n];
}

/* Filter f of the wildcard load and a topic that it alone matches. */
static void
wildcard_name(char *buf, size_t len, unsigned f, bool filter)
{
	snprintf(buf, len, "%s/%u/%s/%u/%s", opt.prefix, f / 100,
	    filter ? "+" : "any", f % 100, filter ? "#" : "value");
}

/* What c, connected, asks for. False if that is nothing. */
static bool
conn_subscribe(struct conn *c)
{
	unsigned sub = (unsigned)(c - subs), f;
	char name[96];

	if (c->flows == NULL)
		return false;
	if (opt.mode != WILDCARD) {
		snprintf(name, sizeof(name), "%s/t/%u", opt.prefix,
		    opt.mode == PAIRS ? sub : 0);
		put_subscribe(c, 1, name);
		return true;
	}
	for (f = sub; f < opt.filters.v[0]; f += nsubs) {
		wildcard_name(name, sizeof(name), f, true);
		put_subscribe(c, (uint16_t)(1 + f / nsubs), name);
	}
	return c->subacks_due > 0;
}

/* --- Input ---------------------------------------------------------------- */

static void
conn_up(struct conn *c)
{
	c->state = CONN_UP;
	nopening--;
	nup++;
	stats.connects++;
	stats.last_ns = now_ns;
}

/* c has its CONNACK, or its last SUBACK. */
static void
on_ready(struct conn *c)
{
	static const uint8_t bye[2] = { 0xe0, 0 };

	conn_up(c);
	if (opt.mode != CHURN)
		return;
	(void)!send(c->fd, bye, sizeof(bye), MSG_NOSIGNAL);
	conn_close(c);
	if (publishing)
		conn_open(c, port_of(&opt.sub_ports, c->number));
}

/* CONNACK of version 5: the window is at most what the broker receives. */
static void
take_receive_maximum(struct conn *c, const uint8_t *p, size_t len)
{
	static const uint8_t skip[256] = { [0x11] = 4, [0x24] = 1, [0x25] = 1,
		[0x27] = 4, [0x22] = 2, [0x28] = 1, [0x29] = 1, [0x2a] = 1,
		[0x13] = 2 };
	size_t i = 1;

	if (c->pub == NULL || len < 1 || p[0] > 127)
		return;
	while (i + 2 < len && i <= p[0]) {
		if (p[i] == 0x21) {
			c->pub->window = MIN(c->pub->window,
			    get_be16(p + i + 1));
			return;
		}
		if (skip[p[i]] > 0)
			i += 1u + skip[p[i]];
		else		/* a string; user properties are two of them */
			i += 3u + get_be16(p + i + 1);
	}
}

static void
on_connack(struct conn *c, const uint8_t *p, size_t len)
{
	if (c->state != CONN_CONNACK_DUE && c->state != CONN_OPENING)
		return;
	if (len < 2 || p[1] != 0) {
		stats.refused++;
		conn_close(c);
		return;
	}
	if (opt.version == 5)
		take_receive_maximum(c, p + 2, len - 2);
	if (opt.mode == CONNECT || opt.mode == CHURN)
		hist_add(now_ns - c->opened_ns);
	c->state = CONN_SUBACK_DUE;
	if (!conn_subscribe(c))
		on_ready(c);
}

/* A PUBLISH: its first byte and the rest after the length. False if bad. */
static bool
on_publish(struct conn *c, uint8_t first, const uint8_t *p, size_t len)
{
	const uint8_t *end = p + len, *id = NULL;
	unsigned qos = first >> 1 & 3;

	if (len < 2u || len < 2u + get_be16(p) + (qos ? 2 : 0) +
	    (opt.version == 5))
		return false;
	p += 2 + get_be16(p);
	if (qos > 0) {
		id = p;
		p += 2;
	}
	if (opt.version == 5) {		/* we cause no longer lengths */
		if ((size_t)(end - p) < 1u + *p)
			return false;
		p += 1 + *p;
	}
	on_message(c, p, (size_t)(end - p));
	if (qos > 0)
		put_ack(c, qos == 1 ? 0x40 : 0x50, id);
	return true;
}

/* One whole packet: its first byte and the rest after the length. */
static void
on_packet(struct conn *c, uint8_t first, const uint8_t *p, size_t len)
{
	switch (first >> 4) {
	case 3:
		if (!on_publish(c, first, p, len))
			break;
		return;
	case 4:				/* PUBACK */
	case 7:				/* PUBCOMP */
		if (c->pub == NULL || c->pub->unacked == 0)
			break;
		c->pub->unacked--;
		if (len > 2 && p[2] >= 0x80)
			stats.refused++;
		touch(c->pub);
		return;
	case 5:				/* PUBREC */
		if (len < 2)
			break;
		put_ack(c, 0x62, p);
		return;
	case 6:				/* PUBREL */
		if (len < 2)
			break;
		put_ack(c, 0x70, p);
		return;
	case 2:
		on_connack(c, p, len);
		return;
	case 9:
		if (c->subacks_due == 0 || len < 3 || p[len - 1] >= 0x80)
			break;
		subacks_due--;
		if (--c->subacks_due == 0 && c->state == CONN_SUBACK_DUE)
			on_ready(c);
		return;
	case 13:
		return;
	case 14:
		conn_lost(c);
		return;
	default:
		break;
	}
	stats.alien++;
}

/* Handle the whole packets in buf; returns the bytes they took. */
static size_t
conn_parse(struct conn *c, const uint8_t *buf, size_t len)
{
	size_t off = 0, rest, i;
	unsigned shift;

	while (len - off >= 2 && c->state != CONN_CLOSED) {
		rest = 0;
		shift = 0;
		i = off + 1;
		do {
			if (i == len)
				return off;
			if (shift > 21)
				errx(EX_PROTOCOL, "a bad length");
			rest |= (size_t)(buf[i] & 127) << shift;
			shift += 7;
		} while (buf[i++] & 128);
		if (len - i < rest)
			break;
		on_packet(c, buf[off], buf + i, rest);
		off = i + rest;
	}
	return c->state == CONN_CLOSED ? len : off;
}

static void
conn_read(struct conn *c)
{
	size_t len, used;
	ssize_t n;

	if (c->state == CONN_CLOSED)
		return;
	if (c->carry_len > 0)
		memcpy(read_buf, c->carry, c->carry_len);
	n = recv(c->fd, read_buf + c->carry_len, read_cap - c->carry_len,
	    MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_lost(c);
		return;
	}
	len = c->carry_len + (size_t)n;
	now_ns = clock_ns();
	used = conn_parse(c, read_buf, len);
	if ((c->carry_len = len - used) == 0 || c->state == CONN_CLOSED) {
		c->carry_len = 0;
		return;
	}
	if (c->carry_len == read_cap)
		errx(EX_PROTOCOL, "a packet larger than any expected");
	if (c->carry_len > c->carry_cap) {
		c->carry_cap = MAX(c->carry_len, 256u);
		if ((c->carry = realloc(c->carry, c->carry_cap)) == NULL)
			errx(EX_OSERR, "out of memory");
	}
	memcpy(c->carry, read_buf + used, c->carry_len);
}

/* --- Publishing ----------------------------------------------------------- */

static uint32_t
draw(uint32_t below)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (uint32_t)((x >> 32) * below >> 32);
}

static struct head
head_make(const char *topic)
{
	size_t tlen = strlen(topic);
	size_t rest = 2 + tlen + (opt.qos ? 2 : 0) + (opt.version == 5) +
	    opt.size;
	uint8_t *p = zalloc(1, 7 + tlen), *start = p;

	*p++ = (uint8_t)(0x30 | opt.qos << 1);
	p = put_varint(p, rest);
	p = put_str(p, topic, tlen);
	return (struct head){ start, (uint32_t)(p - start) };
}

static void
put_publish(struct publisher *p, uint64_t ns)
{
	const struct head *h = topics ? &topics[draw(ntopics)] : &p->head;
	struct conn *c = p->conn;
	uint8_t *start, *o;

	o = start = conn_reserve(c, h->len + 3 + opt.size);
	memcpy(o, h->bytes, h->len);
	o += h->len;
	if (opt.qos > 0) {
		p->packet_id = p->packet_id == 65535 ? 1 : p->packet_id + 1;
		put_be16(o, p->packet_id);
		o += 2;
		p->unacked++;
	}
	if (opt.version == 5)
		*o++ = 0;
	put_le32(o, (uint32_t)(p - pubs));
	put_le32(o + 4, p->seq++);
	put_le64(o + 8, ns);
	memset(o + PAYLOAD_MIN, 'x', opt.size - PAYLOAD_MIN);
	c->out_len += (size_t)(o + opt.size - start);
	p->due += p->fan;
	stats.published++;
}

/* How many messages p may send at ns. */
static uint64_t
allowance(struct publisher *p, uint64_t ns)
{
	uint64_t n = UINT64_MAX, under_way, most;

	if (opt.count > 0)
		n = opt.count - p->seq;
	if (opt.outstanding > 0) {
		under_way = p->due > p->settled ? p->due - p->settled : 0;
		most = opt.outstanding * p->fan;
		if (under_way + (uint64_t)(opt.burst - 1) * p->fan >= most)
			return 0;
		n = MIN(n, (most - under_way + p->fan - 1) / p->fan);
	}
	if (opt.qos > 0)
		n = MIN(n, p->window > p->unacked ? p->window - p->unacked : 0);
	if (opt.rate > 0)
		n = MIN(n, (uint64_t)(ns >= p->next_ns));
	return n;
}

static void
publish(struct publisher *p)
{
	struct conn *c = p->conn;
	uint64_t n, ns;
	size_t before;

	p->touched = false;
	if (!publishing || c->state != CONN_UP || c->blocked)
		return;
	ns = clock_ns();
	before = c->out_len - c->out_off;
	for (n = allowance(p, ns); n > 0; n--) {
		put_publish(p, ns);
		if (opt.rate > 0)
			p->next_ns += (uint64_t)(1e9 / opt.rate);
		if (c->out_len - c->out_off - before > FILL_MAX)
			break;
	}
}

/* --- The loop ------------------------------------------------------------- */

static void
turn(uint64_t timeout_ns)
{
	struct epoll_event ev[EVENTS_MAX];
	struct timespec ts;
	struct conn *c;
	unsigned i, last;
	int n;

	if (ndirty > 0)
		timeout_ns = 0;
	ts.tv_sec = (time_t)(timeout_ns / SEC);
	ts.tv_nsec = (long)(timeout_ns % SEC);
	if ((n = epoll_pwait2(ep, ev, EVENTS_MAX, &ts, NULL)) < 0) {
		if (errno != EINTR)
			err(EX_OSERR, "epoll_pwait2");
		return;
	}
	now_ns = clock_ns();
	for (i = 0; i < (unsigned)n; i++) {
		c = ev[i].data.ptr;
		if (ev[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			conn_read(c);
		if (!(ev[i].events & EPOLLOUT) || c->state == CONN_CLOSED)
			continue;
		if (c->state == CONN_OPENING)
			c->state = CONN_CONNACK_DUE;
		conn_flush(c);
		if (c->pub != NULL && !c->blocked)
			touch(c->pub);
	}
	last = ntouched;
	ntouched = 0;
	for (i = 0; i < last; i++)
		publish(touched[i]);
	last = ndirty;
	ndirty = 0;
	for (i = 0; i < last; i++) {
		c = dirty[i];
		c->dirty = false;
		if (!c->blocked)
			conn_flush(c);
		if (c->pub != NULL && !c->blocked && publishing &&
		    opt.rate == 0 && allowance(c->pub, now_ns) > 0)
			touch(c->pub);
	}
}

/* Turns until ns; returns early when done() says so. */
static bool
turns(uint64_t until_ns, bool (*done)(void))
{
	uint64_t ns, wake;
	unsigned i;

	while ((ns = clock_ns()) < until_ns) {
		if (done != NULL && done())
			return true;
		wake = MIN(until_ns, ns + 100 * MSEC);
		for (i = 0; i < npubs && opt.rate > 0 && publishing; i++) {
			wake = MIN(wake, pubs[i].next_ns);
			if (pubs[i].next_ns <= ns)
				touch(&pubs[i]);
		}
		turn(ntouched > 0 || wake <= ns ? 0 : wake - ns);
	}
	return done != NULL && done();
}

/* Connect conns[from..to) to their ports, not too many at once. */
static void
connect_all(unsigned from, unsigned to)
{
	uint64_t deadline = clock_ns() + 60 * SEC, seen = nup;
	unsigned i = from, goal = nup + (to - from);
	bool is_pub;

	while (nup < goal) {
		while (i < to && nopening < HANDSHAKES_MAX) {
			is_pub = conns[i].pub != NULL;
			conn_open(&conns[i], port_of(is_pub ? &opt.pub_ports :
			    &opt.sub_ports, is_pub ? i - nsubs : i));
			i++;
		}
		turn(100 * MSEC);
		if (nup != seen) {
			seen = nup;
			deadline = clock_ns() + (uint64_t)(opt.patience * 5e9);
		}
		if (stats.refused + stats.closed + stats.alien > 0)
			errx(EX_UNAVAILABLE, "set-up: %u refused, %u closed",
			    (unsigned)(stats.refused + stats.alien),
			    (unsigned)stats.closed);
		if (clock_ns() > deadline)
			errx(EX_UNAVAILABLE, "set-up: %u of %u connected",
			    nup, goal);
	}
}

/* --- What the broker paid ------------------------------------------------- */

struct sample {
	uint64_t	 ns, broker_cpu_ns, own_cpu_ns;
	uint64_t	 delivered, published, connects;
};

/* Value i of a list, or its last; 0 of an empty one. */
static uint64_t
list_at(const struct list *l, unsigned i)
{
	return l->n > 0 ? l->v[MIN(i, l->n - 1)] : 0;
}

static uint64_t
read_number(const char *path, const char *key)
{
	unsigned long long v = 0;
	char line[256];
	FILE *f;

	if ((f = fopen(path, "re")) == NULL)
		return 0;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strncmp(line, key, strlen(key)) == 0) {
			v = strtoull(line + strlen(key), NULL, 10);
			break;
		}
	}
	fclose(f);
	return v;
}

static uint64_t
broker_cpu_ns(void)
{
	uint64_t sum = 0;
	struct dirent *d;
	char path[300];
	unsigned i;
	DIR *dir;

	for (i = 0; i < opt.pids.n; i++) {
		snprintf(path, sizeof(path), "/proc/%u/task",
		    (unsigned)opt.pids.v[i]);
		if ((dir = opendir(path)) == NULL)
			errx(EX_UNAVAILABLE, "broker process %u is gone",
			    (unsigned)opt.pids.v[i]);
		while ((d = readdir(dir)) != NULL) {
			if (d->d_name[0] == '.')
				continue;
			snprintf(path, sizeof(path),
			    "/proc/%u/task/%s/schedstat",
			    (unsigned)opt.pids.v[i], d->d_name);
			sum += read_number(path, "");
		}
		closedir(dir);
	}
	return sum;
}

static uint64_t
broker_pss_bytes(void)
{
	uint64_t sum = 0;
	char path[64];
	unsigned i;

	for (i = 0; i < opt.pids.n; i++) {
		snprintf(path, sizeof(path), "/proc/%u/smaps_rollup",
		    (unsigned)opt.pids.v[i]);
		sum += read_number(path, "Pss:") * 1024;
	}
	return sum;
}

static struct sample
sample_take(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (struct sample){
		.ns = clock_ns(), .broker_cpu_ns = broker_cpu_ns(),
		.own_cpu_ns = (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec,
		.delivered = stats.delivered, .published = stats.published,
		.connects = stats.connects,
	};
}

/* One figure of the result; the first also names the mode. */
static void
figure(const char *name, double v, int digits)
{
	static bool begun;

	if (opt.json) {
		if (name == NULL)
			puts("}");
		else if (!begun)
			printf("{\"mode\": \"%s\", \"%s\": %.*f",
			    mode_names[opt.mode], name, digits, v);
		else
			printf(", \"%s\": %.*f", name, digits, v);
		begun = name != NULL;
	} else if (name != NULL)
		printf("%-22s %.*f\n", name, digits, v);
	fflush(stdout);
}

static double
ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

static void
report(const struct sample *a, const struct sample *b, uint64_t units)
{
	double wall = (double)(b->ns - a->ns) / 1e9;
	double cpu = (double)(b->broker_cpu_ns - a->broker_cpu_ns) / 1e9;
	double own = (double)(b->own_cpu_ns - a->own_cpu_ns) / 1e9;
	uint64_t due = 0;
	unsigned i;

	for (i = 0; i < npubs; i++)
		due += pubs[i].due;
	figure("measured", (double)units, 0);
	figure("wall_s", wall, 4);
	figure("per_s", ratio((double)units, wall), 0);
	figure("broker_cpu_s", cpu, 4);
	figure("per_broker_cpu_s", ratio((double)units, cpu), 0);
	figure("generator_cpu_s", own, 4);
	figure("per_generator_cpu_s", ratio((double)units, own), 0);
	figure("latency_p50_us", hist_quantile(0.5), 1);
	figure("latency_p99_us", hist_quantile(0.99), 1);
	figure("latency_p999_us", hist_quantile(0.999), 1);
	figure("published", (double)stats.published, 0);
	figure("delivered", (double)stats.delivered, 0);
	figure("lost", (double)due - (double)stats.delivered, 0);
	figure("duplicate", (double)stats.duplicate, 0);
	figure("reordered", (double)stats.reordered, 0);
	figure("alien", (double)stats.alien, 0);
	figure("refused", (double)stats.refused, 0);
	figure("closed", (double)stats.closed, 0);
	if (opt.pids.n > 0)
		figure("pss_bytes", (double)broker_pss_bytes(), 0);
	figure(NULL, 0, 0);
}

/* Say so and go on when the other side of stdin has written a line. */
static void
pause_for(const char *word)
{
	char c;

	puts(word);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
		;
}

/* --- Loads ---------------------------------------------------------------- */

static bool
all_settled(void)
{
	unsigned i;

	for (i = 0; i < npubs; i++) {
		if (pubs[i].settled < pubs[i].due || pubs[i].unacked > 0)
			return false;
	}
	return true;
}

static bool
all_sent_and_settled(void)
{
	unsigned i;

	for (i = 0; i < npubs; i++) {
		if (pubs[i].seq < opt.count)
			return false;
	}
	return all_settled();
}

/* What is under way will not come: let the publishers go on. */
static void
write_off(void)
{
	unsigned i, k;

	for (i = 0; i < nsubs && !sparse; i++) {
		for (k = 0; k < subs[i].nflows; k++)
			flow_pass(&subs[i].flows[k],
			    pubs[subs[i].flow_base + k].seq);
	}
	for (i = 0; i < npubs; i++) {
		pubs[i].settled = pubs[i].due;
		touch(&pubs[i]);
	}
}

/* Turns until ns or done(), with an eye on loads that no longer move. */
static void
traffic(uint64_t until_ns, bool (*done)(void))
{
	uint64_t seen = stats.delivered, step = (uint64_t)(opt.patience * 1e9);

	while (clock_ns() < until_ns) {
		if (turns(MIN(until_ns, clock_ns() + step), done))
			return;
		if (clock_ns() < until_ns && stats.delivered == seen) {
			if (nup < nconns)
				return;
			write_off();
		}
		seen = stats.delivered;
	}
}

static void
publishers_start(void)
{
	uint64_t ns = clock_ns();
	unsigned i;

	publishing = true;
	for (i = 0; i < npubs; i++) {
		if (opt.rate > 0)
			pubs[i].next_ns = ns +
			    (uint64_t)(1e9 / opt.rate * i / npubs);
		touch(&pubs[i]);
	}
}

static void
drain(void)
{
	uint64_t seen;

	do {
		seen = stats.delivered;
		turns(clock_ns() + (uint64_t)(opt.patience * 1e9), all_settled);
	} while (!all_settled() && stats.delivered != seen);
}

static void
run_messages(void)
{
	struct sample a, b;

	connect_all(0, nconns);
	if (opt.wait)
		pause_for("ready");
	publishers_start();
	if (opt.count == 0) {
		traffic(clock_ns() + (uint64_t)(opt.warmup * 1e9), NULL);
		memset(hist, 0, sizeof(hist));
	}
	a = sample_take();
	if (opt.count > 0)
		traffic(UINT64_MAX, all_sent_and_settled);
	else
		traffic(clock_ns() + (uint64_t)(opt.seconds * 1e9), NULL);
	b = sample_take();
	publishing = false;
	drain();
	if (opt.hold)
		pause_for("done");
	report(&a, &b, b.delivered - a.delivered);
}

static void
run_connect(void)
{
	struct sample a = sample_take(), b;

	connect_all(0, nconns);
	b = sample_take();
	if (opt.hold)
		pause_for("done");
	report(&a, &b, b.connects - a.connects);
}

static void
run_churn(void)
{
	struct sample a, b;
	unsigned i;

	publishing = true;
	for (i = 0; i < nconns; i++)
		conn_open(&conns[i], port_of(&opt.sub_ports, i));
	turns(clock_ns() + (uint64_t)(opt.warmup * 1e9), NULL);
	memset(hist, 0, sizeof(hist));
	a = sample_take();
	turns(clock_ns() + (uint64_t)(opt.seconds * 1e9), NULL);
	b = sample_take();
	publishing = false;
	report(&a, &b, b.connects - a.connects);
}

/* --- Idle clients: processes that hold connections, one that asks them ---- */

struct step {
	uint32_t	 clients, filters;	/* of one process */
};

static bool
suback_none_due(void)
{
	return subacks_due == 0;
}

/* Filters [from, to) over the n clients there are, answered. */
static void
child_filters(unsigned from, unsigned to, unsigned n)
{
	char name[96];
	unsigned i;

	for (i = from; i < to; i++) {
		wildcard_name(name, sizeof(name), i, true);
		put_subscribe(&subs[i % n], (uint16_t)(1 + i / n), name);
		if ((i % 256 == 255 || i + 1 == to) &&
		    !turns(clock_ns() + 60 * SEC, suback_none_due))
			errx(EX_UNAVAILABLE, "no SUBACK within a minute");
	}
}

static void
child_steps(unsigned child, int in, int out)
{
	unsigned have = 0, had = 0;
	char prefix[64];
	struct step s;

	snprintf(prefix, sizeof(prefix), "%s%u", opt.prefix, child);
	opt.prefix = prefix;
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		err(EX_OSERR, "epoll_create1");
	while (read(in, &s, sizeof(s)) == sizeof(s)) {
		if (s.clients > have)
			connect_all(have, s.clients);
		have = MAX(have, s.clients);
		if (s.filters > had)
			child_filters(had, s.filters, have);
		had = MAX(had, s.filters);
		turns(clock_ns() + 100 * MSEC, NULL);
		if (stats.alien + stats.closed + stats.refused > 0)
			errx(EX_UNAVAILABLE, "clients were refused or closed");
		if (write(out, &s, sizeof(s)) != sizeof(s))
			break;
	}
	_exit(0);
}

/* Child k with its pipes: what is written to *to is a step, *from answers. */
static void
child_start(unsigned k, int *to, int *from)
{
	unsigned number = k;
	int down[2], up[2];

	if (pipe2(down, O_CLOEXEC) < 0 || pipe2(up, O_CLOEXEC) < 0)
		err(EX_OSERR, "pipe");
	switch (fork()) {
	case -1:
		err(EX_OSERR, "fork");
	case 0:
		for (; k > 0; k--)	/* of the children before */
			close(*--to);
		close(down[1]);
		close(up[0]);
		child_steps(number, down[0], up[1]);
		break;
	default:
		close(down[0]);
		close(up[1]);
		*to = down[1];
		*from = up[0];
	}
}

/* All children take step i; false if one of them could not. */
static bool
step_take(unsigned i, const int *to, const int *from)
{
	struct step s = {
		.clients = (uint32_t)(list_at(&opt.clients, i) / opt.procs),
		.filters = (uint32_t)(list_at(&opt.filters, i) / opt.procs),
	};
	bool ok = true;
	unsigned k;

	for (k = 0; k < opt.procs; k++)
		ok &= write(to[k], &s, sizeof(s)) == sizeof(s);
	for (k = 0; k < opt.procs; k++)
		ok &= read(from[k], &s, sizeof(s)) == sizeof(s);
	return ok;
}

static void
run_idle(void)
{
	unsigned i, k, steps = MAX(opt.clients.n, opt.filters.n);
	int to[PROCS_MAX], from[PROCS_MAX], status;
	double pss[LIST_MAX] = { 0 }, clients, filters;
	bool ok = true;
	char name[32];

	for (k = 0; k < opt.procs; k++)
		child_start(k, &to[k], &from[k]);
	for (i = 0; i < steps && (ok = step_take(i, to, from)); i++) {
		usleep((useconds_t)(opt.settle * 1e6));
		pss[i] = (double)broker_pss_bytes();
		if (opt.hold)
			pause_for("step");
	}
	for (k = 0; k < opt.procs; k++)
		close(to[k]);
	while (wait(&status) > 0)
		ok &= status == 0;
	if (!ok)
		errx(EX_UNAVAILABLE, "not every connection was made and kept");
	for (i = 0; i < steps; i++) {
		snprintf(name, sizeof(name), "pss_bytes_%u", i);
		figure(name, pss[i], 0);
	}
	clients = (double)list_at(&opt.clients, steps - 1) -
	    (double)list_at(&opt.clients, 0);
	filters = (double)list_at(&opt.filters, steps - 1) -
	    (double)list_at(&opt.filters, 0);
	if (clients > 0)
		figure("bytes_per_client", (pss[i - 1] - pss[0]) / clients, 1);
	else if (filters > 0)
		figure("bytes_per_filter", (pss[i - 1] - pss[0]) / filters, 1);
	figure(NULL, 0, 0);
}

/* --- Set-up --------------------------------------------------------------- */

static void
plan_flows(struct conn *c, uint32_t base, uint32_t n)
{
	c->flow_base = base;
	c->nflows = n;
	c->flows = zalloc(n, sizeof(*c->flows));
}

static void
plan(void)
{
	unsigned i;
	char name[96];

	nconns = nsubs + npubs;
	conns = subs = zalloc(nconns, sizeof(*conns));
	dirty = zalloc(nconns, sizeof(struct conn *));
	pubs = zalloc(npubs, sizeof(*pubs));
	touched = zalloc(npubs, sizeof(struct publisher *));
	read_cap = MAX((size_t)READ_MAX, 2 * opt.size + 65536);
	read_buf = zalloc(1, read_cap);
	for (i = 0; i < nconns; i++) {
		conns[i].number = i;
		conns[i].state = CONN_CLOSED;
		conns[i].fd = -1;
	}
	for (i = 0; i < nsubs && npubs > 0; i++) {
		if (opt.mode == PAIRS)
			plan_flows(&subs[i], i, 1);
		else
			plan_flows(&subs[i], 0, npubs);
	}
	if (opt.mode == WILDCARD) {
		sparse = true;
		ntopics = (unsigned)opt.filters.v[0];
		topics = zalloc(ntopics, sizeof(*topics));
		for (i = 0; i < ntopics; i++) {
			wildcard_name(name, sizeof(name), i, false);
			topics[i] = head_make(name);
		}
	}
	for (i = 0; i < npubs; i++) {
		snprintf(name, sizeof(name), "%s/t/%u", opt.prefix,
		    opt.mode == PAIRS ? i : 0);
		pubs[i].conn = &conns[nsubs + i];
		pubs[i].conn->pub = &pubs[i];
		pubs[i].head = head_make(name);
		pubs[i].fan = opt.mode == FANOUT ? nsubs : 1;
		pubs[i].window = opt.window;
	}
}

static void
usage(FILE *f)
{
	fputs(
"usage: bench_broker MODE [options]\n"
"  pairs     publishers and subscribers two by two (--clients pairs)\n"
"  fanout    one publisher to --subscribers\n"
"  fanin     --publishers to one subscriber\n"
"  wildcard  --filters over --subscribers, --publishers to matching topics\n"
"  idle      hold --clients A[,B..] with --filters A[,B..]: memory by step\n"
"  connect   make --clients connections     churn  connect and disconnect\n"
"  --host IP  --port P[,P..]  --pub-port P[,P..]  --sub-port P[,P..]\n"
"  --qos 0|1|2  --size BYTES  --version 4|5  --prefix TEXT\n"
"  --window N       QoS 1 and 2: unacknowledged messages of a publisher\n"
"  --outstanding N  undelivered messages of a publisher, 0 for no bound\n"
"  --burst N        publish when at least N are allowed\n"
"  --rate R         messages a second of each publisher\n"
"  --count N        messages of each publisher, or else\n"
"  --seconds S --warmup S\n"
"  --patience S     what is not delivered by then is lost\n"
"  --settle S       idle: wait before memory is read\n"
"  --procs N        idle: processes     --sources N  source addresses\n"
"  --pid P[,P..]    the broker's processes: CPU and memory\n"
"  --wait --hold    before and after the traffic print a word, await a line\n"
"  --json\n", f);
}

static struct list
list_parse(const char *s)
{
	struct list l = { 0 };
	char *end;

	do {
		if (l.n == LIST_MAX)
			errx(EX_USAGE, "more than %u values", LIST_MAX);
		l.v[l.n++] = strtoull(s, &end, 10);
		if (end == s || (*end != ',' && *end != '\0'))
			errx(EX_USAGE, "%s: not a list of numbers", s);
		s = end + 1;
	} while (*end == ',');
	return l;
}

static double
number_parse(const char *s, double least, double most)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || *end != '\0' || !(v >= least && v <= most))
		errx(EX_USAGE, "%s: not a number from %g to %g", s, least,
		    most);
	return v;
}

enum { O_HOST = 256, O_PORT, O_PUB_PORT, O_SUB_PORT, O_QOS, O_SIZE, O_VERSION,
    O_PREFIX, O_WINDOW, O_OUTSTANDING, O_BURST, O_RATE, O_COUNT, O_SECONDS,
    O_WARMUP, O_PATIENCE, O_SETTLE, O_PROCS, O_SOURCES, O_PID, O_WAIT, O_HOLD,
    O_JSON, O_CLIENTS, O_FILTERS, O_PUBLISHERS, O_SUBSCRIBERS };

static const struct option options[] = {
	{ "host", 1, NULL, O_HOST }, { "port", 1, NULL, O_PORT },
	{ "pub-port", 1, NULL, O_PUB_PORT },
	{ "sub-port", 1, NULL, O_SUB_PORT },
	{ "qos", 1, NULL, O_QOS }, { "size", 1, NULL, O_SIZE },
	{ "version", 1, NULL, O_VERSION }, { "prefix", 1, NULL, O_PREFIX },
	{ "window", 1, NULL, O_WINDOW },
	{ "outstanding", 1, NULL, O_OUTSTANDING },
	{ "burst", 1, NULL, O_BURST }, { "rate", 1, NULL, O_RATE },
	{ "count", 1, NULL, O_COUNT }, { "seconds", 1, NULL, O_SECONDS },
	{ "warmup", 1, NULL, O_WARMUP }, { "patience", 1, NULL, O_PATIENCE },
	{ "settle", 1, NULL, O_SETTLE }, { "procs", 1, NULL, O_PROCS },
	{ "sources", 1, NULL, O_SOURCES }, { "pid", 1, NULL, O_PID },
	{ "wait", 0, NULL, O_WAIT }, { "hold", 0, NULL, O_HOLD },
	{ "json", 0, NULL, O_JSON }, { "clients", 1, NULL, O_CLIENTS },
	{ "filters", 1, NULL, O_FILTERS },
	{ "publishers", 1, NULL, O_PUBLISHERS },
	{ "subscribers", 1, NULL, O_SUBSCRIBERS },
	{ "help", 0, NULL, 'h' }, { NULL, 0, NULL, 0 },
};

static void
option_take(int c)
{
	switch (c) {
	case O_HOST: opt.host = optarg; break;
	case O_PORT: opt.pub_ports = opt.sub_ports = list_parse(optarg); break;
	case O_PUB_PORT: opt.pub_ports = list_parse(optarg); break;
	case O_SUB_PORT: opt.sub_ports = list_parse(optarg); break;
	case O_QOS: opt.qos = (unsigned)number_parse(optarg, 0, 2); break;
	case O_SIZE:
		opt.size = (size_t)number_parse(optarg, PAYLOAD_MIN, 1 << 27);
		break;
	case O_VERSION:
		opt.version = (unsigned)number_parse(optarg, 4, 5);
		break;
	case O_PREFIX: opt.prefix = optarg; break;
	case O_WINDOW:
		opt.window = (unsigned)number_parse(optarg, 1, 32767);
		break;
	case O_OUTSTANDING:
		opt.outstanding = (uint64_t)number_parse(optarg, 0, 1e9);
		opt.unbounded = opt.outstanding == 0;
		break;
	case O_BURST: opt.burst = (uint64_t)number_parse(optarg, 1, 1e9); break;
	case O_RATE: opt.rate = number_parse(optarg, 1e-3, 1e9); break;
	case O_COUNT: opt.count = (uint64_t)number_parse(optarg, 1, 4e9); break;
	case O_SECONDS: opt.seconds = number_parse(optarg, 0, 1e6); break;
	case O_WARMUP: opt.warmup = number_parse(optarg, 0, 1e6); break;
	case O_PATIENCE: opt.patience = number_parse(optarg, 1e-3, 1e6); break;
	case O_SETTLE: opt.settle = number_parse(optarg, 0, 1000); break;
	case O_PROCS:
		opt.procs = (unsigned)number_parse(optarg, 1, PROCS_MAX);
		break;
	case O_SOURCES:
		opt.sources = (unsigned)number_parse(optarg, 1, 250);
		break;
	case O_PID: opt.pids = list_parse(optarg); break;
	case O_WAIT: opt.wait = true; break;
	case O_HOLD: opt.hold = true; break;
	case O_JSON: opt.json = true; break;
	case O_CLIENTS: opt.clients = list_parse(optarg); break;
	case O_FILTERS: opt.filters = list_parse(optarg); break;
	case O_PUBLISHERS:
		opt.publishers = (unsigned)number_parse(optarg, 1, 1e6);
		break;
	case O_SUBSCRIBERS:
		opt.subscribers = (unsigned)number_parse(optarg, 1, 1e6);
		break;
	case 'h': usage(stdout); exit(0);
	default: usage(stderr); exit(EX_USAGE);
	}
}

/* What was not said follows from the mode. */
static void
defaults(void)
{
	static const struct {
		unsigned p, s, clients, outstanding;
	} of[NMODES] = {
		[PAIRS] = { 0, 0, 10, 1000 }, [FANOUT] = { 1, 1000, 0, 20 },
		[FANIN] = { 1000, 1, 0, 1 }, [WILDCARD] = { 10, 1000, 0, 100 },
		[IDLE] = { 0, 0, 1000, 0 }, [CONNECT] = { 0, 0, 1000, 0 },
		[CHURN] = { 0, 0, 50, 0 },
	};
	unsigned i;

	if (opt.clients.n == 0)
		opt.clients = (struct list){ 1, { of[opt.mode].clients } };
	if (opt.filters.n == 0 && opt.mode == WILDCARD)
		opt.filters = (struct list){ 1, { 100000 } };
	npubs = opt.publishers ? opt.publishers : of[opt.mode].p;
	nsubs = opt.subscribers ? opt.subscribers : of[opt.mode].s;
	if (opt.mode == PAIRS)
		npubs = nsubs = (unsigned)opt.clients.v[0];
	if (opt.mode == CONNECT || opt.mode == CHURN)
		nsubs = (unsigned)opt.clients.v[0];
	for (i = 0; i < opt.clients.n && opt.mode == IDLE; i++)
		nsubs = MAX(nsubs, (unsigned)(opt.clients.v[i] / opt.procs));
	if (opt.mode == FANOUT)
		npubs = 1;
	if (opt.mode == FANIN)
		nsubs = 1;
	if (opt.outstanding == 0 && !opt.unbounded)
		opt.outstanding = of[opt.mode].outstanding;
	if (opt.burst == 0)
		opt.burst = opt.qos == 0 ? MAX(opt.outstanding / 2, 1u) : 1;
	if (opt.outstanding > 0)
		opt.burst = MIN(opt.burst, opt.outstanding);
	if (opt.pub_ports.n == 0)
		opt.pub_ports = (struct list){ 1, { 1883 } };
	if (opt.sub_ports.n == 0)
		opt.sub_ports = opt.pub_ports;
}

int
main(int argc, char **argv)
{
	struct rlimit rl;
	int c;

	if (argc < 2 || strcmp(argv[1], "--help") == 0) {
		usage(argc < 2 ? stderr : stdout);
		return argc < 2 ? EX_USAGE : 0;
	}
	for (opt.mode = 0; opt.mode < NMODES; opt.mode++) {
		if (strcmp(argv[1], mode_names[opt.mode]) == 0)
			break;
	}
	if (opt.mode == NMODES) {
		usage(stderr);
		return EX_USAGE;
	}
	optind = 2;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
		option_take(c);
	defaults();
	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	signal(SIGPIPE, SIG_IGN);
	plan();
	if (opt.mode == IDLE) {
		run_idle();
		return 0;
	}
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		err(EX_OSERR, "epoll_create1");
	switch (opt.mode) {
	case CONNECT: run_connect(); break;
	case CHURN: run_churn(); break;
	case PAIRS: case FANOUT: case FANIN: case WILDCARD:
		run_messages();
		break;
	case IDLE: case NMODES: break;
	}
	return 0;
}

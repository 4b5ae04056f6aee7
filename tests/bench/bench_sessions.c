/*
 * bench_sessions: stored sessions by the hundred thousand, against a broker
 * that runs (tests/bench/sessions does that).
 *
 *	bench_sessions make HOST PORT[,PORT] FROM N	new ones: CONNECT,
 *		SUBSCRIBE to 3 filters of its own, DISCONNECT; each is awaited
 *	bench_sessions fill HOST PORT N		one QoS 1 message for each
 *	bench_sessions retain HOST PORT N	the same, retained
 *	bench_sessions attach HOST PORT[,PORT] N COUNT RATE	come back to COUNT
 *		of the N at random, RATE a second: from CONNECT to CONNACK
 *
 * Prints one line of JSON. MQTT 3.1.1. Source addresses are 127.0.1.1 and on.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "load/histogram.h"

enum {
	CONNS	= 128,			/* at once */
	WINDOW	= 2000,			/* messages not acknowledged */
	SOURCES	= 64
};

static struct sockaddr_in	servers[16];
static unsigned			nservers, nconnects;

static void
parse_servers(const char *host, char *ports)
{
	char *p;

	for (p = strtok(ports, ","); p != NULL; p = strtok(NULL, ",")) {
		if (nservers == NELEM(servers))
			errx(64, "too many ports");
		servers[nservers].sin_family = AF_INET;
		servers[nservers].sin_port = htons((uint16_t)atoi(p));
		if (inet_pton(AF_INET, host, &servers[nservers].sin_addr) != 1)
			errx(64, "not an IPv4 address: %s", host);
		nservers++;
	}
}

static int
dial(void)
{
	struct sockaddr_in	from = { .sin_family = AF_INET };
	unsigned		n = nconnects++;
	int			fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	if (fd < 0)
		err(71, "socket");
	from.sin_addr.s_addr = htonl(0x7f000101 + n % SOURCES);
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&from, sizeof(from)) < 0 ||
	    connect(fd, (struct sockaddr *)&servers[n % nservers],
	    sizeof(servers[0])) < 0)
		err(69, "connect");
	return fd;
}

static uint8_t *
put_text(uint8_t *p, const char *s)
{
	size_t n = strlen(s);

	put_be16(p, (uint16_t)n);
	memcpy(p + 2, s, n);
	return p + 2 + n;
}

/* CONNECT of session i, clean session 0. */
static uint8_t *
put_connect(uint8_t *p, unsigned i)
{
	char	 id[32];
	uint8_t	*at = p + 2;

	snprintf(id, sizeof(id), "dev-%07u", i);
	*p = 0x10;
	at = put_text(at, "MQTT");
	*at++ = 4;
	*at++ = 0;
	put_be16(at, 0);
	at = put_text(at + 2, id);
	p[1] = (uint8_t)(at - p - 2);
	return at;
}

static uint8_t *
put_subscribe(uint8_t *p, unsigned i)
{
	static const char *const names[] = { "cmd", "cfg", "fw" };
	char			 filter[32];
	uint8_t			*at = p + 2;
	size_t			 k;

	*p = 0x82;
	put_be16(at, 1);
	at += 2;
	for (k = 0; k < NELEM(names); k++) {
		snprintf(filter, sizeof(filter), "dev/%07u/%s", i, names[k]);
		at = put_text(at, filter);
		*at++ = 1;
	}
	p[1] = (uint8_t)(at - p - 2);
	return at;
}

static void
send_all(int fd, const uint8_t *buf, size_t len)
{
	ssize_t n;

	for (; len > 0; buf += n, len -= (size_t)n)
		if ((n = write(fd, buf, len)) < 0)
			err(69, "write");
}

struct conn {
	uint64_t	sent_ns;
	size_t		got;
	int		fd;
	bool		answered;
};

static struct conn	conns[CONNS];
static struct histogram	latency;
static uint64_t		refused;
static int		ep;

static void
begin(struct conn *c, unsigned i, bool subscribes)
{
	struct epoll_event	e = { .events = EPOLLIN, .data.ptr = c };
	uint8_t			buf[256], *at = put_connect(buf, i);

	if (subscribes) {
		at = put_subscribe(at, i);
		*at++ = 0xe0;
		*at++ = 0;
	}
	c->fd = dial();
	c->got = 0;
	c->answered = false;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e) < 0)
		err(71, "epoll_ctl");
	c->sent_ns = clock_mono_ns();
	send_all(c->fd, buf, (size_t)(at - buf));
}

/* True if it is at its end. */
static bool
take(struct conn *c, bool leaves)
{
	uint8_t	buf[4096];
	ssize_t	n = read(c->fd, buf, sizeof(buf));

	if (n > 0 && !c->answered) {
		c->answered = true;
		histogram_add(&latency, clock_mono_ns() - c->sent_ns);
		if (n < 4 || buf[0] != 0x20 || buf[3] != 0)
			refused++;
		if (leaves)
			send_all(c->fd, (const uint8_t *)"\xe0\0", 2);
	}
	if (n > 0)
		return false;
	refused += !c->answered;
	close(c->fd);
	c->fd = -1;
	return true;
}

static void
report(uint64_t n, double seconds)
{
	printf("{\"count\": %" PRIu64 ", \"refused\": %" PRIu64
	    ", \"seconds\": %.3f, \"per_s\": %.0f, \"p50_us\": %.1f, "
	    "\"p99_us\": %.1f, \"p999_us\": %.1f, \"most_us\": %.1f}\n", n,
	    refused, seconds, (double)n / seconds,
	    (double)histogram_quantile(&latency, .5) / 1e3,
	    (double)histogram_quantile(&latency, .99) / 1e3,
	    (double)histogram_quantile(&latency, .999) / 1e3,
	    (double)histogram_quantile(&latency, 1) / 1e3);
}

/* count connections, one after the other on CONNS at once; rate 0: at once. */
static void
run(unsigned from, unsigned n, unsigned count, double rate, bool subscribes)
{
	struct epoll_event	events[CONNS];
	uint64_t		start = clock_mono_ns(), random = start | 1;
	unsigned		begun = 0, ended = 0, i;
	int			k, got;

	if ((ep = epoll_create1(0)) < 0)
		err(71, "epoll_create1");
	for (i = 0; i < CONNS; i++)
		conns[i].fd = -1;
	while (ended < count) {
		for (i = 0; i < CONNS && begun < count; i++) {
			if (rate > 0 && (double)(clock_mono_ns() - start) <
			    begun / rate * 1e9)
				break;
			if (conns[i].fd >= 0)
				continue;
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			begin(&conns[i], subscribes ? from + begun :
			    (unsigned)(random % n), subscribes);
			begun++;
		}
		got = epoll_wait(ep, events, CONNS, rate > 0 ? 1 : -1);
		for (k = 0; k < got; k++)
			ended += take(events[k].data.ptr, !subscribes);
	}
	report(count, (double)(clock_mono_ns() - start) / 1e9);
}

static void
fill(unsigned n, uint8_t type)
{
	uint64_t	 start = clock_mono_ns();
	uint8_t		 buf[65536], *at, *p;
	unsigned	 sent = 0, acked = 0;
	char		 topic[32];
	size_t		 left = 0;
	ssize_t		 got;
	int		 fd = dial();

	at = put_connect(buf, 99999999);
	buf[9] = 2;			/* clean */
	send_all(fd, buf, (size_t)(at - buf));
	if (read(fd, buf, 4) != 4 || buf[3] != 0)
		errx(69, "refused");
	while (acked < n) {
		for (at = buf; sent < n && sent - acked < WINDOW &&
		    at < buf + sizeof(buf) - 128; sent++) {
			p = at;
			*p = type;
			snprintf(topic, sizeof(topic), "dev/%07u/cmd", sent);
			at = put_text(p + 2, topic);
			put_be16(at, (uint16_t)(1 + sent % 60000));
			at += 2;
			memset(at, 'x', 64);
			at += 64;
			p[1] = (uint8_t)(at - p - 2);
		}
		send_all(fd, buf, (size_t)(at - buf));
		if ((got = read(fd, buf, sizeof(buf))) <= 0)
			errx(69, "closed");
		left += (size_t)got;
		acked += (unsigned)(left / 4);
		left %= 4;
	}
	close(fd);
	report(n, (double)(clock_mono_ns() - start) / 1e9);
}

int
main(int argc, char **argv)
{
	unsigned n;

	if (argc < 5)
		errx(64, "make|fill|retain|attach HOST PORT ..., see above");
	parse_servers(argv[2], argv[3]);
	n = (unsigned)atoi(argv[4]);
	if (strcmp(argv[1], "make") == 0 && argc == 6)
		run(n, 0, (unsigned)atoi(argv[5]), 0, true);
	else if (strcmp(argv[1], "fill") == 0 && argc == 5)
		fill(n, 0x32);
	else if (strcmp(argv[1], "retain") == 0 && argc == 5)
		fill(n, 0x33);
	else if (strcmp(argv[1], "attach") == 0 && argc == 7)
		run(0, n, (unsigned)atoi(argv[5]), atof(argv[6]), false);
	else
		errx(64, "make|fill|retain|attach HOST PORT ..., see above");
	return 0;
}

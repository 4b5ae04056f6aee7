/*
 * bench_bus: what a message costs between two processes. A child receives;
 * the parent sends.
 *
 *	flood	full frames, as much as the credit lets go
 *	turns	one record a turn, windows of 100 unacknowledged ones (QoS 1)
 *	ping	one record under way: the next goes out when the ack is in
 *
 * CPU seconds are those of the process, ZeroMQ's thread included. With a name
 * as argument only that one runs, so that `strace -fc` can count its system
 * calls.
 */
#include <ev.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "bus/bus.h"
#include "proto/msgid.h"

#define PAYLOAD		64
#define TOPIC		"bench/topic/1"

struct side {
	struct bus	*bus;
	struct ev_loop	*loop;
	uint64_t	 records;
	uint64_t	 bytes;
};

static double
cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int
on_records(void *ctx, struct bus_frame *f)
{
	struct side	*s = ctx;
	struct record	 r;
	int		 rc;

	while ((rc = bus_frame_next(f, &r)) == 1) {
		s->records++;
		s->bytes += r.payload.data[0];
	}
	return rc;
}

/* The sender asks for the receiver's figures: CPU seconds and records. */
static int
on_query(void *ctx, struct bus_frame *f)
{
	struct side	*s = ctx;
	double		 out[2] = { cpu_s(), (double)s->records };

	return bus_reply(s->bus, &f->from.addr, KIND_REPLY, out, sizeof(out));
}

static double	figures[2];
static bool	have_figures;

static int
on_reply(void *ctx, struct bus_frame *f)
{
	(void)ctx;
	if (f->len == sizeof(figures))
		memcpy(figures, f->body, sizeof(figures));
	have_figures = true;
	return 0;
}

static const struct bus_rule accepts[] = {
	{ KIND_RECORDS,	PEER_ANY, 0, on_records },
	{ KIND_QUERY,	PEER_ANY, 0, on_query },
	{ KIND_REPLY,	PEER_ANY, 0, on_reply },
};

static void
side_open(struct side *s, const char *name, const char *endpoint)
{
	struct bus_opts o = {
		.node = "bench@h", .name = name, .incarnation = 1,
		.endpoint = endpoint, .accepts = accepts,
		.naccepts = NELEM(accepts), .ctx = s,
	};
	int rc;

	memset(s, 0, sizeof(*s));
	o.loop = s->loop = ev_loop_new(0);
	if ((rc = bus_open(&s->bus, &o)) < 0) {
		fprintf(stderr, "bench_bus: %s: %s\n", endpoint, err_str(rc));
		exit(1);
	}
}

static struct msgid_gen	ids;
static struct bus_peer *peer;
static struct side	me;

static bool
send_one(unsigned qos)
{
	static uint8_t	payload[PAYLOAD];
	struct record	r = {
		.id = msgid_next(&ids), .expiry_s = RECORD_NO_EXPIRY,
		.flags = (uint16_t)(qos | RECORD_LIVE | RECORD_SUBS),
		.topic = { (const uint8_t *)TOPIC, sizeof(TOPIC) - 1 },
		.client_id = { (const uint8_t *)"bench-0001", 10 },
		.payload = { payload, sizeof(payload) },
	};

	return bus_record(peer, &r, NULL, NULL) == 0;
}

static void
flood(uint64_t n)
{
	uint64_t i = 0;
	unsigned k;

	while (i < n) {
		for (k = 0; k < 4096 && i < n && !bus_peer_blocked(peer); k++)
			i += send_one(0);
		ev_run(me.loop, bus_peer_blocked(peer) ? EVRUN_ONCE :
		    EVRUN_NOWAIT);
	}
}

static void
turns(uint64_t n)
{
	uint64_t i = 0;

	while (i < n) {
		if (bus_peer_sent(peer) - bus_peer_got(peer) < 100) {
			i += send_one(1);
			ev_run(me.loop, EVRUN_NOWAIT);
		} else {
			ev_run(me.loop, EVRUN_ONCE);
		}
	}
}

static void
ping(uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		send_one(1);
		while (!bus_idle(me.bus))
			ev_run(me.loop, EVRUN_ONCE);
	}
}

static void
ask_figures(double out[2])
{
	have_figures = false;
	bus_send(peer, KIND_QUERY, "", 0);
	while (!have_figures)
		ev_run(me.loop, EVRUN_ONCE);
	memcpy(out, figures, sizeof(figures));
}

static void
measure(const char *name, void (*run)(uint64_t n), uint64_t n)
{
	double	 theirs0[2], theirs[2], mine, wall;
	uint64_t start;

	while (!bus_idle(me.bus))
		ev_run(me.loop, EVRUN_ONCE);
	ask_figures(theirs0);
	mine = cpu_s();
	start = clock_mono_ns();
	run(n);
	while (!bus_idle(me.bus))
		ev_run(me.loop, EVRUN_ONCE);
	wall = (double)(clock_mono_ns() - start) / 1e9;
	mine = cpu_s() - mine;
	ask_figures(theirs);
	printf("%-6s %9llu records  sender %7.3f us  receiver %7.3f us  "
	    "wall %7.3f us each\n", name, (unsigned long long)n,
	    mine / (double)n * 1e6,
	    (theirs[0] - theirs0[0]) / (double)n * 1e6, wall / (double)n * 1e6);
	if (theirs[1] - theirs0[1] != (double)n)
		printf("%-6s LOST: %.0f arrived\n", name,
		    theirs[1] - theirs0[1]);
}

static const struct {
	const char	*name;
	void		(*run)(uint64_t n);
	uint64_t	 n;
} runs[] = {
	{ "flood", flood, 5000000 },
	{ "turns", turns, 200000 },
	{ "ping", ping, 10000 },
};

int
main(int argc, char **argv)
{
	char	dir[] = "/tmp/bench_bus.XXXXXX";
	pid_t	pid;
	size_t	i;

	if (mkdtemp(dir) == NULL || chdir(dir) < 0)
		return 1;
	if ((pid = fork()) == 0) {
		side_open(&me, "listener.1", "ipc://there.ipc");
		ev_run(me.loop, 0);
		_exit(0);
	}
	side_open(&me, "listener.0", "ipc://here.ipc");
	msgid_init(&ids, 0, 1, 1);
	if (bus_peer_open(&peer, me.bus, "listener.1", 1, "ipc://there.ipc",
	    NULL) < 0)
		return 1;
	while (!bus_peer_ready(peer))
		ev_run(me.loop, EVRUN_ONCE);
	for (i = 0; i < NELEM(runs); i++)
		if (argc < 2 || strcmp(argv[1], runs[i].name) == 0)
			measure(runs[i].name, runs[i].run, runs[i].n);
	bus_close(&me.bus);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	unlink("there.ipc");
	(void)!chdir("/");
	rmdir(dir);
	return 0;
}

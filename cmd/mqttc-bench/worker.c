/*
 * worker.c: the loop of a worker, and what the conductor can tell it to do.
 */
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench.h"

enum { EVENTS_MAX = 512 };	/* per turn */

static int		 conductor;
static struct command	 command;	/* the next */
static bool		 have_command;
static bool		 ended;		/* said IS_ALL_SENT */
static uint64_t		 next_open_ns;	/* with a rate of connections */
static uint64_t		 ticked_ns;

/* --- The loop ------------------------------------------------------------ */

static void
command_read(void)
{
	if (have_command)
		return;
	/* SEQPACKET: whole or not at all. The conductor gone is our end. */
	if (recv(conductor, &command, sizeof(command), 0) != sizeof(command))
		_exit(0);
	have_command = true;
}

static void
answer(uint8_t what)
{
	if (send(conductor, &what, 1, MSG_NOSIGNAL) != 1)
		_exit(0);
}

static void
turn(uint64_t timeout_ns)
{
	struct epoll_event	 ev[EVENTS_MAX];
	struct timespec		 ts;
	int			 n, i;

	ts.tv_sec = (time_t)(timeout_ns / SEC);
	ts.tv_nsec = (long)(timeout_ns % SEC);
	if ((n = epoll_pwait2(ep, ev, have_command ? 1 : EVENTS_MAX, &ts,
	    NULL)) < 0) {
		if (errno != EINTR)
			fail(EX_OSERR, "epoll_pwait2: %s", strerror(errno));
		return;
	}
	now_ns = clock_mono_ns();
	for (i = 0; i < n; i++) {
		if (ev[i].data.ptr == NULL)
			command_read();
		else
			conn_event(ev[i].data.ptr, ev[i].events);
	}
	publishers_turn();
	conns_flush();
}

/* Churn: open again what failed, or what the rate lets go. */
static void
reopen(void)
{
	static unsigned	at;
	unsigned	i;

	for (i = 0; i < nconns; i++) {
		if (opt.rate > 0 && next_open_ns > now_ns)
			return;
		at = (at + 1) % nconns;
		if (conns[at].state != CONN_CLOSED)
			continue;
		conn_open(&conns[at]);
		if (opt.rate > 0)
			next_open_ns += (uint64_t)(1e9 / opt.rate);
	}
	/* All are busy: what was due meanwhile is not made up for. */
	next_open_ns = MAX(next_open_ns, now_ns);
}

static void
tick(void)
{
	struct counts	*n = &tally->now;

	ticked_ns = now_ns;
	conns_tick();
	if (opt.mode == CHURN && n->connects == 0 &&
	    n->closed + n->refused >= nconns)
		conns_fail();		/* nobody there, or not for us */
	if (opt.mode == CHURN && publishing && opt.rate == 0)
		reopen();
}

/* Turns until ns; returns early when done() says so, or at a command. */
static bool
turns(uint64_t until_ns, bool (*done)(void))
{
	uint64_t	ns, wake;

	while (!have_command && (ns = clock_mono_ns()) < until_ns) {
		if (done != NULL && done())
			return true;
		now_ns = ns;
		if (ns - ticked_ns > 100 * MSEC)
			tick();
		wake = publishers_due(ns, MIN(until_ns, ns + 100 * MSEC));
		if (opt.mode == CHURN && publishing && opt.rate > 0) {
			reopen();
			wake = MIN(wake, MAX(next_open_ns, ns + MSEC));
		}
		turn(publishers_touched() || wake <= ns ? 0 : wake - ns);
	}
	return done != NULL && done();
}

/* --- Measuring ----------------------------------------------------------- */

static uint64_t
own_cpu_ns(void)
{
	struct timespec	ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * SEC + (uint64_t)ts.tv_nsec;
}

static void
measure_begin(void)
{
	memset(&tally->latency, 0, sizeof(tally->latency));
	tally->begin = tally->now;
	tally->begin_cpu_ns = own_cpu_ns();
	measuring = true;
}

static void
measure_end(void)
{
	if (!measuring)
		return;
	measuring = false;
	tally->end = tally->now;
	tally->end_cpu_ns = own_cpu_ns();
}

/* --- What the conductor says --------------------------------------------- */

/* A storm counts what fails, unless that is everything; elsewhere nothing may
 * fail. */
static void
check_failures(unsigned goal)
{
	const struct counts	*n = &tally->now;

	if (n->refused + n->closed == 0)
		return;
	if (opt.mode != CONNECT || (n->connects == 0 &&
	    n->refused + n->closed >= MIN(goal, 100u)))
		conns_fail();
}

/* Connect conns[from..to), not too many at once. */
static void
connect_some(unsigned from, unsigned to)
{
	uint64_t	patience = (uint64_t)(opt.patience * 5e9);
	uint64_t	deadline = clock_mono_ns() + patience, seen = 0;
	struct counts	*n = &tally->now;
	unsigned	i = from, goal = nup + (to - from);

	next_open_ns = now_ns = clock_mono_ns();
	while (nup + n->refused + n->closed < goal && !have_command) {
		while (i < to && nopening < opt.handshakes) {
			if (opt.rate > 0 && opt.mode == CONNECT) {
				if (next_open_ns > now_ns)
					break;
				next_open_ns += (uint64_t)(1e9 / opt.rate);
			}
			conn_open(&conns[i++]);
		}
		turn(opt.rate > 0 && opt.mode == CONNECT ? MSEC : 100 * MSEC);
		check_failures(goal);
		if (n->connects + n->refused + n->closed + subacks_due != seen ||
		    nopening == 0) {
			seen = n->connects + n->refused + n->closed +
			    subacks_due;
			deadline = now_ns + patience;
		}
		if (clock_mono_ns() > deadline)
			fail(EX_UNAVAILABLE, "%s: no answer for %g s while "
			    "connecting (%u of %u are)", opt.host,
			    opt.patience * 5, nup, goal);
	}
}

static bool
suback_none_due(void)
{
	return subacks_due == 0;
}

/* Filters [from, to) over the n clients there are, answered. */
static void
filters_add(unsigned from, unsigned to, unsigned n)
{
	uint64_t	patience = MAX((uint64_t)(opt.patience * 5e9),
			    60 * SEC);
	unsigned	i;

	for (i = from; i < to && !have_command; i++) {
		conn_subscribe_wildcard(&conns[i % n], (uint16_t)(1 + i / n),
		    i);
		if ((i % 256 == 255 || i + 1 == to) &&
		    !turns(clock_mono_ns() + patience, suback_none_due) &&
		    !have_command)
			fail(EX_UNAVAILABLE, "%s: no SUBACK for a minute",
			    opt.host);
		if (tally->now.refused + tally->now.closed > 0)
			conns_fail();
	}
}

static void
do_connect(const struct command *cmd)
{
	static unsigned	have, had;

	if (opt.mode == CHURN) {
		publishing = true;
		next_open_ns = now_ns = clock_mono_ns();
		reopen();
	} else if (opt.mode == IDLE) {
		if (cmd->clients > have)
			connect_some(have, cmd->clients);
		have = MAX(have, cmd->clients);
		if (have > 0 && cmd->filters > had)
			filters_add(had, cmd->filters, have);
		had = MAX(had, cmd->filters);
	} else
		connect_some(0, nconns);
	if (opt.mode == CONNECT)
		measure_end();
	answer(IS_CONNECTED);
}

/* What is under way has its time to come, as long as something does. */
static void
drain(void)
{
	uint64_t	seen;

	do {
		seen = tally->now.delivered;
		turns(clock_mono_ns() + (uint64_t)(opt.patience * 1e9),
		    all_settled);
	} while (!have_command && !all_settled() &&
	    tally->now.delivered != seen);
}

static void
do_stop(void)
{
	measure_end();
	publishing = false;
	if (nup > 0 && npubs > 0)
		drain();
	members_count();
	answer(IS_STOPPED);
}

static void
obey(void)
{
	struct command	cmd = command;

	have_command = false;
	switch (cmd.what) {
	case DO_MEASURE:
		measure_begin();
		break;
	case DO_CONNECT:
		do_connect(&cmd);
		break;
	case DO_START:
		publishing = true;
		publishers_start();
		break;
	case DO_STOP:
		do_stop();
		break;
	}
}

/* Nothing more will be sent, or nobody is left. */
static bool
all_done(void)
{
	return nup == 0 || (opt.count > 0 && all_sent() && all_settled());
}

/* Until the next command, with an eye on loads that no longer move. */
static void
go_on(void)
{
	uint64_t	seen = tally->now.delivered;
	uint64_t	until = clock_mono_ns() + (uint64_t)(opt.patience * 1e9);
	bool		run = publishing && npubs > 0 && !ended, done;

	done = turns(until, run ? all_done : NULL);
	if (!run || (have_command && !done))
		return;
	if (!done && seen == tally->now.delivered) {
		if (nup < nconns)
			done = opt.count > 0;
		else if (opt.rate == 0 || opt.rate * opt.patience >= 2)
			write_off();
	}
	if (done) {
		ended = true;
		measure_end();
		answer(IS_ALL_SENT);
	}
}

void
worker_run(unsigned number, int fd, struct tally *mine)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };

	conductor = fd;
	tally = mine;
	signal(SIGINT, SIG_IGN);	/* the conductor's */
	signal(SIGTERM, SIG_DFL);
	prctl(PR_SET_TIMERSLACK, 1000);
	clients_plan(number);
	publishers_plan();
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail(EX_OSERR, "epoll_create1: %s", strerror(errno));
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		fail(EX_OSERR, "epoll_ctl: %s", strerror(errno));
	for (;;) {
		if (have_command)
			obey();
		else
			go_on();
	}
}

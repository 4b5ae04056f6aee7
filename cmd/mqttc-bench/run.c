/*
 * run.c: the conductor: starts the workers, leads them through the load, and
 * reads what it cost the broker. An interrupt ends the load, not the report.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench.h"

enum { POLL_MS = 200 };

static struct worker {
	pid_t		 pid;
	int		 fd;
	unsigned	 said;		/* IS_..., since the last command */
	struct tally	*tally;
} *workers;

static volatile sig_atomic_t interrupted;
static uint64_t	begun_ns;		/* the phase that progress shows */

static void
on_interrupt(int sig UNUSED)
{
	interrupted = 1;		/* the next one ends us */
}

/* --- Workers ------------------------------------------------------------- */

/* What the worker k has of everything; it is a copy of ours to change. */
static void
take_share(unsigned k)
{
	static char	prefix[64];
	unsigned	i, n = opt.procs;

	if (n > 1) {			/* names that no other has */
		snprintf(prefix, sizeof(prefix), "%s.%u", opt.prefix, k);
		opt.prefix = prefix;
	}
	for (i = 0; i < opt.clients.n; i++)
		opt.clients.v[i] = share_of(opt.clients.v[i], k, n);
	for (i = 0; i < opt.filters.n; i++)
		opt.filters.v[i] = share_of(opt.filters.v[i], k, n);
	nsubs = opt.mode == FANIN ? 1 : share_of(opt.subscribers, k, n);
	npubs = opt.mode == FANOUT ? 1 : share_of(opt.publishers, k, n);
	if (opt.mode == SHARED) {	/* of every group */
		opt.members = share_of(opt.members, k, n);
		nsubs = opt.groups * opt.members;
	}
	if (opt.rate > 0 && (opt.mode == CONNECT || opt.mode == CHURN))
		opt.rate /= n;
}

static void
worker_start(unsigned k)
{
	struct worker	*w = &workers[k];
	unsigned	 i;
	int		 fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		fail(EX_OSERR, "socketpair: %s", strerror(errno));
	fflush(NULL);
	switch (w->pid = fork()) {
	case -1:
		fail(EX_OSERR, "cannot start a process: %s", strerror(errno));
	case 0:
		for (i = 0; i < k; i++)
			close(workers[i].fd);
		close(fds[0]);
		take_share(k);
		worker_run(k, fds[1], w->tally);
	default:
		close(fds[1]);
		w->fd = fds[0];
	}
}

static void
workers_start(void)
{
	/* Each on pages of its own: they are written to all the time. */
	size_t		 one = (sizeof(struct tally) + 4095) & ~(size_t)4095;
	uint8_t		*shared;
	unsigned	 k;

	shared = mmap(NULL, one * opt.procs, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		fail(EX_OSERR, "mmap: %s", strerror(errno));
	workers = zalloc(opt.procs, sizeof(*workers));
	for (k = 0; k < opt.procs; k++) {
		workers[k].tally = (void *)(shared + k * one);
		worker_start(k);
	}
}

/* Our end of each socket is all that keeps them going. */
static void
workers_end(void)
{
	unsigned	k;

	for (k = 0; k < opt.procs; k++)
		close(workers[k].fd);
	for (k = 0; k < opt.procs; k++)
		while (waitpid(workers[k].pid, NULL, 0) < 0 && errno == EINTR)
			;
}

/* w ended, which it never does of its own accord. */
static void
worker_failed(struct worker *w)
{
	int	status = 0, code = EX_SOFTWARE;

	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
		code = WEXITSTATUS(status);
	else
		snprintf(w->tally->why, sizeof(w->tally->why),
		    "a worker process ended by signal %d", WTERMSIG(status));
	progress(0, NULL);
	fail(code, "%s", w->tally->why);
}

static void
order(uint32_t what, uint32_t step)
{
	struct command	cmd = { .what = what };
	unsigned	k;

	for (k = 0; k < opt.procs; k++) {
		if (opt.mode == IDLE) {
			cmd.clients = share_of(list_at(&opt.clients, step), k,
			    opt.procs);
			cmd.filters = share_of(list_at(&opt.filters, step), k,
			    opt.procs);
		}
		workers[k].said = 0;
		if (send(workers[k].fd, &cmd, sizeof(cmd), MSG_NOSIGNAL) < 0)
			worker_failed(&workers[k]);
	}
	begun_ns = clock_mono_ns();
}

static struct counts
counts_sum(size_t at)
{
	struct counts	 sum = { 0 };
	const struct counts *c;
	unsigned	 k;

	for (k = 0; k < opt.procs; k++) {
		c = (const void *)((const char *)workers[k].tally + at);
		sum.published += c->published;
		sum.due += c->due;
		sum.delivered += c->delivered;
		sum.duplicate += c->duplicate;
		sum.reordered += c->reordered;
		sum.alien += c->alien;
		sum.refused += c->refused;
		sum.closed += c->closed;
		sum.reset += c->reset;
		sum.told += c->told;
		sum.connects += c->connects;
	}
	return sum;
}

static void
progress_show(const char *doing, uint64_t until_ns)
{
	struct counts	n = counts_sum(offsetof(struct tally, now));
	uint64_t	now = clock_mono_ns();
	double		gone = (double)(now - begun_ns) / 1e9;
	double		all = (double)(until_ns - begun_ns) / 1e9;

	if (until_ns == UINT64_MAX)
		progress(now, "%s for %.0f s: %llu connects, %llu messages",
		    doing, gone, (unsigned long long)n.connects,
		    (unsigned long long)n.delivered);
	else
		progress(now, "%s, %.0f of %.0f s: %llu connects, "
		    "%llu messages", doing, gone, all,
		    (unsigned long long)n.connects,
		    (unsigned long long)n.delivered);
}

/*
 * Until all workers said `what`, or until_ns, or (if it may) an interrupt.
 * Returns whether they said it.
 */
static bool
await(unsigned what, uint64_t until_ns, bool may, const char *doing)
{
	struct pollfd	fds[PROCS_MAX];
	uint64_t	now;
	uint8_t		byte;
	unsigned	k, missing;
	int		ms;

	for (;;) {
		for (k = missing = 0; k < opt.procs; k++) {
			fds[k].fd = workers[k].fd;
			fds[k].events = POLLIN;
			missing += (workers[k].said & what) == 0;
		}
		if (missing == 0)
			return true;
		now = clock_mono_ns();
		if (now >= until_ns || (may && interrupted))
			return false;
		ms = (int)MIN((until_ns - now + MSEC - 1) / MSEC,
		    (uint64_t)POLL_MS);
		if (poll(fds, opt.procs, ms) <= 0) {
			progress_show(doing, until_ns);
			continue;
		}
		for (k = 0; k < opt.procs; k++) {
			if (fds[k].revents == 0)
				continue;
			if (recv(workers[k].fd, &byte, 1, 0) != 1)
				worker_failed(&workers[k]);
			workers[k].said |= byte;
		}
	}
}

static uint64_t
in_s(double s)
{
	return clock_mono_ns() + (uint64_t)(s * 1e9);
}

/* Say so and go on when the other side of stdin has written a line. */
static void
pause_for(const char *word)
{
	char	c;

	puts(word);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) == 1 && c != '\n')
		;
}

/* --- Loads --------------------------------------------------------------- */

struct sample {
	uint64_t	ns, cpu_ns;
};

static struct sample
sample_take(void)
{
	return (struct sample){ .ns = clock_mono_ns(),
	    .cpu_ns = broker_cpu_ns() };
}

static void
measured(struct result *r, struct sample a)
{
	struct sample	b = sample_take();

	r->wall_ns = b.ns - a.ns;
	r->broker_cpu_ns = b.cpu_ns - a.cpu_ns;
}

static void
run_messages(struct result *r)
{
	struct sample	a = { 0 };

	order(DO_CONNECT, 0);
	if (!await(IS_CONNECTED, UINT64_MAX, true, "connecting"))
		return;
	if (opt.wait)
		pause_for("ready");
	if (opt.count > 0) {
		a = sample_take();
		order(DO_MEASURE, 0);
		order(DO_START, 0);
		await(IS_ALL_SENT, UINT64_MAX, true, "measuring");
	} else {
		order(DO_START, 0);
		if (await(IS_ALL_SENT, in_s(opt.warmup), true, "warming up") ||
		    interrupted)
			return;		/* everybody was disconnected */
		a = sample_take();
		order(DO_MEASURE, 0);
		await(IS_ALL_SENT, in_s(opt.seconds), true, "measuring");
	}
	measured(r, a);
}

static void
run_connect(struct result *r)
{
	struct sample	a = sample_take();

	order(DO_MEASURE, 0);
	order(DO_CONNECT, 0);
	await(IS_CONNECTED, UINT64_MAX, true, "connecting");
	measured(r, a);
}

static void
run_churn(struct result *r)
{
	struct sample	a;

	order(DO_CONNECT, 0);
	await(IS_ALL_SENT, in_s(opt.warmup), true, "warming up");
	if (interrupted)
		return;
	a = sample_take();
	order(DO_MEASURE, 0);
	await(IS_ALL_SENT, in_s(opt.seconds), true, "measuring");
	measured(r, a);
}

/* Stop, and add up what the workers have. */
static void
collect(struct result *r)
{
	unsigned	k;

	order(DO_STOP, 0);
	await(IS_STOPPED, UINT64_MAX, false, "waiting for what is under way");
	r->interrupted = interrupted != 0;
	r->begin = counts_sum(offsetof(struct tally, begin));
	r->end = counts_sum(offsetof(struct tally, end));
	r->last = counts_sum(offsetof(struct tally, now));
	r->member_least = UINT64_MAX;
	for (k = 0; k < opt.procs; k++) {
		histogram_merge(&r->latency, &workers[k].tally->latency);
		r->own_cpu_ns += workers[k].tally->end_cpu_ns -
		    workers[k].tally->begin_cpu_ns;
		r->member_least = MIN(r->member_least,
		    workers[k].tally->member_least);
		r->member_most = MAX(r->member_most,
		    workers[k].tally->member_most);
	}
}

/* Why a connection was closed, of the first worker that knows. */
static const char *
why_closed(void)
{
	unsigned	k;

	for (k = 0; k < opt.procs; k++)
		if (workers[k].tally->why[0] != '\0')
			return workers[k].tally->why;
	return "";
}

static int
run_idle(void)
{
	unsigned	i, steps = MAX(opt.clients.n, opt.filters.n);
	uint64_t	first = 0, pss, closed = 0;

	for (i = 0; i < steps && !interrupted; i++) {
		order(DO_CONNECT, i);
		if (!await(IS_CONNECTED, UINT64_MAX, true, "connecting"))
			break;
		await(IS_STOPPED, in_s(opt.settle), true, "settling");
		pss = broker_pss_bytes();
		if (i == 0)
			first = pss;
		closed = counts_sum(offsetof(struct tally, now)).closed;
		progress(0, NULL);
		report_step(i, first, pss, closed);
		if (opt.hold)
			pause_for("step");
	}
	progress(0, NULL);
	if (closed > 0)
		fail(EX_UNAVAILABLE, "%llu clients were not kept: %s",
		    (unsigned long long)closed, why_closed());
	return 0;
}

int
run(void)
{
	static struct result	r;
	struct sigaction	sa = { .sa_handler = on_interrupt,
				    .sa_flags = (int)SA_RESETHAND };
	int			code = 0;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	workers_start();
	broker_cpu_ns();		/* before the load: are they there? */
	if (opt.mode == IDLE) {
		code = run_idle();
		workers_end();
		return code;
	}
	if (opt.mode == CONNECT)
		run_connect(&r);
	else if (opt.mode == CHURN)
		run_churn(&r);
	else
		run_messages(&r);
	collect(&r);
	progress(0, NULL);
	if (opt.hold)
		pause_for("done");
	r.pss = broker_pss_bytes();
	report_result(&r);
	if (opt.mode != CHURN && r.last.connects > 0 &&
	    r.last.closed >= r.last.connects)
		fail(EX_UNAVAILABLE, "every connection was closed: %s",
		    why_closed());
	workers_end();
	return 0;
}

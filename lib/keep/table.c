#include "keep/table.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "base/util.h"

void
keep_init(struct keep_table *t, struct keep_proc *procs, size_t n,
    const struct keep_limits *limits, uint64_t now_ms)
{
	memset(t, 0, sizeof(*t));
	t->procs = procs;
	t->nprocs = n;
	t->limits = *limits;
	t->looked_ms = now_ms;
}

void
keep_open(struct keep_table *t, uint64_t now_ms)
{
	t->open = true;
	t->open_ms = now_ms;
}

bool
keep_runs(const struct keep_proc *p)
{
	return p->phase == KEEP_STARTING || p->phase == KEEP_READY ||
	    p->phase == KEEP_DRAINING;
}

static uint64_t
ping_every(const struct keep_table *t)
{
	return MIN(MAX(t->limits.hang_ms / 5, 20u), 1000u);
}

/* Do higher ranks wait for p to become ready? late: it has had its time. */
static bool
is_awaited(const struct keep_proc *p, bool late)
{
	if (late)
		return p->patient && p->phase == KEEP_STARTING;
	return p->phase != KEEP_READY && p->phase != KEEP_HELD &&
	    p->phase != KEEP_GONE;
}

/* The highest rank that may start for the first time: all below are ready, or
 * have had their time. */
static unsigned
free_rank(const struct keep_table *t, uint64_t now_ms)
{
	unsigned	rank = UINT_MAX;
	bool		late = now_ms >= t->open_ms + KEEP_RANK_WAIT_MS;
	size_t		i;

	for (i = 0; i < t->nprocs; i++)
		if (is_awaited(&t->procs[i], late))
			rank = MIN(rank, t->procs[i].rank);
	return rank;
}

static bool
may_start(const struct keep_table *t)
{
	size_t	i, n = 0;

	if (!t->open || t->stopping)
		return false;
	for (i = 0; i < t->nprocs; i++)
		n += t->procs[i].phase == KEEP_STARTING;
	return n < KEEP_STARTING_MAX;
}

/* Stopping: the rank whose turn it is to end. */
static unsigned
ending_rank(const struct keep_table *t)
{
	unsigned	rank = 0;
	size_t		i;

	for (i = 0; i < t->nprocs; i++)
		if (keep_runs(&t->procs[i]))
			rank = MAX(rank, t->procs[i].rank);
	return rank;
}

static enum keep_what
next_running(struct keep_table *t, struct keep_proc *p, bool end,
    uint64_t now_ms)
{
	if (p->killed)
		return KEEP_NOTHING;
	if (now_ms - p->heard_ms >= t->limits.hang_ms) {
		p->killed = p->hung = true;
		return KEEP_KILL;
	}
	if (p->phase == KEEP_DRAINING && now_ms >= p->kill_ms) {
		p->killed = true;
		return KEEP_KILL;
	}
	if (end && p->phase != KEEP_DRAINING) {
		p->phase = KEEP_DRAINING;
		p->kill_ms = now_ms + t->limits.stop_ms;
		return KEEP_DRAIN;
	}
	if (now_ms - p->pinged_ms >= ping_every(t)) {
		p->pinged_ms = now_ms;
		return KEEP_PING;
	}
	return KEEP_NOTHING;
}

/* Had we been stopped ourselves, everybody would look silent: forgive. */
static void
forgive(struct keep_table *t, uint64_t now_ms)
{
	size_t	i;

	if (now_ms - t->looked_ms > t->limits.hang_ms / 2)
		for (i = 0; i < t->nprocs; i++)
			t->procs[i].heard_ms = now_ms;
	t->looked_ms = now_ms;
}

struct keep_action
keep_next(struct keep_table *t, uint64_t now_ms)
{
	struct keep_action	 a = { KEEP_NOTHING, 0 };
	unsigned		 rank = t->stopping ? ending_rank(t) : 0;
	unsigned		 next = free_rank(t, now_ms);
	bool			 start = may_start(t);
	struct keep_proc	*p;

	forgive(t, now_ms);
	for (a.i = 0; a.i < t->nprocs; a.i++) {
		p = &t->procs[a.i];
		switch (p->phase) {
		case KEEP_STARTING:
		case KEEP_READY:
		case KEEP_DRAINING:
			a.what = next_running(t, p, p->again || p->retire ||
			    (t->stopping && p->rank == rank), now_ms);
			break;
		case KEEP_DOWN:
			if (start && now_ms >= p->due_ms &&
			    (p->incarnation != 0 || p->rank <= next))
				a.what = KEEP_START;
			break;
		case KEEP_HELD:
		case KEEP_GONE:
		case KEEP_NPHASES:
			break;
		}
		if (a.what != KEEP_NOTHING)
			return a;
	}
	a.i = 0;
	return a;
}

uint64_t
keep_deadline(const struct keep_table *t, uint64_t now_ms)
{
	uint64_t		 at = now_ms + 1000;
	unsigned		 next = free_rank(t, now_ms);
	bool			 start = may_start(t);
	const struct keep_proc	*p;
	size_t			 i;

	for (i = 0; i < t->nprocs; i++) {
		p = &t->procs[i];
		if (keep_runs(p) && !p->killed) {
			at = MIN(at, p->pinged_ms + ping_every(t));
			at = MIN(at, p->heard_ms + t->limits.hang_ms);
			if (p->phase == KEEP_DRAINING)
				at = MIN(at, p->kill_ms);
		} else if (p->phase != KEEP_DOWN || !start)
			continue;
		else if (p->incarnation != 0 || p->rank <= next)
			at = MIN(at, p->due_ms);
		else if (now_ms < t->open_ms + KEEP_RANK_WAIT_MS)
			at = MIN(at, t->open_ms + KEEP_RANK_WAIT_MS);
	}
	return MAX(at, now_ms);
}

void
keep_started(struct keep_table *t, size_t i, pid_t pid,
    uint64_t incarnation, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	if (p->incarnation != 0)
		p->restarts++;
	p->phase = KEEP_STARTING;
	p->pid = pid;
	p->incarnation = incarnation;
	p->started_ms = p->heard_ms = p->pinged_ms = now_ms;
	p->ready_ms = 0;
	p->killed = p->hung = p->again = p->retire = false;
	p->note[0] = '\0';
}

void
keep_adopted(struct keep_table *t, size_t i, pid_t pid, uint64_t incarnation,
    enum keep_phase phase, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	keep_started(t, i, pid, incarnation, now_ms);
	p->phase = phase;
	if (phase == KEEP_READY)
		p->ready_ms = now_ms;
	if (phase == KEEP_DRAINING)
		p->kill_ms = now_ms + t->limits.stop_ms;
}

/* A failure: the first after a stable run costs no time, the next ones do. */
static void
back_off(struct keep_table *t, struct keep_proc *p, uint64_t now_ms)
{
	if (p->ready_ms != 0 && now_ms - p->ready_ms >= KEEP_STABLE_MS)
		p->backoff_ms = 0;
	p->due_ms = now_ms + p->backoff_ms;
	p->backoff_ms = p->backoff_ms == 0 ? KEEP_BACKOFF_MIN_MS :
	    p->backoff_ms * 2;
	p->backoff_ms = MIN(p->backoff_ms, t->limits.backoff_max_ms);
	p->phase = KEEP_DOWN;
}

void
keep_failed(struct keep_table *t, size_t i, const char *why, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	snprintf(p->note, sizeof(p->note), "%s", why);
	p->pid = 0;
	p->ready_ms = 0;
	p->again = false;
	back_off(t, p, now_ms);
}

void
keep_heard(struct keep_table *t, size_t i, uint64_t now_ms)
{
	t->procs[i].heard_ms = now_ms;
}

void
keep_ready(struct keep_table *t, size_t i, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	if (p->phase != KEEP_STARTING)
		return;
	p->phase = KEEP_READY;
	p->ready_ms = now_ms;
}

void
keep_leaving(struct keep_table *t, size_t i, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	if (p->phase != KEEP_STARTING && p->phase != KEEP_READY)
		return;
	p->phase = KEEP_DRAINING;
	p->kill_ms = now_ms + t->limits.stop_ms;
}

static void
note_end(struct keep_proc *p, const struct keep_end *end)
{
	if (p->hung)
		snprintf(p->note, sizeof(p->note), "silent, killed");
	else if (p->killed)
		snprintf(p->note, sizeof(p->note), "did not end, killed");
	else if (!end->known)
		snprintf(p->note, sizeof(p->note), "ended");
	else if (end->signal != 0)
		snprintf(p->note, sizeof(p->note), "ended by signal %d",
		    end->signal);
	else
		snprintf(p->note, sizeof(p->note), "exit code %d", end->code);
}

void
keep_ended(struct keep_table *t, size_t i, const struct keep_end *end,
    uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];
	bool			 asked = p->again || t->stopping;

	note_end(p, end);
	p->pid = 0;
	if (p->retire) {
		p->retire = false;
		p->phase = KEEP_GONE;
	} else if (asked) {
		p->again = false;
		p->backoff_ms = 0;
		p->due_ms = now_ms;
		p->phase = KEEP_DOWN;
	} else if (end->known && end->signal == 0 && (end->code == 0 ||
	    end->code == EX_CONFIG || end->code == EX_USAGE)) {
		p->phase = KEEP_HELD;
	} else if (!end->known && p->phase == KEEP_DRAINING) {
		p->phase = KEEP_HELD;		/* most likely 0 */
	} else
		back_off(t, p, now_ms);
	p->killed = p->hung = false;
}

void
keep_replaced(struct keep_table *t, size_t i, pid_t pid, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	p->pid = pid;
	p->started_ms = p->heard_ms = p->pinged_ms = now_ms;
	if (p->phase == KEEP_READY)
		p->ready_ms = now_ms;
	p->killed = p->hung = false;
	p->note[0] = '\0';
}

void
keep_restart(struct keep_table *t, size_t i, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	p->backoff_ms = 0;
	if (keep_runs(p)) {
		p->again = true;
		return;
	}
	p->phase = KEEP_DOWN;
	p->due_ms = now_ms;
}

void
keep_grow(struct keep_table *t, size_t n)
{
	t->nprocs = n;
}

void
keep_retire(struct keep_table *t, size_t i)
{
	struct keep_proc	*p = &t->procs[i];

	p->again = false;
	if (keep_runs(p))
		p->retire = true;
	else
		p->phase = KEEP_GONE;
}

void
keep_revive(struct keep_table *t, size_t i, uint64_t now_ms)
{
	struct keep_proc	*p = &t->procs[i];

	if (p->phase == KEEP_GONE) {
		p->phase = KEEP_DOWN;
		p->incarnation = p->restarts = 0;
		p->backoff_ms = 0;
		p->due_ms = now_ms;
		p->note[0] = '\0';
	} else if (p->retire) {
		p->retire = false;
		p->again = p->phase == KEEP_DRAINING;
	}
}

void
keep_stop(struct keep_table *t)
{
	t->stopping = true;
}

bool
keep_all_down(const struct keep_table *t)
{
	size_t	i;

	for (i = 0; i < t->nprocs; i++)
		if (keep_runs(&t->procs[i]))
			return false;
	return true;
}

bool
keep_serves(const struct keep_table *t)
{
	bool	any = false;
	size_t	i, k;

	for (i = 0; i < t->nprocs; i++) {
		if (t->procs[i].phase == KEEP_GONE || t->procs[i].retire)
			continue;
		if (t->procs[i].phase != KEEP_READY &&
		    t->procs[i].phase != KEEP_HELD)
			return false;
		any = t->procs[i].phase == KEEP_READY;
		for (k = 0; k < t->nprocs && !any; k++)
			any = t->procs[k].rank == t->procs[i].rank &&
			    t->procs[k].phase == KEEP_READY;
		if (!any)
			return false;
	}
	return t->nprocs > 0;
}

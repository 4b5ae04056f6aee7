/*
 * table.h: the supervisor's process table: who runs, who is started, drained
 * or killed next, and when. Pure: it is told what happened and what time it
 * is (ms of any steady clock) and answers with one action at a time. The
 * caller does what it is told and reports what came of it.
 */
#ifndef KEEP_TABLE_H
#define KEEP_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KEEP_NAME_MAX		64
#define KEEP_NOTE_MAX		128

#define KEEP_BACKOFF_MIN_MS	100
#define KEEP_STABLE_MS		10000	/* ready for so long: begin anew */
#define KEEP_STARTING_MAX	32	/* more at once only slow each other */
#define KEEP_RANK_WAIT_MS	2000	/* a higher rank waits no longer, but
					 * for a process that is `patient` */

enum keep_phase {
	KEEP_DOWN,		/* to be started at due_ms */
	KEEP_STARTING,		/* runs, is not ready */
	KEEP_READY,
	KEEP_DRAINING,		/* runs, was asked to end or said it does */
	KEEP_HELD,		/* down until somebody asks for it */
	KEEP_GONE,		/* retired: a place, nobody's process */
	KEEP_NPHASES
};

struct keep_proc {
	char		name[KEEP_NAME_MAX];
	unsigned	kind;		/* the caller's */
	uint32_t	instance;
	unsigned	rank;		/* low ranks start first, end last */
	bool		patient;	/* higher ranks wait for it as long as
					 * it is starting */
	enum keep_phase	phase;
	pid_t		pid;		/* 0 when down */
	uint64_t	incarnation;	/* of the newest run, 0: none yet */
	uint64_t	restarts;
	uint64_t	started_ms, ready_ms, heard_ms, pinged_ms;
	uint64_t	due_ms;		/* KEEP_DOWN: when to start */
	uint64_t	kill_ms;	/* KEEP_DRAINING: patience ends */
	uint32_t	backoff_ms;
	bool		killed;		/* SIGKILL is on its way */
	bool		hung;		/* and that is why */
	bool		again;		/* start anew once it has ended */
	bool		retire;		/* be gone once it has ended */
	char		note[KEEP_NOTE_MAX];
};

struct keep_limits {
	uint32_t	hang_ms, stop_ms, backoff_max_ms;
};

struct keep_table {
	struct keep_proc	*procs;		/* the caller's array */
	size_t			 nprocs;
	struct keep_limits	 limits;
	bool			 stopping;
	bool			 open;		/* starting is allowed */
	uint64_t		 open_ms;
	uint64_t		 looked_ms;	/* when keep_next last ran */
};

enum keep_what {
	KEEP_NOTHING, KEEP_START, KEEP_PING, KEEP_DRAIN, KEEP_KILL
};

struct keep_action {
	enum keep_what	what;
	size_t		i;		/* procs[i] */
};

/* How a process ended. */
struct keep_end {
	bool	known;		/* false: not our child, nobody could say */
	int	code;		/* exit code, if signal is 0 */
	int	signal;
};

void keep_init(struct keep_table *t, struct keep_proc *procs, size_t n,
    const struct keep_limits *limits, uint64_t now_ms);

/* From now on processes are started (before, they may be adopted). */
void keep_open(struct keep_table *t, uint64_t now_ms);

/*
 * The next thing to do; call until KEEP_NOTHING. Actions are noted as done:
 * after KEEP_START the caller reports keep_started or keep_failed at once.
 */
struct keep_action keep_next(struct keep_table *t, uint64_t now_ms);

/* When keep_next must be asked again if nothing happens before. */
uint64_t keep_deadline(const struct keep_table *t, uint64_t now_ms);

void keep_started(struct keep_table *t, size_t i, pid_t pid,
    uint64_t incarnation, uint64_t now_ms);
void keep_failed(struct keep_table *t, size_t i, const char *why,
    uint64_t now_ms);
/* It served under a supervisor before us. */
void keep_adopted(struct keep_table *t, size_t i, pid_t pid,
    uint64_t incarnation, enum keep_phase phase, uint64_t now_ms);
void keep_heard(struct keep_table *t, size_t i, uint64_t now_ms);
void keep_ready(struct keep_table *t, size_t i, uint64_t now_ms);
/* It ends of its own accord, or somebody told it to behind our back. */
void keep_leaving(struct keep_table *t, size_t i, uint64_t now_ms);
void keep_ended(struct keep_table *t, size_t i, const struct keep_end *end,
    uint64_t now_ms);

/* Another process has the place, name and incarnation of procs[i]. */
void keep_replaced(struct keep_table *t, size_t i, pid_t pid,
    uint64_t now_ms);

/* Drain procs[i] if it runs, then start it anew; also one that was held. */
void keep_restart(struct keep_table *t, size_t i, uint64_t now_ms);

/* More rows, made by the caller at the end of its array, which had room. */
void keep_grow(struct keep_table *t, size_t n);

/* Drain procs[i] if it runs; then it is KEEP_GONE. */
void keep_retire(struct keep_table *t, size_t i);

/* The opposite: start it, again if it is on its way out. */
void keep_revive(struct keep_table *t, size_t i, uint64_t now_ms);

/* Drain everything, highest rank first. */
void keep_stop(struct keep_table *t);

bool keep_runs(const struct keep_proc *p);
bool keep_all_down(const struct keep_table *t);

/* Every process is ready or held, and at least one is ready in each rank; who
 * is retired does not count. */
bool keep_serves(const struct keep_table *t);

#endif

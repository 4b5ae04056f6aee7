/*
 * tool.h: the supervisor as tools see it: a blocking client. A tool is
 *
 *	tool_open(&t, argc, argv, &opts, ctx);	(ends the program if it cannot)
 *	if ((rc = tool_peers(t, &peers, &n)) < 0)
 *		tool_fatal(t, rc);
 *	...
 *	tool_close(&t);
 *
 * After tool_open the current directory is run_dir, so endpoints of peers can
 * be connected to as they are.
 */
#ifndef PROC_TOOL_H
#define PROC_TOOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proc/proc.h"

struct conf;
struct tool;

struct tool_opts {
	const char	*program;	/* "mqttc-route" */
	const char	*usage;		/* printed by -h, ends with a newline */
	const char	*letters;	/* own getopt letters, or NULL; f, o, h,
					   V and --json are there already */
	const struct option *longs;	/* own long options, or NULL */
	bool (*own)(void *ctx, int opt, const char *arg); /* false: usage */
	/* Looks at the operands before anything is connected to, and calls
	 * tool_usage if they are wrong; or NULL. */
	void (*operands)(void *ctx, int argc, char **argv);
	unsigned	 wants;		/* PROC_WANT_PEERS, _FIB, _METRICS */
};

/*
 * Read the command line, find the node, say hello. Ends the program with one
 * line and EX_USAGE, EX_CONFIG, EX_NOINPUT or EX_UNAVAILABLE (no node runs
 * there). optind is left at the first operand.
 */
void tool_open(struct tool **out, int argc, char **argv,
    const struct tool_opts *o, void *ctx);
void tool_close(struct tool **t);

/* One line on stderr: "PROGRAM: what", and the usage; exits EX_USAGE. */
void tool_usage(const struct tool_opts *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* Say what went wrong between us and the supervisor; exits EX_UNAVAILABLE. */
void tool_fatal(struct tool *t, int rc) __attribute__((noreturn));

const struct conf *tool_conf(const struct tool *t);
const char *tool_node(const struct tool *t);	/* node.name, as it says */
bool tool_json(const struct tool *t);

/*
 * The processes as last heard of; waits for the first time, afterwards takes
 * what has come. Valid until the next call. ERR_AGAIN after 10 s, ERR_IO.
 */
int tool_peers(struct tool *t, const struct proc_peer **peers, size_t *n);

/*
 * The segments wanted, as they are now: waits until all there are have come.
 * Descriptors belong to t. Valid until the next call; segments of processes
 * that ended in between are gone from the list and closed.
 */
int tool_segments(struct tool *t, const struct proc_segment **s, size_t *n);

/* One row of a status. */
struct tool_row {
	char		name[PROC_NAME_MAX];
	pid_t		pid;
	enum proc_state	state;
	uint64_t	incarnation, restarts, uptime_ms;
	char		note[128];
};

/* Ask for the status; each(ctx, row) for the supervisor and every process. */
int tool_status(struct tool *t,
    void (*each)(void *ctx, const struct tool_row *row), void *ctx);

/*
 * Ask and wait for the answer: 0 or a code of sysexits.h in *code, its text in
 * text. ERR_AGAIN after timeout_ms.
 */
int tool_restart(struct tool *t, const char *name, int timeout_ms, int *code,
    char *text, size_t size);
int tool_reload(struct tool *t, int timeout_ms, int *code, char *text,
    size_t size);
int tool_scale(struct tool *t, const char *kind, uint32_t count,
    int timeout_ms, int *code, char *text, size_t size);
/* name: a process, or "listener" for all of them. */
int tool_upgrade(struct tool *t, const char *name, int timeout_ms, int *code,
    char *text, size_t size);

/* Ask for the end of the node and wait for it. */
int tool_stop(struct tool *t, int timeout_ms);

#endif

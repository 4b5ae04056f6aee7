/*
 * proc.h: one process of a node: options, configuration, its place under the
 * supervisor, readiness, the loop. A program is
 *
 *	if ((rc = proc_start(&p, argc, argv, &opts, &handlers, ctx)) < 0)
 *		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
 *	... make what the program is made of, bind its bus endpoint ...
 *	return proc_run(p);
 *
 * The supervisor is spoken to over supervise.sock in the current directory,
 * which is run_dir from proc_start on. When it dies the process serves on and
 * knocks every second; the next one learns everything again from here. All
 * descriptors handed to a handler stay property of proc: map them, poll them,
 * never close them.
 */
#ifndef PROC_PROC_H
#define PROC_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct conf;
struct ev_loop;
struct proc;

#define PROC_NAME_MAX		64	/* with the NUL */
#define PROC_ENDPOINT_MAX	108
#define PROC_PEERS_MAX		1088	/* processes of a node */
#define PROC_SOCKETS_MAX	4096	/* listening sockets of a node */

enum proc_kind {
	PROC_SUPERVISE, PROC_ROUTER, PROC_LISTENER, PROC_SESSION_STORE,
	PROC_CLUSTER_LINK, PROC_NKINDS
};

enum proc_state {
	PROC_DOWN, PROC_STARTING, PROC_READY, PROC_DRAINING, PROC_NSTATES
};

struct proc_peer {
	char		name[PROC_NAME_MAX];	/* router, listener.0 */
	enum proc_kind	kind;
	uint32_t	instance;		/* the number after the dot */
	uint64_t	incarnation;		/* 0: never started */
	char		endpoint[PROC_ENDPOINT_MAX];	/* ipc://NAME.INC.ipc */
	enum proc_state	state;
	pid_t		pid;			/* 0: none */
};

enum proc_socket_kind {
	PROC_SOCKET_SHARED,	/* listener.tcp.external: dealt evenly */
	PROC_SOCKET_OWN,	/* listener.tcp.each: this instance's alone */
	PROC_NSOCKET_KINDS
};

struct proc_socket {
	int		fd;		/* listening, non-blocking */
	uint32_t	index;		/* the same socket, the same index */
	enum proc_socket_kind kind;
	uint32_t	instance;	/* PROC_SOCKET_OWN: whose */
	char		address[128];	/* HOST:PORT it is bound to */
};

enum proc_segment_kind {
	PROC_SEGMENT_FIB,	/* fds: data, epochs */
	PROC_SEGMENT_METRICS,	/* fds: one, see metric.h */
	PROC_NSEGMENT_KINDS
};

#define PROC_SEGMENT_FDS	2

struct proc_segment {
	enum proc_segment_kind kind;
	char		owner[PROC_NAME_MAX];
	uint64_t	incarnation;	/* of the owner */
	uint64_t	generation;	/* rises over all incarnations */
	size_t		nfds;		/* 0: gone, forget this generation */
	int		fds[PROC_SEGMENT_FDS];
};

enum {				/* proc_opts.wants */
	PROC_WANT_PEERS		= 1,
	PROC_WANT_SOCKETS	= 2,
	PROC_WANT_FIB		= 4,
	PROC_WANT_METRICS	= 8,	/* of every process, the own included */
	PROC_CAN_HANDOVER	= 16	/* there is a handler for it */
};

struct proc_opts {
	const char	*program;	/* "mqttc-listener" */
	enum proc_kind	 kind;
	const char	*usage;		/* NULL: the usual one */
	unsigned	 wants;
};

/*
 * Called from the loop, never from inside a proc function; any may be NULL.
 * Pointers are borrowed for the call.
 */
struct proc_handlers {
	/* Every process of the node, this one and those down included, at each
	 * change. Without PROC_WANT_PEERS never. */
	void (*peers)(void *ctx, const struct proc_peer *peers, size_t n);

	/* The full set to accept from now on. What was in the last set and is
	 * not in this one is no longer ours: stop its watcher. Comes after
	 * proc_ready only, and empty when draining begins. */
	void (*sockets)(void *ctx, const struct proc_socket *s, size_t n);

	/* A segment appeared, or (nfds == 0) is no longer kept. Those that
	 * exist already come one by one after proc_start, oldest first. */
	void (*segment)(void *ctx, const struct proc_segment *s);

	/* Finish what was begun, then call proc_exit(p, 0). Without a handler
	 * proc does that. Also for TERM and INT. Comes once. */
	void (*drain)(void *ctx);

	/* Keys marked CONF_RELOAD may differ from before; proc_conf(p) is the
	 * new one already. */
	void (*reload)(void *ctx, const struct conf *new_conf);

	/* USR1: log a state summary. */
	void (*summary)(void *ctx);

	/*
	 * Another process takes our place (give), or we take another's; fd is
	 * the program's now, a stream socket between the two. Who gives ends
	 * with _exit(0), or goes on and calls proc_handover_failed. Who takes
	 * calls proc_prepared, proc_taken or proc_handover_failed.
	 */
	void (*handover)(void *ctx, int fd, bool give);
};

/*
 * Read the command line (-f -o -n -t -v -h -V), find the supervisor, say hello,
 * learn name, incarnation and configuration, start the log. Blocks until the
 * supervisor has answered.
 *
 * Ends the process itself when that is all there is to do (-h, -V, -t) or
 * something is wrong, which it says, with the code of sysexits.h that fits:
 * EX_USAGE, EX_CONFIG, EX_NOINPUT, EX_UNAVAILABLE (no supervisor answers).
 * Returns 0 and sets *out; ERR_NOMEM; ERR_IO.
 */
int proc_start(struct proc **out, int argc, char **argv,
    const struct proc_opts *opts, const struct proc_handlers *h, void *ctx);

struct ev_loop *proc_loop(struct proc *p);
const struct conf *proc_conf(const struct proc *p);	/* as it is now */
const char *proc_name(const struct proc *p);		/* listener.0 */
const char *proc_node(const struct proc *p);		/* node.name */
const char *proc_endpoint(const struct proc *p);	/* to bind the bus at */
enum proc_kind proc_kind(const struct proc *p);
uint32_t proc_instance(const struct proc *p);
uint64_t proc_incarnation(const struct proc *p);

/* Once, after the last bind and the first resync: sockets are dealt to us. */
void proc_ready(struct proc *p);

/*
 * Hand a segment to the supervisor, who keeps it beyond our death and passes
 * it on to all who want its kind. proc duplicates the fds; the caller keeps
 * its own. generation must be above any this kind and owner ever had: derive
 * it from proc_incarnation. ERR_FULL above 64 segments at once, ERR_IO.
 */
int proc_publish_segment(struct proc *p, enum proc_segment_kind kind,
    uint64_t generation, const int *fds, size_t nfds);

/* Every reader has left: drop our generations of this kind below `below`, those
 * of our former incarnations included. */
void proc_drop_segments(struct proc *p, enum proc_segment_kind kind,
    uint64_t below);

/*
 * We are full: give these sockets back (stop their watchers first). None of the
 * kind SHARED is dealt to us until proc_sockets_want(p), unless every listener
 * is full: who connects then is to be refused. A supervisor that is new is told
 * again.
 */
void proc_sockets_return(struct proc *p, const uint32_t *indexes, size_t n);
void proc_sockets_want(struct proc *p);

/*
 * Does another process serve in our place until we have taken it? Then no
 * handler but `reload`, `drain` and `handover` is called before proc_taken, and
 * without a supervisor, or when it is to drain, this process ends.
 */
bool proc_is_successor(const struct proc *p);

/* We know all that the other one told: when it dies now, its place is ours. */
void proc_prepared(struct proc *p);

/* The place is ours: we are ready. Peers and segments known by now come to
 * their handlers within this call. */
void proc_taken(struct proc *p);

/* It came to nothing: we serve on as before. A successor ends by itself. */
void proc_handover_failed(struct proc *p, const char *why);

/* Run the loop until proc_exit; returns the exit code. The metrics registered
 * by now are moved to a segment and handed over. */
int proc_run(struct proc *p);

/* Leave the loop at the end of this turn with this sysexits.h code. */
void proc_exit(struct proc *p, int code);

/* Begin to drain as if the supervisor had asked for it. */
void proc_drain(struct proc *p);

/* Free *p and what it holds; NULL is fine. */
void proc_free(struct proc **p);

/* "router", "session_store": the name without its number. NULL if out of range. */
const char *proc_kind_name(enum proc_kind k);
const char *proc_state_name(enum proc_state s);
/* "mqttc-session-store": what is started for session_store.0. */
const char *proc_kind_program(enum proc_kind k);

/* listener.3 -> PROC_LISTENER, 3. ERR_INVAL if it is no process name. */
int proc_name_parse(const char *name, enum proc_kind *kind,
    uint32_t *instance);

#endif

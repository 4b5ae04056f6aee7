/*
 * super.h: the keeper of a node. One struct, one loop, one thread; each file
 * here is one conversation it takes part in, decisions are in lib/keep.
 *
 *	main.c		options, start, signals, the end
 *	setup.c		directories, lock, user, descriptor limit
 *	sockets.c	listening sockets: made once, dealt
 *	segments.c	shared memory kept for its makers
 *	conn.c		supervise.sock: what peers and tools say and hear
 *	child.c		processes: fork, pidfd, the table's actions
 *	logs.c		their lines, to stderr or to files
 *	reload.c	the configuration, read again
 *	notify.c	what the service manager hears
 *	scale.c		more listeners, or fewer
 *	shards.c	as many session stores as at the first start
 *	upgrade.c	a process takes the place of another
 */
#ifndef SUPER_H
#define SUPER_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/util.h"
#include "conf/conf.h"
#include "keep/deal.h"
#include "keep/lines.h"
#include "keep/table.h"
#include "proc/cmdline.h"
#include "proc/proc.h"
#include "metric/metric.h"
#include "proc/sup.h"

#define TOOLS_MAX	64		/* connected at once */
#define SEGMENTS_MAX	2048		/* memory kept at once */

struct conn;
struct super;

struct log_source {			/* a pipe lines come from */
	struct super	*s;
	const char	*name;
	int		 fd;		/* -1: none */
	ev_io		 reader;
	struct line_cutter cutter;
	int		 file;		/* with log.dir; -1 */
	uint64_t	 file_bytes;
	uint64_t	 lost;		/* lines the disk did not take */
};

enum upgrade_stage {
	UPGRADE_NONE,
	UPGRADE_STARTED,		/* has said nothing yet */
	UPGRADE_GREETED,		/* they are to be told of each other */
	UPGRADE_GIVEN,			/* both have been */
	UPGRADE_PREPARED,		/* it has everything */
	UPGRADE_LEAVING,		/* it has the row, here is the old one */
	UPGRADE_FAILED			/* it is being ended */
};

/* Another process beside that of the row: to be its successor, or (LEAVING)
 * the one before it. */
struct upgrade {
	enum upgrade_stage stage;
	pid_t		 pid;
	int		 pidfd;
	bool		 ours;
	ev_io		 ended;
	struct conn	*conn;
	struct log_source log;
	uint64_t	 number;	/* SupWelcome.successor */
	uint64_t	 deadline_ms;
	int		 give, take;	/* ends to be sent; -1 */
	uint64_t	 done;		/* upgrades that are over */
	int		 code;		/* of the last one, and what to say */
	char		 text[640];
};

struct child {				/* beside keep_proc of the same index */
	struct super	*s;
	size_t		 i;
	int		 pidfd;		/* -1: does not run */
	bool		 ours;		/* our own child, not an adopted one */
	ev_io		 ended;
	struct conn	*conn;		/* NULL: none (yet) */
	bool		 full;		/* wants no shared sockets */
	bool		 tell;		/* its set again, even if unchanged */
	bool		 drain;		/* to be told */
	uint64_t	 deal_version;	/* when its sockets last changed */
	struct log_source log;
	struct upgrade	 up;
};

struct listening {
	struct proc_socket	s;
	uint64_t		cookie;
};

struct segment {
	bool			used, dropped;
	struct proc_segment	s;
};

/* What the supervisor counts. */
extern struct metric m_restarts, m_hung, m_dealt, m_refused, m_log_dropped,
    m_segments_refused, m_upgrades, m_upgrades_failed;

struct super {
	struct ev_loop	*loop;
	struct cmdline	 cmd;
	struct conf	 conf;
	int		 conf_fd;	/* memfd, merged configuration */
	uint64_t	 conf_generation;
	char		 bin[PROC_ENDPOINT_MAX * 40];	/* our directory */
	uint64_t	 started_ms;
	int		 lock_fd, dir_fd;
	uint64_t	 incarnation, last_incarnation;
	uid_t		 user;		/* whom we serve as */
	gid_t		 group;
	bool		 said_ready, adopting, stopping;

	struct keep_table table;
	struct keep_proc *procs;
	struct child	*children;
	size_t		 nprocs;		/* rows in use; room: PROC_PEERS_MAX */
	uint32_t	 listeners;	/* wanted; the others are retired */
	bool		 scaled;	/* somebody asked for that many */

	int		 sock;		/* supervise.sock */
	ev_io		 acceptor;
	struct conn	*conns;
	size_t		 nothers;	/* of those, no process of the table */
	bool		 sockets_changed;
	uint64_t	 peers_version, deal_version, segments_version;
	uint64_t	 peers_shown;	/* the version peers are told of */
	uint64_t	 peers_next_ms;	/* not before this: there are many */

	struct listening *listening;
	struct deal_socket *deals;	/* beside it */
	size_t		 nlistening;

	struct segment	 segments[SEGMENTS_MAX];

	struct log_source own;		/* our own lines */
	struct line_ring ring;		/* on their way to stderr */
	int		 err_fd;	/* what was stderr, non-blocking */
	ev_io		 err_writer;
	bool		 err_stuck;

	ev_timer	 tick;
	ev_timer	 adopt_timer;
	ev_prepare	 before;
	ev_signal	 term, intr, hup, usr1;
	struct sup_msg	 msg;		/* scratch, large */
};

uint64_t super_now_ms(void);

/* setup.c: each ends the program with one clear line if it cannot. */
void setup_user(struct super *s);
void setup_fd_limit(void);
void setup_dirs(struct super *s);
bool setup_lock(struct super *s);	/* true: somebody died here before */
void setup_programs(struct super *s);
void setup_drop_root(struct super *s);
void setup_clean_ipc(struct super *s);

/* sockets.c */
void sockets_bind(struct super *s);	/* what is missing; ends the program */
int sockets_make(struct super *s, uint32_t listeners, char *why, size_t size);
int sockets_adopt(struct super *s, const SupSocket *row, int fd, size_t child);
void sockets_deal(struct super *s);
const char *sockets_where(struct super *s, char *out, size_t size);

/* segments.c */
int segment_keep(struct super *s, const SupSegment *m, const int *fds,
    size_t nfds);
void segments_drop_below(struct super *s, const char *owner, uint32_t kind,
    uint64_t below);
void segments_of_dead(struct super *s, const char *owner);
void segments_sweep(struct super *s);
void segments_metrics(struct super *s);	/* our own, kept like all others */

/* conn.c */
void conn_listen(struct super *s);
void conn_flush_all(struct super *s);
void conn_close(struct conn *c);
void conn_close_all(struct super *s);
void conn_last_words(struct conn *c);	/* of a process that ended */
void conn_hear(struct conn *c);		/* what it has said already */
void conn_ping(struct child *c);
bool conn_has_unread(const struct conn *c);
void conn_forget_segment(struct super *s, size_t slot);
bool conn_any_knows(struct super *s, size_t slot);
void conn_has_socket(struct conn *c, uint32_t index);
bool conn_can_handover(const struct conn *c);
/* `row` is that of the row now, `other` (or NULL) that of who leaves. */
void conn_changed_places(struct conn *row, struct conn *other);

/* child.c */
void child_table(struct super *s);	/* rows from the configuration */
void child_rows(struct super *s, uint32_t listeners);	/* at least so many */
void child_act(struct super *s);	/* what the table says is due */
void child_adopt(struct super *s, size_t i, pid_t pid, uint64_t incarnation,
    enum keep_phase phase);
uint64_t child_incarnation(struct super *s);
pid_t child_spawn(struct super *s, const struct keep_proc *p,
    struct log_source *log);		/* -1: see errno */
void child_how_ended(int pidfd, bool ours, struct keep_end *end);
void child_on_ended(EV_P_ ev_io *w, int revents);

/* logs.c */
void logs_open(struct super *s);
void logs_capture_own(struct super *s);
void log_source_init(struct super *s, struct log_source *l, const char *name);
int log_source_pipe(struct log_source *l);	/* the writing end, or -1 */
void log_source_end(struct log_source *l);
void log_source_swap(struct log_source *a, struct log_source *b);
void logs_finish(struct super *s);

/*
 * scale.c. scale_to: 0 or a code of sysexits.h, and why not; the rest happens
 * by and by. scale_is_done: ERR_AGAIN until it has; then such a code, and text.
 */
void scale_read(struct super *s);	/* what a supervisor before us was told */
void scale_forget(void);
int scale_to(struct super *s, uint32_t listeners, char *why, size_t size);
int scale_is_done(struct super *s, uint32_t listeners, char *text,
    size_t size);
int scale_adopt(struct super *s, const char *name, enum keep_phase phase);

/* shards.c: ends the program if the node was made with another number. */
void shards_check(struct super *s);

/*
 * upgrade.c. upgrade_begin: 0 or a code of sysexits.h, and why not; when it is
 * over children[i].up.done has risen, .code and .text are the answer.
 */
int upgrade_begin(struct super *s, size_t i, char *why, size_t size);
void upgrade_fail(struct child *ch, int code, const char *why);
bool upgrade_greeted(struct child *ch, struct conn *c, unsigned wants);
void upgrade_sent(struct child *ch, bool give);
int upgrade_heard(struct child *ch, bool successor, const SupHandover *m);
bool upgrade_old_ended(struct child *ch);
void upgrade_act(struct super *s);
uint64_t upgrade_deadline(const struct super *s, uint64_t at);

/* notify.c: nothing without NOTIFY_SOCKET. */
void notify_open(void);
void notify_ready(void);
void notify_stopping(void);
void notify_reloading(void);
void notify_status(const struct super *s);

/* reload.c: 0, or a code of sysexits.h; text says what changed or what is
 * wrong. */
int reload_conf(struct super *s, char *text, size_t size);
int reload_publish(struct super *s);

#endif

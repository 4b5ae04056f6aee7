/*
 * The processes: started and ended as the table says, watched by pidfd, so
 * that those a former supervisor started are watched like our own.
 */
#include "super.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

#define INCARNATION_FILE	"incarnation"	/* in node.data_dir */

/* --- The table ----------------------------------------------------------- */

/* Listeners need all others, the stores what leads to them. */
enum { ROUTER_RANK, STORE_RANK, LINK_RANK, LISTENER_RANK };

static void
row_init(struct super *s, size_t i, enum proc_kind kind, uint32_t instance,
    unsigned rank)
{
	struct keep_proc	*p = &s->procs[i];
	struct child		*ch = &s->children[i];

	p->kind = (unsigned)kind;
	p->instance = instance;
	p->rank = rank;
	if (kind == PROC_ROUTER)
		snprintf(p->name, sizeof(p->name), "%s",
		    proc_kind_name(kind));
	else
		snprintf(p->name, sizeof(p->name), "%s.%u",
		    proc_kind_name(kind), instance);
	ch->s = s;
	ch->i = i;
	ch->pidfd = -1;
	log_source_init(s, &ch->log, p->name);
	log_source_init(s, &ch->up.log, p->name);
	ch->up.pidfd = ch->up.give = ch->up.take = -1;
}

/* Rows for so many listeners; those that were not there are gone. */
void
child_rows(struct super *s, uint32_t listeners)
{
	uint32_t	i;
	size_t		k;

	for (k = i = 0; k < s->nprocs; k++)
		i += s->procs[k].kind == PROC_LISTENER;
	for (; i < listeners; i++) {
		s->procs[s->nprocs].phase = KEEP_GONE;
		row_init(s, s->nprocs++, PROC_LISTENER, i, LISTENER_RANK);
	}
	keep_grow(&s->table, s->nprocs);
}

void
child_table(struct super *s)
{
	struct keep_limits	lim = {
		s->conf.supervise_hang_timeout_ms,
		s->conf.supervise_stop_timeout_ms,
		s->conf.supervise_backoff_max_ms,
	};
	uint32_t		i, links = 0;

	s->listeners = s->conf.listener_processes;
	if (s->conf.cluster_discovery != CONF_DISCOVERY_SINGLETON)
		links = s->conf.cluster_link_processes;
	if (s->listeners + s->conf.session_store_processes + links >=
	    PROC_PEERS_MAX)
		fatal(EX_CONFIG, "conf.bad", "listener.processes: a node has "
		    "at most %d processes", PROC_PEERS_MAX);
	/* All there may ever be: rows do not move, and cost nothing unused. */
	s->procs = calloc(PROC_PEERS_MAX, sizeof(*s->procs));
	s->children = calloc(PROC_PEERS_MAX, sizeof(*s->children));
	if (s->procs == NULL || s->children == NULL)
		fatal(EX_OSERR, "table", "%s", err_str(ERR_NOMEM));
	row_init(s, s->nprocs++, PROC_ROUTER, 0, ROUTER_RANK);
	for (i = 0; i < s->conf.session_store_processes; i++) {
		s->procs[s->nprocs].patient = true;
		row_init(s, s->nprocs++, PROC_SESSION_STORE, i, STORE_RANK);
	}
	for (i = 0; i < links; i++)
		row_init(s, s->nprocs++, PROC_CLUSTER_LINK, i, LINK_RANK);
	for (i = 0; i < s->listeners; i++)
		row_init(s, s->nprocs++, PROC_LISTENER, i, LISTENER_RANK);
	keep_init(&s->table, s->procs, s->nprocs, &lim, super_now_ms());
}

/* --- Incarnations -------------------------------------------------------- */

static uint64_t
read_incarnation(int dir)
{
	char	text[32] = "";
	int	fd = openat(dir, INCARNATION_FILE, O_RDONLY | O_CLOEXEC);
	ssize_t	n;

	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtoull(text, NULL, 10) : 0;
}

static int
write_incarnation(int dir, uint64_t v)
{
	char	text[32];
	int	fd, n, rc;

	n = snprintf(text, sizeof(text), "%llu\n", (unsigned long long)v);
	fd = openat(dir, INCARNATION_FILE ".new",
	    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return ERR_IO;
	rc = !fault_hit("supervise.incarnation") &&
	    write(fd, text, (size_t)n) == n ? 0 : ERR_IO;
	if (close(fd) < 0)
		rc = ERR_IO;
	if (rc == 0 && renameat(dir, INCARNATION_FILE ".new", dir,
	    INCARNATION_FILE) < 0)
		rc = ERR_IO;
	return rc;
}

/*
 * Milliseconds since 1970, raised to one more than any before: rises over
 * restarts, over those of the supervisor, and when the clock steps back.
 */
uint64_t
child_incarnation(struct super *s)
{
	uint64_t	now = clock_wall_ns() / 1000000;

	if (s->last_incarnation == 0)
		s->last_incarnation = read_incarnation(s->dir_fd);
	s->last_incarnation = MAX(now, s->last_incarnation + 1);
	if (write_incarnation(s->dir_fd, s->last_incarnation) < 0)
		log_warn("incarnation.unwritten", "why=%s",
		    log_quote(strerror(errno)));
	return s->last_incarnation;
}

/* --- The end of one ------------------------------------------------------ */

void
child_how_ended(int pidfd, bool ours, struct keep_end *end)
{
	siginfo_t	info;

	memset(end, 0, sizeof(*end));
	memset(&info, 0, sizeof(info));
	if (!ours || waitid(P_PIDFD, (id_t)pidfd, &info,
	    WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		return;
	end->known = true;
	if (info.si_code == CLD_EXITED)
		end->code = info.si_status;
	else
		end->signal = info.si_status;
}

static void
remove_endpoint(const struct keep_proc *p)
{
	char	path[PROC_ENDPOINT_MAX];

	snprintf(path, sizeof(path), "%s.%llu.ipc", p->name,
	    (unsigned long long)p->incarnation);
	unlink(path);
}

static void
log_died(const struct keep_proc *p, uint64_t now)
{
	if (p->phase == KEEP_HELD)
		log_error("process.held", "name=%s why=%s", p->name,
		    log_quote(p->note));
	else
		log_warn("process.died", "name=%s why=%s start_in_ms=%llu",
		    p->name, log_quote(p->note),
		    (unsigned long long)(p->due_ms - now));
}

void
child_on_ended(EV_P_ ev_io *w, int revents UNUSED)
{
	struct child		*ch = w->data;
	struct super		*s = ch->s;
	struct keep_proc	*p = &s->procs[ch->i];
	uint64_t		 now = super_now_ms();
	struct keep_end		 end;
	bool			 asked = p->again || p->retire ||
				     s->table.stopping;

	ev_io_stop(EV_A_ w);
	if (ch->conn != NULL)
		conn_last_words(ch->conn);
	child_how_ended(ch->pidfd, ch->ours, &end);
	close(ch->pidfd);
	ch->pidfd = -1;
	if (upgrade_old_ended(ch))
		return;
	ch->full = ch->drain = false;
	remove_endpoint(p);
	segments_of_dead(s, p->name);
	keep_ended(&s->table, ch->i, &end, now);
	if (asked)
		log_info("process.ended", "name=%s why=%s", p->name,
		    log_quote(p->note));
	else {
		metric_inc(&m_restarts);
		log_died(p, now);
	}
	s->peers_version++;
	s->sockets_changed = true;
	log_source_end(&ch->log);
}

static int
watch(struct child *ch, pid_t pid)
{
	if (fault_hit("supervise.watch") ||
	    (ch->pidfd = pidfd_open(pid, 0)) < 0)
		return ERR_IO;
	fcntl(ch->pidfd, F_SETFD, FD_CLOEXEC);
	ev_io_init(&ch->ended, child_on_ended, ch->pidfd, EV_READ);
	ch->ended.data = ch;
	ev_io_start(ch->s->loop, &ch->ended);
	return 0;
}

void
child_adopt(struct super *s, size_t i, pid_t pid, uint64_t incarnation,
    enum keep_phase phase)
{
	struct child	*ch = &s->children[i];

	ch->ours = false;
	if (watch(ch, pid) < 0) {	/* gone already: its end comes as EOF */
		if (ch->conn != NULL)
			conn_close(ch->conn);
		return;
	}
	s->last_incarnation = MAX(s->last_incarnation, incarnation);
	keep_adopted(&s->table, i, pid, incarnation, phase, super_now_ms());
	log_info("process.adopted", "name=%s pid=%ld incarnation=%llu",
	    s->procs[i].name, (long)pid, (unsigned long long)incarnation);
	s->peers_version++;
	s->sockets_changed = true;
}

/* --- The start of one ---------------------------------------------------- */

static void
run(struct super *s, const struct keep_proc *p, int err, sigset_t *mask)
{
	static const int	 ours[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };
	char			 path[sizeof(s->bin) + 64];
	char			*argv[] = { path, (char[]){ "-n" },
				    (char *)(uintptr_t)p->name, NULL };
	size_t			 i;
	int			 null;

	for (i = 0; i < NELEM(ours); i++)
		signal(ours[i], SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	setsid();		/* a terminal's ^C is for the supervisor */
	null = open("/dev/null", O_RDONLY);
	if (null >= 0 && null != STDIN_FILENO) {
		dup2(null, STDIN_FILENO);
		close(null);
	}
	dup2(err, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	setenv("SUPERVISE_SOCK", SUP_SOCK, 1);
	snprintf(path, sizeof(path), "%s/%s", s->bin,
	    proc_kind_program((enum proc_kind)p->kind));
	execv(path, argv);
	dprintf(STDERR_FILENO, "cannot run '%s': %s\n", path,
	    strerror(errno));
	_exit(EX_OSFILE);
}

pid_t
child_spawn(struct super *s, const struct keep_proc *p, struct log_source *log)
{
	int		err = log_source_pipe(log), saved;
	sigset_t	all, old;
	pid_t		pid;

	if (err < 0)
		return -1;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	pid = fault_hit("supervise.fork") ? -1 : fork();
	saved = errno;
	if (pid == 0)
		run(s, p, err, &old);
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(err);
	errno = saved;
	return pid;
}

static void
start(struct super *s, size_t i)
{
	struct child	*ch = &s->children[i];
	uint64_t	 inc = child_incarnation(s), now = super_now_ms();
	pid_t		 pid;

	ch->full = ch->drain = false;
	if ((pid = child_spawn(s, &s->procs[i], &ch->log)) < 0) {
		keep_failed(&s->table, i, strerror(errno), now);
		log_error("process.fork", "name=%s why=%s", s->procs[i].name,
		    log_quote(strerror(errno)));
		return;
	}
	ch->ours = true;
	keep_started(&s->table, i, pid, inc, now);
	if (watch(ch, pid) < 0) {
		log_error("process.watch", "name=%s why=%s", s->procs[i].name,
		    log_quote(strerror(errno)));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		keep_failed(&s->table, i, "cannot be watched", now);
		return;
	}
	log_info("process.started", "name=%s pid=%ld incarnation=%llu",
	    s->procs[i].name, (long)pid, (unsigned long long)inc);
	s->peers_version++;
}

/* Nobody is silent whom we have only not listened to. */
static void
look_for_unread(struct super *s)
{
	uint64_t	now = super_now_ms();
	size_t		i;

	for (i = 0; i < s->nprocs; i++)
		if (keep_runs(&s->procs[i]) && now - s->procs[i].heard_ms >
		    s->table.limits.hang_ms / 2 &&
		    conn_has_unread(s->children[i].conn))
			keep_heard(&s->table, i, now);
}

void
child_act(struct super *s)
{
	struct keep_action	 a;
	struct child		*ch;

	look_for_unread(s);
	upgrade_act(s);
	while ((a = keep_next(&s->table, super_now_ms())).what !=
	    KEEP_NOTHING) {
		ch = &s->children[a.i];
		switch (a.what) {
		case KEEP_NOTHING:
			break;
		case KEEP_START:
			start(s, a.i);
			break;
		case KEEP_PING:
			conn_ping(ch);
			break;
		case KEEP_DRAIN:
			ch->drain = true;
			s->peers_version++;
			s->sockets_changed = true;
			break;
		case KEEP_KILL:
			metric_inc(&m_hung);
			log_warn("process.killed", "name=%s why=%s",
			    s->procs[a.i].name, s->procs[a.i].hung ?
			    "silent" : "\"did not end\"");
			if (pidfd_send_signal(ch->pidfd, SIGKILL, NULL, 0) < 0)
				log_error("process.kill", "name=%s why=%s",
				    s->procs[a.i].name,
				    log_quote(strerror(errno)));
			break;
		}
	}
}

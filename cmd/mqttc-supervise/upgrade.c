/*
 * A process takes the place of another of the same name and incarnation. The
 * new one runs beside the row of the table, which stays the old one's, until
 * it has what the old one had; then they change places. What may go wrong
 * before that ends the new one, and the old one serves on. When the old one
 * dies, the place is the new one's from the moment it had everything.
 */
#include "super.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

#define START_MS	10000	/* from exec to its hello */
#define HAND_MS_MIN	1000

static uint64_t
hand_ms(const struct super *s)
{
	return MAX(s->table.limits.hang_ms, (uint32_t)HAND_MS_MIN);
}

static void
close_pair(struct upgrade *u)
{
	if (u->give >= 0)
		close(u->give);
	if (u->take >= 0)
		close(u->take);
	u->give = u->take = -1;
}

static void
end_by_force(const struct upgrade *u)
{
	if (u->pidfd >= 0)
		(void)pidfd_send_signal(u->pidfd, SIGKILL, NULL, 0);
}

/* It came to nothing: once the successor has ended, this is the answer. */
void
upgrade_fail(struct child *ch, int code, const char *why)
{
	struct upgrade	*u = &ch->up;

	if (u->stage == UPGRADE_NONE || u->stage >= UPGRADE_LEAVING)
		return;
	u->stage = UPGRADE_FAILED;
	u->code = code;
	snprintf(u->text, sizeof(u->text), "%s was not upgraded: %s",
	    ch->s->procs[ch->i].name, why);
	metric_inc(&m_upgrades_failed);
	log_error("process.upgrade_failed", "name=%s pid=%ld why=%s",
	    ch->s->procs[ch->i].name, (long)u->pid, log_quote(why));
	close_pair(u);
	end_by_force(u);
}

/* Nobody is left in u: whoever asked is answered. */
static void
over(struct child *ch)
{
	struct upgrade	*u = &ch->up;

	if (u->conn != NULL)
		conn_close(u->conn);
	u->conn = NULL;
	if (u->pidfd >= 0) {
		ev_io_stop(ch->s->loop, &u->ended);
		close(u->pidfd);
	}
	u->pidfd = -1;
	u->pid = 0;
	close_pair(u);
	log_source_end(&u->log);
	u->stage = UPGRADE_NONE;
	u->done++;
}

static void
on_other_ended(EV_P_ ev_io *w, int revents UNUSED)
{
	struct child		*ch = w->data;
	struct upgrade		*u = &ch->up;
	struct keep_end		 end;
	char			 why[128];
	int			 code = EX_TEMPFAIL;

	(void)loop;
	if (u->conn != NULL && u->stage != UPGRADE_LEAVING) {
		conn_hear(u->conn);		/* perhaps why */
		if (u->stage == UPGRADE_LEAVING)
			return;		/* it had taken: it is the row's */
	}
	child_how_ended(u->pidfd, u->ours, &end);
	log_source_end(&u->log);
	if (u->stage != UPGRADE_LEAVING && u->stage != UPGRADE_FAILED) {
		if (end.known && end.signal != 0)
			snprintf(why, sizeof(why), "the new process ended by "
			    "signal %d", end.signal);
		else
			snprintf(why, sizeof(why), "the new process ended "
			    "with exit code %d", end.code);
		if (end.signal == 0 && end.code >= EX__BASE &&
		    end.code <= EX__MAX)
			code = end.code;
		upgrade_fail(ch, code, why);
	}
	over(ch);
}

static void
watch(struct child *ch, ev_io *w, void (*cb)(EV_P_ ev_io *, int), int pidfd)
{
	ev_io_init(w, cb, pidfd, EV_READ);
	w->data = ch;
	ev_io_start(ch->s->loop, w);
}

/* The row is the new one's; what was the row's is in u. */
static void
change_places(struct child *ch)
{
	struct super		*s = ch->s;
	struct upgrade		*u = &ch->up;
	struct keep_proc	*p = &s->procs[ch->i];
	pid_t			 pid = p->pid;
	int			 pidfd = ch->pidfd;
	bool			 ours = ch->ours;
	struct conn		*c = ch->conn;

	if (pidfd >= 0)
		ev_io_stop(s->loop, &ch->ended);
	ev_io_stop(s->loop, &u->ended);
	ch->pidfd = u->pidfd;
	ch->ours = u->ours;
	ch->conn = u->conn;
	keep_replaced(&s->table, ch->i, u->pid, super_now_ms());
	u->pid = pid;
	u->pidfd = pidfd;
	u->ours = ours;
	u->conn = c;
	log_source_swap(&ch->log, &u->log);
	watch(ch, &ch->ended, child_on_ended, ch->pidfd);
	if (pidfd >= 0)
		watch(ch, &u->ended, on_other_ended, pidfd);
	conn_changed_places(ch->conn, u->conn);
	close_pair(u);
	ch->full = false;		/* it will say so itself */
	ch->drain = p->phase == KEEP_DRAINING;
	ch->deal_version = ++s->deal_version;
	segments_drop_below(s, p->name, PROC_SEGMENT_METRICS, u->number);
	u->stage = UPGRADE_LEAVING;
	u->deadline_ms = super_now_ms() + hand_ms(s);
	u->code = 0;
	snprintf(u->text, sizeof(u->text), "%s is upgraded: pid %ld has taken "
	    "over from pid %ld", p->name, (long)p->pid, (long)u->pid);
	metric_inc(&m_upgrades);
	log_info("process.upgraded", "name=%s pid=%ld before=%ld "
	    "incarnation=%llu", p->name, (long)p->pid, (long)u->pid,
	    (unsigned long long)p->incarnation);
	s->peers_version++;
	s->sockets_changed = true;
}

/* The old one said why not, or the new one how far it is. */
int
upgrade_heard(struct child *ch, bool successor, const SupHandover *m)
{
	struct upgrade	*u = &ch->up;

	switch (m->op) {
	case SUP_HANDOVER_FAILED:
		upgrade_fail(ch, EX_TEMPFAIL, m->why);
		return 0;
	case SUP_HANDOVER_PREPARED:
		if (!successor)
			return ERR_PROTO;
		if (u->stage == UPGRADE_GREETED || u->stage == UPGRADE_GIVEN) {
			u->stage = UPGRADE_PREPARED;
			u->deadline_ms = super_now_ms() + hand_ms(ch->s);
			(void)fault_hit("supervise.upgrade");
		}
		return 0;
	case SUP_HANDOVER_TAKEN:
		/* Without `successor` it has been in its place for a while. */
		if (successor && u->stage != UPGRADE_NONE &&
		    u->stage < UPGRADE_LEAVING)
			change_places(ch);
		return 0;
	case SUP_HANDOVER_GIVE:
	case SUP_HANDOVER_TAKE:
		break;
	}
	return ERR_PROTO;
}

/* The successor said hello: the two are connected to each other. */
bool
upgrade_greeted(struct child *ch, struct conn *c, unsigned wants)
{
	struct upgrade	*u = &ch->up;
	int		 pair[2];

	u->conn = c;
	u->stage = UPGRADE_GREETED;
	u->deadline_ms = super_now_ms() + hand_ms(ch->s);
	(void)fault_hit("supervise.upgrade");
	if (!(wants & PROC_CAN_HANDOVER)) {
		upgrade_fail(ch, EX_UNAVAILABLE,
		    "the new program does not know how to take over");
		return false;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
	    pair) < 0) {
		upgrade_fail(ch, EX_OSERR, strerror(errno));
		return false;
	}
	u->give = pair[0];
	u->take = pair[1];
	return true;
}

/* One end of theirs has left to who it is for. */
void
upgrade_sent(struct child *ch, bool give)
{
	struct upgrade	*u = &ch->up;
	int		*fd = give ? &u->give : &u->take;

	close(*fd);
	*fd = -1;
	if (give && u->stage == UPGRADE_GREETED)
		u->stage = UPGRADE_GIVEN;
	(void)fault_hit("supervise.upgrade");
}

/*
 * The process of the row ended. True: its place is the successor's, who knew
 * everything.
 */
bool
upgrade_old_ended(struct child *ch)
{
	struct upgrade	*u = &ch->up;

	/* We may see its end before what was said before it. */
	if (u->conn != NULL && u->stage != UPGRADE_LEAVING)
		conn_hear(u->conn);
	if (u->stage == UPGRADE_PREPARED)
		change_places(ch);
	if (u->stage == UPGRADE_LEAVING && u->pidfd < 0) {
		over(ch);
		return true;
	}
	if (u->stage != UPGRADE_LEAVING)
		upgrade_fail(ch, EX_TEMPFAIL, "the old process died");
	return false;
}

/* --- Beginning ----------------------------------------------------------- */

static int
refuse(char *why, size_t size, int code, const char *name, const char *text)
{
	snprintf(why, size, "%s %s", name, text);
	return code;
}

static int
may_begin(struct super *s, size_t i, char *why, size_t size)
{
	const struct keep_proc	*p = &s->procs[i];
	const struct child	*ch = &s->children[i];

	if (p->kind != PROC_LISTENER)
		return refuse(why, size, EX_USAGE, p->name,
		    "has no clients to hand over: restart it");
	if (s->table.stopping || s->adopting)
		return refuse(why, size, EX_TEMPFAIL, "the",
		    s->table.stopping ? "node is stopping" :
		    "supervisor is still looking who is there");
	if (ch->up.stage != UPGRADE_NONE)
		return refuse(why, size, EX_TEMPFAIL, p->name,
		    "is being upgraded already");
	if (p->phase == KEEP_DRAINING || p->again || p->retire)
		return refuse(why, size, EX_TEMPFAIL, p->name, "is draining");
	if (p->phase != KEEP_READY || ch->conn == NULL)
		return refuse(why, size, EX_TEMPFAIL, p->name, "is not ready");
	if (!conn_can_handover(ch->conn))
		return refuse(why, size, EX_UNAVAILABLE, p->name,
		    "does not know how to hand over: restart it");
	return 0;
}

int
upgrade_begin(struct super *s, size_t i, char *why, size_t size)
{
	struct child		*ch = &s->children[i];
	struct upgrade		*u = &ch->up;
	const struct keep_proc	*p = &s->procs[i];
	int			 code;

	if ((code = may_begin(s, i, why, size)) != 0)
		return code;
	u->give = u->take = -1;
	u->number = child_incarnation(s);
	if ((u->pid = child_spawn(s, p, &u->log)) < 0 ||
	    (u->pidfd = pidfd_open(u->pid, 0)) < 0) {
		snprintf(why, size, "%s was not upgraded: cannot start a "
		    "process: %s", p->name, strerror(errno));
		if (u->pid > 0) {
			kill(u->pid, SIGKILL);
			waitpid(u->pid, NULL, 0);
		}
		log_source_end(&u->log);
		metric_inc(&m_upgrades_failed);
		log_error("process.upgrade_failed", "name=%s pid=%ld why=%s",
		    p->name, (long)u->pid, log_quote(why));
		u->pid = 0;
		return EX_OSERR;
	}
	u->ours = true;
	u->stage = UPGRADE_STARTED;
	u->deadline_ms = super_now_ms() + MAX(hand_ms(s), (uint64_t)START_MS);
	watch(ch, &u->ended, on_other_ended, u->pidfd);
	log_info("process.upgrade", "name=%s pid=%ld successor=%ld", p->name,
	    (long)p->pid, (long)u->pid);
	(void)fault_hit("supervise.upgrade");
	return 0;
}

/* --- Time ---------------------------------------------------------------- */

/* What is late, and what has become pointless. */
void
upgrade_act(struct super *s)
{
	uint64_t	 now = super_now_ms();
	struct upgrade	*u;
	size_t		 i;

	for (i = 0; i < s->nprocs; i++) {
		const struct keep_proc *p = &s->procs[i];

		u = &s->children[i].up;
		if (u->stage == UPGRADE_NONE)
			continue;
		if (u->stage < UPGRADE_PREPARED && (p->phase != KEEP_READY ||
		    p->again || p->retire || s->table.stopping))
			upgrade_fail(&s->children[i], EX_TEMPFAIL,
			    "it was told to end");
		if (now < u->deadline_ms)
			continue;
		u->deadline_ms = now + hand_ms(s);
		if (u->stage == UPGRADE_LEAVING || u->stage == UPGRADE_FAILED)
			end_by_force(u);
		else
			upgrade_fail(&s->children[i], EX_TEMPFAIL,
			    u->stage == UPGRADE_STARTED ?
			    "the new process says nothing" :
			    "the processes took too long");
	}
}

uint64_t
upgrade_deadline(const struct super *s, uint64_t at)
{
	size_t	i;

	for (i = 0; i < s->nprocs; i++)
		if (s->children[i].up.stage != UPGRADE_NONE)
			at = MIN(at, s->children[i].up.deadline_ms);
	return at;
}

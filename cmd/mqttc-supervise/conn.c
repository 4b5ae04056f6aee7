/*
 * supervise.sock. What peers hear is state, so a connection has no queue: it
 * remembers what it has been sent, and is sent the difference when it has
 * room. One that is stopped costs nothing but its socket buffer.
 */
#include "super.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

#define PACKETS_PER_TURN	32
#define CONN_BACKLOG		512
#define ACCEPTS_PER_TURN	64
#define PEERS_AT_ONCE		32	/* processes of a small node */

enum seg_mark { SEG_UNKNOWN, SEG_SENT, SEG_TO_DROP };

/* What a tool asked for and has not been answered. */
enum asked { ASKED_NOTHING, ASKED_STATUS, ASKED_RESTART, ASKED_SCALE,
	     ASKED_UPGRADE, ASKED_RESULT, ASKED_SEGMENTS };

struct conn {
	struct super	*s;
	struct conn	*next;
	int		 fd;
	ev_io		 reader, writer;
	struct ucred	 peer;
	bool		 greeted, tool, doomed, blocked;
	size_t		 child;		/* of s->children, unless a tool */
	bool		 successor;	/* not of its row: struct upgrade */
	unsigned	 wants;
	bool		 welcome;	/* to be said */
	uint64_t	 conf_sent, peers_sent, deal_sent, segments_sent;
	size_t		 peers_at;	/* rows of the list said so far */
	uint64_t	 peers_now;	/* version these belong to */
	size_t		 deal_at;	/* rows of the set said so far */
	uint64_t	 deal_now;	/* version these belong to */
	bool		 ping;
	uint64_t	 ping_seq;
	int		 err_pipe;	/* goes along with CONF; -1: none */
	uint8_t		 segs[SEGMENTS_MAX];		/* enum seg_mark */
	uint8_t		 socks[PROC_SOCKETS_MAX];	/* by index: sent */

	enum asked	 asked;
	uint64_t	 seq;		/* of that request */
	size_t		 row;		/* STATUS: next one */
	size_t		 target;	/* RESTART: of s->procs; SCALE: to */
	uint64_t	 before;	/* its incarnation, or upgrades, then */
	bool		 every;		/* UPGRADE: all of the kind */
	uint32_t	 code;
	char		 text[1024];
};

/* --- Connections --------------------------------------------------------- */

static struct child *
child_of(struct conn *c)
{
	return c->greeted && !c->tool ? &c->s->children[c->child] : NULL;
}

void
conn_close(struct conn *c)
{
	struct child	*ch = child_of(c);

	if (ch != NULL && ch->conn == c)
		ch->conn = NULL;
	if (ch != NULL && ch->up.conn == c)
		ch->up.conn = NULL;
	c->doomed = true;
}

static void
conn_free(struct conn *c)
{
	ev_io_stop(c->s->loop, &c->reader);
	ev_io_stop(c->s->loop, &c->writer);
	close(c->fd);
	if (c->err_pipe >= 0)
		close(c->err_pipe);
	if (!c->greeted || c->tool)
		c->s->nothers--;
	free(c);
}

void
conn_close_all(struct super *s)
{
	struct conn	*c;

	while ((c = s->conns) != NULL) {
		s->conns = c->next;
		conn_free(c);
	}
}

bool
conn_any_knows(struct super *s, size_t slot)
{
	struct conn	*c;

	for (c = s->conns; c != NULL; c = c->next)
		if (c->segs[slot] != SEG_UNKNOWN)
			return true;
	return false;
}

void
conn_forget_segment(struct super *s, size_t slot)
{
	struct conn	*c;

	for (c = s->conns; c != NULL; c = c->next)
		c->segs[slot] = c->segs[slot] == SEG_SENT ? SEG_TO_DROP :
		    SEG_UNKNOWN;
}

void
conn_has_socket(struct conn *c, uint32_t index)
{
	if (c != NULL)
		c->socks[index] = true;
}

/* It has spoken; we have not listened. */
bool
conn_has_unread(const struct conn *c)
{
	struct pollfd	p = { .events = POLLIN };

	if (c == NULL || c->doomed)
		return false;
	p.fd = c->fd;
	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

bool
conn_can_handover(const struct conn *c)
{
	return c->wants & PROC_CAN_HANDOVER;
}

void
conn_changed_places(struct conn *row, struct conn *other)
{
	if (row != NULL)
		row->successor = false;
	if (other != NULL)
		other->successor = true;
}

void
conn_ping(struct child *ch)
{
	if (ch->conn != NULL)
		ch->conn->ping = true;
}

/* --- What we say --------------------------------------------------------- */

/* Send what is in the scratch message. */
static int
say(struct conn *c, const int *fds, size_t nfds)
{
	if (fault_hit("supervise.send"))
		return ERR_AGAIN;
	return sup_send(c->fd, &c->s->msg, fds, nfds);
}

static int
say_welcome(struct conn *c, uint32_t refused, const char *why)
{
	struct sup_msg	*msg = &c->s->msg;
	SupWelcome	*m = &msg->u.welcome;

	*m = (SupWelcome)SupWelcome_init_zero;
	msg->kind = KIND_SUP_WELCOME;
	m->version = PROTO_VERSION;
	SUP_TEXT(m->node, c->s->conf.node_name);
	m->refused = refused;
	SUP_TEXT(m->why, why);
	if (child_of(c) != NULL) {
		SUP_TEXT(m->name, c->s->procs[c->child].name);
		m->incarnation = c->s->procs[c->child].incarnation;
		if (c->successor)
			m->successor = child_of(c)->up.number;
	}
	return say(c, NULL, 0);
}

static void
refuse(struct conn *c, int code, const char *why)
{
	metric_inc(&m_refused);
	(void)say_welcome(c, (uint32_t)code, why);
	conn_close(c);
}

static int
say_conf(struct conn *c)
{
	struct sup_msg	*msg = &c->s->msg;
	int		 fds[2] = { c->s->conf_fd, c->err_pipe }, rc;

	msg->u.conf = (SupConf)SupConf_init_zero;
	msg->kind = KIND_SUP_CONF;
	msg->u.conf.generation = c->s->conf_generation;
	rc = say(c, fds, c->err_pipe >= 0 ? 2 : 1);
	if (rc == 0 && c->err_pipe >= 0) {
		close(c->err_pipe);
		c->err_pipe = -1;
	}
	return rc;
}

static enum proc_state
state_of(const struct keep_proc *p)
{
	switch (p->phase) {
	case KEEP_STARTING:
		return PROC_STARTING;
	case KEEP_READY:
		return PROC_READY;
	case KEEP_DRAINING:
		return PROC_DRAINING;
	case KEEP_DOWN:
	case KEEP_HELD:
	case KEEP_GONE:
	case KEEP_NPHASES:
		break;
	}
	return PROC_DOWN;
}

static void
peer_row(SupPeer *row, const struct keep_proc *p)
{
	*row = (SupPeer)SupPeer_init_zero;
	SUP_TEXT(row->name, p->name);
	row->kind = p->kind;
	row->instance = p->instance;
	row->incarnation = p->incarnation;
	if (p->incarnation != 0)
		snprintf(row->endpoint, sizeof(row->endpoint),
		    "ipc://%s.%llu.ipc", p->name,
		    (unsigned long long)p->incarnation);
	row->state = (uint32_t)state_of(p);
	row->pid = (uint32_t)p->pid;
}

/* The full list, in packets; begun anew when it changes on the way. */
static int
say_peers(struct conn *c)
{
	struct super	*s = c->s;
	SupPeers	*m = &s->msg.u.peers;
	size_t		 at;
	int		 rc;

	if (c->peers_now != s->peers_shown) {
		c->peers_now = s->peers_shown;
		c->peers_at = 0;
	}
	while (c->peers_sent != c->peers_now) {
		s->msg.kind = KIND_SUP_PEERS;
		m->first = c->peers_at == 0;
		m->peers_count = 0;
		for (at = c->peers_at; at < s->nprocs &&
		    m->peers_count < NELEM(m->peers); at++)
			if (s->procs[at].phase != KEEP_GONE)
				peer_row(&m->peers[m->peers_count++],
				    &s->procs[at]);
		m->last = at == s->nprocs;
		if ((rc = say(c, NULL, 0)) < 0)
			return rc;
		c->peers_at = at;
		if (m->last)
			c->peers_sent = c->peers_now;
	}
	return 0;
}

static bool
wants_segment(const struct conn *c, const struct segment *g)
{
	if (!g->used || g->dropped)
		return false;
	switch (g->s.kind) {
	case PROC_SEGMENT_FIB:
		return c->wants & PROC_WANT_FIB;
	case PROC_SEGMENT_METRICS:
		return c->wants & PROC_WANT_METRICS;
	case PROC_NSEGMENT_KINDS:
		break;
	}
	return false;
}

static int
say_segment(struct conn *c, size_t slot, SupSegmentOp op)
{
	const struct segment	*g = &c->s->segments[slot];
	struct sup_msg		*msg = &c->s->msg;
	SupSegment		*m = &msg->u.segment;

	*m = (SupSegment)SupSegment_init_zero;
	msg->kind = KIND_SUP_SEGMENT;
	m->op = op;
	m->kind = (uint32_t)g->s.kind;
	SUP_TEXT(m->owner, g->s.owner);
	m->incarnation = g->s.incarnation;
	m->generation = g->s.generation;
	return say(c, g->s.fds,
	    op == SUP_SEGMENT_HERE ? g->s.nfds : 0);
}

/* New ones with the lowest generation first, so the newest comes last. */
static int
say_segments(struct conn *c)
{
	struct segment	*g = c->s->segments;
	size_t		 i, best;
	int		 rc;

	for (i = 0; i < SEGMENTS_MAX; i++) {
		if (c->segs[i] != SEG_TO_DROP)
			continue;
		if ((rc = say_segment(c, i, SUP_SEGMENT_DROP)) < 0)
			return rc;
		c->segs[i] = SEG_UNKNOWN;
	}
	for (;;) {
		best = SEGMENTS_MAX;
		for (i = 0; i < SEGMENTS_MAX; i++)
			if (c->segs[i] == SEG_UNKNOWN &&
			    wants_segment(c, &g[i]) &&
			    (best == SEGMENTS_MAX ||
			    g[i].s.generation < g[best].s.generation))
				best = i;
		if (best == SEGMENTS_MAX)
			return 0;
		if ((rc = say_segment(c, best, SUP_SEGMENT_HERE)) < 0)
			return rc;
		c->segs[best] = SEG_SENT;
	}
}

static bool
is_dealt_to(const struct super *s, size_t k, size_t child)
{
	return s->procs[child].kind == PROC_LISTENER &&
	    s->deals[k].taker == (int)s->procs[child].instance;
}

/* The full set, in packets; begun anew when it changes on the way. */
static int
say_sockets(struct conn *c)
{
	struct super	*s = c->s;
	SupSockets	*m = &s->msg.u.sockets;
	int		 fds[SUP_FDS_MAX], rc;
	size_t		 nfds, k, i;

	if (c->deal_now != s->children[c->child].deal_version) {
		c->deal_now = s->children[c->child].deal_version;
		c->deal_at = 0;
	}
	while (c->deal_sent != c->deal_now) {
		*m = (SupSockets)SupSockets_init_zero;
		s->msg.kind = KIND_SUP_SOCKETS;
		m->op = SUP_SOCKETS_DEALT;
		m->first = c->deal_at == 0;
		nfds = 0;
		for (k = c->deal_at; k < s->nlistening &&
		    m->sockets_count < NELEM(m->sockets); k++) {
			const struct proc_socket *p = &s->listening[k].s;
			SupSocket		 *row;

			if (!is_dealt_to(s, k, c->child))
				continue;
			row = &m->sockets[m->sockets_count++];
			*row = (SupSocket)SupSocket_init_zero;
			row->index = p->index;
			row->kind = (uint32_t)p->kind;
			row->instance = p->instance;
			SUP_TEXT(row->address, p->address);
			row->active = true;
			row->fd = !c->socks[p->index];
			if (row->fd)
				fds[nfds++] = p->fd;
		}
		m->last = k == s->nlistening;
		if ((rc = say(c, fds, nfds)) < 0)
			return rc;
		for (i = 0; i < m->sockets_count; i++)
			c->socks[m->sockets[i].index] = true;
		c->deal_at = k;
		if (m->last)
			c->deal_sent = c->deal_now;
	}
	return 0;
}

static int
say_small(struct conn *c, enum kind kind)
{
	struct sup_msg	*msg = &c->s->msg;

	memset(&msg->u.ping, 0, sizeof(msg->u.ping));
	msg->kind = kind;
	if (kind == KIND_SUP_PING)
		msg->u.ping.seq = ++c->ping_seq;
	return say(c, NULL, 0);
}

static int
say_child(struct conn *c, struct child *ch)
{
	struct super	*s = c->s;
	int		 rc;

	if (c->conf_sent != s->conf_generation) {
		if ((rc = say_conf(c)) < 0)
			return rc;
		c->conf_sent = s->conf_generation;
	}
	if (c->successor)
		return 0;
	if ((c->wants & PROC_WANT_SOCKETS) && !s->adopting &&
	    s->procs[c->child].phase != KEEP_STARTING &&
	    c->deal_sent != ch->deal_version &&
	    (rc = say_sockets(c)) < 0)
		return rc;
	if (c->ping) {
		if ((rc = say_small(c, KIND_SUP_PING)) < 0)
			return rc;
		c->ping = false;
	}
	if (ch->drain) {
		if ((rc = say_small(c, KIND_SUP_DRAIN)) < 0)
			return rc;
		ch->drain = false;
	}
	return 0;
}

static void conn_flush(struct conn *c);

/* One of the two is told of the other, the successor first, when it knows all
 * else. */
static int
say_handover(struct conn *c, struct child *ch)
{
	struct upgrade	*u = &ch->up;
	SupHandover	*m = &c->s->msg.u.handover;
	int		 rc, fd;

	if (u->stage != UPGRADE_GREETED)
		return 0;
	fd = c->successor ? u->take : u->take < 0 ? u->give : -1;
	if (fd < 0)
		return 0;
	*m = (SupHandover)SupHandover_init_zero;
	c->s->msg.kind = KIND_SUP_HANDOVER;
	m->op = c->successor ? SUP_HANDOVER_TAKE : SUP_HANDOVER_GIVE;
	if ((rc = say(c, &fd, 1)) < 0)
		return rc;
	upgrade_sent(ch, !c->successor);
	if (c->successor && ch->conn != NULL && !ch->conn->blocked)
		conn_flush(ch->conn);
	return 0;
}

/* The row of a status after row i; rows are the supervisor's, then procs. */
static size_t
next_shown(const struct super *s, size_t i)
{
	do
		i++;
	while (i <= s->nprocs && s->procs[i - 1].phase == KEEP_GONE);
	return i;
}

static int
say_row(struct conn *c, size_t i)
{
	struct super		*s = c->s;
	SupResult		*m = &s->msg.u.result;
	const struct keep_proc	*p;
	uint64_t		 now = super_now_ms();

	*m = (SupResult)SupResult_init_zero;
	s->msg.kind = KIND_SUP_RESULT;
	m->seq = c->seq;
	m->has_row = true;
	m->last = next_shown(s, i) > s->nprocs;
	if (i == 0) {
		SUP_TEXT(m->row.name, "supervise");
		m->row.pid = (uint32_t)getpid();
		m->row.state = s->table.stopping ? PROC_DRAINING :
		    s->said_ready ? PROC_READY : PROC_STARTING;
		m->row.incarnation = s->incarnation;
		m->row.uptime_ms = now - s->started_ms;
		return say(c, NULL, 0);
	}
	p = &s->procs[i - 1];
	SUP_TEXT(m->row.name, p->name);
	m->row.pid = (uint32_t)p->pid;
	m->row.state = (uint32_t)state_of(p);
	m->row.incarnation = p->incarnation;
	m->row.restarts = p->restarts;
	m->row.uptime_ms = keep_runs(p) ? now - p->started_ms : 0;
	if (p->phase == KEEP_HELD)
		snprintf(m->row.note, sizeof(m->row.note),
		    "%.90s; stays down until restarted", p->note);
	else if (p->retire)
		SUP_TEXT(m->row.note, "scaled away");
	else if (s->children[i - 1].up.stage != UPGRADE_NONE &&
	    s->children[i - 1].up.stage < UPGRADE_LEAVING)
		snprintf(m->row.note, sizeof(m->row.note),
		    "upgrade: pid %ld is to take over",
		    (long)s->children[i - 1].up.pid);
	else
		SUP_TEXT(m->row.note, p->note);
	return say(c, NULL, 0);
}

static int
say_result(struct conn *c, uint32_t code, const char *text)
{
	SupResult	*m = &c->s->msg.u.result;

	*m = (SupResult)SupResult_init_zero;
	c->s->msg.kind = KIND_SUP_RESULT;
	m->seq = c->seq;
	m->code = code;
	SUP_TEXT(m->text, text);
	m->last = true;
	return say(c, NULL, 0);
}

/* RESTART is answered when its process serves again, or cannot. */
static void
look_at_restart(struct conn *c)
{
	const struct keep_proc	*p = &c->s->procs[c->target];

	if (p->phase == KEEP_GONE || p->retire) {
		c->asked = ASKED_RESULT;
		c->code = EX_TEMPFAIL;
		snprintf(c->text, sizeof(c->text), "%s was scaled away",
		    p->name);
		return;
	}
	if (p->again || p->incarnation == c->before) {
		if (p->phase != KEEP_HELD || p->again)
			return;		/* not started yet */
	} else if (p->phase == KEEP_STARTING || p->phase == KEEP_DRAINING)
		return;
	c->asked = ASKED_RESULT;
	if (p->phase == KEEP_READY) {
		c->code = 0;
		snprintf(c->text, sizeof(c->text), "%s is ready", p->name);
	} else {
		c->code = EX_TEMPFAIL;
		snprintf(c->text, sizeof(c->text), "%s did not become ready: "
		    "%s", p->name, p->note);
	}
}

/* SCALE is answered when as many serve as were asked for, and no more run. */
static void
look_at_scale(struct conn *c)
{
	int	code = scale_is_done(c->s, (uint32_t)c->target, c->text,
	    sizeof(c->text));

	if (code == ERR_AGAIN)
		return;
	c->asked = ASKED_RESULT;
	c->code = (uint32_t)code;
}

/* The next listener after row i that is to run. */
static size_t
next_listener(const struct super *s, size_t i)
{
	for (; i < s->nprocs; i++)
		if (s->procs[i].kind == PROC_LISTENER &&
		    s->procs[i].phase != KEEP_GONE && !s->procs[i].retire)
			break;
	return i;
}

static void
begin_upgrade(struct conn *c, size_t i)
{
	struct super	*s = c->s;

	c->target = i;
	c->before = s->children[i].up.done;
	c->code = (uint32_t)upgrade_begin(s, i, c->text, sizeof(c->text));
	c->asked = c->code == 0 ? ASKED_UPGRADE : ASKED_RESULT;
}

/* UPGRADE is answered when the old process has ended, or the new one; all of
 * a kind go one after the other, up to the first that fails. */
static void
look_at_upgrade(struct conn *c)
{
	const struct upgrade	*u = &c->s->children[c->target].up;
	size_t			 next = c->s->nprocs;

	if (u->done == c->before)
		return;
	if (c->every && u->code == 0)
		next = next_listener(c->s, c->target + 1);
	if (next < c->s->nprocs) {
		begin_upgrade(c, next);
		return;
	}
	c->asked = ASKED_RESULT;
	c->code = (uint32_t)u->code;
	if (c->every && u->code == 0)
		snprintf(c->text, sizeof(c->text), "every %s is upgraded",
		    proc_kind_name(PROC_LISTENER));
	else
		snprintf(c->text, sizeof(c->text), "%s", u->text);
}

static int
say_answer(struct conn *c)
{
	int	rc = 0;

	if (c->asked == ASKED_RESTART)
		look_at_restart(c);
	if (c->asked == ASKED_SCALE)
		look_at_scale(c);
	if (c->asked == ASKED_UPGRADE)
		look_at_upgrade(c);
	switch (c->asked) {
	case ASKED_NOTHING:
	case ASKED_RESTART:
	case ASKED_SCALE:
	case ASKED_UPGRADE:
		return 0;
	case ASKED_STATUS:
		while (c->row <= c->s->nprocs) {
			if ((rc = say_row(c, c->row)) < 0)
				return rc;
			c->row = next_shown(c->s, c->row);
		}
		break;
	case ASKED_RESULT:
	case ASKED_SEGMENTS:
		rc = say_result(c, c->code, c->text);
		break;
	}
	if (rc == 0)
		c->asked = ASKED_NOTHING;
	return rc;
}

static int
say_all(struct conn *c)
{
	struct child	*ch = child_of(c);
	int		 rc;

	if (c->welcome) {
		if ((rc = say_welcome(c, 0, "")) < 0)
			return rc;
		c->welcome = false;
	}
	if (ch != NULL && (rc = say_child(c, ch)) < 0)
		return rc;
	/* Who has not knocked yet is not known to be down: peers would give
	 * up on it. */
	if ((c->wants & PROC_WANT_PEERS) && !c->s->adopting &&
	    c->peers_sent != c->s->peers_shown &&
	    (rc = say_peers(c)) < 0)
		return rc;
	if (c->segments_sent != c->s->segments_version) {
		if ((rc = say_segments(c)) < 0)
			return rc;
		c->segments_sent = c->s->segments_version;
	}
	if (ch != NULL && (rc = say_handover(c, ch)) < 0)
		return rc;
	return say_answer(c);
}

static void
conn_flush(struct conn *c)
{
	int	rc;

	if (!c->greeted || c->doomed)
		return;
	if ((rc = say_all(c)) == 0) {
		c->blocked = false;
		ev_io_stop(c->s->loop, &c->writer);
	} else if (rc == ERR_AGAIN) {
		c->blocked = true;
		ev_io_start(c->s->loop, &c->writer);
	} else
		conn_close(c);
}

/*
 * Telling n processes of n processes costs n squared: a large node, where much
 * happens at once, is told less often. Up to PEERS_AT_ONCE nobody waits.
 */
static void
show_peers(struct super *s)
{
	uint64_t	now;

	if (s->peers_shown == s->peers_version)
		return;
	now = super_now_ms();
	if (s->nprocs > PEERS_AT_ONCE && now < s->peers_next_ms)
		return;
	s->peers_shown = s->peers_version;
	s->peers_next_ms = now + s->nprocs / 2;
}

/* The end of a turn: everybody hears what has changed in it, once. */
void
conn_flush_all(struct super *s)
{
	struct conn	**at, *c;

	show_peers(s);
	for (c = s->conns; c != NULL; c = c->next)
		if (!c->blocked)
			conn_flush(c);
	for (at = &s->conns; (c = *at) != NULL;) {
		if (!c->doomed) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		conn_free(c);
	}
}

static void
on_writable(EV_P_ ev_io *w, int revents UNUSED)
{
	struct conn	*c = w->data;

	(void)loop;
	conn_flush(c);
}

/* --- What we hear -------------------------------------------------------- */

static size_t
find_proc(const struct super *s, const char *name)
{
	size_t	i;

	for (i = 0; i < s->nprocs; i++)
		if (strcmp(s->procs[i].name, name) == 0)
			break;
	return i;
}

static enum keep_phase
phase_of(uint32_t state)
{
	return state == PROC_READY ? KEEP_READY :
	    state == PROC_DRAINING ? KEEP_DRAINING : KEEP_STARTING;
}

/*
 * A process of the table says hello: one we started, one that served under a
 * supervisor before us (it says its incarnation), or one started by hand.
 */
static void
on_process(struct conn *c, const SupHello *m)
{
	struct super		*s = c->s;
	int			 beyond = s->adopting && m->incarnation != 0 ?
	    scale_adopt(s, m->name, phase_of(m->state)) : 0;
	size_t			 i = find_proc(s, m->name);
	struct keep_proc	*p = &s->procs[i];
	struct child		*ch = &s->children[i];

	if (i == s->nprocs || (p->phase == KEEP_GONE && !beyond)) {
		refuse(c, EX_UNAVAILABLE, "this node has no such process");
		return;
	}
	if (ch->up.stage == UPGRADE_STARTED && ch->up.pid == c->peer.pid) {
		c->greeted = c->successor = true;
		s->nothers--;
		c->child = i;
		if (!upgrade_greeted(ch, c, m->wants))
			conn_close(c);
		return;
	}
	if (keep_runs(p)) {
		if (p->pid != c->peer.pid || (m->incarnation != 0 &&
		    m->incarnation != p->incarnation)) {
			refuse(c, EX_UNAVAILABLE, "its place is taken");
			return;
		}
	} else if ((s->table.stopping && !s->adopting) || (m->incarnation != 0 &&
	    m->incarnation < p->incarnation)) {
		refuse(c, EX_UNAVAILABLE, "its time is over");
		return;
	}
	if (ch->conn != NULL)
		conn_close(ch->conn);
	c->greeted = true;
	s->nothers--;
	c->child = i;
	ch->conn = c;
	if (!keep_runs(p)) {
		child_adopt(s, i, c->peer.pid, m->incarnation != 0 ?
		    m->incarnation : child_incarnation(s),
		    phase_of(m->state));
		/* Who is run by hand keeps the terminal. */
		if (m->incarnation != 0)
			c->err_pipe = log_source_pipe(&ch->log);
		p->retire = beyond;
	}
	if (p->phase == KEEP_DRAINING && m->state != PROC_DRAINING)
		ch->drain = true;	/* told while it was not there */
}

static size_t
count_tools(const struct super *s)
{
	const struct conn	*c;
	size_t			 n = 0;

	for (c = s->conns; c != NULL; c = c->next)
		n += c->greeted && c->tool && !c->doomed;
	return n;
}

static int
on_hello(struct conn *c)
{
	SupHello	m = c->s->msg.u.hello;

	if (c->greeted)
		return ERR_PROTO;
	if (m.version != PROTO_VERSION) {
		refuse(c, EX_PROTOCOL, "another version of the protocol");
		return 0;
	}
	c->wants = m.wants;
	c->welcome = true;
	if (m.tool) {
		if (count_tools(c->s) >= TOOLS_MAX) {
			refuse(c, EX_TEMPFAIL, "too many tools are connected");
			return 0;
		}
		c->greeted = c->tool = true;
		c->wants &= ~(unsigned)PROC_WANT_SOCKETS;
		return 0;
	}
	on_process(c, &m);
	return 0;
}

static int
on_sockets(struct conn *c, struct child *ch, int *fds, size_t nfds)
{
	SupSockets	 m = c->s->msg.u.sockets;
	size_t		 i, used = 0;
	int		 rc = 0;

	for (i = 0; i < m.sockets_count && rc == 0; i++) {
		if (m.op == SUP_SOCKETS_HELD && m.sockets[i].fd) {
			if (used == nfds)
				return ERR_PROTO;
			rc = sockets_adopt(c->s, &m.sockets[i], fds[used++],
			    c->child);
		}
	}
	sup_close_fds(fds + used, nfds - used);
	if (m.op == SUP_SOCKETS_BACK)
		ch->full = ch->tell = true;
	if (m.op == SUP_SOCKETS_WANT)
		ch->full = false;
	if (m.op != SUP_SOCKETS_DEALT)
		c->s->sockets_changed = true;
	return rc;
}

static int
on_segment(struct conn *c, int *fds, size_t nfds)
{
	SupSegment	 m = c->s->msg.u.segment;
	const char	*me = c->s->procs[c->child].name;
	bool		 mine = strcmp(m.owner, me) == 0;
	int		 rc;

	if (m.op == SUP_SEGMENT_DROP) {
		sup_close_fds(fds, nfds);
		if (!mine)
			return ERR_PROTO;
		segments_drop_below(c->s, me, m.kind, m.generation);
		return 0;
	}
	/* What others made comes from who outlived our predecessor. */
	if (nfds == 0 || nfds > PROC_SEGMENT_FDS ||
	    (!mine && m.kind == PROC_SEGMENT_METRICS)) {
		sup_close_fds(fds, nfds);
		return nfds == 0 || nfds > PROC_SEGMENT_FDS ? ERR_PROTO : 0;
	}
	rc = segment_keep(c->s, &m, fds, nfds);
	if (rc == ERR_FULL)
		log_warn("segment.refused", "process=%s why=\"%d are kept\"",
		    me, SEGMENTS_MAX);
	return rc == ERR_FULL ? 0 : rc;
}

static void
answer(struct conn *c, int code, const char *text)
{
	c->asked = ASKED_RESULT;
	c->code = (uint32_t)code;
	snprintf(c->text, sizeof(c->text), "%s", text);
}

static void
ask_restart(struct conn *c, const char *name)
{
	struct super	*s = c->s;
	size_t		 i = find_proc(s, name);

	if (strcmp(name, "supervise") == 0) {
		answer(c, EX_USAGE, "the supervisor cannot restart itself: "
		    "stop the node and start it");
		return;
	}
	if (i == s->nprocs || s->procs[i].phase == KEEP_GONE ||
	    s->procs[i].retire) {
		snprintf(c->text, sizeof(c->text),
		    "this node has no process '%s'", name);
		c->asked = ASKED_RESULT;
		c->code = EX_USAGE;
		return;
	}
	if (s->table.stopping) {
		answer(c, EX_TEMPFAIL, "the node is stopping");
		return;
	}
	log_info("process.restart", "name=%s by=%ld", name,
	    (long)c->peer.pid);
	c->asked = ASKED_RESTART;
	c->target = i;
	c->before = s->procs[i].incarnation;
	keep_restart(&s->table, i, super_now_ms());
	s->sockets_changed = true;
}

static void
ask_upgrade(struct conn *c, const char *name)
{
	struct super	*s = c->s;
	size_t		 i;

	c->every = strcmp(name, proc_kind_name(PROC_LISTENER)) == 0;
	i = c->every ? next_listener(s, 0) : find_proc(s, name);
	if (strcmp(name, "supervise") == 0) {
		answer(c, EX_USAGE, "the supervisor has no clients to hand "
		    "over");
		return;
	}
	if (i == s->nprocs || s->procs[i].phase == KEEP_GONE) {
		snprintf(c->text, sizeof(c->text),
		    "this node has no process '%s'", name);
		c->asked = ASKED_RESULT;
		c->code = EX_USAGE;
		return;
	}
	begin_upgrade(c, i);
}

static void
ask_scale(struct conn *c, const SupRequest *m)
{
	struct super	*s = c->s;

	if (strcmp(m->name, proc_kind_name(PROC_SESSION_STORE)) == 0) {
		answer(c, EX_USAGE, "how many session stores there are is "
		    "fixed at the first start, for where a session lies is "
		    "found by their number; to change it, export sessions and "
		    "retained messages, start with another "
		    "session_store.processes in an empty node.data_dir, and "
		    "import them");
		return;
	}
	if (strcmp(m->name, proc_kind_name(PROC_LISTENER)) != 0) {
		answer(c, EX_USAGE, "only listeners can be more or fewer");
		return;
	}
	if (s->table.stopping || s->adopting) {
		answer(c, EX_TEMPFAIL, s->table.stopping ?
		    "the node is stopping" :
		    "the supervisor is still looking who is there");
		return;
	}
	c->code = (uint32_t)scale_to(s, m->count, c->text, sizeof(c->text));
	c->asked = c->code == 0 ? ASKED_SCALE : ASKED_RESULT;
	c->target = m->count;
}

static int
on_request(struct conn *c)
{
	SupRequest	m = c->s->msg.u.request;

	if (c->asked != ASKED_NOTHING)
		return ERR_PROTO;	/* one at a time */
	c->seq = m.seq;
	switch (m.op) {
	case SUP_OP_STATUS:
		c->asked = ASKED_STATUS;
		c->row = 0;
		return 0;
	case SUP_OP_RESTART:
		ask_restart(c, m.name);
		return 0;
	case SUP_OP_SCALE:
		ask_scale(c, &m);
		return 0;
	case SUP_OP_UPGRADE:
		ask_upgrade(c, m.name);
		return 0;
	case SUP_OP_STOP:
		log_info("stop", "by=%ld", (long)c->peer.pid);
		keep_stop(&c->s->table);
		answer(c, 0, "stopping");
		return 0;
	case SUP_OP_RELOAD:
		c->code = (uint32_t)reload_conf(c->s, c->text,
		    sizeof(c->text));
		c->asked = ASKED_RESULT;
		return 0;
	case SUP_OP_SEGMENTS:
		answer(c, 0, "");
		c->asked = ASKED_SEGMENTS;
		return 0;
	}
	return ERR_PROTO;
}

/* What is accepted, from whom; anything else ends the connection. */
static int
dispatch(struct conn *c, int *fds, size_t nfds)
{
	struct super	*s = c->s;
	struct child	*ch = child_of(c);
	uint64_t	 now = super_now_ms();
	int		 rc = ERR_PROTO;

	if (ch != NULL && s->msg.kind == KIND_SUP_HANDOVER) {
		sup_close_fds(fds, nfds);
		if (!c->successor)
			keep_heard(&s->table, c->child, now);
		return upgrade_heard(ch, c->successor, &s->msg.u.handover);
	}
	if (ch != NULL && c->successor) {	/* nothing to us now */
		sup_close_fds(fds, nfds);
		return 0;
	}
	if (ch != NULL) {
		keep_heard(&s->table, c->child, now);
		if (s->msg.kind == KIND_SUP_SOCKETS)
			return on_sockets(c, ch, fds, nfds);
		if (s->msg.kind == KIND_SUP_SEGMENT)
			return on_segment(c, fds, nfds);
	}
	sup_close_fds(fds, nfds);
	if (s->msg.kind == KIND_SUP_HELLO)
		rc = on_hello(c);
	else if (s->msg.kind == KIND_SUP_REQUEST && c->tool)
		rc = on_request(c);
	else if (s->msg.kind == KIND_SUP_PONG && ch != NULL)
		rc = 0;
	else if (s->msg.kind == KIND_SUP_READY && ch != NULL) {
		keep_ready(&s->table, c->child, now);
		s->peers_version++;
		s->sockets_changed = true;
		rc = 0;
	} else if (s->msg.kind == KIND_SUP_DRAIN && ch != NULL) {
		keep_leaving(&s->table, c->child, now);
		s->peers_version++;
		s->sockets_changed = true;
		rc = 0;
	}
	return rc;
}

/* Take up to max packets. */
static void
hear(struct conn *c, int max)
{
	int	fds[SUP_FDS_MAX], rc, n;
	size_t	nfds;

	for (n = 0; n < max && !c->doomed; n++) {
		if ((rc = sup_recv(c->fd, &c->s->msg, fds, &nfds)) == 0)
			rc = dispatch(c, fds, nfds);
		if (rc == ERR_AGAIN)
			return;
		if (rc == ERR_PROTO) {
			metric_inc(&m_refused);
			log_warn("supervise.refused", "pid=%ld kind=%d",
			    (long)c->peer.pid, (int)c->s->msg.kind);
		}
		if (rc < 0)
			conn_close(c);
	}
}

static void
on_readable(EV_P_ ev_io *w, int revents UNUSED)
{
	(void)loop;
	hear(w->data, PACKETS_PER_TURN);
}

void
conn_hear(struct conn *c)
{
	hear(c, 1024);
}

void
conn_last_words(struct conn *c)
{
	conn_hear(c);
	conn_close(c);
}

/* --- The socket ---------------------------------------------------------- */

static bool
is_trusted(const struct super *s, const struct ucred *u)
{
	return u->uid == 0 || u->uid == geteuid() || u->uid == s->user;
}

static void
accept_one(struct super *s, int fd)
{
	struct conn	*c;
	socklen_t	 len = sizeof(c->peer);

	/* Tools, and every process of the node about to say hello. */
	if (s->nothers == TOOLS_MAX + s->nprocs ||
	    (c = calloc(1, sizeof(*c))) == NULL) {
		close(fd);
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c->peer, &len) < 0 ||
	    !is_trusted(s, &c->peer)) {
		metric_inc(&m_refused);
		log_warn("supervise.stranger", "uid=%ld", (long)c->peer.uid);
		close(fd);
		free(c);
		return;
	}
	c->s = s;
	c->fd = fd;
	c->err_pipe = -1;
	c->next = s->conns;
	s->conns = c;
	s->nothers++;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	ev_io_start(s->loop, &c->reader);
}

static void
on_connect(EV_P_ ev_io *w, int revents UNUSED)
{
	struct super	*s = w->data;
	int		 fd, n;

	for (n = 0; n < ACCEPTS_PER_TURN; n++) {
		fd = accept4(s->sock, NULL, NULL, SOCK_CLOEXEC |
		    SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE))
			ev_io_stop(EV_A_ w);	/* until the next tick */
		if (fd < 0)
			return;
		accept_one(s, fd);
	}
}

void
conn_listen(struct super *s)
{
	struct sockaddr_un	sun = { .sun_family = AF_UNIX };

	memcpy(sun.sun_path, SUP_SOCK, sizeof(SUP_SOCK));
	unlink(SUP_SOCK);
	s->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC |
	    SOCK_NONBLOCK, 0);
	if (s->sock < 0 || bind(s->sock, (struct sockaddr *)&sun,
	    sizeof(sun)) < 0 || chmod(SUP_SOCK, 0600) < 0 ||
	    (geteuid() == 0 && chown(SUP_SOCK, s->user, s->group) < 0) ||
	    listen(s->sock, CONN_BACKLOG) < 0)
		fatal(EX_CANTCREAT, "dir.bad", "cannot listen at "
		    "'%s/%s': %s", s->conf.node_run_dir, SUP_SOCK,
		    strerror(errno));
	ev_io_init(&s->acceptor, on_connect, s->sock, EV_READ);
	s->acceptor.data = s;
	ev_io_start(s->loop, &s->acceptor);
}

/*
 * The child's side of supervise.sock. Everything we have to say is state kept
 * here (what is published, returned, wanted, whether we are ready) with a mark
 * whether the supervisor knows; flush() says what it does not. So a supervisor
 * that is stopped costs no memory, and one that is new hears all of it again.
 */
#include "proc/proc.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "fault/fault.h"
#include "log/log.h"
#include "metric/metric.h"
#include "proc/cmdline.h"
#include "proc/sup.h"

#define SEGMENTS_MAX	64	/* published at once */
#define KNOCK_S		1.0
#define START_WAIT_MS	10000	/* for the first WELCOME and CONF */
#define PACKETS_PER_TURN 32
#define CONF_BYTES_MAX	(1 << 20)

/* A listening socket that was dealt to us once; kept open for good. */
struct held {
	struct proc_socket	s;
	bool			dealt;		/* in the set we last saw */
	bool			next;		/* in the set being read */
	bool			back;		/* BACK to be said */
	bool			said;		/* HELD was said */
};

struct kept {
	struct proc_segment	s;
	bool			said;
};

/* What every process counts about itself; looked at with each ping. */
static struct metric m_cpu = METRIC_COUNTER("process_cpu_ms_total",
    "Processor time used, user and system, in ms");
static struct metric m_rss = METRIC_GAUGE("process_resident_bytes",
    "Memory in use, shared memory included");
static struct metric m_log = METRIC_COUNTER("log_dropped_lines_total",
    "Log lines dropped because the supervisor did not read them in time");
static struct metric m_lost = METRIC_COUNTER("supervise_lost_total",
    "Times the connection to the supervisor was lost");
static struct metric *const rows[] = { &m_cpu, &m_rss, &m_log, &m_lost };

struct proc {
	struct ev_loop		*loop;
	const struct proc_opts	*opts;
	struct proc_handlers	 h;
	void			*ctx;
	struct conf		 conf;
	char			 name[PROC_NAME_MAX];
	enum proc_kind		 kind;
	uint32_t		 instance;
	uint64_t		 incarnation;
	char			 endpoint[PROC_ENDPOINT_MAX];
	bool			 log_debug;	/* -v */

	int			 sock;		/* -1: no supervisor */
	ev_io			 reader, writer;
	ev_timer		 knock;
	ev_prepare		 before;	/* end of turn: flush */
	ev_signal		 term, intr, usr1;

	bool			 welcomed;	/* on this connection */
	bool			 dirty;		/* flush has something to say */
	bool			 ready, ready_said;
	bool			 draining, drain_said;
	bool			 want, want_said;
	bool			 full, full_said;
	uint64_t		 successor;	/* not 0: we began as one */
	bool			 taking;	/* the handler is at it */
	bool			 taken;		/* and have the place now */
	bool			 handover_say;	/* handover_op, with why */
	SupHandoverOp		 handover_op;
	char			 handover_why[256];
	bool			 pong;
	uint64_t		 pong_seq;
	uint64_t		 drop_below[PROC_NSEGMENT_KINDS];
	bool			 drop_said[PROC_NSEGMENT_KINDS];

	struct held		*held;
	size_t			 nheld, held_room;
	struct kept		*mine, *theirs;	/* segments: made, received */
	size_t			 nmine, ntheirs, theirs_room;

	void			*metrics;	/* our segment, mapped */
	size_t			 metrics_len;
	int			 code;
	struct sup_msg		 msg;		/* scratch, large */
	size_t			 npeers;
	bool			 peers_whole;
	struct proc_peer	 peers[PROC_PEERS_MAX];
};

static void flush(struct proc *p);
static int publish_metrics(struct proc *p);

struct ev_loop *
proc_loop(struct proc *p)
{
	return p->loop;
}

const struct conf *
proc_conf(const struct proc *p)
{
	return &p->conf;
}

const char *
proc_name(const struct proc *p)
{
	return p->name;
}

const char *
proc_node(const struct proc *p)
{
	return p->conf.node_name;
}

const char *
proc_endpoint(const struct proc *p)
{
	return p->endpoint;
}

enum proc_kind
proc_kind(const struct proc *p)
{
	return p->kind;
}

uint32_t
proc_instance(const struct proc *p)
{
	return p->instance;
}

uint64_t
proc_incarnation(const struct proc *p)
{
	return p->incarnation;
}

bool
proc_is_successor(const struct proc *p)
{
	return p->successor != 0 && !p->taken;
}

/* --- Connection --------------------------------------------------------- */

static void
disconnect(struct proc *p)
{
	size_t	i;

	if (p->sock < 0)
		return;
	metric_inc(&m_lost);
	ev_io_stop(p->loop, &p->reader);
	ev_io_stop(p->loop, &p->writer);
	close(p->sock);
	p->sock = -1;
	p->welcomed = false;
	p->ready_said = p->drain_said = p->want_said = false;
	p->full_said = false;
	p->pong = p->handover_say = false;
	memset(p->drop_said, 0, sizeof(p->drop_said));
	for (i = 0; i < p->nheld; i++)
		p->held[i].said = p->held[i].next = false;
	for (i = 0; i < p->nmine; i++)
		p->mine[i].said = false;
	for (i = 0; i < p->ntheirs; i++)
		p->theirs[i].said = false;
	/* The other one serves on; but what is under way is between us two. */
	if (proc_is_successor(p) && !p->taking)
		proc_exit(p, EX_TEMPFAIL);
	else
		ev_timer_again(p->loop, &p->knock);
}

static enum proc_state
state_of(const struct proc *p)
{
	if (p->draining)
		return PROC_DRAINING;
	return p->ready ? PROC_READY : PROC_STARTING;
}

static int
say_hello(struct proc *p)
{
	SupHello	*m = &p->msg.u.hello;

	*m = (SupHello)SupHello_init_zero;
	p->msg.kind = KIND_SUP_HELLO;
	m->version = PROTO_VERSION;
	SUP_TEXT(m->name, p->name);
	m->incarnation = p->incarnation;
	m->wants = p->opts->wants;
	m->state = (uint32_t)state_of(p);
	return sup_send(p->sock, &p->msg, NULL, 0);
}

static void
on_knock(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct proc	*p = w->data;

	if (p->sock >= 0 || sup_connect(&p->sock) < 0)
		return;
	if (say_hello(p) < 0) {
		close(p->sock);
		p->sock = -1;
		return;
	}
	ev_timer_stop(EV_A_ w);
	ev_io_set(&p->reader, p->sock, EV_READ);
	ev_io_set(&p->writer, p->sock, EV_WRITE);
	ev_io_start(EV_A_ &p->reader);
	log_info("supervise.found", "incarnation=%llu",
	    (unsigned long long)p->incarnation);
}

/* --- What we say --------------------------------------------------------- */

static int
say(struct proc *p, const int *fds, size_t nfds)
{
	if (fault_hit("proc.send"))
		return ERR_AGAIN;
	return sup_send(p->sock, &p->msg, fds, nfds);
}

static int
say_empty(struct proc *p, enum kind kind)
{
	memset(&p->msg.u.ready, 0, sizeof(p->msg.u.ready));
	p->msg.kind = kind;
	return say(p, NULL, 0);
}

static void
socket_row(SupSocket *row, const struct held *h, bool fd)
{
	*row = (SupSocket)SupSocket_init_zero;
	row->index = h->s.index;
	row->kind = (uint32_t)h->s.kind;
	row->instance = h->s.instance;
	SUP_TEXT(row->address, h->s.address);
	row->fd = fd;
	row->active = h->dealt;
}

/* Tell a new supervisor of the sockets we keep, a packet at a time. */
static int
say_held(struct proc *p)
{
	SupSockets	*m = &p->msg.u.sockets;
	int		 fds[SUP_FDS_MAX], rc;
	size_t		 i, first;

	for (i = 0; i < p->nheld;) {
		if (p->held[i].said ||
		    p->held[i].s.index == PROC_SOCKETS_MAX) {
			i++;
			continue;
		}
		*m = (SupSockets)SupSockets_init_zero;
		p->msg.kind = KIND_SUP_SOCKETS;
		m->op = SUP_SOCKETS_HELD;
		for (first = i; i < p->nheld && !p->held[i].said &&
		    p->held[i].s.index < PROC_SOCKETS_MAX &&
		    m->sockets_count < NELEM(m->sockets); i++) {
			fds[m->sockets_count] = p->held[i].s.fd;
			socket_row(&m->sockets[m->sockets_count++],
			    &p->held[i], true);
		}
		if ((rc = say(p, fds,
		    m->sockets_count)) < 0)
			return rc;
		while (first < i)
			p->held[first++].said = true;
	}
	return 0;
}

static int
say_back(struct proc *p)
{
	SupSockets	*m = &p->msg.u.sockets;
	size_t		 i, first;
	int		 rc;

	for (i = 0; i < p->nheld;) {
		*m = (SupSockets)SupSockets_init_zero;
		p->msg.kind = KIND_SUP_SOCKETS;
		m->op = SUP_SOCKETS_BACK;
		for (first = i; i < p->nheld &&
		    m->sockets_count < NELEM(m->sockets); i++)
			if (p->held[i].back)
				socket_row(&m->sockets[m->sockets_count++],
				    &p->held[i], false);
		if (m->sockets_count == 0)
			break;
		if ((rc = say(p, NULL, 0)) < 0)
			return rc;
		while (first < i)
			p->held[first++].back = false;
		p->full_said = true;
	}
	if (!p->full || p->full_said)
		return 0;
	*m = (SupSockets)SupSockets_init_zero;
	p->msg.kind = KIND_SUP_SOCKETS;
	m->op = SUP_SOCKETS_BACK;
	if ((rc = say(p, NULL, 0)) < 0)
		return rc;
	p->full_said = true;
	return 0;
}

static int
say_want(struct proc *p)
{
	SupSockets	*m = &p->msg.u.sockets;

	*m = (SupSockets)SupSockets_init_zero;
	p->msg.kind = KIND_SUP_SOCKETS;
	m->op = SUP_SOCKETS_WANT;
	return say(p, NULL, 0);
}

static int
say_segments(struct proc *p, struct kept *list, size_t n)
{
	SupSegment	*m = &p->msg.u.segment;
	size_t		 i;
	int		 rc;

	for (i = 0; i < n; i++) {
		if (list[i].said)
			continue;
		*m = (SupSegment)SupSegment_init_zero;
		p->msg.kind = KIND_SUP_SEGMENT;
		m->op = SUP_SEGMENT_HERE;
		m->kind = (uint32_t)list[i].s.kind;
		SUP_TEXT(m->owner, list[i].s.owner);
		m->incarnation = list[i].s.incarnation;
		m->generation = list[i].s.generation;
		if ((rc = say(p, list[i].s.fds,
		    list[i].s.nfds)) < 0)
			return rc;
		list[i].said = true;
	}
	return 0;
}

static int
say_drops(struct proc *p)
{
	SupSegment	*m = &p->msg.u.segment;
	int		 k, rc;

	for (k = 0; k < PROC_NSEGMENT_KINDS; k++) {
		if (p->drop_below[k] == 0 || p->drop_said[k])
			continue;
		*m = (SupSegment)SupSegment_init_zero;
		p->msg.kind = KIND_SUP_SEGMENT;
		m->op = SUP_SEGMENT_DROP;
		m->kind = (uint32_t)k;
		SUP_TEXT(m->owner, p->name);
		m->generation = p->drop_below[k];
		if ((rc = say(p, NULL, 0)) < 0)
			return rc;
		p->drop_said[k] = true;
	}
	return 0;
}

static int
say_handover(struct proc *p)
{
	SupHandover	*m = &p->msg.u.handover;
	int		 rc;

	if (!p->handover_say)
		return 0;
	*m = (SupHandover)SupHandover_init_zero;
	p->msg.kind = KIND_SUP_HANDOVER;
	m->op = p->handover_op;
	SUP_TEXT(m->why, p->handover_why);
	if ((rc = say(p, NULL, 0)) == 0)
		p->handover_say = false;
	return rc;
}

static int
say_rest(struct proc *p)
{
	int	rc;

	if ((rc = say_handover(p)) < 0)
		return rc;

	if (p->pong) {
		p->msg.u.pong.seq = p->pong_seq;
		p->msg.kind = KIND_SUP_PONG;
		if ((rc = say(p, NULL, 0)) < 0)
			return rc;
		p->pong = false;
	}
	if ((rc = say_held(p)) < 0 ||
	    (rc = say_segments(p, p->mine, p->nmine)) < 0 ||
	    (rc = say_segments(p, p->theirs, p->ntheirs)) < 0 ||
	    (rc = say_drops(p)) < 0)
		return rc;
	if (p->ready && !p->ready_said) {
		if ((rc = say_empty(p, KIND_SUP_READY)) < 0)
			return rc;
		p->ready_said = true;
	}
	if (p->draining && !p->drain_said) {
		if ((rc = say_empty(p, KIND_SUP_DRAIN)) < 0)
			return rc;
		p->drain_said = true;
	}
	if ((rc = say_back(p)) < 0)
		return rc;
	if (p->want && !p->want_said) {
		if ((rc = say_want(p)) < 0)
			return rc;
		p->want_said = true;
		p->want = false;
	}
	return 0;
}

static void
flush(struct proc *p)
{
	int	rc;

	if (p->sock < 0 || !p->welcomed)
		return;
	rc = say_rest(p);
	if (rc == 0) {
		p->dirty = false;
		ev_io_stop(p->loop, &p->writer);
	} else if (rc == ERR_AGAIN) {
		ev_io_start(p->loop, &p->writer);
	} else {
		log_warn("supervise.lost", "why=%s", log_quote(err_str(rc)));
		disconnect(p);
	}
}

static void
on_before(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct proc	*p = w->data;

	(void)loop;
	if (p->dirty && !ev_is_active(&p->writer))
		flush(p);
}

static void
on_writable(EV_P_ ev_io *w, int revents UNUSED)
{
	(void)loop;
	flush(w->data);
}

/* --- What we hear -------------------------------------------------------- */

static int
read_conf(struct conf *c, int fd)
{
	struct conf_error	 e = { "" };
	struct stat		 st;
	char			*text;
	ssize_t			 n;
	int			 rc;

	if (fstat(fd, &st) < 0)
		return ERR_IO;
	if (st.st_size < 0 || st.st_size > CONF_BYTES_MAX)
		return ERR_PROTO;
	if ((text = malloc((size_t)st.st_size + 1)) == NULL)
		return ERR_NOMEM;
	n = pread(fd, text, (size_t)st.st_size, 0);
	if (n != st.st_size) {
		free(text);
		return ERR_IO;
	}
	conf_init(c);
	rc = conf_read_bytes(c, text, (size_t)n, "supervisor", &e);
	free(text);
	if (rc < 0)
		log_error("conf.bad", "why=%s", log_quote(e.text));
	return rc;
}

/* Who read our lines died; its successor gives us a pipe of its own. */
static void
take_stderr(struct proc *p, int fd)
{
	if (dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		return;
	log_init(p->name, log_level);
}

static int
on_conf(struct proc *p, int *fds, size_t nfds)
{
	static struct conf	c;
	int			rc;

	if (nfds < 1 || nfds > 2)
		return ERR_PROTO;
	if (nfds == 2)
		take_stderr(p, fds[1]);
	if ((rc = read_conf(&c, fds[0])) < 0)
		return rc;
	if (p->log_debug)
		c.log_level = LOG_L_DEBUG;
	p->conf = c;
	log_set_level((enum log_level)c.log_level);
	return 0;
}

static int
on_peers(struct proc *p)
{
	int	rc = sup_peers_take(&p->msg.u.peers, p->peers, &p->npeers);

	p->peers_whole = rc == 0;
	if (rc == 0 && p->h.peers != NULL && !proc_is_successor(p))
		p->h.peers(p->ctx, p->peers, p->npeers);
	return rc == ERR_AGAIN ? 0 : rc;
}

static struct held *
held_find(struct proc *p, uint32_t index)
{
	size_t	i;

	for (i = 0; i < p->nheld; i++)
		if (p->held[i].s.index == index)
			return &p->held[i];
	return NULL;
}

/* The receiver checks what it got: it must be a listening stream socket. */
static bool
is_listening(int fd)
{
	int		on = 0, type = 0;
	socklen_t	len = sizeof(on);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0 || !on)
		return false;
	len = sizeof(type);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	    type == SOCK_STREAM;
}

static bool
same_socket(int a, int b)
{
	uint64_t	ca = 0, cb = 1;
	socklen_t	la = sizeof(ca), lb = sizeof(cb);

	return getsockopt(a, SOL_SOCKET, SO_COOKIE, &ca, &la) == 0 &&
	    getsockopt(b, SOL_SOCKET, SO_COOKIE, &cb, &lb) == 0 && ca == cb;
}

static int
held_add(struct proc *p, const SupSocket *row, int fd)
{
	struct held	*h = held_find(p, row->index), *more;
	size_t		 room;

	if (!is_listening(fd)) {
		close(fd);
		return ERR_PROTO;
	}
	if (h != NULL && same_socket(h->s.fd, fd)) {
		close(fd);	/* a new supervisor sent it again */
		h->next = true;
		return 0;
	}
	if (h != NULL)		/* and numbered it anew: ours is out */
		h->s.index = PROC_SOCKETS_MAX;
	if (p->nheld == p->held_room) {
		room = p->held_room == 0 ? 16 : p->held_room * 2;
		if (room > PROC_SOCKETS_MAX ||
		    (more = realloc(p->held, room * sizeof(*more))) == NULL) {
			close(fd);
			return ERR_NOMEM;
		}
		p->held = more;
		p->held_room = room;
	}
	h = &p->held[p->nheld++];
	memset(h, 0, sizeof(*h));
	h->s.fd = fd;
	h->s.index = row->index;
	h->s.kind = (enum proc_socket_kind)row->kind;
	h->s.instance = row->instance;
	SUP_TEXT(h->s.address, row->address);
	h->next = true;
	h->said = true;
	return 0;
}

/* Show the program the set it is to accept from. */
static void
give_sockets(struct proc *p)
{
	struct proc_socket	*set;
	size_t			 i, n = 0;

	if (p->h.sockets == NULL)
		return;
	if ((set = calloc(p->nheld + 1, sizeof(*set))) == NULL)
		return;
	for (i = 0; i < p->nheld; i++)
		if (p->held[i].dealt)
			set[n++] = p->held[i].s;
	p->h.sockets(p->ctx, set, n);
	free(set);
}

static int
on_sockets(struct proc *p, int *fds, size_t nfds)
{
	static SupSockets	 m;
	struct held		*h;
	size_t			 i, used = 0;
	int			 rc = 0;

	m = p->msg.u.sockets;
	if (m.op != SUP_SOCKETS_DEALT)
		goto bad;
	if (m.first)
		for (i = 0; i < p->nheld; i++)
			p->held[i].next = false;
	for (i = 0; i < m.sockets_count; i++) {
		if (m.sockets[i].fd) {
			if (used == nfds)
				goto bad;
			if ((rc = held_add(p, &m.sockets[i],
			    fds[used++])) < 0)
				goto fail;
		} else if ((h = held_find(p, m.sockets[i].index)) != NULL)
			h->next = true;
	}
	if (used != nfds)
		goto bad;
	if (!m.last)
		return 0;
	for (i = 0; i < p->nheld; i++)
		p->held[i].dealt = p->held[i].next && !p->draining;
	give_sockets(p);
	return 0;
bad:
	rc = ERR_PROTO;
fail:
	sup_close_fds(fds + used, nfds - used);
	return rc;
}

static struct kept *
theirs_find(struct proc *p, const SupSegment *m)
{
	struct proc_segment	*s;
	size_t			 i;

	for (i = 0; i < p->ntheirs; i++) {
		s = &p->theirs[i].s;
		if (s->kind == (enum proc_segment_kind)m->kind &&
		    s->generation == m->generation &&
		    s->incarnation == m->incarnation &&
		    strcmp(s->owner, m->owner) == 0)
			return &p->theirs[i];
	}
	return NULL;
}

static void
theirs_drop(struct proc *p, struct kept *k)
{
	struct proc_segment	s = k->s;

	*k = p->theirs[--p->ntheirs];
	sup_close_fds(s.fds, s.nfds);
	s.nfds = 0;
	if (p->h.segment != NULL && !proc_is_successor(p))
		p->h.segment(p->ctx, &s);
}

static int
on_segment(struct proc *p, int *fds, size_t nfds)
{
	SupSegment	 m = p->msg.u.segment;
	struct kept	*k = theirs_find(p, &m), *more;
	size_t		 room;

	if (m.op == SUP_SEGMENT_DROP) {
		sup_close_fds(fds, nfds);
		if (k != NULL)
			theirs_drop(p, k);
		return 0;
	}
	if (nfds == 0 || nfds > PROC_SEGMENT_FDS) {
		sup_close_fds(fds, nfds);
		return ERR_PROTO;
	}
	if (k != NULL) {		/* a new supervisor sends it again */
		k->said = true;
		sup_close_fds(fds, nfds);
		return 0;
	}
	if (p->ntheirs == p->theirs_room) {
		room = p->theirs_room == 0 ? 16 : p->theirs_room * 2;
		if (room > 4 * PROC_PEERS_MAX ||
		    (more = realloc(p->theirs, room * sizeof(*more))) ==
		    NULL) {
			sup_close_fds(fds, nfds);
			return ERR_NOMEM;
		}
		p->theirs = more;
		p->theirs_room = room;
	}
	k = &p->theirs[p->ntheirs++];
	memset(k, 0, sizeof(*k));
	k->said = true;
	k->s.kind = (enum proc_segment_kind)m.kind;
	SUP_TEXT(k->s.owner, m.owner);
	k->s.incarnation = m.incarnation;
	k->s.generation = m.generation;
	k->s.nfds = nfds;
	memcpy(k->s.fds, fds, nfds * sizeof(*fds));
	if (p->h.segment != NULL && !proc_is_successor(p)) {
		struct proc_segment	s = k->s;

		p->h.segment(p->ctx, &s);
	}
	return 0;
}

static void
refused(struct proc *p)
{
	const SupWelcome	*m = &p->msg.u.welcome;

	/* Another incarnation has our place: leave it to it. */
	log_warn("supervise.refused", "code=%u why=%s", m->refused,
	    log_quote(m->why));
	disconnect(p);
	ev_timer_stop(p->loop, &p->knock);
	proc_drain(p);
}

static void
look_at_self(void)
{
	struct rusage	ru;
	unsigned long	size, resident;
	FILE		*f;

	if (getrusage(RUSAGE_SELF, &ru) == 0)
		metric_set(&m_cpu, (uint64_t)(ru.ru_utime.tv_sec +
		    ru.ru_stime.tv_sec) * 1000 + (uint64_t)
		    (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1000);
	if ((f = fopen("/proc/self/statm", "re")) != NULL) {
		if (fscanf(f, "%lu %lu", &size, &resident) == 2)
			metric_set(&m_rss, (uint64_t)resident *
			    (uint64_t)sysconf(_SC_PAGESIZE));
		fclose(f);
	}
	metric_set(&m_log, log_dropped());
}

static int
on_handover(struct proc *p, int *fds, size_t nfds)
{
	bool	give = p->msg.u.handover.op == SUP_HANDOVER_GIVE;

	if (nfds != 1 || (!give &&
	    p->msg.u.handover.op != SUP_HANDOVER_TAKE) ||
	    give == proc_is_successor(p)) {
		sup_close_fds(fds, nfds);
		return ERR_PROTO;
	}
	if (p->h.handover != NULL && !p->draining) {
		p->taking = !give;
		p->h.handover(p->ctx, fds[0], give);
		return 0;
	}
	sup_close_fds(fds, nfds);
	proc_handover_failed(p, p->draining ? "it is draining" :
	    "it has nothing to hand over");
	return 0;
}

static int
dispatch(struct proc *p, int *fds, size_t nfds)
{
	int	rc = 0;

	switch ((int)p->msg.kind) {
	case KIND_SUP_SOCKETS:
		return on_sockets(p, fds, nfds);
	case KIND_SUP_SEGMENT:
		return on_segment(p, fds, nfds);
	case KIND_SUP_HANDOVER:
		return on_handover(p, fds, nfds);
	case KIND_SUP_PEERS:
		rc = on_peers(p);
		break;
	case KIND_SUP_CONF:
		/* A bad one is logged and the old one stays. */
		if (on_conf(p, fds, nfds) == 0 && p->h.reload != NULL)
			p->h.reload(p->ctx, &p->conf);
		break;
	case KIND_SUP_PING:
		p->pong_seq = p->msg.u.ping.seq;
		p->pong = p->dirty = true;
		look_at_self();
		break;
	case KIND_SUP_WELCOME:
		if (p->msg.u.welcome.refused != 0)
			refused(p);
		else
			p->welcomed = p->dirty = true;
		break;
	case KIND_SUP_DRAIN:
		p->drain_said = true;
		proc_drain(p);
		break;
	default:
		rc = ERR_PROTO;
		break;
	}
	sup_close_fds(fds, nfds);
	return rc;
}

static void
on_readable(EV_P_ ev_io *w, int revents UNUSED)
{
	struct proc	*p = w->data;
	int		 fds[SUP_FDS_MAX], rc, n;
	size_t		 nfds;

	(void)loop;
	for (n = 0; n < PACKETS_PER_TURN && p->sock >= 0; n++) {
		if ((rc = sup_recv(p->sock, &p->msg, fds, &nfds)) == 0)
			rc = dispatch(p, fds, nfds);
		if (rc == ERR_AGAIN)
			return;
		if (rc < 0) {
			log_warn("supervise.lost", "why=%s",
			    log_quote(err_str(rc)));
			disconnect(p);
			return;
		}
	}
}

/* --- What programs ask --------------------------------------------------- */

void
proc_ready(struct proc *p)
{
	if (!p->ready)
		log_info("ready", "incarnation=%llu",
		    (unsigned long long)p->incarnation);
	p->ready = p->dirty = true;
}

int
proc_publish_segment(struct proc *p, enum proc_segment_kind kind,
    uint64_t generation, const int *fds, size_t nfds)
{
	struct kept	*k, *more;
	size_t		 i;
	int		 err;

	if (nfds == 0 || nfds > PROC_SEGMENT_FDS)
		return ERR_INVAL;
	if (p->nmine == SEGMENTS_MAX)
		return ERR_FULL;
	more = realloc(p->mine, (p->nmine + 1) * sizeof(*more));
	if (more == NULL)
		return ERR_NOMEM;
	p->mine = more;
	k = &p->mine[p->nmine];
	memset(k, 0, sizeof(*k));
	k->s.kind = kind;
	SUP_TEXT(k->s.owner, p->name);
	k->s.incarnation = p->incarnation;
	k->s.generation = generation;
	for (i = 0; i < nfds; i++) {
		k->s.fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
		if (k->s.fds[i] < 0) {
			err = errno;
			sup_close_fds(k->s.fds, i);
			errno = err;
			return ERR_IO;
		}
	}
	k->s.nfds = nfds;
	p->nmine++;
	flush(p);
	return 0;
}

void
proc_drop_segments(struct proc *p, enum proc_segment_kind kind, uint64_t below)
{
	size_t	i;

	for (i = 0; i < p->nmine;) {
		if (p->mine[i].s.kind != kind ||
		    p->mine[i].s.generation >= below) {
			i++;
			continue;
		}
		sup_close_fds(p->mine[i].s.fds, p->mine[i].s.nfds);
		p->mine[i] = p->mine[--p->nmine];
	}
	if (below > p->drop_below[kind]) {
		p->drop_below[kind] = below;
		p->drop_said[kind] = false;
		p->dirty = true;
	}
}

void
proc_sockets_return(struct proc *p, const uint32_t *indexes, size_t n)
{
	struct held	*h;
	size_t		 i;

	for (i = 0; i < n; i++) {
		if ((h = held_find(p, indexes[i])) == NULL || !h->dealt)
			continue;
		h->dealt = false;
		h->back = true;
	}
	p->full = p->dirty = true;
	p->full_said = p->want = false;
}

void
proc_sockets_want(struct proc *p)
{
	p->want = p->dirty = true;
	p->want_said = p->full = false;
}

static void
handover(struct proc *p, SupHandoverOp op, const char *why)
{
	p->handover_op = op;
	snprintf(p->handover_why, sizeof(p->handover_why), "%s", why);
	p->handover_say = p->dirty = p->sock >= 0;
	flush(p);
}

void
proc_prepared(struct proc *p)
{
	handover(p, SUP_HANDOVER_PREPARED, "");
}

void
proc_handover_failed(struct proc *p, const char *why)
{
	handover(p, SUP_HANDOVER_FAILED, why);
}

void
proc_taken(struct proc *p)
{
	size_t	i;
	int	rc;

	p->taken = p->ready = true;
	handover(p, SUP_HANDOVER_TAKEN, "");	/* before all else we say */
	if ((rc = publish_metrics(p)) < 0)
		log_warn("metrics.private", "why=%s", log_quote(err_str(rc)));
	for (i = 0; i < p->ntheirs && p->h.segment != NULL; i++) {
		struct proc_segment	s = p->theirs[i].s;

		p->h.segment(p->ctx, &s);
	}
	if (p->npeers > 0 && p->peers_whole && p->h.peers != NULL)
		p->h.peers(p->ctx, p->peers, p->npeers);
	log_info("ready", "incarnation=%llu",
	    (unsigned long long)p->incarnation);
}

void
proc_exit(struct proc *p, int code)
{
	p->code = code;
	ev_break(p->loop, EVBREAK_ALL);
}

void
proc_drain(struct proc *p)
{
	size_t	i;
	bool	any = false;

	if (p->draining)
		return;
	if (proc_is_successor(p)) {
		proc_exit(p, EX_TEMPFAIL);
		return;
	}
	p->draining = p->dirty = true;
	log_info("drain", "incarnation=%llu",
	    (unsigned long long)p->incarnation);
	for (i = 0; i < p->nheld; i++) {
		any = any || p->held[i].dealt;
		p->held[i].back = p->held[i].back || p->held[i].dealt;
		p->held[i].dealt = false;
	}
	if (any)
		give_sockets(p);
	if (p->h.drain != NULL)
		p->h.drain(p->ctx);
	else
		proc_exit(p, 0);
}

/* --- Start and end ------------------------------------------------------- */

static void
on_term(EV_P_ ev_signal *w, int revents UNUSED)
{
	(void)loop;
	proc_drain(w->data);
}

static void
on_usr1(EV_P_ ev_signal *w, int revents UNUSED)
{
	struct proc	*p = w->data;

	(void)loop;
	log_info("summary", "state=%s incarnation=%llu supervisor=%s "
	    "sockets=%zu segments=%zu", proc_state_name(state_of(p)),
	    (unsigned long long)p->incarnation, p->welcomed ? "yes" : "no",
	    p->nheld, p->nmine + p->ntheirs);
	if (p->h.summary != NULL)
		p->h.summary(p->ctx);
}

/* Put the values of every metric where others can read them. */
static int
publish_metrics(struct proc *p)
{
	int	fd, rc;

	p->metrics_len = metric_segment_size();
	if (fault_hit("proc.metrics") || (fd = memfd_create("metrics",
	    MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0)
		return ERR_IO;
	rc = ERR_IO;
	if (ftruncate(fd, (off_t)p->metrics_len) < 0)
		goto out;
	p->metrics = mmap(NULL, p->metrics_len, PROT_READ | PROT_WRITE,
	    MAP_SHARED, fd, 0);
	if (p->metrics == MAP_FAILED) {
		p->metrics = NULL;
		goto out;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW |
	    F_SEAL_FUTURE_WRITE) < 0)
		goto out;
	if ((rc = metric_attach(p->metrics, p->metrics_len, p->name)) < 0)
		goto out;
	/* Above that of who was here before under our incarnation. */
	rc = proc_publish_segment(p, PROC_SEGMENT_METRICS,
	    MAX(p->incarnation, p->successor), &fd, 1);
out:
	close(fd);
	return rc;
}

/* Wait for the next packet of the greeting; what comes goes to p->msg. */
static void
greeting(struct proc *p, enum kind kind, int *fds, size_t *nfds)
{
	int	rc;

	for (;;) {
		if (sup_wait(p->sock, START_WAIT_MS) < 0)
			fatal(EX_TEMPFAIL, "supervise.silent",
			    "the supervisor does not answer");
		rc = sup_recv(p->sock, &p->msg, fds, nfds);
		if (rc == ERR_AGAIN)
			continue;
		if (rc < 0)
			fatal(EX_TEMPFAIL, "supervise.lost", "%s",
			    err_str(rc));
		if (p->msg.kind == kind)
			return;
		fatal(EX_PROTOCOL, "supervise.greeting",
		    "expected message %d, got %d", (int)kind,
		    (int)p->msg.kind);
	}
}

static void
greet(struct proc *p)
{
	const SupWelcome	*m = &p->msg.u.welcome;
	int			 fds[SUP_FDS_MAX], rc;
	size_t			 nfds = 0;

	if ((rc = say_hello(p)) < 0)
		fatal(EX_TEMPFAIL, "supervise.lost", "%s", err_str(rc));
	greeting(p, KIND_SUP_WELCOME, fds, &nfds);
	sup_close_fds(fds, nfds);
	if (m->refused != 0)
		fatal((int)m->refused, "supervise.refused", "%s", m->why);
	p->incarnation = m->incarnation;
	p->successor = m->successor;
	p->welcomed = p->dirty = true;
	greeting(p, KIND_SUP_CONF, fds, &nfds);
	if ((rc = on_conf(p, fds, nfds)) < 0)
		fatal(EX_CONFIG, "conf.bad", "%s", err_str(rc));
	sup_close_fds(fds, nfds);
	snprintf(p->endpoint, sizeof(p->endpoint), "ipc://%s.%llu.ipc",
	    p->name, (unsigned long long)p->incarnation);
}

static void
make_usage(char *out, size_t size, const char *program)
{
	snprintf(out, size, "usage: %s [-htVv] [-f conf] [-n name] "
	    "[-o key=value]\n", program);
}

/* Who we are before the supervisor has said so. */
static void
set_name(struct proc *p, const struct cmdline *c,
    const struct cmdline_opts *co)
{
	const char	*kind = proc_kind_name(p->opts->kind);

	if (c->name != NULL) {
		if (proc_name_parse(c->name, &p->kind, &p->instance) < 0 ||
		    p->kind != p->opts->kind)
			cmdline_usage(co, "'%s' is not the name of a %s",
			    c->name, kind);
		SUP_TEXT(p->name, c->name);
		return;
	}
	snprintf(p->name, sizeof(p->name), "%s.0", kind);
	if (proc_name_parse(p->name, &p->kind, &p->instance) < 0)
		snprintf(p->name, sizeof(p->name), "%s", kind);
	p->kind = p->opts->kind;
}

/*
 * Under a supervisor the current directory is run_dir and the configuration
 * comes from it; by hand the options say where the node is.
 */
static void
find_supervisor(struct proc *p, const struct cmdline *c)
{
	char	why[1280];
	int	code;

	if (c->test || getenv("SUPERVISE_SOCK") == NULL) {
		if ((code = cmdline_conf(c, &p->conf, why, sizeof(why))) != 0)
			fatal(code, "conf.bad", "%s", why);
		if (c->test)
			exit(0);
		if (chdir(p->conf.node_run_dir) < 0)
			fatal(EX_UNAVAILABLE, "supervise.none",
			    "cannot enter '%s': %s", p->conf.node_run_dir,
			    strerror(errno));
	}
	if (sup_connect(&p->sock) < 0)
		fatal(EX_UNAVAILABLE, "supervise.none",
		    "cannot reach the supervisor at '%s': %s", SUP_SOCK,
		    strerror(errno));
}

int
proc_start(struct proc **out, int argc, char **argv,
    const struct proc_opts *opts, const struct proc_handlers *h, void *ctx)
{
	struct cmdline_opts	 co = { .program = opts->program };
	struct cmdline		*c;
	struct proc		*p;
	char			 usage[256];

	make_usage(usage, sizeof(usage), opts->program);
	co.usage = opts->usage != NULL ? opts->usage : usage;
	if ((p = calloc(1, sizeof(*p))) == NULL)
		return ERR_NOMEM;
	if ((c = calloc(1, sizeof(*c))) == NULL)
		goto free_proc;
	metric_register(rows, NELEM(rows));
	log_init(opts->program, LOG_L_INFO);
	cmdline_parse(c, argc, argv, &co, NULL);
	if (optind != argc)
		cmdline_usage(&co, "unexpected '%s'", argv[optind]);
	p->opts = opts;
	p->sock = -1;
	if (h != NULL)
		p->h = *h;
	p->ctx = ctx;
	p->log_debug = c->verbose;
	set_name(p, c, &co);
	log_init(p->name, LOG_L_INFO);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);	/* the supervisor reads files again */
	find_supervisor(p, c);
	greet(p);
	free(c);
	c = NULL;
	log_init(p->name, (enum log_level)p->conf.log_level);

	if ((p->loop = ev_loop_new(EVFLAG_NOENV)) == NULL)
		goto free_proc;
	ev_io_init(&p->reader, on_readable, p->sock, EV_READ);
	ev_io_init(&p->writer, on_writable, p->sock, EV_WRITE);
	ev_timer_init(&p->knock, on_knock, 0., KNOCK_S);
	ev_prepare_init(&p->before, on_before);
	ev_signal_init(&p->term, on_term, SIGTERM);
	ev_signal_init(&p->intr, on_term, SIGINT);
	ev_signal_init(&p->usr1, on_usr1, SIGUSR1);
	p->reader.data = p->writer.data = p->knock.data = p->before.data = p;
	p->term.data = p->intr.data = p->usr1.data = p;
	ev_io_start(p->loop, &p->reader);
	ev_prepare_start(p->loop, &p->before);
	ev_signal_start(p->loop, &p->term);
	ev_signal_start(p->loop, &p->intr);
	ev_signal_start(p->loop, &p->usr1);
	*out = p;
	return 0;

free_proc:
	free(c);
	free(p);
	return ERR_NOMEM;
}

int
proc_run(struct proc *p)
{
	int	rc;

	look_at_self();
	if (!proc_is_successor(p) && (rc = publish_metrics(p)) < 0)
		log_warn("metrics.private", "why=%s", log_quote(err_str(rc)));
	ev_run(p->loop, 0);
	flush(p);
	log_info("exit", "code=%d", p->code);
	return p->code;
}

void
proc_free(struct proc **pp)
{
	struct proc	*p = *pp;
	size_t		 i;

	if (p == NULL)
		return;
	*pp = NULL;
	if (p->sock >= 0)
		close(p->sock);
	ev_loop_destroy(p->loop);
	for (i = 0; i < p->nheld; i++)
		close(p->held[i].s.fd);
	for (i = 0; i < p->nmine; i++)
		sup_close_fds(p->mine[i].s.fds, p->mine[i].s.nfds);
	for (i = 0; i < p->ntheirs; i++)
		sup_close_fds(p->theirs[i].s.fds, p->theirs[i].s.nfds);
	if (p->metrics != NULL) {
		metric_detach();
		munmap(p->metrics, p->metrics_len);
	}
	free(p->held);
	free(p->mine);
	free(p->theirs);
	free(p);
}

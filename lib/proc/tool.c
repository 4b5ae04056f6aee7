#include "proc/tool.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "proc/cmdline.h"
#include "proc/sup.h"

#define ANSWER_MS	10000
#define SEGMENTS_MAX	2048
#define LETTERS_MAX	64

struct tool {
	const struct tool_opts	*opts;
	struct cmdline		 cmd;
	struct conf		 conf;
	char			 node[CONF_STR_MAX];
	int			 sock;
	uint64_t		 seq;
	bool			 peers_whole;	/* the list is complete */
	size_t			 npeers, nsegs;
	struct proc_peer	 peers[PROC_PEERS_MAX];
	struct proc_segment	 segs[SEGMENTS_MAX];
	struct sup_msg		 msg;		/* scratch, large */
};

const struct conf *
tool_conf(const struct tool *t)
{
	return &t->conf;
}

const char *
tool_node(const struct tool *t)
{
	return t->node;
}

bool
tool_json(const struct tool *t)
{
	return t->cmd.json;
}

void
tool_usage(const struct tool_opts *o, const char *fmt, ...)
{
	va_list	ap;

	fprintf(stderr, "%s: ", o->program);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n%s", o->usage);
	exit(EX_USAGE);
}

void
tool_fatal(struct tool *t, int rc)
{
	if (rc == ERR_AGAIN)
		fprintf(stderr, "%s: the supervisor does not answer\n",
		    t->opts->program);
	else if (rc == ERR_IO && errno == EPIPE)
		fprintf(stderr, "%s: the node has ended\n", t->opts->program);
	else
		fprintf(stderr, "%s: cannot talk to the supervisor: %s\n",
		    t->opts->program, err_str(rc));
	exit(EX_UNAVAILABLE);
}

/* --- Hearing ------------------------------------------------------------- */

static int
on_peers(struct tool *t)
{
	int	rc = sup_peers_take(&t->msg.u.peers, t->peers, &t->npeers);

	t->peers_whole = rc == 0;
	return rc == ERR_AGAIN ? 0 : rc;
}

static void
on_segment(struct tool *t, const int *fds, size_t nfds)
{
	const SupSegment	*m = &t->msg.u.segment;
	struct proc_segment	*s;
	size_t			 i;

	for (i = 0; i < t->nsegs; i++) {
		s = &t->segs[i];
		if ((uint32_t)s->kind == m->kind &&
		    s->generation == m->generation &&
		    s->incarnation == m->incarnation &&
		    strcmp(s->owner, m->owner) == 0)
			break;
	}
	if (m->op == SUP_SEGMENT_DROP && i < t->nsegs) {
		sup_close_fds(t->segs[i].fds, t->segs[i].nfds);
		memmove(&t->segs[i], &t->segs[i + 1],
		    (--t->nsegs - i) * sizeof(t->segs[0]));
	}
	if (m->op == SUP_SEGMENT_DROP || i < t->nsegs || nfds == 0 ||
	    nfds > PROC_SEGMENT_FDS || t->nsegs == SEGMENTS_MAX) {
		sup_close_fds(fds, nfds);
		return;
	}
	s = &t->segs[t->nsegs++];
	memset(s, 0, sizeof(*s));
	s->kind = (enum proc_segment_kind)m->kind;
	SUP_TEXT(s->owner, m->owner);
	s->incarnation = m->incarnation;
	s->generation = m->generation;
	s->nfds = nfds;
	memcpy(s->fds, fds, nfds * sizeof(*fds));
}

/* Take one packet; its kind is left in t->msg. ERR_AGAIN after timeout_ms. */
static int
hear(struct tool *t, int timeout_ms)
{
	int	fds[SUP_FDS_MAX], rc;
	size_t	nfds = 0;

	rc = sup_recv(t->sock, &t->msg, fds, &nfds);
	if (rc == ERR_AGAIN && timeout_ms != 0 &&
	    (rc = sup_wait(t->sock, timeout_ms)) == 0)
		rc = sup_recv(t->sock, &t->msg, fds, &nfds);
	if (rc < 0)
		return rc;
	if (t->msg.kind == KIND_SUP_SEGMENT) {
		on_segment(t, fds, nfds);
		return 0;
	}
	sup_close_fds(fds, nfds);
	return t->msg.kind == KIND_SUP_PEERS ? on_peers(t) : 0;
}

/* Until a packet of this kind has come. */
static int
hear_kind(struct tool *t, enum kind kind, int timeout_ms)
{
	uint64_t	end = clock_mono_ns() / 1000000 + (uint64_t)timeout_ms;
	uint64_t	now;
	int		rc;

	for (;;) {
		now = clock_mono_ns() / 1000000;
		rc = hear(t, now < end ? (int)(end - now) : 0);
		if (rc < 0 && !(rc == ERR_AGAIN && now < end))
			return rc;
		if (rc == 0 && t->msg.kind == kind)
			return 0;
	}
}

/* --- Asking -------------------------------------------------------------- */

static int
ask(struct tool *t, SupOp op, const char *name, uint32_t count)
{
	SupRequest	*m = &t->msg.u.request;

	*m = (SupRequest)SupRequest_init_zero;
	t->msg.kind = KIND_SUP_REQUEST;
	m->seq = ++t->seq;
	m->op = op;
	SUP_TEXT(m->name, name);
	m->count = count;
	return sup_send(t->sock, &t->msg, NULL, 0);
}

static int
ask_and_wait(struct tool *t, SupOp op, const char *name, uint32_t count,
    int timeout_ms, int *code, char *text, size_t size)
{
	int	rc;

	if ((rc = ask(t, op, name, count)) < 0)
		return rc;
	do
		if ((rc = hear_kind(t, KIND_SUP_RESULT, timeout_ms)) < 0)
			return rc;
	while (t->msg.u.result.seq != t->seq);
	*code = (int)t->msg.u.result.code;
	snprintf(text, size, "%s", t->msg.u.result.text);
	return 0;
}

int
tool_peers(struct tool *t, const struct proc_peer **peers, size_t *n)
{
	int	rc;

	while ((rc = hear(t, 0)) == 0)
		;
	if (rc != ERR_AGAIN)
		return rc;
	while (!t->peers_whole)
		if ((rc = hear_kind(t, KIND_SUP_PEERS, ANSWER_MS)) < 0)
			return rc;
	*peers = t->peers;
	*n = t->npeers;
	return 0;
}

int
tool_segments(struct tool *t, const struct proc_segment **s, size_t *n)
{
	char	text[64];
	int	rc, code;

	if ((rc = ask_and_wait(t, SUP_OP_SEGMENTS, "", 0, ANSWER_MS, &code,
	    text, sizeof(text))) < 0)
		return rc;
	*s = t->segs;
	*n = t->nsegs;
	return 0;
}

int
tool_status(struct tool *t,
    void (*each)(void *ctx, const struct tool_row *row), void *ctx)
{
	const SupResult	*m = &t->msg.u.result;
	struct tool_row	 row;
	int		 rc;

	if ((rc = ask(t, SUP_OP_STATUS, "", 0)) < 0)
		return rc;
	do {
		if ((rc = hear_kind(t, KIND_SUP_RESULT, ANSWER_MS)) < 0)
			return rc;
		if (m->seq != t->seq || !m->has_row)
			continue;
		memset(&row, 0, sizeof(row));
		SUP_TEXT(row.name, m->row.name);
		row.pid = (pid_t)m->row.pid;
		row.state = (enum proc_state)m->row.state;
		row.incarnation = m->row.incarnation;
		row.restarts = m->row.restarts;
		row.uptime_ms = m->row.uptime_ms;
		SUP_TEXT(row.note, m->row.note);
		each(ctx, &row);
	} while (m->seq != t->seq || !m->last);
	return 0;
}

int
tool_restart(struct tool *t, const char *name, int timeout_ms, int *code,
    char *text, size_t size)
{
	return ask_and_wait(t, SUP_OP_RESTART, name, 0, timeout_ms, code,
	    text, size);
}

int
tool_reload(struct tool *t, int timeout_ms, int *code, char *text, size_t size)
{
	return ask_and_wait(t, SUP_OP_RELOAD, "", 0, timeout_ms, code, text,
	    size);
}

int
tool_scale(struct tool *t, const char *kind, uint32_t count, int timeout_ms,
    int *code, char *text, size_t size)
{
	return ask_and_wait(t, SUP_OP_SCALE, kind, count, timeout_ms, code,
	    text, size);
}

int
tool_upgrade(struct tool *t, const char *name, int timeout_ms, int *code,
    char *text, size_t size)
{
	return ask_and_wait(t, SUP_OP_UPGRADE, name, 0, timeout_ms, code,
	    text, size);
}

int
tool_stop(struct tool *t, int timeout_ms)
{
	int	rc;

	if ((rc = ask(t, SUP_OP_STOP, "", 0)) < 0)
		return rc;
	rc = hear_kind(t, KIND_NONE, timeout_ms);
	return rc == ERR_IO ? 0 : rc;	/* it has ended */
}

/* --- Start and end ------------------------------------------------------- */

static void
none(struct tool *t, const char *why)
{
	fprintf(stderr, "%s: no node runs in '%s': %s\n", t->opts->program,
	    t->conf.node_run_dir, why);
	exit(EX_UNAVAILABLE);
}

static void
greet(struct tool *t)
{
	SupHello	*m = &t->msg.u.hello;
	int		 rc;

	*m = (SupHello)SupHello_init_zero;
	t->msg.kind = KIND_SUP_HELLO;
	m->version = PROTO_VERSION;
	SUP_TEXT(m->name, t->opts->program);
	m->wants = t->opts->wants;
	m->tool = true;
	if ((rc = sup_send(t->sock, &t->msg, NULL, 0)) < 0 ||
	    (rc = hear_kind(t, KIND_SUP_WELCOME, ANSWER_MS)) < 0)
		tool_fatal(t, rc);
	if (t->msg.u.welcome.refused != 0) {
		fprintf(stderr, "%s: %s\n", t->opts->program,
		    t->msg.u.welcome.why);
		exit((int)t->msg.u.welcome.refused);
	}
	SUP_TEXT(t->node, t->msg.u.welcome.node);
}

void
tool_open(struct tool **out, int argc, char **argv, const struct tool_opts *o,
    void *ctx)
{
	char			 letters[LETTERS_MAX], why[1280];
	struct cmdline_opts	 co = {
		.program = o->program, .usage = o->usage,
		.letters = letters, .longs = o->longs, .own = o->own,
		.json = true,
	};
	struct tool		*t;
	int			 code;

	if ((t = calloc(1, sizeof(*t))) == NULL) {
		fprintf(stderr, "%s: out of memory\n", o->program);
		exit(EX_OSERR);
	}
	t->opts = o;
	t->sock = -1;
	signal(SIGPIPE, SIG_IGN);
	snprintf(letters, sizeof(letters), "f:o:hV%s",
	    o->letters != NULL ? o->letters : "");
	cmdline_parse(&t->cmd, argc, argv, &co, ctx);
	if (o->operands != NULL)
		o->operands(ctx, argc - optind, argv + optind);
	if ((code = cmdline_conf(&t->cmd, &t->conf, why, sizeof(why))) != 0) {
		fprintf(stderr, "%s: %s\n", o->program, why);
		exit(code);
	}
	if (chdir(t->conf.node_run_dir) < 0 || sup_connect(&t->sock) < 0)
		none(t, strerror(errno));
	greet(t);
	*out = t;
}

void
tool_close(struct tool **tp)
{
	struct tool	*t = *tp;
	size_t		 i;

	if (t == NULL)
		return;
	*tp = NULL;
	for (i = 0; i < t->nsegs; i++)
		sup_close_fds(t->segs[i].fds, t->segs[i].nfds);
	close(t->sock);
	free(t);
}

/*
 * Who belongs to the cluster. What changes is on disk before it is said
 * (cluster_turn), and who this node is does not change under its connections:
 * when it joins, leaves, is sent away or comes in again, the process ends and
 * the supervisor starts the next one, which finds that on disk. Without a
 * router everything that is routed goes on.
 *
 * CAVEAT: the file is synced by this thread. It is small, and written when a
 * node comes, goes or is restarted; a disk that hangs for long stops us there.
 */
#include "cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"
#include "member/file.h"

enum {
	SAVE_AGAIN_MS	= 1000,
	TASK_MS		= 10000,	/* then it is partial, or failed */
	CURSOR_LEN	= 8,
	SEES_MAX	= 16 * 1024,	/* bytes of names in a row */
};

/* Cursor of a page of its own; no join id is that high. */
#define FIGURES	UINT64_MAX

enum task_kind { TASK_NONE, TASK_JOIN, TASK_LEAVE, TASK_FORCE };
enum task_state { TASK_RUNNING, TASK_DONE, TASK_PARTIAL, TASK_FAILED };

/* What a tool has begun: one at a time. */
struct task {
	enum task_kind	kind;
	enum task_state	state;
	uint64_t	id;
	uint64_t	row;		/* join id of what is written */
	uint64_t	end_ms;
	char		name[MEMBER_NAME_MAX];
	char		why[MEMBER_TEXT_MAX];
	struct member_acks acks;
};

struct cluster {
	struct router	*r;
	struct members	*m;
	const struct cluster_calls *calls;
	void		*ctx;
	struct task	 task;
	bool		 again;		/* who we are has changed: end */
	bool		 ended;
	uint64_t	 save_ms;	/* it failed: not before */
	uint64_t	 last_clock;
};

static struct metric	m_members = METRIC_GAUGE("cluster_members",
			    "Nodes that belong to the cluster, this one too");
static struct metric	m_members_up = METRIC_GAUGE("cluster_members_up",
			    "Of these, those whose router is in reach");
static struct metric	m_split = METRIC_GAUGE("cluster_split",
			    "1 while some node cannot reach one that is up");
static struct metric	m_out = METRIC_GAUGE("cluster_out",
			    "1 while this node is alone: it left, was forced "
			    "to, or lost its name");
static struct metric	m_cleaned = METRIC_COUNTER("cluster_cleaned_total",
			    "Nodes taken out because they were down for "
			    "cluster.autoclean");
static struct metric	m_unsaved = METRIC_COUNTER("cluster_unsaved_total",
			    "Times that the file of members was not written");

static struct metric *const metrics[] = {
	&m_members, &m_members_up, &m_split, &m_out, &m_cleaned, &m_unsaved,
};

struct members *
cluster_members(struct router *r)
{
	return r->cluster->m;
}

static struct members_self
self_of(const struct cluster *c)
{
	struct members_self s;

	members_self(c->m, &s);
	return s;
}

static uint64_t
clock_of(struct cluster *c)
{
	uint64_t now = c->calls != NULL ? c->calls->clock(c->ctx) :
	    clock_wall_ns();

	c->last_clock = MAX(now, c->last_clock + 1);
	return c->last_clock;
}

/* --- What lib/member tells ------------------------------------------------ */

static uint64_t
random_number(void *ctx UNUSED)
{
	uint64_t v;

	if (getrandom(&v, sizeof(v), 0) != sizeof(v))
		fatal(EX_OSERR, "cluster.random", "no random numbers: %s",
		    strerror(errno));
	return v;
}

static const char *
state_name(enum member_state s)
{
	switch (s) {
	case MEMBER_IN:
		return "replaced";
	case MEMBER_CLEANED:
		return "cleaned";
	case MEMBER_LEFT:
		return "left";
	case MEMBER_FORCED:
		return "forced";
	}
	return "unknown";
}

static void
on_event(void *ctx, const struct member_event *e)
{
	struct cluster	*c = ctx;
	const char	*name = e->row != NULL ? e->row->name : "";

	switch (e->kind) {
	case MEMBER_EV_CAME:
		log_info("cluster.came", "node=%s join=%016" PRIx64 " role=%s",
		    log_quote(name), e->row->join,
		    e->row->role == MEMBER_CORE ? "core" : "replicant");
		return;
	case MEMBER_EV_WENT:
		log_info("cluster.went", "node=%s join=%016" PRIx64 " why=%s",
		    log_quote(name), e->row->join, state_name(e->row->state));
		if (c->calls != NULL)
			c->calls->gone(c->ctx, e->row);
		return;
	case MEMBER_EV_DISK_LOST:
		log_error("cluster.disk_lost", "node=%s join=%016" PRIx64
		    " before=%016" PRIx64, log_quote(name), e->row->join,
		    e->old->join);
		return;
	case MEMBER_EV_PARKED:
		log_error("cluster.parked", "node=%s", log_quote(name));
		return;
	case MEMBER_EV_HEALED:
		log_info("cluster.healed", "node=%s", log_quote(name));
		return;
	case MEMBER_EV_RAISE:
		log_warn("cluster.incarnation", "ours=%" PRIu64 " least=%"
		    PRIu64, self_of(c).incarnation, e->incarnation);
		break;
	case MEMBER_EV_SELF_CLEANED:
		log_warn("cluster.cleaned", "join=%016" PRIx64,
		    self_of(c).row->join);
		break;
	case MEMBER_EV_SELF_FORCED:
		log_error("cluster.forced", "node=%s",
		    log_quote(self_of(c).row->name));
		break;
	case MEMBER_EV_SELF_NAME_LOST:
		log_error("cluster.name_lost", "node=%s",
		    log_quote(self_of(c).row->name));
		break;
	case MEMBER_EV_SELF_LEFT:
		log_warn("cluster.left", "node=%s",
		    log_quote(self_of(c).row->name));
		break;
	}
	c->again = true;
}

static const struct member_calls member_calls = { random_number, on_event };

/* --- On disk -------------------------------------------------------------- */

static int
save(struct cluster *c)
{
	uint8_t	*image;
	uint64_t serial;
	size_t	 len;
	int	 rc;

	if (!members_unsaved(c->m, &serial))
		return 0;
	if ((rc = members_image(c->m, &image, &len)) == 0) {
		rc = member_file_write(c->r->conf->node_data_dir, image, len);
		free(image);
	}
	if (rc < 0) {
		metric_inc(&m_unsaved);
		log_error("cluster.unsaved", "dir=%s why=%s",
		    log_quote(c->r->conf->node_data_dir), err_str(rc));
		c->save_ms = now_ms() + SAVE_AGAIN_MS;
		return rc;
	}
	c->save_ms = 0;
	members_saved(c->m, serial);
	return 1;
}

static void
set_aside(const char *dir, const char *why)
{
	char name[64];

	if (member_file_aside(dir, name, sizeof(name)) < 0)
		fatal(EX_CONFIG, "cluster.damaged", "%s/%s: %s; it cannot be "
		    "set aside either: %s", dir, MEMBER_FILE, why,
		    strerror(errno));
	fatal(EX_CONFIG, "cluster.damaged", "%s/%s: %s. It was set aside as "
	    "%s: put back a good copy, or start again as a new node, which "
	    "has this name and nothing of its past", dir, MEMBER_FILE, why,
	    name);
}

/* HOST:PORT of the metadata channel: what is told to others. */
static void
own_addr(const struct router *r, char *out, size_t size)
{
	char	 name[MEMBER_NAME_MAX], host[MEMBER_NAME_MAX];
	unsigned port = r->conf->cluster_meta_port +
		    conf_node_suffix(proc_node(r->proc));

	if (conf_split_node(proc_node(r->proc), name, sizeof(name), host,
	    sizeof(host)) < 0)
		fatal(EX_CONFIG, "cluster.refused", "no node name: %s",
		    proc_node(r->proc));
	snprintf(out, size, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u",
	    host, port);
}

static void
open_members(struct cluster *c, struct slice image, uint64_t incarnation)
{
	const struct conf	*conf = c->r->conf;
	char			 addr[MEMBER_ADDR_MAX];
	const char		*addrs[] = { addr };
	char			 why[MEMBER_TEXT_MAX];
	struct members_opts	 o = {
		.name = proc_node(c->r->proc),
		.role = conf->node_db_role == CONF_ROLE_CORE ? MEMBER_CORE :
		    MEMBER_REPLICANT,
		.cluster = conf->cluster_discovery == CONF_DISCOVERY_MANUAL ?
		    NULL : conf->cluster_name,
		.addrs = addrs, .naddrs = 1,
		.incarnation = incarnation,
		.max_skew_ns = conf->cluster_max_skew_ms * 1000000ull,
		.autoheal = conf->cluster_autoheal,
		.calls = &member_calls, .ctx = c,
	};
	int			 rc;

	own_addr(c->r, addr, sizeof(addr));
	rc = members_open(&c->m, &o, image, clock_of(c), why);
	if (rc == ERR_CORRUPT)
		set_aside(conf->node_data_dir, why);
	if (rc < 0)
		fatal(rc == ERR_INVAL ? EX_CONFIG : EX_OSERR,
		    "cluster.refused", "%s", why);
}

void
cluster_open(struct router *r)
{
	const char	*dir = r->conf->node_data_dir;
	struct cluster	*c;
	uint8_t		*image = NULL;
	size_t		 len = 0;
	int		 rc;

	if ((c = calloc(1, sizeof(*c))) == NULL)
		fatal(EX_OSERR, "cluster.open", "%s", err_str(ERR_NOMEM));
	c->r = r;
	r->cluster = c;
	metric_register((struct metric **)metrics, NELEM(metrics));
	rc = member_file_read(dir, &image, &len);
	if (rc == ERR_CORRUPT)
		set_aside(dir, "it is cut, or no file");
	if (rc < 0)
		fatal(EX_OSERR, "cluster.open", "cannot read %s/%s: %s", dir,
		    MEMBER_FILE, err_str(rc));
	open_members(c, (struct slice){ image, len }, r->incarnation);
	if (self_of(c).floor > r->incarnation) {
		uint64_t floor = self_of(c).floor;

		members_free(&c->m);
		open_members(c, (struct slice){ image, len }, floor);
	}
	free(image);
	(void)save(c);
}

void
cluster_close(struct router *r)
{
	if (r->cluster == NULL)
		return;
	(void)save(r->cluster);
	members_free(&r->cluster->m);
	free(r->cluster);
	r->cluster = NULL;
}

void
cluster_connect(struct router *r, const struct cluster_calls *calls, void *ctx)
{
	r->cluster->calls = calls;
	r->cluster->ctx = ctx;
}

uint64_t
cluster_incarnation(const struct router *r)
{
	return self_of(r->cluster).incarnation;
}

/* --- Joining, leaving ----------------------------------------------------- */

static bool
is_joining(const struct cluster *c)
{
	return c->task.kind == TASK_JOIN && c->task.state == TASK_RUNNING;
}

bool
cluster_is_joining(const struct router *r, const char *name)
{
	return is_joining(r->cluster) &&
	    strcmp(name, r->cluster->task.name) == 0;
}

size_t
cluster_hello(struct router *r, const char *to, void *buf, size_t size)
{
	struct cluster	*c = r->cluster;
	unsigned	 flags = cluster_is_joining(r, to) ? MEMBER_JOIN : 0;

	if (c->again)
		return 0;
	return members_hello(c->m, to, flags, clock_of(c), buf, size);
}

static void task_end(struct cluster *c, enum task_state state,
    const char *fmt, ...) PRINTF(3, 4);

static void
task_end(struct cluster *c, enum task_state state, const char *fmt, ...)
{
	va_list ap;

	c->task.state = state;
	va_start(ap, fmt);
	vsnprintf(c->task.why, sizeof(c->task.why), fmt, ap);
	va_end(ap);
}

void
cluster_joined(struct router *r, const void *bytes, size_t len,
    const char *why)
{
	struct cluster		*c = r->cluster;
	struct member_answer	 a;
	int			 rc;

	if (!is_joining(c))
		return;
	if (why != NULL) {
		task_end(c, TASK_FAILED, "%s", why);
		return;
	}
	rc = members_join_take(c->m, bytes, len, clock_of(c), &a);
	if (rc == ERR_INVAL)
		task_end(c, TASK_FAILED, "refused: %s", a.text);
	else if (rc < 0)
		task_end(c, TASK_FAILED, "%s", err_str(rc));
	if (rc < 0)
		return;
	log_info("cluster.joined", "by=%s join=%016" PRIx64,
	    log_quote(a.name), self_of(c).row->join);
	task_end(c, TASK_DONE, "%s", "");
	c->again = true;
}

static void
task_check(struct cluster *c, uint64_t now)
{
	struct task *t = &c->task;

	if (t->kind == TASK_NONE || t->state != TASK_RUNNING)
		return;
	if (t->kind == TASK_JOIN) {
		if (now >= t->end_ms)
			task_end(c, TASK_FAILED, "%s does not answer",
			    t->name);
		return;
	}
	t->acks = members_acks(c->m, t->row);
	if (!t->acks.done && now < t->end_ms)
		return;
	task_end(c, t->acks.done ? TASK_DONE : TASK_PARTIAL, "%s", "");
	if (t->kind != TASK_LEAVE)
		return;
	if (members_left(c->m, clock_of(c)) < 0)
		task_end(c, TASK_FAILED, "%s", err_str(ERR_NOMEM));
	log_info("cluster.left", "node=%s", log_quote(self_of(c).row->name));
	c->again = true;
}

/* The next router is another node to the others; not before that is on disk,
 * and the tool that asked for it has had a moment to hear of it. */
static void
end_when_saved(struct cluster *c)
{
	uint64_t serial;

	if (!c->again || c->ended || members_unsaved(c->m, &serial))
		return;
	c->ended = true;
	log_info("cluster.again", "node=%s join=%016" PRIx64,
	    log_quote(self_of(c).row->name), self_of(c).row->join);
	bus_flush(c->r->bus);
	proc_exit(c->r->proc, EX_TEMPFAIL);
}

void
cluster_turn(struct router *r)
{
	struct cluster *c = r->cluster;

	if (c->save_ms == 0 && save(c) > 0 && c->calls != NULL && !c->again)
		c->calls->changed(c->ctx);
}

static void
gauges_set(struct cluster *c)
{
	struct members_count n;

	members_count(c->m, &n);
	metric_set(&m_members, n.members);
	metric_set(&m_members_up, n.up);
	metric_set(&m_split, members_split(c->m));
	metric_set(&m_out, self_of(c).out != MEMBER_NOT_OUT);
}

void
cluster_tick(struct router *r, uint64_t now)
{
	struct cluster	*c = r->cluster;
	int		 n;

	if (c->save_ms != 0 && now >= c->save_ms)
		c->save_ms = 0;
	task_check(c, now);
	if (!c->again && (n = members_autoclean(c->m,
	    r->conf->cluster_autoclean_ms, clock_of(c), now)) > 0)
		metric_add(&m_cleaned, (uint64_t)n);
	gauges_set(c);
	end_when_saved(c);
}

/* --- Questions ------------------------------------------------------------ */

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

static int put_kv(struct reply_writer *w, const char *key, const char *fmt,
    ...) PRINTF(3, 4);

static int
put_kv(struct reply_writer *w, const char *key, const char *fmt, ...)
{
	char		value[MEMBER_TEXT_MAX];
	struct kv_row	row = { .key = text(key) };
	va_list		ap;

	va_start(ap, fmt);
	vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	row.value = text(value);
	return reply_kv(w, &row);
}

static long
refuse(struct cluster *c, const struct query *q, struct reply_writer *w,
    uint32_t status, const char *why)
{
	(void)c;
	return reply_error(w->out.buf, w->out.size + w->room, q->id, status,
	    why);
}

static void
append(char *list, size_t size, size_t *n, const char *name)
{
	int len = snprintf(list + *n, size - *n, "%s%s", *n > 0 ? " " : "",
	    name);

	if (len > 0 && (size_t)len < size - *n)
		*n += (size_t)len;
	else
		list[*n] = '\0';
}

/* Names of those that it says it reaches. */
static struct slice
sees(struct cluster *c, uint64_t join, bool *heard)
{
	static char		list[SEES_MAX];
	struct member_look	l;
	uint64_t		at = 0;
	size_t			n = 0;

	list[0] = '\0';
	*heard = members_sees(c->m, join, self_of(c).row->join) >= 0;
	while (*heard && members_next(c->m, &at, &l) == 1)
		if (l.row->join != join &&
		    members_sees(c->m, join, l.row->join) == 1)
			append(list, sizeof(list), &n, l.row->name);
	return text(list);
}

static int
put_node(struct cluster *c, struct reply_writer *w,
    const struct member_look *l)
{
	struct cluster_node	 known = { .sync = "" };
	char			 addrs[MEMBER_ADDRS * MEMBER_ADDR_MAX] = "";
	uint64_t		 now = now_ms();
	size_t			 n = 0;
	uint32_t		 i;
	struct node_row		 row = {
		.name = text(l->row->name),
		.join = l->row->join,
		.role = text(l->row->role == MEMBER_CORE ? "core" :
		    "replicant"),
		.state = text(l->up ? "running" : "stopped"),
		.self = l->self, .parked = l->parked,
		.incarnation = l->incarnation,
		.since_ms = l->since_ms != 0 ? MAX(now - l->since_ms, 1) : 0,
	};

	for (i = 0; i < l->row->naddrs; i++)
		append(addrs, sizeof(addrs), &n, l->row->addrs[i]);
	row.addrs = text(addrs);
	row.sees = sees(c, l->row->join, &row.heard);
	if (c->calls != NULL && c->calls->look(c->ctx, l->row->join, &known)) {
		row.lag = known.lag;
		row.seq = known.seq;
		row.routes = known.routes;
		row.digest = known.digest;
	}
	row.sync = text(known.sync);
	return reply_node(w, &row);
}

static void
put_figures(struct cluster *c, struct reply_writer *w)
{
	static const char *const outs[] = {
		[MEMBER_NOT_OUT] = "", [MEMBER_OUT_LEFT] = "left",
		[MEMBER_OUT_FORCED] = "forced", [MEMBER_OUT_NAME] = "name",
	};
	struct members_self	s = self_of(c);
	struct members_count	n;
	uint64_t		serial;

	members_count(c->m, &n);
	(void)put_kv(w, "cluster", "%016" PRIx64 "%016" PRIx64,
	    get_be64(s.uid), get_be64(s.uid + 8));
	(void)put_kv(w, "name", "%s", c->r->conf->cluster_discovery ==
	    CONF_DISCOVERY_MANUAL ? "" : c->r->conf->cluster_name);
	(void)put_kv(w, "out", "%s", outs[s.out]);
	(void)put_kv(w, "joined", "%d", s.joined);
	(void)put_kv(w, "split", "%d", members_split(c->m));
	(void)put_kv(w, "majority", "%d", members_majority(c->m));
	(void)put_kv(w, "cores", "%" PRIu32, n.cores);
	(void)put_kv(w, "rows", "%" PRIu32, n.rows);
	(void)put_kv(w, "digest", "%016" PRIx64, n.digest);
	(void)put_kv(w, "unsaved", "%d", members_unsaved(c->m, &serial));
	(void)put_kv(w, "again", "%d", c->again);
}

static long
answer_status(struct cluster *c, const struct query *q,
    struct reply_writer *w, unsigned limit)
{
	uint8_t			cursor[CURSOR_LEN];
	struct member_look	l;
	uint64_t		at = 0, before;

	if (q->cursor.len == CURSOR_LEN)
		at = get_le64(q->cursor.data);
	while (at != FIGURES) {
		before = at;
		if (members_next(c->m, &at, &l) == 0) {
			before = FIGURES;
		} else if (w->rows < limit && put_node(c, w, &l) == 0) {
			continue;
		}
		put_le64(cursor, before);
		return reply_end(w, (struct slice){ cursor, sizeof(cursor) });
	}
	put_figures(c, w);
	return reply_end(w, (struct slice){ NULL, 0 });
}

static bool
get_name(struct slice arg, char name[MEMBER_NAME_MAX])
{
	if (arg.len >= MEMBER_NAME_MAX ||
	    memchr(arg.data, '\0', arg.len) != NULL)
		return false;
	memcpy(name, arg.data, arg.len);
	name[arg.len] = '\0';
	return member_name_is_valid(name);
}

static long
begin(struct cluster *c, struct reply_writer *w, enum task_kind kind,
    const char *name, uint64_t row)
{
	memset(&c->task, 0, sizeof(c->task));
	c->task.kind = kind;
	c->task.row = row;
	c->task.id = random_number(NULL) | 1;
	c->task.end_ms = now_ms() + TASK_MS;
	snprintf(c->task.name, sizeof(c->task.name), "%s", name);
	(void)put_kv(w, "task", "%" PRIu64, c->task.id);
	return reply_end(w, (struct slice){ NULL, 0 });
}

static long
answer_join(struct cluster *c, const struct query *q, struct reply_writer *w)
{
	char	name[MEMBER_NAME_MAX];
	long	n;

	if (!get_name(q->arg, name))
		return refuse(c, q, w, EX_USAGE, "this is no node name: "
		    "NAME@HOST");
	if (strcmp(name, self_of(c).row->name) == 0)
		return refuse(c, q, w, EX_USAGE, "this is the node itself");
	if (self_of(c).joined)
		return refuse(c, q, w, EX_DATAERR, "this node is in a cluster "
		    "with others: leave that one first");
	if (self_of(c).out == MEMBER_OUT_FORCED)
		return refuse(c, q, w, EX_DATAERR, "this node was forced to "
		    "leave: only without its data (node.data_dir) can it join "
		    "again");
	if (c->calls == NULL)
		return refuse(c, q, w, EX_UNAVAILABLE, "this node has no "
		    "connections with others");
	/* The hello asks for it, so the task is there first. */
	n = begin(c, w, TASK_JOIN, name, 0);
	if (c->calls->join(c->ctx, name) == 0)
		return n;
	c->task.kind = TASK_NONE;
	return refuse(c, q, w, EX_UNAVAILABLE, "it cannot be called now");
}

static long
answer_leave(struct cluster *c, const struct query *q, struct reply_writer *w)
{
	struct members_self	s = self_of(c);
	uint64_t		row = s.row->join;
	int			rc = members_leave(c->m, clock_of(c));

	if (rc == ERR_INVAL)
		return refuse(c, q, w, EX_DATAERR, "this node is in no "
		    "cluster with others");
	if (rc < 0)
		return refuse(c, q, w, EX_OSERR, err_str(rc));
	return begin(c, w, TASK_LEAVE, "", row);
}

static long
answer_force(struct cluster *c, const struct query *q, struct reply_writer *w)
{
	char		name[MEMBER_NAME_MAX];
	uint64_t	row;
	int		rc;

	if (!get_name(q->arg, name))
		return refuse(c, q, w, EX_USAGE, "this is no node name: "
		    "NAME@HOST");
	rc = members_force(c->m, name, clock_of(c), &row);
	if (rc == ERR_INVAL)
		return refuse(c, q, w, EX_USAGE, "this is the node itself: "
		    "leave, or ask another one");
	if (rc == ERR_NOTFOUND)
		return refuse(c, q, w, EX_NOINPUT, "no such node is, or was, "
		    "in this cluster");
	if (rc < 0)
		return refuse(c, q, w, EX_OSERR, err_str(rc));
	log_warn("cluster.force", "node=%s", log_quote(name));
	return begin(c, w, TASK_FORCE, name, row);
}

static long
answer_heal(struct cluster *c, struct reply_writer *w)
{
	(void)put_kv(w, "parked", "%d", members_heal(c->m, clock_of(c)));
	if (c->calls != NULL)
		c->calls->changed(c->ctx);
	return reply_end(w, (struct slice){ NULL, 0 });
}

static long
answer_task(struct cluster *c, const struct query *q, struct reply_writer *w)
{
	static const char *const states[] = {
		[TASK_RUNNING] = "running", [TASK_DONE] = "done",
		[TASK_PARTIAL] = "partial", [TASK_FAILED] = "failed",
	};
	struct task *t = &c->task;

	if (t->kind == TASK_NONE || t->id != q->handle)
		return refuse(c, q, w, EX_NOINPUT, "that is not known here");
	task_check(c, now_ms());
	(void)put_kv(w, "state", "%s", states[t->state]);
	(void)put_kv(w, "have", "%" PRIu32, t->acks.have);
	(void)put_kv(w, "cores", "%" PRIu32, t->acks.cores);
	(void)put_kv(w, "why", "%s", t->why);
	return reply_end(w, (struct slice){ NULL, 0 });
}

/* Who is about to begin anew, or is in the middle of another one. */
static const char *
why_not_now(const struct cluster *c)
{
	if (c->again)
		return "the router is about to start anew: ask again";
	if (c->task.kind != TASK_NONE && c->task.state == TASK_RUNNING)
		return "another command of this kind is under way";
	return NULL;
}

long
cluster_answer(struct router *r, const struct query *q,
    struct reply_writer *w, unsigned limit)
{
	struct cluster	*c = r->cluster;
	const char	*why;

	if (q->what == QUERY_CLUSTER)
		return answer_status(c, q, w, limit);
	if (q->what == QUERY_CLUSTER_TASK)
		return answer_task(c, q, w);
	if ((why = why_not_now(c)) != NULL)
		return refuse(c, q, w, EX_TEMPFAIL, why);
	if (q->what == QUERY_CLUSTER_JOIN)
		return answer_join(c, q, w);
	if (q->what == QUERY_CLUSTER_LEAVE)
		return answer_leave(c, q, w);
	if (q->what == QUERY_CLUSTER_FORCE)
		return answer_force(c, q, w);
	return answer_heal(c, w);
}

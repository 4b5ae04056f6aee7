/*
 * Between who belongs to the cluster (cluster.c, lib/member) and the links to
 * other nodes: hellos are judged by the one and carried by the other. A core
 * writes each row that it has on disk into its stream rows.<core>; a replicant
 * tells its own to the core that it follows. Who sees whom goes to all cores,
 * now and then.
 *
 * MESH_MEMBER: a letter, then
 *	R	key (MEMBER_KEY bytes), row
 *	V	a view
 */
#include "nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"

enum { VIEW_MS = 2000 };

static struct members *
members(struct nodeset *ns)
{
	return cluster_members(ns->r);
}

/* --- Hello ----------------------------------------------------------------- */

size_t
belong_fill(void *ctx, const char *to, void *buf, size_t size)
{
	struct nodeset	*ns = ctx;

	return cluster_hello(ns->r, to, buf, size);
}

enum mesh_status
belong_judge(void *ctx, const struct mesh_msg *m, bool called,
    struct mesh_answer *a)
{
	static uint8_t		 refusal[MEMBER_HELLO_MAX];
	struct nodeset		*ns = ctx;
	struct member_verdict	*v = &ns->verdict;
	uint8_t			*answer;
	size_t			 len;

	members_judge(members(ns), m->member.data, m->member.len,
	    mesh_clock(ns->mesh), v);
	if (v->reason == MEMBER_OK && v->h.row.join != m->id) {
		v->reason = MEMBER_MALFORMED;
		snprintf(v->text, sizeof(v->text), "two ids in one hello");
	}
	snprintf(a->why, sizeof(a->why), "%.*s", (int)sizeof(a->why) - 1,
	    v->text);
	if (v->reason != MEMBER_OK) {
		len = members_refusal(members(ns), v, refusal,
		    sizeof(refusal));
		a->member = (struct slice){ refusal, len };
		return MESH_NO_MEMBER;
	}
	if (!v->h.join || !called)
		return MESH_OK;
	/* It asks to be let in: it is told who we are, and comes again. */
	if (members_join_answer(members(ns), &v->h, &answer, &len) < 0) {
		snprintf(a->why, sizeof(a->why), "no memory");
		return MESH_FULL;
	}
	free(ns->answer);
	ns->answer = answer;
	a->member = (struct slice){ answer, len };
	snprintf(a->why, sizeof(a->why), "it may join");
	return MESH_ANSWERED;
}

void
belong_refused(void *ctx, struct mesh_node *mn, const struct mesh_msg *m)
{
	struct nodeset		*ns = ctx;
	struct member_answer	 a;
	struct mesh_look	 l;
	char			 why[MESH_WHY_MAX + 1];

	mesh_look(mn, &l);
	if (ns->joining[0] != '\0' && strcmp(l.name, ns->joining) == 0) {
		snprintf(why, sizeof(why), "%.*s", (int)m->why.len,
		    m->why.data);
		ns->joining[0] = '\0';
		ns->forget_due = true;
		if (m->member.len > 0)
			cluster_joined(ns->r, m->member.data, m->member.len,
			    NULL);
		else
			cluster_joined(ns->r, NULL, 0, why);
		return;
	}
	if (m->status == MESH_NO_MEMBER)
		(void)members_refused(members(ns), m->member.data,
		    m->member.len, mesh_clock(ns->mesh), &a);
}

int
belong_met(struct nodeset *ns)
{
	return members_met(members(ns), &ns->verdict.h, mesh_clock(ns->mesh),
	    now_ms());
}

void
belong_reach(struct nodeset *ns, const struct node *n)
{
	members_reach(members(ns), n->id, n->state != NODE_DOWN, now_ms());
	ns->view_ms = 0;
}

/* --- Rows and views ---------------------------------------------------------- */

int
belong_row(struct nodeset *ns, uint64_t writer, const struct rlog_row *row)
{
	int	rc;

	if (row->deleted || !member_is_key(row->key))
		return 0;
	rc = members_take(members(ns), writer, row->key, row->value,
	    mesh_clock(ns->mesh));
	if (rc == ERR_PROTO || rc == ERR_FULL)
		metric_inc(&m_node_rows_refused);
	return rc == ERR_NOMEM ? rc : 0;
}

int
belong_message(struct nodeset *ns, struct node *n, const void *body,
    size_t len)
{
	const uint8_t	*b = body;
	struct slice	 key, row;
	int		 rc;

	if (len < 1)
		return ERR_PROTO;
	if (b[0] == 'V') {
		rc = members_view_take(members(ns), n->id, b + 1, len - 1);
		if (rc == ERR_PROTO)
			return rc;
		/* Before what comes behind it: who is healed says this first,
		 * and then what its tables have to say. */
		return belong_link(ns, n);
	}
	if (b[0] != 'R')
		return 0;		/* of a later version */
	if (len < 1 + MEMBER_KEY)
		return ERR_PROTO;
	key = (struct slice){ b + 1, MEMBER_KEY };
	row = (struct slice){ b + 1 + MEMBER_KEY, len - 1 - MEMBER_KEY };
	rc = members_take(members(ns), 0, key, row, mesh_clock(ns->mesh));
	if (rc == ERR_PROTO)
		metric_inc(&m_node_rows_refused);
	return rc == ERR_PROTO ? rc : 0;
}

/* A row that is on our disk, as a core says it. */
static int
row_put(struct nodeset *ns, const uint8_t *key, const uint8_t *row, size_t len)
{
	struct slice	k = { key, MEMBER_KEY }, v = { row, len };
	uint64_t	seq;
	int		rc;

	if (len > 0)
		return rlog_put(ns->rows, k, v, &seq);
	rc = rlog_del(ns->rows, k, &seq);
	return rc == ERR_NOTFOUND ? 0 : rc;
}

/* What is on our disk and was not said yet. False: not all of it could be. */
static bool
say_rows(struct nodeset *ns)
{
	uint8_t		 msg[1 + MEMBER_KEY + MEMBER_ROW_MAX] = { 'R' };
	uint8_t		*key = msg + 1, *row = msg + 1 + MEMBER_KEY;
	struct node	*to = ns->core ? NULL : ns->follows;
	uint64_t	 core = to != NULL ? to->id : 0;
	size_t		 len;
	int		 rc;

	if (!ns->core && (to == NULL || to->mesh == NULL || to->link == NULL ||
	    !rlog_link_settled(to->link) || mesh_room(to->mesh) < MESH_QUEUE))
		return false;
	while (members_say(members(ns), core, key, row, &len) == 1) {
		rc = ns->core ? row_put(ns, key, row, len) :
		    mesh_send(to->mesh, MESH_MEMBER, msg, 1 + MEMBER_KEY + len);
		if (rc < 0) {
			members_say_again(members(ns));
			return false;
		}
	}
	return true;
}

static void
say_view(struct nodeset *ns)
{
	static uint8_t	 msg[1 + MEMBER_VIEW_MAX] = { 'V' };
	size_t		 len = members_view(members(ns), msg + 1,
			    MEMBER_VIEW_MAX);
	struct node	*n;

	ns->view_ms = now_ms() + VIEW_MS;
	for (n = ns->all; n != NULL; n = n->hh.next)
		if (n->mesh != NULL && n->core && ns->core)
			(void)mesh_send(n->mesh, MESH_MEMBER, msg, 1 + len);
}

/* --- Members come and go ------------------------------------------------------- */

/* HOST:PORT, or [HOST]:PORT. */
static void
peer_add(struct nodeset *ns, const struct member_row *row)
{
	char		host[MESH_HOST_MAX];
	uint16_t	port;
	uint32_t	i;

	for (i = 0; i < row->naddrs; i++)
		if (conf_split_addr(row->addrs[i], host, sizeof(host),
		    &port) == 0 && host[0] != '\0' && port != 0) {
			(void)mesh_add(ns->mesh, row->name, host, port);
			return;
		}
}

static bool
is_seed(const struct nodeset *ns, const char *name)
{
	const char	*at = ns->r->conf->cluster_static_seeds, *p = at;
	size_t		 n = strlen(name);

	if (ns->r->conf->cluster_discovery != CONF_DISCOVERY_STATIC)
		return false;
	for (; (p = strstr(p, name)) != NULL; p += n)
		if ((p == at || strchr(", \t[\"'", p[-1]) != NULL) &&
		    (p[n] == '\0' || strchr(", \t]\"'", p[n]) != NULL))
			return true;
	return false;
}

static void
peers_forget(struct nodeset *ns)
{
	struct mesh_node	*mn, *next;
	struct member_look	 look;
	struct mesh_look	 l;

	ns->forget_due = false;
	for (mn = mesh_next(ns->mesh, NULL); mn != NULL; mn = next) {
		next = mesh_next(ns->mesh, mn);
		mesh_look(mn, &l);
		if (!is_seed(ns, l.name) &&
		    strcmp(l.name, ns->joining) != 0 &&
		    members_find(members(ns), l.name, &look) < 0)
			mesh_forget(ns->mesh, l.name);
	}
}

int
belong_link(struct nodeset *ns, struct node *n)
{
	struct member_look	l;
	bool			parked;

	parked = members_find(members(ns), n->name, &l) == 0 &&
	    l.row->join == n->id && l.parked;
	if (parked != n->parked) {
		n->parked = parked;
		ns->state_due = true;
		nodes_changed(ns);
	}
	if (n->mesh == NULL || !ns->core || !n->core)
		return 0;
	if (!parked)
		return node_link(ns, n);
	node_unlink(ns, n, false);
	return 0;
}

/* After a change: whom to call, whose tables to follow. */
static void
peers_apply(struct nodeset *ns)
{
	struct members_count	 count;
	struct member_look	 l;
	struct node		*n;
	uint64_t		 at = 0;

	while (members_peer(members(ns), &at, &l) == 1) {
		peer_add(ns, l.row);
		if ((n = node_by_id(ns, l.row->join)) != NULL &&
		    belong_link(ns, n) < 0)
			mesh_drop(n->mesh, MESH_NONSENSE, "no memory");
	}
	members_count(members(ns), &count);
	rlog_members(ns->rlog, count.members);
}


void
belong_turn(struct nodeset *ns)
{
	struct node	*n;

	if (ns->mesh == NULL)
		return;
	for (n = ns->all; n != NULL; n = n->hh.next)
		if (n->gone && !n->barred && nodes_bar(ns->r, n->id) < 0)
			log_error("router.share_failed", "why=%s filter=-",
			    log_quote(err_str(ERR_NOMEM)));
	if (ns->forget_due)
		peers_forget(ns);
	if (ns->members_due) {
		ns->members_due = !say_rows(ns);
		peers_apply(ns);
		if (!ns->members_due && ns->core && !ns->rows_ended) {
			rlog_end(ns->rows);
			ns->rows_ended = true;
		}
		ns->confirm = true;
	}
	if (now_ms() >= ns->view_ms)
		say_view(ns);
}

/* A row counts as here when it is on disk. */
bool
belong_is_saved(struct nodeset *ns)
{
	uint64_t	serial;

	return !members_unsaved(members(ns), &serial);
}

/* --- What cluster.c asks of us --------------------------------------------------- */

static uint64_t
on_clock(void *ctx)
{
	struct nodeset	*ns = ctx;

	return mesh_clock(ns->mesh);
}

static bool
on_look(void *ctx, uint64_t join, struct cluster_node *out)
{
	struct nodeset		*ns = ctx;
	struct rlog_id		 id = { TABLE_ROUTE, join };
	struct rlog_stream	*s = join == ns->id ? ns->own :
				    rlog_find(ns->rlog, id);
	struct rlog_status	 st;
	const struct node	*n = node_by_id(ns, join);
	unsigned		 about = n != NULL ? n->about : ns->about;

	if (s == NULL)
		return false;
	rlog_look(s, &st);
	*out = (struct cluster_node){
		.sync = st.own ? "own" : st.phase == RLOG_NORMAL ? "normal" :
		    st.phase == RLOG_DOWN ? "down" :
		    st.phase == RLOG_BOOTSTRAP ? "bootstrap" : "local_replay",
		.lag = st.head > st.seq ? st.head - st.seq : 0,
		.seq = st.seq, .digest = st.digest,
		.routes = st.rows - MIN(st.rows,
		    (uint64_t)__builtin_popcount(about)),
	};
	return true;
}

static int
on_join(void *ctx, const char *name)
{
	struct nodeset	*ns = ctx;
	char		 part[MEMBER_NAME_MAX], host[MESH_HOST_MAX];
	int		 rc;

	if (conf_split_node(name, part, sizeof(part), host,
	    sizeof(host)) < 0)
		return ERR_INVAL;
	rc = mesh_add(ns->mesh, name, host, (uint16_t)(
	    ns->r->conf->cluster_meta_port + conf_node_suffix(name)));
	if (rc == 0)
		snprintf(ns->joining, sizeof(ns->joining), "%s", name);
	return rc;
}

static void
on_changed(void *ctx)
{
	struct nodeset	*ns = ctx;

	ns->members_due = true;
	ns->view_ms = 0;
	turn_again(ns->r);
}

/* Maybe from within a row that rlog hands on: the next turn does it. */
static void
on_gone(void *ctx, const struct member_row *row)
{
	struct nodeset	*ns = ctx;
	struct node	*n = node_get(ns, row->join);

	if (n != NULL)
		n->gone = true;
	ns->forget_due = true;
	turn_again(ns->r);
}

const struct cluster_calls belong_calls = {
	.clock = on_clock,
	.look = on_look,
	.join = on_join,
	.changed = on_changed,
	.gone = on_gone,
};

/*
 * The other nodes. Their routers are spoken to over lib/mesh; what each has
 * subscribers for is a stream of lib/rlog, ours is one of them. A node has a
 * number in the index from when its name is known, for as long as this router
 * lives, and two destinations there, live and durable.
 *
 * Liveness. That a router is down says nothing about the messages of its node
 * if a cluster-link of ours says that they flow; without a link that knows,
 * the router's link is all there is to go by. A node that is down keeps its
 * routes: one byte in the index says that nothing is sent there.
 */
#include "nodes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>
#include <unistd.h>
#include <utlist.h>

#include "base/err.h"
#include "log/log.h"

#define GAUGE(id, name, help) \
	static struct metric id = METRIC_GAUGE(name, help)

GAUGE(m_known, "router_nodes", "Other nodes of the cluster that are known");
GAUGE(m_nodes_up, "router_nodes_up",
    "Other nodes whose router is in reach");
GAUGE(m_trans, "rlog_last_intercepted_trans",
    "Changes of our own routes told to the cluster since the start");
GAUGE(m_weight, "rlog_weight",
    "Core: what a replicant that looks for a core goes by; lower is better");
GAUGE(m_replicants, "rlog_replicants", "Core: replicants that follow it");
GAUGE(m_server_mql, "rlog_server_mql",
    "Changes of our own that some node which is waited for lacks");
GAUGE(m_lag, "rlog_lag",
    "Changes of others that are known to be and are not here yet");
GAUGE(m_boot_time, "rlog_bootstrap_time",
    "Milliseconds that the longest copy of another node's table took");
GAUGE(m_boot_keys, "rlog_bootstrap_num_keys",
    "Rows that came by such copies");
GAUGE(m_queue, "rlog_message_queue_len",
    "Bytes that wait to leave for other nodes");
GAUGE(m_replayq, "rlog_replayq_len",
    "Changes that are caught up with after a copy; 0 in normal");
GAUGE(m_status, "rlog_status",
    "The least of all tables of others: 0 down, 1 bootstrap, 2 local replay, "
    "3 normal");
GAUGE(m_laggards, "rlog_laggards",
    "Times that a node was too slow to be waited for");

static struct metric *const metrics[] = { &m_known, &m_nodes_up, &m_trans,
	&m_weight, &m_replicants, &m_server_mql, &m_lag, &m_boot_time,
	&m_boot_keys, &m_queue, &m_replayq, &m_status, &m_laggards,
	&m_node_rows, &m_node_rows_refused };

/* --- One node -------------------------------------------------------------- */

void
nodes_changed(struct nodeset *ns)
{
	struct linkproc	*p;

	ns->version++;
	LL_FOREACH(ns->links, p)
		p->due = true;
}

struct node *
node_get(struct nodeset *ns, uint64_t id)
{
	struct node	*n = node_by_id(ns, id);

	if (n != NULL)
		return n;
	if ((n = calloc(1, sizeof(*n))) == NULL)
		return NULL;
	n->id = id;
	n->owner[NODEROW_LIVE] = n->owner[NODEROW_DURABLE] = -1;
	n->state = NODE_DOWN;
	n->fib = FIB_DOWN;
	HASH_ADD(hh, ns->all, id, sizeof(n->id), n);
	return n;
}

/* The number of this name in the index: the one it had, or a new one. 0: there
 * are too many. */
static unsigned
index_of(struct nodeset *ns, const char *name)
{
	unsigned	i;

	for (i = 1; i <= ns->nnames; i++)
		if (strcmp(ns->names[i], name) == 0)
			return i;
	if (i == FIB_NODES || fib_node_name_set(ns->r->fib, i, name) < 0)
		return 0;
	snprintf(ns->names[i], sizeof(ns->names[i]), "%s", name);
	ns->nnames = i;
	return i;
}

static int
owners_open(struct nodeset *ns, struct node *n)
{
	struct fib_slot	d = { .kind = FIB_NODE, .state = n->fib,
			      .node = (uint16_t)n->index,
			      .incarnation = n->incarnation };
	unsigned	owner;
	int		c, rc;

	for (c = 0; c < NODEROW_CLASSES; c++) {
		d.instance = (uint32_t)c;
		if ((rc = rib_owner_open(ns->r->rib, &d, &owner)) < 0)
			goto close;
		n->owner[c] = (int)owner;
	}
	n->fib_incarnation = n->incarnation;
	return 0;

close:
	while (c-- > 0) {
		rib_owner_close(ns->r->rib, (unsigned)n->owner[c]);
		n->owner[c] = -1;
	}
	return rc;
}

void
node_named(struct nodeset *ns, struct node *n, const void *name, size_t len)
{
	int	rc = ERR_FULL;

	if (len == 0 || len > NODE_NAME_MAX || memchr(name, 0, len) != NULL) {
		metric_inc(&m_node_rows_refused);
		return;
	}
	if (n->name[0] != '\0' || n->barred)
		return;			/* a join id has one name for ever */
	memcpy(n->name, name, len);
	n->name[len] = '\0';
	if ((n->index = index_of(ns, n->name)) == 0 ||
	    (rc = owners_open(ns, n)) < 0) {
		log_error("router.node_refused", "node=%s why=%s",
		    log_quote(n->name), log_quote(err_str(rc)));
		n->name[0] = '\0';
		return;
	}
	log_info("router.node", "node=%s index=%u", log_quote(n->name),
	    n->index);
	n->fill = true;
	n->fill_at = 0;
	ns->state_due = true;
	nodes_changed(ns);
}

void
node_ports(struct nodeset *ns, struct node *n,
    const uint32_t ports[NODE_LINKS_MAX])
{
	if (memcmp(n->ports, ports, sizeof(n->ports)) == 0)
		return;
	memcpy(n->ports, ports, sizeof(n->ports));
	nodes_changed(ns);
}

int
node_link(struct nodeset *ns, struct node *n)
{
	int	rc;

	if (n->link != NULL || n->mesh == NULL)
		return 0;
	rlog_tick(ns->rlog, now_ms());
	rc = rlog_link_open(ns->rlog, n->id, n->incarnation, n, &n->link);
	ns->state_due = true;
	if (rc == 0)
		claims_link(ns, n);
	return rc;
}

void
node_unlink(struct nodeset *ns, struct node *n, bool left)
{
	if (n->link != NULL) {
		rlog_link_close(&n->link, left);
		claims_unlink(ns, n);
	}
	n->dirty = false;
}

bool
node_flush(struct nodeset *ns, struct node *n)
{
	size_t	room, len;
	bool	rows;

	while (n->link != NULL && n->mesh != NULL) {
		room = mesh_room(n->mesh);
		rows = room == MESH_QUEUE;	/* nothing waits there */
		if (room <= sizeof(ns->buf))
			return false;
		len = rlog_next(n->link, ns->buf, sizeof(ns->buf), rows);
		if (len == 0) {
			n->dirty = !rows;
			return rows;
		}
		if (mesh_send(n->mesh, MESH_RLOG, ns->buf, len) < 0) {
			/* What rlog has said is lost: begin anew. */
			mesh_drop(n->mesh, MESH_NONSENSE, "no room for it");
			return false;
		}
		if (turn_is_over(ns->r)) {
			turn_again(ns->r);
			return false;
		}
	}
	n->dirty = false;
	return true;
}

/* --- Liveness -------------------------------------------------------------- */

/* Is there a way to the writer, over whatever core? */
static bool
stream_is_alive(struct nodeset *ns, const struct node *n)
{
	struct rlog_id		 id = { TABLE_ROUTE, n->id };
	struct rlog_stream	*s = rlog_find(ns->rlog, id);
	struct rlog_status	 st;

	if (s == NULL)
		return false;
	rlog_look(s, &st);
	return st.hops < RLOG_HOPS_DEAD;
}

static enum node_state
node_state_now(struct nodeset *ns, const struct node *n)
{
	struct mesh_look	 l;

	/* All cores have links with each other; that a third one reaches it is
	 * of no use to messages. */
	if (n->mesh == NULL)
		return !(ns->core && n->core) && stream_is_alive(ns, n) ?
		    NODE_UP : NODE_DOWN;
	mesh_look(n->mesh, &l);
	return l.suspect ? NODE_SUSPECT : NODE_UP;
}

static const char *
node_state_name(enum node_state s)
{
	switch (s) {
	case NODE_UP:
		return "up";
	case NODE_SUSPECT:
		return "suspect";
	case NODE_DOWN:
		return "down";
	}
	return "?";
}

/*
 * Is anything sent to its live sessions? As long as messages flow, whatever its
 * router does. When they do not it may be a link that is started anew, here or
 * there: it is given up when its router is gone as well, or after a while. Nor
 * to one that is parked.
 */
static enum fib_state
forwarding_now(struct node *n, enum node_state state)
{
	uint64_t	now = now_ms();

	if (n->flows != 0 && !n->parked) {
		n->still_ms = 0;
		return FIB_UP;
	}
	if (n->still_ms == 0)
		n->still_ms = now;
	return n->parked || (n->told != 0 && state == NODE_DOWN) ||
	    now - n->still_ms >= NODES_STILL_MS ? FIB_DOWN : FIB_UP;
}

/*
 * With cluster.autoheal off links are not to find each other again before
 * their routers have, who may know that they were apart.
 */
static void
hold(struct nodeset *ns, struct node *n, enum fib_state fib)
{
	bool	held = n->hold;

	if (n->mesh != NULL)
		n->hold = false;
	else if (fib == FIB_DOWN && ns->core && n->core)
		n->hold = !ns->r->conf->cluster_autoheal;
	if (n->hold != held)
		nodes_changed(ns);
}

static void
node_judge(struct nodeset *ns, struct node *n)
{
	enum node_state	state = node_state_now(ns, n);
	enum fib_state	fib;
	int		c;

	fib = forwarding_now(n, state);
	hold(ns, n, fib);
	if (state != n->state) {
		log_info("router.node_state", "node=%s state=%s before=%s",
		    log_quote(n->name), node_state_name(state),
		    node_state_name(n->state));
		n->state = state;
		belong_reach(ns, n);
		nodes_changed(ns);
	}
	if (state == NODE_DOWN && fib == FIB_DOWN)
		claims_down(ns, n);
	/* Each setting is a new version of the index to all readers. */
	if (n->owner[NODEROW_LIVE] < 0 || (fib == n->fib &&
	    n->incarnation == n->fib_incarnation))
		return;
	n->fib = fib;
	n->fib_incarnation = n->incarnation;
	for (c = 0; c < NODEROW_CLASSES; c++)
		rib_owner_set(ns->r->rib, (unsigned)n->owner[c], fib,
		    n->incarnation);
}

static void
nodes_judge(struct nodeset *ns)
{
	struct node	*n;

	ns->state_due = false;
	for (n = ns->all; n != NULL; n = n->hh.next)
		node_judge(ns, n);
}

/* --- What the mesh says ------------------------------------------------------ */

static void
on_up(void *ctx, struct mesh_node *mn)
{
	struct nodeset		*ns = ctx;
	struct mesh_look	 l;
	struct node		*n;

	mesh_look(mn, &l);
	if (l.id == ns->id || (n = node_get(ns, l.id)) == NULL) {
		mesh_drop(mn, MESH_SAME_NAME, "it has the id of this node");
		return;
	}
	if (n->mesh != NULL && n->mesh != mn) {
		mesh_drop(mn, MESH_DUPLICATE, "another node has its id");
		return;
	}
	n->mesh = mn;
	n->incarnation = l.incarnation;
	n->core = l.core;
	memcpy(n->ports, l.ports, sizeof(n->ports));
	mesh_set_user(mn, n);
	node_named(ns, n, l.name, strlen(l.name));
	ns->state_due = true;
	nodes_changed(ns);
	if (belong_met(ns) < 0 || belong_link(ns, n) < 0)
		mesh_drop(mn, MESH_NONSENSE, "no memory");
	else if (!ns->core)
		follow_tick(ns, now_ms());
}

static void
on_down(void *ctx, struct mesh_node *mn, enum mesh_status why UNUSED)
{
	struct nodeset	*ns = ctx;
	struct node	*n = mesh_user(mn);

	mesh_set_user(mn, NULL);
	if (n == NULL)
		return;
	node_unlink(ns, n, false);
	claim_out_clear(&n->claims);
	n->claims_short = false;
	n->mesh = NULL;
	ns->state_due = true;
	follow_down(ns, n);
}

static int
on_message(void *ctx, struct mesh_node *mn, unsigned kind, const void *body,
    size_t len)
{
	struct nodeset	*ns = ctx;
	struct node	*n = mesh_user(mn);
	int		 rc;

	if (n == NULL)
		return 0;
	if (kind == MESH_FOLLOW)
		return follow_asked(ns, n, body, len);
	if (kind == MESH_MEMBER)
		return belong_message(ns, n, body, len);
	if (kind == MESH_REGISTRAR)
		return claims_message(ns, n, body, len);
	if (kind != MESH_RLOG || n->link == NULL)
		return 0;		/* of a later version; let go of */
	rlog_tick(ns->rlog, now_ms());
	ns->tidy = true;
	if ((rc = rlog_take(n->link, body, len)) < 0)
		log_warn("router.rows_refused", "node=%s why=%s",
		    log_quote(n->name), log_quote(err_str(rc)));
	return rc;
}

static void
on_writable(void *ctx UNUSED, struct mesh_node *mn)
{
	struct node	*n = mesh_user(mn);

	if (n != NULL)
		n->dirty = true;
}

static void
on_node_changed(void *ctx, struct mesh_node *mn)
{
	struct nodeset		*ns = ctx;
	struct node		*n = mesh_user(mn);
	struct mesh_look	 l;

	if (n == NULL)
		return;
	mesh_look(mn, &l);
	node_ports(ns, n, l.ports);
}

static bool
on_enough(void *ctx)
{
	return turn_is_over(((struct nodeset *)ctx)->r);
}

static const struct mesh_events mesh_events = {
	.fill = belong_fill,
	.judge = belong_judge,
	.refused = belong_refused,
	.up = on_up,
	.down = on_down,
	.message = on_message,
	.writable = on_writable,
	.changed = on_node_changed,
	.enough = on_enough,
};

/* --- What rlog says ----------------------------------------------------------- */

static void
on_acked(void *ctx, struct rlog_stream *s UNUSED, uint64_t seq UNUSED)
{
	((struct nodeset *)ctx)->r->acks_due = true;
}

static void
on_wake(void *ctx UNUSED, struct rlog_link *l)
{
	((struct node *)rlog_link_data(l))->dirty = true;
}

static void
on_phase(void *ctx, struct rlog_stream *s, enum rlog_phase phase)
{
	struct nodeset	*ns = ctx;
	struct node	*n = node_get(ns, rlog_stream_id(s).writer);

	ns->state_due = ns->confirm = true;
	if (n == NULL)
		return;
	if (phase == RLOG_BOOTSTRAP && n->boot_ms == 0)
		n->boot_ms = now_ms();
	if (phase == RLOG_NORMAL && n->boot_ms != 0)
		ns->boot_time_ms = MAX(ns->boot_time_ms,
		    now_ms() - n->boot_ms);
	if (phase == RLOG_NORMAL || phase == RLOG_DOWN)
		n->boot_ms = 0;
	log_info("router.table", "node=%s phase=%s", log_quote(n->name),
	    phase == RLOG_NORMAL ? "normal" : phase == RLOG_DOWN ? "down" :
	    phase == RLOG_BOOTSTRAP ? "bootstrap" : "local_replay");
}

static const struct rlog_calls rlog_calls = {
	.row = share_row,
	.acked = on_acked,
	.wake = on_wake,
	.phase = on_phase,
};

/* --- The cluster-links of this node --------------------------------------------- */

/* One NODES at a time: a link that stands still gets the last when it goes on. */
static void
link_tell(struct nodeset *ns, struct linkproc *p)
{
	static uint8_t		 buf[NODES_BUF];
	struct node_info	 info;
	struct wire_out		 w;
	struct node		*n;
	const char		*at;

	if (!p->due || bus_peer_got(p->peer) != bus_peer_sent(p->peer))
		return;
	nodes_begin(&w, buf, sizeof(buf), ns->r->incarnation, ns->version);
	for (n = ns->all; n != NULL; n = n->hh.next) {
		if (n->name[0] == '\0' || n->barred)
			continue;
		at = strchr(n->name, '@');
		at = at != NULL && at[1] != '\0' ? at + 1 : n->name;
		info = (struct node_info){
			.name = { (const uint8_t *)n->name, strlen(n->name) },
			.host = { (const uint8_t *)at, strlen(at) },
			.incarnation = n->incarnation, .state = n->state,
			.index = n->index, .core = n->core,
			.parked = n->parked || n->hold };
		memcpy(info.ports, n->ports, sizeof(info.ports));
		(void)nodes_add(&w, &info);	/* it fits */
	}
	if (bus_stream_send(p->peer, KIND_NODES, buf, wire_out_len(&w),
	    NULL) == 0)
		p->due = false;
}

/* It says nothing any more. */
static void
flows_forget(struct nodeset *ns, uint32_t instance)
{
	struct node	*n;

	for (n = ns->all; n != NULL; n = n->hh.next) {
		n->flows &= ~(UINT64_C(1) << instance);
		n->told &= ~(UINT64_C(1) << instance);
	}
	ns->state_due = true;
}

static void
ports_tell(struct nodeset *ns)
{
	uint32_t	 ports[NODE_LINKS_MAX] = { 0 };
	struct linkproc	*p;

	LL_FOREACH(ns->links, p)
		if (p->instance < NODE_LINKS_MAX)
			ports[p->instance] = p->port;
	if (ns->mesh != NULL)
		mesh_set_ports(ns->mesh, ports);
	share_ports(ns, ports);
}

static struct linkproc *
linkproc_find(struct nodeset *ns, const char *name)
{
	struct linkproc	*p;

	LL_FOREACH(ns->links, p)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

static void
linkproc_free(struct nodeset *ns, struct linkproc *p)
{
	flows_forget(ns, p->instance);
	LL_DELETE(ns->links, p);
	bus_peer_close(&p->peer);
	free(p);
	ports_tell(ns);
}

void
nodes_link_seen(struct router *r, const struct proc_peer *peer)
{
	struct nodeset	*ns = r->nodes;
	struct linkproc	*p;

	if (ns == NULL || peer->kind != PROC_CLUSTER_LINK ||
	    peer->instance >= NODES_LINKS)
		return;
	p = linkproc_find(ns, peer->name);
	if (p != NULL && (p->incarnation != peer->incarnation ||
	    peer->state == PROC_DOWN)) {
		linkproc_free(ns, p);
		p = NULL;
	}
	if (p != NULL || peer->state == PROC_DOWN || peer->incarnation == 0 ||
	    (p = calloc(1, sizeof(*p))) == NULL)
		return;
	snprintf(p->name, sizeof(p->name), "%s", peer->name);
	p->instance = peer->instance;
	p->incarnation = peer->incarnation;
	p->due = true;
	if (bus_peer_open(&p->peer, r->bus, peer->name, peer->incarnation,
	    peer->endpoint, p) < 0) {
		free(p);		/* the next PEERS tries again */
		return;
	}
	LL_PREPEND(ns->links, p);
}

void
nodes_link_gone(struct router *r, const char *name)
{
	struct linkproc	*p;

	if (r->nodes != NULL && (p = linkproc_find(r->nodes, name)) != NULL)
		linkproc_free(r->nodes, p);
}

int
on_link_state(void *ctx, struct bus_frame *f)
{
	struct router		*r = ctx;
	struct nodeset		*ns = r->nodes;
	struct link_state	 m;
	struct link_flow	 flow;
	struct linkproc		*p;
	struct node		*n;
	uint64_t		 bit;

	if (link_state_decode(&m, f->body, f->len) < 0)
		return ERR_PROTO;
	if (ns == NULL || member_of(r, &f->from) == NULL ||
	    (p = linkproc_find(ns, f->from.name)) == NULL ||
	    p->incarnation != f->from.incarnation) {
		metric_inc(&m_stale);
		return 0;
	}
	bit = UINT64_C(1) << p->instance;
	flows_forget(ns, p->instance);
	while (link_state_next(&m, &flow) == 1)
		for (n = ns->all; n != NULL; n = n->hh.next)
			if (strlen(n->name) == flow.node.len &&
			    memcmp(n->name, flow.node.data,
			    flow.node.len) == 0) {
				n->told |= bit;
				n->flows |= flow.flows ? bit : 0;
			}
	p->port = m.port;
	ports_tell(ns);
	return 0;
}

/* --- For the other files of the router --------------------------------------------- */

void
nodes_rows_begin(struct router *r)
{
	if (r->nodes != NULL)
		r->nodes->row_seq = 0;
}

uint64_t
nodes_rows_seq(const struct router *r)
{
	return r->nodes == NULL ? 0 : r->nodes->row_seq;
}

bool
nodes_rows_short(const struct router *r)
{
	return r->nodes != NULL && r->nodes->fill;
}

uint64_t
nodes_rows_all(const struct router *r)
{
	struct rlog_status	st = { 0 };

	if (r->nodes != NULL)
		rlog_look(r->nodes->own, &st);
	return st.seq;
}

uint64_t
nodes_rows_acked(const struct router *r)
{
	return r->nodes == NULL ? UINT64_MAX : rlog_acked(r->nodes->own);
}

const char *
nodes_owner_name(const struct router *r, unsigned owner, char *out,
    size_t size)
{
	const struct node	*n;
	int			 c;

	for (n = r->nodes != NULL ? r->nodes->all : NULL; n != NULL;
	    n = n->hh.next)
		for (c = 0; c < NODEROW_CLASSES; c++)
			if (n->owner[c] == (int)owner) {
				snprintf(out, size, "%s%s", n->name,
				    c == NODEROW_DURABLE ? "/durable" : "");
				return out;
			}
	return NULL;
}

int
nodes_owner_find(const struct router *r, struct slice name)
{
	const struct node	*n;
	char			 text[NODE_NAME_MAX + 16];
	int			 c;

	for (n = r->nodes != NULL ? r->nodes->all : NULL; n != NULL;
	    n = n->hh.next)
		for (c = 0; c < NODEROW_CLASSES; c++) {
			snprintf(text, sizeof(text), "%s%s", n->name,
			    c == NODEROW_DURABLE ? "/durable" : "");
			if (n->owner[c] >= 0 && strlen(text) == name.len &&
			    memcmp(text, name.data, name.len) == 0)
				return n->owner[c];
		}
	return -1;
}

/*
 * A router that takes the place of another one in a node that forwards: what
 * the old index knew of other nodes must not be missing in the new one. Who
 * does not answer is not waited for, nor anybody for long.
 *
 * CAVEAT: what nobody in reach can tell is missing until the node is back, and
 * what is published meanwhile is acknowledged and not kept for its durable
 * sessions. The index has no text that could be taken over, and to wait would
 * keep those that are here from subscribing.
 */
bool
nodes_are_waited(const struct router *r)
{
	struct nodeset		*ns = r->nodes;
	struct mesh_node	*mn = NULL;
	struct mesh_look	 l;
	struct rlog_status	 st;
	struct rlog_stream	*s;
	struct node		*n;

	if (ns == NULL || ns->mesh == NULL ||
	    now_ms() - r->since_ms > NODES_LEARN_MS)
		return false;
	while ((mn = mesh_next(ns->mesh, mn)) != NULL) {
		mesh_look(mn, &l);
		if (!l.up && l.port != 0 && l.failed == 0)
			return true;
	}
	for (n = ns->all; n != NULL; n = n->hh.next) {
		if (n->fill)
			return true;
		if (n->link == NULL)
			continue;
		s = rlog_find(ns->rlog, (struct rlog_id){ TABLE_ROUTE,
		    n->id });
		if (s == NULL)
			return true;
	}
	for (s = rlog_walk(ns->rlog, NULL); s != NULL;
	    s = rlog_walk(ns->rlog, s)) {
		rlog_look(s, &st);
		if (!st.own && st.id.table == TABLE_ROUTE &&
		    st.phase != RLOG_NORMAL && st.phase != RLOG_DOWN)
			return true;
	}
	return false;
}

bool
nodes_tell(const struct router *r, unsigned at, void (*put)(void *ctx,
    const char *name, const char *what, const char *value), void *ctx)
{
	struct nodeset		*ns = r->nodes;
	struct mesh_look	 l = { 0 };
	struct rlog_status	 st = { 0 };
	struct rlog_stream	*s;
	const struct node	*n = ns != NULL ? ns->all : NULL;
	char			 v[32];

	while (n != NULL && at-- > 0)
		n = n->hh.next;
	if (n == NULL)
		return false;
	if (n->name[0] == '\0')
		return true;
	if (n->mesh != NULL)
		mesh_look(n->mesh, &l);
	if ((s = rlog_find(ns->rlog, (struct rlog_id){ TABLE_ROUTE,
	    n->id })) != NULL)
		rlog_look(s, &st);
#define PUT(what, fmt, value) do {					\
		snprintf(v, sizeof(v), fmt, value);			\
		put(ctx, n->name, what, v);				\
	} while (0)
	PUT("state", "%s", node_state_name(n->state));
	PUT("link", "%s", n->mesh == NULL ? "none" : l.ours ? "ours" : "its");
	PUT("role", "%s", n->core ? "core" : "replicant");
	PUT("follows", "%s", ns->follows == n ? "yes" : "no");
	PUT("index", "%u", n->index);
	PUT("forward", "%s", n->fib == FIB_UP ? "up" : "down");
	PUT("incarnation", "%" PRIu64, n->incarnation);
	PUT("routes", "%" PRIu64, n->owner[NODEROW_LIVE] < 0 ? 0 :
	    rib_owner_routes(r->rib, (unsigned)n->owner[NODEROW_LIVE]) +
	    rib_owner_routes(r->rib, (unsigned)n->owner[NODEROW_DURABLE]));
	PUT("seq", "%" PRIu64, st.seq);
	PUT("lag", "%" PRIu64, st.head > st.seq ? st.head - st.seq : 0);
	PUT("phase", "%s", s == NULL || st.phase == RLOG_DOWN ? "down" :
	    st.phase == RLOG_NORMAL ? "normal" :
	    st.phase == RLOG_BOOTSTRAP ? "bootstrap" : "local_replay");
	PUT("ended", "%s", st.ended ? "yes" : "no");
	PUT("digest", "%016" PRIx64, st.digest);
	PUT("hops", "%u", st.hops);
#undef PUT
	return true;
}

int
nodes_bar(struct router *r, uint64_t id)
{
	struct nodeset	*ns = r->nodes;
	struct node	*n;
	int		 rc;

	if (ns == NULL)
		return ERR_NOTFOUND;
	if ((rc = rlog_bar(ns->rlog, id)) < 0)
		return rc;
	ns->tidy = true;
	if ((n = node_by_id(ns, id)) == NULL)
		return 0;
	n->gone = n->barred = true;
	claims_forget(ns, n);
	if (n->mesh != NULL)
		mesh_drop(n->mesh, MESH_NO_MEMBER, "it is no member any more");
	nodes_changed(ns);
	turn_again(r);
	return 0;
}

/* --- The turn ------------------------------------------------------------------- */

static void
confirm(struct nodeset *ns)
{
	struct router		*r = ns->r;
	struct rlog_stream	*s;
	struct rlog_status	 st;
	struct node		*n;

	if (!ns->confirm || r->phase != PHASE_SERVING || r->waited > 0)
		return;
	ns->confirm = false;
	for (s = rlog_walk(ns->rlog, NULL); s != NULL;
	    s = rlog_walk(ns->rlog, s)) {
		rlog_look(s, &st);
		if (st.id.table != TABLE_ROUTE) {
			if (belong_is_saved(ns))
				rlog_confirm(s, st.seq);
			else
				ns->confirm = true;
			continue;
		}
		n = st.own ? NULL : node_by_id(ns, st.id.writer);
		if (!st.own && (n == NULL || n->fill ||
		    (n->owner[NODEROW_LIVE] < 0 && !n->barred))) {
			ns->confirm = true;	/* not in the index yet */
			continue;
		}
		rlog_confirm(s, st.seq);
	}
}

void
nodes_confirm(struct router *r)
{
	if (r->nodes != NULL)
		r->nodes->confirm = true;
}

/* What was before this start and is no more, others may drop when all that are
 * here have said what they have: also stores that are away now. */
static void
end_check(struct nodeset *ns)
{
	struct router		*r = ns->r;
	const struct member	*m;

	if (ns->ended || ns->fill || r->phase == PHASE_LEARNING)
		return;
	for (m = r->members; m != NULL; m = m->hh.next) {
		if (m->kind == PROC_SESSION_STORE && m->listed &&
		    (m->owner == NULL || (m->owner->state != OWNER_SYNCED &&
		    m->owner->state != OWNER_AWAY)))
			return;
		if (owner_is_waited(r, m))
			return;
	}
	rlog_end(ns->own);
	ns->ended = true;
	log_info("router.shared", "rows=%" PRIu64, nodes_rows_acked(r));
}

static void
barred_go(struct nodeset *ns)
{
	struct node	*n, *next;

	HASH_ITER(hh, ns->all, n, next) {
		if (!n->barred || n->mesh != NULL)
			continue;
		if (share_clear(ns, n)) {
			turn_again(ns->r);
			return;
		}
		if (rlog_find(ns->rlog, (struct rlog_id){ TABLE_ROUTE,
		    n->id }) != NULL)
			continue;	/* its rows are still going */
		HASH_DEL(ns->all, n);
		claim_out_clear(&n->claims);
		free(n);
	}
}

void
nodes_turn(struct router *r)
{
	struct nodeset	*ns = r->nodes;
	struct node	*n;
	int		 rc = 0;

	if (ns == NULL)
		return;
	while (ns->tidy && !turn_is_over(r))
		if ((rc = rlog_tidy(ns->rlog, NODES_TIDY)) != 1)
			ns->tidy = rc < 0;	/* no memory: a tick later */
	while (ns->fill && !turn_is_over(r))
		if (!share_fill_own(ns))
			break;
	for (n = ns->all; n != NULL; n = n->hh.next)
		while (n->fill && n->owner[NODEROW_LIVE] >= 0 &&
		    !turn_is_over(r))
			if (!share_fill(ns, n))
				break;
	if (turn_is_over(r))
		turn_again(r);
	barred_go(ns);
	end_check(ns);
	if (ns->state_due)
		nodes_judge(ns);
	confirm(ns);
	if (r->phase == PHASE_LEARNING && !ns->tidy)
		phase_check(r);
}

void
nodes_flush(struct router *r)
{
	struct nodeset	*ns = r->nodes;
	struct linkproc	*p;
	struct node	*n;

	if (ns == NULL)
		return;
	belong_turn(ns);
	for (n = ns->all; n != NULL; n = n->hh.next)
		if (n->dirty)
			(void)node_flush(ns, n);
	follow_turn(ns);
	LL_FOREACH(ns->links, p)
		link_tell(ns, p);
	claims_flush(ns);
}

static void
gauges(struct nodeset *ns)
{
	uint64_t		 lag = 0, replay = 0, keys = 0, queued = 0;
	enum rlog_phase		 least = RLOG_NORMAL;
	unsigned		 up = 0, replicants = 0;
	struct rlog_stats	 stats;
	struct rlog_status	 st;
	struct rlog_stream	*s;
	struct mesh_look	 l;
	struct node		*n;

	for (n = ns->all; n != NULL; n = n->hh.next) {
		up += n->state != NODE_DOWN;
		replicants += n->link != NULL && !n->core;
		if (n->mesh != NULL) {
			mesh_look(n->mesh, &l);
			queued += l.queued;
		}
	}
	for (s = rlog_walk(ns->rlog, NULL); s != NULL;
	    s = rlog_walk(ns->rlog, s)) {
		rlog_look(s, &st);
		if (st.id.table != TABLE_ROUTE)
			continue;
		if (st.own) {
			metric_set(&m_trans, st.seq);
			metric_set(&m_server_mql, st.seq - st.acked);
			continue;
		}
		least = MIN(least, st.phase);
		keys += st.bootstrap_rows;
		if (st.head <= st.seq)
			continue;
		lag += st.head - st.seq;
		if (st.phase == RLOG_LOCAL_REPLAY)
			replay += st.head - st.seq;
	}
	rlog_stats(ns->rlog, &stats);
	metric_set(&m_known, HASH_COUNT(ns->all));
	metric_set(&m_nodes_up, up);
	metric_set(&m_weight, ns->core ? replicants : 0);
	metric_set(&m_replicants, replicants);
	metric_set(&m_lag, lag);
	metric_set(&m_boot_time, ns->boot_time_ms);
	metric_set(&m_boot_keys, keys);
	metric_set(&m_queue, queued);
	metric_set(&m_replayq, replay);
	metric_set(&m_status, least);
	metric_set(&m_laggards, stats.laggards);
	if (ns->mesh != NULL)
		mesh_set_replicants(ns->mesh, replicants);
}

/* --- Opening --------------------------------------------------------------------- */

/* NAME@HOST, separated by commas, perhaps in brackets. */
static void
seeds_add(struct nodeset *ns)
{
	const struct conf	*conf = ns->r->conf;
	char			 list[CONF_STR_MAX], name[CONF_STR_MAX];
	char			 host[MESH_HOST_MAX], *seed, *rest = list;

	snprintf(list, sizeof(list), "%s", conf->cluster_static_seeds);
	while ((seed = strsep(&rest, ", \t[]\"'")) != NULL) {
		if (seed[0] == '\0' ||
		    strcmp(seed, proc_node(ns->r->proc)) == 0)
			continue;
		if (conf_split_node(seed, name, sizeof(name), host,
		    sizeof(host)) < 0 ||
		    mesh_add(ns->mesh, seed, host, (uint16_t)(
		    conf->cluster_meta_port + conf_node_suffix(seed))) < 0)
			log_error("router.seed", "node=%s why=%s",
			    log_quote(seed), "\"it is no NAME@HOST\"");
	}
}

static void
mesh_try(struct nodeset *ns)
{
	const struct conf	*conf = ns->r->conf;
	struct mesh_opts	 o = {
		.loop = ns->r->loop,
		.self = {
			.node = proc_node(ns->r->proc),
			.cluster = "",
			.incarnation = cluster_incarnation(ns->r),
			.core = ns->core,
			.version = MESH_VERSION,
			.oldest = MESH_OLDEST,
			.max_skew_ns = conf->cluster_max_skew_ms *
			    UINT64_C(1000000),
		},
		.id = ns->id,
		.host = ns->host,
		.port = ns->port,
		.v6 = conf->node_proto_dist == CONF_DIST_INET6,
		.secret = &ns->secret,
		.events = &mesh_events,
		.ctx = ns,
	};

	ns->bind_ms = now_ms() + NODES_BIND_MS;
	if (mesh_open(&ns->mesh, &o) < 0) {
		log_error("router.bind", "host=%s port=%u why=%s",
		    log_quote(ns->host), ns->port, log_quote(strerror(errno)));
		return;
	}
	log_info("router.bound", "host=%s port=%u role=%s", log_quote(ns->host),
	    ns->port, ns->core ? "core" : "replicant");
	ports_tell(ns);
	if (conf->cluster_discovery == CONF_DISCOVERY_STATIC)
		seeds_add(ns);
	cluster_connect(ns->r, &belong_calls, ns);
	ns->members_due = true;
}

void
nodes_tick(struct router *r, uint64_t now)
{
	struct nodeset	*ns = r->nodes;

	if (ns == NULL)
		return;
	if (ns->mesh == NULL && now >= ns->bind_ms)
		mesh_try(ns);
	if (ns->mesh != NULL)
		bus_set_clock(r->bus, mesh_clock(ns->mesh));
	rlog_tick(ns->rlog, now);
	ns->state_due = true;
	follow_tick(ns, now);
	claims_tick(ns, now);
	gauges(ns);
}

static bool
is_wanted(const struct conf *conf)
{
	return conf->cluster_discovery != CONF_DISCOVERY_SINGLETON;
}

static int
rlog_begin(struct nodeset *ns)
{
	struct rlog_opts	o = {
		.node = ns->id,
		.incarnation = cluster_incarnation(ns->r),
		.core = ns->core,
		.confirms = true,
		.timeout_ms = ns->r->conf->cluster_suback_timeout_ms,
		.calls = &rlog_calls,
		.ctx = ns,
	};
	int			rc;

	if (getrandom(&o.seed, sizeof(o.seed), 0) != sizeof(o.seed))
		return ERR_IO;
	if ((rc = rlog_new(&ns->rlog, &o)) < 0)
		return rc;
	rlog_tick(ns->rlog, now_ms());
	if (ns->core && (rc = rlog_open(ns->rlog, TABLE_ROWS, NULL, NULL,
	    &ns->rows)) < 0)
		return rc;
	return share_open(ns);
}

int
nodes_open(struct router *r)
{
	const struct conf	*conf = r->conf;
	char			 name[CONF_STR_MAX], why[512] = "";
	struct members_self	 self;
	struct nodeset		*ns;
	int			 rc;

	if (!is_wanted(conf))
		return 0;
	if ((ns = calloc(1, sizeof(*ns))) == NULL)
		return ERR_NOMEM;
	ns->r = r;
	ns->core = conf->node_db_role == CONF_ROLE_CORE;
	(void)conf_split_node(proc_node(r->proc), name, sizeof(name),
	    ns->host, sizeof(ns->host));
	ns->port = (uint16_t)(conf->cluster_meta_port +
	    conf_node_suffix(proc_node(r->proc)));
	members_self(cluster_members(r), &self);
	ns->id = self.row->join;
	if ((rc = secret_load(&ns->secret, conf, why, sizeof(why))) < 0)
		fatal(rc == ERR_INVAL ? EX_CONFIG : EX_OSERR, "router.secret",
		    "%s", why);
	if (conf->node_ssl_dist_optfile[0] != '\0')
		log_warn("router.ignored", "key=node.ssl_dist_optfile");
	metric_register((struct metric **)metrics, NELEM(metrics));
	r->nodes = ns;
	if ((rc = claims_open(ns)) < 0 || (rc = rlog_begin(ns)) < 0)
		return rc;
	mesh_try(ns);
	return 0;
}

void
nodes_close(struct router *r)
{
	struct nodeset	*ns = r->nodes;
	struct node	*n, *next;
	struct linkproc	*p, *pnext;

	if (ns == NULL)
		return;
	cluster_connect(r, NULL, NULL);
	mesh_close(&ns->mesh);
	rib_watch(r->rib, 0, NULL, NULL);
	rlog_free(&ns->rlog);
	claims_close(ns);
	HASH_ITER(hh, ns->all, n, next) {
		HASH_DEL(ns->all, n);
		claim_out_clear(&n->claims);
		free(n);
	}
	LL_FOREACH_SAFE(ns->links, p, pnext)
		free(p);		/* the bus closes its peers */
	secret_fini(&ns->secret);
	free(ns->answer);
	free(ns);
	r->nodes = NULL;
}

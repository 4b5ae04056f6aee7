/*
 * One holder of a client identifier over all nodes: what lib/registrar decides,
 * carried between the session-stores of this node, the other routers, and, on a
 * core, the registrar (KIND_CLAIM, MESH_REGISTRAR: proto/claim.h).
 *
 *	store		router			router of a core
 *	desk	<->	claims.c [registrar]	<->	registrar
 *	desk	<->	claims.c (replicant)	<->	registrar
 *
 * A desk is named by claim_desk(). A replicant passes on what its stores say to
 * the core that it follows, while it changes to that of before. RELEASE goes to
 * the node that it names: a core has a link with each, a replicant asks
 * its core to pass it on.
 */
#include "nodes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "base/err.h"
#include "log/log.h"
#include "proto/claim.h"
#include "registrar/registrar.h"

#define COUNTER(id, name, help) \
	static struct metric id = METRIC_COUNTER(name, help)

COUNTER(m_claims, "router_claims_total",
    "Core: client identifiers that stores of its branch asked for");
COUNTER(m_granted, "router_claims_granted_total",
    "... and were given");
COUNTER(m_provisional, "router_claims_provisional_total",
    "... although somebody who may have it was not heard");
COUNTER(m_lost, "router_claims_lost_total",
    "... and were refused, for a later one came");
COUNTER(m_waited, "router_claims_waited_total",
    "Core: claims of others that waited for the end of one granted here");
COUNTER(m_conflicts, "router_claims_conflicts_total",
    "Core: times that two holders of one identifier were found");
COUNTER(m_unreached, "router_releases_unreached_total",
    "Releases of an identifier for a node that is not in reach");
static struct metric m_held = METRIC_GAUGE("router_held_clients",
    "Core: client identifiers that its branch has");
static struct metric m_bytes = METRIC_GAUGE("router_held_bytes",
    "Core: memory of those");

static struct metric *const metrics[] = { &m_claims, &m_granted,
	&m_provisional, &m_lost, &m_waited, &m_conflicts, &m_unreached, &m_held,
	&m_bytes };

/* A session-store of this node. */
struct desk_proc {
	struct desk_proc *next;
	char		 name[BUS_NAME_MAX];
	uint32_t	 instance;
	uint64_t	 incarnation;
	struct bus_peer	*peer;
	struct claim_out out;
	struct claim_msg told;		/* SELF, as it was said last */
};

struct claims {
	struct nodeset	*ns;
	struct registrar reg;		/* core */
	struct desk_proc *desks;
	uint64_t	 core;		/* replicant: who has our desks */
};

/* --- Who there is --------------------------------------------------------- */

static struct desk_proc *
desk_of(const struct claims *c, uint64_t desk)
{
	struct desk_proc	*p;

	LL_FOREACH(c->desks, p)
		if (p->instance == (desk & 255))
			return p;
	return NULL;
}

static struct node *
node_of(const struct claims *c, uint64_t desk)
{
	struct node	*n;

	for (n = c->ns->all; n != NULL; n = n->hh.next)
		if (claim_same_node(n->id, desk))
			return n;
	return NULL;
}

/* A replicant: the core that its desks belong to. The one it follows next hears
 * of them when that has heard that it is left, or both would have them. */
static struct node *
core_of(const struct nodeset *ns)
{
	struct node	*n = ns->leaving != NULL ? ns->leaving : ns->follows;

	return n != NULL && n->link != NULL ? n : NULL;
}

/* --- Out ------------------------------------------------------------------ */

/* What is said of claims must be said in full: else that link begins anew. */
static void
to_node(struct node *n, const struct claim_msg *m)
{
	if (n->mesh == NULL || n->claims_short)
		return;
	if (claim_out_put(&n->claims, m) < 0)
		n->claims_short = true;
}

static void
to_own_desk(struct claims *c, const struct claim_msg *m)
{
	struct desk_proc	*p = desk_of(c, m->node);

	if (p == NULL || p->told.kind == 0)
		return;
	if (claim_out_put(&p->out, m) < 0) {
		log_error("router.claims_short", "for=%s", p->name);
		claim_out_clear(&p->out);
		p->told.kind = 0;	/* it uploads again */
	}
}

static void
on_peer(void *ctx, uint64_t core, const struct claim_msg *m)
{
	struct claims	*c = ctx;
	struct node	*n = node_by_id(c->ns, core);

	if (n != NULL)
		to_node(n, m);
}

static void
on_desk(void *ctx, uint64_t desk, const struct claim_msg *m)
{
	struct claims	*c = ctx;
	struct node	*n;

	if (claim_same_node(desk, c->ns->id))
		to_own_desk(c, m);
	else if ((n = node_of(c, desk)) != NULL && n->link != NULL)
		to_node(n, m);
}

static const struct registrar_ops ops = { .peer = on_peer, .desk = on_desk };

/* RELEASE, on its way to whom it names. via: it came from another node. */
static void
release(struct claims *c, const struct claim_msg *m, const struct node *via)
{
	struct nodeset	*ns = c->ns;
	struct node	*n;

	if (claim_same_node(m->node, ns->id)) {
		to_own_desk(c, m);
		return;
	}
	if ((n = node_of(c, m->node)) == NULL || n->mesh == NULL)
		n = ns->core ? NULL : core_of(ns);
	if (n == NULL || n->mesh == NULL || n == via ||
	    (via != NULL && via->core)) {
		metric_inc(&m_unreached);
		return;			/* found again when rows are compared */
	}
	to_node(n, m);
}

/* --- In ------------------------------------------------------------------- */

static int
from_desk(struct claims *c, const struct claim_msg *m, struct node *via)
{
	struct nodeset	*ns = c->ns;
	struct node	*n;
	int		 rc;

	if (m->kind == CLAIM_RELEASE) {
		release(c, m, via);
		return 0;
	}
	if (!claim_same_node(m->node, via != NULL ? via->id : ns->id) ||
	    (m->node & 255) >= NODES_DESKS)
		return ERR_PROTO;
	if (!ns->core) {
		if (via == NULL && (n = core_of(ns)) != NULL &&
		    n->id == c->core)
			to_node(n, m);
		return 0;
	}
	if (via != NULL)
		via->desks |= UINT64_C(1) << (m->node & 255);
	rc = registrar_from_desk(&c->reg, m->node, m, now_ms());
	if (rc < 0 && rc != ERR_PROTO) {
		log_error("router.claim_failed", "why=%s",
		    log_quote(err_str(rc)));
		rc = 0;			/* it goes on, provisionally */
	}
	return rc;
}

static int
from_core(struct claims *c, const struct claim_msg *m, struct node *from)
{
	struct nodeset	*ns = c->ns;
	int		 rc;

	if (m->kind == CLAIM_RELEASE) {
		release(c, m, from);
		return 0;
	}
	if (!ns->core) {
		if (from->id == c->core && m->kind != CLAIM_SELF &&
		    claim_same_node(m->node, ns->id))
			to_own_desk(c, m);
		return 0;
	}
	if (!from->claims_up)
		return 0;
	rc = registrar_from_peer(&c->reg, from->id, m, now_ms());
	if (rc < 0 && rc != ERR_PROTO) {
		log_error("router.claim_failed", "why=%s",
		    log_quote(err_str(rc)));
		rc = 0;
	}
	return rc;
}

int
claims_message(struct nodeset *ns, struct node *n, const void *body,
    size_t len)
{
	struct claim_msg	m;
	struct wire_in		in;
	int			rc;

	wire_in_init(&in, body, len);
	while ((rc = claim_msg_next(&in, &m)) == 1) {
		if (n->core)
			rc = from_core(ns->claims, &m, n);
		else if (ns->core && (n->link != NULL ||
		    m.kind == CLAIM_RELEASE))
			rc = from_desk(ns->claims, &m, n);
		else
			rc = 0;
		if (rc < 0)
			return rc;
	}
	return rc;
}

int
on_claim(void *ctx, struct bus_frame *f)
{
	struct router		*r = ctx;
	struct claims		*c = r->nodes != NULL ? r->nodes->claims : NULL;
	struct desk_proc	*p;
	struct claim_msg	 m;
	struct wire_in		 in;
	int			 rc;

	if (c == NULL || member_of(r, &f->from) == NULL)
		return 0;
	LL_FOREACH(c->desks, p)
		if (strcmp(p->name, f->from.name) == 0 &&
		    p->incarnation == f->from.incarnation)
			break;
	if (p == NULL || p->told.kind == 0)
		return 0;		/* said to the router before us */
	wire_in_init(&in, f->body, f->len);
	while ((rc = claim_msg_next(&in, &m)) == 1)
		if (m.kind != CLAIM_RELEASE &&
		    m.node != claim_desk(c->ns->id, p->instance))
			return ERR_PROTO;
		else if (from_desk(c, &m, NULL) < 0)
			return ERR_PROTO;
	return rc;
}

/* --- Who comes and goes --------------------------------------------------- */

void
claims_link(struct nodeset *ns, struct node *n)
{
	struct claims	*c = ns->claims;

	if (ns->core && n->core) {
		n->claims_up = true;
		if (registrar_peer_up(&c->reg, n->id, now_ms()) < 0) {
			n->claims_up = false;
			log_error("router.claim_failed",
			    "why=\"too many cores\"");
		}
	}
	n->claims_down = false;
}

static void
each_desk(struct claims *c, const struct node *n,
    void (*what)(struct claims *c, uint64_t desk))
{
	for (unsigned i = 0; i < NODES_DESKS; i++)
		if (n->desks >> i & 1)
			what(c, claim_desk(n->id, i));
}

static void
left(struct claims *c, uint64_t desk)
{
	registrar_left(&c->reg, desk);
}

static void
down(struct claims *c, uint64_t desk)
{
	registrar_node_down(&c->reg, desk, now_ms());
}

static void
forget(struct claims *c, uint64_t desk)
{
	registrar_forget(&c->reg, desk, now_ms());
}

void
claims_unlink(struct nodeset *ns, struct node *n)
{
	struct claims	*c = ns->claims;

	claim_out_clear(&n->claims);
	n->claims_short = false;
	if (!ns->core) {
		if (n->id == c->core)
			c->core = 0;
	} else if (!n->core) {
		each_desk(c, n, left);
	} else if (n->claims_up) {
		registrar_peer_down(&c->reg, n->id);
	}
	n->claims_up = false;
}

void
claims_down(struct nodeset *ns, struct node *n)
{
	if (n->claims_down || !ns->core)
		return;
	n->claims_down = true;
	each_desk(ns->claims, n, down);
}

void
claims_forget(struct nodeset *ns, struct node *n)
{
	if (ns->core)
		each_desk(ns->claims, n, forget);
	n->desks = 0;
}

/* --- The stores of this node ---------------------------------------------- */

static struct desk_proc *
desk_named(const struct claims *c, const char *name)
{
	struct desk_proc	*p;

	LL_FOREACH(c->desks, p)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

static void
desk_free(struct claims *c, struct desk_proc *p)
{
	uint64_t	id = claim_desk(c->ns->id, p->instance);

	if (c->ns->core)
		registrar_left(&c->reg, id);
	LL_DELETE(c->desks, p);
	bus_peer_close(&p->peer);
	claim_out_clear(&p->out);
	free(p);
}

void
claims_store_seen(struct router *r, const struct proc_peer *peer)
{
	struct claims		*c;
	struct desk_proc	*p;

	if (r->nodes == NULL || peer->kind != PROC_SESSION_STORE ||
	    peer->instance >= NODES_DESKS)
		return;
	c = r->nodes->claims;
	p = desk_named(c, peer->name);
	if (p != NULL && (p->incarnation != peer->incarnation ||
	    peer->state == PROC_DOWN)) {
		desk_free(c, p);
		p = NULL;
	}
	if (p != NULL || peer->state == PROC_DOWN || peer->incarnation == 0 ||
	    (p = calloc(1, sizeof(*p))) == NULL)
		return;
	snprintf(p->name, sizeof(p->name), "%s", peer->name);
	p->instance = peer->instance;
	p->incarnation = peer->incarnation;
	if (bus_peer_open(&p->peer, r->bus, peer->name, peer->incarnation,
	    peer->endpoint, p) < 0) {
		free(p);		/* the next PEERS tries again */
		return;
	}
	LL_PREPEND(c->desks, p);
}

void
claims_store_gone(struct router *r, const char *name)
{
	struct desk_proc	*p;

	if (r->nodes != NULL &&
	    (p = desk_named(r->nodes->claims, name)) != NULL)
		desk_free(r->nodes->claims, p);
}

/* --- The turn ------------------------------------------------------------- */

/* What a desk is told of itself. False: nothing yet. */
static bool
self_now(struct claims *c, struct claim_msg *m)
{
	struct nodeset		*ns = c->ns;
	struct members_count	 count;
	struct members_self	 self;

	if (ns->mesh == NULL)
		return false;
	members_self(cluster_members(ns->r), &self);
	members_count(cluster_members(ns->r), &count);
	*m = (struct claim_msg){ .kind = CLAIM_SELF };
	m->x = get_le64(self.uid);
	m->asked = get_le64(self.uid + 8);
	m->epoch = self.out != MEMBER_NOT_OUT || count.members == 0 ? 0 :
	    count.members - 1;
	m->flags = ns->core || core_of(ns) != NULL ? CLAIM_CONNECTED : 0;
	return true;
}

static void
tell_self(struct claims *c, struct desk_proc *p, struct claim_msg *m,
    bool anew)
{
	struct claim_msg	no = *m;

	m->node = no.node = claim_desk(c->ns->id, p->instance);
	no.flags = 0;
	anew |= p->told.kind == 0;
	if (!anew && p->told.x == m->x &&
	    p->told.asked == m->asked && p->told.epoch == m->epoch &&
	    p->told.flags == m->flags)
		return;
	p->told = *m;
	if ((anew && claim_out_put(&p->out, &no) < 0) ||
	    claim_out_put(&p->out, m) < 0)
		p->told.kind = 0;	/* the next turn tries again */
}

static void
node_send(struct node *n)
{
	struct slice	body;

	while (n->mesh != NULL) {
		if ((body = claim_out_first(&n->claims)).len == 0)
			break;
		if (mesh_room(n->mesh) <= MESH_QUEUE / 2 ||
		    mesh_send(n->mesh, MESH_REGISTRAR, body.data,
		    body.len) < 0)
			return;		/* `writable` runs a turn */
		claim_out_shift(&n->claims);
	}
	if (n->claims_short && n->mesh != NULL) {
		log_error("router.claims_short", "for=%s", log_quote(n->name));
		mesh_drop(n->mesh, MESH_NONSENSE, "no room for claims");
	}
}

static void
desk_send(struct desk_proc *p)
{
	struct slice	body;

	while ((body = claim_out_first(&p->out)).len > 0) {
		if (bus_stream_send(p->peer, KIND_CLAIM, body.data, body.len,
		    NULL) < 0)
			return;		/* no room: the next turn, or tick */
		claim_out_shift(&p->out);
	}
}

void
claims_flush(struct nodeset *ns)
{
	struct claims		*c = ns->claims;
	struct desk_proc	*p;
	struct claim_msg	 self;
	struct node		*n, *next;
	uint64_t		 core = 0;
	bool			 known, anew;

	if ((n = ns->core ? NULL : core_of(ns)) != NULL)
		core = n->id;
	known = self_now(c, &self);
	anew = known && core != c->core;
	if (known)
		c->core = core;
	LL_FOREACH(c->desks, p) {
		if (known)
			tell_self(c, p, &self, anew);
		desk_send(p);
	}
	HASH_ITER(hh, ns->all, n, next)
		if (n->claims.first != NULL)
			node_send(n);
}

/* Is everybody there who may have a client identifier? */
static bool
is_whole(struct claims *c)
{
	struct member_look	 l;
	struct node		*n;
	uint64_t		 at = 0;

	while (members_next(cluster_members(c->ns->r), &at, &l) == 1) {
		if (l.self)
			continue;
		if (!l.up || l.parked)
			return false;
		n = node_by_id(c->ns, l.row->join);
		if (l.row->role == MEMBER_CORE && (n == NULL || !n->claims_up))
			return false;
	}
	return true;
}

void
claims_tick(struct nodeset *ns, uint64_t now)
{
	struct claims			*c = ns->claims;
	const struct registrar_stats	*s = &c->reg.stats;

	if (!ns->core)
		return;
	registrar_whole(&c->reg, is_whole(c));
	registrar_tick(&c->reg, now);
	metric_set(&m_claims, s->claims);
	metric_set(&m_granted, s->granted);
	metric_set(&m_provisional, s->provisional);
	metric_set(&m_lost, s->lost);
	metric_set(&m_waited, s->waited);
	metric_set(&m_conflicts, s->conflicts);
	metric_set(&m_held, c->reg.rows.n);
	metric_set(&m_bytes, held_bytes(&c->reg.rows));
}

int
claims_open(struct nodeset *ns)
{
	struct claims	*c;

	if ((c = calloc(1, sizeof(*c))) == NULL)
		return ERR_NOMEM;
	c->ns = ns;
	registrar_init(&c->reg, ns->id, &ops, c);
	metric_register((struct metric **)metrics, NELEM(metrics));
	ns->claims = c;
	return 0;
}

void
claims_close(struct nodeset *ns)
{
	struct claims		*c = ns->claims;
	struct desk_proc	*p, *next;

	if (c == NULL)
		return;
	LL_FOREACH_SAFE(c->desks, p, next) {
		claim_out_clear(&p->out);
		free(p);		/* the bus closes its peers */
	}
	registrar_fini(&c->reg);
	free(c);
	ns->claims = NULL;
}

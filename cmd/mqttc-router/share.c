/*
 * Rows of the table route.<node> (proto/noderow.h): what a node has subscribers
 * for. A node tells a row when the first of its processes has it and takes it
 * back with the last (rib_watch), so what others see changes seldom.
 */
#include "nodes.h"

#include <string.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"
#include "topic/filter.h"

struct metric m_node_rows = METRIC_COUNTER("router_node_rows_total",
    "Route rows of other nodes taken");
struct metric m_node_rows_refused = METRIC_COUNTER(
    "router_node_rows_refused_total",
    "Route rows of other nodes that were no filter or group, or a group too "
    "many for one filter");

/* --- Ours, out ------------------------------------------------------------- */

static uint8_t	key[NODEROW_KEY_MAX], value[NODEROW_VALUE_MAX];

/* Our stream has this row, or has it no more. */
static void
own_put(struct nodeset *ns, const struct rib_change *c)
{
	struct noderow	row = {
		.kind = c->name != NULL ? NODEROW_GROUP : NODEROW_FILTER,
		.class = c->kind == FIB_LISTENER ? NODEROW_LIVE :
		    NODEROW_DURABLE,
		.filter = { c->filter, c->len },
		.group = { c->name, c->nlen },
	};
	struct slice	k = { key, 0 }, v = { value, 0 };
	uint64_t	seq = 0;
	int		rc;

	row.members = noderow_members(row.class, c->first, c->second);
	if (noderow_encode(&row, key, &k.len, value, &v.len) < 0)
		return;			/* what no owner can have told */
	if (fault_hit("router.share")) {
		rc = ERR_NOMEM;
	} else if (c->owners == 0) {
		rc = rlog_del(ns->own, k, &seq);
		rc = rc == ERR_NOTFOUND ? 0 : rc;
	} else if ((rc = rlog_put(ns->own, k, v, &seq)) == 0) {
		ns->row_seq = MAX(ns->row_seq, seq);
	}
	ns->confirm = true;
	if (rc == 0)
		return;
	/* Nobody is told that it is there, so it is not acknowledged either
	 * (nodes_rows_short): go through all of them again. */
	log_error("router.share_failed", "why=%s filter=%s",
	    log_quote(err_str(rc)), log_quote_n(c->filter, c->len));
	ns->fill = true;
	ns->fill_at = 0;
}

static void
on_change(void *ctx, const struct rib_change *c)
{
	own_put(ctx, c);
}

int
share_open(struct nodeset *ns)
{
	const char	*name = proc_node(ns->r->proc);
	uint64_t	 seq;
	int		 rc;

	if ((rc = rlog_open(ns->rlog, TABLE_ROUTE, NULL, NULL,
	    &ns->own)) < 0)
		return rc;
	rib_watch(ns->r->rib, 1u << FIB_LISTENER | 1u << FIB_STORE, on_change,
	    ns);
	ns->fill = true;
	ns->about = 1u << NODEROW_NAME;
	return rlog_put(ns->own, (struct slice){ (const uint8_t *)"N", 1 },
	    (struct slice){ (const uint8_t *)name, strlen(name) }, &seq);
}

void
share_ports(struct nodeset *ns, const uint32_t ports[NODE_LINKS_MAX])
{
	struct noderow	row = { .kind = NODEROW_PORTS };
	struct slice	k = { key, 0 }, v = { value, 0 };
	uint64_t	seq;

	if (memcmp(ns->ports, ports, sizeof(ns->ports)) == 0)
		return;
	memcpy(row.ports, ports, sizeof(row.ports));
	(void)noderow_encode(&row, key, &k.len, value, &v.len);
	if (rlog_put(ns->own, k, v, &seq) < 0)
		return;			/* a link says it again in 2 s */
	memcpy(ns->ports, ports, sizeof(ns->ports));
	ns->about |= 1u << NODEROW_PORTS;
	ns->confirm = true;
}

/* Each row of the rib tells of its filter (or group) as a whole: of several
 * owners of a kind the same thing several times, which changes nothing. */
static bool
own_row(void *ctx, const struct rib_row *row)
{
	static const enum fib_kind kinds[] = { FIB_LISTENER, FIB_STORE };
	struct nodeset		*ns = ctx;
	struct rib_change	 c;
	size_t			 i;

	for (i = 0; i < NELEM(kinds); i++) {
		rib_look(ns->r->rib, kinds[i], row->filter, row->len,
		    row->name, row->nlen, &c);
		if (c.owners > 0)
			own_put(ns, &c);
	}
	return true;
}

bool
share_fill_own(struct nodeset *ns)
{
	bool	more;

	if (!ns->fill)
		return false;
	ns->fill = false;		/* a row may ask for another round */
	more = rib_list(ns->r->rib, -1, &ns->fill_at, NODES_TIDY, own_row,
	    ns) == 1;
	if (ns->fill)
		return false;		/* for want of memory: a tick later */
	ns->fill = more;
	if (!more)
		ns->fill_at = 0;
	return more;
}

/* --- Theirs, in -------------------------------------------------------------- */

static bool
group_is_good(struct slice g)
{
	return topic_filter_check(g.data, g.len, 0) == 0 &&
	    memchr(g.data, '+', g.len) == NULL &&
	    memchr(g.data, '#', g.len) == NULL &&
	    memchr(g.data, '/', g.len) == NULL;
}

static bool
row_is_good(const struct noderow *row)
{
	return topic_filter_check(row->filter.data, row->filter.len, 0) == 0 &&
	    (row->kind != NODEROW_GROUP || group_is_good(row->group));
}

/* 0, or ERR_NOMEM and the like: it is to come again. */
static int
row_install(struct nodeset *ns, struct node *n, const struct noderow *row,
    bool deleted)
{
	struct rib	*rib = ns->r->rib;
	const struct slice *f = &row->filter;
	unsigned	 owner = (unsigned)n->owner[row->class];
	int		 rc;

	if (!row_is_good(row)) {
		metric_inc(&m_node_rows_refused);
		return 0;
	}
	metric_inc(&m_node_rows);
	if (row->kind == NODEROW_GROUP) {
		rc = rib_group(rib, owner, f->data, f->len, row->group.data,
		    row->group.len, row->members);
		if (rc == ERR_FULL) {	/* as of our own, owners.c */
			metric_inc(&m_node_rows_refused);
			rc = 0;
		}
	} else if (deleted) {
		rc = rib_del(rib, owner, f->data, f->len);
	} else {
		rc = rib_add(rib, owner, f->data, f->len, 2);
	}
	return rc == ERR_NOTFOUND ? 0 : rc;
}

/* One row of n as it stands now. */
static int
row_take(struct nodeset *ns, struct node *n, const struct rlog_row *in)
{
	struct noderow	row;

	if (noderow_decode(&row, in->key, in->value, in->deleted) < 0) {
		metric_inc(&m_node_rows_refused);
		return 0;
	}
	if (row.kind == NODEROW_NAME || row.kind == NODEROW_PORTS) {
		n->about &= ~(1u << row.kind);
		n->about |= in->deleted ? 0 : 1u << row.kind;
		if (in->deleted)
			return 0;
		if (row.kind == NODEROW_NAME)
			node_named(ns, n, row.name.data, row.name.len);
		else if (n->mesh == NULL)	/* else it says so itself */
			node_ports(ns, n, row.ports);
		return 0;
	}
	/* Without a name it has no place in the index: share_fill comes. */
	return n->owner[row.class] < 0 ? 0 :
	    row_install(ns, n, &row, in->deleted);
}

int
share_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row)
{
	struct nodeset	*ns = ctx;
	struct rlog_id	 id = rlog_stream_id(s);
	struct node	*n;

	if (id.table == TABLE_ROWS)
		return belong_row(ns, id.writer, row);
	if (id.table != TABLE_ROUTE)
		return 0;		/* of a later version */
	if ((n = node_get(ns, id.writer)) == NULL)
		return ERR_NOMEM;
	ns->confirm = true;
	return row_take(ns, n, row);
}

bool
share_fill(struct nodeset *ns, struct node *n)
{
	struct rlog_id		 id = { TABLE_ROUTE, n->id };
	struct rlog_stream	*s = rlog_find(ns->rlog, id);
	struct rlog_row		 row;
	unsigned		 i;
	uint64_t		 at;

	for (i = 0; s != NULL && i < NODES_TIDY; i++) {
		at = n->fill_at;
		if (rlog_rows(s, &at, &row) == 0)
			break;
		if (row_take(ns, n, &row) < 0)
			return false;	/* the next tick goes on */
		n->fill_at = at;
	}
	if (i == NODES_TIDY)
		return true;
	n->fill = false;
	n->fill_at = 0;
	ns->confirm = true;
	return false;
}

bool
share_clear(struct nodeset *ns, struct node *n)
{
	int	c;

	for (c = 0; c < NODEROW_CLASSES; c++) {
		if (n->owner[c] < 0)
			continue;
		if (rib_owner_clear(ns->r->rib, (unsigned)n->owner[c],
		    NODES_TIDY) == 1)
			return true;
		rib_owner_close(ns->r->rib, (unsigned)n->owner[c]);
		n->owner[c] = -1;
	}
	return false;
}

/*
 * Rows of the table route.<node>: what a node has subscribers for. Keys:
 *
 *	N				value: the node's name
 *	L filter			some listener there has it: live
 *	D filter			some store there has it: durable
 *	G L|D namelen(2) name filter	value: members (4), two halves as in
 *					topic/group.h, each a power of two or 0
 *
 * A node tells a row when the first of its processes has it and takes it back
 * with the last (rib_watch), so what others see changes seldom.
 */
#include "nodes.h"

#include <string.h>

#include "base/err.h"
#include "log/log.h"
#include "proto/route.h"
#include "topic/filter.h"
#include "topic/group.h"

#define KEY_MAX		(4 + 2 * (size_t)TOPIC_MAX)
#define CLASS_KEY(c)	((uint8_t)((c) == CLASS_LIVE ? 'L' : 'D'))

struct metric m_node_rows = METRIC_COUNTER("router_node_rows_total",
    "Route rows of other nodes taken");
struct metric m_node_rows_refused = METRIC_COUNTER(
    "router_node_rows_refused_total",
    "Route rows of other nodes that were no filter or group, or a group too "
    "many for one filter");

/* --- Ours, out ------------------------------------------------------------- */

static uint32_t
power_of_two(uint64_t n)
{
	return n == 0 ? 0 : n > UINT16_MAX ? 1u << 15 :
	    1u << (31 - __builtin_clz((uint32_t)n));
}

/*
 * Counts are rounded so that a member that comes or goes is seldom a row. Of a
 * listener those a store sees to are part of all, and the others must not be
 * rounded away: there may be but one.
 */
static uint32_t
members_told(enum node_class class, uint64_t first, uint64_t second)
{
	uint32_t	others;

	if (class == CLASS_DURABLE)
		return group_count(power_of_two(first), power_of_two(second));
	others = power_of_two(first - MIN(first, second));
	return group_count(others + power_of_two(second),
	    power_of_two(second));
}

/* Our stream has this row, or has it no more. */
static void
own_put(struct nodeset *ns, const struct rib_change *c)
{
	static uint8_t	key[KEY_MAX];
	enum node_class	class = c->kind == FIB_LISTENER ? CLASS_LIVE :
			    CLASS_DURABLE;
	uint8_t		value[4];
	struct slice	k = { key, 0 }, v = { NULL, 0 };
	uint64_t	seq = 0;
	int		rc;

	if (c->name == NULL) {
		key[0] = CLASS_KEY(class);
		k.len = 1;
	} else {
		key[0] = 'G';
		key[1] = CLASS_KEY(class);
		put_le16(key + 2, (uint16_t)c->nlen);
		memcpy(key + 4, c->name, c->nlen);
		k.len = 4 + c->nlen;
		put_le32(value, members_told(class, c->first, c->second));
		v = (struct slice){ value, sizeof(value) };
	}
	memcpy(key + k.len, c->filter, c->len);
	k.len += c->len;
	if (c->owners == 0) {
		rc = rlog_del(ns->own, k, &seq);
		rc = rc == ERR_NOTFOUND ? 0 : rc;
	} else if ((rc = rlog_put(ns->own, k, v, &seq)) == 0) {
		ns->row_seq = MAX(ns->row_seq, seq);
	}
	ns->confirm = true;
	if (rc == 0)
		return;
	/* Nobody is told that it is there, so nothing is acknowledged for it:
	 * go through all of them again. */
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
	return rlog_put(ns->own, (struct slice){ (const uint8_t *)"N", 1 },
	    (struct slice){ (const uint8_t *)name, strlen(name) }, &seq);
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

struct row {
	enum node_class	 class;
	struct slice	 filter, group;	/* group.data NULL: none */
	uint32_t	 members;
};

static bool
group_is_good(struct slice g)
{
	return topic_filter_check(g.data, g.len, 0) == 0 &&
	    memchr(g.data, '+', g.len) == NULL &&
	    memchr(g.data, '#', g.len) == NULL &&
	    memchr(g.data, '/', g.len) == NULL;
}

static int
class_of(uint8_t key)
{
	return key == 'L' ? CLASS_LIVE : key == 'D' ? CLASS_DURABLE : -1;
}

/* ERR_PROTO: it is none that we know. */
static int
row_parse(const struct rlog_row *in, struct row *out)
{
	const uint8_t	*k = in->key.data;
	size_t		 len = in->key.len, n;
	int		 class;

	*out = (struct row){ .class = CLASS_LIVE };
	if (len < 2)
		return ERR_PROTO;
	if (k[0] != 'G') {
		class = class_of(k[0]);
		out->filter = (struct slice){ k + 1, len - 1 };
	} else {
		if (len < 4 || (n = get_le16(k + 2)) == 0 || len - 4 <= n)
			return ERR_PROTO;
		class = class_of(k[1]);
		out->group = (struct slice){ k + 4, n };
		out->filter = (struct slice){ k + 4 + n, len - 4 - n };
		if (!group_is_good(out->group))
			return ERR_PROTO;
		if (!in->deleted && in->value.len < 4)
			return ERR_PROTO;
		if (!in->deleted)
			out->members = get_le32(in->value.data);
	}
	if (class < 0 || topic_filter_check(out->filter.data, out->filter.len,
	    0) < 0)
		return ERR_PROTO;
	out->class = (enum node_class)class;
	return 0;
}

/* 0, or ERR_NOMEM and the like: it is to come again. */
static int
row_install(struct nodeset *ns, struct node *n, const struct rlog_row *in)
{
	struct rib	*rib = ns->r->rib;
	struct row	 row;
	unsigned	 owner;
	int		 rc;

	if (row_parse(in, &row) < 0) {
		metric_inc(&m_node_rows_refused);
		return 0;
	}
	metric_inc(&m_node_rows);
	owner = (unsigned)n->owner[row.class];
	if (row.group.data != NULL) {
		rc = rib_group(rib, owner, row.filter.data, row.filter.len,
		    row.group.data, row.group.len, row.members);
		if (rc == ERR_FULL) {	/* as of our own, owners.c */
			metric_inc(&m_node_rows_refused);
			rc = 0;
		}
	} else if (in->deleted) {
		rc = rib_del(rib, owner, row.filter.data, row.filter.len);
	} else {
		rc = rib_add(rib, owner, row.filter.data, row.filter.len, 2);
	}
	return rc == ERR_NOTFOUND ? 0 : rc;
}

static bool
is_name(const struct rlog_row *row)
{
	return row->key.len == 1 && row->key.data[0] == 'N';
}

int
share_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row)
{
	struct nodeset	*ns = ctx;
	struct rlog_id	 id = rlog_stream_id(s);
	struct node	*n;

	if (id.table != TABLE_ROUTE)
		return 0;		/* of a later version */
	if ((n = node_get(ns, id.writer)) == NULL)
		return ERR_NOMEM;
	ns->confirm = true;
	if (is_name(row)) {
		if (!row->deleted)
			node_named(ns, n, row->value.data, row->value.len);
		return 0;
	}
	/* Without a name it has no place in the index: share_fill comes. */
	return n->owner[CLASS_LIVE] < 0 ? 0 : row_install(ns, n, row);
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
		if (!is_name(&row) && row_install(ns, n, &row) < 0)
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

	for (c = 0; c < NCLASSES; c++) {
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

/*
 * What tools ask (proto/query.h): one page an answer, a bounded piece of work
 * each; the cursor says where to go on. Nothing is kept between two pages.
 */
#include "router.h"
#include "cluster.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "base/util.h"
#include "log/log.h"
#include "proto/query.h"
#include "topic/filter.h"
#include "topic/group.h"

enum {
	PAGE_BYTES	= 256 * 1024,	/* above any one row */
	PAGE_ROWS	= 1000,
	PAGE_FILTERS	= 4096,		/* looked at for one page */
	PAGE_ANCHORS	= 65536,	/* likewise */
	PAGE_MEMBERS	= 128,
	PAGE_NODES	= 32,
	NODE_DEST_MAX	= 300,		/* NAME@HOST/durable */
	MATCH_ROWS_MAX	= 65536,	/* told of one topic */
	CURSOR_LEN	= 12
};

struct page {
	struct router	*r;
	struct query	 q;
	struct reply_writer w;
	unsigned	 limit;		/* rows */
	const uint8_t	*filter;	/* the one being told: where its text is */
	unsigned	 nth;		/* how many of its owners were walked, */
	unsigned	 skip;		/* and how many were on the last page */
	bool		 first;		/* still at the filter of the cursor */
	bool		 full;
};

/* The name of a destination: "listener.0". */
static const char *
dest_name(const struct router *r, const struct fib_slot *d, char *out,
    size_t size)
{
	const char	*kind = NULL;

	switch (d->kind) {
	case FIB_LISTENER:
		kind = proc_kind_name(PROC_LISTENER);
		break;
	case FIB_STORE:
		kind = proc_kind_name(PROC_SESSION_STORE);
		break;
	case FIB_NODE:
		snprintf(out, size, "%s%s", fib_node_name(r->eye, d->node),
		    d->instance > 0 ? "/durable" : "");
		return out;
	case FIB_NONE:
		return "?";
	}
	snprintf(out, size, "%s.%" PRIu32, kind, d->instance);
	return out;
}

static const struct owner *
owner_by_number(const struct router *r, unsigned number)
{
	const struct owner	*o;

	for (o = r->owners; o != NULL; o = o->next)
		if (o->rib == number)
			return o;
	return NULL;
}

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* What a widened filter is installed as: its anchor and `#`. */
static struct slice
wide_form(const struct rib_row *row, uint8_t *buf)
{
	size_t	n = row->anchor_len;

	memcpy(buf, row->filter, n);
	/* An empty anchor has no level (`+/a`), or one that is empty (`/+`). */
	if (n > 0 || row->filter[0] == '/')
		buf[n++] = '/';
	buf[n++] = '#';
	return (struct slice){ buf, n };
}

static int
put_row(struct page *p, const struct rib_row *row)
{
	static uint8_t		 wide[TOPIC_MAX + 2];
	char			 name[NODE_DEST_MAX];
	const char		*node;
	const struct owner	*o = owner_by_number(p->r, row->owner);
	struct route_info	 i = {
		.filter = { row->filter, row->len },
		.qos = row->qos,
		.widened = row->widened,
	};

	node = o != NULL ? NULL : nodes_owner_name(p->r, row->owner, name,
	    sizeof(name));
	i.dest = text(node != NULL ? node : o != NULL && o->member != NULL ?
	    o->member->name : "");
	i.state = text(node == NULL && (o == NULL || o->state == OWNER_GONE) ?
	    "leaving" : phase_has_index(p->r) ? "installed" : "learned");
	if (row->widened)
		i.as = wide_form(row, wide);
	if (row->name != NULL) {
		i.share = (struct slice){ row->name, row->nlen };
		i.members = group_count_all(row->members, node != NULL ?
		    strchr(node, '/') != NULL : o != NULL &&
		    o->member != NULL && o->member->kind ==
		    PROC_SESSION_STORE);
	}
	return reply_route(&p->w, &i);
}

/* --- Routes, page by page ----------------------------------------------------- */

static bool
has_prefix(const struct rib_row *row, struct slice prefix)
{
	return row->len >= prefix.len && (prefix.len == 0 ||
	    memcmp(row->filter, prefix.data, prefix.len) == 0);
}

/*
 * A filter comes with all its owners in a row, and again from the first one if
 * the page ended among them: then the cursor says how many to skip.
 */
static bool
list_row(void *ctx, const struct rib_row *row)
{
	struct page	*p = ctx;

	assert(row->filter != NULL);
	if (row->filter != p->filter) {
		p->first = p->filter == NULL;
		p->filter = row->filter;
		p->nth = 0;
	}
	if (p->nth++ < (p->first ? p->skip : 0) || !has_prefix(row, p->q.arg))
		return true;
	if (p->w.rows < p->limit && put_row(p, row) == 0)
		return true;
	p->nth--;
	p->full = true;
	return false;
}

static int
owner_by_name(const struct router *r, struct slice name)
{
	const struct member	*m;

	for (m = r->members; m != NULL; m = m->hh.next)
		if (strlen(m->name) == name.len &&
		    memcmp(m->name, name.data, name.len) == 0)
			return m->owner != NULL ? (int)m->owner->rib : -1;
	return nodes_owner_find(r, name);
}

static void
cursor_put(uint8_t out[CURSOR_LEN], uint64_t at, uint32_t skip)
{
	put_le64(out, at);
	put_le32(out + 8, skip);
}

static long
answer_routes(struct page *p)
{
	uint8_t		cursor[CURSOR_LEN];
	uint64_t	at = 0;
	int		owner = -1;

	if (p->q.cursor.len == CURSOR_LEN) {
		at = get_le64(p->q.cursor.data);
		p->skip = get_le32(p->q.cursor.data + 8);
	}
	if (p->q.owner.len > 0 &&
	    (owner = owner_by_name(p->r, p->q.owner)) < 0)
		return reply_end(&p->w, (struct slice){ NULL, 0 });
	if (rib_list(p->r->rib, owner, &at, PAGE_FILTERS, list_row, p) == 0)
		return reply_end(&p->w, (struct slice){ NULL, 0 });
	/* The rows of one owner are walked one by one. */
	cursor_put(cursor, at, p->full && owner < 0 ? p->nth : 0);
	return reply_end(&p->w, (struct slice){ cursor, sizeof(cursor) });
}

/* --- What matches a topic ------------------------------------------------------ */

static bool
match_row(void *ctx, const struct rib_row *row)
{
	struct page	*p = ctx;

	assert(row->filter != NULL);
	if (p->nth++ < p->skip)
		return true;
	if (p->w.rows < p->limit && put_row(p, row) == 0)
		return true;
	p->nth--;
	p->full = true;
	return false;
}

/* One destination of the index, of a group if there is one. */
static int
put_slot(struct page *p, unsigned slot, const struct rib_row *group)
{
	struct route_info	 i = { .qos = 0 };
	struct fib_slot		 d;
	char			 name[NODE_DEST_MAX];

	if (p->nth++ < p->skip || fib_slot(p->r->eye, slot, &d) < 0)
		return 0;
	if (p->w.rows >= p->limit)
		return ERR_FULL;
	i.dest = text(dest_name(p->r, &d, name, sizeof(name)));
	i.state = text(d.state == FIB_UP ? "index" : "index-down");
	if (group != NULL) {
		i.filter = (struct slice){ group->filter, group->len };
		i.share = (struct slice){ group->name, group->nlen };
		i.members = group_count_all(group->members,
		    d.kind == FIB_STORE || (d.kind == FIB_NODE &&
		    d.instance > 0));
	}
	return reply_route(&p->w, &i);
}

static int
put_group(struct page *p, const struct fib_group *g)
{
	struct rib_row	row;
	size_t		i;
	int		rc = 0;

	if (rib_group_find(p->r->rib, g->id_hi, g->id_lo, &row) < 0)
		return 0;
	for (i = 0; i < g->nslots && rc == 0; i++) {
		row.members = g->slots[i].members;
		rc = put_slot(p, g->slots[i].slot, &row);
	}
	return rc;
}

static int
put_kv(struct page *p, const char *key, uint64_t value)
{
	struct kv_row	row = { .key = text(key) };
	char		buf[24];

	snprintf(buf, sizeof(buf), "%" PRIu64, value);
	row.value = text(buf);
	return reply_kv(&p->w, &row);
}

/* What the readers see in the index, which may be more than what matches. */
static int
put_index(struct page *p)
{
	struct fib_reader	*eye = p->r->eye;
	struct fib_match	 m;
	uint64_t		 before;
	unsigned		 slot;
	size_t			 i;
	int			 rc = 0;

	do {
		fib_enter(eye);
		before = fib_reader_probes(eye);
		fib_match(eye, p->q.arg.data, p->q.arg.len, &m);
	} while (!fib_leave(eye));
	for (slot = 0; slot < FIB_WORD_SLOTS && rc == 0; slot++)
		if (m.slots >> slot & 1)
			rc = put_slot(p, slot, NULL);
	for (i = 0; i < m.nmore && rc == 0; i++)
		rc = put_slot(p, m.more[i], NULL);
	for (i = 0; i < m.ngroups && rc == 0; i++)
		rc = put_group(p, &m.groups[i]);
	if (rc < 0) {
		p->nth--;
		return rc;
	}
	return put_kv(p, "probes", fib_reader_probes(eye) - before);
}

/* Page by page: the routes, then what the index says. */
enum match_part { MATCH_ROUTES, MATCH_INDEX };

static long
answer_match(struct page *p)
{
	uint8_t		cursor[CURSOR_LEN];
	uint64_t	part = MATCH_ROUTES;

	if (topic_name_check(p->q.arg.data, p->q.arg.len, 0) < 0)
		return ERR_INVAL;
	if (p->q.cursor.len == CURSOR_LEN) {
		part = get_le64(p->q.cursor.data);
		p->skip = get_le32(p->q.cursor.data + 8);
	}
	if (part == MATCH_ROUTES) {
		if (p->skip < MATCH_ROWS_MAX)
			(void)rib_match(p->r->rib, p->q.arg.data, p->q.arg.len,
			    p->skip + p->limit + 1, match_row, p);
		if (!p->full) {
			part = MATCH_INDEX;
			p->skip = p->nth = 0;
		}
	}
	if (part == MATCH_INDEX && put_index(p) == 0)
		return reply_end(&p->w, (struct slice){ NULL, 0 });
	cursor_put(cursor, part, p->nth);
	return reply_end(&p->w, (struct slice){ cursor, sizeof(cursor) });
}

/* --- Figures -------------------------------------------------------------------- */

static void PRINTF(4, 5)
put_of(struct page *p, const char *name, const char *what, const char *fmt,
    ...)
{
	struct kv_row	row;
	char		key[NODE_DEST_MAX + 32], value[128];
	va_list		ap;

	snprintf(key, sizeof(key), "%s%s%s", name, name[0] ? "." : "", what);
	va_start(ap, fmt);
	vsnprintf(value, sizeof(value), fmt, ap);
	va_end(ap);
	row.key = text(key);
	row.value = text(value);
	(void)reply_kv(&p->w, &row);	/* pages are made to fit */
}

static void
put_member(struct page *p, const struct member *m)
{
	const struct owner	*o = m->owner;
	uint64_t		 epoch = 0;

	put_of(p, m->name, "state", "%s", proc_state_name(m->state));
	put_of(p, m->name, "incarnation", "%" PRIu64, m->incarnation);
	put_of(p, m->name, "reads", "%" PRIu64, m->generation);
	if (fib_reader_epoch(p->r->fib, m->incarnation, &epoch) == 0)
		put_of(p, m->name, "epoch", "%" PRIu64, epoch);
	put_of(p, m->name, "owner", "%s",
	    o != NULL ? owner_state_name(o->state) : "none");
	if (o == NULL)
		return;
	put_of(p, m->name, "routes", "%" PRIu64,
	    rib_owner_routes(p->r->rib, o->rib));
	put_of(p, m->name, "seq", "%" PRIu64, o->seq);
	put_of(p, m->name, "acked", "%" PRIu64, o->acked);
}

static void
put_rib(struct page *p)
{
	struct rib_stats	s;

	rib_stats(p->r->rib, &s);
	(void)put_kv(p, "filters", s.filters);
	(void)put_kv(p, "routes", s.routes);
	(void)put_kv(p, "groups", s.groups);
	(void)put_kv(p, "group_rows", s.group_rows);
	(void)put_kv(p, "owners", s.owners);
	(void)put_kv(p, "anchors", s.anchors);
	(void)put_kv(p, "shapes", s.shapes);
	(void)put_kv(p, "widened_shapes", s.widened_shapes);
	(void)put_kv(p, "widened_filters", s.widened_filters);
	(void)put_kv(p, "widenings", s.widenings);
	(void)put_kv(p, "narrowings", s.narrowings);
	(void)put_kv(p, "rib_bytes", s.bytes);
}

static void
put_fib(struct page *p)
{
	struct fib_stats	s;

	fib_writer_stats(p->r->fib, &s);
	(void)put_kv(p, "fib_entries", s.entries);
	(void)put_kv(p, "fib_anchors", s.anchors);
	(void)put_kv(p, "fib_sets", s.sets);
	(void)put_kv(p, "fib_set_uses", s.set_uses);
	(void)put_kv(p, "fib_groups", s.groups);
	(void)put_kv(p, "fib_bytes", s.bytes);
	(void)put_kv(p, "fib_pieces_used", s.pieces_used);
	(void)put_kv(p, "fib_pieces_free", s.pieces_free);
	(void)put_kv(p, "fib_held_bytes", s.held_bytes);
	(void)put_kv(p, "fib_evictions", s.evictions);
	(void)put_kv(p, "fib_epoch", s.epoch);
	(void)put_kv(p, "fib_readers", s.readers - 1);	/* not our own eye */
	(void)put_kv(p, "fib_depth", s.depth);
	(void)put_kv(p, "fib_splits", s.splits);
	(void)put_kv(p, "fib_rewrites", s.rewrites);
}

static void
put_anchor(void *ctx, const struct rib_anchor *a)
{
	static char	 key[7 + TOPIC_MAX] = "anchor:";
	struct page	*p = ctx;
	struct kv_row	 row = { .key = { (const uint8_t *)key, 7 + a->len } };
	char		 buf[16];

	/* A crowd of crowded ones is told by its first. */
	if (p->w.rows >= PAGE_ROWS)
		return;
	memcpy(key + 7, a->text, a->len);
	snprintf(buf, sizeof(buf), "%u", a->shapes);
	row.value = text(buf);
	(void)reply_kv(&p->w, &row);
}

static void
put_node(void *ctx, const char *name, const char *what, const char *value)
{
	put_of(ctx, name, what, "%s", value);
}

/* Page by page: the figures, the processes, the nodes, anchors with many
 * shapes. */
enum stats_part { STATS_FIGURES, STATS_MEMBERS, STATS_NODES, STATS_ANCHORS,
	STATS_END };

/* One page of a part. 0: it is complete. */
static int
put_part(struct page *p, enum stats_part part, uint64_t *at)
{
	const struct member	*m;
	uint64_t		 i = 0;

	switch (part) {
	case STATS_FIGURES:
		put_of(p, "", "phase", "%s", phase_name(p->r->phase));
		(void)put_kv(p, "generation", p->r->generation);
		(void)put_kv(p, "readers_waited", p->r->waited);
		put_rib(p);
		put_fib(p);
		return 0;
	case STATS_MEMBERS:
		for (m = p->r->members; m != NULL; m = m->hh.next, i++) {
			if (i == *at + PAGE_MEMBERS) {
				*at = i;
				return 1;
			}
			if (i >= *at)
				put_member(p, m);
		}
		return 0;
	case STATS_NODES:
		for (i = 0; i < PAGE_NODES; i++)
			if (!nodes_tell(p->r, (unsigned)*at + (unsigned)i,
			    put_node, p))
				return 0;
		*at += i;
		return 1;
	case STATS_ANCHORS:
		return rib_anchors(p->r->rib, at, PAGE_ANCHORS,
		    MAX(p->r->conf->router_anchor_shapes / 2, 2), put_anchor,
		    p);
	case STATS_END:
		break;
	}
	return 0;
}

static long
answer_stats(struct page *p)
{
	uint8_t		cursor[CURSOR_LEN];
	unsigned	part = STATS_FIGURES;
	uint64_t	at = 0;

	if (p->q.cursor.len == CURSOR_LEN) {
		at = get_le64(p->q.cursor.data);
		part = get_le32(p->q.cursor.data + 8);
	}
	if (put_part(p, (enum stats_part)MIN(part, STATS_END), &at) == 0) {
		at = 0;
		part++;
	}
	if (part >= STATS_END)
		return reply_end(&p->w, (struct slice){ NULL, 0 });
	cursor_put(cursor, at, part);
	return reply_end(&p->w, (struct slice){ cursor, sizeof(cursor) });
}

/* -------------------------------------------------------------------------------- */

static long
answer(struct page *p, const char **why)
{
	long	n;

	switch (p->q.what) {
	case QUERY_ROUTES:
		return answer_routes(p);
	case QUERY_MATCH:
		if ((n = answer_match(p)) == ERR_INVAL)
			*why = "this is not the name of a topic";
		return n;
	case QUERY_STATS:
		return answer_stats(p);
	case QUERY_CLUSTER:
	case QUERY_CLUSTER_JOIN:
	case QUERY_CLUSTER_LEAVE:
	case QUERY_CLUSTER_FORCE:
	case QUERY_CLUSTER_HEAL:
	case QUERY_CLUSTER_TASK:
		return cluster_answer(p->r, &p->q, &p->w, p->limit);
	default:
		*why = "the router knows no such question";
		return ERR_INVAL;
	}
}

int
on_query(void *ctx, struct bus_frame *f)
{
	struct router	*r = ctx;
	struct page	 p = { .r = r, .first = true };
	const char	*why = "no room for the answer";
	long		 n;

	if (query_decode(&p.q, f->body, f->len) < 0)
		return ERR_PROTO;
	if (r->reply == NULL && (r->reply = malloc(PAGE_BYTES)) == NULL)
		return ERR_NOMEM;
	p.limit = p.q.limit == 0 ? PAGE_ROWS : MIN(p.q.limit, PAGE_ROWS);
	reply_begin(&p.w, r->reply, PAGE_BYTES, p.q.id);
	if ((n = answer(&p, &why)) < 0)
		n = reply_error(r->reply, PAGE_BYTES, p.q.id,
		    n == ERR_INVAL ? EX_USAGE : EX_SOFTWARE, why);
	metric_inc(&m_queries);
	if (n > 0 && bus_reply(r->bus, &f->from.addr, KIND_REPLY, r->reply,
	    (size_t)n) < 0)
		log_debug("router.reply_lost", "to=%s", f->from.name);
	return 0;
}

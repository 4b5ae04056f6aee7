#include "route/tell.h"

#include <assert.h>
#include <pb_decode.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"
#include "proto/route.h"
#include "proto/route.pb.h"

enum { ROUTES_BUF = BUS_BODY_MAX };
_Static_assert(ROUTES_BUF >= ROUTES_BUF_MIN, "any row fits a batch");

void
route_tell_init(struct route_tell *t, struct bus *bus, struct index *index,
    uint64_t incarnation, const struct route_hooks *hooks, void *ctx,
    struct metric *m_short)
{
	memset(t, 0, sizeof(*t));
	t->bus = bus;
	t->index = index;
	t->incarnation = incarnation;
	t->hooks = hooks;
	t->ctx = ctx;
	t->m_short = m_short;
}

void
route_tell_fini(struct route_tell *t)
{
	if (t->router != NULL)
		bus_peer_close(&t->router);
	free(t->dirty);
	t->dirty = NULL;
	t->ndirty = t->cap_dirty = 0;
}

/* --- Rows out ----------------------------------------------------------- */

/* What the router is to know of f: whether it has subscribers, of a group how
 * many. */
static inline uint32_t
wanted(const struct route_tell *t, const struct index_filter *f)
{
	if (!f->is_group || f->nsubs == 0)
		return f->nsubs > 0;
	return t->hooks->members != NULL ? t->hooks->members(t->ctx, f) :
	    group_count(f->nsubs, 0);
}

static void
touch(struct route_tell *t, struct index_filter *f)
{
	struct index_filter	**grown;
	size_t			  cap;

	f->route_seq = (uint32_t)t->seq + 1;	/* the batch it will be in */
	if (f->dirty)
		return;
	if (t->ndirty == t->cap_dirty) {
		cap = t->cap_dirty == 0 ? 256 : t->cap_dirty * 2;
		grown = realloc(t->dirty, cap * sizeof(*grown));
		if (grown == NULL) {
			/* Said with the next change of it, or the next
			 * snapshot. */
			metric_inc(t->m_short);
			return;
		}
		t->dirty = grown;
		t->cap_dirty = cap;
	}
	f->dirty = true;
	t->dirty[t->ndirty++] = f;
}

void
route_tell_changed(struct route_tell *t, struct index_filter *f)
{
	/* A group is counted at the end of the turn, once. */
	if (f->is_group || route_told(f) != wanted(t, f) || f->nsubs == 0)
		touch(t, f);
}

struct batch {
	struct route_tell	*t;
	struct routes_writer	 w;
	uint8_t			*buf;
	size_t			 rows;
	bool			 open, failed;
	bool			 sent;		/* one is, since cleared */
};

static int
batch_begin(struct route_tell *t, struct batch *b)
{
	memset(b, 0, sizeof(*b));
	b->t = t;
	return (b->buf = malloc(ROUTES_BUF)) == NULL ? ERR_NOMEM : 0;
}

static void
batch_open(struct batch *b)
{
	struct route_tell *t = b->t;

	if (b->open)
		return;
	routes_begin(&b->w, b->buf, ROUTES_BUF, t->router_incarnation,
	    ++t->seq, t->snapshot_first);
	b->open = true;
}

static void
batch_send(struct batch *b, bool snapshot_end)
{
	struct route_tell *t = b->t;
	size_t		   len = routes_end(&b->w, snapshot_end);
	int		   rc;

	b->open = false;
	rc = bus_stream_send(t->router, KIND_ROUTES, b->buf, len, NULL);
	if (rc == 0) {
		t->snapshot_first = false;
		b->sent = true;
		return;
	}
	assert(rc != ERR_INVAL);	/* our own batch is too large */
	/* The stream is full: this number was never used. */
	b->failed = true;
	t->seq--;
}

/* Say that f is wanted so much now. */
static void
batch_row(struct batch *b, struct index_filter *f, uint32_t now)
{
	struct route_row row = {
		.filter = { (const uint8_t *)f->text, f->len },
		.qos = 2,
	};
	bool		 add = now > 0;

	if (f->is_group) {
		row.share = (struct slice){ (const uint8_t *)f->share->name,
		    f->share->name_len };
		row.members = now;
	}
	batch_open(b);
	if ((add ? routes_add(&b->w, &row) : routes_del(&b->w, &row)) < 0) {
		batch_send(b, false);
		if (b->failed)
			return;
		batch_open(b);
		(void)(add ? routes_add(&b->w, &row) :
		    routes_del(&b->w, &row));	/* ROUTES_BUF holds any one */
	}
	f->route_seq = (uint32_t)b->t->seq;
	route_told_set(f, now);
}

/* --- A snapshot ----------------------------------------------------------- */

/*
 * All that is in the index is told, in the order of its spots, a page a turn,
 * to a router that knows nothing of us, or not what. `told` of a filter is what
 * the snapshot said of it: it counts below t->at only. From t->far on nothing
 * was said, so there is nothing to take back. Between the two lies, after a
 * batch that found no room, what is told a second time: of that it is not known
 * what was said.
 */
enum {
	PAGE_ROWS	= 1024,		/* filters and groups a turn */
	AHEAD		= 64		/* pages, at most, not yet acknowledged
					 * by the stream */
};

void
route_tell_anew(struct route_tell *t)
{
	t->snapshot = t->snapshot_first = true;
	t->held = false;
	t->at = t->far = 0;
}

static int
page_row(void *ctx, struct index_filter *f)
{
	struct batch	*b = ctx;
	uint32_t	 now = wanted(b->t, f);

	b->rows++;
	if (now > 0)
		batch_row(b, f, now);
	else
		route_told_set(f, 0);
	return b->failed;
}

/* Go on with the snapshot. What of it finds no room is told again, from where
 * the first row that was not sent may lie. */
static void
page(struct route_tell *t, struct batch *b)
{
	uint64_t from = t->at, next;

	b->rows = 0;
	b->sent = false;
	while (t->at < INDEX_END && b->rows < PAGE_ROWS && !b->sent) {
		next = t->at;
		index_page(t->index, &next, page_row, b);
		if (b->sent) {
			from = t->at;
			t->far = MAX(t->far, next);
		}
		if (b->failed)
			goto again;
		t->at = next;
	}
	if (t->at == INDEX_END)
		batch_open(b);
	if (b->open)
		batch_send(b, t->at == INDEX_END);
	if (b->failed)
		goto again;
	t->held = false;
	t->far = MAX(t->far, t->at);
	if (t->at < INDEX_END)
		return;
	t->snapshot = false;
	if (t->hooks->rebase != NULL)
		t->hooks->rebase(t->ctx, t->seq);
	log_debug("routes.snapshot", "filters=%zu seq=%llu",
	    index_nfilters(t->index), (unsigned long long)t->seq);
	return;

again:
	t->at = from;
	t->held = true;
}

/* A router that is slow is not told everything at once: what it has not taken
 * lies in our memory, and changes must find room behind it. */
static bool
page_is_due(const struct route_tell *t)
{
	return t->snapshot && t->router != NULL &&
	    !bus_peer_blocked(t->router) &&
	    bus_peer_sent(t->router) - bus_peer_got(t->router) < AHEAD;
}

bool
route_tell_more(const struct route_tell *t)
{
	return page_is_due(t) && !t->held;
}

/* --- The end of a turn ---------------------------------------------------- */

/* f may have changed. */
static void
change(struct batch *b, struct index_filter *f)
{
	struct route_tell	*t = b->t;
	uint32_t		 now = wanted(t, f);
	uint64_t		 spot;

	if (t->snapshot && (spot = index_spot(t->index, f)) >= t->at) {
		/* It is yet to come. */
		if (spot < t->far && now == 0)
			batch_row(b, f, 0);
		return;
	}
	if (route_told(f) != now)
		batch_row(b, f, now);
}

/* What changed, and what nobody wants any more; then some of the snapshot. */
void
route_tell_flush(struct route_tell *t)
{
	struct index_filter	*f;
	struct batch		 b;
	size_t			 i;
	bool			 tell = t->router != NULL;

	if (t->ndirty == 0 && !page_is_due(t))
		return;
	if (tell && batch_begin(t, &b) < 0) {
		metric_inc(t->m_short);
		return;				/* the next turn tries again */
	}
	for (i = 0; i < t->ndirty; i++) {
		f = t->dirty[i];
		f->dirty = false;
		if (tell && !b.failed)
			change(&b, f);
		if (f->nsubs == 0) {
			if (t->hooks->gone != NULL)
				t->hooks->gone(t->ctx, f);
			index_filter_drop(t->index, f);
		}
	}
	t->ndirty = 0;
	if (t->hooks->flushed != NULL)
		t->hooks->flushed(t->ctx);
	if (!tell)
		return;
	/* Come and gone in one turn: nothing to say, but SUBACKs wait for the
	 * number. */
	if (!b.failed && !t->snapshot && t->hooks->waited != NULL &&
	    t->hooks->waited(t->ctx))
		batch_open(&b);
	if (b.open)
		batch_send(&b, false);
	if (b.failed)
		route_tell_anew(t);	/* what was not said is said with all */
	else if (page_is_due(t))
		page(t, &b);
	free(b.buf);
}

/* The stream to the router has room again. */
void
route_tell_room(struct route_tell *t)
{
	if (t->snapshot)
		route_tell_flush(t);
}

/* --- The router comes and goes ------------------------------------------ */

void
route_tell_router(struct route_tell *t, const struct proc_peer *r)
{
	int rc;

	if (t->router != NULL && (r->state == PROC_DOWN ||
	    r->incarnation != t->router_incarnation)) {
		bus_peer_close(&t->router);
		route_tell_lost(t);
	}
	if (t->router != NULL || r->state == PROC_DOWN || r->incarnation == 0)
		return;
	if ((rc = bus_peer_open(&t->router, t->bus, r->name, r->incarnation,
	    r->endpoint, NULL)) < 0) {
		log_error("peer.open", "peer=%s error=%s", r->name,
		    log_quote(err_str(rc)));
		t->router = NULL;
		return;
	}
	t->router_incarnation = r->incarnation;
	route_tell_anew(t);
	route_tell_flush(t);
}

void
route_tell_up(struct route_tell *t)
{
	struct batch b;

	/* The next number is promised to what changed. */
	route_tell_flush(t);
	/* It has all of our rows, and its answer was lost with a connection:
	 * one more number to answer brings it. */
	if (t->acked < t->seq && !t->snapshot &&
	    bus_peer_got(t->router) == bus_peer_sent(t->router) &&
	    batch_begin(t, &b) == 0) {
		batch_open(&b);
		batch_send(&b, false);
		free(b.buf);
	}
}

void
route_tell_lost(struct route_tell *t)
{
	if (t->router == NULL)
		t->snapshot = false;
}

int
route_tell_ack(struct route_tell *t, const struct bus_frame *f)
{
	RouteAck	 a = RouteAck_init_zero;
	pb_istream_t	 in = pb_istream_from_buffer(f->body, f->len);

	if (!pb_decode(&in, RouteAck_fields, &a))
		return ERR_PROTO;
	if (a.incarnation != t->incarnation ||
	    f->from.incarnation != t->router_incarnation)
		return 0;			/* meant for one before us */
	if (a.resync) {
		route_tell_anew(t);
		route_tell_flush(t);
		return 0;
	}
	if (a.seq > t->acked && a.seq <= t->seq) {
		t->acked = a.seq;
		if (t->hooks->acked != NULL)
			t->hooks->acked(t->ctx);
	}
	return 0;
}

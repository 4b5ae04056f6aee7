/*
 * routes.c: the conversation with the router. We tell it when a filter gains
 * its first subscriber here or loses its last, once a turn; it tells us up to
 * where our rows are in the FIB of every running reader. A new router gets
 * everything (a snapshot). The FIB comes as a segment through the supervisor;
 * a new generation is taken at the start of a turn and confirmed.
 */
#include "listener.h"

#include <assert.h>
#include <pb_decode.h>
#include <pb_encode.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/err.h"
#include "fib/fib.h"
#include "log/log.h"
#include "proto/route.h"
#include "proto/route.pb.h"
#include "shm/segment.h"

struct fib_link {
	struct shm_segment	 data, epochs;
	struct fib_reader	*reader;
	uint64_t		 generation;
};

enum { ROUTES_BUF = BUS_BODY_MAX };
_Static_assert(ROUTES_BUF >= ROUTES_BUF_MIN, "any row fits a batch");

/* --- Rows out ----------------------------------------------------------- */

/* What the router is to know of f: whether it has subscribers, of a group how
 * many. */
static inline uint32_t
wanted(const struct index_filter *f)
{
	return f->is_group ? f->nsubs : f->nsubs > 0;
}

static void
routes_touch(struct listener *l, struct index_filter *f)
{
	struct index_filter	**grown;
	size_t			  cap;

	f->route_seq = l->route_seq + 1;	/* the batch it will be in */
	if (f->dirty)
		return;
	if (l->ndirty_filters == l->cap_dirty_filters) {
		cap = l->cap_dirty_filters == 0 ? 256 :
		    l->cap_dirty_filters * 2;
		grown = realloc(l->dirty_filters, cap * sizeof(*grown));
		if (grown == NULL) {
			/* Said with the next change of it, or the next
			 * snapshot. */
			metric_inc(&m_dropped_memory);
			return;
		}
		l->dirty_filters = grown;
		l->cap_dirty_filters = cap;
	}
	f->dirty = true;
	l->dirty_filters[l->ndirty_filters++] = f;
}

void
routes_changed(struct listener *l, struct index_filter *f)
{
	if (f->told != wanted(f) || f->nsubs == 0)
		routes_touch(l, f);
}

struct batch {
	struct listener		*l;
	struct routes_writer	 w;
	uint8_t			*buf;
	bool			 open, failed;
	bool			 removes;	/* a row, since it was begun */
	bool			 lost;		/* a removal that failed */
};

static int
batch_begin(struct listener *l, struct batch *b)
{
	memset(b, 0, sizeof(*b));
	b->l = l;
	return (b->buf = malloc(ROUTES_BUF)) == NULL ? ERR_NOMEM : 0;
}

static void
batch_open(struct batch *b)
{
	struct listener *l = b->l;

	if (b->open)
		return;
	routes_begin(&b->w, b->buf, ROUTES_BUF, l->router_incarnation,
	    ++l->route_seq, l->snapshot_first);
	b->open = true;
}

static int
not_told(void *ctx, struct index_filter *f)
{
	struct listener *l = ctx;

	if (f->route_seq > l->route_seq)
		f->told = 0;
	return 0;
}

static void
batch_send(struct batch *b, bool snapshot_end)
{
	struct listener	*l = b->l;
	size_t		 len = routes_end(&b->w, snapshot_end);
	int		 rc;

	b->open = false;
	rc = bus_stream_send(l->router, KIND_ROUTES, b->buf, len, NULL);
	if (rc == 0) {
		l->snapshot_first = false;
		b->removes = false;
		return;
	}
	assert(rc != ERR_INVAL);	/* our own batch is too large */
	/* The stream is full: this number was never used. */
	b->failed = true;
	b->lost |= b->removes;
	l->route_seq--;
	index_each(l->index, not_told, l);
}

/* Say how f is now. */
static void
batch_row(struct batch *b, struct index_filter *f)
{
	struct route_row row = {
		.filter = { (const uint8_t *)f->text, f->len },
		.qos = 2,
	};
	bool		 add = f->nsubs > 0;

	if (f->is_group) {
		row.share = (struct slice){ (const uint8_t *)f->share->name,
		    f->share->name_len };
		row.members = f->nsubs;
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
	b->removes |= !add;
	f->route_seq = b->l->route_seq;
	f->told = wanted(f);
}

static int
forget(void *ctx UNUSED, struct index_filter *f)
{
	f->told = 0;
	return 0;
}

/* A router that knows nothing of us: everything is to be told. */
static void
snapshot(struct listener *l)
{
	index_each(l->index, forget, NULL);
	l->snapshot = l->snapshot_first = true;
}

static int
snapshot_row(void *ctx, struct index_filter *f)
{
	struct batch *b = ctx;

	if (f->nsubs > 0 && f->told == 0)
		batch_row(b, f);
	return b->failed;
}

/* Go on with the snapshot, as far as the stream has room: the rest follows
 * when events.credit says so. */
static void
snapshot_more(struct listener *l, struct batch *b)
{
	index_each(l->index, snapshot_row, b);
	if (b->failed)
		return;
	batch_open(b);
	batch_send(b, true);
	if (b->failed)
		return;
	l->snapshot = false;
	subscribe_rebase(l, l->route_seq);
	log_debug("routes.snapshot", "filters=%zu seq=%llu",
	    index_nfilters(l->index), (unsigned long long)l->route_seq);
}

/* At the end of a turn: what changed, and what nobody wants any more. */
void
routes_flush(struct listener *l)
{
	struct index_filter	*f;
	struct batch		 b;
	size_t			 i;
	bool			 tell = l->router != NULL;

	if (l->ndirty_filters == 0 && !(tell && l->snapshot))
		return;
	if (tell && batch_begin(l, &b) < 0) {
		metric_inc(&m_dropped_memory);
		return;				/* the next turn tries again */
	}
	for (i = 0; i < l->ndirty_filters; i++) {
		f = l->dirty_filters[i];
		f->dirty = false;
		if (tell && !b.failed && f->told != wanted(f) &&
		    (f->told > 0 || !l->snapshot))
			batch_row(&b, f);
		if (tell && b.failed) {
			b.lost |= f->nsubs == 0;
			f->told = 0;		/* the snapshot says it */
		}
		if (f->nsubs == 0) {
			if (f->is_group)
				groups_forget(l, f);
			index_filter_drop(l->index, f);
		}
	}
	l->ndirty_filters = 0;
	metric_set(&m_filters, index_nfilters(l->index));
	metric_set(&m_subscriptions, index_nsubs(l->index));
	if (!tell)
		return;
	/* Come and gone in one turn: nothing to say, but SUBACKs wait for the
	 * number. */
	if (!b.failed && l->nsub_waits > 0)
		batch_open(&b);
	if (b.open && !l->snapshot)
		batch_send(&b, false);
	if (!b.failed && l->snapshot)
		snapshot_more(l, &b);
	/* Rows are lost: all again. Those to be added, a snapshot on its way
	 * will still say; those to be removed only a new one does. */
	if (b.failed && (!l->snapshot || b.lost))
		snapshot(l);
	free(b.buf);
}

/* The stream to the router has room again. */
void
routes_room(struct listener *l)
{
	if (l->snapshot)
		routes_flush(l);
}

/* --- The router comes and goes ------------------------------------------ */

static void
confirm(struct listener *l)
{
	FibConfirm	m = FibConfirm_init_zero;
	uint8_t		buf[FibConfirm_size];
	pb_ostream_t	out = pb_ostream_from_buffer(buf, sizeof(buf));

	if (l->router == NULL || l->fib == NULL)
		return;
	m.generation = l->fib->generation;
	if (pb_encode(&out, FibConfirm_fields, &m))
		(void)bus_send(l->router, KIND_FIB_CONFIRM, buf,
		    out.bytes_written);
}

void
routes_router(struct listener *l, const struct proc_peer *r)
{
	int rc;

	if (l->router != NULL && (r->state == PROC_DOWN ||
	    r->incarnation != l->router_incarnation)) {
		bus_peer_close(&l->router);
		routes_lost(l);
	}
	if (l->router != NULL || r->state == PROC_DOWN || r->incarnation == 0)
		return;
	if ((rc = bus_peer_open(&l->router, l->bus, r->name, r->incarnation,
	    r->endpoint, NULL)) < 0) {
		log_error("peer.open", "peer=%s error=%s", r->name,
		    log_quote(err_str(rc)));
		l->router = NULL;
		return;
	}
	l->router_incarnation = r->incarnation;
	snapshot(l);
	routes_flush(l);
}

/* Welcomed (again): it may have missed what we said singly. */
void
routes_up(struct listener *l)
{
	struct batch b;

	confirm(l);
	/* It has all of our rows, and its answer was lost with a connection:
	 * one more number to answer brings it. */
	if (l->route_acked < l->route_seq && !l->snapshot &&
	    bus_peer_got(l->router) == bus_peer_sent(l->router) &&
	    batch_begin(l, &b) == 0) {
		batch_open(&b);
		batch_send(&b, false);
		free(b.buf);
	}
}

void
routes_lost(struct listener *l)
{
	if (l->router == NULL)
		l->snapshot = false;
}

int
on_route_ack(void *ctx, struct bus_frame *f)
{
	struct listener	*l = ctx;
	RouteAck	 a = RouteAck_init_zero;
	pb_istream_t	 in = pb_istream_from_buffer(f->body, f->len);

	if (!pb_decode(&in, RouteAck_fields, &a))
		return ERR_PROTO;
	if (a.incarnation != proc_incarnation(l->proc) ||
	    f->from.incarnation != l->router_incarnation)
		return 0;			/* meant for one before us */
	if (a.resync) {
		snapshot(l);
		routes_flush(l);
		return 0;
	}
	if (a.seq > l->route_acked && a.seq <= l->route_seq) {
		l->route_acked = a.seq;
		subscribe_answer(l);
	}
	return 0;
}

/* --- The FIB ------------------------------------------------------------ */

static void
fib_unlink(struct fib_link **pf)
{
	struct fib_link *f = *pf;

	*pf = NULL;
	if (f == NULL)
		return;
	fib_reader_close(&f->reader);
	shm_close(&f->data);
	shm_close(&f->epochs);
	free(f);
}

static int
map(struct shm_segment *s, int fd, enum shm_mode mode)
{
	int copy, rc;

	if ((copy = dup(fd)) < 0)
		return ERR_IO;
	if ((rc = shm_map(s, copy, mode)) < 0)
		close(copy);
	return rc;
}

void
on_segment(void *ctx, const struct proc_segment *s)
{
	struct listener	*l = ctx;
	struct fib_link	*f;
	int		 rc;

	if (s->kind != PROC_SEGMENT_FIB || s->nfds != 2)
		return;
	if ((l->fib != NULL && s->generation <= l->fib->generation) ||
	    (l->fib_next != NULL && s->generation <= l->fib_next->generation))
		return;
	if ((f = calloc(1, sizeof(*f))) == NULL)
		return;
	f->generation = s->generation;
	f->data.fd = f->epochs.fd = -1;
	if ((rc = map(&f->data, s->fds[0], SHM_PRIVATE_WRITE)) < 0 ||
	    (rc = map(&f->epochs, s->fds[1], SHM_SHARED)) < 0 ||
	    (rc = fib_reader_open(&f->reader, f->data.base, f->data.len,
	    f->epochs.base, f->epochs.len, proc_incarnation(l->proc))) < 0) {
		log_error("fib.refused", "generation=%llu error=%s",
		    (unsigned long long)s->generation,
		    log_quote(err_str(rc)));
		fib_unlink(&f);
		return;
	}
	fib_unlink(&l->fib_next);
	l->fib_next = f;
}

void
routes_turn(struct listener *l)
{
	if (l->fib_next == NULL)
		return;
	fib_unlink(&l->fib);
	l->fib = l->fib_next;
	l->fib_next = NULL;
	log_info("fib.switched", "generation=%llu",
	    (unsigned long long)l->fib->generation);
	confirm(l);
	main_progress(l);
}

/* --- Matching ----------------------------------------------------------- */

/*
 * Answers of the FIB by topic, good as long as its version stands: publishers
 * repeat themselves. What is on its way in one read is looked up together
 * (routes_ahead), which hides the latency of memory behind the other topics.
 */
enum {
	ANSWERS		= 1024,
	ANSWER_TOPIC	= 72,
	ANSWER_DESTS	= 8,
	ANSWER_GROUPS	= 16,
	ANSWER_SLOTS	= 64		/* of all groups together */
};

/* Groups of one answer and their slots, in one piece of memory. */
struct found_groups {
	struct routes_group	*groups;
	struct share_slot	*slots;
	size_t			 ngroups, nslots, cap_groups, cap_slots;
};

struct fib_answer {
	uint64_t	version;
	uint64_t	generation;	/* 0: free */
	struct routes_group *groups;	/* and the slots behind them, or NULL */
	uint16_t	ngroups;
	uint16_t	len;
	uint8_t		ndests;
	uint16_t	dests[ANSWER_DESTS];	/* instances, ourselves not */
	char		topic[ANSWER_TOPIC];
};

static struct fib_answer fib_answers[ANSWERS];
static struct found_groups found_groups;	/* of the last match */

static struct fib_answer *
answer_cell(const struct listener *l, const void *topic, size_t len)
{
	return &fib_answers[XXH3_64bits_withSeed(topic, len, l->seed) %
	    ANSWERS];
}

static bool
answer_fits(const struct listener *l, const struct fib_answer *a,
    const void *topic, size_t len, uint64_t version)
{
	return a->generation == l->fib->generation && a->version == version &&
	    a->len == len && memcmp(a->topic, topic, len) == 0;
}

/* Is this slot a listener that serves? */
static inline bool
is_listener(const struct listener *l, unsigned slot, struct fib_slot *d)
{
	return fib_slot(l->fib->reader, slot, d) == 0 &&
	    d->kind == FIB_LISTENER && d->state == FIB_UP &&
	    d->instance < PEERS_MAX;
}

/* The listeners in m, ourselves not. Returns how many there are, of which at
 * most max are in out. Between fib_enter and fib_leave. */
static size_t
instances_of(const struct listener *l, const struct fib_match *m,
    uint32_t *out, size_t max)
{
	struct fib_slot	d;
	uint64_t	bits;
	size_t		n = 0, i;
	unsigned	slot;

	for (bits = m->slots, i = 0; bits != 0 || i < m->nmore;) {
		if (bits != 0) {
			slot = (unsigned)__builtin_ctzll(bits);
			bits &= bits - 1;
		} else {
			slot = m->more[i++];
		}
		if (!is_listener(l, slot, &d) || d.instance == l->self)
			continue;
		if (n < max)
			out[n] = d.instance;
		n++;
	}
	return n;
}

static bool
groups_room(struct found_groups *g, size_t ngroups, size_t nslots)
{
	void *grown;

	if (ngroups > g->cap_groups) {
		if ((grown = realloc(g->groups, ngroups *
		    sizeof(*g->groups))) == NULL)
			return false;
		g->groups = grown;
		g->cap_groups = ngroups;
	}
	if (nslots > g->cap_slots) {
		if ((grown = realloc(g->slots, nslots *
		    sizeof(*g->slots))) == NULL)
			return false;
		g->slots = grown;
		g->cap_slots = nslots;
	}
	return true;
}

/* The groups in m, ours included, out of the FIB. Between fib_enter and
 * fib_leave. False: not all of them; that is counted here. */
static bool
groups_of(const struct listener *l, const struct fib_match *m,
    struct found_groups *g)
{
	const struct fib_group	*from;
	struct routes_group	*to;
	struct fib_slot		 d;
	size_t			 i, k, nslots = 0;

	g->ngroups = g->nslots = 0;
	for (i = 0; i < m->ngroups; i++)
		nslots += m->groups[i].nslots;
	if (!groups_room(g, m->ngroups, nslots)) {
		metric_inc(&m_dropped_memory);
		return false;
	}
	for (i = 0; i < m->ngroups; i++) {
		from = &m->groups[i];
		to = &g->groups[g->ngroups];
		to->id.hi = from->id_hi;
		to->id.lo = from->id_lo;
		to->slots = g->slots + g->nslots;
		to->nslots = 0;
		for (k = 0; k < from->nslots; k++) {
			if (!is_listener(l, from->slots[k].slot, &d))
				continue;
			to->slots[to->nslots].instance = d.instance;
			to->slots[to->nslots++].members =
			    from->slots[k].members;
		}
		g->nslots += to->nslots;
		g->ngroups += to->nslots > 0;
	}
	if (m->groups_short)
		metric_inc(&m_dropped_memory);
	return !m->groups_short;
}

/* A copy of g in one piece, or NULL. */
static struct routes_group *
groups_copy(const struct found_groups *g)
{
	struct routes_group	*copy;
	struct share_slot	*slots;
	size_t			 i;

	if ((copy = malloc(g->ngroups * sizeof(*copy) +
	    g->nslots * sizeof(*slots))) == NULL)
		return NULL;
	slots = (struct share_slot *)(void *)(copy + g->ngroups);
	memcpy(copy, g->groups, g->ngroups * sizeof(*copy));
	if (g->nslots > 0)
		memcpy(slots, g->slots, g->nslots * sizeof(*slots));
	for (i = 0; i < g->ngroups; i++)
		copy[i].slots = slots + (g->groups[i].slots - g->slots);
	return copy;
}

static void
answer_clear(struct fib_answer *a)
{
	free(a->groups);
	a->groups = NULL;
	a->ngroups = 0;
	a->generation = 0;
}

static void
answer_keep(struct listener *l, const void *topic, size_t len,
    uint64_t version, const uint32_t *dests, size_t n,
    const struct found_groups *g)
{
	struct fib_answer	*a;
	size_t			 i;

	if (len > ANSWER_TOPIC || n > ANSWER_DESTS ||
	    g->ngroups > ANSWER_GROUPS || g->nslots > ANSWER_SLOTS)
		return;
	a = answer_cell(l, topic, len);
	if (UNLIKELY(a->groups != NULL))
		answer_clear(a);
	if (UNLIKELY(g->ngroups > 0)) {
		if ((a->groups = groups_copy(g)) == NULL)
			return;
		a->ngroups = (uint16_t)g->ngroups;
	}
	a->generation = l->fib->generation;
	a->version = version;
	a->len = (uint16_t)len;
	a->ndests = (uint8_t)n;
	for (i = 0; i < n; i++)
		a->dests[i] = (uint16_t)dests[i];
	memcpy(a->topic, topic, len);
}

/* Look up together what the next PUBLISHes in buf will ask for. */
void
routes_ahead(struct listener *l, const uint8_t *buf, size_t len,
    unsigned version)
{
	struct slice		 topics[FIB_BATCH];
	struct fib_match	 found[FIB_BATCH] = { 0 };
	struct mqtt_frame	 f;
	uint32_t		 dests[ANSWER_DESTS];
	uint64_t		 v;
	size_t			 n = 0, i, k, tlen;

	if (l->fib == NULL || l->fib_misses < 2)
		return;
	l->fib_misses = 0;
	v = fib_reader_version(l->fib->reader);
	while (n < FIB_BATCH && mqtt_frame_parse(buf, len, version,
	    l->conf->mqtt_max_packet_size, &f) == 0) {
		buf += f.size;
		len -= f.size;
		if (f.type != MQTT_PUBLISH || f.len < 2)
			continue;
		tlen = get_be16(f.body);
		if (tlen == 0 || tlen > ANSWER_TOPIC || tlen + 2 > f.len ||
		    answer_fits(l, answer_cell(l, f.body + 2, tlen),
		    f.body + 2, tlen, v))
			continue;
		topics[n++] = (struct slice){ f.body + 2, tlen };
	}
	if (n < 2)
		return;
	fib_enter(l->fib->reader);
	fib_match_batch(l->fib->reader, topics, n, found);
	for (i = 0; i < n; i++) {
		if (found[i].groups_short)
			continue;	/* alone it may fit */
		k = instances_of(l, &found[i], dests, ANSWER_DESTS);
		if (groups_of(l, &found[i], &found_groups))
			answer_keep(l, topics[i].data, topics[i].len, v, dests,
			    k, &found_groups);
	}
	if (!fib_leave(l->fib->reader)) {
		metric_inc(&m_fib_evicted);
		for (i = 0; i < n; i++)		/* void, all of it */
			answer_clear(answer_cell(l, topics[i].data,
			    topics[i].len));
	}
}

bool
routes_wanted(struct listener *l, const char *topic, size_t len)
{
	struct index_filter	**found;
	struct routes_found	  r;

	if (index_match(l->index, topic, len, &found) > 0)
		return true;
	if (l->nremote == 0)
		return false;
	routes_match(l, topic, len, &r);
	return r.ndests > 0 || r.ngroups > 0;
}

static void
running(const struct listener *l, struct routes_found *r)
{
	size_t i, k;

	for (i = k = 0; i < r->ndests; i++)
		if (l->peers[r->dests[i]].bus != NULL)
			r->dests[k++] = r->dests[i];
	r->ndests = k;
}

void
routes_match(struct listener *l, const char *topic, size_t len,
    struct routes_found *r)
{
	static uint32_t		 dests[PEERS_MAX];
	const struct fib_answer	*a;
	struct fib_match	 m = { 0 };
	uint64_t		 version;
	size_t			 i;
	bool			 whole;

	r->dests = dests;
	r->ndests = r->ngroups = 0;
	r->groups = NULL;
	if (l->fib == NULL)
		return;
	version = fib_reader_version(l->fib->reader);
	if (len <= ANSWER_TOPIC) {
		a = answer_cell(l, topic, len);
		if (LIKELY(answer_fits(l, a, topic, len, version))) {
			for (i = 0; i < a->ndests; i++)
				dests[i] = a->dests[i];
			r->ndests = a->ndests;
			r->groups = a->groups;
			r->ngroups = a->ngroups;
			running(l, r);
			return;
		}
	}
	l->fib_misses++;
	for (;;) {
		fib_enter(l->fib->reader);
		fib_match(l->fib->reader, topic, len, &m);
		r->ndests = instances_of(l, &m, dests, PEERS_MAX);
		whole = groups_of(l, &m, &found_groups);
		if (fib_leave(l->fib->reader))
			break;
		metric_inc(&m_fib_evicted);
		version = fib_reader_version(l->fib->reader);
	}
	if (whole)
		answer_keep(l, topic, len, version, dests, r->ndests,
		    &found_groups);
	r->groups = found_groups.groups;
	r->ngroups = found_groups.ngroups;
	running(l, r);
}

void
routes_fini(struct listener *l)
{
	size_t i;

	for (i = 0; i < ANSWERS; i++)
		answer_clear(&fib_answers[i]);
	free(found_groups.groups);
	free(found_groups.slots);
	fib_unlink(&l->fib);
	fib_unlink(&l->fib_next);
	free(l->dirty_filters);
	l->dirty_filters = NULL;
}

/*
 * flow.c: streams to the other listeners and the session-stores of the node.
 * What PEERS shows running gets a stream; a message goes once to each of them
 * that the FIB names. The stream to a store outlives it: what that had not
 * stored it gets when it is back.
 */
#include "listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"
#include "proto/attach.h"

static struct {
	struct wire_out	 out;
	uint8_t		*buf;
} attaches;			/* of this turn, for all siblings */

enum { ATTACH_BUF = 2 * ATTACH_BUF_MIN };

/* --- ATTACH: one holder per client id ----------------------------------- */

static int
attach_put(struct wire_out *out, const struct conn *c)
{
	struct attach_client a = {
		.client_id = { (const uint8_t *)c->client_id,
		    c->client_id_len },
		.time = c->attach_ns,
		.clean_start = c->clean_start,
	};

	return attach_add(out, &a);
}

static void
attach_send(struct listener *l, struct bus_peer *only, struct wire_out *out)
{
	size_t	 len = wire_out_len(out);
	uint32_t i;

	if (len == 0)
		return;
	for (i = 0; i < PEERS_MAX; i++) {
		if (l->peers[i].bus == NULL ||
		    (only != NULL && l->peers[i].bus != only))
			continue;
		if (bus_stream_send(l->peers[i].bus, KIND_ATTACH, attaches.buf,
		    len, NULL) < 0)
			log_warn("attach.lost", "peer=%s",
			    bus_peer_name(l->peers[i].bus));
	}
	wire_out_init(out, attaches.buf, ATTACH_BUF);
}

void
flow_attach(struct listener *l, const struct conn *c)
{
	if (l->nremote == 0)
		return;
	if (attach_put(&attaches.out, c) == ERR_FULL) {
		attach_send(l, NULL, &attaches.out);
		(void)attach_put(&attaches.out, c);
	}
}

bool
flow_is_idle(const struct listener *l)
{
	const struct peer	*p;
	size_t			 i;

	if (bus_idle(l->bus))
		return true;
	if (l->tell.router != NULL && !bus_peer_idle(l->tell.router))
		return false;
	for (i = 0; i < PEERS_END; i++) {
		p = &l->peers[i];
		if (p->bus != NULL && !p->down && !bus_peer_idle(p->bus) &&
		    (i < FAR_FROM || bus_peer_ready(p->bus)))
			return false;
	}
	return true;
}

void
flow_flush(struct listener *l)
{
	attach_send(l, NULL, &attaches.out);
	session_flush(l);
}

/* A new sibling hears of everybody whose desk is away. */
static void
attach_all(struct listener *l, struct bus_peer *to)
{
	struct conn	*c;
	size_t		 i;

	attach_send(l, NULL, &attaches.out);
	for (i = 0; l->clients.cells != NULL && i <= l->clients.mask; i++) {
		if ((c = l->clients.cells[i].item) == NULL || !c->alone)
			continue;
		if (attach_put(&attaches.out, c) == ERR_FULL) {
			attach_send(l, to, &attaches.out);
			(void)attach_put(&attaches.out, c);
		}
	}
	attach_send(l, to, &attaches.out);
}

static int
on_attach(void *ctx, struct bus_frame *f)
{
	struct listener		*l = ctx;
	struct attach_client	 a;
	struct wire_in		 in;
	enum proc_kind		 kind;
	uint32_t		 theirs;

	if (proc_name_parse(f->from.name, &kind, &theirs) < 0 ||
	    attach_decode(&in, f->body, f->len) < 0)
		return ERR_PROTO;
	while (attach_next(&in, &a) == 1) {
		/* Who connects here after we heard of this is the later. */
		msgid_witness(&l->ids, a.time + 1);
		connect_taken(l, a.client_id.data, a.client_id.len, a.time,
		    theirs > l->self);
	}
	return 0;
}

/* --- Streams ------------------------------------------------------------ */

static int
on_records(void *ctx, struct bus_frame *f)
{
	struct listener	*l = ctx;
	struct record	 r;

	while (bus_frame_next(f, &r) == 1) {
		publish_record(l, &r, NULL);
		if (l->job.active || turn_is_over(l))
			return ERR_AGAIN;
	}
	return 0;
}

/*
 * A QoS 0 publisher rests for a listener that is short of credit, for a busy
 * one should lose nothing; but not for one that has not moved for a second: it
 * is stopped, and what it has no credit for is dropped.
 */
bool
flow_is_low(const struct listener *l, const struct peer *p)
{
	return p->bus != NULL && l->now_ms - p->moved_ms < STALLED_MS &&
	    bus_peer_credit(p->bus) < (int64_t)(l->conf->bus_credit / 4);
}

static void
on_got(void *ctx, struct bus_peer *bp, uint64_t seq)
{
	struct listener	*l = ctx;
	struct peer	*p = bus_peer_user(bp);

	if (p == NULL)
		return;
	p->moved_ms = l->now_ms;
	if (!p->is_store) {
		answer_got(l, p, seq);
		(void)session_told(l, false);
	}
	if (p->strained && !flow_is_low(l, p)) {
		p->strained = false;
		l->unpark = true;
	}
}

static void
on_stored(void *ctx, struct bus_peer *bp, uint64_t seq)
{
	struct listener	*l = ctx;
	struct peer	*p = bus_peer_user(bp);

	if (p == NULL)
		return;
	if (p >= &l->peers[FAR_FROM])
		answer_got(l, p + 1, seq);
	else if (p->is_store)
		answer_got(l, p, seq);
}

static void
on_credit(void *ctx, struct bus_peer *bp)
{
	struct listener *l = ctx;

	if (bp == l->tell.router)
		route_tell_room(&l->tell);
	else
		l->unpark = true;
}

static void
on_up(void *ctx, struct bus_peer *bp)
{
	struct listener *l = ctx;

	struct peer	*p = bus_peer_user(bp);

	if (bp == l->tell.router)
		routes_up(l);
	else if (p != NULL && p->is_store && p->told != p->incarnation) {
		p->told = p->incarnation;
		session_up(l, p);
	}
}

static void
on_lost(void *ctx, struct bus_peer *bp)
{
	struct listener *l = ctx;

	if (bp == l->tell.router)
		route_tell_lost(&l->tell);
}

static const struct bus_events events = {
	.got	= on_got,
	.stored	= on_stored,
	.credit	= on_credit,
	.up	= on_up,
	.lost	= on_lost,
};

static const struct bus_rule accepts[] = {
	/* kind			from		while	handler */
	{ KIND_RECORDS,		PEER_LISTENER | PEER_STORE | PEER_LINK, 0,
								on_records },
	{ KIND_SERVE,		PEER_STORE,	0,	on_serve },
	{ KIND_ATTACH,		PEER_LISTENER,	0,	on_attach },
	{ KIND_ROUTE_ACK,	PEER_ROUTER,	0,	on_route_ack },
	{ KIND_QUERY,		PEER_TOOL,	0,	on_query },
};

/* Streams to all stores, also to those nobody has seen yet: what is for them
 * waits. */
static int
stores_open(struct listener *l)
{
	char		 name[PROC_NAME_MAX], at[BUS_ENDPOINT_MAX];
	struct peer	*p;
	uint32_t	 i;
	int		 rc;

	for (i = 0; i < l->nstores; i++) {
		p = &l->peers[PEERS_MAX + i];
		p->is_store = p->down = true;
		snprintf(name, sizeof(name), "session_store.%u", i);
		snprintf(at, sizeof(at), "ipc://session_store.%u.none", i);
		if ((rc = bus_peer_open(&p->bus, l->bus, name, 1, at, p)) < 0)
			return rc;
		p->epoch = 1;
		l->nremote++;
	}
	return 0;
}

int
flow_open(struct listener *l)
{
	struct bus_opts o = {
		.loop = l->loop,
		.node = proc_node(l->proc),
		.name = proc_name(l->proc),
		.incarnation = proc_incarnation(l->proc),
		.endpoint = proc_endpoint(l->proc),
		.accepts = accepts,
		.naccepts = NELEM(accepts),
		.events = &events,
		.ctx = l,
		.credit = l->conf->bus_credit,
		.stream_max = l->conf->bus_stream_max,
		.unbound = proc_is_successor(l->proc),
	};
	int rc;

	l->nstores = l->conf->session_store_processes;
	if ((attaches.buf = malloc(ATTACH_BUF)) == NULL)
		return ERR_NOMEM;
	wire_out_init(&attaches.out, attaches.buf, ATTACH_BUF);
	if ((rc = bus_open(&l->bus, &o)) < 0)
		return rc;
	route_fars_init(&l->fars, l->bus, &l->fib,
	    l->conf->cluster_link_processes);
	/* A successor goes on with the streams it is told of. */
	return proc_is_successor(l->proc) ? 0 : stores_open(l);
}

static bool
again(void *ctx, uint64_t seq UNUSED, const struct record *r)
{
	groups_again(ctx, r);
	return true;
}

/* The process behind p is gone, and its clients: what it had for groups goes to
 * other members. */
static void
peer_close(struct listener *l, struct peer *p)
{
	struct bus_peer *dead = p->bus;

	if (dead == NULL)
		return;
	p->bus = NULL;
	p->epoch++;
	l->nremote--;
	bus_peer_unacked(dead, again, l);
	bus_peer_close(&dead);
	answer_lost(l, p);
	p->strained = false;
	l->unpark = true;
}

void
flow_close(struct listener *l)
{
	uint32_t i;

	session_flush(l);
	for (i = 0; i < PEERS_ALL; i++)
		if (l->peers[i].bus != NULL) {
			bus_peer_close(&l->peers[i].bus);
			answer_lost(l, &l->peers[i]);
		}
	far_close(l);
	if (l->tell.router != NULL)
		bus_peer_close(&l->tell.router);
	bus_close(&l->bus);
	free(attaches.buf);
	attaches.buf = NULL;
}

static void
peer_update(struct listener *l, const struct proc_peer *pp)
{
	struct peer	*p = &l->peers[pp->instance];
	int		 rc;

	if (p->bus != NULL && (pp->state == PROC_DOWN ||
	    p->incarnation != pp->incarnation))
		peer_close(l, p);
	if (p->bus != NULL || pp->state == PROC_DOWN || pp->incarnation == 0)
		return;
	if ((rc = bus_peer_open(&p->bus, l->bus, pp->name, pp->incarnation,
	    pp->endpoint, p)) < 0) {
		log_error("peer.open", "peer=%s error=%s", pp->name,
		    log_quote(err_str(rc)));
		p->bus = NULL;
		return;
	}
	p->incarnation = pp->incarnation;
	p->epoch++;
	l->nremote++;
	attach_all(l, p->bus);
}

/* A store that is down is waited for: its stream stays. */
static void
store_update(struct listener *l, const struct proc_peer *pp)
{
	struct peer	*p = &l->peers[PEERS_MAX + pp->instance];
	int		 rc;

	p->down = pp->state == PROC_DOWN || pp->incarnation == 0;
	if (p->down || p->incarnation == pp->incarnation)
		return;
	if ((rc = bus_peer_move(p->bus, pp->incarnation, pp->endpoint,
	    true)) < 0) {
		log_error("peer.open", "peer=%s error=%s", pp->name,
		    log_quote(err_str(rc)));
		return;
	}
	p->incarnation = pp->incarnation;
}

void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	static bool	 seen[PEERS_MAX];
	struct listener	*l = ctx;
	size_t		 i;

	memset(seen, 0, sizeof(seen));
	for (i = 0; i < n; i++) {
		if (peers[i].kind == PROC_ROUTER) {
			route_tell_router(&l->tell, &peers[i]);
		} else if (peers[i].kind == PROC_LISTENER &&
		    peers[i].instance < PEERS_MAX &&
		    peers[i].instance != l->self) {
			seen[peers[i].instance] = true;
			peer_update(l, &peers[i]);
		} else if (peers[i].kind == PROC_SESSION_STORE &&
		    peers[i].instance < l->nstores) {
			store_update(l, &peers[i]);
		} else if (peers[i].kind == PROC_CLUSTER_LINK) {
			route_fars_link(&l->fars, &peers[i]);
		}
	}
	for (i = 0; i < PEERS_MAX; i++)		/* scaled away */
		if (!seen[i])
			peer_close(l, &l->peers[i]);
}

/* --- One message out ---------------------------------------------------- */

/* Another node picks the member, live or durable: both halves of it stand side
 * by side. */
static size_t
add_picked_node(struct routes_found *r, size_t n, uint32_t live)
{
	size_t k;

	for (k = 0; k < n && r->dests[k] != live && r->dests[k] != live + 1;
	    k++)
		;
	if (k == n) {
		r->dests[n++] = live;
		r->dests[n++] = live + 1;
		return n;
	}
	if (r->dests[k] == live && k + 1 < n && r->dests[k + 1] == live + 1)
		return n;
	memmove(&r->dests[k + 1], &r->dests[k], (n - k) * sizeof(*r->dests));
	r->dests[k] = live;
	r->dests[k + 1] = live + 1;
	r->ndests += k < r->ndests;
	return n + 1;
}

/* Append the instances of l->picks that r does not name, behind it. Returns how
 * many there are in all. */
static size_t
add_picked(const struct listener *l, struct routes_found *r)
{
	size_t n = r->ndests, i, k;

	for (i = 0; i < l->npicks; i++) {
		if (l->picks[i].to == l->self)
			continue;
		if (UNLIKELY(l->picks[i].to >= FAR_FROM)) {
			n = add_picked_node(r, n, l->picks[i].to);
			continue;
		}
		for (k = 0; k < n && r->dests[k] != l->picks[i].to; k++)
			;
		if (k == n)
			r->dests[n++] = l->picks[i].to;
	}
	return n;
}

/* The extension for listener `to`: the groups picked there, of those from
 * picks on. */
static struct slice
extension(const struct pick *picks, size_t npicks, uint32_t to)
{
	static uint8_t	buf[PICKS_MAX * (4 + 16)];
	uint8_t		id[16];
	size_t		len = 0, i;

	_Static_assert(sizeof(buf) <= UINT16_MAX, "an extension");
	for (i = 0; i < npicks; i++) {
		if (picks[i].to != to)
			continue;
		put_le64(id, picks[i].id.hi);
		put_le64(id + 8, picks[i].id.lo);
		(void)record_ext_put(buf, sizeof(buf), &len, EXT_GROUP, id,
		    sizeof(id));
	}
	return (struct slice){ buf, len };
}

/* p as a record for at most so many groups. Its payload lies in a blob when it
 * may have to travel apart. */
static int
record_of(struct pub *p, size_t groups, struct record *r)
{
	r->id = p->id;
	r->expiry_s = p->v.expiry_s;
	r->flags = (uint16_t)(p->v.qos | (p->v.retain ? RECORD_RETAIN : 0) |
	    RECORD_LIVE);
	r->ext = (struct slice){ NULL, groups * (4 + 16) };
	r->topic = p->v.topic;
	r->client_id = p->client_id;
	r->properties = p->v.props;
	r->payload = p->v.payload;
	if (record_is_alone(r) && p->blob == NULL && r->payload.len > 0) {
		if ((p->blob = blob_new(r->payload.len)) == NULL)
			return ERR_NOMEM;
		memcpy(p->blob->data, r->payload.data, r->payload.len);
		r->payload.data = p->blob->data;
	}
	r->ext.len = 0;
	return 0;
}

/* What differs from one listener to the next. */
static inline void
address(const struct listener *l, struct record *r, uint32_t to, bool subs)
{
	r->flags &= (uint16_t)~(RECORD_SUBS | RECORD_GROUPS | RECORD_LIVE |
	    RECORD_DURABLE);
	r->flags |= peer_is_durable(to) ? RECORD_DURABLE : RECORD_LIVE;
	if (subs)
		r->flags |= RECORD_SUBS;
	if (LIKELY(l->npicks == 0))
		return;
	r->ext = extension(l->picks, l->npicks, to);
	if (r->ext.len > 0)
		r->flags |= RECORD_GROUPS;
}

static void
trace_forwarded(const struct record *r, const struct peer *peer, uint64_t seq)
{
	metric_inc(&m_publish_forwarded);
	log_debug("publish.forwarded", "id=%016llx%016llx peer=%s "
	    "seq=%llu", (unsigned long long)r->id.hi,
	    (unsigned long long)r->id.lo, bus_peer_name(peer->bus),
	    (unsigned long long)seq);
}

/* Stores keep QoS 1 and 2 alone. */
static void
leave_stores(struct routes_found *r)
{
	size_t i, k;

	for (i = k = 0; i < r->ndests; i++)
		if (!peer_is_durable(r->dests[i]))
			r->dests[k++] = r->dests[i];
	r->ndests = k;
}

int
flow_publish(struct listener *l, struct pub *p, struct routes_found *to,
    struct answer *a, struct peer **blocked)
{
	struct record	 r;
	struct peer	*peer;
	struct wait	*w;
	size_t		 n, i;
	uint64_t	 seq;
	bool		 both;
	int		 rc;

	*blocked = NULL;
	if (p->v.qos == 0)
		leave_stores(to);
	n = LIKELY(l->npicks == 0) ? to->ndests : add_picked(l, to);
	if (n == 0)
		return 0;
	if (record_of(p, l->npicks, &r) < 0)
		return ERR_NOMEM;
	if (p->v.qos > 0)
		for (i = 0; i < n; i++) {
			address(l, &r, to->dests[i], i < to->ndests);
			if (!bus_peer_room(l->peers[to->dests[i]].bus,
			    record_size(&r), p->v.qos)) {
				metric_inc(&m_dropped_stream_full);
				return ERR_FULL;
			}
		}
	w = &a->one;
	if (a->type != 0 && n > 1) {
		if ((a->many = malloc(n * sizeof(*w))) == NULL)
			return ERR_NOMEM;
		w = a->many;
	}
	for (i = 0; i < n; i++) {
		peer = &l->peers[to->dests[i]];
		if (bus_peer_got(peer->bus) == bus_peer_sent(peer->bus))
			peer->moved_ms = l->now_ms;
		address(l, &r, to->dests[i], i < to->ndests);
		/* Both kinds of sessions of a node: one record. */
		both = to->dests[i] >= FAR_FROM && i + 1 < n &&
		    to->dests[i + 1] == to->dests[i] + 1 &&
		    peer_is_durable(to->dests[i + 1]);
		if (UNLIKELY(both))
			r.flags |= RECORD_DURABLE;
		rc = bus_record(peer->bus, &r, p->blob, &seq);
		i += both;
		if (rc < 0) {
			metric_inc(p->v.qos == 0 ? &m_dropped_credit :
			    &m_dropped_stream_full);
			continue;
		}
		trace_forwarded(&r, peer, seq);
		if (p->v.qos > 0) {
			if (bus_peer_blocked(peer->bus))
				*blocked = peer;
		} else if (UNLIKELY(flow_is_low(l, peer))) {
			*blocked = peer;
			peer->strained = true;
		}
		if (a->type == 0)
			continue;
		w[a->nwaits++] = (struct wait){ peer, peer->epoch, seq };
		if (both)
			w[a->nwaits++] = (struct wait){ peer + 1,
			    peer[1].epoch, seq };
	}
	if (a->type != 0 && n > 1 && a->nwaits <= 1) {
		struct wait first = w[0];

		free(a->many);
		if (a->nwaits == 1)
			a->one = first;
	}
	return (int)n;
}

/* Hand p to store s in r, which is filled in. */
static int
to_store(struct listener *l, struct pub *p, struct record *r, struct peer *s,
    struct answer *a)
{
	uint64_t seq;
	int	 rc;

	/* An id of our own: those of a stream rise. */
	if (p->from == NULL)
		r->id = msgid_next(&l->ids);
	if (s->bus == NULL ||
	    !bus_peer_room(s->bus, record_size(r), p->v.qos)) {
		metric_inc(p->v.qos == 0 ? &m_dropped_credit :
		    &m_dropped_stream_full);
		return ERR_FULL;
	}
	if ((rc = bus_record(s->bus, r, p->blob, &seq)) < 0) {
		metric_inc(&m_dropped_memory);
		return rc;
	}
	trace_forwarded(r, s, seq);
	if (a != NULL && a->type != 0) {
		a->one = (struct wait){ s, s->epoch, seq };
		a->nwaits = 1;
	}
	return 0;
}

int
flow_source(struct listener *l, struct pub *p, struct peer *s,
    const struct conn *session, uint16_t id, struct answer *a)
{
	uint8_t		ext[RECORD_EXT_HEADER + 18], value[18];
	struct record	r;
	size_t		len = 0;

	if (record_of(p, 1, &r) < 0)
		return ERR_NOMEM;
	r.flags = (uint16_t)((r.flags & ~RECORD_LIVE) | RECORD_SOURCE);
	if (session != NULL) {
		put_le64(value, session->handle);
		put_le16(value + 8, id);
		put_le64(value + 10, session->serial);
		(void)record_ext_put(ext, sizeof(ext), &len, EXT_INBOUND,
		    value, sizeof(value));
	}
	r.ext = (struct slice){ ext, len };
	return to_store(l, p, &r, s, a);
}

/* since: where p is retained, else NULL. */
static int
give(struct listener *l, struct pub *p, const struct conn *c,
    const struct mqueue_how *how, const uint32_t *since)
{
	size_t		size = RECORD_EXT_HEADER + 10 + 4 * (size_t)how->nids, len = 0;
	uint8_t		once[20];
	uint8_t		*ext, *value;
	struct record	r;
	uint16_t	i;
	int		rc;

	if (size > UINT16_MAX - RECORD_EXT_HEADER - sizeof(once) ||
	    (ext = malloc(2 * size + RECORD_EXT_HEADER +
	    sizeof(once))) == NULL) {
		metric_inc(&m_dropped_memory);
		return ERR_NOMEM;
	}
	value = ext + size + RECORD_EXT_HEADER + sizeof(once);
	put_le64(value, c->handle);
	value[8] = how->qos;
	value[9] = how->retain;
	for (i = 0; i < how->nids; i++)
		put_le32(value + 10 + 4 * i, how->ids[i]);
	(void)record_ext_put(ext, size, &len, EXT_SESSION, value,
	    size - RECORD_EXT_HEADER);
	if (since != NULL) {
		put_le64(once, p->id.hi);
		put_le64(once + 8, p->id.lo);
		put_le32(once + 16, *since);
		(void)record_ext_put(ext, size + RECORD_EXT_HEADER +
		    sizeof(once), &len, EXT_ONCE, once, sizeof(once));
	}
	if ((rc = record_of(p, 3 + how->nids, &r)) == 0) {
		r.flags = (uint16_t)((r.flags & ~(RECORD_LIVE | RECORD_QOS)) |
		    RECORD_DURABLE | how->qos);
		r.ext = (struct slice){ ext, len };
		r.id = msgid_next(&l->ids);
		rc = to_store(l, p, &r, session_shard(l, c->client_id,
		    c->client_id_len), NULL);
	}
	free(ext);
	return rc;
}

int
flow_give(struct listener *l, struct pub *p, const struct conn *c,
    const struct mqueue_how *how)
{
	return give(l, p, c, how, NULL);
}

int
flow_give_retained(struct listener *l, struct pub *p, const struct conn *c,
    const struct mqueue_how *how, uint32_t since)
{
	return give(l, p, c, how, &since);
}

int
flow_pass(struct listener *l, struct pub *p, const struct pick *to,
    unsigned hops)
{
	struct peer	*peer = &l->peers[to->to];
	struct record	 r;
	uint64_t	 seq;
	int		 rc;

	/* An id of our own: those of a stream rise. */
	p->id = msgid_next(&l->ids);
	if ((rc = record_of(p, 1, &r)) < 0)
		return rc;
	if (to->to >= FAR_FROM)
		r.flags |= RECORD_DURABLE;
	else if (peer_is_durable(to->to))
		r.flags ^= RECORD_LIVE | RECORD_DURABLE;
	r.flags |= RECORD_GROUPS;
	r.ext = extension(to, 1, to->to);
	record_set_hops(&r, hops);
	if ((rc = bus_record(peer->bus, &r, p->blob, &seq)) < 0)
		return rc;
	trace_forwarded(&r, peer, seq);
	return 0;
}

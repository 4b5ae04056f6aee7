/*
 * peers.c: streams to the listeners and the other stores of the node, what the
 * router is told, and the forwarding index.
 */
#include "store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"

/* --- Entries for listeners ------------------------------------------------ */

/* Listeners that have something to be flushed. */
static uint32_t	dirty[LISTENERS_MAX];
static size_t	ndirty;

static void
lost(const struct peer *p)
{
	metric_inc(&m_serve_lost);
	log_warn("serve.lost", "peer=%s", bus_peer_name(p->bus));
}

static void
flush_one(struct peer *p)
{
	size_t len = wire_out_len(&p->out);

	if (len == 0)
		return;
	if (p->bus != NULL && bus_stream_send(p->bus, KIND_SERVE, p->buf, len,
	    NULL) < 0)
		lost(p);
	wire_out_init(&p->out, p->buf, p->out.size);
}

void
peer_send(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct peer	*p = &st->peers[listener];
	uint8_t		*grown;
	size_t		 size;

	if (p->bus == NULL)
		return;
	if (!p->dirty) {
		p->dirty = true;
		dirty[ndirty++] = listener;
	}
	while (session_msg_put(&p->out, e) == ERR_FULL) {
		size = p->out.size;
		if (size == OUT_MAX) {
			if (wire_out_len(&p->out) == 0) {
				lost(p);
				return;
			}
			flush_one(p);
			continue;
		}
		size = size == 0 ? OUT_MIN : MIN(size * 2, (size_t)OUT_MAX);
		if ((grown = realloc(p->buf, size)) == NULL) {
			flush_one(p);
			return;
		}
		p->buf = p->out.buf = grown;
		p->out.size = size;
	}
}

void
peer_send_apart(struct store *st, uint32_t listener,
    const struct session_msg *e, const struct slice *payload)
{
	struct peer	*p = &st->peers[listener];
	struct blob	*b;
	struct slice	 at;

	if (p->bus == NULL)
		return;
	flush_one(p);			/* what is before it goes before it */
	peer_send(st, listener, e);
	if ((b = blob_new(payload->len)) == NULL) {
		wire_out_init(&p->out, p->buf, p->out.size);
		return;			/* it is sent again on a reconnect */
	}
	memcpy(b->data, payload->data, payload->len);
	at = (struct slice){ b->data, b->len };
	if (bus_stream_send_payload(p->bus, KIND_SERVE, p->buf,
	    wire_out_len(&p->out), b, &at, NULL) < 0)
		lost(p);
	wire_out_init(&p->out, p->buf, p->out.size);
	blob_unref(&b);
}

void
peer_tell_room(struct store *st, uint32_t listener)
{
	struct session_msg e = {
		.kind = SERVE_ROOM, .what = log_is_full(st),
	};

	peer_send(st, listener, &e);
}

bool
peer_room(const struct store *st, uint32_t listener, size_t n)
{
	const struct peer	*p = &st->peers[listener];
	size_t			 out = wire_out_len(&p->out);

	/* A quarter is for what cannot wait: grants, PUBRELs, answers. What is
	 * in `out` is in the stream soon, which nothing is too big to start. */
	n += out + st->conf->bus_stream_max / 4;
	return p->bus != NULL && bus_peer_room(p->bus, n, 1) &&
	    (out == 0 || n <= st->conf->bus_stream_max);
}

void
peers_flush(struct store *st)
{
	struct peer *p;

	while (ndirty > 0) {
		p = &st->peers[dirty[--ndirty]];
		p->dirty = false;
		flush_one(p);
	}
}

/* --- Who runs ------------------------------------------------------------- */

static void
peer_close(struct store *st, uint32_t i)
{
	struct peer	*p = &st->peers[i];
	struct bus_peer	*dead = p->bus;

	if (dead == NULL)
		return;
	take_forget(st, bus_peer_name(dead), p->incarnation);
	p->bus = NULL;
	p->epoch++;
	bus_peer_unacked(dead, groups_again, st);
	bus_peer_close(&dead);
	free(p->buf);
	p->buf = NULL;
	memset(&p->out, 0, sizeof(p->out));
	p->named = p->roomy = false;
	if (i < LISTENERS_MAX)
		desk_lost(st);
	onward_acked(st);
}

static void
peer_update(struct store *st, const struct proc_peer *pp, uint32_t i)
{
	struct peer	*p = &st->peers[i];
	bool		 is_store = i >= LISTENERS_MAX;
	int		 rc;

	p->ready = pp->state == PROC_READY;
	/* A listener's sessions end with it; a store has a log. */
	if (!is_store && p->bus != NULL && (pp->state == PROC_DOWN ||
	    p->incarnation != pp->incarnation))
		peer_close(st, i);
	if (pp->state == PROC_DOWN || pp->incarnation == 0 ||
	    (p->bus != NULL && p->incarnation == pp->incarnation))
		return;
	if (is_store)
		rc = bus_peer_move(p->bus, pp->incarnation, pp->endpoint, true);
	else if ((rc = bus_peer_open(&p->bus, st->bus, pp->name,
	    pp->incarnation, pp->endpoint, p)) == 0)
		p->epoch++;
	if (rc < 0) {
		log_error("peer.open", "peer=%s error=%s", pp->name,
		    log_quote(err_str(rc)));
		return;
	}
	p->incarnation = pp->incarnation;
	if (!is_store)
		peer_tell_room(st, i);
}

void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	static bool	 seen[LISTENERS_MAX];
	struct store	*st = ctx;
	size_t		 i;

	memset(seen, 0, sizeof(seen));
	st->nlisteners = 0;
	for (i = 0; i < n; i++) {
		if (peers[i].kind == PROC_ROUTER) {
			route_tell_router(&st->tell, &peers[i]);
		} else if (peers[i].kind == PROC_LISTENER &&
		    peers[i].instance < LISTENERS_MAX) {
			seen[peers[i].instance] = true;
			st->nlisteners += peers[i].state != PROC_DOWN;
			peer_update(st, &peers[i], peers[i].instance);
		} else if (peers[i].kind == PROC_SESSION_STORE &&
		    peers[i].instance < st->nshards &&
		    peers[i].instance != st->shard) {
			peer_update(st, &peers[i], LISTENERS_MAX +
			    peers[i].instance);
		} else if (peers[i].kind == PROC_CLUSTER_LINK) {
			route_fars_link(&st->fars, &peers[i]);
		}
	}
	for (i = 0; i < LISTENERS_MAX; i++)		/* scaled away */
		if (!seen[i])
			peer_close(st, (uint32_t)i);
	st->peers_known = true;
	metric_set(&m_listeners, st->nlisteners);
	desk_peers(st);
}

/* --- Bus ------------------------------------------------------------------ */

static void
on_got(void *ctx, struct bus_peer *bp, uint64_t seq UNUSED)
{
	struct store	*st = ctx;
	struct peer	*p = bus_peer_user(bp);

	if (p >= &st->peers[FAR_FROM])
		p++;			/* the durable ones: they are behind */
	if (p != NULL && p->behind != NULL)
		onward_catch_up(ctx, p);
	onward_acked(ctx);
	roster_heard(ctx);
}

static void
on_credit(void *ctx, struct bus_peer *bp)
{
	struct store	*st = ctx;
	struct peer	*p = bus_peer_user(bp);

	if (bp == st->tell.router)
		route_tell_room(&st->tell);
	else if (p != NULL && p < &st->peers[LISTENERS_MAX])
		serve_retry(st, (uint32_t)(p - st->peers));
}

static void
on_up(void *ctx, struct bus_peer *bp)
{
	struct store *st = ctx;

	if (bp == st->tell.router) {
		route_fib_confirm(&st->fib, bp);
		route_tell_up(&st->tell);
	}
}

static void
on_lost(void *ctx, struct bus_peer *bp)
{
	struct store *st = ctx;

	if (bp == st->tell.router)
		route_tell_lost(&st->tell);
}

static const struct bus_events events = {
	.got	= on_got,
	.stored	= on_got,
	.credit	= on_credit,
	.up	= on_up,
	.lost	= on_lost,
};

static int
on_route_ack(void *ctx, struct bus_frame *f)
{
	struct store *st = ctx;

	return route_tell_ack(&st->tell, f);
}

static const struct bus_rule accepts[] = {
	/* kind			from		while	handler */
	{ KIND_RECORDS,		PEER_LISTENER | PEER_STORE | PEER_LINK, 0,
							on_records },
	{ KIND_SESSION,		PEER_LISTENER,	0,	on_session },
	{ KIND_CLAIM,		PEER_ROUTER,	0,	on_claim },
	{ KIND_ROUTE_ACK,	PEER_ROUTER,	0,	on_route_ack },
	{ KIND_QUERY,		PEER_TOOL,	0,	on_query },
};

static void
routes_acked(void *ctx)
{
	serve_routes(ctx);
}

static bool
routes_waited(void *ctx)
{
	struct store *st = ctx;

	return st->subs != NULL;
}

static void
routes_rebase(void *ctx, uint64_t seq)
{
	serve_rebase(ctx, seq);
}

static uint32_t
group_members(void *ctx UNUSED, const struct index_filter *g)
{
	return groups_count(g);
}

static void
filter_gone(void *ctx, struct index_filter *f)
{
	if (f->is_group)
		groups_forget(ctx, f);
}

static const struct route_hooks hooks = {
	.members = group_members,
	.gone	= filter_gone,
	.acked	= routes_acked,
	.waited	= routes_waited,
	.rebase	= routes_rebase,
};

static void
on_filter(void *ctx, struct index_filter *f)
{
	struct store *st = ctx;

	if (f->is_group)
		groups_changed(st, f);
	else
		route_tell_changed(&st->tell, f);
}

/* Streams to the other stores, also to those nobody has seen yet: what is for
 * them waits. */
static int
stores_open(struct store *st)
{
	char		 name[PROC_NAME_MAX], at[BUS_ENDPOINT_MAX];
	struct peer	*p;
	uint32_t	 i;
	int		 rc;

	for (i = 0; i < st->nshards; i++) {
		if (i == st->shard)
			continue;
		p = &st->peers[LISTENERS_MAX + i];
		snprintf(name, sizeof(name), "session_store.%" PRIu32, i);
		snprintf(at, sizeof(at), "ipc://session_store.%" PRIu32 ".none",
		    i);
		if ((rc = bus_peer_open(&p->bus, st->bus, name, 1, at, p)) < 0)
			return rc;
		p->epoch = 1;
	}
	return 0;
}

int
peers_open(struct store *st)
{
	static const struct shard_hooks	 shard_hooks = {
		.pin = checkpoint_pin, .unpin = checkpoint_unpin,
		.filter = on_filter,
	};
	struct bus_opts			 o = {
		.loop = st->loop,
		.node = proc_node(st->proc),
		.name = proc_name(st->proc),
		.incarnation = proc_incarnation(st->proc),
		.endpoint = proc_endpoint(st->proc),
		.accepts = accepts,
		.naccepts = NELEM(accepts),
		.events = &events,
		.ctx = st,
		.credit = st->conf->bus_credit,
		.stream_max = st->conf->bus_stream_max,
	};
	int rc;

	if ((rc = bus_open(&st->bus, &o)) < 0)
		return rc;
	route_fib_init(&st->fib, FIB_STORE, st->shard,
	    proc_incarnation(st->proc), st->seed, &m_fib_evicted,
	    &m_dropped_memory);
	route_tell_init(&st->tell, st->bus, shard_index(st->state),
	    proc_incarnation(st->proc), &hooks, st, &m_dropped_memory);
	shard_set_hooks(st->state, &shard_hooks, st);
	groups_open(st);
	if ((rc = far_open(st)) < 0)
		return rc;
	return stores_open(st);
}

void
peers_close(struct store *st)
{
	uint32_t i;

	far_close(st);
	for (i = 0; i < PEERS_ALL; i++) {
		if (st->peers[i].bus != NULL)
			bus_peer_close(&st->peers[i].bus);
		free(st->peers[i].buf);
		st->peers[i].buf = NULL;
	}
	route_tell_fini(&st->tell);
	groups_close();
	bus_close(&st->bus);
	route_fib_fini(&st->fib);
}

void
on_segment(void *ctx, const struct proc_segment *s)
{
	struct store *st = ctx;

	route_fib_segment(&st->fib, s);
}

void
peers_turn(struct store *st)
{
	if (route_fib_turn(&st->fib)) {
		route_fib_confirm(&st->fib, st->tell.router);
		main_progress(st);
	}
}

/*
 * routes.c: the conversation with the router (lib/route). We tell it when a
 * filter gains its first subscriber here or loses its last, and SUBACKs wait
 * for its answer; what it knows of others comes as the FIB.
 */
#include "listener.h"

#include "base/err.h"
#include "log/log.h"

_Static_assert((int)PEERS_MAX == (int)ROUTE_LISTENERS_MAX, "of a node");

/* --- Rows out ----------------------------------------------------------- */

void
routes_changed(struct listener *l, struct index_filter *f)
{
	if (f->is_group)
		f->share->counted = false;
	route_tell_changed(&l->tell, f);
}

/* At the end of a turn: what changed, and what nobody wants any more. */
void
routes_flush(struct listener *l)
{
	route_tell_flush(&l->tell);
}

static uint32_t
members(void *ctx UNUSED, const struct index_filter *f)
{
	return groups_count(f);
}

static void
on_gone(void *ctx, struct index_filter *f)
{
	if (f->is_group)
		groups_forget(ctx, f);
}

static void
on_flushed(void *ctx)
{
	struct listener *l = ctx;

	metric_set(&m_filters, index_nfilters(l->index));
	metric_set(&m_subscriptions, index_nsubs(l->index));
}

static bool
is_waited(void *ctx)
{
	const struct listener *l = ctx;

	return l->nsub_waits > 0 || l->ncorked > 0;
}

static void
on_rebase(void *ctx, uint64_t seq)
{
	subscribe_rebase(ctx, seq);
	session_rebase(ctx, seq);
}

static void
on_acked(void *ctx)
{
	subscribe_answer(ctx);
	session_routed(ctx);
}

static const struct route_hooks hooks = {
	.members = members,
	.gone = on_gone,
	.flushed = on_flushed,
	.waited = is_waited,
	.rebase = on_rebase,
	.acked = on_acked,
};

void
routes_init(struct listener *l)
{
	uint64_t incarnation = proc_incarnation(l->proc);

	route_tell_init(&l->tell, l->bus, l->index, incarnation, &hooks, l,
	    &m_dropped_memory);
	route_fib_init(&l->fib, FIB_LISTENER, l->self, incarnation, l->seed,
	    &m_fib_evicted, &m_dropped_memory);
}

/* --- The router comes and goes ------------------------------------------ */

/* Welcomed (again): it may have missed what we said singly. */
void
routes_up(struct listener *l)
{
	route_fib_confirm(&l->fib, l->tell.router);
	route_tell_up(&l->tell);
}

int
on_route_ack(void *ctx, struct bus_frame *f)
{
	struct listener *l = ctx;

	return route_tell_ack(&l->tell, f);
}

/* --- The FIB ------------------------------------------------------------ */

void
on_segment(void *ctx, const struct proc_segment *s)
{
	struct listener *l = ctx;

	route_fib_segment(&l->fib, s);
}

void
routes_turn(struct listener *l)
{
	if (!route_fib_turn(&l->fib))
		return;
	route_fib_confirm(&l->fib, l->tell.router);
	main_progress(l);
}

/* Look up together what the next PUBLISHes in buf will ask for. */
void
routes_ahead(struct listener *l, const uint8_t *buf, size_t len,
    unsigned version)
{
	struct slice		 topics[FIB_BATCH];
	struct mqtt_frame	 f;
	uint64_t		 v;
	size_t			 n = 0, tlen;

	if (l->fib.now == NULL || l->fib.misses < 2)
		return;
	l->fib.misses = 0;
	v = fib_reader_version(l->fib.now->reader);
	while (n < FIB_BATCH && mqtt_frame_parse(buf, len, version,
	    l->conf->mqtt_max_packet_size, &f) == 0) {
		buf += f.size;
		len -= f.size;
		if (f.type != MQTT_PUBLISH || f.len < 2)
			continue;
		tlen = get_be16(f.body);
		if (tlen == 0 || tlen > ROUTE_ANSWER_TOPIC ||
		    tlen + 2 > f.len ||
		    route_is_kept(&l->fib, f.body + 2, tlen, v))
			continue;
		topics[n++] = (struct slice){ f.body + 2, tlen };
	}
	if (n >= 2)
		route_match_batch(&l->fib, topics, n);
}

bool
routes_wanted(struct listener *l, const char *topic, size_t len)
{
	static const struct slice nobody = { NULL, 0 };
	struct index_filter	**found;
	struct routes_found	  r;

	if (index_match(l->index, topic, len, &found) > 0)
		return true;
	if (l->nremote == 0)
		return false;
	routes_match(l, topic, len, &nobody, &r);
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
    const struct slice *client, struct routes_found *r)
{
	static uint32_t dests[PEERS_ALL + ROUTE_FAR_MAX];
	static uint16_t	far[ROUTE_FAR_MAX];
	uint64_t	stores;

	r->dests = dests;
	r->far = far;
	route_match(&l->fib, topic, len, r);
	running(l, r);
	/* Those too that are away: they are waited for. */
	for (stores = r->stores; UNLIKELY(stores != 0); stores &= stores - 1)
		r->dests[r->ndests++] = PEERS_MAX +
		    (uint32_t)__builtin_ctzll(stores);
	if (UNLIKELY(r->nfar > 0))
		far_dests(l, client, r);
}

void
routes_fini(struct listener *l)
{
	route_fib_fini(&l->fib);
	route_tell_fini(&l->tell);
}

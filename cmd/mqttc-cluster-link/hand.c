/*
 * hand.c: records of other nodes, handed to those here who may want them. One
 * record came for the whole node; here the index says which listeners and
 * stores it is for, and these match once more, exactly.
 */
#include "link.h"

#include <stdlib.h>
#include <xxhash.h>

#include "base/err.h"
#include "bus/stream.h"
#include "log/log.h"

static uint32_t dests[ROUTE_LISTENERS_MAX];

static struct source *
source_of(struct link_process *l, struct bus_frame *f)
{
	struct source *s = bus_frame_kept(f);

	if (s != NULL)
		return s;
	if ((s = calloc(1, sizeof(*s))) == NULL)
		return NULL;
	s->l = l;
	s->in = f->stream;
	s->origin = stream_origin_new(f->from.name, f->from.node,
	    f->from.incarnation, f->stream->slot);
	s->ledger = ledger_in_new(s);
	if (s->origin == NULL || s->ledger == NULL) {
		stream_origin_unref(&s->origin);
		ledger_in_close(&s->ledger);
		free(s);
		return NULL;
	}
	bus_frame_keep(f, s);
	metric_set(&m_streams, metric_get(&m_streams) + 1);
	return s;
}

void
hand_gone(void *ctx UNUSED, void *user)
{
	struct source *s = user;

	stream_origin_unref(&s->origin);
	ledger_in_close(&s->ledger);
	free(s);
	metric_set(&m_streams, metric_get(&m_streams) - 1);
}

void
hand_news(void *ctx, void *user, uint64_t got, uint64_t got_bytes,
    uint64_t stored)
{
	struct link_process	*l = ctx;
	struct source		*s = user;

	bus_done(l->bus, s->in, got, got_bytes, stored);
}

/* r to one process. */
static int
hand(struct source *s, struct record *r, struct blob *payload, struct peer *p,
    enum ledger_account account)
{
	uint64_t seq;
	int	 rc;

	r->flags &= (uint16_t)~(RECORD_LIVE | RECORD_DURABLE);
	r->flags |= account == LEDGER_LIVE ? RECORD_LIVE : RECORD_DURABLE;
	rc = bus_record_of(p->bus, s->origin, r, payload, &seq);
	if (rc == ERR_FULL && record_qos(r) == 0) {
		metric_inc(&m_dropped_credit);
		return 0;
	}
	if (rc < 0)
		return rc;
	metric_inc(&m_handed);
	return record_qos(r) == 0 ? 0 :
	    ledger_owe(s->ledger, p->owes, seq, account);
}

/* Is it to be retained on this node, too? */
static bool
is_retained(const struct record *r)
{
	struct slice	v;
	size_t		at = 0;
	uint16_t	type;

	while (record_ext_next(r, &at, &type, &v) == 1)
		if (type == EXT_RETAINED && v.len == 16)
			return true;
	return false;
}

/* The store of its topic writes it and is its source here. */
static int
hand_retained(struct link_process *l, struct source *s,
    const struct record *from, struct blob *payload)
{
	struct record	r = *from;

	r.flags |= RECORD_SOURCE;
	return hand(s, &r, payload, &l->peers[STORES_FROM +
	    XXH3_64bits(r.topic.data, r.topic.len) % l->nstores],
	    LEDGER_DURABLE);
}

static int
hand_all(struct link_process *l, struct source *s, const struct record *from,
    struct blob *payload)
{
	struct routes_found	 found = { .dests = dests };
	struct record		 r = *from;
	unsigned		 flags = r.flags;
	uint64_t		 stores;
	struct peer		*p;
	size_t			 i;
	int			 rc;
	bool			 any = false;

	if (UNLIKELY(r.ext.len > 0) && is_retained(&r))
		return hand_retained(l, s, &r, payload);
	if (flags & RECORD_SUBS)
		route_match(&l->fib, (const char *)r.topic.data, r.topic.len,
		    &found);
	for (i = 0; (flags & RECORD_LIVE) && i < found.ndests; i++) {
		p = &l->peers[found.dests[i]];
		if (p->bus == NULL)
			continue;
		any = true;
		if ((rc = hand(s, &r, payload, p, LEDGER_LIVE)) < 0)
			return rc;
	}
	for (stores = found.stores; (flags & RECORD_DURABLE) && stores != 0 &&
	    record_qos(&r) > 0; stores &= stores - 1) {
		p = &l->peers[STORES_FROM + __builtin_ctzll(stores)];
		if (p->bus == NULL)
			continue;
		any = true;
		if ((rc = hand(s, &r, payload, p, LEDGER_DURABLE)) < 0)
			return rc;
	}
	if (!any)
		metric_inc(&m_unwanted);
	return 0;
}

int
on_records(void *ctx, struct bus_frame *f)
{
	struct link_process	*l = ctx;
	struct source		*s = source_of(l, f);
	struct blob		*payload = NULL;
	struct record		 r;
	int			 rc, n;

	/* Without memory it comes again, from where it was. */
	if (s == NULL || l->fib.now == NULL ||
	    ledger_begin(s->ledger, f->seq) < 0)
		return ERR_AGAIN;
	for (n = 0; (rc = bus_frame_next(f, &r)) == 1; n++) {
		metric_inc(&m_records);
		if (record_is_alone(&r) && r.payload.len > 0 &&
		    (payload = blob_new(r.payload.len)) != NULL) {
			memcpy(payload->data, r.payload.data, r.payload.len);
			r.payload.data = payload->data;
		}
		if (hand_all(l, s, &r, payload) < 0) {
			metric_inc(&m_memory);
			log_error("link.lost", "node=%s why=\"out of memory\"",
			    log_quote(f->from.node));
		}
		blob_unref(&payload);
		if (n == TURN_RECORDS)
			return ERR_AGAIN;
	}
	ledger_done(s->ledger, bus_frame_cost(f), hand_news, l);
	return rc;
}

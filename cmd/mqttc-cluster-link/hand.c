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
#include "topic/group.h"

enum { PICKS_MAX = 2048 };	/* groups that get one message */

static uint32_t dests[PEERS_MAX];	/* of the record being handed on */

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

/* --- Groups --------------------------------------------------------------- */

/* A group of the record, and the process here that is to pick its member. */
struct pick {
	struct group_id	id;
	uint32_t	to;		/* in link.peers */
};

static struct pick	picks[PICKS_MAX];
static size_t		npicks;

static uint32_t
weight_of(const struct link_process *l, const struct share_slot *slot,
    unsigned qos, bool away)
{
	if (slot->instance >= ROUTE_FAR_FROM ||
	    l->peers[slot->instance].bus == NULL)
		return 0;
	return group_weight(slot->members, slot->instance >= STORES_FROM, qos,
	    away);
}

/* One with members, at random by how many; UINT32_MAX: there is none. */
static uint32_t
pick_slot(struct link_process *l, const struct routes_group *g, unsigned qos,
    bool away)
{
	uint64_t sum = 0, at;
	uint32_t i;

	for (i = 0; i < g->nslots; i++)
		sum += weight_of(l, &g->slots[i], qos, away);
	if (sum == 0)
		return UINT32_MAX;
	l->random = l->random * UINT64_C(6364136223846793005) +
	    UINT64_C(1442695040888963407);
	at = (l->random >> 32) % sum;
	for (i = 0; at >= weight_of(l, &g->slots[i], qos, away); i++)
		at -= weight_of(l, &g->slots[i], qos, away);
	return g->slots[i].instance;
}

/* Any listener: it finds that it has no member, and looks elsewhere. */
static uint32_t
any_listener(const struct link_process *l)
{
	uint32_t i;

	for (i = 0; i < STORES_FROM; i++)
		if (l->peers[i].bus != NULL)
			return i;
	return UINT32_MAX;
}

static void
pick_all(struct link_process *l, const struct record *r,
    const struct routes_found *found)
{
	struct slice	v;
	struct pick	k;
	size_t		at = 0, i;
	uint16_t	type;

	npicks = 0;
	while (record_ext_next(r, &at, &type, &v) == 1 && npicks < PICKS_MAX) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		k.id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		k.to = UINT32_MAX;
		for (i = 0; i < found->ngroups && k.to == UINT32_MAX; i++) {
			if (!group_id_eq(found->groups[i].id, k.id))
				continue;
			k.to = pick_slot(l, &found->groups[i], record_qos(r),
			    false);
			if (k.to == UINT32_MAX && record_qos(r) > 0)
				k.to = pick_slot(l, &found->groups[i],
				    record_qos(r), true);
		}
		if (k.to == UINT32_MAX)
			k.to = any_listener(l);
		if (k.to != UINT32_MAX)
			picks[npicks++] = k;
	}
}

/* The groups whose member that process picks, as an extension. */
static struct slice
groups_at(uint32_t to)
{
	static uint8_t	buf[PICKS_MAX * (RECORD_EXT_HEADER + 16)];
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

/* --- Handing on ------------------------------------------------------------ */

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

/* Those that may have subscribers: behind each other in dests. */
static size_t
subscribers(const struct link_process *l, struct routes_found *found,
    unsigned flags)
{
	uint64_t stores = found->stores;
	size_t	 i, n = 0;

	if ((flags & RECORD_SUBS) == 0)
		return 0;
	for (i = 0; (flags & RECORD_LIVE) && i < found->ndests; i++)
		if (l->peers[found->dests[i]].bus != NULL)
			found->dests[n++] = found->dests[i];
	for (; (flags & RECORD_DURABLE) && (flags & RECORD_QOS) != 0 &&
	    stores != 0; stores &= stores - 1)
		found->dests[n++] = STORES_FROM +
		    (uint32_t)__builtin_ctzll(stores);
	return n;
}

static int
hand_all(struct link_process *l, struct source *s, const struct record *from,
    struct blob *payload)
{
	struct routes_found	 found = { .dests = dests };
	struct record		 r = *from;
	size_t			 nsubs, n, i, k;
	int			 rc;

	if (UNLIKELY(r.ext.len > 0) && is_retained(&r))
		return hand_retained(l, s, &r, payload);
	route_match(&l->fib, (const char *)r.topic.data, r.topic.len, &found);
	n = nsubs = subscribers(l, &found, r.flags);
	npicks = 0;
	if (UNLIKELY(r.flags & RECORD_GROUPS))
		pick_all(l, &r, &found);
	for (i = 0; i < npicks; i++) {
		for (k = 0; k < n && dests[k] != picks[i].to; k++)
			;
		if (k == n)
			dests[n++] = picks[i].to;
	}
	for (i = 0; i < n; i++) {
		r.flags = (uint16_t)(from->flags & ~(RECORD_SUBS |
		    RECORD_GROUPS));
		r.flags |= i < nsubs ? RECORD_SUBS : 0;
		r.ext = groups_at(dests[i]);
		r.flags |= r.ext.len > 0 ? RECORD_GROUPS : 0;
		if ((rc = hand(s, &r, payload, &l->peers[dests[i]],
		    dests[i] < STORES_FROM ? LEDGER_LIVE :
		    LEDGER_DURABLE)) < 0)
			return rc;
	}
	if (n == 0)
		metric_inc(&m_unwanted);
	return 0;
}

/*
 * What a record has left of its expiry interval is told as of its id, which is a
 * time of its source's clock; here it is made one of ours, so that clocks that
 * differ neither end a message early nor keep it. clock_ms: the source's when
 * the frame left. False: it has nothing left [MQTT-3.3.2-5].
 */
static bool
set_expiry(struct record *r, uint64_t clock_ms, uint64_t now_ms)
{
	uint64_t id_ms = r->id.hi / 1000000, left, end;

	if (r->expiry_s == RECORD_NO_EXPIRY)
		return true;
	end = id_ms + UINT64_C(1000) * r->expiry_s;
	if (clock_ms >= end)
		return false;
	left = end - MAX(clock_ms, id_ms);
	/* As record_deadline_ms() will read it. Between clocks that agree that is
	 * what it was, and the few milliseconds of the way: nobody is told more
	 * than was asked for. */
	if (id_ms <= now_ms)
		left += now_ms - id_ms;
	r->expiry_s = (uint32_t)MIN((left + 500) / 1000,
	    (uint64_t)RECORD_NO_EXPIRY - 1);
	return true;
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
		if (!set_expiry(&r, f->clock / 1000000, l->now_ms)) {
			metric_inc(&m_expired);
			continue;
		}
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

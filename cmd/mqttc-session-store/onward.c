/*
 * onward.c: messages this shard is the source of: retained ones, wills, QoS 2
 * of durable sessions. The log has the message before anybody gets it, and its
 * publisher is answered; from then on we see to it that everybody gets it who wants it: to
 * each process that the index names, on its stream, again after a start, until
 * each has acknowledged. Their ids are ours and rise over all starts, so what
 * comes twice is known by that. Nothing new gets past what a start found: it
 * waits behind it until we know to whom all that goes.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <xxhash.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

enum { DONE_MS = 1000 };		/* how often what is done is noted */

struct due {
	struct peer	*peer;
	uint64_t	 epoch, seq;	/* UINT64_MAX: not sent yet */
};

struct onward {
	struct onward	*next;
	uint64_t	 pos;
	uint32_t	 n;
	bool		 published;	/* false: after a start, not yet */
	bool		 own_due;	/* our own sessions do not have it */
	struct due	 due[];
};

/*
 * One that nobody gets yet: were the log to lose it, its publisher would send it
 * again, and it would be another one. QoS 0 is there for order alone.
 */
struct onward_wait {
	struct onward_wait *next;
	uint64_t	 pos;
	bool		 logged;
	bool		 pass;		/* its topic is another shard's */
	bool		 kept;		/* retained, though not published yet */
	size_t		 size;
	uint8_t		 record[];
};

static uint32_t
instance_of(const struct store *st, const struct peer *p)
{
	return (uint32_t)(p - st->peers);
}

static bool
is_taken(const struct store *st, const struct due *d)
{
	if (d->peer->epoch != d->epoch)
		return true;
	if (d->seq == UINT64_MAX)
		return false;
	if (d->peer->bus == NULL)
		return true;
	return (peer_is_durable(instance_of(st, d->peer)) ?
	    bus_peer_stored(d->peer->bus) : bus_peer_got(d->peer->bus)) >=
	    d->seq;
}

/* Append r to the stream of p. */
static int
append_to(struct store *st, struct peer *p, const struct record *r,
    uint64_t *seq)
{
	struct blob	*b = NULL;
	struct record	 own = *r;
	int		 rc;

	if (instance_of(st, p) < FAR_FROM) {
		own.flags &= (uint16_t)~(RECORD_LIVE | RECORD_DURABLE);
		own.flags |= peer_is_durable(instance_of(st, p)) ?
		    RECORD_DURABLE : RECORD_LIVE;
	}
	if (record_is_alone(&own) && own.payload.len > 0) {
		if ((b = blob_new(own.payload.len)) == NULL)
			return ERR_NOMEM;
		memcpy(b->data, own.payload.data, own.payload.len);
		own.payload.data = b->data;
	}
	rc = bus_record(p->bus, &own, b, seq);
	blob_unref(&b);
	return rc;
}

/* r is for p: noted in d. False: it is lost. A listener without room is waited
 * for before anything is taken; what a store has no room for is in the log, and
 * goes when it has some. */
static bool
send_to(struct store *st, struct peer *p, const struct record *r,
    struct due *d)
{
	bool keeps = instance_of(st, p) >= LISTENERS_MAX && record_qos(r) > 0;

	if (p->bus == NULL)
		return false;
	d->peer = p;
	d->epoch = p->epoch;
	if (p->behind != NULL && keeps)
		d->seq = UINT64_MAX;
	else if (append_to(st, p, r, &d->seq) < 0) {
		d->seq = UINT64_MAX;
		if (!keeps)
			metric_inc(&m_onward_lost);
		return keeps;
	}
	return true;
}

/*
 * r to another node, for those of its sessions that r->flags say; noted in d
 * (two fit). Returns how many. What a stream has no room for goes to all its
 * sessions, when it has: the durable ones are behind then.
 */
static uint32_t
send_far(struct store *st, struct peer *p, const struct record *r,
    struct due *d)
{
	uint64_t	 seq = UINT64_MAX;
	uint32_t	 n = 0;

	if ((p[1].behind != NULL && record_qos(r) > 0) ||
	    append_to(st, p, r, &seq) < 0) {
		if (record_qos(r) == 0) {
			metric_inc(&m_onward_lost);
			return 0;
		}
		d[0] = (struct due){ p + 1, p[1].epoch, UINT64_MAX };
		return 1;
	}
	if (r->flags & RECORD_LIVE)
		d[n++] = (struct due){ p, p->epoch, seq };
	if (r->flags & RECORD_DURABLE)
		d[n++] = (struct due){ p + 1, p[1].epoch, seq };
	return n;
}

static bool
is_ours(const struct store *st, const struct slice *topic)
{
	return XXH3_64bits(topic->data, topic->len) % st->nshards == st->shard;
}

/* --- Retained messages and nodes ------------------------------------------- */

/*
 * What is retained is so on every node: the shard of the topic there gets it
 * with its version, {when, where}, and is the source of it for its node.
 */
static bool
version_of(const struct record *r, uint64_t *hi, uint64_t *lo)
{
	struct slice	v;
	size_t		at = 0;
	uint16_t	type;

	while (record_ext_next(r, &at, &type, &v) == 1)
		if (type == EXT_RETAINED && v.len == 16) {
			*hi = get_le64(v.data);
			*lo = get_le64(v.data + 8);
			return true;
		}
	return false;
}

/* Did another node send it? */
static bool
is_foreign(const struct store *st, const struct record *r)
{
	uint64_t hi, lo;

	return version_of(r, &hi, &lo) && lo != st->node;
}

static void
version_put(uint8_t *buf, size_t size, size_t *len, uint64_t hi, uint64_t lo)
{
	uint8_t v[16];

	put_le64(v, hi);
	put_le64(v + 8, lo);
	(void)record_ext_put(buf, size, len, EXT_RETAINED, v, sizeof(v));
}

/* Later than what it replaces, and than all before it, whatever the clock
 * says. */
static uint64_t
next_version(struct store *st, const struct record *r)
{
	uint64_t hi, lo;

	st->retain_last = MAX(st->retain_last + 1, r->id.hi);
	if (retain_version(st->retain, r->topic.data, r->topic.len, &hi, &lo))
		st->retain_last = MAX(st->retain_last, hi + 1);
	return st->retain_last;
}

/* --- Groups --------------------------------------------------------------- */

enum { PICK_LEN = 28 };

#define PICKED_FAR	(UINT32_MAX - 1)	/* the hash says which node */

static struct group_pick	picks[GROUPS_MAX];

/* The one group that r is for, if it is for one alone. */
static const struct group_id *
only_group(const struct record *r, struct group_id *id)
{
	struct slice	v;
	size_t		at = 0;
	uint16_t	type;

	if (!(r->flags & RECORD_GROUPS))
		return NULL;
	while (record_ext_next(r, &at, &type, &v) == 1)
		if (type == EXT_GROUP && v.len == 16) {
			*id = (struct group_id){ get_le64(v.data),
			    get_le64(v.data + 8) };
			return id;
		}
	*id = (struct group_id){ 0, 0 };	/* nobody's */
	return id;
}

/* Of a retained message of another node: the groups that it left to this one. */
static size_t
pick_named(struct store *st, const struct record *r,
    const struct routes_found *found)
{
	struct group_id	id;
	struct slice	v;
	size_t		n = 0, at = 0;
	uint16_t	type;

	while (record_ext_next(r, &at, &type, &v) == 1 && n < GROUPS_MAX) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		n += groups_pick(st, r, found, &id, true, &picks[n]);
	}
	return n;
}

/* What the log is to know of r: its version, if it is retained here, the group
 * it is for, and what was picked, for
 * whoever may have it must get it again, and nobody else. */
static struct slice
note_picks(struct store *st, const struct record *r, uint64_t version,
    uint64_t node)
{
	static uint8_t		 buf[2 * (RECORD_EXT_HEADER + 16) +
				    GROUPS_MAX * (RECORD_EXT_HEADER + PICK_LEN)];
	static uint32_t		 dests[2 * LISTENERS_MAX];
	struct routes_found	 found = { .dests = dests };
	struct group_id		 id;
	const struct group_id	*only = only_group(r, &id);
	struct slice		 group;
	uint8_t			 v[PICK_LEN];
	uint16_t		 type;
	size_t			 len = 0, n, i, at;
	bool			 foreign;

	_Static_assert(sizeof(buf) <= UINT16_MAX, "an extension");
	if (version != 0)
		version_put(buf, sizeof(buf), &len, version, node);
	if (only != NULL) {
		put_le64(v, id.hi);
		put_le64(v + 8, id.lo);
		(void)record_ext_put(buf, sizeof(buf), &len, EXT_GROUP, v, 16);
	}
	foreign = version != 0 && node != st->node;
	if (record_qos(r) == 0 || !st->onward_open) {
		at = 0;
		while (foreign && record_ext_next(r, &at, &type, &group) == 1)
			if (type == EXT_GROUP)
				(void)record_ext_put(buf, sizeof(buf), &len,
				    EXT_GROUP, group.data, group.len);
		return (struct slice){ buf, len };
	}
	route_match(&st->fib, (const char *)r->topic.data, r->topic.len,
	    &found);
	if (foreign)
		n = pick_named(st, r, &found);
	else
		n = groups_pick(st, r, &found, only, false, picks);
	for (i = 0; i < n; i++) {
		put_le64(v, picks[i].id.hi);
		put_le64(v + 8, picks[i].id.lo);
		put_le32(v + 16, picks[i].to < FAR_FROM ? picks[i].to :
		    PICKED_FAR);
		put_le64(v + 20, picks[i].incarnation);
		(void)record_ext_put(buf, sizeof(buf), &len, EXT_PICK, v,
		    sizeof(v));
	}
	return (struct slice){ buf, len };
}

/* Is that listener another one now? Then what it may have sent of QoS 2 is
 * nobody's, and of QoS 1 somebody's else. */
static bool
is_gone(const struct store *st, const struct group_pick *k)
{
	return k->to < LISTENERS_MAX && (st->peers[k->to].bus == NULL ||
	    st->peers[k->to].incarnation != k->incarnation);
}

/* What was picked for r when the log got it, or else is now: into picks. */
static size_t
picks_of(struct store *st, const struct record *r,
    const struct routes_found *found)
{
	struct group_id		 id;
	struct group_pick	 k;
	struct slice		 v;
	size_t			 n = 0, at = 0;
	uint16_t		 type;
	bool			 any = false;

	while (record_ext_next(r, &at, &type, &v) == 1) {
		if (type != EXT_PICK || v.len != PICK_LEN || n == GROUPS_MAX)
			continue;
		any = true;
		k.id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		k.to = get_le32(v.data + 16);
		k.incarnation = get_le64(v.data + 20);
		if (k.to == PICKED_FAR)
			k.to = far_find(st, k.incarnation, &r->client_id);
		else if (k.to >= LISTENERS_MAX + st->nshards)
			continue;
		if (k.to != UINT32_MAX && !is_gone(st, &k))
			picks[n++] = k;
		else if (record_qos(r) == 1)
			n += groups_pick(st, r, found, &k.id, false,
			    &picks[n]);
	}
	if (any)
		return n;
	return is_foreign(st, r) ? pick_named(st, r, found) :
	    groups_pick(st, r, found, only_group(r, &id), false, picks);
}

/* The groups, of the n in picks, whose copy goes to that process, as an
 * extension. */
static struct slice
groups_of(size_t n, uint32_t to)
{
	static uint8_t	buf[GROUPS_MAX * (RECORD_EXT_HEADER + 16)];
	uint8_t		id[16];
	size_t		len = 0, i;

	for (i = 0; i < n; i++) {
		if (picks[i].to != to)
			continue;
		put_le64(id, picks[i].id.hi);
		put_le64(id + 8, picks[i].id.lo);
		(void)record_ext_put(buf, sizeof(buf), &len, EXT_GROUP, id,
		    sizeof(id));
	}
	return (struct slice){ buf, len };
}

/* --- To other nodes --------------------------------------------------------- */

/* As it goes to another node, whose live sessions are peer `to`. */
static void
address_far(const struct record *r, struct record *out, size_t npicks,
    uint32_t to, uint16_t sessions, bool subs)
{
	static uint8_t	ext[RECORD_EXT_HEADER + 16 +
			    GROUPS_MAX * (RECORD_EXT_HEADER + 16)];
	struct slice	groups = groups_of(npicks, to);
	uint64_t	hi, lo;
	size_t		len = 0;

	*out = *r;
	out->flags = (uint16_t)((r->flags & (RECORD_QOS | RECORD_RETAIN |
	    RECORD_HOPS)) | (subs ? RECORD_SUBS : 0) | sessions |
	    (groups.len > 0 ? RECORD_GROUPS : 0));
	if (version_of(r, &hi, &lo)) {
		version_put(ext, sizeof(ext), &len, hi, lo);
		out->flags &= (uint16_t)~RECORD_LIVE;
		out->flags |= RECORD_DURABLE;
	}
	memcpy(ext + len, groups.data, groups.len);
	out->ext = (struct slice){ ext, len + groups.len };
}

struct to_node {
	struct peer	*p;		/* its live sessions */
	uint16_t	 sessions;
	bool		 subs;
};

static void
to_node(struct to_node *list, size_t *n, struct peer *p, uint16_t sessions,
    bool subs)
{
	size_t i;

	if (p == NULL) {
		metric_inc(&m_onward_lost);
		return;
	}
	for (i = 0; i < *n && list[i].p != p; i++)
		;
	if (i == *n)
		list[(*n)++] = (struct to_node){ p, 0, false };
	list[i].sessions |= sessions;
	list[i].subs |= subs;
}

/* To the other nodes: all of them, or those the index found, or that were
 * picked. */
static uint32_t
publish_far(struct store *st, const struct record *r,
    const struct routes_found *found, size_t npicks, struct due *due)
{
	static struct to_node	 list[ROUTE_FAR_MAX];
	const uint16_t		 both = RECORD_LIVE | RECORD_DURABLE;
	struct record		 out;
	uint64_t		 hi, lo;
	uint32_t		 done = 0;
	size_t			 n = 0, i;

	if (is_foreign(st, r))
		return 0;
	if (version_of(r, &hi, &lo)) {
		far_all(st);
		for (i = 0; i < st->nnodes; i++)
			to_node(list, &n, far_peer(st, st->nodes[i],
			    &r->client_id), both, true);
	} else if (!(r->flags & RECORD_GROUPS)) {
		for (i = 0; i < found->nfar; i++)
			to_node(list, &n, far_peer(st, found->far[i] >> 1,
			    &r->client_id), found->far[i] & 1 ?
			    RECORD_DURABLE : RECORD_LIVE, true);
	}
	for (i = 0; i < npicks; i++)
		if (picks[i].to >= FAR_FROM)
			to_node(list, &n, &st->peers[picks[i].to], both,
			    false);
	for (i = 0; i < n; i++) {
		if (record_qos(r) == 0 && list[i].subs && !version_of(r, &hi,
		    &lo))
			list[i].sessions &= (uint16_t)~RECORD_DURABLE;
		if (list[i].sessions == 0)
			continue;
		address_far(r, &out, npicks, instance_of(st, list[i].p),
		    list[i].sessions, list[i].subs);
		done += send_far(st, list[i].p, &out, &due[done]);
	}
	return done;
}

/* --- To everybody ---------------------------------------------------------- */

/* r as process `to` gets it. */
static void
address(const struct record *r, struct record *out, size_t npicks, uint32_t to,
    bool subs)
{
	out->ext = groups_of(npicks, to);
	out->flags = (uint16_t)((r->flags & (RECORD_QOS | RECORD_RETAIN |
	    RECORD_HOPS)) | (subs ? RECORD_SUBS : 0) |
	    (out->ext.len > 0 ? RECORD_GROUPS : 0));
}

static bool
is_picked(size_t npicks, uint32_t to)
{
	size_t i;

	for (i = 0; i < npicks; i++)
		if (picks[i].to == to)
			return true;
	return false;
}

/* Our own sessions get r. Those behind one that they could not get wait for it:
 * what they had is known by the last. */
static bool
give_own(struct store *st, const struct record *r, bool first)
{
	struct op own = { .source = st->name };

	if (st->nonward_own > 0 && !first)
		return false;
	return take_message(st, r, &own) == 0;
}

/* Everybody's, by the index. Fills due; returns how many. again: our own
 * sessions may have had it. *own_due: they are still to get it. */
static uint32_t
publish(struct store *st, const struct record *r, struct due *due, bool again,
    bool *own_due)
{
	static uint32_t		 dests[2 * LISTENERS_MAX];
	const uint32_t		 self = LISTENERS_MAX + st->shard;
	static uint16_t		 far[ROUTE_FAR_MAX];
	struct routes_found	 found = { .dests = dests, .far = far };
	struct record		 out = *r;
	bool			 all = !(r->flags & RECORD_GROUPS), subs;
	size_t			 nsubs, npicks, i, k;
	uint32_t		 n = 0;

	route_match(&st->fib, (const char *)r->topic.data, r->topic.len, &found);
	npicks = picks_of(st, r, &found);
	if (!all)
		found.ndests = 0;
	nsubs = found.ndests;
	for (i = 0; i < npicks; i++) {
		for (k = 0; k < found.ndests && dests[k] != picks[i].to; k++)
			;
		if (k == found.ndests && picks[i].to < LISTENERS_MAX &&
		    k < NELEM(dests))
			dests[found.ndests++] = picks[i].to;
	}
	for (i = 0; i < found.ndests; i++) {
		address(r, &out, npicks, dests[i], i < nsubs);
		n += send_to(st, &st->peers[dests[i]], &out, &due[n]);
	}
	for (i = 0; record_qos(r) > 0 && i < st->nshards; i++) {
		/* One that is not ready may have rows that nobody knows. */
		subs = all && ((found.stores >> i & 1) ||
		    !st->peers[LISTENERS_MAX + i].ready);
		if (i == st->shard || (!subs &&
		    !is_picked(npicks, LISTENERS_MAX + (uint32_t)i)))
			continue;
		address(r, &out, npicks, LISTENERS_MAX + (uint32_t)i, subs);
		n += send_to(st, &st->peers[LISTENERS_MAX + i], &out, &due[n]);
	}
	n += publish_far(st, r, &found, npicks, &due[n]);
	/* Our own sessions: no stream is needed. */
	address(r, &out, npicks, self, all);
	*own_due = (!again || msgid_cmp(r->id, shard_mark(st->state, &st->name,
	    0)) > 0) && record_qos(r) > 0 && !give_own(st, &out, false);
	return n;
}

/* In order behind the others, with n places; not published yet. */
static struct onward *
append(struct store *st, uint64_t pos, const struct due *due, uint32_t n)
{
	struct onward	*o = malloc(sizeof(*o) + n * sizeof(*due));
	uint32_t	 i;

	if (o == NULL)
		return NULL;
	o->next = NULL;
	o->pos = pos;
	o->n = n;
	o->published = o->own_due = false;
	if (n > 0)
		memcpy(o->due, due, n * sizeof(*due));
	for (i = 0; i < n; i++)
		if (due[i].seq == UINT64_MAX && due[i].peer->behind == NULL)
			due[i].peer->behind = o;
	*st->onward_tail = o;
	st->onward_tail = &o->next;
	metric_set(&m_onward_due, ++st->nonward);
	return o;
}

static struct due scratch[2 * PEERS_ALL + 2 * ROUTE_FAR_MAX];

void
onward_publish(struct store *st, const struct record *r, uint64_t pos,
    bool again)
{
	bool		 own_due;
	uint32_t	 n = publish(st, r, scratch, again, &own_due);
	struct onward	*o;

	metric_inc(again ? &m_again : &m_onward);
	if (record_qos(r) == 0)
		return;
	if ((o = append(st, pos, scratch, n)) == NULL) {
		metric_inc(&m_dropped_memory);
		return;			/* a start publishes it again */
	}
	o->published = true;
	o->own_due = own_due;
	st->nonward_own += own_due;
}

/* A retained message that another shard is to keep: it is its source then. */
static void
pass_on(struct store *st, const struct record *r, uint64_t pos)
{
	struct record	 out = *r;
	struct onward	*o;
	struct due	 d;
	uint32_t	 to = (uint32_t)(XXH3_64bits(r->topic.data,
			    r->topic.len) % st->nshards), n;

	out.flags |= RECORD_SOURCE;
	n = send_to(st, &st->peers[LISTENERS_MAX + to], &out, &d);
	if (record_qos(r) == 0)
		return;
	if ((o = append(st, pos, &d, n)) == NULL) {
		metric_inc(&m_dropped_memory);
		return;
	}
	o->published = true;
}

/* May more be taken? A listener whose stream is full is waited for. */
bool
onward_room(const struct store *st)
{
	uint32_t i;

	for (i = 0; i < LISTENERS_MAX; i++)
		if (st->peers[i].bus != NULL &&
		    !bus_peer_room(st->peers[i].bus, 1 << 20, 1))
			return false;
	return true;
}

/* r is retained when it goes out, or who subscribes between had it twice. again:
 * it may be already, or something newer. */
static void
retain_it(struct store *st, const struct record *r, bool again)
{
	uint64_t hi, lo, version, node;

	if ((r->flags & RECORD_RETAIN) == 0 || !st->conf->mqtt_retain_available)
		return;
	if (!version_of(r, &version, &node)) {	/* the log of an earlier version */
		version = next_version(st, r);
		node = st->node;
	}
	if (again && retain_version(st->retain, r->topic.data, r->topic.len,
	    &hi, &lo) && (hi > version || (hi == version && lo >= node)))
		return;
	/* One of QoS 0 cannot be refused: what was retained stays. */
	if (record_qos(r) == 0 && r->payload.len > 0 && log_is_full(st))
		metric_inc(&m_retained_refused);
	else
		(void)retained_set(st, r, version, node);
}

int
onward_take(struct store *st, struct record *r, const struct op *from)
{
	struct op	 o = *from;
	struct record	 own = *r;
	struct session	*s;
	struct onward_wait *w;
	uint64_t	 hi, lo;
	size_t		 size;
	bool		 retained;
	int		 rc;

	o.kind = STORE_ONWARD;
	if (from->pid != 0) {
		s = shard_session(st->state, from->handle);
		if (s == NULL)
			return 0;
		if (inbound_has(&session_here(s)->inbound, from->pid)) {
			metric_inc(&m_duplicates);
			return 0;
		}
	}
	if (is_foreign(st, r))		/* its groups are beside all else */
		r->flags &= (uint16_t)~RECORD_GROUPS;
	own.id = msgid_next(&st->ids);
	own.expiry_s = record_expiry_left(r, own.id.hi / 1000000);
	own.flags &= (uint16_t)(RECORD_QOS | (r->flags & RECORD_GROUPS ?
	    RECORD_GROUPS | RECORD_HOPS : RECORD_RETAIN));
	retained = (own.flags & RECORD_RETAIN) != 0 &&
	    st->conf->mqtt_retain_available;
	if (version_of(r, &hi, &lo)) {
		own.ext = note_picks(st, r, hi, lo);
		retained = false;
	} else if (retained && !is_ours(st, &own.topic)) {
		own.ext = (struct slice){ NULL, 0 };
	} else {
		own.ext = note_picks(st, r, retained ? next_version(st, &own) :
		    0, st->node);
		retained = false;	/* not passed on */
	}
	if (record_qos(&own) == 0 && !st->onward_open) {
		metric_inc(&m_onward_lost);
		return 0;
	}
	if (record_qos(&own) == 0 && st->onward_waits == NULL) {
		if (retained) {
			pass_on(st, &own, 0);
		} else {
			retain_it(st, &own, false);
			onward_publish(st, &own, 0, false);
		}
		return 0;
	}
	size = record_size(&own);
	if ((w = malloc(sizeof(*w) + size)) == NULL)
		return ERR_NOMEM;
	(void)record_put_whole(w->record, size, &own);
	w->next = NULL;
	w->size = size;
	w->pass = retained;
	w->kept = false;
	w->logged = record_qos(&own) > 0;
	w->pos = st->onward_waits == NULL ? 0 :
	    journal_end(st->journal) - 1;
	if (w->logged) {
		o.record = (struct slice){ w->record, size };
		if ((rc = log_op(st, &o, NULL, &w->pos)) < 0) {
			free(w);
			return rc;
		}
	}
	*st->onward_waits_tail = w;
	st->onward_waits_tail = &w->next;
	st->nonward_waits += w->logged;
	return 0;
}

/* What is safe in the log now goes out. */
static void
publish_safe(struct store *st)
{
	struct onward_wait	*w;
	struct record_iter	 it;
	struct record		 r;

	while ((w = st->onward_waits) != NULL && log_is_safe(st, w->pos + 1)) {
		if ((st->onward_waits = w->next) == NULL)
			st->onward_waits_tail = &st->onward_waits;
		st->nonward_waits -= w->logged;
		record_iter_init(&it, w->record, w->size, NULL, 0, 1);
		if (record_next(&it, &r) == 1) {
			if (w->pass) {
				pass_on(st, &r, w->pos);
			} else {
				if (!w->kept)
					retain_it(st, &r, false);
				onward_publish(st, &r, w->pos, false);
			}
		}
		free(w);
	}
}

/* It cannot go out yet, but its publisher may have heard that it is stored: who
 * subscribes now gets it, and not what it replaced [MQTT-3.3.1-5]. */
static void
keep_safe(struct store *st)
{
	struct onward_wait	*w = st->onward_kept == NULL ?
				    st->onward_waits : st->onward_kept->next;
	struct record_iter	 it;
	struct record		 r;

	for (; w != NULL && log_is_safe(st, w->pos + 1); w = w->next) {
		st->onward_kept = w;
		record_iter_init(&it, w->record, w->size, NULL, 0, 1);
		if (w->pass || record_next(&it, &r) != 1)
			continue;
		retain_it(st, &r, false);
		w->kept = true;
	}
}

/* --- Who was behind ----------------------------------------------- */

/* The message that the log has at pos; *copy, which it lies in, is the caller's
 * to free. */
static int
read_again(struct store *st, uint64_t pos, struct record *r, uint8_t **copy)
{
	struct record_iter	it;
	struct op		op;
	int			rc;

	*copy = NULL;
	if ((rc = log_read(st, pos, &op)) < 0)
		return rc;
	if ((*copy = malloc(op.record.len)) == NULL)
		return ERR_NOMEM;
	memcpy(*copy, op.record.data, op.record.len);
	record_iter_init(&it, *copy, op.record.len, NULL, 0, 1);
	return record_next(&it, r) == 1 ? 0 : ERR_CORRUPT;
}

/* Is it another shard's to keep? */
static bool
is_passed_on(const struct store *st, const struct record *r)
{
	return (r->flags & RECORD_RETAIN) && !is_foreign(st, r) &&
	    !is_ours(st, &r->topic);
}

/* o as the log has it, for that store: what publish() and pass_on() would have
 * sent. The copy is the caller's to free. */
static int
read_for(struct store *st, const struct onward *o, uint32_t to,
    struct record *r, uint8_t **copy)
{
	static uint32_t		 dests[2 * LISTENERS_MAX];
	struct routes_found	 found = { .dests = dests };
	struct record		 out;
	int			 rc;

	if ((rc = read_again(st, o->pos, r, copy)) < 0)
		return rc;
	if (is_passed_on(st, r)) {
		r->flags |= RECORD_SOURCE;
		return 0;
	}
	if (to >= FAR_FROM) {
		to--;			/* the live ones */
		address_far(r, &out, picks_of(st, r, &found), to, RECORD_LIVE |
		    RECORD_DURABLE, !(r->flags & RECORD_GROUPS));
		*r = out;
		return 0;
	}
	out = *r;
	/* Also a store that has no subscriber to it: it finds nobody. */
	address(r, &out, picks_of(st, r, &found), to,
	    !(r->flags & RECORD_GROUPS));
	*r = out;
	return 0;
}

void
onward_catch_up(struct store *st, struct peer *p)
{
	struct onward	*o;
	struct record	 r;
	uint8_t		*copy;
	uint32_t	 i;
	int		 rc;

	for (; (o = p->behind) != NULL && p->bus != NULL; p->behind = o->next)
		for (i = 0; i < o->n; i++) {
			if (o->due[i].peer != p ||
			    o->due[i].seq != UINT64_MAX)
				continue;
			copy = NULL;
			rc = read_for(st, o, instance_of(st, p), &r, &copy);
			if (rc == 0)
				rc = append_to(st, p, &r, &o->due[i].seq);
			free(copy);
			if (rc == ERR_FULL || rc == ERR_NOMEM) {
				o->due[i].seq = UINT64_MAX;
				return;
			}
			if (rc < 0) {
				metric_inc(&m_unreadable);
				o->due[i].seq = 0;
			}
		}
}

/* Our own sessions get what they lack, in order. */
static void
own_again(struct store *st)
{
	struct onward	*o;
	struct record	 r;
	uint8_t		*copy;
	bool		 done = true;
	int		 rc;

	for (o = st->onward_head; o != NULL && st->nonward_own > 0 && done;
	    o = o->next) {
		if (!o->own_due)
			continue;
		copy = NULL;
		rc = read_for(st, o, LISTENERS_MAX + st->shard, &r, &copy);
		if (rc == 0)
			done = give_own(st, &r, true);
		else if (rc == ERR_NOMEM)
			done = false;
		else
			metric_inc(&m_unreadable);
		free(copy);
		if (done) {
			o->own_due = false;
			st->nonward_own--;
		}
	}
}

/* --- What all have -------------------------------------------------------- */

static void
pop(struct store *st)
{
	struct onward *o = st->onward_head;

	if ((st->onward_head = o->next) == NULL)
		st->onward_tail = &st->onward_head;
	free(o);
	metric_set(&m_onward_due, --st->nonward);
}

void
onward_acked(struct store *st)
{
	struct onward	*o;
	uint32_t	 i;

	while ((o = st->onward_head) != NULL && o->published && !o->own_due) {
		for (i = 0; i < o->n; i++)
			if (!is_taken(st, &o->due[i]))
				return;
		st->onward_done = o->pos;
		pop(st);
	}
}

void
onward_tick(struct store *st)
{
	struct op o = { .kind = STORE_ONWARD_DONE };

	if (st->nonward_own > 0 && st->onward_open && log_room(st)) {
		own_again(st);
		onward_acked(st);
	}
	o.pos = st->onward_done;
	if (st->onward_done == st->onward_noted ||
	    (st->nonward > 0 && st->now_ms < st->onward_noted_ms + DONE_MS))
		return;
	if (log_op(st, &o, NULL, NULL) == 0) {
		st->onward_noted = st->onward_done;
		st->onward_noted_ms = st->now_ms;
	}
}

/* --- After a start -------------------------------------------------------- */

void
onward_replay(struct store *st, const struct op *op, uint64_t pos)
{
	struct record_iter	 it;
	struct record		 r;

	/* Ids to come are above all of ours. */
	record_iter_init(&it, op->record.data, op->record.len, NULL, 0, 1);
	if (op->record.len > 0 && record_next(&it, &r) == 1)
		msgid_witness(&st->ids, r.id.hi + 1);
	if (op->kind == STORE_ONWARD_DONE) {
		while (st->onward_head != NULL && st->onward_head->pos <=
		    op->pos)
			pop(st);
		st->onward_done = st->onward_noted = op->pos;
		return;
	}
	if (st->onward_last >= pos)
		return;			/* the checkpoint has it */
	st->onward_last = pos;
	if (append(st, pos, NULL, 0) == NULL)
		fatal(EX_OSERR, "store.nomem", "out of memory");
}

uint64_t
onward_first(const struct store *st)
{
	const struct onward_wait *w = st->onward_waits;

	if (st->onward_head != NULL)
		return st->onward_head->pos;
	while (w != NULL && !w->logged)
		w = w->next;
	return w == NULL ? journal_end(st->journal) : w->pos;
}

/* Our clock, what is done, and the positions of the rest, 8 bytes each. */
size_t
onward_save(const struct store *st, uint8_t *buf)
{
	const struct onward_wait	*w;
	const struct onward		*o;

	if (buf != NULL) {
		put_le64(buf, st->ids.clock);
		put_le64(buf + 8, st->onward_done);
		for (o = st->onward_head, buf += 16; o != NULL; o = o->next,
		    buf += 8)
			put_le64(buf, o->pos);
		for (w = st->onward_waits; w != NULL; w = w->next)
			if (w->logged) {
				put_le64(buf, w->pos);
				buf += 8;
			}
	}
	return 16 + 8 * (st->nonward + st->nonward_waits);
}

int
onward_load(struct store *st, const struct slice *record)
{
	struct op	o = { .kind = STORE_ONWARD };
	size_t		at;

	if (record->len < 16 || record->len % 8 != 0)
		return ERR_PROTO;
	msgid_witness(&st->ids, get_le64(record->data) + 1);
	st->onward_done = st->onward_noted = get_le64(record->data + 8);
	st->onward_last = st->onward_done;
	for (at = 16; at < record->len; at += 8)
		onward_replay(st, &o, get_le64(record->data + at));
	return 0;
}

void
onward_restore(struct store *st)
{
	const struct onward	*o;
	struct record		 r;
	uint8_t			*copy;
	int			 rc;

	for (o = st->onward_head; o != NULL; o = o->next) {
		if ((rc = read_again(st, o->pos, &r, &copy)) == ERR_NOMEM)
			fatal(EX_OSERR, "store.nomem", "out of memory");
		if (rc < 0)
			metric_inc(&m_unreadable);
		else if (!is_passed_on(st, &r))
			retain_it(st, &r, true);
		free(copy);
	}
}

/* Publish again, in order, what was not known to be taken by all. */
static void
publish_again(struct store *st)
{
	struct onward	*list = st->onward_head, *o;
	struct record	 r;
	uint8_t		*copy;

	st->onward_head = NULL;
	st->onward_tail = &st->onward_head;
	st->nonward = 0;
	while ((o = list) != NULL) {
		list = o->next;
		if (read_again(st, o->pos, &r, &copy) == 0) {
			if (is_passed_on(st, &r))
				pass_on(st, &r, o->pos);
			else
				onward_publish(st, &r, o->pos, true);
		}
		free(copy);
		free(o);
	}
}

void
onward_turn(struct store *st)
{
	if (st->onward_open) {
		publish_safe(st);
		onward_acked(st);	/* what nobody wanted is done */
		return;
	}
	if (st->fib.now == NULL || !st->peers_known ||
	    !log_is_safe(st, st->onward_last) || fault_hit("store.onward")) {
		keep_safe(st);
		return;
	}
	st->onward_open = true;
	st->onward_kept = NULL;
	if (st->nonward > 0)
		log_info("store.again", "shard=%" PRIu32 " messages=%zu",
		    st->shard, st->nonward);
	publish_again(st);
	onward_acked(st);
}

void
onward_fini(struct store *st)
{
	struct onward_wait *w;

	while (st->onward_head != NULL)
		pop(st);
	while ((w = st->onward_waits) != NULL) {
		st->onward_waits = w->next;
		free(w);
	}
}

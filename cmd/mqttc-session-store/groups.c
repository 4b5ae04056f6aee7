/*
 * groups.c: shared subscriptions of stored sessions. Messages of QoS 1 and 2
 * for their members come here, one copy for the group, and we choose whose they
 * are: a member that is connected, and if there is none in any process, one that
 * is away. When a member goes, what it had not finished of QoS 1, and was never
 * sent of QoS 2, is given to the rest; what it was sent of QoS 2 never
 * [MQTT-4.8.2-4] [MQTT-4.8.2-5].
 * Spec: MQTT 5.0 section 4.8.2.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"
#include "log/log.h"
#include "share/pick.h"

static struct spread	 groups;	/* of struct index_filter, by id */
static struct session	*leaving;	/* gets nothing more */

/* --- Those that have members here ----------------------------------------- */

static struct index_filter *
find(const struct store *st, struct group_id id)
{
	uint64_t		 h = share_hash(id, st->seed);
	struct index_filter	*g;
	size_t			 i;

	for (i = spread_first(&groups, h);
	    (g = spread_at(&groups, h, &i)) != NULL; i++)
		if (group_id_eq(g->share->id, id))
			return g;
	return NULL;
}

void
groups_changed(struct store *st, struct index_filter *g)
{
	struct index_share *s = g->share;

	if (!s->named && g->nsubs > 0) {
		s->id = group_id_of(s->name, s->name_len, g->text, g->len);
		if (spread_add(&groups, share_hash(s->id, st->seed), g) < 0)
			metric_inc(&m_dropped_memory);
		else
			s->named = true;
	}
	route_tell_changed(&st->tell, g);
}

void
groups_forget(struct store *st, struct index_filter *g)
{
	if (g->share->named)
		spread_del(&groups, share_hash(g->share->id, st->seed), g);
	g->share->named = false;
}

static int
learn(void *ctx, struct index_filter *f)
{
	if (f->is_group)
		groups_changed(ctx, f);
	return 0;
}

void
groups_open(struct store *st)
{
	index_each(shard_index(st->state), learn, st);
}

void
groups_close(void)
{
	spread_fini(&groups);
}

void
groups_connected(struct store *st, struct session *s)
{
	uint32_t i;

	for (i = 0; i < s->subs.n; i++)
		if (s->subs.links[i].filter->is_group)
			groups_changed(st, s->subs.links[i].filter);
}

static inline struct session *
session_of(const struct index_sub *sub)
{
	return CONTAINER_OF(sub->owner, struct session, subs);
}

static inline bool
may_have(const struct index_sub *sub)
{
	const struct session *s = session_of(sub);

	return s->durable && sub->qos > 0 && s != leaving;
}

uint32_t
groups_count(const struct index_filter *g)
{
	size_t		 here = 0, away = 0;
	uint32_t	 i;

	for (i = 0; i < g->nsubs; i++) {
		if (!may_have(&g->subs[i]))
			continue;
		if (session_of(&g->subs[i])->connected)
			here++;
		else
			away++;
	}
	return group_count(here, away);
}

/* --- Who gets it ---------------------------------------------------------- */

static inline enum share_strategy
strategy(const struct store *st)
{
	return (enum share_strategy)st->conf->mqtt_shared_strategy;
}

static uint64_t
next_random(struct store *st)
{
	st->random = st->random * UINT64_C(6364136223846793005) +
	    UINT64_C(1442695040888963407);
	return st->random >> 16;
}

static uint64_t
hash_of(const struct store *st, const struct record *r)
{
	if (strategy(st) == SHARE_HASH_CLIENTID)
		return XXH3_64bits(r->client_id.data, r->client_id.len);
	if (strategy(st) == SHARE_HASH_TOPIC)
		return XXH3_64bits(r->topic.data, r->topic.len);
	return 0;
}

enum { SLOTS_MAX = PEERS_ALL + ROUTE_FAR_MAX };

/* Which of st->peers an instance of a group is, UINT32_MAX: none. */
static uint32_t
place_of(struct store *st, const struct record *r, uint32_t instance)
{
	struct peer *p;

	if (instance < ROUTE_FAR_FROM)
		return instance;
	instance -= ROUTE_FAR_FROM;
	p = far_peer(st, instance >> 1, &r->client_id);
	return p == NULL ? UINT32_MAX : (uint32_t)(p - st->peers) +
	    (instance & 1);
}

/* Which process gets r for g, of this node alone (near) or of any: its number in
 * st->peers, of another node that of its live sessions; UINT32_MAX if nobody
 * has a member, or one that is connected. */
static uint32_t
pick(struct store *st, const struct record *r, const struct routes_group *g,
    bool connected, bool near)
{
	static struct share_slot	 slots[SLOTS_MAX + 1];
	const struct index_filter	*local = find(st, g->id);
	const uint32_t			 self = LISTENERS_MAX + st->shard;
	uint32_t			 own = local == NULL ? 0 :
					    groups_count(local);
	uint64_t			 all;
	bool				 away = false, named;
	size_t				 n, i;

again:
	all = 0;
	named = false;
	for (i = n = 0; i < g->nslots && n < SLOTS_MAX; i++, n++) {
		slots[n] = g->slots[i];
		slots[n].instance = near && slots[n].instance >=
		    ROUTE_FAR_FROM ? UINT32_MAX :
		    place_of(st, r, slots[n].instance);
		if (slots[n].instance == UINT32_MAX) {
			n--;
			continue;
		}
		if (slots[n].instance == self) {
			named = true;
			slots[n].members = own;
		} else if (st->peers[slots[n].instance].bus == NULL) {
			slots[n].members = 0;
		}
		slots[n].members = group_weight(slots[n].members,
		    peer_is_durable(slots[n].instance), record_qos(r), away);
		all += slots[n].members;
	}
	if (!named) {
		slots[n].instance = self;
		slots[n].members = group_weight(own, true, record_qos(r),
		    away);
		all += slots[n++].members;
	}
	if (all == 0 && !away && !connected) {
		away = true;
		goto again;
	}
	i = share_pick_slot(strategy(st), NULL, slots, n, self,
	    hash_of(st, r), next_random(st));
	if (i < n && slots[i].instance >= FAR_FROM)
		return slots[i].instance - ((slots[i].instance - FAR_FROM) & 1);
	return i < n ? slots[i].instance : UINT32_MAX;
}

size_t
groups_pick(struct store *st, const struct record *r,
    const struct routes_found *found, const struct group_id *only, bool near,
    struct group_pick *out)
{
	const struct routes_group	*g;
	size_t				 n = 0, i;

	for (i = 0; i < found->ngroups && n < GROUPS_MAX; i++) {
		g = &found->groups[i];
		if (only != NULL && !group_id_eq(*only, g->id))
			continue;
		out[n].id = g->id;
		out[n].to = pick(st, r, g, false, near);
		out[n].incarnation = out[n].to < LISTENERS_MAX ?
		    st->peers[out[n].to].incarnation :
		    out[n].to < FAR_FROM || out[n].to == UINT32_MAX ? 0 :
		    far_hash(st, out[n].to);
		if (out[n].to != UINT32_MAX)
			n++;
		else
			metric_inc(&m_shared_nobody);
	}
	return n;
}

/* Is its queue as long as it may be? */
static bool
is_full(const struct store *st, const struct session *s)
{
	return s->queued >= st->conf->mqtt_max_offline_queue_len;
}

/* The member of g that gets r, of those that are away or of those that are not;
 * NULL: there is none. */
static const struct index_sub *
member_of(struct store *st, struct index_filter *g, const struct record *r,
    bool away)
{
	const struct index_sub	*s, *got = NULL;
	uint32_t		 at, i;

	at = share_pick_member(strategy(st), g->share->cursor, g->nsubs,
	    hash_of(st, r), next_random(st));
	for (i = 0; i < g->nsubs; i++) {
		s = &g->subs[(at + i) % g->nsubs];
		if (!may_have(s) || session_of(s)->connected == away)
			continue;
		got = got == NULL ? s : got;
		if (!share_may_pass_on(strategy(st)) ||
		    !is_full(st, session_of(s))) {
			got = s;
			break;
		}
	}
	if (got != NULL)
		g->share->cursor = share_next_cursor(strategy(st),
		    (uint32_t)(got - g->subs));
	return got;
}

/* Has that group a member anywhere (that is connected), as far as the index
 * knows? */
static bool
has_member(struct store *st, const struct record *r, struct group_id id,
    bool connected)
{
	static uint32_t		 dests[2 * LISTENERS_MAX];
	struct routes_found	 found = { .dests = dests };
	size_t			 i;

	route_match(&st->fib, (const char *)r->topic.data, r->topic.len,
	    &found);
	for (i = 0; i < found.ngroups; i++)
		if (group_id_eq(found.groups[i].id, id))
			return pick(st, r, &found.groups[i], connected,
			    false) != UINT32_MAX;
	return false;
}

/* r again, from us, for the group alone: its last member here has just gone. */
static int
give_anew(struct store *st, const struct record *r, const struct slice *id,
    const struct op *from)
{
	uint8_t		 ext[RECORD_EXT_HEADER + 16];
	struct record	 one = *r;
	struct op	 o = *from;
	size_t		 len = 0;
	unsigned	 hops = record_hops(r) + 1;

	if (hops > RECORD_HOPS_MAX) {
		metric_inc(&m_shared_nobody);
		return 0;
	}
	(void)record_ext_put(ext, sizeof(ext), &len, EXT_GROUP, id->data, 16);
	one.ext = (struct slice){ ext, len };
	one.flags = (uint16_t)((r->flags & RECORD_QOS) | RECORD_GROUPS);
	record_set_hops(&one, hops);
	o.id = r->id;
	return onward_take(st, &one, &o);
}

int
groups_targets(struct store *st, const struct record *r, const struct op *from,
    struct store_target **targets, int n)
{
	static struct store_target	*all;
	static uint32_t			 ids[GROUPS_MAX];
	static size_t			 cap;
	const struct index_sub		*s;
	struct store_target		*grown;
	struct index_filter		*g;
	struct slice			 v;
	struct group_id			 id;
	uint16_t			 type;
	size_t				 at = 0, k = 0, want;

	while (record_ext_next(r, &at, &type, &v) == 1 && k < GROUPS_MAX) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		s = NULL;
		if ((g = find(st, id)) != NULL)
			s = member_of(st, g, r, false);
		/* Whoever picked us thought that one was connected. */
		if (s == NULL && g != NULL && (record_hops(r) ==
		    RECORD_HOPS_MAX || !has_member(st, r, id, true)))
			s = member_of(st, g, r, true);
		if (s == NULL) {
			if (give_anew(st, r, &v, from) < 0)
				metric_inc(&m_onward_lost);
			continue;
		}
		want = (size_t)n + 1;
		if (want > cap) {
			want = MAX(want, cap * 2);
			if ((grown = realloc(all, want * sizeof(*all))) == NULL)
				return ERR_NOMEM;
			all = grown;
			cap = want;
		}
		if (k == 0 && n > 0)
			memcpy(all, *targets, (size_t)n * sizeof(*all));
		*targets = all;
		ids[k] = s->id;
		all[n++] = (struct store_target){
			.session = session_of(s),
			.group = id.lo,
			.ids = &ids[k],
			.nids = s->id != 0,
			.qos = (uint8_t)MIN((unsigned)s->qos, record_qos(r)),
			.retain = s->rap && (r->flags & RECORD_RETAIN),
		};
		k++;
	}
	return n;
}

/* --- Who goes ------------------------------------------------------------- */

/* The group of an entry of s, if s still belongs to it. */
static const struct index_share *
group_of(const struct session *s, uint64_t lo)
{
	const struct index_filter	*f;
	uint32_t			 i;

	for (i = 0; i < s->subs.n; i++) {
		f = s->subs.links[i].filter;
		if (f->is_group && f->share->named && f->share->id.lo == lo)
			return f->share;
	}
	return NULL;
}

/* The entry of s at offset goes to another member. 0 also if there is none. */
static int
give_back(struct store *st, struct session *s, uint64_t offset,
    const struct index_share *g)
{
	struct op		 op, from = {
		.handle = s->handle, .offset = offset, .back = true,
	};
	const struct entry	*en = session_entry(s, offset);
	uint64_t		 deadline_ms = en->body->deadline_ms;
	uint8_t			 qos = en->qos, id[16], ext[64], *copy = NULL;
	struct record_iter	 it;
	struct record		 r;
	size_t			 len = 0;
	int			 rc = 0;

	if (expiry_left(deadline_ms, st->now_ms) == 0)
		return 0;			/* it goes when it is looked at */
	if (log_read(st, en->body->pos, &op) < 0 ||
	    (copy = malloc(op.record.len)) == NULL)
		return 0;
	memcpy(copy, op.record.data, op.record.len);
	record_iter_init(&it, copy, op.record.len, NULL, 0, 1);
	if (record_next(&it, &r) != 1)
		goto out;
	if (!has_member(st, &r, g->id, leaving == NULL))
		goto out;
	put_le64(id, g->id.hi);
	put_le64(id + 8, g->id.lo);
	(void)record_ext_put(ext, sizeof(ext), &len, EXT_GROUP, id, 16);
	r.ext = (struct slice){ ext, len };
	r.flags = (uint16_t)(qos | RECORD_GROUPS);
	r.expiry_s = expiry_left(deadline_ms, st->now_ms);
	r.id = (struct msgid){ 0, 0 };	/* ... from now on */
	if ((rc = onward_take(st, &r, &from)) == 0)
		metric_inc(&m_shared_redispatched);
out:
	free(copy);
	return rc;
}

int
groups_leave(struct store *st, struct session *s, bool ends)
{
	const struct index_share	*g = NULL;
	const struct entry		*en;
	uint64_t			 at;
	int				 rc = 0;

	if (s->queue == NULL)
		return 0;
	if (log_is_full(st))		/* it stays its own, for now */
		return ends ? ERR_FULL : 0;
	leaving = ends ? s : NULL;
	for (at = session_next(s, s->base); at < s->next && rc == 0;
	    at = session_next(s, at + 1)) {
		en = session_entry(s, at);
		if (en->group == 0 || en->state != ENTRY_WAITS ||
		    (en->qos == 2 && at < s->sent))
			continue;
		if (g == NULL || g->id.lo != en->group)
			g = group_of(s, en->group);
		if (g != NULL)
			rc = give_back(st, s, at, g);
	}
	leaving = NULL;
	return rc;
}

bool
groups_again(void *ctx, uint64_t seq, const struct record *r)
{
	const struct op	 none = { .handle = 0 };
	struct store	*st = ctx;
	struct slice	 v;
	size_t		 at = 0;
	uint16_t	 type;

	(void)seq;
	if (!(r->flags & RECORD_GROUPS) || record_qos(r) != 1)
		return true;
	while (record_ext_next(r, &at, &type, &v) == 1) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		if (give_anew(st, r, &v, &none) < 0)
			metric_inc(&m_onward_lost);
		else
			metric_inc(&m_shared_redispatched);
	}
	return true;
}

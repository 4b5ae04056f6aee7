/*
 * groups.c: shared subscriptions. Where a message comes from, one process that
 * has members of the group is picked, and named in the record by the group's
 * id; that one picks the member, or passes the record on when its last member
 * has just left. What a member was sent with QoS 1 is kept until it answers: if
 * it goes before, another one gets it. QoS 2 that was sent is never given to
 * anybody else [MQTT-4.8.2-5]. To a session that is stored its store gives QoS 1
 * and 2: for those we do not count it, the store does (group_count()).
 * Spec: MQTT 5.0 section 4.8.2.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"
#include "topic/filter.h"

enum {
	ASKED_MAX = 64,		/* members asked whether they have room */
	FULL_HOPS_MAX = 2	/* listeners that may pass it on for want of it */
};

/* --- Groups that have members here ---------------------------------------- */

static struct index_filter *
find(const struct listener *l, struct group_id id)
{
	uint64_t		 h = share_hash(id, l->seed);
	struct index_filter	*g;
	size_t			 i;

	for (i = htab_first(&l->groups, h);
	    (g = htab_at(&l->groups, h, &i)) != NULL; i++)
		if (group_id_eq(g->share->id, id))
			return g;
	return NULL;
}

int
groups_learn(struct listener *l, struct index_filter *g)
{
	struct index_share *s = g->share;

	if (s->named)
		return 0;
	s->id = group_id_of(s->name, s->name_len, g->text, g->len);
	if (htab_add(&l->groups, share_hash(s->id, l->seed), g) < 0)
		return ERR_NOMEM;
	s->named = true;
	return 0;
}

void
groups_forget(struct listener *l, struct index_filter *g)
{
	if (g->share->named)
		htab_del(&l->groups, share_hash(g->share->id, l->seed), g);
	g->share->named = false;
}

/* Does its store give s what is of QoS 1 and 2? */
static inline bool
is_stored(const struct index_sub *s)
{
	return s->qos > 0 && conn_of(s->owner)->handle != 0;
}

/* How many of the members of g here. */
static uint32_t
stored_of(const struct index_filter *g)
{
	struct index_share	*s = g->share;
	uint32_t		 i;

	if (!s->counted) {
		s->nstored = 0;
		for (i = 0; i < g->nsubs; i++)
			s->nstored += is_stored(&g->subs[i]);
		s->counted = true;
	}
	return s->nstored;
}

/* How many may get p here. */
static uint32_t
members_for(const struct pub *p, const struct index_filter *g)
{
	return g == NULL ? 0 : p->v.qos == 0 ? g->nsubs :
	    g->nsubs - stored_of(g);
}

uint32_t
groups_count(const struct index_filter *g)
{
	return group_count(g->nsubs, stored_of(g));
}

/* --- Picking --------------------------------------------------------------- */

static inline enum share_strategy
strategy(const struct listener *l)
{
	return (enum share_strategy)l->conf->mqtt_shared_strategy;
}

static uint64_t
next_random(struct listener *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random * UINT64_C(0x2545f4914f6cdd1d);
}

/* What the strategy goes by: the same in every process. */
static uint64_t
hash_of(const struct listener *l, const struct pub *p)
{
	if (strategy(l) == SHARE_HASH_CLIENTID)
		return XXH3_64bits(p->client_id.data, p->client_id.len);
	if (strategy(l) == SHARE_HASH_TOPIC)
		return XXH3_64bits(p->v.topic.data, p->v.topic.len);
	return 0;
}

/* How the member s gets p; its identifier goes to *id. */
static struct mqueue_how
how_of(const struct pub *p, const struct index_filter *g,
    const struct index_sub *s, uint32_t *id)
{
	*id = s->id;
	return (struct mqueue_how){
		.ids = id,
		.nids = s->id != 0,
		.qos = (uint8_t)MIN((unsigned)p->v.qos, (unsigned)s->qos),
		.retain = s->rap && p->v.retain,
		.group = &g->share->id,
	};
}

/* Would p be dropped if s got it? */
static bool
takes(struct listener *l, const struct pub *p, const struct index_filter *g,
    const struct index_sub *s)
{
	struct conn		*c = conn_of(s->owner);
	uint32_t		 id;
	struct mqueue_how	 how = how_of(p, g, s, &id);

	/* Too large is for ever; full is what may happen to who goes by habit
	 * or hash. */
	return !deliver_is_too_large(p, c, &how) &&
	    (!share_may_pass_on(strategy(l)) ||
	    deliver_has_room(l, p, c, &how));
}

/* The member of g that gets p: one that would not drop it; or, if any will do,
 * one that would. NULL if there is none. */
static const struct index_sub *
member_of(struct listener *l, const struct pub *p, struct index_filter *g,
    bool any)
{
	enum share_strategy	 how = strategy(l);
	const struct index_sub	*s, *got = NULL;
	uint32_t		 at, i, asked = 0;

	if (members_for(p, g) == 0)
		return NULL;
	at = share_pick_member(how, g->share->cursor, g->nsubs, hash_of(l, p),
	    next_random(l));
	for (i = 0; i < g->nsubs && asked <= ASKED_MAX; i++) {
		s = &g->subs[(at + i) % g->nsubs];
		if (conn_of(s->owner)->state != CONN_OPEN ||
		    (p->v.qos > 0 && is_stored(s)))
			continue;
		if (any && got == NULL)
			got = s;
		if (takes(l, p, g, s)) {
			got = s;
			break;
		}
		asked++;
	}
	if (got != NULL)
		g->share->cursor = share_next_cursor(how,
		    (uint32_t)(got - g->subs));
	return got;
}

/* Is there room for p on the way to listener i, or no way to go? */
static bool
is_open_to(const struct listener *l, const struct pub *p, uint32_t i)
{
	const struct bus_peer	*bus = l->peers[i].bus;
	size_t			 size = RECORD_HEADER + 4 + 16 +
	    p->v.topic.len + p->client_id.len + p->v.props.len +
	    p->v.payload.len;

	return i == l->self || (!bus_peer_blocked(bus) &&
	    bus_peer_room(bus, size, p->v.qos));
}

static inline bool
is_store(uint32_t instance)
{
	return peer_is_durable(instance);
}

/* Rather to one that takes more than to one that takes nothing now, be it
 * stopped or busy. */
static void
leave_out_blocked(const struct listener *l, const struct pub *p,
    struct share_slot *slots, size_t n)
{
	bool	able = false, unable = false;
	size_t	i;

	for (i = 0; i < n; i++) {
		if (slots[i].members == 0)
			continue;
		if (is_open_to(l, p, slots[i].instance))
			able = true;
		else
			unable = true;
	}
	for (i = 0; i < n && able && unable; i++)
		if (slots[i].members > 0 &&
		    !is_open_to(l, p, slots[i].instance))
			slots[i].members = 0;
}

enum { SLOTS_MAX = PEERS_ALL + ROUTE_FAR_MAX };

#define NOWHERE	UINT32_MAX

/* Which peer an instance of a group is, for p. */
static inline uint32_t
place_of(struct listener *l, const struct pub *p, uint32_t instance)
{
	uint32_t at;

	if (LIKELY(instance < ROUTE_FAR_FROM))
		return instance;
	instance -= ROUTE_FAR_FROM;
	at = far_instance(l, instance >> 1, instance & 1, &p->client_id);
	return at == 0 ? NOWHERE : at;
}

/*
 * Who gets p for a group that has members in the slots of `far` (NULL: in none
 * we know of) and, if local is not NULL, here. -1: nobody. What the FIB says of
 * us is not asked: we know better.
 */
static int64_t
pick(struct listener *l, const struct pub *p, const struct routes_group *far,
    struct index_filter *local)
{
	static struct share_slot slots[SLOTS_MAX + 1];
	enum share_strategy	 how = strategy(l);
	struct group_id		 id = far != NULL ? far->id : local->share->id;
	uint32_t		 here = members_for(p, local);
	uint64_t		 others = 0, random;
	bool			 named = false, away = false;
	size_t			 n, i;

again:
	for (i = n = 0; far != NULL && i < far->nslots && n < SLOTS_MAX; i++) {
		slots[n].instance = place_of(l, p, far->slots[i].instance);
		if (slots[n].instance == NOWHERE)
			continue;
		slots[n].members = group_weight(far->slots[i].members,
		    is_store(slots[n].instance), p->v.qos, away);
		if (slots[n].instance == l->self) {
			named = true;
			slots[n].members = here;
		} else if (l->peers[slots[n].instance].bus == NULL) {
			slots[n].members = 0;
		} else {
			others += slots[n].members;
		}
		n++;
	}
	if (others == 0 && here > 0)
		return l->self;
	if (others == 0 && !away && p->v.qos > 0) {
		away = true;		/* nobody is connected: it waits */
		goto again;
	}
	if (others == 0)
		return -1;
	if (!named)
		slots[n++] = (struct share_slot){ l->self, here };
	if (l->draining)		/* ours are leaving */
		for (i = 0; i < n; i++)
			if (slots[i].instance == l->self)
				slots[i].members = 0;
	if (share_may_pass_on(how))
		leave_out_blocked(l, p, slots, n);
	random = next_random(l);
	i = share_pick_slot(how, share_state(&l->shares, id, random), slots, n,
	    l->self, hash_of(l, p), random);
	return i < n ? (int64_t)slots[i].instance : -1;
}

static bool
pick_add(struct listener *l, struct group_id id, int64_t to,
    struct index_filter *local)
{
	struct pick	*grown;
	size_t		 cap;

	if (to < 0) {
		metric_inc(&m_shared_nobody);
		return true;
	}
	if (l->npicks == PICKS_MAX) {
		metric_inc(&m_dropped_memory);
		return false;
	}
	if (l->npicks == l->cap_picks) {
		cap = l->cap_picks == 0 ? 16 : l->cap_picks * 2;
		if ((grown = realloc(l->picks, cap * sizeof(*grown))) == NULL) {
			metric_inc(&m_dropped_memory);
			return false;
		}
		l->picks = grown;
		l->cap_picks = cap;
	}
	l->picks[l->npicks].id = id;
	/* A node picks again: it is one place, its live sessions'. */
	l->picks[l->npicks].to = to >= FAR_FROM ? far_live((uint32_t)to) :
	    (uint32_t)to;
	l->picks[l->npicks].local = to == l->self ? local : NULL;
	l->npicks++;
	return true;
}

/* A name of the FIB may stand for more than the group's filter: it is ours, and
 * this topic is not its. */
static bool
is_false(const struct index_filter *local, const struct pub *p)
{
	return local != NULL && !topic_matches(local->text, local->len,
	    p->v.topic.data, p->v.topic.len);
}

void
groups_pick(struct listener *l, const struct pub *p,
    struct index_filter *const *found, int nfound,
    const struct routes_found *r)
{
	struct index_filter	*local;
	struct index_share	*s;
	size_t			 i;
	int			 f;

	l->npicks = 0;
	l->pick_no++;
	for (i = 0; i < r->ngroups; i++) {
		if ((local = find(l, r->groups[i].id)) != NULL)
			local->share->mark = l->pick_no;
		if (is_false(local, p))
			continue;
		if (!pick_add(l, r->groups[i].id,
		    pick(l, p, &r->groups[i], local), local))
			return;
	}
	for (f = 0; f < nfound; f++)
		for (s = found[f]->share; s != NULL; s = s->next)
			if (s->mark != l->pick_no &&
			    members_for(p, s->group) > 0 && !pick_add(l, s->id, pick(l, p, NULL, s->group),
			    s->group))
				return;
}

/* --- Giving ----------------------------------------------------------------- */

/* To a member of g (see member_of). False: there is none. */
static bool
give_member(struct listener *l, struct pub *p, struct index_filter *g,
    bool any)
{
	const struct index_sub	*s;
	struct mqueue_how	 how;
	uint32_t		 id;

	if ((s = member_of(l, p, g, any)) == NULL)
		return false;
	how = how_of(p, g, s, &id);
	deliver(l, p, conn_of(s->owner), &how);
	return true;
}

/* The group as the FIB knows it, or NULL; good until the next look. */
static const struct routes_group *
look_up(struct listener *l, const struct pub *p, struct group_id id)
{
	struct routes_found	r = { .ngroups = 0 };
	size_t			i;

	if (l->nremote == 0)
		return NULL;
	routes_match(l, (const char *)p->v.topic.data, p->v.topic.len,
	    &p->client_id, &r);
	for (i = 0; i < r.ngroups; i++)
		if (group_id_eq(r.groups[i].id, id))
			return &r.groups[i];
	return NULL;
}

/* To a listener that has members: the one that is picked, or when the stream to
 * it has no room, any other. 0, ERR_NOTFOUND if there is none, or what the last
 * stream said. */
static int
give_far(struct listener *l, struct pub *p, const struct routes_group *far,
    unsigned hops)
{
	struct pick	one = { .id = far->id };
	int64_t		picked = pick(l, p, far, NULL);
	uint32_t	i, to;
	int		rc;

	if (picked < 0 || picked == l->self)
		return ERR_NOTFOUND;
	one.to = picked >= FAR_FROM ? far_live((uint32_t)picked) :
	    (uint32_t)picked;
	rc = flow_pass(l, p, &one, hops + 1);
	for (i = 0; rc < 0 && i < far->nslots; i++) {
		to = place_of(l, p, far->slots[i].instance);
		if (to == NOWHERE || to == l->self || to == (uint32_t)picked ||
		    l->peers[to].bus == NULL ||
		    group_weight(far->slots[i].members, is_store(to),
		    p->v.qos, false) == 0)
			continue;
		one.to = to >= FAR_FROM ? far_live(to) : to;
		rc = flow_pass(l, p, &one, hops + 1);
	}
	if (rc == 0)
		metric_inc(&m_shared_passed_on);
	return rc;
}

/* How often it may be passed on from here: not for ever between listeners whose
 * members are all full. */
static unsigned
hops_max(const struct listener *l, const struct pub *p,
    const struct index_filter *local)
{
	return members_for(p, local) == 0 || l->draining ?
	    RECORD_HOPS_MAX : FULL_HOPS_MAX;
}

/*
 * To one member of the group, of which local are those here (or NULL): one that
 * takes it, here or elsewhere; else one that drops it. Returns false if there
 * was nobody, or no room on the way; that is counted here.
 */
static bool
give(struct listener *l, struct pub *p, struct group_id id,
    struct index_filter *local, unsigned hops)
{
	const struct routes_group *far;
	int			 rc = ERR_NOTFOUND;

	if (local != NULL && !l->draining && give_member(l, p, local, false))
		return true;
	if (hops < hops_max(l, p, local) && (far = look_up(l, p, id)) != NULL &&
	    (rc = give_far(l, p, far, hops)) == 0)
		return true;
	/* What was passed on so often takes nobody's place. */
	if (local != NULL && give_member(l, p, local, hops < RECORD_HOPS_MAX))
		return true;
	if (rc == ERR_NOTFOUND)
		metric_inc(members_for(p, local) > 0 ?
		    &m_dropped_queue_full : &m_shared_nobody);
	else
		metric_inc(rc == ERR_NOMEM ? &m_dropped_memory :
		    p->v.qos == 0 ? &m_dropped_credit : &m_dropped_stream_full);
	return false;
}

/* The same for what somebody left behind: picked anew among all there are. */
static bool
give_anew(struct listener *l, struct pub *p, struct group_id id, unsigned hops)
{
	struct index_filter	*local = find(l, id);
	const struct routes_group *far = NULL;
	struct pick		 one = { .id = id };
	int64_t			 to;

	if (hops < RECORD_HOPS_MAX && (far = look_up(l, p, id)) != NULL &&
	    (to = pick(l, p, far, local)) >= 0 && to != l->self) {
		one.to = to >= FAR_FROM ? far_live((uint32_t)to) :
		    (uint32_t)to;
		if (flow_pass(l, p, &one, hops + 1) == 0) {
			metric_inc(&m_shared_passed_on);
			return true;
		}
	}
	return give(l, p, id, local, hops);
}

void
groups_deliver(struct listener *l, struct pub *p)
{
	size_t i;

	for (i = 0; i < l->npicks; i++)
		if (l->picks[i].local != NULL)
			(void)give(l, p, l->picks[i].id, l->picks[i].local, 0);
}

void
groups_record(struct listener *l, struct pub *p, const struct record *r)
{
	struct index_filter	*local;
	struct group_id		 id;
	struct slice		 v;
	size_t			 at = 0;
	uint16_t		 type;

	while (record_ext_next(r, &at, &type, &v) == 1) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		local = find(l, id);
		if (!is_false(local, p))
			(void)give(l, p, id, local, record_hops(r));
	}
}

void
groups_again(struct listener *l, const struct record *r)
{
	struct pub	p;
	struct group_id	id;
	struct slice	v;
	size_t		at = 0;
	uint16_t	type;

	/* QoS 2 may have been sent; QoS 0 may be lost. */
	if (!(r->flags & RECORD_GROUPS) || record_qos(r) != 1)
		return;
	while (record_ext_next(r, &at, &type, &v) == 1) {
		if (type != EXT_GROUP || v.len != 16)
			continue;
		id = (struct group_id){ get_le64(v.data),
		    get_le64(v.data + 8) };
		publish_of_record(&p, r, NULL);
		p.id = msgid_next(&l->ids);
		if ((p.v.expiry_s = record_expiry_left(r,
		    p.id.hi / 1000000)) == 0) {
			metric_inc(&m_dropped_expired);
			continue;
		}
		l->enc_len = 0;
		if (give_anew(l, &p, id, record_hops(r)))
			metric_inc(&m_shared_redispatched);
		pub_fini(&p);
	}
}

/* --- What members have not answered yet ------------------------------------- */

struct kept_one {
	struct message	*m;
	struct group_id	 group;
	uint16_t	 id;
};

struct kept {
	struct htab	 by_id;
	size_t		 bytes;
};

static inline uint64_t
id_hash(uint16_t id)
{
	return id * UINT64_C(0x9e3779b97f4a7c15) >> 16;
}

bool
groups_may_send(const struct listener *l, const struct conn *c)
{
	return c->kept == NULL ||
	    c->kept->bytes < l->conf->mqtt_max_mqueue_bytes;
}

int
groups_keep_message(struct conn *c, struct message *m, struct group_id group,
    uint16_t id)
{
	struct kept_one *k;

	if (c->kept == NULL && (c->kept = calloc(1, sizeof(*c->kept))) == NULL)
		return ERR_NOMEM;
	if ((k = malloc(sizeof(*k))) == NULL)
		return ERR_NOMEM;
	if (htab_add(&c->kept->by_id, id_hash(id), k) < 0) {
		free(k);
		return ERR_NOMEM;
	}
	k->m = message_ref(m);
	k->group = group;
	k->id = id;
	c->kept->bytes += message_size(m);
	return 0;
}

void
groups_keep(struct listener *l, struct conn *c, struct pub *p,
    const struct group_id *group, uint16_t id)
{
	/* It is on its way; without memory only nobody else will get it. */
	if (deliver_message(l, p) == NULL ||
	    groups_keep_message(c, p->m, *group, id) < 0)
		metric_inc(&m_dropped_memory);
}

int
groups_each_kept(const struct conn *c, int (*each)(void *ctx,
    struct message *m, struct group_id group, uint16_t id), void *ctx)
{
	const struct kept_one	*k;
	size_t			 i;
	int			 rc;

	if (c->kept == NULL)
		return 0;
	for (i = 0; c->kept->by_id.cells != NULL &&
	    i <= c->kept->by_id.mask; i++)
		if ((k = c->kept->by_id.cells[i].item) != NULL &&
		    (rc = each(ctx, k->m, k->group, k->id)) != 0)
			return rc;
	return 0;
}

void
groups_answered(struct conn *c, uint16_t id)
{
	struct kept_one	*k;
	size_t		 i;

	for (i = htab_first(&c->kept->by_id, id_hash(id));
	    (k = htab_at(&c->kept->by_id, id_hash(id), &i)) != NULL; i++) {
		if (k->id != id)
			continue;
		htab_del(&c->kept->by_id, id_hash(id), k);
		c->kept->bytes -= message_size(k->m);
		message_unref(&k->m);
		free(k);
		return;
	}
}

/* m as it goes on; then pub_fini. False: it has expired, which is counted. */
static bool
pub_of_message(struct listener *l, struct message *m, struct pub *p)
{
	memset(p, 0, sizeof(*p));
	message_view(m, l->now_ms, &p->v);
	if (p->v.expiry_s == 0) {
		metric_inc(&m_dropped_expired);
		return false;
	}
	p->id = msgid_next(&l->ids);
	p->client_id = p->v.client_id;
	p->m = message_ref(m);
	if (m->blob != NULL)
		p->blob = blob_ref(m->blob);
	return true;
}

static void
give_again(struct listener *l, struct message *m, struct group_id group)
{
	struct pub	p;

	if (!pub_of_message(l, m, &p))
		return;
	l->enc_len = 0;
	if (give_anew(l, &p, group, 0))
		metric_inc(&m_shared_redispatched);
	pub_fini(&p);
}

/* In the order in which they came. */
static int
by_age(const void *a, const void *b)
{
	const struct message *x = (*(struct kept_one *const *)a)->m;
	const struct message *y = (*(struct kept_one *const *)b)->m;

	return msgid_cmp((struct msgid){ x->id_hi, x->id_lo },
	    (struct msgid){ y->id_hi, y->id_lo });
}

static void
give_kept(struct listener *l, struct kept *kept)
{
	struct kept_one	**all;
	size_t		  n = 0, i;

	if ((all = calloc(kept->by_id.n + 1, sizeof(struct kept_one *))) ==
	    NULL)
		metric_add(&m_dropped_memory, kept->by_id.n);
	for (i = 0; kept->by_id.cells != NULL && i <= kept->by_id.mask; i++) {
		struct kept_one *k = kept->by_id.cells[i].item;

		if (k != NULL && all != NULL) {
			all[n++] = k;
		} else if (k != NULL) {
			message_unref(&k->m);
			free(k);
		}
	}
	if (n > 1)
		qsort(all, n, sizeof(struct kept_one *), by_age);
	for (i = 0; i < n; i++) {
		give_again(l, all[i]->m, all[i]->group);
		message_unref(&all[i]->m);
		free(all[i]);
	}
	free(all);
}

void
groups_leave(struct listener *l, struct kept *kept, struct mqueue *q)
{
	const struct mqueue_how	*how;
	struct message		*m;

	if (kept != NULL) {
		give_kept(l, kept);
		htab_fini(&kept->by_id);
		free(kept);
	}
	if (q == NULL)
		return;
	while ((m = mqueue_peek(q, &how)) != NULL) {
		if (how->group != NULL)
			give_again(l, m, *how->group);
		mqueue_pop(q);
	}
	free(q);
}

/* To a member that has room, here or at another listener, where it takes
 * nobody's place either: else what makes room here would do so there, and what
 * that makes room for here again. */
static bool
pass_over(struct listener *l, struct pub *p, struct group_id id)
{
	struct index_filter		*local = find(l, id);
	const struct routes_group	*far;

	if (!share_may_pass_on(strategy(l)))
		return false;
	if (local != NULL && give_member(l, p, local, false))
		return true;
	return (far = look_up(l, p, id)) != NULL &&
	    give_far(l, p, far, RECORD_HOPS_MAX - 1) == 0;
}

int
groups_pass_over(struct listener *l, struct mqueue *left)
{
	const struct mqueue_how	*how;
	struct message		*m;
	struct pub		 p;
	/* We are in the middle of some other message, which is encoded there. */
	size_t			 was = l->enc_len;
	int			 dropped = 0;

	while ((m = mqueue_peek(left, &how)) != NULL) {
		if (pub_of_message(l, m, &p)) {
			if (pass_over(l, &p, *how->group))
				metric_inc(&m_shared_redispatched);
			else
				dropped++;
			pub_fini(&p);
		}
		mqueue_pop(left);
		l->enc_len = was;
	}
	return dropped;
}

void
groups_fini(struct listener *l)
{
	htab_fini(&l->groups);
	share_table_fini(&l->shares);
	free(l->picks);
	l->picks = NULL;
}

/*
 * publish.c: one PUBLISH on its way: checked, given its id, sent on the
 * streams the FIB names, matched against our own subscribers and handed to each
 * of them; the publisher is owed its answer when all have taken it.
 * Spec: MQTT 5.0 sections 3.3, 4.3, 4.6.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"

enum {
	JOB_MIN		= 64,	/* fewer are not worth a turn of their own */
	REFUSED_MS	= 10000	/* how often it is logged */
};

static inline bool
is_own(const struct pub *p, const struct conn *c)
{
	if (p->from != NULL)
		return p->from == c;
	return p->client_id.len == c->client_id_len && p->client_id.len > 0 &&
	    memcmp(p->client_id.data, c->client_id, c->client_id_len) == 0;
}

/* A subscription that does not want its own client's messages. */
static inline bool
is_deaf_to(const struct index_sub *s, const struct pub *p)
{
	return UNLIKELY(s->no_local) && is_own(p, conn_of(s->owner));
}

static inline uint8_t
qos_of(const struct pub *p, const struct index_sub *s)
{
	return (uint8_t)MIN((unsigned)p->v.qos, (unsigned)s->qos);
}

/* --- Several filters match: one copy per client, with the highest QoS and all
 *     subscription identifiers [MQTT-3.3.4-2] [-3] [-4] ------------------ */

/* What a message matched; of the first filter the subscribers from `from` on
 * are meant. */
struct fan {
	const struct pub	*p;
	struct index_filter	**found;
	int			 nfound;
	uint32_t		 from;
};

/* The target c is in this fan-out, made when it is not there yet. */
static struct target *
target_of(struct listener *l, struct conn *c, size_t *n)
{
	struct target	*grown, *t;
	size_t		 cap;

	if (c->fan_no == l->fan_no)
		return &l->targets[c->fan_slot];
	if (*n == l->cap_targets) {
		cap = l->cap_targets == 0 ? 256 : l->cap_targets * 2;
		if ((grown = realloc(l->targets, cap * sizeof(*grown))) == NULL)
			return NULL;
		l->targets = grown;
		l->cap_targets = cap;
	}
	c->fan_no = l->fan_no;
	c->fan_slot = (uint32_t)*n;
	t = &l->targets[(*n)++];
	memset(t, 0, sizeof(*t));
	t->c = c;
	return t;
}

/* Give each target its part of l->sub_ids, and fill it: they are total. */
static bool
gather_ids(struct listener *l, const struct fan *fan, size_t n, size_t total)
{
	const struct index_sub	*s;
	struct target		*t;
	uint32_t		*at, i;
	size_t			 k;
	int			 f;

	if (total > l->cap_sub_ids) {
		if ((at = realloc(l->sub_ids, total * sizeof(*at))) == NULL)
			return false;
		l->sub_ids = at;
		l->cap_sub_ids = total;
	}
	for (k = 0, at = l->sub_ids; k < n; k++) {
		t = &l->targets[k];
		t->how.ids = at;
		at += t->how.nids;
		t->how.nids = 0;
	}
	for (f = 0; f < fan->nfound; f++) {
		for (i = f == 0 ? fan->from : 0; i < fan->found[f]->nsubs;
		    i++) {
			s = &fan->found[f]->subs[i];
			if (s->id == 0 || is_deaf_to(s, fan->p))
				continue;
			t = &l->targets[conn_of(s->owner)->fan_slot];
			at = l->sub_ids + (t->how.ids - l->sub_ids);
			at[t->how.nids++] = s->id;
		}
	}
	return true;
}

/* Who is to get it, and how: how many of l->targets. */
static size_t
gather(struct listener *l, const struct fan *fan)
{
	const struct pub	*p = fan->p;
	const struct index_sub	*s;
	struct target		*t;
	size_t			 n = 0, ids = 0;
	uint32_t		 i;
	int			 f;

	l->fan_no++;
	for (f = 0; f < fan->nfound; f++) {
		for (i = f == 0 ? fan->from : 0; i < fan->found[f]->nsubs;
		    i++) {
			s = &fan->found[f]->subs[i];
			if (is_deaf_to(s, p))
				continue;
			if ((t = target_of(l, conn_of(s->owner), &n)) == NULL)
				goto nomem;
			t->how.qos = MAX(t->how.qos, qos_of(p, s));
			t->how.retain |= s->rap && p->v.retain;
			t->how.nids += s->id != 0;
			ids += s->id != 0;
		}
	}
	if (ids == 0 || gather_ids(l, fan, n, ids))
		return n;
nomem:
	metric_add(&m_dropped_memory, n);
	return 0;
}

/* --- Fan-outs larger than a turn ---------------------------------------- */

/* Leave the rest of a fan-out to the next turns. */
static void
job_begin(struct listener *l, struct pub *p, const struct target *targets,
    size_t n, const struct answer *owed)
{
	struct job	*j = &l->job;
	size_t		 i, ids = 0;
	uint32_t	*at;

	for (i = 0; i < n; i++)
		ids += targets[i].how.nids;
	j->targets = malloc(n * sizeof(*targets) + ids * sizeof(*at));
	if (j->targets == NULL || deliver_message(l, p) == NULL) {
		metric_add(&m_dropped_memory, n);
		free(j->targets);
		j->targets = NULL;
		return;
	}
	memcpy(j->targets, targets, n * sizeof(*targets));
	at = (uint32_t *)(void *)(j->targets + n);
	for (i = 0; i < n; i++) {
		client_hold(targets[i].c);
		if (targets[i].how.nids == 0)
			continue;
		memcpy(at, targets[i].how.ids,
		    targets[i].how.nids * sizeof(*at));
		j->targets[i].how.ids = at;
		at += targets[i].how.nids;
	}
	j->n = n;
	j->next = 0;
	j->pub = *p;
	p->m = NULL;				/* the job's now */
	p->blob = NULL;
	if (j->pub.from != NULL)
		client_hold(j->pub.from);
	else
		j->pub.client_id = (struct slice){ NULL, 0 };	/* borrowed */
	message_view(j->pub.m, l->now_ms, &j->pub.v);
	j->answer.type = 0;
	if (owed != NULL)
		j->answer = *owed;
	j->active = true;
}

void
pub_fini(struct pub *p)
{
	message_unref(&p->m);
	blob_unref(&p->blob);
}

static void
job_end(struct listener *l)
{
	struct job *j = &l->job;

	for (; j->next < j->n; j->next++)
		client_release(l, j->targets[j->next].c);
	free(j->targets);
	j->targets = NULL;
	j->active = false;
	if (j->pub.from != NULL) {
		if (j->answer.type != 0 && j->pub.from->state == CONN_OPEN)
			answer_add(l, j->pub.from, &j->answer);
		else if (j->answer.nwaits > 1)
			free(j->answer.many);
		client_release(l, j->pub.from);
	}
	pub_fini(&j->pub);
	bus_resume(l->bus);
}

void
publish_job(struct listener *l)
{
	struct job	*j = &l->job;
	struct conn	*c;

	if (!j->active)
		return;
	l->enc_len = 0;
	memset(j->pub.enc, 0, sizeof(j->pub.enc));
	while (j->next < j->n && !turn_is_over(l)) {
		c = j->targets[j->next].c;
		deliver(l, &j->pub, c, &j->targets[j->next].how);
		j->next++;
		client_release(l, c);
	}
	if (j->next == j->n)
		job_end(l);
}

void
publish_fini(struct listener *l)
{
	if (l->job.active)
		job_end(l);
}

/* --- To our own subscribers --------------------------------------------- */

/* The one filter that matched: straight from the index. */
static void
publish_to(struct listener *l, struct pub *p, struct fan *fan, bool may_wait,
    const struct answer *owed)
{
	struct index_filter	*f = fan->found[0];
	const struct index_sub	*s;
	struct mqueue_how	 how;
	uint32_t		 id;
	size_t			 n;

	for (; fan->from < f->nsubs; fan->from++) {
		if (UNLIKELY(turn_is_over(l)) && may_wait &&
		    f->nsubs - fan->from > JOB_MIN) {
			n = gather(l, fan);
			job_begin(l, p, l->targets, n, owed);
			return;
		}
		s = &f->subs[fan->from];
		if (is_deaf_to(s, p))
			continue;
		id = s->id;
		how.qos = qos_of(p, s);
		how.retain = s->rap && p->v.retain;
		how.nids = id != 0;
		how.ids = &id;
		how.group = NULL;
		deliver(l, p, conn_of(s->owner), &how);
	}
}

/* Which filters here match p: into fan. */
static void
match_local(struct listener *l, struct pub *p, struct fan *fan)
{
	fan->p = p;
	fan->from = 0;
	fan->nfound = index_match(l->index, (const char *)p->v.topic.data,
	    p->v.topic.len, &fan->found);
	if (UNLIKELY(fan->nfound < 0)) {
		metric_inc(&m_dropped_memory);
		fan->nfound = 0;
	}
	l->enc_len = 0;
}

/*
 * Hand p to everybody here who wants it. Returns how many of the filters that
 * matched have subscribers. When a job was left behind, l->job.active, it took
 * over the answer owed.
 */
static int
publish_local(struct listener *l, struct pub *p, struct fan *fan,
    const struct answer *owed)
{
	size_t	n, k;
	bool	may_wait = !l->job.active;

	if (LIKELY(fan->nfound == 1)) {
		n = fan->found[0]->nsubs > 0;
		publish_to(l, p, fan, may_wait, owed);
		return (int)n;
	}
	if (fan->nfound == 0)
		return 0;
	n = gather(l, fan);
	for (k = 0; k < n; k++) {
		if (UNLIKELY(turn_is_over(l)) && may_wait && n - k > JOB_MIN) {
			job_begin(l, p, l->targets + k, n - k, owed);
			break;
		}
		deliver(l, p, l->targets[k].c, &l->targets[k].how);
	}
	return (int)n;
}

/* --- From a client ------------------------------------------------------ */

/* The client's topic aliases, 3.3.2.3.4. Returns 0 or a reason code. */
static uint8_t
alias_resolve(struct conn *c, struct mqtt_publish *m)
{
	uint16_t	  alias = m->props.topic_alias, n;
	struct alias_in	**grown, *a, *old;
	size_t		  bytes;

	if (alias > c->alias_granted)
		return MQTT_TOPIC_ALIAS_INVALID;	/* [MQTT-3.3.2-9] */
	if (m->topic.len == 0) {
		if (c->aliases == NULL || alias > c->aliases->nin ||
		    (a = c->aliases->in[alias - 1]) == NULL)
			return MQTT_PROTOCOL_ERROR;
		m->topic.data = a->topic;
		m->topic.len = a->len;
		return 0;
	}
	if (c->aliases == NULL &&
	    (c->aliases = calloc(1, sizeof(*c->aliases))) == NULL)
		return MQTT_SERVER_BUSY;
	if (alias > c->aliases->nin) {
		n = (uint16_t)MIN(MAX(alias, c->aliases->nin * 2u),
		    c->alias_granted);
		grown = realloc(c->aliases->in, n * sizeof(*grown));
		if (grown == NULL)
			return MQTT_SERVER_BUSY;
		memset(grown + c->aliases->nin, 0,
		    (size_t)(n - c->aliases->nin) * sizeof(*grown));
		c->aliases->in = grown;
		c->aliases->nin = n;
	}
	old = c->aliases->in[alias - 1];
	bytes = c->aliases->in_bytes + m->topic.len -
	    (old == NULL ? 0 : old->len);
	if (bytes > ALIASES_IN_BYTES)
		return MQTT_QUOTA_EXCEEDED;
	if ((a = malloc(sizeof(*a) + m->topic.len)) == NULL)
		return MQTT_SERVER_BUSY;
	a->len = (uint16_t)m->topic.len;
	memcpy(a->topic, m->topic.data, m->topic.len);
	free(old);
	c->aliases->in[alias - 1] = a;
	c->aliases->in_bytes = (uint32_t)bytes;
	return 0;
}

/* Properties as they go on; a copy in our scratch where some stay behind. */
static bool
forward_props(struct listener *l, const struct mqtt_props *in,
    struct slice *out)
{
	uint8_t *grown;

	if (!mqtt_props_forward_is_raw(in) && l->props_cap < in->raw.len) {
		if ((grown = realloc(l->props, in->raw.len)) == NULL)
			return false;
		l->props = grown;
		l->props_cap = in->raw.len;
	}
	mqtt_props_forward(in, l->props, out);
	return true;
}

bool
publish_is_reserved(const struct slice *topic)
{
	return topic->len >= 4 && memcmp(topic->data, "$SYS", 4) == 0 &&
	    (topic->len == 4 || topic->data[4] == '/');
}

/* What c may not do with this message: 0, or a reason to close with. */
static uint8_t
check(struct conn *c, struct mqtt_publish *m, bool retains)
{
	uint8_t reason;

	if (c->version == MQTT_V5) {
		if (mqtt_props_has(&m->props, MQTT_P_TOPIC_ALIAS) &&
		    (reason = alias_resolve(c, m)) != 0)
			return reason;
		if (m->retain && UNLIKELY(!retains))	/* [MQTT-3.2.2-14] */
			return MQTT_RETAIN_NOT_SUPPORTED;
		if (m->qos > 0 &&
		    c->inflight_in >= c->receive_granted &&
		    !(m->qos == 2 && inbound_has(&c->inbound, m->packet_id)))
			return MQTT_RECEIVE_MAXIMUM_EXCEEDED;
	}
	if (m->qos > c->qos_granted)
		return MQTT_QOS_NOT_SUPPORTED;	/* [MQTT-3.2.2-11] */
	return 0;
}

static inline void
answer_with(struct listener *l, struct conn *c, struct answer *a,
    uint8_t reason)
{
	if (a->type == 0)
		return;
	a->reason = reason;
	answer_add(l, c, a);
}

/* What c publishes meets a stream without room: QoS 0 waits for it, and QoS 1
 * and 2 of 3.x, which knows no Receive Maximum. */
static void
rest(struct listener *l, struct conn *c, const struct peer *p, int qos)
{
	if (qos == 0 || c->version != MQTT_V5)
		client_park_for(l, c, p, qos);
}

/* Is m to be passed on? If not, it has been answered here. *a becomes the
 * answer that c is owed. */
static bool
is_news(struct listener *l, struct conn *c, const struct mqtt_publish *m,
    struct answer *a)
{
	int rc;

	a->id = m->packet_id;
	a->type = m->qos == 0 ? 0 : m->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC;
	a->nwaits = 0;
	a->straight = false;
	if (m->qos == 2 && (rc = inbound_add(&c->inbound, m->packet_id)) <= 0) {
		if (rc < 0) {
			client_close(l, c, MQTT_SERVER_BUSY);
			return false;
		}
		/* [MQTT-4.3.3-10]: seen before, said again. */
		metric_inc(&m_publish_dup);
		answer_with(l, c, a, MQTT_SUCCESS);
		return false;
	}
	if (m->qos > 0)
		c->inflight_in++;
	/* 3.x cannot be told: the message counts, not the number. */
	if (m->qos == 1 && UNLIKELY(c->inbound.n > 0) &&
	    c->version == MQTT_V5 && inbound_has(&c->inbound, m->packet_id)) {
		answer_with(l, c, a, MQTT_PACKET_ID_IN_USE);
		return false;
	}
	if (UNLIKELY(m->topic.data[0] == '$') &&
	    publish_is_reserved(&m->topic)) {
		answer_with(l, c, a, MQTT_NOT_AUTHORIZED);
		return false;
	}
	return true;
}

/* The message as it goes on. */
static int
pub_init(struct listener *l, struct conn *c, const struct mqtt_publish *m,
    struct pub *p)
{
	p->v.topic = m->topic;
	p->v.payload = m->payload;
	p->v.props.data = NULL;
	p->v.props.len = 0;
	p->v.client_id = (struct slice){ NULL, 0 };
	p->v.expiry_s = MESSAGE_NO_EXPIRY;
	p->v.qos = m->qos;
	p->v.retain = m->retain && l->conf->mqtt_retain_available;
	if (m->props.has != 0) {
		if (mqtt_props_has(&m->props, MQTT_P_MESSAGE_EXPIRY))
			p->v.expiry_s = MIN(m->props.message_expiry_s,
			    MESSAGE_EXPIRY_MAX);
		if (!forward_props(l, &m->props, &p->v.props))
			return ERR_NOMEM;
	}
	p->id = msgid_next(&l->ids);
	p->client_id.data = (const uint8_t *)c->client_id;
	p->client_id.len = c->client_id_len;
	p->from = c;
	p->blob = NULL;
	p->m = NULL;
	memset(p->enc, 0, sizeof(p->enc));
	log_debug("publish.in", "id=%016llx%016llx client=%s packet=%u qos=%u "
	    "topic=%s", (unsigned long long)p->id.hi,
	    (unsigned long long)p->id.lo, log_quote(c->client_id), m->packet_id,
	    m->qos, log_quote_n(m->topic.data, m->topic.len));
	return 0;
}

/* Did the fan-out of p go on as the job, which owes its answer now? */
static inline bool
is_job(const struct listener *l, const struct pub *p)
{
	return UNLIKELY(l->job.active) && l->job.pub.from == p->from &&
	    l->job.pub.id.lo == p->id.lo && l->job.pub.id.hi == p->id.hi;
}

/* Which other listeners may want p, and which member of each group gets it:
 * l->picks. */
static inline void
find_others(struct listener *l, struct pub *p, const struct fan *fan,
    struct routes_found *r)
{
	if (l->nremote > 0)
		routes_match(l, (const char *)p->v.topic.data, p->v.topic.len,
		    &p->client_id, r);
	l->npicks = 0;
	if (UNLIKELY(l->groups.n > 0 || r->ngroups > 0))
		groups_pick(l, p, fan->found, fan->nfound, r);
}

/* --- By way of a store --------------------------------------------------- */

/*
 * What a client published through stores and they have not stored yet: what it
 * publishes to these topics next goes the same way, or it would overtake. The
 * other way round, what goes through a store is held until what the client
 * published straight to others, to this topic and with this QoS, has come
 * there [MQTT-4.6.0-5]. With QoS 1 and 2 its unsent answers tell when; with
 * QoS 0 nobody answers, so it waits for all that is on its way, except to
 * listeners that stand still.
 */
struct sourced {
	uint64_t	topics;		/* a bit for the hash of each */
	uint64_t	straight[2];	/* ... of QoS 0; of 1 and 2 */
	struct wait	*due;		/* QoS 0, held: what it waits for */
	uint32_t	ndue;
	uint64_t	seq[];		/* the last frame, by store */
};

static inline uint64_t
topic_bit(const struct slice *topic)
{
	return UINT64_C(1) << (XXH3_64bits(topic->data, topic->len) >> 58);
}

/* c's: made when it is not there yet, NULL if out of memory. */
static struct sourced *
sourced_of(const struct listener *l, struct conn *c)
{
	struct sourced *q = c->sourced;

	if (q != NULL)
		return q;
	q = calloc(1, sizeof(*q) + l->nstores * sizeof(q->seq[0]));
	if ((c->sourced = q) == NULL) {
		metric_inc(&m_dropped_memory);
		return NULL;
	}
	/* Of which topics, nobody noted. */
	q->straight[0] = c->straight ? UINT64_MAX : 0;
	q->straight[1] = answers_straight(c) ? UINT64_MAX : 0;
	c->straight = false;
	return q;
}

static void
source_note(struct listener *l, struct conn *c, const struct slice *topic,
    const struct peer *s)
{
	struct sourced *q;

	if ((q = sourced_of(l, c)) == NULL)
		return;
	q->topics |= topic_bit(topic);
	q->seq[s - &l->peers[PEERS_MAX]] = bus_peer_sent(s->bus);
}

/* Does what c publishes to topic have to follow? */
static bool
must_follow(struct listener *l, struct conn *c, const struct slice *topic)
{
	const struct peer	*s = &l->peers[PEERS_MAX];
	uint32_t		 i;

	if (c->sourced == NULL)
		return false;
	for (i = 0; i < l->nstores; i++)
		if (c->sourced->seq[i] > bus_peer_stored(s[i].bus))
			return (c->sourced->topics & topic_bit(topic)) != 0;
	publish_forget(c);
	return false;
}

void
publish_forget(struct conn *c)
{
	if (c->sourced == NULL)
		return;
	c->straight = c->sourced->straight[0] != 0 || c->sourced->due != NULL;
	free(c->sourced->due);
	free(c->sourced);
	c->sourced = NULL;
}

/* A message of that QoS went straight to others. */
static inline void
straight_note(struct conn *c, const struct slice *topic, int qos)
{
	if (UNLIKELY(c->sourced != NULL))
		c->sourced->straight[qos > 0] |= topic_bit(topic);
	else if (qos == 0)
		c->straight = true;
}

static bool
is_due(const struct listener *l, const struct sourced *q)
{
	uint32_t i;

	for (i = 0; i < q->ndue; i++)
		if (!answer_is_taken(&q->due[i]) && l->now_ms -
		    q->due[i].peer->moved_ms < STALLED_MS)
			return false;
	return true;
}

bool
publish_is_held(const struct listener *l, const struct conn *c)
{
	if (c->may_asked)
		return true;
	return c->sourced != NULL && c->sourced->due != NULL ?
	    !is_due(l, c->sourced) : answers_straight(c);
}

/* All that is on its way to live sessions elsewhere is to come there first. */
static void
due_set(struct listener *l, struct conn *c, struct sourced *q)
{
	struct peer	*p;
	uint32_t	 i, n = 0;

	for (i = 0; (p = peer_live(l, &i)) != NULL;)
		n += bus_peer_got(p->bus) < bus_peer_sent(p->bus);
	q->ndue = 0;
	if (n == 0)
		return;
	if ((q->due = malloc(n * sizeof(q->due[0]))) == NULL) {
		metric_inc(&m_dropped_memory);
		return;
	}
	for (i = 0; q->ndue < n && (p = peer_live(l, &i)) != NULL;) {
		if (bus_peer_got(p->bus) >= bus_peer_sent(p->bus))
			continue;
		q->due[q->ndue] = (struct wait){ p, p->epoch,
		    bus_peer_sent(p->bus) };
		/* Without memory the next tick looks. */
		(void)answer_watch(c, &q->due[q->ndue++]);
	}
}

/* Would a message of that QoS by way of a store overtake what c published to
 * this topic before? */
static bool
would_overtake(struct listener *l, struct conn *c, const struct slice *topic,
    int qos)
{
	struct sourced *q = c->sourced;

	if (qos > 0) {
		if (answers_straight(c))
			return q == NULL ||
			    (q->straight[1] & topic_bit(topic)) != 0;
		if (q != NULL)
			q->straight[1] = 0;
		return false;
	}
	if ((q == NULL && !c->straight) || (q = sourced_of(l, c)) == NULL)
		return false;
	if (q->due == NULL && (q->straight[0] & topic_bit(topic)) != 0) {
		q->straight[0] = 0;
		due_set(l, c, q);
	}
	if (q->due != NULL && !is_due(l, q))
		return true;
	free(q->due);
	q->due = NULL;
	q->ndue = 0;
	return false;
}

size_t
publish_save(const struct listener *l, const struct conn *c, uint8_t *buf)
{
	const struct sourced	*q = c->sourced;
	uint32_t		 i;

	if (q == NULL)
		return 0;
	put_le64(buf, q->topics);
	put_le64(buf + 8, q->due != NULL ? UINT64_MAX : q->straight[0]);
	put_le64(buf + 16, q->straight[1]);
	for (i = 0; i < l->nstores; i++)
		put_le64(buf + 24 + 8 * i, q->seq[i]);
	return 24 + 8 * (size_t)l->nstores;
}

int
publish_load(struct listener *l, struct conn *c, const struct slice *s)
{
	struct sourced	*q;
	uint32_t	 i;

	if (s->len != 24 + 8 * (size_t)l->nstores)
		return s->len == 0 ? 0 : ERR_PROTO;
	if ((q = sourced_of(l, c)) == NULL)
		return ERR_NOMEM;
	q->topics = get_le64(s->data);
	q->straight[0] = get_le64(s->data + 8);
	q->straight[1] = get_le64(s->data + 16);
	for (i = 0; i < l->nstores; i++)
		q->seq[i] = get_le64(s->data + 24 + 8 * i);
	return 0;
}

/* Park c, to see this PUBLISH again. */
static bool
hold(struct listener *l, struct conn *c)
{
	client_park(l, c);
	return c->held = c->parked;
}

/* Nobody has the message: 3.x cannot be told, and sends it again. */
static void
not_taken(struct listener *l, struct conn *c, struct answer *a)
{
	if (c->version == MQTT_V5)
		answer_with(l, c, a, MQTT_QUOTA_EXCEEDED);
	else if (a->type != 0)
		client_doom(l, c);
}

/* QoS 2 of a durable session: that keeps which identifiers came. */
static bool
is_of_session(const struct pub *p)
{
	return p->v.qos == 2 && p->from->handle != 0;
}

static struct peer *
source_of(struct listener *l, const struct pub *p)
{
	return is_of_session(p) ? session_shard(l, p->from->client_id,
	    p->from->client_id_len) : session_shard(l, p->v.topic.data,
	    p->v.topic.len);
}

/*
 * A message that a store is the source of: the one of its topic, where it is
 * retained; else the one of the durable session that published it with QoS 2.
 * The answer waits until it is stored.
 */
static void
to_source(struct listener *l, struct pub *p, struct answer *a)
{
	struct conn		*c = p->from;
	struct peer		*s = source_of(l, p);

	if (flow_source(l, p, s, is_of_session(p) ? c : NULL, a->id, a) < 0) {
		not_taken(l, c, a);
		return;
	}
	source_note(l, c, &p->v.topic, s);
	a->reason = MQTT_SUCCESS;
	if (a->type != 0)
		answer_add(l, c, a);
	if (bus_peer_blocked(s->bus))
		rest(l, c, s, p->v.qos);
}

/* To everybody, and the answer when all have it. */
static void
pass_on(struct listener *l, struct pub *p, struct answer *a)
{
	struct routes_found r = { .ngroups = 0 };
	struct conn	*c = p->from;
	struct peer	*blocked = NULL;
	struct fan	 fan;
	int		 matched, sent = 0;

	match_local(l, p, &fan);
	find_others(l, p, &fan, &r);
	if (l->nremote > 0 && (sent = flow_publish(l, p, &r, a,
	    &blocked)) < 0) {
		/* A stream keeps all it may: this message is nobody's. */
		not_taken(l, c, a);
		return;
	}
	a->reason = MQTT_SUCCESS;
	if (sent > 0) {
		a->straight = true;
		straight_note(c, &p->v.topic, p->v.qos);
	}
	if (UNLIKELY(l->npicks > 0))
		groups_deliver(l, p);
	matched = publish_local(l, p, &fan, a);
	if (is_job(l, p)) {
		bus_pause(l->bus);
	} else {
		if (matched == 0 && sent == 0 && l->npicks == 0) {
			metric_inc(&m_no_subscribers);
			a->reason = MQTT_NO_MATCHING_SUBSCRIBERS;
		}
		if (a->type != 0)
			answer_add(l, c, a);
	}
	if (UNLIKELY(blocked != NULL))
		rest(l, c, blocked, p->v.qos);
}

/*
 * What goes beyond the limits of what is retained is refused where the client
 * can be told, and then it is nobody's (3.4.2.1). Its size we know; where a
 * store may be at its limit it is asked, and c is held meanwhile. Between its
 * answer and the message another one may take the last place: then it is
 * delivered and not kept, as all are that cannot be answered so.
 */
static bool
may_be_refused(const struct listener *l, const struct conn *c,
    const struct mqtt_publish *m)
{
	return m->retain && m->qos > 0 && c->version == MQTT_V5 &&
	    m->payload.len > 0 && l->conf->mqtt_retain_available;
}

/* Has the store to say whether m may be retained, and has not yet? */
static bool
must_ask(struct listener *l, struct conn *c, const struct mqtt_publish *m)
{
	struct peer		*s;
	struct session_msg	 e = { .kind = SESSION_MAY };

	if (c->may_told || !may_be_refused(l, c, m) ||
	    m->payload.len > l->conf->retain_max_size)
		return false;
	s = session_shard(l, m->topic.data, m->topic.len);
	if (!s->full || session_number(l, c) < 0)
		return false;
	e.serial = c->serial;
	e.token = (uint32_t)c->msgs_in;		/* this one, whenever */
	e.topic = m->topic;
	e.what = (uint32_t)(c->client_id_len + m->payload.len +
	    (m->props.has != 0 ? m->props.raw.len : 0));
	return c->may_asked = session_send(l, s, &e) == 0;
}

void
publish_may(struct listener *l, struct conn *c, const struct session_msg *e)
{
	if (!c->may_asked || e->token != (uint32_t)c->msgs_in)
		return;
	c->may_asked = false;
	c->may_told = true;
	c->may_not = e->what != 0;
	l->unpark = true;
}

/* Takes the answer there was. */
static bool
is_beyond(struct listener *l, struct conn *c, const struct mqtt_publish *m)
{
	static uint64_t	 logged_ms;
	static unsigned	 n;
	bool		 large = m->payload.len > l->conf->retain_max_size,
			 not = c->may_not;

	c->may_told = c->may_not = false;
	if (!may_be_refused(l, c, m) || (!large && !not))
		return false;
	metric_inc(&m_retain_refused);
	n++;
	if (logged_ms == 0 || l->now_ms - logged_ms >= REFUSED_MS) {
		log_warn("retain.refused", "messages=%u topic=%s client=%s "
		    "why=%s", n, log_quote_n(m->topic.data, m->topic.len),
		    log_quote(c->client_id), large ?
		    "\"it is too large\"" : "\"there are too many\"");
		logged_ms = l->now_ms;
		n = 0;
	}
	return true;
}

/* By whose way does m go? */
enum way { WAY_STRAIGHT, WAY_SESSION, WAY_TOPIC };

static inline enum way
way_of(struct listener *l, struct conn *c, const struct mqtt_publish *m)
{
	if (UNLIKELY(m->qos == 2 && c->handle != 0))
		return WAY_SESSION;
	if (UNLIKELY(m->retain && l->conf->mqtt_retain_available) ||
	    (UNLIKELY(c->sourced != NULL) && must_follow(l, c, &m->topic)))
		return WAY_TOPIC;
	return WAY_STRAIGHT;
}

/*
 * A store whose disk is full keeps nothing new. What it would have to keep is
 * refused before anybody gets it, for its publisher would send it again.
 */
static bool
is_unkept(struct listener *l, const struct pub *p, bool by_store)
{
	struct routes_found	 r = { .ngroups = 0 };

	if (by_store && (l->full_stores >>
	    (source_of(l, p) - &l->peers[PEERS_MAX]) & 1))
		return true;
	routes_match(l, (const char *)p->v.topic.data, p->v.topic.len,
	    &p->client_id, &r);
	return (r.stores & l->full_stores) != 0;
}

void
on_publish(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	static struct metric *const by_qos[] = { &m_publish_in_qos0,
	    &m_publish_in_qos1, &m_publish_in_qos2 };
	struct mqtt_publish	 m;
	struct pub		 p;
	struct answer		 a;
	enum way		 way;
	bool			 beyond;
	int			 rc;

	rc = mqtt_decode_publish(f, c->version, MQTT_FROM_CLIENT,
	    l->conf->mqtt_max_topic_levels, &m);
	if (UNLIKELY(rc != 0) || UNLIKELY((rc = check(c, &m,
	    l->conf->mqtt_retain_available)) != 0)) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	way = way_of(l, c, &m);
	if (UNLIKELY(way != WAY_STRAIGHT) && ((way == WAY_TOPIC &&
	    would_overtake(l, c, &m.topic, m.qos)) || must_ask(l, c, &m))) {
		if (hold(l, c))
			return;
		c->may_asked = false;
	}
	beyond = UNLIKELY(m.retain) && is_beyond(l, c, &m);
	c->msgs_in++;
	metric_inc(&m_publish_in);
	metric_inc(by_qos[m.qos]);
	if (!is_news(l, c, &m, &a))
		return;
	if (UNLIKELY(beyond)) {
		answer_with(l, c, &a, MQTT_QUOTA_EXCEEDED);
		return;
	}
	if (pub_init(l, c, &m, &p) < 0) {
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	if (UNLIKELY(l->full_stores != 0) && m.qos > 0 &&
	    is_unkept(l, &p, way != WAY_STRAIGHT))
		not_taken(l, c, &a);
	else if (UNLIKELY(way != WAY_STRAIGHT))
		to_source(l, &p, &a);
	else
		pass_on(l, &p, &a);
	pub_fini(&p);
}

void
on_pubrel(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_ack	 a;
	uint8_t		*p, reason = MQTT_SUCCESS;
	int		 rc;

	if ((rc = mqtt_decode_ack(f, c->version, &a)) != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	if (inbound_del(&c->inbound, a.packet_id)) {
		if (c->inflight_in > 0)
			c->inflight_in--;
		if (c->handle != 0) {
			session_release(l, c, a.packet_id);
			return;
		}
	} else {
		reason = MQTT_PACKET_ID_NOT_FOUND;
		metric_inc(&m_acks_unknown);
	}
	if ((p = out_reserve(l, c, mqtt_ack_size(c->version, reason,
	    NULL))) != NULL)
		mqtt_ack_encode(c->version, MQTT_PUBCOMP, a.packet_id, reason,
		    NULL, p);
	metric_inc(&m_packets_out);
}

/* --- From ourselves and from other processes ---------------------------- */

void
publish_own(struct listener *l, const struct message_view *v,
    struct slice client_id, bool local_only)
{
	struct routes_found r = { .ngroups = 0 };
	struct pub	p;
	struct fan	fan;
	struct answer	a;
	struct peer	*blocked;
	bool		was = l->job.active;

	memset(&p, 0, sizeof(p));
	p.v = *v;
	p.id = msgid_next(&l->ids);
	p.client_id = client_id;
	a.type = 0;
	a.nwaits = 0;
	a.straight = false;
	match_local(l, &p, &fan);
	if (local_only) {
		groups_pick(l, &p, fan.found, fan.nfound, &r);
	} else {
		find_others(l, &p, &fan, &r);
		if (l->nremote > 0 && flow_publish(l, &p, &r, &a,
		    &blocked) < 0)
			metric_inc(&m_dropped_stream_full);
		if (a.nwaits > 1)
			free(a.many);
	}
	groups_deliver(l, &p);
	(void)publish_local(l, &p, &fan, NULL);
	if (!was && l->job.active)
		bus_pause(l->bus);
	pub_fini(&p);
}

void
publish_of_record(struct pub *p, const struct record *r, struct blob *payload)
{
	memset(p, 0, sizeof(*p));
	p->v.topic = r->topic;
	p->v.props = r->properties;
	p->v.payload = r->payload;
	p->v.expiry_s = r->expiry_s;
	p->v.qos = (uint8_t)record_qos(r);
	p->v.retain = (r->flags & RECORD_RETAIN) != 0;
	p->id = r->id;
	p->client_id = r->client_id;
	if (payload != NULL)
		p->blob = blob_ref(payload);
}

void
publish_record(struct listener *l, const struct record *r,
    struct blob *payload)
{
	struct pub	p;
	struct fan	fan;
	bool		was = l->job.active;

	publish_of_record(&p, r, payload);
	metric_inc(&m_publish_received);
	p.v.expiry_s = record_expiry_left(r, l->ids.clock / 1000000);
	if (UNLIKELY(p.v.expiry_s == 0)) {	/* [MQTT-3.3.2-5] */
		metric_inc(&m_dropped_expired);
		pub_fini(&p);
		return;
	}
	if (p.v.retain)
		retained_live(&p.id);
	log_debug("publish.relayed", "id=%016llx%016llx topic=%s",
	    (unsigned long long)p.id.hi, (unsigned long long)p.id.lo,
	    log_quote_n(r->topic.data, r->topic.len));
	match_local(l, &p, &fan);
	if (UNLIKELY(r->flags & RECORD_GROUPS))
		groups_record(l, &p, r);
	if (r->flags & RECORD_SUBS && publish_local(l, &p, &fan, NULL) == 0)
		metric_inc(&m_no_subscribers);
	if (!was && l->job.active)
		bus_pause(l->bus);
	pub_fini(&p);
}

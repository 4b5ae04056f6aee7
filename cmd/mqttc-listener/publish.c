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

enum { JOB_MIN = 64 };		/* fewer are not worth a turn of their own */

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
		    r);
	l->npicks = 0;
	if (UNLIKELY(l->groups.n > 0 || r->ngroups > 0))
		groups_pick(l, p, fan->found, fan->nfound, r);
}

/* --- By way of a store --------------------------------------------------- */

/* What a client published through stores and they have not stored yet: what it
 * publishes to these topics next goes the same way, or it would overtake. */
struct sourced {
	uint64_t	topics;		/* a bit for the hash of each */
	uint64_t	seq[];		/* the last frame, by store */
};

static inline uint64_t
topic_bit(const struct slice *topic)
{
	return UINT64_C(1) << (XXH3_64bits(topic->data, topic->len) >> 58);
}

static void
source_note(struct listener *l, struct conn *c, const struct slice *topic,
    const struct peer *s)
{
	struct sourced *q = c->sourced;

	if (q == NULL) {
		q = calloc(1, sizeof(*q) + l->nstores * sizeof(q->seq[0]));
		if ((c->sourced = q) == NULL) {
			metric_inc(&m_dropped_memory);
			return;
		}
	}
	q->topics |= topic_bit(topic);
	q->seq[s - &l->peers[PEERS_MAX]] = bus_peer_sent(s->bus);
}

/* Does what c publishes to topic have to follow? */
static bool
must_follow(struct listener *l, struct conn *c, const struct slice *topic)
{
	const struct peer	*s = &l->peers[PEERS_MAX];
	uint32_t		 i;

	for (i = 0; i < l->nstores; i++)
		if (c->sourced->seq[i] > bus_peer_stored(s[i].bus))
			return (c->sourced->topics & topic_bit(topic)) != 0;
	publish_forget(c);
	return false;
}

void
publish_forget(struct conn *c)
{
	free(c->sourced);
	c->sourced = NULL;
}

/*
 * A message that a store is the source of: the one of its topic, where it is
 * retained; else the one of the durable session that published it with QoS 2,
 * for that keeps which identifiers came. The answer waits until it is stored.
 */
static void
to_source(struct listener *l, struct pub *p, struct answer *a)
{
	struct conn		*c = p->from;
	const struct conn	*session = NULL;
	struct peer		*s;

	if (p->v.qos == 2 && c->handle != 0) {
		session = c;
		s = session_shard(l, c->client_id, c->client_id_len);
	} else {
		s = session_shard(l, p->v.topic.data, p->v.topic.len);
	}
	if (flow_source(l, p, s, session, a->id, a) < 0) {
		if (c->version == MQTT_V5)
			answer_with(l, c, a, MQTT_QUOTA_EXCEEDED);
		else if (a->type != 0)
			client_doom(l, c);
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
		if (c->version == MQTT_V5)
			answer_with(l, c, a, MQTT_QUOTA_EXCEEDED);
		else if (a->type != 0)
			client_doom(l, c);
		return;
	}
	a->reason = MQTT_SUCCESS;
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

void
on_publish(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	static struct metric *const by_qos[] = { &m_publish_in_qos0,
	    &m_publish_in_qos1, &m_publish_in_qos2 };
	struct mqtt_publish	 m;
	struct pub		 p;
	struct answer		 a;
	int			 rc;

	rc = mqtt_decode_publish(f, c->version, MQTT_FROM_CLIENT,
	    l->conf->mqtt_max_topic_levels, &m);
	if (UNLIKELY(rc != 0) || UNLIKELY((rc = check(c, &m,
	    l->conf->mqtt_retain_available)) != 0)) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	c->msgs_in++;
	metric_inc(&m_publish_in);
	metric_inc(by_qos[m.qos]);
	if (!is_news(l, c, &m, &a))
		return;
	if (pub_init(l, c, &m, &p) < 0) {
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	if (UNLIKELY(p.v.retain) || UNLIKELY(m.qos == 2 && c->handle != 0) ||
	    (UNLIKELY(c->sourced != NULL) && must_follow(l, c, &p.v.topic)))
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

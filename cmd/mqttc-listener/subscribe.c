/*
 * subscribe.c: SUBSCRIBE and UNSUBSCRIBE. A subscription works on this
 * listener at once; SUBACK waits until its routes are in the FIB of every
 * running reader, so that after it a message published anywhere on the node
 * arrives, or until cluster.suback_timeout, which is counted. That of a durable
 * session waits for its store as well, however long. What is retained is asked
 * for when the SUBACK leaves.
 * Spec: MQTT 5.0 sections 3.8 to 3.11.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"

struct sub_wait {
	struct sub_wait	*next;
	struct conn	*c;		/* held */
	uint64_t	 seq;		/* routes that must be acknowledged */
	uint64_t	 deadline_ms;
	uint32_t	 token;		/* of the first code, at the store */
	uint32_t	 unstored;	/* codes the store has not answered */
	uint32_t	 since;		/* retained_now() when it came */
	uint32_t	 kept_since;	/* ... of its store, at the last filter */
	uint16_t	 id;
	uint8_t		 type;		/* MQTT_SUBACK; MQTT_UNSUBACK behind one */
	bool		 asks;		/* for retained messages */
	uint32_t	 ncodes, room;
	uint8_t		*packet;	/* SUBSCRIBE, while it may be needed */
	uint32_t	 packet_len;
	uint8_t		 codes[];	/* then as many: what is still to be done */
};

enum { TODO_ASK = 1, TODO_STORE = 2, TODO_QOS = 4 };

static uint32_t last_token;

static void
suback(struct listener *l, struct conn *c, enum mqtt_type type, uint16_t id,
    const uint8_t *codes, size_t n)
{
	uint8_t	*p;
	size_t	 size = mqtt_suback_size(c->version, type, n, NULL);

	if (c->max_packet > 0 && size > c->max_packet) {
		client_close(l, c, MQTT_PACKET_TOO_LARGE);
		return;
	}
	if ((p = out_reserve(l, c, size)) == NULL)
		return;
	mqtt_suback_encode(c->version, type, id, codes, n, NULL, p);
	metric_inc(&m_packets_out);
}

/* The options byte as granted, 3.8.3.1. */
static uint8_t
options_of(const struct mqtt_subscription *s, uint8_t qos)
{
	return (uint8_t)((qos & 3) | s->no_local << 2 |
	    s->retain_as_published << 3 | s->retain_handling << 4);
}

static void
wait_free(struct sub_wait *w)
{
	free(w->packet);
	free(w);
}

/* The SUBACK is out: ask for what is retained. */
static void
ask_retained(struct listener *l, struct conn *c, const struct sub_wait *w)
{
	struct mqtt_frame	 f = {
		.type = MQTT_SUBSCRIBE, .flags = 2,
		.body = w->packet, .len = w->packet_len,
	};
	struct mqtt_subscribe	 s;
	struct mqtt_subscription one;
	size_t			 at = 0;
	uint32_t		 i, id;

	if (!w->asks || c->state != CONN_OPEN ||
	    mqtt_decode_subscribe(&f, c->version, &s) != 0)
		return;
	id = mqtt_props_has(&s.props, MQTT_P_SUBSCRIPTION_ID) ?
	    s.props.subscription_id : 0;
	for (i = 0; i < w->ncodes && mqtt_subscribe_next(&s,
	    l->conf->mqtt_max_topic_levels, &at, &one); i++)
		if (w->codes[w->ncodes + i] & TODO_ASK && w->codes[i] < 0x80)
			retained_ask(l, c, &one.topic.filter,
			    options_of(&one, w->codes[i]), id, w->since,
			    w->kept_since);
}

/* w has nothing to wait for: answer c; frees w. */
static void
finish(struct listener *l, struct conn *c, struct sub_wait *w)
{
	suback(l, c, w->type, w->id, w->codes, w->ncodes);
	ask_retained(l, c, w);
	wait_free(w);
}

/* Send w now if it has nothing to wait for, or later; takes w. The answers to
 * one client keep their order. */
static void
answer(struct listener *l, struct conn *c, struct sub_wait *w)
{
	if (w->seq <= l->tell.acked && w->unstored == 0 &&
	    c->nsub_waits == 0) {
		finish(l, c, w);
		return;
	}
	w->next = NULL;
	w->c = c;
	client_hold(c);
	c->nsub_waits++;
	w->deadline_ms = l->now_ms + l->conf->cluster_suback_timeout_ms;
	*l->subs_tail = w;
	l->subs_tail = &w->next;
	l->nsub_waits++;
	if (c->nsub_waits >= SUBACKS_MAX)
		client_park(l, c);
}

/* Has c, whose session its store has, this filter with QoS 0? Then that goes on
 * until the store has it with more, for nobody else sends what comes meanwhile
 * [MQTT-3.8.4-4]. */
static bool
must_go_on(struct listener *l, struct conn *c, const struct topic_sub *s)
{
	const struct index_sub *was;

	return c->handle != 0 && !s->shared &&
	    (was = index_get(l->index, &c->subs, NULL,
	    (const char *)s->filter.data, s->filter.len)) != NULL &&
	    was->qos == 0;
}

static uint8_t
subscribe_one(struct listener *l, struct conn *c,
    const struct mqtt_subscription *s, uint32_t sub_id, uint64_t *seq,
    uint8_t *todo, bool *is_new)
{
	const struct slice	*group;
	const char		*filter;
	size_t			 len;
	struct index_sub	 opts;
	struct index_filter	*f;
	uint8_t			 qos;
	int			 rc;

	if (s->reason != 0)
		return (uint8_t)s->reason;	/* and no topic is set */
	group = s->topic.shared ? &s->topic.group : NULL;
	filter = (const char *)s->topic.filter.data;
	len = s->topic.filter.len;
	if (s->topic.shared && !l->conf->mqtt_shared_subscription)
		return MQTT_SHARED_NOT_SUPPORTED;
	if (!l->conf->mqtt_wildcard_subscription &&
	    topic_has_wildcard(s->topic.filter.data, s->topic.filter.len))
		return MQTT_WILDCARDS_NOT_SUPPORTED;
	qos = MIN(s->qos, (uint8_t)l->conf->mqtt_max_qos);
	memset(&opts, 0, sizeof(opts));
	opts.id = sub_id & 0xfffffff;
	opts.qos = qos & 3;
	opts.no_local = s->no_local;
	opts.rap = s->retain_as_published;
	if (qos > 0 && must_go_on(l, c, &s->topic)) {
		opts.qos = 0;
		*todo |= TODO_QOS;
	}
	if (c->subs.n >= l->conf->mqtt_max_subscriptions &&
	    !index_has(l->index, &c->subs, group, filter, len)) {
		metric_inc(&m_dropped_quota);
		return MQTT_QUOTA_EXCEEDED;
	}
	rc = group == NULL ?
	    index_subscribe(l->index, &c->subs, filter, len, &opts, &f) :
	    index_share(l->index, &c->subs, group, filter, len, &opts, &f);
	if (rc >= 0 && f->is_group && (rc = groups_learn(l, f)) < 0) {
		(void)index_unshare(l->index, &c->subs, group, filter, len, &f);
		routes_changed(l, f);
	}
	if (rc < 0) {
		metric_inc(&m_dropped_quota);
		return rc == ERR_FULL ? MQTT_QUOTA_EXCEEDED :
		    MQTT_UNSPECIFIED_ERROR;
	}
	*is_new = rc == 1;
	routes_changed(l, f);
	*seq = MAX(*seq, route_seq_of(&l->tell, f));
	return qos;
}

/* w's packet will be looked at again. */
static bool
keep_packet(struct sub_wait *w, const struct mqtt_frame *f)
{
	if ((w->packet = malloc(f->len)) == NULL) {
		metric_inc(&m_dropped_memory);
		return false;
	}
	memcpy(w->packet, f->body, f->len);
	w->packet_len = (uint32_t)f->len;
	return true;
}

/* Room for the answer to a packet with n topics. */
static struct sub_wait *
wait_new(enum mqtt_type type, uint16_t id, size_t n)
{
	struct sub_wait *w;

	if ((w = calloc(1, sizeof(*w) + 2 * n)) == NULL)
		return NULL;
	w->type = (uint8_t)type;
	w->id = id;
	w->since = retained_now();
	w->room = (uint32_t)n;
	w->token = last_token + 1;
	last_token += (uint32_t)n;
	return w;
}

/* The store of c's session hears of it: true if it will answer. */
static bool
tell_store(struct listener *l, struct conn *c, struct sub_wait *w,
    const struct mqtt_subscription *s, uint8_t options, uint32_t sub_id)
{
	if (c->handle == 0)
		return true;
	if (session_subscribe(l, c, &s->topic, options, sub_id,
	    w->token + w->ncodes, w->type == MQTT_UNSUBACK) < 0)
		return false;
	w->codes[w->room + w->ncodes] |= TODO_STORE;
	w->unstored++;
	return true;
}

static void
event(struct listener *l, struct conn *c, const char *what,
    const struct slice *filter)
{
	char topic[256];

	if (filter->len < sizeof(topic)) {
		memcpy(topic, filter->data, filter->len);
		topic[filter->len] = '\0';
		sys_client_event(l, c, what, topic);
	}
}

void
on_subscribe(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_subscribe	 s;
	struct mqtt_subscription one;
	struct sub_wait		*w;
	uint64_t		 seq = 0;
	uint32_t		 sub_id;
	uint8_t			 code, options;
	size_t			 at = 0;
	bool			 is_new;
	int			 rc;

	if ((rc = mqtt_decode_subscribe(f, c->version, &s)) != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	if ((w = wait_new(MQTT_SUBACK, s.packet_id, s.count)) == NULL) {
		metric_inc(&m_dropped_memory);
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	sub_id = mqtt_props_has(&s.props, MQTT_P_SUBSCRIPTION_ID) ?
	    s.props.subscription_id : 0;
	while (mqtt_subscribe_next(&s, l->conf->mqtt_max_topic_levels, &at,
	    &one)) {
		is_new = false;
		code = subscribe_one(l, c, &one, sub_id, &seq,
		    &w->codes[w->room + w->ncodes], &is_new);
		options = options_of(&one, code);
		if (code < 0x80 && !tell_store(l, c, w, &one, options, sub_id))
			code = MQTT_QUOTA_EXCEEDED;
		w->codes[w->ncodes] = code;
		/* 3.3.1.3: none for who shares, or says so. */
		if (code < 0x80 && l->conf->mqtt_retain_available &&
		    !one.topic.shared && (one.retain_handling == 0 ||
		    (one.retain_handling == 1 && is_new))) {
			w->codes[w->room + w->ncodes] |= TODO_ASK;
			w->asks = true;
		}
		w->ncodes++;
		if (code < 0x80)
			event(l, c, "subscribed", &one.name);
	}
	if ((w->asks || w->unstored > 0) && !keep_packet(w, f)) {
		client_close(l, c, MQTT_SERVER_BUSY);
		wait_free(w);
		return;
	}
	metric_set(&m_subscriptions, index_nsubs(l->index));
	metric_set(&m_filters, index_nfilters(l->index));
	w->seq = seq;
	answer(l, c, w);
}

static int
unsubscribe_one(struct listener *l, struct conn *c, const struct topic_sub *s,
    struct index_filter **out)
{
	const char *filter = (const char *)s->filter.data;

	return s->shared ? index_unshare(l->index, &c->subs, &s->group, filter,
	    s->filter.len, out) : index_unsubscribe(l->index, &c->subs, filter,
	    s->filter.len, out);
}

/* The k-th topic of w is to be as its store has it, unless the client has
 * unsubscribed meanwhile. */
static void
follow_store(struct listener *l, struct sub_wait *w, uint32_t k,
    const struct session_msg *e)
{
	struct mqtt_frame	 f = {
		.type = MQTT_SUBSCRIBE, .flags = 2,
		.body = w->packet, .len = w->packet_len,
	};
	struct index_sub	 opts = {
		.id = e->sub_id & 0xfffffff, .qos = e->flags & 3,
		.no_local = (e->flags & 4) != 0, .rap = (e->flags & 8) != 0,
	};
	struct mqtt_subscribe	 s;
	struct mqtt_subscription one;
	struct index_filter	*filter;
	const struct slice	*group;
	const char		*text;
	size_t			 at = 0, len;
	uint32_t		 i;
	int			 rc;

	if (mqtt_decode_subscribe(&f, w->c->version, &s) != 0)
		return;
	for (i = 0; i <= k; i++)
		if (!mqtt_subscribe_next(&s, l->conf->mqtt_max_topic_levels,
		    &at, &one))
			return;
	group = one.topic.shared ? &one.topic.group : NULL;
	text = (const char *)one.topic.filter.data;
	len = one.topic.filter.len;
	if (!index_has(l->index, &w->c->subs, group, text, len))
		return;
	if (!e->present)
		rc = unsubscribe_one(l, w->c, &one.topic, &filter);
	else
		rc = group == NULL ? index_subscribe(l->index, &w->c->subs,
		    text, len, &opts, &filter) : index_share(l->index,
		    &w->c->subs, group, text, len, &opts, &filter);
	if (rc >= 0)
		routes_changed(l, filter);
	metric_set(&m_subscriptions, index_nsubs(l->index));
}

void
subscribe_stored(struct listener *l, const struct session_msg *e)
{
	struct sub_wait	*w;
	uint32_t	 k;
	uint8_t		*todo;

	for (w = l->subs_head; w != NULL; w = w->next)
		if (e->token - w->token < w->ncodes)
			break;		/* one that was asked for */
	if (w == NULL)
		return;
	k = e->token - w->token;
	todo = &w->codes[w->ncodes + k];
	if ((*todo & TODO_STORE) == 0)
		return;				/* it answered twice */
	*todo &= (uint8_t)~TODO_STORE;
	w->kept_since = (uint32_t)e->time;
	if (e->what >= 0x80)
		w->codes[k] = (uint8_t)e->what;
	if ((e->what >= 0x80 || *todo & TODO_QOS) && w->type == MQTT_SUBACK &&
	    w->packet != NULL && w->c->state == CONN_OPEN)
		follow_store(l, w, k, e);
	if (--w->unstored == 0)
		l->subs_due = true;
}

static void
unsubscribe_again(struct listener *l, struct sub_wait *w,
    const struct mqtt_frame *f)
{
	struct mqtt_unsubscribe	 u;
	struct mqtt_subscription one;
	size_t			 at = 0;
	uint32_t		 i;

	if (mqtt_decode_unsubscribe(f, w->c->version, &u) != 0)
		return;
	for (i = 0; i < w->ncodes && mqtt_unsubscribe_next(&u,
	    l->conf->mqtt_max_topic_levels, &at, &one); i++)
		if (w->codes[w->ncodes + i] & TODO_STORE)
			(void)session_subscribe(l, w->c, &one.topic, 0, 0,
			    w->token + i, true);
}

static void
subscribe_one_again(struct listener *l, struct sub_wait *w,
    const struct mqtt_frame *f)
{
	struct mqtt_subscribe	 s;
	struct mqtt_subscription one;
	size_t			 at = 0;
	uint32_t		 i, id;

	if (mqtt_decode_subscribe(f, w->c->version, &s) != 0)
		return;
	id = mqtt_props_has(&s.props, MQTT_P_SUBSCRIPTION_ID) ?
	    s.props.subscription_id : 0;
	for (i = 0; i < w->ncodes && mqtt_subscribe_next(&s,
	    l->conf->mqtt_max_topic_levels, &at, &one); i++)
		if (w->codes[w->ncodes + i] & TODO_STORE)
			(void)session_subscribe(l, w->c, &one.topic,
			    options_of(&one, w->codes[i]), id, w->token + i,
			    false);
}

void
subscribe_again(struct listener *l, const struct peer *store)
{
	struct sub_wait		*w;
	struct mqtt_frame	 f;

	for (w = l->subs_head; w != NULL; w = w->next) {
		if (w->unstored == 0 || w->packet == NULL ||
		    w->c->state != CONN_OPEN || session_shard(l,
		    w->c->client_id, w->c->client_id_len) != store)
			continue;
		f = (struct mqtt_frame){
			.type = w->type == MQTT_SUBACK ? MQTT_SUBSCRIBE :
			    MQTT_UNSUBSCRIBE, .flags = 2,
			.body = w->packet, .len = w->packet_len,
		};
		if (w->type == MQTT_SUBACK)
			subscribe_one_again(l, w, &f);
		else
			unsubscribe_again(l, w, &f);
	}
}

/*
 * Those that have nothing to wait for any more, each client's in order. Who
 * waits for a store does not hold up others behind it.
 */
void
subscribe_answer(struct listener *l)
{
	struct sub_wait	*w, **at = &l->subs_head;
	size_t		 late = 0;

	l->subs_due = false;
	l->subs_pass++;
	while ((w = *at) != NULL) {
		if (w->c->state == CONN_OPEN && (w->unstored > 0 ||
		    w->c->subs_pass == l->subs_pass)) {
			w->c->subs_pass = l->subs_pass;
			at = &w->next;
			continue;
		}
		if (w->seq > l->tell.acked) {
			if (w->deadline_ms > l->now_ms)
				break;
			metric_inc(&m_suback_timeouts);
			late++;
		}
		if ((*at = w->next) == NULL)
			l->subs_tail = at;
		l->nsub_waits--;
		if (--w->c->nsub_waits < SUBACKS_MAX / 2 && w->c->parked)
			l->unpark = true;
		client_release(l, w->c);
		if (w->c->state == CONN_OPEN)
			finish(l, w->c, w);
		else
			wait_free(w);
	}
	if (late > 0)
		log_warn("suback.timeout", "subacks=%zu after_ms=%u", late,
		    l->conf->cluster_suback_timeout_ms);
}

void
subscribe_rebase(struct listener *l, uint64_t seq)
{
	struct sub_wait *w;

	for (w = l->subs_head; w != NULL; w = w->next)
		if (w->seq > l->tell.acked)
			w->seq = seq;
}

void
subscribe_free(struct listener *l)
{
	struct sub_wait *w;

	while ((w = l->subs_head) != NULL) {
		l->subs_head = w->next;
		client_release(l, w->c);
		wait_free(w);
	}
	l->subs_tail = &l->subs_head;
	l->nsub_waits = 0;
}

void
on_unsubscribe(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_unsubscribe	 u;
	struct mqtt_subscription one;
	struct index_filter	*filter;
	struct sub_wait		*w;
	uint8_t			*code;
	size_t			 at = 0;
	int			 rc;

	if ((rc = mqtt_decode_unsubscribe(f, c->version, &u)) != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	if ((w = wait_new(MQTT_UNSUBACK, u.packet_id, u.count)) == NULL) {
		metric_inc(&m_dropped_memory);
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	while (mqtt_unsubscribe_next(&u, l->conf->mqtt_max_topic_levels, &at,
	    &one)) {
		code = &w->codes[w->ncodes];
		*code = MQTT_SUCCESS;
		if (one.reason != 0)
			*code = (uint8_t)one.reason;
		else if (!tell_store(l, c, w, &one, 0, 0))
			*code = MQTT_UNSPECIFIED_ERROR;	/* no 0x97: 3.11.3 */
		else if (unsubscribe_one(l, c, &one.topic, &filter) < 0)
			*code = MQTT_NO_SUBSCRIPTION_EXISTED;
		else {
			routes_changed(l, filter);
			event(l, c, "unsubscribed", &one.name);
		}
		w->ncodes++;
	}
	metric_set(&m_subscriptions, index_nsubs(l->index));
	if (w->unstored > 0 && !keep_packet(w, f)) {
		client_close(l, c, MQTT_SERVER_BUSY);
		wait_free(w);
		return;
	}
	answer(l, c, w);
}

uint32_t
subscribe_token(uint32_t token, bool set)
{
	if (set)
		last_token = token;
	return last_token;
}

/* --- From one process to another ---------------------------------------- */

int
subscribe_each(const struct listener *l, int (*each)(void *ctx,
    const struct sub_wait_view *w), void *ctx)
{
	const struct sub_wait	*w;
	struct sub_wait_view	 v;
	int			 rc;

	for (w = l->subs_head; w != NULL; w = w->next) {
		v = (struct sub_wait_view){ w->c, w->seq, w->deadline_ms,
		    w->id, w->type, { w->codes, 2 * (size_t)w->ncodes },
		    w->token, w->unstored, w->asks,
		    { w->packet, w->packet_len }, w->since, w->kept_since };
		if ((rc = each(ctx, &v)) != 0)
			return rc;
	}
	return 0;
}

int
subscribe_restore(struct listener *l, const struct sub_wait_view *v)
{
	struct sub_wait *w;

	if ((w = calloc(1, sizeof(*w) + v->codes.len)) == NULL)
		return ERR_NOMEM;
	if (v->packet.len > 0 &&
	    (w->packet = malloc(v->packet.len)) == NULL) {
		free(w);
		return ERR_NOMEM;
	}
	if (v->packet.len > 0)
		memcpy(w->packet, v->packet.data, v->packet.len);
	w->packet_len = (uint32_t)v->packet.len;
	w->token = v->token;
	w->unstored = v->unstored;
	w->asks = v->asks && w->packet != NULL;
	w->c = v->c;
	w->seq = v->seq;
	w->deadline_ms = v->deadline_ms;
	w->id = v->id;
	w->type = v->type;
	w->since = v->since;
	w->kept_since = v->kept_since;
	w->ncodes = w->room = (uint32_t)v->codes.len / 2;
	if (w->ncodes > 0)
		memcpy(w->codes, v->codes.data, v->codes.len);
	client_hold(w->c);
	w->c->nsub_waits++;
	*l->subs_tail = w;
	l->subs_tail = &w->next;
	l->nsub_waits++;
	return 0;
}

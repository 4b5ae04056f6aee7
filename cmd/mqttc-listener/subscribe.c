/*
 * subscribe.c: SUBSCRIBE and UNSUBSCRIBE. A subscription works on this
 * listener at once; SUBACK waits until its routes are in the FIB of every
 * running reader, so that after it a message published anywhere on the node
 * arrives, or until cluster.suback_timeout, which is counted.
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
	uint16_t	 id;
	uint8_t		 type;		/* MQTT_SUBACK; MQTT_UNSUBACK behind one */
	uint32_t	 ncodes;
	uint8_t		 codes[];
};

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

/* Send w now if it has nothing to wait for, or later; takes w. The answers to
 * one client keep their order. */
static void
answer(struct listener *l, struct conn *c, struct sub_wait *w)
{
	if (w->seq <= l->tell.acked && c->nsub_waits == 0) {
		suback(l, c, w->type, w->id, w->codes, w->ncodes);
		free(w);
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

static uint8_t
subscribe_one(struct listener *l, struct conn *c,
    const struct mqtt_subscription *s, uint32_t sub_id, uint64_t *seq)
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
	routes_changed(l, f);
	if (f->route_seq > *seq)
		*seq = f->route_seq;
	return qos;
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
	size_t			 at = 0;
	int			 rc;

	if ((rc = mqtt_decode_subscribe(f, c->version, &s)) != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	if ((w = malloc(sizeof(*w) + s.count)) == NULL) {
		metric_inc(&m_dropped_memory);
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	sub_id = mqtt_props_has(&s.props, MQTT_P_SUBSCRIPTION_ID) ?
	    s.props.subscription_id : 0;
	w->ncodes = 0;
	while (mqtt_subscribe_next(&s, l->conf->mqtt_max_topic_levels, &at,
	    &one)) {
		w->codes[w->ncodes] = subscribe_one(l, c, &one, sub_id, &seq);
		if (w->codes[w->ncodes++] < 0x80)
			event(l, c, "subscribed", &one.name);
	}
	metric_set(&m_subscriptions, index_nsubs(l->index));
	metric_set(&m_filters, index_nfilters(l->index));
	w->type = MQTT_SUBACK;
	w->id = s.packet_id;
	w->seq = seq;
	answer(l, c, w);
}

void
subscribe_answer(struct listener *l)
{
	struct sub_wait	*w;
	size_t		 late = 0;

	while ((w = l->subs_head) != NULL) {
		if (w->seq > l->tell.acked) {
			if (w->deadline_ms > l->now_ms)
				break;
			metric_inc(&m_suback_timeouts);
			late++;
		}
		if ((l->subs_head = w->next) == NULL)
			l->subs_tail = &l->subs_head;
		l->nsub_waits--;
		if (--w->c->nsub_waits < SUBACKS_MAX / 2 && w->c->parked)
			l->unpark = true;
		if (w->c->state == CONN_OPEN)
			suback(l, w->c, w->type, w->id, w->codes, w->ncodes);
		client_release(l, w->c);
		free(w);
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
		free(w);
	}
	l->subs_tail = &l->subs_head;
	l->nsub_waits = 0;
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
	if ((w = malloc(sizeof(*w) + u.count)) == NULL) {
		metric_inc(&m_dropped_memory);
		client_close(l, c, MQTT_SERVER_BUSY);
		return;
	}
	w->ncodes = 0;
	while (mqtt_unsubscribe_next(&u, l->conf->mqtt_max_topic_levels, &at,
	    &one)) {
		code = &w->codes[w->ncodes++];
		*code = MQTT_SUCCESS;
		if (one.reason != 0)
			*code = (uint8_t)one.reason;
		else if (unsubscribe_one(l, c, &one.topic, &filter) < 0)
			*code = MQTT_NO_SUBSCRIPTION_EXISTED;
		else {
			routes_changed(l, filter);
			event(l, c, "unsubscribed", &one.name);
		}
	}
	metric_set(&m_subscriptions, index_nsubs(l->index));
	w->type = MQTT_UNSUBACK;
	w->id = u.packet_id;
	w->seq = 0;
	answer(l, c, w);
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
		    w->id, w->type, { w->codes, w->ncodes } };
		if ((rc = each(ctx, &v)) != 0)
			return rc;
	}
	return 0;
}

int
subscribe_restore(struct listener *l, const struct sub_wait_view *v)
{
	struct sub_wait *w;

	if ((w = malloc(sizeof(*w) + v->codes.len)) == NULL)
		return ERR_NOMEM;
	w->next = NULL;
	w->c = v->c;
	w->seq = v->seq;
	w->deadline_ms = v->deadline_ms;
	w->id = v->id;
	w->type = v->type;
	w->ncodes = (uint32_t)v->codes.len;
	if (w->ncodes > 0)
		memcpy(w->codes, v->codes.data, w->ncodes);
	client_hold(w->c);
	w->c->nsub_waits++;
	*l->subs_tail = w;
	l->subs_tail = &w->next;
	l->nsub_waits++;
	return 0;
}

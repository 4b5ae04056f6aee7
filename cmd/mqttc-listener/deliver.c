/*
 * deliver.c: one message to one client. A message is encoded once per
 * (version, QoS above 0, retain) and copied from there; what a client's window
 * or socket cannot take waits in its mqueue.
 * Spec: MQTT 5.0 sections 3.3, 4.3, 4.9.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"

/* --- Encoding ----------------------------------------------------------- */

static bool
enc_room(struct listener *l, size_t n)
{
	uint8_t	*grown;
	size_t	 cap;

	if (l->enc_len + n <= l->enc_cap)
		return true;
	cap = MAX(l->enc_cap * 2, l->enc_len + n);
	if ((grown = realloc(l->enc, cap)) == NULL)
		return false;
	l->enc = grown;
	l->enc_cap = cap;
	return true;
}

static void
fill(struct mqtt_publish_out *o, const struct message_view *v,
    const struct mqueue_how *how)
{
	o->topic = v->topic;
	o->props = v->props;
	o->payload_len = v->payload.len;
	o->subscription_ids = how->ids;
	o->nsubscription_ids = how->nids;
	o->has_message_expiry = v->expiry_s != MESSAGE_NO_EXPIRY;
	o->message_expiry_s = v->expiry_s;
	o->topic_alias = 0;
	o->packet_id = 0;
	o->qos = how->qos;
	o->retain = how->retain;
	o->dup = false;
}

/* The payload as a blob all may refer to. */
static bool
share(struct pub *p)
{
	if (p->blob != NULL)
		return true;
	if ((p->blob = blob_new(p->v.payload.len)) == NULL)
		return false;
	memcpy(p->blob->data, p->v.payload.data, p->v.payload.len);
	return true;
}

static bool
encode_shared(struct listener *l, struct pub *p, unsigned version,
    const struct mqueue_how *how, struct encoded *e)
{
	struct mqtt_publish_out	 o;
	size_t			 id_at;

	fill(&o, &p->v, how);
	e->size = (uint32_t)mqtt_publish_size(version, &o);
	e->whole = p->v.payload.len <= SHARE_MIN;
	if (e->size == 0 || !enc_room(l, mqtt_publish_head_max(&o) +
	    (e->whole ? p->v.payload.len : 0)) || (!e->whole && !share(p)))
		return false;
	e->off = (uint32_t)l->enc_len;
	e->len = (uint32_t)mqtt_publish_head(version, &o, l->enc + e->off,
	    &id_at);
	e->id_at = (uint32_t)id_at;
	if (e->whole && p->v.payload.len > 0) {
		memcpy(l->enc + e->off + e->len, p->v.payload.data,
		    p->v.payload.len);
		e->len += (uint32_t)p->v.payload.len;
	}
	l->enc_len += e->len;
	e->made = true;
	return true;
}

/* --- Topic aliases towards the client, 3.3.2.3.4 ------------------------ */

/* Let o name its topic by alias if c has one for it, or may have one more. */
static void
alias_apply(struct conn *c, struct mqtt_publish_out *o)
{
	uint64_t	 h = XXH3_64bits(o->topic.data, o->topic.len);
	struct alias_out *a;
	uint16_t	 i;

	if (c->aliases == NULL &&
	    (c->aliases = calloc(1, sizeof(*c->aliases))) == NULL)
		return;
	for (i = 0; i < c->aliases->nout; i++) {
		a = &c->aliases->out[i];
		if (a->hash == h && a->len == o->topic.len &&
		    memcmp(a->topic, o->topic.data, a->len) == 0) {
			o->topic.len = 0;
			o->topic_alias = (uint16_t)(i + 1);
			return;
		}
	}
	if (i >= c->alias_max || i >= ALIASES_OUT_MAX)
		return;
	a = &c->aliases->out[i];
	if ((a->topic = malloc(o->topic.len)) == NULL)
		return;
	memcpy(a->topic, o->topic.data, o->topic.len);
	a->hash = h;
	a->len = (uint16_t)o->topic.len;
	c->aliases->nout++;
	o->topic_alias = (uint16_t)(i + 1);
}

/* Take back the alias just given out: its packet is not sent after all. */
static void
alias_undo(struct conn *c, const struct mqtt_publish_out *o)
{
	if (o->topic_alias != 0 && o->topic.len > 0)
		free(c->aliases->out[--c->aliases->nout].topic);
}

static inline bool
is_too_large(const struct conn *c, size_t size)
{
	return size == 0 || (c->max_packet > 0 && size > c->max_packet);
}

/* The size of o with an alias if c takes any: but never larger than c takes
 * only because the alias is told. */
static size_t
aliased_size(struct conn *c, struct mqtt_publish_out *o)
{
	size_t size;

	if (c->alias_max > 0)
		alias_apply(c, o);
	size = mqtt_publish_size(c->version, o);
	if (is_too_large(c, size)) {
		alias_undo(c, o);
		if (o->topic.len > 0)
			o->topic_alias = 0;
		size = mqtt_publish_size(c->version, o);
	}
	return size;
}

void
aliases_free(struct aliases **pa)
{
	struct aliases	*a = *pa;
	uint16_t	 i;

	*pa = NULL;
	if (a == NULL)
		return;
	for (i = 0; i < a->nin; i++)
		free(a->in[i]);
	free(a->in);
	for (i = 0; i < a->nout; i++)
		free(a->out[i].topic);
	free(a);
}

/* --- Sending ------------------------------------------------------------ */

static void
drop(struct conn *c, struct metric *why)
{
	metric_inc(why);
	c->dropped++;
}

static inline void
sent(struct listener *l, struct conn *c, const struct mqueue_how *how,
    size_t size)
{
	static struct metric *const by_qos[] = { &m_publish_out_qos0,
	    &m_publish_out_qos1, &m_publish_out_qos2 };

	c->msgs_out++;
	metric_inc(&m_publish_out);
	metric_inc(by_qos[how->qos]);
	metric_inc(&m_packets_out);
	turn_spend(l, size);
	if (UNLIKELY(c->out.bytes > OUT_EAGER) && !c->blocked)
		out_flush(l, c);
}

/* Packet id and message id, side by side: with -v. */
static void
trace_out(const struct pub *p, const struct conn *c,
    const struct mqueue_how *how, uint16_t id)
{
	log_debug("publish.out", "id=%016llx%016llx client=%s packet=%u qos=%u",
	    (unsigned long long)p->id.hi, (unsigned long long)p->id.lo,
	    log_quote(c->client_id), id, how->qos);
}

/* A packet only this client gets: subscription identifiers, aliases. */
static void
send_own(struct listener *l, struct pub *p, struct conn *c,
    const struct mqueue_how *how)
{
	struct mqtt_publish_out	 o;
	bool			 apart = p->v.payload.len > SHARE_MIN;
	uint8_t			*dst;
	size_t			 size, head;

	fill(&o, &p->v, how);
	size = aliased_size(c, &o);
	if (is_too_large(c, size)) {
		drop(c, &m_dropped_too_large);	/* [MQTT-3.1.2-25] */
		return;
	}
	if ((apart && !share(p)) || (how->qos > 0 &&
	    window_send(c->window, how->qos, &o.packet_id) < 0)) {
		alias_undo(c, &o);
		drop(c, &m_dropped_memory);
		return;
	}
	if (UNLIKELY(how->group != NULL) && how->qos == 1)
		groups_keep(l, c, p, how->group, o.packet_id);
	head = size - p->v.payload.len;
	if ((dst = out_reserve(l, c, head + (apart ? 0 :
	    p->v.payload.len))) == NULL)
		return;
	mqtt_publish_head(c->version, &o, dst, NULL);
	if (apart)
		(void)out_blob(l, c, p->blob, p->v.payload.len);
	else if (p->v.payload.len > 0)
		memcpy(dst + head, p->v.payload.data, p->v.payload.len);
	trace_out(p, c, how, o.packet_id);
	sent(l, c, how, size);
}

static void
send_now(struct listener *l, struct pub *p, struct conn *c,
    const struct mqueue_how *how)
{
	struct encoded	*e;
	uint8_t		*dst;
	uint16_t	 id = 0;

	if (UNLIKELY(how->nids > 0 || c->alias_max > 0)) {
		send_own(l, p, c, how);
		return;
	}
	e = &p->enc[(c->version == MQTT_V5) << 2 | (how->qos > 0) << 1 |
	    how->retain];
	if (UNLIKELY(!e->made) && !encode_shared(l, p, c->version, how, e)) {
		drop(c, &m_dropped_memory);
		return;
	}
	if (UNLIKELY(is_too_large(c, e->size))) {
		drop(c, &m_dropped_too_large);	/* [MQTT-3.1.2-25] */
		return;
	}
	if (how->qos > 0 && window_send(c->window, how->qos, &id) < 0) {
		drop(c, &m_dropped_memory);
		return;
	}
	if (UNLIKELY(how->group != NULL) && how->qos == 1)
		groups_keep(l, c, p, how->group, id);
	if ((dst = out_reserve(l, c, e->len)) == NULL)
		return;
	memcpy(dst, l->enc + e->off, e->len);
	if (how->qos > 0) {
		dst[0] = (uint8_t)((dst[0] & ~6) | how->qos << 1);
		put_be16(dst + e->id_at, id);
	}
	if (!e->whole)
		(void)out_blob(l, c, p->blob, p->v.payload.len);
	trace_out(p, c, how, id);
	sent(l, c, how, e->size);
}

bool
deliver_served(struct listener *l, struct conn *c,
    const struct message_view *v, const struct mqueue_how *how, uint16_t id,
    bool dup)
{
	struct mqtt_publish_out	 o;
	uint8_t			*dst;
	size_t			 size, head;

	fill(&o, v, how);
	o.packet_id = id;
	o.dup = dup;
	size = aliased_size(c, &o);
	if (is_too_large(c, size)) {
		drop(c, &m_dropped_too_large);	/* [MQTT-3.1.2-25] */
		return false;
	}
	if (c->window == NULL)
		c->window = window_new(65535);
	if (c->window == NULL || window_put(c->window, how->qos == 1 ?
	    WINDOW_PUBACK_DUE : WINDOW_PUBREC_DUE, id) < 0) {
		alias_undo(c, &o);
		metric_inc(&m_dropped_memory);
		client_doom(l, c);		/* it will be sent again */
		return true;
	}
	head = size - v->payload.len;
	if ((dst = out_reserve(l, c, size)) == NULL)
		return true;
	mqtt_publish_head(c->version, &o, dst, NULL);
	if (v->payload.len > 0)
		memcpy(dst + head, v->payload.data, v->payload.len);
	log_debug("publish.served", "client=%s packet=%u qos=%u dup=%u",
	    log_quote(c->client_id), id, how->qos, dup);
	sent(l, c, how, size);
	return true;
}

/* --- Queueing ----------------------------------------------------------- */

struct message *
deliver_message(struct listener *l, struct pub *p)
{
	struct message_view v = p->v;

	if (p->m != NULL)
		return p->m;
	if (v.payload.len > SHARE_MIN && !share(p))
		return NULL;
	v.client_id = groups_keep_id(l) ? p->client_id :
	    (struct slice){ NULL, 0 };
	if ((p->m = message_new(&v, p->blob, l->now_ms)) != NULL) {
		p->m->id_hi = p->id.hi;
		p->m->id_lo = p->id.lo;
	}
	return p->m;
}

static void
enqueue(struct listener *l, struct pub *p, struct conn *c,
    const struct mqueue_how *how)
{
	struct mqueue	left = { 0 };
	int		n;

	if (c->mqueue == NULL)
		c->mqueue = calloc(1, sizeof(*c->mqueue));
	if (deliver_message(l, p) == NULL || c->mqueue == NULL ||
	    (n = mqueue_push(c->mqueue, p->m, how, l->conf->mqtt_max_mqueue_len,
	    l->conf->mqtt_max_mqueue_bytes, &left)) < 0) {
		drop(c, &m_dropped_memory);
		return;
	}
	if (UNLIKELY(left.n > 0))
		n += groups_pass_over(l, &left);
	metric_inc(&m_queued);
	metric_add(&m_dropped_queue_full, (uint64_t)n);
	c->dropped += (uint32_t)n;
	turn_spend(l, 64);
}

static bool
window_ready(struct listener *l, struct conn *c)
{
	if (c->window == NULL) {
		c->window = window_new((uint16_t)MIN(c->receive_maximum,
		    l->conf->mqtt_max_inflight));
		if (c->window == NULL)
			return false;
	}
	return !window_is_full(c->window);
}

/* Is there no room for it in the window or the socket? */
static inline bool
must_wait(struct listener *l, struct conn *c, const struct mqueue_how *how)
{
	return UNLIKELY(out_is_choked(l, c)) ||
	    (how->qos > 0 && !window_ready(l, c)) ||
	    (UNLIKELY(how->group != NULL) && !groups_may_send(l, c));
}

void
deliver(struct listener *l, struct pub *p, struct conn *c,
    const struct mqueue_how *how)
{
	if (UNLIKELY(c->state != CONN_OPEN))
		return;
	if (UNLIKELY(c->handle != 0 && how->qos > 0))
		return;			/* its store sends it that */
	if (UNLIKELY(c->mqueue != NULL && c->mqueue->n > 0) ||
	    must_wait(l, c, how))
		enqueue(l, p, c, how);
	else
		send_now(l, p, c, how);
}

bool
deliver_has_room(struct listener *l, const struct pub *p, struct conn *c,
    const struct mqueue_how *how)
{
	if ((c->mqueue == NULL || c->mqueue->n == 0) && !must_wait(l, c, how))
		return true;
	return mqueue_fits(c->mqueue, message_view_size(&p->v), how,
	    l->conf->mqtt_max_mqueue_len, l->conf->mqtt_max_mqueue_bytes);
}

bool
deliver_is_too_large(const struct pub *p, const struct conn *c,
    const struct mqueue_how *how)
{
	struct mqtt_publish_out o;

	if (LIKELY(c->max_packet == 0))
		return false;
	fill(&o, &p->v, how);
	/* An alias may make it fit. */
	return c->alias_max == 0 &&
	    is_too_large(c, mqtt_publish_size(c->version, &o));
}

void
deliver_queued(struct listener *l, struct conn *c)
{
	const struct mqueue_how	*how;
	struct message		*m;
	struct pub		 p;

	while (c->state == CONN_OPEN && c->mqueue != NULL &&
	    (m = mqueue_peek(c->mqueue, &how)) != NULL) {
		memset(&p, 0, sizeof(p));
		message_view(m, l->now_ms, &p.v);
		if (p.v.expiry_s == 0) {	/* [MQTT-3.3.2-5] */
			mqueue_pop(c->mqueue);
			drop(c, &m_dropped_expired);
			continue;
		}
		if (must_wait(l, c, how))
			return;
		p.m = m;
		p.blob = m->blob;
		p.id = (struct msgid){ m->id_hi, m->id_lo };
		l->enc_len = 0;
		send_now(l, &p, c, how);
		mqueue_pop(c->mqueue);
	}
}

/* --- Acknowledgements from the client ----------------------------------- */

void
on_puback(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_ack		 a;
	enum window_event	 event;
	enum window_act		 act;
	uint8_t			*p;
	int			 rc;

	if ((rc = mqtt_decode_ack(f, c->version, &a)) != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	if (f->type == MQTT_PUBACK)
		event = WINDOW_GOT_PUBACK;
	else if (f->type == MQTT_PUBCOMP)
		event = WINDOW_GOT_PUBCOMP;
	else
		event = a.reason >= 0x80 ? WINDOW_GOT_REJECTED :
		    WINDOW_GOT_PUBREC;
	if (UNLIKELY(c->handle != 0) && event == WINDOW_GOT_PUBREC &&
	    c->window != NULL && window_state(c->window, a.packet_id) ==
	    WINDOW_PUBREC_DUE) {
		/* Its store keeps it first, then says PUBREL. */
		session_ack(l, c, f->type, a.packet_id, false);
		return;
	}
	act = c->window == NULL ? WINDOW_REFUSE :
	    window_step(c->window, a.packet_id, event);
	switch (act) {
	case WINDOW_RELEASE:
		if (UNLIKELY(c->handle != 0))
			session_ack(l, c, f->type, a.packet_id,
			    event == WINDOW_GOT_REJECTED);
		if (UNLIKELY(c->kept != NULL))
			groups_answered(c, a.packet_id);
		if (c->mqueue != NULL && c->mqueue->n > 0)
			deliver_queued(l, c);
		return;
	case WINDOW_SEND_PUBREL:
		if ((p = out_reserve(l, c, 4)) != NULL)
			mqtt_ack_encode_short(MQTT_PUBREL, a.packet_id, p);
		metric_inc(&m_packets_out);
		return;
	case WINDOW_REFUSE:
		metric_inc(&m_acks_unknown);
		if (event != WINDOW_GOT_PUBREC)
			return;
		/* 4.3.3: let the client finish what we do not know. */
		if ((p = out_reserve(l, c, mqtt_ack_size(c->version,
		    MQTT_PACKET_ID_NOT_FOUND, NULL))) != NULL)
			mqtt_ack_encode(c->version, MQTT_PUBREL, a.packet_id,
			    MQTT_PACKET_ID_NOT_FOUND, NULL, p);
		metric_inc(&m_packets_out);
		return;
	}
}

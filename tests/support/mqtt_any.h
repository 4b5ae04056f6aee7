/*
 * mqtt_any.h: decode whatever packet it is, look at all of it, and encode it
 * again: what the unit tests and the fuzz target of the codec share.
 */
#ifndef SUPPORT_MQTT_ANY_H
#define SUPPORT_MQTT_ANY_H

#include <stdlib.h>
#include <string.h>

#include "mqtt/decode.h"
#include "mqtt/encode.h"

struct any {
	struct mqtt_frame	frame;
	unsigned		version;	/* CONNECT: its own */
	union {
		struct mqtt_connect	connect;
		struct mqtt_connack	connack;
		struct mqtt_publish	publish;
		struct mqtt_ack		ack;
		struct mqtt_subscribe	subscribe;
		struct mqtt_unsubscribe	unsubscribe;
		struct mqtt_suback	suback;
		struct mqtt_disconnect	disconnect;
		struct mqtt_auth	auth;
	};
};

static volatile unsigned any_sink;

/* Read every byte, so that a sanitizer sees a slice that lies outside. */
static inline void
any_touch(struct slice s)
{
	size_t		i;
	unsigned	sum = 0;

	for (i = 0; i < s.len; i++)
		sum += s.data[i];
	any_sink = any_sink + sum;
}

static inline void
any_touch_props(const struct mqtt_props *p)
{
	const struct { enum mqtt_prop id; const struct slice *s; } slices[] = {
		{ MQTT_P_CONTENT_TYPE, &p->content_type },
		{ MQTT_P_RESPONSE_TOPIC, &p->response_topic },
		{ MQTT_P_CORRELATION_DATA, &p->correlation_data },
		{ MQTT_P_ASSIGNED_CLIENT_ID, &p->assigned_client_id },
		{ MQTT_P_AUTH_METHOD, &p->auth_method },
		{ MQTT_P_AUTH_DATA, &p->auth_data },
		{ MQTT_P_RESPONSE_INFO, &p->response_info },
		{ MQTT_P_SERVER_REFERENCE, &p->server_reference },
		{ MQTT_P_REASON_STRING, &p->reason_string },
		{ MQTT_P_USER_PROPERTY, &p->user },
	};
	struct slice	name, value;
	size_t		at = 0, i;
	unsigned	users = 0, ids = 0;
	uint32_t	id;

	for (i = 0; i < NELEM(slices); i++)
		if (mqtt_props_has(p, slices[i].id))
			any_touch(*slices[i].s);
	while (mqtt_props_user_next(p, &at, &name, &value)) {
		any_touch(name);
		any_touch(value);
		users++;
	}
	if (mqtt_props_has(p, MQTT_P_USER_PROPERTY) && users != p->nuser)
		abort();
	at = 0;
	while (mqtt_props_subscription_id_next(p, &at, &id))
		ids++;
	if (mqtt_props_has(p, MQTT_P_SUBSCRIPTION_ID) &&
	    ids != p->nsubscription_ids)
		abort();
}

static inline void
any_touch_sub(const struct mqtt_subscription *s)
{
	any_touch(s->name);
	if (s->reason == 0) {
		any_touch(s->topic.filter);
		any_touch(s->topic.group);
	}
}

static inline void
any_touch_all(const struct any *a)
{
	struct mqtt_subscription sub;
	size_t		at = 0;
	unsigned	n = 0;

	switch ((enum mqtt_type)a->frame.type) {
	case MQTT_CONNECT:
		any_touch(a->connect.client_id);
		any_touch(a->connect.username);
		any_touch(a->connect.password);
		any_touch(a->connect.will_topic);
		any_touch(a->connect.will_payload);
		any_touch_props(&a->connect.props);
		any_touch_props(&a->connect.will_props);
		break;
	case MQTT_CONNACK:
		any_touch_props(&a->connack.props);
		break;
	case MQTT_PUBLISH:
		any_touch(a->publish.topic);
		any_touch(a->publish.payload);
		any_touch_props(&a->publish.props);
		break;
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
		any_touch_props(&a->ack.props);
		break;
	case MQTT_SUBSCRIBE:
		while (mqtt_subscribe_next(&a->subscribe, 0, &at, &sub)) {
			any_touch_sub(&sub);
			n++;
		}
		if (n != a->subscribe.count)
			abort();
		any_touch_props(&a->subscribe.props);
		break;
	case MQTT_UNSUBSCRIBE:
		while (mqtt_unsubscribe_next(&a->unsubscribe, 0, &at, &sub)) {
			any_touch_sub(&sub);
			n++;
		}
		if (n != a->unsubscribe.count)
			abort();
		any_touch_props(&a->unsubscribe.props);
		break;
	case MQTT_SUBACK:
	case MQTT_UNSUBACK:
		any_touch(a->suback.codes);
		any_touch_props(&a->suback.props);
		break;
	case MQTT_PINGREQ:
	case MQTT_PINGRESP:
		break;
	case MQTT_DISCONNECT:
		any_touch_props(&a->disconnect.props);
		break;
	case MQTT_AUTH:
		any_touch_props(&a->auth.props);
		break;
	}
}

/* The frame is in a->frame; flags as the decoders take them. */
static inline int
any_decode_body(struct any *a, unsigned flags, unsigned max_levels)
{
	const struct mqtt_frame *f = &a->frame;
	int	rc;

	switch ((enum mqtt_type)f->type) {
	case MQTT_CONNECT:
		rc = mqtt_decode_connect(f, max_levels, &a->connect);
		a->version = a->connect.version;
		return rc;
	case MQTT_CONNACK:
		return mqtt_decode_connack(f, a->version, &a->connack);
	case MQTT_PUBLISH:
		return mqtt_decode_publish(f, a->version, flags, max_levels,
		    &a->publish);
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
		return mqtt_decode_ack(f, a->version, &a->ack);
	case MQTT_SUBSCRIBE:
		return mqtt_decode_subscribe(f, a->version, &a->subscribe);
	case MQTT_UNSUBSCRIBE:
		return mqtt_decode_unsubscribe(f, a->version, &a->unsubscribe);
	case MQTT_SUBACK:
	case MQTT_UNSUBACK:
		return mqtt_decode_suback(f, a->version, &a->suback);
	case MQTT_PINGREQ:
	case MQTT_PINGRESP:
		return mqtt_decode_ping(f);
	case MQTT_DISCONNECT:
		return mqtt_decode_disconnect(f, a->version, flags,
		    &a->disconnect);
	case MQTT_AUTH:
		return mqtt_decode_auth(f, flags, &a->auth);
	}
	abort();
}

/* Frame and body; negative from the first, a reason code from the second. */
static inline int
any_decode(struct any *a, unsigned version, unsigned flags,
    unsigned max_levels, const uint8_t *buf, size_t len)
{
	int	rc;

	memset(a, 0xa5, sizeof(*a));
	a->version = version;
	rc = mqtt_frame_parse(buf, len, version, 0, &a->frame);
	if (rc == 0)
		rc = any_decode_body(a, flags, max_levels);
	if (rc == 0)
		any_touch_all(a);
	return rc;
}

static inline uint8_t *
any_alloc(size_t size)
{
	uint8_t	*p = malloc(size > 0 ? size : 1);

	if (p == NULL)
		abort();
	return p;
}

static inline uint8_t *
any_encode_publish(const struct any *a, size_t *len)
{
	const struct mqtt_publish *m = &a->publish;
	struct mqtt_publish_out o = {
		.topic = m->topic, .payload_len = m->payload.len,
		.packet_id = m->packet_id, .qos = m->qos,
		.retain = m->retain, .dup = m->dup,
	};
	uint8_t		*fwd = any_alloc(a->frame.len), *buf;
	uint32_t	*ids = NULL;
	size_t		 at = 0, size, head, id_at;

	if (m->props.has != 0)
		mqtt_props_forward(&m->props, fwd, &o.props);
	if (mqtt_props_has(&m->props, MQTT_P_MESSAGE_EXPIRY)) {
		o.has_message_expiry = true;
		o.message_expiry_s = m->props.message_expiry_s;
	}
	if (mqtt_props_has(&m->props, MQTT_P_TOPIC_ALIAS))
		o.topic_alias = m->props.topic_alias;
	if (mqtt_props_has(&m->props, MQTT_P_SUBSCRIPTION_ID)) {
		ids = calloc(m->props.nsubscription_ids, sizeof(*ids));
		while (mqtt_props_subscription_id_next(&m->props, &at,
		    &ids[o.nsubscription_ids]))
			if (++o.nsubscription_ids ==
			    m->props.nsubscription_ids)
				break;
		o.subscription_ids = ids;
	}
	size = mqtt_publish_size(a->version, &o);
	buf = any_alloc(size);
	head = mqtt_publish_head(a->version, &o, buf, &id_at);
	if (head > mqtt_publish_head_max(&o) ||
	    head + m->payload.len != size ||
	    (m->qos > 0 && get_be16(buf + id_at) != m->packet_id))
		abort();
	memcpy(buf + head, m->payload.data, m->payload.len);
	free(fwd);
	free(ids);
	*len = size;
	return buf;
}

static inline uint8_t *
any_encode_names(const struct any *a, size_t *len)
{
	bool		 un = a->frame.type == MQTT_UNSUBSCRIBE;
	size_t		 count = un ? a->unsubscribe.count :
			     a->subscribe.count;
	struct mqtt_subscription *subs = calloc(count, sizeof(*subs));
	size_t		 at = 0, i;
	uint8_t		*buf;

	for (i = 0; i < count; i++)
		if (un ? !mqtt_unsubscribe_next(&a->unsubscribe, 0, &at,
		    &subs[i]) : !mqtt_subscribe_next(&a->subscribe, 0, &at,
		    &subs[i]))
			abort();
	if (un) {
		buf = any_alloc(mqtt_unsubscribe_size(a->version, subs, count,
		    &a->unsubscribe.props));
		*len = mqtt_unsubscribe_encode(a->version,
		    a->unsubscribe.packet_id, subs, count,
		    &a->unsubscribe.props, buf);
	} else {
		buf = any_alloc(mqtt_subscribe_size(a->version, subs, count,
		    &a->subscribe.props));
		*len = mqtt_subscribe_encode(a->version,
		    a->subscribe.packet_id, subs, count, &a->subscribe.props,
		    buf);
	}
	free(subs);
	return buf;
}

/* Encode what was decoded, in a buffer of just the size foretold. */
static inline uint8_t *
any_encode(const struct any *a, size_t *len)
{
	unsigned	 v = a->version;
	uint8_t		*buf = NULL;

	switch ((enum mqtt_type)a->frame.type) {
	case MQTT_CONNECT:
		buf = any_alloc(mqtt_connect_size(&a->connect));
		*len = mqtt_connect_encode(&a->connect, buf);
		break;
	case MQTT_CONNACK:
		buf = any_alloc(mqtt_connack_size(v, &a->connack.props));
		*len = mqtt_connack_encode(v, a->connack.session_present,
		    a->connack.code, &a->connack.props, buf);
		break;
	case MQTT_PUBLISH:
		return any_encode_publish(a, len);
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBREL:
	case MQTT_PUBCOMP:
		buf = any_alloc(mqtt_ack_size(v, a->ack.reason,
		    &a->ack.props));
		*len = mqtt_ack_encode(v, a->frame.type, a->ack.packet_id,
		    a->ack.reason, &a->ack.props, buf);
		break;
	case MQTT_SUBSCRIBE:
	case MQTT_UNSUBSCRIBE:
		return any_encode_names(a, len);
	case MQTT_SUBACK:
	case MQTT_UNSUBACK:
		buf = any_alloc(mqtt_suback_size(v, a->frame.type,
		    a->suback.codes.len, &a->suback.props));
		*len = mqtt_suback_encode(v, a->frame.type,
		    a->suback.packet_id, a->suback.codes.data,
		    a->suback.codes.len, &a->suback.props, buf);
		break;
	case MQTT_PINGREQ:
	case MQTT_PINGRESP:
		buf = any_alloc(2);
		*len = mqtt_ping_encode(a->frame.type, buf);
		break;
	case MQTT_DISCONNECT:
		buf = any_alloc(mqtt_disconnect_size(v, a->disconnect.reason,
		    &a->disconnect.props));
		*len = mqtt_disconnect_encode(v, a->disconnect.reason,
		    &a->disconnect.props, buf);
		break;
	case MQTT_AUTH:
		buf = any_alloc(mqtt_auth_size(a->auth.reason,
		    &a->auth.props));
		*len = mqtt_auth_encode(a->auth.reason, &a->auth.props, buf);
		break;
	}
	return buf;
}

#endif

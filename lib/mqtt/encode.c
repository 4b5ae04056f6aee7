#include "mqtt/encode.h"

#include <assert.h>

/* --- Writing fields ------------------------------------------------------ */

/* The fixed header of a packet of remaining length n. */
static inline uint8_t *
put_header(uint8_t *p, unsigned type, unsigned flags, size_t n)
{
	*p = (uint8_t)(type << 4 | flags);
	return p + 1 + mqtt_varint_put(p + 1, (uint32_t)n);
}

static inline uint8_t *
put_u8(uint8_t *p, uint8_t v)
{
	*p = v;
	return p + 1;
}

static inline uint8_t *
put_u16(uint8_t *p, uint16_t v)
{
	put_be16(p, v);
	return p + 2;
}

static inline uint8_t *
put_bytes(uint8_t *p, const struct slice *s)
{
	if (s->len > 0)
		memcpy(p, s->data, s->len);
	return p + s->len;
}

static inline uint8_t *
put_string(uint8_t *p, const struct slice *s)
{
	return put_bytes(put_u16(p, (uint16_t)s->len), s);
}

static size_t
string_size(const struct slice *s)
{
	return 2 + s->len;
}

/* A property list with its length; nothing in versions without. */
static size_t
props_size_of(unsigned version, const struct mqtt_props *props)
{
	size_t	n;

	if (version != MQTT_V5)
		return 0;
	n = mqtt_props_size(props);
	if (n > MQTT_LEN_MAX)
		return n;		/* the packet is too long in any case */
	return mqtt_varint_size((uint32_t)n) + n;
}

static uint8_t *
put_props_of(uint8_t *p, unsigned version, const struct mqtt_props *props)
{
	return version == MQTT_V5 ? p + mqtt_props_encode(props, p) : p;
}

/* --- PUBLISH ------------------------------------------------------------- */

static inline size_t
publish_props_size(const struct mqtt_publish_out *o)
{
	size_t		n = o->props.len;
	unsigned	i;

	if (o->has_message_expiry)
		n += 5;
	if (o->topic_alias != 0)
		n += 3;
	for (i = 0; i < o->nsubscription_ids; i++)
		n += 1 + mqtt_varint_size(o->subscription_ids[i]);
	return n;
}

/* The remaining length; *plen is that of the properties alone. */
static inline size_t
publish_length(unsigned version, const struct mqtt_publish_out *o,
    size_t *plen)
{
	size_t	n = 2 + o->topic.len + o->payload_len + (o->qos > 0 ? 2 : 0);

	*plen = 0;
	if (version != MQTT_V5)
		return n;
	*plen = publish_props_size(o);
	if (UNLIKELY(*plen > MQTT_LEN_MAX))
		return *plen;
	return n + mqtt_varint_size((uint32_t)*plen) + *plen;
}

size_t
mqtt_publish_size(unsigned version, const struct mqtt_publish_out *o)
{
	size_t	plen;

	if (o->topic.len > TOPIC_MAX || o->payload_len > MQTT_LEN_MAX)
		return 0;
	return mqtt_packet_size(publish_length(version, o, &plen));
}

static uint8_t *
put_publish_props(uint8_t *p, const struct mqtt_publish_out *o)
{
	unsigned	i;

	if (o->has_message_expiry) {
		*p = MQTT_P_MESSAGE_EXPIRY;
		put_be32(p + 1, o->message_expiry_s);
		p += 5;
	}
	if (o->topic_alias != 0) {
		*p = MQTT_P_TOPIC_ALIAS;
		p = put_u16(p + 1, o->topic_alias);
	}
	for (i = 0; i < o->nsubscription_ids; i++) {
		*p = MQTT_P_SUBSCRIPTION_ID;
		p += 1 + mqtt_varint_put(p + 1, o->subscription_ids[i]);
	}
	return put_bytes(p, &o->props);
}

size_t
mqtt_publish_head(unsigned version, const struct mqtt_publish_out *o,
    uint8_t *buf, size_t *id_at)
{
	size_t	 plen, n = publish_length(version, o, &plen), id = 0;
	uint8_t	*p;

	assert(n <= MQTT_LEN_MAX && o->topic.len <= TOPIC_MAX);
	p = put_header(buf, MQTT_PUBLISH, (unsigned)o->dup << 3 |
	    (unsigned)o->qos << 1 | o->retain, n);
	p = put_string(p, &o->topic);
	if (o->qos > 0) {
		id = (size_t)(p - buf);
		p = put_u16(p, o->packet_id);
	}
	if (version == MQTT_V5) {
		p += mqtt_varint_put(p, (uint32_t)plen);
		if (UNLIKELY(plen > 0))
			p = put_publish_props(p, o);
	}
	if (id_at != NULL)
		*id_at = id;
	return (size_t)(p - buf);
}

/* --- PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT, AUTH ------------------- */

/*
 * What follows in the packets that may leave out their end: nothing, or the
 * reason, or the reason and the properties.
 */
static size_t
short_form_length(unsigned version, uint8_t reason,
    const struct mqtt_props *props)
{
	if (version != MQTT_V5)
		return 0;
	if (props == NULL || props->has == 0)
		return reason != 0;
	return 1 + props_size_of(version, props);
}

static uint8_t *
put_short_form(uint8_t *p, size_t n, uint8_t reason,
    const struct mqtt_props *props)
{
	if (n > 0)
		p = put_u8(p, reason);
	if (n > 1)
		p = put_props_of(p, MQTT_V5, props);
	return p;
}

size_t
mqtt_ack_size(unsigned version, uint8_t reason,
    const struct mqtt_props *props)
{
	return mqtt_packet_size(2 + short_form_length(version, reason, props));
}

size_t
mqtt_ack_encode(unsigned version, enum mqtt_type type, uint16_t packet_id,
    uint8_t reason, const struct mqtt_props *props, uint8_t *buf)
{
	size_t	 n = short_form_length(version, reason, props);
	uint8_t	*p;

	p = put_header(buf, type, type == MQTT_PUBREL ? 2 : 0, 2 + n);
	p = put_u16(p, packet_id);
	p = put_short_form(p, n, reason, props);
	return (size_t)(p - buf);
}

size_t
mqtt_disconnect_size(unsigned version, uint8_t reason,
    const struct mqtt_props *props)
{
	return mqtt_packet_size(short_form_length(version, reason, props));
}

size_t
mqtt_disconnect_encode(unsigned version, uint8_t reason,
    const struct mqtt_props *props, uint8_t *buf)
{
	size_t	 n = short_form_length(version, reason, props);
	uint8_t	*p = put_header(buf, MQTT_DISCONNECT, 0, n);

	p = put_short_form(p, n, reason, props);
	return (size_t)(p - buf);
}

/* 3.15.2.1: nothing, or both reason and properties. */
static size_t
auth_length(uint8_t reason, const struct mqtt_props *props)
{
	if (reason == 0 && (props == NULL || props->has == 0))
		return 0;
	return 1 + props_size_of(MQTT_V5, props);
}

size_t
mqtt_auth_size(uint8_t reason, const struct mqtt_props *props)
{
	return mqtt_packet_size(auth_length(reason, props));
}

size_t
mqtt_auth_encode(uint8_t reason, const struct mqtt_props *props, uint8_t *buf)
{
	size_t	 n = auth_length(reason, props);
	uint8_t	*p = put_header(buf, MQTT_AUTH, 0, n);

	p = put_short_form(p, n, reason, props);
	return (size_t)(p - buf);
}

/* --- CONNACK ------------------------------------------------------------- */

size_t
mqtt_connack_size(unsigned version, const struct mqtt_props *props)
{
	return mqtt_packet_size(2 + props_size_of(version, props));
}

size_t
mqtt_connack_encode(unsigned version, bool session_present, uint8_t code,
    const struct mqtt_props *props, uint8_t *buf)
{
	uint8_t	*p;

	p = put_header(buf, MQTT_CONNACK, 0,
	    2 + props_size_of(version, props));
	p = put_u8(p, session_present && version != MQTT_V31);
	p = put_u8(p, code);
	p = put_props_of(p, version, props);
	return (size_t)(p - buf);
}

/* --- SUBACK, UNSUBACK ---------------------------------------------------- */

static size_t
suback_length(unsigned version, enum mqtt_type type, size_t count,
    const struct mqtt_props *props)
{
	if (version != MQTT_V5 && type == MQTT_UNSUBACK)
		count = 0;
	return 2 + props_size_of(version, props) + count;
}

size_t
mqtt_suback_size(unsigned version, enum mqtt_type type, size_t count,
    const struct mqtt_props *props)
{
	return mqtt_packet_size(suback_length(version, type, count, props));
}

size_t
mqtt_suback_encode(unsigned version, enum mqtt_type type, uint16_t packet_id,
    const uint8_t *codes, size_t count, const struct mqtt_props *props,
    uint8_t *buf)
{
	uint8_t	*p;
	size_t	 i;

	p = put_header(buf, type, 0,
	    suback_length(version, type, count, props));
	p = put_u16(p, packet_id);
	p = put_props_of(p, version, props);
	if (version != MQTT_V5 && type == MQTT_UNSUBACK)
		return (size_t)(p - buf);
	for (i = 0; i < count; i++)
		p = put_u8(p, version != MQTT_V5 && codes[i] >= 0x80 ?
		    MQTT_SUBACK_V3_FAILURE : codes[i]);
	return (size_t)(p - buf);
}

/* --- CONNECT ------------------------------------------------------------- */

static struct slice
protocol_name(unsigned version)
{
	struct slice	mqtt = { (const uint8_t *)"MQTT", 4 };
	struct slice	mqisdp = { (const uint8_t *)"MQIsdp", 6 };

	return version == MQTT_V31 ? mqisdp : mqtt;
}

/* 0 when a string is too long. */
static size_t
connect_length(const struct mqtt_connect *c)
{
	struct slice	name = protocol_name(c->version);
	size_t		n = string_size(&name) + 1 + 1 + 2;

	if (c->client_id.len > UINT16_MAX || c->username.len > UINT16_MAX ||
	    c->password.len > UINT16_MAX || c->will_topic.len > UINT16_MAX ||
	    c->will_payload.len > UINT16_MAX)
		return 0;
	n += props_size_of(c->version, &c->props);
	n += string_size(&c->client_id);
	if (c->has_will)
		n += props_size_of(c->version, &c->will_props) +
		    string_size(&c->will_topic) + string_size(&c->will_payload);
	if (c->has_username)
		n += string_size(&c->username);
	if (c->has_password)
		n += string_size(&c->password);
	return n;
}

static uint8_t
connect_flags(const struct mqtt_connect *c)
{
	unsigned	flags = (unsigned)c->clean_start << 1 |
			    (unsigned)c->has_password << 6 |
			    (unsigned)c->has_username << 7;

	if (c->has_will)
		flags |= 1u << 2 | (unsigned)c->will_qos << 3 |
		    (unsigned)c->will_retain << 5;
	return (uint8_t)flags;
}

size_t
mqtt_connect_size(const struct mqtt_connect *c)
{
	size_t	n = connect_length(c);

	return n == 0 ? 0 : mqtt_packet_size(n);
}

size_t
mqtt_connect_encode(const struct mqtt_connect *c, uint8_t *buf)
{
	struct slice	 name = protocol_name(c->version);
	uint8_t		*p;

	p = put_header(buf, MQTT_CONNECT, 0, connect_length(c));
	p = put_string(p, &name);
	p = put_u8(p, c->version);
	p = put_u8(p, connect_flags(c));
	p = put_u16(p, c->keep_alive_s);
	p = put_props_of(p, c->version, &c->props);
	p = put_string(p, &c->client_id);
	if (c->has_will) {
		p = put_props_of(p, c->version, &c->will_props);
		p = put_string(p, &c->will_topic);
		p = put_string(p, &c->will_payload);
	}
	if (c->has_username)
		p = put_string(p, &c->username);
	if (c->has_password)
		p = put_string(p, &c->password);
	return (size_t)(p - buf);
}

/* --- SUBSCRIBE, UNSUBSCRIBE --------------------------------------------- */

/* 0 when a name is too long. */
static size_t
names_length(unsigned version, enum mqtt_type type,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props)
{
	size_t	i, n = 2 + props_size_of(version, props);

	for (i = 0; i < count; i++) {
		if (subs[i].name.len > TOPIC_MAX)
			return 0;
		n += string_size(&subs[i].name) + (type == MQTT_SUBSCRIBE);
	}
	return n;
}

static size_t
names_size(unsigned version, enum mqtt_type type,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props)
{
	size_t	n = names_length(version, type, subs, count, props);

	return n == 0 ? 0 : mqtt_packet_size(n);
}

static uint8_t
options_of(unsigned version, const struct mqtt_subscription *s)
{
	if (version != MQTT_V5)
		return s->qos;
	return (uint8_t)(s->qos | s->no_local << 2 |
	    s->retain_as_published << 3 | s->retain_handling << 4);
}

static size_t
names_encode(unsigned version, enum mqtt_type type, uint16_t packet_id,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props, uint8_t *buf)
{
	uint8_t	*p;
	size_t	 i;

	p = put_header(buf, type, 2,
	    names_length(version, type, subs, count, props));
	p = put_u16(p, packet_id);
	p = put_props_of(p, version, props);
	for (i = 0; i < count; i++) {
		p = put_string(p, &subs[i].name);
		if (type == MQTT_SUBSCRIBE)
			p = put_u8(p, options_of(version, &subs[i]));
	}
	return (size_t)(p - buf);
}

size_t
mqtt_subscribe_size(unsigned version, const struct mqtt_subscription *subs,
    size_t count, const struct mqtt_props *props)
{
	return names_size(version, MQTT_SUBSCRIBE, subs, count, props);
}

size_t
mqtt_subscribe_encode(unsigned version, uint16_t packet_id,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props, uint8_t *buf)
{
	return names_encode(version, MQTT_SUBSCRIBE, packet_id, subs, count,
	    props, buf);
}

size_t
mqtt_unsubscribe_size(unsigned version, const struct mqtt_subscription *subs,
    size_t count, const struct mqtt_props *props)
{
	return names_size(version, MQTT_UNSUBSCRIBE, subs, count, props);
}

size_t
mqtt_unsubscribe_encode(unsigned version, uint16_t packet_id,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props, uint8_t *buf)
{
	return names_encode(version, MQTT_UNSUBSCRIBE, packet_id, subs, count,
	    props, buf);
}

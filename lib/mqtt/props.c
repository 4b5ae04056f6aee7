#include "mqtt/props.h"

#include <assert.h>

#include "base/utf8.h"
#include "mqtt/frame.h"
#include "topic/filter.h"

enum kind { NOKIND, BYTE, TWO, FOUR, VARINT, STRING, BINARY, TOPIC, PAIR };

#define IN(type)	(1u << (type))
#define IN_WILL		IN(MQTT_IN_WILL)
#define IN_MESSAGE	(IN(MQTT_PUBLISH) | IN_WILL)
#define IN_OPENING	(IN(MQTT_CONNECT) | IN(MQTT_CONNACK))
#define IN_ANSWERS	(IN(MQTT_CONNACK) | IN(MQTT_PUBACK) |		\
			 IN(MQTT_PUBREC) | IN(MQTT_PUBREL) |		\
			 IN(MQTT_PUBCOMP) | IN(MQTT_SUBACK) |		\
			 IN(MQTT_UNSUBACK) | IN(MQTT_DISCONNECT) |	\
			 IN(MQTT_AUTH))
#define IN_USER		(IN_ANSWERS | IN_MESSAGE | IN(MQTT_CONNECT) |	\
			 IN(MQTT_SUBSCRIBE) | IN(MQTT_UNSUBSCRIBE))

/* Table 2-4: what each property is, where it stands and how far it goes. */
static const struct prop {
	uint8_t		kind;
	uint8_t		min;	/* numbers: the smallest that is allowed, */
	uint8_t		max;	/* and the largest; 0: any */
	uint16_t	in;
	uint16_t	at;	/* in struct mqtt_props */
} table[] = {
#define P(id, kind, min, max, in, field) \
	[MQTT_P_##id] = { kind, min, max, in, \
	    offsetof(struct mqtt_props, field) }
	P(PAYLOAD_FORMAT, BYTE, 0, 1, IN_MESSAGE, payload_format),
	P(MESSAGE_EXPIRY, FOUR, 0, 0, IN_MESSAGE, message_expiry_s),
	P(CONTENT_TYPE, STRING, 0, 0, IN_MESSAGE, content_type),
	P(RESPONSE_TOPIC, TOPIC, 0, 0, IN_MESSAGE, response_topic),
	P(CORRELATION_DATA, BINARY, 0, 0, IN_MESSAGE, correlation_data),
	P(SUBSCRIPTION_ID, VARINT, 1, 0, IN(MQTT_PUBLISH) |
	    IN(MQTT_SUBSCRIBE), subscription_id),
	P(SESSION_EXPIRY, FOUR, 0, 0, IN_OPENING | IN(MQTT_DISCONNECT),
	    session_expiry_s),
	P(ASSIGNED_CLIENT_ID, STRING, 0, 0, IN(MQTT_CONNACK),
	    assigned_client_id),
	P(SERVER_KEEP_ALIVE, TWO, 0, 0, IN(MQTT_CONNACK),
	    server_keep_alive_s),
	P(AUTH_METHOD, STRING, 0, 0, IN_OPENING | IN(MQTT_AUTH), auth_method),
	P(AUTH_DATA, BINARY, 0, 0, IN_OPENING | IN(MQTT_AUTH), auth_data),
	P(REQUEST_PROBLEM_INFO, BYTE, 0, 1, IN(MQTT_CONNECT),
	    request_problem_info),
	P(WILL_DELAY, FOUR, 0, 0, IN_WILL, will_delay_s),
	P(REQUEST_RESPONSE_INFO, BYTE, 0, 1, IN(MQTT_CONNECT),
	    request_response_info),
	P(RESPONSE_INFO, STRING, 0, 0, IN(MQTT_CONNACK), response_info),
	P(SERVER_REFERENCE, STRING, 0, 0, IN(MQTT_CONNACK) |
	    IN(MQTT_DISCONNECT), server_reference),
	P(REASON_STRING, STRING, 0, 0, IN_ANSWERS, reason_string),
	P(RECEIVE_MAXIMUM, TWO, 1, 0, IN_OPENING, receive_maximum),
	P(TOPIC_ALIAS_MAXIMUM, TWO, 0, 0, IN_OPENING, topic_alias_maximum),
	P(TOPIC_ALIAS, TWO, 1, 0, IN(MQTT_PUBLISH), topic_alias),
	P(MAXIMUM_QOS, BYTE, 0, 1, IN(MQTT_CONNACK), maximum_qos),
	P(RETAIN_AVAILABLE, BYTE, 0, 1, IN(MQTT_CONNACK), retain_available),
	P(USER_PROPERTY, PAIR, 0, 0, IN_USER, user),
	P(MAXIMUM_PACKET_SIZE, FOUR, 1, 0, IN_OPENING, maximum_packet_size),
	P(WILDCARD_AVAILABLE, BYTE, 0, 1, IN(MQTT_CONNACK),
	    wildcard_available),
	P(SUBSCRIPTION_ID_AVAILABLE, BYTE, 0, 1, IN(MQTT_CONNACK),
	    subscription_id_available),
	P(SHARED_AVAILABLE, BYTE, 0, 1, IN(MQTT_CONNACK), shared_available),
#undef P
};

static inline struct slice *
slice_of(const struct mqtt_props *p, const struct prop *row)
{
	return (struct slice *)(void *)((char *)(uintptr_t)p + row->at);
}

/* --- Decoding ------------------------------------------------------------ */

/*
 * One value of a kind: how many bytes it takes at v, 0 if it is cut short (or,
 * a number of variable length, malformed). Numbers go to *num, what has a
 * length to *s; a pair only to its size.
 */
static inline size_t
value_get(enum kind kind, const uint8_t *v, size_t left, uint32_t *num,
    struct slice *s)
{
	size_t	name;
	int	n;

	switch (kind) {
	case BYTE:
		if (left < 1)
			return 0;
		*num = v[0];
		return 1;
	case TWO:
		if (left < 2)
			return 0;
		*num = get_be16(v);
		return 2;
	case FOUR:
		if (left < 4)
			return 0;
		*num = get_be32(v);
		return 4;
	case VARINT:
		n = mqtt_varint_get(v, left, num);
		return n > 0 ? (size_t)n : 0;
	case STRING:
	case BINARY:
	case TOPIC:
		if (left < 2 || (s->len = get_be16(v)) > left - 2)
			return 0;
		s->data = v + 2;
		return 2 + s->len;
	case PAIR:
		if (left < 2 || (name = get_be16(v)) > left - 2)
			return 0;
		v += 2 + name;
		left -= 2 + name;
		if (left < 2 || (s->len = get_be16(v)) > left - 2)
			return 0;
		s->data = v + 2;
		return 4 + name + s->len;
	case NOKIND:
		break;
	}
	return 0;
}

static int
number_put(struct mqtt_props *p, unsigned id, const struct prop *row,
    uint32_t num)
{
	char	*field = (char *)p + row->at;

	if (num < row->min || (row->max != 0 && num > row->max))
		return id == MQTT_P_TOPIC_ALIAS ? MQTT_TOPIC_ALIAS_INVALID :
		    MQTT_PROTOCOL_ERROR;
	switch ((enum kind)row->kind) {
	case BYTE:
		*(uint8_t *)field = (uint8_t)num;
		break;
	case TWO:
		*(uint16_t *)(void *)field = (uint16_t)num;
		break;
	case FOUR:
	case VARINT:
		*(uint32_t *)(void *)field = num;
		break;
	case NOKIND:
	case STRING:
	case BINARY:
	case TOPIC:
	case PAIR:
		break;
	}
	return 0;
}

/* A property that may stand more than once: at is where its identifier is. */
static int
user_add(struct mqtt_props *p, const uint8_t *at, size_t name_len,
    const struct slice *value)
{
	if (utf8_check(at + 3, name_len) < 0 ||
	    utf8_check(value->data, value->len) < 0)
		return MQTT_MALFORMED_PACKET;
	if (!mqtt_props_has(p, MQTT_P_USER_PROPERTY)) {
		p->has |= MQTT_P_BIT(MQTT_P_USER_PROPERTY);
		p->nuser = 0;
		p->user.data = at;
	}
	p->nuser++;
	p->user.len = (size_t)(value->data + value->len - p->user.data);
	return 0;
}

static int
string_check(enum kind kind, const struct slice *s)
{
	if (kind == BINARY)
		return 0;
	if (utf8_check(s->data, s->len) < 0)
		return MQTT_MALFORMED_PACKET;
	if (kind == TOPIC && topic_name_check(s->data, s->len, 0) < 0)
		return MQTT_PROTOCOL_ERROR;
	return 0;
}

int
mqtt_props_decode(const uint8_t *buf, size_t len, unsigned in,
    struct mqtt_props *p, size_t *used)
{
	const struct prop *row;
	const uint8_t	*v, *end;
	struct slice	 s = { NULL, 0 };
	uint32_t	 num = 0, total;
	size_t		 n;
	unsigned	 id;
	bool		 again;
	int		 rc;

	if ((rc = mqtt_varint_get(buf, len, &total)) <= 0 ||
	    total > len - (size_t)rc)
		return MQTT_MALFORMED_PACKET;
	v = buf + rc;
	end = v + total;
	*used = (size_t)rc + total;
	p->has = 0;
	p->raw.data = v;
	p->raw.len = total;
	while (v < end) {
		id = *v;
		if (id >= NELEM(table) || !(table[id].in & IN(in)))
			return MQTT_MALFORMED_PACKET;
		row = &table[id];
		n = value_get(row->kind, v + 1, (size_t)(end - v) - 1, &num,
		    &s);
		if (n == 0)
			return MQTT_MALFORMED_PACKET;
		if (row->kind == PAIR) {
			if ((rc = user_add(p, v, n - 4 - s.len, &s)) != 0)
				return rc;
			v += 1 + n;
			continue;
		}
		again = mqtt_props_has(p, id);
		if (row->kind >= STRING) {
			if (again)
				return MQTT_PROTOCOL_ERROR;
			if ((rc = string_check(row->kind, &s)) != 0)
				return rc;
			*slice_of(p, row) = s;
		} else if (!again) {
			if ((rc = number_put(p, id, row, num)) != 0)
				return rc;
			if (id == MQTT_P_SUBSCRIPTION_ID)
				p->nsubscription_ids = 1;
		} else if (id != MQTT_P_SUBSCRIPTION_ID ||
		    in != MQTT_PUBLISH || num == 0) {
			return MQTT_PROTOCOL_ERROR;
		} else {
			p->nsubscription_ids++;
		}
		p->has |= MQTT_P_BIT(id);
		v += 1 + n;
	}
	return 0;
}

/*
 * Find the next property of this id in an encoded list (checked before); its
 * value's bytes are *value. false: none.
 */
static bool
find_next(const struct slice *list, size_t *at, unsigned id,
    struct slice *value)
{
	struct slice	s;
	uint32_t	num;
	size_t		n;
	unsigned	this;

	while (*at < list->len) {
		this = list->data[*at];
		n = this < NELEM(table) ? value_get(table[this].kind,
		    list->data + *at + 1, list->len - *at - 1, &num, &s) : 0;
		if (n == 0)
			break;
		value->data = list->data + *at + 1;
		value->len = n;
		*at += 1 + n;
		if (this == id)
			return true;
	}
	*at = list->len;
	return false;
}

bool
mqtt_props_user_next(const struct mqtt_props *p, size_t *at,
    struct slice *name, struct slice *value)
{
	struct slice	v;

	if (!mqtt_props_has(p, MQTT_P_USER_PROPERTY) ||
	    !find_next(&p->user, at, MQTT_P_USER_PROPERTY, &v))
		return false;
	name->len = get_be16(v.data);
	name->data = v.data + 2;
	value->len = get_be16(name->data + name->len);
	value->data = name->data + name->len + 2;
	return true;
}

bool
mqtt_props_subscription_id_next(const struct mqtt_props *p, size_t *at,
    uint32_t *id)
{
	struct slice	v;

	return mqtt_props_has(p, MQTT_P_SUBSCRIPTION_ID) &&
	    find_next(&p->raw, at, MQTT_P_SUBSCRIPTION_ID, &v) &&
	    mqtt_varint_get(v.data, v.len, id) > 0;
}

/* --- Encoding ------------------------------------------------------------ */

static uint32_t
number_of(const struct mqtt_props *p, const struct prop *row)
{
	const char	*field = (const char *)p + row->at;

	switch ((enum kind)row->kind) {
	case BYTE:
		return *(const uint8_t *)field;
	case TWO:
		return *(const uint16_t *)(const void *)field;
	case FOUR:
	case VARINT:
		return *(const uint32_t *)(const void *)field;
	case NOKIND:
	case STRING:
	case BINARY:
	case TOPIC:
	case PAIR:
		break;
	}
	return 0;
}

/* The user properties alone, whatever else the region has in between. */
static size_t
user_size(const struct mqtt_props *p)
{
	struct slice	v;
	size_t		at = 0, n = 0;

	while (find_next(&p->user, &at, MQTT_P_USER_PROPERTY, &v))
		n += 1 + v.len;
	return n;
}

static size_t
user_copy(const struct mqtt_props *p, uint8_t *buf)
{
	struct slice	v;
	size_t		at = 0, n = 0;

	while (find_next(&p->user, &at, MQTT_P_USER_PROPERTY, &v)) {
		memcpy(buf + n, v.data - 1, v.len + 1);
		n += v.len + 1;
	}
	return n;
}

static size_t
size_of(const struct mqtt_props *p, unsigned id)
{
	const struct prop *row = &table[id];

	switch ((enum kind)row->kind) {
	case BYTE:
		return 2;
	case TWO:
		return 3;
	case FOUR:
		return 5;
	case VARINT:
		return 1 + mqtt_varint_size(number_of(p, row));
	case STRING:
	case BINARY:
	case TOPIC:
		return 3 + slice_of(p, row)->len;
	case PAIR:
		return user_size(p);
	case NOKIND:
		break;
	}
	return 0;
}

static size_t
encode_one(const struct mqtt_props *p, unsigned id, uint8_t *buf)
{
	const struct prop *row = &table[id];
	const struct slice *s;

	if (row->kind == PAIR)
		return user_copy(p, buf);
	buf[0] = (uint8_t)id;
	switch ((enum kind)row->kind) {
	case BYTE:
		buf[1] = (uint8_t)number_of(p, row);
		return 2;
	case TWO:
		put_be16(buf + 1, (uint16_t)number_of(p, row));
		return 3;
	case FOUR:
		put_be32(buf + 1, number_of(p, row));
		return 5;
	case VARINT:
		return 1 + mqtt_varint_put(buf + 1, number_of(p, row));
	case STRING:
	case BINARY:
	case TOPIC:
		s = slice_of(p, row);
		put_be16(buf + 1, (uint16_t)s->len);
		if (s->len > 0)
			memcpy(buf + 3, s->data, s->len);
		return 3 + s->len;
	case PAIR:
	case NOKIND:
		break;
	}
	return 0;
}

size_t
mqtt_props_size(const struct mqtt_props *p)
{
	uint64_t	left;
	size_t		n = 0;

	if (p == NULL)
		return 0;
	for (left = p->has; left != 0; left &= left - 1)
		n += size_of(p, (unsigned)__builtin_ctzll(left));
	return n;
}

size_t
mqtt_props_encode(const struct mqtt_props *p, uint8_t *buf)
{
	uint64_t	left;
	size_t		n;

	n = mqtt_varint_put(buf, (uint32_t)mqtt_props_size(p));
	if (p == NULL)
		return n;
	for (left = p->has; left != 0; left &= left - 1)
		n += encode_one(p, (unsigned)__builtin_ctzll(left), buf + n);
	return n;
}

size_t
mqtt_user_property_encode(uint8_t *buf, struct slice name, struct slice value)
{
	assert(name.len <= UINT16_MAX && value.len <= UINT16_MAX);
	buf[0] = MQTT_P_USER_PROPERTY;
	put_be16(buf + 1, (uint16_t)name.len);
	if (name.len > 0)
		memcpy(buf + 3, name.data, name.len);
	put_be16(buf + 3 + name.len, (uint16_t)value.len);
	if (value.len > 0)
		memcpy(buf + 5 + name.len, value.data, value.len);
	return 5 + name.len + value.len;
}

bool
mqtt_props_trim(struct mqtt_props *p, size_t excess)
{
	static const uint8_t order[] = {
		MQTT_P_USER_PROPERTY, MQTT_P_REASON_STRING,
	};
	size_t	i, saved = 0;

	for (i = 0; i < NELEM(order) && saved < excess; i++) {
		if (!mqtt_props_has(p, order[i]))
			continue;
		saved += size_of(p, order[i]);
		p->has &= ~MQTT_P_BIT(order[i]);
	}
	return saved >= excess;
}

/* --- Forwarding ---------------------------------------------------------- */

#define FORWARDED (MQTT_P_BIT(MQTT_P_PAYLOAD_FORMAT) |			\
	MQTT_P_BIT(MQTT_P_CONTENT_TYPE) |				\
	MQTT_P_BIT(MQTT_P_RESPONSE_TOPIC) |				\
	MQTT_P_BIT(MQTT_P_CORRELATION_DATA) |				\
	MQTT_P_BIT(MQTT_P_USER_PROPERTY))

void
mqtt_props_forward(const struct mqtt_props *p, uint8_t *buf, struct slice *out)
{
	struct slice	s;
	uint32_t	num;
	size_t		at = 0, n, len = 0;
	unsigned	id;

	out->data = buf;
	out->len = 0;
	if (p->has == 0)
		return;
	if ((p->has & ~FORWARDED) == 0) {
		*out = p->raw;
		return;
	}
	while (at < p->raw.len) {
		id = p->raw.data[at];
		n = id < NELEM(table) ? value_get(table[id].kind,
		    p->raw.data + at + 1, p->raw.len - at - 1, &num, &s) : 0;
		if (n == 0)
			break;
		if (FORWARDED >> id & 1) {
			memcpy(buf + len, p->raw.data + at, n + 1);
			len += n + 1;
		}
		at += n + 1;
	}
	out->len = len;
}

#include "mqtt/decode.h"

#include "base/utf8.h"

/* --- Reason codes: who may say what -------------------------------------- */

/* Codes below 0x20 and codes from 0x80 on, one bit each. */
struct codes {
	uint32_t	good;
	uint64_t	bad;
};

#define G(code)	((uint32_t)1 << (code))
#define B(code)	((uint64_t)1 << ((code) - 0x80))

/* 0x80 to 0x83 */
#define B_GENERAL (B(MQTT_UNSPECIFIED_ERROR) | B(MQTT_MALFORMED_PACKET) | \
	B(MQTT_PROTOCOL_ERROR) | B(MQTT_IMPLEMENTATION_SPECIFIC))

/* Any that 2.4 knows from 0x80 to 0xa2. */
#define B_KNOWN	(B(MQTT_WILDCARDS_NOT_SUPPORTED) * 2 - 1)

static const struct codes connack_codes = {		/* 3.2.2.2 */
	G(MQTT_SUCCESS), B_GENERAL | B(MQTT_UNSUPPORTED_VERSION) |
	    B(MQTT_CLIENT_ID_INVALID) | B(MQTT_BAD_USER_NAME_OR_PASSWORD) |
	    B(MQTT_NOT_AUTHORIZED) | B(MQTT_SERVER_UNAVAILABLE) |
	    B(MQTT_SERVER_BUSY) | B(MQTT_BANNED) |
	    B(MQTT_BAD_AUTHENTICATION_METHOD) | B(MQTT_TOPIC_NAME_INVALID) |
	    B(MQTT_PACKET_TOO_LARGE) | B(MQTT_QUOTA_EXCEEDED) |
	    B(MQTT_PAYLOAD_FORMAT_INVALID) | B(MQTT_RETAIN_NOT_SUPPORTED) |
	    B(MQTT_QOS_NOT_SUPPORTED) | B(MQTT_USE_ANOTHER_SERVER) |
	    B(MQTT_SERVER_MOVED) | B(MQTT_CONNECTION_RATE_EXCEEDED)
};

static const struct codes puback_codes = {		/* 3.4.2.1, 3.5.2.1 */
	G(MQTT_SUCCESS) | G(MQTT_NO_MATCHING_SUBSCRIBERS),
	B(MQTT_UNSPECIFIED_ERROR) | B(MQTT_IMPLEMENTATION_SPECIFIC) |
	    B(MQTT_NOT_AUTHORIZED) | B(MQTT_TOPIC_NAME_INVALID) |
	    B(MQTT_PACKET_ID_IN_USE) | B(MQTT_QUOTA_EXCEEDED) |
	    B(MQTT_PAYLOAD_FORMAT_INVALID)
};

static const struct codes pubrel_codes = {		/* 3.6.2.1, 3.7.2.1 */
	G(MQTT_SUCCESS), B(MQTT_PACKET_ID_NOT_FOUND)
};

static const struct codes suback_codes = {		/* 3.9.3 */
	G(MQTT_GRANTED_QOS_0) | G(MQTT_GRANTED_QOS_1) | G(MQTT_GRANTED_QOS_2),
	B(MQTT_UNSPECIFIED_ERROR) | B(MQTT_IMPLEMENTATION_SPECIFIC) |
	    B(MQTT_NOT_AUTHORIZED) | B(MQTT_TOPIC_FILTER_INVALID) |
	    B(MQTT_PACKET_ID_IN_USE) | B(MQTT_QUOTA_EXCEEDED) |
	    B(MQTT_SHARED_NOT_SUPPORTED) |
	    B(MQTT_SUBSCRIPTION_IDS_NOT_SUPPORTED) |
	    B(MQTT_WILDCARDS_NOT_SUPPORTED)
};

static const struct codes suback_v3_codes = {		/* 3.1.1: 3.9.3 */
	G(0) | G(1) | G(2), B(MQTT_SUBACK_V3_FAILURE)
};

static const struct codes unsuback_codes = {		/* 3.11.3 */
	G(MQTT_SUCCESS) | G(MQTT_NO_SUBSCRIPTION_EXISTED),
	B(MQTT_UNSPECIFIED_ERROR) | B(MQTT_IMPLEMENTATION_SPECIFIC) |
	    B(MQTT_NOT_AUTHORIZED) | B(MQTT_TOPIC_FILTER_INVALID) |
	    B(MQTT_PACKET_ID_IN_USE)
};

static const struct codes disconnect_codes[] = {	/* 3.14.2.1 */
	[MQTT_FROM_CLIENT] = {
		G(MQTT_NORMAL_DISCONNECTION) | G(MQTT_DISCONNECT_WITH_WILL),
		B_GENERAL | B(MQTT_TOPIC_NAME_INVALID) |
		    B(MQTT_RECEIVE_MAXIMUM_EXCEEDED) |
		    B(MQTT_TOPIC_ALIAS_INVALID) | B(MQTT_PACKET_TOO_LARGE) |
		    B(MQTT_MESSAGE_RATE_TOO_HIGH) | B(MQTT_QUOTA_EXCEEDED) |
		    B(MQTT_ADMINISTRATIVE_ACTION) |
		    B(MQTT_PAYLOAD_FORMAT_INVALID)
	},
	/* Nothing hangs on which of them a server says. */
	[MQTT_FROM_SERVER] = { G(MQTT_NORMAL_DISCONNECTION), B_KNOWN },
};

static const struct codes auth_codes[] = {		/* 3.15.2.1 */
	[MQTT_FROM_CLIENT] = {
		G(MQTT_CONTINUE_AUTHENTICATION) | G(MQTT_REAUTHENTICATE), 0
	},
	[MQTT_FROM_SERVER] = {
		G(MQTT_SUCCESS) | G(MQTT_CONTINUE_AUTHENTICATION), 0
	},
};

static bool
may_say(const struct codes *codes, uint8_t code)
{
	if (code < 0x20)
		return codes->good >> code & 1;
	return code >= 0x80 && code < 0xc0 && (codes->bad >> (code - 0x80) & 1);
}

static bool
may_say_all(const struct codes *codes, const struct slice *list)
{
	size_t	i;

	for (i = 0; i < list->len; i++)
		if (!may_say(codes, list->data[i]))
			return false;
	return true;
}

/* --- Reading fields ------------------------------------------------------ */

struct reader {
	const uint8_t	*p, *end;
};

static void
reader_init(struct reader *r, const struct mqtt_frame *f)
{
	r->p = f->body;
	r->end = f->body + f->len;
}

static int
get_u8(struct reader *r, uint8_t *v)
{
	if (r->p == r->end)
		return MQTT_MALFORMED_PACKET;
	*v = *r->p++;
	return 0;
}

static int
get_u16(struct reader *r, uint16_t *v)
{
	if (r->end - r->p < 2)
		return MQTT_MALFORMED_PACKET;
	*v = get_be16(r->p);
	r->p += 2;
	return 0;
}

static int
get_packet_id(struct reader *r, uint16_t *v)
{
	int	rc;

	if ((rc = get_u16(r, v)) != 0)
		return rc;
	return *v != 0 ? 0 : MQTT_PROTOCOL_ERROR;
}

static int
get_binary(struct reader *r, struct slice *s)
{
	uint16_t	len;

	if (get_u16(r, &len) != 0 || r->end - r->p < len)
		return MQTT_MALFORMED_PACKET;
	s->data = r->p;
	s->len = len;
	r->p += len;
	return 0;
}

static int
get_string(struct reader *r, struct slice *s)
{
	if (get_binary(r, s) != 0 || utf8_check(s->data, s->len) < 0)
		return MQTT_MALFORMED_PACKET;
	return 0;
}

static int
get_props(struct reader *r, unsigned in, struct mqtt_props *p)
{
	size_t	used;
	int	rc;

	rc = mqtt_props_decode(r->p, (size_t)(r->end - r->p), in, p, &used);
	if (rc == 0)
		r->p += used;
	return rc;
}

/* The property list of a packet, empty in versions that have none. */
static int
get_props_of(struct reader *r, unsigned version, unsigned in,
    struct mqtt_props *p)
{
	p->has = 0;
	return version == MQTT_V5 ? get_props(r, in, p) : 0;
}

static struct slice
get_rest(struct reader *r)
{
	struct slice	s = { r->p, (size_t)(r->end - r->p) };

	r->p = r->end;
	return s;
}

static int
at_end(const struct reader *r)
{
	return r->p == r->end ? 0 : MQTT_MALFORMED_PACKET;
}

int
mqtt_topic_reason(int rc)
{
	if (rc == 0)
		return 0;
	return rc == ERR_PROTO ? MQTT_MALFORMED_PACKET :
	    MQTT_TOPIC_NAME_INVALID;
}

/* --- CONNECT ------------------------------------------------------------- */

enum {
	FLAG_RESERVED	= 0x01,
	FLAG_CLEAN	= 0x02,
	FLAG_WILL	= 0x04,
	FLAG_WILL_QOS	= 0x18,
	FLAG_WILL_RETAIN = 0x20,
	FLAG_PASSWORD	= 0x40,
	FLAG_USERNAME	= 0x80,
};

/* 3.1.2.1, 3.1.2.2 */
static int
connect_version(struct reader *r, struct mqtt_connect *c)
{
	struct slice	name;

	if (get_binary(r, &name) != 0 || get_u8(r, &c->level) != 0)
		return MQTT_MALFORMED_PACKET;
	c->version = (c->level & 0x7f) > MQTT_V311 ? MQTT_V5 : MQTT_V311;
	if (name.len == 4 && memcmp(name.data, "MQTT", 4) == 0) {
		if (c->level == MQTT_V311 || c->level == MQTT_V5)
			return 0;
	} else if (name.len == 6 && memcmp(name.data, "MQIsdp", 6) == 0) {
		if (c->level == MQTT_V31) {
			c->version = MQTT_V31;
			return 0;
		}
	}
	return MQTT_UNSUPPORTED_VERSION;
}

/* 3.1.2.3 to 3.1.2.9 */
static int
connect_flags(uint8_t flags, struct mqtt_connect *c)
{
	/* 3.1 does not use the last bit, nor those of a will that is not. */
	if (c->version != MQTT_V31) {
		if (flags & FLAG_RESERVED)
			return MQTT_MALFORMED_PACKET;
		if (!(flags & FLAG_WILL) &&
		    (flags & (FLAG_WILL_QOS | FLAG_WILL_RETAIN)))
			return MQTT_MALFORMED_PACKET;
	}
	c->clean_start = flags & FLAG_CLEAN;
	c->has_username = flags & FLAG_USERNAME;
	c->has_password = flags & FLAG_PASSWORD;
	if (c->version != MQTT_V5 && c->has_password && !c->has_username)
		return MQTT_MALFORMED_PACKET;
	if ((c->has_will = flags & FLAG_WILL)) {
		c->will_retain = flags & FLAG_WILL_RETAIN;
		c->will_qos = (flags & FLAG_WILL_QOS) >> 3;
		if (c->will_qos == 3)
			return MQTT_MALFORMED_PACKET;
	}
	return 0;
}

/* 3.1.3.2 to 3.1.3.4 */
static int
connect_will(struct reader *r, unsigned max_levels, struct mqtt_connect *c)
{
	int	rc;

	rc = get_props_of(r, c->version, MQTT_IN_WILL, &c->will_props);
	if (rc != 0)
		return rc;
	if (get_binary(r, &c->will_topic) != 0)
		return MQTT_MALFORMED_PACKET;
	rc = mqtt_topic_reason(topic_name_check(c->will_topic.data,
	    c->will_topic.len, max_levels));
	return rc != 0 ? rc : get_binary(r, &c->will_payload);
}

static int
connect_payload(struct reader *r, unsigned max_levels, struct mqtt_connect *c)
{
	int	rc;

	if ((rc = get_string(r, &c->client_id)) != 0)
		return rc;
	if (c->has_will && (rc = connect_will(r, max_levels, c)) != 0)
		return rc;
	if (c->has_username && (rc = get_string(r, &c->username)) != 0)
		return rc;
	if (c->has_password && (rc = get_binary(r, &c->password)) != 0)
		return rc;
	return at_end(r);
}

int
mqtt_decode_connect(const struct mqtt_frame *f, unsigned max_levels,
    struct mqtt_connect *out)
{
	struct reader	r;
	uint8_t		flags;
	int		rc;

	memset(out, 0, sizeof(*out));
	reader_init(&r, f);
	if ((rc = connect_version(&r, out)) != 0)
		return rc;
	/* The frame was read before the version was known: 1.5.5. */
	if (out->version == MQTT_V5 &&
	    f->size - f->len != 1 + mqtt_varint_size(f->len))
		return MQTT_MALFORMED_PACKET;
	if ((rc = get_u8(&r, &flags)) != 0 ||
	    (rc = connect_flags(flags, out)) != 0 ||
	    (rc = get_u16(&r, &out->keep_alive_s)) != 0 ||
	    (rc = get_props_of(&r, out->version, MQTT_CONNECT, &out->props)))
		return rc;
	if (mqtt_props_has(&out->props, MQTT_P_AUTH_DATA) &&
	    !mqtt_props_has(&out->props, MQTT_P_AUTH_METHOD))
		return MQTT_PROTOCOL_ERROR;
	return connect_payload(&r, max_levels, out);
}

/* --- CONNACK ------------------------------------------------------------- */

int
mqtt_decode_connack(const struct mqtt_frame *f, unsigned version,
    struct mqtt_connack *out)
{
	struct reader	r;
	uint8_t		flags;
	int		rc;

	reader_init(&r, f);
	if ((rc = get_u8(&r, &flags)) != 0 ||
	    (rc = get_u8(&r, &out->code)) != 0 ||
	    (rc = get_props_of(&r, version, MQTT_CONNACK, &out->props)) != 0 ||
	    (rc = at_end(&r)) != 0)
		return rc;
	if (version == MQTT_V31)
		flags = 0;			/* not used there */
	if (flags & ~1)
		return MQTT_MALFORMED_PACKET;	/* MQTT-3.2.2-1 */
	out->session_present = flags & 1;
	if (version == MQTT_V5 ? !may_say(&connack_codes, out->code) :
	    out->code > MQTT_V3_NOT_AUTHORIZED)
		return MQTT_PROTOCOL_ERROR;	/* MQTT-3.2.2-8 */
	if (out->session_present && out->code != 0)
		return MQTT_PROTOCOL_ERROR;	/* MQTT-3.2.2-6 */
	return 0;
}

/* --- PUBLISH and its acknowledgements ------------------------------------ */

int
mqtt_decode_publish_props(const uint8_t *p, size_t len, unsigned flags,
    struct mqtt_publish *out, size_t *used)
{
	int	rc;

	rc = mqtt_props_decode(p, len, MQTT_PUBLISH, &out->props, used);
	if (rc != 0)
		return rc;
	if (!(flags & MQTT_FROM_SERVER) &&
	    mqtt_props_has(&out->props, MQTT_P_SUBSCRIPTION_ID))
		return MQTT_PROTOCOL_ERROR;	/* MQTT-3.3.4-6 */
	return 0;
}

int
mqtt_decode_ack_long(const struct mqtt_frame *f, struct mqtt_ack *out)
{
	struct reader	r;
	int		rc;

	reader_init(&r, f);
	if ((rc = get_packet_id(&r, &out->packet_id)) != 0 ||
	    (rc = get_u8(&r, &out->reason)) != 0)
		return rc;
	/* 3.4.2.2.1: below four bytes there is no property length. */
	out->props.has = 0;
	if (f->len > 3 && ((rc = get_props(&r, f->type, &out->props)) != 0 ||
	    (rc = at_end(&r)) != 0))
		return rc;
	if (!may_say(f->type == MQTT_PUBACK || f->type == MQTT_PUBREC ?
	    &puback_codes : &pubrel_codes, out->reason))
		return MQTT_PROTOCOL_ERROR;
	return 0;
}

/* --- SUBSCRIBE and UNSUBSCRIBE ------------------------------------------- */

static int
options_check(uint8_t options, unsigned version, const struct slice *name)
{
	uint8_t	reserved = version == MQTT_V5 ? 0xc0 : 0xfc;

	if (options & reserved)
		return MQTT_MALFORMED_PACKET;
	if ((options & 3) == 3)
		return version == MQTT_V5 ? MQTT_PROTOCOL_ERROR :
		    MQTT_MALFORMED_PACKET;
	if ((options >> 4 & 3) == 3)
		return MQTT_PROTOCOL_ERROR;
	if ((options & 4) && name->len >= 7 &&
	    (memcmp(name->data, "$share/", 7) == 0 ||
	    memcmp(name->data, "$queue/", 7) == 0))
		return MQTT_PROTOCOL_ERROR;
	return 0;
}

int
mqtt_decode_subscribe(const struct mqtt_frame *f, unsigned version,
    struct mqtt_subscribe *out)
{
	struct reader	r;
	struct slice	name;
	uint8_t		options;
	int		rc;

	reader_init(&r, f);
	if ((rc = get_packet_id(&r, &out->packet_id)) != 0 ||
	    (rc = get_props_of(&r, version, MQTT_SUBSCRIBE, &out->props)) != 0)
		return rc;
	out->list.data = r.p;
	out->list.len = (size_t)(r.end - r.p);
	for (out->count = 0; r.p < r.end; out->count++)
		if ((rc = get_string(&r, &name)) != 0 ||
		    (rc = get_u8(&r, &options)) != 0 ||
		    (rc = options_check(options, version, &name)) != 0)
			return rc;
	return out->count > 0 ? 0 : MQTT_PROTOCOL_ERROR;
}

/* One name of a list, with options behind it or without. */
static bool
list_next(const struct slice *list, unsigned max_levels, size_t *at,
    bool has_options, struct mqtt_subscription *out)
{
	struct reader	r = { list->data + *at, list->data + list->len };
	uint8_t		options = 0;

	if (r.p >= r.end || get_binary(&r, &out->name) != 0 ||
	    (has_options && get_u8(&r, &options) != 0))
		return false;
	*at = (size_t)(r.p - list->data);
	out->qos = options & 3;
	out->no_local = options >> 2 & 1;
	out->retain_as_published = options >> 3 & 1;
	out->retain_handling = options >> 4 & 3;
	out->reason = topic_sub_parse(out->name.data, out->name.len,
	    max_levels, &out->topic) < 0 ? MQTT_TOPIC_FILTER_INVALID : 0;
	return true;
}

bool
mqtt_subscribe_next(const struct mqtt_subscribe *s, unsigned max_levels,
    size_t *at, struct mqtt_subscription *out)
{
	return list_next(&s->list, max_levels, at, true, out);
}

int
mqtt_decode_unsubscribe(const struct mqtt_frame *f, unsigned version,
    struct mqtt_unsubscribe *out)
{
	struct reader	r;
	struct slice	name;
	int		rc;

	reader_init(&r, f);
	if ((rc = get_packet_id(&r, &out->packet_id)) != 0 ||
	    (rc = get_props_of(&r, version, MQTT_UNSUBSCRIBE, &out->props)))
		return rc;
	out->list.data = r.p;
	out->list.len = (size_t)(r.end - r.p);
	for (out->count = 0; r.p < r.end; out->count++)
		if ((rc = get_string(&r, &name)) != 0)
			return rc;
	return out->count > 0 ? 0 : MQTT_PROTOCOL_ERROR;
}

bool
mqtt_unsubscribe_next(const struct mqtt_unsubscribe *u, unsigned max_levels,
    size_t *at, struct mqtt_subscription *out)
{
	return list_next(&u->list, max_levels, at, false, out);
}

/* --- SUBACK and UNSUBACK ------------------------------------------------- */

int
mqtt_decode_suback(const struct mqtt_frame *f, unsigned version,
    struct mqtt_suback *out)
{
	const struct codes *codes;
	struct reader	r;
	int		rc;

	reader_init(&r, f);
	if ((rc = get_packet_id(&r, &out->packet_id)) != 0 ||
	    (rc = get_props_of(&r, version, f->type, &out->props)) != 0)
		return rc;
	out->codes = get_rest(&r);
	if (version != MQTT_V5 && f->type == MQTT_UNSUBACK)
		return out->codes.len == 0 ? 0 : MQTT_MALFORMED_PACKET;
	if (f->type == MQTT_UNSUBACK)
		codes = &unsuback_codes;
	else
		codes = version == MQTT_V5 ? &suback_codes : &suback_v3_codes;
	return out->codes.len > 0 && may_say_all(codes, &out->codes) ? 0 :
	    MQTT_PROTOCOL_ERROR;
}

/* --- DISCONNECT and AUTH ------------------------------------------------- */

int
mqtt_decode_disconnect(const struct mqtt_frame *f, unsigned version,
    unsigned flags, struct mqtt_disconnect *out)
{
	unsigned	from = flags & MQTT_FROM_SERVER;
	struct reader	r;
	int		rc;

	out->reason = 0;
	out->props.has = 0;
	if (version != MQTT_V5) {
		if (from == MQTT_FROM_SERVER)
			return MQTT_PROTOCOL_ERROR;
		return f->len == 0 ? 0 : MQTT_MALFORMED_PACKET;
	}
	reader_init(&r, f);
	if (f->len > 0 && (rc = get_u8(&r, &out->reason)) != 0)
		return rc;
	/* 3.14.2.2.1: below two bytes there is no property length. */
	if (f->len > 1 &&
	    ((rc = get_props(&r, MQTT_DISCONNECT, &out->props)) != 0 ||
	    (rc = at_end(&r)) != 0))
		return rc;
	if (!may_say(&disconnect_codes[from], out->reason))
		return MQTT_PROTOCOL_ERROR;
	if (from == MQTT_FROM_SERVER &&
	    mqtt_props_has(&out->props, MQTT_P_SESSION_EXPIRY))
		return MQTT_PROTOCOL_ERROR;
	return 0;
}

int
mqtt_decode_auth(const struct mqtt_frame *f, unsigned flags,
    struct mqtt_auth *out)
{
	unsigned	from = flags & MQTT_FROM_SERVER;
	struct reader	r;
	int		rc;

	out->reason = 0;
	out->props.has = 0;
	reader_init(&r, f);
	if (f->len > 0 &&
	    ((rc = get_u8(&r, &out->reason)) != 0 ||
	    (rc = get_props(&r, MQTT_AUTH, &out->props)) != 0 ||
	    (rc = at_end(&r)) != 0))
		return rc;
	if (!may_say(&auth_codes[from], out->reason))
		return MQTT_PROTOCOL_ERROR;
	if (f->len > 0 && !mqtt_props_has(&out->props, MQTT_P_AUTH_METHOD))
		return MQTT_PROTOCOL_ERROR;
	return 0;
}

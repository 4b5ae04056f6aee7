/*
 * decode.h: from a frame to what the packet says, for every packet type of
 * 3.1, 3.1.1 and 5.0, both as a server and as a client reads it.
 * Spec: MQTT 5.0 chapter 3, 3.1.1 chapter 3, 3.1.
 *
 * The frame comes from mqtt_frame_parse with the same version, which has
 * checked type and flags. All results point into the frame. Every decoder
 * returns 0 or the MQTT 5.0 reason code (0x80..0xa2, positive) the
 * specification asks for; for 3.1 and 3.1.1 any of them means: close. Unless
 * said otherwise *out is undefined on failure.
 *
 *   0x81	malformed: cut short, left over, bad UTF-8, reserved bits
 *   0x82	protocol error: well formed, but not allowed to be said
 */
#ifndef MQTT_DECODE_H
#define MQTT_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "mqtt/frame.h"
#include "mqtt/mqtt.h"
#include "mqtt/props.h"
#include "topic/filter.h"

/* Who sent the packet, and what need not be looked at. */
enum {
	MQTT_FROM_CLIENT	= 0,
	MQTT_FROM_SERVER	= 1,
	MQTT_TOPIC_UNCHECKED	= 2,	/* the caller checks the topic itself */
};

/* --- CONNECT, 3.1 -------------------------------------------------------- */

struct mqtt_connect {
	uint8_t		version;	/* MQTT_V31, _V311, _V5 */
	uint8_t		level;		/* as sent */
	bool		clean_start;	/* clean session in 3.x */
	bool		has_will;
	bool		has_username;
	bool		has_password;
	bool		will_retain;
	uint8_t		will_qos;
	uint16_t	keep_alive_s;
	struct slice	client_id;	/* may be empty; the rules for that and
					   for the 23 bytes of 3.1 are the
					   caller's */
	struct slice	username;
	struct slice	password;
	struct slice	will_topic;
	struct slice	will_payload;
	struct mqtt_props props;	/* has is 0 in 3.x */
	struct mqtt_props will_props;	/* has is 0 without a will and in 3.x */
};

/*
 * out->level and out->version are set on failure too, as far as they could be
 * read, so that the answer can be given in the client's own version: version
 * MQTT_NONE means close without one.
 *   0x84	a protocol name or level not known; version is then MQTT_V5
 *		for levels above 4 (the bit 0x80 that bridges set not counted)
 *		and MQTT_V311 below: the form of CONNACK to refuse with (0x84,
 *		or 0x01 by mqtt_connack_v3_code). Nothing after the level has
 *		been looked at [MQTT-3.1.2-2]
 *   0x81	also: reserved flag [MQTT-3.1.2-3], will QoS or retain without
 *		a will [MQTT-3.1.2-11] [-13], will QoS 3 [-12], in 3.x a
 *		password without a user name [3.1.1: MQTT-3.1.2-22]
 *   0x82	also: authentication data without a method [3.1.2.11.10]
 *   0x90	will topic empty, with wildcards, or of more than max_levels
 *		levels (0: no bound)
 */
int mqtt_decode_connect(const struct mqtt_frame *f, unsigned max_levels,
    struct mqtt_connect *out);

/* --- CONNACK, 3.2 -------------------------------------------------------- */

struct mqtt_connack {
	bool		session_present;
	uint8_t		code;		/* a reason code, in 3.x a return code */
	struct mqtt_props props;
};

int mqtt_decode_connack(const struct mqtt_frame *f, unsigned version,
    struct mqtt_connack *out);

/* --- PUBLISH, 3.3 -------------------------------------------------------- */

struct mqtt_publish {
	struct slice	topic;		/* empty only with a topic alias */
	struct slice	payload;
	uint16_t	packet_id;	/* 0 with QoS 0 */
	uint8_t		qos;
	bool		retain;
	bool		dup;
	struct mqtt_props props;
};

/*
 * flags: MQTT_FROM_CLIENT or _SERVER, and MQTT_TOPIC_UNCHECKED. The topic name
 * is checked when it is not empty, with max_levels (0: no bound).
 *   0x82	also: packet id 0 [MQTT-2.2.1-3] [-4]; a subscription identifier
 *		from a client [MQTT-3.3.4-6]; no topic and no alias (5.0)
 *   0x90	a wildcard in the topic [MQTT-3.3.2-2], too many levels, or in
 *		3.x no topic
 *   0x94	topic alias 0. Whether it is above the maximum is the caller's
 * Whether the payload is what its format says (0x99) is the caller's too.
 */
static inline int mqtt_decode_publish(const struct mqtt_frame *f,
    unsigned version, unsigned flags, unsigned max_levels,
    struct mqtt_publish *out);

/* --- PUBACK, PUBREC, PUBREL, PUBCOMP, 3.4 to 3.7 ------------------------- */

struct mqtt_ack {
	uint16_t	packet_id;
	uint8_t		reason;		/* 0 in 3.x and in the short forms */
	struct mqtt_props props;
};

/* 0x82 also: packet id 0, a reason code that does not belong in the packet
 * [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]. */
static inline int mqtt_decode_ack(const struct mqtt_frame *f, unsigned version,
    struct mqtt_ack *out);

/* --- SUBSCRIBE and UNSUBSCRIBE, 3.8 and 3.10 ----------------------------- */

struct mqtt_subscribe {
	uint16_t	packet_id;
	unsigned	count;		/* filters, at least 1 */
	struct mqtt_props props;
	struct slice	list;		/* for mqtt_subscribe_next */
};

struct mqtt_subscription {
	struct slice	name;		/* as sent */
	struct topic_sub topic;		/* taken apart; only if reason is 0 */
	int		reason;		/* 0, or 0x8f: this filter is not one
					   (wildcards, share name, empty, too
					   many levels). Answer it in SUBACK or
					   by closing: both conform */
	uint8_t		qos;
	bool		no_local;
	bool		retain_as_published;
	uint8_t		retain_handling;
};

/*
 * The whole list is checked here, so that nothing has been subscribed when a
 * packet turns out bad in its middle.
 *   0x81	also: reserved option bits [MQTT-3.8.3-5] [3.1.1: MQTT-3-8.3-4];
 *		a filter that is not UTF-8 [MQTT-3.8.3-1]
 *   0x82	also: packet id 0; no filter at all [MQTT-3.8.3-2]; QoS 3 and
 *		retain handling 3 [3.8.3.1]; No Local on a shared subscription
 *		[MQTT-3.8.3-4]; subscription identifier 0 [3.8.2.1.2]
 */
int mqtt_decode_subscribe(const struct mqtt_frame *f, unsigned version,
    struct mqtt_subscribe *out);

/* Start with *at = 0; false when there are no more. max_levels as in
 * topic_sub_parse. */
bool mqtt_subscribe_next(const struct mqtt_subscribe *s, unsigned max_levels,
    size_t *at, struct mqtt_subscription *out);

struct mqtt_unsubscribe {
	uint16_t	packet_id;
	unsigned	count;
	struct mqtt_props props;
	struct slice	list;
};

/* 0x82 also: packet id 0; no filter at all [MQTT-3.10.3-2]. */
int mqtt_decode_unsubscribe(const struct mqtt_frame *f, unsigned version,
    struct mqtt_unsubscribe *out);

/* As mqtt_subscribe_next; of *out name, topic and reason are set, the rest is
 * zero. */
bool mqtt_unsubscribe_next(const struct mqtt_unsubscribe *u,
    unsigned max_levels, size_t *at, struct mqtt_subscription *out);

/* --- SUBACK and UNSUBACK, 3.9 and 3.11 ----------------------------------- */

struct mqtt_suback {
	uint16_t	packet_id;
	struct mqtt_props props;
	struct slice	codes;		/* one byte per filter; empty for an
					   UNSUBACK of 3.x */
};

/* f->type says which of the two it is. */
int mqtt_decode_suback(const struct mqtt_frame *f, unsigned version,
    struct mqtt_suback *out);

/* --- PINGREQ, PINGRESP, 3.12 and 3.13 ------------------------------------ */

static inline int
mqtt_decode_ping(const struct mqtt_frame *f)
{
	return f->len == 0 ? 0 : MQTT_MALFORMED_PACKET;
}

/* --- DISCONNECT, 3.14, and AUTH, 3.15 ------------------------------------ */

struct mqtt_disconnect {
	uint8_t		reason;		/* 0 in 3.x and when left out */
	struct mqtt_props props;	/* a session expiry other than 0 after
					   0 in CONNECT is the caller's to
					   refuse (0x82) [3.14.2.2.2] */
};

/* 0x82 also: a reason code this side may not send [MQTT-3.14.2-1], session
 * expiry from a server [MQTT-3.14.2-2], and in 3.x anything from a server. */
int mqtt_decode_disconnect(const struct mqtt_frame *f, unsigned version,
    unsigned flags, struct mqtt_disconnect *out);

struct mqtt_auth {
	uint8_t		reason;		/* 0x00, 0x18, 0x19 */
	struct mqtt_props props;
};

/* 0x82 also: a reason code this side may not send [MQTT-3.15.2-1], no
 * authentication method [3.15.2.2.2] (but the empty form from a server). */
int mqtt_decode_auth(const struct mqtt_frame *f, unsigned flags,
    struct mqtt_auth *out);

/* --- The hot ones -------------------------------------------------------- */

/* Properties, alias rules and topic of a PUBLISH of 5.0 whose list is not
 * empty: p is where it begins. Sets out->props and *used. */
int mqtt_decode_publish_props(const uint8_t *p, size_t len, unsigned flags,
    struct mqtt_publish *out, size_t *used);

/* The reason code for what topic_name_check said. */
int mqtt_topic_reason(int rc);

/* An acknowledgement of 5.0 that is longer than two bytes. */
int mqtt_decode_ack_long(const struct mqtt_frame *f, struct mqtt_ack *out);

static inline int
mqtt_decode_publish(const struct mqtt_frame *f, unsigned version,
    unsigned flags, unsigned max_levels, struct mqtt_publish *out)
{
	const uint8_t	*p = f->body, *end = f->body + f->len;
	size_t		 n, used;
	int		 rc;

	if (UNLIKELY(f->len < 2))
		return MQTT_MALFORMED_PACKET;
	n = get_be16(p);
	p += 2;
	out->qos = f->flags >> 1 & 3;
	out->retain = f->flags & 1;
	out->dup = f->flags >> 3 & 1;
	out->packet_id = 0;
	out->props.has = 0;
	if (UNLIKELY(n + (out->qos > 0 ? 2 : 0) > (size_t)(end - p)))
		return MQTT_MALFORMED_PACKET;
	out->topic.data = p;
	out->topic.len = n;
	p += n;
	if (out->qos > 0) {
		if (UNLIKELY((out->packet_id = get_be16(p)) == 0))
			return MQTT_PROTOCOL_ERROR;
		p += 2;
	}
	if (version == MQTT_V5) {
		if (UNLIKELY(p == end))
			return MQTT_MALFORMED_PACKET;
		if (*p == 0) {
			p++;
		} else {
			if ((rc = mqtt_decode_publish_props(p,
			    (size_t)(end - p), flags, out, &used)) != 0)
				return rc;
			p += used;
		}
	}
	out->payload.data = p;
	out->payload.len = (size_t)(end - p);
	if (UNLIKELY(n == 0)) {
		if (version != MQTT_V5)
			return MQTT_TOPIC_NAME_INVALID;
		return mqtt_props_has(&out->props, MQTT_P_TOPIC_ALIAS) ? 0 :
		    MQTT_PROTOCOL_ERROR;
	}
	if (!(flags & MQTT_TOPIC_UNCHECKED) &&
	    UNLIKELY((rc = topic_name_check(out->topic.data, n, max_levels))))
		return mqtt_topic_reason(rc);
	return 0;
}

static inline int
mqtt_decode_ack(const struct mqtt_frame *f, unsigned version,
    struct mqtt_ack *out)
{
	if (UNLIKELY(f->len != 2)) {
		if (f->len < 2 || version != MQTT_V5)
			return MQTT_MALFORMED_PACKET;
		return mqtt_decode_ack_long(f, out);
	}
	out->reason = 0;
	out->props.has = 0;
	out->packet_id = get_be16(f->body);
	return LIKELY(out->packet_id != 0) ? 0 : MQTT_PROTOCOL_ERROR;
}

#endif

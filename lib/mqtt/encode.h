/*
 * encode.h: packets into a caller's buffer. Each has a _size, exact, which is
 * 0 when there can be no such packet (longer than MQTT_PACKET_MAX, a string
 * longer than 65535), and an _encode, which writes just that many bytes and
 * returns them. To stay within a peer's Maximum Packet Size: take the size,
 * and if it is too much, mqtt_props_trim() by the excess and take it again.
 * Spec: MQTT 5.0 chapter 3.
 *
 * version is the peer's; in 3.x properties and reasons are left out. props may
 * be NULL: none.
 */
#ifndef MQTT_ENCODE_H
#define MQTT_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "mqtt/decode.h"
#include "mqtt/frame.h"
#include "mqtt/mqtt.h"
#include "mqtt/props.h"

/* --- PUBLISH ------------------------------------------------------------- */

struct mqtt_publish_out {
	struct slice	topic;
	struct slice	props;		/* encoded, to be sent as they are, as
					   from mqtt_props_forward */
	size_t		payload_len;
	const uint32_t	*subscription_ids;
	unsigned	nsubscription_ids;
	uint32_t	message_expiry_s;
	bool		has_message_expiry;
	uint16_t	topic_alias;	/* 0: none. With one, topic may be empty */
	uint16_t	packet_id;	/* when qos > 0 */
	uint8_t		qos;
	bool		retain;
	bool		dup;
};

/* The whole packet, payload included. */
size_t mqtt_publish_size(unsigned version, const struct mqtt_publish_out *o);

/*
 * Everything before the payload: returns the bytes written. The packet must
 * have a size. *id_at (may be NULL) becomes the offset of the packet id, 0
 * with QoS 0, so that one header serves many subscribers: copy it, put_be16
 * the packet id.
 */
size_t mqtt_publish_head(unsigned version, const struct mqtt_publish_out *o,
    uint8_t *buf, size_t *id_at);

/* The most bytes a head can take. */
static inline size_t
mqtt_publish_head_max(const struct mqtt_publish_out *o)
{
	return 5 + 2 + o->topic.len + 2 + 4 + 5 + 3 +
	    5 * (size_t)o->nsubscription_ids + o->props.len;
}

/* --- PUBACK, PUBREC, PUBREL, PUBCOMP ------------------------------------- */

/* The four bytes of an acknowledgement of success, in every version. */
static inline size_t
mqtt_ack_encode_short(enum mqtt_type type, uint16_t packet_id, uint8_t *buf)
{
	buf[0] = (uint8_t)(type << 4 | (type == MQTT_PUBREL ? 2 : 0));
	buf[1] = 2;
	put_be16(buf + 2, packet_id);
	return 4;
}

/* Takes the shortest form there is. */
size_t mqtt_ack_size(unsigned version, uint8_t reason,
    const struct mqtt_props *props);
size_t mqtt_ack_encode(unsigned version, enum mqtt_type type,
    uint16_t packet_id, uint8_t reason, const struct mqtt_props *props,
    uint8_t *buf);

/* --- CONNACK ------------------------------------------------------------- */

/* code is a reason code in 5.0 and a return code in 3.x
 * (mqtt_connack_v3_code). */
size_t mqtt_connack_size(unsigned version, const struct mqtt_props *props);
size_t mqtt_connack_encode(unsigned version, bool session_present,
    uint8_t code, const struct mqtt_props *props, uint8_t *buf);

/* --- SUBACK, UNSUBACK ---------------------------------------------------- */

/*
 * type is MQTT_SUBACK or MQTT_UNSUBACK; codes has count reason codes of 5.0.
 * In a SUBACK of 3.x failures become 0x80; an UNSUBACK of 3.x carries none.
 */
size_t mqtt_suback_size(unsigned version, enum mqtt_type type, size_t count,
    const struct mqtt_props *props);
size_t mqtt_suback_encode(unsigned version, enum mqtt_type type,
    uint16_t packet_id, const uint8_t *codes, size_t count,
    const struct mqtt_props *props, uint8_t *buf);

/* --- PINGREQ, PINGRESP --------------------------------------------------- */

static inline size_t
mqtt_ping_encode(enum mqtt_type type, uint8_t *buf)
{
	buf[0] = (uint8_t)(type << 4);
	buf[1] = 0;
	return 2;
}

/* --- DISCONNECT, AUTH ---------------------------------------------------- */

/* Takes the shortest form there is; two bytes in 3.x. */
size_t mqtt_disconnect_size(unsigned version, uint8_t reason,
    const struct mqtt_props *props);
size_t mqtt_disconnect_encode(unsigned version, uint8_t reason,
    const struct mqtt_props *props, uint8_t *buf);

/* 5.0 only. */
size_t mqtt_auth_size(uint8_t reason, const struct mqtt_props *props);
size_t mqtt_auth_encode(uint8_t reason, const struct mqtt_props *props,
    uint8_t *buf);

/* --- What a client says -------------------------------------------------- */

/*
 * c->version decides name and level; c->level is not looked at. The props of
 * *c are written in 5.0 only.
 */
size_t mqtt_connect_size(const struct mqtt_connect *c);
size_t mqtt_connect_encode(const struct mqtt_connect *c, uint8_t *buf);

/* Of each subscription name and the options are used; the options of 5.0 are
 * left out in 3.x. */
size_t mqtt_subscribe_size(unsigned version,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props);
size_t mqtt_subscribe_encode(unsigned version, uint16_t packet_id,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props, uint8_t *buf);

/* Of each subscription only the name is used. */
size_t mqtt_unsubscribe_size(unsigned version,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props);
size_t mqtt_unsubscribe_encode(unsigned version, uint16_t packet_id,
    const struct mqtt_subscription *subs, size_t count,
    const struct mqtt_props *props, uint8_t *buf);

#endif

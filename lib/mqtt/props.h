/*
 * props.h: the properties of MQTT 5.0, decoded to and encoded from one struct.
 * Spec: section 2.2.2 and the property tables of chapter 3.
 */
#ifndef MQTT_PROPS_H
#define MQTT_PROPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "mqtt/mqtt.h"

enum mqtt_prop {
	MQTT_P_PAYLOAD_FORMAT		= 0x01,
	MQTT_P_MESSAGE_EXPIRY		= 0x02,
	MQTT_P_CONTENT_TYPE		= 0x03,
	MQTT_P_RESPONSE_TOPIC		= 0x08,
	MQTT_P_CORRELATION_DATA		= 0x09,
	MQTT_P_SUBSCRIPTION_ID		= 0x0b,
	MQTT_P_SESSION_EXPIRY		= 0x11,
	MQTT_P_ASSIGNED_CLIENT_ID	= 0x12,
	MQTT_P_SERVER_KEEP_ALIVE	= 0x13,
	MQTT_P_AUTH_METHOD		= 0x15,
	MQTT_P_AUTH_DATA		= 0x16,
	MQTT_P_REQUEST_PROBLEM_INFO	= 0x17,
	MQTT_P_WILL_DELAY		= 0x18,
	MQTT_P_REQUEST_RESPONSE_INFO	= 0x19,
	MQTT_P_RESPONSE_INFO		= 0x1a,
	MQTT_P_SERVER_REFERENCE		= 0x1c,
	MQTT_P_REASON_STRING		= 0x1f,
	MQTT_P_RECEIVE_MAXIMUM		= 0x21,
	MQTT_P_TOPIC_ALIAS_MAXIMUM	= 0x22,
	MQTT_P_TOPIC_ALIAS		= 0x23,
	MQTT_P_MAXIMUM_QOS		= 0x24,
	MQTT_P_RETAIN_AVAILABLE		= 0x25,
	MQTT_P_USER_PROPERTY		= 0x26,
	MQTT_P_MAXIMUM_PACKET_SIZE	= 0x27,
	MQTT_P_WILDCARD_AVAILABLE	= 0x28,
	MQTT_P_SUBSCRIPTION_ID_AVAILABLE = 0x29,
	MQTT_P_SHARED_AVAILABLE		= 0x2a,
};

/* The place a property list stands in: a packet type, or the will. */
#define MQTT_IN_WILL	0

/*
 * Properties. A field means something only where its bit in `has` is set, so
 * `p.has = 0` is all it takes to make an empty list; nothing else is cleared.
 */
struct mqtt_props {
	uint64_t	has;		/* bit n: property n is there */
	uint32_t	session_expiry_s;
	uint32_t	message_expiry_s;
	uint32_t	will_delay_s;
	uint32_t	maximum_packet_size;
	uint32_t	subscription_id;	/* the first of them */
	uint32_t	nsubscription_ids;	/* more than one only in PUBLISH */
	uint32_t	nuser;			/* user properties */
	uint16_t	server_keep_alive_s;
	uint16_t	receive_maximum;
	uint16_t	topic_alias_maximum;
	uint16_t	topic_alias;
	uint8_t		payload_format;
	uint8_t		request_problem_info;
	uint8_t		request_response_info;
	uint8_t		maximum_qos;
	uint8_t		retain_available;
	uint8_t		wildcard_available;
	uint8_t		subscription_id_available;
	uint8_t		shared_available;
	struct slice	content_type;
	struct slice	response_topic;
	struct slice	correlation_data;
	struct slice	assigned_client_id;
	struct slice	auth_method;
	struct slice	auth_data;
	struct slice	response_info;
	struct slice	server_reference;
	struct slice	reason_string;
	struct slice	user;	/* encoded: from the first user property to the
				   end of the last; decoded lists may have
				   others in between */
	struct slice	raw;	/* decoded lists: the whole region, without its
				   length; undefined when has is 0 */
};

#define MQTT_P_BIT(id)	((uint64_t)1 << (id))

static inline bool
mqtt_props_has(const struct mqtt_props *p, enum mqtt_prop id)
{
	return p->has >> id & 1;
}

/* Set a property: MQTT_PROP_SET(&p, TOPIC_ALIAS, topic_alias, 3). */
#define MQTT_PROP_SET(p, ID, field, value) \
	((p)->has |= MQTT_P_BIT(MQTT_P_##ID), (p)->field = (value))

/*
 * Decode a property list, its length first, from the len bytes at buf. `in` is
 * the packet type it stands in or MQTT_IN_WILL. *used becomes the bytes taken.
 * Returns 0 or the reason code:
 *   0x81	length or value cut short, unknown property, one that does not
 *		belong in this packet [2.2.2.2], a string that is not UTF-8
 *   0x82	twice what may stand once, or a value the specification forbids
 *		(and a Response Topic with wildcards [MQTT-3.3.2-14])
 *   0x94	Topic Alias 0 [MQTT-3.3.2-8]
 * *p and *used are undefined on failure.
 */
int mqtt_props_decode(const uint8_t *buf, size_t len, unsigned in,
    struct mqtt_props *p, size_t *used);

/* Walk the user properties in their order: start with *at = 0. false: no more.
 */
bool mqtt_props_user_next(const struct mqtt_props *p, size_t *at,
    struct slice *name, struct slice *value);

/* The same for the subscription identifiers of a decoded PUBLISH. */
bool mqtt_props_subscription_id_next(const struct mqtt_props *p, size_t *at,
    uint32_t *id);

/*
 * Bytes of the encoded list, without its length. Everything in `has` counts, of
 * the subscription identifiers the first. That a property belongs in the packet
 * and that no string is longer than 65535 bytes is the caller's care. p may be
 * NULL: 0.
 */
size_t mqtt_props_size(const struct mqtt_props *p);

/* Encode the list, its length first; returns the bytes written:
 * mqtt_varint_size(size) + size. p may be NULL: the empty list. */
size_t mqtt_props_encode(const struct mqtt_props *p, uint8_t *buf);

/* One user property, encoded (for building p->user). Bytes: 5 + both. */
size_t mqtt_user_property_encode(uint8_t *buf, struct slice name,
    struct slice value);

/*
 * Drop what a packet may not carry beyond the peer's Maximum Packet Size: the
 * user properties, then the reason string [MQTT-3.2.2-19] [MQTT-3.2.2-20]
 * [MQTT-3.4.2-2] [MQTT-3.4.2-3] and their like, until `excess` bytes are
 * saved. true if they are. (Sizes of the length fields may save more.)
 */
bool mqtt_props_trim(struct mqtt_props *p, size_t excess);

/*
 * What of a PUBLISH's properties must be forwarded unaltered: payload format,
 * content type, response topic, correlation data and the user properties in
 * order [MQTT-3.3.2-4] [-15] [-16] [-17] [-18] [-20]. *out becomes the encoded
 * properties without a length: p->raw itself where nothing is to be left out,
 * else a copy made in buf, which must hold p->raw.len bytes. Left out are
 * message expiry, topic alias and subscription identifiers.
 */
void mqtt_props_forward(const struct mqtt_props *p, uint8_t *buf,
    struct slice *out);

/* true when mqtt_props_forward needs no buffer (buf may be NULL). */
static inline bool
mqtt_props_forward_is_raw(const struct mqtt_props *p)
{
	return !(p->has & (MQTT_P_BIT(MQTT_P_MESSAGE_EXPIRY) |
	    MQTT_P_BIT(MQTT_P_TOPIC_ALIAS) |
	    MQTT_P_BIT(MQTT_P_SUBSCRIPTION_ID)));
}

#endif

/*
 * mqtt.h: the numbers of MQTT 3.1 (level 3), 3.1.1 (level 4) and 5.0 (level 5)
 * and their names. The codec is frame.h, props.h, decode.h and encode.h; it
 * allocates nothing: what is decoded are slices of the caller's buffer.
 */
#ifndef MQTT_MQTT_H
#define MQTT_MQTT_H

#include <stddef.h>
#include <stdint.h>

/* Protocol levels; 0 stands for a connection that has not sent CONNECT. */
enum mqtt_version {
	MQTT_NONE	= 0,
	MQTT_V31	= 3,
	MQTT_V311	= 4,
	MQTT_V5		= 5,
};

enum mqtt_type {
	MQTT_CONNECT	= 1,
	MQTT_CONNACK	= 2,
	MQTT_PUBLISH	= 3,
	MQTT_PUBACK	= 4,
	MQTT_PUBREC	= 5,
	MQTT_PUBREL	= 6,
	MQTT_PUBCOMP	= 7,
	MQTT_SUBSCRIBE	= 8,
	MQTT_SUBACK	= 9,
	MQTT_UNSUBSCRIBE = 10,
	MQTT_UNSUBACK	= 11,
	MQTT_PINGREQ	= 12,
	MQTT_PINGRESP	= 13,
	MQTT_DISCONNECT	= 14,
	MQTT_AUTH	= 15,
};

/* Reason codes, 2.4. Those from 0x80 on are failures. */
enum mqtt_reason {
	MQTT_SUCCESS			= 0x00,
	MQTT_NORMAL_DISCONNECTION	= 0x00,
	MQTT_GRANTED_QOS_0		= 0x00,
	MQTT_GRANTED_QOS_1		= 0x01,
	MQTT_GRANTED_QOS_2		= 0x02,
	MQTT_DISCONNECT_WITH_WILL	= 0x04,
	MQTT_NO_MATCHING_SUBSCRIBERS	= 0x10,
	MQTT_NO_SUBSCRIPTION_EXISTED	= 0x11,
	MQTT_CONTINUE_AUTHENTICATION	= 0x18,
	MQTT_REAUTHENTICATE		= 0x19,
	MQTT_UNSPECIFIED_ERROR		= 0x80,
	MQTT_MALFORMED_PACKET		= 0x81,
	MQTT_PROTOCOL_ERROR		= 0x82,
	MQTT_IMPLEMENTATION_SPECIFIC	= 0x83,
	MQTT_UNSUPPORTED_VERSION	= 0x84,
	MQTT_CLIENT_ID_INVALID		= 0x85,
	MQTT_BAD_USER_NAME_OR_PASSWORD	= 0x86,
	MQTT_NOT_AUTHORIZED		= 0x87,
	MQTT_SERVER_UNAVAILABLE		= 0x88,
	MQTT_SERVER_BUSY		= 0x89,
	MQTT_BANNED			= 0x8a,
	MQTT_SERVER_SHUTTING_DOWN	= 0x8b,
	MQTT_BAD_AUTHENTICATION_METHOD	= 0x8c,
	MQTT_KEEP_ALIVE_TIMEOUT		= 0x8d,
	MQTT_SESSION_TAKEN_OVER		= 0x8e,
	MQTT_TOPIC_FILTER_INVALID	= 0x8f,
	MQTT_TOPIC_NAME_INVALID		= 0x90,
	MQTT_PACKET_ID_IN_USE		= 0x91,
	MQTT_PACKET_ID_NOT_FOUND	= 0x92,
	MQTT_RECEIVE_MAXIMUM_EXCEEDED	= 0x93,
	MQTT_TOPIC_ALIAS_INVALID	= 0x94,
	MQTT_PACKET_TOO_LARGE		= 0x95,
	MQTT_MESSAGE_RATE_TOO_HIGH	= 0x96,
	MQTT_QUOTA_EXCEEDED		= 0x97,
	MQTT_ADMINISTRATIVE_ACTION	= 0x98,
	MQTT_PAYLOAD_FORMAT_INVALID	= 0x99,
	MQTT_RETAIN_NOT_SUPPORTED	= 0x9a,
	MQTT_QOS_NOT_SUPPORTED		= 0x9b,
	MQTT_USE_ANOTHER_SERVER		= 0x9c,
	MQTT_SERVER_MOVED		= 0x9d,
	MQTT_SHARED_NOT_SUPPORTED	= 0x9e,
	MQTT_CONNECTION_RATE_EXCEEDED	= 0x9f,
	MQTT_MAXIMUM_CONNECT_TIME	= 0xa0,
	MQTT_SUBSCRIPTION_IDS_NOT_SUPPORTED = 0xa1,
	MQTT_WILDCARDS_NOT_SUPPORTED	= 0xa2,
};

/* Return codes of a CONNACK in 3.1 and 3.1.1, 3.2.2.3. */
enum mqtt_v3_code {
	MQTT_V3_ACCEPTED		= 0,
	MQTT_V3_BAD_VERSION		= 1,
	MQTT_V3_BAD_CLIENT_ID		= 2,
	MQTT_V3_UNAVAILABLE		= 3,
	MQTT_V3_BAD_USER_OR_PASSWORD	= 4,
	MQTT_V3_NOT_AUTHORIZED		= 5,
};

#define MQTT_SUBACK_V3_FAILURE	0x80

/* Remaining length and a whole packet at their largest, 2.1.4. */
#define MQTT_LEN_MAX	268435455u
#define MQTT_PACKET_MAX	(MQTT_LEN_MAX + 5)

/* "PUBLISH"; "RESERVED" for 0 and anything above 15. */
const char *mqtt_type_name(unsigned type);

/* "Malformed Packet" and so on, as 2.4 spells it; "Unknown" for the rest. */
const char *mqtt_reason_name(unsigned reason);

/*
 * The CONNACK return code that says reason to a client of 3.1 or 3.1.1, or -1
 * when these have none and the connection is closed without an answer, as for
 * a malformed packet.
 */
int mqtt_connack_v3_code(unsigned reason);

#endif

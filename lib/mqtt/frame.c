#include "mqtt/frame.h"

/* The only flags, or none. */
#define F(n)	((uint16_t)(1u << (n)))
#define NOFLAGS	F(0)

/*
 * PUBLISH: dup, two bits of QoS, retain. QoS 3 is 6, 7, 14, 15; DUP with QoS 0
 * is 8, 9, which 3.1 does not forbid.
 */
#define ANY_QOS		(F(0) | F(1) | F(2) | F(3) | F(4) | F(5) | \
			 F(10) | F(11) | F(12) | F(13))
#define ANY_QOS_31	(ANY_QOS | F(8) | F(9))

/* 3.1 calls flags "not used" where later versions reserve them, and lets what
 * is sent with QoS 1 be sent again with DUP. */
#define UNUSED_31	0xffff
#define QOS1_31		(F(2) | F(3) | F(10) | F(11))

#define SINCE_311							\
	[MQTT_CONNECT] = NOFLAGS, [MQTT_CONNACK] = NOFLAGS,		\
	[MQTT_PUBLISH] = ANY_QOS, [MQTT_PUBACK] = NOFLAGS,		\
	[MQTT_PUBREC] = NOFLAGS, [MQTT_PUBREL] = F(2),			\
	[MQTT_PUBCOMP] = NOFLAGS, [MQTT_SUBSCRIBE] = F(2),		\
	[MQTT_SUBACK] = NOFLAGS, [MQTT_UNSUBSCRIBE] = F(2),		\
	[MQTT_UNSUBACK] = NOFLAGS, [MQTT_PINGREQ] = NOFLAGS,		\
	[MQTT_PINGRESP] = NOFLAGS, [MQTT_DISCONNECT] = NOFLAGS

const uint16_t mqtt_frame_flags[6][16] = {
	[MQTT_NONE] = { [MQTT_CONNECT] = NOFLAGS },
	[MQTT_V31] = {
		[MQTT_CONNECT] = UNUSED_31, [MQTT_CONNACK] = UNUSED_31,
		[MQTT_PUBLISH] = ANY_QOS_31, [MQTT_PUBACK] = UNUSED_31,
		[MQTT_PUBREC] = UNUSED_31, [MQTT_PUBREL] = QOS1_31,
		[MQTT_PUBCOMP] = UNUSED_31, [MQTT_SUBSCRIBE] = QOS1_31,
		[MQTT_SUBACK] = UNUSED_31, [MQTT_UNSUBSCRIBE] = QOS1_31,
		[MQTT_UNSUBACK] = UNUSED_31, [MQTT_PINGREQ] = UNUSED_31,
		[MQTT_PINGRESP] = UNUSED_31, [MQTT_DISCONNECT] = UNUSED_31,
	},
	[MQTT_V311] = { SINCE_311 },
	[MQTT_V5] = { SINCE_311, [MQTT_AUTH] = NOFLAGS },
};

int
mqtt_frame_parse_slow(const uint8_t *buf, size_t len, unsigned version,
    uint32_t max_packet, struct mqtt_frame *f)
{
	uint32_t	n = 0, hdr = 1;
	unsigned	b;

	f->size = 0;
	if (len == 0)
		return ERR_AGAIN;
	if (!(mqtt_frame_flags[version][buf[0] >> 4] >> (buf[0] & 15) & 1))
		return ERR_PROTO;
	do {
		if (hdr == 5)
			return ERR_PROTO;
		if (hdr == len)
			return ERR_AGAIN;
		b = buf[hdr];
		n |= (b & 0x7f) << 7 * (hdr - 1);
		hdr++;
	} while (b & 0x80);
	/* 3.x does not forbid more bytes than needed. */
	if (b == 0 && hdr > 2 && version == MQTT_V5)
		return ERR_PROTO;
	f->size = hdr + n;
	f->type = buf[0] >> 4;
	if (max_packet != 0 && f->size > max_packet)
		return ERR_FULL;
	if (f->size > len)
		return ERR_AGAIN;
	f->flags = buf[0] & 15;
	f->body = buf + hdr;
	f->len = n;
	return 0;
}

int
mqtt_varint_get(const uint8_t *p, size_t len, uint32_t *v)
{
	uint32_t	n = 0;
	unsigned	i;

	for (i = 0; i < 4; i++) {
		if (i == len)
			return 0;
		n |= (uint32_t)(p[i] & 0x7f) << 7 * i;
		if (p[i] & 0x80)
			continue;
		if (p[i] == 0 && i > 0)
			return ERR_PROTO;
		*v = n;
		return (int)i + 1;
	}
	return ERR_PROTO;
}

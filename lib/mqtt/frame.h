/*
 * frame.h: where one packet ends and the next begins: the fixed header.
 * Spec: MQTT 5.0 section 2.1, 1.5.5; 3.1.1 section 2.2.
 */
#ifndef MQTT_FRAME_H
#define MQTT_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/util.h"
#include "mqtt/mqtt.h"

struct mqtt_frame {
	const uint8_t	*body;		/* after the fixed header */
	uint32_t	 len;		/* of body: the remaining length */
	uint32_t	 size;		/* of the whole packet */
	uint8_t		 type;		/* enum mqtt_type */
	uint8_t		 flags;		/* the low four bits of the first byte */
};

/*
 * [version][type]: bit n set where flags of value n may stand. 0 for types the
 * version does not have; version 0 knows CONNECT only [MQTT-3.1.0-1].
 */
extern const uint16_t mqtt_frame_flags[6][16];

/* The general case of mqtt_frame_parse. */
int mqtt_frame_parse_slow(const uint8_t *buf, size_t len, unsigned version,
    uint32_t max_packet, struct mqtt_frame *f);

/*
 * Find the packet at the front of the len bytes at buf. version is the level
 * of the connection (0..5), MQTT_NONE until CONNECT was decoded. max_packet is
 * the largest whole packet, fixed header included; 0: no bound of ours.
 * Returns
 *   0		*f describes it; the next one starts at buf + f->size
 *   ERR_AGAIN	more bytes are needed; f->size is the size of the packet when
 *		its length could be read, else 0; the rest of *f is undefined
 *   ERR_FULL	larger than max_packet (said as soon as its length is read):
 *		reason 0x95 [MQTT-3.1.2-24]; f->type, f->size are set
 *   ERR_PROTO	reason 0x81: a type the version does not have, flags that may
 *		not stand there (also QoS 3, and DUP with QoS 0 from 3.1.1 on)
 *		[MQTT-2.1.3-1] [MQTT-3.3.1-4] [MQTT-3.3.1-2], a length of five
 *		bytes or, in 5.0, of more bytes than needed [MQTT-1.5.5-1]
 */
static inline int
mqtt_frame_parse(const uint8_t *buf, size_t len, unsigned version,
    uint32_t max_packet, struct mqtt_frame *f)
{
	uint32_t	n, hdr;

	if (UNLIKELY(len < 4))
		goto slow;
	n = buf[1];
	hdr = 2;
	if (n & 0x80) {
		if (UNLIKELY(buf[2] == 0 || (buf[2] & 0x80)))
			goto slow;
		n = (n & 0x7f) | (uint32_t)buf[2] << 7;
		hdr = 3;
	}
	if (UNLIKELY(!(mqtt_frame_flags[version][buf[0] >> 4] >>
	    (buf[0] & 15) & 1)))
		return ERR_PROTO;
	/* max_packet 0 wraps round to "anything" */
	if (UNLIKELY(hdr + n > len || hdr + n - 1 > max_packet - 1))
		goto slow;
	f->body = buf + hdr;
	f->len = n;
	f->size = hdr + n;
	f->type = buf[0] >> 4;
	f->flags = buf[0] & 15;
	return 0;
slow:
	return mqtt_frame_parse_slow(buf, len, version, max_packet, f);
}

/* Bytes that a variable byte integer of v (at most MQTT_LEN_MAX) takes. */
static inline unsigned
mqtt_varint_size(uint32_t v)
{
	return 1 + (v > 127) + (v > 16383) + (v > 2097151);
}

/* Write v (at most MQTT_LEN_MAX) and return the bytes written, 1..4. */
static inline unsigned
mqtt_varint_put(uint8_t *p, uint32_t v)
{
	unsigned	n = 0;

	while (UNLIKELY(v > 127)) {
		p[n++] = (uint8_t)(v | 0x80);
		v >>= 7;
	}
	p[n++] = (uint8_t)v;
	return n;
}

/*
 * Read a variable byte integer of at most len bytes. Returns the bytes it
 * takes, 0 if it does not end within len, ERR_PROTO if it has five bytes or
 * more than it needs (1.5.5).
 */
int mqtt_varint_get(const uint8_t *p, size_t len, uint32_t *v);

/*
 * The size of a whole packet whose remaining length is n; 0 when n is above
 * MQTT_LEN_MAX and there can be no such packet.
 */
static inline size_t
mqtt_packet_size(size_t n)
{
	return n > MQTT_LEN_MAX ? 0 : 1 + mqtt_varint_size((uint32_t)n) + n;
}

#endif

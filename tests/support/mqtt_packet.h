/*
 * mqtt_packet.h: packets as literals for the codec's tests. A packet is made of
 * its first byte and its body; the length between them is worked out.
 *
 *   ACCEPTS(MQTT_V5, MQTT_FROM_CLIENT, "\x40", "\0\1");   then look at `got`
 *   REFUSES(0x82, MQTT_V5, MQTT_FROM_CLIENT, "\x40", "\0\0");
 */
#ifndef SUPPORT_MQTT_PACKET_H
#define SUPPORT_MQTT_PACKET_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "mqtt_any.h"

static struct any	got;		/* the last packet accepted */
static uint8_t		*packet;	/* its bytes, in a block of their size */
static size_t		 packet_len;

static inline void
packet_make(uint8_t first, const void *body, size_t len)
{
	uint8_t		head[5];
	unsigned	n = 1;

	head[0] = first;
	n += mqtt_varint_put(head + 1, (uint32_t)len);
	free(packet);
	packet_len = n + len;
	packet = any_alloc(packet_len);
	memcpy(packet, head, n);
	if (len > 0)
		memcpy(packet + n, body, len);
}

static inline unsigned
version_for(unsigned version, uint8_t first)
{
	return first >> 4 == MQTT_CONNECT ? MQTT_NONE : version;
}

static inline int
packet_decode(unsigned version, unsigned flags)
{
	return any_decode(&got, version_for(version, packet[0]), flags, 0,
	    packet, packet_len);
}

/*
 * Every prefix of the packet wants more, and none is read beyond its end; and
 * a packet that ends early but says so is refused or well formed, nothing else.
 */
static inline void
packet_cut(unsigned version, unsigned flags)
{
	struct any	 a;
	uint8_t		*part;
	size_t		 n, head = packet_len - got.frame.len;
	uint8_t		 short_head[5];
	unsigned	 h;
	int		 rc;

	version = version_for(version, packet[0]);
	for (n = 0; n < packet_len; n++) {
		part = any_alloc(n);
		memcpy(part, packet, n);
		assert_int_equal(any_decode(&a, version, flags, 0, part, n),
		    ERR_AGAIN);
		assert_true(a.frame.size == 0 || a.frame.size == packet_len);
		free(part);
	}
	for (n = 0; n < got.frame.len; n++) {
		short_head[0] = packet[0];
		h = 1 + mqtt_varint_put(short_head + 1, (uint32_t)n);
		part = any_alloc(h + n);
		memcpy(part, short_head, h);
		memcpy(part + h, packet + head, n);
		rc = any_decode(&a, version, flags, 0, part, h + n);
		assert_true(rc == 0 || rc == MQTT_MALFORMED_PACKET ||
		    rc == MQTT_PROTOCOL_ERROR);
		free(part);
	}
}

/* Encoded again it says the same; what is encoded is encoded just so again. */
static inline void
packet_round_trip(unsigned version, unsigned flags)
{
	struct any	 a;
	uint8_t		*once, *twice;
	size_t		 once_len, twice_len;

	once = any_encode(&got, &once_len);
	assert_int_equal(any_decode(&a, version_for(version, packet[0]), flags,
	    0, once, once_len), 0);
	assert_int_equal(a.frame.size, once_len);
	twice = any_encode(&a, &twice_len);
	assert_int_equal(once_len, twice_len);
	assert_memory_equal(once, twice, once_len);
	free(once);
	free(twice);
}

static inline void
packet_refuses(int reason, unsigned version, unsigned flags, uint8_t first,
    const void *body, size_t len, const char *file, int line)
{
	int	rc;

	packet_make(first, body, len);
	rc = packet_decode(version, flags);
	if (rc != reason)
		print_message("%s:%d: %s of version %u gives %#x\n", file,
		    line, mqtt_type_name(first >> 4), version, (unsigned)rc);
	assert_int_equal(rc, reason);
}

static inline void
packet_accepts(unsigned version, unsigned flags, uint8_t first,
    const void *body, size_t len, const char *file, int line)
{
	packet_refuses(0, version, flags, first, body, len, file, line);
	packet_cut(version, flags);
	packet_round_trip(version, flags);
}

#define MAKE(first, body) \
	packet_make((uint8_t)(first)[0], body, sizeof(body) - 1)
#define REFUSES(reason, version, flags, first, body)			\
	packet_refuses(reason, version, flags, (uint8_t)(first)[0], body,	\
	    sizeof(body) - 1, __FILE__, __LINE__)
#define ACCEPTS(version, flags, first, body)				\
	packet_accepts(version, flags, (uint8_t)(first)[0], body,		\
	    sizeof(body) - 1, __FILE__, __LINE__)

#define assert_slice(s, lit) do {					\
	assert_int_equal((s).len, sizeof(lit) - 1);			\
	assert_memory_equal((s).data, lit, sizeof(lit) - 1);		\
} while (0)

static inline int
packet_teardown(void **state UNUSED)
{
	free(packet);
	packet = NULL;
	return 0;
}

#endif

/*
 * bench_codec: what one packet costs the codec. `bench_codec [N [ROW]]` times N
 * packets of every row, or of one; for instructions run one row twice under
 * `valgrind --tool=callgrind`, with two values of N, and divide the difference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mqtt/encode.h"

#define PAYLOAD	64
#define SLICE(lit) { (const uint8_t *)lit, sizeof(lit) - 1 }

/* Bytes the compiler must take for new in every round. */
static inline const uint8_t *
fresh(const uint8_t *p)
{
	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}

struct job {
	const char	*name;
	void		(*run)(const struct job *, unsigned long);
	unsigned	 version;
	struct mqtt_publish_out	o;
};

static uint8_t	buf[512], out[512];
static volatile size_t	sink;

static void
publish_decode(const struct job *j, unsigned long n)
{
	size_t	len = mqtt_publish_head(j->version, &j->o, buf, NULL) + PAYLOAD;
	size_t	sum = 0;
	struct mqtt_frame	f;
	struct mqtt_publish	m;

	for (; n > 0; n--) {
		if (mqtt_frame_parse(fresh(buf), len, j->version, 1 << 20,
		    &f) != 0 || mqtt_decode_publish(&f, j->version,
		    MQTT_FROM_CLIENT, 128, &m) != 0)
			abort();
		sum += m.topic.len + m.payload.len + m.packet_id;
	}
	sink = sum;
}

static void
publish_encode(const struct job *j, unsigned long n)
{
	size_t	sum = 0;

	for (; n > 0; n--) {
		fresh(out);
		sum += mqtt_publish_head(j->version, &j->o, out, NULL);
	}
	sink = sum;
}

static void
ack_decode(const struct job *j, unsigned long n)
{
	struct mqtt_frame	f;
	struct mqtt_ack		a;
	size_t			sum = 0;

	mqtt_ack_encode_short(MQTT_PUBACK, 7, buf);
	for (; n > 0; n--) {
		if (mqtt_frame_parse(fresh(buf), 4, j->version, 1 << 20,
		    &f) != 0 || mqtt_decode_ack(&f, j->version, &a) != 0)
			abort();
		sum += a.packet_id;
	}
	sink = sum;
}

static void
ack_encode(const struct job *j UNUSED, unsigned long n)
{
	for (; n > 0; n--) {
		mqtt_ack_encode_short(MQTT_PUBACK, (uint16_t)n, out);
		fresh(out);
	}
}

#define PUBLISH(q, ...) { .topic = SLICE("sensors/device17/temp"),	\
	.payload_len = PAYLOAD, .packet_id = 7, .qos = q, __VA_ARGS__ }
#define PROPS SLICE("\1\1\x26\0\4name\0\5value")

static const struct job jobs[] = {
	{ "publish-v4-qos0-decode", publish_decode, 4, PUBLISH(0, ) },
	{ "publish-v4-qos1-decode", publish_decode, 4, PUBLISH(1, ) },
	{ "publish-v5-qos0-decode", publish_decode, 5, PUBLISH(0, ) },
	{ "publish-v5-qos1-decode", publish_decode, 5, PUBLISH(1, ) },
	{ "publish-v5-props-decode", publish_decode, 5,
	    PUBLISH(0, .props = PROPS) },
	{ "publish-v4-qos0-encode", publish_encode, 4, PUBLISH(0, ) },
	{ "publish-v5-qos0-encode", publish_encode, 5, PUBLISH(0, ) },
	{ "publish-v5-qos1-encode", publish_encode, 5, PUBLISH(1, ) },
	{ "publish-v5-props-encode", publish_encode, 5,
	    PUBLISH(0, .props = PROPS) },
	{ "ack-decode", ack_decode, 5, PUBLISH(0, ) },
	{ "ack-encode", ack_encode, 5, PUBLISH(0, ) },
};

int
main(int argc, char **argv)
{
	unsigned long	n = argc > 1 ? strtoul(argv[1], NULL, 10) : 5000000;
	uint64_t	start;
	size_t		i;

	for (i = 0; i < NELEM(jobs) && n > 0; i++) {
		if (argc > 2 && strcmp(argv[2], jobs[i].name) != 0)
			continue;
		start = clock_mono_ns();
		jobs[i].run(&jobs[i], n);
		printf("%-26s %7.2f ns\n", jobs[i].name,
		    (double)(clock_mono_ns() - start) / (double)n);
	}
	return 0;
}

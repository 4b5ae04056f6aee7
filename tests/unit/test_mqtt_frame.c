/*
 * The fixed header: MQTT 5.0 sections 1.5.5 and 2.1, 3.1.1 section 2.2.
 */
#include <stdio.h>

#include "../support/mqtt_packet.h"

static struct mqtt_frame frame;

static int
parse(unsigned version, uint32_t max, const void *bytes, size_t len)
{
	uint8_t	*p = any_alloc(len);
	int	 rc;

	memcpy(p, bytes, len);
	memset(&frame, 0xa5, sizeof(frame));
	rc = mqtt_frame_parse(p, len, version, max, &frame);
	if (rc == 0)
		assert_ptr_equal(frame.body + frame.len, p + frame.size);
	free(p);
	return rc;
}

#define PARSE(version, max, lit) parse(version, max, lit, sizeof(lit) - 1)

static void
a_packet_is_found_at_the_front_of_the_buffer(void **state UNUSED)
{
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\5\0\1aXY\xc0\0"), 0);
	assert_int_equal(frame.type, MQTT_PUBLISH);
	assert_int_equal(frame.flags, 0);
	assert_int_equal(frame.len, 5);
	assert_int_equal(frame.size, 7);
	assert_int_equal(PARSE(MQTT_V311, 0, "\xc0\0"), 0);
	assert_int_equal(frame.type, MQTT_PINGREQ);
	assert_int_equal(frame.len, 0);
	assert_int_equal(frame.size, 2);
	assert_int_equal(PARSE(MQTT_V311, 0, "\xc0\0\xc0\0\xc0\0"), 0);
	assert_int_equal(frame.size, 2);
}

static void
more_is_asked_for_with_the_size_when_it_is_known(void **state UNUSED)
{
	assert_int_equal(PARSE(MQTT_V5, 0, ""), ERR_AGAIN);
	assert_int_equal(frame.size, 0);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30"), ERR_AGAIN);
	assert_int_equal(frame.size, 0);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\x80"), ERR_AGAIN);
	assert_int_equal(frame.size, 0);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\xff\xff\xff"), ERR_AGAIN);
	assert_int_equal(frame.size, 0);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\5"), ERR_AGAIN);
	assert_int_equal(frame.size, 7);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\5\0\1aX"), ERR_AGAIN);
	assert_int_equal(frame.size, 7);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\x80\1\0\0\0"), ERR_AGAIN);
	assert_int_equal(frame.size, 131);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\xff\xff\xff\x7f" "abc"),
	    ERR_AGAIN);
	assert_int_equal(frame.size, MQTT_PACKET_MAX);
}

/* 1.5.5: the bounds of each length of the length. */
static void
lengths_are_read_to_the_letter(void **state UNUSED)
{
	static const uint32_t lens[] = {
		0, 1, 126, 127, 128, 129, 16382, 16383, 16384, 16385,
		2097151, 2097152, 3000000,
	};
	static const unsigned versions[] = { MQTT_V31, MQTT_V311, MQTT_V5 };
	uint8_t		*p;
	unsigned	 n, v;
	size_t		 i, want;

	for (i = 0; i < NELEM(lens); i++) {
		want = 1 + mqtt_varint_size(lens[i]) + lens[i];
		p = any_alloc(want);
		memset(p, 0, want);
		p[0] = 0x30;
		n = mqtt_varint_put(p + 1, lens[i]);
		assert_int_equal(n, mqtt_varint_size(lens[i]));
		assert_int_equal(mqtt_packet_size(lens[i]), want);
		for (v = 0; v < NELEM(versions); v++) {
			assert_int_equal(mqtt_frame_parse(p, want, versions[v],
			    0, &frame), 0);
			assert_int_equal(frame.size, want);
			assert_int_equal(frame.len, lens[i]);
			assert_ptr_equal(frame.body, p + 1 + n);
			assert_int_equal(mqtt_frame_parse(p, want - 1,
			    versions[v], 0, &frame), ERR_AGAIN);
		}
		free(p);
	}
	assert_int_equal(mqtt_packet_size(MQTT_LEN_MAX), MQTT_PACKET_MAX);
	assert_int_equal(mqtt_packet_size(MQTT_LEN_MAX + 1), 0);
}

static void
a_length_of_five_bytes_is_malformed(void **state UNUSED)
{						/* 1.5.5 */
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\x80\x80\x80\x80"), ERR_PROTO);
	assert_int_equal(PARSE(MQTT_V5, 0, "\x30\xff\xff\xff\xff\1"),
	    ERR_PROTO);
	assert_int_equal(PARSE(MQTT_V311, 0, "\x30\x80\x80\x80\x80\1"),
	    ERR_PROTO);
	assert_int_equal(PARSE(MQTT_NONE, 0, "\x10\x80\x80\x80\x80\1"),
	    ERR_PROTO);
}

static void
a_length_takes_no_more_bytes_than_it_needs(void **state UNUSED)
{						/* MQTT-1.5.5-1 */
	assert_int_equal(PARSE(MQTT_V5, 0, "\xc0\x80\0"), ERR_PROTO);
	assert_int_equal(PARSE(MQTT_V5, 0, "\xc0\x80\0xx"), ERR_PROTO);
	assert_int_equal(PARSE(MQTT_V5, 0, "\xc0\x80\x80\0"), ERR_PROTO);
	assert_int_equal(PARSE(MQTT_V5, 0, "\xc0\x80\x80\x80\0"), ERR_PROTO);
	/* 3.1.1 does not say so */
	assert_int_equal(PARSE(MQTT_V311, 0, "\xc0\x80\0xx"), 0);
	assert_int_equal(frame.size, 3);
	assert_int_equal(PARSE(MQTT_V311, 0, "\xc0\x80\x80\x80\0"), 0);
	assert_int_equal(frame.size, 5);
}

static void
the_maximum_counts_the_whole_packet(void **state UNUSED)
{						/* MQTT-3.1.2-24, 3.1.2.11.4 */
	assert_int_equal(PARSE(MQTT_V5, 7, "\x30\5\0\1aXY"), 0);
	assert_int_equal(PARSE(MQTT_V5, 6, "\x30\5\0\1aXY"), ERR_FULL);
	assert_int_equal(frame.type, MQTT_PUBLISH);
	assert_int_equal(frame.size, 7);
	assert_int_equal(PARSE(MQTT_V5, 6, "\x30\5"), ERR_FULL);
	assert_int_equal(PARSE(MQTT_V5, 7, "\x30\5"), ERR_AGAIN);
	assert_int_equal(PARSE(MQTT_V5, 1, "\xc0\0"), ERR_FULL);
	assert_int_equal(PARSE(MQTT_V5, 2, "\xc0\0"), 0);
	assert_int_equal(PARSE(MQTT_V5, 131, "\x30\x80\1\0"), ERR_AGAIN);
	assert_int_equal(PARSE(MQTT_V5, 130, "\x30\x80\1\0"), ERR_FULL);
	assert_int_equal(PARSE(MQTT_V5, MQTT_PACKET_MAX,
	    "\x30\xff\xff\xff\x7f"), ERR_AGAIN);
	assert_int_equal(PARSE(MQTT_V5, MQTT_PACKET_MAX - 1,
	    "\x30\xff\xff\xff\x7f"), ERR_FULL);
	assert_int_equal(PARSE(MQTT_V5, UINT32_MAX, "\xc0\0xx"), 0);
}

/* Which flags each type may have: MQTT-2.1.3-1 and 3.1.1: MQTT-2.2.2-1. */
static bool
may_have(unsigned version, unsigned type, unsigned flags)
{
	unsigned	qos = flags >> 1 & 3;

	if (type == 0 || (type == MQTT_AUTH && version != MQTT_V5))
		return false;
	if (version == MQTT_NONE)		/* MQTT-3.1.0-1 */
		return type == MQTT_CONNECT && flags == 0;
	if (type == MQTT_PUBLISH) {
		if (qos == 3)			/* MQTT-3.3.1-4 */
			return false;
		return qos > 0 || !(flags & 8) || version == MQTT_V31;
	}						/* MQTT-3.3.1-2 */
	if (type == MQTT_PUBREL || type == MQTT_SUBSCRIBE ||
	    type == MQTT_UNSUBSCRIBE)	/* MQTT-3.6.1-1, -3.8.1-1, -3.10.1-1 */
		return version == MQTT_V31 ? qos == 1 : flags == 2;
	return version == MQTT_V31 || flags == 0;
}

static void
types_and_flags_are_those_of_the_version(void **state UNUSED)
{
	static const unsigned versions[] = {
		MQTT_NONE, MQTT_V31, MQTT_V311, MQTT_V5,
	};
	uint8_t		b[4] = { 0, 2, 0, 1 };
	unsigned	v, first, n;
	int		want;

	for (v = 0; v < NELEM(versions); v++)
		for (first = 0; first < 256; first++) {
			b[0] = (uint8_t)first;
			want = may_have(versions[v], first >> 4, first & 15) ?
			    0 : ERR_PROTO;
			assert_int_equal(parse(versions[v], 0, b, 4), want);
			for (n = 1; n < 4; n++)
				assert_int_equal(parse(versions[v], 0, b, n),
				    want == 0 ? ERR_AGAIN : ERR_PROTO);
		}
}

static void
variable_byte_integers_are_bounded(void **state UNUSED)
{
	uint32_t	v = 7;

#define GET(lit) mqtt_varint_get((const uint8_t *)lit, sizeof(lit) - 1, &v)
	assert_int_equal(GET("\0"), 1);
	assert_int_equal(v, 0);
	assert_int_equal(GET("\x7f"), 1);
	assert_int_equal(v, 127);
	assert_int_equal(GET("\x80\1x"), 2);
	assert_int_equal(v, 128);
	assert_int_equal(GET("\xff\xff\xff\x7f"), 4);
	assert_int_equal(v, MQTT_LEN_MAX);
	v = 7;
	assert_int_equal(GET(""), 0);
	assert_int_equal(GET("\x80"), 0);
	assert_int_equal(GET("\xff\xff\xff"), 0);
	assert_int_equal(GET("\x80\0"), ERR_PROTO);
	assert_int_equal(GET("\x80\x80\x80\0"), ERR_PROTO);
	assert_int_equal(GET("\x80\x80\x80\x80\1"), ERR_PROTO);
	assert_int_equal(v, 7);			/* untouched */
#undef GET
}

static void
names_are_those_of_the_specification(void **state UNUSED)
{
	assert_string_equal(mqtt_type_name(MQTT_PUBCOMP), "PUBCOMP");
	assert_string_equal(mqtt_type_name(0), "RESERVED");
	assert_string_equal(mqtt_type_name(16), "RESERVED");
	assert_string_equal(mqtt_reason_name(0x00), "Success");
	assert_string_equal(mqtt_reason_name(0x81), "Malformed Packet");
	assert_string_equal(mqtt_reason_name(0xa2),
	    "Wildcard Subscriptions not supported");
	assert_string_equal(mqtt_reason_name(0x03), "Unknown");
	assert_string_equal(mqtt_reason_name(0xa3), "Unknown");
	assert_string_equal(mqtt_reason_name(1000), "Unknown");
}

static void
refusals_have_a_return_code_in_3x(void **state UNUSED)
{						/* 3.1.1: 3.2.2.3 */
	assert_int_equal(mqtt_connack_v3_code(0x00), 0);
	assert_int_equal(mqtt_connack_v3_code(0x84), 1);
	assert_int_equal(mqtt_connack_v3_code(0x85), 2);
	assert_int_equal(mqtt_connack_v3_code(0x88), 3);
	assert_int_equal(mqtt_connack_v3_code(0x97), 3);
	assert_int_equal(mqtt_connack_v3_code(0x86), 4);
	assert_int_equal(mqtt_connack_v3_code(0x87), 5);
	assert_int_equal(mqtt_connack_v3_code(0x81), -1);
	assert_int_equal(mqtt_connack_v3_code(0x82), -1);
	assert_int_equal(mqtt_connack_v3_code(0x90), -1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_packet_is_found_at_the_front_of_the_buffer),
		cmocka_unit_test(
		    more_is_asked_for_with_the_size_when_it_is_known),
		cmocka_unit_test(lengths_are_read_to_the_letter),
		cmocka_unit_test(a_length_of_five_bytes_is_malformed),
		cmocka_unit_test(a_length_takes_no_more_bytes_than_it_needs),
		cmocka_unit_test(the_maximum_counts_the_whole_packet),
		cmocka_unit_test(types_and_flags_are_those_of_the_version),
		cmocka_unit_test(variable_byte_integers_are_bounded),
		cmocka_unit_test(names_are_those_of_the_specification),
		cmocka_unit_test(refusals_have_a_return_code_in_3x),
	};

	return cmocka_run_group_tests(tests, NULL, packet_teardown);
}

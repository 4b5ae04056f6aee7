/*
 * The bytes of each packet as encoded, and what is done with properties on the
 * way from one client to another.
 */
#include <stdio.h>

#include "../support/mqtt_packet.h"

#define V31	MQTT_V31
#define V311	MQTT_V311
#define V5	MQTT_V5

static uint8_t	out[512];

#define SLICE(lit) ((struct slice){ (const uint8_t *)lit, sizeof(lit) - 1 })
#define assert_bytes(n, size, lit) do {					\
	assert_int_equal(n, sizeof(lit) - 1);				\
	assert_int_equal(size, sizeof(lit) - 1);			\
	assert_memory_equal(out, lit, sizeof(lit) - 1);			\
} while (0)

/* --- PUBLISH ------------------------------------------------------------- */

static size_t
publish(unsigned version, const struct mqtt_publish_out *o, size_t *id_at)
{
	size_t	n = mqtt_publish_head(version, o, out, id_at);

	assert_int_equal(n + o->payload_len, mqtt_publish_size(version, o));
	assert_true(n <= mqtt_publish_head_max(o));
	return n;
}

static void
publish_head_is_all_but_the_payload(void **state UNUSED)
{
	struct mqtt_publish_out o = { .topic = SLICE("a/b"),
		.payload_len = 5 };
	size_t	id_at = 99, n;

	n = publish(V311, &o, &id_at);
	assert_bytes(n, n, "\x30\x0a\0\3a/b");
	assert_int_equal(id_at, 0);
	n = publish(V5, &o, NULL);
	assert_bytes(n, n, "\x30\x0b\0\3a/b\0");
	o.qos = 1;
	o.dup = true;
	o.retain = true;
	o.packet_id = 258;
	n = publish(V31, &o, &id_at);
	assert_bytes(n, n, "\x3b\x0c\0\3a/b\1\2");
	assert_int_equal(id_at, 7);
	o.qos = 2;
	o.payload_len = 200;
	n = publish(V5, &o, &id_at);
	assert_bytes(n, n, "\x3d\xd0\1\0\3a/b\1\2\0");
	assert_int_equal(id_at, 8);
}

static void
publish_properties_are_put_together(void **state UNUSED)
{			/* MQTT-3.3.2-6, MQTT-3.3.4-3, 3.3.2.3.4 */
	static const uint32_t ids[] = { 1, 300 };
	struct mqtt_publish_out o = {
		.props = SLICE("\1\1\x26\0\1k\0\1v"),
		.subscription_ids = ids, .nsubscription_ids = 2,
		.message_expiry_s = 9, .has_message_expiry = true,
		.topic_alias = 3, .payload_len = 1,
	};
	size_t	n = publish(V5, &o, NULL);

	assert_bytes(n, n, "\x30\x1a\0\0" "\x16" "\2\0\0\0\x09" "\x23\0\3"
	    "\x0b\1" "\x0b\xac\2" "\1\1\x26\0\1k\0\1v");
	/* they have no place in 3.x */
	o.topic = SLICE("t");
	n = publish(V311, &o, NULL);
	assert_bytes(n, n, "\x30\4\0\1t");
}

static void
publish_that_cannot_be_has_no_size(void **state UNUSED)
{
	struct mqtt_publish_out o = { .topic = SLICE("t") };

	o.payload_len = MQTT_LEN_MAX - 3;
	assert_int_equal(mqtt_publish_size(V311, &o), MQTT_PACKET_MAX);
	assert_int_equal(mqtt_publish_size(V5, &o), 0);
	o.payload_len++;
	assert_int_equal(mqtt_publish_size(V311, &o), 0);
	o.payload_len = SIZE_MAX;
	assert_int_equal(mqtt_publish_size(V5, &o), 0);
	o.payload_len = 0;
	o.topic.len = 65536;
	assert_int_equal(mqtt_publish_size(V311, &o), 0);
	o.topic.len = 65535;
	assert_int_equal(mqtt_publish_size(V311, &o), 1 + 3 + 2 + 65535);
	o.props.len = MQTT_LEN_MAX + 1;
	assert_int_equal(mqtt_publish_size(V5, &o), 0);
}

/* --- Acknowledgements ---------------------------------------------------- */

static void
acks_take_the_shortest_form(void **state UNUSED)
{
	struct mqtt_props p = { .has = 0 };

	assert_bytes(mqtt_ack_encode_short(MQTT_PUBACK, 258, out), 4,
	    "\x40\2\1\2");
	assert_bytes(mqtt_ack_encode_short(MQTT_PUBREL, 258, out), 4,
	    "\x62\2\1\2");
	assert_bytes(mqtt_ack_encode(V5, MQTT_PUBREC, 1, 0, NULL, out),
	    mqtt_ack_size(V5, 0, NULL), "\x50\2\0\1");
	assert_bytes(mqtt_ack_encode(V5, MQTT_PUBREC, 1, 0, &p, out),
	    mqtt_ack_size(V5, 0, &p), "\x50\2\0\1");
	assert_bytes(mqtt_ack_encode(V5, MQTT_PUBREL, 1, 0x92, NULL, out),
	    mqtt_ack_size(V5, 0x92, NULL), "\x62\3\0\1\x92");
	MQTT_PROP_SET(&p, REASON_STRING, reason_string, SLICE("no"));
	assert_bytes(mqtt_ack_encode(V5, MQTT_PUBACK, 1, 0x87, &p, out),
	    mqtt_ack_size(V5, 0x87, &p), "\x40\x09\0\1\x87\5\x1f\0\2no");
	assert_bytes(mqtt_ack_encode(V311, MQTT_PUBACK, 1, 0x87, &p, out),
	    mqtt_ack_size(V311, 0x87, &p), "\x40\2\0\1");
}

static void
suback_of_3x_knows_one_failure(void **state UNUSED)
{						/* 3.1.1: MQTT-3.9.3-2 */
	static const uint8_t codes[] = { 0, 1, 2, 0x87, 0x8f };

	assert_bytes(mqtt_suback_encode(V311, MQTT_SUBACK, 1, codes, 5, NULL,
	    out), mqtt_suback_size(V311, MQTT_SUBACK, 5, NULL),
	    "\x90\7\0\1\0\1\2\x80\x80");
	assert_bytes(mqtt_suback_encode(V5, MQTT_SUBACK, 1, codes, 5, NULL,
	    out), mqtt_suback_size(V5, MQTT_SUBACK, 5, NULL),
	    "\x90\x08\0\1\0\0\1\2\x87\x8f");
	assert_bytes(mqtt_suback_encode(V311, MQTT_UNSUBACK, 1, codes, 2, NULL,
	    out), mqtt_suback_size(V311, MQTT_UNSUBACK, 2, NULL),
	    "\xb0\2\0\1");
	assert_bytes(mqtt_suback_encode(V5, MQTT_UNSUBACK, 1, codes, 1, NULL,
	    out), mqtt_suback_size(V5, MQTT_UNSUBACK, 1, NULL),
	    "\xb0\4\0\1\0\0");
}

/* --- CONNACK, pings, DISCONNECT, AUTH ------------------------------------ */

static void
connack_says_what_the_server_is(void **state UNUSED)
{
	struct mqtt_props p = { .has = 0 };

	assert_bytes(mqtt_connack_encode(V311, true, 0, &p, out),
	    mqtt_connack_size(V311, &p), "\x20\2\1\0");
	assert_bytes(mqtt_connack_encode(V31, true, 0, NULL, out),
	    mqtt_connack_size(V31, NULL), "\x20\2\0\0");
	assert_bytes(mqtt_connack_encode(V5, false, 0x87, NULL, out),
	    mqtt_connack_size(V5, NULL), "\x20\3\0\x87\0");
	MQTT_PROP_SET(&p, SESSION_EXPIRY, session_expiry_s, 0);
	MQTT_PROP_SET(&p, RETAIN_AVAILABLE, retain_available, 0);
	MQTT_PROP_SET(&p, ASSIGNED_CLIENT_ID, assigned_client_id, SLICE("x"));
	MQTT_PROP_SET(&p, TOPIC_ALIAS_MAXIMUM, topic_alias_maximum, 16);
	MQTT_PROP_SET(&p, MAXIMUM_PACKET_SIZE, maximum_packet_size, 1 << 20);
	assert_bytes(mqtt_connack_encode(V5, false, 0, &p, out),
	    mqtt_connack_size(V5, &p), "\x20\x16\0\0\x13" "\x11\0\0\0\0"
	    "\x12\0\1x" "\x22\0\x10" "\x25\0" "\x27\0\x10\0\0");
}

static void
pings_and_disconnects_are_short(void **state UNUSED)
{
	struct mqtt_props p = { .has = 0 };

	assert_bytes(mqtt_ping_encode(MQTT_PINGRESP, out), 2, "\xd0\0");
	assert_bytes(mqtt_ping_encode(MQTT_PINGREQ, out), 2, "\xc0\0");
	assert_bytes(mqtt_disconnect_encode(V311, 0x8b, NULL, out),
	    mqtt_disconnect_size(V311, 0x8b, NULL), "\xe0\0");
	assert_bytes(mqtt_disconnect_encode(V5, 0, NULL, out),
	    mqtt_disconnect_size(V5, 0, NULL), "\xe0\0");
	assert_bytes(mqtt_disconnect_encode(V5, 0x8b, NULL, out),
	    mqtt_disconnect_size(V5, 0x8b, NULL), "\xe0\1\x8b");
	MQTT_PROP_SET(&p, SERVER_REFERENCE, server_reference, SLICE("h:1"));
	MQTT_PROP_SET(&p, REASON_STRING, reason_string, SLICE("r"));
	assert_bytes(mqtt_disconnect_encode(V5, 0x9c, &p, out),
	    mqtt_disconnect_size(V5, 0x9c, &p),
	    "\xe0\x0c\x9c\x0a\x1c\0\3h:1\x1f\0\1r");
	assert_bytes(mqtt_auth_encode(0, NULL, out), mqtt_auth_size(0, NULL),
	    "\xf0\0");
	p.has = 0;
	MQTT_PROP_SET(&p, AUTH_METHOD, auth_method, SLICE("m"));
	assert_bytes(mqtt_auth_encode(0x18, &p, out),
	    mqtt_auth_size(0x18, &p), "\xf0\6\x18\4\x15\0\1m");
	assert_bytes(mqtt_auth_encode(0x18, NULL, out),
	    mqtt_auth_size(0x18, NULL), "\xf0\2\x18\0");
}

/* --- What a client says -------------------------------------------------- */

static void
connect_of_each_version(void **state UNUSED)
{
	struct mqtt_connect c = {
		.version = V31, .clean_start = true, .keep_alive_s = 60,
		.client_id = SLICE("c"),
	};

	assert_bytes(mqtt_connect_encode(&c, out), mqtt_connect_size(&c),
	    "\x10\x0f\0\6MQIsdp\3\2\0\x3c\0\1c");
	c.version = V311;
	c.has_username = true;
	c.username = SLICE("u");
	c.has_password = true;
	assert_bytes(mqtt_connect_encode(&c, out), mqtt_connect_size(&c),
	    "\x10\x12\0\4MQTT\4\xc2\0\x3c\0\1c\0\1u\0\0");
	c.version = V5;
	c.clean_start = false;
	c.has_username = c.has_password = false;
	c.has_will = true;
	c.will_qos = 2;
	c.will_retain = true;
	c.will_topic = SLICE("w");
	c.will_payload = SLICE("hi");
	MQTT_PROP_SET(&c.will_props, WILL_DELAY, will_delay_s, 1);
	MQTT_PROP_SET(&c.props, RECEIVE_MAXIMUM, receive_maximum, 7);
	assert_bytes(mqtt_connect_encode(&c, out), mqtt_connect_size(&c),
	    "\x10\x1e\0\4MQTT\5\x34\0\x3c\3\x21\0\7\0\1c"
	    "\5\x18\0\0\0\1\0\1w\0\2hi");
	c.password.len = 65536;
	assert_int_equal(mqtt_connect_size(&c), 0);
}

static void
subscribe_and_unsubscribe_name_filters(void **state UNUSED)
{
	struct mqtt_subscription s[] = {
		{ .name = SLICE("a/#"), .qos = 1, .no_local = true,
		  .retain_as_published = true, .retain_handling = 2 },
		{ .name = SLICE("b"), .qos = 2 },
	};
	struct mqtt_props p = { .has = 0 };

	assert_bytes(mqtt_subscribe_encode(V311, 1, s, 2, &p, out),
	    mqtt_subscribe_size(V311, s, 2, &p),
	    "\x82\x0c\0\1\0\3a/#\1\0\1b\2");
	MQTT_PROP_SET(&p, SUBSCRIPTION_ID, subscription_id, 200);
	assert_bytes(mqtt_subscribe_encode(V5, 1, s, 2, &p, out),
	    mqtt_subscribe_size(V5, s, 2, &p),
	    "\x82\x10\0\1\3\x0b\xc8\1\0\3a/#\x2d\0\1b\2");
	assert_bytes(mqtt_unsubscribe_encode(V5, 1, s, 2, NULL, out),
	    mqtt_unsubscribe_size(V5, s, 2, NULL),
	    "\xa2\x0b\0\1\0\0\3a/#\0\1b");
	assert_bytes(mqtt_unsubscribe_encode(V311, 1, s, 1, NULL, out),
	    mqtt_unsubscribe_size(V311, s, 1, NULL),
	    "\xa2\7\0\1\0\3a/#");
	s[1].name.len = 65536;
	assert_int_equal(mqtt_subscribe_size(V5, s, 2, NULL), 0);
	assert_int_equal(mqtt_unsubscribe_size(V5, s, 2, NULL), 0);
}

/* --- Properties on their way --------------------------------------------- */

static struct mqtt_props	props;
static uint8_t			*list;

static void
decode_list(unsigned in, const void *bytes, size_t len)
{
	size_t	used;

	free(list);
	list = any_alloc(len);
	memcpy(list, bytes, len);
	assert_int_equal(mqtt_props_decode(list, len, in, &props, &used), 0);
	assert_int_equal(used, len);
}

#define DECODE_LIST(in, lit) decode_list(in, lit, sizeof(lit) - 1)

static int
free_list(void **state UNUSED)
{
	free(list);
	list = NULL;
	return 0;
}

static void
forwarding_leaves_out_what_belongs_to_one_connection(void **state UNUSED)
{	/* MQTT-3.3.2-4, -15, -16, -17, -18, -20 */
	uint8_t		buf[64];
	struct slice	fwd;

	DECODE_LIST(MQTT_PUBLISH, "\x2d" "\x26\0\1a\0\1x" "\x23\0\7" "\1\1"
	    "\x0b\1" "\2\0\0\0\5" "\x26\0\1b\0\1y" "\x08\0\1r" "\x09\0\1c"
	    "\x0b\2" "\3\0\1t" "\x26\0\0\0\0");
	assert_false(mqtt_props_forward_is_raw(&props));
	mqtt_props_forward(&props, buf, &fwd);
	assert_ptr_equal(fwd.data, buf);
	assert_slice(fwd, "\x26\0\1a\0\1x" "\1\1" "\x26\0\1b\0\1y"
	    "\x08\0\1r" "\x09\0\1c" "\3\0\1t" "\x26\0\0\0\0");
	assert_true(fwd.len <= props.raw.len);
}

static void
forwarding_copies_nothing_when_nothing_is_left_out(void **state UNUSED)
{
	struct slice	fwd;

	DECODE_LIST(MQTT_PUBLISH, "\x09" "\1\0" "\x26\0\1a\0\1x");
	assert_true(mqtt_props_forward_is_raw(&props));
	mqtt_props_forward(&props, NULL, &fwd);
	assert_ptr_equal(fwd.data, list + 1);
	assert_int_equal(fwd.len, 9);
	DECODE_LIST(MQTT_PUBLISH, "\0");
	assert_true(mqtt_props_forward_is_raw(&props));
	mqtt_props_forward(&props, NULL, &fwd);
	assert_int_equal(fwd.len, 0);
	/* a delay belongs to the will, not to its message: 3.1.3.2 */
	DECODE_LIST(MQTT_IN_WILL, "\5" "\x18\0\0\0\1");
	mqtt_props_forward(&props, out, &fwd);
	assert_int_equal(fwd.len, 0);
}

static void
user_properties_keep_their_order(void **state UNUSED)
{						/* MQTT-3.3.2-18 */
	struct slice	name, value;
	size_t		at = 0;

	DECODE_LIST(MQTT_PUBLISH, "\x17" "\x26\0\1b\0\1\x31" "\1\0"
	    "\x26\0\1a\0\1\x32" "\x26\0\1b\0\1\x33");
	assert_int_equal(props.nuser, 3);
	assert_true(mqtt_props_user_next(&props, &at, &name, &value));
	assert_slice(name, "b");
	assert_slice(value, "1");
	assert_true(mqtt_props_user_next(&props, &at, &name, &value));
	assert_slice(name, "a");
	assert_slice(value, "2");
	assert_true(mqtt_props_user_next(&props, &at, &name, &value));
	assert_slice(name, "b");
	assert_slice(value, "3");
	assert_false(mqtt_props_user_next(&props, &at, &name, &value));
	/* encoded again, what stood between them stands before */
	assert_int_equal(mqtt_props_size(&props), 23);
	assert_bytes(mqtt_props_encode(&props, out), 24, "\x17" "\1\0"
	    "\x26\0\1b\0\1\x31" "\x26\0\1a\0\1\x32" "\x26\0\1b\0\1\x33");
}

static void
user_properties_can_be_made(void **state UNUSED)
{
	uint8_t			region[32];
	struct mqtt_props	p = { .has = 0 };
	size_t			n;

	n = mqtt_user_property_encode(region, SLICE("k"), SLICE("vw"));
	assert_int_equal(n, 5 + 3);
	n += mqtt_user_property_encode(region + n, SLICE(""), SLICE(""));
	assert_int_equal(n, 13);
	MQTT_PROP_SET(&p, USER_PROPERTY, user, ((struct slice){ region, n }));
	assert_bytes(mqtt_props_encode(&p, out), mqtt_props_size(&p) + 1,
	    "\x0d" "\x26\0\1k\0\2vw" "\x26\0\0\0\0");
}

static void
trimming_drops_user_properties_then_the_reason(void **state UNUSED)
{	/* MQTT-3.2.2-19, -20, MQTT-3.4.2-2, -3, MQTT-3.14.2-3, -4 */
	struct mqtt_props	p;

	DECODE_LIST(MQTT_DISCONNECT, "\x13" "\x1f\0\2no" "\x26\0\1k\0\1v"
	    "\x26\0\1k\0\1w");
	p = props;
	assert_true(mqtt_props_trim(&p, 0));
	assert_true(p.has == props.has);
	assert_true(mqtt_props_trim(&p, 1));
	assert_false(mqtt_props_has(&p, MQTT_P_USER_PROPERTY));
	assert_true(mqtt_props_has(&p, MQTT_P_REASON_STRING));
	assert_int_equal(mqtt_props_size(&p), 5);
	p = props;
	assert_true(mqtt_props_trim(&p, 15));
	assert_int_equal(mqtt_props_size(&p), 0);
	p = props;
	assert_true(mqtt_props_trim(&p, 19));
	p = props;
	assert_false(mqtt_props_trim(&p, 20));
	assert_int_equal(p.has, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(publish_head_is_all_but_the_payload),
		cmocka_unit_test(publish_properties_are_put_together),
		cmocka_unit_test(publish_that_cannot_be_has_no_size),
		cmocka_unit_test(acks_take_the_shortest_form),
		cmocka_unit_test(suback_of_3x_knows_one_failure),
		cmocka_unit_test(connack_says_what_the_server_is),
		cmocka_unit_test(pings_and_disconnects_are_short),
		cmocka_unit_test(connect_of_each_version),
		cmocka_unit_test(subscribe_and_unsubscribe_name_filters),
		cmocka_unit_test_teardown(
		    forwarding_leaves_out_what_belongs_to_one_connection,
		    free_list),
		cmocka_unit_test_teardown(
		    forwarding_copies_nothing_when_nothing_is_left_out,
		    free_list),
		cmocka_unit_test_teardown(user_properties_keep_their_order,
		    free_list),
		cmocka_unit_test(user_properties_can_be_made),
		cmocka_unit_test_teardown(
		    trimming_drops_user_properties_then_the_reason,
		    free_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What each packet may say and what it is refused for: chapter 3 of MQTT 5.0
 * and of 3.1.1. Every packet accepted here is also cut at every byte and
 * encoded again (mqtt_packet.h).
 */
#include <stdio.h>

#include "../support/mqtt_packet.h"

#define V31	MQTT_V31
#define V311	MQTT_V311
#define V5	MQTT_V5
#define C	MQTT_FROM_CLIENT
#define S	MQTT_FROM_SERVER

#define MALFORMED	MQTT_MALFORMED_PACKET
#define PROTOCOL	MQTT_PROTOCOL_ERROR

/* --- CONNECT, 3.1 -------------------------------------------------------- */

/* Name, level, flags, a keep-alive of ten seconds; "" ends the last escape. */
#define H31(flags)	"\0\6MQIsdp\3" flags "\0\12"
#define H311(flags)	"\0\4MQTT\4" flags "\0\12"
#define H5(flags)	"\0\4MQTT\5" flags "\0\12"
#define NOPROPS		"\0"
#define ID		"\0\1c"
#define WILL		"\0\1w" "\0\2hi"

static void
connect_of_every_version(void **state UNUSED)
{
	ACCEPTS(0, C, "\x10", H31("\2") ID);
	assert_int_equal(got.connect.version, MQTT_V31);
	assert_int_equal(got.connect.level, 3);
	assert_true(got.connect.clean_start);
	assert_int_equal(got.connect.keep_alive_s, 10);
	assert_slice(got.connect.client_id, "c");
	assert_int_equal(got.connect.props.has, 0);

	ACCEPTS(0, C, "\x10", H311("\0") ID);
	assert_int_equal(got.connect.version, MQTT_V311);
	assert_false(got.connect.clean_start);
	assert_false(got.connect.has_will);

	ACCEPTS(0, C, "\x10", H5("\2") NOPROPS ID);
	assert_int_equal(got.connect.version, MQTT_V5);

	/* whether it may be empty is not the codec's to say: 3.1.3.1 */
	ACCEPTS(0, C, "\x10", H5("\2") NOPROPS "\0\0");
	assert_int_equal(got.connect.client_id.len, 0);
	ACCEPTS(0, C, "\x10", H311("\0") "\0\0");
}

static void
connect_with_everything(void **state UNUSED)
{
	ACCEPTS(0, C, "\x10", H5("\xee")
	    "\x2b" "\x11\0\0\0\12" "\x21\0\24" "\x27\0\0\1\0" "\x22\0\5"
	    "\x19\1" "\x17\0" "\x26\0\1a\0\1b" "\x26\0\1a\0\1c"
	    "\x15\0\1m" "\x16\0\2\0\xff"
	    ID
	    "\x23" "\x18\0\0\0\7" "\1\1" "\2\0\0\0\x3c" "\3\0\1t" "\x08\0\1r"
	    "\x09\0\1x" "\x26\0\1k\0\0" "\x26\0\0\0\0"
	    WILL "\0\1u" "\0\2p\0");
	assert_int_equal(got.connect.props.session_expiry_s, 10);
	assert_int_equal(got.connect.props.receive_maximum, 20);
	assert_int_equal(got.connect.props.maximum_packet_size, 256);
	assert_int_equal(got.connect.props.topic_alias_maximum, 5);
	assert_int_equal(got.connect.props.request_response_info, 1);
	assert_int_equal(got.connect.props.request_problem_info, 0);
	assert_int_equal(got.connect.props.nuser, 2);
	assert_slice(got.connect.props.auth_method, "m");
	assert_slice(got.connect.props.auth_data, "\0\xff");
	assert_true(got.connect.has_will);
	assert_true(got.connect.will_retain);
	assert_int_equal(got.connect.will_qos, 1);
	assert_slice(got.connect.will_topic, "w");
	assert_slice(got.connect.will_payload, "hi");
	assert_int_equal(got.connect.will_props.will_delay_s, 7);
	assert_int_equal(got.connect.will_props.message_expiry_s, 60);
	assert_int_equal(got.connect.will_props.payload_format, 1);
	assert_slice(got.connect.will_props.content_type, "t");
	assert_slice(got.connect.will_props.response_topic, "r");
	assert_slice(got.connect.will_props.correlation_data, "x");
	assert_int_equal(got.connect.will_props.nuser, 2);
	assert_slice(got.connect.username, "u");
	assert_slice(got.connect.password, "p\0");
}

static void
connect_says_which_version_to_refuse_in(void **state UNUSED)
{						/* MQTT-3.1.2-1, -2 */
	REFUSES(0x84, 0, C, "\x10", "\0\4MQTT\6" "\2\0\12" NOPROPS ID);
	assert_int_equal(got.connect.version, MQTT_V5);
	assert_int_equal(got.connect.level, 6);
	REFUSES(0x84, 0, C, "\x10", "\0\4MQTT\3" "\2\0\12" ID);
	assert_int_equal(got.connect.version, MQTT_V311);
	REFUSES(0x84, 0, C, "\x10", "\0\6MQIsdp\4" "\2\0\12" ID);
	assert_int_equal(got.connect.version, MQTT_V311);
	REFUSES(0x84, 0, C, "\x10", "\0\4MQTT\x84" "\2\0\12" ID);
	assert_int_equal(got.connect.version, MQTT_V311);
	REFUSES(0x84, 0, C, "\x10", "\0\4mqtt\5" "\2\0\12" NOPROPS ID);
	REFUSES(0x84, 0, C, "\x10", "\0\4MQTT\377");
	assert_int_equal(got.connect.version, MQTT_V5);
	/* nothing to go by: close */
	REFUSES(MALFORMED, 0, C, "\x10", "\0\4MQTT");
	assert_int_equal(got.connect.version, MQTT_NONE);
	REFUSES(MALFORMED, 0, C, "\x10", "\0\4MQT");
	REFUSES(MALFORMED, 0, C, "\x10", "");
	/* known by the time of a later mistake */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\3") NOPROPS ID);
	assert_int_equal(got.connect.version, MQTT_V5);
}

static void
connect_flags_fit_together(void **state UNUSED)
{
	REFUSES(MALFORMED, 0, C, "\x10", H311("\3") ID);    /* MQTT-3.1.2-3 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\3") NOPROPS ID);
	ACCEPTS(0, C, "\x10", H31("\3") ID);		/* 3.1: not used */
	/* will QoS, will retain without a will: MQTT-3.1.2-11, -13 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\x0a") NOPROPS ID);
	REFUSES(MALFORMED, 0, C, "\x10", H5("\x22") NOPROPS ID);
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x12") ID);
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x22") ID);
	/* will QoS 3: MQTT-3.1.2-12 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\x1e") NOPROPS ID NOPROPS WILL);
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x1e") ID WILL);
	REFUSES(MALFORMED, 0, C, "\x10", H31("\x1e") ID WILL);
	ACCEPTS(0, C, "\x10", H5("\x16") NOPROPS ID NOPROPS WILL);
	assert_int_equal(got.connect.will_qos, 2);
	ACCEPTS(0, C, "\x10", H311("\x26") ID WILL);
	assert_true(got.connect.will_retain);
}

static void
connect_password_needs_a_user_name_before_5(void **state UNUSED)
{						/* 3.1.1: MQTT-3.1.2-22 */
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x42") ID "\0\1p");
	REFUSES(MALFORMED, 0, C, "\x10", H31("\x42") ID "\0\1p");
	ACCEPTS(0, C, "\x10", H5("\x42") NOPROPS ID "\0\1p");
	assert_false(got.connect.has_username);
	assert_slice(got.connect.password, "p");
	ACCEPTS(0, C, "\x10", H311("\x82") ID "\0\1u");
	ACCEPTS(0, C, "\x10", H311("\xc2") ID "\0\1u\0\0");
	assert_true(got.connect.has_password);
}

static void
connect_fields_are_all_there_and_no_more(void **state UNUSED)
{						/* MQTT-3.1.3-1 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\2") NOPROPS ID "x");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\2") ID "\0\1u");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x82") ID);
	REFUSES(MALFORMED, 0, C, "\x10", H311("\xc2") ID "\0\1u");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\6") ID "\0\1w");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\2"));
	REFUSES(MALFORMED, 0, C, "\x10", H5("\2"));
	REFUSES(MALFORMED, 0, C, "\x10", H5("\2") "\5" ID);
}

static void
connect_strings_are_utf8(void **state UNUSED)
{			/* MQTT-3.1.3-4, -11, -12, 3.1.1: MQTT-1.5.3-1, -2 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\2") NOPROPS "\0\1\xff");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\2") "\0\3\xed\xa0\x80");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\2") "\0\1\0");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\x82") ID "\0\1\xff");
	REFUSES(MALFORMED, 0, C, "\x10", H311("\6") ID "\0\1\xff\0\0");
	ACCEPTS(0, C, "\x10", H311("\xc2") ID "\0\1u" "\0\1\xff");
}

static void
connect_will_topic_is_a_topic(void **state UNUSED)
{						/* MQTT-4.7.1-1, 4.7.3-1 */
	REFUSES(0x90, 0, C, "\x10", H5("\6") NOPROPS ID NOPROPS "\0\1#\0\0");
	REFUSES(0x90, 0, C, "\x10", H5("\6") NOPROPS ID NOPROPS "\0\0\0\0");
	REFUSES(0x90, 0, C, "\x10", H311("\6") ID "\0\1+\0\0");
	MAKE("\x10", H311("\6") ID "\0\3a/b\0\0");
	assert_int_equal(any_decode(&got, 0, C, 2, packet, packet_len), 0);
	assert_int_equal(any_decode(&got, 0, C, 1, packet, packet_len), 0x90);
}

static void
connect_properties_are_those_of_connect(void **state UNUSED)
{						/* 3.1.2.11 */
#define P(len, list) H5("\2") len list ID
	REFUSES(PROTOCOL, 0, C, "\x10", P("\3", "\x21\0\0"));	/* .3 */
	REFUSES(PROTOCOL, 0, C, "\x10", P("\5", "\x27\0\0\0\0")); /* .4 */
	REFUSES(PROTOCOL, 0, C, "\x10", P("\2", "\x19\2"));	/* .6 */
	REFUSES(PROTOCOL, 0, C, "\x10", P("\2", "\x17\2"));	/* .7 */
	REFUSES(PROTOCOL, 0, C, "\x10", P("\4", "\x16\0\1d"));	/* .10 */
	ACCEPTS(0, C, "\x10", P("\3", "\x22\0\0"));
	ACCEPTS(0, C, "\x10", P("\5", "\x11\377\377\377\377"));
	assert_int_equal(got.connect.props.session_expiry_s, UINT32_MAX);
	/* twice */
	REFUSES(PROTOCOL, 0, C, "\x10", P("\6", "\x21\0\1\x21\0\1"));
	REFUSES(PROTOCOL, 0, C, "\x10", P("\12", "\x11\0\0\0\1"
	    "\x11\0\0\0\1"));
	REFUSES(PROTOCOL, 0, C, "\x10", P("\10", "\x15\0\1m\x15\0\1m"));
	/* not here: 2.2.2.2 */
	REFUSES(MALFORMED, 0, C, "\x10", P("\2", "\1\1"));
	REFUSES(MALFORMED, 0, C, "\x10", P("\5", "\x18\0\0\0\1"));
	REFUSES(MALFORMED, 0, C, "\x10", P("\3", "\x23\0\1"));
	REFUSES(MALFORMED, 0, C, "\x10", P("\4", "\x1f\0\1a"));
	/* nor these in a will: 3.1.3.2 */
	REFUSES(MALFORMED, 0, C, "\x10", H5("\6") NOPROPS ID "\3\x21\0\1"
	    WILL);
	REFUSES(MALFORMED, 0, C, "\x10", H5("\6") NOPROPS ID "\3\x23\0\1"
	    WILL);
	REFUSES(PROTOCOL, 0, C, "\x10", H5("\6") NOPROPS ID "\2\1\2" WILL);
#undef P
}

static void
connect_of_5_has_a_minimal_length(void **state UNUSED)
{						/* MQTT-1.5.5-1 */
	static const char v5[] = "\x10\x8e\0" H5("\2") NOPROPS ID;
	static const char v311[] = "\x10\x8d\0" H311("\2") ID;
	struct any	a;

	assert_int_equal(any_decode(&a, 0, C, 0, (const uint8_t *)v5,
	    sizeof(v5) - 1), MALFORMED);
	assert_int_equal(a.version, MQTT_V5);
	assert_int_equal(any_decode(&a, 0, C, 0, (const uint8_t *)v311,
	    sizeof(v311) - 1), 0);
}

/* --- CONNACK, 3.2 -------------------------------------------------------- */

static void
connack_of_every_version(void **state UNUSED)
{
	ACCEPTS(V31, S, "\x20", "\0\5");
	ACCEPTS(V311, S, "\x20", "\1\0");
	assert_true(got.connack.session_present);
	ACCEPTS(V5, S, "\x20", "\0\x87" NOPROPS);
	assert_int_equal(got.connack.code, 0x87);
	ACCEPTS(V5, S, "\x20", "\1\0" "\x3a" "\x11\0\0\0\1" "\x21\0\1" "\x24\1"
	    "\x25\0" "\x27\0\0\0\1" "\x12\0\1i" "\x22\0\1" "\x1f\0\1r"
	    "\x28\0" "\x29\0" "\x2a\0" "\x13\0\1" "\x1a\0\1j" "\x1c\0\1k"
	    "\x15\0\1m" "\x16\0\1d" "\x26\0\0\0\0");
	assert_int_equal(got.connack.props.maximum_qos, 1);
	assert_int_equal(got.connack.props.retain_available, 0);
	assert_int_equal(got.connack.props.server_keep_alive_s, 1);
	assert_slice(got.connack.props.assigned_client_id, "i");
	assert_slice(got.connack.props.reason_string, "r");
	assert_slice(got.connack.props.response_info, "j");
	assert_slice(got.connack.props.server_reference, "k");
}

static void
connack_says_nothing_else(void **state UNUSED)
{
	REFUSES(MALFORMED, V5, S, "\x20", "\2\0" NOPROPS);  /* MQTT-3.2.2-1 */
	REFUSES(PROTOCOL, V5, S, "\x20", "\1\x87" NOPROPS); /* MQTT-3.2.2-6 */
	REFUSES(PROTOCOL, V311, S, "\x20", "\1\5");
	REFUSES(PROTOCOL, V5, S, "\x20", "\0\1" NOPROPS);   /* MQTT-3.2.2-8 */
	REFUSES(PROTOCOL, V5, S, "\x20", "\0\x8e" NOPROPS);
	REFUSES(PROTOCOL, V311, S, "\x20", "\0\6");
	REFUSES(MALFORMED, V311, S, "\x20", "\0\0\0");
	REFUSES(MALFORMED, V5, S, "\x20", "\0\0");
	REFUSES(MALFORMED, V5, S, "\x20", "\0\0" NOPROPS "x");
	REFUSES(PROTOCOL, V5, S, "\x20", "\0\0" "\2\x24\2");
	REFUSES(PROTOCOL, V5, S, "\x20", "\0\0" "\2\x28\2");
	REFUSES(MALFORMED, V5, S, "\x20", "\0\0" "\2\x17\1");
}

/* --- PUBLISH, 3.3 -------------------------------------------------------- */

static void
publish_of_every_version_and_qos(void **state UNUSED)
{
	ACCEPTS(V31, C, "\x31", "\0\3a/bhello");
	assert_slice(got.publish.topic, "a/b");
	assert_slice(got.publish.payload, "hello");
	assert_int_equal(got.publish.qos, 0);
	assert_true(got.publish.retain);
	assert_int_equal(got.publish.packet_id, 0);
	ACCEPTS(V311, C, "\x3a", "\0\1a" "\1\2" "x");
	assert_int_equal(got.publish.qos, 1);
	assert_int_equal(got.publish.packet_id, 258);
	assert_true(got.publish.dup);
	assert_false(got.publish.retain);
	ACCEPTS(V5, C, "\x34", "\0\1a" "\0\7" NOPROPS);
	assert_int_equal(got.publish.qos, 2);
	assert_int_equal(got.publish.payload.len, 0);	/* 3.3.3 */
	ACCEPTS(V311, C, "\x30", "\0\1a");
	assert_int_equal(got.publish.payload.len, 0);
	ACCEPTS(V5, C, "\x30", "\0\1a" "\x25" "\1\1" "\2\0\0\0\5" "\x23\0\7"
	    "\x08\0\1r" "\x09\0\2cd" "\x26\0\1k\0\1v" "\3\0\1t"
	    "\x26\0\1k\0\1w" "payload");
	assert_int_equal(got.publish.props.payload_format, 1);
	assert_int_equal(got.publish.props.message_expiry_s, 5);
	assert_int_equal(got.publish.props.topic_alias, 7);
	assert_slice(got.publish.props.response_topic, "r");
	assert_slice(got.publish.props.correlation_data, "cd");
	assert_slice(got.publish.props.content_type, "t");
	assert_int_equal(got.publish.props.nuser, 2);
	assert_slice(got.publish.payload, "payload");
}

static void
publish_topics_are_topic_names(void **state UNUSED)
{
	REFUSES(MALFORMED, V5, C, "\x30", "\0\1\xff" NOPROPS);
	REFUSES(MALFORMED, V311, C, "\x30", "\0\1\0");	/* MQTT-3.3.2-1 */
	REFUSES(0x90, V5, C, "\x30", "\0\1#" NOPROPS);	/* MQTT-3.3.2-2 */
	REFUSES(0x90, V311, C, "\x30", "\0\3a/+");
	REFUSES(0x90, V311, C, "\x30", "\0\0");		/* MQTT-4.7.3-1 */
	REFUSES(PROTOCOL, V5, C, "\x30", "\0\0" NOPROPS);
	REFUSES(PROTOCOL, V5, C, "\x30", "\0\0" "\2\1\1");
	ACCEPTS(V5, C, "\x30", "\0\0" "\3\x23\0\1" "x");	/* 3.3.2.1 */
	assert_int_equal(got.publish.topic.len, 0);

	MAKE("\x30", "\0\3a/b");
	assert_int_equal(any_decode(&got, V311, C, 2, packet, packet_len), 0);
	assert_int_equal(any_decode(&got, V311, C, 1, packet, packet_len),
	    0x90);
	/* who has seen the topic before need not look again */
	MAKE("\x30", "\0\1#");
	assert_int_equal(packet_decode(V311, C | MQTT_TOPIC_UNCHECKED), 0);
}

static void
publish_packet_ids_are_not_zero(void **state UNUSED)
{						/* MQTT-2.2.1-3, -4 */
	REFUSES(PROTOCOL, V5, C, "\x32", "\0\1a" "\0\0" NOPROPS);
	REFUSES(PROTOCOL, V311, C, "\x34", "\0\1a" "\0\0");
	REFUSES(MALFORMED, V311, C, "\x34", "\0\1a" "\0");
	REFUSES(MALFORMED, V311, C, "\x32", "\0\1a");
}

static void
publish_is_not_cut_short(void **state UNUSED)
{
	REFUSES(MALFORMED, V311, C, "\x30", "");
	REFUSES(MALFORMED, V311, C, "\x30", "\0");
	REFUSES(MALFORMED, V311, C, "\x30", "\0\2a");
	REFUSES(MALFORMED, V311, C, "\x30", "\377\377a");
	REFUSES(MALFORMED, V5, C, "\x30", "\0\1a");
	REFUSES(MALFORMED, V5, C, "\x30", "\0\1a" "\1");
	REFUSES(MALFORMED, V5, C, "\x30", "\0\1a" "\x80");
	REFUSES(MALFORMED, V5, C, "\x30", "\0\1a" "\x80\0");
}

static void
publish_properties_are_those_of_publish(void **state UNUSED)
{						/* 3.3.2.3 */
#define P(list) "\0\1a" list
	REFUSES(0x94, V5, C, "\x30", P("\3\x23\0\0"));	/* MQTT-3.3.2-8 */
	REFUSES(PROTOCOL, V5, C, "\x30", P("\6\x23\0\1\x23\0\1"));
	REFUSES(PROTOCOL, V5, C, "\x30", P("\2\1\2"));
	REFUSES(PROTOCOL, V5, C, "\x30", P("\4\1\1\1\1"));
	REFUSES(PROTOCOL, V5, C, "\x30", P("\12\2\0\0\0\1\2\0\0\0\1"));
	REFUSES(PROTOCOL, V5, C, "\x30", P("\4\x08\0\1#")); /* -14 */
	REFUSES(PROTOCOL, V5, C, "\x30", P("\6\x08\0\3a/+"));
	REFUSES(PROTOCOL, V5, C, "\x30", P("\3\x08\0\0"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\4\x08\0\1\xff")); /* -13 */
	REFUSES(MALFORMED, V5, C, "\x30", P("\4\3\0\1\xff"));	/* -19 */
	REFUSES(MALFORMED, V5, C, "\x30", P("\7\x26\0\1\xff\0\1v"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\7\x26\0\1k\0\1\xff"));
	ACCEPTS(V5, C, "\x30", P("\4\x09\0\1\xff"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\2\x17\1"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\5\x18\0\0\0\1"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\2\0\0"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\2\x2b\0"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\2\x7f\0"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\3\x81\0\1"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\1\1"));
	REFUSES(MALFORMED, V5, C, "\x30", P("\2\x23\0") "\1");
	REFUSES(MALFORMED, V5, C, "\x30", P("\4\2\0\0\0") "\1");
	REFUSES(MALFORMED, V5, C, "\x30", P("\3\3\0\1") "a");
	REFUSES(MALFORMED, V5, C, "\x30", P("\4\x26\0\1k") "\0\1v");
	REFUSES(MALFORMED, V5, C, "\x30", P("\6\x26\0\1k\0\1") "v");
#undef P
}

static void
publish_subscription_ids_come_from_servers_only(void **state UNUSED)
{						/* MQTT-3.3.4-6 */
	uint32_t	id;
	size_t		at = 0;

	REFUSES(PROTOCOL, V5, C, "\x30", "\0\1a" "\2\x0b\1");
	ACCEPTS(V5, S, "\x30", "\0\1a" "\2\x0b\1");
	assert_int_equal(got.publish.props.subscription_id, 1);
	ACCEPTS(V5, S, "\x30", "\0\1a" "\x10" "\x0b\1" "\2\0\0\0\1"
	    "\x0b\x80\1" "\1\0" "\x0b\x80\x80\1" "x");
	assert_int_equal(got.publish.props.nsubscription_ids, 3);
	assert_int_equal(got.publish.props.subscription_id, 1);
	assert_true(mqtt_props_subscription_id_next(&got.publish.props, &at,
	    &id));
	assert_int_equal(id, 1);
	assert_true(mqtt_props_subscription_id_next(&got.publish.props, &at,
	    &id));
	assert_int_equal(id, 128);
	assert_true(mqtt_props_subscription_id_next(&got.publish.props, &at,
	    &id));
	assert_int_equal(id, 16384);
	assert_false(mqtt_props_subscription_id_next(&got.publish.props, &at,
	    &id));
	REFUSES(PROTOCOL, V5, S, "\x30", "\0\1a" "\2\x0b\0");
	REFUSES(PROTOCOL, V5, S, "\x30", "\0\1a" "\4\x0b\1\x0b\0");
	REFUSES(MALFORMED, V5, S, "\x30", "\0\1a" "\3\x0b\x80\0");
	REFUSES(MALFORMED, V5, S, "\x30", "\0\1a"
	    "\6\x0b\x80\x80\x80\x80\1");
}

/* --- PUBACK, PUBREC, PUBREL, PUBCOMP, 3.4 to 3.7 ------------------------- */

static void
acks_have_short_forms(void **state UNUSED)
{						/* 3.4.2.1, 3.4.2.2.1 */
	static const char *const firsts[] = { "\x40", "\x50", "\x62", "\x70" };
	size_t	i;

	for (i = 0; i < NELEM(firsts); i++) {
		ACCEPTS(V31, C, firsts[i], "\0\1");
		ACCEPTS(V311, C, firsts[i], "\1\2");
		assert_int_equal(got.ack.packet_id, 258);
		assert_int_equal(got.ack.reason, 0);
		ACCEPTS(V5, C, firsts[i], "\0\1");
		ACCEPTS(V5, C, firsts[i], "\0\1\0");
		ACCEPTS(V5, C, firsts[i], "\0\1\0\0");
		ACCEPTS(V5, C, firsts[i], "\0\1\0" "\x0b" "\x1f\0\1r"
		    "\x26\0\1k\0\1v");
		assert_slice(got.ack.props.reason_string, "r");
		assert_int_equal(got.ack.props.nuser, 1);
		REFUSES(PROTOCOL, V5, C, firsts[i], "\0\0");
		REFUSES(PROTOCOL, V311, C, firsts[i], "\0\0");
		REFUSES(PROTOCOL, V5, C, firsts[i], "\0\0\0");
		REFUSES(MALFORMED, V311, C, firsts[i], "\0\1\0");
		REFUSES(MALFORMED, V311, C, firsts[i], "\0");
		REFUSES(MALFORMED, V5, C, firsts[i], "\0");
		REFUSES(MALFORMED, V5, C, firsts[i], "");
		REFUSES(MALFORMED, V5, C, firsts[i], "\0\1\0\0x");
		REFUSES(MALFORMED, V5, C, firsts[i], "\0\1\0\4\x1f\0\1");
		REFUSES(MALFORMED, V5, C, firsts[i], "\0\1\0\4\3\0\1a");
		REFUSES(PROTOCOL, V5, C, firsts[i],
		    "\0\1\0\10\x1f\0\1a\x1f\0\1a");
	}
}

/* Every code against the list of the section, byte for byte. */
static void
check_codes(unsigned flags, uint8_t first, size_t at, const char *body,
    size_t len, const char *codes, size_t ncodes)
{
	uint8_t	b[16];
	unsigned code;

	memcpy(b, body, len);
	for (code = 0; code < 256; code++) {
		b[at] = (uint8_t)code;
		packet_make(first, b, len);
		assert_int_equal(packet_decode(V5, flags),
		    memchr(codes, (int)code, ncodes) ? 0 : PROTOCOL);
	}
}

#define CODES(flags, first, at, body, codes) \
	check_codes(flags, first, at, body, sizeof(body) - 1, codes, \
	    sizeof(codes) - 1)

static void
reason_codes_are_those_of_the_packet(void **state UNUSED)
{
	/* MQTT-3.4.2-1 */
	CODES(C, 0x40, 2, "\0\1?",
	    "\x00\x10\x80\x83\x87\x90\x91\x97\x99");
	/* MQTT-3.5.2-1 */
	CODES(C, 0x50, 2, "\0\1?",
	    "\x00\x10\x80\x83\x87\x90\x91\x97\x99");
	/* MQTT-3.6.2-1, MQTT-3.7.2-1 */
	CODES(C, 0x62, 2, "\0\1?", "\x00\x92");
	CODES(S, 0x70, 2, "\0\1?\0", "\x00\x92");
	/* MQTT-3.9.3-2 */
	CODES(S, 0x90, 4, "\0\1\0\0?",
	    "\x00\x01\x02\x80\x83\x87\x8f\x91\x97\x9e\xa1\xa2");
	/* MQTT-3.11.3-2 */
	CODES(S, 0xb0, 3, "\0\1\0?", "\x00\x11\x80\x83\x87\x8f\x91");
	/* MQTT-3.2.2-8 */
	CODES(S, 0x20, 1, "\0?\0",
	    "\x00\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8c\x90\x95"
	    "\x97\x99\x9a\x9b\x9c\x9d\x9f");
	/* MQTT-3.14.2-1: what a client may send */
	CODES(C, 0xe0, 0, "?",
	    "\x00\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97\x98\x99");
	/* MQTT-3.15.2-1 */
	CODES(C, 0xf0, 0, "?\4\x15\0\1m", "\x18\x19");
	CODES(S, 0xf0, 0, "?\4\x15\0\1m", "\x00\x18");
}

/* --- SUBSCRIBE, 3.8 ------------------------------------------------------ */

static void
subscribe_of_every_version(void **state UNUSED)
{
	struct mqtt_subscription s;
	size_t	at = 0;

	ACCEPTS(V31, C, "\x82", "\0\1" "\0\1a\2");
	ACCEPTS(V311, C, "\x82", "\1\2" "\0\3a/b\1" "\0\3c/d\2" "\0\1#\0");
	assert_int_equal(got.subscribe.packet_id, 258);
	assert_int_equal(got.subscribe.count, 3);
	assert_true(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));
	assert_slice(s.name, "a/b");
	assert_int_equal(s.qos, 1);
	assert_int_equal(s.reason, 0);
	assert_true(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));
	assert_slice(s.topic.filter, "c/d");
	assert_int_equal(s.qos, 2);
	assert_true(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));
	assert_false(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));

	ACCEPTS(V5, C, "\x82", "\0\1" "\x0a" "\x0b\x80\1" "\x26\0\1k\0\1v"
	    "\0\1a" "\x2d" "\0\x0a$share/g/t\x1a");
	assert_int_equal(got.subscribe.props.subscription_id, 128);
	at = 0;
	assert_true(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));
	assert_int_equal(s.qos, 1);
	assert_true(s.no_local);
	assert_true(s.retain_as_published);
	assert_int_equal(s.retain_handling, 2);
	assert_false(s.topic.shared);
	assert_true(mqtt_subscribe_next(&got.subscribe, 0, &at, &s));
	assert_int_equal(s.qos, 2);
	assert_false(s.no_local);
	assert_int_equal(s.retain_handling, 1);
	assert_true(s.topic.shared);
	assert_slice(s.topic.group, "g");
	assert_slice(s.topic.filter, "t");
}

static void
subscribe_options_have_reserved_bits(void **state UNUSED)
{
	REFUSES(MALFORMED, V5, C, "\x82", "\0\1\0" "\0\1a\x40");
	REFUSES(MALFORMED, V5, C, "\x82", "\0\1\0" "\0\1a\x80"); /* -3.8.3-5 */
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1a\4");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1a\x80");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1a\3"); /* -3-8.3-4 */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1\0" "\0\1a\3");	/* 3.8.3.1 */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1\0" "\0\1a\x30");
	/* MQTT-3.8.3-4 */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1\0" "\0\x0a$share/g/t\4");
	/* a bad one behind a good one */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1\0" "\0\1a\0" "\0\1a\3");
}

static void
subscribe_has_an_id_and_a_filter(void **state UNUSED)
{
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1\0");	/* MQTT-3.8.3-2 */
	REFUSES(PROTOCOL, V311, C, "\x82", "\0\1");	/* 3.1.1: -3.8.3-3 */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\0\0" "\0\1a\0");
	REFUSES(PROTOCOL, V311, C, "\x82", "\0\0" "\0\1a\0");
	REFUSES(MALFORMED, V311, C, "\x82", "\0");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1a");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1a\0" "\0");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\5a\0");
	REFUSES(MALFORMED, V5, C, "\x82", "\0\1");
	/* MQTT-3.8.3-1 */
	REFUSES(MALFORMED, V5, C, "\x82", "\0\1\0" "\0\1\xff\0");
	REFUSES(MALFORMED, V311, C, "\x82", "\0\1" "\0\1\0\0");
	/* 3.8.2.1.2 */
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1" "\2\x0b\0" "\0\1a\0");
	REFUSES(PROTOCOL, V5, C, "\x82", "\0\1" "\4\x0b\1\x0b\1" "\0\1a\0");
	REFUSES(MALFORMED, V5, C, "\x82", "\0\1" "\4\x1f\0\1r" "\0\1a\0");
}

static void
subscribe_answers_each_filter_that_is_none(void **state UNUSED)
{
	struct mqtt_subscription s;
	size_t	at = 0;

	ACCEPTS(V5, C, "\x82", "\0\1\0" "\0\2a#\0" "\0\0\0" "\0\1a\0"
	    "\0\11$share//t\0" "\0\3a/b\0");
	assert_int_equal(got.subscribe.count, 5);
	assert_true(mqtt_subscribe_next(&got.subscribe, 1, &at, &s));
	assert_int_equal(s.reason, 0x8f);		/* MQTT-4.7.1-1 */
	assert_true(mqtt_subscribe_next(&got.subscribe, 1, &at, &s));
	assert_int_equal(s.reason, 0x8f);		/* MQTT-4.7.3-1 */
	assert_true(mqtt_subscribe_next(&got.subscribe, 1, &at, &s));
	assert_int_equal(s.reason, 0);
	assert_true(mqtt_subscribe_next(&got.subscribe, 1, &at, &s));
	assert_int_equal(s.reason, 0x8f);		/* MQTT-4.8.2-1 */
	assert_slice(s.name, "$share//t");
	assert_true(mqtt_subscribe_next(&got.subscribe, 1, &at, &s));
	assert_int_equal(s.reason, 0x8f);		/* too many levels */
}

/* --- UNSUBSCRIBE, 3.10 --------------------------------------------------- */

static void
unsubscribe_has_an_id_and_a_filter(void **state UNUSED)
{
	struct mqtt_subscription s;
	size_t	at = 0;

	ACCEPTS(V31, C, "\xa2", "\0\1" "\0\1a");
	ACCEPTS(V311, C, "\xa2", "\0\1" "\0\1a" "\0\3b/+");
	assert_int_equal(got.unsubscribe.count, 2);
	ACCEPTS(V5, C, "\xa2", "\0\1" "\7\x26\0\1k\0\1v" "\0\2a#"
	    "\0\x0a$share/g/t");
	assert_true(mqtt_unsubscribe_next(&got.unsubscribe, 0, &at, &s));
	assert_int_equal(s.reason, 0x8f);
	assert_true(mqtt_unsubscribe_next(&got.unsubscribe, 0, &at, &s));
	assert_int_equal(s.reason, 0);
	assert_slice(s.topic.group, "g");
	assert_false(mqtt_unsubscribe_next(&got.unsubscribe, 0, &at, &s));
	REFUSES(PROTOCOL, V5, C, "\xa2", "\0\1\0");	/* MQTT-3.10.3-2 */
	REFUSES(PROTOCOL, V311, C, "\xa2", "\0\1");
	REFUSES(PROTOCOL, V5, C, "\xa2", "\0\0\0" "\0\1a");
	REFUSES(MALFORMED, V5, C, "\xa2", "\0\1\0" "\0\1\xff"); /* -3.10.3-1 */
	REFUSES(MALFORMED, V5, C, "\xa2", "\0\1\0" "\0\2a");
	REFUSES(MALFORMED, V5, C, "\xa2", "\0\1" "\2\x0b\1" "\0\1a");
}

/* --- SUBACK, UNSUBACK, 3.9 and 3.11 -------------------------------------- */

static void
suback_and_unsuback_of_every_version(void **state UNUSED)
{
	ACCEPTS(V31, S, "\x90", "\0\1" "\0\1\2");
	ACCEPTS(V311, S, "\x90", "\0\1" "\0\1\2\x80");
	assert_slice(got.suback.codes, "\0\1\2\x80");
	ACCEPTS(V5, S, "\x90", "\0\1" "\x0b\x1f\0\1r\x26\0\1k\0\1v" "\0\x8f");
	assert_slice(got.suback.codes, "\0\x8f");
	ACCEPTS(V311, S, "\xb0", "\0\1");
	ACCEPTS(V5, S, "\xb0", "\0\1\0" "\0\x11");
	assert_slice(got.suback.codes, "\0\x11");
	REFUSES(PROTOCOL, V311, S, "\x90", "\0\1" "\x87");
	REFUSES(PROTOCOL, V311, S, "\x90", "\0\1");
	REFUSES(PROTOCOL, V5, S, "\x90", "\0\1\0");
	REFUSES(PROTOCOL, V5, S, "\x90", "\0\0\0" "\0");
	REFUSES(MALFORMED, V311, S, "\xb0", "\0\1\0");
	REFUSES(MALFORMED, V311, S, "\xb0", "\0");
	REFUSES(MALFORMED, V5, S, "\x90", "\0\1");
	REFUSES(MALFORMED, V5, S, "\x90", "\0\1" "\2\x0b\1" "\0");
}

/* --- PINGREQ, PINGRESP, 3.12 and 3.13 ------------------------------------ */

static void
pings_are_empty(void **state UNUSED)
{
	ACCEPTS(V5, C, "\xc0", "");
	ACCEPTS(V311, S, "\xd0", "");
	REFUSES(MALFORMED, V5, C, "\xc0", "\0");
	REFUSES(MALFORMED, V311, S, "\xd0", "\0\0");
}

/* --- DISCONNECT, 3.14 ---------------------------------------------------- */

static void
disconnect_has_short_forms(void **state UNUSED)
{						/* 3.14.2.1, 3.14.2.2.1 */
	ACCEPTS(V31, C, "\xe0", "");
	ACCEPTS(V311, C, "\xe0", "");
	ACCEPTS(V5, C, "\xe0", "");
	assert_int_equal(got.disconnect.reason, 0);
	ACCEPTS(V5, C, "\xe0", "\4");
	assert_int_equal(got.disconnect.reason, 4);
	ACCEPTS(V5, C, "\xe0", "\0\0");
	ACCEPTS(V5, C, "\xe0", "\0" "\x10" "\x11\0\0\0\5" "\x1f\0\1r"
	    "\x26\0\1k\0\1v");
	assert_int_equal(got.disconnect.props.session_expiry_s, 5);
	ACCEPTS(V5, S, "\xe0", "\x9d" "\4\x1c\0\1s");
	assert_slice(got.disconnect.props.server_reference, "s");
	REFUSES(MALFORMED, V311, C, "\xe0", "\0");
	REFUSES(MALFORMED, V5, C, "\xe0", "\0\0x");
	REFUSES(MALFORMED, V5, C, "\xe0", "\0\5\x11\0\0\0");
	REFUSES(MALFORMED, V5, C, "\xe0", "\0\3\x21\0\1");
	REFUSES(PROTOCOL, V5, C, "\xe0", "\0\12\x11\0\0\0\1\x11\0\0\0\1");
	REFUSES(PROTOCOL, V5, S, "\xe0", "\0\5\x11\0\0\0\1"); /* -3.14.2-2 */
	REFUSES(PROTOCOL, V311, S, "\xe0", "");
}

/* --- AUTH, 3.15 ---------------------------------------------------------- */

static void
auth_names_its_method(void **state UNUSED)
{						/* 3.15.2.2.2 */
	ACCEPTS(V5, C, "\xf0", "\x18" "\x13" "\x15\0\1m" "\x16\0\1d"
	    "\x1f\0\1r" "\x26\0\1k\0\1v");
	assert_slice(got.auth.props.auth_method, "m");
	assert_slice(got.auth.props.auth_data, "d");
	ACCEPTS(V5, S, "\xf0", "");			/* 3.15.2.1 */
	REFUSES(PROTOCOL, V5, C, "\xf0", "");
	REFUSES(PROTOCOL, V5, C, "\xf0", "\x18\0");
	REFUSES(PROTOCOL, V5, S, "\xf0", "\0\0");
	REFUSES(MALFORMED, V5, C, "\xf0", "\x18");
	REFUSES(MALFORMED, V5, C, "\xf0", "\x18\4\x15\0\1mx");
	REFUSES(MALFORMED, V5, C, "\xf0", "\x18\7\x15\0\1m\x21\0\1");
	REFUSES(ERR_PROTO, V311, C, "\xf0", "");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connect_of_every_version),
		cmocka_unit_test(connect_with_everything),
		cmocka_unit_test(connect_says_which_version_to_refuse_in),
		cmocka_unit_test(connect_flags_fit_together),
		cmocka_unit_test(connect_password_needs_a_user_name_before_5),
		cmocka_unit_test(connect_fields_are_all_there_and_no_more),
		cmocka_unit_test(connect_strings_are_utf8),
		cmocka_unit_test(connect_will_topic_is_a_topic),
		cmocka_unit_test(connect_properties_are_those_of_connect),
		cmocka_unit_test(connect_of_5_has_a_minimal_length),
		cmocka_unit_test(connack_of_every_version),
		cmocka_unit_test(connack_says_nothing_else),
		cmocka_unit_test(publish_of_every_version_and_qos),
		cmocka_unit_test(publish_topics_are_topic_names),
		cmocka_unit_test(publish_packet_ids_are_not_zero),
		cmocka_unit_test(publish_is_not_cut_short),
		cmocka_unit_test(publish_properties_are_those_of_publish),
		cmocka_unit_test(
		    publish_subscription_ids_come_from_servers_only),
		cmocka_unit_test(acks_have_short_forms),
		cmocka_unit_test(reason_codes_are_those_of_the_packet),
		cmocka_unit_test(subscribe_of_every_version),
		cmocka_unit_test(subscribe_options_have_reserved_bits),
		cmocka_unit_test(subscribe_has_an_id_and_a_filter),
		cmocka_unit_test(subscribe_answers_each_filter_that_is_none),
		cmocka_unit_test(unsubscribe_has_an_id_and_a_filter),
		cmocka_unit_test(suback_and_unsuback_of_every_version),
		cmocka_unit_test(pings_are_empty),
		cmocka_unit_test(disconnect_has_short_forms),
		cmocka_unit_test(auth_names_its_method),
	};

	return cmocka_run_group_tests(tests, NULL, packet_teardown);
}

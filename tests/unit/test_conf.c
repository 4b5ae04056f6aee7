/* conf: texts become values, and what is wrong is said so that it helps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "log/log.h"

static struct conf c;
static struct conf_error e;

static int
fresh(void **state UNUSED)
{
	conf_init(&c);
	e.text[0] = '\0';
	return 0;
}

static int
set(const char *key, const char *value)
{
	return conf_set(&c, key, value, "test", &e);
}

static int
read_text(const char *text)
{
	return conf_read_bytes(&c, text, strlen(text), "a.conf", &e);
}

static void
assert_says(const char *part)
{
	if (strstr(e.text, part) == NULL)
		fail_msg("'%s' is not in '%s'", part, e.text);
}

static void
defaults_are_what_the_rows_say(void **state UNUSED)
{
	assert_string_equal(c.node_name, "mqttc@127.0.0.1");
	assert_string_equal(c.listener_tcp_external, "0.0.0.0:1883");
	assert_string_equal(c.listener_tcp_each, "");
	assert_int_equal(c.listener_processes, 2);
	assert_int_equal(c.listener_output_max, 1 << 20);
	assert_int_equal(c.listener_connect_timeout_ms, 15000);
	assert_int_equal(c.log_level, LOG_L_INFO);
	assert_int_equal(c.bus_credit, 16 << 20);
	assert_int_equal(c.mqtt_max_packet_size, 1 << 20);
	assert_int_equal(c.mqtt_max_qos, 2);
	assert_true(c.mqtt_wildcard_subscription);
	assert_int_equal(c.sys_interval_ms, 60000);
	assert_int_equal(conf_check(&c, &e), 0);
}

static void
every_row_is_sound(void **state UNUSED)
{
	char	 text[256];
	size_t	 i, j;

	for (i = 0; i < conf_nkeys; i++) {
		assert_non_null(strchr(conf_keys[i].name, '.'));
		assert_true(strlen(conf_keys[i].help) > 10);
		conf_key_expects(&conf_keys[i], text, sizeof(text));
		assert_true(strlen(text) > 3 && strlen(text) < 255);
		for (j = 0; j < i; j++)
			assert_string_not_equal(conf_keys[i].name,
			    conf_keys[j].name);
	}
}

static void
sizes_take_units(void **state UNUSED)
{
	assert_int_equal(set("mqtt.max_packet_size", "512"), 0);
	assert_int_equal(c.mqtt_max_packet_size, 512);
	assert_int_equal(set("mqtt.max_packet_size", "64KB"), 0);
	assert_int_equal(set("session.max_bytes", "20GB"), 0);
	assert_true(c.session_max_bytes == UINT64_C(20) << 30);
	assert_int_equal(set("session.max_bytes", "1TB"), 0);
	assert_int_equal(set("session.max_bytes", "2TB"), ERR_INVAL);
	assert_int_equal(c.mqtt_max_packet_size, 65536);
	assert_int_equal(set("mqtt.max_packet_size", "2 mb"), 0);
	assert_int_equal(c.mqtt_max_packet_size, 2 << 20);
	assert_int_equal(set("mqtt.max_packet_size", "268435455"), 0);
	assert_int_equal(set("mqtt.max_packet_size", "268435456"), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size", "1"), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size", "-1"), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size", "1XB"), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size", ""), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size",
	    "99999999999999999999999999"), ERR_INVAL);
	assert_int_equal(set("mqtt.max_packet_size", "17179869184GB"),
	    ERR_INVAL);			/* 2^64 is not 0 */
	assert_int_equal(c.mqtt_max_packet_size, 268435455);
}

static void
durations_need_units(void **state UNUSED)
{
	assert_int_equal(set("supervise.hang_timeout", "500ms"), 0);
	assert_int_equal(c.supervise_hang_timeout_ms, 500);
	assert_int_equal(set("supervise.hang_timeout", "10s"), 0);
	assert_int_equal(c.supervise_hang_timeout_ms, 10000);
	assert_int_equal(set("supervise.hang_timeout", "5m"), 0);
	assert_int_equal(c.supervise_hang_timeout_ms, 300000);
	assert_int_equal(set("supervise.hang_timeout", "1h"), 0);
	assert_int_equal(c.supervise_hang_timeout_ms, 3600000);
	assert_int_equal(set("supervise.hang_timeout", "10"), ERR_INVAL);
	assert_int_equal(set("supervise.hang_timeout", "2h"), ERR_INVAL);
	assert_int_equal(set("sys.interval", "0"), 0);
	assert_int_equal(c.sys_interval_ms, 0);
}

static void
seconds_go_with_and_without_a_unit(void **state UNUSED)
{
	assert_int_equal(set("mqtt.keepalive_max", "100"), 0);
	assert_int_equal(c.mqtt_keepalive_max, 100);
	assert_int_equal(set("mqtt.keepalive_max", "2m"), 0);
	assert_int_equal(c.mqtt_keepalive_max, 120);
	assert_int_equal(set("mqtt.server_keepalive", "1s"), 0);
	assert_int_equal(c.mqtt_server_keepalive, 1);
	assert_int_equal(set("mqtt.keepalive_max", "1500ms"), ERR_INVAL);
	assert_int_equal(set("mqtt.keepalive_max", "1d"), ERR_INVAL);
	assert_says("a number from 1 to 65535 seconds");
	assert_int_equal(set("mqtt.max_qos", "1s"), ERR_INVAL);
}

static void
syncing_is_always_never_or_now_and_then(void **state UNUSED)
{
	static const char *const bad[] = { "", "sometimes", "interval",
	    "interval:", "interval:0", "interval:x", "interval:-1",
	    "interval:60001", "interval: 5", "interval:5x", "always:5",
	    "interval:61s" };
	enum conf_sync	 sync;
	uint32_t	 ms;
	size_t		 i;

	assert_string_equal(c.session_sync, "always");
	assert_int_equal(conf_sync_parse(c.session_sync, &sync, &ms), 0);
	assert_int_equal(sync, CONF_SYNC_ALWAYS);
	assert_int_equal(ms, 0);
	assert_int_equal(set("session.sync", "interval:100"), 0);
	assert_int_equal(conf_sync_parse(c.session_sync, &sync, &ms), 0);
	assert_int_equal(sync, CONF_SYNC_INTERVAL);
	assert_int_equal(ms, 100);
	assert_int_equal(conf_sync_parse("interval:2s", &sync, &ms), 0);
	assert_int_equal(ms, 2000);
	assert_int_equal(conf_sync_parse("interval:60000", &sync, &ms), 0);
	assert_int_equal(conf_sync_parse("interval:1", &sync, &ms), 0);
	assert_int_equal(set("session.sync", "Never"), 0);
	assert_int_equal(conf_sync_parse(c.session_sync, &sync, &ms), 0);
	assert_int_equal(sync, CONF_SYNC_NEVER);
	assert_int_equal(ms, 0);
	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(set("session.sync", bad[i]), ERR_INVAL);
	assert_says("always, never, or interval: and milliseconds from 1 to "
	    "60000, such as interval:100");
	assert_string_equal(c.session_sync, "Never");
}

static void
a_session_may_last_for_ever(void **state UNUSED)
{
	assert_int_equal(c.mqtt_session_expiry_max, 7200);
	assert_int_equal(set("mqtt.session_expiry_max", "4294967295"), 0);
	assert_int_equal(c.mqtt_session_expiry_max, UINT32_MAX);
	assert_int_equal(set("mqtt.session_expiry_max", "30d"), 0);
	assert_int_equal(c.mqtt_session_expiry_max, 30 * 86400);
	assert_int_equal(set("mqtt.session_expiry_max", "4294967296"),
	    ERR_INVAL);
	assert_int_equal(set("mqtt.session_expiry_max", "0"), 0);
	assert_int_equal(c.mqtt_session_expiry_max, 0);
	assert_int_equal(set("session_store.processes", "65"), ERR_INVAL);
	assert_int_equal(set("session_store.processes", "0"), ERR_INVAL);
}

static void
switches_take_four_words(void **state UNUSED)
{
	assert_int_equal(set("mqtt.wildcard_subscription", "off"), 0);
	assert_false(c.mqtt_wildcard_subscription);
	assert_int_equal(set("mqtt.wildcard_subscription", "true"), 0);
	assert_true(c.mqtt_wildcard_subscription);
	assert_int_equal(set("mqtt.wildcard_subscription", "false"), 0);
	assert_false(c.mqtt_wildcard_subscription);
	assert_int_equal(set("mqtt.wildcard_subscription", "On"), 0);
	assert_true(c.mqtt_wildcard_subscription);
	assert_int_equal(set("mqtt.wildcard_subscription", "yes"), ERR_INVAL);
	assert_says("must be on or off");
}

static void
levels_are_the_logs_own(void **state UNUSED)
{
	assert_int_equal(set("log.level", "error"), 0);
	assert_int_equal(c.log_level, LOG_L_ERROR);
	assert_int_equal(set("log.level", "debug"), 0);
	assert_int_equal(c.log_level, LOG_L_DEBUG);
	assert_int_equal(set("log.level", "verbose"), ERR_INVAL);
	assert_says("one of error|warn|info|debug");
}

static void
addresses_are_checked(void **state UNUSED)
{
	static const char *const good[] = { "127.0.0.1:1883", "[::1]:1883",
	    ":1883", "broker.example.org:1", "0.0.0.0:65535", "[::]:1" };
	static const char *const bad[] = { "1883", "127.0.0.1", "::1:1883",
	    "[::1]1883", "[]:1", "[::1:5", "a:65536", "a:-1", "a:x", "a:",
	    "a b:1", "a:0", "a:1 ", "a:000001" };
	size_t	 i;

	for (i = 0; i < NELEM(good); i++) {
		assert_int_equal(set("listener.tcp.external", good[i]), 0);
		assert_string_equal(c.listener_tcp_external, good[i]);
	}
	for (i = 0; i < NELEM(bad); i++)
		if (strcmp(bad[i], "a:1 ") != 0)	/* blanks do not count */
			assert_int_equal(set("listener.tcp.external", bad[i]),
			    ERR_INVAL);
	assert_says("HOST:PORT, such as 127.0.0.1:1883 or [::1]:1883");
	assert_string_equal(c.listener_tcp_external, "[::]:1");
	assert_int_equal(set("listener.tcp.each", ""), 0);
}

static void
addresses_split_into_host_and_port(void **state UNUSED)
{
	char		 host[64];
	uint16_t	 port;

	assert_int_equal(conf_split_addr("[::1]:1884", host, sizeof(host),
	    &port), 0);
	assert_string_equal(host, "::1");
	assert_int_equal(port, 1884);
	assert_int_equal(conf_split_addr(":0", host, sizeof(host), &port), 0);
	assert_string_equal(host, "");
	assert_int_equal(port, 0);
	assert_int_equal(conf_split_addr("abcdefgh:1", host, 8, &port),
	    ERR_INVAL);
}

static void
a_node_name_has_a_name_and_a_host(void **state UNUSED)
{
	char	 name[64], host[64];

	assert_int_equal(conf_split_node("n1@10.0.0.1", name, sizeof(name),
	    host, sizeof(host)), 0);
	assert_string_equal(name, "n1");
	assert_string_equal(host, "10.0.0.1");
	assert_int_equal(set("node.name", "n2@host.example.org"), 0);
	assert_int_equal(set("node.name", "n2"), ERR_INVAL);
	assert_says("NAME@HOST, such as mqttc@127.0.0.1");
	assert_int_equal(set("node.name", "@host"), ERR_INVAL);
	assert_int_equal(set("node.name", "n2@"), ERR_INVAL);
	assert_int_equal(set("node.name", "n/2@h"), ERR_INVAL);
	assert_int_equal(set("node.name", "n@h@i"), ERR_INVAL);
}

static void
the_suffix_of_a_node_is_the_number_at_its_end(void **state UNUSED)
{
	assert_int_equal(conf_node_suffix("emqx1@10.0.0.7"), 1);
	assert_int_equal(conf_node_suffix("emqx@10.0.0.7"), 0);
	assert_int_equal(conf_node_suffix("n2k12@h3"), 12);
	assert_int_equal(conf_node_suffix("n0123456@h"), 3456);
	assert_int_equal(conf_node_suffix("7@h"), 7);
	assert_int_equal(conf_node_suffix("none"), 0);
}

static void
a_key_may_have_another_name(void **state UNUSED)
{
	assert_int_equal(set("node.role", "replicant"), 0);
	assert_int_equal(c.node_db_role, CONF_ROLE_REPLICANT);
	assert_int_equal(set("cluster.discovery_strategy", "static"), 0);
	assert_int_equal(c.cluster_discovery, CONF_DISCOVERY_STATIC);
	assert_int_equal(set("cluster.proto_dist", "inet6_tcp"), 0);
	assert_int_equal(c.node_proto_dist, CONF_DIST_INET6);
	assert_ptr_equal(conf_find("node.role"), conf_find("node.db_role"));
	assert_int_equal(set("node.role", "king"), ERR_INVAL);
}

static void
directories_become_absolute(void **state UNUSED)
{
	char	 cwd[400], want[512];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	assert_int_equal(set("node.data_dir", "data"), 0);
	snprintf(want, sizeof(want), "%s%sdata", cwd,
	    strcmp(cwd, "/") == 0 ? "" : "/");
	assert_string_equal(c.node_data_dir, want);
	assert_int_equal(set("node.data_dir", "/a/b"), 0);
	assert_string_equal(c.node_data_dir, "/a/b");
	assert_int_equal(set("node.data_dir", ""), ERR_INVAL);
	assert_int_equal(set("log.dir", ""), 0);
}

static void
a_file_sets_keys(void **state UNUSED)
{
	assert_int_equal(read_text(
	    "# a comment\n"
	    "; another = one\n"
	    "\n"
	    "node.name=n1@h1\r\n"
	    "   listener.processes =   4  \n"
	    "\tmqtt.max_qos\t=\t1\n"
	    "listener.tcp.each =\n"
	    "log.level = warn"), 0);
	assert_string_equal(c.node_name, "n1@h1");
	assert_int_equal(c.listener_processes, 4);
	assert_int_equal(c.mqtt_max_qos, 1);
	assert_int_equal(c.log_level, LOG_L_WARN);
	assert_int_equal(read_text("\xef\xbb\xbf# bom\nmqtt.max_qos = 2\n"), 0);
	assert_int_equal(c.mqtt_max_qos, 2);
	assert_int_equal(read_text(""), 0);
}

static void
hashes_and_semicolons_are_bytes_of_a_value(void **state UNUSED)
{
	assert_int_equal(read_text("mqtt.response_information = a/# ; b:=c\n"),
	    0);
	assert_string_equal(c.mqtt_response_information, "a/# ; b:=c");
	assert_int_equal(read_text("mqtt.max_qos = 1 # one\n"), ERR_INVAL);
	assert_string_equal(e.text, "a.conf:1: mqtt.max_qos = \"1 # one\": must "
	    "be a number from 0 to 2 (a comment needs a line of its own)");
}

static void
an_error_names_line_key_value_and_range(void **state UNUSED)
{
	assert_int_equal(read_text("# c\nlog.level = warn\n\n"
	    "mqtt.max_qos = 3\n"), ERR_INVAL);
	assert_string_equal(e.text, "a.conf:4: mqtt.max_qos = \"3\": must be a "
	    "number from 0 to 2");
	assert_int_equal(c.log_level, LOG_L_INFO);	/* nothing was set */
}

static void
an_unknown_key_gets_a_suggestion(void **state UNUSED)
{
	assert_int_equal(read_text("mqtt.max_qso = 1\n"), ERR_INVAL);
	assert_string_equal(e.text, "a.conf:1: unknown key \"mqtt.max_qso\"; "
	    "did you mean mqtt.max_qos?");
	assert_int_equal(set("nod.name", "x"), ERR_INVAL);
	assert_says("did you mean node.name?");
	assert_int_equal(set("zone.external.max_inflight", "x"), ERR_INVAL);
	assert_says("did you mean mqtt.max_inflight?");
	assert_int_equal(set("qwertyuiop", "x"), ERR_INVAL);
	assert_says("mqttc.conf(5) lists all keys");
}

static void
what_inih_would_do_silently_is_refused(void **state UNUSED)
{
	static char	 big[4000];
	static const char nul[] = "mqtt.max_qos = 1\0\n";

	assert_int_equal(read_text("log.level = warn\n[mqtt]\n"), ERR_INVAL);
	assert_says("a.conf:2: sections are not used");
	assert_int_equal(read_text("log.level\n"), ERR_INVAL);
	assert_says("a.conf:1: \"log.level\" is not of the form key = value");
	assert_int_equal(read_text("log.level: warn\n"), ERR_INVAL);
	assert_says("is not of the form key = value");
	assert_int_equal(read_text("log:level = warn\n"), ERR_INVAL);
	assert_int_equal(read_text(" = warn\n"), ERR_INVAL);
	assert_says("a key is missing");
	assert_int_equal(conf_read_bytes(&c, nul, sizeof(nul) - 1, "a.conf",
	    &e), ERR_INVAL);
	assert_says("NUL");

	memset(big, 'x', sizeof(big) - 1);
	memcpy(big, "mqtt.response_information = ", 28);
	assert_int_equal(read_text(big), ERR_INVAL);
	assert_says("a.conf:1: the line is longer than 1023 bytes");
	memset(big, 'k', 300);			/* a long name is not cut */
	memcpy(big + 300, " = 1\n", 6);
	assert_int_equal(read_text(big), ERR_INVAL);
	assert_says("unknown key");
}

static void
no_value_is_cut(void **state UNUSED)
{
	char	 line[700];
	size_t	 len;

	for (len = 1; len <= 600; len++) {
		int	 rc;

		memcpy(line, "mqtt.response_information = ", 28);
		memset(line + 28, 'v', len);
		line[28 + len] = '\0';
		fresh(NULL);
		rc = read_text(line);
		if (len <= 256) {
			assert_int_equal(rc, 0);
			assert_int_equal(strlen(c.mqtt_response_information),
			    len);
		} else {
			assert_int_equal(rc, ERR_INVAL);
		}
	}
}

static void
control_bytes_are_no_text(void **state UNUSED)
{
	assert_int_equal(set("mqtt.response_information", "a\nb"), ERR_INVAL);
	assert_says("\"a\\x0ab\"");
	assert_null(strchr(e.text, '\n'));
}

static void
later_lines_win(void **state UNUSED)
{
	assert_int_equal(read_text("mqtt.max_qos = 0\nmqtt.max_qos = 1\n"), 0);
	assert_int_equal(c.mqtt_max_qos, 1);
}

static void
options_are_key_equals_value(void **state UNUSED)
{
	assert_int_equal(conf_set_option(&c, "mqtt.max_qos=1", &e), 0);
	assert_int_equal(c.mqtt_max_qos, 1);
	assert_int_equal(conf_set_option(&c, "mqtt.max_qos", &e), ERR_INVAL);
	assert_string_equal(e.text, "-o \"mqtt.max_qos\": must be key=value");
	assert_int_equal(conf_set_option(&c, "mqtt.max_qos=9", &e), ERR_INVAL);
	assert_string_equal(e.text, "-o: mqtt.max_qos = \"9\": must be a number "
	    "from 0 to 2");
}

static void
the_environment_spells_dots_as_two_underscores(void **state UNUSED)
{
	static char *const good[] = { "PATH=/bin", "MQTTC_BIN=build/bin",
	    "MQTTC_NODE__NAME=n1@h", "MQTTC_MQTT__MAX_PACKET_SIZE=2KB",
	    "MQTTC_LISTENER__TCP__EXTERNAL=:99", "MQTTC_X", NULL };
	static char *const alone[] = { "MQTTC_NODE_NAME=n2@h", NULL };
	static char *const bad[] = { "MQTTC_NODE__NAM=n1@h", NULL };
	static char *const worse[] = { "MQTTC_MQTT__MAX_QOS=7", NULL };

	assert_int_equal(conf_read_env(&c, good, &e), 0);
	assert_string_equal(c.node_name, "n1@h");
	assert_int_equal(c.mqtt_max_packet_size, 2048);
	assert_string_equal(c.listener_tcp_external, ":99");
	assert_int_equal(conf_read_env(&c, alone, &e), 0);
	assert_string_equal(c.node_name, "n2@h");
	assert_int_equal(conf_read_env(&c, bad, &e), ERR_INVAL);
	assert_string_equal(e.text, "environment MQTTC_NODE__NAM: unknown key "
	    "\"node.nam\"; did you mean node.name?");
	assert_int_equal(conf_read_env(&c, worse, &e), ERR_INVAL);
	assert_says("environment MQTTC_MQTT__MAX_QOS: mqtt.max_qos = \"7\"");
}

static void
keys_must_fit_each_other(void **state UNUSED)
{
	assert_int_equal(set("listener.tcp.external", ""), 0);
	assert_int_equal(conf_check(&c, &e), ERR_INVAL);
	assert_says("listener.tcp.external and listener.tcp.each are both");
	assert_int_equal(set("listener.tcp.each", "127.0.0.1:65535"), 0);
	assert_int_equal(conf_check(&c, &e), ERR_INVAL);
	assert_says("above 65535");
	assert_int_equal(set("listener.processes", "1"), 0);
	assert_int_equal(conf_check(&c, &e), 0);
	assert_int_equal(set("bus.stream_max", "1MB"), 0);
	assert_int_equal(conf_check(&c, &e), ERR_INVAL);
	assert_says("bus.stream_max");
}

static void
what_is_written_reads_back_the_same(void **state UNUSED)
{
	struct conf	 back;
	char		*text = NULL;
	size_t		 len, i;
	FILE		*f;

	assert_int_equal(set("mqtt.max_packet_size", "12345"), 0);
	assert_int_equal(set("mqtt.response_information", "\"q\" # ;"), 0);
	assert_int_equal(set("supervise.hang_timeout", "1500ms"), 0);
	assert_int_equal(set("log.level", "debug"), 0);
	assert_int_equal(set("mqtt.wildcard_subscription", "off"), 0);
	assert_int_equal(set("log.dir", "rel"), 0);
	f = open_memstream(&text, &len);
	assert_int_equal(conf_write(&c, f), 0);
	fclose(f);
	conf_init(&back);
	assert_false(conf_same(&c, &back, conf_find("log.level")));
	f = fmemopen(text, len, "r");
	assert_int_equal(conf_read_stream(&back, f, "fd", &e), 0);
	fclose(f);
	assert_memory_equal(&back, &c, sizeof(c));
	for (i = 0; i < conf_nkeys; i++)
		assert_true(conf_same(&c, &back, &conf_keys[i]));
	free(text);
}

static void
values_are_written_with_their_units(void **state UNUSED)
{
	char	 v[64];

	conf_value(&c, conf_find("bus.credit"), v, sizeof(v));
	assert_string_equal(v, "16MB");
	conf_value(&c, conf_find("sys.interval"), v, sizeof(v));
	assert_string_equal(v, "1m");
	assert_int_equal(set("sys.interval", "0"), 0);
	conf_value(&c, conf_find("sys.interval"), v, sizeof(v));
	assert_string_equal(v, "0");
	assert_int_equal(set("mqtt.max_packet_size", "1000"), 0);
	conf_value(&c, conf_find("mqtt.max_packet_size"), v, sizeof(v));
	assert_string_equal(v, "1000");
}

/* The sample with every key's '#' removed is a valid file of the defaults. */
static void
the_sample_is_the_defaults(void **state UNUSED)
{
	struct conf	 back;
	char		*text = NULL, *bare, *p;
	size_t		 len, n = 0, keys = 0;
	FILE		*f = open_memstream(&text, &len);

	assert_int_equal(conf_write_sample(f), 0);
	fclose(f);
	assert_int_equal(read_text(text), 0);
	bare = malloc(len + 1);
	for (p = text; *p != '\0'; p++) {
		if (*p == '#' && (p == text || p[-1] == '\n') && p[1] != ' ') {
			keys++;
			continue;
		}
		bare[n++] = *p;
	}
	bare[n] = '\0';
	assert_int_equal(keys, conf_nkeys);
	memset(&c, 0, sizeof(c));
	assert_int_equal(read_text(bare), 0);
	conf_init(&back);
	assert_memory_equal(&back, &c, sizeof(c));
	free(bare);
	free(text);
}

static void
a_missing_file_is_named(void **state UNUSED)
{
	assert_int_equal(conf_read_file(&c, "/nonexistent/mqttc.conf", &e),
	    ERR_IO);
	assert_string_equal(e.text, "cannot open '/nonexistent/mqttc.conf': "
	    "No such file or directory");
	assert_int_equal(conf_read_file(&c, "/", &e), ERR_IO);
	assert_says("Is a directory");
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup(f, fresh)
	const struct CMUnitTest tests[] = {
		T(defaults_are_what_the_rows_say),
		T(every_row_is_sound),
		T(sizes_take_units),
		T(durations_need_units),
		T(seconds_go_with_and_without_a_unit),
		T(syncing_is_always_never_or_now_and_then),
		T(a_session_may_last_for_ever),
		T(switches_take_four_words),
		T(levels_are_the_logs_own),
		T(addresses_are_checked),
		T(addresses_split_into_host_and_port),
		T(a_node_name_has_a_name_and_a_host),
		T(the_suffix_of_a_node_is_the_number_at_its_end),
		T(a_key_may_have_another_name),
		T(directories_become_absolute),
		T(a_file_sets_keys),
		T(hashes_and_semicolons_are_bytes_of_a_value),
		T(an_error_names_line_key_value_and_range),
		T(an_unknown_key_gets_a_suggestion),
		T(what_inih_would_do_silently_is_refused),
		T(no_value_is_cut),
		T(control_bytes_are_no_text),
		T(later_lines_win),
		T(options_are_key_equals_value),
		T(the_environment_spells_dots_as_two_underscores),
		T(keys_must_fit_each_other),
		T(what_is_written_reads_back_the_same),
		T(values_are_written_with_their_units),
		T(the_sample_is_the_defaults),
		T(a_missing_file_is_named),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}

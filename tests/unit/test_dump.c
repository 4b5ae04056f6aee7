/* dump: lines of an export, and what is said of those that are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "dump/base64.h"
#include "dump/dump.h"

#define HEADER	"{\"type\":\"mqttc-export\",\"format\":1,\"node\":\"a@b\"," \
		"\"time_ms\":5,\"shards\":2,\"sessions\":1,\"retained\":0}"
#define SESSION	"{\"type\":\"session\",\"client_id\":\"x\",\"version\":5," \
		"\"expiry_s\":60,\"connected\":false,\"at_ms\":1000}"
#define MESSAGE	"{\"type\":\"message\",\"client_id\":\"x\",\"offset\":7," \
		"\"state\":\"sent\",\"qos\":1,\"retain\":true," \
		"\"subscription_ids\":[1,268435455],\"topic\":\"a/b\"," \
		"\"expires_ms\":9,\"properties\":\"AwABeA==\"," \
		"\"payload\":\"AP8w\"}"
#define RECEIVED "{\"type\":\"message\",\"client_id\":\"x\",\"offset\":9," \
		"\"state\":\"received\",\"qos\":2}"
#define INBOUND	"{\"type\":\"inbound\",\"client_id\":\"x\"," \
		"\"packet_ids\":[1,65535]}"
#define SUB	"{\"type\":\"subscription\",\"client_id\":\"x\"," \
		"\"filter\":\"a/+/#\",\"share\":\"g\",\"qos\":2," \
		"\"no_local\":true,\"retain_as_published\":true," \
		"\"retain_handling\":2,\"id\":3}"
#define SESSION_END "{\"type\":\"session_end\",\"client_id\":\"x\"," \
		"\"messages\":2,\"subscriptions\":1}"
#define RETAINED "{\"type\":\"retained\",\"publisher\":\"p\"," \
		"\"qos\":1,\"version\":" \
		"\"000000000000000a00000000000000ff\",\"id\":" \
		"\"ffffffffffffffff0000000000000001\"," \
		"\"topic\":\"r\",\"payload\":\"eA==\"}"
#define END	"{\"type\":\"end\",\"lines\":8,\"sessions\":1," \
		"\"messages\":2,\"subscriptions\":1,\"retained\":1}"

static const char *const lines[] = { HEADER, SESSION, MESSAGE, RECEIVED,
	INBOUND, SUB, SESSION_END, RETAINED, END };

static int
get(struct dump_reader *r, const char *text, struct dump_line *l, char *why)
{
	return dump_get(r, text, strlen(text), l, why, 256);
}

static void
lines_come_back(void **state UNUSED)
{
	struct dump_reader	 r = { .object = NULL };
	struct dump_line	 l;
	char			 why[256], *text;
	size_t			 i;

	for (i = 0; i < NELEM(lines); i++) {
		assert_int_equal(get(&r, lines[i], &l, why), 0);
		assert_int_equal(dump_put(&l, &text), 0);
		assert_int_equal(text[strlen(text) - 1], '\n');
		text[strlen(text) - 1] = '\0';
		assert_string_equal(text, lines[i]);
		free(text);
	}
	assert_int_equal(get(&r, MESSAGE, &l, why), 0);
	assert_int_equal(l.item.kind, ITEM_MESSAGE);
	assert_int_equal(l.item.state, ITEM_SENT);
	assert_int_equal(l.item.ids.len, 8);
	assert_int_equal(get_le32(l.item.ids.data + 4), 268435455);
	assert_int_equal(l.item.payload.len, 3);
	assert_memory_equal(l.item.payload.data, "\0\xff" "0", 3);
	assert_int_equal(l.item.payload_len, 3);
	assert_true(item_is_whole(&l.item));
	assert_int_equal(get(&r, SUB, &l, why), 0);
	assert_int_equal(l.item.options, 2 | 4 | 8 | 2 << 4);
	assert_int_equal(get(&r, RETAINED, &l, why), 0);
	assert_int_equal(l.item.version_hi, 10);
	assert_int_equal(l.item.version_lo, 255);
	assert_true(l.item.id_hi == UINT64_MAX);
	dump_reader_fini(&r);
}

static const struct {
	const char	*line, *from, *to, *why;
} damaged[] = {
	{ SESSION, "{", "[", "no JSON object" },
	{ SESSION, "60", "60,\"expiry_s\":61", "duplicate" },
	{ SESSION, "\"session\"", "\"sessoin\"", "'type' should be" },
	{ SESSION, "\"type\"", "\"tpye\"", "'type' is missing" },
	{ SESSION, "\"x\"", "\"\"", "'client_id' should be a text of 1 to" },
	{ SESSION, "\"x\"", "7", "'client_id' should be a text" },
	{ SESSION, ":5", ":6", "'version' should be a number from 3 to 5" },
	{ SESSION, "60", "4294967296", "from 0 to 4294967295" },
	{ SESSION, "60", "-1", "'expiry_s' should be a number" },
	{ SESSION, "60", "6.5", "'expiry_s' should be a number" },
	{ SESSION, "false", "0", "'connected' should be true or false" },
	{ SESSION, "\"connected\"", "\"conected\"", "'connected' is missing" },
	{ SESSION, "60", "60,\"more\":1", "does not belong" },
	{ MESSAGE, "\"qos\":1", "\"qos\":0", "from 1 to 2" },
	{ MESSAGE, "sent", "gone", "waits, sent or received" },
	{ MESSAGE, "a/b", "a/#", "'topic' should be one that may be" },
	{ MESSAGE, "[1,", "[0,", "numbers from 1 to 268435455" },
	{ MESSAGE, "[1,268435455]", "[]", "a list of 1 to 65535" },
	{ MESSAGE, "AwABeA==", "AwABeA=", "bytes in base64" },
	{ MESSAGE, "AwABeA==", "AwABeB==", "bytes in base64" },
	{ MESSAGE, "AwABeA==", "AwABe===", "bytes in base64" },
	{ MESSAGE, "AwABeA==", "AwACeA==", "'properties' should be those" },
	{ MESSAGE, "AwABeA==", "IwAB", "'properties' should be those" },
	{ MESSAGE, "AP8w", "AP8*", "bytes in base64" },
	{ RECEIVED, ":2", ":1", "from 2 to 2" },
	{ RECEIVED, ":2", ":2,\"topic\":\"a\"", "does not belong" },
	{ INBOUND, "65535", "65536", "numbers from 1 to 65535" },
	{ SUB, "a/+/#", "a/+b", "'filter' should be" },
	{ SUB, "\"g\"", "\"g/h\"", "'share' should be" },
	{ SUB, "\"qos\":2", "\"qos\":3", "from 0 to 2" },
	{ SUB, "\"id\":3", "\"id\":0", "from 1 to 268435455" },
	{ RETAINED, "00ff", "00f", "32 hexadecimal digits" },
	{ RETAINED, "00ff", "00FF", "32 hexadecimal digits" },
	{ RETAINED, ",\"payload\":\"eA==\"", "", "'payload' is missing" },
	{ HEADER, "\"format\":1", "\"format\":2", "newer than this program" },
	{ HEADER, "\"shards\":2", "\"shards\":0", "from 1 to 65535" },
	{ END, "\"lines\":8,", "", "'lines' is missing" },
};

static void
damage_is_told(void **state UNUSED)
{
	struct dump_reader	 r = { .object = NULL };
	struct dump_line	 l;
	char			 text[1024], why[256];
	const char		*at;
	size_t			 i, n;

	for (i = 0; i < NELEM(damaged); i++) {
		at = strstr(damaged[i].line, damaged[i].from);
		assert_non_null(at);
		n = (size_t)(at - damaged[i].line);
		snprintf(text, sizeof(text), "%.*s%s%s", (int)n,
		    damaged[i].line, damaged[i].to,
		    at + strlen(damaged[i].from));
		assert_int_equal(get(&r, text, &l, why), ERR_PROTO);
		if (strstr(why, damaged[i].why) == NULL)
			fail_msg("%s: %s", text, why);
	}
	/* Cut anywhere it is no line. */
	for (i = 0; i < NELEM(lines); i++)
		for (n = 0; n < strlen(lines[i]); n++)
			assert_int_equal(dump_get(&r, lines[i], n, &l, why,
			    sizeof(why)), ERR_PROTO);
	dump_reader_fini(&r);
}

static int
feed(struct dump_order *o, const char *text, char *why)
{
	struct dump_reader	r = { .object = NULL };
	struct dump_line	l;
	int			rc = get(&r, text, &l, why);

	assert_int_equal(rc, 0);
	rc = dump_order_next(o, &l, why, 256);
	dump_reader_fini(&r);
	return rc;
}

static void
order_is_kept(void **state UNUSED)
{
	struct dump_order	o = { .next = 0 };
	char			why[256];
	size_t			i, left_out;

	for (i = 0; i < NELEM(lines); i++)
		assert_int_equal(feed(&o, lines[i], why), 0);
	assert_int_equal(dump_order_end(&o, why, sizeof(why)), 0);
	assert_int_equal(feed(&o, SESSION, why), ERR_PROTO);
	dump_order_fini(&o);

	/* Whichever line is missing, it is noticed. */
	for (left_out = 0; left_out < NELEM(lines); left_out++) {
		for (i = 0; i < NELEM(lines); i++)
			if (i != left_out && feed(&o, lines[i], why) < 0)
				break;
		if (i == NELEM(lines))
			assert_int_equal(dump_order_end(&o, why, sizeof(why)),
			    ERR_PROTO);
		dump_order_fini(&o);
	}
	/* Twice as well. */
	for (left_out = 0; left_out + 1 < NELEM(lines); left_out++) {
		for (i = 0; i < NELEM(lines); i++)
			if (feed(&o, lines[i], why) < 0 || (i == left_out &&
			    feed(&o, lines[i], why) < 0))
				break;
		assert_true(i < NELEM(lines));
		dump_order_fini(&o);
	}
	assert_int_equal(dump_order_end(&o, why, sizeof(why)), ERR_PROTO);
	assert_non_null(strstr(why, "empty"));
	/* A message behind a subscription would not be the older one. */
	assert_int_equal(feed(&o, HEADER, why), 0);
	assert_int_equal(feed(&o, SESSION, why), 0);
	assert_int_equal(feed(&o, SUB, why), 0);
	assert_int_equal(feed(&o, MESSAGE, why), ERR_PROTO);
	assert_non_null(strstr(why, "before the subscriptions"));
	dump_order_fini(&o);
}

static void
base64(void **state UNUSED)
{
	static const char *const pairs[][2] = {
		{ "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" },
		{ "foo", "Zm9v" }, { "foobar", "Zm9vYmFy" },
	};
	uint8_t	bytes[256], back[256];
	char	text[512];
	size_t	i, n;

	for (i = 0; i < NELEM(pairs); i++) {
		n = base64_size(strlen(pairs[i][0]));
		assert_int_equal(n, strlen(pairs[i][1]));
		base64_put(text, pairs[i][0], strlen(pairs[i][0]));
		assert_memory_equal(text, pairs[i][1], n);
		assert_int_equal(base64_get(back, text, n),
		    strlen(pairs[i][0]));
	}
	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + 3);
	for (n = 0; n < sizeof(bytes); n++) {
		base64_put(text, bytes, n);
		assert_int_equal(base64_get(back, text, base64_size(n)), n);
		assert_memory_equal(back, bytes, n);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_come_back),
		cmocka_unit_test(damage_is_told),
		cmocka_unit_test(order_is_kept),
		cmocka_unit_test(base64),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

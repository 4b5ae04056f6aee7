/*
 * Topics: MQTT 5.0 sections 1.5.4, 4.7 and 4.8.2.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/utf8.h"
#include "topic/filter.h"
#include "../support/topic_naive.h"

/* In a buffer of just its size, so that a sanitizer sees one byte too many. */
static uint8_t *
exact(const void *s, size_t len)
{
	uint8_t	*p = malloc(len > 0 ? len : 1);

	assert_non_null(p);
	memcpy(p, s, len);
	return p;
}

static int
utf8(const void *s, size_t len)
{
	uint8_t	*p = exact(s, len);
	int	 rc = utf8_check(p, len);

	free(p);
	return rc;
}

static int
name(const void *s, size_t len, unsigned max_levels)
{
	uint8_t	*p = exact(s, len);
	int	 rc = topic_name_check(p, len, max_levels);

	free(p);
	return rc;
}

static int
filter(const void *s, size_t len, unsigned max_levels)
{
	uint8_t	*p = exact(s, len);
	int	 rc = topic_filter_check(p, len, max_levels);

	free(p);
	return rc;
}

#define UTF8(lit)	utf8(lit, sizeof(lit) - 1)
#define NAME(lit)	name(lit, sizeof(lit) - 1, 0)
#define FILTER(lit)	filter(lit, sizeof(lit) - 1, 0)

/* --- UTF-8 --------------------------------------------------------------- */

static void
utf8_is_the_shortest_form_and_no_surrogate(void **state UNUSED)
{						/* MQTT-1.5.4-1 */
	assert_int_equal(UTF8(""), 0);
	assert_int_equal(UTF8("a"), 0);
	assert_int_equal(UTF8("\x7f"), 0);
	assert_int_equal(UTF8("\xc2\x80"), 0);
	assert_int_equal(UTF8("\xdf\xbf"), 0);
	assert_int_equal(UTF8("\xe0\xa0\x80"), 0);
	assert_int_equal(UTF8("\xed\x9f\xbf"), 0);
	assert_int_equal(UTF8("\xee\x80\x80"), 0);
	assert_int_equal(UTF8("\xf0\x90\x80\x80"), 0);
	assert_int_equal(UTF8("\xf4\x8f\xbf\xbf"), 0);
	assert_int_equal(UTF8("A\xf0\xaa\x9b\x94"), 0);	/* the example */

	assert_int_equal(UTF8("\x80"), ERR_PROTO);
	assert_int_equal(UTF8("\xbf"), ERR_PROTO);
	assert_int_equal(UTF8("\xc0\x80"), ERR_PROTO);	/* overlong NUL */
	assert_int_equal(UTF8("\xc1\xbf"), ERR_PROTO);
	assert_int_equal(UTF8("\xe0\x9f\xbf"), ERR_PROTO);
	assert_int_equal(UTF8("\xf0\x8f\xbf\xbf"), ERR_PROTO);
	assert_int_equal(UTF8("\xed\xa0\x80"), ERR_PROTO);	/* U+D800 */
	assert_int_equal(UTF8("\xed\xbf\xbf"), ERR_PROTO);	/* U+DFFF */
	assert_int_equal(UTF8("\xf4\x90\x80\x80"), ERR_PROTO);
	assert_int_equal(UTF8("\xf5\x80\x80\x80"), ERR_PROTO);
	assert_int_equal(UTF8("\xff"), ERR_PROTO);
	assert_int_equal(UTF8("\xc3"), ERR_PROTO);		/* cut short */
	assert_int_equal(UTF8("\xe2\x82"), ERR_PROTO);
	assert_int_equal(UTF8("\xf0\x90\x80"), ERR_PROTO);
	assert_int_equal(UTF8("\xc3("), ERR_PROTO);
	assert_int_equal(UTF8("\xe2\x82("), ERR_PROTO);
	assert_int_equal(UTF8("\xf0\x90\x80("), ERR_PROTO);
}

static void
utf8_has_no_nul(void **state UNUSED)
{						/* MQTT-1.5.4-2 */
	assert_int_equal(UTF8("\0"), ERR_PROTO);
	assert_int_equal(UTF8("a\0b"), ERR_PROTO);
	assert_int_equal(UTF8("abcdefgh\0"), ERR_PROTO);
	assert_int_equal(UTF8("abcdefg\0ijklmnop"), ERR_PROTO);
	/* but a payload is no string: 3.3.2.3.2 */
	assert_int_equal(utf8_check_payload("a\0b", 3), 0);
	assert_int_equal(utf8_check_payload("abcdefg\0ijk\0\0\0\0\0", 16), 0);
	assert_int_equal(utf8_check_payload("a\0\xc0\x80", 4), ERR_PROTO);
	assert_int_equal(utf8_check_payload("\xed\xa0\x80", 3), ERR_PROTO);
}

static void
utf8_may_have_what_only_should_not_be_there(void **state UNUSED)
{						/* 1.5.4, MQTT-1.5.4-3 */
	assert_int_equal(UTF8("\x01\x1f\x7f\xc2\x9f"), 0);
	assert_int_equal(UTF8("\xef\xbf\xbe\xef\xbf\xbf"), 0);
	assert_int_equal(UTF8("\xef\xb7\x90"), 0);
	assert_int_equal(UTF8("\xef\xbb\xbf" "a"), 0);
}

/* Every code point and every pair of bytes, against the definition. */
static void
utf8_agrees_with_the_definition(void **state UNUSED)
{
	uint8_t		b[12];
	uint32_t	c;
	unsigned	i, n, want;

	for (c = 1; c <= 0x110200; c += c < 0x11000 ? 1 : 61) {
		if (c < 0x80) {
			b[0] = (uint8_t)c;
			n = 1;
		} else if (c < 0x800) {
			b[0] = (uint8_t)(0xc0 | c >> 6);
			n = 2;
		} else if (c < 0x10000) {
			b[0] = (uint8_t)(0xe0 | c >> 12);
			n = 3;
		} else {
			b[0] = (uint8_t)(0xf0 | c >> 18);
			n = 4;
		}
		for (i = 1; i < n; i++)
			b[i] = (uint8_t)(0x80 |
			    (c >> 6 * (n - 1 - i) & 0x3f));
		want = (c < 0xd800 || c > 0xdfff) && c <= 0x10ffff;
		memset(b + n, 'x', 8);
		assert_int_equal(utf8_check(b, n) == 0, want);
		assert_int_equal(utf8_check(b, n + 8) == 0, want);
		assert_int_equal(utf8_check(b, n - 1) == 0, n == 1);
	}
	for (c = 0; c < 0x10000; c++) {
		b[0] = (uint8_t)(c >> 8);
		b[1] = (uint8_t)c;
		want = (b[0] >= 1 && b[0] < 0x80 && b[1] >= 1 &&
		    b[1] < 0x80) || (b[0] >= 0xc2 && b[0] <= 0xdf &&
		    b[1] >= 0x80 && b[1] <= 0xbf);
		assert_int_equal(utf8_check(b, 2) == 0, want);
	}
}

/* --- Names --------------------------------------------------------------- */

static void
a_name_is_a_string_without_wildcards(void **state UNUSED)
{
	assert_int_equal(NAME("a"), 0);
	assert_int_equal(NAME("/"), 0);			/* 4.7.1.1, 4.7.3 */
	assert_int_equal(NAME("a b/c"), 0);
	assert_int_equal(NAME("sport/tennis/player1"), 0);
	assert_int_equal(NAME("$SYS/brokers"), 0);
	assert_int_equal(NAME("\xc3\xa9/\xe2\x82\xac"), 0);
	assert_int_equal(NAME(""), ERR_INVAL);		/* MQTT-4.7.3-1 */
	assert_int_equal(NAME("a\0b"), ERR_PROTO);	/* MQTT-4.7.3-2 */
	assert_int_equal(NAME("a\xff" "b"), ERR_PROTO);
	assert_int_equal(NAME("#"), ERR_INVAL);		/* MQTT-3.3.2-2 */
	assert_int_equal(NAME("+"), ERR_INVAL);
	assert_int_equal(NAME("a/+/c"), ERR_INVAL);
	assert_int_equal(NAME("a#"), ERR_INVAL);
	assert_int_equal(NAME("\xc3\xa9#"), ERR_INVAL);
	assert_int_equal(NAME("#\xff"), ERR_PROTO);	/* malformed first */
}

/* Each odd byte at each place of each length: the fast path sees them all. */
static void
an_odd_byte_is_seen_wherever_it_stands(void **state UNUSED)
{
	static const struct { uint8_t byte; int name, filter; } odd[] = {
		{ 0, ERR_PROTO, ERR_PROTO }, { 0x80, ERR_PROTO, ERR_PROTO },
		{ 0xff, ERR_PROTO, ERR_PROTO }, { '+', ERR_INVAL, ERR_INVAL },
		{ '#', ERR_INVAL, ERR_INVAL }, { 1, 0, 0 }, { 0x7f, 0, 0 },
		{ '*', 0, 0 }, { ',', 0, 0 }, { '"', 0, 0 }, { '$', 0, 0 },
		{ 0x0b, 0, 0 }, { 0x03, 0, 0 }, { '/', 0, 0 }, { ';', 0, 0 },
		{ 'k', 0, 0 }, { 'c', 0, 0 },
	};
	uint8_t	s[40];
	size_t	len, at, i;

	for (i = 0; i < NELEM(odd); i++)
		for (len = 2; len < sizeof(s); len++)
			for (at = 0; at < len; at++) {
				memset(s, 'a', sizeof(s));
				s[at] = odd[i].byte;
				assert_int_equal(name(s, len, 0),
				    odd[i].name);
				assert_int_equal(filter(s, len, 0),
				    odd[i].filter);
			}
}

static void
a_name_has_at_most_65535_bytes(void **state UNUSED)
{						/* MQTT-4.7.3-3 */
	uint8_t	*s = malloc(TOPIC_MAX + 1);

	assert_non_null(s);
	memset(s, 'a', TOPIC_MAX + 1);
	assert_int_equal(topic_name_check(s, TOPIC_MAX, 128), 0);
	assert_int_equal(topic_name_check(s, TOPIC_MAX + 1, 0), ERR_PROTO);
	assert_int_equal(topic_filter_check(s, TOPIC_MAX, 0), 0);
	assert_int_equal(topic_filter_check(s, TOPIC_MAX + 1, 0), ERR_PROTO);
	free(s);
}

static void
levels_are_counted(void **state UNUSED)
{
	uint8_t	*s;

	assert_int_equal(name("a", 1, 1), 0);
	assert_int_equal(name("/", 1, 1), ERR_FULL);
	assert_int_equal(name("/", 1, 2), 0);
	assert_int_equal(name("a/b/c", 5, 3), 0);
	assert_int_equal(name("a/b/c", 5, 2), ERR_FULL);
	assert_int_equal(name("\xc3\xa9/b/c", 6, 2), ERR_FULL);
	assert_int_equal(filter("+/+/#", 5, 3), 0);
	assert_int_equal(filter("+/+/#", 5, 2), ERR_FULL);
	assert_int_equal(filter("a/b/c", 5, 2), ERR_FULL);
	s = malloc(TOPIC_MAX);
	assert_non_null(s);
	memset(s, '/', TOPIC_MAX);
	assert_int_equal(topic_levels(s, TOPIC_MAX), TOPIC_MAX + 1);
	assert_int_equal(topic_name_check(s, TOPIC_MAX, 0), 0);
	assert_int_equal(topic_name_check(s, TOPIC_MAX, 65535), ERR_FULL);
	assert_int_equal(topic_name_check(s, TOPIC_MAX, 65536), 0);
	free(s);
}

/* --- Filters ------------------------------------------------------------- */

static void
a_multi_level_wildcard_is_the_whole_last_level(void **state UNUSED)
{						/* MQTT-4.7.1-1 */
	assert_int_equal(FILTER("#"), 0);
	assert_int_equal(FILTER("sport/tennis/player1/#"), 0);
	assert_int_equal(FILTER("sport/tennis/#"), 0);
	assert_int_equal(FILTER("/#"), 0);
	assert_int_equal(FILTER("sport/tennis#"), ERR_INVAL);
	assert_int_equal(FILTER("sport/tennis/#/ranking"), ERR_INVAL);
	assert_int_equal(FILTER("#/"), ERR_INVAL);
	assert_int_equal(FILTER("##"), ERR_INVAL);
	assert_int_equal(FILTER("#a"), ERR_INVAL);
	assert_int_equal(FILTER("+#"), ERR_INVAL);
	assert_int_equal(FILTER("a/#b"), ERR_INVAL);
}

static void
a_single_level_wildcard_is_a_whole_level(void **state UNUSED)
{						/* MQTT-4.7.1-2 */
	assert_int_equal(FILTER("+"), 0);
	assert_int_equal(FILTER("+/tennis/#"), 0);
	assert_int_equal(FILTER("sport/+/player1"), 0);
	assert_int_equal(FILTER("/+"), 0);
	assert_int_equal(FILTER("+/+"), 0);
	assert_int_equal(FILTER("+/"), 0);
	assert_int_equal(FILTER("\xc3\xa9/+"), 0);
	assert_int_equal(FILTER("sport+"), ERR_INVAL);
	assert_int_equal(FILTER("+sport"), ERR_INVAL);
	assert_int_equal(FILTER("a/+b/c"), ERR_INVAL);
	assert_int_equal(FILTER("++"), ERR_INVAL);
	assert_int_equal(FILTER("#+"), ERR_INVAL);
	assert_int_equal(FILTER("\xc3\xa9+"), ERR_INVAL);
}

static void
a_filter_is_a_string_of_at_least_one_byte(void **state UNUSED)
{
	assert_int_equal(FILTER(""), ERR_INVAL);	/* MQTT-4.7.3-1 */
	assert_int_equal(FILTER("a\0"), ERR_PROTO);	/* MQTT-4.7.3-2 */
	assert_int_equal(FILTER("+/\0"), ERR_PROTO);
	assert_int_equal(FILTER("+/\xed\xa0\x80"), ERR_PROTO);
	assert_int_equal(FILTER("a#\xff"), ERR_PROTO);
}

/* --- Shared subscriptions ------------------------------------------------ */

static int
sub(const char *s, struct topic_sub *out)
{
	return topic_sub_parse(s, strlen(s), 0, out);
}

static bool
is(const struct slice *s, const char *want)
{
	return s->len == strlen(want) && memcmp(s->data, want, s->len) == 0;
}

static void
a_share_name_and_a_filter_make_a_shared_subscription(void **state UNUSED)
{						/* MQTT-4.8.2-1 */
	struct topic_sub t;

	assert_int_equal(sub("$share/consumer1/sport/tennis/+", &t), 0);
	assert_true(t.shared);
	assert_true(is(&t.group, "consumer1"));
	assert_true(is(&t.filter, "sport/tennis/+"));
	assert_int_equal(sub("$share/g//finance", &t), 0);
	assert_true(is(&t.group, "g"));
	assert_true(is(&t.filter, "/finance"));
	assert_int_equal(sub("$share/g/#", &t), 0);
	assert_true(is(&t.filter, "#"));
	assert_int_equal(sub("$share/g/$SYS/#", &t), 0);
	assert_true(is(&t.filter, "$SYS/#"));
	assert_int_equal(sub("$queue/a/+", &t), 0);
	assert_true(t.shared);
	assert_true(is(&t.group, "$queue"));
	assert_true(is(&t.filter, "a/+"));
}

static void
what_only_looks_shared_is_a_plain_filter(void **state UNUSED)
{
	static const char *const plain[] = {
		"$share", "$queue", "$shared/g/a", "$SHARE/g/a", "a/$share/b",
		"/$share/g/a", "$SYS/#", "+/g/a", "a",
	};
	struct topic_sub t;
	size_t	i;

	for (i = 0; i < NELEM(plain); i++) {
		assert_int_equal(sub(plain[i], &t), 0);
		assert_false(t.shared);
		assert_int_equal(t.group.len, 0);
		assert_true(is(&t.filter, plain[i]));
	}
}

static void
a_share_without_a_name_or_a_filter_is_none(void **state UNUSED)
{						/* MQTT-4.8.2-1, -2 */
	static const char *const bad[] = {
		"$share/", "$share//", "$share//t", "$share/g", "$share/g/",
		"$share/+/t", "$share/#/t", "$share/#", "$share/+",
		"$share/a+b/t", "$share/a#b/t", "$share/g/a#", "$share/g/a/#/b",
		"$queue/", "$queue/a#", "",
	};
	struct topic_sub t = { .shared = true, .group = { NULL, 77 } };
	size_t	i;

	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(sub(bad[i], &t), ERR_INVAL);
	assert_int_equal(sub("$share/\xff/t", &t), ERR_PROTO);
	assert_int_equal(sub("$share/g/\xff", &t), ERR_PROTO);
	assert_int_equal(sub("$share/\xff", &t), ERR_PROTO);
	assert_int_equal(t.group.len, 77);		/* untouched */
	assert_int_equal(topic_sub_parse("$share/g/a/b", 12, 2, &t), 0);
	assert_int_equal(topic_sub_parse("$share/g/a/b", 12, 1, &t), ERR_FULL);
}

/* --- Matching ------------------------------------------------------------ */

static bool
matches(const char *f, const char *t)
{
	uint8_t	*fe = exact(f, strlen(f)), *te = exact(t, strlen(t));
	bool	 yes = topic_matches(fe, strlen(f), te, strlen(t));

	free(fe);
	free(te);
	return yes;
}

static void
a_multi_level_wildcard_matches_the_parent_and_all_below(void **state UNUSED)
{						/* 4.7.1.2 */
	assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1"));
	assert_true(matches("sport/tennis/player1/#",
	    "sport/tennis/player1/ranking"));
	assert_true(matches("sport/tennis/player1/#",
	    "sport/tennis/player1/score/wimbledon"));
	assert_true(matches("sport/#", "sport"));
	assert_true(matches("sport/#", "sport/"));
	assert_false(matches("sport/#", "sports"));
	assert_false(matches("sport/#", "spor"));
	assert_true(matches("#", "a"));
	assert_true(matches("#", "/"));
	assert_true(matches("/#", "/"));
	assert_true(matches("/#", "/a"));
	assert_false(matches("/#", "a"));
	assert_true(matches("+/#", "a"));
	assert_true(matches("a/+/#", "a/b"));
	assert_false(matches("a/+/#", "a"));
}

static void
a_single_level_wildcard_matches_one_level(void **state UNUSED)
{						/* 4.7.1.3 */
	assert_true(matches("sport/tennis/+", "sport/tennis/player1"));
	assert_false(matches("sport/tennis/+", "sport/tennis/player1/ranking"));
	assert_false(matches("sport/+", "sport"));
	assert_true(matches("sport/+", "sport/"));
	assert_true(matches("+/+", "/finance"));
	assert_true(matches("/+", "/finance"));
	assert_false(matches("+", "/finance"));
	assert_true(matches("a/+/c", "a//c"));
	assert_true(matches("+/", "a/"));
	assert_false(matches("+/", "a"));
}

static void
wildcards_do_not_match_a_leading_dollar(void **state UNUSED)
{						/* MQTT-4.7.2-1 */
	assert_false(matches("#", "$SYS/a"));
	assert_false(matches("+/monitor/Clients", "$SYS/monitor/Clients"));
	assert_false(matches("+", "$SYS"));
	assert_true(matches("$SYS/#", "$SYS/a"));
	assert_true(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
	assert_true(matches("$SYS/#", "$SYS"));
	assert_true(matches("a/+", "a/$SYS"));
	assert_true(matches("#", "a/$SYS"));
}

static void
names_match_byte_for_byte(void **state UNUSED)
{						/* MQTT-4.7.3-4 */
	assert_true(matches("a/b", "a/b"));
	assert_false(matches("ACCOUNTS", "Accounts"));
	assert_false(matches("/finance", "finance"));
	assert_false(matches("a", "a/"));
	assert_false(matches("a/", "a"));
	assert_false(matches("a", "ab"));
	assert_false(matches("ab", "a"));
	assert_false(matches("\xc3\x85", "A\xcc\x8a"));
	assert_false(matches("a/b/c", "a/b"));
	assert_false(matches("a/b", "a/b/c"));
}

static uint64_t
next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* A few levels out of few words, so that many pairs match. */
static void
random_topic(uint64_t *seed, bool is_filter, char *s, size_t size)
{
	static const char *const words[] = {
		"", "a", "b", "ab", "$a", "$", "\xc3\xa9", "abcdefghij",
	};
	unsigned	levels = 1 + (unsigned)(next_random(seed) % 6), i;
	const char	*w;
	size_t		n = 0;

	for (i = 0; i < levels; i++) {
		w = words[next_random(seed) % NELEM(words)];
		if (is_filter && next_random(seed) % 4 == 0)
			w = "+";
		if (is_filter && i + 1 == levels && next_random(seed) % 3 == 0)
			w = "#";
		n += (size_t)snprintf(s + n, size - n, "%s%s", i ? "/" : "",
		    w);
	}
	if (n == 0)
		snprintf(s, size, "a");
}

/* What the shape says must be what the text says. */
static void
check_shape(const char *f)
{
	struct topic_shape shape;
	struct slice	level;
	size_t		len = strlen(f), at = 0;
	unsigned	n = 0, all = 0;

	topic_shape(f, len, &shape);
	assert_int_equal(shape.exact, !topic_has_wildcard(f, len));
	assert_int_equal(shape.anchor_levels + shape.levels + shape.hash,
	    topic_levels(f, len));
	assert_false(topic_has_wildcard(f, shape.anchor_len));
	while (topic_level_next(f, len, &at, &level)) {
		assert_in_range(level.data - (const uint8_t *)f, 0, len);
		if (all++ < shape.anchor_levels)
			continue;
		if (n == 0)
			assert_int_equal(level.data - (const uint8_t *)f,
			    topic_shape_offset(&shape));
		if (n < shape.levels)
			assert_int_equal(shape.plus >> n & 1,
			    is(&level, "+"));
		else
			assert_true(is(&level, "#"));
		n++;
	}
	assert_int_equal(n, shape.levels + shape.hash);
}

static void
matching_agrees_with_a_second_matcher(void **state UNUSED)
{
	uint64_t	seed = 0x9e3779b97f4a7c15;
	char		f[128], t[128];
	unsigned	i, yes = 0;

	for (i = 0; i < 200000; i++) {
		random_topic(&seed, true, f, sizeof(f));
		random_topic(&seed, false, t, sizeof(t));
		assert_int_equal(topic_filter_check(f, strlen(f), 0), 0);
		assert_int_equal(topic_name_check(t, strlen(t), 0), 0);
		if (topic_matches(f, strlen(f), t, strlen(t)) !=
		    naive_matches(f, t, true))
			fail_msg("filter '%s', topic '%s'", f, t);
		yes += naive_matches(f, t, true);
		if (i % 16 == 0)
			check_shape(f);
	}
	assert_in_range(yes, 10000, 190000);	/* else it shows nothing */
}

/* --- Shapes -------------------------------------------------------------- */

static void
a_filter_is_an_anchor_and_a_shape(void **state UNUSED)
{
	static const struct {
		const char	*filter;
		uint32_t	 anchor_len, anchor_levels, levels;
		uint64_t	 plus;
		bool		 hash, exact;
		size_t		 offset;
	} want[] = {
		{ "a/b", 3, 2, 0, 0, false, true, 3 },
		{ "a", 1, 1, 0, 0, false, true, 1 },
		{ "/", 1, 2, 0, 0, false, true, 1 },
		{ "a/+/c/+", 1, 1, 3, 5, false, false, 2 },
		{ "a/+/#", 1, 1, 1, 1, true, false, 2 },
		{ "a/#", 1, 1, 0, 0, true, false, 2 },
		{ "#", 0, 0, 0, 0, true, false, 0 },
		{ "+", 0, 0, 1, 1, false, false, 0 },
		{ "/+", 0, 1, 1, 1, false, false, 1 },
		{ "//+", 1, 2, 1, 1, false, false, 2 },
		{ "+/a/+/b", 0, 0, 4, 5, false, false, 0 },
		{ "a/b/+/c", 3, 2, 2, 1, false, false, 4 },
	};
	struct topic_shape s;
	size_t	i;

	for (i = 0; i < NELEM(want); i++) {
		topic_shape(want[i].filter, strlen(want[i].filter), &s);
		assert_int_equal(s.anchor_len, want[i].anchor_len);
		assert_int_equal(s.anchor_levels, want[i].anchor_levels);
		assert_int_equal(s.levels, want[i].levels);
		assert_int_equal(s.plus, want[i].plus);
		assert_int_equal(s.hash, want[i].hash);
		assert_int_equal(s.exact, want[i].exact);
		assert_int_equal(topic_shape_offset(&s), want[i].offset);
		check_shape(want[i].filter);
	}
}

static void
a_shape_counts_beyond_its_mask(void **state UNUSED)
{
	char	f[256];
	struct topic_shape s;
	size_t	i;

	for (i = 0; i < 100; i++)
		memcpy(f + 2 * i, "+/", 2);
	f[200] = '#';
	topic_shape(f, 201, &s);
	assert_int_equal(s.levels, 100);
	assert_true(s.plus == UINT64_MAX);
	assert_true(s.hash);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(utf8_is_the_shortest_form_and_no_surrogate),
		cmocka_unit_test(utf8_has_no_nul),
		cmocka_unit_test(utf8_may_have_what_only_should_not_be_there),
		cmocka_unit_test(utf8_agrees_with_the_definition),
		cmocka_unit_test(a_name_is_a_string_without_wildcards),
		cmocka_unit_test(an_odd_byte_is_seen_wherever_it_stands),
		cmocka_unit_test(a_name_has_at_most_65535_bytes),
		cmocka_unit_test(levels_are_counted),
		cmocka_unit_test(
		    a_multi_level_wildcard_is_the_whole_last_level),
		cmocka_unit_test(a_single_level_wildcard_is_a_whole_level),
		cmocka_unit_test(a_filter_is_a_string_of_at_least_one_byte),
		cmocka_unit_test(
		    a_share_name_and_a_filter_make_a_shared_subscription),
		cmocka_unit_test(what_only_looks_shared_is_a_plain_filter),
		cmocka_unit_test(a_share_without_a_name_or_a_filter_is_none),
		cmocka_unit_test(
		    a_multi_level_wildcard_matches_the_parent_and_all_below),
		cmocka_unit_test(a_single_level_wildcard_matches_one_level),
		cmocka_unit_test(wildcards_do_not_match_a_leading_dollar),
		cmocka_unit_test(names_match_byte_for_byte),
		cmocka_unit_test(matching_agrees_with_a_second_matcher),
		cmocka_unit_test(a_filter_is_an_anchor_and_a_shape),
		cmocka_unit_test(a_shape_counts_beyond_its_mask),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

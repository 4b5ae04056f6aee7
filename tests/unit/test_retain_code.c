/* retain/code.h: there and back, and what is damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "retain/code.h"

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

static struct retain_msg
message(void)
{
	return (struct retain_msg){
		.topic = text("a/b"), .client_id = text("me"),
		.props = text("props"), .payload = text("something"), .qos = 1,
		.version_hi = 0x0102030405060708u, .version_lo = 1, .id_hi = 3,
		.id_lo = UINT64_MAX, .pos = 10
	};
}

static void
what_is_written_is_read(void **state UNUSED)
{
	struct retain_msg m = message(), out;
	uint8_t		  buf[256], again[256];
	long		  n;
	size_t		  i;

	m.deadline_ms = 77;
	n = retain_encode(buf, sizeof(buf), &m);
	assert_int_equal(n, RETAIN_HEADER + 3 + 2 + 5 + 9);
	assert_int_equal(n, retain_encoded_size(&m));
	assert_int_equal(buf[0], 8);
	assert_int_equal(buf[32], 77);
	assert_int_equal(buf[40], 3);
	assert_int_equal(retain_encode(buf, (size_t)n - 1, &m), ERR_FULL);
	assert_int_equal(retain_decode(buf, (size_t)n, &out), 0);
	assert_int_equal(out.deadline_ms, 77);
	assert_int_equal(out.id_lo, m.id_lo);
	assert_int_equal(out.qos, m.qos);
	assert_int_equal(out.pos, 0);
	assert_int_equal(retain_encode(again, sizeof(again), &out), n);
	assert_memory_equal(buf, again, (size_t)n);
	for (i = 0; i < (size_t)n; i++)
		assert_int_equal(retain_decode(buf, i, &out), ERR_CORRUPT);
	assert_int_equal(retain_decode(buf, (size_t)n + 1, &out), ERR_CORRUPT);

	m.payload.len = 0;			/* a delete */
	n = retain_encode(buf, sizeof(buf), &m);
	assert_int_equal(retain_decode(buf, (size_t)n, &out), 0);
	assert_int_equal(out.payload.len, 0);
	m.qos = 3;
	assert_int_equal(retain_encode(buf, sizeof(buf), &m), ERR_INVAL);
	m.qos = 0;
	m.topic.len = 0;
	assert_int_equal(retain_encode(buf, sizeof(buf), &m), ERR_INVAL);
}

static void
damaged_bytes_are_refused(void **state UNUSED)
{
	static const struct {
		size_t	at;
		uint8_t	value;
	} rows[] = {
		{ 40, 0 }, { 40, 4 }, { 41, 1 }, { 42, 1 }, { 43, 1 },
		{ 44, 1 }, { 47, 0xff }, { 48, 8 }, { 51, 0xff }, { 52, 3 },
		{ 53, 0 }, { 53, 2 }, { 54, 1 }, { 55, 1 },
		{ 56, '+' }, { 57, '#' }, { 58, 0 }, { 58, 0xff },
	};
	struct retain_msg m = message(), out = { .pos = 99 };
	uint8_t		  buf[256];
	long		  n = retain_encode(buf, sizeof(buf), &m);
	uint8_t		  was;
	unsigned	  i;

	for (i = 0; i < NELEM(rows); i++) {
		was = buf[rows[i].at];
		assert_int_not_equal(was, rows[i].value);
		buf[rows[i].at] = rows[i].value;
		assert_int_equal(retain_decode(buf, (size_t)n, &out),
		    ERR_CORRUPT);
		assert_int_equal(out.pos, 99);
		buf[rows[i].at] = was;
	}
	assert_int_equal(retain_decode(buf, (size_t)n, &out), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(damaged_bytes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

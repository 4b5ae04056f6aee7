#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/err.h"
#include "proto/record.h"

#define S(text)		{ (const uint8_t *)(text), sizeof(text) - 1 }

static const struct record sample = {
	.id = { 0x0102030405060708, 0x1112131415161718 },
	.expiry_s = 60,
	.flags = 1 | RECORD_RETAIN | RECORD_LIVE | RECORD_SUBS |
	    3 << RECORD_HOPS_SHIFT,
	.topic = S("a/b"),
	.client_id = S("me"),
	.properties = S("\x03\x00\x01t"),
	.payload = S("hello"),
};

static void
assert_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.len, b.len);
	if (a.len > 0)
		assert_memory_equal(a.data, b.data, a.len);
}

static void
assert_same(const struct record *a, const struct record *b)
{
	assert_int_equal(msgid_cmp(a->id, b->id), 0);
	assert_int_equal(a->expiry_s, b->expiry_s);
	assert_int_equal(a->flags, b->flags);
	assert_slice(a->ext, b->ext);
	assert_slice(a->topic, b->topic);
	assert_slice(a->client_id, b->client_id);
	assert_slice(a->properties, b->properties);
	assert_slice(a->payload, b->payload);
}

/* The wire is decided: these are its bytes. */
static void
the_header_is_as_it_was_decided(void **state UNUSED)
{
	static const uint8_t want[] =
	    "\x01\x02\x03\x04\x05\x06\x07\x08"
	    "\x11\x12\x13\x14\x15\x16\x17\x18"
	    "\x36\x00\x00\x00" "\x05\x00\x00\x00" "\x3c\x00\x00\x00"
	    "\x03\x00" "\x02\x00" "\x04\x00\x00\x00" "\x2d\x03" "\x00\x00"
	    "a/b" "me" "\x03\x00\x01t" "hello";
	uint8_t buf[128];

	assert_int_equal(record_put(buf, sizeof(buf), &sample), 54);
	assert_int_equal(sizeof(want) - 1, 54);
	assert_memory_equal(buf, want, 54);
}

static void
what_is_written_is_read(void **state UNUSED)
{
	struct record	   a = sample, b = sample, r;
	struct record_iter it;
	uint8_t		   buf[512];
	long		   n, m;

	b.payload.len = 0;
	b.id.lo++;
	b.flags = 2 | RECORD_DURABLE | RECORD_GROUPS;
	n = record_put(buf, sizeof(buf), &a);
	m = record_put(buf + n, sizeof(buf) - (size_t)n, &b);
	record_iter_init(&it, buf, (size_t)(n + m), NULL, 0, 2);
	assert_int_equal(record_next(&it, &r), 1);
	assert_same(&r, &a);
	assert_int_equal(record_qos(&r), 1);
	assert_int_equal(record_hops(&r), 3);
	assert_int_equal(record_next(&it, &r), 1);
	assert_same(&r, &b);
	assert_int_equal(record_next(&it, &r), 0);
}

static void
a_buffer_too_small_by_one_byte_is_refused(void **state UNUSED)
{
	uint8_t buf[54];

	assert_int_equal(record_put(buf, 53, &sample), ERR_FULL);
	assert_int_equal(record_put(buf, 54, &sample), 54);
}

static void
lengths_beyond_their_fields_are_refused(void **state UNUSED)
{
	static uint8_t	big[70000];
	struct record	r = sample;
	uint8_t		buf[64];

	r.topic = (struct slice){ big, 65536 };
	assert_int_equal(record_put(buf, sizeof(buf), &r), ERR_INVAL);
	r = sample;
	r.client_id = (struct slice){ big, 65536 };
	assert_int_equal(record_put(buf, sizeof(buf), &r), ERR_INVAL);
	r = sample;
	r.payload.len = RECORD_FIELD_MAX + 1;
	assert_int_equal(record_put(buf, sizeof(buf), &r), ERR_INVAL);
	r = sample;
	r.flags = 3;
	assert_int_equal(record_put(buf, sizeof(buf), &r), ERR_INVAL);
	r = sample;
	r.ext = (struct slice){ (const uint8_t *)"\x01\x00\x02\x00x", 5 };
	assert_int_equal(record_put(buf, sizeof(buf), &r), ERR_INVAL);
}

static void
every_cut_and_every_wrong_count_is_refused(void **state UNUSED)
{
	struct record_iter it;
	struct record	   r;
	uint8_t		   buf[128], *cut;
	size_t		   n = (size_t)record_put(buf, sizeof(buf), &sample), i;

	for (i = 0; i < n; i++) {
		cut = malloc(i ? i : 1);	/* for a sanitizer */
		memcpy(cut, buf, i);
		record_iter_init(&it, cut, i, NULL, 0, 1);
		assert_int_equal(record_next(&it, &r), ERR_PROTO);
		free(cut);
	}
	record_iter_init(&it, buf, n, NULL, 0, 0);	/* one too many there */
	assert_int_equal(record_next(&it, &r), ERR_PROTO);
	record_iter_init(&it, buf, n, NULL, 0, 2);
	assert_int_equal(record_next(&it, &r), 1);
	assert_int_equal(record_next(&it, &r), ERR_PROTO);
	record_iter_init(&it, buf, n + 1, NULL, 0, 1);	/* bytes left over */
	assert_int_equal(record_next(&it, &r), 1);
	assert_int_equal(record_next(&it, &r), ERR_PROTO);
	record_iter_init(&it, NULL, 0, NULL, 0, 0);
	assert_int_equal(record_next(&it, &r), 0);
}

static void
every_wrong_length_is_refused(void **state UNUSED)
{
	static const size_t at[] = { 16, 20, 28, 30, 32, 38 };
	struct record_iter  it;
	struct record	    r;
	uint8_t		    buf[128];
	size_t		    n, i;

	for (i = 0; i < NELEM(at); i++) {
		n = (size_t)record_put(buf, sizeof(buf), &sample);
		buf[at[i]]++;
		record_iter_init(&it, buf, n, NULL, 0, 1);
		assert_int_equal(record_next(&it, &r), ERR_PROTO);
		buf[at[i]] = (uint8_t)(buf[at[i]] - 2);
		record_iter_init(&it, buf, n, NULL, 0, 1);
		assert_int_equal(record_next(&it, &r), ERR_PROTO);
		if (at[i] == 28 || at[i] == 30 || at[i] == 38)
			continue;
		memset(buf + at[i], 0xff, 4);
		record_iter_init(&it, buf, n, NULL, 0, 1);
		assert_int_equal(record_next(&it, &r), ERR_PROTO);
	}
	n = (size_t)record_put(buf, sizeof(buf), &sample);
	buf[36] |= 3;
	record_iter_init(&it, buf, n, NULL, 0, 1);
	assert_int_equal(record_next(&it, &r), ERR_PROTO);
}

static void
a_large_record_leaves_its_payload_apart(void **state UNUSED)
{
	static uint8_t	   payload[100000];
	struct record	   r = sample, got;
	struct record_iter it;
	uint8_t		   buf[128];
	long		   n;

	payload[99999] = 'z';
	r.payload = (struct slice){ payload, sizeof(payload) };
	assert_true(record_is_alone(&r));
	assert_int_equal(record_size(&r), 49 + 100000);
	n = record_put(buf, sizeof(buf), &r);
	assert_int_equal(n, 49);
	assert_int_equal((size_t)n, record_body_size(&r));

	record_iter_init(&it, buf, 49, payload, sizeof(payload), 1);
	assert_int_equal(record_next(&it, &got), 1);
	assert_same(&got, &r);
	assert_ptr_equal(got.payload.data, payload);
	assert_int_equal(record_next(&it, &got), 0);

	/* The third part missing, of another length, or one too many. */
	record_iter_init(&it, buf, 49, NULL, 0, 1);
	assert_int_equal(record_next(&it, &got), ERR_PROTO);
	record_iter_init(&it, buf, 49, payload, 99999, 1);
	assert_int_equal(record_next(&it, &got), ERR_PROTO);
	n = record_put(buf, sizeof(buf), &sample);
	record_iter_init(&it, buf, (size_t)n, payload, 5, 1);
	assert_int_equal(record_next(&it, &got), 1);
	assert_int_equal(record_next(&it, &got), ERR_PROTO);
}

static void
large_properties_stay_in_one_part(void **state UNUSED)
{
	static uint8_t	   props[90000], buf[100000];
	struct record	   r = sample, got;
	struct record_iter it;
	long		   n;

	r.properties = (struct slice){ props, sizeof(props) };
	r.payload.len = 0;
	assert_true(record_is_alone(&r));
	n = record_put(buf, sizeof(buf), &r);
	assert_int_equal(n, record_size(&r));
	record_iter_init(&it, buf, (size_t)n, NULL, 0, 1);
	assert_int_equal(record_next(&it, &got), 1);
	assert_same(&got, &r);
}

static void
unknown_flags_are_not_told(void **state UNUSED)
{
	struct record	   r = sample, got;
	struct record_iter it;
	uint8_t		   buf[128];
	long		   n;

	r.flags |= 0x8000 | RECORD_DETACHED;
	n = record_put(buf, sizeof(buf), &r);
	buf[37] |= 0x80;
	record_iter_init(&it, buf, (size_t)n, NULL, 0, 1);
	assert_int_equal(record_next(&it, &got), 1);
	assert_int_equal(got.flags, sample.flags);
}

static void
extensions_are_walked_and_checked(void **state UNUSED)
{
	struct record	   r = sample, got;
	struct record_iter it;
	uint8_t		   ext[64], buf[256];
	size_t		   len = 0, at = 0;
	uint16_t	   type;
	struct slice	   v;
	long		   n;

	assert_int_equal(record_ext_put(ext, sizeof(ext), &len, EXT_GROUP,
	    "0123456789abcdef", 16), 0);
	assert_int_equal(record_ext_put(ext, sizeof(ext), &len, 999, "", 0), 0);
	assert_int_equal(record_ext_put(ext, sizeof(ext), &len, EXT_GROUP,
	    "fedcba9876543210", 16), 0);
	assert_int_equal(len, 44);
	assert_int_equal(record_ext_put(ext, 47, &len, 1, "", 0), ERR_FULL);
	r.ext = (struct slice){ ext, len };
	n = record_put(buf, sizeof(buf), &r);
	record_iter_init(&it, buf, (size_t)n, NULL, 0, 1);
	assert_int_equal(record_next(&it, &got), 1);
	assert_same(&got, &r);
	assert_int_equal(record_ext_next(&got, &at, &type, &v), 1);
	assert_int_equal(type, EXT_GROUP);
	assert_memory_equal(v.data, "0123456789abcdef", 16);
	assert_int_equal(record_ext_next(&got, &at, &type, &v), 1);
	assert_int_equal(type, 999);
	assert_int_equal(v.len, 0);
	assert_int_equal(record_ext_next(&got, &at, &type, &v), 1);
	assert_int_equal(record_ext_next(&got, &at, &type, &v), 0);

	buf[RECORD_HEADER + 2]++;	/* a value that runs over the end */
	record_iter_init(&it, buf, (size_t)n, NULL, 0, 1);
	assert_int_equal(record_next(&it, &got), ERR_PROTO);
}

static void
it_lives_as_long_as_it_was_given(void **state UNUSED)
{
	struct record r = { .id = { 5999 * UINT64_C(1000000) + 7, 1 },
			    .expiry_s = 2 };

	assert_int_equal(record_deadline_ms(&r, 5999), 7999);
	assert_int_equal(record_expiry_left(&r, 5999), 2);
	assert_int_equal(record_expiry_left(&r, 6998), 2);
	assert_int_equal(record_expiry_left(&r, 6999), 1);
	assert_int_equal(record_expiry_left(&r, 7998), 1);
	assert_int_equal(record_expiry_left(&r, 7999), 0);
	assert_int_equal(record_expiry_left(&r, 70000), 0);
	/* The clock of who made it is ahead, or it has no id. */
	assert_int_equal(record_deadline_ms(&r, 4000), 6000);
	r.id.hi = 0;
	assert_int_equal(record_deadline_ms(&r, 70000), 72000);
	r.expiry_s = RECORD_NO_EXPIRY;
	assert_int_equal(record_deadline_ms(&r, 1), 0);
	assert_int_equal(record_expiry_left(&r, 1), RECORD_NO_EXPIRY);
	assert_int_equal(expiry_left(UINT64_MAX, 1), RECORD_NO_EXPIRY - 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_header_is_as_it_was_decided),
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(a_buffer_too_small_by_one_byte_is_refused),
		cmocka_unit_test(lengths_beyond_their_fields_are_refused),
		cmocka_unit_test(every_cut_and_every_wrong_count_is_refused),
		cmocka_unit_test(every_wrong_length_is_refused),
		cmocka_unit_test(a_large_record_leaves_its_payload_apart),
		cmocka_unit_test(large_properties_stay_in_one_part),
		cmocka_unit_test(unknown_flags_are_not_told),
		cmocka_unit_test(extensions_are_walked_and_checked),
		cmocka_unit_test(it_lives_as_long_as_it_was_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

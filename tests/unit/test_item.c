/* proto/item: in one piece, in parts, and what does not fit together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/item.h"

static struct slice
slice(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

static void
expect_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.len, b.len);
	if (a.len > 0)
		assert_memory_equal(a.data, b.data, a.len);
}

static uint8_t bytes[300000];

static struct item_row
large(size_t props, size_t payload)
{
	struct item_row it = {
		.kind = ITEM_MESSAGE, .client_id = slice("client"),
		.topic = slice("a/b/c"), .ids = { bytes + 7, 8 },
		.offset = UINT64_C(1) << 60, .state = ITEM_SENT, .qos = 2,
		.retain = true, .deadline_ms = 77,
		.props = { bytes, props }, .payload = { bytes + 1000, payload },
	};

	return it;
}

static void
fill_bytes(void)
{
	size_t i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 + i / 251);
}

/* it through buffers of size bytes; returns how many it took. */
static unsigned
carry(struct item_row it, size_t size)
{
	struct item_join j = { .have = 0 };
	struct item_row	 got, want = it;
	struct wire_out	 w;
	struct wire_in	 in;
	uint8_t		*buf = malloc(size);
	unsigned	 n = 0;
	int		 rc = 0;

	while (rc == 0) {
		wire_out_init(&w, buf, size);
		assert_int_equal(item_put(&w, ITEMS_FIELD, &it, true), 0);
		wire_in_init(&in, buf, wire_out_len(&w));
		assert_int_equal(items_next(&in, &got), 1);
		assert_int_equal(items_next(&in, &got), 0);
		rc = item_join(&j, &got, SIZE_MAX);
		assert_true(rc >= 0);
		assert_int_equal(item_join_waits(&j), rc == 0);
		n++;
	}
	assert_int_equal(it.at, item_size(&it));
	assert_int_equal(got.kind, want.kind);
	assert_true(got.offset == want.offset);
	assert_int_equal(got.deadline_ms, want.deadline_ms);
	assert_true(got.retain);
	expect_slice(got.client_id, want.client_id);
	expect_slice(got.topic, want.topic);
	expect_slice(got.ids, want.ids);
	expect_slice(got.props, want.props);
	expect_slice(got.payload, want.payload);
	item_join_clear(&j);
	free(buf);
	return n;
}

static void
items_arrive_in_any_number_of_parts(void **state UNUSED)
{
	fill_bytes();
	assert_int_equal(carry(large(0, 0), 2000), 1);
	assert_int_equal(carry(large(10, 0), 2000), 1);
	assert_int_equal(carry(large(10, 500), 2000), 1);
	assert_true(carry(large(0, 5000), 2000) > 2);
	assert_true(carry(large(5000, 0), 2000) > 2);
	assert_true(carry(large(5000, 1), 2000) > 2);
	assert_true(carry(large(5000, 200000), 2000) > 50);
	assert_true(carry(large(1, 200000), 60000) > 3);
}

static void
no_part_without_leave(void **state UNUSED)
{
	struct item_row	it = large(0, 5000);
	struct wire_out	w;
	uint8_t		buf[4000];

	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(item_put(&w, ITEMS_FIELD, &it, false), ERR_FULL);
	assert_int_equal(wire_out_len(&w), 0);
	assert_int_equal(it.at, 0);
	/* Too little room is none. */
	wire_out_init(&w, buf, 900);
	assert_int_equal(item_put(&w, ITEMS_FIELD, &it, true), ERR_FULL);
	assert_int_equal(wire_out_len(&w), 0);
}

static struct item_row
part(uint32_t at, size_t n, uint32_t all)
{
	struct item_row it = {
		.kind = ITEM_RETAINED, .payload_len = all, .at = at,
		.payload = { bytes + at, n },
	};

	if (at == 0)
		it.topic = slice("t");
	return it;
}

static void
parts_must_fit_together(void **state UNUSED)
{
	struct item_join j = { .have = 0 };
	struct item_row	 a = part(0, 10, 30), b = part(10, 10, 30),
			 c = part(20, 10, 30), x;

	x = b;				/* no beginning */
	assert_int_equal(item_join(&j, &x, 100), ERR_PROTO);
	x = a;
	assert_int_equal(item_join(&j, &x, 100), 0);
	x = c;				/* one is missing */
	assert_int_equal(item_join(&j, &x, 100), ERR_PROTO);
	x = b;				/* all is forgotten */
	assert_int_equal(item_join(&j, &x, 100), ERR_PROTO);
	x = a;
	assert_int_equal(item_join(&j, &x, 100), 0);
	x = part(10, 10, 31);		/* of another one */
	assert_int_equal(item_join(&j, &x, 100), ERR_PROTO);
	x = a;
	assert_int_equal(item_join(&j, &x, 100), 0);
	x = part(10, 0, 30);		/* for ever */
	assert_int_equal(item_join(&j, &x, 100), ERR_PROTO);
	x = a;
	assert_int_equal(item_join(&j, &x, 29), ERR_FULL);
	/* A new beginning, also of a whole one, ends what was under way. */
	x = a;
	assert_int_equal(item_join(&j, &x, 30), 0);
	x = a;
	assert_int_equal(item_join(&j, &x, 30), 0);
	x = b;
	assert_int_equal(item_join(&j, &x, 30), 0);
	x = c;
	assert_int_equal(item_join(&j, &x, 30), 1);
	expect_slice(x.topic, slice("t"));
	expect_slice(x.payload, (struct slice){ bytes, 30 });
	x = c;				/* it is over */
	assert_int_equal(item_join(&j, &x, 30), ERR_PROTO);
	x = a;
	assert_int_equal(item_join(&j, &x, 30), 0);
	x = part(0, 30, 30);
	assert_int_equal(item_join(&j, &x, 30), 1);
	assert_false(item_join_waits(&j));
	item_join_clear(&j);
}

static void
lengths_that_lie_are_refused(void **state UNUSED)
{
	static const struct {
		uint32_t	props_len, payload_len, at;
		size_t		props, payload;
		int		rc;
	} t[] = {
		{ 4, 4, 0, 4, 4, 1 },
		{ 4, 4, 0, 4, 0, 1 },
		{ 4, 4, 2, 2, 1, 1 },
		{ 4, 4, 4, 0, 4, 1 },
		{ 4, 4, 8, 0, 0, 1 },
		{ 4, 4, 0, 5, 0, ERR_PROTO },
		{ 4, 4, 0, 4, 5, ERR_PROTO },
		{ 4, 4, 9, 0, 0, ERR_PROTO },
		{ 4, 4, 5, 0, 4, ERR_PROTO },
		{ 4, 4, 2, 3, 0, ERR_PROTO },	/* properties too long */
		{ 4, 4, 0, 3, 1, ERR_PROTO },	/* payload too early */
		{ 4, 4, UINT32_MAX, 1, 0, ERR_PROTO },
	};
	struct item_row	it;
	struct wire_out	w;
	struct wire_in	in;
	uint8_t		buf[200];
	size_t		i, mark;

	for (i = 0; i < NELEM(t); i++) {
		wire_out_init(&w, buf, sizeof(buf));
		mark = wire_open(&w, ITEMS_FIELD);
		wire_put_uint(&w, 1, ITEM_MESSAGE);
		wire_put_uint(&w, 17, t[i].props_len);
		wire_put_uint(&w, 18, t[i].payload_len);
		wire_put_uint(&w, 19, t[i].at);
		wire_put_bytes(&w, 20, (struct slice){ bytes, t[i].props });
		wire_put_bytes(&w, 21, (struct slice){ bytes, t[i].payload });
		wire_close(&w, mark);
		wire_in_init(&in, buf, wire_out_len(&w));
		assert_int_equal(items_next(&in, &it), t[i].rc);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(items_arrive_in_any_number_of_parts),
		cmocka_unit_test(no_part_without_leave),
		cmocka_unit_test(parts_must_fit_together),
		cmocka_unit_test(lengths_that_lie_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

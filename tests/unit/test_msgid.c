#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "proto/msgid.h"

static void
ids_rise_also_when_the_sequence_wraps(void **state UNUSED)
{
	struct msgid_gen g;
	struct msgid	 last, id;
	uint64_t	 now = 1000;
	int		 i;

	msgid_init(&g, 7, 0xdeadbeef, now);
	last = msgid_next(&g);
	for (i = 0; i < 100000000; i++) {
		/* Turns of every length, on a clock that mostly stands. */
		if (i % 100003 == 0)
			msgid_turn(&g, now += (uint64_t)(i % 2));
		id = msgid_next(&g);
		if (msgid_cmp(id, last) <= 0)
			fail_msg("id %d is not above the one before", i);
		last = id;
	}
	assert_int_equal(last.lo >> 48, 7);
	assert_int_equal((last.lo >> 16) & 0xffffffff, 0xdeadbeef);
}

static void
a_clock_that_steps_back_breaks_nothing(void **state UNUSED)
{
	struct msgid_gen g;
	struct msgid	 a, b, c;

	msgid_init(&g, 0, 1, 1000000);
	a = msgid_next(&g);
	assert_int_equal(msgid_turn(&g, 10), 1000001);
	b = msgid_next(&g);
	assert_true(msgid_cmp(a, b) < 0);
	assert_int_equal(b.hi, 1000001);
	assert_int_equal(msgid_turn(&g, 2000000), 2000000);
	c = msgid_next(&g);
	assert_true(msgid_cmp(b, c) < 0);
	assert_int_equal(c.hi, 2000000);
}

static void
a_clock_that_advances_is_taken_as_it_is(void **state UNUSED)
{
	struct msgid_gen g;

	msgid_init(&g, 0, 1, 5);
	(void)msgid_next(&g);
	assert_int_equal(msgid_turn(&g, 6), 6);
	assert_int_equal(msgid_turn(&g, 6), 6);	/* no id since */
	(void)msgid_next(&g);
	assert_int_equal(msgid_turn(&g, 6), 7);
}

static void
another_clock_raises_ours_but_never_lowers_it(void **state UNUSED)
{
	struct msgid_gen g;

	msgid_init(&g, 0, 1, 100);
	msgid_witness(&g, 50);
	assert_int_equal(msgid_next(&g).hi, 100);
	msgid_witness(&g, 500);
	assert_int_equal(msgid_next(&g).hi, 500);
}

static void
bytes_sort_as_ids_do(void **state UNUSED)
{
	struct msgid a = { 1, UINT64_MAX }, b = { 2, 0 };
	uint8_t	     x[MSGID_LEN], y[MSGID_LEN];

	msgid_put(x, a);
	msgid_put(y, b);
	assert_true(memcmp(x, y, MSGID_LEN) < 0);
	assert_int_equal(msgid_cmp(msgid_get(x), a), 0);
	assert_int_equal(msgid_cmp(b, a), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_rise_also_when_the_sequence_wraps),
		cmocka_unit_test(a_clock_that_steps_back_breaks_nothing),
		cmocka_unit_test(a_clock_that_advances_is_taken_as_it_is),
		cmocka_unit_test(another_clock_raises_ours_but_never_lowers_it),
		cmocka_unit_test(bytes_sort_as_ids_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* share/pick.h and topic/group.h: who of a group gets a message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "share/pick.h"
#include "topic/group.h"

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s * UINT64_C(0x2545f4914f6cdd1d);
}

static const struct share_slot three[] = { { 0, 1 }, { 4, 5 }, { 9, 2 } };

static void
a_group_is_its_name_and_filter(void **state UNUSED)
{
	struct group_id a = group_id_of("g", 1, "a/b", 3);

	/* For ever the same: other versions and nodes know it by that. */
	assert_true(a.hi == UINT64_C(0x8285744b99726922) && a.lo == UINT64_C(0x89b8038a0a4fc951));
	assert_true(group_id_eq(a, group_id_of("g", 1, "a/b", 3)));
	assert_false(group_id_eq(a, group_id_of("g", 1, "a/c", 3)));
	assert_false(group_id_eq(a, group_id_of("h", 1, "a/b", 3)));
}

static void
turns_are_even_over_members_not_over_processes(void **state UNUSED)
{
	struct share_state	st = { .cursor = UINT32_MAX - 20 };
	unsigned		got[3] = { 0 }, i;

	/* Whole rounds of 8, wherever the cursor is; also where it wraps, as
	 * 8 divides its range. */
	for (i = 0; i < 8 * 100; i++)
		got[share_pick_slot(SHARE_ROUND_ROBIN, &st, three, 3, 0, 0,
		    0)]++;
	assert_int_equal(got[0], 100);
	assert_int_equal(got[1], 500);
	assert_int_equal(got[2], 200);
}

static void
members_take_turns(void **state UNUSED)
{
	unsigned	got[5] = { 0 }, i;
	uint32_t	cursor = 0, m;

	for (i = 0; i < 500; i++) {
		m = share_pick_member(SHARE_ROUND_ROBIN, cursor, 5, 0, 0);
		cursor = share_next_cursor(SHARE_ROUND_ROBIN, m);
		got[m]++;
	}
	for (i = 0; i < 5; i++)
		assert_int_equal(got[i], 100);
}

static void
chance_is_weighed_with_members(void **state UNUSED)
{
	uint64_t	seed = 42;
	unsigned	got[3] = { 0 }, i;

	for (i = 0; i < 80000; i++)
		got[share_pick_slot(SHARE_RANDOM, NULL, three, 3, 0, 0,
		    next_random(&seed))]++;
	assert_in_range(got[0], 9500, 10500);
	assert_in_range(got[1], 49000, 51000);
	assert_in_range(got[2], 19000, 21000);
}

static void
sticky_stays_until_it_goes(void **state UNUSED)
{
	struct share_slot	slots[3];
	struct share_state	st = { .cursor = 0 };
	uint64_t		seed = 7;
	size_t			first, i, next;

	memcpy(slots, three, sizeof(slots));
	first = share_pick_slot(SHARE_STICKY, &st, slots, 3, 0, 0,
	    next_random(&seed));
	for (i = 0; i < 100; i++)
		assert_int_equal(share_pick_slot(SHARE_STICKY, &st, slots, 3,
		    0, 0, next_random(&seed)), first);
	slots[first].members = 0;
	next = share_pick_slot(SHARE_STICKY, &st, slots, 3, 0, 0,
	    next_random(&seed));
	assert_int_not_equal(next, first);
	slots[first].members = 3;		/* back: no reason to change */
	for (i = 0; i < 100; i++)
		assert_int_equal(share_pick_slot(SHARE_STICKY, &st, slots, 3,
		    0, 0, next_random(&seed)), next);
	assert_int_equal(share_next_cursor(SHARE_STICKY, 3), 3);
}

static void
a_hash_always_leads_to_the_same(void **state UNUSED)
{
	uint64_t	seed = 3, h;
	unsigned	got[3] = { 0 }, i;
	size_t		k;

	for (i = 0; i < 8000; i++) {
		h = next_random(&seed);
		k = share_pick_slot(SHARE_HASH_CLIENTID, NULL, three, 3, 0, h,
		    next_random(&seed));
		assert_int_equal(share_pick_slot(SHARE_HASH_TOPIC, NULL, three,
		    3, 9, h, next_random(&seed)), k);
		assert_int_equal(share_pick_member(SHARE_HASH_TOPIC, 1, 5, h,
		    next_random(&seed)), share_pick_member(SHARE_HASH_TOPIC, 2,
		    5, h, next_random(&seed)));
		got[k]++;
	}
	assert_in_range(got[0], 850, 1150);
	assert_in_range(got[1], 4700, 5300);
	assert_in_range(got[2], 1800, 2200);
}

static void
local_members_come_first(void **state UNUSED)
{
	struct share_slot	slots[3];
	struct share_state	st = { .cursor = 0 };
	unsigned		got[3] = { 0 }, i;

	memcpy(slots, three, sizeof(slots));
	for (i = 0; i < 10; i++)
		assert_int_equal(share_pick_slot(SHARE_LOCAL, &st, slots, 3, 9,
		    0, 0), 2);
	slots[2].members = 0;
	for (i = 0; i < 60; i++)
		got[share_pick_slot(SHARE_LOCAL, &st, slots, 3, 9, 0, 0)]++;
	assert_int_equal(got[0], 10);
	assert_int_equal(got[1], 50);
	assert_int_equal(got[2], 0);
}

static void
nobody_is_nobody(void **state UNUSED)
{
	struct share_slot	none[] = { { 0, 0 }, { 1, 0 } };
	struct share_state	st = { .cursor = 5 };
	unsigned		how;

	for (how = SHARE_ROUND_ROBIN; how <= SHARE_LOCAL; how++) {
		assert_int_equal(share_pick_slot((enum share_strategy)how, &st,
		    none, 2, 0, 1, 1), 2);
		assert_int_equal(share_pick_slot((enum share_strategy)how, &st,
		    none, 0, 0, 1, 1), 0);
	}
}

static void
states_are_bounded(void **state UNUSED)
{
	struct share_table	 t;
	struct share_state	*st;
	uint64_t		 i;

	share_table_init(&t, 1);
	for (i = 0; i < SHARE_STATES + 10; i++) {
		st = share_state(&t, (struct group_id){ i, i }, i);
		assert_non_null(st);
		assert_ptr_equal(share_state(&t, (struct group_id){ i, i }, 0),
		    st);
		assert_true(t.states.n <= SHARE_STATES);
	}
	share_table_fini(&t);
}

/* Whoever picks names by their hashes makes no crowd in a table. */
static void
names_cannot_be_aimed(void **state UNUSED)
{
	struct share_table	t;
	uint64_t		i;
	size_t			run = 0, longest = 0;

	share_table_init(&t, 0x9d2c5680f1a4b36e);
	for (i = 1; i <= 1000; i++)
		assert_non_null(share_state(&t, (struct group_id){ i,
		    i << 32 }, 0));
	for (i = 0; i <= t.states.mask; i++) {
		run = t.states.cells[i].item == NULL ? 0 : run + 1;
		longest = MAX(longest, run);
	}
	assert_true(longest < 100);
	share_table_fini(&t);
}

static int
count_state(void *ctx, const struct share_state *st)
{
	unsigned *n = ctx;

	assert_int_equal(st->cursor, st->id.hi);
	return ++*n == 3;
}

static void
states_are_walked(void **state UNUSED)
{
	struct share_table	t;
	unsigned		n = 0;
	uint64_t		i;

	share_table_init(&t, 1);
	assert_int_equal(share_each(&t, count_state, &n), 0);
	for (i = 0; i < 2; i++)
		(void)share_state(&t, (struct group_id){ i, 7 }, i);
	assert_int_equal(share_each(&t, count_state, &n), 0);
	assert_int_equal(n, 2);
	assert_int_equal(share_each(&t, count_state, &n), 1);
	share_table_fini(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_group_is_its_name_and_filter),
		cmocka_unit_test(turns_are_even_over_members_not_over_processes),
		cmocka_unit_test(members_take_turns),
		cmocka_unit_test(chance_is_weighed_with_members),
		cmocka_unit_test(sticky_stays_until_it_goes),
		cmocka_unit_test(a_hash_always_leads_to_the_same),
		cmocka_unit_test(local_members_come_first),
		cmocka_unit_test(nobody_is_nobody),
		cmocka_unit_test(states_are_bounded),
		cmocka_unit_test(names_cannot_be_aimed),
		cmocka_unit_test(states_are_walked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

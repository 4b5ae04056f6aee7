/* registrar/held: rows in compact tables, against a plain list; what they take;
 * walks while rows come and go. */
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
#include "registrar/held.h"

static uint64_t state_rnd = 88172645463325252u;

static uint64_t
rnd(void)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return state_rnd;
}

/* As good as a keyed hash of n. */
static uint64_t
hash(uint64_t n)
{
	n += UINT64_C(0x9e3779b97f4a7c15);
	n = (n ^ n >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	n = (n ^ n >> 27) * UINT64_C(0x94d049bb133111eb);
	return n ^ n >> 31;
}

static void
extremes_come_back_as_they_were(void **state UNUSED)
{
	static const uint64_t	numbers[] = { 0, 1, UINT64_MAX,
		UINT64_MAX >> 8, UINT64_C(0xff) << 56 };
	struct held_rows	t;
	struct held		h, got;

	held_init(&t);
	for (unsigned i = 0; i < NELEM(numbers); i++)
		for (unsigned k = 0; k < 4; k++) {
			h = (struct held){ .x = numbers[i] };
			h.epoch = k & 1 ? UINT64_MAX : 0;
			h.node = k & 2 ? HELD_NODES - 1 : 0;
			h.flags = k & 1 ? 15 : 0;
			h.stale = k & 1;
			assert_int_equal(held_put(&t, &h), 0);
			assert_true(held_get(&t, h.x, h.node, &got));
			assert_true(got.x == h.x && got.epoch == h.epoch);
			assert_int_equal(got.node, h.node);
			assert_int_equal(got.flags, h.flags);
			assert_int_equal(got.stale, h.stale);
			assert_false(held_get(&t, h.x, 5, &got));
		}
	assert_int_equal(t.n, NELEM(numbers) * 2);
	held_fini(&t);
	assert_false(held_get(&t, 0, 0, &got));
}

enum { XS = 400, NS = 5 };

static struct held	model[XS][NS];
static bool		there[XS][NS];

static void
check_all(const struct held_rows *t, const uint64_t *xs)
{
	struct held_walk	w = { .table = 0 };
	struct held		h;
	size_t			n = 0, walked = 0;

	for (unsigned i = 0; i < XS; i++) {
		unsigned	of_x = 0, seen = 0;

		for (unsigned k = 0; k < NS; k++) {
			assert_int_equal(held_get(t, xs[i], k, &h),
			    there[i][k]);
			if (!there[i][k])
				continue;
			of_x++;
			assert_true(h.epoch == model[i][k].epoch);
			assert_int_equal(h.flags, model[i][k].flags);
			assert_int_equal(h.stale, model[i][k].stale);
		}
		for (uint32_t at = HELD_FIRST; held_next(t, xs[i], &at, &h);) {
			assert_true(h.x == xs[i]);
			assert_true(there[i][h.node]);
			assert_false(seen >> h.node & 1);
			seen |= 1u << h.node;
			of_x--;
		}
		assert_int_equal(of_x, 0);
		n += (size_t)__builtin_popcount(seen);
	}
	assert_int_equal(t->n, n);
	while (held_walk(t, &w, &h))
		walked++;
	assert_int_equal(walked, n);
}

/* hashed: as identifiers are; else such that all collide in one table. */
static void
agree(bool hashed)
{
	struct held_rows	t;
	uint64_t		xs[XS];

	held_init(&t);
	memset(there, 0, sizeof(there));
	for (unsigned i = 0; i < XS; i++)
		xs[i] = hashed ? hash(i) : i;
	for (unsigned step = 0; step < 60000; step++) {
		unsigned	i = (unsigned)(rnd() % XS);
		unsigned	k = (unsigned)(rnd() % NS);
		/* It fills, and it empties. */
		bool		put = rnd() % 8 < (step / 10000 % 2 ? 2 : 6);
		struct held	h = { .x = xs[i], .node = (uint16_t)k };

		if (put) {
			h.epoch = rnd();
			h.flags = rnd() & 15;
			h.stale = rnd() & 1;
			assert_int_equal(held_put(&t, &h), 0);
			model[i][k] = h;
		} else {
			held_del(&t, xs[i], k);
		}
		there[i][k] = put;
		if (step % 977 == 0)
			check_all(&t, xs);
	}
	check_all(&t, xs);
	held_fini(&t);
}

static void
agrees_with_a_list(void **state UNUSED)
{
	agree(true);
	agree(false);
}

/* The walk takes away rows of one node while others come: of node 1 none is
 * left, of the others none is missed. */
static void
a_walk_may_remove_and_add(void **state UNUSED)
{
	struct held_rows	t;
	struct held_walk	w = { .table = 0 };
	struct held		h, add = { .node = 2 };
	uint8_t			*seen = calloc(20000, 1);
	uint64_t		more = 1000000;

	assert_non_null(seen);
	held_init(&t);
	for (uint64_t i = 0; i < 20000; i++) {
		h = (struct held){ .x = hash(i), .epoch = i };
		h.node = i % 3 == 0;
		assert_int_equal(held_put(&t, &h), 0);
	}
	while (held_walk(&t, &w, &h)) {
		if (h.node == 0)
			seen[h.epoch] = 1;
		if (h.node != 1)
			continue;
		held_walk_del(&t, &w, &h);
		for (unsigned i = 0; i < 2 && more < 1020000; i++) {
			/* Also into the table that is walked. */
			add.x = hash(more++) >> 8 |
			    (rnd() & 1 ? h.x >> 56 << 56 : rnd() << 56);
			assert_int_equal(held_put(&t, &add), 0);
		}
	}
	for (uint64_t i = 0; i < 20000; i++) {
		assert_int_equal(seen[i], i % 3 != 0);
		assert_int_equal(held_get(&t, hash(i), i % 3 == 0, &h),
		    i % 3 != 0);
	}
	held_fini(&t);
	free(seen);
}

static bool
is_of(const struct held *h, unsigned node)
{
	return h->node == node;
}

static void
all_of_a_node_go_at_once(void **state UNUSED)
{
	struct held_rows	t;
	struct held		h;

	held_init(&t);
	held_drop(&t, is_of, 1);
	for (uint64_t i = 0; i < 30000; i++) {
		h = (struct held){ .x = hash(i), .epoch = i };
		h.node = i % 3;
		assert_int_equal(held_put(&t, &h), 0);
	}
	held_drop(&t, is_of, 7);
	assert_int_equal(t.n, 30000);
	held_drop(&t, is_of, 1);
	assert_int_equal(t.n, 20000);
	assert_true(held_bytes(&t) <= 20000 * 24);
	for (uint64_t i = 0; i < 30000; i++) {
		assert_int_equal(held_get(&t, hash(i), i % 3, &h), i % 3 != 1);
		if (i % 3 != 1)
			assert_true(h.epoch == i);
	}
	held_drop(&t, is_of, 0);
	held_drop(&t, is_of, 2);
	assert_int_equal(t.n, 0);
	held_fini(&t);
}

/* 24 bytes a row: while they come, and when half of them went. */
static void
a_row_takes_at_most_24_bytes(void **state UNUSED)
{
	struct held_rows	t;
	struct held		h = { .flags = 3 };
	double			worst = 0, per_row;

	held_init(&t);
	for (uint64_t i = 0; i < 1000000; i++) {
		h.x = hash(i);
		h.epoch = i;
		assert_int_equal(held_put(&t, &h), 0);
		if (i < 20000 || i % 1000 != 0)
			continue;
		per_row = (double)held_bytes(&t) / (double)t.n;
		worst = MAX(worst, per_row);
	}
	for (uint64_t i = 0; i < 500000; i++) {
		held_del(&t, hash(i), 0);
		per_row = (double)held_bytes(&t) / (double)t.n;
		worst = MAX(worst, per_row);
	}
	print_message("at most %.1f bytes a row, and %zu in all\n", worst,
	    sizeof(t));
	assert_true(worst <= 24);
	for (uint64_t i = 500000; i < 1000000; i++) {
		assert_true(held_get(&t, hash(i), 0, &h));
		assert_true(h.epoch == i);
	}
	held_fini(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(extremes_come_back_as_they_were),
		cmocka_unit_test(agrees_with_a_list),
		cmocka_unit_test(a_walk_may_remove_and_add),
		cmocka_unit_test(all_of_a_node_go_at_once),
		cmocka_unit_test(a_row_takes_at_most_24_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

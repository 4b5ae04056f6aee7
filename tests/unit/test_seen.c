/* move/seen: what is remembered, what is forgotten, against a plain list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/util.h"
#include "move/seen.h"

static uint64_t state_rnd = 88172645463325252u;

static uint32_t
rnd(uint32_t n)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return (uint32_t)((state_rnd >> 20) % n);
}

static struct seen_id
id(uint64_t n)
{
	return (struct seen_id){ n / 16, n % 16 };
}

static void
what_was_forgotten_is_unknown(void **state UNUSED)
{
	struct seen	s = { .max = 3 };

	assert_int_equal(seen_has(&s, id(1)), SEEN_NEW);
	for (unsigned i = 10; i < 13; i++)
		assert_int_equal(seen_add(&s, id(i)), 0);
	assert_int_equal(seen_has(&s, id(9)), SEEN_NEW);
	assert_int_equal(seen_has(&s, id(10)), SEEN_BEFORE);
	assert_int_equal(seen_add(&s, id(20)), 0);
	assert_int_equal(s.n, 3);
	assert_int_equal(seen_has(&s, id(10)), SEEN_UNKNOWN);
	assert_int_equal(seen_has(&s, id(9)), SEEN_UNKNOWN);
	assert_int_equal(seen_has(&s, id(11)), SEEN_BEFORE);
	assert_int_equal(seen_has(&s, id(13)), SEEN_NEW);

	seen_raise(&s, id(15));
	assert_int_equal(seen_has(&s, id(13)), SEEN_UNKNOWN);
	assert_int_equal(seen_has(&s, id(12)), SEEN_BEFORE);
	seen_raise(&s, id(14));			/* it never goes back */
	assert_int_equal(seen_has(&s, id(15)), SEEN_UNKNOWN);
	seen_clear(&s);
	assert_int_equal(s.max, 3);
	assert_int_equal(seen_has(&s, id(15)), SEEN_NEW);
}

static void
of_no_room_all_is_unknown(void **state UNUSED)
{
	struct seen	s = { .max = 0 };

	assert_int_equal(seen_add(&s, id(5)), 0);
	assert_int_equal(seen_has(&s, id(5)), SEEN_UNKNOWN);
	assert_int_equal(seen_has(&s, id(6)), SEEN_NEW);
}

enum { IDS = 3000 };

static void
agrees_with_a_list(void **state UNUSED)
{
	static const uint32_t	maxes[] = { 1, 15, 16, 17, 100, 2000 };
	static uint32_t		came[IDS];	/* 1 + which one it was */
	struct seen		s, copy;

	for (unsigned k = 0; k < NELEM(maxes); k++) {
		uint32_t	order = 0, oldest = 1;
		uint64_t	floor = 0;

		s = (struct seen){ .max = maxes[k] };
		memset(came, 0, sizeof(came));
		for (unsigned step = 0; step < 20000; step++) {
			/* About in order. */
			uint32_t	n = 1 + MIN(step / 7 + rnd(40),
			    IDS - 2u);
			bool		known = came[n] >= oldest;

			assert_int_equal(seen_has(&s, id(n)), known ?
			    SEEN_BEFORE : n <= floor ? SEEN_UNKNOWN :
			    SEEN_NEW);
			if (rnd(3) == 0)
				continue;
			assert_int_equal(seen_add(&s, id(n)), 0);
			if (known)
				continue;
			came[n] = ++order;
			if (order - oldest + 1 > maxes[k]) {
				for (uint64_t i = 0; i < IDS; i++)
					if (came[i] == oldest)
						floor = MAX(floor, i);
				oldest++;
			}
		}
		assert_int_equal(s.n, order - oldest + 1);
		assert_int_equal(seen_copy(&copy, &s), 0);
		assert_int_equal(copy.n, s.n);
		for (uint32_t i = 0; i < s.n; i++) {
			struct seen_id	a = seen_at(&s, i);

			assert_int_equal(came[a.hi * 16 + a.lo], oldest + i);
			assert_int_equal(seen_has(&copy, a), SEEN_BEFORE);
		}
		seen_clear(&copy);
		seen_clear(&s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_forgotten_is_unknown),
		cmocka_unit_test(of_no_room_all_is_unknown),
		cmocka_unit_test(agrees_with_a_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/err.h"
#include "load/histogram.h"
#include "load/sequence.h"

/* --- Histogram ----------------------------------------------------------- */

static void
every_number_has_a_bucket_near_to_it(void **state UNUSED)
{
	uint64_t	v, top;
	unsigned	bit, i, d;

	for (bit = 0; bit < 64; bit++) {
		for (d = 0; d < 5; d++) {
			v = (1ull << bit) + d * (1ull << bit) / 5;
			i = histogram_bucket(v);
			assert_true(i < HISTOGRAM_BUCKETS);
			top = histogram_bucket_max(i);
			assert_true(top >= v);
			assert_true(top - v <= v / HISTOGRAM_STEPS);
			assert_int_equal(histogram_bucket(top), i);
		}
	}
	assert_int_equal(histogram_bucket(0), 0);
	assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
	assert_true(histogram_bucket_max(HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
}

static void
buckets_follow_each_other_without_a_hole(void **state UNUSED)
{
	unsigned	i;

	for (i = 0; i + 1 < HISTOGRAM_BUCKETS; i++)
		assert_int_equal(
		    histogram_bucket(histogram_bucket_max(i) + 1), i + 1);
}

static void
small_numbers_are_exact(void **state UNUSED)
{
	static struct histogram	h;
	unsigned		i;

	for (i = 1; i <= 100; i++)
		histogram_add(&h, i);
	assert_int_equal(histogram_quantile(&h, 0), 1);
	assert_int_equal(histogram_quantile(&h, 0.5), 50);
	assert_int_equal(histogram_quantile(&h, 0.99), 99);
	assert_int_equal(histogram_quantile(&h, 0.999), 100);
	assert_int_equal(histogram_quantile(&h, 1), 100);
	assert_int_equal(h.max, 100);
}

static void
quantiles_keep_their_bound(void **state UNUSED)
{
	static struct histogram	h;
	uint64_t		i, n = 100000, truth, said;
	unsigned		q;

	for (i = 1; i <= n; i++)
		histogram_add(&h, i * i);	/* in order: known quantiles */
	for (q = 1; q <= 1000; q++) {
		truth = (q * n / 1000) * (q * n / 1000);
		said = histogram_quantile(&h, q / 1000.0);
		/* a rank of one more where q / 1000.0 is a hair above */
		assert_true(said >= truth);
		assert_true(said <= truth + truth / HISTOGRAM_STEPS +
		    2 * (q * n / 1000) + 1);
	}
}

static void
an_empty_histogram_says_nought(void **state UNUSED)
{
	static struct histogram	h;

	assert_int_equal(histogram_quantile(&h, 0.5), 0);
	assert_int_equal(histogram_quantile(&h, 1), 0);
}

static void
merging_is_as_if_all_came_to_one(void **state UNUSED)
{
	static struct histogram	a, b, both;
	uint64_t		x = 88172645463325252ull;
	unsigned		i;

	for (i = 0; i < 10000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		histogram_add(i % 3 ? &a : &b, x >> (x % 64));
		histogram_add(&both, x >> (x % 64));
	}
	histogram_merge(&a, &b);
	assert_memory_equal(&a, &both, sizeof(both));
}

/* --- Sequence ------------------------------------------------------------ */

/* What s says of n, and that it passed so many. */
static void
takes(struct sequence *s, uint32_t n, enum sequence_is want, uint32_t want_over)
{
	uint32_t	over = 77;

	assert_int_equal(sequence_take(s, n, &over), want);
	assert_int_equal(over, want_over);
}

static void
in_order_nothing_is_kept(void **state UNUSED)
{
	struct sequence	s = { 0 };
	uint32_t	i;

	for (i = 0; i < 1000; i++)
		takes(&s, i, SEQUENCE_NEXT, 1);
	assert_null(s.seen);
	takes(&s, 999, SEQUENCE_DUPLICATE, 0);
	takes(&s, 0, SEQUENCE_DUPLICATE, 0);
	takes(&s, 1000, SEQUENCE_NEXT, 1);
	assert_null(s.seen);
	sequence_fini(&s);
}

static void
what_comes_after_a_gap_is_late_once(void **state UNUSED)
{
	struct sequence	s = { 0 };

	takes(&s, 0, SEQUENCE_NEXT, 1);
	takes(&s, 3, SEQUENCE_AHEAD, 3);	/* 1 and 2 are missing */
	takes(&s, 1, SEQUENCE_LATE, 0);
	takes(&s, 1, SEQUENCE_DUPLICATE, 0);
	takes(&s, 3, SEQUENCE_DUPLICATE, 0);
	takes(&s, 0, SEQUENCE_DUPLICATE, 0);
	takes(&s, 4, SEQUENCE_NEXT, 1);
	takes(&s, 2, SEQUENCE_LATE, 0);
	takes(&s, 2, SEQUENCE_DUPLICATE, 0);
	sequence_fini(&s);
}

static void
what_was_given_up_is_late_when_it_comes(void **state UNUSED)
{
	struct sequence	s = { 0 };

	takes(&s, 0, SEQUENCE_NEXT, 1);
	assert_int_equal(sequence_pass(&s, 5), 0);
	assert_int_equal(sequence_pass(&s, 2), 0);	/* nothing to do */
	takes(&s, 5, SEQUENCE_NEXT, 1);
	takes(&s, 2, SEQUENCE_LATE, 0);
	takes(&s, 5, SEQUENCE_DUPLICATE, 0);
	sequence_fini(&s);
}

static void
a_gap_wider_than_the_window_is_no_trouble(void **state UNUSED)
{
	struct sequence	s = { 0 };
	uint32_t	far = 10 * SEQUENCE_WINDOW;

	takes(&s, 0, SEQUENCE_NEXT, 1);
	takes(&s, far, SEQUENCE_AHEAD, far);
	takes(&s, 1, SEQUENCE_DUPLICATE, 0);	/* too late to be told */
	takes(&s, far - 1, SEQUENCE_LATE, 0);
	takes(&s, far - SEQUENCE_WINDOW + 1, SEQUENCE_LATE, 0);
	takes(&s, far, SEQUENCE_DUPLICATE, 0);
	takes(&s, UINT32_MAX - 1, SEQUENCE_AHEAD, UINT32_MAX - 1 - far);
	takes(&s, far, SEQUENCE_DUPLICATE, 0);
	sequence_fini(&s);
}

/* Against a checker that remembers everything. */
static void
a_shuffled_stream_is_counted_right(void **state UNUSED)
{
	enum { N = 5000 };
	static uint8_t	had[N];
	struct sequence	s = { 0 };
	uint32_t	x = 2463534242u, i, n, high = 0, over, passed = 0;
	int		is, want;

	for (i = 0; i < 4 * N; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		n = (i / 4 + x % 200) % N;
		want = had[n] ? SEQUENCE_DUPLICATE : n < high ? SEQUENCE_LATE :
		    n == high ? SEQUENCE_NEXT : SEQUENCE_AHEAD;
		is = sequence_take(&s, n, &over);
		assert_int_equal(is, want);
		passed += over;
		had[n] = 1;
		if (n >= high)
			high = n + 1;
		assert_int_equal(passed, high);
	}
	sequence_fini(&s);
	assert_null(s.seen);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_number_has_a_bucket_near_to_it),
		cmocka_unit_test(buckets_follow_each_other_without_a_hole),
		cmocka_unit_test(small_numbers_are_exact),
		cmocka_unit_test(quantiles_keep_their_bound),
		cmocka_unit_test(an_empty_histogram_says_nought),
		cmocka_unit_test(merging_is_as_if_all_came_to_one),
		cmocka_unit_test(in_order_nothing_is_kept),
		cmocka_unit_test(what_comes_after_a_gap_is_late_once),
		cmocka_unit_test(what_was_given_up_is_late_when_it_comes),
		cmocka_unit_test(a_gap_wider_than_the_window_is_no_trouble),
		cmocka_unit_test(a_shuffled_stream_is_counted_right),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* base/htab.h, base/spread.h and base/wheel.h: against a plain model, with seeded chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/htab.h"
#include "base/spread.h"
#include "base/util.h"
#include "base/wheel.h"

enum { ITEMS = 2000 };

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

struct item {
	uint64_t hash;
	int	 in;
};

static int
is_there(struct htab *t, struct item *it)
{
	void	*p;
	size_t	 i;

	for (i = htab_first(t, it->hash);
	    (p = htab_at(t, it->hash, &i)) != NULL; i++)
		if (p == it)
			return 1;
	return 0;
}

static void
finds_what_is_in_and_nothing_else(void **state UNUSED)
{
	static struct item items[ITEMS];
	struct htab	   t;
	uint64_t	   s = 42;
	size_t		   n = 0, i, k;

	htab_init(&t);
	for (i = 0; i < ITEMS; i++)		/* many share a hash */
		items[i].hash = next_random(&s) % 300;
	for (i = 0; i < 200000; i++) {
		k = next_random(&s) % ITEMS;
		if (items[k].in) {
			htab_del(&t, items[k].hash, &items[k]);
			n--;
		} else {
			assert_int_equal(htab_add(&t, items[k].hash,
			    &items[k]), 0);
			n++;
		}
		items[k].in = !items[k].in;
		assert_int_equal(t.n, n);
		k = next_random(&s) % ITEMS;
		assert_int_equal(is_there(&t, &items[k]), items[k].in);
	}
	for (i = 0; i < ITEMS; i++) {
		assert_int_equal(is_there(&t, &items[i]), items[i].in);
		if (items[i].in)
			htab_del(&t, items[i].hash, &items[i]);
	}
	assert_int_equal(t.n, 0);
	assert_true(t.mask + 1 <= 64);		/* it shrank */
	htab_fini(&t);
}

static int
is_spread(struct spread *sp, struct item *it)
{
	void	*p;
	size_t	 i;

	for (i = spread_first(sp, it->hash);
	    (p = spread_at(sp, it->hash, &i)) != NULL; i++)
		if (p == it)
			return 1;
	return 0;
}

/* Every item is given once, and nothing else. */
static size_t
walked(struct spread *sp)
{
	struct item	*it;
	unsigned	 part = 0;
	size_t		 cell = 0, n = 0;

	while ((it = spread_next(sp, &part, &cell)) != NULL) {
		assert_int_equal(it->in, 1);
		it->in = 2;
		n++;
	}
	for (part = 0, cell = 0; (it = spread_next(sp, &part, &cell)) != NULL;)
		it->in = 1;
	return n;
}

/* kind 0: hashes like any; 1: all of three parts, and many share one; 2: keys
 * at both ends, so that what is due to the last cells lies in the first. */
static uint64_t
hash_of_kind(uint64_t *s, int kind)
{
	uint64_t h = next_random(s);

	if (kind == 1)
		return h % 3 << 56 | (h >> 8) % 500 * 8589934;
	if (kind == 2)
		return (uint64_t)(uint32_t)((h >> 32) % 40 - 20) |
		    (h & 1) << 56;
	return h;
}

static void
a_spread_finds_what_is_in(void **state UNUSED)
{
	static struct item items[ITEMS * 10];
	struct spread	   sp = { .n = 0 };
	uint64_t	   s = 43;
	size_t		   n, i, k, all;
	int		   kind;

	for (kind = 0; kind < 3; kind++) {
		all = kind == 0 ? NELEM(items) : kind == 1 ? ITEMS : 200;
		for (i = n = 0; i < all; i++)
			items[i] = (struct item){ hash_of_kind(&s, kind), 0 };
		for (i = 0; i < 100000; i++) {
			k = next_random(&s) % all;
			if (items[k].in) {
				spread_del(&sp, items[k].hash, &items[k]);
				n--;
			} else {
				assert_int_equal(spread_add(&sp,
				    items[k].hash, &items[k]), 0);
				n++;
			}
			items[k].in = !items[k].in;
			assert_int_equal(sp.n, n);
			k = next_random(&s) % all;
			assert_int_equal(is_spread(&sp, &items[k]),
			    items[k].in);
		}
		assert_int_equal(walked(&sp), n);
		for (i = 0; i < all; i++) {
			assert_int_equal(is_spread(&sp, &items[i]),
			    items[i].in);
			if (items[i].in)
				spread_del(&sp, items[i].hash, &items[i]);
		}
		assert_int_equal(sp.n, 0);
		for (i = 0; i < SPREAD_PARTS; i++)	/* all given back */
			assert_null(sp.part[i].items);
	}
	spread_fini(&sp);
}

/* Larger keys are due to later cells, at most 7/8 of which are taken. */
static void
a_spread_keeps_its_order(void **state UNUSED)
{
	static struct item	 items[ITEMS];
	struct spread		 sp = { .n = 0 };
	const struct spread_part *p = &sp.part[7];
	uint64_t		 s = 44;
	size_t			 i;

	for (i = 0; i < ITEMS; i++) {
		items[i].hash = UINT64_C(7) << 56 |
		    (uint32_t)next_random(&s);
		assert_int_equal(spread_add(&sp, items[i].hash, &items[i]),
		    0);
		assert_true(p->n * 8 <= p->cap * 7);
		assert_true(i < 100 || p->n * 2 > p->cap);
	}
	for (i = 1; i < ITEMS; i++) {
		uint32_t a = spread_key(items[i - 1].hash);
		uint32_t b = spread_key(items[i].hash);

		assert_true(a <= b ?
		    spread_home(p, a) <= spread_home(p, b) :
		    spread_home(p, a) >= spread_home(p, b));
	}
	assert_int_equal(spread_home(p, UINT32_MAX), p->cap - 1);
	spread_fini(&sp);
	assert_int_equal(sp.n, 0);
}

struct timer {
	struct wheel_node node;
	uint64_t	  due_at;	/* 0: not set */
};

struct clockwork {
	struct wheel	w;
	uint64_t	now;
	unsigned	fired;
};

static void
on_due(void *ctx, struct wheel_node *n)
{
	struct clockwork *c = ctx;
	struct timer	 *t = CONTAINER_OF(n, struct timer, node);

	assert_true(t->due_at != 0);
	assert_true(t->due_at <= c->now);
	assert_true(c->now - t->due_at < 2000 + 2 * WHEEL_TICK_MS);
	t->due_at = 0;
	c->fired++;
}

static void
nothing_fires_early_or_is_forgotten(void **state UNUSED)
{
	static struct timer	timers[500];
	static struct clockwork c;
	uint64_t		s = 7;
	size_t			i, k;

	c.now = 123456;
	wheel_init(&c.w, c.now);
	for (i = 0; i < 20000; i++) {
		k = next_random(&s) % NELEM(timers);
		if (next_random(&s) % 4 == 0) {
			wheel_clear(&c.w, &timers[k].node);
			timers[k].due_at = 0;
		} else {
			/* up to several rounds of the wheel ahead */
			timers[k].due_at = c.now + next_random(&s) % 400000;
			wheel_set(&c.w, &timers[k].node, timers[k].due_at);
		}
		c.now += next_random(&s) % 2000;
		wheel_advance(&c.w, c.now, on_due, &c);
	}
	c.now += 1000000;
	for (i = 0; i < NELEM(timers); i++)	/* all are overdue now */
		if (timers[i].due_at != 0)
			timers[i].due_at = c.now;
	wheel_advance(&c.w, c.now, on_due, &c);
	assert_int_equal(c.w.n, 0);
	for (i = 0; i < NELEM(timers); i++)
		assert_int_equal(timers[i].due_at, 0);
	assert_true(c.fired > 1000);
}

static void
set_again(void *ctx, struct wheel_node *n)
{
	struct clockwork *c = ctx;

	c->fired++;
	wheel_set(&c->w, n, c->now + 1000);
}

static void
a_node_may_be_set_again_while_it_is_handed_out(void **state UNUSED)
{
	static struct clockwork	c;
	static struct timer	t;
	unsigned		i;

	wheel_init(&c.w, 0);
	wheel_set(&c.w, &t.node, 1000);
	for (i = 0; i < 100; i++) {
		c.now += 1000 + WHEEL_TICK_MS;
		wheel_advance(&c.w, c.now, set_again, &c);
	}
	assert_int_equal(c.fired, 100);
	assert_true(wheel_is_set(&t.node));
	wheel_clear(&c.w, &t.node);
	assert_false(wheel_is_set(&t.node));
	wheel_clear(&c.w, &t.node);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_what_is_in_and_nothing_else),
		cmocka_unit_test(a_spread_finds_what_is_in),
		cmocka_unit_test(a_spread_keeps_its_order),
		cmocka_unit_test(nothing_fires_early_or_is_forgotten),
		cmocka_unit_test(a_node_may_be_set_again_while_it_is_handed_out),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}

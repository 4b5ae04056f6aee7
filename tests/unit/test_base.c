/* base/htab.h and base/wheel.h: against a plain model, with seeded chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/htab.h"
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
		cmocka_unit_test(nothing_fires_early_or_is_forgotten),
		cmocka_unit_test(a_node_may_be_set_again_while_it_is_handed_out),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}

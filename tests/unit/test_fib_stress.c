/*
 * One writer and several readers at once, as threads so that the thread
 * sanitizer sees them all (make tsan). What a reader must find at any moment:
 *	- a filter that is always there, however its bucket is split, its anchor
 *	  widened or narrowed, its fellows come and go
 *	- of a set that is swapped for others all the time: one of them, whole
 *	- a group that is always there, with the members it has everywhere, while
 *	  others come and go beside it and it changes from slot to slot
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
#include <cmocka.h>

#include "../support/fibmem.h"
#include "base/err.h"
#include "fib/layout.h"
#include "rib/rib.h"
#include "topic/group.h"

#define READERS		2
#define FAMILIES	8u
#define KEEP		40u

struct bed {
	struct fibmem	 mem;
	struct fib_writer *w;
	struct rib	*rib;
	atomic_bool	 stop;
	_Atomic uint64_t turns, evicted;
	atomic_uint	 wrong;
	char		 what[READERS][200];
};

struct reader {
	struct bed	*bed;
	struct fib_reader *r;
	unsigned	 n;
	pthread_t	 thread;
	void		(*turn)(struct reader *, uint64_t i);
};

static void
say(struct reader *rd, const char *what, const char *topic)
{
	atomic_fetch_add(&rd->bed->wrong, 1);
	snprintf(rd->bed->what[rd->n], sizeof(rd->bed->what[0]), "%.60s: %s",
	    topic, what);
}

static void *
reader_main(void *arg)
{
	struct reader	*rd = arg;
	uint64_t	 i;

	for (i = 0; !atomic_load(&rd->bed->stop); i++) {
		rd->turn(rd, i);
		atomic_fetch_add(&rd->bed->turns, 1);
	}
	return NULL;
}

static void
bed_run(struct bed *b, void (*turn)(struct reader *, uint64_t),
    void (*write)(struct bed *, uint64_t), uint64_t steps)
{
	struct reader	rd[READERS];
	uint64_t	i, before;
	unsigned	k;

	for (k = 0; k < READERS; k++) {
		rd[k] = (struct reader){ b, fibmem_reader(&b->mem), k, 0,
		    turn };
		assert_int_equal(pthread_create(&rd[k].thread, NULL,
		    reader_main, &rd[k]), 0);
	}
	for (i = 0; i < steps || atomic_load(&b->turns) < steps / 4; i++) {
		before = i;
		write(b, before);
	}
	atomic_store(&b->stop, true);
	for (k = 0; k < READERS; k++) {
		pthread_join(rd[k].thread, NULL);
		fib_reader_close(&rd[k].r);
	}
	for (k = 0; k < READERS; k++)
		if (b->what[k][0] != '\0')
			fail_msg("%s", b->what[k]);
	assert_int_equal(atomic_load(&b->wrong), 0);
}

static void
bed_init(struct bed *b, unsigned shapes)
{
	struct rib_opts o = { .anchor_shapes = shapes };

	memset(b, 0, sizeof(*b));
	fibmem_init(&b->mem, 256u << 20);
	b->w = fibmem_writer(&b->mem, 0);
	o.key = *fib_writer_key(b->w);
	assert_int_equal(rib_new(&b->rib, &o), 0);
	assert_int_equal(rib_attach(b->rib, b->w), 0);
}

static void
bed_fini(struct bed *b)
{
	rib_free(&b->rib);
	fib_writer_close(&b->w);
	fibmem_fini(&b->mem);
}

/* --- Sets ------------------------------------------------------------ */

/* Family f of filter i: bit f, and 2 + i % 50 slots from 63 + f by steps of
 * FAMILIES. */
static struct fib_dests
family(unsigned f, unsigned i, uint16_t *more)
{
	unsigned k, n = 2 + i % 50;

	for (k = 0; k < n; k++)
		more[k] = (uint16_t)(FIB_WORD_SLOTS + f + k * FAMILIES);
	return (struct fib_dests){ (uint64_t)1 << f, more, n };
}

static void
sets_write(struct bed *b, uint64_t step)
{
	uint16_t	more[FIB_MORE_MAX];
	char		t[64];
	struct fib_cut	c;
	struct fib_dests d;
	unsigned	i = (unsigned)(step * 7 % KEEP);

	snprintf(t, sizeof(t), "s/%u", i);
	fib_cut(fib_writer_key(b->w), t, strlen(t), &c);
	d = family((unsigned)(step / 3 * 5 % FAMILIES), i, more);
	assert_int_equal(fib_put(b->w, c.fp, &d), 0);
	if (step % 16 == 0)
		fib_reclaim(b->w, step / 1000 + 1);
}

static void
sets_read(struct reader *rd, uint64_t step)
{
	uint16_t	more[FIB_MORE_MAX];
	char		text[8][64];
	struct slice	t[8];
	struct fib_match m[8];
	struct fib_dests d;
	unsigned	i, k, f;

	for (k = 0; k < 8; k++) {
		t[k].len = (size_t)snprintf(text[k], sizeof(text[k]), "s/%u",
		    (unsigned)(step + k * 3) % KEEP);
		t[k].data = (uint8_t *)text[k];
	}
	fib_enter(rd->r);
	fib_match_batch(rd->r, t, 8, m);
	if (!fib_leave(rd->r)) {
		atomic_fetch_add(&rd->bed->evicted, 1);
		return;
	}
	for (k = 0; k < 8; k++) {
		i = (unsigned)(step + k * 3) % KEEP;
		if (m[k].slots == 0 || (m[k].slots & (m[k].slots - 1)) != 0) {
			say(rd, "not one family", text[k]);
			return;
		}
		f = (unsigned)__builtin_ctzll(m[k].slots);
		d = family(f, i, more);
		if (m[k].nmore != d.nmore || memcmp(m[k].more, d.more,
		    d.nmore * sizeof(*d.more)) != 0) {
			say(rd, "not the whole set", text[k]);
			return;
		}
	}
}

static void
a_set_is_read_whole_while_it_is_swapped(void **state UNUSED)
{
	struct bed	b;
	uint64_t	i;

	bed_init(&b, 32);
	for (i = 0; i < KEEP; i++)
		sets_write(&b, i);	/* 7 and KEEP share no factor */
	bed_run(&b, sets_read, sets_write, 60000);
	bed_fini(&b);
}

/* --- Groups ---------------------------------------------------------- */

/* Group 0 of every filter is always there and always has slot 5; each slot s
 * of a group has s + 1 members or 1000 + s. The others come and go. */
static void
groups_write(struct bed *b, uint64_t step)
{
	struct fib_group_slot slots[40];
	struct fib_group g = { .slots = slots };
	struct fib_dests d = { step / 3 & 3, NULL, 0 };
	char		t[64];
	struct fib_cut	c;
	unsigned	s;

	snprintf(t, sizeof(t), "s/%u", (unsigned)(step * 7 % KEEP));
	fib_cut(fib_writer_key(b->w), t, strlen(t), &c);
	g.id_lo = step % 3 ? 1 + step / 3 % 20 : 0;
	for (s = 0; s < 40; s++)
		if ((g.id_lo == 0 && s == 5) || (step >> s % 11 & 3) == 1)
			slots[g.nslots++] = (struct fib_group_slot){
			    (uint16_t)s, 0, (step & 1 ? 1000 : 1) + s };
	if (g.id_lo != 0 && step / 60 % 2)
		g.nslots = 0;
	assert_int_equal(fib_group_put(b->w, c.fp, &g), 0);
	if (step % 5 == 0)
		assert_int_equal(fib_put(b->w, c.fp, &d), 0);
	if (step % 16 == 0)
		fib_reclaim(b->w, step / 1000 + 1);
}

static void
groups_read(struct reader *rd, uint64_t step)
{
	const struct fib_group *g;
	struct fib_match m;
	char		t[64];
	size_t		i, k;
	bool		found = false;

	snprintf(t, sizeof(t), "s/%u", (unsigned)(step % KEEP));
	fib_enter(rd->r);
	fib_match(rd->r, t, strlen(t), &m);
	if (!fib_leave(rd->r)) {
		atomic_fetch_add(&rd->bed->evicted, 1);
		return;
	}
	for (i = 0; i < m.ngroups; i++) {
		g = &m.groups[i];
		for (k = 0; k < g->nslots; k++) {
			if (g->slots[k].members != g->slots[k].slot + 1u &&
			    g->slots[k].members != g->slots[k].slot + 1000u)
				say(rd, "members of another slot", t);
			found |= g->id_lo == 0 && g->slots[k].slot == 5;
		}
		if (g->id_hi != 0 || g->id_lo > 20)
			say(rd, "a group that never was", t);
	}
	if (!found)
		say(rd, "the group is not found", t);
}

static void
a_group_is_found_while_it_changes_and_others_come_and_go(void **state UNUSED)
{
	struct bed	b;
	uint64_t	i;

	bed_init(&b, 32);
	for (i = 0; i < 3 * KEEP; i++)
		groups_write(&b, i);
	bed_run(&b, groups_read, groups_write, 60000);
	print_message("%lu turns, %lu evicted\n",
	    (unsigned long)atomic_load(&b.turns),
	    (unsigned long)atomic_load(&b.evicted));
	bed_fini(&b);
}

/* --- Moves ----------------------------------------------------------- */

/*
 * Owner 0 keeps one filter each of three shapes at anchor k, with a quota of
 * two, so one of the three is widened; owner 1 comes and goes with other
 * shapes, and owner 0 makes one or the other of its shapes the used one.
 */
static void
moves_write(struct bed *b, uint64_t step)
{
	static const char *const others[] = { "k/+/+/+/o", "k/+/p/#",
	    "k/+/+/q/r/#", "k/+/+/+/s/+" };
	static const char *const shapes[] = { "k/+/x%u", "k/+/+/y%u",
	    "k/+/z%u/#" };
	char		t[64];
	unsigned	turn = (unsigned)(step / 40 % 6);

	if (step % 5 == 0)
		(void)rib_add(b->rib, 1, others[step / 5 % 4],
		    strlen(others[step / 5 % 4]), 0);
	if (step % 7 == 0)
		(void)rib_del(b->rib, 1, others[step / 7 % 4],
		    strlen(others[step / 7 % 4]));
	snprintf(t, sizeof(t), shapes[turn / 2], 1 + (unsigned)(step % 40));
	if (turn & 1)
		(void)rib_del(b->rib, 0, t, strlen(t));
	else
		assert_int_equal(rib_add(b->rib, 0, t, strlen(t), 0), 0);
	if (step % 3 == 0) {
		fib_reclaim(b->w, step / 1000 + 1);
		(void)rib_tidy(b->rib, 4);
	}
}

static uint64_t	kept_ids[3][2];

static void
moves_read(struct reader *rd, uint64_t step)
{
	static const char *const topics[] = { "k/1/x0", "k/1/2/y0", "k/1/z0/5",
	    "k/1/z0" };
	const char	*t = topics[step % 4];
	unsigned	 k = (unsigned)MIN(step % 4, 2);
	struct fib_match m;
	size_t		 i;

	fib_enter(rd->r);
	fib_match(rd->r, t, strlen(t), &m);
	if (!fib_leave(rd->r))
		atomic_fetch_add(&rd->bed->evicted, 1);
	else if ((m.slots & 1) == 0)
		say(rd, "not found", t);
	else {
		for (i = 0; i < m.ngroups; i++)
			if (m.groups[i].id_hi == kept_ids[k][0] &&
			    m.groups[i].id_lo == kept_ids[k][1] &&
			    m.groups[i].slots[0].members == 7)
				return;
		say(rd, "its group is not found", t);
	}
}

static void
a_route_is_found_while_its_shape_is_widened_and_narrowed(void **state UNUSED)
{
	static const char *const kept[] = { "k/+/x0", "k/+/+/y0", "k/+/z0/#" };
	struct fib_slot	d = { FIB_LISTENER, FIB_UP, 0, 0, 1 };
	struct rib_stats st;
	struct bed	b;
	unsigned	o;

	for (o = 0; o < 3; o++) {
		struct group_id id = group_id_of("g", 1, kept[o],
		    strlen(kept[o]));

		kept_ids[o][0] = id.hi;
		kept_ids[o][1] = id.lo;
	}
	bed_init(&b, 2);
	assert_int_equal(rib_owner_open(b.rib, &d, &o), 0);
	d.instance = 1;
	assert_int_equal(rib_owner_open(b.rib, &d, &o), 0);
	assert_int_equal(rib_add(b.rib, 0, "k/+/x0", 6, 0), 0);
	assert_int_equal(rib_add(b.rib, 0, "k/+/+/y0", 8, 0), 0);
	assert_int_equal(rib_add(b.rib, 0, "k/+/z0/#", 8, 0), 0);
	for (o = 0; o < 3; o++)
		assert_int_equal(rib_group(b.rib, 0, kept[o], strlen(kept[o]),
		    "g", 1, 7), 0);
	bed_run(&b, moves_read, moves_write, 60000);
	rib_stats(b.rib, &st);
	print_message("%lu widenings, %lu narrowings, %lu turns, %lu evicted\n",
	    (unsigned long)st.widenings, (unsigned long)st.narrowings,
	    (unsigned long)atomic_load(&b.turns),
	    (unsigned long)atomic_load(&b.evicted));
	assert_true(st.widenings > 100);
	bed_fini(&b);
}

/* --- Growth ---------------------------------------------------------- */

#define CHURN	60000u

static void
growth_write(struct bed *b, uint64_t step)
{
	char		t[64];

	snprintf(t, sizeof(t), "g/%u/+", (unsigned)(step % CHURN));
	if (step / CHURN % 2 == 0)
		assert_int_equal(rib_add(b->rib, 0, t, strlen(t), 0), 0);
	else
		(void)rib_del(b->rib, 0, t, strlen(t));
	if (step % 64 == 0) {
		fib_reclaim(b->w, step / 1000 + 1);
		(void)rib_tidy(b->rib, 64);
	}
}

static void
growth_read(struct reader *rd, uint64_t step)
{
	char		text[16][64];
	struct slice	t[16];
	struct fib_match m[16];
	unsigned	k;

	for (k = 0; k < 16; k++) {
		t[k].len = (size_t)snprintf(text[k], sizeof(text[k]),
		    k % 2 ? "keep/%u/x" : "g/%u/x",
		    (unsigned)(step * 16 + k) % (k % 2 ? 500 : CHURN));
		t[k].data = (uint8_t *)text[k];
	}
	fib_enter(rd->r);
	fib_match_batch(rd->r, t, 16, m);
	if (!fib_leave(rd->r)) {
		atomic_fetch_add(&rd->bed->evicted, 1);
		return;
	}
	for (k = 0; k < 16; k++) {
		if (k % 2 && m[k].slots != 1)
			say(rd, "not found", text[k]);
		if (k % 2 == 0 && m[k].slots > 1)
			say(rd, "found what never was", text[k]);
	}
}

static void
routes_are_found_while_buckets_are_split_and_rewritten(void **state UNUSED)
{
	struct fib_slot	d = { FIB_LISTENER, FIB_UP, 0, 0, 1 };
	struct fib_stats st;
	struct bed	b;
	char		t[64];
	unsigned	o, i;

	bed_init(&b, 32);
	assert_int_equal(rib_owner_open(b.rib, &d, &o), 0);
	for (i = 0; i < 500; i++) {
		snprintf(t, sizeof(t), "keep/%u/+", i);
		assert_int_equal(rib_add(b.rib, 0, t, strlen(t), 0), 0);
	}
	bed_run(&b, growth_read, growth_write, 4 * CHURN);
	fib_writer_stats(b.w, &st);
	print_message("%lu splits, %lu rewrites, %lu turns, %lu evicted\n",
	    (unsigned long)st.splits, (unsigned long)st.rewrites,
	    (unsigned long)atomic_load(&b.turns),
	    (unsigned long)atomic_load(&b.evicted));
	assert_true(st.splits > 20);
	bed_fini(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_set_is_read_whole_while_it_is_swapped),
		cmocka_unit_test(
		    a_group_is_found_while_it_changes_and_others_come_and_go),
		cmocka_unit_test(
		    a_route_is_found_while_its_shape_is_widened_and_narrowed),
		cmocka_unit_test(
		    routes_are_found_while_buckets_are_split_and_rewritten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The index by itself, and its promises to readers in other processes: kill -9
 * of the writer, SIGSTOP of a reader.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../support/fibmem.h"
#include "base/err.h"
#include "topic/group.h"
#include "fib/layout.h"
#include "shm/segment.h"

static struct fib_cut
cut_of(struct fib_writer *w, const char *filter)
{
	struct fib_cut c;

	fib_cut(fib_writer_key(w), filter, strlen(filter), &c);
	return c;
}

static void
put(struct fib_writer *w, const char *filter, uint64_t slots)
{
	struct fib_cut	c = cut_of(w, filter);
	struct fib_dests d = { slots, NULL, 0 };

	assert_int_equal(fib_put(w, c.fp, &d), 0);
	if (c.shape != FIB_SHAPE_NONE)
		assert_int_equal(fib_anchor_put(w, c.anchor,
		    fib_levels(c.anchor_levels), &c.shape, slots != 0), 0);
}

static uint64_t
ask(struct fib_reader *r, const char *topic)
{
	struct fib_match m;

	fib_enter(r);
	fib_match(r, topic, strlen(topic), &m);
	return fib_leave(r) ? m.slots : ~(uint64_t)0;
}

/* --- Cutting --------------------------------------------------------- */

static void
a_filter_is_cut_at_its_first_wildcard(void **state UNUSED)
{
	static const struct {
		const char	*filter;
		unsigned	 levels, len;
		uint64_t	 shape;
	} rows[] = {
		{ "a/b", 0, 0, FIB_SHAPE_NONE },
		{ "#", 0, 0, FIB_SHAPE_HASH },
		{ "a/#", 1, 1, FIB_SHAPE_HASH },
		{ "/#", 1, 0, FIB_SHAPE_HASH },
		{ "+", 0, 0, 1 << 1 | 1 << 7 },
		{ "a/b/+/c", 2, 3, 2 << 1 | 1 << 7 },
		{ "a/+/+/#", 1, 1, 1 | 2 << 1 | 3 << 7 },
		{ "//+", 2, 1, 1 << 1 | 1 << 7 },
	};
	const struct fib_key key = { 1, 2, 0 };
	struct fib_cut	 c;
	size_t		 i;

	for (i = 0; i < NELEM(rows); i++) {
		fib_cut(&key, rows[i].filter, strlen(rows[i].filter), &c);
		assert_int_equal(c.shape, rows[i].shape);
		assert_int_equal(c.anchor_levels, rows[i].levels);
		assert_int_equal(c.anchor_len, rows[i].len);
		assert_int_equal(c.fp & 1, 0);
		assert_int_equal(c.anchor & 1, c.shape != FIB_SHAPE_NONE);
		if (c.shape == FIB_SHAPE_HASH)
			assert_int_equal(c.fp, fib_wide(c.anchor));
	}
}

static void
fingerprints_depend_on_the_key_and_on_every_level(void **state UNUSED)
{
	static const char *const filters[] = { "a", "b", "a/b", "b/a", "/a",
	    "a/", "ab", "a/+", "+/a", "+/+", "a/+/#", "a/+/+", "+", "/", "//",
	    "aaaaaaaa", "aaaaaaaa/", "aaaaaaaaa", "" };
	const struct fib_key one = { 1, 2, 0 }, two = { 1, 3, 0 };
	struct fib_cut	 c[NELEM(filters)], d;
	size_t		 i, k;

	for (i = 0; i < NELEM(filters); i++) {
		fib_cut(&one, filters[i], strlen(filters[i]), &c[i]);
		fib_cut(&two, filters[i], strlen(filters[i]), &d);
		assert_true(d.fp != c[i].fp);
		for (k = 0; k < i; k++)
			assert_true(c[k].fp != c[i].fp);
	}
}

/* --- One process ----------------------------------------------------- */

static void
what_is_put_is_found_until_it_is_removed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	char		t[64];
	unsigned	i, pass;

	fibmem_init(&mem, 128u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	for (pass = 0; pass < 3; pass++) {
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/+", i);
			put(w, t, (uint64_t)1 << i % 63);
		}
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/x", i);
			assert_int_equal(ask(r, t), (uint64_t)1 << i % 63);
		}
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/+", i);
			put(w, t, 0);
			if (i % 1000 == 0)
				fib_reclaim(w, pass + 1);
		}
		assert_int_equal(ask(r, "d/77/x"), 0);
		fib_writer_stats(w, &st);
		assert_int_equal(st.entries, 0);
		assert_int_equal(st.anchors, 0);
	}
	fib_reclaim(w, 10);
	fib_writer_stats(w, &st);
	assert_int_equal(st.held_bytes, 0);
	assert_true(st.bytes <= 16u << 20);	/* three passes, one's memory */
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
sets_beyond_the_word_are_shared_and_go(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	struct fib_match m;
	struct fib_dests d, got, none = { 0 };
	uint16_t	more[FIB_MORE_MAX];
	char		t[64];
	unsigned	i, k;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	for (i = 0; i < FIB_MORE_MAX; i++)
		more[i] = (uint16_t)(FIB_WORD_SLOTS + i);
	for (i = 0; i < 3000; i++) {
		snprintf(t, sizeof(t), "s/%u", i);
		d = (struct fib_dests){ i % 3, more, 1 + i % 3 };
		assert_int_equal(fib_put(w, cut_of(w, t).fp, &d), 0);
	}
	fib_writer_stats(w, &st);
	assert_int_equal(st.sets, 3);
	assert_int_equal(st.set_uses, 3000);
	fib_enter(r);
	fib_match(r, "s/5", 3, &m);
	assert_int_equal(m.slots, 2);
	assert_int_equal(m.nmore, 3);
	for (k = 0; k < 3; k++)
		assert_int_equal(m.more[k], FIB_WORD_SLOTS + k);
	assert_true(fib_leave(r));
	/* The largest there is. */
	d = (struct fib_dests){ 1, more, FIB_MORE_MAX };
	assert_int_equal(fib_put(w, cut_of(w, "s/7").fp, &d), 0);
	assert_int_equal(fib_get(w, cut_of(w, "s/7").fp, &got), 0);
	assert_int_equal(got.nmore, FIB_MORE_MAX);
	fib_enter(r);
	fib_match(r, "s/7", 3, &m);
	assert_int_equal(m.nmore, FIB_MORE_MAX);
	assert_true(fib_leave(r));
	/* Bad ones. */
	more[0] = 5;
	assert_int_equal(fib_put(w, cut_of(w, "s/8").fp, &d), ERR_INVAL);
	more[0] = more[1];
	assert_int_equal(fib_put(w, cut_of(w, "s/8").fp, &d), ERR_INVAL);
	for (i = 0; i < 3000; i++) {
		snprintf(t, sizeof(t), "s/%u", i);
		assert_int_equal(fib_put(w, cut_of(w, t).fp, &none), 0);
	}
	fib_reclaim(w, 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.sets, 0);
	assert_int_equal(st.set_uses, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* --- Groups ---------------------------------------------------------- */

static void
put_group(struct fib_writer *w, uint64_t fp, uint64_t id,
    const struct fib_group_slot *slots, size_t n, int expect)
{
	struct fib_group g = { id, ~id, slots, n };

	assert_int_equal(fib_group_put(w, fp, &g), expect);
}

static const struct fib_group *
group_of(const struct fib_match *m, uint64_t id)
{
	const struct fib_group *found = NULL;
	size_t		i, k;

	for (i = 0; i < m->ngroups; i++) {
		if (m->groups[i].id_hi != id)
			continue;
		assert_int_equal(m->groups[i].id_lo, ~id);
		assert_null(found);		/* each id once */
		found = &m->groups[i];
		for (k = 0; k < found->nslots; k++) {
			assert_true(found->slots[k].members > 0);
			assert_true(k == 0 || found->slots[k].slot >
			    found->slots[k - 1].slot);
		}
	}
	return found;
}

/* What is answered is the caller's until the next match. */
static struct fib_match
match(struct fib_reader *r, const char *topic)
{
	struct fib_match m;

	fib_enter(r);
	fib_match(r, topic, strlen(topic), &m);
	assert_true(fib_leave(r));
	assert_false(m.groups_short);
	return m;
}

static void
an_id_is_the_hash_of_name_and_filter(void **state UNUSED)
{
	static const struct {
		const char	*name, *filter;
		uint64_t	 hi, lo;
	} rows[] = {	/* of the text in one piece */
		{ "g", "f", 0x5166af1204cfc58cu, 0xbb90b333502aa7c8u },
		{ "consumers", "plant/+/temperature/#", 0xd9d7e96d9b005412u,
		    0xce7201a127d2e05du },
	};
	char		long_name[700];
	struct group_id	id;
	uint64_t	hi, lo, hi2, lo2;
	size_t		i;

	for (i = 0; i < NELEM(rows); i++) {
		id = group_id_of(rows[i].name, strlen(rows[i].name),
		    rows[i].filter, strlen(rows[i].filter));
	hi = id.hi;
	lo = id.lo;
		assert_true(hi == rows[i].hi);
		assert_true(lo == rows[i].lo);
	}
	/* Only the text joined with a slash counts. */
	memset(long_name, 'n', sizeof(long_name));
	long_name[300] = '/';
	id = group_id_of(long_name, 300, long_name + 301, 399);
	hi = id.hi;
	lo = id.lo;
	id = group_id_of(long_name, 100, long_name + 101, 599);
	hi2 = id.hi;
	lo2 = id.lo;
	assert_true(hi != hi2 && lo != lo2);
	long_name[100] = '/';
	id = group_id_of(long_name, 100, long_name + 101, 599);
	hi = id.hi;
	lo = id.lo;
	id = group_id_of(long_name, 300, long_name + 301, 399);
	hi2 = id.hi;
	lo2 = id.lo;
	assert_true(hi == hi2 && lo == lo2);
}

static void
groups_stand_beside_destinations(void **state UNUSED)
{
	static const struct fib_group_slot a[] = { { 3, 0, 7 }, { 70, 0, 1 },
	    { 4095, 0, 9 } }, b[] = { { 0, 0, UINT32_MAX } };
	static const uint16_t more[] = { 63, 100 };
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	struct fib_match m;
	struct fib_dests d, none = { 0 };
	uint64_t	fp;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fp = cut_of(w, "t").fp;
	put_group(w, fp, 5, a, 3, 0);
	m = match(r, "t");
	assert_true(m.slots == 0 && m.nmore == 0 && m.ngroups == 1);
	assert_int_equal(group_of(&m, 5)->nslots, 3);
	assert_memory_equal(group_of(&m, 5)->slots, a, sizeof(a));
	put(w, "t", 6);			/* destinations join them */
	put_group(w, fp, 4, b, 1, 0);
	m = match(r, "t");
	assert_true(m.slots == 6 && m.nmore == 0 && m.ngroups == 2);
	assert_memory_equal(group_of(&m, 5)->slots, a, sizeof(a));
	assert_memory_equal(group_of(&m, 4)->slots, b, sizeof(b));
	d = (struct fib_dests){ 8, more, 2 };
	assert_int_equal(fib_put(w, fp, &d), 0);
	m = match(r, "t");
	assert_true(m.slots == 8 && m.nmore == 2 && m.more[1] == 100);
	assert_int_equal(m.ngroups, 2);
	assert_int_equal(fib_put(w, fp, &none), 0);	/* and leave them */
	m = match(r, "t");
	assert_true(m.slots == 0 && m.nmore == 0 && m.ngroups == 2);
	assert_int_equal(fib_get(w, fp, &d), 0);
	assert_true(d.slots == 0 && d.nmore == 0);
	assert_int_equal(match(r, "u").ngroups, 0);
	fib_writer_stats(w, &st);
	assert_int_equal(st.groups, 2);
	assert_int_equal(st.group_sets, 1);
	assert_int_equal(st.sets, 0);
	/* The groups go one by one, the destinations stay. */
	d = (struct fib_dests){ 8, more, 2 };
	assert_int_equal(fib_put(w, fp, &d), 0);
	put_group(w, fp, 5, NULL, 0, 0);
	put_group(w, fp, 5, NULL, 0, 0);	/* not there: no matter */
	m = match(r, "t");
	assert_true(m.slots == 8 && m.nmore == 2 && m.ngroups == 1);
	put_group(w, fp, 4, NULL, 0, 0);
	m = match(r, "t");
	assert_true(m.slots == 8 && m.nmore == 2 && m.ngroups == 0);
	fib_writer_stats(w, &st);
	assert_int_equal(st.groups, 0);
	assert_int_equal(st.group_sets, 0);
	assert_int_equal(st.sets, 1);
	assert_int_equal(fib_put(w, fp, &none), 0);
	fib_reclaim(w, 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.entries, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_group_that_is_none_is_refused(void **state UNUSED)
{
	static const struct fib_group_slot twice[] = { { 3, 0, 7 },
	    { 3, 0, 1 } }, down[] = { { 4, 0, 7 }, { 3, 0, 1 } },
	    empty[] = { { 4, 0, 0 } }, far[] = { { FIB_SLOTS, 0, 1 } },
	    good[] = { { 1, 0, 1 } };
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	uint64_t	fp;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fp = cut_of(w, "t").fp;
	put_group(w, fp, 5, twice, 2, ERR_INVAL);
	put_group(w, fp, 5, down, 2, ERR_INVAL);
	put_group(w, fp, 5, empty, 1, ERR_INVAL);
	put_group(w, fp, 5, far, 1, ERR_INVAL);
	put_group(w, 1, 5, good, 1, ERR_INVAL);
	put_group(w, 0, 5, good, 1, ERR_INVAL);
	assert_int_equal(match(r, "t").ngroups, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* Many groups at one filter, to the bound, in any order of ids. */
static void
a_terminal_holds_as_many_groups_as_it_may(void **state UNUSED)
{
	struct fib_group_slot slot = { 1, 0, 1 };
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_match m;
	struct fib_stats st;
	uint64_t	fp;
	unsigned	i, id;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fp = cut_of(w, "t").fp;
	for (i = 0; i < FIB_GROUPS_MAX; i++) {
		id = i * 389 % FIB_GROUPS_MAX;
		slot = (struct fib_group_slot){ (uint16_t)id, 0, id + 1 };
		put_group(w, fp, id, &slot, 1, 0);
	}
	put_group(w, fp, FIB_GROUPS_MAX, &slot, 1, ERR_FULL);
	put_group(w, fp, 7, &slot, 1, 0);	/* those there may change */
	slot = (struct fib_group_slot){ 7, 0, 8 };
	put_group(w, fp, 7, &slot, 1, 0);
	put(w, "t", 1);
	m = match(r, "t");
	assert_int_equal(m.slots, 1);
	assert_int_equal(m.ngroups, FIB_GROUPS_MAX);
	for (i = 0; i < FIB_GROUPS_MAX; i++) {
		assert_int_equal(group_of(&m, i)->nslots, 1);
		assert_int_equal(group_of(&m, i)->slots[0].slot, i);
		assert_int_equal(group_of(&m, i)->slots[0].members, i + 1);
	}
	for (i = 0; i < FIB_GROUPS_MAX; i++) {
		put_group(w, fp, i * 7 % FIB_GROUPS_MAX, NULL, 0, 0);
		if (i % 100 == 0)
			assert_int_equal(match(r, "t").ngroups,
			    FIB_GROUPS_MAX - 1 - i);
	}
	put(w, "t", 0);
	fib_reclaim(w, 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.groups, 0);
	assert_int_equal(st.entries, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* Every slot there is in one group; its counts change where they lie, without
 * memory. */
static void
a_large_group_changes_its_counts_in_place(void **state UNUSED)
{
	static struct fib_group_slot slots[FIB_SLOTS];
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st, was;
	struct fib_match m;
	uint64_t	fp;
	unsigned	i;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fp = cut_of(w, "t").fp;
	for (i = 0; i < FIB_SLOTS; i++) {
		slots[i] = (struct fib_group_slot){ (uint16_t)i, 0, 1 };
		put_group(w, fp, 5, slots, i + 1, 0);
	}
	fib_reclaim(w, 1);
	fib_writer_stats(w, &was);
	assert_int_equal(was.held_bytes, 0);
	for (i = 0; i < 1000; i++) {
		slots[i].members = 1000000 + i;
		put_group(w, fp, 5, slots, FIB_SLOTS, 0);
	}
	fib_writer_stats(w, &st);
	assert_int_equal(st.held_bytes, 0);
	assert_int_equal(st.pieces_used, was.pieces_used);
	m = match(r, "t");
	assert_int_equal(group_of(&m, 5)->nslots, FIB_SLOTS);
	assert_memory_equal(group_of(&m, 5)->slots, slots, sizeof(slots));
	put_group(w, fp, 5, NULL, 0, 0);
	fib_reclaim(w, 2);
	fib_writer_stats(w, &st);
	assert_int_equal(st.entries, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* A group under two terminals that one topic matches, as while its filter
 * moves: once, with the slots of both. */
static void
a_group_found_twice_is_answered_once(void **state UNUSED)
{
	static const struct fib_group_slot one[] = { { 1, 0, 4 }, { 3, 0, 2 },
	    { 9, 0, 1 } }, two[] = { { 1, 0, 3 }, { 2, 0, 1 }, { 3, 0, 5 },
	    { 70, 0, 6 } }, both[] = { { 1, 0, 4 }, { 2, 0, 1 }, { 3, 0, 5 },
	    { 9, 0, 1 }, { 70, 0, 6 } };
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_match m[3];
	struct slice	t[3] = { { (const uint8_t *)"a/b", 3 },
	    { (const uint8_t *)"a", 1 }, { (const uint8_t *)"a/b", 3 } };
	unsigned	i;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	put(w, "a/#", 1);
	put_group(w, cut_of(w, "a/#").fp, 5, one, 3, 0);
	put_group(w, cut_of(w, "a/#").fp, 6, one, 1, 0);
	put_group(w, cut_of(w, "a/b").fp, 5, two, 4, 0);
	fib_enter(r);
	fib_match_batch(r, t, 3, m);
	assert_true(fib_leave(r));
	for (i = 0; i < 3; i++) {
		assert_int_equal(m[i].slots, 1);
		assert_int_equal(m[i].ngroups, 2);
		assert_int_equal(group_of(&m[i], 6)->nslots, 1);
		assert_int_equal(group_of(&m[i], 5)->nslots, i == 1 ? 3 : 5);
		assert_memory_equal(group_of(&m[i], 5)->slots,
		    i == 1 ? one : both, i == 1 ? sizeof(one) : sizeof(both));
	}
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/*
 * Without memory nothing can come, but what is to go goes: no reader may pick a
 * member that is not there.
 */
static void
a_group_goes_without_memory(void **state UNUSED)
{
	static const struct fib_group_slot two[] = { { 1, 0, 4 }, { 3, 0, 2 } },
	    one[] = { { 3, 0, 9 } }, three[] = { { 1, 0, 4 }, { 3, 0, 2 },
	    { 5, 0, 6 } };
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	struct fib_match m;
	uint64_t	fp;
	char		t[64];
	unsigned	i, round, n;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	/* Fill the memory there is with groups of two sizes; the reader holds
	 * it back, so nothing returns. */
	fib_enter(r);
	mem.bound = 1u << 20;
	for (round = 0; round < 2; round++)
		for (i = 0;; i++) {
			struct fib_group g = { i, ~(uint64_t)i, two, 2 };

			snprintf(t, sizeof(t), "t/%u/%u", round, i);
			if (fib_group_put(w, cut_of(w, t).fp, &g) < 0)
				break;
			g.id_hi = i + 1000000;
			g.id_lo = ~g.id_hi;
			if (round == 0 &&
			    fib_group_put(w, cut_of(w, t).fp, &g) < 0)
				break;
		}
	/* And use up what is left of blocks of their sizes. */
	fp = cut_of(w, "t/0/200").fp;
	for (n = i = 0; n < 100; i++) {
		struct fib_group g = { 200, ~(uint64_t)200,
		    i & 1 ? three : one, i & 1 ? 3 : 1 };
		struct fib_dests d = { i & 1, NULL, 0 };

		n += fib_group_put(w, fp, &g) < 0;
		n += fib_put(w, fp, &d) < 0;
	}
	n = 0;
	for (i = 0; i < 100; i++) {
		snprintf(t, sizeof(t), "t/0/%u", i);
		fp = cut_of(w, t).fp;
		put_group(w, fp, i, one, 1, 0);
		{
			struct fib_group g = { i, ~(uint64_t)i, three, 3 };

			n += fib_group_put(w, fp, &g) < 0;
		}
		m = (struct fib_match){ 0 };
		fib_match(r, t, strlen(t), &m);
		assert_int_equal(m.ngroups, 2);
		assert_int_equal(group_of(&m, i + 1000000)->nslots, 2);
		if (group_of(&m, i)->nslots == 1)
			assert_memory_equal(group_of(&m, i)->slots, one,
			    sizeof(one));
		else
			assert_memory_equal(group_of(&m, i)->slots, three,
			    sizeof(three));
		put_group(w, fp, i, NULL, 0, 0);
		put_group(w, fp, i, NULL, 0, 0);
		fib_match(r, t, strlen(t), &m);
		assert_int_equal(m.ngroups, 1);
		put_group(w, fp, i + 1000000, NULL, 0, 0);
		fib_match(r, t, strlen(t), &m);
		assert_int_equal(m.ngroups, 0);
	}
	assert_true(n > 0);		/* it was that scarce */
	assert_true(fib_leave(r));
	/* With memory again nothing of it is left over. */
	mem.bound = 0;
	for (i = 0; i < 100; i++) {
		snprintf(t, sizeof(t), "t/0/%u", i);
		put_group(w, cut_of(w, t).fp, i, two, 2, 0);
		m = match(r, t);
		assert_int_equal(m.ngroups, 1);
		put_group(w, cut_of(w, t).fp, i, NULL, 0, 0);
	}
	put(w, "t/0/200", 0);
	for (round = 0; round < 2; round++)
		for (i = 0; i < 40000; i++) {
			snprintf(t, sizeof(t), "t/%u/%u", round, i);
			fp = cut_of(w, t).fp;
			put_group(w, fp, i, NULL, 0, 0);
			put_group(w, fp, i + 1000000, NULL, 0, 0);
		}
	fib_reclaim(w, 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.groups, 0);
	assert_int_equal(st.entries, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_batch_answers_as_one_by_one(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_match one, m[FIB_BATCH];
	struct slice	t[FIB_BATCH];
	static char	text[FIB_BATCH][70000];
	unsigned	i;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	put(w, "+/+/x", 1);
	put(w, "a/#", 2);
	put(w, "////////#", 4);
	for (i = 0; i < FIB_BATCH; i++) {
		/* Some as deep and as long as they come, and beyond. */
		t[i].data = (uint8_t *)text[i];
		if (i % 3 == 0) {
			t[i].len = i % 2 ? 65535 : 65536;
			memset(text[i], '/', t[i].len);
		} else
			t[i].len = (size_t)snprintf(text[i], 64, "%s/%u/x",
			    i & 1 ? "a" : "b", i);
	}
	fib_enter(r);
	fib_match_batch(r, t, FIB_BATCH, m);
	for (i = 0; i < FIB_BATCH; i++) {
		uint64_t slots = m[i].slots;

		fib_match(r, t[i].data, t[i].len, &one);
		assert_int_equal(slots, one.slots);
		if (i % 3 == 0)
			assert_int_equal(slots, t[i].len == 65535 ? 4 : 0);
		else
			assert_int_equal(slots, i & 1 ? 3 : 1);
	}
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_slot_is_numbered_anew_only_when_readers_have_passed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_slot	d = { FIB_NODE, FIB_UP, 3, 1, 0 }, got;
	unsigned	a, b, c;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	assert_int_equal(fib_dest_open(w, &d, &a), 0);
	assert_int_equal(fib_dest_open(w, &d, &b), 0);
	assert_int_equal(a, 0);
	assert_int_equal(b, 1);
	assert_int_equal(fib_slot(r, 1, &got), 0);
	assert_int_equal(got.kind, FIB_NODE);
	assert_int_equal(got.node, 3);
	assert_int_equal(got.instance, 1);
	fib_dest_set(w, 1, FIB_DOWN, 77);
	assert_int_equal(fib_slot(r, 1, &got), 0);
	assert_int_equal(got.state, FIB_DOWN);
	assert_int_equal(got.incarnation, 77);
	assert_int_equal(fib_slot(r, 2, &got), ERR_NOTFOUND);
	assert_int_equal(fib_slot(r, FIB_SLOTS, &got), ERR_NOTFOUND);
	fib_enter(r);
	fib_dest_close(w, a);
	fib_reclaim(w, 1);
	assert_int_equal(fib_dest_open(w, &d, &c), 0);
	assert_int_equal(c, 2);
	assert_int_equal(fib_slot(r, a, &got), 0);
	assert_true(fib_leave(r));
	fib_reclaim(w, 2);
	assert_int_equal(fib_slot(r, a, &got), ERR_NOTFOUND);
	assert_int_equal(fib_dest_open(w, &d, &c), 0);
	assert_int_equal(c, 0);
	for (c = 0; c < FIB_SLOTS - 3; c++)
		assert_int_equal(fib_dest_open(w, &d, &a), 0);
	assert_int_equal(fib_dest_open(w, &d, &a), ERR_FULL);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
grace_is_over_when_readers_have_left(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	uint64_t	ticket;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	ticket = fib_grace(w);
	assert_false(fib_grace_over(w, ticket));
	fib_reclaim(w, 1);
	assert_true(fib_grace_over(w, ticket));
	fib_enter(r);
	ticket = fib_grace(w);
	fib_reclaim(w, 2);
	fib_reclaim(w, 3);
	assert_false(fib_grace_over(w, ticket));
	assert_true(fib_leave(r));
	fib_enter(r);			/* later, hence no matter */
	fib_reclaim(w, 4);
	assert_true(fib_grace_over(w, ticket));
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
who_holds_back_too_long_is_evicted(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	uint64_t	ticket;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fib_reclaim(w, 5000000);
	fib_enter(r);
	ticket = fib_grace(w);
	fib_reclaim(w, 9000000);	/* long idle before: not its fault */
	fib_reclaim(w, 9001000);
	assert_false(fib_grace_over(w, ticket));
	fib_reclaim(w, 9001001);
	assert_true(fib_grace_over(w, ticket));
	fib_writer_stats(w, &st);
	assert_int_equal(st.evictions, 1);
	assert_false(fib_leave(r));
	fib_enter(r);
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
who_holds_back_too_much_is_evicted(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	char		t[64];
	unsigned	i;

	fibmem_init(&mem, 256u << 20);
	w = fibmem_writer(&mem, 0);	/* evict_bytes is 4 MiB */
	r = fibmem_reader(&mem);
	fib_enter(r);
	for (i = 0; i < 200000; i++) {
		snprintf(t, sizeof(t), "d/%u/+", i);
		put(w, t, 1);
		fib_writer_stats(w, &st);
		assert_true(st.held_bytes <= 4u << 20);
	}
	assert_int_equal(st.evictions, 1);
	assert_false(fib_leave(r));
	assert_int_equal(ask(r, "d/199999/x"), 1);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
epoch_slots_are_found_again_and_freed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r[FIB_READERS], *x;
	struct fib_stats st;
	uint64_t	at;
	unsigned	i;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	for (i = 0; i < FIB_READERS; i++)
		r[i] = fibmem_reader(&mem);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 9999), ERR_FULL);
	assert_int_equal(fib_reader_epoch(w, 9999, &at), ERR_NOTFOUND);
	assert_int_equal(fib_reader_epoch(w, 7, &at), 0);
	assert_int_equal(at, 0);
	fib_enter(r[6]);
	fib_writer_stats(w, &st);
	assert_int_equal(fib_reader_epoch(w, 7, &at), 0);
	assert_int_equal(at, st.epoch);
	assert_true(fib_leave(r[6]));
	fib_reader_gone(w, 5);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 9999), 0);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 0), ERR_INVAL);
	fib_writer_stats(w, &st);
	assert_int_equal(st.readers, FIB_READERS);
	fib_reader_close(&x);
	for (i = 0; i < FIB_READERS; i++)
		fib_reader_close(&r[i]);
	fib_writer_stats(w, &st);
	assert_int_equal(st.readers, 0);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_header_that_is_not_ours_is_refused(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r = NULL;
	uint8_t		*h;
	unsigned	 i, refused = 0;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	h = mem.data;
	assert_int_equal(fib_reader_open(&r, mem.data, mem.len - 1, mem.epochs,
	    FIB_EPOCHS_LEN, 1), ERR_PROTO);
	assert_int_equal(fib_reader_open(&r, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN - 1, 1), ERR_PROTO);
	for (i = 0; i < 40; i++) {
		h[i] ^= 0x40;
		if (fib_reader_open(&r, mem.data, mem.len, mem.epochs,
		    FIB_EPOCHS_LEN, 1) == ERR_PROTO)
			refused++;
		else
			fib_reader_close(&r);
		h[i] ^= 0x40;
	}
	assert_true(refused >= 36);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_node_has_one_name_in_a_generation(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_slot	d = { FIB_NODE, FIB_UP, 255, 1, 9 }, got;
	char		longest[FIB_NODE_NAME + 1];
	unsigned	slot;

	memset(longest, 'n', sizeof(longest));
	longest[FIB_NODE_NAME] = '\0';
	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	assert_string_equal(fib_node_name(r, 1), "");
	assert_int_equal(fib_node_name_set(w, 1, "emqx1@127.0.0.1"), 0);
	assert_string_equal(fib_node_name(r, 1), "emqx1@127.0.0.1");
	assert_int_equal(fib_node_name_set(w, 1, "emqx1@127.0.0.1"), 0);
	assert_int_equal(fib_node_name_set(w, 1, "emqx1@127.0.0.2"),
	    ERR_EXISTS);
	assert_string_equal(fib_node_name(r, 1), "emqx1@127.0.0.1");

	assert_int_equal(fib_node_name_set(w, 255, longest), ERR_INVAL);
	longest[FIB_NODE_NAME - 1] = '\0';
	assert_int_equal(fib_node_name_set(w, 255, longest), 0);
	assert_string_equal(fib_node_name(r, 255), longest);
	assert_int_equal(fib_dest_open(w, &d, &slot), 0);
	assert_int_equal(fib_slot(r, slot, &got), 0);
	assert_int_equal(got.kind, FIB_NODE);
	assert_int_equal(got.instance, 1);
	assert_string_equal(fib_node_name(r, got.node), longest);

	assert_int_equal(fib_node_name_set(w, 0, "x@y"), ERR_INVAL);
	assert_int_equal(fib_node_name_set(w, FIB_NODES, "x@y"), ERR_INVAL);
	assert_int_equal(fib_node_name_set(w, 2, ""), ERR_INVAL);
	assert_string_equal(fib_node_name(r, 0), "");
	assert_string_equal(fib_node_name(r, 2), "");
	assert_string_equal(fib_node_name(r, FIB_NODES), "");
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_change_has_a_new_version(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	uint64_t	v;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	v = fib_reader_version(r);
	assert_int_equal(fib_reader_version(r), v);
	put(w, "a", 1);
	assert_true(fib_reader_version(r) > v);
	assert_int_equal(fib_reader_generation(r), 7);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* --- Several processes ----------------------------------------------- */

struct proc_bed {
	struct shm_segment data, epochs;
	struct {
		_Atomic uint64_t turns, wrong, evicted, phase;
	} *shared;
};

static void
proc_bed_init(struct proc_bed *b)
{
	assert_int_equal(shm_create(&b->data, "fib", (size_t)1 << 30,
	    SHM_PRIVATE_WRITE), 0);
	assert_int_equal(shm_create(&b->epochs, "epochs", FIB_EPOCHS_LEN,
	    SHM_SHARED), 0);
	b->shared = fibmem_map(4096);
}

static void
proc_bed_fini(struct proc_bed *b)
{
	munmap(b->shared, 4096);
	shm_close(&b->data);
	shm_close(&b->epochs);
}

static struct fib_writer *
proc_writer(struct proc_bed *b)
{
	struct fib_writer_opts o = {
		.data = b->data.base, .len = b->data.len,
		.epochs = b->epochs.base, .epochs_len = b->epochs.len,
		.key = { 3, 4, 0 }, .grow = shm_grow_cb, .grow_ctx = &b->data,
		.evict_bytes = 8u << 20, .evict_ms = 50,
	};
	struct fib_writer *w;

	return fib_writer_open(&w, &o) == 0 ? w : NULL;
}

/* Topics keep/<i>/x are always there, and churn/... come and go. */
static void
proc_read(struct proc_bed *b, uint64_t owner)
{
	struct shm_segment data, epochs;
	struct fib_reader *r;
	char		t[64];
	uint64_t	i = 0, got;

	if (shm_map(&data, dup(b->data.fd), SHM_PRIVATE_WRITE) < 0 ||
	    shm_map(&epochs, dup(b->epochs.fd), SHM_SHARED) < 0 ||
	    fib_reader_open(&r, data.base, data.len, epochs.base, epochs.len,
	    owner) < 0)
		_exit(1);
	for (;; i++) {
		snprintf(t, sizeof(t), "keep/%u/x", (unsigned)(i * 7 % 500));
		got = ask(r, t);
		if (got == ~(uint64_t)0)
			atomic_fetch_add(&b->shared->evicted, 1);
		else if (got != (uint64_t)1 << i * 7 % 500 % 60)
			atomic_fetch_add(&b->shared->wrong, 1);
		atomic_fetch_add(&b->shared->turns, 1);
	}
}

static void
proc_churn(struct fib_writer *w, uint64_t *at, unsigned n)
{
	char	 t[64];
	unsigned k;

	for (k = 0; k < n; k++, ++*at) {
		snprintf(t, sizeof(t), "churn/%u/+", (unsigned)(*at % 30000));
		put(w, t, *at / 30000 % 2 ? 0 : 1);
	}
}

static void
proc_keep(struct fib_writer *w)
{
	char	 t[64];
	unsigned i;

	for (i = 0; i < 500; i++) {
		snprintf(t, sizeof(t), "keep/%u/+", i);
		put(w, t, (uint64_t)1 << i % 60);
	}
}

static void
wait_turns(struct proc_bed *b, uint64_t n)
{
	uint64_t until = atomic_load(&b->shared->turns) + n;

	while (atomic_load(&b->shared->turns) < until)
		usleep(200);
}

static void
kill_9_of_the_writer_hurts_no_reader(void **state UNUSED)
{
	struct proc_bed	b;
	struct fib_writer *w;
	unsigned	round;
	uint64_t	at = 0, ms;
	pid_t		reader, writer;

	for (round = 0; round < 10; round++) {
		proc_bed_init(&b);
		if ((writer = fork()) == 0) {
			if ((w = proc_writer(&b)) == NULL)
				_exit(1);
			proc_keep(w);
			atomic_store(&b.shared->phase, 1);
			for (ms = 1;; ms++) {
				proc_churn(w, &at, 64);
				fib_reclaim(w, ms / 50);
			}
		}
		while (atomic_load(&b.shared->phase) == 0)
			usleep(200);
		if ((reader = fork()) == 0)
			proc_read(&b, 1);
		wait_turns(&b, 2000 + round * 777);
		kill(writer, SIGKILL);
		waitpid(writer, NULL, 0);
		wait_turns(&b, 5000);
		kill(reader, SIGKILL);
		waitpid(reader, NULL, 0);
		assert_int_equal(atomic_load(&b.shared->wrong), 0);
		proc_bed_fini(&b);
	}
}

static void
a_stopped_reader_is_evicted_and_the_writer_stays_bounded(void **state UNUSED)
{
	struct proc_bed	b;
	struct fib_writer *w;
	struct fib_stats st;
	uint64_t	at = 0, ms = 1, wrong, first = 0;
	unsigned	round, i;
	pid_t		reader;

	proc_bed_init(&b);
	w = proc_writer(&b);
	assert_non_null(w);
	proc_keep(w);
	if ((reader = fork()) == 0)
		proc_read(&b, 1);
	for (round = 0; round < 10; round++) {
		wait_turns(&b, 300);
		kill(reader, SIGSTOP);
		waitpid(reader, NULL, WUNTRACED);
		for (i = 0; i < 1200; i++) {
			proc_churn(w, &at, 64);
			fib_reclaim(w, ms += 1);
		}
		fib_writer_stats(w, &st);
		assert_true(st.held_bytes <= 8u << 20);
		if (round == 4)
			first = st.bytes;
		if (round > 4)
			assert_true(st.bytes <= first + (16u << 20));
		kill(reader, SIGCONT);
	}
	wait_turns(&b, 300);
	wrong = atomic_load(&b.shared->wrong);
	/* A reader killed in the middle leaves its slot to be freed. */
	kill(reader, SIGKILL);
	waitpid(reader, NULL, 0);
	fib_reader_gone(w, 1);
	fib_reclaim(w, ms += 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.held_bytes, 0);
	assert_int_equal(st.readers, 0);
	assert_int_equal(wrong, 0);
	fib_writer_close(&w);
	proc_bed_fini(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_filter_is_cut_at_its_first_wildcard),
		cmocka_unit_test(fingerprints_depend_on_the_key_and_on_every_level),
		cmocka_unit_test(what_is_put_is_found_until_it_is_removed),
		cmocka_unit_test(sets_beyond_the_word_are_shared_and_go),
		cmocka_unit_test(an_id_is_the_hash_of_name_and_filter),
		cmocka_unit_test(groups_stand_beside_destinations),
		cmocka_unit_test(a_group_that_is_none_is_refused),
		cmocka_unit_test(a_terminal_holds_as_many_groups_as_it_may),
		cmocka_unit_test(a_large_group_changes_its_counts_in_place),
		cmocka_unit_test(a_group_found_twice_is_answered_once),
		cmocka_unit_test(a_group_goes_without_memory),
		cmocka_unit_test(a_batch_answers_as_one_by_one),
		cmocka_unit_test(a_slot_is_numbered_anew_only_when_readers_have_passed),
		cmocka_unit_test(grace_is_over_when_readers_have_left),
		cmocka_unit_test(who_holds_back_too_long_is_evicted),
		cmocka_unit_test(who_holds_back_too_much_is_evicted),
		cmocka_unit_test(epoch_slots_are_found_again_and_freed),
		cmocka_unit_test(a_header_that_is_not_ours_is_refused),
		cmocka_unit_test(a_node_has_one_name_in_a_generation),
		cmocka_unit_test(a_change_has_a_new_version),
		cmocka_unit_test(kill_9_of_the_writer_hurts_no_reader),
		cmocka_unit_test(a_stopped_reader_is_evicted_and_the_writer_stays_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

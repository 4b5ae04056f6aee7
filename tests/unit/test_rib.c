#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "rib/rib.h"
#include "topic/group.h"
#include "../support/fibmem.h"

/* --- One rib on one fib ---------------------------------------------- */

struct bed {
	struct fibmem	 mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct rib	*rib;
	uint64_t	 now;
};

static void
bed_init(struct bed *b, unsigned bits, unsigned shapes)
{
	struct rib_opts	o = { .anchor_shapes = shapes };

	memset(b, 0, sizeof(*b));
	fibmem_init(&b->mem, 64u << 20);
	b->w = fibmem_writer(&b->mem, bits);
	b->r = fibmem_reader(&b->mem);
	o.key = *fib_writer_key(b->w);
	assert_int_equal(rib_new(&b->rib, &o), 0);
	assert_int_equal(rib_attach(b->rib, b->w), 0);
}

static void
bed_fini(struct bed *b)
{
	rib_free(&b->rib);
	fib_reader_close(&b->r);
	fib_writer_close(&b->w);
	fibmem_fini(&b->mem);
}

static unsigned
bed_owner(struct bed *b, uint32_t instance)
{
	struct fib_slot	d = { FIB_LISTENER, FIB_UP, 0, instance, instance + 1 };
	unsigned	owner;

	assert_int_equal(rib_owner_open(b->rib, &d, &owner), 0);
	return owner;
}

/* Turns until nothing is left to move. */
static void
bed_settle(struct bed *b)
{
	int i, more = 1;

	for (i = 0; i < 8 || more; i++) {
		fib_reclaim(b->w, ++b->now);
		more = rib_tidy(b->rib, 1000);
	}
}

static int
add(struct bed *b, unsigned owner, const char *filter)
{
	return rib_add(b->rib, owner, filter, strlen(filter), 1);
}

static int
del(struct bed *b, unsigned owner, const char *filter)
{
	return rib_del(b->rib, owner, filter, strlen(filter));
}

/* Destinations 0..62 the index answers for topic. */
static uint64_t
ask(struct bed *b, const char *topic)
{
	struct fib_match m;

	fib_enter(b->r);
	fib_match(b->r, topic, strlen(topic), &m);
	assert_true(fib_leave(b->r));
	return m.slots;
}

/* --- A naive matcher, written from the text of 4.7 ------------------- */

static bool
naive(const char *f, const char *t)
{
	if (t[0] == '$' && (f[0] == '+' || f[0] == '#'))
		return false;
	for (;;) {
		size_t fl = strcspn(f, "/"), tl = strcspn(t, "/");

		if (fl == 1 && *f == '#')
			return true;
		if (!(fl == 1 && *f == '+') &&
		    (fl != tl || memcmp(f, t, fl) != 0))
			return false;
		f += fl;
		t += tl;
		if (*f == '\0' || *t == '\0') {
			if (*f == '\0' && *t == '\0')
				return true;
			return *t == '\0' && strcmp(f, "/#") == 0;
		}
		f++;
		t++;
	}
}

/* --- Property: the index and rib_match against the naive matcher ----- */

#define OWNERS		80	/* beyond the word, so that sets are used */
#define FILTERS		600
#define LEN		48
#define NAMES		5	/* of groups */

struct world {
	struct bed	bed;
	char		filters[FILTERS][LEN];
	bool		wants[FILTERS][OWNERS];
	uint32_t	members[FILTERS][NAMES][OWNERS];
	unsigned	owning[FILTERS][NAMES];	/* how many have members */
	uint64_t	ids[FILTERS][NAMES][2];
	unsigned	first[FILTERS];		/* of this text */
	unsigned	owners[OWNERS];
	uint64_t	seed;
};

static uint32_t
rnd(struct world *w, uint32_t n)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return (uint32_t)(w->seed >> 20) % n;
}

static void
make_text(struct world *w, char *out, bool filter)
{
	static const char *const words[] = { "a", "b", "c", "", "$x", "dev" };
	unsigned n = 1 + rnd(w, 5), i;

	out[0] = '\0';
	for (i = 0; i < n; i++) {
		if (i > 0)
			strncat(out, "/", 2);
		if (filter && rnd(w, 4) == 0)
			strncat(out, "+", 2);
		else if (filter && i == n - 1 && rnd(w, 3) == 0)
			strncat(out, "#", 2);
		else
			strncat(out, words[rnd(w, 6)], 4);
	}
}

struct tally {
	struct world	*w;
	unsigned	 n;
};

static bool
tally(void *ctx, const struct rib_row *row)
{
	struct tally	*t = ctx;
	char		 text[LEN] = "";
	unsigned	 i;

	memcpy(text, row->filter, row->len);
	for (i = 0; i < FILTERS; i++)
		if (strcmp(t->w->filters[i], text) == 0 && (row->name != NULL ?
		    row->members == t->w->members[i][row->name[0] - '0']
		    [row->owner] : t->w->wants[i][row->owner])) {
			t->n++;
			return true;
		}
	fail_msg("%s of %u is not there", text, row->owner);
	return false;
}

/* The groups found: none too few, each with what its filter and name have, to
 * the slot and the member; none that is nowhere. Returns rows of those that do
 * match. */
static unsigned
check_groups(struct world *w, const char *topic, const struct fib_match *m,
    bool exact)
{
	const struct fib_group *g;
	unsigned	 i, n, o, slot, rows = 0, k, matched = 0;
	size_t		 at, found = 0;
	bool		 matches;

	assert_false(m->groups_short);
	for (i = 0; i < FILTERS; i++) {
		if (w->first[i] != i)
			continue;
		matches = naive(w->filters[i], topic);
		for (n = 0; n < NAMES; n++) {
			k = w->owning[i][n];
			g = NULL;
			for (at = 0; at < m->ngroups; at++)
				if (m->groups[at].id_hi == w->ids[i][n][0] &&
				    m->groups[at].id_lo == w->ids[i][n][1]) {
					assert_null(g);
					g = &m->groups[at];
				}
			if (matches) {
				rows += k;
				matched += k > 0;
				if (k > 0 && g == NULL)
					fail_msg("'%s' misses group %u of '%s'",
					    topic, n, w->filters[i]);
			}
			if (g == NULL)
				continue;
			found++;
			assert_int_equal(g->nslots, k);
			for (o = 0; o < OWNERS; o++) {
				assert_int_equal(rib_owner_slot(w->bed.rib,
				    w->owners[o], w->bed.w, &slot), 0);
				for (at = 0; at < g->nslots; at++)
					if (g->slots[at].slot == slot)
						break;
				assert_int_equal(at < g->nslots ?
				    g->slots[at].members : 0,
				    w->members[i][n][o]);
			}
		}
	}
	assert_int_equal(found, m->ngroups);
	if (exact)
		assert_int_equal(found, matched);
	return rows;
}

static void
check_topic(struct world *w, const char *topic, bool exact)
{
	struct fib_match m;
	struct tally	 t = { w, 0 };
	bool		 got[OWNERS] = { false }, want[OWNERS] = { false };
	unsigned	 i, o, slot, rows, same;
	size_t		 k;

	fib_enter(w->bed.r);
	fib_match(w->bed.r, topic, strlen(topic), &m);
	assert_true(fib_leave(w->bed.r));
	rows = check_groups(w, topic, &m, exact);
	for (o = 0; o < OWNERS; o++) {
		assert_int_equal(rib_owner_slot(w->bed.rib, w->owners[o],
		    w->bed.w, &slot), 0);
		got[o] = slot < FIB_WORD_SLOTS ? m.slots >> slot & 1 : false;
		for (k = 0; k < m.nmore; k++)
			if (m.more[k] == slot)
				got[o] = true;
	}
	for (i = 0; i < FILTERS; i++) {
		if (!naive(w->filters[i], topic))
			continue;
		/* The same text twice in the list is one filter. */
		for (same = 0; same < i; same++)
			if (strcmp(w->filters[same], w->filters[i]) == 0)
				break;
		for (o = 0; o < OWNERS; o++)
			if (w->wants[i][o]) {
				want[o] = true;
				rows += same == i;
			}
	}
	for (o = 0; o < OWNERS; o++) {
		if (want[o] && !got[o])
			fail_msg("'%s' misses owner %u", topic, o);
		if (exact && got[o] && !want[o])
			fail_msg("'%s' finds owner %u", topic, o);
	}
	assert_int_equal(rib_match(w->bed.rib, topic, strlen(topic), 100000,
	    tally, &t), rows);
	assert_int_equal(t.n, rows);
}

static void
change_group(struct world *w)
{
	unsigned i = rnd(w, FILTERS), o = rnd(w, rnd(w, 3) ? 4 : OWNERS), same;
	unsigned n = rnd(w, NAMES), was = w->members[i][n][o];
	uint32_t now = rnd(w, 3) ? 1 + rnd(w, 1000) : 0;
	char	 name[2] = { (char)('0' + n), '\0' };

	for (same = 0; same < FILTERS; same++)
		if (w->first[same] == w->first[i]) {
			w->members[same][n][o] = now;
			w->owning[same][n] += (now > 0) - (was > 0);
		}
	assert_int_equal(rib_group(w->bed.rib, w->owners[o], w->filters[i],
	    strlen(w->filters[i]), name, 1, now),
	    was == 0 && now == 0 ? ERR_NOTFOUND : 0);
}

static void
change(struct world *w)
{
	unsigned i = rnd(w, FILTERS), o = rnd(w, rnd(w, 3) ? 4 : OWNERS), same;
	bool	 was = w->wants[i][o];

	/* Keep equal texts equal. */
	for (same = 0; same < FILTERS; same++)
		if (strcmp(w->filters[same], w->filters[i]) == 0)
			w->wants[same][o] = !was;
	assert_int_equal((was ? del : add)(&w->bed, w->owners[o],
	    w->filters[i]), 0);
	if (rnd(w, 8) == 0) {
		fib_reclaim(w->bed.w, ++w->bed.now);
		(void)rib_tidy(w->bed.rib, 3);
	}
}

static void
play(uint64_t seed, unsigned bits, unsigned shapes, unsigned steps)
{
	struct world	*w = calloc(1, sizeof(*w));
	struct rib_stats st;
	char		 topic[LEN];
	unsigned	 i, o, k;

	print_message("seed %llu, bits %u, shapes %u\n",
	    (unsigned long long)seed, bits, shapes);
	w->seed = seed * 0x9e3779b97f4a7c15u + 1;
	bed_init(&w->bed, bits, shapes);
	for (i = 0; i < FILTERS; i++) {
		make_text(w, w->filters[i], true);
		while (strcmp(w->filters[w->first[i]], w->filters[i]) != 0)
			w->first[i]++;
		for (k = 0; k < NAMES; k++) {
			char		name = (char)('0' + k);
			struct group_id	id = group_id_of(&name, 1,
			    w->filters[i], strlen(w->filters[i]));

			w->ids[i][k][0] = id.hi;
			w->ids[i][k][1] = id.lo;
		}
	}
	for (o = 0; o < OWNERS; o++)
		w->owners[o] = bed_owner(&w->bed, o);
	for (i = 0; i < steps; i++) {
		change(w);
		if (rnd(w, 2) == 0)
			change_group(w);
		if (i % 50 == 0)
			for (k = 0; k < 4; k++) {
				make_text(w, topic, false);
				check_topic(w, topic, false);
			}
	}
	bed_settle(&w->bed);
	rib_stats(w->bed.rib, &st);
	for (k = 0; k < 300; k++) {
		make_text(w, topic, false);
		check_topic(w, topic, bits == 0 && st.widened_shapes == 0);
	}
	assert_true(st.groups > 100 && st.group_rows >= st.groups);
	for (o = 0; o < OWNERS; o++)
		rib_owner_close(w->bed.rib, w->owners[o]);
	bed_settle(&w->bed);
	rib_stats(w->bed.rib, &st);
	assert_int_equal(st.filters, 0);
	assert_int_equal(st.routes, 0);
	assert_int_equal(st.groups, 0);
	assert_int_equal(st.anchors, 0);
	assert_int_equal(st.shapes, 0);
	assert_int_equal(st.widened_filters, 0);
	{
		struct fib_stats fs;

		fib_writer_stats(w->bed.w, &fs);
		assert_int_equal(fs.entries, 0);
		assert_int_equal(fs.anchors, 0);
		assert_int_equal(fs.sets, 0);
		assert_int_equal(fs.set_uses, 0);
		assert_int_equal(fs.groups, 0);
		assert_int_equal(fs.group_sets, 0);
		assert_int_equal(fs.held_bytes, 0);
	}
	bed_fini(&w->bed);
	free(w);
}

static void
the_index_finds_what_a_naive_matcher_finds(void **state UNUSED)
{
	uint64_t seed;

	for (seed = 1; seed <= 6; seed++)
		play(seed, 0, 63, 4000);
}

static void
widened_it_finds_no_less(void **state UNUSED)
{
	uint64_t seed;

	for (seed = 1; seed <= 6; seed++)
		play(seed, 0, 1 + (unsigned)seed % 4, 4000);
}

static void
with_fingerprints_that_collide_it_finds_no_less(void **state UNUSED)
{
	uint64_t seed;

	for (seed = 1; seed <= 6; seed++)
		play(seed, 5 + (unsigned)seed, 1 + (unsigned)seed * 2, 3000);
}

/* --- Particulars ----------------------------------------------------- */

static void
wildcards_match_as_the_standard_says(void **state UNUSED)
{
	struct bed	b;
	unsigned	o[8];
	unsigned	i;

	bed_init(&b, 0, 0);
	for (i = 0; i < 8; i++)
		o[i] = bed_owner(&b, i);
	assert_int_equal(add(&b, o[0], "sport/tennis/#"), 0);
	assert_int_equal(add(&b, o[1], "#"), 0);
	assert_int_equal(add(&b, o[2], "+/tennis"), 0);
	assert_int_equal(add(&b, o[3], "+"), 0);
	assert_int_equal(add(&b, o[4], "$SYS/#"), 0);
	assert_int_equal(add(&b, o[5], "/+"), 0);
	assert_int_equal(add(&b, o[6], "sport/+/"), 0);
	assert_int_equal(add(&b, o[7], "sport/tennis"), 0);
	assert_int_equal(ask(&b, "sport/tennis"), 1 | 2 | 4 | 128);
	assert_int_equal(ask(&b, "sport/tennis/player1"), 1 | 2);
	assert_int_equal(ask(&b, "sport"), 2 | 8);
	assert_int_equal(ask(&b, "$SYS"), 16);
	assert_int_equal(ask(&b, "$SYS/uptime"), 16);
	assert_int_equal(ask(&b, "/finance"), 2 | 32);
	assert_int_equal(ask(&b, "finance"), 2 | 8);
	assert_int_equal(ask(&b, "sport/x/"), 2 | 64);
	assert_int_equal(ask(&b, ""), 2 | 8);
	bed_fini(&b);
}

static void
two_owners_of_a_filter_come_and_go(void **state UNUSED)
{
	struct bed	b;
	unsigned	x, y;

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	y = bed_owner(&b, 1);
	assert_int_equal(del(&b, x, "a/+"), ERR_NOTFOUND);
	assert_int_equal(add(&b, x, "a/+"), 0);
	assert_int_equal(add(&b, y, "a/+"), 0);
	assert_int_equal(add(&b, y, "a/+"), 0);
	assert_int_equal(rib_owner_routes(b.rib, y), 1);
	assert_int_equal(ask(&b, "a/b"), 3);
	assert_int_equal(del(&b, x, "a/+"), 0);
	assert_int_equal(ask(&b, "a/b"), 2);
	assert_int_equal(del(&b, y, "a/+"), 0);
	assert_int_equal(ask(&b, "a/b"), 0);
	bed_fini(&b);
}

static void
a_deep_filter_is_found_and_goes(void **state UNUSED)
{
	struct bed	b;
	unsigned	x;
	char		f[4100] = "a/+", t[4100] = "a/q";
	unsigned	i;

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	for (i = 0; i < 1000; i++) {
		strcat(f, "/+");
		strcat(t, "/q");
	}
	assert_int_equal(add(&b, x, f), 0);
	assert_int_equal(ask(&b, t), 1);
	assert_int_equal(del(&b, x, f), 0);
	assert_int_equal(ask(&b, t), 0);
	bed_fini(&b);
}

static void
a_dead_owner_leaves_in_slices(void **state UNUSED)
{
	struct bed	b;
	unsigned	x, y, i, turns = 0;
	char		f[64];

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	y = bed_owner(&b, 1);
	for (i = 0; i < 1000; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		assert_int_equal(add(&b, x, f), 0);
		assert_int_equal(add(&b, y, f), 0);
	}
	while (rib_owner_clear(b.rib, x, 100) == 1)
		turns++;
	assert_in_range(turns, 9, 10);
	assert_int_equal(ask(&b, "d/5/z"), 2);
	rib_owner_close(b.rib, x);
	assert_int_equal(rib_owner_routes(b.rib, y), 1000);
	bed_fini(&b);
}

static void
a_snapshot_removes_what_it_does_not_name(void **state UNUSED)
{
	struct bed	b;
	unsigned	x, i;
	char		f[64];

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	for (i = 0; i < 300; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		assert_int_equal(add(&b, x, f), 0);
	}
	rib_owner_mark(b.rib, x);
	for (i = 100; i < 400; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		assert_int_equal(add(&b, x, f), 0);
		assert_int_equal(ask(&b, "d/150/z"), 1);
	}
	while (rib_owner_sweep(b.rib, x, 7) == 1)
		;
	assert_int_equal(rib_owner_routes(b.rib, x), 300);
	assert_int_equal(ask(&b, "d/99/z"), 0);
	assert_int_equal(ask(&b, "d/100/z"), 1);
	assert_int_equal(ask(&b, "d/399/z"), 1);
	bed_fini(&b);
}

static bool
count_row(void *ctx, const struct rib_row *row UNUSED)
{
	++*(unsigned *)ctx;
	return true;
}

static void
a_listing_goes_on_where_it_stopped(void **state UNUSED)
{
	struct bed	b;
	unsigned	x, y, i, n = 0, calls = 0;
	uint64_t	cursor = 0;
	char		f[64];

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	y = bed_owner(&b, 1);
	for (i = 0; i < 100; i++) {
		snprintf(f, sizeof(f), "d/%u", i);
		assert_int_equal(add(&b, i % 4 ? x : y, f), 0);
	}
	while (rib_list(b.rib, -1, &cursor, 7, count_row, &n) == 1)
		calls++;
	assert_int_equal(n, 100);
	assert_in_range(calls, 13, 15);
	for (n = 0, cursor = 0;
	    rib_list(b.rib, (int)y, &cursor, 7, count_row, &n) == 1;)
		;
	assert_int_equal(n, 25);
	assert_int_equal(rib_match(b.rib, "d/7", 3, 0, count_row, &n), 1);
	bed_fini(&b);
}

/* The i-th shape of filters that begin with a wildcard. */
static void
shape_text(char *out, size_t size, unsigned i)
{
	unsigned k, levels = 2;
	size_t	 at;

	while (i >= 1u << (levels - 1)) {
		i -= 1u << (levels - 1);
		levels++;
	}
	at = (size_t)snprintf(out, size, "+");
	for (k = 0; k < levels - 1; k++)
		at += (size_t)snprintf(out + at, size - at, "/%s",
		    i >> k & 1 ? "+" : "lit");
}

static void
beyond_the_quota_the_one_with_many_shapes_is_widened(void **state UNUSED)
{
	struct bed	b;
	unsigned	good, evil, order, i;
	struct rib_stats st;
	char		f[256];

	for (order = 0; order < 2; order++) {
		bed_init(&b, 0, 32);
		good = bed_owner(&b, 0);
		evil = bed_owner(&b, 1);
		if (order == 0)
			assert_int_equal(add(&b, good, "+/status/x/y/z/1/2"), 0);
		for (i = 0; i < 33; i++) {
			shape_text(f, sizeof(f), i);
			assert_int_equal(add(&b, evil, f), 0);
		}
		if (order == 1)
			assert_int_equal(add(&b, good, "+/status/x/y/z/1/2"), 0);
		bed_settle(&b);
		rib_stats(b.rib, &st);
		assert_true(st.widened_shapes >= 1 && st.widened_shapes <= 2);
		/* Evil gets everything, good what it asked for. */
		assert_int_equal(ask(&b, "no"), 2);
		assert_int_equal(ask(&b, "n/status/x/y/z/1/2") & 1, 1);
		/* There is room again: narrowed. */
		for (i = 0; i < 33; i++) {
			shape_text(f, sizeof(f), i);
			if (i % 4 == 0)
				assert_int_equal(del(&b, evil, f), 0);
		}
		bed_settle(&b);
		rib_stats(b.rib, &st);
		assert_int_equal(st.widened_shapes, 0);
		assert_int_equal(ask(&b, "no"), 0);
		assert_int_equal(ask(&b, "n/status/x/y/z/1/2") & 1, 1);
		bed_fini(&b);
	}
}

static void
a_well_used_shape_is_never_widened(void **state UNUSED)
{
	struct bed	b;
	unsigned	good, evil, i, k;
	char		f[256];

	bed_init(&b, 0, 32);
	good = bed_owner(&b, 0);
	evil = bed_owner(&b, 1);
	for (k = 0; k < 20; k++)
		for (i = 0; i < 100; i++) {
			int at = snprintf(f, sizeof(f), "+/v%u", i);
			unsigned n;

			for (n = 0; n < k; n++)
				at += snprintf(f + at, sizeof(f) - (size_t)at,
				    "/l");
			assert_int_equal(add(&b, good, f), 0);
		}
	for (i = 0; i < 2000; i++) {
		shape_text(f, sizeof(f), i + 3);
		assert_int_equal(add(&b, evil, f), 0);
		if (i % 10 == 0) {
			fib_reclaim(b.w, ++b.now);
			(void)rib_tidy(b.rib, 10);
		}
	}
	bed_settle(&b);
	assert_int_equal(ask(&b, "no/body") & 1, 0);
	assert_int_equal(ask(&b, "x/v7/l/l") & 1, 1);
	bed_fini(&b);
}

/* A shape that started small and late earns its place. */
static void
a_widened_shape_that_grows_is_narrowed(void **state UNUSED)
{
	struct bed	b;
	unsigned	good, evil, i;
	char		f[256];

	bed_init(&b, 0, 8);
	evil = bed_owner(&b, 1);
	good = bed_owner(&b, 0);
	for (i = 0; i < 8; i++) {
		int at = snprintf(f, sizeof(f), "+");
		unsigned n;

		for (n = 0; n <= i; n++)
			at += snprintf(f + at, sizeof(f) - (size_t)at, "/x");
		assert_int_equal(add(&b, i % 2 ? good : evil, f), 0);
	}
	assert_int_equal(add(&b, evil, "+/+/+/q0"), 0);
	for (i = 1; i < 64; i++) {
		snprintf(f, sizeof(f), "+/+/+/q%u", i);
		assert_int_equal(add(&b, good, f), 0);
		bed_settle(&b);
		assert_int_equal(ask(&b, "a/b/c/q0") & 1u << 0, 1u << 0);
	}
	assert_int_equal(ask(&b, "a/b/c/q63") & 2, 2);
	bed_fini(&b);
}

/* 65 536 shapes at one anchor: topics elsewhere are looked up with as many
 * probes as before, and topics below it with at most a quota more. */
static void
many_adversarial_filters_slow_nobody_else(void **state UNUSED)
{
	struct bed	b;
	unsigned	good, evil, i;
	char		f[256];
	uint64_t	before, cost, cost2, root;

	bed_init(&b, 0, 32);
	good = bed_owner(&b, 0);
	evil = bed_owner(&b, 1);
	for (i = 0; i < 100; i++) {
		snprintf(f, sizeof(f), "dev/%u/+/temp", i);
		assert_int_equal(add(&b, good, f), 0);
	}
	before = fib_reader_probes(b.r);
	assert_int_equal(ask(&b, "dev/7/x/temp"), 1);
	cost = fib_reader_probes(b.r) - before;
	for (i = 0; i < 65536; i++) {
		char shape[128];

		shape_text(shape, sizeof(shape), i);
		snprintf(f, sizeof(f), "evil/%s", shape);
		assert_int_equal(add(&b, evil, f), 0);
	}
	bed_settle(&b);
	before = fib_reader_probes(b.r);
	assert_int_equal(ask(&b, "dev/7/x/temp"), 1);
	cost2 = fib_reader_probes(b.r) - before;
	/* A longer walk in a fuller bucket is all there may be. */
	assert_in_range(cost2, 1, cost + 16);
	assert_int_equal(ask(&b, "evil/x/y"), 2);
	before = fib_reader_probes(b.r);
	(void)ask(&b, "evil/a/b/c/d/e/f/g/h/i/j");
	assert_in_range(fib_reader_probes(b.r) - before, 1, 33 * 8);
	/* And at the root. */
	for (i = 0; i < 65536; i++) {
		shape_text(f, sizeof(f), i);
		assert_int_equal(add(&b, evil, f), 0);
	}
	bed_settle(&b);
	before = fib_reader_probes(b.r);
	assert_int_equal(ask(&b, "dev/7/x/temp") & 1, 1);
	root = fib_reader_probes(b.r) - before;
	assert_in_range(root, 1, cost + 34 * 8);
	assert_int_equal(rib_owner_clear(b.rib, evil, SIZE_MAX), 0);
	bed_settle(&b);
	assert_int_equal(ask(&b, "dev/7/x/temp"), 1);
	assert_int_equal(ask(&b, "evil/x/y"), 0);
	bed_fini(&b);
}

/* A reader that read the anchor before a move and the terminal after it must
 * find the route: terminals stay until it has left. */
static void
a_move_waits_for_readers(void **state UNUSED)
{
	struct bed	b;
	struct fib_match m;
	struct fib_cut	cut;
	struct fib_dests d;
	unsigned	x, i;

	bed_init(&b, 0, 1);
	x = bed_owner(&b, 0);
	assert_int_equal(add(&b, x, "+/a"), 0);
	fib_cut(fib_writer_key(b.w), "+/b/+", 5, &cut);
	fib_enter(b.r);
	fib_match(b.r, "q/a", 3, &m);
	assert_int_equal(add(&b, x, "+/b/+"), 0);
	assert_int_equal(add(&b, x, "+/c/+"), 0);
	for (i = 0; i < 5; i++) {
		fib_reclaim(b.w, ++b.now);
		(void)rib_tidy(b.rib, 100);
	}
	fib_cut(fib_writer_key(b.w), "+/a", 3, &cut);
	assert_int_equal(fib_get(b.w, cut.fp, &d), 0);
	assert_true(fib_leave(b.r));
	bed_settle(&b);
	assert_int_equal(ask(&b, "q/a"), 1);
	assert_int_equal(ask(&b, "q/b/r"), 1);
	bed_fini(&b);
}

static void
a_second_fib_is_filled_in_slices(void **state UNUSED)
{
	struct bed	b;
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_match m;
	unsigned	x, i, slot, calls = 0;
	char		f[256];

	bed_init(&b, 0, 4);
	rib_owner_close(b.rib, bed_owner(&b, 9));
	x = bed_owner(&b, 0);
	for (i = 0; i < 500; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		assert_int_equal(add(&b, x, f), 0);
		shape_text(f, sizeof(f), i);
		assert_int_equal(add(&b, x, f), 0);
	}
	bed_settle(&b);
	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	assert_int_equal(rib_attach(b.rib, w), 0);
	while (rib_fill(b.rib, w, 50) == 1) {
		snprintf(f, sizeof(f), "n/%u/+", calls++);
		assert_int_equal(add(&b, x, f), 0);
		snprintf(f, sizeof(f), "d/%u/+", calls * 13);
		assert_int_equal(del(&b, x, f), 0);
	}
	assert_true(calls >= 19);
	r = fibmem_reader(&mem);
	assert_int_equal(rib_owner_slot(b.rib, x, w, &slot), 0);
	rib_detach(b.rib, b.w);
	for (i = 0; i < calls; i++) {
		snprintf(f, sizeof(f), "n/%u/x", i);
		fib_enter(r);
		fib_match(r, f, strlen(f), &m);
		assert_true(fib_leave(r));
		assert_true(m.slots >> slot & 1);
	}
	fib_enter(r);
	fib_match(r, "$d/2/x", 6, &m);
	assert_int_equal(m.slots, 0);
	fib_match(r, "d/2/x", 5, &m);
	assert_true(m.slots >> slot & 1);
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	rib_detach(b.rib, w);
	fib_writer_close(&w);
	fibmem_fini(&mem);
	bed_fini(&b);
}

static void
no_memory_is_an_answer_and_changes_nothing(void **state UNUSED)
{
	struct bed	b;
	unsigned	x, i, n;
	int		rc = 0;
	char		f[64];

	bed_init(&b, 0, 0);
	x = bed_owner(&b, 0);
	b.mem.bound = 2u << 20;
	for (i = 0; rc == 0; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		rc = add(&b, x, f);
	}
	n = i - 1;
	assert_int_equal(rc, ERR_NOMEM);
	assert_int_equal(rib_owner_routes(b.rib, x), n);
	for (i = 0; i < n; i++) {
		snprintf(f, sizeof(f), "d/%u/z", i);
		if (ask(&b, f) != 1)
			fail_msg("%s", f);
	}
	b.mem.bound = 0;
	for (i = n; i < n + 1000; i++) {
		snprintf(f, sizeof(f), "d/%u/+", i);
		assert_int_equal(add(&b, x, f), 0);
	}
	bed_fini(&b);
}

static void
malformed_filters_break_nothing(void **state UNUSED)
{
	static const char *const bad[] = { "", "#/a", "a/#/b", "a+", "+a", "##",
	    "//", "/#", "+#", "a/b#", "#+", "\xff\x01" };
	struct bed	b;
	unsigned	x, i;

	bed_init(&b, 0, 2);
	x = bed_owner(&b, 0);
	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(add(&b, x, bad[i]), 0);
	for (i = 0; i < NELEM(bad); i++)
		(void)ask(&b, bad[i]);
	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(del(&b, x, bad[i]), 0);
	bed_fini(&b);
}

static void
a_snapshot_that_broke_off_leaves_nothing_behind(void **state UNUSED)
{
	struct bed	b;
	unsigned	o;

	bed_init(&b, 0, 32);
	o = bed_owner(&b, 1);
	assert_int_equal(add(&b, o, "old"), 0);
	rib_owner_mark(b.rib, o);
	assert_int_equal(add(&b, o, "half"), 0);
	rib_owner_mark(b.rib, o);		/* it begins again */
	assert_int_equal(add(&b, o, "new"), 0);
	while (rib_owner_sweep(b.rib, o, 1) == 1)
		;
	assert_int_equal(rib_owner_routes(b.rib, o), 1);
	assert_int_equal(del(&b, o, "new"), 0);
	bed_fini(&b);
}

struct crowd {
	unsigned	n, shapes, widened;
	char		text[32];
};

static void
see_anchor(void *ctx, const struct rib_anchor *a)
{
	struct crowd *c = ctx;

	c->n++;
	c->shapes = a->shapes;
	c->widened = a->widened;
	snprintf(c->text, sizeof(c->text), "%.*s", (int)a->len,
	    (const char *)a->text);
}

static void
anchors_with_many_shapes_are_told(void **state UNUSED)
{
	struct crowd	 c = { 0 };
	struct bed	 b;
	uint64_t	 at = 0;
	unsigned	 o;

	bed_init(&b, 0, 2);
	o = bed_owner(&b, 1);
	assert_int_equal(add(&b, o, "few/+"), 0);
	assert_int_equal(add(&b, o, "a/b/+"), 0);
	assert_int_equal(add(&b, o, "a/b/+/+"), 0);
	assert_int_equal(add(&b, o, "a/b/+/x/+"), 0);
	assert_int_equal(add(&b, o, "a/b/#"), 0);
	assert_int_equal(add(&b, o, "gone/+"), 0);
	assert_int_equal(del(&b, o, "gone/+"), 0);
	bed_settle(&b);
	while (rib_anchors(b.rib, &at, 1, 2, see_anchor, &c) == 1)
		;
	assert_int_equal(c.n, 1);
	assert_string_equal(c.text, "a/b");
	assert_int_equal(c.shapes, 4);
	assert_int_equal(c.widened, 1);
	bed_fini(&b);
}

/* --- Watching -------------------------------------------------------- */

struct watched {
	unsigned	 n;
	struct rib_change last;
	char		 filter[32], name[32];
};

static void
see_change(void *ctx, const struct rib_change *c)
{
	struct watched	*w = ctx;

	w->n++;
	w->last = *c;
	snprintf(w->filter, sizeof(w->filter), "%.*s", (int)c->len, c->filter);
	snprintf(w->name, sizeof(w->name), "%.*s", (int)c->nlen,
	    c->name != NULL ? (const char *)c->name : "");
}

static void
who_watches_hears_of_each_change_of_its_kinds(void **state UNUSED)
{
	struct fib_slot	 d = { FIB_STORE, FIB_UP, 0, 0, 9 };
	struct rib_change c;
	struct watched	 w = { 0 };
	struct bed	 b;
	unsigned	 l0, l1, st;

	bed_init(&b, 0, 2);
	l0 = bed_owner(&b, 0);
	l1 = bed_owner(&b, 1);
	assert_int_equal(rib_owner_open(b.rib, &d, &st), 0);
	rib_watch(b.rib, 1u << FIB_LISTENER, see_change, &w);

	assert_int_equal(add(&b, l0, "a/+"), 0);
	assert_int_equal(w.n, 1);
	assert_string_equal(w.filter, "a/+");
	assert_null(w.last.name);
	assert_int_equal(w.last.owners, 1);
	assert_int_equal(add(&b, l0, "a/+"), 0);	/* nothing new */
	assert_int_equal(add(&b, st, "a/+"), 0);	/* another kind */
	assert_int_equal(w.n, 1);
	assert_int_equal(add(&b, l1, "a/+"), 0);
	assert_int_equal(w.n, 2);
	assert_int_equal(w.last.owners, 2);
	assert_int_equal(w.last.owner, l1);
	assert_int_equal(del(&b, l0, "a/+"), 0);
	assert_int_equal(w.last.owners, 1);

	assert_int_equal(rib_group(b.rib, l0, "g", 1, "s", 1,
	    group_count(3, 1)), 0);
	assert_int_equal(w.n, 4);
	assert_string_equal(w.name, "s");
	assert_int_equal(rib_group(b.rib, l1, "g", 1, "s", 1,
	    group_count(5, 2)), 0);
	assert_int_equal(w.last.first, 8);
	assert_int_equal(w.last.second, 3);
	assert_int_equal(rib_group(b.rib, l1, "g", 1, "s", 1,
	    group_count(1, 0)), 0);
	assert_int_equal(w.last.first, 4);
	assert_int_equal(w.n, 6);
	rib_look(b.rib, FIB_LISTENER, "g", 1, "s", 1, &c);
	assert_int_equal(c.owners, 2);
	assert_int_equal(c.second, 1);
	rib_look(b.rib, FIB_STORE, "a/+", 3, NULL, 0, &c);
	assert_int_equal(c.owners, 1);
	rib_look(b.rib, FIB_STORE, "nobody", 6, NULL, 0, &c);
	assert_int_equal(c.owners, 0);

	/* Who dies takes back all it has, row by row. */
	while (rib_owner_clear(b.rib, l1, 1) == 1)
		;
	assert_int_equal(w.n, 8);
	assert_string_equal(w.filter, "g");
	assert_int_equal(w.last.first, 3);
	rib_owner_close(b.rib, l0);
	assert_int_equal(w.n, 9);
	assert_int_equal(w.last.owners, 0);
	rib_watch(b.rib, 0, NULL, NULL);
	rib_owner_close(b.rib, st);
	assert_int_equal(w.n, 9);
	bed_fini(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wildcards_match_as_the_standard_says),
		cmocka_unit_test(two_owners_of_a_filter_come_and_go),
		cmocka_unit_test(a_deep_filter_is_found_and_goes),
		cmocka_unit_test(a_dead_owner_leaves_in_slices),
		cmocka_unit_test(a_snapshot_removes_what_it_does_not_name),
		cmocka_unit_test(a_snapshot_that_broke_off_leaves_nothing_behind),
		cmocka_unit_test(anchors_with_many_shapes_are_told),
		cmocka_unit_test(a_listing_goes_on_where_it_stopped),
		cmocka_unit_test(beyond_the_quota_the_one_with_many_shapes_is_widened),
		cmocka_unit_test(a_well_used_shape_is_never_widened),
		cmocka_unit_test(a_widened_shape_that_grows_is_narrowed),
		cmocka_unit_test(many_adversarial_filters_slow_nobody_else),
		cmocka_unit_test(a_move_waits_for_readers),
		cmocka_unit_test(a_second_fib_is_filled_in_slices),
		cmocka_unit_test(no_memory_is_an_answer_and_changes_nothing),
		cmocka_unit_test(malformed_filters_break_nothing),
		cmocka_unit_test(who_watches_hears_of_each_change_of_its_kinds),
		cmocka_unit_test(the_index_finds_what_a_naive_matcher_finds),
		cmocka_unit_test(widened_it_finds_no_less),
		cmocka_unit_test(with_fingerprints_that_collide_it_finds_no_less),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

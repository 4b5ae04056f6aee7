/* topic/index.h: against topic_matches() over a plain list, with seeded
 * chance; and its limits. */
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
#include "topic/filter.h"
#include "topic/index.h"

static const struct index_limits wide = { 32, 1024 };

enum { OWNERS = 12, FILTERS = 120, STEPS = 12000, KINDS = 3 };

/* Kind 0 is the plain subscription. */
static const struct slice groups[KINDS] = { { NULL, 0 },
	{ (const uint8_t *)"g", 1 }, { (const uint8_t *)"gg", 2 } };

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* A few short levels, so that filters and topics meet often. */
static void
random_text(uint64_t *s, char *out, bool filter)
{
	static const char *const names[] = { "a", "b", "", "cc", "$d" };
	unsigned n = 1 + (unsigned)(next_random(s) % 4), i, r;

	out[0] = '\0';
	for (i = 0; i < n; i++) {
		if (i > 0)
			strcat(out, "/");
		r = (unsigned)(next_random(s) % 10);
		if (filter && r < 3) {
			strcat(out, "+");
		} else if (filter && r == 3) {
			strcat(out, "#");
			return;
		} else {
			strcat(out, names[next_random(s) % NELEM(names)]);
		}
	}
	if (out[0] == '\0')
		strcpy(out, "a");
}

struct model {
	char	filters[FILTERS][32];
	bool	has[OWNERS][FILTERS][KINDS];
};

/* Every subscriber of f is one of the model's, of this kind. */
static unsigned
check_subs(const struct model *m, const struct index_owner *owners,
    const struct index_filter *f, unsigned kind)
{
	unsigned	o, k;
	uint32_t	i;

	for (i = 0; i < f->nsubs; i++) {
		o = (unsigned)(f->subs[i].owner - owners);
		assert_true(o < OWNERS);
		for (k = 0; k < FILTERS; k++)
			if (m->has[o][k][kind] &&
			    strcmp(m->filters[k], f->text) == 0)
				break;
		assert_true(k < FILTERS);
	}
	return f->nsubs;
}

static unsigned
kind_of(const struct index_share *s)
{
	unsigned k;

	for (k = 1; k < KINDS; k++)
		if (s->name_len == groups[k].len &&
		    memcmp(s->name, groups[k].data, s->name_len) == 0)
			break;
	assert_true(k < KINDS);
	return k;
}

static void
check_match(struct index *ix, const struct model *m,
    const struct index_owner *owners, const char *topic)
{
	struct index_filter	**found;
	const struct index_share *share;
	unsigned		  want = 0, got = 0, o, f, k;
	int			  n, i;

	n = index_match(ix, topic, strlen(topic), &found);
	assert_true(n >= 0);
	for (i = 0; i < n; i++) {
		assert_true(topic_matches(found[i]->text, found[i]->len,
		    topic, strlen(topic)));
		got += check_subs(m, owners, found[i], 0);
		for (share = found[i]->share; share != NULL;
		    share = share->next) {
			assert_string_equal(share->group->text,
			    found[i]->text);
			got += check_subs(m, owners, share->group,
			    kind_of(share));
		}
	}
	for (o = 0; o < OWNERS; o++)
		for (f = 0; f < FILTERS; f++)
			for (k = 0; k < KINDS; k++)
				want += m->has[o][f][k] && topic_matches(
				    m->filters[f], strlen(m->filters[f]),
				    topic, strlen(topic));
	assert_int_equal(got, want);
}

static void
matches_what_a_plain_list_matches(void **state UNUSED)
{
	static struct model	 m;
	struct index_owner	 owners[OWNERS] = { { 0 } };
	struct index_sub	 opts = { .qos = 1 };
	struct index		*ix = index_new(1234, &wide);
	struct index_filter	*f;
	uint64_t		 s = 2024;
	char			 topic[32];
	unsigned		 i, o, k, g, dup, j;
	size_t			 len;
	bool			*has;

	for (i = 0; i < FILTERS; i++) {
		do {
			random_text(&s, m.filters[i], true);
			for (dup = 0, j = 0; j < i; j++)
				dup |= !strcmp(m.filters[i], m.filters[j]);
		} while (dup || topic_filter_check(m.filters[i],
		    strlen(m.filters[i]), 0) != 0);
	}
	for (i = 0; i < STEPS; i++) {
		o = (unsigned)(next_random(&s) % OWNERS);
		k = (unsigned)(next_random(&s) % FILTERS);
		g = (unsigned)(next_random(&s) % KINDS);
		len = strlen(m.filters[k]);
		has = &m.has[o][k][g];
		assert_int_equal(index_has(ix, &owners[o], g == 0 ? NULL :
		    &groups[g], m.filters[k], len), *has);
		if (*has) {
			assert_int_equal(g == 0 ? index_unsubscribe(ix,
			    &owners[o], m.filters[k], len, &f) :
			    index_unshare(ix, &owners[o], &groups[g],
			    m.filters[k], len, &f), 0);
			assert_int_equal(f->is_group, g != 0);
			if (f->nsubs == 0)
				index_filter_drop(ix, f);
		} else {
			assert_int_equal(g == 0 ? index_subscribe(ix,
			    &owners[o], m.filters[k], len, &opts, &f) :
			    index_share(ix, &owners[o], &groups[g],
			    m.filters[k], len, &opts, &f), 1);
			assert_int_equal(f->is_group, g != 0);
		}
		*has = !*has;
		random_text(&s, topic, false);
		check_match(ix, &m, owners, topic);
	}
	for (o = 0; o < OWNERS; o++)
		while (index_unsubscribe_one(ix, &owners[o], &f) == 0)
			if (f->nsubs == 0)
				index_filter_drop(ix, f);
	assert_int_equal(index_nsubs(ix), 0);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

static int
subscribe(struct index *ix, struct index_owner *o, const char *filter)
{
	struct index_sub	 opts = { .qos = 2, .id = 5 };
	struct index_filter	*f;

	return index_subscribe(ix, o, filter, strlen(filter), &opts, &f);
}

static int
matches(struct index *ix, const char *topic)
{
	struct index_filter **found;

	return index_match(ix, topic, strlen(topic), &found);
}

static void
drop_all(struct index *ix, struct index_owner *o)
{
	struct index_filter *f;

	while (index_unsubscribe_one(ix, o, &f) == 0)
		if (f->nsubs == 0)
			index_filter_drop(ix, f);
}

static void
the_special_cases_of_section_4_7(void **state UNUSED)
{
	struct index_owner	 o = { 0 };
	struct index		*ix = index_new(1, &wide);

	assert_int_equal(subscribe(ix, &o, "a/#"), 1);
	assert_int_equal(matches(ix, "a"), 1);		/* 4.7.1.2 */
	assert_int_equal(matches(ix, "a/"), 1);
	assert_int_equal(matches(ix, "a/b/c"), 1);
	assert_int_equal(matches(ix, "ab"), 0);
	drop_all(ix, &o);
	assert_int_equal(subscribe(ix, &o, "#"), 1);
	assert_int_equal(subscribe(ix, &o, "+/x"), 1);
	assert_int_equal(matches(ix, "$SYS/x"), 0);	/* MQTT-4.7.2-1 */
	assert_int_equal(matches(ix, "a/x"), 2);
	assert_int_equal(subscribe(ix, &o, "$SYS/#"), 1);
	assert_int_equal(matches(ix, "$SYS/x"), 1);
	drop_all(ix, &o);
	assert_int_equal(subscribe(ix, &o, "/+"), 1);
	assert_int_equal(matches(ix, "/finance"), 1);
	assert_int_equal(matches(ix, "finance"), 0);
	assert_int_equal(subscribe(ix, &o, "+/+"), 1);
	assert_int_equal(matches(ix, "/finance"), 2);
	drop_all(ix, &o);
	index_free(&ix);
}

static void
subscribing_again_replaces_the_options(void **state UNUSED)
{
	struct index_owner	 o = { 0 };
	struct index		*ix = index_new(1, &wide);
	struct index_sub	 opts = { .qos = 1, .no_local = 1 };
	struct index_filter	*f;

	assert_int_equal(subscribe(ix, &o, "t"), 1);
	assert_int_equal(index_subscribe(ix, &o, "t", 1, &opts, &f), 0);
	assert_int_equal(f->nsubs, 1);
	assert_int_equal(f->subs[0].qos, 1);
	assert_int_equal(f->subs[0].id, 0);
	assert_true(f->subs[0].no_local);
	assert_int_equal(index_unsubscribe(ix, &o, "u", 1, &f), ERR_NOTFOUND);
	drop_all(ix, &o);
	index_free(&ix);
}

static void
a_filter_stays_for_its_groups(void **state UNUSED)
{
	struct index_owner	 a = { 0 }, b = { 0 };
	struct index		*ix = index_new(1, &wide);
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f, *g;

	assert_int_equal(subscribe(ix, &a, "t/+"), 1);
	assert_int_equal(index_share(ix, &b, &groups[1], "t/+", 3, &opts, &g),
	    1);
	assert_int_equal(index_unsubscribe(ix, &a, "t/+", 3, &f), 0);
	f->dirty = true;		/* the caller will look at it again */
	index_filter_drop(ix, f);
	assert_int_equal(matches(ix, "t/x"), 1);
	assert_int_equal(index_unshare(ix, &b, &groups[1], "t/+", 3, &g), 0);
	assert_int_equal(g->nsubs, 0);
	index_filter_drop(ix, g);
	assert_int_equal(index_nfilters(ix), 1);
	f->dirty = false;
	index_filter_drop(ix, f);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

static void
groups_of_a_filter_are_bounded(void **state UNUSED)
{
	struct index_owner	 o = { 0 };
	struct index		*ix = index_new(1, &wide);
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f;
	char			 name[16];
	struct slice		 s = { (const uint8_t *)name, 0 };
	unsigned		 i;

	for (i = 0; i <= INDEX_GROUPS_MAX; i++) {
		s.len = (size_t)snprintf(name, sizeof(name), "g%u", i);
		assert_int_equal(index_share(ix, &o, &s, "t", 1, &opts, &f),
		    i < INDEX_GROUPS_MAX ? 1 : ERR_FULL);
	}
	assert_int_equal(index_share(ix, &o, &groups[1], "u", 1, &opts, &f),
	    1);
	drop_all(ix, &o);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

/* Sticky members are remembered by their place. */
static void
a_cursor_follows_the_member_that_moves(void **state UNUSED)
{
	struct index_owner	 o[4] = { { 0 } };
	struct index		*ix = index_new(1, &wide);
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*g;
	unsigned		 i;

	for (i = 0; i < 4; i++)
		assert_int_equal(index_share(ix, &o[i], &groups[1], "t", 1,
		    &opts, &g), 1);
	g->share->cursor = 3;
	assert_int_equal(index_unshare(ix, &o[1], &groups[1], "t", 1, &g), 0);
	assert_ptr_equal(g->subs[g->share->cursor].owner, &o[3]);
	for (i = 0; i < 4; i++)
		drop_all(ix, &o[i]);
	index_free(&ix);
}

static void
members_are_put_in_order(void **state UNUSED)
{
	static const uint32_t	 at[4] = { 2, 0, 3, 1 };
	struct index_owner	 o[4] = { { 0 } }, other = { 0 };
	struct index		*ix = index_new(1, &wide);
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*g, *f;
	unsigned		 i;

	for (i = 0; i < 4; i++) {
		assert_int_equal(index_subscribe(ix, &o[i], "u", 1, &opts,
		    &f), 1);
		opts.id = i + 1;
		assert_int_equal(index_share(ix, &o[i], &groups[1], "t", 1,
		    &opts, &g), 1);
	}
	assert_int_equal(index_place(g, &other, 0), ERR_NOTFOUND);
	assert_int_equal(index_place(g, &o[0], 4), ERR_NOTFOUND);
	for (i = 0; i < 4; i++)
		assert_int_equal(index_place(g, &o[i], at[i]), 0);
	for (i = 0; i < 4; i++) {
		assert_ptr_equal(g->subs[at[i]].owner, &o[i]);
		assert_int_equal(g->subs[at[i]].id, i + 1);
		assert_int_equal(o[i].links[g->subs[at[i]].own].pos, at[i]);
		assert_ptr_equal(o[i].links[g->subs[at[i]].own].filter, g);
	}
	for (i = 0; i < 4; i++)
		drop_all(ix, &o[i]);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

/* One client's many shapes at one anchor cost the others a bounded number of
 * probes. */
static void
shapes_are_bounded_by_client_and_anchor(void **state UNUSED)
{
	const struct index_limits lim = { 4, 6 };
	struct index_owner	 a = { 0 }, b = { 0 };
	struct index		*ix = index_new(1, &lim);

	assert_int_equal(subscribe(ix, &a, "x/+"), 1);
	assert_int_equal(subscribe(ix, &a, "x/+/+"), 1);
	assert_int_equal(subscribe(ix, &a, "x/+/a/+"), 1);
	assert_int_equal(subscribe(ix, &a, "x/#"), 1);
	assert_int_equal(subscribe(ix, &a, "x/+/b/#"), ERR_FULL);
	assert_int_equal(subscribe(ix, &a, "x/+/b/+"), 1);	/* a known one */
	assert_int_equal(subscribe(ix, &a, "y/+/b/#"), 1);	/* elsewhere */
	assert_int_equal(subscribe(ix, &b, "x/+/b/#"), 1);	/* another's */
	assert_int_equal(subscribe(ix, &b, "x/+/+/#"), 1);
	assert_int_equal(subscribe(ix, &b, "x/+/+/+"), ERR_FULL);	/* 6 in all */
	drop_all(ix, &b);
	assert_int_equal(subscribe(ix, &b, "x/+/+/+"), 1);
	drop_all(ix, &a);
	drop_all(ix, &b);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

/* What begins alike is not yet at the same anchor. */
static void
an_anchor_is_told_from_one_that_looks_like_it(void **state UNUSED)
{
	const struct index_limits lim = { 1, 6 };
	struct index_owner	 o = { 0 };
	struct index		*ix = index_new(1, &lim);

	assert_int_equal(subscribe(ix, &o, "+/a"), 1);
	assert_int_equal(subscribe(ix, &o, "/+/a/b"), 1);
	assert_int_equal(subscribe(ix, &o, "//+"), 1);
	assert_int_equal(subscribe(ix, &o, "ab/+/c"), 1);
	assert_int_equal(subscribe(ix, &o, "a/+"), 1);
	assert_int_equal(subscribe(ix, &o, "ab/cd/#"), 1);
	assert_int_equal(subscribe(ix, &o, "ab/cd"), 1);	/* at none */
	assert_int_equal(subscribe(ix, &o, "+"), ERR_FULL);
	assert_int_equal(subscribe(ix, &o, "/+"), ERR_FULL);
	assert_int_equal(subscribe(ix, &o, "//#"), ERR_FULL);
	assert_int_equal(subscribe(ix, &o, "ab/#"), ERR_FULL);
	assert_int_equal(subscribe(ix, &o, "a/+/+"), ERR_FULL);
	assert_int_equal(subscribe(ix, &o, "ab/cd/+"), ERR_FULL);
	assert_int_equal(matches(ix, "ab/cd"), 2);
	drop_all(ix, &o);
	assert_int_equal(index_nfilters(ix), 0);
	index_free(&ix);
}

static void
the_deepest_filter_is_one_of_128_levels(void **state UNUSED)
{
	struct index_owner	 o = { 0 };
	struct index		*ix = index_new(1, &wide);
	char			 filter[2 * INDEX_LEVELS_MAX + 2] = "+";
	char			 topic[2 * INDEX_LEVELS_MAX + 2] = "a";
	unsigned		 i;

	for (i = 1; i < INDEX_LEVELS_MAX; i++) {
		strcat(filter, "/+");
		strcat(topic, "/a");
	}
	assert_int_equal(subscribe(ix, &o, filter), 1);
	assert_int_equal(matches(ix, topic), 1);
	strcat(filter, "/+");
	assert_int_equal(subscribe(ix, &o, filter), ERR_FULL);
	strcat(topic, "/a");
	assert_int_equal(matches(ix, topic), 0);
	drop_all(ix, &o);
	index_free(&ix);
}

static void
a_filter_is_found_by_its_text(void **state UNUSED)
{
	struct index		*ix = index_new(1, &wide);
	struct index_owner	 o = { 0 };
	struct index_filter	*f;

	subscribe(ix, &o, "a/+/#");
	subscribe(ix, &o, "a/b");
	assert_non_null(f = index_find(ix, NULL, "a/+/#", 5));
	assert_string_equal(f->text, "a/+/#");
	assert_non_null(f = index_find(ix, NULL, "a/b", 3));
	assert_string_equal(f->text, "a/b");
	assert_null(index_find(ix, NULL, "a/+/#", 3));
	assert_null(index_find(ix, NULL, "a/c", 3));
	drop_all(ix, &o);
	index_free(&ix);
}

/* --- A walk in pages ------------------------------------------------------ */

enum { WALKED = 60000 };

struct walk {
	const struct index *ix;
	uint64_t	 from;		/* where the page began */
	uint64_t	 most;		/* the highest spot of it */
	unsigned	 n;
	unsigned	 visits[WALKED];	/* by filter; its group's: 100 */
};

static int
on_page(void *ctx, struct index_filter *f)
{
	struct walk	*w = ctx;
	uint64_t	 spot = index_spot(w->ix, f);

	assert_true(spot >= w->from && spot < INDEX_END);
	w->most = MAX(w->most, spot);
	w->visits[strtoul(f->text, NULL, 10)] += f->is_group ? 100 : 1;
	w->n++;
	return 0;
}

static void
walked_text(char *out, size_t size, unsigned i)
{
	snprintf(out, size, i % 4 == 0 ? "%u/+" : "%u", i);
}

/* What is there all the time is visited once, though the parts grow and shrink
 * and others come and go; those at the moment they are passed, or never. */
static void
a_walk_in_pages_misses_nobody(void **state UNUSED)
{
	static struct walk	 w;
	static struct index_owner owners[WALKED];
	static bool		 there[WALKED];
	struct index		*ix = index_new(5, &wide);
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f;
	uint64_t		 s = 77, at = 0, spot;
	unsigned		 i, k, run, want, pages = 0, most = 0;
	char			 text[16];

	w.ix = ix;
	for (run = 0; run < 2; run++) {
		/* Up to a third stays; in the first walk there will be more of
		 * them, in the second less. */
		memset(w.visits, 0, sizeof(w.visits));
		for (i = 0; i < WALKED; i++) {
			if (there[i] || (i % 3 != 0 && run == 0))
				continue;
			walked_text(text, sizeof(text), i);
			subscribe(ix, &owners[i], text);
			if (i % 5 == 0)
				assert_int_equal(index_share(ix, &owners[i],
				    &groups[1], text, strlen(text), &opts,
				    &f), 1);
			there[i] = true;
		}
		for (at = 0; at < INDEX_END; pages++) {
			w.from = at;
			w.most = w.n = 0;
			index_page(ix, &at, on_page, &w);
			assert_true(at > w.from && at > w.most);
			most = MAX(most, w.n);
			for (k = 0; k < 16; k++) {
				i = (unsigned)(next_random(&s) % WALKED);
				if (i % 3 == 0)
					continue;
				walked_text(text, sizeof(text), i);
				if (there[i] && run == 1) {
					assert_non_null(f = index_find(ix,
					    NULL, text, strlen(text)));
					spot = index_spot(ix, f);
					want = f->share != NULL ? 101 : 1;
					assert_int_equal(w.visits[i],
					    spot < at ? want : 0);
					drop_all(ix, &owners[i]);
					there[i] = false;
				} else if (!there[i] && run == 0) {
					subscribe(ix, &owners[i], text);
					there[i] = true;
					f = index_find(ix, NULL, text,
					    strlen(text));
					/* Not, or when it is its turn. */
					w.visits[i] = index_spot(ix, f) < at ?
					    1 : 0;
				}
			}
		}
		for (i = 0; i < WALKED; i++) {
			if (!there[i])
				continue;
			walked_text(text, sizeof(text), i);
			f = index_find(ix, NULL, text, strlen(text));
			assert_int_equal(w.visits[i],
			    f->share != NULL ? 101 : 1);
		}
	}
	assert_true(pages > 5000 && most < 64);
	at = INDEX_END;
	index_page(ix, &at, on_page, &w);
	assert_true(at == INDEX_END);
	for (i = 0; i < WALKED; i++)
		drop_all(ix, &owners[i]);
	index_free(&ix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(matches_what_a_plain_list_matches),
		cmocka_unit_test(the_special_cases_of_section_4_7),
		cmocka_unit_test(subscribing_again_replaces_the_options),
		cmocka_unit_test(a_filter_stays_for_its_groups),
		cmocka_unit_test(groups_of_a_filter_are_bounded),
		cmocka_unit_test(a_cursor_follows_the_member_that_moves),
		cmocka_unit_test(members_are_put_in_order),
		cmocka_unit_test(shapes_are_bounded_by_client_and_anchor),
		cmocka_unit_test(an_anchor_is_told_from_one_that_looks_like_it),
		cmocka_unit_test(the_deepest_filter_is_one_of_128_levels),
		cmocka_unit_test(a_filter_is_found_by_its_text),
		cmocka_unit_test(a_walk_in_pages_misses_nobody),
	};

	return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}

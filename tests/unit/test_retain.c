/* retain/retain.h: against a plain list and topic_matches(), with
 * seeded chance; pages with changes between them; limits, expiry; and how many
 * steps a lookup takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../support/topic_naive.h"
#include "base/err.h"
#include "base/util.h"
#include "retain/internal.h"
#include "retain/lately.h"
#include "retain/retain.h"
#include "retain/tree.h"
#include "topic/filter.h"

static const struct retain_limits wide = { UINT32_MAX, UINT64_MAX };

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s >> 8;
}

static unsigned
below(uint64_t *s, unsigned n)
{
	return (unsigned)(next_random(s) % n);
}

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* --- Topics ----------------------------------------------------------- */

enum { TEXT = 160 };

/* Levels that are each other's beginnings, on both sides of '/' in ASCII, and
 * one that is longer than a word of the comparison. */
static const char *const names[] = { "a", "b", "", "cc", "$d", "a!", "a0",
	"\x01", "abcdefghijklmnop", "abcdefghijklmnoq", "\xc3\xa9" };

static void
random_text(uint64_t *s, char *out, bool filter, unsigned max_levels,
    unsigned nnames)
{
	unsigned n = 1 + below(s, max_levels), i, r;

	out[0] = '\0';
	for (i = 0; i < n; i++) {
		if (i > 0)
			strcat(out, "/");
		r = below(s, 10);
		if (filter && r < 3) {
			strcat(out, "+");
		} else if (filter && r == 3) {
			strcat(out, "#");
			return;
		} else {
			strcat(out, names[below(s, nnames)]);
		}
	}
	if (out[0] == '\0')
		strcpy(out, "a");
}

/* Level by level, as the order is meant. */
static int
order_naive(const char *a, const char *b)
{
	struct slice	la, lb;
	size_t		ia = 0, ib = 0;
	bool		more_a, more_b;
	int		c;

	for (;;) {
		more_a = topic_level_next(a, strlen(a), &ia, &la);
		more_b = topic_level_next(b, strlen(b), &ib, &lb);
		if (!more_a || !more_b)
			return (int)more_a - (int)more_b;
		c = memcmp(la.data, lb.data, MIN(la.len, lb.len));
		if (c != 0)
			return c;
		if (la.len != lb.len)
			return la.len < lb.len ? -1 : 1;
	}
}

static int
sign(int n)
{
	return (n > 0) - (n < 0);
}

static int
order(const char *a, const char *b)
{
	return sign(retain_order((const uint8_t *)a, strlen(a),
	    (const uint8_t *)b, strlen(b)));
}

static void
the_order_goes_level_by_level(void **state UNUSED)
{
	char	 a[TEXT], b[TEXT];
	uint64_t s = 11;
	unsigned i;

	assert_true(order("a", "a/") < 0 && order("a/", "a//") < 0);
	assert_true(order("a/zz", "a!") < 0 && order("a\x01", "a/") > 0);
	for (i = 0; i < 100000; i++) {
		random_text(&s, a, false, 5, NELEM(names));
		random_text(&s, b, false, 5, NELEM(names));
		assert_int_equal(order(a, b), sign(order_naive(a, b)));
		assert_int_equal(order(a, b), -order(b, a));
	}
}

/* --- The plain list --------------------------------------------------- */

struct plain {
	char	 topic[TEXT];
	uint64_t version, deadline_ms, tag;
	size_t	 payload_len;
	bool	 there;
	unsigned seen;
};

struct model {
	struct plain	*list;
	unsigned	 n, cap;
};

static struct plain *
model_find(struct model *m, const char *topic)
{
	unsigned i;

	for (i = 0; i < m->n; i++)
		if (strcmp(m->list[i].topic, topic) == 0)
			return &m->list[i];
	return NULL;
}

static struct plain *
model_make(struct model *m, const char *topic)
{
	struct plain *p;

	if ((p = model_find(m, topic)) != NULL)
		return p;
	assert_true(m->n < m->cap);
	p = &m->list[m->n++];
	memset(p, 0, sizeof(*p));
	strcpy(p->topic, topic);
	return p;
}

static void
model_init(struct model *m, unsigned cap)
{
	m->list = calloc(cap, sizeof(*m->list));
	m->n = 0;
	m->cap = cap;
	assert_non_null(m->list);
}

/* tag rides in every field that a test can tell apart. */
static struct retain_msg
message(const char *topic, uint64_t version, size_t payload_len, uint64_t tag)
{
	static uint8_t payload[4096];

	assert_true(payload_len <= sizeof(payload));
	memset(payload, (int)(tag & 0xff), sizeof(payload));
	return (struct retain_msg){
		.topic = text(topic), .client_id = text(tag & 1 ? "me" : ""),
		.props = text(tag & 2 ? "props" : ""),
		.payload = { payload, payload_len }, .qos = (uint8_t)(tag % 3),
		.version_hi = version, .version_lo = 1, .id_hi = tag,
		.id_lo = ~tag, .pos = tag + 7
	};
}

static void
is_this(const struct retain_msg *m, const struct plain *p)
{
	struct retain_msg want = message(p->topic, p->version, p->payload_len,
	    p->tag);

	assert_int_equal(m->topic.len, want.topic.len);
	assert_memory_equal(m->topic.data, want.topic.data, want.topic.len);
	assert_int_equal(m->client_id.len, want.client_id.len);
	if (m->client_id.len > 0)
		assert_memory_equal(m->client_id.data, "me", 2);
	assert_int_equal(m->props.len, want.props.len);
	if (m->props.len > 0)
		assert_memory_equal(m->props.data, "props", 5);
	assert_int_equal(m->payload.len, want.payload.len);
	assert_memory_equal(m->payload.data, want.payload.data,
	    want.payload.len);
	assert_int_equal(m->qos, want.qos);
	assert_int_equal(m->version_hi, want.version_hi);
	assert_int_equal(m->version_lo, want.version_lo);
	assert_int_equal(m->id_hi, want.id_hi);
	assert_int_equal(m->id_lo, want.id_lo);
	assert_int_equal(m->pos, want.pos);
	assert_int_equal(m->deadline_ms, p->deadline_ms);
}

static bool
is_live(const struct plain *p, uint64_t now_ms)
{
	return p->there && (p->deadline_ms == 0 || p->deadline_ms > now_ms);
}

/* Set it here and there. Returns what retain_set did. */
static int
set_both(struct retain *r, struct model *m, const char *topic,
    uint64_t version, uint64_t deadline_ms, size_t payload_len, uint64_t tag)
{
	struct plain	 *p = model_make(m, topic);
	struct retain_msg msg;
	int		  rc;

	msg = message(topic, version, payload_len, tag);
	msg.deadline_ms = deadline_ms;
	rc = retain_set(r, &msg);
	assert_int_equal(rc, !p->there || version > p->version);
	if (rc == 1) {
		p->there = payload_len > 0;
		p->version = version;
		p->deadline_ms = deadline_ms;
		p->payload_len = payload_len;
		p->tag = tag;
	}
	return rc;
}

static void
check_sums(struct retain *r, const struct model *m)
{
	uint64_t bytes = 0, first = 0;
	uint32_t count = 0;
	unsigned i;

	for (i = 0; i < m->n; i++) {
		const struct plain *p = &m->list[i];
		struct retain_msg   msg;

		if (!p->there)
			continue;
		msg = message(p->topic, p->version, p->payload_len, p->tag);
		bytes += retain_msg_bytes(&msg);
		count++;
		if (p->deadline_ms != 0 && (first == 0 || p->deadline_ms < first))
			first = p->deadline_ms;
	}
	assert_int_equal(retain_count(r), count);
	assert_int_equal(retain_bytes(r), bytes);
	assert_int_equal(retain_next_deadline(r), first);
	assert_true(retain_tree_is_sound(&r->tree, NULL));
}

static void
check_get(struct retain *r, struct model *m, const char *topic, uint64_t now_ms)
{
	struct plain	 *p = model_find(m, topic);
	struct retain_msg out;
	uint64_t	  hi, lo;
	uint32_t	  left;
	int		  rc;

	rc = retain_get(r, topic, strlen(topic), now_ms, &out, &left);
	if (p == NULL || !is_live(p, now_ms)) {
		assert_int_equal(rc, ERR_NOTFOUND);
	} else {
		assert_int_equal(rc, 0);
		is_this(&out, p);
		assert_int_equal(left, p->deadline_ms == 0 ? RETAIN_NO_EXPIRY :
		    (p->deadline_ms - now_ms + 999) / 1000);
	}
	assert_int_equal(retain_version(r, topic, strlen(topic), &hi, &lo),
	    p != NULL && p->there);
	if (p != NULL && p->there)
		assert_int_equal(hi, p->version);
}

/* --- Looking up ------------------------------------------------------- */

/* What each() was given over all pages. */
struct got {
	struct model	*m;
	uint64_t	 now_ms;
	char		 last[TEXT];	/* they come in rising order */
	unsigned	 n, refuse;	/* every refuse-th is not taken, once */
	bool		 refused;
};

static bool
take(void *ctx, const struct retain_msg *msg, uint32_t left)
{
	struct got	*g = ctx;
	struct plain	*p;
	char		 topic[TEXT];

	if (g->refuse > 0 && (g->n + 1) % g->refuse == 0 && !g->refused) {
		g->refused = true;
		return false;
	}
	g->refused = false;
	assert_true(msg->topic.len < TEXT);
	memcpy(topic, msg->topic.data, msg->topic.len);
	topic[msg->topic.len] = '\0';
	p = model_find(g->m, topic);
	assert_non_null(p);
	is_this(msg, p);
	assert_true(is_live(p, g->now_ms));
	assert_int_equal(left, p->deadline_ms == 0 ? RETAIN_NO_EXPIRY :
	    (p->deadline_ms - g->now_ms + 999) / 1000);
	assert_true(g->n == 0 || order_naive(g->last, topic) < 0);
	strcpy(g->last, topic);
	p->seen++;
	g->n++;
	return true;
}

static bool
fits(const char *filter, const struct plain *p, bool all_dollar)
{
	bool	yes = topic_matches(filter, strlen(filter), p->topic,
	    strlen(p->topic));

	assert_int_equal(yes, naive_matches(filter, p->topic, true));
	return yes || (all_dollar && naive_matches(filter, p->topic, false));
}

/* A caller keeps the place itself. */
static void
keep_place(struct retain_query *q, const struct retain_page *page,
    uint8_t *place)
{
	assert_true(page->next.len > 0 && page->next.len <= RETAIN_FROM_MAX);
	memcpy(place, page->next.data, page->next.len);
	q->from = (struct slice){ place, page->next.len };
}

static void
check_match(struct retain *r, struct model *m, const char *filter,
    uint64_t now_ms, uint64_t *s)
{
	struct retain_query q = { .filter = text(filter), .now_ms = now_ms,
		.all_dollar = below(s, 4) == 0,
		.max_messages = 1 + below(s, 20),
		.max_bytes = 1 + below(s, 500), .max_steps = 1 + below(s, 20) };
	struct got	   g = { .m = m, .now_ms = now_ms,
		.refuse = below(s, 3) == 0 ? 1 + below(s, 4) : 0 };
	struct retain_page page;
	uint8_t		   place[RETAIN_FROM_MAX];
	unsigned	   i, before;

	for (i = 0; i < m->n; i++)
		m->list[i].seen = 0;
	if (below(s, 3) == 0)
		q.max_steps = q.max_messages = UINT32_MAX;
	for (;;) {
		before = g.n;
		retain_match(r, &q, take, &g, &page);
		assert_int_equal(page.messages, g.n - before);
		assert_true(page.messages <= q.max_messages);
		assert_true(page.messages <= 1 || page.bytes <= q.max_bytes);
		assert_true(page.steps <= q.max_steps);
		if (!page.more)
			break;
		if (below(s, 2) == 0)
			q.from = page.next;	/* its own memory */
		else
			keep_place(&q, &page, place);
	}
	for (i = 0; i < m->n; i++)
		assert_int_equal(m->list[i].seen, is_live(&m->list[i], now_ms) &&
		    fits(filter, &m->list[i], q.all_dollar));
}

static void
expire_both(struct retain *r, struct model *m, uint64_t now_ms, uint32_t max)
{
	struct plain	*p;
	uint32_t	 n, due = 0;
	uint64_t	 hi, lo, latest_gone = 0;
	unsigned	 i;

	for (i = 0; i < m->n; i++)
		due += m->list[i].there && !is_live(&m->list[i], now_ms);
	n = retain_expire(r, now_ms, max);
	assert_int_equal(n, MIN(due, max));
	for (i = 0; i < m->n; i++) {
		p = &m->list[i];
		if (!p->there || retain_version(r, p->topic, strlen(p->topic),
		    &hi, &lo))
			continue;
		assert_false(is_live(p, now_ms));
		latest_gone = MAX(latest_gone, p->deadline_ms);
		p->there = false;
		n--;
	}
	assert_int_equal(n, 0);
	for (i = 0; i < m->n; i++)
		if (m->list[i].there && m->list[i].deadline_ms != 0)
			assert_true(m->list[i].deadline_ms >= latest_gone);
}

static void
one_life(uint64_t seed, unsigned steps, unsigned levels)
{
	struct retain	*r = retain_new(&wide);
	struct model	 m;
	struct plain	*p;
	uint64_t	 s = seed * 0x9e3779b97f4a7c15u + 1, now_ms = 1000;
	uint64_t	 version, deadline_ms;
	unsigned	 i, nnames = 2 + below(&s, NELEM(names) - 2);
	char		 t[TEXT];

	assert_non_null(r);
	model_init(&m, steps);
	for (i = 0; i < steps; i++) {
		random_text(&s, t, false, levels, nnames);
		switch (below(&s, 12)) {
		case 0:
			set_both(r, &m, t, below(&s, i + 1), 0, 0, 0);
			break;
		case 1:
			now_ms += below(&s, 3000);
			expire_both(r, &m, now_ms, below(&s, 8));
			break;
		case 2:
			check_get(r, &m, t, now_ms);
			break;
		case 3:
			random_text(&s, t, true, levels, nnames);
			check_match(r, &m, t, now_ms, &s);
			break;
		case 4:
			if (m.n == 0)
				break;
			p = &m.list[below(&s, m.n)];
			set_both(r, &m, p->topic, i + 1, 0, 0, 0);
			break;
		default:
			version = below(&s, 8) == 0 ? below(&s, i + 1) : i + 1;
			deadline_ms = below(&s, 3) == 0 ?
			    now_ms + below(&s, 30000) : 0;
			set_both(r, &m, t, version, deadline_ms,
			    1 + below(&s, 100), next_random(&s));
		}
	}
	check_sums(r, &m);
	for (i = 0; i < 12; i++) {
		random_text(&s, t, true, levels, nnames);
		check_match(r, &m, t, now_ms, &s);
	}
	check_match(r, &m, "#", now_ms, &s);
	check_match(r, &m, "+/#", now_ms, &s);
	/* And all away again, in any order. */
	while (m.n > 0) {
		p = &m.list[i = below(&s, m.n)];
		set_both(r, &m, p->topic, steps + 1, 0, 0, 0);
		m.list[i] = m.list[--m.n];
		if (m.n % 256 == 0)
			check_sums(r, &m);
	}
	assert_int_equal(retain_count(r), 0);
	assert_int_equal(retain_bytes(r), 0);
	free(m.list);
	retain_free(&r);
	assert_null(r);
}

static void
it_does_what_a_plain_list_does(void **state UNUSED)
{
	uint64_t seed;

	for (seed = 1; seed <= 3000; seed++)
		one_life(seed, 120, 4);
	/* And so many that the tree has inner nodes. */
	for (seed = 1; seed <= 6; seed++)
		one_life(seed, 2000, 8);
}

/* --- Changes between pages -------------------------------------------- */

static void
pages_while_it_changes(uint64_t seed, unsigned n)
{
	struct retain	   *r = retain_new(&wide);
	struct model	    m;
	uint64_t	    s = seed * 0x9e3779b97f4a7c15u + 1;
	struct got	    g = { .m = &m };
	struct retain_query q = { .max_messages = 1 + below(&s, 6),
		.max_bytes = 1 + below(&s, 300),
		.max_steps = 1 + below(&s, 9) };
	struct retain_page  page;
	struct plain	   *p;
	char		    t[TEXT], filter[TEXT];
	uint8_t		    place[RETAIN_FROM_MAX];
	bool		   *stays;
	unsigned	    i, k, pages = 0;
	uint64_t	    version = 1;

	assert_non_null(r);
	model_init(&m, n * 20);
	for (i = 0; i < n; i++) {
		random_text(&s, t, false, 4, NELEM(names));
		set_both(r, &m, t, version++, 0, 1 + below(&s, 50), i);
	}
	stays = calloc(m.n, sizeof(*stays));
	assert_non_null(stays);
	n = m.n;
	for (i = 0; i < n; i++)
		stays[i] = below(&s, 2) == 0;
	random_text(&s, filter, true, 4, 5);
	if (below(&s, 3) == 0)
		strcpy(filter, "#");
	q.filter = text(filter);
	for (;;) {
		retain_match(r, &q, take, &g, &page);
		if (!page.more)
			break;
		keep_place(&q, &page, place);
		assert_true(++pages < 100000);
		for (k = below(&s, 8); k > 0; k--) {
			i = below(&s, n);
			p = &m.list[i];
			/* Gone (unless it stays), another, or a new one. */
			if (!stays[i] && below(&s, 2) == 0)
				set_both(r, &m, p->topic, version++, 0, 0, 0);
			else
				set_both(r, &m, p->topic, version++, 0,
				    1 + below(&s, 50), k);
			if (m.n == m.cap)
				continue;
			random_text(&s, t, false, 4, NELEM(names));
			if (model_find(&m, t) == NULL)
				set_both(r, &m, t, version++, 0,
				    1 + below(&s, 50), k);
		}
	}
	for (i = 0; i < m.n; i++) {
		assert_true(m.list[i].seen <= 1);
		if (m.list[i].seen > 0 || (i < n && stays[i]))
			assert_int_equal(m.list[i].seen,
			    fits(filter, &m.list[i], false));
	}
	check_sums(r, &m);
	free(stays);
	free(m.list);
	retain_free(&r);
}

static void
what_stays_is_given_once_whatever_else_changes(void **state UNUSED)
{
	uint64_t seed;

	for (seed = 1; seed <= 2000; seed++)
		pages_while_it_changes(seed, 40);
	for (seed = 1; seed <= 20; seed++)
		pages_while_it_changes(seed, 600);
}

/* --- Versions, limits, expiry ----------------------------------------- */

static int
set(struct retain *r, const char *topic, uint64_t version, size_t payload_len)
{
	struct retain_msg m = message(topic, version, payload_len, 0);

	return retain_set(r, &m);
}

static void
the_higher_version_wins(void **state UNUSED)
{
	struct retain	 *r = retain_new(&wide);
	struct retain_msg m = message("t", 5, 3, 0), out;

	m.version_lo = 2;
	assert_int_equal(retain_set(r, &m), 1);
	assert_int_equal(retain_set(r, &m), 0);
	m.version_lo = 1;
	assert_int_equal(retain_set(r, &m), 0);
	m.payload.len = 0;
	assert_int_equal(retain_set(r, &m), 0);	/* an old delete */
	assert_int_equal(retain_get(r, "t", 1, 0, &out, NULL), 0);
	assert_int_equal(out.version_lo, 2);
	m.version_lo = 3;
	assert_int_equal(retain_set(r, &m), 1);
	assert_int_equal(retain_count(r), 0);
	assert_int_equal(retain_set(r, &m), 1);	/* nothing to delete: stands */
	m.payload.len = 3;
	m.version_hi = 1;
	assert_int_equal(retain_set(r, &m), 1);	/* no floor is kept */
	retain_free(&r);
}

static void
a_message_may_be_made_of_the_one_it_replaces(void **state UNUSED)
{
	struct retain	 *r = retain_new(&wide);
	struct retain_msg out;

	assert_int_equal(set(r, "a/b", 1, 100), 1);
	assert_int_equal(retain_get(r, "a/b", 3, 0, &out, NULL), 0);
	out.version_hi = 2;
	out.payload.len = 50;
	assert_int_equal(retain_set(r, &out), 1);
	assert_int_equal(retain_get(r, "a/b", 3, 0, &out, NULL), 0);
	assert_int_equal(out.payload.len, 50);
	out.version_hi = 3;
	out.payload.len = 0;
	assert_int_equal(retain_set(r, &out), 1);
	assert_int_equal(retain_count(r), 0);
	retain_free(&r);
}

static void
what_is_beyond_the_limits_is_refused(void **state UNUSED)
{
	struct retain_limits lim = { 2, 10 };
	struct retain	    *r = retain_new(&lim);
	struct retain_msg    out;

	assert_int_equal(set(r, "a", 1, 4), 1);
	assert_int_equal(set(r, "b", 1, 5), ERR_FULL);	/* bytes */
	assert_int_equal(set(r, "b", 1, 4), 1);
	assert_int_equal(retain_bytes(r), 10);
	assert_int_equal(set(r, "c", 1, 1), ERR_FULL);	/* messages */
	assert_false(retain_has_room(r, "c", 1, 2));
	assert_true(retain_has_room(r, "b", 1, 5));
	assert_false(retain_has_room(r, "b", 1, 6));
	assert_int_equal(set(r, "b", 2, 5), ERR_FULL);	/* larger */
	assert_int_equal(retain_get(r, "b", 1, 0, &out, NULL), 0);
	assert_int_equal(out.version_hi, 1);
	assert_int_equal(set(r, "b", 2, 4), 1);
	assert_int_equal(set(r, "b", 3, 2), 1);
	assert_int_equal(set(r, "a", 2, 6), 1);
	assert_int_equal(retain_bytes(r), 10);
	lim = (struct retain_limits){ 1, 2 };
	retain_set_limits(r, &lim);
	assert_int_equal(set(r, "a", 3, 6), 1);
	assert_int_equal(set(r, "a", 4, 7), ERR_FULL);
	assert_int_equal(set(r, "a", 4, 5), 1);
	assert_int_equal(set(r, "a", 5, 0), 1);
	assert_int_equal(set(r, "c", 1, 1), ERR_FULL);
	assert_int_equal(set(r, "b", 4, 0), 1);
	assert_int_equal(set(r, "c", 1, 1), 1);
	assert_int_equal(retain_count(r), 1);
	assert_int_equal(retain_bytes(r), 2);
	retain_free(&r);
}

static void
what_no_field_holds_is_refused(void **state UNUSED)
{
	struct retain	 *r = retain_new(&wide);
	struct retain_msg m = message("t", 1, 1, 0);

	m.topic.len = 0;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.topic.len = TOPIC_MAX + 1;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.topic.len = 1;
	m.client_id.len = 65536;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.client_id.len = 0;
	m.props.len = (size_t)RETAIN_FIELD_MAX + 1;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.props.len = 0;
	m.payload.len = (size_t)RETAIN_FIELD_MAX + 1;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.payload.len = 1;
	m.qos = 3;
	assert_int_equal(retain_set(r, &m), ERR_INVAL);
	m.qos = 2;
	assert_int_equal(retain_set(r, &m), 1);
	retain_free(&r);
}

static void
an_expired_one_is_as_none_and_goes(void **state UNUSED)
{
	struct retain	 *r = retain_new(&wide);
	struct retain_msg m = message("t", 1, 1, 0), out;
	uint64_t	  hi, lo;
	uint32_t	  left;

	m.deadline_ms = 100;
	assert_int_equal(retain_set(r, &m), 1);
	assert_int_equal(retain_get(r, "t", 1, 99, &out, &left), 0);
	assert_int_equal(left, 1);
	assert_int_equal(retain_get(r, "t", 1, 100, &out, &left),
	    ERR_NOTFOUND);
	assert_true(retain_version(r, "t", 1, &hi, &lo));
	assert_int_equal(hi, 1);
	assert_int_equal(retain_next_deadline(r), 100);
	assert_int_equal(retain_expire(r, 99, 10), 0);
	assert_int_equal(retain_expire(r, 100, 0), 0);
	assert_int_equal(retain_expire(r, 100, 10), 1);
	assert_int_equal(retain_count(r), 0);
	assert_int_equal(retain_next_deadline(r), 0);

	/* Replaced by one that stays, and longer than a number can say. */
	assert_int_equal(retain_set(r, &m), 1);
	m.version_hi = 2;
	m.deadline_ms = 0;
	assert_int_equal(retain_set(r, &m), 1);
	assert_int_equal(retain_expire(r, UINT64_MAX, 10), 0);
	m.version_hi = 3;
	m.deadline_ms = UINT64_MAX;
	assert_int_equal(retain_set(r, &m), 1);
	assert_int_equal(retain_get(r, "t", 1, 5, &out, &left), 0);
	assert_int_equal(left, RETAIN_NO_EXPIRY - 1);
	retain_free(&r);
}

/* --- Long ones -------------------------------------------------------- */

static bool
count_one(void *ctx, const struct retain_msg *m UNUSED, uint32_t left UNUSED)
{
	++*(unsigned *)ctx;
	return true;
}

/* All pages of it; returns the steps and sets how many were given. */
static uint64_t
steps_of(struct retain *r, const char *filter, uint32_t max_steps,
    unsigned *given)
{
	struct retain_query q = { .filter = text(filter),
		.max_messages = UINT32_MAX, .max_bytes = UINT64_MAX,
		.max_steps = max_steps };
	struct retain_page  page;
	uint64_t	    steps = 0;

	*given = 0;
	do {
		retain_match(r, &q, count_one, given, &page);
		assert_true(page.steps > 0 || retain_count(r) == 0 ||
		    !page.more);
		steps += page.steps;
		q.from = page.next;
	} while (page.more);
	return steps;
}

/* The key to look at next may be longer than a topic. */
static void
topics_of_every_length_are_found(void **state UNUSED)
{
	struct retain	*r = retain_new(&wide);
	char		*t = malloc(TOPIC_MAX + 1), *f = malloc(TOPIC_MAX + 1);
	unsigned	 n;

	assert_true(t != NULL && f != NULL);
	memset(t, 'x', TOPIC_MAX);
	t[TOPIC_MAX] = '\0';
	assert_int_equal(set(r, t, 1, 1), 1);
	memset(t, '/', TOPIC_MAX);		/* 65536 empty levels */
	assert_int_equal(set(r, t, 1, 1), 1);
	memcpy(t + TOPIC_MAX - 2, "/b", 2);
	assert_int_equal(set(r, t, 1, 1), 1);
	assert_int_equal(set(r, "y", 1, 1), 1);
	(void)steps_of(r, "#", 1, &n);
	assert_int_equal(n, 4);
	(void)steps_of(r, "+", 1, &n);
	assert_int_equal(n, 2);

	/* "+/" and then more literal bytes than fit behind a topic. */
	memset(f, 'z', TOPIC_MAX);
	memcpy(f, "+/", 2);
	f[TOPIC_MAX] = '\0';
	(void)steps_of(r, f, 1, &n);
	assert_int_equal(n, 0);
	for (n = 0; n < TOPIC_MAX; n++)
		f[n] = n % 2 == 0 ? '+' : '/';
	(void)steps_of(r, f, 1, &n);		/* 32768 levels */
	assert_int_equal(n, 0);
	free(t);
	free(f);
	retain_free(&r);
}

/* --- Steps ------------------------------------------------------------ */

enum { BRANCHES = 2000, LEAVES = 50 };

static struct retain *
many(void)
{
	static const char *const roots[] = { "$SYS", "a", "z" };
	struct retain	*r = retain_new(&wide);
	char		 t[TEXT];
	unsigned	 k, x, y;

	assert_non_null(r);
	for (k = 0; k < NELEM(roots); k++)
		for (x = 0; x < BRANCHES; x++)
			for (y = 0; y < LEAVES; y++) {
				snprintf(t, sizeof(t), "%s/x%04u/%s%02u",
				    roots[k], x, y < 25 ? "b" : y == 25 ? "c" :
				    "d", y);
				assert_int_equal(set(r, t, 1, 1), 1);
			}
	assert_int_equal(set(r, "a/x1000/c25/deep", 1, 1), 1);
	return r;
}

static void
a_filter_costs_what_it_must_try_not_what_lies_below(void **state UNUSED)
{
	static const struct {
		const char	*filter;
		unsigned	 given;
		uint64_t	 most;		/* steps */
	} rows[] = {
		/* Two of each branch: its first, and what we look for; with
		 * '#' a third, to see that it ends. */
		{ "a/+/c25",		BRANCHES,	2 * BRANCHES + 4 },
		{ "a/+/none",		0,		2 * BRANCHES + 4 },
		{ "a/+/b00",		BRANCHES,	BRANCHES + 2 },
		{ "a/+/c25/+",		1,		2 * BRANCHES + 4 },
		{ "a/+/c25/#",		BRANCHES + 1,	3 * BRANCHES + 4 },
		{ "+/+/c25",		2 * BRANCHES,	4 * BRANCHES + 8 },
		{ "+/x0500/#",		2 * LEAVES,	2 * LEAVES + 8 },
		{ "a/x0500/+",		LEAVES,		LEAVES + 2 },
		{ "a/x0500/#",		LEAVES,		LEAVES + 2 },
		{ "+/x0500/c25",	2,		8 },
		{ "+/x0500",		0,		8 },
		{ "+",			0,		8 },
		{ "+/+",		0,		2 * BRANCHES + 8 },
		{ "a",			0,		2 },
		{ "a/x0500/c25",	1,		2 },
		{ "a/x1000/c25/deep/#",	1,		2 },
		{ "$SYS/+/c25",		BRANCHES,	2 * BRANCHES + 4 },
		{ "$SYS/x0001/#",	LEAVES,		LEAVES + 2 },
		{ "b/#",		0,		2 },
		{ "zz/+/x",		0,		2 },
		/* All of it, but for one jump over $SYS. */
		{ "#",			2 * BRANCHES * LEAVES + 1,
		    2 * BRANCHES * LEAVES + 4 },
	};
	struct retain	*r = many();
	unsigned	 i, given;
	uint64_t	 steps, again;

	for (i = 0; i < NELEM(rows); i++) {
		steps = steps_of(r, rows[i].filter, UINT32_MAX, &given);
		assert_int_equal(given, rows[i].given);
		if (steps > rows[i].most)
			fail_msg("%s: %llu steps", rows[i].filter,
			    (unsigned long long)steps);
		/* Nor is anything looked at twice for ending a page. */
		again = steps_of(r, rows[i].filter, 7, &given);
		assert_int_equal(given, rows[i].given);
		assert_int_equal(again, steps);
		again = steps_of(r, rows[i].filter, 1, &given);
		assert_int_equal(given, rows[i].given);
		assert_int_equal(again, steps);
	}
	retain_free(&r);
}

/* --- The tree --------------------------------------------------------- */

enum { MANY = 30000 };

enum turn { RISING, FALLING, SCATTERED, NTURNS };

static unsigned
nth(enum turn how, unsigned i)
{
	switch (how) {
	case RISING:
		return i;
	case FALLING:
		return MANY - 1 - i;
	case SCATTERED:
	case NTURNS:
		break;
	}
	/* A prime that does not divide it: each number once. */
	return (unsigned)((uint64_t)i * 7919 % MANY);
}

static void
it_grows_and_shrinks_in_any_order(void **state UNUSED)
{
	struct retain	*r = retain_new(&wide);
	char		 t[TEXT];
	uint64_t	 hi, lo;
	unsigned	 in, out, i, given;

	for (in = 0; in < NTURNS; in++)
		for (out = 0; out < NTURNS; out++) {
			for (i = 0; i < MANY; i++) {
				snprintf(t, sizeof(t), "t/%05u", nth(in, i));
				assert_int_equal(set(r, t, 1, 1), 1);
			}
			assert_true(retain_tree_is_sound(&r->tree, NULL));
			for (i = 0; i < MANY; i++) {
				snprintf(t, sizeof(t), "t/%05u", nth(out, i));
				assert_int_equal(set(r, t, 2, 0), 1);
				assert_false(retain_version(r, t, strlen(t),
				    &hi, &lo));
				if (i % 5000 != 0)
					continue;
				assert_true(retain_tree_is_sound(&r->tree,
				    NULL));
				(void)steps_of(r, "t/#", UINT32_MAX, &given);
				assert_int_equal(given, MANY - 1 - i);
				snprintf(t, sizeof(t), "t/%05u",
				    nth(out, MANY - 1));
				assert_true(retain_version(r, t, strlen(t),
				    &hi, &lo));
			}
			assert_int_equal(retain_count(r), 0);
			assert_true(retain_tree_is_sound(&r->tree, NULL));
		}
	retain_free(&r);
}

static void
what_was_deleted_leaves_no_empty_tree(void **state UNUSED)
{
	struct retain	*r = retain_new(&wide);
	char		 t[TEXT];
	unsigned	 round, i, leaves;

	/* One in 64 stays of each round, in a place of its own. */
	for (round = 0; round < 8; round++) {
		for (i = 0; i < MANY; i++) {
			snprintf(t, sizeof(t), "t/%u/%05u", round, i);
			assert_int_equal(set(r, t, 1, 1), 1);
		}
		for (i = 0; i < MANY; i++) {
			snprintf(t, sizeof(t), "t/%u/%05u", round, i);
			if (i % 64 != 0)
				assert_int_equal(set(r, t, 2, 0), 1);
		}
		assert_true(retain_tree_is_sound(&r->tree, &leaves));
		/* On average a leaf holds a quarter of what it could. */
		assert_true(leaves <= retain_count(r) / 16 + 1);
	}
	retain_free(&r);
}

static void
what_came_lately_is_known(void **state UNUSED)
{
	static struct lately	 t, copy;
	uint64_t		 seed = 7;
	uint32_t		 i, k, since;
	unsigned		 kept = 0;

	assert_false(lately_came(&t, 0, 0, 0));
	lately_add(&t, 1, 2);
	since = t.now;
	assert_true(lately_came(&t, 1, 2, 0));
	assert_false(lately_came(&t, 1, 2, since));
	assert_false(lately_came(&t, 2, 1, 0));
	lately_add(&t, 1, 2);			/* again: that counts */
	assert_true(lately_came(&t, 1, 2, since));

	/* The last thousand are all but surely there, whatever came before. */
	for (i = 0; i < 100000; i++)
		lately_add(&t, next_random(&seed), i);
	for (seed = 7, i = 0; i < 100000; i++) {
		uint64_t hi = next_random(&seed);

		if (i >= 99000)
			kept += lately_came(&t, hi, i, since);
	}
	assert_true(kept >= 995);

	/* Counts go round. */
	memset(&t, 0, sizeof(t));
	t.now = UINT32_MAX - 2;
	since = t.now;
	for (i = 0; i < 5; i++)
		lately_add(&t, 5, i);
	for (i = 0; i < 5; i++)
		assert_true(lately_came(&t, 5, i, since));
	assert_false(lately_came(&t, 5, 4, t.now));
	copy.now = t.now;
	for (k = 0; k < LATELY_MAX; k++)
		if (t.item[k].no != 0)
			lately_restore(&copy, &t.item[k]);
	assert_memory_equal(&t, &copy, sizeof(t));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_order_goes_level_by_level),
		cmocka_unit_test(it_does_what_a_plain_list_does),
		cmocka_unit_test(
		    what_stays_is_given_once_whatever_else_changes),
		cmocka_unit_test(the_higher_version_wins),
		cmocka_unit_test(a_message_may_be_made_of_the_one_it_replaces),
		cmocka_unit_test(what_is_beyond_the_limits_is_refused),
		cmocka_unit_test(what_no_field_holds_is_refused),
		cmocka_unit_test(an_expired_one_is_as_none_and_goes),
		cmocka_unit_test(topics_of_every_length_are_found),
		cmocka_unit_test(
		    a_filter_costs_what_it_must_try_not_what_lies_below),
		cmocka_unit_test(it_grows_and_shrinks_in_any_order),
		cmocka_unit_test(what_was_deleted_leaves_no_empty_tree),
		cmocka_unit_test(what_came_lately_is_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

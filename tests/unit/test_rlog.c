/* rlog: messages, its own store, and single promises between a few nodes. What
 * holds whatever happens is in test_rlog_sim. */
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
#include "rlog/message.h"
#include "rlog/rlog.h"

enum { BUF = RLOG_BUF_MIN, NODES = 5, LINKS = 12 };

static uint8_t buf[BUF];

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* --- Messages ------------------------------------------------------------ */

static void
records_come_out_as_they_went_in(void **state UNUSED)
{
	struct rlog_msg m = { .kind = RLOG_OFFER, .table = 3,
	    .writer = 1u << 30, .incarnation = UINT64_MAX, .home = 9,
	    .seq = 1ull << 40, .hops = 7 };
	struct rlog_word w = { 5, 6, 7, RLOG_W_OWN };
	struct rlog_row row = { .key = text("key"), .value = text("value"),
	    .seq = 12 };
	struct rlog_out	o;
	struct rlog_in	in;
	struct rlog_msg	got;

	rlog_out_init(&o, buf, sizeof(buf));
	assert_int_equal(rlog_put_msg(&o, &m), 0);
	m.kind = RLOG_ACK;
	assert_int_equal(rlog_ack_begin(&o, &m), 0);
	assert_int_equal(rlog_ack_word(&o, &w), 0);
	rlog_ack_end(&o, &m);
	m = (struct rlog_msg){ .kind = RLOG_ROWS, .writer = 1,
	    .incarnation = 1, .from = 11, .floor = 4, .ticket = 99 };
	assert_int_equal(rlog_rows_begin(&o, &m), 0);
	assert_int_equal(rlog_rows_row(&o, &row), 0);
	row.seq = 13;
	row.deleted = true;
	assert_int_equal(rlog_rows_row(&o, &row), 0);
	m.upto = 20;
	rlog_rows_end(&o, &m);

	assert_int_equal(rlog_in_init(&in, buf, o.len), 0);
	assert_int_equal(rlog_msg_next(&in, &got), 1);
	assert_int_equal(got.kind, RLOG_OFFER);
	assert_int_equal(got.table, 3);
	assert_int_equal(got.writer, 1u << 30);
	assert_true(got.incarnation == UINT64_MAX && got.seq == 1ull << 40);
	assert_int_equal(got.home, 9);
	assert_int_equal(got.hops, 7);
	assert_int_equal(rlog_msg_next(&in, &got), 1);
	assert_int_equal(got.count, 1);
	assert_int_equal(rlog_words_next(&got.rows, &w), 1);
	assert_true(w.node == 5 && w.incarnation == 6 && w.seq == 7);
	assert_int_equal(rlog_words_next(&got.rows, &w), 0);
	assert_int_equal(rlog_msg_next(&in, &got), 1);
	assert_true(got.from == 11 && got.upto == 20 && got.floor == 4);
	assert_int_equal(got.ticket, 99);
	assert_int_equal(got.count, 2);
	assert_int_equal(rlog_rows_next(&got.rows, &row), 1);
	assert_int_equal(row.value.len, 5);
	assert_false(row.deleted);
	assert_int_equal(rlog_rows_next(&got.rows, &row), 1);
	assert_true(row.deleted && row.value.len == 0 && row.seq == 13);
	assert_int_equal(rlog_rows_next(&got.rows, &row), 0);
	assert_int_equal(rlog_msg_next(&in, &got), 0);
}

static void
what_a_later_version_adds_is_skipped(void **state UNUSED)
{
	struct rlog_msg m = { .kind = RLOG_OFFER, .writer = 1,
	    .incarnation = 2, .hops = 3 };
	struct rlog_out	o;
	struct rlog_in	in;
	struct rlog_msg	got;
	size_t		len;

	rlog_out_init(&o, buf, sizeof(buf));
	assert_int_equal(rlog_put_msg(&o, &m), 0);
	len = o.len;			/* 5 bytes more in the fixed part */
	memset(buf + len, 0xee, 5);
	put_le16(buf + 2, (uint16_t)(get_le16(buf + 2) + 5));
	put_le32(buf + 4, get_le32(buf + 4) + 5);
	memset(buf + len + 5, 0, 8);	/* a kind nobody knows */
	put_le16(buf + len + 5, 4711);
	memcpy(buf + len + 13, buf, len + 5);
	assert_int_equal(rlog_in_init(&in, buf, len + 13 + len + 5), 0);
	assert_int_equal(rlog_msg_next(&in, &got), 1);
	assert_int_equal(got.hops, 3);
	assert_int_equal(rlog_msg_next(&in, &got), 1);
	assert_int_equal(rlog_msg_next(&in, &got), 0);
}

static void
every_cut_message_is_refused(void **state UNUSED)
{
	struct rlog_msg m = { .kind = RLOG_ROWS, .writer = 1,
	    .incarnation = 2, .upto = 1 };
	struct rlog_row row = { .key = text("k"), .value = text("v"),
	    .seq = 1 };
	struct rlog_out	o;
	struct rlog_in	in;
	struct rlog_msg	got;
	size_t		n;

	rlog_out_init(&o, buf, sizeof(buf));
	assert_int_equal(rlog_rows_begin(&o, &m), 0);
	assert_int_equal(rlog_rows_row(&o, &row), 0);
	rlog_rows_end(&o, &m);
	for (n = 1; n < o.len; n++) {
		assert_int_equal(rlog_in_init(&in, buf, n), 0);
		assert_int_equal(rlog_msg_next(&in, &got), ERR_PROTO);
	}
	assert_int_equal(rlog_in_init(&in, buf, RLOG_MSG_MAX + 1), ERR_PROTO);
	m.upto = 0;			/* a row beyond what it promises */
	rlog_rows_end(&o, &m);
	assert_int_equal(rlog_in_init(&in, buf, o.len), 0);
	assert_int_equal(rlog_msg_next(&in, &got), ERR_PROTO);
}

/* --- The store ----------------------------------------------------------- */

enum { M_KEYS = 24, M_OPS = 4000 };

struct m_row {
	bool		there, deleted, ordered;
	uint64_t	seq;
	uint8_t		mark;
};

static uint64_t rnd_state = 88172645463325252u;

static uint32_t
rnd(uint32_t n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 20) % n);
}

static void
m_check(void *t, const struct m_row *m, uint64_t *hint)
{
	const struct rlog_ops *ops = &rlog_table_ops;
	struct rlog_row	row;
	uint64_t	after = rnd(40) == 0 ? 0 : rnd(M_OPS), best, at = 0;
	unsigned	k, n, got = 0, steps = rnd(6);
	uint8_t		key;

	/* In order from anywhere, with a hint from anywhere. */
	for (; steps > 0; steps--) {
		best = UINT64_MAX;
		for (k = 0; k < M_KEYS; k++)
			if (m[k].there && m[k].ordered && m[k].seq > after &&
			    m[k].seq < best)
				best = m[k].seq;
		n = (unsigned)ops->since(t, after, hint, &row);
		assert_int_equal(n, best != UINT64_MAX);
		if (n == 0)
			break;
		assert_true(row.seq == best);
		after = best;
	}
	for (k = 0, n = 0; k < M_KEYS; k++) {
		key = (uint8_t)k;
		n += m[k].there;
		assert_int_equal(ops->get(t, (struct slice){ &key, 1 }, &row),
		    m[k].there ? 0 : ERR_NOTFOUND);
		if (!m[k].there)
			continue;
		assert_true(row.seq == m[k].seq && row.mark == m[k].mark &&
		    row.deleted == m[k].deleted &&
		    row.ordered == m[k].ordered);
		assert_int_equal(row.value.len, m[k].deleted ? 0 : k);
	}
	while (ops->scan(t, &at, &row) == 1)
		got++;
	assert_int_equal(got, n);
	best = UINT64_MAX;
	for (k = 0; k < M_KEYS; k++)
		if (m[k].there && m[k].ordered && m[k].deleted)
			best = MIN(best, m[k].seq);
	assert_int_equal(ops->oldest(t, &row), best != UINT64_MAX);
	if (best != UINT64_MAX)
		assert_true(row.seq == best);
}

static void
the_store_does_what_a_naive_one_does(void **state UNUSED)
{
	static const uint8_t   value[M_KEYS];
	const struct rlog_ops *ops = &rlog_table_ops;
	struct m_row	       m[M_KEYS];
	struct rlog_row	       row;
	uint64_t	       seq, hint, upto;
	unsigned	       round, i, k, j;
	uint8_t		       key, mark;
	void		      *t;

	for (round = 0; round < 20; round++) {
		memset(m, 0, sizeof(m));
		assert_non_null(t = rlog_table_new(round));
		hint = 0;
		for (i = 1, seq = 0; i < M_OPS / 8; i++) {
			k = rnd(M_KEYS);
			key = (uint8_t)k;
			row = (struct rlog_row){ 0 };
			(void)ops->get(t, (struct slice){ &key, 1 }, &row);
			switch (rnd(12)) {
			case 0:
				if (!m[k].there)
					break;
				ops->drop(t, row.ref);
				m[k].there = false;
				break;
			case 1:
				if (!m[k].there)
					break;
				m[k].mark = (uint8_t)rnd(3);
				ops->mark(t, row.ref, m[k].mark);
				break;
			case 2:
				upto = rnd((uint32_t)seq + 2);
				ops->loosen(t, upto);
				for (j = 0; j < M_KEYS; j++)
					m[j].ordered &= m[j].seq <= upto;
				break;
			case 3:
				upto = rnd((uint32_t)seq + 2);
				mark = (uint8_t)rnd(3);
				assert_int_equal(ops->settle(t, upto, mark), 0);
				for (j = 0; j < M_KEYS; j++)
					m[j].ordered |= m[j].there &&
					    m[j].mark >= mark &&
					    m[j].seq <= upto;
				break;
			default:
				row.key = (struct slice){ &key, 1 };
				row.value = (struct slice){ value, k };
				row.seq = seq += 1 + rnd(3);
				row.deleted = rnd(3) == 0;
				row.ordered = rnd(4) != 0;
				row.mark = (uint8_t)rnd(3);
				assert_int_equal(ops->put(t, &row), 0);
				m[k] = (struct m_row){ true, row.deleted,
				    row.ordered, row.seq, row.mark };
				break;
			}
			m_check(t, m, &hint);
		}
		assert_true(ops->bytes(t) > 0);
		ops->free(t);
	}
}

/* --- A few nodes --------------------------------------------------------- */

struct node {
	struct rlog	*r;
	struct rlog_stream *s;		/* table 1 */
	uint64_t	 acked;
	unsigned	 told, rows, phases;
	enum rlog_phase	 phase[16];
	int		 refuse;
};

struct wire {
	struct rlog_link *l[2];
	unsigned	  n[2];
	bool		  cut[2];	/* nothing comes to n[i] */
};

static struct bed {
	struct node	n[NODES];
	struct wire	w[LINKS];
	unsigned	nw;
	uint64_t	now;
} bed;

static int
on_row(void *ctx, struct rlog_stream *s UNUSED, const struct rlog_row *row)
{
	struct node *n = ctx;

	if (n->refuse != 0)
		return n->refuse;
	n->told++;
	n->rows += !row->deleted;
	return 0;
}

static void
on_acked(void *ctx, struct rlog_stream *s UNUSED, uint64_t seq)
{
	((struct node *)ctx)->acked = seq;
}

static void
on_wake(void *ctx UNUSED, struct rlog_link *l UNUSED)
{
}

static void
on_phase(void *ctx, struct rlog_stream *s UNUSED, enum rlog_phase phase)
{
	struct node *n = ctx;

	if (n->phases < NELEM(n->phase))
		n->phase[n->phases++] = phase;
}

static const struct rlog_calls calls = {
	on_row, on_acked, on_wake, on_phase, NULL
};

static void
start(unsigned i, uint64_t incarnation, bool core, uint64_t tombstones,
    bool confirms)
{
	struct node	*n = &bed.n[i];
	struct rlog_opts o = {
		.node = i + 1, .incarnation = incarnation, .core = core,
		.tombstones = tombstones, .confirms = confirms, .seed = 1,
		.streams = 8, .calls = &calls, .ctx = n,
	};

	memset(n, 0, sizeof(*n));
	assert_int_equal(rlog_new(&n->r, &o), 0);
	rlog_tick(n->r, bed.now);
	assert_int_equal(rlog_open(n->r, 1, NULL, NULL, &n->s), 0);
}

static void
bed_init(void)
{
	memset(&bed, 0, sizeof(bed));
	bed.now = 1000;
}

static void
stop(unsigned i)
{
	unsigned k, side;

	for (k = 0; k < bed.nw; k++)
		for (side = 0; side < 2; side++)
			if (bed.w[k].l[side] != NULL && bed.w[k].n[side] == i) {
				rlog_link_close(&bed.w[k].l[side], false);
				if (bed.w[k].l[!side] != NULL)
					rlog_link_close(&bed.w[k].l[!side],
					    false);
			}
	rlog_free(&bed.n[i].r);
}

static void
bed_fini(void)
{
	unsigned i;

	for (i = 0; i < NODES; i++)
		if (bed.n[i].r != NULL)
			stop(i);
}

static unsigned
connect_nodes(unsigned a, unsigned b)
{
	struct wire	  *w = &bed.w[bed.nw];
	struct rlog_status st[2];

	assert_true(bed.nw < LINKS);
	*w = (struct wire){ .n = { a, b } };
	rlog_look(bed.n[a].s, &st[0]);
	rlog_look(bed.n[b].s, &st[1]);
	assert_int_equal(rlog_link_open(bed.n[a].r, b + 1, st[1].incarnation,
	    w, &w->l[0]), 0);
	assert_int_equal(rlog_link_open(bed.n[b].r, a + 1, st[0].incarnation,
	    w, &w->l[1]), 0);
	return bed.nw++;
}

static void
disconnect(unsigned k)
{
	rlog_link_close(&bed.w[k].l[0], false);
	rlog_link_close(&bed.w[k].l[1], false);
}

/* Carry one message to each side of each connection. */
static bool
carry(void)
{
	unsigned k, side;
	size_t	 len;
	bool	 any = false;
	int	 rc;

	for (k = 0; k < bed.nw; k++)
		for (side = 0; side < 2; side++) {
			if (bed.w[k].l[side] == NULL || bed.w[k].cut[side])
				continue;
			len = rlog_next(bed.w[k].l[!side], buf, sizeof(buf),
			    true);
			if (len == 0)
				continue;
			any = true;
			rc = rlog_take(bed.w[k].l[side], buf, len);
			assert_true(rc == 0 || bed.n[bed.w[k].n[side]].refuse);
			if (rc < 0)
				disconnect(k);
		}
	return any;
}

static void
settle(void)
{
	unsigned i;
	bool	 any = true;

	while (any) {
		any = carry();
		for (i = 0; i < NODES; i++)
			if (bed.n[i].r != NULL)
				any |= rlog_tidy(bed.n[i].r, 3) == 1;
	}
}

static uint64_t
put(unsigned i, const char *key, const char *value)
{
	uint64_t seq = 0;

	assert_int_equal(rlog_put(bed.n[i].s, text(key), text(value), &seq), 0);
	return seq;
}

static uint64_t
del(unsigned i, const char *key)
{
	uint64_t seq = 0;

	assert_int_equal(rlog_del(bed.n[i].s, text(key), &seq), 0);
	return seq;
}

static struct rlog_status
look(unsigned i, unsigned writer)
{
	struct rlog_stream *s = rlog_find(bed.n[i].r,
	    (struct rlog_id){ 1, writer + 1 });
	struct rlog_status  st = { 0 };

	if (s != NULL)
		rlog_look(s, &st);
	return st;
}

/* Does node i have this row of writer's? */
static bool
has(unsigned i, unsigned writer, const char *key, const char *value)
{
	struct rlog_stream *s = rlog_find(bed.n[i].r,
	    (struct rlog_id){ 1, writer + 1 });
	struct rlog_row	    row;
	bool		    old;

	return s != NULL && rlog_get(s, text(key), &row, &old) == 0 &&
	    (value == NULL || (row.value.len == strlen(value) &&
	    memcmp(row.value.data, value, row.value.len) == 0));
}

static void
put_many(unsigned i, unsigned n)
{
	char	 key[32];
	unsigned k;

	for (k = 0; k < n; k++) {
		snprintf(key, sizeof(key), "many/%u", k);
		put(i, key, "v");
	}
}

static void
a_row_that_is_so_already_has_its_seq(void **state UNUSED)
{
	uint64_t seq;

	bed_init();
	start(0, 1, true, 0, false);
	assert_int_equal(put(0, "a", "1"), 1);
	assert_int_equal(put(0, "b", "1"), 2);
	assert_int_equal(put(0, "a", "1"), 1);	/* what to wait for */
	assert_int_equal(del(0, "a"), 3);
	assert_int_equal(rlog_del(bed.n[0].s, text("a"), &seq), 0);
	assert_int_equal(seq, 3);
	assert_int_equal(rlog_del(bed.n[0].s, text("no"), &seq), ERR_NOTFOUND);
	assert_int_equal(seq, 0);
	assert_int_equal(rlog_put(bed.n[0].s, text(""), text("v"), &seq),
	    ERR_INVAL);
	bed_fini();
}

/* Core 0 - core 1 - replicant 2: rows go both ways, also through a core. */
static void
rows_reach_every_node_through_the_cores(void **state UNUSED)
{
	unsigned i;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	start(2, 1, false, 0, false);
	start(3, 1, false, 0, false);
	connect_nodes(0, 1);
	connect_nodes(2, 1);
	connect_nodes(3, 0);
	put(0, "of core", "0");
	put(2, "of replicant", "2");
	settle();
	for (i = 0; i < 4; i++) {
		assert_true(has(i, 0, "of core", "0"));
		assert_true(has(i, 2, "of replicant", "2"));
	}
	assert_int_equal(look(3, 2).hops, 3);
	assert_int_equal(look(3, 2).source, 1);
	assert_true(look(3, 2).digest == look(2, 2).digest);
	assert_int_equal(bed.n[2].acked, 1);
	assert_int_equal(look(2, 2).waited, 3);
	bed_fini();
}

static void
a_change_is_acknowledged_when_the_last_node_has_it(void **state UNUSED)
{
	unsigned far;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	start(2, 1, false, 0, false);
	connect_nodes(0, 1);
	far = connect_nodes(2, 1);
	settle();
	bed.w[far].cut[0] = true;	/* nothing comes to the replicant */
	put(0, "a", "1");
	settle();
	assert_int_equal(bed.n[0].acked, 0);
	assert_true(has(1, 0, "a", "1"));
	bed.w[far].cut[0] = false;
	settle();
	assert_int_equal(bed.n[0].acked, 1);
	bed_fini();
}

static void
a_laggard_is_waited_for_again_when_it_caught_up(void **state UNUSED)
{
	struct rlog_stats all;
	unsigned	  slow;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	slow = connect_nodes(0, 1);
	put(0, "a", "1");
	settle();
	assert_int_equal(look(0, 0).waited, 1);
	bed.w[slow].cut[1] = true;
	put(0, "a", "2");
	rlog_tick(bed.n[0].r, bed.now += 1000);
	assert_int_equal(bed.n[0].acked, 1);
	rlog_tick(bed.n[0].r, bed.now += 1);
	assert_int_equal(bed.n[0].acked, 2);	/* without it */
	rlog_stats(bed.n[0].r, &all);
	assert_int_equal(all.laggards, 1);
	put(0, "a", "3");
	assert_int_equal(bed.n[0].acked, 3);	/* nor for the next */
	bed.w[slow].cut[1] = false;
	settle();
	assert_int_equal(look(0, 0).waited, 1);
	bed.w[slow].cut[1] = true;
	put(0, "a", "4");
	settle();
	assert_int_equal(bed.n[0].acked, 3);
	disconnect(slow);			/* gone: at once */
	assert_int_equal(bed.n[0].acked, 4);
	bed_fini();
}

static void
a_row_counts_when_the_node_confirms_it(void **state UNUSED)
{
	struct rlog_stream *s;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, true);
	connect_nodes(0, 1);
	settle();
	put(0, "a", "1");
	settle();
	assert_true(has(1, 0, "a", "1"));
	assert_int_equal(bed.n[0].acked, 0);
	s = rlog_find(bed.n[1].r, (struct rlog_id){ 1, 1 });
	rlog_confirm(s, 1);
	settle();
	assert_int_equal(bed.n[0].acked, 1);
	put(1, "b", "1");			/* and its own */
	settle();
	assert_int_equal(bed.n[1].acked, 0);
	rlog_confirm(bed.n[1].s, 1);
	assert_int_equal(bed.n[1].acked, 1);
	bed_fini();
}

static void
a_slow_follower_gets_each_row_once_as_it_stands(void **state UNUSED)
{
	char	 value[16];
	unsigned slow, i;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	slow = connect_nodes(0, 1);
	settle();
	bed.w[slow].cut[1] = true;
	for (i = 0; i < 10000; i++) {
		snprintf(value, sizeof(value), "%u", i);
		put(0, i % 2 ? "a" : "b", value);
	}
	bed.w[slow].cut[1] = false;
	settle();
	assert_int_equal(bed.n[1].told, 2);
	assert_int_equal(look(1, 0).seq, 10000);
	assert_true(has(1, 0, "a", "9999"));
	bed_fini();
}

/* A row that moves on while a long run is told is not here before its turn. */
static void
what_was_left_out_of_a_run_is_not_acknowledged(void **state UNUSED)
{
	static char long_value[1001];
	char	    key[32];
	unsigned    i, k;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	k = connect_nodes(0, 1);
	settle();
	memset(long_value, 'x', 1000);
	bed.w[k].cut[1] = true;
	for (i = 0; i < 500; i++) {
		snprintf(key, sizeof(key), "row/%u", i);
		put(0, key, long_value);
	}
	bed.w[k].cut[1] = false;
	while (look(1, 0).seq == 0)
		assert_true(carry());
	put(0, "row/300", "changed");		/* its seq was 301 */
	while (look(1, 0).seq < 301) {
		assert_true(carry());
		assert_false(has(1, 0, "row/300", NULL));
	}
	if (look(1, 0).seq < 501)
		assert_in_range(bed.n[0].acked, 0, 300);
	settle();
	assert_true(has(1, 0, "row/300", "changed"));
	assert_int_equal(look(1, 0).whole, 501);
	assert_int_equal(bed.n[0].acked, 501);
	bed_fini();
}

static void
who_comes_back_gets_the_difference(void **state UNUSED)
{
	unsigned k;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	k = connect_nodes(0, 1);
	put_many(0, 500);
	settle();
	disconnect(k);
	assert_int_equal(look(1, 0).phase, RLOG_DOWN);
	assert_int_equal(look(1, 0).rows, 500);	/* nothing on suspicion */
	put(0, "new", "1");
	del(0, "many/7");
	bed.n[1].told = 0;
	connect_nodes(0, 1);
	settle();
	assert_int_equal(bed.n[1].told, 2);
	assert_int_equal(look(1, 0).bootstraps, 0);
	assert_true(look(1, 0).digest == look(0, 0).digest);
	bed_fini();
}

static void
below_the_floor_a_scan_and_what_it_did_not_name_goes(void **state UNUSED)
{
	static const enum rlog_phase phases[] = { RLOG_LOCAL_REPLAY,
	    RLOG_NORMAL, RLOG_DOWN, RLOG_LOCAL_REPLAY, RLOG_BOOTSTRAP,
	    RLOG_LOCAL_REPLAY, RLOG_NORMAL };
	char	 key[32];
	unsigned k, i;

	bed_init();
	start(0, 1, true, 10, false);
	start(1, 1, true, 10, false);
	k = connect_nodes(0, 1);
	put_many(0, 20000);
	settle();
	disconnect(k);
	for (i = 0; i < 12; i++) {	/* two more than are remembered */
		snprintf(key, sizeof(key), "many/%u", i * 3);
		del(0, key);
	}
	assert_true(look(0, 0).floor > look(1, 0).seq);
	assert_int_equal(look(0, 0).tombstones, 10);
	connect_nodes(0, 1);
	while (look(1, 0).phase != RLOG_BOOTSTRAP)
		assert_true(carry());
	put(0, "during", "the scan");	/* while it changes */
	del(0, "many/19999");
	settle();
	assert_int_equal(look(1, 0).bootstraps, 1);
	assert_true(has(1, 0, "during", "the scan"));
	assert_false(has(1, 0, "many/0", NULL));
	assert_false(has(1, 0, "many/19999", NULL));
	assert_true(has(1, 0, "many/1", "v"));
	assert_true(look(1, 0).digest == look(0, 0).digest);
	assert_int_equal(bed.n[1].phases, NELEM(phases));
	assert_memory_equal(bed.n[1].phase, phases, sizeof(phases));
	bed_fini();
}

static void
a_new_incarnation_replaces_at_its_end_mark(void **state UNUSED)
{
	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	connect_nodes(0, 1);
	put(0, "stays", "1");
	put(0, "goes", "1");
	put(0, "changes", "1");
	settle();
	stop(0);
	start(0, 2, true, 0, false);
	connect_nodes(0, 1);
	bed.n[1].told = 0;
	put(0, "stays", "1");
	put(0, "changes", "2");
	settle();
	assert_true(has(1, 0, "goes", "1"));	/* not before */
	assert_true(has(1, 0, "changes", "2"));
	assert_false(look(1, 0).ended);
	rlog_end(bed.n[0].s);
	rlog_end(bed.n[0].s);			/* once */
	settle();
	assert_false(has(1, 0, "goes", NULL));
	assert_true(has(1, 0, "stays", "1"));
	assert_true(look(1, 0).ended);
	assert_int_equal(bed.n[1].told, 2);	/* what stayed is not told */
	assert_true(look(1, 0).digest == look(0, 0).digest);
	assert_int_equal(bed.n[0].acked, 3);
	bed_fini();
}

static void
a_tombstone_goes_when_every_member_saw_it(void **state UNUSED)
{
	unsigned i;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	start(2, 1, false, 0, false);
	connect_nodes(0, 1);
	connect_nodes(1, 2);
	rlog_members(bed.n[0].r, 4);	/* one has never been seen */
	put(0, "a", "1");
	del(0, "a");
	settle();
	for (i = 0; i < 3; i++)
		assert_int_equal(look(i, 0).tombstones, 1);
	rlog_members(bed.n[0].r, 3);
	settle();
	for (i = 0; i < 3; i++)
		assert_int_equal(look(i, 0).tombstones, 0);
	bed_fini();
}

static void
a_barred_writer_goes_in_slices_and_never_returns(void **state UNUSED)
{
	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	start(2, 1, true, 0, false);
	connect_nodes(0, 1);
	connect_nodes(1, 2);
	put_many(0, 100);
	settle();
	assert_int_equal(rlog_bar(bed.n[1].r, 1), 0);
	assert_int_equal(rlog_tidy(bed.n[1].r, 10), 1);
	assert_int_equal(look(1, 0).rows, 90);
	settle();
	assert_null(rlog_find(bed.n[1].r, (struct rlog_id){ 1, 1 }));
	put(0, "more", "1");
	settle();
	assert_null(rlog_find(bed.n[1].r, (struct rlog_id){ 1, 1 }));
	assert_int_equal(look(2, 0).rows, 100);	/* it decides for itself */
	assert_int_equal(look(1, 1).waited, 1);
	assert_int_equal(rlog_bar(bed.n[1].r, 2), ERR_INVAL);	/* oneself */
	bed_fini();
}

/* Whoever has most of a writer that is gone gives it to the others, be it a
 * replicant. */
static void
rows_of_a_dead_writer_come_back_to_a_core_that_began_anew(void **state UNUSED)
{
	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	start(2, 1, false, 0, false);
	connect_nodes(0, 1);
	connect_nodes(2, 1);
	put_many(0, 50);
	settle();
	stop(0);
	stop(1);
	start(1, 2, true, 0, false);
	connect_nodes(2, 1);
	settle();
	assert_int_equal(look(1, 0).rows, 50);
	assert_int_equal(look(1, 0).hops, RLOG_HOPS_DEAD);
	assert_true(look(1, 0).digest == look(2, 0).digest);
	bed_fini();
}

static void
a_row_that_cannot_be_taken_comes_again(void **state UNUSED)
{
	unsigned k;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	k = connect_nodes(0, 1);
	settle();
	put_many(0, 3);
	bed.n[1].refuse = ERR_FULL;
	settle();
	assert_null(bed.w[k].l[0]);		/* closed */
	assert_int_equal(look(1, 0).seq, 0);
	bed.n[1].refuse = 0;
	connect_nodes(0, 1);
	settle();
	assert_int_equal(look(1, 0).rows, 3);
	bed_fini();
}

/* Marks are bytes: more passes than that. */
static void
many_incarnations_and_scans_pass(void **state UNUSED)
{
	uint64_t i;

	bed_init();
	start(1, 1, true, 0, false);
	for (i = 1; i < 400; i++) {
		start(0, i, true, 1, false);
		put(0, "here", "1");
		put(0, i % 2 ? "odd" : "even", "1");
		put(0, "gone", "1");
		del(0, "gone");
		put(0, "gone too", "1");
		del(0, "gone too");		/* the floor is above 0 */
		connect_nodes(0, 1);
		settle();
		rlog_end(bed.n[0].s);
		settle();
		assert_int_equal(look(1, 0).rows, 2);
		assert_true(has(1, 0, i % 2 ? "odd" : "even", "1"));
		assert_true(look(1, 0).bootstraps == i);
		stop(0);
		bed.nw = 0;
	}
	bed_fini();
}

static void
streams_are_bounded(void **state UNUSED)
{
	struct rlog_stream *s;
	struct rlog_stats   all;
	uint32_t	    i;

	bed_init();
	start(0, 1, true, 0, false);
	start(1, 1, true, 0, false);
	for (i = 2; i < 9; i++)
		assert_int_equal(rlog_open(bed.n[0].r, i, NULL, NULL, &s), 0);
	assert_int_equal(rlog_open(bed.n[0].r, 9, NULL, NULL, &s), ERR_FULL);
	assert_int_equal(rlog_open(bed.n[0].r, 2, NULL, NULL, &s), ERR_EXISTS);
	connect_nodes(0, 1);
	settle();
	rlog_stats(bed.n[1].r, &all);
	assert_int_equal(all.refused, 1);	/* 1 of its own and 7 */
	bed_fini();
}

static void
a_replicant_keeps_its_core_unless_another_is_much_lighter(void **state UNUSED)
{
	struct rlog_core c[] = {
		{ 1, 10, true }, { 2, 9, true }, { 3, 1, false }, { 4, 6, true }
	};
	unsigned hits[NELEM(c)] = { 0 };
	uint64_t r;
	size_t	 n = NELEM(c);

	/* None yet: the lighter of two that are drawn. */
	for (r = 0; r < 600; r++)
		hits[rlog_pick_core(c, n, 0, true, r, r / 3)]++;
	assert_int_equal(hits[0] + hits[1] + hits[3], 600);
	assert_int_equal(hits[0], 0);		/* it always loses */
	assert_true(hits[3] > hits[1] && hits[1] > 0);
	/* 9 is not enough below 10, 6 is, but not before it may. */
	for (r = 0; r < 100; r++) {
		assert_int_not_equal(rlog_pick_core(c, n, 1, true, r, r / 3),
		    1);
		assert_int_equal(rlog_pick_core(c, n, 1, false, r, r / 3), 0);
		assert_int_equal(rlog_pick_core(c, n, 4, true, r, r / 3), 3);
	}
	c[0].usable = false;			/* gone: another at once */
	assert_int_not_equal(rlog_pick_core(c, n, 1, false, 0, 0), 0);
	c[1].usable = c[3].usable = false;
	assert_int_equal(rlog_pick_core(c, n, 1, true, 0, 0), n);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_come_out_as_they_went_in),
		cmocka_unit_test(what_a_later_version_adds_is_skipped),
		cmocka_unit_test(every_cut_message_is_refused),
		cmocka_unit_test(the_store_does_what_a_naive_one_does),
		cmocka_unit_test(a_row_that_is_so_already_has_its_seq),
		cmocka_unit_test(rows_reach_every_node_through_the_cores),
		cmocka_unit_test(a_change_is_acknowledged_when_the_last_node_has_it),
		cmocka_unit_test(a_laggard_is_waited_for_again_when_it_caught_up),
		cmocka_unit_test(a_row_counts_when_the_node_confirms_it),
		cmocka_unit_test(a_slow_follower_gets_each_row_once_as_it_stands),
		cmocka_unit_test(what_was_left_out_of_a_run_is_not_acknowledged),
		cmocka_unit_test(who_comes_back_gets_the_difference),
		cmocka_unit_test(below_the_floor_a_scan_and_what_it_did_not_name_goes),
		cmocka_unit_test(a_new_incarnation_replaces_at_its_end_mark),
		cmocka_unit_test(a_tombstone_goes_when_every_member_saw_it),
		cmocka_unit_test(a_barred_writer_goes_in_slices_and_never_returns),
		cmocka_unit_test(rows_of_a_dead_writer_come_back_to_a_core_that_began_anew),
		cmocka_unit_test(a_row_that_cannot_be_taken_comes_again),
		cmocka_unit_test(many_incarnations_and_scans_pass),
		cmocka_unit_test(streams_are_bounded),
		cmocka_unit_test(a_replicant_keeps_its_core_unless_another_is_much_lighter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

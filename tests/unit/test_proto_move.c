/* proto/move: every step and every kind of item there and back, in one piece
 * and in parts, cut short, with fields of later versions, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/move.h"

static uint8_t bytes[400000];

static void
fill_bytes(void)
{
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 + i / 251);
}

static struct move_msg
extreme(uint8_t kind)
{
	struct move_msg	m = { .kind = kind, .flags = MOVE_CLEAN | MOVE_MERGE };

	m.x = m.snap = m.seq = UINT64_MAX;
	m.epoch = MOVE_EPOCH_MAX;
	return m;
}

static struct move_item
extreme_item(uint32_t kind, size_t data)
{
	struct move_item	it = { .kind = kind };

	it.version = it.options = UINT8_MAX;
	it.expiry_s = it.delay_s = it.sub_id = UINT32_MAX;
	it.state = MOVE_ITEM_NSTATES - 1;
	it.pid = UINT16_MAX;
	it.qos = 2;
	it.away_ms = it.offset = it.sent = UINT64_MAX;
	it.id_hi = it.id_lo = it.group = it.began = UINT64_MAX;
	it.retain = true;
	it.share = (struct slice){ bytes + 1, 65535 };
	it.filter = (struct slice){ bytes + 2, 65535 };
	it.ids = (struct slice){ bytes + 3, 65536 };
	it.data = (struct slice){ bytes + 4, data };
	return it;
}

static const struct slice client = { bytes + 5, 65535 };

static void
expect_slice(struct slice a, struct slice b)
{
	assert_int_equal(a.len, b.len);
	if (a.len > 0)
		assert_memory_equal(a.data, b.data, a.len);
}

static void
expect_msg(const struct move_msg *a, const struct move_msg *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->flags, b->flags);
	assert_true(a->x == b->x && a->epoch == b->epoch);
	assert_true(a->snap == b->snap && a->seq == b->seq);
}

static void
expect_item(const struct move_item *a, const struct move_item *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->version, b->version);
	assert_true(a->expiry_s == b->expiry_s && a->delay_s == b->delay_s);
	assert_int_equal(a->state, b->state);
	assert_int_equal(a->pid, b->pid);
	assert_int_equal(a->qos, b->qos);
	assert_int_equal(a->options, b->options);
	assert_true(a->sub_id == b->sub_id && a->away_ms == b->away_ms);
	assert_true(a->offset == b->offset && a->sent == b->sent);
	assert_true(a->id_hi == b->id_hi && a->id_lo == b->id_lo);
	assert_true(a->group == b->group && a->began == b->began);
	assert_int_equal(a->retain, b->retain);
	expect_slice(a->share, b->share);
	expect_slice(a->filter, b->filter);
	expect_slice(a->ids, b->ids);
	expect_slice(a->data, b->data);
}

static bool
has_item(unsigned kind)
{
	return kind == MOVE_STATE || kind == MOVE_RELAY;
}

static void
every_step_comes_back_as_it_was(void **state UNUSED)
{
	uint8_t			*buf = malloc(MOVE_BODY_MIN);
	struct move_msg		 m;
	struct move_item	 it;
	struct move_entry	 e;
	struct wire_out		 w;
	struct wire_in		 in;

	assert_non_null(buf);
	for (unsigned k = MOVE_RELEASE; k <= MOVE_REFUSED; k++)
		for (unsigned i = 1; i <= MOVE_ITEM_NKINDS; i++) {
			wire_out_init(&w, buf, MOVE_BODY_MIN);
			m = extreme((uint8_t)k);
			it = extreme_item(i, 1000);
			assert_int_equal(move_msg_put(&w, &m, client,
			    has_item(k) ? &it : NULL), 0);
			m = (struct move_msg){ .kind = (uint8_t)k };
			it = (struct move_item){ .kind = i };
			assert_int_equal(move_msg_put(&w, &m,
			    (struct slice){ NULL, 0 },
			    has_item(k) ? &it : NULL), 0);

			wire_in_init(&in, buf, w.len);
			assert_int_equal(move_msg_next(&in, &e), 1);
			m = extreme((uint8_t)k);
			expect_msg(&m, &e.m);
			expect_slice(client, e.client_id);
			it = has_item(k) ? extreme_item(i, 1000) :
			    (struct move_item){ .kind = 0 };
			expect_item(&it, &e.item);
			assert_ptr_equal(e.m.item,
			    has_item(k) ? &e.item : NULL);
			assert_int_equal(move_msg_next(&in, &e), 1);
			m = (struct move_msg){ .kind = (uint8_t)k };
			expect_msg(&m, &e.m);
			assert_int_equal(move_msg_next(&in, &e), 0);
		}
	free(buf);
}

/* it through bodies of size bytes; returns how many it took. */
static unsigned
carry(struct move_item it, size_t size, struct move_join *j)
{
	struct move_msg		 m = extreme(MOVE_RELAY);
	struct move_item	 want = it;
	struct move_entry	 e;
	struct wire_out		 w;
	struct wire_in		 in;
	uint8_t			*buf = malloc(size);
	unsigned		 n = 0;
	int			 rc = 0;

	assert_non_null(buf);
	while (rc == 0) {
		wire_out_init(&w, buf, size);
		assert_int_equal(move_msg_put(&w, &m, client, &it), 0);
		wire_in_init(&in, buf, w.len);
		assert_int_equal(move_msg_next(&in, &e), 1);
		assert_int_equal(move_msg_next(&in, &(struct move_entry){
		    .client_id = { NULL, 0 } }), 0);
		rc = move_join(j, &e, SIZE_MAX);
		assert_true(rc >= 0);
		n++;
	}
	assert_int_equal(it.at, it.data.len);
	expect_msg(&m, &e.m);
	expect_slice(client, e.client_id);
	expect_item(&want, &e.item);
	assert_ptr_equal(e.m.item, &e.item);
	free(buf);
	return n;
}

static void
large_data_comes_in_parts(void **state UNUSED)
{
	struct move_join	j = { .buf = NULL };

	assert_int_equal(carry(extreme_item(MOVE_ITEM_MESSAGE, 0), 300000, &j),
	    1);
	assert_int_equal(carry(extreme_item(MOVE_ITEM_MESSAGE, 1), 300000, &j),
	    1);
	assert_int_equal(carry(extreme_item(MOVE_ITEM_MESSAGE, 30000), 300000,
	    &j), 1);
	/* Thrice 64 KiB of other things are in the first part alone. */
	assert_int_equal(carry(extreme_item(MOVE_ITEM_MESSAGE, 300000), 300000,
	    &j), 3);
	assert_true(carry(extreme_item(MOVE_ITEM_WILL, 390000), 264400, &j) >=
	    3);
	move_join_clear(&j);
}

static void
every_size_around_a_body_works(void **state UNUSED)
{
	struct move_join	j = { .buf = NULL };
	struct move_item	it = { .kind = MOVE_ITEM_MESSAGE };

	for (size_t n = 0; n < 300; n++) {
		it.data = (struct slice){ bytes, 70000 - 300 + n };
		it.at = 0;
		carry(it, 70000 + 65535 - 100, &j);
	}
	move_join_clear(&j);
}

static void
what_does_not_fit_leaves_the_body_as_it_was(void **state UNUSED)
{
	uint8_t			buf[600];
	struct move_msg		m = extreme(MOVE_RELEASE);
	struct move_item	it = extreme_item(MOVE_ITEM_SUB, 0);
	struct wire_out		w;
	size_t			len;

	for (size_t size = 0; size < 600; size++) {
		wire_out_init(&w, buf, size);
		while (move_msg_put(&w, &m, (struct slice){ bytes, 20 },
		    NULL) == 0)
			;
		len = w.len;
		assert_false(w.full);
		assert_int_equal(move_msg_put(&w, &m,
		    (struct slice){ bytes, 20 }, NULL), ERR_FULL);
		assert_int_equal(w.len, len);
		m.kind = MOVE_STATE;
		assert_int_equal(move_msg_put(&w, &m,
		    (struct slice){ NULL, 0 }, &it), ERR_FULL);
		assert_int_equal(w.len, len);
		assert_int_equal(it.at, 0);
		m.kind = MOVE_RELEASE;
	}
}

static void
a_part_without_its_begin_is_dropped(void **state UNUSED)
{
	struct move_join	 j = { .buf = NULL };
	struct move_entry	 e = { .m = extreme(MOVE_STATE) };
	struct move_entry	 p;

	e.item = (struct move_item){ .kind = MOVE_ITEM_MESSAGE, .total = 30 };
	e.item.data = (struct slice){ bytes, 10 };
	p = e;
	p.item.at = 10;
	assert_int_equal(move_join(&j, &p, 100), 0);	/* of nothing */
	p = e;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	p.item.at = 20;					/* one is lost */
	assert_int_equal(move_join(&j, &p, 100), 0);
	p.item.at = 10;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p.item.at = 20;
	assert_int_equal(move_join(&j, &p, 100), 0);

	p = e;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	p.item.at = 10;
	p.m.seq--;					/* of another */
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	p.item.at = 10;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p.item.at = 20;
	assert_int_equal(move_join(&j, &p, 100), 0);

	p = e;						/* begun twice */
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	p.item.at = 10;
	assert_int_equal(move_join(&j, &p, 100), 0);
	p = e;
	p.item.at = 20;
	assert_int_equal(move_join(&j, &p, 100), 1);
	assert_int_equal(p.item.data.len, 30);
	p.item.at = 20;					/* twice */
	p.item.data.len = 10;
	assert_int_equal(move_join(&j, &p, 100), 0);

	p = e;
	assert_int_equal(move_join(&j, &p, 29), ERR_FULL);
	move_join_clear(&j);
}

static void
cut_short_is_an_error(void **state UNUSED)
{
	uint8_t			buf[600], *cut;
	struct move_msg		m = extreme(MOVE_STATE);
	struct move_item	it = { .kind = MOVE_ITEM_MESSAGE };
	struct move_entry	e;
	struct wire_out		w;
	struct wire_in		in;

	it.offset = UINT64_MAX;
	it.ids = (struct slice){ bytes, 8 };
	it.data = (struct slice){ bytes, 300 };
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(move_msg_put(&w, &m, (struct slice){ bytes, 9 }, &it),
	    0);
	for (size_t n = 1; n < w.len; n++) {
		cut = malloc(n);
		assert_non_null(cut);
		memcpy(cut, buf, n);
		wire_in_init(&in, cut, n);
		memset(&e, 0xee, sizeof(e));
		assert_int_equal(move_msg_next(&in, &e), ERR_PROTO);
		assert_int_equal(e.m.kind, 0xee);
		free(cut);
	}
}

static void
put_entry(struct wire_out *w, unsigned kind, const struct wire_out *item)
{
	size_t	mark = wire_open(w, kind);

	wire_put_fixed64(w, 1, 9);
	wire_put_uint(w, 5, 0xff00 | MOVE_CLEAN);
	wire_put_bytes(w, 70, (struct slice){ bytes, 10 });
	if (item != NULL)
		wire_put_bytes(w, 7, (struct slice){ item->buf, item->len });
	wire_close(w, mark);
}

static void
what_later_versions_add_is_skipped(void **state UNUSED)
{
	uint8_t			buf[600], inner[200];
	struct move_entry	e;
	struct wire_out		w, f;
	struct wire_in		in;

	wire_out_init(&f, inner, sizeof(inner));
	wire_put_uint(&f, 1, MOVE_ITEM_INBOUND);
	wire_put_uint(&f, 11, 5);
	wire_put_uint(&f, 99, UINT64_MAX);
	wire_put_bytes(&f, 2000, (struct slice){ bytes, 10 });
	wire_out_init(&w, buf, sizeof(buf));
	put_entry(&w, MOVE_REFUSED + 1, NULL);
	wire_put_uint(&w, 900, 1);
	put_entry(&w, MOVE_STATE, &f);
	put_entry(&w, MOVE_END, NULL);
	f.len = 0;
	/* An item of a kind that is not known is one all the same. */
	wire_put_uint(&f, 1, 4000);
	wire_put_uint(&f, 12, 90);
	put_entry(&w, MOVE_STATE, &f);

	wire_in_init(&in, buf, w.len);
	assert_int_equal(move_msg_next(&in, &e), 1);
	assert_int_equal(e.m.kind, MOVE_STATE);
	assert_int_equal(e.m.flags, MOVE_CLEAN);
	assert_int_equal(e.item.kind, MOVE_ITEM_INBOUND);
	assert_int_equal(e.item.pid, 5);
	assert_int_equal(move_msg_next(&in, &e), 1);
	assert_int_equal(e.m.kind, MOVE_END);
	assert_null(e.m.item);
	assert_int_equal(move_msg_next(&in, &e), 1);
	assert_int_equal(e.item.kind, 4000);
	assert_int_equal(move_msg_next(&in, &e), 0);
}

static int
try_item(unsigned field, uint64_t number, struct slice s)
{
	uint8_t			buf[600], inner[200];
	struct move_entry	e;
	struct wire_out		w, f;
	struct wire_in		in;

	wire_out_init(&f, inner, sizeof(inner));
	if (field != 1)
		wire_put_uint(&f, 1, MOVE_ITEM_MESSAGE);
	if (s.len > 0)
		wire_put_bytes(&f, field, s);
	else
		wire_put_uint(&f, field, number);
	wire_out_init(&w, buf, sizeof(buf));
	put_entry(&w, MOVE_STATE, &f);
	wire_in_init(&in, buf, w.len);
	return move_msg_next(&in, &e);
}

static void
refuses_what_cannot_be(void **state UNUSED)
{
	struct slice		none = { NULL, 0 }, ten = { bytes, 10 };
	uint8_t			buf[100];
	struct move_msg		m = extreme(MOVE_MOVED);
	struct move_entry	e;
	struct wire_out		w;
	struct wire_in		in;

	assert_int_equal(try_item(10, 2, none), 1);
	assert_int_equal(try_item(10, MOVE_ITEM_NSTATES, none), ERR_PROTO);
	assert_int_equal(try_item(11, 65535, none), 1);
	assert_int_equal(try_item(11, 65536, none), ERR_PROTO);
	assert_int_equal(try_item(12, 2, none), 1);
	assert_int_equal(try_item(12, 3, none), ERR_PROTO);
	assert_int_equal(try_item(19, 256, none), ERR_PROTO);
	assert_int_equal(try_item(4, 256, none), ERR_PROTO);
	assert_int_equal(try_item(4, UINT64_MAX, none), ERR_PROTO);
	assert_int_equal(try_item(21, 0, ten), ERR_PROTO);	/* ids */
	assert_int_equal(try_item(22, 0, ten), ERR_PROTO);	/* no total */
	assert_int_equal(try_item(2, 1, none), ERR_PROTO);	/* no data */
	assert_int_equal(try_item(1, 0, none), ERR_PROTO);	/* no kind */
	assert_int_equal(try_item(8, 0, ten), ERR_PROTO);	/* no number */

	m.epoch = (uint64_t)MOVE_EPOCH_MAX + 1;
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(move_msg_put(&w, &m, none, NULL), 0);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(move_msg_next(&in, &e), ERR_PROTO);
	/* No item where there must be one. */
	m = extreme(MOVE_RELAY);
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(move_msg_put(&w, &m, none, NULL), 0);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(move_msg_next(&in, &e), ERR_PROTO);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_step_comes_back_as_it_was),
		cmocka_unit_test(large_data_comes_in_parts),
		cmocka_unit_test(every_size_around_a_body_works),
		cmocka_unit_test(what_does_not_fit_leaves_the_body_as_it_was),
		cmocka_unit_test(a_part_without_its_begin_is_dropped),
		cmocka_unit_test(cut_short_is_an_error),
		cmocka_unit_test(what_later_versions_add_is_skipped),
		cmocka_unit_test(refuses_what_cannot_be),
	};

	fill_bytes();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

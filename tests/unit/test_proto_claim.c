/* proto/claim: every kind there and back, cut short, with fields of later
 * versions, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/claim.h"

enum { ALL_FLAGS = 31 };

static struct claim_msg
extreme(uint8_t kind)
{
	struct claim_msg	m;

	memset(&m, 0, sizeof(m));
	m.kind = kind;
	m.flags = ALL_FLAGS;
	m.nholders = CLAIM_HOLDERS;
	m.x = m.node = m.asked = UINT64_MAX;
	m.epoch = CLAIM_EPOCH_MAX;
	for (unsigned i = 0; i < CLAIM_HOLDERS; i++) {
		m.holders[i].node = UINT64_MAX - i;
		m.holders[i].epoch = CLAIM_EPOCH_MAX - i;
		m.holders[i].flags = (uint8_t)i;
	}
	return m;
}

static void
expect_same(const struct claim_msg *a, const struct claim_msg *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->flags, b->flags);
	assert_true(a->x == b->x && a->node == b->node);
	assert_true(a->epoch == b->epoch && a->asked == b->asked);
	assert_int_equal(a->nholders, b->nholders);
	for (unsigned i = 0; i < a->nholders; i++) {
		assert_true(a->holders[i].node == b->holders[i].node);
		assert_true(a->holders[i].epoch == b->holders[i].epoch);
		assert_int_equal(a->holders[i].flags, b->holders[i].flags);
	}
}

static void
every_kind_comes_back_as_it_was(void **state UNUSED)
{
	uint8_t			buf[64 * CLAIM_BYTES_MAX];
	struct claim_msg	m, got;
	struct wire_out		w;
	struct wire_in		in;
	size_t			before;

	wire_out_init(&w, buf, sizeof(buf));
	for (uint8_t k = CLAIM_UPLOAD; k <= CLAIM_RELEASE; k++) {
		m = extreme(k);
		before = w.len;
		assert_int_equal(claim_msg_put(&w, &m), 0);
		assert_true(w.len - before <= CLAIM_BYTES_MAX);
		m = (struct claim_msg){ .kind = k };
		assert_int_equal(claim_msg_put(&w, &m), 0);
	}
	wire_in_init(&in, buf, w.len);
	for (uint8_t k = CLAIM_UPLOAD; k <= CLAIM_RELEASE; k++) {
		m = extreme(k);
		assert_int_equal(claim_msg_next(&in, &got), 1);
		expect_same(&m, &got);
		m = (struct claim_msg){ .kind = k };
		assert_int_equal(claim_msg_next(&in, &got), 1);
		expect_same(&m, &got);
	}
	assert_int_equal(claim_msg_next(&in, &got), 0);
}

static void
what_does_not_fit_leaves_the_body_as_it_was(void **state UNUSED)
{
	uint8_t			buf[3 * CLAIM_BYTES_MAX];
	struct claim_msg	m = extreme(CLAIM_ANSWER), got;
	struct wire_out		w;
	struct wire_in		in;
	size_t			one, len;

	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(claim_msg_put(&w, &m), 0);
	one = w.len;
	for (size_t size = one; size < 2 * one; size++) {
		wire_out_init(&w, buf, size);
		assert_int_equal(claim_msg_put(&w, &m), 0);
		len = w.len;
		assert_int_equal(claim_msg_put(&w, &m), ERR_FULL);
		assert_int_equal(w.len, len);
		wire_in_init(&in, buf, w.len);
		assert_int_equal(claim_msg_next(&in, &got), 1);
		assert_int_equal(claim_msg_next(&in, &got), 0);
	}
}

/* Cut anywhere it is an error, or it ends where an entry does. */
static void
cut_short_is_an_error(void **state UNUSED)
{
	uint8_t			buf[2 * CLAIM_BYTES_MAX], *cut;
	struct claim_msg	m = extreme(CLAIM_GRANT), got;
	struct wire_out		w;
	struct wire_in		in;
	size_t			one;

	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(claim_msg_put(&w, &m), 0);
	one = w.len;
	assert_int_equal(claim_msg_put(&w, &m), 0);
	for (size_t n = 0; n < w.len; n++) {
		/* Of its own, so that sanitizers see what reads beyond. */
		cut = malloc(MAX(n, 1));
		assert_non_null(cut);
		memcpy(cut, buf, n);
		wire_in_init(&in, cut, n);
		memset(&got, 0xee, sizeof(got));
		if (n < one) {
			assert_int_equal(claim_msg_next(&in, &got),
			    n == 0 ? 0 : ERR_PROTO);
			assert_int_equal(got.kind, 0xee);
		} else {
			assert_int_equal(claim_msg_next(&in, &got), 1);
			assert_int_equal(claim_msg_next(&in, &got),
			    n == one ? 0 : ERR_PROTO);
		}
		free(cut);
	}
}

/* The body of an entry, without what stands in front of it. */
static void
put_entry(struct wire_out *w, unsigned kind, const struct wire_out *fields)
{
	wire_put_bytes(w, kind, (struct slice){ fields->buf, fields->len });
}

static void
what_later_versions_add_is_skipped(void **state UNUSED)
{
	uint8_t			buf[4096], inner[1024], holder[256];
	struct claim_msg	got;
	struct wire_out		w, f, h;
	struct wire_in		in;

	wire_out_init(&h, holder, sizeof(holder));
	wire_put_fixed64(&h, 1, 5);
	wire_put_fixed64(&h, 2, 6);
	wire_put_uint(&h, 3, 0xff00 | CLAIM_DURABLE);
	wire_put_bytes(&h, 900, (struct slice){ inner, 10 });
	memset(inner, 0x55, sizeof(inner));
	wire_out_init(&f, inner, sizeof(inner));
	wire_put_fixed64(&f, 1, 7);
	wire_put_uint(&f, 77, UINT64_MAX);
	wire_put_bytes(&f, 6, (struct slice){ holder, h.len });
	wire_put_uint(&f, 5, 0xfffff00 | CLAIM_MOVING);
	wire_put_bytes(&f, 1000, (struct slice){ holder, h.len });
	/* Holders beyond those there is room for. */
	for (unsigned i = 0; i < CLAIM_HOLDERS + 4; i++)
		wire_put_bytes(&f, 6, (struct slice){ holder, h.len });

	wire_out_init(&w, buf, sizeof(buf));
	put_entry(&w, CLAIM_RELEASE + 1, &f);
	wire_put_uint(&w, 500, 3);
	put_entry(&w, CLAIM_ANSWER, &f);
	put_entry(&w, 4000, &f);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(claim_msg_next(&in, &got), 1);
	assert_int_equal(got.kind, CLAIM_ANSWER);
	assert_true(got.x == 7);
	assert_int_equal(got.flags, CLAIM_MOVING);
	assert_int_equal(got.nholders, CLAIM_HOLDERS);
	assert_true(got.holders[0].node == 5 && got.holders[0].epoch == 6);
	assert_int_equal(got.holders[0].flags, CLAIM_DURABLE);
	assert_int_equal(claim_msg_next(&in, &got), 0);
}

/* An epoch is raised above others: beyond half of the range it would wrap. */
static void
refuses_epochs_that_cannot_be_raised(void **state UNUSED)
{
	uint8_t			buf[CLAIM_BYTES_MAX];
	struct claim_msg	m = { .kind = CLAIM_ROW }, got;
	struct wire_out		w;
	struct wire_in		in;

	m.epoch = (uint64_t)CLAIM_EPOCH_MAX + 1;
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(claim_msg_put(&w, &m), 0);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(claim_msg_next(&in, &got), ERR_PROTO);

	m.epoch = 1;
	m.nholders = 1;
	m.holders[0].epoch = UINT64_MAX;
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(claim_msg_put(&w, &m), 0);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(claim_msg_next(&in, &got), ERR_PROTO);
}

static void
refuses_fields_of_another_type(void **state UNUSED)
{
	uint8_t			buf[64], inner[32];
	struct claim_msg	got;
	struct wire_out		w, f;
	struct wire_in		in;

	for (unsigned field = 1; field <= 6; field++) {
		wire_out_init(&f, inner, sizeof(inner));
		if (field == 6)
			wire_put_uint(&f, field, 1);
		else
			wire_put_bytes(&f, field, (struct slice){ buf, 3 });
		memset(buf, 0, sizeof(buf));
		wire_out_init(&w, buf, sizeof(buf));
		put_entry(&w, CLAIM_ROW, &f);
		wire_in_init(&in, buf, w.len);
		assert_int_equal(claim_msg_next(&in, &got), ERR_PROTO);
	}
	wire_out_init(&w, buf, sizeof(buf));
	wire_put_uint(&w, CLAIM_ROW, 1);	/* no message */
	wire_in_init(&in, buf, w.len);
	assert_int_equal(claim_msg_next(&in, &got), ERR_PROTO);
}

/* The identifier travels with a release, and with nothing else. */
static void
a_release_has_the_text(void **state UNUSED)
{
	uint8_t			buf[2 * CLAIM_BYTES_MAX];
	struct claim_msg	m = extreme(CLAIM_RELEASE), got;
	struct wire_out		w;
	struct wire_in		in;

	m.flags |= CLAIM_CLEAN;
	m.id = (struct slice){ (const uint8_t *)"me", 2 };
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(claim_msg_put(&w, &m), 0);
	m.kind = CLAIM_ROW;
	assert_int_equal(claim_msg_put(&w, &m), 0);
	wire_in_init(&in, buf, w.len);
	assert_int_equal(claim_msg_next(&in, &got), 1);
	assert_int_equal(got.flags, ALL_FLAGS | CLAIM_CLEAN);
	assert_int_equal(got.id.len, 2);
	assert_memory_equal(got.id.data, "me", 2);
	assert_int_equal(claim_msg_next(&in, &got), 1);
	assert_int_equal(got.flags, ALL_FLAGS);
	assert_int_equal(got.id.len, 0);
}

/* What waits comes out as it went in, whatever its size. */
static void
bodies_wait_in_order(void **state UNUSED)
{
	static uint8_t		text[UINT16_MAX];
	struct claim_msg	m = { .kind = CLAIM_ROW }, got;
	struct claim_out	q = { .first = NULL };
	struct wire_in		in;
	struct slice		body;
	uint64_t		at = 0;

	for (uint64_t i = 0; i < 2000; i++) {
		m.x = i;
		m.kind = i % 500 == 7 ? CLAIM_RELEASE : CLAIM_ROW;
		m.id = (struct slice){ text, i % 500 == 7 ? sizeof(text) : 0 };
		assert_int_equal(claim_out_put(&q, &m), 0);
	}
	while ((body = claim_out_first(&q)).len > 0) {
		wire_in_init(&in, body.data, body.len);
		while (claim_msg_next(&in, &got) == 1) {
			assert_true(got.x == at);
			assert_int_equal(got.id.len,
			    at++ % 500 == 7 ? sizeof(text) : 0);
		}
		claim_out_shift(&q);
	}
	assert_true(at == 2000 && q.bytes == 0);
	m.kind = CLAIM_ROW;
	while (claim_out_put(&q, &m) == 0)
		assert_true(q.bytes <= CLAIM_OUT_MAX + CLAIM_BODY);
	assert_true(q.bytes >= CLAIM_OUT_MAX);
	claim_out_clear(&q);
	assert_true(q.bytes == 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_kind_comes_back_as_it_was),
		cmocka_unit_test(what_does_not_fit_leaves_the_body_as_it_was),
		cmocka_unit_test(cut_short_is_an_error),
		cmocka_unit_test(a_release_has_the_text),
		cmocka_unit_test(bodies_wait_in_order),
		cmocka_unit_test(what_later_versions_add_is_skipped),
		cmocka_unit_test(refuses_epochs_that_cannot_be_raised),
		cmocka_unit_test(refuses_fields_of_another_type),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

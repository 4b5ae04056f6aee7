/* bus/envelope.h: what it writes nanopb reads, and the other way round. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <pb_decode.h>
#include <pb_encode.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/envelope.h"

static uint64_t
next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Any number of bits, often none. */
static uint64_t
some(uint64_t *s)
{
	uint64_t v = next_random(s);

	return v >> next_random(s) % 65 % 64 & (next_random(s) % 4 ? ~0ull : 0);
}

static void
fill(Envelope *e, uint64_t *s)
{
	size_t n;

	memset(e, 0, sizeof(*e));
	e->kind = (uint32_t)some(s);
	e->slot = (uint32_t)some(s);
	e->count = (uint32_t)some(s);
	e->incarnation = some(s);
	e->seq = some(s);
	e->got = some(s);
	e->stored = some(s);
	e->credit = some(s);
	e->clock = some(s);
	n = next_random(s) % sizeof(e->source);
	memset(e->source, 'a', n);
	n = next_random(s) % sizeof(e->destination);
	memset(e->destination, 'b', n);
}

static void
assert_same(const Envelope *a, const Envelope *b)
{
	assert_int_equal(a->kind, b->kind);
	assert_string_equal(a->source, b->source);
	assert_int_equal(a->slot, b->slot);
	assert_int_equal(a->incarnation, b->incarnation);
	assert_int_equal(a->seq, b->seq);
	assert_int_equal(a->count, b->count);
	assert_int_equal(a->got, b->got);
	assert_int_equal(a->stored, b->stored);
	assert_int_equal(a->credit, b->credit);
	assert_int_equal(a->clock, b->clock);
	assert_string_equal(a->destination, b->destination);
}

static void
nanopb_and_we_read_each_other(void **state UNUSED)
{
	uint8_t		buf[ENVELOPE_MAX];
	uint64_t	s = 77;
	Envelope	e, back;
	size_t		n;
	int		i;

	for (i = 0; i < 3000; i++) {
		pb_istream_t in;
		pb_ostream_t out = pb_ostream_from_buffer(buf, sizeof(buf));

		fill(&e, &s);
		assert_true(pb_encode(&out, Envelope_fields, &e));
		assert_int_equal(envelope_get(&back, buf, out.bytes_written),
		    0);
		assert_same(&e, &back);
		n = envelope_put(buf, &e);
		assert_int_equal(n, out.bytes_written);
		in = pb_istream_from_buffer(buf, n);
		assert_true(pb_decode(&in, Envelope_fields, &back));
		assert_same(&e, &back);
	}
}

static void
every_prefix_is_an_error_or_a_message(void **state UNUSED)
{
	uint8_t		buf[ENVELOPE_MAX], *exact;
	uint64_t	s = 5;
	Envelope	e, back;
	size_t		n, i;

	fill(&e, &s);
	n = envelope_put(buf, &e);
	for (i = 0; i < n; i++) {
		exact = malloc(i + 1);
		memcpy(exact, buf, i);
		(void)envelope_get(&back, exact, i);
		free(exact);
	}
}

static void
what_does_not_fit_is_refused(void **state UNUSED)
{
	static const uint8_t huge_kind[] = { 0x08, 0xff, 0xff, 0xff, 0xff,
	    0x7f };
	static const uint8_t number_as_text[] = { 0x10, 0x01 };
	static const uint8_t text_as_number[] = { 0x2a, 0x01, 'x' };
	static const uint8_t nul_in_text[] = { 0x12, 0x02, 'a', 0 };
	static const uint8_t unknown[] = { 0xa0, 0x06, 0x01, 0x08, 0x05 };
	uint8_t		     longer[400];
	Envelope	     e;

	assert_int_equal(envelope_get(&e, huge_kind, sizeof(huge_kind)),
	    ERR_PROTO);
	assert_int_equal(envelope_get(&e, number_as_text,
	    sizeof(number_as_text)), ERR_PROTO);
	assert_int_equal(envelope_get(&e, text_as_number,
	    sizeof(text_as_number)), ERR_PROTO);
	assert_int_equal(envelope_get(&e, nul_in_text, sizeof(nul_in_text)),
	    ERR_PROTO);
	memset(longer, 'a', sizeof(longer));
	longer[0] = 0x12;
	longer[1] = 0x80 | (sizeof(e.source) & 0x7f);
	longer[2] = sizeof(e.source) >> 7;
	assert_int_equal(envelope_get(&e, longer, 3 + sizeof(e.source)),
	    ERR_PROTO);
	assert_int_equal(envelope_get(&e, unknown, sizeof(unknown)), 0);
	assert_int_equal(e.kind, 5);
	assert_int_equal(envelope_get(&e, "", 0), 0);
	assert_int_equal(e.kind, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nanopb_and_we_read_each_other),
		cmocka_unit_test(every_prefix_is_an_error_or_a_message),
		cmocka_unit_test(what_does_not_fit_is_refused),
	};

	return cmocka_run_group_tests_name("bus envelope", tests, NULL, NULL);
}

/*
 * The ledger against a model: many streams and receivers, random frames, debts
 * and payments. What may be acknowledged is what the model, which counts frame
 * by frame, says; no more and no less.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ledger/ledger.h"

enum { STREAMS = 4, RECEIVERS = 5, FRAMES = 400 };

struct model_frame {
	unsigned	owed[2];
	uint64_t	bytes;
	bool		done;
};

struct stream {
	struct ledger_in *in;
	struct model_frame frames[FRAMES + 1];	/* by seq */
	uint64_t	seq;
	uint64_t	got, got_bytes, stored;	/* as told */
};

struct debt {
	unsigned	stream;
	uint64_t	seq, out_seq;
	bool		paid;
};

struct receiver {
	struct ledger_out *out;
	uint64_t	seq;
	struct debt	debts[2][FRAMES * STREAMS * 2];
	unsigned	n[2];
};

static struct stream	streams[STREAMS];
static struct receiver	receivers[RECEIVERS];
static uint64_t		random_state;

static unsigned
any(unsigned below)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(random_state >> 33) % below;
}

static void
news(void *ctx, void *user, uint64_t got, uint64_t got_bytes, uint64_t stored)
{
	struct stream *s = user;

	assert_null(ctx);
	assert_true(got >= s->got && stored >= s->stored);
	assert_true(got > s->got || stored > s->stored);
	s->got = got;
	s->got_bytes = got_bytes;
	s->stored = stored;
}

static uint64_t
expected(const struct stream *s, unsigned account)
{
	uint64_t i;

	for (i = 1; i <= s->seq && s->frames[i].done &&
	    s->frames[i].owed[account] == 0; i++)
		;
	return i - 1;
}

static void
check(void)
{
	struct stream	*s;
	uint64_t	 bytes, i;

	for (s = streams; s < streams + STREAMS; s++) {
		assert_int_equal(s->got, expected(s, LEDGER_LIVE));
		assert_int_equal(s->stored, expected(s, LEDGER_DURABLE));
		for (bytes = 0, i = 1; i <= s->got; i++)
			bytes += s->frames[i].bytes;
		assert_int_equal(s->got_bytes, bytes);
		assert_int_equal(ledger_open(s->in), s->seq -
		    (s->got < s->stored ? s->got : s->stored));
	}
}

static void
frame(struct stream *s)
{
	struct model_frame	*f;
	struct receiver		*r;
	struct debt		*d;
	unsigned		 n, account;

	s->seq += 1;
	f = &s->frames[s->seq];
	assert_int_equal(ledger_begin(s->in, s->seq), 0);
	for (n = any(5); n > 0; n--) {
		r = &receivers[any(RECEIVERS)];
		account = any(2);
		if (any(3) > 0)
			r->seq++;		/* another frame there */
		if (r->seq == 0)
			r->seq = 1;
		d = &r->debts[account][r->n[account]];
		if (r->n[account] > 0 && d[-1].stream == s - streams &&
		    d[-1].seq == s->seq && d[-1].out_seq == r->seq &&
		    !d[-1].paid) {
			/* one and the same */
		} else {
			*d = (struct debt){ (unsigned)(s - streams), s->seq,
			    r->seq, false };
			r->n[account]++;
			f->owed[account]++;
		}
		assert_int_equal(ledger_owe(s->in, r->out, r->seq, account),
		    0);
		if (any(8) == 0)		/* it was held, and goes on */
			assert_int_equal(ledger_begin(s->in, s->seq), 0);
	}
	f->done = true;
	f->bytes = any(1000);
	ledger_done(s->in, f->bytes, news, NULL);
}

static void
pay(struct receiver *r)
{
	unsigned	account = any(2), i;
	uint64_t	upto = any(20) == 0 ? UINT64_MAX : any(
			    (unsigned)r->seq + 1);
	struct debt	*d;

	if (upto == UINT64_MAX)
		r->seq += 1;		/* nothing is added behind it */
	for (i = 0; i < r->n[account]; i++) {
		d = &r->debts[account][i];
		if (d->paid || d->out_seq > upto)
			continue;
		d->paid = true;
		streams[d->stream].frames[d->seq].owed[account]--;
	}
	ledger_paid(r->out, account, upto, news, NULL);
}

static void
whatever_is_paid_is_acknowledged(void **state)
{
	uint64_t	seed;
	unsigned	i, k;

	(void)state;
	for (seed = 1; seed <= 200; seed++) {
		random_state = seed * 7919;
		memset(streams, 0, sizeof(streams));
		memset(receivers, 0, sizeof(receivers));
		for (i = 0; i < STREAMS; i++)
			streams[i].in = ledger_in_new(&streams[i]);
		for (i = 0; i < RECEIVERS; i++)
			receivers[i].out = ledger_out_new();
		for (k = 0; k < 300; k++) {
			if (any(2) == 0)
				frame(&streams[any(STREAMS)]);
			else
				pay(&receivers[any(RECEIVERS)]);
			check();
		}
		for (i = 0; i < RECEIVERS; i++) {
			for (k = 0; k < 2; k++)
				ledger_paid(receivers[i].out, k, UINT64_MAX,
				    news, NULL);
			ledger_out_free(&receivers[i].out);
		}
		for (i = 0; i < STREAMS; i++) {
			assert_int_equal(streams[i].got, streams[i].seq);
			assert_int_equal(streams[i].stored, streams[i].seq);
			ledger_in_close(&streams[i].in);
		}
	}
}

static void
frames_left_out_are_of_nobody(void **state)
{
	struct stream	   s = { .seq = 0 };
	struct ledger_out *out = ledger_out_new();

	(void)state;
	s.in = ledger_in_new(&s);
	assert_int_equal(ledger_begin(s.in, 10), 0);	/* where it begins */
	assert_int_equal(ledger_owe(s.in, out, 3, LEDGER_LIVE), 0);
	ledger_done(s.in, 5, news, NULL);
	assert_int_equal(s.stored, 10);
	assert_int_equal(ledger_begin(s.in, 13), 0);
	ledger_done(s.in, 7, news, NULL);
	assert_int_equal(s.got, 9);
	assert_int_equal(s.stored, 13);
	ledger_paid(out, LEDGER_LIVE, 3, news, NULL);
	assert_int_equal(s.got, 13);
	assert_int_equal(s.got_bytes, 12);
	ledger_out_free(&out);
	ledger_in_close(&s.in);
}

static void
a_stream_that_is_closed_hears_nothing(void **state)
{
	struct stream	   s = { .seq = 0 };
	struct ledger_out *out = ledger_out_new();

	(void)state;
	s.in = ledger_in_new(&s);
	assert_int_equal(ledger_begin(s.in, 1), 0);
	assert_int_equal(ledger_owe(s.in, out, 1, LEDGER_LIVE), 0);
	assert_int_equal(ledger_owe(s.in, out, 2, LEDGER_DURABLE), 0);
	ledger_done(s.in, 5, news, NULL);
	ledger_in_close(&s.in);
	ledger_paid(out, LEDGER_LIVE, 1, news, NULL);
	assert_int_equal(s.got, 0);
	ledger_out_free(&out);		/* with a debt of it */
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whatever_is_paid_is_acknowledged),
		cmocka_unit_test(frames_left_out_are_of_nobody),
		cmocka_unit_test(a_stream_that_is_closed_hears_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

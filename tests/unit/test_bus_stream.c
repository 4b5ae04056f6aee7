/* The books of a stream, without any socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/err.h"
#include "bus/stream.h"
#include "proto/kinds.h"

static struct stream_pool pool;
static uint8_t		  bytes[1 << 20];
static uint64_t		  last_id;

static struct record
record_of(size_t payload, unsigned qos)
{
	struct record	r = {
		.id = { 1, ++last_id }, .flags = (uint16_t)qos,
		.topic = { (const uint8_t *)"t", 1 },
		.payload = { bytes, payload },
	};

	return r;
}

static int
append(struct stream_out *s, size_t payload, unsigned qos, uint64_t *seq)
{
	struct record r = record_of(payload, qos);

	return stream_append(s, NULL, &r, NULL, seq);
}

/* Send all there is; returns how many frames. */
static int
send_all(struct stream_out *s)
{
	struct stream_frame *f;
	int		     n = 0;

	while (stream_next(s, &f) == 1) {
		stream_sent(s);
		n++;
	}
	return n;
}

static int
start(void **state)
{
	static struct stream_out s;

	stream_out_init(&s, &pool, 1 << 20, 200000);
	*state = &s;
	return 0;
}

static int
stop(void **state)
{
	stream_out_fini(*state);
	stream_pool_fini(&pool);
	return 0;
}

static void
records_of_one_turn_share_a_frame(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 a, b, c;

	assert_int_equal(append(s, 10, 1, &a), 0);
	assert_int_equal(append(s, 10, 1, &b), 0);
	assert_int_equal(a, 1);
	assert_int_equal(b, 1);
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->seq, 1);
	assert_int_equal(f->count, 2);
	assert_int_equal(f->len, 2 * 51);
	stream_sent(s);
	assert_int_equal(stream_next(s, &f), 0);
	assert_int_equal(append(s, 10, 1, &c), 0);
	assert_int_equal(c, 2);
}

static void
a_full_frame_is_followed_by_another(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 seq = 0;
	int			 n = 0;

	while (seq < 2) {
		assert_int_equal(append(s, 1000, 1, &seq), 0);
		n++;
	}
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->count, n - 1);
	assert_true(f->len <= FRAME_MAX && f->len > FRAME_MAX - 1041);
	assert_int_equal(send_all(s), 2);
}

static void
frames_are_kept_until_acknowledged(void **state)
{
	struct stream_out *s = *state;
	int		   i;

	for (i = 0; i < 3; i++) {
		assert_int_equal(append(s, 10, 1, NULL), 0);
		assert_int_equal(send_all(s), 1);
	}
	assert_int_equal(s->kept, 153);
	assert_int_equal(stream_ack(s, 2, 0, 200000), STREAM_GOT_MORE);
	assert_int_equal(s->kept, 51);
	assert_int_equal(stream_ack(s, 2, 0, 200000), 0);
	assert_int_equal(stream_ack(s, 1, 0, 200000), 0);	/* old news */
	assert_int_equal(s->got, 2);
	assert_int_equal(stream_ack(s, 4, 0, 200000), ERR_PROTO);
	assert_int_equal(stream_ack(s, 3, 0, 200000), STREAM_GOT_MORE);
	assert_true(stream_is_idle(s));
}

static void
without_credit_qos0_is_refused_and_the_rest_waits(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	int			 frames;

	while (!stream_blocked(s))
		assert_int_equal(append(s, 1000, 0, NULL), 0);
	assert_in_range(s->appended, 200000, 201041);	/* by one record */
	assert_int_equal(append(s, 1000, 0, NULL), ERR_FULL);
	assert_int_equal(append(s, 1000, 1, NULL), 0);
	frames = send_all(s);
	assert_true(s->sent >= s->granted);
	assert_int_equal(append(s, 1000, 2, NULL), 0);
	assert_int_equal(stream_next(s, &f), 0);
	/* Credit for one more frame, and a little. */
	assert_int_equal(stream_ack(s, (uint64_t)frames, 0, s->sent + 1),
	    STREAM_GOT_MORE);
	assert_int_equal(send_all(s), 1);
	assert_int_equal(stream_ack(s, (uint64_t)frames, 0, 900000),
	    STREAM_UNBLOCKED);
	assert_int_equal(append(s, 1000, 0, NULL), 0);
}

static void
what_is_kept_has_a_bound(void **state)
{
	struct stream_out *s = *state;
	size_t		   n = 0;

	while (append(s, 1000, 1, NULL) == 0)
		n++;
	assert_in_range(n * 1041, (1 << 20) - 1041, 1 << 20);
	assert_int_equal(append(s, 1000, 2, NULL), ERR_FULL);
	assert_true(stream_blocked(s));
	assert_int_equal(stream_append_frame(s, KIND_ATTACH, "x", 1000, NULL, NULL, NULL),
	    ERR_FULL);
	/* It is only lifted when half of it is gone. */
	s->granted = UINT64_MAX / 2;
	send_all(s);
	assert_int_equal(stream_ack(s, 1, 0, s->granted), STREAM_GOT_MORE);
	assert_true(stream_blocked(s));
	assert_int_equal(stream_ack(s, s->sent_seq, 0, s->granted),
	    STREAM_GOT_MORE | STREAM_UNBLOCKED);
}

static void
nothing_is_too_big_to_start(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 seq;

	assert_int_equal(append(s, 10, 1, NULL), 0);
	assert_int_equal(append(s, (1 << 20) - 2000, 1, &seq), 0);
	assert_int_equal(seq, 2);
	assert_int_equal(send_all(s), 2);	/* far beyond the credit */
	assert_int_equal(append(s, 1, 0, NULL), ERR_FULL);
	assert_int_equal(append(s, 1, 1, NULL), 0);
	assert_int_equal(stream_next(s, &f), 0);
	assert_int_equal(stream_ack(s, 2, 0, s->sent + 200000),
	    STREAM_GOT_MORE | STREAM_UNBLOCKED);
	assert_int_equal(send_all(s), 1);
}

static void
a_large_payload_is_shared_not_copied(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	struct blob		*b = blob_new(100000);
	struct record		 r = record_of(0, 1);

	memset(b->data, 'x', 100000);
	r.payload = (struct slice){ b->data + 100, 90000 };
	assert_int_equal(stream_append(s, NULL, &r, b, NULL), 0);
	assert_int_equal(atomic_load(&b->refs), 2);
	assert_int_equal(stream_next(s, &f), 1);
	assert_ptr_equal(f->payload_at, b->data + 100);
	assert_int_equal(f->payload_len, 90000);
	stream_sent(s);
	assert_int_equal(stream_ack(s, 1, 0, 300000), STREAM_GOT_MORE);
	assert_int_equal(atomic_load(&b->refs), 1);
	blob_unref(&b);
}

static void
control_needs_no_credit_and_keeps_its_place(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 seq;

	assert_int_equal(append(s, 10, 1, NULL), 0);
	assert_int_equal(stream_append_frame(s, KIND_ATTACH, "abc", 3, NULL, NULL, &seq),
	    0);
	assert_int_equal(seq, 2);
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->kind, KIND_RECORDS);
	stream_sent(s);
	s->granted = s->sent;			/* none left */
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->kind, KIND_ATTACH);
	assert_memory_equal(f->body->data, "abc", 3);
	stream_sent(s);
	assert_int_equal(append(s, 10, 1, NULL), 0);
	assert_int_equal(stream_next(s, &f), 0);
}

static void
a_welcome_says_where_to_go_on(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 resend;
	int			 i;

	for (i = 0; i < 5; i++) {
		assert_int_equal(append(s, 10, 1, NULL), 0);
		send_all(s);
	}
	assert_int_equal(stream_ack(s, 1, 0, 200000), STREAM_GOT_MORE);
	/* It took two more than it could tell. */
	assert_int_equal(stream_resume(s, 3, 3, 0, 200153, 153, &resend),
	    STREAM_GOT_MORE);
	assert_int_equal(resend, 2);
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->seq, 4);
	assert_int_equal(send_all(s), 2);
	assert_int_equal(s->sent, 5 * 51);
	/* What it cannot have, or has given back. */
	assert_int_equal(stream_resume(s, 6, 6, 0, 0, 0, &resend), ERR_PROTO);
	assert_int_equal(stream_resume(s, 2, 2, 0, 0, 0, &resend), ERR_PROTO);
	assert_int_equal(stream_resume(s, 4, 4, 0, 5, 6, &resend), ERR_PROTO);
}

static void
a_late_ack_may_free_what_was_to_be_sent_again(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 resend;
	int			 i;

	for (i = 0; i < 3; i++) {
		append(s, 10, 1, NULL);
		send_all(s);
	}
	assert_int_equal(stream_resume(s, 0, 0, 0, 200000, 0, &resend), 0);
	assert_int_equal(resend, 3);
	assert_int_equal(stream_ack(s, 2, 0, 200102), STREAM_GOT_MORE);
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->seq, 3);
}

static void
a_new_receiver_counts_bytes_from_nothing(void **state)
{
	struct stream_out	*s = *state;
	uint64_t		 resend, seq;
	int			 i;

	for (i = 0; i < 3; i++) {
		append(s, 1000, 1, NULL);
		send_all(s);
	}
	append(s, 1000, 1, NULL);		/* still open */
	stream_take_all(s, 200000);
	assert_true(stream_is_idle(s));
	assert_int_equal(s->kept, 0);
	assert_int_equal(s->got, 4);
	append(s, 1000, 1, &seq);
	assert_int_equal(seq, 5);
	assert_int_equal(stream_resume(s, 4, 4, 0, 2000, 0, &resend), 0);
	assert_int_equal(resend, 0);
	append(s, 1000, 1, NULL);
	assert_int_equal(send_all(s), 1);
	assert_true(stream_blocked(s));		/* 2082 of 2000 */
	assert_int_equal(stream_ack(s, 5, 0, 4082),
	    STREAM_GOT_MORE | STREAM_UNBLOCKED);
}

/* A store says `got` at once, and `stored` late: credit comes back, room does
 * not. */
static void
publishers_rest_before_there_is_no_room(void **state)
{
	struct stream_out	*s = *state;
	uint64_t		 seq = 0;

	s->asks = STREAM_ASK_GOT | STREAM_ASK_STORED;
	while (!stream_blocked(s)) {
		assert_int_equal(append(s, 1000, 1, &seq), 0);
		send_all(s);
		assert_true(stream_ack(s, seq, 0, 200000 + s->appended) >= 0);
	}
	assert_true(s->kept > s->kept_max / 2);
	assert_int_equal(stream_room(s, s->kept_max / 5, 1), 0);
	assert_int_equal(stream_ack(s, seq, seq, 200000 + s->appended),
	    STREAM_STORED_MORE | STREAM_UNBLOCKED);
	assert_false(stream_blocked(s));
}

static void
who_is_blocked_hears_when_it_is_over(void **state)
{
	struct stream_out	*s = *state;
	uint64_t		 resend;

	/* A welcome grants less than was presumed. */
	append(s, 1000, 1, NULL);
	assert_int_equal(stream_resume(s, 0, 0, 0, 500, 0, &resend), 0);
	assert_true(stream_blocked(s));
	send_all(s);
	assert_int_equal(stream_ack(s, 1, 0, 2000),
	    STREAM_GOT_MORE | STREAM_UNBLOCKED);
	/* The receiver dies while we are blocked. */
	while (!stream_blocked(s))
		append(s, 1000, 1, NULL);
	stream_take_all(s, 5000);
	assert_int_equal(stream_resume(s, s->seq, s->seq, 0, 5000, 0, &resend),
	    STREAM_UNBLOCKED);
	/* Too many other frames. */
	while (stream_append_frame(s, KIND_ATTACH, bytes, 200, NULL, NULL, NULL) == 0)
		;
	assert_true(stream_blocked(s));
	send_all(s);
	assert_int_equal(stream_ack(s, s->seq, 0, 5000),
	    STREAM_GOT_MORE | STREAM_UNBLOCKED);
}

static bool
count_records(void *ctx, uint64_t seq, const struct record *r)
{
	uint64_t *sum = ctx;

	*sum += seq * 1000 + r->payload.len;
	return true;
}

static void
what_is_not_acknowledged_can_be_walked(void **state)
{
	struct stream_out	*s = *state;
	uint64_t		 sum = 0;

	append(s, 1, 1, NULL);
	send_all(s);
	append(s, 2, 1, NULL);
	stream_append_frame(s, KIND_ATTACH, "x", 1, NULL, NULL, NULL);
	append(s, 70000, 1, NULL);
	append(s, 3, 1, NULL);
	append(s, 4, 1, NULL);
	stream_each(s, count_records, &sum);
	assert_int_equal(sum, 1001 + 2002 + 4000 + 70000 + 5003 + 5004);
	assert_int_equal(stream_ack(s, 1, 0, 200000), STREAM_GOT_MORE);
	sum = 0;
	stream_each(s, count_records, &sum);
	assert_int_equal(sum, 2002 + 4000 + 70000 + 5003 + 5004);
}

static void
ids_must_rise(void **state)
{
	struct stream_out	*s = *state;
	struct record		 r = record_of(1, 1);

	assert_int_equal(stream_append(s, NULL, &r, NULL, NULL), 0);
	assert_int_equal(stream_append(s, NULL, &r, NULL, NULL), ERR_INVAL);
	assert_int_equal(s->open_count, 1);
}

static void
frames_that_ask_for_stored_wait_for_it(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 resend;

	s->asks |= STREAM_ASK_STORED;
	append(s, 10, 1, NULL);
	assert_int_equal(stream_next(s, &f), 1);
	stream_sent(s);
	assert_int_equal(stream_ack(s, 1, 0, 200051), STREAM_GOT_MORE);
	assert_false(stream_is_idle(s));
	assert_int_equal(stream_resume(s, 1, 1, 0, 200051, 51, &resend), 0);
	assert_int_equal(resend, 0);
	assert_int_equal(stream_next(s, &f), 0);
	assert_int_equal(stream_ack(s, 1, 1, 200051), STREAM_STORED_MORE);
	assert_true(stream_is_idle(s));
}

/* A receiver that keeps things on disk was killed: it has what it stored. */
static void
what_was_got_and_not_stored_goes_again(void **state)
{
	struct stream_out	*s = *state;
	struct stream_frame	*f;
	uint64_t		 resend;
	int			 i;

	s->asks |= STREAM_ASK_STORED;
	for (i = 0; i < 3; i++) {
		assert_int_equal(stream_append_frame(s, KIND_SESSION, "abc", 3,
		    NULL, NULL, NULL), 0);
		assert_int_equal(stream_next(s, &f), 1);
		stream_sent(s);
	}
	assert_int_equal(stream_ack(s, 3, 1, 200000), STREAM_GOT_MORE |
	    STREAM_STORED_MORE);
	stream_rewind(s, true);
	assert_int_equal(s->got, 1);
	/* What it spoke of others have. */
	assert_int_equal(stream_got(s), 3);
	assert_int_equal(stream_stored(s), 1);
	/* It says that it knows nothing of ours after what it was told. */
	assert_int_equal(stream_resume(s, 1, 1, 1, 200000, 0, &resend), 0);
	assert_int_equal(resend, 2);
	assert_int_equal(stream_next(s, &f), 1);
	assert_int_equal(f->seq, 2);
	/* One that kept it itself has it no more. */
	stream_rewind(s, false);
	assert_int_equal(stream_got(s), 1);
}

static void
what_is_done_while_it_is_taken_is_acknowledged(void **state UNUSED)
{
	struct stream_in s = { .defers = true };

	stream_in_open(&s, 1, 10, 1000);
	stream_in_done(&s, 11, 100, 11);	/* within the handler */
	assert_int_equal(stream_in_got(&s), 10);
	assert_int_equal(s.stored, 10);
	stream_in_taken(&s, 100, false);
	assert_int_equal(stream_in_got(&s), 11);
	assert_int_equal(s.stored, 11);
	assert_true(stream_in_ack_due(&s));
	assert_int_equal(stream_in_credit(&s), 1100);
	stream_in_done(&s, 13, 300, 13);	/* beyond what there is */
	stream_in_taken(&s, 100, false);
	assert_int_equal(stream_in_got(&s), 11);
	assert_int_equal(s.stored, 11);
}

/* --- Receiving --------------------------------------------------------- */

static void
order_is_checked_and_a_gap_is_told_once(void **state UNUSED)
{
	struct stream_in s = { 0 };

	stream_in_open(&s, 1, 10, 1000);
	assert_int_equal(stream_in_check(&s, 10), STREAM_DUPLICATE);
	assert_int_equal(stream_in_check(&s, 11), STREAM_IN_ORDER);
	stream_in_taken(&s, 100, false);
	assert_int_equal(stream_in_check(&s, 13), STREAM_GAP);
	assert_int_equal(stream_in_check(&s, 14), STREAM_GAP_TOLD);
	assert_int_equal(stream_in_check(&s, 12), STREAM_IN_ORDER);
	stream_in_taken(&s, 100, false);
	assert_int_equal(stream_in_check(&s, 14), STREAM_GAP);
	assert_int_equal(s.seq, 12);
	assert_int_equal(stream_in_credit(&s), 1200);
}

static void
acks_nobody_waits_for_are_gathered(void **state UNUSED)
{
	struct stream_in s = { 0 };
	int		 i;

	stream_in_open(&s, 1, 0, 8000);
	stream_in_taken(&s, 10, false);
	assert_false(stream_in_ack_due(&s));
	stream_in_taken(&s, 10, true);
	assert_true(stream_in_ack_due(&s));
	stream_in_acked(&s);
	assert_false(stream_in_ack_due(&s));
	stream_in_taken(&s, 1000, false);	/* an eighth of the window */
	assert_true(stream_in_ack_due(&s));
	stream_in_acked(&s);
	for (i = 0; i < 32; i++)
		stream_in_taken(&s, 1, false);
	assert_true(stream_in_ack_due(&s));
	stream_in_acked(&s);
	stream_in_check(&s, 1);			/* a duplicate: it missed one */
	assert_true(stream_in_ack_due(&s));
}

static void
a_second_hello_keeps_what_was_taken(void **state UNUSED)
{
	struct stream_in s = { 0 };

	stream_in_open(&s, 1, 0, 1000);
	stream_in_taken(&s, 100, true);
	stream_in_taken(&s, 100, true);
	stream_in_open(&s, 1, 1, 1000);
	assert_int_equal(s.seq, 2);
	assert_int_equal(s.taken, 200);
	stream_in_open(&s, 1, 7, 1000);		/* given up meanwhile */
	assert_int_equal(s.seq, 7);
	stream_in_open(&s, 2, 0, 1000);		/* another stream */
	assert_int_equal(s.seq, 0);
	assert_int_equal(s.taken, 0);
}

static void
ids_that_came_before_are_known(void **state UNUSED)
{
	struct stream_in s = { 0 };

	stream_in_open(&s, 1, 0, 1000);
	assert_true(stream_id_is_new(&s.last_id, (struct msgid){ 5, 5 }));
	assert_false(stream_id_is_new(&s.last_id, (struct msgid){ 5, 5 }));
	assert_false(stream_id_is_new(&s.last_id, (struct msgid){ 4, 9 }));
	assert_true(stream_id_is_new(&s.last_id, (struct msgid){ 5, 6 }));
}

/*
 * Sender and receiver over a wire that loses a tail of what is under way at
 * any moment: everything arrives once and in order.
 */
static void
any_cut_loses_and_doubles_nothing(void **state)
{
	struct stream_out	*s = *state;
	struct stream_in	 in = { 0 };
	struct stream_frame	*f;
	uint64_t		 resend, wire[64], expect = 1;
	unsigned		 seed = 1;
	int			 round, n, i, arrive;

	stream_in_open(&in, 1, 0, 5000);
	assert_true(stream_resume(s, 0, 0, 0, 5000, 0, &resend) >= 0);
	for (round = 0; round < 20000; round++) {
		seed = seed * 1103515245 + 12345;
		if (seed >> 16 & 1)
			(void)append(s, seed >> 20 & 1023, 1, NULL);
		for (n = 0; n < 64 && stream_next(s, &f) == 1; n++) {
			wire[n] = f->seq << 32 | f->len;
			stream_sent(s);
		}
		arrive = n > 0 ? (int)(seed >> 18) % (n + 1) : 0;
		for (i = 0; i < arrive; i++) {
			assert_int_equal(stream_in_check(&in, wire[i] >> 32),
			    STREAM_IN_ORDER);
			assert_int_equal(wire[i] >> 32, expect);
			expect++;
			stream_in_taken(&in, (uint32_t)wire[i], true);
		}
		if (arrive < n || seed >> 30 == 0) {	/* the wire broke */
			stream_in_open(&in, 1, s->got, 5000);
			assert_true(stream_resume(s, in.seq, in.seq, 0,
			    stream_in_credit(&in), in.taken, &resend) >= 0);
		} else {
			assert_true(stream_ack(s, in.seq, 0,
			    stream_in_credit(&in)) >= 0);
		}
		assert_true(s->sent <= s->granted + FRAME_MAX);
	}
	assert_true(expect > 1000);
	assert_int_equal(s->seq, s->open_count ? expect : expect - 1);
}

#define WITH_STREAM(t)	cmocka_unit_test_setup_teardown(t, start, stop)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_STREAM(records_of_one_turn_share_a_frame),
		WITH_STREAM(a_full_frame_is_followed_by_another),
		WITH_STREAM(frames_are_kept_until_acknowledged),
		WITH_STREAM(without_credit_qos0_is_refused_and_the_rest_waits),
		WITH_STREAM(what_is_kept_has_a_bound),
		WITH_STREAM(nothing_is_too_big_to_start),
		WITH_STREAM(a_large_payload_is_shared_not_copied),
		WITH_STREAM(control_needs_no_credit_and_keeps_its_place),
		WITH_STREAM(a_welcome_says_where_to_go_on),
		WITH_STREAM(a_late_ack_may_free_what_was_to_be_sent_again),
		WITH_STREAM(a_new_receiver_counts_bytes_from_nothing),
		WITH_STREAM(who_is_blocked_hears_when_it_is_over),
		cmocka_unit_test(what_is_done_while_it_is_taken_is_acknowledged),
		WITH_STREAM(publishers_rest_before_there_is_no_room),
		WITH_STREAM(what_is_not_acknowledged_can_be_walked),
		WITH_STREAM(ids_must_rise),
		WITH_STREAM(frames_that_ask_for_stored_wait_for_it),
		WITH_STREAM(what_was_got_and_not_stored_goes_again),
		cmocka_unit_test(order_is_checked_and_a_gap_is_told_once),
		cmocka_unit_test(acks_nobody_waits_for_are_gathered),
		cmocka_unit_test(a_second_hello_keeps_what_was_taken),
		cmocka_unit_test(ids_that_came_before_are_known),
		WITH_STREAM(any_cut_loses_and_doubles_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

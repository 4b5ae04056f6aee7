/* session/message.h, mqueue.h, inbound.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "session/inbound.h"
#include "session/message.h"
#include "session/mqueue.h"
#include "session/roster.h"

static struct message *
make(const char *topic, uint32_t expiry_s)
{
	struct message_view v = {
		.topic = { (const uint8_t *)topic, strlen(topic) },
		.payload = { (const uint8_t *)"body", 4 },
		.expiry_s = expiry_s,
		.qos = 1,
	};

	return message_new(&v, NULL, 1000);
}

static void
push(struct mqueue *q, const char *name, uint8_t qos, uint32_t max,
    int dropped)
{
	struct message		*m = make(name, MESSAGE_NO_EXPIRY);
	struct mqueue_how	 how = { .qos = qos };

	assert_int_equal(mqueue_push(q, m, &how, max, SIZE_MAX, NULL), dropped);
	message_unref(&m);
}

static void
expect(struct mqueue *q, const char *names)
{
	const struct mqueue_how	*how;
	struct message_view	 v;
	struct message		*m;
	char			 got[256] = "";
	size_t			 n = 0;

	while ((m = mqueue_peek(q, &how)) != NULL) {
		message_view(m, 0, &v);
		n += (size_t)snprintf(got + n, sizeof(got) - n, "%.*s ",
		    (int)v.topic.len, (const char *)v.topic.data);
		mqueue_pop(q);
	}
	assert_string_equal(got, names);
	assert_int_equal(q->n, 0);
	assert_int_equal(q->bytes, 0);
}

static void
first_in_first_out(void **state UNUSED)
{
	struct mqueue q = { 0 };

	push(&q, "a", 1, 10, 0);
	push(&q, "b", 0, 10, 0);
	push(&q, "c", 2, 10, 0);
	expect(&q, "a b c ");
}

/* Full: QoS 0 first, the oldest of it; then the oldest of all. */
static void
the_drop_order_is_qos0_then_oldest(void **state UNUSED)
{
	struct mqueue q = { 0 };

	push(&q, "a1", 1, 4, 0);
	push(&q, "b0", 0, 4, 0);
	push(&q, "c1", 1, 4, 0);
	push(&q, "d0", 0, 4, 0);
	push(&q, "e1", 1, 4, 1);		/* b0 goes */
	push(&q, "f2", 2, 4, 1);		/* d0 goes */
	push(&q, "g1", 1, 4, 1);		/* a1 goes */
	push(&q, "h0", 0, 4, 1);		/* h0 itself */
	expect(&q, "c1 e1 f2 g1 ");
}

static void
bytes_are_bounded_too(void **state UNUSED)
{
	struct message		*m = make("t", MESSAGE_NO_EXPIRY);
	struct mqueue_how	 how = { .qos = 1 };
	size_t			 each = message_size(m);
	struct mqueue		 q = { 0 };
	int			 i;

	for (i = 0; i < 3; i++)
		assert_int_equal(mqueue_push(&q, m, &how, 100, 3 * each, NULL), 0);
	assert_int_equal(mqueue_push(&q, m, &how, 100, 3 * each, NULL), 1);
	assert_int_equal(q.n, 3);
	assert_int_equal(mqueue_push(&q, m, &how, 100, each - 1, NULL), 4);
	assert_int_equal(q.n, 0);
	assert_int_equal(m->refs, 1);
	message_unref(&m);
}

static void
what_fits_drops_nothing(void **state UNUSED)
{
	struct message		*m = make("t", MESSAGE_NO_EXPIRY);
	struct group_id		 id = { 1, 2 };
	const uint32_t		 sub = 5;
	struct mqueue_how	 how = { .qos = 1, .group = &id, .ids = &sub,
	    .nids = 1 };
	size_t			 size = message_size(m);
	size_t			 each = size + sizeof(id) + sizeof(sub);
	struct mqueue		 q = { 0 };

	assert_true(mqueue_fits(NULL, size, &how, 1, each));
	assert_false(mqueue_fits(NULL, size, &how, 1, each - 1));
	assert_int_equal(mqueue_push(&q, m, &how, 10, SIZE_MAX, NULL), 0);
	assert_true(mqueue_fits(&q, size, &how, 2, 2 * each));
	assert_false(mqueue_fits(&q, size, &how, 1, SIZE_MAX));
	assert_false(mqueue_fits(&q, size, &how, 2, 2 * each - 1));
	assert_int_equal(mqueue_push(&q, m, &how, 2, 2 * each, NULL), 0);
	assert_int_equal(mqueue_push(&q, m, &how, 3, 3 * each - 1, NULL), 1);
	mqueue_clear(&q);
	message_unref(&m);
}

static void
what_a_group_was_to_get_is_left_over(void **state UNUSED)
{
	struct message		*m = make("g", MESSAGE_NO_EXPIRY);
	struct group_id		 id = { 1, 2 };
	struct mqueue_how	 shared = { .qos = 1, .group = &id };
	struct mqueue_how	 plain = { .qos = 0 };
	const struct mqueue_how	*how;
	struct mqueue		 q = { 0 }, left = { 0 };

	assert_int_equal(mqueue_push(&q, m, &shared, 2, SIZE_MAX, &left), 0);
	assert_int_equal(mqueue_push(&q, m, &plain, 2, SIZE_MAX, &left), 0);
	plain.qos = 1;
	assert_int_equal(mqueue_push(&q, m, &plain, 2, SIZE_MAX, &left), 1);
	assert_int_equal(left.n, 0);		/* QoS 0 went */
	assert_int_equal(mqueue_push(&q, m, &plain, 2, SIZE_MAX, &left), 0);
	assert_int_equal(left.n, 1);
	assert_int_equal(q.n, 2);
	assert_ptr_equal(mqueue_peek(&left, &how), m);
	assert_true(group_id_eq(*how->group, id));
	shared.qos = 0;				/* itself, the only QoS 0 */
	assert_int_equal(mqueue_push(&q, m, &shared, 2, SIZE_MAX, &left), 0);
	assert_int_equal(left.n, 2);
	assert_int_equal(mqueue_push(&q, m, &shared, 2, SIZE_MAX, NULL), 1);
	mqueue_clear(&q);
	mqueue_clear(&left);
	assert_int_equal(left.bytes, 0);
	assert_int_equal(m->refs, 1);
	message_unref(&m);
}

static void
the_publisher_may_be_kept(void **state UNUSED)
{
	struct message_view	 v = {
		.topic = { (const uint8_t *)"t", 1 },
		.props = { (const uint8_t *)"pp", 2 },
		.payload = { (const uint8_t *)"body", 4 },
		.client_id = { (const uint8_t *)"who", 3 },
		.expiry_s = MESSAGE_NO_EXPIRY,
	};
	struct message		*m = message_new(&v, NULL, 0);
	struct message_view	 back;

	assert_non_null(m);
	assert_int_equal(message_size(m), message_view_size(&v));
	message_view(m, 0, &back);
	assert_int_equal(back.client_id.len, 3);
	assert_memory_equal(back.client_id.data, "who", 3);
	assert_int_equal(back.payload.len, 4);
	assert_memory_equal(back.payload.data, "body", 4);
	assert_memory_equal(back.props.data, "pp", 2);
	message_unref(&m);
}

static void
subscription_ids_are_kept(void **state UNUSED)
{
	struct message		*m = make("t", MESSAGE_NO_EXPIRY);
	const uint32_t		 ids[] = { 7, 268435455, 1 };
	struct mqueue_how	 how = { .qos = 2, .retain = true, .nids = 3,
	    .ids = ids };
	const struct mqueue_how	*got;
	struct mqueue		 q = { 0 };

	assert_int_equal(mqueue_push(&q, m, &how, 1, SIZE_MAX, NULL), 0);
	message_unref(&m);
	assert_non_null(mqueue_peek(&q, &got));
	assert_int_equal(got->qos, 2);
	assert_true(got->retain);
	assert_int_equal(got->nids, 3);
	assert_int_equal(got->ids[1], 268435455);
	assert_null(got->group);
	mqueue_clear(&q);
	assert_null(mqueue_peek(&q, &got));
}

static void
the_group_is_kept(void **state UNUSED)
{
	struct message		*m = make("t", MESSAGE_NO_EXPIRY);
	const uint32_t		 ids[] = { 9, 8 };
	struct group_id		 id = { 1, 2 };
	struct mqueue_how	 how = { .qos = 1, .nids = 2, .ids = ids,
	    .group = &id };
	const struct mqueue_how	*got;
	struct mqueue		 q = { 0 };

	assert_int_equal(mqueue_push(&q, m, &how, 2, SIZE_MAX, NULL), 0);
	id.lo = 3;
	how.nids = 0;
	assert_int_equal(mqueue_push(&q, m, &how, 2, SIZE_MAX, NULL), 0);
	message_unref(&m);
	assert_non_null(mqueue_peek(&q, &got));
	assert_true(group_id_eq(*got->group, (struct group_id){ 1, 2 }));
	assert_int_equal(got->ids[1], 8);
	mqueue_pop(&q);
	assert_non_null(mqueue_peek(&q, &got));
	assert_true(group_id_eq(*got->group, (struct group_id){ 1, 3 }));
	mqueue_clear(&q);
	assert_int_equal(q.bytes, 0);
}

static void
expiry_counts_down_in_the_queue(void **state UNUSED)	/* MQTT-3.3.2-6 */
{
	struct message		*m = make("t", 10);
	struct message_view	 v;

	message_view(m, 1000 + 3999, &v);
	assert_int_equal(v.expiry_s, 7);
	message_view(m, 1000 + 10000, &v);
	assert_int_equal(v.expiry_s, 0);
	message_view(m, 1000 + 99999, &v);
	assert_int_equal(v.expiry_s, 0);
	message_unref(&m);
	assert_null(m);
}

static void
a_shared_payload_is_referenced(void **state UNUSED)
{
	struct blob		*b = blob_new(5);
	struct message_view	 v = {
		.topic = { (const uint8_t *)"t", 1 },
		.props = { (const uint8_t *)"pp", 2 },
		.expiry_s = MESSAGE_NO_EXPIRY,
	}, back;
	struct message		*m, *second;

	memcpy(b->data, "hello", 5);
	v.payload = (struct slice){ b->data, 5 };
	m = message_new(&v, b, 0);
	assert_int_equal(atomic_load(&b->refs), 2);
	message_view(m, 0, &back);
	assert_ptr_equal(back.payload.data, b->data);
	assert_int_equal(back.props.len, 2);
	assert_memory_equal(back.props.data, "pp", 2);
	second = message_ref(m);
	message_unref(&m);
	assert_int_equal(atomic_load(&b->refs), 2);
	message_unref(&second);
	assert_int_equal(atomic_load(&b->refs), 1);
	blob_unref(&b);
}

static void
inbound_ids_are_a_set(void **state UNUSED)
{
	struct inbound	in = { 0 };
	unsigned	i;

	for (i = 1; i <= 65535; i += 13)
		assert_int_equal(inbound_add(&in, (uint16_t)i), 1);
	assert_int_equal(inbound_add(&in, 14), 0);
	assert_true(inbound_has(&in, 14));
	assert_false(inbound_has(&in, 15));
	for (i = 1; i <= 65535; i += 13)
		assert_true(inbound_del(&in, (uint16_t)i));
	assert_false(inbound_del(&in, 14));
	assert_int_equal(in.n, 0);
	inbound_clear(&in);
}

static bool
spell(void *ctx, struct message *m, const struct mqueue_how *how)
{
	char			*out = (char *)ctx + strlen(ctx);
	struct message_view	 v;

	message_view(m, 0, &v);
	out[0] = (char)v.topic.data[0];
	out[1] = (char)('0' + how->qos);
	out[2] = '\0';
	return out[0] != 'c';
}

static void
a_queue_is_walked_from_the_oldest(void **state UNUSED)
{
	struct mqueue	q = { 0 };
	char		names[64] = "";

	push(&q, "a", 1, 10, 0);
	push(&q, "b", 0, 10, 0);
	push(&q, "c", 2, 10, 0);
	push(&q, "d", 1, 10, 0);
	mqueue_each(&q, spell, names);
	assert_string_equal(names, "a1b0c2");
	expect(&q, "a b c d ");
}

static void
inbound_ids_are_taken_over(void **state UNUSED)
{
	static const uint16_t	ids[] = { 7, 1, 65535 };
	struct inbound		in = { 0 };

	assert_int_equal(inbound_import(&in, NULL, 0), 0);
	assert_int_equal(in.n, 0);
	assert_int_equal(inbound_import(&in, ids, 3), 0);
	assert_int_equal(inbound_add(&in, 1), 0);
	assert_int_equal(inbound_add(&in, 2), 1);
	assert_true(inbound_del(&in, 65535));
	assert_int_equal(in.n, 3);
	inbound_clear(&in);
}

/* --- Roster ---------------------------------------------------------------- */

static uint64_t
scramble(uint64_t x)
{
	x ^= x >> 31;
	x *= UINT64_C(0x9e3779b97f4a7c15);
	x ^= x >> 29;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	return x ^ x >> 32;
}

static void
who_is_in_the_roster_is_never_denied(void **state UNUSED)
{
	struct roster	r = { .bits = NULL };
	uint64_t	i;
	size_t		wrong = 0;

	assert_true(roster_maybe(&r, 1));	/* nothing is known */
	assert_int_equal(roster_init(&r, ROSTER_BITS_MIN - 1), ERR_INVAL);
	assert_int_equal(roster_init(&r, ROSTER_BITS_MAX + 1), ERR_INVAL);
	assert_int_equal(roster_init(&r, roster_log2_for(10000)), 0);
	assert_false(roster_maybe(&r, scramble(1)));
	for (i = 1; i <= 10000; i++)
		(void)roster_add(&r, scramble(i));
	assert_false(roster_add(&r, scramble(1)));
	for (i = 1; i <= 10000; i++)
		assert_true(roster_maybe(&r, scramble(i)));
	for (i = 10001; i <= 20000; i++)
		wrong += roster_maybe(&r, scramble(i));
	assert_in_range(wrong, 1, 1000);	/* one in sixteen */
	assert_in_range(r.ones, 9000, 10000);
	roster_fini(&r);
	assert_true(roster_maybe(&r, 1));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_is_in_the_roster_is_never_denied),
		cmocka_unit_test(first_in_first_out),
		cmocka_unit_test(the_drop_order_is_qos0_then_oldest),
		cmocka_unit_test(bytes_are_bounded_too),
		cmocka_unit_test(what_fits_drops_nothing),
		cmocka_unit_test(what_a_group_was_to_get_is_left_over),
		cmocka_unit_test(the_publisher_may_be_kept),
		cmocka_unit_test(subscription_ids_are_kept),
		cmocka_unit_test(the_group_is_kept),
		cmocka_unit_test(expiry_counts_down_in_the_queue),
		cmocka_unit_test(a_shared_payload_is_referenced),
		cmocka_unit_test(inbound_ids_are_a_set),
		cmocka_unit_test(a_queue_is_walked_from_the_oldest),
		cmocka_unit_test(inbound_ids_are_taken_over),
	};

	return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}

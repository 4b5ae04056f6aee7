/* window/window.h. Spec: MQTT 5.0 sections 4.3, 4.9. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "window/window.h"

static void
the_send_quota_is_kept(void **state UNUSED)		/* MQTT-4.9.0-2 */
{
	struct window	*w = window_new(3);
	uint16_t	 id[4];
	int		 i;

	for (i = 0; i < 3; i++)
		assert_int_equal(window_send(w, 1, &id[i]), 0);
	assert_true(window_is_full(w));
	assert_int_equal(window_send(w, 1, &id[3]), ERR_FULL);
	assert_int_equal(window_step(w, id[1], WINDOW_GOT_PUBACK),
	    WINDOW_RELEASE);
	assert_int_equal(window_send(w, 2, &id[3]), 0);
	assert_int_equal(window_inflight(w), 3);
	window_free(&w);
}

static void
qos2_goes_through_its_four_steps(void **state UNUSED)	/* MQTT-4.3.3 */
{
	struct window	*w = window_new(10);
	uint16_t	 id;

	window_send(w, 2, &id);
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBACK), WINDOW_REFUSE);
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBCOMP),
	    WINDOW_REFUSE);
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBREC),
	    WINDOW_SEND_PUBREL);
	/* PUBREL is repeated when the peer repeats PUBREC */
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBREC),
	    WINDOW_SEND_PUBREL);
	assert_int_equal(window_state(w, id), WINDOW_PUBCOMP_DUE);
	assert_int_equal(window_inflight(w), 1);
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBCOMP),
	    WINDOW_RELEASE);
	assert_int_equal(window_step(w, id, WINDOW_GOT_PUBCOMP),
	    WINDOW_REFUSE);
	assert_int_equal(window_inflight(w), 0);
	window_free(&w);
}

static void
a_rejected_pubrec_frees_the_slot(void **state UNUSED)
{
	struct window	*w = window_new(1);
	uint16_t	 id;

	window_send(w, 2, &id);
	assert_int_equal(window_step(w, id, WINDOW_GOT_REJECTED),
	    WINDOW_RELEASE);
	assert_int_equal(window_send(w, 2, &id), 0);
	window_free(&w);
}

static void
what_was_never_sent_is_refused(void **state UNUSED)
{
	struct window	*w = window_new(5);
	uint16_t	 id;

	assert_int_equal(window_step(w, 1, WINDOW_GOT_PUBACK), WINDOW_REFUSE);
	window_send(w, 1, &id);
	assert_int_equal(window_step(w, 0, WINDOW_GOT_PUBACK), WINDOW_REFUSE);
	assert_int_equal(window_step(w, (uint16_t)(id + 1),
	    WINDOW_GOT_PUBACK), WINDOW_REFUSE);
	assert_int_equal(window_step(w, 65535, WINDOW_GOT_PUBACK),
	    WINDOW_REFUSE);
	window_free(&w);
}

/* One id stays open for ever; all others come and go past it, many times. */
static void
an_id_in_flight_is_never_used_again(void **state UNUSED)
{
	struct window	*w = window_new(10);
	uint16_t	 held, id, before = 0;
	uint32_t	 n;

	window_send(w, 1, &held);
	for (n = 0; n < 200000; n++) {
		assert_int_equal(window_send(w, 1, &id), 0);
		assert_int_not_equal(id, held);
		assert_int_not_equal(id, 0);
		assert_int_not_equal(id, before);
		before = id;
		assert_int_equal(window_inflight(w), 2);
		assert_int_equal(window_step(w, id, WINDOW_GOT_PUBACK),
		    WINDOW_RELEASE);
		assert_int_equal(window_step(w, id, WINDOW_GOT_PUBACK),
		    WINDOW_REFUSE);
	}
	assert_int_equal(window_state(w, held), WINDOW_PUBACK_DUE);
	assert_int_equal(window_step(w, held, WINDOW_GOT_PUBACK),
	    WINDOW_RELEASE);
	assert_int_equal(window_send(w, 1, &id), 0);
	assert_int_equal(window_inflight(w), 1);
	window_free(&w);
}

static void
all_65535_ids_can_be_in_flight(void **state UNUSED)
{
	struct window	*w = window_new(65535);
	uint16_t	 id;
	uint32_t	 n;

	for (n = 0; n < 65535; n++)
		assert_int_equal(window_send(w, 2, &id), 0);
	assert_int_equal(window_send(w, 2, &id), ERR_FULL);
	for (n = 65535; n > 0; n--)
		assert_int_equal(window_step(w, (uint16_t)n,
		    WINDOW_GOT_REJECTED), WINDOW_RELEASE);
	assert_int_equal(window_inflight(w), 0);
	assert_int_equal(window_send(w, 1, &id), 0);
	window_free(&w);
}

/* Seeded: ids unique in flight, whatever the order of answers. */
static void
ids_are_unique_under_any_order(void **state UNUSED)
{
	static uint8_t	 inflight[65536];
	struct window	*w = window_new(500);
	uint16_t	 open[500], id;
	uint32_t	 n = 0, i, k;
	uint64_t	 s = 99;

	memset(inflight, 0, sizeof(inflight));
	for (i = 0; i < 300000; i++) {
		s = s * 6364136223846793005u + 1442695040888963407u;
		if (n < NELEM(open) && (s >> 33) % 5 < 3) {
			if (window_send(w, 1, &id) == 0) {
				assert_int_equal(inflight[id], 0);
				inflight[id] = 1;
				open[n++] = id;
			}
		} else if (n > 0) {
			k = (uint32_t)(s >> 40) % n;
			assert_int_equal(window_step(w, open[k],
			    WINDOW_GOT_PUBACK), WINDOW_RELEASE);
			inflight[open[k]] = 0;
			open[k] = open[--n];
		}
		assert_int_equal(window_inflight(w), n);
	}
	window_free(&w);
	assert_null(w);
}

/* --- From one process to another ------------------------------------- */

static struct window_cell cells[65535];

/* The same window again, and the first one freed. */
static struct window *
carried(struct window *w)
{
	struct window	*copy;
	uint32_t	 n, i;
	uint16_t	 next, max;

	n = window_export(w, cells, &next, &max);
	assert_int_equal(n, window_inflight(w));
	assert_int_equal(window_import(&copy, cells, n, next, max), 0);
	assert_int_equal(window_inflight(copy), n);
	assert_int_equal(window_is_full(copy), window_is_full(w));
	for (i = 1; i <= 65535; i++)
		assert_int_equal(window_state(copy, (uint16_t)i),
		    window_state(w, (uint16_t)i));
	window_free(&w);
	return copy;
}

static void
a_window_goes_on_elsewhere_as_it_was(void **state UNUSED)
{
	struct window	*w = carried(window_new(4));
	uint16_t	 id, first;
	int		 i;

	/* Around the end of the identifiers, one left open before it. */
	for (i = 0; i < 65533; i++) {
		assert_int_equal(window_send(w, 1, &id), 0);
		assert_int_equal(window_step(w, id, WINDOW_GOT_PUBACK),
		    WINDOW_RELEASE);
	}
	assert_int_equal(window_send(w, 2, &first), 0);
	for (i = 0; i < 3; i++)
		assert_int_equal(window_send(w, 1, &id), 0);
	assert_int_equal(id, 2);
	window_step(w, first, WINDOW_GOT_PUBREC);
	w = carried(w);
	assert_int_equal(window_send(w, 1, &id), ERR_FULL);
	assert_int_equal(window_state(w, first), WINDOW_PUBCOMP_DUE);
	assert_int_equal(window_step(w, 1, WINDOW_GOT_PUBACK), WINDOW_RELEASE);
	assert_int_equal(window_send(w, 1, &id), 0);
	assert_int_equal(id, 3);
	w = carried(w);
	window_free(&w);
}

static void
a_table_by_identifier_goes_on_elsewhere(void **state UNUSED)
{
	struct window	*w = window_new(3);
	uint16_t	 open, id;
	int		 i;

	assert_int_equal(window_send(w, 1, &open), 0);
	for (i = 0; i < 70000; i++) {
		assert_int_equal(window_send(w, 1, &id), 0);
		assert_int_not_equal(id, open);
		if (i % 7000 == 0)
			w = carried(w);
		assert_int_equal(window_step(w, id, WINDOW_GOT_PUBACK),
		    WINDOW_RELEASE);
	}
	assert_int_equal(window_state(w, open), WINDOW_PUBACK_DUE);
	window_free(&w);
}

static void
a_full_window_of_all_identifiers_goes_on(void **state UNUSED)
{
	struct window	*w = window_new(65535);
	uint16_t	 id;
	int		 i;

	for (i = 0; i < 65535; i++)
		assert_int_equal(window_send(w, 1 + i % 2, &id), 0);
	w = carried(w);
	assert_int_equal(window_send(w, 1, &id), ERR_FULL);
	assert_int_equal(window_step(w, 7, WINDOW_GOT_PUBACK), WINDOW_RELEASE);
	assert_int_equal(window_send(w, 1, &id), 0);
	assert_int_equal(id, 7);
	window_free(&w);
}

static void
what_no_window_told_is_refused(void **state UNUSED)
{
	struct window_cell	two[2] = { { 5, WINDOW_PUBACK_DUE },
				    { 5, WINDOW_PUBREC_DUE } };
	struct window		*w = NULL;

	assert_int_equal(window_import(&w, two, 2, 6, 10), ERR_PROTO);
	two[1].id = 0;
	assert_int_equal(window_import(&w, two, 2, 6, 10), ERR_PROTO);
	two[1].id = 6;
	two[1].state = WINDOW_NSTATES;
	assert_int_equal(window_import(&w, two, 2, 6, 10), ERR_PROTO);
	two[1].state = WINDOW_DONE;
	assert_int_equal(window_import(&w, two, 2, 6, 10), ERR_PROTO);
	assert_int_equal(window_import(&w, two, 1, 0, 10), ERR_PROTO);
	assert_int_equal(window_import(&w, two, 1, 6, 0), ERR_PROTO);
	assert_null(w);
}

/* Somebody else gives them: rising, with gaps, over the end, one left open. */
static void
ids_may_be_given(void **state UNUSED)
{
	struct window	*w = window_new(65535);
	uint32_t	 i, given = 1;

	assert_int_equal(window_put(w, WINDOW_PUBACK_DUE, 0), ERR_INVAL);
	assert_int_equal(window_put(w, WINDOW_PUBREC_DUE, 65530), 0);
	assert_int_equal(window_put(w, WINDOW_PUBACK_DUE, 65535), 0);
	assert_int_equal(window_put(w, WINDOW_PUBCOMP_DUE, 2), 0);
	assert_int_equal(window_put(w, WINDOW_PUBACK_DUE, 2), ERR_EXISTS);
	assert_int_equal(window_inflight(w), 3);
	assert_int_equal(window_state(w, 65530), WINDOW_PUBREC_DUE);
	assert_int_equal(window_state(w, 65531), WINDOW_DONE);
	assert_int_equal(window_state(w, 1), WINDOW_DONE);
	assert_int_equal(window_state(w, 2), WINDOW_PUBCOMP_DUE);
	assert_int_equal(window_step(w, 65535, WINDOW_GOT_PUBACK),
	    WINDOW_RELEASE);
	assert_int_equal(window_step(w, 2, WINDOW_GOT_PUBCOMP),
	    WINDOW_RELEASE);
	for (i = 0; i < 200000; i++) {		/* 65530 stays open */
		given = 1 + (i + 2) % 65535;
		if (given == 65530) {
			assert_int_equal(window_put(w, WINDOW_PUBACK_DUE,
			    (uint16_t)given), ERR_EXISTS);
			continue;
		}
		assert_int_equal(window_put(w, WINDOW_PUBACK_DUE,
		    (uint16_t)given), 0);
		assert_int_equal(window_step(w, (uint16_t)given,
		    WINDOW_GOT_PUBACK), WINDOW_RELEASE);
	}
	assert_int_equal(window_inflight(w), 1);
	assert_int_equal(window_state(w, 65530), WINDOW_PUBREC_DUE);
	window_free(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_send_quota_is_kept),
		cmocka_unit_test(qos2_goes_through_its_four_steps),
		cmocka_unit_test(a_rejected_pubrec_frees_the_slot),
		cmocka_unit_test(what_was_never_sent_is_refused),
		cmocka_unit_test(an_id_in_flight_is_never_used_again),
		cmocka_unit_test(all_65535_ids_can_be_in_flight),
		cmocka_unit_test(ids_are_unique_under_any_order),
		cmocka_unit_test(a_window_goes_on_elsewhere_as_it_was),
		cmocka_unit_test(a_table_by_identifier_goes_on_elsewhere),
		cmocka_unit_test(a_full_window_of_all_identifiers_goes_on),
		cmocka_unit_test(ids_may_be_given),
		cmocka_unit_test(what_no_window_told_is_refused),
	};

	return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}

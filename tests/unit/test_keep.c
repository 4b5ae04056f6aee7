/* keep: what the supervisor decides, with the time in our hands. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/util.h"
#include "keep/deal.h"
#include "keep/lines.h"
#include "keep/table.h"

/* --- The process table --------------------------------------------------- */

#define NPROCS	3	/* a router, two listeners */

struct node {
	struct keep_table	t;
	struct keep_proc	p[NPROCS];
	uint64_t		now, incarnation;
	pid_t			pid;
};

static const struct keep_limits limits = {
	.hang_ms = 10000, .stop_ms = 5000, .backoff_max_ms = 1000,
};

static void
node_init(struct node *n)
{
	int	i;

	memset(n, 0, sizeof(*n));
	n->now = 1000000;
	n->pid = 100;
	for (i = 0; i < NPROCS; i++) {
		n->p[i].rank = i > 0;
		snprintf(n->p[i].name, sizeof(n->p[i].name), "p%d", i);
	}
	keep_init(&n->t, n->p, NPROCS, &limits, n->now);
}

static void
pass(struct node *n, uint64_t ms)
{
	struct keep_action	a;
	uint64_t		end = n->now + ms;

	/* Nobody but who is tested falls silent. */
	for (; n->now < end; n->now += MIN(end - n->now, (uint64_t)1000)) {
		for (int i = 0; i < NPROCS; i++)
			keep_heard(&n->t, (size_t)i, n->now);
		while ((a = keep_next(&n->t, n->now)).what == KEEP_PING)
			;
	}
}

/* The next action that is no ping. */
static struct keep_action
act(struct node *n)
{
	struct keep_action	a;

	do
		a = keep_next(&n->t, n->now);
	while (a.what == KEEP_PING);
	return a;
}

static void
assert_action(struct node *n, enum keep_what what, size_t i)
{
	struct keep_action	a = act(n);

	assert_int_equal(a.what, what);
	if (what != KEEP_NOTHING)
		assert_int_equal(a.i, i);
}

static void
started(struct node *n, size_t i)
{
	keep_started(&n->t, i, n->pid++, ++n->incarnation, n->now);
}

/* Everything started and ready. */
static void
node_serving(struct node *n)
{
	size_t	i;

	node_init(n);
	keep_open(&n->t, n->now);
	for (i = 0; i < NPROCS; i++) {
		assert_action(n, KEEP_START, i);
		started(n, i);
		keep_ready(&n->t, i, n->now);
	}
	assert_action(n, KEEP_NOTHING, 0);
}

static void
died(struct node *n, size_t i, int code, int sig)
{
	struct keep_end	e = { .known = true, .code = code, .signal = sig };

	keep_ended(&n->t, i, &e, n->now);
}

static void
nothing_starts_before_the_table_is_open(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	assert_action(&n, KEEP_NOTHING, 0);
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
}

static void
listeners_wait_for_the_router(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
	started(&n, 0);
	assert_action(&n, KEEP_NOTHING, 0);
	keep_ready(&n.t, 0, n.now);
	assert_action(&n, KEEP_START, 1);
	started(&n, 1);
	assert_action(&n, KEEP_START, 2);
	started(&n, 2);
	assert_false(keep_serves(&n.t));
	keep_ready(&n.t, 1, n.now);
	keep_ready(&n.t, 2, n.now);
	assert_true(keep_serves(&n.t));
}

static void
listeners_wait_for_the_router_no_longer_than_two_seconds(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
	started(&n, 0);
	assert_true(keep_deadline(&n.t, n.now) <= n.now +
	    KEEP_RANK_WAIT_MS);
	pass(&n, KEEP_RANK_WAIT_MS - 1);
	assert_action(&n, KEEP_NOTHING, 0);
	pass(&n, 1);
	assert_action(&n, KEEP_START, 1);
}

static void
higher_ranks_wait_as_long_as_a_patient_one_is_starting(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	n.p[0].patient = true;
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
	started(&n, 0);
	pass(&n, 10 * KEEP_RANK_WAIT_MS);
	assert_action(&n, KEEP_NOTHING, 0);
	/* Nobody wakes up for that again and again. */
	assert_true(keep_deadline(&n.t, n.now) > n.now);
	died(&n, 0, EX_SOFTWARE, 0);		/* its time is over */
	assert_action(&n, KEEP_START, 0);
	started(&n, 0);
	assert_action(&n, KEEP_NOTHING, 0);
	keep_ready(&n.t, 0, n.now);
	assert_action(&n, KEEP_START, 1);
}

static void
listeners_do_not_wait_for_a_router_that_stays_down(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
	started(&n, 0);
	died(&n, 0, EX_CONFIG, 0);
	assert_action(&n, KEEP_START, 1);
}

static void
a_first_failure_costs_no_time_the_next_ones_do(void **state UNUSED)
{
	static const uint64_t	waits[] = { 0, 100, 200, 400, 800, 1000, 1000 };
	struct node		n;
	size_t			i;

	node_serving(&n);
	for (i = 0; i < NELEM(waits); i++) {
		died(&n, 1, 0, SIGKILL);
		if (waits[i] > 0) {
			assert_action(&n, KEEP_NOTHING, 0);
			assert_true(keep_deadline(&n.t, n.now) <= n.now +
			    waits[i]);
			pass(&n, waits[i] - 1);
			assert_action(&n, KEEP_NOTHING, 0);
			pass(&n, 1);
		}
		assert_action(&n, KEEP_START, 1);
		started(&n, 1);
		keep_ready(&n.t, 1, n.now);
	}
	assert_int_equal(n.p[1].restarts, NELEM(waits));
}

static void
a_stable_run_forgets_the_failures_before_it(void **state UNUSED)
{
	struct node	n;
	int		i;

	node_serving(&n);
	for (i = 0; i < 5; i++) {
		died(&n, 1, EX_SOFTWARE, 0);
		pass(&n, 5000);
		assert_int_equal(n.p[1].phase, KEEP_DOWN);
		started(&n, 1);
	}
	keep_ready(&n.t, 1, n.now);
	pass(&n, KEEP_STABLE_MS);
	died(&n, 1, EX_SOFTWARE, 0);
	assert_action(&n, KEEP_START, 1);
}

static void
configuration_and_usage_errors_and_0_stay_down(void **state UNUSED)
{
	static const int	codes[] = { EX_CONFIG, EX_USAGE, 0 };
	struct node		n;
	size_t			i;

	for (i = 0; i < NELEM(codes); i++) {
		node_serving(&n);
		died(&n, 2, codes[i], 0);
		assert_int_equal(n.p[2].phase, KEEP_HELD);
		pass(&n, 3600000);
		assert_action(&n, KEEP_NOTHING, 0);
		keep_restart(&n.t, 2, n.now);
		assert_action(&n, KEEP_START, 2);
	}
}

static void
restart_drains_and_starts_anew_without_delay(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	keep_restart(&n.t, 1, n.now);
	assert_action(&n, KEEP_DRAIN, 1);
	assert_action(&n, KEEP_NOTHING, 0);
	died(&n, 1, 0, 0);
	assert_action(&n, KEEP_START, 1);
	started(&n, 1);
	assert_false(n.p[1].again);
}

static void
who_does_not_drain_in_time_is_killed_once(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	keep_restart(&n.t, 1, n.now);
	assert_action(&n, KEEP_DRAIN, 1);
	pass(&n, limits.stop_ms - 1);
	assert_action(&n, KEEP_NOTHING, 0);
	n.now++;
	assert_action(&n, KEEP_KILL, 1);
	assert_action(&n, KEEP_NOTHING, 0);
	died(&n, 1, 0, SIGKILL);
	assert_action(&n, KEEP_START, 1);
}

static void
who_is_silent_is_killed_and_replaced(void **state UNUSED)
{
	struct node	n;
	uint64_t	end;

	node_serving(&n);
	for (end = n.now + limits.hang_ms - 1; n.now < end; n.now += 999) {
		keep_heard(&n.t, 0, n.now);
		keep_heard(&n.t, 2, n.now);
		assert_action(&n, KEEP_NOTHING, 0);
	}
	n.now = end + 1;
	assert_action(&n, KEEP_KILL, 1);
	assert_action(&n, KEEP_NOTHING, 0);
	died(&n, 1, 0, SIGKILL);
	assert_string_equal(n.p[1].note, "silent, killed");
	assert_action(&n, KEEP_START, 1);
}

static void
nobody_is_blamed_for_a_supervisor_that_was_stopped(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	n.now += 10 * limits.hang_ms;
	assert_action(&n, KEEP_NOTHING, 0);
}

static void
pings_come_several_times_in_a_hang_timeout(void **state UNUSED)
{
	struct node	n;
	int		pings = 0;
	uint64_t	end;

	node_serving(&n);
	for (end = n.now + limits.hang_ms; n.now < end;
	    n.now = MAX(keep_deadline(&n.t, n.now), n.now + 1)) {
		struct keep_action	a;

		while ((a = keep_next(&n.t, n.now)).what != KEEP_NOTHING) {
			assert_int_equal(a.what, KEEP_PING);
			keep_heard(&n.t, a.i, n.now);
			pings += a.i == 1;
		}
	}
	assert_in_range(pings, 5, 20);
}

static void
stop_drains_listeners_then_the_router(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	keep_stop(&n.t);
	assert_action(&n, KEEP_DRAIN, 1);
	assert_action(&n, KEEP_DRAIN, 2);
	assert_action(&n, KEEP_NOTHING, 0);
	died(&n, 1, 0, 0);
	assert_action(&n, KEEP_NOTHING, 0);
	died(&n, 2, 0, 0);
	assert_action(&n, KEEP_DRAIN, 0);
	assert_false(keep_all_down(&n.t));
	died(&n, 0, 0, 0);
	assert_true(keep_all_down(&n.t));
	assert_action(&n, KEEP_NOTHING, 0);
}

static void
who_dies_while_the_node_stops_is_not_started(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	keep_stop(&n.t);
	died(&n, 0, 0, SIGSEGV);
	assert_action(&n, KEEP_DRAIN, 1);
	assert_action(&n, KEEP_DRAIN, 2);
	pass(&n, 1000);
	assert_action(&n, KEEP_NOTHING, 0);
	assert_int_equal(n.p[0].phase, KEEP_DOWN);
}

static void
an_adopted_process_is_not_started_again(void **state UNUSED)
{
	struct node	n;
	struct keep_end	e = { .known = false };

	node_init(&n);
	keep_adopted(&n.t, 0, 77, 500, KEEP_READY, n.now);
	keep_open(&n.t, n.now);
	assert_int_equal(n.p[0].restarts, 0);
	assert_action(&n, KEEP_START, 1);
	started(&n, 1);
	keep_ended(&n.t, 0, &e, n.now);
	assert_action(&n, KEEP_START, 0);
}

static void
who_leaves_of_its_own_accord_has_its_time(void **state UNUSED)
{
	struct node	n;

	node_serving(&n);
	keep_leaving(&n.t, 1, n.now);
	assert_int_equal(n.p[1].phase, KEEP_DRAINING);
	pass(&n, limits.stop_ms);
	assert_action(&n, KEEP_KILL, 1);
}

static void
a_failed_start_backs_off(void **state UNUSED)
{
	struct node	n;

	node_init(&n);
	keep_open(&n.t, n.now);
	assert_action(&n, KEEP_START, 0);
	keep_failed(&n.t, 0, "no memory", n.now);
	assert_action(&n, KEEP_START, 0);
	keep_failed(&n.t, 0, "no memory", n.now);
	assert_action(&n, KEEP_NOTHING, 0);
	assert_string_equal(n.p[0].note, "no memory");
}

static void
who_is_retired_ends_and_stays_away(void **state UNUSED)
{
	struct node	n;
	struct keep_end	end = { .known = true };

	node_init(&n);
	keep_open(&n.t, n.now);
	for (size_t i = 0; i < NPROCS; i++) {
		assert_action(&n, KEEP_START, i);
		keep_started(&n.t, i, 100, ++n.incarnation, n.now);
		keep_ready(&n.t, i, n.now);
	}
	keep_retire(&n.t, 2);
	assert_true(keep_serves(&n.t));		/* the others do */
	assert_action(&n, KEEP_DRAIN, 2);
	keep_ended(&n.t, 2, &end, n.now);
	assert_int_equal(n.p[2].phase, KEEP_GONE);
	assert_true(keep_serves(&n.t));
	assert_action(&n, KEEP_NOTHING, 0);
	keep_revive(&n.t, 2, n.now);
	assert_action(&n, KEEP_START, 2);
	keep_started(&n.t, 2, 100, ++n.incarnation, n.now);
	assert_int_equal(n.p[2].restarts, 0);
	keep_retire(&n.t, 2);			/* and wanted before it ends */
	assert_action(&n, KEEP_DRAIN, 2);
	keep_revive(&n.t, 2, n.now);
	keep_ended(&n.t, 2, &end, n.now);
	assert_action(&n, KEEP_START, 2);
	keep_failed(&n.t, 2, "no memory", n.now);
	keep_retire(&n.t, 2);			/* not running: at once */
	assert_int_equal(n.p[2].phase, KEEP_GONE);
	assert_true(keep_deadline(&n.t, n.now) > n.now);
}

/* --- Dealing ------------------------------------------------------------- */

#define NSOCKETS	16
#define NTAKERS		5

static void
deal_init(struct deal_socket *s, size_t n, struct deal_taker *t, size_t nt)
{
	size_t	i;

	memset(s, 0, n * sizeof(*s));
	memset(t, 0, nt * sizeof(*t));
	for (i = 0; i < n; i++)
		s[i].taker = DEAL_NOBODY;
}

static size_t
has(const struct deal_socket *s, size_t n, int k)
{
	size_t	i, c = 0;

	for (i = 0; i < n; i++)
		c += s[i].taker == k;
	return c;
}

static void
sockets_are_dealt_evenly_and_stay_where_they_are(void **state UNUSED)
{
	struct deal_socket	s[NSOCKETS], was[NSOCKETS];
	struct deal_taker	t[NTAKERS];
	int			k;
	size_t			i, moved;

	deal_init(s, NSOCKETS, t, NTAKERS);
	t[0].serves = true;
	assert_int_equal(deal(s, NSOCKETS, t, NTAKERS), NSOCKETS);
	assert_int_equal(has(s, NSOCKETS, 0), NSOCKETS);
	for (k = 1; k < NTAKERS; k++)
		t[k].serves = true;
	deal(s, NSOCKETS, t, NTAKERS);
	for (k = 0; k < NTAKERS; k++)
		assert_in_range(has(s, NSOCKETS, k), NSOCKETS / NTAKERS,
		    NSOCKETS / NTAKERS + 1);
	assert_int_equal(deal(s, NSOCKETS, t, NTAKERS), 0);
	memcpy(was, s, sizeof(s));
	t[2].serves = false;			/* it died */
	deal(s, NSOCKETS, t, NTAKERS);
	assert_int_equal(has(s, NSOCKETS, 2), 0);
	for (i = moved = 0; i < NSOCKETS; i++)
		if (s[i].taker != was[i].taker) {
			assert_int_equal(was[i].taker, 2);
			moved++;
		}
	assert_in_range(moved, 3, 4);
}

static void
who_is_full_gets_no_shared_socket(void **state UNUSED)
{
	struct deal_socket	s[4];
	struct deal_taker	t[2];

	deal_init(s, 4, t, 2);
	t[0].serves = t[1].serves = t[0].full = true;
	s[3].own = true;
	deal(s, 4, t, 2);
	assert_int_equal(has(s, 3, 1), 3);
	assert_int_equal(s[3].taker, 0);	/* its own stays */
	t[0].full = t[1].full = true;		/* somebody has to refuse */
	deal(s, 4, t, 2);
	assert_int_equal(has(s, 3, DEAL_NOBODY), 0);
	t[0].full = true;
	t[1].full = t[1].serves = false;	/* also if it is the only one */
	deal(s, 4, t, 2);
	assert_int_equal(has(s, 4, 0), 4);
}

static void
an_own_socket_is_nobody_elses(void **state UNUSED)
{
	struct deal_socket	s[2];
	struct deal_taker	t[2];

	deal_init(s, 2, t, 2);
	s[0].own = s[1].own = true;
	s[1].instance = 1;
	t[0].serves = true;
	deal(s, 2, t, 2);
	assert_int_equal(s[0].taker, 0);
	assert_int_equal(s[1].taker, DEAL_NOBODY);
}

static void
the_own_sockets_of_one_that_is_gone_are_anybodys(void **state UNUSED)
{
	struct deal_socket	s[3];
	struct deal_taker	t[3];

	deal_init(s, 3, t, 3);
	for (size_t i = 0; i < 3; i++) {
		s[i].own = t[i].serves = true;
		s[i].instance = i;
	}
	assert_int_equal(deal(s, 3, t, 3), 3);
	t[1].serves = t[2].serves = false;
	t[1].gone = t[2].gone = true;
	assert_int_equal(deal(s, 3, t, 3), 2);
	assert_int_equal(has(s, 3, 0), 3);
	assert_int_equal(deal(s, 3, t, 2), 0);	/* nor without its row */
	t[1].gone = false;
	deal(s, 3, t, 3);
	assert_int_equal(s[1].taker, DEAL_NOBODY);	/* it is starting */
	t[1].serves = true;
	deal(s, 3, t, 3);
	assert_int_equal(s[1].taker, 1);
	assert_int_equal(s[2].taker, 0);
}

static void
each_address_is_dealt_evenly(void **state UNUSED)
{
	struct deal_socket	s[12];
	struct deal_taker	t[3];
	size_t			i;
	int			k;

	deal_init(s, 12, t, 3);
	for (i = 0; i < 12; i++)
		s[i].group = i >= 6;
	for (k = 0; k < 3; k++)
		t[k].serves = true;
	deal(s, 12, t, 3);
	for (k = 0; k < 3; k++) {
		assert_int_equal(has(s, 6, k), 2);
		assert_int_equal(has(s + 6, 6, k), 2);
	}
}

static void
dealing_is_even_whatever_happens(void **state UNUSED)
{
	struct deal_socket	s[40];
	struct deal_taker	t[12];
	size_t			lo, hi, h;
	unsigned		r = 1, g;
	int			k, round, some;

	deal_init(s, NELEM(s), t, NELEM(t));
	for (k = 0; k < (int)NELEM(s); k++)
		s[k].group = (unsigned)k / 20;
	for (round = 0; round < 2000; round++) {
		for (k = 0; k < (int)NELEM(t); k++) {
			r = r * 1103515245 + 12345;
			t[k].serves = (r >> 16) % 3 != 0;
			t[k].full = (r >> 20) % 5 == 0;
		}
		deal(s, NELEM(s), t, NELEM(t));
		for (g = 0; g < 2; g++) {
			lo = 1000;
			hi = some = 0;
			for (k = 0; k < (int)NELEM(t); k++) {
				h = has(s + g * 20, 20, k);
				if (!t[k].serves || t[k].full) {
					assert_int_equal(h, 0);
					continue;
				}
				some = 1;
				lo = MIN(lo, h);
				hi = MAX(hi, h);
			}
			if (some)
				assert_in_range(hi - lo, 0, 1);
		}
	}
}

/* --- Lines --------------------------------------------------------------- */

struct taken {
	size_t	n, longest;
	char	all[256];
};

static void
take(void *ctx, const char *line, size_t len)
{
	struct taken	*k = ctx;

	assert_int_equal(line[len - 1], '\n');
	k->n++;
	k->longest = MAX(k->longest, len);
	strncat(k->all, line, MIN(len, sizeof(k->all) - 1 - strlen(k->all)));
}

static void
lines_come_whole_however_they_arrive(void **state UNUSED)
{
	static const char	text[] = "one\ntwo\n\nthree";
	struct line_cutter	c;
	struct taken		k;
	size_t			step, i;

	for (step = 1; step < sizeof(text); step++) {
		memset(&c, 0, sizeof(c));
		memset(&k, 0, sizeof(k));
		for (i = 0; i < sizeof(text) - 1; i += step)
			line_cutter_feed(&c, text + i,
			    MIN(step, sizeof(text) - 1 - i), take, &k);
		assert_int_equal(k.n, 3);
		line_cutter_end(&c, take, &k);
		line_cutter_end(&c, take, &k);
		assert_int_equal(k.n, 4);
		assert_string_equal(k.all, "one\ntwo\n\nthree\n");
	}
}

static void
a_line_without_end_is_cut(void **state UNUSED)
{
	static char		text[3 * LINES_LINE_MAX];
	struct line_cutter	c = { .len = 0 };
	struct taken		k = { .n = 0 };

	memset(text, 'x', sizeof(text));
	line_cutter_feed(&c, text, sizeof(text), take, &k);
	line_cutter_end(&c, take, &k);
	assert_int_equal(k.n, 4);
	assert_int_equal(k.longest, LINES_LINE_MAX);
}

static void
a_full_ring_drops_and_counts(void **state UNUSED)
{
	char			storage[16];
	const char		*bytes;
	struct line_ring	r;

	line_ring_init(&r, storage, sizeof(storage));
	assert_true(line_ring_put(&r, "0123456789\n", 11));
	assert_false(line_ring_put(&r, "abcdef\n", 7));
	assert_true(line_ring_put(&r, "abcd\n", 5));
	assert_false(line_ring_put(&r, "\n", 1));
	assert_int_equal(r.lost, 2);
	assert_int_equal(line_ring_peek(&r, &bytes), 16);
	line_ring_take(&r, 11);
	assert_true(line_ring_put(&r, "ABCDEF\n", 7));	/* wraps */
	assert_int_equal(line_ring_peek(&r, &bytes), 5);
	assert_memory_equal(bytes, "abcd\n", 5);
	line_ring_take(&r, 5);
	assert_int_equal(line_ring_peek(&r, &bytes), 7);
	assert_memory_equal(bytes, "ABCDEF\n", 7);
	line_ring_take(&r, 7);
	assert_int_equal(line_ring_peek(&r, &bytes), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_starts_before_the_table_is_open),
		cmocka_unit_test(listeners_wait_for_the_router),
		cmocka_unit_test(
		    listeners_wait_for_the_router_no_longer_than_two_seconds),
		cmocka_unit_test(
		    higher_ranks_wait_as_long_as_a_patient_one_is_starting),
		cmocka_unit_test(
		    listeners_do_not_wait_for_a_router_that_stays_down),
		cmocka_unit_test(
		    a_first_failure_costs_no_time_the_next_ones_do),
		cmocka_unit_test(a_stable_run_forgets_the_failures_before_it),
		cmocka_unit_test(
		    configuration_and_usage_errors_and_0_stay_down),
		cmocka_unit_test(restart_drains_and_starts_anew_without_delay),
		cmocka_unit_test(who_does_not_drain_in_time_is_killed_once),
		cmocka_unit_test(who_is_silent_is_killed_and_replaced),
		cmocka_unit_test(
		    nobody_is_blamed_for_a_supervisor_that_was_stopped),
		cmocka_unit_test(pings_come_several_times_in_a_hang_timeout),
		cmocka_unit_test(stop_drains_listeners_then_the_router),
		cmocka_unit_test(who_dies_while_the_node_stops_is_not_started),
		cmocka_unit_test(an_adopted_process_is_not_started_again),
		cmocka_unit_test(who_leaves_of_its_own_accord_has_its_time),
		cmocka_unit_test(a_failed_start_backs_off),
		cmocka_unit_test(
		    sockets_are_dealt_evenly_and_stay_where_they_are),
		cmocka_unit_test(who_is_full_gets_no_shared_socket),
		cmocka_unit_test(an_own_socket_is_nobody_elses),
		cmocka_unit_test(who_is_retired_ends_and_stays_away),
		cmocka_unit_test(
		    the_own_sockets_of_one_that_is_gone_are_anybodys),
		cmocka_unit_test(each_address_is_dealt_evenly),
		cmocka_unit_test(dealing_is_even_whatever_happens),
		cmocka_unit_test(lines_come_whole_however_they_arrive),
		cmocka_unit_test(a_line_without_end_is_cut),
		cmocka_unit_test(a_full_ring_drops_and_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * What a session-store does when a listener dies, without any process: the
 * store's own files, a log in a directory, frames made by hand. It must be right
 * however it is cut into slices. DESK_CLIENTS=500000 says how long the longest
 * turn was.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

int		store_main(int argc, char **argv);
#define main store_main
#include "../../cmd/mqttc-session-store/main.c"
#undef main

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../support/journal_dir.h"

enum { INC_A = 11, INC_B = 12, INC_A_NEXT = 13 };

static struct store	 st;
static struct conf	 conf;
static char		 dir[] = "/tmp/mqttc-desk-XXXXXX";
static size_t		 nclients = 3000;
static double		 longest_ms;

/* --- The world ------------------------------------------------------------ */

static struct proc_peer
listener(uint32_t instance, uint64_t incarnation, enum proc_state state)
{
	struct proc_peer p = {
		.kind = PROC_LISTENER, .instance = instance,
		.incarnation = incarnation, .state = state,
	};

	snprintf(p.name, sizeof(p.name), "listener.%u", instance);
	snprintf(p.endpoint, sizeof(p.endpoint), "ipc://%s/none", dir);
	return p;
}

/* Listener 0 in that incarnation, 0: it is down; and listener 1. */
static void
peers(uint64_t incarnation)
{
	struct proc_peer p[] = {
		listener(0, incarnation != 0 ? incarnation : INC_A,
		    incarnation != 0 ? PROC_READY : PROC_DOWN),
		listener(1, INC_B, PROC_READY),
	};

	on_peers(&st, p, NELEM(p));
}

static void
store_begin(void)
{
	static const struct route_hooks	none;
	struct bus_opts			o = {
		.node = "test@here", .name = "session_store.0",
		.incarnation = 1, .ctx = &st,
	};
	char				endpoint[64];

	memset(&st, 0, sizeof(st));
	st.dir.fd = st.dir.lock_fd = -1;
	st.loop = o.loop = ev_default_loop(0);
	st.conf = &conf;
	st.nshards = 1;
	st.name = (struct slice){ (const uint8_t *)"session_store.0", 15 };
	st.now_ms = clock_wall_ns() / 1000000;
	st.onward_tail = &st.onward_head;
	st.onward_waits_tail = &st.onward_waits;
	st.seed = 7;
	st.ready = true;
	msgid_init(&st.ids, 1, 2, clock_wall_ns());
	assert_int_equal(store_dir_open(&st.dir, dir, "session_store.0"), 0);
	assert_int_equal(retained_open(&st), 0);
	log_open(&st);
	desk_replayed(&st);
	onward_restore(&st);
	assert_int_equal(roster_open(&st), 0);
	snprintf(endpoint, sizeof(endpoint), "ipc://%s/store", dir);
	o.endpoint = endpoint;
	assert_int_equal(bus_open(&st.bus, &o), 0);
	route_fib_init(&st.fib, FIB_STORE, 0, 1, st.seed, &m_fib_evicted,
	    &m_dropped_memory);
	route_tell_init(&st.tell, st.bus, shard_index(st.state), 1, &none, &st,
	    &m_dropped_memory);
	groups_open(&st);
	assert_int_equal(far_open(&st), 0);
	ev_idle_init(&st.again, on_again);
	ev_idle_init(&telling, on_again);
	ev_idle_init(&serving, on_again);
	st.prepare.data = &st;
}

static void
store_end(void)
{
	assert_true(log_write(&st));
	ev_idle_stop(st.loop, &st.again);
	ev_idle_stop(st.loop, &telling);
	ev_idle_stop(st.loop, &serving);
	fini(&st);
}

static double
cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void
turn(void)
{
	double begun = cpu_ms(), took;

	st.now_ms = clock_wall_ns() / 1000000;
	on_turn(st.loop, &st.prepare, 0);
	took = cpu_ms() - begun;
	longest_ms = took > longest_ms ? took : longest_ms;
}

/* Until nobody has anything to do. */
static unsigned
turns(void)
{
	unsigned n = 0;

	do {
		turn();
		n++;
	} while (ev_is_active(&serving));
	return n;
}

static void
say(uint32_t from, uint64_t incarnation, const struct session_msg *e)
{
	static uint8_t	 buf[4096];
	struct wire_out	 w;
	char		 name[32];
	struct bus_frame f = { .kind = KIND_SESSION };

	snprintf(name, sizeof(name), "listener.%u", from);
	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(session_msg_put(&w, e), 0);
	f.from.name = name;
	f.from.incarnation = incarnation;
	f.body = buf;
	f.len = wire_out_len(&w);
	assert_int_equal(on_session(&st, &f), 0);
}

static struct slice
id_of(size_t i)
{
	static char	buf[32];
	int		n = snprintf(buf, sizeof(buf), "client-%zu", i);

	return (struct slice){ (const uint8_t *)buf, (size_t)n };
}

static struct session_msg
attach_of(size_t i, uint64_t serial, uint64_t time)
{
	return (struct session_msg){
		.kind = SESSION_ATTACH, .serial = serial, .client_id = id_of(i),
		.time = time, .version = 5, .receive_maximum = 10,
		.durable = true, .expiry_s = 3600, .opened = true,
	};
}

static void
connect_all(void)
{
	struct session_msg	e;
	size_t			i;

	for (i = 0; i < nclients; i++) {
		e = attach_of(i, i + 1, 1);
		say(0, INC_A, &e);
		if (i % 10000 == 9999)
			turns();
	}
	turns();
	assert_int_equal(desk_count(&st), nclients);
}

/* --- What is seen of it --------------------------------------------------- */

static struct session *
session_of(size_t i)
{
	struct slice id = id_of(i);

	return shard_find(st.state, id.data, id.len);
}

/* The log: how often a session was closed. */
struct closes {
	size_t	n;
	uint8_t	*by_handle;
	size_t	max;
};

static int
count_close(void *ctx, uint64_t pos UNUSED, unsigned type UNUSED,
    const void *data, size_t len)
{
	struct closes	*c = ctx;
	struct op	 o;

	if (op_get(&o, data, len) == 0 && o.kind == STORE_CLOSE) {
		c->n++;
		assert_true(o.handle < c->max);
		c->by_handle[o.handle]++;
	}
	return 0;
}

/* How many connections were closed, each how often at most. */
static size_t
closed(unsigned *most)
{
	struct closes		 c = { .max = 4 * nclients + 64 };
	struct journal_opts	 o = {
		.segment_bytes = conf.session_store_segment_size, .salt = 7,
	};
	struct journal		*j;
	char			 path[128];
	size_t			 i;

	snprintf(path, sizeof(path), "%s/session_store.0", dir);
	c.by_handle = calloc(1, c.max);
	assert_non_null(c.by_handle);
	assert_int_equal(journal_open(&j, path, &o), 0);
	assert_int_equal(journal_replay(j, 0, count_close, NULL, &c), 0);
	journal_close(&j);
	for (*most = 0, i = 0; i < c.max; i++)
		*most = MAX(*most, c.by_handle[i]);
	free(c.by_handle);
	return c.n;
}

static size_t
connected(uint32_t at)
{
	size_t i, n = 0;

	for (i = 0; i < nclients; i++)
		n += session_of(i)->connected &&
		    session_here(session_of(i))->listener == at;
	return n;
}

/* --- Tests ----------------------------------------------------------------- */

static int
setup(void **state UNUSED)
{
	strcpy(strrchr(dir, '-'), "-XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	store_begin();
	peers(INC_A);
	connect_all();
	longest_ms = 0;
	return 0;
}

static int
teardown(void **state UNUSED)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/session_store.0", dir);
	dir_clear(path);
	rmdir(path);
	dir_clear(dir);
	rmdir(dir);
	return 0;
}

static void
each_place_of_a_dead_listener_is_closed_once(void **state UNUSED)
{
	unsigned	most, n;
	double		begun = cpu_ms(), peers_ms;

	peers(0);
	peers_ms = cpu_ms() - begun;
	n = turns();
	if (getenv("DESK_CLIENTS") != NULL)
		printf("%zu clients: PEERS %.2f ms, %u turns, the longest "
		    "%.2f ms\n", nclients, peers_ms, n, longest_ms);
	assert_int_equal(connected(0), 0);
	assert_int_equal(desk_count(&st), 0);
	store_end();
	assert_int_equal(closed(&most), nclients);
	assert_int_equal(most, 1);
}

static void
who_is_back_before_its_place_was_closed_has_it(void **state UNUSED)
{
	struct session_msg	e;
	size_t			i, back = 0;
	unsigned		most;

	peers(INC_A_NEXT);
	/* Serials begin anew: they name nobody of before. */
	for (i = 0; i < nclients; i += 7, back++) {
		e = attach_of(i, i + 1, 2);
		say(i % 2, i % 2 ? INC_B : INC_A_NEXT, &e);
		if (i % 70 == 0)
			turn();
		assert_true(session_of(i)->connected);
	}
	turns();
	assert_int_equal(desk_count(&st), back);
	assert_int_equal(connected(0) + connected(1), back);
	for (i = 0; i < nclients; i += 7)
		assert_int_equal(session_here(session_of(i))->incarnation,
		    i % 2 ? INC_B : INC_A_NEXT);
	store_end();
	assert_int_equal(closed(&most), nclients);
	assert_int_equal(most, 1);
}

static void
a_frame_of_the_next_one_says_nothing_of_those_before(void **state UNUSED)
{
	struct session_msg	e = {
		.kind = SESSION_DETACH, .serial = 1, .client_id = id_of(0),
		.has_expiry = true, .expiry_s = 0,
	};

	peers(INC_A_NEXT);
	say(0, INC_A_NEXT, &e);		/* would end the session */
	assert_non_null(session_of(0));
	assert_false(session_of(0)->connected);
	turns();
	assert_int_equal(connected(0), 0);
	store_end();
}

static void
a_start_finds_what_was_not_closed(void **state UNUSED)
{
	unsigned most;

	peers(0);
	turn();				/* some, and then it ends */
	store_end();
	assert_true(closed(&most) <= nclients);

	store_begin();
	assert_int_equal(desk_count(&st), connected(0));
	peers(INC_A_NEXT);
	turns();
	assert_int_equal(connected(0), 0);
	assert_int_equal(desk_count(&st), 0);
	store_end();
	assert_int_equal(closed(&most), nclients);
	assert_int_equal(most, 1);
}

static void
those_a_listener_did_not_name_are_not_there(void **state UNUSED)
{
	struct session_msg	e;
	size_t			i, named = 0;

	store_end();
	store_begin();			/* the listener lived on */
	peers(INC_A);
	turns();
	assert_int_equal(connected(0), nclients);
	for (i = 0; i < nclients; i += 3, named++) {
		e = attach_of(i, i + 1, 1);
		e.opened = e.durable = false;
		e.present = true;
		e.handle = session_of(i)->handle;
		say(0, INC_A, &e);
	}
	turns();
	assert_int_equal(connected(0), nclients);
	e = (struct session_msg){ .kind = SESSION_ATTACH };
	say(0, INC_A, &e);
	/* One that is wanted now is not waited for. */
	e = attach_of(1, 5, 2);
	say(1, INC_B, &e);
	assert_int_equal(session_here(session_of(1))->listener, 1);
	turns();
	assert_int_equal(connected(0), named);
	assert_int_equal(connected(1), 1);
	store_end();
}

static void
two_that_die_behind_each_other(void **state UNUSED)
{
	struct session_msg	e;
	struct proc_peer	none;
	unsigned		most;
	size_t			i;

	for (i = 0; i < nclients; i += 2) {	/* half are elsewhere now */
		e = attach_of(i, i + 1, 2);
		e.clean_start = true;
		say(1, INC_B, &e);
	}
	turns();
	peers(0);
	turn();
	none = listener(1, INC_B, PROC_DOWN);
	on_peers(&st, &none, 1);
	turns();
	assert_int_equal(connected(0) + connected(1), 0);
	assert_int_equal(desk_count(&st), 0);
	store_end();
	(void)closed(&most);
	assert_int_equal(most, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest all[] = {
		T(each_place_of_a_dead_listener_is_closed_once),
		T(who_is_back_before_its_place_was_closed_has_it),
		T(a_frame_of_the_next_one_says_nothing_of_those_before),
		T(a_start_finds_what_was_not_closed),
		T(those_a_listener_did_not_name_are_not_there),
		T(two_that_die_behind_each_other),
	};
	const struct CMUnitTest one[] = {
		T(each_place_of_a_dead_listener_is_closed_once),
	};

	log_init("test", LOG_L_ERROR);
	conf_init(&conf);
	conf.session_store_checkpoint_interval_ms = UINT32_MAX;
	metric_register((struct metric **)(uintptr_t)metrics, NELEM(metrics));
	if (getenv("DESK_CLIENTS") != NULL) {
		nclients = strtoul(getenv("DESK_CLIENTS"), NULL, 0);
		return cmocka_run_group_tests(one, NULL, NULL);
	}
	return cmocka_run_group_tests(all, NULL, NULL);
}

/*
 * lib/route against a real index written here, and (telling) a real bus with a
 * router that is played.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <ev.h>
#include <pb_encode.h>
#include <sys/mman.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/route.h"
#include "proto/route.pb.h"
#include "rib/rib.h"
#include "route/match.h"
#include "route/tell.h"
#include "topic/group.h"

static struct metric	m_evicted = METRIC_COUNTER("evicted", "");
static struct metric	m_short = METRIC_COUNTER("short", "");
static struct metric *const rows[] = { &m_evicted, &m_short };

/* --- The index as it is read ---------------------------------------------- */

struct world {
	struct shm_segment	 data, epochs;
	struct fib_writer	*fib;
	struct rib		*rib;
	struct route_fib	 rf;
	uint32_t		 dests[ROUTE_LISTENERS_MAX];
	struct routes_found	 r;
};

static void
publish(struct world *w, uint64_t generation)
{
	struct fib_writer_opts	fo = { .generation = generation };
	struct rib_opts		ro = { .anchor_shapes = 8 };
	struct proc_segment	s = { .kind = PROC_SEGMENT_FIB, .nfds = 2,
				      .generation = generation };

	w->data.fd = w->epochs.fd = -1;
	assert_int_equal(shm_create(&w->data, "data", FIB_LEN_MIN,
	    SHM_PRIVATE_WRITE), 0);
	assert_int_equal(shm_create(&w->epochs, "epochs", FIB_EPOCHS_LEN,
	    SHM_SHARED), 0);
	fo.data = w->data.base;
	fo.len = w->data.len;
	fo.epochs = w->epochs.base;
	fo.epochs_len = w->epochs.len;
	fo.grow = shm_grow_cb;
	fo.grow_ctx = &w->data;
	assert_int_equal(fib_writer_open(&w->fib, &fo), 0);
	assert_int_equal(rib_new(&w->rib, &ro), 0);
	assert_int_equal(rib_attach(w->rib, w->fib), 0);
	s.fds[0] = w->data.fd;
	s.fds[1] = w->epochs.fd;
	route_fib_segment(&w->rf, &s);
}

static void
forget(struct world *w)
{
	rib_detach(w->rib, w->fib);
	rib_free(&w->rib);
	fib_writer_close(&w->fib);
	shm_close(&w->epochs);
	shm_close(&w->data);
}

static struct world *
world_new(enum fib_kind kind, uint32_t self)
{
	struct world	*w = calloc(1, sizeof(*w));

	assert_non_null(w);
	route_fib_init(&w->rf, kind, self, 77, 5, &m_evicted, &m_short);
	w->r.dests = w->dests;
	return w;
}

static void
world_free(struct world *w)
{
	route_fib_fini(&w->rf);
	forget(w);
	free(w);
}

static unsigned
owner(struct world *w, enum fib_kind kind, uint32_t instance)
{
	struct fib_slot	d = { .kind = kind, .state = FIB_UP,
			      .instance = instance, .incarnation = 1 };
	unsigned	o;

	assert_int_equal(rib_owner_open(w->rib, &d, &o), 0);
	return o;
}

static void
want(struct world *w, unsigned o, const char *filter)
{
	assert_int_equal(rib_add(w->rib, o, filter, strlen(filter), 1), 0);
}

static void
match(struct world *w, const char *topic)
{
	route_match(&w->rf, topic, strlen(topic), &w->r);
}

static void
nobody_without_an_index(void **state UNUSED)
{
	struct world	*w = world_new(FIB_LISTENER, 0);

	w->r.stores = w->r.ndests = w->r.ngroups = 9;
	match(w, "a");
	assert_int_equal(w->r.ndests, 0);
	assert_int_equal(w->r.ngroups, 0);
	assert_int_equal(w->r.stores, 0);
	assert_false(route_fib_turn(&w->rf));
	publish(w, 1);
	match(w, "a");			/* not before the turn begins */
	assert_null(w->rf.now);
	assert_true(route_fib_turn(&w->rf));
	assert_false(route_fib_turn(&w->rf));
	match(w, "a");
	assert_int_equal(w->r.ndests, 0);
	world_free(w);
}

/* Twice each: looked up, and then kept. */
static void
stores_are_told_apart_from_listeners(void **state UNUSED)
{
	struct world	*w = world_new(FIB_LISTENER, 3);
	unsigned	 l3, l5, s3, s63, twice;

	publish(w, 1);
	assert_true(route_fib_turn(&w->rf));
	l3 = owner(w, FIB_LISTENER, 3);
	l5 = owner(w, FIB_LISTENER, 5);
	s3 = owner(w, FIB_STORE, 3);
	s63 = owner(w, FIB_STORE, 63);
	want(w, l3, "a");
	want(w, l5, "a");
	want(w, s3, "a");
	want(w, s63, "#");
	for (twice = 0; twice < 2; twice++) {
		match(w, "a");
		assert_int_equal(w->r.ndests, 1);	/* ours not */
		assert_int_equal(w->r.dests[0], 5);
		assert_int_equal(w->r.stores, UINT64_C(1) << 3 |
		    UINT64_C(1) << 63);
		match(w, "b");
		assert_int_equal(w->r.ndests, 0);
		assert_int_equal(w->r.stores, UINT64_C(1) << 63);
	}
	assert_int_equal(w->rf.misses, 2);
	/* A listener that is down gets nothing, a store does. */
	rib_owner_set(w->rib, l5, FIB_DOWN, 1);
	rib_owner_set(w->rib, s3, FIB_DOWN, 1);
	rib_owner_set(w->rib, s63, FIB_DOWN, 1);
	want(w, l3, "c");		/* the version rises */
	match(w, "a");
	assert_int_equal(w->r.ndests, 0);
	assert_int_equal(w->r.stores, UINT64_C(1) << 3 | UINT64_C(1) << 63);
	world_free(w);
}

static void
a_store_leaves_itself_out_and_no_listener(void **state UNUSED)
{
	struct world	*w = world_new(FIB_STORE, 3);
	unsigned	 twice;

	publish(w, 1);
	assert_true(route_fib_turn(&w->rf));
	want(w, owner(w, FIB_LISTENER, 3), "a");
	want(w, owner(w, FIB_STORE, 3), "a");
	want(w, owner(w, FIB_STORE, 4), "a");
	for (twice = 0; twice < 2; twice++) {
		match(w, "a");
		assert_int_equal(w->r.ndests, 1);
		assert_int_equal(w->r.dests[0], 3);
		assert_int_equal(w->r.stores, UINT64_C(1) << 4);
	}
	world_free(w);
}

static void
groups_say_which_stores_have_members(void **state UNUSED)
{
	struct world	*w = world_new(FIB_LISTENER, 0);
	unsigned	 l, s, twice, i;
	struct group_id	 g = group_id_of("g", 1, "t", 1);

	publish(w, 1);
	assert_true(route_fib_turn(&w->rf));
	l = owner(w, FIB_LISTENER, 7);
	s = owner(w, FIB_STORE, 2);
	assert_int_equal(rib_group(w->rib, s, "t", 1, "g", 1, 3), 0);
	for (twice = 0; twice < 2; twice++) {
		match(w, "t");
		assert_int_equal(w->r.ngroups, 1);
		assert_int_equal(w->r.groups[0].nslots, 1);
		assert_int_equal(w->r.groups[0].slots[0].instance,
		    ROUTE_LISTENERS_MAX + 2);
		assert_int_equal(w->r.groups[0].slots[0].members, 3);
		assert_int_equal(w->r.stores, 0);	/* not for itself */
	}
	assert_int_equal(rib_group(w->rib, l, "t", 1, "g", 1, 2), 0);
	for (twice = 0; twice < 2; twice++) {
		match(w, "t");
		assert_int_equal(w->r.ngroups, 1);
		assert_true(group_id_eq(w->r.groups[0].id, g));
		assert_int_equal(w->r.groups[0].nslots, 2);
		for (i = 0; w->r.groups[0].slots[i].instance != 7; i++)
			assert_true(i < 2);
		assert_int_equal(w->r.groups[0].slots[i].members, 2);
	}
	world_free(w);
}

static void
a_batch_keeps_what_single_lookups_would(void **state UNUSED)
{
	struct world	*w = world_new(FIB_LISTENER, 0);
	struct slice	 topics[FIB_BATCH];
	char		 text[FIB_BATCH][16];
	unsigned	 l = 0, s;
	size_t		 i;

	publish(w, 1);
	assert_true(route_fib_turn(&w->rf));
	l = owner(w, FIB_LISTENER, 1);
	s = owner(w, FIB_STORE, 0);
	for (i = 0; i < FIB_BATCH; i++) {
		snprintf(text[i], sizeof(text[i]), "t/%zu", i);
		topics[i] = (struct slice){ (uint8_t *)text[i],
		    strlen(text[i]) };
		want(w, i % 2 ? l : s, text[i]);
	}
	route_match_batch(&w->rf, topics, FIB_BATCH);
	for (i = 0; i < FIB_BATCH; i++) {
		match(w, text[i]);
		assert_int_equal(w->r.ndests, i % 2);
		assert_int_equal(w->r.stores, !(i % 2));
	}
	assert_true(w->rf.misses < FIB_BATCH / 2);	/* cells collide */
	world_free(w);
}

/* Older generations than ours are none of ours, nor what is no index. */
static void
the_newest_generation_is_taken(void **state UNUSED)
{
	struct world		*w = world_new(FIB_LISTENER, 0), old;
	struct proc_segment	 s = { .kind = PROC_SEGMENT_FIB, .nfds = 2,
				       .generation = 9 };
	int			 fd;

	publish(w, 5);
	want(w, owner(w, FIB_LISTENER, 1), "a");
	assert_true(route_fib_turn(&w->rf));
	match(w, "a");
	assert_int_equal(w->r.ndests, 1);
	fd = memfd_create("none", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)FIB_LEN_MIN), 0);
	s.fds[0] = s.fds[1] = fd;
	route_fib_segment(&w->rf, &s);		/* refused */
	close(fd);
	assert_false(route_fib_turn(&w->rf));
	old = *w;
	publish(w, 4);
	assert_false(route_fib_turn(&w->rf));
	forget(w);
	publish(w, 6);
	assert_true(route_fib_turn(&w->rf));
	assert_int_equal(w->rf.now->generation, 6);
	match(w, "a");				/* what was kept is void */
	assert_int_equal(w->r.ndests, 0);
	old.rf = (struct route_fib){ .kind = 0 };
	forget(&old);
	world_free(w);
}

/* --- What is told --------------------------------------------------------- */

struct node {
	struct ev_loop	*loop;
	char		 dir[64];
	struct bus	*own, *router;
	struct index	*index;
	struct index_owner subs;
	struct route_tell tell;
	struct bus_addr	 addr;
	char		 heard[4096];		/* "b1 +a -b e" */
	uint64_t	 seq, rebased;
	unsigned	 gone, acked;
	bool		 waited;
};

static int
on_routes(void *ctx, struct bus_frame *f)
{
	struct node		*n = ctx;
	struct routes		 m;
	struct route_row	 row;
	bool			 add;
	size_t			 at = strlen(n->heard);

	assert_int_equal(routes_decode(&m, f->body, f->len), 0);
	assert_int_equal(m.router_incarnation, 20);
	assert_int_equal(m.seq, n->seq + 1);
	n->seq = m.seq;
	n->addr = f->from.addr;
	if (m.snapshot_begin)
		at += (size_t)snprintf(n->heard + at, sizeof(n->heard) - at,
		    "b ");
	while (routes_next(&m, &row, &add) == 1) {
		at += (size_t)snprintf(n->heard + at, sizeof(n->heard) - at,
		    "%c%.*s", add ? '+' : '-', (int)row.filter.len,
		    (const char *)row.filter.data);
		if (row.share.len > 0)
			at += (size_t)snprintf(n->heard + at,
			    sizeof(n->heard) - at, "@%.*s=%u",
			    (int)row.share.len, (const char *)row.share.data,
			    row.members);
		at += (size_t)snprintf(n->heard + at, sizeof(n->heard) - at,
		    " ");
	}
	snprintf(n->heard + at, sizeof(n->heard) - at, "%s",
	    m.snapshot_end ? "e ." : ".");
	return 0;
}

static int
on_ack(void *ctx, struct bus_frame *f)
{
	struct node *n = ctx;

	return route_tell_ack(&n->tell, f);
}

static void
on_up(void *ctx, struct bus_peer *p UNUSED)
{
	struct node *n = ctx;

	route_tell_up(&n->tell);
}

static void
on_gone(void *ctx, struct index_filter *f UNUSED)
{
	((struct node *)ctx)->gone++;
}

static bool
is_waited(void *ctx)
{
	return ((struct node *)ctx)->waited;
}

static void
on_rebase(void *ctx, uint64_t seq)
{
	((struct node *)ctx)->rebased = seq;
}

static void
on_acked(void *ctx)
{
	((struct node *)ctx)->acked++;
}

static const struct bus_rule	router_rules[] = {
	{ KIND_ROUTES, PEER_OWNERS, 0, on_routes },
};
static const struct bus_rule	own_rules[] = {
	{ KIND_ROUTE_ACK, PEER_ROUTER, 0, on_ack },
};
static const struct bus_events	own_events = { .up = on_up };
static const struct route_hooks	hooks = {
	.gone = on_gone, .waited = is_waited, .rebase = on_rebase,
	.acked = on_acked,
};

/* Go on until the router has heard so much. */
static void
hear(struct node *n, const char *what)
{
	while (strcmp(n->heard, what) != 0) {
		if (strlen(n->heard) >= strlen(what))
			fail_msg("heard '%s', not '%s'", n->heard, what);
		ev_run(n->loop, EVRUN_ONCE);
	}
	n->heard[0] = '\0';
}

static struct node *
node_new(void)
{
	struct node		*n = calloc(1, sizeof(*n));
	struct index_limits	 lim = { 32, 1024 };
	struct bus_opts		 o = { .node = "n", .ctx = n };

	assert_non_null(n);
	snprintf(n->dir, sizeof(n->dir), "/tmp/mqttc-route-XXXXXX");
	assert_non_null(mkdtemp(n->dir));
	assert_int_equal(chdir(n->dir), 0);
	n->loop = ev_loop_new(EVFLAG_NOENV);
	o.loop = n->loop;
	o.name = "router";
	o.incarnation = 20;
	o.endpoint = "ipc://router.20.ipc";
	o.accepts = router_rules;
	o.naccepts = NELEM(router_rules);
	assert_int_equal(bus_open(&n->router, &o), 0);
	o.name = "session_store.0";
	o.incarnation = 30;
	o.endpoint = "ipc://session_store.0.30.ipc";
	o.accepts = own_rules;
	o.naccepts = NELEM(own_rules);
	o.events = &own_events;
	assert_int_equal(bus_open(&n->own, &o), 0);
	assert_non_null(n->index = index_new(1, &lim));
	route_tell_init(&n->tell, n->own, n->index, 30, &hooks, n, &m_short);
	return n;
}

static void
node_free(struct node *n)
{
	struct index_filter	*f;

	route_tell_router(&n->tell, &(struct proc_peer){ .name = "router",
	    .incarnation = 20, .state = PROC_DOWN });
	while (index_unsubscribe_one(n->index, &n->subs, &f) == 0)
		route_tell_changed(&n->tell, f);
	route_tell_flush(&n->tell);
	assert_int_equal(index_nfilters(n->index), 0);
	route_tell_fini(&n->tell);
	bus_close(&n->own);
	bus_close(&n->router);
	index_free(&n->index);
	ev_loop_destroy(n->loop);
	unlink("router.20.ipc");
	unlink("session_store.0.30.ipc");
	assert_int_equal(chdir("/"), 0);
	rmdir(n->dir);
	free(n);
}

static void
subscribe(struct node *n, const char *filter)
{
	struct index_sub	 opts = { .qos = 1 };
	struct index_filter	*f;

	assert_int_equal(index_subscribe(n->index, &n->subs, filter,
	    strlen(filter), &opts, &f), 1);
	route_tell_changed(&n->tell, f);
}

static void
unsubscribe(struct node *n, const char *filter)
{
	struct index_filter	*f;

	assert_int_equal(index_unsubscribe(n->index, &n->subs, filter,
	    strlen(filter), &f), 0);
	route_tell_changed(&n->tell, f);
}

static void
router_here(struct node *n)
{
	struct proc_peer	p = { .name = "router", .kind = PROC_ROUTER,
				      .incarnation = 20, .state = PROC_READY,
				      .endpoint = "ipc://router.20.ipc" };

	route_tell_router(&n->tell, &p);
}

static void
router_says(struct node *n, uint64_t incarnation, uint64_t seq, bool resync)
{
	RouteAck	m = { .incarnation = incarnation, .seq = seq,
			      .resync = resync };
	uint8_t		buf[RouteAck_size];
	pb_ostream_t	out = pb_ostream_from_buffer(buf, sizeof(buf));

	assert_true(pb_encode(&out, RouteAck_fields, &m));
	assert_int_equal(bus_reply(n->router, &n->addr, KIND_ROUTE_ACK, buf,
	    out.bytes_written), 0);
}

static void
everything_is_told_then_what_changes(void **state UNUSED)
{
	struct node	*n = node_new();

	subscribe(n, "a");
	subscribe(n, "b");
	route_tell_flush(&n->tell);		/* to nobody */
	assert_int_equal(n->tell.seq, 0);
	unsubscribe(n, "b");
	route_tell_flush(&n->tell);
	assert_int_equal(n->gone, 1);
	assert_false(route_tell_is_known(&n->tell));
	router_here(n);
	hear(n, "b +a e .");
	assert_int_equal(n->rebased, 1);
	assert_false(route_tell_is_known(&n->tell));
	router_says(n, 29, 1, false);		/* to one before us */
	router_says(n, 30, 7, false);		/* of what was never sent */
	router_says(n, 30, 1, false);
	while (n->acked == 0)
		ev_run(n->loop, EVRUN_ONCE);
	assert_int_equal(n->tell.acked, 1);
	assert_true(route_tell_is_known(&n->tell));
	subscribe(n, "c");
	assert_false(route_tell_is_known(&n->tell));
	unsubscribe(n, "a");
	route_tell_flush(&n->tell);
	hear(n, "+c -a .");
	assert_int_equal(n->gone, 2);
	/* Come and gone: a number only if somebody waits for it. */
	subscribe(n, "d");
	unsubscribe(n, "d");
	route_tell_flush(&n->tell);
	assert_int_equal(n->tell.seq, 2);
	subscribe(n, "d");
	unsubscribe(n, "d");
	n->waited = true;
	route_tell_flush(&n->tell);
	hear(n, ".");
	assert_int_equal(n->tell.seq, 3);
	node_free(n);
}

static void
a_router_that_lost_something_gets_everything(void **state UNUSED)
{
	struct node	*n = node_new();

	router_here(n);
	hear(n, "b e .");
	subscribe(n, "a");
	route_tell_flush(&n->tell);
	hear(n, "+a .");
	router_says(n, 30, 1, true);
	hear(n, "b +a e .");
	assert_int_equal(n->rebased, 3);
	node_free(n);
}

static void
of_a_group_the_count_is_told(void **state UNUSED)
{
	struct node		*n = node_new();
	struct index_sub	 opts = { .qos = 1 };
	struct index_owner	 other = { .n = 0 };
	struct index_filter	*f;
	struct slice		 name = { (const uint8_t *)"team", 4 };

	router_here(n);
	hear(n, "b e .");
	assert_int_equal(index_share(n->index, &n->subs, &name, "t", 1, &opts,
	    &f), 1);
	route_tell_changed(&n->tell, f);
	assert_int_equal(index_share(n->index, &other, &name, "t", 1, &opts,
	    &f), 1);
	route_tell_changed(&n->tell, f);
	route_tell_flush(&n->tell);
	hear(n, "+t@team=2 .");
	assert_int_equal(index_unsubscribe_one(n->index, &other, &f), 0);
	route_tell_changed(&n->tell, f);
	route_tell_flush(&n->tell);
	hear(n, "+t@team=1 .");
	free(other.links);
	node_free(n);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nobody_without_an_index),
		cmocka_unit_test(stores_are_told_apart_from_listeners),
		cmocka_unit_test(a_store_leaves_itself_out_and_no_listener),
		cmocka_unit_test(groups_say_which_stores_have_members),
		cmocka_unit_test(a_batch_keeps_what_single_lookups_would),
		cmocka_unit_test(the_newest_generation_is_taken),
		cmocka_unit_test(everything_is_told_then_what_changes),
		cmocka_unit_test(a_router_that_lost_something_gets_everything),
		cmocka_unit_test(of_a_group_the_count_is_told),
	};

	metric_register(rows, NELEM(rows));
	return cmocka_run_group_tests_name("route", tests, NULL, NULL);
}

/*
 * mqttc-session-store: what outlives a connection. One loop; see store.h for
 * who does what.
 */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

enum {
	READY_WITHOUT_ROUTER_MS = 2000,
	TICK_MS		= 250
};

struct metric m_queries = METRIC_COUNTER("store_queries_total",
    "Pages answered to tools");
static struct metric m_listeners = METRIC_GAUGE("store_listeners",
    "Listeners that run, as this store sees it");

static struct metric m_fib_evicted = METRIC_COUNTER("fib_evictions_total",
    "Lookups begun anew because they held the router up");
static struct metric m_short = METRIC_COUNTER("dropped_memory_total",
    "What was not done because there was no memory");

static struct metric *const metrics[] = {
	&m_queries, &m_listeners, &m_fib_evicted, &m_short,
};

static uint64_t
now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* --- The turn ------------------------------------------------------------- */

/* What we have is in the index of everybody, or there is nobody to say so. */
static void
ready_check(struct store *st)
{
	if (st->ready || st->draining || (!route_tell_is_known(&st->tell) &&
	    now_ms() - st->started_ms < READY_WITHOUT_ROUTER_MS))
		return;
	st->ready = true;
	log_info("store.open", "shard=%" PRIu32 " shards=%" PRIu32
	    " dir=%s after_ms=%" PRIu64, st->shard, st->nshards,
	    log_quote(st->dir.path), now_ms() - st->started_ms);
	proc_ready(st->proc);
}

/* The end of a turn and the beginning of the next. */
static void
on_turn(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct store	*st = w->data;

	(void)loop;
	route_tell_flush(&st->tell);
	if (route_fib_turn(&st->fib))
		route_fib_confirm(&st->fib, st->tell.router);
	ready_check(st);
}

static void
on_tick(EV_P_ ev_timer *w UNUSED, int revents UNUSED)
{
	(void)loop;		/* on_turn follows, and looks at the clock */
}

/* --- Who is there --------------------------------------------------------- */

static void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	struct store	*st = ctx;
	size_t		 i;

	st->nlisteners = 0;
	for (i = 0; i < n; i++) {
		if (peers[i].kind == PROC_ROUTER)
			route_tell_router(&st->tell, &peers[i]);
		else if (peers[i].kind == PROC_LISTENER)
			st->nlisteners += peers[i].state != PROC_DOWN;
	}
	metric_set(&m_listeners, st->nlisteners);
}

static void
on_segment(void *ctx, const struct proc_segment *s)
{
	struct store	*st = ctx;

	route_fib_segment(&st->fib, s);
}

static void
on_credit(void *ctx, struct bus_peer *p)
{
	struct store	*st = ctx;

	if (p == st->tell.router)
		route_tell_room(&st->tell);
}

static void
on_up(void *ctx, struct bus_peer *p)
{
	struct store	*st = ctx;

	if (p != st->tell.router)
		return;
	route_fib_confirm(&st->fib, st->tell.router);
	route_tell_up(&st->tell);
}

static void
on_lost(void *ctx, struct bus_peer *p)
{
	struct store	*st = ctx;

	if (p == st->tell.router)
		route_tell_lost(&st->tell);
}

static int
on_route_ack(void *ctx, struct bus_frame *f)
{
	struct store	*st = ctx;

	return route_tell_ack(&st->tell, f);
}

/* --- What the supervisor asks for ----------------------------------------- */

static void
on_drain(void *ctx)
{
	struct store	*st = ctx;

	st->draining = true;
	log_info("store.drain", "shard=%" PRIu32, st->shard);
	bus_flush(st->bus);
	proc_exit(st->proc, 0);
}

static void
on_reload(void *ctx, const struct conf *new_conf)
{
	struct store	*st = ctx;

	st->conf = new_conf;
}

static void
on_summary(void *ctx)
{
	struct store	*st = ctx;

	log_info("store.summary", "shard=%" PRIu32 " shards=%" PRIu32
	    " listeners=%" PRIu32 " router=%s filters=%zu", st->shard,
	    st->nshards, st->nlisteners, st->tell.router != NULL ? "yes" :
	    "no", index_nfilters(st->index));
}

/* --- Wiring --------------------------------------------------------------- */

static const struct bus_rule store_accepts[] = {
	/* kind			from		while	handler */
	{ KIND_ROUTE_ACK,	PEER_ROUTER,	0,	on_route_ack },
	{ KIND_QUERY,		PEER_TOOL,	0,	on_query },
};

static const struct bus_events store_events = {
	.credit = on_credit,
	.up = on_up,
	.lost = on_lost,
};

static const struct route_hooks store_routes = { .gone = NULL };

static const struct proc_opts store_opts = {
	.program = "mqttc-session-store",
	.kind = PROC_SESSION_STORE,
	.wants = PROC_WANT_PEERS | PROC_WANT_FIB,
};

static const struct proc_handlers store_handlers = {
	.peers = on_peers,
	.segment = on_segment,
	.drain = on_drain,
	.reload = on_reload,
	.summary = on_summary,
};

static void
dir_open(struct store *st)
{
	int	rc = store_dir_open(&st->dir, st->conf->node_data_dir,
	    proc_name(st->proc));

	if (rc == ERR_EXISTS)		/* it may end: the supervisor retries */
		fatal(EX_TEMPFAIL, "store.locked", "'%s' is in use by another "
		    "process", st->dir.path);
	if (rc < 0)
		fatal(EX_CANTCREAT, "store.dir", "cannot work in '%s': %s",
		    st->dir.path, err_str(rc));
}

static int
store_bus_open(struct store *st)
{
	struct bus_opts	 o = {
		.loop = st->loop,
		.node = proc_node(st->proc),
		.name = proc_name(st->proc),
		.incarnation = proc_incarnation(st->proc),
		.endpoint = proc_endpoint(st->proc),
		.accepts = store_accepts,
		.naccepts = NELEM(store_accepts),
		.events = &store_events,
		.ctx = st,
		.credit = st->conf->bus_credit,
		.stream_max = st->conf->bus_stream_max,
	};

	return bus_open(&st->bus, &o);
}

static void
routes_open(struct store *st)
{
	struct index_limits	lim = { UINT32_MAX, UINT32_MAX };
	uint64_t		seed, self = proc_incarnation(st->proc);

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		fatal(EX_OSERR, "store.random", "no random numbers");
	if ((st->index = index_new(seed, &lim)) == NULL)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	route_tell_init(&st->tell, st->bus, st->index, self, &store_routes,
	    st, &m_short);
	route_fib_init(&st->fib, FIB_STORE, st->shard, self, seed,
	    &m_fib_evicted, &m_short);
}

static void
init(struct store *st)
{
	int	rc;

	st->loop = proc_loop(st->proc);
	st->conf = proc_conf(st->proc);
	st->shard = proc_instance(st->proc);
	st->nshards = st->conf->session_store_processes;
	st->started_ms = now_ms();
	/* The supervisor has no such row; by hand it is possible. */
	if (st->shard >= st->nshards)
		fatal(EX_USAGE, "store.shard", "%s: there are "
		    "session_store.processes = %" PRIu32, proc_name(st->proc),
		    st->nshards);
	metric_register(metrics, NELEM(metrics));
	dir_open(st);
	if ((rc = store_bus_open(st)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind '%s': %s",
		    proc_endpoint(st->proc), err_str(rc));
	routes_open(st);
	ev_prepare_init(&st->prepare, on_turn);
	ev_timer_init(&st->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	st->prepare.data = st->tick.data = st;
	ev_prepare_start(st->loop, &st->prepare);
	ev_timer_start(st->loop, &st->tick);
}

static void
fini(struct store *st)
{
	route_tell_fini(&st->tell);
	bus_close(&st->bus);
	route_fib_fini(&st->fib);
	index_free(&st->index);
	store_dir_close(&st->dir);
}

int
main(int argc, char **argv)
{
	static struct store	st = { .dir = { .fd = -1, .lock_fd = -1 } };
	int			rc;

	if ((rc = proc_start(&st.proc, argc, argv, &store_opts,
	    &store_handlers, &st)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	init(&st);
	rc = proc_run(st.proc);
	fini(&st);
	proc_free(&st.proc);
	return rc;
}

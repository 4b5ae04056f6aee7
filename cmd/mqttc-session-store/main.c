/*
 * mqttc-session-store: what outlives a connection. One loop; see store.h for
 * who does what.
 */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

struct metric m_queries = METRIC_COUNTER("store_queries_total",
    "Pages answered to tools");
static struct metric m_listeners = METRIC_GAUGE("store_listeners",
    "Listeners that run, as this store sees it");

static struct metric *const metrics[] = { &m_queries, &m_listeners };

/* --- Who is there --------------------------------------------------------- */

static void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	struct store	*st = ctx;
	size_t		 i;

	st->nlisteners = 0;
	st->router = false;
	for (i = 0; i < n; i++) {
		if (peers[i].state == PROC_DOWN)
			continue;
		st->nlisteners += peers[i].kind == PROC_LISTENER;
		st->router |= peers[i].kind == PROC_ROUTER;
	}
	metric_set(&m_listeners, st->nlisteners);
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
	    " listeners=%" PRIu32 " router=%s", st->shard, st->nshards,
	    st->nlisteners, st->router ? "yes" : "no");
}

/* --- Wiring ---------------------------------------------------------------- */

static const struct bus_rule store_accepts[] = {
	/* kind			from		while	handler */
	{ KIND_QUERY,		PEER_TOOL,	0,	on_query },
};

static const struct proc_opts store_opts = {
	.program = "mqttc-session-store",
	.kind = PROC_SESSION_STORE,
	.wants = PROC_WANT_PEERS,
};

static const struct proc_handlers store_handlers = {
	.peers = on_peers,
	.drain = on_drain,
	.reload = on_reload,
	.summary = on_summary,
};

static uint64_t
now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

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
		.ctx = st,
		.credit = st->conf->bus_credit,
		.stream_max = st->conf->bus_stream_max,
	};

	return bus_open(&st->bus, &o);
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
	log_info("store.open", "shard=%" PRIu32 " shards=%" PRIu32
	    " dir=%s after_ms=%" PRIu64, st->shard, st->nshards,
	    log_quote(st->dir.path), now_ms() - st->started_ms);
	proc_ready(st->proc);
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
	bus_close(&st.bus);
	store_dir_close(&st.dir);
	proc_free(&st.proc);
	return rc;
}

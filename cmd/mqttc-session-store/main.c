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
#include <xxhash.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

enum {
	READY_WITHOUT_ROUTER_MS = 2000,
	TICK_MS		= 100
};

#define COUNTER(id, name, help)	struct metric id = METRIC_COUNTER(name, help)
#define GAUGE(id, name, help)	struct metric id = METRIC_GAUGE(name, help)

COUNTER(m_queries, "store_queries_total", "Pages answered to tools");
GAUGE(m_listeners, "store_listeners",
    "Listeners that run, as this store sees it");
GAUGE(m_sessions, "sessions", "Sessions this store keeps");
GAUGE(m_holders, "store_connected", "Client ids in use, of this store's");
COUNTER(m_grants, "store_grants_total", "Connections that got their client id");
COUNTER(m_takeovers, "store_takeovers_total",
    "Connections that lost their client id to a later one");
COUNTER(m_taken, "store_records_total", "Messages that came to this store");
COUNTER(m_duplicates, "store_duplicates_total",
    "Messages dropped: they had come before");
COUNTER(m_kept, "store_queued_total", "Messages put into queues of sessions");
COUNTER(m_delivered, "store_delivered_total",
    "Messages handed to listeners, again after a reconnect");
COUNTER(m_acked, "store_acknowledged_total",
    "Acknowledgements of clients taken down");
COUNTER(m_dropped_full, "dropped_offline_queue_full_total",
    "Messages dropped: the queue of a stored session was full");
COUNTER(m_dropped_expired, "dropped_expired_total",
    "Messages dropped: they expired in a queue");
COUNTER(m_log_bytes, "store_log_bytes_total", "Bytes written to the log");
COUNTER(m_writes, "store_log_writes_total", "Writes of the log");
COUNTER(m_syncs, "store_log_syncs_total", "Times the log was synced");
GAUGE(m_disk_full, "store_disk_full", "1 while the disk takes no more");
COUNTER(m_fib_evicted, "fib_evictions_total",
    "Lookups begun anew because they held the router up");
COUNTER(m_dropped_memory, "dropped_memory_total",
    "What was not done because there was no memory");
COUNTER(m_wills, "wills_total", "Will messages published");
GAUGE(m_retained, "retained_messages", "Retained messages this store keeps");
GAUGE(m_retained_bytes, "retained_bytes",
    "Topics, properties and payloads of the retained messages");
COUNTER(m_retained_refused, "retained_refused_total",
    "Messages not retained: too large, or too many");
COUNTER(m_onward, "store_published_total",
    "Messages this store is the source of");
GAUGE(m_onward_due, "store_unacknowledged",
    "Of these, those that some process has not acknowledged yet");
COUNTER(m_onward_lost, "store_unsent_total",
    "Of these, copies that a stream had no room for");

GAUGE(m_queue, "store_queue_messages",
    "Messages in the queues of all sessions, in flight or waiting");
GAUGE(m_bodies, "store_bodies",
    "Messages of the log that some queue wants: one for many sessions");
GAUGE(m_body_bytes, "store_body_bytes", "Bytes of log they take");
GAUGE(m_suback_waiting, "store_suback_waiting",
    "Subscriptions whose routes are not known to be everywhere yet");
COUNTER(m_attach_waits, "store_attach_waits_total",
    "Connections that waited until the one before had left");
COUNTER(m_refused, "store_refused_total",
    "Connections that were not given their client id");
COUNTER(m_records_refused, "store_records_refused_total",
    "Messages that came and could not be kept");
COUNTER(m_serve_lost, "store_serve_lost_total",
    "Frames for listeners that a stream had no room for");
COUNTER(m_unreadable, "store_unreadable_total",
    "Messages lost: the log does not hold them as it should");
COUNTER(m_damaged, "store_damaged_bytes_total",
    "Bytes of the log that were damaged at the last start");
COUNTER(m_replayed, "store_replayed_total",
    "Operations of the log applied again at the last start");
COUNTER(m_again, "store_published_again_total",
    "Messages published again after a start, in case not all had them");
COUNTER(m_sessions_expired, "sessions_expired_total",
    "Sessions ended because nobody came back in time");
COUNTER(m_retained_expired, "retained_expired_total",
    "Retained messages whose expiry interval passed");
COUNTER(m_exported, "store_exported_total",
    "Sessions, messages, subscriptions told to an export");
COUNTER(m_imported, "store_imported_total",
    "Sessions, messages, subscriptions taken from an import");
COUNTER(m_ended_by_tool, "store_ended_total",
    "Sessions ended by mqttc-clients expire");

COUNTER(m_checkpoints, "store_checkpoints_total", "Checkpoints completed");
COUNTER(m_checkpoint_failures, "store_checkpoint_failures_total",
    "Checkpoints and snapshots that failed");
COUNTER(m_snapshots, "store_snapshots_total", "Snapshots written");
COUNTER(m_segments_dropped, "store_log_segments_dropped_total",
    "Segments of the log given back");
GAUGE(m_log_size, "store_log_bytes", "Bytes of log on the disk");
COUNTER(m_moved, "store_moved_total",
    "Messages copied to the end of the log, so that its old part can go");

GAUGE(m_claims_known, "store_claims_known",
    "Shards whose client identifiers all cores in reach know; 0 without others");
COUNTER(m_released, "store_claims_released_total",
    "Times another node was told to let go of a client identifier");
COUNTER(m_rivals, "store_claims_rivals_total",
    "Times another node turned out to have a client identifier of ours");
COUNTER(m_shared_redispatched, "shared_redispatched_total",
    "Messages for groups that another member got instead");
COUNTER(m_shared_nobody, "shared_no_member_total",
    "Messages for groups that had no member left");

static struct metric *const metrics[] = {
	&m_shared_redispatched, &m_shared_nobody,
	&m_queries, &m_listeners, &m_sessions, &m_holders, &m_grants,
	&m_takeovers, &m_taken, &m_duplicates, &m_kept, &m_delivered, &m_acked,
	&m_dropped_full, &m_dropped_expired, &m_log_bytes, &m_writes, &m_syncs,
	&m_disk_full, &m_fib_evicted, &m_dropped_memory, &m_wills, &m_retained,
	&m_retained_bytes, &m_retained_refused, &m_onward, &m_onward_due,
	&m_onward_lost, &m_checkpoints, &m_checkpoint_failures, &m_snapshots,
	&m_segments_dropped, &m_log_size, &m_moved, &m_exported, &m_imported,
	&m_ended_by_tool, &m_queue, &m_bodies, &m_body_bytes,
	&m_suback_waiting, &m_attach_waits, &m_refused, &m_records_refused,
	&m_serve_lost, &m_unreadable, &m_damaged, &m_replayed, &m_again,
	&m_sessions_expired, &m_retained_expired, &m_rivals, &m_released,
	&m_claims_known,
};

static uint64_t
mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* --- The turn ------------------------------------------------------------- */

/* Before any handler looks at the time. */
static void
on_woken(EV_P_ ev_check *w, int revents UNUSED)
{
	struct store *st = w->data;

	(void)loop;
	st->now_ms = clock_wall_ns() / 1000000;
	bus_set_clock(st->bus, msgid_turn(&st->ids, clock_wall_ns()));
}

void
main_progress(struct store *st)
{
	if (st->ready || st->draining || (!route_tell_is_known(&st->tell) &&
	    mono_ms() - st->started_ms < READY_WITHOUT_ROUTER_MS))
		return;
	st->ready = true;
	log_info("store.open", "shard=%" PRIu32 " shards=%" PRIu32
	    " dir=%s after_ms=%" PRIu64, st->shard, st->nshards,
	    log_quote(st->dir.path), mono_ms() - st->started_ms);
	proc_ready(st->proc);
}

static ev_idle	telling;	/* there is more for the router, ... */
static ev_idle	serving;	/* ... or to be served, or closed */

static void
idle_set(struct store *st, ev_idle *w, bool on)
{
	if (on)
		ev_idle_start(st->loop, w);
	else
		ev_idle_stop(st->loop, w);
}

/* The end of a turn and the beginning of the next. */
static void
on_turn(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct store	*st = w->data;
	bool		 written, more;

	(void)loop;
	more = desk_turn(st);
	/* What is passed on, and handed out, is in the log. */
	written = log_write(st);
	onward_turn(st);
	written = written && log_write(st);
	more |= serve_all(st);
	if (st->subs_due)
		serve_routes(st);
	route_tell_flush(&st->tell);
	claims_flush(st);
	/* Neither does anything else leave that the log does not have. */
	peers_flush(st);
	roster_turn(st);
	if (written && log_write(st)) {
		log_sync(st);
		checkpoint_turn(st);
	} else if (!log_is_safe(st, journal_written(st->journal))) {
		log_sync_now(st);
	}
	peers_turn(st);
	idle_set(st, &telling, route_tell_more(&st->tell));
	idle_set(st, &serving, more);
	main_progress(st);
}

static void
on_again(EV_P_ ev_idle *w UNUSED, int revents UNUSED)
{
	(void)loop;		/* being there keeps the loop from waiting */
}

static void
set_gauges(const struct store *st)
{
	struct shard_counts c = shard_counts(st->state);

	metric_set(&m_queue, c.queued);
	metric_set(&m_bodies, c.bodies);
	metric_set(&m_body_bytes, c.body_bytes);
}

static void
on_tick(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct store *st = w->data;

	(void)loop;
	log_tick(st);
	desk_timers(st);
	claims_tick(st);
	retained_tick(st);
	far_tick(st);
	onward_tick(st);
	checkpoint_tick(st);
	serve_tick(st);
	roster_heard(st);
	set_gauges(st);
}

/* --- What the supervisor asks for ----------------------------------------- */

static void
on_drain(void *ctx)
{
	struct store *st = ctx;

	st->draining = true;
	log_info("store.drain", "shard=%" PRIu32, st->shard);
	if (log_write(st))
		peers_flush(st);
	bus_flush(st->bus);
	proc_exit(st->proc, 0);
}

/* libev sleeps before it looks again only while less than this has gone by
 * since it looked last: what comes in quiet is not delayed. */
static void
pause_length(struct store *st)
{
	ev_set_io_collect_interval(st->loop,
	    st->conf->session_store_coalesce_us / 1e6);
}

static void
on_reload(void *ctx, const struct conf *new_conf)
{
	struct store *st = ctx;

	st->conf = new_conf;
	pause_length(st);
	retained_limits(st);
}

static void
on_summary(void *ctx)
{
	struct store *st = ctx;

	log_info("store.summary", "shard=%" PRIu32 " shards=%" PRIu32
	    " listeners=%" PRIu32 " router=%s sessions=%zu connected=%zu "
	    "retained=%" PRIu32, st->shard, st->nshards, st->nlisteners,
	    st->tell.router != NULL ? "yes" : "no",
	    shard_nsessions(st->state), desk_count(st),
	    retain_count(st->retain));
}

/* --- Wiring --------------------------------------------------------------- */

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

static void
init(struct store *st)
{
	const char	*node = proc_node(st->proc);
	uint32_t	 process;
	int		 rc;

	st->loop = proc_loop(st->proc);
	st->conf = proc_conf(st->proc);
	st->shard = proc_instance(st->proc);
	st->nshards = st->conf->session_store_processes;
	st->name = (struct slice){ (const uint8_t *)proc_name(st->proc),
	    strlen(proc_name(st->proc)) };
	st->started_ms = mono_ms();
	st->now_ms = clock_wall_ns() / 1000000;
	st->onward_tail = &st->onward_head;
	st->onward_waits_tail = &st->onward_waits;
	/* The supervisor has no such row; by hand it is possible. */
	if (st->shard >= st->nshards)
		fatal(EX_USAGE, "store.shard", "%s: there are "
		    "session_store.processes = %" PRIu32, proc_name(st->proc),
		    st->nshards);
	if (getrandom(&st->seed, sizeof(st->seed), 0) != sizeof(st->seed) ||
	    getrandom(&process, sizeof(process), 0) != sizeof(process))
		fatal(EX_OSERR, "store.random", "no random numbers");
	st->random = st->seed;
	msgid_init(&st->ids, (uint16_t)XXH3_64bits(node, strlen(node)),
	    process, clock_wall_ns());
	st->node = XXH3_64bits(node, strlen(node));
	metric_register((struct metric **)(uintptr_t)metrics, NELEM(metrics));
	dir_open(st);
	if (retained_open(st) < 0)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	claims_open();
	log_open(st);
	metric_set(&m_replayed, st->replayed);
	desk_replayed(st);
	onward_restore(st);
	if (roster_open(st) < 0)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	if ((rc = peers_open(st)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind '%s': %s",
		    proc_endpoint(st->proc), err_str(rc));
	pause_length(st);
	ev_prepare_init(&st->prepare, on_turn);
	ev_check_init(&st->check, on_woken);
	ev_set_priority(&st->check, EV_MAXPRI);
	ev_idle_init(&st->again, on_again);
	ev_idle_init(&telling, on_again);
	ev_idle_init(&serving, on_again);
	ev_timer_init(&st->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	st->prepare.data = st->tick.data = st->check.data = st;
	ev_prepare_start(st->loop, &st->prepare);
	ev_check_start(st->loop, &st->check);
	ev_timer_start(st->loop, &st->tick);
}

static void
fini(struct store *st)
{
	roster_close();
	claims_close();
	desk_close(st);
	serve_fini(st);
	onward_fini(st);
	peers_close(st);
	log_close(st);
	import_fini();
	retain_free(&st->retain);
	store_dir_close(&st->dir);
}

int
main(int argc, char **argv)
{
	static const struct proc_opts opts = {
		.program = "mqttc-session-store",
		.kind = PROC_SESSION_STORE,
		.wants = PROC_WANT_PEERS | PROC_WANT_FIB,
	};
	static const struct proc_handlers handlers = {
		.peers = on_peers,
		.segment = on_segment,
		.drain = on_drain,
		.reload = on_reload,
		.summary = on_summary,
	};
	static struct store	st = { .dir = { .fd = -1, .lock_fd = -1 } };
	int			rc;

	if ((rc = proc_start(&st.proc, argc, argv, &opts, &handlers, &st)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	init(&st);
	rc = proc_run(st.proc);
	fini(&st);
	proc_free(&st.proc);
	return rc;
}

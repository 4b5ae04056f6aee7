/*
 * mqttc-router: wiring, who is there, the phases, the turn. See router.h.
 */
#include "router.h"
#include "cluster.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "log/log.h"

struct metric m_rows = METRIC_COUNTER("router_rows_total",
    "Route rows taken from owners, added and removed");
struct metric m_rows_refused = METRIC_COUNTER("router_rows_refused_total",
    "Route rows that were no filter or group, or a group too many for one "
    "filter");
struct metric m_rows_short = METRIC_COUNTER("router_rows_short_total",
    "Route rows for which there was no memory");
struct metric m_snapshots = METRIC_COUNTER("router_snapshots_total",
    "Times an owner told all its routes");
struct metric m_resyncs = METRIC_COUNTER("router_resyncs_total",
    "Times an owner was asked to tell all its routes again");
struct metric m_stale = METRIC_COUNTER("router_stale_total",
    "Messages of dead incarnations, or written for a router before this one");
struct metric m_acks = METRIC_COUNTER("router_acks_total",
    "Acknowledgements of routes sent to owners");
struct metric m_acks_held = METRIC_COUNTER("router_acks_held_total",
    "Acknowledgements held back for a turn because a reader had not changed");
struct metric m_owners_gone = METRIC_COUNTER("router_owners_gone_total",
    "Owners that died, with their routes");
struct metric m_owners_away = METRIC_COUNTER("router_owners_away_total",
    "Session stores that died; their routes stayed");
struct metric m_switches = METRIC_COUNTER("router_switches_total",
    "Generations that every running reader has confirmed");
struct metric m_evictions = METRIC_COUNTER("router_evictions_total",
    "Readers that held back too much memory, or for too long");
struct metric m_queries = METRIC_COUNTER("router_queries_total",
    "Pages answered to tools");
struct metric m_routes = METRIC_GAUGE("router_routes",
    "Routes: pairs of a filter and an owner, and of a group and an owner");
struct metric m_filters = METRIC_GAUGE("router_filters",
    "Filters with at least one owner");
struct metric m_groups = METRIC_GAUGE("router_groups",
    "Shared groups: pairs of a filter and the name of a group");
struct metric m_group_rows = METRIC_GAUGE("router_group_rows",
    "Pairs of a shared group and an owner with members of it");
struct metric m_owners = METRIC_GAUGE("router_owners",
    "Processes that own routes");
struct metric m_readers = METRIC_GAUGE("router_readers",
    "Processes that read the index");
struct metric m_readers_waited = METRIC_GAUGE("router_readers_waited",
    "Running processes that do not read this generation yet");
struct metric m_widened_filters = METRIC_GAUGE("router_widened_filters",
    "Filters routed by their literal prefix alone");
struct metric m_widened_shapes = METRIC_GAUGE("router_widened_shapes",
    "Kinds of filters routed by their literal prefix alone");
struct metric m_fib_bytes = METRIC_GAUGE("router_fib_bytes",
    "Memory of the shared index");
struct metric m_fib_held_bytes = METRIC_GAUGE("router_fib_held_bytes",
    "Memory of the shared index that readers keep from being used again");
struct metric m_rib_bytes = METRIC_GAUGE("router_rib_bytes",
    "Memory of the routes with their text, about");
struct metric m_generation = METRIC_GAUGE("router_generation",
    "Generation of the index that was published last");

static struct metric *const metrics[] = {
	&m_rows, &m_rows_refused, &m_rows_short, &m_snapshots, &m_resyncs,
	&m_stale, &m_acks, &m_acks_held, &m_owners_gone, &m_owners_away,
	&m_switches,
	&m_evictions, &m_queries, &m_routes, &m_filters, &m_groups,
	&m_group_rows, &m_owners, &m_readers,
	&m_readers_waited, &m_widened_filters, &m_widened_shapes, &m_fib_bytes,
	&m_fib_held_bytes, &m_rib_bytes, &m_generation,
};

/* --- The turn ----------------------------------------------------------------- */

uint64_t
now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

bool
turn_is_over(struct router *r)
{
	uint64_t	now = clock_mono_ns();

	if (r->turn_end_ns == 0)
		r->turn_end_ns = now + TURN_NS;
	return now >= r->turn_end_ns;
}

void
turn_again(struct router *r)
{
	ev_idle_start(r->loop, &r->again);
}

static void
on_again(EV_P_ ev_idle *w, int revents UNUSED)
{
	ev_idle_stop(EV_A_ w);
}

/* End of turn, before the bus sends what was appended (its own prepare watcher
 * has the lowest priority). */
static void
on_prepare(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct router	*r = w->data;

	(void)loop;
	nodes_turn(r);
	owners_turn(r);
	readers_turn(r);
	cluster_turn(r);
	nodes_flush(r);
	r->turn_end_ns = 0;
}

/* --- Who is there ------------------------------------------------------------- */

bool
member_is_running(const struct member *m)
{
	return m->state == PROC_READY || m->state == PROC_DRAINING;
}

static struct member *
member_get(struct router *r, const char *name)
{
	struct member	*m;

	HASH_FIND_STR(r->members, name, m);
	if (m != NULL)
		return m;
	if (HASH_COUNT(r->members) >= PROC_PEERS_MAX ||
	    (m = calloc(1, sizeof(*m))) == NULL)
		return NULL;
	if (proc_name_parse(name, &m->kind, &m->instance) < 0 ||
	    strlen(name) >= sizeof(m->name)) {
		free(m);
		return NULL;
	}
	memcpy(m->name, name, strlen(name) + 1);
	HASH_ADD_STR(r->members, name, m);
	return m;
}

/* Everything of m up to this incarnation is over. */
static void
member_gone(struct router *r, struct member *m, uint64_t incarnation)
{
	if (incarnation <= m->gone)
		return;
	m->gone = incarnation;
	m->state = PROC_DOWN;
	if (m->owner != NULL && m->owner->incarnation <= incarnation) {
		if (m->kind == PROC_SESSION_STORE)
			owner_away(r, m->owner);
		else
			owner_gone(r, m->owner);
	}
	reader_gone(r, m, incarnation);
}

static void
member_newest(struct router *r, struct member *m, uint64_t incarnation)
{
	if (incarnation <= m->incarnation)
		return;
	member_gone(r, m, m->incarnation);
	m->incarnation = incarnation;
	m->state = PROC_DOWN;		/* until PEERS says more */
}

struct member *
member_of(struct router *r, const struct bus_from *from)
{
	struct member	*m = member_get(r, from->name);

	if (m == NULL || from->incarnation <= m->gone ||
	    from->incarnation < m->incarnation)
		return NULL;
	member_newest(r, m, from->incarnation);
	return m;
}

static void
peer_seen(struct router *r, const struct proc_peer *p)
{
	struct member	*m;

	if (p->kind == PROC_SUPERVISE || p->kind == PROC_ROUTER ||
	    (m = member_get(r, p->name)) == NULL)
		return;
	m->listed = m->seen = true;
	nodes_link_seen(r, p);
	claims_store_seen(r, p);
	/* Never started as far as the supervisor knows; or it said hello to
	 * us before PEERS came. */
	if (p->incarnation == 0 || p->incarnation < m->incarnation)
		return;
	member_newest(r, m, p->incarnation);
	if (p->state == PROC_DOWN) {
		member_gone(r, m, p->incarnation);
		if (m->down_ms == 0)
			m->down_ms = now_ms();
	} else if (p->incarnation > m->gone) {
		m->state = p->state;
		m->down_ms = 0;
	}
}

static void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	struct router	*r = ctx;
	struct member	*m;
	size_t		 i;

	for (m = r->members; m != NULL; m = m->hh.next)
		m->seen = false;
	for (i = 0; i < n; i++)
		peer_seen(r, &peers[i]);
	for (m = r->members; m != NULL; m = m->hh.next)
		if (m->listed && !m->seen) {	/* the node has it no more */
			m->listed = false;
			member_gone(r, m, m->incarnation);
			if (m->owner != NULL)
				owner_gone(r, m->owner);
			nodes_link_gone(r, m->name);
			claims_store_gone(r, m->name);
		}
	r->peers_seen = true;
	phase_check(r);
}

/* --- Phases ------------------------------------------------------------------- */

const char *
phase_name(enum phase p)
{
	switch (p) {
	case PHASE_LEARNING:
		return "learning";
	case PHASE_SWITCHING:
		return "switching";
	case PHASE_SERVING:
		return "serving";
	}
	return "?";
}

static void
phase_enter(struct router *r, enum phase p)
{
	log_info("router.phase", "phase=%s generation=%" PRIu64 " processes=%u "
	    "after_ms=%" PRIu64, phase_name(p), r->generation,
	    HASH_COUNT(r->members), now_ms() - r->since_ms);
	r->phase = p;
	r->since_ms = now_ms();
	r->alarm_ms = r->since_ms + ALARM_MS;
}

/* *unstarted: only by such as the supervisor starts after us. */
static bool
owners_are_waited(const struct router *r, bool *unstarted)
{
	const struct member	*m;
	bool			 any = false;

	*unstarted = true;
	for (m = r->members; m != NULL; m = m->hh.next) {
		if (!owner_is_waited(r, m))
			continue;
		any = true;
		*unstarted &= owner_is_unstarted(r, m);
	}
	return any;
}

void
phase_check(struct router *r)
{
	bool	unstarted;
	int	rc;

	if (r->phase == PHASE_LEARNING) {
		if (!r->peers_seen)
			return;
		if (owners_are_waited(r, &unstarted)) {
			if (unstarted && !r->said_ready)
				proc_ready(r->proc);
			r->said_ready |= unstarted;
			return;
		}
		if (node_is_warm(r) && nodes_are_waited(r))
			return;
		if ((rc = readers_publish(r)) < 0) {
			/* The tick tries again. */
			log_error("router.publish", "why=%s",
			    log_quote(err_str(rc)));
			return;
		}
		metric_set(&m_generation, r->generation);
		if (!r->said_ready)
			proc_ready(r->proc);
		r->said_ready = true;
		phase_enter(r, PHASE_SWITCHING);
	}
	readers_count(r);
	if (r->phase == PHASE_SWITCHING && r->waited == 0) {
		proc_drop_segments(r->proc, PROC_SEGMENT_FIB, r->generation);
		metric_inc(&m_switches);
		phase_enter(r, PHASE_SERVING);
	}
	if (r->waited == 0) {
		r->acks_due = true;
		nodes_confirm(r);
	}
}

/* Somebody keeps us from going on: name them. */
static void
alarm_check(struct router *r, uint64_t now)
{
	const struct member	*m;
	const char		*what;

	if (r->phase == PHASE_SERVING && r->waited == 0) {
		r->alarm_ms = now + ALARM_MS;
		return;
	}
	if (now < r->alarm_ms)
		return;
	r->alarm_ms = now + ALARM_MS;
	for (m = r->members; m != NULL; m = m->hh.next) {
		if (r->phase == PHASE_LEARNING)
			what = owner_is_waited(r, m) ? "routes" : NULL;
		else
			what = reader_is_waited(r, m) ? "confirm" : NULL;
		if (what != NULL)
			log_warn("router.waiting", "phase=%s for=%s what=%s "
			    "state=%s since_ms=%" PRIu64, phase_name(r->phase),
			    m->name, what, proc_state_name(m->state),
			    now - r->since_ms);
	}
}

static void
gauges_set(struct router *r)
{
	struct rib_stats	rs;
	struct fib_stats	fs;

	rib_stats(r->rib, &rs);
	fib_writer_stats(r->fib, &fs);
	metric_set(&m_routes, rs.routes);
	metric_set(&m_filters, rs.filters);
	metric_set(&m_groups, rs.groups);
	metric_set(&m_group_rows, rs.group_rows);
	metric_set(&m_owners, rs.owners);
	metric_set(&m_widened_filters, rs.widened_filters);
	metric_set(&m_widened_shapes, rs.widened_shapes);
	metric_set(&m_rib_bytes, rs.bytes);
	metric_set(&m_fib_bytes, fs.bytes);
	metric_set(&m_fib_held_bytes, fs.held_bytes);
	metric_set(&m_evictions, fs.evictions);
	metric_set(&m_readers, fs.readers - 1);	/* our own eye */
	metric_set(&m_readers_waited, r->waited);
}

static void
on_tick(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct router	*r = w->data;
	uint64_t	 now = now_ms();

	(void)loop;
	if (r->phase == PHASE_LEARNING)
		phase_check(r);
	owners_tick(r, now);
	nodes_tick(r, now);
	cluster_tick(r, now);
	alarm_check(r, now);
	gauges_set(r);
}

static void
on_summary(void *ctx)
{
	struct router		*r = ctx;
	struct rib_stats	 rs;
	struct fib_stats	 fs;
	const struct member	*m;

	rib_stats(r->rib, &rs);
	fib_writer_stats(r->fib, &fs);
	log_info("router.summary", "phase=%s generation=%" PRIu64
	    " filters=%" PRIu64 " routes=%" PRIu64 " groups=%" PRIu64
	    " owners=%" PRIu64
	    " widened=%" PRIu64 " fib_bytes=%" PRIu64 " held_bytes=%" PRIu64
	    " rib_bytes=%" PRIu64 " evictions=%" PRIu64 " waited=%u",
	    phase_name(r->phase), r->generation, rs.filters, rs.routes,
	    rs.groups, rs.owners, rs.widened_filters, fs.bytes, fs.held_bytes, rs.bytes,
	    fs.evictions, r->waited);
	for (m = r->members; m != NULL; m = m->hh.next)
		log_info("router.member", "name=%s incarnation=%" PRIu64
		    " state=%s reads=%" PRIu64 " owner=%s routes=%" PRIu64
		    " seq=%" PRIu64 " acked=%" PRIu64, m->name,
		    m->incarnation, proc_state_name(m->state), m->generation,
		    m->owner != NULL ? owner_state_name(m->owner->state) : "no",
		    m->owner != NULL ?
		    rib_owner_routes(r->rib, m->owner->rib) : 0,
		    m->owner != NULL ? m->owner->seq : 0,
		    m->owner != NULL ? m->owner->acked : 0);
}

/*
 * Every row acknowledged is in the index, which the supervisor keeps: there is
 * nothing to finish but the acknowledgements of this turn.
 */
static void
on_drain(void *ctx)
{
	struct router	*r = ctx;

	owners_turn(r);
	bus_flush(r->bus);
	proc_exit(r->proc, 0);
}

/* --- Wiring ------------------------------------------------------------------- */

#define PEER_READERS	(PEER_LISTENER | PEER_STORE | PEER_LINK)

static const struct bus_rule router_accepts[] = {
	/* kind			from		while	handler */
	{ KIND_ROUTES,		PEER_OWNERS,	0,	on_routes },
	{ KIND_FIB_CONFIRM,	PEER_READERS,	0,	on_confirm },
	{ KIND_CLAIM,		PEER_STORE,	0,	on_claim },
	{ KIND_LINK_STATE,	PEER_LINK,	0,	on_link_state },
	{ KIND_QUERY,		PEER_TOOL,	0,	on_query },
};

static const struct proc_opts router_opts = {
	.program = "mqttc-router",
	.kind = PROC_ROUTER,
	.wants = PROC_WANT_PEERS,
};

static const struct proc_handlers router_handlers = {
	.peers = on_peers,
	.drain = on_drain,
	.summary = on_summary,
};

static int
router_bus_open(struct router *r)
{
	const struct conf	*conf = proc_conf(r->proc);
	struct bus_opts		 o = {
		.loop = r->loop,
		.node = proc_node(r->proc),
		.name = proc_name(r->proc),
		.incarnation = r->incarnation,
		.endpoint = proc_endpoint(r->proc),
		.accepts = router_accepts,
		.naccepts = NELEM(router_accepts),
		.ctx = r,
		.credit = conf->bus_credit,
		.stream_max = conf->bus_stream_max,
	};

	return bus_open(&r->bus, &o);
}

static void
watchers_start(struct router *r)
{
	ev_prepare_init(&r->prepare, on_prepare);
	ev_idle_init(&r->again, on_again);
	ev_timer_init(&r->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	r->prepare.data = r->again.data = r->tick.data = r;
	ev_prepare_start(r->loop, &r->prepare);
	ev_timer_start(r->loop, &r->tick);
}

int
main(int argc, char **argv)
{
	static struct router	r = { .phase = PHASE_LEARNING };
	struct member		*m, *next;
	int			 rc;

	r.data.fd = r.epochs.fd = -1;
	if ((rc = proc_start(&r.proc, argc, argv, &router_opts,
	    &router_handlers, &r)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	r.loop = proc_loop(r.proc);
	r.conf = proc_conf(r.proc);
	r.incarnation = proc_incarnation(r.proc);
	r.since_ms = now_ms();
	r.alarm_ms = r.since_ms + ALARM_MS;
	metric_register((struct metric **)metrics, NELEM(metrics));
	if ((rc = readers_open(&r)) < 0)
		fatal(EX_OSERR, "router.index", "cannot make the index: %s",
		    err_str(rc));
	if ((rc = router_bus_open(&r)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind '%s': %s",
		    proc_endpoint(r.proc), err_str(rc));
	cluster_open(&r);
	if ((rc = nodes_open(&r)) < 0)
		fatal(EX_OSERR, "router.nodes", "%s", err_str(rc));
	watchers_start(&r);

	rc = proc_run(r.proc);

	nodes_close(&r);
	cluster_close(&r);
	bus_close(&r.bus);
	owners_free(&r);
	readers_close(&r);
	HASH_ITER(hh, r.members, m, next) {
		HASH_DEL(r.members, m);
		free(m);
	}
	free(r.reply);
	proc_free(&r.proc);
	return rc;
}

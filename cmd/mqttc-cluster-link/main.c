/*
 * mqttc-cluster-link: messages from and to other nodes. One loop; see link.h
 * for who does what.
 */
#include "link.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

enum { TICK_MS = 500, READY_WITHOUT_ROUTER_MS = 2000 };

#define COUNTER(id, name, help)	struct metric id = METRIC_COUNTER(name, help)
#define GAUGE(id, name, help)	struct metric id = METRIC_GAUGE(name, help)

GAUGE(m_nodes, "link_nodes", "Other nodes of the cluster");
GAUGE(m_nodes_up, "link_nodes_connected",
    "Of these, those that this link is connected with");
GAUGE(m_streams, "link_streams", "Streams of other nodes that end here");
COUNTER(m_records, "link_records_total", "Messages taken from other nodes");
COUNTER(m_handed, "link_handed_total",
    "Messages handed to processes of this node, one for each of them");
COUNTER(m_unwanted, "link_unwanted_total",
    "Messages from other nodes that nobody here wants (any more)");
COUNTER(m_expired, "dropped_expired_total",
    "Messages from other nodes whose expiry interval had passed");
COUNTER(m_dropped_credit, "link_dropped_credit_total",
    "QoS 0 messages dropped because a process here takes no more");
COUNTER(m_bind_failures, "link_bind_failures_total",
    "Times no port could be bound for other nodes");
COUNTER(m_fib_evicted, "fib_evictions_total",
    "Lookups begun anew because they held the router up");
COUNTER(m_memory, "dropped_memory_total",
    "What was not done because there was no memory");

static struct metric *const metrics[] = {
	&m_nodes, &m_nodes_up, &m_streams, &m_records, &m_handed, &m_unwanted,
	&m_expired,
	&m_dropped_credit, &m_bind_failures, &m_fib_evicted, &m_memory,
};

uint64_t
mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* Without an index, or without those it names, nothing can be handed on: a
 * router that is dead has left one behind, one that starts takes a moment. */
void
main_progress(struct link_process *l)
{
	if (l->fib.now != NULL && l->peers_known)
		nodes_bind(l);
	if (l->ready || (l->port == 0 && mono_ms() - l->started_ms <
	    READY_WITHOUT_ROUTER_MS))
		return;
	l->ready = true;
	log_info("link.ready", "port=%" PRIu32 " curve=%s", l->port,
	    l->curve ? "on" : "off");
	proc_ready(l->proc);
}

static void
on_woken(EV_P_ ev_check *w, int revents UNUSED)
{
	struct link_process *l = w->data;

	(void)loop;
	l->now_ms = clock_wall_ns() / 1000000;
	bus_set_clock(l->bus, msgid_turn(&l->ids, clock_wall_ns()));
	if (route_fib_turn(&l->fib)) {
		route_fib_confirm(&l->fib, l->router);
		main_progress(l);
	}
}

static void
on_turn(EV_P_ ev_prepare *w, int revents UNUSED)
{
	(void)loop;
	nodes_turn(w->data);
}

static void
on_tick(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct link_process *l = w->data;

	(void)loop;
	nodes_tick(l);
	main_progress(l);
}

/* Nothing is kept here that anybody could lose. */
static void
on_drain(void *ctx)
{
	struct link_process *l = ctx;

	bus_flush(l->bus);
	proc_exit(l->proc, 0);
}

static void
on_reload(void *ctx, const struct conf *new_conf)
{
	((struct link_process *)ctx)->conf = new_conf;
}

static void
on_summary(void *ctx)
{
	struct link_process	*l = ctx;
	const struct node	*n;

	log_info("link.summary", "port=%" PRIu32 " nodes=%u router=%s",
	    l->port, HASH_COUNT(l->nodes), l->router != NULL ? "yes" : "no");
	for (n = l->nodes; n != NULL; n = n->hh.next)
		log_info("link.node", "node=%s endpoint=%s connected=%s",
		    log_quote(n->name), n->endpoint, n->relay != NULL &&
		    bus_relay_is_up(n->relay) ? "yes" : "no");
}

static void
keys(struct link_process *l)
{
	struct secret	s;
	char		why[512];

	if (secret_load(&s, l->conf, why, sizeof(why)) < 0)
		fatal(EX_CONFIG, "link.secret", "%s", why);
	l->curve = s.curve;
	if (s.curve) {
		memcpy(l->secret.public, s.public, sizeof(s.public));
		memcpy(l->secret.private, s.private, sizeof(s.private));
	}
	secret_fini(&s);
}

static void
init(struct link_process *l)
{
	const char	*node = proc_node(l->proc);
	uint64_t	 seed;
	uint32_t	 process;
	int		 rc;

	_Static_assert(sizeof(l->secret.public) == SECRET_KEY, "of one kind");
	l->loop = proc_loop(l->proc);
	l->conf = proc_conf(l->proc);
	l->self = proc_instance(l->proc);
	l->nstores = l->conf->session_store_processes;
	l->started_ms = mono_ms();
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed) ||
	    getrandom(&process, sizeof(process), 0) != sizeof(process))
		fatal(EX_OSERR, "link.random", "no random numbers");
	msgid_init(&l->ids, (uint16_t)XXH3_64bits(node, strlen(node)),
	    process, clock_wall_ns());
	metric_register((struct metric **)(uintptr_t)metrics, NELEM(metrics));
	l->random = seed;
	keys(l);
	route_fib_init(&l->fib, FIB_NONE, 0, proc_incarnation(l->proc), seed,
	    &m_fib_evicted, &m_memory);
	if ((rc = peers_open(l)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind '%s': %s",
		    proc_endpoint(l->proc), err_str(rc));
	ev_prepare_init(&l->prepare, on_turn);
	ev_check_init(&l->check, on_woken);
	ev_set_priority(&l->check, EV_MAXPRI);
	ev_timer_init(&l->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	l->prepare.data = l->check.data = l->tick.data = l;
	ev_prepare_start(l->loop, &l->prepare);
	ev_check_start(l->loop, &l->check);
	ev_timer_start(l->loop, &l->tick);
}

int
main(int argc, char **argv)
{
	static const struct proc_opts opts = {
		.program = "mqttc-cluster-link",
		.kind = PROC_CLUSTER_LINK,
		.wants = PROC_WANT_PEERS | PROC_WANT_FIB,
	};
	static const struct proc_handlers handlers = {
		.peers = on_peers,
		.segment = on_segment,
		.drain = on_drain,
		.reload = on_reload,
		.summary = on_summary,
	};
	static struct link_process l;
	int			rc;

	if ((rc = proc_start(&l.proc, argc, argv, &opts, &handlers, &l)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	init(&l);
	rc = proc_run(l.proc);
	nodes_close(&l);
	peers_close(&l);
	proc_free(&l.proc);
	return rc;
}

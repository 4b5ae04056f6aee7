/*
 * mqttc-listener: MQTT towards clients. One loop; see listener.h for who does
 * what.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sysexits.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

enum {
	READY_WITHOUT_ROUTER_MS = 2000,
	DRAIN_PER_TICK = 500,		/* DISCONNECTs a tick */
	DRAIN_UNSAID_MS = 2000,		/* for a CONNECT to come */
	TICK_MS = WHEEL_TICK_MS
};

static struct listener listener;

static void
read_clocks(struct listener *l)
{
	l->now_ms = clock_mono_ns() / 1000000;
	bus_set_clock(l->bus, msgid_turn(&l->ids, clock_wall_ns()));
}

/* The loop may have waited long: before any handler looks at the time. */
static void
on_woken(EV_P_ ev_check *w UNUSED, int revents UNUSED)
{
	read_clocks(ev_userdata(EV_A));
}

static void
turn_begin(struct listener *l)
{
	l->budget_deliveries = TURN_DELIVERIES;
	l->budget_bytes = TURN_BYTES;
	routes_turn(l);
}

/*
 * The end of a turn and the beginning of the next, just before the loop asks
 * the kernel what is new: everything that was appended leaves, the dead are
 * buried, those who were cut short go on.
 */
static void
on_turn(EV_P_ ev_prepare *w UNUSED, int revents UNUSED)
{
	struct listener *l = ev_userdata(EV_A);

	out_flush_dirty(l);
	client_reap(l);
	turn_begin(l);
	publish_job(l);
	if (l->unpark) {
		l->unpark = false;
		client_unpark_all(l);
	}
	client_resume_waiting(l);
	if (l->subs_due)
		subscribe_answer(l);
	retained_turn(l);
	out_flush_dirty(l);
	client_reap(l);
	out_flush_dirty(l);			/* wills of the reaped */
	routes_flush(l);
	flow_flush(l);
	handover_turn(l);
	if (l->job.active || l->waiting != NULL || l->unpark ||
	    l->doomed != NULL || route_tell_more(&l->tell))
		ev_idle_start(EV_A_ &l->again);
	else
		ev_idle_stop(EV_A_ &l->again);
}

static void
on_again(EV_P_ ev_idle *w UNUSED, int revents UNUSED)
{
	(void)loop;		/* being there keeps the loop from waiting */
}

static void
drain_some(struct listener *l)
{
	struct conn	*c;
	size_t		 i, n = 0;
	bool		 told;

	/* From the end: each close takes one out. */
	for (i = l->clients.cells == NULL ? 0 : l->clients.mask + 1;
	    i-- > 0 && n < DRAIN_PER_TICK;) {
		c = l->clients.cells[i].item;
		if (c == NULL || c->state != CONN_OPEN)
			continue;
		client_close(l, c, MQTT_SERVER_SHUTTING_DOWN);
		n++;
	}
	told = session_told(l, false);
	session_flush_all(l);
	if (!told || n > 0 || l->nready > 0 || l->job.active || !flow_is_idle(l))
		return;
	/*
	 * Who was accepted and has not said who he is gets an answer to the
	 * CONNECT that may be on its way; our end would reset him.
	 */
	if (l->nconns == 0 || l->now_ms - l->drain_ms >= DRAIN_UNSAID_MS)
		proc_exit(l->proc, 0);
}

void
main_progress(struct listener *l)
{
	if (!l->ready && !proc_is_successor(l->proc) && (l->fib.now != NULL || l->now_ms - l->started_ms >=
	    READY_WITHOUT_ROUTER_MS)) {
		l->ready = true;
		proc_ready(l->proc);
	}
}

static void
on_tick(EV_P_ ev_timer *w UNUSED, int revents UNUSED)
{
	struct listener *l = ev_userdata(EV_A);

	wheel_advance(&l->wheel, l->now_ms, client_due, l);
	subscribe_answer(l);
	retained_tick(l);
	session_routed(l);
	(void)session_told(l, false);
	l->unpark |= l->parked != NULL;		/* who rests for the stopped */
	sys_tick(l);
	accept_tick(l);
	far_tick(l);
	main_progress(l);
	if (l->draining)
		drain_some(l);
}

static void
on_drain(void *ctx)
{
	struct listener *l = ctx;

	l->draining = true;
	l->drain_ms = l->now_ms;
	accept_stop(l);
	log_info("listener.drain", "clients=%zu", l->nready);
	drain_some(l);
}

void
main_limits(struct listener *l)
{
	const struct index_limits lim = {
		.shapes_owner = l->conf->mqtt_wildcard_shapes,
		.shapes_anchor = l->conf->mqtt_wildcard_shapes_all,
	};

	index_set_limits(l->index, &lim);
	/* libev sleeps before it looks again only while less than this has
	 * gone by since it looked last: what comes in quiet is not delayed. */
	ev_set_io_collect_interval(l->loop, l->conf->listener_coalesce_us / 1e6);
}

static void
on_reload(void *ctx, const struct conf *new_conf)
{
	struct listener *l = ctx;

	l->conf = new_conf;
	main_limits(l);
	l->sys_due_ms = l->now_ms + l->conf->sys_interval_ms;
}

static void
on_summary(void *ctx)
{
	struct listener *l = ctx;

	log_info("listener.summary", "clients=%zu subscriptions=%zu "
	    "filters=%zu peers=%u waiting_subacks=%zu", l->nready,
	    index_nsubs(l->index), index_nfilters(l->index), l->nremote,
	    l->nsub_waits);
}

static void
init(struct listener *l)
{
	struct index_limits	 lim = { 0, 0 };
	uint32_t		 process;
	uint16_t		 node;
	const char		*name = proc_node(l->proc);
	int			 rc;

	l->loop = proc_loop(l->proc);
	l->conf = proc_conf(l->proc);
	l->self = proc_instance(l->proc);
	ev_set_userdata(l->loop, l);
	if (getrandom(&l->seed, sizeof(l->seed), 0) != sizeof(l->seed) ||
	    getrandom(&l->random, sizeof(l->random), 0) != sizeof(l->random) ||
	    getrandom(&process, sizeof(process), 0) != sizeof(process))
		fatal(EX_OSERR, "listener.random", "no random numbers");
	node = (uint16_t)XXH3_64bits(name, strlen(name));
	msgid_init(&l->ids, node, process, clock_wall_ns());
	l->now_ms = clock_mono_ns() / 1000000;
	wheel_init(&l->wheel, l->now_ms);
	htab_init(&l->clients);
	htab_init(&l->groups);
	htab_init(&l->serials);
	share_table_init(&l->shares, l->seed);
	l->random |= 1;				/* its generator knows no 0 */
	l->subs_tail = &l->subs_head;
	l->parked_tail = &l->parked;
	l->handover_fd = -1;
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	l->enc_cap = 4096;
	if ((l->index = index_new(l->seed, &lim)) == NULL ||
	    (l->enc = malloc(l->enc_cap)) == NULL ||
	    (l->readbuf = malloc(STASH_SMALL + READ_SIZE)) == NULL)
		fatal(EX_OSERR, "listener.nomem", "out of memory");
	main_limits(l);
	metrics_init();
	sys_init(l);
	if (proc_is_successor(l->proc))
		handover_expect();
	if (poll_open(l) < 0)
		fatal(EX_OSERR, "listener.poll", "no epoll set: %s",
		    strerror(errno));
	if ((rc = flow_open(l)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind %s: %s",
		    proc_endpoint(l->proc), err_str(rc));
	routes_init(l);
	ev_prepare_init(&l->prepare, on_turn);
	ev_prepare_start(l->loop, &l->prepare);
	ev_check_init(&l->check, on_woken);
	ev_set_priority(&l->check, EV_MAXPRI);
	ev_check_start(l->loop, &l->check);
	ev_idle_init(&l->again, on_again);
	ev_timer_init(&l->tick, on_tick, TICK_MS / 1000., TICK_MS / 1000.);
	ev_timer_start(l->loop, &l->tick);
	read_clocks(l);
	turn_begin(l);
}

static void
fini(struct listener *l)
{
	struct conn	*c;
	size_t		 i;

	accept_stop(l);
	publish_fini(l);
	for (i = 0; l->clients.cells != NULL && i <= l->clients.mask; i++)
		if ((c = l->clients.cells[i].item) != NULL)
			client_doom(l, c);
	client_reap(l);
	out_flush_dirty(l);
	subscribe_free(l);
	retained_fini();
	flow_close(l);
	routes_flush(l);
	index_free(&l->index);
	routes_fini(l);
	groups_fini(l);
	htab_fini(&l->clients);
	session_fini(l);
	poll_close(l);
	out_pool_free(l);
	free(l->targets);
	free(l->sub_ids);
	free(l->props);
	free(l->enc);
	free(l->readbuf);
}

int
main(int argc, char **argv)
{
	static const struct proc_opts opts = {
		.program = "mqttc-listener",
		.kind = PROC_LISTENER,
		.wants = PROC_WANT_PEERS | PROC_WANT_SOCKETS |
		    PROC_WANT_FIB | PROC_CAN_HANDOVER,
	};
	static const struct proc_handlers handlers = {
		.peers = on_peers,
		.sockets = on_sockets,
		.segment = on_segment,
		.drain = on_drain,
		.reload = on_reload,
		.summary = on_summary,
		.handover = on_handover,
	};
	struct listener	*l = &listener;
	int		 rc;

	if ((rc = proc_start(&l->proc, argc, argv, &opts, &handlers, l)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	init(l);
	rc = proc_run(l->proc);
	fini(l);
	proc_free(&l->proc);
	return rc;
}

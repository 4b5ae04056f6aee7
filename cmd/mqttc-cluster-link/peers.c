/*
 * peers.c: the processes of this node: streams to the listeners and stores,
 * what they acknowledge, and the router.
 */
#include "link.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"

static inline bool
is_store(const struct link_process *l, const struct peer *p)
{
	return p >= &l->peers[STORES_FROM];
}

/* --- Bus ------------------------------------------------------------------ */

static void
on_got(void *ctx, struct bus_peer *bp, uint64_t seq)
{
	struct link_process	*l = ctx;
	struct peer		*p = bus_peer_user(bp);

	if (p != NULL && !is_store(l, p))
		ledger_paid(p->owes, LEDGER_LIVE, seq, hand_news, l);
}

static void
on_stored(void *ctx, struct bus_peer *bp, uint64_t seq)
{
	struct link_process	*l = ctx;
	struct peer		*p = bus_peer_user(bp);

	if (p != NULL && is_store(l, p))
		ledger_paid(p->owes, LEDGER_DURABLE, seq, hand_news, l);
}

static void
on_up(void *ctx, struct bus_peer *bp)
{
	struct link_process *l = ctx;

	if (bp == l->router) {
		route_fib_confirm(&l->fib, bp);
		l->state_due = true;
	}
}

static const struct bus_events events = {
	.got	= on_got,
	.stored	= on_stored,
	.up	= on_up,
	.admits	= nodes_admit,
	.gone	= hand_gone,
	.relay	= nodes_relay,
};

static const struct bus_rule accepts[] = {
	/* kind		from				while	handler */
	{ KIND_RECORDS,	PEER_OWNERS | PEER_REMOTE,	0,	on_records },
	{ KIND_NODES,	PEER_ROUTER,			0,	on_nodes },
};

/* --- Who is there ---------------------------------------------------------- */

/* Its sessions are gone, and with them what it owes. */
static void
peer_close(struct link_process *l, struct peer *p)
{
	if (p->bus == NULL)
		return;
	bus_peer_close(&p->bus);
	ledger_paid(p->owes, LEDGER_LIVE, UINT64_MAX, hand_news, l);
	ledger_out_free(&p->owes);
}

static int
peer_open(struct link_process *l, struct peer *p, const char *name,
    uint64_t incarnation, const char *endpoint)
{
	int rc;

	if ((p->owes = ledger_out_new()) == NULL)
		return ERR_NOMEM;
	if ((rc = bus_peer_open(&p->bus, l->bus, name, incarnation, endpoint,
	    p)) < 0)
		ledger_out_free(&p->owes);
	return rc;
}

static void
peer_update(struct link_process *l, struct peer *p, const struct proc_peer *pp)
{
	bool	runs = pp->state != PROC_DOWN && pp->incarnation != 0;
	int	rc = 0;

	if (is_store(l, p)) {
		if (runs && p->incarnation != pp->incarnation)
			rc = bus_peer_move(p->bus, pp->incarnation,
			    pp->endpoint, true);
	} else {
		if (!runs || p->incarnation != pp->incarnation)
			peer_close(l, p);
		if (runs && p->bus == NULL)
			rc = peer_open(l, p, pp->name, pp->incarnation,
			    pp->endpoint);
	}
	if (rc < 0)
		log_error("peer.open", "peer=%s error=%s", pp->name,
		    log_quote(err_str(rc)));
	else if (runs)
		p->incarnation = pp->incarnation;
}

static void
router_update(struct link_process *l, const struct proc_peer *pp)
{
	int rc;

	if (l->router != NULL && (pp->state == PROC_DOWN ||
	    pp->incarnation != l->router_incarnation))
		bus_peer_close(&l->router);
	if (l->router != NULL || pp->state == PROC_DOWN ||
	    pp->incarnation == 0)
		return;
	if ((rc = bus_peer_open(&l->router, l->bus, pp->name,
	    pp->incarnation, pp->endpoint, NULL)) < 0) {
		log_error("peer.open", "peer=%s error=%s", pp->name,
		    log_quote(err_str(rc)));
		l->router = NULL;
		return;
	}
	l->router_incarnation = pp->incarnation;
	l->router_ms = mono_ms();
}

void
on_peers(void *ctx, const struct proc_peer *peers, size_t n)
{
	static bool		 seen[ROUTE_LISTENERS_MAX];
	struct link_process	*l = ctx;
	size_t			 i;

	memset(seen, 0, sizeof(seen));
	for (i = 0; i < n; i++) {
		if (peers[i].kind == PROC_ROUTER) {
			router_update(l, &peers[i]);
		} else if (peers[i].kind == PROC_LISTENER &&
		    peers[i].instance < ROUTE_LISTENERS_MAX) {
			seen[peers[i].instance] = true;
			peer_update(l, &l->peers[peers[i].instance],
			    &peers[i]);
		} else if (peers[i].kind == PROC_SESSION_STORE &&
		    peers[i].instance < l->nstores) {
			peer_update(l, &l->peers[STORES_FROM +
			    peers[i].instance], &peers[i]);
		}
	}
	for (i = 0; i < ROUTE_LISTENERS_MAX; i++)	/* scaled away */
		if (!seen[i])
			peer_close(l, &l->peers[i]);
	l->peers_known = true;
	main_progress(l);
}

void
on_segment(void *ctx, const struct proc_segment *s)
{
	route_fib_segment(&((struct link_process *)ctx)->fib, s);
}

/* Streams to all stores, also to those nobody has seen yet: what is for them
 * waits. */
static int
stores_open(struct link_process *l)
{
	char	 name[PROC_NAME_MAX], at[BUS_ENDPOINT_MAX];
	uint32_t i;
	int	 rc;

	for (i = 0; i < l->nstores; i++) {
		snprintf(name, sizeof(name), "session_store.%" PRIu32, i);
		snprintf(at, sizeof(at), "ipc://session_store.%" PRIu32
		    ".none", i);
		if ((rc = peer_open(l, &l->peers[STORES_FROM + i], name, 1,
		    at)) < 0)
			return rc;
	}
	return 0;
}

int
peers_open(struct link_process *l)
{
	struct bus_opts o = {
		.loop = l->loop,
		.node = proc_node(l->proc),
		.name = proc_name(l->proc),
		.incarnation = proc_incarnation(l->proc),
		.endpoint = proc_endpoint(l->proc),
		.accepts = accepts,
		.naccepts = NELEM(accepts),
		.events = &events,
		.ctx = l,
		.credit = l->conf->bus_credit,
		/* What is under way here has its bound in what is granted to
		 * the sources: they are granted more when it has arrived. */
		.stream_max = UINT32_MAX,
	};
	int rc;

	if ((rc = bus_open(&l->bus, &o)) < 0)
		return rc;
	return stores_open(l);
}

void
peers_close(struct link_process *l)
{
	size_t i;

	for (i = 0; i < PEERS_MAX; i++)
		peer_close(l, &l->peers[i]);
	if (l->router != NULL)
		bus_peer_close(&l->router);
	bus_close(&l->bus);
	route_fib_fini(&l->fib);
}

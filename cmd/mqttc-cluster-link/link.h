/*
 * link.h: what the files of mqttc-cluster-link share. The process passes on
 * what its neighbours send to other nodes, unread (a relay of lib/bus for each
 * node), and takes what other nodes send here: it matches the topic and hands
 * each record to the listeners and stores that may want it. What these have
 * not acknowledged it has not acknowledged either (lib/ledger), so nothing is
 * kept here and the process may die.
 *
 *	main.c		wiring, the turn
 *	nodes.c		which nodes there are, relays to them; what the router
 *			hears of it
 *	hand.c		records of other nodes, handed on
 *	peers.c		the processes of this node
 */
#ifndef LINK_H
#define LINK_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>
#include "bus/bus.h"
#include "conf/conf.h"
#include "ledger/ledger.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "proto/msgid.h"
#include "route/match.h"
#include "secret/secret.h"

enum {
	STORES_FROM	= ROUTE_LISTENERS_MAX,	/* in link.peers */
	PEERS_MAX	= ROUTE_LISTENERS_MAX + ROUTE_STORES_MAX,
	TURN_RECORDS	= 4096,		/* handed on, then the others' turn */
	ROUTER_NEW_MS	= 10000,	/* it may not know all nodes yet */
};

struct peer {			/* a listener or a store of this node */
	struct bus_peer	*bus;		/* NULL: not running */
	struct ledger_out *owes;
	uint64_t	 incarnation;
};

struct node {			/* another one */
	UT_hash_handle	 hh;
	struct bus_relay *relay;
	char		 endpoint[BUS_ENDPOINT_MAX];	/* of its link */
	char		 host[256];
	const char	*said;		/* trouble that was logged */
	bool		 seen;		/* in this NODES */
	char		 name[];
};

/* A stream of another node. */
struct source {
	struct link_process *l;
	struct stream_in *in;
	struct stream_origin *origin;
	struct ledger_in *ledger;
	uint64_t	 begun;		/* the frame being handed on, 0 none */
};

struct link_process {
	struct proc	*proc;
	struct ev_loop	*loop;
	const struct conf *conf;
	struct bus	*bus;
	struct bus_secret secret;
	bool		 curve;
	uint32_t	 self;
	struct msgid_gen ids;
	ev_prepare	 prepare;
	ev_check	 check;
	ev_timer	 tick;
	uint64_t	 started_ms;
	bool		 ready;

	bool		 peers_known;	/* PEERS came */
	struct peer	 peers[PEERS_MAX];
	uint32_t	 nstores;
	struct bus_peer	*router;
	uint64_t	 router_incarnation;
	uint64_t	 router_ms;	/* it is there since */
	struct route_fib fib;
	uint64_t	 random;
	uint64_t	 now_ms;	/* since 1970 */

	struct node	*nodes;		/* uthash, by name */
	uint32_t	 port;		/* bound; 0: not yet */
	unsigned	 ticks;
	bool		 state_due;	/* the router is to hear of us */
};

/* --- main.c --- */

void main_progress(struct link_process *l);
uint64_t mono_ms(void);

/* --- nodes.c --- */

int on_nodes(void *ctx, struct bus_frame *f);
bool nodes_admit(void *ctx, const char *node);
void nodes_relay(void *ctx, struct bus_relay *r, bool up);
/* Bind, if that is still to be done and may be. */
void nodes_bind(struct link_process *l);
void nodes_tick(struct link_process *l);
void nodes_turn(struct link_process *l);
void nodes_close(struct link_process *l);

/* --- hand.c --- */

int on_records(void *ctx, struct bus_frame *f);
void hand_gone(void *ctx, void *user);
/* bus_done for who has been told so by the ledger. */
void hand_news(void *ctx, void *user, uint64_t got, uint64_t got_bytes,
    uint64_t stored);

/* --- peers.c --- */

int peers_open(struct link_process *l);
void peers_close(struct link_process *l);
void on_peers(void *ctx, const struct proc_peer *peers, size_t n);
void on_segment(void *ctx, const struct proc_segment *s);

/* --- metrics, in main.c --- */

extern struct metric m_nodes, m_nodes_up, m_records, m_handed, m_dropped_credit,
    m_unwanted, m_expired, m_streams, m_bind_failures, m_fib_evicted, m_memory;

#endif

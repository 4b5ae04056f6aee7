/*
 * router.h: what the files of mqttc-router share. The process learns from the
 * owners of subscribers (listeners, stores) which filters lead to them, keeps
 * that with its text (lib/rib), and publishes it as one generation of the
 * forwarding index (lib/fib) that everybody else of the node reads in place.
 *
 *	main.c		wiring, who is there, the phases, the turn
 *	owners.c	routes: snapshots, changes, acknowledgements, the dead
 *	readers.c	who reads which generation; epochs
 *	query.c		questions of the tools
 *	nodes.c		other nodes: theirs and ours, see nodes.h
 *	cluster.c	who belongs to the cluster, see cluster.h
 *
 * Phases. A router that starts may find owners that run already, and readers
 * that are served by the generation of the router before it. It *learns* in
 * private until every such owner has sent all its routes, publishes, *switches*
 * until every running reader has confirmed the new generation, then *serves*:
 * only now routes are acknowledged and the old generation is dropped. Nothing
 * waits for a process that PEERS shows down, and PEERS shows one that hangs
 * down in the end.
 */
#ifndef ROUTER_H
#define ROUTER_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>
#include "bus/bus.h"
#include "conf/conf.h"
#include "fib/fib.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "proto/route.h"
#include "rib/rib.h"
#include "shm/segment.h"

struct nodeset;

enum {
	OWNER_WAITS	= 32,		/* acknowledgements that wait apart */
	TURN_NS		= 3000000,	/* of rows, then others' turn */
	TURN_ROWS	= 64,		/* between two looks at the clock */
	TURN_CLEAR	= 512,		/* filters, likewise */
	TICK_MS		= 250,
	ALARM_MS	= 5000,		/* waiting for somebody: say so */
	RETRY_MS	= 1000,		/* rows that found no memory */
	STORE_GIVEN_UP_MS = 5000,	/* beyond supervise.backoff_max */
};

enum phase {			/* bits for bus_set_state */
	PHASE_LEARNING	= 1,	/* building in private */
	PHASE_SWITCHING	= 2,	/* published; readers are changing */
	PHASE_SERVING	= 4
};

enum owner_state {
	OWNER_LEARNING,		/* between begin and end of its snapshot */
	OWNER_SYNCED,		/* everything it has is here */
	OWNER_ASKED,		/* its rows had a gap: it is to begin again */
	OWNER_AWAY,		/* a store that died: what it has subscribed to
				 * is on its disk, and its routes stay */
	OWNER_GONE		/* dead: its routes are being removed */
};

/* One destination with routes: a process, as one incarnation of it. */
struct owner {
	struct owner	*next, **prev;	/* in router.owners */
	struct member	*member;	/* NULL once it is gone */
	unsigned	 rib;		/* its number there */
	uint64_t	 incarnation;
	enum owner_state state;
	struct bus_addr	 addr;		/* where acknowledgements go */
	uint64_t	 seq;		/* last ROUTES taken, */
	uint64_t	 acked;		/* and acknowledged */
	unsigned	 repeat;	/* times the last RouteAck goes again */
	/* Rows that other nodes are to have first: up to seq of ROUTES those
	 * up to due of our stream. Ascending. */
	uint64_t	 due;		/* of the rows taken last */
	struct { uint64_t seq, due; } waits[OWNER_WAITS];
	unsigned	 nwaits;
	bool		 sweep;		/* a snapshot left rows to remove */
	bool		 short_of;	/* memory, for some row: not acked */
	uint64_t	 retry_ms;	/* then ask for everything again */
};

/* One process of the node by its name, whatever incarnation. */
struct member {
	UT_hash_handle	 hh;
	char		 name[BUS_NAME_MAX];
	enum proc_kind	 kind;
	uint32_t	 instance;
	uint64_t	 incarnation;	/* the newest heard of */
	uint64_t	 gone;		/* up to here all are dead */
	enum proc_state	 state;		/* of the newest; down if PEERS does
					 * not know it yet */
	uint64_t	 generation;	/* the one it confirmed, 0: none */
	struct owner	*owner;		/* NULL: no routes from it yet */
	bool		 listed, seen;	/* in PEERS before, in this one */
	uint64_t	 down_ms;	/* PEERS shows it down since; 0: not */
};

struct router {
	struct proc	*proc;
	struct ev_loop	*loop;
	const struct conf *conf;
	struct bus	*bus;
	uint64_t	 incarnation;
	enum phase	 phase;
	bool		 peers_seen;
	uint64_t	 since_ms;	/* this phase began */
	uint64_t	 alarm_ms;	/* when to complain */

	ev_prepare	 prepare;
	ev_idle		 again;		/* more to do without waiting */
	ev_timer	 tick;
	uint64_t	 turn_end_ns;	/* 0: nothing spent of this turn */

	struct member	*members;	/* uthash, by name */
	struct owner	*owners;

	struct rib	*rib;
	struct fib_writer *fib;
	struct fib_reader *eye;		/* what the readers see, for query.c */
	struct shm_segment data, epochs;
	uint64_t	 generation;
	bool		 said_ready;
	unsigned	 waited;	/* running readers not on it */

	/* A frame of rows that was not finished in its turn. */
	struct {
		struct owner	*owner;		/* NULL: none, or it died */
		uint64_t	 frame_seq;	/* of the bus */
		struct routes	 routes;
		size_t		 at;		/* in its body */
	} part;
	bool		 acks_due;
	bool		 said_full;	/* of a group, since the last tick */

	uint8_t		*reply;		/* scratch of query.c */
	struct nodeset	*nodes;		/* NULL: there is no cluster */
	struct cluster	*cluster;
};

static inline bool
phase_has_index(const struct router *r)
{
	return r->phase != PHASE_LEARNING;
}

/* --- main.c --- */

/* Has this turn done enough? Looks at the clock: not for every row. */
bool turn_is_over(struct router *r);
/* Run once more before waiting. */
void turn_again(struct router *r);
uint64_t now_ms(void);
/*
 * Who sent this: its member, made if need be. NULL if that incarnation is dead
 * or the name is none of ours.
 */
struct member *member_of(struct router *r, const struct bus_from *from);
bool member_is_running(const struct member *m);
/* Somebody came, went or has done something: is the phase over? */
void phase_check(struct router *r);
const char *phase_name(enum phase p);

/* --- owners.c --- */

int on_routes(void *ctx, struct bus_frame *f);
/* The process behind o is dead. */
void owner_gone(struct router *r, struct owner *o);
/* The same of a store, that comes back with all it has. */
void owner_away(struct router *r, struct owner *o);
/* Is m one whose routes we lack? */
bool owner_is_waited(const struct router *r, const struct member *m);
/* ... and it is not even started, which it may be when we are ready. */
bool owner_is_unstarted(const struct router *r, const struct member *m);
/* Does anybody forward already, by what another router knew? */
bool node_is_warm(const struct router *r);
/* End of turn: remove what is to be removed, acknowledge what may be. */
void owners_turn(struct router *r);
void owners_tick(struct router *r, uint64_t now);
void owners_free(struct router *r);
const char *owner_state_name(enum owner_state s);

/* --- readers.c --- */

int readers_open(struct router *r);	/* make the index; ERR_* */
void readers_close(struct router *r);
int readers_publish(struct router *r);
int on_confirm(void *ctx, struct bus_frame *f);
/* Incarnation of m is dead: it holds nothing back any more. */
void reader_gone(struct router *r, struct member *m, uint64_t incarnation);
bool reader_is_waited(const struct router *r, const struct member *m);
/* Count those who are waited for anew. */
void readers_count(struct router *r);
void readers_turn(struct router *r);

/* --- query.c --- */

int on_query(void *ctx, struct bus_frame *f);

/* --- nodes.c: all of it does nothing without a cluster --- */

int nodes_open(struct router *r);
void nodes_close(struct router *r);
void nodes_tick(struct router *r, uint64_t now);
/* Take what came a step further; before owners_turn. */
void nodes_turn(struct router *r);
/* Say what is to be said; the last of the turn. */
void nodes_flush(struct router *r);
/* Is somebody waited for before a router that takes another's place publishes? */
bool nodes_are_waited(const struct router *r);
/* Rows applied from begin on are told to other nodes: the highest seq of them
 * as they stand in our stream (0: none is to be waited for), and up to where
 * all that are waited for have it. */
void nodes_rows_begin(struct router *r);
uint64_t nodes_rows_seq(const struct router *r);
uint64_t nodes_rows_acked(const struct router *r);
/* Some row found no memory and is not told yet; and the seq of all that are. */
bool nodes_rows_short(const struct router *r);
uint64_t nodes_rows_all(const struct router *r);
/* NAME@HOST of an owner of the rib, with /durable behind it; NULL: it is no
 * node. And back; -1. */
const char *nodes_owner_name(const struct router *r, unsigned owner,
    char *out, size_t size);
int nodes_owner_find(const struct router *r, struct slice name);
/* What there is to say of the at-th node. False: there are not so many. */
bool nodes_tell(const struct router *r, unsigned at, void (*put)(void *ctx,
    const char *name, const char *what, const char *value), void *ctx);
/* This join id left, was forced out or cleaned: its routes go. */
int nodes_bar(struct router *r, uint64_t id);
/* Every running reader reads this generation: what was held back may go. */
void nodes_confirm(struct router *r);
void nodes_link_seen(struct router *r, const struct proc_peer *peer);
void nodes_link_gone(struct router *r, const char *name);
int on_link_state(void *ctx, struct bus_frame *f);
/* claims.c, likewise: the session-stores of this node. */
void claims_store_seen(struct router *r, const struct proc_peer *peer);
void claims_store_gone(struct router *r, const char *name);
int on_claim(void *ctx, struct bus_frame *f);

/* --- metrics, in main.c --- */

extern struct metric m_rows, m_rows_refused, m_rows_short, m_snapshots,
    m_resyncs, m_stale, m_acks, m_acks_held, m_owners_gone, m_owners_away,
    m_switches,
    m_evictions, m_queries, m_routes, m_filters, m_groups, m_group_rows,
    m_owners, m_readers,
    m_readers_waited, m_widened_filters, m_widened_shapes, m_fib_bytes,
    m_fib_held_bytes, m_rib_bytes, m_generation;

#endif

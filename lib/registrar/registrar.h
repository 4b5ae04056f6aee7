/*
 * registrar.h: the registrar of a core: who may have a client identifier, for
 * its branch: its own stores and the replicants that follow it. README has the
 * rules; claim.h the words.
 *
 * Pure: time is an argument, messages leave through send(), which must not
 * call back. Connections are in order and may break; after a break both sides
 * call _down, then _up, and what was under way is lost.
 */
#ifndef REGISTRAR_REGISTRAR_H
#define REGISTRAR_REGISTRAR_H

#include "base/htab.h"
#include "registrar/claim.h"
#include "registrar/held.h"

enum { REGISTRAR_PEERS = 32, REGISTRAR_WAIT_MS = 1000 };

struct registrar_ops {
	/* To the registrar of another core. */
	void	(*peer)(void *ctx, uint64_t core, const struct claim_msg *m);
	/* To the desk of a node of the branch. */
	void	(*desk)(void *ctx, uint64_t node, const struct claim_msg *m);
};

struct registrar_stats {
	uint64_t	claims, granted, provisional, lost, raised, waited;
	uint64_t	conflicts;	/* two holders found */
};

struct registrar {
	const struct registrar_ops *ops;
	void			*ctx;
	uint64_t		 self;
	struct {
		uint64_t node;
		uint64_t mark;		/* sent last, */
		uint64_t echoed;	/* came back last */
	}			 peers[REGISTRAR_PEERS];
	unsigned		 npeers;
	uint64_t		 marks, serials;
	bool			 confirming;
	bool			 partial;	/* see registrar_whole() */
	struct held_rows	 rows;
	struct registrar_member	*members[HELD_NODES];	/* by held.node */
	unsigned		 nmembers;	/* above: none */
	struct htab		 claims, waiters, nodes;
	struct registrar_stats	 stats;
};

void registrar_init(struct registrar *r, uint64_t self,
    const struct registrar_ops *ops, void *ctx);
void registrar_fini(struct registrar *r);

/* A core came into reach, or went. ERR_FULL beyond REGISTRAR_PEERS. */
int registrar_peer_up(struct registrar *r, uint64_t core, uint64_t now_ms);
void registrar_peer_down(struct registrar *r, uint64_t core);

/* A message of a core or of a desk of the branch. ERR_NOMEM; ERR_PROTO;
 * ERR_FULL beyond HELD_NODES nodes that are not forgotten. */
int registrar_from_peer(struct registrar *r, uint64_t core,
    const struct claim_msg *m, uint64_t now_ms);
int registrar_from_desk(struct registrar *r, uint64_t node,
    const struct claim_msg *m, uint64_t now_ms);

/* A node of the branch no longer follows us. What it had we still say it has,
 * until it has uploaded elsewhere, or registrar_forget(). */
void registrar_left(struct registrar *r, uint64_t node);

/* It is down for good reason (control and flow): its live clients are gone, its
 * durable sessions out of reach, its moves over. */
void registrar_node_down(struct registrar *r, uint64_t node, uint64_t now_ms);

/* It is no member any more. */
void registrar_forget(struct registrar *r, uint64_t node, uint64_t now_ms);

/* Is every node that is a member up, and its rows with us or a core in reach?
 * If not, what is granted is provisional: somebody may have it who cannot be
 * asked, and the session has to remember what it gets. True at first. */
void registrar_whole(struct registrar *r, bool whole);

/* At least every half second. */
void registrar_tick(struct registrar *r, uint64_t now_ms);

#endif

/*
 * claim.h: what desks and registrars tell each other about who may have a
 * client identifier, and the keyed hash by which they name it.
 *
 * A node is named by its join id (random at each join, never 0), a desk by that
 * of its node with the number of its shard in the low byte (claim_desk()), and
 * what is said of nodes here holds for each desk. An epoch is a time of the
 * hybrid clock raised above whatever it replaces; of two holders the higher
 * (connected, epoch, node) keeps the identifier.
 */
#ifndef REGISTRAR_CLAIM_H
#define REGISTRAR_CLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

enum { CLAIM_HOLDERS = 16 };

enum claim_kind {
	/* a desk to its registrar */
	CLAIM_UPLOAD = 1,	/* forget my rows, here they come */
	CLAIM_ROW,		/* I have x thus; also core to core */
	CLAIM_GONE,		/* I have x no more; also core to core */
	CLAIM_UPLOADED,		/* those were all */
	CLAIM_ATTACH,		/* x wants in at my node, under epoch */
	/* a registrar to a desk of its branch */
	CLAIM_GRANT,		/* of asked: under epoch; holders: release them */
	CLAIM_LOST,		/* of asked: somebody else was later */
	CLAIM_MERGE,		/* your x won over holders: release them too */
	CLAIM_UNCONFIRMED,	/* cores came into reach: ask again */
	CLAIM_CONFIRMED,	/* every core in reach knows your rows */
	/* a core to a core */
	CLAIM_CLAIM,		/* node of my branch wants x under epoch */
	CLAIM_ANSWER,		/* free (no holders) or held */
	CLAIM_BUSY,		/* my own claim is higher */
	CLAIM_WAIT,		/* granted here: the answer follows its move */
	CLAIM_SYNC,		/* send me all your rows */
	CLAIM_MARK,		/* echo this when you have checked all before */
	CLAIM_ECHO,
	CLAIM_BRANCH,		/* node has uploaded to me: it is mine now */
	/* passed on between routers and stores, not for a registrar */
	CLAIM_SELF,		/* to a desk: you are node; x and asked are the
				 * key of claim_hash(), epoch says how many
				 * other members there are; CLAIM_CONNECTED: a
				 * registrar is in reach, upload */
	CLAIM_RELEASE		/* node is to let go of id: asked, a desk, has
				 * it under epoch; CLAIM_CLEAN: and of its
				 * session */
};

enum {
	CLAIM_DURABLE	= 1,	/* outlives its connection */
	CLAIM_CONNECTED	= 2,
	CLAIM_MOVING	= 4,	/* granted; its move has not ended */
	CLAIM_UNSURE	= 8,	/* not known to hold x: ask it by release */
	CLAIM_PROVISIONAL = 16,	/* somebody was not heard */
	CLAIM_CLEAN	= 32	/* of RELEASE alone */
};

struct claim_holder {
	uint64_t	node, epoch;
	uint8_t		flags;
};

struct claim_msg {
	uint8_t		kind, flags;
	uint8_t		nholders;
	uint64_t	x;		/* claim_hash() of the identifier */
	uint64_t	node;		/* who has it, or wants it */
	uint64_t	epoch;
	uint64_t	asked;		/* the epoch of the attach or claim
					 * answered; of marks the number */
	struct claim_holder holders[CLAIM_HOLDERS];
	struct slice	id;		/* of RELEASE, borrowed */
};

/* Add a holder unless its node is there or there is no room: who is left out
 * is found when rows are compared. */
void claim_add(struct claim_msg *m, const struct claim_holder *h);

/* Does a keep the identifier when b has it too? */
bool claim_beats(const struct claim_holder *a, const struct claim_holder *b);

/* The desk of a shard of the node with this join id; of whichever node a desk
 * or join id is. */
static inline uint64_t
claim_desk(uint64_t join, unsigned shard)
{
	return (join & ~UINT64_C(255)) | (shard & 255);
}

static inline bool
claim_same_node(uint64_t a, uint64_t b)
{
	return a >> 8 == b >> 8;
}

/* SipHash-2-4 of an identifier; key is made of the cluster's uid. */
uint64_t claim_hash(const uint8_t key[16], const void *id, size_t len);

#endif

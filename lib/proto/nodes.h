/*
 * nodes.h: NODES and LINK_STATE (nodes.proto), written into and read out of one
 * buffer without copies. Slices need not end in NUL.
 */
#ifndef PROTO_NODES_H
#define PROTO_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

#define NODES_MAX	255u	/* in one message, the index is a byte's */
#define NODE_NAME_MAX	255u	/* bytes of a name, and of a host */
#define NODE_LINKS_MAX	16u	/* link processes of a node */

/* Both messages fit, whatever is in them. */
#define NODES_BUF	(NODES_MAX * 1024u + 64u)
#define LINK_STATE_BUF	(NODES_MAX * 272u + 64u)

enum node_state {
	NODE_UP		= 1,
	NODE_SUSPECT	= 2,	/* silent, its connections stand */
	NODE_DOWN	= 3,	/* its router; messages may flow all the same */
};

struct node_info {
	struct slice	name, host;
	uint64_t	incarnation;
	uint32_t	state;		/* enum node_state; others: later ones */
	uint32_t	index;		/* 1..NODES_MAX; 0: not in the index */
	bool		core;
	bool		parked;		/* nothing is to flow */
	uint32_t	ports[NODE_LINKS_MAX];	/* by instance; 0: no such */
};

struct nodes {
	uint64_t	router_incarnation, version;
	unsigned	n;
	struct wire_in	in;		/* where nodes_next is */
};

/* Start a message, then nodes_add; its length is wire_out_len. */
void nodes_begin(struct wire_out *w, void *buf, size_t size,
    uint64_t router_incarnation, uint64_t version);
/* ERR_FULL: it does not fit. ERR_INVAL: a name or number beyond its bound. */
int nodes_add(struct wire_out *w, const struct node_info *node);

/* Check all of body. ERR_PROTO. */
int nodes_decode(struct nodes *m, const void *body, size_t len);
/* The next node, its slices inside body. Returns 1, or 0 at the end. */
int nodes_next(struct nodes *m, struct node_info *node);

struct link_flow {
	struct slice	node;
	bool		flows;
};

struct link_state {
	uint32_t	port;
	unsigned	n;
	struct wire_in	in;		/* where link_state_next is */
};

/* Likewise. */
void link_state_begin(struct wire_out *w, void *buf, size_t size,
    uint32_t port);
int link_state_add(struct wire_out *w, const struct link_flow *flow);
int link_state_decode(struct link_state *m, const void *body, size_t len);
int link_state_next(struct link_state *m, struct link_flow *flow);

#endif

/*
 * cluster.h: who belongs to the cluster, as this router has it: lib/member, its
 * file, what the tools ask of it. What carries it between nodes is given by
 * cluster_connect: without that the node is a cluster of one.
 */
#ifndef CLUSTER_H
#define CLUSTER_H

#include "member/member.h"
#include "proto/query.h"
#include "router.h"

struct cluster;

/* What is known of another node beside its membership. */
struct cluster_node {
	const char	*sync;		/* of its routes here: "normal", ... */
	uint64_t	 lag, seq, routes, digest;
};

/* From who has the connections. */
struct cluster_calls {
	/* The hybrid clock. */
	uint64_t (*clock)(void *ctx);
	/* Of the node with this join id, or of our own stream. False: nothing
	 * is known. */
	bool (*look)(void *ctx, uint64_t join, struct cluster_node *out);
	/*
	 * Call this node once: cluster_hello gives a hello that asks to be let
	 * in. What came of it goes to cluster_joined. Not 0: it cannot be
	 * called (ERR_*).
	 */
	int (*join)(void *ctx, const char *name);
	/* Members came or went, rows are to be said (members_say), a view is
	 * to be told: at the end of the turn in which it was saved. */
	void (*changed)(void *ctx);
	/* This node has no row any more that it had: end its connections with
	 * this one. */
	void (*gone)(void *ctx, const struct member_row *row);
};

/* Read what this node knows of itself; ends the program if that is damaged or
 * at odds with the configuration. */
void cluster_open(struct router *r);
void cluster_close(struct router *r);
void cluster_connect(struct router *r, const struct cluster_calls *calls,
    void *ctx);

struct members *cluster_members(struct router *r);
/* What hellos and streams go by: that of the process, or above what others
 * have seen. */
uint64_t cluster_incarnation(const struct router *r);

/* A hello for this node, as members_hello: 0 while nothing can be said. */
size_t cluster_hello(struct router *r, const char *to, void *buf, size_t size);
/* Is it asking this node to be let in? Then its answer is for cluster_joined,
 * else for members_refused. */
bool cluster_is_joining(const struct router *r, const char *name);
/* What `join` was called for came to this: an answer (bytes), or why not. */
void cluster_joined(struct router *r, const void *bytes, size_t len,
    const char *why);

/* After anything was done with cluster_members: saved, and told, at the end of
 * this turn. */
void cluster_turn(struct router *r);
void cluster_tick(struct router *r, uint64_t now);

/* The cluster's own questions. A length, or ERR_FULL. */
long cluster_answer(struct router *r, const struct query *q,
    struct reply_writer *w, unsigned limit);

#endif

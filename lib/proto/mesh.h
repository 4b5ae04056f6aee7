/*
 * mesh.h: messages of the metadata channel (mesh.proto), written into and read
 * out of one buffer without copies. Slices need not end in NUL.
 */
#ifndef PROTO_MESH_H
#define PROTO_MESH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/nodes.h"

#define MESH_VERSION	1	/* the newest we speak, */
#define MESH_OLDEST	1	/* and the oldest */

#define MESH_BODY_MAX	(8u * 1024 * 1024 + 65536)	/* of any message */
#define MESH_WHY_MAX	255u
#define MESH_CLUSTER_MAX 255u
/* Holds any message of ours but what `member` adds. */
#define MESH_BUF_MIN	2048u

enum mesh_kind {		/* never reused */
	MESH_HELLO	= 1,
	MESH_WELCOME	= 2,
	MESH_REFUSED	= 3,
	MESH_BEAT	= 4,
	MESH_PORTS	= 5,
	MESH_BYE	= 6,

	/* Of rooms: their body is their own. */
	MESH_ROOMS	= 32,
	MESH_RLOG	= 32,	/* rlog/message.h */
	MESH_FOLLOW	= 33,	/* a replicant follows (1 byte: 1) or leaves
				 * (0) this core */
	MESH_MEMBER	= 34,	/* lib/member */
	MESH_REGISTRAR	= 35,	/* lib/registrar */
};

enum mesh_status {		/* never reused */
	MESH_OK		= 0,
	MESH_TOO_OLD	= 1,	/* no version in common */
	MESH_TOO_NEW	= 2,
	MESH_OTHER_CLUSTER = 3,
	MESH_SKEW	= 4,	/* the other clock is too far ahead */
	MESH_OTHER_NAME	= 5,	/* somebody else was called */
	MESH_SAME_NAME	= 6,	/* it has our name */
	MESH_DUPLICATE	= 7,	/* there is a connection already */
	MESH_STALE	= 8,	/* a later incarnation was here */
	MESH_ROLES	= 9,	/* two replicants have nothing to say */
	MESH_FULL	= 10,	/* too many nodes */
	MESH_NO_MEMBER	= 11,	/* `member` says why */
	MESH_NONSENSE	= 12,	/* what came makes no sense */
	MESH_GOING	= 13,	/* the sender ends */
	MESH_SILENT	= 14,	/* nothing was heard for too long */
	MESH_ANSWERED	= 15,	/* what was asked for is in `member` */

	/* Never said, but why a connection ended or did not come about. */
	MESH_CLOSED	= 128,
	MESH_UNREACHED	= 129,
	MESH_NO_HANDSHAKE = 130,
};

struct mesh_msg {
	uint32_t	version, oldest;
	struct slice	node, cluster, member, called, why;
	uint64_t	incarnation, clock, id, to, seen;
	bool		core;
	uint32_t	replicants, status;
	uint32_t	ports[NODE_LINKS_MAX];	/* by instance; 0: none */
};

/* Length, or ERR_FULL; ERR_INVAL: a text or number is beyond its bound. */
long mesh_encode(const struct mesh_msg *m, void *buf, size_t size);

/*
 * Check all of body. ERR_PROTO. named: it is a HELLO or WELCOME and must say
 * who it is from (node, incarnation and id not empty or 0).
 */
int mesh_decode(struct mesh_msg *m, const void *body, size_t len, bool named);

/* A word for logs ("duplicate"). */
const char *mesh_status_name(uint32_t status);

#endif

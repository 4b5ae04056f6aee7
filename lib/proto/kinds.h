/*
 * kinds.h: the number of every message between processes. Never reused.
 *
 * On the bus (ZeroMQ) a message is: the envelope (envelope.proto), then one
 * body (a control message of the .proto named here, or packed records), then,
 * for a record above 60 KiB, its payload as a third part.
 * On supervise.sock a message is: kind (2 bytes, little endian), then one
 * message of supervise.proto.
 */
#ifndef PROTO_KINDS_H
#define PROTO_KINDS_H

#define PROTO_VERSION	1

enum kind {
	KIND_NONE	= 0,

	/* The bus itself: never sequenced. */
	KIND_HELLO	= 1,	/* Hello: dealer -> router socket */
	KIND_WELCOME	= 2,	/* Welcome: its answer */
	KIND_ACK	= 3,	/* no body: got, stored, credit in the envelope */

	/* Streams: sequenced, resent, acknowledged. */
	KIND_RECORDS	= 16,	/* packed records (record.h) */
	KIND_ATTACH	= 17,	/* Attach: client ids taken (listener -> listener) */
	KIND_ROUTES	= 18,	/* Routes: owner -> router (route.proto) */
	KIND_SESSION	= 19,	/* Session: listener -> store (session.proto) */
	KIND_SERVE	= 20,	/* Session: store -> listener */
	KIND_NODES	= 21,	/* Nodes: router -> cluster-link (nodes.proto) */
	KIND_CLAIM	= 24,	/* Claim: stores, routers (claim.proto) */
	KIND_MOVE	= 25,	/* Move: store <-> store (move.proto) */

	/* Single messages, unsequenced: lost with the connection. */
	KIND_ROUTE_ACK	= 32,	/* RouteAck: router -> owner */
	KIND_FIB_CONFIRM = 33,	/* FibConfirm: reader -> router */
	KIND_QUERY	= 40,	/* Query: tool -> anybody (query.proto) */
	KIND_REPLY	= 41,	/* Reply: its answer, one page */
	KIND_LINK_STATE	= 42,	/* LinkState: cluster-link -> router */

	/* supervise.sock (supervise.proto). */
	KIND_SUP_HELLO	= 64,	/* process or tool -> supervisor, first */
	KIND_SUP_WELCOME = 65,	/* name, incarnation */
	KIND_SUP_PEERS	= 66,
	KIND_SUP_SOCKETS = 67,	/* with descriptors; also how one is given back */
	KIND_SUP_SEGMENT = 68,	/* with descriptors, both ways */
	KIND_SUP_READY	= 69,
	KIND_SUP_PING	= 70,
	KIND_SUP_PONG	= 71,
	KIND_SUP_DRAIN	= 72,
	KIND_SUP_CONF	= 73,	/* the merged configuration as a descriptor */
	KIND_SUP_HANDOVER = 74,	/* to another process of the same name */
	KIND_SUP_REQUEST = 80,	/* mqttc-ctl -> supervisor */
	KIND_SUP_RESULT	= 81,
};

#endif

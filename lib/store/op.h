/*
 * op.h: the operations of a shard's log as bytes: little-endian, every length
 * checked. The first byte is the kind; unknown kinds are ERR_PROTO.
 *
 * An operation is its fields (op.c has the table), then its targets, then its
 * record, up to the end.
 */
#ifndef STORE_OP_H
#define STORE_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/msgid.h"

enum store_op {
	STORE_OPEN	= 1,	/* a client took its session, or it began */
	STORE_CLOSE	= 2,	/* its connection ended; the session waits */
	STORE_END	= 3,	/* the session is over */
	STORE_SUBSCRIBE	= 4,
	STORE_UNSUBSCRIBE = 5,
	STORE_PUBLISH	= 6,	/* a message, and who gets it */
	STORE_ACK	= 7,	/* a client finished, or got, what was sent */
	STORE_DROP	= 8,	/* an entry goes unsent: queue full, expired */
	STORE_INBOUND	= 9,	/* QoS 2 of this client came */
	STORE_RELEASE	= 10,	/* ... and its PUBREL */
	STORE_MARK	= 11,	/* up to here everything of a source is taken;
				 * id {0, 0}: the source is forgotten */
	STORE_MOVE	= 12,	/* a body lies here from now on */
	STORE_WILL	= 13,	/* the will is withdrawn, or was sent */
	STORE_RETAIN	= 14,	/* not this room's: see retain/code.h */
	STORE_ONWARD	= 15,	/* a message this shard is the source of: of
				 * handle the will, the QoS 2, or an entry that
				 * its group takes back */
	STORE_ONWARD_DONE = 16,	/* ... which all have, up to this position */
	STORE_SKIP	= 17	/* the next message of the session gets this
				 * offset (it was brought from elsewhere) */
};

/* STORE_ACK's `what` for a PUBREC whose reason code refuses the message. */
#define STORE_PUBREC_REFUSED	0x85

/* Bytes of a target, and with a group; each identifier takes 4 more. */
#define STORE_TARGET_MIN	11
#define STORE_TARGET_MAX	19

/* One of a message's targets. */
struct op_target {
	uint64_t	handle;
	uint64_t	group;		/* see struct entry */
	uint8_t		qos;		/* 1, 2 */
	bool		retain;
	uint16_t	nids;
	const uint8_t	*ids;		/* packed le32, in the operation */
};

/* One struct for all; which fields an operation has is said at each. */
struct op {
	enum store_op	 kind;
	uint64_t	 handle;	/* all but PUBLISH, MARK, MOVE,
					 * ONWARD_DONE; never 0. ONWARD: whose
					 * will it is, with pid whose QoS 2,
					 * with `back` whose entry at offset; 0
					 * nobody's */
	uint64_t	 at_ms;		/* OPEN, CLOSE, PUBLISH */
	uint64_t	 offset;	/* ACK, DROP, SKIP, ONWARD; CLOSE:
					 * session.sent */
	uint64_t	 pos;		/* MOVE: where it lay; ONWARD_DONE */
	uint64_t	 incarnation;	/* OPEN */
	uint64_t	 serial;	/* OPEN: of the connection, at its
					 * listener */
	uint32_t	 listener;	/* OPEN */
	uint32_t	 expiry_s;	/* OPEN, CLOSE */
	uint32_t	 will_delay_s;	/* OPEN */
	uint32_t	 sub_id;	/* SUBSCRIBE: 0 none */
	uint32_t	 slot;		/* PUBLISH, MARK, ONWARD */
	struct msgid	 id;		/* PUBLISH, MARK, INBOUND; ONWARD: as
					 * the source had it */
	uint64_t	 deadline_ms;	/* PUBLISH, MOVE: 0 never */
	uint16_t	 pid;		/* INBOUND, RELEASE; ONWARD or 0 */
	uint8_t		 version;	/* OPEN: 3, 4, 5 */
	uint8_t		 options;	/* SUBSCRIBE: 3.8.3.1 */
	uint8_t		 what;		/* ACK: MQTT_PUBACK, _PUBREC, _PUBCOMP,
					 * STORE_PUBREC_REFUSED */
	bool		 durable;	/* OPEN */
	bool		 fresh;		/* OPEN: forget an old session of it */
	bool		 keep_will;	/* CLOSE: it waits for its delay */
	bool		 back;		/* ONWARD */
	struct slice	 client_id;	/* OPEN */
	struct slice	 share, filter;	/* (UN)SUBSCRIBE; share empty: none */
	struct slice	 source;	/* PUBLISH, MARK, ONWARD: process name
					 * whose mark is raised, or empty */
	struct slice	 will;		/* OPEN */
	struct slice	 record;	/* PUBLISH, MOVE, INBOUND, ONWARD:
					 * packed record (proto/record.h),
					 * payload inside; not looked at here.
					 * RETAIN: all behind the kind */
	const uint8_t	*targets;	/* PUBLISH, MOVE: who may still have
					 * it; packed */
	size_t		 targets_len;	/* bytes; set by op_get */
	uint32_t	 ntargets;
};

/*
 * The bytes of o, without targets and record (they follow, in this order, given
 * to the log as parts of their own); o->ntargets and o->record.len must be
 * right. size 0 asks how many. ERR_FULL if they do not fit, ERR_INVAL for a
 * length beyond its field, a kind without a row (STORE_RETAIN has its own
 * writer).
 */
long op_put(uint8_t *out, size_t size, const struct op *o);
/* One target behind them; t->ids is not looked at, ids are t->nids of them.
 * size 0 asks how many bytes. ERR_FULL. */
long op_put_target(uint8_t *out, size_t size, const struct op_target *t,
    const uint32_t *ids);

/* 0 or ERR_PROTO. Slices lie in data. Members the kind has not are 0. */
int op_get(struct op *o, const void *data, size_t len);
/* 1 and *t, 0 at the end. at starts at 0, left at o->ntargets. */
int op_next_target(const struct op *o, size_t *at, uint32_t *left,
    struct op_target *t);

#endif

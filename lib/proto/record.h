/*
 * record.h: one message on its way between processes, packed. Numbers are
 * little-endian, the id is big-endian (msgid.h):
 *
 *	 0  id		16
 *	16  total	 4  bytes of this record here, header included
 *	20  payload	 4  bytes of payload, wherever they are
 *	24  expiry	 4  seconds left at the time of the id, if that is not 0;
 *			    RECORD_NO_EXPIRY: none
 *	28  topic	 2  bytes
 *	30  client id	 2  bytes, of the publisher (no local)
 *	32  properties	 4  bytes
 *	36  flags	 2
 *	38  extension	 2  bytes
 *	40  extension, topic, client id, properties, payload
 *
 * Properties are those of a v5 PUBLISH that travel with the message (3.3.2.3:
 * payload format, content type, response topic, correlation data, user
 * properties), encoded as there but without the length in front; never topic
 * alias, subscription identifiers or expiry.
 *
 * The extension is a run of {type 2, length 2, value}; unknown types are
 * skipped and passed on.
 *
 * Records follow one another in the body of a frame of at most FRAME_MAX
 * bytes. One of more than RECORD_ALONE bytes is alone in its frame; then
 * RECORD_DETACHED is set, total leaves the payload out, and the payload is the
 * third part of the message, of exactly that length. (It is not set if there
 * is no payload.) Flags and bits not named here are 0 when written and ignored
 * when read.
 */
#ifndef PROTO_RECORD_H
#define PROTO_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/msgid.h"

#define RECORD_HEADER		40
#define RECORD_EXT_HEADER	4	/* type 2, length 2 */
#define RECORD_ALONE		(60 * 1024)
#define FRAME_MAX		(64 * 1024)
#define RECORD_NO_EXPIRY	UINT32_MAX
/* Payload and properties of an MQTT packet are below this (2.1.4). */
#define RECORD_FIELD_MAX	268435455u
#define RECORD_MAX		(RECORD_HEADER + 3 * 65535u + RECORD_FIELD_MAX)

enum record_flag {
	RECORD_QOS	= 0x0003,	/* 0..2; 3 is refused */
	RECORD_RETAIN	= 0x0004,	/* as it was published */
	RECORD_LIVE	= 0x0008,	/* L: sessions of a connection */
	RECORD_DURABLE	= 0x0010,	/* D: durable sessions */
	RECORD_SUBS	= 0x0020,	/* match against the subscribers */
	RECORD_GROUPS	= 0x0040,	/* for groups in the extension */
	RECORD_DETACHED	= 0x0080,	/* written by record_put alone */
	RECORD_HOPS	= 0x0700,	/* picks of a group member so far */
	RECORD_SOURCE	= 0x0800,	/* to a store: publish it, as its source */
};
#define RECORD_HOPS_SHIFT	8
#define RECORD_HOPS_MAX		4

enum record_ext {
	EXT_GROUP	= 1,	/* XXH3-128 of "name/filter"; may repeat */
	EXT_RETAINED	= 2,	/* 16 bytes: version {clock 8, node 8} */
	EXT_INBOUND	= 3,	/* 18 bytes: {handle 8, packet id 2, serial of
				 * the connection 8} of the durable session that
				 * published it */
	EXT_SESSION	= 4,	/* for that durable session alone: {handle 8,
				 * QoS 1, retain 1, subscription ids 4 each} */
	EXT_ONCE	= 5,	/* 20 bytes, with EXT_SESSION: {id 16, moment 4};
				 * it is the retained message of that id: void
				 * if the session got it live since then */
	EXT_PICK	= 6,	/* 28 bytes, of a store's log alone: {group 16,
				 * instance 4, incarnation 8} that was picked
				 * for it */
};

/* A record taken apart. Slices are borrowed: from the frame it came in, or
 * from whoever wants it sent. */
struct record {
	struct msgid	id;
	uint32_t	expiry_s;	/* seconds left when it got its id */
	uint16_t	flags;
	struct slice	ext;
	struct slice	topic;
	struct slice	client_id;
	struct slice	properties;
	struct slice	payload;
};

static inline unsigned
record_qos(const struct record *r)
{
	return r->flags & RECORD_QOS;
}

static inline unsigned
record_hops(const struct record *r)
{
	return (r->flags & RECORD_HOPS) >> RECORD_HOPS_SHIFT;
}

static inline void
record_set_hops(struct record *r, unsigned hops)
{
	r->flags = (uint16_t)((r->flags & ~RECORD_HOPS) |
	    ((hops << RECORD_HOPS_SHIFT) & RECORD_HOPS));
}

/* Seconds left at now_ms until deadline_ms, if that is not 0: as many as there
 * were, less those that have passed (3.3.2.3.3). 0: it has expired. */
static inline uint32_t
expiry_left(uint64_t deadline_ms, uint64_t now_ms)
{
	if (deadline_ms == 0)
		return RECORD_NO_EXPIRY;
	if (deadline_ms <= now_ms)
		return 0;
	return (uint32_t)MIN((deadline_ms - now_ms - 1) / 1000 + 1,
	    RECORD_NO_EXPIRY - 1);
}

/* When r expires, ms since 1970; 0: never. It has been on its way since it got
 * its id; one of zeros, or of a clock ahead of ours, is of now. */
static inline uint64_t
record_deadline_ms(const struct record *r, uint64_t now_ms)
{
	uint64_t ms = r->id.hi / 1000000;

	if (r->expiry_s == RECORD_NO_EXPIRY)
		return 0;
	return (ms == 0 || ms > now_ms ? now_ms : ms) +
	    UINT64_C(1000) * r->expiry_s;
}

static inline uint32_t
record_expiry_left(const struct record *r, uint64_t now_ms)
{
	return expiry_left(record_deadline_ms(r, now_ms), now_ms);
}

/* Bytes of r, payload included: what it costs in credit. */
static inline size_t
record_size(const struct record *r)
{
	return RECORD_HEADER + r->ext.len + r->topic.len + r->client_id.len +
	    r->properties.len + r->payload.len;
}

/* Does r travel alone, its payload apart? */
static inline bool
record_is_alone(const struct record *r)
{
	return record_size(r) > RECORD_ALONE;
}

/* Bytes record_put writes: without the payload when that is detached. */
static inline size_t
record_body_size(const struct record *r)
{
	return record_size(r) - (record_is_alone(r) ? r->payload.len : 0);
}

/*
 * Write r to out, which has room for size bytes. Returns what was written
 * (record_body_size), ERR_FULL if it does not fit, ERR_INVAL if a length is
 * beyond its field or the QoS is 3. Sets RECORD_DETACHED as is right, whatever
 * r says.
 */
long record_put(uint8_t *out, size_t size, const struct record *r);

/* The same in one piece of record_size bytes, however large. */
long record_put_whole(uint8_t *out, size_t size, const struct record *r);

/* The records of one frame. */
struct record_iter {
	const uint8_t	*at, *end;
	struct slice	 payload;	/* third part, or {NULL, 0} */
	uint32_t	 left;		/* records not read yet */
};

/* Look at body, which holds count records, and at the third part, if any.
 * Reads nothing yet. */
void record_iter_init(struct record_iter *it, const void *body, size_t len,
    const void *payload, size_t payload_len, uint32_t count);

/*
 * The next record, its slices inside the frame. Returns 1; 0 when all count
 * records were read and nothing is left over; ERR_PROTO if any length, count
 * or flag is impossible: the rest of the frame is void, *r is not touched.
 */
int record_next(struct record_iter *it, struct record *r);

/* Append {type, value} to an extension of *len bytes in out. ERR_FULL. */
int record_ext_put(uint8_t *out, size_t size, size_t *len, uint16_t type,
    const void *value, size_t n);

/*
 * The entries of r->ext in order: *at starts at 0. Returns 1 and sets *type
 * and *value, or 0 at the end. (record_next refuses an extension that is not
 * whole, so there is no error here.)
 */
int record_ext_next(const struct record *r, size_t *at, uint16_t *type,
    struct slice *value);

#endif

/*
 * retain.h: the retained messages of one shard, in the order of their topics
 * level by level, so that what a filter can match lies in few runs and what
 * lies between them is jumped over. Spec: MQTT 5.0 sections 3.3.1.3 and 4.7.
 *
 * One B+ tree is everything: an exact topic is looked up in it as well. (A hash
 * table beside it would save a microsecond and cost a pause of tens of
 * milliseconds whenever it doubles.)
 *
 * Not thread safe; calls no clock: seconds since 1970 are an argument.
 */
#ifndef RETAIN_RETAIN_H
#define RETAIN_RETAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "topic/filter.h"

/* Payload and properties of an MQTT packet are below this (2.1.4). */
#define RETAIN_FIELD_MAX	268435455u
#define RETAIN_NO_EXPIRY	UINT32_MAX
/* Bytes of the place where a page ended, at most. */
#define RETAIN_FROM_MAX		(TOPIC_MAX + 1)

struct retain;

/* One message. What a call hands out points into it until the next change. */
struct retain_msg {
	struct slice	topic;
	struct slice	client_id;	/* of the publisher (no local) */
	struct slice	props;		/* as proto/record.h has them */
	struct slice	payload;
	uint8_t		qos;
	uint64_t	version_hi;	/* clock */
	uint64_t	version_lo;	/* node */
	uint64_t	id_hi, id_lo;	/* message id */
	uint64_t	deadline_ms;	/* since 1970; 0: does not expire */
	uint64_t	pos;		/* the caller's: where in its log */
};

struct retain_limits {
	uint32_t	max_messages;
	uint64_t	max_bytes;	/* sum of retain_msg_bytes() */
};

/* What a message counts towards max_bytes, here and of a page. */
static inline size_t
retain_msg_bytes(const struct retain_msg *m)
{
	return m->topic.len + m->client_id.len + m->props.len + m->payload.len;
}

/* NULL if out of memory. */
struct retain *retain_new(const struct retain_limits *lim);
void retain_free(struct retain **r);
/* What is above new limits stays until it is replaced, deleted or expires. */
void retain_set_limits(struct retain *r, const struct retain_limits *lim);

uint32_t retain_count(const struct retain *r);	/* expired ones included */
uint64_t retain_bytes(const struct retain *r);

/*
 * m is the newest of its topic, unless one not older is here: of two versions
 * the higher one wins. Without payload it deletes: nothing stays here, not even
 * its version. Copies m, whose slices may be this room's own. Returns
 *   1		m stands now
 *   0		m is old (its version is not above the one here)
 *   ERR_FULL	beyond the limits; one that replaces a message and has no more
 *		bytes than that is never refused so. Expired ones count: call
 *		retain_expire() first
 *   ERR_INVAL	an empty topic, QoS 3 or a length beyond its field
 *   ERR_NOMEM
 * and, unless 1, nothing changed. A delete fails for nothing but ERR_INVAL.
 */
int retain_set(struct retain *r, const struct retain_msg *m);

/*
 * The message of this very topic and its expiry_s left, RETAIN_NO_EXPIRY: none.
 * ERR_NOTFOUND if there is none or it has expired; *out and *expiry_s are
 * untouched then. expiry_s may be NULL.
 */
int retain_get(const struct retain *r, const void *topic, size_t len,
    uint64_t now_ms, struct retain_msg *out, uint32_t *expiry_s);

/* Would retain_set() take a message of that topic and so many bytes
 * (retain_msg_bytes), as far as limits go? */
bool retain_has_room(const struct retain *r, const void *topic, size_t len,
    size_t bytes);

/* The version that a new message must be above, of an expired one too. False
 * if there is none. */
bool retain_version(const struct retain *r, const void *topic, size_t len,
    uint64_t *hi, uint64_t *lo);

/* --- Lookup by filter, in pages -------------------------------------- */

struct retain_query {
	struct slice	filter;		/* bare and checked (topic/filter.h) */
	struct slice	from;		/* empty: from the beginning; else what
					 * the page before left in next */
	uint64_t	now_ms;		/* 0: expired ones too */
	bool		all_dollar;	/* wildcards in the first level match
					 * '$' too: `#` is all there is */
	/* A page ends at the first of these; 0 counts as 1. */
	uint32_t	max_messages;
	uint64_t	max_bytes;	/* one message may be larger */
	uint32_t	max_steps;	/* messages looked at, fit or not, and
					 * places looked for */
};

struct retain_page {
	uint32_t	messages;
	uint64_t	bytes;
	uint32_t	steps;
	bool		more;		/* go on from next */
	struct slice	next;		/* at most RETAIN_FROM_MAX bytes, valid
					 * until the next retain_match() */
};

/*
 * Give each() the messages the filter matches, topics in order, until the page
 * is full. each() returns false if it has no room for m: then the page ends
 * before m. It must not change r. `+` and `#` in the first level do not match
 * topics that begin with '$' [MQTT-4.7.2-1].
 *
 * The place where a page ended is a topic's, not a message's: whatever is
 * added, replaced or deleted between two pages, each message that is there all
 * the time is given exactly once and none twice.
 *
 * A step costs at most what looking up one topic does, and a filter takes two
 * or three for each branch of the tree of levels that it must try, however many
 * messages lie below: `a/+/c` tries each <x> of `a/<x>`, not what else is in
 * it. (A topic takes one more for each KiB of it.)
 */
void retain_match(struct retain *r, const struct retain_query *q,
    bool (*each)(void *ctx, const struct retain_msg *m, uint32_t expiry_s),
    void *ctx, struct retain_page *page);

/* --- Expiry ----------------------------------------------------------- */

/* Remove those whose deadline is at or before now_ms, the earliest first, max at
 * most. Returns how many. */
uint32_t retain_expire(struct retain *r, uint64_t now_ms, uint32_t max);

/* The earliest deadline there is, 0 if none. */
uint64_t retain_next_deadline(const struct retain *r);

#endif

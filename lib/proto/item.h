/*
 * item.h: one thing of an export of the session-stores (Item of query.proto),
 * on its way out of a store or into one. A session is told by a SESSION, what
 * it has, and a SESSION_END; each of these names its client id.
 *
 * Properties and payload may be longer than a page: then the item comes in
 * parts, each with a run of them (behind one another, as if they were one) from
 * `at` on; only the first has the other fields. item_join puts them together.
 */
#ifndef PROTO_ITEM_H
#define PROTO_ITEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

enum item_kind {
	ITEM_SESSION	= 1,	/* client_id, version, expiry_s, connected, at_ms
				 * (when its connection ended, or now) */
	ITEM_MESSAGE	= 2,	/* client_id, offset, state, qos, retain, ids
				 * (of subscriptions); unless it is received:
				 * topic, deadline_ms, props, payload */
	ITEM_INBOUND	= 3,	/* client_id, ids: packet ids of its QoS 2 */
	ITEM_SUBSCRIPTION = 4,	/* client_id, topic (filter), share, options,
				 * sub_id */
	ITEM_SESSION_END = 5,	/* client_id, expiry_s, at_ms: it was all */
	ITEM_RETAINED	= 6,	/* topic, client_id (publisher), qos, version,
				 * id, deadline_ms, props, payload */
	ITEM_NKINDS
};

enum item_state {
	ITEM_WAITS	= 0,	/* not sent */
	ITEM_SENT	= 1,	/* sent, not acknowledged: again with DUP */
	ITEM_RECEIVED	= 2,	/* QoS 2, PUBREC came: only PUBREL */
	ITEM_NSTATES
};

struct item_row {
	uint32_t	kind;
	struct slice	client_id, topic, share, ids, props, payload;
	uint32_t	version, expiry_s, options, sub_id, state, qos;
	uint32_t	props_len, payload_len, at;
	uint64_t	at_ms, offset, deadline_ms;
	uint64_t	version_hi, version_lo, id_hi, id_lo;
	bool		connected, retain;
};

static inline uint64_t
item_size(const struct item_row *it)
{
	return (uint64_t)it->props_len + it->payload_len;
}

/* Is it all of the item, and no part? */
static inline bool
item_is_whole(const struct item_row *it)
{
	return it->at == 0 && it->props.len + it->payload.len == item_size(it);
}

/*
 * Append it as field `number`, from it->at on, and raise it->at to what is to
 * be told next: all is told when that is item_size(). it has all of its props
 * and payload. may_part: if it does not fit take what does. ERR_FULL: nothing
 * was written.
 */
int item_put(struct wire_out *w, unsigned number, struct item_row *it,
    bool may_part);

/* body is what item_put wrote. ERR_PROTO; whether the fields make sense is not
 * looked at, but that lengths agree. */
int item_get(struct item_row *it, struct slice body);

/* The items of a batch: those put as field ITEMS_FIELD. 1, 0 at the end,
 * ERR_PROTO. */
#define ITEMS_FIELD	1
int items_next(struct wire_in *in, struct item_row *it);

/* --- Parts, put together ------------------------------------------------ */

struct item_join {
	struct item_row	 it;		/* of the first part; slices in buf */
	uint8_t		*buf;		/* NULL: nothing is under way */
	size_t		 fixed, have;	/* bytes of the other slices; of data */
	size_t		 cap;
};

/*
 * Take what came: 1 and *it is whole (its slices are those that came, or j's
 * until the next call), 0 if more is to come, ERR_PROTO if it is no part of
 * what is under way (that is forgotten; a first part begins anew), ERR_NOMEM,
 * ERR_FULL beyond max bytes in all.
 */
int item_join(struct item_join *j, struct item_row *it, size_t max);
/* Is more to come? (Else it may be cleared.) */
static inline bool
item_join_waits(const struct item_join *j)
{
	return j->buf != NULL && j->it.kind != 0;
}

void item_join_clear(struct item_join *j);

#endif

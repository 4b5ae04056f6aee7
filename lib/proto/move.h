/*
 * move.h: the messages of move/move.h as bytes (move.proto): entries, any
 * number in a body, in order; and the items of a session that STATE and RELAY
 * carry, in parts where their data does not fit into one body.
 *
 * Durations travel, not deadlines: the clocks of two nodes differ.
 */
#ifndef PROTO_MOVE_H
#define PROTO_MOVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "move/move.h"
#include "proto/wire.h"

enum move_item_kind {
	/* version, expiry_s, away_ms (0: connected until the freeze), offset
	 * (the next to be given), sent (below it was handed out), began (the
	 * epoch of its clean start). */
	MOVE_ITEM_SESSION	= 1,
	/* share, filter, options, sub_id. */
	MOVE_ITEM_SUB		= 2,
	/* offset, state, qos, retain, group, ids (of subscriptions); unless it
	 * is RECEIVED: data, the packed record in one piece, with its id and
	 * what is left of its expiry. A RELAY has no offset and no state. */
	MOVE_ITEM_MESSAGE	= 3,
	/* QoS 2 of the client itself that is not released: pid, id_hi, id_lo
	 * (the message it stands for: it comes here, too, from its source). */
	MOVE_ITEM_INBOUND	= 4,
	/* ids: of messages that came, whether they are still queued or not, the
	 * oldest first; id_hi, id_lo: the floor (move/seen.h). Also a RELAY, of
	 * what a merge brought; then state RECEIVED: none of them waits there
	 * any more, they were delivered. */
	MOVE_ITEM_SEEN		= 5,
	/* delay_s, away_ms, data (the packed record). */
	MOVE_ITEM_WILL		= 6,
	MOVE_ITEM_NKINDS
};

enum move_item_state {
	MOVE_ITEM_WAITS		= 0,	/* not sent */
	MOVE_ITEM_SENT		= 1,	/* sent, not acknowledged */
	MOVE_ITEM_RECEIVED	= 2,	/* PUBREC came: only PUBREL */
	MOVE_ITEM_NSTATES
};

struct move_item {
	uint32_t	kind;		/* enum move_item_kind */
	uint32_t	total, at;	/* of data: bytes in all; this run's */
	uint32_t	version, expiry_s, delay_s, state, pid, qos, options,
			sub_id;
	uint64_t	away_ms, offset, sent, id_hi, id_lo, group, began;
	bool		retain;
	struct slice	share, filter, ids, data;
};

/* RELEASE, INSTALLED and VISIBLE have the client identifier: H may know the
 * session by its text alone, and finds two of one hash apart by it. */
struct move_entry {
	struct move_msg	 m;		/* m.item is NULL or points to item */
	struct slice	 client_id;
	struct move_item item;
};

#define MOVE_BODY_MIN	(512 * 1024)	/* holds any entry, data apart */
#define MOVE_EPOCH_MAX	INT64_MAX

/*
 * Append m to a body that began as wire_out_init(w, buf, size), with item (or
 * NULL), of whose data there is a run from item->at on; raises item->at to what
 * is to be told next. All is told when that is item->data.len, else call again
 * with the next body. ERR_FULL: send this one, begin the next; nothing was
 * written then.
 */
int move_msg_put(struct wire_out *w, const struct move_msg *m,
    struct slice client_id, struct move_item *item);

/*
 * The next entry of a kind we know, its slices inside the body; others are
 * skipped. Returns 1; 0 at the end; ERR_PROTO: the rest is void, *e is not
 * touched. Items of kinds we do not know are handed on: they count.
 */
int move_msg_next(struct wire_in *in, struct move_entry *e);

/* --- Parts, put together: one of these for each move --------------------- */

struct move_join {
	struct move_entry e;		/* of the first part; slices in buf */
	uint8_t		*buf;		/* NULL: nothing is under way */
	size_t		 fixed, have, cap;	/* other slices; data */
};

/*
 * Take an entry with an item that came: 1 and it is whole (its slices are those
 * that came, or j's until the next call); 0 if more is to come, or it was a
 * part of something whose begin was lost (that is forgotten: whoever waits for
 * the item asks again); ERR_NOMEM; ERR_FULL beyond max bytes.
 */
int move_join(struct move_join *j, struct move_entry *e, size_t max);
void move_join_clear(struct move_join *j);

#endif

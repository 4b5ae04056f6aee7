/*
 * seen.h: the message ids that a session remembers while it moves: those that
 * came with it, those relayed and those received since. Bounded: the oldest
 * to come goes first, and `floor` is the highest that ever went. So a message
 * is NEW, or was SEEN, or is at or below the floor, where nobody knows: one of
 * QoS 1 is taken then (at least once), one of QoS 2 is not (at most once).
 *
 * Ids are those of proto/msgid.h, {hi, lo}; they rise with time. All zero with
 * max set is a valid empty set.
 */
#ifndef MOVE_SEEN_H
#define MOVE_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum seen_answer { SEEN_NEW, SEEN_BEFORE, SEEN_UNKNOWN };

struct seen_id {
	uint64_t	hi, lo;
};

struct seen {
	uint32_t	 max;		/* ids remembered at most; below 2^30 */
	uint32_t	 n, first;	/* of the ring */
	uint32_t	 cap, mask;	/* of the ring; of cells */
	struct seen_id	*ids;		/* in the order they came */
	uint32_t	*cells;		/* 1 + place in the ring, by hash */
	struct seen_id	 floor;		/* {0, 0}: none ever went */
};

void seen_clear(struct seen *s);		/* max stays */

enum seen_answer seen_has(const struct seen *s, struct seen_id id);

/* Remember id, unless it is remembered. ERR_NOMEM: nothing changed. */
int seen_add(struct seen *s, struct seen_id id);

/* Everything at or below floor may have been seen: it came with a session that
 * remembers no more. */
void seen_raise(struct seen *s, struct seen_id floor);

/* The i-th of s->n, the oldest to come first. */
struct seen_id seen_at(const struct seen *s, uint32_t i);

/* *to, which holds nothing, becomes as from is. ERR_NOMEM. */
int seen_copy(struct seen *to, const struct seen *from);

#endif

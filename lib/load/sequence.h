/*
 * sequence.h: what one receiver has had of one sender's numbered messages:
 * lost, duplicate and reordered ones told apart.
 *
 * Numbers are given from 0 without gaps. While all is well this is one
 * counter; from the first gap on, a bit each for the last SEQUENCE_WINDOW
 * numbers says which of them came. What is late by more than that cannot be
 * told from a duplicate and counts as one. Zeroed memory is a fresh sequence.
 */
#ifndef LOAD_SEQUENCE_H
#define LOAD_SEQUENCE_H

#include <stdint.h>

#include "base/util.h"

#define SEQUENCE_WINDOW	16384u

struct sequence {
	uint32_t	 next;		/* the lowest number not yet passed */
	uint64_t	*seen;		/* NULL: everything below next came */
};

enum sequence_is {
	SEQUENCE_NEXT,			/* the one expected */
	SEQUENCE_AHEAD,			/* some before it have not come */
	SEQUENCE_LATE,			/* missing so far, and out of order */
	SEQUENCE_DUPLICATE,
};

/* Free what it has and make it fresh. */
void sequence_fini(struct sequence *s);

/* The general case of sequence_take. */
int sequence_take_slow(struct sequence *s, uint32_t n, uint32_t *passed);

/*
 * Message n came: returns an enum sequence_is. *passed becomes how many
 * numbers s->next moved over, those that are missing among them. ERR_NOMEM:
 * nothing changed.
 */
static inline int
sequence_take(struct sequence *s, uint32_t n, uint32_t *passed)
{
	if (LIKELY(n == s->next && s->seen == NULL)) {
		s->next++;
		*passed = 1;
		return SEQUENCE_NEXT;
	}
	return sequence_take_slow(s, n, passed);
}

/* Wait no longer for anything below n: what comes of it is late. ERR_NOMEM. */
int sequence_pass(struct sequence *s, uint32_t n);

#endif

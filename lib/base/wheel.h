/*
 * wheel.h: a timing wheel for very many coarse deadlines (keep-alive, will
 * delay, SUBACK). Adding, moving and removing are O(1); a node that is due is
 * handed out once and is then out of the wheel. Time is the caller's.
 */
#ifndef BASE_WHEEL_H
#define BASE_WHEEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WHEEL_SLOTS = 1024, WHEEL_TICK_MS = 128 };

struct wheel_node {
	struct wheel_node *next, *prev;		/* NULL: not in a wheel */
	uint64_t	   deadline_ms;
};

struct wheel {
	struct wheel_node  slots[WHEEL_SLOTS];	/* list heads */
	uint64_t	   tick;		/* all before it were handed out */
	uint64_t	   n;
};

/* now_ms: any monotonic clock, the same for every call. */
void wheel_init(struct wheel *w, uint64_t now_ms);

/* Put n in for deadline_ms, or move it there. It is handed out at the first
 * wheel_advance at or after the deadline, up to WHEEL_TICK_MS late. */
void wheel_set(struct wheel *w, struct wheel_node *n, uint64_t deadline_ms);

/* Take n out; nothing happens if it is not in. */
void wheel_clear(struct wheel *w, struct wheel_node *n);

static inline bool
wheel_is_set(const struct wheel_node *n)
{
	return n->next != NULL;
}

/* Hand out everything due at now_ms. due() may set and clear any node. */
void wheel_advance(struct wheel *w, uint64_t now_ms,
    void (*due)(void *ctx, struct wheel_node *n), void *ctx);

#endif

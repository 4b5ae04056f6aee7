/*
 * lately.h: which messages were seen lately, by their ids, and which of two
 * moments each lies behind: so that one that comes by two ways is given once.
 * Of bounded size: of those that fall together the oldest is forgotten, which
 * takes thousands of others behind it.
 */
#ifndef RETAIN_LATELY_H
#define RETAIN_LATELY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	LATELY_SETS	= 4096,		/* a power of 2 */
	LATELY_WAYS	= 4,
	LATELY_MAX	= LATELY_SETS * LATELY_WAYS
};

struct lately_item {
	uint64_t	hi, lo;
	uint32_t	no;		/* how many came before it, and itself */
};

/* All zero to begin with. */
struct lately {
	uint32_t	   now;		/* a moment: how many came */
	struct lately_item item[LATELY_MAX];	/* no 0: empty */
};

void lately_add(struct lately *t, uint64_t hi, uint64_t lo);

/* Did that one come after the moment `since`, as far as we remember? */
bool lately_came(const struct lately *t, uint64_t hi, uint64_t lo,
    uint32_t since);

/* As another process had it; `now` is set apart. */
void lately_restore(struct lately *t, const struct lately_item *item);

#endif

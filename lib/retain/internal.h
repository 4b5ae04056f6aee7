/*
 * internal.h: what the files of this room share.
 */
#ifndef RETAIN_INTERNAL_H
#define RETAIN_INTERNAL_H

#include "retain/tree.h"

struct due {
	uint64_t		 deadline_ms;
	struct retain_entry	*entry;
};

struct retain {
	struct retain_limits	 limits;
	struct retain_tree	 tree;
	uint32_t		 count;
	uint64_t		 bytes;

	struct due		*due;		/* a heap, the earliest first */
	uint32_t		 ndue, due_cap;

	size_t			 key_len;	/* where to look next */
	uint8_t			 key[RETAIN_FROM_MAX];
};

/* Lend e. */
void retain_entry_msg(const struct retain_entry *e, struct retain_msg *m);

/* 0 if e has expired. */
uint32_t retain_entry_left(const struct retain_entry *e, uint64_t now_ms);

#endif

/*
 * access.h: the tree for the other files of lib/kv. Private to the room.
 */
#ifndef KV_ACCESS_H
#define KV_ACCESS_H

#include <tcbdb.h>

#include "kv/tree.h"

struct kv_cursor {
	struct kv_tree	*t;
	BDBCUR		*cur;
	uint64_t	 seen;
	uint64_t	 sum;		/* of the record, as stored */
};

int kv_cursor_open(struct kv_tree *t, struct kv_cursor *c);
/* 1 with a record, 0 at the end, or an error. */
int kv_cursor_next(struct kv_cursor *c, struct slice *key,
    struct slice *value);
void kv_cursor_close(struct kv_cursor *c);

int kv_tree_dirfd(const struct kv_tree *t);
void kv_tree_snapped(struct kv_tree *t, uint64_t position);

#endif

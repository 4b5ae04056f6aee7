/*
 * store.h: where the rows of one stream lie. The room needs little of it, so
 * that a large table can lie where it is wanted anyway (the RIB); rlog_table
 * is one of its own, for small tables and tests.
 *
 * A store keeps rows by key and knows the order of their seq, but only of
 * those it was told to (`ordered`): rows found by a scan come in any order and
 * wait unordered until settle.
 */
#ifndef RLOG_STORE_H
#define RLOG_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

/* Key and value of a row together; a key has at least a byte. */
#define RLOG_ROW_MAX	(192u * 1024)

struct rlog_row {
	struct slice	key, value;
	uint64_t	seq;		/* of its last change */
	uint64_t	ref;		/* the store's, from get until the next
					 * change; 0: it is not there */
	uint8_t		mark;		/* the pass that named it last */
	bool		deleted;	/* a tombstone: no value */
	bool		ordered;
};

struct rlog_ops {
	/* The row of this key; slices are the store's until it changes. 0 or
	 * ERR_NOTFOUND. */
	int (*get)(void *store, struct slice key, struct rlog_row *row);

	/*
	 * Keep the row, in place of what row->ref tells. row->ordered: it is
	 * (or becomes) the last of the order; one that is ordered already and
	 * keeps its seq stays where it is. Else it is unordered. row->ref is
	 * set. ERR_NOMEM, ERR_FULL: nothing changed.
	 */
	int (*put)(void *store, struct rlog_row *row);

	/* Another mark, nothing else. */
	void (*mark)(void *store, uint64_t ref, uint8_t mark);

	/* Gone, without a trace. */
	void (*drop)(void *store, uint64_t ref);

	/*
	 * The ordered row with the lowest seq above `after`: 1, or 0. *hint is
	 * the caller's, 0 at first, kept between calls that go on: it makes
	 * the next one quick, and is checked.
	 */
	int (*since)(void *store, uint64_t after, uint64_t *hint,
	    struct rlog_row *row);

	/*
	 * Any row, from *at on (0: the start): 1, or 0 at the end. Who is there
	 * throughout a walk is seen once, whatever else changes meanwhile.
	 */
	int (*scan)(void *store, uint64_t *at, struct rlog_row *row);

	/* The ordered tombstone with the lowest seq: 1, or 0. */
	int (*oldest)(void *store, struct rlog_row *row);

	/*
	 * Unordered rows with a mark not below `mark` and a seq not above
	 * `upto` take their place in the order. NULL: this store cannot; then
	 * whoever follows a stream through this node from below here begins
	 * with a scan. ERR_NOMEM: nothing changed.
	 */
	int (*settle)(void *store, uint64_t upto, uint8_t mark);

	/* Ordered rows with a seq above `above` become unordered. */
	void (*loosen)(void *store, uint64_t above);

	void (*free)(void *store);
	uint64_t (*bytes)(const void *store);
};

/* The room's own: a hash table and two lists. seed keys its hash: random, where
 * keys come from outside. */
extern const struct rlog_ops rlog_table_ops;
void *rlog_table_new(uint64_t seed);

#endif

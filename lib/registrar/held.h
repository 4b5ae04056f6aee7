/*
 * held.h: the rows of a registrar: who of its branch has which identifier. 17
 * bytes each in tables at least 3/4 full, so at most 24 a row beyond a few
 * thousand rows, also while a table grows: there are 256, of which one at a
 * time is copied, by the top bits of x, and each grows by an eighth.
 *
 * Nodes are numbered by the caller. Not thread safe.
 */
#ifndef REGISTRAR_HELD_H
#define REGISTRAR_HELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HELD_TABLES = 256, HELD_NODES = 2047 };

struct held {
	uint64_t	x, epoch;
	uint16_t	node;		/* below HELD_NODES */
	uint8_t		flags;		/* below 16 */
	bool		stale;		/* from before the upload */
};

struct held_table {
	uint8_t		*cells;
	uint32_t	 ncells, n;
	uint32_t	 copies;	/* how often it was */
};

struct held_rows {
	struct held_table tables[HELD_TABLES];
	size_t		 n;
};

void held_init(struct held_rows *t);
void held_fini(struct held_rows *t);

/* Add the row, or replace that of the same x and node. ERR_NOMEM; ERR_FULL
 * beyond 2^30 in one table. A row that is replaced needs no memory. */
int held_put(struct held_rows *t, const struct held *h);

bool held_get(const struct held_rows *t, uint64_t x, unsigned node,
    struct held *h);
void held_del(struct held_rows *t, uint64_t x, unsigned node);

/*
 * The rows of one x: *at starts as HELD_FIRST; false at the end. Rows may be
 * replaced meanwhile, not added nor removed.
 */
#define HELD_FIRST	UINT32_MAX
bool held_next(const struct held_rows *t, uint64_t x, uint32_t *at,
    struct held *h);

/*
 * All rows: *w starts as zero; false at the end. Meanwhile rows may be added
 * and replaced, and the one just given removed by held_walk_del(): each that
 * was there at the beginning is seen, perhaps more than once.
 */
struct held_walk {
	uint32_t	table, at;
	uint32_t	copies;		/* of the table, when it was begun */
};

bool held_walk(const struct held_rows *t, struct held_walk *w,
    struct held *h);
void held_walk_del(struct held_rows *t, struct held_walk *w,
    const struct held *h);

/* Write the row just given anew; x and node as they are. */
void held_walk_set(struct held_rows *t, const struct held_walk *w,
    const struct held *h);

/* Remove all rows of which drop() says so; far cheaper than one by one. */
void held_drop(struct held_rows *t, bool (*drop)(const struct held *h,
    unsigned node), unsigned node);

/* Bytes that the tables take, whatever is in them. */
size_t held_bytes(const struct held_rows *t);

#endif

/*
 * message.h: what two nodes say to each other about streams. A message is a
 * run of records, numbers little-endian:
 *
 *	 0  kind	 2
 *	 2  fixed	 2  bytes of the fixed part
 *	 4  length	 4  bytes of what follows, fixed part included
 *	 8  fixed part, then rows
 *
 * Records of unknown kinds are skipped, and so is what a fixed part has beyond
 * what is known of it: it may grow. All begin with the stream, {table 4, writer
 * 8}, and the writer's incarnation, 8; then
 *
 *	OFFER	home 8, seq 8, hops 1
 *	FOLLOW	seq 8, ticket 4
 *	LEAVE
 *	ACK	count 4
 *	ROWS	from 8, upto 8, head 8, whole 8, seen 8, floor 8, end 8,
 *		stable 8, ticket 4, count 4, flags 1
 *
 * A row is {seq 8, key length 4 (its top bit: deleted), value length 4, key,
 * value}. An ACK is followed by words, {node 8, its incarnation 8, seq 8, flags
 * 1}. What the fields mean: README.
 */
#ifndef RLOG_MESSAGE_H
#define RLOG_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "rlog/store.h"

#define RLOG_MSG_MAX	(1024u * 1024)	/* larger ones are refused */
/* A buffer of this size holds any one record, whatever the row. */
#define RLOG_BUF_MIN	(RLOG_ROW_MAX + 256u)

enum rlog_msg_kind {
	RLOG_OFFER	= 1,
	RLOG_FOLLOW	= 2,
	RLOG_LEAVE	= 3,
	RLOG_ACK	= 4,
	RLOG_ROWS	= 5,
};

enum {
	RLOG_HOPS_MAX	= 16,	/* as far as this is out of reach */
	RLOG_HOPS_DEAD	= 254,	/* offer: no way to the writer; seq is told */
	RLOG_HOPS_NONE	= 255,	/* offer: not from me */

	RLOG_F_SCAN	= 1,	/* rows: of a scan, in no order */
	RLOG_F_BEGIN	= 2,	/* rows: the scan begins */
	RLOG_F_END	= 4,	/* rows: the scan is at its end */

	RLOG_W_OWN	= 1,	/* word: the node said so itself */
	RLOG_W_BUSY	= 2,	/* word: it is in `bootstrap` */
	RLOG_W_GONE	= 4,	/* word: the connection with it broke */
};

/* What is known of a node that follows. */
struct rlog_word {
	uint64_t	node, incarnation, seq;
	uint8_t		flags;
};

struct rlog_msg {
	enum rlog_msg_kind kind;
	uint32_t	table;
	uint64_t	writer;
	uint64_t	incarnation;
	uint64_t	seq, home;
	uint64_t	from, upto, head, whole, seen, floor, end, stable;
	uint32_t	ticket;
	uint8_t		hops, flags;
	uint32_t	count;		/* of rows, or words */
	struct slice	rows;
};

/* --- Writing ------------------------------------------------------------- */

struct rlog_out {
	uint8_t	*buf;
	size_t	 len, size;
	size_t	 start;			/* of the open ROWS */
	uint32_t count;
};

void rlog_out_init(struct rlog_out *o, void *buf, size_t size);

/* Append a record other than ROWS and ACK. ERR_FULL if it does not fit. */
int rlog_put_msg(struct rlog_out *o, const struct rlog_msg *m);

/* Append ROWS: begin with all but upto, flags and rows, then the rows, then
 * end with m as it became. ERR_FULL of begin or row: it was not written. */
int rlog_rows_begin(struct rlog_out *o, const struct rlog_msg *m);
int rlog_rows_row(struct rlog_out *o, const struct rlog_row *row);
void rlog_rows_end(struct rlog_out *o, const struct rlog_msg *m);

/* Append ACK, likewise. */
int rlog_ack_begin(struct rlog_out *o, const struct rlog_msg *m);
int rlog_ack_word(struct rlog_out *o, const struct rlog_word *w);
void rlog_ack_end(struct rlog_out *o, const struct rlog_msg *m);

/* --- Reading ------------------------------------------------------------- */

struct rlog_in {
	const uint8_t	*at, *end;
};

/* ERR_PROTO if it is too long. */
int rlog_in_init(struct rlog_in *in, const void *msg, size_t len);

/*
 * The next record of a known kind: 1, or 0 at the end, or ERR_PROTO. Rows have
 * been looked at: rlog_rows_next cannot fail, seqs are above 0, and those that
 * are not of a scan rise from above `from` to `upto` at most.
 */
int rlog_msg_next(struct rlog_in *in, struct rlog_msg *m);

/* The next of *rows: 1, or 0. Slices are of the message. */
int rlog_rows_next(struct slice *rows, struct rlog_row *row);
int rlog_words_next(struct slice *words, struct rlog_word *w);

#endif

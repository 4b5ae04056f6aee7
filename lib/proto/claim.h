/*
 * claim.h: the messages of registrar/claim.h as bytes (claim.proto): entries,
 * any number in a body, in order.
 */
#ifndef PROTO_CLAIM_H
#define PROTO_CLAIM_H

#include "proto/wire.h"
#include "registrar/claim.h"

#define CLAIM_BYTES_MAX		512	/* of any entry, but for its id */
#define CLAIM_EPOCH_MAX		INT64_MAX

/* Append m to a body that began as wire_out_init(w, buf, size). ERR_FULL: send
 * this one, begin the next; nothing was written then. */
int claim_msg_put(struct wire_out *w, const struct claim_msg *m);

/*
 * The next entry of a kind we know; others are skipped, as are holders beyond
 * CLAIM_HOLDERS. Returns 1; 0 at the end; ERR_PROTO: the rest is void, *m is
 * not touched. Who may say which kind is for the registrar and the desk to
 * judge.
 */
int claim_msg_next(struct wire_in *in, struct claim_msg *m);

/*
 * Bodies that wait to leave, one after the other: entries are appended as long
 * as the last one has room. All zero is an empty one.
 */
enum { CLAIM_BODY = 16384, CLAIM_OUT_MAX = 256 << 20 };

struct claim_out {
	struct claim_body *first, *last;
	size_t		   bytes;
};

/* ERR_FULL: CLAIM_OUT_MAX bytes wait, who is to get them is given up;
 * ERR_NOMEM. m was not taken then. */
int claim_out_put(struct claim_out *q, const struct claim_msg *m);
struct slice claim_out_first(const struct claim_out *q);	/* or empty */
void claim_out_shift(struct claim_out *q);	/* there is one */
void claim_out_clear(struct claim_out *q);

#endif

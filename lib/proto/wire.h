/*
 * wire.h: Protocol Buffers' encoding, as far as messages of many rows need it:
 * rows are written straight into the buffer that is sent and read where they
 * lie. (nanopb would copy every row, and allocate.) What these write, nanopb
 * and protoc read, and the other way round.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

/* --- Writing ----------------------------------------------------------- */

struct wire_out {
	uint8_t	*buf;
	size_t	 len, size;
	bool	 full;		/* something did not fit */
};

void wire_out_init(struct wire_out *w, void *buf, size_t size);

static inline size_t
wire_out_len(const struct wire_out *w)
{
	return w->len;
}

/* Fields; 0 and empty are left out, as proto3 does. */
void wire_put_uint(struct wire_out *w, unsigned field, uint64_t v);
void wire_put_fixed64(struct wire_out *w, unsigned field, uint64_t v);
void wire_put_bytes(struct wire_out *w, unsigned field, struct slice s);

/* A message within: open returns a mark that close needs; below 2 MiB. */
size_t wire_open(struct wire_out *w, unsigned field);
void wire_close(struct wire_out *w, size_t mark);

/* --- Reading ----------------------------------------------------------- */

struct wire_in {
	const uint8_t	*at, *end;
};

struct wire_field {
	unsigned	 number;
	bool		 is_bytes;	/* else a number */
	uint64_t	 value;
	struct slice	 bytes;		/* a string, bytes, a message within */
};

/* body may be NULL if len is 0. */
static inline void
wire_in_init(struct wire_in *in, const void *body, size_t len)
{
	in->at = body != NULL ? body : (const uint8_t *)"";
	in->end = in->at + len;
}

/*
 * The next field. Returns 1, 0 at the end, ERR_PROTO if the bytes are no
 * message. Fields of a type none of our schemas has (groups) are refused;
 * fields with numbers the caller does not know are for it to skip.
 */
int wire_next(struct wire_in *in, struct wire_field *f);

/* --- Rows told by a table ---------------------------------------------- */

enum wire_type { WIRE_U32, WIRE_U64, WIRE_FIX64, WIRE_BOOL, WIRE_SLICE };

/* One field of a message and the member of the struct it goes to. */
struct wire_col {
	unsigned	number;
	enum wire_type	type;
	size_t		offset;
};

void wire_put_cols(struct wire_out *w, const struct wire_col *cols, size_t n,
    const void *row);

/* Set the member f belongs to. 0 (also if there is none), or ERR_PROTO if it
 * is of another type or does not fit. */
int wire_get_col(const struct wire_col *cols, size_t n, void *row,
    const struct wire_field *f);

#endif

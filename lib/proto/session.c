#include "proto/session.h"

#include "base/err.h"

#define U32(n, f)	{ (n), WIRE_U32, offsetof(struct session_msg, f) }
#define U64(n, f)	{ (n), WIRE_U64, offsetof(struct session_msg, f) }
#define BOOL(n, f)	{ (n), WIRE_BOOL, offsetof(struct session_msg, f) }
#define BYTES(n, f)	{ (n), WIRE_SLICE, offsetof(struct session_msg, f) }

/* Field numbers of session.proto. */
static const struct wire_col cols[] = {
	U64(1, serial), U64(2, handle), U32(3, pid), U32(4, flags),
	U32(5, what), U32(6, expiry_s), BYTES(7, topic), BYTES(8, props),
	BYTES(9, payload), BYTES(10, ids), BYTES(11, client_id), U64(12, time),
	U32(13, version), U32(14, receive_maximum), U32(15, will_delay_s),
	BYTES(16, will), BYTES(17, share), BYTES(18, filter), U32(19, sub_id),
	U32(20, token), BYTES(21, pids), BYTES(22, cursor),
	BOOL(23, clean_start), BOOL(24, durable), BOOL(25, present),
	BOOL(26, graceful), BOOL(27, has_expiry), BOOL(28, more),
	U64(29, id_hi), U64(30, id_lo), BOOL(31, opened), U32(32, count),
	BOOL(33, refused), U64(34, deadline_ms), BOOL(35, again),
};

int
session_msg_put(struct wire_out *w, const struct session_msg *e)
{
	size_t start = w->len, mark;

	mark = wire_open(w, e->kind);
	wire_put_cols(w, cols, NELEM(cols), e);
	wire_close(w, mark);
	if (w->full) {
		w->len = start;
		w->full = false;
		return ERR_FULL;
	}
	return 0;
}

int
session_msg_next(struct wire_in *in, struct session_msg *e)
{
	struct wire_in	  body;
	struct wire_field f;
	int		  rc;

	if ((rc = wire_next(in, &f)) != 1)
		return rc;
	if (!f.is_bytes)
		return ERR_PROTO;
	memset(e, 0, sizeof(*e));
	e->kind = f.number;
	wire_in_init(&body, f.bytes.data, f.bytes.len);
	while ((rc = wire_next(&body, &f)) == 1)
		if (wire_get_col(cols, NELEM(cols), e, &f) < 0)
			return ERR_PROTO;
	return rc < 0 ? rc : 1;
}

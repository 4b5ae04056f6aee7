#include "proto/claim.h"

#include <stdlib.h>

#include "base/err.h"

/* As they lie in an entry; flags are wider there. */
struct row {
	uint64_t	x, node, epoch, asked;
	uint32_t	flags;
};

enum { HOLDERS = 6, ID = 7, FLAGS = CLAIM_DURABLE | CLAIM_CONNECTED | CLAIM_MOVING |
	CLAIM_UNSURE | CLAIM_PROVISIONAL };

/* Field numbers of claim.proto. */
static const struct wire_col entry_cols[] = {
	{ 1, WIRE_FIX64, offsetof(struct row, x) },
	{ 2, WIRE_FIX64, offsetof(struct row, node) },
	{ 3, WIRE_FIX64, offsetof(struct row, epoch) },
	{ 4, WIRE_U64, offsetof(struct row, asked) },
	{ 5, WIRE_U32, offsetof(struct row, flags) },
};
static const struct wire_col holder_cols[] = {
	{ 1, WIRE_FIX64, offsetof(struct row, node) },
	{ 2, WIRE_FIX64, offsetof(struct row, epoch) },
	{ 3, WIRE_U32, offsetof(struct row, flags) },
};

int
claim_msg_put(struct wire_out *w, const struct claim_msg *m)
{
	struct row	r = { m->x, m->node, m->epoch, m->asked, m->flags };
	size_t		start = w->len, mark, holder;

	mark = wire_open(w, m->kind);
	wire_put_cols(w, entry_cols, NELEM(entry_cols), &r);
	for (unsigned i = 0; i < m->nholders; i++) {
		r.node = m->holders[i].node;
		r.epoch = m->holders[i].epoch;
		r.flags = m->holders[i].flags;
		holder = wire_open(w, HOLDERS);
		wire_put_cols(w, holder_cols, NELEM(holder_cols), &r);
		wire_close(w, holder);
	}
	if (m->kind == CLAIM_RELEASE)
		wire_put_bytes(w, ID, m->id);
	wire_close(w, mark);
	if (w->full) {
		w->len = start;
		w->full = false;
		return ERR_FULL;
	}
	return 0;
}

static int
get_cols(const struct wire_col *cols, size_t n, struct slice body,
    struct row *r)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(cols, n, r, &f) < 0)
			return ERR_PROTO;
	/* What is raised above an epoch must have room. */
	return rc < 0 || r->epoch > CLAIM_EPOCH_MAX ? ERR_PROTO : 0;
}

static int
get_holders(struct slice body, struct claim_msg *m)
{
	struct wire_in	  in;
	struct wire_field f;

	wire_in_init(&in, body.data, body.len);
	while (wire_next(&in, &f) == 1) {
		struct row	r = { .x = 0 };

		if (f.number == ID && f.is_bytes && f.bytes.len <= UINT16_MAX)
			m->id = f.bytes;
		if (f.number != HOLDERS)
			continue;
		if (!f.is_bytes || get_cols(holder_cols, NELEM(holder_cols),
		    f.bytes, &r) < 0)
			return ERR_PROTO;
		if (m->nholders == CLAIM_HOLDERS)
			continue;
		m->holders[m->nholders++] = (struct claim_holder){
			r.node, r.epoch, (uint8_t)(r.flags & FLAGS),
		};
	}
	return 0;
}

int
claim_msg_next(struct wire_in *in, struct claim_msg *out)
{
	struct claim_msg  m = { .kind = 0 };
	struct row	  r = { .x = 0 };
	struct wire_field f;
	int		  rc;

	do {
		if ((rc = wire_next(in, &f)) != 1)
			return rc;
	} while (f.number < CLAIM_UPLOAD || f.number > CLAIM_RELEASE);
	if (!f.is_bytes || get_cols(entry_cols, NELEM(entry_cols), f.bytes,
	    &r) < 0 || get_holders(f.bytes, &m) < 0)
		return ERR_PROTO;
	m.kind = (uint8_t)f.number;
	m.flags = (uint8_t)(r.flags & (m.kind == CLAIM_RELEASE ?
	    FLAGS | CLAIM_CLEAN : FLAGS));
	if (m.kind != CLAIM_RELEASE)
		m.id = (struct slice){ NULL, 0 };
	m.x = r.x;
	m.node = r.node;
	m.epoch = r.epoch;
	m.asked = r.asked;
	*out = m;
	return 1;
}

/* --- Bodies that wait ----------------------------------------------------- */

struct claim_body {
	struct claim_body *next;
	struct wire_out	   w;
	uint8_t		   bytes[];
};

int
claim_out_put(struct claim_out *q, const struct claim_msg *m)
{
	size_t			 size = MAX((size_t)CLAIM_BODY,
				    m->id.len + CLAIM_BYTES_MAX);
	struct claim_body	*b = q->last;

	if (b != NULL && claim_msg_put(&b->w, m) == 0)
		return 0;
	if (q->bytes >= CLAIM_OUT_MAX)
		return ERR_FULL;
	if ((b = malloc(sizeof(*b) + size)) == NULL)
		return ERR_NOMEM;
	b->next = NULL;
	wire_out_init(&b->w, b->bytes, size);
	(void)claim_msg_put(&b->w, m);		/* it fits */
	if (q->last != NULL)
		q->last->next = b;
	else
		q->first = b;
	q->last = b;
	q->bytes += size;
	return 0;
}

struct slice
claim_out_first(const struct claim_out *q)
{
	if (q->first == NULL)
		return (struct slice){ NULL, 0 };
	return (struct slice){ q->first->bytes, wire_out_len(&q->first->w) };
}

void
claim_out_shift(struct claim_out *q)
{
	struct claim_body *b = q->first;

	q->first = b->next;
	if (q->first == NULL)
		q->last = NULL;
	q->bytes -= b->w.size;
	free(b);
}

void
claim_out_clear(struct claim_out *q)
{
	while (q->first != NULL)
		claim_out_shift(q);
}

#include "proto/route.h"

#include "base/err.h"

/* Field numbers of route.proto. */
static const struct wire_col row_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct route_row, filter) },
	{ 2, WIRE_U32, offsetof(struct route_row, qos) },
	{ 3, WIRE_SLICE, offsetof(struct route_row, share) },
	{ 4, WIRE_U32, offsetof(struct route_row, members) },
};
enum {
	ROUTES_ROUTER = 1, ROUTES_SEQ = 2, ROUTES_BEGIN = 3, ROUTES_ADD = 4,
	ROUTES_DEL = 5, ROUTES_END = 6
};

#define END_ROOM	2	/* snapshot_end is always kept room for */

void
routes_begin(struct routes_writer *w, void *buf, size_t size,
    uint64_t router_incarnation, uint64_t seq, bool snapshot_begin)
{
	wire_out_init(&w->out, buf, size > END_ROOM ? size - END_ROOM : 0);
	w->rows = 0;
	wire_put_uint(&w->out, ROUTES_ROUTER, router_incarnation);
	wire_put_uint(&w->out, ROUTES_SEQ, seq);
	wire_put_uint(&w->out, ROUTES_BEGIN, snapshot_begin);
}

static int
put_row(struct routes_writer *w, unsigned field, const struct route_row *row)
{
	size_t start = w->out.len, mark;

	if (row->filter.len == 0 || row->filter.len > UINT16_MAX ||
	    row->share.len > UINT16_MAX || row->qos > 2)
		return ERR_INVAL;
	mark = wire_open(&w->out, field);
	wire_put_cols(&w->out, row_cols, NELEM(row_cols), row);
	wire_close(&w->out, mark);
	if (w->out.full) {
		w->out.len = start;
		w->out.full = false;
		return ERR_FULL;
	}
	w->rows++;
	return 0;
}

int
routes_add(struct routes_writer *w, const struct route_row *row)
{
	return put_row(w, ROUTES_ADD, row);
}

int
routes_del(struct routes_writer *w, const struct route_row *row)
{
	return put_row(w, ROUTES_DEL, row);
}

size_t
routes_end(struct routes_writer *w, bool snapshot_end)
{
	w->out.size += END_ROOM;
	wire_put_uint(&w->out, ROUTES_END, snapshot_end);
	return w->out.len;
}

static int
get_row(struct route_row *row, struct slice body)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	memset(row, 0, sizeof(*row));
	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(row_cols, NELEM(row_cols), row, &f) < 0)
			return ERR_PROTO;
	if (rc < 0 || row->filter.len == 0 || row->filter.len > UINT16_MAX ||
	    row->share.len > UINT16_MAX || row->qos > 2)
		return ERR_PROTO;
	return 0;
}

int
routes_decode(struct routes *out, const void *body, size_t len)
{
	struct routes	  r = { 0 };
	struct route_row  row;
	struct wire_field f;
	int		  rc;

	wire_in_init(&r.in, body, len);
	while ((rc = wire_next(&r.in, &f)) == 1) {
		switch (f.number) {
		case ROUTES_ROUTER: r.router_incarnation = f.value; break;
		case ROUTES_SEQ: r.seq = f.value; break;
		case ROUTES_BEGIN: r.snapshot_begin = f.value != 0; break;
		case ROUTES_END: r.snapshot_end = f.value != 0; break;
		case ROUTES_ADD:
		case ROUTES_DEL:
			if (!f.is_bytes || get_row(&row, f.bytes) < 0)
				return ERR_PROTO;
			r.rows++;
			break;
		}
	}
	if (rc < 0 || r.seq == 0)
		return ERR_PROTO;
	wire_in_init(&r.in, body, len);
	*out = r;
	return 0;
}

int
routes_next(struct routes *r, struct route_row *row, bool *add)
{
	struct wire_field f;

	while (wire_next(&r->in, &f) == 1) {
		if (f.number != ROUTES_ADD && f.number != ROUTES_DEL)
			continue;
		*add = f.number == ROUTES_ADD;
		return get_row(row, f.bytes) == 0;
	}
	return 0;
}

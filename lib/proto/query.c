#include "proto/query.h"

#include "base/err.h"

/* Members and field numbers of query.proto. */
#define COL(n, type, s, m)	{ n, type, offsetof(struct s, m) }

static const struct wire_col query_cols[] = {
	COL(1, WIRE_U32, query, what),
	COL(2, WIRE_SLICE, query, arg),
	COL(3, WIRE_SLICE, query, cursor),
	COL(4, WIRE_U32, query, limit),
	COL(5, WIRE_U64, query, id),
	COL(6, WIRE_SLICE, query, owner),
	COL(7, WIRE_U32, query, flags),
	COL(8, WIRE_SLICE, query, batch),
	COL(9, WIRE_U64, query, handle),
};

static const struct wire_col sub_cols[] = {
	COL(1, WIRE_SLICE, sub_row, filter),
	COL(2, WIRE_U32, sub_row, options),
	COL(3, WIRE_U32, sub_row, id),
};

#define CLIENT_SUBS	8
static const struct wire_col client_cols[] = {
	COL(1, WIRE_SLICE, client_row, client_id),
	COL(2, WIRE_SLICE, client_row, peer),
	COL(3, WIRE_U32, client_row, version),
	COL(4, WIRE_U32, client_row, keepalive_s),
	COL(5, WIRE_U64, client_row, connected_ms),
	COL(6, WIRE_BOOL, client_row, clean),
	COL(7, WIRE_U32, client_row, nsubs),
	COL(9, WIRE_U32, client_row, inflight),
	COL(10, WIRE_U32, client_row, mqueue_len),
	COL(11, WIRE_U64, client_row, mqueue_bytes),
	COL(12, WIRE_U64, client_row, bytes_in),
	COL(13, WIRE_U64, client_row, bytes_out),
	COL(14, WIRE_U64, client_row, messages_in),
	COL(15, WIRE_U64, client_row, messages_out),
	COL(16, WIRE_U64, client_row, dropped),
	COL(17, WIRE_SLICE, client_row, username),
	COL(18, WIRE_SLICE, client_row, listener),
	COL(19, WIRE_BOOL, client_row, stored),
	COL(20, WIRE_SLICE, client_row, state),
	COL(21, WIRE_U32, client_row, expiry_s),
	COL(22, WIRE_U64, client_row, offline_ms),
	COL(23, WIRE_U32, client_row, queue_len),
	COL(24, WIRE_U64, client_row, queue_bytes),
	COL(25, WIRE_U32, client_row, queue_inflight),
	COL(26, WIRE_U32, client_row, inbound),
	COL(27, WIRE_BOOL, client_row, will),
};

static const struct wire_col route_cols[] = {
	COL(1, WIRE_SLICE, route_info, filter),
	COL(2, WIRE_SLICE, route_info, dest),
	COL(3, WIRE_SLICE, route_info, share),
	COL(4, WIRE_U32, route_info, members),
	COL(5, WIRE_BOOL, route_info, widened),
	COL(6, WIRE_SLICE, route_info, state),
	COL(7, WIRE_SLICE, route_info, as),
	COL(8, WIRE_U32, route_info, qos),
};

static const struct wire_col kv_cols[] = {
	COL(1, WIRE_SLICE, kv_row, key),
	COL(2, WIRE_SLICE, kv_row, value),
};

static const struct wire_col node_cols[] = {
	COL(1, WIRE_SLICE, node_row, name),
	COL(2, WIRE_U64, node_row, join),
	COL(3, WIRE_SLICE, node_row, role),
	COL(4, WIRE_SLICE, node_row, state),
	COL(5, WIRE_BOOL, node_row, self),
	COL(6, WIRE_BOOL, node_row, parked),
	COL(7, WIRE_U64, node_row, since_ms),
	COL(8, WIRE_U64, node_row, incarnation),
	COL(9, WIRE_SLICE, node_row, sync),
	COL(10, WIRE_U64, node_row, lag),
	COL(11, WIRE_U64, node_row, seq),
	COL(12, WIRE_U64, node_row, routes),
	COL(13, WIRE_U64, node_row, digest),
	COL(14, WIRE_SLICE, node_row, sees),
	COL(15, WIRE_BOOL, node_row, heard),
	COL(16, WIRE_SLICE, node_row, addrs),
};

enum { REPLY_F_CURSOR = 2, REPLY_F_CLIENTS = 3, REPLY_F_ROUTES = 4,
	REPLY_F_KV = 5, REPLY_F_ITEMS = 8, REPLY_F_NODES = 9 };
static const struct wire_col reply_cols[] = {
	COL(1, WIRE_U32, reply, status),
	COL(REPLY_F_CURSOR, WIRE_SLICE, reply, cursor),
	COL(6, WIRE_SLICE, reply, error),
	COL(7, WIRE_U64, reply, id),
};

static long
encode(const struct wire_col *cols, size_t n, const void *row, void *buf,
    size_t size)
{
	struct wire_out w;

	wire_out_init(&w, buf, size);
	wire_put_cols(&w, cols, n, row);
	return w.full ? ERR_FULL : (long)w.len;
}

/* Fields of row from body; what is in no column is skipped. */
static int
decode(const struct wire_col *cols, size_t n, void *row, const void *body,
    size_t len)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	wire_in_init(&in, body, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(cols, n, row, &f) < 0)
			return ERR_PROTO;
	return rc;
}

long
query_encode(const struct query *q, void *buf, size_t size)
{
	return encode(query_cols, NELEM(query_cols), q, buf, size);
}

int
query_decode(struct query *out, const void *body, size_t len)
{
	struct query q = { 0 };

	if (decode(query_cols, NELEM(query_cols), &q, body, len) < 0)
		return ERR_PROTO;
	*out = q;
	return 0;
}

/* --- Answering --------------------------------------------------------- */

#define END_ROOM	22	/* cursor's tag and length, id */

void
reply_begin(struct reply_writer *w, void *buf, size_t size, uint64_t id)
{
	w->room = MIN(MIN((size_t)QUERY_CURSOR_MAX, size / 4) + END_ROOM, size);
	wire_out_init(&w->out, buf, size - w->room);
	w->id = id;
	w->rows = 0;
}

static int
row_done(struct reply_writer *w, size_t start, size_t mark)
{
	wire_close(&w->out, mark);
	if (w->out.full) {
		w->out.len = start;
		w->out.full = false;
		return ERR_FULL;
	}
	w->rows++;
	return 0;
}

static int
put_row(struct reply_writer *w, unsigned field, const struct wire_col *cols,
    size_t n, const void *row)
{
	size_t start = w->out.len, mark = wire_open(&w->out, field);

	wire_put_cols(&w->out, cols, n, row);
	return row_done(w, start, mark);
}

/* One subscription; undone if it does not fit. */
static bool
put_sub(struct wire_out *w, const struct sub_row *sub)
{
	size_t start = w->len, mark = wire_open(w, CLIENT_SUBS);

	wire_put_cols(w, sub_cols, NELEM(sub_cols), sub);
	wire_close(w, mark);
	if (!w->full)
		return true;
	w->len = start;
	return false;
}

int
reply_client(struct reply_writer *w, const struct client_row *row)
{
	size_t start = w->out.len, i, n = MIN(row->subs_told, QUERY_SUBS_MAX);
	size_t mark = wire_open(&w->out, REPLY_F_CLIENTS);

	wire_put_cols(&w->out, client_cols, NELEM(client_cols), row);
	for (i = 0; i < n && !w->out.full; i++) {
		if (put_sub(&w->out, &row->subs[i]))
			continue;
		/* A page of its own holds what it can. */
		if (w->rows == 0) {
			w->out.full = false;
			break;
		}
	}
	return row_done(w, start, mark);
}

int
reply_route(struct reply_writer *w, const struct route_info *row)
{
	return put_row(w, REPLY_F_ROUTES, route_cols, NELEM(route_cols), row);
}

int
reply_kv(struct reply_writer *w, const struct kv_row *row)
{
	return put_row(w, REPLY_F_KV, kv_cols, NELEM(kv_cols), row);
}

int
reply_node(struct reply_writer *w, const struct node_row *row)
{
	return put_row(w, REPLY_F_NODES, node_cols, NELEM(node_cols), row);
}

int
reply_item(struct reply_writer *w, struct item_row *row)
{
	if (item_put(&w->out, REPLY_F_ITEMS, row, w->rows == 0) < 0)
		return ERR_FULL;
	w->rows++;
	return 0;
}

long
reply_end(struct reply_writer *w, struct slice cursor)
{
	struct reply r = { .cursor = cursor, .id = w->id };

	w->out.size += w->room;
	w->room = 0;
	wire_put_cols(&w->out, reply_cols, NELEM(reply_cols), &r);
	return w->out.full ? ERR_INVAL : (long)w->out.len;
}

long
reply_error(void *buf, size_t size, uint64_t id, uint32_t status,
    const char *error)
{
	struct reply r = {
		.status = status, .id = id,
		.error = { (const uint8_t *)error, strlen(error) },
	};

	return encode(reply_cols, NELEM(reply_cols), &r, buf, size);
}

/* --- Reading an answer ------------------------------------------------- */

static int
get_client(struct client_row *row, struct slice body)
{
	struct wire_field f;
	struct sub_row	  sub;
	struct wire_in	  in;
	size_t		  n = 0;
	int		  rc;

	memset(row, 0, sizeof(*row));
	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1) {
		if (wire_get_col(client_cols, NELEM(client_cols), row, &f) < 0)
			return ERR_PROTO;
		if (f.number != CLIENT_SUBS)
			continue;
		memset(&sub, 0, sizeof(sub));
		if (!f.is_bytes || ++n > QUERY_SUBS_MAX || decode(sub_cols,
		    NELEM(sub_cols), &sub, f.bytes.data, f.bytes.len) < 0)
			return ERR_PROTO;
	}
	row->subs_told = n;
	wire_in_init(&row->subs_in, body.data, body.len);
	return rc;
}

/* 1 for a row, 0 for another field, or ERR_PROTO. */
static int
get_row(struct reply_row *row, const struct wire_field *f)
{
	switch (f->number) {
	case REPLY_F_CLIENTS:
		row->kind = REPLY_CLIENT;
		if (!f->is_bytes || get_client(&row->client, f->bytes) < 0)
			return ERR_PROTO;
		return 1;
	case REPLY_F_ROUTES:
		row->kind = REPLY_ROUTE;
		memset(&row->route, 0, sizeof(row->route));
		if (!f->is_bytes || decode(route_cols, NELEM(route_cols),
		    &row->route, f->bytes.data, f->bytes.len) < 0)
			return ERR_PROTO;
		return 1;
	case REPLY_F_KV:
		row->kind = REPLY_KV;
		memset(&row->kv, 0, sizeof(row->kv));
		if (!f->is_bytes || decode(kv_cols, NELEM(kv_cols), &row->kv,
		    f->bytes.data, f->bytes.len) < 0)
			return ERR_PROTO;
		return 1;
	case REPLY_F_NODES:
		row->kind = REPLY_NODE;
		memset(&row->node, 0, sizeof(row->node));
		if (!f->is_bytes || decode(node_cols, NELEM(node_cols),
		    &row->node, f->bytes.data, f->bytes.len) < 0)
			return ERR_PROTO;
		return 1;
	case REPLY_F_ITEMS:
		row->kind = REPLY_ITEM;
		if (!f->is_bytes || item_get(&row->item, f->bytes) < 0)
			return ERR_PROTO;
		return 1;
	default:
		return 0;
	}
}

int
reply_decode(struct reply *out, const void *body, size_t len)
{
	struct reply	  r = { 0 };
	struct reply_row  row;
	struct wire_field f;
	int		  rc, is_row;

	wire_in_init(&r.in, body, len);
	while ((rc = wire_next(&r.in, &f)) == 1) {
		if ((is_row = get_row(&row, &f)) < 0 ||
		    wire_get_col(reply_cols, NELEM(reply_cols), &r, &f) < 0)
			return ERR_PROTO;
		r.rows += (unsigned)is_row;
	}
	if (rc < 0)
		return rc;
	wire_in_init(&r.in, body, len);
	*out = r;
	return 0;
}

int
reply_next(struct reply *r, struct reply_row *row)
{
	struct wire_field f;

	while (wire_next(&r->in, &f) == 1)
		if (get_row(row, &f) == 1)
			return 1;
	return 0;
}

int
client_row_sub(struct client_row *row, struct sub_row *sub)
{
	struct wire_field f;

	while (wire_next(&row->subs_in, &f) == 1) {
		if (f.number != CLIENT_SUBS)
			continue;
		memset(sub, 0, sizeof(*sub));
		return decode(sub_cols, NELEM(sub_cols), sub, f.bytes.data,
		    f.bytes.len) == 0;
	}
	return 0;
}

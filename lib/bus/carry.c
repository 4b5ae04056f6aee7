/*
 * carry.c: the streams of a bus as bytes, for the process that goes on with
 * them under the same name and incarnation. A piece is a byte that says what it
 * is and fields in the encoding of proto/wire.h; frames belong to the stream
 * before them, slots to the source before them.
 */
#include "bus/internal.h"

#include <stdlib.h>

#include "base/err.h"
#include "proto/wire.h"

enum piece { PIECE_BUS = 1, PIECE_STREAM, PIECE_FRAME, PIECE_OPEN,
	     PIECE_SOURCE, PIECE_SLOT, PIECE_ORIGIN };

#define FIELDS_MAX	512	/* bytes of a piece, texts and bodies apart */

struct bus_row {
	uint64_t	serial;
};

struct stream_row {
	struct slice	name, node;
	uint64_t	incarnation, stream, seq, sent_seq, got, stored,
			got_bytes, appended, sent, granted, base, id_hi, id_lo,
			had_got, had_stored;
	bool		was_blocked, was_full;
};

struct frame_row {		/* and of the open one: asks, count, body */
	uint64_t	seq, upto;
	uint32_t	kind, asks, count;
	struct slice	body, payload;
};

struct source_row {
	struct slice	name, node;
	uint64_t	incarnation;
};

struct slot_row {
	uint32_t	slot, window;
	uint64_t	id, seq, taken, id_hi, id_lo;
};

static const struct wire_col bus_cols[] = {
	{ 1, WIRE_U64, offsetof(struct bus_row, serial) },
};

static const struct wire_col stream_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct stream_row, name) },
	{ 2, WIRE_U64, offsetof(struct stream_row, incarnation) },
	{ 3, WIRE_U64, offsetof(struct stream_row, stream) },
	{ 4, WIRE_U64, offsetof(struct stream_row, seq) },
	{ 5, WIRE_U64, offsetof(struct stream_row, sent_seq) },
	{ 6, WIRE_U64, offsetof(struct stream_row, got) },
	{ 7, WIRE_U64, offsetof(struct stream_row, stored) },
	{ 8, WIRE_U64, offsetof(struct stream_row, got_bytes) },
	{ 9, WIRE_U64, offsetof(struct stream_row, appended) },
	{ 10, WIRE_U64, offsetof(struct stream_row, sent) },
	{ 11, WIRE_U64, offsetof(struct stream_row, granted) },
	{ 12, WIRE_U64, offsetof(struct stream_row, base) },
	{ 13, WIRE_U64, offsetof(struct stream_row, id_hi) },
	{ 14, WIRE_U64, offsetof(struct stream_row, id_lo) },
	{ 15, WIRE_BOOL, offsetof(struct stream_row, was_blocked) },
	{ 16, WIRE_BOOL, offsetof(struct stream_row, was_full) },
	{ 17, WIRE_SLICE, offsetof(struct stream_row, node) },
	{ 18, WIRE_U64, offsetof(struct stream_row, had_got) },
	{ 19, WIRE_U64, offsetof(struct stream_row, had_stored) },
};

static const struct wire_col frame_cols[] = {
	{ 1, WIRE_U64, offsetof(struct frame_row, seq) },
	{ 2, WIRE_U64, offsetof(struct frame_row, upto) },
	{ 3, WIRE_U32, offsetof(struct frame_row, kind) },
	{ 4, WIRE_U32, offsetof(struct frame_row, asks) },
	{ 5, WIRE_U32, offsetof(struct frame_row, count) },
	{ 6, WIRE_SLICE, offsetof(struct frame_row, body) },
	{ 7, WIRE_SLICE, offsetof(struct frame_row, payload) },
};

static const struct wire_col source_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct source_row, name) },
	{ 2, WIRE_SLICE, offsetof(struct source_row, node) },
	{ 3, WIRE_U64, offsetof(struct source_row, incarnation) },
};

static const struct wire_col slot_cols[] = {
	{ 1, WIRE_U32, offsetof(struct slot_row, slot) },
	{ 2, WIRE_U32, offsetof(struct slot_row, window) },
	{ 3, WIRE_U64, offsetof(struct slot_row, id) },
	{ 4, WIRE_U64, offsetof(struct slot_row, seq) },
	{ 5, WIRE_U64, offsetof(struct slot_row, taken) },
	{ 6, WIRE_U64, offsetof(struct slot_row, id_hi) },
	{ 7, WIRE_U64, offsetof(struct slot_row, id_lo) },
};

struct origin_row {
	struct slice	name;
	uint32_t	slot;
	uint64_t	incarnation, id_hi, id_lo;
};

static const struct wire_col origin_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct origin_row, name) },
	{ 2, WIRE_U32, offsetof(struct origin_row, slot) },
	{ 3, WIRE_U64, offsetof(struct origin_row, incarnation) },
	{ 4, WIRE_U64, offsetof(struct origin_row, id_hi) },
	{ 5, WIRE_U64, offsetof(struct origin_row, id_lo) },
};

/* --- Out --------------------------------------------------------------- */

struct sink {
	bus_sink	*put;
	void		*ctx;
};

static int
tell(const struct sink *s, enum piece what, const struct wire_col *cols,
    size_t n, const void *row, size_t bytes)
{
	uint8_t		 small[FIELDS_MAX], *buf = small;
	struct wire_out	 w;
	int		 rc;

	if (bytes > 0 && (buf = malloc(FIELDS_MAX + bytes)) == NULL)
		return ERR_NOMEM;
	buf[0] = (uint8_t)what;
	wire_out_init(&w, buf + 1, FIELDS_MAX + bytes - 1);
	wire_put_cols(&w, cols, n, row);
	rc = w.full ? ERR_INVAL : s->put(s->ctx, buf, wire_out_len(&w) + 1);
	if (buf != small)
		free(buf);
	return rc;
}

#define TELL(sink, what, cols, row, bytes) \
	tell((sink), (what), (cols), NELEM(cols), (row), (bytes))

static struct slice
text_of(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

static int
tell_frames(const struct sink *s, const struct stream_out *o)
{
	const struct stream_frame	*f;
	struct frame_row		 r;
	int				 rc;

	for (f = o->head; f != NULL; f = f->next) {
		r = (struct frame_row){ f->seq, f->upto, f->kind, f->asks,
		    f->count, { f->body->data, f->len },
		    { f->payload_at, f->payload_len } };
		if ((rc = TELL(s, PIECE_FRAME, frame_cols, &r,
		    (size_t)f->len + f->payload_len)) < 0)
			return rc;
	}
	if (o->open_count == 0)
		return 0;
	r = (struct frame_row){ .asks = o->open_asks, .count = o->open_count,
	    .body = { o->open->data, o->open_len } };
	return TELL(s, PIECE_OPEN, frame_cols, &r, o->open_len);
}

static int
tell_stream(const struct sink *s, const struct bus_peer *p)
{
	const struct stream_out	*o = &p->out;
	struct stream_row	 r = {
		.name = text_of(p->name),
		.incarnation = p->incarnation, .stream = p->stream,
		.seq = o->seq, .sent_seq = o->sent_seq, .got = o->got,
		.stored = o->stored, .got_bytes = o->got_bytes,
		.had_got = o->had_got, .had_stored = o->had_stored,
		.appended = o->appended, .sent = o->sent,
		.granted = o->granted, .base = o->base,
		.id_hi = o->last_id.hi, .id_lo = o->last_id.lo,
		.was_blocked = o->was_blocked, .was_full = o->was_full,
	};
	int			 rc;

	if (p->node != NULL)
		r.node = text_of(p->node);
	if ((rc = TELL(s, PIECE_STREAM, stream_cols, &r, r.node.len)) < 0)
		return rc;
	return tell_frames(s, o);
}

/* Frames a handler has begun with are not taken: they come again, and of
 * their records those that are new. */
static int
tell_source(const struct sink *s, const struct conn *c)
{
	struct source_row	 r = { text_of(c->name), text_of(c->node),
				    c->incarnation };
	const struct stream_in	*in;
	struct slot_row		 row;
	uint32_t		 slot;
	int			 rc;

	if ((rc = TELL(s, PIECE_SOURCE, source_cols, &r, r.node.len)) < 0)
		return rc;
	for (slot = 0; slot < SLOTS_MAX; slot++) {
		in = &c->in[slot];
		row = (struct slot_row){ slot, in->window, in->id, in->seq,
		    in->taken, in->last_id.hi, in->last_id.lo };
		if (in->open && (rc = TELL(s, PIECE_SLOT, slot_cols, &row,
		    0)) < 0)
			return rc;
	}
	return 0;
}

static int
tell_origin(const struct sink *s, const struct origin *o)
{
	struct origin_row r = { text_of(o->name), o->slot, o->incarnation,
	    o->last_id.hi, o->last_id.lo };

	return TELL(s, PIECE_ORIGIN, origin_cols, &r, r.name.len);
}

int
bus_export(const struct bus *b, bus_sink *put, void *ctx)
{
	struct sink		 s = { put, ctx };
	struct bus_row		 r = { b->serial };
	const struct bus_peer	*p;
	struct origin		*o, *more;
	struct conn		*c, *next;
	int			 rc;

	if ((rc = TELL(&s, PIECE_BUS, bus_cols, &r, 0)) < 0)
		return rc;
	for (p = b->peers; p != NULL; p = p->next)
		if ((rc = tell_stream(&s, p)) < 0)
			return rc;
	HASH_ITER(hh, b->conns, c, next)
		if (c->class != PEER_TOOL && (rc = tell_source(&s, c)) < 0)
			return rc;
	HASH_ITER(hh, b->origins, o, more)
		if ((rc = tell_origin(&s, o)) < 0)
			return rc;
	return 0;
}

/* --- In ---------------------------------------------------------------- */

static int
read_row(void *row, const struct wire_col *cols, size_t n, const uint8_t *body,
    size_t len)
{
	struct wire_in		in;
	struct wire_field	f;
	int			rc;

	wire_in_init(&in, body, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(cols, n, row, &f) < 0)
			return ERR_PROTO;
	return rc;
}

#define READ(row, cols, body, len) \
	read_row((row), (cols), NELEM(cols), (body), (len))

/* A name or node as it stands in structs: of bounded length, without NUL. */
static bool
copy_text(char *out, size_t size, struct slice s)
{
	if (s.len >= size || (s.len > 0 && memchr(s.data, 0, s.len) != NULL))
		return false;
	if (s.len > 0)
		memcpy(out, s.data, s.len);
	out[s.len] = '\0';
	return true;
}

static int
take_bus(struct bus *b, const uint8_t *body, size_t len)
{
	struct bus_row r = { 0 };

	if (READ(&r, bus_cols, body, len) < 0)
		return ERR_PROTO;
	b->serial = MAX(b->serial, r.serial);
	return 0;
}

static int
take_stream(struct bus *b, const uint8_t *body, size_t len)
{
	struct stream_row	 r;
	struct carried		*c;
	struct stream_out	*o;

	memset(&r, 0, sizeof(r));
	if (READ(&r, stream_cols, body, len) < 0 ||
	    (r.incarnation == 0 && r.node.len == 0))
		return ERR_PROTO;
	if (b->ncarried >= BUS_PEERS_MAX)
		return ERR_FULL;
	if ((c = calloc(1, sizeof(*c))) == NULL)
		return ERR_NOMEM;
	if (!copy_text(c->name, sizeof(c->name), r.name) ||
	    !copy_text(c->node, sizeof(c->node), r.node) ||
	    peer_class_of(c->name) == 0) {
		free(c);
		return ERR_PROTO;
	}
	c->incarnation = r.incarnation;
	c->stream = r.stream;
	o = &c->out;
	stream_out_init(o, &b->pool, b->stream_max, b->credit);
	o->seq = r.seq;
	o->sent_seq = r.sent_seq;
	o->got = r.got;
	o->stored = r.stored;
	o->had_got = r.had_got;
	o->had_stored = r.had_stored;
	o->got_bytes = r.got_bytes;
	o->appended = r.appended;
	o->sent = r.sent;
	o->granted = r.granted;
	o->base = r.base;
	o->last_id = (struct msgid){ r.id_hi, r.id_lo };
	o->was_blocked = r.was_blocked;
	o->was_full = r.was_full;
	c->next = b->carried;
	b->carried = c;
	b->ncarried++;
	return 0;
}

static int
take_frame(struct bus *b, bool open, const uint8_t *body, size_t len)
{
	struct frame_row	r;
	struct stream_frame	like;

	memset(&r, 0, sizeof(r));
	if (READ(&r, frame_cols, body, len) < 0 || b->carried == NULL)
		return ERR_PROTO;
	if (open)
		return stream_restore_open(&b->carried->out, r.count, r.asks,
		    r.body);
	if (r.kind < KIND_RECORDS || r.kind >= KIND_ROUTE_ACK ||
	    (r.kind != KIND_RECORDS && (r.body.len > BUS_BODY_MAX ||
	    r.payload.len > 0)))
		return ERR_PROTO;
	memset(&like, 0, sizeof(like));
	like.seq = r.seq;
	like.upto = r.upto;
	like.kind = r.kind;
	like.asks = r.asks;
	like.count = r.count;
	return stream_restore_frame(&b->carried->out, &like, r.body,
	    r.payload);
}

static int
take_source(struct bus *b, const uint8_t *body, size_t len)
{
	char			name[BUS_NAME_MAX], node[BUS_NODE_MAX];
	struct source_row	r;
	enum peer_class		class;

	memset(&r, 0, sizeof(r));
	if (READ(&r, source_cols, body, len) < 0 || r.incarnation == 0 ||
	    !copy_text(name, sizeof(name), r.name) ||
	    !copy_text(node, sizeof(node), r.node) ||
	    (class = peer_class_of(name)) == 0 || class == PEER_TOOL)
		return ERR_PROTO;
	b->import_conn = conn_restore(b, name, node, r.incarnation);
	return b->import_conn == NULL ? ERR_FULL : 0;
}

static int
take_slot(struct bus *b, const uint8_t *body, size_t len)
{
	struct slot_row		 r;
	struct stream_in	*in;

	memset(&r, 0, sizeof(r));
	if (READ(&r, slot_cols, body, len) < 0 || b->import_conn == NULL ||
	    r.slot >= SLOTS_MAX)
		return ERR_PROTO;
	in = &b->import_conn->in[r.slot];
	if (in->open)
		return ERR_PROTO;
	in->open = true;
	in->id = r.id;
	in->window = r.window;
	in->seq = r.seq;
	in->taken = in->told = r.taken;
	in->last_id = (struct msgid){ r.id_hi, r.id_lo };
	return 0;
}

static int
take_origin(struct bus *b, const uint8_t *body, size_t len)
{
	char			 name[BUS_NAME_MAX + BUS_NODE_MAX];
	struct origin_row	 r;
	struct origin		*o;

	memset(&r, 0, sizeof(r));
	if (READ(&r, origin_cols, body, len) < 0 ||
	    !copy_text(name, sizeof(name), r.name))
		return ERR_PROTO;
	if ((o = origin_get(b, name, r.slot, r.incarnation)) == NULL)
		return ERR_NOMEM;
	o->last_id = (struct msgid){ r.id_hi, r.id_lo };
	return 0;
}

int
bus_import(struct bus *b, const void *piece, size_t len)
{
	const uint8_t *body = (const uint8_t *)piece + 1;

	if (len == 0)
		return ERR_PROTO;
	switch (*(const uint8_t *)piece) {
	case PIECE_BUS:
		return take_bus(b, body, len - 1);
	case PIECE_STREAM:
		return take_stream(b, body, len - 1);
	case PIECE_FRAME:
		return take_frame(b, false, body, len - 1);
	case PIECE_OPEN:
		return take_frame(b, true, body, len - 1);
	case PIECE_SOURCE:
		return take_source(b, body, len - 1);
	case PIECE_SLOT:
		return take_slot(b, body, len - 1);
	case PIECE_ORIGIN:
		return take_origin(b, body, len - 1);
	}
	return ERR_PROTO;
}

int
bus_import_end(struct bus *b)
{
	struct carried	*c;
	int		 rc;

	for (c = b->carried; c != NULL; c = c->next)
		if ((rc = stream_restore_end(&c->out)) < 0)
			return rc;
	b->import_conn = NULL;
	return 0;
}

struct carried *
carried_take(struct bus *b, const char *name, const char *node,
    uint64_t incarnation)
{
	struct carried **at, *c;

	for (at = &b->carried; (c = *at) != NULL; at = &c->next)
		if (strcmp(c->name, name) == 0 && (node != NULL ?
		    strcmp(c->node, node) == 0 :
		    c->node[0] == '\0' && c->incarnation == incarnation)) {
			*at = c->next;
			b->ncarried--;
			return c;
		}
	return NULL;
}

void
carried_fini(struct bus *b)
{
	struct carried *c;

	while ((c = b->carried) != NULL) {
		b->carried = c->next;
		stream_out_fini(&c->out);
		free(c);
	}
	b->ncarried = 0;
}

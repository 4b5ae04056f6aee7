#include "rlog/message.h"

#include "base/err.h"

#define HEADER		8u
#define ROW_HEADER	16u
#define WORD		25u
#define DELETED		0x80000000u

enum field_type { U8, U32, U64 };

struct field {
	uint8_t		type;		/* enum field_type */
	uint16_t	offset;
};

#define F(t, name)	{ t, offsetof(struct rlog_msg, name) }
#define STREAM		F(U32, table), F(U64, writer), F(U64, incarnation)

/* The fixed parts. What is added comes last. */
static const struct field offer[] = {
	STREAM, F(U64, home), F(U64, seq), F(U8, hops)
};
static const struct field follow[] = {
	STREAM, F(U64, seq), F(U32, ticket)
};
static const struct field leave[] = { STREAM };
static const struct field ack[] = { STREAM, F(U32, count) };
static const struct field rows[] = {
	STREAM, F(U64, from), F(U64, upto), F(U64, head), F(U64, whole),
	F(U64, seen), F(U64, floor), F(U64, end), F(U64, stable),
	F(U32, ticket), F(U32, count), F(U8, flags)
};

static const struct layout {
	const struct field *fields;
	size_t		    n;
} layouts[] = {
	[RLOG_OFFER] = { offer, NELEM(offer) },
	[RLOG_FOLLOW] = { follow, NELEM(follow) },
	[RLOG_LEAVE] = { leave, NELEM(leave) },
	[RLOG_ACK] = { ack, NELEM(ack) },
	[RLOG_ROWS] = { rows, NELEM(rows) },
};

static size_t
field_size(const struct field *f)
{
	return f->type == U8 ? 1 : f->type == U32 ? 4 : 8;
}

static size_t
fixed_size(const struct layout *l)
{
	size_t i, n = 0;

	for (i = 0; i < l->n; i++)
		n += field_size(&l->fields[i]);
	return n;
}

static void
put_fixed(uint8_t *p, const struct layout *l, const struct rlog_msg *m)
{
	const struct field *f;
	const void	   *v;

	for (f = l->fields; f < l->fields + l->n; f++) {
		v = (const char *)m + f->offset;
		if (f->type == U8)
			*p = *(const uint8_t *)v;
		else if (f->type == U32)
			put_le32(p, *(const uint32_t *)v);
		else
			put_le64(p, *(const uint64_t *)v);
		p += field_size(f);
	}
}

static void
get_fixed(const uint8_t *p, const struct layout *l, struct rlog_msg *m)
{
	const struct field *f;
	void		   *v;

	for (f = l->fields; f < l->fields + l->n; f++) {
		v = (char *)m + f->offset;
		if (f->type == U8)
			*(uint8_t *)v = *p;
		else if (f->type == U32)
			*(uint32_t *)v = get_le32(p);
		else
			*(uint64_t *)v = get_le64(p);
		p += field_size(f);
	}
}

void
rlog_out_init(struct rlog_out *o, void *buf, size_t size)
{
	*o = (struct rlog_out){ .buf = buf, .size = size };
}

static int
put_record(struct rlog_out *o, const struct rlog_msg *m)
{
	const struct layout *l = &layouts[m->kind];
	size_t		     n = fixed_size(l);
	uint8_t		    *p = o->buf + o->len;

	if (o->size - o->len < HEADER + n)
		return ERR_FULL;
	put_le16(p, (uint16_t)m->kind);
	put_le16(p + 2, (uint16_t)n);
	put_le32(p + 4, (uint32_t)n);
	put_fixed(p + HEADER, l, m);
	o->len += HEADER + n;
	return 0;
}

int
rlog_put_msg(struct rlog_out *o, const struct rlog_msg *m)
{
	return put_record(o, m);
}

int
rlog_rows_begin(struct rlog_out *o, const struct rlog_msg *m)
{
	o->start = o->len;
	o->count = 0;
	return put_record(o, m);
}

int
rlog_rows_row(struct rlog_out *o, const struct rlog_row *row)
{
	size_t	 vlen = row->deleted ? 0 : row->value.len;
	uint8_t	*p = o->buf + o->len;

	if (o->size - o->len < ROW_HEADER + row->key.len + vlen)
		return ERR_FULL;
	put_le64(p, row->seq);
	put_le32(p + 8, (uint32_t)row->key.len | (row->deleted ? DELETED : 0));
	put_le32(p + 12, (uint32_t)vlen);
	memcpy(p + ROW_HEADER, row->key.data, row->key.len);
	if (vlen > 0)
		memcpy(p + ROW_HEADER + row->key.len, row->value.data, vlen);
	o->len += ROW_HEADER + row->key.len + vlen;
	o->count++;
	return 0;
}

static void
end_record(struct rlog_out *o, const struct rlog_msg *m)
{
	struct rlog_msg last = *m;
	uint8_t	       *p = o->buf + o->start;

	last.count = o->count;
	put_le32(p + 4, (uint32_t)(o->len - o->start - HEADER));
	put_fixed(p + HEADER, &layouts[m->kind], &last);
}

void
rlog_rows_end(struct rlog_out *o, const struct rlog_msg *m)
{
	end_record(o, m);
}

int
rlog_ack_begin(struct rlog_out *o, const struct rlog_msg *m)
{
	return rlog_rows_begin(o, m);
}

int
rlog_ack_word(struct rlog_out *o, const struct rlog_word *w)
{
	uint8_t	*p = o->buf + o->len;

	if (o->size - o->len < WORD)
		return ERR_FULL;
	put_le64(p, w->node);
	put_le64(p + 8, w->incarnation);
	put_le64(p + 16, w->seq);
	p[24] = w->flags;
	o->len += WORD;
	o->count++;
	return 0;
}

void
rlog_ack_end(struct rlog_out *o, const struct rlog_msg *m)
{
	end_record(o, m);
}

int
rlog_in_init(struct rlog_in *in, const void *msg, size_t len)
{
	if (len > RLOG_MSG_MAX)
		return ERR_PROTO;
	in->at = msg != NULL ? msg : (const void *)"";
	in->end = in->at + len;
	return 0;
}

/* One row: its length, or ERR_PROTO. */
static long
get_row(struct slice in, struct rlog_row *row)
{
	uint32_t klen, vlen;

	if (in.len < ROW_HEADER)
		return ERR_PROTO;
	*row = (struct rlog_row){ .seq = get_le64(in.data) };
	klen = get_le32(in.data + 8);
	vlen = get_le32(in.data + 12);
	row->deleted = (klen & DELETED) != 0;
	klen &= ~DELETED;
	if (klen == 0 || klen > RLOG_ROW_MAX || vlen > RLOG_ROW_MAX - klen ||
	    (row->deleted && vlen > 0) || row->seq == 0 ||
	    in.len - ROW_HEADER < (size_t)klen + vlen)
		return ERR_PROTO;
	row->key = (struct slice){ in.data + ROW_HEADER, klen };
	row->value = (struct slice){ in.data + ROW_HEADER + klen, vlen };
	return (long)(ROW_HEADER + klen + vlen);
}

int
rlog_rows_next(struct slice *in, struct rlog_row *row)
{
	long n;

	if (in->len == 0 || (n = get_row(*in, row)) < 0)
		return 0;
	in->data += n;
	in->len -= (size_t)n;
	return 1;
}

int
rlog_words_next(struct slice *in, struct rlog_word *w)
{
	if (in->len < WORD)
		return 0;
	*w = (struct rlog_word){ get_le64(in->data), get_le64(in->data + 8),
	    get_le64(in->data + 16), in->data[24] };
	in->data += WORD;
	in->len -= WORD;
	return 1;
}

static int
check_rows(const struct rlog_msg *m)
{
	struct slice	left = m->rows;
	struct rlog_row row;
	uint64_t	last = m->from;
	uint32_t	n = 0;

	for (; left.len > 0; n++) {
		if (rlog_rows_next(&left, &row) == 0)
			return ERR_PROTO;
		if (m->flags & RLOG_F_SCAN)
			continue;
		if (row.seq <= last || row.seq > m->upto)
			return ERR_PROTO;
		last = row.seq;
	}
	return n == m->count && m->upto >= m->from ? 0 : ERR_PROTO;
}

int
rlog_msg_next(struct rlog_in *in, struct rlog_msg *out)
{
	const uint8_t	*p;
	struct rlog_msg	 m;
	unsigned	 kind;
	size_t		 fixed, len;

	while (in->at < in->end) {
		p = in->at;
		if ((size_t)(in->end - p) < HEADER)
			return ERR_PROTO;
		kind = get_le16(p);
		fixed = get_le16(p + 2);
		len = get_le32(p + 4);
		if (len > (size_t)(in->end - p) - HEADER || fixed > len)
			return ERR_PROTO;
		in->at = p + HEADER + len;
		if (kind == 0 || kind >= NELEM(layouts))
			continue;
		if (fixed < fixed_size(&layouts[kind]))
			return ERR_PROTO;
		m = (struct rlog_msg){ .kind = (enum rlog_msg_kind)kind };
		get_fixed(p + HEADER, &layouts[kind], &m);
		m.rows = (struct slice){ p + HEADER + fixed, len - fixed };
		if (m.incarnation == 0 && kind != RLOG_FOLLOW &&
		    kind != RLOG_LEAVE)
			return ERR_PROTO;
		if (kind == RLOG_ROWS && check_rows(&m) < 0)
			return ERR_PROTO;
		if (kind == RLOG_ACK && m.rows.len != (uint64_t)m.count * WORD)
			return ERR_PROTO;
		*out = m;
		return 1;
	}
	return 0;
}

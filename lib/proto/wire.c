#include "proto/wire.h"

#include "base/err.h"

enum { WT_VARINT = 0, WT_64 = 1, WT_BYTES = 2, WT_32 = 5 };

#define VARINT_MAX	10	/* bytes of the longest */
#define OPEN_LEN	3	/* bytes kept for the length of what is open */

void
wire_out_init(struct wire_out *w, void *buf, size_t size)
{
	w->buf = buf;
	w->len = 0;
	w->size = size;
	w->full = false;
}

static size_t
varint(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	for (; v > 0x7f; v >>= 7)
		out[n++] = (uint8_t)(v | 0x80);
	out[n++] = (uint8_t)v;
	return n;
}

static void
append(struct wire_out *w, const void *bytes, size_t n)
{
	if (w->full || w->size - w->len < n) {
		w->full = true;
		return;
	}
	if (n > 0)
		memcpy(w->buf + w->len, bytes, n);
	w->len += n;
}

void
wire_put_uint(struct wire_out *w, unsigned field, uint64_t v)
{
	uint8_t tmp[2 * VARINT_MAX];
	size_t	n;

	if (v == 0)
		return;
	n = varint(tmp, (uint64_t)field << 3 | WT_VARINT);
	n += varint(tmp + n, v);
	append(w, tmp, n);
}

void
wire_put_fixed64(struct wire_out *w, unsigned field, uint64_t v)
{
	uint8_t tmp[VARINT_MAX + 8];
	size_t	n;

	if (v == 0)
		return;
	n = varint(tmp, (uint64_t)field << 3 | WT_64);
	put_le64(tmp + n, v);
	append(w, tmp, n + 8);
}

void
wire_put_bytes(struct wire_out *w, unsigned field, struct slice s)
{
	uint8_t tmp[2 * VARINT_MAX];
	size_t	n, start = w->len;

	if (s.len == 0)
		return;
	n = varint(tmp, (uint64_t)field << 3 | WT_BYTES);
	n += varint(tmp + n, s.len);
	append(w, tmp, n);
	append(w, s.data, s.len);
	if (w->full)
		w->len = start;
}

size_t
wire_open(struct wire_out *w, unsigned field)
{
	uint8_t tmp[VARINT_MAX + OPEN_LEN] = { 0 };
	size_t	n = varint(tmp, (uint64_t)field << 3 | WT_BYTES);

	append(w, tmp, n + OPEN_LEN);
	return w->len;
}

/* The length is written in OPEN_LEN bytes however small it is: longer than
 * need be, which the encoding allows. */
void
wire_close(struct wire_out *w, size_t mark)
{
	size_t	 n = w->len - mark;
	uint8_t	*at;

	if (w->full)			/* there may be no buffer at all */
		return;
	at = w->buf + mark - OPEN_LEN;
	if (n >= 1u << (7 * OPEN_LEN)) {
		w->full = true;
		return;
	}
	at[0] = (uint8_t)(n | 0x80);
	at[1] = (uint8_t)(n >> 7 | 0x80);
	at[2] = (uint8_t)(n >> 14);
}

/* Returns the bytes read, 0 if it does not end in time or is beyond 64 bits. */
static size_t
read_varint(const uint8_t *p, const uint8_t *end, uint64_t *v)
{
	size_t	 n;
	uint64_t x = 0;

	for (n = 0; n < VARINT_MAX && p + n < end; n++) {
		if (n == VARINT_MAX - 1 && p[n] > 1)
			return 0;
		x |= (uint64_t)(p[n] & 0x7f) << (7 * n);
		if ((p[n] & 0x80) == 0) {
			*v = x;
			return n + 1;
		}
	}
	return 0;
}

int
wire_next(struct wire_in *in, struct wire_field *out)
{
	struct wire_field f = { 0 };
	const uint8_t	*p = in->at;
	uint64_t	 tag, len;
	size_t		 n;

	if (p == in->end)
		return 0;
	if ((n = read_varint(p, in->end, &tag)) == 0 || tag >> 3 == 0 ||
	    tag >> 3 > (1u << 29) - 1)
		return ERR_PROTO;
	p += n;
	f.number = (unsigned)(tag >> 3);
	switch (tag & 7) {
	case WT_VARINT:
		if ((n = read_varint(p, in->end, &f.value)) == 0)
			return ERR_PROTO;
		p += n;
		break;
	case WT_64:
		if (in->end - p < 8)
			return ERR_PROTO;
		f.value = get_le64(p);
		p += 8;
		break;
	case WT_32:
		if (in->end - p < 4)
			return ERR_PROTO;
		f.value = get_le32(p);
		p += 4;
		break;
	case WT_BYTES:
		if ((n = read_varint(p, in->end, &len)) == 0)
			return ERR_PROTO;
		p += n;
		if (len > (uint64_t)(in->end - p))
			return ERR_PROTO;
		f.is_bytes = true;
		f.bytes = (struct slice){ p, (size_t)len };
		p += len;
		break;
	default:
		return ERR_PROTO;
	}
	in->at = p;
	*out = f;
	return 1;
}

void
wire_put_cols(struct wire_out *w, const struct wire_col *cols, size_t n,
    const void *row)
{
	const struct wire_col	*c;
	const void		*at;

	for (c = cols; c < cols + n; c++) {
		at = (const char *)row + c->offset;
		switch (c->type) {
		case WIRE_U32:
			wire_put_uint(w, c->number, *(const uint32_t *)at);
			break;
		case WIRE_U64:
			wire_put_uint(w, c->number, *(const uint64_t *)at);
			break;
		case WIRE_FIX64:
			wire_put_fixed64(w, c->number, *(const uint64_t *)at);
			break;
		case WIRE_BOOL:
			wire_put_uint(w, c->number, *(const bool *)at);
			break;
		case WIRE_SLICE:
			wire_put_bytes(w, c->number, *(const struct slice *)at);
			break;
		}
	}
}

int
wire_get_col(const struct wire_col *cols, size_t n, void *row,
    const struct wire_field *f)
{
	const struct wire_col	*c = cols;
	void			*at;

	while (c < cols + n && c->number != f->number)
		c++;
	if (c == cols + n)
		return 0;
	if (f->is_bytes != (c->type == WIRE_SLICE))
		return ERR_PROTO;
	at = (char *)row + c->offset;
	switch (c->type) {
	case WIRE_U32:
		if (f->value > UINT32_MAX)
			return ERR_PROTO;
		*(uint32_t *)at = (uint32_t)f->value;
		break;
	case WIRE_U64:
	case WIRE_FIX64:
		*(uint64_t *)at = f->value;
		break;
	case WIRE_BOOL:
		*(bool *)at = f->value != 0;
		break;
	case WIRE_SLICE:
		*(struct slice *)at = f->bytes;
		break;
	}
	return 0;
}

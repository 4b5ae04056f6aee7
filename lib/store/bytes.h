/*
 * bytes.h: writing and reading runs of little-endian fields. A writer counts
 * on when its room is used up, so that one pass also tells how much is needed;
 * a reader that ran out gives zeros and remembers it. The room's own.
 */
#ifndef STORE_BYTES_H
#define STORE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/util.h"

struct bytes_out {
	uint8_t	*buf;
	size_t	 len, size;
};

struct bytes_in {
	const uint8_t	*at, *end;
	bool		 bad;
};

/* Room for n bytes, or NULL. */
static inline uint8_t *
out_room(struct bytes_out *w, size_t n)
{
	size_t at = w->len;

	w->len += n;
	return w->len <= w->size ? w->buf + at : NULL;
}

static inline void
out_u8(struct bytes_out *w, uint8_t v)
{
	uint8_t *p = out_room(w, 1);

	if (p != NULL)
		*p = v;
}

static inline void
out_u16(struct bytes_out *w, uint16_t v)
{
	uint8_t *p = out_room(w, 2);

	if (p != NULL)
		put_le16(p, v);
}

static inline void
out_u32(struct bytes_out *w, uint32_t v)
{
	uint8_t *p = out_room(w, 4);

	if (p != NULL)
		put_le32(p, v);
}

static inline void
out_u64(struct bytes_out *w, uint64_t v)
{
	uint8_t *p = out_room(w, 8);

	if (p != NULL)
		put_le64(p, v);
}

static inline void
out_bytes(struct bytes_out *w, const void *data, size_t len)
{
	uint8_t *p = out_room(w, len);

	if (p != NULL && len > 0)
		memcpy(p, data, len);
}

/* How long it is; ERR_FULL if that was not there and size was not 0. */
static inline long
out_end(const struct bytes_out *w)
{
	return w->len > w->size && w->size > 0 ? ERR_FULL : (long)w->len;
}

/* The next n bytes, or NULL. */
static inline const uint8_t *
in_bytes(struct bytes_in *r, size_t n)
{
	const uint8_t *p = r->at;

	if (r->bad || n > (size_t)(r->end - p)) {
		r->bad = true;
		return NULL;
	}
	r->at += n;
	return p;
}

static inline uint8_t
in_u8(struct bytes_in *r)
{
	const uint8_t *p = in_bytes(r, 1);

	return p != NULL ? *p : 0;
}

static inline uint16_t
in_u16(struct bytes_in *r)
{
	const uint8_t *p = in_bytes(r, 2);

	return p != NULL ? get_le16(p) : 0;
}

static inline uint32_t
in_u32(struct bytes_in *r)
{
	const uint8_t *p = in_bytes(r, 4);

	return p != NULL ? get_le32(p) : 0;
}

static inline uint64_t
in_u64(struct bytes_in *r)
{
	const uint8_t *p = in_bytes(r, 8);

	return p != NULL ? get_le64(p) : 0;
}

static inline struct slice
in_slice(struct bytes_in *r, size_t len)
{
	const uint8_t *p = in_bytes(r, len);

	return (struct slice){ p, p != NULL ? len : 0 };
}

#endif

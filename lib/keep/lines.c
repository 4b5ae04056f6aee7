#include "keep/lines.h"

#include <string.h>

#include "base/util.h"

void
line_cutter_feed(struct line_cutter *c, const char *bytes, size_t n,
    line_fn *each, void *ctx)
{
	const char	*nl;
	size_t		 k;

	while (n > 0) {
		nl = memchr(bytes, '\n', n);
		k = nl != NULL ? (size_t)(nl - bytes) + 1 : n;
		k = MIN(k, sizeof(c->buf) - 1 - c->len);
		memcpy(c->buf + c->len, bytes, k);
		c->len += k;
		bytes += k;
		n -= k;
		if (c->len > 0 && (c->buf[c->len - 1] == '\n' ||
		    c->len == sizeof(c->buf) - 1))
			line_cutter_end(c, each, ctx);
	}
}

void
line_cutter_end(struct line_cutter *c, line_fn *each, void *ctx)
{
	if (c->len == 0)
		return;
	if (c->buf[c->len - 1] != '\n')
		c->buf[c->len++] = '\n';
	each(ctx, c->buf, c->len);
	c->len = 0;
}

void
line_ring_init(struct line_ring *r, char *storage, size_t size)
{
	memset(r, 0, sizeof(*r));
	r->buf = storage;
	r->size = size;
}

bool
line_ring_put(struct line_ring *r, const char *line, size_t len)
{
	size_t	at, k;

	if (len > r->size - r->used) {
		r->lost++;
		return false;
	}
	at = (r->head + r->used) % r->size;
	k = MIN(len, r->size - at);
	memcpy(r->buf + at, line, k);
	memcpy(r->buf, line + k, len - k);
	r->used += len;
	return true;
}

size_t
line_ring_peek(const struct line_ring *r, const char **bytes)
{
	*bytes = r->buf + r->head;
	return MIN(r->used, r->size - r->head);
}

void
line_ring_take(struct line_ring *r, size_t n)
{
	n = MIN(n, r->used);
	r->head = (r->head + n) % r->size;
	r->used -= n;
}

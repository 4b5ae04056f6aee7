#include "kv/batch.h"

#include <assert.h>
#include <stdlib.h>

#include "base/err.h"
#include "kv/internal.h"

#define ENTRY_HEAD	8u		/* klen, vlen */
#define VLEN_DELETE	UINT32_MAX

enum { ROOM_KEPT = 256 << 10 };

struct kv_batch *
kv_batch_new(void)
{
	return calloc(1, sizeof(struct kv_batch));
}

void
kv_batch_free(struct kv_batch **b)
{
	if (*b == NULL)
		return;
	free((*b)->buf);
	free(*b);
	*b = NULL;
}

void
kv_batch_reset(struct kv_batch *b)
{
	if (b->room > ROOM_KEPT) {
		free(b->buf);
		b->buf = NULL;
		b->room = 0;
	}
	b->len = 0;
	b->n = 0;
	b->position = 0;
}

/* Make room for a whole entry and write its head and key. */
static int
entry_begin(struct kv_batch *b, const void *key, size_t klen, uint32_t vlen,
    size_t more, uint8_t **rest)
{
	size_t	 need, room = b->room;
	uint8_t	*p;

	if (klen == 0 || klen > KV_KEY_MAX || *(const uint8_t *)key == 0 ||
	    b->n == UINT32_MAX)
		return ERR_INVAL;
	need = b->len + ENTRY_HEAD + klen + more;
	if (need > room) {
		if (room == 0)
			room = 4096;
		while (room < need)
			room += room / 2;
		if ((p = realloc(b->buf, room)) == NULL)
			return ERR_NOMEM;
		b->buf = p;
		b->room = room;
	}
	p = b->buf + b->len;
	put_le32(p, (uint32_t)klen);
	put_le32(p + 4, vlen);
	memcpy(p + ENTRY_HEAD, key, klen);
	*rest = p + ENTRY_HEAD + klen;
	b->len = need;
	b->n++;
	return 0;
}

int
kv_batch_put(struct kv_batch *b, const void *key, size_t klen,
    const void *value, size_t vlen)
{
	uint8_t	*p;
	int	 rc;

	if (vlen > KV_VALUE_MAX)
		return ERR_INVAL;
	if ((rc = entry_begin(b, key, klen, (uint32_t)vlen, KV_SUM + vlen,
	    &p)) < 0)
		return rc;
	if (vlen > 0)
		memcpy(p + KV_SUM, value, vlen);
	put_le64(p, kv_record_sum(key, klen, p + KV_SUM, vlen));
	return 0;
}

int
kv_batch_del(struct kv_batch *b, const void *key, size_t klen)
{
	uint8_t	*p;

	return entry_begin(b, key, klen, VLEN_DELETE, 0, &p);
}

void
kv_entry_at(const struct kv_batch *b, size_t *off, struct kv_entry *e)
{
	const uint8_t	*p = b->buf + *off;

	assert(*off + ENTRY_HEAD <= b->len);
	e->klen = get_le32(p);
	e->vlen = get_le32(p + 4);
	e->key = p + ENTRY_HEAD;
	e->sum = e->key + e->klen;
	e->del = e->vlen == VLEN_DELETE;
	if (e->del)
		e->vlen = 0;
	*off += ENTRY_HEAD + e->klen + (e->del ? 0 : KV_SUM + e->vlen);
}

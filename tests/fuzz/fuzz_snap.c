/*
 * A snapshot of any bytes, as they are and with their checksums made right:
 * never a read outside them, never a record that is out of order.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/util.h"
#include "kv/internal.h"
#include "kv/snap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct memory {
	const uint8_t	*data;
	size_t		 at, len;
};

static long
memory_read(void *ctx, void *buf, size_t len)
{
	struct memory	*m = ctx;

	/* Seldom all at once. */
	len = MIN(len, (m->at % 7 + 1) * 5);
	len = MIN(len, m->len - m->at);
	memcpy(buf, m->data + m->at, len);
	m->at += len;
	return (long)len;
}

struct seen {
	uint64_t	n;
	uint8_t		last[KV_KEY_MAX];
	size_t		len;
};

static int
look(void *ctx, const struct slice *key, const struct slice *value)
{
	struct seen	*s = ctx;
	size_t		 i, sum = 0;
	int		 d;

	if (key->len < 1 || key->len > KV_KEY_MAX || key->data[0] == 0 ||
	    value->len > KV_VALUE_MAX)
		abort();
	d = memcmp(s->last, key->data, MIN(s->len, key->len));
	if (s->n > 0 && (d > 0 || (d == 0 && s->len >= key->len)))
		abort();
	memcpy(s->last, key->data, key->len);
	s->len = key->len;
	for (i = 0; i < value->len; i++)
		sum += value->data[i];
	s->n++;
	return sum == SIZE_MAX;
}

static void
parse(const uint8_t *data, size_t size)
{
	static struct seen	seen;
	struct memory		m = { data, 0, size };
	struct kv_snap_source	src = { memory_read, &m, size };
	struct kv_snap_info	info;

	memset(&seen, 0, sizeof(seen));
	if (kv_snap_parse(&src, look, &seen, &info) == 0 &&
	    (info.records != seen.n || m.at != size))
		abort();
}

/* Put the right checksum wherever one belongs. */
static void
mend(uint8_t *p, size_t size)
{
	size_t	 at = 32;

	if (size < at)
		return;
	put_le64(p + 24, XXH3_64bits(p, 24));
	while (size - at >= 24) {
		size_t	klen = get_le32(p + at), vlen = get_le32(p + at + 4);

		if (klen == 0) {
			put_le64(p + at + 16, XXH3_64bits(p, at + 16));
			return;
		}
		if (klen + vlen > size - at - 16)
			return;
		put_le64(p + at + 8, kv_record_sum(p + at + 16, klen,
		    p + at + 16 + klen, vlen));
		at += 16 + klen + vlen;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t	*copy;

	if ((copy = malloc(size + 1)) == NULL)
		return 0;
	memcpy(copy, data, size);
	parse(copy, size);
	mend(copy, size);
	parse(copy, size);
	free(copy);
	return 0;
}

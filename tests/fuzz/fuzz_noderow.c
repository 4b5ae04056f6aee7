/* A row of another node: {deleted 1, key length 2, key, value}. What is read
 * lies within, and is written as it was. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/noderow.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
within(struct slice s, const uint8_t *at, size_t len)
{
	if (s.len > 0 && (s.data < at || s.data + s.len > at + len))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t	key[NODEROW_KEY_MAX], value[NODEROW_VALUE_MAX];
	struct slice	k, v;
	struct noderow	r;
	size_t		klen, vlen;
	bool		deleted;

	if (size < 3)
		return 0;
	deleted = data[0] & 1;
	k = (struct slice){ data + 3, MIN(get_le16(data + 1), size - 3) };
	v = (struct slice){ k.data + k.len, size - 3 - k.len };
	if (deleted)
		v = (struct slice){ NULL, 0 };
	if (noderow_decode(&r, k, v, deleted) < 0)
		return 0;
	within(r.filter, k.data, k.len);
	within(r.group, k.data, k.len);
	within(r.name, v.data, v.len);
	if (r.kind == NODEROW_NAME && r.name.len == 0)
		return 0;
	if (noderow_encode(&r, key, &klen, value, &vlen) < 0 ||
	    klen != k.len || memcmp(key, k.data, klen) != 0 ||
	    (!deleted && (vlen > v.len || memcmp(value, v.data, vlen) != 0)))
		abort();
	return 0;
}

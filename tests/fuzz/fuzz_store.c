/*
 * What a session store reads from its disk. First byte 0: operations of a log,
 * each behind its length {2}, applied at rising positions, and what they made
 * saved and loaded; 1: the record of a session; 2: the record of marks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "store/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
need(bool good)
{
	if (!good)
		abort();
}

/* What was read says the same when it is written. */
static void
again(const uint8_t *data, size_t len)
{
	struct op_target t;
	struct op	 o;
	uint32_t	 left;
	uint8_t		*out;
	size_t		 at = 0, from;
	long		 n;

	if (op_get(&o, data, len) < 0 || o.kind == STORE_RETAIN)
		return;
	n = op_put(NULL, 0, &o);
	need(n > 0 && (size_t)n <= len);
	if ((out = malloc(len)) == NULL)
		return;
	need(op_put(out, len, &o) == n && memcmp(out, data, (size_t)n) == 0);
	for (left = o.ntargets, from = 0;
	    op_next_target(&o, &at, &left, &t) == 1; from = at)
		need(at - from == (t.group != 0 ? STORE_TARGET_MAX :
		    STORE_TARGET_MIN) + 4u * t.nids &&
		    (t.qos == 1 || t.qos == 2));
	need(left == 0 && at == o.targets_len);
	free(out);
}

static int
reload(void *ctx, struct session *s)
{
	struct shard	*other = ctx;
	long		 n = session_save(s, NULL, 0);
	uint8_t		*out;

	need(n > 0 && s->base <= s->sent && s->sent <= s->next);
	if ((out = malloc((size_t)n)) == NULL)
		return 1;
	need(session_save(s, out, (size_t)n) == n);
	need(shard_load(other, out, (size_t)n) == 0);
	free(out);
	return 0;
}

static void
operations(struct shard *sh, const uint8_t *data, size_t size)
{
	struct shard		*other;
	struct shard_counts	 a, b;
	uint64_t		 pos = 1;
	size_t			 n;

	while (size >= 2) {
		n = MIN((size_t)get_le16(data), size - 2);
		again(data + 2, n);
		(void)shard_apply(sh, pos, data + 2, n);
		pos += n + 1;
		data += n + 2;
		size -= n + 2;
	}
	shard_replayed(sh);
	if ((other = shard_new(2)) == NULL)
		return;
	shard_each(sh, reload, other);
	a = shard_counts(sh);
	b = shard_counts(other);
	need(a.sessions == b.sessions && a.queued == b.queued &&
	    a.bodies == b.bodies && a.body_bytes == b.body_bytes);
	need(index_nsubs(shard_index(sh)) == index_nsubs(shard_index(other)));
	shard_free(&other);
}

static void
record(struct shard *sh, const uint8_t *data, size_t size)
{
	struct session	*s;
	uint8_t		*out;

	if (shard_load(sh, data, size) < 0) {
		need(shard_nsessions(sh) == 0 && shard_counts(sh).bodies == 0);
		return;
	}
	s = shard_session(sh, get_le64(data + 4));
	need(s != NULL && session_save(s, NULL, 0) == (long)size);
	if ((out = malloc(size)) == NULL)
		return;
	need(session_save(s, out, size) == (long)size);
	need(memcmp(out, data, size) == 0);
	free(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct shard *sh;

	if (size < 1 || (sh = shard_new(1)) == NULL)
		return 0;
	switch (data[0] % 3) {
	case 0:
		operations(sh, data + 1, size - 1);
		break;
	case 1:
		record(sh, data + 1, size - 1);
		break;
	case 2:
		(void)shard_load_marks(sh, data + 1, size - 1);
		break;
	}
	shard_free(&sh);
	return 0;
}

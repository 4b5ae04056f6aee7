/*
 * batch.h: what one checkpoint changes: puts and deletes, copied one behind
 * the other into a buffer that grows, and the log position they stand for. It
 * is made on the loop's thread and given to the helper (kv/worker.h), which
 * only reads it. The caller bounds it by looking at len and n.
 *
 * Keys are 1 to KV_KEY_MAX bytes, ordered like memcmp, and do not begin with a
 * zero byte: those keys are the tree's own. Of several entries for one key the
 * last one counts. Every entry carries the checksum its record will have.
 */
#ifndef KV_BATCH_H
#define KV_BATCH_H

#include <stddef.h>
#include <stdint.h>

#define KV_KEY_MAX	(128u << 10)
#define KV_VALUE_MAX	(64u << 20)

struct kv_batch {
	uint8_t		*buf;
	size_t		 len;		/* bytes used of buf */
	size_t		 room;
	uint32_t	 n;		/* entries */
	uint64_t	 position;	/* set by the caller */
};

struct kv_batch *kv_batch_new(void);		/* NULL if out of memory */
void kv_batch_free(struct kv_batch **b);	/* NULL is fine; *b is NULL */
void kv_batch_reset(struct kv_batch *b);	/* empty; keeps little */

/*
 * Copy an entry in. ERR_INVAL for a key or value that cannot be, ERR_NOMEM;
 * the batch is as it was then.
 */
int kv_batch_put(struct kv_batch *b, const void *key, size_t klen,
    const void *value, size_t vlen);
int kv_batch_del(struct kv_batch *b, const void *key, size_t klen);

#endif

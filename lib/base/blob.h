/*
 * blob.h: immutable bytes shared by reference count: a payload is built once,
 * sealed, and every queue and stream that holds it holds a reference. The count
 * is atomic because ZeroMQ drops its reference on its own thread.
 */
#ifndef BASE_BLOB_H
#define BASE_BLOB_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct blob {
	atomic_uint	refs;
	uint32_t	len;
	uint8_t		data[];
};

/* A blob of len bytes with one reference, for the caller to fill before it
 * shares it. NULL if out of memory. */
struct blob *blob_new(size_t len);

static inline struct blob *
blob_ref(struct blob *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

/* Drop one reference; the last one frees. *b becomes NULL; NULL is fine. */
void blob_unref(struct blob **b);

#endif

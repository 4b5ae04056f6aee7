#include "base/blob.h"

#include <stdlib.h>

struct blob *
blob_new(size_t len)
{
	struct blob *b;

	if (len > UINT32_MAX || (b = malloc(sizeof(*b) + len)) == NULL)
		return NULL;
	atomic_init(&b->refs, 1);
	b->len = (uint32_t)len;
	return b;
}

void
blob_unref(struct blob **pb)
{
	struct blob *b = *pb;

	*pb = NULL;
	if (b != NULL && atomic_fetch_sub_explicit(&b->refs, 1,
	    memory_order_acq_rel) == 1)
		free(b);
}

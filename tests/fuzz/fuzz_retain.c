/*
 * One retained message as the log and the checkpoint have it. What is read is
 * written again and must come out the same; what is kept of it must be it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "retain/code.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
encode(const uint8_t *data, size_t size, const struct retain_msg *m)
{
	uint8_t *out;

	if ((out = malloc(size)) == NULL)
		return;
	if (retain_encode(out, size, m) != (long)size ||
	    memcmp(out, data, size) != 0)
		abort();
	free(out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct retain_limits lim = { 1, UINT64_MAX };
	struct retain_msg    m, kept;
	struct retain	    *r;
	int		     rc;

	if ((rc = retain_decode(data, size, &m)) < 0) {
		if (rc != ERR_CORRUPT)
			abort();
		return 0;
	}
	encode(data, size, &m);
	if ((r = retain_new(&lim)) == NULL)
		return 0;
	rc = retain_set(r, &m);
	if (rc != 1 && rc != ERR_NOMEM)
		abort();
	if (retain_get(r, m.topic.data, m.topic.len, 0, &kept, NULL) == 0)
		encode(data, size, &kept);
	else if (rc == 1 && m.payload.len > 0)
		abort();
	retain_free(&r);
	return 0;
}

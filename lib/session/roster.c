#include "session/roster.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"

int
roster_init(struct roster *r, unsigned log2)
{
	if (log2 < ROSTER_BITS_MIN || log2 > ROSTER_BITS_MAX)
		return ERR_INVAL;
	memset(r, 0, sizeof(*r));
	r->log2 = log2;
	if ((r->bits = calloc(1, roster_bytes(r))) == NULL)
		return ERR_NOMEM;
	return 0;
}

void
roster_fini(struct roster *r)
{
	free(r->bits);
	memset(r, 0, sizeof(*r));
}

unsigned
roster_log2_for(size_t ids)
{
	unsigned log2 = ROSTER_BITS_MIN;

	while (log2 < ROSTER_BITS_MAX && (size_t)1 << log2 < 16 * ids)
		log2++;
	return log2;
}

bool
roster_add(struct roster *r, uint64_t hash)
{
	uint64_t bit = hash >> (64 - r->log2);

	if (r->bits[bit / 8] >> (bit % 8) & 1)
		return false;
	r->bits[bit / 8] |= (uint8_t)(1 << bit % 8);
	r->ones++;
	return true;
}

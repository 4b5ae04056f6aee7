#include "fib/fib.h"

#include <xxhash.h>

void
fib_group_id(const void *name, size_t nlen, const void *filter, size_t flen,
    uint64_t *hi, uint64_t *lo)
{
	XXH3_state_t	 s;
	XXH128_hash_t	 h;

	XXH3_INITSTATE(&s);
	(void)XXH3_128bits_reset(&s);
	(void)XXH3_128bits_update(&s, name, nlen);
	(void)XXH3_128bits_update(&s, "/", 1);
	(void)XXH3_128bits_update(&s, filter, flen);
	h = XXH3_128bits_digest(&s);
	*hi = h.high64;
	*lo = h.low64;
}

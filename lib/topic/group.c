#include "topic/group.h"

#include <xxhash.h>

struct group_id
group_id_of(const void *name, size_t name_len, const void *filter, size_t len)
{
	XXH3_state_t	s;
	XXH128_hash_t	h;

	XXH3_INITSTATE(&s);
	(void)XXH3_128bits_reset(&s);
	(void)XXH3_128bits_update(&s, name, name_len);
	(void)XXH3_128bits_update(&s, "/", 1);
	(void)XXH3_128bits_update(&s, filter, len);
	h = XXH3_128bits_digest(&s);
	return (struct group_id){ h.high64, h.low64 };
}

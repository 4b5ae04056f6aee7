#include "fib/hash.h"

void
fib_cut(const struct fib_key *key, const void *filter, size_t len,
    struct fib_cut *out)
{
	const uint8_t	*text = filter, *p = text, *end = text + len, *q;
	uint64_t	 mask = prefix_mask(key), shape = 0;
	unsigned	 n = 0;
	bool		 wild = false, hash = false, deep = false;
	struct sip	 s;

	memset(out, 0, sizeof(*out));
	prefix_init(&s, key);
	for (;;) {
		q = memchr(p, '/', (size_t)(end - p));
		if (q == NULL)
			q = end;
		hash = q - p == 1 && *p == '#';
		if (!wild && (hash || (q - p == 1 && *p == '+'))) {
			wild = true;
			out->anchor = prefix_anchor(&s, mask);
			out->anchor_len = p == text ? 0 :
			    (uint32_t)(p - text - 1);
		}
		if (hash)
			break;
		if (wild && n == FIB_SHAPE_LEVELS) {
			deep = true;
			break;
		}
		if (q - p == 1 && *p == '+') {
			sip_word(&s, FIB_PLUS);
			shape |= (uint64_t)1 << (7 + n);
		} else
			sip_word(&s, sip_bytes(key->k0, key->k1, p,
			    (size_t)(q - p)));
		if (wild)
			n++;
		else
			out->anchor_levels++;
		if (q == end)
			break;
		p = q + 1;
	}
	if (!wild) {
		out->fp = prefix_terminal(&s, mask, false);
		out->anchor_levels = 0;
	} else if (deep) {
		out->fp = (sip_bytes(key->k0, key->k1, text, len) & mask &
		    ~(uint64_t)1) | 4;
		out->shape = FIB_SHAPE_DEEP;
	} else if (n == 0) {
		out->fp = fib_wide(out->anchor);
		out->shape = FIB_SHAPE_HASH;
	} else {
		out->fp = prefix_terminal(&s, mask, hash);
		out->shape = shape | (uint64_t)n << 1 | (hash ? 1 : 0);
	}
}

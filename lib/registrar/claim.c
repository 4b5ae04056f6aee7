#include "registrar/claim.h"

#include "base/util.h"

void
claim_add(struct claim_msg *m, const struct claim_holder *h)
{
	for (unsigned i = 0; i < m->nholders; i++) {
		struct claim_holder *o = &m->holders[i];

		if (o->node != h->node)
			continue;
		if (o->flags & CLAIM_UNSURE || (h->epoch > o->epoch &&
		    !(h->flags & CLAIM_UNSURE)))
			*o = *h;
		return;
	}
	if (m->nholders < CLAIM_HOLDERS)
		m->holders[m->nholders++] = *h;
}

bool
claim_beats(const struct claim_holder *a, const struct claim_holder *b)
{
	int	ac = (a->flags & CLAIM_CONNECTED) != 0;
	int	bc = (b->flags & CLAIM_CONNECTED) != 0;

	if (ac != bc)
		return ac > bc;
	if (a->epoch != b->epoch)
		return a->epoch > b->epoch;
	return a->node > b->node;
}

static uint64_t
rotl(uint64_t v, unsigned n)
{
	return v << n | v >> (64 - n);
}

static void
rounds(uint64_t v[4], unsigned n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[0] = rotl(v[0], 32);
		v[2] += v[3];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[2] = rotl(v[2], 32);
	}
}

uint64_t
claim_hash(const uint8_t key[16], const void *id, size_t len)
{
	const uint8_t	*p = id;
	uint64_t	 k0 = get_le64(key), k1 = get_le64(key + 8);
	uint64_t	 last = (uint64_t)len << 56, w;
	uint64_t	 v[4] = {
		k0 ^ UINT64_C(0x736f6d6570736575),
		k1 ^ UINT64_C(0x646f72616e646f6d),
		k0 ^ UINT64_C(0x6c7967656e657261),
		k1 ^ UINT64_C(0x7465646279746573),
	};

	for (; len >= 8; len -= 8, p += 8) {
		w = get_le64(p);
		v[3] ^= w;
		rounds(v, 2);
		v[0] ^= w;
	}
	while (len-- > 0)
		last |= (uint64_t)p[len] << (8 * len);
	v[3] ^= last;
	rounds(v, 2);
	v[0] ^= last;
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

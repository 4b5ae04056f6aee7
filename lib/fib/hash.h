/*
 * hash.h: fingerprints. Each level of a topic or filter is hashed by itself
 * (SipHash-1-3 of its bytes), then the level hashes, one word each, run through
 * a second SipHash-1-3. The state after each level ends in the fingerprint of
 * that prefix and goes on into every shape found there, so a match costs a
 * few rounds per level and probe, however long the topic is.
 *
 * Bit 0 tells the two kinds of entries apart: 1 an anchor, 0 a terminal. 0 and
 * 1 themselves are an empty and a deleted slot.
 */
#ifndef FIB_HASH_H
#define FIB_HASH_H

#include <stdint.h>
#include <string.h>

#include "base/util.h"
#include "fib/fib.h"

#define FIB_EMPTY	((uint64_t)0)
#define FIB_DELETED	((uint64_t)1)

struct sip {
	uint64_t	v0, v1, v2, v3;
};

static inline uint64_t
sip_rotl(uint64_t x, int b)
{
	return x << b | x >> (64 - b);
}

static inline void
sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = sip_rotl(s->v1, 13) ^ s->v0;
	s->v0 = sip_rotl(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = sip_rotl(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = sip_rotl(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = sip_rotl(s->v1, 17) ^ s->v2;
	s->v2 = sip_rotl(s->v2, 32);
}

static inline void
sip_init(struct sip *s, uint64_t k0, uint64_t k1)
{
	s->v0 = k0 ^ 0x736f6d6570736575u;
	s->v1 = k1 ^ 0x646f72616e646f6du;
	s->v2 = k0 ^ 0x6c7967656e657261u;
	s->v3 = k1 ^ 0x7465646279746573u;
}

static inline void
sip_word(struct sip *s, uint64_t m)
{
	s->v3 ^= m;
	sip_round(s);
	s->v0 ^= m;
}

static inline uint64_t
sip_end(struct sip s, uint64_t tag)
{
	s.v2 ^= tag;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

static inline uint64_t
sip_bytes(uint64_t k0, uint64_t k1, const uint8_t *p, size_t len)
{
	struct sip	s;
	uint64_t	m = (uint64_t)(uint8_t)len << 56;
	size_t		left = len;

	sip_init(&s, k0, k1);
	for (; left >= 8; left -= 8, p += 8)
		sip_word(&s, get_le64(p));
	switch (left) {
	case 7: m |= (uint64_t)p[6] << 48;	/* fall through */
	case 6: m |= (uint64_t)p[5] << 40;	/* fall through */
	case 5: m |= (uint64_t)p[4] << 32;	/* fall through */
	case 4: m |= get_le32(p); break;
	case 3: m |= (uint64_t)p[2] << 16;	/* fall through */
	case 2: m |= (uint64_t)p[1] << 8;	/* fall through */
	case 1: m |= p[0]; break;
	default: break;
	}
	sip_word(&s, m);
	return sip_end(s, 0xff);
}

/* --- Prefixes -------------------------------------------------------- */

#define FIB_PLUS	0x2b2b2b2b2b2b2b2bu	/* for a level that is `+` */

static inline void
prefix_init(struct sip *s, const struct fib_key *k)
{
	sip_init(s, k->k0 ^ 0xa5a5a5a5a5a5a5a5u, k->k1 ^ 0x5a5a5a5a5a5a5a5au);
}

static inline uint64_t
prefix_mask(const struct fib_key *k)
{
	return k->bits == 0 || k->bits > 62 ? ~(uint64_t)0 :
	    (((uint64_t)1 << k->bits) - 1) << 1;
}

/* The anchor that ends here. */
static inline uint64_t
prefix_anchor(const struct sip *s, uint64_t mask)
{
	uint64_t h = (sip_end(*s, 0xee) & mask) | 1;

	return h < 4 ? h | 4 : h;
}

/* The terminal that ends here; hash: `/#` follows. */
static inline uint64_t
prefix_terminal(const struct sip *s, uint64_t mask, bool hash)
{
	uint64_t h = sip_end(*s, hash ? 0xfe : 0xff) & mask & ~(uint64_t)1;

	return h < 4 ? h | 4 : h;
}

/* --- Shapes ---------------------------------------------------------- */

/* bit 0: ends in `#`; 1..6: levels; 7..62: mask of `+`, first level lowest. */

static inline bool
shape_hash(uint64_t shape)
{
	return shape & 1;
}

static inline unsigned
shape_levels(uint64_t shape)
{
	return shape >> 1 & 63;
}

static inline bool
shape_plus(uint64_t shape, unsigned level)
{
	return shape >> (7 + level) & 1;
}

#endif

#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

/* The length of the well-formed sequence at p, at most left bytes; 0: none.
 * U+0000 is one as far as this goes. */
static size_t
sequence(const uint8_t *p, size_t left)
{
	uint8_t	c = p[0], lo = 0x80, hi = 0xbf;
	size_t	n, i;

	if (c < 0x80)
		return 1;
	if (c >= 0xc2 && c <= 0xdf)
		n = 2;
	else if (c >= 0xe0 && c <= 0xef)
		n = 3;
	else if (c >= 0xf0 && c <= 0xf4)
		n = 4;
	else
		return 0;
	if (n > left)
		return 0;
	/* Table 3-7 of Unicode: the second byte rules out what is overlong,
	 * a surrogate or above U+10FFFF. */
	if (c == 0xe0)
		lo = 0xa0;
	else if (c == 0xed)
		hi = 0x9f;
	else if (c == 0xf0)
		lo = 0x90;
	else if (c == 0xf4)
		hi = 0x8f;
	if (p[1] < lo || p[1] > hi)
		return 0;
	for (i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

static inline int
check(const void *s, size_t len, bool nul)
{
	const uint64_t	 ones = 0x0101010101010101, tops = ones << 7;
	const uint8_t	*p = s;
	uint64_t	 w;
	size_t		 n;

	while (len > 0) {
		/* Eight at a time while they are ASCII and none is zero. */
		while (len >= 8) {
			memcpy(&w, p, 8);
			if ((w | (w - ones)) & tops)
				break;
			p += 8;
			len -= 8;
		}
		/* Then up to what is odd, or to the end. */
		for (; len > 0 && *p - 1u < 0x7f; len--)
			p++;
		if (len == 0)
			break;
		if ((n = sequence(p, len)) == 0 || (*p == 0 && !nul))
			return ERR_PROTO;
		p += n;
		len -= n;
	}
	return 0;
}

int
utf8_check(const void *s, size_t len)
{
	return check(s, len, false);
}

int
utf8_check_payload(const void *s, size_t len)
{
	return check(s, len, true);
}

#include "base/quote.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 character at p, 0 if it is none fit to print. */
static size_t
printable_utf8(const uint8_t *p, size_t len)
{
	uint32_t	 cp;
	size_t		 n, i;

	if (p[0] < 0x80)
		return p[0] >= 0x20 && p[0] != 0x7f;
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		n = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		n = 4;
	else
		return 0;
	if (n > len)
		return 0;
	cp = p[0] & (0x7f >> n);
	for (i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		cp = cp << 6 | (p[i] & 0x3f);
	}
	if (cp < 0xa0)				/* C1 control characters */
		return 0;
	if (n == 3 && (cp < 0x800 || (cp >= 0xd800 && cp <= 0xdfff)))
		return 0;
	if (n == 4 && (cp < 0x10000 || cp > 0x10ffff))
		return 0;
	if ((cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069))
		return 0;			/* line ends, direction marks */
	return n;
}

const char *
quote(char *out, size_t size, const void *bytes, size_t len)
{
	const uint8_t	*p = bytes, *end = p + len;
	char		*o = out, *last = out + size - 5;	/* "...NUL */
	char		 esc[8];
	size_t		 in, n;

	*o++ = '"';
	while (p < end) {
		if (*p == '"' || *p == '\\') {
			esc[0] = '\\';
			esc[1] = (char)*p;
			in = 1;
			n = 2;
		} else if ((n = printable_utf8(p, (size_t)(end - p))) > 0) {
			memcpy(esc, p, n);
			in = n;
		} else {
			n = (size_t)snprintf(esc, sizeof(esc), "\\x%02x", *p);
			in = 1;
		}
		if ((size_t)(last - o) < n)
			break;
		memcpy(o, esc, n);
		o += n;
		p += in;
	}
	*o++ = '"';
	if (p < end) {
		memcpy(o, "...", 3);
		o += 3;
	}
	*o = '\0';
	return out;
}

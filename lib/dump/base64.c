#include "dump/base64.h"

#include <string.h>
#include "base/err.h"

static const char digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
base64_put(char *out, const void *data, size_t len)
{
	const uint8_t	*p = data;
	uint32_t	 v;
	size_t		 i;

	for (i = 0; i < len; i += 3) {
		v = (uint32_t)p[i] << 16;
		if (i + 1 < len)
			v |= (uint32_t)p[i + 1] << 8;
		if (i + 2 < len)
			v |= p[i + 2];
		*out++ = digits[v >> 18];
		*out++ = digits[v >> 12 & 63];
		*out++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
		*out++ = i + 2 < len ? digits[v & 63] : '=';
	}
}

static int
value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

long
base64_get(uint8_t *out, const char *text, size_t len)
{
	uint8_t		*at = out;
	uint32_t	 v;
	size_t		 i, k, pad = 0;
	int		 d;

	if (len % 4 != 0)
		return ERR_PROTO;
	for (; pad < 2 && pad < len && text[len - 1 - pad] == '='; pad++)
		;
	for (i = 0; i < len; i += 4) {
		size_t n = i + 4 == len ? 4 - pad : 4;

		for (k = 0, v = 0; k < 4; k++) {
			d = k < n ? value_of(text[i + k]) : 0;
			if (d < 0)
				return ERR_PROTO;
			v = v << 6 | (uint32_t)d;
		}
		if ((n == 3 && (v & 0xff)) || (n == 2 && (v & 0xffff)))
			return ERR_PROTO;
		*at++ = (uint8_t)(v >> 16);
		if (n > 2)
			*at++ = (uint8_t)(v >> 8);
		if (n > 3)
			*at++ = (uint8_t)v;
	}
	return at - out;
}

/*
 * base64.h: RFC 4648, section 4, with padding; strict on the way back.
 */
#ifndef DUMP_BASE64_H
#define DUMP_BASE64_H

#include <stddef.h>
#include <stdint.h>

static inline size_t
base64_size(size_t len)
{
	return (len + 2) / 3 * 4;
}

/* Write base64_size(len) characters, without a NUL. */
void base64_put(char *out, const void *data, size_t len);

/* The bytes of len characters, to out, which has room for len / 4 * 3. Returns
 * how many, or ERR_PROTO: a character that does not belong there, padding
 * missing, or bits behind the last byte that are not 0. */
long base64_get(uint8_t *out, const char *text, size_t len);

#endif

/*
 * quote.h: bytes from outside made fit for a line of text.
 */
#ifndef BASE_QUOTE_H
#define BASE_QUOTE_H

#include <stddef.h>

/*
 * Write bytes to out (size bytes, at least 8) as a quoted text with its NUL:
 * quotes, backslashes, control bytes and what is not UTF-8 are escaped, so that
 * the result stays on one line and ends where it says. What does not fit is
 * cut between characters and `...` follows the closing quote. Returns out.
 */
const char *quote(char *out, size_t size, const void *bytes, size_t len);

#endif

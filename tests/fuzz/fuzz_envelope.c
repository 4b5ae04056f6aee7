/*
 * The first part of a message, and the two bodies of the bus itself. First
 * byte: which.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <pb_decode.h>

#include "bus/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
is_text(const char *s, size_t size)
{
	if (memchr(s, 0, size) == NULL)
		abort();
}

/* What was read is written and read the same. */
static void
again(const Envelope *e)
{
	uint8_t	 a[ENVELOPE_MAX], b[ENVELOPE_MAX];
	size_t	 n = envelope_put(a, e);
	Envelope back;

	if (envelope_get(&back, a, n) < 0 || envelope_put(b, &back) != n ||
	    memcmp(a, b, n) != 0)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Envelope     e = Envelope_init_zero;
	Hello	     h = Hello_init_zero;
	Welcome	     w = Welcome_init_zero;
	pb_istream_t in;

	if (size < 1)
		return 0;
	in = pb_istream_from_buffer(data + 1, size - 1);
	switch (data[0] % 3) {
	case 0:
		if (envelope_get(&e, data + 1, size - 1) == 0) {
			is_text(e.source, sizeof(e.source));
			is_text(e.destination, sizeof(e.destination));
			again(&e);
		}
		break;
	case 1:
		if (pb_decode(&in, Hello_fields, &h)) {
			is_text(h.node, sizeof(h.node));
			is_text(h.name, sizeof(h.name));
		}
		break;
	case 2:
		if (pb_decode(&in, Welcome_fields, &w)) {
			is_text(w.node, sizeof(w.node));
			is_text(w.name, sizeof(w.name));
		}
		break;
	}
	return 0;
}

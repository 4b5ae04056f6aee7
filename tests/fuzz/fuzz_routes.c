/* ROUTES, and ATTACH beside it: first byte says which. */
#include <stdint.h>
#include <stdlib.h>

#include "proto/attach.h"
#include "proto/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
touch(struct slice s)
{
	volatile uint8_t sink = 0;

	if (s.len > 0)
		sink ^= (uint8_t)(s.data[0] ^ s.data[s.len - 1]);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct routes	     r;
	struct route_row     row;
	struct attach_client c;
	struct wire_in	     in;
	unsigned	     rows = 0;
	bool		     add;

	if (size < 1)
		return 0;
	if (data[0] & 1) {
		if (attach_decode(&in, data + 1, size - 1) < 0)
			return 0;
		while (attach_next(&in, &c) == 1)
			touch(c.client_id);
		return 0;
	}
	if (routes_decode(&r, data + 1, size - 1) < 0)
		return 0;
	while (routes_next(&r, &row, &add) == 1) {
		touch(row.filter);
		touch(row.share);
		if (row.qos > 2)
			abort();
		rows++;
	}
	if (rows != r.rows)
		abort();
	return 0;
}

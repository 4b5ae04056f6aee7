/*
 * The records of a frame. First byte: how many the envelope promised; second:
 * 0, or the length of the third part, which is cut from the end. What is read
 * is written again and must come out the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
walk(const struct record *r)
{
	struct slice v;
	uint16_t     type;
	size_t	     at = 0;
	volatile uint8_t sink = 0;

	while (record_ext_next(r, &at, &type, &v) == 1)
		if (v.len > 0)
			sink ^= v.data[v.len - 1];
	if (r->topic.len > 0)
		sink ^= r->topic.data[r->topic.len - 1];
	if (r->payload.len > 0)
		sink ^= r->payload.data[r->payload.len - 1];
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct record_iter it;
	struct record	   r;
	const uint8_t	  *at;
	uint8_t		  *out;
	size_t		   third;
	long		   n;

	if (size < 2)
		return 0;
	third = data[1] < size - 2 ? data[1] : 0;
	record_iter_init(&it, data + 2, size - 2 - third,
	    third ? data + size - third : NULL, third, data[0]);
	for (;;) {
		at = it.at;
		if (record_next(&it, &r) != 1)
			return 0;
		walk(&r);
		if ((out = malloc(record_size(&r))) == NULL)
			return 0;
		n = record_put(out, record_size(&r), &r);
		if (n < 0 || (size_t)n != record_size(&r) ||
		    memcmp(out, at, 36) != 0)
			if (!record_is_alone(&r) && third == 0)
				abort();
		free(out);
	}
}

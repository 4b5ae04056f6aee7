/* Queries and answers: first byte says which. */
#include <stdint.h>
#include <stdlib.h>

#include "proto/query.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
touch(struct slice s)
{
	volatile uint8_t sink = 0;

	if (s.len > 0)
		sink ^= (uint8_t)(s.data[0] ^ s.data[s.len - 1]);
}

static void
walk(struct reply_row *row)
{
	struct sub_row sub;
	size_t	       n = 0;

	switch (row->kind) {
	case REPLY_CLIENT:
		touch(row->client.client_id);
		touch(row->client.peer);
		while (client_row_sub(&row->client, &sub) == 1) {
			touch(sub.filter);
			n++;
		}
		if (n != row->client.subs_told)
			abort();
		break;
	case REPLY_ROUTE:
		touch(row->route.filter);
		touch(row->route.as);
		break;
	case REPLY_KV:
		touch(row->kv.key);
		touch(row->kv.value);
		break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct query	 q;
	struct reply	 r;
	struct reply_row row;
	unsigned	 rows = 0;

	if (size < 1)
		return 0;
	switch (data[0] % 2) {
	case 0:
		if (query_decode(&q, data + 1, size - 1) == 0) {
			touch(q.arg);
			touch(q.cursor);
		}
		break;
	case 1:
		if (reply_decode(&r, data + 1, size - 1) < 0)
			break;
		touch(r.cursor);
		while (reply_next(&r, &row) == 1) {
			walk(&row);
			rows++;
		}
		if (rows != r.rows)
			abort();
		break;
	}
	return 0;
}

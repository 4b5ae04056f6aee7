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
walk_item(const struct item_row *it)
{
	touch(it->client_id);
	touch(it->topic);
	touch(it->share);
	touch(it->ids);
	touch(it->props);
	touch(it->payload);
	if (it->at + (uint64_t)it->props.len + it->payload.len >
	    item_size(it))
		abort();
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
	case REPLY_NODE:
		touch(row->node.name);
		touch(row->node.sees);
		break;
	case REPLY_ITEM:
		walk_item(&row->item);
		break;
	}
}

/* What came may be told again, and comes the same; what is a part is put
 * together with what follows. */
static void
walk_items(struct slice batch)
{
	static uint8_t	 out[1 << 16];
	struct item_join j = { .have = 0 };
	struct item_row	 it, again;
	struct wire_in	 in, back;
	struct wire_out	 w;

	wire_in_init(&in, batch.data, batch.len);
	while (items_next(&in, &it) == 1) {
		walk_item(&it);
		if (item_join(&j, &it, 1 << 20) != 1)
			continue;
		walk_item(&it);
		wire_out_init(&w, out, sizeof(out));
		if (item_put(&w, ITEMS_FIELD, &it, true) < 0 ||
		    it.at < item_size(&it))
			continue;
		wire_in_init(&back, out, wire_out_len(&w));
		if (items_next(&back, &again) != 1 ||
		    again.payload.len != it.payload.len ||
		    again.topic.len != it.topic.len ||
		    again.offset != it.offset)
			abort();
	}
	item_join_clear(&j);
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
			walk_items(q.batch);
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

#include "proto/item.h"

#include <stdlib.h>
#include "base/err.h"

#define COL(n, type, m)	{ n, type, offsetof(struct item_row, m) }

static const struct wire_col cols[] = {
	COL(1, WIRE_U32, kind),
	COL(2, WIRE_SLICE, client_id),
	COL(3, WIRE_SLICE, topic),
	COL(4, WIRE_SLICE, share),
	COL(5, WIRE_U32, version),
	COL(6, WIRE_U32, expiry_s),
	COL(7, WIRE_U64, at_ms),
	COL(8, WIRE_BOOL, connected),
	COL(9, WIRE_U32, options),
	COL(10, WIRE_U32, sub_id),
	COL(11, WIRE_U64, offset),
	COL(12, WIRE_U32, state),
	COL(13, WIRE_U32, qos),
	COL(14, WIRE_BOOL, retain),
	COL(15, WIRE_SLICE, ids),
	COL(16, WIRE_U64, deadline_ms),
	COL(17, WIRE_U32, props_len),
	COL(18, WIRE_U32, payload_len),
	COL(19, WIRE_U32, at),
	COL(20, WIRE_SLICE, props),
	COL(21, WIRE_SLICE, payload),
	COL(22, WIRE_U64, version_hi),
	COL(23, WIRE_U64, version_lo),
	COL(24, WIRE_U64, id_hi),
	COL(25, WIRE_U64, id_lo),
};

enum {
	PART_MIN	= 1024,	/* a smaller one is not worth it */
	PART_HEAD	= 64	/* tags and lengths around the data */
};

/* From `at` to `to` of what begins at `begin` of both behind each other. */
static struct slice
run_of(struct slice s, size_t begin, size_t at, size_t to)
{
	size_t from = MIN(at > begin ? at - begin : 0, s.len);
	size_t end = MIN(to > begin ? to - begin : 0, s.len);

	return end > from ? (struct slice){ s.data + from, end - from } :
	    (struct slice){ NULL, 0 };
}

static int
put(struct wire_out *w, unsigned number, const struct item_row *it, size_t to)
{
	struct item_row	part = *it, data_only = { .kind = it->kind };
	size_t		start = w->len, mark;

	if (it->at > 0) {
		part = data_only;
		part.props_len = it->props_len;
		part.payload_len = it->payload_len;
		part.at = it->at;
	}
	part.props = run_of(it->props, 0, it->at, to);
	part.payload = run_of(it->payload, it->props.len, it->at, to);
	mark = wire_open(w, number);
	wire_put_cols(w, cols, NELEM(cols), &part);
	wire_close(w, mark);
	if (!w->full)
		return 0;
	w->len = start;
	w->full = false;
	return ERR_FULL;
}

int
item_put(struct wire_out *w, unsigned number, struct item_row *it,
    bool may_part)
{
	size_t	size, head, room = w->size - w->len, to;

	it->props_len = (uint32_t)it->props.len;
	it->payload_len = (uint32_t)it->payload.len;
	size = (size_t)item_size(it);
	if (put(w, number, it, size) == 0) {
		it->at = (uint32_t)size;
		return 0;
	}
	head = PART_HEAD + 200;		/* the numbers */
	if (it->at == 0)
		head += it->client_id.len + it->topic.len + it->share.len +
		    it->ids.len;
	if (!may_part || room < head + PART_MIN)
		return ERR_FULL;
	to = MIN(it->at + (room - head), size);
	if (put(w, number, it, to) < 0)
		return ERR_FULL;
	it->at = (uint32_t)to;
	return 0;
}

int
item_get(struct item_row *out, struct slice body)
{
	struct item_row	  it;
	struct wire_field f;
	struct wire_in	  in;
	int		  rc;

	memset(&it, 0, sizeof(it));
	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(cols, NELEM(cols), &it, &f) < 0)
			return ERR_PROTO;
	if (rc < 0 || it.props.len > it.props_len ||
	    it.payload.len > it.payload_len ||
	    it.at + (uint64_t)it.props.len + it.payload.len > item_size(&it))
		return ERR_PROTO;
	/* The payload begins where the properties end. */
	if (it.payload.len > 0 && it.at + it.props.len < it.props_len)
		return ERR_PROTO;
	if (it.props.len > 0 && it.at + it.props.len > it.props_len)
		return ERR_PROTO;
	*out = it;
	return 0;
}

int
items_next(struct wire_in *in, struct item_row *it)
{
	struct wire_field f;
	int		  rc;

	while ((rc = wire_next(in, &f)) == 1)
		if (f.number == ITEMS_FIELD)
			return f.is_bytes && item_get(it, f.bytes) == 0 ? 1 :
			    ERR_PROTO;
	return rc;
}

/* --- Parts, put together ------------------------------------------------ */

void
item_join_clear(struct item_join *j)
{
	free(j->buf);
	*j = (struct item_join){ .buf = NULL };
}

/* Room for n bytes more than are there; it grows as they come, whatever a
 * first part said. */
static bool
make_room(struct item_join *j, size_t n)
{
	size_t	 want = j->fixed + j->have + n, cap = MAX(j->cap, 65536);
	uint8_t	*grown;

	if (want <= j->cap)
		return true;
	while (cap < want)
		cap *= 2;
	if ((grown = realloc(j->buf, cap)) == NULL)
		return false;
	j->buf = grown;
	j->cap = cap;
	return true;
}

static int
add(struct item_join *j, const struct item_row *it)
{
	if (!make_room(j, it->props.len + it->payload.len))
		return ERR_NOMEM;
	if (it->props.len > 0)
		memcpy(j->buf + j->fixed + j->have, it->props.data,
		    it->props.len);
	j->have += it->props.len;
	if (it->payload.len > 0)
		memcpy(j->buf + j->fixed + j->have, it->payload.data,
		    it->payload.len);
	j->have += it->payload.len;
	return 0;
}

static int
begin(struct item_join *j, const struct item_row *it)
{
	const struct slice	*s[] = { &it->client_id, &it->topic, &it->share,
				    &it->ids };
	size_t			 i;

	item_join_clear(j);
	j->it = *it;
	for (i = 0; i < NELEM(s); i++) {
		if (!make_room(j, s[i]->len))
			return ERR_NOMEM;
		if (s[i]->len > 0)
			memcpy(j->buf + j->fixed, s[i]->data, s[i]->len);
		j->fixed += s[i]->len;
	}
	return add(j, it);
}

/* All is there. */
static void
end(struct item_join *j, struct item_row *it)
{
	struct slice	*s[] = { &j->it.client_id, &j->it.topic, &j->it.share,
			    &j->it.ids, &j->it.props, &j->it.payload };
	uint8_t		*at = j->buf;
	size_t		 i;

	j->it.props.len = j->it.props_len;
	j->it.payload.len = j->it.payload_len;
	for (i = 0; i < NELEM(s); i++) {
		s[i]->data = at;
		at += s[i]->len;
	}
	*it = j->it;
	j->have = 0;			/* no part is to come */
	j->it.kind = 0;
}

int
item_join(struct item_join *j, struct item_row *it, size_t max)
{
	int rc;

	if (item_is_whole(it)) {
		item_join_clear(j);
		return 1;
	}
	if (item_size(it) > max) {
		item_join_clear(j);
		return ERR_FULL;
	}
	if (it->at == 0) {
		rc = begin(j, it);
	} else if (!item_join_waits(j) || j->it.kind != it->kind ||
	    j->have != it->at || j->it.props_len != it->props_len ||
	    j->it.payload_len != it->payload_len ||
	    it->props.len + it->payload.len == 0) {
		rc = ERR_PROTO;
	} else {
		rc = add(j, it);
	}
	if (rc < 0) {
		item_join_clear(j);
		return rc;
	}
	if (j->have < item_size(&j->it))
		return 0;
	end(j, it);
	return 1;
}

#include "proto/move.h"

#include <stdlib.h>
#include "base/err.h"

/* As they lie in an entry; flags are wider there. */
struct row {
	uint64_t	x, epoch, snap, seq;
	uint32_t	flags;
	struct slice	client_id, item;
};

enum {
	ITEM = 7,
	FLAGS = MOVE_CLEAN | MOVE_MERGE,
	PART_MIN = 1024,	/* a smaller one is not worth it */
	PART_HEAD = 16		/* tags and lengths around the data */
};

/* Field numbers of move.proto. */
static const struct wire_col entry_cols[] = {
	{ 1, WIRE_FIX64, offsetof(struct row, x) },
	{ 2, WIRE_FIX64, offsetof(struct row, epoch) },
	{ 3, WIRE_FIX64, offsetof(struct row, snap) },
	{ 4, WIRE_U64, offsetof(struct row, seq) },
	{ 5, WIRE_U32, offsetof(struct row, flags) },
	{ 6, WIRE_SLICE, offsetof(struct row, client_id) },
	{ ITEM, WIRE_SLICE, offsetof(struct row, item) },
};

#define COL(n, type, m)	{ n, type, offsetof(struct move_item, m) }

static const struct wire_col item_cols[] = {
	COL(1, WIRE_U32, kind),
	COL(2, WIRE_U32, total),
	COL(3, WIRE_U32, at),
	COL(4, WIRE_U32, version),
	COL(5, WIRE_U32, expiry_s),
	COL(6, WIRE_U64, away_ms),
	COL(7, WIRE_U32, delay_s),
	COL(8, WIRE_U64, offset),
	COL(9, WIRE_U64, sent),
	COL(10, WIRE_U32, state),
	COL(11, WIRE_U32, pid),
	COL(12, WIRE_U32, qos),
	COL(13, WIRE_BOOL, retain),
	COL(14, WIRE_FIX64, id_hi),
	COL(15, WIRE_FIX64, id_lo),
	COL(16, WIRE_FIX64, group),
	COL(17, WIRE_SLICE, share),
	COL(18, WIRE_SLICE, filter),
	COL(19, WIRE_U32, options),
	COL(20, WIRE_U32, sub_id),
	COL(21, WIRE_SLICE, ids),
	COL(22, WIRE_SLICE, data),
	COL(23, WIRE_FIX64, began),
};

/* Up to `to` of the data; true if it fits. */
static bool
put(struct wire_out *w, const struct row *r, unsigned kind,
    const struct move_item *item, size_t to)
{
	struct move_item	part, data_only = { .kind = 0 };
	size_t			start = w->len, mark, inner;

	mark = wire_open(w, kind);
	wire_put_cols(w, entry_cols, NELEM(entry_cols), r);
	if (item != NULL) {
		part = *item;
		if (item->at > 0) {
			part = data_only;
			part.kind = item->kind;
			part.at = item->at;
		}
		part.total = (uint32_t)item->data.len;
		part.data.len = to - item->at;
		if (part.data.len > 0)
			part.data.data = item->data.data + item->at;
		inner = wire_open(w, ITEM);
		wire_put_cols(w, item_cols, NELEM(item_cols), &part);
		wire_close(w, inner);
	}
	wire_close(w, mark);
	if (!w->full)
		return true;
	w->len = start;
	w->full = false;
	return false;
}

int
move_msg_put(struct wire_out *w, const struct move_msg *m,
    struct slice client_id, struct move_item *item)
{
	struct row	r = { m->x, m->epoch, m->snap, m->seq, m->flags,
		client_id, { NULL, 0 } };
	size_t		size = item == NULL ? 0 : item->data.len, room, start;

	if (put(w, &r, m->kind, item, size)) {
		if (item != NULL)
			item->at = (uint32_t)size;
		return 0;
	}
	if (item == NULL)
		return ERR_FULL;
	/* How much do the other fields take? */
	start = w->len;
	if (!put(w, &r, m->kind, item, item->at))
		return ERR_FULL;
	room = w->size - w->len;
	w->len = start;
	if (room < PART_HEAD + PART_MIN)
		return ERR_FULL;
	room = MIN(room - PART_HEAD, size - item->at);
	if (!put(w, &r, m->kind, item, item->at + room))
		return ERR_FULL;
	item->at += (uint32_t)room;
	return 0;
}

static int
get_cols(const struct wire_col *cols, size_t n, struct slice body, void *row)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(cols, n, row, &f) < 0)
			return ERR_PROTO;
	return rc;
}

static bool
is_item(const struct move_item *it)
{
	size_t	one = it->kind == MOVE_ITEM_SEEN ? 16 : 4;

	if (it->at + (uint64_t)it->data.len > it->total ||
	    (it->data.len == 0 && it->total > 0))
		return false;
	if (it->kind == 0 || it->kind >= MOVE_ITEM_NKINDS)
		return it->kind != 0;
	return it->state < MOVE_ITEM_NSTATES && it->qos <= 2 &&
	    it->pid <= UINT16_MAX && it->ids.len % one == 0 &&
	    it->options <= UINT8_MAX && it->version <= UINT8_MAX;
}

int
move_msg_next(struct wire_in *in, struct move_entry *out)
{
	struct move_entry e;
	struct wire_field f;
	struct row	  r;
	int		  rc;

	memset(&e, 0, sizeof(e));
	memset(&r, 0, sizeof(r));
	do {
		if ((rc = wire_next(in, &f)) != 1)
			return rc;
	} while (f.number < MOVE_RELEASE || f.number > MOVE_REFUSED);
	if (!f.is_bytes || get_cols(entry_cols, NELEM(entry_cols), f.bytes,
	    &r) < 0 || r.epoch > MOVE_EPOCH_MAX)
		return ERR_PROTO;
	if ((f.number == MOVE_STATE || f.number == MOVE_RELAY) &&
	    (get_cols(item_cols, NELEM(item_cols), r.item, &e.item) < 0 ||
	    !is_item(&e.item)))
		return ERR_PROTO;
	e.m.kind = (uint8_t)f.number;
	e.m.flags = (uint8_t)(r.flags & FLAGS);
	e.m.x = r.x;
	e.m.epoch = r.epoch;
	e.m.snap = r.snap;
	e.m.seq = r.seq;
	e.client_id = r.client_id;
	*out = e;
	if (e.item.kind != 0)
		out->m.item = &out->item;
	return 1;
}

/* --- Parts, put together -------------------------------------------------- */

void
move_join_clear(struct move_join *j)
{
	free(j->buf);
	memset(j, 0, sizeof(*j));
}

/* Room for n bytes of data more; it grows as they come, whatever a first part
 * said. */
static bool
make_room(struct move_join *j, size_t n)
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
add(struct move_join *j, struct slice data)
{
	if (!make_room(j, data.len))
		return ERR_NOMEM;
	if (data.len > 0)
		memcpy(j->buf + j->fixed + j->have, data.data, data.len);
	j->have += data.len;
	return 0;
}

static int
begin(struct move_join *j, const struct move_entry *e)
{
	const struct slice	s[] = { e->client_id, e->item.share,
		e->item.filter, e->item.ids };
	int			rc;

	j->e = *e;
	for (size_t i = 0; i < NELEM(s); i++) {
		if ((rc = add(j, s[i])) < 0)
			return rc;
		j->fixed += s[i].len;
		j->have = 0;
	}
	return add(j, e->item.data);
}

static bool
follows(const struct move_join *j, const struct move_entry *e)
{
	const struct move_msg	*a = &j->e.m, *b = &e->m;

	return j->buf != NULL && a->kind == b->kind && a->x == b->x &&
	    a->epoch == b->epoch && a->snap == b->snap && a->seq == b->seq &&
	    j->e.item.kind == e->item.kind &&
	    j->e.item.total == e->item.total && e->item.at == j->have;
}

static void
finish(struct move_join *j, struct move_entry *e)
{
	struct slice	*s[] = { &e->client_id, &e->item.share,
		&e->item.filter, &e->item.ids };
	const uint8_t	*at = j->buf;

	*e = j->e;
	for (size_t i = 0; i < NELEM(s); i++) {
		s[i]->data = at;
		at += s[i]->len;
	}
	e->item.at = 0;
	e->item.data = (struct slice){ at, j->have };
	e->m.item = &e->item;
	/* Whole: what comes next does not follow this. */
	j->e.m.kind = 0;
}

int
move_join(struct move_join *j, struct move_entry *e, size_t max)
{
	size_t	size = (size_t)e->item.total + e->client_id.len +
		e->item.share.len + e->item.filter.len + e->item.ids.len;
	int	rc = ERR_FULL;

	if (e->item.at == 0 && e->item.data.len == e->item.total) {
		move_join_clear(j);
		return 1;
	}
	if (e->item.at > 0 && !follows(j, e)) {
		move_join_clear(j);
		return 0;
	}
	if (e->item.at == 0)
		move_join_clear(j);
	if (size > max || (rc = e->item.at == 0 ? begin(j, e) :
	    add(j, e->item.data)) < 0) {
		move_join_clear(j);
		return rc;
	}
	if (j->have < j->e.item.total)
		return 0;
	finish(j, e);
	return 1;
}

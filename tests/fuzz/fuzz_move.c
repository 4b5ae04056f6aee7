/*
 * What another store says about a session that moves. First byte: 0 takes
 * entries apart and writes them again, in small bodies; 1 puts parts together;
 * else the end of A (even) or of H (odd) hears them, and time passes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/move.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PEER = 2, JOIN_MAX = 1 << 20 };

static volatile uint8_t sink;
static uint64_t		total;

static void
touch(struct slice s)
{
	if (s.len > 0)
		sink ^= (uint8_t)(s.data[0] ^ s.data[s.len - 1]);
}

static void
same(struct slice a, struct slice b)
{
	if (a.len != b.len || (a.len > 0 && memcmp(a.data, b.data, a.len) != 0))
		abort();
}

static void
same_item(const struct move_item *a, const struct move_item *b)
{
	if (a->kind != b->kind || a->version != b->version ||
	    a->expiry_s != b->expiry_s || a->delay_s != b->delay_s ||
	    a->state != b->state || a->pid != b->pid || a->qos != b->qos ||
	    a->options != b->options || a->sub_id != b->sub_id ||
	    a->away_ms != b->away_ms || a->offset != b->offset ||
	    a->sent != b->sent || a->id_hi != b->id_hi ||
	    a->id_lo != b->id_lo || a->group != b->group ||
	    a->retain != b->retain || a->began != b->began)
		abort();
	same(a->share, b->share);
	same(a->filter, b->filter);
	same(a->ids, b->ids);
	same(a->data, b->data);
}

/* Written into bodies that just hold what cannot be parted. */
static void
again(const struct move_entry *e)
{
	struct move_item	it = e->item;
	struct move_entry	r;
	struct move_join	j = { .buf = NULL };
	struct wire_out		out;
	struct wire_in		in;
	size_t			size = 2048 + e->client_id.len + it.share.len +
	    it.filter.len + it.ids.len;
	uint8_t			*buf = malloc(size);
	int			rc = 0;

	if (buf == NULL)
		return;
	it.at = 0;
	while (rc == 0) {
		wire_out_init(&out, buf, size);
		if (move_msg_put(&out, &e->m, e->client_id,
		    it.kind != 0 ? &it : NULL) < 0)
			abort();
		wire_in_init(&in, buf, out.len);
		if (move_msg_next(&in, &r) != 1)
			abort();
		rc = 1;
		if (it.kind != 0 && (rc = move_join(&j, &r, JOIN_MAX)) < 0)
			abort();
	}
	if (r.m.kind != e->m.kind || r.m.x != e->m.x ||
	    r.m.epoch != e->m.epoch || r.m.snap != e->m.snap ||
	    r.m.seq != e->m.seq || r.m.flags != e->m.flags)
		abort();
	same(r.client_id, e->client_id);
	same_item(&r.item, &e->item);
	move_join_clear(&j);
	free(buf);
}

static void
parts(const uint8_t *data, size_t size)
{
	struct move_join	j = { .buf = NULL };
	struct move_entry	e;
	struct wire_in		in;

	wire_in_init(&in, data, size);
	while (move_msg_next(&in, &e) == 1) {
		if (e.m.item == NULL || move_join(&j, &e, JOIN_MAX) != 1)
			continue;
		if (e.item.at != 0 || e.item.data.len != e.item.total)
			abort();
		touch(e.client_id);
		touch(e.item.share);
		touch(e.item.filter);
		touch(e.item.ids);
		touch(e.item.data);
	}
	move_join_clear(&j);
}

/* --- A store that does as it is told ------------------------------------- */

static unsigned	said;

static void
on_send(void *ctx, uint64_t node, const struct move_msg *m)
{
	(void)ctx;
	(void)node;
	(void)m;
	said++;
}

static void
on_step(void *ctx, struct move *m)
{
	(void)ctx;
	if (m->step > MOVE_LOST)
		abort();
}

static uint64_t
on_state(void *ctx, struct move *m, uint64_t seq)
{
	(void)seq;
	on_step(ctx, m);
	return 3;
}

static void
on_relay(void *ctx, struct move *m, uint64_t seq)
{
	on_step(ctx, m);
	/* We are asked for what we have. */
	if (seq > total)
		abort();
}

static const struct move_ops ops = { on_send, on_step, on_step, on_state,
	on_relay, on_step, on_step, on_step, on_step, on_step, on_step };

static void
hear(const uint8_t *data, size_t size, bool at_h)
{
	struct move		m;
	struct move_entry	e;
	struct wire_in		in;
	uint64_t		now = 1, snap = 0;
	unsigned		n = 0;

	memset(&m, 0, sizeof(m));
	total = 0;
	if (!at_h)
		move_in_begin(&m, &ops, NULL, 7, 20, PEER, size % 5 == 0 ?
		    MOVE_CLEAN : 0, now);
	wire_in_init(&in, data, size);
	while (move_msg_next(&in, &e) == 1) {
		if (at_h)
			move_out_take(&m, &ops, NULL, PEER, &e.m, n % 9 == 8 ?
			    0 : 10, ++snap, now);
		else if (move_in_take(&m, &ops, NULL, &e.m) &&
		    e.m.item == NULL)
			abort();
		now += 100;
		if (m.pending && n % 2)
			move_synced(&m, &ops, NULL);
		switch (n++ % 8) {
		case 1:
			move_frozen(&m, &ops, NULL);
			break;
		case 2:
			move_visible(&m, &ops, NULL, now);
			break;
		case 3:
			move_tick(&m, &ops, NULL, ++total, now);
			break;
		case 4:
			move_relayed(&m, &ops, NULL);
			break;
		case 5:
			move_echoed(&m, &ops, NULL, n % 3 == 0, total);
			break;
		case 7:
			if (n % 5 == 0)
				move_peer_down(&m, &ops, NULL);
			else if (m.step != MOVE_OWN)
				move_resume(&m, &ops, NULL, now);
			break;
		default:
			break;
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct move_entry	e;
	struct wire_in		in;

	if (size < 1)
		return 0;
	wire_in_init(&in, data + 1, size - 1);
	if (data[0] == 0)
		while (move_msg_next(&in, &e) == 1) {
			/* It is whole, or a part of its own. */
			if (e.item.at == 0 && e.item.total == e.item.data.len)
				again(&e);
		}
	else if (data[0] == 1)
		parts(data + 1, size - 1);
	else
		hear(data + 1, size - 1, data[0] % 2);
	return 0;
}

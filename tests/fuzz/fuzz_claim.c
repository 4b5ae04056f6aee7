/*
 * What another node, or a process of ours, says about who may have a client
 * identifier. First byte: 0 takes entries apart and writes them again; else a
 * registrar (odd) or a desk (even) with some rows hears them, and time passes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/claim.h"
#include "registrar/desk.h"
#include "registrar/registrar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CORE = 1, PEER = 2, NODE = 3, OTHER = 4 };

static unsigned said;

static void
again(const struct claim_msg *m)
{
	static uint8_t		buf[CLAIM_BYTES_MAX + UINT16_MAX];
	struct claim_msg	r;
	struct wire_out		out;
	struct wire_in		in;

	wire_out_init(&out, buf, sizeof(buf));
	if (claim_msg_put(&out, m) < 0)
		abort();
	wire_in_init(&in, buf, out.len);
	if (claim_msg_next(&in, &r) != 1 || r.kind != m->kind ||
	    r.flags != m->flags || r.x != m->x || r.node != m->node ||
	    r.epoch != m->epoch || r.asked != m->asked ||
	    r.nholders != m->nholders || r.id.len != m->id.len ||
	    (r.id.len > 0 && memcmp(r.id.data, m->id.data, r.id.len) != 0))
		abort();
	for (unsigned i = 0; i < r.nholders; i++)
		if (r.holders[i].node != m->holders[i].node ||
		    r.holders[i].epoch != m->holders[i].epoch ||
		    r.holders[i].flags != m->holders[i].flags)
			abort();
}

static void
on_send(void *ctx UNUSED, uint64_t node UNUSED, const struct claim_msg *m)
{
	said++;
	if (m->nholders > CLAIM_HOLDERS)
		abort();
}

static void
on_desk_send(void *ctx UNUSED, const struct claim_msg *m)
{
	on_send(NULL, 0, m);
}

static void
on_grant(void *ctx UNUSED, uint64_t token UNUSED, const struct claim_msg *m)
{
	on_send(NULL, 0, m);
}

static void
on_refuse(void *ctx UNUSED, uint64_t x UNUSED, uint64_t token UNUSED)
{
	said++;
}

static const struct registrar_ops reg_ops = { on_send, on_send };
static const struct desk_ops desk_ops = { on_desk_send, on_grant, on_refuse,
	on_desk_send };

static void
hear_registrar(const uint8_t *data, size_t size)
{
	struct registrar	r;
	struct claim_msg	m;
	struct wire_in		in;
	uint64_t		now = 1;
	unsigned		n = 0;

	registrar_init(&r, CORE, &reg_ops, NULL);
	if (registrar_peer_up(&r, PEER, now) < 0)
		abort();
	wire_in_init(&in, data, size);
	while (claim_msg_next(&in, &m) == 1) {
		/* A third party's errors are refused, by all. */
		(void)registrar_from_desk(&r, m.node % 2 ? CORE : NODE, &m,
		    now);
		(void)registrar_from_peer(&r, PEER, &m, now);
		now += m.asked % 700;
		switch (n++ % 8) {
		case 3:
			registrar_tick(&r, now);
			break;
		case 5:
			registrar_left(&r, NODE);
			(void)registrar_peer_up(&r, OTHER, now);
			break;
		case 6:
			registrar_node_down(&r, NODE, now);
			break;
		case 7:
			registrar_forget(&r, NODE, now);
			registrar_peer_down(&r, OTHER);
			break;
		default:
			break;
		}
	}
	registrar_tick(&r, now + 10000);
	registrar_fini(&r);
}

static void
hear_desk(const uint8_t *data, size_t size)
{
	struct claim_msg	m;
	struct desk		d;
	struct wire_in		in;
	uint64_t		now = 1;
	unsigned		n = 0;

	desk_init(&d, NODE, &desk_ops, NULL);
	for (uint64_t x = 0; x < 4; x++)
		if (desk_restore(&d, x, x * 10) < 0)
			abort();
	desk_up(&d);
	wire_in_init(&in, data, size);
	while (claim_msg_next(&in, &m) == 1) {
		desk_take(&d, &m, now);
		now += m.asked % 700;
		switch (n++ % 8) {
		case 1:
			(void)desk_attach(&d, m.x, n, now);
			break;
		case 3:
			desk_tick(&d, now);
			break;
		case 4:
			desk_settled(&d, m.x, now);
			break;
		case 5:
			desk_state(&d, m.x, m.flags);
			break;
		case 6:
			desk_gone(&d, m.x, now);
			break;
		case 7:
			desk_down(&d);
			desk_up(&d);
			break;
		default:
			break;
		}
	}
	desk_tick(&d, now + 10000);
	desk_fini(&d);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct claim_msg	m;
	struct wire_in		in;

	if (size < 1)
		return 0;
	wire_in_init(&in, data + 1, size - 1);
	if (data[0] == 0)
		while (claim_msg_next(&in, &m) == 1)
			again(&m);
	else if (data[0] % 2)
		hear_registrar(data + 1, size - 1);
	else
		hear_desk(data + 1, size - 1);
	return 0;
}

/*
 * What a process is told by the one it takes the place of: records in a stream
 * of bytes (first byte 0), pieces of a bus (1), a window (2).
 */
#include <ev.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "bus/internal.h"
#include "proto/handover.h"
#include "window/window.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
records(const uint8_t *data, size_t size)
{
	static uint8_t		 again[1 << 20];
	union handover_row	 row, copy;
	struct wire_out		 w;
	struct slice		 body;
	unsigned		 kind;
	size_t			 need;

	while (handover_next(data, size, &kind, &body, &need) == 1) {
		if (need > size)
			abort();
		data += need;
		size -= need;
		if (handover_get(&row, kind, body.data, body.len) < 0)
			continue;
		/* What was understood is told the same way. */
		wire_out_init(&w, again, sizeof(again));
		handover_put(&w, (enum handover_kind)kind, &row);
		if (!w.full && handover_get(&copy, kind, again,
		    wire_out_len(&w)) < 0)
			abort();
	}
}

/* A bus without sockets: only its books. */
static void
pieces(const uint8_t *data, size_t size)
{
	static struct bus	 b;
	struct carried		*c;
	const struct stream_frame *f;
	size_t			 n, kept;

	memset(&b, 0, sizeof(b));
	b.credit = 1 << 20;
	b.stream_max = 1 << 20;
	while (size >= 2) {
		n = get_le16(data);
		data += 2;
		size -= 2;
		if (n > size || bus_import(&b, data, n) < 0)
			break;
		data += n;
		size -= n;
	}
	if (bus_import_end(&b) == 0)
		for (c = b.carried; c != NULL; c = c->next) {
			kept = c->out.open_len;
			for (f = c->out.head; f != NULL; f = f->next)
				kept += f->len + f->payload_len;
			if (kept != c->out.kept || c->out.got > c->out.sent_seq)
				abort();
		}
	carried_fini(&b);
	conns_fini(&b);
	stream_pool_fini(&b.pool);
}

static void
window(const uint8_t *data, size_t size)
{
	static struct window_cell cells[65535], out[65535];
	struct window	*w;
	uint32_t	 n = 0, i;
	uint16_t	 next, max, id;

	if (size < 4)
		return;
	next = get_le16(data);
	max = get_le16(data + 2);
	for (data += 4, size -= 4; size >= 3 && n < NELEM(cells);
	    data += 3, size -= 3) {
		cells[n].id = get_le16(data);
		cells[n++].state = data[2];
	}
	if (window_import(&w, cells, n, next, max) < 0)
		return;
	if (window_inflight(w) != n ||
	    window_export(w, out, &id, &max) != n || id != next)
		abort();
	for (i = 0; i < n; i++)
		if (window_state(w, cells[i].id) != cells[i].state)
			abort();
	if (window_send(w, 1, &id) == 0)
		for (i = 0; i < n; i++)
			if (cells[i].id == id)
				abort();
	window_free(&w);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	switch (data[0] % 3) {
	case 0:
		records(data + 1, size - 1);
		break;
	case 1:
		pieces(data + 1, size - 1);
		break;
	case 2:
		window(data + 1, size - 1);
		break;
	}
	return 0;
}

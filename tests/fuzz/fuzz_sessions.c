/* What listeners and session-stores say of sessions (proto/session.h): an entry
 * that was read is written, and read again the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
same(struct slice a, struct slice b)
{
	if (a.len != b.len || (a.len > 0 && memcmp(a.data, b.data, a.len) != 0))
		abort();
}

static void
again(const struct session_msg *e, size_t size)
{
	uint8_t			*buf = malloc(size + 512);
	struct wire_out		 out;
	struct wire_in		 in;
	struct session_msg	 r;

	if (buf == NULL)
		return;
	wire_out_init(&out, buf, size + 512);
	if (session_msg_put(&out, e) == 0) {
		wire_in_init(&in, buf, wire_out_len(&out));
		if (session_msg_next(&in, &r) != 1 || r.kind != e->kind ||
		    r.serial != e->serial || r.handle != e->handle ||
		    r.pid != e->pid || r.flags != e->flags ||
		    r.present != e->present || r.opened != e->opened)
			abort();
		same(r.client_id, e->client_id);
		same(r.will, e->will);
		same(r.filter, e->filter);
		same(r.payload, e->payload);
		same(r.pids, e->pids);
	}
	free(buf);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session_msg	e;
	struct wire_in		in;

	wire_in_init(&in, data, size);
	while (session_msg_next(&in, &e) == 1)
		again(&e, size);
	return 0;
}

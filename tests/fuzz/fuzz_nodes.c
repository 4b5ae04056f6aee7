/* NODES and LINK_STATE: the first byte says which. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/nodes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_name(struct slice s)
{
	if (s.len == 0 || s.len > NODE_NAME_MAX ||
	    memchr(s.data, '\0', s.len) != NULL)
		abort();
}

static void
check_state(const uint8_t *data, size_t size)
{
	struct link_state m;
	struct link_flow  f;
	unsigned	  n = 0;

	if (link_state_decode(&m, data, size) < 0)
		return;
	while (link_state_next(&m, &f) == 1) {
		check_name(f.node);
		n++;
	}
	if (n != m.n || m.port > UINT16_MAX)
		abort();
}

/* What was read can be written, and is then the same. */
static void
check_nodes(const uint8_t *data, size_t size)
{
	static uint8_t	 buf[NODES_BUF];
	struct node_info a, b;
	struct nodes	 m, again;
	struct wire_out	 w;
	unsigned	 n = 0;

	if (nodes_decode(&m, data, size) < 0)
		return;
	nodes_begin(&w, buf, sizeof(buf), m.router_incarnation, m.version);
	while (nodes_next(&m, &a) == 1) {
		check_name(a.name);
		check_name(a.host);
		if (nodes_add(&w, &a) < 0)
			abort();
		n++;
	}
	if (n != m.n || nodes_decode(&again, buf, wire_out_len(&w)) < 0 ||
	    again.n != n || again.version != m.version)
		abort();
	wire_in_init(&m.in, data, size);
	while (nodes_next(&m, &a) == 1)
		if (nodes_next(&again, &b) != 1 || a.index != b.index ||
		    a.name.len != b.name.len ||
		    memcmp(a.ports, b.ports, sizeof(a.ports)) != 0)
			abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	if (data[0] & 1)
		check_state(data + 1, size - 1);
	else
		check_nodes(data + 1, size - 1);
	return 0;
}

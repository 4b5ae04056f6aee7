/* Messages of the metadata channel: the first byte is the kind, as it is there.
 * What is read and written again reads the same; no judgement of it looks
 * outside. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/rules.h"
#include "proto/mesh.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_text(struct slice s, size_t max)
{
	if (s.len > max || (s.len > 0 && memchr(s.data, '\0', s.len) != NULL))
		abort();
}

static bool
same(struct slice a, struct slice b)
{
	return a.len == b.len &&
	    (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t	 buf[MESH_BUF_MIN + 65536];
	const struct mesh_self me = { .node = "a@b", .cluster = "c",
	    .core = true, .version = 1, .oldest = 1, .max_skew_ns = 1000 };
	struct mesh_msg	 m, again;
	char		 why[MESH_WHY_MAX + 1];
	bool		 named;
	long		 n;

	if (size < 1 || size > 65536)
		return 0;
	named = data[0] == MESH_HELLO || data[0] == MESH_WELCOME;
	if (mesh_decode(&m, data + 1, size - 1, named) < 0)
		return 0;
	check_text(m.node, NODE_NAME_MAX);
	check_text(m.called, NODE_NAME_MAX);
	check_text(m.cluster, MESH_CLUSTER_MAX);
	check_text(m.why, MESH_WHY_MAX);
	if (named && (m.node.len == 0 || m.incarnation == 0 || m.id == 0))
		abort();
	(void)mesh_judge(&me, &m, 5000, why, sizeof(why));
	(void)mesh_status_name(m.status);
	n = mesh_encode(&m, buf, sizeof(buf));
	if (n < 0 || mesh_decode(&again, buf, (size_t)n, named) < 0 ||
	    !same(m.node, again.node) || !same(m.member, again.member) ||
	    !same(m.why, again.why) || m.incarnation != again.incarnation ||
	    m.clock != again.clock || m.core != again.core ||
	    memcmp(m.ports, again.ports, sizeof(m.ports)) != 0)
		abort();
	return 0;
}

#include "proto/mesh.h"

#include "base/err.h"
#include "proto/wire.h"

/* Members and field numbers of mesh.proto. */
enum { MESH_LINKS = 7 };
#define COL(n, type, m)	{ n, type, offsetof(struct mesh_msg, m) }
static const struct wire_col mesh_cols[] = {
	COL(1, WIRE_U32, version),
	COL(2, WIRE_U32, oldest),
	COL(3, WIRE_SLICE, node),
	COL(4, WIRE_U64, incarnation),
	COL(5, WIRE_BOOL, core),
	COL(6, WIRE_SLICE, cluster),
	COL(8, WIRE_SLICE, member),
	COL(9, WIRE_U64, clock),
	COL(10, WIRE_U64, id),
	COL(11, WIRE_U32, status),
	COL(12, WIRE_SLICE, why),
	COL(13, WIRE_U64, to),
	COL(14, WIRE_U32, replicants),
	COL(15, WIRE_U64, seen),
	COL(16, WIRE_SLICE, called),
};

struct mesh_link {
	uint32_t	instance, port;
};
static const struct wire_col link_cols[] = {
	{ 1, WIRE_U32, offsetof(struct mesh_link, instance) },
	{ 2, WIRE_U32, offsetof(struct mesh_link, port) },
};

static bool
text_ok(struct slice s, size_t max)
{
	return s.len <= max &&
	    (s.len == 0 || memchr(s.data, '\0', s.len) == NULL);
}

static bool
msg_ok(const struct mesh_msg *m)
{
	unsigned i;

	for (i = 0; i < NODE_LINKS_MAX; i++)
		if (m->ports[i] > UINT16_MAX)
			return false;
	return text_ok(m->node, NODE_NAME_MAX) &&
	    text_ok(m->called, NODE_NAME_MAX) &&
	    text_ok(m->cluster, MESH_CLUSTER_MAX) &&
	    text_ok(m->why, MESH_WHY_MAX);
}

long
mesh_encode(const struct mesh_msg *m, void *buf, size_t size)
{
	struct wire_out	 w;
	struct mesh_link l;
	size_t		 mark;

	if (!msg_ok(m))
		return ERR_INVAL;
	wire_out_init(&w, buf, size);
	wire_put_cols(&w, mesh_cols, NELEM(mesh_cols), m);
	for (l.instance = 0; l.instance < NODE_LINKS_MAX; l.instance++) {
		if ((l.port = m->ports[l.instance]) == 0)
			continue;
		mark = wire_open(&w, MESH_LINKS);
		wire_put_cols(&w, link_cols, NELEM(link_cols), &l);
		wire_close(&w, mark);
	}
	return w.full ? ERR_FULL : (long)w.len;
}

/* More links than we know of are not for us. */
static int
get_link(struct mesh_msg *m, const struct wire_field *field)
{
	struct mesh_link  l = { 0, 0 };
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	if (!field->is_bytes)
		return ERR_PROTO;
	wire_in_init(&in, field->bytes.data, field->bytes.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(link_cols, NELEM(link_cols), &l, &f) < 0)
			return ERR_PROTO;
	if (rc == 0 && l.instance < NODE_LINKS_MAX)
		m->ports[l.instance] = l.port;
	return rc;
}

int
mesh_decode(struct mesh_msg *out, const void *body, size_t len, bool named)
{
	struct mesh_msg	  m = { 0 };
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	wire_in_init(&in, body, len);
	while ((rc = wire_next(&in, &f)) == 1) {
		if (f.number == MESH_LINKS)
			rc = get_link(&m, &f);
		else
			rc = wire_get_col(mesh_cols, NELEM(mesh_cols), &m, &f);
		if (rc < 0)
			return ERR_PROTO;
	}
	if (rc < 0 || !msg_ok(&m) || (named && (m.node.len == 0 ||
	    m.incarnation == 0 || m.id == 0)))
		return ERR_PROTO;
	*out = m;
	return 0;
}

const char *
mesh_status_name(uint32_t status)
{
	static const char *const names[] = {
		[MESH_OK] = "ok",
		[MESH_TOO_OLD] = "too_old",
		[MESH_TOO_NEW] = "too_new",
		[MESH_OTHER_CLUSTER] = "other_cluster",
		[MESH_SKEW] = "skew",
		[MESH_OTHER_NAME] = "other_name",
		[MESH_SAME_NAME] = "same_name",
		[MESH_DUPLICATE] = "duplicate",
		[MESH_STALE] = "stale",
		[MESH_ROLES] = "roles",
		[MESH_FULL] = "full",
		[MESH_NO_MEMBER] = "no_member",
		[MESH_NONSENSE] = "nonsense",
		[MESH_GOING] = "going",
		[MESH_SILENT] = "silent",
		[MESH_ANSWERED] = "answered",
		[MESH_CLOSED] = "closed",
		[MESH_UNREACHED] = "unreached",
		[MESH_NO_HANDSHAKE] = "no_handshake",
	};

	return status < NELEM(names) && names[status] != NULL ?
	    names[status] : "unknown";
}

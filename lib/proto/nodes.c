#include "proto/nodes.h"

#include "base/err.h"

/* Members and field numbers of nodes.proto. */
enum { NODES_ROUTER = 1, NODES_VERSION = 2, NODES_NODES = 3 };
enum { NODE_LINKS = 5 };
static const struct wire_col node_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct node_info, name) },
	{ 2, WIRE_U64, offsetof(struct node_info, incarnation) },
	{ 3, WIRE_U32, offsetof(struct node_info, state) },
	{ 4, WIRE_SLICE, offsetof(struct node_info, host) },
	{ 6, WIRE_U32, offsetof(struct node_info, index) },
	{ 7, WIRE_BOOL, offsetof(struct node_info, core) },
	{ 8, WIRE_BOOL, offsetof(struct node_info, parked) },
};

struct node_link {
	uint32_t	instance, port;
};
static const struct wire_col link_cols[] = {
	{ 1, WIRE_U32, offsetof(struct node_link, instance) },
	{ 2, WIRE_U32, offsetof(struct node_link, port) },
};

enum { LINK_STATE_PORT = 1, LINK_STATE_FLOWS = 2 };
static const struct wire_col flow_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct link_flow, node) },
	{ 2, WIRE_BOOL, offsetof(struct link_flow, flows) },
};

static bool
name_ok(struct slice s)
{
	return s.len > 0 && s.len <= NODE_NAME_MAX &&
	    memchr(s.data, '\0', s.len) == NULL;
}

static bool
node_ok(const struct node_info *n)
{
	unsigned i;

	for (i = 0; i < NODE_LINKS_MAX; i++)
		if (n->ports[i] > UINT16_MAX)
			return false;
	return name_ok(n->name) && name_ok(n->host) && n->state != 0 &&
	    n->index <= NODES_MAX;
}

/* Close what was opened at `start`, or undo it. */
static int
row_done(struct wire_out *w, size_t start, size_t mark)
{
	wire_close(w, mark);
	if (w->full) {
		w->len = start;
		w->full = false;
		return ERR_FULL;
	}
	return 0;
}

/* The fields of one message within that columns tell. */
static int
get_cols(const struct wire_col *cols, size_t n, void *row, struct slice body)
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

/* --- NODES --------------------------------------------------------------- */

void
nodes_begin(struct wire_out *w, void *buf, size_t size,
    uint64_t router_incarnation, uint64_t version)
{
	wire_out_init(w, buf, size);
	wire_put_uint(w, NODES_ROUTER, router_incarnation);
	wire_put_uint(w, NODES_VERSION, version);
}

int
nodes_add(struct wire_out *w, const struct node_info *node)
{
	struct node_link l;
	size_t		 start = w->len, mark, inner;

	if (!node_ok(node))
		return ERR_INVAL;
	mark = wire_open(w, NODES_NODES);
	wire_put_cols(w, node_cols, NELEM(node_cols), node);
	for (l.instance = 0; l.instance < NODE_LINKS_MAX; l.instance++) {
		if ((l.port = node->ports[l.instance]) == 0)
			continue;
		inner = wire_open(w, NODE_LINKS);
		wire_put_cols(w, link_cols, NELEM(link_cols), &l);
		wire_close(w, inner);
	}
	return row_done(w, start, mark);
}

/* More links than we know of are not for us. */
static int
get_node(struct node_info *node, struct slice body)
{
	struct node_link  l;
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	memset(node, 0, sizeof(*node));
	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1) {
		if (f.number != NODE_LINKS) {
			if (wire_get_col(node_cols, NELEM(node_cols), node,
			    &f) < 0)
				return ERR_PROTO;
			continue;
		}
		l = (struct node_link){ 0, 0 };
		if (!f.is_bytes || get_cols(link_cols, NELEM(link_cols), &l,
		    f.bytes) < 0)
			return ERR_PROTO;
		if (l.instance < NODE_LINKS_MAX)
			node->ports[l.instance] = l.port;
	}
	return rc < 0 || !node_ok(node) ? ERR_PROTO : 0;
}

int
nodes_decode(struct nodes *out, const void *body, size_t len)
{
	struct nodes	  m = { 0 };
	struct node_info  node;
	struct wire_field f;
	int		  rc;

	wire_in_init(&m.in, body, len);
	while ((rc = wire_next(&m.in, &f)) == 1) {
		switch (f.number) {
		case NODES_ROUTER: m.router_incarnation = f.value; break;
		case NODES_VERSION: m.version = f.value; break;
		case NODES_NODES:
			if (!f.is_bytes || get_node(&node, f.bytes) < 0 ||
			    ++m.n > NODES_MAX)
				return ERR_PROTO;
			break;
		}
	}
	if (rc < 0)
		return rc;
	wire_in_init(&m.in, body, len);
	*out = m;
	return 0;
}

int
nodes_next(struct nodes *m, struct node_info *node)
{
	struct wire_field f;

	while (wire_next(&m->in, &f) == 1)
		if (f.number == NODES_NODES)
			return get_node(node, f.bytes) == 0;
	return 0;
}

/* --- LINK_STATE ---------------------------------------------------------- */

void
link_state_begin(struct wire_out *w, void *buf, size_t size, uint32_t port)
{
	wire_out_init(w, buf, size);
	wire_put_uint(w, LINK_STATE_PORT, port);
}

int
link_state_add(struct wire_out *w, const struct link_flow *flow)
{
	size_t	start = w->len, mark;

	if (!name_ok(flow->node))
		return ERR_INVAL;
	mark = wire_open(w, LINK_STATE_FLOWS);
	wire_put_cols(w, flow_cols, NELEM(flow_cols), flow);
	return row_done(w, start, mark);
}

static int
get_flow(struct link_flow *flow, struct slice body)
{
	memset(flow, 0, sizeof(*flow));
	if (get_cols(flow_cols, NELEM(flow_cols), flow, body) < 0 ||
	    !name_ok(flow->node))
		return ERR_PROTO;
	return 0;
}

int
link_state_decode(struct link_state *out, const void *body, size_t len)
{
	struct link_state m = { 0 };
	struct link_flow  flow;
	struct wire_field f;
	int		  rc;

	wire_in_init(&m.in, body, len);
	while ((rc = wire_next(&m.in, &f)) == 1) {
		switch (f.number) {
		case LINK_STATE_PORT:
			if (f.is_bytes || f.value > UINT16_MAX)
				return ERR_PROTO;
			m.port = (uint32_t)f.value;
			break;
		case LINK_STATE_FLOWS:
			if (!f.is_bytes || get_flow(&flow, f.bytes) < 0 ||
			    ++m.n > NODES_MAX)
				return ERR_PROTO;
			break;
		}
	}
	if (rc < 0)
		return rc;
	wire_in_init(&m.in, body, len);
	*out = m;
	return 0;
}

int
link_state_next(struct link_state *m, struct link_flow *flow)
{
	struct wire_field f;

	while (wire_next(&m->in, &f) == 1)
		if (f.number == LINK_STATE_FLOWS)
			return get_flow(flow, f.bytes) == 0;
	return 0;
}

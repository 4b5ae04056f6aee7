/* NODES and LINK_STATE, written and read; also against nanopb's reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <pb_decode.h>

#include "base/err.h"
#include "proto/nodes.h"
#include "proto/nodes.pb.h"

#define S(s)	{ (const uint8_t *)(s), sizeof(s) - 1 }

static uint8_t	buf[NODES_BUF];

static void
assert_slice(struct slice s, const char *is)
{
	assert_int_equal(s.len, strlen(is));
	assert_memory_equal(s.data, is, s.len);
}

static struct node_info
some_node(void)
{
	return (struct node_info){ .name = S("emqx2@127.0.0.2"),
	    .host = S("127.0.0.2"), .incarnation = 1ull << 60,
	    .state = NODE_SUSPECT, .index = 255, .core = true,
	    .ports = { 5372, 0, 6001 } };
}

static void
nodes_are_told_whole(void **state UNUSED)
{
	struct node_info n = some_node(), got;
	struct wire_out	 w;
	struct nodes	 m;

	nodes_begin(&w, buf, sizeof(buf), 77, 3);
	assert_int_equal(nodes_add(&w, &n), 0);
	n = (struct node_info){ .name = S("a@b"), .host = S("b"),
	    .state = NODE_DOWN, .parked = true };
	assert_int_equal(nodes_add(&w, &n), 0);

	assert_int_equal(nodes_decode(&m, buf, wire_out_len(&w)), 0);
	assert_int_equal(m.router_incarnation, 77);
	assert_int_equal(m.version, 3);
	assert_int_equal(m.n, 2);
	assert_int_equal(nodes_next(&m, &got), 1);
	assert_slice(got.name, "emqx2@127.0.0.2");
	assert_slice(got.host, "127.0.0.2");
	assert_int_equal(got.incarnation, 1ull << 60);
	assert_int_equal(got.state, NODE_SUSPECT);
	assert_int_equal(got.index, 255);
	assert_true(got.core);
	assert_false(got.parked);
	assert_int_equal(got.ports[0], 5372);
	assert_int_equal(got.ports[1], 0);
	assert_int_equal(got.ports[2], 6001);
	assert_int_equal(nodes_next(&m, &got), 1);
	assert_slice(got.name, "a@b");
	assert_int_equal(got.ports[0], 0);
	assert_false(got.core);
	assert_int_equal(nodes_next(&m, &got), 0);
}

static void
nobody_there_is_a_message_too(void **state UNUSED)
{
	struct wire_out	w;
	struct nodes	m;

	nodes_begin(&w, buf, sizeof(buf), 1, 1);
	assert_int_equal(nodes_decode(&m, buf, wire_out_len(&w)), 0);
	assert_int_equal(m.n, 0);
}

static void
bounds_hold_both_ways(void **state UNUSED)
{
	static char	 longest[NODE_NAME_MAX + 2];
	struct node_info n = some_node();
	struct wire_out	 w;
	struct nodes	 m;
	unsigned	 i;

	memset(longest, 'x', sizeof(longest) - 1);
	n.name = n.host = (struct slice){ (uint8_t *)longest, NODE_NAME_MAX };
	for (i = 0; i < NODE_LINKS_MAX; i++)
		n.ports[i] = UINT16_MAX;
	nodes_begin(&w, buf, sizeof(buf), UINT64_MAX, UINT64_MAX);
	for (i = 0; i < NODES_MAX; i++)
		assert_int_equal(nodes_add(&w, &n), 0);
	assert_int_equal(nodes_decode(&m, buf, wire_out_len(&w)), 0);
	assert_int_equal(m.n, NODES_MAX);
	/* One too many is not read. */
	n = some_node();
	assert_int_equal(nodes_add(&w, &n), 0);
	assert_int_equal(nodes_decode(&m, buf, wire_out_len(&w)), ERR_PROTO);

	n.name = n.host = (struct slice){ (uint8_t *)longest, NODE_NAME_MAX };
	nodes_begin(&w, buf, 64, 1, 1);
	i = (unsigned)wire_out_len(&w);
	assert_int_equal(nodes_add(&w, &n), ERR_FULL);
	assert_int_equal(wire_out_len(&w), i);
	n.name.len++;
	assert_int_equal(nodes_add(&w, &n), ERR_INVAL);
	n = some_node();
	n.index = NODES_MAX + 1;
	assert_int_equal(nodes_add(&w, &n), ERR_INVAL);
	n = some_node();
	n.ports[3] = 65536;
	assert_int_equal(nodes_add(&w, &n), ERR_INVAL);
	n = some_node();
	n.host = (struct slice)S("a\0b");
	assert_int_equal(nodes_add(&w, &n), ERR_INVAL);
	n = some_node();
	n.state = 0;
	assert_int_equal(nodes_add(&w, &n), ERR_INVAL);
}

static void
what_is_unknown_is_skipped(void **state UNUSED)
{
	struct node_info n = some_node(), got;
	struct wire_out	 w;
	struct nodes	 m;
	size_t		 mark;

	nodes_begin(&w, buf, sizeof(buf), 1, 1);
	wire_put_uint(&w, 99, 5);
	mark = wire_open(&w, 3);
	wire_put_bytes(&w, 1, n.name);
	wire_put_uint(&w, 3, 9);		/* a state of later */
	wire_put_bytes(&w, 4, n.host);
	wire_put_bytes(&w, 55, n.host);
	wire_close(&w, mark);
	assert_int_equal(nodes_decode(&m, buf, wire_out_len(&w)), 0);
	assert_int_equal(nodes_next(&m, &got), 1);
	assert_int_equal(got.state, 9);
	assert_slice(got.name, "emqx2@127.0.0.2");
}

static void
nanopb_reads_the_same(void **state UNUSED)
{
	struct node_info n = some_node();
	struct wire_out	 w;
	Nodes		 m = Nodes_init_zero;
	LinkState	 l = LinkState_init_zero;
	struct link_flow f = { S("a@b"), true };
	pb_istream_t	 in;

	nodes_begin(&w, buf, sizeof(buf), 77, 3);
	assert_int_equal(nodes_add(&w, &n), 0);
	in = pb_istream_from_buffer(buf, wire_out_len(&w));
	assert_true(pb_decode(&in, Nodes_fields, &m));
	assert_int_equal(m.router_incarnation, 77);
	assert_int_equal(m.version, 3);

	link_state_begin(&w, buf, sizeof(buf), 5370);
	assert_int_equal(link_state_add(&w, &f), 0);
	in = pb_istream_from_buffer(buf, wire_out_len(&w));
	assert_true(pb_decode(&in, LinkState_fields, &l));
	assert_int_equal(l.port, 5370);
}

static void
a_link_tells_its_port_and_what_flows(void **state UNUSED)
{
	struct link_flow  f = { S("a@b"), true }, got;
	struct wire_out	  w;
	struct link_state m;
	unsigned	  i;

	link_state_begin(&w, buf, LINK_STATE_BUF, 5370);
	assert_int_equal(link_state_add(&w, &f), 0);
	f = (struct link_flow){ S("c@d"), false };
	assert_int_equal(link_state_add(&w, &f), 0);
	assert_int_equal(link_state_decode(&m, buf, wire_out_len(&w)), 0);
	assert_int_equal(m.port, 5370);
	assert_int_equal(m.n, 2);
	assert_int_equal(link_state_next(&m, &got), 1);
	assert_slice(got.node, "a@b");
	assert_true(got.flows);
	assert_int_equal(link_state_next(&m, &got), 1);
	assert_slice(got.node, "c@d");
	assert_false(got.flows);
	assert_int_equal(link_state_next(&m, &got), 0);

	/* Every cut of it is refused or a prefix of it. */
	for (i = 0; i < wire_out_len(&w); i++)
		if (link_state_decode(&m, buf, i) == 0)
			assert_true(m.n <= 1);
	f.node.len = 0;
	assert_int_equal(link_state_add(&w, &f), ERR_INVAL);
	link_state_begin(&w, buf, sizeof(buf), 65536);
	assert_int_equal(link_state_decode(&m, buf, wire_out_len(&w)),
	    ERR_PROTO);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_are_told_whole),
		cmocka_unit_test(nobody_there_is_a_message_too),
		cmocka_unit_test(bounds_hold_both_ways),
		cmocka_unit_test(what_is_unknown_is_skipped),
		cmocka_unit_test(nanopb_reads_the_same),
		cmocka_unit_test(a_link_tells_its_port_and_what_flows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Rows written in place (wire.h) and the schemas: what one writes, nanopb's
 * generated code reads, and what is cut or beyond a bound is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pb_decode.h>
#include <pb_encode.h>

#include "base/err.h"
#include "proto/attach.h"
#include "proto/handover.h"
#include "proto/query.h"
#include "proto/query.pb.h"
#include "proto/route.h"
#include "proto/route.pb.h"

#define S(text)		((struct slice){ (const uint8_t *)(text), \
			    sizeof(text) - 1 })

static void
assert_text(struct slice s, const char *text)
{
	assert_int_equal(s.len, strlen(text));
	if (s.len > 0)
		assert_memory_equal(s.data, text, s.len);
}

static void
routes_are_read_in_the_order_written(void **state UNUSED)
{
	struct routes_writer w;
	struct route_row     row = { .filter = S("a/+"), .qos = 2 }, got;
	struct routes	     r;
	uint8_t		     buf[512];
	size_t		     n;
	bool		     add;

	routes_begin(&w, buf, sizeof(buf), 77, 1, true);
	assert_int_equal(routes_add(&w, &row), 0);
	row.filter = S("b/#");
	row.share = S("grp");
	row.members = 3;
	row.qos = 0;
	assert_int_equal(routes_del(&w, &row), 0);
	assert_int_equal(routes_add(&w, &row), 0);
	n = routes_end(&w, true);

	assert_int_equal(routes_decode(&r, buf, n), 0);
	assert_int_equal(r.router_incarnation, 77);
	assert_int_equal(r.seq, 1);
	assert_true(r.snapshot_begin);
	assert_true(r.snapshot_end);
	assert_int_equal(r.rows, 3);
	assert_int_equal(routes_next(&r, &got, &add), 1);
	assert_true(add);
	assert_text(got.filter, "a/+");
	assert_int_equal(got.qos, 2);
	assert_int_equal(routes_next(&r, &got, &add), 1);
	assert_false(add);
	assert_text(got.share, "grp");
	assert_int_equal(got.members, 3);
	assert_int_equal(routes_next(&r, &got, &add), 1);
	assert_true(add);
	assert_int_equal(routes_next(&r, &got, &add), 0);
}

static void
a_row_that_does_not_fit_changes_nothing(void **state UNUSED)
{
	struct routes_writer w;
	struct route_row     row = { .filter = S("0123456789") }, got;
	struct routes	     r;
	uint8_t		     buf[64];
	unsigned	     rows = 0;
	size_t		     n;
	bool		     add;

	routes_begin(&w, buf, sizeof(buf), UINT64_MAX, UINT64_MAX, true);
	while (routes_add(&w, &row) == 0)
		rows++;
	assert_int_equal(rows, 2);
	n = routes_end(&w, true);
	assert_true(n <= sizeof(buf));
	assert_int_equal(routes_decode(&r, buf, n), 0);
	assert_int_equal(r.rows, rows);
	assert_true(r.snapshot_end);
	while (routes_next(&r, &got, &add) == 1)
		assert_text(got.filter, "0123456789");
}

static void
the_longest_row_fits_the_least_buffer(void **state UNUSED)
{
	struct routes_writer w;
	struct route_row     row = { .qos = 2, .members = UINT32_MAX };
	uint8_t		    *buf = malloc(ROUTES_BUF_MIN);
	uint8_t		    *text = calloc(1, 65536);

	row.filter = row.share = (struct slice){ text, 65535 };
	routes_begin(&w, buf, ROUTES_BUF_MIN, UINT64_MAX, UINT64_MAX, true);
	assert_int_equal(routes_add(&w, &row), 0);
	routes_end(&w, true);
	row.filter.len = 65536;
	assert_int_equal(routes_add(&w, &row), ERR_INVAL);
	row.filter.len = 0;
	assert_int_equal(routes_add(&w, &row), ERR_INVAL);
	row.filter.len = 1;
	row.qos = 3;
	assert_int_equal(routes_add(&w, &row), ERR_INVAL);
	free(buf);
	free(text);
}

static bool
pb_filter(pb_istream_t *in, const pb_field_t *field UNUSED, void **arg)
{
	uint8_t text[16] = { 0 };

	if (in->bytes_left >= sizeof(text) ||
	    !pb_read(in, text, in->bytes_left))
		return false;
	assert_string_equal(text, *arg);
	return true;
}

static bool
pb_add(pb_istream_t *in, const pb_field_t *field UNUSED, void **arg UNUSED)
{
	Row row = Row_init_zero;

	row.filter.funcs.decode = pb_filter;
	row.filter.arg = (void *)(uintptr_t)"x/y";
	assert_true(pb_decode(in, Row_fields, &row));
	assert_int_equal(row.qos, 1);
	return true;
}

static void
nanopb_reads_what_is_written(void **state UNUSED)
{
	struct routes_writer w;
	struct route_row     row = { .filter = S("x/y"), .qos = 1 };
	Routes		     r = Routes_init_zero;
	uint8_t		     buf[128];
	pb_istream_t	     in;

	routes_begin(&w, buf, sizeof(buf), 1ull << 60, 300, false);
	assert_int_equal(routes_add(&w, &row), 0);
	in = pb_istream_from_buffer(buf, routes_end(&w, true));
	r.add.funcs.decode = pb_add;
	assert_true(pb_decode(&in, Routes_fields, &r));
	assert_true(r.router_incarnation == 1ull << 60);
	assert_int_equal(r.seq, 300);
	assert_false(r.snapshot_begin);
	assert_true(r.snapshot_end);
}

static bool
pb_put_text(pb_ostream_t *out, const pb_field_t *field, void *const *arg)
{
	return pb_encode_tag_for_field(out, field) &&
	    pb_encode_string(out, *arg, strlen(*arg));
}

static void
what_nanopb_writes_is_read(void **state UNUSED)
{
	Query	     m = Query_init_zero;
	struct query q;
	uint8_t	     buf[128];
	pb_ostream_t out = pb_ostream_from_buffer(buf, sizeof(buf));

	m.what = QUERY_MATCH;
	m.limit = 10;
	m.id = 1ull << 40;
	m.arg.funcs.encode = pb_put_text;
	m.arg.arg = (void *)(uintptr_t)"a/b/c";
	assert_true(pb_encode(&out, Query_fields, &m));
	assert_int_equal(query_decode(&q, buf, out.bytes_written), 0);
	assert_int_equal(q.what, QUERY_MATCH);
	assert_int_equal(q.limit, 10);
	assert_true(q.id == 1ull << 40);
	assert_text(q.arg, "a/b/c");
	assert_int_equal(q.cursor.len, 0);
}

static void
unknown_fields_are_skipped(void **state UNUSED)
{
	static const uint8_t body[] =
	    "\x08\x05"				/* what = 5 */
	    "\xf8\x01\x01"			/* 31: a number */
	    "\xfa\x01\x03" "abc"		/* 31: bytes */
	    "\xf9\x01" "12345678"		/* 31: 64 bits */
	    "\xfd\x01" "1234"			/* 31: 32 bits */
	    "\x20\x07";				/* limit = 7 */
	struct query q;

	assert_int_equal(query_decode(&q, body, sizeof(body) - 1), 0);
	assert_int_equal(q.what, 5);
	assert_int_equal(q.limit, 7);
	/* A group, field number 0, a number that does not end. */
	assert_int_equal(query_decode(&q, "\x0b\x0c", 2), ERR_PROTO);
	assert_int_equal(query_decode(&q, "\x00\x01", 2), ERR_PROTO);
	assert_int_equal(query_decode(&q,
	    "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12), ERR_PROTO);
	/* Beyond 32 bits; bytes where a number belongs. */
	assert_int_equal(query_decode(&q, "\x08\xff\xff\xff\xff\x1f", 6),
	    ERR_PROTO);
	assert_int_equal(query_decode(&q, "\x0a\x00", 2), ERR_PROTO);
	assert_int_equal(query_decode(&q, NULL, 0), 0);
}

static void
attaches_are_walked(void **state UNUSED)
{
	struct attach_client c = { .client_id = S("me"), .time = 12345678901 };
	struct wire_out	     w;
	struct wire_in	     in;
	uint8_t		     buf[64];

	wire_out_init(&w, buf, sizeof(buf));
	assert_int_equal(attach_add(&w, &c), 0);
	c.client_id = S("you");
	assert_int_equal(attach_add(&w, &c), 0);
	c.client_id = S("");
	assert_int_equal(attach_add(&w, &c), ERR_INVAL);
	c.client_id = S("someone whose name does not fit in what is left");
	assert_int_equal(attach_add(&w, &c), ERR_FULL);

	assert_int_equal(attach_decode(&in, buf, wire_out_len(&w)), 0);
	assert_int_equal(attach_next(&in, &c), 1);
	assert_text(c.client_id, "me");
	assert_true(c.time == 12345678901);
	assert_int_equal(attach_next(&in, &c), 1);
	assert_text(c.client_id, "you");
	assert_int_equal(attach_next(&in, &c), 0);
	assert_int_equal(attach_decode(&in, buf, wire_out_len(&w) - 1),
	    ERR_PROTO);
}

static void
a_page_of_every_kind_of_row(void **state UNUSED)
{
	const struct sub_row subs[] = {
		{ S("a/#"), 2, 0 }, { S("$share/g/b"), 1, 9 },
	};
	struct client_row client = {
		.client_id = S("me"), .peer = S("127.0.0.1:5"), .version = 5,
		.connected_ms = 1700000000000, .clean = true, .nsubs = 7,
		.dropped = 3, .listener = S("listener.0"), .subs = subs,
		.subs_told = NELEM(subs),
	};
	struct route_info route = {
		.filter = S("a/b"), .dest = S("listener.1"), .widened = true,
		.as = S("a/#"), .state = S("installed"),
	};
	struct kv_row	    kv = { S("k"), S("v") };
	struct node_row	    node = {
		.name = S("a@h"), .role = S("core"), .sees = S("b@h c@h"),
		.join = UINT64_MAX, .digest = 9, .self = true,
	};
	struct reply_writer w;
	struct reply	    r;
	struct reply_row    row;
	struct sub_row	    sub;
	uint8_t		    buf[1024];
	long		    n;

	reply_begin(&w, buf, sizeof(buf), 42);
	assert_int_equal(reply_client(&w, &client), 0);
	assert_int_equal(reply_route(&w, &route), 0);
	assert_int_equal(reply_kv(&w, &kv), 0);
	assert_int_equal(reply_node(&w, &node), 0);
	n = reply_end(&w, S("next"));
	assert_true(n > 0);

	assert_int_equal(reply_decode(&r, buf, (size_t)n), 0);
	assert_int_equal(r.status, 0);
	assert_int_equal(r.id, 42);
	assert_int_equal(r.rows, 4);
	assert_text(r.cursor, "next");
	assert_int_equal(reply_next(&r, &row), 1);
	assert_int_equal(row.kind, REPLY_CLIENT);
	assert_text(row.client.client_id, "me");
	assert_text(row.client.listener, "listener.0");
	assert_true(row.client.clean);
	assert_int_equal(row.client.nsubs, 7);
	assert_int_equal(row.client.subs_told, 2);
	assert_int_equal(client_row_sub(&row.client, &sub), 1);
	assert_text(sub.filter, "a/#");
	assert_int_equal(client_row_sub(&row.client, &sub), 1);
	assert_text(sub.filter, "$share/g/b");
	assert_int_equal(sub.id, 9);
	assert_int_equal(client_row_sub(&row.client, &sub), 0);
	assert_int_equal(reply_next(&r, &row), 1);
	assert_int_equal(row.kind, REPLY_ROUTE);
	assert_text(row.route.as, "a/#");
	assert_true(row.route.widened);
	assert_int_equal(reply_next(&r, &row), 1);
	assert_int_equal(row.kind, REPLY_KV);
	assert_text(row.kv.value, "v");
	assert_int_equal(reply_next(&r, &row), 1);
	assert_int_equal(row.kind, REPLY_NODE);
	assert_text(row.node.sees, "b@h c@h");
	assert_true(row.node.join == UINT64_MAX && row.node.self);
	assert_false(row.node.parked);
	assert_int_equal(reply_next(&r, &row), 0);
}

static void
a_full_page_still_has_room_for_its_cursor(void **state UNUSED)
{
	struct kv_row	    kv = { S("some key"), S("some value") };
	static uint8_t	    cursor[QUERY_CURSOR_MAX + 1];
	struct reply_writer w;
	struct reply	    r;
	uint8_t		    buf[1000];
	long		    n;

	reply_begin(&w, buf, sizeof(buf), UINT64_MAX);
	while (reply_kv(&w, &kv) == 0)
		;
	assert_true(w.rows > 20);
	n = reply_end(&w, (struct slice){ cursor, 250 });
	assert_true(n > 0 && n <= 1000);
	assert_int_equal(reply_decode(&r, buf, (size_t)n), 0);
	assert_int_equal(r.cursor.len, 250);

	reply_begin(&w, buf, sizeof(buf), 1);
	assert_int_equal(reply_end(&w, (struct slice){ cursor, 1001 }),
	    ERR_INVAL);
}

static void
a_client_too_large_for_a_page_is_told_in_part(void **state UNUSED)
{
	static struct sub_row subs[QUERY_SUBS_MAX];
	struct client_row     client = {
		.client_id = S("me"), .nsubs = QUERY_SUBS_MAX, .subs = subs,
		.subs_told = QUERY_SUBS_MAX,
	};
	struct reply_writer   w;
	struct reply	      r;
	struct reply_row      row;
	uint8_t		      buf[1000];
	size_t		      i;
	long		      n;

	for (i = 0; i < QUERY_SUBS_MAX; i++)
		subs[i].filter = S("some/filter");
	reply_begin(&w, buf, sizeof(buf), 1);
	assert_int_equal(reply_client(&w, &client), 0);
	assert_int_equal(reply_client(&w, &client), ERR_FULL);
	n = reply_end(&w, S("x"));
	assert_int_equal(reply_decode(&r, buf, (size_t)n), 0);
	assert_int_equal(reply_next(&r, &row), 1);
	assert_int_equal(row.client.nsubs, QUERY_SUBS_MAX);
	assert_in_range(row.client.subs_told, 20, 60);
	assert_int_equal(reply_next(&r, &row), 0);
}

static void
an_error_page_says_why(void **state UNUSED)
{
	struct reply r;
	uint8_t	     buf[64];
	long	     n = reply_error(buf, sizeof(buf), 5, 64, "no such thing");

	assert_int_equal(reply_decode(&r, buf, (size_t)n), 0);
	assert_int_equal(r.status, 64);
	assert_text(r.error, "no such thing");
	assert_int_equal(reply_error(buf, 8, 5, 64, "no such thing"), ERR_FULL);
}

/* --- From one process to its successor --------------------------------- */

static size_t
record(uint8_t *buf, size_t size, enum handover_kind kind, const void *row)
{
	struct wire_out w;

	wire_out_init(&w, buf + HANDOVER_FRAME, size - HANDOVER_FRAME);
	handover_put(&w, kind, row);
	assert_false(w.full);
	put_le32(buf, (uint32_t)wire_out_len(&w));
	put_le16(buf + 4, (uint16_t)kind);
	return HANDOVER_FRAME + wire_out_len(&w);
}

static void
a_client_is_told_to_a_successor(void **state UNUSED)
{
	struct handover_client	c = {
		.client_id = S("me"), .has_id = true, .stash = S("\x30"),
		.state = 1, .version = 5, .flags = HANDOVER_DEAF,
		.heard_ms = 12345, .keepalive_s = 60, .bytes_in = UINT64_MAX,
		.parked_qos = 2, .receive_maximum = 65535,
	};
	union handover_row	row;
	struct slice		body;
	uint8_t			buf[600];
	unsigned		kind;
	size_t			n, need, i;

	n = record(buf, sizeof(buf), HANDOVER_CLIENT, &c);
	for (i = 0; i < n; i++) {
		assert_int_equal(handover_next(buf, i, &kind, &body, &need),
		    0);
		assert_int_equal(need, i < HANDOVER_FRAME ? HANDOVER_FRAME :
		    n);
	}
	assert_int_equal(handover_next(buf, n, &kind, &body, &need), 1);
	assert_int_equal(kind, HANDOVER_CLIENT);
	assert_int_equal(handover_get(&row, kind, body.data, body.len), 0);
	assert_text(row.client.client_id, "me");
	assert_int_equal(row.client.username.len, 0);
	assert_int_equal(row.client.bytes_in, UINT64_MAX);
	assert_int_equal(row.client.receive_maximum, 65535);
	assert_int_equal(row.client.flags, HANDOVER_DEAF);
	assert_int_equal(row.client.heard_ms, 12345);
	/* Cut anywhere it is damaged or another, never read beyond. */
	for (i = 0; i < body.len; i++)
		(void)handover_get(&row, kind, body.data, i);
	assert_int_equal(handover_get(&row, 31, body.data, 0), ERR_PROTO);
	assert_int_equal(handover_get(&row, 0, body.data, 0), ERR_PROTO);
	put_le32(buf, HANDOVER_BODY_MAX + 1);
	assert_int_equal(handover_next(buf, n, &kind, &body, &need),
	    ERR_PROTO);
}

static int
judged(enum handover_kind kind, const void *row)
{
	union handover_row	out;
	uint8_t			buf[600];
	size_t			n = record(buf, sizeof(buf), kind, row);

	return handover_get(&out, kind, buf + HANDOVER_FRAME,
	    n - HANDOVER_FRAME);
}

static void
what_no_client_can_be_is_refused(void **state UNUSED)
{
	struct handover_client	c = { .has_id = true, .state = 1 };
	struct handover_queued	q = { .message = 1, .ids = S("12345") };
	struct handover_answer	a = { .id = 65535, .waits = S("123456789012") };
	struct handover_window	w = { .next = 1, .max = 1, .cells = S("abc") };
	struct handover_out	o = { .begin = 2, .end = 2 };
	struct handover_ask	k = { .filter = S("a/#"), .flags = 2 };
	struct handover_live	v = { .ids = S("12345678901234567890") };

	assert_int_equal(judged(HANDOVER_CLIENT, &c), 0);
	c.has_id = false;		/* connected, but by no name */
	assert_int_equal(judged(HANDOVER_CLIENT, &c), ERR_PROTO);
	c.state = 0;
	assert_int_equal(judged(HANDOVER_CLIENT, &c), 0);
	c.state = 3;
	assert_int_equal(judged(HANDOVER_CLIENT, &c), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_QUEUED, &q), ERR_PROTO);
	q.ids.len = 4;
	assert_int_equal(judged(HANDOVER_QUEUED, &q), 0);
	assert_int_equal(judged(HANDOVER_ANSWER, &a), 0);
	a.id = 0;
	assert_int_equal(judged(HANDOVER_ANSWER, &a), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_WINDOW, &w), 0);
	w.cells.len = 2;
	assert_int_equal(judged(HANDOVER_WINDOW, &w), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_ASK, &k), 0);
	k.flags = 256;
	assert_int_equal(judged(HANDOVER_ASK, &k), ERR_PROTO);
	k.flags = 2;
	k.filter.len = 0;
	assert_int_equal(judged(HANDOVER_ASK, &k), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_LIVE, &v), 0);
	v.ids.len--;
	assert_int_equal(judged(HANDOVER_LIVE, &v), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_OUT, &o), 0);
	o.begin = 3;
	assert_int_equal(judged(HANDOVER_OUT, &o), ERR_PROTO);
}

static void
what_no_group_can_be_is_refused(void **state UNUSED)
{
	struct handover_sub	s = { .text = S("t"), .share = S("g"),
	    .shared = true, .place = 3 };
	struct handover_kept	k = { .message = 1, .id = 1,
	    .group = S("0123456789abcdef") };
	struct handover_queued	q = { .message = 1,
	    .group = S("0123456789abcdef") };
	struct handover_share	st = { .group = S("0123456789abcdef"),
	    .cursor = 4, .sticky = 2 };
	union handover_row	row;
	uint8_t			buf[600];
	size_t			n;

	assert_int_equal(judged(HANDOVER_SUB, &s), 0);
	s.share.len = 0;
	assert_int_equal(judged(HANDOVER_SUB, &s), ERR_PROTO);
	s.shared = false;
	assert_int_equal(judged(HANDOVER_SUB, &s), 0);
	s.share.len = 1;
	assert_int_equal(judged(HANDOVER_SUB, &s), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_KEPT, &k), 0);
	k.group.len = 15;
	assert_int_equal(judged(HANDOVER_KEPT, &k), ERR_PROTO);
	assert_int_equal(judged(HANDOVER_QUEUED, &q), 0);
	q.group.len = 1;
	assert_int_equal(judged(HANDOVER_QUEUED, &q), ERR_PROTO);
	n = record(buf, sizeof(buf), HANDOVER_SHARE, &st);
	assert_int_equal(handover_get(&row, HANDOVER_SHARE, buf +
	    HANDOVER_FRAME, n - HANDOVER_FRAME), 0);
	assert_int_equal(row.share.cursor, 4);
	assert_int_equal(row.share.sticky, 2);
	st.group.len = 0;
	assert_int_equal(judged(HANDOVER_SHARE, &st), ERR_PROTO);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes_are_read_in_the_order_written),
		cmocka_unit_test(a_row_that_does_not_fit_changes_nothing),
		cmocka_unit_test(the_longest_row_fits_the_least_buffer),
		cmocka_unit_test(nanopb_reads_what_is_written),
		cmocka_unit_test(what_nanopb_writes_is_read),
		cmocka_unit_test(unknown_fields_are_skipped),
		cmocka_unit_test(attaches_are_walked),
		cmocka_unit_test(a_page_of_every_kind_of_row),
		cmocka_unit_test(a_full_page_still_has_room_for_its_cursor),
		cmocka_unit_test(a_client_too_large_for_a_page_is_told_in_part),
		cmocka_unit_test(an_error_page_says_why),
		cmocka_unit_test(a_client_is_told_to_a_successor),
		cmocka_unit_test(what_no_client_can_be_is_refused),
		cmocka_unit_test(what_no_group_can_be_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

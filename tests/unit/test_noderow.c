#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "proto/noderow.h"
#include "topic/group.h"

#define S(s)	((struct slice){ (const uint8_t *)(s), sizeof(s) - 1 })

static uint8_t	key[NODEROW_KEY_MAX], value[NODEROW_VALUE_MAX];
static size_t	klen, vlen;

static int
decode(struct noderow *r, bool deleted)
{
	return noderow_decode(r, (struct slice){ key, klen },
	    (struct slice){ deleted ? NULL : value, deleted ? 0 : vlen },
	    deleted);
}

static void
rows_come_out_as_they_went_in(void **state UNUSED)
{
	struct noderow	rows[] = {
		{ .kind = NODEROW_FILTER, .class = NODEROW_DURABLE,
		    .filter = S("a/+/#") },
		{ .kind = NODEROW_GROUP, .class = NODEROW_LIVE,
		    .filter = S("a"), .group = S("Lg"), .members = 0x20004 },
		{ .kind = NODEROW_NAME, .name = S("a1@b") },
		{ .kind = NODEROW_PORTS, .ports = { 0, 5370, 0, 65535 } },
		{ .kind = NODEROW_PORTS },
	}, got;
	size_t		i;

	for (i = 0; i < NELEM(rows); i++) {
		assert_int_equal(noderow_encode(&rows[i], key, &klen, value,
		    &vlen), 0);
		assert_int_equal(decode(&got, false), 0);
		assert_int_equal(got.kind, rows[i].kind);
		assert_int_equal(got.class, rows[i].class);
		assert_int_equal(got.members, rows[i].members);
		assert_int_equal(got.filter.len, rows[i].filter.len);
		if (got.filter.len > 0)
			assert_memory_equal(got.filter.data,
			    rows[i].filter.data, got.filter.len);
		assert_int_equal(got.group.len, rows[i].group.len);
		assert_int_equal(got.name.len, rows[i].name.len);
		assert_memory_equal(got.ports, rows[i].ports,
		    sizeof(got.ports));
		/* One that went is known by its key. */
		assert_int_equal(decode(&got, true), 0);
		assert_int_equal(got.kind, rows[i].kind);
		assert_int_equal(got.members, 0);
		assert_int_equal(got.name.len, 0);
	}
}

static void
what_is_no_row_is_refused(void **state UNUSED)
{
	static const struct slice bad[] = { { (const uint8_t *)"", 0 },
	    { (const uint8_t *)"L", 1 }, { (const uint8_t *)"X/a", 3 },
	    { (const uint8_t *)"G", 1 }, { (const uint8_t *)"GL\1\0", 4 },
	    { (const uint8_t *)"GL\1\0g", 5 },		/* no filter */
	    { (const uint8_t *)"GL\0\0gf", 6 },		/* no group */
	    { (const uint8_t *)"GX\1\0gf", 6 },
	    { (const uint8_t *)"GL\377\377gf", 6 }, { (const uint8_t *)"NX", 2 } };
	struct slice	 members = S("\1\0\0\0");
	struct noderow	 r;
	size_t		 i;

	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(noderow_decode(&r, bad[i], members, false),
		    ERR_PROTO);
	/* A later version may have more links. */
	memset(value, 1, sizeof(value));
	assert_int_equal(noderow_decode(&r, S("P"), (struct slice){ value,
	    2 * NODE_LINKS_MAX + 1 }, false), 0);
	assert_int_equal(r.ports[NODE_LINKS_MAX - 1], 0x101);
	/* A value may be longer, not shorter. */
	assert_int_equal(noderow_decode(&r, S("GL\1\0gf"), S("\1\0\0\0new"),
	    false), 0);
	assert_int_equal(noderow_decode(&r, S("GL\1\0gf"), S("\1\0\0"),
	    false), ERR_PROTO);
	r = (struct noderow){ .kind = NODEROW_FILTER };
	assert_int_equal(noderow_encode(&r, key, &klen, value, &vlen),
	    ERR_INVAL);
	r = (struct noderow){ .kind = NODEROW_GROUP, .filter = S("a") };
	assert_int_equal(noderow_encode(&r, key, &klen, value, &vlen),
	    ERR_INVAL);
}

/* Whoever may be picked may be picked after rounding, too, and nobody else. */
static void
rounding_makes_nobody_vanish(void **state UNUSED)
{
	uint64_t first, second;
	uint32_t c;
	unsigned qos, away;

	for (first = 0; first < 40; first++)
		for (second = 0; second <= first; second++)
			for (qos = 0; qos < 2; qos++) {
				c = noderow_members(NODEROW_LIVE, first,
				    second);
				assert_int_equal(group_weight(c, false, qos,
				    false) > 0, group_weight(group_count(first,
				    second), false, qos, false) > 0);
				for (away = 0; away < 2; away++)
					assert_int_equal(group_weight(
					    noderow_members(NODEROW_DURABLE,
					    first, second), true, qos,
					    away) > 0, group_weight(
					    group_count(first, second), true,
					    qos, away) > 0);
			}
	assert_int_equal(noderow_members(NODEROW_DURABLE, 5, 3),
	    group_count(4, 2));
	assert_int_equal(noderow_members(NODEROW_LIVE, 5, 4),
	    group_count(5, 4));
	assert_int_equal(noderow_members(NODEROW_LIVE, 1000000, 1000000) >> 16,
	    1 << 15);
	assert_int_equal(noderow_members(NODEROW_DURABLE, 70000, 32768),
	    group_count(32768, 32768));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_come_out_as_they_went_in),
		cmocka_unit_test(what_is_no_row_is_refused),
		cmocka_unit_test(rounding_makes_nobody_vanish),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

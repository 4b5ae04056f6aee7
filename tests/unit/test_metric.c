/* metric: values move into a segment that strangers can read safely. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "metric/metric.h"

static struct metric m_got = METRIC_COUNTER("test_got_total", "Things got");
static struct metric m_now = METRIC_GAUGE("test_now", "Things now");
static struct metric m_late = METRIC_COUNTER("test_late_total", "Came late");
static struct metric *rows[] = { &m_got, &m_now };
static struct metric *late[] = { &m_late };

struct seen {
	int		 n;
	uint64_t	 got, now;
	char		 help[64];
};

static void
see(void *ctx, const char *name, const char *help, enum metric_kind kind,
    uint64_t value)
{
	struct seen	*s = ctx;

	s->n++;
	if (strcmp(name, "test_got_total") == 0) {
		assert_int_equal(kind, METRIC_KIND_COUNTER);
		s->got = value;
		snprintf(s->help, sizeof(s->help), "%s", help);
	} else if (strcmp(name, "test_now") == 0) {
		assert_int_equal(kind, METRIC_KIND_GAUGE);
		s->now = value;
	}
}

static void
touch(void *ctx, const char *name, const char *help,
    enum metric_kind kind UNUSED, uint64_t value UNUSED)
{
	*(size_t *)ctx += strlen(name) + strlen(help);
}

static void *
segment(size_t len)
{
	void	*mem = aligned_alloc(4096, len);

	assert_non_null(mem);
	memset(mem, 0, len);
	return mem;
}

static void
rows_count_before_they_are_attached(void **state UNUSED)
{
	metric_inc(&m_got);
	metric_add(&m_got, 4);
	metric_set(&m_now, 9);
	assert_int_equal(metric_get(&m_got), 5);
	assert_int_equal(metric_get(&m_now), 9);
}

static void
attaching_moves_the_values_and_describes_them(void **state UNUSED)
{
	size_t		 len = metric_segment_size();
	void		*mem = segment(len);
	struct seen	 s = { 0 };
	char		 name[64];
	uint64_t	 before = metric_get(&m_got);

	assert_int_equal(len % 4096, 0);
	assert_int_equal(metric_attach(mem, 64, "x"), ERR_INVAL);
	assert_int_equal(metric_attach(mem, len, "listener.0"), 0);
	metric_inc(&m_got);
	metric_set(&m_now, 3);
	assert_int_equal(metric_read(mem, len, see, &s), 0);
	assert_int_equal(s.n, 2);
	assert_int_equal(s.got, before + 1);
	assert_int_equal(s.now, 3);
	assert_string_equal(s.help, "Things got");
	assert_int_equal(metric_segment_process(mem, len, name, sizeof(name)),
	    0);
	assert_string_equal(name, "listener.0");
	metric_detach();
	assert_int_equal(metric_get(&m_got), before + 1);
	free(mem);
}

static void
rows_registered_later_stay_private(void **state UNUSED)
{
	size_t		 len = metric_segment_size();
	void		*mem = segment(len);
	struct seen	 s = { 0 };

	assert_int_equal(metric_attach(mem, len, "p"), 0);
	metric_register(late, NELEM(late));
	metric_inc(&m_late);
	assert_int_equal(metric_read(mem, len, see, &s), 0);
	assert_int_equal(s.n, 2);
	assert_int_equal(metric_get(&m_late), 1);
	metric_detach();
	free(mem);
}

static void
what_is_no_segment_is_refused(void **state UNUSED)
{
	size_t		 len = metric_segment_size();
	void		*mem = segment(len);
	struct seen	 s = { 0 };
	char		 name[64];

	assert_int_equal(metric_read(mem, len, see, &s), ERR_CORRUPT);
	assert_int_equal(metric_read(mem, 8, see, &s), ERR_CORRUPT);
	assert_int_equal(metric_segment_process(mem, len, name, sizeof(name)),
	    ERR_CORRUPT);
	free(mem);
}

/* Any 32-bit word of the description changed: never a read outside. */
static void
damage_is_refused_or_harmless(void **state UNUSED)
{
	static const uint32_t	 bad[] = { 0, 1, 0x7fffffff, 0xffffffff,
					   0xfffffff8, 4096, 64 };
	size_t			 len = metric_segment_size(), at, i;
	uint8_t			*mem = segment(len), *copy = segment(len);
	size_t			 bytes = 0;
	int			 rc;

	assert_int_equal(metric_attach(mem, len, "p"), 0);
	for (at = 4; at < 256; at += 4) {
		for (i = 0; i < NELEM(bad); i++) {
			memcpy(copy, mem, len);
			put_le32(copy + at, bad[i]);
			rc = metric_read(copy, len, touch, &bytes);
			assert_true(rc == 0 || rc == ERR_CORRUPT);
		}
	}
	metric_detach();
	free(mem);
	free(copy);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_count_before_they_are_attached),
		cmocka_unit_test(attaching_moves_the_values_and_describes_them),
		cmocka_unit_test(rows_registered_later_stay_private),
		cmocka_unit_test(what_is_no_segment_is_refused),
		cmocka_unit_test(damage_is_refused_or_harmless),
	};

	metric_register(rows, NELEM(rows));
	return cmocka_run_group_tests_name("metric", tests, NULL, NULL);
}

/* report: one row, for people and for programs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "report/report.h"

static const struct report_col cols[] = {
	{ "name", 6, 0 },
	{ "n", 4, REPORT_RIGHT },
	{ "hidden", 0, REPORT_JSON_ONLY },
	{ "up", 3, 0 },
	{ "last", 0, 0 },
};

static void
row(struct report *r, const char *name, uint64_t n, const char *last)
{
	report_str(r, name);
	report_u64(r, n);
	report_double(r, 0.5);
	report_bool(r, true);
	if (last != NULL)
		report_str(r, last);
	else
		report_none(r);
	assert_int_equal(report_end(r), 0);
}

static char *
printed(bool json)
{
	struct report	r;
	char		*text = NULL;
	size_t		 len;
	FILE		*f = open_memstream(&text, &len);

	assert_non_null(f);
	report_init(&r, f, json, cols, NELEM(cols));
	row(&r, "a", 7, NULL);
	row(&r, "\x1b[2J", UINT32_MAX, "b\xff\xc3\xa9");
	fclose(f);
	return text;
}

static void
json_is_one_object_a_line(void **state UNUSED)
{
	char	*s = printed(true);

	assert_string_equal(s,
	    "{\"name\":\"a\",\"n\":7,\"hidden\":0.5,\"up\":true,"
	    "\"last\":null}\n"
	    "{\"name\":\"\\u001B[2J\",\"n\":4294967295,\"hidden\":0.5,"
	    "\"up\":true,\"last\":\"b\xef\xbf\xbd\xc3\xa9\"}\n");
	free(s);
}

static void
a_table_is_aligned_and_harmless_to_a_terminal(void **state UNUSED)
{
	char	*s = printed(false);

	assert_memory_equal(s, "NAME       N  UP   LAST\n"
	    "a          7  yes  -\n", 45);
	assert_null(strchr(s, 0x1b));
	free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_is_one_object_a_line),
		cmocka_unit_test(
		    a_table_is_aligned_and_harmless_to_a_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

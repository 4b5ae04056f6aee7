/*
 * fuzz_topic: two strings, the first byte saying how long the first is, as
 * filter and name: checked, taken apart, and matched beside a second matcher.
 */
#include <stdlib.h>

#include "../support/topic_naive.h"
#include "base/utf8.h"
#include "topic/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool ok)
{
	if (!ok)
		abort();
}

static void
check_shape(const uint8_t *f, size_t len)
{
	struct topic_shape s;
	struct slice	level;
	size_t		at = 0;
	unsigned	n = 0;

	topic_shape(f, len, &s);
	require(s.exact == !topic_has_wildcard(f, len));
	require(s.anchor_levels + s.levels + s.hash == topic_levels(f, len));
	require(topic_shape_offset(&s) <= len);
	require(!topic_has_wildcard(f, s.anchor_len));
	while (topic_level_next(f, len, &at, &level)) {
		require(level.data >= f && level.data + level.len <= f + len);
		n++;
	}
	require(n == topic_levels(f, len));
}

static void
check_sub(const uint8_t *f, size_t len)
{
	struct topic_sub s;

	if (topic_sub_parse(f, len, 0, &s) != 0)
		return;
	require(utf8_check(f, len) == 0);
	require(topic_filter_check(s.filter.data, s.filter.len, 0) == 0);
	require(s.shared == (s.group.len > 0));
	require(s.filter.data + s.filter.len == f + len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	*f, *t;
	size_t	 flen, tlen;
	bool	 ok;

	if (size == 0)
		return 0;
	flen = MIN(data[0], size - 1);
	tlen = size - 1 - flen;
	if ((f = calloc(1, flen + 1)) == NULL ||
	    (t = calloc(1, tlen + 1)) == NULL)
		abort();
	memcpy(f, data + 1, flen);
	memcpy(t, data + 1 + flen, tlen);
	check_sub(data + 1, flen);
	ok = topic_filter_check(data + 1, flen, 0) == 0;
	if (ok)
		check_shape(data + 1, flen);
	if (topic_name_check(data + 1 + flen, tlen, 0) == 0) {
		require(topic_filter_check(data + 1 + flen, tlen, 0) == 0);
		require(topic_matches(t, tlen, t, tlen));
		if (ok)
			require(topic_matches(f, flen, t, tlen) ==
			    naive_matches(f, t, true));
	}
	free(f);
	free(t);
	return 0;
}

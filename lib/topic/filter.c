#include "topic/filter.h"

#include <string.h>

#include "base/err.h"
#include "base/utf8.h"

#define ONES	0x0101010101010101u
#define TOPS	(ONES << 7)

/* Keeps what is rare from costing registers where it is not called. */
#define NOINLINE __attribute__((noinline))

/* Non-zero if one of the eight bytes is not ASCII, or NUL, '+' or '#'. */
static inline uint64_t
odd8(uint64_t w)
{
	/* '#' and '+' are one bit apart: both are '+' with that bit set. */
	uint64_t v = (w | ONES * ('#' ^ '+')) ^ ONES * '+';

	/* Of ASCII, only a zero has its top bit set by taking one away (and
	 * lends from its neighbour, which no longer matters). */
	return (w | (w - ONES) | (v - ONES)) & TOPS;
}

static inline uint64_t
load8(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, 8);
	return w;
}

static inline uint64_t
load4(const uint8_t *p)
{
	uint32_t w;

	memcpy(&w, p, 4);
	return w;
}

/*
 * Is there nothing in these bytes (at least one) to look closer at? The last
 * word overlaps the one before, so that nothing is read beside the topic.
 */
static inline bool
is_plain(const uint8_t *p, size_t len)
{
	uint64_t	odd = 0;
	size_t		i;

	if (len >= 8) {
		for (i = 0; i + 8 < len; i += 8)
			odd |= odd8(load8(p + i));
		return (odd | odd8(load8(p + len - 8))) == 0;
	}
	if (len >= 4)
		return odd8(load4(p) | load4(p + len - 4) << 32) == 0;
	return odd8(p[0] | (uint64_t)p[len / 2] << 8 |
	    (uint64_t)p[len - 1] << 16 | ONES * 'a' << 24) == 0;
}

unsigned
topic_levels(const void *s, size_t len)
{
	const uint8_t	*p = s;
	unsigned	 n = 1;
	size_t		 i;

	for (i = 0; i < len; i++)
		n += p[i] == '/';
	return n;
}

/* A name of len bytes has at most len + 1 levels: most need no counting. */
static inline int
check_levels(const void *s, size_t len, unsigned max_levels)
{
	if (LIKELY(len < max_levels || max_levels == 0))
		return 0;
	return topic_levels(s, len) > max_levels ? ERR_FULL : 0;
}

bool
topic_has_wildcard(const void *filter, size_t len)
{
	return memchr(filter, '+', len) != NULL ||
	    memchr(filter, '#', len) != NULL;
}

/* The checks common to names and filters that are not plain. */
static int
check_string(const void *s, size_t len)
{
	if (len > TOPIC_MAX)
		return ERR_PROTO;
	if (len == 0)
		return ERR_INVAL;
	return utf8_check(s, len);
}

static NOINLINE int
name_check_odd(const void *s, size_t len, unsigned max_levels)
{
	int	rc;

	if ((rc = check_string(s, len)) < 0)
		return rc;
	if (topic_has_wildcard(s, len))
		return ERR_INVAL;
	return check_levels(s, len, max_levels);
}

int
topic_name_check(const void *s, size_t len, unsigned max_levels)
{
	if (UNLIKELY(len - 1 >= TOPIC_MAX || !is_plain(s, len)))
		return name_check_odd(s, len, max_levels);
	return check_levels(s, len, max_levels);
}

/* Every wildcard where it may be? */
static bool
wildcards_in_place(const uint8_t *p, size_t len)
{
	size_t	i;

	for (i = 0; i < len; i++) {
		if (p[i] != '+' && p[i] != '#')
			continue;
		if (i > 0 && p[i - 1] != '/')
			return false;
		if (i + 1 < len && (p[i] == '#' || p[i + 1] != '/'))
			return false;
	}
	return true;
}

static NOINLINE int
filter_check_odd(const void *s, size_t len, unsigned max_levels)
{
	int	rc;

	if ((rc = check_string(s, len)) < 0)
		return rc;
	if (!wildcards_in_place(s, len))
		return ERR_INVAL;
	return check_levels(s, len, max_levels);
}

int
topic_filter_check(const void *s, size_t len, unsigned max_levels)
{
	if (len - 1 >= TOPIC_MAX || !is_plain(s, len))
		return filter_check_odd(s, len, max_levels);
	return check_levels(s, len, max_levels);
}

int
topic_sub_parse(const void *s, size_t len, unsigned max_levels,
    struct topic_sub *out)
{
	const uint8_t	*p = s, *slash;
	struct topic_sub sub = { .shared = true };
	int		 rc;

	if (len > TOPIC_MAX)
		return ERR_PROTO;
	if (len >= 7 && memcmp(p, "$share/", 7) == 0) {
		/* 4.8.2: the whole string first, so that what is malformed
		 * is told from what is merely not a filter. */
		if (utf8_check(p, len) < 0)
			return ERR_PROTO;
		sub.group.data = p + 7;
		if ((slash = memchr(p + 7, '/', len - 7)) == NULL)
			return ERR_INVAL;
		sub.group.len = (size_t)(slash - sub.group.data);
		if (sub.group.len == 0 ||
		    topic_has_wildcard(sub.group.data, sub.group.len))
			return ERR_INVAL;
		sub.filter.data = slash + 1;
		sub.filter.len = len - 8 - sub.group.len;
	} else if (len >= 7 && memcmp(p, "$queue/", 7) == 0) {
		sub.group.data = p;
		sub.group.len = 6;
		sub.filter.data = p + 7;
		sub.filter.len = len - 7;
	} else {
		sub.shared = false;
		sub.filter.data = p;
		sub.filter.len = len;
	}
	rc = topic_filter_check(sub.filter.data, sub.filter.len, max_levels);
	if (rc < 0)
		return rc;
	*out = sub;
	return 0;
}

bool
topic_matches(const void *filter, size_t flen, const void *topic, size_t tlen)
{
	const uint8_t	*f = filter, *fend = f + flen;
	const uint8_t	*t = topic, *tend = t + tlen;

	if (tlen > 0 && *t == '$' && flen > 0 && (*f == '+' || *f == '#'))
		return false;
	for (;;) {
		/* Both stand at the beginning of a level. */
		if (f < fend && *f == '#')
			return true;
		if (f < fend && *f == '+') {
			f++;
			while (t < tend && *t != '/')
				t++;
		} else {
			while (f < fend && t < tend && *f == *t && *f != '/') {
				f++;
				t++;
			}
		}
		/* Both stand at the end of a level, or do not match. */
		if (f == fend)
			return t == tend;
		if (*f != '/')
			return false;
		f++;
		if (t == tend)
			return fend - f == 1 && *f == '#';
		if (*t != '/')
			return false;
		t++;
	}
}

bool
topic_level_next(const void *s, size_t len, size_t *at, struct slice *level)
{
	const uint8_t	*p = s, *slash;

	if (*at > len)
		return false;
	level->data = p + *at;
	slash = memchr(level->data, '/', len - *at);
	level->len = slash != NULL ? (size_t)(slash - level->data) : len - *at;
	*at += level->len + 1;
	return true;
}

static bool
is_level(const struct slice *level, uint8_t c)
{
	return level->len == 1 && level->data[0] == c;
}

void
topic_shape(const void *filter, size_t len, struct topic_shape *out)
{
	struct topic_shape shape = { .exact = true };
	struct slice	 level;
	size_t		 at = 0, end = 0;

	while (topic_level_next(filter, len, &at, &level)) {
		if (is_level(&level, '#')) {
			shape.hash = true;
			shape.exact = false;
			break;
		}
		if (is_level(&level, '+')) {
			shape.exact = false;
			if (shape.levels < 64)
				shape.plus |= (uint64_t)1 << shape.levels;
		}
		if (shape.exact) {
			end = at - 1;
			shape.anchor_levels++;
		} else {
			shape.levels++;
		}
	}
	shape.anchor_len = (uint32_t)end;
	*out = shape;
}

/*
 * filter.h: topic names and topic filters: what is well formed, what matches
 * what, and how a filter falls into an anchor and a shape.
 * Spec: MQTT 5.0 sections 4.7 and 4.8 (3.1.1: 4.7).
 *
 * Topics are bytes with a length; nothing here allocates or keeps a pointer.
 * A topic of n slashes has n + 1 levels, any of which may be empty.
 */
#ifndef TOPIC_FILTER_H
#define TOPIC_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

#define TOPIC_MAX	65535	/* bytes in a name or a filter [MQTT-4.7.3-3] */

/*
 * Is this a topic name one may publish to? Returns 0, or
 *   ERR_PROTO	not a string of MQTT at all (malformed UTF-8, U+0000, longer
 *		than TOPIC_MAX): the packet is malformed
 *   ERR_INVAL	a string, but empty [MQTT-4.7.3-1] or with a wildcard in it
 *		[MQTT-3.3.2-2]
 *   ERR_FULL	more than max_levels levels (0: no bound)
 */
int topic_name_check(const void *s, size_t len, unsigned max_levels);

/*
 * Is this a bare topic filter ($share and $queue are ordinary levels here)?
 * Returns as topic_name_check does; ERR_INVAL means empty or a wildcard out of
 * its place: '#' not alone in the last level [MQTT-4.7.1-1], '+' not alone in
 * its level [MQTT-4.7.1-2].
 */
int topic_filter_check(const void *s, size_t len, unsigned max_levels);

/* What SUBSCRIBE and UNSUBSCRIBE name: a filter, perhaps in a share group. */
struct topic_sub {
	struct slice	filter;		/* bare: what topics are matched with */
	struct slice	group;		/* share name; empty unless shared */
	bool		shared;		/* $share/group/filter or $queue/filter */
};

/*
 * Check and take apart `filter`, `$share/group/filter` or `$queue/filter`
 * (whose group is "$queue"; the same group as `$share/$queue/filter`). The
 * slices point into s. Returns as topic_filter_check does; ERR_INVAL also for
 * an empty share name or one with '+' or '#' in it [MQTT-4.8.2-1] [-2], and
 * for `$share/g`, `$share/g/` and `$queue/`, which have no filter. `$share` and
 * `$queue` alone are ordinary filters. max_levels counts the bare filter. *out
 * is untouched on failure.
 */
int topic_sub_parse(const void *s, size_t len, unsigned max_levels,
    struct topic_sub *out);

/*
 * Does the bare filter match the topic name? Both must have passed their
 * checks. `a/#` matches `a` [4.7.1.2]; a wildcard in the first level does not
 * match a name that begins with '$' [MQTT-4.7.2-1].
 */
bool topic_matches(const void *filter, size_t flen, const void *topic,
    size_t tlen);

/* Has this (checked) filter a wildcard? */
bool topic_has_wildcard(const void *filter, size_t len);

/* Levels of a name or filter, '#' counted as one: slashes plus one. */
unsigned topic_levels(const void *s, size_t len);

/*
 * A filter cut before the first level that is a wildcard: the literal levels
 * are the anchor, the rest is the shape.
 *
 *   filter	anchor (bytes, levels)	levels	plus	hash
 *   a/b	"a/b"	3, 2		0	0	no	(exact)
 *   a/+/c/+	"a"	1, 1		3	0b101	no
 *   a/+/#	"a"	1, 1		1	0b1	yes
 *   a/#	"a"	1, 1		0	0	yes
 *   #		""	0, 0		0	0	yes
 *   /+		""	0, 1		1	0b1	no
 *
 * The levels of the shape begin at filter + topic_shape_offset().
 */
struct topic_shape {
	uint64_t	plus;		/* bit i: level i after the anchor is '+';
					   levels from 64 on have no bit */
	uint32_t	anchor_len;	/* bytes, without the slash after it */
	uint32_t	anchor_levels;	/* 0: the first level is a wildcard */
	uint32_t	levels;		/* after the anchor, a last '#' not counted */
	bool		hash;		/* ends in '#' */
	bool		exact;		/* no wildcard: the anchor is everything */
};

/* Describe a checked filter. */
void topic_shape(const void *filter, size_t len, struct topic_shape *out);

/* Where in the filter the levels after the anchor begin. */
static inline size_t
topic_shape_offset(const struct topic_shape *s)
{
	return s->anchor_len + (s->anchor_levels > 0 && !s->exact);
}

/*
 * Walk the levels of a name or filter: start with *at = 0; each call gives the
 * next level (perhaps empty), false when there are no more.
 */
bool topic_level_next(const void *s, size_t len, size_t *at,
    struct slice *level);

#endif

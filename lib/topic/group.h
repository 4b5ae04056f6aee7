/*
 * group.h: what processes say to each other of a group of shared subscriptions:
 * how many members they have, and which group it is, by the hash of its share
 * name and filter. Not keyed, and the same for ever, for
 * other nodes and logs name it too. Spec: MQTT 5.0 section 4.8.2.
 */
#ifndef TOPIC_GROUP_H
#define TOPIC_GROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

struct group_id {
	uint64_t	hi, lo;		/* XXH3-128 of "name/filter" */
};

struct group_id group_id_of(const void *name, size_t name_len,
    const void *filter, size_t len);

static inline bool
group_id_eq(struct group_id a, struct group_id b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

/*
 * What a process says of its members of a group, in one number. QoS 1 and 2 for
 * a session that is stored are given to it by its store, all else by the
 * listener that has its client. So a listener counts all its members, and of
 * them those a store sees to; a store counts its members that are connected,
 * and those that are away. Neither counts beyond 65535.
 */
static inline uint32_t
group_count(size_t first, size_t second)
{
	return (uint32_t)MIN(first, (size_t)UINT16_MAX) |
	    (uint32_t)MIN(second, (size_t)UINT16_MAX) << 16;
}

/* Of two that say something of the same process. */
static inline uint32_t
group_count_max(uint32_t a, uint32_t b)
{
	return group_count(MAX(a & UINT16_MAX, b & UINT16_MAX),
	    MAX(a >> 16, b >> 16));
}

/* How many members that are. */
static inline uint32_t
group_count_all(uint32_t count, bool is_store)
{
	return (count & UINT16_MAX) + (is_store ? count >> 16 : 0);
}

/* How many of them may be picked for a message of that QoS: of those that are
 * connected, or of those that are away. */
static inline uint32_t
group_weight(uint32_t count, bool is_store, unsigned qos, bool away)
{
	uint32_t first = count & UINT16_MAX, second = count >> 16;

	if (is_store)
		return qos == 0 ? 0 : away ? second : first;
	return away ? 0 : qos == 0 ? first : first - MIN(first, second);
}

#endif

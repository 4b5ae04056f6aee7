/*
 * group.h: what names a group of shared subscriptions between processes: the
 * hash of its share name and filter. Not keyed, and the same for ever, for
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

#endif

/*
 * pick.h: which member of a group of shared subscriptions gets a message, in
 * two steps: the process that has the message picks one that has members, even
 * over members and not over processes; that one picks the member. Pure: what
 * is random is an argument. Spec: MQTT 5.0 section 4.8.2.
 */
#ifndef SHARE_PICK_H
#define SHARE_PICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/htab.h"
#include "topic/group.h"

/* In the order of mqtt.shared_subscription_strategy in lib/conf/keys.c. */
enum share_strategy {
	SHARE_ROUND_ROBIN,	/* one after the other */
	SHARE_RANDOM,
	SHARE_STICKY,		/* the same one until it goes */
	SHARE_HASH_CLIENTID,	/* by the publisher's client identifier */
	SHARE_HASH_TOPIC,
	SHARE_LOCAL		/* members of the publisher's own process first */
};

/* A process that has members. */
struct share_slot {
	uint32_t	instance;
	uint32_t	members;	/* group_count() as it comes; to pick
					 * from, group_weight() */
};

/* What is remembered of a group where its messages come from. */
struct share_state {
	struct group_id	id;
	uint32_t	cursor;
	uint32_t	sticky;		/* instance + 1; 0: none yet */
};

/* The states of at most SHARE_STATES groups. What is forgotten beyond that
 * begins anew: no message is lost by it. */
enum { SHARE_STATES = 65536 };

struct share_table {
	struct htab	states;
	uint64_t	seed;
};

/* seed keys the hashes: random, so that nobody can aim at one cell by the names
 * of groups. */
void share_table_init(struct share_table *t, uint64_t seed);
void share_table_fini(struct share_table *t);

/* The hash of a group for tables by its id, keyed likewise. */
uint64_t share_hash(struct group_id id, uint64_t seed);

/* The state of a group, made when it is not there; its cursor then begins at
 * random. Valid until the next call. NULL if out of memory. */
struct share_state *share_state(struct share_table *t, struct group_id id,
    uint64_t random);

/* Walk the states; each() returns nonzero to stop, which is returned. */
int share_each(const struct share_table *t, int (*each)(void *ctx,
    const struct share_state *st), void *ctx);

/*
 * Which of n slots gets it: an index, or n if none has a member. The order of
 * the slots must be the same in every process, else the hashes mean nothing.
 * hash is that of what the strategy goes by. self is our own instance. st may
 * be NULL: then it is picked at random instead of by turn or habit.
 */
size_t share_pick_slot(enum share_strategy how, struct share_state *st,
    const struct share_slot *slots, size_t n, uint32_t self, uint64_t hash,
    uint64_t random);

/*
 * Which of n > 0 members is asked first. cursor is the group's, 0 at first; of
 * whoever got the message share_next_cursor makes the next.
 */
uint32_t share_pick_member(enum share_strategy how, uint32_t cursor, uint32_t n,
    uint64_t hash, uint64_t random);

static inline uint32_t
share_next_cursor(enum share_strategy how, uint32_t member)
{
	return how == SHARE_STICKY ? member : member + 1;
}

/* May another member have it when the one asked first has no room? */
static inline bool
share_may_pass_on(enum share_strategy how)
{
	return how == SHARE_ROUND_ROBIN || how == SHARE_RANDOM ||
	    how == SHARE_LOCAL;
}

#endif

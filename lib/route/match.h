/*
 * match.h: the forwarding index as a process reads it: the segments that the
 * supervisor hands on, the change from one generation to the next at the
 * beginning of a turn, and who of the node may want a topic.
 *
 * Answers are kept by topic, good as long as the version of the index stands:
 * publishers repeat themselves. What is on its way in one read is looked up
 * together (route_match_batch), which hides the latency of memory behind the
 * other topics.
 */
#ifndef ROUTE_MATCH_H
#define ROUTE_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <xxhash.h>
#include "base/util.h"
#include "bus/bus.h"
#include "fib/fib.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "share/pick.h"
#include "shm/segment.h"
#include "topic/group.h"

enum {
	ROUTE_LISTENERS_MAX = 1024,	/* of a node */
	ROUTE_STORES_MAX = 64,		/* shards of a node */
	ROUTE_FAR_MAX	= 2 * FIB_NODES,	/* routes_found.far */
	ROUTE_FAR_FROM	= ROUTE_LISTENERS_MAX + ROUTE_STORES_MAX,

	ROUTE_ANSWERS		= 1024,
	ROUTE_ANSWER_TOPIC	= 72,
	ROUTE_ANSWER_DESTS	= 8,
	ROUTE_ANSWER_GROUPS	= 16,
	ROUTE_ANSWER_SLOTS	= 64		/* of all groups together */
};

/* A group with members, ours included. Instances from ROUTE_LISTENERS_MAX on are
 * stores, also one that is away, for it keeps what it is given; from
 * ROUTE_FAR_FROM on other nodes: route_far() less that. */
struct routes_group {
	struct group_id	 id;
	struct share_slot *slots;	/* in the same order everywhere; as
					 * group_count() */
	uint32_t	 nslots;
};

/* Who else may want a topic; good until the next call. */
struct routes_found {
	uint32_t	*dests;		/* instances of listeners, ours not;
					 * ROUTE_LISTENERS_MAX fit */
	size_t		 ndests;
	uint64_t	 stores;	/* bit i: shard i, ours not; also one
					 * that is away, for it keeps what it
					 * subscribed to */
	uint16_t	*far;		/* NULL, or ROUTE_FAR_MAX fit: other
					 * nodes, by route_far() */
	size_t		 nfar;
	const struct routes_group *groups;
	size_t		 ngroups;
};

/*
 * Another node: its number in this generation of the index (fib_node_name) and
 * whether it is its durable sessions. Those of one out of reach are named, for
 * what is for them is kept; its live ones are not.
 */
static inline uint16_t
route_far(uint16_t node, bool durable)
{
	return (uint16_t)(node << 1 | durable);
}

struct fib_link {
	struct shm_segment	 data, epochs;
	struct fib_reader	*reader;
	uint64_t		 generation;
};

/* Groups of one answer and their slots, in one piece of memory. */
struct route_groups {
	struct routes_group	*groups;
	struct share_slot	*slots;
	size_t			 ngroups, nslots, cap_groups, cap_slots;
};

struct route_answer {
	uint64_t	version;
	uint64_t	generation;	/* 0: free */
	uint64_t	stores;
	struct routes_group *groups;	/* and the slots behind them, or NULL */
	uint16_t	ngroups;
	uint16_t	len;
	uint8_t		ndests, nfar;
	uint16_t	dests[ROUTE_ANSWER_DESTS];	/* ourselves not; then
							 * nfar others */
	char		topic[ROUTE_ANSWER_TOPIC];
};

struct route_fib {
	struct fib_link	*now;		/* what we match with, or NULL */
	struct fib_link	*next;		/* switched to at the next turn */
	uint64_t	 incarnation;	/* ours: we read under this name */
	enum fib_kind	 kind;		/* of what we are, */
	uint32_t	 self;		/* and which instance */
	uint64_t	 seed;		/* so that nobody can aim at one cell */
	uint32_t	 misses;	/* topics looked up one by one */
	struct metric	*m_evicted;	/* counts matches that were void */
	struct metric	*m_short;	/* counts what found no memory */
	struct route_groups found;	/* of the last match */
	struct route_answer answers[ROUTE_ANSWERS];
};

/* *rf is all zero. */
void route_fib_init(struct route_fib *rf, enum fib_kind kind, uint32_t self,
    uint64_t incarnation, uint64_t seed, struct metric *m_evicted,
    struct metric *m_short);
void route_fib_fini(struct route_fib *rf);

/* A segment, of any kind, as its handler gets it. */
void route_fib_segment(struct route_fib *rf, const struct proc_segment *s);

/* The beginning of a turn: true if we match with another generation from now
 * on, which is to be confirmed. */
bool route_fib_turn(struct route_fib *rf);

/* Tell the router (NULL: there is none) what we match with; also when it
 * welcomed us. */
void route_fib_confirm(const struct route_fib *rf, struct bus_peer *router);

static inline struct route_answer *
route_answer_cell(struct route_fib *rf, const void *topic, size_t len)
{
	return &rf->answers[XXH3_64bits_withSeed(topic, len, rf->seed) %
	    ROUTE_ANSWERS];
}

static inline bool
route_answer_fits(const struct route_fib *rf, const struct route_answer *a,
    const void *topic, size_t len, uint64_t version)
{
	return a->generation == rf->now->generation && a->version == version &&
	    a->len == len && memcmp(a->topic, topic, len) == 0;
}

/* Is the answer for this topic at hand? Not without an index. */
static inline bool
route_is_kept(struct route_fib *rf, const void *topic, size_t len,
    uint64_t version)
{
	return route_answer_fits(rf, route_answer_cell(rf, topic, len),
	    topic, len, version);
}

/* Look up n <= FIB_BATCH topics of at most ROUTE_ANSWER_TOPIC bytes together,
 * so that their answers are kept. Not without an index. */
void route_match_batch(struct route_fib *rf, const struct slice *topics,
    size_t n);

/* What route_match does when the answer is not at hand. */
void route_match_new(struct route_fib *rf, const char *topic, size_t len,
    struct routes_found *r);

/* How is that node of the present generation, as far as its live sessions are
 * concerned? Reads a whole table: not for each message. */
enum route_node { ROUTE_NODE_NONE, ROUTE_NODE_DOWN, ROUTE_NODE_UP };

enum route_node route_node_state(const struct route_fib *rf, unsigned node);

/* All other nodes of the present generation, those out of reach included, into
 * out (FIB_NODES fit): their numbers; returns how many. Likewise. */
size_t route_nodes(const struct route_fib *rf, uint16_t *out);

/*
 * Who else may want topic, and which groups. The caller gives r->dests, and
 * looks itself who of them runs. Without an index it is nobody.
 */
static inline void
route_match(struct route_fib *rf, const char *topic, size_t len,
    struct routes_found *r)
{
	const struct route_answer	*a;
	size_t			 i;

	r->ndests = r->ngroups = r->nfar = 0;
	r->stores = 0;
	r->groups = NULL;
	if (rf->now == NULL)
		return;
	if (len <= ROUTE_ANSWER_TOPIC) {
		a = route_answer_cell(rf, topic, len);
		if (LIKELY(route_answer_fits(rf, a, topic, len,
		    fib_reader_version(rf->now->reader)))) {
			for (i = 0; i < a->ndests; i++)
				r->dests[i] = a->dests[i];
			r->ndests = a->ndests;
			if (UNLIKELY(a->nfar > 0) && r->far != NULL) {
				memcpy(r->far, &a->dests[i],
				    a->nfar * sizeof(*r->far));
				r->nfar = a->nfar;
			}
			r->stores = a->stores;
			r->groups = a->groups;
			r->ngroups = a->ngroups;
			return;
		}
	}
	route_match_new(rf, topic, len, r);
}

#endif

/*
 * index.h: who of this process subscribed to what. Filters with their
 * subscribers in flat arrays, matched exactly: a filter without wildcards is one
 * probe; one with wildcards is cut at its first wildcard into an *anchor* (the
 * literal levels before it) and a *shape* (how many levels follow, which are
 * `+`, whether it ends in `#`), and a topic is probed once per shape at each
 * anchor that is a prefix of it. Spec: MQTT 5.0 sections 4.7 and 4.8.
 *
 * A group of shared subscriptions hangs on the filter it shares: it is a filter
 * of its own, whose subscribers are its members, reached through the other and
 * not by a topic.
 *
 * Not thread safe; calls no clock.
 */
#ifndef TOPIC_INDEX_H
#define TOPIC_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "topic/group.h"

enum {
	INDEX_LEVELS_MAX = 128,		/* levels of a filter or topic */
	INDEX_GROUPS_MAX = 1024		/* groups of one filter */
};

struct index;
struct index_owner;

/* One subscription, 16 bytes, as the fan-out reads it. */
struct index_sub {
	struct index_owner *owner;
	uint32_t	    own : 30;	/* its place in owner->links */
	uint32_t	    rh : 2;	/* retain handling, for who shows it */
	uint32_t	    id : 28;	/* subscription identifier, 0: none */
	uint32_t	    qos : 2;	/* granted maximum QoS */
	uint32_t	    no_local : 1;
	uint32_t	    rap : 1;	/* retain as published */
};

struct index_filter {
	struct index_sub *subs;		/* &one as long as that is enough */
	struct index_sub  one;
	struct index_share *share;	/* its groups; a group's own */
	uint32_t	  route_seq;	/* this, `told`, `dirty`: lib/route's */
	uint32_t	  nsubs;
	uint16_t	  len;
	uint8_t		  cap_log;	/* there is room for 1 << cap_log */
	bool		  is_group : 1;
	bool		  dirty : 1;
	bool		  told : 1;
	bool		  wild : 1;
	char		  text[];	/* NUL-terminated for logs */
};

/* What makes a filter a group. */
struct index_share {
	struct index_share  *next;	/* others of the same filter */
	struct index_filter *group;	/* whose subscribers are the members */
	struct index_filter *base;	/* the filter it hangs on */
	uint32_t	  told;		/* lib/route's */
	struct group_id	  id;		/* the caller's, as the next four */
	uint64_t	  mark;
	bool		  named;
	bool		  counted;
	uint32_t	  nstored;
	uint32_t	  cursor;	/* the caller's: a place among the
					 * members, following who moves */
	uint16_t	  name_len;
	char		  name[];	/* NUL-terminated for logs */
};

/* 12 bytes: there is one of each subscription. */
struct index_link {
	struct index_filter *filter;
	uint32_t	     pos;	/* its place in filter->subs */
} __attribute__((packed, aligned(4)));

/* One subscriber; embedded in the session. All zero is a valid empty one. */
struct index_owner {
	struct index_link *links;
	uint32_t	   n, cap;
};

struct index_limits {
	uint32_t	shapes_owner;	/* shapes of one owner at one anchor */
	uint32_t	shapes_anchor;	/* shapes of all owners at one anchor */
};

/* seed keys the hashes: random, so that nobody can aim at one cell. */
struct index *index_new(uint64_t seed, const struct index_limits *lim);
void index_free(struct index **ix);	/* owners must be empty by then */
void index_set_limits(struct index *ix, const struct index_limits *lim);

/*
 * Subscribe owner to a filter that filter_check() accepts, or change the
 * options of the subscription it has. Returns 1 if it is new, 0 if it replaced
 * one; *out is the filter either way. ERR_FULL beyond the limits of shapes,
 * ERR_NOMEM; nothing changed then.
 */
int index_subscribe(struct index *ix, struct index_owner *owner,
    const char *text, size_t len, const struct index_sub *opts,
    struct index_filter **out);

/*
 * The same for the group `name` of that filter; *out is the group. ERR_FULL
 * also beyond INDEX_GROUPS_MAX groups of one filter.
 */
int index_share(struct index *ix, struct index_owner *owner,
    const struct slice *name, const char *text, size_t len,
    const struct index_sub *opts, struct index_filter **out);

/*
 * Remove one subscription. Returns 0 with *out set to the filter when it is
 * still there or has just lost its last subscriber (nsubs 0: the caller calls
 * index_filter_drop when done with it), ERR_NOTFOUND if there was none.
 */
int index_unsubscribe(struct index *ix, struct index_owner *owner,
    const char *text, size_t len, struct index_filter **out);
int index_unshare(struct index *ix, struct index_owner *owner,
    const struct slice *name, const char *text, size_t len,
    struct index_filter **out);

/* Remove owner's last link the same way; ERR_NOTFOUND when it has none left. */
int index_unsubscribe_one(struct index *ix, struct index_owner *owner,
    struct index_filter **out);

/* Put owner, a subscriber of f, at this place among f->subs, the one that is
 * there in its. ERR_NOTFOUND: it is none, or there is no such place. */
int index_place(struct index_filter *f, struct index_owner *owner,
    uint32_t pos);

/*
 * Free a filter or group that has no subscribers; a filter with groups stays as
 * long as it has any, and goes with the last one if it is not `dirty`, that is,
 * if the caller will not drop it too.
 */
void index_filter_drop(struct index *ix, struct index_filter *f);

/* The subscription of owner to this very filter, or (name not NULL) to that
 * group of it; NULL if it has none. Good until the next change. */
const struct index_sub *index_get(const struct index *ix,
    struct index_owner *owner, const struct slice *name, const char *text,
    size_t len);

/* Is there one? */
bool index_has(const struct index *ix, struct index_owner *owner,
    const struct slice *name, const char *text, size_t len);

/* The filter of this very text, or (name not NULL) that group of it; NULL if
 * there is none. */
struct index_filter *index_find(const struct index *ix,
    const struct slice *name, const char *text, size_t len);

/*
 * Every filter that matches a topic, some of which may have groups and no
 * subscriber of their own. *out is the index's own scratch memory,
 * valid until the next call that changes or matches. Returns how many;
 * ERR_NOMEM.
 */
int index_match(struct index *ix, const char *topic, size_t len,
    struct index_filter ***out);

/* Walk all filters and groups: each() returns nonzero to stop. Filters must not be
 * added or dropped meanwhile. */
void index_each(struct index *ix, int (*each)(void *ctx,
    struct index_filter *f), void *ctx);

/*
 * The same in pages, between which filters may come and go. Each has a spot for
 * life, of its text alone, and its groups are with it. *at, 0 at first, is how
 * far the walk is: index_page visits those at the spots that are next, a dozen
 * as a rule, and moves it above them; INDEX_END when there are no more. Whoever
 * is there when the walk passes is visited once. each() must not add or drop
 * filters; if it returns nonzero the page ends, and *at moves all the same.
 */
#define INDEX_END	(UINT64_C(2) << 40)

void index_page(struct index *ix, uint64_t *at, int (*each)(void *ctx,
    struct index_filter *f), void *ctx);
uint64_t index_spot(const struct index *ix, const struct index_filter *f);

size_t index_nfilters(const struct index *ix);
size_t index_nsubs(const struct index *ix);

#endif

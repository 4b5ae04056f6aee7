/*
 * rib.h: the routes with their text: filter -> owners. Private to the router,
 * which alone decides from it what stands in the forwarding index (lib/fib):
 * the first owner of a filter installs it, the last removes it, and each
 * change of owners changes its destinations there. Beside the owners of a
 * filter stand its shared groups, each with its owners and their members.
 *
 * An anchor (the literal levels before a filter's first wildcard) is probed
 * once per shape, so it may have at most `anchor_shapes` of them beside
 * `anchor/#`. Beyond that the least used is *widened*: its filters are
 * installed as `anchor/#` for their owners, who match exactly anyway, and
 * narrowed again when there is room. Use is counted in routes and weighed with
 * the square of how many shapes its owners have there, so whoever brings many
 * shapes of few filters is widened itself; see rib.c.
 */
#ifndef RIB_RIB_H
#define RIB_RIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fib/fib.h"

struct rib;			/* not thread safe */

struct rib_opts {
	struct fib_key	key;		/* that of every fib attached */
	unsigned	anchor_shapes;	/* 1..63; 0: 32 */
	uint64_t	routes_max;	/* 0: no bound but memory */
};

int rib_new(struct rib **out, const struct rib_opts *o);
void rib_free(struct rib **rib);

/* --- Forwarding indexes ---------------------------------------------- */

/*
 * Drive this fib from now on, at most two at a time (the old generation and
 * the new). One attached to a rib that has routes is filled by rib_fill. The
 * writer stays the caller's; detach before closing it. Its key must be ours
 * (ERR_INVAL). ERR_FULL.
 */
int rib_attach(struct rib *rib, struct fib_writer *w);
void rib_detach(struct rib *rib, struct fib_writer *w);

/*
 * Bring up to `budget` filters into a fib attached late. 1: call again; 0:
 * it has everything. Changes meanwhile go to both. ERR_NOMEM and the like: call
 * again, or give that fib up.
 */
int rib_fill(struct rib *rib, struct fib_writer *w, size_t budget);

/*
 * Once a turn, after fib_reclaim of every fib attached: go on with what takes
 * more than one step (widening, narrowing), up to `budget` filters. Old
 * entries of a filter that moves stay until no reader may look for them.
 * 1: there is more to do now; 0: nothing, or readers are waited for.
 */
int rib_tidy(struct rib *rib, size_t budget);

/* --- Owners ---------------------------------------------------------- */

/* An owner is one destination: it gets a slot in each fib. *owner is a small
 * number, used anew some time after the owner is gone. ERR_FULL, ERR_NOMEM. */
int rib_owner_open(struct rib *rib, const struct fib_slot *d,
    unsigned *owner);

/* Its state and the incarnation behind it; touches no route. */
void rib_owner_set(struct rib *rib, unsigned owner, enum fib_state state,
    uint64_t incarnation);

/* Remove up to budget of its routes. 1: call again, 0: none left. */
int rib_owner_clear(struct rib *rib, unsigned owner, size_t budget);

/* Remove what is left of its routes and the owner with its slots. */
void rib_owner_close(struct rib *rib, unsigned owner);

/*
 * Snapshots: rib_owner_mark, then every row again by rib_add, then
 * rib_owner_sweep removes the rows that were not named (1: call again). A row
 * in both is never out of the fib in between.
 */
void rib_owner_mark(struct rib *rib, unsigned owner);
int rib_owner_sweep(struct rib *rib, unsigned owner, size_t budget);

/* Destination slot of an owner in one fib, for those who test. ERR_NOTFOUND. */
int rib_owner_slot(const struct rib *rib, unsigned owner,
    const struct fib_writer *w, unsigned *slot);

uint64_t rib_owner_routes(const struct rib *rib, unsigned owner);

/* --- Routes ---------------------------------------------------------- */

/*
 * The owner wants filter (well formed; checked by the caller, though nothing
 * breaks otherwise). When this returns 0 every reader of the attached fibs
 * that enters later finds it. Added again: qos is taken, nothing else happens.
 * ERR_FULL, ERR_NOMEM: not added, nothing changed.
 */
int rib_add(struct rib *rib, unsigned owner, const void *filter, size_t len,
    uint8_t qos);

/* The owner wants it no longer. ERR_NOTFOUND if it did not. */
int rib_del(struct rib *rib, unsigned owner, const void *filter, size_t len);

/*
 * The owner has so many members of the shared group `name` at filter now; 0:
 * none any more. Name and filter have been checked by the caller, though
 * nothing breaks otherwise. When this returns 0 every reader that enters later
 * finds it so. ERR_NOTFOUND: 0 members of what is not there. ERR_NOMEM; or
 * ERR_FULL: there is no place for another group at this filter, or, where it
 * can only be installed as `anchor/#`, there. Nothing changed then.
 */
int rib_group(struct rib *rib, unsigned owner, const void *filter, size_t len,
    const void *name, size_t nlen, uint32_t members);

/* --- Watching -------------------------------------------------------- */

/* A filter, or with a name a shared group at it, as it stands among the owners
 * of one kind. */
struct rib_change {
	const uint8_t	*filter, *name;	/* borrowed for the call */
	size_t		 len, nlen;	/* name NULL: the filter itself */
	enum fib_kind	 kind;
	unsigned	 owner;		/* whose row came, went or changed */
	unsigned	 owners;	/* of this kind that have it now */
	uint64_t	 first, second;	/* of a group: sums of the halves of
					 * their members (topic/group.h) */
};

/*
 * Tell from now on what changes among owners of these kinds (bits 1 << kind):
 * a row came, went, or has another number of members, also by rib_owner_clear,
 * _sweep and _close. From within, the rib may be looked at, not changed. NULL:
 * no longer. rib_look tells the same of what is there: walk with rib_list.
 */
void rib_watch(struct rib *rib, unsigned kinds,
    void (*changed)(void *ctx, const struct rib_change *c), void *ctx);
/* name NULL: the filter itself. Nobody has it: owners is 0. */
void rib_look(const struct rib *rib, enum fib_kind kind, const void *filter,
    size_t len, const void *name, size_t nlen, struct rib_change *out);

/* --- Questions ------------------------------------------------------- */

struct rib_row {
	const uint8_t	*filter;	/* borrowed for the call */
	size_t		 len;
	unsigned	 owner;
	uint8_t		 qos;
	bool		 widened;	/* installed as anchor/# */
	uint32_t	 anchor_len;	/* bytes of it that are its anchor */
	bool		 wild;		/* has a wildcard, hence an anchor */
	const uint8_t	*name;		/* of a shared group, else NULL; its */
	size_t		 nlen;		/* rows follow those of the filter */
	uint32_t	 members;
};

/*
 * Walk the routes from *cursor (0: the start), at most `budget` filters, all
 * or (owner >= 0) those of one owner. row returns false to stop early: it
 * gets the filter it stopped at again. 1: there is more, *cursor says where;
 * 0: the end. What is there throughout the walk is seen, changes may be.
 */
int rib_list(struct rib *rib, int owner, uint64_t *cursor, size_t budget,
    bool (*row)(void *ctx, const struct rib_row *row), void *ctx);

/*
 * Every route whose filter matches topic, exactly (not as the fib does, but
 * row.widened says where it is wide), at most `limit` rows. Returns the rows
 * given, or limit + 1 if there were more.
 */
size_t rib_match(struct rib *rib, const void *topic, size_t len, size_t limit,
    bool (*row)(void *ctx, const struct rib_row *row), void *ctx);

/*
 * What group an id of the index is: filter and name of *out are set. Borrowed
 * until the next change. ERR_NOTFOUND.
 */
int rib_group_find(const struct rib *rib, uint64_t id_hi, uint64_t id_lo,
    struct rib_row *out);

struct rib_anchor {
	const uint8_t	*text;		/* borrowed for the call; len bytes are */
	size_t		 len;		/* the anchor, the last `/` not counted */
	unsigned	 shapes;	/* all of them, */
	unsigned	 widened;	/* and those that are widened */
	const uint8_t	*filter;	/* one of the filters there */
	size_t		 filter_len;
};

/*
 * Walk the anchors that have at least min >= 1 shapes, from *cursor (0: the
 * start), looking at up to `budget` anchors. 1: there is more, 0: the end.
 */
int rib_anchors(struct rib *rib, uint64_t *cursor, size_t budget,
    unsigned min, void (*each)(void *ctx, const struct rib_anchor *a),
    void *ctx);

struct rib_stats {
	uint64_t	filters;
	uint64_t	routes;		/* (filter, owner) and group_rows */
	uint64_t	groups;		/* (filter, group) */
	uint64_t	group_rows;	/* (filter, group, owner) */
	uint64_t	owners;
	uint64_t	anchors;
	uint64_t	shapes;		/* (anchor, shape) */
	uint64_t	widened_shapes;
	uint64_t	widened_filters;
	uint64_t	widenings, narrowings;	/* since the start */
	uint64_t	bytes;		/* memory of the rib itself, about */
};

void rib_stats(const struct rib *rib, struct rib_stats *out);

#endif

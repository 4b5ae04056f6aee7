/*
 * tell.h: what an owner of subscribers (a listener, a session store) tells the
 * router: the rows of its index (proto/route.proto). Changes are told once a
 * turn, everything to a router that knows nothing of us (a snapshot, some of it
 * a turn); it answers up to which batch our rows are in the forwarding index of
 * every running reader.
 *
 *	route_tell_init(&t, ...);
 *	PEERS			route_tell_router
 *	bus events of t.router	route_tell_up, route_tell_lost, route_tell_room
 *	KIND_ROUTE_ACK		route_tell_ack
 *	end of turn		route_tell_flush; route_tell_more: no waiting
 *
 * Uses route_seq, told and dirty of struct index_filter, and drops filters that
 * nobody wants any more: nobody else may.
 */
#ifndef ROUTE_TELL_H
#define ROUTE_TELL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "bus/bus.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "topic/index.h"

/* What the owner does about it; any may be NULL. */
struct route_hooks {
	/* What to say of the group f, which has members: group_count(), 0
	 * nothing. NULL: all of them are a listener's. */
	uint32_t (*members)(void *ctx, const struct index_filter *f);
	/* f has no subscriber and goes now. */
	void (*gone)(void *ctx, struct index_filter *f);
	/* After a flush. */
	void (*flushed)(void *ctx);
	/* Does anybody wait for a number? Then one is sent even if there is
	 * nothing to tell. */
	bool (*waited)(void *ctx);
	/* A snapshot replaced everything not yet acknowledged, and ends with
	 * seq: who waits for a number above t->acked waits for that one. */
	void (*rebase)(void *ctx, uint64_t seq);
	/* t->acked has risen. */
	void (*acked)(void *ctx);
};

struct route_tell {
	struct bus	*bus;
	struct index	*index;
	uint64_t	 incarnation;	/* ours */
	const struct route_hooks *hooks;
	void		*ctx;
	struct metric	*m_short;	/* counts what found no memory */

	struct bus_peer	*router;	/* NULL: not running */
	uint64_t	 router_incarnation;
	bool		 snapshot;	/* which is on its way */
	bool		 snapshot_first;	/* from its first message */
	bool		 held;		/* by a stream that was full */
	uint64_t	 at;		/* of the snapshot: all of the index
					 * below this spot was told, */
	uint64_t	 far;		/* and nothing from this one on */
	uint64_t	 seq;		/* last batch sent */
	uint64_t	 acked;
	struct index_filter **dirty;
	size_t		 ndirty, cap_dirty;
};

void route_tell_init(struct route_tell *t, struct bus *bus,
    struct index *index, uint64_t incarnation,
    const struct route_hooks *hooks, void *ctx, struct metric *m_short);
void route_tell_fini(struct route_tell *t);	/* the stream is closed, too */

/* f has got a subscriber or lost one, or there is something else to say of the
 * group it is: the router may have to hear of it, and without any subscriber it
 * goes at the end of the turn. route_seq_of() is then the batch that says it. */
void route_tell_changed(struct route_tell *t, struct index_filter *f);

void route_tell_flush(struct route_tell *t);

/* Has the next flush more to say, though nothing happens? Then the loop must
 * not wait for anything before it. */
bool route_tell_more(const struct route_tell *t);

/* Tell everything, from the beginning. */
void route_tell_anew(struct route_tell *t);

/* PEERS shows the router like this. */
void route_tell_router(struct route_tell *t, const struct proc_peer *r);

/* Welcomed (again), lost, has room again. */
void route_tell_up(struct route_tell *t);
void route_tell_lost(struct route_tell *t);
void route_tell_room(struct route_tell *t);

/* KIND_ROUTE_ACK: what its bus_handler returns. */
int route_tell_ack(struct route_tell *t, const struct bus_frame *f);

/* What the router was told of f. */
static inline uint32_t
route_told(const struct index_filter *f)
{
	return f->is_group ? f->share->told : f->told;
}

static inline void
route_told_set(struct index_filter *f, uint32_t told)
{
	f->told = told > 0;
	if (f->is_group)
		f->share->told = told;
}

/* The batch that told of f last, or will. Only the low half is kept: it is the
 * next one at most, and one long ago is any that was acknowledged. While a
 * snapshot is under way it is not known yet; any that is not sent will do, for
 * none is acknowledged before the snapshot has ended: then all are rebased. */
static inline uint64_t
route_seq_of(const struct route_tell *t, const struct index_filter *f)
{
	int32_t behind = (int32_t)((uint32_t)t->seq - f->route_seq);

	if (t->snapshot)
		return t->seq + 1;
	return behind < -1 || (uint64_t)MAX(behind, 0) > t->seq ? 0 :
	    t->seq - (uint64_t)(int64_t)behind;
}

/* The batch with which all that was said of any filter so far is told. */
static inline uint64_t
route_seq_all(const struct route_tell *t)
{
	return t->seq + (t->ndirty > 0 || t->snapshot);
}

/* All we have is in the index of every running reader. */
static inline bool
route_tell_is_known(const struct route_tell *t)
{
	return t->router != NULL && !t->snapshot && t->ndirty == 0 &&
	    t->acked == t->seq && t->seq > 0;
}

#endif

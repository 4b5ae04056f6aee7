/*
 * desk.h: the desk of a store shard. It knows which client identifiers its
 * node has, runs one attach of each at a time, keeps only the newest waiting,
 * and asks the registrar of its core where nobody at this node can know.
 *
 * Pure: time is an argument, all it wants done goes through struct desk_ops,
 * called from within the calls below; they must not call the desk again.
 */
#ifndef REGISTRAR_DESK_H
#define REGISTRAR_DESK_H

#include <sys/queue.h>

#include "base/htab.h"
#include "registrar/claim.h"

enum { DESK_WAIT_MS = 1500 };	/* the registrar itself waits 1 s */

struct desk_ops {
	/* To the registrar; only while it is up. */
	void	(*send)(void *ctx, const struct claim_msg *m);
	/*
	 * x is ours under m->epoch; m->holders are to be released, from the
	 * highest comes the state. The attach of token goes on. desk_settled()
	 * must follow.
	 */
	void	(*grant)(void *ctx, uint64_t token, const struct claim_msg *m);
	/* CONNACK or DISCONNECT 0x8E to that attach: a later one came. */
	void	(*refuse)(void *ctx, uint64_t x, uint64_t token);
	/* We keep x under m->epoch, and m->holders have it too: release them
	 * and append what they have. */
	void	(*merge)(void *ctx, const struct claim_msg *m);
};

TAILQ_HEAD(desk_attempts, desk_attempt);

struct desk {
	const struct desk_ops	*ops;
	void			*ctx;
	uint64_t		 node;
	struct htab		 clients;
	struct desk_attempts	 asking;	/* first whose time is over */
	struct desk_attempts	 provisional;
	uint64_t		 clock;		/* of the last epoch */
	uint64_t		 told;		/* rows sent */
	bool			 up;		/* registrar in reach */
	bool			 confirmed;	/* our rows are known */
};

void desk_init(struct desk *d, uint64_t node, const struct desk_ops *ops,
    void *ctx);
void desk_fini(struct desk *d);

/* The hybrid clock as it is (or may have been): epochs begin above it. now_ms
 * is of a clock that nobody sets. */
void desk_clock(struct desk *d, uint64_t hybrid);

/* A session found in the log at start. ERR_NOMEM. */
int desk_restore(struct desk *d, uint64_t x, uint64_t epoch);

/* A client wants in. token names the attempt. ERR_NOMEM. */
int desk_attach(struct desk *d, uint64_t x, uint64_t token, uint64_t now_ms);

/* The same under an epoch of at least `time`, if that is above those there are:
 * when it connected, where that was before we hear of it. */
int desk_attach_at(struct desk *d, uint64_t x, uint64_t token, uint64_t time,
    uint64_t now_ms);

/* The move that a grant began has ended (or there was none). */
void desk_settled(struct desk *d, uint64_t x, uint64_t now_ms);

/* What x is from now on; neither durable nor connected: it is gone. */
void desk_state(struct desk *d, uint64_t x, uint8_t flags);

/* x was released to a holder of epoch, or expired: this node has it no more. */
void desk_gone(struct desk *d, uint64_t x, uint64_t now_ms);

/* The epoch and flags under which this node has x; false if it has not. */
bool desk_holds(const struct desk *d, uint64_t x, struct claim_holder *h);

/* May timers and wills of x run? */
bool desk_is_confirmed(const struct desk *d, uint64_t x);

void desk_up(struct desk *d);			/* uploads */
void desk_down(struct desk *d);
void desk_take(struct desk *d, const struct claim_msg *m, uint64_t now_ms);
void desk_tick(struct desk *d, uint64_t now_ms);

#endif

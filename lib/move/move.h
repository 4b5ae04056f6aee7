/*
 * move.h: a durable session goes from the store of H to the store of A. Two
 * machines, one at each end; the store keeps the session, its queue and its
 * log. README has the steps, why they are so, and who calls what.
 *
 * Pure: time is an argument; what is to be done goes through struct move_ops,
 * which must not call back. What a step wants on disk is a call of its own:
 * log(), then the store calls move_synced() when it is there. Who starts again
 * hands in the struct as it was logged and calls move_resume().
 */
#ifndef MOVE_MOVE_H
#define MOVE_MOVE_H

#include <stdbool.h>
#include <stdint.h>

enum { MOVE_REPEAT_MS = 300, MOVE_ACKS_MS = 1000, MOVE_ECHO_MS = 5000,
	MOVE_SILENT_MS = 10000 };

enum move_kind {
	MOVE_RELEASE = 1,	/* A: give me x, of snap from item seq on */
	MOVE_STATE,		/* H: one item; the store's own */
	MOVE_END,		/* H: snap has seq items; ask for the next */
	MOVE_INSTALLED,		/* A: snap is on disk, my routes are set */
	MOVE_MOVED,		/* H: it is yours */
	MOVE_RELAY,		/* H: seq-th record that came after snap */
	MOVE_RELAYED,		/* A: all relays below seq are on disk */
	MOVE_VISIBLE,		/* A: my routes are everywhere to seq */
	MOVE_DONE,		/* H: all before seq relays; go on directly */
	MOVE_DONE_ACK,
	MOVE_SETTLED,		/* H: every member echoed; I forget x */
	MOVE_SETTLED_ACK,
	MOVE_GONE,		/* H: I have nothing of x */
	MOVE_REFUSED		/* H: mine is of a later epoch */
};

enum {
	MOVE_CLEAN = 1,		/* nothing is wanted: discard it */
	MOVE_MERGE = 2		/* A has x already, and appends */
};

struct move_msg {
	uint8_t		kind, flags;
	uint64_t	x, epoch, snap, seq;
	const void	*item;		/* STATE and RELAY: opaque */
};

enum move_step {
	/* at H */
	MOVE_OWN, MOVE_FREEZING, MOVE_FROZEN, MOVE_DISCARDING, MOVE_GIVING,
	MOVE_RELAYING, MOVE_FORGETTING, MOVE_FORGOTTEN,
	/* at A */
	MOVE_ASKING, MOVE_INSTALLING, MOVE_WAITING, MOVE_TAKING, MOVE_TAKEN,
	MOVE_ENDING, MOVE_CLEARING, MOVE_CLEARED,
	MOVE_DIRECT, MOVE_CLOSED, MOVE_EMPTY, MOVE_LOST
};

struct move {
	uint64_t	x, epoch;
	uint64_t	snap;		/* which freeze: unique at H for ever */
	uint64_t	peer;
	uint64_t	relays;		/* H: acknowledged; A: on disk */
	uint64_t	seen;		/* routes visible to; 0: not yet */
	uint64_t	items;		/* A: of the state so far */
	uint64_t	asked;		/* A: ... when we asked last */
	uint64_t	next_ms, since_ms;
	uint8_t		flags;
	uint8_t		step;
	bool		pending;	/* log() was called, not yet synced */
	bool		alone;		/* A: own() without a word of H: packet
					 * identifiers far from those of H */
	bool		anew;		/* A: own() of one without a past */
	bool		told;		/* H: DONE was acknowledged */
	bool		done;		/* H: DONE may be said */
};

struct move_ops {
	void	(*send)(void *ctx, uint64_t node, const struct move_msg *m);
	/* step shall be on disk; then move_synced(). */
	void	(*log)(void *ctx, struct move *m);
	/* H: close the client, wait for its last acknowledgements (1 s at
	 * most), deliver no more, publish a will that has no delay; then
	 * move_frozen(), when all there is now is on disk. */
	void	(*freeze)(void *ctx, struct move *m);
	/* H: send MOVE_STATE of what there was at the freeze, from the seq-th
	 * item on, as many as you like (A asks on); how many there are. */
	uint64_t (*state)(void *ctx, struct move *m, uint64_t seq);
	/* H: send MOVE_RELAY of what came since, from the seq-th on, as many as
	 * you like; later ones when they are logged, or when asked again. */
	void	(*relay)(void *ctx, struct move *m, uint64_t seq);
	/* H: ask all members to echo once they see A's routes to m->seen. */
	void	(*barrier)(void *ctx, struct move *m);
	/* H: x is ours again. */
	void	(*thaw)(void *ctx, struct move *m);
	/* H: forget x and its routes. (With MOVE_CLEAN it ends: so a will is
	 * due.) */
	void	(*drop)(void *ctx, struct move *m);
	/* A: forget what was installed of an older snapshot. */
	void	(*restart)(void *ctx, struct move *m);
	/* A: x is ours: CONNACK, deliver. With m->anew it begins, and nothing
	 * is laid aside; else what arrives directly is. Log the session and m,
	 * as it is now, in one. */
	void	(*own)(void *ctx, struct move *m);
	/* A: go on with what was laid aside, less the ids relayed. */
	void	(*direct)(void *ctx, struct move *m);
};

/* --- H ------------------------------------------------------------------- */

/* A step of A for x, whose epoch here is own (0: not here; one more if it is
 * that of in and our node is the higher), snap: a number that no freeze of this
 * store ever had. m is zero when there is no move. */
void move_out_take(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t from, const struct move_msg *in, uint64_t own, uint64_t snap,
    uint64_t now_ms);
void move_frozen(struct move *m, const struct move_ops *ops, void *ctx);
/* Echoes: all that flow (or all members: every) have answered the barrier and
 * everything before their echo is among the total relays. */
void move_echoed(struct move *m, const struct move_ops *ops, void *ctx,
    bool every, uint64_t total);

/* --- A ------------------------------------------------------------------- */

void move_in_begin(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t x, uint64_t epoch, uint64_t from, uint8_t flags, uint64_t now_ms);
/* A step of H. For MOVE_STATE and MOVE_RELAY it returns true when the store
 * shall log the item; relays then need move_relayed(). */
bool move_in_take(struct move *m, const struct move_ops *ops, void *ctx,
    const struct move_msg *in);
void move_relayed(struct move *m, const struct move_ops *ops, void *ctx);
/* Our routes are in the tables of all nodes, to seq. */
void move_visible(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t seq);

/* --- Both ---------------------------------------------------------------- */

void move_synced(struct move *m, const struct move_ops *ops, void *ctx);
void move_tick(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t total, uint64_t now_ms);
/* The other end is down (both judges). */
void move_peer_down(struct move *m, const struct move_ops *ops, void *ctx);
/* After a start: m as it was logged; the last step is said again. */
void move_resume(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t now_ms);

#endif

/*
 * rlog.h: the tables that all nodes of a cluster share, replicated. A *stream*
 * is one table with one writer: rows {key, value, seq of the last change}.
 * The writer changes its own; every other node follows. README tells how: who
 * says what, who answers, when. Pure: no clock, socket or random source; the
 * caller has connections, carries messages between them and hands in `now`.
 *
 * One struct rlog is one node (its router). It queues nothing: what is to be
 * said on a link follows from where the other one is, and is written when the
 * caller asks for it (rlog_next), so a link that is slow costs nothing.
 *
 * No function here may be called from a callback, but rlog_stream_id and
 * rlog_link_data.
 */
#ifndef RLOG_RLOG_H
#define RLOG_RLOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "rlog/store.h"

struct rlog;			/* not thread safe */
struct rlog_link;		/* a connection with another node */
struct rlog_stream;

struct rlog_id {
	uint32_t	table;		/* which one of the writer's */
	uint64_t	writer;		/* node: its join id; never 0 */
};

enum rlog_phase {
	RLOG_DOWN,			/* nobody to follow; rows stay */
	RLOG_BOOTSTRAP,			/* a scan is coming in */
	RLOG_LOCAL_REPLAY,		/* catching up with the order */
	RLOG_NORMAL
};

struct rlog_calls {
	/*
	 * A row of a followed stream is to be seen as this from now on; it was
	 * something else. row->seq is that of the writer, or, where a row went
	 * because nobody named it, up to where that was found out. Nonzero
	 * (ERR_NOMEM, ERR_FULL): it could not be taken; rlog_take or rlog_tidy
	 * returns that, and it comes again.
	 */
	int (*row)(void *ctx, struct rlog_stream *s,
	    const struct rlog_row *row);

	/* Own stream: all that are waited for have everything up to seq. */
	void (*acked)(void *ctx, struct rlog_stream *s, uint64_t seq);

	/* There is something to say on this link. */
	void (*wake)(void *ctx, struct rlog_link *l);

	/* May be NULL: the phase of a followed stream has changed. */
	void (*phase)(void *ctx, struct rlog_stream *s, enum rlog_phase phase);

	/* A store for a followed stream that is new. NULL: out of memory. May
	 * be NULL: rlog_table. */
	void *(*store)(void *ctx, struct rlog_id id,
	    const struct rlog_ops **ops);
};

struct rlog_opts {
	uint64_t	node;		/* never 0 */
	uint64_t	incarnation;	/* above that of any earlier life */
	bool		core;		/* else a replicant */
	bool		confirms;	/* see rlog_confirm */
	uint64_t	timeout_ms;	/* cluster.suback_timeout; 0: 1000 */
	uint64_t	tombstones;	/* of a stream; 0: 65536 */
	uint32_t	streams;	/* in all; 0: 4096 */
	uint64_t	seed;		/* of hashes: random */
	const struct rlog_calls *calls;
	void		*ctx;
};

int rlog_new(struct rlog **out, const struct rlog_opts *o);
void rlog_free(struct rlog **r);

/*
 * now_ms is what the next calls go by; it never goes back. Every 100 ms or so,
 * and before rlog_take: who is late is not waited for any longer.
 */
void rlog_tick(struct rlog *r, uint64_t now_ms);

/* So many nodes are members, this one included, whether up or not: when that
 * many have seen a deletion its tombstone goes. 0: not known. */
void rlog_members(struct rlog *r, uint32_t n);

/*
 * This node will never write again (it left, was forced out, or cleaned): its
 * streams are emptied, and nobody's word brings them back. ERR_NOMEM.
 */
int rlog_bar(struct rlog *r, uint64_t node);

/*
 * Go on with what takes long (rows that nobody named): up to `budget` rows.
 * 1: call again, 0: nothing is left, or what the row callback returned.
 */
int rlog_tidy(struct rlog *r, size_t budget);

/* --- Own streams --------------------------------------------------------- */

/* Begin one. ops NULL: rlog_table. The store is ours
 * from now on, also on failure. ERR_EXISTS, ERR_FULL, ERR_NOMEM. */
int rlog_open(struct rlog *r, uint32_t table, void *store,
    const struct rlog_ops *ops, struct rlog_stream **out);

/*
 * The row has this value; or it has none. *seq is that of the row as it stands
 * (also if that was so already): what to wait for. ERR_NOTFOUND, with *seq 0:
 * nothing of it was ever here. ERR_INVAL: too long. ERR_NOMEM.
 */
int rlog_put(struct rlog_stream *s, struct slice key, struct slice value,
    uint64_t *seq);
int rlog_del(struct rlog_stream *s, struct slice key, uint64_t *seq);

/* All that was written before this incarnation has been written again: what
 * others have of earlier ones and was not named goes. Once. */
void rlog_end(struct rlog_stream *s);

/* Everything up to here is with all that are waited for; it only rises. */
uint64_t rlog_acked(const struct rlog_stream *s);

/* --- Links --------------------------------------------------------------- */

/*
 * A connection with another node, which keeps order and loses nothing until it
 * breaks; both said hello on it. ERR_NOMEM.
 */
int rlog_link_open(struct rlog *r, uint64_t node, uint64_t incarnation,
    void *data, struct rlog_link **out);

/* left: it is we who let go of it, having come to another (a link that is
 * settled): that node is there as before. */
void rlog_link_close(struct rlog_link **l, bool left);

/* Follow this one rather than others that are as good. */
void rlog_link_prefer(struct rlog_link *l, bool prefer);
void *rlog_link_data(const struct rlog_link *l);
uint64_t rlog_link_node(const struct rlog_link *l);

/* Does everything we follow come over this one, in `normal`, and is all of ours
 * followed over it? Then a replicant can let go of its other core. */
bool rlog_link_settled(const struct rlog_link *l);

/*
 * What came. ERR_PROTO: close the link. Other errors: close it too; what came
 * before counts, the rest comes again after the next hello.
 */
int rlog_take(struct rlog_link *l, const void *msg, size_t len);

/*
 * Write the next message of at most size >= RLOG_BUF_MIN bytes into buf; the
 * caller has room for it on the connection. Returns its length, 0 if there is
 * nothing. rows false: no rows, which is for a connection that is full.
 */
size_t rlog_next(struct rlog_link *l, void *buf, size_t size, bool rows);

/* --- Looking ------------------------------------------------------------- */

struct rlog_status {
	struct rlog_id	id;
	bool		own;
	enum rlog_phase	phase;
	uint64_t	incarnation;
	uint64_t	seq;		/* since(seq) is what it lacks */
	uint64_t	whole;		/* no row is older than it was then */
	uint64_t	head;		/* of whom we follow, as far as known */
	uint64_t	floor;		/* below: no since, but a scan */
	uint64_t	acked;		/* own: by all that are waited for */
	uint64_t	rows, tombstones;
	uint64_t	digest;		/* of rows; no order in it */
	uint64_t	source;		/* the node it is followed through, 0 */
	uint8_t		hops;		/* to the writer, or RLOG_HOPS_DEAD */
	bool		ended;		/* nothing of an earlier incarnation */
	bool		sweeping;	/* what nobody named is going */
	bool		ragged;		/* not whole: what comes mends it */
	uint64_t	bootstraps, bootstrap_rows;
	uint32_t	nodes;		/* known to follow, and this one */
	uint32_t	waited;		/* own: that are waited for */
};

struct rlog_stream *rlog_find(struct rlog *r, struct rlog_id id);
struct rlog_id rlog_stream_id(const struct rlog_stream *s);
void rlog_look(const struct rlog_stream *s, struct rlog_status *out);

/* A row as it is seen. *old: it is of an earlier incarnation. ERR_NOTFOUND. */
int rlog_get(const struct rlog_stream *s, struct slice key,
    struct rlog_row *row, bool *old);

/* Walk the streams: *at NULL is the start, and the end again. */
struct rlog_stream *rlog_walk(struct rlog *r, struct rlog_stream *at);

/* Walk the rows that are seen, from *at (0). 1, 0 at the end. */
int rlog_rows(const struct rlog_stream *s, uint64_t *at, struct rlog_row *row);

/* The i-th node that is known to follow a stream, 0 this one: the writer knows
 * all, others those behind them. 1, or 0 beyond the last. */
struct rlog_follower {
	uint64_t	node, incarnation, seq;
	bool		waited;		/* own streams */
	bool		gone;
};
int rlog_follower(const struct rlog_stream *s, uint32_t i,
    struct rlog_follower *out);

/*
 * With opts.confirms a row counts as here only when the caller says so: all up
 * to seq of this stream is where it is needed (forwarding index, disk).
 */
void rlog_confirm(struct rlog_stream *s, uint64_t seq);

struct rlog_stats {
	uint64_t	rows_in, rows_out;
	uint64_t	bytes_in, bytes_out;
	uint64_t	scans;		/* begun for others */
	uint64_t	laggards;	/* times one was waited for no longer */
	uint64_t	refused;	/* offers of more streams than may be */
	uint64_t	stale;		/* rows from whom we follow no more */
};

void rlog_stats(const struct rlog *r, struct rlog_stats *out);

/* --- Which core a replicant follows -------------------------------------- */

struct rlog_core {
	uint64_t	node;
	uint32_t	weight;		/* replicants it has; lower is better */
	bool		usable;		/* up, and not just tried in vain */
};

/*
 * Two random choices: the lighter of two cores drawn by r1 and r2; but the
 * present one (current, 0: none) stays unless it is not usable, or, when `may`
 * (it has been held long enough), the other has at most 3/4 of its weight and
 * two less. Returns an index, or n if none is usable.
 */
size_t rlog_pick_core(const struct rlog_core *cores, size_t n,
    uint64_t current, bool may, uint64_t r1, uint64_t r2);

#endif

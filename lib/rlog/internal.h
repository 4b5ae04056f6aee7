/* internal.h: shared by the files of this room alone. */
#ifndef RLOG_INTERNAL_H
#define RLOG_INTERNAL_H

#include "base/htab.h"
#include "rlog/message.h"
#include "rlog/rlog.h"

enum { DIRTY_OFFER = 1, DIRTY_ANSWER = 2, DIRTY_ACK = 4, DIRTY_ROWS = 8 };

struct offer {
	uint64_t	 incarnation, home, seq;
	uint8_t		 hops;
};

/* What is known of one of the nodes that follow a stream, us first. */
struct word {
	uint64_t	 node, incarnation, seq;
	uint8_t		 flags;		/* RLOG_W_ */
	bool		 untold;	/* whom we follow has not heard it */
	struct sub	*via;		/* heard here last; NULL: it left */

	bool		 waited;	/* own streams alone: */
	bool		 armed;		/* has not wait_seq yet, since then */
	uint64_t	 wait_seq, wait_since;
	uint64_t	 mark_seq, mark_at;	/* caught up: has it soon */
};

/* A stream on a link: one for each pair. */
struct sub {
	struct rlog_link   *link;
	struct rlog_stream *s;
	struct sub	   *snext, *sprev;	/* of the stream */
	struct sub	   *lnext, *lprev;	/* of the link */
	struct sub	   *qnext;		/* has something to say */
	bool		    queued;
	uint8_t		    dirty;

	struct offer	    theirs;
	bool		    follow;	/* FOLLOW is due, as ANSWER */
	bool		    leave;	/* LEAVE is */

	struct offer	    ours;

	bool		    follows;	/* it follows us */
	uint64_t	    feed_inc, feed_seq;	/* up to where it was told */
	uint64_t	    hint, scan_at, scan_from;
	uint32_t	    ticket;
	bool		    scanning, begun, must;
};

struct rlog_link {
	struct rlog	   *r;
	struct rlog_link   *next, *prev;
	uint64_t	    node, incarnation;
	uint64_t	    home;
	void		   *data;
	struct sub	   *subs;
	struct sub	   *qfirst, *qlast;
	bool		    core, prefer, heard;
};

struct rlog_stream {
	struct rlog	   *r;
	struct rlog_stream *next, *prev;
	struct rlog_id	    id;
	bool		    own, barred;
	const struct rlog_ops *ops;
	void		   *store;
	struct sub	   *subs;

	uint64_t	    incarnation;
	uint64_t	    seq;	/* since(seq) is what we lack */
	uint64_t	    floor, end, stable;
	uint64_t	    rows, tombs, digest;
	uint8_t		    pass;	/* rows named now get this mark */
	uint8_t		    old_mark;	/* below: of an earlier incarnation */
	bool		    old;	/* there may be such */

	struct sub	   *src;
	uint32_t	    ticket;
	enum rlog_phase	    phase;
	uint64_t	    head, target;
	bool		    targeted;

	bool		    boot;	/* a scan, until all is swept */
	bool		    scanned, stray;
	uint64_t	    replay;	/* as seq, of the replay */
	uint64_t	    replay_to, boot_floor;
	uint64_t	    loose;	/* no row out of order is younger */
	uint64_t	    whole;	/* no row is older than it was then */
	uint64_t	    seen;	/* highest head rows came from */
	bool		    caught;		/* replay: up to its head */
	uint64_t	    replay_whole;
	bool		    strays;	/* a scan is over; some it did not name */
	bool		    sweeping, sweep_old;
	uint64_t	    sweep_at, sweep_upto;
	uint8_t		    stray_mark;
	uint64_t	    boots, boot_rows;

	struct word	   *words;
	uint32_t	    nwords, words_room;
	uint64_t	    acked, confirmed;
};

struct rlog {
	struct rlog_opts    opts;
	struct rlog_stream *streams;
	struct htab	    by_id;
	struct rlog_link   *links;
	uint64_t	   *barred;
	uint32_t	    nbarred, nstreams;
	uint32_t	    members;
	uint64_t	    now, home;
	struct rlog_stats   stats;
};

/* rlog.c */
int stream_make(struct rlog *r, struct rlog_id id, void *store,
    const struct rlog_ops *ops, struct rlog_stream **out);
void stream_free(struct rlog_stream *s);
bool writer_is_barred(const struct rlog *r, uint64_t writer);

/* stream.c: rows */
int stream_apply(struct rlog_stream *s, const struct rlog_row *row, bool order);
int stream_adopt(struct rlog_stream *s, uint64_t incarnation);
void stream_prune(struct rlog_stream *s);
void stream_set_whole(struct rlog_stream *s, uint64_t whole);
int stream_boot_begin(struct rlog_stream *s, uint64_t from);
void stream_boot_cancel(struct rlog_stream *s);
/* What came may have been the last that was missing. */
int stream_progress(struct rlog_stream *s);
void stream_set_phase(struct rlog_stream *s, enum rlog_phase phase);

/* link.c: who follows whom, and what is said */
void sub_wake(struct sub *b, uint8_t dirty);
int sub_make(struct rlog_link *l, struct rlog_stream *s);
void sub_free(struct sub *b);
/* Follow the best there is; offer what follows from it. */
void stream_choose(struct rlog_stream *s);
void stream_offer(struct rlog_stream *s);

/* ack.c: who has what, and who is waited for */
int stream_words_init(struct rlog_stream *s);
void stream_words_reset(struct rlog_stream *s);
void stream_words_drop(struct rlog_stream *s, uint64_t node);
void stream_words_untold(struct rlog_stream *s);
int sub_met(struct sub *b);
int sub_word(struct sub *b, const struct rlog_word *w);
void sub_parted(struct sub *b, bool left);
/* Who follows has something to hear; and, moreover, seq has changed. */
void stream_wake(struct rlog_stream *s);
void stream_changed(struct rlog_stream *s);
void stream_reckon(struct rlog_stream *s);
void stream_late(struct rlog_stream *s);

/* A scan or a batch broke off: rows are here as they were later than seq, so
 * those that are in order may leave out some that were there at seq. */
static inline bool
stream_is_ragged(const struct rlog_stream *s)
{
	return s->seq < s->loose;
}

static inline bool
offer_is_live(const struct offer *o)
{
	return o->hops < RLOG_HOPS_MAX;
}

/* No scan named it, and no row since: it is to go. */
static inline bool
stream_is_stray(const struct rlog_stream *s, const struct rlog_row *row)
{
	return s->strays && row->mark < s->stray_mark &&
	    row->seq <= s->sweep_upto;
}

/* Is there a way to the writer? */
static inline bool
stream_is_live(const struct rlog_stream *s)
{
	return s->own || (s->src != NULL && offer_is_live(&s->src->theirs));
}

#endif

/*
 * ack.c: who has what, and who is waited for.
 *
 * Each node that follows a stream says for itself up to where it has it; whom
 * it follows passes that on, word by word, to whom that follows, and so to the
 * writer, which alone judges: the lowest of all that it waits for. (Cores that
 * say the lowest of themselves and their replicants would save some bytes, but
 * a node that changes place is for a moment counted in neither: the old place
 * has let go of it and the new one has said more than it has.)
 *
 * A node is waited for from when anybody has a connection with it, until that
 * breaks, it says that it is in `bootstrap`, or it is late; and again when it
 * has, within half the time, what the writer had. A measure in seqs would not
 * do: under load who lags a little lags always.
 */
#include <stdlib.h>

#include "base/err.h"
#include "rlog/internal.h"

#define WORDS_MAX	1024u		/* nodes; the rest is not waited for */

static struct word *
word_of(struct rlog_stream *s, uint64_t node)
{
	uint32_t i;

	for (i = 0; i < s->nwords; i++)
		if (s->words[i].node == node)
			return &s->words[i];
	return NULL;
}

static struct word *
word_add(struct rlog_stream *s, uint64_t node)
{
	struct word *more;
	uint32_t     room;

	if (s->nwords == WORDS_MAX)
		return NULL;
	if (s->nwords == s->words_room) {
		room = s->words_room == 0 ? 4 : s->words_room * 2;
		more = realloc(s->words, room * sizeof(*more));
		if (more == NULL)
			return NULL;
		s->words = more;
		s->words_room = room;
	}
	s->words[s->nwords] = (struct word){ .node = node };
	return &s->words[s->nwords++];
}

static void
untold(struct rlog_stream *s, struct word *w)
{
	w->untold = true;
	if (!s->own && s->src != NULL)
		sub_wake(s->src, DIRTY_ACK);
}

int
stream_words_init(struct rlog_stream *s)
{
	struct word *w = word_add(s, s->r->opts.node);

	if (w == NULL)
		return ERR_NOMEM;
	w->incarnation = s->r->opts.incarnation;
	w->flags = RLOG_W_OWN;
	return 0;
}

void
stream_words_untold(struct rlog_stream *s)
{
	uint32_t i;

	for (i = 0; i < s->nwords; i++)
		untold(s, &s->words[i]);
}

/* Another incarnation of the writer: nobody has anything yet. */
void
stream_words_reset(struct rlog_stream *s)
{
	uint32_t i;

	for (i = 0; i < s->nwords; i++) {
		s->words[i].seq = 0;
		s->words[i].flags &= RLOG_W_GONE | RLOG_W_OWN;
	}
	s->acked = 0;
	stream_words_untold(s);
}

/* This node is no member any more. */
void
stream_words_drop(struct rlog_stream *s, uint64_t node)
{
	struct word *w = word_of(s, node);

	if (w == NULL || w == s->words)
		return;
	*w = s->words[--s->nwords];
	stream_reckon(s);
}

/* --- Waiting, by the writer ---------------------------------------------- */

static void
arm(struct rlog_stream *s, struct word *w)
{
	if (w->armed || !w->waited || w->seq >= s->seq)
		return;
	w->armed = true;
	w->wait_seq = s->seq;
	w->wait_since = s->r->now;
}

static void
mark(struct rlog_stream *s, struct word *w)
{
	w->waited = w->armed = false;
	w->mark_seq = s->seq;
	w->mark_at = s->r->now;
}

static void
judge(struct rlog_stream *s, struct word *w, bool fresh)
{
	if (w->flags & (RLOG_W_GONE | RLOG_W_BUSY)) {
		mark(s, w);
		return;
	}
	if (fresh)
		w->waited = true;
	else if (!w->waited && w->seq >= w->mark_seq) {
		if (w->seq >= s->seq ||
		    s->r->now - w->mark_at <= s->r->opts.timeout_ms / 2)
			w->waited = true;
		else
			mark(s, w);
	}
	if (w->armed && w->seq >= w->wait_seq)
		w->armed = false;
	arm(s, w);
}

void
stream_late(struct rlog_stream *s)
{
	struct rlog *r = s->r;
	struct word *w;
	bool	     any = false;

	if (!s->own)
		return;
	for (w = s->words + 1; w < s->words + s->nwords; w++) {
		if (!w->waited || !w->armed ||
		    r->now - w->wait_since <= r->opts.timeout_ms)
			continue;
		mark(s, w);
		r->stats.laggards++;
		any = true;
	}
	if (any)
		stream_reckon(s);
}

/* Our own word, and of our own stream what follows from all. */
void
stream_reckon(struct rlog_stream *s)
{
	struct rlog *r = s->r;
	struct word *w = s->words;
	uint64_t     seq = s->own ? s->seq : s->whole, all, every;
	uint8_t	     flags;

	if (r->opts.confirms)
		seq = MIN(seq, s->confirmed);
	flags = RLOG_W_OWN | (s->boot ? RLOG_W_BUSY : 0);
	if (w->seq != seq || w->flags != flags) {
		w->seq = seq;
		w->flags = flags;
		untold(s, w);
	}
	if (!s->own)
		return;
	all = every = seq;
	for (w++; w < s->words + s->nwords; w++) {
		every = MIN(every, w->seq);
		if (!w->waited)
			continue;
		all = MIN(all, w->seq);
		arm(s, w);
	}
	if (all > s->acked) {
		s->acked = all;
		r->opts.calls->acked(r->opts.ctx, s, all);
	}
	if (r->members != 0 && s->nwords >= r->members && every > s->stable) {
		s->stable = every;
		stream_prune(s);
	}
}

/* --- Words --------------------------------------------------------------- */

/* There is a connection with this node: it is there, whatever it has. */
int
sub_met(struct sub *b)
{
	struct rlog_word w = { b->link->node, b->link->incarnation, 0, 0 };

	if (!b->s->own && !b->s->r->opts.core)
		return 0;
	return sub_word(b, &w);
}

int
sub_word(struct sub *b, const struct rlog_word *in)
{
	struct rlog_stream *s = b->s;
	struct word	   *w, was;
	bool		    fresh;

	if (in->node == s->id.writer || in->node == s->r->opts.node ||
	    writer_is_barred(s->r, in->node))
		return 0;
	w = word_of(s, in->node);
	if (w == NULL) {
		if (in->flags & RLOG_W_GONE)
			return 0;
		if ((w = word_add(s, in->node)) == NULL)
			return s->nwords == WORDS_MAX ? 0 : ERR_NOMEM;
	}
	if (in->incarnation < w->incarnation)
		return 0;
	was = *w;
	fresh = in->incarnation > w->incarnation;
	if (fresh) {			/* nothing of its earlier life counts */
		w->incarnation = in->incarnation;
		w->seq = 0;
		w->flags = 0;
		w->via = b;
		w->waited = w->armed = false;
	}
	if (in->flags & RLOG_W_GONE) {
		if (w->via != b)
			return 0;	/* not from where we have it */
		w->via = NULL;
		w->flags |= RLOG_W_GONE;
	} else if (in->flags & RLOG_W_OWN) {
		w->via = b;
		w->seq = MAX(w->seq, in->seq);
		w->flags = in->flags & (RLOG_W_OWN | RLOG_W_BUSY);
	} else if (w->flags & RLOG_W_GONE || w->via == NULL) {
		fresh |= (w->flags & RLOG_W_GONE) != 0;
		w->via = b;
		w->flags &= (uint8_t)~RLOG_W_GONE;
	}
	if (s->own)
		judge(s, w, fresh);
	if (fresh || w->seq != was.seq || w->flags != was.flags)
		untold(s, w);
	return 0;
}

/* What came from here last: all behind it is gone, or just went elsewhere. */
void
sub_parted(struct sub *b, bool left)
{
	struct rlog_stream *s = b->s;
	struct word	   *w;

	for (w = s->words + 1; w < s->words + s->nwords; w++) {
		if (w->via != b)
			continue;
		w->via = NULL;
		if (left)
			continue;
		w->flags |= RLOG_W_GONE;
		if (s->own)
			judge(s, w, false);
		untold(s, w);
	}
}

void
stream_wake(struct rlog_stream *s)
{
	struct sub *b;

	for (b = s->subs; b != NULL; b = b->snext)
		if (b->follows)
			sub_wake(b, DIRTY_ROWS);
}

void
stream_changed(struct rlog_stream *s)
{
	stream_wake(s);
	stream_reckon(s);
	if (s->own)
		return;
	if (stream_is_live(s))
		stream_offer(s);
	else
		stream_choose(s);	/* seq counts there, and is offered */
}

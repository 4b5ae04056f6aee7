/*
 * link.c: offers, whom to follow, and what is said on a link. Whatever is to be
 * said is a bit at the pair of link and stream until it is written, and then
 * as things stand.
 *
 * Offers are a distance vector with the writer's `home` in front: a replicant
 * raises it with each core it comes to, so nobody stays with a way that led
 * through the last one. To whom we follow we offer nothing; beyond so many
 * hops there is no way. Where there is none, the one that has most is followed,
 * be it a replicant, which is on nobody's way: the cores may have begun anew.
 */
#include <stdlib.h>

#include "base/err.h"
#include "rlog/internal.h"

/* --- Links and subs ------------------------------------------------------ */

void
sub_wake(struct sub *b, uint8_t dirty)
{
	struct rlog_link *l = b->link;

	b->dirty |= dirty;
	if (b->queued)
		return;
	b->queued = true;
	b->qnext = NULL;
	if (l->qlast != NULL)
		l->qlast->qnext = b;
	else
		l->qfirst = b;
	l->qlast = b;
	if (l->qfirst == b)
		l->r->opts.calls->wake(l->r->opts.ctx, l);
}

static void
unqueue(struct sub *b)
{
	struct rlog_link *l = b->link;
	struct sub	**p = &l->qfirst, *last = NULL;

	if (!b->queued)
		return;
	for (; *p != b; p = &(*p)->qnext)
		last = *p;
	*p = b->qnext;
	if (l->qlast == b)
		l->qlast = last;
	b->queued = false;
}

int
sub_make(struct rlog_link *l, struct rlog_stream *s)
{
	struct sub *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return ERR_NOMEM;
	b->link = l;
	b->s = s;
	b->theirs.hops = b->ours.hops = RLOG_HOPS_NONE;
	b->snext = s->subs;
	if (b->snext != NULL)
		b->snext->sprev = b;
	s->subs = b;
	b->lnext = l->subs;
	if (b->lnext != NULL)
		b->lnext->lprev = b;
	l->subs = b;
	return 0;
}

void
sub_free(struct sub *b)
{
	sub_parted(b, true);
	unqueue(b);
	if (b->s->src == b)
		b->s->src = NULL;
	if (b->sprev != NULL)
		b->sprev->snext = b->snext;
	else
		b->s->subs = b->snext;
	if (b->snext != NULL)
		b->snext->sprev = b->sprev;
	if (b->lprev != NULL)
		b->lprev->lnext = b->lnext;
	else
		b->link->subs = b->lnext;
	if (b->lnext != NULL)
		b->lnext->lprev = b->lprev;
	free(b);
}

int
rlog_link_open(struct rlog *r, uint64_t node, uint64_t incarnation,
    void *data, struct rlog_link **out)
{
	struct sub	   *b, *next;
	struct rlog_stream *s;
	struct rlog_link   *l;

	if ((l = calloc(1, sizeof(*l))) == NULL)
		return ERR_NOMEM;
	l->r = r;
	l->node = node;
	l->incarnation = incarnation;
	l->data = data;
	l->home = r->opts.core ? 0 : ++r->home;
	for (s = r->streams; s != NULL; s = s->next)
		if (sub_make(l, s) < 0 || sub_met(l->subs) < 0) {
			for (b = l->subs; b != NULL; b = next) {
				next = b->lnext;
				sub_free(b);
			}
			free(l);
			return ERR_NOMEM;
		}
	l->next = r->links;
	if (l->next != NULL)
		l->next->prev = l;
	r->links = l;
	*out = l;
	for (s = r->streams; s != NULL; s = s->next)
		stream_offer(s);
	return 0;
}

void
rlog_link_close(struct rlog_link **out, bool left)
{
	struct rlog_link   *l = *out;
	struct rlog	   *r = l->r;
	struct rlog_stream *s;
	struct sub	   *b, *next;
	bool		    was;

	*out = NULL;
	if (l->prev != NULL)
		l->prev->next = l->next;
	else
		r->links = l->next;
	if (l->next != NULL)
		l->next->prev = l->prev;
	for (b = l->subs; b != NULL; b = next) {
		next = b->lnext;
		s = b->s;
		was = s->src == b;
		sub_parted(b, left);
		sub_free(b);
		if (was) {
			stream_boot_cancel(s);
			stream_set_phase(s, RLOG_DOWN);
			stream_choose(s);
		}
		stream_reckon(s);
	}
	free(l);
}

void *
rlog_link_data(const struct rlog_link *l)
{
	return l->data;
}

uint64_t
rlog_link_node(const struct rlog_link *l)
{
	return l->node;
}

void
rlog_link_prefer(struct rlog_link *l, bool prefer)
{
	struct sub *b;

	l->prefer = prefer;
	for (b = l->subs; b != NULL; b = b->lnext)
		stream_choose(b->s);
}

bool
rlog_link_settled(const struct rlog_link *l)
{
	const struct sub *b, *o, *src;

	if (!l->heard)
		return false;
	for (b = l->subs; b != NULL; b = b->lnext) {
		src = b->s->src;
		if (b->s->own ? !b->follows :
		    src != NULL && (src != b || b->s->phase != RLOG_NORMAL))
			return false;
		for (o = b->s->subs; o != NULL; o = o->snext)
			if (o->leave)	/* it must hear that first */
				return false;
	}
	return true;
}

/* --- Offers -------------------------------------------------------------- */

static struct offer
offer_of(const struct rlog_stream *s, const struct rlog_link *l)
{
	const struct rlog *r = s->r;
	struct offer	   o = { .hops = RLOG_HOPS_NONE };

	if (s->barred || l->node == s->id.writer || s->incarnation == 0)
		return o;
	o.incarnation = s->incarnation;
	if (s->own) {
		o.hops = 0;
		o.home = l->home;
	} else if (s->src != NULL && offer_is_live(&s->src->theirs) &&
	    s->src->theirs.hops + 1 < RLOG_HOPS_MAX) {
		if (s->src->link == l || !r->opts.core)
			return (struct offer){ .hops = RLOG_HOPS_NONE };
		o.hops = (uint8_t)(s->src->theirs.hops + 1);
		o.home = s->src->theirs.home;
	} else {
		o.hops = RLOG_HOPS_DEAD;
		o.seq = s->seq;
	}
	return o;
}

void
stream_offer(struct rlog_stream *s)
{
	struct offer o;
	struct sub  *b;

	for (b = s->subs; b != NULL; b = b->snext) {
		o = offer_of(s, b->link);
		if (o.hops == b->ours.hops && o.home == b->ours.home &&
		    o.incarnation == b->ours.incarnation &&
		    o.seq == b->ours.seq)
			continue;
		b->ours = o;
		sub_wake(b, DIRTY_OFFER);
	}
}

/* --- Whom to follow ------------------------------------------------------ */

static bool
may_follow(const struct sub *b)
{
	const struct rlog_stream *s = b->s;
	const struct offer	 *o = &b->theirs;

	if (offer_is_live(o))
		return o->incarnation >= s->incarnation;
	return o->hops == RLOG_HOPS_DEAD &&
	    (o->incarnation > s->incarnation ||
	    (o->incarnation == s->incarnation && o->seq > s->seq));
}

/* Is b's offer better than that of what is best so far? */
static bool
is_better(const struct sub *b, const struct sub *best)
{
	const struct offer *o = &b->theirs, *p;
	bool		    live = offer_is_live(o);

	if (best == NULL)
		return true;
	p = &best->theirs;
	if (live != offer_is_live(p))
		return live;
	if (o->incarnation != p->incarnation)
		return o->incarnation > p->incarnation;
	if (!live && o->seq != p->seq)
		return o->seq > p->seq;
	if (live && o->home != p->home)
		return o->home > p->home;
	if (b->link->prefer != best->link->prefer)
		return b->link->prefer;
	if (live && o->hops != p->hops)
		return o->hops < p->hops;
	return b->s->src == b;
}

void
stream_choose(struct rlog_stream *s)
{
	struct sub *b, *best = NULL, *was = s->src;

	if (s->own)
		return;
	for (b = s->subs; b != NULL && !s->barred; b = b->snext)
		if (may_follow(b) && is_better(b, best))
			best = b;
	if (stream_is_ragged(s))
		stream_wake(s);		/* who waited may be told now */
	if (best == was) {
		stream_offer(s);	/* its own way may have changed */
		return;
	}
	s->src = best;
	stream_boot_cancel(s);
	s->ticket++;
	s->targeted = false;
	if (was != NULL) {
		was->follow = false;
		was->leave = true;
		sub_wake(was, DIRTY_ANSWER);
	}
	if (best == NULL)
		stream_set_phase(s, RLOG_DOWN);
	else {
		if (was == NULL || s->phase != RLOG_NORMAL)
			stream_set_phase(s, RLOG_LOCAL_REPLAY);
		best->follow = true;
		sub_wake(best, DIRTY_ANSWER);
		stream_words_untold(s);
	}
	stream_offer(s);
}

/* --- Saying -------------------------------------------------------------- */

static struct rlog_msg
msg_of(const struct sub *b, enum rlog_msg_kind kind)
{
	return (struct rlog_msg){ .kind = kind, .table = b->s->id.table,
	    .writer = b->s->id.writer, .incarnation = b->s->incarnation };
}

static int
say_offer(struct sub *b, struct rlog_out *out)
{
	struct rlog_msg m = msg_of(b, RLOG_OFFER);

	m.incarnation = MAX(b->ours.incarnation, 1);
	m.home = b->ours.home;
	m.seq = b->ours.seq;
	m.hops = b->ours.hops;
	return rlog_put_msg(out, &m);
}

/* LEAVE before FOLLOW: both may be due of one that was left and taken again. */
static int
say_answer(struct sub *b, struct rlog_out *out)
{
	struct rlog_stream *s = b->s;
	struct rlog_msg	    m;

	if (b->leave) {
		m = msg_of(b, RLOG_LEAVE);
		if (rlog_put_msg(out, &m) < 0)
			return ERR_FULL;
		b->leave = false;
	}
	if (b->follow) {
		m = msg_of(b, RLOG_FOLLOW);
		m.seq = s->seq;
		m.ticket = s->ticket;
		if (rlog_put_msg(out, &m) < 0)
			return ERR_FULL;
		b->follow = false;
	}
	return 0;
}

static int
say_ack(struct sub *b, struct rlog_out *out)
{
	struct rlog_stream *s = b->s;
	struct rlog_msg	    m = msg_of(b, RLOG_ACK);
	struct rlog_word    said;
	struct word	   *w;
	int		    rc = 0;

	for (w = s->words; w < s->words + s->nwords && !w->untold; w++)
		;
	if (s->src != b || b->follow || s->incarnation == 0 ||
	    !stream_is_live(s) || w == s->words + s->nwords)
		return 0;
	if (rlog_ack_begin(out, &m) < 0)
		return ERR_FULL;
	for (; w < s->words + s->nwords; w++) {
		if (!w->untold)
			continue;
		said = (struct rlog_word){ w->node, w->incarnation, w->seq,
		    w->flags };
		if ((rc = rlog_ack_word(out, &said)) < 0)
			break;
		w->untold = false;
	}
	rlog_ack_end(out, &m);
	return rc;
}

/* Rows of a scan into the open record. 1: there is more. */
static int
fill_scan(struct sub *b, struct rlog_out *out, struct rlog_msg *m)
{
	struct rlog_stream *s = b->s;
	struct rlog_row	    row;
	uint64_t	    at = b->scan_at;

	m->flags = RLOG_F_SCAN | (b->begun ? 0 : RLOG_F_BEGIN);
	m->upto = m->from;
	b->begun = true;
	while (s->ops->scan(s->store, &at, &row) == 1) {
		if (row.mark >= s->old_mark && !stream_is_stray(s, &row) &&
		    rlog_rows_row(out, &row) < 0)
			return 1;
		b->scan_at = at;
	}
	m->flags |= RLOG_F_END;
	b->scanning = false;
	b->feed_seq = b->scan_from;
	b->hint = 0;
	b->must = true;		/* that there is no more, too */
	return 1;
}

static int
fill_order(struct sub *b, struct rlog_out *out, struct rlog_msg *m)
{
	struct rlog_stream *s = b->s;
	struct rlog_row	    row;

	while (s->ops->since(s->store, b->feed_seq, &b->hint, &row) == 1 &&
	    row.seq <= s->seq) {
		if (rlog_rows_row(out, &row) < 0) {
			m->upto = b->feed_seq;
			return 1;
		}
		b->feed_seq = row.seq;
	}
	b->feed_seq = MAX(b->feed_seq, s->seq);
	m->upto = b->feed_seq;
	return 0;
}

/* ROWS, as many as there is room for. 1: there is more, 0: nothing more,
 * ERR_FULL: no room. */
static int
say_rows(struct sub *b, struct rlog_out *out)
{
	struct rlog_stream *s = b->s;
	struct rlog_msg	    m;
	bool		    ragged;
	int		    rc;

	if (!b->follows || s->incarnation == 0 || s->barred ||
	    b->feed_inc > s->incarnation)
		return 0;
	if (b->feed_inc < s->incarnation) {
		b->feed_inc = s->incarnation;
		b->feed_seq = b->hint = 0;
		b->scanning = false;
		b->must = true;
	}
	ragged = stream_is_ragged(s);
	if (s->boot || (ragged && stream_is_live(s))) {
		b->scanning = false;	/* what is here is not whole: later */
		return 0;
	}
	if (!b->scanning && b->feed_seq < (ragged ? s->seq : s->floor)) {
		b->scanning = true;
		b->begun = false;
		b->scan_at = 0;
		b->scan_from = s->seq;
		s->r->stats.scans++;
	}
	if (!b->scanning && b->feed_seq >= s->seq && !b->must)
		return 0;
	m = msg_of(b, RLOG_ROWS);
	m.from = b->scanning ? b->scan_from : b->feed_seq;
	m.head = s->seq;
	m.whole = s->own ? s->seq : s->whole;
	m.seen = MAX(s->seq, s->seen);
	m.floor = s->floor;
	m.end = s->end;
	m.stable = s->stable;
	m.ticket = b->ticket;
	if (rlog_rows_begin(out, &m) < 0)
		return ERR_FULL;
	b->must = false;
	rc = b->scanning ? fill_scan(b, out, &m) : fill_order(b, out, &m);
	rlog_rows_end(out, &m);
	s->r->stats.rows_out += out->count;
	return rc;
}

/* What b has to say. ERR_FULL: not all of it went in. */
static int
say(struct sub *b, struct rlog_out *out, bool rows)
{
	static const struct {
		uint8_t	dirty;
		int   (*say)(struct sub *, struct rlog_out *);
	} what[] = {
		{ DIRTY_OFFER, say_offer }, { DIRTY_ANSWER, say_answer },
		{ DIRTY_ACK, say_ack },
	};
	size_t i;
	int    rc;

	for (i = 0; i < NELEM(what); i++) {
		if ((b->dirty & what[i].dirty) == 0)
			continue;
		if (what[i].say(b, out) < 0)
			return ERR_FULL;
		b->dirty &= (uint8_t)~what[i].dirty;
	}
	if ((b->dirty & DIRTY_ROWS) == 0 || !rows)
		return 0;
	if ((rc = say_rows(b, out)) < 0)
		return rc;
	if (rc == 0)
		b->dirty &= (uint8_t)~DIRTY_ROWS;
	return rc == 0 ? 0 : ERR_FULL;
}

size_t
rlog_next(struct rlog_link *l, void *buf, size_t size, bool rows)
{
	struct rlog_out	out;
	struct sub     *b, *held = NULL;
	size_t		n = 0, turns = 0;
	int		rc;

	rlog_out_init(&out, buf, MIN(size, RLOG_MSG_MAX));
	for (b = l->qfirst; b != NULL; b = b->qnext)
		n++;
	/* Round and round: who has not said all comes again, behind the
	 * others. */
	while ((b = l->qfirst) != NULL && b != held && turns++ < n) {
		rc = say(b, &out, rows);
		unqueue(b);
		if (b->dirty != 0)
			sub_wake(b, b->dirty);
		if (rc == ERR_FULL)
			break;
	}
	l->r->stats.bytes_out += out.len;
	return out.len;
}

/* --- Hearing ------------------------------------------------------------- */

static int
hear_offer(struct sub *b, const struct rlog_msg *m)
{
	b->theirs = (struct offer){ m->incarnation, m->home, m->seq, m->hops };
	stream_choose(b->s);
	if (stream_is_live(b->s) && b->s->src == b)
		sub_wake(b, DIRTY_ACK);
	return 0;
}

static int
hear_follow(struct sub *b, const struct rlog_msg *m)
{
	b->feed_inc = m->incarnation;
	b->feed_seq = m->seq;
	b->ticket = m->ticket;
	b->hint = 0;
	b->scanning = false;
	b->must = true;
	b->follows = true;
	sub_wake(b, DIRTY_ROWS);
	return 0;
}

static int
hear_leave(struct sub *b, const struct rlog_msg *m UNUSED)
{
	b->follows = false;
	sub_parted(b, true);
	return 0;
}

static int
hear_ack(struct sub *b, const struct rlog_msg *m)
{
	struct slice	 words = m->rows;
	struct rlog_word w;
	int		 rc;

	if (m->incarnation != b->s->incarnation)
		return 0;
	while (rlog_words_next(&words, &w) == 1)
		if ((rc = sub_word(b, &w)) < 0)
			return rc;
	stream_reckon(b->s);
	return 0;
}

static int
hear_rows(struct sub *b, const struct rlog_msg *m)
{
	struct rlog_stream *s = b->s;
	struct slice	    rows = m->rows;
	struct rlog_row	    row;
	bool		    scan = m->flags & RLOG_F_SCAN;
	uint64_t	    whole;
	int		    rc;

	if (s->src != b || b->follow || m->ticket != s->ticket ||
	    m->incarnation < s->incarnation) {
		s->r->stats.stale += m->count;
		return 0;
	}
	if (m->incarnation > s->incarnation &&
	    (rc = stream_adopt(s, m->incarnation)) < 0)
		return rc;
	/*
	 * All that the sender has is told, it is whole itself, and nothing was
	 * left out here because it had changed beyond where the sender is.
	 */
	whole = m->upto >= m->head && m->whole == m->head &&
	    m->head >= s->seen ? m->whole : 0;
	s->seen = MAX(s->seen, m->seen);
	s->head = m->head;
	if (!s->targeted) {
		s->targeted = true;
		s->target = m->head;
	}
	if (scan && m->flags & RLOG_F_BEGIN &&
	    (rc = stream_boot_begin(s, m->from)) < 0)
		return rc;
	if (!scan && s->boot && !s->scanned)
		stream_boot_cancel(s);	/* it had to give it up itself */
	if (scan ? !s->boot || s->scanned :
	    m->from > (s->boot ? s->replay : s->seq))
		return ERR_PROTO;
	while (rlog_rows_next(&rows, &row) == 1)
		if ((rc = stream_apply(s, &row, !scan)) < 0) {
			s->ops->loosen(s->store, s->boot ? s->replay : s->seq);
			s->loose = MAX(s->loose, row.seq);
			return rc;
		}
	s->r->stats.rows_in += m->count;
	if (m->end != 0)
		s->end = m->end;
	s->stable = MAX(s->stable, m->stable);
	if (scan) {
		s->boot_rows += m->count;
		if (m->flags & RLOG_F_END) {
			s->scanned = true;
			s->replay_to = m->head;
			s->boot_floor = m->floor;
		}
	} else if (s->boot) {
		s->replay = MAX(s->replay, m->upto);
		s->caught = m->upto >= m->head;
		s->replay_whole = whole;
	} else if (m->upto > s->seq || whole > s->whole) {
		s->seq = MAX(s->seq, m->upto);
		stream_set_whole(s, whole);
		stream_prune(s);
		stream_changed(s);
	} else
		stream_prune(s);
	return stream_progress(s);
}

static int
hear(struct rlog_link *l, const struct rlog_msg *m)
{
	static int (*const ears[])(struct sub *, const struct rlog_msg *) = {
		[RLOG_OFFER] = hear_offer, [RLOG_FOLLOW] = hear_follow,
		[RLOG_LEAVE] = hear_leave, [RLOG_ACK] = hear_ack,
		[RLOG_ROWS] = hear_rows,
	};
	struct rlog	   *r = l->r;
	struct rlog_id	    id = { m->table, m->writer };
	struct rlog_stream *s = rlog_find(r, id);
	struct sub	   *b;
	int		    rc;

	if (s == NULL) {
		if (m->kind != RLOG_OFFER || m->hops == RLOG_HOPS_NONE ||
		    id.writer == 0 || id.writer == r->opts.node ||
		    writer_is_barred(r, id.writer))
			return 0;
		rc = stream_make(r, id, NULL, NULL, &s);
		if (rc == ERR_FULL)
			r->stats.refused++;
		if (rc < 0)
			return rc == ERR_FULL ? 0 : rc;
	}
	for (b = s->subs; b->link != l; b = b->snext)
		;
	return ears[m->kind](b, m);
}

int
rlog_take(struct rlog_link *l, const void *msg, size_t len)
{
	struct rlog_in	in;
	struct rlog_msg	m;
	int		rc;

	l->heard = true;
	l->r->stats.bytes_in += len;
	if ((rc = rlog_in_init(&in, msg, len)) < 0)
		return rc;
	while ((rc = rlog_msg_next(&in, &m)) == 1)
		if ((rc = hear(l, &m)) < 0)
			return rc;
	return rc;
}

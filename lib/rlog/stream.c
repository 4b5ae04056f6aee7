/*
 * stream.c: the rows of one stream. A row that came by a scan may be younger
 * than what is here in order; it stays out of the order (store.h) until the
 * order reaches it. So what is in order never goes beyond s->seq, but for a
 * replay, which is undone (loosen) when it breaks off.
 */
#include <xxhash.h>

#include "base/err.h"
#include "rlog/internal.h"

#define MARK_MAX	255u

static uint64_t
row_hash(const struct rlog_row *row)
{
	uint64_t h = XXH3_64bits_withSeed(row->key.data, row->key.len,
	    row->seq);

	return XXH3_64bits_withSeed(row->value.data, row->value.len, h);
}

static void
uncount(struct rlog_stream *s, const struct rlog_row *row)
{
	if (row->deleted) {
		s->tombs--;
		return;
	}
	s->rows--;
	s->digest -= row_hash(row);
}

static void
count(struct rlog_stream *s, const struct rlog_row *row)
{
	if (row->deleted) {
		s->tombs++;
		return;
	}
	s->rows++;
	s->digest += row_hash(row);
}

/* Put row in place of have (ref 0: of nothing). */
static int
put(struct rlog_stream *s, struct rlog_row *row, const struct rlog_row *have)
{
	uint64_t was;
	int	 rc;

	row->ref = have->ref;
	row->mark = s->pass;
	was = have->ref != 0 && !have->deleted ? row_hash(have) : 0;
	if ((rc = s->ops->put(s->store, row)) < 0)
		return rc;
	if (have->ref != 0) {		/* its slices are gone */
		if (have->deleted)
			s->tombs--;
		else {
			s->rows--;
			s->digest -= was;
		}
	}
	return 0;
}

static bool
same(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 ||
	    memcmp(a.data, b.data, a.len) == 0);
}

static bool
is_old(const struct rlog_stream *s, const struct rlog_row *row)
{
	return row->mark < s->old_mark;
}

static int
get(const struct rlog_stream *s, struct slice key, struct rlog_row *have)
{
	*have = (struct rlog_row){ 0 };
	return s->ops->get(s->store, key, have);
}

static int
tell_row(struct rlog_stream *s, const struct rlog_row *row)
{
	return s->r->opts.calls->row(s->r->opts.ctx, s, row);
}

/* --- Our own ------------------------------------------------------------- */

static int
write_row(struct rlog_stream *s, struct rlog_row *row,
    const struct rlog_row *have)
{
	int rc;

	row->seq = s->seq + 1;
	row->ordered = true;
	if ((rc = put(s, row, have)) < 0)
		return rc;
	count(s, row);
	s->seq++;
	stream_prune(s);
	stream_changed(s);
	return 0;
}

int
rlog_put(struct rlog_stream *s, struct slice key, struct slice value,
    uint64_t *seq)
{
	struct rlog_row have, row = { .key = key, .value = value };
	int		rc;

	if (!s->own || key.len == 0 || key.len > RLOG_ROW_MAX ||
	    value.len > RLOG_ROW_MAX - key.len)
		return ERR_INVAL;
	rc = get(s, key, &have);
	if (rc < 0 || have.deleted || !same(have.value, value)) {
		if ((rc = write_row(s, &row, &have)) < 0)
			return rc;
		have.seq = row.seq;
	}
	if (seq != NULL)
		*seq = have.seq;
	return 0;
}

int
rlog_del(struct rlog_stream *s, struct slice key, uint64_t *seq)
{
	struct rlog_row have, row = { .key = key, .deleted = true };
	int		rc;

	if (!s->own || key.len == 0 || key.len > RLOG_ROW_MAX)
		return ERR_INVAL;
	if ((rc = get(s, key, &have)) == 0 && !have.deleted) {
		if ((rc = write_row(s, &row, &have)) < 0)
			return rc;
		have.seq = row.seq;
	}
	if (seq != NULL)
		*seq = have.seq;
	return rc;
}

void
rlog_end(struct rlog_stream *s)
{
	if (!s->own || s->end != 0)
		return;
	s->end = ++s->seq;
	stream_changed(s);
}

/* --- Others' ------------------------------------------------------------- */

int
stream_apply(struct rlog_stream *s, const struct rlog_row *in, bool order)
{
	struct rlog_row have, row = *in;
	bool		was, seen;
	int		rc;

	if (!order)
		s->loose = MAX(s->loose, in->seq);
	(void)get(s, in->key, &have);
	if (have.ref != 0 && !is_old(s, &have) && have.seq >= in->seq) {
		s->ops->mark(s->store, have.ref, s->pass);
		if (!order || have.ordered || have.seq != in->seq)
			return 0;
		row = have;		/* its place in the order has come */
		row.ordered = true;
		row.mark = s->pass;
		return s->ops->put(s->store, &row);
	}
	was = have.ref != 0 && !have.deleted;
	seen = row.deleted ? was : !was || !same(have.value, row.value);
	if (seen && (rc = tell_row(s, &row)) < 0)
		return rc;
	row.ordered = order;
	if ((rc = put(s, &row, &have)) < 0)
		return rc;
	count(s, &row);
	return 0;
}

/* The next pass: what it does not name can be told. */
static void
next_pass(struct rlog_stream *s)
{
	struct rlog_row	row;
	uint64_t	at = 0;

	if (s->pass < MARK_MAX) {
		s->pass++;
		return;
	}
	while (s->ops->scan(s->store, &at, &row) == 1)
		s->ops->mark(s->store, row.ref, is_old(s, &row) ? 0 :
		    stream_is_stray(s, &row) ? 1 : 2);
	s->old_mark = 1;
	s->stray_mark = 2;
	s->pass = 3;
}

/* Another incarnation of the writer: all there is stays to be seen until the
 * end mark, or until it is named, but is of no order. */
int
stream_adopt(struct rlog_stream *s, uint64_t incarnation)
{
	struct rlog_row	row;

	stream_boot_cancel(s);
	while (s->ops->oldest(s->store, &row) == 1) {
		uncount(s, &row);
		s->ops->drop(s->store, row.ref);
	}
	s->ops->loosen(s->store, 0);
	next_pass(s);
	s->old_mark = s->pass;
	s->old = s->rows + s->tombs > 0;
	s->sweeping = s->strays = false;
	s->incarnation = incarnation;
	s->seq = s->floor = s->end = s->stable = s->confirmed = 0;
	s->loose = s->whole = s->seen = 0;
	s->targeted = false;
	stream_set_phase(s, RLOG_LOCAL_REPLAY);
	stream_words_reset(s);
	stream_changed(s);
	return 0;
}

/* Tombstones that everybody has seen, and those beyond the bound. During a
 * scan all stay: the floor will be that of whom we follow. */
void
stream_prune(struct rlog_stream *s)
{
	struct rlog_row	row;
	struct sub     *b;
	bool		any = false;

	if (s->boot)
		return;
	while (s->tombs > 0 && s->ops->oldest(s->store, &row) == 1 &&
	    (row.seq <= s->stable || s->tombs > s->r->opts.tombstones)) {
		any |= row.seq <= s->stable;
		s->floor = MAX(s->floor, row.seq);
		uncount(s, &row);
		s->ops->drop(s->store, row.ref);
	}
	if (!any)
		return;
	for (b = s->subs; b != NULL; b = b->snext)
		if (b->follows) {
			b->must = true;		/* tell the others as well */
			sub_wake(b, DIRTY_ROWS);
		}
}

void
stream_set_phase(struct rlog_stream *s, enum rlog_phase phase)
{
	if (s->phase == phase)
		return;
	s->phase = phase;
	if (s->r->opts.calls->phase != NULL)
		s->r->opts.calls->phase(s->r->opts.ctx, s, phase);
}

/* Whoever follows has to hear it, be there rows or not. */
void
stream_set_whole(struct rlog_stream *s, uint64_t whole)
{
	struct sub *b;

	if (whole <= s->whole)
		return;
	s->whole = whole;
	for (b = s->subs; b != NULL; b = b->snext)
		b->must |= b->follows;
}

/* --- Bootstrap ----------------------------------------------------------- */

int
stream_boot_begin(struct rlog_stream *s, uint64_t from)
{
	stream_boot_cancel(s);
	next_pass(s);
	s->boot = true;
	s->scanned = s->caught = false;
	s->replay_whole = 0;
	s->stray = s->rows + s->tombs > 0;
	s->replay = from;
	s->boots++;
	s->boot_rows = 0;
	stream_set_phase(s, RLOG_BOOTSTRAP);
	stream_reckon(s);
	return 0;
}

void
stream_boot_cancel(struct rlog_stream *s)
{
	if (!s->boot)
		return;
	s->boot = false;
	s->loose = MAX(s->loose, s->replay);
	s->ops->loosen(s->store, s->seq);
	stream_wake(s);			/* who waits to be told by a scan */
	stream_reckon(s);
}

static int
boot_end(struct rlog_stream *s)
{
	int rc;

	s->boot_floor = MIN(s->boot_floor, s->replay);
	if (s->ops->settle == NULL)
		s->boot_floor = s->replay;
	else if ((rc = s->ops->settle(s->store, s->replay, s->old_mark)) < 0)
		return rc;
	s->floor = s->boot_floor;
	s->seq = s->replay;
	stream_set_whole(s, s->replay_whole);
	s->boot = false;
	s->strays = s->stray;
	s->stray_mark = s->pass;
	s->sweeping = false;		/* from the start */
	s->sweep_upto = s->seq;
	stream_prune(s);
	stream_changed(s);
	return 0;
}

int
stream_progress(struct rlog_stream *s)
{
	bool	 ended;
	int	 rc;

	if (s->boot) {
		stream_set_phase(s, s->scanned ? RLOG_LOCAL_REPLAY :
		    RLOG_BOOTSTRAP);
		if (!s->scanned || s->replay < s->replay_to || !s->caught)
			return 0;
		if ((rc = boot_end(s)) < 0)
			return rc;
	}
	if (s->sweeping)
		return 0;
	/* What is named later than it was first is not to go in between. */
	ended = s->end != 0 && s->whole >= s->end;
	if (s->strays || (s->old && ended)) {
		s->sweeping = true;
		s->sweep_old = s->old && ended;
		s->sweep_at = 0;
		return 0;
	}
	if (s->src != NULL && s->targeted && s->seq >= s->target)
		stream_set_phase(s, RLOG_NORMAL);
	return 0;
}

/* 1: there is more, 0: the sweep is over. */
static int
sweep(struct rlog_stream *s, size_t *budget)
{
	struct rlog_row	row, gone;
	uint64_t	at;
	int		rc;

	while (*budget > 0) {
		at = s->sweep_at;
		if (s->ops->scan(s->store, &at, &row) == 0) {
			s->sweeping = s->strays = false;
			s->old = s->old && !s->sweep_old;
			return stream_progress(s);
		}
		(*budget)--;
		if (is_old(s, &row) ? s->sweep_old : stream_is_stray(s, &row)) {
			gone = (struct rlog_row){ .key = row.key,
			    .seq = s->seq, .deleted = true };
			if (!row.deleted && (rc = tell_row(s, &gone)) < 0)
				return rc;
			uncount(s, &row);
			s->ops->drop(s->store, row.ref);
		}
		s->sweep_at = at;
	}
	return 1;
}

int
rlog_tidy(struct rlog *r, size_t budget)
{
	struct rlog_stream *s, *next;
	int		    rc;

	for (s = r->streams; s != NULL; s = next) {
		next = s->next;
		while (s->sweeping) {
			if (budget == 0)
				return 1;
			if ((rc = sweep(s, &budget)) < 0)
				return rc;
		}
		if (s->barred && !s->old)
			stream_free(s);
	}
	return 0;
}

/* --- Looking ------------------------------------------------------------- */

uint64_t
rlog_acked(const struct rlog_stream *s)
{
	return s->acked;
}

void
rlog_confirm(struct rlog_stream *s, uint64_t seq)
{
	if (seq <= s->confirmed)
		return;
	s->confirmed = seq;
	stream_reckon(s);
}

int
rlog_get(const struct rlog_stream *s, struct slice key, struct rlog_row *row,
    bool *old)
{
	struct rlog_row have;

	if (key.len == 0 || get(s, key, &have) < 0 || have.deleted)
		return ERR_NOTFOUND;
	*row = have;
	*old = is_old(s, &have);
	return 0;
}

int
rlog_rows(const struct rlog_stream *s, uint64_t *at, struct rlog_row *row)
{
	while (s->ops->scan(s->store, at, row) == 1)
		if (!row->deleted)
			return 1;
	return 0;
}

void
rlog_look(const struct rlog_stream *s, struct rlog_status *out)
{
	uint32_t i;

	*out = (struct rlog_status){
		.id = s->id, .own = s->own, .phase = s->phase,
		.incarnation = s->incarnation, .seq = s->seq, .head = s->head,
		.floor = s->floor, .acked = s->acked, .rows = s->rows,
		.tombstones = s->tombs, .digest = s->digest,
		.ended = s->end != 0 && !s->old &&
		    (s->own ? s->seq : s->whole) >= s->end,
		.bootstraps = s->boots, .bootstrap_rows = s->boot_rows,
		.whole = s->own ? s->seq : s->whole,
		.sweeping = s->strays || s->sweeping,
		.ragged = !s->boot && !s->own && (stream_is_ragged(s) ||
		s->whole < s->seq), .nodes = s->nwords,
		.hops = RLOG_HOPS_DEAD,
	};
	if (s->own) {
		out->phase = RLOG_NORMAL;
		out->head = s->seq;
		out->hops = 0;
	} else if (s->src != NULL) {
		out->source = s->src->link->node;
		if (offer_is_live(&s->src->theirs))
			out->hops = (uint8_t)(s->src->theirs.hops + 1);
	}
	for (i = 1; i < s->nwords; i++)
		out->waited += s->words[i].waited;
}

int
rlog_follower(const struct rlog_stream *s, uint32_t i,
    struct rlog_follower *out)
{
	const struct word *w;

	if (i >= s->nwords)
		return 0;
	w = &s->words[i];
	*out = (struct rlog_follower){ w->node, w->incarnation, w->seq,
	    w->waited, (w->flags & RLOG_W_GONE) != 0 };
	return 1;
}

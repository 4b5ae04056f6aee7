#include "rlog/rlog.h"

#include <stdlib.h>

#include "base/err.h"
#include "rlog/internal.h"

enum {
	TIMEOUT_MS = 1000, TOMBSTONES = 65536, STREAMS = 4096
};

int
rlog_new(struct rlog **out, const struct rlog_opts *o)
{
	struct rlog *r;

	if (o->node == 0 || o->incarnation == 0)
		return ERR_INVAL;
	if ((r = calloc(1, sizeof(*r))) == NULL)
		return ERR_NOMEM;
	r->opts = *o;
	if (r->opts.timeout_ms == 0)
		r->opts.timeout_ms = TIMEOUT_MS;
	if (r->opts.tombstones == 0)
		r->opts.tombstones = TOMBSTONES;
	if (r->opts.streams == 0)
		r->opts.streams = STREAMS;
	htab_init(&r->by_id);
	*out = r;
	return 0;
}

void
rlog_free(struct rlog **out)
{
	struct rlog	   *r = *out;
	struct rlog_link   *l;
	struct rlog_stream *s;

	if (r == NULL)
		return;
	while ((s = r->streams) != NULL)
		stream_free(s);
	while ((l = r->links) != NULL)
		rlog_link_close(&l, false);
	htab_fini(&r->by_id);
	free(r->barred);
	free(r);
	*out = NULL;
}

/* --- Streams ------------------------------------------------------------- */

static uint64_t
id_hash(const struct rlog *r, struct rlog_id id)
{
	uint64_t h = (id.writer ^ r->opts.seed) * 0x9e3779b97f4a7c15u;

	h = (h ^ h >> 29 ^ id.table) * 0xbf58476d1ce4e5b9u;
	return h ^ h >> 32;
}

struct rlog_id
rlog_stream_id(const struct rlog_stream *s)
{
	return s->id;
}

struct rlog_stream *
rlog_find(struct rlog *r, struct rlog_id id)
{
	uint64_t	    h = id_hash(r, id);
	struct rlog_stream *s;
	size_t		    i;

	if (r->by_id.n == 0)
		return NULL;
	for (i = htab_first(&r->by_id, h);
	    (s = htab_at(&r->by_id, h, &i)) != NULL; i++)
		if (s->id.table == id.table && s->id.writer == id.writer)
			return s;
	return NULL;
}

struct rlog_stream *
rlog_walk(struct rlog *r, struct rlog_stream *at)
{
	return at == NULL ? r->streams : at->next;
}

void
stream_free(struct rlog_stream *s)
{
	struct rlog *r = s->r;

	while (s->subs != NULL)
		sub_free(s->subs);
	htab_del(&r->by_id, id_hash(r, s->id), s);
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		r->streams = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	r->nstreams--;
	s->ops->free(s->store);
	free(s->words);
	free(s);
}

int
stream_make(struct rlog *r, struct rlog_id id, void *store,
    const struct rlog_ops *ops, struct rlog_stream **out)
{
	const struct rlog_calls *calls = r->opts.calls;
	struct rlog_stream *s;
	struct rlog_link   *l;
	int		    rc;

	if (store == NULL && id.writer != r->opts.node && calls->store != NULL)
		store = calls->store(r->opts.ctx, id, &ops);
	else if (store == NULL) {
		ops = &rlog_table_ops;
		store = rlog_table_new(r->opts.seed);
	}
	if (store == NULL)
		return ERR_NOMEM;
	rc = ERR_FULL;
	if (r->nstreams >= r->opts.streams)
		goto free_store;
	rc = ERR_NOMEM;
	if ((s = calloc(1, sizeof(*s))) == NULL)
		goto free_store;
	s->r = r;
	s->id = id;
	s->ops = ops;
	s->store = store;
	s->pass = s->old_mark = 1;
	s->own = id.writer == r->opts.node;
	s->incarnation = s->own ? r->opts.incarnation : 0;
	if (stream_words_init(s) < 0 ||
	    htab_add(&r->by_id, id_hash(r, id), s) < 0) {
		free(s->words);
		free(s);
		goto free_store;
	}
	r->nstreams++;
	s->next = r->streams;
	if (s->next != NULL)
		s->next->prev = s;
	r->streams = s;
	for (l = r->links; l != NULL; l = l->next)
		if ((rc = sub_make(l, s)) < 0 ||
		    (rc = sub_met(l->subs)) < 0) {
			stream_free(s);
			return rc;
		}
	*out = s;
	return 0;

free_store:
	ops->free(store);
	return rc;
}

int
rlog_open(struct rlog *r, uint32_t table, void *store,
    const struct rlog_ops *ops, struct rlog_stream **out)
{
	struct rlog_id id = { table, r->opts.node };
	int	       rc;

	if (rlog_find(r, id) != NULL) {
		if (store != NULL)
			ops->free(store);
		return ERR_EXISTS;
	}
	if ((rc = stream_make(r, id, store, ops, out)) < 0)
		return rc;
	stream_reckon(*out);
	stream_offer(*out);
	return 0;
}

/* --- The node ------------------------------------------------------------ */

void
rlog_tick(struct rlog *r, uint64_t now_ms)
{
	struct rlog_stream *s;

	r->now = now_ms;
	for (s = r->streams; s != NULL; s = s->next)
		stream_late(s);
}

void
rlog_members(struct rlog *r, uint32_t n)
{
	struct rlog_stream *s;

	r->members = n;
	for (s = r->streams; s != NULL; s = s->next)
		stream_reckon(s);
}

bool
writer_is_barred(const struct rlog *r, uint64_t writer)
{
	uint32_t i;

	for (i = 0; i < r->nbarred; i++)
		if (r->barred[i] == writer)
			return true;
	return false;
}

int
rlog_bar(struct rlog *r, uint64_t node)
{
	struct rlog_stream *s;
	uint64_t	   *more;
	int		    rc;

	if (node == r->opts.node)
		return ERR_INVAL;
	if (writer_is_barred(r, node))
		return 0;
	more = realloc(r->barred, (r->nbarred + 1) * sizeof(*more));
	if (more == NULL)
		return ERR_NOMEM;
	r->barred = more;
	r->barred[r->nbarred++] = node;
	for (s = r->streams; s != NULL; s = s->next) {
		stream_words_drop(s, node);
		if (s->id.writer != node)
			continue;
		/* An incarnation that never was, and is at its end. */
		s->barred = true;
		stream_choose(s);
		if ((rc = stream_adopt(s, UINT64_MAX)) < 0)
			return rc;
		s->seq = s->whole = s->end = 1;
		if ((rc = stream_progress(s)) < 0)
			return rc;
	}
	return 0;
}

void
rlog_stats(const struct rlog *r, struct rlog_stats *out)
{
	*out = r->stats;
}

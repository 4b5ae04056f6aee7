/*
 * query.c: questions of the tools: which sessions there are, one of them in
 * full, away with one; export.c and import.c do the rest.
 */
#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "log/log.h"

enum {
	SMALL		= 128 * 1024,	/* of a page */
	STEPS_MAX	= 20000,	/* cells looked at for one */
	ROWS_MAX	= 2000		/* sessions looked into for one */
};

/* --- Rows ------------------------------------------------------------------- */

static uint32_t
left_of(const struct store *st, const struct session *s)
{
	uint64_t ends = session_ends_ms(s);

	if (s->connected || ends == UINT64_MAX)
		return s->expiry_s;
	return ends <= st->now_ms ? 0 :
	    (uint32_t)((ends - st->now_ms) / 1000);
}

static uint32_t
inflight_of(const struct session *s)
{
	uint64_t	at = s->base;
	uint32_t	n = 0;

	while ((at = session_next(s, at)) < s->sent) {
		at++;
		n++;
	}
	return n;
}

static struct slice
state_of(const struct session *s)
{
	const char *name = import_is_under_way(s) ? "importing" :
	    s->connected ? "connected" : "offline";

	return (struct slice){ (const uint8_t *)name, strlen(name) };
}

/* listener: where its name is put. */
static void
row_of(const struct store *st, const struct session *s, struct client_row *r,
    char listener[PROC_NAME_MAX])
{
	memset(r, 0, sizeof(*r));
	r->client_id = (struct slice){ (const uint8_t *)s->client_id,
	    s->client_id_len };
	r->version = s->version;
	r->state = state_of(s);
	r->stored = s->durable;
	r->expiry_s = left_of(st, s);
	if (s->connected && s->user != NULL) {
		snprintf(listener, PROC_NAME_MAX, "listener.%u",
		    session_here(s)->listener);
		r->listener = (struct slice){ (const uint8_t *)listener,
		    strlen(listener) };
	}
	if (!s->connected)
		r->offline_ms = s->at_ms;
	r->queue_inflight = inflight_of(s);
	r->queue_len = s->queued - r->queue_inflight;
	r->queue_bytes = s->queued_bytes;
	r->inbound = session_here(s)->inbound.n;
	r->will = session_here(s)->will.len > 0;
	r->nsubs = s->subs.n;
}

/* --- Many ------------------------------------------------------------------- */

static long
list(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct slice		 cursor = { NULL, 0 };
	struct reply_writer	 w;
	struct client_row	 row;
	struct session		*s;
	char			 listener[PROC_NAME_MAX];
	uint8_t			 at[8];
	uint64_t		 place = 0;
	size_t			 steps = STEPS_MAX, max = ROWS_MAX;

	if (q->cursor.len == sizeof(at))
		place = get_le64(q->cursor.data);
	if (q->limit > 0)
		max = MIN(max, q->limit);
	reply_begin(&w, buf, size, q->id);
	while ((s = shard_at(st->state, &place, &steps)) != NULL) {
		if (s->durable &&
		    !(q->flags & QUERY_OFFLINE && s->connected &&
		    !import_is_under_way(s))) {
			if (w.rows == max)
				break;
			row_of(st, s, &row, listener);
			if (reply_client(&w, &row) < 0 && w.rows > 0)
				break;
		}
		if (++place == 0)
			break;
	}
	if (place != 0) {
		put_le64(at, place);
		cursor = (struct slice){ at, sizeof(at) };
	}
	return reply_end(&w, cursor);
}

/* Those of the client ids in arg. */
static long
some(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct slice		 none = { NULL, 0 };
	struct reply_writer	 w;
	struct client_row	 row;
	struct session		*s;
	char			 listener[PROC_NAME_MAX];
	size_t			 at = 0, len;

	reply_begin(&w, buf, size, q->id);
	while (at + 2 <= q->arg.len) {
		len = get_le16(q->arg.data + at);
		if (q->arg.len - at - 2 < len)
			break;
		s = shard_find(st->state, q->arg.data + at + 2, len);
		at += 2 + len;
		if (s == NULL || !s->durable)
			continue;
		row_of(st, s, &row, listener);
		if (reply_client(&w, &row) < 0)
			break;
	}
	return reply_end(&w, none);
}

/* --- One -------------------------------------------------------------------- */

/* The filter as it was subscribed to; *at is where in buf it may be put. */
static struct slice
name_of(const struct index_filter *f, uint8_t *buf, size_t *at)
{
	static const char	share[] = "$share/";
	struct slice		name = { (const uint8_t *)f->text, f->len };
	uint8_t			*p = buf + *at;

	if (!f->is_group)
		return name;
	name.data = p;
	memcpy(p, share, sizeof(share) - 1);
	p += sizeof(share) - 1;
	memcpy(p, f->share->name, f->share->name_len);
	p += f->share->name_len;
	*p++ = '/';
	memcpy(p, f->text, f->len);
	name.len = (size_t)(p + f->len - name.data);
	*at += name.len;
	return name;
}

/* What is told of s's subscriptions, in two buffers to be freed. */
static void
subs_of(const struct session *s, struct client_row *row,
    struct sub_row **subs, uint8_t **names)
{
	const struct index_filter	*f;
	const struct index_sub		*sub;
	size_t				 n = MIN(s->subs.n,
					    (uint32_t)QUERY_SUBS_MAX);
	size_t				 i, at = 0, size = 1;

	for (i = 0; i < n; i++) {
		f = s->subs.links[i].filter;
		if (f->is_group)
			size += strlen("$share//") + f->share->name_len +
			    f->len;
	}
	*subs = calloc(n + 1, sizeof(**subs));
	*names = malloc(size);
	if (*subs == NULL || *names == NULL)
		return;
	for (i = 0; i < n; i++) {
		f = s->subs.links[i].filter;
		sub = &f->subs[s->subs.links[i].pos];
		(*subs)[i].filter = name_of(f, *names, &at);
		(*subs)[i].options = (uint32_t)(sub->qos |
		    sub->no_local << 2 | sub->rap << 3 | sub->rh << 4);
		(*subs)[i].id = sub->id;
	}
	row->subs = *subs;
	row->subs_told = n;
}

static long
one(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct slice		 none = { NULL, 0 };
	struct session		*s = shard_find(st->state, q->arg.data,
				    q->arg.len);
	struct reply_writer	 w;
	struct client_row	 row;
	struct sub_row		*subs;
	uint8_t			*names;
	char			 listener[PROC_NAME_MAX];

	reply_begin(&w, buf, size, q->id);
	if (s == NULL || !s->durable)
		return reply_end(&w, none);
	row_of(st, s, &row, listener);
	subs_of(s, &row, &subs, &names);
	while (reply_client(&w, &row) < 0 && row.subs_told > 0)
		row.subs_told /= 2;		/* long filters: tell fewer */
	free(subs);
	free(names);
	return reply_end(&w, none);
}

static long
expire(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	static const char	 state[] = "connected";
	struct slice		 none = { NULL, 0 };
	struct session		*s = shard_find(st->state, q->arg.data,
				    q->arg.len);
	struct reply_writer	 w;
	struct client_row	 row;
	char			 listener[PROC_NAME_MAX], id[200];
	int			 rc;

	/* Who has no session to keep may be connected all the same. */
	memset(&row, 0, sizeof(row));
	row.client_id = q->arg;
	row.state = (struct slice){ (const uint8_t *)state, strlen(state) };
	if (s != NULL)
		row_of(st, s, &row, listener);
	reply_begin(&w, buf, size, q->id);
	(void)reply_client(&w, &row);
	rc = desk_expire(st, q->arg.data, q->arg.len);
	if (rc == ERR_NOTFOUND) {
		reply_begin(&w, buf, size, q->id);
		return reply_end(&w, none);
	}
	if (rc < 0)
		return reply_error(buf, size, q->id, EX_TEMPFAIL,
		    "its disk takes no more: nothing was ended");
	metric_inc(&m_ended_by_tool);
	snprintf(id, sizeof(id), "%.*s", (int)MIN(q->arg.len, sizeof(id) - 1),
	    (const char *)q->arg.data);
	log_info("session.ended", "client=%s by=tool", log_quote(id));
	return reply_end(&w, none);
}

/* --- Figures ---------------------------------------------------------------- */

static long
stats(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct shard_counts c = shard_counts(st->state);
	const struct { const char *key; uint64_t value; } rows[] = {
		{ "shard", st->shard },
		{ "shards", st->nshards },
		{ "listeners", st->nlisteners },
		{ "router", st->tell.router != NULL },
		{ "filters", index_nfilters(shard_index(st->state)) },
		{ "routes_told", st->tell.seq },
		{ "routes_acked", st->tell.acked },
		{ "sessions", c.sessions },
		{ "queued", c.queued },
		{ "retained", retain_count(st->retain) },
	};
	struct slice		 none = { NULL, 0 };
	struct reply_writer	 w;
	struct kv_row		 kv;
	char			 text[32];
	size_t			 i;

	reply_begin(&w, buf, size, q->id);
	for (i = 0; i < NELEM(rows); i++) {
		snprintf(text, sizeof(text), "%llu",
		    (unsigned long long)rows[i].value);
		kv.key = (struct slice){ (const uint8_t *)rows[i].key,
		    strlen(rows[i].key) };
		kv.value = (struct slice){ (const uint8_t *)text,
		    strlen(text) };
		if (reply_kv(&w, &kv) < 0)
			break;
	}
	return reply_end(&w, none);
}

static long
answer(struct store *st, const struct query *q, uint64_t from, uint8_t *buf)
{
	switch ((enum query_what)q->what) {
	case QUERY_STATS:
		return stats(st, q, buf, SMALL);
	case QUERY_SESSIONS:
		return list(st, q, buf, SMALL);
	case QUERY_SESSIONS_OF:
		return some(st, q, buf, QUERY_BODY_MAX);
	case QUERY_SESSION:
		return one(st, q, buf, SMALL);
	case QUERY_EXPIRE:
		return expire(st, q, buf, SMALL);
	case QUERY_EXPORT:
		return export_page(st, q, buf, QUERY_BODY_MAX);
	case QUERY_IMPORT:
		return import_batch(st, q, from, buf, SMALL);
	case QUERY_CLIENTS:
	case QUERY_CLIENT:
	case QUERY_ROUTES:
	case QUERY_MATCH:
	case QUERY_KICK:
	case QUERY_CLUSTER:
	case QUERY_CLUSTER_JOIN:
	case QUERY_CLUSTER_LEAVE:
	case QUERY_CLUSTER_FORCE:
	case QUERY_CLUSTER_HEAL:
	case QUERY_CLUSTER_TASK:
		break;
	}
	return reply_error(buf, SMALL, q->id, EX_USAGE,
	    "a session store does not answer this question");
}

int
on_query(void *ctx, struct bus_frame *f)
{
	struct store	*st = ctx;
	struct query	 q;
	uint8_t		*buf;
	long		 n;

	if (query_decode(&q, f->body, f->len) < 0)
		return ERR_PROTO;
	if ((buf = malloc(QUERY_BODY_MAX)) == NULL)
		return ERR_NOMEM;
	n = answer(st, &q, f->from.incarnation, buf);
	if (n > 0 && bus_reply(st->bus, &f->from.addr, KIND_REPLY, buf,
	    (size_t)n) == 0)
		metric_inc(&m_queries);
	free(buf);
	return 0;
}

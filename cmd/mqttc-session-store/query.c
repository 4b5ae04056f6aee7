/*
 * query.c: questions of the tools.
 */
#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "proto/query.h"

enum { PAGE = 128 * 1024 };

static long
stats(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	const struct { const char *key; uint64_t value; } rows[] = {
		{ "shard", st->shard },
		{ "shards", st->nshards },
		{ "listeners", st->nlisteners },
		{ "router", st->tell.router != NULL },
		{ "filters", index_nfilters(st->index) },
		{ "routes_told", st->tell.seq },
		{ "routes_acked", st->tell.acked },
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

int
on_query(void *ctx, struct bus_frame *f)
{
	struct store	*st = ctx;
	struct query	 q;
	uint8_t		*buf;
	long		 n;

	if (query_decode(&q, f->body, f->len) < 0)
		return ERR_PROTO;
	if ((buf = malloc(PAGE)) == NULL)
		return ERR_NOMEM;
	switch (q.what) {
	case QUERY_STATS:
		n = stats(st, &q, buf, PAGE);
		break;
	default:
		n = reply_error(buf, PAGE, q.id, EX_USAGE,
		    "a session store does not answer this question");
		break;
	}
	if (n > 0 && bus_reply(st->bus, &f->from.addr, KIND_REPLY, buf,
	    (size_t)n) == 0)
		metric_inc(&m_queries);
	free(buf);
	return 0;
}

/*
 * query.c: questions of the tools: which clients are here, one of them in
 * full, and off with one.
 */
#include "listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include "base/err.h"
#include "log/log.h"
#include "proto/query.h"

enum { PAGE = 128 * 1024, SCAN_MAX = 4096 };

static void
row_of(struct listener *l, const struct conn *c, struct client_row *r,
    char peer[64])
{
	const char *name = proc_name(l->proc);

	memset(r, 0, sizeof(*r));
	client_peer(c, peer, 64);
	r->client_id = (struct slice){ (const uint8_t *)c->client_id,
	    c->client_id_len };
	r->peer = (struct slice){ (const uint8_t *)peer, strlen(peer) };
	if (c->username != NULL)
		r->username = (struct slice){ (const uint8_t *)c->username,
		    strlen(c->username) };
	r->listener = (struct slice){ (const uint8_t *)name, strlen(name) };
	r->version = c->version;
	r->keepalive_s = c->keepalive_s;
	r->connected_ms = c->since_ms;
	r->clean = c->handle == 0;	/* no session outlives it */
	r->inflight = c->window == NULL ? 0 : window_inflight(c->window);
	if (c->mqueue != NULL) {
		r->mqueue_len = c->mqueue->n;
		r->mqueue_bytes = c->mqueue->bytes;
	}
	r->bytes_in = c->bytes_in;
	r->bytes_out = c->bytes_out;
	r->messages_in = c->msgs_in;
	r->messages_out = c->msgs_out;
	r->dropped = c->dropped;
	r->nsubs = c->subs.n;
}

/* One page: the cursor is the place in the table of client ids, good enough
 * for a table that changes while it is looked at. */
static long
list(struct listener *l, const struct query *q, uint8_t *buf, size_t size)
{
	struct reply_writer	 w;
	struct client_row	 row;
	struct slice		 cursor = { NULL, 0 };
	struct conn		*c;
	char			 peer[64];
	uint8_t			 at[8];
	size_t			 i = 0, seen;

	if (q->cursor.len == sizeof(at))
		i = (size_t)get_le64(q->cursor.data);
	reply_begin(&w, buf, size, q->id);
	for (seen = 0; l->clients.cells != NULL && i <= l->clients.mask;
	    i++, seen++) {
		if (seen == SCAN_MAX || (q->limit > 0 && w.rows >= q->limit))
			break;
		if ((c = l->clients.cells[i].item) == NULL)
			continue;
		row_of(l, c, &row, peer);
		if (reply_client(&w, &row) < 0) {
			if (w.rows == 0)	/* no page holds it: go on */
				continue;
			break;
		}
	}
	if (l->clients.cells != NULL && i <= l->clients.mask) {
		put_le64(at, i);
		cursor = (struct slice){ at, sizeof(at) };
	}
	return reply_end(&w, cursor);
}

/* Where names of shared subscriptions are put together. */
struct names {
	uint8_t	*buf;
	size_t	 at;
};

static size_t
names_size(const struct conn *c, size_t n)
{
	const struct index_filter	*f;
	size_t				 i, size = 1;

	for (i = 0; i < n; i++) {
		f = c->subs.links[i].filter;
		if (f->is_group)
			size += strlen("$share//") + f->share->name_len +
			    f->len;
	}
	return size;
}

/* The filter as it was subscribed to; $queue is the group of that name. */
static struct slice
name_of(const struct index_filter *f, struct names *names)
{
	static const char	share[] = "$share/";
	struct slice		name = { (const uint8_t *)f->text, f->len };
	uint8_t			*p;

	if (!f->is_group)
		return name;
	name.data = p = names->buf + names->at;
	memcpy(p, share, sizeof(share) - 1);
	p += sizeof(share) - 1;
	memcpy(p, f->share->name, f->share->name_len);
	p += f->share->name_len;
	*p++ = '/';
	memcpy(p, f->text, f->len);
	name.len = (size_t)(p + f->len - name.data);
	names->at += name.len;
	return name;
}

static long
one(struct listener *l, const struct query *q, uint8_t *buf, size_t size,
    bool kick)
{
	struct slice		 none = { NULL, 0 };
	struct reply_writer	 w;
	struct client_row	 row;
	struct sub_row		*subs = NULL;
	struct names		 names = { NULL, 0 };
	struct conn		*c;
	char			 peer[64];
	size_t			 i, n;
	const struct index_link	*k;
	const struct index_sub	*s;

	reply_begin(&w, buf, size, q->id);
	if (q->arg.len > 0 &&
	    (c = connect_find(l, q->arg.data, q->arg.len)) != NULL) {
		row_of(l, c, &row, peer);
		n = MIN(c->subs.n, (uint32_t)QUERY_SUBS_MAX);
		if (!kick && n > 0 &&
		    (subs = calloc(n, sizeof(*subs))) != NULL &&
		    (names.buf = malloc(names_size(c, n))) != NULL) {
			for (i = 0; i < n; i++) {
				k = &c->subs.links[i];
				s = &k->filter->subs[k->pos];
				subs[i].filter = name_of(k->filter, &names);
				subs[i].options = (uint32_t)(s->qos |
				    s->no_local << 2 | s->rap << 3);
				subs[i].id = s->id;
			}
			row.subs = subs;
			row.subs_told = n;
		}
		while (reply_client(&w, &row) < 0 && row.subs_told > 0)
			row.subs_told /= 2;	/* long filters: tell fewer */
		free(subs);
		free(names.buf);
		if (kick) {
			log_info("client.kicked", "client=%s",
			    log_quote(c->client_id));
			client_close(l, c, MQTT_ADMINISTRATIVE_ACTION);
		}
	}
	return reply_end(&w, none);
}

static long
stats(struct listener *l, const struct query *q, uint8_t *buf, size_t size)
{
	const struct { const char *key; uint64_t value; } rows[] = {
		{ "clients", l->nready },
		{ "filters", index_nfilters(l->index) },
		{ "subscriptions", index_nsubs(l->index) },
		{ "peers", l->nremote },
		{ "suback_waiting", l->nsub_waits },
	};
	struct slice		 none = { NULL, 0 };
	struct reply_writer	 w;
	char			 text[32];
	size_t			 i;

	reply_begin(&w, buf, size, q->id);
	for (i = 0; i < NELEM(rows); i++) {
		struct kv_row kv;

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
	struct listener	*l = ctx;
	struct query	 q;
	uint8_t		*buf;
	long		 n;

	if (query_decode(&q, f->body, f->len) < 0)
		return ERR_PROTO;
	if ((buf = malloc(PAGE)) == NULL)
		return ERR_NOMEM;
	switch (q.what) {
	case QUERY_CLIENTS:
		n = list(l, &q, buf, PAGE);
		break;
	case QUERY_CLIENT:
		n = one(l, &q, buf, PAGE, false);
		break;
	case QUERY_KICK:
		n = one(l, &q, buf, PAGE, true);
		break;
	case QUERY_STATS:
		n = stats(l, &q, buf, PAGE);
		break;
	default:
		n = reply_error(buf, PAGE, q.id, EX_USAGE,
		    "a listener does not answer this question");
		break;
	}
	if (n > 0)
		(void)bus_reply(l->bus, &f->from.addr, KIND_REPLY, buf,
		    (size_t)n);
	free(buf);
	return 0;
}

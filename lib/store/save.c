/*
 * save.c: a session, and the marks, as records of the checkpoint. Numbers are
 * little-endian.
 *
 * Session, version 1:
 *	 0  version, flags (1 durable, 2 connected, 4 fresh), MQTT version, 0
 *	 4  handle, applied, at_ms, incarnation, base, next, sent	8 each
 *	60  serial							8
 *	68  listener, expiry_s, will_delay_s				4 each
 *	80  client id	{length 2, bytes}
 *	    will	{length 4, bytes}
 *	    number of subscriptions 4, each {id 4, options 1, share {length 2,
 *	    bytes}, filter {length 2, bytes}}
 *	    number of QoS 2 inbound 4, each {packet identifier 2}
 *	    number of entries not DONE 4, each {offset 8, state 1, qos and
 *	    retain << 2 and 8 for a group 1, number of identifiers 2, group 8
 *	    if there is one, each identifier 4}; of one that waits
 *	    also its body {pos 8, deadline_ms 8, size 4, bytes 4}
 *
 * Marks, version 1: version 1, next handle 8, number 4, each {source {length 2,
 * bytes}, slot 4, id 16}.
 */
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "mqtt/mqtt.h"
#include "store/bytes.h"
#include "store/internal.h"

enum {
	SESSION_VERSION = 1,
	MARKS_VERSION = 1,
	FLAG_DURABLE = 1,
	FLAG_CONNECTED = 2,
	FLAG_FRESH = 4,
	SUB_MIN = 9,			/* bytes of one, at least */
	ENTRY_MIN = 12
};

/* --- Writing ------------------------------------------------------------- */

static void
put_text(struct bytes_out *w, const void *text, size_t len)
{
	out_u16(w, (uint16_t)len);
	out_bytes(w, text, len);
}

static void
put_subs(struct bytes_out *w, const struct session *s)
{
	const struct index_filter	*f;
	const struct index_sub		*sub;
	uint32_t			 i;

	out_u32(w, s->subs.n);
	for (i = 0; i < s->subs.n; i++) {
		f = s->subs.links[i].filter;
		sub = &f->subs[s->subs.links[i].pos];
		out_u32(w, sub->id);
		out_u8(w, sub_options(sub));
		if (f->is_group)
			put_text(w, f->share->name, f->share->name_len);
		else
			put_text(w, NULL, 0);
		put_text(w, f->text, f->len);
	}
}

static void
put_entries(struct bytes_out *w, const struct session *s)
{
	const struct queue	*q = s->queue;
	const struct entry	*e;
	uint32_t		 i;
	uint16_t		 k;

	out_u32(w, s->queued);
	for (i = 0; q != NULL && i < q->n; i++) {
		e = &q->entries[q->first + i];
		if (e->state == ENTRY_DONE)
			continue;
		out_u64(w, e->offset);
		out_u8(w, e->state);
		out_u8(w, (uint8_t)(e->qos | e->retain << 2 |
		    (e->group != 0) << 3));
		out_u16(w, e->nids);
		if (e->group != 0)
			out_u64(w, e->group);
		for (k = 0; k < e->nids; k++)
			out_u32(w, e->ids[k]);
		if (e->body == NULL)
			continue;
		out_u64(w, e->body->pos);
		out_u64(w, e->body->deadline_ms);
		out_u32(w, e->body->size);
		out_u32(w, e->body->bytes);
	}
}

long
session_save(const struct session *s, void *out, size_t size)
{
	const struct session_here *h = session_here(s);
	struct bytes_out	w = { out, 0, size };
	uint32_t		i;

	out_u8(&w, SESSION_VERSION);
	out_u8(&w, (uint8_t)(s->durable * FLAG_DURABLE |
	    s->connected * FLAG_CONNECTED | s->fresh * FLAG_FRESH));
	out_u8(&w, s->version);
	out_u8(&w, 0);
	out_u64(&w, s->handle);
	out_u64(&w, s->applied);
	out_u64(&w, s->at_ms);
	out_u64(&w, h->incarnation);
	out_u64(&w, s->base);
	out_u64(&w, s->next);
	out_u64(&w, s->sent_unsure ? MAX(h->known_sent, s->base) : s->sent);
	out_u64(&w, h->serial);
	out_u32(&w, h->listener);
	out_u32(&w, s->expiry_s);
	out_u32(&w, h->will_delay_s);
	put_text(&w, s->client_id, s->client_id_len);
	out_u32(&w, (uint32_t)h->will.len);
	out_bytes(&w, h->will.data, h->will.len);
	put_subs(&w, s);
	out_u32(&w, h->inbound.n);
	for (i = 0; i < h->inbound.n; i++)
		out_u16(&w, h->inbound.ids[i]);
	put_entries(&w, s);
	return out_end(&w);
}

long
shard_save_marks(const struct shard *sh, void *out, size_t size)
{
	struct bytes_out	 w = { out, 0, size };
	const struct mark	*m;
	uint8_t			*p;
	size_t			 i;

	out_u8(&w, MARKS_VERSION);
	out_u64(&w, sh->next_handle);
	out_u32(&w, (uint32_t)sh->marks.n);
	for (i = 0; sh->marks.cells != NULL && i <= sh->marks.mask; i++) {
		if ((m = sh->marks.cells[i].item) == NULL)
			continue;
		put_text(&w, m->source, m->len);
		out_u32(&w, m->slot);
		if ((p = out_room(&w, MSGID_LEN)) != NULL)
			msgid_put(p, m->id);
	}
	return out_end(&w);
}

/* --- Reading ------------------------------------------------------------- */

/* How many rows follow, each of at least `min` bytes. */
static uint32_t
get_count(struct bytes_in *r, size_t min)
{
	uint32_t n = in_u32(r);

	if (n > (size_t)(r->end - r->at) / min)
		r->bad = true;
	return r->bad ? 0 : n;
}

static int
get_subs(struct shard *sh, struct session *s, struct bytes_in *r)
{
	struct slice	share, filter;
	uint32_t	n = get_count(r, SUB_MIN), id;
	uint8_t		options;
	int		rc;

	while (n-- > 0) {
		id = in_u32(r);
		options = in_u8(r);
		share = in_slice(r, in_u16(r));
		filter = in_slice(r, in_u16(r));
		if (r->bad || id >= 1u << 28 || !is_options(options) ||
		    !is_subscription(&share, &filter))
			return ERR_PROTO;
		rc = session_subscribe(sh, s, &share, &filter, options, id);
		if (rc <= 0)
			return rc == 0 ? ERR_PROTO : rc;	/* twice */
	}
	return r->bad ? ERR_PROTO : 0;
}

static int
get_inbound(struct session *s, struct bytes_in *r)
{
	uint64_t	seen[(UINT16_MAX + 1) / 64] = { 0 };
	uint32_t	n = get_count(r, 2), i;
	uint16_t	pid, *ids;

	if (n == 0)
		return r->bad ? ERR_PROTO : 0;
	if (n > UINT16_MAX)
		return ERR_PROTO;
	if ((ids = malloc(n * sizeof(*ids))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++) {
		ids[i] = pid = in_u16(r);
		if (pid == 0 || seen[pid / 64] >> pid % 64 & 1) {
			free(ids);
			return ERR_PROTO;
		}
		seen[pid / 64] |= UINT64_C(1) << pid % 64;
	}
	s->here->inbound.ids = ids;
	s->here->inbound.n = s->here->inbound.cap = n;
	return 0;
}

static int
get_body(struct shard *sh, struct bytes_in *r, struct body **out)
{
	uint64_t	pos = in_u64(r), deadline_ms = in_u64(r);
	uint32_t	size = in_u32(r), bytes = in_u32(r);

	if (r->bad || bytes > size)
		return ERR_PROTO;
	if ((*out = body_find(sh, pos)) == NULL)
		return body_new(sh, pos, size, bytes, deadline_ms, out);
	return (*out)->size == size && (*out)->bytes == bytes &&
	    (*out)->deadline_ms == deadline_ms ? 0 : ERR_PROTO;
}

static int
get_entry(struct shard *sh, struct session *s, struct bytes_in *r,
    uint64_t above)
{
	uint64_t	 offset = in_u64(r);
	uint8_t		 state = in_u8(r), how = in_u8(r);
	uint16_t	 nids = in_u16(r), i;
	uint64_t	 group = how & 8 ? in_u64(r) : 0;
	const uint8_t	*at = in_bytes(r, 4 * (size_t)nids);
	struct body	*b = NULL;
	struct entry	*e;
	uint32_t	*ids = NULL;
	int		 rc;

	if (r->bad || offset < above || offset >= s->next || how > 15 ||
	    (group != 0) != (how >> 3) || (how & 3) < 1 || (how & 3) > 2 || (state != ENTRY_WAITS &&
	    (state != ENTRY_RECEIVED || (how & 3) != 2 || nids > 0 ||
	    group != 0 || offset >= s->sent)))
		return ERR_PROTO;
	if (queue_reserve(s, 1) < 0 ||
	    (nids > 0 && (ids = malloc(nids * sizeof(*ids))) == NULL))
		return ERR_NOMEM;
	if (state == ENTRY_WAITS && (rc = get_body(sh, r, &b)) < 0) {
		free(ids);
		return rc;
	}
	for (i = 0; i < nids; i++)
		ids[i] = get_le32(at + 4 * (size_t)i);
	e = queue_add(sh, s, offset, b);
	e->ids = ids;
	e->nids = nids;
	e->qos = how & 3;
	e->retain = how >> 2 & 1;
	e->group = group;
	return 0;
}

static int
get_entries(struct shard *sh, struct session *s, struct bytes_in *r)
{
	uint32_t	n = get_count(r, ENTRY_MIN), i;
	uint64_t	above = s->base;
	int		rc;

	for (i = 0; i < n; i++) {
		if ((rc = get_entry(sh, s, r, above)) < 0)
			return rc;
		above = s->queue->entries[i].offset + 1;
	}
	if (r->bad || r->at != r->end || s->base !=
	    (n > 0 ? s->queue->entries[0].offset : s->next))
		return ERR_PROTO;
	return 0;
}

/* What a session knows of itself; not entered yet. */
static int
get_head(struct session **out, struct bytes_in *r)
{
	struct session_here here;
	struct session	 h, *s;
	struct slice	 id, will;
	uint8_t		 version = in_u8(r), flags = in_u8(r), zero;

	memset(&h, 0, sizeof(h));
	h.version = in_u8(r);
	zero = in_u8(r);
	h.handle = in_u64(r);
	h.applied = in_u64(r);
	h.at_ms = in_u64(r);
	here.incarnation = in_u64(r);
	h.base = in_u64(r);
	h.next = in_u64(r);
	h.sent = in_u64(r);
	here.serial = in_u64(r);
	here.listener = in_u32(r);
	h.expiry_s = in_u32(r);
	here.will_delay_s = in_u32(r);
	id = in_slice(r, in_u16(r));
	will = in_slice(r, in_u32(r));
	if (r->bad || version != SESSION_VERSION || zero != 0 ||
	    flags > (FLAG_DURABLE | FLAG_CONNECTED | FLAG_FRESH) ||
	    h.version < MQTT_V31 || h.version > MQTT_V5 || h.handle == 0 ||
	    h.handle > HANDLE_MAX || h.base > h.sent || h.sent > h.next ||
	    h.next > OFFSET_MAX || !is_client_id(&id))
		return ERR_PROTO;
	if ((s = session_new(h.handle, &id, &will)) == NULL)
		return ERR_NOMEM;
	s->applied = h.applied;
	s->at_ms = h.at_ms;
	s->base = h.base;
	s->next = h.next;
	s->sent = h.sent;
	s->here->incarnation = here.incarnation;
	s->here->serial = here.serial;
	s->here->listener = here.listener;
	s->here->will_delay_s = here.will_delay_s;
	s->expiry_s = h.expiry_s;
	s->version = h.version;
	s->durable = flags & FLAG_DURABLE;
	s->connected = (flags & FLAG_CONNECTED) != 0;
	s->fresh = (flags & FLAG_FRESH) != 0;
	*out = s;
	return 0;
}

int
shard_load(struct shard *sh, const void *data, size_t len)
{
	struct bytes_in	 r = { data, (const uint8_t *)data + len, false };
	struct session	*s, *other;
	uint64_t	 applied;
	int		 rc;

	if ((rc = get_head(&s, &r)) < 0)
		return rc;
	rc = ERR_EXISTS;
	if (shard_session(sh, s->handle) != NULL)
		goto free_session;
	other = shard_find(sh, s->client_id, s->client_id_len);
	applied = s->applied;
	if ((rc = get_subs(sh, s, &r)) < 0 || (rc = get_inbound(s, &r)) < 0 ||
	    (rc = get_entries(sh, s, &r)) < 0 ||
	    (rc = session_enter(sh, s)) < 0)
		goto free_session;
	here_release(s);
	sh->applied = MAX(sh->applied, applied);
	if (other != NULL)
		session_end(sh, other->handle < s->handle ? other : s);
	return 0;

free_session:
	session_discard(sh, s);
	free(s);
	return rc;
}

int
shard_load_marks(struct shard *sh, const void *data, size_t len)
{
	struct bytes_in	 r = { data, (const uint8_t *)data + len, false };
	struct bytes_in	 rows;
	const uint8_t	*id;
	struct slice	 source;
	struct mark	*m;
	uint64_t	 next;
	uint32_t	 slot, n, i;
	uint8_t		 version = in_u8(&r);
	int		 rc;

	next = in_u64(&r);
	n = get_count(&r, 2 + 4 + MSGID_LEN);
	for (i = 0, rows = r; i < n; i++) {
		source = in_slice(&rows, in_u16(&rows));
		(void)in_bytes(&rows, 4 + MSGID_LEN);
		rows.bad |= source.len == 0;
	}
	if (r.bad || rows.bad || rows.at != rows.end ||
	    version != MARKS_VERSION || next > HANDLE_MAX + 1)
		return ERR_PROTO;
	for (i = 0; i < n; i++) {
		source = in_slice(&r, in_u16(&r));
		slot = in_u32(&r);
		id = in_bytes(&r, MSGID_LEN);
		if ((rc = mark_hold(sh, &source, slot, &m)) < 0)
			return rc;
		if (msgid_cmp(msgid_get(id), m->id) > 0)
			m->id = msgid_get(id);
	}
	sh->next_handle = MAX(sh->next_handle, next);
	return 0;
}

/*
 * serve.c: a durable session and the listener that has its client. What waits
 * is handed out in order, as far as the client's receive maximum and the room
 * in the stream to its listener go; what the client acknowledged comes back and
 * is logged. Spec: MQTT 5.0 sections 4.3, 4.4, 4.9.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"
#include "mqtt/mqtt.h"

enum { SLICE_NS = 2000000 };		/* of one turn */

/* A SUBSCRIBE whose rows the router has not acknowledged, or that is not safe in
 * the log. */
struct token_wait {
	struct token_wait *next;
	uint64_t	 serial, incarnation, seq, deadline_ms;
	uint64_t	 pos;		/* the end of the log with it */
	uint32_t	 listener, token;
	uint32_t	 since;		/* retained_now() */
	uint32_t	 sub_id;	/* what stands now */
	uint8_t		 reason, options;
	bool		 remove, stands;
};

/* A PUBREL whose PUBREC is not safe in the log. */
struct held_pubrel {
	uint64_t	 pos, serial, incarnation;
	uint32_t	 listener;
	uint16_t	 pid;
};

/* --- Handing out ---------------------------------------------------------- */

static void
list_put(struct holder_list *l, struct holder *h)
{
	if (l->n++ == 0)
		l->last = &l->first;
	h->pump_in = l;
	h->pump_next = NULL;
	h->pump_at = l->last;
	*l->last = h;
	l->last = &h->pump_next;
}

static void
list_leave(struct holder *h)
{
	struct holder_list *l = h->pump_in;

	if (l == NULL)
		return;
	*h->pump_at = h->pump_next;
	if (h->pump_next != NULL)
		h->pump_next->pump_at = h->pump_at;
	else
		l->last = h->pump_at;
	l->n--;
	h->pump_in = NULL;
}

void
serve_soon(struct store *st, struct holder *h)
{
	/* After a start: not before it is known what waits at the client. */
	if (h->pump_in != NULL || !h->connected || !h->seen || h->granting ||
	    h->session == NULL || !h->session->durable || h->leaving ||
	    desk_is_lost(st, h))
		return;
	list_put(&st->pump, h);
}

void
serve_forget(struct holder *h)
{
	list_leave(h);
	roster_forget(h);
	free(h->at_client);
	h->at_client = NULL;
	h->out_bytes = 0;
	h->inflight = 0;
}

static void
drop_entry(struct store *st, struct session *s, uint64_t offset)
{
	struct op o = {
		.kind = STORE_DROP, .handle = s->handle, .offset = offset,
	};

	(void)log_op(st, &o, NULL, NULL);
}

/* Bit of an offset that waits at the client already. */
static bool
is_at_client(const struct holder *h, uint64_t offset)
{
	uint64_t i = offset - h->at_base;

	return h->at_client != NULL && offset >= h->at_base &&
	    i < h->at_bits && (h->at_client[i / 8] >> (i % 8) & 1);
}

static void
send_pubrel(struct store *st, uint32_t listener, uint64_t serial, uint16_t pid)
{
	struct session_msg e = {
		.kind = SERVE_PUBREL, .serial = serial, .pid = pid,
	};

	peer_send(st, listener, &e);
}

/* Once the client has it, it forgets the message: were the log to forget the
 * PUBREC after that, the message would go out a second time. */
static void
say_pubrel(struct store *st, const struct holder *h, uint64_t offset)
{
	struct held_pubrel	*grown;
	size_t			 cap;

	if (st->npubrels == st->cap_pubrels &&
	    st->first_pubrel > st->npubrels / 2) {
		st->npubrels -= st->first_pubrel;
		memmove(st->pubrels, st->pubrels + st->first_pubrel,
		    st->npubrels * sizeof(*grown));
		st->first_pubrel = 0;
	} else if (st->npubrels == st->cap_pubrels) {
		cap = MAX(st->cap_pubrels * 2, (size_t)64);
		grown = realloc(st->pubrels, cap * sizeof(*grown));
		if (grown == NULL) {
			metric_inc(&m_dropped_memory);
			return;		/* it is said again on a reconnect */
		}
		st->pubrels = grown;
		st->cap_pubrels = cap;
	}
	st->pubrels[st->npubrels++] = (struct held_pubrel){
		.pos = journal_end(st->journal),
		.serial = h->serial,
		.incarnation = st->peers[h->listener].incarnation,
		.listener = h->listener,
		.pid = session_pid(offset),
	};
}

static void
pubrels_safe(struct store *st)
{
	const struct held_pubrel *w;

	while (st->first_pubrel < st->npubrels) {
		w = &st->pubrels[st->first_pubrel];
		if (!log_is_safe(st, w->pos))
			return;
		if (st->peers[w->listener].incarnation == w->incarnation)
			send_pubrel(st, w->listener, w->serial, w->pid);
		st->first_pubrel++;
	}
	st->first_pubrel = st->npubrels = 0;
}

/*
 * May the entry leave? Not before the log has it. One of QoS 2 is known to its
 * client by its packet identifier, which is its place in the queue: it has to be
 * there after a power cut as well, or another message gets that place, and the
 * client takes that for one it has.
 */
static bool
may_leave(const struct store *st, const struct holder *h,
    const struct entry *en)
{
	if (en->state == ENTRY_RECEIVED)	/* its PUBREL */
		return log_is_safe(st, h->received);
	if (en->qos == 2)
		return log_is_safe(st, en->body->pos + 1);
	return en->body->pos < journal_written(st->journal);
}

/* The entry at offset goes to h's client. False: not now; if it is not for h to
 * make room, it waits for its listener's stream. */
static bool
deliver(struct store *st, struct holder *h, uint64_t offset)
{
	struct session		*s = h->session;
	struct entry		*en = session_entry(s, offset);
	struct record_iter	 it;
	struct record		 r;
	struct op		 o;
	struct session_msg	 e = {
		.kind = SERVE_DELIVER,
		.serial = h->serial,
		.pid = session_pid(offset),
		.deadline_ms = en->body->deadline_ms,
	};
	uint8_t			*ids = NULL;
	uint16_t		 i;
	bool			 apart;

	/* Once sent it is sent again whatever its age. */
	if (expiry_left(en->body->deadline_ms, st->now_ms) == 0 &&
	    offset >= s->sent) {
		metric_inc(&m_dropped_expired);		/* [MQTT-3.3.2-5] */
		drop_entry(st, s, offset);
		return true;
	}
	if (h->out_bytes > 0 &&
	    h->out_bytes + en->body->bytes > SESSION_OUT_MAX)
		return false;
	if (!peer_room(st, h->listener, en->body->bytes + 1024u)) {
		list_put(&st->peers[h->listener].stalled, h);
		return false;
	}
	if (log_read(st, en->body->pos, &o) < 0)
		goto lost;
	record_iter_init(&it, o.record.data, o.record.len, NULL, 0, 1);
	if (record_next(&it, &r) != 1)
		goto lost;
	e.flags = (uint32_t)en->qos | (en->retain ? SESSION_RETAIN : 0) |
	    (offset < s->sent ? SESSION_DUP : 0);
	e.topic = r.topic;
	e.props = r.properties;
	if (en->nids > 0) {
		if ((ids = malloc(en->nids * 4u)) == NULL) {
			metric_inc(&m_dropped_memory);
			list_put(&st->peers[h->listener].stalled, h);
			return false;
		}
		for (i = 0; i < en->nids; i++)
			put_le32(ids + 4 * i, en->ids[i]);
		e.ids = (struct slice){ ids, en->nids * 4u };
	}
	apart = record_size(&r) > RECORD_ALONE;
	h->out_bytes += en->body->bytes;
	if (offset >= s->sent)
		s->sent = offset + 1;
	if (apart) {
		e.flags |= SESSION_APART;
		peer_send_apart(st, h->listener, &e, &r.payload);
	} else {
		e.payload = r.payload;
		peer_send(st, h->listener, &e);
	}
	metric_inc(&m_delivered);
	free(ids);
	return true;

lost:
	metric_inc(&m_unreadable);
	log_error("store.unreadable", "client=%s pos=%" PRIu64,
	    log_quote(s->client_id), en->body->pos);
	drop_entry(st, s, offset);
	return true;
}

static void
pump(struct store *st, struct holder *h)
{
	struct session	*s = h->session;
	uint64_t	 next;
	struct entry	*en;

	for (;;) {
		next = session_next(s, MAX(h->cursor, s->base));
		if (next >= s->next || h->inflight >= h->window ||
		    next - s->base >= SHARD_WINDOW_MAX)
			break;
		en = session_entry(s, next);
		if (is_at_client(h, next) && en->state == ENTRY_WAITS)
			h->out_bytes += en->body->bytes;
		else if (!may_leave(st, h, en)) {
			list_put(&st->unsafe, h);
			return;
		} else if (en->state == ENTRY_RECEIVED)
			send_pubrel(st, h->listener, h->serial,
			    session_pid(next));
		else if (!deliver(st, h, next))
			return;
		h->inflight += session_entry(s, next)->state != ENTRY_DONE;
		h->cursor = next + 1;
	}
	h->cursor = MAX(h->cursor, s->base);
}

/* The first of l, if there is time. False: there is none, or no time. */
static bool
serve_one(struct store *st, struct holder_list *l, uint64_t end_ns)
{
	struct holder *h = l->first;

	if (h == NULL || clock_mono_ns() >= end_ns)
		return false;
	list_leave(h);
	if (h->connected && h->session != NULL && !desk_is_lost(st, h))
		pump(st, h);
	return true;
}

/* Those who waited for that stream, as far as it has room. */
static void
serve_stalled(struct store *st, uint32_t listener, uint64_t end_ns)
{
	struct peer	*p = &st->peers[listener];
	size_t		 n = p->stalled.n;

	while (n > 0 && p->stalled.n > 0 && peer_room(st, listener, 1024) &&
	    serve_one(st, &p->stalled, end_ns))
		n--;
	p->roomy = n > 0 && p->stalled.n > 0 && peer_room(st, listener, 1024);
}

bool
serve_all(struct store *st)
{
	uint64_t	end_ns = clock_mono_ns() + SLICE_NS;
	bool		more = false;
	uint32_t	i;

	for (; st->nsafe > 0 && serve_one(st, &st->unsafe, end_ns); st->nsafe--)
		;
	st->nsafe = MIN(st->nsafe, st->unsafe.n);
	for (i = 0; i < LISTENERS_MAX; i++)
		if (st->peers[i].roomy) {
			serve_stalled(st, i, end_ns);
			more = more || st->peers[i].roomy;
		}
	while (serve_one(st, &st->pump, end_ns))
		;
	pubrels_safe(st);
	return more || st->nsafe > 0 || st->pump.n > 0;
}

/* What waited for that goes on at the end of the turn. */
void
serve_safe(struct store *st)
{
	st->nsafe = st->unsafe.n;
	st->subs_due = st->subs != NULL;
	roster_heard(st);
}

void
serve_retry(struct store *st, uint32_t listener)
{
	st->peers[listener].roomy = st->peers[listener].stalled.n > 0;
}

/* --- The beginning -------------------------------------------------------- */

static void
say_held(struct store *st, const struct holder *h)
{
	const struct index_owner	*o = &h->session->subs;
	const struct index_filter	*f;
	const struct index_sub		*s;
	struct session_msg		 e;
	uint32_t			 i;

	for (i = 0; i < o->n; i++) {
		f = o->links[i].filter;
		s = &f->subs[o->links[i].pos];
		memset(&e, 0, sizeof(e));
		e.kind = SERVE_HELD;
		e.serial = h->serial;
		e.filter = (struct slice){ (const uint8_t *)f->text, f->len };
		if (f->is_group)
			e.share = (struct slice){
			    (const uint8_t *)f->share->name,
			    f->share->name_len };
		e.flags = s->qos | (uint32_t)s->no_local << 2 |
		    (uint32_t)s->rap << 3;
		e.sub_id = s->id;
		peer_send(st, h->listener, &e);
	}
}

void
serve_begin(struct store *st, struct holder *h, bool present)
{
	struct session		*s = h->session;
	struct session_msg	 e = {
		.kind = SERVE_GRANT,
		.serial = h->serial,
		.present = present,
	};
	const struct inbound	*in;
	uint8_t			*pids = NULL;
	uint32_t		 i;

	h->cursor = 0;
	h->received = st->received;
	h->out_bytes = 0;
	h->inflight = 0;
	free(h->at_client);
	h->at_client = NULL;
	if (s != NULL && s->durable) {
		e.handle = s->handle;
		h->cursor = s->base;
		if (present)
			say_held(st, h);
		in = &session_here(s)->inbound;
		if (in->n > 0 && (pids = malloc(in->n * 2u)) != NULL) {
			for (i = 0; i < in->n; i++)
				put_le16(pids + 2 * i, in->ids[i]);
			e.pids = (struct slice){ pids, in->n * 2u };
		}
	}
	peer_send(st, h->listener, &e);
	free(pids);
	serve_soon(st, h);
}

void
serve_resume(struct store *st, struct holder *h, const struct slice *pids)
{
	struct session	*s = h->session;
	uint64_t	 offset, end = 0;
	size_t		 i;

	serve_forget(h);
	h->cursor = s->base;
	h->received = st->received;
	if (pids->len >= 2 && s->sent > s->base) {
		h->at_base = s->base;
		h->at_bits = (uint32_t)(s->sent - s->base);
		h->at_client = calloc(1, h->at_bits / 8 + 1);
		for (i = 0; h->at_client != NULL && i + 2 <= pids->len;
		    i += 2) {
			offset = session_offset(s, get_le16(pids->data + i));
			if (offset != UINT64_MAX) {
				end = MAX(end, offset + 1);
				offset -= h->at_base;
				h->at_client[offset / 8] |=
				    (uint8_t)(1 << offset % 8);
			}
		}
	}
	/* What it does not have, and did not answer, it never had: all it said
	 * before came to us before this. */
	session_set_sent(s, h->at_client != NULL || pids->len < 2 ? end :
	    UINT64_MAX);
	serve_soon(st, h);
}

/* --- What the client answers ---------------------------------------------- */

/* Whom e, of that listener, is about. */
static struct holder *
named(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct session	*s = shard_session(st->state, e->handle);
	struct holder	*h;

	if (s == NULL || !s->connected || (h = s->user) == NULL ||
	    !h->connected || h->listener != listener ||
	    h->incarnation != st->peers[listener].incarnation ||
	    h->serial != e->serial)
		return NULL;
	return h;
}

void
serve_ack(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct holder	*h = named(st, listener, e);
	struct session	*s;
	struct op	 o = { .kind = STORE_ACK, .handle = e->handle };
	struct entry	*en;
	uint64_t	 bytes;
	uint8_t		 was;

	if (h == NULL)
		return;
	s = h->session;
	o.offset = session_offset(s, (uint16_t)e->pid);
	if (e->pid == 0 || e->pid > UINT16_MAX || o.offset == UINT64_MAX)
		return;
	en = session_entry(s, o.offset);
	bytes = en->body == NULL ? 0 : en->body->bytes;
	was = en->state;
	o.what = (uint8_t)(e->what == MQTT_PUBREC && e->flags != 0 ?
	    STORE_PUBREC_REFUSED : e->what);
	if (log_op(st, &o, NULL, NULL) < 0)
		return;		/* no memory: it is sent again, later */
	metric_inc(&m_acked);
	h->out_bytes -= MIN(bytes, h->out_bytes);
	/* Any of them makes room, not only the first [MQTT-3.3.4-9]. */
	if (was != ENTRY_DONE && o.offset < h->cursor && h->inflight > 0 &&
	    session_entry(s, o.offset)->state == ENTRY_DONE)
		h->inflight--;
	if (o.what == MQTT_PUBREC)
		st->received = journal_end(st->journal);
	if (o.what == MQTT_PUBREC && h->seen)
		say_pubrel(st, h, o.offset);
	serve_soon(st, h);
}

void
serve_release(struct store *st, uint32_t listener,
    const struct session_msg *e)
{
	struct op o = {
		.kind = STORE_RELEASE, .handle = e->handle,
		.pid = (uint16_t)e->pid,
	};

	if (named(st, listener, e) != NULL)
		(void)log_op(st, &o, NULL, NULL);
}

/* --- Subscriptions -------------------------------------------------------- */

static void
suback(struct store *st, uint32_t listener, const struct token_wait *w)
{
	struct session_msg e = {
		.kind = SERVE_SUBACK,
		.serial = w->serial,
		.token = w->token,
		.what = w->reason,
		.time = w->since,
		.present = w->stands,
		.flags = w->options,
		.sub_id = w->sub_id,
	};

	if (st->peers[listener].incarnation == w->incarnation)
		peer_send(st, listener, &e);
}

/* What w has led to: the new one, or the one it was to replace. */
static void
note_standing(struct store *st, struct session *s, const struct op *o,
    struct token_wait *w)
{
	const struct index_sub *sub = index_get(shard_index(st->state),
	    &s->subs, o->share.len > 0 ? &o->share : NULL,
	    (const char *)o->filter.data, o->filter.len);

	if ((w->stands = sub != NULL)) {
		w->options = (uint8_t)(sub->qos | sub->no_local << 2 |
		    sub->rap << 3);
		w->sub_id = sub->id;
	}
}

void
serve_subscribe(struct store *st, uint32_t listener,
    const struct session_msg *e, bool remove)
{
	struct op		 o = {
		.kind = remove ? STORE_UNSUBSCRIBE : STORE_SUBSCRIBE,
		.handle = e->handle,
		.share = e->share,
		.filter = e->filter,
		.options = (uint8_t)e->flags,
		.sub_id = e->sub_id,
	};
	struct holder		*h = named(st, listener, e);
	struct token_wait	*w;
	int			 rc;

	if (h == NULL)
		return;
	if ((w = calloc(1, sizeof(*w))) == NULL) {
		metric_inc(&m_dropped_memory);
		return;
	}
	w->serial = e->serial;
	w->incarnation = st->peers[listener].incarnation;
	w->listener = listener;
	w->token = e->token;
	w->deadline_ms = st->now_ms + st->conf->cluster_suback_timeout_ms;
	w->since = retained_now();
	w->remove = remove;
	rc = log_is_full(st) && !remove ? ERR_FULL : log_op(st, &o, NULL, NULL);
	w->pos = journal_end(st->journal);
	if (rc < 0 && !remove)
		w->reason = rc == ERR_FULL ? MQTT_QUOTA_EXCEEDED :
		    MQTT_UNSPECIFIED_ERROR;
	if (!remove)
		note_standing(st, h->session, &o, w);
	w->seq = route_seq_all(&st->tell);
	w->next = st->subs;
	st->subs = w;
	st->subs_due = true;
}

/* What ends while the disk is full has ended: its listener says it again, should
 * we end before there is room. */
static bool
is_kept(const struct store *st, const struct token_wait *w)
{
	return w->reason >= 0x80 || (w->remove && st->full) ||
	    log_is_safe(st, w->pos);
}

void
serve_routes(struct store *st)
{
	struct token_wait *w, **at = &st->subs;
	uint64_t	   n = 0;

	st->subs_due = false;
	while ((w = *at) != NULL) {
		if ((w->seq > st->tell.acked && st->tell.router != NULL &&
		    w->reason < 0x80 && w->deadline_ms > st->now_ms) ||
		    !is_kept(st, w)) {
			at = &w->next;
			n++;
			continue;
		}
		*at = w->next;
		suback(st, w->listener, w);
		free(w);
	}
	metric_set(&m_suback_waiting, n);
}

void
serve_tick(struct store *st)
{
	uint32_t i;

	if (st->subs != NULL)
		serve_routes(st);	/* time may be up for some */
	/* Room that no credit told of: what was only about to leave has left. */
	for (i = 0; i < LISTENERS_MAX; i++)
		if (st->peers[i].stalled.n > 0)
			serve_retry(st, i);
}

void
serve_rebase(struct store *st, uint64_t seq)
{
	struct token_wait *w;

	for (w = st->subs; w != NULL; w = w->next)
		if (w->seq > st->tell.acked)
			w->seq = seq;
}

void
serve_fini(struct store *st)
{
	struct token_wait *w;

	free(st->pubrels);

	while ((w = st->subs) != NULL) {
		st->subs = w->next;
		free(w);
	}
}

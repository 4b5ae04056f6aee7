/*
 * retained.c: retained messages for a new subscription. Every session-store is
 * asked for its part once the routes stand, so that what is published meanwhile
 * comes anyway; a store answers a page at a time, and the next page is asked
 * for when the client has taken the one before. What was asked for and has not
 * come yet fits the client's queue, however many filters it subscribed to; the
 * rest is asked for later. What came live meanwhile is known by its id and not
 * repeated. Spec: MQTT 5.0 section 3.3.1.3.
 *
 * CAVEAT: who waits for a page is a connection. When it ends, what was not
 * fetched is not asked for again, although the session may go on
 * [MQTT-3.3.1-9].
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"
#include "retain/lately.h"
#include "topic/filter.h"

enum {
	PAGE_MAX = 500,		/* messages asked for at once */
	PAGE_PART = 16,		/* of the room left, where there are others */
	SOON_MAX = 256,		/* not looked at each turn if more wait */
	SWEEP_LEAST = 4096,	/* that wait, before those nobody wants go */
	PAUSES_MAX = 20		/* ticks at which a session had nothing to do */
};

static struct lately live;	/* retained messages that stores published */

/* A page to be asked for when the client has room. */
struct ask {
	struct ask	*next;
	uint64_t	 serial;
	uint32_t	 store;		/* index of peers */
	uint32_t	 flags, sub_id, since, kept_since, what;
	/* A page that came, for a session: its store has a queue of them. */
	uint32_t	 back;		/* to be taken from c->asked; 0: none */
	bool		 more;		/* there is another one */
	uint8_t		 pauses;
	uint64_t	 msgs_out;	/* of c, + 1, at a tick */
	struct wait	 given;		/* the page, to the store */
	size_t		 filter_len, cursor_len;
	uint8_t		 bytes[];
};

static struct ask	*later, **later_tail = &later;	/* the oldest first */
static size_t		 nlater;
static size_t		 sweep_at = SWEEP_LEAST;	/* so many: look at all */
static bool		 soon;		/* some may have room now */

void
retained_live(const struct msgid *id)
{
	lately_add(&live, id->hi, id->lo);
}

uint32_t
retained_now(void)
{
	return live.now;
}

/* --- Asking --------------------------------------------------------------- */

/* Does what is retained come to c through the store of its session? */
static bool
is_stored(const struct conn *c, uint32_t flags)
{
	return c->handle != 0 && (flags & 3) > 0;
}

/*
 * How many messages the next page for c may have; 0: none now. The first ones
 * have half of its queue, a page of each store; another quarter is shared by
 * those that are asked for meanwhile, a part of what is left for each, and the
 * rest is for what comes live. A page that follows one of `before` messages may
 * be as large, if there is room.
 */
static uint32_t
page_size(const struct listener *l, const struct conn *c, uint32_t before)
{
	uint32_t len = MIN(l->conf->mqtt_max_mqueue_len,
	    l->conf->mqtt_max_offline_queue_len), room = len / 4 * 3, n;

	if (c->asked == 0) {
		n = len / 2 / l->nstores;
	} else if (c->asked >= room) {
		return 0;
	} else {
		n = (room - c->asked) / PAGE_PART;
		if (before > n && before <= room - c->asked)
			n = before;
	}
	return MAX(1, MIN(PAGE_MAX, n));
}

static void	ask_waiting(struct listener *l, bool tick);

static void
ask_later(struct listener *l, const struct conn *c, uint32_t store,
    const struct session_msg *e, bool back)
{
	struct peer *own;
	struct ask *a;

	if ((a = malloc(sizeof(*a) + e->filter.len + e->cursor.len)) == NULL) {
		metric_inc(&m_dropped_memory);
		metric_inc(&m_retained_lost);
		return;
	}
	a->next = NULL;
	a->serial = e->serial;
	a->store = store;
	a->flags = e->flags;
	a->sub_id = e->sub_id;
	a->since = e->token;
	a->kept_since = (uint32_t)e->time;
	a->what = e->what;
	a->filter_len = e->filter.len;
	a->cursor_len = e->cursor.len;
	memcpy(a->bytes, e->filter.data, e->filter.len);
	if (e->cursor.len > 0)
		memcpy(a->bytes + e->filter.len, e->cursor.data,
		    e->cursor.len);
	a->back = a->pauses = 0;
	a->more = true;
	a->msgs_out = 0;
	a->given.peer = NULL;
	if (back) {
		a->back = e->count;
		a->more = e->more;
		own = session_shard(l, c->client_id, c->client_id_len);
		a->given = (struct wait){ own, own->epoch,
		    own->bus == NULL ? 0 : bus_peer_sent(own->bus) };
	}
	*later_tail = a;
	later_tail = &a->next;
	/* Who subscribes and unsubscribes leaves some that nobody wants. */
	if (++nlater >= sweep_at) {
		ask_waiting(l, false);
		sweep_at = MAX(2 * nlater, (size_t)SWEEP_LEAST);
	}
}

/* A page of n messages. False: the stream to the store has no room. */
static bool
ask(struct listener *l, struct conn *c, uint32_t store,
    const struct session_msg *from, uint32_t n)
{
	struct session_msg e = {
		.kind = SESSION_ASK,
		.serial = from->serial,
		.filter = from->filter,
		.cursor = from->cursor,
		.flags = from->flags,
		.sub_id = from->sub_id,
		.token = from->token,
		.time = from->time,
		.what = n,
	};

	if (n == 0 || session_send(l, &l->peers[store], &e) < 0)
		return false;
	c->asked += n;
	return true;
}

void
retained_ask(struct listener *l, struct conn *c, const struct slice *filter,
    uint8_t options, uint32_t sub_id, uint32_t since, uint32_t kept_since)
{
	struct session_msg e = {
		.filter = *filter,
		.flags = options,
		.sub_id = sub_id,
		.token = since,
		.time = kept_since,
	};
	uint32_t i, n = page_size(l, c, 0);

	if (session_number(l, c) < 0) {
		metric_inc(&m_dropped_memory);
		return;
	}
	e.serial = c->serial;
	for (i = 0; i < l->nstores; i++)
		if (!ask(l, c, PEERS_MAX + i, &e, n))
			ask_later(l, c, PEERS_MAX + i, &e, false);
}

/* Has c taken what it was given? */
static bool
has_room(const struct listener *l, const struct conn *c)
{
	return !out_is_choked(l, c) &&
	    (c->mqueue == NULL || c->mqueue->n == 0);
}

/*
 * At a tick: has c taken a page that its store had in its queue? With a small
 * window it has nothing in flight for a moment after each acknowledgement, so
 * nothing must have been sent since the tick before; or, where there is always
 * something live, it happened often.
 */
static bool
is_drained(const struct conn *c, struct ask *a)
{
	if (!answer_is_taken(&a->given) ||
	    (c->window != NULL && window_inflight(c->window) > 0))
		return false;
	if (a->msgs_out == c->msgs_out + 1)
		return true;
	a->msgs_out = c->msgs_out + 1;
	return ++a->pauses >= PAUSES_MAX;
}

/* Ask for what a waits for. False: it has to wait on. */
static bool
ask_now(struct listener *l, struct conn *c, struct ask *a, bool tick)
{
	struct session_msg e = {
		.serial = a->serial,
		.flags = a->flags,
		.sub_id = a->sub_id,
		.token = a->since,
		.time = a->kept_since,
		.filter = { a->bytes, a->filter_len },
		.cursor = { a->bytes + a->filter_len, a->cursor_len },
	};

	if (a->back > 0) {
		if (!tick || !is_drained(c, a))
			return false;
		c->asked -= MIN(c->asked, a->back);
		a->back = 0;
	}
	if (!a->more || !index_has(l->index, &c->subs, NULL,
	    (const char *)a->bytes, a->filter_len))
		return true;
	return has_room(l, c) &&
	    ask(l, c, a->store, &e, page_size(l, c, a->what));
}

static void
ask_waiting(struct listener *l, bool tick)
{
	struct ask	*a, **at = &later;
	struct conn	*c;

	soon = false;
	while ((a = *at) != NULL) {
		c = session_find(l, a->serial);
		if (c != NULL && c->state == CONN_OPEN && !ask_now(l, c, a, tick)) {
			at = &a->next;
			continue;
		}
		*at = a->next;
		nlater--;
		free(a);
	}
	later_tail = at;
}

void
retained_tick(struct listener *l)
{
	ask_waiting(l, true);
}

void
retained_turn(struct listener *l)
{
	if (UNLIKELY(soon) && nlater <= SOON_MAX)
		ask_waiting(l, false);
}

/* What it was asked before may have died with it: pages, and whether a message
 * may be retained. */
void
retained_up(struct listener *l)
{
	struct conn *c;

	for (c = l->conns; c != NULL; c = c->next) {
		c->asked = 0;
		c->may_asked = false;
	}
	l->unpark = true;
}

void
retained_fini(void)
{
	struct ask *a;

	while ((a = later) != NULL) {
		later = a->next;
		free(a);
	}
	later_tail = &later;
	nlater = 0;
}

/* --- From one process to another ------------------------------------------ */

int
retained_each(const struct listener *l, int (*each)(void *ctx,
    const struct handover_ask *row), void *ctx)
{
	const struct ask	*a;
	struct handover_ask	 row;
	int			 rc;

	for (a = later; a != NULL; a = a->next) {
		row = (struct handover_ask){
			.serial = a->serial, .store = a->store,
			.flags = a->flags, .sub_id = a->sub_id,
			.since = a->since, .kept_since = a->kept_since,
			.what = a->what,
			.filter = { a->bytes, a->filter_len },
			.cursor = { a->bytes + a->filter_len, a->cursor_len },
			.back = a->back, .last = !a->more,
		};
		if (a->given.peer != NULL && !answer_is_taken(&a->given)) {
			row.given = (uint32_t)(a->given.peer - l->peers);
			row.seq = a->given.seq;
		}
		if ((rc = each(ctx, &row)) != 0)
			return rc;
	}
	return 0;
}

int
retained_restore(struct listener *l, const struct handover_ask *row)
{
	struct session_msg e = {
		.serial = row->serial, .flags = row->flags,
		.sub_id = row->sub_id, .token = row->since,
		.time = row->kept_since,
		.what = row->what, .more = !row->last,
		.filter = row->filter, .cursor = row->cursor,
	};
	struct conn	*c = session_find(l, row->serial);
	struct ask	*a;
	size_t		 n = nlater;

	if (row->store < PEERS_MAX || row->store >= PEERS_MAX + l->nstores ||
	    topic_filter_check(row->filter.data, row->filter.len,
	    INDEX_LEVELS_MAX) < 0)
		return ERR_PROTO;
	if (c == NULL)
		return 0;
	ask_later(l, c, row->store, &e, row->back > 0);
	if (nlater == n)
		return ERR_NOMEM;
	a = CONTAINER_OF(later_tail, struct ask, next);
	a->back = row->back;
	if (a->given.peer != NULL)
		a->given.seq = row->given == (uint32_t)(a->given.peer -
		    l->peers) ? row->seq : 0;
	return 0;
}

size_t
retained_save(uint8_t *buf)
{
	const struct lately_item	*i;
	size_t				 n = 0;

	for (i = live.item; i != live.item + LATELY_MAX; i++) {
		if (i->no == 0)
			continue;
		put_le64(buf + n, i->hi);
		put_le64(buf + n + 8, i->lo);
		put_le32(buf + n + 16, i->no);
		n += HANDOVER_LIVE_ID;
	}
	return n;
}

void
retained_load(const struct handover_live *row)
{
	const uint8_t		*at = row->ids.data, *end = at + row->ids.len;
	struct lately_item	 i;

	live.now = row->now;
	for (; at != end; at += HANDOVER_LIVE_ID) {
		i = (struct lately_item){ get_le64(at), get_le64(at + 8),
		    get_le32(at + 16) };
		if (i.no != 0)
			lately_restore(&live, &i);
	}
}

/* --- Answers -------------------------------------------------------------- */

/* One message, or the end of a page. */
void
retained_take(struct listener *l, struct conn *c, uint32_t store,
    const struct session_msg *e, const struct slice *apart)
{
	struct mqueue_how	how;
	struct pub		p;
	uint32_t		id = e->sub_id;
	bool			stored;

	if (c->state != CONN_OPEN)
		return;
	if (e->topic.len == 0) {
		soon = true;
		if (is_stored(c, e->flags) && e->count > 0) {
			c->asked -= MIN(c->asked, e->what - MIN(e->what,
			    e->count));
			ask_later(l, c, store, e, true);
			return;
		}
		c->asked -= MIN(c->asked, e->what);
		if (e->more && (!has_room(l, c) ||
		    !ask(l, c, store, e, page_size(l, c, e->what))))
			ask_later(l, c, store, e, false);
		return;
	}
	/* No more once it has unsubscribed [MQTT-3.10.4-2], and nothing of its
	 * own for who does not want that [MQTT-3.8.3-3]. */
	if (!index_has(l->index, &c->subs, NULL,
	    (const char *)e->filter.data, e->filter.len) ||
	    (e->client_id.len > 0 && e->client_id.len == c->client_id_len &&
	    memcmp(e->client_id.data, c->client_id, c->client_id_len) == 0))
		return;
	memset(&p, 0, sizeof(p));
	memset(&how, 0, sizeof(how));
	p.v.topic = e->topic;
	p.v.props = e->props;
	p.v.payload = e->flags & SESSION_APART ? *apart : e->payload;
	p.v.expiry_s = expiry_left(e->deadline_ms, l->ids.clock / 1000000);
	p.v.qos = how.qos = e->flags & SESSION_QOS;
	p.v.retain = how.retain = true;		/* [MQTT-3.3.1-8] */
	if (how.qos == 3)
		return;
	if (p.v.expiry_s == 0) {		/* [MQTT-3.3.2-5] */
		metric_inc(&m_dropped_expired);
		return;
	}
	p.id = (struct msgid){ e->id_hi, e->id_lo };
	/* Its store knows what it has given it. */
	stored = c->handle != 0 && how.qos > 0;
	if (!stored && lately_came(&live, p.id.hi, p.id.lo, e->token))
		return;				/* as any message */
	how.ids = &id;
	how.nids = id != 0;
	l->enc_len = 0;
	metric_inc(&m_retained_sent);
	if (stored)
		(void)flow_give_retained(l, &p, c, &how, (uint32_t)e->time);
	else
		deliver(l, &p, c, &how);
	pub_fini(&p);
}

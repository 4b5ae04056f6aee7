/*
 * retained.c: retained messages for a new subscription. Every session-store is
 * asked for its part once the routes stand, so that what is published meanwhile
 * comes anyway; a store answers a page at a time, and the next page is asked
 * for when the client has taken the one before. What came live meanwhile is
 * known by its id and not repeated. Spec: MQTT 5.0 section 3.3.1.3.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"

enum {
	PAGE_MAX = 500,		/* messages asked for at once */
	LIVE_MAX = 4096		/* that we remember; a power of 2 */
};

/* Retained messages that stores published lately. One may push out another:
 * that is repeated then, if it must be. */
static struct {
	struct msgid	 id;
	uint32_t	 no;		/* how many came before it, and itself */
} live[LIVE_MAX];
static uint32_t nlive;

/* A page to be asked for when the client has room. */
struct ask {
	struct ask	*next;
	uint64_t	 serial;
	uint32_t	 store;		/* index of peers */
	uint32_t	 flags, sub_id, since;
	struct wait	 given;		/* to its own store, which may have to
					 * keep that first; peer NULL */
	size_t		 filter_len, cursor_len;
	uint8_t		 bytes[];
};

static struct ask *later;

/* --- What came live ------------------------------------------------------- */

static size_t
live_slot(const struct msgid *id)
{
	return (size_t)((id->hi * UINT64_C(0x9e3779b97f4a7c15) + id->lo) >>
	    32) % LIVE_MAX;
}

void
retained_live(const struct msgid *id)
{
	size_t i = live_slot(id);

	live[i].id = *id;
	live[i].no = ++nlive;
}

uint32_t
retained_now(void)
{
	return nlive;
}

static bool
came_since(const struct msgid *id, uint32_t since)
{
	size_t i = live_slot(id);

	return msgid_cmp(live[i].id, *id) == 0 &&
	    (int32_t)(live[i].no - since) > 0;
}

/* --- Asking --------------------------------------------------------------- */

static void
ask(struct listener *l, uint32_t store, const struct session_msg *from)
{
	struct session_msg e = {
		.kind = SESSION_ASK,
		.serial = from->serial,
		.filter = from->filter,
		.cursor = from->cursor,
		.flags = from->flags,
		.sub_id = from->sub_id,
		.token = from->token,
		/* A page of each store fits a queue. */
		.what = MAX(1, MIN(PAGE_MAX, MIN(l->conf->mqtt_max_mqueue_len,
		    l->conf->mqtt_max_offline_queue_len) / 2 / l->nstores)),
	};

	if (session_send(l, &l->peers[store], &e) < 0)
		metric_inc(&m_retained_lost);
}

/* Does what is retained come to c through the store of its session? */
static bool
is_stored(const struct conn *c, uint32_t flags)
{
	return c->handle != 0 && (flags & 3) > 0;
}

void
retained_ask(struct listener *l, struct conn *c, const struct slice *filter,
    uint8_t options, uint32_t sub_id, uint32_t since)
{
	struct session_msg e = {
		.filter = *filter,
		.flags = options,
		.sub_id = sub_id,
		.token = since,
	};
	uint32_t i;

	if (session_number(l, c) < 0) {
		metric_inc(&m_dropped_memory);
		return;
	}
	e.serial = c->serial;
	/* Its store subscribed later than we: it has what comes from now on. */
	if (is_stored(c, options))
		e.token = nlive;
	for (i = 0; i < l->nstores; i++)
		ask(l, PEERS_MAX + i, &e);
}

/* Has c taken what it was given? Its store has a queue, which is bounded. */
static bool
has_room(const struct listener *l, const struct conn *c, const struct ask *a)
{
	if (out_is_choked(l, c))
		return false;
	if (a != NULL && a->given.peer != NULL)
		return answer_is_taken(&a->given) && (c->window == NULL ||
		    window_inflight(c->window) == 0);
	return c->mqueue == NULL || c->mqueue->n == 0;
}

static void
ask_later(struct listener *l, const struct conn *c, uint32_t store,
    const struct session_msg *e)
{
	struct peer *own;
	struct ask *a;

	if ((a = malloc(sizeof(*a) + e->filter.len + e->cursor.len)) == NULL) {
		metric_inc(&m_dropped_memory);
		return;
	}
	a->serial = e->serial;
	a->store = store;
	a->flags = e->flags;
	a->sub_id = e->sub_id;
	a->since = e->token;
	a->filter_len = e->filter.len;
	a->cursor_len = e->cursor.len;
	memcpy(a->bytes, e->filter.data, e->filter.len);
	memcpy(a->bytes + e->filter.len, e->cursor.data, e->cursor.len);
	a->given.peer = NULL;
	if (is_stored(c, e->flags)) {
		own = session_shard(l, c->client_id, c->client_id_len);
		a->given = (struct wait){ own, own->epoch,
		    bus_peer_sent(own->bus) };
	}
	a->next = later;
	later = a;
}

/* Ask for what waits: of all, or of those that have room. */
static void
ask_waiting(struct listener *l, bool all)
{
	struct session_msg	 e;
	struct ask		*a, **at = &later;
	struct conn		*c;

	while ((a = *at) != NULL) {
		c = session_find(l, a->serial);
		if (c != NULL && c->state == CONN_OPEN && !all &&
		    !has_room(l, c, a)) {
			at = &a->next;
			continue;
		}
		if (c != NULL && c->state == CONN_OPEN) {
			memset(&e, 0, sizeof(e));
			e.serial = a->serial;
			e.flags = a->flags;
			e.sub_id = a->sub_id;
			e.token = a->since;
			e.filter = (struct slice){ a->bytes, a->filter_len };
			e.cursor = (struct slice){ a->bytes + a->filter_len,
			    a->cursor_len };
			ask(l, a->store, &e);
		}
		*at = a->next;
		free(a);
	}
}

void
retained_tick(struct listener *l)
{
	ask_waiting(l, false);
}

void
retained_give(struct listener *l)
{
	ask_waiting(l, true);
}

void
retained_fini(void)
{
	struct ask *a;

	while ((a = later) != NULL) {
		later = a->next;
		free(a);
	}
}

/* One message, or the end of a page. */
void
retained_take(struct listener *l, struct conn *c, uint32_t store,
    const struct session_msg *e, const struct slice *apart)
{
	struct mqueue_how	how;
	struct pub		p;
	uint32_t		id = e->sub_id;

	if (c->state != CONN_OPEN)
		return;
	if (e->topic.len == 0) {
		if (e->more && !is_stored(c, e->flags) && has_room(l, c, NULL))
			ask(l, store, e);
		else if (e->more)
			ask_later(l, c, store, e);
		return;
	}
	memset(&p, 0, sizeof(p));
	memset(&how, 0, sizeof(how));
	p.v.topic = e->topic;
	p.v.props = e->props;
	p.v.payload = e->flags & SESSION_APART ? *apart : e->payload;
	p.v.expiry_s = e->expiry_s;
	p.v.qos = how.qos = e->flags & SESSION_QOS;
	p.v.retain = how.retain = true;		/* [MQTT-3.3.1-8] */
	if (how.qos == 3)
		return;
	p.id = (struct msgid){ e->id_hi, e->id_lo };
	if (came_since(&p.id, e->token))
		return;				/* as any message */
	how.ids = &id;
	how.nids = id != 0;
	l->enc_len = 0;
	metric_inc(&m_retained_sent);
	if (c->handle != 0 && how.qos > 0)
		(void)flow_give(l, &p, c, &how);
	else
		deliver(l, &p, c, &how);
	pub_fini(&p);
}

/*
 * desk.c: one holder for each client id of this shard [MQTT-3.1.4-3]. A
 * listener says ATTACH for a CONNECT and serves the client when it hears GRANT.
 * Whoever has the id then is told that it is TAKEN; if it has a stored session
 * that goes on, the new one waits until the old one's listener said DETACH, for
 * what its client acknowledged comes before that. Of several that wait the
 * newest stays.
 *
 * What a connection leaves behind is here as well: the will, and when a session
 * ends that nobody comes back to. Spec: MQTT 5.0 sections 3.1.2.5, 3.1.3.2.2,
 * 3.1.4, 4.1.
 */
#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"
#include "mqtt/mqtt.h"

enum { SLICE_NS = 1000000 };		/* of one turn, of lost connections */

/* --- Holders -------------------------------------------------------------- */

static uint64_t
id_hash(const struct store *st, const void *id, size_t len)
{
	return XXH3_64bits_withSeed(id, len, st->seed);
}

struct holder *
desk_find(const struct store *st, const void *id, size_t len)
{
	uint64_t	 h = id_hash(st, id, len);
	struct holder	*d;
	size_t		 i;

	for (i = spread_first(&st->holders, h);
	    (d = spread_at(&st->holders, h, &i)) != NULL; i++)
		if (d->len == len && memcmp(d->client_id, id, len) == 0)
			return d;
	return NULL;
}

size_t
desk_count(const struct store *st)
{
	return st->holders.n;
}

static struct holder *
holder_new(struct store *st, const struct slice *id)
{
	struct holder *d;

	if (id->len == 0 || id->len > UINT16_MAX ||
	    (d = calloc(1, sizeof(*d) + id->len + 1)) == NULL)
		return NULL;
	memcpy(d->client_id, id->data, id->len);
	d->len = (uint16_t)id->len;
	d->hash = id_hash(st, id->data, id->len);
	if (spread_add(&st->holders, d->hash, d) < 0) {
		free(d);
		return NULL;
	}
	metric_set(&m_holders, st->holders.n);
	return d;
}

static void
holder_free(struct store *st, struct holder *d)
{
	serve_forget(d);
	spread_del(&st->holders, d->hash, d);
	metric_set(&m_holders, st->holders.n);
	free(d->waiting);
	free(d);
}

static void
refuse(struct store *st, uint32_t listener, uint64_t serial, uint8_t reason)
{
	struct session_msg e = {
		.kind = SERVE_GRANT, .serial = serial, .what = reason,
	};

	metric_inc(&m_refused);
	peer_send(st, listener, &e);
}

static void
take_away(struct store *st, uint32_t listener, uint64_t serial, uint8_t reason)
{
	struct session_msg e = {
		.kind = SERVE_TAKEN, .serial = serial, .what = reason,
	};

	metric_inc(&m_takeovers);
	peer_send(st, listener, &e);
}

/* d is wanted: its connection is to end, and its listener to say so, also if
 * there is none any more. */
static void
take_place(struct store *st, const struct holder *d)
{
	struct session_msg e = {
		.kind = SERVE_TAKEN, .serial = d->serial,
		.client_id = { (const uint8_t *)d->client_id, d->len },
		.what = MQTT_SESSION_TAKEN_OVER,
	};

	if (!d->leaving)
		metric_inc(&m_takeovers);
	peer_send(st, d->listener, &e);
}

/* --- Sessions that wait --------------------------------------------------- */

static void
rest_end(struct store *st, struct session *s)
{
	wheel_clear(&st->wheel, &s->timer);
}

/* s has no connection: when is something due? */
static void
rest_begin(struct store *st, struct session *s)
{
	uint64_t	due = MIN(session_ends_ms(s), session_will_ms(s));
	uint64_t	mono = clock_mono_ns() / 1000000;

	if (due == UINT64_MAX)
		rest_end(st, s);
	else
		wheel_set(&st->wheel, &s->timer, due <= st->now_ms ? mono :
		    mono + (due - st->now_ms));
}

/* A will, written as a record, goes out. from: whose end that is as well. */
static int
send_will(struct store *st, const struct slice *will, const struct op *from)
{
	struct op		 o = { .kind = STORE_WILL,
				    .handle = from->handle };
	struct record_iter	 it;
	struct record		 r;
	uint8_t			*copy;
	int			 rc = 0;

	if ((copy = malloc(will->len)) == NULL)
		return ERR_NOMEM;
	memcpy(copy, will->data, will->len);
	record_iter_init(&it, copy, will->len, NULL, 0, 1);
	if (record_next(&it, &r) != 1)
		r.topic.len = 0;
	/* Of QoS 1 and 2 the message in the log ends it. */
	if (from->handle != 0 && (r.topic.len == 0 || record_qos(&r) == 0))
		rc = log_op(st, &o, NULL, NULL);
	if (rc == 0 && r.topic.len > 0)
		rc = onward_take(st, &r, from);
	if (rc == 0)
		metric_inc(&m_wills);
	free(copy);
	return rc;
}

/* The will of s goes out, once. */
static int
fire_will(struct store *st, struct session *s)
{
	struct op from = { .handle = s->handle };

	return session_here(s)->will.len == 0 ? 0 :
	    send_will(st, &session_here(s)->will, &from);
}

/* What claims.c speaks of. */
static void
state_of(struct store *st, const struct holder *d)
{
	struct slice id = { (const uint8_t *)d->client_id, d->len };

	claims_state(st, &id);
}

static int
end_session(struct store *st, struct session *s)
{
	uint8_t		id[UINT16_MAX];
	struct slice	at = { id, s->client_id_len };
	struct op	o = { .kind = STORE_END, .handle = s->handle };
	bool		was_set = wheel_is_set(&s->timer);
	uint64_t	deadline_ms = s->timer.deadline_ms;
	int		rc;

	memcpy(id, s->client_id, s->client_id_len);
	if ((rc = fire_will(st, s)) < 0 ||	/* [MQTT-3.1.2-8] */
	    (rc = groups_leave(st, s, true)) < 0)
		return rc;
	rest_end(st, s);
	if ((rc = log_op(st, &o, NULL, NULL)) < 0) {
		if (was_set)
			wheel_set(&st->wheel, &s->timer, deadline_ms);
		return rc;
	}
	metric_set(&m_sessions, shard_nsessions(st->state));
	claims_state(st, &at);
	return 0;
}

static void
on_rest(void *ctx, struct wheel_node *n)
{
	struct store	*st = ctx;
	struct session	*s = CONTAINER_OF(n, struct session, timer);
	int		 rc = 0;

	if (session_ends_ms(s) <= st->now_ms) {
		if (end_session(st, s) == 0) {
			metric_inc(&m_sessions_expired);
			return;
		}
		rc = ERR_FULL;
	} else if (session_will_ms(s) <= st->now_ms) {
		rc = fire_will(st, s);
	}
	if (rc < 0)			/* the disk is full: later */
		wheel_set(&st->wheel, n, clock_mono_ns() / 1000000 + 1000);
	else
		rest_begin(st, s);
}

/* --- The end of a connection ---------------------------------------------- */

static void
close_session(struct store *st, struct holder *d, bool graceful,
    bool has_expiry, uint32_t expiry_s)
{
	struct session	*s = d->session;
	struct op	 o = { .kind = STORE_CLOSE, .at_ms = st->now_ms };

	d->session = NULL;
	s->user = NULL;
	o.handle = s->handle;
	o.offset = s->sent;
	o.expiry_s = has_expiry ? expiry_s : s->expiry_s;
	o.keep_will = !graceful;
	if (!s->durable)
		o.expiry_s = 0;
	if (log_op(st, &o, NULL, NULL) < 0) {
		/* Nothing can be kept now. In memory it goes on. */
		rest_begin(st, s);
		return;
	}
	groups_connected(st, s);
	if (session_here(s)->will.len > 0 && session_will_ms(s) <= st->now_ms)
		(void)fire_will(st, s);
	/* Nobody waits for the place: others go on with it. */
	if (d->waiting == NULL)
		(void)groups_leave(st, s, false);
	/* What the disk has no room for now is due, and tried again. */
	if (session_ends_ms(s) > st->now_ms || end_session(st, s) < 0)
		rest_begin(st, s);
}

/* d's connection is gone. Its session waits, or ends. */
static void
close_place(struct store *st, struct holder *d, bool graceful,
    bool has_expiry, uint32_t expiry_s)
{
	serve_forget(d);
	d->connected = d->leaving = false;
	if (d->session != NULL)
		close_session(st, d, graceful, has_expiry, expiry_s);
	state_of(st, d);
}

/* --- A new one ------------------------------------------------------------ */

static int
open_session(struct store *st, struct holder *d, uint32_t listener,
    const struct session_msg *e, struct session *old)
{
	bool		 goes_on = old != NULL && old->durable &&
			    !e->clean_start;
	struct op	 o = {
		.kind = STORE_OPEN,
		.handle = goes_on ? old->handle : shard_next_handle(st->state),
		.at_ms = st->now_ms,
		.listener = listener,
		.incarnation = st->peers[listener].incarnation,
		.serial = e->serial,
		.expiry_s = e->expiry_s,
		.version = (uint8_t)e->version,
		.durable = e->durable || goes_on,
		.fresh = !goes_on,
		.client_id = e->client_id,
		.will = e->will,
		.will_delay_s = e->will_delay_s,
	};
	int		 rc;

	if (o.durable && !goes_on && (log_is_full(st) ||
	    (st->conf->session_max > 0 &&
	    shard_nsessions(st->state) >= st->conf->session_max)))
		return ERR_FULL;
	if ((rc = log_op(st, &o, NULL, NULL)) < 0)
		return rc;
	d->session = shard_session(st->state, o.handle);
	if (d->session != NULL) {
		d->session->user = d;
		groups_connected(st, d->session);
	}
	metric_set(&m_sessions, shard_nsessions(st->state));
	return 0;
}

/* The place is free: it is e's. */
static void
grant(struct store *st, struct holder *d, uint32_t listener,
    const struct session_msg *e)
{
	struct session	*old = shard_find(st->state, d->client_id, d->len);
	/* What became due while we were away [MQTT-4.1.0-2]. */
	bool		 expired = old != NULL &&
			    session_ends_ms(old) <= st->now_ms;
	bool		 present = old != NULL && old->durable && !expired &&
			    !e->clean_start && !import_is_under_way(old);
	int		 rc = 0;

	if (old != NULL) {
		/* A session that ends here sends its will [MQTT-3.1.2-8]; one
		 * that goes on in time does not [MQTT-3.1.3-9]. */
		rest_end(st, old);
		if (!present)
			rc = end_session(st, old);
		else if (session_will_ms(old) <= st->now_ms)
			rc = fire_will(st, old);
		if (rc < 0)
			rest_begin(st, old);
		else if (expired)
			metric_inc(&m_sessions_expired);
	}
	d->session = NULL;
	if (rc == 0 && (e->durable || e->will.len > 0 || present))
		rc = open_session(st, d, listener, e, present ? old : NULL);
	if (rc < 0) {
		if (e->opened)		/* its will cannot be kept */
			take_away(st, listener, e->serial,
			    MQTT_QUOTA_EXCEEDED);
		else
			refuse(st, listener, e->serial, MQTT_QUOTA_EXCEEDED);
		if (present)
			rest_begin(st, old);
		if (d->waiting == NULL)
			holder_free(st, d);
		return;
	}
	d->connected = true;
	d->leaving = false;
	d->seen = true;
	d->clean = e->clean_start;
	d->listener = listener;
	d->incarnation = st->peers[listener].incarnation;
	d->serial = e->serial;
	d->time = e->time;
	d->window = (uint16_t)MIN(MAX(e->receive_maximum, 1),
	    st->conf->mqtt_max_inflight);
	metric_inc(&m_grants);
	state_of(st, d);
	if (e->opened)
		return;
	if (present || !e->durable || d->session == NULL ||
	    !roster_new(st, d))
		serve_begin(st, d, present);
}

/* e waits; who waited before hears that it is too late. */
static void
wait_for(struct store *st, struct holder *d, uint32_t listener,
    const struct session_msg *e)
{
	struct waiting	*w;
	uint8_t		*at;

	if (d->waiting != NULL && d->waiting->listener == listener &&
	    d->waiting->e.serial == e->serial)
		return;				/* the frame came again */
	if (d->waiting != NULL)
		take_away(st, d->waiting->listener, d->waiting->e.serial,
		    MQTT_SESSION_TAKEN_OVER);
	free(d->waiting);
	w = d->waiting = malloc(sizeof(*w) + e->client_id.len + e->will.len);
	if (w == NULL) {
		refuse(st, listener, e->serial, MQTT_SERVER_BUSY);
		return;
	}
	metric_inc(&m_attach_waits);
	w->listener = listener;
	w->incarnation = st->peers[listener].incarnation;
	w->e = *e;
	at = w->bytes;
	memcpy(at, e->client_id.data, e->client_id.len);
	w->e.client_id.data = at;
	at += e->client_id.len;
	if (e->will.len > 0)
		memcpy(at, e->will.data, e->will.len);
	w->e.will.data = at;
}

/* d has lost its connection: whoever waits gets the place. */
static void
next_one(struct store *st, struct holder *d)
{
	struct waiting *w = d->waiting;

	d->waiting = NULL;
	if (w != NULL && st->peers[w->listener].bus != NULL &&
	    st->peers[w->listener].incarnation == w->incarnation)
		grant(st, d, w->listener, &w->e);
	else if (!d->connected)
		holder_free(st, d);
	free(w);
}

/* --- Listeners that are gone ----------------------------------------------- */

/*
 * A listener may have had half a million connections, and closing their places
 * takes longer than a turn may. Whether a connection is lost is told by its
 * listener alone, so all are at once, and get nothing more; the table is gone
 * through part by part, and a place that somebody wants is closed before its
 * turn comes. Were we to end, the next start finds what is left.
 */
bool
desk_is_lost(const struct store *st, const struct holder *d)
{
	const struct peer *p;

	if (!d->connected || !st->peers_known)
		return false;
	if (d->listener >= LISTENERS_MAX)
		return true;
	p = &st->peers[d->listener];
	return p->bus == NULL || p->incarnation != d->incarnation ||
	    (!d->seen && p->named);
}

static void
close_lost(struct store *st, struct holder *d)
{
	close_place(st, d, false, false, 0);
	next_one(st, d);
}

/* Who has that client id, and is there. */
static struct holder *
holder_of(struct store *st, const struct slice *id)
{
	struct holder *d = desk_find(st, id->data, id->len);

	if (d == NULL || !desk_is_lost(st, d))
		return d;
	close_lost(st, d);		/* may have ended it */
	return desk_find(st, id->data, id->len);
}

void
desk_lost(struct store *st)
{
	/* The one under way from its beginning: what is before may be of it. */
	st->sweep_left = SPREAD_PARTS;
}

/* All its connections that it did not name are not there. */
static void
named_all(struct store *st, uint32_t listener)
{
	st->peers[listener].named = true;
	desk_lost(st);
}

/* The lost ones of the part that is next. False: there was no time for all. What
 * ends moves others back, if anything, and maybe all of them. */
static bool
sweep_part(struct store *st, uint64_t end_ns)
{
	const struct spread_part *p = &st->holders.part[st->sweep_part];
	unsigned		 part = st->sweep_part;
	uint32_t		 cap = p->cap;
	size_t			 cell = 0;
	struct holder		*d;

	while ((d = spread_next(&st->holders, &part, &cell)) != NULL &&
	    part == st->sweep_part) {
		if (!desk_is_lost(st, d))
			continue;
		if (clock_mono_ns() >= end_ns)
			return false;
		close_lost(st, d);
		cell = p->cap == cap ? cell - 1 : 0;
		cap = p->cap;
	}
	return true;
}

bool
desk_turn(struct store *st)
{
	uint64_t end_ns;

	if (st->sweep_left == 0 || !log_room_back(st))
		return false;		/* the next tick looks again */
	end_ns = clock_mono_ns() + SLICE_NS;
	do {
		if (!sweep_part(st, end_ns))
			return true;
		st->sweep_part = (st->sweep_part + 1) % SPREAD_PARTS;
	} while (--st->sweep_left > 0 && clock_mono_ns() < end_ns);
	return st->sweep_left > 0;
}

/* --- A new one, wherever the other is ------------------------------------- */

/* e connected before the one that holds the id now, though we hear of it after
 * (it may have been served by then, without us): as if it had been here first. */
static void
came_late(struct store *st, uint32_t listener, const struct session_msg *e)
{
	const struct op none = { .handle = 0 };

	take_away(st, listener, e->serial, MQTT_SESSION_TAKEN_OVER);
	if (e->will.len > 0 && (!e->durable || e->will_delay_s == 0) &&
	    send_will(st, &e->will, &none) < 0)
		metric_inc(&m_onward_lost);
}

/* Would e begin a session that is to be kept? */
static bool
begins(const struct store *st, const struct session_msg *e)
{
	const struct session *s = shard_find(st->state, e->client_id.data,
	    e->client_id.len);

	return e->durable && (e->clean_start || s == NULL || !s->durable);
}

static void
attach(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct holder	*d = holder_of(st, &e->client_id);

	/* Before anything of the one that is there is given up. */
	if (log_is_full(st) && begins(st, e) && (d == NULL || !d->connected ||
	    d->listener != listener || d->serial != e->serial)) {
		refuse(st, listener, e->serial, MQTT_QUOTA_EXCEEDED);
		return;
	}
	if (d == NULL) {
		if ((d = holder_new(st, &e->client_id)) == NULL) {
			refuse(st, listener, e->serial, MQTT_SERVER_BUSY);
			return;
		}
		grant(st, d, listener, e);
		return;
	}
	if (d->connected && d->listener == listener &&
	    d->serial == e->serial) {		/* said again */
		/* The grant is on its way, or was, from who we were before: then
		 * we hear in a moment whether it has come. */
		if (d->seen || !e->again)
			return;
		d->seen = true;
		d->time = e->time;
		d->window = (uint16_t)MIN(MAX(e->receive_maximum, 1),
		    st->conf->mqtt_max_inflight);
		serve_begin(st, d, d->session != NULL && d->session->durable &&
		    !d->session->fresh);
		return;
	}
	if (!d->connected) {
		grant(st, d, listener, e);
		return;
	}
	if (d->seen && d->time > e->time) {
		came_late(st, listener, e);
		return;
	}
	if (!d->seen) {	/* its listener is about to name it */
		wait_for(st, d, listener, e);
		return;
	}
	take_place(st, d);		/* again: what was said may be lost */
	d->leaving = true;
	if (d->session != NULL && d->session->durable && !e->clean_start) {
		wait_for(st, d, listener, e);
		return;
	}
	/* Nothing of it is wanted: no need to hear its end. */
	if (d->waiting != NULL)
		take_away(st, d->waiting->listener, d->waiting->e.serial,
		    MQTT_SESSION_TAKEN_OVER);
	free(d->waiting);
	d->waiting = NULL;
	close_place(st, d, false, false, 0);
	grant(st, d, listener, e);
}

/* The log has the end of a connection that goes on all the same. */
static void
reopen(struct store *st, const struct holder *d, struct session *s,
    uint32_t listener)
{
	struct op o = {
		.kind = STORE_OPEN, .handle = s->handle, .at_ms = st->now_ms,
		.listener = listener,
		.incarnation = st->peers[listener].incarnation,
		.serial = d->serial,
		.expiry_s = s->expiry_s, .version = s->version,
		.durable = s->durable,
		.client_id = { (const uint8_t *)s->client_id,
		    s->client_id_len },
	};

	(void)log_op(st, &o, NULL, NULL);
	groups_connected(st, s);
}

/* The listener has it already: we were started anew, or were away. */
static void
known(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct holder	*d = holder_of(st, &e->client_id);
	struct session	*s;

	/* A successor of that listener says what we know, and what is on its
	 * way to it is not in what it says. */
	if (d != NULL && d->connected && d->seen && d->listener == listener &&
	    d->serial == e->serial)
		return;
	if (d != NULL && d->connected && (d->listener != listener ||
	    d->serial != e->serial) && d->seen) {
		/* Two of them, while there was no desk: the later stays. */
		if (d->time > e->time) {
			take_away(st, listener, e->serial,
			    MQTT_SESSION_TAKEN_OVER);
			return;
		}
		take_place(st, d);
	}
	if (d == NULL && (d = holder_new(st, &e->client_id)) == NULL) {
		take_away(st, listener, e->serial, MQTT_SERVER_BUSY);
		return;
	}
	s = shard_find(st->state, e->client_id.data, e->client_id.len);
	if (s != NULL && e->handle != 0 && s->handle != e->handle)
		s = NULL;
	if (e->handle != 0 && s == NULL) {
		/* What it goes on with is not here any more. */
		take_away(st, listener, e->serial, MQTT_UNSPECIFIED_ERROR);
		if (!d->connected)
			holder_free(st, d);
		return;
	}
	if (s != NULL && !s->connected)
		rest_end(st, s);
	d->connected = true;
	d->leaving = false;
	d->seen = true;
	d->listener = listener;
	d->incarnation = st->peers[listener].incarnation;
	d->serial = e->serial;
	d->time = e->time;
	d->window = (uint16_t)MIN(MAX(e->receive_maximum, 1),
	    st->conf->mqtt_max_inflight);
	d->session = s;
	if (s != NULL) {
		s->user = d;
		if (!s->connected)
			reopen(st, d, s, listener);
		serve_resume(st, d, &e->pids);
	}
	claims_have(st, &e->client_id, e->time);
	if (d->waiting != NULL && d->waiting->listener == listener &&
	    d->waiting->e.serial == e->serial) {
		free(d->waiting);		/* it was granted before */
		d->waiting = NULL;
	}
	if (d->waiting != NULL) {
		take_place(st, d);
		d->leaving = true;
	}
}

/* --- What listeners say --------------------------------------------------- */

static void
detach(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct holder *d = holder_of(st, &e->client_id);

	if (d == NULL)
		return;
	if (d->waiting != NULL && d->waiting->listener == listener &&
	    d->waiting->e.serial == e->serial) {
		free(d->waiting);		/* it could not wait */
		d->waiting = NULL;
		return;
	}
	if (!d->connected || d->listener != listener ||
	    d->serial != e->serial)
		return;
	if (e->refused && d->session != NULL && d->session->fresh)
		close_place(st, d, true, true, 0);
	else
		close_place(st, d, e->graceful, e->has_expiry, e->expiry_s);
	next_one(st, d);
}

int
on_session(void *ctx, struct bus_frame *f)
{
	struct store		*st = ctx;
	struct session_msg	 e;
	struct wire_in		 in;
	enum proc_kind		 kind;
	uint32_t		 listener;
	int			 rc;

	if (proc_name_parse(f->from.name, &kind, &listener) < 0 ||
	    listener >= LISTENERS_MAX)
		return ERR_PROTO;
	/* PEERS is late: what it says would have no answer. */
	if (st->peers[listener].bus == NULL ||
	    st->peers[listener].incarnation != f->from.incarnation)
		return f->from.incarnation > st->peers[listener].incarnation ?
		    ERR_AGAIN : 0;
	if (!log_room_back(st))
		return ERR_AGAIN;
	wire_in_init(&in, f->body, f->len);
	while ((rc = session_msg_next(&in, &e)) == 1) {
		switch (e.kind) {
		case SESSION_ATTACH:
			if (e.serial == 0)
				named_all(st, listener);
			else if (e.client_id.len == 0)
				return ERR_PROTO;
			else if (e.present)
				known(st, listener, &e);
			else if (!claims_attach(st, listener, &e))
				attach(st, listener, &e);
			break;
		case SESSION_DETACH:
			if (!claims_detach(st, listener, &e))
				detach(st, listener, &e);
			break;
		case SESSION_SUBSCRIBE:
		case SESSION_UNSUBSCRIBE:
			serve_subscribe(st, listener, &e,
			    e.kind == SESSION_UNSUBSCRIBE);
			break;
		case SESSION_ACK:
			serve_ack(st, listener, &e);
			break;
		case SESSION_RELEASE:
			serve_release(st, listener, &e);
			break;
		case SESSION_ASK_ROSTER:
			roster_ask(st, listener);
			retained_tell(st, listener);
			peer_tell_room(st, listener);
			break;
		case SESSION_MAY:
			retained_may(st, listener, &e);
			break;
		case SESSION_ASK:
			retained_ask(st, listener, &e);
			break;
		}
	}
	return rc;
}

/* --- For claims.c ---------------------------------------------------------- */

void
desk_attach_now(struct store *st, uint32_t listener,
    const struct session_msg *e)
{
	attach(st, listener, e);
}

void
desk_detach_now(struct store *st, uint32_t listener,
    const struct session_msg *e)
{
	detach(st, listener, e);
}

void
desk_too_late(struct store *st, uint32_t listener, uint64_t incarnation,
    uint64_t serial)
{
	if (st->peers[listener].incarnation == incarnation)
		take_away(st, listener, serial, MQTT_SESSION_TAKEN_OVER);
}

void
desk_release(struct store *st, const struct slice *id, bool clean)
{
	struct holder	*d = holder_of(st, id);
	struct session	*s;

	if (d != NULL && d->waiting != NULL) {
		take_away(st, d->waiting->listener, d->waiting->e.serial,
		    MQTT_SESSION_TAKEN_OVER);
		free(d->waiting);
		d->waiting = NULL;
	}
	if (d != NULL && d->connected) {
		take_place(st, d);
		d->leaving = true;
		/* What is kept hears from its listener what was done. */
		if (clean || d->session == NULL || !d->session->durable) {
			close_place(st, d, false, false, 0);
			next_one(st, d);
		}
	}
	s = shard_find(st->state, id->data, id->len);
	if (clean && s != NULL && !import_is_under_way(s))
		(void)end_session(st, s);	/* or when it expires */
}

/* --- After a start -------------------------------------------------------- */

static int
restore(void *ctx, struct session *s)
{
	struct store	*st = ctx;
	struct slice	 id = { (const uint8_t *)s->client_id,
				s->client_id_len };
	struct holder	*d;

	if (import_is_under_way(s))
		return 0;	/* the next import of it begins anew */
	if (!s->connected) {
		rest_begin(st, s);
		return 0;
	}
	/* Its listener will name it, or PEERS show it gone. Before it does,
	 * it says again what we may not have taken: that is known by the
	 * serial. */
	if ((d = holder_new(st, &id)) == NULL)
		return ERR_NOMEM;
	d->connected = true;
	d->listener = session_here(s)->listener;
	d->incarnation = session_here(s)->incarnation;
	d->serial = session_here(s)->serial;
	d->window = 1;
	d->session = s;
	s->user = d;
	return 0;
}

void
desk_replayed(struct store *st)
{
	wheel_init(&st->wheel, clock_mono_ns() / 1000000);
	shard_each(st->state, restore, st);
	metric_set(&m_sessions, shard_nsessions(st->state));
}

/* PEERS came: whose listener is not there any more? */
void
desk_peers(struct store *st)
{
	if (!st->unnamed_checked)
		desk_lost(st);
	st->unnamed_checked = true;
}

void
desk_timers(struct store *st)
{
	wheel_advance(&st->wheel, clock_mono_ns() / 1000000, on_rest, st);
}

void
desk_close(struct store *st)
{
	struct holder	*d;
	unsigned	 part = 0;
	size_t		 i = 0;

	while ((d = spread_next(&st->holders, &part, &i)) != NULL) {
		if (d->session != NULL)
			d->session->user = NULL;
		free(d->waiting);
		free(d);
	}
	spread_fini(&st->holders);
}

/* --- For tools ------------------------------------------------------------ */

void
desk_rest(struct store *st, struct session *s)
{
	struct slice	id = { (const uint8_t *)s->client_id,
			       s->client_id_len };

	rest_begin(st, s);
	claims_have(st, &id, 0);
}

int
desk_expire(struct store *st, const void *id, size_t len)
{
	struct session_msg	 e = { .kind = SERVE_TAKEN,
				    .what = MQTT_ADMINISTRATIVE_ACTION };
	const struct slice	 at = { id, len };
	struct holder		*d;
	struct session		*s;

	if (st->full)
		return ERR_FULL;
	d = holder_of(st, &at);
	s = shard_find(st->state, id, len);
	if (d == NULL || !d->connected)
		return s == NULL ? ERR_NOTFOUND : end_session(st, s);
	e.serial = d->serial;
	if (d->listener < LISTENERS_MAX)
		peer_send(st, d->listener, &e);
	close_place(st, d, false, true, 0);
	next_one(st, d);
	return 0;
}

/*
 * session.c: the conversation with the session-stores. The store that a client
 * id belongs to is its *desk*: it decides who holds the id. A CONNECT is told
 * to it and waits (CONN_ATTACHING, unread) until it grants, unless it begins
 * clean and its store surely has nothing of it (session/roster.h); who holds the
 * id so far hears TAKEN. Sessions that outlive their connection lie there: their
 * QoS 1 and 2 come from it with their packet identifiers, and what the client
 * answers goes back. QoS 0 they get from our own index like everybody.
 *
 * A store that comes back as a new incarnation has what its log had: frames it
 * had not stored come to it again (the bus keeps them), then we say who is
 * here, and what waits at each client for an answer.
 * Spec: MQTT 5.0 sections 3.1.4, 4.1, 4.4.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

enum {
	BUF_MIN		= 4096,
	BUF_MAX		= BUS_BODY_MAX,
	ALONE_MS	= 1000		/* a clean session waits no longer */
};
#define LAZY_S	0.004			/* pause between frames of a storm */
_Static_assert(BUF_MAX >= SESSION_BUF_MIN, "any entry fits a frame");

/* A PUBCOMP that is owed when the store has what the PUBREL freed. */
struct pubcomp {
	struct conn	*c;		/* held */
	uint16_t	 id;
};

/* Entries of this turn, by store. */
static struct {
	struct wire_out	 out;
	uint8_t		*buf;
	bool		 urgent;	/* somebody waits for it */
	struct pubcomp	*owed;		/* for entries in buf */
	size_t		 nowed, cap_owed;
} pending[STORES_MAX];
static ev_timer	lazy;
static double	flushed_s;

/* --- What goes out ------------------------------------------------------ */

struct peer *
session_shard(struct listener *l, const void *key, size_t len)
{
	return &l->peers[PEERS_MAX + XXH3_64bits(key, len) % l->nstores];
}

/* What was sent is in frame seq of the stream to store i, or (rc) lost. */
static void
owe_pubcomps(struct listener *l, struct peer *p, size_t i, uint64_t seq, int rc)
{
	struct answer	 a = {
		.type = MQTT_PUBCOMP, .reason = MQTT_SUCCESS, .nwaits = 1,
		.one = { p, p->epoch, seq },
	};
	struct conn	*c;
	size_t		 k;

	for (k = 0; k < pending[i].nowed; k++) {
		c = pending[i].owed[k].c;
		a.id = pending[i].owed[k].id;
		if (c->state == CONN_OPEN && rc == 0)
			answer_add(l, c, &a);
		else if (c->state == CONN_OPEN)
			client_doom(l, c);
		client_release(l, c);
	}
	pending[i].nowed = 0;
}

static int
flush_one(struct listener *l, struct peer *p)
{
	size_t	 i = (size_t)(p - l->peers) - PEERS_MAX;
	size_t	 len = wire_out_len(&pending[i].out);
	uint64_t seq = 0;
	int	 rc = ERR_NOTFOUND;

	if (len == 0)
		return 0;
	pending[i].urgent = false;
	if (p->bus != NULL)
		rc = bus_stream_send(p->bus, KIND_SESSION, pending[i].buf, len,
		    &seq);
	wire_out_init(&pending[i].out, pending[i].buf, pending[i].out.size);
	if (rc < 0) {
		metric_inc(&m_dropped_stream_full);
		log_warn("session.lost", "peer=session_store.%zu error=%s", i,
		    log_quote(err_str(rc)));
	}
	owe_pubcomps(l, p, i, seq, rc);
	return rc;
}

void
session_flush_all(struct listener *l)
{
	uint32_t i;

	for (i = 0; i < l->nstores; i++)
		(void)flush_one(l, &l->peers[PEERS_MAX + i]);
	flushed_s = ev_now(l->loop);
}

static void
on_lazy(EV_P_ ev_timer *w UNUSED, int revents UNUSED)
{
	session_flush_all(ev_userdata(EV_A));
}

void
session_flush(struct listener *l)
{
	bool	 some = false, now = false;
	uint32_t i;

	for (i = 0; i < l->nstores; i++) {
		some |= wire_out_len(&pending[i].out) > 0;
		now |= pending[i].urgent;
	}
	if (!some)
		return;
	/* In quiet at once; in a storm, a frame for many. */
	if (now || ev_now(l->loop) - flushed_s >= LAZY_S) {
		session_flush_all(l);
	} else if (!ev_is_active(&lazy)) {
		ev_timer_init(&lazy, on_lazy, LAZY_S, 0.);
		ev_timer_start(l->loop, &lazy);
	}
}

/* Comings and goings of clients that leave nothing may wait for more. */
static bool
is_lazy(const struct session_msg *e)
{
	return (e->kind == SESSION_ATTACH && e->opened) ||
	    (e->kind == SESSION_DETACH && e->handle == 0);
}

int
session_send(struct listener *l, struct peer *p, const struct session_msg *e)
{
	size_t	 i = (size_t)(p - l->peers) - PEERS_MAX, size;
	uint8_t	*grown;
	int	 rc;

	pending[i].urgent |= !is_lazy(e);
	while ((rc = session_msg_put(&pending[i].out, e)) == ERR_FULL) {
		size = pending[i].out.size;
		if (size == BUF_MAX) {
			if (wire_out_len(&pending[i].out) == 0)
				return ERR_FULL;	/* larger than any */
			if ((rc = flush_one(l, p)) < 0)
				return rc;
			continue;
		}
		size = size == 0 ? BUF_MIN : MIN(size * 2, (size_t)BUF_MAX);
		if ((grown = realloc(pending[i].buf, size)) == NULL)
			return ERR_NOMEM;
		pending[i].buf = grown;
		pending[i].out.buf = grown;
		pending[i].out.size = size;
	}
	return rc;
}

static struct slice
id_of(const struct conn *c)
{
	return (struct slice){ (const uint8_t *)c->client_id,
	    c->client_id_len };
}

static struct peer *
desk_of(struct listener *l, const struct conn *c)
{
	return session_shard(l, c->client_id, c->client_id_len);
}

/* --- Who is here, by serial --------------------------------------------- */

static uint64_t
serial_hash(uint64_t serial)
{
	return serial * UINT64_C(0x9e3779b97f4a7c15);
}

struct conn *
session_find(const struct listener *l, uint64_t serial)
{
	uint64_t	 h = serial_hash(serial);
	struct conn	*c;
	size_t		 i;

	for (i = htab_first(&l->serials, h);
	    (c = htab_at(&l->serials, h, &i)) != NULL; i++)
		if (c->serial == serial)
			return c;
	return NULL;
}

int
session_number(struct listener *l, struct conn *c)
{
	int rc;

	if (c->serial != 0)
		return 0;
	c->serial = ++l->serial;
	if ((rc = session_restore(l, c)) < 0)
		c->serial = 0;
	return rc;
}

int
session_restore(struct listener *l, struct conn *c)
{
	return htab_add(&l->serials, serial_hash(c->serial), c);
}

/* --- CONNECT ------------------------------------------------------------ */

/* The will as a record, in memory of its own. */
static int
will_record(const struct conn *c, const struct mqtt_connect *k,
    struct slice *out)
{
	struct record	 r;
	uint8_t		*props, *buf;
	long		 n;

	memset(&r, 0, sizeof(r));
	r.expiry_s = MESSAGE_NO_EXPIRY;
	if (mqtt_props_has(&k->will_props, MQTT_P_MESSAGE_EXPIRY))
		r.expiry_s = MIN(k->will_props.message_expiry_s,
		    MESSAGE_EXPIRY_MAX);
	r.flags = (uint16_t)(k->will_qos | (k->will_retain ? RECORD_RETAIN :
	    0));
	r.topic = k->will_topic;
	r.client_id = id_of(c);		/* an assigned one as well */
	r.payload = k->will_payload;
	if ((props = malloc(k->will_props.raw.len + 1)) == NULL)
		return ERR_NOMEM;
	if (k->version == MQTT_V5)
		/* The delay is ours alone: it is not part of the message. */
		mqtt_props_forward(&k->will_props, props, &r.properties);
	n = (long)record_size(&r);
	if ((buf = malloc((size_t)n)) == NULL) {
		free(props);
		return ERR_NOMEM;
	}
	/* One piece: at 64 KiB each, payload and all, no record is too large
	 * to be written whole. */
	n = record_put_whole(buf, (size_t)n, &r);
	free(props);
	if (n < 0) {
		free(buf);
		return (int)n;
	}
	*out = (struct slice){ buf, (size_t)n };
	return 0;
}

/* May it have a session to go on with, or is it to begin one that is kept?
 * CONNACK cannot say so without its desk [MQTT-3.2.2-3]. */
static bool
needs_desk(struct listener *l, const struct conn *c)
{
	return c->attach->durable || (!c->clean_start && roster_maybe(
	    &desk_of(l, c)->roster, XXH3_64bits(c->client_id,
	    c->client_id_len)));
}

int
session_attach(struct listener *l, struct conn *c, const struct mqtt_connect *k)
{
	struct session_msg e = {
		.kind = SESSION_ATTACH,
		.client_id = id_of(c),
		.time = c->attach_ns,
		.clean_start = c->clean_start,
		.version = c->version,
		.receive_maximum = c->receive_maximum,
		.durable = c->attach->durable,
		.expiry_s = c->attach->expiry_s,
	};
	struct peer	*desk = desk_of(l, c);
	int		 rc;

	/* Surely nothing to discard, and nothing to be kept: no need to wait. */
	e.opened = !e.durable && c->clean_start && !k->has_will &&
	    !roster_maybe(&desk->roster, XXH3_64bits(c->client_id,
	    c->client_id_len));
	if ((rc = session_number(l, c)) < 0)
		return rc;
	e.serial = c->serial;
	c->has_will = k->has_will;
	if (k->has_will) {
		if ((rc = will_record(c, k, &e.will)) < 0)
			goto forget;
		if (mqtt_props_has(&k->will_props, MQTT_P_WILL_DELAY))
			e.will_delay_s = k->will_props.will_delay_s;
	}
	rc = session_send(l, desk, &e);
	free((void *)(uintptr_t)e.will.data);
	if (rc < 0)
		goto forget;
	c->attached = true;
	if (e.opened) {
		c->alone = !bus_peer_ready(desk->bus);
		connect_welcome(l, c, false);
		if (c->alone)
			flow_attach(l, c);
		return 0;
	}
	c->state = CONN_ATTACHING;
	c->parked = true;		/* not in the list: the grant ends it */
	wheel_set(&l->wheel, &c->timer, l->now_ms + (needs_desk(l, c) ?
	    l->conf->session_attach_timeout_ms : ALONE_MS));
	return 0;

forget:
	htab_del(&l->serials, serial_hash(c->serial), c);
	c->serial = 0;
	return rc;
}

void
session_due(struct listener *l, struct conn *c)
{
	if (needs_desk(l, c)) {
		c->parked = false;
		connect_refuse(l, c, c->version, MQTT_SERVER_UNAVAILABLE);
		return;
	}
	/* Its desk is away. Nothing of this session will be kept: the siblings
	 * are told as long as there is no desk, and it hears of us when it is
	 * back. */
	log_info("session.alone", "client=%s", log_quote(c->client_id));
	c->alone = true;
	connect_welcome(l, c, false);
	flow_attach(l, c);
	client_go_on(l, c);
}

/*
 * A connection ended, and its will is to come behind what it published: its end
 * is told when the other listeners have taken that.
 */
struct ending {
	struct ending	*next;
	struct peer	*desk;
	struct session_msg e;
	size_t		 n;
	struct wait	 due[];		/* then the client id */
};

static struct ending	*endings, **endings_tail = &endings;

/* False if there is nothing to wait for. */
static bool
end_later(struct listener *l, struct conn *c, const struct session_msg *e)
{
	struct ending	*d;
	struct peer	*p;
	size_t		 n = 0;
	uint32_t	 i;

	for (i = 0; (p = peer_live(l, &i)) != NULL;)
		n += bus_peer_got(p->bus) < bus_peer_sent(p->bus);
	if (n == 0 || (d = malloc(sizeof(*d) + n * sizeof(d->due[0]) +
	    c->client_id_len)) == NULL)
		return false;
	d->next = NULL;
	d->desk = desk_of(l, c);
	d->e = *e;
	d->n = 0;
	for (i = 0; d->n < n && (p = peer_live(l, &i)) != NULL;) {
		if (bus_peer_got(p->bus) < bus_peer_sent(p->bus))
			d->due[d->n++] = (struct wait){ p, p->epoch,
			    bus_peer_sent(p->bus) };
	}
	memcpy(&d->due[d->n], c->client_id, c->client_id_len);
	d->e.client_id.data = (const uint8_t *)&d->due[d->n];
	*endings_tail = d;
	endings_tail = &d->next;
	return true;
}

bool
session_told(struct listener *l, bool all)
{
	struct ending	*d, **at = &endings;
	size_t		 i;

	while ((d = *at) != NULL) {
		for (i = 0; !all && i < d->n && answer_is_taken(&d->due[i]); i++)
			;
		if (!all && i < d->n) {
			at = &d->next;
			continue;
		}
		if ((*at = d->next) == NULL)
			endings_tail = at;
		(void)session_send(l, d->desk, &d->e);
		free(d);
	}
	return endings == NULL;
}

void
session_detach(struct listener *l, struct conn *c)
{
	struct session_msg e = {
		.kind = SESSION_DETACH,
		.serial = c->serial,
		.handle = c->handle,
		.client_id = id_of(c),
		.graceful = c->graceful || !c->placed,
		.refused = !c->placed,
		.has_expiry = c->has_expiry,
		.expiry_s = c->expiry_s,
	};

	free(c->attach);
	c->attach = NULL;
	if (c->serial == 0)
		return;
	htab_del(&l->serials, serial_hash(c->serial), c);
	if (c->attached && !fault_hit("session.detach") && (e.graceful ||
	    !c->has_will || !end_later(l, c, &e)))
		(void)session_send(l, desk_of(l, c), &e);
	c->attached = false;
	c->serial = 0;
}

/* --- An open session ---------------------------------------------------- */

void
session_ack(struct listener *l, const struct conn *c, uint8_t type, uint16_t id,
    bool rejected)
{
	struct session_msg e = {
		.kind = SESSION_ACK,
		.serial = c->serial,
		.handle = c->handle,
		.pid = id,
		.what = type,
		.flags = rejected,
	};

	(void)session_send(l, desk_of(l, c), &e);
}

/* PUBCOMP waits: once the client has it, it uses id for another message, and a
 * store that does not know of this one's end would take that for this one. */
void
session_release(struct listener *l, struct conn *c, uint16_t id)
{
	struct session_msg e = {
		.kind = SESSION_RELEASE,
		.serial = c->serial,
		.handle = c->handle,
		.pid = id,
	};
	struct peer	*p = desk_of(l, c);
	size_t		 i = (size_t)(p - l->peers) - PEERS_MAX, cap;
	struct pubcomp	*grown;

	if (pending[i].nowed == pending[i].cap_owed) {
		cap = MAX(pending[i].cap_owed * 2, (size_t)64);
		grown = realloc(pending[i].owed, cap * sizeof(*grown));
		if (grown == NULL) {
			metric_inc(&m_dropped_memory);
			client_doom(l, c);
			return;
		}
		pending[i].owed = grown;
		pending[i].cap_owed = cap;
	}
	if (session_send(l, p, &e) < 0) {
		client_doom(l, c);
		return;
	}
	client_hold(c);
	pending[i].owed[pending[i].nowed++] = (struct pubcomp){ c, id };
}

int
session_subscribe(struct listener *l, const struct conn *c,
    const struct topic_sub *s, uint8_t options, uint32_t sub_id,
    uint32_t token, bool remove)
{
	struct session_msg e = {
		.kind = remove ? SESSION_UNSUBSCRIBE : SESSION_SUBSCRIBE,
		.serial = c->serial,
		.handle = c->handle,
		.token = token,
		.filter = s->filter,
		.flags = options,
		.sub_id = sub_id,
	};

	if (s->shared)
		e.share = s->group;
	return session_send(l, desk_of(l, c), &e);
}

/* --- What comes in ------------------------------------------------------ */

static int
take_inbound(struct conn *c, const struct slice *pids)
{
	size_t i;

	for (i = 0; i + 2 <= pids->len; i += 2)
		if (inbound_add(&c->inbound, get_le16(pids->data + i)) < 0)
			return ERR_NOMEM;
	/* Receive Maximum begins anew with the connection (4.9): what is open
	 * from the one before does not count. */
	return 0;
}

/*
 * A session that goes on has its subscriptions from CONNACK on; those of QoS 0
 * are ours, and others must know of them first. What we have for the client
 * stays here until then, or for cluster.suback_timeout.
 */
struct corked {
	struct corked	*next;
	struct conn	*c;		/* held */
	uint64_t	 seq, deadline_ms;
};

static struct corked	*corks;

static void
cork(struct listener *l, struct conn *c, uint64_t seq)
{
	struct corked *k;

	if (c->state != CONN_OPEN || (k = malloc(sizeof(*k))) == NULL)
		return;
	k->c = c;
	k->seq = seq;
	k->deadline_ms = l->now_ms + l->conf->cluster_suback_timeout_ms;
	k->next = corks;
	corks = k;
	client_hold(c);
	c->corked = true;
	l->ncorked++;
}

static void
uncork(struct listener *l, bool all)
{
	struct corked *k, **at = &corks;

	while ((k = *at) != NULL) {
		if (!all && k->seq > l->tell.acked &&
		    l->now_ms < k->deadline_ms) {
			at = &k->next;
			continue;
		}
		*at = k->next;
		l->ncorked--;
		k->c->corked = false;
		if (k->c->state != CONN_DOOMED)
			out_flush(l, k->c);
		client_release(l, k->c);
		free(k);
	}
}

void
session_routed(struct listener *l)
{
	if (corks != NULL)
		uncork(l, false);
}

void
session_rebase(struct listener *l, uint64_t seq)
{
	struct corked *k;

	for (k = corks; k != NULL; k = k->next)
		if (k->seq > l->tell.acked)
			k->seq = seq;
}

static void
on_grant(struct listener *l, struct conn *c, const struct session_msg *e)
{
	uint64_t seq;

	if (c->state != CONN_ATTACHING) {
		if (c->state == CONN_OPEN && e->what == 0)
			c->alone = false;	/* it went on without */
		return;
	}
	c->parked = false;
	if (e->what != 0 || take_inbound(c, &e->pids) < 0) {
		connect_refuse(l, c, c->version, e->what != 0 ?
		    (uint8_t)e->what : MQTT_SERVER_BUSY);
		return;
	}
	c->handle = e->handle;
	seq = c->attach->seq;
	connect_welcome(l, c, e->present);
	if (seq > l->tell.acked && l->tell.router != NULL)
		cork(l, c, seq);
	client_go_on(l, c);
}

/* A subscription the session had: for QoS 0, which comes to us alone. */
static void
on_held(struct listener *l, struct conn *c, const struct session_msg *e)
{
	const char		*filter = (const char *)e->filter.data;
	struct index_sub	 opts;
	struct index_filter	*f;
	int			 rc;

	memset(&opts, 0, sizeof(opts));
	opts.id = e->sub_id & 0xfffffff;
	opts.qos = e->flags & 3;
	opts.no_local = (e->flags & 4) != 0;
	opts.rap = (e->flags & 8) != 0;
	rc = e->share.len == 0 ?
	    index_subscribe(l->index, &c->subs, filter, e->filter.len, &opts,
	    &f) : index_share(l->index, &c->subs, &e->share, filter,
	    e->filter.len, &opts, &f);
	if (rc >= 0 && f->is_group)
		(void)groups_learn(l, f);
	if (rc < 0)
		metric_inc(&m_dropped_quota);
	else {
		routes_changed(l, f);
		if (c->attach != NULL)
			c->attach->seq = MAX(c->attach->seq,
			    route_seq_of(&l->tell, f));
	}
}

static void
on_taken(struct listener *l, struct conn *c, uint8_t reason)
{
	char peer[64];

	metric_inc(&m_takeovers);
	log_debug("client.takeover", "client=%s peer=%s",
	    log_quote(c->client_id), client_peer(c, peer, sizeof(peer)));
	if (c->state == CONN_ATTACHING) {
		/* Somebody newer came before we were granted anything. */
		c->parked = false;
		connect_refuse(l, c, c->version, MQTT_SERVER_UNAVAILABLE);
		return;
	}
	client_close(l, c, reason);
	connect_end(l, c);
}

static void
on_deliver(struct listener *l, struct conn *c, const struct session_msg *e,
    const struct slice *apart)
{
	uint32_t		*ids = NULL;
	size_t			 n = e->ids.len / 4, i;
	struct mqueue_how	 how = {
		.qos = e->flags & SESSION_QOS,
		.retain = (e->flags & SESSION_RETAIN) != 0,
		.nids = (uint16_t)n,
	};
	struct message_view	 v = {
		.topic = e->topic,
		.props = e->props,
		.payload = e->flags & SESSION_APART ? *apart : e->payload,
		.expiry_s = expiry_left(e->deadline_ms,
		    l->ids.clock / 1000000),
		.qos = how.qos,
		.retain = how.retain,
	};
	bool			 taken;

	if (how.qos == 0 || how.qos == 3 || e->pid == 0 ||
	    e->pid > UINT16_MAX || c->state != CONN_OPEN)
		return;
	if (n > 0 && (ids = malloc(n * sizeof(*ids))) == NULL) {
		metric_inc(&m_dropped_memory);
		client_doom(l, c);		/* it will be sent again */
		return;
	}
	for (i = 0; i < n; i++)
		ids[i] = get_le32(e->ids.data + 4 * i);
	how.ids = ids;
	if (UNLIKELY(v.expiry_s == 0) && !(e->flags & SESSION_DUP)) {
		metric_inc(&m_dropped_expired);		/* [MQTT-3.3.2-5] */
		c->dropped++;
		taken = false;
	} else {
		taken = deliver_served(l, c, &v, &how, (uint16_t)e->pid,
		    (e->flags & SESSION_DUP) != 0);
	}
	/* What it cannot have counts as taken [MQTT-3.1.2-25]. */
	if (!taken)
		session_ack(l, c, how.qos == 1 ? MQTT_PUBACK : MQTT_PUBREC,
		    (uint16_t)e->pid, how.qos == 2);
	free(ids);
}

/* PUBREL goes out once on a connection: a store that began anew says it again
 * for what the client has to complete [MQTT-4.4.0-1]. */
static void
on_pubrel_due(struct listener *l, struct conn *c, uint16_t id)
{
	uint8_t *p;

	if (c->state != CONN_OPEN || id == 0)
		return;
	if (c->window == NULL && (c->window = window_new(65535)) == NULL) {
		client_doom(l, c);
		return;
	}
	if (window_state(c->window, id) == WINDOW_DONE) {
		if (window_put(c->window, WINDOW_PUBCOMP_DUE, id) < 0) {
			client_doom(l, c);
			return;
		}
	} else if (window_state(c->window, id) != WINDOW_PUBREC_DUE ||
	    window_step(c->window, id, WINDOW_GOT_PUBREC) !=
	    WINDOW_SEND_PUBREL) {
		return;
	}
	if ((p = out_reserve(l, c, 4)) != NULL)
		mqtt_ack_encode_short(MQTT_PUBREL, id, p);
	metric_inc(&m_packets_out);
}

/* A part of what the store has. */
static void
on_roster(struct peer *p, const struct session_msg *e)
{
	if (e->token == 0) {
		roster_fini(&p->coming);
		if (roster_init(&p->coming, e->what) < 0)
			return;
	}
	if (p->coming.bits == NULL || p->coming.log2 != e->what ||
	    e->token > roster_bytes(&p->coming) ||
	    e->payload.len > roster_bytes(&p->coming) - e->token)
		return;
	memcpy(p->coming.bits + e->token, e->payload.data, e->payload.len);
	if (e->more)
		return;
	roster_fini(&p->roster);
	p->roster = p->coming;
	memset(&p->coming, 0, sizeof(p->coming));
}

/* One more; also while parts of the whole are on their way. */
static void
on_stored(struct peer *p, uint64_t hash)
{
	if (p->roster.bits != NULL)
		(void)roster_add(&p->roster, hash);
	if (p->coming.bits != NULL)
		(void)roster_add(&p->coming, hash);
}

/* A store's disk is full, or has room again. */
static void
on_room(struct listener *l, const struct peer *p, bool full)
{
	uint64_t bit = UINT64_C(1) << (p - &l->peers[PEERS_MAX]);

	if (full == ((l->full_stores & bit) != 0))
		return;
	l->full_stores ^= bit;
	log_info("session.room", "peer=%s full=%d", bus_peer_name(p->bus),
	    full);
}

/* Asked for the roster, a store says as well whether it has room. */
void
session_ask_roster(struct listener *l, struct peer *p)
{
	struct session_msg e = { .kind = SESSION_ASK_ROSTER };

	(void)session_send(l, p, &e);
}

/* Of a connection that is not here. */
static void
say_gone(struct listener *l, struct peer *store, const struct session_msg *e)
{
	struct session_msg gone = {
		.kind = SESSION_DETACH,
		.serial = e->serial,
		.client_id = e->client_id,
	};

	if (e->client_id.len > 0)
		(void)session_send(l, store, &gone);
}

int
on_serve(void *ctx, struct bus_frame *f)
{
	struct listener		*l = ctx;
	struct session_msg	 e;
	struct wire_in		 in;
	struct conn		*c;
	struct peer		*store;
	int			 rc;

	store = f->from.peer == NULL ? NULL : bus_peer_user(f->from.peer);
	wire_in_init(&in, f->body, f->len);
	while ((rc = session_msg_next(&in, &e)) == 1) {
		if (e.kind == SERVE_ROSTER || e.kind == SERVE_STORED) {
			if (store != NULL && e.kind == SERVE_ROSTER)
				on_roster(store, &e);
			else if (store != NULL)
				on_stored(store, e.time);
			continue;
		}
		if (e.kind == SERVE_FULL) {
			if (store != NULL)
				store->full = e.what != 0;
			continue;
		}
		if (e.kind == SERVE_ROOM) {
			if (store != NULL)
				on_room(l, store, e.what != 0);
			continue;
		}
		if (e.kind == SERVE_SUBACK) {
			subscribe_stored(l, &e);
			continue;
		}
		if ((c = session_find(l, e.serial)) == NULL) {
			if (e.kind == SERVE_TAKEN && store != NULL)
				say_gone(l, store, &e);
			continue;
		}
		switch (e.kind) {
		case SERVE_GRANT:
			on_grant(l, c, &e);
			break;
		case SERVE_HELD:
			on_held(l, c, &e);
			break;
		case SERVE_TAKEN:
			on_taken(l, c, (uint8_t)e.what);
			break;
		case SERVE_DELIVER:
			on_deliver(l, c, &e, &f->payload);
			break;
		case SERVE_PUBREL:
			on_pubrel_due(l, c, (uint16_t)e.pid);
			break;
		case SERVE_MAY:
			publish_may(l, c, &e);
			break;
		case SERVE_RETAINED:
			if (store != NULL)
				retained_take(l, c, (uint32_t)(store -
				    l->peers), &e, &f->payload);
			break;
		}
	}
	return rc;
}

/* --- A store that begins anew ------------------------------------------- */

/* What waits at the client for an answer of its own. */
static int
pids_of(const struct conn *c, struct slice *out)
{
	struct window_cell	*cells;
	uint32_t		 n, i;
	uint16_t		 next, max;
	uint8_t			*buf;

	*out = (struct slice){ NULL, 0 };
	if (c->handle == 0 || c->window == NULL ||
	    (n = window_inflight(c->window)) == 0)
		return 0;
	cells = malloc(n * sizeof(*cells));
	buf = malloc(n * 2);
	if (cells == NULL || buf == NULL) {
		free(cells);
		free(buf);
		return ERR_NOMEM;
	}
	n = window_export(c->window, cells, &next, &max);
	for (i = 0; i < n; i++)
		put_le16(buf + 2 * i, cells[i].id);
	free(cells);
	*out = (struct slice){ buf, 2 * (size_t)n };
	return 0;
}

void
session_up(struct listener *l, struct peer *p)
{
	struct session_msg	 e;
	struct conn		*c;
	size_t			 i;

	for (i = 0; l->serials.cells != NULL && i <= l->serials.mask; i++) {
		if ((c = l->serials.cells[i].item) == NULL ||
		    !c->attached || desk_of(l, c) != p)
			continue;
		memset(&e, 0, sizeof(e));
		e.kind = SESSION_ATTACH;
		e.serial = c->serial;
		e.client_id = id_of(c);
		e.time = c->attach_ns;
		e.clean_start = c->clean_start;
		e.version = c->version;
		e.receive_maximum = c->receive_maximum;
		e.handle = c->handle;
		e.present = c->state == CONN_OPEN;
		e.again = true;
		if (c->attach != NULL) {
			e.durable = c->attach->durable;
			e.expiry_s = c->attach->expiry_s;
		} else {
			e.durable = c->handle != 0;
		}
		if (pids_of(c, &e.pids) < 0 || session_send(l, p, &e) < 0)
			client_doom(l, c);
		free((void *)(uintptr_t)e.pids.data);
	}
	/* Who was not named is not here. */
	memset(&e, 0, sizeof(e));
	e.kind = SESSION_ATTACH;
	(void)session_send(l, p, &e);
	session_ask_roster(l, p);
	retained_up(l);
	subscribe_again(l, p);
	(void)flush_one(l, p);
}

void
session_settle(struct listener *l)
{
	uncork(l, true);
	(void)session_told(l, true);
	session_flush_all(l);
}

void
session_fini(struct listener *l)
{
	struct ending	*d;
	size_t i;

	uncork(l, true);
	while ((d = endings) != NULL) {
		endings = d->next;
		free(d);
	}
	endings_tail = &endings;
	htab_fini(&l->serials);
	for (i = 0; i < STORES_MAX; i++) {
		roster_fini(&l->peers[PEERS_MAX + i].roster);
		roster_fini(&l->peers[PEERS_MAX + i].coming);
		free(pending[i].buf);
		free(pending[i].owed);
		memset(&pending[i], 0, sizeof(pending[i]));
	}
}

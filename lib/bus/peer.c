#include "bus/internal.h"

#include <stdlib.h>
#include <stdio.h>
#include <utlist.h>

#include "base/err.h"
#include "log/log.h"

/* --- Connections ------------------------------------------------------- */

int
sock_monitor(struct bus *b, struct sock *s, enum sock_kind kind, void *of,
    int events)
{
	char	 name[64];
	void	*z;
	int	 rc;

	snprintf(name, sizeof(name), "inproc://monitor.%llu",
	    (unsigned long long)++b->serial);
	if (zmq_socket_monitor(of, name, events) < 0)
		return ERR_IO;
	if ((z = zmq_socket(b->zctx, ZMQ_PAIR)) == NULL)
		return ERR_IO;
	if (zmq_connect(z, name) < 0) {
		zmq_close(z);
		return ERR_IO;
	}
	if ((rc = sock_open(b, s, kind, NULL, z)) < 0)
		zmq_close(z);
	return rc;
}

/* The name a ROUTER knows this connection by: also after a reconnection, and
 * never that of another incarnation. */
static int
dealer_name(const struct bus *b, void *z)
{
	char id[BUS_ADDR_MAX];
	int  n;

	n = snprintf(id, sizeof(id), "%s/%llx", b->name,
	    (unsigned long long)b->incarnation);
	return zmq_setsockopt(z, ZMQ_ROUTING_ID, id, (size_t)n) < 0 ?
	    ERR_IO : 0;
}

static void
link_free(struct link *l)
{
	if (l->dealer.z != NULL)
		zmq_socket_monitor(l->dealer.z, NULL, 0);
	sock_close(&l->monitor);
	sock_close(&l->dealer);
	free(l);
}

static int
link_open(struct bus_peer *p, const char *endpoint)
{
	struct bus	*b = p->bus;
	struct link	*l;
	void		*z;
	int		 rc;

	if ((l = calloc(1, sizeof(*l))) == NULL)
		return ERR_NOMEM;
	if ((z = zmq_socket(b->zctx, ZMQ_DEALER)) == NULL) {
		free(l);
		return ERR_IO;
	}
	if ((rc = socket_options(z, ZMQ_DEALER)) < 0 ||
	    (rc = dealer_name(b, z)) < 0 ||
	    (rc = sock_open(b, &l->dealer, SOCK_DEALER, l, z)) < 0) {
		zmq_close(z);
		free(l);
		return rc;
	}
	if ((rc = sock_monitor(b, &l->monitor, SOCK_MONITOR, z,
	    ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED)) < 0)
		goto free_link;
	l->monitor.link = l;
	if (zmq_connect(z, endpoint) < 0) {
		rc = ERR_IO;
		goto free_link;
	}
	memcpy(p->endpoint, endpoint, strlen(endpoint) + 1);
	l->peer = p;
	l->next = b->links;
	b->links = l;
	p->link = l;
	return 0;

free_link:
	link_free(l);
	return rc;
}

/* Not closed at once: its socket may be the one being read right now. */
static void
link_give_up(struct bus_peer *p)
{
	p->link->peer = NULL;
	p->link = NULL;
	p->bus->links_given_up = true;
}

void
links_reap(struct bus *b, bool all)
{
	struct link **at = &b->links, *l;

	if (!b->links_given_up && !all)
		return;
	while ((l = *at) != NULL) {
		if (l->peer != NULL && !all) {
			at = &l->next;
			continue;
		}
		*at = l->next;
		link_free(l);
	}
	b->links_given_up = false;
}

/* --- Peers ------------------------------------------------------------- */

static bool
same_node(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void
peer_free(struct bus_peer *p)
{
	free(p->node);
	free(p);
}

/* Streams by way of several links of ours end at one process over there. */
static uint32_t
slot_of(const char *link)
{
	const char *dot = strchr(link, '.');

	return dot == NULL ? 0 : (uint32_t)strtoul(dot + 1, NULL, 10) %
	    SLOTS_MAX;
}

/* node is NULL: a neighbour. */
static int
peer_open(struct bus_peer **out, struct bus *b, const char *name,
    const char *node, uint64_t incarnation, const char *endpoint, void *user)
{
	struct bus_peer *p;
	struct carried	*c;
	int		 rc;

	if (strlen(name) >= BUS_NAME_MAX || peer_class_of(name) == 0 ||
	    strlen(endpoint) >= BUS_ENDPOINT_MAX ||
	    (node != NULL && strlen(node) >= BUS_NODE_MAX))
		return ERR_INVAL;
	if (b->npeers >= BUS_PEERS_MAX)
		return ERR_FULL;
	DL_FOREACH(b->peers, p)
		if (strcmp(p->name, name) == 0 && same_node(p->node, node))
			return ERR_EXISTS;
	if ((p = calloc(1, sizeof(*p))) == NULL)
		return ERR_NOMEM;
	if (node != NULL && (p->node = strdup(node)) == NULL) {
		free(p);
		return ERR_NOMEM;
	}
	p->slot = node != NULL ? slot_of(name) : 0;
	p->bus = b;
	memcpy(p->name, name, strlen(name) + 1);
	p->class = peer_class_of(name);
	p->incarnation = incarnation;
	p->user = user;
	if ((rc = link_open(p, endpoint)) < 0) {
		peer_free(p);
		return rc;
	}
	if ((c = carried_take(b, name, node, incarnation)) != NULL) {
		p->stream = c->stream;
		p->incarnation = c->incarnation;
		p->out = c->out;
		free(c);
	} else {
		p->stream = ++b->serial;
		stream_out_init(&p->out, &b->pool, b->stream_max, b->credit);
	}
	if (p->class == PEER_STORE)
		p->out.asks = STREAM_ASK_GOT | STREAM_ASK_STORED;
	p->out.by_record = node != NULL;
	DL_APPEND(b->peers, p);
	b->npeers++;
	conns_see_peer(b, p, true);
	*out = p;
	return 0;
}

int
bus_peer_open(struct bus_peer **out, struct bus *b, const char *name,
    uint64_t incarnation, const char *endpoint, void *user)
{
	return incarnation == 0 ? ERR_INVAL :
	    peer_open(out, b, name, NULL, incarnation, endpoint, user);
}

int
bus_peer_open_far(struct bus_peer **out, struct bus *b, const char *name,
    const char *node, const char *endpoint, void *user)
{
	return peer_open(out, b, name, node, 0, endpoint, user);
}

int
bus_peer_reroute(struct bus_peer *p, const char *endpoint)
{
	if (strlen(endpoint) >= BUS_ENDPOINT_MAX)
		return ERR_INVAL;
	if (p->link != NULL && strcmp(p->endpoint, endpoint) == 0)
		return 0;
	if (p->link != NULL)
		link_give_up(p);
	p->state = PEER_CONNECTING;
	p->told_up = p->hello_due = p->full = false;
	return link_open(p, endpoint);
}

void
bus_peer_close(struct bus_peer **pp)
{
	struct bus_peer	*p = *pp, **at;
	struct bus	*b;

	*pp = NULL;
	if (p == NULL)
		return;
	b = p->bus;
	for (at = &b->dirty; p->queued && *at != NULL; at = &(*at)->dirty_next)
		if (*at == p) {
			*at = p->dirty_next;
			break;
		}
	conns_see_peer(b, p, false);
	DL_DELETE(b->peers, p);
	b->npeers--;
	if (p->link != NULL)
		link_give_up(p);
	stream_out_fini(&p->out);
	queue_fini(&p->singles);
	peer_free(p);
}

int
bus_peer_move(struct bus_peer *p, uint64_t incarnation, const char *endpoint,
    bool resend)
{
	struct bus	*b = p->bus;
	int		 rc;

	if (incarnation == 0 || strlen(endpoint) >= BUS_ENDPOINT_MAX)
		return ERR_INVAL;
	conns_see_peer(b, p, false);
	if (p->link != NULL)
		link_give_up(p);
	if (resend)
		stream_rewind(&p->out, false);
	else
		stream_take_all(&p->out, b->credit);
	queue_fini(&p->singles);
	p->state = PEER_CONNECTING;
	p->told_up = p->hello_due = p->full = false;
	p->incarnation = incarnation;
	if ((rc = link_open(p, endpoint)) < 0)
		return rc;
	conns_see_peer(b, p, true);
	return 0;
}

void *
bus_peer_user(const struct bus_peer *p)
{
	return p->user;
}

const char *
bus_peer_name(const struct bus_peer *p)
{
	return p->name;
}

void
bus_peer_forget_live(struct bus_peer *p)
{
	stream_forget_live(&p->out);
}

const char *
bus_peer_node(const struct bus_peer *p)
{
	return p->node;
}

const char *
bus_peer_endpoint(const struct bus_peer *p)
{
	return p->endpoint;
}

bool
bus_peer_ready(const struct bus_peer *p)
{
	return p->state == PEER_WELCOMED;
}

bool
bus_peer_blocked(const struct bus_peer *p)
{
	return stream_blocked(&p->out);
}

int64_t
bus_peer_credit(const struct bus_peer *p)
{
	return (int64_t)(p->out.granted - p->out.appended);
}

bool
bus_peer_room(const struct bus_peer *p, size_t size, unsigned qos)
{
	return stream_room(&p->out, size, qos) == 0;
}

uint64_t
bus_peer_sent(const struct bus_peer *p)
{
	return p->out.seq;
}

uint64_t
bus_peer_got(const struct bus_peer *p)
{
	return stream_got(&p->out);
}

uint64_t
bus_peer_stored(const struct bus_peer *p)
{
	return stream_stored(&p->out);
}

void
bus_peer_unacked(const struct bus_peer *p,
    bool (*each)(void *ctx, uint64_t seq, const struct record *r), void *ctx)
{
	stream_each(&p->out, each, ctx);
}

/* --- Sending ----------------------------------------------------------- */

void
bus_peer_touch(struct bus_peer *p)
{
	if (p->queued)
		return;
	p->queued = true;
	p->dirty_next = p->bus->dirty;
	p->bus->dirty = p;
}

int
bus_record(struct bus_peer *p, const struct record *r, struct blob *payload,
    uint64_t *seq)
{
	return bus_record_of(p, NULL, r, payload, seq);
}

int
bus_record_of(struct bus_peer *p, struct stream_origin *origin,
    const struct record *r, struct blob *payload, uint64_t *seq)
{
	bool	blocked = p->out.was_blocked;
	int	rc = stream_append(&p->out, origin, r, payload, seq);

	if (LIKELY(rc == 0)) {
		count(records_sent);
		if (UNLIKELY(p->out.was_blocked && !blocked))
			count(stalls);
		bus_peer_touch(p);
		return 0;
	}
	if (rc == ERR_FULL && p->out.appended >= p->out.granted &&
	    record_qos(r) == 0)
		count(refused_credit);
	else if (rc == ERR_FULL)
		count(refused_full);
	else if (rc == ERR_INVAL && msgid_cmp(r->id, p->out.last_id) <= 0)
		count(records_disordered);
	return rc;
}

int
bus_stream_send(struct bus_peer *p, enum kind kind, const void *body,
    size_t len, uint64_t *seq)
{
	return bus_stream_send_payload(p, kind, body, len, NULL, NULL, seq);
}

int
bus_stream_send_payload(struct bus_peer *p, enum kind kind, const void *body,
    size_t len, struct blob *payload, const struct slice *at, uint64_t *seq)
{
	int rc;

	if (kind <= KIND_RECORDS || kind >= KIND_ROUTE_ACK ||
	    len > BUS_BODY_MAX)
		return ERR_INVAL;
	rc = stream_append_frame(&p->out, kind, body, len, payload, at, seq);
	if (rc == 0)
		bus_peer_touch(p);
	else if (rc == ERR_FULL)
		count(refused_full);
	return rc;
}

/* An envelope and what follows. 0, or ERR_AGAIN: later. */
static int
send_frame(struct bus_peer *p, const struct stream_frame *f)
{
	uint8_t	 head[ENVELOPE_MAX];
	void	*z = p->link->dealer.z;
	Envelope e;
	size_t	 n;
	int	 more = f->payload != NULL ? ZMQ_SNDMORE : 0;

	bus_envelope(p->bus, &e, f->kind);
	memcpy(e.source, p->bus->name, strlen(p->bus->name) + 1);
	e.incarnation = p->bus->incarnation;
	e.slot = p->slot;
	e.seq = f->seq;
	e.count = f->count;
	if (f->origin != NULL) {
		memcpy(e.origin, f->origin->name, strlen(f->origin->name) + 1);
		e.origin_incarnation = f->origin->incarnation;
		e.origin_slot = f->origin->slot;
	}
	n = envelope_put(head, &e);
	sock_used(&p->link->dealer);
	if (send_bytes(z, head, n, ZMQ_SNDMORE) < 0)
		return ERR_AGAIN;
	/* Past the first part ZeroMQ takes the rest, or the connection broke
	 * and the monitor is about to say so. */
	if (send_shared(z, f->body, f->body->data, f->len, more) < 0)
		return ERR_AGAIN;
	if (more && send_shared(z, f->payload, f->payload_at, f->payload_len,
	    0) < 0)
		return ERR_AGAIN;
	return 0;
}

static int
send_single(struct bus_peer *p, enum kind kind, const void *body, size_t len)
{
	uint8_t	 head[ENVELOPE_MAX];
	void	*z = p->link->dealer.z;
	Envelope e;
	size_t	 n;

	bus_envelope(p->bus, &e, kind);
	n = envelope_put(head, &e);
	sock_used(&p->link->dealer);
	if (send_bytes(z, head, n, ZMQ_SNDMORE) < 0 ||
	    send_bytes(z, body, len, 0) < 0)
		return ERR_AGAIN;
	return 0;
}

static int
send_hello(struct bus_peer *p)
{
	uint8_t	body[ENVELOPE_MAX];
	Hello	h = Hello_init_zero;

	h.version = PROTO_VERSION;
	memcpy(h.node, p->bus->node, strlen(p->bus->node) + 1);
	memcpy(h.name, p->bus->name, strlen(p->bus->name) + 1);
	h.incarnation = p->bus->incarnation;
	h.slot = p->slot;
	/* At the other end of a relay may be one that knows nothing of us. */
	h.base = p->node != NULL ? stream_base(&p->out) : p->out.got;
	h.stream = p->stream;
	return send_single(p, KIND_HELLO, body, hello_put(body, &h));
}

void
peer_flush(struct bus_peer *p)
{
	struct stream_frame	*f;
	int			 rc;

	if (p->full || p->link == NULL)
		return;
	if (p->hello_due) {
		if (send_hello(p) < 0)
			goto full;
		p->hello_due = false;
		p->state = PEER_GREETED;
	}
	if (p->state != PEER_WELCOMED)
		return;
	while (p->singles.head != NULL) {
		if (send_single(p, p->singles.head->kind,
		    p->singles.head->body, p->singles.head->len) < 0)
			goto full;
		queue_pop(&p->singles);
	}
	while ((rc = stream_next(&p->out, &f)) == 1) {
		if (send_frame(p, f) < 0)
			goto full;
		stream_sent(&p->out);
		count(frames_sent);
	}
	if (rc < 0)
		bus_peer_touch(p);	/* no memory now: the next turn */
	return;
full:
	p->full = true;		/* peer_drain goes on when the socket stirs */
}

int
bus_send(struct bus_peer *p, enum kind kind, const void *body, size_t len)
{
	if (kind < KIND_ROUTE_ACK || len > BUS_BODY_MAX)
		return ERR_INVAL;
	if (p->state == PEER_WELCOMED && !p->full && p->link != NULL &&
	    p->singles.head == NULL && send_single(p, kind, body, len) == 0)
		return 0;
	bus_peer_touch(p);
	return queue_push(&p->singles, kind, body, len);
}

/* --- What the peer says ------------------------------------------------ */

static void
tell(struct bus_peer *p, int what)
{
	const struct bus_events *e = p->bus->events;
	struct link		*l = p->link;

	if (e == NULL)
		return;
	if (what & STREAM_GOT_MORE && e->got != NULL)
		e->got(p->bus->ctx, p, p->out.got);
	if (l->peer != p)		/* closed or moved by the callback */
		return;
	if (what & STREAM_STORED_MORE && e->stored != NULL)
		e->stored(p->bus->ctx, p, p->out.stored);
	if (l->peer != p)
		return;
	if (what & STREAM_UNBLOCKED && e->credit != NULL)
		e->credit(p->bus->ctx, p);
}

static void
peer_lost(struct bus_peer *p, enum peer_state state)
{
	const struct bus_events *e = p->bus->events;

	p->state = state;
	p->hello_due = false;
	queue_fini(&p->singles);
	if (!p->told_up)
		return;
	p->told_up = false;
	count(connections_lost);
	log_info("bus.peer_lost", "peer=%s%s%s incarnation=%llu", p->name,
	    p->node != NULL ? "@" : "", p->node != NULL ? p->node : "",
	    (unsigned long long)p->incarnation);
	if (e != NULL && e->lost != NULL)
		e->lost(p->bus->ctx, p);
}

static void
peer_refused(struct bus_peer *p, const Welcome *w)
{
	count(refused_by_peer);
	log_warn("bus.refused_by_peer", "peer=%s status=%d version=%u",
	    p->name, (int)w->status, (unsigned)w->version);
	ev_timer_again(p->bus->loop, &p->bus->retry);
	peer_lost(p, PEER_REFUSED);
}

static void
take_welcome(struct bus_peer *p, const void *body, size_t len)
{
	const struct bus_events *e = p->bus->events;
	struct link	*l = p->link;
	Welcome		 w = Welcome_init_zero;
	uint64_t	 resend;
	int		 what;

	if (welcome_get(&w, body, len) < 0) {
		count(dropped_malformed);
		return;
	}
	if (w.to != p->bus->incarnation || w.slot != p->slot ||
	    p->state == PEER_CONNECTING || (p->node == NULL ?
	    w.incarnation != p->incarnation || strcmp(w.name, p->name) != 0 :
	    w.incarnation == 0 || strcmp(w.node, p->node) != 0)) {
		count(dropped_unwelcome);
		return;
	}
	/* Another link over there: it has nothing of what the one before had
	 * not said to be where it belongs. */
	if (p->node != NULL && w.status == WELCOME_OK &&
	    w.incarnation != p->incarnation) {
		if (p->incarnation != 0)
			stream_rewind(&p->out, true);
		p->incarnation = w.incarnation;
	}
	if (w.status != WELCOME_OK || w.version != PROTO_VERSION) {
		peer_refused(p, &w);
		return;
	}
	if (w.open > w.seq || (what = stream_resume(&p->out, w.seq,
	    w.seq - w.open, w.stored, w.credit, w.taken, &resend)) < 0) {
		count(dropped_malformed);
		peer_refused(p, &w);
		return;
	}
	count_n(frames_resent, resend);
	p->state = PEER_WELCOMED;
	bus_peer_touch(p);
	if (!p->told_up) {
		p->told_up = true;
		log_info("bus.peer_up", "peer=%s%s%s incarnation=%llu "
		    "resent=%llu", p->name, p->node != NULL ? "@" : "",
		    p->node != NULL ? p->node : "",
		    (unsigned long long)p->incarnation,
		    (unsigned long long)resend);
		if (e != NULL && e->up != NULL)
			e->up(p->bus->ctx, p);
		if (l->peer != p)
			return;
	}
	tell(p, what);
}

static void
take_ack(struct bus_peer *p, const Envelope *e)
{
	int what;

	if (p->state != PEER_WELCOMED || e->slot != p->slot ||
	    e->incarnation != p->bus->incarnation ||
	    strcmp(e->source, p->bus->name) != 0) {
		count(dropped_unwelcome);
		return;
	}
	if ((what = stream_ack(&p->out, e->got, e->stored, e->credit)) < 0) {
		count(dropped_malformed);
		return;
	}
	count(acks_received);
	bus_peer_touch(p);	/* credit may let something go */
	tell(p, what);
}

static void
take_single(struct bus_peer *p, const Envelope *e, const void *body, size_t len)
{
	struct bus_frame f = {
		.kind = e->kind, .clock = e->clock, .body = body, .len = len,
		.from = {
			.name = p->name,
			.node = p->node != NULL ? p->node : p->bus->node,
			.class = p->class | (p->node != NULL ? PEER_REMOTE : 0),
			.incarnation = p->incarnation,
			.peer = p,
		},
	};

	if (p->state != PEER_WELCOMED) {
		count(dropped_unwelcome);
		return;
	}
	if (bus_dispatch(p->bus, &f) == ERR_AGAIN)
		count(dropped_refused);
}

static void
peer_take(struct bus_peer *p, struct incoming *in)
{
	const void	*body = zmq_msg_data(&in->part[2]);
	size_t		 len = zmq_msg_size(&in->part[2]);
	Envelope	 e;

	if (envelope_get(&e, zmq_msg_data(&in->part[1]),
	    zmq_msg_size(&in->part[1])) < 0 || len > BUS_BODY_MAX) {
		count(dropped_malformed);
		return;
	}
	if (e.kind == KIND_WELCOME)
		take_welcome(p, body, len);
	else if (e.kind == KIND_ACK)
		take_ack(p, &e);
	else if (e.kind >= KIND_ROUTE_ACK && e.kind <= UINT16_MAX)
		take_single(p, &e, body, len);
	else
		count(dropped_unaccepted);
}

void
peer_drain(struct link *l, int *frames)
{
	struct incoming	in;
	int		rc = 0;

	while (l->peer != NULL && *frames > 0) {
		rc = incoming_recv(&in, l->dealer.z, 1, 1, 2);
		if (rc == ERR_AGAIN)
			break;
		(*frames)--;
		if (rc < 0) {
			count(dropped_malformed);
			continue;
		}
		peer_take(l->peer, &in);
		incoming_fini(&in);
	}
	if (l->peer != NULL && l->peer->full) {
		l->peer->full = false;
		bus_peer_touch(l->peer);
	}
}

/* Two parts: the number of the event and a value; the endpoint. */
void
monitor_drain(struct link *l)
{
	struct incoming	 in;
	struct bus_peer	*p;
	uint16_t	 event;
	int		 rc;

	while ((p = l->peer) != NULL && (rc = incoming_recv(&in, l->monitor.z,
	    0, 1, 2)) != ERR_AGAIN) {
		if (rc < 0 || zmq_msg_size(&in.part[0]) < sizeof(event))
			continue;
		memcpy(&event, zmq_msg_data(&in.part[0]), sizeof(event));
		incoming_fini(&in);
		if (event == ZMQ_EVENT_DISCONNECTED) {
			peer_lost(p, PEER_CONNECTING);
			continue;
		}
		p->state = PEER_CONNECTING;
		p->hello_due = true;
		p->full = false;
		bus_peer_touch(p);
		ev_timer_again(p->bus->loop, &p->bus->retry);
	}
}

/* Hello again to who refused us, or has not answered: both may be over. */
void
peers_retry(struct bus *b)
{
	struct bus_peer	*p;
	bool		 any = false;

	DL_FOREACH(b->peers, p) {
		if (p->state != PEER_REFUSED && p->state != PEER_GREETED)
			continue;
		p->hello_due = true;
		bus_peer_touch(p);
		any = true;
	}
	if (!any)
		ev_timer_stop(b->loop, &b->retry);
}

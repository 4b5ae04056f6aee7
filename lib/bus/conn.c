#include "bus/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <utlist.h>

#include "base/err.h"
#include "base/util.h"
#include "log/log.h"

/* --- Who said hello ---------------------------------------------------- */

static struct conn *
conn_find(struct bus *b, const void *id, size_t len)
{
	struct conn *c;

	HASH_FIND(hh, b->conns, id, len, c);
	return c;
}

/* Who keeps the books of a stream need not do so any longer. */
static void
in_gone(struct bus *b, struct stream_in *in)
{
	void *user = in->user;

	in->user = NULL;
	if (user != NULL && b->events != NULL && b->events->gone != NULL)
		b->events->gone(b->ctx, user);
}

static void
conn_free(struct bus *b, struct conn *c)
{
	struct conn **at;
	uint32_t      slot;

	for (slot = 0; slot < SLOTS_MAX; slot++)
		in_gone(b, &c->in[slot]);
	if (b->frame_conn == c)
		b->frame_conn = NULL;
	for (at = &b->acks; c->queued && *at != NULL; at = &(*at)->acks_next)
		if (*at == c) {
			*at = c->acks_next;
			break;
		}
	if (c->class == PEER_TOOL)
		b->ntools--;
	HASH_DELETE(hh, b->conns, c);
	queue_fini(&c->singles);
	free(c);
}

void
conns_fini(struct bus *b)
{
	struct origin	*o, *more;
	struct conn	*c, *next;

	HASH_ITER(hh, b->conns, c, next)
		conn_free(b, c);
	HASH_ITER(hh, b->origins, o, more) {
		HASH_DELETE(hh, b->origins, o);
		free(o);
	}
}

void
conns_see_peer(struct bus *b, struct bus_peer *p, bool open)
{
	struct conn *c, *next;

	if (p->node != NULL)
		return;
	HASH_ITER(hh, b->conns, c, next)
		if (c->incarnation == p->incarnation && !c->remote &&
		    strcmp(c->name, p->name) == 0)
			c->peer = open ? p : NULL;
	if (b->holding && b->frame_conn != NULL)
		b->frame.from.peer = b->frame_conn->peer;
}

/* A tool comes, asks and goes, and nobody tells us that it went. */
static void
tools_evict(struct bus *b)
{
	struct conn *c, *next, *oldest = NULL;

	HASH_ITER(hh, b->conns, c, next)
		if (c->class == PEER_TOOL &&
		    (oldest == NULL || c->heard < oldest->heard))
			oldest = c;
	count(tools_evicted);
	conn_free(b, oldest);
}

static struct conn *
conn_new(struct bus *b, const struct bus_addr *from, const Hello *h,
    enum peer_class class, const struct msgid *last)
{
	struct bus_peer	*p;
	struct conn	*c;
	uint32_t	 slot;

	if (class == PEER_TOOL && b->ntools >= TOOLS_MAX)
		tools_evict(b);
	if ((c = calloc(1, sizeof(*c))) == NULL)
		return NULL;
	c->addr = *from;
	c->remote = from->via > 0;
	memcpy(c->name, h->name, sizeof(c->name));
	memcpy(c->node, h->node, sizeof(c->node));
	c->class = class;
	c->incarnation = h->incarnation;
	if (class == PEER_TOOL)
		b->ntools++;
	DL_FOREACH(b->peers, p)
		if (p->incarnation == c->incarnation && !c->remote &&
		    p->node == NULL && strcmp(p->name, c->name) == 0)
			c->peer = p;
	for (slot = 0; slot < SLOTS_MAX; slot++) {
		c->in[slot].slot = slot;
		c->in[slot].defers = c->remote;
	}
	/* The ids of a store rise over all its starts: what it sends again is
	 * known by that. */
	for (slot = 0; class == PEER_STORE && last != NULL &&
	    slot < SLOTS_MAX; slot++)
		c->in[slot].last_id = last[slot];
	HASH_ADD(hh, b->conns, addr.id, c->addr.len, c);
	return c;
}

struct conn *
conn_restore(struct bus *b, const char *name, const char *node,
    uint64_t incarnation)
{
	struct bus_addr	from = { 0, 0, { 0 } };
	Hello		h = Hello_init_zero;

	from.len = (uint16_t)snprintf((char *)from.id, sizeof(from.id),
	    "%s/%llx", name, (unsigned long long)incarnation);
	if (conn_find(b, from.id, from.len) != NULL ||
	    HASH_COUNT(b->conns) >= CONNS_MAX)
		return NULL;
	memcpy(h.name, name, strlen(name) + 1);
	memcpy(h.node, node, strlen(node) + 1);
	h.incarnation = incarnation;
	return conn_new(b, &from, &h, peer_class_of(name), NULL);
}

static void
conn_touch(struct bus *b, struct conn *c)
{
	if (c->queued)
		return;
	c->queued = true;
	c->acks_next = b->acks;
	b->acks = c;
}

/* --- Sending back ------------------------------------------------------ */

/* 0, ERR_AGAIN, or ERR_NOTFOUND if nobody is connected by that address. */
static int
send_to(struct bus *b, const struct bus_addr *to, const Envelope *e,
    const void *body, size_t len)
{
	uint8_t		 head[ENVELOPE_MAX];
	size_t		 n = envelope_put(head, e);
	struct sock	*s = to->via > 0 ? &b->outer : &b->router;
	int		 more = body != NULL ? ZMQ_SNDMORE : 0;

	if (s->z == NULL)
		return ERR_NOTFOUND;
	sock_used(s);
	if (send_bytes(s->z, to->id, to->via > 0 ? to->via : to->len,
	    ZMQ_SNDMORE) < 0)
		return errno == EAGAIN ? ERR_AGAIN : ERR_NOTFOUND;
	if ((to->via > 0 && send_bytes(s->z, to->id + to->via,
	    (size_t)(to->len - to->via), ZMQ_SNDMORE) < 0) ||
	    send_bytes(s->z, head, n, more) < 0 ||
	    (more && send_bytes(s->z, body, len, 0) < 0))
		return ERR_NOTFOUND;
	return 0;
}

static int
send_welcome(struct bus *b, const struct bus_addr *to, const Hello *h,
    const struct stream_in *in, WelcomeStatus status)
{
	uint8_t	 body[ENVELOPE_MAX];
	Envelope e;
	Welcome	 w = Welcome_init_zero;

	bus_envelope(b, &e, KIND_WELCOME);
	w.version = PROTO_VERSION;
	memcpy(w.node, b->node, sizeof(w.node));
	memcpy(w.name, b->name, sizeof(w.name));
	w.incarnation = b->incarnation;
	w.status = status;
	w.slot = h->slot;
	w.to = h->incarnation;
	if (in != NULL) {
		w.seq = in->seq;
		w.stored = in->stored;
		w.credit = stream_in_credit(in);
		w.taken = in->taken;
		w.open = in->seq - stream_in_got(in);
	}
	return send_to(b, to, &e, body, welcome_put(body, &w));
}

static int
send_ack(struct bus *b, const struct conn *c, uint32_t slot)
{
	Envelope e;

	bus_envelope(b, &e, KIND_ACK);
	memcpy(e.source, c->name, strlen(c->name) + 1);
	e.slot = slot;
	e.incarnation = c->incarnation;
	e.got = stream_in_got(&c->in[slot]);
	e.stored = c->in[slot].stored;
	e.credit = stream_in_credit(&c->in[slot]);
	return send_to(b, &c->addr, &e, NULL, 0);
}

/* A welcome that is due: go on after what we have. */
static bool
flush_welcome(struct bus *b, struct conn *c, uint32_t slot)
{
	Hello h = Hello_init_zero;

	h.slot = slot;
	h.incarnation = c->incarnation;
	if (send_welcome(b, &c->addr, &h, &c->in[slot],
	    WELCOME_OK) == ERR_AGAIN)
		return true;
	c->welcome_due &= ~(1u << slot);
	count(welcomes);
	stream_in_acked(&c->in[slot]);
	return false;
}

/* What one stream is due. True if something is left for later. */
static bool
flush_slot(struct bus *b, struct conn *c, uint32_t slot, bool lazy_too)
{
	struct stream_in *in = &c->in[slot];

	if (c->welcome_due & 1u << slot)
		return flush_welcome(b, c, slot);
	if (!in->open || (in->frames == 0 && !in->urgent))
		return false;
	if (in->defers && !in->urgent)
		return false;		/* bus_done() tells */
	if (!lazy_too && !stream_in_ack_due(in))
		return true;
	if (send_ack(b, c, slot) == ERR_AGAIN)
		return true;
	count(acks_sent);
	stream_in_acked(in);
	return false;
}

void
conns_flush_acks(struct bus *b, bool lazy_too)
{
	struct conn	*c, **at = &b->acks;
	uint32_t	 slot;
	bool		 later;

	while ((c = *at) != NULL) {
		later = false;
		for (slot = 0; slot < SLOTS_MAX; slot++)
			later |= flush_slot(b, c, slot, lazy_too);
		if (later) {
			at = &c->acks_next;
			continue;
		}
		*at = c->acks_next;
		c->queued = false;
	}
	if (b->acks != NULL && !ev_is_active(&b->lazy)) {
		ev_timer_set(&b->lazy, LAZY_ACK_S, 0.);
		ev_timer_start(b->loop, &b->lazy);
	}
}

void
bus_mark(struct bus *b)
{
	struct conn	*c, *next;
	uint32_t	 slot;

	HASH_ITER(hh, b->conns, c, next)
		for (slot = 0; slot < SLOTS_MAX; slot++)
			if (c->in[slot].open && !c->remote)
				stream_in_mark(&c->in[slot]);
}

void
bus_marked_stored(struct bus *b)
{
	struct conn	*c, *next;
	uint32_t	 slot;

	HASH_ITER(hh, b->conns, c, next)
		for (slot = 0; slot < SLOTS_MAX; slot++)
			if (c->in[slot].open && stream_in_stored(&c->in[slot]))
				conn_touch(b, c);
}

static int
send_single(struct bus *b, const struct conn *c, enum kind kind,
    const void *body, size_t len)
{
	Envelope e;

	bus_envelope(b, &e, kind);
	return send_to(b, &c->addr, &e, len > 0 ? body : "", len);
}

void
conns_flush_singles(struct bus *b)
{
	struct conn	*c, *next;
	int		 rc;

	if (!b->singles_wait)
		return;
	b->singles_wait = false;
	HASH_ITER(hh, b->conns, c, next) {
		while (c->singles.head != NULL) {
			rc = send_single(b, c, c->singles.head->kind,
			    c->singles.head->body, c->singles.head->len);
			if (rc == ERR_AGAIN) {
				b->singles_wait = true;
				break;
			}
			if (rc < 0)
				count(singles_dropped);
			queue_pop(&c->singles);
		}
	}
	if (b->singles_wait && !ev_is_active(&b->lazy)) {
		ev_timer_set(&b->lazy, LAZY_ACK_S, 0.);
		ev_timer_start(b->loop, &b->lazy);
	}
}

int
bus_reply(struct bus *b, const struct bus_addr *to, enum kind kind,
    const void *body, size_t len)
{
	struct conn	*c;
	int		 rc;

	if (kind < KIND_ROUTE_ACK || len > BUS_BODY_MAX)
		return ERR_INVAL;
	if (to->len == 0 || (c = conn_find(b, to->id, to->len)) == NULL)
		return ERR_NOTFOUND;
	if (c->singles.head == NULL) {
		rc = send_single(b, c, kind, body, len);
		if (rc != ERR_AGAIN)
			return rc;
	}
	b->singles_wait = true;
	return queue_push(&c->singles, kind, body, len);
}

/* --- Hello ------------------------------------------------------------- */

/* Is there another incarnation of that name? An older one is over: *last gets
 * the ids it came to. */
static WelcomeStatus
supersede(struct bus *b, const Hello *h, bool remote, struct msgid *last)
{
	struct conn	*c, *next;
	uint32_t	 slot;

	HASH_ITER(hh, b->conns, c, next) {
		if (strcmp(c->name, h->name) != 0 || c->remote != remote ||
		    c->incarnation == h->incarnation ||
		    (remote && strcmp(c->node, h->node) != 0))
			continue;
		if (c->incarnation > h->incarnation)
			return WELCOME_STALE;
		for (slot = 0; slot < SLOTS_MAX; slot++)
			if (msgid_cmp(c->in[slot].last_id, last[slot]) > 0)
				last[slot] = c->in[slot].last_id;
		conn_free(b, c);
	}
	return WELCOME_OK;
}

/* Who says it comes from h->node: does it, and may it? */
static bool
node_ok(const struct bus *b, const Hello *h, enum peer_class class, bool remote)
{
	if (!remote)
		return strcmp(h->node, b->node) == 0;
	return (class & PEER_OWNERS) != 0 && h->node[0] != '\0' &&
	    strcmp(h->node, b->node) != 0 && b->events != NULL &&
	    b->events->admits != NULL && b->events->admits(b->ctx, h->node);
}

static WelcomeStatus
hello_judge(struct bus *b, const struct bus_addr *from, const Hello *h,
    enum peer_class class, struct msgid *last)
{
	size_t len = (size_t)(from->len - from->via);
	char   want[BUS_ADDR_MAX];
	int    n;

	if (h->version != PROTO_VERSION) {
		count(hello_version);
		return WELCOME_VERSION;
	}
	n = snprintf(want, sizeof(want), "%s/%llx", h->name,
	    (unsigned long long)h->incarnation);
	if (class == 0 || h->slot >= SLOTS_MAX ||
	    ((class != PEER_TOOL || from->via > 0) &&
	    (!node_ok(b, h, class, from->via > 0) || h->incarnation == 0 ||
	    (size_t)n != len || memcmp(from->id + from->via, want, len) != 0))) {
		count(hello_name);
		return WELCOME_NAME;
	}
	if (class != PEER_TOOL &&
	    supersede(b, h, from->via > 0, last) != WELCOME_OK) {
		count(hello_stale);
		return WELCOME_STALE;
	}
	return WELCOME_OK;
}

/* The same process as before, by way of another relay: its streams go on. */
static struct conn *
conn_reroute(struct bus *b, const struct bus_addr *from, const Hello *h)
{
	struct conn *c, *next;

	HASH_ITER(hh, b->conns, c, next)
		if (c->remote && c->in[h->slot].open &&
		    c->incarnation == h->incarnation &&
		    strcmp(c->name, h->name) == 0 &&
		    strcmp(c->node, h->node) == 0) {
			HASH_DELETE(hh, b->conns, c);
			c->addr = *from;
			HASH_ADD(hh, b->conns, addr.id, c->addr.len, c);
			return c;
		}
	return NULL;
}

static void
take_hello(struct bus *b, struct conn *c, const struct bus_addr *from,
    const void *body, size_t len)
{
	struct msgid	 last[SLOTS_MAX] = { { 0, 0 } };
	enum peer_class	 class;
	WelcomeStatus	 status;
	Hello		 h = Hello_init_zero;

	if (hello_get(&h, body, len) < 0) {
		count(dropped_malformed);
		return;
	}
	class = peer_class_of(h.name);
	status = hello_judge(b, from, &h, class, last);
	if (status == WELCOME_OK && c == NULL && from->via > 0)
		c = conn_reroute(b, from, &h);
	if (status == WELCOME_OK && c == NULL &&
	    (HASH_COUNT(b->conns) >= CONNS_MAX ||
	    (c = conn_new(b, from, &h, class, last)) == NULL)) {
		count(hello_full);
		status = WELCOME_FULL;
	}
	if (status != WELCOME_OK) {
		log_warn("bus.hello_refused", "from=%s status=%d version=%u",
		    log_quote(h.name), (int)status, (unsigned)h.version);
		/* Best effort: it will say hello again. */
		(void)send_welcome(b, from, &h, NULL, status);
		return;
	}
	c->heard = b->turn;
	if (c->in[h.slot].id != h.stream)
		in_gone(b, &c->in[h.slot]);
	if (class != PEER_TOOL)
		stream_in_open(&c->in[h.slot], h.stream, h.base, b->credit);
	c->welcome_due |= 1u << h.slot;
	conn_touch(b, c);
}

/* --- Streams ----------------------------------------------------------- */

size_t
bus_frame_cost(const struct bus_frame *f)
{
	return f->kind == KIND_RECORDS ? f->len + f->payload.len : 0;
}

static void
frame_done(struct bus *b)
{
	struct bus_frame *f = &b->frame;

	if (b->frame_conn == NULL)
		return;			/* its source was replaced */
	stream_in_taken(f->stream, bus_frame_cost(f),
	    f->urgent && !f->stream->defers);
	conn_touch(b, b->frame_conn);
	count(frames_received);
}

static void
frame_fill(struct bus *b, struct conn *c, const Envelope *e)
{
	struct bus_frame *f = &b->frame;

	memset(f, 0, sizeof(*f));
	f->kind = e->kind;
	f->seq = e->seq;
	f->clock = e->clock;
	f->body = zmq_msg_data(&b->in.part[2]);
	f->len = zmq_msg_size(&b->in.part[2]);
	f->from.name = c->name;
	f->from.node = c->node;
	f->from.class = c->class | (c->remote ? PEER_REMOTE : 0);
	f->from.incarnation = c->incarnation;
	f->from.addr = c->addr;
	f->from.peer = c->peer;
	f->payload.data = zmq_msg_data(&b->in.part[3]);
	f->payload.len = zmq_msg_size(&b->in.part[3]);
	b->frame_conn = c;
	b->frame_slot = e->slot;
	if (e->kind != KIND_RECORDS)
		return;
	record_iter_init(&f->records, f->body, f->len,
	    zmq_msg_data(&b->in.part[3]), zmq_msg_size(&b->in.part[3]),
	    e->count);
}

struct origin *
origin_get(struct bus *b, const char *name, uint32_t slot,
    uint64_t incarnation)
{
	struct {
		uint32_t slot;
		char	 name[sizeof(((Envelope *)0)->origin)];
	}		 key;
	size_t		 len = strlen(name);
	struct origin	*o, *each, *next;

	if (len >= sizeof(key.name))
		return NULL;
	key.slot = slot;
	memcpy(key.name, name, len + 1);
	len += sizeof(key.slot);
	HASH_FIND(hh, b->origins, &key, len, o);
	if (o == NULL && HASH_COUNT(b->origins) >= ORIGINS_MAX) {
		HASH_ITER(hh, b->origins, each, next)
			if (o == NULL || each->heard < o->heard)
				o = each;
		HASH_DELETE(hh, b->origins, o);
		free(o);
		o = NULL;
	}
	if (o == NULL) {
		if ((o = calloc(1, sizeof(*o) + len + 1)) == NULL)
			return NULL;
		o->len = len;
		o->slot = slot;
		memcpy(o->name, name, strlen(name) + 1);
		HASH_ADD_KEYPTR(hh, b->origins, &o->slot, o->len, o);
	}
	/* Ids of a store rise over all its starts. */
	if (incarnation > o->incarnation) {
		if (o->incarnation != 0 &&
		    strncmp(name, "session_store.", 14) != 0)
			o->last_id = (struct msgid){ 0, 0 };
		o->incarnation = incarnation;
	}
	o->heard = b->turn;
	return o;
}

/* Whose ids rise in this frame. False: it has to come again. */
static bool
frame_origin(struct bus *b, struct conn *c, const Envelope *e)
{
	struct bus_frame *f = &b->frame;
	struct origin	 *o;

	f->last = &f->stream->last_id;
	if (e->origin[0] == '\0' || c->class != PEER_LINK)
		return true;
	if ((o = origin_get(b, e->origin, e->origin_slot,
	    e->origin_incarnation)) == NULL)
		return false;
	f->last = &o->last_id;
	f->origin = o->name;
	f->origin_incarnation = o->incarnation;
	f->origin_slot = o->slot;
	return true;
}

static void
take_frame(struct bus *b, struct conn *c, const Envelope *e)
{
	struct stream_in *in;

	if (e->slot >= SLOTS_MAX || !c->in[e->slot].open ||
	    e->incarnation != c->incarnation ||
	    strcmp(e->source, c->name) != 0 ||
	    (e->destination[0] != '\0' &&
	    strcmp(e->destination, b->node) != 0)) {
		count(dropped_unwelcome);
		return;
	}
	in = &c->in[e->slot];
	switch (stream_in_check(in, e->seq)) {
	case STREAM_DUPLICATE:
		count(frames_duplicate);
		conn_touch(b, c);
		return;
	case STREAM_GAP:
		count(gaps);
		c->welcome_due |= 1u << e->slot;
		conn_touch(b, c);
		/* fallthrough */
	case STREAM_GAP_TOLD:
		count(frames_early);
		return;
	case STREAM_IN_ORDER:
		break;
	}
	frame_fill(b, c, e);
	b->frame.stream = in;
	if (!frame_origin(b, c, e)) {
		c->welcome_due |= 1u << e->slot;
		conn_touch(b, c);
		return;
	}
	b->frame.urgent = e->kind != KIND_RECORDS;
	if (bus_dispatch(b, &b->frame) == ERR_AGAIN)
		b->holding = true;
	else
		frame_done(b);
}

static void
take_single(struct bus *b, struct conn *c, const Envelope *e)
{
	frame_fill(b, c, e);
	if (bus_dispatch(b, &b->frame) == ERR_AGAIN)
		b->holding = true;
}

/* Its relay does not know that we do not know it (any more): it has to say
 * hello again. */
static void
say_unknown(struct bus *b, const struct bus_addr *from, const Envelope *e)
{
	Hello h = Hello_init_zero;

	h.slot = e->slot;
	h.incarnation = e->incarnation;
	(void)send_welcome(b, from, &h, NULL, WELCOME_NAME);
}

/* The handler asked for the frame once more. */
void
router_again(struct bus *b)
{
	if (b->frame_conn != NULL &&
	    bus_dispatch(b, &b->frame) == ERR_AGAIN)
		return;
	if (b->frame.stream != NULL)
		frame_done(b);
	b->holding = false;
	incoming_fini(&b->in);
}

static void
router_take(struct bus *b, struct bus_addr *from)
{
	const void	*id = zmq_msg_data(&b->in.part[0]);
	const void	*body = zmq_msg_data(&b->in.part[2]);
	size_t		 idlen = zmq_msg_size(&b->in.part[0]);
	size_t		 len = zmq_msg_size(&b->in.part[2]);
	Envelope	 e;
	struct conn	*c;

	if (idlen == 0 || from->via + idlen > BUS_ADDR_MAX ||
	    envelope_get(&e, zmq_msg_data(&b->in.part[1]),
	    zmq_msg_size(&b->in.part[1])) < 0 ||
	    (e.kind != KIND_RECORDS && (len > BUS_BODY_MAX ||
	    (b->in.n > 3 && (e.kind < KIND_RECORDS ||
	    e.kind >= KIND_ROUTE_ACK)))) ||
	    (e.kind == KIND_RECORDS && len > FRAME_MAX && e.count != 1)) {
		count(dropped_malformed);
		log_debug("bus.malformed", "what=envelope");
		return;
	}
	memcpy(from->id + from->via, id, idlen);
	from->len = (uint16_t)(from->via + idlen);
	c = conn_find(b, from->id, from->len);
	if (e.kind == KIND_HELLO) {
		take_hello(b, c, from, body, len);
		return;
	}
	if (c == NULL) {
		count(dropped_unwelcome);
		if (from->via > 0 && e.kind >= KIND_RECORDS &&
		    e.kind < KIND_ROUTE_ACK)
			say_unknown(b, from, &e);
		return;
	}
	c->heard = b->turn;
	if (e.kind >= KIND_RECORDS && e.kind < KIND_ROUTE_ACK)
		take_frame(b, c, &e);
	else if (e.kind >= KIND_ROUTE_ACK && e.kind <= UINT16_MAX)
		take_single(b, c, &e);
	else
		count(dropped_unaccepted);
}

/* What comes from another node has its relay's name in front. 1, ERR_AGAIN,
 * ERR_PROTO. */
static int
via_recv(struct sock *s, struct bus_addr *from)
{
	zmq_msg_t m;
	size_t	  n;
	int	  rc = 1;

	zmq_msg_init(&m);
	if (zmq_msg_recv(&m, s->z, ZMQ_DONTWAIT) < 0) {
		zmq_msg_close(&m);
		return ERR_AGAIN;
	}
	n = zmq_msg_size(&m);
	if (!zmq_msg_more(&m))
		rc = ERR_PROTO;
	else if (n == 0 || n >= BUS_ADDR_MAX)
		from->via = BUS_ADDR_MAX;	/* too long for any more */
	else
		memcpy(from->id, zmq_msg_data(&m), from->via = (uint16_t)n);
	zmq_msg_close(&m);
	return rc;
}

bool
router_drain(struct bus *b, struct sock *s)
{
	struct bus_addr	from;
	size_t		bytes = 0;
	int		rc, n;

	for (n = 0; n < TURN_FRAMES && bytes < TURN_BYTES; n++) {
		from.via = 0;
		if (s == &b->outer && (rc = via_recv(s, &from)) != 1) {
			if (rc == ERR_AGAIN)
				return true;
			count(dropped_malformed);
			continue;
		}
		rc = incoming_recv(&b->in, s->z, 0, 2, 4);
		if (rc == ERR_AGAIN)
			return true;
		if (rc < 0) {
			count(dropped_malformed);
			continue;
		}
		bytes += zmq_msg_size(&b->in.part[2]) +
		    zmq_msg_size(&b->in.part[3]);
		router_take(b, &from);
		if (b->holding)
			return false;
		incoming_fini(&b->in);
		if (b->paused)
			return false;
	}
	return false;
}

/* --- Streams of other nodes --------------------------------------------- */

void *
bus_frame_kept(const struct bus_frame *f)
{
	return f->stream->user;
}

void
bus_frame_keep(struct bus_frame *f, void *user)
{
	f->stream->user = user;
}

void
bus_done(struct bus *b, struct stream_in *s, uint64_t got, uint64_t got_bytes,
    uint64_t stored)
{
	stream_in_done(s, got, got_bytes, stored);
	if (s->urgent)
		conn_touch(b, CONTAINER_OF(s - s->slot, struct conn, in[0]));
}

void
bus_forget_node(struct bus *b, const char *node)
{
	struct conn *c, *next;

	HASH_ITER(hh, b->conns, c, next)
		if (c->remote && strcmp(c->node, node) == 0)
			conn_free(b, c);
}

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

static void
conn_free(struct bus *b, struct conn *c)
{
	struct conn **at;

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
	struct conn *c, *next;

	HASH_ITER(hh, b->conns, c, next)
		conn_free(b, c);
}

void
conns_see_peer(struct bus *b, struct bus_peer *p, bool open)
{
	struct conn *c, *next;

	HASH_ITER(hh, b->conns, c, next)
		if (c->incarnation == p->incarnation &&
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
conn_new(struct bus *b, const void *id, size_t len, const Hello *h,
    enum peer_class class, const struct msgid *last)
{
	struct bus_peer	*p;
	struct conn	*c;
	uint32_t	 slot;

	if (class == PEER_TOOL && b->ntools >= TOOLS_MAX)
		tools_evict(b);
	if ((c = calloc(1, sizeof(*c))) == NULL)
		return NULL;
	c->addr.len = (uint16_t)len;
	memcpy(c->addr.id, id, len);
	memcpy(c->name, h->name, sizeof(c->name));
	memcpy(c->node, h->node, sizeof(c->node));
	c->class = class;
	c->incarnation = h->incarnation;
	if (class == PEER_TOOL)
		b->ntools++;
	DL_FOREACH(b->peers, p)
		if (p->incarnation == c->incarnation &&
		    strcmp(p->name, c->name) == 0)
			c->peer = p;
	/* The ids of a store rise over all its starts: what it sends again is
	 * known by that. */
	for (slot = 0; class == PEER_STORE && last != NULL &&
	    slot < SLOTS_MAX; slot++)
		c->in[slot].last_id = last[slot];
	HASH_ADD(hh, b->conns, addr.id, len, c);
	return c;
}

struct conn *
conn_restore(struct bus *b, const char *name, const char *node,
    uint64_t incarnation)
{
	char	id[BUS_ADDR_MAX];
	Hello	h = Hello_init_zero;
	int	n;

	n = snprintf(id, sizeof(id), "%s/%llx", name,
	    (unsigned long long)incarnation);
	if (conn_find(b, id, (size_t)n) != NULL ||
	    HASH_COUNT(b->conns) >= CONNS_MAX)
		return NULL;
	memcpy(h.name, name, strlen(name) + 1);
	memcpy(h.node, node, strlen(node) + 1);
	h.incarnation = incarnation;
	return conn_new(b, id, (size_t)n, &h, peer_class_of(name), NULL);
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
send_to(struct bus *b, const void *id, size_t idlen, const Envelope *e,
    const void *body, size_t len)
{
	uint8_t	head[ENVELOPE_MAX];
	size_t	n = envelope_put(head, e);
	int	more = body != NULL ? ZMQ_SNDMORE : 0;

	sock_used(&b->router);
	if (send_bytes(b->router.z, id, idlen, ZMQ_SNDMORE) < 0)
		return errno == EAGAIN ? ERR_AGAIN : ERR_NOTFOUND;
	if (send_bytes(b->router.z, head, n, more) < 0 ||
	    (more && send_bytes(b->router.z, body, len, 0) < 0))
		return ERR_NOTFOUND;
	return 0;
}

static int
send_welcome(struct bus *b, const void *id, size_t idlen, const Hello *h,
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
	}
	return send_to(b, id, idlen, &e, body, welcome_put(body, &w));
}

static int
send_ack(struct bus *b, const struct conn *c, uint32_t slot)
{
	Envelope e;

	bus_envelope(b, &e, KIND_ACK);
	memcpy(e.source, c->name, strlen(c->name) + 1);
	e.slot = slot;
	e.incarnation = c->incarnation;
	e.got = c->in[slot].seq;
	e.stored = c->in[slot].stored;
	e.credit = stream_in_credit(&c->in[slot]);
	return send_to(b, c->addr.id, c->addr.len, &e, NULL, 0);
}

/* A welcome that is due: go on after what we have. */
static bool
flush_welcome(struct bus *b, struct conn *c, uint32_t slot)
{
	Hello h = Hello_init_zero;

	h.slot = slot;
	h.incarnation = c->incarnation;
	if (send_welcome(b, c->addr.id, c->addr.len, &h, &c->in[slot],
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
			if (c->in[slot].open)
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
	return send_to(b, c->addr.id, c->addr.len, &e,
	    len > 0 ? body : "", len);
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
supersede(struct bus *b, const Hello *h, struct msgid *last)
{
	struct conn	*c, *next;
	uint32_t	 slot;

	HASH_ITER(hh, b->conns, c, next) {
		if (strcmp(c->name, h->name) != 0 ||
		    c->incarnation == h->incarnation)
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

static WelcomeStatus
hello_judge(struct bus *b, const void *id, size_t len, const Hello *h,
    enum peer_class class, struct msgid *last)
{
	char want[BUS_ADDR_MAX];
	int  n;

	if (h->version != PROTO_VERSION) {
		count(hello_version);
		return WELCOME_VERSION;
	}
	n = snprintf(want, sizeof(want), "%s/%llx", h->name,
	    (unsigned long long)h->incarnation);
	if (class == 0 || h->slot >= SLOTS_MAX || (class != PEER_TOOL &&
	    (strcmp(h->node, b->node) != 0 || h->incarnation == 0 ||
	    (size_t)n != len || memcmp(id, want, len) != 0))) {
		count(hello_name);
		return WELCOME_NAME;
	}
	if (class != PEER_TOOL && supersede(b, h, last) != WELCOME_OK) {
		count(hello_stale);
		return WELCOME_STALE;
	}
	return WELCOME_OK;
}

static void
take_hello(struct bus *b, struct conn *c, const void *id, size_t idlen,
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
	status = hello_judge(b, id, idlen, &h, class, last);
	if (status == WELCOME_OK && c == NULL &&
	    (HASH_COUNT(b->conns) >= CONNS_MAX ||
	    (c = conn_new(b, id, idlen, &h, class, last)) == NULL)) {
		count(hello_full);
		status = WELCOME_FULL;
	}
	if (status != WELCOME_OK) {
		log_warn("bus.hello_refused", "from=%s status=%d version=%u",
		    log_quote(h.name), (int)status, (unsigned)h.version);
		/* Best effort: it will say hello again. */
		(void)send_welcome(b, id, idlen, &h, NULL, status);
		return;
	}
	c->heard = b->turn;
	if (class != PEER_TOOL)
		stream_in_open(&c->in[h.slot], h.stream, h.base, b->credit);
	c->welcome_due |= 1u << h.slot;
	conn_touch(b, c);
}

/* --- Streams ----------------------------------------------------------- */

static void
frame_done(struct bus *b)
{
	struct bus_frame *f = &b->frame;
	size_t		  bytes = 0;

	if (f->kind == KIND_RECORDS)
		bytes = f->len + zmq_msg_size(&b->in.part[3]);
	stream_in_taken(&b->frame_conn->in[b->frame_slot], bytes, f->urgent);
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
	f->from.class = c->class;
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

/* The handler asked for the frame once more. */
void
router_again(struct bus *b)
{
	if (bus_dispatch(b, &b->frame) == ERR_AGAIN)
		return;
	if (b->frame.stream != NULL)
		frame_done(b);
	b->holding = false;
	incoming_fini(&b->in);
}

static void
router_take(struct bus *b)
{
	const void	*id = zmq_msg_data(&b->in.part[0]);
	const void	*body = zmq_msg_data(&b->in.part[2]);
	size_t		 idlen = zmq_msg_size(&b->in.part[0]);
	size_t		 len = zmq_msg_size(&b->in.part[2]);
	Envelope	 e = Envelope_init_zero;
	struct conn	*c;

	if (idlen == 0 || idlen > BUS_ADDR_MAX ||
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
	c = conn_find(b, id, idlen);
	if (e.kind == KIND_HELLO) {
		take_hello(b, c, id, idlen, body, len);
		return;
	}
	if (c == NULL) {
		count(dropped_unwelcome);
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

bool
router_drain(struct bus *b)
{
	size_t	bytes = 0;
	int	rc, n;

	for (n = 0; n < TURN_FRAMES && bytes < TURN_BYTES; n++) {
		rc = incoming_recv(&b->in, b->router.z, 0, 2, 4);
		if (rc == ERR_AGAIN)
			return true;
		if (rc < 0) {
			count(dropped_malformed);
			continue;
		}
		bytes += zmq_msg_size(&b->in.part[2]) +
		    zmq_msg_size(&b->in.part[3]);
		router_take(b);
		if (b->holding)
			return false;
		incoming_fini(&b->in);
		if (b->paused)
			return false;
	}
	return false;
}

#include "bus/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "log/log.h"

#define X(id, name, help) \
	struct metric bus_m_##id = METRIC_COUNTER(name, help);
BUS_METRICS(X)
#undef X

static struct metric *const metrics[] = {
#define X(id, name, help)	&bus_m_##id,
	BUS_METRICS(X)
#undef X
};

static void
metrics_register(void)
{
	static bool	 done;
	struct metric	*rows[NELEM(metrics)];

	if (done)
		return;
	memcpy(rows, metrics, sizeof(rows));
	metric_register(rows, NELEM(rows));
	done = true;
}

/* --- Names ------------------------------------------------------------- */

static bool
is_number(const char *s)
{
	size_t n = strspn(s, "0123456789");

	return n > 0 && n <= 9 && s[n] == '\0';
}

enum peer_class
peer_class_of(const char *name)
{
	static const struct {
		const char	*name;
		bool		 numbered;
		enum peer_class	 class;
	} table[] = {
		{ "listener", true, PEER_LISTENER },
		{ "router", false, PEER_ROUTER },
		{ "session_store", true, PEER_STORE },
		{ "cluster_link", true, PEER_LINK },
	};
	size_t i, n;

	if (strcmp(name, "tool") == 0 || strncmp(name, "tool.", 5) == 0)
		return PEER_TOOL;
	for (i = 0; i < NELEM(table); i++) {
		n = strlen(table[i].name);
		if (strncmp(name, table[i].name, n) != 0)
			continue;
		if (table[i].numbered ?
		    name[n] == '.' && is_number(name + n + 1) :
		    name[n] == '\0')
			return table[i].class;
	}
	return 0;
}

/* --- Parts of messages ------------------------------------------------- */

int
incoming_recv(struct incoming *in, void *z, int first, int min, int max)
{
	zmq_msg_t rest;
	int	  i, n = 0;
	bool	  more = true;

	in->n = 0;
	for (i = 0; i < 4; i++)
		zmq_msg_init(&in->part[i]);
	for (; more && n < max; n++) {
		if (zmq_msg_recv(&in->part[first + n], z, ZMQ_DONTWAIT) < 0) {
			incoming_fini(in);
			return n == 0 ? ERR_AGAIN : ERR_PROTO;
		}
		more = zmq_msg_more(&in->part[first + n]);
	}
	in->n = n;
	if (n >= min && !more)
		return 1;
	while (more) {
		zmq_msg_init(&rest);
		more = zmq_msg_recv(&rest, z, ZMQ_DONTWAIT) >= 0 &&
		    zmq_msg_more(&rest);
		zmq_msg_close(&rest);
	}
	incoming_fini(in);
	return ERR_PROTO;
}

void
incoming_fini(struct incoming *in)
{
	int i;

	for (i = 0; i < 4; i++)
		zmq_msg_close(&in->part[i]);
	in->n = 0;
}

int
send_bytes(void *z, const void *bytes, size_t len, int flags)
{
	return zmq_send(z, bytes, len, flags | ZMQ_DONTWAIT);
}

/* Runs on ZeroMQ's thread as a rule: it only drops a reference. */
static void
blob_release(void *data UNUSED, void *hint)
{
	struct blob *b = hint;

	blob_unref(&b);
}

#define SHARE_MIN	1024	/* below, copying is cheaper */

int
send_shared(void *z, struct blob *blob, const uint8_t *at, size_t len,
    int flags)
{
	zmq_msg_t m;
	int	  rc;

	if (len < SHARE_MIN)
		return send_bytes(z, at, len, flags);
	if (zmq_msg_init_data(&m, (void *)(uintptr_t)at, len, blob_release,
	    blob_ref(blob)) < 0) {
		blob_unref(&blob);
		return -1;
	}
	if ((rc = zmq_msg_send(&m, z, flags | ZMQ_DONTWAIT)) < 0)
		zmq_msg_close(&m);
	return rc;
}

void
bus_envelope(const struct bus *b, Envelope *e, enum kind kind)
{
	envelope_init(e);
	e->kind = kind;
	e->clock = b->clock;
}

/* --- Single messages that wait ----------------------------------------- */

int
queue_push(struct queue *q, enum kind kind, const void *body, size_t len)
{
	struct queued *m;

	if (q->n >= QUEUE_MAX || q->bytes + len > QUEUE_BYTES) {
		count(singles_dropped);
		return ERR_FULL;
	}
	if ((m = malloc(sizeof(*m) + len)) == NULL)
		return ERR_NOMEM;
	m->next = NULL;
	m->kind = kind;
	m->len = len;
	if (len > 0)
		memcpy(m->body, body, len);
	if (q->tail != NULL)
		q->tail->next = m;
	else
		q->head = m;
	q->tail = m;
	q->n++;
	q->bytes += len;
	return 0;
}

void
queue_pop(struct queue *q)
{
	struct queued *m = q->head;

	q->head = m->next;
	if (q->head == NULL)
		q->tail = NULL;
	q->n--;
	q->bytes -= m->len;
	free(m);
}

void
queue_fini(struct queue *q)
{
	while (q->head != NULL)
		queue_pop(q);
}

/* --- Sockets and the turn ---------------------------------------------- */

static void
on_io(EV_P_ ev_io *w, int revents UNUSED)
{
	(void)loop;
	sock_todo(CONTAINER_OF(w, struct sock, io));
}

int
sock_open(struct bus *b, struct sock *s, enum sock_kind kind, struct link *l,
    void *z)
{
	size_t	n = sizeof(int);
	int	fd;

	if (zmq_getsockopt(z, ZMQ_FD, &fd, &n) < 0)
		return ERR_IO;
	memset(s, 0, sizeof(*s));
	s->kind = kind;
	s->z = z;
	s->bus = b;
	s->link = l;
	ev_io_init(&s->io, on_io, fd, EV_READ);
	ev_set_priority(&s->io, EV_MAXPRI);
	ev_io_start(b->loop, &s->io);
	sock_todo(s);
	return 0;
}

void
sock_close(struct sock *s)
{
	struct sock **at;

	if (s->z == NULL)
		return;
	ev_io_stop(s->bus->loop, &s->io);
	for (at = &s->bus->look; s->queued && *at != NULL;
	    at = &(*at)->look_next)
		if (*at == s) {
			*at = s->look_next;
			break;
		}
	for (at = &s->bus->used; s->used && *at != NULL; at = &(*at)->used_next)
		if (*at == s) {
			*at = s->used_next;
			break;
		}
	zmq_close(s->z);
	s->z = NULL;
}

void
sock_todo(struct sock *s)
{
	if (s->queued)
		return;
	s->queued = true;
	s->look_next = s->bus->look;
	s->bus->look = s;
}

void
sock_used(struct sock *s)
{
	if (s->used)
		return;
	s->used = true;
	s->used_next = s->bus->used;
	s->bus->used = s;
}

static void
router_wait(struct bus *b)
{
	if (b->router_waits)
		return;
	b->router_waits = true;
	ev_io_stop(b->loop, &b->router.io);	/* it would not let us sleep */
	if (b->outer.z != NULL)
		ev_io_stop(b->loop, &b->outer.io);
}

static void
router_go_on(struct bus *b)
{
	if (!b->router_waits || b->paused || b->holding)
		return;
	b->router_waits = false;
	ev_io_start(b->loop, &b->router.io);
	sock_todo(&b->router);
	if (b->outer.z != NULL) {
		ev_io_start(b->loop, &b->outer.io);
		sock_todo(&b->outer);
	}
}

static void
sock_drain(struct bus *b, struct sock *s)
{
	int frames = TURN_FRAMES;

	switch (s->kind) {
	case SOCK_ROUTER:
		if (!b->paused && !b->holding && router_drain(b, s))
			return;
		if (b->paused || b->holding)
			router_wait(b);
		else
			sock_todo(s);
		return;
	case SOCK_DEALER:
		peer_drain(s->link, &frames);
		if (frames == 0 && s->link->peer != NULL)
			sock_todo(s);
		return;
	case SOCK_MONITOR:
		monitor_drain(s->link);
		return;
	case SOCK_RELAY_IN:
	case SOCK_RELAY_OUT:
	case SOCK_RELAY_MONITOR:
		if (!relay_drain(s, &frames))
			sock_todo(s);
		return;
	}
}

static void
on_check(EV_P_ ev_check *w, int revents UNUSED)
{
	struct bus	*b = CONTAINER_OF(w, struct bus, check);
	struct sock	*s, *list;

	(void)loop;
	b->turn++;
	if (b->holding && !b->paused)
		router_again(b);
	router_go_on(b);
	list = b->look;		/* who asks for another look waits a turn */
	b->look = NULL;
	while ((s = list) != NULL) {
		list = s->look_next;
		s->queued = false;
		sock_drain(b, s);
	}
	links_reap(b, false);
	relays_turn(b);
}

/*
 * We sent on s, which may have used up what its descriptor had to tell: ask.
 */
static void
sock_ask(struct sock *s)
{
	size_t	n = sizeof(int);
	int	events;

	if (zmq_getsockopt(s->z, ZMQ_EVENTS, &events, &n) < 0)
		return;
	if (events & ZMQ_POLLIN)
		sock_todo(s);
	if (s->kind == SOCK_DEALER && s->link->peer != NULL &&
	    s->link->peer->full && events & ZMQ_POLLOUT)
		sock_todo(s);
}

static void
on_prepare(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct bus	*b = CONTAINER_OF(w, struct bus, prepare);
	struct sock	*s;

	links_reap(b, false);
	bus_flush(b);
	while ((s = b->used) != NULL) {
		b->used = s->used_next;
		s->used = false;
		if (s->kind != SOCK_ROUTER || !b->router_waits)
			sock_ask(s);
	}
	if (b->look != NULL || (b->holding && !b->paused))
		ev_idle_start(loop, &b->idle);
	else
		ev_idle_stop(loop, &b->idle);
}

static void
on_idle(EV_P_ ev_idle *w UNUSED, int revents UNUSED)
{
	(void)loop;		/* being active is all it is for */
}

static void
on_retry(EV_P_ ev_timer *w, int revents UNUSED)
{
	(void)loop;
	peers_retry(CONTAINER_OF(w, struct bus, retry));
}

static void
on_lazy(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct bus *b = CONTAINER_OF(w, struct bus, lazy);

	ev_timer_stop(loop, w);
	conns_flush_acks(b, true);
}

void
bus_flush(struct bus *b)
{
	struct bus_peer *p, *list = b->dirty;

	b->dirty = NULL;
	while ((p = list) != NULL) {
		list = p->dirty_next;
		p->queued = false;
		peer_flush(p);
	}
	conns_flush_acks(b, false);
	conns_flush_singles(b);
}

/* --- Opening and closing ----------------------------------------------- */

static void
watchers_start(struct bus *b)
{
	ev_prepare_init(&b->prepare, on_prepare);
	ev_set_priority(&b->prepare, EV_MINPRI);
	ev_prepare_start(b->loop, &b->prepare);
	ev_check_init(&b->check, on_check);
	ev_set_priority(&b->check, EV_MAXPRI - 1);
	ev_check_start(b->loop, &b->check);
	ev_idle_init(&b->idle, on_idle);
	ev_timer_init(&b->retry, on_retry, RETRY_S, RETRY_S);
	ev_timer_init(&b->lazy, on_lazy, LAZY_ACK_S, 0.);
}

static int
router_open(struct bus *b, bool unbound)
{
	void	*z;
	int	 rc;

	if ((z = zmq_socket(b->zctx, ZMQ_ROUTER)) == NULL)
		return ERR_IO;
	if ((rc = socket_options(z, ZMQ_ROUTER)) < 0)
		goto close_socket;
	if (!unbound && zmq_bind(z, b->endpoint) < 0) {
		rc = ERR_IO;
		goto close_socket;
	}
	b->bound = !unbound;
	if ((rc = sock_open(b, &b->router, SOCK_ROUTER, NULL, z)) < 0)
		goto close_socket;
	return 0;

close_socket:
	zmq_close(z);
	return rc;
}

static bool
copy_text(char *out, size_t size, const char *text)
{
	size_t n = strlen(text);

	if (n >= size)
		return false;
	memcpy(out, text, n + 1);
	return true;
}

int
bus_open(struct bus **out, const struct bus_opts *o)
{
	struct bus	*b;
	int		 rc, saved;

	metrics_register();
	if ((b = calloc(1, sizeof(*b))) == NULL)
		return ERR_NOMEM;
	b->loop = o->loop;
	b->ctx = o->ctx;
	b->accepts = o->accepts;
	b->naccepts = o->naccepts;
	b->events = o->events;
	b->incarnation = o->incarnation;
	b->credit = o->credit != 0 ? o->credit : 1024 * 1024;
	b->stream_max = o->stream_max != 0 ? o->stream_max : 16 * 1024 * 1024;
	b->state = 1;
	rc = ERR_INVAL;
	if (o->incarnation == 0 || peer_class_of(o->name) == 0 ||
	    !copy_text(b->name, sizeof(b->name), o->name) ||
	    !copy_text(b->node, sizeof(b->node), o->node) ||
	    !copy_text(b->endpoint, sizeof(b->endpoint), o->endpoint))
		goto free_bus;
	rc = ERR_IO;
	if ((b->zctx = zmq_ctx_new()) == NULL)
		goto free_bus;
	if (zmq_ctx_set(b->zctx, ZMQ_MAX_SOCKETS, 3 * BUS_PEERS_MAX) < 0)
		goto free_context;
	if ((rc = router_open(b, o->unbound)) < 0)
		goto free_context;
	watchers_start(b);
	*out = b;
	return 0;

free_context:
	saved = errno;		/* says why the bind failed */
	zmq_ctx_term(b->zctx);
	errno = saved;
free_bus:
	free(b);
	return rc;
}

int
bus_bind(struct bus *b)
{
	/* libzmq unlinks the file of an ipc endpoint before it binds. */
	if (!b->bound && zmq_bind(b->router.z, b->endpoint) < 0)
		return ERR_IO;
	b->bound = true;
	return 0;
}

int
bus_bind_outer(struct bus *b, const char *endpoint, bool ipv6,
    const struct bus_secret *secret)
{
	void	*z;
	int	 rc = ERR_IO, saved;

	if ((z = zmq_socket(b->zctx, ZMQ_ROUTER)) == NULL)
		return ERR_IO;
	if (socket_options(z, ZMQ_ROUTER) < 0 ||
	    socket_far(z, ipv6, secret, true) < 0 ||
	    zmq_bind(z, endpoint) < 0 ||
	    (rc = sock_open(b, &b->outer, SOCK_ROUTER, NULL, z)) < 0) {
		saved = errno;
		zmq_close(z);
		errno = saved;
		return rc;
	}
	if (b->router_waits)
		ev_io_stop(b->loop, &b->outer.io);
	return 0;
}

void
bus_close(struct bus **bus)
{
	struct bus	*b = *bus;
	struct bus_peer *p;

	*bus = NULL;
	if (b == NULL)
		return;
	while ((p = b->peers) != NULL)
		bus_peer_close(&p);
	links_reap(b, true);
	relays_fini(b);
	ev_prepare_stop(b->loop, &b->prepare);
	ev_check_stop(b->loop, &b->check);
	ev_idle_stop(b->loop, &b->idle);
	ev_timer_stop(b->loop, &b->retry);
	ev_timer_stop(b->loop, &b->lazy);
	if (b->holding)
		incoming_fini(&b->in);
	sock_close(&b->router);
	sock_close(&b->outer);
	if (b->bound && strncmp(b->endpoint, "ipc://", 6) == 0)
		(void)unlink(b->endpoint + 6);	/* libzmq leaves it */
	conns_fini(b);
	carried_fini(b);
	zmq_ctx_term(b->zctx);
	stream_pool_fini(&b->pool);
	free(b);
}

void
bus_set_state(struct bus *b, unsigned state)
{
	b->state = state;
}

void
bus_set_clock(struct bus *b, uint64_t clock_ns)
{
	b->clock = clock_ns;
}

void
bus_pause(struct bus *b)
{
	b->paused = true;
}

void
bus_resume(struct bus *b)
{
	b->paused = false;
	router_go_on(b);
}

bool
bus_peer_idle(const struct bus_peer *p)
{
	return stream_is_idle(&p->out);
}

bool
bus_idle(const struct bus *b)
{
	const struct bus_peer *p;

	for (p = b->peers; p != NULL; p = p->next)
		if (!stream_is_idle(&p->out))
			return false;
	return true;
}

/* --- What arrived ------------------------------------------------------ */

int
bus_frame_next(struct bus_frame *f, struct record *r)
{
	int rc;

	while ((rc = record_next(&f->records, r)) == 1) {
		if (record_qos(r) > 0)
			f->urgent = true;
		if (f->last == NULL || stream_id_is_new(f->last, r->id)) {
			count(records_received);
			return 1;
		}
		count(records_duplicate);
	}
	if (rc < 0) {
		count(dropped_malformed);
		log_warn("bus.malformed", "from=%s what=record",
		    log_quote(f->from.name));
	}
	return rc;
}

int
bus_dispatch(struct bus *b, struct bus_frame *f)
{
	const struct bus_rule	*r;
	int			 rc;

	for (r = b->accepts; r < b->accepts + b->naccepts; r++) {
		if (r->kind != f->kind ||
		    (r->from & f->from.class & PEER_ANY) == 0 ||
		    (f->from.class & PEER_REMOTE & ~r->from) != 0 ||
		    (r->states != 0 && (r->states & b->state) == 0))
			continue;
		if ((rc = r->handler(b->ctx, f)) == ERR_AGAIN || rc == 0)
			return rc;
		count(dropped_refused);
		log_debug("bus.refused", "from=%s kind=%d error=%s",
		    log_quote(f->from.name), (int)f->kind, err_str(rc));
		return rc;
	}
	count(dropped_unaccepted);
	log_debug("bus.unaccepted", "from=%s kind=%d",
	    log_quote(f->from.name), (int)f->kind);
	return ERR_PROTO;
}

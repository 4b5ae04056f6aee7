/*
 * client.c: one client's socket. Input is read into the process's one large
 * buffer and parsed where it lies; only what is left of a packet not yet whole
 * is kept, so an idle client owns no buffer.
 */
#include "listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

enum {
	FIB_AHEAD = 32,			/* packets looked at together */
	HEARD_MIN = 512			/* bytes of one still on its way */
};

struct conn *
client_new(struct listener *l, int fd)
{
	struct conn *c;

	if ((c = calloc(1, sizeof(*c))) == NULL)
		return NULL;
	c->state = CONN_NEW;
	c->version = MQTT_NONE;
	c->heard_ms = l->now_ms;
	c->packet_granted = l->conf->mqtt_max_packet_size;
	c->fd = fd;
	if (poll_add(l, c) < 0) {
		free(c);
		return NULL;
	}
	wheel_set(&l->wheel, &c->timer,
	    l->now_ms + l->conf->listener_connect_timeout_ms);
	if ((c->next = l->conns) != NULL)
		c->next->prev = &c->next;
	c->prev = &l->conns;
	l->conns = c;
	l->nconns++;
	metric_set(&m_clients, l->nconns);
	return c;
}

void
client_hold(struct conn *c)
{
	c->holds++;
}

static void
client_free(struct listener *l, struct conn *c)
{
	out_clear(l, c);
	free(c->stash);
	free(c->client_id);
	free(c->username);
	free(c->attach);
	free(c);
}

void
client_release(struct listener *l, struct conn *c)
{
	if (--c->holds == 0 && c->state == CONN_DOOMED && c->fd < 0)
		client_free(l, c);
}

void
client_doom(struct listener *l, struct conn *c)
{
	if (c->state == CONN_DOOMED)
		return;
	c->state = CONN_DOOMED;
	wheel_clear(&l->wheel, &c->timer);
	c->doom_next = l->doomed;
	l->doomed = c;
	client_hold(c);
}

/* Bury the doomed: at the end of a turn nobody has one on the stack. */
void
client_reap(struct listener *l)
{
	struct conn *c;

	if (l->doomed == NULL)
		return;
	while ((c = l->doomed) != NULL) {
		l->doomed = c->doom_next;
		connect_end(l, c);
		poll_del(l, c);
		close(c->fd);
		c->fd = -1;
		if ((*c->prev = c->next) != NULL)
			c->next->prev = c->prev;
		l->nconns--;
		metric_set(&m_clients, l->nconns);
		client_release(l, c);
	}
	accept_room(l);
}

/* The client is to get a last packet, then the connection ends. What it still
 * sends is not read. */
void
client_close(struct listener *l, struct conn *c, uint8_t reason)
{
	uint8_t *p;
	size_t	 n;

	if (c->state == CONN_DOOMED || c->state == CONN_CLOSING)
		return;
	if (c->state == CONN_OPEN && c->version == MQTT_V5) {
		n = mqtt_disconnect_size(c->version, reason, NULL);
		if ((p = out_reserve(l, c, n)) == NULL)
			return;
		mqtt_disconnect_encode(c->version, reason, NULL, p);
		metric_inc(&m_packets_out);
	}
	if (c->out.head == NULL) {
		client_doom(l, c);
		return;
	}
	c->state = CONN_CLOSING;
	c->eof = true;
	client_watch(l, c);
	/* A client that does not read its farewell does not stay for it. */
	wheel_set(&l->wheel, &c->timer, l->now_ms + 2000);
}

const char *
client_peer(const struct conn *c, char *buf, size_t size)
{
	struct sockaddr_storage	 ss = { .ss_family = AF_UNSPEC };
	socklen_t		 len = sizeof(ss);
	char			 host[INET6_ADDRSTRLEN] = "";

	if (c->fd < 0 ||
	    getpeername(c->fd, (struct sockaddr *)&ss, &len) < 0) {
		snprintf(buf, size, "-");
	} else if (ss.ss_family == AF_INET) {
		const struct sockaddr_in *a = (const void *)&ss;

		inet_ntop(AF_INET, &a->sin_addr, host, sizeof(host));
		snprintf(buf, size, "%s:%u", host, ntohs(a->sin_port));
	} else {
		const struct sockaddr_in6 *a = (const void *)&ss;

		inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof(host));
		snprintf(buf, size, "[%s]:%u", host, ntohs(a->sin6_port));
	}
	return buf;
}

/* --- Timers ------------------------------------------------------------- */

void
client_due(void *ctx, struct wheel_node *n)
{
	struct listener	*l = ctx;
	struct conn	*c = CONTAINER_OF(n, struct conn, timer);
	uint64_t	 deadline;

	switch ((enum conn_state)c->state) {
	case CONN_NEW:				/* never said CONNECT */
		metric_inc(&m_connects_refused);
		client_doom(l, c);
		return;
	case CONN_ATTACHING:
		session_due(l, c);
		return;
	case CONN_CLOSING:
		client_doom(l, c);
		return;
	case CONN_DOOMED:
		return;
	case CONN_OPEN:
		break;
	}
	/* We do not listen: no blame. */
	if (c->parked || c->waiting || l->job.active)
		c->heard_ms = l->now_ms;
	deadline = c->heard_ms + c->keepalive_s * UINT64_C(1500);
	if (deadline > l->now_ms) {
		wheel_set(&l->wheel, &c->timer, deadline);
		return;
	}
	metric_inc(&m_keepalive_timeouts);	/* [MQTT-3.1.2-22] */
	client_close(l, c, MQTT_KEEP_ALIVE_TIMEOUT);
}

/* --- Reading ------------------------------------------------------------ */

void
client_watch(struct listener *l, struct conn *c)
{
	poll_want(l, c, !c->parked && !c->deaf && !c->eof, c->blocked);
}

void
client_park(struct listener *l, struct conn *c)
{
	/* Who waits for its turn is in that list, and is not read either; what
	 * it says next parks it. */
	if (c->parked || c->waiting || c->state != CONN_OPEN)
		return;
	c->parked = true;
	c->parked_for = 0;
	c->list_next = NULL;
	*l->parked_tail = c;
	l->parked_tail = &c->list_next;
	client_hold(c);
	metric_inc(&m_parked);
	client_watch(l, c);
}

void
client_park_for(struct listener *l, struct conn *c, const struct peer *p,
    int qos)
{
	client_park(l, c);
	if (!c->parked)
		return;
	c->parked_for = (uint16_t)(p - l->peers + 1);
	c->parked_qos = (uint8_t)qos;
}

/* Not to be read yet? Where others use up all credit, one message of each
 * 3.x publisher goes on: else those of 5.0, which are always read, would shut
 * them out. */
static bool
must_rest(struct listener *l, const struct conn *c)
{
	struct peer *p;

	if (c->state != CONN_OPEN)
		return false;
	if ((c->answers != NULL && c->answers->n >= ANSWERS_MAX) ||
	    c->nsub_waits >= SUBACKS_MAX)
		return true;
	if (c->held)
		return publish_is_held(l, c);
	if (c->parked_for == 0)
		return false;
	p = &l->peers[c->parked_for - 1];
	if (c->parked_qos == 0)
		return p->strained = flow_is_low(l, p);
	return p->bus != NULL && bus_peer_blocked(p->bus) &&
	    c->answers != NULL && c->answers->n > 0;
}

void
client_refuse(struct listener *l, struct conn *c, uint8_t reason)
{
	char peer[64];

	if (c->state == CONN_NEW) {		/* no answer [MQTT-3.1.0-1] */
		metric_inc(&m_connects_refused);
		client_doom(l, c);
		return;
	}
	metric_inc(reason == MQTT_MALFORMED_PACKET ? &m_malformed :
	    &m_protocol_errors);
	log_debug("client.error", "client=%s peer=%s reason=0x%02x",
	    log_quote(c->client_id == NULL ? "" : c->client_id),
	    client_peer(c, peer, sizeof(peer)), reason);
	client_close(l, c, reason);
}

static void
on_packet(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	if (UNLIKELY(c->state == CONN_NEW)) {
		if (f->type == MQTT_CONNECT)
			on_connect(l, c, f);
		else
			client_refuse(l, c, MQTT_PROTOCOL_ERROR);
		return;
	}
	switch ((enum mqtt_type)f->type) {
	case MQTT_PUBLISH:
		on_publish(l, c, f);
		return;
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBCOMP:
		on_puback(l, c, f);
		return;
	case MQTT_PUBREL:
		on_pubrel(l, c, f);
		return;
	case MQTT_SUBSCRIBE:
		on_subscribe(l, c, f);
		return;
	case MQTT_UNSUBSCRIBE:
		on_unsubscribe(l, c, f);
		return;
	case MQTT_PINGREQ: {
		uint8_t *p;

		if (mqtt_decode_ping(f) != 0) {
			client_refuse(l, c, MQTT_MALFORMED_PACKET);
		} else if ((p = out_reserve(l, c, 2)) != NULL) {
			mqtt_ping_encode(MQTT_PINGRESP, p);
			metric_inc(&m_packets_out);
		}
		return;
	}
	case MQTT_DISCONNECT:
		on_disconnect(l, c, f);
		return;
	case MQTT_CONNECT:		/* a second one [MQTT-3.1.0-2] */
	case MQTT_CONNACK:
	case MQTT_SUBACK:
	case MQTT_UNSUBACK:
	case MQTT_PINGRESP:
	case MQTT_AUTH:				/* no method was agreed on */
		client_refuse(l, c, MQTT_PROTOCOL_ERROR);
		return;
	}
	client_refuse(l, c, MQTT_MALFORMED_PACKET);
}

/* May more of c be worked on in this turn? */
static inline bool
may_go_on(const struct listener *l, const struct conn *c)
{
	return c->state <= CONN_OPEN && !c->parked && !l->job.active &&
	    !turn_is_over(l);
}

/* Whole packets of c are left: they are the next turn's. */
static void
client_wait(struct listener *l, struct conn *c)
{
	if (c->waiting || c->parked || c->state > CONN_OPEN)
		return;
	c->waiting = true;
	c->list_next = l->waiting;
	l->waiting = c;
	client_hold(c);
}

/*
 * Work on the packets in buf; returns how many bytes are done with. *need is
 * the size of the packet that is not whole yet, if known.
 */
static size_t
consume(struct listener *l, struct conn *c, const uint8_t *buf, size_t len,
    uint32_t *need)
{
	struct mqtt_frame	f;
	size_t			off = 0;
	uint64_t		packets = 0;
	int			rc;

	*need = 0;
	while (off < len && may_go_on(l, c)) {
		rc = mqtt_frame_parse(buf + off, len - off, c->version,
		    c->packet_granted, &f);
		if (rc == ERR_AGAIN) {
			*need = f.size;
			break;
		}
		if (rc < 0) {
			client_refuse(l, c, rc == ERR_FULL ?
			    MQTT_PACKET_TOO_LARGE : MQTT_MALFORMED_PACKET);
			break;
		}
		/* More than one: their topics are looked up together. */
		if (packets++ % FIB_AHEAD == 0 && l->nremote > 0 &&
		    len - off > f.size)
			routes_ahead(l, buf + off, len - off, c->version);
		on_packet(l, c, &f);
		if (UNLIKELY(c->held)) {	/* it comes again */
			packets--;
			break;
		}
		off += f.size;
	}
	if (packets > 0)
		c->heard_ms = l->now_ms;
	metric_add(&m_packets_in, packets);
	if (off < len && !may_go_on(l, c))
		client_wait(l, c);
	return off;
}

/* Keep the len bytes at rest (which may lie in the stash itself). */
static void
stash(struct listener *l, struct conn *c, const uint8_t *rest, size_t len,
    uint32_t need)
{
	uint8_t	*grown;
	size_t	 cap;

	if (len == 0) {
		free(c->stash);
		c->stash = NULL;
		c->stash_len = c->stash_cap = c->stash_need = 0;
		return;
	}
	c->stash_need = need;
	if (c->stash != NULL && len <= c->stash_cap &&
	    rest >= c->stash && rest < c->stash + c->stash_cap) {
		memmove(c->stash, rest, len);
		if (c->stash_cap > 2 * STASH_SMALL && len < STASH_SMALL &&
		    (grown = realloc(c->stash, len)) != NULL) {
			c->stash = grown;
			c->stash_cap = (uint32_t)len;
		}
	} else {
		/* No more than is here, whatever the packet says it will be:
		 * who sends little holds little. */
		cap = len;
		if ((grown = malloc(cap)) == NULL) {
			metric_inc(&m_dropped_memory);
			client_doom(l, c);
			return;
		}
		memcpy(grown, rest, len);
		free(c->stash);
		c->stash = grown;
		c->stash_cap = (uint32_t)cap;
	}
	c->stash_len = (uint32_t)len;
}

static void on_readable(struct listener *l, struct conn *c);

/* Work on what is in the stash alone, after a pause. */
static void
client_resume(struct listener *l, struct conn *c)
{
	uint8_t	*buf = c->stash;
	size_t	 len = c->stash_len, done;
	uint32_t need;

	if (buf == NULL || c->state > CONN_OPEN)
		return;
	c->stash = NULL;
	c->stash_len = c->stash_cap = 0;
	done = consume(l, c, buf, len, &need);
	if (c->state <= CONN_OPEN)
		stash(l, c, buf + done, len - done, need);
	free(buf);
}

/* The desk of c answered: what it sent meanwhile is worked on. */
void
client_go_on(struct listener *l, struct conn *c)
{
	c->parked = false;
	if (c->state != CONN_OPEN)
		return;
	client_resume(l, c);
	if (c->unread && c->state == CONN_OPEN && !c->parked)
		on_readable(l, c);
}

void
client_unpark_all(struct listener *l)
{
	struct conn *c, *list = l->parked, *next;
	struct conn *still = NULL, **still_tail = &still;

	l->parked = NULL;
	l->parked_tail = &l->parked;
	for (c = list; c != NULL; c = next) {
		next = c->list_next;
		/* Asked of each anew: who is before may use it up. */
		if (must_rest(l, c)) {
			*still_tail = c;
			still_tail = &c->list_next;
			continue;
		}
		c->parked = c->held = false;
		c->heard_ms = l->now_ms;
		if (c->state == CONN_OPEN) {
			client_watch(l, c);
			client_resume(l, c);
		}
		client_release(l, c);
	}
	if (still != NULL) {			/* before those parked again */
		if ((*still_tail = l->parked) == NULL)
			l->parked_tail = still_tail;
		l->parked = still;
	}
}

/* There is, or may be, more of c to be read, and nothing will tell so again. */
static void
read_later(struct listener *l, struct conn *c)
{
	c->unread = true;
	client_wait(l, c);
}

/* A large packet grows where it lies, doubling, up to its end. */
static bool
stash_grow(struct conn *c)
{
	size_t	 have = c->stash_len, room;
	uint8_t	*buf;

	if (c->stash_cap - have >= READ_SIZE)
		return true;
	room = MAX(have * 2, have + READ_SIZE);
	if (c->stash_need > have)
		room = MIN(room, MAX((size_t)c->stash_need, have + 4096));
	if ((buf = realloc(c->stash, room)) == NULL)
		return false;
	c->stash = buf;
	c->stash_cap = (uint32_t)room;
	return true;
}

/* One read(2) and what it brought. True: there may be more to read. */
static bool
read_once(struct listener *l, struct conn *c)
{
	uint8_t	*buf;
	size_t	 have = c->stash_len, room, done;
	ssize_t	 n;
	uint32_t need;
	bool	 own = have > STASH_SMALL, more;

	if (own) {
		if (!stash_grow(c)) {
			metric_inc(&m_dropped_memory);
			client_doom(l, c);
			return false;
		}
		buf = c->stash;
		room = c->stash_cap - have;
	} else {
		buf = l->readbuf;
		if (have > 0)
			memcpy(buf, c->stash, have);
		room = READ_SIZE;
	}
	n = read(c->fd, buf + have, room);
	metric_inc(&m_reads);
	if (n <= 0) {
		more = n < 0 && errno == EINTR;
		if (n == 0 || (!more && errno != EAGAIN))
			client_doom(l, c);
		return more;
	}
	/* Less than there was room for is all there was; its end comes as news
	 * of its own, unless it was told already. */
	more = (size_t)n == room || c->ends;
	if (n >= HEARD_MIN)
		c->heard_ms = l->now_ms;
	if (UNLIKELY(out_is_choked(l, c))) {
		/* Answers have no other bound than this. Its keep-alive goes
		 * on: out_flush() knows whether it lives. */
		if ((c->unheard += (uint32_t)n) >= DEAF_MAX) {
			c->deaf = true;
			client_watch(l, c);
		}
	} else {
		c->unheard = 0;
	}
	c->bytes_in += (uint64_t)n;
	metric_add(&m_bytes_in, (uint64_t)n);
	have += (size_t)n;
	if (own) {
		c->stash_len = (uint32_t)have;
		if (c->stash_need > have)
			return more;	/* the packet is not whole yet */
	}
	done = consume(l, c, buf, have, &need);
	if (c->state > CONN_OPEN)
		return false;
	if (own || have != done || c->stash != NULL)
		stash(l, c, buf + done, have - done, need);
	return more;
}

static void
on_readable(struct listener *l, struct conn *c)
{
	if (c->waiting || turn_is_over(l) || l->job.active) {
		read_later(l, c);
		return;
	}
	c->unread = false;
	if (UNLIKELY(read_once(l, c)))
		read_later(l, c);
}

void
client_resume_waiting(struct listener *l)
{
	struct conn *c, *list = l->waiting, *next;

	l->waiting = NULL;
	for (c = list; c != NULL; c = next) {
		next = c->list_next;
		c->waiting = false;
		if (c->state <= CONN_OPEN) {
			if (may_go_on(l, c))
				client_resume(l, c);
			else
				client_wait(l, c);
			if (c->unread && c->state <= CONN_OPEN && c->wants_in)
				on_readable(l, c);
		}
		client_release(l, c);
	}
}

void
client_news(struct listener *l, struct conn *c, bool in, bool out, bool ends)
{
	c->ends |= ends;
	if (out && c->state != CONN_DOOMED) {
		c->blocked = true;
		out_flush(l, c);
		if (c->state == CONN_OPEN && !c->blocked)
			deliver_queued(l, c);
	}
	if (in && c->state == CONN_ATTACHING)
		c->unread = true;	/* its edge does not come again */
	else if (in && c->state <= CONN_OPEN && !c->parked)
		on_readable(l, c);
}

/*
 * relay.c: messages between the processes of this node and one of another,
 * passed on unread. Each relay has a DEALER, connected with the other node's
 * link, and while that is connected a ROUTER for the processes here: what comes
 * there goes out with the address of who sent it in front, and what comes back
 * is sent to whom it names.
 *
 * Nothing is kept. What cannot be sent is dropped; the streams whose messages
 * these are send it again. How much can be under way at a time the other end
 * says by its credit.
 */
#include "bus/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <utlist.h>
#include <xxhash.h>

#include "base/err.h"
#include "log/log.h"

enum {
	RELAY_EVENTS = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
	    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
	    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
	    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH,
};

struct bus_relay {
	struct bus_relay *prev, *next;
	struct bus	*bus;
	void		*user;
	struct sock	 in;		/* ROUTER; z NULL: not connected */
	struct sock	 out;		/* DEALER */
	struct sock	 monitor;
	const char	*trouble;
	char		 endpoint[BUS_ENDPOINT_MAX];	/* of `in` */
	bool		 connected;	/* `out` is, as far as we heard, */
	bool		 broke;		/* and was not in between */
	bool		 closed;	/* by the program: freed at the end of the
					 * turn, when nobody looks at sockets */
};

int
bus_relay_endpoint(char out[BUS_ENDPOINT_MAX], const char *link,
    const char *node)
{
	int n;

	n = snprintf(out, BUS_ENDPOINT_MAX, "%s.%016llx", link,
	    (unsigned long long)XXH3_64bits(node, strlen(node)));
	return n < BUS_ENDPOINT_MAX ? 0 : ERR_INVAL;
}

void *
bus_relay_user(const struct bus_relay *r)
{
	return r->user;
}

bool
bus_relay_is_up(const struct bus_relay *r)
{
	return r->in.z != NULL;
}

const char *
bus_relay_trouble(const struct bus_relay *r)
{
	return r->trouble;
}

/* --- Connected and not --------------------------------------------------- */

static void
in_close(struct bus_relay *r)
{
	if (r->in.z == NULL)
		return;
	sock_close(&r->in);
	(void)unlink(r->endpoint + strlen("ipc://"));	/* libzmq leaves it */
}

static void
tell_relay(struct bus_relay *r, bool up)
{
	const struct bus_events *e = r->bus->events;

	if (e != NULL && e->relay != NULL)
		e->relay(r->bus->ctx, r, up);
}

static void
relay_up(struct bus_relay *r)
{
	void	*z;

	if (r->in.z != NULL)
		return;
	if ((z = zmq_socket(r->bus->zctx, ZMQ_ROUTER)) == NULL)
		return;
	if (socket_options(z, ZMQ_ROUTER) < 0 ||
	    zmq_bind(z, r->endpoint) < 0 ||
	    sock_open(r->bus, &r->in, SOCK_RELAY_IN, NULL, z) < 0) {
		log_error("bus.relay_refused", "endpoint=%s error=%s",
		    r->endpoint, log_quote(zmq_strerror(errno)));
		zmq_close(z);
		return;
	}
	r->in.relay = r;
	r->trouble = NULL;
	tell_relay(r, true);
}

static void
relay_down(struct bus_relay *r)
{
	if (r->in.z == NULL)
		return;
	in_close(r);
	tell_relay(r, false);
}

static void
monitor_take(struct bus_relay *r)
{
	struct incoming	in;
	uint16_t	event;
	int		rc;

	while ((rc = incoming_recv(&in, r->monitor.z, 0, 1, 2)) != ERR_AGAIN) {
		if (rc < 0 || zmq_msg_size(&in.part[0]) < sizeof(event))
			continue;
		memcpy(&event, zmq_msg_data(&in.part[0]), sizeof(event));
		incoming_fini(&in);
		if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
			r->connected = true;
			continue;
		}
		if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH ||
		    event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL ||
		    event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL)
			r->trouble = "the handshake failed (another cookie?)";
		r->connected = false;
		r->broke = true;
	}
}

static void
relay_free(struct bus_relay *r)
{
	DL_DELETE(r->bus->relays, r);
	in_close(r);
	zmq_socket_monitor(r->out.z, NULL, 0);
	sock_close(&r->monitor);
	sock_close(&r->out);
	free(r);
}

void
relays_turn(struct bus *b)
{
	struct bus_relay *r, *next;

	DL_FOREACH_SAFE(b->relays, r, next) {
		if (r->closed) {
			relay_free(r);
			continue;
		}
		if (r->broke)
			relay_down(r);
		r->broke = false;
		if (r->connected && !r->closed)
			relay_up(r);
	}
}

int
bus_relay_open(struct bus_relay **out, struct bus *b,
    const struct bus_relay_opts *o)
{
	struct bus_relay *r;
	char		  id[BUS_ADDR_MAX];
	void		 *z;
	int		  n, rc;

	if ((r = calloc(1, sizeof(*r))) == NULL)
		return ERR_NOMEM;
	r->bus = b;
	r->user = o->user;
	if ((rc = bus_relay_endpoint(r->endpoint, b->endpoint, o->node)) < 0) {
		free(r);
		return rc;
	}
	if ((z = zmq_socket(b->zctx, ZMQ_DEALER)) == NULL) {
		free(r);
		return ERR_IO;
	}
	n = snprintf(id, sizeof(id), "%s/%llx/%016llx", b->name,
	    (unsigned long long)b->incarnation,
	    (unsigned long long)XXH3_64bits(b->node, strlen(b->node)));
	rc = ERR_IO;
	if (socket_options(z, ZMQ_DEALER) < 0 ||
	    socket_far(z, o->ipv6, o->secret, false) < 0 ||
	    zmq_setsockopt(z, ZMQ_ROUTING_ID, id, (size_t)n) < 0 ||
	    (rc = sock_open(b, &r->out, SOCK_RELAY_OUT, NULL, z)) < 0) {
		zmq_close(z);
		free(r);
		return rc;
	}
	r->out.relay = r;
	DL_APPEND(b->relays, r);
	if ((rc = sock_monitor(b, &r->monitor, SOCK_RELAY_MONITOR, z,
	    RELAY_EVENTS)) == 0) {
		r->monitor.relay = r;
		rc = zmq_connect(z, o->endpoint) < 0 ? ERR_IO : 0;
	}
	if (rc < 0) {
		relay_free(r);
		return rc;
	}
	*out = r;
	return 0;
}

void
bus_relay_close(struct bus_relay **rr)
{
	if (*rr != NULL)
		(*rr)->closed = true;
	*rr = NULL;
}

void
relays_fini(struct bus *b)
{
	struct bus_relay *r;

	while ((r = b->relays) != NULL)
		relay_free(r);
}

/* --- Messages ------------------------------------------------------------ */

/* One message from a to b, part by part. 1, 0: none there. */
static int
pass(void *a, void *b)
{
	zmq_msg_t m;
	bool	  more = true, lost = false, any = false;

	while (more) {
		zmq_msg_init(&m);
		if (zmq_msg_recv(&m, a, ZMQ_DONTWAIT) < 0) {
			zmq_msg_close(&m);
			return any;
		}
		any = true;
		more = zmq_msg_more(&m);
		if (lost || b == NULL || zmq_msg_send(&m, b, ZMQ_DONTWAIT |
		    (more ? ZMQ_SNDMORE : 0)) < 0) {
			lost = true;
			zmq_msg_close(&m);
		}
	}
	if (lost)
		count(relay_dropped);
	else
		count(relayed);
	return 1;
}

bool
relay_drain(struct sock *s, int *frames)
{
	struct bus_relay	*r = s->relay;
	struct sock		*to = s == &r->in ? &r->out : &r->in;

	if (r->closed)
		return true;
	if (s->kind == SOCK_RELAY_MONITOR) {
		monitor_take(r);
		return true;
	}
	for (; *frames > 0; (*frames)--)
		if (pass(s->z, to->z) == 0)
			return true;
		else if (to->z != NULL)
			sock_used(to);
	return false;
}

#include "bus/ask.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

#include "base/clock.h"
#include "base/err.h"
#include "bus/bus.h"
#include "bus/envelope.h"

struct bus_ask {
	void		*zctx;
	void		*z;
	uint64_t	 serial;	/* of queries */
	zmq_msg_t	 envelope, body;
	uint8_t		 buf[QUERY_BODY_MAX];
};

static int
send_message(struct bus_ask *a, enum kind kind, const void *body, size_t len)
{
	uint8_t	 head[ENVELOPE_MAX];
	Envelope e = Envelope_init_zero;
	size_t	 n;

	e.kind = kind;
	e.clock = clock_wall_ns();
	n = envelope_put(head, &e);
	if (zmq_send(a->z, head, n, ZMQ_SNDMORE) < 0 ||
	    zmq_send(a->z, body, len, 0) < 0)
		return errno == EAGAIN || errno == EINTR ? ERR_AGAIN : ERR_IO;
	return 0;
}

static int
set_timeout(struct bus_ask *a, int option, uint64_t deadline_ns)
{
	uint64_t now = clock_mono_ns();
	int	 ms = deadline_ns > now ?
	    (int)((deadline_ns - now) / 1000000) + 1 : 0;

	return zmq_setsockopt(a->z, option, &ms, sizeof(ms)) < 0 ? ERR_IO : 0;
}

/* The next message; parts beyond the second are let go. */
static int
recv_parts(struct bus_ask *a)
{
	zmq_msg_t rest;
	bool	  more;

	zmq_msg_close(&a->envelope);
	zmq_msg_init(&a->envelope);
	zmq_msg_close(&a->body);
	zmq_msg_init(&a->body);
	if (zmq_msg_recv(&a->envelope, a->z, 0) < 0)
		return errno == EAGAIN || errno == EINTR ? ERR_AGAIN : ERR_IO;
	more = zmq_msg_more(&a->envelope);
	if (more && zmq_msg_recv(&a->body, a->z, 0) < 0)
		return ERR_IO;
	more = more && zmq_msg_more(&a->body);
	while (more) {
		zmq_msg_init(&rest);
		more = zmq_msg_recv(&rest, a->z, 0) >= 0 &&
		    zmq_msg_more(&rest);
		zmq_msg_close(&rest);
	}
	return 0;
}

static int
recv_kind(struct bus_ask *a, enum kind kind, uint64_t deadline_ns)
{
	Envelope e;
	int	 rc;

	for (;;) {
		if ((rc = set_timeout(a, ZMQ_RCVTIMEO, deadline_ns)) < 0 ||
		    (rc = recv_parts(a)) < 0)
			return rc;
		e = (Envelope)Envelope_init_zero;
		if (envelope_get(&e, zmq_msg_data(&a->envelope),
		    zmq_msg_size(&a->envelope)) < 0)
			return ERR_PROTO;
		if (e.kind == kind)
			return 0;
	}
}

static int
hello(struct bus_ask *a, const char *tool, uint64_t deadline_ns)
{
	uint8_t	body[ENVELOPE_MAX];
	Hello	h = Hello_init_zero;
	Welcome	w = Welcome_init_zero;
	int	rc;

	h.version = PROTO_VERSION;
	snprintf(h.name, sizeof(h.name), "tool.%s", tool);
	h.incarnation = (uint64_t)getpid();
	if ((rc = set_timeout(a, ZMQ_SNDTIMEO, deadline_ns)) < 0 ||
	    (rc = send_message(a, KIND_HELLO, body, hello_put(body, &h))) < 0 ||
	    (rc = recv_kind(a, KIND_WELCOME, deadline_ns)) < 0)
		return rc;
	if (welcome_get(&w, zmq_msg_data(&a->body), zmq_msg_size(&a->body)) <
	    0 || w.status != WELCOME_OK || w.version != PROTO_VERSION)
		return ERR_PROTO;
	return 0;
}

/* Of this connection alone, so that no other tool takes it over. */
static int
set_name(struct bus_ask *a, const char *tool)
{
	char id[BUS_ADDR_MAX];
	int  n;

	n = snprintf(id, sizeof(id), "tool.%.32s/%d/%llx", tool, (int)getpid(),
	    (unsigned long long)clock_mono_ns());
	return zmq_setsockopt(a->z, ZMQ_ROUTING_ID, id, (size_t)n) < 0 ?
	    ERR_IO : 0;
}

static uint64_t
deadline_of(int timeout_ms)
{
	return clock_mono_ns() + (uint64_t)timeout_ms * 1000000;
}

int
bus_ask_open(struct bus_ask **out, const char *endpoint, const char *tool,
    int timeout_ms)
{
	struct bus_ask	*a;
	int		 rc;

	if (timeout_ms < 0 || strlen(tool) + 5 >= BUS_NAME_MAX)
		return ERR_INVAL;
	if ((a = calloc(1, sizeof(*a))) == NULL)
		return ERR_NOMEM;
	zmq_msg_init(&a->envelope);
	zmq_msg_init(&a->body);
	rc = ERR_IO;
	if ((a->zctx = zmq_ctx_new()) == NULL)
		goto free_ask;
	if ((a->z = zmq_socket(a->zctx, ZMQ_DEALER)) == NULL)
		goto free_context;
	if ((rc = socket_options(a->z, ZMQ_DEALER)) < 0 ||
	    (rc = set_name(a, tool)) < 0)
		goto close_socket;
	if (zmq_connect(a->z, endpoint) < 0) {
		rc = errno == EINVAL ? ERR_INVAL : ERR_IO;
		goto close_socket;
	}
	if ((rc = hello(a, tool, deadline_of(timeout_ms))) < 0)
		goto close_socket;
	*out = a;
	return 0;

close_socket:
	zmq_close(a->z);
free_context:
	zmq_ctx_term(a->zctx);
free_ask:
	zmq_msg_close(&a->envelope);
	zmq_msg_close(&a->body);
	free(a);
	return rc;
}

void
bus_ask_close(struct bus_ask **pa)
{
	struct bus_ask *a = *pa;

	*pa = NULL;
	if (a == NULL)
		return;
	zmq_msg_close(&a->envelope);
	zmq_msg_close(&a->body);
	zmq_close(a->z);
	zmq_ctx_term(a->zctx);
	free(a);
}

/* One page; answers to earlier queries that came too late are passed over. */
static int
ask_page(struct bus_ask *a, const struct query *q, struct reply *r,
    int timeout_ms)
{
	uint64_t deadline_ns = deadline_of(timeout_ms);
	long	 n;
	int	 rc;

	if ((n = query_encode(q, a->buf, sizeof(a->buf))) < 0)
		return ERR_INVAL;
	if ((rc = set_timeout(a, ZMQ_SNDTIMEO, deadline_ns)) < 0 ||
	    (rc = send_message(a, KIND_QUERY, a->buf, (size_t)n)) < 0)
		return rc;
	do {
		if ((rc = recv_kind(a, KIND_REPLY, deadline_ns)) < 0)
			return rc;
		if ((rc = reply_decode(r, zmq_msg_data(&a->body),
		    zmq_msg_size(&a->body))) < 0)
			return rc;
	} while (r->id != q->id);
	return 0;
}

int
bus_ask_query(struct bus_ask *a, const struct query *query,
    bool (*row)(void *ctx, struct reply_row *r), void *ctx, uint32_t *status,
    char *error, size_t size, int timeout_ms)
{
	struct query	 q = *query;
	struct reply	 r;
	struct reply_row one;
	int		 rc;

	do {
		q.id = ++a->serial;
		if ((rc = ask_page(a, &q, &r, timeout_ms)) < 0)
			return rc;
		*status = r.status;
		snprintf(error, size, "%.*s", (int)MIN(r.error.len, size),
		    r.error.len > 0 ? (const char *)r.error.data : "");
		while (reply_next(&r, &one) == 1)
			if (!row(ctx, &one))
				return 0;
		/* Same body as the next query is built from: not yet reused. */
		q.cursor = r.cursor;
	} while (r.status == 0 && r.cursor.len > 0);
	return 0;
}

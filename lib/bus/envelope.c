#include "bus/envelope.h"

#include <assert.h>
#include <pb_decode.h>
#include <pb_encode.h>
#include <zmq.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/record.h"

static size_t
put(uint8_t *out, const pb_msgdesc_t *fields, const void *m)
{
	pb_ostream_t s = pb_ostream_from_buffer(out, ENVELOPE_MAX);
	bool	     ok = pb_encode(&s, fields, m);

	assert(ok);	/* ENVELOPE_MAX is above the sum of all bounds */
	(void)ok;
	return s.bytes_written;
}

static int
get(void *m, const pb_msgdesc_t *fields, const void *data, size_t len)
{
	pb_istream_t s;

	if (len > ENVELOPE_MAX)
		return ERR_PROTO;
	s = pb_istream_from_buffer(data, len);
	return pb_decode(&s, fields, m) ? 0 : ERR_PROTO;
}

size_t
envelope_put(uint8_t out[ENVELOPE_MAX], const Envelope *e)
{
	return put(out, Envelope_fields, e);
}

size_t
hello_put(uint8_t out[ENVELOPE_MAX], const Hello *h)
{
	return put(out, Hello_fields, h);
}

size_t
welcome_put(uint8_t out[ENVELOPE_MAX], const Welcome *w)
{
	return put(out, Welcome_fields, w);
}

int
envelope_get(Envelope *e, const void *data, size_t len)
{
	return get(e, Envelope_fields, data, len);
}

int
hello_get(Hello *h, const void *data, size_t len)
{
	return get(h, Hello_fields, data, len);
}

int
welcome_get(Welcome *w, const void *data, size_t len)
{
	return get(w, Welcome_fields, data, len);
}

static const struct option {
	int	type;			/* 0: every type */
	int	name;
	int	value;
} options[] = {
	{ 0, ZMQ_LINGER, 0 },
	{ 0, ZMQ_IMMEDIATE, 1 },
	{ 0, ZMQ_SNDHWM, SOCKET_HWM },
	{ 0, ZMQ_RCVHWM, SOCKET_HWM },
	{ 0, ZMQ_RECONNECT_IVL, 20 },
	{ 0, ZMQ_RECONNECT_IVL_MAX, 1000 },
	{ ZMQ_ROUTER, ZMQ_ROUTER_MANDATORY, 1 },
	{ ZMQ_ROUTER, ZMQ_ROUTER_HANDOVER, 1 },
	{ ZMQ_ROUTER, ZMQ_BACKLOG, 512 },
};

int
socket_options(void *z, int type)
{
	const struct option	*o;
	int64_t			 part_max = RECORD_MAX;

	for (o = options; o < options + NELEM(options); o++)
		if ((o->type == 0 || o->type == type) && zmq_setsockopt(z,
		    o->name, &o->value, sizeof(o->value)) < 0)
			return ERR_IO;
	if (zmq_setsockopt(z, ZMQ_MAXMSGSIZE, &part_max, sizeof(part_max)) < 0)
		return ERR_IO;
	return 0;
}

#include "bus/envelope.h"
#include "bus/bus.h"

#include <assert.h>
#include <string.h>
#include <pb_decode.h>
#include <pb_encode.h>
#include <zmq.h>

#include "base/err.h"
#include "base/util.h"
#include "proto/record.h"
#include "proto/wire.h"

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

/*
 * The envelope stands before every message, and a frame of one message is
 * mostly envelope: it is written and read field by field, in a tenth of the
 * instructions that nanopb's tables take.
 */

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

size_t
envelope_put(uint8_t out[ENVELOPE_MAX], const Envelope *e)
{
	struct wire_out w;

	wire_out_init(&w, out, ENVELOPE_MAX);
	wire_put_uint(&w, Envelope_kind_tag, e->kind);
	wire_put_bytes(&w, Envelope_source_tag, text(e->source));
	wire_put_uint(&w, Envelope_slot_tag, e->slot);
	wire_put_uint(&w, Envelope_incarnation_tag, e->incarnation);
	wire_put_uint(&w, Envelope_seq_tag, e->seq);
	wire_put_uint(&w, Envelope_count_tag, e->count);
	wire_put_uint(&w, Envelope_got_tag, e->got);
	wire_put_uint(&w, Envelope_stored_tag, e->stored);
	wire_put_uint(&w, Envelope_credit_tag, e->credit);
	wire_put_fixed64(&w, Envelope_clock_tag, e->clock);
	wire_put_bytes(&w, Envelope_destination_tag, text(e->destination));
	if (e->origin[0] != '\0') {
		wire_put_bytes(&w, Envelope_origin_tag, text(e->origin));
		wire_put_uint(&w, Envelope_origin_incarnation_tag,
		    e->origin_incarnation);
		wire_put_uint(&w, Envelope_origin_slot_tag, e->origin_slot);
	}
	assert(!w.full);	/* ENVELOPE_MAX is above the sum of all bounds */
	return wire_out_len(&w);
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

static bool
get_text(char *out, size_t size, const struct slice *s)
{
	if (s->len >= size || memchr(s->data, '\0', s->len) != NULL)
		return false;
	memcpy(out, s->data, s->len);
	out[s->len] = '\0';
	return true;
}

static bool
get_u32(uint32_t *out, uint64_t v)
{
	*out = (uint32_t)v;
	return v <= UINT32_MAX;
}

/* One field; false if it is of another type or does not fit. */
static bool
get_field(Envelope *e, const struct wire_field *f)
{
	switch (f->number) {
	case Envelope_source_tag:
		return f->is_bytes &&
		    get_text(e->source, sizeof(e->source), &f->bytes);
	case Envelope_destination_tag:
		return f->is_bytes && get_text(e->destination,
		    sizeof(e->destination), &f->bytes);
	case Envelope_origin_tag:
		return f->is_bytes &&
		    get_text(e->origin, sizeof(e->origin), &f->bytes);
	case Envelope_origin_slot_tag:
		return !f->is_bytes && get_u32(&e->origin_slot, f->value);
	case Envelope_origin_incarnation_tag:
		e->origin_incarnation = f->value;
		break;
	case Envelope_kind_tag:
		return !f->is_bytes && get_u32(&e->kind, f->value);
	case Envelope_slot_tag:
		return !f->is_bytes && get_u32(&e->slot, f->value);
	case Envelope_count_tag:
		return !f->is_bytes && get_u32(&e->count, f->value);
	case Envelope_incarnation_tag:
		e->incarnation = f->value;
		break;
	case Envelope_seq_tag:
		e->seq = f->value;
		break;
	case Envelope_got_tag:
		e->got = f->value;
		break;
	case Envelope_stored_tag:
		e->stored = f->value;
		break;
	case Envelope_credit_tag:
		e->credit = f->value;
		break;
	case Envelope_clock_tag:
		e->clock = f->value;
		break;
	default:
		return true;		/* from a later version */
	}
	return !f->is_bytes;
}

/* Not memset: most of it is room for texts that are mostly not there. */
void
envelope_init(Envelope *e)
{
	e->kind = e->slot = e->count = e->origin_slot = 0;
	e->incarnation = e->seq = e->got = e->stored = e->credit = 0;
	e->clock = e->origin_incarnation = 0;
	e->source[0] = e->destination[0] = e->origin[0] = '\0';
}

int
envelope_get(Envelope *e, const void *data, size_t len)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	if (len > ENVELOPE_MAX)
		return ERR_PROTO;
	envelope_init(e);
	wire_in_init(&in, data, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (!get_field(e, &f))
			return ERR_PROTO;
	return rc;
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

/*
 * A ping is due when nothing was said for a second, and its answer must be here
 * four later: who falls silent is known to be gone after five. A connection
 * that does not come about is given up, too; else what the kernel tries again
 * after 16 and 32 s would be missing for so long when a network is back.
 */
enum {
	FAR_HEARTBEAT_MS = 1000,
	FAR_SILENT_MS = 4000,
	FAR_CONNECT_MS = 2000,
	FAR_HANDSHAKE_MS = 5000
};

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

int
socket_far(void *z, bool ipv6, const struct bus_secret *secret, bool server)
{
	static const struct option far[] = {
		{ 0, ZMQ_SNDHWM, 0 },
		{ 0, ZMQ_RCVHWM, 0 },
		{ 0, ZMQ_HEARTBEAT_IVL, FAR_HEARTBEAT_MS },
		{ 0, ZMQ_HEARTBEAT_TIMEOUT, FAR_SILENT_MS },
		{ 0, ZMQ_CONNECT_TIMEOUT, FAR_CONNECT_MS },
		{ 0, ZMQ_HANDSHAKE_IVL, FAR_HANDSHAKE_MS },
	};
	int	is_server = server, v6 = ipv6;
	size_t	i;

	for (i = 0; i < NELEM(far); i++)
		if (zmq_setsockopt(z, far[i].name, &far[i].value,
		    sizeof(far[i].value)) < 0)
			return ERR_IO;
	if (zmq_setsockopt(z, ZMQ_IPV6, &v6, sizeof(v6)) < 0)
		return ERR_IO;
	if (secret == NULL)
		return 0;
	if (zmq_setsockopt(z, ZMQ_CURVE_SERVER, &is_server,
	    sizeof(is_server)) < 0)
		return ERR_IO;
	/* Both ends have the pair: to know it is to be of the cluster. */
	if (server)
		return zmq_setsockopt(z, ZMQ_CURVE_SECRETKEY, secret->private,
		    40) < 0 ? ERR_IO : 0;
	return zmq_setsockopt(z, ZMQ_CURVE_SERVERKEY, secret->public, 40) < 0 ||
	    zmq_setsockopt(z, ZMQ_CURVE_PUBLICKEY, secret->public, 40) < 0 ||
	    zmq_setsockopt(z, ZMQ_CURVE_SECRETKEY, secret->private, 40) < 0 ?
	    ERR_IO : 0;
}

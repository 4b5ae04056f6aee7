#include "bus/envelope.h"

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

int
envelope_get(Envelope *e, const void *data, size_t len)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	if (len > ENVELOPE_MAX)
		return ERR_PROTO;
	e->kind = e->slot = e->count = 0;
	e->incarnation = e->seq = e->got = e->stored = e->credit = 0;
	e->clock = 0;
	e->source[0] = e->destination[0] = '\0';
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

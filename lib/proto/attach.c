#include "proto/attach.h"

#include "base/err.h"

/* Field numbers of attach.proto. */
enum { ATTACH_CLIENTS = 1 };
static const struct wire_col client_cols[] = {
	{ 1, WIRE_SLICE, offsetof(struct attach_client, client_id) },
	{ 2, WIRE_U64, offsetof(struct attach_client, time) },
	{ 3, WIRE_BOOL, offsetof(struct attach_client, clean_start) },
};

int
attach_add(struct wire_out *w, const struct attach_client *c)
{
	size_t start = w->len, mark;

	if (c->client_id.len == 0 || c->client_id.len > UINT16_MAX)
		return ERR_INVAL;
	mark = wire_open(w, ATTACH_CLIENTS);
	wire_put_cols(w, client_cols, NELEM(client_cols), c);
	wire_close(w, mark);
	if (w->full) {
		w->len = start;
		w->full = false;
		return ERR_FULL;
	}
	return 0;
}

static int
get_client(struct attach_client *c, struct slice body)
{
	struct wire_in	  in;
	struct wire_field f;
	int		  rc;

	memset(c, 0, sizeof(*c));
	wire_in_init(&in, body.data, body.len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(client_cols, NELEM(client_cols), c, &f) < 0)
			return ERR_PROTO;
	if (rc < 0 || c->client_id.len == 0 || c->client_id.len > UINT16_MAX)
		return ERR_PROTO;
	return 0;
}

int
attach_decode(struct wire_in *out, const void *body, size_t len)
{
	struct wire_in	     in;
	struct wire_field    f;
	struct attach_client c;
	int		     rc;

	wire_in_init(&in, body, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (f.number == ATTACH_CLIENTS &&
		    (!f.is_bytes || get_client(&c, f.bytes) < 0))
			return ERR_PROTO;
	if (rc < 0)
		return rc;
	wire_in_init(out, body, len);
	return 0;
}

int
attach_next(struct wire_in *in, struct attach_client *c)
{
	struct wire_field f;

	while (wire_next(in, &f) == 1)
		if (f.number == ATTACH_CLIENTS)
			return get_client(c, f.bytes) == 0;
	return 0;
}

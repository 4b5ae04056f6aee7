#include "store/op.h"

#include "mqtt/mqtt.h"
#include "proto/record.h"
#include "store/bytes.h"
#include "store/internal.h"

/*
 * What each kind is made of, in order. Two more things follow the fields:
 * targets, whose number is a field, and a record, whose length is one.
 */
enum type { END, U8, BOOL, U16, U32, U64, ID, TEXT, BLOB, RECORD };

struct field {
	uint8_t	type;
	uint8_t	offset;
};

#define F(type, member) { type, offsetof(struct op, member) }

enum {
	FIELDS_MAX = 12,
	NKINDS = STORE_SKIP + 1,

	/* A target: handle 8, flags 1, number of identifiers 2, group 8 if
	 * there is one, identifiers. Its flags: */
	TARGET_QOS = 3,
	TARGET_RETAIN = 4,
	TARGET_GROUP = 8
};

_Static_assert(sizeof(struct op) <= UINT8_MAX, "offsets are bytes");

static const struct field fields[NKINDS][FIELDS_MAX] = {
	[STORE_OPEN] = {
		F(U64, handle), F(U64, at_ms), F(U64, incarnation),
		F(U64, serial),
		F(U32, listener), F(U32, expiry_s), F(U32, will_delay_s),
		F(U8, version), F(BOOL, durable), F(BOOL, fresh),
		F(TEXT, client_id), F(BLOB, will),
	},
	[STORE_CLOSE] = {
		F(U64, handle), F(U64, at_ms), F(U64, offset),
		F(U32, expiry_s), F(BOOL, keep_will),
	},
	[STORE_END] = { F(U64, handle) },
	[STORE_SUBSCRIBE] = {
		F(U64, handle), F(U32, sub_id), F(U8, options),
		F(TEXT, share), F(TEXT, filter),
	},
	[STORE_UNSUBSCRIBE] = {
		F(U64, handle), F(TEXT, share), F(TEXT, filter),
	},
	[STORE_PUBLISH] = {
		F(U64, at_ms), F(U64, deadline_ms), F(ID, id), F(U32, slot),
		F(TEXT, source), F(U32, ntargets), F(RECORD, record),
	},
	[STORE_ACK] = { F(U64, handle), F(U64, offset), F(U8, what) },
	[STORE_DROP] = { F(U64, handle), F(U64, offset) },
	[STORE_INBOUND] = {
		F(U64, handle), F(ID, id), F(U16, pid), F(RECORD, record),
	},
	[STORE_RELEASE] = { F(U64, handle), F(U16, pid) },
	[STORE_MARK] = { F(ID, id), F(U32, slot), F(TEXT, source) },
	[STORE_MOVE] = {
		F(U64, pos), F(U64, deadline_ms), F(U32, ntargets),
		F(RECORD, record),
	},
	[STORE_WILL] = { F(U64, handle) },
	[STORE_ONWARD] = {
		F(ID, id), F(U32, slot), F(TEXT, source),
		F(U64, handle), F(U64, offset), F(U16, pid), F(BOOL, back),
		F(RECORD, record),
	},
	[STORE_ONWARD_DONE] = { F(U64, pos) },
	[STORE_SKIP] = { F(U64, handle), F(U64, offset) },
};

static void
put_field(struct bytes_out *w, enum type type, const void *p, bool *bad)
{
	const struct slice *s = p;
	uint8_t		   *room;

	switch (type) {
	case END:
		break;
	case U8:
		out_u8(w, *(const uint8_t *)p);
		break;
	case BOOL:
		out_u8(w, *(const bool *)p);
		break;
	case U16:
		out_u16(w, *(const uint16_t *)p);
		break;
	case U32:
		out_u32(w, *(const uint32_t *)p);
		break;
	case U64:
		out_u64(w, *(const uint64_t *)p);
		break;
	case ID:
		if ((room = out_room(w, MSGID_LEN)) != NULL)
			msgid_put(room, *(const struct msgid *)p);
		break;
	case TEXT:
		*bad |= s->len > UINT16_MAX;
		out_u16(w, (uint16_t)s->len);
		out_bytes(w, s->data, s->len);
		break;
	case BLOB:
		*bad |= s->len > RECORD_MAX;
		out_u32(w, (uint32_t)s->len);
		out_bytes(w, s->data, s->len);
		break;
	case RECORD:
		*bad |= s->len > RECORD_MAX;
		out_u32(w, (uint32_t)s->len);
		break;
	}
}

long
op_put(uint8_t *out, size_t size, const struct op *o)
{
	struct bytes_out	 w = { out, 0, size };
	const struct field	*f;
	bool			 bad = false;

	if ((unsigned)o->kind >= NKINDS || fields[o->kind][0].type == END)
		return ERR_INVAL;
	out_u8(&w, (uint8_t)o->kind);
	for (f = fields[o->kind]; f->type != END; f++)
		put_field(&w, f->type, (const uint8_t *)o + f->offset, &bad);
	return bad ? ERR_INVAL : out_end(&w);
}

long
op_put_target(uint8_t *out, size_t size, const struct op_target *t,
    const uint32_t *ids)
{
	struct bytes_out	w = { out, 0, size };
	uint16_t		i;

	out_u64(&w, t->handle);
	out_u8(&w, (uint8_t)(t->qos | (t->retain ? TARGET_RETAIN : 0) |
	    (t->group != 0 ? TARGET_GROUP : 0)));
	out_u16(&w, t->nids);
	if (t->group != 0)
		out_u64(&w, t->group);
	for (i = 0; i < t->nids; i++)
		out_u32(&w, ids[i]);
	return out_end(&w);
}

static void
get_field(struct bytes_in *r, enum type type, void *p)
{
	struct slice	*s = p;
	const uint8_t	*at;
	uint8_t		 b;

	switch (type) {
	case END:
		break;
	case U8:
		*(uint8_t *)p = in_u8(r);
		break;
	case BOOL:
		b = in_u8(r);
		r->bad |= b > 1;
		*(bool *)p = b & 1;
		break;
	case U16:
		*(uint16_t *)p = in_u16(r);
		break;
	case U32:
		*(uint32_t *)p = in_u32(r);
		break;
	case U64:
		*(uint64_t *)p = in_u64(r);
		break;
	case ID:
		if ((at = in_bytes(r, MSGID_LEN)) != NULL)
			*(struct msgid *)p = msgid_get(at);
		break;
	case TEXT:
		*s = in_slice(r, in_u16(r));
		break;
	case BLOB:
		*s = in_slice(r, in_u32(r));
		break;
	case RECORD:
		s->len = in_u32(r);
		break;
	}
}

int
op_next_target(const struct op *o, size_t *at, uint32_t *left,
    struct op_target *t)
{
	const uint8_t	*p = o->targets + *at;
	size_t		 room = o->targets_len - *at, n = STORE_TARGET_MIN;

	if (*left == 0 || room < n)
		return 0;
	if (p[8] & TARGET_GROUP)
		n += 8;
	t->handle = get_le64(p);
	t->qos = p[8] & TARGET_QOS;
	t->retain = (p[8] & TARGET_RETAIN) != 0;
	t->nids = get_le16(p + 9);
	t->ids = p + n;
	n += 4 * (size_t)t->nids;
	if (room < n)
		return 0;
	t->group = p[8] & TARGET_GROUP ? get_le64(p + STORE_TARGET_MIN) : 0;
	*at += n;
	--*left;
	return 1;
}

/* All there, nothing left over, each of QoS 1 or 2. */
static bool
targets_are_whole(const struct op *o)
{
	struct op_target	t;
	size_t			at = 0, i;
	uint32_t		left = o->ntargets;

	for (i = at; op_next_target(o, &at, &left, &t); i = at)
		if (t.handle == 0 || t.qos < 1 || t.qos > 2 ||
		    o->targets[i + 8] > (TARGET_QOS | TARGET_RETAIN |
		    TARGET_GROUP) || ((o->targets[i + 8] & TARGET_GROUP) &&
		    t.group == 0))
			return false;
	return left == 0 && at == o->targets_len;
}

static bool
is_possible(const struct op *o)
{
	switch (o->kind) {
	case STORE_OPEN:
		return o->version >= MQTT_V31 && o->version <= MQTT_V5 &&
		    is_client_id(&o->client_id);
	case STORE_SUBSCRIBE:
		return is_subscription(&o->share, &o->filter) &&
		    is_options(o->options) && o->sub_id < 1u << 28;
	case STORE_UNSUBSCRIBE:
		return is_subscription(&o->share, &o->filter);
	case STORE_ACK:
		return o->what == MQTT_PUBACK || o->what == MQTT_PUBREC ||
		    o->what == MQTT_PUBCOMP || o->what == STORE_PUBREC_REFUSED;
	case STORE_INBOUND:
	case STORE_RELEASE:
		return o->pid != 0;
	case STORE_MARK:
		return o->source.len > 0;
	case STORE_SKIP:
		return o->offset <= OFFSET_MAX;
	case STORE_CLOSE:
	case STORE_END:
	case STORE_PUBLISH:
	case STORE_DROP:
	case STORE_MOVE:
	case STORE_WILL:
	case STORE_RETAIN:
	case STORE_ONWARD_DONE:
		return true;
	case STORE_ONWARD:
		return o->handle <= HANDLE_MAX && (o->handle != 0 ?
		    o->pid == 0 || !o->back : o->pid == 0 && !o->back);
	}
	return false;
}

int
op_get(struct op *out, const void *data, size_t len)
{
	struct bytes_in		 r = { data, (const uint8_t *)data + len,
				       false };
	const struct field	*f;
	struct op		 o;
	unsigned		 kind;

	if (len == 0)
		return ERR_PROTO;
	kind = in_u8(&r);
	memset(&o, 0, sizeof(o));
	o.kind = (enum store_op)kind;
	if (kind == STORE_RETAIN) {
		o.record = in_slice(&r, (size_t)(r.end - r.at));
		*out = o;
		return 0;
	}
	if (kind >= NKINDS || fields[kind][0].type == END)
		return ERR_PROTO;
	for (f = fields[kind]; f->type != END; f++)
		get_field(&r, f->type, (uint8_t *)&o + f->offset);
	if (r.bad || o.record.len > (size_t)(r.end - r.at) ||
	    (fields[kind][0].offset == offsetof(struct op, handle) &&
	    (o.handle == 0 || o.handle > HANDLE_MAX)))
		return ERR_PROTO;
	o.targets = r.at;
	o.targets_len = (size_t)(r.end - r.at) - o.record.len;
	o.record.data = o.targets + o.targets_len;
	if (!targets_are_whole(&o) || !is_possible(&o))
		return ERR_PROTO;
	*out = o;
	return 0;
}

#include "proto/record.h"

#include "base/err.h"

/* Flags that travel; the rest is not ours to tell. */
#define FLAGS_KNOWN	(RECORD_QOS | RECORD_RETAIN | RECORD_LIVE | \
			 RECORD_DURABLE | RECORD_SUBS | RECORD_GROUPS | \
			 RECORD_HOPS | RECORD_SOURCE)

static uint8_t *
put(uint8_t *at, struct slice s)
{
	if (s.len > 0)
		memcpy(at, s.data, s.len);
	return at + s.len;
}

static bool
ext_is_whole(const uint8_t *ext, size_t len)
{
	size_t n;

	while (len > 0) {
		if (len < RECORD_EXT_HEADER)
			return false;
		n = RECORD_EXT_HEADER + (size_t)get_le16(ext + 2);
		if (n > len)
			return false;
		ext += n;
		len -= n;
	}
	return true;
}

static long
put_record(uint8_t *out, size_t size, const struct record *r, bool detached)
{
	uint16_t flags = r->flags & FLAGS_KNOWN;
	size_t	 n = record_size(r);
	uint8_t	*at;

	if (r->ext.len > UINT16_MAX || r->topic.len > UINT16_MAX ||
	    r->client_id.len > UINT16_MAX ||
	    r->properties.len > RECORD_FIELD_MAX ||
	    r->payload.len > RECORD_FIELD_MAX ||
	    r->properties.len + r->payload.len > RECORD_FIELD_MAX ||
	    record_qos(r) == 3 || !ext_is_whole(r->ext.data, r->ext.len))
		return ERR_INVAL;
	if (detached)
		n -= r->payload.len;
	if (n > size)
		return ERR_FULL;
	if (detached)
		flags |= RECORD_DETACHED;
	msgid_put(out, r->id);
	put_le32(out + 16, (uint32_t)n);
	put_le32(out + 20, (uint32_t)r->payload.len);
	put_le32(out + 24, r->expiry_s);
	put_le16(out + 28, (uint16_t)r->topic.len);
	put_le16(out + 30, (uint16_t)r->client_id.len);
	put_le32(out + 32, (uint32_t)r->properties.len);
	put_le16(out + 36, flags);
	put_le16(out + 38, (uint16_t)r->ext.len);
	at = put(out + RECORD_HEADER, r->ext);
	at = put(at, r->topic);
	at = put(at, r->client_id);
	at = put(at, r->properties);
	if (!detached)
		put(at, r->payload);
	return (long)n;
}

long
record_put(uint8_t *out, size_t size, const struct record *r)
{
	return put_record(out, size, r, record_is_alone(r) &&
	    r->payload.len > 0);
}

long
record_put_whole(uint8_t *out, size_t size, const struct record *r)
{
	return put_record(out, size, r, false);
}

void
record_iter_init(struct record_iter *it, const void *body, size_t len,
    const void *payload, size_t payload_len, uint32_t count)
{
	it->at = body != NULL ? body : (const uint8_t *)"";
	it->end = it->at + len;
	it->payload = (struct slice){ payload, payload_len };
	it->left = count;
}

int
record_next(struct record_iter *it, struct record *out)
{
	const uint8_t	*h = it->at, *at;
	size_t		 room = (size_t)(it->end - it->at);
	struct record	 r;
	uint64_t	 sum;
	uint32_t	 total;

	if (it->left == 0)
		return room == 0 && it->payload.len == 0 ? 0 : ERR_PROTO;
	if (room < RECORD_HEADER)
		return ERR_PROTO;
	r.id = msgid_get(h);
	total = get_le32(h + 16);
	r.payload.len = get_le32(h + 20);
	r.expiry_s = get_le32(h + 24);
	r.topic.len = get_le16(h + 28);
	r.client_id.len = get_le16(h + 30);
	r.properties.len = get_le32(h + 32);
	r.flags = get_le16(h + 36);
	r.ext.len = get_le16(h + 38);
	if (total > room || (r.flags & RECORD_QOS) == 3)
		return ERR_PROTO;
	/* Six numbers of at most 32 bits: the sum cannot overflow. */
	sum = (uint64_t)RECORD_HEADER + r.ext.len + r.topic.len +
	    r.client_id.len + r.properties.len;
	if (r.flags & RECORD_DETACHED) {
		if (it->left != 1 || total != room || r.payload.len == 0 ||
		    r.payload.len != it->payload.len || sum != total)
			return ERR_PROTO;
	} else if (sum + r.payload.len != total) {
		return ERR_PROTO;
	}
	at = h + RECORD_HEADER;
	r.ext.data = at;
	if (!ext_is_whole(r.ext.data, r.ext.len))
		return ERR_PROTO;
	r.topic.data = at += r.ext.len;
	r.client_id.data = at += r.topic.len;
	r.properties.data = at += r.client_id.len;
	at += r.properties.len;
	if (r.flags & RECORD_DETACHED) {
		r.payload.data = it->payload.data;
		it->payload = (struct slice){ NULL, 0 };
	} else {
		r.payload.data = at;
	}
	it->at = h + total;
	it->left--;
	r.flags &= FLAGS_KNOWN;
	*out = r;
	return 1;
}

int
record_ext_put(uint8_t *out, size_t size, size_t *len, uint16_t type,
    const void *value, size_t n)
{
	uint8_t *at;

	if (n > UINT16_MAX || *len > size || size - *len < RECORD_EXT_HEADER ||
	    size - *len - RECORD_EXT_HEADER < n)
		return ERR_FULL;
	at = out + *len;
	put_le16(at, type);
	put_le16(at + 2, (uint16_t)n);
	if (n > 0)
		memcpy(at + RECORD_EXT_HEADER, value, n);
	*len += RECORD_EXT_HEADER + n;
	return 0;
}

int
record_ext_next(const struct record *r, size_t *at, uint16_t *type,
    struct slice *value)
{
	const uint8_t *p = r->ext.data + *at;

	if (*at >= r->ext.len)
		return 0;
	*type = get_le16(p);
	value->len = get_le16(p + 2);
	value->data = p + RECORD_EXT_HEADER;
	*at += RECORD_EXT_HEADER + value->len;
	return 1;
}

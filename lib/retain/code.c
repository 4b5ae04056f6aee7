#include "retain/code.h"

#include "base/err.h"
#include "retain/entry.h"

static uint8_t *
put(uint8_t *at, struct slice s)
{
	if (s.len > 0)
		memcpy(at, s.data, s.len);
	return at + s.len;
}

long
retain_encode(void *out, size_t size, const struct retain_msg *m)
{
	uint8_t	*at = out;
	size_t	 n;

	if (!retain_msg_fits(m))
		return ERR_INVAL;
	n = retain_encoded_size(m);
	if (n > size)
		return ERR_FULL;
	put_le64(at, m->version_hi);
	put_le64(at + 8, m->version_lo);
	put_le64(at + 16, m->id_hi);
	put_le64(at + 24, m->id_lo);
	put_le64(at + 32, m->deadline_ms);
	put_le16(at + 40, (uint16_t)m->topic.len);
	put_le16(at + 42, (uint16_t)m->client_id.len);
	put_le32(at + 44, (uint32_t)m->props.len);
	put_le32(at + 48, (uint32_t)m->payload.len);
	at[52] = m->qos;
	at[53] = RETAIN_FORMAT;
	put_le16(at + 54, 0);
	at = put(at + RETAIN_HEADER, m->topic);
	at = put(at, m->client_id);
	at = put(at, m->props);
	put(at, m->payload);
	return (long)n;
}

int
retain_decode(const void *data, size_t len, struct retain_msg *out)
{
	const uint8_t	  *h = data, *at;
	struct retain_msg  m = { .pos = 0 };

	if (len < RETAIN_HEADER)
		return ERR_CORRUPT;
	m.version_hi = get_le64(h);
	m.version_lo = get_le64(h + 8);
	m.id_hi = get_le64(h + 16);
	m.id_lo = get_le64(h + 24);
	m.deadline_ms = get_le64(h + 32);
	m.topic.len = get_le16(h + 40);
	m.client_id.len = get_le16(h + 42);
	m.props.len = get_le32(h + 44);
	m.payload.len = get_le32(h + 48);
	m.qos = h[52];
	if (h[53] != RETAIN_FORMAT || get_le16(h + 54) != 0 ||
	    !retain_msg_fits(&m) || retain_encoded_size(&m) != len)
		return ERR_CORRUPT;
	m.topic.data = at = h + RETAIN_HEADER;
	m.client_id.data = at += m.topic.len;
	m.props.data = at += m.client_id.len;
	m.payload.data = at + m.props.len;
	if (topic_name_check(m.topic.data, m.topic.len, 0) < 0)
		return ERR_CORRUPT;
	*out = m;
	return 0;
}

#include "session/message.h"

#include <stdlib.h>
#include <string.h>

struct message *
message_new(const struct message_view *v, struct blob *blob, uint64_t now_ms)
{
	size_t		 own = blob == NULL ? v->payload.len : 0;
	struct message	*m;
	uint8_t		*p;

	m = malloc(sizeof(*m) + v->topic.len + v->props.len +
	    v->client_id.len + own);
	if (m == NULL)
		return NULL;
	m->refs = 1;
	m->qos = v->qos;
	m->retain = v->retain;
	m->topic_len = (uint16_t)v->topic.len;
	m->props_len = (uint32_t)v->props.len;
	m->client_id_len = (uint16_t)v->client_id.len;
	m->payload_len = (uint32_t)v->payload.len;
	m->expiry_s = v->expiry_s;
	m->arrived_ms = now_ms;
	m->id_hi = m->id_lo = 0;
	m->blob = blob == NULL ? NULL : blob_ref(blob);
	p = m->bytes;
	memcpy(p, v->topic.data, v->topic.len);
	p += v->topic.len;
	if (v->props.len > 0)
		memcpy(p, v->props.data, v->props.len);
	p += v->props.len;
	if (v->client_id.len > 0)
		memcpy(p, v->client_id.data, v->client_id.len);
	p += v->client_id.len;
	if (own > 0)
		memcpy(p, v->payload.data, own);
	return m;
}

struct message *
message_ref(struct message *m)
{
	m->refs++;
	return m;
}

void
message_unref(struct message **pm)
{
	struct message *m = *pm;

	*pm = NULL;
	if (m == NULL || --m->refs > 0)
		return;
	blob_unref(&m->blob);
	free(m);
}

void
message_view(const struct message *m, uint64_t now_ms, struct message_view *v)
{
	const uint8_t	*p = m->bytes;
	uint64_t	 waited_s;

	v->topic = (struct slice){ p, m->topic_len };
	p += m->topic_len;
	v->props = (struct slice){ p, m->props_len };
	p += m->props_len;
	v->client_id = (struct slice){ p, m->client_id_len };
	p += m->client_id_len;
	v->payload = (struct slice){ m->blob == NULL ? p : m->blob->data,
	    m->payload_len };
	v->qos = m->qos;
	v->retain = m->retain;
	v->expiry_s = m->expiry_s;
	if (m->expiry_s != MESSAGE_NO_EXPIRY) {
		waited_s = (now_ms - m->arrived_ms) / 1000;
		v->expiry_s = waited_s >= m->expiry_s ? 0 :
		    m->expiry_s - (uint32_t)waited_s;
	}
}

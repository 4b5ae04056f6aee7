/*
 * entry.h: one message as this room keeps it, in one piece. Within lib/retain.
 */
#ifndef RETAIN_ENTRY_H
#define RETAIN_ENTRY_H

#include "retain/retain.h"

#define NOT_DUE		UINT32_MAX

struct retain_entry {
	uint64_t	version_hi, version_lo;
	uint64_t	id_hi, id_lo;
	uint64_t	deadline_ms;
	uint64_t	pos;
	uint32_t	due;		/* its place among the deadlines */
	uint32_t	props_len;
	uint32_t	payload_len : 30;
	uint32_t	qos : 2;
	uint16_t	client_id_len;
	uint16_t	topic_len;	/* beside the topic: one cache line */
	uint8_t		bytes[];	/* topic, client id, props, payload */
};

/* May m be kept at all? */
static inline bool
retain_msg_fits(const struct retain_msg *m)
{
	return m->topic.len > 0 && m->topic.len <= TOPIC_MAX &&
	    m->client_id.len <= UINT16_MAX &&
	    m->props.len <= RETAIN_FIELD_MAX &&
	    m->payload.len <= RETAIN_FIELD_MAX && m->qos <= 2;
}

/* Bytes as retain_msg_bytes() counts them. */
static inline size_t
entry_bytes(const struct retain_entry *e)
{
	return (size_t)e->topic_len + e->client_id_len + e->props_len +
	    e->payload_len;
}

#endif

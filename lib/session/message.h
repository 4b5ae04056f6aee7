/*
 * message.h: one application message while it waits in queues: built once,
 * shared by reference count by every session that could not be sent it at once.
 * Spec: MQTT 5.0 section 3.3. One thread only; only the payload may be shared
 * with other threads (blob.h).
 */
#ifndef SESSION_MESSAGE_H
#define SESSION_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/blob.h"
#include "base/util.h"

#define MESSAGE_NO_EXPIRY	UINT32_MAX
#define MESSAGE_EXPIRY_MAX	(UINT32_MAX - 1)	/* 136 years will do */

/* A message on its way through, borrowed from a buffer. */
struct message_view {
	struct slice	 topic;
	struct slice	 props;		/* as forwarded; see mqtt/publish */
	struct slice	 payload;
	struct slice	 client_id;	/* the publisher's, if it is kept */
	uint32_t	 expiry_s;	/* left at arrival; MESSAGE_NO_EXPIRY */
	uint8_t		 qos;
	bool		 retain;
};

struct message {
	uint32_t	 refs;
	uint8_t		 qos;
	bool		 retain;
	uint16_t	 topic_len;
	uint32_t	 props_len;
	uint32_t	 payload_len;
	uint32_t	 expiry_s;
	uint16_t	 client_id_len;
	uint64_t	 arrived_ms;
	uint64_t	 id_hi, id_lo;	/* the caller's: its message id */
	struct blob	*blob;		/* the payload if it is shared */
	uint8_t		 bytes[];	/* topic, props, client id, payload if
					 * it is not */
};

/*
 * Copy v; the payload is shared with blob instead (a new reference) if blob is
 * not NULL. One reference for the caller. NULL if out of memory.
 */
struct message *message_new(const struct message_view *v, struct blob *blob,
    uint64_t now_ms);
struct message *message_ref(struct message *m);
void message_unref(struct message **m);

/* Borrow m as a view, with the expiry that is left at now_ms (0: expired). */
void message_view(const struct message *m, uint64_t now_ms,
    struct message_view *v);

/* Bytes m holds, for bounds; those that a message made of v would. */
static inline size_t
message_size(const struct message *m)
{
	return sizeof(*m) + m->topic_len + m->props_len + m->client_id_len +
	    m->payload_len;
}

static inline size_t
message_view_size(const struct message_view *v)
{
	return sizeof(struct message) + v->topic.len + v->props.len +
	    v->client_id.len + v->payload.len;
}

#endif

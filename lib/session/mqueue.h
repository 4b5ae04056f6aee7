/*
 * mqueue.h: messages one client cannot be sent yet: its window is full or its
 * socket does not drain. First in, first out, bounded in messages and bytes.
 * When it is full the oldest QoS 0 message goes first, then the oldest of all;
 * what went is the caller's to count. Calls no clock.
 */
#ifndef SESSION_MQUEUE_H
#define SESSION_MQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "session/message.h"
#include "topic/group.h"

/* How this client is to get it. */
struct mqueue_how {
	const uint32_t	*ids;		/* subscription identifiers */
	const struct group_id *group;	/* shared subscription; or NULL */
	uint16_t	 nids;
	uint8_t		 qos;
	bool		 retain;
};

struct mqueue_entry;

/* All zero is a valid empty queue. */
struct mqueue {
	struct mqueue_entry	*head, *tail;	/* all, oldest first */
	struct mqueue_entry	*head0, *tail0;	/* those of QoS 0 */
	uint32_t		 n;
	size_t			 bytes;
};

/*
 * Append m (takes its own reference) and a copy of *how. Afterwards the queue
 * holds at most max_n messages and max_bytes bytes; returns how many were
 * dropped for that, m itself perhaps among them, or ERR_NOMEM (m was not
 * queued). Those of shared subscriptions are not dropped but moved to *left, a
 * queue, if that is not NULL.
 */
int mqueue_push(struct mqueue *q, struct message *m,
    const struct mqueue_how *how, uint32_t max_n, size_t max_bytes,
    struct mqueue *left);

/* Would it hold a message of so many bytes (message_size) without dropping any?
 * q may be NULL: an empty one. */
bool mqueue_fits(const struct mqueue *q, size_t bytes,
    const struct mqueue_how *how, uint32_t max_n, size_t max_bytes);

/* The oldest message, borrowed, or NULL. */
struct message *mqueue_peek(const struct mqueue *q,
    const struct mqueue_how **how);

/* Drop the oldest. The queue must not be empty. */
void mqueue_pop(struct mqueue *q);

void mqueue_clear(struct mqueue *q);

/* Walk the messages, oldest first; each returns false to stop. */
void mqueue_each(const struct mqueue *q, bool (*each)(void *ctx,
    struct message *m, const struct mqueue_how *how), void *ctx);

#endif

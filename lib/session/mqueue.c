#include "session/mqueue.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"

struct mqueue_entry {
	struct mqueue_entry	*next, *prev;
	struct mqueue_entry	*next0;		/* the next of QoS 0 */
	struct message		*m;
	struct mqueue_how	 how;		/* what it points to is ours */
	struct group_id	 group[];	/* 0 or 1; then the ids */
};

static size_t
how_size(const struct mqueue_how *how)
{
	return (how->group != NULL ? sizeof(*how->group) : 0) +
	    how->nids * sizeof(*how->ids);
}

static size_t
entry_size(const struct mqueue_entry *e)
{
	return message_size(e->m) + how_size(&e->how);
}

static void
how_copy(struct mqueue_entry *e, const struct mqueue_how *how)
{
	size_t	  ngroups = how->group != NULL;
	uint32_t *ids = (uint32_t *)(void *)(e->group + ngroups);

	e->how = *how;
	if (ngroups > 0) {
		e->group[0] = *how->group;
		e->how.group = e->group;
	}
	e->how.ids = ids;
	if (how->nids > 0)
		memcpy(ids, how->ids, how->nids * sizeof(*ids));
}

static void
append(struct mqueue *q, struct mqueue_entry *e)
{
	e->next = e->next0 = NULL;
	e->prev = q->tail;
	if (q->tail != NULL)
		q->tail->next = e;
	else
		q->head = e;
	q->tail = e;
	if (e->how.qos == 0) {
		if (q->tail0 != NULL)
			q->tail0->next0 = e;
		else
			q->head0 = e;
		q->tail0 = e;
	}
	q->n++;
	q->bytes += entry_size(e);
}

static void
unlink_entry(struct mqueue *q, struct mqueue_entry *e)
{
	if (e->prev != NULL)
		e->prev->next = e->next;
	else
		q->head = e->next;
	if (e->next != NULL)
		e->next->prev = e->prev;
	else
		q->tail = e->prev;
	/* Only the oldest of QoS 0 ever leaves: it heads that list. */
	if (e->how.qos == 0) {
		q->head0 = e->next0;
		if (q->head0 == NULL)
			q->tail0 = NULL;
	}
	q->n--;
	q->bytes -= entry_size(e);
}

static void
discard(struct mqueue *q, struct mqueue_entry *e)
{
	unlink_entry(q, e);
	message_unref(&e->m);
	free(e);
}

int
mqueue_push(struct mqueue *q, struct message *m, const struct mqueue_how *how,
    uint32_t max_n, size_t max_bytes, struct mqueue *left)
{
	struct mqueue_entry	*e;
	int			 dropped = 0;

	if ((e = malloc(sizeof(*e) + how_size(how))) == NULL)
		return ERR_NOMEM;
	how_copy(e, how);
	e->m = message_ref(m);
	append(q, e);
	while (q->n > max_n || (q->bytes > max_bytes && q->n > 0)) {
		e = q->head0 != NULL ? q->head0 : q->head;
		if (e->how.group != NULL && left != NULL) {
			unlink_entry(q, e);
			append(left, e);
		} else {
			discard(q, e);
			dropped++;
		}
	}
	return dropped;
}

bool
mqueue_fits(const struct mqueue *q, size_t bytes, const struct mqueue_how *how,
    uint32_t max_n, size_t max_bytes)
{
	uint32_t n = q == NULL ? 0 : q->n;
	size_t	 held = q == NULL ? 0 : q->bytes;

	return n < max_n && held + bytes + how_size(how) <= max_bytes;
}

struct message *
mqueue_peek(const struct mqueue *q, const struct mqueue_how **how)
{
	if (q->head == NULL)
		return NULL;
	*how = &q->head->how;
	return q->head->m;
}

void
mqueue_pop(struct mqueue *q)
{
	discard(q, q->head);
}

void
mqueue_clear(struct mqueue *q)
{
	while (q->head != NULL)
		discard(q, q->head);
}

void
mqueue_each(const struct mqueue *q, bool (*each)(void *ctx, struct message *m,
    const struct mqueue_how *how), void *ctx)
{
	const struct mqueue_entry *e;

	for (e = q->head; e != NULL && each(ctx, e->m, &e->how); e = e->next)
		;
}

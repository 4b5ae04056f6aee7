/*
 * answers.c: PUBACK and PUBREC to publishers. They leave in the order in which
 * a client's PUBLISHes came [MQTT-4.6.0-2, -3], each when every process that
 * was sent the message has taken responsibility: a message that stayed here is
 * answered at once, one that went out on streams when each is acknowledged up
 * to the frame that carried it.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"

struct waiter {
	struct conn	*c;		/* held */
	uint64_t	 seq;
};

static void
send_answer(struct listener *l, struct conn *c, const struct answer *a)
{
	uint8_t	*p;
	size_t	 n;

	if (a->type == MQTT_PUBACK || a->reason >= 0x80) {
		if (c->inflight_in > 0)
			c->inflight_in--;
		if (a->type == MQTT_PUBREC)	/* 4.3.3: the id is free */
			(void)inbound_del(&c->inbound, a->id);
	}
	if (a->reason == 0 || c->version != MQTT_V5) {
		if ((p = out_reserve(l, c, 4)) != NULL)
			mqtt_ack_encode_short(a->type, a->id, p);
	} else {
		n = mqtt_ack_size(c->version, a->reason, NULL);
		if ((p = out_reserve(l, c, n)) != NULL)
			mqtt_ack_encode(c->version, a->type, a->id, a->reason,
			    NULL, p);
	}
	metric_inc(&m_packets_out);
}

bool
answer_is_taken(const struct wait *w)
{
	if (w->peer->epoch != w->epoch || w->peer->bus == NULL)
		return true;
	return (w->peer->is_store ? bus_peer_stored(w->peer->bus) :
	    bus_peer_got(w->peer->bus)) >= w->seq;
}

static bool
is_due(const struct answer *a)
{
	const struct wait	*w = a->nwaits == 1 ? &a->one : a->many;
	uint16_t		 i;

	for (i = 0; i < a->nwaits; i++)
		if (!answer_is_taken(&w[i]))
			return false;
	return true;
}

static struct answer *
ring_push(struct answers *q)
{
	struct answer	*ring;
	uint32_t	 cap, i;

	if (q->n == q->cap) {
		cap = q->cap == 0 ? 16 : q->cap * 2;
		if ((ring = malloc(cap * sizeof(*ring))) == NULL)
			return NULL;
		for (i = 0; i < q->n; i++)
			ring[i] = q->ring[(q->head + i) & (q->cap - 1)];
		free(q->ring);
		q->ring = ring;
		q->cap = cap;
		q->head = 0;
	}
	return &q->ring[(q->head + q->n++) & (q->cap - 1)];
}

static bool
waiter_add(struct peer *p, struct conn *c, uint64_t seq)
{
	struct waiter	*ring, *last;
	uint32_t	 cap, i;

	if (p->nwaiters > 0) {
		last = &p->waiters[(p->head_waiters + p->nwaiters - 1) &
		    (p->cap_waiters - 1)];
		if (last->c == c && last->seq == seq)
			return true;
	}
	if (p->nwaiters == p->cap_waiters) {
		cap = p->cap_waiters == 0 ? 64 : p->cap_waiters * 2;
		if ((ring = malloc(cap * sizeof(*ring))) == NULL)
			return false;
		for (i = 0; i < p->nwaiters; i++)
			ring[i] = p->waiters[(p->head_waiters + i) &
			    (p->cap_waiters - 1)];
		free(p->waiters);
		p->waiters = ring;
		p->cap_waiters = cap;
		p->head_waiters = 0;
	}
	last = &p->waiters[(p->head_waiters + p->nwaiters++) &
	    (p->cap_waiters - 1)];
	last->c = c;
	last->seq = seq;
	client_hold(c);
	return true;
}

/* Send what at the head of c's queue is due. */
static void
settle(struct listener *l, struct conn *c)
{
	struct answers	*q = c->answers;
	struct answer	*a;

	while (q != NULL && q->n > 0 && c->state == CONN_OPEN) {
		a = &q->ring[q->head];
		if (!is_due(a))
			return;
		send_answer(l, c, a);
		if (a->nwaits > 1)
			free(a->many);
		q->nstraight -= a->straight;
		q->head = (q->head + 1) & (q->cap - 1);
		q->n--;
	}
	if (c->parked && (c->held || (q != NULL && q->n < ANSWERS_MAX / 2)))
		l->unpark = true;
}

void
answer_add(struct listener *l, struct conn *c, const struct answer *a)
{
	const struct wait	*w = a->nwaits == 1 ? &a->one : a->many;
	struct answer		*slot;
	uint16_t		 i;

	/* Nobody acknowledges twice: what was taken meanwhile is not waited
	 * for. */
	if ((c->answers == NULL || c->answers->n == 0) && is_due(a)) {
		send_answer(l, c, a);
		if (a->nwaits > 1)
			free(a->many);
		return;
	}
	if (c->answers == NULL &&
	    (c->answers = calloc(1, sizeof(*c->answers))) == NULL)
		goto nomem;
	if ((slot = ring_push(c->answers)) == NULL)
		goto nomem;
	*slot = *a;
	c->answers->nstraight += a->straight;
	for (i = 0; i < a->nwaits; i++)
		if (!answer_is_taken(&w[i]) && !waiter_add(w[i].peer, c, w[i].seq))
			client_doom(l, c);	/* it would wait for ever */
	/* 3.x knows no Receive Maximum: it waits unread instead. */
	if (c->answers->n >= ANSWERS_MAX)
		client_park(l, c);
	return;

nomem:
	if (a->nwaits > 1)
		free(a->many);
	metric_inc(&m_dropped_memory);
	client_doom(l, c);
}

bool
answers_straight(const struct conn *c)
{
	const struct answers	*q = c->answers;
	const struct answer	*a;
	uint32_t		 i;

	if (q == NULL || q->nstraight == 0)
		return false;
	for (i = 0; i < q->n; i++) {
		a = &q->ring[(q->head + i) & (q->cap - 1)];
		if (a->straight && !is_due(a))
			return true;
	}
	return false;
}

bool
answer_watch(struct conn *c, const struct wait *w)
{
	return waiter_add(w->peer, c, w->seq);
}

static void
waiters_until(struct listener *l, struct peer *p, uint64_t seq)
{
	struct waiter w;

	while (p->nwaiters > 0 && p->waiters[p->head_waiters].seq <= seq) {
		w = p->waiters[p->head_waiters];
		p->head_waiters = (p->head_waiters + 1) & (p->cap_waiters - 1);
		p->nwaiters--;
		settle(l, w.c);
		client_release(l, w.c);
	}
}

void
answer_got(struct listener *l, struct peer *p, uint64_t seq)
{
	waiters_until(l, p, seq);
}

/* The process died: what it had not acknowledged counts as taken, for its
 * sessions died with it. The caller has raised p->epoch. */
void
answer_lost(struct listener *l, struct peer *p)
{
	waiters_until(l, p, UINT64_MAX);
	free(p->waiters);
	p->waiters = NULL;
	p->cap_waiters = p->head_waiters = 0;
}

void
answers_free(struct answers **pq)
{
	struct answers	*q = *pq;
	struct answer	*a;

	*pq = NULL;
	if (q == NULL)
		return;
	for (; q->n > 0; q->n--, q->head = (q->head + 1) & (q->cap - 1)) {
		a = &q->ring[q->head];
		if (a->nwaits > 1)
			free(a->many);
	}
	free(q->ring);
	free(q);
}

/* --- From one process to another ---------------------------------------- */

int
answer_restore(struct conn *c, const struct answer *a)
{
	struct answer *slot;

	if (c->answers == NULL &&
	    (c->answers = calloc(1, sizeof(*c->answers))) == NULL)
		return ERR_NOMEM;
	if ((slot = ring_push(c->answers)) == NULL)
		return ERR_NOMEM;
	*slot = *a;
	c->answers->nstraight += a->straight;
	return 0;
}

int
answer_waiter_restore(struct peer *p, struct conn *c, uint64_t seq)
{
	return waiter_add(p, c, seq) ? 0 : ERR_NOMEM;
}

int
answer_waiters_each(const struct peer *p, int (*each)(void *ctx,
    const struct conn *c, uint64_t seq), void *ctx)
{
	const struct waiter	*w;
	uint32_t		 i;
	int			 rc;

	for (i = 0; i < p->nwaiters; i++) {
		w = &p->waiters[(p->head_waiters + i) & (p->cap_waiters - 1)];
		if ((rc = each(ctx, w->c, w->seq)) != 0)
			return rc;
	}
	return 0;
}

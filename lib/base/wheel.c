#include "base/wheel.h"

#include <stddef.h>
#include "base/util.h"

void
wheel_init(struct wheel *w, uint64_t now_ms)
{
	size_t i;

	for (i = 0; i < WHEEL_SLOTS; i++)
		w->slots[i].next = w->slots[i].prev = &w->slots[i];
	w->tick = now_ms / WHEEL_TICK_MS;
	w->n = 0;
}

void
wheel_clear(struct wheel *w, struct wheel_node *n)
{
	if (n->next == NULL)
		return;
	n->prev->next = n->next;
	n->next->prev = n->prev;
	n->next = n->prev = NULL;
	w->n--;
}

void
wheel_set(struct wheel *w, struct wheel_node *n, uint64_t deadline_ms)
{
	struct wheel_node *head;
	uint64_t	   tick;

	wheel_clear(w, n);
	n->deadline_ms = deadline_ms;
	tick = (deadline_ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS;
	if (tick < w->tick)
		tick = w->tick;
	head = &w->slots[tick % WHEEL_SLOTS];
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
	w->n++;
}

void
wheel_advance(struct wheel *w, uint64_t now_ms,
    void (*due)(void *ctx, struct wheel_node *n), void *ctx)
{
	uint64_t	   now = now_ms / WHEEL_TICK_MS;
	struct wheel_node *head, *n, later;

	if (now >= w->tick + WHEEL_SLOTS)	/* one round covers them all */
		w->tick = now - WHEEL_SLOTS + 1;
	for (; w->tick <= now; w->tick++) {
		head = &w->slots[w->tick % WHEEL_SLOTS];

		/* What due() sets anew may land in this slot: set it apart. */
		if (head->next == head)
			continue;
		later = *head;
		later.next->prev = later.prev->next = &later;
		head->next = head->prev = head;
		while ((n = later.next) != &later) {
			wheel_clear(w, n);
			if (n->deadline_ms > now_ms)
				wheel_set(w, n, n->deadline_ms);
			else
				due(ctx, n);
		}
	}
}

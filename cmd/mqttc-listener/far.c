/*
 * far.c: other nodes (route/far.h). The stream to one is opened when a message
 * is for it first. It stands as two peers side by side: the live sessions over
 * there, which have what was `got`, and the durable ones, which have what was
 * `stored`.
 */
#include "listener.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "log/log.h"

static struct peer *
entry(struct listener *l, uint32_t far, uint32_t slot)
{
	return &l->peers[FAR_FROM + (far * FAR_LINKS_MAX + slot) * 2];
}

static void
opened(struct listener *l, struct peer *p, uint32_t far, uint32_t slot)
{
	p[0].bus = p[1].bus = l->fars.fars[far].bus[slot];
	p[1].is_store = true;
	p->moved_ms = l->now_ms;
	l->nremote++;
}

int
far_resume(struct listener *l, uint32_t instance, const char *node)
{
	uint32_t	 far = (instance - FAR_FROM) / 2 / FAR_LINKS_MAX;
	uint32_t	 slot = (instance - FAR_FROM) / 2 % FAR_LINKS_MAX;
	struct peer	*p = &l->peers[instance];
	int		 rc;

	if ((rc = route_fars_resume(&l->fars, far, slot, node, p)) == 0)
		opened(l, p, far, slot);
	return rc;
}

uint32_t
far_instance(struct listener *l, unsigned node, bool durable,
    const struct slice *client)
{
	uint32_t	 far = route_fars_number(&l->fars, node);
	uint32_t	 slot = route_fars_slot(&l->fars, client);
	struct peer	*p;

	if (far == FARS_MAX) {
		metric_inc(&m_dropped_memory);
		return 0;
	}
	p = entry(l, far, slot);
	if (p->bus == NULL) {
		if (route_fars_open(&l->fars, far, slot, p) < 0)
			return 0;
		opened(l, p, far, slot);
		p[0].epoch++;
		p[1].epoch++;
	}
	return (uint32_t)(p - l->peers) + durable;
}

static bool
is_named(const struct routes_found *r, uint16_t far)
{
	size_t i;

	for (i = 0; i < r->nfar; i++)
		if (r->far[i] == far)
			return true;
	return false;
}

void
far_dests(struct listener *l, const struct slice *client,
    struct routes_found *r)
{
	uint32_t at;
	size_t	 i;
	uint16_t far;

	for (i = 0; i < r->nfar; i++) {
		far = r->far[i];
		/* Side by side: they go in one record. */
		if ((far & 1) != 0 && is_named(r, far & ~1))
			continue;
		if ((at = far_instance(l, far >> 1, far & 1, client)) == 0)
			continue;
		r->dests[r->ndests++] = at;
		if ((far & 1) == 0 && is_named(r, far | 1))
			r->dests[r->ndests++] = at + 1;
	}
}

struct peer *
peer_live(struct listener *l, uint32_t *i)
{
	uint32_t	 end = FAR_FROM + l->fars.n * FAR_LINKS_MAX * 2;
	struct peer	*p;

	for (; *i < end; (*i)++) {
		if (*i == PEERS_MAX)
			*i = FAR_FROM;
		p = &l->peers[*i];
		if (*i < end && p->bus != NULL && !p->is_store) {
			(*i)++;
			return p;
		}
	}
	return NULL;
}

/* No stream leads there any more, or nobody is waited for. */
static void
lose(struct listener *l, struct peer *p)
{
	p->epoch++;
	answer_lost(l, p);
	p->strained = false;
	l->unpark = true;
}

/*
 * A node that the router has given up: nobody waits for its live sessions any
 * longer, and what they have not got they do not get when it is back. One that
 * is no member has no sessions at all.
 */
static void
look_after(struct listener *l, uint32_t far)
{
	unsigned	 node = l->fars.fars[far].node;
	enum route_node	 state = route_node_state(&l->fib, node);
	struct peer	*p;
	uint32_t	 slot;

	for (slot = 0; slot < FAR_LINKS_MAX; slot++) {
		p = entry(l, far, slot);
		if (p->bus == NULL || state == ROUTE_NODE_UP)
			continue;
		if (state == ROUTE_NODE_NONE) {
			p[0].bus = p[1].bus = NULL;
			l->nremote--;
			lose(l, p + 1);
			lose(l, p);
		} else if (!bus_peer_ready(p->bus) &&
		    bus_peer_got(p->bus) < bus_peer_sent(p->bus)) {
			bus_peer_forget_live(p->bus);
			lose(l, p);
		}
	}
	if (state == ROUTE_NODE_NONE)
		route_fars_drop(&l->fars, far);
}

void
far_tick(struct listener *l)
{
	uint32_t far;

	if (l->fib.now == NULL || l->fars.generation != l->fib.now->generation)
		return;
	for (far = 0; far < l->fars.n; far++)
		if (l->fars.fars[far].node != 0)
			look_after(l, far);
}

void
far_close(struct listener *l)
{
	uint32_t i;

	for (i = FAR_FROM; i < FAR_FROM + l->fars.n * FAR_LINKS_MAX * 2; i++)
		if (l->peers[i].bus != NULL) {
			l->peers[i].bus = NULL;
			answer_lost(l, &l->peers[i]);
		}
	route_fars_fini(&l->fars);
}

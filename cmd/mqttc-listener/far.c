/*
 * far.c: other nodes. One stream to each by way of each cluster-link of ours,
 * opened when a message is for that node first; a client's messages take the
 * same one always. It stands as two peers side by side: the live sessions over
 * there, which have what was `got`, and the durable ones, which have what was
 * `stored`.
 *
 * Numbers: the index numbers nodes anew in each generation; here a node keeps
 * its number as long as we run.
 */
#include "listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"

static struct peer *
entry(struct listener *l, uint32_t far, uint32_t slot)
{
	return &l->peers[FAR_FROM + (far * LINKS_MAX + slot) * 2];
}

static int
endpoint_of(const struct listener *l, uint32_t slot, const char *node,
    char out[BUS_ENDPOINT_MAX])
{
	char none[PROC_NAME_MAX + 16];

	snprintf(none, sizeof(none), "ipc://cluster_link.%u.none", slot);
	return bus_relay_endpoint(out, l->links[slot].endpoint[0] != '\0' ?
	    l->links[slot].endpoint : none, node);
}

static int
far_open(struct listener *l, uint32_t far, uint32_t slot)
{
	struct peer	*p = entry(l, far, slot);
	char		 at[BUS_ENDPOINT_MAX], name[PROC_NAME_MAX];
	int		 rc;

	snprintf(name, sizeof(name), "cluster_link.%u", slot);
	if ((rc = endpoint_of(l, slot, l->fars[far].name, at)) < 0 ||
	    (rc = bus_peer_open_far(&p->bus, l->bus, name, l->fars[far].name,
	    at, p)) < 0) {
		log_error("peer.open", "peer=%s@%s error=%s", name,
		    l->fars[far].name, log_quote(err_str(rc)));
		p->bus = NULL;
		return rc;
	}
	p[1].bus = p->bus;
	p[1].is_store = true;
	p->moved_ms = l->now_ms;
	l->nremote++;
	return 0;
}

int
far_resume(struct listener *l, uint32_t instance, const char *node)
{
	uint32_t far = (instance - FAR_FROM) / 2 / LINKS_MAX;
	uint32_t slot = (instance - FAR_FROM) / 2 % LINKS_MAX;

	if (far >= FARS_MAX)
		return ERR_PROTO;
	while (l->nfars <= far)
		l->fars[l->nfars++].name = NULL;
	if (l->fars[far].name == NULL &&
	    (l->fars[far].name = strdup(node)) == NULL)
		return ERR_NOMEM;
	return far_open(l, far, slot);
}

/* Our number of a node, FARS_MAX if there are too many. */
static uint32_t
far_by_name(struct listener *l, const char *name)
{
	uint32_t i, spare = l->nfars;

	for (i = 0; i < l->nfars; i++) {
		if (l->fars[i].name == NULL)
			spare = i;
		else if (strcmp(l->fars[i].name, name) == 0)
			return i;
	}
	if (spare == FARS_MAX || (l->fars[spare].name = strdup(name)) == NULL)
		return FARS_MAX;
	if (spare == l->nfars)
		l->nfars++;
	return spare;
}

/* Our number of node `node` of the generation that is being read. */
static uint32_t
far_of(struct listener *l, unsigned node)
{
	const char	*name;
	uint32_t	 far;

	if (l->far_generation != l->fib.now->generation) {
		memset(l->far_of, 0, sizeof(l->far_of));
		for (far = 0; far < l->nfars; far++)
			l->fars[far].node = 0;
		l->far_generation = l->fib.now->generation;
	}
	if (l->far_of[node] != 0)
		return l->far_of[node] - 1u;
	name = fib_node_name(l->fib.now->reader, node);
	if (name[0] == '\0' || (far = far_by_name(l, name)) == FARS_MAX) {
		metric_inc(&m_dropped_memory);
		return FARS_MAX;
	}
	l->fars[far].node = (uint16_t)node;
	l->far_of[node] = (uint16_t)(far + 1);
	return far;
}

uint32_t
far_instance(struct listener *l, unsigned node, bool durable,
    const struct slice *client)
{
	uint32_t	 far = far_of(l, node), slot;
	struct peer	*p;

	if (far == FARS_MAX)
		return 0;
	slot = l->nlinks == 1 ? 0 : (uint32_t)(XXH3_64bits(client->data,
	    client->len) % l->nlinks);
	p = entry(l, far, slot);
	if (p->bus == NULL) {
		if (far_open(l, far, slot) < 0)
			return 0;
		p[0].epoch++;
		p[1].epoch++;
	}
	return FAR_FROM + (far * LINKS_MAX + slot) * 2 + durable;
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
	struct peer	*p;

	for (; *i < PEERS_END; (*i)++) {
		if (*i == PEERS_MAX)
			*i = FAR_FROM;
		if (*i >= FAR_FROM + l->nfars * LINKS_MAX * 2)
			break;
		p = &l->peers[*i];
		if (p->bus != NULL && !p->is_store) {
			(*i)++;
			return p;
		}
	}
	*i = PEERS_END;
	return NULL;
}

void
far_link(struct listener *l, const struct proc_peer *pp)
{
	char		 at[BUS_ENDPOINT_MAX];
	struct peer	*p;
	uint32_t	 far;
	int		 rc;

	if (pp->instance >= l->nlinks || pp->state == PROC_DOWN ||
	    pp->incarnation == 0 ||
	    l->links[pp->instance].incarnation == pp->incarnation)
		return;
	l->links[pp->instance].incarnation = pp->incarnation;
	snprintf(l->links[pp->instance].endpoint, BUS_ENDPOINT_MAX, "%s",
	    pp->endpoint);
	for (far = 0; far < l->nfars; far++) {
		p = entry(l, far, pp->instance);
		if (p->bus == NULL)
			continue;
		if ((rc = endpoint_of(l, pp->instance, l->fars[far].name,
		    at)) < 0 || (rc = bus_peer_reroute(p->bus, at)) < 0)
			log_error("peer.open", "peer=%s@%s error=%s", pp->name,
			    l->fars[far].name, log_quote(err_str(rc)));
	}
}

/*
 * A node that the router has given up: nobody waits for its live sessions any
 * longer, and what they have not got they do not get when it is back.
 */
static void
give_up(struct listener *l, struct peer *p)
{
	bus_peer_forget_live(p->bus);
	p->epoch++;
	answer_lost(l, p);
	p->strained = false;
	l->unpark = true;
}

void
far_tick(struct listener *l)
{
	struct peer	*p;
	uint32_t	 far, slot;

	if (l->fib.now == NULL || l->far_generation != l->fib.now->generation)
		return;
	for (far = 0; far < l->nfars; far++) {
		for (slot = 0; slot < l->nlinks; slot++) {
			p = entry(l, far, slot);
			if (p->bus == NULL || bus_peer_ready(p->bus) ||
			    bus_peer_got(p->bus) >= bus_peer_sent(p->bus))
				continue;
			if (l->fars[far].node != 0 &&
			    !route_node_is_up(&l->fib, l->fars[far].node))
				give_up(l, p);
		}
	}
}

void
far_close(struct listener *l)
{
	struct peer	*p;
	uint32_t	 far, slot;

	for (far = 0; far < l->nfars; far++) {
		for (slot = 0; slot < LINKS_MAX; slot++) {
			p = entry(l, far, slot);
			if (p->bus == NULL)
				continue;
			bus_peer_close(&p->bus);
			p[1].bus = NULL;
			answer_lost(l, p);
			answer_lost(l, p + 1);
		}
		free(l->fars[far].name);
	}
	l->nfars = 0;
}

#include "route/far.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"

void
route_fars_init(struct route_fars *t, struct bus *bus,
    const struct route_fib *fib, uint32_t nlinks)
{
	t->bus = bus;
	t->fib = fib;
	t->nlinks = MIN(MAX(nlinks, 1u), (uint32_t)FAR_LINKS_MAX);
}

void
route_fars_fini(struct route_fars *t)
{
	uint32_t far;

	for (far = 0; far < t->n; far++)
		route_fars_drop(t, far);
	t->n = 0;
}

static int
endpoint_of(const struct route_fars *t, uint32_t far, uint32_t slot,
    char out[BUS_ENDPOINT_MAX])
{
	char none[PROC_NAME_MAX + 16];

	/* Nobody has seen it yet: what is for it waits. */
	snprintf(none, sizeof(none), "ipc://cluster_link.%u.none", slot);
	return bus_relay_endpoint(out, t->links[slot].endpoint[0] != '\0' ?
	    t->links[slot].endpoint : none, t->fars[far].name);
}

int
route_fars_open(struct route_fars *t, uint32_t far, uint32_t slot, void *user)
{
	struct bus_peer	**bus = &t->fars[far].bus[slot];
	char		  at[BUS_ENDPOINT_MAX], name[PROC_NAME_MAX];
	int		  rc;

	if (*bus != NULL)
		return 0;
	snprintf(name, sizeof(name), "cluster_link.%u", slot);
	if ((rc = endpoint_of(t, far, slot, at)) < 0 ||
	    (rc = bus_peer_open_far(bus, t->bus, name, t->fars[far].name, at,
	    user)) < 0) {
		log_error("peer.open", "peer=%s@%s error=%s", name,
		    t->fars[far].name, log_quote(err_str(rc)));
		*bus = NULL;
	}
	return rc;
}

void
route_fars_link(struct route_fars *t, const struct proc_peer *pp)
{
	struct bus_peer	*bus;
	char		 at[BUS_ENDPOINT_MAX];
	uint32_t	 far;
	int		 rc;

	if (pp->instance >= t->nlinks || pp->state == PROC_DOWN ||
	    pp->incarnation == 0 ||
	    t->links[pp->instance].incarnation == pp->incarnation)
		return;
	t->links[pp->instance].incarnation = pp->incarnation;
	snprintf(t->links[pp->instance].endpoint, BUS_ENDPOINT_MAX, "%s",
	    pp->endpoint);
	for (far = 0; far < t->n; far++) {
		if ((bus = t->fars[far].bus[pp->instance]) == NULL)
			continue;
		if ((rc = endpoint_of(t, far, pp->instance, at)) < 0 ||
		    (rc = bus_peer_reroute(bus, at)) < 0)
			log_error("peer.open", "peer=%s@%s error=%s", pp->name,
			    t->fars[far].name, log_quote(err_str(rc)));
	}
}

static uint32_t
by_name(struct route_fars *t, const char *name)
{
	uint32_t i, spare = t->n;

	for (i = 0; i < t->n; i++) {
		if (t->fars[i].name == NULL)
			spare = i;
		else if (strcmp(t->fars[i].name, name) == 0)
			return i;
	}
	if (spare == FARS_MAX || (t->fars[spare].name = strdup(name)) == NULL)
		return FARS_MAX;
	if (spare == t->n)
		t->n++;
	return spare;
}

uint32_t
route_fars_number(struct route_fars *t, unsigned node)
{
	const char	*name;
	uint32_t	 far;

	if (t->generation != t->fib->now->generation) {
		memset(t->far_of, 0, sizeof(t->far_of));
		for (far = 0; far < t->n; far++)
			t->fars[far].node = 0;
		t->generation = t->fib->now->generation;
	}
	if (t->far_of[node] != 0)
		return t->far_of[node] - 1u;
	name = fib_node_name(t->fib->now->reader, node);
	if (name[0] == '\0' || (far = by_name(t, name)) == FARS_MAX)
		return FARS_MAX;
	t->fars[far].node = (uint16_t)node;
	t->far_of[node] = (uint16_t)(far + 1);
	return far;
}

uint32_t
route_fars_slot(const struct route_fars *t, const struct slice *client)
{
	return t->nlinks == 1 ? 0 : (uint32_t)(XXH3_64bits(client->data,
	    client->len) % t->nlinks);
}

int
route_fars_resume(struct route_fars *t, uint32_t far, uint32_t slot,
    const char *name, void *user)
{
	if (far >= FARS_MAX || slot >= FAR_LINKS_MAX)
		return ERR_PROTO;
	t->n = MAX(t->n, far + 1);
	if (t->fars[far].name == NULL &&
	    (t->fars[far].name = strdup(name)) == NULL)
		return ERR_NOMEM;
	return route_fars_open(t, far, slot, user);
}

void
route_fars_drop(struct route_fars *t, uint32_t far)
{
	uint32_t slot;

	for (slot = 0; slot < FAR_LINKS_MAX; slot++)
		if (t->fars[far].bus[slot] != NULL)
			bus_peer_close(&t->fars[far].bus[slot]);
	if (t->fars[far].node != 0)
		t->far_of[t->fars[far].node] = 0;
	t->fars[far].node = 0;
	free(t->fars[far].name);
	t->fars[far].name = NULL;
}

/*
 * far.c: other nodes (route/far.h), to which this shard sends what it is the
 * source of. Each stands as two peers side by side: its live sessions, which
 * have what was `got`, and its durable ones, which have what was `stored`. What
 * a node out of reach has not stored lies in the log.
 */
#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "log/log.h"

static struct peer *
entry(struct store *st, uint32_t far, uint32_t slot)
{
	return &st->peers[FAR_FROM + (far * FAR_LINKS_MAX + slot) * 2];
}

struct peer *
far_peer(struct store *st, unsigned node, const struct slice *client)
{
	uint32_t	 far = route_fars_number(&st->fars, node);
	uint32_t	 slot = route_fars_slot(&st->fars, client);
	struct peer	*p;

	if (far == FARS_MAX)
		return NULL;
	p = entry(st, far, slot);
	if (p->bus != NULL)
		return p;
	if (route_fars_open(&st->fars, far, slot, p) < 0)
		return NULL;
	p[0].bus = p[1].bus = st->fars.fars[far].bus[slot];
	p[0].epoch++;
	p[1].epoch++;
	return p;
}

uint64_t
far_hash(const struct store *st, uint32_t instance)
{
	const char *name = st->fars.fars[(instance - FAR_FROM) / 2 /
			    FAR_LINKS_MAX].name;

	return XXH3_64bits(name, strlen(name));
}

uint32_t
far_find(struct store *st, uint64_t hash, const struct slice *client)
{
	const char	*name;
	struct peer	*p;
	size_t		 i;

	far_all(st);
	for (i = 0; i < st->nnodes; i++) {
		name = fib_node_name(st->fib.now->reader, st->nodes[i]);
		if (XXH3_64bits(name, strlen(name)) == hash &&
		    (p = far_peer(st, st->nodes[i], client)) != NULL)
			return (uint32_t)(p - st->peers);
	}
	return UINT32_MAX;
}

void
far_all(struct store *st)
{
	uint64_t version = fib_reader_version(st->fib.now->reader);

	if (st->nodes_generation == st->fib.now->generation &&
	    st->nodes_version == version)
		return;
	st->nnodes = route_nodes(&st->fib, st->nodes);
	st->nodes_generation = st->fib.now->generation;
	st->nodes_version = version;
}

/* Nobody waits for it any longer. */
static void
lose(struct store *st, struct peer *p)
{
	p->epoch++;
	p->behind = NULL;
	onward_acked(st);
}

static void
look_after(struct store *st, uint32_t far)
{
	enum route_node	 state = route_node_state(&st->fib,
			    st->fars.fars[far].node);
	struct peer	*p;
	uint32_t	 slot;

	for (slot = 0; slot < FAR_LINKS_MAX; slot++) {
		p = entry(st, far, slot);
		if (p->bus == NULL || state == ROUTE_NODE_UP)
			continue;
		if (state == ROUTE_NODE_NONE) {
			p[0].bus = p[1].bus = NULL;
			lose(st, p + 1);
			lose(st, p);
		} else if (!bus_peer_ready(p->bus) &&
		    bus_peer_got(p->bus) < bus_peer_sent(p->bus)) {
			bus_peer_forget_live(p->bus);
			lose(st, p);
		}
	}
	if (state == ROUTE_NODE_NONE)
		route_fars_drop(&st->fars, far);
}

void
far_tick(struct store *st)
{
	uint32_t far;

	if (st->fib.now == NULL ||
	    st->fars.generation != st->fib.now->generation)
		return;
	for (far = 0; far < st->fars.n; far++)
		if (st->fars.fars[far].node != 0)
			look_after(st, far);
}

int
far_open(struct store *st)
{
	route_fars_init(&st->fars, st->bus, &st->fib,
	    st->conf->cluster_link_processes);
	st->nodes = malloc(FIB_NODES * sizeof(*st->nodes));
	return st->nodes == NULL ? ERR_NOMEM : 0;
}

void
far_close(struct store *st)
{
	route_fars_fini(&st->fars);
	free(st->nodes);
	st->nodes = NULL;
}

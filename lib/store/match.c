/*
 * match.c: the sessions that want a message, each once.
 */
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "store/internal.h"

struct search {
	struct shard		*sh;
	struct index_filter	**found;
	int			 nfound;
	size_t			 ntargets;
	size_t			 mask;		/* of sh->places */
	const struct slice	*publisher;
	uint8_t			 qos;
	bool			 retain;
};

static bool
is_own(const struct search *m, const struct index_sub *sub)
{
	const struct session *s = CONTAINER_OF(sub->owner, struct session,
	    subs);

	return sub->no_local && s->client_id_len == m->publisher->len &&
	    memcmp(s->client_id, m->publisher->data, s->client_id_len) == 0;
}

/* The target of a session, a new one if it has none. Only one filter: then it
 * cannot have one. places holds 1 + the number of a target, 0 is free. */
static struct store_target *
target_of(struct search *m, struct session *s)
{
	struct shard		*sh = m->sh;
	struct store_target	*t;
	uint64_t		 h;
	uint32_t		*place;
	size_t			 i;

	if (m->nfound > 1) {
		h = (uint64_t)(uintptr_t)s * UINT64_C(0x9e3779b97f4a7c15);
		for (i = (size_t)(h >> 32) & m->mask;; i = (i + 1) & m->mask) {
			place = &sh->places[i];
			if (*place == 0)
				break;
			if (sh->targets[*place - 1].session == s)
				return &sh->targets[*place - 1];
		}
		*place = (uint32_t)m->ntargets + 1;
	}
	t = &sh->targets[m->ntargets++];
	memset(t, 0, sizeof(*t));
	t->session = s;
	return t;
}

/* Who, how, and how many identifiers each. Returns how many in all. */
static size_t
join(struct search *m)
{
	struct store_target	*t;
	size_t			 ids = 0;
	uint32_t		 k;
	int			 i;

	for (i = 0; i < m->nfound; i++)
		for (k = 0; k < m->found[i]->nsubs; k++) {
			const struct index_sub *sub = &m->found[i]->subs[k];

			if (is_own(m, sub))
				continue;
			t = target_of(m, CONTAINER_OF(sub->owner,
			    struct session, subs));
			t->qos = MAX(t->qos, MIN(sub->qos, m->qos));
			t->retain |= sub->rap && m->retain;
			if (sub->id != 0 && t->nids < UINT16_MAX) {
				t->nids++;
				ids++;
			}
		}
	return ids;
}

/* The identifiers, now that there is room. */
static void
name_ids(struct search *m)
{
	uint32_t		*at = m->sh->target_ids;
	struct store_target	*t;
	size_t			 n;
	uint32_t		 k;
	int			 i;

	for (n = 0; n < m->ntargets; n++) {
		t = &m->sh->targets[n];
		t->ids = at;
		at += t->nids;
		t->nids = 0;
	}
	n = 0;
	for (i = 0; i < m->nfound; i++)
		for (k = 0; k < m->found[i]->nsubs; k++) {
			const struct index_sub *sub = &m->found[i]->subs[k];

			if (is_own(m, sub))
				continue;
			/* Of one filter they come in the order they came. */
			t = m->nfound == 1 ? &m->sh->targets[n++] :
			    target_of(m, CONTAINER_OF(sub->owner,
			    struct session, subs));
			if (sub->id != 0 && t->nids < UINT16_MAX)
				((uint32_t *)(uintptr_t)t->ids)[t->nids++] =
				    sub->id;
		}
}

int
shard_match(struct shard *sh, const struct slice *topic, uint8_t qos,
    bool retain, const struct slice *publisher, struct store_target **out)
{
	struct search		 m = {
		.sh = sh, .publisher = publisher, .qos = qos, .retain = retain,
	};
	struct store_target	*targets;
	uint32_t		*p;
	size_t			 subs = 0, ids, size, n, k;
	int			 i;

	if ((m.nfound = index_match(sh->index, (const char *)topic->data,
	    topic->len, &m.found)) < 0)
		return m.nfound;
	for (i = 0; i < m.nfound; i++)
		subs += m.found[i]->nsubs;
	if (subs >= INT32_MAX / 2 || (targets = scratch(sh->targets,
	    &sh->cap_targets, subs, sizeof(*targets))) == NULL)
		return ERR_NOMEM;
	sh->targets = targets;
	if (m.nfound > 1) {
		for (size = 64; size < subs * 2; size *= 2)
			;
		if ((p = scratch(sh->places, &sh->cap_places, size,
		    sizeof(*p))) == NULL)
			return ERR_NOMEM;
		sh->places = p;
		m.mask = size - 1;
		memset(p, 0, size * sizeof(*p));
	}
	ids = join(&m);
	if (ids > 0) {
		if ((p = scratch(sh->target_ids, &sh->cap_target_ids, ids,
		    sizeof(*p))) == NULL)
			return ERR_NOMEM;
		sh->target_ids = p;
		name_ids(&m);
	}
	for (n = k = 0; k < m.ntargets; k++)
		if (targets[k].qos > 0)
			targets[n++] = targets[k];
	*out = targets;
	return (int)n;
}

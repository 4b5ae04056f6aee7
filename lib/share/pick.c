#include "share/pick.h"

#include <stdlib.h>
#include <xxhash.h>
#include "base/util.h"

void
share_table_init(struct share_table *t, uint64_t seed)
{
	htab_init(&t->states);
	t->seed = seed;
}

uint64_t
share_hash(struct group_id id, uint64_t seed)
{
	return XXH3_64bits_withSeed(&id, sizeof(id), seed);
}

void
share_table_fini(struct share_table *t)
{
	size_t i;

	for (i = 0; t->states.cells != NULL && i <= t->states.mask; i++)
		free(t->states.cells[i].item);
	htab_fini(&t->states);
	htab_init(&t->states);
}

struct share_state *
share_state(struct share_table *t, struct group_id id, uint64_t random)
{
	uint64_t		 h = share_hash(id, t->seed);
	struct share_state	*st;
	size_t			 i;

	for (i = htab_first(&t->states, h);
	    (st = htab_at(&t->states, h, &i)) != NULL; i++)
		if (group_id_eq(st->id, id))
			return st;
	if (t->states.n >= SHARE_STATES)
		share_table_fini(t);
	if ((st = calloc(1, sizeof(*st))) == NULL)
		return NULL;
	st->id = id;
	st->cursor = (uint32_t)random;
	if (htab_add(&t->states, h, st) < 0) {
		free(st);
		return NULL;
	}
	return st;
}

int
share_each(const struct share_table *t, int (*each)(void *ctx,
    const struct share_state *st), void *ctx)
{
	const struct share_state	*st;
	size_t				 i;
	int				 rc;

	for (i = 0; t->states.cells != NULL && i <= t->states.mask; i++)
		if ((st = t->states.cells[i].item) != NULL &&
		    (rc = each(ctx, st)) != 0)
			return rc;
	return 0;
}

static size_t
slot_of(const struct share_slot *slots, size_t n, uint32_t instance)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (slots[i].instance == instance && slots[i].members > 0)
			break;
	return i;
}

/* The slot of the k-th member of all. */
static size_t
slot_at(const struct share_slot *slots, size_t n, uint64_t k)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (k < slots[i].members)
			break;
		k -= slots[i].members;
	}
	return i;
}

size_t
share_pick_slot(enum share_strategy how, struct share_state *st,
    const struct share_slot *slots, size_t n, uint32_t self, uint64_t hash,
    uint64_t random)
{
	uint64_t	all = 0;
	size_t		i;

	for (i = 0; i < n; i++)
		all += slots[i].members;
	if (all == 0)
		return n;
	switch (how) {
	case SHARE_HASH_CLIENTID:
	case SHARE_HASH_TOPIC:
		return slot_at(slots, n, hash % all);
	case SHARE_LOCAL:
		if ((i = slot_of(slots, n, self)) < n)
			return i;
		break;
	case SHARE_STICKY:
		if (st == NULL)
			break;
		if (st->sticky == 0 ||
		    (i = slot_of(slots, n, st->sticky - 1)) == n)
			i = slot_at(slots, n, random % all);
		st->sticky = slots[i].instance + 1;
		return i;
	case SHARE_RANDOM:
		st = NULL;
		break;
	case SHARE_ROUND_ROBIN:
		break;
	}
	return slot_at(slots, n, (st == NULL ? random : st->cursor++) % all);
}

uint32_t
share_pick_member(enum share_strategy how, uint32_t cursor, uint32_t n,
    uint64_t hash, uint64_t random)
{
	switch (how) {
	case SHARE_HASH_CLIENTID:
	case SHARE_HASH_TOPIC:
		/* Other bits than those the slot was picked by. */
		return (uint32_t)((hash >> 32) % n);
	case SHARE_RANDOM:
		return (uint32_t)(random % n);
	case SHARE_ROUND_ROBIN:
	case SHARE_STICKY:
	case SHARE_LOCAL:
		break;
	}
	return cursor % n;
}

/*
 * Memory that outlives its makers: descriptors kept here, handed to all who
 * want their kind. A slot is used again once nobody has to be told that what
 * was in it is gone.
 */
#include "super.h"

#include <string.h>

#include "base/err.h"
#include "log/log.h"

int
segment_keep(struct super *s, const SupSegment *m, const int *fds,
    size_t nfds)
{
	struct segment	*g;
	size_t		 i, slot = SEGMENTS_MAX;

	for (i = 0; i < SEGMENTS_MAX; i++) {
		g = &s->segments[i];
		if (!g->used) {
			slot = MIN(slot, i);
		} else if (!g->dropped && (uint32_t)g->s.kind == m->kind &&
		    g->s.generation == m->generation &&
		    g->s.incarnation == m->incarnation &&
		    strcmp(g->s.owner, m->owner) == 0) {
			sup_close_fds(fds, nfds);	/* known */
			return 0;
		}
	}
	if (slot == SEGMENTS_MAX) {
		sup_close_fds(fds, nfds);
		return ERR_FULL;
	}
	g = &s->segments[slot];
	memset(g, 0, sizeof(*g));
	g->used = true;
	g->s.kind = (enum proc_segment_kind)m->kind;
	SUP_TEXT(g->s.owner, m->owner);
	g->s.incarnation = m->incarnation;
	g->s.generation = m->generation;
	g->s.nfds = nfds;
	memcpy(g->s.fds, fds, nfds * sizeof(*fds));
	return 0;
}

static void
drop(struct super *s, size_t slot)
{
	struct segment	*g = &s->segments[slot];

	g->dropped = true;
	sup_close_fds(g->s.fds, g->s.nfds);
	g->s.nfds = 0;
	conn_forget_segment(s, slot);
}

void
segments_drop_below(struct super *s, const char *owner, uint32_t kind,
    uint64_t below)
{
	struct segment	*g;
	size_t		 i;

	for (i = 0; i < SEGMENTS_MAX; i++) {
		g = &s->segments[i];
		if (g->used && !g->dropped && (uint32_t)g->s.kind == kind &&
		    g->s.generation < below && strcmp(g->s.owner, owner) == 0)
			drop(s, i);
	}
}

/* Routes outlive the router; the figures of who has ended do not. */
void
segments_of_dead(struct super *s, const char *owner)
{
	segments_drop_below(s, owner, PROC_SEGMENT_METRICS, UINT64_MAX);
}

void
segments_sweep(struct super *s)
{
	size_t	i;

	for (i = 0; i < SEGMENTS_MAX; i++)
		if (s->segments[i].dropped && !conn_any_knows(s, i))
			s->segments[i].used = s->segments[i].dropped = false;
}

#include "keep/deal.h"

static bool
takes(const struct deal_taker *t, size_t nt, int k)
{
	return k >= 0 && (size_t)k < nt && t[k].serves && !t[k].full;
}

/* Who has the fewest of this group, and the fewest at all among those. */
static int
poorest(const struct deal_taker *t, size_t nt)
{
	int	k, best = DEAL_NOBODY;

	for (k = 0; (size_t)k < nt; k++)
		if (takes(t, nt, k) && (best == DEAL_NOBODY ||
		    t[k].have < t[best].have ||
		    (t[k].have == t[best].have && t[k].all < t[best].all)))
			best = k;
	return best;
}

static int
richest(const struct deal_taker *t, size_t nt)
{
	int	k, best = DEAL_NOBODY;

	for (k = 0; (size_t)k < nt; k++)
		if (takes(t, nt, k) && (best == DEAL_NOBODY ||
		    t[k].have > t[best].have))
			best = k;
	return best;
}

static void
give(struct deal_socket *s, struct deal_taker *t, int k)
{
	if (s->taker != DEAL_NOBODY) {
		t[s->taker].have--;
		t[s->taker].all--;
	}
	if ((s->taker = k) != DEAL_NOBODY) {
		t[k].have++;
		t[k].all++;
	}
}

/* Whether s belongs to one that is gone. */
static bool
is_orphan(const struct deal_socket *s, const struct deal_taker *t, size_t nt)
{
	return s->own && (s->instance >= nt || t[s->instance].gone);
}

/* Each of these is an address of its own. */
static void
deal_orphans(struct deal_socket *s, size_t n, struct deal_taker *t, size_t nt)
{
	size_t	i, k;

	for (i = 0; i < n; i++) {
		if (!is_orphan(&s[i], t, nt))
			continue;
		for (k = 0; k < nt; k++)
			t[k].have = 0;
		if (s[i].taker == DEAL_NOBODY)
			give(&s[i], t, poorest(t, nt));
	}
}

/* Deal the shared sockets of one address. */
static void
deal_group(struct deal_socket *s, size_t n, unsigned group,
    struct deal_taker *t, size_t nt)
{
	size_t	i;
	int	poor, rich;

	for (i = 0; i < nt; i++)
		t[i].have = 0;
	for (i = 0; i < n; i++)
		if (!s[i].own && s[i].group == group &&
		    s[i].taker != DEAL_NOBODY)
			t[s[i].taker].have++;
	for (i = 0; i < n; i++)
		if (!s[i].own && s[i].group == group &&
		    s[i].taker == DEAL_NOBODY)
			give(&s[i], t, poorest(t, nt));
	while ((rich = richest(t, nt)) != DEAL_NOBODY) {
		poor = poorest(t, nt);
		if (t[rich].have <= t[poor].have + 1)
			break;
		for (i = n; i-- > 0;)
			if (!s[i].own && s[i].group == group &&
			    s[i].taker == rich)
				break;
		give(&s[i], t, poor);
	}
}

/* Nobody has room: then everybody has as much. */
static void
forget_full(struct deal_taker *t, size_t nt)
{
	size_t	i;

	for (i = 0; i < nt; i++)
		if (t[i].serves && !t[i].full)
			return;
	for (i = 0; i < nt; i++)
		t[i].full = false;
}

size_t
deal(struct deal_socket *s, size_t n, struct deal_taker *t, size_t nt)
{
	size_t		i, changed = 0;
	unsigned	group, ngroups = 0;

	for (i = 0; i < nt; i++)
		t[i].all = 0;
	forget_full(t, nt);
	for (i = 0; i < n; i++) {
		s[i].was = s[i].taker;
		if (s[i].own && !is_orphan(&s[i], t, nt)) {
			s[i].taker = t[s[i].instance].serves ?
			    (int)s[i].instance : DEAL_NOBODY;
			continue;
		}
		if (!s[i].own && s[i].group >= ngroups)
			ngroups = s[i].group + 1;
		if (takes(t, nt, s[i].taker))
			t[s[i].taker].all++;
		else
			s[i].taker = DEAL_NOBODY;
	}
	for (group = 0; group < ngroups; group++)
		deal_group(s, n, group, t, nt);
	deal_orphans(s, n, t, nt);
	for (i = 0; i < n; i++)
		changed += s[i].taker != s[i].was;
	return changed;
}

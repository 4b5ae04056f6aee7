/*
 * A replicant has a link with every core it knows, but tables come and go over
 * one: it says FOLLOW there, and both open rlog on that link. It changes to
 * another core when its own is gone, or has many more replicants than another
 * (lib/rlog/README); while it changes it follows both, so nothing is missed
 * and it is waited for throughout.
 */
#include "nodes.h"

#include <sys/random.h>

#include "base/err.h"
#include "log/log.h"

static uint64_t
random_number(void)
{
	uint64_t	v = 0;

	(void)!getrandom(&v, sizeof(v), 0);
	return v;
}

static void
say_follow(struct node *n, bool follow)
{
	uint8_t	body = follow;

	if (n->mesh != NULL && mesh_send(n->mesh, MESH_FOLLOW, &body, 1) < 0)
		mesh_drop(n->mesh, MESH_NONSENSE, "no room for FOLLOW");
}

/* Who there is to be followed; *out has room for NODES_MAX. */
static size_t
candidates(struct nodeset *ns, struct rlog_core *out)
{
	struct mesh_look	 l;
	struct node		*n;
	size_t			 k = 0;

	for (n = ns->all; n != NULL && k < NODES_MAX; n = n->hh.next) {
		if (n->mesh == NULL || !n->core)
			continue;
		mesh_look(n->mesh, &l);
		out[k++] = (struct rlog_core){ .node = n->id,
		    .weight = l.replicants, .usable = !l.suspect };
	}
	return k;
}

static void
follow(struct nodeset *ns, struct node *n, uint64_t now)
{
	struct node	*before = ns->follows;

	say_follow(n, true);
	if (n->mesh == NULL || node_link(ns, n) < 0)
		return;			/* the next tick tries again */
	log_info("router.follows", "core=%s before=%s", n->name,
	    before != NULL ? before->name : "none");
	ns->follows = n;
	ns->follows_ms = now;
	ns->leaving = before;
	if (before != NULL && before->link != NULL) {
		rlog_link_prefer(n->link, true);
		rlog_link_prefer(before->link, false);
	}
}

void
follow_tick(struct nodeset *ns, uint64_t now)
{
	static struct rlog_core	 cores[NODES_MAX];
	struct node		*n;
	bool			 may;
	size_t			 k, i;

	if (ns->core || ns->leaving != NULL)
		return;
	may = ns->follows == NULL ||
	    now - ns->follows_ms >= NODES_FOLLOW_MS;
	if (!may)
		return;
	k = candidates(ns, cores);
	i = rlog_pick_core(cores, k, ns->follows != NULL ? ns->follows->id : 0,
	    true, random_number(), random_number());
	if (i == k || (n = node_by_id(ns, cores[i].node)) == NULL)
		return;
	if (n == ns->follows)
		ns->follows_ms = now;
	else
		follow(ns, n, now);
}

/* The link with n is gone. */
void
follow_down(struct nodeset *ns, struct node *n)
{
	if (ns->leaving == n) {
		ns->leaving = NULL;
	} else if (ns->follows == n) {
		ns->follows = ns->leaving;
		ns->leaving = NULL;
		if (ns->follows == NULL)
			follow_tick(ns, now_ms());
	}
}

/* All is here by the new way: let go of the old one. */
void
follow_turn(struct nodeset *ns)
{
	struct node	*n = ns->leaving;

	if (n == NULL || ns->follows->link == NULL ||
	    !rlog_link_settled(ns->follows->link) || !node_flush(ns, n))
		return;
	node_unlink(ns, n, true);
	say_follow(n, false);
	ns->leaving = NULL;
}

int
follow_asked(struct nodeset *ns, struct node *n, const void *body, size_t len)
{
	if (len < 1 || !ns->core || n->core)
		return ERR_PROTO;
	if (*(const uint8_t *)body != 0)
		return node_link(ns, n);
	node_unlink(ns, n, false);
	return 0;
}

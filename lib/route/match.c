#include "route/match.h"

#include <pb_encode.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/err.h"
#include "log/log.h"
#include "proto/route.pb.h"

/* --- The segments -------------------------------------------------------- */

void
route_fib_init(struct route_fib *rf, enum fib_kind kind, uint32_t self,
    uint64_t incarnation, uint64_t seed, struct metric *m_evicted,
    struct metric *m_short)
{
	rf->kind = kind;
	rf->self = self;
	rf->incarnation = incarnation;
	rf->seed = seed;
	rf->m_evicted = m_evicted;
	rf->m_short = m_short;
}

static void
fib_unlink(struct fib_link **pf)
{
	struct fib_link *f = *pf;

	*pf = NULL;
	if (f == NULL)
		return;
	fib_reader_close(&f->reader);
	shm_close(&f->data);
	shm_close(&f->epochs);
	free(f);
}

static int
map(struct shm_segment *s, int fd, enum shm_mode mode)
{
	int copy, rc;

	if ((copy = dup(fd)) < 0)
		return ERR_IO;
	if ((rc = shm_map(s, copy, mode)) < 0)
		close(copy);
	return rc;
}

void
route_fib_segment(struct route_fib *rf, const struct proc_segment *s)
{
	struct fib_link	*f;
	int		 rc;

	if (s->kind != PROC_SEGMENT_FIB || s->nfds != 2)
		return;
	if ((rf->now != NULL && s->generation <= rf->now->generation) ||
	    (rf->next != NULL && s->generation <= rf->next->generation))
		return;
	if ((f = calloc(1, sizeof(*f))) == NULL)
		return;
	f->generation = s->generation;
	f->data.fd = f->epochs.fd = -1;
	if ((rc = map(&f->data, s->fds[0], SHM_PRIVATE_WRITE)) < 0 ||
	    (rc = map(&f->epochs, s->fds[1], SHM_SHARED)) < 0 ||
	    (rc = fib_reader_open(&f->reader, f->data.base, f->data.len,
	    f->epochs.base, f->epochs.len, rf->incarnation)) < 0) {
		log_error("fib.refused", "generation=%llu error=%s",
		    (unsigned long long)s->generation,
		    log_quote(err_str(rc)));
		fib_unlink(&f);
		return;
	}
	fib_unlink(&rf->next);
	rf->next = f;
}

bool
route_fib_turn(struct route_fib *rf)
{
	if (rf->next == NULL)
		return false;
	fib_unlink(&rf->now);
	rf->now = rf->next;
	rf->next = NULL;
	log_info("fib.switched", "generation=%llu",
	    (unsigned long long)rf->now->generation);
	return true;
}

void
route_fib_confirm(const struct route_fib *rf, struct bus_peer *router)
{
	FibConfirm	m = FibConfirm_init_zero;
	uint8_t		buf[FibConfirm_size];
	pb_ostream_t	out = pb_ostream_from_buffer(buf, sizeof(buf));

	if (router == NULL || rf->now == NULL)
		return;
	m.generation = rf->now->generation;
	if (pb_encode(&out, FibConfirm_fields, &m))
		(void)bus_send(router, KIND_FIB_CONFIRM, buf,
		    out.bytes_written);
}

/* --- Matching ----------------------------------------------------------- */

/* Is this slot a listener that serves? */
static inline bool
is_listener(const struct fib_slot *d)
{
	return d->kind == FIB_LISTENER && d->state == FIB_UP &&
	    d->instance < ROUTE_LISTENERS_MAX;
}

/* The bit of the store that this slot is, 0 if it is none. */
static inline uint64_t
store_bit(const struct fib_slot *d)
{
	return d->kind == FIB_STORE && d->instance < ROUTE_STORES_MAX ?
	    UINT64_C(1) << d->instance : 0;
}

static inline bool
is_self(const struct route_fib *rf, const struct fib_slot *d)
{
	return d->kind == rf->kind && d->instance == rf->self;
}

static inline bool
is_far(const struct fib_slot *d)
{
	return d->kind == FIB_NODE && d->node < FIB_NODES &&
	    (d->instance > 0 || d->state == FIB_UP);
}

/* Where to: of each kind there may be more than there is room for. */
struct room {
	uint32_t	*dests;
	size_t		 max, n;
	uint16_t	*far;
	size_t		 far_max, nfar;
	uint64_t	 stores;
};

/* The listeners in m, ourselves not, other nodes, and the stores. Between
 * fib_enter and fib_leave. */
static void
instances_of(const struct route_fib *rf, const struct fib_match *m,
    struct room *to)
{
	struct fib_slot	d;
	uint64_t	bits;
	size_t		i;
	unsigned	slot;

	to->n = to->nfar = 0;
	to->stores = 0;
	for (bits = m->slots, i = 0; bits != 0 || i < m->nmore;) {
		if (bits != 0) {
			slot = (unsigned)__builtin_ctzll(bits);
			bits &= bits - 1;
		} else {
			slot = m->more[i++];
		}
		if (fib_slot(rf->now->reader, slot, &d) < 0 || is_self(rf, &d))
			continue;
		to->stores |= store_bit(&d);
		if (UNLIKELY(is_far(&d))) {
			if (to->nfar < to->far_max)
				to->far[to->nfar] = route_far(d.node,
				    d.instance > 0);
			to->nfar++;
		}
		if (!is_listener(&d))
			continue;
		if (to->n < to->max)
			to->dests[to->n] = d.instance;
		to->n++;
	}
}

static bool
groups_room(struct route_groups *g, size_t ngroups, size_t nslots)
{
	void *grown;

	if (ngroups > g->cap_groups) {
		if ((grown = realloc(g->groups, ngroups *
		    sizeof(*g->groups))) == NULL)
			return false;
		g->groups = grown;
		g->cap_groups = ngroups;
	}
	if (nslots > g->cap_slots) {
		if ((grown = realloc(g->slots, nslots *
		    sizeof(*g->slots))) == NULL)
			return false;
		g->slots = grown;
		g->cap_slots = nslots;
	}
	return true;
}

/* The groups in m, ours included, out of the FIB. Between fib_enter and
 * fib_leave. False: not all of them; that is counted here. */
static bool
groups_of(const struct route_fib *rf, const struct fib_match *m,
    struct route_groups *g)
{
	const struct fib_group	*from;
	struct routes_group	*to;
	struct fib_slot		 d;
	uint32_t		 instance;
	size_t			 i, k, nslots = 0;

	g->ngroups = g->nslots = 0;
	for (i = 0; i < m->ngroups; i++)
		nslots += m->groups[i].nslots;
	if (!groups_room(g, m->ngroups, nslots)) {
		metric_inc(rf->m_short);
		return false;
	}
	for (i = 0; i < m->ngroups; i++) {
		from = &m->groups[i];
		to = &g->groups[g->ngroups];
		to->id.hi = from->id_hi;
		to->id.lo = from->id_lo;
		to->slots = g->slots + g->nslots;
		to->nslots = 0;
		for (k = 0; k < from->nslots; k++) {
			if (fib_slot(rf->now->reader, from->slots[k].slot,
			    &d) < 0)
				continue;
			if (is_listener(&d))
				instance = d.instance;
			else if (store_bit(&d) != 0)
				instance = d.instance + ROUTE_LISTENERS_MAX;
			else if (is_far(&d))
				instance = ROUTE_FAR_FROM + route_far(d.node,
				    d.instance > 0);
			else
				continue;
			to->slots[to->nslots].instance = instance;
			to->slots[to->nslots++].members =
			    from->slots[k].members;
		}
		g->nslots += to->nslots;
		g->ngroups += to->nslots > 0;
	}
	if (m->groups_short)
		metric_inc(rf->m_short);
	return !m->groups_short;
}

/* A copy of g in one piece, or NULL. */
static struct routes_group *
groups_copy(const struct route_groups *g)
{
	struct routes_group	*copy;
	struct share_slot	*slots;
	size_t			 i;

	if ((copy = malloc(g->ngroups * sizeof(*copy) +
	    g->nslots * sizeof(*slots))) == NULL)
		return NULL;
	slots = (struct share_slot *)(void *)(copy + g->ngroups);
	memcpy(copy, g->groups, g->ngroups * sizeof(*copy));
	if (g->nslots > 0)
		memcpy(slots, g->slots, g->nslots * sizeof(*slots));
	for (i = 0; i < g->ngroups; i++)
		copy[i].slots = slots + (g->groups[i].slots - g->slots);
	return copy;
}

static void
answer_clear(struct route_answer *a)
{
	free(a->groups);
	a->groups = NULL;
	a->ngroups = 0;
	a->generation = 0;
}

static void
answer_keep(struct route_fib *rf, const void *topic, size_t len,
    uint64_t version, const struct room *to, const struct route_groups *g)
{
	struct route_answer	*a;
	size_t			 i;

	if (len > ROUTE_ANSWER_TOPIC || to->n + to->nfar > ROUTE_ANSWER_DESTS ||
	    g->ngroups > ROUTE_ANSWER_GROUPS || g->nslots > ROUTE_ANSWER_SLOTS)
		return;
	a = route_answer_cell(rf, topic, len);
	if (UNLIKELY(a->groups != NULL))
		answer_clear(a);
	if (UNLIKELY(g->ngroups > 0)) {
		if ((a->groups = groups_copy(g)) == NULL)
			return;
		a->ngroups = (uint16_t)g->ngroups;
	}
	a->generation = rf->now->generation;
	a->version = version;
	a->stores = to->stores;
	a->len = (uint16_t)len;
	a->ndests = (uint8_t)to->n;
	a->nfar = (uint8_t)to->nfar;
	for (i = 0; i < to->n; i++)
		a->dests[i] = (uint16_t)to->dests[i];
	for (i = 0; i < to->nfar; i++)
		a->dests[to->n + i] = to->far[i];
	memcpy(a->topic, topic, len);
}

void
route_match_batch(struct route_fib *rf, const struct slice *topics, size_t n)
{
	struct fib_match	 found[FIB_BATCH] = { 0 };
	uint32_t		 dests[ROUTE_ANSWER_DESTS];
	uint16_t		 far[ROUTE_ANSWER_DESTS];
	struct room		 to = { .dests = dests, .far = far,
		.max = ROUTE_ANSWER_DESTS, .far_max = ROUTE_ANSWER_DESTS };
	uint64_t		 v;
	size_t			 i;

	v = fib_reader_version(rf->now->reader);
	fib_enter(rf->now->reader);
	fib_match_batch(rf->now->reader, topics, n, found);
	for (i = 0; i < n; i++) {
		if (found[i].groups_short)
			continue;	/* alone it may fit */
		instances_of(rf, &found[i], &to);
		if (groups_of(rf, &found[i], &rf->found))
			answer_keep(rf, topics[i].data, topics[i].len, v,
			    &to, &rf->found);
	}
	if (!fib_leave(rf->now->reader)) {
		metric_inc(rf->m_evicted);
		for (i = 0; i < n; i++)		/* void, all of it */
			answer_clear(route_answer_cell(rf, topics[i].data,
			    topics[i].len));
	}
}

void
route_match_new(struct route_fib *rf, const char *topic, size_t len,
    struct routes_found *r)
{
	static uint16_t		 far[ROUTE_FAR_MAX];
	struct room		 to = { .dests = r->dests, .far = far,
		.max = ROUTE_LISTENERS_MAX, .far_max = ROUTE_FAR_MAX };
	struct fib_match	 m = { 0 };
	uint64_t		 version;
	bool			 whole;

	rf->misses++;
	version = fib_reader_version(rf->now->reader);
	for (;;) {
		fib_enter(rf->now->reader);
		fib_match(rf->now->reader, topic, len, &m);
		instances_of(rf, &m, &to);
		whole = groups_of(rf, &m, &rf->found);
		if (fib_leave(rf->now->reader))
			break;
		metric_inc(rf->m_evicted);
		version = fib_reader_version(rf->now->reader);
	}
	if (whole)
		answer_keep(rf, topic, len, version, &to, &rf->found);
	r->ndests = to.n;
	r->stores = to.stores;
	if (r->far != NULL) {
		memcpy(r->far, far, to.nfar * sizeof(*far));
		r->nfar = to.nfar;
	}
	r->groups = rf->found.groups;
	r->ngroups = rf->found.ngroups;
}

enum route_node
route_node_state(const struct route_fib *rf, unsigned node)
{
	struct fib_slot	d;
	unsigned	slot;

	for (slot = 0; rf->now != NULL && slot < FIB_SLOTS; slot++)
		if (fib_slot(rf->now->reader, slot, &d) == 0 &&
		    d.kind == FIB_NODE && d.node == node && d.instance == 0)
			return d.state == FIB_UP ? ROUTE_NODE_UP :
			    ROUTE_NODE_DOWN;
	return ROUTE_NODE_NONE;
}

size_t
route_nodes(const struct route_fib *rf, uint16_t *out)
{
	struct fib_slot	d;
	unsigned	slot;
	size_t		n = 0;

	for (slot = 0; rf->now != NULL && slot < FIB_SLOTS; slot++)
		if (fib_slot(rf->now->reader, slot, &d) == 0 &&
		    d.kind == FIB_NODE && d.instance == 0 && n < FIB_NODES)
			out[n++] = d.node;
	return n;
}

void
route_fib_fini(struct route_fib *rf)
{
	size_t i;

	for (i = 0; i < ROUTE_ANSWERS; i++)
		answer_clear(&rf->answers[i]);
	free(rf->found.groups);
	free(rf->found.slots);
	memset(&rf->found, 0, sizeof(rf->found));
	fib_unlink(&rf->now);
	fib_unlink(&rf->next);
}

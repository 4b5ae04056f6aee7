/*
 * claims.c: one holder of a client identifier over all nodes. While there are
 * other nodes a CONNECT goes to a struct desk (registrar/desk.h) first, which
 * knows what this shard has, and asks the registrar where others may have it.
 * What is granted goes on in desk.c as if it had come a moment later, and who
 * had it on other nodes is told to let go. The router says whether there are
 * other nodes (SELF); as long as it does not, all this is not there.
 *
 * CAVEAT: a session stays where it is. Who is released keeps a durable one that
 * was not begun anew, without speaking of it any more; it is gone on with when
 * its client comes back to that node.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"
#include "mqtt/mqtt.h"
#include "proto/claim.h"
#include "registrar/desk.h"

enum { AGAIN_MS = 5000 };

/* An attach that the desk has not answered. It is the token. */
struct pending {
	struct pending	*next;		/* of those that are answered */
	uint64_t	 x;
	uint64_t	 incarnation;	/* of its listener */
	uint32_t	 listener;
	bool		 granted;	/* else refused */
	bool		 gone;		/* it ended meanwhile, by: */
	struct claim_msg m;		/* the grant */
	struct session_msg end;
	struct session_msg e;		/* its slices behind it */
	uint8_t		 bytes[];
};

/* Another one has x as well, and ours stays. */
struct rival {
	uint64_t	 x;
	struct claim_msg m;
};

static struct {
	bool		 on;		/* there are other nodes */
	struct desk	 desk;
	uint8_t		 key[16];
	uint64_t	 router;	/* its incarnation, that said SELF */
	struct htab	 pending, rivals;	/* by x */
	struct pending	*answered, **tail;
	struct claim_out out;
	bool		 is_short;	/* what is in it is not all, */
	uint64_t	 again_ms;	/* so then all is said again */
	bool		 is_there;	/* a registrar is in reach */
} cl;

static uint64_t
hash_of(const void *id, size_t len)
{
	return claim_hash(cl.key, id, len);
}

static uint64_t
mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* --- What the desk asks for ----------------------------------------------- */

static void
on_send(void *ctx UNUSED, const struct claim_msg *m)
{
	if (!cl.is_short && claim_out_put(&cl.out, m) < 0)
		cl.is_short = true;
}

static void
answered(struct pending *p)
{
	p->next = NULL;
	*cl.tail = p;
	cl.tail = &p->next;
}

static void
on_grant(void *ctx UNUSED, uint64_t token, const struct claim_msg *m)
{
	struct pending *p = (struct pending *)(uintptr_t)token;

	p->granted = true;
	p->m = *m;
	answered(p);
}

static void
on_refuse(void *ctx UNUSED, uint64_t x UNUSED, uint64_t token)
{
	answered((struct pending *)(uintptr_t)token);
}

static struct rival *
rival_of(uint64_t x)
{
	struct rival	*r;

	for (size_t i = htab_first(&cl.rivals, x);
	    (r = htab_at(&cl.rivals, x, &i)) != NULL && r->x != x; i++)
		;
	return r;
}

static void
on_merge(void *ctx UNUSED, const struct claim_msg *m)
{
	struct rival	*r = rival_of(m->x);

	if (r == NULL) {
		if ((r = calloc(1, sizeof(*r))) == NULL)
			return;		/* found again by the next row */
		r->x = m->x;
		if (htab_add(&cl.rivals, r->x, r) < 0) {
			free(r);
			return;
		}
	}
	for (unsigned i = 0; i < m->nholders; i++)
		claim_add(&r->m, &m->holders[i]);
	r->m.epoch = m->epoch;
	metric_inc(&m_rivals);
}

static const struct desk_ops ops = {
	.send = on_send, .grant = on_grant, .refuse = on_refuse,
	.merge = on_merge,
};

/* --- What we have --------------------------------------------------------- */

static uint8_t
flags_of(const struct store *st, const struct slice *id)
{
	const struct holder	*d = desk_find(st, id->data, id->len);
	const struct session	*s = shard_find(st->state, id->data, id->len);
	uint8_t			 flags = 0;

	if (d != NULL && d->connected)
		flags |= CLAIM_CONNECTED;
	if (s != NULL && s->durable && !import_is_under_way(s))
		flags |= CLAIM_DURABLE;
	return flags;
}

void
claims_state(struct store *st, const struct slice *id)
{
	if (cl.on)
		desk_state(&cl.desk, hash_of(id->data, id->len),
		    flags_of(st, id));
}

void
claims_have(struct store *st, const struct slice *id, uint64_t time)
{
	struct claim_holder	h;
	uint64_t		x;

	if (!cl.on)
		return;
	x = hash_of(id->data, id->len);
	time = MIN(time, (uint64_t)CLAIM_EPOCH_MAX / 2);
	if ((!desk_holds(&cl.desk, x, &h) || h.epoch < time) &&
	    desk_restore(&cl.desk, x, time) < 0)
		return;			/* others do not hear of it */
	desk_state(&cl.desk, x, flags_of(st, id));
}

static int
have_session(void *ctx, struct session *s)
{
	struct slice	id = { (const uint8_t *)s->client_id,
			       s->client_id_len };

	if (s->durable && s->user == NULL && !import_is_under_way(s))
		claims_have(ctx, &id, 0);
	return 0;
}

static struct holder *
next_holder(const struct store *st, unsigned *part, size_t *i)
{
	return spread_next(&st->holders, part, i);
}

static void
have_all(struct store *st)
{
	struct holder	*d;
	struct slice	 id;
	unsigned	 part = 0;
	size_t		 i = 0;

	while ((d = next_holder(st, &part, &i)) != NULL) {
		id = (struct slice){ (const uint8_t *)d->client_id, d->len };
		if (d->connected)
			claims_have(st, &id, d->time);
	}
	shard_each(st->state, have_session, st);
}

/* --- To other nodes ------------------------------------------------------- */

/* m: a grant, or a rival's. began: when ours did so clean; 0: it did not. */
static void
release_all(const struct claim_msg *m, uint64_t x, const struct slice *id,
    uint64_t began)
{
	struct claim_msg	out = { .kind = CLAIM_RELEASE };

	out.x = x;
	out.id = *id;
	out.epoch = m->epoch;
	out.asked = cl.desk.node;
	for (unsigned i = 0; i < m->nholders; i++) {
		if (m->holders[i].node == cl.desk.node)
			continue;
		out.node = m->holders[i].node;
		out.flags = began > m->holders[i].epoch ? CLAIM_CLEAN : 0;
		on_send(NULL, &out);
		metric_inc(&m_released);
	}
}

/* Who of ours has one of the identifiers in cl.rivals? Only hashes are known of
 * them: all are looked at, for all rivals at once. */
static void
release_rival(const struct slice *id, uint64_t began)
{
	uint64_t	 x = hash_of(id->data, id->len);
	struct rival	*r = rival_of(x);

	if (r == NULL)
		return;
	release_all(&r->m, x, id, began);
	htab_del(&cl.rivals, x, r);
	free(r);
}

static int
rival_session(void *ctx UNUSED, struct session *s)
{
	struct slice	id = { (const uint8_t *)s->client_id,
			       s->client_id_len };

	if (cl.rivals.n > 0)
		release_rival(&id, 0);
	return 0;
}

static void
empty(struct htab *t)
{
	for (size_t i = 0; t->cells != NULL && i <= t->mask; i++)
		free(t->cells[i].item);
	htab_fini(t);
	htab_init(t);
}

static void
rivals_release(struct store *st)
{
	struct holder	*d;
	struct slice	 id;
	unsigned	 part = 0;
	size_t		 i = 0;

	while (cl.rivals.n > 0 && (d = next_holder(st, &part, &i)) != NULL) {
		id = (struct slice){ (const uint8_t *)d->client_id, d->len };
		if (d->connected)
			release_rival(&id, d->clean ? d->time : 0);
	}
	if (cl.rivals.n > 0)
		shard_each(st->state, rival_session, st);
	empty(&cl.rivals);		/* ours have gone meanwhile */
}

/* We are told to let go. */
static void
released(struct store *st, const struct claim_msg *m)
{
	uint64_t		x = hash_of(m->id.data, m->id.len);
	struct claim_holder	h;

	if (!cl.on || m->id.len == 0 || x != m->x)
		return;
	if (desk_holds(&cl.desk, x, &h) && (h.epoch > m->epoch ||
	    (h.epoch == m->epoch && h.node > m->asked)))
		return;			/* ours began after it */
	log_debug("claims.released", "client=%s by=%016" PRIx64 " clean=%s",
	    log_quote_n(m->id.data, m->id.len), m->asked,
	    m->flags & CLAIM_CLEAN ? "yes" : "no");
	desk_gone(&cl.desk, x, mono_ms());
	desk_release(st, &m->id, m->flags & CLAIM_CLEAN);
}

/* --- Attaches ------------------------------------------------------------- */

/* One that was served before we heard of it: did another node have it later? */
static bool
came_late(const struct pending *p)
{
	const struct claim_holder *h = p->m.holders;

	for (unsigned i = 0; p->e.opened && i < p->m.nholders; i++)
		if (h[i].flags & CLAIM_CONNECTED && h[i].epoch > p->e.time)
			return true;
	return false;
}

static void
granted(struct store *st, struct pending *p)
{
	const struct peer	*from = &st->peers[p->listener];
	const struct slice	*id = &p->e.client_id;
	struct holder		*d;

	/* One that is served already (`opened`) ends like any other. */
	if (came_late(p))
		desk_too_late(st, p->listener, p->incarnation, p->e.serial);
	else if (from->bus != NULL && from->incarnation == p->incarnation &&
	    (!p->gone || p->e.opened)) {
		desk_attach_now(st, p->listener, &p->e);
		d = desk_find(st, id->data, id->len);
		if (d != NULL && ((d->connected &&
		    d->listener == p->listener &&
		    d->serial == p->e.serial) || (d->waiting != NULL &&
		    d->waiting->listener == p->listener &&
		    d->waiting->e.serial == p->e.serial)))
			release_all(&p->m, p->x, id,
			    p->e.clean_start ? UINT64_MAX : 0);
		if (p->gone)
			desk_detach_now(st, p->listener, &p->end);
	}
	claims_state(st, id);
	desk_settled(&cl.desk, p->x, mono_ms());
}

/* What the desk has answered. */
static void
run(struct store *st)
{
	struct pending *p;

	while ((p = cl.answered) != NULL) {
		if ((cl.answered = p->next) == NULL)
			cl.tail = &cl.answered;
		htab_del(&cl.pending, p->x, p);
		if (p->granted)
			granted(st, p);
		else if (!p->gone)
			desk_too_late(st, p->listener, p->incarnation,
			    p->e.serial);
		free(p);
	}
}

static struct pending *
pending_of(uint64_t x, uint32_t listener, uint64_t serial)
{
	struct pending	*p;

	for (size_t i = htab_first(&cl.pending, x);
	    (p = htab_at(&cl.pending, x, &i)) != NULL; i++)
		if (p->x == x && p->listener == listener &&
		    p->e.serial == serial)
			return p;
	return NULL;
}

static struct pending *
pending_new(uint64_t x, uint32_t listener, uint64_t incarnation,
    const struct session_msg *e)
{
	struct pending	*p = malloc(sizeof(*p) + e->client_id.len +
			    e->will.len);

	if (p == NULL)
		return NULL;
	memset(p, 0, sizeof(*p));
	p->x = x;
	p->listener = listener;
	p->incarnation = incarnation;
	p->e = *e;
	memcpy(p->bytes, e->client_id.data, e->client_id.len);
	p->e.client_id.data = p->bytes;
	p->e.will.data = p->bytes + e->client_id.len;
	if (e->will.len > 0)
		memcpy(p->bytes + e->client_id.len, e->will.data,
		    e->will.len);
	if (htab_add(&cl.pending, x, p) < 0) {
		free(p);
		return NULL;
	}
	return p;
}

bool
claims_attach(struct store *st, uint32_t listener, const struct session_msg *e)
{
	const struct holder	*d;
	struct pending		*p;
	uint64_t		 x;

	if (!cl.on)
		return false;
	d = desk_find(st, e->client_id.data, e->client_id.len);
	if (d != NULL && d->connected && d->listener == listener &&
	    d->serial == e->serial)
		return false;		/* said again, and granted before */
	x = hash_of(e->client_id.data, e->client_id.len);
	if (pending_of(x, listener, e->serial) != NULL)
		return true;
	if ((p = pending_new(x, listener, st->peers[listener].incarnation,
	    e)) == NULL)
		return false;		/* at least one on this node */
	if (desk_attach_at(&cl.desk, x, (uint64_t)(uintptr_t)p,
	    MIN(MAX(e->time, 1), (uint64_t)CLAIM_EPOCH_MAX / 2),
	    mono_ms()) < 0) {
		htab_del(&cl.pending, x, p);
		free(p);
		return false;
	}
	run(st);
	return true;
}

bool
claims_detach(struct store *st UNUSED, uint32_t listener,
    const struct session_msg *e)
{
	struct pending	*p;

	if (!cl.on || cl.pending.n == 0 || (p = pending_of(
	    hash_of(e->client_id.data, e->client_id.len), listener,
	    e->serial)) == NULL)
		return false;
	p->gone = true;
	p->end = *e;
	p->end.client_id = p->e.client_id;
	return true;
}

/* --- The router ----------------------------------------------------------- */

static void
forget_out(void)
{
	claim_out_clear(&cl.out);
	cl.is_short = false;
}

/* There is nobody to be asked: all goes on as on a node alone. */
static void
turn_off(struct store *st)
{
	struct pending	*p;

	cl.on = false;
	desk_fini(&cl.desk);
	forget_out();
	empty(&cl.rivals);
	cl.answered = NULL;
	cl.tail = &cl.answered;
	for (size_t i = 0; cl.pending.cells != NULL && i <= cl.pending.mask;
	    i++)
		if ((p = cl.pending.cells[i].item) != NULL &&
		    (!p->gone || p->e.opened) &&
		    st->peers[p->listener].bus != NULL &&
		    st->peers[p->listener].incarnation == p->incarnation) {
			desk_attach_now(st, p->listener, &p->e);
			if (p->gone)
				desk_detach_now(st, p->listener, &p->end);
		}
	empty(&cl.pending);
	log_info("claims.off", "shard=%" PRIu32, st->shard);
}

static void
self(struct store *st, const struct claim_msg *m)
{
	uint8_t	key[16];

	put_le64(key, m->x);
	put_le64(key + 8, m->asked);
	if (cl.on && (m->epoch == 0 || m->node != cl.desk.node ||
	    memcmp(key, cl.key, sizeof(key)) != 0))
		turn_off(st);
	if (m->epoch == 0)
		return;
	if (!cl.on) {
		memcpy(cl.key, key, sizeof(key));
		desk_init(&cl.desk, m->node, &ops, NULL);
		cl.on = true;
		have_all(st);
		log_info("claims.on", "shard=%" PRIu32 " others=%" PRIu64
		    " clients=%zu", st->shard, m->epoch, cl.desk.clients.n);
	}
	cl.is_there = m->flags & CLAIM_CONNECTED;
	if (!cl.is_there) {
		desk_down(&cl.desk);
		forget_out();
	} else if (!cl.desk.up)
		desk_up(&cl.desk);
}

int
on_claim(void *ctx, struct bus_frame *f)
{
	struct store		*st = ctx;
	struct claim_msg	 m;
	struct wire_in		 in;
	int			 rc;

	/* PEERS is late, or has gone on. */
	if (st->tell.router == NULL ||
	    st->tell.router_incarnation != f->from.incarnation)
		return f->from.incarnation > st->tell.router_incarnation ?
		    ERR_AGAIN : 0;
	if (!log_room_back(st))
		return ERR_AGAIN;
	cl.router = f->from.incarnation;
	wire_in_init(&in, f->body, f->len);
	while ((rc = claim_msg_next(&in, &m)) == 1) {
		if (m.kind == CLAIM_SELF)
			self(st, &m);
		else if (m.kind == CLAIM_RELEASE)
			released(st, &m);
		else if (cl.on)
			desk_take(&cl.desk, &m, mono_ms());
		run(st);
	}
	return rc;
}

void
claims_flush(struct store *st)
{
	struct slice	body;

	if (!cl.on)
		return;
	if (cl.is_short) {		/* it hears all from the beginning */
		log_error("claims.short", "shard=%" PRIu32, st->shard);
		desk_down(&cl.desk);
		forget_out();
		cl.again_ms = mono_ms() + AGAIN_MS;
	}
	if (st->tell.router == NULL || st->tell.router_incarnation !=
	    cl.router) {
		desk_down(&cl.desk);
		forget_out();
		return;
	}
	while ((body = claim_out_first(&cl.out)).len > 0) {
		if (bus_stream_send(st->tell.router, KIND_CLAIM, body.data,
		    body.len, NULL) < 0)
			return;		/* the next turn, or tick */
		claim_out_shift(&cl.out);
	}
}

void
claims_tick(struct store *st)
{
	metric_set(&m_claims_known, cl.on && cl.desk.up && cl.desk.confirmed);
	if (!cl.on)
		return;
	desk_tick(&cl.desk, mono_ms());
	run(st);
	rivals_release(st);
	if (cl.again_ms != 0 && mono_ms() >= cl.again_ms) {
		cl.again_ms = 0;
		if (!cl.desk.up && cl.is_there)
			desk_up(&cl.desk);
	}
}

void
claims_open(void)
{
	htab_init(&cl.pending);
	htab_init(&cl.rivals);
	cl.tail = &cl.answered;
}

void
claims_close(void)
{
	if (cl.on)
		desk_fini(&cl.desk);
	cl.on = false;
	forget_out();
	empty(&cl.pending);
	empty(&cl.rivals);
	cl.answered = NULL;
	cl.tail = &cl.answered;
}

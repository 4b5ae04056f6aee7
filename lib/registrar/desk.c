#include "registrar/desk.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct client {
	struct claim_holder	h;		/* flags 0: not held */
	uint64_t		x;
	uint64_t		token, asked, deadline_ms;
	uint64_t		told;		/* number of its row */
	uint64_t		next;		/* token of the newest waiting */
	bool			asking, waiting, provisional;
};

void
desk_init(struct desk *d, uint64_t node, const struct desk_ops *ops, void *ctx)
{
	memset(d, 0, sizeof(*d));
	d->node = node;
	d->ops = ops;
	d->ctx = ctx;
	htab_init(&d->clients);
}

static struct client *
next_client(const struct desk *d, size_t *cell)
{
	struct client	*c;

	if (d->clients.cells == NULL)
		return NULL;
	while (*cell <= d->clients.mask)
		if ((c = d->clients.cells[(*cell)++].item) != NULL)
			return c;
	return NULL;
}

void
desk_fini(struct desk *d)
{
	struct client	*c;

	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		free(c);
	htab_fini(&d->clients);
}

static struct client *
find(const struct desk *d, uint64_t x)
{
	size_t	i = htab_first(&d->clients, x);

	return htab_at(&d->clients, x, &i);
}

static struct client *
find_or_make(struct desk *d, uint64_t x)
{
	struct client	*c = find(d, x);

	if (c != NULL)
		return c;
	if ((c = calloc(1, sizeof(*c))) == NULL)
		return NULL;
	c->x = x;
	c->h.node = d->node;
	if (htab_add(&d->clients, x, c) < 0) {
		free(c);
		return NULL;
	}
	return c;
}

static void
forget_if_idle(struct desk *d, struct client *c)
{
	if (c->h.flags != 0 || c->asking || c->waiting)
		return;
	htab_del(&d->clients, c->x, c);
	free(c);
}

static void
tell(struct desk *d, uint8_t kind, struct client *c)
{
	struct claim_msg	m = { .kind = kind, .node = d->node };

	if (!d->up)
		return;
	m.asked = ++d->told;
	if (c != NULL) {
		c->told = d->told;
		m.x = c->x;
		m.epoch = c->h.epoch;
		m.flags = c->h.flags |
		    (c->provisional ? CLAIM_PROVISIONAL : 0);
	}
	d->ops->send(d->ctx, &m);
}

static void
grant(struct desk *d, struct client *c, struct claim_msg *m)
{
	c->asking = false;
	c->provisional = (m->flags & CLAIM_PROVISIONAL) != 0;
	c->h.epoch = MAX(m->epoch, c->h.epoch + 1);
	c->h.flags |= CLAIM_CONNECTED | CLAIM_MOVING;
	m->x = c->x;
	m->node = d->node;
	m->epoch = c->h.epoch;
	tell(d, CLAIM_ROW, c);
	d->ops->grant(d->ctx, c->token, m);
}

static void
begin(struct desk *d, struct client *c, uint64_t token, uint64_t now_ms)
{
	struct claim_msg	m = { .kind = CLAIM_ATTACH, .node = d->node };

	c->token = token;
	m.x = c->x;
	d->clock = MAX(c->h.epoch, d->clock) + 1;
	m.epoch = d->clock;
	if (c->h.flags != 0 && d->up && d->confirmed && !c->provisional) {
		grant(d, c, &m);
		return;
	}
	c->asking = true;
	c->asked = m.epoch;
	c->deadline_ms = now_ms + DESK_WAIT_MS;
	if (d->up)
		d->ops->send(d->ctx, &m);
}

void
desk_clock(struct desk *d, uint64_t hybrid)
{
	d->clock = MAX(d->clock, hybrid);
}

int
desk_restore(struct desk *d, uint64_t x, uint64_t epoch)
{
	struct client	*c;

	if ((c = find_or_make(d, x)) == NULL)
		return ERR_NOMEM;
	c->h.epoch = epoch;
	c->h.flags = CLAIM_DURABLE;
	return 0;
}

int
desk_attach(struct desk *d, uint64_t x, uint64_t token, uint64_t now_ms)
{
	struct client	*c;

	if ((c = find_or_make(d, x)) == NULL)
		return ERR_NOMEM;
	if (!c->asking && !(c->h.flags & CLAIM_MOVING)) {
		begin(d, c, token, now_ms);
		return 0;
	}
	if (c->waiting)
		d->ops->refuse(d->ctx, x, c->next);
	c->waiting = true;
	c->next = token;
	return 0;
}

static void
next_attach(struct desk *d, struct client *c, uint64_t now_ms)
{
	if (c->waiting) {
		c->waiting = false;
		begin(d, c, c->next, now_ms);
	} else
		forget_if_idle(d, c);
}

void
desk_settled(struct desk *d, uint64_t x, uint64_t now_ms)
{
	struct client	*c = find(d, x);

	if (c == NULL || !(c->h.flags & CLAIM_MOVING))
		return;
	c->h.flags &= (uint8_t)~CLAIM_MOVING;
	tell(d, c->h.flags != 0 ? CLAIM_ROW : CLAIM_GONE, c);
	next_attach(d, c, now_ms);
}

void
desk_state(struct desk *d, uint64_t x, uint8_t flags)
{
	struct client	*c = find(d, x);
	uint8_t		 moving;

	if (c == NULL || c->h.flags == 0)
		return;
	moving = c->h.flags & CLAIM_MOVING;
	c->h.flags = moving | (flags & (CLAIM_DURABLE | CLAIM_CONNECTED));
	tell(d, c->h.flags != 0 ? CLAIM_ROW : CLAIM_GONE, c);
	forget_if_idle(d, c);
}

void
desk_gone(struct desk *d, uint64_t x, uint64_t now_ms)
{
	struct client	*c = find(d, x);

	if (c == NULL || c->h.flags == 0)
		return;
	c->h.flags = 0;
	tell(d, CLAIM_GONE, c);
	if (!c->asking)
		next_attach(d, c, now_ms);
}

bool
desk_holds(const struct desk *d, uint64_t x, struct claim_holder *h)
{
	const struct client	*c = find(d, x);

	if (c == NULL || c->h.flags == 0)
		return false;
	*h = c->h;
	return true;
}

bool
desk_is_confirmed(const struct desk *d, uint64_t x)
{
	const struct client	*c = find(d, x);

	return c != NULL && c->h.flags != 0 && d->up && d->confirmed &&
	    !c->provisional;
}

void
desk_up(struct desk *d)
{
	struct client		*c;
	struct claim_msg	 m = { .kind = CLAIM_ATTACH, .node = d->node };

	d->up = true;
	d->confirmed = false;
	tell(d, CLAIM_UPLOAD, NULL);
	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		if (c->h.flags != 0)
			tell(d, CLAIM_ROW, c);
	tell(d, CLAIM_UPLOADED, NULL);
	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		if (c->asking) {
			m.x = c->x;
			m.epoch = c->asked;
			d->ops->send(d->ctx, &m);
		}
}

static void
give_up_asking(struct desk *d, struct client *c)
{
	struct claim_msg	m = { .kind = CLAIM_GRANT };

	m.flags = CLAIM_PROVISIONAL;
	m.epoch = c->asked;
	grant(d, c, &m);
}

void
desk_down(struct desk *d)
{
	d->up = false;
	d->confirmed = false;
	/* Who asks does so until its time is over: a router that comes back
	 * or another core may be there before. */
}

void
desk_tick(struct desk *d, uint64_t now_ms)
{
	struct client	*c;

	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		if (c->asking && now_ms >= c->deadline_ms)
			give_up_asking(d, c);
}

/* A grant or lost that we no longer waited for, or told of another holder. */
static void
merge(struct desk *d, struct client *c, const struct claim_msg *m)
{
	struct claim_msg	out = { .kind = CLAIM_MERGE };
	uint64_t		high = 0;

	if (c->h.flags & CLAIM_MOVING)
		return;		/* rows are compared again when it ends */
	out.x = c->x;
	out.node = d->node;
	for (unsigned i = 0; i < m->nholders; i++)
		if (m->holders[i].flags & CLAIM_UNSURE ||
		    claim_beats(&c->h, &m->holders[i]))
			claim_add(&out, &m->holders[i]);
	if (out.nholders == 0)
		return;
	/* A release under no higher epoch would be refused. */
	for (unsigned i = 0; i < out.nholders; i++)
		high = MAX(high, out.holders[i].epoch + 1);
	if (high > c->h.epoch) {
		c->h.epoch = high;
		tell(d, CLAIM_ROW, c);
	}
	out.epoch = c->h.epoch;
	d->ops->merge(d->ctx, &out);
}

static void
confirm(struct desk *d, uint64_t told)
{
	struct client	*c;

	d->confirmed = true;
	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		if (c->told <= told && !(c->h.flags & CLAIM_MOVING))
			c->provisional = false;
}

/* We no longer wait for it, but the registrar believes that it is ours under
 * m->epoch, and takes no word of us that is older. */
static void
late_grant(struct desk *d, struct client *c, const struct claim_msg *m)
{
	struct client	none = { .x = m->x, .h.epoch = m->epoch };

	if (c != NULL && c->asking && m->asked == c->asked)
		return;
	d->clock = MAX(d->clock, m->epoch);
	if (c == NULL || c->h.flags == 0) {
		tell(d, CLAIM_GONE, &none);
	} else if (c->h.epoch < m->epoch) {
		c->h.epoch = m->epoch;
		tell(d, CLAIM_ROW, c);
	}
}

void
desk_take(struct desk *d, const struct claim_msg *m, uint64_t now_ms)
{
	struct client		*c = find(d, m->x);
	struct claim_msg	 g = *m;
	uint64_t		 token;

	if (m->kind == CLAIM_CONFIRMED)
		confirm(d, m->asked);
	else if (m->kind == CLAIM_UNCONFIRMED)
		d->confirmed = false;
	if (m->kind == CLAIM_GRANT)
		late_grant(d, c, m);
	if (c == NULL)
		return;
	if (m->kind == CLAIM_MERGE && c->h.flags != 0)
		merge(d, c, m);
	if (m->kind == CLAIM_GRANT && c->h.flags != 0 &&
	    (!c->asking || m->asked != c->asked))
		merge(d, c, m);
	if (!c->asking || m->asked != c->asked)
		return;
	if (m->kind == CLAIM_GRANT)
		grant(d, c, &g);
	else if (m->kind == CLAIM_WAIT)
		c->deadline_ms = now_ms + DESK_WAIT_MS;
	else if (m->kind == CLAIM_LOST) {
		token = c->token;
		c->asking = false;
		d->ops->refuse(d->ctx, c->x, token);
		next_attach(d, c, now_ms);
	}
}

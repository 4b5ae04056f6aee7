#include "registrar/desk.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

/* What a client has only while an attach of it is under way, or after one that
 * was granted provisionally. */
struct desk_attempt {
	TAILQ_ENTRY(desk_attempt) ask, prov;
	struct client		*client;
	uint64_t		token, asked, deadline_ms;
	uint64_t		told;		/* number of its row */
	uint64_t		next;		/* token of who waits, */
	uint64_t		next_time;	/* and when it connected */
	bool			asking, waiting, provisional;
};

struct client {
	uint64_t		x, epoch;
	struct desk_attempt	*now;		/* or NULL */
	uint8_t			flags;		/* 0: not held */
};

void
desk_init(struct desk *d, uint64_t node, const struct desk_ops *ops, void *ctx)
{
	memset(d, 0, sizeof(*d));
	d->node = node;
	d->ops = ops;
	d->ctx = ctx;
	htab_init(&d->clients);
	TAILQ_INIT(&d->asking);
	TAILQ_INIT(&d->provisional);
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

	for (size_t i = 0; (c = next_client(d, &i)) != NULL;) {
		free(c->now);
		free(c);
	}
	htab_fini(&d->clients);
}

static struct client *
find(const struct desk *d, uint64_t x)
{
	struct client	*c;

	for (size_t i = htab_first(&d->clients, x);
	    (c = htab_at(&d->clients, x, &i)) != NULL && c->x != x; i++)
		;
	return c;
}

static struct claim_holder
holder(const struct desk *d, const struct client *c)
{
	return (struct claim_holder){ d->node, c->epoch, c->flags };
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
	if (htab_add(&d->clients, x, c) < 0) {
		free(c);
		return NULL;
	}
	return c;
}

static bool
is_asking(const struct client *c)
{
	return c->now != NULL && c->now->asking;
}

static bool
is_waiting(const struct client *c)
{
	return c->now != NULL && c->now->waiting;
}

static bool
is_provisional(const struct client *c)
{
	return c->now != NULL && c->now->provisional;
}

static void
set_asking(struct desk *d, struct desk_attempt *a, bool on)
{
	if (a->asking)
		TAILQ_REMOVE(&d->asking, a, ask);
	if (on)
		TAILQ_INSERT_TAIL(&d->asking, a, ask);
	a->asking = on;
}

static void
set_provisional(struct desk *d, struct desk_attempt *a, bool on)
{
	if (a->provisional != on && on)
		TAILQ_INSERT_TAIL(&d->provisional, a, prov);
	else if (a->provisional != on)
		TAILQ_REMOVE(&d->provisional, a, prov);
	a->provisional = on;
}

/* Forget what is there no more. */
static void
tidy(struct desk *d, struct client *c)
{
	struct desk_attempt	*a = c->now;

	if (a != NULL && c->flags == 0)
		set_provisional(d, a, false);
	if (a != NULL && !a->asking && !a->waiting && !a->provisional) {
		free(a);
		c->now = NULL;
	}
	if (c->flags != 0 || c->now != NULL)
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
		if (c->now != NULL)
			c->now->told = d->told;
		m.x = c->x;
		m.epoch = c->epoch;
		m.flags = c->flags |
		    (is_provisional(c) ? CLAIM_PROVISIONAL : 0);
	}
	d->ops->send(d->ctx, &m);
}

/* c has an attempt: its token goes on. */
static void
grant(struct desk *d, struct client *c, struct claim_msg *m)
{
	uint64_t	token = c->now->token;

	set_asking(d, c->now, false);
	set_provisional(d, c->now, (m->flags & CLAIM_PROVISIONAL) != 0);
	c->epoch = MAX(m->epoch, c->epoch + 1);
	c->flags |= CLAIM_CONNECTED | CLAIM_MOVING;
	m->x = c->x;
	m->node = d->node;
	m->epoch = c->epoch;
	tell(d, CLAIM_ROW, c);
	tidy(d, c);
	d->ops->grant(d->ctx, token, m);
}

static void
ask(struct desk *d, const struct client *c)
{
	struct claim_msg	m = { .kind = CLAIM_ATTACH, .x = c->x };

	m.node = d->node;
	m.epoch = c->now->asked;
	if (d->up)
		d->ops->send(d->ctx, &m);
}

static void
begin(struct desk *d, struct client *c, uint64_t token, uint64_t time,
    uint64_t now_ms)
{
	struct claim_msg	m = { .kind = CLAIM_ATTACH };

	c->now->token = token;
	if (time == 0)
		m.epoch = d->clock = MAX(c->epoch, d->clock) + 1;
	else
		m.epoch = MAX(time, MAX(c->epoch, c->now->asked) + 1);
	if (c->flags != 0 && d->up && d->confirmed && !is_provisional(c)) {
		grant(d, c, &m);
		return;
	}
	set_asking(d, c->now, true);
	c->now->asked = m.epoch;
	c->now->deadline_ms = now_ms + DESK_WAIT_MS;
	ask(d, c);
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
	c->epoch = epoch;
	c->flags = CLAIM_DURABLE;
	return 0;
}

int
desk_attach(struct desk *d, uint64_t x, uint64_t token, uint64_t now_ms)
{
	return desk_attach_at(d, x, token, 0, now_ms);
}

int
desk_attach_at(struct desk *d, uint64_t x, uint64_t token, uint64_t time,
    uint64_t now_ms)
{
	struct client	*c;

	if ((c = find_or_make(d, x)) == NULL)
		return ERR_NOMEM;
	if (c->now == NULL) {
		if ((c->now = calloc(1, sizeof(*c->now))) == NULL) {
			tidy(d, c);
			return ERR_NOMEM;
		}
		c->now->client = c;
	}
	if (!is_asking(c) && !(c->flags & CLAIM_MOVING)) {
		begin(d, c, token, time, now_ms);
		return 0;
	}
	if (is_waiting(c))
		d->ops->refuse(d->ctx, x, c->now->next);
	c->now->waiting = true;
	c->now->next = token;
	c->now->next_time = time;
	return 0;
}

static void
next_attach(struct desk *d, struct client *c, uint64_t now_ms)
{
	if (is_waiting(c)) {
		c->now->waiting = false;
		begin(d, c, c->now->next, c->now->next_time, now_ms);
	} else
		tidy(d, c);
}

void
desk_settled(struct desk *d, uint64_t x, uint64_t now_ms)
{
	struct client	*c = find(d, x);

	if (c == NULL || !(c->flags & CLAIM_MOVING))
		return;
	c->flags &= (uint8_t)~CLAIM_MOVING;
	tell(d, c->flags != 0 ? CLAIM_ROW : CLAIM_GONE, c);
	next_attach(d, c, now_ms);
}

void
desk_state(struct desk *d, uint64_t x, uint8_t flags)
{
	struct client	*c = find(d, x);
	uint8_t		 moving;

	if (c == NULL || c->flags == 0)
		return;
	moving = c->flags & CLAIM_MOVING;
	c->flags = moving | (flags & (CLAIM_DURABLE | CLAIM_CONNECTED));
	tell(d, c->flags != 0 ? CLAIM_ROW : CLAIM_GONE, c);
	tidy(d, c);
}

void
desk_gone(struct desk *d, uint64_t x, uint64_t now_ms)
{
	struct client	*c = find(d, x);

	if (c == NULL || c->flags == 0)
		return;
	c->flags = 0;
	tell(d, CLAIM_GONE, c);
	if (!is_asking(c))
		next_attach(d, c, now_ms);
}

bool
desk_holds(const struct desk *d, uint64_t x, struct claim_holder *h)
{
	const struct client	*c = find(d, x);

	if (c == NULL || c->flags == 0)
		return false;
	*h = holder(d, c);
	return true;
}

bool
desk_is_confirmed(const struct desk *d, uint64_t x)
{
	const struct client	*c = find(d, x);

	return c != NULL && c->flags != 0 && d->up && d->confirmed &&
	    !is_provisional(c);
}

void
desk_up(struct desk *d)
{
	struct desk_attempt	*a;
	struct client		*c;

	d->up = true;
	d->confirmed = false;
	tell(d, CLAIM_UPLOAD, NULL);
	for (size_t i = 0; (c = next_client(d, &i)) != NULL;)
		if (c->flags != 0)
			tell(d, CLAIM_ROW, c);
	tell(d, CLAIM_UPLOADED, NULL);
	TAILQ_FOREACH(a, &d->asking, ask)
		ask(d, a->client);
}

static void
give_up_asking(struct desk *d, struct client *c)
{
	struct claim_msg	m = { .kind = CLAIM_GRANT };

	m.flags = CLAIM_PROVISIONAL;
	m.epoch = c->now->asked;
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
	struct desk_attempt	*a;

	while ((a = TAILQ_FIRST(&d->asking)) != NULL &&
	    now_ms >= a->deadline_ms)
		give_up_asking(d, a->client);
}

/* A grant or lost that we no longer waited for, or told of another holder. */
static void
merge(struct desk *d, struct client *c, const struct claim_msg *m)
{
	struct claim_msg	out = { .kind = CLAIM_MERGE };
	struct claim_holder	own = holder(d, c);
	uint64_t		high = 0;

	if (c->flags & CLAIM_MOVING)
		return;		/* rows are compared again when it ends */
	out.x = c->x;
	out.node = d->node;
	for (unsigned i = 0; i < m->nholders; i++)
		if (m->holders[i].flags & CLAIM_UNSURE ||
		    claim_beats(&own, &m->holders[i]))
			claim_add(&out, &m->holders[i]);
	if (out.nholders == 0)
		return;
	/* A release under no higher epoch would be refused. */
	for (unsigned i = 0; i < out.nholders; i++)
		high = MAX(high, out.holders[i].epoch + 1);
	if (high > c->epoch) {
		c->epoch = high;
		tell(d, CLAIM_ROW, c);
	}
	out.epoch = c->epoch;
	d->ops->merge(d->ctx, &out);
}

static void
confirm(struct desk *d, uint64_t told)
{
	struct desk_attempt	*a, *next;

	d->confirmed = true;
	for (a = TAILQ_FIRST(&d->provisional); a != NULL; a = next) {
		next = TAILQ_NEXT(a, prov);
		if (a->told <= told && !(a->client->flags & CLAIM_MOVING)) {
			set_provisional(d, a, false);
			tidy(d, a->client);
		}
	}
}

/* We no longer wait for it, but the registrar believes that it is ours under
 * m->epoch, and takes no word of us that is older. */
static void
late_grant(struct desk *d, struct client *c, const struct claim_msg *m)
{
	struct client	none = { .x = m->x, .epoch = m->epoch };

	if (c != NULL && is_asking(c) && m->asked == c->now->asked)
		return;
	d->clock = MAX(d->clock, m->epoch);
	if (c == NULL || c->flags == 0) {
		tell(d, CLAIM_GONE, &none);
	} else if (c->epoch < m->epoch) {
		c->epoch = m->epoch;
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
	if (m->kind == CLAIM_MERGE && c->flags != 0)
		merge(d, c, m);
	if (m->kind == CLAIM_GRANT && c->flags != 0 &&
	    (!is_asking(c) || m->asked != c->now->asked))
		merge(d, c, m);
	if (!is_asking(c) || m->asked != c->now->asked)
		return;
	if (m->kind == CLAIM_GRANT)
		grant(d, c, &g);
	else if (m->kind == CLAIM_WAIT) {
		c->now->deadline_ms = now_ms + DESK_WAIT_MS;
		set_asking(d, c->now, true);	/* behind the others */
	} else if (m->kind == CLAIM_LOST) {
		token = c->now->token;
		set_asking(d, c->now, false);
		d->ops->refuse(d->ctx, c->x, token);
		next_attach(d, c, now_ms);
	}
}

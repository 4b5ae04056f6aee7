#include "member/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"

enum { FIRST_SIZE = 16 };

/* --- Sets of join ids ---------------------------------------------------- */

bool
ids_has(const struct ids *s, uint64_t id)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->at[i] == id)
			return true;
	return false;
}

int
ids_add(struct ids *s, uint64_t id)
{
	uint32_t	 size = s->size == 0 ? 8 : 2 * s->size;
	uint64_t	*at;

	if (ids_has(s, id))
		return 0;
	if (s->n == s->size) {
		if ((at = realloc(s->at, size * sizeof(*at))) == NULL)
			return ERR_NOMEM;
		s->at = at;
		s->size = size;
	}
	s->at[s->n++] = id;
	return 0;
}

/* --- Finding ------------------------------------------------------------- */

/* The first row with a join id not below. */
static uint32_t
lower_bound(const struct members *m, uint64_t join)
{
	uint32_t lo = 0, hi = m->n, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (m->rows[mid]->row.join < join)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct entry *
entry_find(const struct members *m, uint64_t join)
{
	uint32_t i = lower_bound(m, join);

	return i < m->n && m->rows[i]->row.join == join ? m->rows[i] : NULL;
}

struct entry *
entry_named(const struct members *m, const char *name)
{
	uint32_t i;

	for (i = 0; i < m->n; i++)
		if (m->rows[i]->member &&
		    strcmp(m->rows[i]->row.name, name) == 0)
			return m->rows[i];
	return NULL;
}

bool
uuid_is_forced(const struct members *m, const uint8_t *uuid)
{
	uint32_t i;

	for (i = 0; m->nforced > 0 && i < m->n; i++)
		if (m->rows[i]->row.state == MEMBER_FORCED &&
		    !m->rows[i]->pruned && id_is(m->rows[i]->row.uuid, uuid))
			return true;
	return false;
}

bool
counts_as_core(const struct entry *e)
{
	return e->member && e->row.role == MEMBER_CORE;
}

/* --- Who is a member ----------------------------------------------------- */

static bool
is_in(const struct entry *e)
{
	return e->row.state == MEMBER_IN && !e->pruned;
}

/* The latest who is in with this name, and was not forced out. */
static struct entry *
latest_named(const struct members *m, const char *name)
{
	struct entry	*e, *best = NULL;
	uint32_t	 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (is_in(e) && strcmp(e->row.name, name) == 0 &&
		    !uuid_is_forced(m, e->row.uuid) &&
		    (best == NULL || is_later(&e->row, &best->row)))
			best = e;
	}
	return best;
}

static bool
is_related(const struct entry *a, const struct entry *b)
{
	return a == b || strcmp(a->row.name, b->row.name) == 0 ||
	    id_is(a->row.uuid, b->row.uuid);
}

void
tell(struct members *m, enum member_event_kind kind,
    const struct member_row *row, const struct member_row *old)
{
	struct member_event ev = { .kind = kind, .row = row, .old = old };

	if (!m->quiet)
		m->calls->event(m->ctx, &ev);
}

static void
tell_lost(struct members *m, const struct entry *came)
{
	const struct entry	*e;
	uint32_t		 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (e->was && !e->member &&
		    strcmp(e->row.name, came->row.name) == 0 &&
		    !id_is(e->row.uuid, came->row.uuid))
			tell(m, MEMBER_EV_DISK_LOST, &came->row, &e->row);
	}
}

static bool
is_self(const struct members *m, const struct entry *e)
{
	return e->row.join == m->self_join;
}

/* e is not what it was: who is a member now? */
static void
settle(struct members *m, const struct entry *e)
{
	struct entry	*f;
	uint32_t	 i;

	for (i = 0; i < m->n; i++) {
		f = m->rows[i];
		f->was = f->member;
		if (is_related(e, f))
			f->member = is_in(f) &&
			    latest_named(m, f->row.name) == f;
	}
	for (i = 0; i < m->n; i++) {
		f = m->rows[i];
		if (!f->was || f->member || is_self(m, f) ||
		    (m->self != NULL && id_is(f->row.uuid,
		    m->self->row.uuid)))
			continue;	/* ours of before, too */
		tell(m, MEMBER_EV_WENT, &f->row, NULL);
	}
	for (i = 0; i < m->n; i++) {
		f = m->rows[i];
		if (f->was || !f->member || is_self(m, f))
			continue;
		m->joined |= m->self_join != 0;
		tell(m, MEMBER_EV_CAME, &f->row, NULL);
		tell_lost(m, f);
	}
}

/* --- Changing ------------------------------------------------------------ */

void
touch(struct members *m, struct entry *e)
{
	m->serial++;
	if (e == NULL)
		return;
	e->serial = m->serial;
	e->unsaid = true;
	e->have.n = 0;
}

static uint32_t *
counter_of(struct members *m, enum member_state state)
{
	switch (state) {
	case MEMBER_IN:
		return &m->nin;
	case MEMBER_LEFT:
	case MEMBER_CLEANED:
		return &m->nended;
	case MEMBER_FORCED:
		return &m->nforced;
	}
	assert(!"a state");
	return NULL;
}

static void
entry_free(struct entry *e)
{
	free(e->have.at);
	free(e->sees.at);
	free(e);
}

static void
entry_remove(struct members *m, struct entry *e)
{
	uint32_t i = lower_bound(m, e->row.join);

	memmove(m->rows + i, m->rows + i + 1,
	    (--m->n - i) * sizeof(*m->rows));
	entry_free(e);
}

void
rows_free(struct members *m)
{
	while (m->n > 0)
		entry_free(m->rows[--m->n]);
	free(m->rows);
	m->rows = NULL;
	m->size = m->nin = m->nended = m->nforced = 0;
	m->self = NULL;
	m->self_join = 0;
}

static struct entry *
entry_add(struct members *m, const struct member_row *row)
{
	uint32_t	 i = lower_bound(m, row->join);
	uint32_t	 size = m->size == 0 ? FIRST_SIZE : 2 * m->size;
	struct entry	*e, **rows;

	if (m->n == m->size) {
		if ((rows = realloc(m->rows, size * sizeof(*rows))) == NULL)
			return NULL;
		m->rows = rows;
		m->size = size;
	}
	if ((e = calloc(1, sizeof(*e))) == NULL)
		return NULL;
	e->row = *row;
	memmove(m->rows + i + 1, m->rows + i,
	    (m->n++ - i) * sizeof(*m->rows));
	m->rows[i] = e;
	++*counter_of(m, row->state);
	return e;
}

static int
version_cmp(const struct member_version *a, const struct member_version *b)
{
	if (a->clock != b->clock)
		return a->clock < b->clock ? -1 : 1;
	return a->node < b->node ? -1 : a->node > b->node;
}

/* The oldest of those that are counted with `state`, which is not `in`. */
static struct entry *
oldest_ended(const struct members *m, enum member_state state)
{
	struct entry	*e, *old = NULL;
	uint32_t	 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (!e->pruned && e->row.state != MEMBER_IN &&
		    (e->row.state == MEMBER_FORCED) ==
		    (state == MEMBER_FORCED) && !is_self(m, e) &&
		    (old == NULL || version_cmp(&e->row.version,
		    &old->row.version) < 0))
			old = e;
	}
	return old;
}

/*
 * Only the newest so many of the past are kept: of two tables put together the
 * same ones as of either after the other's rows, so all agree on them.
 */
static void
prune(struct members *m, enum member_state state)
{
	uint32_t	*count = counter_of(m, state);
	struct entry	*e;

	while (state != MEMBER_IN && *count > MEMBERS_ENDED_MAX) {
		if ((e = oldest_ended(m, state)) == NULL)
			return;
		--*count;
		touch(m, e);
		e->pruned = true;
		settle(m, e);
		/* A replicant has no stream to delete it from. */
		if (m->self != NULL && m->self->row.role != MEMBER_CORE)
			entry_remove(m, e);
	}
}

/* Is a row of the past too far back to be kept? */
static bool
is_forgotten(struct members *m, const struct member_row *row)
{
	const struct entry *old;

	if (row->state == MEMBER_IN ||
	    *counter_of(m, row->state) < MEMBERS_ENDED_MAX)
		return false;
	old = oldest_ended(m, row->state);
	return old != NULL &&
	    version_cmp(&row->version, &old->row.version) < 0;
}

static bool
is_same_node(const struct member_row *a, const struct member_row *b)
{
	return strcmp(a->name, b->name) == 0 && id_is(a->uuid, b->uuid) &&
	    a->joined == b->joined;
}

static int
apply(struct members *m, const struct member_row *row, struct entry **out)
{
	struct entry *e = entry_find(m, row->join);

	*out = e;
	/* What never changes of a row. */
	if (e != NULL && !is_same_node(&e->row, row))
		return ERR_PROTO;
	if (e != NULL && member_row_cmp(row, &e->row) <= 0)
		return 0;
	if (is_forgotten(m, row)) {
		/* It came to an end so long ago that it goes at once. */
		if (e == NULL || e->pruned)
			return 0;
	}
	if (e == NULL || e->pruned) {
		if (row->state == MEMBER_IN && m->nin >= MEMBERS_IN_MAX)
			return ERR_FULL;
		if (e == NULL) {
			if ((e = entry_add(m, row)) == NULL)
				return ERR_NOMEM;
		} else {
			++*counter_of(m, row->state);
		}
	} else {
		--*counter_of(m, e->row.state);
		++*counter_of(m, row->state);
	}
	e->row = *row;
	e->pruned = false;
	touch(m, e);
	*out = e;
	return 1;
}

/*
 * A core writes down what follows for rows that are still `in`: each the same,
 * with a version of its own that follows from the rows too.
 */
static void
mark(struct members *m, const struct entry *cause)
{
	struct member_row	 row;
	const struct entry	*w;
	struct entry		*e;
	uint32_t		 i;

	if (m->self == NULL || m->self->row.role != MEMBER_CORE)
		return;
	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (!is_in(e) || e->member || is_self(m, e) ||
		    !is_related(cause, e))
			continue;
		row = e->row;
		row.state = uuid_is_forced(m, row.uuid) ? MEMBER_FORCED :
		    MEMBER_LEFT;
		w = latest_named(m, row.name);
		row.version.clock = MAX(row.version.clock,
		    w != NULL ? w->row.version.clock : 0) + 1;
		row.version.node = 0;
		--*counter_of(m, e->row.state);
		++*counter_of(m, row.state);
		e->row = row;
		touch(m, e);
	}
}

int
merge(struct members *m, const struct member_row *row, struct entry **out)
{
	struct entry	*e;
	uint64_t	 join = row->join;
	int		 rc = apply(m, row, &e);

	if (rc > 0) {
		settle(m, e);
		mark(m, e);
		prune(m, MEMBER_LEFT);
		prune(m, MEMBER_FORCED);
		e = entry_find(m, join);
	}
	if (out != NULL)
		*out = rc >= 0 && e != NULL && !e->pruned ? e : NULL;
	return rc;
}

int
rewrite(struct members *m, struct entry *e, enum member_state state,
    uint64_t clock)
{
	struct member_row row = e->row;

	row.state = state;
	row.version.clock = MAX(MAX(clock, row.version.clock + 1),
	    m->exceed + 1);
	row.version.node = m->self->row.join;
	return MIN(merge(m, &row, NULL), 0);
}

/* --- What follows for a node --------------------------------------------- */

/* Of this data, the row of the latest join. */
static const struct entry *
latest_of_uuid(const struct members *m, const struct member_row *row)
{
	const struct entry	*e, *best = NULL;
	uint32_t		 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (!e->pruned && id_is(e->row.uuid, row->uuid) &&
		    (best == NULL || is_later(&e->row, &best->row)))
			best = e;
	}
	return best;
}

enum fate
fate_of(const struct members *m, const struct member_row *row,
    const struct entry **winner)
{
	const struct entry *own = entry_find(m, row->join), *last;

	*winner = NULL;
	if (uuid_is_forced(m, row->uuid))
		return FATE_FORCED;
	if (own == NULL || own->pruned)
		return FATE_NONE;
	if (own->member)
		return FATE_MEMBER;
	*winner = latest_named(m, row->name);
	if (*winner != NULL && !id_is((*winner)->row.uuid, row->uuid) &&
	    is_later(&(*winner)->row, &own->row))
		return FATE_NAME;
	*winner = NULL;
	last = latest_of_uuid(m, row);
	if (last->row.state != MEMBER_LEFT)
		return FATE_AGAIN;
	/* Written by nobody: what followed from another row (see mark). */
	return last->row.version.node != 0 ? FATE_LEFT : FATE_NAME;
}

/* --- Saying, hearing ----------------------------------------------------- */

/* How many cores that are members have it on disk, this node included. */
static uint32_t
on_cores(const struct members *m, const struct entry *e)
{
	const struct entry	*c;
	uint32_t		 i, n;

	n = counts_as_core(m->self) && e->serial <= m->saved;
	for (i = 0; i < e->have.n; i++) {
		c = entry_find(m, e->have.at[i]);
		n += c != NULL && c != m->self && counts_as_core(c);
	}
	return n;
}

static bool
is_due(const struct members *m, const struct entry *e, uint64_t core)
{
	return e->unsaid && e->serial <= m->saved &&
	    (m->self->row.role == MEMBER_CORE || !ids_has(&e->have, core));
}

int
members_say(struct members *m, uint64_t core, uint8_t key[MEMBER_KEY],
    uint8_t row[MEMBER_ROW_MAX], size_t *len)
{
	struct entry	*e;
	uint32_t	 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (!is_due(m, e, core))
			continue;
		e->unsaid = false;
		member_key(e->row.join, key);
		*len = e->pruned ? 0 :
		    member_row_encode(&e->row, row, MEMBER_ROW_MAX);
		if (e->pruned)
			entry_remove(m, e);
		return 1;
	}
	return 0;
}

void
members_say_again(struct members *m)
{
	uint32_t i;

	for (i = 0; i < m->n; i++)
		m->rows[i]->unsaid = true;
}

int
members_take(struct members *m, uint64_t from, struct slice key,
    struct slice row, uint64_t clock)
{
	struct member_row	 r;
	struct entry		*e;
	int			 rc;

	if (!member_is_key(key))
		return ERR_PROTO;
	if (row.len == 0)
		return 0;	/* of the past, and given up there */
	if (member_row_decode(&r, row.data, row.len) < 0 ||
	    r.join != get_be64(key.data + 1))
		return ERR_PROTO;
	if ((rc = merge(m, &r, &e)) < 0)
		return rc;
	if (from != 0 && e != NULL && member_row_cmp(&e->row, &r) == 0 &&
	    (rc = ids_add(&e->have, from)) < 0)
		return rc;
	return self_check(m, clock);
}

void
acks_forget(struct members *m, uint64_t core)
{
	struct ids	*have;
	uint32_t	 i, j;

	for (i = 0; i < m->n; i++) {
		have = &m->rows[i]->have;
		for (j = 0; j < have->n; j++)
			if (have->at[j] == core) {
				have->at[j] = have->at[--have->n];
				break;
			}
	}
}

struct member_version
members_version(const struct members *m, uint64_t join)
{
	const struct entry *e = entry_find(m, join);

	return e != NULL ? e->row.version : (struct member_version){ 0, 0 };
}

void
members_exceed(struct members *m, struct member_version v)
{
	m->exceed = MAX(m->exceed, v.clock);
}

struct member_acks
members_acks(const struct members *m, uint64_t join)
{
	const struct entry	*e = entry_find(m, join);
	struct member_acks	 a = { 0, 0, false };
	uint32_t		 i;

	for (i = 0; i < m->n; i++)
		a.cores += counts_as_core(m->rows[i]);
	if (e != NULL)
		a.have = on_cores(m, e);
	/* The last core that leaves has nobody to tell. */
	a.done = a.cores == 0 ? e != NULL && e == m->self :
	    a.have > a.cores / 2;
	return a;
}

/* --- Looking ------------------------------------------------------------- */

static void
look(const struct members *m, const struct entry *e, struct member_look *out)
{
	out->row = &e->row;
	out->self = e == m->self;
	out->up = counts_as_up(m, e);
	out->parked = e->parked || e->parked_there;
	out->since_ms = e->since_ms;
	out->incarnation = out->self ? m->incarnation : e->incarnation;
}

/* The next from *at on (a join id, and one more) that is asked for. */
static int
walk(const struct members *m, uint64_t *at, struct member_look *out,
    bool (*wanted)(const struct members *m, const struct entry *e))
{
	uint32_t i;

	for (i = *at == 0 ? 0 : lower_bound(m, *at); i < m->n; i++)
		if (wanted(m, m->rows[i])) {
			look(m, m->rows[i], out);
					/* No join id is all ones. */
			*at = m->rows[i]->row.join + 1;
			return 1;
		}
	return 0;
}

static bool
want_member(const struct members *m UNUSED, const struct entry *e)
{
	return e->member;
}

static bool
want_row(const struct members *m UNUSED, const struct entry *e)
{
	return !e->pruned;
}

static bool
want_peer(const struct members *m, const struct entry *e)
{
	return e->member && e != m->self && m->out == MEMBER_NOT_OUT &&
	    (m->self->row.role == MEMBER_CORE || e->row.role == MEMBER_CORE);
}

int
members_next(const struct members *m, uint64_t *at, struct member_look *out)
{
	return walk(m, at, out, want_member);
}

int
members_next_row(const struct members *m, uint64_t *at,
    struct member_look *out)
{
	return walk(m, at, out, want_row);
}

int
members_peer(const struct members *m, uint64_t *at, struct member_look *out)
{
	return walk(m, at, out, want_peer);
}

int
members_find(const struct members *m, const char *name,
    struct member_look *out)
{
	const struct entry *e = entry_named(m, name);

	if (e == NULL)
		return ERR_NOTFOUND;
	look(m, e, out);
	return 0;
}

void
members_count(const struct members *m, struct members_count *out)
{
	uint8_t			 bytes[MEMBER_ROW_MAX];
	const struct entry	*e;
	uint32_t		 i;
	bool			 up;

	memset(out, 0, sizeof(*out));
	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (e->pruned)
			continue;
		out->rows++;
		out->digest += XXH3_64bits(bytes, member_row_encode(&e->row,
		    bytes, sizeof(bytes)));
		if (!e->member)
			continue;
		up = counts_as_up(m, e);
		out->members++;
		out->up += up;
		out->cores += e->row.role == MEMBER_CORE;
		out->cores_up += up && e->row.role == MEMBER_CORE;
	}
}

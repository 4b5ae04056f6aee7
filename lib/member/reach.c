#include "member/internal.h"

#include <string.h>

#include "base/err.h"

/* member.proto, MemberView. */
enum { F_UP = 1, F_PARKED, F_HEALED };

void
members_reach(struct members *m, uint64_t join, bool up, uint64_t now_ms)
{
	struct entry *e = entry_find(m, join);

	if (e == NULL || e == m->self || e->up == up)
		return;
	e->up = up;
	e->since_ms = now_ms;
	e->met |= up;
	if (!up) {
		e->heard = e->parked_there = false;
		e->sees.n = 0;
	}
}

/* --- Views --------------------------------------------------------------- */

static void
put_ids(struct wire_out *w, unsigned field, const struct members *m,
    bool (*wanted)(const struct entry *e))
{
	uint8_t	 ids[MEMBERS_IN_MAX * 8];
	uint32_t i, n = 0;

	for (i = 0; i < m->n && n < MEMBERS_IN_MAX; i++)
		if (wanted(m->rows[i]))
			put_le64(ids + 8 * n++, m->rows[i]->row.join);
	wire_put_bytes(w, field, (struct slice){ ids, 8 * n });
}

static bool
is_up(const struct entry *e)
{
	return e->member && e->up;
}

static bool
is_parked(const struct entry *e)
{
	return e->member && e->parked;
}

size_t
members_view(const struct members *m, void *buf, size_t size)
{
	struct wire_out w;

	wire_out_init(&w, buf, size);
	put_ids(&w, F_UP, m, is_up);
	put_ids(&w, F_PARKED, m, is_parked);
	wire_put_fixed64(&w, F_HEALED, m->healed);
	return w.full ? 0 : wire_out_len(&w);
}

static int
unpark(struct members *m)
{
	uint32_t i;
	int	 n = 0;

	for (i = 0; i < m->n; i++) {
		n += m->rows[i]->parked || m->rows[i]->parked_there;
		m->rows[i]->parked = m->rows[i]->parked_there = false;
	}
	touch(m, NULL);
	if (n > 0)
		tell(m, MEMBER_EV_HEALED, &m->self->row, NULL);
	return n;
}

int
members_view_take(struct members *m, uint64_t from, const void *bytes,
    size_t len)
{
	struct slice		 up = { NULL, 0 }, parked = { NULL, 0 };
	struct entry		*e = entry_find(m, from);
	struct wire_in		 in;
	struct wire_field	 f;
	uint64_t		 healed = 0;
	size_t			 i;
	int			 rc;

	if (len > MEMBER_VIEW_MAX)
		return ERR_PROTO;
	wire_in_init(&in, bytes, len);
	while ((rc = wire_next(&in, &f)) == 1) {
		if (f.number <= F_HEALED &&
		    f.is_bytes != (f.number != F_HEALED))
			return ERR_PROTO;
		if (f.number == F_UP)
			up = f.bytes;
		else if (f.number == F_PARKED)
			parked = f.bytes;
		else if (f.number == F_HEALED)
			healed = f.value;
	}
	if (rc < 0 || up.len % 8 != 0 || parked.len % 8 != 0 ||
	    up.len > MEMBERS_IN_MAX * 8)
		return ERR_PROTO;
	if (e == NULL || e == m->self || !e->up)
		return 0;
	e->heard = true;
	e->sees.n = 0;
	for (i = 0; i < up.len; i += 8)
		if ((rc = ids_add(&e->sees, get_le64(up.data + i))) < 0)
			return rc;
	e->parked_there = false;
	for (i = 0; i < parked.len; i += 8)
		e->parked_there |= get_le64(parked.data + i) ==
		    m->self->row.join;
	if (healed > m->healed) {
		m->healed = healed;
		unpark(m);
	}
	return 0;
}

int
members_sees(const struct members *m, uint64_t a, uint64_t b)
{
	const struct entry *e = entry_find(m, a), *f = entry_find(m, b);

	if (e == NULL || f == NULL)
		return -1;
	if (a == b)
		return 1;
	if (e == m->self)
		return f->up;
	return e->heard ? ids_has(&e->sees, b) : -1;
}

bool
counts_as_up(const struct members *m, const struct entry *e)
{
	bool apart = e->row.role == MEMBER_REPLICANT ||
	    m->self->row.role == MEMBER_REPLICANT;

	return e == m->self || e->up || (apart && is_seen(m, e));
}

bool
is_alive(const struct members *m, const struct entry *e)
{
	uint32_t i;

	if (e == m->self || e->up)
		return true;
	for (i = 0; i < m->n; i++)
		if (m->rows[i]->member && members_sees(m,
		    m->rows[i]->row.join, e->row.join) == 1 &&
		    m->rows[i] != e)
			return true;
	return false;
}

bool
members_split(const struct members *m)
{
	const struct entry	*a, *b;
	uint32_t		 i, j;

	for (i = 0; i < m->n; i++) {
		b = m->rows[i];
		if (!counts_as_core(b) || !is_alive(m, b))
			continue;
		for (j = 0; j < m->n; j++) {
			a = m->rows[j];
			if (counts_as_core(a) && members_sees(m,
			    a->row.join, b->row.join) == 0)
				return true;
		}
	}
	return false;
}

/* --- What may be done ---------------------------------------------------- */

bool
members_majority(const struct members *m)
{
	const struct entry	*e;
	uint32_t		 i, all = 0, here = 0;
	bool			 up, lowest = false;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (!counts_as_core(e))
			continue;
		up = e == m->self || e->up;
		/* They come by join id. */
		if (all++ == 0)
			lowest = up;
		here += up;
	}
	return 2 * here > all || (all > 0 && 2 * here == all && lowest);
}

bool
is_seen(const struct members *m, const struct entry *e)
{
	uint32_t i;

	for (i = 0; i < m->n; i++)
		if (counts_as_core(m->rows[i]) && m->rows[i] != e &&
		    members_sees(m, m->rows[i]->row.join, e->row.join) == 1)
			return true;
	return false;
}

static bool
is_due(const struct members *m, struct entry *e, uint64_t after_ms,
    uint64_t now_ms)
{
	if (!e->member || e == m->self || e->up)
		return false;
	/* Since this node started: it may have been up a moment before. */
	if (e->since_ms == 0)
		e->since_ms = MAX(now_ms, 1);
	return now_ms - e->since_ms >= after_ms && !is_seen(m, e);
}

int
members_autoclean(struct members *m, uint64_t after_ms, uint64_t clock,
    uint64_t now_ms)
{
	uint64_t	at = 0;
	struct entry	*e;
	struct member_look l;
	int		rc, n = 0;

	if (after_ms == 0 || m->self->row.role != MEMBER_CORE || m->leaving ||
	    !members_majority(m))
		return 0;
	while (members_next(m, &at, &l) == 1) {
		e = entry_find(m, l.row->join);
		if (!is_due(m, e, after_ms, now_ms))
			continue;
		if ((rc = rewrite(m, e, MEMBER_CLEANED, clock)) < 0)
			return rc;
		n++;
	}
	return n;
}

int
members_heal(struct members *m, uint64_t clock)
{
	m->healed = MAX(clock, m->healed + 1);
	return unpark(m);
}

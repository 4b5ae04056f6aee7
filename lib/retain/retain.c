#include "retain/retain.h"

#include <stdlib.h>
#include "base/err.h"
#include "retain/internal.h"

struct retain *
retain_new(const struct retain_limits *lim)
{
	struct retain *r;

	if ((r = calloc(1, sizeof(*r))) == NULL)
		return NULL;
	if (retain_tree_init(&r->tree) < 0) {
		free(r);
		return NULL;
	}
	r->limits = *lim;
	return r;
}

void
retain_free(struct retain **rp)
{
	struct retain *r = *rp;

	if (r == NULL)
		return;
	retain_tree_fini(&r->tree);
	free(r->due);
	free(r);
	*rp = NULL;
}

void
retain_set_limits(struct retain *r, const struct retain_limits *lim)
{
	r->limits = *lim;
}

uint32_t
retain_count(const struct retain *r)
{
	return r->count;
}

uint64_t
retain_bytes(const struct retain *r)
{
	return r->bytes;
}

/* --- Entries ---------------------------------------------------------- */

static uint8_t *
put(uint8_t *at, struct slice s)
{
	if (s.len > 0)
		memcpy(at, s.data, s.len);
	return at + s.len;
}

static struct retain_entry *
entry_new(const struct retain_msg *m)
{
	struct retain_entry	*e;
	uint8_t			*at;

	if ((e = malloc(sizeof(*e) + retain_msg_bytes(m))) == NULL)
		return NULL;
	e->version_hi = m->version_hi;
	e->version_lo = m->version_lo;
	e->id_hi = m->id_hi;
	e->id_lo = m->id_lo;
	e->deadline_ms = m->deadline_ms;
	e->pos = m->pos;
	e->due = NOT_DUE;
	e->props_len = (uint32_t)m->props.len;
	e->payload_len = (uint32_t)m->payload.len & RETAIN_FIELD_MAX;
	e->qos = m->qos & 3u;
	e->client_id_len = (uint16_t)m->client_id.len;
	e->topic_len = (uint16_t)m->topic.len;
	at = put(e->bytes, m->topic);
	at = put(at, m->client_id);
	at = put(at, m->props);
	put(at, m->payload);
	return e;
}

void
retain_entry_msg(const struct retain_entry *e, struct retain_msg *m)
{
	const uint8_t *at = e->bytes;

	m->topic = (struct slice){ at, e->topic_len };
	m->client_id = (struct slice){ at += e->topic_len, e->client_id_len };
	m->props = (struct slice){ at += e->client_id_len, e->props_len };
	m->payload = (struct slice){ at + e->props_len, e->payload_len };
	m->qos = (uint8_t)e->qos;
	m->version_hi = e->version_hi;
	m->version_lo = e->version_lo;
	m->id_hi = e->id_hi;
	m->id_lo = e->id_lo;
	m->deadline_ms = e->deadline_ms;
	m->pos = e->pos;
}

uint32_t
retain_entry_left(const struct retain_entry *e, uint64_t now_ms)
{
	if (e->deadline_ms == 0)
		return RETAIN_NO_EXPIRY;
	if (e->deadline_ms <= now_ms)
		return 0;
	/* As many as there were less those that have passed. */
	return (uint32_t)MIN((e->deadline_ms - now_ms - 1) / 1000 + 1,
	    RETAIN_NO_EXPIRY - 1u);
}

/* --- Deadlines -------------------------------------------------------- */

static void
due_place(struct retain *r, uint32_t i, struct due d)
{
	r->due[i] = d;
	d.entry->due = i;
}

static void
due_up(struct retain *r, uint32_t i, struct due d)
{
	uint32_t up;

	for (; i > 0; i = up) {
		up = (i - 1) / 2;
		if (r->due[up].deadline_ms <= d.deadline_ms)
			break;
		due_place(r, i, r->due[up]);
	}
	due_place(r, i, d);
}

static void
due_down(struct retain *r, uint32_t i, struct due d)
{
	uint64_t kid;

	while ((kid = (uint64_t)i * 2 + 1) < r->ndue) {
		if (kid + 1 < r->ndue &&
		    r->due[kid + 1].deadline_ms < r->due[kid].deadline_ms)
			kid++;
		if (r->due[kid].deadline_ms >= d.deadline_ms)
			break;
		due_place(r, i, r->due[kid]);
		i = (uint32_t)kid;
	}
	due_place(r, i, d);
}

/* Room for one more, so that adding cannot fail. */
static int
due_reserve(struct retain *r)
{
	struct due	*due;
	uint64_t	 cap;

	if (r->ndue < r->due_cap)
		return 0;
	cap = MIN(r->due_cap == 0 ? 64 : (uint64_t)r->due_cap * 2, NOT_DUE);
	if (cap == r->due_cap ||
	    (due = realloc(r->due, cap * sizeof(*due))) == NULL)
		return ERR_NOMEM;
	r->due = due;
	r->due_cap = (uint32_t)cap;
	return 0;
}

static void
due_add(struct retain *r, struct retain_entry *e)
{
	if (e->deadline_ms == 0)
		return;
	r->ndue++;
	due_up(r, r->ndue - 1, (struct due){ e->deadline_ms, e });
}

static void
due_del(struct retain *r, struct retain_entry *e)
{
	uint32_t	i = e->due;
	struct due	last;

	if (i == NOT_DUE)
		return;
	e->due = NOT_DUE;
	last = r->due[--r->ndue];
	if (i == r->ndue)
		return;
	if (last.deadline_ms < e->deadline_ms)
		due_up(r, i, last);
	else
		due_down(r, i, last);
}

uint64_t
retain_next_deadline(const struct retain *r)
{
	return r->ndue == 0 ? 0 : r->due[0].deadline_ms;
}

/* --- Setting and getting ---------------------------------------------- */

static bool
is_above(const struct retain_msg *m, const struct retain_entry *e)
{
	return m->version_hi != e->version_hi ? m->version_hi > e->version_hi :
	    m->version_lo > e->version_lo;
}

static void
drop(struct retain *r, struct retain_entry *e)
{
	retain_tree_del(&r->tree, e);
	due_del(r, e);
	r->count--;
	r->bytes -= entry_bytes(e);
	free(e);
}

/* May m, which replaces old, or is new (NULL), come in? */
static bool
has_room(const struct retain *r, size_t n, const struct retain_entry *old)
{
	size_t	had = old != NULL ? entry_bytes(old) : 0;

	if (old == NULL && r->count >= MIN(r->limits.max_messages, NOT_DUE))
		return false;
	return (old != NULL && n <= had) ||
	    r->bytes - had + n <= r->limits.max_bytes;
}

bool
retain_has_room(const struct retain *r, const void *topic, size_t len,
    size_t bytes)
{
	struct retain_entry **slot = retain_tree_find(&r->tree, topic, len);

	return has_room(r, bytes, slot == NULL ? NULL : *slot);
}

int
retain_set(struct retain *r, const struct retain_msg *m)
{
	struct retain_entry	**slot, *old = NULL, *e;
	int			  rc;

	if (!retain_msg_fits(m))
		return ERR_INVAL;
	slot = retain_tree_find(&r->tree, m->topic.data, m->topic.len);
	if (slot != NULL && !is_above(m, old = *slot))
		return 0;
	if (m->payload.len == 0) {
		if (old != NULL)
			drop(r, old);
		return 1;
	}
	if (!has_room(r, retain_msg_bytes(m), old))
		return ERR_FULL;
	if ((e = entry_new(m)) == NULL)
		return ERR_NOMEM;
	if ((m->deadline_ms != 0 && (rc = due_reserve(r)) < 0) ||
	    (old == NULL && (rc = retain_tree_add(&r->tree, e)) < 0)) {
		free(e);
		return rc;
	}
	if (old != NULL) {
		*slot = e;
		due_del(r, old);
		r->bytes -= entry_bytes(old);
		free(old);
	} else {
		r->count++;
	}
	r->bytes += entry_bytes(e);
	due_add(r, e);
	return 1;
}

int
retain_get(const struct retain *r, const void *topic, size_t len,
    uint64_t now_ms, struct retain_msg *out, uint32_t *expiry_s)
{
	struct retain_entry	**slot;
	uint32_t		  left;

	slot = retain_tree_find(&r->tree, topic, len);
	if (slot == NULL || (left = retain_entry_left(*slot, now_ms)) == 0)
		return ERR_NOTFOUND;
	retain_entry_msg(*slot, out);
	if (expiry_s != NULL)
		*expiry_s = left;
	return 0;
}

bool
retain_version(const struct retain *r, const void *topic, size_t len,
    uint64_t *hi, uint64_t *lo)
{
	struct retain_entry **slot;

	if ((slot = retain_tree_find(&r->tree, topic, len)) == NULL)
		return false;
	*hi = (*slot)->version_hi;
	*lo = (*slot)->version_lo;
	return true;
}

uint32_t
retain_expire(struct retain *r, uint64_t now_ms, uint32_t max)
{
	uint32_t n;

	for (n = 0; n < max && r->ndue > 0 && r->due[0].deadline_ms <= now_ms;
	    n++)
		drop(r, r->due[0].entry);
	return n;
}

#include "move/seen.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

enum { CAP_MIN = 16 };

static bool
same(struct seen_id a, struct seen_id b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

static bool
above(struct seen_id a, struct seen_id b)
{
	return a.hi != b.hi ? a.hi > b.hi : a.lo > b.lo;
}

/* Ids are made by nodes of the cluster, nobody else chooses them. */
static uint32_t
home(const struct seen *s, struct seen_id id)
{
	uint64_t	h = (id.hi ^ (id.lo << 32 | id.lo >> 32)) *
	    UINT64_C(0x9e3779b97f4a7c15);

	return (uint32_t)(h >> 32) & s->mask;
}

void
seen_clear(struct seen *s)
{
	uint32_t	max = s->max;

	free(s->ids);
	free(s->cells);
	memset(s, 0, sizeof(*s));
	s->max = max;
}

/* The cell of id, or the free one where it would be. */
static uint32_t
find(const struct seen *s, struct seen_id id)
{
	uint32_t	i = home(s, id);

	while (s->cells[i] != 0 && !same(s->ids[s->cells[i] - 1], id))
		i = (i + 1) & s->mask;
	return i;
}

enum seen_answer
seen_has(const struct seen *s, struct seen_id id)
{
	if (s->n > 0 && s->cells[find(s, id)] != 0)
		return SEEN_BEFORE;
	return above(id, s->floor) ? SEEN_NEW : SEEN_UNKNOWN;
}

struct seen_id
seen_at(const struct seen *s, uint32_t i)
{
	uint64_t	at = (uint64_t)s->first + i;

	return s->ids[at < s->cap ? at : at - s->cap];
}

/* Into a ring of cap, with more than twice as many cells. */
static int
resize(struct seen *s, uint32_t cap)
{
	struct seen	new = *s;
	uint32_t	cells = 2 * CAP_MIN;

	while (cells < 2 * (uint64_t)cap)
		cells *= 2;
	new.cap = cap;
	new.mask = cells - 1;
	new.first = 0;
	new.ids = malloc(cap * sizeof(*new.ids));
	new.cells = calloc(cells, sizeof(*new.cells));
	if (new.ids == NULL || new.cells == NULL) {
		free(new.ids);
		free(new.cells);
		return ERR_NOMEM;
	}
	for (uint32_t i = 0; i < s->n; i++) {
		new.ids[i] = seen_at(s, i);
		new.cells[find(&new, new.ids[i])] = i + 1;
	}
	free(s->ids);
	free(s->cells);
	*s = new;
	return 0;
}

void
seen_raise(struct seen *s, struct seen_id floor)
{
	if (above(floor, s->floor))
		s->floor = floor;
}

static void
forget_first(struct seen *s)
{
	struct seen_id	id = s->ids[s->first];
	uint32_t	i = find(s, id), j, h;

	for (j = (i + 1) & s->mask; s->cells[j] != 0; j = (j + 1) & s->mask) {
		h = home(s, s->ids[s->cells[j] - 1]);
		if (((j - h) & s->mask) >= ((j - i) & s->mask)) {
			s->cells[i] = s->cells[j];
			i = j;
		}
	}
	s->cells[i] = 0;
	s->first = s->first + 1 == s->cap ? 0 : s->first + 1;
	s->n--;
	seen_raise(s, id);
}

int
seen_add(struct seen *s, struct seen_id id)
{
	uint64_t	at;
	int		rc;

	if (s->max == 0) {
		seen_raise(s, id);
		return 0;
	}
	if (s->n > 0 && s->cells[find(s, id)] != 0)
		return 0;
	if (s->n == s->cap && s->n < s->max && (rc = resize(s,
	    (uint32_t)MIN(s->max, MAX(CAP_MIN, 2 * (uint64_t)s->cap)))) < 0)
		return rc;
	if (s->n == s->max)
		forget_first(s);
	at = (uint64_t)s->first + s->n;
	if (at >= s->cap)
		at -= s->cap;
	s->ids[at] = id;
	s->cells[find(s, id)] = (uint32_t)at + 1;
	s->n++;
	return 0;
}

int
seen_copy(struct seen *to, const struct seen *from)
{
	struct seen	s = *from;
	size_t		ids = from->cap * sizeof(*s.ids);
	size_t		cells = (from->mask + (size_t)1) * sizeof(*s.cells);

	if (from->cap > 0) {
		s.ids = malloc(ids);
		s.cells = malloc(cells);
		if (s.ids == NULL || s.cells == NULL) {
			free(s.ids);
			free(s.cells);
			return ERR_NOMEM;
		}
		memcpy(s.ids, from->ids, ids);
		memcpy(s.cells, from->cells, cells);
	}
	*to = s;
	return 0;
}

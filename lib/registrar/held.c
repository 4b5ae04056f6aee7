#include "registrar/held.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

/*
 * A cell is the low 56 bits of x (the table is the rest), the epoch, and
 * {node 11 bits, stale, flags 4 bits} + 1 of 16 bits, of which 0 is a free
 * cell. Linear probing; who is removed is replaced by who would not be found
 * past it.
 */
enum { CELL = 17, EPOCH = 7, WORD = 15, CELLS_MIN = 4, CELLS_MAX = 1 << 30,
	ANY_NODE = HELD_NODES };

void
held_init(struct held_rows *t)
{
	memset(t, 0, sizeof(*t));
}

void
held_fini(struct held_rows *t)
{
	for (unsigned i = 0; i < HELD_TABLES; i++)
		free(t->tables[i].cells);
	held_init(t);
}

static unsigned
table_of(uint64_t x)
{
	return (unsigned)(x >> 56);
}

static uint8_t *
cell(const struct held_table *s, uint32_t i)
{
	return s->cells + (size_t)i * CELL;
}

static bool
is_free(const uint8_t *c)
{
	return get_le16(c + WORD) == 0;
}

static uint64_t
low_bits(const uint8_t *c)
{
	return get_le32(c) | (uint64_t)get_le16(c + 4) << 32 |
	    (uint64_t)c[6] << 48;
}

/* Where rows of these low bits begin. */
static uint32_t
home(const struct held_table *s, uint64_t low)
{
	return (uint32_t)((low >> 24 & UINT32_MAX) * s->ncells >> 32);
}

static uint32_t
after(const struct held_table *s, uint32_t i)
{
	return i + 1 == s->ncells ? 0 : i + 1;
}

static void
read_cell(const uint8_t *c, unsigned table, struct held *h)
{
	unsigned	word = get_le16(c + WORD) - 1u;

	h->x = low_bits(c) | (uint64_t)table << 56;
	h->epoch = get_le64(c + EPOCH);
	h->node = (uint16_t)(word >> 5);
	h->stale = word >> 4 & 1;
	h->flags = word & 15;
}

static void
write_cell(uint8_t *c, const struct held *h)
{
	put_le32(c, (uint32_t)h->x);
	put_le16(c + 4, (uint16_t)(h->x >> 32));
	c[6] = (uint8_t)(h->x >> 48);
	put_le64(c + EPOCH, h->epoch);
	put_le16(c + WORD, (uint16_t)(1u + (h->node << 5 | h->stale << 4 |
	    (h->flags & 15))));
}

/* How far from cell a on to b. */
static uint32_t
way(const struct held_table *s, uint32_t a, uint32_t b)
{
	return b >= a ? b - a : b + s->ncells - a;
}

/* The cell of x and node (or ANY_NODE) from i on, or ncells. */
static uint32_t
find(const struct held_table *s, uint64_t x, unsigned node, uint32_t i)
{
	uint64_t	low = x << 8 >> 8;
	const uint8_t	*c;

	for (; !is_free(c = cell(s, i)); i = after(s, i))
		if (low_bits(c) == low && (node == ANY_NODE ||
		    (get_le16(c + WORD) - 1u) >> 5 == node))
			return i;
	return s->ncells;
}

static uint32_t
place(const struct held_table *s, uint64_t low)
{
	uint32_t	i = home(s, low);

	while (!is_free(cell(s, i)))
		i = after(s, i);
	return i;
}

/* Into a table of so many cells, but for those that drop() says. */
static int
copy(struct held_table *s, uint64_t ncells, unsigned table,
    bool (*drop)(const struct held *h, unsigned node), unsigned node)
{
	struct held_table	new = { NULL, 0, 0, s->copies + 1 };
	struct held		h;

	if (ncells > CELLS_MAX)
		return ERR_FULL;
	new.ncells = (uint32_t)ncells;
	if ((new.cells = calloc(ncells, CELL)) == NULL)
		return ERR_NOMEM;
	for (uint32_t i = 0; i < s->ncells; i++) {
		if (is_free(cell(s, i)))
			continue;
		read_cell(cell(s, i), table, &h);
		if (drop != NULL && drop(&h, node))
			continue;
		memcpy(cell(&new, place(&new, low_bits(cell(s, i)))),
		    cell(s, i), CELL);
		new.n++;
	}
	free(s->cells);
	*s = new;
	return 0;
}

static int
resize(struct held_table *s, uint64_t ncells)
{
	return copy(s, ncells, 0, NULL, 0);
}

int
held_put(struct held_rows *t, const struct held *h)
{
	struct held_table	*s = &t->tables[table_of(h->x)];
	uint64_t		 low = h->x << 8 >> 8;
	uint32_t		 i;
	int			 rc;

	if (s->ncells > 0 && (i = find(s, h->x, h->node, home(s, low))) !=
	    s->ncells) {
		write_cell(cell(s, i), h);
		return 0;
	}
	/* At most 7/8 full, and never without a free cell. */
	if ((s->n + UINT64_C(1)) * 8 > s->ncells * UINT64_C(7) &&
	    (rc = resize(s, MAX(s->ncells + (uint64_t)s->ncells / 8,
	    s->n + (uint64_t)CELLS_MIN))) < 0)
		return rc;
	write_cell(cell(s, place(s, low)), h);
	s->n++;
	t->n++;
	return 0;
}

bool
held_get(const struct held_rows *t, uint64_t x, unsigned node, struct held *h)
{
	const struct held_table	*s = &t->tables[table_of(x)];
	uint32_t		 i;

	if (s->ncells == 0 || (i = find(s, x, node, home(s, x << 8 >> 8))) ==
	    s->ncells)
		return false;
	read_cell(cell(s, i), table_of(x), h);
	return true;
}

void
held_del(struct held_rows *t, uint64_t x, unsigned node)
{
	struct held_table	*s = &t->tables[table_of(x)];
	uint32_t		 i, j, h;

	if (s->ncells == 0 || (i = find(s, x, node, home(s, x << 8 >> 8))) ==
	    s->ncells)
		return;
	for (j = after(s, i); !is_free(cell(s, j)); j = after(s, j)) {
		h = home(s, low_bits(cell(s, j)));
		if (way(s, h, j) >= way(s, i, j)) {
			memcpy(cell(s, i), cell(s, j), CELL);
			i = j;
		}
	}
	memset(cell(s, i), 0, CELL);
	s->n--;
	t->n--;
	/* Less than 5/7 full: shrink, or stay large. */
	if (s->ncells > 4 * CELLS_MIN &&
	    s->n * UINT64_C(7) < s->ncells * UINT64_C(5))
		(void)resize(s, s->n + (uint64_t)s->n / 4 + CELLS_MIN);
}

bool
held_next(const struct held_rows *t, uint64_t x, uint32_t *at, struct held *h)
{
	const struct held_table	*s = &t->tables[table_of(x)];
	uint32_t		 i;

	if (s->ncells == 0)
		return false;
	i = *at == HELD_FIRST ? home(s, x << 8 >> 8) : after(s, *at);
	if ((i = find(s, x, ANY_NODE, i)) == s->ncells)
		return false;
	*at = i;
	read_cell(cell(s, i), table_of(x), h);
	return true;
}

bool
held_walk(const struct held_rows *t, struct held_walk *w, struct held *h)
{
	const struct held_table	*s;

	for (; w->table < HELD_TABLES; w->table++, w->at = 0) {
		s = &t->tables[w->table];
		if (w->at > 0 && w->copies != s->copies)
			w->at = 0;		/* begin this one anew */
		w->copies = s->copies;
		while (w->at < s->ncells) {
			const uint8_t	*c = cell(s, w->at++);

			if (is_free(c))
				continue;
			read_cell(c, w->table, h);
			return true;
		}
	}
	return false;
}

void
held_walk_del(struct held_rows *t, struct held_walk *w, const struct held *h)
{
	held_del(t, h->x, h->node);
	w->at--;		/* another one may have moved there */
}

void
held_walk_set(struct held_rows *t, const struct held_walk *w,
    const struct held *h)
{
	write_cell(cell(&t->tables[w->table], w->at - 1), h);
}

static uint32_t
count(const struct held_table *s, unsigned table,
    bool (*drop)(const struct held *h, unsigned node), unsigned node)
{
	struct held	h;
	uint32_t	n = 0;

	for (uint32_t i = 0; i < s->ncells; i++) {
		if (is_free(cell(s, i)))
			continue;
		read_cell(cell(s, i), table, &h);
		n += drop(&h, node);
	}
	return n;
}

void
held_drop(struct held_rows *t, bool (*drop)(const struct held *h,
    unsigned node), unsigned node)
{
	for (unsigned i = 0; i < HELD_TABLES; i++) {
		struct held_table	*s = &t->tables[i];
		struct held_walk	 w = { .table = i };
		uint32_t		 gone = count(s, i, drop, node);
		uint64_t		 left = s->n - gone;
		struct held		 h;

		if (gone == 0)
			continue;
		if (copy(s, left + left / 4 + CELLS_MIN, i, drop, node) == 0) {
			t->n -= gone;
			continue;
		}
		/* No memory for a copy: slowly. */
		while (held_walk(t, &w, &h) && w.table == i)
			if (drop(&h, node))
				held_walk_del(t, &w, &h);
	}
}

size_t
held_bytes(const struct held_rows *t)
{
	size_t	bytes = 0;

	for (unsigned i = 0; i < HELD_TABLES; i++)
		bytes += (size_t)t->tables[i].ncells * CELL;
	return bytes;
}

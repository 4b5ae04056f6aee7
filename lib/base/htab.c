#include "base/htab.h"

#include <stdlib.h>
#include "base/err.h"

enum { CELLS_MIN = 8 };

void
htab_init(struct htab *t)
{
	t->cells = NULL;
	t->mask = 0;
	t->n = 0;
}

void
htab_fini(struct htab *t)
{
	free(t->cells);
	htab_init(t);
}

static void
place(struct htab_cell *cells, size_t mask, uint64_t hash, void *item)
{
	size_t i = (size_t)hash & mask;

	while (cells[i].item != NULL)
		i = (i + 1) & mask;
	cells[i].hash = (uint32_t)hash;
	cells[i].item = item;
}

static int
resize(struct htab *t, size_t ncells)
{
	struct htab_cell *cells;
	size_t		  i;

	if ((cells = calloc(ncells, sizeof(*cells))) == NULL)
		return ERR_NOMEM;
	for (i = 0; t->cells != NULL && i <= t->mask; i++)
		if (t->cells[i].item != NULL)
			place(cells, ncells - 1, t->cells[i].hash,
			    t->cells[i].item);
	free(t->cells);
	t->cells = cells;
	t->mask = ncells - 1;
	return 0;
}

int
htab_add(struct htab *t, uint64_t hash, void *item)
{
	size_t	ncells = t->cells == NULL ? 0 : t->mask + 1;
	int	rc;

	if ((t->n + 1) * 5 > ncells * 4 &&
	    (rc = resize(t, ncells == 0 ? CELLS_MIN : ncells * 2)) < 0)
		return rc;
	place(t->cells, t->mask, hash, item);
	t->n++;
	return 0;
}

void
htab_del(struct htab *t, uint64_t hash, const void *item)
{
	size_t	i = (size_t)hash & t->mask, j, home;

	while (t->cells[i].item != item)
		i = (i + 1) & t->mask;

	/* Close the gap: move back what would no longer be found past it. */
	for (j = i;;) {
		j = (j + 1) & t->mask;
		if (t->cells[j].item == NULL)
			break;
		home = (size_t)t->cells[j].hash & t->mask;
		if (((j - home) & t->mask) >= ((j - i) & t->mask)) {
			t->cells[i] = t->cells[j];
			i = j;
		}
	}
	t->cells[i].item = NULL;
	t->n--;
	if (t->mask + 1 > CELLS_MIN && t->n * 8 < t->mask + 1)
		(void)resize(t, (t->mask + 1) / 2);	/* or stay large */
}

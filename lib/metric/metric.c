/*
 * metric.c: see metric.h.
 *
 * A segment, all little-endian and in the order it is laid out:
 *
 *   header   64 bytes, see struct seg_head; magic is stored last (release), so
 *            a reader that sees it sees the rest
 *   rows     nrows x struct seg_row
 *   text     NUL-terminated names and helps
 *   values   nrows x 8 bytes, from a cache line of their own: readers of the
 *            descriptions do not disturb the counting
 *
 * Only values change after magic is set.
 */
#include "metric/metric.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

#define ROWS_MAX	1024
#define PAGE		4096
#define LINE		64
#define SEG_MAGIC	0x314d514dU		/* "MQM1" */
#define NAME_MAX_BYTES	128
#define HELP_MAX_BYTES	512

struct seg_head {
	_Atomic uint32_t magic;
	uint32_t	 nrows;
	uint32_t	 text_off;
	uint32_t	 text_len;
	uint32_t	 values_off;
	uint32_t	 reserved;
	char		 process[40];
};
_Static_assert(sizeof(struct seg_head) == LINE, "one line");

struct seg_row {
	uint32_t	name;		/* offsets into text */
	uint32_t	help;
	uint32_t	kind;
	uint32_t	reserved;
};

static struct metric *rows_all[ROWS_MAX];
static size_t nrows_all, nattached;

void
metric_register(struct metric *const *rows, size_t n)
{
	size_t	 i, j;

	for (i = 0; i < n; i++) {
		assert(nrows_all < ROWS_MAX);
		assert(strlen(rows[i]->name) < NAME_MAX_BYTES);
		assert(strlen(rows[i]->help) < HELP_MAX_BYTES);
		for (j = 0; j < nrows_all; j++)
			assert(strcmp(rows_all[j]->name, rows[i]->name) != 0);
		rows[i]->cell = &rows[i]->own;
		rows_all[nrows_all++] = rows[i];
	}
}

struct metric *
metric_find(const char *name)
{
	size_t	 i;

	for (i = 0; i < nrows_all; i++)
		if (strcmp(rows_all[i]->name, name) == 0)
			return rows_all[i];
	return NULL;
}

void
metric_each_own(void (*each)(void *ctx, const struct metric *m), void *ctx)
{
	size_t	 i;

	for (i = 0; i < nrows_all; i++)
		each(ctx, rows_all[i]);
}

struct layout {
	size_t	text_off, text_len, values_off, total;
};

static struct layout
layout_of(void)
{
	struct layout	 l = { .text_off = sizeof(struct seg_head) };
	size_t		 i;

	l.text_off += nrows_all * sizeof(struct seg_row);
	for (i = 0; i < nrows_all; i++)
		l.text_len += strlen(rows_all[i]->name) + 1 +
		    strlen(rows_all[i]->help) + 1;
	l.values_off = (l.text_off + l.text_len + LINE - 1) / LINE * LINE;
	l.total = l.values_off + nrows_all * sizeof(uint64_t);
	return l;
}

size_t
metric_segment_size(void)
{
	return (layout_of().total + PAGE - 1) / PAGE * PAGE;
}

int
metric_attach(void *mem, size_t len, const char *process)
{
	struct layout		 l = layout_of();
	struct seg_head		*h = mem;
	struct seg_row		*row;
	_Atomic uint64_t	*values;
	char			*text;
	size_t			 i, at = 0, n;

	if (len < l.total || (uintptr_t)mem % LINE != 0)
		return ERR_INVAL;
	row = (struct seg_row *)(h + 1);
	text = (char *)mem + l.text_off;
	values = (_Atomic uint64_t *)(void *)((char *)mem + l.values_off);
	h->nrows = (uint32_t)nrows_all;
	h->text_off = (uint32_t)l.text_off;
	h->text_len = (uint32_t)l.text_len;
	h->values_off = (uint32_t)l.values_off;
	snprintf(h->process, sizeof(h->process), "%s", process);
	for (i = 0; i < nrows_all; i++) {
		struct metric	*m = rows_all[i];

		row[i].kind = (uint32_t)m->kind;
		row[i].name = (uint32_t)at;
		n = strlen(m->name) + 1;
		memcpy(text + at, m->name, n);
		at += n;
		row[i].help = (uint32_t)at;
		n = strlen(m->help) + 1;
		memcpy(text + at, m->help, n);
		at += n;
		atomic_store_explicit(&values[i], metric_get(m),
		    memory_order_relaxed);
		m->cell = &values[i];
	}
	nattached = nrows_all;
	atomic_store_explicit(&h->magic, SEG_MAGIC, memory_order_release);
	return 0;
}

void
metric_detach(void)
{
	size_t	 i;

	for (i = 0; i < nattached; i++) {
		struct metric	*m = rows_all[i];
		uint64_t	 v = metric_get(m);

		m->cell = &m->own;
		metric_set(m, v);
	}
	nattached = 0;
}

/*
 * Copy a text out of the segment: its owner may write what it likes at any
 * time, so what was checked must be what is used.
 */
static bool
text_copy(char *out, size_t size, const char *text, size_t text_len, size_t at)
{
	size_t	 i;

	for (i = 0; i < size && at < text_len; i++, at++)
		if ((out[i] = ((const volatile char *)text)[at]) == '\0')
			return true;
	return false;
}

/* A checked copy of the header; ERR_CORRUPT if it is not a segment. */
static int
head_read(const void *mem, size_t len, struct seg_head *out)
{
	const struct seg_head	*h = mem;
	size_t			 rows_end;

	if (len < sizeof(*h) || (uintptr_t)mem % sizeof(uint64_t) != 0)
		return ERR_CORRUPT;
	if (atomic_load_explicit((_Atomic uint32_t *)(uintptr_t)&h->magic,
	    memory_order_acquire) != SEG_MAGIC)
		return ERR_CORRUPT;
	memcpy((char *)out + sizeof(out->magic),
	    (const char *)h + sizeof(h->magic), sizeof(*h) - sizeof(h->magic));
	out->process[sizeof(out->process) - 1] = '\0';
	if (out->nrows > ROWS_MAX)
		return ERR_CORRUPT;
	rows_end = sizeof(*h) + out->nrows * sizeof(struct seg_row);
	if (out->text_off < rows_end || out->text_off > len ||
	    out->text_len > len - out->text_off)
		return ERR_CORRUPT;
	if (out->values_off % sizeof(uint64_t) != 0 || out->values_off > len ||
	    out->nrows * sizeof(uint64_t) > len - out->values_off)
		return ERR_CORRUPT;
	return 0;
}

int
metric_segment_process(const void *mem, size_t len, char *out, size_t size)
{
	struct seg_head	 h;
	int		 rc;

	if ((rc = head_read(mem, len, &h)) < 0)
		return rc;
	snprintf(out, size, "%s", h.process);
	return 0;
}

int
metric_read(const void *mem, size_t len, metric_each *each, void *ctx)
{
	struct seg_head	 h;
	char		 name[NAME_MAX_BYTES], help[HELP_MAX_BYTES];
	const char	*text;
	uint64_t	 value;
	size_t		 i;
	int		 rc;

	if ((rc = head_read(mem, len, &h)) < 0)
		return rc;
	text = (const char *)mem + h.text_off;
	for (i = 0; i < h.nrows; i++) {
		struct seg_row	 row;

		memcpy(&row, (const char *)mem + sizeof(h) + i * sizeof(row),
		    sizeof(row));
		if (row.kind > METRIC_KIND_GAUGE ||
		    !text_copy(name, sizeof(name), text, h.text_len, row.name) ||
		    !text_copy(help, sizeof(help), text, h.text_len, row.help))
			return ERR_CORRUPT;
		value = atomic_load_explicit((_Atomic uint64_t *)((uintptr_t)mem
		    + h.values_off + i * sizeof(value)), memory_order_relaxed);
		each(ctx, name, help, (enum metric_kind)row.kind, value);
	}
	return 0;
}

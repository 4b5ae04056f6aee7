/*
 * journal_model.h: what a log should hold, for tests (after cmocka.h). A
 * record's body follows from its key, so whatever comes back can be compared.
 */
#ifndef SUPPORT_JOURNAL_MODEL_H
#define SUPPORT_JOURNAL_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "journal/journal.h"

#define RECORDS_MAX	4096

struct model {
	struct {
		uint64_t	 pos;
		uint32_t	 len, key;
		bool		 gone;	/* dropped, or seen in a replay */
	} r[RECORDS_MAX];
	size_t		 n;
	uint32_t	 key;
};

struct seen {
	struct model	*m;
	size_t		 n;		/* records delivered */
	uint64_t	 last;		/* position of the last one */
	size_t		 damages;
	uint64_t	 lost;		/* bytes, of tail, bad and missing */
	struct journal_damage d[64];
};

static uint8_t		body[1 << 20];
static bool		gone_is_fine;	/* what was dropped may come back */

static inline void
body_fill(uint32_t key, uint32_t len)
{
	uint32_t	 i, x = key * 2654435761u + 1;

	for (i = 0; i < len; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		body[i] = (uint8_t)x;
	}
}

static inline unsigned
type_of(uint32_t key)
{
	return key * 7 & JOURNAL_TYPE_MAX;
}

static inline int
try_add(struct journal *j, struct model *m, uint32_t len)
{
	uint32_t	 key = ++m->key, cut = len / 3;
	uint64_t	 pos;
	int		 rc;

	assert_true(m->n < RECORDS_MAX);
	body_fill(key, len);
	rc = journal_append(j, type_of(key), (struct slice[]){
	    { body, cut }, { NULL, 0 }, { body + cut, len - cut } }, 3, &pos);
	if (rc < 0)
		return rc;
	assert_true(m->n == 0 || pos > m->r[m->n - 1].pos);
	m->r[m->n].pos = pos;
	m->r[m->n].len = len;
	m->r[m->n].key = key;
	m->r[m->n++].gone = false;
	return 0;
}

static inline void
add(struct journal *j, struct model *m, uint32_t len)
{
	assert_int_equal(try_add(j, m, len), 0);
}

static inline size_t
model_find(const struct model *m, uint64_t pos)
{
	size_t	 i;

	for (i = 0; i < m->n; i++)
		if (m->r[i].pos == pos)
			return i;
	fail_msg("no record was written at %#llx", (unsigned long long)pos);
	return 0;
}

static inline int
on_record(void *ctx, uint64_t pos, unsigned type, const void *data, size_t len)
{
	struct seen	*s = ctx;
	size_t		 i = model_find(s->m, pos);

	assert_true(s->n == 0 || pos > s->last);
	assert_true(gone_is_fine || !s->m->r[i].gone);
	assert_int_equal(len, s->m->r[i].len);
	assert_int_equal(type, type_of(s->m->r[i].key));
	body_fill(s->m->r[i].key, (uint32_t)len);
	assert_memory_equal(data, body, len);
	s->last = pos;
	s->n++;
	return 0;
}

static inline void
on_damage(void *ctx, const struct journal_damage *d)
{
	struct seen	*s = ctx;

	assert_true(s->damages < 64);
	assert_true(strlen(journal_damage_str(d->kind)) > 2);
	s->d[s->damages++] = *d;
	if (d->kind != JOURNAL_HEADER)
		s->lost += d->bytes;
}

static inline uint64_t
record_end(const struct model *m, size_t i)
{
	return m->r[i].pos + 24 + (m->r[i].len + 7) / 8 * 8;
}

static inline void
read_back(struct journal *j, const struct model *m, size_t i)
{
	struct slice	 s;
	unsigned	 type;

	assert_int_equal(journal_read(j, m->r[i].pos, &type, &s), 0);
	assert_int_equal(s.len, m->r[i].len);
	assert_int_equal(type, type_of(m->r[i].key));
	body_fill(m->r[i].key, m->r[i].len);
	assert_memory_equal(s.data, body, s.len);
}

#endif

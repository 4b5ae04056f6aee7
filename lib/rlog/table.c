/*
 * table.c: rows in numbered items that never move, found by hash; three lists
 * through them: live rows and tombstones in the order of their seq, and all
 * that is in no order. The heads of the lists are items as well, so taking one
 * out needs not know of which list.
 *
 * 32 bytes a row, about 11 of the index, and the bytes of key and value with
 * what malloc adds.
 */
#include <stdlib.h>

#include <xxhash.h>

#include "base/err.h"
#include "rlog/store.h"

#define CHUNK	256u			/* items */
#define PARTS	64u			/* of the index: each grows alone */

struct item {
	uint32_t	 next, prev;
	uint64_t	 seq;
	uint8_t		*bytes;		/* key, value; NULL: free, or a head */
	uint32_t	 klen:20, deleted:1, ordered:1;
	uint32_t	 vlen:20, mark:8;
};

enum { HEAD_NONE, HEAD_LIVE, HEAD_TOMB, HEAD_REST, HEADS };

struct part {
	uint64_t	*slots;		/* hash << 32 | number; 0: free */
	uint32_t	 room, used;
};

struct table {
	uint64_t	 seed;
	struct item	**chunks;
	uint32_t	 nchunks, chunk_room;
	uint32_t	 n;		/* numbers given out so far */
	uint32_t	 free;		/* 0: none */
	uint64_t	 text_bytes;
	struct part	 parts[PARTS];
};

static inline struct item *
at(const struct table *t, uint32_t i)
{
	return &t->chunks[i / CHUNK][i % CHUNK];
}

/* --- Items --------------------------------------------------------------- */

static uint32_t
take(struct table *t)
{
	struct item **more;
	uint32_t      i = t->free, room;

	if (i != 0) {
		t->free = at(t, i)->next;
		return i;
	}
	if (t->n == UINT32_MAX)
		return 0;
	if (t->n == t->nchunks * CHUNK) {
		if (t->nchunks == t->chunk_room) {
			room = t->chunk_room == 0 ? 4 : t->chunk_room * 2;
			more = realloc(t->chunks, room * sizeof(*more));
			if (more == NULL)
				return 0;
			t->chunks = more;
			t->chunk_room = room;
		}
		t->chunks[t->nchunks] = calloc(CHUNK, sizeof(struct item));
		if (t->chunks[t->nchunks] == NULL)
			return 0;
		t->nchunks++;
	}
	return t->n++;
}

static void
give(struct table *t, uint32_t i)
{
	struct item *it = at(t, i);

	*it = (struct item){ .next = t->free };
	t->free = i;
}

static void
unlink_item(struct table *t, uint32_t i)
{
	struct item *it = at(t, i);

	at(t, it->prev)->next = it->next;
	at(t, it->next)->prev = it->prev;
}

static void
append(struct table *t, uint32_t head, uint32_t i)
{
	struct item *it = at(t, i), *h = at(t, head);

	it->prev = h->prev;
	it->next = head;
	at(t, h->prev)->next = i;
	h->prev = i;
}

static void
link_item(struct table *t, uint32_t i)
{
	const struct item *it = at(t, i);

	append(t, !it->ordered ? HEAD_REST : it->deleted ? HEAD_TOMB :
	    HEAD_LIVE, i);
}

/* --- The index ----------------------------------------------------------- */

static uint64_t
hash_of(const struct table *t, struct slice key)
{
	return XXH3_64bits_withSeed(key.data, key.len, t->seed);
}

static void
place(struct part *p, uint64_t slot)
{
	uint32_t i = (uint32_t)(slot >> 32) & (p->room - 1);

	while (p->slots[i] != 0)
		i = (i + 1) & (p->room - 1);
	p->slots[i] = slot;
}

static int
index_grow(struct part *p)
{
	struct part bigger = { .used = p->used };
	uint32_t    i;

	if ((p->used + 1) * 5 <= p->room * 4)
		return 0;
	bigger.room = p->room == 0 ? 4 : p->room * 2;
	if ((bigger.slots = calloc(bigger.room, sizeof(uint64_t))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < p->room; i++)
		if (p->slots[i] != 0)
			place(&bigger, p->slots[i]);
	free(p->slots);
	*p = bigger;
	return 0;
}

static uint32_t
find(const struct table *t, struct slice key, uint64_t hash)
{
	const struct part *p = &t->parts[hash % PARTS];
	const struct item *it;
	uint32_t	   i, n;

	if (p->room == 0)
		return 0;
	for (i = (uint32_t)(hash >> 32) & (p->room - 1); p->slots[i] != 0;
	    i = (i + 1) & (p->room - 1)) {
		if (p->slots[i] >> 32 != hash >> 32)
			continue;
		n = (uint32_t)p->slots[i];
		it = at(t, n);
		if (it->klen == key.len &&
		    memcmp(it->bytes, key.data, key.len) == 0)
			return n;
	}
	return 0;
}

static void
index_del(struct part *p, uint64_t slot)
{
	uint32_t mask = p->room - 1, i = (uint32_t)(slot >> 32) & mask, j, home;

	while (p->slots[i] != slot)
		i = (i + 1) & mask;
	for (j = i;;) {			/* close the gap */
		j = (j + 1) & mask;
		if (p->slots[j] == 0)
			break;
		home = (uint32_t)(p->slots[j] >> 32) & mask;
		if (((j - home) & mask) >= ((j - i) & mask)) {
			p->slots[i] = p->slots[j];
			i = j;
		}
	}
	p->slots[i] = 0;
	p->used--;
}

/* --- The store ----------------------------------------------------------- */

void *
rlog_table_new(uint64_t seed)
{
	struct table *t = calloc(1, sizeof(*t));
	uint32_t      i;

	if (t == NULL)
		return NULL;
	t->seed = seed;
	for (i = 0; i < HEADS; i++)
		if (take(t) != i || t->chunks == NULL) {
			free(t);
			return NULL;
		}
	for (i = 0; i < HEADS; i++)
		at(t, i)->next = at(t, i)->prev = i;
	return t;
}

static void
table_free(void *store)
{
	struct table *t = store;
	uint32_t      i;

	if (t == NULL)
		return;
	for (i = 0; i < t->n; i++)
		free(at(t, i)->bytes);
	for (i = 0; i < t->nchunks; i++)
		free(t->chunks[i]);
	for (i = 0; i < PARTS; i++)
		free(t->parts[i].slots);
	free(t->chunks);
	free(t);
}

static void
tell(const struct table *t, uint32_t i, struct rlog_row *row)
{
	const struct item *it = at(t, i);

	row->key = (struct slice){ it->bytes, it->klen };
	row->value = (struct slice){ it->bytes + it->klen, it->vlen };
	row->seq = it->seq;
	row->ref = i;
	row->mark = (uint8_t)it->mark;
	row->deleted = it->deleted;
	row->ordered = it->ordered;
}

static int
table_get(void *store, struct slice key, struct rlog_row *row)
{
	const struct table *t = store;
	uint32_t	    i = find(t, key, hash_of(t, key));

	if (i == 0)
		return ERR_NOTFOUND;
	tell(t, i, row);
	return 0;
}

static int
table_put(void *store, struct rlog_row *row)
{
	struct table *t = store;
	uint32_t      i = (uint32_t)row->ref;
	size_t	      vlen = row->deleted ? 0 : row->value.len;
	size_t	      len = row->key.len + vlen;
	uint64_t      hash;
	uint8_t	     *bytes;
	struct item  *it;
	bool	      stays = false;

	if (row->key.len == 0 || len > RLOG_ROW_MAX)
		return ERR_INVAL;
	if ((bytes = malloc(len)) == NULL)
		return ERR_NOMEM;
	memcpy(bytes, row->key.data, row->key.len);
	if (vlen > 0)
		memcpy(bytes + row->key.len, row->value.data, vlen);
	if (i == 0) {
		hash = hash_of(t, row->key);
		if (index_grow(&t->parts[hash % PARTS]) < 0 ||
		    (i = take(t)) == 0) {
			free(bytes);
			return ERR_NOMEM;
		}
		place(&t->parts[hash % PARTS], hash >> 32 << 32 | i);
		t->parts[hash % PARTS].used++;
		it = at(t, i);
	} else {
		it = at(t, i);
		stays = it->ordered && row->ordered && it->seq == row->seq &&
		    it->deleted == row->deleted;
		if (!stays)
			unlink_item(t, i);
		t->text_bytes -= it->klen + it->vlen;
		free(it->bytes);
	}
	t->text_bytes += len;
	it->bytes = bytes;
	it->seq = row->seq;
	it->klen = row->key.len & 0xfffff;
	it->vlen = vlen & 0xfffff;
	it->mark = row->mark;
	it->deleted = row->deleted;
	it->ordered = row->ordered;
	if (!stays)
		link_item(t, i);
	row->ref = i;
	return 0;
}

static void
table_mark(void *store, uint64_t ref, uint8_t mark)
{
	at(store, (uint32_t)ref)->mark = mark;
}

static void
table_drop(void *store, uint64_t ref)
{
	struct table *t = store;
	uint32_t      i = (uint32_t)ref;
	struct item  *it = at(t, i);
	uint64_t      hash = hash_of(t, (struct slice){ it->bytes, it->klen });

	index_del(&t->parts[hash % PARTS], hash >> 32 << 32 | i);
	unlink_item(t, i);
	t->text_bytes -= it->klen + it->vlen;
	free(it->bytes);
	give(t, i);
}

/*
 * The last item of a list whose seq is not above `after`, its head if there is
 * none. From the hint, if that still is one of this list; else from the end,
 * which is as far as there are rows to come.
 */
static uint32_t
last_not_above(const struct table *t, uint32_t head, uint32_t hint,
    uint64_t after)
{
	const struct item *it;
	uint32_t	   i;

	if (hint == head || (hint >= HEADS && hint < t->n)) {
		it = at(t, hint);
		if (hint == head || (it->bytes != NULL && it->ordered &&
		    it->seq <= after && it->deleted == (head == HEAD_TOMB))) {
			for (i = hint; it->next != head &&
			    at(t, it->next)->seq <= after; it = at(t, i))
				i = it->next;
			return i;
		}
	}
	for (i = at(t, head)->prev; i != head && at(t, i)->seq > after;
	    i = at(t, i)->prev)
		;
	return i;
}

static int
table_since(void *store, uint64_t after, uint64_t *hint, struct rlog_row *row)
{
	const struct table *t = store;
	uint32_t	    l, d, i;

	l = last_not_above(t, HEAD_LIVE, (uint32_t)*hint, after);
	d = last_not_above(t, HEAD_TOMB, (uint32_t)(*hint >> 32), after);
	*hint = (uint64_t)d << 32 | l;
	l = at(t, l)->next;
	d = at(t, d)->next;
	if (l == HEAD_LIVE && d == HEAD_TOMB)
		return 0;
	if (l == HEAD_LIVE)
		i = d;
	else if (d == HEAD_TOMB)
		i = l;
	else
		i = at(t, l)->seq < at(t, d)->seq ? l : d;
	tell(t, i, row);
	return 1;
}

static int
table_scan(void *store, uint64_t *cursor, struct rlog_row *row)
{
	const struct table *t = store;
	uint32_t	    i = (uint32_t)MAX(*cursor, HEADS);

	for (; i < t->n; i++)
		if (at(t, i)->bytes != NULL) {
			tell(t, i, row);
			*cursor = (uint64_t)i + 1;
			return 1;
		}
	*cursor = i;
	return 0;
}

static int
table_oldest(void *store, struct rlog_row *row)
{
	const struct table *t = store;
	uint32_t	    i = at(t, HEAD_TOMB)->next;

	if (i == HEAD_TOMB)
		return 0;
	tell(t, i, row);
	return 1;
}

struct place {
	uint64_t	seq;
	uint32_t	i;
};

static int
place_cmp(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Put the rows of one kind, sorted, between those of its list. */
static void
merge(struct table *t, uint32_t head, const struct place *p, size_t n)
{
	uint32_t     k = at(t, head)->next;
	struct item *it, *before;
	size_t	     j;

	for (j = 0; j < n; j++) {
		it = at(t, p[j].i);
		if (it->deleted != (head == HEAD_TOMB))
			continue;
		while (k != head && at(t, k)->seq < it->seq)
			k = at(t, k)->next;
		unlink_item(t, p[j].i);
		it->ordered = 1;
		before = at(t, k);
		it->next = k;
		it->prev = before->prev;
		at(t, before->prev)->next = p[j].i;
		before->prev = p[j].i;
	}
}

static int
table_settle(void *store, uint64_t upto, uint8_t mark)
{
	struct table *t = store;
	struct place *p;
	struct item  *it;
	uint32_t      i;
	size_t	      n = 0, room = 0;

	for (i = at(t, HEAD_REST)->next; i != HEAD_REST; i = at(t, i)->next)
		room++;
	if (room == 0)
		return 0;
	if ((p = malloc(room * sizeof(*p))) == NULL)
		return ERR_NOMEM;
	for (i = at(t, HEAD_REST)->next; i != HEAD_REST; i = it->next) {
		it = at(t, i);
		if (it->mark >= mark && it->seq <= upto)
			p[n++] = (struct place){ it->seq, i };
	}
	qsort(p, n, sizeof(*p), place_cmp);
	merge(t, HEAD_LIVE, p, n);
	merge(t, HEAD_TOMB, p, n);
	free(p);
	return 0;
}

static void
table_loosen(void *store, uint64_t above)
{
	static const uint32_t heads[] = { HEAD_LIVE, HEAD_TOMB };
	struct table *t = store;
	uint32_t      i, k, prev;

	for (k = 0; k < NELEM(heads); k++)
		for (i = at(t, heads[k])->prev;
		    i != heads[k] && at(t, i)->seq > above; i = prev) {
			prev = at(t, i)->prev;
			unlink_item(t, i);
			at(t, i)->ordered = 0;
			append(t, HEAD_REST, i);
		}
}

static uint64_t
table_bytes(const void *store)
{
	const struct table *t = store;
	uint64_t	    n = sizeof(*t);
	uint32_t	    i;

	n += (uint64_t)t->nchunks * CHUNK * sizeof(struct item);
	for (i = 0; i < PARTS; i++)
		n += t->parts[i].room * sizeof(uint64_t);
	return n + t->text_bytes;
}

const struct rlog_ops rlog_table_ops = {
	table_get, table_put, table_mark, table_drop, table_since, table_scan,
	table_oldest, table_settle, table_loosen, table_free, table_bytes
};

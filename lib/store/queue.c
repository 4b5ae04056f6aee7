/*
 * queue.c: what waits for a session, and the bodies all sessions share.
 */
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "store/internal.h"

/* --- Bodies -------------------------------------------------------------- */

static inline uint64_t
hash_number(uint64_t n)
{
	n *= UINT64_C(0x9e3779b97f4a7c15);
	return n ^ n >> 32;
}

struct body *
body_find(const struct shard *sh, uint64_t pos)
{
	uint64_t	 h = hash_number(pos);
	struct body	*b;
	size_t		 i;

	for (i = spread_first(&sh->bodies, h);
	    (b = spread_at(&sh->bodies, h, &i)) != NULL; i++)
		if (b->pos == pos)
			return b;
	return NULL;
}

static struct stretch *
stretch_find(const struct shard *sh, uint64_t number)
{
	uint64_t	 h = hash_number(number);
	struct stretch	*st;
	size_t		 i;

	for (i = htab_first(&sh->stretches, h);
	    (st = htab_at(&sh->stretches, h, &i)) != NULL; i++)
		if (st->number == number)
			return st;
	return NULL;
}

static struct stretch *
stretch_hold(struct shard *sh, uint64_t number)
{
	struct stretch *st = stretch_find(sh, number);

	if (st != NULL)
		return st;
	if ((st = calloc(1, sizeof(*st))) == NULL)
		return NULL;
	st->number = number;
	if (htab_add(&sh->stretches, hash_number(number), st) < 0) {
		free(st);
		return NULL;
	}
	return st;
}

static void
stretch_release(struct shard *sh, struct stretch *st)
{
	if (st->first != NULL)
		return;
	htab_del(&sh->stretches, hash_number(st->number), st);
	free(st);
}

static void
body_link(struct shard *sh, struct stretch *st, struct body *b)
{
	b->next = st->first;
	b->link = &st->first;
	if (b->next != NULL)
		b->next->link = &b->next;
	st->first = b;
	sh->body_bytes += b->size;
	if (sh->hooks.pin != NULL)
		sh->hooks.pin(sh->ctx, b->pos, b->size);
}

static void
body_unlink(struct shard *sh, struct body *b)
{
	*b->link = b->next;
	if (b->next != NULL)
		b->next->link = b->link;
	sh->body_bytes -= b->size;
	if (sh->hooks.unpin != NULL)
		sh->hooks.unpin(sh->ctx, b->pos, b->size);
}

int
body_new(struct shard *sh, uint64_t pos, uint32_t size, uint32_t bytes,
    uint64_t deadline_ms, struct body **out)
{
	struct stretch	*st;
	struct body	*b;

	if ((st = stretch_hold(sh, pos >> STRETCH_SHIFT)) == NULL)
		return ERR_NOMEM;
	if ((b = calloc(1, sizeof(*b))) == NULL)
		goto release_stretch;
	b->pos = pos;
	b->size = size;
	b->bytes = bytes;
	b->deadline_ms = deadline_ms;
	if (spread_add(&sh->bodies, hash_number(pos), b) < 0)
		goto free_body;
	body_link(sh, st, b);
	*out = b;
	return 0;

free_body:
	free(b);
release_stretch:
	stretch_release(sh, st);
	return ERR_NOMEM;
}

/* The last one gone. */
static void
body_free(struct shard *sh, struct body *b)
{
	struct stretch *st = stretch_find(sh, b->pos >> STRETCH_SHIFT);

	spread_del(&sh->bodies, hash_number(b->pos), b);
	body_unlink(sh, b);
	stretch_release(sh, st);
	free(b);
}

void
body_unref(struct shard *sh, struct body *b)
{
	if (--b->refs == 0)
		body_free(sh, b);
}

int
body_move(struct shard *sh, struct body *b, uint64_t pos, uint32_t size)
{
	struct stretch	*from = stretch_find(sh, b->pos >> STRETCH_SHIFT);
	struct stretch	*to;

	if ((to = stretch_hold(sh, pos >> STRETCH_SHIFT)) == NULL)
		return ERR_NOMEM;
	/* Entered first: from there on nothing can fail. */
	if (spread_add(&sh->bodies, hash_number(pos), b) < 0) {
		stretch_release(sh, to);
		return ERR_NOMEM;
	}
	spread_del(&sh->bodies, hash_number(b->pos), b);
	body_unlink(sh, b);
	b->pos = pos;
	b->size = size;
	body_link(sh, to, b);
	stretch_release(sh, from);
	return 0;
}

size_t
shard_bodies_in(const struct shard *sh, uint64_t from, uint64_t to,
    struct body **out, size_t max)
{
	uint64_t	 first = from >> STRETCH_SHIFT, last, number;
	struct stretch	*st;
	struct body	*b;
	size_t		 n = 0, i;

	if (from >= to)
		return 0;
	last = (to - 1) >> STRETCH_SHIFT;
	/* By number, or through all when those are fewer. */
	if (last - first < sh->stretches.n) {
		for (number = first; number <= last && n < max; number++) {
			if ((st = stretch_find(sh, number)) == NULL)
				continue;
			for (b = st->first; b != NULL && n < max; b = b->next)
				if (b->pos >= from && b->pos < to)
					out[n++] = b;
		}
		return n;
	}
	for (i = 0; sh->stretches.cells != NULL && i <= sh->stretches.mask;
	    i++) {
		st = sh->stretches.cells[i].item;
		if (st == NULL || st->number < first || st->number > last)
			continue;
		for (b = st->first; b != NULL && n < max; b = b->next)
			if (b->pos >= from && b->pos < to)
				out[n++] = b;
	}
	return n;
}

void
bodies_free(struct shard *sh)
{
	struct stretch	*st;
	struct body	*b, *next;
	size_t		 i;

	for (i = 0; sh->stretches.cells != NULL && i <= sh->stretches.mask;
	    i++) {
		if ((st = sh->stretches.cells[i].item) == NULL)
			continue;
		for (b = st->first; b != NULL; b = next) {
			next = b->next;
			free(b);
		}
		free(st);
	}
	htab_fini(&sh->stretches);
	spread_fini(&sh->bodies);
}

/* --- Queues -------------------------------------------------------------- */

enum {
	SHRINK_MIN = 64,		/* smaller ones stay as they are */
	CAP_MAX = 1 << 26
};

static struct entry nothing = { .state = ENTRY_DONE };

struct entry *
queue_find(const struct session *s, uint64_t offset)
{
	const struct queue	*q = s->queue;
	struct entry		*e;
	uint32_t		 lo, hi, mid;

	if (q == NULL || q->n == 0)
		return NULL;
	e = (struct entry *)&q->entries[q->first];
	if (offset < e->offset)
		return NULL;
	/* With nothing taken out in between it lies there, else before. */
	hi = (uint32_t)MIN(offset - e->offset, q->n - 1);
	if (e[hi].offset == offset)
		return &e[hi];
	for (lo = 0; lo < hi;) {
		mid = lo + (hi - lo) / 2;
		if (e[mid].offset < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return e[lo].offset == offset ? &e[lo] : NULL;
}

struct entry *
session_entry(const struct session *s, uint64_t offset)
{
	struct entry *e = queue_find(s, offset);

	return e != NULL ? e : &nothing;
}

/* The first place whose offset is at or above this one; q->first + q->n. */
static uint32_t
place_at(const struct queue *q, uint64_t offset)
{
	const struct entry	*e = &q->entries[q->first];
	uint32_t		 lo = 0, hi = q->n, mid;

	if (offset <= e->offset)
		return q->first;
	hi = (uint32_t)MIN(offset - e->offset, q->n);
	if (hi < q->n && e[hi].offset == offset)
		return q->first + hi;
	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (e[mid].offset < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return q->first + lo;
}

uint64_t
session_next(const struct session *s, uint64_t from)
{
	const struct queue	*q = s->queue;
	uint32_t		 i;

	if (q == NULL || q->n == 0)
		return s->next;
	for (i = place_at(q, from); i < q->first + q->n; i++)
		if (q->entries[i].state != ENTRY_DONE)
			return q->entries[i].offset;
	return s->next;
}

/* Take out what is DONE, to `to`, which has room and may be q itself. */
static void
squeeze(const struct queue *q, struct queue *to)
{
	uint32_t i, n = 0, end = q->first + q->n;

	for (i = q->first; i < end; i++)
		if (q->entries[i].state != ENTRY_DONE)
			to->entries[n++] = q->entries[i];
	to->first = 0;
	to->n = n;
}

/* A queue of this size with what is not DONE. */
static int
resize(struct session *s, uint32_t cap)
{
	struct queue *q = s->queue, *other;

	if (cap > CAP_MAX || (other = malloc(sizeof(*other) +
	    cap * sizeof(other->entries[0]))) == NULL)
		return ERR_NOMEM;
	other->cap = cap;
	other->first = other->n = 0;
	if (q != NULL)
		squeeze(q, other);
	s->queue = other;
	free(q);
	return 0;
}

int
queue_reserve(struct session *s, uint32_t n)
{
	struct queue *q = s->queue;

	if (q == NULL)
		return resize(s, n);
	if (q->first + q->n + n <= q->cap)
		return 0;
	if (s->queued > q->cap / 4 * 3 || s->queued + n > q->cap)
		return resize(s, MAX(q->cap * 2, s->queued + n));
	squeeze(q, q);
	return 0;
}

/* What was long once and is not any more. */
static void
shrink(struct session *s)
{
	uint32_t cap = s->queue->cap;

	if (cap < SHRINK_MIN || s->queued >= cap / 8)
		return;
	while (cap / 4 > s->queued)
		cap /= 2;
	(void)resize(s, cap);		/* or it stays long */
}

struct entry *
queue_add(struct shard *sh, struct session *s, uint64_t offset,
    struct body *b)
{
	struct queue	*q = s->queue;
	struct entry	*e = &q->entries[q->first + q->n++];

	memset(e, 0, sizeof(*e));
	e->offset = offset;
	e->state = ENTRY_RECEIVED;
	if ((e->body = b) != NULL) {
		e->state = ENTRY_WAITS;
		b->refs++;
		s->queued_bytes += b->bytes;
	}
	s->queued++;
	sh->queued++;
	return e;
}

/* Nobody reads its message again. */
static void
let_go(struct shard *sh, struct session *s, struct entry *e)
{
	if (e->body != NULL) {
		s->queued_bytes -= e->body->bytes;
		body_unref(sh, e->body);
		e->body = NULL;
	}
	free(e->ids);
	e->ids = NULL;
	e->nids = 0;
	e->group = 0;
}

void
queue_received(struct shard *sh, struct session *s, struct entry *e)
{
	let_go(sh, s, e);
	e->state = ENTRY_RECEIVED;
}

void
queue_done(struct shard *sh, struct session *s, struct entry *e)
{
	struct queue *q = s->queue;

	let_go(sh, s, e);
	e->state = ENTRY_DONE;
	s->queued--;
	sh->queued--;
	while (q->n > 0 && q->entries[q->first].state == ENTRY_DONE) {
		q->first++;
		q->n--;
	}
	if (q->n > 0) {
		s->base = q->entries[q->first].offset;
		shrink(s);
	} else {
		s->base = s->next;
		s->queue = NULL;
		free(q);
	}
	s->sent = MAX(s->sent, s->base);
}

void
queue_clear(struct shard *sh, struct session *s)
{
	struct queue	*q = s->queue;
	uint32_t	 i;

	if (q == NULL)
		return;
	for (i = q->first; i < q->first + q->n; i++) {
		if (q->entries[i].state != ENTRY_DONE)
			sh->queued--;
		let_go(sh, s, &q->entries[i]);
	}
	s->queue = NULL;
	s->queued = 0;
	s->base = s->sent = s->next;
	free(q);
}

uint64_t
session_offset(const struct session *s, uint16_t pid)
{
	uint64_t offset;

	if (pid == 0)
		return UINT64_MAX;
	offset = s->base + (pid + 65535u - session_pid(s->base)) % 65535u;
	return offset < s->sent ? offset : UINT64_MAX;
}

bool
session_overflow(const struct session *s, const struct shard_limits *lim,
    uint64_t *offset)
{
	const struct queue	*q = s->queue;
	uint64_t		 bytes = s->queued_bytes;
	uint32_t		 n = s->queued, i;

	if (n <= lim->queue_len && bytes <= lim->queue_bytes)
		return false;
	for (i = q->first; i < q->first + q->n; i++) {
		const struct entry *e = &q->entries[i];

		if (e->state == ENTRY_DONE)
			continue;
		if (e->offset >= s->sent) {
			*offset = e->offset;
			return n > lim->queue_len || bytes > lim->queue_bytes;
		}
		n--;
		if (e->body != NULL)
			bytes -= e->body->bytes;
	}
	return false;
}

/*
 * reader.c: matching. Three steps, each for all topics of a batch before the
 * next, so that the lines they need are on their way together: hash the levels
 * and ask for the entries of every prefix and of the topic itself; look at
 * those, and ask for the terminals of the shapes found; look at them.
 *
 * Nothing read from the segment is believed: piece numbers and offsets are held
 * against the memory there is, counts against their bounds, walks end after
 * one bucket.
 */
#include <stdlib.h>

#include "base/err.h"
#include "fib/hash.h"
#include "fib/layout.h"
#include "topic/group.h"

#define TOPIC_MAX	65535u
#define LEVELS_MAX	(TOPIC_MAX + 1)
#define QUEUE		256u
/* Slots of groups that one batch may read: room for a full terminal of full
 * groups, and a bound on what nonsense may cost. */
#define GROUP_SLOTS	(FIB_GROUPS_MAX * FIB_SLOTS)

struct probe {
	struct fib_entry *bucket;
	uint64_t	 fp;
	uint32_t	 topic;		/* in the batch */
	uint32_t	 level;		/* anchors: levels before the shape */
};

struct queue {
	unsigned	n;
	struct probe	probe[QUEUE];
};

struct levels {			/* of one topic: where in the arrays below */
	uint32_t	first;
	uint32_t	n;
};

struct seen {			/* slots beyond the word, as bits */
	uint64_t	bits[FIB_SLOTS / 64];
};

/* A group as found: of a topic, its slots in the reader's array. */
struct found {
	uint64_t	id_hi, id_lo;
	uint32_t	topic;
	uint32_t	nslots;
	size_t		at;
};

struct fib_reader {
	const uint8_t	*base;
	struct fib_header *header;	/* of a mapping that may be read-only */
	struct fib_epoch *epoch;
	uint64_t	 owner;
	uint64_t	 pieces;	/* that had memory when last looked */
	uint64_t	 pieces_max;	/* of the mapping */
	uint64_t	 dir;
	uint64_t	 probes;
	struct fib_key	 key;
	uint64_t	 mask;

	uint64_t	*hashes;	/* of levels; [LEVELS_MAX] */
	struct sip	*states;	/* before each level, and at the end */
	struct levels	 levels[FIB_BATCH];
	struct queue	 first, second;
	struct fib_match *out;
	struct seen	*seen;		/* [FIB_BATCH] */
	uint16_t	(*more)[FIB_SLOTS];	/* [FIB_BATCH] */

	struct found	*found;		/* of this batch, and their slots */
	struct fib_group_slot *slots;
	struct fib_group *groups;	/* the answer made of them */
	size_t		 found_room, slots_room, groups_room;
	size_t		 nfound, nslots;
	uint64_t	 slots_read;
};

static inline uint64_t
load(_Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_acquire);
}

/* --- Looking into the segment ---------------------------------------- */

/* Do the first n pieces have memory? They were given it before anything led
 * there, so a look at the header after that is enough. */
static bool
pieces_there(struct fib_reader *r, uint64_t n)
{
	if (LIKELY(n <= r->pieces))
		return true;
	r->pieces = MIN(load(&r->header->pieces), r->pieces_max);
	return n <= r->pieces;
}

/*
 * The directory may double and a bucket be split by the new bit between our
 * looks at the depth and at the entry; the entry then leads to the wrong half.
 * The depth is published before the entry, so looking at it again tells.
 */
static struct fib_entry *
bucket_of(struct fib_reader *r, uint64_t fp)
{
	uint64_t	 dir, depth, at, piece;
	unsigned	 tries;

	for (tries = 0; tries <= FIB_DEPTH_MAX; tries++) {
		dir = r->dir;
		depth = dir & 0xff;
		if (UNLIKELY(depth > FIB_DEPTH_MAX))
			return NULL;
		at = fp >> 1 & (((uint64_t)1 << depth) - 1);
		piece = dir >> 8;
		if (UNLIKELY(piece > UINT32_MAX ||
		    !pieces_there(r, piece + at / FIB_PER_DIR + 1)))
			return NULL;
		piece = atomic_load_explicit((_Atomic uint32_t *)(void *)
		    (uintptr_t)(r->base + piece * FIB_PIECE + at * 4),
		    memory_order_acquire);
		r->dir = load(&r->header->dir);
		if (LIKELY(r->dir == dir)) {
			if (UNLIKELY(!pieces_there(r, piece + 1)))
				return NULL;
			return (struct fib_entry *)(void *)(uintptr_t)
			    (r->base + piece * FIB_PIECE);
		}
	}
	return NULL;
}

static inline unsigned
home_of(uint64_t fp)
{
	return (unsigned)(fp >> 32) % FIB_GROUPS * FIB_GROUP;
}

/* The word of fp, 0 if there is none. */
static inline uint64_t
word_of(struct fib_reader *r, const struct probe *p)
{
	unsigned	 i = home_of(p->fp), n;
	uint64_t	 key;

	for (n = 0; n < FIB_ENTRIES; n++, i = (i + 1) % FIB_ENTRIES) {
		r->probes++;
		key = load(&p->bucket[i].key);
		if (key == p->fp)
			return load(&p->bucket[i].word);
		if (key == FIB_EMPTY)
			return 0;
	}
	return 0;
}

/* The words of a block of at least `words`, or NULL. */
static _Atomic uint64_t *
block_at(struct fib_reader *r, uint64_t off, uint64_t words)
{
	if (off % 8 != 0 || off / FIB_PIECE > UINT32_MAX ||
	    !pieces_there(r, (off + words * 8 + FIB_PIECE - 1) / FIB_PIECE))
		return NULL;
	return (_Atomic uint64_t *)(void *)(uintptr_t)(r->base + off);
}

/* --- What was found -------------------------------------------------- */

static void
take_slot(struct fib_reader *r, uint32_t topic, unsigned slot)
{
	struct fib_match *m = &r->out[topic];
	struct seen	*seen = &r->seen[topic];
	uint64_t	 bit = (uint64_t)1 << slot % 64;

	if (slot < FIB_WORD_SLOTS || slot >= FIB_SLOTS)
		return;			/* not what a writer wrote */
	if (m->nmore == 0)
		memset(seen, 0, sizeof(*seen));
	if ((seen->bits[slot / 64] & bit) != 0)
		return;
	seen->bits[slot / 64] |= bit;
	r->more[topic][m->nmore++] = (uint16_t)slot;
	m->more = r->more[topic];
}

/* p with room for so many; or NULL, and p is as it was. */
static void *
room_for(void *p, size_t *room, size_t want, size_t bytes)
{
	if (want <= *room)
		return p;
	want = MAX(MAX(want, *room * 2), 64);
	if ((p = realloc(p, want * bytes)) != NULL)
		*room = want;
	return p;
}

static bool
slots_room(struct fib_reader *r, size_t more)
{
	struct fib_group_slot *p;

	r->slots_read += more;
	if (r->slots_read > GROUP_SLOTS || (p = room_for(r->slots,
	    &r->slots_room, r->nslots + more, sizeof(*p))) == NULL)
		return false;
	r->slots = p;
	return true;
}

static bool
found_room(struct fib_reader *r)
{
	struct found *p = room_for(r->found, &r->found_room, r->nfound + 1,
	    sizeof(*p));

	if (p == NULL)
		return false;
	r->found = p;
	return true;
}

/* False: there is no more room in this batch. */
static bool
take_group(struct fib_reader *r, uint32_t topic, uint64_t off)
{
	_Atomic uint64_t *group;
	struct fib_group_slot *slots;
	uint64_t	 n, i, word;
	uint32_t	 to = 0;
	unsigned	 slot, next = 0;

	if ((group = block_at(r, off, GROUP_HEAD)) == NULL)
		return true;		/* not what a writer wrote */
	n = load(&group[2]);
	if (n > FIB_SLOTS || block_at(r, off, GROUP_HEAD + n) == NULL)
		return true;
	if (!slots_room(r, n + 1) || !found_room(r))
		return false;
	slots = r->slots + r->nslots;
	for (i = 0; i < n; i++) {
		word = load(&group[GROUP_HEAD + i]);
		slot = GROUP_SLOT(word);
		if (GROUP_MEMBERS(word) == 0 || slot < next ||
		    slot >= FIB_SLOTS)
			continue;
		slots[to++] = (struct fib_group_slot){ (uint16_t)slot, 0,
		    GROUP_MEMBERS(word) };
		next = slot + 1;
	}
	if (to == 0)
		return true;
	r->found[r->nfound++] = (struct found){ load(&group[0]),
	    load(&group[1]), topic, to, r->nslots };
	r->nslots += to;
	return true;
}

static void
take_groups(struct fib_reader *r, uint32_t topic, uint64_t off,
    uint64_t nmore, uint64_t n)
{
	_Atomic uint64_t *set;
	uint64_t	 i;

	if (n > FIB_GROUPS_MAX ||
	    (set = block_at(r, off, set_words(nmore) + n)) == NULL)
		return;
	for (i = 0; i < n; i++)
		if (!take_group(r, topic, load(&set[set_words(nmore) + i]))) {
			r->out[topic].groups_short = true;
			return;
		}
}

static void
take_set(struct fib_reader *r, uint32_t topic, uint64_t off)
{
	_Atomic uint64_t *set;
	uint64_t	 head, nmore, i, word = 0;

	if ((set = block_at(r, off, 2)) == NULL)
		return;
	head = load(&set[0]);
	nmore = SET_NMORE(head);
	if (nmore > FIB_MORE_MAX || block_at(r, off, set_words(nmore)) == NULL)
		return;
	if (SET_NGROUPS(head) > 0)
		take_groups(r, topic, off, nmore, SET_NGROUPS(head));
	r->out[topic].slots |= load(&set[1]) & ~FIB_WORD_BLOCK;
	for (i = 0; i < nmore; i++) {
		if (i % 4 == 0)
			word = load(&set[2 + i / 4]);
		take_slot(r, topic, (uint16_t)(word >> i % 4 * 16));
	}
}

static void
queue_terminals(struct fib_reader *r, struct queue *q)
{
	uint64_t	word;
	unsigned	i;

	for (i = 0; i < q->n; i++) {
		word = word_of(r, &q->probe[i]);
		if (UNLIKELY(word & FIB_WORD_BLOCK))
			take_set(r, q->probe[i].topic, word & ~FIB_WORD_BLOCK);
		else
			r->out[q->probe[i].topic].slots |= word;
	}
	q->n = 0;
}

static inline void
queue_add(struct fib_reader *r, struct queue *q, uint64_t fp,
    uint32_t topic, uint32_t level)
{
	struct fib_entry *bucket = bucket_of(r, fp);

	if (UNLIKELY(bucket == NULL))
		return;
	__builtin_prefetch(&bucket[home_of(fp)]);
	q->probe[q->n++] = (struct probe){ bucket, fp, topic, level };
}

/* A shape at an anchor of the topic: ask for its terminal if the number of
 * levels fits. */
static inline void
try_shape(struct fib_reader *r, const struct probe *p, uint64_t shape)
{
	const struct levels *l = &r->levels[p->topic];
	unsigned	 n = shape_levels(shape), i, left = l->n - p->level;
	const uint64_t	*hash = &r->hashes[l->first - p->topic + p->level];
	struct sip	 s;
	uint64_t	 fp;

	if (n > left || (n < left && !shape_hash(shape)) ||
	    n > FIB_SHAPE_LEVELS)
		return;
	if (n == 0)
		fp = fib_wide(p->fp);
	else {
		s = r->states[l->first + p->level];
		for (i = 0; i < n; i++)
			sip_word(&s, shape_plus(shape, i) ? FIB_PLUS : hash[i]);
		fp = prefix_terminal(&s, r->mask, shape_hash(shape));
	}
	if (r->second.n == QUEUE)
		queue_terminals(r, &r->second);
	queue_add(r, &r->second, fp, p->topic, 0);
}

static void
try_anchor(struct fib_reader *r, const struct probe *p)
{
	uint64_t	 word = word_of(r, p), n, i;
	_Atomic uint64_t *block;

	if ((word & FIB_WORD_BLOCK) == 0) {
		for (; word != 0; word >>= FIB_SHORT_BITS) {
			n = word & (((uint64_t)1 << FIB_SHORT_BITS) - 1);
			if (n != 0)
				try_shape(r, p, shape_long(n));
		}
		return;
	}
	word &= ~FIB_WORD_BLOCK;
	if ((block = block_at(r, word, 1)) == NULL)
		return;
	n = load(&block[0]);
	if (n > FIB_SHAPES_MAX || block_at(r, word, 1 + n) == NULL)
		return;
	for (i = 0; i < n; i++)
		try_shape(r, p, load(&block[1 + i]));
}

static void
queue_first(struct fib_reader *r)
{
	struct queue	*q = &r->first;
	uint64_t	 word;
	unsigned	 i;

	for (i = 0; i < q->n; i++) {
		if (q->probe[i].fp & 1) {
			try_anchor(r, &q->probe[i]);
			continue;
		}
		word = word_of(r, &q->probe[i]);
		if (UNLIKELY(word & FIB_WORD_BLOCK))
			take_set(r, q->probe[i].topic, word & ~FIB_WORD_BLOCK);
		else
			r->out[q->probe[i].topic].slots |= word;
	}
	q->n = 0;
}

/* --- Groups found ---------------------------------------------------- */

static bool
found_same(const struct found *a, const struct found *b)
{
	return a->topic == b->topic && a->id_hi == b->id_hi &&
	    a->id_lo == b->id_lo;
}

static int
found_cmp(const void *x, const void *y)
{
	const struct found *a = x, *b = y;

	if (a->topic != b->topic)
		return a->topic < b->topic ? -1 : 1;
	if (a->id_hi != b->id_hi)
		return a->id_hi < b->id_hi ? -1 : 1;
	if (a->id_lo != b->id_lo)
		return a->id_lo < b->id_lo ? -1 : 1;
	return 0;
}

/*
 * A group that stood under two terminals, on its way from one to the other:
 * slots of either. Behind all others in the array; a is told of them.
 */
static bool
found_merge(struct fib_reader *r, struct found *a, const struct found *b)
{
	const struct fib_group_slot *x, *y, *xend, *yend;
	struct fib_group_slot *to;

	if (!slots_room(r, (size_t)a->nslots + b->nslots))
		return false;
	x = r->slots + a->at;
	y = r->slots + b->at;
	xend = x + a->nslots;
	yend = y + b->nslots;
	a->at = r->nslots;
	to = r->slots + r->nslots;
	while (x < xend || y < yend) {
		if (y == yend || (x < xend && x->slot < y->slot))
			*to++ = *x++;
		else if (x == xend || y->slot < x->slot)
			*to++ = *y++;
		else {
			*to = *x++;
			to->members = group_count_max(to->members, y->members);
			to++;
			y++;
		}
	}
	r->nslots = (size_t)(to - r->slots);
	a->nslots = (uint32_t)(r->nslots - a->at);
	return true;
}

/* Make the answer of what was found. */
static void
groups_answer(struct fib_reader *r)
{
	struct found	*f = r->found;
	struct fib_group *groups;
	struct fib_match *m;
	size_t		 i, n = 0;

	qsort(f, r->nfound, sizeof(*f), found_cmp);
	for (i = 0; i < r->nfound; i++) {
		if (n == 0 || !found_same(&f[n - 1], &f[i]))
			f[n++] = f[i];
		else if (!found_merge(r, &f[n - 1], &f[i]))
			r->out[f[i].topic].groups_short = true;
	}
	if ((groups = room_for(r->groups, &r->groups_room, n,
	    sizeof(*groups))) == NULL) {
		for (i = 0; i < n; i++)
			r->out[f[i].topic].groups_short = true;
		return;
	}
	r->groups = groups;
	for (i = 0; i < n; i++) {
		r->groups[i] = (struct fib_group){ f[i].id_hi, f[i].id_lo,
		    r->slots + f[i].at, f[i].nslots };
		m = &r->out[f[i].topic];
		if (m->ngroups++ == 0)
			m->groups = &r->groups[i];
	}
}

/* --- Topics ---------------------------------------------------------- */

/* Hash the levels of one topic, then ask for every entry that may lead on. The
 * states of a topic take a place more than its levels. */
static uint32_t
take_topic(struct fib_reader *r, uint32_t topic, const struct slice *t,
    uint32_t first, uint64_t anchors)
{
	const uint8_t	*p = t->data, *end = p + t->len, *q = p;
	uint64_t	*hash = &r->hashes[first - topic];
	struct sip	*s = &r->states[first];
	uint32_t	 n = 0, k;

	prefix_init(s, &r->key);
	if (t->len > 0 && *p == '$')
		anchors &= ~(uint64_t)1;	/* MQTT-4.7.2-1 */
	for (;; p = ++q) {
		while (q < end && *q != '/')
			q++;
		hash[n] = sip_bytes(r->key.k0, r->key.k1, p, (size_t)(q - p));
		s[n + 1] = s[n];
		sip_word(&s[n + 1], hash[n]);
		n++;
		if (q == end)
			break;
	}
	r->levels[topic] = (struct levels){ first, n };
	for (k = 0; k <= n; k++) {
		if ((anchors >> MIN(k, 63u) & 1) == 0)
			continue;
		if (r->first.n == QUEUE)
			queue_first(r);
		queue_add(r, &r->first, prefix_anchor(&s[k], r->mask), topic,
		    k);
	}
	if (r->first.n == QUEUE)
		queue_first(r);
	queue_add(r, &r->first, prefix_terminal(&s[n], r->mask, false), topic,
	    0);
	return n;
}

void
fib_match_batch(struct fib_reader *r, const struct slice *topics, size_t n,
    struct fib_match *out)
{
	uint64_t	anchors, room = 0;
	uint32_t	i;

	r->nfound = r->nslots = 0;
	r->slots_read = 0;
	r->out = out;
	r->dir = load(&r->header->dir);
	anchors = load(&r->header->anchor_levels);
	n = MIN(n, FIB_BATCH);
	for (i = 0; i < n; i++) {
		out[i] = (struct fib_match){ 0 };
		if (topics[i].len > TOPIC_MAX)
			continue;
		if (room + topics[i].len + 1 > LEVELS_MAX) {
			queue_first(r);
			queue_terminals(r, &r->second);
			room = 0;
		}
		room += take_topic(r, i, &topics[i], (uint32_t)room + i,
		    anchors);
	}
	queue_first(r);
	queue_terminals(r, &r->second);
	if (UNLIKELY(r->nfound > 0))
		groups_answer(r);
}

void
fib_match(struct fib_reader *r, const void *topic, size_t len,
    struct fib_match *out)
{
	struct slice	t = { topic, len };

	fib_match_batch(r, &t, 1, out);
}

/* --- Epochs ---------------------------------------------------------- */

void
fib_enter(struct fib_reader *r)
{
	uint64_t	e = load(&r->header->epoch);

	if (UNLIKELY(e == FIB_OUT || e == FIB_EVICTED))
		e = FIB_EPOCH_FIRST;
	atomic_store_explicit(&r->epoch->announced, e, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
}

bool
fib_leave(struct fib_reader *r)
{
	return atomic_exchange_explicit(&r->epoch->announced, FIB_OUT,
	    memory_order_acq_rel) != FIB_EVICTED;
}

static struct fib_epoch *
epoch_claim(struct fib_epoch *epochs, uint64_t owner)
{
	uint64_t	was;
	unsigned	i;

	for (i = 0; i < FIB_READERS; i++)
		if (load(&epochs[i].owner) == owner)
			return &epochs[i];
	for (i = 0; i < FIB_READERS; i++) {
		was = 0;
		if (atomic_compare_exchange_strong_explicit(&epochs[i].owner,
		    &was, owner, memory_order_acq_rel, memory_order_relaxed))
			return &epochs[i];
	}
	return NULL;
}

static bool
header_ok(const struct fib_header *h, size_t len)
{
	return h->magic == FIB_MAGIC && h->version == FIB_VERSION &&
	    h->header_len == sizeof(*h) && h->piece == FIB_PIECE &&
	    h->slots == FIB_SLOTS && h->readers == FIB_READERS &&
	    h->len <= len && h->len >= FIB_LEN_MIN && h->len % FIB_PIECE == 0 &&
	    h->key_bits <= 64;
}

int
fib_reader_open(struct fib_reader **out, const void *data, size_t len,
    void *epochs, size_t epochs_len, uint64_t owner)
{
	struct fib_reader *r;
	const struct fib_header *h = data;

	if (data == NULL || epochs == NULL || owner == 0 ||
	    (uintptr_t)data % FIB_LINE != 0 ||
	    (uintptr_t)epochs % FIB_LINE != 0)
		return ERR_INVAL;
	if (len < FIB_LEN_MIN || epochs_len < FIB_EPOCHS_LEN ||
	    !header_ok(h, len))
		return ERR_PROTO;
	if ((r = calloc(1, sizeof(*r))) == NULL)
		return ERR_NOMEM;
	r->base = data;
	r->header = (struct fib_header *)(uintptr_t)h;
	r->owner = owner;
	r->pieces_max = MIN(h->len, len) / FIB_PIECE;
	r->key = (struct fib_key){ h->k0, h->k1, h->key_bits };
	r->mask = prefix_mask(&r->key);
	r->hashes = malloc(LEVELS_MAX * sizeof(*r->hashes));
	r->states = malloc((LEVELS_MAX + FIB_BATCH) * sizeof(*r->states));
	r->seen = malloc(FIB_BATCH * sizeof(*r->seen));
	r->more = malloc(FIB_BATCH * sizeof(*r->more));
	if (r->hashes == NULL || r->states == NULL || r->seen == NULL ||
	    r->more == NULL) {
		fib_reader_close(&r);
		return ERR_NOMEM;
	}
	if (!pieces_there(r, FIB_FIXED_PIECES)) {
		fib_reader_close(&r);
		return ERR_PROTO;
	}
	if ((r->epoch = epoch_claim(epochs, owner)) == NULL) {
		fib_reader_close(&r);
		return ERR_FULL;
	}
	atomic_store_explicit(&r->epoch->announced, FIB_OUT,
	    memory_order_release);
	*out = r;
	return 0;
}

void
fib_reader_close(struct fib_reader **rp)
{
	struct fib_reader *r = *rp;

	if (r == NULL)
		return;
	if (r->epoch != NULL) {
		atomic_store_explicit(&r->epoch->announced, FIB_OUT,
		    memory_order_release);
		atomic_store_explicit(&r->epoch->owner, 0,
		    memory_order_release);
	}
	free(r->hashes);
	free(r->states);
	free(r->seen);
	free(r->more);
	free(r->found);
	free(r->slots);
	free(r->groups);
	free(r);
	*rp = NULL;
}

uint64_t
fib_reader_generation(const struct fib_reader *r)
{
	return r->header->generation;
}

uint64_t
fib_reader_version(const struct fib_reader *r)
{
	return load(&r->header->changes);
}

uint64_t
fib_reader_probes(const struct fib_reader *r)
{
	return r->probes;
}

int
fib_slot(const struct fib_reader *r, unsigned slot, struct fib_slot *out)
{
	struct fib_row	*row;
	uint64_t	 what;

	if (slot >= FIB_SLOTS)
		return ERR_NOTFOUND;
	row = (struct fib_row *)(void *)(uintptr_t)
	    (r->base + FIB_TABLE_PIECE * FIB_PIECE) + slot;
	what = load(&row->what);
	if ((what >> 8 & 0xff) == FIB_NONE || (what >> 8 & 0xff) > FIB_NODE)
		return ERR_NOTFOUND;
	out->state = (what & 0xff) == FIB_UP ? FIB_UP : FIB_DOWN;
	out->kind = (enum fib_kind)(what >> 8 & 0xff);
	out->node = (uint16_t)(what >> 16);
	out->instance = (uint32_t)(what >> 32);
	out->incarnation = load(&row->incarnation);
	return 0;
}

/* With a NUL at its very end a name ends in there, whatever it is. */
const char *
fib_node_name(const struct fib_reader *r, unsigned node)
{
	struct fib_name	*row;

	if (node >= FIB_NODES)
		return "";
	row = (struct fib_name *)(void *)(uintptr_t)
	    (r->base + FIB_NAMES_PIECE * FIB_PIECE) + node;
	if (load(&row->words[0]) == 0 || row->text[FIB_NODE_NAME - 1] != '\0')
		return "";
	return row->text;
}

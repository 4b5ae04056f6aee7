/*
 * store: random operations, against a model that is as simple as can be. In
 * between: saved and loaded, a checkpoint of many moments, a crash and the log
 * from where the checkpoint began.
 *
 *   test_store_model [first [seeds]]	default 1 2000; one seed replays it
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "mqtt/mqtt.h"
#include "store/shard.h"
#include "topic/filter.h"

enum {
	STEPS = 160, CLIENTS = 6, SESSIONS = 256, ENTRIES = 512, SUBS = 16,
	IDS = 24, RECORDS = SESSIONS, LOG = STEPS * 8, TEXT = 1 << 19
};

static uint64_t first_seed = 1, nseeds = 2000;
static uint64_t seed, state_rnd;

static uint32_t
rnd(uint32_t n)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return (uint32_t)((state_rnd >> 20) % n);
}

#define CHECK(x) check_at(x, #x, __LINE__)

static void
check_at(bool good, const char *what, int line)
{
	if (good)
		return;
	fail_msg("seed %llu: line %d: %s", (unsigned long long)seed, line,
	    what);
}

/* --- The model ----------------------------------------------------------- */

struct m_sub {
	const char	*share, *filter;
	uint8_t		 options;
	uint32_t	 id;
};

struct m_entry {
	uint64_t	 offset, pos, deadline_ms, group;
	uint32_t	 size, bytes;
	uint32_t	 ids[IDS];
	uint16_t	 nids;
	uint8_t		 qos, state;
	bool		 retain;
};

struct m_session {
	bool		 here, durable, connected;
	unsigned	 client;
	uint64_t	 handle, incarnation, serial, at_ms;
	uint32_t	 listener, expiry_s, will_delay_s;
	uint8_t		 version;
	char		 will[8];
	struct m_sub	 subs[SUBS];
	unsigned	 nsubs;
	struct m_entry	 out[ENTRIES];		/* those not DONE */
	unsigned	 nout;
	uint64_t	 next, sent;
	uint16_t	 in[64];
	unsigned	 nin;
};

#define SOURCES 3
#define SLOTS 2

static struct model {
	struct m_session  s[SESSIONS];
	unsigned	  n;
	struct msgid	  marks[SOURCES][SLOTS];
} model;

static const char *const clients[CLIENTS] = {
	"a", "bb", "client-3", "d", "a rather long client identifier", "f"
};
static const char *const sources[SOURCES] = { "listener.0", "listener.1", "x" };
static const char *const filters[] = {
	"a", "a/b", "a/+", "a/#", "#", "+/b", "c/d/e", "c/+/e", "$SYS/#", "+"
};
static const char *const shares[] = { "g", "group-2" };
static const char *const topics[] = {
	"a", "a/b", "c/d/e", "b", "x/b", "a/b/c", "$SYS/x"
};

static uint64_t
m_base(const struct m_session *s)
{
	return s->nout > 0 ? s->out[0].offset : s->next;
}

static struct m_session *
m_session(uint64_t handle)
{
	unsigned i;

	for (i = 0; i < model.n; i++)
		if (model.s[i].here && model.s[i].handle == handle)
			return &model.s[i];
	return NULL;
}

static struct m_session *
m_client(unsigned client)
{
	unsigned i;

	for (i = 0; i < model.n; i++)
		if (model.s[i].here && model.s[i].client == client)
			return &model.s[i];
	return NULL;
}

static void
m_remove(struct m_session *s, unsigned i)
{
	memmove(&s->out[i], &s->out[i + 1],
	    (--s->nout - i) * sizeof(s->out[0]));
	s->sent = MAX(s->sent, m_base(s));
}

/* --- Both as text -------------------------------------------------------- */

struct text {
	char	buf[TEXT];
	size_t	len;
};

static void PRINTF(2, 3)
say(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int	n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, sizeof(t->buf) - t->len, fmt, ap);
	va_end(ap);
	t->len += (size_t)n;
	CHECK(t->len < sizeof(t->buf));
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Lines in any order become lines in one order. */
static void
say_sorted(struct text *t, char lines[][96], size_t n)
{
	size_t i;

	qsort(lines, n, sizeof(lines[0]), by_text);
	for (i = 0; i < n; i++)
		say(t, "%s", lines[i]);
}

/* How much was sent to who is connected is not in the log. */
static void
say_model(struct text *t)
{
	char		 lines[64][96];
	unsigned	 i, k, j;
	uint64_t	 bytes;

	t->len = 0;
	for (i = 0; i < model.n; i++) {
		const struct m_session *s = &model.s[i];

		if (!s->here)
			continue;
		for (k = 0, bytes = 0; k < s->nout; k++)
			if (s->out[k].state == ENTRY_WAITS)
				bytes += s->out[k].bytes;
		say(t, "%llu %s d%d c%d l%u i%llu.%llu e%u v%u at%llu will '%s' %u "
		    "base %llu next %llu sent %lld queued %u %llu\n",
		    (unsigned long long)s->handle, clients[s->client],
		    s->durable, s->connected, s->listener,
		    (unsigned long long)s->incarnation,
		    (unsigned long long)s->serial, s->expiry_s,
		    s->version, (unsigned long long)s->at_ms, s->will,
		    s->will_delay_s, (unsigned long long)m_base(s),
		    (unsigned long long)s->next,
		    s->connected ? -1 : (long long)s->sent,
		    s->nout, (unsigned long long)bytes);
		for (k = 0; k < s->nsubs; k++)
			snprintf(lines[k], sizeof(lines[k]),
			    "  sub %s %s %02x %u\n", s->subs[k].share,
			    s->subs[k].filter, s->subs[k].options,
			    s->subs[k].id);
		say_sorted(t, lines, s->nsubs);
		for (k = 0; k < s->nin; k++)
			snprintf(lines[k], sizeof(lines[k]), "  in %05u\n",
			    s->in[k]);
		say_sorted(t, lines, s->nin);
		for (k = 0; k < s->nout; k++) {
			const struct m_entry *e = &s->out[k];

			say(t, "  out %llu q%u s%u r%d g%llu",
			    (unsigned long long)e->offset, e->qos, e->state,
			    e->retain, (unsigned long long)e->group);
			for (j = 0; j < e->nids; j++)
				say(t, " %u", e->ids[j]);
			if (e->state == ENTRY_WAITS)
				say(t, " at %llu %u %u %llu",
				    (unsigned long long)e->pos, e->size,
				    e->bytes,
				    (unsigned long long)e->deadline_ms);
			say(t, "\n");
		}
	}
	for (i = 0; i < SOURCES; i++)
		for (k = 0; k < SLOTS; k++)
			say(t, "mark %s %u %llu.%llu\n", sources[i], k,
			    (unsigned long long)model.marks[i][k].hi,
			    (unsigned long long)model.marks[i][k].lo);
}

struct list {
	struct session	*s[SESSIONS];
	unsigned	 n;
};

static int
collect(void *ctx, struct session *s)
{
	struct list *l = ctx;

	CHECK(l->n < SESSIONS);
	l->s[l->n++] = s;
	return 0;
}

static int
by_handle(const void *a, const void *b)
{
	const struct session *x = *(struct session *const *)a;
	const struct session *y = *(struct session *const *)b;

	return x->handle < y->handle ? -1 : x->handle > y->handle;
}

static void
list_all(struct shard *sh, struct list *l)
{
	l->n = 0;
	shard_each(sh, collect, l);
	qsort(l->s, l->n, sizeof(l->s[0]), by_handle);
	CHECK(l->n == shard_nsessions(sh));
}

static void
say_session(struct text *t, const struct session *s)
{
	const struct session_here *h = session_here(s);
	char		 lines[64][96];
	uint64_t	 o;
	uint32_t	 k;

	say(t, "%llu %s d%d c%d l%u i%llu.%llu e%u v%u at%llu will '%.*s' %u "
	    "base %llu next %llu sent %lld queued %u %llu\n",
	    (unsigned long long)s->handle, s->client_id, s->durable,
	    s->connected, h->listener, (unsigned long long)h->incarnation,
	    (unsigned long long)h->serial, s->expiry_s, s->version,
	    (unsigned long long)s->at_ms, (int)h->will.len,
	    h->will.data != NULL ? (const char *)h->will.data : "",
	    h->will_delay_s,
	    (unsigned long long)s->base, (unsigned long long)s->next,
	    s->connected ? -1 : (long long)s->sent, s->queued,
	    (unsigned long long)s->queued_bytes);
	for (k = 0; k < s->subs.n; k++) {
		const struct index_filter *f = s->subs.links[k].filter;
		const struct index_sub *sub = &f->subs[s->subs.links[k].pos];

		snprintf(lines[k], sizeof(lines[k]), "  sub %s %s %02x %u\n",
		    f->is_group ? f->share->name : "", f->text, sub->qos |
		    sub->no_local << 2 | sub->rap << 3 | sub->rh << 4,
		    sub->id);
	}
	say_sorted(t, lines, s->subs.n);
	for (k = 0; k < h->inbound.n; k++)
		snprintf(lines[k], sizeof(lines[k]), "  in %05u\n",
		    h->inbound.ids[k]);
	say_sorted(t, lines, h->inbound.n);
	for (o = session_next(s, 0); o < s->next; o = session_next(s, o + 1)) {
		const struct entry *e = session_entry(s, o);

		say(t, "  out %llu q%u s%u r%d g%llu", (unsigned long long)o,
		    e->qos, e->state, e->retain,
		    (unsigned long long)e->group);
		CHECK(e->offset == o);
		for (k = 0; k < e->nids; k++)
			say(t, " %u", e->ids[k]);
		CHECK((e->body != NULL) == (e->state == ENTRY_WAITS));
		if (e->body != NULL)
			say(t, " at %llu %u %u %llu",
			    (unsigned long long)e->body->pos, e->body->size,
			    e->body->bytes,
			    (unsigned long long)e->body->deadline_ms);
		say(t, "\n");
	}
}

static void
say_shard(struct text *t, struct shard *sh)
{
	struct list	l;
	unsigned	i, k;
	struct slice	source;
	struct msgid	id;

	t->len = 0;
	list_all(sh, &l);
	for (i = 0; i < l.n; i++)
		say_session(t, l.s[i]);
	for (i = 0; i < SOURCES; i++)
		for (k = 0; k < SLOTS; k++) {
			source.data = (const uint8_t *)sources[i];
			source.len = strlen(sources[i]);
			id = shard_mark(sh, &source, k);
			say(t, "mark %s %u %llu.%llu\n", sources[i], k,
			    (unsigned long long)id.hi,
			    (unsigned long long)id.lo);
		}
}

/* --- The log, what it pins, the tree ------------------------------------- */

static struct {
	uint64_t	 pos;
	uint8_t		*data;
	size_t		 len;
} written[LOG];
static unsigned nwritten;
static uint64_t end_pos, clock_ms;

struct pins {
	uint64_t	pos[ENTRIES];
	uint32_t	size[ENTRIES];
	unsigned	n;
	struct shard	*sh;
};

static void
on_pin(void *ctx, uint64_t pos, uint32_t size)
{
	struct pins	*p = ctx;
	unsigned	 i;

	for (i = 0; i < p->n; i++)
		CHECK(p->pos[i] != pos);
	CHECK(p->n < ENTRIES);
	p->pos[p->n] = pos;
	p->size[p->n++] = size;
}

static void
on_unpin(void *ctx, uint64_t pos, uint32_t size)
{
	struct pins	*p = ctx;
	unsigned	 i;

	for (i = 0; i < p->n && p->pos[i] != pos; i++)
		;
	CHECK(i < p->n && p->size[i] == size);
	p->pos[i] = p->pos[--p->n];
	p->size[i] = p->size[p->n];
}

static void
on_filter(void *ctx, struct index_filter *f)
{
	struct pins *p = ctx;

	if (f->nsubs == 0)
		index_filter_drop(shard_index(p->sh), f);
}

static struct pins pins;
static struct shard *shard;

static struct shard *
new_shard(struct pins *p)
{
	struct shard_hooks h = { on_pin, on_unpin, NULL };

	memset(p, 0, sizeof(*p));
	p->sh = shard_new(seed);
	CHECK(p->sh != NULL);
	if (rnd(2))
		h.filter = on_filter;
	shard_set_hooks(p->sh, &h, p);
	return p->sh;
}

struct record {
	uint64_t	 handle;
	uint8_t		*data;
	size_t		 len;
};

struct tree {
	struct record	r[RECORDS];
	unsigned	n;
	struct record	marks;
	uint64_t	pos;		/* replay from here */
};

static struct tree tree, committed;
static size_t to_take;			/* until the checkpoint may end */

static void
record_free(struct record *r)
{
	free(r->data);
	r->data = NULL;
}

static void
tree_free(struct tree *t)
{
	while (t->n > 0)
		record_free(&t->r[--t->n]);
	record_free(&t->marks);
	memset(t, 0, sizeof(*t));
}

static struct record
record_copy(const struct record *r)
{
	struct record c = *r;

	if (r->data != NULL) {
		c.data = malloc(r->len);
		memcpy(c.data, r->data, r->len);
	}
	return c;
}

static void
tree_copy(struct tree *to, const struct tree *from)
{
	unsigned i;

	tree_free(to);
	for (i = 0; i < from->n; i++)
		to->r[i] = record_copy(&from->r[i]);
	to->n = from->n;
	to->marks = record_copy(&from->marks);
	to->pos = from->pos;
}

static struct record
save_session(const struct session *s)
{
	long		n = session_save(s, NULL, 0);
	struct record	r = { s->handle, malloc((size_t)n), (size_t)n };

	CHECK(session_save(s, r.data, r.len - 1) == ERR_FULL);
	CHECK(session_save(s, r.data, r.len) == n);
	return r;
}

static struct record
save_marks(struct shard *sh)
{
	long		n = shard_save_marks(sh, NULL, 0);
	struct record	r = { 0, malloc((size_t)n), (size_t)n };

	CHECK(shard_save_marks(sh, r.data, r.len) == n);
	return r;
}

static void
tree_del(uint64_t handle)
{
	unsigned i;

	for (i = 0; i < tree.n; i++)
		if (tree.r[i].handle == handle) {
			record_free(&tree.r[i]);
			tree.r[i] = tree.r[--tree.n];
			return;
		}
}

/* A slice of the checkpoint; then perhaps its end, and the next begins. */
static void
take_dirty(void)
{
	struct dirty	d[4];
	size_t		n = shard_take_dirty(shard, d, 1 + rnd(4)), i;

	for (i = 0; i < n; i++) {
		tree_del(d[i].handle);
		if (d[i].session != NULL)
			tree.r[tree.n++] = save_session(d[i].session);
	}
	to_take -= MIN(n, to_take);
	if (rnd(4) == 0) {
		record_free(&tree.marks);
		tree.marks = save_marks(shard);
	}
	if (to_take > 0 || rnd(3))
		return;
	if (tree.marks.data == NULL)
		tree.marks = save_marks(shard);
	tree_copy(&committed, &tree);
}

static void
begin_checkpoint(void)
{
	if (to_take > 0 || rnd(2))
		return;
	tree.pos = end_pos;
	to_take = shard_ndirty(shard);
	record_free(&tree.marks);
}

static uint32_t
filters_of(void)
{
	uint32_t n = 0;
	unsigned i;

	for (i = 0; i < model.n; i++)
		if (model.s[i].here)
			n += model.s[i].nsubs;
	return n;
}

static void
compare(struct shard *sh, const struct pins *p)
{
	static struct text	a, b;
	struct shard_counts	c = shard_counts(sh);
	unsigned		i, k;
	uint64_t		bytes = 0, queued = 0;

	say_model(&a);
	say_shard(&b, sh);
	if (strcmp(a.buf, b.buf) != 0) {
		printf("--- model\n%s--- shard\n%s", a.buf, b.buf);
		CHECK(!"the same");
	}
	for (i = 0; i < p->n; i++)
		bytes += p->size[i];
	for (i = 0; i < model.n; i++) {
		const struct m_session *s = &model.s[i];

		if (!s->here)
			continue;
		queued += s->nout;
		for (k = 0; k < s->nout; k++) {
			unsigned j;

			if (s->out[k].state != ENTRY_WAITS)
				continue;
			for (j = 0; j < p->n && p->pos[j] != s->out[k].pos;
			    j++)
				;
			CHECK(j < p->n && p->size[j] == s->out[k].size);
		}
	}
	CHECK(c.bodies == p->n && c.body_bytes == bytes);
	CHECK(c.queued == queued);
	CHECK(index_nsubs(shard_index(sh)) == filters_of());
	if (filters_of() == 0)
		CHECK(index_nfilters(shard_index(sh)) == 0);
}

/* --- Operations ---------------------------------------------------------- */

static uint8_t scratch_op[1 << 16];
static size_t  scratch_len;

static void
begin(const struct op *o)
{
	long n = op_put(scratch_op, sizeof(scratch_op), o);

	CHECK(n > 0);
	CHECK(op_put(NULL, 0, o) == n);
	scratch_len = (size_t)n;
}

/* The record is anything: nobody here looks at it. */
static void
end_record(size_t len)
{
	memset(scratch_op + scratch_len, 0x5a, len);
	scratch_len += len;
}

static int
commit(void)
{
	uint8_t *copy = malloc(scratch_len);
	int	 rc;

	memcpy(copy, scratch_op, scratch_len);
	rc = shard_apply(shard, end_pos, copy, scratch_len);
	CHECK(rc == 0 || rc == ERR_NOTFOUND);
	CHECK(nwritten < LOG);
	written[nwritten].pos = end_pos;
	written[nwritten].data = copy;
	written[nwritten++].len = scratch_len;
	end_pos += scratch_len + 16;
	return rc;
}

static struct slice
slice(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* One that is there, or a handle of none. */
static struct m_session *
any(uint64_t *handle)
{
	unsigned		 client = rnd(CLIENTS);
	struct m_session	*s = m_client(client);

	*handle = s != NULL ? s->handle : 1 + rnd(50);
	if (s == NULL)
		s = m_session(*handle);
	return s;
}

static void
do_open(void)
{
	static const char *const wills[] = { "", "w", "will", "other" };
	unsigned		 client = rnd(CLIENTS);
	struct m_session	*s = m_client(client), *old = s;
	struct op		 o = {
		.kind = STORE_OPEN, .at_ms = clock_ms, .listener = rnd(3),
		.incarnation = rnd(1000), .serial = rnd(1000), .expiry_s = rnd(3) ? rnd(100) :
		    SHARD_NEVER,
		.will_delay_s = rnd(50), .version = (uint8_t)(3 + rnd(3)),
		.durable = rnd(4) > 0, .fresh = rnd(3) == 0,
		.client_id = slice(clients[client]),
		.will = slice(wills[rnd(4)]),
	};

	if (s == NULL)
		o.fresh = rnd(2);
	o.handle = s != NULL && !o.fresh ? s->handle :
	    shard_next_handle(shard);
	begin(&o);
	CHECK(commit() == 0);
	if (s == NULL || o.fresh) {
		if (old != NULL)
			old->here = false;
		CHECK(model.n < SESSIONS);
		s = &model.s[model.n++];
		memset(s, 0, sizeof(*s));
		s->here = true;
		s->handle = o.handle;
		s->client = client;
	}
	s->connected = true;
	s->durable |= o.durable;
	s->listener = o.listener;
	s->incarnation = o.incarnation;
	s->serial = o.serial;
	s->expiry_s = o.expiry_s;
	s->will_delay_s = o.will.len > 0 ? o.will_delay_s : 0;
	s->version = o.version;
	s->at_ms = o.at_ms;
	memset(s->will, 0, sizeof(s->will));
	memcpy(s->will, o.will.data, o.will.len);
}

static void
do_close(void)
{
	struct op		 o = {
		.kind = STORE_CLOSE, .at_ms = clock_ms, .expiry_s = rnd(100),
		.keep_will = rnd(2),
	};
	struct m_session	*s = any(&o.handle);

	if (s != NULL)
		o.offset = s->sent;
	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	if (s == NULL)
		return;
	s->connected = false;
	s->at_ms = o.at_ms;
	s->expiry_s = o.expiry_s;
	s->incarnation = s->serial = s->listener = 0;
	if (!o.keep_will) {
		memset(s->will, 0, sizeof(s->will));
		s->will_delay_s = 0;
	}
}

static void
do_end(void)
{
	struct op		 o = { .kind = STORE_END };
	struct m_session	*s = any(&o.handle);

	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	if (s != NULL)
		s->here = false;
}

static void
do_will(void)
{
	struct op		 o = { .kind = STORE_WILL };
	struct m_session	*s = any(&o.handle);

	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	if (s != NULL) {
		memset(s->will, 0, sizeof(s->will));
		s->will_delay_s = 0;
	}
}

static void
do_subscribe(void)
{
	struct m_sub		 sub = {
		.share = rnd(4) ? "" : shares[rnd(NELEM(shares))],
		.filter = filters[rnd(NELEM(filters))],
		.options = (uint8_t)(rnd(3) | rnd(4) << 2 | rnd(3) << 4),
		.id = rnd(2) ? 0 : 1 + rnd(100),
	};
	struct op		 o = {
		.kind = STORE_SUBSCRIBE, .sub_id = sub.id,
		.options = sub.options, .share = slice(sub.share),
		.filter = slice(sub.filter),
	};
	struct m_session	*s = any(&o.handle);
	unsigned		 i;

	if (s != NULL && s->nsubs == SUBS)
		return;
	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	if (s == NULL)
		return;
	for (i = 0; i < s->nsubs; i++)
		if (strcmp(s->subs[i].share, sub.share) == 0 &&
		    strcmp(s->subs[i].filter, sub.filter) == 0)
			break;
	s->subs[i] = sub;
	s->nsubs = MAX(s->nsubs, i + 1);
}

static void
do_unsubscribe(void)
{
	const char		*share = rnd(4) ? "" : shares[rnd(2)];
	const char		*filter = filters[rnd(NELEM(filters))];
	struct op		 o = {
		.kind = STORE_UNSUBSCRIBE, .share = slice(share),
		.filter = slice(filter),
	};
	struct m_session	*s = any(&o.handle);
	unsigned		 i;

	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	for (i = 0; s != NULL && i < s->nsubs; i++)
		if (strcmp(s->subs[i].share, share) == 0 &&
		    strcmp(s->subs[i].filter, filter) == 0) {
			s->subs[i] = s->subs[--s->nsubs];
			break;
		}
}

static void
m_land(uint64_t handle, uint64_t pos, const struct op *o,
    const struct op_target *t, const uint32_t *ids)
{
	struct m_session	*s = m_session(handle);
	struct m_entry		*e;

	if (s == NULL)
		return;
	CHECK(s->nout < ENTRIES);
	e = &s->out[s->nout++];
	memset(e, 0, sizeof(*e));
	e->offset = s->next++;
	e->pos = pos;
	e->size = (uint32_t)scratch_len;
	e->bytes = (uint32_t)o->record.len;
	e->deadline_ms = o->deadline_ms;
	e->qos = t->qos;
	e->retain = t->retain;
	e->group = t->group;
	e->nids = t->nids;
	memcpy(e->ids, ids, t->nids * sizeof(*ids));
}

static void
m_mark(unsigned source, uint32_t slot, struct msgid id)
{
	if (msgid_cmp(id, model.marks[source][slot]) > 0)
		model.marks[source][slot] = id;
}

/* Who wants it, by asking every subscription of everybody. */
static unsigned
m_match(const char *topic, uint8_t qos, bool retain, int publisher,
    struct op_target *t, uint32_t ids[][IDS])
{
	unsigned i, k, n = 0;

	for (i = 0; i < model.n; i++) {
		const struct m_session *s = &model.s[i];

		if (!s->here)
			continue;
		memset(&t[n], 0, sizeof(t[n]));
		t[n].handle = s->handle;
		for (k = 0; k < s->nsubs; k++) {
			const struct m_sub *sub = &s->subs[k];

			if (sub->share[0] != '\0' ||
			    !topic_matches(sub->filter, strlen(sub->filter),
			    topic, strlen(topic)) ||
			    (sub->options & 4 && (int)s->client == publisher))
				continue;
			t[n].qos = MAX(t[n].qos, MIN(qos, sub->options & 3));
			t[n].retain |= retain && sub->options & 8;
			if (sub->id != 0)
				ids[n][t[n].nids++] = sub->id;
		}
		n += t[n].qos > 0;
	}
	return n;
}

static int
by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* What the shard says of it, each among the model's. */
static void
check_match(const char *topic, uint8_t qos, bool retain, int publisher,
    struct op_target *t, uint32_t ids[][IDS], unsigned n)
{
	struct slice		 name = slice(topic);
	struct slice		 who = slice(publisher < 0 ? "" :
				     clients[publisher]);
	struct store_target	*got;
	uint32_t		 sorted[IDS];
	int			 i, k, rc;

	rc = shard_match(shard, &name, qos, retain, &who, &got);
	CHECK(rc == (int)n);
	for (i = 0; i < rc; i++) {
		for (k = 0; k < rc && t[k].handle != got[i].session->handle;
		    k++)
			;
		CHECK(k < rc && t[k].qos == got[i].qos &&
		    t[k].retain == got[i].retain && t[k].nids == got[i].nids);
		if (got[i].nids > 0)
			memcpy(sorted, got[i].ids,
			    got[i].nids * sizeof(*sorted));
		qsort(sorted, got[i].nids, sizeof(*sorted), by_number);
		qsort(ids[k], t[k].nids, sizeof(*sorted), by_number);
		CHECK(memcmp(sorted, ids[k], t[k].nids * sizeof(*sorted)) ==
		    0);
	}
}

static void
do_publish(void)
{
	static struct op_target	 t[CLIENTS + 4];
	static uint32_t		 ids[CLIENTS + 4][IDS];
	unsigned		 source = rnd(SOURCES + 1), n, i;
	const char		*topic = topics[rnd(NELEM(topics))];
	uint8_t			 qos = (uint8_t)(1 + rnd(2));
	bool			 retain = rnd(2);
	int			 publisher = (int)rnd(CLIENTS + 1) - 1;
	uint64_t		 pos = end_pos;
	struct op		 o = {
		.kind = STORE_PUBLISH, .at_ms = clock_ms,
		.id = { 1 + rnd(1000), rnd(5) }, .slot = rnd(SLOTS),
		.deadline_ms = rnd(2) ? 0 : rnd(1000),
		.source = slice(source < SOURCES ? sources[source] : ""),
		.record = { NULL, rnd(100) },
	};
	unsigned		 more = rnd(3);
	long			 len;

	n = m_match(topic, qos, retain, publisher, t, ids);
	check_match(topic, qos, retain, publisher, t, ids, n);
	for (i = 0; i < more; i++) {	/* once more, for a group */
		memset(&t[n], 0, sizeof(t[n]));
		if (any(&t[n].handle) == NULL)
			continue;
		t[n].qos = (uint8_t)(1 + rnd(2));
		t[n].group = 1 + rnd(3);
		n++;
	}
	if (rnd(4) == 0) {	/* of one that is not there */
		memset(&t[n], 0, sizeof(t[n]));
		t[n].handle = rnd(2) ? 1000000 : 1 + rnd(20);
		t[n].qos = 1;
		t[n].group = rnd(2);
		for (i = 0; i < n && t[i].handle != t[n].handle; i++)
			;
		n += i == n;
	}
	o.ntargets = n;
	begin(&o);
	for (i = 0; i < n; i++) {
		len = op_put_target(scratch_op + scratch_len,
		    sizeof(scratch_op) - scratch_len, &t[i], ids[i]);
		CHECK(len > 0);
		scratch_len += (size_t)len;
	}
	end_record(o.record.len);
	CHECK(commit() == 0);
	for (i = 0; i < n; i++)
		m_land(t[i].handle, pos, &o, &t[i], ids[i]);
	if (source < SOURCES)
		m_mark(source, o.slot, o.id);
}

static void
do_mark(void)
{
	unsigned  source = rnd(SOURCES);
	struct op o = {
		.kind = STORE_MARK, .id = { 1 + rnd(1000), 7 },
		.slot = rnd(SLOTS), .source = slice(sources[source]),
	};

	if (rnd(8) == 0)
		o.id = (struct msgid){ 0, 0 };
	begin(&o);
	CHECK(commit() == 0);
	if (o.id.hi == 0)
		model.marks[source][o.slot] = o.id;
	else
		m_mark(source, o.slot, o.id);
}

/* The caller hands some more out. */
static void
do_send(void)
{
	uint64_t		 handle;
	struct m_session	*s = any(&handle);

	if (s == NULL || !s->connected || s->sent == s->next)
		return;
	s->sent += 1 + rnd((uint32_t)MIN(s->next - s->sent, 5));
	if (s->sent > s->next)
		s->sent = s->next;
	shard_session(shard, handle)->sent = s->sent;
}

static void
m_ack(struct m_session *s, uint64_t offset, uint8_t what)
{
	unsigned i;

	for (i = 0; i < s->nout && s->out[i].offset != offset; i++)
		;
	if (i == s->nout)
		return;
	s->sent = MAX(s->sent, offset + 1);
	if (what != MQTT_PUBREC) {
		m_remove(s, i);
	} else if (s->out[i].qos == 2) {
		s->out[i].state = ENTRY_RECEIVED;
		s->out[i].nids = 0;
		s->out[i].group = 0;
	}
}

static void
do_ack(void)
{
	static const uint8_t	 whats[] = {
		MQTT_PUBACK, MQTT_PUBREC, MQTT_PUBREC, MQTT_PUBCOMP,
		STORE_PUBREC_REFUSED
	};
	struct op		 o = {
		.kind = STORE_ACK, .what = whats[rnd(NELEM(whats))],
	};
	struct m_session	*s = any(&o.handle);

	o.offset = rnd(5);
	if (s != NULL && s->nout > 0 && rnd(8))
		o.offset = s->out[rnd(MIN(s->nout, 3))].offset;
	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	if (s != NULL)
		m_ack(s, o.offset, o.what);
}

static void
do_overflow(void)
{
	struct op		 o = { .kind = STORE_DROP };
	struct m_session	*s = any(&o.handle);
	struct shard_limits	 lim = { rnd(5), rnd(3) ? 10000 : rnd(300) };
	uint64_t		 offset, bytes = 0;
	unsigned		 i, first, n;

	if (s == NULL)
		return;
	for (first = 0; first < s->nout && s->out[first].offset < s->sent;
	    first++)
		;
	for (n = 0, i = first; i < s->nout; i++, n++)
		bytes += s->out[i].bytes;
	if (n == 0 || (n <= lim.queue_len && bytes <= lim.queue_bytes)) {
		CHECK(!session_overflow(shard_session(shard, o.handle), &lim,
		    &offset));
		return;
	}
	CHECK(session_overflow(shard_session(shard, o.handle), &lim,
	    &offset));
	CHECK(offset == s->out[first].offset);
	o.offset = offset;
	begin(&o);
	CHECK(commit() == 0);
	m_remove(s, first);
}

/* One in the middle expires, or a group takes it back. */
static void
do_drop(void)
{
	struct op		 o = {
		.kind = rnd(2) ? STORE_DROP : STORE_ONWARD,
		.record = { NULL, 0 },
	};
	struct m_session	*s = any(&o.handle);
	unsigned		 i;

	if (s == NULL || s->nout == 0)
		return;
	i = rnd(s->nout);
	o.offset = s->out[i].offset;
	o.back = o.kind == STORE_ONWARD;
	begin(&o);
	CHECK(commit() == 0);
	m_remove(s, i);
}

static void
do_inbound(void)
{
	struct op		 o = {
		.kind = STORE_INBOUND, .pid = (uint16_t)(1 + rnd(30)),
		.id = { 5, 5 }, .record = { NULL, rnd(20) },
	};
	struct m_session	*s = any(&o.handle);
	unsigned		 i;

	begin(&o);
	end_record(o.record.len);
	CHECK((commit() == 0) == (s != NULL));
	if (s == NULL)
		return;
	for (i = 0; i < s->nin && s->in[i] != o.pid; i++)
		;
	s->in[i] = o.pid;
	s->nin = MAX(s->nin, i + 1);
}

static void
do_release(void)
{
	struct op		 o = {
		.kind = STORE_RELEASE, .pid = (uint16_t)(1 + rnd(30)),
	};
	struct m_session	*s = any(&o.handle);
	unsigned		 i;

	begin(&o);
	CHECK((commit() == 0) == (s != NULL));
	for (i = 0; s != NULL && i < s->nin; i++)
		if (s->in[i] == o.pid) {
			s->in[i] = s->in[--s->nin];
			break;
		}
}

static void
do_move(void)
{
	struct body	*b[8];
	size_t		 n = shard_bodies_in(shard, 0, UINT64_MAX, b, 8);
	struct op	 o = { .kind = STORE_MOVE };
	struct op_target t = { .qos = 1 };
	uint64_t	 pos = end_pos, holders[CLIENTS + 1];
	unsigned	 i, k, nholders = 0;
	uint32_t	 at;
	long		 len;

	if (n == 0)
		return;
	at = rnd((uint32_t)n);
	o.pos = b[at]->pos;
	o.record.len = b[at]->bytes;
	o.deadline_ms = b[at]->deadline_ms;
	CHECK(shard_bodies_in(shard, o.pos, o.pos + 1, b, 8) == 1);
	CHECK(shard_bodies_in(shard, o.pos + 1, o.pos + 1, b, 8) == 0);
	for (i = 0; i < model.n; i++) {
		const struct m_session *s = &model.s[i];

		for (k = 0; s->here && k < s->nout; k++)
			if (s->out[k].state == ENTRY_WAITS &&
			    s->out[k].pos == o.pos) {
				holders[nholders++] = s->handle;
				break;
			}
	}
	CHECK(nholders > 0);
	if (rnd(2))
		holders[nholders++] = 777777;
	o.ntargets = nholders;
	begin(&o);
	for (i = 0; i < nholders; i++) {
		t.handle = holders[i];
		len = op_put_target(scratch_op + scratch_len,
		    sizeof(scratch_op) - scratch_len, &t, NULL);
		CHECK(len == STORE_TARGET_MIN);
		scratch_len += (size_t)len;
	}
	end_record(o.record.len);
	CHECK(commit() == 0);
	for (i = 0; i < model.n; i++)
		for (k = 0; k < model.s[i].nout; k++)
			if (model.s[i].out[k].pos == o.pos) {
				model.s[i].out[k].pos = pos;
				model.s[i].out[k].size = (uint32_t)scratch_len;
			}
}

/* --- Saving, losing, replaying ------------------------------------------- */

/* A new shard, and who is connected is sent as much as before. */
static void
go_on_with(struct shard *sh, struct pins *p)
{
	unsigned	i;

	for (i = 0; i < model.n; i++)
		if (model.s[i].here)
			shard_session(sh, model.s[i].handle)->sent =
			    model.s[i].sent;
	shard_free(&shard);
	shard = sh;
	pins = *p;
}

static void
do_save_and_load(void)
{
	struct pins	 p;
	struct shard	*sh = new_shard(&p);
	struct list	 l;
	struct record	 r, again;
	unsigned	 i;

	list_all(shard, &l);
	for (i = 0; i < l.n; i++) {
		r = save_session(l.s[i]);
		CHECK(shard_load(sh, r.data, r.len) == 0);
		CHECK(shard_load(sh, r.data, r.len) == ERR_EXISTS);
		again = save_session(shard_session(sh, l.s[i]->handle));
		CHECK(again.len == r.len &&
		    memcmp(again.data, r.data, r.len) == 0);
		record_free(&r);
		record_free(&again);
	}
	r = save_marks(shard);
	CHECK(shard_load_marks(sh, r.data, r.len) == 0);
	record_free(&r);
	CHECK(shard_next_handle(sh) == shard_next_handle(shard));
	compare(sh, &p);
	shard_free(&sh);
}

static void
do_crash(void)
{
	static struct pins	 p;
	struct shard		*sh = new_shard(&p);
	struct list		 l;
	unsigned		 i;
	int			 rc;

	for (i = 0; i < committed.n; i++)
		CHECK(shard_load(sh, committed.r[i].data,
		    committed.r[i].len) == 0);
	if (committed.marks.data != NULL)
		CHECK(shard_load_marks(sh, committed.marks.data,
		    committed.marks.len) == 0);
	for (i = 0; i < nwritten; i++) {
		if (written[i].pos < committed.pos)
			continue;
		rc = shard_apply(sh, written[i].pos, written[i].data,
		    written[i].len);
		CHECK(rc == 0 || rc == ERR_NOTFOUND);
	}
	compare(sh, &p);
	CHECK(shard_next_handle(sh) >= shard_next_handle(shard));
	if (nwritten > 0)
		CHECK(shard_applied(sh) == written[nwritten - 1].pos ||
		    written[nwritten - 1].pos < committed.pos);
	/* Once more changes nothing. */
	for (i = 0; i < nwritten; i++)
		if (written[i].pos >= committed.pos) {
			struct op o;

			CHECK(op_get(&o, written[i].data, written[i].len) ==
			    0);
			if (o.kind != STORE_MARK && o.source.len == 0)
				(void)shard_apply(sh, written[i].pos,
				    written[i].data, written[i].len);
		}
	compare(sh, &p);
	shard_replayed(sh);
	list_all(sh, &l);
	for (i = 0; i < l.n; i++) {
		CHECK(l.s[i]->sent_unsure == l.s[i]->connected);
		CHECK(l.s[i]->sent >= m_session(l.s[i]->handle)->sent);
		CHECK(l.s[i]->sent <= l.s[i]->next);
	}
	if (rnd(2)) {
		shard_free(&sh);
		return;
	}
	/* The checkpoint that was being made never was. */
	tree_copy(&tree, &committed);
	go_on_with(sh, &p);
	shard_set_hooks(shard, &(struct shard_hooks){ on_pin, on_unpin, NULL },
	    &pins);
	record_free(&tree.marks);
	tree.pos = end_pos;
	to_take = shard_ndirty(shard);
}

static void
check_questions(void)
{
	struct list	l;
	unsigned	i;
	uint64_t	o;

	list_all(shard, &l);
	for (i = 0; i < l.n; i++) {
		const struct session	*s = l.s[i];
		const struct m_session	*m = m_session(s->handle);
		uint64_t		 ends, will;

		CHECK(shard_find(shard, s->client_id, s->client_id_len) == s);
		CHECK(s->sent == m->sent);
		for (o = s->base; o < s->sent; o++)
			CHECK(session_offset(s, session_pid(o)) == o);
		CHECK(session_offset(s, session_pid(s->sent)) == UINT64_MAX);
		ends = m->connected || m->expiry_s == SHARD_NEVER ?
		    UINT64_MAX : m->at_ms + m->expiry_s * 1000ull;
		will = m->at_ms + m->will_delay_s * 1000ull;
		CHECK(session_ends_ms(s) == ends);
		CHECK(session_will_ms(s) == (m->connected ||
		    m->will[0] == '\0' ? UINT64_MAX : MIN(will, ends)));
		for (o = 0; o < s->next + 2; o++) {
			const struct entry *e = session_entry(s, o);
			unsigned k;

			for (k = 0; k < m->nout && m->out[k].offset < o; k++)
				;
			CHECK(session_next(s, o) == (k < m->nout ?
			    m->out[k].offset : s->next));
			CHECK((e->state != ENTRY_DONE) == (k < m->nout &&
			    m->out[k].offset == o));
		}
	}
}

static const struct {
	void	 (*run)(void);
	unsigned weight;
} steps[] = {
	{ do_open, 12 }, { do_close, 6 }, { do_end, 3 }, { do_will, 2 },
	{ do_subscribe, 16 }, { do_unsubscribe, 5 }, { do_publish, 30 },
	{ do_mark, 3 }, { do_send, 16 }, { do_ack, 16 }, { do_overflow, 8 },
	{ do_drop, 5 }, { do_inbound, 6 }, { do_release, 4 }, { do_move, 5 },
	{ do_save_and_load, 1 }, { do_crash, 2 }, { take_dirty, 16 },
	{ begin_checkpoint, 8 },
};

static void
one_seed(void)
{
	unsigned i, k, total = 0, at;

	state_rnd = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	memset(&model, 0, sizeof(model));
	end_pos = rnd(2) ? 0 : UINT64_C(1) << 40;
	clock_ms = 1000000;
	to_take = 0;
	shard = new_shard(&pins);
	for (k = 0; k < NELEM(steps); k++)
		total += steps[k].weight;
	for (i = 0; i < STEPS; i++) {
		clock_ms += rnd(1000);
		at = rnd(total);
		for (k = 0; at >= steps[k].weight; k++)
			at -= steps[k].weight;
		steps[k].run();
		if (rnd(16) == 0) {
			compare(shard, &pins);
			check_questions();
		}
	}
	compare(shard, &pins);
	do_save_and_load();
	do_crash();
	shard_free(&shard);
	tree_free(&tree);
	tree_free(&committed);
	while (nwritten > 0)
		free(written[--nwritten].data);
}

static void
any_operations_do_as_the_model(void **state UNUSED)
{
	for (seed = first_seed; seed < first_seed + nseeds; seed++)
		one_seed();
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_operations_do_as_the_model),
	};

	if (argc > 1) {
		first_seed = strtoull(argv[1], NULL, 10);
		nseeds = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}

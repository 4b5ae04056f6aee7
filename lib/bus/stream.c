#include "bus/stream.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "proto/kinds.h"

#define ACK_FRAMES	32	/* taken without an acknowledgement, at most */

/* --- Buffers ----------------------------------------------------------- */

static struct blob *
pool_get(struct stream_pool *pool)
{
	if (pool->n > 0)
		return pool->spare[--pool->n];
	return blob_new(FRAME_MAX);
}

/* Let go of a body: back to the pool if it is one of its size that nobody
 * else (ZeroMQ's thread) still holds. */
static void
pool_put(struct stream_pool *pool, struct blob **b)
{
	if ((*b)->len == FRAME_MAX && pool->n < STREAM_POOL_MAX &&
	    atomic_load_explicit(&(*b)->refs, memory_order_acquire) == 1) {
		pool->spare[pool->n++] = *b;
		*b = NULL;
		return;
	}
	blob_unref(b);
}

void
stream_pool_fini(struct stream_pool *pool)
{
	while (pool->n > 0)
		blob_unref(&pool->spare[--pool->n]);
}

/* --- Origins ----------------------------------------------------------- */

struct stream_origin *
stream_origin_new(const char *process, const char *node, uint64_t incarnation,
    uint32_t slot)
{
	size_t			 size = strlen(process) + strlen(node) + 2;
	struct stream_origin	*o = calloc(1, sizeof(*o) + size);

	if (o == NULL)
		return NULL;
	o->refs = 1;
	o->slot = slot;
	o->incarnation = incarnation;
	snprintf(o->name, size, "%s@%s", process, node);
	return o;
}

struct stream_origin *
stream_origin_ref(struct stream_origin *o)
{
	if (o != NULL)
		o->refs++;
	return o;
}

void
stream_origin_unref(struct stream_origin **o)
{
	if (*o != NULL && --(*o)->refs == 0)
		free(*o);
	*o = NULL;
}

/* --- Sending ----------------------------------------------------------- */

void
stream_out_init(struct stream_out *s, struct stream_pool *pool,
    size_t kept_max, uint32_t credit)
{
	memset(s, 0, sizeof(*s));
	s->pool = pool;
	s->kept_max = kept_max;
	s->granted = credit;
	s->asks = STREAM_ASK_GOT;
}

static size_t
frame_size(const struct stream_frame *f)
{
	return f->len + f->payload_len;
}

/* Bytes of credit f costs. */
static size_t
frame_cost(const struct stream_frame *f)
{
	return f->kind == KIND_RECORDS ? frame_size(f) : 0;
}

static void
frame_free(struct stream_out *s, struct stream_frame *f)
{
	s->kept -= frame_size(f);
	pool_put(s->pool, &f->body);
	blob_unref(&f->payload);
	stream_origin_unref(&f->origin);
	free(f);
}

static void
drop_head(struct stream_out *s)
{
	struct stream_frame *f = s->head;

	s->head = f->next;
	if (s->head == NULL)
		s->tail = NULL;
	if (s->next == f)
		s->next = s->head;
	frame_free(s, f);
}

void
stream_out_fini(struct stream_out *s)
{
	while (s->head != NULL)
		drop_head(s);
	if (s->open != NULL)
		pool_put(s->pool, &s->open);
	stream_origin_unref(&s->open_origin);
}

static void
push(struct stream_out *s, struct stream_frame *f)
{
	f->next = NULL;
	f->upto = s->appended;
	if (s->tail != NULL)
		s->tail->next = f;
	else
		s->head = f;
	s->tail = f;
	if (s->next == NULL)
		s->next = f;
}

/* Close the frame being filled. Its bytes are in kept and appended already. */
static int
seal(struct stream_out *s)
{
	struct stream_frame *f;

	if (s->open_count == 0)
		return 0;
	if ((f = calloc(1, sizeof(*f))) == NULL)
		return ERR_NOMEM;
	if (s->open_len > STREAM_COPY_MAX) {
		f->body = s->open;
		s->open = NULL;
	} else {
		if ((f->body = blob_new(s->open_len)) == NULL) {
			free(f);
			return ERR_NOMEM;
		}
		memcpy(f->body->data, s->open->data, s->open_len);
	}
	f->seq = s->seq;
	f->kind = KIND_RECORDS;
	f->asks = s->open_asks;
	f->count = s->open_count;
	f->len = s->open_len;
	f->origin = s->open_origin;
	s->open_origin = NULL;
	s->open_len = s->open_count = 0;
	s->open_asks = 0;
	push(s, f);
	return 0;
}

int
stream_room(const struct stream_out *s, size_t size, unsigned qos)
{
	if (qos == 0 && stream_blocked(s))
		return ERR_FULL;
	/* An empty stream takes anything: nothing is too big to start. */
	if (s->kept > 0 && s->kept + size > s->kept_max)
		return ERR_FULL;
	return 0;
}

static unsigned
asks_of(const struct stream_out *s, const struct record *r)
{
	return s->asks | (s->by_record && r->flags & RECORD_DURABLE ?
	    STREAM_ASK_STORED : 0);
}

/* A record above RECORD_ALONE: a frame of its own, its payload shared. */
static int
append_alone(struct stream_out *s, struct stream_origin *origin,
    const struct record *r, struct blob *payload)
{
	struct stream_frame	*f;
	size_t			 len = record_body_size(r);
	int			 rc = ERR_NOMEM;
	long			 n;

	if ((f = calloc(1, sizeof(*f))) == NULL)
		return ERR_NOMEM;
	if ((f->body = blob_new(len)) == NULL)
		goto free_frame;
	if ((n = record_put(f->body->data, len, r)) < 0) {
		rc = (int)n;
		goto free_body;
	}
	if (r->payload.len > 0 && payload != NULL) {
		f->payload = blob_ref(payload);
		f->payload_at = r->payload.data;
	} else if (r->payload.len > 0) {
		if ((f->payload = blob_new(r->payload.len)) == NULL)
			goto free_body;
		memcpy(f->payload->data, r->payload.data, r->payload.len);
		f->payload_at = f->payload->data;
	}
	if ((rc = seal(s)) < 0)
		goto free_payload;
	f->seq = ++s->seq;
	f->kind = KIND_RECORDS;
	f->asks = asks_of(s, r);
	f->origin = stream_origin_ref(origin);
	f->count = 1;
	f->len = (uint32_t)len;
	f->payload_len = (uint32_t)r->payload.len;
	s->kept += frame_size(f);
	s->appended += frame_size(f);
	push(s, f);
	return 0;

free_payload:
	blob_unref(&f->payload);
free_body:
	blob_unref(&f->body);
free_frame:
	free(f);
	return rc;
}

static int
append_packed(struct stream_out *s, struct stream_origin *origin,
    const struct record *r)
{
	long n;
	int  rc;

	if (s->open_count > 0 && (s->open_origin != origin ||
	    FRAME_MAX - s->open_len < record_size(r)) && (rc = seal(s)) < 0)
		return rc;
	if (s->open == NULL && (s->open = pool_get(s->pool)) == NULL)
		return ERR_NOMEM;
	n = record_put(s->open->data + s->open_len, FRAME_MAX - s->open_len, r);
	if (n < 0)
		return (int)n;
	if (s->open_count++ == 0) {
		s->seq++;
		s->open_origin = stream_origin_ref(origin);
	}
	s->open_len += (uint32_t)n;
	s->open_asks |= asks_of(s, r);
	s->kept += (size_t)n;
	s->appended += (uint64_t)n;
	return 0;
}

int
stream_append(struct stream_out *s, struct stream_origin *origin,
    const struct record *r, struct blob *payload, uint64_t *seq)
{
	int rc;

	if (origin == NULL && msgid_cmp(r->id, s->last_id) <= 0)
		return ERR_INVAL;
	if ((rc = stream_room(s, record_size(r), record_qos(r))) < 0) {
		if (s->kept > 0 && s->kept + record_size(r) > s->kept_max)
			s->was_full = true;
		s->was_blocked = true;
		return rc;
	}
	if (record_is_alone(r))
		rc = append_alone(s, origin, r, payload);
	else
		rc = append_packed(s, origin, r);
	if (rc < 0)
		return rc;
	if (origin == NULL)
		s->last_id = r->id;
	/* What waits for `stored` costs no credit any more, and a publisher that
	 * is refused (stream_room) may have to be closed: rest before. */
	if (s->kept > s->kept_max / 4 * 3)
		s->was_full = true;
	if (stream_blocked(s))
		s->was_blocked = true;
	if (seq != NULL)
		*seq = s->seq;
	return 0;
}

int
stream_append_frame(struct stream_out *s, unsigned kind, const void *body,
    size_t len, struct blob *payload, const struct slice *at, uint64_t *seq)
{
	struct stream_frame	*f;
	size_t			 more = payload != NULL ? at->len : 0;
	int			 rc;

	if (s->kept > 0 && s->kept + len + more > s->kept_max) {
		s->was_full = s->was_blocked = true;
		return ERR_FULL;
	}
	if ((f = calloc(1, sizeof(*f))) == NULL)
		return ERR_NOMEM;
	if ((f->body = blob_new(len)) == NULL) {
		free(f);
		return ERR_NOMEM;
	}
	if ((rc = seal(s)) < 0) {
		blob_unref(&f->body);
		free(f);
		return rc;
	}
	if (len > 0)
		memcpy(f->body->data, body, len);
	f->seq = ++s->seq;
	f->kind = kind;
	f->asks = s->asks;
	f->len = (uint32_t)len;
	if (more > 0) {
		f->payload = blob_ref(payload);
		f->payload_at = at->data;
		f->payload_len = (uint32_t)more;
	}
	s->kept += frame_size(f);
	push(s, f);
	if (seq != NULL)
		*seq = f->seq;
	return 0;
}

int
stream_next(struct stream_out *s, struct stream_frame **f)
{
	int rc;

	/* Without credit the open frame stays open: it leaves fuller. */
	if (s->next == NULL && s->sent < s->granted && (rc = seal(s)) < 0)
		return rc;
	if (s->next == NULL)
		return 0;
	if (s->sent >= s->granted && frame_cost(s->next) > 0)
		return 0;
	*f = s->next;
	return 1;
}

void
stream_sent(struct stream_out *s)
{
	assert(s->next != NULL);
	s->sent = s->next->upto;
	if (s->next->seq > s->sent_seq)
		s->sent_seq = s->next->seq;
	s->next = s->next->next;
}

/* Forget the frames that have all they asked for, and take the credit in. */
static int
settle(struct stream_out *s, uint64_t got, uint64_t stored, uint64_t granted)
{
	struct stream_frame	*f;
	int			 what = 0;

	if (got > s->got)
		what |= STREAM_GOT_MORE;
	if (stored > s->stored) {
		what |= STREAM_STORED_MORE;
		s->stored = stored;
	}
	s->got = got;
	while ((f = s->head) != NULL && f->seq <= got &&
	    ((f->asks & STREAM_ASK_STORED) == 0 || f->seq <= stored)) {
		s->got_bytes = f->upto;
		drop_head(s);
	}
	s->granted = granted;
	if (s->kept <= s->kept_max / 2)
		s->was_full = false;
	if (stream_blocked(s)) {
		s->was_blocked = true;	/* also when a welcome grants less */
	} else if (s->was_blocked) {
		s->was_blocked = false;
		what |= STREAM_UNBLOCKED;
	}
	return what;
}

int
stream_ack(struct stream_out *s, uint64_t got, uint64_t stored,
    uint64_t credit)
{
	uint64_t granted = s->base + credit;

	if (got > s->sent_seq || stored > s->sent_seq)
		return ERR_PROTO;
	/* An old one, overtaken by a welcome: nothing in it is news. */
	if (got < s->got || granted < s->granted)
		return 0;
	return settle(s, got, stored, granted);
}

int
stream_resume(struct stream_out *s, uint64_t seq, uint64_t got,
    uint64_t stored, uint64_t credit, uint64_t taken, uint64_t *resend)
{
	struct stream_frame	*f;
	uint64_t		 upto;
	int			 what;

	*resend = 0;
	if (seq < s->got || seq > s->sent_seq || got > seq || credit < taken)
		return ERR_PROTO;
	got = MAX(got, s->got);
	upto = s->got_bytes;
	for (f = s->head; f != NULL && f->seq <= seq; f = f->next)
		upto = f->upto;
	s->base = upto - taken;		/* may wrap: only the sum is used */
	what = settle(s, got, stored, s->base + credit);
	s->sent = upto;
	/* What waits for `stored` alone is there already. */
	for (f = s->head; f != NULL && f->seq <= seq; f = f->next)
		;
	s->next = f;
	for (; f != NULL && f->seq <= s->sent_seq; f = f->next)
		(*resend)++;
	return what;
}

uint64_t
stream_base(const struct stream_out *s)
{
	if (s->head != NULL)
		return s->head->seq - 1;
	return s->open_count > 0 ? s->seq - 1 : s->seq;
}

void
stream_rewind(struct stream_out *s, bool relayed)
{
	s->had_got = relayed ? stream_got(s) : 0;
	s->had_stored = relayed ? stream_stored(s) : 0;
	s->got = s->stored = stream_base(s);
	s->sent_seq = MAX(s->sent_seq, s->got);
	s->sent = s->got_bytes;
	s->next = s->head;
}

void
stream_forget_live(struct stream_out *s)
{
	struct stream_frame	*f;
	uint64_t		 less = 0;

	(void)seal(s);		/* without memory it goes out, late */
	for (f = s->head; f != NULL; f = f->next) {
		if (f->kind == KIND_RECORDS && f->asks == STREAM_ASK_GOT &&
		    f->seq > s->got) {
			less += frame_size(f);
			s->kept -= frame_size(f);
			f->len = f->payload_len = f->count = 0;
			blob_unref(&f->payload);
		}
		f->upto -= less;
	}
	s->appended -= less;
	s->sent = MIN(s->sent, s->appended);
	if (s->kept <= s->kept_max / 2)
		s->was_full = false;
}

void
stream_take_all(struct stream_out *s, uint32_t credit)
{
	while (s->head != NULL)
		drop_head(s);
	if (s->open_count > 0) {
		s->kept -= s->open_len;
		s->open_len = s->open_count = 0;
		s->open_asks = 0;
		stream_origin_unref(&s->open_origin);
	}
	s->got = s->stored = s->sent_seq = s->seq;
	s->got_bytes = s->sent = s->appended;
	s->granted = s->appended + credit;
	s->was_full = false;	/* who was blocked hears of it at the welcome */
}

static bool
each_of(struct record_iter *it, uint64_t seq,
    bool (*each)(void *ctx, uint64_t seq, const struct record *r), void *ctx)
{
	struct record r;

	while (record_next(it, &r) == 1)
		if (!each(ctx, seq, &r))
			return false;
	return true;
}

void
stream_each(const struct stream_out *s,
    bool (*each)(void *ctx, uint64_t seq, const struct record *r), void *ctx)
{
	const struct stream_frame	*f;
	struct record_iter		 it;

	for (f = s->head; f != NULL; f = f->next) {
		if (f->kind != KIND_RECORDS || f->seq <= s->got)
			continue;
		record_iter_init(&it, f->body->data, f->len, f->payload_at,
		    f->payload_len, f->count);
		if (!each_of(&it, f->seq, each, ctx))
			return;
	}
	if (s->open_count == 0)
		return;
	record_iter_init(&it, s->open->data, s->open_len, NULL, 0,
	    s->open_count);
	each_of(&it, s->seq, each, ctx);
}

/* --- From one process to another ---------------------------------------- */

static struct blob *
blob_of(struct slice bytes)
{
	struct blob *b = blob_new(bytes.len);

	if (b != NULL && bytes.len > 0)
		memcpy(b->data, bytes.data, bytes.len);
	return b;
}

int
stream_restore_frame(struct stream_out *s, const struct stream_frame *like,
    struct slice body, struct slice payload)
{
	struct stream_frame	*f;

	if (like->seq > s->seq || like->upto > s->appended ||
	    s->open_count > 0 || body.len > UINT32_MAX ||
	    payload.len > UINT32_MAX || (s->tail != NULL &&
	    (like->seq != s->tail->seq + 1 || like->upto < s->tail->upto)))
		return ERR_PROTO;
	if ((f = calloc(1, sizeof(*f))) == NULL)
		return ERR_NOMEM;
	f->seq = like->seq;
	f->upto = like->upto;
	f->kind = like->kind;
	f->asks = like->asks;
	f->count = like->count;
	f->len = (uint32_t)body.len;
	f->payload_len = (uint32_t)payload.len;
	if ((f->body = blob_of(body)) == NULL)
		goto free_frame;
	if (payload.len > 0) {
		if ((f->payload = blob_of(payload)) == NULL)
			goto free_body;
		f->payload_at = f->payload->data;
	}
	s->kept += frame_size(f);
	if (s->tail != NULL)
		s->tail->next = f;
	else
		s->head = f;
	s->tail = f;
	if (s->next == NULL && f->seq > s->got)
		s->next = f;
	return 0;

free_body:
	blob_unref(&f->body);
free_frame:
	free(f);
	return ERR_NOMEM;
}

int
stream_restore_open(struct stream_out *s, uint32_t count, unsigned asks,
    struct slice body)
{
	if (count == 0 || body.len > FRAME_MAX || s->open_count > 0 ||
	    (s->tail != NULL && s->tail->seq + 1 != s->seq))
		return ERR_PROTO;
	if (s->open == NULL && (s->open = pool_get(s->pool)) == NULL)
		return ERR_NOMEM;
	if (body.len > 0)
		memcpy(s->open->data, body.data, body.len);
	s->open_len = (uint32_t)body.len;
	s->open_count = count;
	s->open_asks = asks;
	s->kept += body.len;
	return 0;
}

int
stream_restore_end(struct stream_out *s)
{
	uint64_t last = s->open_count > 0 ? s->seq - 1 : s->seq;

	if (s->got > s->sent_seq || s->sent_seq > last ||
	    s->stored > s->sent_seq || s->got_bytes > s->appended ||
	    s->sent > s->appended)
		return ERR_PROTO;
	/* Nothing is missing between what is acknowledged and the end. */
	if (s->head == NULL)
		return s->got == last ? 0 : ERR_PROTO;
	return s->head->seq <= s->got + 1 && s->tail->seq == last ? 0 :
	    ERR_PROTO;
}

/* --- Receiving --------------------------------------------------------- */

void
stream_in_open(struct stream_in *s, uint64_t id, uint64_t base,
    uint32_t window)
{
	struct msgid last;
	uint32_t     slot;
	bool	     defers;

	/* The same stream again, after a broken connection: it may have given
	 * up frames we never saw (bus_peer_move). */
	if (s->open && s->id == id) {
		s->seq = MAX(s->seq, base);
	} else {
		last = s->open ? (struct msgid){ 0, 0 } : s->last_id;
		defers = s->defers;
		slot = s->slot;
		memset(s, 0, sizeof(*s));
		s->last_id = last;
		s->defers = defers;
		s->slot = slot;
		s->open = true;
		s->id = id;
		s->seq = s->stored = s->got = base;
		s->window = window;
	}
	s->missing = false;
	s->urgent = false;
	s->frames = 0;
	s->told = s->taken;	/* the welcome says it */
	s->granted = s->taken;	/* ... and no less than was taken */
}

enum stream_verdict
stream_in_check(struct stream_in *s, uint64_t seq)
{
	if (seq == s->seq + 1) {
		s->missing = false;
		return STREAM_IN_ORDER;
	}
	if (seq <= s->seq) {
		s->urgent = true;
		return STREAM_DUPLICATE;
	}
	if (s->missing)
		return STREAM_GAP_TOLD;
	s->missing = true;
	return STREAM_GAP;
}

static void
in_settle(struct stream_in *s)
{
	if (s->done_got > s->got && s->done_got <= s->seq) {
		s->got = s->done_got;
		s->got_bytes = MIN(MAX(s->done_bytes, s->got_bytes), s->taken);
		s->urgent = true;
	}
	if (s->done_stored > s->stored && s->done_stored <= s->seq) {
		s->stored = s->done_stored;
		s->urgent = true;
	}
}

void
stream_in_taken(struct stream_in *s, size_t bytes, bool urgent)
{
	s->seq++;
	s->taken += bytes;
	s->frames++;
	s->urgent |= urgent;
	in_settle(s);
}

bool
stream_in_stored(struct stream_in *s)
{
	if (s->marked <= s->stored)
		return false;
	s->stored = s->marked;
	s->urgent = true;
	return true;
}

void
stream_in_done(struct stream_in *s, uint64_t got, uint64_t got_bytes,
    uint64_t stored)
{
	if (got <= s->seq + 1 && got > s->done_got) {
		s->done_got = got;
		s->done_bytes = got_bytes;
	}
	if (stored <= s->seq + 1 && stored > s->done_stored)
		s->done_stored = stored;
	in_settle(s);
}

bool
stream_in_ack_due(const struct stream_in *s)
{
	return s->urgent || s->frames >= ACK_FRAMES ||
	    s->taken - s->told >= s->window / 8;
}

void
stream_in_acked(struct stream_in *s)
{
	s->urgent = false;
	s->frames = 0;
	s->told = s->taken;
}

/*
 * shard.c: the sessions, and what each operation does to them.
 */
#include "store/shard.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "mqtt/mqtt.h"
#include "store/internal.h"
#include "topic/filter.h"

/* One target of the PUBLISH that is being applied. */
struct landing {
	struct session	*session;
	uint64_t	 group;
	uint32_t	*ids;
	uint16_t	 nids;
	uint8_t		 qos;
	bool		 retain;
};

/* A log is replayed whatever the limits of today are, so there are none here
 * but those of the index itself. */
static const struct index_limits no_limits = { UINT32_MAX, 32768 };

void *
scratch(void *old, size_t *cap, size_t n, size_t size)
{
	size_t	 want = *cap == 0 ? 64 : *cap;
	void	*grown;

	if (n <= *cap && old != NULL)
		return old;
	while (want < n)
		want *= 2;
	if ((grown = realloc(old, want * size)) != NULL)
		*cap = want;
	return grown;
}

/* --- What may stand in operations and records ---------------------------- */

bool
is_client_id(const struct slice *id)
{
	return id->len > 0 && memchr(id->data, '\0', id->len) == NULL;
}

bool
is_subscription(const struct slice *share, const struct slice *filter)
{
	size_t i;

	for (i = 0; i < share->len; i++)
		if (strchr("+#/", share->data[i]) != NULL)	/* and NUL */
			return false;
	return topic_filter_check(filter->data, filter->len, 0) == 0;
}

bool
is_options(uint8_t options)
{
	return (options & 3) != 3 && (options >> 4 & 3) != 3 &&
	    options >> 6 == 0;
}

/* --- Making, ending ------------------------------------------------------ */

static void
here_free(struct session *s)
{
	if (s->here == NULL)
		return;
	inbound_clear(&s->here->inbound);
	free((void *)(uintptr_t)s->here->will.data);
	free(s->here);
	s->here = NULL;
}

struct shard *
shard_new(uint64_t seed)
{
	struct shard *sh;

	if ((sh = calloc(1, sizeof(*sh))) == NULL)
		return NULL;
	if ((sh->index = index_new(seed, &no_limits)) == NULL) {
		free(sh);
		return NULL;
	}
	sh->seed = seed;
	sh->next_handle = 1;
	sh->dirty_end = &sh->dirty;
	return sh;			/* tables of zeros are empty */
}

void
shard_free(struct shard **psh)
{
	struct shard		*sh = *psh;
	struct session		*s;
	struct index_filter	*f;
	unsigned		 part = 0;
	size_t			 i = 0;

	*psh = NULL;
	if (sh == NULL)
		return;
	memset(&sh->hooks, 0, sizeof(sh->hooks));
	for (s = sh->dirty; s != NULL; s = sh->dirty) {
		sh->dirty = s->dirty_next;
		if (s->ended)
			free(s);
	}
	while ((s = spread_next(&sh->handles, &part, &i)) != NULL) {
		while (index_unsubscribe_one(sh->index, &s->subs, &f) == 0)
			;		/* filters go with the index */
		queue_clear(sh, s);
		here_free(s);
		free(s);
	}
	for (i = 0; sh->marks.cells != NULL && i <= sh->marks.mask; i++)
		free(sh->marks.cells[i].item);
	bodies_free(sh);
	index_free(&sh->index);
	spread_fini(&sh->ids);
	spread_fini(&sh->handles);
	htab_fini(&sh->marks);
	free(sh->landing);
	free(sh->targets);
	free(sh->target_ids);
	free(sh->places);
	free(sh);
}

void
shard_set_hooks(struct shard *sh, const struct shard_hooks *h, void *ctx)
{
	sh->hooks = *h;
	sh->ctx = ctx;
}

static inline uint64_t
hash_id(const struct shard *sh, const void *id, size_t len)
{
	return XXH3_64bits_withSeed(id, len, sh->seed);
}

static struct session *
find_at(const struct shard *sh, uint64_t h, const void *id, size_t len)
{
	struct session	*s;
	size_t		 i;

	for (i = spread_first(&sh->ids, h);
	    (s = spread_at(&sh->ids, h, &i)) != NULL; i++)
		if (s->client_id_len == len &&
		    memcmp(s->client_id, id, len) == 0)
			return s;
	return NULL;
}

struct session *
shard_find(const struct shard *sh, const void *id, size_t len)
{
	return find_at(sh, hash_id(sh, id, len), id, len);
}

struct session *
shard_session(const struct shard *sh, uint64_t handle)
{
	uint64_t	 h = hash_handle(handle);
	struct session	*s;
	size_t		 i;

	for (i = spread_first(&sh->handles, h);
	    (s = spread_at(&sh->handles, h, &i)) != NULL; i++)
		if (s->handle == handle)
			return s;
	return NULL;
}

void
session_touch(struct shard *sh, struct session *s)
{
	if (s->dirty)
		return;
	s->dirty = true;
	s->dirty_next = NULL;
	*sh->dirty_end = s;
	sh->dirty_end = &s->dirty_next;
	sh->ndirty++;
}

/* A copy of b, or {NULL, 0}; false if out of memory. */
static bool
copy_slice(struct slice *out, const struct slice *b)
{
	uint8_t *p = NULL;

	if (b->len > 0) {
		if ((p = malloc(b->len)) == NULL)
			return false;
		memcpy(p, b->data, b->len);
	}
	out->data = p;
	out->len = b->len;
	return true;
}

static void
set_will(struct session *s, const struct slice *will)
{
	free((void *)(uintptr_t)s->here->will.data);
	s->here->will = *will;
}

static void
drop_will(struct session *s)
{
	if (s->here == NULL)
		return;
	set_will(s, &(struct slice){ NULL, 0 });
	s->here->will_delay_s = 0;
}

int
here_hold(struct session *s)
{
	return s->here != NULL || (s->here = calloc(1, sizeof(*s->here))) !=
	    NULL ? 0 : ERR_NOMEM;
}

void
here_release(struct session *s)
{
	if (s->here != NULL && !s->connected && s->here->will.len == 0 &&
	    s->here->inbound.n == 0)
		here_free(s);
}

struct session *
session_new(uint64_t handle, const struct slice *id, const struct slice *will)
{
	size_t		size = offsetof(struct session, client_id) + id->len +
			    1;
	struct session *s;

	if ((s = calloc(1, MAX(size, sizeof(*s)))) == NULL)
		return NULL;
	if (here_hold(s) < 0 || !copy_slice(&s->here->will, will)) {
		free(s->here);
		free(s);
		return NULL;
	}
	s->handle = handle;
	s->client_id_len = (uint16_t)id->len;
	memcpy(s->client_id, id->data, id->len);
	return s;
}

int
session_enter(struct shard *sh, struct session *s)
{
	uint64_t	h = hash_id(sh, s->client_id, s->client_id_len);
	int		rc;

	if ((rc = spread_add(&sh->ids, h, s)) < 0)
		return rc;
	if ((rc = spread_add(&sh->handles, hash_handle(s->handle), s)) < 0) {
		spread_del(&sh->ids, h, s);
		return rc;
	}
	sh->next_handle = MAX(sh->next_handle, s->handle + 1);
	return 0;
}

static void
filter_changed(struct shard *sh, struct index_filter *f)
{
	if (sh->hooks.filter != NULL)
		sh->hooks.filter(sh->ctx, f);
	else if (f->nsubs == 0)
		index_filter_drop(sh->index, f);
}

/* What a session holds goes; only the struct stays. */
void
session_discard(struct shard *sh, struct session *s)
{
	struct index_filter *f;

	while (index_unsubscribe_one(sh->index, &s->subs, &f) == 0)
		filter_changed(sh, f);
	queue_clear(sh, s);
	here_free(s);
}

/* The struct stays on the list of what changed, to tell the tree. */
void
session_end(struct shard *sh, struct session *s)
{
	spread_del(&sh->ids, hash_id(sh, s->client_id, s->client_id_len), s);
	spread_del(&sh->handles, hash_handle(s->handle), s);
	session_discard(sh, s);
	s->ended = true;
	session_touch(sh, s);
}

size_t
shard_take_dirty(struct shard *sh, struct dirty *out, size_t max)
{
	struct session	*s;
	size_t		 n;

	for (n = 0; n < max && (s = sh->dirty) != NULL; n++) {
		if ((sh->dirty = s->dirty_next) == NULL)
			sh->dirty_end = &sh->dirty;
		s->dirty = false;
		sh->ndirty--;
		out[n].handle = s->handle;
		out[n].session = s->ended ? NULL : s;
		if (s->ended)
			free(s);
	}
	return n;
}

/* --- Subscriptions ------------------------------------------------------- */

int
session_subscribe(struct shard *sh, struct session *s,
    const struct slice *share, const struct slice *filter, uint8_t options,
    uint32_t id)
{
	struct index_sub	 sub = {
		.id = id, .qos = options & 3, .no_local = options >> 2 & 1,
		.rap = options >> 3 & 1, .rh = options >> 4 & 3,
	};
	const char		*text = (const char *)filter->data;
	struct index_filter	*f;
	int			 rc;

	rc = share->len > 0 ?
	    index_share(sh->index, &s->subs, share, text, filter->len, &sub,
	    &f) :
	    index_subscribe(sh->index, &s->subs, text, filter->len, &sub, &f);
	if (rc >= 0)
		filter_changed(sh, f);
	return rc;
}

uint8_t
sub_options(const struct index_sub *sub)
{
	return (uint8_t)(sub->qos | sub->no_local << 2 | sub->rap << 3 |
	    sub->rh << 4);
}

/* --- Marks --------------------------------------------------------------- */

static inline bool
is_no_id(struct msgid id)
{
	return id.hi == 0 && id.lo == 0;
}

static uint64_t
hash_mark(const struct shard *sh, const void *source, size_t len,
    uint32_t slot)
{
	return XXH3_64bits_withSeed(source, len, sh->seed ^ slot);
}

struct mark *
mark_find(const struct shard *sh, const struct slice *source, uint32_t slot)
{
	uint64_t	 h = hash_mark(sh, source->data, source->len, slot);
	struct mark	*m;
	size_t		 i;

	for (i = htab_first(&sh->marks, h);
	    (m = htab_at(&sh->marks, h, &i)) != NULL; i++)
		if (m->slot == slot && m->len == source->len &&
		    memcmp(m->source, source->data, m->len) == 0)
			return m;
	return NULL;
}

int
mark_hold(struct shard *sh, const struct slice *source, uint32_t slot,
    struct mark **out)
{
	struct mark	*m = mark_find(sh, source, slot);

	if (m == NULL) {
		if (sh->marks.n >= SHARD_MARKS_MAX)
			return ERR_FULL;
		if ((m = calloc(1, sizeof(*m) + source->len)) == NULL)
			return ERR_NOMEM;
		m->slot = slot;
		m->len = (uint16_t)source->len;
		memcpy(m->source, source->data, source->len);
		if (htab_add(&sh->marks, hash_mark(sh, source->data,
		    source->len, slot), m) < 0) {
			free(m);
			return ERR_NOMEM;
		}
	}
	*out = m;
	return 0;
}

void
mark_forget(struct shard *sh, struct mark *m)
{
	htab_del(&sh->marks, hash_mark(sh, m->source, m->len, m->slot), m);
	free(m);
}

struct msgid
shard_mark(const struct shard *sh, const struct slice *source, uint32_t slot)
{
	struct mark *m = mark_find(sh, source, slot);

	return m != NULL ? m->id : (struct msgid){ 0, 0 };
}

static int
apply_mark(struct shard *sh, const struct op *o)
{
	struct mark	*m;
	int		 rc;

	if (is_no_id(o->id)) {
		if ((m = mark_find(sh, &o->source, o->slot)) != NULL)
			mark_forget(sh, m);
		return 0;
	}
	if ((rc = mark_hold(sh, &o->source, o->slot, &m)) < 0)
		return rc;
	if (msgid_cmp(o->id, m->id) > 0)
		m->id = o->id;
	return 0;
}

/* --- Operations of one session ------------------------------------------- */

static void
open_here(struct session *s, const struct op *o)
{
	s->connected = true;
	s->sent_unsure = false;
	s->durable |= o->durable;
	s->fresh = o->fresh;
	s->here->listener = o->listener;
	s->here->incarnation = o->incarnation;
	s->here->serial = o->serial;
	s->here->will_delay_s = o->will.len > 0 ? o->will_delay_s : 0;
	s->expiry_s = o->expiry_s;
	s->version = o->version;
	s->at_ms = o->at_ms;
}

static int
apply_open(struct shard *sh, uint64_t pos, const struct op *o)
{
	struct session	*old, *s;
	struct slice	 will;
	int		 rc;

	old = shard_find(sh, o->client_id.data, o->client_id.len);
	if (old != NULL && pos <= old->applied)
		return 0;
	if (old != NULL && old->handle == o->handle) {
		if (o->fresh)
			return ERR_PROTO;	/* handles are for once */
		if (here_hold(old) < 0)
			return ERR_NOMEM;
		if (!copy_slice(&will, &o->will)) {
			here_release(old);
			return ERR_NOMEM;
		}
		set_will(old, &will);
		s = old;
	} else {
		if (shard_session(sh, o->handle) != NULL)
			return ERR_PROTO;
		if ((s = session_new(o->handle, &o->client_id,
		    &o->will)) == NULL)
			return ERR_NOMEM;
		if ((rc = session_enter(sh, s)) < 0) {
			here_free(s);
			free(s);
			return rc;
		}
		/* Not fresh, and another handle: the log has lost its end. */
		if (old != NULL)
			session_end(sh, old);
	}
	open_here(s, o);
	s->applied = pos;
	session_touch(sh, s);
	return 0;
}

/* Below this everything must have been sent: behind the last that came back as
 * received. (It is, unless the log is damaged.) */
static uint64_t
received_end(const struct session *s)
{
	const struct queue	*q = s->queue;
	uint32_t		 i;

	for (i = q != NULL ? q->n : 0; i-- > 0;)
		if (q->entries[q->first + i].state == ENTRY_RECEIVED)
			return q->entries[q->first + i].offset + 1;
	return s->base;
}

static int
add_inbound(struct session *s, uint16_t pid)
{
	int rc;

	if ((rc = here_hold(s)) < 0)
		return rc;
	rc = inbound_add(&s->here->inbound, pid);
	here_release(s);
	return MIN(rc, 0);
}

static void
apply_close(struct session *s, const struct op *o)
{
	s->connected = false;
	s->sent_unsure = false;
	s->at_ms = o->at_ms;
	s->expiry_s = o->expiry_s;
	s->sent = MIN(o->offset < s->sent ? MAX(o->offset, received_end(s)) :
	    o->offset, s->next);
	if (!o->keep_will)
		drop_will(s);
	if (s->here != NULL) {
		s->here->incarnation = s->here->serial = 0;
		s->here->listener = 0;
	}
	here_release(s);
}

static int
apply_unsubscribe(struct shard *sh, struct session *s, const struct op *o)
{
	const char		*text = (const char *)o->filter.data;
	struct index_filter	*f;
	int			 rc;

	rc = o->share.len > 0 ?
	    index_unshare(sh->index, &s->subs, &o->share, text, o->filter.len,
	    &f) :
	    index_unsubscribe(sh->index, &s->subs, text, o->filter.len, &f);
	if (rc == 0)
		filter_changed(sh, f);
	return rc == ERR_NOTFOUND ? 0 : rc;
}

static void
apply_ack(struct shard *sh, struct session *s, const struct op *o)
{
	struct entry *e = queue_find(s, o->offset);

	if (e == NULL || e->state == ENTRY_DONE)
		return;
	s->sent = MAX(s->sent, o->offset + 1);
	if (s->sent_unsure)
		s->here->known_sent = MAX(s->here->known_sent, o->offset + 1);
	if (o->what != MQTT_PUBREC)
		queue_done(sh, s, e);
	else if (e->qos == 2)
		queue_received(sh, s, e);
}

static void
apply_drop(struct shard *sh, struct session *s, const struct op *o)
{
	struct entry *e = queue_find(s, o->offset);

	if (e != NULL && e->state != ENTRY_DONE)
		queue_done(sh, s, e);
}

/* What is skipped counts as finished. */
static void
apply_skip(struct session *s, const struct op *o)
{
	if (o->offset <= s->next)
		return;
	s->next = o->offset;
	if (s->queue == NULL)
		s->base = s->sent = s->next;
}

static int
apply_to_session(struct shard *sh, struct session *s, const struct op *o)
{
	int rc;

	switch (o->kind) {
	case STORE_CLOSE:
		apply_close(s, o);
		return 0;
	case STORE_SUBSCRIBE:
		rc = session_subscribe(sh, s, &o->share, &o->filter,
		    o->options, o->sub_id);
		return MIN(rc, 0);
	case STORE_UNSUBSCRIBE:
		return apply_unsubscribe(sh, s, o);
	case STORE_ACK:
		apply_ack(sh, s, o);
		return 0;
	case STORE_DROP:
		apply_drop(sh, s, o);
		return 0;
	case STORE_INBOUND:
		return add_inbound(s, o->pid);
	case STORE_RELEASE:
		if (s->here != NULL &&
		    inbound_del(&s->here->inbound, o->pid) &&
		    s->here->inbound.n == 0)
			inbound_clear(&s->here->inbound);
		here_release(s);
		return 0;
	case STORE_WILL:
		drop_will(s);
		here_release(s);
		return 0;
	case STORE_SKIP:
		apply_skip(s, o);
		return 0;
	case STORE_OPEN:
	case STORE_END:
	case STORE_PUBLISH:
	case STORE_MARK:
	case STORE_MOVE:
	case STORE_RETAIN:
	case STORE_ONWARD:
	case STORE_ONWARD_DONE:
		break;
	}
	return ERR_PROTO;
}

static int
apply_single(struct shard *sh, uint64_t pos, const struct op *o)
{
	struct session	*s;
	int		 rc;

	if ((s = shard_session(sh, o->handle)) == NULL)
		return ERR_NOTFOUND;
	if (pos <= s->applied)
		return 0;
	if (o->kind == STORE_END) {
		session_end(sh, s);
		return 0;
	}
	if ((rc = apply_to_session(sh, s, o)) < 0)
		return rc;
	s->applied = pos;
	session_touch(sh, s);
	return 0;
}

/* All of it in one operation: what is torn at the end of the log comes whole
 * from its source again. */
static int
apply_onward(struct shard *sh, uint64_t pos, const struct op *o)
{
	struct session	*s;
	int		 rc;

	if (o->source.len > 0 && !is_no_id(o->id) &&
	    (rc = apply_mark(sh, o)) < 0)
		return rc;
	if (o->handle == 0 || (s = shard_session(sh, o->handle)) == NULL ||
	    pos <= s->applied)
		return 0;
	if (o->back)
		apply_drop(sh, s, o);
	else if (o->pid == 0)
		drop_will(s);
	else if ((rc = add_inbound(s, o->pid)) < 0)
		return rc;
	here_release(s);
	s->applied = pos;
	session_touch(sh, s);
	return 0;
}

/* --- Messages ------------------------------------------------------------ */

/* A copy of the identifiers of t, or NULL for none. */
static int
copy_ids(uint32_t **out, const struct op_target *t)
{
	uint16_t i;

	*out = NULL;
	if (t->nids == 0)
		return 0;
	if ((*out = malloc(t->nids * sizeof(**out))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < t->nids; i++)
		(*out)[i] = get_le32(t->ids + 4 * (size_t)i);
	return 0;
}

/* Everything that can fail about one target, the n-th of them in all. Only for
 * a group a session may be named again. */
static int
prepare(struct session *s, const struct op_target *t, struct landing *all,
    size_t n)
{
	struct landing	*l = &all[n];
	uint32_t	 more = 1;
	size_t		 i;
	int		 rc;

	for (i = 0; t->group != 0 && i < n; i++)
		more += all[i].session == s;
	if ((rc = queue_reserve(s, more)) < 0 ||
	    (rc = copy_ids(&l->ids, t)) < 0)
		return rc;
	l->session = s;
	l->group = t->group;
	l->nids = t->nids;
	l->qos = t->qos;
	l->retain = t->retain;
	return 0;
}

static void
land(struct shard *sh, uint64_t pos, const struct landing *l, struct body *b)
{
	struct session	*s = l->session;
	struct entry	*e;

	if (pos <= s->applied && l->group == 0) {	/* named twice */
		free(l->ids);
		return;
	}
	e = queue_add(sh, s, s->next++, b);
	e->ids = l->ids;
	e->nids = l->nids;
	e->group = l->group;
	e->qos = l->qos;
	e->retain = l->retain;
	s->applied = pos;
	session_touch(sh, s);
}

static int
apply_publish(struct shard *sh, uint64_t pos, const struct op *o, size_t len)
{
	struct op_target	 t;
	struct session		*s;
	struct body		*b = NULL;
	struct mark		*m = NULL;
	struct landing		*landing;
	uint64_t		 unknown = 0;
	uint32_t		 left = o->ntargets;
	size_t			 at = 0, n = 0, i;
	int			 rc;

	if ((landing = scratch(sh->landing, &sh->cap_landing, o->ntargets,
	    sizeof(*landing))) == NULL)
		return ERR_NOMEM;
	sh->landing = landing;
	while (op_next_target(o, &at, &left, &t)) {
		if ((s = shard_session(sh, t.handle)) == NULL)
			unknown++;
		else if (pos > s->applied) {
			if ((rc = prepare(s, &t, landing, n)) < 0)
				goto free_ids;
			n++;
		}
	}
	if (o->source.len > 0 && !is_no_id(o->id) &&
	    (rc = mark_hold(sh, &o->source, o->slot, &m)) < 0)
		goto free_ids;
	if (n > 0 && (b = body_find(sh, pos)) == NULL &&
	    (rc = body_new(sh, pos, (uint32_t)len, (uint32_t)o->record.len,
	    o->deadline_ms, &b)) < 0)
		goto forget_mark;
	for (i = 0; i < n; i++)
		land(sh, pos, &landing[i], b);
	if (m != NULL && msgid_cmp(o->id, m->id) > 0)
		m->id = o->id;
	sh->unknown += unknown;
	return 0;

forget_mark:
	if (m != NULL && is_no_id(m->id))
		mark_forget(sh, m);
free_ids:
	for (i = 0; i < n; i++)
		free(landing[i].ids);
	return rc;
}

/* Let s look at `to` where it looked at b. */
static void
redirect(struct session *s, struct body *b, struct body *to)
{
	struct queue	*q = s->queue;
	uint32_t	 i;

	for (i = 0; q != NULL && i < q->n; i++) {
		struct entry *e = &q->entries[q->first + i];

		if (e->body != b)
			continue;
		s->queued_bytes += to->bytes;
		s->queued_bytes -= b->bytes;
		e->body = to;
		to->refs++;
		b->refs--;
	}
}

/* Some records of a fuzzy checkpoint know that b moved to where `to` is: now
 * the others do. Targets that are not named are looked for. */
static void
merge(struct shard *sh, const struct op *o, struct body *b, struct body *to)
{
	struct op_target	 t;
	struct session		*s;
	uint32_t		 left = o->ntargets;
	size_t			 at = 0, i = 0;
	unsigned		 part = 0;

	b->refs++;
	while (op_next_target(o, &at, &left, &t))
		if ((s = shard_session(sh, t.handle)) != NULL)
			redirect(s, b, to);
	while (b->refs > 1 &&
	    (s = spread_next(&sh->handles, &part, &i)) != NULL)
		redirect(s, b, to);
	body_unref(sh, b);
}

static int
apply_move(struct shard *sh, uint64_t pos, const struct op *o, size_t len)
{
	struct body		*b = body_find(sh, o->pos);
	struct body		*to = body_find(sh, pos);
	struct op_target	 t;
	struct session		*s;
	uint32_t		 left = o->ntargets;
	size_t			 at = 0;
	int			 rc;

	if (b == NULL || b == to)
		return 0;
	if (to != NULL)
		merge(sh, o, b, to);
	else if ((rc = body_move(sh, b, pos, (uint32_t)len)) < 0)
		return rc;
	while (op_next_target(o, &at, &left, &t))
		if ((s = shard_session(sh, t.handle)) != NULL)
			session_touch(sh, s);
	return 0;
}

static int
apply(struct shard *sh, uint64_t pos, const struct op *o, size_t len)
{
	switch (o->kind) {
	case STORE_OPEN:
		return apply_open(sh, pos, o);
	case STORE_PUBLISH:
		return apply_publish(sh, pos, o, len);
	case STORE_MOVE:
		return apply_move(sh, pos, o, len);
	case STORE_MARK:
		return apply_mark(sh, o);
	case STORE_RETAIN:
	case STORE_ONWARD:
		return apply_onward(sh, pos, o);
	case STORE_ONWARD_DONE:
		return 0;
	case STORE_CLOSE:
	case STORE_END:
	case STORE_SUBSCRIBE:
	case STORE_UNSUBSCRIBE:
	case STORE_ACK:
	case STORE_DROP:
	case STORE_INBOUND:
	case STORE_RELEASE:
	case STORE_WILL:
	case STORE_SKIP:
		return apply_single(sh, pos, o);
	}
	return ERR_PROTO;
}

int
shard_apply_op(struct shard *sh, uint64_t pos, const struct op *o, size_t len)
{
	int rc = len > UINT32_MAX ? ERR_PROTO : apply(sh, pos, o, len);

	if (rc == 0 || rc == ERR_NOTFOUND) {
		/* Whoever it was of, it is taken. */
		sh->next_handle = MAX(sh->next_handle, o->handle + 1);
		sh->applied = MAX(sh->applied, pos);
	}
	return rc;
}

int
shard_apply(struct shard *sh, uint64_t pos, const void *data, size_t len)
{
	struct op	o;
	int		rc;

	if ((rc = op_get(&o, data, len)) < 0)
		return rc;
	return shard_apply_op(sh, pos, &o, len);
}

void
shard_replayed(struct shard *sh)
{
	struct session	*s;
	unsigned	 part = 0;
	size_t		 i = 0;

	while ((s = spread_next(&sh->handles, &part, &i)) != NULL) {
		if (!s->connected)
			continue;
		s->sent_unsure = true;
		s->here->known_sent = s->sent;
		s->sent = MAX(s->sent, MIN(s->next,
		    s->base + SHARD_WINDOW_MAX));
	}
}

void
session_set_sent(struct session *s, uint64_t end)
{
	if (!s->sent_unsure)
		return;
	s->sent_unsure = false;
	s->sent = MIN(s->sent, MAX(MAX(end, s->here->known_sent), s->base));
}

/* --- Questions ----------------------------------------------------------- */

uint64_t
shard_applied(const struct shard *sh)
{
	return sh->applied;
}

size_t
shard_ndirty(const struct shard *sh)
{
	return sh->ndirty;
}

uint64_t
shard_next_handle(const struct shard *sh)
{
	return sh->next_handle;
}

struct index *
shard_index(struct shard *sh)
{
	return sh->index;
}

size_t
shard_nsessions(const struct shard *sh)
{
	return sh->handles.n;
}

struct shard_counts
shard_counts(const struct shard *sh)
{
	return (struct shard_counts){
		.sessions = sh->handles.n,
		.queued = sh->queued,
		.bodies = sh->bodies.n,
		.body_bytes = sh->body_bytes,
		.marks = sh->marks.n,
		.unknown = sh->unknown,
	};
}

void
shard_each(struct shard *sh, int (*each)(void *, struct session *), void *ctx)
{
	struct session	*s;
	unsigned	 part = 0;
	size_t		 i = 0;

	while ((s = spread_next(&sh->handles, &part, &i)) != NULL)
		if (each(ctx, s))
			return;
}

#define PART_BITS	(UINT64_C(0xff) << 56)

/* The part of the table is in front, then what says which cell, then the rest:
 * no two have the same. */
uint64_t
shard_place(const struct session *s)
{
	uint64_t h = hash_handle(s->handle);

	return (h & PART_BITS) | (h & UINT32_MAX) << 24 |
	    (h >> 32 & 0xffffff);
}

/* The session that is due to p's cell `home` with the lowest place at or above
 * `from`. */
static struct session *
lowest(const struct spread_part *p, size_t home, uint64_t from, size_t *steps)
{
	const uint32_t	*keys = spread_keys(p);
	struct session	*s, *best = NULL;
	size_t		 i;

	for (i = home; keys[i] != 0; i = i + 1 < p->cap ? i + 1 : 0) {
		*steps -= *steps > 1;
		if (spread_home(p, keys[i]) != home)
			continue;
		s = p->items[i];
		if (shard_place(s) >= from && (best == NULL ||
		    shard_place(s) < shard_place(best)))
			best = s;
	}
	return best;
}

/*
 * Larger hashes are due to later cells, so in the order of places all of one
 * cell's come before all of the next one's, however many cells there are.
 */
struct session *
shard_at(const struct shard *sh, uint64_t *place, size_t *steps)
{
	const struct spread_part *p;
	struct session		 *s;
	uint64_t		  key, number;
	size_t			  home;

	for (; *steps > 0; --*steps) {
		number = *place >> 56;
		p = &sh->handles.part[number];
		key = UINT64_C(1) << 32;	/* the next part's */
		if (p->n > 0) {
			home = spread_home(p, *place >> 24 & UINT32_MAX);
			if ((s = lowest(p, home, *place, steps)) != NULL) {
				*place = shard_place(s);
				--*steps;
				return s;
			}
			/* The first that is due to the next cell. */
			key = (((uint64_t)home + 1) << 32) + p->cap - 1;
			key /= p->cap;
		}
		if ((*place = (number << 56) + (key << 24)) == 0)
			return NULL;		/* it was the last cell */
	}
	return NULL;
}

/* ms and a number of seconds later, SHARD_NEVER being never. */
static uint64_t
later(uint64_t ms, uint32_t seconds)
{
	uint64_t more = (uint64_t)seconds * 1000;

	return seconds == SHARD_NEVER || more > UINT64_MAX - ms ? UINT64_MAX :
	    ms + more;
}

uint64_t
session_ends_ms(const struct session *s)
{
	return s->connected ? UINT64_MAX : later(s->at_ms, s->expiry_s);
}

uint64_t
session_will_ms(const struct session *s)
{
	if (s->connected || session_here(s)->will.len == 0)
		return UINT64_MAX;
	return MIN(later(s->at_ms, s->here->will_delay_s), session_ends_ms(s));
}

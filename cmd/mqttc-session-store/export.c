/*
 * export.c: all there is, in pages. A session that fits into a page is told in
 * one, as it is at that moment; what changes while a longer one is told is told
 * as it was or as it became. The cursor of a page is a place, not a thing, so
 * what comes and goes between pages disturbs nobody.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "log/log.h"

enum {
	STEPS_MAX	= 20000,	/* cells looked at for one page */
	READS_MAX	= 1000,		/* messages read for one */
	PAGE_BYTES	= 256 * 1024,
	RETAIN_CURSOR	= 8 + 16	/* and the topic to go on from */
};

enum stage { BEGIN, MESSAGES, INBOUND, SUBSCRIPTIONS, FINISH, NSTAGES };

/* Where a page ended. */
struct place {
	uint64_t	 session;	/* shard_place() */
	uint64_t	 index;		/* offset, number of the subscription */
	uint32_t	 at;		/* within a message */
	uint8_t		 stage;
};

enum { PLACE_LEN = 8 + 8 + 4 + 1 };

struct telling {
	struct store		*st;
	struct reply_writer	 w;
	struct place		 at;
	size_t			 reads;
};

static int
tell(struct telling *t, struct item_row *it)
{
	int rc;

	it->at = t->at.at;
	if ((rc = reply_item(&t->w, it)) < 0)
		return rc;
	if (it->at < item_size(it)) {
		t->at.at = it->at;
		return ERR_FULL;	/* the rest is for the next page */
	}
	t->at.at = 0;
	metric_inc(&m_exported);
	return 0;
}

static struct slice
id_of(const struct session *s)
{
	return (struct slice){ (const uint8_t *)s->client_id,
	    s->client_id_len };
}

/* SESSION, or SESSION_END. */
static int
tell_session(struct telling *t, const struct session *s, enum item_kind kind)
{
	struct item_row it = {
		.kind = kind,
		.client_id = id_of(s),
		.expiry_s = s->expiry_s,
		.at_ms = s->connected ? t->st->now_ms : s->at_ms,
	};

	if (kind == ITEM_SESSION) {
		it.version = s->version;
		it.connected = s->connected;
	}
	return tell(t, &it);
}

/* The bytes of a message of s; false if nobody is to have it any more. */
static bool
fill(struct store *st, const struct session *s, const struct entry *en,
    struct item_row *it)
{
	struct record_iter	 iter;
	struct record		 r;
	struct op		 o;

	it->deadline_ms = en->body->deadline_ms;
	if (it->deadline_ms != 0 && it->deadline_ms <= st->now_ms &&
	    it->state == ITEM_WAITS)
		return false;
	if (log_read(st, en->body->pos, &o) < 0)
		goto lost;
	record_iter_init(&iter, o.record.data, o.record.len, NULL, 0, 1);
	if (record_next(&iter, &r) != 1)
		goto lost;
	it->topic = r.topic;
	it->props = r.properties;
	it->payload = r.payload;
	return true;

lost:
	metric_inc(&m_unreadable);
	log_error("store.unreadable", "client=%s pos=%" PRIu64,
	    log_quote(s->client_id), en->body->pos);
	return false;
}

static int
tell_message(struct telling *t, const struct session *s, uint64_t offset)
{
	const struct entry	*en = session_entry(s, offset);
	struct item_row		 it = {
		.kind = ITEM_MESSAGE,
		.client_id = id_of(s),
		.offset = offset,
		.state = en->state == ENTRY_RECEIVED ? ITEM_RECEIVED :
		    offset < s->sent ? ITEM_SENT : ITEM_WAITS,
		.qos = en->qos,
		.retain = en->retain,
	};
	uint8_t			*ids = NULL;
	uint16_t		 i;
	int			 rc;

	if (en->state == ENTRY_WAITS) {
		if (t->reads++ >= READS_MAX)
			return ERR_FULL;
		if (!fill(t->st, s, en, &it))
			return 0;
	}
	if (en->nids > 0) {
		if ((ids = malloc(en->nids * 4u)) == NULL)
			return ERR_NOMEM;
		for (i = 0; i < en->nids; i++)
			put_le32(ids + 4 * i, en->ids[i]);
		it.ids = (struct slice){ ids, en->nids * 4u };
	}
	rc = tell(t, &it);
	free(ids);
	return rc;
}

static int
tell_messages(struct telling *t, const struct session *s)
{
	uint64_t	next;
	int		rc;

	while ((next = session_next(s, MAX(t->at.index, s->base))) < s->next) {
		if (next != t->at.index)
			t->at.at = 0;
		t->at.index = next;
		if ((rc = tell_message(t, s, next)) < 0)
			return rc;
		t->at.index = next + 1;
	}
	return 0;
}

static int
tell_inbound(struct telling *t, const struct session *s)
{
	const struct inbound	*in = &session_here(s)->inbound;
	struct item_row		 it = {
		.kind = ITEM_INBOUND, .client_id = id_of(s),
	};
	uint8_t			*ids;
	uint32_t		 i;
	int		 rc;

	if (in->n == 0)
		return 0;
	if ((ids = malloc(in->n * 2u)) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < in->n; i++)
		put_le16(ids + 2 * i, in->ids[i]);
	it.ids = (struct slice){ ids, in->n * 2u };
	rc = tell(t, &it);
	free(ids);
	return rc;
}

static int
tell_subscriptions(struct telling *t, const struct session *s)
{
	const struct index_filter	*f;
	const struct index_sub		*sub;
	struct item_row			 it;
	int				 rc;

	for (; t->at.index < s->subs.n; t->at.index++) {
		f = s->subs.links[t->at.index].filter;
		sub = &f->subs[s->subs.links[t->at.index].pos];
		memset(&it, 0, sizeof(it));
		it.kind = ITEM_SUBSCRIPTION;
		it.client_id = id_of(s);
		it.topic = (struct slice){ (const uint8_t *)f->text, f->len };
		if (f->is_group)
			it.share = (struct slice){
			    (const uint8_t *)f->share->name,
			    f->share->name_len };
		it.options = (uint32_t)(sub->qos | sub->no_local << 2 |
		    sub->rap << 3 | sub->rh << 4);
		it.sub_id = sub->id;
		if ((rc = tell(t, &it)) < 0)
			return rc;
	}
	return 0;
}

static int
tell_all(struct telling *t, const struct session *s)
{
	int rc = 0;

	for (; t->at.stage < NSTAGES; t->at.stage++, t->at.index = 0) {
		switch ((enum stage)t->at.stage) {
		case BEGIN:
			rc = tell_session(t, s, ITEM_SESSION);
			break;
		case MESSAGES:
			rc = tell_messages(t, s);
			break;
		case INBOUND:
			rc = tell_inbound(t, s);
			break;
		case SUBSCRIPTIONS:
			rc = tell_subscriptions(t, s);
			break;
		case FINISH:
			rc = tell_session(t, s, ITEM_SESSION_END);
			break;
		case NSTAGES:
			break;
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* --- Pages ---------------------------------------------------------------- */

static bool
get_place(struct place *p, const struct slice *cursor)
{
	memset(p, 0, sizeof(*p));
	if (cursor->len == 0)
		return true;
	if (cursor->len != PLACE_LEN)
		return false;
	p->session = get_le64(cursor->data);
	p->index = get_le64(cursor->data + 8);
	p->at = get_le32(cursor->data + 16);
	p->stage = cursor->data[20];
	return p->stage < NSTAGES;
}

static long
end_page(struct telling *t, bool more)
{
	struct slice	cursor = { NULL, 0 };
	uint8_t		at[PLACE_LEN];

	if (more) {
		put_le64(at, t->at.session);
		put_le64(at + 8, t->at.index);
		put_le32(at + 16, t->at.at);
		at[20] = t->at.stage;
		cursor = (struct slice){ at, sizeof(at) };
	}
	return reply_end(&t->w, cursor);
}

/* Go to the session at or behind that place. */
static void
move(struct telling *t, uint64_t place)
{
	if (place != t->at.session)
		t->at = (struct place){ .session = place };
}

static long
sessions(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct telling	 t = { .st = st };
	struct session	*s;
	uint64_t	 place;
	size_t		 steps = STEPS_MAX, len;
	unsigned	 rows;
	bool		 begun;
	int		 rc;

	if (!get_place(&t.at, &q->cursor))
		return reply_error(buf, size, q->id, EX_USAGE,
		    "that is no cursor of an export");
	reply_begin(&t.w, buf, size, q->id);
	for (place = t.at.session;;) {
		s = shard_at(st->state, &place, &steps);
		if (s == NULL && place == 0)
			return end_page(&t, false);
		move(&t, place);
		if (s == NULL)
			return end_page(&t, true);
		if (s->durable && !import_is_under_way(s)) {
			len = t.w.out.len;
			rows = t.w.rows;
			begun = t.at.stage == BEGIN;
			if ((rc = tell_all(&t, s)) == ERR_NOMEM)
				return reply_error(buf, size, q->id,
				    EX_TEMPFAIL, "out of memory");
			if (rc < 0 && begun && rows > 0) {
				/* Whole, in a page of its own. */
				reply_back(&t.w, len, rows);
				t.at = (struct place){ .session = place };
			}
			if (rc < 0)
				return end_page(&t, true);
		}
		if (++place == 0)
			return end_page(&t, false);
		move(&t, place);
	}
}

/* --- Retained messages ---------------------------------------------------- */

struct retain_telling {
	struct reply_writer	 w;
	uint32_t		 at;	/* within the first message */
	struct slice		 id;	/* ... if it is this one still */
	uint8_t			 next_id[16];
	uint32_t		 next_at;
};

static void
put_id(uint8_t *out, const struct retain_msg *m)
{
	put_le64(out, m->id_hi);
	put_le64(out + 8, m->id_lo);
}

static bool
tell_retained(void *ctx, const struct retain_msg *m, uint32_t expiry_s UNUSED)
{
	struct retain_telling	*t = ctx;
	uint8_t			 id[16];
	struct item_row		 it = {
		.kind = ITEM_RETAINED,
		.topic = m->topic, .client_id = m->client_id,
		.props = m->props, .payload = m->payload,
		.qos = m->qos, .deadline_ms = m->deadline_ms,
		.version_hi = m->version_hi, .version_lo = m->version_lo,
		.id_hi = m->id_hi, .id_lo = m->id_lo,
	};

	put_id(id, m);
	if (t->w.rows == 0 && t->at > 0 && t->at < m->props.len +
	    m->payload.len && memcmp(id, t->id.data, sizeof(id)) == 0)
		it.at = t->at;
	if (reply_item(&t->w, &it) < 0)
		return false;
	if (it.at < item_size(&it)) {
		memcpy(t->next_id, id, sizeof(id));
		t->next_at = it.at;
		return false;
	}
	metric_inc(&m_exported);
	return true;
}

static long
retained(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	struct retain_telling	 t = { .at = 0 };
	struct retain_page	 page;
	struct slice		 cursor = { NULL, 0 };
	struct retain_query	 rq = {
		.filter = { (const uint8_t *)"#", 1 },
		.all_dollar = true,
		.now_ms = st->now_ms,
		.max_messages = UINT32_MAX,
		.max_bytes = PAGE_BYTES,
		.max_steps = STEPS_MAX,
	};
	uint8_t			*at = NULL;
	long			 n;

	if (q->cursor.len > 0 && (q->cursor.len <= RETAIN_CURSOR ||
	    q->cursor.len > RETAIN_CURSOR + RETAIN_FROM_MAX))
		return reply_error(buf, size, q->id, EX_USAGE,
		    "that is no cursor of an export");
	if (q->cursor.len > 0) {
		t.at = get_le32(q->cursor.data);
		t.id = (struct slice){ q->cursor.data + 8, 16 };
		rq.from = (struct slice){ q->cursor.data + RETAIN_CURSOR,
		    q->cursor.len - RETAIN_CURSOR };
	}
	reply_begin(&t.w, buf, size, q->id);
	retain_match(st->retain, &rq, tell_retained, &t, &page);
	if (page.more) {
		cursor.len = RETAIN_CURSOR + page.next.len;
		if ((at = calloc(1, cursor.len)) == NULL)
			return reply_error(buf, size, q->id, EX_TEMPFAIL,
			    "out of memory");
		put_le32(at, t.next_at);
		memcpy(at + 8, t.next_id, sizeof(t.next_id));
		memcpy(at + RETAIN_CURSOR, page.next.data, page.next.len);
		cursor.data = at;
	}
	n = reply_end(&t.w, cursor);
	free(at);
	return n;
}

long
export_page(struct store *st, const struct query *q, uint8_t *buf, size_t size)
{
	static const char what[][9] = { "sessions", "retained" };

	if (q->arg.len == 8 && memcmp(q->arg.data, what[0], 8) == 0)
		return sessions(st, q, buf, size);
	if (q->arg.len == 8 && memcmp(q->arg.data, what[1], 8) == 0)
		return retained(st, q, buf, size);
	return reply_error(buf, size, q->id, EX_USAGE,
	    "sessions or retained can be exported");
}

/*
 * retained.c: the retained messages of this shard, by hash of their topic: in
 * memory, and in the log. A new one gets a version above the one it replaces.
 * Spec: MQTT 5.0 section 3.3.1.3.
 */
#include "store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"
#include "retain/code.h"

enum {
	PAGE_BYTES	= 256 * 1024,
	PAGE_STEPS	= 20000,
	EXPIRE_MAX	= 1000		/* a tick */
};

static struct retain_limits
limits(const struct store *st)
{
	return (struct retain_limits){
		.max_messages = st->conf->retain_max_messages > 0 ?
		    st->conf->retain_max_messages : UINT32_MAX,
		.max_bytes = st->conf->retain_max_bytes,
	};
}

int
retained_open(struct store *st)
{
	struct retain_limits lim = limits(st);

	return (st->retain = retain_new(&lim)) == NULL ? ERR_NOMEM : 0;
}

void
retained_limits(struct store *st)
{
	struct retain_limits lim = limits(st);

	retain_set_limits(st->retain, &lim);
}

static void
count(struct store *st)
{
	metric_set(&m_retained, retain_count(st->retain));
	metric_set(&m_retained_bytes, retain_bytes(st->retain));
}

int
retained_put(struct store *st, const struct retain_msg *m)
{
	struct slice	 body;
	uint8_t		*buf;
	size_t		 size;
	int		 rc;

	if (m->payload.len > st->conf->retain_max_size) {
		metric_inc(&m_retained_refused);
		return ERR_INVAL;
	}
	rc = retain_set(st->retain, m);
	if (rc == ERR_FULL && retain_expire(st->retain, st->now_ms / 1000,
	    EXPIRE_MAX) > 0)
		rc = retain_set(st->retain, m);
	if (rc < 0)
		metric_inc(&m_retained_refused);
	if (rc <= 0)
		return rc;
	count(st);
	checkpoint_topic(st, &m->topic);
	size = retain_encoded_size(m);
	if ((buf = malloc(size)) == NULL)
		return ERR_NOMEM;
	(void)retain_encode(buf, size, m);
	body = (struct slice){ buf, size };
	rc = log_bytes(st, STORE_RETAIN, &body, NULL);
	free(buf);
	return rc < 0 ? rc : 1;
}

int
retained_set(struct store *st, const struct record *r)
{
	struct retain_msg m = {
		.topic = r->topic, .client_id = r->client_id,
		.props = r->properties, .payload = r->payload,
		.qos = (uint8_t)record_qos(r),
		.version_hi = r->id.hi,
		.id_hi = r->id.hi, .id_lo = r->id.lo,
	};
	uint64_t	hi, lo;
	int		rc;

	if (r->expiry_s != RECORD_NO_EXPIRY)
		m.deadline_s = st->now_ms / 1000 + r->expiry_s;
	if (retain_version(st->retain, m.topic.data, m.topic.len, &hi, &lo) &&
	    m.version_hi <= hi)
		m.version_hi = hi + 1;
	rc = retained_put(st, &m);
	return MIN(rc, 0);
}

int
retained_replay(struct store *st, const void *data, size_t len)
{
	struct retain_msg	m;
	int			rc;

	if (retain_decode(data, len, &m) < 0) {
		log_error("store.operation", "pos=0 type=%u", STORE_RETAIN);
		return 0;
	}
	msgid_witness(&st->ids, m.id_hi + 1);
	rc = retain_set(st->retain, &m);
	if (st->replaying)
		checkpoint_topic(st, &m.topic);
	count(st);
	return rc == ERR_NOMEM ? rc : 0;
}

struct page {
	struct store			*st;
	const struct session_msg	*ask;
	uint32_t			 listener;
};

static bool
give(void *ctx, const struct retain_msg *m, uint32_t expiry_s)
{
	struct page		*p = ctx;
	struct session_msg	 e = {
		.kind = SERVE_RETAINED,
		.serial = p->ask->serial,
		.sub_id = p->ask->sub_id,
		.token = p->ask->token,
		.topic = m->topic,
		.props = m->props,
		.expiry_s = expiry_s,
		.id_hi = m->id_hi, .id_lo = m->id_lo,
		.flags = MIN(m->qos, p->ask->flags & 3),
	};

	if (!peer_room(p->st, p->listener, retain_msg_bytes(m) + 4096))
		return false;
	if (m->payload.len + m->props.len > RECORD_ALONE) {
		e.flags |= SESSION_APART;
		peer_send_apart(p->st, p->listener, &e, &m->payload);
	} else {
		e.payload = m->payload;
		peer_send(p->st, p->listener, &e);
	}
	return true;
}

void
retained_ask(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct page		ctx = { st, e, listener };
	struct retain_page	page;
	struct retain_query	q = {
		.filter = e->filter,
		.from = e->cursor,
		.now_s = st->now_ms / 1000,
		.max_messages = e->what,
		.max_bytes = PAGE_BYTES,
		.max_steps = PAGE_STEPS,
	};
	struct session_msg	end = {
		.kind = SERVE_RETAINED,
		.serial = e->serial,
		.flags = e->flags,
		.sub_id = e->sub_id,
		.token = e->token,
		.filter = e->filter,
	};

	if (topic_filter_check(e->filter.data, e->filter.len,
	    INDEX_LEVELS_MAX) < 0)
		return;
	retain_match(st->retain, &q, give, &ctx, &page);
	if (page.more) {
		end.more = true;
		end.cursor = page.next;
		peer_send(st, listener, &end);
	}
}

static bool
note(void *ctx, const struct retain_msg *m, uint32_t expiry_s UNUSED)
{
	checkpoint_topic(ctx, &m->topic);
	return true;
}

int
retained_note_all(struct store *st)
{
	struct retain_page	page;
	struct retain_query	q = {
		.filter = { (const uint8_t *)"#", 1 },
		.all_dollar = true,
		.max_messages = UINT32_MAX,
		.max_bytes = UINT64_MAX,
		.max_steps = UINT32_MAX,
	};

	retain_match(st->retain, &q, note, st, &page);
	return page.more ? ERR_NOMEM : 0;
}

void
retained_tick(struct store *st)
{
	uint32_t n = retain_expire(st->retain, st->now_ms / 1000, EXPIRE_MAX);

	if (n == 0)
		return;
	metric_add(&m_retained_expired, n);
	count(st);
}

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
#include "fault/fault.h"
#include "log/log.h"
#include "mqtt/mqtt.h"
#include "retain/code.h"
#include "retain/lately.h"

enum {
	PAGE_BYTES	= 256 * 1024,
	PAGE_STEPS	= 20000,
	EXPIRE_MAX	= 1000,		/* a tick */
	REFUSED_MS	= 10000		/* how often it is logged */
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

/* --- At the limits --------------------------------------------------------- */

static bool	full;			/* as listeners know it */

/* Any message might be too much. Once it is so it stays so until there is room
 * for a 64th of the limit. */
static bool
is_full(const struct store *st)
{
	struct retain_limits	lim = limits(st);
	uint64_t		bytes = retain_bytes(st->retain) +
				    st->conf->retain_max_size;
	uint32_t		n = retain_count(st->retain);

	if (full) {
		n += lim.max_messages / 64;
		bytes += lim.max_bytes / 64;
	}
	return n >= lim.max_messages || bytes > lim.max_bytes;
}

void
retained_tell(struct store *st, uint32_t listener)
{
	struct session_msg e = { .kind = SERVE_FULL, .what = full };

	peer_send(st, listener, &e);
}

static void
tell_all(struct store *st)
{
	uint32_t i;

	if (is_full(st) == full)
		return;
	full = !full;
	for (i = 0; i < LISTENERS_MAX; i++)
		if (st->peers[i].bus != NULL)
			retained_tell(st, i);
}

void
retained_may(struct store *st, uint32_t listener, const struct session_msg *e)
{
	struct session_msg	answer = {
		.kind = SERVE_MAY,
		.serial = e->serial,
		.token = e->token,
	};
	size_t			n = e->topic.len + (size_t)e->what;

	if (!retain_has_room(st->retain, e->topic.data, e->topic.len, n) &&
	    (retain_expire(st->retain, st->now_ms, EXPIRE_MAX) == 0 ||
	    !retain_has_room(st->retain, e->topic.data, e->topic.len, n)))
		answer.what = MQTT_QUOTA_EXCEEDED;
	peer_send(st, listener, &answer);
}

/* --- Keeping --------------------------------------------------------------- */

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
	tell_all(st);
}

static void
count(struct store *st)
{
	metric_set(&m_retained, retain_count(st->retain));
	metric_set(&m_retained_bytes, retain_bytes(st->retain));
	tell_all(st);
}

static void
refused(const struct store *st, const struct retain_msg *m, const char *why)
{
	static uint64_t	logged_ms;
	static unsigned	n;

	metric_inc(&m_retained_refused);
	n++;
	if (logged_ms != 0 && st->now_ms - logged_ms < REFUSED_MS)
		return;
	log_warn("retain.refused", "messages=%u topic=%s why=%s", n,
	    log_quote_n(m->topic.data, m->topic.len), why);
	logged_ms = st->now_ms;
	n = 0;
}

int
retained_put(struct store *st, const struct retain_msg *m)
{
	struct slice	 body;
	uint8_t		*buf;
	size_t		 size;
	int		 rc;

	if (m->payload.len > st->conf->retain_max_size) {
		refused(st, m, "\"it is too large\"");
		return ERR_INVAL;
	}
	rc = retain_set(st->retain, m);
	if (rc == ERR_FULL && retain_expire(st->retain, st->now_ms,
	    EXPIRE_MAX) > 0)
		rc = retain_set(st->retain, m);
	if (rc < 0)
		refused(st, m, log_quote(rc == ERR_FULL ?
		    "there are too many" : err_str(rc)));
	if (rc <= 0)
		return rc;
	count(st);
	checkpoint_topic(st, &m->topic);
	size = retain_encoded_size(m);
	if ((buf = malloc(size)) == NULL)
		return ERR_NOMEM;
	(void)retain_encode(buf, size, m);
	(void)fault_hit("store.retained");	/* for do=kill */
	body = (struct slice){ buf, size };
	rc = log_bytes(st, STORE_RETAIN, &body, NULL);
	free(buf);
	return rc < 0 ? rc : 1;
}

int
retained_set(struct store *st, const struct record *r, uint64_t version,
    uint64_t node)
{
	struct retain_msg m = {
		.topic = r->topic, .client_id = r->client_id,
		.props = r->properties, .payload = r->payload,
		.qos = (uint8_t)record_qos(r),
		.version_hi = version, .version_lo = node,
		.id_hi = r->id.hi, .id_lo = r->id.lo,
	};
	int		rc;

	m.deadline_ms = record_deadline_ms(r, st->now_ms);
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
give(void *ctx, const struct retain_msg *m, uint32_t expiry_s UNUSED)
{
	struct page		*p = ctx;
	struct session_msg	 e = {
		.kind = SERVE_RETAINED,
		.serial = p->ask->serial,
		.sub_id = p->ask->sub_id,
		.token = p->ask->token,
		.time = p->ask->time,
		.topic = m->topic,
		.props = m->props,
		.deadline_ms = m->deadline_ms,
		.id_hi = m->id_hi, .id_lo = m->id_lo,
		.flags = MIN(m->qos, p->ask->flags & 3),
		.filter = p->ask->filter,
	};

	if (p->ask->flags & 4)		/* no local: whose is it? */
		e.client_id = m->client_id;

	if (!peer_room(p->st, p->listener, retain_msg_bytes(m) +
	    m->client_id.len + p->ask->filter.len + 4096))
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
		.now_ms = st->now_ms,
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
		.time = e->time,
		.what = e->what,
		.filter = e->filter,
	};

	if (topic_filter_check(e->filter.data, e->filter.len,
	    INDEX_LEVELS_MAX) < 0)
		return;
	retain_match(st->retain, &q, give, &ctx, &page);
	end.count = page.messages;
	if ((end.more = page.more))
		end.cursor = page.next;
	peer_send(st, listener, &end);
}

/*
 * A session that subscribed a moment ago gets a message live, from the shard it
 * is retained in, and as retained, from there by way of its listener: either
 * may come first, and the second one goes. After a start it may come twice.
 */
static struct lately	live;		/* what sessions here got live */
static struct lately	given;		/* ... as retained, with its handle */

static uint64_t
with(uint64_t lo, uint64_t handle)
{
	return lo ^ handle * UINT64_C(0x9e3779b97f4a7c15);
}

uint32_t
retained_now(void)
{
	return live.now;
}

int
retained_live(const struct msgid *id, struct store_target *t, int n)
{
	int i, left = 0;

	lately_add(&live, id->hi, id->lo);
	for (i = 0; i < n; i++)
		if (!lately_came(&given, id->hi, with(id->lo,
		    t[i].session->handle), 0))
			t[left++] = t[i];
	return n < 0 ? n : left;
}

bool
retained_give(const struct slice *once, uint64_t handle)
{
	uint64_t hi = get_le64(once->data), lo = get_le64(once->data + 8);

	if (lately_came(&live, hi, lo, get_le32(once->data + 16)))
		return false;
	lately_add(&given, hi, with(lo, handle));
	return true;
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
	uint32_t n = retain_expire(st->retain, st->now_ms, EXPIRE_MAX);

	if (n == 0)
		return;
	metric_add(&m_retained_expired, n);
	count(st);
}

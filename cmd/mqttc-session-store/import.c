/*
 * import.c: what an export told, taken in: batch after batch of items
 * (proto/item.h), each operation by operation into the log, then answered.
 *
 * A session that is being brought in counts as connected, at no listener, until
 * its end is there: nobody expires it, and one that lost its end is known. A
 * client that comes meanwhile gets it as it is by then. Which session the items
 * of a batch go on with is told by the batch: nothing is remembered here but
 * the parts of a long message, of one tool at a time.
 */
#include "store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "base/utf8.h"
#include "log/log.h"
#include "mqtt/mqtt.h"
#include "topic/filter.h"

#define NOWHERE		UINT32_MAX	/* no listener */

enum {
	JOIN_MS		= 30000,	/* parts of another tool wait no longer */
	DATA_MAX	= RECORD_FIELD_MAX
};

enum key { HANDLE, SESSIONS, SUBSCRIPTIONS, MESSAGES, RETAINED, PRESENT,
	NEWER, EXPIRED, INCOMPLETE, TAKEN, SKIPPED };

static const char *const keys[IMPORT_NKEYS] = { IMPORT_KEYS };

struct import {
	struct store	*st;
	struct session	*s;		/* being brought in, or NULL */
	uint64_t	 n[IMPORT_NKEYS];
	bool		 replace;
	uint32_t	 status;	/* why it stops here */
	const char	*why;
};

static struct {
	struct item_join j;
	uint64_t	 from, at_ms;
} parts;

void
import_fini(void)
{
	item_join_clear(&parts.j);
}

bool
import_is_under_way(const struct session *s)
{
	return s->connected && session_here(s)->listener == NOWHERE &&
	    s->user == NULL;
}

static int
stop(struct import *im, uint32_t status, const char *why)
{
	im->status = status;
	im->why = why;
	return ERR_INVAL;
}

/* The log takes it, or all stops. */
static int
op(struct import *im, struct op *o, const struct slice *targets)
{
	int rc = log_op(im->st, o, targets, NULL);

	if (rc == ERR_FULL && im->st->full)
		return stop(im, EX_TEMPFAIL, "its disk takes no more");
	if (rc == ERR_NOMEM)
		return stop(im, EX_TEMPFAIL, "out of memory");
	if (rc < 0)
		return stop(im, EX_DATAERR, "it cannot hold that");
	metric_inc(&m_imported);
	return 0;
}

/* --- Sessions ------------------------------------------------------------- */

static int
give_up(struct import *im, struct session *s)
{
	struct op o = { .kind = STORE_END, .handle = s->handle };
	int	  rc = op(im, &o, NULL);

	if (rc == 0)
		im->n[INCOMPLETE]++;
	metric_set(&m_sessions, shard_nsessions(im->st->state));
	return rc;
}

/* Who has the client id gives way, or not: then 1. */
static int
make_way(struct import *im, const struct slice *id)
{
	struct session	*old = shard_find(im->st->state, id->data, id->len);
	struct holder	*d = desk_find(im->st, id->data, id->len);

	if (old != NULL && import_is_under_way(old))
		return give_up(im, old);
	if (old == NULL && d == NULL)
		return 0;
	if (!im->replace) {
		im->n[PRESENT]++;
		return 1;
	}
	if (desk_expire(im->st, id->data, id->len) < 0)
		return stop(im, EX_TEMPFAIL, "its disk takes no more");
	/* Somebody who waited may have it now. */
	old = shard_find(im->st->state, id->data, id->len);
	im->n[PRESENT] += old != NULL;
	return old != NULL;
}

static bool
is_over(const struct import *im, const struct item_row *it)
{
	return it->expiry_s != SHARD_NEVER && it->at_ms / 1000 + it->expiry_s <=
	    im->st->now_ms / 1000;
}

static int
begin_session(struct import *im, const struct item_row *it)
{
	struct store	*st = im->st;
	struct op	 o = {
		.kind = STORE_OPEN,
		.at_ms = it->at_ms,
		.listener = NOWHERE,
		.expiry_s = it->expiry_s,
		.version = (uint8_t)it->version,
		.durable = true,
		.fresh = true,
		.client_id = it->client_id,
	};
	int		 rc;

	if (im->s != NULL && (rc = give_up(im, im->s)) < 0)
		return rc;
	im->s = NULL;
	if (it->client_id.len == 0 || it->client_id.len > UINT16_MAX ||
	    utf8_check(it->client_id.data, it->client_id.len) < 0 ||
	    it->version < MQTT_V31 || it->version > MQTT_V5)
		return stop(im, EX_DATAERR, "that is no session");
	if (is_over(im, it)) {
		im->n[EXPIRED]++;
		return 0;
	}
	if ((rc = make_way(im, &it->client_id)) != 0)
		return MIN(rc, 0);
	if (st->conf->session_max > 0 &&
	    shard_nsessions(st->state) >= st->conf->session_max)
		return stop(im, EX_CANTCREAT, "session.max is reached");
	o.handle = shard_next_handle(st->state);
	if ((rc = op(im, &o, NULL)) < 0)
		return rc;
	im->s = shard_session(st->state, o.handle);
	metric_set(&m_sessions, shard_nsessions(st->state));
	return 0;
}

static int
end_session(struct import *im, const struct item_row *it)
{
	struct session	*s = im->s;
	struct op	 o = {
		.kind = STORE_CLOSE, .handle = s->handle, .at_ms = it->at_ms,
		.offset = s->sent, .expiry_s = it->expiry_s,
	};
	int		 rc;

	if ((rc = op(im, &o, NULL)) < 0)
		return rc;
	desk_rest(im->st, s);
	im->s = NULL;
	im->n[SESSIONS]++;
	return 0;
}

static int
add_subscription(struct import *im, const struct item_row *it)
{
	struct op o = {
		.kind = STORE_SUBSCRIBE, .handle = im->s->handle,
		.share = it->share, .filter = it->topic,
		.options = (uint8_t)it->options, .sub_id = it->sub_id,
	};

	if (topic_filter_check(it->topic.data, it->topic.len,
	    INDEX_LEVELS_MAX) < 0 || it->share.len > UINT16_MAX ||
	    it->options > 0x3f || (it->options & 3) == 3 ||
	    it->options >> 4 == 3 || it->sub_id >= 1u << 28)
		return stop(im, EX_DATAERR, "that is no subscription");
	im->n[SUBSCRIPTIONS]++;
	return op(im, &o, NULL);
}

static int
add_inbound(struct import *im, const struct item_row *it)
{
	struct op	o = { .kind = STORE_INBOUND, .handle = im->s->handle };
	size_t		i;
	int		rc;

	for (i = 0; i + 2 <= it->ids.len; i += 2) {
		if ((o.pid = get_le16(it->ids.data + i)) == 0)
			return stop(im, EX_DATAERR, "that is no packet id");
		if ((rc = op(im, &o, NULL)) < 0)
			return rc;
	}
	return 0;
}

/* The message as the log has it, in a buffer to be freed. */
static int
make_record(struct import *im, const struct item_row *it, struct slice *out)
{
	struct record	 r = {
		.id = msgid_next(&im->st->ids),
		.expiry_s = RECORD_NO_EXPIRY,
		.flags = (uint16_t)(it->qos | (it->retain ? RECORD_RETAIN :
		    0)),
		.topic = it->topic,
		.properties = it->props,
		.payload = it->payload,
	};
	size_t		 size = record_size(&r);
	uint8_t		*buf;
	long		 n;

	if ((buf = malloc(size)) == NULL)
		return stop(im, EX_TEMPFAIL, "out of memory");
	if ((n = record_put_whole(buf, size, &r)) < 0) {
		free(buf);
		return stop(im, EX_DATAERR, "that is no message");
	}
	*out = (struct slice){ buf, (size_t)n };
	return 0;
}

static int
put_message(struct import *im, const struct item_row *it,
    const struct slice *targets)
{
	struct op	 o = {
		.kind = STORE_PUBLISH,
		.at_ms = im->st->now_ms,
		.deadline_ms = it->deadline_ms,
		.ntargets = 1,
	};
	struct op	 skip = { .kind = STORE_SKIP,
				    .handle = im->s->handle,
				    .offset = it->offset };
	struct op	 rec = { .kind = STORE_ACK, .what = MQTT_PUBREC,
				    .handle = im->s->handle,
				    .offset = it->offset };
	int		 rc;

	if (it->offset > im->s->next && (rc = op(im, &skip, NULL)) < 0)
		return rc;
	if ((rc = make_record(im, it, &o.record)) < 0)
		return rc;
	rc = op(im, &o, targets);
	free((void *)(uintptr_t)o.record.data);
	if (rc == 0 && it->state == ITEM_RECEIVED)
		rc = op(im, &rec, NULL);
	if (rc == 0 && it->state == ITEM_SENT)
		im->s->sent = MAX(im->s->sent, it->offset + 1);
	return rc;
}

static int
add_message(struct import *im, const struct item_row *it)
{
	struct op_target t = {
		.handle = im->s->handle, .qos = (uint8_t)it->qos,
		.retain = it->retain, .nids = (uint16_t)(it->ids.len / 4),
	};
	struct slice	 targets;
	uint32_t	*ids;
	uint8_t		*buf;
	size_t		 i;
	long		 n;
	int		 rc;

	if (it->qos < 1 || it->qos > 2 || it->state >= ITEM_NSTATES ||
	    it->offset < im->s->next || it->offset > UINT64_MAX >> 3 ||
	    it->ids.len / 4 > UINT16_MAX || (it->state == ITEM_RECEIVED ?
	    it->qos != 2 || it->ids.len > 0 :
	    topic_name_check(it->topic.data, it->topic.len,
	    INDEX_LEVELS_MAX) < 0) || (it->state != ITEM_WAITS &&
	    it->offset - im->s->base > SHARD_WINDOW_MAX && im->s->queue !=
	    NULL))
		return stop(im, EX_DATAERR, "that is no message of a queue");
	if (it->state == ITEM_WAITS && it->deadline_ms != 0 &&
	    it->deadline_ms <= im->st->now_ms) {
		im->n[EXPIRED]++;
		return 0;
	}
	if ((buf = malloc(STORE_TARGET_MAX + 2 * it->ids.len + 4)) == NULL)
		return stop(im, EX_TEMPFAIL, "out of memory");
	ids = (void *)buf;			/* malloc aligns it */
	for (i = 0; i < t.nids; i++)
		ids[i] = get_le32(it->ids.data + 4 * i);
	n = op_put_target(buf + it->ids.len, STORE_TARGET_MAX + it->ids.len,
	    &t, ids);
	targets = (struct slice){ buf + it->ids.len, (size_t)MAX(n, 0) };
	rc = n < 0 ? stop(im, EX_DATAERR, "that is no message") :
	    put_message(im, it, &targets);
	free(buf);
	im->n[MESSAGES] += rc == 0;
	return rc;
}

/* --- Retained messages ---------------------------------------------------- */

static int
add_retained(struct import *im, const struct item_row *it)
{
	struct store		*st = im->st;
	struct retain_msg	 m = {
		.topic = it->topic, .client_id = it->client_id,
		.props = it->props, .payload = it->payload,
		.qos = (uint8_t)it->qos, .deadline_ms = it->deadline_ms,
		.version_hi = it->version_hi, .version_lo = it->version_lo,
		.id_hi = it->id_hi, .id_lo = it->id_lo,
	}, old;
	int			 rc;

	if (topic_name_check(it->topic.data, it->topic.len, 0) < 0 ||
	    it->qos > 2 || it->payload.len == 0 ||
	    it->client_id.len > UINT16_MAX)
		return stop(im, EX_DATAERR, "that is no retained message");
	if (it->deadline_ms != 0 && it->deadline_ms <= st->now_ms) {
		im->n[EXPIRED]++;
		return 0;
	}
	if (im->replace && retain_get(st->retain, m.topic.data, m.topic.len, 0,
	    &old, NULL) == 0 && (old.id_hi != m.id_hi || old.id_lo !=
	    m.id_lo) && old.version_hi >= m.version_hi)
		m.version_hi = old.version_hi + 1;
	/* Versions and ids to come are above it. */
	msgid_witness(&st->ids, m.id_hi + 1);
	rc = retained_put(st, &m);
	if (rc == ERR_INVAL)
		return stop(im, EX_CANTCREAT, "retain.max_size is less");
	if (rc == ERR_FULL)
		return st->full ? stop(im, EX_TEMPFAIL,
		    "its disk takes no more") : stop(im, EX_CANTCREAT,
		    "retain.max_messages or retain.max_bytes is reached");
	if (rc < 0)
		return stop(im, EX_TEMPFAIL, err_str(rc));
	im->n[rc == 1 ? RETAINED : NEWER]++;
	if (rc == 1)
		metric_inc(&m_imported);
	return 0;
}

/* --- Batches -------------------------------------------------------------- */

static int
add(struct import *im, const struct item_row *it)
{
	const struct session *s = im->s;

	if (it->kind == ITEM_SESSION)
		return begin_session(im, it);
	if (it->kind == ITEM_RETAINED)
		return add_retained(im, it);
	if (s == NULL || s->client_id_len != it->client_id.len ||
	    memcmp(s->client_id, it->client_id.data, s->client_id_len) != 0) {
		im->n[SKIPPED]++;
		return 0;
	}
	switch (it->kind) {
	case ITEM_MESSAGE:
		return add_message(im, it);
	case ITEM_INBOUND:
		return add_inbound(im, it);
	case ITEM_SUBSCRIPTION:
		return add_subscription(im, it);
	case ITEM_SESSION_END:
		return end_session(im, it);
	default:
		return stop(im, EX_DATAERR, "no such kind of item");
	}
}

/* All of an item's parts, or 0: more is to come. */
static int
join(struct import *im, struct item_row *it, uint64_t from)
{
	int rc;

	if (item_is_whole(it))
		return 1;
	if (item_join_waits(&parts.j) && parts.from != from &&
	    im->st->now_ms < parts.at_ms + JOIN_MS)
		return stop(im, EX_TEMPFAIL, "another import is under way");
	parts.from = from;
	parts.at_ms = im->st->now_ms;
	if ((rc = item_join(&parts.j, it, DATA_MAX)) < 0)
		return stop(im, rc == ERR_NOMEM ? EX_TEMPFAIL : EX_DATAERR,
		    rc == ERR_NOMEM ? "out of memory" :
		    "parts of a message that do not fit together");
	return rc;
}

static long
answer(const struct import *im, const struct query *q, uint8_t *buf,
    size_t size)
{
	struct slice		none = { NULL, 0 };
	struct reply_writer	w;
	struct kv_row		kv;
	char			text[32];
	size_t			i;

	reply_begin(&w, buf, size, q->id);
	for (i = 0; i < IMPORT_NKEYS; i++) {
		if (im->n[i] == 0)
			continue;
		snprintf(text, sizeof(text), "%" PRIu64, im->n[i]);
		kv.key = (struct slice){ (const uint8_t *)keys[i],
		    strlen(keys[i]) };
		kv.value = (struct slice){ (const uint8_t *)text,
		    strlen(text) };
		if (reply_kv(&w, &kv) < 0)
			break;
	}
	return reply_end(&w, none);
}

long
import_batch(struct store *st, const struct query *q, uint64_t from,
    uint8_t *buf, size_t size)
{
	struct import	im = { .st = st,
			    .replace = (q->flags & QUERY_REPLACE) != 0 };
	struct item_row	it;
	struct wire_in	in;
	int		rc = 0;

	im.s = q->handle == 0 ? NULL : shard_session(st->state, q->handle);
	if (im.s != NULL && !import_is_under_way(im.s))
		im.s = NULL;
	im.n[TAKEN] += q->handle != 0 && im.s == NULL;
	if (q->flags & QUERY_GIVE_UP && im.s != NULL) {
		rc = give_up(&im, im.s);
		im.s = NULL;
	}
	wire_in_init(&in, q->batch.data, q->batch.len);
	while (rc >= 0 && im.why == NULL && (rc = items_next(&in, &it)) == 1) {
		if (join(&im, &it, from) == 1)
			(void)add(&im, &it);
		if (!item_join_waits(&parts.j))
			item_join_clear(&parts.j);
	}
	if (im.why == NULL && rc < 0)
		(void)stop(&im, EX_PROTOCOL, "that is no batch of items");
	if (!log_write(st) && im.why == NULL)
		(void)stop(&im, EX_TEMPFAIL, "its disk takes no more");
	if (im.why != NULL) {
		/* Half a session is of no use, nor known to the tool. */
		if (im.s != NULL && !st->full)
			(void)give_up(&im, im.s);
		return reply_error(buf, size, q->id, im.status, im.why);
	}
	im.n[HANDLE] = im.s == NULL ? 0 : im.s->handle;
	return answer(&im, q, buf, size);
}

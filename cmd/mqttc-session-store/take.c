/*
 * take.c: messages that come to be kept. A record is either one for the
 * sessions here (it becomes an operation that names them), or one that we are
 * to be the source of (onward.c). The log keeps a mark for each process that
 * sends us any: what comes again after a start is known by its id.
 */
#include "store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"

/* Targets of one message as bytes. */
static struct {
	uint8_t	*buf;
	size_t	 cap;
} packed;

static int
pack(const struct store_target *t, size_t n, struct slice *out)
{
	struct op_target one;
	uint8_t		*grown;
	size_t		 i, len = 0, size;
	long		 k;

	for (i = 0; i < n; i++) {
		size = STORE_TARGET_MAX + 4 * (size_t)t[i].nids;
		if (len + size > packed.cap) {
			size = MAX(packed.cap * 2, len + size);
			if ((grown = realloc(packed.buf, size)) == NULL)
				return ERR_NOMEM;
			packed.buf = grown;
			packed.cap = size;
		}
		memset(&one, 0, sizeof(one));
		one.handle = t[i].session->handle;
		one.group = t[i].group;
		one.qos = t[i].qos;
		one.retain = t[i].retain;
		one.nids = t[i].nids;
		if ((k = op_put_target(packed.buf + len, packed.cap - len,
		    &one, t[i].ids)) < 0)
			return (int)k;
		len += (size_t)k;
	}
	*out = (struct slice){ packed.buf, len };
	return 0;
}

/* r in one piece, as the log has it. */
static int
whole(struct store *st, const struct record *r, struct slice *out)
{
	size_t	 size = record_size(r);
	uint8_t	*buf = log_scratch(st, size);
	long	 n;

	if (buf == NULL)
		return ERR_NOMEM;
	if ((n = record_put_whole(buf, size, r)) < 0)
		return (int)n;
	*out = (struct slice){ buf, (size_t)n };
	return 0;
}

/* Does more wait here, of all sessions, than may? */
static bool
is_crowded(const struct store *st)
{
	struct shard_counts n = shard_counts(st->state);

	return (st->conf->session_max_messages > 0 &&
	    n.queued > st->conf->session_max_messages) ||
	    n.body_bytes > st->conf->session_max_bytes;
}

static bool
drop_oldest(struct store *st, struct session *s, const struct shard_limits *lim)
{
	struct op o = { .kind = STORE_DROP, .handle = s->handle };

	if (!session_overflow(s, lim, &o.offset))
		return false;
	metric_inc(&m_dropped_full);
	return log_op(st, &o, NULL, NULL) == 0;
}

/* s has got a message of so many bytes: a queue that is too long gives up its
 * oldest, and if there is too much in all, s gives up as much as it got. */
static void
trim(struct store *st, struct session *s, uint32_t bytes)
{
	static const struct shard_limits none = { 0 };
	struct shard_limits	 lim = {
		.queue_len = st->conf->mqtt_max_offline_queue_len,
		.queue_bytes = st->conf->mqtt_max_offline_queue_bytes,
	};
	uint64_t		 was = s->queued_bytes - bytes;
	uint32_t		 n = s->queued - 1;

	while (drop_oldest(st, s, &lim))
		;
	while (is_crowded(st) && (s->queued > n || s->queued_bytes > was) &&
	    drop_oldest(st, s, &none))
		;
}

/* One operation for these sessions: the mark is raised in it, for a log may
 * end behind any. */
static int
keep(struct store *st, const struct record *r, struct store_target *t,
    size_t n, const struct op *from)
{
	struct op	 o = {
		.kind = STORE_PUBLISH,
		.at_ms = st->now_ms,
		.id = r->id,
		.source = from->source,
		.slot = from->slot,
		.ntargets = (uint32_t)n,
		.deadline_ms = record_deadline_ms(r, st->now_ms),
	};
	struct record	 clean = *r;
	struct slice	 targets;
	size_t		 i;
	int		 rc;

	clean.ext = (struct slice){ NULL, 0 };
	clean.client_id = (struct slice){ NULL, 0 };
	if ((rc = whole(st, &clean, &o.record)) < 0 ||
	    (rc = pack(t, n, &targets)) < 0 ||
	    (rc = log_op(st, &o, &targets, NULL)) < 0)
		return rc;
	metric_add(&m_kept, n);
	for (i = 0; i < n; i++) {
		trim(st, t[i].session, (uint32_t)o.record.len);
		if (t[i].session->connected && t[i].session->user != NULL)
			serve_soon(st, t[i].session->user);
	}
	return 0;
}

int
take_message(struct store *st, const struct record *r, const struct op *from)
{
	struct store_target	*t = NULL;
	int			 n = 0;

	if (record_qos(r) == 0)
		return 0;
	if (r->flags & RECORD_SUBS)
		n = shard_match(st->state, &r->topic, (uint8_t)record_qos(r),
		    (r->flags & RECORD_RETAIN) != 0, &r->client_id, &t);
	if (n >= 0 && (r->flags & RECORD_RETAIN))
		n = retained_live(&r->id, t, n);
	if (n >= 0 && (r->flags & RECORD_GROUPS))
		n = groups_targets(st, r, from, &t, n);
	return n <= 0 ? n : keep(st, r, t, (size_t)n, from);
}

/* It is for one session alone. */
static int
take_given(struct store *st, const struct record *r, const struct slice *to,
    const struct slice *once, const struct op *from)
{
	struct store_target	 t = { .session = NULL };
	uint32_t		*ids = NULL;
	size_t			 n = (to->len - 10) / 4, i;
	int			 rc;

	t.session = shard_session(st->state, get_le64(to->data));
	t.qos = to->data[8] & 3;
	if (t.session == NULL || t.qos == 0 || t.qos == 3 || n > UINT16_MAX)
		return 0;
	if (once->len > 0 && !retained_give(once, t.session->handle))
		return 0;
	t.retain = to->data[9] != 0;
	if (n > 0 && (ids = malloc(n * sizeof(*ids))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++)
		ids[i] = get_le32(to->data + 10 + 4 * i);
	t.ids = ids;
	t.nids = (uint16_t)n;
	rc = keep(st, r, &t, 1, from);
	free(ids);
	return rc;
}

static int
take_record(struct store *st, struct record *r, const struct op *mark)
{
	struct op	from = *mark;
	struct slice	value, session = { NULL, 0 }, inbound = { NULL, 0 },
			once = { NULL, 0 };
	uint16_t	type;
	size_t		at = 0;

	while (record_ext_next(r, &at, &type, &value) == 1) {
		if (type == EXT_SESSION && value.len >= 10)
			session = value;
		else if (type == EXT_INBOUND && value.len >= 18)
			inbound = value;
		else if (type == EXT_ONCE && value.len >= 20)
			once = value;
	}
	if (r->flags & RECORD_SOURCE) {
		from.id = r->id;
		if (inbound.len > 0) {
			from.handle = get_le64(inbound.data);
			from.pid = get_le16(inbound.data + 8);
		}
		return onward_take(st, r, &from);
	}
	return session.len > 0 ? take_given(st, r, &session, &once, &from) :
	    take_message(st, r, &from);
}

/*
 * r was taken before we were started. What its client said since comes again as
 * well, so a PUBREL that was before it has just taken its identifier away from
 * us: it has it.
 */
static int
taken_before(struct store *st, const struct record *r)
{
	struct op	 o = { .kind = STORE_INBOUND };
	struct slice	 value;
	struct session	*s;
	struct holder	*h;
	uint16_t	 type;
	size_t		 at = 0;

	metric_inc(&m_duplicates);
	while (record_ext_next(r, &at, &type, &value) == 1) {
		if (type != EXT_INBOUND || value.len < 18)
			continue;
		o.handle = get_le64(value.data);
		o.pid = get_le16(value.data + 8);
		s = shard_session(st->state, o.handle);
		if (s == NULL || !s->connected || (h = s->user) == NULL ||
		    h->serial != get_le64(value.data + 10) || o.pid == 0 ||
		    inbound_has(&session_here(s)->inbound, o.pid))
			return 0;
		return log_op(st, &o, NULL, NULL);
	}
	return 0;
}

/* The ids of a listener rise as long as it lives: its marks are of one
 * incarnation. Those of a store rise for ever. */
static uint32_t
slot_of(enum peer_class class, uint64_t incarnation)
{
	return class == PEER_STORE ? 0 : (uint32_t)incarnation;
}

void
take_forget(struct store *st, const char *name, uint64_t incarnation)
{
	struct op	o = {
		.kind = STORE_MARK,
		.source = { (const uint8_t *)name, strlen(name) },
		.slot = slot_of(peer_class_of(name), incarnation),
	};
	struct msgid	mark = shard_mark(st->state, &o.source, o.slot);

	if (mark.hi != 0)
		(void)log_op(st, &o, NULL, NULL);
}

/*
 * Whose ids these are, and in *slot of which life: of who sent the frame, or of
 * the process of another node it is from, and which of its streams that is.
 */
static struct slice
source_of(const struct bus_frame *f, uint32_t *slot)
{
	static char	 name[BUS_NAME_MAX + BUS_NODE_MAX + 16];
	const char	*at;
	int		 n;

	if (f->origin == NULL) {
		*slot = slot_of(f->from.class, f->from.incarnation);
		return (struct slice){ (const uint8_t *)f->from.name,
		    strlen(f->from.name) };
	}
	n = snprintf(name, sizeof(name), f->origin_slot == 0 ? "%s" : "%s/%u",
	    f->origin, (unsigned)f->origin_slot);
	at = strchr(name, '@');
	*slot = strncmp(name, "session_store.", 14) == 0 && at != NULL ? 0 :
	    (uint32_t)f->origin_incarnation;
	return (struct slice){ (const uint8_t *)name,
	    (size_t)MIN(n, (int)sizeof(name) - 1) };
}

int
on_records(void *ctx, struct bus_frame *f)
{
	struct store	*st = ctx;
	uint32_t	 slot;
	struct slice	 source = source_of(f, &slot);
	struct msgid	 mark = shard_mark(st->state, &source, slot);
	struct msgid	 last = { 0, 0 };
	struct op	 o = { .kind = STORE_MARK, .source = source,
				.slot = slot };
	struct record	 r;
	bool		 again = false;
	int		 rc;

	/* Unacknowledged until there is room in the log, and with those who
	 * get what we are the source of. */
	if (!onward_room(st))
		return ERR_AGAIN;
	for (;;) {
		if (!log_room(st)) {
			again = true;
			break;
		}
		if (bus_frame_next(f, &r) != 1)
			break;
		metric_inc(&m_taken);
		if (record_qos(&r) > 0 && msgid_cmp(r.id, mark) <= 0) {
			if (taken_before(st, &r) < 0)
				metric_inc(&m_dropped_memory);
			continue;
		}
		if (record_qos(&r) > 0)
			last = r.id;
		if ((rc = take_record(st, &r, &o)) < 0) {
			metric_inc(&m_records_refused);
			log_warn("store.refused", "peer=%s error=%s",
			    f->from.name, log_quote(err_str(rc)));
		}
	}
	/* What was for nobody is not looked at again. */
	o.id = last;
	if (msgid_cmp(last, shard_mark(st->state, &source, slot)) > 0)
		(void)log_op(st, &o, NULL, NULL);
	return again ? ERR_AGAIN : 0;
}

/*
 * checkpoint.c: what we know, noted down in a tree on disk (lib/kv), so that a
 * start replays the log from there and not from its beginning. It is fuzzy: it
 * begins at a position of the log, copies what has changed in slices between
 * turns, also while that goes on changing, and is committed by a thread; what a
 * session's record has already, a replay does not do to it again. Then
 * segments of the log that hold nothing that is needed are given back: bodies
 * of messages that somebody still waits for keep theirs, until they are few;
 * then they are moved to the end.
 *
 * Records: s HANDLE a session; r TOPIC a retained message; m the marks; o the
 * messages onward that not all have taken.
 */
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "kv/batch.h"
#include "kv/tree.h"
#include "log/log.h"
#include "retain/code.h"

enum {
	SLICE_SESSIONS	= 64,		/* looked at before the clock is */
	SLICE_NS	= 1000000,	/* of one turn */
	BATCH_MAX	= 32 << 20,	/* committed in parts above */
	TOPICS_MAX	= 200000,	/* changed; more begin a checkpoint */
	LOG_SEGMENTS	= 16,		/* behind the snapshot: a new one */
	MOVE_MAX	= 64,		/* bodies moved a tick */
	GIVE_MAX	= 64,		/* segments given back a tick */
	RETRY_MS	= 10000
};

enum phase { IDLE, COLLECT, SYNC, COMMIT, BROKEN };

/* Bytes of bodies by segment of the log. */
struct live {
	uint64_t	first;
	uint64_t	bytes;
};

struct topics {
	struct slice	*list;		/* heap */
	size_t		 n, cap;
};

static struct {
	struct kv_tree	*tree;
	struct kv_batch	*batch;
	struct kv_job	 job, snap_job, reclaim_job;
	enum phase	 phase;
	bool		 snapping, reclaiming;
	bool		 giving;	/* there may be more to give back */
	uint64_t	 reclaim_due_ms;
	bool		 last;		/* this commit is the checkpoint's end */
	uint64_t	 begun;		/* position the checkpoint stands for */
	uint64_t	 position;	/* of the last one committed */
	uint64_t	 floor;		/* of the snapshot */
	uint64_t	 due_ms, snap_due_ms, began_ms;
	uint64_t	 records;
	uint8_t		*buf;
	size_t		 cap;

	struct topics	 changed;	/* since they were noted */
	struct topics	 noting;	/* by this checkpoint */
	size_t		 sessions;	/* still to be noted by it */

	struct live	*live;
	size_t		 nlive, cap_live;
	bool		 lost_topic;	/* one could not be remembered */
} cp;

/* --- Bodies in the log ---------------------------------------------------- */

static struct live *
live_at(struct store *st, uint64_t pos)
{
	struct journal_segment	 s;
	struct live		*grown;
	size_t			 lo = 0, hi = cp.nlive, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (cp.live[mid].first <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	/* At a start they come in any order. */
	if (!journal_segment_at(st->journal, pos, &s) ||
	    (lo > 0 && cp.live[lo - 1].first >= s.first))
		return lo == 0 ? NULL : &cp.live[lo - 1];
	if (cp.nlive == cp.cap_live) {
		cp.cap_live = MAX(cp.cap_live * 2, 16);
		grown = realloc(cp.live, cp.cap_live * sizeof(*grown));
		if (grown == NULL)
			fatal(EX_OSERR, "store.nomem", "out of memory");
		cp.live = grown;
	}
	memmove(&cp.live[lo + 1], &cp.live[lo],
	    (cp.nlive++ - lo) * sizeof(*cp.live));
	cp.live[lo] = (struct live){ s.first, 0 };
	return &cp.live[lo];
}

void
checkpoint_pin(void *ctx, uint64_t pos, uint32_t size)
{
	struct live *l = live_at(ctx, pos);

	if (l != NULL)
		l->bytes += size;
}

void
checkpoint_unpin(void *ctx, uint64_t pos, uint32_t size)
{
	struct live *l = live_at(ctx, pos);

	if (l != NULL)
		l->bytes -= MIN(size, l->bytes);
}

/* --- What has changed ----------------------------------------------------- */

void
checkpoint_topic(struct store *st, const struct slice *topic)
{
	struct topics	*t = &cp.changed;
	struct slice	*grown;
	uint8_t		*copy;
	size_t		 cap;

	if (t->n == t->cap) {
		cap = MAX(t->cap * 2, (size_t)256);
		if ((grown = realloc(t->list, cap * sizeof(*grown))) == NULL)
			goto lost;
		t->list = grown;
		t->cap = cap;
	}
	if ((copy = malloc(topic->len)) == NULL)
		goto lost;
	memcpy(copy, topic->data, topic->len);
	t->list[t->n++] = (struct slice){ copy, topic->len };
	if (t->n > TOPICS_MAX)
		cp.due_ms = MIN(cp.due_ms, st->now_ms);
	return;
lost:
	/* No checkpoint may end without it: the log stays the truth. */
	cp.lost_topic = true;
	metric_inc(&m_dropped_memory);
}

static void
topics_free(struct topics *t)
{
	while (t->n > 0)
		free((void *)(uintptr_t)t->list[--t->n].data);
	free(t->list);
	memset(t, 0, sizeof(*t));
}

static uint8_t *
room(size_t n)
{
	uint8_t *grown;

	if (n > cp.cap) {
		n = MAX(n, cp.cap * 2);
		if ((grown = realloc(cp.buf, n)) == NULL)
			return NULL;
		cp.buf = grown;
		cp.cap = n;
	}
	return cp.buf;
}

static int
put_session(const struct dirty *d)
{
	uint8_t	 key[9] = { 's' };
	long	 n;
	uint8_t	*buf;

	put_be64(key + 1, d->handle);
	if (d->session == NULL)
		return kv_batch_del(cp.batch, key, sizeof(key));
	if ((n = session_save(d->session, NULL, 0)) < 0)
		return (int)n;
	if ((buf = room((size_t)n)) == NULL)
		return ERR_NOMEM;
	if ((n = session_save(d->session, buf, (size_t)n)) < 0)
		return (int)n;
	return kv_batch_put(cp.batch, key, sizeof(key), buf, (size_t)n);
}

static int
put_topic(struct store *st, const uint8_t *topic, size_t len)
{
	struct retain_msg	 m;
	uint8_t			*key, *buf;
	size_t			 size;
	int			 rc;

	if (retain_get(st->retain, topic, len, 0, &m, NULL) < 0) {
		if ((key = room(len + 1)) == NULL)
			return ERR_NOMEM;
		key[0] = 'r';
		memcpy(key + 1, topic, len);
		return kv_batch_del(cp.batch, key, len + 1);
	}
	size = retain_encoded_size(&m);
	if ((key = room(len + 1 + size)) == NULL)
		return ERR_NOMEM;
	key[0] = 'r';
	memcpy(key + 1, topic, len);
	buf = key + len + 1;
	if (retain_encode(buf, size, &m) < 0)
		return 0;
	rc = kv_batch_put(cp.batch, key, len + 1, buf, size);
	return rc;
}

static int
put_rest(struct store *st)
{
	uint8_t	*buf;
	long	 n;
	int	 rc;

	if ((n = shard_save_marks(st->state, NULL, 0)) < 0 ||
	    (buf = room((size_t)n)) == NULL)
		return n < 0 ? (int)n : ERR_NOMEM;
	if ((n = shard_save_marks(st->state, buf, (size_t)n)) < 0 ||
	    (rc = kv_batch_put(cp.batch, "m", 1, buf, (size_t)n)) < 0)
		return n < 0 ? (int)n : rc;
	n = (long)onward_save(st, NULL);
	if ((buf = room((size_t)n)) == NULL)
		return ERR_NOMEM;
	(void)onward_save(st, buf);
	return kv_batch_put(cp.batch, "o", 1, buf, (size_t)n);
}

static void
failed(struct store *st, const char *what, int rc, int errnum)
{
	log_error("store.checkpoint_failed", "shard=%" PRIu32 " what=%s "
	    "error=%s", st->shard, what, log_quote(rc == ERR_IO ?
	    strerror(errnum) : err_str(rc)));
	metric_inc(&m_checkpoint_failures);
}

/* --- Giving back ---------------------------------------------------------- */

/* The log below is in the checkpoint and in the snapshot. */
static uint64_t
needed_from(const struct store *st)
{
	uint64_t from = MIN(cp.position, cp.floor);

	return MIN(from, onward_first(st));
}

static void	reclaim(struct store *st);

static int
run_reclaim(void *arg)
{
	return journal_reclaim(arg);
}

static void
reclaimed(struct kv_job *j)
{
	struct store *st = j->ctx;

	cp.reclaiming = false;
	if (j->rc < 0) {
		failed(st, "reclaim", j->rc, j->errnum);
		cp.reclaim_due_ms = st->now_ms + RETRY_MS;
	}
	reclaim(st);
}

/* What the segments took on the disk: giving that back takes its time, so a
 * thread does it, the one for which no acknowledgement waits. */
static void
reclaim(struct store *st)
{
	if (cp.reclaiming || st->now_ms < cp.reclaim_due_ms ||
	    !journal_has_dropped(st->journal))
		return;
	cp.reclaim_job = (struct kv_job){
		.kind = KV_JOB_CALL, .run = run_reclaim, .arg = st->journal,
		.done = reclaimed, .ctx = st,
	};
	/* If it takes no more now, the next tick tries. */
	cp.reclaiming = kv_worker_submit(st->worker, &cp.reclaim_job) == 0;
}

static void
live_forget(uint64_t first)
{
	size_t i;

	for (i = 0; i < cp.nlive && cp.live[i].first != first; i++)
		;
	if (i < cp.nlive)
		memmove(&cp.live[i], &cp.live[i + 1],
		    (--cp.nlive - i) * sizeof(*cp.live));
}

static void
give_back(struct store *st)
{
	uint64_t		 from = needed_from(st), pos = 0;
	struct journal_segment	 s;
	struct live		*l;
	unsigned		 n = 0;

	cp.giving = false;
	while (!cp.giving && journal_segment_from(st->journal, pos, &s)) {
		pos = s.first + s.bytes;
		if (pos > from || s.bytes == 0)
			break;
		l = live_at(st, s.first);
		if (l != NULL && l->first == s.first && l->bytes > 0)
			continue;
		if (journal_drop_segment(st->journal, s.first) < 0)
			break;
		metric_inc(&m_segments_dropped);
		live_forget(s.first);
		cp.giving = ++n == GIVE_MAX;
	}
	metric_set(&m_log_size, journal_bytes(st->journal));
	reclaim(st);
}

/* One body goes to the end of the log. */
static int
move(struct store *st, struct body *b)
{
	struct op	 o, m = { .kind = STORE_MOVE };
	struct slice	 targets;
	uint8_t		*copy;
	int		 rc;

	if ((rc = log_read(st, b->pos, &o)) < 0)
		return rc;
	/* What was read is good until the log is touched again. */
	if ((copy = malloc(o.targets_len + o.record.len)) == NULL)
		return ERR_NOMEM;
	memcpy(copy, o.targets, o.targets_len);
	memcpy(copy + o.targets_len, o.record.data, o.record.len);
	m.pos = b->pos;
	m.deadline_ms = b->deadline_ms;
	m.ntargets = o.ntargets;
	targets = (struct slice){ copy, o.targets_len };
	m.record = (struct slice){ copy + o.targets_len, o.record.len };
	rc = log_op(st, &m, &targets, NULL);
	free(copy);
	if (rc == 0)
		metric_inc(&m_moved);
	return rc;
}

/* An old segment with little in it that is needed: that moves. */
static void
compact(struct store *st)
{
	struct body	*list[MOVE_MAX];
	uint64_t	 from = needed_from(st), end;
	size_t		 i, k, n;

	for (i = 0; i + 1 < cp.nlive; i++) {
		end = cp.live[i + 1].first;
		if (end > from)
			return;
		if (cp.live[i].bytes == 0 || cp.live[i].bytes >
		    (end - cp.live[i].first) / 4)
			continue;
		n = shard_bodies_in(st->state, cp.live[i].first, end, list,
		    MOVE_MAX);
		for (k = 0; k < n; k++)
			if (move(st, list[k]) < 0)
				return;
		return;
	}
}

/* --- The steps ------------------------------------------------------------ */

static void
committed(struct kv_job *j)
{
	struct store *st = j->ctx;

	if (j->rc < 0) {
		failed(st, "commit", j->rc, j->errnum);
		/* The batch stays, to be tried again; a tree that takes no more
		 * is left alone: the log is the truth. */
		cp.phase = j->rc == ERR_CORRUPT ? BROKEN : SYNC;
		cp.due_ms = st->now_ms + RETRY_MS;
		return;
	}
	kv_batch_reset(cp.batch);
	cp.floor = j->floor;
	if (!cp.last) {
		cp.phase = COLLECT;
		return;
	}
	cp.phase = IDLE;
	cp.position = j->position;
	metric_inc(&m_checkpoints);
	log_debug("store.checkpoint", "shard=%" PRIu32 " position=%" PRIu64
	    " records=%" PRIu64 " ms=%" PRIu64, st->shard, cp.position,
	    cp.records, st->now_ms - cp.began_ms);
	cp.due_ms = st->now_ms + st->conf->session_store_checkpoint_interval_ms;
	give_back(st);
}

static void
snapped(struct kv_job *j)
{
	struct store *st = j->ctx;

	cp.snapping = false;
	cp.snap_due_ms = st->now_ms +
	    st->conf->session_store_snapshot_interval_ms;
	if (j->rc < 0 && j->rc != ERR_AGAIN)
		failed(st, "snapshot", j->rc, j->errnum);
	if (j->rc < 0)
		return;
	cp.floor = j->floor;
	metric_inc(&m_snapshots);
	give_back(st);
}

static void
commit(struct store *st)
{
	cp.batch->position = cp.last ? cp.begun : cp.position;
	cp.job = (struct kv_job){
		.kind = KV_JOB_COMMIT, .batch = cp.batch, .done = committed,
		.ctx = st,
	};
	if (kv_worker_submit(st->worker, &cp.job) == 0)
		cp.phase = COMMIT;	/* else the next turn */
}

static int
collect(struct store *st)
{
	struct dirty	 list[SLICE_SESSIONS];
	uint64_t	 end = clock_mono_ns() + SLICE_NS;
	struct topics	*t = &cp.noting;
	size_t		 n, i, k;
	int		 rc = 0;

	while (cp.batch->len < BATCH_MAX) {
		n = shard_take_dirty(st->state, list, MIN(cp.sessions,
		    (size_t)SLICE_SESSIONS));
		cp.sessions = n == 0 ? 0 : cp.sessions - n;
		for (i = 0; rc == 0 && i < n; i++)
			rc = put_session(&list[i]);
		for (k = 0; rc == 0 && k < SLICE_SESSIONS && t->n > 0; k++) {
			t->n--;
			rc = put_topic(st, t->list[t->n].data,
			    t->list[t->n].len);
			free((void *)(uintptr_t)t->list[t->n].data);
		}
		cp.records += n + k;
		if (rc < 0)
			return rc;
		if (cp.sessions == 0 && t->n == 0) {
			cp.last = true;
			return put_rest(st);
		}
		if (clock_mono_ns() >= end)
			return ERR_AGAIN;
	}
	return 0;
}

static void
begin(struct store *st)
{
	/* A topic that could not be remembered: all of them are noted. */
	if (cp.lost_topic && retained_note_all(st) < 0)
		return;
	cp.lost_topic = false;
	topics_free(&cp.noting);
	cp.noting = cp.changed;
	memset(&cp.changed, 0, sizeof(cp.changed));
	cp.sessions = shard_ndirty(st->state);
	cp.due_ms = st->now_ms;
	cp.phase = COLLECT;
	cp.last = false;
	cp.begun = journal_written(st->journal);
	cp.began_ms = st->now_ms;
	cp.records = 0;
}

/* At the end of a turn, when all is written. */
void
checkpoint_turn(struct store *st)
{
	int rc;

	switch (cp.phase) {
	case IDLE:
		if (st->now_ms < cp.due_ms ||
		    journal_written(st->journal) == cp.position)
			return;
		begin(st);
		return;
	case COLLECT:
		rc = collect(st);
		if (rc == ERR_AGAIN) {
			ev_idle_start(st->loop, &st->again);
			return;
		}
		ev_idle_stop(st->loop, &st->again);
		/* What was taken from the lists is nowhere else. */
		if (rc < 0)
			fatal(EX_OSERR, "store.nomem", "no checkpoint: %s",
			    err_str(rc));
		cp.phase = SYNC;
		cp.job.position = journal_written(st->journal);
		/* fallthrough */
	case SYNC:
		/* No record may know of what the log has not on the disk. */
		if (st->now_ms < cp.due_ms)
			return;
		if (st->synced < cp.job.position) {
			log_sync_now(st);
			return;
		}
		commit(st);
		return;
	case COMMIT:
	case BROKEN:
		return;
	}
}

void
checkpoint_tick(struct store *st)
{
	uint64_t behind = journal_end(st->journal) - MIN(cp.floor,
	    journal_end(st->journal));

	if (st->full || cp.phase == BROKEN)
		return;
	if (!cp.snapping && cp.position > cp.floor && (cp.floor == 0 ||
	    st->now_ms >= cp.snap_due_ms || behind > LOG_SEGMENTS *
	    (uint64_t)st->conf->session_store_segment_size)) {
		cp.snap_job = (struct kv_job){
			.kind = KV_JOB_SNAPSHOT, .done = snapped, .ctx = st,
		};
		cp.snapping = kv_worker_submit(st->worker, &cp.snap_job) == 0;
	}
	if (cp.giving)
		give_back(st);
	reclaim(st);
	compact(st);
}

/* --- Start and end -------------------------------------------------------- */

static int
load(void *ctx, const struct slice *key, const struct slice *value)
{
	struct store	*st = ctx;
	int		 rc = 0;

	cp.records++;
	switch (key->len > 0 ? key->data[0] : 0) {
	case 's':
		rc = shard_load(st->state, value->data, value->len);
		break;
	case 'm':
		rc = shard_load_marks(st->state, value->data, value->len);
		break;
	case 'r':
		rc = retained_replay(st, value->data, value->len);
		break;
	case 'o':
		rc = onward_load(st, value);
		break;
	}
	if (rc == ERR_NOMEM)
		return rc;
	if (rc < 0)
		log_error("store.record", "shard=%" PRIu32 " key=%s error=%s",
		    st->shard, log_quote_n(key->data, MIN(key->len,
		    (size_t)64)), log_quote(err_str(rc)));
	return 0;
}

uint64_t
checkpoint_open(struct store *st)
{
	struct kv_report	r;
	int			rc;

	if ((cp.batch = kv_batch_new()) == NULL)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	if ((rc = kv_open(&cp.tree, st->dir.path, NULL, &r)) < 0)
		fatal(EX_OSERR, "store.tree", "cannot open the checkpoint in "
		    "'%s': %s", st->dir.path, rc == ERR_IO ? strerror(errno) :
		    err_str(rc));
	if (r.damaged)
		log_error("store.tree_damaged", "shard=%" PRIu32 " aside=%s "
		    "rebuilt=%s position=%" PRIu64 " why=%s", st->shard,
		    log_quote(r.aside), r.rebuilt ? "yes" : "no", r.position,
		    log_quote(r.why));
	if ((rc = kv_each(cp.tree, load, st)) < 0)
		fatal(EX_OSERR, "store.tree", "cannot read the checkpoint in "
		    "'%s': %s", st->dir.path, rc == ERR_IO ? strerror(errno) :
		    err_str(rc));
	cp.position = kv_position(cp.tree);
	cp.floor = kv_floor(cp.tree);
	log_info("store.loaded", "shard=%" PRIu32 " records=%" PRIu64
	    " position=%" PRIu64, st->shard, cp.records, cp.position);
	return cp.position;
}

struct kv_tree *
checkpoint_tree(void)
{
	return cp.tree;
}

void
checkpoint_close(void)
{
	kv_close(&cp.tree);
	kv_batch_free(&cp.batch);
	topics_free(&cp.changed);
	topics_free(&cp.noting);
	free(cp.live);
	free(cp.buf);
	memset(&cp, 0, sizeof(cp));
}

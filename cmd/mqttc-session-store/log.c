/*
 * log.c: operations. Each is appended to the log, which gives it a position,
 * and applied to what we know; a start applies those of the log again. What
 * was appended in a turn is written at its end, before anybody hears of it.
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/err.h"
#include "log/log.h"

enum {
	WAITING_MAX	= 8 << 20,	/* bytes not written: more are written
					 * before anything else is taken */
	KEPT_MAX	= 24 << 20,	/* ... while the disk is full: more is
					 * not taken, ... */
	KEPT_ALL_MAX	= 48 << 20,	/* ... also of what gives back room */
	RETRY_MS	= 100,		/* a full disk is tried so often */
	RESERVE		= 16 << 20	/* and two segments */
};

uint8_t *
log_scratch(struct store *st, size_t n)
{
	uint8_t *grown;

	if (n > st->cap_scratch) {
		n = MAX(n, st->cap_scratch * 2);
		if ((grown = realloc(st->scratch, n)) == NULL)
			return NULL;
		st->scratch = grown;
		st->cap_scratch = n;
	}
	return st->scratch;
}

int
log_bytes(struct store *st, enum store_op kind, const struct slice *body,
    uint64_t *pos)
{
	int rc;

	rc = journal_append(st->journal, (unsigned)kind, body, 1, pos);
	/* What waits is as much as may: the disk is behind. */
	if (rc == ERR_FULL && (rc = journal_write(st->journal)) == 0)
		rc = journal_append(st->journal, (unsigned)kind, body, 1, pos);
	return rc;
}

int
log_op(struct store *st, struct op *o, const struct slice *targets,
    uint64_t *at)
{
	struct slice	parts[3];
	uint64_t	pos;
	size_t		n = 0, len;
	uint8_t		head[1024], *buf = head;
	long		size;
	int		rc;

	if (targets != NULL) {
		o->targets = targets->data;
		o->targets_len = targets->len;
	}
	if ((size = op_put(NULL, 0, o)) < 0)
		return (int)size;
	if ((size_t)size > sizeof(head) && (buf = malloc((size_t)size)) == NULL)
		return ERR_NOMEM;
	(void)op_put(buf, (size_t)size, o);
	parts[n++] = (struct slice){ buf, (size_t)size };
	if (o->targets_len > 0)
		parts[n++] = (struct slice){ o->targets, o->targets_len };
	if (o->record.len > 0)
		parts[n++] = o->record;
	len = (size_t)size + o->targets_len + o->record.len;
	rc = journal_append(st->journal, (unsigned)o->kind, parts, n, &pos);
	if (rc == ERR_FULL && (rc = journal_write(st->journal)) == 0)
		rc = journal_append(st->journal, (unsigned)o->kind, parts, n,
		    &pos);
	if (buf != head)
		free(buf);
	if (rc < 0)
		return rc;
	if (at != NULL)
		*at = pos;
	rc = shard_apply_op(st->state, pos, o, len);
	/* It is in the log already: a start would do what we cannot. */
	if (rc == ERR_NOMEM)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	return rc;
}

int
log_read(struct store *st, uint64_t pos, struct op *o)
{
	struct slice	body;
	unsigned	type;
	int		rc;

	if ((rc = journal_read(st->journal, pos, &type, &body)) < 0)
		return rc;
	return op_get(o, body.data, body.len) < 0 ? ERR_CORRUPT : 0;
}

/* Listeners refuse, or take again, what has to be kept. */
static void
room_changed(struct store *st)
{
	uint32_t i;

	metric_set(&m_disk_full, log_is_full(st));
	for (i = 0; i < LISTENERS_MAX; i++)
		peer_tell_room(st, i);
}

bool
log_write(struct store *st)
{
	uint64_t	before = journal_written(st->journal);
	int		rc;

	if (before == journal_end(st->journal) && !st->full)
		return true;
	if (st->full && st->now_ms - st->tried_ms < RETRY_MS)
		return false;
	st->tried_ms = st->now_ms;
	rc = journal_write(st->journal);
	if (rc == 0) {
		metric_inc(&m_writes);
		metric_add(&m_log_bytes, journal_written(st->journal) -
		    before);
		if (st->full) {
			log_info("store.room", "shard=%" PRIu32, st->shard);
			st->full = false;
			room_changed(st);
			serve_safe(st);
		}
		return true;
	}
	if (!st->full)
		log_error("store.write", "shard=%" PRIu32 " error=%s",
		    st->shard, log_quote(rc == ERR_IO ? strerror(errno) :
		    err_str(rc)));
	if (!st->full) {
		st->full = true;
		room_changed(st);
	}
	return false;
}

bool
log_is_full(const struct store *st)
{
	return st->full || st->tight;
}

bool
log_is_safe(const struct store *st, uint64_t pos)
{
	return pos <= (st->sync == CONF_SYNC_ALWAYS ? st->synced :
	    journal_written(st->journal));
}

bool
log_room(struct store *st)
{
	uint64_t waits = journal_end(st->journal) -
		    journal_written(st->journal);

	/* What was on its way when the disk filled up is kept in memory: the
	 * entries behind it in its stream give back room. */
	if (st->full)
		return waits <= KEPT_MAX;
	return waits <= WAITING_MAX || log_write(st);
}

bool
log_room_back(const struct store *st)
{
	return !st->full || journal_end(st->journal) -
	    journal_written(st->journal) <= KEPT_ALL_MAX;
}

/*
 * A checkpoint needs room, and without one no segment is ever given back: a log
 * that fills its disk would never come out of it. So some is left for that.
 */
void
log_tick(struct store *st)
{
	uint64_t	 reserve = RESERVE + 2 *
			    (uint64_t)st->conf->session_store_segment_size;
	struct statvfs	 v;
	uint64_t	 room;

	if (fstatvfs(st->dir.fd, &v) == 0) {
		room = (uint64_t)v.f_bavail * v.f_frsize;
		if (!st->tight && room < reserve) {
			st->tight = true;
			log_error("store.tight", "shard=%" PRIu32
			    " room=%" PRIu64 " reserve=%" PRIu64, st->shard,
			    room, reserve);
			room_changed(st);
		} else if (st->tight && room >= reserve + reserve / 4) {
			st->tight = false;
			log_info("store.room", "shard=%" PRIu32, st->shard);
			room_changed(st);
		}
	}
}

/* --- To the disk ---------------------------------------------------------- */

/* For tests of power cuts: how far the log is on the disk. */
static void
note_synced(const struct store *st, uint64_t pos)
{
#ifdef FAULTS
	int fd = openat(st->dir.fd, "synced", O_WRONLY | O_CREAT | O_CLOEXEC,
	    0600);

	dprintf(fd, "%020" PRIu64 "\n", pos);
	close(fd);
#else
	(void)st;
	(void)pos;
#endif
}

static int
run_sync(void *arg)
{
	struct store	*st = arg;
	int		 rc = journal_sync(st->journal, &st->sync_job.position);

	if (rc == 0)
		note_synced(st, st->sync_job.position);
	if (rc == 0)
		(void)journal_prepare(st->journal);
	return rc;
}

static void
synced(struct kv_job *j)
{
	struct store *st = j->ctx;

	st->syncing = false;
	if (j->rc < 0)
		/* Nobody can say what is on the disk; a start can. */
		fatal(EX_IOERR, "store.sync", "cannot sync the log in '%s': %s",
		    st->dir.path, strerror(j->errnum));
	metric_inc(&m_syncs);
	st->synced = MAX(st->synced, j->position);
	if (st->bus != NULL)
		serve_safe(st);
	if (st->sync == CONF_SYNC_ALWAYS && st->bus != NULL)	/* at the end */
		bus_marked_stored(st->bus);
}

static void
sync_begin(struct store *st)
{
	if (st->syncing)
		return;
	st->sync_job = (struct kv_job){
		.kind = KV_JOB_SYNC, .run = run_sync, .arg = st,
		.done = synced, .ctx = st,
	};
	st->syncing = kv_worker_submit(st->worker, &st->sync_job) == 0;
}

void
log_sync_now(struct store *st)
{
	/* Nothing is marked: what is acknowledged waits for the next one. */
	sync_begin(st);
}

void
log_sync(struct store *st)
{
	bool more = journal_written(st->journal) > st->synced;

	if (st->sync != CONF_SYNC_ALWAYS) {
		bus_mark(st->bus);
		bus_marked_stored(st->bus);
		if (more && !st->syncing && st->now_ms >= st->sync_due_ms) {
			st->sync_due_ms = st->now_ms +
			    (st->sync == CONF_SYNC_INTERVAL ? st->sync_ms :
			    1000);
			sync_begin(st);
		}
		return;
	}
	if (st->syncing)
		return;			/* the next one takes more */
	bus_mark(st->bus);
	if (more)
		sync_begin(st);
	else
		bus_marked_stored(st->bus);
}

void
log_sync_mode(struct store *st)
{
	(void)conf_sync_parse(st->conf->session_sync, &st->sync, &st->sync_ms);
}

/* --- Start ---------------------------------------------------------------- */

static int
replay(void *ctx, uint64_t pos, unsigned type, const void *data, size_t len)
{
	struct store	*st = ctx;
	struct op	 o;
	int		 rc;

	st->replayed++;
	if (type == STORE_RETAIN)
		return retained_replay(st, data, len);
	if (op_get(&o, data, len) < 0) {
		log_error("store.operation", "pos=%" PRIu64 " type=%u", pos,
		    type);
		return 0;
	}
	if (msgid_cmp(o.id, (struct msgid){ 0, 0 }) > 0)
		msgid_witness(&st->ids, o.id.hi + 1);
	if (o.kind == STORE_ONWARD || o.kind == STORE_ONWARD_DONE)
		onward_replay(st, &o, pos);
	rc = shard_apply(st->state, pos, data, len);
	return rc == ERR_NOMEM ? rc : 0;
}

static void
damaged(void *ctx, const struct journal_damage *d)
{
	struct store *st = ctx;

	metric_add(&m_damaged, d->bytes);
	log_error("store.damage", "shard=%" PRIu32 " what=%s pos=%" PRIu64
	    " bytes=%" PRIu64 " copy=%s", st->shard,
	    journal_damage_str(d->kind), d->pos, d->bytes,
	    log_quote(d->quarantine));
}

void
log_open(struct store *st)
{
	static const struct shard_hooks pins = {
		.pin = checkpoint_pin, .unpin = checkpoint_unpin,
	};
	struct journal_opts o = {
		.segment_bytes = st->conf->session_store_segment_size,
		.salt = st->seed,
	};
	uint64_t from;
	int	 rc;

	st->state = shard_new(st->seed);
	if (st->state == NULL)
		fatal(EX_OSERR, "store.nomem", "out of memory");
	shard_set_hooks(st->state, &pins, st);
	if ((rc = journal_open(&st->journal, st->dir.path, &o)) < 0)
		fatal(EX_OSERR, "store.log", "cannot open the log in '%s': %s",
		    st->dir.path, rc == ERR_IO ? strerror(errno) : err_str(rc));
	st->replaying = true;
	from = checkpoint_open(st);
	if ((rc = journal_replay(st->journal, from, replay, damaged, st)) < 0)
		fatal(EX_OSERR, "store.log", "cannot read the log in '%s': %s",
		    st->dir.path, rc == ERR_IO ? strerror(errno) : err_str(rc));
	st->replaying = false;
	shard_replayed(st->state);
	st->received = journal_end(st->journal);
	log_sync_mode(st);
	if ((rc = kv_worker_new(&st->worker, st->loop,
	    checkpoint_tree(), 4)) < 0)
		fatal(EX_OSERR, "store.worker", "no threads: %s", err_str(rc));
	log_info("store.replayed", "shard=%" PRIu32 " operations=%" PRIu64
	    " sessions=%zu retained=%" PRIu32, st->shard, st->replayed,
	    shard_nsessions(st->state), retain_count(st->retain));
}

void
log_close(struct store *st)
{
	kv_worker_free(&st->worker);
	checkpoint_close();
	if (st->journal != NULL)
		journal_close(&st->journal);
	if (st->state != NULL)
		shard_free(&st->state);
	free(st->scratch);
}

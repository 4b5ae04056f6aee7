/*
 * tree.h: the checkpoint of one shard: a sorted table of records on disk and
 * the log position it stands for. One directory holds
 *
 *   idx.tcb        the tree (Tokyo Cabinet), changed in transactions only
 *   idx.tcb.wal    the undo log of a transaction that is under way
 *   idx.snap       a sequential dump of it, see kv/snap.h
 *   idx.mark       whether idx.tcb may be believed; also the lock
 *   idx.tcb.bad-N  trees that were set aside, the newest two
 *
 * The tree is a copy of what its owner has in memory and the log has on disk:
 * losing it costs time, believing a damaged one costs sessions. So kv_open
 * walks all of it in a child process first and compares it with what the last
 * transaction said of it: position, number of records and the sum of their
 * checksums. What does not fit is set aside and made anew from idx.snap, and
 * without that from nothing: the log from kv_floor() on is then the truth, so
 * it must be kept from there.
 *
 * A transaction is safe against kill -9 by Tokyo Cabinet's undo log, which
 * needs no sync for that; a commit syncs three times, whatever its size. The
 * price: after a power cut in the middle of a commit the tree is not believed
 * and idx.snap and more of the log are read instead.
 *
 * Not thread safe. One thread at a time may use it, and after the start that
 * is the helper (kv/worker.h). Tokyo Cabinet calls sched_yield at every
 * operation; a program with this room in it has a sched_yield of ours, which
 * does nothing for a thread while it is in here and the usual elsewhere.
 *
 * CAVEAT: Tokyo Cabinet ends the process (exit 1) when malloc fails, and keeps
 * all leaves that a transaction touches in memory until it is committed.
 */
#ifndef KV_TREE_H
#define KV_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "kv/batch.h"

struct kv_tree;			/* opaque */

struct kv_opts {
	int	buckets;	/* of a new tree's page table; 0: the default */
};

struct kv_report {
	bool		opened;		/* the tree that was there is in use */
	bool		rebuilt;	/* it was made anew from idx.snap */
	bool		damaged;	/* tree or snapshot was there and is no
					   good: see why */
	uint64_t	position;
	uint64_t	records;
	uint64_t	snap_position;	/* of idx.snap; 0 without one */
	char		aside[64];	/* the tree's new name, or empty */
	char		why[128];	/* what was wrong, or empty */
};

/*
 * Open the checkpoint in dir, an existing directory; o may be NULL. Forks, so
 * call it before other threads matter. *r is filled in on success. ERR_AGAIN
 * if another process has it open, still after half a second; ERR_FULL for no
 * space, ERR_IO, ERR_NOMEM; never ERR_CORRUPT: see r->damaged.
 */
int kv_open(struct kv_tree **t, const char *dir, const struct kv_opts *o,
    struct kv_report *r);

/* Close *t and set it to NULL; NULL is fine. Nothing is lost without it. */
void kv_close(struct kv_tree **t);

/* Log position of the last transaction; 0 in a new tree. */
uint64_t kv_position(const struct kv_tree *t);
uint64_t kv_records(const struct kv_tree *t);

/* The log must be kept from here: the position of idx.snap, 0 without. */
uint64_t kv_floor(const struct kv_tree *t);

/*
 * Call fn for every record in the order of keys; what it gets is valid for the
 * call. Stops when fn returns other than 0 and returns that. ERR_IO;
 * ERR_CORRUPT if a record's checksum is wrong (it is not handed out) or, at
 * the end, records were missing: forget what was handed out, kv_close and
 * kv_open again, which sets the tree aside.
 */
typedef int kv_each_fn(void *ctx, const struct slice *key,
    const struct slice *value);
int kv_each(struct kv_tree *t, kv_each_fn *fn, void *ctx);

/*
 * Apply all of b and its position, or nothing. 0 when it is on the disk.
 *   ERR_FULL     no space: nothing changed, try again later
 *   ERR_NOMEM    nothing changed
 *   ERR_IO       see errno; b may or may not be in, repeat it
 *   ERR_CORRUPT  this tree will not be believed at the next start, and takes
 *                no more commits: the owner goes on with its log
 */
int kv_commit(struct kv_tree *t, const struct kv_batch *b);

#endif

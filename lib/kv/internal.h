/*
 * internal.h: what the files of lib/kv share. Private to the room.
 */
#ifndef KV_INTERNAL_H
#define KV_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tcbdb.h>
#include <xxhash.h>

#include "base/util.h"
#include "kv/batch.h"

#define KV_TREE		"idx.tcb"
#define KV_TREE_NEW	"idx.tcb.new"
#define KV_SNAP		"idx.snap"
#define KV_SNAP_NEW	"idx.snap.new"
#define KV_MARK		"idx.mark"
#define KV_WAL		".wal"			/* Tokyo Cabinet's, behind */
#define KV_SUM		8u			/* before every value */

/* --- Records ------------------------------------------------------------ */

/* The checksum of a record, which stands before its value in the tree. */
static inline uint64_t
kv_record_sum(const void *key, size_t klen, const void *value, size_t vlen)
{
	return XXH3_64bits_withSeed(value, vlen,
	    XXH3_64bits_withSeed(key, klen, (XXH64_hash_t)klen));
}

/* One entry of a batch, decoded. */
struct kv_entry {
	const uint8_t	*key;
	const uint8_t	*sum;		/* KV_SUM bytes, then the value */
	uint32_t	 klen, vlen;
	bool		 del;
};

/* The entry at *off, which moves to the next one. *off < b->len. */
void kv_entry_at(const struct kv_batch *b, size_t *off, struct kv_entry *e);

/* The tree's own record: what the rest of it has to be. */
struct kv_meta {
	uint64_t	position;
	uint64_t	records;
	uint64_t	sum;		/* of their checksums, mod 2^64 */
	uint64_t	commits;
};

#define KV_META_KEY	"\0"
#define KV_META_KLEN	1
#define KV_META_SIZE	(KV_SUM + 40u)

void kv_meta_encode(uint8_t out[KV_META_SIZE], const struct kv_meta *m);
/* ERR_CORRUPT if it is not one, or not of this version. */
int kv_meta_decode(struct kv_meta *m, const void *value, size_t len);

/* --- mark.c ------------------------------------------------------------- */

/*
 * idx.mark, one sector: whether idx.tcb may be believed. Written and synced
 * before a transaction (dirty) and after the tree is on the disk (clean).
 * Tokyo Cabinet's own log is enough when a process dies, for the page cache
 * outlives it, and is not synced write by write (5 to 30 times a commit, or
 * once a page). When the machine dies in between, the boot id is another
 * one and the tree is not believed.
 */
struct kv_mark {
	bool		dirty;
	bool		closed;		/* tcbdbclose() has returned */
	bool		lost;		/* never believe this tree */
	uint32_t	unfinished;	/* transactions in a row, no end */
	uint64_t	commits;	/* of the tree when clean */
	uint64_t	head;		/* closed: sum of the file's head */
	uint8_t		boot[16];	/* this life of the machine */
};

/*
 * Open dir/idx.mark and lock it for this process: ERR_AGAIN if another one
 * has it. *known tells whether there was a readable mark, *empty that there
 * was none at all.
 */
int kv_mark_open(int dirfd, int *fd, struct kv_mark *m, bool *known,
    bool *empty);
/* Write and sync; fills in m->boot. */
int kv_mark_write(int fd, struct kv_mark *m);
/* Was it written since the machine was started? */
bool kv_mark_same_boot(const struct kv_mark *m);

/* --- check.c ------------------------------------------------------------ */

struct kv_tuning {
	int	buckets;
};

/* From now on this thread is (not) the one at the tree: see sched_yield. */
void kv_at_the_tree(bool yes);

TCBDB *kv_bdb_new(const struct kv_tuning *tune);
/* What a Tokyo Cabinet call that failed just now means: ERR_CORRUPT, ERR_FULL,
 * ERR_AGAIN, ERR_IO. */
int kv_bdb_error(int ecode, int errnum);

/*
 * Walk the whole tree in a child process, which may crash, exit or run in a
 * circle over damaged bytes without harm: every record, every path to one,
 * every block of the file. 0 with *m, ERR_CORRUPT with a word in why, else
 * what the system refused.
 */
int kv_check(const char *path, const struct kv_tuning *tune,
    struct kv_meta *m, char *why, size_t whylen);

/*
 * Look at the undo log of a transaction that did not end: cut off a last
 * record that its writer did not live to finish. ERR_CORRUPT if it cannot
 * belong to the tree.
 */
int kv_wal_trim(int dirfd);

/* The checksum of the part of a tree's file that precedes its records. */
int kv_head_sum(int dirfd, uint64_t *sum);

#endif

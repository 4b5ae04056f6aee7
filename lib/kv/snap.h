/*
 * snap.h: idx.snap, a sequential dump of a tree: what the tree is made of anew
 * when it is damaged. Written under another name, synced and renamed, so there
 * is always a whole one or none.
 *
 *   header   magic 8, version 4, zero 4, position 8, checksum 8
 *   record   klen 4 (1..KV_KEY_MAX), vlen 4, checksum 8, key, value;
 *            keys strictly ascending
 *   trailer  zero 4, zero 4, records 8, checksum of all bytes before 8
 *
 * Numbers are little endian, checksums XXH3-64.
 */
#ifndef KV_SNAP_H
#define KV_SNAP_H

#include <stdbool.h>

#include "kv/tree.h"

struct kv_snap_info {
	uint64_t	position;
	uint64_t	records;
};

/*
 * Where the bytes come from: read puts up to len (> 0) of them at buf and
 * returns how many, 0 at the end or -1 with errno.
 */
struct kv_snap_source {
	long		(*read)(void *ctx, void *buf, size_t len);
	void		*ctx;
	uint64_t	 size;		/* bytes in all */
};

/*
 * Read a snapshot, all of it. fn is called for records while reading: unless
 * 0 is returned in the end, all of them must be forgotten. ERR_CORRUPT for
 * anything that is not exactly a snapshot; ERR_IO, ERR_NOMEM; a value other
 * than 0 that fn returned.
 */
int kv_snap_parse(const struct kv_snap_source *src, kv_each_fn *fn, void *ctx,
    struct kv_snap_info *info);

/* The same of idx.snap in the directory. ERR_NOTFOUND without one. */
int kv_snap_read(int dirfd, kv_each_fn *fn, void *ctx,
    struct kv_snap_info *info);

/*
 * Write idx.snap from the tree, on the thread that may use it. stop (or NULL)
 * is asked every 1024 records or 1 MiB: when it says true the work is thrown
 * away and ERR_AGAIN returned. Data is synced 4 MiB at a time, so that others
 * who sync on the same disk never wait for all of it. ERR_FULL, ERR_IO,
 * ERR_NOMEM and ERR_CORRUPT (a record of the tree): the old one stays.
 */
int kv_snapshot(struct kv_tree *t, bool (*stop)(void *ctx), void *ctx);

#endif

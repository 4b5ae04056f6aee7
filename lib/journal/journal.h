/*
 * journal.h: an endless log in the files of one directory: appended to by one
 * process, replayed when that starts, read by position, dropped by segments.
 *
 *   journal_open, journal_replay		once, before anything else
 *   journal_append ..., journal_write		each turn of the loop
 *   journal_sync, journal_prepare, journal_reclaim	on helper threads
 *   journal_read, journal_drop		when wanted
 *
 * A position counts the bytes of the log since its beginning, headers and
 * padding included; it is a multiple of 8, rises for ever and names a record
 * for good. Segments lie in `seg-<position of the first byte, 16 hex
 * digits>.log`; one dropped out of the middle leaves an empty file `gap-<first
 * byte>-<end>`; `quarantine-<position>` are bytes that could not be read as
 * records, copied; `next.log` is the segment to come, still without a place.
 *
 * What lasts: after journal_write the bytes outlive a kill of the process,
 * after journal_sync the machine's. A record is delivered by replay or
 * journal_read if header and body agree with their checksums, in which its
 * position and the log's salt take part: neither old bytes of a reused block
 * nor a client's payload that looks like a record can be taken for one.
 *
 * All functions belong to one thread, except journal_sync and journal_prepare,
 * which may run on another one (one of each at a time).
 */
#ifndef JOURNAL_JOURNAL_H
#define JOURNAL_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#define JOURNAL_RECORD_MAX	(257u << 20)	/* bytes of one body */
#define JOURNAL_SEGMENT_MIN	(64u << 10)
#define JOURNAL_SEGMENT_MAX	(1u << 30)
#define JOURNAL_TYPE_MAX	UINT16_MAX
#define JOURNAL_QUARANTINES	64	/* files kept; beyond: no copy */

struct journal;

struct journal_opts {
	uint64_t segment_bytes;	/* 0: 64 MiB. A larger record has a segment of
				 * its own */
	uint64_t cache_bytes;	/* 0: 8 MiB of recent log kept for reads */
	uint64_t pending_bytes;	/* 0: 64 MiB may wait for journal_write; one
				 * record always may */
	uint64_t salt;		/* of a new log: random; an old one has its */
};

enum journal_damage_kind {
	JOURNAL_TAIL,		/* cut off: nothing valid follows it */
	JOURNAL_BAD,		/* left in place and skipped: valid records
				 * follow, or a segment */
	JOURNAL_MISSING,	/* no file has these positions */
	JOURNAL_HEADER,		/* a segment's header, mended: nothing lost */
};

struct journal_damage {
	enum journal_damage_kind kind;
	uint64_t	 pos, bytes;
	char		 quarantine[48];	/* file in the directory with
						 * a copy, or "" */
};

struct journal_segment {
	uint64_t	 first, bytes;
};

/* One record; data is valid during the call. Not 0 ends the replay. */
typedef int journal_each(void *ctx, uint64_t pos, unsigned type,
    const void *data, size_t len);
typedef void journal_damaged(void *ctx, const struct journal_damage *d);

/* A short English name: "tail", "bad", "missing", "header". */
const char *journal_damage_str(enum journal_damage_kind kind);

/*
 * Find the segments in dir, which is made (0700) if it is missing, its parent
 * not. ERR_EXISTS if another process has it open, ERR_INVAL for a setting out
 * of range, ERR_IO, ERR_NOMEM. Nothing but journal_replay, journal_begin and
 * journal_close may follow.
 */
int journal_open(struct journal **out, const char *dir,
    const struct journal_opts *o);

/* Close *j and set it to NULL; NULL is fine. What was appended and not written
 * is gone, so is a prepared segment. No other thread may be in it. */
void journal_close(struct journal **j);

/*
 * Deliver every record at or above from (a position journal_end once gave, or
 * 0 for a new log) in order, report damage (at its place in that order, files
 * at the end that are nothing but noise first), cut off a torn tail, and make
 * the log ready for appending. Call it once. each and damaged may be NULL.
 *
 * Everything below from is taken to be in some checkpoint and durable; damage
 * there is reported if it is in the last segment, otherwise not looked for. If
 * the log ends below it (a power cut before it was synced) that is reported as
 * missing, and the log goes on at from, so that no position below a checkpoint
 * is used again. Segments that journal_drop_segment took out are no damage.
 *
 * ERR_IO if a file cannot be read (a bad sector, too: only a human can say
 * what to do), ERR_NOMEM, ERR_INVAL, or what each returned: then only
 * journal_close may follow.
 */
int journal_replay(struct journal *j, uint64_t from, journal_each *each,
    journal_damaged *damaged, void *ctx);

/*
 * Append a record, its body being all parts behind each other; *pos (may be
 * NULL) is its position. No system call: it waits in memory, from where
 * journal_read finds it at once. ERR_INVAL for a type or body that is too
 * large or before journal_replay; ERR_FULL if pending_bytes wait already
 * (journal_write first); ERR_NOMEM. Nothing is appended then.
 */
int journal_append(struct journal *j, unsigned type, const struct slice *parts,
    size_t nparts, uint64_t *pos);

/*
 * Write all that was appended; one pwritev(2) unless a segment ends. Now it
 * outlives a kill -9. ERR_FULL if disk or quota has no room (with
 * preallocation: for one more segment), ERR_IO (errno), ERR_NOMEM: nothing is
 * lost then, all of it still waits, to be written by the next call or taken
 * back by journal_undo.
 */
int journal_write(struct journal *j);

/*
 * Take back all that was appended since the last journal_write that returned
 * 0; the positions will be used again. ERR_IO or ERR_NOMEM if what a failed
 * journal_write left in the files cannot be cut off: then it all still waits,
 * as before.
 * CAVEAT: what is taken back may come back after a power cut, until the next
 * journal_sync.
 */
int journal_undo(struct journal *j);

/*
 * On any thread: see that all that was written before the call is on the disk,
 * names of segments included; *pos (may be NULL) is the position up to which
 * it is. Costs nothing if it was already. Never waits for the loop, nor the
 * loop for it.
 *
 * ERR_IO is final, every later call returns it with the same errno: after a
 * failed fdatasync the kernel may have dropped the pages and called them clean,
 * so durability cannot be promised any more by anybody who did not reread the
 * files. Stop acknowledging and start anew.
 *
 * Call it now and then even if nobody waits for it: until then each segment
 * costs memory, and the last few an open file.
 */
int journal_sync(struct journal *j, uint64_t *pos);

/*
 * On any thread: have the next segment ready (a preallocated file), so that
 * journal_write need not make it. Returns 0 at once if there is one; ERR_FULL,
 * ERR_IO. Failing does no harm.
 */
int journal_prepare(struct journal *j);

/*
 * The record at pos, from memory or the disk. type may be NULL; body is valid
 * until the next call with this journal. ERR_NOTFOUND if pos is beyond the end
 * or was dropped, ERR_CORRUPT if there is no record with valid checksums,
 * ERR_IO, ERR_NOMEM, ERR_INVAL before the replay is done.
 */
int journal_read(struct journal *j, uint64_t pos, unsigned *type,
    struct slice *body);

/*
 * Remove segments that end at or below pos, from the oldest on, never the last
 * one. Returns how many (those dropped from the middle before do not count),
 * or ERR_IO if not even the first could be removed. After a power cut some may
 * be there again. A segment of 64 MiB costs the kernel some milliseconds: a
 * loop that minds lets one go at a time.
 */
int journal_drop(struct journal *j, uint64_t pos);

/*
 * Remove the segment whose first byte is first, though older ones stay; replay
 * knows and says nothing about it. ERR_NOTFOUND; ERR_INVAL for the last one or
 * one not written yet; ERR_IO. It is gone, also after a kill -9; what it takes
 * on the disk journal_reclaim gives back.
 */
int journal_drop_segment(struct journal *j, uint64_t first);

/*
 * On any thread, one at a time: give back the bytes of what journal_drop_segment
 * took out, when that is on the disk: a segment of 64 MiB may cost tens of
 * milliseconds. ERR_IO: what is left is tried by the next call, by journal_close
 * or after the next start.
 */
int journal_reclaim(struct journal *j);
/* Is there anything left for it? */
bool journal_has_dropped(struct journal *j);

/* Segments in order: the first one that begins at or above pos; the one with
 * the byte at pos. False if there is none. */
bool journal_segment_from(const struct journal *j, uint64_t pos,
    struct journal_segment *out);
bool journal_segment_at(const struct journal *j, uint64_t pos,
    struct journal_segment *out);

/* The first byte there is; the end of all that was appended (no later record
 * will lie below it); the end of what was written. */
uint64_t journal_begin(const struct journal *j);
uint64_t journal_end(const struct journal *j);
uint64_t journal_written(const struct journal *j);

/* Bytes of log in all segments, those that wait included. On the disk, up to
 * two segments of preallocation more. */
uint64_t journal_bytes(const struct journal *j);

#endif

/*
 * internal.h: what the files of this room share.
 *
 * On disk. A segment is a header and records up to its end; behind the end of
 * the last one, zeros. All numbers are little-endian.
 *
 *   header   64 bytes: twice {"mqttcJ1\n", first position u64, salt u64, sum
 *            u64 of the 24 bytes before}. Twice, because without the salt no
 *            record can be told from noise; any other segment's will do too.
 *   record   {magic u16, type u16, len u32, body sum u64, head sum u64}, len
 *            bytes of body, zeros up to a multiple of 8. The body's sum covers
 *            the zeros and is seeded with salt and position; the head's covers
 *            the body's, the position and all before it.
 *
 * If a head is valid, so is its len: a damaged body costs one record, and what
 * lies in it is never looked at as records. If it is not, the next record is
 * the next multiple of 8 with a valid head.
 *
 * In memory. Bytes appended go into chunks, in order; a record never spans two.
 * What is written stays there for reads until cache_bytes push it out. Files
 * are made by journal_write, not by journal_append.
 *
 *   begin .. segs[] .. <= written <= put <= end
 *
 * written is the end after the last journal_write that succeeded, put how far
 * bytes have got into files: more only after a journal_write that failed.
 */
#ifndef JOURNAL_INTERNAL_H
#define JOURNAL_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "journal/journal.h"

#define HEADER_BYTES	64u		/* of a segment */
#define HEADER_COPY	32u
#define RECORD_HEAD	24u
#define RECORD_ALIGN	8u
#define CHUNK_BYTES	(256u << 10)
#define WINDOW_BYTES	(256u << 10)	/* of a replay */
#define BUF_KEPT	(1u << 20)	/* of what a large record needed */
#define SEALED_FDS	16		/* held open for journal_sync */
#define POS_MAX		(UINT64_MAX / 4)
#define NAME_BYTES	48
#define NEXT_NAME	"next.log"

struct segment {
	uint64_t	 first, end;	/* the last one grows */
	uint64_t	 salt;
	bool		 gap;		/* dropped: a name without bytes */
	bool		 on_disk;
	bool		 head_lost;	/* no copy of the header is valid */
	bool		 head_hurt;	/* one is not */
};

/* A file whose bytes may not be durable yet; all fields under journal.lock. */
struct file {
	struct file	*next;
	uint64_t	 first;
	int		 fd;		/* -1: to be opened by its name */
	bool		 sealed;	/* nothing more is written to it */
	bool		 busy;		/* journal_sync is at it */
	bool		 doomed;	/* journal_undo removed it */
};

/* A gap whose file has bytes, or is to go. */
struct dropped {
	struct dropped	*next;
	uint64_t	 first, end;
	bool		 whole;		/* nothing is older: its name goes too */
};

struct chunk {
	uint64_t	 first;
	size_t		 len, cap;
	uint8_t		 data[];
};

struct journal {
	struct journal_opts o;
	int		 dirfd;
	bool		 ready;		/* replayed */
	bool		 open_end;	/* the last segment takes records */
	uint64_t	 salt;
	bool		 salted;	/* salt is that of the log there is */

	struct segment	*segs;
	size_t		 nsegs, segs_cap;
	uint64_t	 end, put;
	atomic_uint_least64_t written, durable;

	struct chunk	**chunks, *spare;
	size_t		 nchunks, chunks_cap;
	uint64_t	 chunk_bytes;	/* sum of len */

	pthread_mutex_t	 lock;		/* short: never across a system call
					 * that waits for the disk */
	struct file	*files;		/* oldest first */
	struct file	*cur;		/* written to; in files; loop only */
	bool		 dir_dirty;
	int		 next_fd;	/* of NEXT_NAME, or -1 */
	struct dropped	*dropped, **dropped_last;	/* oldest first */
	atomic_int	 sync_errno;	/* not 0: final */

	int		 read_fd;	/* of the segment at read_first */
	uint64_t	 read_first;
	uint8_t		*buf;		/* read and replay */
	size_t		 buf_cap;
	unsigned	 quarantines;
};

/* --- format.c ------------------------------------------------------------ */

struct head {
	unsigned	 type;
	uint32_t	 len;
	uint64_t	 body_sum;
};

/* What a body of len bytes takes, head and padding included. */
static inline uint64_t
record_bytes(uint64_t len)
{
	return RECORD_HEAD + (len + RECORD_ALIGN - 1) / RECORD_ALIGN *
	    RECORD_ALIGN;
}

/* Complete a record at p, whose body and padding are there. */
void record_seal(uint8_t *p, uint64_t pos, uint64_t salt, unsigned type,
    uint32_t len);
bool record_head(const uint8_t *p, uint64_t pos, uint64_t salt,
    struct head *out);
/* body: with its padding. */
bool record_body_valid(const uint8_t *body, const struct head *h, uint64_t pos,
    uint64_t salt);
void segment_head(uint8_t p[HEADER_BYTES], uint64_t first, uint64_t salt);
/* One of the copies. */
bool segment_head_valid(const uint8_t p[HEADER_COPY], uint64_t first,
    uint64_t *salt);
void segment_name(char name[NAME_BYTES], uint64_t first);
void gap_name(char name[NAME_BYTES], uint64_t first, uint64_t end);
void quarantine_name(char name[NAME_BYTES], uint64_t pos);

/* --- file.c -------------------------------------------------------------- */

int file_open(struct journal *j, const char *name, int flags);
/* Up to len bytes at off; *n < len only at the end of the file. */
int file_read(int fd, uint8_t *buf, size_t len, uint64_t off, size_t *n);
/* All of it at off: 0, ERR_FULL or ERR_IO. */
int file_write(int fd, const uint8_t *buf, size_t len, uint64_t off);
int file_truncate(int fd, uint64_t len);
int file_rename(struct journal *j, const char *from, const char *to);
/* Not there is as good. */
int file_unlink(struct journal *j, const char *name);
int file_sync_dir(struct journal *j);
/* See that the file has room for bytes; 0 also if the file system cannot. */
int file_allocate(int fd, uint64_t bytes);
/* ERR_FULL or ERR_IO, by errno. */
int file_error(void);

/* --- journal.c ----------------------------------------------------------- */

/* Add a file to those journal_sync looks at; fd may be -1. ERR_NOMEM. */
int files_add(struct journal *j, uint64_t first, int fd, bool sealed);
/* The gap from first to end is left to journal_reclaim. ERR_NOMEM. */
int dropped_add(struct journal *j, uint64_t first, uint64_t end, bool whole);
/* buf with room for len bytes. */
int buf_need(struct journal *j, size_t len);
void buf_release(struct journal *j);
/* The index of the last segment that begins at or below pos, or nsegs. */
size_t segs_find(const struct journal *j, uint64_t pos);
void segs_remove(struct journal *j, size_t i);

/* --- write.c ------------------------------------------------------------- */

/* Nothing more goes to the current file: give back what was preallocated. */
void cur_seal(struct journal *j);

/* --- read.c -------------------------------------------------------------- */

/* The segment at first is no longer what it was. */
void read_forget(struct journal *j, uint64_t first);

#endif

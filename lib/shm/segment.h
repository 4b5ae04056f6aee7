/*
 * segment.h: shared memory without a name: a memfd, mapped once at a fixed
 * virtual length and filled with memory from its start as it is needed.
 *
 * The maker of a data segment maps it writable, seals it and hands the
 * descriptor on; nobody can map it writable, shrink it or grow it after that,
 * so a reader's mapping can neither be cut from under it nor be written by
 * anybody but the maker. Memory is taken with fallocate before it is touched:
 * a full machine is an error code, never SIGBUS. A segment goes with its last
 * descriptor and mapping; there is nothing to unlink.
 *
 * A small segment that all sides write (reader epochs) is made full size with
 * SHM_SHARED and may be mapped writable by whoever gets the descriptor.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

enum shm_mode {
	SHM_PRIVATE_WRITE,	/* one writer: no new writable maps */
	SHM_SHARED,		/* every holder of the descriptor may write */
};

struct shm_segment {
	uint8_t	*base;		/* page aligned */
	size_t	 len;		/* virtual length, fixed for life */
	size_t	 size;		/* writer: bytes that have memory */
	int	 fd;		/* owned; close-on-exec */
};

/*
 * Make a segment of len bytes (rounded up to pages) with no memory in it yet
 * (SHM_SHARED: all of it), map it writable and seal it. The name is for
 * /proc only. ERR_IO (errno) or ERR_NOMEM; *s is untouched on failure.
 */
int shm_create(struct shm_segment *s, const char *name, size_t len,
    enum shm_mode mode);

/*
 * See that the first size bytes have memory. Never shrinks. ERR_FULL if size
 * is beyond the segment's length, ERR_NOMEM if the machine has no more (the
 * segment is as before), ERR_IO otherwise.
 */
int shm_grow(struct shm_segment *s, size_t size);

/* The same with the segment as a void *, for a `grow` function pointer. */
int shm_grow_cb(void *s, size_t size);

/*
 * Map a segment somebody else made, from a descriptor, which is taken over
 * on success only. SHM_PRIVATE_WRITE maps it read-only, SHM_SHARED writable.
 * ERR_PROTO if it is no memfd, empty or lacks the seals shm_create puts on;
 * ERR_IO if the system refuses.
 */
int shm_map(struct shm_segment *s, int fd, enum shm_mode mode);

/* Unmap and close; *s is zero with fd -1. Harmless on a closed one. */
void shm_close(struct shm_segment *s);

#endif

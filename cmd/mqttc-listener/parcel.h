/*
 * parcel.h: records (proto/handover.h) and descriptors between a process and
 * its successor, over a non-blocking stream socket, waiting for the other side
 * but never beyond a deadline.
 *
 * Descriptors travel at most 64 in a message, and at most PARCEL_FLYING are
 * under way: the kernel counts those of a user that nobody has received yet,
 * and refuses more than a process may have open.
 */
#ifndef PARCEL_H
#define PARCEL_H

#include <stddef.h>
#include <stdint.h>
#include "proto/handover.h"

enum { PARCEL_FDS = 64, PARCEL_FLYING = 192 };

struct parcel {
	int		 fd;
	uint64_t	 deadline_ms;	/* monotonic */
	const char	*fault;		/* point visited at each message */

	uint8_t		*out;
	size_t		 out_len, out_cap;
	int		 fds[PARCEL_FDS];
	size_t		 nfds;
	uint32_t	 sent, seen;	/* descriptors */

	uint8_t		*in;
	size_t		 in_at, in_len, in_cap;
	int		 got[2 * PARCEL_FLYING];
	size_t		 ngot;
	uint32_t	 total;		/* descriptors received */
	char		 why[256];	/* the other side refused */
};

void parcel_init(struct parcel *p, int fd, uint64_t deadline_ms,
    const char *fault);
void parcel_fini(struct parcel *p);	/* closes what was not taken */

/*
 * Append a record whose slices have `bytes` in all; with fd not negative, the
 * descriptor goes along (and stays the caller's). It leaves with others, or by
 * parcel_flush. ERR_AGAIN at the deadline, ERR_IO (EPIPE: the other side is
 * gone), ERR_PROTO (it refused: p->why), ERR_NOMEM.
 */
int parcel_put(struct parcel *p, enum handover_kind kind, const void *row,
    size_t bytes, int fd);
int parcel_flush(struct parcel *p);

/* The next record, its slices valid until the next call. Errors as above. */
int parcel_get(struct parcel *p, unsigned *kind, union handover_row *row);

/* The next descriptor, the caller's now; -1 if there is none. */
int parcel_fd(struct parcel *p);

#endif

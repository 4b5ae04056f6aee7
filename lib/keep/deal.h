/*
 * deal.h: which listening socket belongs to whom. Pure.
 *
 * Shared sockets of one address are spread evenly over those who take them,
 * moving as few as possible; a socket of one instance is its own or nobody's,
 * until that one is gone for good: then anybody's, so that nobody waits in it.
 * When all are full the shared ones are dealt as if none were, for who connects
 * is to be told.
 */
#ifndef KEEP_DEAL_H
#define KEEP_DEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEAL_NOBODY	(-1)

struct deal_socket {
	unsigned	group;		/* one for each address, from 0 */
	bool		own;		/* of taker `instance` alone */
	size_t		instance;
	int		taker;		/* in and out; DEAL_NOBODY */
	int		was;		/* scratch: the taker before */
};

struct deal_taker {
	bool		serves;		/* may have its own sockets */
	bool		full;		/* wants no shared ones now */
	bool		gone;		/* will not come back */
	size_t		have, all;	/* scratch: of this group, of all */
};

/* Deal n sockets to nt takers; returns how many changed hands. */
size_t deal(struct deal_socket *s, size_t n, struct deal_taker *t, size_t nt);

#endif

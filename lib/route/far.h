/*
 * far.h: other nodes, as a process sees them that sends to them: each has a
 * number for as long as the process runs (the index numbers nodes anew in each
 * generation), and a stream by way of each cluster-link of our own.
 */
#ifndef ROUTE_FAR_H
#define ROUTE_FAR_H

#include <stdbool.h>
#include <stdint.h>
#include "base/util.h"
#include "bus/bus.h"
#include "proc/proc.h"
#include "route/match.h"

enum {
	FAR_LINKS_MAX	= 4,		/* cluster-links of a node */
	FARS_MAX	= FIB_NODES - 1	/* other nodes */
};

struct route_fars {
	struct bus	*bus;
	const struct route_fib *fib;
	struct {
		char	*name;		/* NULL: free */
		uint16_t node;		/* in `generation`; 0: none */
		struct bus_peer *bus[FAR_LINKS_MAX];	/* NULL: not opened */
	}		 fars[FARS_MAX];
	uint32_t	 n;		/* above it all are free */
	uint16_t	 far_of[FIB_NODES];	/* + 1, in `generation` */
	uint64_t	 generation;
	struct {
		uint64_t incarnation;
		char	 endpoint[BUS_ENDPOINT_MAX];
	}		 links[FAR_LINKS_MAX];
	uint32_t	 nlinks;
};

/* *t is all zero. */
void route_fars_init(struct route_fars *t, struct bus *bus,
    const struct route_fib *fib, uint32_t nlinks);
void route_fars_fini(struct route_fars *t);	/* closes all streams */

/* A cluster-link of ours as PEERS shows it: streams by way of it go on. */
void route_fars_link(struct route_fars *t, const struct proc_peer *pp);

/* Our number of node `node` of the present generation: FARS_MAX if there are
 * too many, or no memory. */
uint32_t route_fars_number(struct route_fars *t, unsigned node);

/* By which link what that client publishes goes, always. */
uint32_t route_fars_slot(const struct route_fars *t,
    const struct slice *client);

/* Open the stream to far by way of link slot, if it is not; ERR_*. */
int route_fars_open(struct route_fars *t, uint32_t far, uint32_t slot,
    void *user);

/* The node has that number, and gets the stream of the process before us. */
int route_fars_resume(struct route_fars *t, uint32_t far, uint32_t slot,
    const char *name, void *user);

/* It is no node of ours any more: its streams are closed, its number is free. */
void route_fars_drop(struct route_fars *t, uint32_t far);

#endif

/*
 * msgid.h: the 128-bit id every message gets where it enters. Big-endian on
 * the wire, so that ids sort by time and those of one process rise strictly:
 *
 *	64 bits  hybrid clock, ns since 1970
 *	16 bits  node hint
 *	32 bits  process part, random at each start
 *	16 bits  sequence within one clock value
 *
 * Pure: time and the random part are handed in.
 */
#ifndef PROTO_MSGID_H
#define PROTO_MSGID_H

#include <stdbool.h>
#include <stdint.h>
#include "base/util.h"

#define MSGID_LEN	16

struct msgid {
	uint64_t	hi;	/* clock */
	uint64_t	lo;	/* node, process, sequence */
};

struct msgid_gen {
	uint64_t	clock;
	uint64_t	origin;	/* node and process part, in place */
	uint32_t	next;	/* sequence of the next id; 65536: spent */
};

/* Start at now_ns; random should be fresh at each start of the process. */
void msgid_init(struct msgid_gen *g, uint16_t node_hint, uint32_t random,
    uint64_t now_ns);

/*
 * Take the clock, once a turn. A clock that did not advance (it stepped back,
 * or is coarse) raises ours by one instead. Returns the clock now in force.
 */
uint64_t msgid_turn(struct msgid_gen *g, uint64_t now_ns);

/* Never hand out an id below clock_ns again: raises above another's clock. */
void msgid_witness(struct msgid_gen *g, uint64_t clock_ns);

/* The next id: above all that came from here before. Cannot fail. */
static inline struct msgid
msgid_next(struct msgid_gen *g)
{
	struct msgid id;

	if (UNLIKELY(g->next > UINT16_MAX)) {
		g->clock++;
		g->next = 0;
	}
	id.hi = g->clock;
	id.lo = g->origin | g->next++;
	return id;
}

static inline int
msgid_cmp(struct msgid a, struct msgid b)
{
	if (a.hi != b.hi)
		return a.hi < b.hi ? -1 : 1;
	return a.lo < b.lo ? -1 : a.lo > b.lo;
}

static inline void
msgid_put(uint8_t out[MSGID_LEN], struct msgid id)
{
	put_be64(out, id.hi);
	put_be64(out + 8, id.lo);
}

static inline struct msgid
msgid_get(const uint8_t in[MSGID_LEN])
{
	return (struct msgid){ .hi = get_be64(in), .lo = get_be64(in + 8) };
}

#endif

/*
 * route.h: ROUTES messages (route.proto) written into and read out of one
 * buffer, row by row, without copies. RouteAck and FibConfirm are plain
 * nanopb messages of proto/route.pb.h.
 */
#ifndef PROTO_ROUTE_H
#define PROTO_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

struct route_row {
	struct slice	filter;		/* bare */
	struct slice	share;		/* name, or {NULL, 0} */
	uint32_t	qos;		/* 0..2 */
	uint32_t	members;	/* of the group; 0 removes it */
};

/* --- Writing: routes_begin, then rows, then routes_end. ---------------- */

struct routes_writer {
	struct wire_out	out;
	unsigned	rows;
	bool		end;
};

/* A buffer of this size holds any one row: use at least that. */
#define ROUTES_BUF_MIN	(2 * 65535 + 64)

/* Start a message in buf. */
void routes_begin(struct routes_writer *w, void *buf, size_t size,
    uint64_t router_incarnation, uint64_t seq, bool snapshot_begin);

/*
 * Append a row, to be added or deleted. ERR_FULL if it does not fit: end this
 * message, send it, begin the next. ERR_INVAL if a length or the QoS is beyond
 * its bound.
 */
int routes_add(struct routes_writer *w, const struct route_row *row);
int routes_del(struct routes_writer *w, const struct route_row *row);

/* Finish; returns the length of the message. */
size_t routes_end(struct routes_writer *w, bool snapshot_end);

/* --- Reading ----------------------------------------------------------- */

struct routes {
	uint64_t	router_incarnation;
	uint64_t	seq;
	bool		snapshot_begin, snapshot_end;
	unsigned	rows;
	struct wire_in	in;		/* where routes_next is */
};

/* Check all of body and read all but its rows. ERR_PROTO. */
int routes_decode(struct routes *r, const void *body, size_t len);

/* The next row in the order written, slices inside body; *add tells which
 * kind. Returns 1, or 0 at the end. */
int routes_next(struct routes *r, struct route_row *row, bool *add);

#endif

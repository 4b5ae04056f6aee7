/*
 * attach.h: ATTACH messages (attach.proto), written into and read out of one
 * buffer without copies.
 */
#ifndef PROTO_ATTACH_H
#define PROTO_ATTACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

struct attach_client {
	struct slice	client_id;
	uint64_t	time;		/* hybrid clock, ns */
	bool		clean_start;	/* of its CONNECT [MQTT-3.1.3-9] */
};

#define ATTACH_BUF_MIN	(65535 + 64)	/* holds any one client */

/* An empty message is simply an empty buffer: wire_out_init(w, buf, size),
 * then these, then wire_out_len(w). ERR_FULL: send this one, begin the next. */
int attach_add(struct wire_out *w, const struct attach_client *c);

/* Check all of body. ERR_PROTO. */
int attach_decode(struct wire_in *in, const void *body, size_t len);

/* The next client, its slices inside body. Returns 1, or 0 at the end. */
int attach_next(struct wire_in *in, struct attach_client *c);

#endif

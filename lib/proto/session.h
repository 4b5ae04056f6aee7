/*
 * session.h: what a listener and a session-store say to each other about the
 * sessions of clients (session.proto): entries, any number in a frame.
 *
 * The connection is named by `serial`, which its listener gives; the session by
 * `handle`, which the store gives. A listener says everything of a connection
 * under its serial, so what arrives for one that is gone names nobody.
 */
#ifndef PROTO_SESSION_H
#define PROTO_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

enum session_kind {
	/* Listener to store, KIND_SESSION. */

	/* A CONNECT wants its client id: serial, client_id, time, clean_start,
	 * version, receive_maximum, durable (to be kept: expiry_s), will and
	 * will_delay_s. With a `present`: it has it already, as far as we know
	 * (the store may have been started anew): handle, and pids that wait
	 * at the client for an acknowledgement. With `opened`: a clean
	 * start of one with nothing stored and no will, served already; it
	 * gets no answer. With `again` it is said to a store that began anew,
	 * which may have had it before, and had not answered.
	 * With serial 0 and nothing else: all were named that are here. */
	SESSION_ATTACH		= 1,
	/* The connection ended: serial, client_id, graceful (no will),
	 * has_expiry and expiry_s (3.14.2.2.2). With `refused` it was none: no
	 * CONNACK said it is accepted, so it has no will and began no
	 * session. */
	SESSION_DETACH		= 2,
	/* serial, client_id, token, share, filter, flags (3.8.3.1), sub_id.
	 * Answered by SERVE_SUBACK. */
	SESSION_SUBSCRIBE	= 3,
	SESSION_UNSUBSCRIBE	= 4,
	/* The client answered: serial, handle, pid, what (MQTT_PUBACK, PUBREC,
	 * PUBCOMP), flags 1: PUBREC with an error. */
	SESSION_ACK		= 5,
	/* PUBREL of the client's own QoS 2 message: serial, handle, pid. */
	SESSION_RELEASE		= 6,
	/* Retained messages of a filter: serial, filter, flags (3.8.3.1, as
	 * granted), sub_id, token and time (come back), what (at most so many),
	 * cursor (from the page before). Answered by SERVE_RETAINED. */
	SESSION_ASK		= 7,

	/* Which client ids may have a stored session? Answered by
	 * SERVE_ROSTER. */
	SESSION_ASK_ROSTER	= 8,

	/* Would a message be retained now? serial, token (comes back), topic,
	 * what (its bytes, but for the topic). Answered by SERVE_MAY. */
	SESSION_MAY		= 9,

	/* Store to listener, KIND_SERVE. */

	/* serial; what: 0, or the reason code of a refusal; handle, present,
	 * pids (its QoS 2 in). */
	SERVE_GRANT		= 33,
	/* A subscription of the session, before its GRANT: serial, share,
	 * filter, flags, sub_id. */
	SERVE_HELD		= 34,
	/* Close the connection: serial, what (reason code). With a client_id
	 * somebody waits for its place: if there is no such connection, DETACH
	 * says so (again: what was said may have been lost). */
	SERVE_TAKEN		= 35,
	/* serial, token, what (reason code), time (how many retained
	 * messages the store had taken live when it subscribed). Of a SUBSCRIBE
	 * also what stands now: `present` if there is a subscription, with
	 * flags and sub_id. */
	SERVE_SUBACK		= 36,
	/* serial, pid, flags (SESSION_QOS ...), deadline_ms, ids, topic, props,
	 * payload (empty with SESSION_APART: it is the third part). */
	SERVE_DELIVER		= 37,
	/* serial, pid: the PUBREC is kept, go on. */
	SERVE_PUBREL		= 38,
	/* One retained message for serial: topic, props, payload, flags,
	 * deadline_ms, sub_id, token, time, id_hi, id_lo, the filter of its ASK,
	 * and with no local its publisher's client_id. A last one without a topic
	 * ends the page of `count`, with the `what` of its ASK; with `more`
	 * there is another one to be asked for: filter, flags, sub_id, token,
	 * time, cursor. */
	SERVE_RETAINED		= 39,
	/* A part of session/roster.h: what (log2 of its bits), token (where the
	 * payload belongs, in bytes), more. */
	SERVE_ROSTER		= 40,
	/* Another one: time (its hash). Acknowledging this is knowing it. */
	SERVE_STORED		= 41,
	/* serial, token, what: 0, or a reason code. */
	SERVE_MAY		= 42,
	/* what: 1, it may be at a limit of retained messages, so ask; 0: no. */
	SERVE_FULL		= 43,
	/* The store's disk; what: 1, it is full, nothing more that has to be
	 * kept should come; 0, it has room. */
	SERVE_ROOM		= 44,
};

enum {
	SESSION_QOS	= 3,
	SESSION_RETAIN	= 4,
	SESSION_DUP	= 8,
	SESSION_APART	= 16,	/* the payload is the frame's third part */
};

struct session_msg {
	uint32_t	kind;			/* enum session_kind */
	uint32_t	pid, flags, what, expiry_s, version, receive_maximum,
			will_delay_s, sub_id, token, count;
	uint64_t	serial, handle, time, id_hi, id_lo, deadline_ms;
	struct slice	topic, props, payload, ids, client_id, will, share,
			filter, pids, cursor;
	bool		clean_start, durable, present, graceful, has_expiry,
			more, opened, refused, again;
};

#define SESSION_BUF_MIN	(256 * 1024)	/* holds any entry but a DELIVER */

/* Append e to a frame that began as wire_out_init(w, buf, size). ERR_FULL:
 * send this one, begin the next; nothing was written then. */
int session_msg_put(struct wire_out *w, const struct session_msg *e);

/*
 * The next entry, its slices inside the frame. Returns 1; 0 at the end;
 * ERR_PROTO: the rest of the frame is void. Entries of unknown kinds are
 * returned too: for the caller to skip.
 */
int session_msg_next(struct wire_in *in, struct session_msg *e);

#endif

/*
 * window.h: the packet identifiers of QoS 1 and 2 PUBLISHes one client has been
 * sent and has not yet finished acknowledging. Spec: MQTT 5.0 sections 2.2.1,
 * 3.3.4, 4.3 and 4.9.
 *
 * Identifiers go out in sequence, and one in flight is stepped over: it is
 * never used again before it is finished, however late the client answers.
 * What each waits for is a byte. Not thread safe; calls no clock.
 */
#ifndef WINDOW_WINDOW_H
#define WINDOW_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

enum window_state {
	WINDOW_DONE,			/* finished, or never used */
	WINDOW_PUBACK_DUE,		/* QoS 1 sent */
	WINDOW_PUBREC_DUE,		/* QoS 2 sent */
	WINDOW_PUBCOMP_DUE,		/* PUBREL sent */
	WINDOW_NSTATES
};

enum window_event {
	WINDOW_GOT_PUBACK,
	WINDOW_GOT_PUBREC,
	WINDOW_GOT_REJECTED,		/* PUBREC with a reason code >= 0x80 */
	WINDOW_GOT_PUBCOMP,
	WINDOW_NEVENTS
};

enum window_act {
	WINDOW_REFUSE,			/* nothing of ours waits for that */
	WINDOW_RELEASE,			/* finished: the send quota is up by one */
	WINDOW_SEND_PUBREL
};

struct window;

/* A window for at most max (1..65535) unfinished PUBLISHes: the lesser of the
 * client's Receive Maximum and our own limit. NULL if out of memory. */
struct window *window_new(uint16_t max);

/* Free *w and set it to NULL. NULL is fine. */
void window_free(struct window **w);

/*
 * Take the next identifier for a PUBLISH of this qos (1 or 2). 0 and *id, or
 * ERR_FULL when the send quota is spent [MQTT-4.9.0-2]; ERR_NOMEM. Nothing
 * changes then.
 */
int window_send(struct window *w, int qos, uint16_t *id);

/*
 * The same for somebody else who gives the identifiers, rising (and beginning
 * again at 1 after 65535) with or without gaps: id waits for `state` now. 0,
 * ERR_EXISTS if it is in flight already, ERR_INVAL for 0, ERR_NOMEM. There is
 * no quota; not to be mixed with window_send.
 */
int window_put(struct window *w, enum window_state state, uint16_t id);

/* Whether window_send would return ERR_FULL. */
bool window_is_full(const struct window *w);

/* The client answered. */
enum window_act window_step(struct window *w, uint16_t id,
    enum window_event event);

/* What identifier id waits for. */
enum window_state window_state(const struct window *w, uint16_t id);

/* PUBLISHes sent and unfinished. */
uint32_t window_inflight(const struct window *w);

/* --- From one process to another --------------------------------------- */

struct window_cell {
	uint16_t	id;
	uint8_t		state;		/* enum window_state, not DONE */
};

/* Write all that is in flight to out, which has room for window_inflight(w),
 * the oldest first; *next is the identifier that is tried next, *max the send
 * quota. Returns how many there are. */
uint32_t window_export(const struct window *w, struct window_cell *out,
    uint16_t *next, uint16_t *max);

/*
 * The window that window_export told of, n cells in any order. ERR_PROTO for
 * what none can have told (an identifier twice or 0, a state that is none),
 * ERR_NOMEM.
 */
int window_import(struct window **out, const struct window_cell *in,
    uint32_t n, uint16_t next, uint16_t max);

#endif

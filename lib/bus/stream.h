/*
 * stream.h: the books of one stream between two processes: numbers, windows,
 * credit, what to send again. Pure: no socket, no clock; bus.c carries out
 * what these decide. The wire is told in proto/README.
 *
 * The sender keeps every frame until it is acknowledged. Bytes are counted
 * from the beginning of the stream, for frames of records only (body and third
 * part): `appended` here, `sent`, and `granted` by the receiver. A frame may
 * leave while sent < granted, so credit goes negative by one frame at most and
 * a record of any size can start.
 */
#ifndef BUS_STREAM_H
#define BUS_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/blob.h"
#include "base/util.h"
#include "proto/record.h"

/* Frames up to this size are copied out of the 64 KiB they were made in. */
#define STREAM_COPY_MAX		(16 * 1024)

/* --- Buffers of 64 KiB, shared by all streams of a bus ----------------- */

#define STREAM_POOL_MAX		32

struct stream_pool {
	struct blob	*spare[STREAM_POOL_MAX];
	size_t		 n;
};

void stream_pool_fini(struct stream_pool *pool);

/* --- Sending ----------------------------------------------------------- */

/*
 * Whose records a frame has, where that is not the process that sends it: one
 * of another node, in one of its streams. Counted; the frames of a stream that
 * has any name it, and ids rise by it.
 */
struct stream_origin {
	uint32_t	 refs;
	uint32_t	 slot;
	uint64_t	 incarnation;
	char		 name[];	/* "listener.0@NODE" */
};

/* NULL: no memory. */
struct stream_origin *stream_origin_new(const char *process, const char *node,
    uint64_t incarnation, uint32_t slot);
struct stream_origin *stream_origin_ref(struct stream_origin *o);
void stream_origin_unref(struct stream_origin **o);

/* What a frame waits for before it is forgotten. */
enum { STREAM_ASK_GOT = 1, STREAM_ASK_STORED = 2 };

/* A sealed frame. The body begins at body->data; it may be shorter than that
 * blob. */
struct stream_frame {
	struct stream_frame *next;
	uint64_t	 seq;
	uint64_t	 upto;		/* bytes appended, this one included */
	unsigned	 kind;
	unsigned	 asks;
	uint32_t	 count;		/* records */
	uint32_t	 len;		/* of the body */
	struct blob	*body;
	struct blob	*payload;	/* third part, or NULL */
	const uint8_t	*payload_at;	/* within payload */
	uint32_t	 payload_len;
	struct stream_origin *origin;	/* NULL: ours */
};

struct stream_out {
	struct stream_pool *pool;
	struct stream_frame *head, *tail;	/* not acknowledged, in order */
	struct stream_frame *next;	/* of those, the first to be sent */
	uint64_t	 seq;		/* last given to a frame */
	uint64_t	 sent_seq;	/* last that ever left */
	uint64_t	 got, stored;	/* acknowledged */
	uint64_t	 had_got, had_stored;	/* ... before a rewind */
	uint64_t	 got_bytes;	/* `upto` of frame got */
	uint64_t	 appended, sent, granted;
	uint64_t	 base;		/* what the receiver counts from */
	size_t		 kept, kept_max;	/* bytes not acknowledged */
	struct msgid	 last_id;
	bool		 was_blocked;	/* somebody was told */
	bool		 was_full;	/* came close to kept_max, not half empty
					 * since */

	/* The frame being filled: number seq if open_count > 0. */
	struct blob	*open;
	uint32_t	 open_len, open_count;
	unsigned	 open_asks;
	struct stream_origin *open_origin;
	unsigned	 asks;		/* what every frame waits for */
	bool		 by_record;	/* and for `stored` one with a durable
					 * record */
};

/* Start at seq 0 with credit bytes presumed until the receiver says. */
void stream_out_init(struct stream_out *s, struct stream_pool *pool,
    size_t kept_max, uint32_t credit);
void stream_out_fini(struct stream_out *s);

/* See bus_record and bus_stream_send, which these are. Of an origin ids rise as
 * they come. */
int stream_append(struct stream_out *s, struct stream_origin *origin,
    const struct record *r, struct blob *payload, uint64_t *seq);
int stream_append_frame(struct stream_out *s, unsigned kind, const void *body,
    size_t len, struct blob *payload, const struct slice *at, uint64_t *seq);

static inline bool
stream_blocked(const struct stream_out *s)
{
	return s->appended >= s->granted || s->was_full;
}

/* 0, or ERR_FULL: would stream_append take size bytes of that QoS? */
int stream_room(const struct stream_out *s, size_t size, unsigned qos);

/* Is anything not acknowledged? */
static inline bool
stream_is_idle(const struct stream_out *s)
{
	return s->head == NULL && s->open_count == 0;
}

/*
 * The frame to send now, the open one sealed if it is its turn. Returns 1 and
 * *f, 0 if there is none or no credit, ERR_NOMEM. It stays next until
 * stream_sent.
 */
int stream_next(struct stream_out *s, struct stream_frame **f);
void stream_sent(struct stream_out *s);

enum { STREAM_GOT_MORE = 1, STREAM_UNBLOCKED = 2, STREAM_STORED_MORE = 4 };

/*
 * The receiver acknowledged. Returns bits of the above, or ERR_PROTO (nothing
 * changed) if it names what never left or takes back what it said.
 */
int stream_ack(struct stream_out *s, uint64_t got, uint64_t stored,
    uint64_t credit);

/*
 * The receiver welcomed us: it has taken frames up to seq, of `taken` bytes by
 * its own count, acknowledges those up to got, and granted credit by that count.
 * Goes on after seq; *resend says how many frames leave a second time. Returns
 * as stream_ack.
 */
int stream_resume(struct stream_out *s, uint64_t seq, uint64_t got,
    uint64_t stored, uint64_t credit, uint64_t taken, uint64_t *resend);

/* The last frame before all that is kept. */
uint64_t stream_base(const struct stream_out *s);

/* The receiver begins anew, with what it has on disk: all frames that are kept
 * go to it again, also those it had got. Relayed: it had only spoken for others,
 * and what these have they have still, so nobody is to wait for it again. */
void stream_rewind(struct stream_out *s, bool relayed);

/* Acknowledged up to there. */
static inline uint64_t
stream_got(const struct stream_out *s)
{
	return MAX(s->got, s->had_got);
}

static inline uint64_t
stream_stored(const struct stream_out *s)
{
	return MAX(s->stored, s->had_stored);
}

/* Frames that wait for `got` alone are emptied, not to be sent any more: their
 * numbers stay, their bytes were never appended. Only while nobody is there: the
 * next welcome sets the books right. */
void stream_forget_live(struct stream_out *s);

/* What is not acknowledged counts as taken; the next receiver starts after. */
void stream_take_all(struct stream_out *s, uint32_t credit);

/* Walk the records that are not acknowledged (bus_peer_unacked). */
void stream_each(const struct stream_out *s,
    bool (*each)(void *ctx, uint64_t seq, const struct record *r), void *ctx);

/*
 * A stream told by another process, whose numbers s has already (but for kept):
 * its frames one after the other, then the open one if there is one, then the
 * end. ERR_PROTO if they do not belong together, ERR_NOMEM.
 */
int stream_restore_frame(struct stream_out *s, const struct stream_frame *like,
    struct slice body, struct slice payload);
int stream_restore_open(struct stream_out *s, uint32_t count, unsigned asks,
    struct slice body);
int stream_restore_end(struct stream_out *s);

/* --- Receiving --------------------------------------------------------- */

struct stream_in {
	bool		 open;		/* its hello came */
	uint64_t	 id;		/* the hello's stream */
	bool		 missing;	/* told a gap, none in order since */
	bool		 urgent;	/* a client waits for the ack */
	uint32_t	 window;	/* bytes granted ahead */
	uint32_t	 frames;	/* taken since the last ack */
	uint64_t	 seq;		/* last taken */
	uint64_t	 marked;	/* ... when it was last noted for disk */
	uint64_t	 stored;	/* on disk, as told */
	uint64_t	 taken;		/* bytes taken */
	uint64_t	 told;		/* `taken` as last acknowledged */
	struct msgid	 last_id;

	/* Where others have to acknowledge first what we took. */
	bool		 defers;
	uint32_t	 slot;		/* which of its source's */
	uint64_t	 got;		/* all of these did, */
	uint64_t	 got_bytes;	/* taken up to there */
	uint64_t	 granted;	/* was granted once */
	uint64_t	 done_got, done_bytes, done_stored;	/* as was said */
	void		*user;		/* who keeps the books of that */
};

/* A hello came: go on with stream id, or begin it after frame base. last_id may
 * be set before the first one: ids up to it came from an earlier incarnation. */
void stream_in_open(struct stream_in *s, uint64_t id, uint64_t base,
    uint32_t window);

enum stream_verdict {
	STREAM_IN_ORDER,
	STREAM_DUPLICATE,	/* drop it, acknowledge again */
	STREAM_GAP,		/* drop it, and tell what we have */
	STREAM_GAP_TOLD,	/* drop it */
};
enum stream_verdict stream_in_check(struct stream_in *s, uint64_t seq);

/* Is a record of this id new, where *last is the last? If so it is that now. */
static inline bool
stream_id_is_new(struct msgid *last, struct msgid id)
{
	if (msgid_cmp(id, *last) <= 0)
		return false;
	*last = id;
	return true;
}

/* Frame s->seq + 1 is consumed. Urgent: its sender's clients wait for it. */
void stream_in_taken(struct stream_in *s, size_t bytes, bool urgent);

/* What is taken now will be on disk when stream_in_stored is called, which
 * tells whether that is news for the sender. */
static inline void
stream_in_mark(struct stream_in *s)
{
	s->marked = s->seq;
}

bool stream_in_stored(struct stream_in *s);

/* With `defers`: so far all is done, which may be said while the last frame is
 * being taken. Never less than before, nor more than was taken then. */
void stream_in_done(struct stream_in *s, uint64_t got, uint64_t got_bytes,
    uint64_t stored);

/* What is acknowledged as got. */
static inline uint64_t
stream_in_got(const struct stream_in *s)
{
	return s->defers ? s->got : s->seq;
}

/* Should an acknowledgement go out at the end of this turn? What is not urgent
 * may wait for more, or for a timer. */
bool stream_in_ack_due(const struct stream_in *s);

static inline uint64_t
stream_in_credit(const struct stream_in *s)
{
	return s->defers ? MAX(s->got_bytes + s->window, s->granted) :
	    s->taken + s->window;
}

/* It went out. */
void stream_in_acked(struct stream_in *s);

#endif

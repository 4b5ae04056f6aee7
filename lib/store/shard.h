/*
 * shard.h: what one shard of the session store knows: the sessions that outlive
 * their connection, what waits for each, what is in flight both ways, wills.
 * Spec: MQTT 5.0 sections 3.1.2.4, 3.1.2.11.2, 4.1, 4.3, 4.4, 4.8.2, 4.9.
 *
 * Every change is an *operation* (op.h), a run of bytes: the caller appends it
 * to its log, which gives it a position, and applies it here. Replaying the
 * same operations gives the same state, whatever the configuration says
 * meanwhile: nothing is decided in shard_apply. What is to be decided (who
 * gets a message, what a full queue drops, who has expired) is asked here
 * first and becomes an operation.
 *
 * Each session remembers the position of the last operation it took part in,
 * also in its record, and takes part in none at or below it. So a checkpoint
 * may be fuzzy: records may be of any moment after the position replay starts
 * from. Positions must rise: after a log lost its end while a checkpoint kept
 * what that had said, the next position is above shard_applied().
 *
 * A message in queues is a *body*: the position of the operation that brought
 * it, counted by the sessions that still want it. Its bytes stay in the log.
 *
 * Each session numbers what it is to get (QoS 1 and 2) by *offset*, from 0
 * without gaps. The packet identifier is 1 + offset mod 65535: the span
 * between the first unfinished and the last sent is bounded below that.
 * What is finished or dropped takes no memory for long, wherever it lies.
 *
 * Pure: calls no clock, file or random source. Not thread safe.
 */
#ifndef STORE_SHARD_H
#define STORE_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "base/wheel.h"
#include "proto/msgid.h"
#include "session/inbound.h"
#include "store/op.h"
#include "topic/index.h"

#define SHARD_NEVER		UINT32_MAX	/* expiry_s: it does not end */
#define SHARD_WINDOW_MAX	65534		/* span of offsets in flight */
#define SHARD_MARKS_MAX		65536		/* sources times slots */

struct shard;

struct body {
	uint64_t	 pos;		/* of its STORE_PUBLISH, _MOVE */
	uint64_t	 deadline_ms;	/* since 1970; 0: never expires */
	uint32_t	 size;		/* bytes of the operation */
	uint32_t	 bytes;		/* ... of the record in it */
	uint32_t	 refs;		/* entries that want it */
	struct body	*next, **link;	/* the shard's */
};

enum entry_state {
	ENTRY_WAITS,			/* PUBLISH not finished (sent: below
					 * session.sent) */
	ENTRY_RECEIVED,			/* PUBREC logged, PUBCOMP due: only
					 * PUBREL is sent again, body NULL */
	ENTRY_DONE			/* finished or dropped; body NULL */
};

struct entry {
	uint64_t	 offset;
	struct body	*body;
	uint32_t	*ids;		/* subscription identifiers, or NULL */
	uint64_t	 group;		/* it came for the shared subscription
					 * whose group_id.lo this is; 0: none */
	uint16_t	 nids;
	uint8_t		 qos;		/* 1, 2 */
	uint8_t		 state;		/* enum entry_state */
	bool		 retain;
};

struct queue;

/* What a session has only while it is connected, or has a will, or has QoS 2
 * inbound that is not released. */
struct session_here {
	struct inbound	 inbound;	/* QoS 2 in, between PUBLISH, PUBREL */
	struct slice	 will;		/* as STORE_OPEN brought it; ours */
	uint64_t	 incarnation;	/* connected: where, which one of it */
	uint64_t	 serial;	/* ... and by which connection there */
	uint64_t	 known_sent;	/* sent_unsure: what `sent` is at least */
	uint32_t	 listener;	/* connected: where (instance) */
	uint32_t	 will_delay_s;
};

/* One session. Read what you like; only operations change it, but for `user`,
 * `timer`, `sent_unsure` and `sent`, which is raised as entries are handed out (not
 * above next, nor beyond SHARD_WINDOW_MAX from base). */
struct session {
	uint64_t	 handle;	/* unique in the shard for ever */
	uint64_t	 applied;	/* position of its last operation */
	uint64_t	 at_ms;		/* wall clock: connected or closed */
	struct session_here *here;	/* or NULL: see session_here() */
	struct index_owner subs;

	/* Out: entries base .. next - 1, see session_entry(). */
	struct queue	*queue;		/* NULL if all are finished */
	uint64_t	 base;		/* first unfinished offset */
	uint64_t	 next;		/* the next to be given */
	uint64_t	 sent;		/* below: was handed to a listener */
	uint64_t	 queued_bytes;	/* `bytes` of their bodies */

	void		*user;		/* the caller's, as the next */
	struct wheel_node timer;
	struct session	*dirty_next;	/* the shard's */
	uint32_t	 queued;	/* entries not DONE */
	uint32_t	 expiry_s;	/* SHARD_NEVER */
	uint16_t	 client_id_len;
	uint8_t		 version;	/* 3, 4, 5 of its last connection */
	bool		 durable : 1;	/* false: known for its will alone */
	bool		 connected : 1;
	bool		 fresh : 1;	/* it began with that connection */
	bool		 sent_unsure : 1; /* connected when the log ended: what
					 * is below `sent` may not be sent */
	bool		 dirty : 1;	/* changed since shard_take_dirty() */
	bool		 ended : 1;	/* the shard's */
	char		 client_id[];	/* NUL-terminated */
};

/* Of one that has none of it all is 0. */
static inline const struct session_here *
session_here(const struct session *s)
{
	static const struct session_here none;

	return s->here != NULL ? s->here : &none;
}

static inline uint16_t
session_pid(uint64_t offset)
{
	return (uint16_t)(1 + offset % 65535);
}

/* The entry of an offset; one that is DONE if there is none (any more). Never
 * NULL; good until the next operation. */
struct entry *session_entry(const struct session *s, uint64_t offset);

/* The first offset at or above `from` whose entry is not DONE; s->next if there
 * is none. */
uint64_t session_next(const struct session *s, uint64_t from);

/* The offset a client means by a packet identifier: one between base and sent,
 * or UINT64_MAX. */
uint64_t session_offset(const struct session *s, uint16_t pid);

/* When it ends if nobody comes back: ms since 1970; UINT64_MAX never. */
uint64_t session_ends_ms(const struct session *s);
/* When its will is due: ms since 1970; UINT64_MAX: it has none, or it is
 * connected. Never after the session's end [MQTT-3.1.2-8]. */
uint64_t session_will_ms(const struct session *s);

/* seed keys hashes. NULL if out of memory. */
struct shard *shard_new(uint64_t seed);
/* No hooks are called; filters and sessions are gone afterwards. */
void shard_free(struct shard **sh);

/*
 * Apply one operation, that is or will be at pos of the log. Call before
 * appending with the position it will get. Returns
 *   0		also if nothing was to do: every session it names has taken part
 *		in it or a later one, an entry was finished already, a kind is
 *		not this room's
 *   ERR_PROTO	bytes that are no operation, or one that cannot be (of a damaged
 *		log): nothing changed
 *   ERR_NOTFOUND  a session that is not there (ordinary in a replay: it ended
 *		before the checkpoint did): nothing changed. Unknown targets of
 *		a PUBLISH are counted and no error
 *   ERR_NOMEM, ERR_FULL (SHARD_MARKS_MAX; a bound of topic/index.h): live,
 *		nothing changed, do not log it
 *
 * What each does beyond the obvious:
 *   OPEN	the session of that client id and handle goes on, connected
 *		here, if it is not `fresh`; else an old one of that client id
 *		ends and a new one begins. Its will is replaced, `sent` stays: below it
 *		is to be sent again (4.4). Once durable it stays durable.
 *   CLOSE	`sent` is what the operation says.
 *   PUBLISH	each target's entry gets that session's next offset; a session
 *		may be named again for each of its groups. With a
 *		source, raises its mark, also without targets.
 *   ACK	PUBREC: RECEIVED; else DONE. Any but QoS 2 ignores PUBREC.
 *   ONWARD	what it says of its session, and the mark, all at once.
 *   MOVE	targets are those who have the body: their records change.
 */
int shard_apply(struct shard *sh, uint64_t pos, const void *op, size_t len);

/* The same for an operation that is not in one piece: o as op_get() gives it,
 * len bytes in all. Its record is not looked at, only its length. */
int shard_apply_op(struct shard *sh, uint64_t pos, const struct op *o,
    size_t len);

/* After the log was replayed: who was connected has sent_unsure, and `sent`
 * raised to as much as may have been handed out. */
void shard_replayed(struct shard *sh);

/* Of one with sent_unsure it is known now: `sent` is end, or what the log knows
 * to be sent if that is more. */
void session_set_sent(struct session *s, uint64_t end);

/* The highest position that was applied, or that a loaded record knows of. */
uint64_t shard_applied(const struct shard *sh);

struct session *shard_find(const struct shard *sh, const void *client_id,
    size_t len);
struct session *shard_session(const struct shard *sh, uint64_t handle);
/* For STORE_OPEN: above every handle ever seen, also by the record of marks. */
uint64_t shard_next_handle(const struct shard *sh);
/* Without limits, so that a replay needs none of today's. After it the caller
 * may set some (index_set_limits): a live SUBSCRIBE beyond them is ERR_FULL. */
struct index *shard_index(struct shard *sh);
size_t shard_nsessions(const struct shard *sh);
/* Walk all; each returns nonzero to stop. Do not end any meanwhile. */
void shard_each(struct shard *sh, int (*each)(void *ctx, struct session *s),
    void *ctx);

/*
 * The same in steps, between which anything may change: each session has a
 * place of its own for good, in no order that means anything. shard_at gives
 * the one with the lowest place at or above *place and sets *place to its
 * place; the next is looked for from *place + 1 (0: there is none). NULL with
 * *place 0: no more. NULL with another *place: the *steps given are used up
 * (cells looked at; they are counted down), go on from there.
 */
uint64_t shard_place(const struct session *s);
struct session *shard_at(const struct shard *sh, uint64_t *place,
    size_t *steps);

struct shard_counts {
	uint64_t	sessions;
	uint64_t	queued;		/* entries not DONE, of all sessions */
	uint64_t	bodies;
	uint64_t	body_bytes;	/* sizes of their operations */
	uint64_t	marks;
	uint64_t	unknown;	/* targets that were not there, ever */
};
struct shard_counts shard_counts(const struct shard *sh);

/* --- Who gets a message --- */

struct store_target {			/* one of a STORE_PUBLISH */
	struct session	*session;
	uint64_t	 group;		/* as in an entry; shard_match: 0 */
	const uint32_t	*ids;		/* subscription identifiers */
	uint16_t	 nids;
	uint8_t		 qos;		/* 1, 2: the lesser of both */
	bool		 retain;	/* retain as published, and it was */
};

/*
 * The sessions that want a message of this topic at QoS 1 or 2, each once, with
 * the highest QoS and all identifiers [MQTT-3.3.4-2] [-3] (targets of QoS 0 are
 * not named: a listener sees to them; nor are members of groups). publisher:
 * its client id, for no local; may be empty. *out is good until the next call.
 * Returns how many, ERR_NOMEM.
 */
int shard_match(struct shard *sh, const struct slice *topic, uint8_t qos,
    bool retain, const struct slice *publisher, struct store_target **out);

/* --- What must be decided --- */

struct shard_limits {
	uint32_t	queue_len;	/* entries of one session not sent */
	uint64_t	queue_bytes;	/* ... and their bytes */
};

/* Is s beyond its limits? Then *offset is what goes: the oldest entry that was
 * not sent. The caller logs a STORE_DROP and asks again. */
bool session_overflow(const struct session *s, const struct shard_limits *lim,
    uint64_t *offset);

/* --- Marks: what came from a source, to drop what comes again --- */

/* The last id taken from that source's slot; {0, 0} for none. Changed by
 * STORE_PUBLISH, STORE_MARK, which only raise it. */
struct msgid shard_mark(const struct shard *sh, const struct slice *source,
    uint32_t slot);

/* --- The log's own room --- */

/* pin: size bytes at pos are wanted; unpin: nobody's any more, or moved. */
struct shard_hooks {
	void (*pin)(void *ctx, uint64_t pos, uint32_t size);
	void (*unpin)(void *ctx, uint64_t pos, uint32_t size);
	/* A filter or group gained or lost a subscriber, or one changed its
	 * options. With nsubs 0 it is the hook's to index_filter_drop(), now or
	 * later; without a hook the shard does that. */
	void (*filter)(void *ctx, struct index_filter *f);
};
/* *h is copied; any may be NULL. */
void shard_set_hooks(struct shard *sh, const struct shard_hooks *h, void *ctx);

/* Bodies that lie in [from, to), up to max, in no order, to be moved
 * (STORE_MOVE). */
size_t shard_bodies_in(const struct shard *sh, uint64_t from, uint64_t to,
    struct body **out, size_t max);

/* --- Checkpoint --- */

/*
 * One session as bytes, with its subscriptions, queue (positions of bodies),
 * window and will; and back. size 0 asks how long; ERR_FULL if that is not
 * there. The log must be on disk up to s->applied before the record counts.
 *
 * shard_load adds it to a shard that is being started. Of two sessions of one
 * client id (records of different moments) the newer handle stays and the other
 * ends. ERR_PROTO for bytes that are none, ERR_EXISTS for a handle that is
 * there, ERR_NOMEM, ERR_FULL as shard_apply; nothing changed then.
 */
long session_save(const struct session *s, void *out, size_t size);
int shard_load(struct shard *sh, const void *data, size_t len);

/* Sessions changed, or ended, since they were cleaned last, first those that
 * were changed first: takes up to max. An ended one is told by its handle
 * alone, also if it never was saved. A checkpoint that begins at a position is
 * whole when as many were taken as were dirty then, and the marks saved since;
 * the log must be on disk up to shard_applied() before it counts. */
struct dirty {
	uint64_t	 handle;
	struct session	*session;	/* NULL: ended */
};
size_t shard_ndirty(const struct shard *sh);
size_t shard_take_dirty(struct shard *sh, struct dirty *out, size_t max);

/* Marks, and the next handle, are one record of their own. Loading raises. */
long shard_save_marks(const struct shard *sh, void *out, size_t size);
int shard_load_marks(struct shard *sh, const void *data, size_t len);

#endif

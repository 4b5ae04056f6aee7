/*
 * member.h: who belongs to the cluster. One struct members is what one node
 * knows: who it is itself, and a row for each member that is or was. Pure: no
 * socket, clock, file or random source; the caller carries the bytes, hands in
 * the hybrid clock (ns since 1970, as it stands in ids), monotonic
 * milliseconds and random numbers, and keeps the image on its disk
 * (member/file.h).
 *
 * Rows. A node that comes in takes a random *join id* and says so in a row of
 * its own; the row's state is `in`, and later, once, `left` (it said so),
 * `cleaned` (down too long) or `forced` (sent away). Of two values of a row the
 * one further on wins (in, cleaned, left, forced), of two in one state the one
 * with the higher version {clock, node}; so a row never comes back, and all who
 * have the same rows, in whatever order they came, hold the same table.
 * A *member* is who is `in`, whose data uuid was never forced, and, of several
 * with one name, who joined last.
 *
 * Ways of a row. It stands in the hello of the node it is about. A core writes
 * each row it learns, from a hello or another core, into its own stream
 * `rows.<core>` once it is on its disk (members_say after members_saved). So a
 * row in the stream of a core says that this core has it on disk: that is what
 * members_acks counts, and no core takes rows away with it when it goes.
 * A replicant tells the core it follows what that one lacks: what it has
 * written itself, or heard from somebody else (members_say as well).
 *
 * Cluster uid. With cluster.discovery = manual it is random, and a node that
 * joins takes over that of whom it asked; else it is a hash of cluster.name,
 * so that nodes that start together cannot form two clusters: each is a
 * cluster of one until it meets another with the same uid, and then their rows
 * are one table. Who has another uid is refused, reported, and never merged.
 *
 * Going. After `leave`, or when it learns that it was forced out, or that its
 * name went to a later node, a node is *out*: alone, with a random uid, a new
 * join id and no rows but its own. It stays that, also after a restart, until
 * members_join_take. A node that learns that it was cleaned takes a new join id
 * at once and is in again. A forced data uuid is refused for ever: only who
 * has dropped its data (and so has a new data uuid) can join again.
 *
 * Sequence on a connection between nodes (both are told apart by who called):
 *
 *	caller  > hello				called: members_judge
 *		< hello, or an answer that refuses	(likewise)
 *	both: members_met, then streams
 *
 *	joiner	> hello with MEMBER_JOIN	core: members_judge says JOIN:
 *		< members_join_answer {uid, rows}; both close
 *	joiner: members_join_take, save, then as any member
 *
 * No function here may be called from a callback.
 */
#ifndef MEMBER_MEMBER_H
#define MEMBER_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"

enum {
	MEMBER_PROTOCOL	= 1,		/* we speak this version, */
	MEMBER_PROTOCOL_MIN = 1,	/* and back to this one */
	MEMBER_NAME_MAX	= 256,		/* NAME@HOST with its NUL */
	MEMBER_ADDR_MAX	= 280,		/* HOST:PORT or [HOST]:PORT, NUL */
	MEMBER_ADDRS	= 4,		/* of a node */
	MEMBER_ID	= 16,		/* bytes of a uuid, a uid */
	MEMBERS_MAX	= 255,		/* in a cluster (FIB_NODES - 1) */
	MEMBERS_IN_MAX	= 1024,		/* rows that are `in`: members, and
					 * those superseded a moment ago */
	/* Left and cleaned rows that are kept, the newest; as many forced ones.
	 * CAVEAT: who comes after so many others with a row of before them
	 * that is still `in`, brings it back, as a member that is down. */
	MEMBERS_ENDED_MAX = 1024,
	MEMBER_KEY	= 9,		/* 'M', join id big-endian */
	MEMBER_ROW_MAX	= 2048,		/* encoded */
	MEMBER_HELLO_MAX = 4096,
	MEMBER_TEXT_MAX	= 320,		/* why, in words, with the NUL */
	MEMBER_VIEW_MAX	= 64 * 1024,
	MEMBER_IMAGE_MAX = 8 * 1024 * 1024,
};

enum member_role { MEMBER_CORE = 1, MEMBER_REPLICANT = 2 };

enum member_state {		/* in the order in which they win */
	MEMBER_IN	= 1,
	MEMBER_CLEANED	= 2,
	MEMBER_LEFT	= 3,	/* also of one that was cleaned meanwhile */
	MEMBER_FORCED	= 4,
};

struct member_version {
	uint64_t	clock, node;	/* node: join id of who wrote it */
};

struct member_row {
	uint64_t	join;		/* the key; never 0 */
	struct member_version version;
	enum member_state state;
	enum member_role role;
	uint64_t	joined;		/* clock when it took the join id: of
					 * two with one name the later stays,
					 * then that with the higher join id */
	uint8_t		uuid[MEMBER_ID];	/* of its data */
	char		name[MEMBER_NAME_MAX];
	uint32_t	naddrs;		/* of its metadata channel */
	char		addrs[MEMBER_ADDRS][MEMBER_ADDR_MAX];
};

/* --- What is to be told -------------------------------------------------- */

enum member_event_kind {
	/* row is a member now; row is none any more. Its state says why; `in`:
	 * a later one has its name, or its data uuid was forced. Close the
	 * connection with it. What it has that is durable ends, unless a member
	 * has that data uuid. */
	MEMBER_EV_CAME = 1,
	MEMBER_EV_WENT,
	/* After these two: old went, row came under its name with another data
	 * uuid. The disk of that node was lost: end old's durable routes and
	 * spools; alarm. */
	MEMBER_EV_DISK_LOST,
	/* Of this node. Close every connection: who we are has changed (join
	 * id; out: uid and rows too, see members_self, and nobody `went`). */
	MEMBER_EV_SELF_CLEANED,		/* in again already, a new join id */
	MEMBER_EV_SELF_FORCED,		/* out */
	MEMBER_EV_SELF_NAME_LOST,	/* out: row has our name */
	MEMBER_EV_SELF_LEFT,		/* out: we said so once, and somebody
					 * remembers (an older data_dir) */
	/* Somebody knew a later incarnation of our name: ours is not to be
	 * below `incarnation`. */
	MEMBER_EV_RAISE,
	/* autoheal off: with row all is parked until heal; it was healed. */
	MEMBER_EV_PARKED,
	MEMBER_EV_HEALED,
};

struct member_event {
	enum member_event_kind kind;
	const struct member_row *row, *old;	/* of the call */
	uint64_t	incarnation;
};

struct member_calls {
	uint64_t (*random)(void *ctx);
	void (*event)(void *ctx, const struct member_event *e);
};

/* --- This node ----------------------------------------------------------- */

struct members;				/* not thread safe */

struct members_opts {
	const char	*name;		/* node.name */
	enum member_role role;
	const char	*cluster;	/* cluster.name; NULL: manual */
	const char	*const *addrs;	/* of the metadata channel */
	uint32_t	 naddrs;
	uint64_t	 incarnation;	/* of the router: in the hello */
	uint64_t	 max_skew_ns;	/* 0: never refused for it */
	bool		 autoheal;
	const struct member_calls *calls;
	void		*ctx;
};

/*
 * Make it from the image that members_image wrote, or of a first start if
 * image is empty. clock is the hybrid clock. No events are told of it;
 * something may be to be saved (members_unsaved). Errors, with a text for a human in why:
 * ERR_INVAL	the configuration is at odds with the data (another name after
 *		it was in a cluster, another cluster.name): EX_CONFIG
 * ERR_CORRUPT	the image is damaged
 * ERR_NOMEM
 */
int members_open(struct members **out, const struct members_opts *o,
    struct slice image, uint64_t clock, char why[MEMBER_TEXT_MAX]);
void members_free(struct members **m);

enum member_out {			/* why this node is on its own */
	MEMBER_NOT_OUT = 0,		/* it is not: connect to members_peer */
	MEMBER_OUT_LEFT,
	MEMBER_OUT_FORCED,
	MEMBER_OUT_NAME,		/* a later node has our name */
};

struct members_self {
	const struct member_row *row;	/* ours */
	uint8_t		uid[MEMBER_ID];	/* of the cluster */
	enum member_out	out;
	uint64_t	incarnation;	/* ours, of opts */
	uint64_t	floor;		/* not below this: others knew one of
					 * our name */
	bool		joined;		/* it has been with others: its name
					 * cannot change any more */
};

/* Valid until something changes. */
void members_self(const struct members *m, struct members_self *out);

/* What is reached at has changed. ERR_INVAL, ERR_NOMEM. */
int members_set_addrs(struct members *m, const char *const *addrs, uint32_t n,
    uint64_t clock);

/* --- On disk ------------------------------------------------------------- */

/* Is there anything that members_image would write and did not? Serial of the
 * last change: hand it to members_saved once that image is on disk (fsynced),
 * whatever changed meanwhile. Rows are said only when they are saved. */
bool members_unsaved(const struct members *m, uint64_t *serial);
/* malloc'ed. ERR_NOMEM. */
int members_image(const struct members *m, uint8_t **out, size_t *len);
void members_saved(struct members *m, uint64_t serial);

/* --- Rows: the stream rows.<core> ---------------------------------------- */

/*
 * The next row to say, then call again: 1; 0: none is left.
 * A core (`core` 0) puts it into its stream; *len 0: deletes it there. After a
 * start it says all rows, then its end mark.
 * A replicant sends it to `core`, the one it follows, once it has caught up
 * with the streams that come from there.
 */
int members_say(struct members *m, uint64_t core, uint8_t key[MEMBER_KEY],
    uint8_t row[MEMBER_ROW_MAX], size_t *len);
/* All rows are to be said again: another core, a new stream. */
void members_say_again(struct members *m);

/* Is a key of `rows` one of ours? */
bool member_is_key(struct slice key);

/*
 * Core `from` (join id) has this row on its disk; or, from 0, a replicant asks
 * us to write it. Slices as they came from outside. ERR_PROTO: no such row
 * (count it, go on); ERR_FULL: a bound is reached, it is not taken; ERR_NOMEM.
 */
int members_take(struct members *m, uint64_t from, struct slice key,
    struct slice row, uint64_t clock);

/* The version that is to be exceeded by a write of this row: what a core
 * answers when it is asked; 0, 0 if it has none. */
struct member_version members_version(const struct members *m, uint64_t join);
/* What others answered: what we write is above it. */
void members_exceed(struct members *m, struct member_version v);

/* How many of the member cores have the row as it stands on disk, and how
 * many are needed (a majority): done, or `partial: have of cores`. */
struct member_acks {
	uint32_t	have, cores;
	bool		done;
};
struct member_acks members_acks(const struct members *m, uint64_t join);

/* --- Looking ------------------------------------------------------------- */

/* Members, by join id, this node among them: *at 0 is the start. 1, or 0. */
struct member_look {
	const struct member_row *row;
	bool		self;
	bool		up;		/* members_reach; or of a replicant, or
					 * to one: a core says that it is */
	bool		parked;
	uint64_t	since_ms;	/* when it went down, or came up */
	uint64_t	incarnation;	/* the highest known of its name */
};
int members_next(const struct members *m, uint64_t *at,
    struct member_look *out);
/* The same of all rows, those of the past as well. */
int members_next_row(const struct members *m, uint64_t *at,
    struct member_look *out);
/* The member of this name; ERR_NOTFOUND. */
int members_find(const struct members *m, const char *name,
    struct member_look *out);

/* Whom to connect to: members other than this node, a replicant cores only;
 * none if we are out. *at 0 is the start. 1, or 0. */
int members_peer(const struct members *m, uint64_t *at,
    struct member_look *out);

struct members_count {
	uint32_t	members, cores;	/* this one included */
	uint32_t	up, cores_up;
	uint32_t	rows;		/* all there are, ended ones too */
	uint64_t	digest;		/* of all rows; no order in it */
};
void members_count(const struct members *m, struct members_count *out);

/* --- Hello --------------------------------------------------------------- */

enum member_reason {
	MEMBER_OK = 0,
	MEMBER_MALFORMED,
	MEMBER_TOO_OLD,		/* the other's protocol */
	MEMBER_TOO_NEW,
	MEMBER_SELF,		/* it is this very node */
	MEMBER_WRONG_NODE,	/* somebody else was called than is here */
	MEMBER_WRONG_NAME,	/* of this join id, or none */
	MEMBER_OTHER_CLUSTER,	/* two clusters have met: alarm on both */
	MEMBER_IS_FORCED,	/* its data uuid: alarm on both */
	MEMBER_IS_CLEANED,	/* its join id: it takes a new one */
	MEMBER_HAS_LEFT,	/* its join id */
	MEMBER_IS_OUT,		/* whom it called belongs no more to that
				 * cluster */
	MEMBER_NAME_TAKEN,	/* by a later one: whom it is about is out */
	MEMBER_NAME_IN_USE,	/* by one that is up: it tries again, and is let
				 * in once that one is down */
	MEMBER_WRONG_DATA,	/* this join id has another data uuid */
	MEMBER_SKEW,		/* its clock is too far ahead */
	MEMBER_STALE,		/* a later incarnation was here */
	MEMBER_NOT_CORE,	/* join: ask a core */
	MEMBER_TOO_MANY,	/* the cluster is full */
	MEMBER_NREASONS
};

/* A word for logs and metrics ("other_cluster"). */
const char *member_reason_name(enum member_reason r);

struct member_hello {
	uint32_t	version, version_min;
	uint8_t		uid[MEMBER_ID];
	struct member_row row;
	uint64_t	incarnation;	/* of its router */
	uint64_t	seen;		/* the highest incarnation known of the
					 * receiver, 0: none, */
	uint64_t	to_join;	/* if this is its join id */
	uint64_t	clock;
	bool		join;		/* it asks to be let in */
	char		to[MEMBER_NAME_MAX];	/* who is called; empty: who is
					 * called is not known by name */
};

enum member_hello_flag { MEMBER_JOIN = 1 };

/*
 * The hello for the node `to` (its name, if known): as caller, or in answer to
 * a hello that was accepted. flags: MEMBER_JOIN to ask to be let in. Returns
 * its length, or 0 while our row is not saved: what others hear of a node its
 * own disk knows. size is at least MEMBER_HELLO_MAX.
 */
size_t members_hello(const struct members *m, const char *to, unsigned flags,
    uint64_t clock, void *buf, size_t size);
int member_hello_decode(struct member_hello *h, const void *bytes, size_t len);

struct member_verdict {
	enum member_reason reason;	/* MEMBER_OK: members_met, or if h.join
					 * members_join_answer */
	struct member_hello h;		/* zero if malformed */
	char		text[MEMBER_TEXT_MAX];	/* why, for both logs */
};

/* Judge a hello that came. Changes nothing. */
void members_judge(const struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_verdict *out);

/* What the refused is told. Length; size at least MEMBER_HELLO_MAX. */
size_t members_refusal(const struct members *m,
    const struct member_verdict *v, void *buf, size_t size);

/*
 * We were refused: what it says, for the log. Changes what follows from it
 * (cleaned: a new join id; forced, left, name taken: out; stale: the floor)
 * and tells events. ERR_PROTO, ERR_NOMEM.
 */
struct member_answer {
	enum member_reason reason;
	uint8_t		uid[MEMBER_ID];	/* of who answers */
	char		name[MEMBER_NAME_MAX];
	char		text[MEMBER_TEXT_MAX];
};
int members_refused(struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_answer *out);

/* The verdict was MEMBER_OK and the connection stands: its row is taken (also
 * see members_unsaved), it counts as in reach. ERR_NOMEM, ERR_FULL. */
int members_met(struct members *m, const struct member_hello *h,
    uint64_t clock, uint64_t now_ms);

/* --- Joining ------------------------------------------------------------- */

/* Core: the answer to a hello with `join` that was judged MEMBER_OK: uid and
 * rows. malloc'ed. ERR_AGAIN: save first; ERR_NOMEM. */
int members_join_answer(const struct members *m, const struct member_hello *h,
    uint8_t **out, size_t *len);

/*
 * Joiner: what came. Either a refusal (*out says why, nothing changed, returns
 * ERR_INVAL), or we are in that cluster now: its uid, its rows, a new join id;
 * the rows of before are dropped. Save, then close all connections and connect
 * anew; drop what was replicated from the cluster before. ERR_PROTO, ERR_NOMEM.
 */
int members_join_take(struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_answer *out);

/* --- Going --------------------------------------------------------------- */

/*
 * This node leaves. Its row becomes `left`: save, say it, wait for members_acks
 * of the join id (or give up: partial), then call members_left, which makes it
 * out. ERR_INVAL: it is out, or alone, already.
 */
int members_leave(struct members *m, uint64_t clock);
int members_left(struct members *m, uint64_t clock);

/* Send a member away for good, by its name; or who had the name last, and left
 * or was cleaned. *join: its row, for members_acks. ERR_NOTFOUND; ERR_INVAL:
 * this node itself; ERR_NOMEM. */
int members_force(struct members *m, const char *name, uint64_t clock,
    uint64_t *join);

/* --- Who is in reach ----------------------------------------------------- */

/* A node went down or came up, as liveness is judged elsewhere. (members_met
 * says up.) */
void members_reach(struct members *m, uint64_t join, bool up, uint64_t now_ms);

/*
 * Who sees whom: each core tells the others at each change and now and then,
 * also over connections that are parked.
 */
size_t members_view(const struct members *m, void *buf, size_t size);
/* What node `from` sees. ERR_PROTO. */
int members_view_take(struct members *m, uint64_t from, const void *bytes,
    size_t len);
/* Does `a` say that it reaches b? 1, 0, or -1: a is not heard from. */
int members_sees(const struct members *m, uint64_t a, uint64_t b);
/* Is the cluster split, as far as is known here: is there a member that is
 * not in reach of some other that is up? */
bool members_split(const struct members *m);

/* Have we over half of the member cores in reach, this node included, or half
 * and the lowest join id? */
bool members_majority(const struct members *m);

/*
 * cluster.autoclean: mark `cleaned` who has been down for after_ms (0: never)
 * and is seen by no core in reach, if this node is a core on the side with the
 * majority. Returns how many, or ERR_NOMEM.
 */
int members_autoclean(struct members *m, uint64_t after_ms, uint64_t clock,
    uint64_t now_ms);

/* autoheal off: take up again what is parked, everywhere in reach (it travels
 * in the views). Returns how many were parked here. */
int members_heal(struct members *m, uint64_t clock);

/* --- Rows as bytes ------------------------------------------------------- */

void member_key(uint64_t join, uint8_t key[MEMBER_KEY]);
size_t member_row_encode(const struct member_row *r, void *buf, size_t size);
int member_row_decode(struct member_row *r, const void *bytes, size_t len);
/* Which of two values of one row wins: > 0 if a. */
int member_row_cmp(const struct member_row *a, const struct member_row *b);
/* NAME@HOST: both parts not empty, printable, without blanks or another @. */
bool member_name_is_valid(const char *name);

#endif

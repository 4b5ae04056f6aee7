/*
 * query.h: what tools ask and how they are answered (query.proto), written
 * into and read out of one buffer without copies. Slices need not end in NUL.
 */
#ifndef PROTO_QUERY_H
#define PROTO_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/item.h"
#include "proto/wire.h"

/* Of a Query, a Reply: no body is longer. */
#define QUERY_BODY_MAX	(512 * 1024)
#define QUERY_CURSOR_MAX	(64 * 1024 + 64)
#define QUERY_SUBS_MAX	1024		/* subscriptions told in one row */

/*
 * To whom, and what arg and the rows of the answer are. No such client is an
 * answer without rows, not an error; what is none of these is status EX_USAGE.
 */
enum query_what {
	QUERY_CLIENTS	= 1,	/* listener: a client row each, without
				 * subscriptions; page by page */
	QUERY_CLIENT	= 2,	/* listener: the client with the id in arg, with
				 * its subscriptions */
	QUERY_ROUTES	= 3,	/* router: routes whose filter begins with arg,
				 * of `owner` if set; page by page */
	QUERY_MATCH	= 4,	/* router: routes that match the topic in arg
				 * (state "installed"), then on the last page
				 * what the index answers: a row without filter
				 * for each destination (state "index"; with
				 * filter and share: of that group), and how
				 * many entries it looked at (kv "probes") */
	QUERY_STATS	= 5,	/* anybody: key and value rows; page by page */
	QUERY_KICK	= 6,	/* listener: close the connection of the client
				 * with the id in arg (0x98, administrative
				 * action); answered with its client row */

	/* To a session-store. */
	QUERY_SESSIONS	= 7,	/* a client row for each session that is kept;
				 * with QUERY_OFFLINE only those without a
				 * connection. Page by page, none missing and
				 * none twice that is there all the time */
	QUERY_SESSIONS_OF = 8,	/* the same of the client ids in arg, each
				 * {length le16, bytes}; in one page, of as many
				 * as it holds */
	QUERY_SESSION	= 9,	/* the session of the client id in arg, with its
				 * subscriptions */
	QUERY_EXPIRE	= 10,	/* end the session of the client id in arg, and
				 * its connection (0x98); answered with the row
				 * it had */
	QUERY_EXPORT	= 11,	/* item rows: of sessions (arg "sessions") or
				 * retained messages (arg "retained"); page by
				 * page */
	QUERY_IMPORT	= 12,	/* take in what is in batch; handle is what the
				 * answer to the batch before said. Answered
				 * with kv rows, see IMPORT_KEYS; status 0 says
				 * that it is in the log */

	/* To the router, of the cluster. */
	QUERY_CLUSTER	= 13,	/* a node row for each member, page by page;
				 * then, on the last page, kv rows: "cluster"
				 * (uid), "name", "out" (why this node is alone:
				 * "left", "forced", "name"; empty: it is not),
				 * "joined" (it has been with others), "split",
				 * "majority", "cores", "rows", "digest" (of
				 * who belongs to it), "unsaved", "again" (the
				 * router is about to start anew) */
	QUERY_CLUSTER_JOIN = 14,	/* begin to join the cluster of the
				 * node in arg */
	QUERY_CLUSTER_LEAVE = 15,	/* begin to leave */
	QUERY_CLUSTER_FORCE = 16,	/* send away the node in arg */
	QUERY_CLUSTER_HEAL = 17,	/* kv "parked": how many were */
	/* How that goes which the answer to one of the three gave "task" for
	 * (in handle): kv "state" ("running", "done", "partial", "failed"),
	 * "have" and "cores" (of those who need to write it down, have), "why".
	 * One that is not known: EX_NOINPUT; a router starts anew when it has
	 * joined or left. */
	QUERY_CLUSTER_TASK = 18,
};

enum query_flag {
	QUERY_OFFLINE	= 1,	/* SESSIONS */
	QUERY_REPLACE	= 2,	/* IMPORT: what is there gives way */
	QUERY_GIVE_UP	= 4,	/* IMPORT: the session under way has no end */
};

/* Answers to IMPORT, numbers in decimal; those that are 0 are left out.
 * "handle" is for the next batch to that store, the others count: items taken
 * in, sessions and retained messages that were left alone because there is one
 * already (retained: one not older), that had expired, sessions given up that
 * had no end or whose client came meanwhile, things that belong to a session
 * left alone or gone. */
#define IMPORT_KEYS	"handle", "sessions", "subscriptions", "messages", \
	"retained", "present", "newer", "expired", "incomplete", "taken", \
	"skipped"
#define IMPORT_NKEYS	11

struct query {
	uint32_t	what;		/* enum query_what, not checked here */
	uint32_t	limit, flags;
	uint64_t	id, handle;
	struct slice	arg, cursor, owner, batch;
};

/* Encode q. Returns the length, or ERR_FULL. */
long query_encode(const struct query *q, void *buf, size_t size);
int query_decode(struct query *q, const void *body, size_t len);

struct sub_row {
	struct slice	filter;
	uint32_t	options, id;
};

struct client_row {
	struct slice	client_id, peer, username, listener;
	uint32_t	version, keepalive_s;
	uint64_t	connected_ms;
	bool		clean;
	uint32_t	inflight, mqueue_len;
	uint64_t	mqueue_bytes;
	uint64_t	bytes_in, bytes_out, messages_in, messages_out, dropped;
	uint32_t	nsubs;			/* how many there are */

	/* Of a stored session, by its store. */
	struct slice	state;
	bool		stored, will;
	uint32_t	expiry_s, queue_len, queue_inflight, inbound;
	uint64_t	offline_ms, queue_bytes;

	/* Writing: those to tell, at most QUERY_SUBS_MAX. */
	const struct sub_row *subs;
	size_t		subs_told;
	/* Reading: walk them with client_row_sub. */
	struct wire_in	subs_in;
};

struct route_info {
	struct slice	filter, dest, share, state, as;
	uint32_t	members, qos;
	bool		widened;
};

struct node_row {
	struct slice	name, role, state, sync, sees, addrs;
	uint64_t	join, since_ms, incarnation, lag, seq, routes, digest;
	bool		self, parked, heard;
};

struct kv_row {
	struct slice	key, value;
};

/* --- Answering --------------------------------------------------------- */

struct reply_writer {
	struct wire_out	out;
	size_t		room;		/* kept back for reply_end */
	uint64_t	id;
	unsigned	rows;
};

/* id is that of the query. */
void reply_begin(struct reply_writer *w, void *buf, size_t size, uint64_t id);

/* Append a row. ERR_FULL: end this page with a cursor that goes on with this
 * row. Room for reply_end (with a cursor of QUERY_CURSOR_MAX if size allows,
 * else of size / 4) is always kept. */
int reply_client(struct reply_writer *w, const struct client_row *row);
int reply_route(struct reply_writer *w, const struct route_info *row);
int reply_kv(struct reply_writer *w, const struct kv_row *row);
int reply_node(struct reply_writer *w, const struct node_row *row);
/* The same from row->at on, which becomes what is to be told next: all is told
 * when it is item_size(row). In parts only if nothing else is in the page. */
int reply_item(struct reply_writer *w, struct item_row *row);

/* Give up rows: back to where there were `rows` of them in `len` bytes. */
static inline void
reply_back(struct reply_writer *w, size_t len, unsigned rows)
{
	w->out.len = len;
	w->rows = rows;
}

/* Finish the page: cursor {NULL, 0} says it is the last. Returns the length,
 * or ERR_INVAL if the cursor is longer than was kept room for. */
long reply_end(struct reply_writer *w, struct slice cursor);

/* A page that says why there is none: status by sysexits(3). */
long reply_error(void *buf, size_t size, uint64_t id, uint32_t status,
    const char *error);

/* --- Reading an answer ------------------------------------------------- */

struct reply {
	uint32_t	status;		/* sysexits.h; 0: success */
	uint64_t	id;
	struct slice	cursor;		/* empty: the last page */
	struct slice	error;
	unsigned	rows;
	struct wire_in	in;
};

enum reply_row_kind { REPLY_CLIENT = 1, REPLY_ROUTE, REPLY_KV, REPLY_ITEM,
	REPLY_NODE };

struct reply_row {
	enum reply_row_kind kind;
	union {
		struct client_row client;
		struct route_info route;
		struct kv_row	  kv;
		struct item_row	  item;
		struct node_row	  node;
	};
};

/* Check all of body, rows included. ERR_PROTO. */
int reply_decode(struct reply *r, const void *body, size_t len);

/* The next row. Returns 1, or 0 at the end. */
int reply_next(struct reply *r, struct reply_row *row);

/* The next subscription of a client row that was read. 1, or 0 at the end. */
int client_row_sub(struct client_row *row, struct sub_row *sub);

#endif

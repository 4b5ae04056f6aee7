/*
 * store.h: what the files of mqttc-session-store share. The process is one
 * shard: it keeps the sessions and retained messages that its number says, and
 * decides who holds the client ids that do.
 *
 *	main.c		wiring, the turn, what the supervisor says
 *	dir.c		the directory of the shard, and its lock
 *	log.c		operations: into the log, applied, read back, replayed
 *	checkpoint.c	what is known, noted down; the log given back
 *	peers.c		streams to listeners and other stores, the router
 *	desk.c		one holder for each client id; wills
 *	claims.c	... over all nodes of a cluster
 *	roster.c	which client ids listeners need not ask about
 *	serve.c		a session and the listener that has its client
 *	take.c		messages that come to be kept
 *	onward.c	messages this shard is the source of
 *	groups.c	shared subscriptions
 *	retained.c	retained messages
 *	query.c		questions of the tools
 *	export.c	all there is, in pages
 *	import.c	what an export told, taken in
 *
 * A turn: frames are taken, each becomes operations, which are appended to the
 * log and applied; at its end the log is written, then what it brought about
 * leaves (grants, deliveries), and when it is on the disk the frames are
 * acknowledged as stored.
 */
#ifndef STORE_H
#define STORE_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/htab.h"
#include "base/spread.h"
#include "base/wheel.h"
#include "bus/bus.h"
#include "conf/conf.h"
#include "journal/journal.h"
#include "kv/worker.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "proto/msgid.h"
#include "proto/query.h"
#include "proto/record.h"
#include "proto/session.h"
#include "retain/retain.h"
#include "route/match.h"
#include "route/far.h"
#include "route/tell.h"
#include "session/roster.h"
#include "store/shard.h"

enum {
	LISTENERS_MAX	= ROUTE_LISTENERS_MAX,
	STORES_MAX	= ROUTE_STORES_MAX,
	PEERS_ALL	= LISTENERS_MAX + STORES_MAX,
	FAR_FROM	= PEERS_ALL,	/* in store.peers: far.c */
	PEERS_END	= FAR_FROM + FARS_MAX * FAR_LINKS_MAX * 2,
	GROUPS_MAX	= 1024,		/* that get one message */
	OUT_MIN		= 4096,
	OUT_MAX		= BUS_BODY_MAX,
	SESSION_OUT_MAX	= 4 << 20	/* bytes on their way to one client */
};

struct onward;

struct store_dir {
	char	path[CONF_STR_MAX + PROC_NAME_MAX];
	int	fd;			/* of the directory; -1: closed */
	int	lock_fd;
};

struct holder;

/* Holders that are to be served, the oldest first. All zero is an empty one. */
struct holder_list {
	struct holder	*first, **last;
	size_t		 n;
};

/* Another process: a listener, (from LISTENERS_MAX on) another store, or (from
 * FAR_FROM on) the live and the durable sessions of another node. */
struct peer {
	struct bus_peer	*bus;		/* NULL: not running */
	uint64_t	 incarnation;
	uint64_t	 epoch;		/* rises each time bus changes */
	struct wire_out	 out;		/* entries for a listener, this turn */
	uint8_t		*buf;
	bool		 dirty;		/* `out` is to be flushed */
	bool		 ready;		/* a store whose rows everybody has */
	bool		 named;		/* a listener that named all it serves */
	bool		 roomy;		/* its stream may have room again for: */
	struct holder_list stalled;
	struct onward	*behind;	/* durable: the first that its stream
					 * had no room for */
};

/* An attach that waits until the place is free. */
struct waiting {
	uint32_t	 listener;
	uint64_t	 incarnation;
	struct session_msg e;		/* its slices behind it */
	uint8_t		 bytes[];
};

/* Who has a client id, or is about to. */
struct holder {
	uint64_t	 hash;
	uint64_t	 serial;	/* its connection, at its listener */
	uint64_t	 incarnation;	/* of that */
	uint64_t	 time;		/* of its CONNECT */
	uint64_t	 cursor;	/* the next offset to hand out */
	uint64_t	 received;	/* the log has PUBRECs from before its
					 * CONNECT up to here */
	struct session	*session;	/* NULL: nothing is kept */
	struct waiting	*waiting;
	struct holder_list *pump_in;	/* or NULL: is not to be served */
	struct holder	*pump_next, **pump_at;
	struct holder	*grant_next;
	uint8_t		*at_client;	/* after a start: bits of offsets from
					 * base on that wait there */
	uint64_t	 at_base;
	uint32_t	 at_bits;
	uint64_t	 out_bytes;	/* handed out, unfinished */
	uint32_t	 inflight;	/* of these, how many: below cursor */
	uint32_t	 listener;
	uint16_t	 window;	/* the client's receive maximum */
	uint16_t	 len;
	bool		 connected;
	bool		 leaving;	/* was told that it is taken */
	bool		 seen;		/* its listener named it anew */
	bool		 clean;		/* it began clean */
	bool		 granting;	/* the listeners do not know it yet */
	char		 client_id[];
};

struct token_wait;
struct held_pubrel;
struct onward_wait;

struct store {
	struct proc	*proc;
	struct ev_loop	*loop;
	const struct conf *conf;
	struct bus	*bus;
	struct store_dir dir;
	struct slice	 name;		/* ours, as a source */
	uint32_t	 shard, nshards;
	uint32_t	 nlisteners;	/* running */
	uint64_t	 started_ms;
	bool		 draining;

	uint64_t	 seed;
	uint64_t	 now_ms;	/* wall clock, of this turn */
	struct msgid_gen ids;
	ev_prepare	 prepare;
	ev_check	 check;
	ev_timer	 tick;
	ev_idle		 again;

	/* log.c */
	struct journal	*journal;
	struct kv_worker *worker;
	struct kv_job	 sync_job;
	bool		 syncing;
	uint64_t	 synced;	/* up to here it is on the disk */
	uint64_t	 sync_due_ms;
	enum conf_sync	 sync;
	uint32_t	 sync_ms;
	struct shard	*state;
	uint8_t		*scratch;	/* operations are written here */
	size_t		 cap_scratch;
	bool		 unnamed_checked;	/* desk.c */
	bool		 ready;
	bool		 full;		/* the disk has no room */
	bool		 tight;		/* ... but for what gives back some */
	uint64_t	 tried_ms;	/* full: when it was tried last */
	bool		 replaying;
	uint64_t	 replayed;

	/* peers.c */
	struct peer	 peers[PEERS_END];
	struct route_tell tell;
	struct route_fib fib;
	bool		 peers_known;	/* PEERS came */

	/* desk.c */
	struct spread	 holders;	/* by client id */
	struct wheel	 wheel;
	unsigned	 sweep_part;	/* of holders, looked at next, ... */
	unsigned	 sweep_left;	/* ... and how many are to be */

	/* serve.c */
	struct holder_list pump;	/* to be served this turn */
	struct holder_list unsafe;	/* when more of the log is safe */
	size_t		 nsafe;		/* of these, that may be now */
	struct held_pubrel *pubrels;	/* from first_pubrel on, in order */
	size_t		 first_pubrel, npubrels, cap_pubrels;
	uint64_t	 received;	/* the end of the log with the last
					 * PUBREC */
	struct token_wait *subs;	/* SUBSCRIBEs whose routes are not known */
	bool		 subs_due;

	/* onward.c */
	struct onward	*onward_head, **onward_tail;
	uint64_t	 onward_done, onward_noted, onward_noted_ms;
	uint64_t	 onward_last;	/* position of the newest there was */
	size_t		 nonward;
	size_t		 nonward_own;	/* that our own sessions lack */
	bool		 onward_open;	/* what a start found is published */
	struct onward_wait *onward_waits, **onward_waits_tail;
	struct onward_wait *onward_kept; /* not open: retained up to here */
	size_t		 nonward_waits;	/* that the log has */
	uint64_t	 random;

	/* retained.c */
	struct retain	*retain;
	uint64_t	 retain_last;	/* the highest version we gave */
	uint64_t	 node;		/* ours, for versions: its hash */

	/* far.c */
	struct route_fars fars;
	uint16_t	*nodes;		/* all others there are, as of */
	size_t		 nnodes;
	uint64_t	 nodes_version, nodes_generation;	/* the index */
};

/* Does what that peer has got count only when it is stored? */
static inline bool
peer_is_durable(uint32_t instance)
{
	return instance < FAR_FROM ? instance >= LISTENERS_MAX :
	    (instance - FAR_FROM) & 1;
}

/* --- far.c --- */

int far_open(struct store *st);		/* the bus is open; ERR_NOMEM */
void far_close(struct store *st);
/* The live sessions of node `node` of the index as a peer, its stream opened;
 * the durable ones are the next. NULL: no memory. */
struct peer *far_peer(struct store *st, unsigned node,
    const struct slice *client);
/* What a node whose peer that is keeps through all starts, and back: the live
 * ones, UINT32_MAX: it is not there. */
uint64_t far_hash(const struct store *st, uint32_t instance);
uint32_t far_find(struct store *st, uint64_t hash, const struct slice *client);
/* All other nodes, as the index has them now: numbers in st->nodes. */
void far_all(struct store *st);
/* Nodes that are none any more, or have live sessions no more. */
void far_tick(struct store *st);

/* --- dir.c --- */

/* Make data_dir/name if it is missing, and lock it. ERR_EXISTS: another process
 * has it. ERR_IO, ERR_INVAL; d->path says which directory. */
int store_dir_open(struct store_dir *d, const char *data_dir, const char *name);
void store_dir_close(struct store_dir *d);

/* --- log.c --- */

void log_open(struct store *st);	/* replays; fatal on failure */
void log_close(struct store *st);
/* Append o, its targets and record, and apply it. 0, or what shard_apply said:
 * then it had no effect. ERR_FULL: the log takes no more now. *pos may be
 * NULL. */
int log_op(struct store *st, struct op *o, const struct slice *targets,
    uint64_t *pos);
/* Bytes of another room's operation. */
int log_bytes(struct store *st, enum store_op kind, const struct slice *body,
    uint64_t *pos);
/* The operation at pos. */
int log_read(struct store *st, uint64_t pos, struct op *o);
/* The end of a turn: write; true if all is written. */
bool log_write(struct store *st);
/* ... and see that it comes to the disk; frames are acknowledged by that. */
void log_sync(struct store *st);
void log_sync_mode(struct store *st);	/* by the configuration */
/* Room for n bytes of our own. */
uint8_t *log_scratch(struct store *st, size_t n);

/* May more be taken that has to be kept? */
bool log_room(struct store *st);
/* ... or what gives back room? Then it waits in memory while the disk is
 * full. */
bool log_room_back(const struct store *st);
/* Is what begins to be kept refused? */
bool log_is_full(const struct store *st);
/* Is all below pos as safe as session.sync wants it before anybody hears? */
bool log_is_safe(const struct store *st, uint64_t pos);
void log_tick(struct store *st);

/* Sync what is written, soon. */
void log_sync_now(struct store *st);

/* --- checkpoint.c --- */

/* What the checkpoint has; returns the position of the log to replay from. */
uint64_t checkpoint_open(struct store *st);
struct kv_tree *checkpoint_tree(void);	/* for the worker */
void checkpoint_close(void);
void checkpoint_turn(struct store *st);
void checkpoint_tick(struct store *st);
/* What is retained under topic has changed. */
void checkpoint_topic(struct store *st, const struct slice *topic);
void checkpoint_pin(void *ctx, uint64_t pos, uint32_t size);
void checkpoint_unpin(void *ctx, uint64_t pos, uint32_t size);

/* --- peers.c --- */

int peers_open(struct store *st);
void peers_close(struct store *st);
void on_peers(void *ctx, const struct proc_peer *peers, size_t n);
void on_segment(void *ctx, const struct proc_segment *s);
/* Add an entry for a listener; it leaves at the end of the turn. */
void peer_send(struct store *st, uint32_t listener,
    const struct session_msg *e);
/* The same with a payload apart. */
void peer_send_apart(struct store *st, uint32_t listener,
    const struct session_msg *e, const struct slice *payload);
/* Tell a listener whether the disk has room. */
void peer_tell_room(struct store *st, uint32_t listener);
/* Has the stream to that listener room for n bytes more? */
bool peer_room(const struct store *st, uint32_t listener, size_t n);
void peers_flush(struct store *st);
void peers_turn(struct store *st);

/* --- desk.c --- */

int on_session(void *ctx, struct bus_frame *f);
struct holder *desk_find(const struct store *st, const void *id, size_t len);
/* A listener is gone, and its connections: their places are closed in slices,
 * or when somebody wants one. */
void desk_lost(struct store *st);
/* Is d's connection such a one? It gets nothing more. */
bool desk_is_lost(const struct store *st, const struct holder *d);
/* A slice of that; true if there are more. */
bool desk_turn(struct store *st);
/* After a replay: who was connected, as far as we know. */
void desk_replayed(struct store *st);
void desk_peers(struct store *st);
void desk_timers(struct store *st);
void desk_close(struct store *st);
size_t desk_count(const struct store *st);
/* s has no connection and was not ours to watch so far. */
void desk_rest(struct store *st, struct session *s);
/* End that client's connection (0x98), if it has one, and its session; the will
 * goes out. ERR_NOTFOUND; ERR_FULL: the log takes no more. */
int desk_expire(struct store *st, const void *id, size_t len);

/* For claims.c: what a listener said of a client that has it now over all
 * nodes; of one that came too late; and to let go of an identifier, and if
 * `clean` of its session. */
void desk_attach_now(struct store *st, uint32_t listener,
    const struct session_msg *e);
void desk_detach_now(struct store *st, uint32_t listener,
    const struct session_msg *e);
void desk_too_late(struct store *st, uint32_t listener, uint64_t incarnation,
    uint64_t serial);
void desk_release(struct store *st, const struct slice *id, bool clean);

/* --- claims.c --- */

void claims_open(void);
void claims_close(void);
/* An attach, and its end before it was granted: true if claims.c goes on with
 * it. */
bool claims_attach(struct store *st, uint32_t listener,
    const struct session_msg *e);
bool claims_detach(struct store *st, uint32_t listener,
    const struct session_msg *e);
/* What there is of id may have changed; or it is here, of a CONNECT at `time`
 * (0: a session), without having been granted. */
void claims_state(struct store *st, const struct slice *id);
void claims_have(struct store *st, const struct slice *id, uint64_t time);
int on_claim(void *ctx, struct bus_frame *f);
void claims_flush(struct store *st);
void claims_tick(struct store *st);

/* --- roster.c --- */

int roster_open(struct store *st);
void roster_close(void);
/* h has a session that is new: true if its grant waits until all know. */
bool roster_new(struct store *st, struct holder *h);
void roster_forget(struct holder *h);
void roster_ask(struct store *st, uint32_t listener);
void roster_turn(struct store *st);
void roster_heard(struct store *st);

/* --- serve.c --- */

/* h has its place: tell its listener what the session has, and go on. */
void serve_begin(struct store *st, struct holder *h, bool present);
/* Its listener had it all the time; pids wait at the client for answers. */
void serve_resume(struct store *st, struct holder *h,
    const struct slice *pids);
/* There is something for h's client. */
void serve_soon(struct store *st, struct holder *h);
/* A slice of those who are due; true if there are more. */
bool serve_all(struct store *st);
void serve_safe(struct store *st);	/* more of the log is safe */
/* The stream to that listener has room again. */
void serve_retry(struct store *st, uint32_t listener);
void serve_forget(struct holder *h);
void serve_ack(struct store *st, uint32_t listener,
    const struct session_msg *e);
void serve_release(struct store *st, uint32_t listener,
    const struct session_msg *e);
void serve_subscribe(struct store *st, uint32_t listener,
    const struct session_msg *e, bool remove);
void serve_tick(struct store *st);
void serve_routes(struct store *st);	/* our rows are everywhere */
void serve_rebase(struct store *st, uint64_t seq);
void serve_fini(struct store *st);

/* --- take.c --- */

int on_records(void *ctx, struct bus_frame *f);
/* That process will not come again: its marks are not needed. */
void take_forget(struct store *st, const char *name, uint64_t incarnation);
/* Into the queues of the sessions here that want it. from: source and slot,
 * whose mark it raises. ERR_FULL. */
int take_message(struct store *st, const struct record *r,
    const struct op *from);

/* --- groups.c --- */

/* Which process gets the copy of a group: a listener (then which incarnation),
 * or from LISTENERS_MAX on a store. */
struct group_pick {
	struct group_id	 id;
	uint64_t	 incarnation;	/* of a node far_hash() */
	uint32_t	 to;
};

void groups_open(struct store *st);
void groups_close(void);
/* A group gained or lost a member; one of s was connected, or is away now. */
void groups_changed(struct store *st, struct index_filter *g);
void groups_connected(struct store *st, struct session *s);
/* It has no member here and goes. */
void groups_forget(struct store *st, struct index_filter *g);
/* What the router is to know of it: group_count(). */
uint32_t groups_count(const struct index_filter *g);
/* For the groups in found (only one of them, unless that is NULL), of all members
 * or of those of this node (near): GROUPS_MAX fit in out. Returns how many; a group nobody is a member of is counted. */
size_t groups_pick(struct store *st, const struct record *r,
    const struct routes_found *found, const struct group_id *only, bool near,
    struct group_pick *out);
/* The members here that get r for the groups its extension names, behind the n
 * targets there are; a group without any is looked for elsewhere. Returns how
 * many there are in all, in *targets; ERR_NOMEM. */
int groups_targets(struct store *st, const struct record *r,
    const struct op *from, struct store_target **targets, int n);
/* s has no connection any more, or ends: what it got for groups goes to others,
 * if any is connected, or when it ends to any. ERR_FULL: the log takes no more
 * now. */
int groups_leave(struct store *st, struct session *s, bool ends);
/* For bus_peer_unacked(): what a listener that died had for groups. */
bool groups_again(void *ctx, uint64_t seq, const struct record *r);

/* --- onward.c --- */

/* Publish r, whose id is ours: to whoever wants it, until all have it. QoS 0:
 * once. The log has it already, at pos. */
void onward_publish(struct store *st, const struct record *r, uint64_t pos,
    bool again);
bool onward_room(const struct store *st);
/* After a replay: what has not gone to all is retained, as its publishers know. */
void onward_restore(struct store *st);
/* Publish what a start found, once it is known to whom. */
void onward_turn(struct store *st);
/* The oldest that not all have; the end of the log if there is none. */
uint64_t onward_first(const struct store *st);
/* All of them as a record, into buf unless that is NULL; returns its size. */
size_t onward_save(const struct store *st, uint8_t *buf);
int onward_load(struct store *st, const struct slice *record);
/* Take r in as its source: into the log, and onward. from: source and slot
 * whose mark it raises; handle and pid, when it is that session's QoS 2, handle
 * and `back`, when a group takes back its entry at offset, handle alone, its will.
 * Of RECORD_GROUPS it is for the one group that its extension names, and for
 * nobody else. ERR_FULL. */
int onward_take(struct store *st, struct record *r, const struct op *from);
void onward_replay(struct store *st, const struct op *o, uint64_t pos);
void onward_acked(struct store *st);
/* The stream to that store has room again. */
void onward_catch_up(struct store *st, struct peer *p);
void onward_tick(struct store *st);
void onward_fini(struct store *st);

/* --- retained.c --- */

int retained_open(struct store *st);
void retained_limits(struct store *st);	/* the configuration changed */
/* r is retained in that version, unless there is a newer one. ERR_FULL: too many. */
int retained_set(struct store *st, const struct record *r, uint64_t version,
    uint64_t node);
/* The same of one that has its version. 1: it stands; 0: a newer one does. */
int retained_put(struct store *st, const struct retain_msg *m);
int retained_replay(struct store *st, const void *data, size_t len);
void retained_ask(struct store *st, uint32_t listener,
    const struct session_msg *e);
/* Is it at its limits? Of a listener that asks, and of one message. */
void retained_tell(struct store *st, uint32_t listener);
void retained_may(struct store *st, uint32_t listener,
    const struct session_msg *e);
/* A moment between two retained messages that came live. */
uint32_t retained_now(void);
/* A retained message, of that id, came live for n targets (or an error): how
 * many are left, in front, without those that got it as retained before. */
int retained_live(const struct msgid *id, struct store_target *t, int n);
/* That session is given what EXT_ONCE tells; false: it has had it. */
bool retained_give(const struct slice *once, uint64_t handle);
void retained_tick(struct store *st);
int retained_note_all(struct store *st);	/* for the checkpoint. ERR_NOMEM */

/* --- main.c --- */

void main_progress(struct store *st);

/* --- query.c --- */

int on_query(void *ctx, struct bus_frame *f);

/* --- export.c --- */

long export_page(struct store *st, const struct query *q, uint8_t *buf,
    size_t size);

/* --- import.c --- */

/* from: which tool says it. */
long import_batch(struct store *st, const struct query *q, uint64_t from,
    uint8_t *buf, size_t size);
/* Is s being brought in? Then it has no end yet, and no connection. */
bool import_is_under_way(const struct session *s);
void import_fini(void);

extern struct metric
    m_exported, m_imported, m_ended_by_tool, m_queue, m_bodies,
    m_body_bytes, m_suback_waiting, m_attach_waits, m_refused,
    m_records_refused, m_serve_lost, m_unreadable, m_damaged, m_replayed,
    m_again, m_sessions_expired, m_retained_expired, m_queries, m_listeners,
    m_sessions, m_holders, m_grants, m_takeovers, m_taken, m_duplicates,
    m_kept, m_delivered, m_acked, m_dropped_full, m_dropped_expired,
    m_log_bytes, m_writes, m_syncs, m_disk_full, m_fib_evicted,
    m_dropped_memory, m_wills, m_retained, m_retained_bytes, m_onward,
    m_onward_due, m_onward_lost, m_shared_redispatched, m_shared_nobody,
    m_retained_refused, m_checkpoints, m_checkpoint_failures, m_snapshots,
    m_segments_dropped, m_log_size, m_moved, m_rivals, m_released,
    m_claims_known;

#endif

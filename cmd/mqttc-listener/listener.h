/*
 * listener.h: what the files of mqttc-listener share. The process is one loop:
 * it reads what clients and peers sent, matches, appends to output buffers and
 * streams, and at the end of each turn writes every one of them once.
 *
 *	main.c		wiring, the turn, drain
 *	accept.c	listening sockets, limits
 *	client.c	one client's socket: reading, parking, closing
 *	poll.c		which of them the kernel has news of
 *	out.c		its output buffer
 *	connect.c	CONNECT, one holder per client id, DISCONNECT
 *	subscribe.c	SUBSCRIBE, UNSUBSCRIBE, SUBACKs that wait for routes
 *	publish.c	one PUBLISH on its way: local match, FIB, streams
 *	deliver.c	to one client: window, queue, encoding
 *	answers.c	PUBACK and PUBREC in order, once all have taken it
 *	groups.c	shared subscriptions: who of a group gets it
 *	flow.c		streams from and to other processes
 *	far.c		... of other nodes
 *	session.c	the desk: who holds a client id, what a store keeps
 *	retained.c	retained messages asked for and got
 *	routes.c	what we tell the router, and the FIB it gives us
 *	sys.c		$SYS, metrics
 *	query.c		questions of the tools
 *	handover.c	another process takes our place, or we take another's
 *	parcel.c	what passes between the two
 */
#ifndef LISTENER_H
#define LISTENER_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/blob.h"
#include "base/htab.h"
#include "base/util.h"
#include "base/wheel.h"
#include "bus/bus.h"
#include "conf/conf.h"
#include "metric/metric.h"
#include "mqtt/decode.h"
#include "mqtt/encode.h"
#include "proc/proc.h"
#include "proto/handover.h"
#include "proto/msgid.h"
#include "proto/record.h"
#include "proto/session.h"
#include "retain/lately.h"
#include "route/far.h"
#include "route/match.h"
#include "route/tell.h"
#include "session/inbound.h"
#include "session/message.h"
#include "session/mqueue.h"
#include "session/roster.h"
#include "share/pick.h"
#include "topic/index.h"
#include "window/window.h"

enum {
	READ_SIZE	= 128 * 1024,	/* one read(2) */
	STASH_SMALL	= 32 * 1024,	/* copied in front of the next read */
	TURN_DELIVERIES	= 8192,		/* then the others' turn */
	TURN_BYTES	= 4 << 20,
	SHARE_MIN	= 512,		/* payloads above are shared, not copied */
	OUT_EAGER	= 256 * 1024,	/* output of one client written early */
	DEAF_MAX	= 64 * 1024,	/* read of who does not read us */
	ANSWERS_MAX	= 1024,		/* unanswered PUBLISHes of a 3.x client */
	SUBACKS_MAX	= 1024,		/* SUBACKs of a client not yet due */
	ALIASES_OUT_MAX	= 32,		/* topics we alias towards a client */
	ALIASES_IN_BYTES = 4 << 20,	/* topics a client may give aliases */
	PEERS_MAX	= 1024,		/* listeners of a node */
	STORES_MAX	= 64,		/* session-stores of a node */
	PEERS_ALL	= PEERS_MAX + STORES_MAX,
	FAR_FROM	= PEERS_ALL,	/* in listener.peers: far.c */
	PEERS_END	= FAR_FROM + FARS_MAX * FAR_LINKS_MAX * 2,
	PICKS_MAX	= 2048,		/* groups that get one message */
	STALLED_MS	= 1000,		/* then a peer stands still */
};

struct listener;
struct conn;
struct peer;
struct kept;

/* --- Output of one client: out.c --- */

struct chunk {
	struct chunk	*next;
	struct blob	*blob;		/* a shared payload, or NULL: data */
	uint32_t	 begin, end;	/* bytes of data (or blob) not written */
	uint32_t	 cap;		/* of data; 0 with a blob */
	uint8_t		 data[];
};

struct out {
	struct chunk	*head, *tail;
	size_t		 bytes;		/* not yet written */
};

/* --- Answers in order: answers.c --- */

struct wait {
	struct peer	*peer;
	uint64_t	 epoch;		/* of the peer; another: it is gone */
	uint64_t	 seq;
};

struct answer {
	uint16_t	 id;
	uint8_t		 type;		/* MQTT_PUBACK, MQTT_PUBREC */
	uint8_t		 reason;
	uint16_t	 nwaits;
	bool		 straight;	/* it went to others by no store */
	struct wait	 one;		/* if nwaits is 1 */
	struct wait	*many;		/* if it is more */
};

struct answers {
	struct answer	*ring;		/* power of two */
	uint32_t	 cap, head, n;
	uint32_t	 nstraight;	/* of them */
};

/* --- Topic aliases: deliver.c (ours), publish.c (the client's) --- */

struct alias_in {
	uint16_t	 len;
	uint8_t		 topic[];
};

struct alias_out {
	uint64_t	 hash;
	uint16_t	 len;
	uint8_t		*topic;
};

struct aliases {
	struct alias_in	**in;		/* by alias - 1 */
	uint32_t	  in_bytes;	/* of their topics */
	uint16_t	  nin;
	uint16_t	  nout;
	struct alias_out  out[ALIASES_OUT_MAX];
};

enum conn_state {
	CONN_NEW,			/* no CONNECT yet */
	CONN_ATTACHING,			/* its desk has not answered yet */
	CONN_OPEN,
	CONN_CLOSING,			/* last bytes on their way out */
	CONN_DOOMED			/* freed when nothing holds it */
};

struct conn {
	struct conn	*next, **prev;	/* of all that have a socket */
	struct wheel_node timer;	/* connect timeout, then keep-alive */
	struct index_owner subs;
	struct out	 out;
	struct conn	*dirty_next;
	struct conn	*list_next;	/* parked, or waiting */
	struct conn	*doom_next;

	uint8_t		*stash;		/* bytes of packets not yet whole */
	uint32_t	 stash_len, stash_cap, stash_need;

	char		*client_id;	/* NUL-terminated, heap */
	uint64_t	 id_hash;
	uint64_t	 attach_ns;	/* the later holder wins */
	char		*username;
	uint64_t	 serial;	/* of this connection at its desk; 0 */
	uint64_t	 handle;	/* of its session in the store; 0: none */
	struct attach	*attach;	/* CONN_ATTACHING: session.c */
	struct window	*window;
	struct mqueue	*mqueue;
	struct answers	*answers;
	struct aliases	*aliases;
	struct kept	*kept;		/* groups.c: sent, unanswered */
	struct sourced	*sourced;	/* publish.c: by way of a store */
	struct inbound	 inbound;	/* QoS 2 between PUBLISH and PUBREL */

	uint64_t	 since_ms;	/* connected; wall clock */
	uint64_t	 heard_ms;	/* last packet, or much of one */
	uint64_t	 msgs_in, msgs_out, bytes_in, bytes_out;
	uint32_t	 dropped;
	uint32_t	 fan_no, fan_slot;	/* publish.c: overlapping */
	uint32_t	 unheard;	/* bytes it sent since its output is full */
	uint32_t	 holds;		/* what still points here */
	uint32_t	 nsub_waits;	/* SUBACKs not sent yet */
	uint32_t	 subs_pass;	/* see subscribe_answer() */
	uint32_t	 max_packet;	/* the client's; 0: none */
	uint32_t	 packet_granted;	/* what CONNACK said of ours */
	uint32_t	 asked;		/* retained.c: on their way to it */
	uint16_t	 client_id_len;
	uint16_t	 receive_maximum;	/* the client's */
	uint16_t	 inflight_in;	/* its unfinished QoS 1 and 2 */
	uint16_t	 alias_max;	/* the client's */
	uint16_t	 receive_granted;
	uint16_t	 alias_granted;
	uint16_t	 keepalive_s;
	uint16_t	 parked_for;	/* the peer out of credit, + 1 */
	uint8_t		 parked_qos;	/* of the message it was about */
	uint8_t		 qos_granted;
	uint8_t		 version;
	uint8_t		 state;		/* enum conn_state */
	int		 fd;
	uint32_t	 poll_tag;	/* tells it from others of that fd */
	bool		 clean_start : 1;
	bool		 dirty : 1;	/* in the list of outputs to write */
	bool		 blocked : 1;	/* socket full: EPOLLOUT will tell */
	bool		 parked : 1;	/* not read: see client_park() */
	bool		 held : 1;	/* parked: its PUBLISH comes again */
	bool		 straight : 1;	/* QoS 0 of it went by no store */
	bool		 may_asked : 1;	/* its PUBLISH may be retained? */
	bool		 may_told : 1;	/* ... the answer is: */
	bool		 may_not : 1;
	bool		 deaf : 1;	/* not read: it does not read either */
	bool		 waiting : 1;	/* has whole packets for the next turn */
	bool		 graceful : 1;	/* DISCONNECT 0x00: no will */
	bool		 eof : 1;	/* nothing more is read */
	bool		 wants_in : 1;	/* of the kernel: see poll.c */
	bool		 wants_out : 1;
	bool		 unread : 1;	/* not all was read that was told */
	bool		 ends : 1;	/* it shut its side, or broke */
	bool		 expiry_asked : 1;	/* CONNECT had a session expiry */
	bool		 placed : 1;	/* it is the holder here */
	bool		 attached : 1;	/* its desk knows it by serial */
	bool		 corked : 1;	/* nothing leaves: session.c */
	bool		 has_will : 1;	/* at its desk */
	bool		 alone : 1;	/* without its desk: siblings hear */
	bool		 has_expiry : 1;	/* DISCONNECT gave one: */
	uint32_t	 expiry_s;
	bool		 ended : 1;	/* connect_end() was here */
};

/* --- One message on its way: publish.c --- */

struct encoded {
	uint32_t	 off, len;	/* in listener.enc */
	uint32_t	 size;		/* of the whole packet */
	uint32_t	 id_at;
	bool		 whole;		/* payload included */
	bool		 made;
};

struct pub {
	struct message_view v;
	struct msgid	 id;
	struct slice	 client_id;	/* the publisher's, for no local */
	struct conn	*from;		/* NULL: a will, $SYS, another process */
	struct blob	*blob;		/* shared payload, made when needed */
	struct message	*m;		/* queued form, made when needed */
	struct encoded	 enc[8];	/* by version 5, QoS > 0, retain */
};

struct target {
	struct conn	*c;
	struct mqueue_how how;
};

/* Who gets a message for a group. */
struct pick {
	struct group_id	 id;
	uint32_t	 to;		/* in listener.peers */
	struct index_filter *local;	/* it is us, and this the group */
};

/* A fan-out larger than one turn: at most one at a time. */
struct job {
	bool		 active;
	struct pub	 pub;		/* its view borrowed from pub.m */
	struct target	*targets;	/* each conn held; their ids behind */
	size_t		 n, next;
	struct answer	 answer;	/* owed to pub.from; type 0: none */
};

/* --- The process --- */

struct peer {				/* another listener, or a store */
	struct bus_peer	*bus;		/* NULL: not running */
	uint64_t	 incarnation;
	uint64_t	 epoch;		/* rises each time bus changes */
	uint64_t	 told;		/* incarnation that heard who is here */
	struct roster	 roster;	/* of a store: what it has stored */
	struct roster	 coming;	/* ... parts of it */
	uint64_t	 moved_ms;	/* it acknowledged, or owed nothing */
	bool		 strained;	/* QoS 0 publishers rest for it */
	bool		 is_store;	/* taken means stored */
	bool		 down;		/* a store that does not run */
	bool		 full;		/* a store: ask before one is retained */
	struct waiter	*waiters;	/* ring: who waits for which seq */
	uint32_t	 nwaiters, cap_waiters, head_waiters;
};

struct sub_wait;

struct listener {
	struct proc	*proc;
	struct ev_loop	*loop;
	const struct conf *conf;
	struct bus	*bus;
	struct index	*index;
	struct htab	 clients;	/* by client id */
	uint64_t	 seed;
	struct msgid_gen ids;
	struct wheel	 wheel;
	uint64_t	 now_ms;	/* monotonic, of this turn */

	ev_prepare	 prepare;
	ev_check	 check;
	ev_timer	 tick;
	ev_idle		 again;		/* more to do without waiting */

	uint32_t	 budget_deliveries;
	uint32_t	 budget_bytes;

	uint8_t		*readbuf;
	uint8_t		*enc;		/* scratch: encoded packets */
	size_t		 enc_len, enc_cap;
	uint8_t		*props;		/* scratch: forwarded properties */
	size_t		 props_cap;

	struct conn	*conns;		/* all that have a socket */
	struct conn	*dirty, *doomed, *waiting;
	struct conn	*parked, **parked_tail;	/* the longest first */
	size_t		 nconns;
	size_t		 nready;	/* of them, past CONNECT */
	struct chunk	*pool_small, *pool_big;
	uint32_t	 npool_small, npool_big;

	struct target	*targets;
	size_t		 cap_targets;
	uint32_t	*sub_ids;	/* subscription identifiers of targets */
	size_t		 cap_sub_ids;
	uint32_t	 fan_no;
	struct job	 job;

	/* groups.c */
	struct htab	 groups;	/* those with members here, by id */
	struct share_table shares;
	uint64_t	 random;
	uint64_t	 pick_no;
	struct pick	*picks;		/* of the message on its way */
	size_t		 npicks, cap_picks;

	/* accept.c */
	struct acceptor	*acceptors;
	size_t		 nacceptors;
	int		 spare_fd;
	bool		 full;		/* shared sockets are given back */
	size_t		 full_at;	/* no descriptor was left at so many; 0 */
	uint64_t	 full_ms;	/* since when */
	uint64_t	 accept_ms;	/* not before this; 0 */

	/* poll.c */
	ev_io		 poll;
	int		 poll_fd;
	uint32_t	 poll_tag;	/* last given */
	struct conn	**by_fd;
	size_t		 cap_by_fd;

	/* flow.c */
	struct peer	 peers[PEERS_END];	/* stores from PEERS_MAX on,
						 * other nodes from FAR_FROM */
	uint32_t	 self;		/* our own instance */
	uint32_t	 nstores;	/* shards of this node */
	uint64_t	 full_stores;	/* bits of those whose disk is full */
	uint32_t	 nremote;	/* peers with a stream */

	/* far.c */
	struct route_fars fars;

	/* session.c */
	struct htab	 serials;	/* connections the desks know */
	uint64_t	 serial;	/* last given */
	size_t		 ncorked;

	/* routes.c */
	struct route_tell tell;		/* the router our rows */
	struct route_fib fib;		/* what it knows of others */
	struct sub_wait	*subs_head, **subs_tail;
	size_t		 nsub_waits;
	uint32_t	 subs_pass;
	bool		 subs_due;	/* some need look again */

	/* handover.c */
	int		 handover_fd;	/* to our successor; -1: none */

	/* sys.c */
	uint64_t	 started_ms;
	uint64_t	 sys_due_ms;
	bool		 draining;
	uint64_t	 drain_ms;	/* since when */
	bool		 ready;
	bool		 unpark;	/* at the end of this turn */
};

static inline struct conn *
conn_of(struct index_owner *o)
{
	return CONTAINER_OF(o, struct conn, subs);
}

static inline bool
turn_is_over(const struct listener *l)
{
	return l->budget_deliveries == 0 || l->budget_bytes == 0;
}

static inline void
turn_spend(struct listener *l, size_t bytes)
{
	l->budget_deliveries -= l->budget_deliveries > 0;
	l->budget_bytes -= (uint32_t)MIN(bytes, l->budget_bytes);
}

/* --- out.c --- */

/* c takes nothing, and as much as we keep for it is waiting. */
static inline bool
out_is_choked(const struct listener *l, const struct conn *c)
{
	return c->blocked && c->out.bytes >= l->conf->listener_output_max;
}

/* Room for n bytes in a row at the end of c's output, to be filled now; they
 * leave at the end of the turn. NULL if out of memory: the client is doomed. */
uint8_t *out_reserve(struct listener *l, struct conn *c, size_t n);
/* Append len bytes of b behind what is there; takes its own reference. */
bool out_blob(struct listener *l, struct conn *c, struct blob *b, size_t len);
/* Write what can be written. */
void out_flush(struct listener *l, struct conn *c);
void out_flush_dirty(struct listener *l);
void out_clear(struct listener *l, struct conn *c);
void out_pool_free(struct listener *l);

/* --- poll.c --- */

int poll_open(struct listener *l);	/* ERR_IO */
void poll_close(struct listener *l);
/* c->fd is new; input is wanted. ERR_IO, ERR_NOMEM. */
int poll_add(struct listener *l, struct conn *c);
/* What client_news is to come for. */
void poll_want(struct listener *l, struct conn *c, bool in, bool out);
void poll_del(struct listener *l, struct conn *c);	/* before close(2) */

/* --- accept.c --- */

void on_sockets(void *ctx, const struct proc_socket *s, size_t n);
void accept_room(struct listener *l);	/* take sockets again if there is */
void accept_tick(struct listener *l);
void accept_stop(struct listener *l);

/* --- client.c --- */

struct conn *client_new(struct listener *l, int fd);
/* Send DISCONNECT with this reason (5.0) and close when it has left. */
void client_close(struct listener *l, struct conn *c, uint8_t reason);
/* Close at the end of the turn; nothing more is sent. */
void client_doom(struct listener *l, struct conn *c);
void client_hold(struct conn *c);
void client_release(struct listener *l, struct conn *c);
/* Wait for what c's state says: input, room for output. */
void client_watch(struct listener *l, struct conn *c);
/* c sent what it may not: count it, say so and close. */
void client_refuse(struct listener *l, struct conn *c, uint8_t reason);
/* Stop reading c until client_unpark_all(): a stream is out of credit, or too
 * much of it is unanswered. Its keep-alive rests meanwhile. */
void client_park(struct listener *l, struct conn *c);
/* The same for want of credit towards p: until it has some. */
void client_park_for(struct listener *l, struct conn *c,
    const struct peer *p, int qos);
void client_unpark_all(struct listener *l);	/* those who may go on */
void client_go_on(struct listener *l, struct conn *c);
/* Go on with those whose turn was over. */
void client_resume_waiting(struct listener *l);
void client_reap(struct listener *l);
void client_due(void *ctx, struct wheel_node *n);
/* c can be read, or written to; it has ended on the other side. */
void client_news(struct listener *l, struct conn *c, bool in, bool out,
    bool ends);
const char *client_peer(const struct conn *c, char *buf, size_t size);

/* --- connect.c --- */

void on_connect(struct listener *l, struct conn *c, const struct mqtt_frame *f);
void on_disconnect(struct listener *l, struct conn *c,
    const struct mqtt_frame *f);
struct conn *connect_find(struct listener *l, const void *id, size_t len);
/* Another listener has had this id since attach_ns. */
void connect_taken(struct listener *l, const void *id, size_t len,
    uint64_t attach_ns, bool wins_tie);
/* The desk agreed: c is the holder of its client id. */
void connect_welcome(struct listener *l, struct conn *c, bool present);
/* CONNACK with this reason, and the end. */
void connect_refuse(struct listener *l, struct conn *c, unsigned version,
    uint8_t reason);
/* c has its client id from another process: it is that id's holder here. */
int connect_restore(struct listener *l, struct conn *c);
/* The session of c is over: will, subscriptions, everything. */
void connect_end(struct listener *l, struct conn *c);

/* --- session.c --- */

/* A CONNECT that waits for its desk. */
struct attach {
	uint64_t	 seq;		/* of the routes it brings */
	uint32_t	 expiry_s;	/* as granted */
	bool		 durable;
	bool		 assigned;	/* the client id is ours */
	bool		 wants_info;	/* response information */
	bool		 keepalive_told;
	bool		 expiry_told;
};

/* Ask the desk of c's client id for it; c->attach is set. k's will goes along.
 * ERR_FULL: the stream to it has no room; ERR_NOMEM. */
int session_attach(struct listener *l, struct conn *c,
    const struct mqtt_connect *k);
/* c waited as long as it may. */
void session_due(struct listener *l, struct conn *c);
/* Routes are acknowledged, or renumbered: seq; some wait for that. */
void session_routed(struct listener *l);
void session_rebase(struct listener *l, uint64_t seq);
/* Ends whose messages others have now may be told; true if none is left. */
bool session_told(struct listener *l, bool all);
/* A successor is about to go on: nothing of these may wait. */
void session_settle(struct listener *l);
/* The connection of c ended. */
void session_detach(struct listener *l, struct conn *c);
/* The client answered what its store sent. */
void session_ack(struct listener *l, const struct conn *c, uint8_t type,
    uint16_t id, bool rejected);
/* PUBREL came for a QoS 2 message of a durable session. */
/* id is free for another QoS 2 message; PUBCOMP follows. */
void session_release(struct listener *l, struct conn *c, uint16_t id);
/* Tell its store of a subscription, or of its end; token comes back to
 * subscribe_stored. ERR_FULL, ERR_NOMEM. */
int session_subscribe(struct listener *l, const struct conn *c,
    const struct topic_sub *s, uint8_t options, uint32_t sub_id,
    uint32_t token, bool remove);
/* Give c a serial, if it has none. ERR_NOMEM. */
int session_number(struct listener *l, struct conn *c);
struct conn *session_find(const struct listener *l, uint64_t serial);
/* The store that a client id, or a retained topic, belongs to. */
struct peer *session_shard(struct listener *l, const void *key, size_t len);
int session_send(struct listener *l, struct peer *p,
    const struct session_msg *e);
void session_flush(struct listener *l);	/* what somebody waits for */
void session_flush_all(struct listener *l);
int on_serve(void *ctx, struct bus_frame *f);
void session_up(struct listener *l, struct peer *p);	/* a new incarnation */
/* Ask the stores which client ids may have something stored. */
void session_ask_roster(struct listener *l, struct peer *p);
int session_restore(struct listener *l, struct conn *c);
void session_fini(struct listener *l);

/* --- retained.c --- */

/* A store published this one, which it retains. */
void retained_live(const struct msgid *id);
/* A moment between two of them. */
uint32_t retained_now(void);
/* Ask all stores for what is retained under filter, for c, which gets what is
 * published since then; through its store, since kept_since, by its count. */
void retained_ask(struct listener *l, struct conn *c, const struct slice *filter,
    uint8_t options, uint32_t sub_id, uint32_t since, uint32_t kept_since);
/* What store (an index of peers) answers for c. */
void retained_take(struct listener *l, struct conn *c, uint32_t store,
    const struct session_msg *e, const struct slice *apart);
void retained_tick(struct listener *l);
void retained_turn(struct listener *l);
void retained_up(struct listener *l);	/* a new incarnation of a store */
void retained_fini(void);
/* As another process knows it: what is to be asked for when there is room; what
 * came live, into a buffer of RETAINED_SAVE bytes. */
enum { RETAINED_SAVE = LATELY_MAX * HANDOVER_LIVE_ID };
int retained_each(const struct listener *l, int (*each)(void *ctx,
    const struct handover_ask *row), void *ctx);
int retained_restore(struct listener *l, const struct handover_ask *row);
size_t retained_save(uint8_t *buf);
void retained_load(const struct handover_live *row);

/* --- subscribe.c --- */

/* The store has kept, or refused, what token named: SERVE_SUBACK. */
void subscribe_stored(struct listener *l, const struct session_msg *e);
/* It begins anew: what it has not answered is told again. */
void subscribe_again(struct listener *l, const struct peer *store);

void on_subscribe(struct listener *l, struct conn *c,
    const struct mqtt_frame *f);
void on_unsubscribe(struct listener *l, struct conn *c,
    const struct mqtt_frame *f);
/* Routes up to l->route_acked are everywhere, or time is up for some. */
void subscribe_answer(struct listener *l);
/* A snapshot replaced everything not yet acknowledged. */
void subscribe_rebase(struct listener *l, uint64_t seq);
void subscribe_free(struct listener *l);
/* SUBACKs and UNSUBACKs not sent yet, in order, as another process knows
 * them. */
struct sub_wait_view {
	struct conn	*c;
	uint64_t	 seq, deadline_ms;
	uint16_t	 id;
	uint8_t		 type;
	struct slice	 codes;		/* and what to ask for */
	uint32_t	 token, unstored;
	bool		 asks;
	struct slice	 packet;
	uint32_t	 since, kept_since;
};
/* The last token given; set, to go on after another process. */
uint32_t subscribe_token(uint32_t token, bool set);
int subscribe_each(const struct listener *l, int (*each)(void *ctx,
    const struct sub_wait_view *w), void *ctx);
int subscribe_restore(struct listener *l, const struct sub_wait_view *w);

/* --- publish.c --- */

void on_publish(struct listener *l, struct conn *c, const struct mqtt_frame *f);
void on_pubrel(struct listener *l, struct conn *c, const struct mqtt_frame *f);
/* Is this a topic of ours, that clients may only read? 4.7.2 */
bool publish_is_reserved(const struct slice *topic);
/* Publish on nobody's socket: a will, an event, a figure. */
void publish_own(struct listener *l, const struct message_view *v,
    struct slice client_id, bool local_only);
/* From another process. */
void publish_record(struct listener *l, const struct record *r,
    struct blob *payload);
/* What r carries, as it goes on; payload is a blob that its own lies in, or
 * NULL. Then pub_fini. */
void publish_of_record(struct pub *p, const struct record *r,
    struct blob *payload);
void pub_fini(struct pub *p);
void publish_job(struct listener *l);	/* go on with the large fan-out */
void publish_fini(struct listener *l);
void publish_forget(struct conn *c);
/* A store answers whether what c publishes may be retained. */
void publish_may(struct listener *l, struct conn *c,
    const struct session_msg *e);
/* c is held: is what it has to stay behind still on its way? */
bool publish_is_held(const struct listener *l, const struct conn *c);
/* What c published through stores, and past them, as another process knows it:
 * for at most PUBLISH_SAVE bytes. 0: nothing. */
enum { PUBLISH_SAVE = (3 + STORES_MAX) * 8 };
size_t publish_save(const struct listener *l, const struct conn *c,
    uint8_t *buf);
int publish_load(struct listener *l, struct conn *c, const struct slice *s);

/* --- deliver.c --- */

void deliver(struct listener *l, struct pub *p, struct conn *c,
    const struct mqueue_how *how);
/* p->m, the form in which p is kept: made when it is not there yet, with a
 * large payload shared. NULL if out of memory. */
struct message *deliver_message(struct listener *l, struct pub *p);
/* Would c get p now, or later out of its queue, with nothing dropped for it? */
bool deliver_has_room(struct listener *l, const struct pub *p, struct conn *c,
    const struct mqueue_how *how);
/* Is p larger than c takes [MQTT-3.1.2-24]? */
bool deliver_is_too_large(const struct pub *p, const struct conn *c,
    const struct mqueue_how *how);
/* The window or the socket has room: send what is queued. */
void deliver_queued(struct listener *l, struct conn *c);
/* What the store of c's session sends; id is the packet identifier. False: the
 * client cannot take it, ever. */
bool deliver_served(struct listener *l, struct conn *c,
    const struct message_view *v, const struct mqueue_how *how, uint16_t id,
    bool dup);
void on_puback(struct listener *l, struct conn *c, const struct mqtt_frame *f);
void aliases_free(struct aliases **a);

/* --- groups.c --- */

/* A group got its first member, or has lost its last and goes. */
int groups_learn(struct listener *l, struct index_filter *g);
void groups_forget(struct listener *l, struct index_filter *g);
/* What the router is to know of it: group_count(). */
uint32_t groups_count(const struct index_filter *g);
/* Fill l->picks: who gets p for each group, of the nfound filters that match
 * here and of those the FIB knows. */
void groups_pick(struct listener *l, const struct pub *p,
    struct index_filter *const *found, int nfound,
    const struct routes_found *r);
/* Hand p to our own members among l->picks. */
void groups_deliver(struct listener *l, struct pub *p);
/* p came as r, for groups. */
void groups_record(struct listener *l, struct pub *p, const struct record *r);
/* Who should have taken r is gone: pick again. */
void groups_again(struct listener *l, const struct record *r);
/* Does it matter later whose a message was? */
static inline bool
groups_keep_id(const struct listener *l)
{
	return UNLIKELY(l->conf->mqtt_shared_strategy == SHARE_HASH_CLIENTID);
}

/* May c have more that is to be kept? */
bool groups_may_send(const struct listener *l, const struct conn *c);
/* c was sent p for this group with QoS 1 and this packet identifier. */
void groups_keep(struct listener *l, struct conn *c, struct pub *p,
    const struct group_id *group, uint16_t id);
/* The same for a successor; takes its own reference. ERR_NOMEM. */
int groups_keep_message(struct conn *c, struct message *m,
    struct group_id group, uint16_t id);
/* Walk what c has not answered; each() returns nonzero to stop. */
int groups_each_kept(const struct conn *c, int (*each)(void *ctx,
    struct message *m, struct group_id group, uint16_t id), void *ctx);
/* c, whose kept is not NULL, answered that. */
void groups_answered(struct conn *c, uint16_t id);
/* A member is gone, its subscriptions too: what it had not answered and what it
 * was not sent goes to others. Frees both; each may be NULL. */
void groups_leave(struct listener *l, struct kept *kept, struct mqueue *q);
/* The queue of a member had no room for these: to others that have. Empties it;
 * returns how many nobody took. */
int groups_pass_over(struct listener *l, struct mqueue *left);
void groups_fini(struct listener *l);

/* --- answers.c --- */

/* Has that peer taken it, or died? */
bool answer_is_taken(const struct wait *w);
/* Owe c an answer; it goes out now if nothing is before it and w is empty. */
void answer_add(struct listener *l, struct conn *c, const struct answer *a);
void answer_got(struct listener *l, struct peer *p, uint64_t seq);
void answer_lost(struct listener *l, struct peer *p);
void answers_free(struct answers **a);
/* Is an answer of c's waiting for what went straight to others? */
bool answers_straight(const struct conn *c);
/* Unpark c, which is held, when w is taken. False if out of memory. */
bool answer_watch(struct conn *c, const struct wait *w);
/* As another process knew them: an answer at the end of c's queue; who waits
 * for p, in the order of seq. ERR_NOMEM. */
int answer_restore(struct conn *c, const struct answer *a);
int answer_waiter_restore(struct peer *p, struct conn *c, uint64_t seq);
/* 0, or what each returned that was not 0. */
int answer_waiters_each(const struct peer *p, int (*each)(void *ctx,
    const struct conn *c, uint64_t seq), void *ctx);

/* --- flow.c --- */

void on_peers(void *ctx, const struct proc_peer *peers, size_t n);
int flow_open(struct listener *l);
void flow_close(struct listener *l);
void flow_attach(struct listener *l, const struct conn *c);
/* Everybody who runs has what we sent. A store that does not gets no more from
 * us, and finds us gone when it is back. */
bool flow_is_idle(const struct listener *l);
void flow_flush(struct listener *l);
/* Send p to the other listeners of the node that r names and that l->picks
 * picked; fills waits for an answer and says in *blocked which stream a
 * publisher of that QoS should rest for, or NULL. Returns how many listeners
 * those are, or ERR_FULL: refused, the answer is 0x97; ERR_NOMEM. */
int flow_publish(struct listener *l, struct pub *p, struct routes_found *r,
    struct answer *a, struct peer **blocked);
/* Let store s publish p, as its source: it is retained, or (session, which is
 * durable, and its packet id) of QoS 2. Fills a's wait. ERR_FULL, ERR_NOMEM. */
int flow_source(struct listener *l, struct pub *p, struct peer *s,
    const struct conn *session, uint16_t id, struct answer *a);
/* Hand p to the store of durable session c, for it alone. The same errors, and
 * it is counted. */
int flow_give(struct listener *l, struct pub *p, const struct conn *c,
    const struct mqueue_how *how);
/* The same for what is retained: not if the store has given c that message
 * since then. */
int flow_give_retained(struct listener *l, struct pub *p, const struct conn *c,
    const struct mqueue_how *how, uint32_t since);
/* Send p to who was picked for one group, after so many hops. ERR_FULL,
 * ERR_NOMEM: nothing was sent. */
int flow_pass(struct listener *l, struct pub *p, const struct pick *to,
    unsigned hops);
/* Is p short of credit, but at work? */
bool flow_is_low(const struct listener *l, const struct peer *p);

/* --- far.c --- */

/* Which peer node `node` of the index is for what that client publishes, its
 * stream opened if need be; 0: there is no memory. */
uint32_t far_instance(struct listener *l, unsigned node, bool durable,
    const struct slice *client);
/* The nodes r->far names, behind r->dests: the live sessions of a node, then
 * its durable ones. */
void far_dests(struct listener *l, const struct slice *client,
    struct routes_found *r);
/* Those with live sessions, listeners and nodes: the next from *i on, NULL at
 * the end. */
struct peer *peer_live(struct listener *l, uint32_t *i);
void far_tick(struct listener *l);
/* The stream to a node of the process whose place we take. ERR_*. */
int far_resume(struct listener *l, uint32_t instance, const char *node);
void far_close(struct listener *l);

/* Is it durable sessions that this peer has? */
static inline bool
peer_is_durable(uint32_t instance)
{
	return instance < FAR_FROM ? instance >= PEERS_MAX :
	    (instance - FAR_FROM) & 1;
}

/* The live sessions of the node whose peer that is. */
static inline uint32_t
far_live(uint32_t instance)
{
	return instance - ((instance - FAR_FROM) & 1);
}

/* --- routes.c --- */

void routes_init(struct listener *l);	/* the bus is open */
/* f has got a subscriber or lost one: the router may have to hear of it, and
 * without any it goes at the end of the turn. */
void routes_changed(struct listener *l, struct index_filter *f);
void routes_flush(struct listener *l);
void on_segment(void *ctx, const struct proc_segment *s);
int on_route_ack(void *ctx, struct bus_frame *f);
void routes_up(struct listener *l);
void routes_turn(struct listener *l);
void routes_fini(struct listener *l);
/* The PUBLISHes at the front of buf are about to be matched. */
void routes_ahead(struct listener *l, const uint8_t *buf, size_t len,
    unsigned version);
/* Would anybody, here or elsewhere, get a message on this topic? */
bool routes_wanted(struct listener *l, const char *topic, size_t len);
/* Who else may have subscribers of topic, if this client publishes to it, and
 * which groups. */
void routes_match(struct listener *l, const char *topic, size_t len,
    const struct slice *client, struct routes_found *r);

/* --- sys.c --- */

void sys_init(struct listener *l);
void sys_tick(struct listener *l);
void sys_client_event(struct listener *l, const struct conn *c,
    const char *event, const char *filter);
void metrics_init(void);

extern struct metric m_clients, m_connects, m_connects_refused,
    m_disconnects, m_keepalive_timeouts, m_takeovers,
    m_accept_refused, m_packets_in, m_packets_out, m_bytes_in, m_bytes_out,
    m_publish_in, m_publish_in_qos0, m_publish_in_qos1, m_publish_in_qos2,
    m_publish_out, m_publish_out_qos0, m_publish_out_qos1, m_publish_out_qos2,
    m_publish_forwarded, m_publish_received, m_publish_dup,
    m_no_subscribers, m_dropped_queue_full, m_dropped_too_large,
    m_dropped_expired, m_dropped_credit, m_dropped_stream_full,
    m_dropped_quota, m_dropped_memory, m_subscriptions, m_filters,
    m_suback_timeouts, m_malformed, m_protocol_errors, m_parked, m_wills,
    m_queued, m_fib_evicted, m_acks_unknown, m_writes, m_reads,
    m_shared_passed_on, m_shared_redispatched, m_shared_nobody,
    m_retained_sent, m_retained_lost, m_retain_refused;

/* --- main.c --- */

void main_progress(struct listener *l);
void main_limits(struct listener *l);	/* of the index, by the configuration */

/* --- handover.c --- */

void on_handover(void *ctx, int fd, bool give);
void handover_expect(void);		/* before there are threads */
/* At the end of a turn: give if somebody is waiting for it. */
void handover_turn(struct listener *l);

/* --- query.c --- */

int on_query(void *ctx, struct bus_frame *f);

#endif

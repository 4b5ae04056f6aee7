/*
 * internal.h: what the files of this room share. One thread runs all of it.
 *
 *	bus.c	  the turn: watchers, which sockets to look at, dispatch
 *	peer.c	  those we send to: DEALER and monitor, hello, frames out
 *	conn.c	  those who send to us: what came over the ROUTER, acks
 *	relay.c	  what goes to another node by way of us, unread
 *	stream.c  the books (pure)
 *
 * A ZeroMQ descriptor is edge-triggered: it tells that commands wait for the
 * socket, and any call on the socket may use those up unseen. So a socket is
 * read until it has no more once its descriptor was readable (`fired`), and
 * after a send of ours it is asked once (`used`) before the loop may sleep.
 */
#ifndef BUS_INTERNAL_H
#define BUS_INTERNAL_H

#include <ev.h>
#include <uthash.h>
#include <zmq.h>

#include "bus/bus.h"
#include "bus/envelope.h"
#include "bus/stream.h"
#include "metric/metric.h"

#define SLOTS_MAX	16		/* streams of one source to us */
#define CONNS_MAX	4096		/* processes that said hello */
#define TOOLS_MAX	64		/* the same, tools; the oldest goes */
#define QUEUE_MAX	64		/* single messages that wait */
#define QUEUE_BYTES	(4 * BUS_BODY_MAX)
#define TURN_FRAMES	64		/* taken from one socket in a turn */
#define TURN_BYTES	(2 * 1024 * 1024)
#define RETRY_S		0.5		/* hello again, if not welcomed */
#define LAZY_ACK_S	0.05		/* an ack nobody waits for */
#define ORIGINS_MAX	8192		/* whose records links handed us */

enum sock_kind { SOCK_ROUTER, SOCK_DEALER, SOCK_MONITOR,
		 SOCK_RELAY_IN, SOCK_RELAY_OUT, SOCK_RELAY_MONITOR };

/* One ZeroMQ socket and its descriptor. */
struct sock {
	enum sock_kind	 kind;
	void		*z;
	ev_io		 io;
	struct bus	*bus;
	struct link	*link;		/* DEALER, MONITOR */
	struct bus_relay *relay;	/* RELAY_* */
	bool		 queued;	/* in bus->look */
	bool		 used;		/* in bus->used */
	struct sock	*look_next;
	struct sock	*used_next;
};

/* One connection we made. Outlives its peer until the end of the turn. */
struct link {
	struct sock	 dealer;
	struct sock	 monitor;
	struct bus_peer	*peer;		/* NULL: given up */
	struct link	*next;		/* in bus->links */
};

/* Single messages that could not leave at once. */
struct queued {
	struct queued	*next;
	enum kind	 kind;
	size_t		 len;
	uint8_t		 body[];
};

struct queue {
	struct queued	*head, *tail;
	size_t		 n, bytes;
};

int queue_push(struct queue *q, enum kind kind, const void *body, size_t len);
void queue_pop(struct queue *q);
void queue_fini(struct queue *q);

enum peer_state { PEER_CONNECTING, PEER_GREETED, PEER_WELCOMED, PEER_REFUSED };

struct bus_peer {
	struct bus	*bus;
	struct bus_peer	*prev, *next;
	char		 name[BUS_NAME_MAX];
	char		*node;		/* another one, by a relay; or NULL */
	uint32_t	 slot;		/* then: by which link of ours; else 0 */
	enum peer_class	 class;
	uint64_t	 incarnation;
	char		 endpoint[BUS_ENDPOINT_MAX];
	uint64_t	 stream;	/* tells it from one opened before */
	void		*user;
	struct link	*link;
	enum peer_state	 state;
	bool		 told_up;	/* events->up without its lost */
	bool		 hello_due;
	bool		 full;		/* a send met ZeroMQ's bound */
	bool		 queued;	/* in bus->dirty */
	struct bus_peer	*dirty_next;
	struct stream_out out;
	struct queue	 singles;
};

/* A stream of the process before us, for bus_peer_open: carry.c. */
struct carried {
	struct carried	*next;
	char		 name[BUS_NAME_MAX];
	char		 node[BUS_NODE_MAX];	/* empty: a neighbour */
	uint64_t	 incarnation;
	uint64_t	 stream;
	struct stream_out out;
};

/* Somebody who said hello on our ROUTER. */
struct conn {
	UT_hash_handle	 hh;		/* by addr.id */
	struct bus_addr	 addr;
	char		 name[BUS_NAME_MAX];
	char		 node[BUS_NODE_MAX];
	enum peer_class	 class;
	bool		 remote;	/* of another node */
	uint64_t	 incarnation;
	uint64_t	 heard;		/* turn of its last message (tools) */
	struct bus_peer	*peer;		/* see bus_from */
	bool		 queued;	/* in bus->acks */
	struct conn	*acks_next;
	uint32_t	 welcome_due;	/* bits of slots */
	struct stream_in in[SLOTS_MAX];
	struct queue	 singles;
};

/* Whose records came through a link: the last id of each. */
struct origin {
	UT_hash_handle	 hh;		/* by slot and name */
	uint64_t	 incarnation;
	uint64_t	 heard;		/* turn of its last frame */
	struct msgid	 last_id;
	size_t		 len;		/* of the key */
	uint32_t	 slot;		/* with the name: the key */
	char		 name[];
};

/* A message as it arrived. */
struct incoming {
	zmq_msg_t	 part[4];	/* address, envelope, body, payload */
	int		 n;
};

struct bus {
	struct ev_loop	*loop;
	void		*ctx;		/* the program's */
	void		*zctx;
	const struct bus_rule *accepts;
	size_t		 naccepts;
	const struct bus_events *events;
	unsigned	 state;
	uint64_t	 clock;
	uint32_t	 credit, stream_max;
	char		 name[BUS_NAME_MAX];
	char		 node[BUS_NODE_MAX];
	char		 endpoint[BUS_ENDPOINT_MAX];
	uint64_t	 incarnation;
	uint64_t	 turn;
	uint64_t	 serial;	/* names monitors and streams */

	struct sock	 router;
	struct sock	 outer;		/* for other nodes; z NULL: none */
	ev_prepare	 prepare;
	ev_check	 check;
	ev_idle		 idle;		/* active: do not sleep */
	ev_timer	 retry, lazy;

	struct sock	*look;		/* to be read */
	struct sock	*used;		/* to be asked */
	struct bus_peer	*dirty;		/* have something to send */
	struct conn	*acks;		/* have something to acknowledge */
	struct bus_peer	*peers;
	size_t		 npeers;
	struct link	*links;
	bool		 links_given_up;
	struct conn	*conns;		/* uthash */
	size_t		 ntools;
	struct origin	*origins;	/* uthash */
	struct bus_relay *relays;
	bool		 singles_wait;	/* some conn has queued ones */
	struct stream_pool pool;
	struct carried	*carried;
	size_t		 ncarried;
	struct conn	*import_conn;	/* whose slots come next */
	bool		 bound;

	bool		 paused;	/* bus_pause */
	bool		 router_waits;	/* its descriptor is not watched now */
	bool		 holding;	/* `frame` is to be handled again */
	struct incoming	 in;		/* what `frame` lies in */
	struct bus_frame frame;		/* last one taken from the ROUTER */
	struct conn	*frame_conn;
	uint32_t	 frame_slot;
};

/* --- bus.c ------------------------------------------------------------- */

int sock_open(struct bus *b, struct sock *s, enum sock_kind kind,
    struct link *l, void *z);
int sock_monitor(struct bus *b, struct sock *s, enum sock_kind kind, void *of,
    int events);	/* a monitor of socket `of`; set s->link or relay */
void sock_close(struct sock *s);
void sock_todo(struct sock *s);		/* read it in the next ev_check */
void sock_used(struct sock *s);		/* we sent on it */

/* The parts of one message: 1, ERR_AGAIN if there is none, ERR_PROTO if it has
 * fewer than min or more than max parts (then it is gone). Parts go to
 * in->part[first...]. */
int incoming_recv(struct incoming *in, void *z, int first, int min, int max);
void incoming_fini(struct incoming *in);

/* Find the rule and call it. ERR_AGAIN: the handler wants it kept. */
int bus_dispatch(struct bus *b, struct bus_frame *f);

/* Envelope filled with who we are. */
void bus_envelope(const struct bus *b, Envelope *e, enum kind kind);

/* Send bytes or a blob's bytes (referenced) as one part; as zmq_msg_send. */
int send_bytes(void *z, const void *bytes, size_t len, int flags);
int send_shared(void *z, struct blob *blob, const uint8_t *at, size_t len,
    int flags);

void bus_peer_touch(struct bus_peer *p);	/* into bus->dirty */

/* --- peer.c ------------------------------------------------------------ */

void peer_flush(struct bus_peer *p);
void peer_drain(struct link *l, int *frames);
void monitor_drain(struct link *l);
void peers_retry(struct bus *b);
void links_reap(struct bus *b, bool all);

/* --- conn.c ------------------------------------------------------------ */

bool router_drain(struct bus *b, struct sock *s);	/* false: there is more */
void router_again(struct bus *b);	/* the frame that is held */
void conns_flush_acks(struct bus *b, bool lazy_too);
void conns_flush_singles(struct bus *b);
void conns_see_peer(struct bus *b, struct bus_peer *p, bool open);
void conns_fini(struct bus *b);
/* As after a hello of that name and incarnation; NULL if there is one, too many,
 * or no memory. */
struct conn *conn_restore(struct bus *b, const char *name, const char *node,
    uint64_t incarnation);

/* Where the ids of that origin are noted. NULL: no memory. */
struct origin *origin_get(struct bus *b, const char *name, uint32_t slot,
    uint64_t incarnation);

/* --- relay.c ------------------------------------------------------------ */

bool relay_drain(struct sock *s, int *frames);	/* false: there is more */
void relays_turn(struct bus *b);	/* nobody looks at a socket */
void relays_fini(struct bus *b);

/* --- carry.c ----------------------------------------------------------- */

/* The stream to that process, taken out of the list, or NULL. */
struct carried *carried_take(struct bus *b, const char *name,
    const char *node, uint64_t incarnation);
void carried_fini(struct bus *b);

/* --- metrics ----------------------------------------------------------- */

#define BUS_METRICS(X) \
	X(frames_sent, "bus_frames_sent_total", \
	    "Stream frames sent to other processes, resent ones included") \
	X(frames_resent, "bus_frames_resent_total", \
	    "Stream frames sent again after a broken connection or a gap") \
	X(frames_received, "bus_frames_received_total", \
	    "Stream frames taken from other processes") \
	X(frames_duplicate, "bus_frames_duplicate_total", \
	    "Stream frames dropped because they had been taken before") \
	X(records_sent, "bus_records_sent_total", \
	    "Messages appended to streams to other processes") \
	X(records_received, "bus_records_received_total", \
	    "Messages read from streams of other processes") \
	X(records_duplicate, "bus_records_duplicate_total", \
	    "Messages dropped: their id had come before from that source") \
	X(records_disordered, "bus_records_disordered_total", \
	    "Messages not sent: their id was not above the last") \
	X(acks_sent, "bus_acks_sent_total", \
	    "Acknowledgements sent to other processes") \
	X(acks_received, "bus_acks_received_total", \
	    "Acknowledgements taken from other processes") \
	X(frames_early, "bus_frames_early_total", \
	    "Stream frames dropped because ones before them are missing") \
	X(gaps, "bus_gaps_total", \
	    "Times a stream to us missed frames and was asked to go back") \
	X(refused_credit, "bus_records_refused_credit_total", \
	    "QoS 0 messages not sent: the receiver gave no credit") \
	X(refused_full, "bus_records_refused_full_total", \
	    "Messages not sent: bus.stream_max bytes were waiting already") \
	X(stalls, "bus_credit_stalls_total", \
	    "Times a stream of ours ran out of credit") \
	X(welcomes, "bus_welcomes_total", \
	    "Welcomes sent: streams begun or gone on with") \
	X(hello_version, "bus_hello_refused_version_total", \
	    "Hellos refused: another protocol version") \
	X(hello_stale, "bus_hello_refused_stale_total", \
	    "Hellos refused: a newer incarnation of that name is known") \
	X(hello_name, "bus_hello_refused_name_total", \
	    "Hellos refused: unknown kind of name, or another node's") \
	X(hello_full, "bus_hello_refused_full_total", \
	    "Hellos refused: too many processes said hello") \
	X(refused_by_peer, "bus_hello_refused_by_peer_total", \
	    "Hellos of ours that another process refused") \
	X(dropped_malformed, "bus_dropped_malformed_total", \
	    "Messages dropped: their bytes are no message of ours") \
	X(dropped_unwelcome, "bus_dropped_unwelcome_total", \
	    "Messages dropped: no hello, or of another incarnation") \
	X(dropped_unaccepted, "bus_dropped_unaccepted_total", \
	    "Messages dropped: of a kind not accepted from there, or not now") \
	X(dropped_refused, "bus_dropped_refused_total", \
	    "Messages dropped: refused by their handler") \
	X(singles_dropped, "bus_singles_dropped_total", \
	    "Single messages not sent: the other side is slow or gone") \
	X(connections_lost, "bus_connections_lost_total", \
	    "Connections to other processes that broke") \
	X(tools_evicted, "bus_tools_evicted_total", \
	    "Tools forgotten because many others came after them") \
	X(relayed, "bus_relayed_total", \
	    "Messages passed on unread, to and from other nodes") \
	X(relay_dropped, "bus_relay_dropped_total", \
	    "Messages not passed on: nobody is connected at the other end")

#define X(id, name, help)	extern struct metric bus_m_##id;
BUS_METRICS(X)
#undef X

#define count(id)	metric_inc(&bus_m_##id)
#define count_n(id, n)	metric_add(&bus_m_##id, (n))

#endif

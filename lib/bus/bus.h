/*
 * bus.h: messages between the processes of a node, over ZeroMQ and libev. The
 * wire is told in proto/README; this is how a program uses it.
 *
 * A process has one bus: a ROUTER socket bound at its endpoint, where others'
 * streams arrive, and one DEALER for each peer it opened. To a peer runs one
 * *stream* of frames, numbered from 1, kept here until the peer acknowledged
 * them, sent again after a broken connection, delivered there once and in
 * order. Beside it *single* messages go either way and die with the
 * connection.
 *
 * Turns. Handlers and callbacks run from an ev_check watcher, never from
 * within a function of this header. What was appended leaves in an ev_prepare
 * watcher of lowest priority (or in bus_flush), so a program that appends from
 * its own watchers, or from its own ev_prepare, need do nothing. No call here
 * waits for anybody.
 *
 * Credit. A receiver grants each stream bytes of records, anew as it consumes
 * them. Records appended beyond it wait here, up to stream_max; acks, control
 * and frames of other kinds cost none (in their stream they still keep their
 * place). Not thread safe.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/blob.h"
#include "proto/kinds.h"
#include "proto/record.h"

struct ev_loop;
struct bus;
struct bus_peer;	/* one we send to */
struct bus_frame;
struct bus_relay;
struct stream_in;
struct stream_origin;

#define BUS_NAME_MAX		64	/* process name, with the NUL */
#define BUS_NODE_MAX		256
#define BUS_ENDPOINT_MAX	108
#define BUS_ADDR_MAX		112
#define BUS_PEERS_MAX		2048	/* opened at a time */
/* A body that is not records: ROUTES, ATTACH, Query, Reply, ... */
#define BUS_BODY_MAX		(512 * 1024)

/* Who they are, told by their names: listener.N, router, session_store.N,
 * cluster_link.N; a tool is "tool" or "tool.ANYTHING". */
enum peer_class {
	PEER_LISTENER	= 1,
	PEER_ROUTER	= 2,
	PEER_STORE	= 4,
	PEER_LINK	= 8,
	PEER_TOOL	= 16,
	PEER_OWNERS	= PEER_LISTENER | PEER_STORE,
	PEER_ANY	= 31,
	PEER_REMOTE	= 32,	/* in a rule: such ones of other nodes, too */
};

/* 0 if the name is none of ours. */
enum peer_class peer_class_of(const char *name);

/* Where to answer somebody later; may be copied and kept. */
struct bus_addr {
	uint16_t	len;		/* 0: nobody */
	uint16_t	via;		/* bytes of a relay's own, 0 if none */
	uint8_t		id[BUS_ADDR_MAX];
};

/* Who sent a message; borrowed for the call. */
struct bus_from {
	const char	*name;
	const char	*node;
	enum peer_class	 class;
	uint64_t	 incarnation;
	struct bus_addr	 addr;
	struct bus_peer	*peer;	/* opened to the same name and incarnation, or
				 * NULL; set if it spoke on our DEALER */
};

/* A message that arrived; borrowed for the call. */
struct bus_frame {
	enum kind	 kind;
	struct bus_from	 from;
	/* Records that a cluster-link hands on: of which process, as
	 * "listener.0@NODE", and which of its streams. NULL: of who sent it. */
	const char	*origin;
	uint64_t	 origin_incarnation;
	uint32_t	 origin_slot;
	uint64_t	 seq;		/* stream kinds */
	uint64_t	 clock;		/* the sender's, ns since 1970 */
	const uint8_t	*body;
	size_t		 len;
	struct slice	 payload;	/* the third part, or empty */
	struct record_iter records;	/* KIND_RECORDS: use bus_frame_next */

	struct stream_in *stream;	/* the bus's own */
	struct msgid	*last;		/* the last id that came */
	bool		 urgent;
};

/*
 * The next record of a frame: 1, 0 at the end, ERR_PROTO if the rest of the
 * frame is damaged (counted here: just return). Records whose id is not above
 * the last one of that source and slot came before: they are counted and
 * skipped; of a session-store, also of an incarnation before.
 */
int bus_frame_next(struct bus_frame *f, struct record *r);

/*
 * A message. Return 0 when it is consumed: only then it is acknowledged and
 * its bytes are granted anew. ERR_AGAIN keeps it: nothing else is taken from
 * the ROUTER socket, and the handler is called with the same frame (and its
 * iterator where it was) the next turn, or after bus_resume. Anything else
 * counts as a refusal, and the frame as consumed. Consuming must not wait for
 * another process.
 */
typedef int bus_handler(void *ctx, struct bus_frame *f);

/* What a program accepts, from whom and when; anything else is counted and
 * dropped. A stream frame that no rule accepts is acknowledged all the same. */
struct bus_rule {
	enum kind	 kind;
	unsigned	 from;		/* peer_class bits */
	unsigned	 states;	/* bits of bus_set_state; 0: always */
	bus_handler	*handler;
};

struct bus_events {
	/* Everything up to seq is acknowledged (`got`). */
	void (*got)(void *ctx, struct bus_peer *p, uint64_t seq);
	/* Everything up to seq is on the disk of a session-store (`stored`).
	 * Streams to one keep each frame until then. */
	void (*stored)(void *ctx, struct bus_peer *p, uint64_t seq);
	/* bus_peer_blocked() was true, or something was refused for want of
	 * room, and that is over. After bus_peer_close it does not come: who
	 * parked for that peer goes on by itself. */
	void (*credit)(void *ctx, struct bus_peer *p);
	/* The peer welcomed us; also after each reconnection. */
	void (*up)(void *ctx, struct bus_peer *p);
	/* A process of another node may send to us. NULL: none may. */
	bool (*admits)(void *ctx, const char *node);
	/* A stream whose bus_frame_keep said user has ended, or its source
	 * was replaced. */
	void (*gone)(void *ctx, void *user);
	/* A relay is connected with the other node, or no more. */
	void (*relay)(void *ctx, struct bus_relay *r, bool up);
	/* The connection broke, or the peer refused us. The stream stays and
	 * goes on with the next `up`; when PEERS says that the process died,
	 * bus_peer_close or bus_peer_move it. */
	void (*lost)(void *ctx, struct bus_peer *p);
};

struct bus_opts {
	struct ev_loop	*loop;
	const char	*node, *name;
	uint64_t	 incarnation;	/* not 0 */
	const char	*endpoint;	/* to bind; relative to the cwd */
	const struct bus_rule *accepts;	/* must outlive the bus */
	size_t		 naccepts;
	const struct bus_events *events;	/* any may be NULL */
	void		*ctx;
	uint32_t	 credit;	/* bytes granted to each stream to us;
					 * 0: 1 MiB */
	uint32_t	 stream_max;	/* bytes kept a peer; 0: 16 MiB */
	bool		 unbound;	/* not before bus_bind */
};

/*
 * Bind and start. ERR_IO (errno: EADDRINUSE, ENAMETOOLONG, ...), ERR_INVAL for
 * a name or node that does not fit, ERR_NOMEM.
 */
int bus_open(struct bus **out, const struct bus_opts *o);

/* Close all peers, unbind, free. What was not sent is gone. NULL is fine.
 * Not from a handler or callback. */
void bus_close(struct bus **bus);

/* Which rules are in force: one bit of the program's own. 1 at first. */
void bus_set_state(struct bus *b, unsigned state);

/* The hybrid clock to tell others, once a turn (msgid_turn's result). */
void bus_set_clock(struct bus *b, uint64_t clock_ns);

/* --- Peers ------------------------------------------------------------- */

/*
 * Start a stream to a process. user is the caller's own. Returns before the
 * peer has answered; records may be appended at once. ERR_EXISTS if a peer of
 * that name is open, ERR_FULL beyond BUS_PEERS_MAX, ERR_INVAL, ERR_NOMEM.
 */
int bus_peer_open(struct bus_peer **out, struct bus *b, const char *name,
    uint64_t incarnation, const char *endpoint, void *user);

/*
 * The process is gone: free *p and set it to NULL. What it had not
 * acknowledged counts as taken: no callback comes, the caller goes by
 * bus_peer_sent; look at bus_peer_unacked first if some of it should go
 * elsewhere. Fine from any handler or callback.
 */
void bus_peer_close(struct bus_peer **p);

/*
 * The process came back as a new incarnation: the same stream goes on there,
 * numbers rising. With resend false (listeners) all the old one had not
 * acknowledged counts as taken, without a callback; with resend true (who
 * keeps what it took on disk) the new one says what it has and gets the rest.
 */
int bus_peer_move(struct bus_peer *p, uint64_t incarnation,
    const char *endpoint, bool resend);

void *bus_peer_user(const struct bus_peer *p);
const char *bus_peer_name(const struct bus_peer *p);
const char *bus_peer_endpoint(const struct bus_peer *p);

/* Connected and welcomed. */
bool bus_peer_ready(const struct bus_peer *p);

/* No credit left, or stream_max came near and half of it is not free yet: QoS 0
 * is refused, QoS 1 and 2 wait here while there is room. Park publishers. */
bool bus_peer_blocked(const struct bus_peer *p);

/* Bytes of credit left; below 0 when overdrawn. */
int64_t bus_peer_credit(const struct bus_peer *p);

/* Would bus_record take a record of size bytes (record_size) and that QoS? */
bool bus_peer_room(const struct bus_peer *p, size_t size, unsigned qos);

/* Last seq in use, last seq acknowledged: what is between is under way. */
uint64_t bus_peer_sent(const struct bus_peer *p);
uint64_t bus_peer_got(const struct bus_peer *p);
uint64_t bus_peer_stored(const struct bus_peer *p);

/* Walk the records that are not acknowledged, in order; each returns false to
 * stop. Payloads too are where r says. */
void bus_peer_unacked(const struct bus_peer *p,
    bool (*each)(void *ctx, uint64_t seq, const struct record *r), void *ctx);

/* --- Sending ----------------------------------------------------------- */

/*
 * Append r to the stream. It is copied, except a payload above RECORD_ALONE in
 * all: then payload (the blob r->payload lies in) is referenced; with payload
 * NULL that is copied too. *seq (may be NULL) is the frame that carries it.
 *
 * Ids must rise along the stream: ERR_INVAL for one that is not above the last
 * (take a fresh id), or for lengths out of bounds. ERR_FULL if QoS 0 finds no
 * credit, or QoS 1 and 2 find stream_max bytes kept already (an empty stream
 * takes any record): the caller counts its drop, or parks. ERR_NOMEM. Nothing
 * changed on failure.
 */
int bus_record(struct bus_peer *p, const struct record *r,
    struct blob *payload, uint64_t *seq);

/*
 * The same for who hands on what another process sent (stream_origin_new in
 * stream.h): ids rise by origin, as they came, and are not looked at.
 */
int bus_record_of(struct bus_peer *p, struct stream_origin *origin,
    const struct record *r, struct blob *payload, uint64_t *seq);

/*
 * Append a frame of another stream kind (16..31), at most BUS_BODY_MAX bytes,
 * copied. It costs no credit and goes out after what was appended before.
 * ERR_FULL beyond stream_max bytes kept (events->credit tells when half of that
 * is free), ERR_INVAL, ERR_NOMEM.
 */
int bus_stream_send(struct bus_peer *p, enum kind kind, const void *body,
    size_t len, uint64_t *seq);

/*
 * The same with a payload behind it, which lies in a blob and is referenced:
 * the receiver finds it in bus_frame.payload.
 */
int bus_stream_send_payload(struct bus_peer *p, enum kind kind,
    const void *body, size_t len, struct blob *payload, const struct slice *at,
    uint64_t *seq);

/*
 * A single message (kinds from 32), to a peer on our connection to it, or to
 * whoever sent us something. It is lost if the connection is; a few wait if
 * the other side is slow or not connected yet. ERR_FULL beyond that,
 * ERR_NOTFOUND if the address is gone, ERR_INVAL, ERR_NOMEM.
 */
int bus_send(struct bus_peer *p, enum kind kind, const void *body, size_t len);
int bus_reply(struct bus *b, const struct bus_addr *to, enum kind kind,
    const void *body, size_t len);

/*
 * For who keeps things on disk (a session-store). bus_mark notes what was
 * consumed so far on all streams; bus_marked_stored says that it is on disk now
 * (session.sync: written, or synced), and the sources hear `stored`. What is
 * consumed between the two waits for the next pair.
 */
void bus_mark(struct bus *b);
void bus_marked_stored(struct bus *b);

/* Everything appended leaves now, as far as credit and sockets allow. */
void bus_flush(struct bus *b);

/* Stop taking messages from the ROUTER socket (streams to us; acks of our own
 * still come in), and go on. They do not nest. */
void bus_pause(struct bus *b);
void bus_resume(struct bus *b);

/* Nothing appended is unacknowledged (for draining). */
bool bus_idle(const struct bus *b);
bool bus_peer_idle(const struct bus_peer *p);	/* of one receiver */

/* --- Between nodes ------------------------------------------------------ */

/*
 * A process sends to another node as it does to a neighbour: one stream, kept
 * here until it is acknowledged. In between stands a cluster-link of its own
 * node, which opens a *relay* for each other node and passes the messages on
 * unread over one TCP connection; so it may die and lose nothing. The other end
 * of the stream is a cluster-link of that node, which hands the records to its
 * neighbours and acknowledges when these did.
 *
 *	listener.0 --ipc--> relay ==tcp==> cluster_link.0 --ipc--> listener.1
 *
 * The file of the ipc endpoint is there while the TCP connection is: who sends
 * sees that as `lost` and `up`.
 */

/* The ipc endpoint of the relay for a node, of the link that has that endpoint
 * of its own. ERR_INVAL if it does not fit BUS_ENDPOINT_MAX. */
int bus_relay_endpoint(char out[BUS_ENDPOINT_MAX], const char *link,
    const char *node);

struct bus_secret {		/* CURVE, z85 with the NUL; lib/secret */
	char	public[41], private[41];
};

struct bus_relay_opts {
	const char	*node;		/* the other one */
	const char	*endpoint;	/* of its link: tcp://HOST:PORT */
	bool		 ipv6;
	const struct bus_secret *secret;	/* NULL: no CURVE */
	void		*user;
};

/* Connect, and again whenever the connection breaks. ERR_IO, ERR_INVAL,
 * ERR_NOMEM. */
int bus_relay_open(struct bus_relay **out, struct bus *b,
    const struct bus_relay_opts *o);
void bus_relay_close(struct bus_relay **r);
void *bus_relay_user(const struct bus_relay *r);
bool bus_relay_is_up(const struct bus_relay *r);
/* Since a connection was last refused or given up by the other side before it
 * was one: why, for a log; NULL if it was not. */
const char *bus_relay_trouble(const struct bus_relay *r);

/*
 * Start a stream to another node, by way of the relay at this endpoint. As
 * bus_peer_open; name is that of our link. Frames with durable records are
 * kept until `stored`, others until `got`.
 */
int bus_peer_open_far(struct bus_peer **out, struct bus *b, const char *name,
    const char *node, const char *endpoint, void *user);

/* Another link relays: the stream goes on. */
int bus_peer_reroute(struct bus_peer *p, const char *endpoint);

/* What it has not got for its live sessions, and has nothing else in it, it does
 * not get any more: they are given up. */
void bus_peer_forget_live(struct bus_peer *p);

/* The node it leads to; NULL: our own. */
const char *bus_peer_node(const struct bus_peer *p);

/* Take streams of other nodes at this TCP endpoint. ERR_IO (errno). */
int bus_bind_outer(struct bus *b, const char *endpoint, bool ipv6,
    const struct bus_secret *secret);

/* What is consumed of a stream of another node is acknowledged only when the
 * program says so. It keeps books in `user`, until events->gone. */
void *bus_frame_kept(const struct bus_frame *f);
void bus_frame_keep(struct bus_frame *f, void *user);

/* What credit the frame costs: see bus_done. */
size_t bus_frame_cost(const struct bus_frame *f);

/* Of this stream all frames up to got are with those who wanted them live, of
 * so many bytes in all since it was kept first, and those up to stored on
 * disk. */
void bus_done(struct bus *b, struct stream_in *s, uint64_t got,
    uint64_t got_bytes, uint64_t stored);

/* A node that is none of ours any more: forget its streams. */
void bus_forget_node(struct bus *b, const char *node);

/* --- From one process to its successor --------------------------------- */

/*
 * A process of the same name and incarnation goes on with the streams: to
 * everybody else its connections broke, once, and no more happened. The old
 * one tells its bus in pieces, in this order, and takes no further turn; the
 * new one opened its own `unbound`, takes the pieces in, and binds when the
 * other one is gone. Then bus_peer_open goes on with the stream to the peer of
 * that name and incarnation; streams to us go on when their sources say hello
 * again. Single messages are lost, as with any connection.
 */
typedef int bus_sink(void *ctx, const void *piece, size_t len);

/* 0, ERR_NOMEM, or what sink returned when it was not 0. */
int bus_export(const struct bus *b, bus_sink *sink, void *ctx);

/* ERR_PROTO (the pieces are none of ours, or are not all), ERR_FULL,
 * ERR_NOMEM: such a bus can only be closed. */
int bus_import(struct bus *b, const void *piece, size_t len);
int bus_import_end(struct bus *b);

/* Bind an unbound bus, in place of whoever is bound there. ERR_IO. */
int bus_bind(struct bus *b);

#endif

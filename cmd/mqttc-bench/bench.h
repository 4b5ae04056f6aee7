/*
 * bench.h: what the files of mqttc-bench share.
 *
 * The process that was started is the conductor (run.c): it forks the workers,
 * tells them over a socket what to do next, samples the broker (broker.c) and
 * reports (report.c). A worker (worker.c) is one thread and one epoll set with
 * its share of the clients (client.c) and publishers (publish.c); it writes
 * what it counts to a tally in memory the conductor reads.
 */
#ifndef BENCH_H
#define BENCH_H

#include <sys/socket.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"
#include "load/histogram.h"
#include "load/sequence.h"

#define SEC		1000000000ull
#define MSEC		1000000ull

enum {
	LIST_MAX	= 256,		/* ports, pids, steps */
	PROCS_MAX	= 256,
	SOURCES_MAX	= 60000,	/* 127.0.0.2 and on */
	PER_PROCESS	= 20000,	/* connections, if not told otherwise */
	CLIENTS_MAX	= 4000000,
	PAYLOAD_MIN	= 16,		/* publisher, number, time sent */
};

enum mode { PAIRS, FANOUT, FANIN, SHARED, WILDCARD, IDLE, CONNECT, CHURN,
    NMODES };

extern const char *const mode_names[NMODES];

struct list {
	unsigned	 n;
	uint64_t	 v[LIST_MAX];
};

/* Value i of a list, or its last; 0 of an empty one. */
static inline uint64_t
list_at(const struct list *l, unsigned i)
{
	return l->n > 0 ? l->v[MIN(i, l->n - 1)] : 0;
}

/* The command line; a worker's copy has its share of the counts. */
struct options {
	enum mode	 mode;
	const char	*host;
	struct list	 pub_ports, sub_ports, pids;
	struct list	 clients;	/* the steps of idle */
	struct list	 filters;	/* in all; steps with idle */
	unsigned	 publishers, subscribers;
	unsigned	 groups, members;	/* of shared: of each group */
	unsigned	 qos, version, window, handshakes;
	uint64_t	 outstanding, burst, count;
	size_t		 size;
	double		 rate, seconds, warmup, patience, settle;
	unsigned	 procs, sources;
	const char	*prefix, *username, *password;
	bool		 unbounded, nameless, durable, json, quiet, wait, hold;
};

extern struct options opt;

struct counts {
	uint64_t	 published, due, delivered, duplicate, reordered;
	uint64_t	 alien, refused, connects;
	uint64_t	 closed, reset, told;	/* of the closed: by a reset, or
						   with a DISCONNECT */
};

/* One worker's figures. It alone writes; the conductor reads `now` at any time
 * and the rest after an answer. */
struct tally {
	struct counts	 now;		/* of a moment ago */
	struct counts	 begin, end;	/* of what is measured */
	uint64_t	 begin_cpu_ns, end_cpu_ns;
	uint64_t	 member_least, member_most;	/* messages of one */
	struct histogram latency;	/* ns, while it measured */
	char		 why[256];	/* the last thing that went wrong */
};

/* Conductor to worker; some are answered with a byte, once done. */
enum { DO_MEASURE, DO_CONNECT, DO_START, DO_STOP };
enum { IS_CONNECTED = 1, IS_ALL_SENT = 2, IS_STOPPED = 4 };

struct command {
	uint32_t	 what;
	uint32_t	 clients, filters;	/* DO_CONNECT of idle: in all */
};

/* Worker `number` of opt.procs; fd: the conductor. Never returns. */
void worker_run(unsigned number, int fd, struct tally *tally)
    __attribute__((noreturn));

/* Say what is wrong (in a worker: to the conductor, who says it) and end. */
void fail(int code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));
extern struct tally *tally;		/* this worker's; NULL: the conductor */

/* n * size zeroed bytes, or the end. */
void *zalloc(size_t n, size_t size);

/* --- run.c --------------------------------------------------------------- */

/* Run the load and report. Returns the exit code. */
int run(void);

/* What worker k of n has of total. */
static inline unsigned
share_of(uint64_t total, unsigned k, unsigned n)
{
	return (unsigned)(total / n + (k < total % n));
}

/* --- broker.c ------------------------------------------------------------ */

/* CPU time of all threads of every --pid, and the sum of their PSS (0 if that
 * is not to be read). A process that is gone ends the program. */
uint64_t broker_cpu_ns(void);
uint64_t broker_pss_bytes(void);

/* --- report.c ------------------------------------------------------------ */

struct result {
	struct counts	 begin, end, last;	/* summed over the workers */
	struct histogram latency;
	uint64_t	 member_least, member_most;
	uint64_t	 wall_ns, broker_cpu_ns, own_cpu_ns, pss;
	bool		 interrupted;
};

/* Print it; fail()s if stdout does. The second: step i of idle, the PSS of
 * the first and of this one. */
void report_result(const struct result *r);
void report_step(unsigned i, uint64_t first_pss, uint64_t pss, uint64_t closed);

/* One line on stderr about long work, not too often; NULL: wipe it. */
void progress(uint64_t at_ns, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* --- client.c: connections of a worker ----------------------------------- */

enum conn_state { CONN_CLOSED, CONN_OPENING, CONN_CONNACK_DUE, CONN_SUBACK_DUE,
    CONN_UP };

struct conn {
	int		 fd;
	enum conn_state	 state;
	bool		 dirty;		/* listed: has bytes to send */
	bool		 blocked;	/* EPOLLOUT is on */
	bool		 again;		/* churn: connect at once */
	uint16_t	 port;
	uint32_t	 number;
	uint32_t	 subacks_due;
	uint64_t	 opened_ns;
	uint8_t		*out;
	size_t		 out_off, out_len, out_cap;
	uint8_t		*carry;		/* the start of an unfinished packet */
	size_t		 carry_len, carry_cap;
	struct publisher *pub;		/* or */
	struct sequence	*flows;		/* of publishers flow_base.., of a
					   group all members' */
	uint32_t	 flow_base, nflows;
	struct member	*member;	/* of a group, or NULL */
};

struct member {
	uint64_t	 got;
	uint32_t	 newest[];	/* by publisher: its highest number + 1 */
};

/* All of a worker's: subscribers first, those of a group side by side. */
extern struct conn	*conns;
extern unsigned		 nconns, nsubs;
extern unsigned		 nup, nopening, subacks_due;
extern uint64_t		 now_ns;	/* of this turn */
extern bool		 publishing;	/* or, in churn, reconnecting */
extern bool		 measuring;
extern int		 ep;		/* epoll; data.ptr NULL: the conductor */

/* Room for nconns connections, all closed. */
void clients_plan(unsigned worker);

/* Begin to connect c, which is closed. */
void conn_open(struct conn *c);

/* Room for n more bytes of output; the caller adds what it wrote to out_len. */
uint8_t *conn_reserve(struct conn *c, size_t n);

/* Ask for filter number f of the wildcards; packet identifier id. */
void conn_subscribe_wildcard(struct conn *c, uint16_t id, unsigned f);

/* What epoll said of c. */
void conn_event(struct conn *c, uint32_t events);

/* Send what every connection has to say; publishers are touched again. */
void conns_flush(void);

/* Now and then: keep-alive. */
void conns_tick(void);

/* End with what the last connection failed of. */
void conns_fail(void) __attribute__((noreturn));

/* --- publish.c: publishers of a worker ----------------------------------- */

struct head {			/* a PUBLISH up to its payload */
	uint8_t		*bytes;
	uint32_t	 len, id_at;
};

struct publisher {
	struct conn	*conn;
	struct head	 head;		/* of its topic, unless it is drawn */
	uint32_t	 seq;		/* messages sent */
	uint32_t	*seqs;		/* the same by subscriber, if drawn */
	uint32_t	 fan;		/* deliveries each message makes */
	uint32_t	 unacked, window;
	uint16_t	 packet_id;
	bool		 touched;
	uint64_t	 due;		/* deliveries, of all published */
	uint64_t	 settled;	/* of those: arrived, or passed over */
	uint64_t	 next_ns;	/* with a rate: when the next is due */
};

extern struct publisher	*pubs;
extern unsigned		 npubs;

void publishers_plan(void);
void publishers_start(void);

/* A name of this worker's: topic number i, the filter of a group (of topic 0),
 * or filter i of the wildcards and a topic that it alone matches. */
void topic_name(char *buf, size_t len, unsigned i);
void group_name(char *buf, size_t len, unsigned group);
void wildcard_name(char *buf, size_t len, unsigned i, bool filter);

/* p may be able to publish: look at it this turn. */
void touch(struct publisher *p);

/* All that were touched publish what they may. True: some could go on. */
void publishers_turn(void);
bool publishers_touched(void);
bool publisher_may_go_on(struct publisher *p);

/* With a rate: touch who is due at ns; returns when the next is, or until. */
uint64_t publishers_due(uint64_t ns, uint64_t until);

/* Count what the payload of a PUBLISH to c says. */
void message_count(struct conn *c, const uint8_t *payload, size_t len);

/* The least and the most that a member of a group got, to the tally. */
void members_count(void);

bool all_settled(void);		/* what was sent has come, or was given up */
bool all_sent(void);		/* --count of each */

/* What is under way will not come: let the publishers go on. */
void write_off(void);

#endif

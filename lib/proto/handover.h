/*
 * handover.h: what a process tells the one that takes its place (mqttc-listener
 * upgrade), as records in a byte stream. A record is: length of the body (4
 * bytes), kind (2 bytes), both little endian, and a body in the encoding of
 * wire.h. Fields are never reused; unknown ones are skipped. A kind or a field
 * that must not be lost raises HANDOVER_VERSION, and who finds a version above
 * its own refuses: so a later program can follow an earlier one.
 *
 *   old: HEAD *METRIC *PEER *BUS *client *FILTER *SHARE *WAITER *SUB_WAIT LIVE
 *	  *ASK ORDER END
 *	  ( COMMIT / ABORT )
 *   client: CLIENT (with one descriptor) then what it has, in any order;
 *	  BLOB and MESSAGE come before what refers to them
 *   new: *SEEN ( PREPARED TAKEN / REFUSED )
 *
 * Clients, blobs and messages are numbered from 1 in the order they come.
 */
#ifndef PROTO_HANDOVER_H
#define PROTO_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/wire.h"

#define HANDOVER_VERSION	4u
#define HANDOVER_FRAME		6u	/* bytes before a body */
#define HANDOVER_BODY_MAX	(300u << 20)
#define HANDOVER_FIELDS_MAX	512u	/* bytes of a body, slices apart */

enum handover_kind {
	HANDOVER_HEAD		= 1,
	HANDOVER_METRIC		= 2,
	HANDOVER_PEER		= 3,	/* a stream of BUS is to it */
	HANDOVER_BUS		= 4,	/* a piece of bus_export() */
	HANDOVER_BLOB		= 5,
	HANDOVER_MESSAGE	= 6,
	HANDOVER_CLIENT		= 7,
	HANDOVER_SUB		= 8,
	HANDOVER_QUEUED		= 9,
	HANDOVER_OUT		= 10,
	HANDOVER_ANSWER		= 11,
	HANDOVER_ALIAS_IN	= 12,
	HANDOVER_ALIAS_OUT	= 13,
	HANDOVER_WINDOW		= 14,
	HANDOVER_INBOUND	= 15,
	/* 16 was the will, which the desk has now */
	HANDOVER_FILTER		= 17,	/* what the router was told of it */
	HANDOVER_WAITER		= 18,
	HANDOVER_SUB_WAIT	= 19,
	HANDOVER_ORDER		= 20,
	HANDOVER_END		= 21,
	HANDOVER_COMMIT		= 22,	/* they are yours */
	HANDOVER_ABORT		= 23,	/* they stay here */
	HANDOVER_KEPT		= 24,	/* of the client, for a group */
	HANDOVER_SHARE		= 25,	/* what is remembered of a group */
	HANDOVER_ASK		= 26,	/* for a page of retained messages */
	HANDOVER_LIVE		= 27,	/* retained ones that came live */

	HANDOVER_SEEN		= 32,	/* descriptors so far */
	HANDOVER_PREPARED	= 33,	/* all is here, nothing was done */
	HANDOVER_TAKEN		= 34,
	HANDOVER_REFUSED	= 35,
};

/* Times are of the monotonic clock, in ms, unless they say otherwise. */
struct handover_head {
	uint32_t	version;
	struct slice	name;
	uint64_t	incarnation, frozen_ms, started_ms, sys_due_ms;
	uint64_t	ids_clock, ids_origin;
	uint32_t	ids_next;
	uint64_t	router_incarnation;	/* 0: no stream to it */
	struct slice	router_name, router_endpoint;
	uint64_t	route_seq, route_acked;
	bool		snapshot, snapshot_first;
	uint64_t	serial;
	uint32_t	token;
};

struct handover_metric {
	struct slice	name;
	uint64_t	value;
};

struct handover_peer {
	uint32_t	instance;
	uint64_t	incarnation;
	struct slice	name, endpoint;
	bool		full;		/* a store: see SERVE_FULL */
	struct slice	node;		/* another one, then incarnation is 0 */
};

struct handover_bytes {			/* BUS, BLOB */
	struct slice	bytes;
};

struct handover_message {
	struct slice	topic, props, payload;
	uint32_t	blob;		/* the payload is that, 0: here */
	uint32_t	expiry_s, qos;
	bool		retain;
	uint64_t	arrived_ms, id_hi, id_lo;
	struct slice	client_id;
};

enum {					/* handover_client.flags */
	HANDOVER_CLEAN_START = 1, HANDOVER_BLOCKED = 2, HANDOVER_DEAF = 4,
	HANDOVER_GRACEFUL = 8, HANDOVER_EOF = 16, HANDOVER_EXPIRY_ASKED = 32,
	HANDOVER_ENDED = 64, HANDOVER_ATTACHED = 128, HANDOVER_ALONE = 256,
	/* of who waits for its desk: */
	HANDOVER_DURABLE = 512, HANDOVER_ASSIGNED = 1024,
	HANDOVER_WANTS_INFO = 2048, HANDOVER_KEEPALIVE_TOLD = 4096,
	HANDOVER_EXPIRY_TOLD = 8192, HANDOVER_HAS_WILL = 16384,
	HANDOVER_STRAIGHT = 32768
};

struct handover_client {
	struct slice	client_id, username, stash;
	bool		has_id, has_username;
	uint32_t	stash_need, state, version, flags;
	uint64_t	attach_ns, since_ms, heard_ms, deadline_ms;
	uint64_t	msgs_in, msgs_out, bytes_in, bytes_out;
	uint32_t	dropped, unheard, max_packet, packet_granted;
	uint32_t	receive_maximum, inflight_in, alias_max;
	uint32_t	receive_granted, alias_granted, keepalive_s;
	uint32_t	qos_granted, parked_for, parked_qos;
	uint64_t	serial, handle;		/* proto/session.h */
	uint64_t	routes_seq;
	uint32_t	expiry_s;		/* it waits for its desk */
	uint32_t	asked;
	struct slice	sourced;		/* 8 bytes each */
};

struct handover_sub {
	struct slice	text;		/* the bare filter */
	uint32_t	id, qos;
	bool		no_local, rap;
	bool		shared;
	struct slice	share;		/* the group's name */
	uint32_t	place;		/* among its members, + 1; 0: any */
};

struct handover_queued {
	uint32_t	message, qos;
	bool		retain;
	struct slice	ids;		/* 4 bytes each */
	struct slice	group;		/* its id, hi and lo (8 bytes each) */
};

struct handover_kept {
	uint32_t	message, id;	/* packet identifier */
	struct slice	group;
};

struct handover_out {
	struct slice	data;
	uint32_t	blob, begin, end;	/* blob 0: data */
};

enum { HANDOVER_WAIT = 12, HANDOVER_CELL = 3, HANDOVER_GROUP = 16 };

struct handover_answer {
	uint32_t	id, type, reason;
	struct slice	waits;		/* instance (4 bytes), seq (8) */
	bool		straight;
};

struct handover_alias {
	uint32_t	alias;
	struct slice	topic;
};

struct handover_window {
	uint32_t	next, max;
	struct slice	cells;		/* identifier (2 bytes), state (1) */
};

struct handover_inbound {
	struct slice	ids;		/* 2 bytes each */
};

struct handover_filter {
	struct slice	text;
	uint64_t	route_seq;
	uint32_t	told;		/* 1; of a group, how many members */
	bool		shared;
	struct slice	share;
	uint32_t	cursor;		/* of a group: whose turn it is */
};

struct handover_share {
	struct slice	group;
	uint32_t	cursor, sticky;	/* as struct share_state */
};

struct handover_waiter {
	uint32_t	instance, client;
	uint64_t	seq;
};

struct handover_sub_wait {
	uint32_t	client, id, type;
	uint64_t	seq, deadline_ms;
	struct slice	codes;		/* and behind them, what to ask for */
	uint32_t	token, unstored;
	bool		asks;
	struct slice	packet;
	uint32_t	since, kept_since;	/* see LIVE; of its store */
};

struct handover_ask {
	uint64_t	serial;
	uint32_t	store, flags, sub_id, since, what;
	struct slice	filter, cursor;
	uint32_t	given;		/* not before that instance has */
	uint64_t	seq;		/* ... stored this; 0: it has */
	uint32_t	kept_since;
	uint32_t	back;		/* see the listener's retained.c */
	bool		last;
};

enum { HANDOVER_LIVE_ID = 20 };

struct handover_live {
	uint32_t	now;		/* how many came */
	struct slice	ids;		/* id (16 bytes), which one it was (4) */
};

struct handover_order {			/* clients, 4 bytes each */
	struct slice	parked, waiting;
};

struct handover_seen {
	uint32_t	descriptors;
};

struct handover_refused {
	struct slice	why;
};

union handover_row {
	struct handover_head	 head;
	struct handover_metric	 metric;
	struct handover_peer	 peer;
	struct handover_bytes	 bytes;
	struct handover_message	 message;
	struct handover_client	 client;
	struct handover_sub	 sub;
	struct handover_queued	 queued;
	struct handover_kept	 kept;
	struct handover_out	 out;
	struct handover_answer	 answer;
	struct handover_alias	 alias;
	struct handover_window	 window;
	struct handover_inbound	 inbound;
	struct handover_filter	 filter;
	struct handover_share	 share;
	struct handover_waiter	 waiter;
	struct handover_sub_wait sub_wait;
	struct handover_ask	 ask;
	struct handover_live	 live;
	struct handover_order	 order;
	struct handover_seen	 seen;
	struct handover_refused	 refused;
};

/* Append the body of a record of that kind, whose struct row points to (NULL
 * for those that have no fields). w->full tells if it did not fit; beside its
 * slices it needs HANDOVER_FIELDS_MAX. */
void handover_put(struct wire_out *w, enum handover_kind kind,
    const void *row);

/* A body, its slices inside. ERR_PROTO: damaged, of no kind we know, or beyond
 * what is possible (lengths, enums; not numbers that refer to others). */
int handover_get(union handover_row *row, unsigned kind, const void *body,
    size_t len);

/* 1 and the record at the front of buf; 0: not whole yet, *need is how many
 * bytes it takes, if known; ERR_PROTO. */
int handover_next(const uint8_t *buf, size_t len, unsigned *kind,
    struct slice *body, size_t *need);

#endif

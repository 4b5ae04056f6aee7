/*
 * sup.h: packets of supervise.sock (proto/supervise.proto), as bytes and as
 * they travel. Used by both ends; programs use proc.h or tool.h.
 */
#ifndef PROC_SUP_H
#define PROC_SUP_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kinds.h"
#include "proto/supervise.pb.h"

#define SUP_SOCK	"supervise.sock"	/* in run_dir */
#define SUP_PACKET_MAX	(32 << 10)
#define SUP_FDS_MAX	64			/* descriptors a packet */

/* Large (about 26 KiB): keep it static or on the heap. */
struct sup_msg {
	enum kind	kind;
	union {
		SupHello	hello;
		SupWelcome	welcome;
		SupPeers	peers;
		SupSockets	sockets;
		SupSegment	segment;
		SupReady	ready;
		SupPing		ping;
		SupPong		pong;
		SupDrain	drain;
		SupConf		conf;
		SupHandover	handover;
		SupRequest	request;
		SupResult	result;
	} u;
};

/* Bytes to message. ERR_PROTO: unknown kind, damaged, or out of range (enums,
 * counts); *m is then rubbish. Every text in *m is NUL-terminated. */
int sup_decode(const uint8_t *buf, size_t len, struct sup_msg *m);

/* Message to bytes; *len holds the room in buf, then what was used.
 * ERR_INVAL if it does not fit. */
int sup_encode(const struct sup_msg *m, uint8_t *buf, size_t *len);

/*
 * Send or receive one packet without blocking, whatever the socket's mode.
 * ERR_AGAIN; ERR_IO (errno EPIPE: the other end is gone); ERR_PROTO.
 * Received descriptors are close-on-exec and belong to the caller; fds has
 * room for SUP_FDS_MAX. On an error there are none.
 */
int sup_send(int sock, const struct sup_msg *m, const int *fds, size_t nfds);
int sup_recv(int sock, struct sup_msg *m, int *fds, size_t *nfds);

/* Connect to SUP_SOCK in the current directory, non-blocking. ERR_IO. */
int sup_connect(int *sock);

/* Wait until a packet is there. ERR_AGAIN after timeout_ms, ERR_IO. */
int sup_wait(int sock, int timeout_ms);

void sup_close_fds(const int *fds, size_t nfds);

/* Append a packet of peers to list (PROC_PEERS_MAX of them), begun anew by the
 * first packet. 0 when it is complete, ERR_AGAIN when more follows, ERR_PROTO
 * if there are too many. */
struct proc_peer;
int sup_peers_take(const SupPeers *m, struct proc_peer *list, size_t *n);

/* Copy text into a field of the message, cut to its size. */
#define SUP_TEXT(field, text) \
	sup_text((field), sizeof(field), (text))
void sup_text(char *out, size_t size, const char *text);

#endif

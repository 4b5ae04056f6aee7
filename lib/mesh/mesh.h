/*
 * mesh.h: the metadata channel between the routers of a cluster, over ZeroMQ
 * and libev. One ROUTER socket is bound; one DEALER calls each node that we were
 * told to call (mesh_add) and that has not called us. Between two nodes one
 * connection is used, the *link*. On it messages keep their order, and none is
 * lost until it breaks; a new link begins from nothing.
 *
 * Both sides say who they are first (proto/mesh.h) and may refuse (rules.h,
 * and events->judge). Then something is said every 500 ms; who is silent for 2
 * s, or whose connection closes, is down, and is called again.
 *
 * With a secret, CURVE: who does not know the cookie does not get as far as
 * saying hello. What comes from such as that is not even read; what nodes send
 * that makes no sense ends their link, counted and logged now and then.
 *
 * Callbacks run from an ev_check watcher or the timer; of the functions of this
 * header mesh_drop and mesh_forget alone call one (`down`). From within them
 * all but mesh_close may be called. Nothing waits. Not thread safe.
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "mesh/rules.h"
#include "proto/mesh.h"
#include "secret/secret.h"

struct ev_loop;
struct mesh;
struct mesh_node;	/* another node, as long as it is added or linked */

#define MESH_QUEUE	(1024u * 1024)	/* bytes that wait for one link */
#define MESH_HOST_MAX	256

/* What another node said of itself; slices are the room's until it says
 * something else. */
struct mesh_look {
	const char	*name, *host;
	uint16_t	 port;		/* of mesh_add; 0: never added */
	bool		 up, suspect;	/* suspect: up, and late */
	bool		 ours;		/* we made the connection */
	uint64_t	 id, incarnation;
	bool		 core;
	uint32_t	 replicants;
	uint32_t	 version;	/* that both speak */
	const uint32_t	*ports;		/* [NODE_LINKS_MAX] */
	uint64_t	 clock;		/* the last it told */
	uint64_t	 heard_ms;	/* monotonic; 0: never */
	size_t		 queued;	/* bytes that wait for it */
	enum mesh_status refused;	/* why the last attempt failed */
	unsigned	 failed;	/* attempts of ours since the last link */
};

/* The answer of judge: `member` is told with it. */
struct mesh_answer {
	struct slice	 member;	/* valid until judge is called again */
	char		 why[MESH_WHY_MAX + 1];
};

struct mesh_events {
	/* Bytes for `member` of the HELLO or WELCOME to this node (its name, ""
	 * if it is not known); returns how many. NULL: none. */
	size_t (*fill)(void *ctx, const char *to, void *buf, size_t size);

	/*
	 * A HELLO (called) or WELCOME that the rules have nothing against.
	 * MESH_OK, or why not: it is told that, with what is in *answer. NULL:
	 * everybody.
	 */
	enum mesh_status (*judge)(void *ctx, const struct mesh_msg *m,
	    bool called, struct mesh_answer *answer);

	/* We called and were refused; or who called refuses our answer. May be
	 * NULL. */
	void (*refused)(void *ctx, struct mesh_node *n,
	    const struct mesh_msg *m);

	void (*up)(void *ctx, struct mesh_node *n);
	/* After it `n` may be gone, unless it was added. */
	void (*down)(void *ctx, struct mesh_node *n, enum mesh_status why);

	/* A message of a room. An error ends the link. */
	int (*message)(void *ctx, struct mesh_node *n, unsigned kind,
	    const void *body, size_t len);
	/* What waited for this link has left, after mesh_send or mesh_room had
	 * said that there is no room. */
	void (*writable)(void *ctx, struct mesh_node *n);
	/* Its ports or its number of replicants are others. May be NULL. */
	void (*changed)(void *ctx, struct mesh_node *n);
	/* Has this turn done enough? May be NULL. */
	bool (*enough)(void *ctx);
};

struct mesh_opts {
	struct ev_loop	*loop;
	struct mesh_self self;		/* texts must outlive the mesh */
	uint64_t	 id;
	const char	*host;		/* to bind; not an address: all */
	uint16_t	 port;
	bool		 v6;
	const struct secret *secret;	/* copied; curve false: in clear */
	const struct mesh_events *events;
	void		*ctx;
};

/* Bind and start. ERR_IO (errno: EADDRINUSE, EADDRNOTAVAIL, ...), ERR_NOMEM. */
int mesh_open(struct mesh **out, const struct mesh_opts *o);
/* Says BYE. Not from a callback. NULL is fine. */
void mesh_close(struct mesh **m);

/* --- Who is called ----------------------------------------------------- */

/* Call this node whenever there is no link with it; again: another address.
 * ERR_FULL: NODES_MAX are there. ERR_INVAL, ERR_NOMEM. */
int mesh_add(struct mesh *m, const char *name, const char *host,
    uint16_t port);
/* Call it no more, and end its link if there is one. */
void mesh_forget(struct mesh *m, const char *name);

struct mesh_node *mesh_find(struct mesh *m, const char *name);
/* Walk: NULL is the start, and the end. Not while nodes come or go. */
struct mesh_node *mesh_next(struct mesh *m, struct mesh_node *at);
void mesh_look(const struct mesh_node *n, struct mesh_look *out);
void mesh_set_user(struct mesh_node *n, void *user);
void *mesh_user(const struct mesh_node *n);

/* --- Saying ------------------------------------------------------------ */

/* kind from MESH_ROOMS to 255. ERR_AGAIN: MESH_QUEUE bytes wait already (an
 * empty queue takes any message): `writable` tells. ERR_NOTFOUND: no link.
 * ERR_NOMEM. */
int mesh_send(struct mesh_node *n, unsigned kind, const void *body,
    size_t len);
/* Bytes that mesh_send takes for sure; 0 without a link. */
size_t mesh_room(struct mesh_node *n);
/* End the link; it is told why, and called again after a pause. */
void mesh_drop(struct mesh_node *n, enum mesh_status why, const char *text);

/* What all others are told of us, now and with each hello. */
void mesh_set_ports(struct mesh *m, const uint32_t ports[NODE_LINKS_MAX]);
void mesh_set_replicants(struct mesh *m, uint32_t n);

/* The hybrid clock: the wall's, or the highest heard from a node. */
uint64_t mesh_clock(struct mesh *m);
/* It is at least this. */
void mesh_witness(struct mesh *m, uint64_t clock_ns);

#endif

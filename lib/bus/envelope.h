/*
 * envelope.h: the bus's own three messages (envelope.proto) to and from bytes,
 * and the options every socket gets before it is bound or connected.
 */
#ifndef BUS_ENVELOPE_H
#define BUS_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/envelope.pb.h"

#define ENVELOPE_MAX	1280	/* bytes of any of the three */

/* All fields 0 and empty. */
void envelope_init(Envelope *e);

/* Encode; returns the length, which is never above ENVELOPE_MAX. */
size_t envelope_put(uint8_t out[ENVELOPE_MAX], const Envelope *e);
size_t hello_put(uint8_t out[ENVELOPE_MAX], const Hello *h);
size_t welcome_put(uint8_t out[ENVELOPE_MAX], const Welcome *w);

/* Decode. ERR_PROTO. */
int envelope_get(Envelope *e, const void *data, size_t len);
int hello_get(Hello *h, const void *data, size_t len);
int welcome_get(Welcome *w, const void *data, size_t len);

/* IMMEDIATE, LINGER, HWM, the largest part taken, and ROUTER's own. ERR_IO. */
int socket_options(void *zsocket, int type);

/*
 * What a connection with another node needs besides: heartbeats, time for the
 * handshake, IPv6, CURVE (NULL: none) as server or client. No bound on what
 * waits: credit is. ERR_IO.
 */
struct bus_secret;
int socket_far(void *zsocket, bool ipv6, const struct bus_secret *secret,
    bool server);

#define SOCKET_HWM	32	/* messages a direction and connection */

#endif

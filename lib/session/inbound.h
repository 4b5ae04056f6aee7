/*
 * inbound.h: packet identifiers a client has in use towards us: those of QoS 2
 * between PUBLISH and PUBREL. Spec: MQTT 5.0 sections 4.3.3 and 4.9.
 * All zero is a valid empty set.
 */
#ifndef SESSION_INBOUND_H
#define SESSION_INBOUND_H

#include <stdbool.h>
#include <stdint.h>

struct inbound {
	uint16_t	*ids;
	uint32_t	 n, cap;
};

/* Remember id. 1 if new, 0 if it was there (a repeated PUBLISH), ERR_NOMEM. */
int inbound_add(struct inbound *in, uint16_t id);

/* Forget id; false if it was not there. */
bool inbound_del(struct inbound *in, uint16_t id);
bool inbound_has(const struct inbound *in, uint16_t id);
void inbound_clear(struct inbound *in);

/* Remember these n, none of them twice, in an empty set. ERR_NOMEM. */
int inbound_import(struct inbound *in, const uint16_t *ids, uint32_t n);

#endif

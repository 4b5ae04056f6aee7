/*
 * noderow.h: rows of the table route.<node> (lib/rlog): what a node has
 * subscribers for.
 *
 *	key				value
 *	N				the node's name
 *	P				port(2) of each cluster-link there, by
 *					instance; 0: none. Who has no link with
 *					it hears of them so
 *	L filter			some listener there has it: live
 *	D filter			some store there has it: durable
 *	G L|D length(2) group filter	members(4), as in topic/group.h, halves
 *					rounded to powers of two
 *
 * Numbers are little-endian. A value may grow at its end; keys that begin with
 * another letter are of a later version.
 */
#ifndef PROTO_NODEROW_H
#define PROTO_NODEROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "proto/nodes.h"

enum noderow_kind { NODEROW_NAME = 1, NODEROW_FILTER, NODEROW_GROUP,
	NODEROW_PORTS };
enum noderow_class { NODEROW_LIVE, NODEROW_DURABLE, NODEROW_CLASSES };

struct noderow {
	enum noderow_kind  kind;
	enum noderow_class class;	/* of NODEROW_FILTER, NODEROW_GROUP */
	struct slice	 filter, group;	/* not checked, but not empty */
	struct slice	 name;		/* NODEROW_NAME */
	uint32_t	 members;
	uint32_t	 ports[NODE_LINKS_MAX];	/* NODEROW_PORTS */
};

#define NODEROW_KEY_MAX	(4 + 2 * 65535)
#define NODEROW_VALUE_MAX 255

/* Write key and value. ERR_INVAL: a length is out of bounds. */
int noderow_encode(const struct noderow *row, uint8_t key[NODEROW_KEY_MAX],
    size_t *key_len, uint8_t value[NODEROW_VALUE_MAX], size_t *value_len);

/* Of a row that is deleted there is no value, hence no name, members, ports.
 * ERR_PROTO: none that we know. */
int noderow_decode(struct noderow *row, struct slice key, struct slice value,
    bool deleted);

/*
 * The members of a group as they are told, of the sums over all processes of a
 * class. Rounded down to powers of two, so that one who comes or goes is seldom
 * a change. Of the live ones `second`, those a store sees to, are among
 * `first`; the others are rounded apart, for of them there may be but one.
 */
uint32_t noderow_members(enum noderow_class class, uint64_t first,
    uint64_t second);

#endif

/*
 * rules.h: what lib/mesh decides, without a socket or a clock: whether two
 * nodes can speak to each other, which of two connections stays, when a silent
 * one is down, when to call again.
 */
#ifndef MESH_RULES_H
#define MESH_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/mesh.h"

enum {
	MESH_BEAT_MS	= 500,	/* something is said at least so often */
	MESH_SUSPECT_MS	= 1200,	/* two of them are missing */
	MESH_SILENT_MS	= 2000,	/* down */
	MESH_CALL_MS	= 3000,	/* from the call to WELCOME */
	MESH_RETRY_MS	= 500,	/* after the first failure; doubles, to */
	MESH_RETRY_MAX_MS = 4000,
	MESH_REFUSED_MS	= 5000,	/* after a refusal that will not change soon */
};

/* Who we are, as far as it matters here. */
struct mesh_self {
	const char	*node;		/* name */
	const char	*cluster;	/* "": any */
	uint64_t	 incarnation;
	bool		 core;
	uint32_t	 version, oldest;
	uint64_t	 max_skew_ns;	/* 0: any */
};

/*
 * Can we speak to who said this HELLO or WELCOME, our clock being now_ns?
 * MESH_OK, or why not, with words for the log.
 */
enum mesh_status mesh_judge(const struct mesh_self *me,
    const struct mesh_msg *m, uint64_t now_ns, char *why, size_t size);

/*
 * There is a connection with this node, made by us (have_out) or by it, and
 * here is another one: is that to take its place? Both sides must come to the
 * same answer, whatever they have seen first: the one that the node with the
 * lower name made stays.
 */
bool mesh_replaces(const char *me, const char *other, bool have_out,
    bool new_out);

/* How long to wait before the next call, after so many failed in a row and
 * with this random number. */
uint64_t mesh_pause_ms(unsigned failed, enum mesh_status last,
    uint64_t random);

/*
 * Time passed that was not ours: we were stopped, or busy, and whoever spoke
 * meanwhile waits to be heard. Ticks are due every tick_ms; what is beyond two
 * of them does not count as silence.
 */
uint64_t mesh_lost_ms(uint64_t since_last_tick, uint64_t tick_ms);

/* One line in a while of what could be one line a packet: true if this one is
 * to be written; *more: how many were not since the last one. */
struct mesh_limit {
	uint64_t	until_ms;
	uint64_t	what;		/* another reason is written at once */
	uint64_t	skipped;
};
bool mesh_may_log(struct mesh_limit *l, uint64_t what, uint64_t now_ms,
    uint64_t *more);

#endif

/*
 * store.h: what the files of mqttc-session-store share. The process keeps one
 * shard: what outlives a connection, of the client ids and topics whose hash
 * falls to it, in a directory that is its own.
 *
 *	main.c		wiring, who is there, the turn
 *	dir.c		the directory and its lock
 *	query.c		questions of the tools
 */
#ifndef STORE_H
#define STORE_H

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/util.h"
#include "bus/bus.h"
#include "conf/conf.h"
#include "metric/metric.h"
#include "proc/proc.h"
#include "route/match.h"
#include "route/tell.h"
#include "topic/index.h"

struct store_dir {
	char	path[CONF_STR_MAX + PROC_NAME_MAX];
	int	fd;			/* of the directory; -1: none */
	int	lock_fd;
};

struct store {
	struct proc	*proc;
	struct ev_loop	*loop;
	const struct conf *conf;
	struct bus	*bus;
	uint32_t	 shard, nshards;
	uint64_t	 started_ms;

	ev_prepare	 prepare;
	ev_timer	 tick;

	struct store_dir dir;

	struct index	*index;		/* who here subscribed to what */
	struct route_tell tell;		/* the router our rows */
	struct route_fib fib;		/* what it knows of others */

	/* Who runs, as PEERS has it. */
	uint32_t	 nlisteners;
	bool		 ready;
	bool		 draining;
};

/* --- dir.c --- */

/*
 * The directory of process `name` below data_dir, made with mode 0700 if it is
 * missing, and locked until store_dir_close. ERR_EXISTS: another process has
 * it. ERR_IO: see errno; ERR_INVAL: the path is too long. d->path is set even
 * then.
 */
int store_dir_open(struct store_dir *d, const char *data_dir,
    const char *name);
void store_dir_close(struct store_dir *d);

/* --- query.c --- */

int on_query(void *ctx, struct bus_frame *f);

/* --- metrics, in main.c --- */

extern struct metric m_queries;

#endif

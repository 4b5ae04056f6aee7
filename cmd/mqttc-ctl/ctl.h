/*
 * ctl.h: what the files of mqttc-ctl share.
 *
 *	main.c		the command line, what the supervisor does
 *	export.c	sessions and retained messages to stdout
 *	import.c	... and from stdin
 *	stores.c	the session-stores of a node, as these two ask them
 */
#ifndef CTL_H
#define CTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/ask.h"
#include "dump/dump.h"
#include "proc/tool.h"

#define STORES_MAX	64
#define ANSWER_MS	30000	/* for one page or batch */

struct store {
	struct bus_ask	*ask;		/* NULL: not connected to */
	char		 name[PROC_NAME_MAX];
	uint64_t	 sessions, retained;
	uint32_t	 shards;	/* what it says there are */
};

struct stores {
	struct store	store[STORES_MAX];	/* by shard */
	uint32_t	n;
};

/* Connect to every store of the node. 0, or said why not: a code of
 * sysexits.h. */
int stores_open(struct stores *ss, struct tool *t);
void stores_close(struct stores *ss);

/* Say on stderr what rc of bus_ask, or the store's own status and why, means;
 * returns a code of sysexits.h. */
int stores_failed(const struct store *s, int rc);
int stores_refused(const struct store *s, uint32_t status, const char *why);

/* Every two seconds: is it time to say how far it is? */
bool progress_due(void);
void say_counts(const struct dump_counts *n);	/* to stderr, no newline */

int run_export(struct tool *t, int argc, char **argv);
int run_import(struct tool *t, bool replace);

#endif

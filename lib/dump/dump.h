/*
 * dump.h: the lines of `mqttc-ctl export`: one JSON object each. What each
 * holds is told in mqttc-ctl(1). Here one line is made of an item
 * (proto/item.h), and back; the order of lines is looked at by dump_order_*.
 */
#ifndef DUMP_DUMP_H
#define DUMP_DUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/item.h"

#define DUMP_FORMAT	1
#define DUMP_NODE_MAX	256
#define DUMP_LINE_MAX	((size_t)400 << 20)	/* holds the largest message */

enum dump_kind { DUMP_HEADER = 1, DUMP_ITEM, DUMP_END };

struct dump_counts {
	uint64_t	lines;			/* END: all but itself */
	uint64_t	sessions, messages, subscriptions, retained;
};

struct dump_line {
	enum dump_kind	   kind;
	struct item_row	   item;		/* whole; SESSION_END without
						 * expiry_s and at_ms */
	struct dump_counts n;			/* HEADER: about; END: exactly;
						 * SESSION_END: of the session */
	uint64_t	   time_ms;		/* HEADER */
	uint32_t	   shards;
	char		   node[DUMP_NODE_MAX];
};

/* The text of a line, ending in a newline, to be freed. ERR_INVAL for text that
 * is no UTF-8, ERR_NOMEM. */
int dump_put(const struct dump_line *l, char **text);

/* What a line that was read lies in. All zero is a valid one. */
struct dump_reader {
	void	*object;			/* json_t */
	uint8_t	*props, *payload, *ids;
};

/*
 * Take a line (its newline not in len) apart. *l is good until the next call.
 * ERR_PROTO: why says what is wrong with it and what would be right; ERR_NOMEM.
 * What is returned has every field within its bounds, topics, filters and
 * properties as MQTT wants them.
 */
int dump_get(struct dump_reader *r, const char *text, size_t len,
    struct dump_line *l, char *why, size_t size);
void dump_reader_fini(struct dump_reader *r);

/* --- The order of lines -------------------------------------------------- */

/* A file as far as it was read. All zero is its beginning. */
struct dump_order {
	struct dump_counts n;			/* so far */
	struct dump_counts session;		/* of the session under way */
	uint64_t	 next;			/* lowest offset to come */
	uint8_t		*id;			/* of the session under way */
	size_t		 id_len;
	bool		 begun, ended, in_session, subs_begun;
};

/* May l come here? 0; ERR_PROTO with why; ERR_NOMEM. A session without an end
 * is fine: it ended while it was told. */
int dump_order_next(struct dump_order *o, const struct dump_line *l,
    char *why, size_t size);
/* May the file end here? */
int dump_order_end(const struct dump_order *o, char *why, size_t size);
void dump_order_fini(struct dump_order *o);

#endif

/*
 * lines.h: log lines on their way from a child's pipe to where logs go. Pure.
 *
 * A cutter makes whole lines of the bytes of one pipe; a ring holds lines
 * until their reader takes them, and counts those it had no room for.
 */
#ifndef KEEP_LINES_H
#define KEEP_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINES_LINE_MAX	4096		/* longer ones are cut here */

struct line_cutter {
	size_t	len;
	char	buf[LINES_LINE_MAX];
};

/* A whole line, newline included. */
typedef void line_fn(void *ctx, const char *line, size_t len);

void line_cutter_feed(struct line_cutter *c, const char *bytes, size_t n,
    line_fn *each, void *ctx);
/* The pipe has ended: what is left is a line. */
void line_cutter_end(struct line_cutter *c, line_fn *each, void *ctx);

struct line_ring {
	char		*buf;
	size_t		 size, head, used;
	uint64_t	 lost;		/* lines without room since last told */
};

/* size bytes of storage, the caller's. */
void line_ring_init(struct line_ring *r, char *storage, size_t size);

/* All of the line or nothing: false, counted, if there is no room. */
bool line_ring_put(struct line_ring *r, const char *line, size_t len);

/* The oldest bytes that lie together; 0 if empty. */
size_t line_ring_peek(const struct line_ring *r, const char **bytes);
void line_ring_take(struct line_ring *r, size_t n);

#endif

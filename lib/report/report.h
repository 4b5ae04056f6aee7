/*
 * report.h: rows a tool prints: one JSON object a line, or a table for people.
 * The columns are said once; their names are the JSON keys, so both stay alike.
 *
 *	static const struct report_col cols[] = {
 *		{ "name", 14, 0 }, { "pid", 7, REPORT_RIGHT },
 *		{ "started_ms", 0, REPORT_JSON_ONLY },
 *	};
 *	report_init(&r, stdout, json, cols, NELEM(cols));
 *	report_str(&r, "router"); report_u64(&r, 4711); report_u64(&r, 0);
 *	report_end(&r);
 *
 * Text from outside is made fit for a terminal. Every function but report_end
 * adds the value of the next column.
 */
#ifndef REPORT_REPORT_H
#define REPORT_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { REPORT_RIGHT = 1, REPORT_JSON_ONLY = 2, REPORT_TEXT_ONLY = 4 };

struct report_col {
	const char	*name;
	int		 width;		/* of the table; 0: as it comes */
	int		 flags;
};

struct report {
	FILE			*out;
	bool			 json, titled;
	const struct report_col	*cols;
	size_t			 ncols, at;
	void			*object;	/* json_t */
	size_t			 pending;	/* blanks before the next */
};

void report_init(struct report *r, FILE *out, bool json,
    const struct report_col *cols, size_t ncols);

void report_str(struct report *r, const char *s);
void report_bytes(struct report *r, const void *bytes, size_t len);
void report_u64(struct report *r, uint64_t v);
void report_double(struct report *r, double v);	/* table: one decimal */
void report_bool(struct report *r, bool v);
void report_none(struct report *r);		/* null; "-" */

/* The row is complete: print it (with the titles, if it is the first one of a
 * table). ERR_IO if the stream failed. */
int report_end(struct report *r);

/* Print the titles of a table without rows; nothing in JSON. */
void report_titles(struct report *r);

#endif

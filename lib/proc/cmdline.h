/*
 * cmdline.h: the options every program takes, and the configuration they
 * name: -f conf, -o key=value, -n name, -t, -v, -h, -V, --help, --version,
 * --json for tools, and what a program adds of its own.
 */
#ifndef PROC_CMDLINE_H
#define PROC_CMDLINE_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>

struct conf;

#define CMDLINE_SET_MAX	256	/* -o options */

struct cmdline {
	const char	*program;
	const char	*file;			/* -f; NULL: none */
	const char	*set[CMDLINE_SET_MAX];	/* -o, in order */
	size_t		 nset;
	const char	*name;			/* -n; NULL: none */
	bool		 test, verbose, json;	/* -t, -v, --json */
};

struct cmdline_opts {
	const char	*program;
	const char	*usage;		/* printed by -h, ends with a newline */
	const char	*letters;	/* of "fonthvV" plus own, getopt style;
					   NULL: "f:o:n:tvhV" */
	const struct option *longs;	/* own long options, or NULL */
	/* An option that is the program's own; false: usage error. */
	bool (*own)(void *ctx, int opt, const char *arg);
	bool		 json;		/* --json is known */
};

/*
 * Fill *c from argv; optind is left at the first operand. Prints and exits for
 * -h, -V and mistakes (EX_USAGE). Texts point into argv.
 */
void cmdline_parse(struct cmdline *c, int argc, char **argv,
    const struct cmdline_opts *o, void *ctx);

/* "mqttc-x: what" and the usage on stderr, then exit EX_USAGE. */
void cmdline_usage(const struct cmdline_opts *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/*
 * The configuration: defaults, file, environment, -o, -v, checked as a whole,
 * its directories made absolute. Returns 0, or the exit code with one line of
 * what is wrong in why.
 */
int cmdline_conf(const struct cmdline *c, struct conf *out, char *why,
    size_t size);

#endif

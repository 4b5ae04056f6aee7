#include "proc/cmdline.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "log/log.h"

#define LONGS_MAX	24

enum { OPT_JSON = 1000 };

static const struct option base_longs[] = {
	{ "help",	no_argument, NULL, 'h' },
	{ "version",	no_argument, NULL, 'V' },
	{ "json",	no_argument, NULL, OPT_JSON },	/* must be last */
};

static size_t
longs_fill(struct option *out, const struct cmdline_opts *o)
{
	const struct option	*l;
	size_t			 n = NELEM(base_longs) - (o->json ? 0 : 1);

	memcpy(out, base_longs, n * sizeof(*out));
	for (l = o->longs; l != NULL && l->name != NULL; l++)
		if (n < LONGS_MAX)
			out[n++] = *l;
	memset(&out[n], 0, sizeof(out[n]));
	return n;
}

void
cmdline_parse(struct cmdline *c, int argc, char **argv,
    const struct cmdline_opts *o, void *ctx)
{
	const char	*letters = o->letters ? o->letters : "f:o:n:tvhV";
	struct option	 longs[LONGS_MAX + 1];
	int		 opt;

	memset(c, 0, sizeof(*c));
	c->program = o->program;
	longs_fill(longs, o);
	while ((opt = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
		switch (opt) {
		case 'f':
			c->file = optarg;
			break;
		case 'o':
			if (c->nset == CMDLINE_SET_MAX)
				cmdline_usage(o, "more than %d -o options",
				    CMDLINE_SET_MAX);
			c->set[c->nset++] = optarg;
			break;
		case 'n':
			c->name = optarg;
			break;
		case 't':
			c->test = true;
			break;
		case 'v':
			c->verbose = true;
			break;
		case 'h':
			fputs(o->usage, stdout);
			exit(0);
		case 'V':
			printf("%s %s\n", o->program, MQTTC_VERSION);
			exit(0);
		case OPT_JSON:
			c->json = true;
			break;
		case '?':
			fputs(o->usage, stderr);
			exit(EX_USAGE);
		default:
			if (o->own == NULL || !o->own(ctx, opt, optarg))
				cmdline_usage(o, "bad value '%s'",
				    optarg != NULL ? optarg : "");
		}
	}
}

void
cmdline_usage(const struct cmdline_opts *o, const char *fmt, ...)
{
	va_list	ap;

	fprintf(stderr, "%s: ", o->program);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n%s", o->usage);
	exit(EX_USAGE);
}

/* Processes change to run_dir: from then on a relative path means another. */
static int
make_absolute(char *path, size_t size, const char *key, char *why,
    size_t wsize)
{
	char	cwd[PATH_MAX], full[PATH_MAX + CONF_STR_MAX];
	int	n;

	if (path[0] == '\0' || path[0] == '/')
		return 0;
	if (getcwd(cwd, sizeof(cwd)) == NULL) {
		snprintf(why, wsize, "cannot find the current directory: %s",
		    strerror(errno));
		return EX_OSERR;
	}
	n = snprintf(full, sizeof(full), "%s/%s", cwd, path);
	if (n < 0 || (size_t)n >= size) {
		snprintf(why, wsize, "%s: '%s' is longer than %zu bytes",
		    key, full, size - 1);
		return EX_CONFIG;
	}
	memcpy(path, full, (size_t)n + 1);
	return 0;
}

int
cmdline_conf(const struct cmdline *c, struct conf *out, char *why, size_t size)
{
	extern char		**environ;
	struct conf_error	  e = { "" };
	size_t			  i;
	int			  rc;

	conf_init(out);
	if (c->file != NULL &&
	    (rc = conf_read_file(out, c->file, &e)) < 0) {
		snprintf(why, size, "%s", e.text);
		return rc == ERR_IO ? EX_NOINPUT : EX_CONFIG;
	}
	if (conf_read_env(out, environ, &e) < 0)
		goto bad;
	for (i = 0; i < c->nset; i++)
		if (conf_set_option(out, c->set[i], &e) < 0)
			goto bad;
	if (c->verbose)
		out->log_level = LOG_L_DEBUG;
	if (conf_check(out, &e) < 0)
		goto bad;
	if ((rc = make_absolute(out->node_run_dir, sizeof(out->node_run_dir),
	    "node.run_dir", why, size)) != 0 ||
	    (rc = make_absolute(out->node_data_dir, sizeof(out->node_data_dir),
	    "node.data_dir", why, size)) != 0 ||
	    (rc = make_absolute(out->log_dir, sizeof(out->log_dir),
	    "log.dir", why, size)) != 0)
		return rc;
	return 0;
bad:
	snprintf(why, size, "%s", e.text);
	return EX_CONFIG;
}

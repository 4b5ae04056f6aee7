/*
 * mqttc-stat: every counter and gauge of a node, read from the segments the
 * processes count in. Nobody is asked and nobody notices.
 */
#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "metric/metric.h"
#include "proc/tool.h"
#include "report/report.h"

#define FILTERS_MAX	32

static const char usage[] =
    "usage: mqttc-stat [-ahVw] [--json] [-c count] [-f conf] [-i seconds]\n"
    "       [-o key=value] [name ...]\n";

/* One value, and what it was the time before. */
struct value {
	char		process[PROC_NAME_MAX];
	uint64_t	incarnation;
	char		name[128], help[256];
	enum metric_kind kind;
	uint64_t	now, before;
	bool		seen, old;
};

struct stat_run {
	struct tool	*t;
	bool		 all, watch;
	double		 interval_s;
	unsigned long	 count;		/* rounds; 0: for ever */
	const char	*filters[FILTERS_MAX];
	size_t		 nfilters;

	struct value	*values;
	size_t		 nvalues, nsorted, room;
	const struct proc_segment *seg;	/* being read */
	uint64_t	 then_ns;
	double		 passed_s;
};

static const struct tool_opts opts;

/* --- Values -------------------------------------------------------------- */

static int
by_process_and_name(const void *a, const void *b)
{
	const struct value	*x = a, *y = b;
	int			 d = strverscmp(x->process, y->process);

	return d != 0 ? d : strcmp(x->name, y->name);
}

/* Among those of the last round, which are in order. */
static struct value *
find(struct stat_run *r, const char *name)
{
	static struct value	 key;
	struct value		*v;

	snprintf(key.process, sizeof(key.process), "%s", r->seg->owner);
	snprintf(key.name, sizeof(key.name), "%s", name);
	v = r->nsorted == 0 ? NULL : bsearch(&key, r->values, r->nsorted,
	    sizeof(key), by_process_and_name);
	return v != NULL && v->incarnation == r->seg->incarnation ? v : NULL;
}

static bool
is_wanted(const struct stat_run *r, const char *name)
{
	size_t	i;

	for (i = 0; i < r->nfilters; i++)
		if (strstr(name, r->filters[i]) != NULL ||
		    fnmatch(r->filters[i], name, 0) == 0)
			return true;
	return r->nfilters == 0;
}

static void
on_metric(void *ctx, const char *name, const char *help,
    enum metric_kind kind, uint64_t value)
{
	struct stat_run	*r = ctx;
	struct value	*v, *more;

	if (!is_wanted(r, name))
		return;
	if ((v = find(r, name)) == NULL) {
		if (r->nvalues == r->room) {
			r->room = r->room == 0 ? 256 : r->room * 2;
			more = realloc(r->values, r->room * sizeof(*more));
			if (more == NULL) {
				fprintf(stderr, "mqttc-stat: out of memory\n");
				exit(EX_OSERR);
			}
			r->values = more;
		}
		v = &r->values[r->nvalues++];
		memset(v, 0, sizeof(*v));
		snprintf(v->process, sizeof(v->process), "%s", r->seg->owner);
		snprintf(v->name, sizeof(v->name), "%s", name);
		snprintf(v->help, sizeof(v->help), "%s", help);
		v->incarnation = r->seg->incarnation;
		v->kind = kind;
	} else
		v->old = true;
	v->before = v->now;
	v->now = value;
	v->seen = true;
}

static void
read_segment(struct stat_run *r)
{
	struct stat	 st;
	void		*mem;
	int		 rc;

	if (fstat(r->seg->fds[0], &st) < 0 || st.st_size <= 0)
		return;
	mem = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED,
	    r->seg->fds[0], 0);
	if (mem == MAP_FAILED) {
		fprintf(stderr, "mqttc-stat: cannot map the metrics of %s: "
		    "%s\n", r->seg->owner, strerror(errno));
		return;
	}
	if ((rc = metric_read(mem, (size_t)st.st_size, on_metric, r)) < 0)
		fprintf(stderr, "mqttc-stat: metrics of %s: %s\n",
		    r->seg->owner, err_str(rc));
	munmap(mem, (size_t)st.st_size);
}

static void
collect(struct stat_run *r)
{
	const struct proc_segment	*segs;
	uint64_t			 now = clock_mono_ns();
	size_t				 i, n, kept = 0;
	int				 rc;

	if ((rc = tool_segments(r->t, &segs, &n)) < 0)
		tool_fatal(r->t, rc);
	for (i = 0; i < r->nvalues; i++)
		r->values[i].seen = false;
	for (i = 0; i < n; i++) {
		r->seg = &segs[i];
		if (r->seg->kind == PROC_SEGMENT_METRICS)
			read_segment(r);
	}
	for (i = 0; i < r->nvalues; i++)	/* of those that ended */
		if (r->values[i].seen)
			r->values[kept++] = r->values[i];
	r->nvalues = r->nsorted = kept;
	if (kept > 0)
		qsort(r->values, kept, sizeof(*r->values),
		    by_process_and_name);
	r->passed_s = (double)(now - r->then_ns) / 1e9;
	r->then_ns = now;
}

/* --- Printing ------------------------------------------------------------ */

static const struct report_col cols[] = {
	{ "process",	14, 0 },
	{ "metric",	44, 0 },
	{ "value",	14, REPORT_RIGHT },
	{ "kind",	0, REPORT_JSON_ONLY },
	{ "help",	0, REPORT_JSON_ONLY },
};

static const struct report_col live_cols[] = {
	{ "process",	14, 0 },
	{ "metric",	44, 0 },
	{ "value",	14, REPORT_RIGHT },
	{ "kind",	0, REPORT_JSON_ONLY },
	{ "rate",	12, REPORT_RIGHT },
};

/* A table of everything that is nought helps nobody: -a shows that too. */
static bool
is_shown(const struct stat_run *r, const struct value *v)
{
	return r->all || tool_json(r->t) || r->nfilters > 0 || v->now != 0;
}

static void
print_value(struct stat_run *run, struct report *r, const struct value *v)
{
	report_str(r, v->process);
	report_str(r, v->name);
	report_u64(r, v->now);
	report_str(r, v->kind == METRIC_KIND_COUNTER ? "counter" : "gauge");
	if (!run->watch)
		report_str(r, v->help);
	else if (!v->old || v->kind != METRIC_KIND_COUNTER ||
	    run->passed_s <= 0)
		report_none(r);
	else
		report_double(r, (double)(v->now - v->before) /
		    run->passed_s);
	report_end(r);
}

static void
print_all(struct stat_run *run)
{
	struct report	r;
	size_t		i;

	if (run->watch && !tool_json(run->t) && isatty(STDOUT_FILENO))
		fputs("\033[H\033[J", stdout);	/* home, clear */
	report_init(&r, stdout, tool_json(run->t),
	    run->watch ? live_cols : cols,
	    run->watch ? NELEM(live_cols) : NELEM(cols));
	report_titles(&r);
	for (i = 0; i < run->nvalues; i++)
		if (is_shown(run, &run->values[i]))
			print_value(run, &r, &run->values[i]);
	if (run->watch && !tool_json(run->t) && !isatty(STDOUT_FILENO))
		putchar('\n');
	if (fflush(stdout) != 0) {
		fprintf(stderr, "mqttc-stat: cannot write: %s\n",
		    strerror(errno));
		exit(EX_IOERR);
	}
}

/* --- Options ------------------------------------------------------------- */

static bool
own_option(void *ctx, int opt, const char *arg)
{
	struct stat_run	*r = ctx;
	char		*end;

	switch (opt) {
	case 'a':
		r->all = true;
		return true;
	case 'w':
		r->watch = true;
		return true;
	case 'i':
		r->interval_s = strtod(arg, &end);
		return *arg != '\0' && *end == '\0' &&
		    r->interval_s >= 0.01 && r->interval_s <= 86400;
	case 'c':
		r->count = strtoul(arg, &end, 10);
		return *arg >= '0' && *arg <= '9' && *end == '\0';
	default:
		return false;
	}
}

static void
operands(void *ctx, int argc, char **argv)
{
	struct stat_run	*r = ctx;
	int		 i;

	if (argc > FILTERS_MAX)
		tool_usage(&opts, "more than %d names", FILTERS_MAX);
	for (i = 0; i < argc; i++)
		r->filters[r->nfilters++] = argv[i];
}

static const struct tool_opts opts = {
	.program = "mqttc-stat",
	.usage = usage,
	.letters = "ac:i:w",
	.own = own_option,
	.operands = operands,
	.wants = PROC_WANT_METRICS,
};

int
main(int argc, char **argv)
{
	struct stat_run		r = { .interval_s = 1.0 };
	unsigned long		n;

	tool_open(&r.t, argc, argv, &opts, &r);
	for (n = 1;; n++) {
		collect(&r);
		print_all(&r);
		if (!r.watch || n == r.count)
			break;
		poll(NULL, 0, (int)(r.interval_s * 1000));
	}
	free(r.values);
	tool_close(&r.t);
	return 0;
}

/*
 * mqttc-route: ask the router of a node which routes it has, which of them
 * match a topic, and how it is. One question, page by page (proto/query.h).
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/ask.h"
#include "proc/tool.h"
#include "proto/query.h"
#include "report/report.h"
#include "topic/filter.h"

#define TIMEOUT_MS	5000

#define OPTIONS	"[-hV] [--json] [-f conf] [-o key=value]"

enum { OPT_OWNER = 2000, OPT_PREFIX };

struct args {
	const struct tool_opts *opts;
	const char	*command;
	const char	*topic;
	const char	*owner, *prefix;
};

static const struct option longs[] = {
	{ "owner",	required_argument, NULL, OPT_OWNER },
	{ "prefix",	required_argument, NULL, OPT_PREFIX },
	{ NULL,		0, NULL, 0 },
};

static bool	own(void *ctx, int opt, const char *arg);
static void	operands(void *ctx, int argc, char **argv);

static const struct tool_opts opts = {
	.program = "mqttc-route",
	.usage =
	    "usage: mqttc-route " OPTIONS " list [--owner name]\n"
	    "                   [--prefix text]\n"
	    "       mqttc-route " OPTIONS " match topic\n"
	    "       mqttc-route " OPTIONS " stats\n",
	.longs = longs,
	.own = own,
	.operands = operands,
	.wants = PROC_WANT_PEERS,
};

static bool
own(void *ctx, int opt, const char *arg)
{
	struct args	*a = ctx;

	if (opt == OPT_OWNER)
		a->owner = arg;
	else if (opt == OPT_PREFIX)
		a->prefix = arg;
	else
		return false;
	return true;
}

static void
operands(void *ctx, int argc, char **argv)
{
	struct args	*a = ctx;
	bool		 list, match;

	if (argc == 0)
		tool_usage(&opts, "a command is missing: list, match or stats");
	a->command = argv[0];
	list = strcmp(a->command, "list") == 0;
	match = strcmp(a->command, "match") == 0;
	if (!list && !match && strcmp(a->command, "stats") != 0)
		tool_usage(&opts, "no command '%s': list, match or stats",
		    a->command);
	if (match && argc < 2)
		tool_usage(&opts, "match: the topic is missing");
	if (argc > 1 + match)
		tool_usage(&opts, "unexpected '%s'", argv[1 + match]);
	if (!list && (a->owner != NULL || a->prefix != NULL))
		tool_usage(&opts, "--owner and --prefix are for list");
	if (match)
		a->topic = argv[1];
}

/* --- Answers ------------------------------------------------------------------- */

#define CROWDS	10

/* stats: an anchor with many shapes. */
struct crowd {
	uint8_t		*text;
	size_t		 len;
	uint64_t	 shapes;
};

struct out {
	struct report	 r;
	bool		 json;
	uint64_t	 routes;	/* printed */
	struct slice	 topic;
	/* match: where the routes lead, to tell what the index has more. */
	char		(*dests)[PROC_NAME_MAX];
	size_t		 ndests;
	struct crowd	 crowds[CROWDS];	/* the most crowded, first */
	bool		 io_failed;
};

static void
end_row(struct out *o)
{
	if (report_end(&o->r) < 0)
		o->io_failed = true;
}

static void
put_bytes(struct out *o, struct slice s)
{
	report_bytes(&o->r, s.data, s.len);
}

static void
put_or_none(struct out *o, struct slice s)
{
	if (s.len > 0)
		put_bytes(o, s);
	else
		report_none(&o->r);
}

static bool
is(struct slice s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.data, text, s.len) == 0;
}

static const struct report_col list_cols[] = {
	{ "filter", 32, 0 }, { "dest", 14, 0 }, { "group", 12, 0 },
	{ "members", 7, REPORT_RIGHT }, { "qos", 3, REPORT_RIGHT },
	{ "state", 9, 0 }, { "widened", 0, REPORT_JSON_ONLY }, { "as", 0, 0 },
};

static bool
is_group(const struct route_info *i)
{
	return i->share.len > 0;
}

/* The columns group, members and qos: a group has no qos of its own. */
static void
put_group(struct out *o, const struct route_info *i)
{
	put_or_none(o, i->share);
	if (is_group(i)) {
		report_u64(&o->r, i->members);
		report_none(&o->r);
	} else {
		report_none(&o->r);
		report_u64(&o->r, i->qos);
	}
}

static bool
list_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;

	if (row->kind != REPLY_ROUTE)
		return true;
	put_bytes(o, row->route.filter);
	put_bytes(o, row->route.dest);
	put_group(o, &row->route);
	put_bytes(o, row->route.state);
	report_bool(&o->r, row->route.widened);
	put_or_none(o, row->route.as);
	end_row(o);
	return !o->io_failed;
}

/* match: the same, then the index, then the probes. */
static const struct report_col match_cols[] = {
	{ "kind", 6, 0 }, { "filter", 32, 0 }, { "dest", 14, 0 },
	{ "group", 12, 0 }, { "members", 7, REPORT_RIGHT },
	{ "qos", 3, REPORT_RIGHT | REPORT_JSON_ONLY },
	{ "state", 12, 0 }, { "widened", 0, REPORT_JSON_ONLY }, { "as", 16, 0 },
	{ "up", 0, REPORT_JSON_ONLY }, { "matched", 0, REPORT_JSON_ONLY },
	{ "value", 0, 0 },
};

static void
dest_add(struct out *o, struct slice name)
{
	char	(*more)[PROC_NAME_MAX];
	size_t	 i;

	for (i = 0; i < o->ndests; i++)
		if (is(name, o->dests[i]))
			return;
	if (name.len >= PROC_NAME_MAX)
		return;
	more = realloc(o->dests, (o->ndests + 1) * sizeof(*more));
	if (more == NULL)
		return;
	o->dests = more;
	memcpy(o->dests[o->ndests], name.data, name.len);
	o->dests[o->ndests++][name.len] = '\0';
}

static bool
dest_known(const struct out *o, struct slice name)
{
	size_t	i;

	for (i = 0; i < o->ndests; i++)
		if (is(name, o->dests[i]))
			return true;
	return false;
}

static void
match_route(struct out *o, const struct route_info *i)
{
	o->routes++;
	if (!is_group(i))
		dest_add(o, i->dest);
	report_str(&o->r, "route");
	put_bytes(o, i->filter);
	put_bytes(o, i->dest);
	put_group(o, i);
	put_bytes(o, i->state);
	report_bool(&o->r, i->widened);
	put_or_none(o, i->as);
	report_none(&o->r);
	report_none(&o->r);
	report_none(&o->r);
}

static void
match_index(struct out *o, const struct route_info *i)
{
	bool	up = is(i->state, "index"), group = is_group(i);
	bool	known = group ? topic_matches(i->filter.data, i->filter.len,
	    o->topic.data, o->topic.len) : dest_known(o, i->dest);

	report_str(&o->r, group ? "group" : "index");
	put_or_none(o, i->filter);
	put_bytes(o, i->dest);
	put_or_none(o, i->share);
	if (group)
		report_u64(&o->r, i->members);
	else
		report_none(&o->r);
	report_none(&o->r);
	report_str(&o->r, !up ? "down" : known ? "up" : "no match");
	report_none(&o->r);
	report_none(&o->r);
	report_bool(&o->r, up);
	report_bool(&o->r, known);
	report_none(&o->r);
}

/* A number in full, or false. */
static bool
number(struct slice s, uint64_t *out)
{
	uint64_t	v = 0;
	size_t		i;

	if (s.len == 0 || s.len > 19)
		return false;
	for (i = 0; i < s.len; i++) {
		if (s.data[i] < '0' || s.data[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(s.data[i] - '0');
	}
	*out = v;
	return true;
}

static bool
match_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;
	uint64_t	 v = 0;
	int		 i;

	if (row->kind == REPLY_ROUTE && (is(row->route.state, "index") ||
	    is(row->route.state, "index-down"))) {
		match_index(o, &row->route);
	} else if (row->kind == REPLY_ROUTE) {
		match_route(o, &row->route);
	} else if (row->kind == REPLY_KV) {
		put_bytes(o, row->kv.key);
		for (i = 0; i < 10; i++)
			report_none(&o->r);
		(void)number(row->kv.value, &v);
		report_u64(&o->r, v);
	} else {
		return true;
	}
	end_row(o);
	return !o->io_failed;
}

static const struct report_col stats_cols[] = {
	{ "key", 28, 0 }, { "value", 0, 0 },
};

/* Keep it if it is among the most crowded. */
static void
crowd_add(struct out *o, const struct kv_row *row)
{
	struct crowd	*c = o->crowds + CROWDS - 1, new = { NULL, 0, 0 };

	if (!number(row->value, &new.shapes) || new.shapes <= c->shapes ||
	    (new.text = malloc(row->key.len)) == NULL)
		return;
	memcpy(new.text, row->key.data, row->key.len);
	new.len = row->key.len;
	free(c->text);
	for (; c > o->crowds && c[-1].shapes < new.shapes; c--)
		*c = c[-1];
	*c = new;
}

static void
crowds_print(struct out *o)
{
	struct crowd	*c;

	for (c = o->crowds; c < o->crowds + CROWDS && c->text != NULL; c++) {
		report_bytes(&o->r, c->text, c->len);
		report_u64(&o->r, c->shapes);
		end_row(o);
		free(c->text);
		c->text = NULL;
	}
}

static bool
stats_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;
	uint64_t	 v = 0;

	if (row->kind != REPLY_KV)
		return true;
	if (row->kv.key.len >= 7 && memcmp(row->kv.key.data, "anchor:", 7) == 0) {
		crowd_add(o, &row->kv);
		return true;
	}
	put_bytes(o, row->kv.key);
	if (number(row->kv.value, &v))
		report_u64(&o->r, v);
	else
		put_bytes(o, row->kv.value);
	end_row(o);
	return !o->io_failed;
}

/* --- The question ----------------------------------------------------------------- */

static const struct question {
	const char	*command;
	enum query_what	 what;
	const struct report_col *cols;
	size_t		 ncols;
	bool (*row)(void *ctx, struct reply_row *row);
} questions[] = {
	{ "list", QUERY_ROUTES, list_cols, NELEM(list_cols), list_row },
	{ "match", QUERY_MATCH, match_cols, NELEM(match_cols), match_row },
	{ "stats", QUERY_STATS, stats_cols, NELEM(stats_cols), stats_row },
};

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, s != NULL ? strlen(s) : 0 };
}

/* Where the router is; ends the program if there is none. */
static const char *
router_endpoint(struct tool *t)
{
	const struct proc_peer	*peers;
	size_t			 i, n;
	int			 rc;

	if ((rc = tool_peers(t, &peers, &n)) < 0)
		tool_fatal(t, rc);
	for (i = 0; i < n; i++)
		if (peers[i].kind == PROC_ROUTER && peers[i].state != PROC_DOWN)
			return peers[i].endpoint;
	fprintf(stderr, "mqttc-route: no router is running on %s\n",
	    tool_node(t));
	exit(EX_UNAVAILABLE);
}

static int
failed(int rc)
{
	fprintf(stderr, "mqttc-route: the router %s: %s\n",
	    rc == ERR_AGAIN ? "does not answer" : "cannot be asked",
	    rc == ERR_AGAIN ? "it may be busy or stopped" : err_str(rc));
	return rc == ERR_AGAIN ? EX_TEMPFAIL :
	    rc == ERR_PROTO ? EX_PROTOCOL : EX_OSERR;
}

static int
ask(struct tool *t, const struct question *q, const struct query *m,
    struct out *o)
{
	struct bus_ask	*a = NULL;
	uint32_t	 status = 0;
	char		 why[256] = "";
	int		 rc;

	if ((rc = bus_ask_open(&a, router_endpoint(t), "mqttc-route",
	    TIMEOUT_MS)) < 0)
		return failed(rc);
	rc = bus_ask_query(a, m, q->row, o, &status, why, sizeof(why),
	    TIMEOUT_MS);
	bus_ask_close(&a);
	if (rc < 0)
		return failed(rc);
	if (status != 0) {
		fprintf(stderr, "mqttc-route: %s\n", why);
		return (int)status;
	}
	return 0;
}

int
main(int argc, char **argv)
{
	struct args		 a = { .command = NULL };
	struct query		 m = { .what = 0 };
	struct out		 o = { .routes = 0 };
	const struct question	*q = questions;
	struct tool		*t;
	int			 code;

	tool_open(&t, argc, argv, &opts, &a);
	while (strcmp(q->command, a.command) != 0)
		q++;
	m.what = q->what;
	m.arg = text(q->what == QUERY_ROUTES ? a.prefix : a.topic);
	m.owner = text(a.owner);
	o.topic = text(a.topic);
	report_init(&o.r, stdout, tool_json(t), q->cols, q->ncols);
	code = ask(t, q, &m, &o);
	crowds_print(&o);
	if (code == 0)
		report_titles(&o.r);
	if (code == 0 && q->what == QUERY_MATCH && o.routes == 0)
		code = 1;
	if (fflush(stdout) != 0 || o.io_failed) {
		fprintf(stderr, "mqttc-route: cannot write: %s\n",
		    strerror(errno));
		code = EX_IOERR;
	}
	free(o.dests);
	tool_close(&t);
	return code;
}

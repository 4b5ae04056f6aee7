/*
 * mqttc-cluster: put the node into a cluster, take it or another one out, tell
 * who belongs to it and who is in reach of whom. The router of the node is
 * asked (proto/query.h); what takes time there is asked about until it ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "bus/ask.h"
#include "conf/conf.h"
#include "proc/tool.h"
#include "proto/query.h"
#include "report/report.h"

#define OPTIONS	"[-hV] [--json] [-f conf] [-o key=value]"

enum {
	OPT_FORCE	= 2000,
	OPT_NODES,
	TIMEOUT_MS	= 5000,
	POLL_MS		= 100,
	BEGIN_MS	= 10000,	/* for a router that starts anew */
	WAIT_MS		= 30000,	/* for what was begun, and its end */
	NODES_MAX	= 1024,
	WIDTH		= 80,
	NAME_MAX_LEN	= 255
};

enum verb { STATUS, NAMES, JOIN, LEAVE, FORCE_LEAVE, HEAL };

static const struct command {
	const char	*name;
	enum verb	 verb;
	bool		 with_node;
	enum query_what	 what;
	const char	*done;		/* the line that says so */
	const char	*failed;
} commands[] = {
	{ "join", JOIN, true, QUERY_CLUSTER_JOIN,
	  "Join the cluster successfully.", "Failed to join the cluster" },
	{ "leave", LEAVE, false, QUERY_CLUSTER_LEAVE,
	  "Leave the cluster successfully.", "Failed to leave the cluster" },
	{ "force-leave", FORCE_LEAVE, true, QUERY_CLUSTER_FORCE,
	  "Remove the node from cluster successfully.",
	  "Failed to remove the node from cluster" },
	{ "status", STATUS, false, QUERY_CLUSTER, NULL, NULL },
	{ "names", NAMES, false, QUERY_CLUSTER, NULL, NULL },
	{ "heal", HEAL, false, QUERY_CLUSTER_HEAL, NULL,
	  "Failed to heal the cluster" },
};

struct args {
	const struct command *command;
	const char	*node;
	bool		 force, nodes;
};

static void	operands(void *ctx, int argc, char **argv);
static bool	own_option(void *ctx, int opt, const char *arg);

static const struct option longs[] = {
	{ "force", no_argument, NULL, OPT_FORCE },
	{ "nodes", no_argument, NULL, OPT_NODES },
	{ NULL, 0, NULL, 0 },
};

static const struct tool_opts opts = {
	.program = "mqttc-cluster",
	.usage =
	    "usage: mqttc-cluster " OPTIONS " [--force]\n"
	    "                     join node\n"
	    "       mqttc-cluster " OPTIONS " leave\n"
	    "       mqttc-cluster " OPTIONS "\n"
	    "                     force-leave node\n"
	    "       mqttc-cluster " OPTIONS " [--nodes]\n"
	    "                     status\n"
	    "       mqttc-cluster " OPTIONS " names\n"
	    "       mqttc-cluster " OPTIONS " heal\n",
	.longs = longs,
	.own = own_option,
	.operands = operands,
	.wants = PROC_WANT_PEERS,
};

static bool
own_option(void *ctx, int opt, const char *arg UNUSED)
{
	struct args *a = ctx;

	a->force |= opt == OPT_FORCE;
	a->nodes |= opt == OPT_NODES;
	return opt == OPT_FORCE || opt == OPT_NODES;
}

static bool
is_node_name(const char *s)
{
	const char *at = strchr(s, '@');

	return at != NULL && at != s && at[1] != '\0' &&
	    strchr(at + 1, '@') == NULL && strlen(s) <= NAME_MAX_LEN;
}

static void
operands(void *ctx, int argc, char **argv)
{
	static const char	 all[] = "join, leave, force-leave, status, "
				    "names or heal";
	struct args		*a = ctx;
	size_t			 i;

	if (argc == 0)
		tool_usage(&opts, "a command is missing: %s", all);
	for (i = 0; i < NELEM(commands); i++)
		if (strcmp(argv[0], commands[i].name) == 0)
			a->command = &commands[i];
	if (a->command == NULL)
		tool_usage(&opts, "no command '%s': %s", argv[0], all);
	if (a->command->with_node && argc < 2)
		tool_usage(&opts, "%s: the name of the node is missing",
		    argv[0]);
	if (argc > 1 + a->command->with_node)
		tool_usage(&opts, "unexpected '%s'",
		    argv[1 + a->command->with_node]);
	if (a->force && a->command->verb != JOIN)
		tool_usage(&opts, "--force is for join");
	if (a->nodes && a->command->verb != STATUS)
		tool_usage(&opts, "--nodes is for status");
	if (!a->command->with_node)
		return;
	a->node = argv[1];
	if (!is_node_name(a->node))
		tool_usage(&opts, "'%s' is no node name: NAME@HOST", a->node);
}

/* --- Asking the router --------------------------------------------------- */

/* One node as it was told. */
struct node {
	char		*name, *role, *state, *sync, *sees, *addrs;
	uint64_t	 join, since_ms, incarnation, lag, seq, routes, digest;
	bool		 self, parked, heard;
};

/* All that was told of the cluster. */
struct view {
	struct node	*nodes;
	size_t		 n;
	char		*cluster, *name, *out, *digest;
	bool		 joined, split, majority, unsaved, again;
	bool		 no_memory;
};

/* What a command came to. */
struct outcome {
	uint64_t	 task, parked;
	uint64_t	 have, cores;
	char		 state[16];
	char		 why[512];
};

struct asker {
	struct tool	*t;
	uint32_t	 status;	/* of the answer */
	char		 error[512];
};

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, s != NULL ? strlen(s) : 0 };
}

static void
pause_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static uint64_t
now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* Where the router is now; NULL: nowhere. */
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
	return NULL;
}

/* 0; an exit code that is said already; or ERR_AGAIN: there is no router, or
 * it does not answer. */
static int
ask_once(struct asker *a, const struct query *q,
    bool (*row)(void *ctx, struct reply_row *r), void *ctx)
{
	const char	*endpoint = router_endpoint(a->t);
	struct bus_ask	*b = NULL;
	int		 rc;

	a->status = 0;
	a->error[0] = '\0';
	if (endpoint == NULL)
		return ERR_AGAIN;
	if ((rc = bus_ask_open(&b, endpoint, "mqttc-cluster",
	    TIMEOUT_MS)) == 0) {
		rc = bus_ask_query(b, q, row, ctx, &a->status, a->error,
		    sizeof(a->error), TIMEOUT_MS);
		bus_ask_close(&b);
	}
	if (rc == 0 || rc == ERR_AGAIN || rc == ERR_IO)
		return rc == 0 ? 0 : ERR_AGAIN;
	fprintf(stderr, "mqttc-cluster: the router cannot be asked: %s\n",
	    err_str(rc));
	return rc == ERR_PROTO ? EX_PROTOCOL : EX_OSERR;
}

/* The same, said: an exit code. */
static int
ask(struct asker *a, const struct query *q,
    bool (*row)(void *ctx, struct reply_row *r), void *ctx)
{
	int rc = ask_once(a, q, row, ctx);

	if (rc != ERR_AGAIN)
		return rc != 0 ? rc : (int)a->status;
	fprintf(stderr, router_endpoint(a->t) == NULL ?
	    "mqttc-cluster: no router is running on %s\n" :
	    "mqttc-cluster: the router of %s does not answer: it may be busy "
	    "or stopped\n", tool_node(a->t));
	return router_endpoint(a->t) == NULL ? EX_UNAVAILABLE : EX_TEMPFAIL;
}

static char *
copy(struct view *v, struct slice s)
{
	char *out = malloc(s.len + 1);

	if (out == NULL) {
		v->no_memory = true;
		return NULL;
	}
	if (s.len > 0)
		memcpy(out, s.data, s.len);
	out[s.len] = '\0';
	return out;
}

static void
add_node(struct view *v, const struct node_row *r)
{
	struct node *n, *nodes;

	if (v->n >= NODES_MAX)
		return;
	if ((nodes = realloc(v->nodes, (v->n + 1) * sizeof(*nodes))) == NULL) {
		v->no_memory = true;
		return;
	}
	v->nodes = nodes;
	n = &nodes[v->n++];
	*n = (struct node){
		.name = copy(v, r->name), .role = copy(v, r->role),
		.state = copy(v, r->state), .sync = copy(v, r->sync),
		.sees = copy(v, r->sees), .addrs = copy(v, r->addrs),
		.join = r->join, .since_ms = r->since_ms,
		.incarnation = r->incarnation, .lag = r->lag, .seq = r->seq,
		.routes = r->routes, .digest = r->digest, .self = r->self,
		.parked = r->parked, .heard = r->heard,
	};
}

static bool
is(struct slice s, const char *what)
{
	return s.len == strlen(what) && memcmp(s.data, what, s.len) == 0;
}

static void
add_figure(struct view *v, const struct kv_row *kv)
{
	const struct {
		const char	*key;
		char		**text;
		bool		*flag;
	} figures[] = {
		{ "cluster", &v->cluster, NULL },
		{ "name", &v->name, NULL },
		{ "out", &v->out, NULL },
		{ "digest", &v->digest, NULL },
		{ "joined", NULL, &v->joined },
		{ "split", NULL, &v->split },
		{ "majority", NULL, &v->majority },
		{ "unsaved", NULL, &v->unsaved },
		{ "again", NULL, &v->again },
	};
	size_t i;

	for (i = 0; i < NELEM(figures); i++) {
		if (!is(kv->key, figures[i].key))
			continue;
		if (figures[i].flag != NULL) {
			*figures[i].flag = is(kv->value, "1");
		} else {
			free(*figures[i].text);
			*figures[i].text = copy(v, kv->value);
		}
	}
}

static bool
view_row(void *ctx, struct reply_row *row)
{
	struct view *v = ctx;

	if (row->kind == REPLY_NODE)
		add_node(v, &row->node);
	else if (row->kind == REPLY_KV)
		add_figure(v, &row->kv);
	return !v->no_memory;
}

static void
view_free(struct view *v)
{
	size_t i;

	for (i = 0; i < v->n; i++) {
		free(v->nodes[i].name);
		free(v->nodes[i].role);
		free(v->nodes[i].state);
		free(v->nodes[i].sync);
		free(v->nodes[i].sees);
		free(v->nodes[i].addrs);
	}
	free(v->nodes);
	free(v->cluster);
	free(v->name);
	free(v->out);
	free(v->digest);
	memset(v, 0, sizeof(*v));
}

/* Complete: with what comes on the last page. */
static int
view_check(struct view *v)
{
	if (!v->no_memory && v->cluster != NULL && v->out != NULL &&
	    v->name != NULL && v->digest != NULL)
		return 0;
	fprintf(stderr, "mqttc-cluster: %s\n", v->no_memory ? err_str(
	    ERR_NOMEM) : "the router did not say all of it");
	return v->no_memory ? EX_OSERR : EX_PROTOCOL;
}

static int
view_get(struct asker *a, struct view *v)
{
	struct query	q = { .what = QUERY_CLUSTER };
	int		rc = ask(a, &q, view_row, v);

	if (rc == 0)
		return view_check(v);
	if (a->status != 0)
		fprintf(stderr, "mqttc-cluster: %s\n", a->error);
	return rc;
}

/* --- Printing ------------------------------------------------------------ */

static bool
is_running(const struct node *n)
{
	return strcmp(n->state, "running") == 0;
}

/* Length of 'a','b' of those that run, or do not. */
static size_t
list_len(const struct view *v, bool running)
{
	size_t i, len = 0;

	for (i = 0; i < v->n; i++)
		if (is_running(&v->nodes[i]) == running)
			len += strlen(v->nodes[i].name) + 2 + (len > 0);
	return len;
}

/* From column `at`; what is beyond the width goes below the first one. */
static void
list_print(const struct view *v, bool running, size_t at)
{
	size_t i, col = at + 1, len, n = 0;

	putchar('[');
	for (i = 0; i < v->n; i++) {
		if (is_running(&v->nodes[i]) != running)
			continue;
		len = strlen(v->nodes[i].name) + 2;
		if (n++ > 0) {
			putchar(',');
			col++;
		}
		if (n > 1 && col + len + 1 > WIDTH) {
			printf("\n%*s", (int)at + 1, "");
			col = at + 1;
		}
		printf("'%s'", v->nodes[i].name);
		col += len;
	}
	putchar(']');
}

/* As users know it, laid out as they know it. */
static void
print_status(const struct view *v)
{
	static const char	head[] = "Cluster status: #{running_nodes => ";
	static const char	tail[] = ",stopped_nodes => ";
	size_t			len = list_len(v, true) + list_len(v, false);

	if (sizeof(head) + sizeof(tail) + len + 4 <= WIDTH) {
		fputs(head, stdout);
		list_print(v, true, 0);
		fputs(tail, stdout);
		list_print(v, false, 0);
		puts("}");
		return;
	}
	printf("Cluster status: #{running_nodes =>\n%22s", "");
	list_print(v, true, 22);
	printf(",\n%18s", "");
	if (list_len(v, false) + 18 + sizeof("stopped_nodes => []}") <=
	    WIDTH) {
		fputs("stopped_nodes => ", stdout);
		list_print(v, false, 0);
	} else {
		printf("stopped_nodes =>\n%22s", "");
		list_print(v, false, 22);
	}
	puts("}");
}

/* What is not as it should be: for people. */
static void
print_notes(const struct view *v)
{
	static const struct {
		const char	*out, *why;
	} outs[] = {
		{ "left", "it left its cluster: mqttc-cluster join" },
		{ "forced", "it was forced to leave its cluster: only without "
		    "its data can it join again" },
		{ "name", "another node joined later under its name" },
	};
	size_t i;

	for (i = 0; i < NELEM(outs); i++)
		if (strcmp(v->out, outs[i].out) == 0)
			fprintf(stderr, "mqttc-cluster: this node is alone: "
			    "%s\n", outs[i].why);
	for (i = 0; i < v->n; i++)
		if (v->nodes[i].parked)
			fprintf(stderr, "mqttc-cluster: %s is parked until "
			    "mqttc-cluster heal\n", v->nodes[i].name);
	if (v->split)
		fprintf(stderr, "mqttc-cluster: the cluster is split: see "
		    "status --nodes\n");
	if (v->unsaved)
		fprintf(stderr, "mqttc-cluster: what this node knows of the "
		    "cluster is not on its disk: see its log\n");
}

static const struct report_col node_cols[] = {
	{ "name", 28, 0 }, { "role", 9, 0 }, { "state", 7, 0 },
	{ "self", 0, REPORT_JSON_ONLY }, { "sync", 12, 0 },
	{ "lag", 6, REPORT_RIGHT }, { "routes", 9, REPORT_RIGHT },
	{ "seq", 0, REPORT_JSON_ONLY }, { "digest", 16, 0 },
	{ "parked", 6, 0 }, { "sees", 0, 0 },
	{ "since_ms", 0, REPORT_JSON_ONLY },
	{ "join_id", 0, REPORT_JSON_ONLY },
	{ "incarnation", 0, REPORT_JSON_ONLY },
	{ "addresses", 0, REPORT_JSON_ONLY },
	{ "cluster", 0, REPORT_JSON_ONLY },
	{ "cluster_name", 0, REPORT_JSON_ONLY },
	{ "members_digest", 0, REPORT_JSON_ONLY },
	{ "split", 0, REPORT_JSON_ONLY }, { "majority", 0, REPORT_JSON_ONLY },
	{ "joined", 0, REPORT_JSON_ONLY }, { "out", 0, REPORT_JSON_ONLY },
};

static void
put_text(struct report *r, const char *s)
{
	if (s[0] != '\0')
		report_str(r, s);
	else
		report_none(r);
}

static void
put_hex(struct report *r, bool is_there, uint64_t v)
{
	char hex[20];

	snprintf(hex, sizeof(hex), "%016" PRIx64, v);
	put_text(r, is_there ? hex : "");
}

static int
put_node(struct report *r, const struct view *v, const struct node *n)
{
	bool known = n->sync[0] != '\0';

	report_str(r, n->name);
	report_str(r, n->role);
	report_str(r, n->state);
	report_bool(r, n->self);
	put_text(r, n->sync);
	if (known) {
		report_u64(r, n->lag);
		report_u64(r, n->routes);
		report_u64(r, n->seq);
	} else {
		report_none(r);
		report_none(r);
		report_none(r);
	}
	put_hex(r, known, n->digest);
	report_bool(r, n->parked);
	put_text(r, n->heard ? n->sees : "");
	if (n->since_ms != 0)
		report_u64(r, n->since_ms);
	else
		report_none(r);
	put_hex(r, true, n->join);
	report_u64(r, n->incarnation);
	put_text(r, n->addrs);
	report_str(r, v->cluster);
	put_text(r, v->name);
	report_str(r, v->digest);
	report_bool(r, v->split);
	report_bool(r, v->majority);
	report_bool(r, v->joined);
	put_text(r, v->out);
	return report_end(r);
}

static int
print_nodes(struct asker *a, const struct view *v)
{
	struct report	r;
	size_t		i;

	report_init(&r, stdout, tool_json(a->t), node_cols, NELEM(node_cols));
	for (i = 0; i < v->n; i++)
		if (put_node(&r, v, &v->nodes[i]) < 0)
			return EX_IOERR;
	return 0;
}

static int
print_view(struct asker *a, const struct args *args, const struct view *v)
{
	int code = 0;

	if (tool_json(a->t) || args->nodes)
		code = print_nodes(a, v);
	else
		print_status(v);
	fflush(stdout);
	print_notes(v);
	return code;
}

static const struct report_col name_cols[] = {
	{ "name", 0, 0 }, { "metadata_port", 0, 0 },
	{ "message_port", 0, 0 }, { "state", 0, 0 }, { "self", 0, 0 },
};

/* The nodes of this host, and the ports that follow from their names. */
static int
print_names(struct asker *a, const struct view *v)
{
	const struct conf	*conf = tool_conf(a->t);
	const char		*host = strchr(tool_node(a->t), '@');
	const struct node	*n;
	struct report		 r;
	unsigned		 suffix;

	report_init(&r, stdout, true, name_cols, NELEM(name_cols));
	for (n = v->nodes; n < v->nodes + v->n; n++) {
		if (host == NULL || strchr(n->name, '@') == NULL ||
		    strcmp(strchr(n->name, '@'), host) != 0)
			continue;
		suffix = conf_node_suffix(n->name);
		if (!tool_json(a->t)) {
			printf("name %s at port %u, messages at port %u\n",
			    n->name, conf->cluster_meta_port + suffix,
			    conf->cluster_message_port + suffix);
			continue;
		}
		report_str(&r, n->name);
		report_u64(&r, conf->cluster_meta_port + suffix);
		report_u64(&r, conf->cluster_message_port + suffix);
		report_str(&r, n->state);
		report_bool(&r, n->self);
		if (report_end(&r) < 0)
			return EX_IOERR;
	}
	return 0;
}

/* --- What changes something ---------------------------------------------- */

static bool
get_number(struct slice s, uint64_t *out)
{
	char	 buf[24], *end;

	if (s.len == 0 || s.len >= sizeof(buf))
		return false;
	memcpy(buf, s.data, s.len);
	buf[s.len] = '\0';
	errno = 0;
	*out = strtoull(buf, &end, 10);
	return errno == 0 && *end == '\0';
}

static void
get_text(char *out, size_t size, struct slice s)
{
	size_t len = MIN(s.len, size - 1);

	memcpy(out, s.data, len);
	out[len] = '\0';
}

static bool
outcome_row(void *ctx, struct reply_row *row)
{
	struct outcome		*o = ctx;
	const struct kv_row	*kv = &row->kv;

	if (row->kind != REPLY_KV)
		return true;
	if (is(kv->key, "task"))
		(void)get_number(kv->value, &o->task);
	else if (is(kv->key, "parked"))
		(void)get_number(kv->value, &o->parked);
	else if (is(kv->key, "have"))
		(void)get_number(kv->value, &o->have);
	else if (is(kv->key, "cores"))
		(void)get_number(kv->value, &o->cores);
	else if (is(kv->key, "state") && kv->value.len > 0)
		get_text(o->state, sizeof(o->state), kv->value);
	else if (is(kv->key, "why") && kv->value.len > 0)
		get_text(o->why, sizeof(o->why), kv->value);
	return true;
}

static const struct node *
find(const struct view *v, const char *name)
{
	size_t i;

	for (i = 0; i < v->n; i++)
		if (strcmp(v->nodes[i].name, name) == 0)
			return &v->nodes[i];
	return NULL;
}

/* Is it as the command wants it? */
static bool
is_so(const struct args *args, const struct view *v)
{
	if (v->again)
		return false;
	if (args->command->verb == JOIN)
		return find(v, args->node) != NULL && v->out[0] == '\0';
	if (args->command->verb == LEAVE)
		return strcmp(v->out, "left") == 0;
	return find(v, args->node) == NULL;
}

/*
 * Until the router has done what it began. A router that joined or left starts
 * anew, and the next one knows nothing of it: then it shows in who belongs to
 * the cluster, and, when it joined, in that node being in reach.
 */
static int
await(struct asker *a, const struct args *args, struct outcome *o,
    struct view *v)
{
	struct query	task = { .what = QUERY_CLUSTER_TASK,
			    .handle = o->task };
	struct query	look = { .what = QUERY_CLUSTER };
	uint64_t	end = now_ms() + WAIT_MS;
	bool		ended = false;
	int		rc;

	for (; now_ms() < end; pause_ms(POLL_MS)) {
		if (!ended) {
			rc = ask_once(a, &task, outcome_row, o);
			if (rc > 0)
				return rc;
			if (rc == 0 && a->status == 0 &&
			    strcmp(o->state, "running") == 0)
				continue;
			if (rc == 0 && strcmp(o->state, "failed") == 0)
				return EX_UNAVAILABLE;
			/* Done; or it is the next router that answers. */
			if (rc == ERR_AGAIN)
				continue;
			ended = true;
		}
		view_free(v);
		rc = ask_once(a, &look, view_row, v);
		if (rc > 0)
			return rc;
		if (rc == 0 && a->status == 0 && view_check(v) == 0 &&
		    is_so(args, v) && (args->command->verb != JOIN ||
		    is_running(find(v, args->node))))
			return 0;
	}
	snprintf(o->why, sizeof(o->why), "it takes too long: see the log");
	return EX_TEMPFAIL;
}

/* The router may be starting anew, after what was done before. */
static int
begin(struct asker *a, const struct query *q, struct outcome *o)
{
	uint64_t	end = now_ms() + BEGIN_MS;
	int		rc;

	while ((rc = ask_once(a, q, outcome_row, o)) == ERR_AGAIN ||
	    (rc == 0 && a->status == EX_TEMPFAIL)) {
		if (now_ms() >= end)
			break;
		pause_ms(POLL_MS);
	}
	return rc == ERR_AGAIN ? ask(a, q, outcome_row, o) :
	    rc != 0 ? rc : (int)a->status;
}

static void
say_failed(const struct args *args, const char *why)
{
	fprintf(stderr, "mqttc-cluster: %s: %s\n", args->command->failed, why);
}

/* Asks whoever sits there; false: no. */
static bool
agrees(struct asker *a, const char *node)
{
	char line[16];

	fprintf(stderr, "%s joins the cluster of %s. What it has taken over "
	    "from other nodes (members,\nconfiguration, users, bans) is "
	    "dropped; its sessions, retained messages and clients\nstay. Go "
	    "on? [y/N] ", tool_node(a->t), node);
	fflush(stderr);
	return fgets(line, sizeof(line), stdin) != NULL &&
	    (line[0] == 'y' || line[0] == 'Y');
}

static int
change(struct asker *a, const struct args *args)
{
	struct query	q = { .what = args->command->what,
			    .arg = text(args->node) };
	struct outcome	o = { .task = 0 };
	struct view	v = { .n = 0 };
	int		rc;

	if (args->command->verb == JOIN && !args->force &&
	    !agrees(a, args->node)) {
		fprintf(stderr, "mqttc-cluster: not joined\n");
		return 1;
	}
	if ((rc = begin(a, &q, &o)) != 0) {
		if (a->status != 0)
			say_failed(args, a->error);
		return rc;
	}
	if ((rc = await(a, args, &o, &v)) != 0) {
		say_failed(args, o.why[0] != '\0' ? o.why : "no answer");
		goto free_view;
	}
	if (!tool_json(a->t))
		puts(args->command->done);
	rc = print_view(a, args, &v);
	if (rc == 0 && strcmp(o.state, "partial") == 0) {
		fprintf(stderr, "mqttc-cluster: partial: %" PRIu64 " of %"
		    PRIu64 " cores have it on disk; it is kept, and goes to "
		    "the others when they are in reach\n", o.have, o.cores);
		rc = EX_TEMPFAIL;
	}
free_view:
	view_free(&v);
	return rc;
}

static int
heal(struct asker *a, const struct args *args)
{
	static const struct report_col cols[] = { { "parked", 0, 0 } };
	struct query	q = { .what = QUERY_CLUSTER_HEAL };
	struct outcome	o = { .task = 0 };
	struct report	r;
	int		rc;

	if ((rc = ask(a, &q, outcome_row, &o)) != 0) {
		if (a->status != 0)
			say_failed(args, a->error);
		return rc;
	}
	if (!tool_json(a->t)) {
		printf("Heal the cluster successfully: %" PRIu64 " parked.\n",
		    o.parked);
		return 0;
	}
	report_init(&r, stdout, true, cols, NELEM(cols));
	report_u64(&r, o.parked);
	return report_end(&r) < 0 ? EX_IOERR : 0;
}

static int
show(struct asker *a, const struct args *args)
{
	struct view	v = { .n = 0 };
	int		rc;

	if ((rc = view_get(a, &v)) == 0)
		rc = args->command->verb == NAMES ? print_names(a, &v) :
		    print_view(a, args, &v);
	view_free(&v);
	return rc;
}

int
main(int argc, char **argv)
{
	struct args	args = { .command = NULL };
	struct asker	a = { .status = 0 };
	int		code;

	tool_open(&a.t, argc, argv, &opts, &args);
	if (args.command->verb == STATUS || args.command->verb == NAMES)
		code = show(&a, &args);
	else if (args.command->verb == HEAL)
		code = heal(&a, &args);
	else
		code = change(&a, &args);
	if (fflush(stdout) != 0 && code == 0) {
		fprintf(stderr, "mqttc-cluster: cannot write: %s\n",
		    strerror(errno));
		code = EX_IOERR;
	}
	tool_close(&a.t);
	return code;
}

/*
 * mqttc-clients: ask every listener of a node for its clients, show one, close
 * the connection of one. One question for each listener, page by page
 * (proto/query.h).
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/ask.h"
#include "proc/tool.h"
#include "proto/query.h"
#include "report/report.h"

#define TIMEOUT_MS	5000

#define OPTIONS	"[-hV] [--json] [-f conf] [-o key=value]"

struct args {
	const char	*command;
	const char	*client_id;
};

static void	operands(void *ctx, int argc, char **argv);

static const struct tool_opts opts = {
	.program = "mqttc-clients",
	.usage =
	    "usage: mqttc-clients " OPTIONS " list\n"
	    "       mqttc-clients " OPTIONS " show\n"
	    "                     client_id\n"
	    "       mqttc-clients " OPTIONS " kick\n"
	    "                     client_id\n",
	.operands = operands,
	.wants = PROC_WANT_PEERS,
};

static void
operands(void *ctx, int argc, char **argv)
{
	struct args	*a = ctx;
	bool		 one;

	if (argc == 0)
		tool_usage(&opts, "a command is missing: list, show or kick");
	a->command = argv[0];
	one = strcmp(a->command, "show") == 0 ||
	    strcmp(a->command, "kick") == 0;
	if (!one && strcmp(a->command, "list") != 0)
		tool_usage(&opts, "no command '%s': list, show or kick",
		    a->command);
	if (one && argc < 2)
		tool_usage(&opts, "%s: the client id is missing", a->command);
	if (argc > 1 + one)
		tool_usage(&opts, "unexpected '%s'", argv[1 + one]);
	if (one)
		a->client_id = argv[1];
}

/* --- Answers ------------------------------------------------------------------- */

static const struct report_col client_cols[] = {
	{ "client_id", 24, 0 },
	{ "username", 0, REPORT_JSON_ONLY },
	{ "version", 7, REPORT_RIGHT },
	{ "peer", 21, 0 },
	{ "listener", 12, 0 },
	{ "connected", 20, REPORT_TEXT_ONLY },
	{ "connected_ms", 0, REPORT_JSON_ONLY },
	{ "clean", 0, REPORT_JSON_ONLY },
	{ "keepalive_s", 0, REPORT_JSON_ONLY },
	{ "subscriptions", 13, REPORT_RIGHT },
	{ "inflight", 8, REPORT_RIGHT },
	{ "mqueue_len", 10, REPORT_RIGHT },
	{ "mqueue_bytes", 0, REPORT_JSON_ONLY },
	{ "messages_in", 11, REPORT_RIGHT },
	{ "messages_out", 12, REPORT_RIGHT },
	{ "bytes_in", 0, REPORT_JSON_ONLY },
	{ "bytes_out", 0, REPORT_JSON_ONLY },
	{ "dropped", 7, REPORT_RIGHT },
};

static const struct report_col sub_cols[] = {
	{ "client_id", 0, REPORT_JSON_ONLY },
	{ "filter", 32, 0 },
	{ "qos", 3, REPORT_RIGHT },
	{ "no_local", 8, 0 },
	{ "retain_as_published", 19, 0 },
	{ "retain_handling", 15, REPORT_RIGHT },
	{ "id", 6, REPORT_RIGHT },
};

struct out {
	struct report	 r;
	bool		 json;
	bool		 subs;		/* show: with subscriptions */
	uint64_t	 clients;	/* printed */
	bool		 io_failed;
};

static void
end_row(struct out *o, struct report *r)
{
	if (report_end(r) < 0)
		o->io_failed = true;
}

static void
put(struct report *r, struct slice s)
{
	if (s.len > 0)
		report_bytes(r, s.data, s.len);
	else
		report_none(r);
}

static void
put_time(struct report *r, uint64_t ms)
{
	time_t		t = (time_t)(ms / 1000);
	struct tm	tm;
	char		text[32] = "?";

	if (gmtime_r(&t, &tm) != NULL)
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	report_str(r, text);
	report_u64(r, ms);
}

static void
put_client(struct out *o, const struct client_row *c)
{
	struct report	*r = &o->r;

	report_bytes(r, c->client_id.data, c->client_id.len);
	put(r, c->username);
	report_u64(r, c->version);
	put(r, c->peer);
	put(r, c->listener);
	put_time(r, c->connected_ms);
	report_bool(r, c->clean);
	report_u64(r, c->keepalive_s);
	report_u64(r, c->nsubs);
	report_u64(r, c->inflight);
	report_u64(r, c->mqueue_len);
	report_u64(r, c->mqueue_bytes);
	report_u64(r, c->messages_in);
	report_u64(r, c->messages_out);
	report_u64(r, c->bytes_in);
	report_u64(r, c->bytes_out);
	report_u64(r, c->dropped);
	end_row(o, r);
}

/* The options byte of a subscription, 3.8.3.1. */
static void
put_sub(struct out *o, struct report *r, const struct client_row *c,
    const struct sub_row *s)
{
	report_bytes(r, c->client_id.data, c->client_id.len);
	report_bytes(r, s->filter.data, s->filter.len);
	report_u64(r, s->options & 3);
	report_bool(r, s->options >> 2 & 1);
	report_bool(r, s->options >> 3 & 1);
	report_u64(r, s->options >> 4 & 3);
	if (s->id != 0)
		report_u64(r, s->id);
	else
		report_none(r);
	end_row(o, r);
}

static bool
client_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;
	struct report	 subs;
	struct sub_row	 s;

	if (row->kind != REPLY_CLIENT)
		return true;
	put_client(o, &row->client);
	o->clients++;
	if (o->subs && row->client.subs_told > 0) {
		report_init(&subs, stdout, o->json, sub_cols, NELEM(sub_cols));
		if (!o->json)
			putchar('\n');
		while (client_row_sub(&row->client, &s) == 1)
			put_sub(o, &subs, &row->client, &s);
	}
	return !o->io_failed;
}

/* --- The question ----------------------------------------------------------------- */

static enum query_what
what_of(const char *command)
{
	if (strcmp(command, "show") == 0)
		return QUERY_CLIENT;
	return strcmp(command, "kick") == 0 ? QUERY_KICK : QUERY_CLIENTS;
}

static int
failed(const char *who, int rc)
{
	fprintf(stderr, "mqttc-clients: %s %s: %s\n", who,
	    rc == ERR_AGAIN ? "does not answer" : "cannot be asked",
	    rc == ERR_AGAIN ? "it may be busy or stopped" : err_str(rc));
	return rc == ERR_AGAIN ? EX_TEMPFAIL :
	    rc == ERR_PROTO ? EX_PROTOCOL : EX_OSERR;
}

static int
ask(const struct proc_peer *p, const struct query *q, struct out *o)
{
	struct bus_ask	*a = NULL;
	uint32_t	 status = 0;
	char		 why[256] = "";
	int		 rc;

	if ((rc = bus_ask_open(&a, p->endpoint, "mqttc-clients",
	    TIMEOUT_MS)) < 0)
		return failed(p->name, rc);
	rc = bus_ask_query(a, q, client_row, o, &status, why, sizeof(why),
	    TIMEOUT_MS);
	bus_ask_close(&a);
	if (rc < 0)
		return failed(p->name, rc);
	if (status != 0)
		fprintf(stderr, "mqttc-clients: %s: %s\n", p->name, why);
	return (int)status;
}

/* The worst of what the listeners answered; the others are asked all the same. */
static int
ask_all(struct tool *t, const struct query *q, struct out *o)
{
	const struct proc_peer	*peers;
	size_t			 i, n, asked = 0;
	int			 rc, code = 0;

	if ((rc = tool_peers(t, &peers, &n)) < 0)
		tool_fatal(t, rc);
	for (i = 0; i < n; i++) {
		if (peers[i].kind != PROC_LISTENER ||
		    (peers[i].state != PROC_READY &&
		    peers[i].state != PROC_DRAINING))
			continue;
		asked++;
		if ((rc = ask(&peers[i], q, o)) != 0)
			code = rc;
	}
	if (asked > 0)
		return code;
	fprintf(stderr, "mqttc-clients: no listener of %s is ready\n",
	    tool_node(t));
	return EX_UNAVAILABLE;
}

int
main(int argc, char **argv)
{
	struct args	 a = { .command = NULL };
	struct query	 q = { .what = 0 };
	struct out	 o = { .clients = 0 };
	struct tool	*t;
	int		 code;

	tool_open(&t, argc, argv, &opts, &a);
	q.what = what_of(a.command);
	if (a.client_id != NULL)
		q.arg = (struct slice){ (const uint8_t *)a.client_id,
		    strlen(a.client_id) };
	o.json = tool_json(t);
	o.subs = q.what == QUERY_CLIENT;
	report_init(&o.r, stdout, o.json, client_cols, NELEM(client_cols));
	code = ask_all(t, &q, &o);
	if (code == 0 && q.what == QUERY_CLIENTS)
		report_titles(&o.r);
	if (code == 0 && q.what != QUERY_CLIENTS && o.clients == 0) {
		fprintf(stderr, "mqttc-clients: no client '%s' is connected\n",
		    a.client_id);
		code = 1;
	}
	if (fflush(stdout) != 0 || o.io_failed) {
		fprintf(stderr, "mqttc-clients: cannot write: %s\n",
		    strerror(errno));
		code = EX_IOERR;
	}
	tool_close(&t);
	return code;
}

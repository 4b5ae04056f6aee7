/*
 * mqttc-clients: ask every listener of a node for its clients and every
 * session-store for the sessions it keeps, show one, close the connection of
 * one, end the session of one. Page by page (proto/query.h): of the clients of
 * one page that have a stored session the stores are asked for the rest.
 */
#include <errno.h>
#include <stdbool.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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

enum {
	OPT_CONNECTED	= 256,
	OPT_OFFLINE,
	ASKED_MAX	= 256,		/* clients asked about at once */
	ASKED_BYTES	= 64 * 1024,	/* their ids, at least one */
	STORES_MAX	= 64
};

struct args {
	const char	*command;
	const char	*client_id;
	bool		 connected, offline;	/* these alone */
};

static void	operands(void *ctx, int argc, char **argv);
static bool	own_option(void *ctx, int opt, const char *arg);

static const struct option longs[] = {
	{ "connected", no_argument, NULL, OPT_CONNECTED },
	{ "offline", no_argument, NULL, OPT_OFFLINE },
	{ NULL, 0, NULL, 0 },
};

static const struct tool_opts opts = {
	.program = "mqttc-clients",
	.usage =
	    "usage: mqttc-clients [-hV] [--json] [--connected | --offline] "
	    "[-f conf]\n"
	    "                     [-o key=value] list\n"
	    "       mqttc-clients " OPTIONS " show\n"
	    "                     client_id\n"
	    "       mqttc-clients " OPTIONS " kick\n"
	    "                     client_id\n"
	    "       mqttc-clients " OPTIONS " expire\n"
	    "                     client_id\n",
	.longs = longs,
	.own = own_option,
	.operands = operands,
	.wants = PROC_WANT_PEERS,
};

static bool
own_option(void *ctx, int opt, const char *arg UNUSED)
{
	struct args *a = ctx;

	a->connected |= opt == OPT_CONNECTED;
	a->offline |= opt == OPT_OFFLINE;
	return opt == OPT_CONNECTED || opt == OPT_OFFLINE;
}

static void
operands(void *ctx, int argc, char **argv)
{
	static const char *const with_id[] = { "show", "kick", "expire" };
	struct args	*a = ctx;
	bool		 one = false;
	size_t		 i;

	if (argc == 0)
		tool_usage(&opts, "a command is missing: list, show, kick or "
		    "expire");
	a->command = argv[0];
	for (i = 0; i < NELEM(with_id); i++)
		one |= strcmp(a->command, with_id[i]) == 0;
	if (!one && strcmp(a->command, "list") != 0)
		tool_usage(&opts, "no command '%s': list, show, kick or expire",
		    a->command);
	if (one && argc < 2)
		tool_usage(&opts, "%s: the client id is missing", a->command);
	if (argc > 1 + one)
		tool_usage(&opts, "unexpected '%s'", argv[1 + one]);
	if (a->connected && a->offline)
		tool_usage(&opts, "--connected and --offline exclude each "
		    "other");
	if (one && (a->connected || a->offline))
		tool_usage(&opts, "--connected and --offline are for list");
	if (one)
		a->client_id = argv[1];
}

/* --- Answers ------------------------------------------------------------------- */

static const struct report_col client_cols[] = {
	{ "client_id", 24, 0 },
	{ "state", 9, 0 },
	{ "username", 0, REPORT_JSON_ONLY },
	{ "version", 7, REPORT_RIGHT },
	{ "peer", 21, 0 },
	{ "listener", 12, 0 },
	{ "since", 20, REPORT_TEXT_ONLY },
	{ "connected_ms", 0, REPORT_JSON_ONLY },
	{ "offline_ms", 0, REPORT_JSON_ONLY },
	{ "clean", 0, REPORT_JSON_ONLY },
	{ "expiry", 10, REPORT_RIGHT | REPORT_TEXT_ONLY },
	{ "expiry_s", 0, REPORT_JSON_ONLY },
	{ "keepalive_s", 0, REPORT_JSON_ONLY },
	{ "subscriptions", 13, REPORT_RIGHT },
	{ "inflight", 8, REPORT_RIGHT },
	{ "mqueue_len", 10, REPORT_RIGHT },
	{ "mqueue_bytes", 0, REPORT_JSON_ONLY },
	{ "queue_len", 9, REPORT_RIGHT },
	{ "queue_bytes", 11, REPORT_RIGHT },
	{ "inbound", 0, REPORT_JSON_ONLY },
	{ "will", 0, REPORT_JSON_ONLY },
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

/* A client that the stores are asked about, its text behind it. */
struct asked {
	struct client_row	row;
	uint8_t			bytes[];
};

struct out {
	struct report	 r;
	bool		 json;
	bool		 subs;		/* show: with subscriptions */
	bool		 quiet;		/* remember it, print nothing */
	struct client_row stored;	/* what was remembered: numbers alone */
	char		 state[16];
	uint64_t	 clients;	/* printed, or remembered */
	bool		 io_failed;
	struct tool	*t;
	struct asked	*asked[ASKED_MAX];
	size_t		 nasked, asked_bytes;
	int		 code;
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
}

static void
put_u64_if(struct report *r, bool is_there, uint64_t v)
{
	if (is_there)
		report_u64(r, v);
	else
		report_none(r);
}

/* When its session ends: for people, and as it is. */
static void
put_expiry(struct report *r, const struct client_row *c)
{
	char text[16];

	snprintf(text, sizeof(text), "%" PRIu32 "s", c->expiry_s);
	if (c->expiry_s == 0 && !c->stored)
		report_none(r);
	else
		report_str(r, c->expiry_s == UINT32_MAX ? "never" : text);
	report_u64(r, c->expiry_s);
}

/* What a listener told, completed by what a store did; or that alone. */
static void
put_client(struct out *o, const struct client_row *c)
{
	struct report	*r = &o->r;
	bool		 here = c->connected_ms != 0;	/* a listener's */

	report_bytes(r, c->client_id.data, c->client_id.len);
	if (here || c->state.len == 0)
		report_str(r, "connected");
	else
		put(r, c->state);
	put(r, c->username);
	put_u64_if(r, c->version != 0, c->version);
	put(r, c->peer);
	put(r, c->listener);
	if (here || c->offline_ms != 0)
		put_time(r, here ? c->connected_ms : c->offline_ms);
	else
		report_none(r);
	put_u64_if(r, here, c->connected_ms);
	put_u64_if(r, !here && c->offline_ms != 0, c->offline_ms);
	report_bool(r, !c->stored && (c->clean || !here));
	put_expiry(r, c);
	put_u64_if(r, here, c->keepalive_s);
	report_u64(r, c->nsubs);
	report_u64(r, here ? c->inflight : c->queue_inflight);
	put_u64_if(r, here, c->mqueue_len);
	put_u64_if(r, here, c->mqueue_bytes);
	put_u64_if(r, c->stored, c->queue_len);
	put_u64_if(r, c->stored, c->queue_bytes);
	put_u64_if(r, c->stored, c->inbound);
	if (c->stored)
		report_bool(r, c->will);
	else
		report_none(r);
	put_u64_if(r, here, c->messages_in);
	put_u64_if(r, here, c->messages_out);
	put_u64_if(r, here, c->bytes_in);
	put_u64_if(r, here, c->bytes_out);
	put_u64_if(r, here, c->dropped);
	end_row(o, r);
	o->clients++;
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

/* What a store knows and a listener does not. */
static void
complete(struct client_row *to, const struct client_row *from)
{
	to->stored = from->stored;
	to->expiry_s = from->expiry_s;
	to->queue_len = from->queue_len;
	to->queue_bytes = from->queue_bytes;
	to->queue_inflight = from->queue_inflight;
	to->inbound = from->inbound;
	to->will = from->will;
}

static void
put_subs(struct out *o, struct client_row *c)
{
	struct report	subs;
	struct sub_row	s;

	if (!o->subs || c->subs_told == 0)
		return;
	report_init(&subs, stdout, o->json, sub_cols, NELEM(sub_cols));
	if (!o->json)
		putchar('\n');
	while (client_row_sub(c, &s) == 1)
		put_sub(o, &subs, c, &s);
}

static bool
client_row(void *ctx, struct reply_row *row)
{
	struct out *o = ctx;

	if (row->kind != REPLY_CLIENT)
		return true;
	if (o->quiet) {
		complete(&o->stored, &row->client);
		o->clients++;
		return true;
	}
	/* Remembered, or nothing. */
	if (o->stored.stored && row->client.connected_ms != 0)
		complete(&row->client, &o->stored);
	put_client(o, &row->client);
	put_subs(o, &row->client);
	return !o->io_failed;
}

/* --- The question ----------------------------------------------------------------- */

static int
failed(const char *who, int rc)
{
	fprintf(stderr, "mqttc-clients: %s %s: %s\n", who,
	    rc == ERR_AGAIN ? "does not answer" : "cannot be asked",
	    rc == ERR_AGAIN ? "it may be busy or stopped" : err_str(rc));
	return rc == ERR_AGAIN ? EX_TEMPFAIL :
	    rc == ERR_PROTO ? EX_PROTOCOL : EX_OSERR;
}

typedef bool each_row(void *ctx, struct reply_row *row);

static int
ask(const struct proc_peer *p, const struct query *q, each_row *each,
    void *ctx)
{
	struct bus_ask	*a = NULL;
	uint32_t	 status = 0;
	char		 why[256] = "";
	int		 rc;

	if ((rc = bus_ask_open(&a, p->endpoint, "mqttc-clients",
	    TIMEOUT_MS)) < 0)
		return failed(p->name, rc);
	rc = bus_ask_query(a, q, each, ctx, &status, why, sizeof(why),
	    TIMEOUT_MS);
	bus_ask_close(&a);
	if (rc < 0)
		return failed(p->name, rc);
	if (status != 0)
		fprintf(stderr, "mqttc-clients: %s: %s\n", p->name, why);
	return (int)status;
}

/* Ask all of a kind; the worst of what they answered is kept, the others are
 * asked all the same. */
static void
ask_all(struct out *o, enum proc_kind kind, const struct query *q,
    each_row *each, void *ctx)
{
	const struct proc_peer	*peers;
	size_t			 i, n, asked = 0;
	int			 rc;

	if ((rc = tool_peers(o->t, &peers, &n)) < 0)
		tool_fatal(o->t, rc);
	for (i = 0; i < n; i++) {
		if (peers[i].kind != kind)
			continue;
		if (peers[i].state != PROC_READY &&
		    peers[i].state != PROC_DRAINING) {
			if (kind != PROC_SESSION_STORE)
				continue;
			fprintf(stderr, "mqttc-clients: %s is %s: its sessions "
			    "are not there to be seen\n", peers[i].name,
			    proc_state_name(peers[i].state));
			o->code = EX_TEMPFAIL;
			continue;
		}
		asked++;
		if ((rc = ask(&peers[i], q, each, ctx)) != 0)
			o->code = rc;
	}
	if (asked > 0 || kind != PROC_LISTENER)
		return;
	fprintf(stderr, "mqttc-clients: no listener of %s is ready\n",
	    tool_node(o->t));
	o->code = EX_UNAVAILABLE;
}

/* --- Many: clients, and what the stores know of them --------------------------- */

static bool
stored_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;
	struct slice	 id = row->client.client_id;
	size_t		 i;

	if (row->kind != REPLY_CLIENT)
		return true;
	for (i = 0; i < o->nasked; i++)
		if (o->asked[i]->row.client_id.len == id.len &&
		    memcmp(o->asked[i]->row.client_id.data, id.data,
		    id.len) == 0)
			complete(&o->asked[i]->row, &row->client);
	return true;
}

/* Ask the stores about those that wait, and print them. */
static void
print_asked(struct out *o)
{
	struct query	 q = { .what = QUERY_SESSIONS_OF };
	struct slice	*id;
	uint8_t		*ids;
	size_t		 i, len = 0;

	if (o->nasked == 0)
		return;
	if ((ids = malloc(o->asked_bytes)) == NULL) {
		o->code = EX_OSERR;
	} else {
		for (i = 0; i < o->nasked; i++) {
			id = &o->asked[i]->row.client_id;
			put_le16(ids + len, (uint16_t)id->len);
			memcpy(ids + len + 2, id->data, id->len);
			len += 2 + id->len;
		}
		q.arg = (struct slice){ ids, len };
		ask_all(o, PROC_SESSION_STORE, &q, stored_row, o);
		free(ids);
	}
	for (i = 0; i < o->nasked; i++) {
		put_client(o, &o->asked[i]->row);
		free(o->asked[i]);
	}
	o->nasked = o->asked_bytes = 0;
}

static struct asked *
copy(const struct client_row *c)
{
	struct asked	*a;
	uint8_t		*at;
	size_t		 i, size = c->client_id.len + c->peer.len +
			    c->username.len + c->listener.len;

	if ((a = malloc(sizeof(*a) + size)) == NULL)
		return NULL;
	a->row = *c;
	at = a->bytes;
	struct slice *text[] = { &a->row.client_id, &a->row.peer,
	    &a->row.username, &a->row.listener };
	for (i = 0; i < NELEM(text); i++) {
		if (text[i]->len > 0)
			memcpy(at, text[i]->data, text[i]->len);
		text[i]->data = at;
		at += text[i]->len;
	}
	return a;
}

static bool
listed_row(void *ctx, struct reply_row *row)
{
	struct out	*o = ctx;
	struct asked	*a;

	if (row->kind != REPLY_CLIENT)
		return true;
	if (row->client.clean || (a = copy(&row->client)) == NULL) {
		put_client(o, &row->client);
		return !o->io_failed;
	}
	if (o->nasked == ASKED_MAX || (o->nasked > 0 && o->asked_bytes + 2 +
	    a->row.client_id.len > ASKED_BYTES))
		print_asked(o);
	o->asked[o->nasked++] = a;
	o->asked_bytes += 2 + a->row.client_id.len;
	return !o->io_failed;
}

static void
list(struct out *o, const struct args *a)
{
	struct query clients = { .what = QUERY_CLIENTS };
	struct query offline = { .what = QUERY_SESSIONS,
				 .flags = QUERY_OFFLINE };

	if (!a->offline) {
		ask_all(o, PROC_LISTENER, &clients, listed_row, o);
		print_asked(o);
	}
	if (!a->connected)
		ask_all(o, PROC_SESSION_STORE, &offline, client_row, o);
	if (o->code == 0)
		report_titles(&o->r);
}

/* --- One ------------------------------------------------------------------------- */

/* Connected it has a row of its listener's, with what its store knows. */
static void
show(struct out *o, struct query *q)
{
	o->quiet = true;
	q->what = QUERY_SESSION;
	ask_all(o, PROC_SESSION_STORE, q, client_row, o);
	o->quiet = false;
	o->clients = 0;
	q->what = QUERY_CLIENT;
	ask_all(o, PROC_LISTENER, q, client_row, o);
	if (o->clients > 0 || !o->stored.stored)
		return;
	q->what = QUERY_SESSION;
	ask_all(o, PROC_SESSION_STORE, q, client_row, o);
}

static void
one(struct out *o, const struct args *a)
{
	struct query q = { .arg = { (const uint8_t *)a->client_id,
			    strlen(a->client_id) } };
	bool	     kick = strcmp(a->command, "kick") == 0;

	o->subs = strcmp(a->command, "show") == 0;
	if (o->subs) {
		show(o, &q);
	} else if (kick) {
		q.what = QUERY_KICK;
		ask_all(o, PROC_LISTENER, &q, client_row, o);
	} else {
		q.what = QUERY_EXPIRE;
		ask_all(o, PROC_SESSION_STORE, &q, client_row, o);
	}
	if (o->code != 0 || o->clients > 0)
		return;
	fprintf(stderr, kick ? "mqttc-clients: no client '%s' is connected\n" :
	    "mqttc-clients: no client '%s' is connected or has a session\n",
	    a->client_id);
	o->code = 1;
}

int
main(int argc, char **argv)
{
	static struct out o;
	struct args	  a = { .command = NULL };

	tool_open(&o.t, argc, argv, &opts, &a);
	o.json = tool_json(o.t);
	report_init(&o.r, stdout, o.json, client_cols, NELEM(client_cols));
	if (a.client_id == NULL)
		list(&o, &a);
	else
		one(&o, &a);
	if (fflush(stdout) != 0 || o.io_failed) {
		fprintf(stderr, "mqttc-clients: cannot write: %s\n",
		    strerror(errno));
		o.code = EX_IOERR;
	}
	tool_close(&o.t);
	return o.code;
}

#include "ctl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define PROGRESS_NS	UINT64_C(2000000000)

int
stores_failed(const struct store *s, int rc)
{
	fprintf(stderr, "mqttc-ctl: %s %s: %s\n", s->name,
	    rc == ERR_AGAIN ? "does not answer" : "cannot be asked",
	    rc == ERR_AGAIN ? "it may be busy or stopped" : err_str(rc));
	return rc == ERR_AGAIN ? EX_TEMPFAIL :
	    rc == ERR_PROTO ? EX_PROTOCOL : EX_OSERR;
}

int
stores_refused(const struct store *s, uint32_t status, const char *why)
{
	fprintf(stderr, "mqttc-ctl: %s: %s\n", s->name, why);
	return (int)status;
}

static bool
stats_row(void *ctx, struct reply_row *row)
{
	struct store	*s = ctx;
	const struct { const char *key; uint64_t *to; } keys[] = {
		{ "sessions", &s->sessions }, { "retained", &s->retained },
	};
	char		 text[32];
	uint64_t	 v;
	size_t		 i;

	if (row->kind != REPLY_KV || row->kv.value.len >= sizeof(text))
		return true;
	snprintf(text, sizeof(text), "%.*s", (int)row->kv.value.len,
	    (const char *)row->kv.value.data);
	v = strtoull(text, NULL, 10);
	for (i = 0; i < NELEM(keys); i++)
		if (row->kv.key.len == strlen(keys[i].key) &&
		    memcmp(row->kv.key.data, keys[i].key,
		    row->kv.key.len) == 0)
			*keys[i].to = v;
	if (row->kv.key.len == 6 && memcmp(row->kv.key.data, "shards", 6) == 0)
		s->shards = (uint32_t)MIN(v, UINT32_MAX);
	return true;
}

static int
open_one(struct store *s, const struct proc_peer *p)
{
	struct query	q = { .what = QUERY_STATS };
	uint32_t	status = 0;
	char		why[256] = "";
	int		rc;

	snprintf(s->name, sizeof(s->name), "%s", p->name);
	if (p->state != PROC_READY) {
		fprintf(stderr, "mqttc-ctl: %s is %s: all session stores are "
		    "needed\n", p->name, proc_state_name(p->state));
		return EX_UNAVAILABLE;
	}
	if ((rc = bus_ask_open(&s->ask, p->endpoint, "mqttc-ctl",
	    ANSWER_MS)) < 0)
		return stores_failed(s, rc);
	rc = bus_ask_query(s->ask, &q, stats_row, s, &status, why, sizeof(why),
	    ANSWER_MS);
	if (rc < 0)
		return stores_failed(s, rc);
	return status != 0 ? stores_refused(s, status, why) : 0;
}

static int
open_all(struct stores *ss, const struct proc_peer *peers, size_t n)
{
	size_t	i;
	int	code;

	for (i = 0; i < n; i++) {
		if (peers[i].kind != PROC_SESSION_STORE ||
		    peers[i].instance >= STORES_MAX)
			continue;
		ss->n = MAX(ss->n, peers[i].instance + 1);
		if ((code = open_one(&ss->store[peers[i].instance],
		    &peers[i])) != 0)
			return code;
	}
	for (i = 0; i < ss->n; i++)
		if (ss->store[i].ask == NULL ||
		    ss->store[i].shards != ss->n)
			break;
	if (ss->n > 0 && i == ss->n)
		return 0;
	fprintf(stderr, "mqttc-ctl: not all session stores of the node are "
	    "there\n");
	return EX_UNAVAILABLE;
}

int
stores_open(struct stores *ss, struct tool *t)
{
	const struct proc_peer	*peers;
	size_t			 n;
	int			 rc, code;

	memset(ss, 0, sizeof(*ss));
	if ((rc = tool_peers(t, &peers, &n)) < 0)
		tool_fatal(t, rc);
	if ((code = open_all(ss, peers, n)) != 0)
		stores_close(ss);
	return code;
}

void
stores_close(struct stores *ss)
{
	uint32_t i;

	for (i = 0; i < ss->n; i++)
		bus_ask_close(&ss->store[i].ask);
}

bool
progress_due(void)
{
	static uint64_t	last_ns;
	uint64_t	now_ns = clock_mono_ns();
	bool		due = last_ns != 0 && now_ns - last_ns >= PROGRESS_NS;

	if (due || last_ns == 0)
		last_ns = now_ns;
	return due;
}

void
say_counts(const struct dump_counts *n)
{
	fprintf(stderr, "%" PRIu64 " sessions with %" PRIu64 " messages and %"
	    PRIu64 " subscriptions, %" PRIu64 " retained messages",
	    n->sessions, n->messages, n->subscriptions, n->retained);
}

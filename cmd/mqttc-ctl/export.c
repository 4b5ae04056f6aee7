/*
 * export.c: sessions and retained messages of all stores to stdout, a line
 * each, page by page: nothing is held but the page, and a message that is
 * longer.
 */
#include "ctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "base/err.h"

struct export {
	const struct store	*s;
	struct item_join	 join;
	struct dump_counts	 n, session;
	int			 code;
};

static int
print(struct export *x, const struct dump_line *l)
{
	char	*text = NULL;
	int	 rc;

	if ((rc = dump_put(l, &text)) < 0) {
		fprintf(stderr, "mqttc-ctl: %s: what it has cannot be told: "
		    "%s\n", x->s != NULL ? x->s->name : "header", err_str(rc));
		return x->code = rc == ERR_NOMEM ? EX_OSERR : EX_DATAERR;
	}
	if (fputs(text, stdout) < 0) {
		fprintf(stderr, "mqttc-ctl: cannot write: %s\n",
		    strerror(errno));
		x->code = EX_IOERR;
	}
	free(text);
	x->n.lines++;
	return x->code;
}

static void
count(struct export *x, struct dump_line *l)
{
	switch ((enum item_kind)l->item.kind) {
	case ITEM_SESSION:
		x->n.sessions++;
		memset(&x->session, 0, sizeof(x->session));
		break;
	case ITEM_MESSAGE:
		x->n.messages++;
		x->session.messages++;
		break;
	case ITEM_SUBSCRIPTION:
		x->n.subscriptions++;
		x->session.subscriptions++;
		break;
	case ITEM_SESSION_END:
		l->n = x->session;
		break;
	case ITEM_RETAINED:
		x->n.retained++;
		break;
	case ITEM_INBOUND:
	case ITEM_NKINDS:
		break;
	}
}

static bool
export_row(void *ctx, struct reply_row *row)
{
	struct export		*x = ctx;
	struct dump_line	 l = { .kind = DUMP_ITEM };
	int			 rc;

	if (row->kind != REPLY_ITEM)
		return true;
	l.item = row->item;
	if ((rc = item_join(&x->join, &l.item, DUMP_LINE_MAX)) < 0) {
		x->code = stores_failed(x->s, rc);
		return false;
	}
	if (rc == 0)
		return true;
	count(x, &l);
	if (print(x, &l) != 0)
		return false;
	if (progress_due()) {
		fprintf(stderr, "mqttc-ctl: so far ");
		say_counts(&x->n);
		fprintf(stderr, "\n");
	}
	return true;
}

static int
export_from(struct export *x, const struct store *s, const char *what)
{
	struct query	q = { .what = QUERY_EXPORT,
			    .arg = { (const uint8_t *)what, strlen(what) } };
	uint32_t	status = 0;
	char		why[256] = "";
	int		rc;

	x->s = s;
	rc = bus_ask_query(s->ask, &q, export_row, x, &status, why,
	    sizeof(why), ANSWER_MS);
	if (x->code != 0)
		return x->code;
	if (rc < 0)
		return stores_failed(s, rc);
	return status != 0 ? stores_refused(s, status, why) : 0;
}

static int
export_all(struct export *x, const struct stores *ss, bool sessions,
    bool retained)
{
	uint32_t	i;
	int		code = 0;

	for (i = 0; sessions && code == 0 && i < ss->n; i++)
		code = export_from(x, &ss->store[i], "sessions");
	for (i = 0; retained && code == 0 && i < ss->n; i++)
		code = export_from(x, &ss->store[i], "retained");
	return code;
}

static int
print_header(struct export *x, const struct stores *ss, const char *node,
    bool sessions, bool retained)
{
	struct dump_line	l = { .kind = DUMP_HEADER };
	uint32_t		i;

	l.time_ms = clock_wall_ns() / 1000000;
	l.shards = ss->n;
	snprintf(l.node, sizeof(l.node), "%s", node);
	for (i = 0; i < ss->n; i++) {
		l.n.sessions += sessions ? ss->store[i].sessions : 0;
		l.n.retained += retained ? ss->store[i].retained : 0;
	}
	return print(x, &l);
}

static int
print_end(struct export *x)
{
	struct dump_line l = { .kind = DUMP_END, .n = x->n };

	if (print(x, &l) != 0)
		return x->code;
	if (fflush(stdout) != 0) {
		fprintf(stderr, "mqttc-ctl: cannot write: %s\n",
		    strerror(errno));
		return EX_IOERR;
	}
	fprintf(stderr, "mqttc-ctl: exported ");
	say_counts(&x->n);
	fprintf(stderr, "\n");
	return 0;
}

int
run_export(struct tool *t, int argc, char **argv)
{
	const char	*what = argc > 0 ? argv[0] : "all";
	bool		 all = strcmp(what, "all") == 0;
	bool		 sessions = all || strcmp(what, "sessions") == 0;
	bool		 retained = all || strcmp(what, "retained") == 0;
	struct export	 x = { .code = 0 };
	struct stores	 ss;
	int		 code;

	if ((code = stores_open(&ss, t)) != 0)
		return code;
	(void)progress_due();
	code = print_header(&x, &ss, tool_node(t), sessions, retained);
	if (code == 0)
		code = export_all(&x, &ss, sessions, retained);
	if (code == 0)
		code = print_end(&x);
	item_join_clear(&x.join);
	stores_close(&ss);
	return code;
}

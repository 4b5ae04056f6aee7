/*
 * mqttc-ctl: look at the processes of a node, restart one, have another take
 * its place, have more or fewer of them, stop it, have it read its
 * configuration again; what it stores out of it and into it.
 */
#include "ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "proc/tool.h"
#include "report/report.h"

#define START_MS	60000	/* for a process to become ready */
#define UPGRADE_MS	3600000	/* for all listeners, one after the other */

static const char usage[] =
    "usage: mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] status\n"
    "       mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] restart name\n"
    "       mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] upgrade name\n"
    "       mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] scale "
    "listener n\n"
    "       mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] stop\n"
    "       mqttc-ctl [-hV] [--json] [-f conf] [-o key=value] reload\n"
    "       mqttc-ctl [-hV] [-f conf] [-o key=value] export "
    "[sessions | retained | all]\n"
    "       mqttc-ctl [-hV] [--replace] [-f conf] [-o key=value] import\n";

enum { OPT_REPLACE = 256 };

static bool replace;

static const struct option longs[] = {
	{ "replace", no_argument, NULL, OPT_REPLACE },
	{ NULL, 0, NULL, 0 },
};

static bool
own_option(void *ctx UNUSED, int opt, const char *arg UNUSED)
{
	replace |= opt == OPT_REPLACE;
	return opt == OPT_REPLACE;
}

static const struct report_col status_cols[] = {
	{ "name",		15, 0 },
	{ "pid",		7, REPORT_RIGHT },
	{ "state",		8, 0 },
	{ "incarnation",	13, REPORT_RIGHT },
	{ "restarts",		8, REPORT_RIGHT },
	{ "uptime_s",		8, REPORT_RIGHT },
	{ "note",		0, 0 },
};

static const struct report_col answer_cols[] = {
	{ "code",	0, REPORT_JSON_ONLY },
	{ "text",	0, REPORT_JSON_ONLY },
};

struct command {
	const char	*name;
	int		 operands;
	const char	*wants;
	int		(*run)(struct tool *t, char **argv);
};

static void
on_row(void *ctx, const struct tool_row *row)
{
	struct report	*r = ctx;

	report_str(r, row->name);
	if (row->pid != 0)
		report_u64(r, (uint64_t)row->pid);
	else
		report_none(r);
	report_str(r, proc_state_name(row->state));
	report_u64(r, row->incarnation);
	report_u64(r, row->restarts);
	report_u64(r, row->uptime_ms / 1000);
	report_str(r, row->note);
	report_end(r);
}

static int
run_status(struct tool *t, char **argv UNUSED)
{
	struct report	r;
	int		rc;

	report_init(&r, stdout, tool_json(t), status_cols,
	    NELEM(status_cols));
	if ((rc = tool_status(t, on_row, &r)) < 0)
		tool_fatal(t, rc);
	return 0;
}

/* What the supervisor answered: to stdout if it did it, else to stderr. */
static int
print_answer(struct tool *t, int code, const char *text)
{
	struct report	r;

	if (tool_json(t)) {
		report_init(&r, stdout, true, answer_cols,
		    NELEM(answer_cols));
		report_u64(&r, (uint64_t)code);
		report_str(&r, text);
		report_end(&r);
	} else if (code == 0)
		printf("%s\n", text);
	else
		fprintf(stderr, "mqttc-ctl: %s\n", text);
	return code;
}

static int
run_restart(struct tool *t, char **argv)
{
	char	text[1024];
	int	rc, code, wait_ms;

	wait_ms = (int)MIN(tool_conf(t)->supervise_stop_timeout_ms, 3600000u) +
	    START_MS;
	if ((rc = tool_restart(t, argv[0], wait_ms, &code, text,
	    sizeof(text))) < 0)
		tool_fatal(t, rc);
	return print_answer(t, code, text);
}

static int
run_upgrade(struct tool *t, char **argv)
{
	char	text[1024];
	int	rc, code;

	if ((rc = tool_upgrade(t, argv[0], UPGRADE_MS, &code, text,
	    sizeof(text))) < 0)
		tool_fatal(t, rc);
	return print_answer(t, code, text);
}

/* 0: that is no number. */
static uint32_t
how_many(const char *text)
{
	unsigned long	v;
	char		*end;

	if (text[0] < '0' || text[0] > '9')
		return 0;
	v = strtoul(text, &end, 10);
	return *end == '\0' && v <= UINT32_MAX ? (uint32_t)v : 0;
}

static int
run_scale(struct tool *t, char **argv)
{
	char	text[1024];
	int	rc, code, wait_ms;

	wait_ms = (int)MIN(tool_conf(t)->supervise_stop_timeout_ms, 3600000u) +
	    START_MS;
	if ((rc = tool_scale(t, argv[0], how_many(argv[1]), wait_ms, &code,
	    text, sizeof(text))) < 0)
		tool_fatal(t, rc);
	return print_answer(t, code, text);
}

static int
run_stop(struct tool *t, char **argv UNUSED)
{
	int	rc, wait_ms;

	/* Listeners, the stores, the router: each has its time. */
	wait_ms = 3 * (int)MIN(tool_conf(t)->supervise_stop_timeout_ms,
	    3600000u) + START_MS;
	if ((rc = tool_stop(t, wait_ms)) < 0)
		tool_fatal(t, rc);
	return print_answer(t, 0, "the node has ended");
}

static int
run_reload(struct tool *t, char **argv UNUSED)
{
	char	text[1024];
	int	rc, code;

	if ((rc = tool_reload(t, START_MS, &code, text, sizeof(text))) < 0)
		tool_fatal(t, rc);
	return print_answer(t, code, text);
}

static int
export(struct tool *t, char **argv)
{
	return run_export(t, argv[0] != NULL, argv);
}

static int
import(struct tool *t, char **argv UNUSED)
{
	return run_import(t, replace);
}

static const struct command commands[] = {
	{ "export",	0, "sessions, retained or all", export },
	{ "import",	0, "no operand", import },
	{ "status",	0, "no operand", run_status },
	{ "restart",	1, "the name of a process", run_restart },
	{ "upgrade",	1, "'listener' or the name of one", run_upgrade },
	{ "scale",	2, "'listener' and how many", run_scale },
	{ "stop",	0, "no operand", run_stop },
	{ "reload",	0, "no operand", run_reload },
};

static const struct tool_opts opts;

static const struct command *
find_command(int argc, char **argv)
{
	size_t	i;

	if (argc == 0)
		tool_usage(&opts, "say what to do");
	for (i = 0; i < NELEM(commands); i++)
		if (strcmp(commands[i].name, argv[0]) == 0)
			break;
	if (i == NELEM(commands))
		tool_usage(&opts, "unknown command '%s'", argv[0]);
	if (argc - 1 != commands[i].operands &&
	    (commands[i].run != export || argc != 2 ||
	    (strcmp(argv[1], "sessions") != 0 &&
	    strcmp(argv[1], "retained") != 0 && strcmp(argv[1], "all") != 0)))
		tool_usage(&opts, "%s takes %s", argv[0], commands[i].wants);
	if (commands[i].run == run_scale &&
	    ((strcmp(argv[1], "listener") != 0 &&
	    strcmp(argv[1], "session_store") != 0) || /* it says why not */
	    how_many(argv[2]) == 0))
		tool_usage(&opts, "scale takes %s", commands[i].wants);
	if (replace && commands[i].run != import)
		tool_usage(&opts, "--replace is for import");
	return &commands[i];
}

static void
check_operands(void *ctx UNUSED, int argc, char **argv)
{
	(void)find_command(argc, argv);
}

static const struct tool_opts opts = {
	.program = "mqttc-ctl",
	.usage = usage,
	.operands = check_operands,
	.longs = longs,
	.own = own_option,
	.wants = PROC_WANT_PEERS,
};

int
main(int argc, char **argv)
{
	const struct command	*c;
	struct tool		*t;
	int			 code;

	tool_open(&t, argc, argv, &opts, NULL);
	c = find_command(argc - optind, argv + optind);
	code = c->run(t, argv + optind + 1);
	tool_close(&t);
	if (fflush(stdout) != 0) {
		perror("mqttc-ctl: cannot write");
		return EX_IOERR;
	}
	return code;
}

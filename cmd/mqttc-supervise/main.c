/*
 * mqttc-supervise: the keeper of a node. Options, start, signals, the end.
 */
#include "super.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

#define ADOPT_S		2.0	/* for those who outlived their supervisor */

static const char usage[] =
    "usage: mqttc-supervise [-htVv] [-f conf] [-n name] [-o key=value]\n";

uint64_t
super_now_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* --- The turn ------------------------------------------------------------ */

static void
say_ready(struct super *s)
{
	struct pollfd	p = { .fd = STDOUT_FILENO, .events = POLLOUT };
	char		line[1024], where[512];
	int		n;

	s->said_ready = true;
	n = snprintf(line, sizeof(line), "mqttc %s ready node=%s pid=%ld "
	    "listeners=%u at %s\n", MQTTC_VERSION, s->conf.node_name,
	    (long)getpid(), s->listeners,
	    sockets_where(s, where, sizeof(where)));
	if (poll(&p, 1, 0) == 1 && (p.revents & POLLOUT))
		(void)!write(STDOUT_FILENO, line, (size_t)n);
	log_info("ready", "node=%s", s->conf.node_name);
	notify_ready();
}

static void
say_stopping(struct super *s)
{
	if (!s->table.stopping || s->stopping)
		return;
	s->stopping = true;
	notify_stopping();
}

/* Before the loop sleeps: act, deal, then tell everybody, once. */
static void
on_before(EV_P_ ev_prepare *w, int revents UNUSED)
{
	struct super	*s = w->data;
	uint64_t	 now, at;

	child_act(s);
	sockets_deal(s);
	conn_flush_all(s);
	segments_sweep(s);
	if (!s->said_ready && !s->adopting && keep_serves(&s->table))
		say_ready(s);
	say_stopping(s);
	notify_status(s);
	if (s->table.stopping && !s->adopting && keep_all_down(&s->table)) {
		ev_break(EV_A_ EVBREAK_ALL);
		return;
	}
	now = super_now_ms();
	at = MAX(upgrade_deadline(s, keep_deadline(&s->table, now)), now);
	if (s->peers_shown != s->peers_version)
		at = MIN(at, MAX(s->peers_next_ms, now));
	s->tick.repeat = (double)(at - now) / 1000. + 0.001;
	ev_timer_again(EV_A_ &s->tick);
}

static void
on_tick(EV_P_ ev_timer *w, int revents UNUSED)
{
	struct super	*s = w->data;

	ev_io_start(EV_A_ &s->acceptor);	/* descriptors may be free now */
	/* on_before looks at the rest */
}

static void
on_term(EV_P_ ev_signal *w, int revents UNUSED)
{
	struct super	*s = w->data;

	(void)loop;
	log_info("stop", "signal=%d", w->signum);
	keep_stop(&s->table);
}

static void
on_hup(EV_P_ ev_signal *w, int revents UNUSED)
{
	char	text[1024];

	(void)loop;
	(void)reload_conf(w->data, text, sizeof(text));	/* it logs */
}

static void
on_usr1(EV_P_ ev_signal *w, int revents UNUSED)
{
	struct super	*s = w->data;
	size_t		 i, n = 0;

	(void)loop;
	for (i = 0; i < SEGMENTS_MAX; i++)
		n += s->segments[i].used;
	log_info("summary", "processes=%zu sockets=%zu segments=%zu",
	    s->nprocs, s->nlistening, n);
}

/* --- Start --------------------------------------------------------------- */

/* From here on the node is ours: bind what is missing, start who is. */
static void
open_node(struct super *s)
{
	if (s->adopting) {
		setup_clean_ipc(s);	/* of who died with our predecessor */
		if (!s->table.stopping)
			sockets_bind(s);	/* maybe still root */
	}
	s->adopting = false;
	ev_timer_stop(s->loop, &s->adopt_timer);
	setup_drop_root(s);
	logs_capture_own(s);
	keep_open(&s->table, super_now_ms());
}

static void
on_adopt_timer(EV_P_ ev_timer *w, int revents UNUSED)
{
	(void)loop;
	open_node(w->data);
}

static void
watch(struct super *s, ev_signal *w, void (*cb)(EV_P_ ev_signal *, int),
    int sig)
{
	ev_signal_init(w, cb, sig);
	w->data = s;
	ev_signal_start(s->loop, w);
}

static void
make_loop(struct super *s)
{
	if ((s->loop = ev_loop_new(EVFLAG_NOENV)) == NULL)
		fatal(EX_OSERR, "loop", "%s", strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	watch(s, &s->term, on_term, SIGTERM);
	watch(s, &s->intr, on_term, SIGINT);
	watch(s, &s->hup, on_hup, SIGHUP);
	watch(s, &s->usr1, on_usr1, SIGUSR1);
	ev_init(&s->tick, on_tick);
	ev_timer_init(&s->adopt_timer, on_adopt_timer, ADOPT_S, 0.);
	ev_prepare_init(&s->before, on_before);
	s->before.data = s->adopt_timer.data = s->tick.data = s;
	ev_prepare_start(s->loop, &s->before);
}

/* Relative paths are to mean the same when the file is read again. */
static void
keep_path(struct super *s)
{
	static char	full[PATH_MAX];

	if (s->cmd.file != NULL && realpath(s->cmd.file, full) != NULL)
		s->cmd.file = full;
}

static void
read_conf(struct super *s, int argc, char **argv)
{
	static char			name_opt[CONF_STR_MAX];
	const struct cmdline_opts	co = {
		.program = "mqttc-supervise", .usage = usage,
	};
	char				why[1280];
	int				code;

	cmdline_parse(&s->cmd, argc, argv, &co, NULL);
	if (optind != argc)
		cmdline_usage(&co, "unexpected '%s'", argv[optind]);
	if (s->cmd.name != NULL && s->cmd.nset < CMDLINE_SET_MAX) {
		snprintf(name_opt, sizeof(name_opt), "node.name=%s",
		    s->cmd.name);
		s->cmd.set[s->cmd.nset++] = name_opt;
	}
	if ((code = cmdline_conf(&s->cmd, &s->conf, why, sizeof(why))) != 0)
		fatal(code, "conf.bad", "%s", why);
	if (s->cmd.test) {
		puts("the configuration is good");
		exit(0);
	}
	keep_path(s);
}

static void
start(struct super *s)
{
	bool	orphans;
	int	rc;

	notify_open();
	setup_user(s);
	setup_fd_limit();
	logs_open(s);
	child_table(s);
	setup_programs(s);
	setup_dirs(s);
	orphans = setup_lock(s);
	s->dir_fd = open(s->conf.node_data_dir,
	    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	shards_check(s);
	s->incarnation = child_incarnation(s);
	segments_metrics(s);
	if ((rc = reload_publish(s)) < 0)
		fatal(EX_OSERR, "conf.publish", "%s", err_str(rc));
	make_loop(s);
	s->deal_version = s->peers_version = 1;
	if (!orphans) {
		scale_forget();
		setup_clean_ipc(s);
		sockets_bind(s);	/* say it before anybody is told */
	}
	conn_listen(s);
	if (orphans) {
		log_info("adopting", "wait_s=%g", ADOPT_S);
		s->adopting = true;
		scale_read(s);
		ev_timer_start(s->loop, &s->adopt_timer);
	} else
		open_node(s);
}

static void
finish(struct super *s)
{
	log_info("exit", "code=0");
	logs_finish(s);
	unlink(SUP_SOCK);
	scale_forget();
	setup_clean_ipc(s);
	conn_close_all(s);	/* tools wait for this */
}

int
main(int argc, char **argv)
{
	static struct super	s;

	s.conf_fd = s.sock = s.dir_fd = -1;
	s.started_ms = super_now_ms();
	log_init("supervise", LOG_L_INFO);
	read_conf(&s, argc, argv);
	log_init("supervise", (enum log_level)s.conf.log_level);
	start(&s);
	ev_run(s.loop, 0);
	finish(&s);
	return 0;
}

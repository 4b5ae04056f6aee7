/*
 * A process of a node that does nothing but what processes have in common: it
 * stands in for router, listener and session store where only the supervisor is
 * looked at.
 * What it is to do comes in files of run_dir, named after it:
 *
 *	NAME.exit	exit with the code in it before being ready
 *	NAME.chatty	log that many lines at once
 *	NAME.slow	ignore DRAIN
 *	NAME.full	give the shared sockets back after that many connections;
 *			USR1 wants them again
 *
 * A router publishes a segment; a listener accepts, says its name and closes.
 */
#include <errno.h>
#include <ev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "log/log.h"
#include "proc/proc.h"

#define WATCHERS	64

static struct {
	struct proc	*p;
	ev_io		 w[WATCHERS];
	bool		 watched[WATCHERS];
	uint32_t	 shared[WATCHERS];	/* indexes dealt to us */
	size_t		 nshared;
	long		 room;			/* connections until full */
} t;

/* The number in run_dir/NAME.what, or -1. */
static long
asked(const char *name, const char *what)
{
	char	path[128], text[32] = "";
	FILE	*f;

	snprintf(path, sizeof(path), "%s.%s", name, what);
	if ((f = fopen(path, "r")) == NULL)
		return -1;
	if (fgets(text, sizeof(text), f) == NULL)
		text[0] = '0';
	fclose(f);
	return strtol(text, NULL, 10);
}

static void
stop_watching(uint32_t index)
{
	if (index < WATCHERS && t.watched[index]) {
		ev_io_stop(proc_loop(t.p), &t.w[index]);
		t.watched[index] = false;
	}
}

static void
be_full(void)
{
	size_t	i;

	for (i = 0; i < t.nshared; i++)
		stop_watching(t.shared[i]);
	proc_sockets_return(t.p, t.shared, t.nshared);
	log_info("child.full", "back=%zu", t.nshared);
	t.nshared = 0;
}

static void
on_summary(void *ctx UNUSED)
{
	t.room = -1;
	proc_sockets_want(t.p);
}

static void
on_accept(EV_P_ ev_io *w, int revents UNUSED)
{
	int	fd = accept(w->fd, NULL, NULL);

	(void)loop;
	if (fd < 0)
		return;
	dprintf(fd, "%s\n", proc_name(t.p));
	close(fd);
	if (t.room > 0 && --t.room == 0)
		be_full();
}

static void
on_sockets(void *ctx UNUSED, const struct proc_socket *s, size_t n)
{
	size_t	i;

	for (i = 0; i < WATCHERS; i++)
		stop_watching((uint32_t)i);
	for (i = t.nshared = 0; i < n; i++) {
		if (s[i].index >= WATCHERS)
			continue;
		if (s[i].kind == PROC_SOCKET_SHARED)
			t.shared[t.nshared++] = s[i].index;
		ev_io_init(&t.w[s[i].index], on_accept, s[i].fd, EV_READ);
		ev_io_start(proc_loop(t.p), &t.w[s[i].index]);
		t.watched[s[i].index] = true;
	}
	log_info("child.sockets", "n=%zu", n);
}

static void
on_peers(void *ctx UNUSED, const struct proc_peer *peers, size_t n)
{
	size_t	i, down = 0;

	for (i = 0; i < n; i++)
		down += peers[i].state == PROC_DOWN;
	log_info("child.peers", "n=%zu down=%zu", n, down);
}

static void
on_segment(void *ctx UNUSED, const struct proc_segment *s)
{
	log_info("child.segment", "kind=%d owner=%s generation=%llu nfds=%zu",
	    (int)s->kind, s->owner, (unsigned long long)s->generation,
	    s->nfds);
}

static void
on_drain(void *ctx UNUSED)
{
	if (asked(proc_name(t.p), "slow") < 0)
		proc_exit(t.p, 0);
}

static void
on_reload(void *ctx UNUSED, const struct conf *c)
{
	log_info("child.reload", "sys_interval_ms=%u", c->sys_interval_ms);
}

static void
publish(void)
{
	int	fds[2], rc;

	if ((fds[0] = memfd_create("data", MFD_CLOEXEC)) < 0 ||
	    (fds[1] = memfd_create("epochs", MFD_CLOEXEC)) < 0 ||
	    ftruncate(fds[0], 4096) < 0 || ftruncate(fds[1], 4096) < 0)
		fatal(EX_OSERR, "child.memory", "%s", strerror(errno));
	if ((rc = proc_publish_segment(t.p, PROC_SEGMENT_FIB,
	    proc_incarnation(t.p), fds, 2)) < 0)
		fatal(EX_OSERR, "child.segment", "%s", err_str(rc));
	close(fds[0]);
	close(fds[1]);
	proc_drop_segments(t.p, PROC_SEGMENT_FIB, proc_incarnation(t.p));
}

static enum proc_kind
kind_of(const char *program)
{
	enum proc_kind	k;

	for (k = PROC_ROUTER; k < PROC_SESSION_STORE; k++)
		if (strcmp(program, proc_kind_program(k)) == 0)
			break;
	return k;
}

int
main(int argc, char **argv)
{
	struct proc_handlers	h = {
		.peers = on_peers, .sockets = on_sockets,
		.segment = on_segment, .drain = on_drain,
		.reload = on_reload, .summary = on_summary,
	};
	struct proc_opts	o = {
		.program = program_invocation_short_name,
		.kind = kind_of(program_invocation_short_name),
	};
	long			n, i;
	int			rc;

	o.wants = PROC_WANT_PEERS | (o.kind == PROC_LISTENER ?
	    PROC_WANT_SOCKETS | PROC_WANT_FIB : 0u);
	if ((rc = proc_start(&t.p, argc, argv, &o, &h, NULL)) < 0)
		fatal(EX_OSERR, "proc.start", "%s", err_str(rc));
	if ((n = asked(proc_name(t.p), "exit")) >= 0)
		fatal((int)n, "child.exit", "as asked");
	for (i = 0, n = asked(proc_name(t.p), "chatty"); i < n; i++)
		log_info("child.chatty", "n=%ld", i);
	t.room = asked(proc_name(t.p), "full");
	if (o.kind == PROC_ROUTER)
		publish();
	proc_ready(t.p);
	rc = proc_run(t.p);
	proc_free(&t.p);
	return rc;
}

/*
 * What a service manager hears of us, as sd_notify(3) has it: one datagram of
 * NAME=VALUE lines to the socket it named in the environment. Without one
 * nothing is said; one that is full or gone is none of our worries.
 */
#include "super.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"

static struct {
	int			 fd;
	struct sockaddr_un	 to;
	socklen_t		 len;
	char			 status[128];	/* said last */
} manager = { .fd = -1 };

/* Before the first fork: what we start is not to speak for us. */
void
notify_open(void)
{
	const char	*path = getenv("NOTIFY_SOCKET");
	size_t		 n = path != NULL ? strlen(path) : 0;

	if (n > 1 && n < sizeof(manager.to.sun_path) &&
	    (path[0] == '/' || path[0] == '@')) {
		manager.to.sun_family = AF_UNIX;
		memcpy(manager.to.sun_path, path, n);
		if (path[0] == '@')		/* without a file */
			manager.to.sun_path[0] = '\0';
		manager.len = (socklen_t)(offsetof(struct sockaddr_un,
		    sun_path) + n);
		manager.fd = socket(AF_UNIX,
		    SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	}
	unsetenv("NOTIFY_SOCKET");
}

static void
say(const char *text, size_t n)
{
	if (manager.fd >= 0)
		(void)!sendto(manager.fd, text, n, MSG_NOSIGNAL,
		    (struct sockaddr *)&manager.to, manager.len);
}

void
notify_ready(void)
{
	static const char	text[] = "READY=1\n";

	say(text, sizeof(text) - 1);
}

void
notify_stopping(void)
{
	static const char	text[] = "STOPPING=1\n";

	say(text, sizeof(text) - 1);
}

void
notify_reloading(void)
{
	char	text[64];
	int	n = snprintf(text, sizeof(text),
	    "RELOADING=1\nMONOTONIC_USEC=%llu\n",
	    (unsigned long long)(clock_mono_ns() / 1000));

	say(text, (size_t)n);
}

/* One line for people, when it is another than before. */
void
notify_status(const struct super *s)
{
	char	text[sizeof(manager.status)];
	size_t	i, all = 0, ready = 0;
	int	n;

	if (manager.fd < 0)
		return;
	for (i = 0; i < s->nprocs; i++) {
		all += s->procs[i].phase != KEEP_GONE;
		ready += s->procs[i].phase == KEEP_READY;
	}
	n = snprintf(text, sizeof(text), "STATUS=%s: %zu of %zu processes "
	    "ready\n", s->table.stopping ? "stopping" : s->adopting ?
	    "taking the node over" : s->said_ready ? "serving" : "starting",
	    ready, all);
	if (strcmp(text, manager.status) == 0)
		return;
	memcpy(manager.status, text, (size_t)n + 1);
	say(text, (size_t)n);
}

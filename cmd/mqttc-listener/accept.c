/*
 * accept.c: the listening sockets the supervisor deals to us, and how many
 * clients we take. One descriptor is kept spare: when there is no other left,
 * it is given up for a moment to accept and refuse politely.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/err.h"
#include "log/log.h"

enum { ACCEPTS_PER_TURN = 64 };

static bool
is_full(const struct listener *l)
{
	struct rlimit	rl;
	size_t		max = l->conf->listener_max_connections;

	if (max > 0)
		return l->nconns >= max;
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return false;
	/* What the bus, the segments and the loop need comes first. */
	return l->nconns + 128 >= rl.rlim_cur;
}

/* No descriptor is left: take one client with the spare one, and close it. */
static void
refuse_one(struct listener *l, int lfd)
{
	int fd;

	close(l->spare_fd);
	if ((fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(fd);
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	metric_inc(&m_accept_refused);
}

static void
on_acceptable(EV_P_ ev_io *w, int revents UNUSED)
{
	struct listener	*l = ev_userdata(EV_A);
	int		 fd, n, one = 1;

	for (n = 0; n < ACCEPTS_PER_TURN; n++) {
		fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE) {
				refuse_one(l, w->fd);
				continue;
			}
			if (errno != EAGAIN && errno != ECONNABORTED &&
			    errno != EINTR)
				log_warn("accept.failed", "error=%s",
				    log_quote(strerror(errno)));
			return;
		}
		if (is_full(l)) {
			metric_inc(&m_accept_refused);
			close(fd);
			continue;
		}
		/* Inherited from the listening socket on Linux; said again
		 * where it is not. */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
		    sizeof(one));
		if (client_new(l, fd) == NULL) {
			metric_inc(&m_dropped_memory);
			close(fd);
		}
	}
}

void
accept_stop(struct listener *l)
{
	size_t i;

	for (i = 0; i < l->nacceptors; i++)
		ev_io_stop(l->loop, &l->acceptors[i]);
	free(l->acceptors);
	l->acceptors = NULL;
	l->nacceptors = 0;
}

/* The full set we are to accept from; what is not in it is ours no longer, but
 * stays open: see HACKING, "Sockets". */
void
on_sockets(void *ctx, const struct proc_socket *s, size_t n)
{
	struct listener	*l = ctx;
	ev_io		*a;
	size_t		 i;

	accept_stop(l);
	if (n == 0)
		return;
	if ((a = calloc(n, sizeof(*a))) == NULL) {
		log_error("accept.nomem", "sockets=%zu", n);
		return;
	}
	for (i = 0; i < n; i++) {
		ev_io_init(&a[i], on_acceptable, s[i].fd, EV_READ);
	}
	l->acceptors = a;
	l->nacceptors = n;
	for (i = 0; i < n; i++)
		ev_io_start(l->loop, &a[i]);
}

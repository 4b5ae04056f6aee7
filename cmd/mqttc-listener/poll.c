/*
 * poll.c: which clients' sockets the kernel has news of. They are in an epoll
 * set of their own, edge-triggered, whose descriptor the loop watches: the
 * kernel looks at a socket once for each piece of news instead of again after
 * it was read, and an idle client costs the loop nothing.
 *
 * An edge is told once, so who does not act on it remembers it: `unread`, with
 * the client in the list of those who wait for the next turn. Asking for
 * something else, or again (epoll_ctl), makes the kernel tell what is so now.
 */
#include "listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "base/err.h"
#include "log/log.h"

enum {
	EVENTS	= 128,			/* of one epoll_wait */
	WAITS	= 16			/* in a row; then the others' turn */
};

#define ENDS	(EPOLLRDHUP | EPOLLHUP | EPOLLERR)

/* News of a socket that was closed meanwhile may still come, and its number be
 * another client's. */
static uint64_t
tag_of(const struct conn *c)
{
	return (uint64_t)c->poll_tag << 32 | (uint32_t)c->fd;
}

static struct conn *
find(const struct listener *l, uint64_t tag)
{
	size_t		 fd = (uint32_t)tag;
	struct conn	*c = fd < l->cap_by_fd ? l->by_fd[fd] : NULL;

	return c != NULL && tag_of(c) == tag ? c : NULL;
}

static int
ask(struct listener *l, struct conn *c, int op)
{
	struct epoll_event ev = {
		.events = (c->wants_in ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : 0) |
		    (c->wants_out ? (uint32_t)EPOLLOUT : 0) | EPOLLET,
		.data = { .u64 = tag_of(c) },
	};

	return epoll_ctl(l->poll_fd, op, c->fd, &ev) < 0 ? ERR_IO : 0;
}

int
poll_add(struct listener *l, struct conn *c)
{
	struct conn	**grown;
	size_t		  fd = (size_t)c->fd, cap;

	if (fd >= l->cap_by_fd) {
		cap = MAX(l->cap_by_fd * 2, MAX(fd + 1, (size_t)256));
		if ((grown = realloc(l->by_fd, cap * sizeof(struct conn *))) ==
		    NULL)
			return ERR_NOMEM;
		memset(grown + l->cap_by_fd, 0,
		    (cap - l->cap_by_fd) * sizeof(struct conn *));
		l->by_fd = grown;
		l->cap_by_fd = cap;
	}
	c->poll_tag = ++l->poll_tag;
	c->wants_in = true;
	if (ask(l, c, EPOLL_CTL_ADD) < 0)
		return ERR_IO;
	l->by_fd[fd] = c;
	return 0;
}

void
poll_want(struct listener *l, struct conn *c, bool in, bool out)
{
	if (c->wants_in == in && c->wants_out == out)
		return;
	c->wants_in = in;
	c->wants_out = out;
	if (ask(l, c, EPOLL_CTL_MOD) < 0)
		client_doom(l, c);	/* it would never be heard again */
}

void
poll_del(struct listener *l, struct conn *c)
{
	if ((size_t)c->fd < l->cap_by_fd && l->by_fd[c->fd] == c)
		l->by_fd[c->fd] = NULL;
}

static void
on_news(EV_P_ ev_io *w UNUSED, int revents UNUSED)
{
	struct listener		*l = ev_userdata(EV_A);
	struct epoll_event	 events[EVENTS];
	struct conn		*c;
	uint32_t		 e;
	int			 i, n, k;

	for (k = 0; k < WAITS; k++) {
		n = epoll_wait(l->poll_fd, events, EVENTS, 0);
		for (i = 0; i < n; i++) {
			if ((c = find(l, events[i].data.u64)) == NULL)
				continue;
			e = events[i].events;
			client_news(l, c, c->wants_in &&
			    (e & (EPOLLIN | ENDS)) != 0, c->wants_out &&
			    (e & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0,
			    (e & ENDS) != 0);
		}
		if (n < EVENTS)
			return;
	}
}

int
poll_open(struct listener *l)
{
	if ((l->poll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		return ERR_IO;
	ev_io_init(&l->poll, on_news, l->poll_fd, EV_READ);
	ev_io_start(l->loop, &l->poll);
	return 0;
}

void
poll_close(struct listener *l)
{
	ev_io_stop(l->loop, &l->poll);
	close(l->poll_fd);
	free(l->by_fd);
	l->by_fd = NULL;
	l->cap_by_fd = 0;
}

#include "parcel.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/err.h"
#include "fault/fault.h"

enum {
	OUT_BYTES = 128 * 1024,		/* sent together */
	IN_BYTES = 256 * 1024		/* read at once */
};

union control {
	struct cmsghdr	align;
	char		space[CMSG_SPACE(2 * PARCEL_FDS * sizeof(int))];
};

void
parcel_init(struct parcel *p, int fd, uint64_t deadline_ms, const char *fault)
{
	memset(p, 0, sizeof(*p));
	p->fd = fd;
	p->deadline_ms = deadline_ms;
	p->fault = fault;
}

void
parcel_fini(struct parcel *p)
{
	while (p->ngot > 0)
		close(p->got[--p->ngot]);
	free(p->out);
	free(p->in);
	p->out = p->in = NULL;
}

/* Until the socket is ready; short sleeps with events 0. */
static int
wait_for(struct parcel *p, short events)
{
	struct pollfd	w = { .fd = p->fd, .events = events };
	uint64_t	now = clock_mono_ns() / 1000000;
	int		n;

	if (now >= p->deadline_ms)
		return ERR_AGAIN;
	if (events == 0)
		n = poll(NULL, 0, 1);
	else
		n = poll(&w, 1, (int)(p->deadline_ms - now));
	return n < 0 && errno != EINTR ? ERR_IO : 0;
}

/* --- Out -------------------------------------------------------------------- */

static ssize_t
send_some(struct parcel *p, size_t at)
{
	union control	 ctl;
	struct iovec	 iov = { p->out + at, p->out_len - at };
	struct msghdr	 msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr	*c;

	if (p->nfds > 0) {
		memset(&ctl, 0, sizeof(ctl));
		msg.msg_control = ctl.space;
		msg.msg_controllen = CMSG_SPACE(p->nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(p->nfds * sizeof(int));
		memcpy(CMSG_DATA(c), p->fds, p->nfds * sizeof(int));
	}
	return sendmsg(p->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int
send_all(struct parcel *p)
{
	size_t	at = 0;
	ssize_t	n;
	int	rc;

	if (fault_hit(p->fault)) {
		errno = EIO;
		return ERR_IO;
	}
	while (at < p->out_len) {
		if ((n = send_some(p, at)) > 0) {
			at += (size_t)n;
			p->sent += (uint32_t)p->nfds;
			p->nfds = 0;		/* they left with the first */
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		/* ETOOMANYREFS: somebody else's are under way as well. */
		if (n < 0 && errno != EAGAIN && errno != ETOOMANYREFS)
			return ERR_IO;
		if ((rc = wait_for(p, errno == EAGAIN ? POLLOUT : 0)) < 0)
			return rc;
	}
	p->out_len = 0;
	return 0;
}

/* Until so many more descriptors may be under way. */
static int
wait_seen(struct parcel *p)
{
	union handover_row	row;
	unsigned		kind;
	int			rc;

	while (p->sent - p->seen + p->nfds > PARCEL_FLYING) {
		if ((rc = parcel_get(p, &kind, &row)) < 0)
			return rc;
		if (kind != HANDOVER_SEEN)
			return ERR_PROTO;
	}
	return 0;
}

int
parcel_flush(struct parcel *p)
{
	int rc;

	if (p->out_len == 0)
		return 0;
	if (p->nfds > 0 && (rc = wait_seen(p)) < 0)
		return rc;
	return send_all(p);
}

int
parcel_put(struct parcel *p, enum handover_kind kind, const void *row,
    size_t bytes, int fd)
{
	struct wire_out	 w;
	size_t		 room = HANDOVER_FRAME + HANDOVER_FIELDS_MAX + bytes;
	uint8_t		*grown, *at;
	int		 rc;

	if ((p->out_len > OUT_BYTES || (fd >= 0 && p->nfds == PARCEL_FDS)) &&
	    (rc = parcel_flush(p)) < 0)
		return rc;
	if (p->out_cap - p->out_len < room) {
		room += p->out_len + OUT_BYTES;
		if ((grown = realloc(p->out, room)) == NULL)
			return ERR_NOMEM;
		p->out = grown;
		p->out_cap = room;
	}
	at = p->out + p->out_len;
	wire_out_init(&w, at + HANDOVER_FRAME,
	    p->out_cap - p->out_len - HANDOVER_FRAME);
	handover_put(&w, kind, row);
	if (w.full || wire_out_len(&w) > HANDOVER_BODY_MAX)
		return ERR_INVAL;
	put_le32(at, (uint32_t)wire_out_len(&w));
	put_le16(at + 4, (uint16_t)kind);
	p->out_len += HANDOVER_FRAME + wire_out_len(&w);
	if (fd >= 0)
		p->fds[p->nfds++] = fd;
	return 0;
}

/* --- In --------------------------------------------------------------------- */

/* What came along. False: more than was agreed on. */
static bool
take_fds(struct parcel *p, struct msghdr *msg)
{
	struct cmsghdr	*c;
	size_t		 n, i;
	int		 fd;
	bool		 ok = (msg->msg_flags & MSG_CTRUNC) == 0;

	for (c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (p->ngot < NELEM(p->got)) {
				p->got[p->ngot++] = fd;
				p->total++;
			} else {
				close(fd);
				ok = false;
			}
		}
	}
	return ok;
}

static int
say_seen(struct parcel *p)
{
	struct handover_seen	row = { p->total };
	int			rc;

	if ((rc = parcel_put(p, HANDOVER_SEEN, &row, 0, -1)) < 0)
		return rc;
	return send_all(p);
}

static int
room_for(struct parcel *p, size_t need)
{
	uint8_t	*grown;
	size_t	 cap;

	if (p->in_at > 0) {
		memmove(p->in, p->in + p->in_at, p->in_len - p->in_at);
		p->in_len -= p->in_at;
		p->in_at = 0;
	}
	/* Whatever the length says, no more than twice what is here. */
	cap = MIN(need, 2 * p->in_len) + IN_BYTES;
	if (cap <= p->in_cap)
		return 0;
	if ((grown = realloc(p->in, cap)) == NULL)
		return ERR_NOMEM;
	p->in = grown;
	p->in_cap = cap;
	return 0;
}

static int
receive(struct parcel *p, size_t need)
{
	union control	 ctl;
	struct iovec	 iov;
	struct msghdr	 msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint32_t	 total = p->total;
	ssize_t		 n;
	int		 rc;

	if ((rc = room_for(p, need)) < 0)
		return rc;
	for (;;) {
		iov = (struct iovec){ p->in + p->in_len,
		    p->in_cap - p->in_len };
		msg.msg_control = ctl.space;
		msg.msg_controllen = sizeof(ctl.space);
		n = recvmsg(p->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n >= 0)
			break;
		if (errno != EAGAIN && errno != EINTR)
			return ERR_IO;
		if (errno == EAGAIN && (rc = wait_for(p, POLLIN)) < 0)
			return rc;
	}
	if (n == 0) {
		errno = EPIPE;
		return ERR_IO;
	}
	p->in_len += (size_t)n;
	if (!take_fds(p, &msg))
		return ERR_PROTO;
	if (fault_hit(p->fault)) {
		errno = EIO;
		return ERR_IO;
	}
	return p->total != total ? say_seen(p) : 0;
}

int
parcel_get(struct parcel *p, unsigned *kind, union handover_row *row)
{
	struct slice	body;
	size_t		need;
	int		rc;

	while ((rc = handover_next(p->in + p->in_at, p->in_len - p->in_at,
	    kind, &body, &need)) == 0)
		if ((rc = receive(p, need)) < 0)
			return rc;
	if (rc < 0)
		return rc;
	p->in_at += need;
	if ((rc = handover_get(row, *kind, body.data, body.len)) < 0)
		return rc;
	if (*kind == HANDOVER_SEEN)
		p->seen = row->seen.descriptors;
	if (*kind == HANDOVER_REFUSED) {
		snprintf(p->why, sizeof(p->why), "%.*s",
		    (int)MIN(row->refused.why.len, sizeof(p->why) - 1),
		    (const char *)row->refused.why.data);
		return ERR_PROTO;
	}
	return 0;
}

int
parcel_fd(struct parcel *p)
{
	int fd;

	if (p->ngot == 0)
		return -1;
	fd = p->got[0];
	memmove(p->got, p->got + 1, --p->ngot * sizeof(fd));
	return fd;
}

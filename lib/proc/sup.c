#include "proc/sup.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <pb_decode.h>
#include <pb_encode.h>

#include "base/err.h"
#include "base/util.h"
#include "proc/proc.h"

/* What a packet of each kind carries. */
static const struct sup_row {
	enum kind		 kind;
	const pb_msgdesc_t	*fields;
} sup_rows[] = {
	{ KIND_SUP_HELLO,	SupHello_fields },
	{ KIND_SUP_WELCOME,	SupWelcome_fields },
	{ KIND_SUP_PEERS,	SupPeers_fields },
	{ KIND_SUP_SOCKETS,	SupSockets_fields },
	{ KIND_SUP_SEGMENT,	SupSegment_fields },
	{ KIND_SUP_READY,	SupReady_fields },
	{ KIND_SUP_PING,	SupPing_fields },
	{ KIND_SUP_PONG,	SupPong_fields },
	{ KIND_SUP_DRAIN,	SupDrain_fields },
	{ KIND_SUP_CONF,	SupConf_fields },
	{ KIND_SUP_HANDOVER,	SupHandover_fields },
	{ KIND_SUP_REQUEST,	SupRequest_fields },
	{ KIND_SUP_RESULT,	SupResult_fields },
};

static const pb_msgdesc_t *
fields_of(unsigned kind)
{
	size_t	i;

	for (i = 0; i < NELEM(sup_rows); i++)
		if ((unsigned)sup_rows[i].kind == kind)
			return sup_rows[i].fields;
	return NULL;
}

int
sup_peers_take(const SupPeers *m, struct proc_peer *list, size_t *n)
{
	struct proc_peer	*o;
	pb_size_t		 i;

	if (m->first)
		*n = 0;
	if (m->peers_count > PROC_PEERS_MAX - *n)
		return ERR_PROTO;
	for (i = 0; i < m->peers_count; i++) {
		o = &list[(*n)++];
		memset(o, 0, sizeof(*o));
		SUP_TEXT(o->name, m->peers[i].name);
		o->kind = (enum proc_kind)m->peers[i].kind;
		o->instance = m->peers[i].instance;
		o->incarnation = m->peers[i].incarnation;
		SUP_TEXT(o->endpoint, m->peers[i].endpoint);
		o->state = (enum proc_state)m->peers[i].state;
		o->pid = (pid_t)m->peers[i].pid;
	}
	return m->last ? 0 : ERR_AGAIN;
}

/* nanopb checks lengths; what the numbers may be is for us to check. */
static int
check_ranges(const struct sup_msg *m)
{
	pb_size_t	i;

	if (m->kind == KIND_SUP_HELLO)
		return m->u.hello.state < PROC_NSTATES ? 0 : ERR_PROTO;
	if (m->kind == KIND_SUP_PEERS) {
		for (i = 0; i < m->u.peers.peers_count; i++)
			if (m->u.peers.peers[i].kind >= PROC_NKINDS ||
			    m->u.peers.peers[i].state >= PROC_NSTATES)
				return ERR_PROTO;
		return 0;
	}
	if (m->kind == KIND_SUP_SOCKETS) {
		if ((unsigned)m->u.sockets.op > _SupSocketsOp_MAX)
			return ERR_PROTO;
		for (i = 0; i < m->u.sockets.sockets_count; i++)
			if (m->u.sockets.sockets[i].kind >=
			    PROC_NSOCKET_KINDS ||
			    m->u.sockets.sockets[i].index >= PROC_SOCKETS_MAX)
				return ERR_PROTO;
		return 0;
	}
	if (m->kind == KIND_SUP_SEGMENT)
		return m->u.segment.kind < PROC_NSEGMENT_KINDS &&
		    (unsigned)m->u.segment.op <= _SupSegmentOp_MAX ?
		    0 : ERR_PROTO;
	if (m->kind == KIND_SUP_HANDOVER)
		return (unsigned)m->u.handover.op <= _SupHandoverOp_MAX ?
		    0 : ERR_PROTO;
	if (m->kind == KIND_SUP_REQUEST)
		return (unsigned)m->u.request.op <= _SupOp_MAX ?
		    0 : ERR_PROTO;
	if (m->kind == KIND_SUP_RESULT)
		return m->u.result.row.state < PROC_NSTATES ? 0 : ERR_PROTO;
	return 0;
}

int
sup_decode(const uint8_t *buf, size_t len, struct sup_msg *m)
{
	const pb_msgdesc_t	*fields;
	pb_istream_t		 in;

	if (len < 2 || len > SUP_PACKET_MAX)
		return ERR_PROTO;
	if ((fields = fields_of(get_le16(buf))) == NULL)
		return ERR_PROTO;
	m->kind = (enum kind)get_le16(buf);
	in = pb_istream_from_buffer(buf + 2, len - 2);
	if (!pb_decode(&in, fields, &m->u))
		return ERR_PROTO;
	return check_ranges(m);
}

int
sup_encode(const struct sup_msg *m, uint8_t *buf, size_t *len)
{
	const pb_msgdesc_t	*fields = fields_of((unsigned)m->kind);
	pb_ostream_t		 out;

	if (fields == NULL || *len < 2)
		return ERR_INVAL;
	put_le16(buf, (uint16_t)m->kind);
	out = pb_ostream_from_buffer(buf + 2, *len - 2);
	if (!pb_encode(&out, fields, &m->u))
		return ERR_INVAL;
	*len = out.bytes_written + 2;
	return 0;
}

int
sup_send(int sock, const struct sup_msg *m, const int *fds, size_t nfds)
{
	static uint8_t	 buf[SUP_PACKET_MAX];
	union {
		struct cmsghdr	align;
		char		space[CMSG_SPACE(SUP_FDS_MAX * sizeof(int))];
	} ctl;
	size_t		 len = sizeof(buf);
	struct iovec	 iov = { .iov_base = buf };
	struct msghdr	 msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr	*c;
	ssize_t		 n;
	int		 rc;

	if (nfds > SUP_FDS_MAX)
		return ERR_INVAL;
	if ((rc = sup_encode(m, buf, &len)) < 0)
		return rc;
	iov.iov_len = len;
	if (nfds > 0) {
		memset(&ctl, 0, sizeof(ctl));
		msg.msg_control = ctl.space;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	do
		n = sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return 0;
	/* ETOOMANYREFS: too many descriptors in flight; they will be read. */
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ||
	    errno == ETOOMANYREFS)
		return ERR_AGAIN;
	return ERR_IO;
}

int
sup_recv(int sock, struct sup_msg *m, int *fds, size_t *nfds)
{
	static uint8_t	 buf[SUP_PACKET_MAX];
	union {
		struct cmsghdr	align;
		char		space[CMSG_SPACE(SUP_FDS_MAX * sizeof(int))];
	} ctl;
	struct iovec	 iov = { .iov_base = buf, .iov_len = sizeof(buf) };
	struct msghdr	 msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = ctl.space, .msg_controllen = sizeof(ctl.space),
	};
	struct cmsghdr	*c;
	size_t		 got = 0, k;
	ssize_t		 n;
	int		 rc;

	do
		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ?
		    ERR_AGAIN : ERR_IO;
	for (c = CMSG_FIRSTHDR(&msg); c != NULL; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		if (k > SUP_FDS_MAX - got) {
			sup_close_fds((const int *)(void *)CMSG_DATA(c), k);
			continue;
		}
		memcpy(fds + got, CMSG_DATA(c), k * sizeof(int));
		got += k;
	}
	if (n == 0 && got == 0) {
		errno = EPIPE;
		return ERR_IO;
	}
	rc = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? ERR_PROTO :
	    sup_decode(buf, (size_t)n, m);
	if (rc < 0) {
		sup_close_fds(fds, got);
		return rc;
	}
	*nfds = got;
	return 0;
}

int
sup_connect(int *sock)
{
	struct sockaddr_un	sun = { .sun_family = AF_UNIX };
	int			fd, err;

	memcpy(sun.sun_path, SUP_SOCK, sizeof(SUP_SOCK));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ERR_IO;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		err = errno;
		close(fd);
		errno = err;
		return ERR_IO;
	}
	*sock = fd;
	return 0;
}

int
sup_wait(int sock, int timeout_ms)
{
	struct pollfd	p = { .fd = sock, .events = POLLIN };
	int		n;

	do
		n = poll(&p, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return ERR_IO;
	return n == 0 ? ERR_AGAIN : 0;
}

void
sup_close_fds(const int *fds, size_t nfds)
{
	size_t	i;

	for (i = 0; i < nfds; i++)
		close(fds[i]);
}

void
sup_text(char *out, size_t size, const char *text)
{
	size_t	n = strnlen(text, size - 1);

	memcpy(out, text, n);
	out[n] = '\0';
}

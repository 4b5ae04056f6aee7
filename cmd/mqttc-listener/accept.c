/*
 * accept.c: the listening sockets the supervisor deals to us, and how many
 * clients we take. Who has no room gives the shared ones back, for listeners
 * that have, and wants them again when a part of its clients has left. One
 * descriptor is kept spare: when there is no other left,
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
#include "mqtt/decode.h"
#include "mqtt/encode.h"

enum {
	ACCEPTS_PER_TURN = 64,
	PAUSE_MS = 500,			/* the system gives us nothing */
	RETRY_MS = 5000,		/* descriptors that others had */
	ROOM_PART = 20,			/* 5 %: room worth asking for clients */
	OWN_LEAST = 128, OWN_PER_PEER = 8	/* descriptors for ourselves */
};

struct acceptor {
	ev_io		 io;
	uint32_t	 index;
	enum proc_socket_kind kind;
	bool		 ours;		/* not given back */
};

/* --- Room -------------------------------------------------------------------- */

/* Descriptors we may have; asked once for what comes in one moment. */
static size_t
descriptors(const struct listener *l)
{
	static uint64_t	 asked_ms;
	static size_t	 n;
	struct rlimit	 rl;

	if (n == 0 || l->now_ms != asked_ms) {
		n = getrlimit(RLIMIT_NOFILE, &rl) < 0 ? SIZE_MAX :
		    (size_t)rl.rlim_cur;
		asked_ms = l->now_ms;
	}
	return n;
}

/* Clients we take. */
static size_t
limit_of(const struct listener *l)
{
	size_t	max = l->conf->listener_max_connections, own, n;

	if (max == 0)
		max = SIZE_MAX;
	n = descriptors(l);
	/*
	 * What the bus, the segments and the loop need comes first: some 36,
	 * and 5 for each sibling, more while one is replaced. libzmq aborts
	 * when it may accept and is out of descriptors.
	 */
	own = MAX((size_t)OWN_LEAST, OWN_LEAST / 2 +
	    (size_t)l->nremote * OWN_PER_PEER);
	return MIN(max, n > own ? n - own : 1);
}

static bool
is_full(const struct listener *l)
{
	return l->nconns >= limit_of(l);
}

static size_t
less_a_part(size_t n)
{
	return n - MIN(n, MAX(n / ROOM_PART, (size_t)1));
}

/*
 * Others may have room: what is shared goes to them. If it comes back, they
 * have none either, and who connects is refused.
 */
static void
give_back(struct listener *l, bool descriptors)
{
	uint32_t	*back;
	size_t		 i, n = 0;

	if (l->full || l->draining)
		return;
	if ((back = calloc(l->nacceptors + 1, sizeof(*back))) == NULL)
		return;
	for (i = 0; i < l->nacceptors; i++) {
		struct acceptor *a = &l->acceptors[i];

		if (a->kind != PROC_SOCKET_SHARED || !a->ours)
			continue;
		ev_io_stop(l->loop, &a->io);
		a->ours = false;
		back[n++] = a->index;
	}
	l->full = true;
	l->full_at = descriptors ? l->nconns + 1 : 0;
	l->full_ms = l->now_ms;
	proc_sockets_return(l->proc, back, n);
	free(back);
	log_info("listener.full", "clients=%zu limit=%s", l->nconns,
	    descriptors ? "descriptors" : "connections");
}

void
accept_room(struct listener *l)
{
	if (!l->full || l->draining ||
	    l->nconns > less_a_part(limit_of(l)))
		return;
	if (l->full_at > 0 && l->nconns >= less_a_part(l->full_at) &&
	    l->now_ms < l->full_ms + RETRY_MS)
		return;
	l->full = false;
	proc_sockets_want(l->proc);
	log_info("listener.room", "clients=%zu", l->nconns);
}

/* --- Accepting ---------------------------------------------------------------- */

static void
start_all(struct listener *l)
{
	size_t	i;

	l->accept_ms = 0;
	for (i = 0; i < l->nacceptors; i++)
		if (l->acceptors[i].ours)
			ev_io_start(l->loop, &l->acceptors[i].io);
}

/* Accepting fails for now: the sockets stay readable, so looking on would be
 * all we did. */
static void
pause_all(struct listener *l)
{
	size_t	i;

	log_warn("accept.failed", "error=%s pause_ms=%d",
	    log_quote(strerror(errno)), PAUSE_MS);
	for (i = 0; i < l->nacceptors; i++)
		ev_io_stop(l->loop, &l->acceptors[i].io);
	l->accept_ms = l->now_ms + PAUSE_MS;
}

void
accept_tick(struct listener *l)
{
	if (l->spare_fd < 0)
		l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (l->accept_ms != 0 && l->now_ms >= l->accept_ms)
		start_all(l);
	accept_room(l);
}

/*
 * Refuse who is connected by fd, in words if the CONNECT is there already; it
 * is not waited for. What was read is not answered by a reset.
 */
static void
refuse(int fd)
{
	struct mqtt_connect	k;
	struct mqtt_frame	f;
	uint8_t			in[4096], out[16];
	ssize_t			n;

	metric_inc(&m_accept_refused);
	n = recv(fd, in, sizeof(in), MSG_DONTWAIT);
	if (n > 0 && mqtt_frame_parse(in, (size_t)n, MQTT_NONE, sizeof(in),
	    &f) == 0 && f.type == MQTT_CONNECT &&
	    mqtt_decode_connect(&f, 0, &k) == 0) {
		n = (ssize_t)mqtt_connack_encode(k.version, false,
		    k.version == MQTT_V5 ? MQTT_QUOTA_EXCEEDED :
		    (uint8_t)mqtt_connack_v3_code(MQTT_SERVER_UNAVAILABLE),
		    NULL, out);
		(void)!send(fd, out, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	close(fd);
}

/* No descriptor is left: take one client with the spare one, and refuse it.
 * False, and errno, if not even that works. */
static bool
refuse_one(struct listener *l, int lfd)
{
	int	fd, err;

	if (l->spare_fd >= 0)
		close(l->spare_fd);
	fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	err = errno;
	if (fd >= 0)
		refuse(fd);
	l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	errno = err;
	return fd >= 0;
}

/* False: no more from this socket now. */
static bool
accept_failed(struct listener *l, int lfd)
{
	if ((errno == EMFILE || errno == ENFILE) && refuse_one(l, lfd)) {
		give_back(l, true);
		return true;
	}
	if (errno == ECONNABORTED || errno == EINTR)
		return true;
	if (errno != EAGAIN)
		pause_all(l);
	return false;
}

static void
take(struct listener *l, int fd)
{
	if (is_full(l)) {
		refuse(fd);
		give_back(l, false);
		return;
	}
	/* TCP_NODELAY it has from the listening socket. */
	if (client_new(l, fd) == NULL) {
		metric_inc(&m_dropped_memory);
		close(fd);
	}
	if (is_full(l))		/* the next one is better off elsewhere */
		give_back(l, false);
}

static void
on_acceptable(EV_P_ ev_io *w, int revents UNUSED)
{
	struct listener	*l = ev_userdata(EV_A);
	int		 fd, n;

	for (n = 0; n < ACCEPTS_PER_TURN && ev_is_active(w); n++) {
		fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			take(l, fd);
		else if (!accept_failed(l, w->fd))
			return;
	}
}

void
accept_stop(struct listener *l)
{
	size_t i;

	for (i = 0; i < l->nacceptors; i++)
		ev_io_stop(l->loop, &l->acceptors[i].io);
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
	struct acceptor	*a;
	size_t		 i;

	accept_stop(l);
	if (n == 0)
		return;
	if ((a = calloc(n, sizeof(*a))) == NULL) {
		log_error("accept.nomem", "sockets=%zu", n);
		return;
	}
	for (i = 0; i < n; i++) {
		a[i].index = s[i].index;
		a[i].kind = s[i].kind;
		a[i].ours = true;
		ev_io_init(&a[i].io, on_acceptable, s[i].fd, EV_READ);
	}
	l->acceptors = a;
	l->nacceptors = n;
	start_all(l);
	if (is_full(l))		/* it may not know yet */
		give_back(l, false);
}

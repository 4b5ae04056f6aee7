/*
 * The listening sockets. They are bound once and stay open here for as long
 * as the node runs, whoever accepts from them: a connection waiting in a
 * backlog outlives the process that would have accepted it.
 */
#include "super.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "log/log.h"

#define BACKLOG		4096
#define ADDRS_MAX	8	/* addresses one name stands for */

/* One address to listen at. */
struct where {
	const char		*key;
	enum proc_socket_kind	 kind;
	uint32_t		 instance;	/* OWN: whose */
	struct sockaddr_storage	 addr;
	socklen_t		 len;
	int			 family;
};

static uint64_t
cookie_of(int fd)
{
	uint64_t	v = 0;
	socklen_t	len = sizeof(v);

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &v, &len) < 0)
		return 0;
	return v;
}

static void
addr_text(const struct sockaddr *sa, socklen_t len, char *out, size_t size)
{
	char	host[96], port[8];

	if (getnameinfo(sa, len, host, sizeof(host), port, sizeof(port),
	    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(out, size, "?");
	else
		snprintf(out, size, sa->sa_family == AF_INET6 ? "[%s]:%s" :
		    "%s:%s", host, port);
}

static uint16_t
port_of(const struct sockaddr_storage *sa)
{
	const struct sockaddr_in6	*v6 = (const void *)sa;
	const struct sockaddr_in	*v4 = (const void *)sa;

	return ntohs(sa->ss_family == AF_INET6 ? v6->sin6_port :
	    v4->sin_port);
}

static void
set_port(struct sockaddr_storage *sa, uint16_t port)
{
	struct sockaddr_in6	*v6 = (void *)sa;
	struct sockaddr_in	*v4 = (void *)sa;

	if (sa->ss_family == AF_INET6)
		v6->sin6_port = htons(port);
	else
		v4->sin_port = htons(port);
}

/* Why not, in words. */
struct reason {
	char	*text;
	size_t	 size;
};

static int
taken(const struct where *w, struct reason *r)
{
	char		 text[128];
	int		 err = errno;

	addr_text((const void *)&w->addr, w->len, text, sizeof(text));
	snprintf(r->text, r->size, "cannot listen at %s (%s): %s", text,
	    w->key, strerror(err));
	return EX_OSERR;
}

static int
open_socket(const struct where *w, bool reuseport)
{
	int	fd, on = 1, off = 0, err;

	fd = socket(w->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    (reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on,
	    sizeof(on)) < 0) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		goto fail;
	/* "::" serves both families, as does an address without a host. */
	if (w->family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY,
	    &off, sizeof(off)) < 0)
		goto fail;
	if (bind(fd, (const struct sockaddr *)&w->addr, w->len) < 0)
		goto fail;
	return fd;
fail:
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

static int
add(struct super *s, int fd, const struct proc_socket *p, unsigned group,
    uint32_t instance)
{
	size_t			 n = s->nlistening;
	struct listening	*l;
	struct deal_socket	*d;

	if (n == PROC_SOCKETS_MAX)
		return ERR_FULL;
	l = realloc(s->listening, (n + 1) * sizeof(*l));
	if (l != NULL)
		s->listening = l;
	d = realloc(s->deals, (n + 1) * sizeof(*d));
	if (d != NULL)
		s->deals = d;
	if (l == NULL || d == NULL)
		return ERR_NOMEM;
	memset(&l[n], 0, sizeof(l[n]));
	l[n].s = *p;
	l[n].s.fd = fd;
	l[n].s.instance = instance;
	l[n].cookie = cookie_of(fd);
	memset(&d[n], 0, sizeof(d[n]));
	d[n].group = group;
	d[n].own = p->kind == PROC_SOCKET_OWN;
	d[n].instance = instance;
	d[n].taker = DEAL_NOBODY;
	s->nlistening++;
	return 0;
}

/* Sockets we have at this address, and the deal group they are in. */
static size_t
have(struct super *s, const char *address, enum proc_socket_kind kind,
    unsigned *group)
{
	unsigned	fresh = 0;
	size_t		i, n = 0;

	for (i = 0; i < s->nlistening; i++) {
		fresh = MAX(fresh, s->deals[i].group + 1);
		if (s->listening[i].s.kind == kind &&
		    strcmp(s->listening[i].s.address, address) == 0) {
			*group = s->deals[i].group;
			n++;
		}
	}
	if (n == 0)
		*group = fresh;
	return n;
}

/* The lowest index no socket has; below PROC_SOCKETS_MAX while add() takes
 * one more. */
static uint32_t
free_index(const struct super *s)
{
	bool		used[PROC_SOCKETS_MAX] = { false };
	uint32_t	index = 0;
	size_t		i;

	for (i = 0; i < s->nlistening; i++)
		used[s->listening[i].s.index] = true;
	while (index < PROC_SOCKETS_MAX - 1 && used[index])
		index++;
	return index;
}

/*
 * Make the sockets of one address up to `want`. A port is first bound without
 * SO_REUSEPORT: with it, another node of the same user would share the port
 * with us instead of being told.
 */
static int
bind_all(struct super *s, struct where *w, size_t want, struct reason *r)
{
	struct proc_socket	 p = { .kind = w->kind };
	unsigned		 group;
	size_t			 n;
	int			 fd, rc;

	addr_text((const void *)&w->addr, w->len, p.address,
	    sizeof(p.address));
	if ((n = have(s, p.address, w->kind, &group)) == 0) {
		socklen_t	len = sizeof(w->addr);

		if ((fd = open_socket(w, false)) < 0)
			return taken(w, r);
		if (port_of(&w->addr) == 0 && getsockname(fd,
		    (struct sockaddr *)&w->addr, &len) < 0) {
			rc = taken(w, r);
			close(fd);
			return rc;
		}
		addr_text((const void *)&w->addr, w->len, p.address,
		    sizeof(p.address));
		close(fd);
	}
	for (; n < want; n++) {
		if ((fd = open_socket(w, true)) < 0)
			return taken(w, r);
		if (listen(fd, BACKLOG) < 0) {
			rc = taken(w, r);
			close(fd);
			return rc;
		}
		p.index = free_index(s);
		if ((rc = add(s, fd, &p, group, w->instance)) < 0) {
			close(fd);
			snprintf(r->text, r->size, rc == ERR_FULL ?
			    "a node has at most %d sockets" :
			    "no memory for more than %d sockets",
			    rc == ERR_FULL ? PROC_SOCKETS_MAX : (int)n);
			return rc == ERR_FULL ? EX_CONFIG : EX_OSERR;
		}
	}
	return 0;
}

/* Without a host: both families, where there are two. */
static const char *
any_host(void)
{
	int	fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return "0.0.0.0";
	close(fd);
	return "::";
}

/* Every address that HOST:PORT stands for; 0 and why if there is none. */
static size_t
resolve(const char *key, const char *text, struct where *out, size_t max,
    struct reason *r)
{
	struct addrinfo	 hints = {
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	}, *list, *a;
	char		 host[CONF_STR_MAX], port_text[8];
	uint16_t	 port;
	size_t		 n = 0;
	int		 rc;

	if (conf_split_addr(text, host, sizeof(host), &port) < 0)
		fatal(EX_CONFIG, "conf.bad", "%s: '%s' is not HOST:PORT", key,
		    text);
	snprintf(port_text, sizeof(port_text), "%u", port);
	rc = getaddrinfo(host[0] != '\0' ? host : any_host(), port_text,
	    &hints, &list);
	if (rc != 0) {
		snprintf(r->text, r->size, "%s: cannot find '%s': %s", key,
		    host, gai_strerror(rc));
		return 0;
	}
	for (a = list; a != NULL && n < max; a = a->ai_next) {
		memset(&out[n], 0, sizeof(out[n]));
		out[n].key = key;
		out[n].family = a->ai_family;
		memcpy(&out[n].addr, a->ai_addr, a->ai_addrlen);
		out[n++].len = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return n;
}

/* With port 0 nothing but this tells them apart. */
static bool
has_own(const struct super *s, uint32_t instance)
{
	size_t	i;

	for (i = 0; i < s->nlistening; i++)
		if (s->deals[i].own && s->deals[i].instance == instance)
			return true;
	return false;
}

static int
make_shared(struct super *s, uint32_t listeners, struct reason *r)
{
	const struct conf	*c = &s->conf;
	struct where		 w[ADDRS_MAX] = { { .key = NULL } };
	size_t			 n, i;
	int			 rc;

	if (c->listener_tcp_external[0] == '\0')
		return 0;
	if ((n = resolve("listener.tcp.external", c->listener_tcp_external,
	    w, ADDRS_MAX, r)) == 0)
		return EX_NOHOST;
	for (i = 0; i < n; i++) {
		w[i].kind = PROC_SOCKET_SHARED;
		if ((rc = bind_all(s, &w[i], MAX(c->listener_sockets,
		    listeners), r)) != 0)
			return rc;
	}
	return 0;
}

static int
make_own(struct super *s, uint32_t listeners, struct reason *r)
{
	const struct conf	*c = &s->conf;
	struct where		 w[ADDRS_MAX] = { { .key = NULL } }, one;
	size_t			 n, i;
	uint32_t		 k;
	int			 rc;

	if (c->listener_tcp_each[0] == '\0')
		return 0;
	if ((n = resolve("listener.tcp.each", c->listener_tcp_each, w,
	    ADDRS_MAX, r)) == 0)
		return EX_NOHOST;
	for (k = 0; k < listeners; k++)
		for (i = 0; i < n; i++) {
			one = w[i];
			one.kind = PROC_SOCKET_OWN;
			one.instance = k;
			if (port_of(&one.addr) != 0)
				set_port(&one.addr, (uint16_t)
				    (port_of(&one.addr) + k));
			else if (has_own(s, k))
				continue;
			if ((rc = bind_all(s, &one, 1, r)) != 0)
				return rc;
		}
	return 0;
}

/* What so many listeners need and is not there yet; 0, or a code of
 * sysexits.h and why. What could be made stays. */
int
sockets_make(struct super *s, uint32_t listeners, char *why, size_t size)
{
	struct reason	r = { why, size };
	int		code;

	s->sockets_changed = true;
	if ((code = make_shared(s, listeners, &r)) != 0)
		return code;
	return make_own(s, listeners, &r);
}

void
sockets_bind(struct super *s)
{
	char	why[512] = "";

	switch (sockets_make(s, s->listeners, why, sizeof(why))) {
	case 0:
		return;
	case EX_NOHOST:
		fatal(EX_NOHOST, "listen.resolve", "%s", why);
	case EX_CONFIG:
		fatal(EX_CONFIG, "listener.sockets", "%s", why);
	default:
		fatal(EX_OSERR, "listen.bind", "%s", why);
	}
}

/*
 * A socket that a process of a former supervisor kept for us. What is not
 * where the configuration has it now stays with its process until it ends.
 */
int
sockets_adopt(struct super *s, const SupSocket *row, int fd, size_t child)
{
	struct proc_socket	p = {
		.kind = (enum proc_socket_kind)row->kind,
	};
	struct sockaddr_storage	sa;
	socklen_t		len = sizeof(sa);
	uint64_t		cookie = cookie_of(fd);
	unsigned		group;
	int			on = 0;
	size_t			i;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on,
	    &(socklen_t){ sizeof(on) }) < 0 || !on ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0) {
		close(fd);
		return ERR_PROTO;
	}
	for (i = 0; i < s->nlistening; i++)
		if (s->listening[i].cookie == cookie ||
		    s->listening[i].s.index == row->index)
			break;
	if (i < s->nlistening) {		/* known, from another one */
		close(fd);
		if (s->listening[i].cookie != cookie ||
		    s->listening[i].s.index != row->index)
			return 0;
		conn_has_socket(s->children[child].conn, row->index);
	} else {
		addr_text((const void *)&sa, len, p.address,
		    sizeof(p.address));
		p.index = row->index;
		have(s, p.address, p.kind, &group);
		if (add(s, fd, &p, group, row->instance) < 0) {
			close(fd);
			return 0;	/* it stays with its process */
		}
		conn_has_socket(s->children[child].conn, row->index);
	}
	if (row->active && s->deals[i].taker == DEAL_NOBODY)
		s->deals[i].taker = (int)s->procs[child].instance;
	s->sockets_changed = true;
	return 0;
}

/* Whose sets are others now. */
static void
note_changes(struct super *s)
{
	size_t	i, k;

	for (i = 0; i < s->nprocs; i++) {
		if (s->procs[i].kind != PROC_LISTENER)
			continue;
		for (k = 0; k < s->nlistening; k++)
			if (s->deals[k].was != s->deals[k].taker &&
			    (s->deals[k].was == (int)s->procs[i].instance ||
			    s->deals[k].taker == (int)s->procs[i].instance))
				break;
		if (k < s->nlistening)
			s->children[i].deal_version = s->deal_version;
	}
}

/* Who accepts from what: takers are the listeners, by instance. */
void
sockets_deal(struct super *s)
{
	struct deal_taker	*t;
	size_t			 i, n = 0;

	if (!s->sockets_changed || s->adopting)
		return;
	s->sockets_changed = false;
	if ((t = calloc(s->nprocs, sizeof(*t))) == NULL)
		return;
	for (i = 0; i < s->nprocs; i++) {
		if (s->procs[i].kind != PROC_LISTENER)
			continue;
		t[s->procs[i].instance].serves =
		    s->procs[i].phase == KEEP_READY && !s->procs[i].again &&
		    !s->procs[i].retire;
		t[s->procs[i].instance].gone = s->procs[i].retire ||
		    s->procs[i].phase == KEEP_GONE;
		t[s->procs[i].instance].full = s->children[i].full;
		n = MAX(n, s->procs[i].instance + 1);
	}
	i = deal(s->deals, s->nlistening, t, n);
	if (i > 0) {
		s->deal_version++;
		note_changes(s);
		metric_add(&m_dealt, i);
		log_info("sockets.dealt", "moved=%zu of=%zu", i,
		    s->nlistening);
	}
	for (i = 0; i < s->nprocs; i++) {
		if (s->children[i].tell)
			s->children[i].deal_version = ++s->deal_version;
		s->children[i].tell = false;
	}
	free(t);
}

/* The addresses for the line that says ready: each once, as far as they fit. */
const char *
sockets_where(struct super *s, char *out, size_t size)
{
	size_t	i, k, n, at = 0;

	out[0] = '\0';
	for (i = 0; i < s->nlistening; i++) {
		const char	*a = s->listening[i].s.address;

		for (k = 0; k < i; k++)
			if (strcmp(s->listening[k].s.address, a) == 0)
				break;
		n = strlen(a) + 1;
		if (k < i)
			continue;
		if (at + n + sizeof(" ...") > size) {
			snprintf(out + at, size - at, " ...");
			break;
		}
		at += (size_t)snprintf(out + at, size - at, "%s%s",
		    at > 0 ? " " : "", a);
	}
	return out;
}

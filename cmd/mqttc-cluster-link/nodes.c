/*
 * nodes.c: which nodes there are, as the router says, and a relay to each; the
 * port at which they reach us; what the router hears of both.
 */
#include "link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "log/log.h"
#include "proto/nodes.h"

enum { REPEAT_TICKS = 4 };	/* the router hears of us again */

static struct node *
node_find(struct link_process *l, const void *name, size_t len)
{
	struct node *n;

	HASH_FIND(hh, l->nodes, name, len, n);
	return n;
}

bool
nodes_admit(void *ctx, const char *node)
{
	return node_find(ctx, node, strlen(node)) != NULL;
}

static void
count_up(struct link_process *l)
{
	const struct node	*n;
	uint64_t		 up = 0;

	for (n = l->nodes; n != NULL; n = n->hh.next)
		up += n->relay != NULL && bus_relay_is_up(n->relay);
	metric_set(&m_nodes, HASH_COUNT(l->nodes));
	metric_set(&m_nodes_up, up);
}

void
nodes_relay(void *ctx, struct bus_relay *r, bool up)
{
	struct link_process	*l = ctx;
	struct node		*n = bus_relay_user(r);

	n->said = NULL;
	if (up)
		log_info("link.up", "node=%s endpoint=%s",
		    log_quote(n->name), n->endpoint);
	else
		log_warn("link.down", "node=%s endpoint=%s",
		    log_quote(n->name), n->endpoint);
	l->state_due = true;
	count_up(l);
}

static void
node_close(struct link_process *l, struct node *n)
{
	log_info("link.node_gone", "node=%s", log_quote(n->name));
	if (n->relay != NULL)
		bus_relay_close(&n->relay);
	bus_forget_node(l->bus, n->name);
	HASH_DELETE(hh, l->nodes, n);
	free(n);
}

static bool
is_ipv6(const struct link_process *l)
{
	return l->conf->node_proto_dist == CONF_DIST_INET6;
}

/* tcp://HOST:PORT, an IPv6 address in brackets. */
static bool
endpoint_of(char *out, size_t size, const char *host, unsigned port)
{
	const char *fmt = strchr(host, ':') != NULL ? "tcp://[%s]:%u" :
	    "tcp://%s:%u";

	return (size_t)snprintf(out, size, fmt, host, port) < size;
}

/* Of the links there, ours is as good as any: by turns. 0: there is none. */
static uint32_t
port_of(const struct link_process *l, const struct node_info *info)
{
	uint32_t ports[NODE_LINKS_MAX], n = 0, i;

	for (i = 0; i < NODE_LINKS_MAX; i++)
		if (info->ports[i] != 0)
			ports[n++] = info->ports[i];
	return n == 0 ? 0 : ports[l->self % n];
}

static void
node_update(struct link_process *l, struct node *n,
    const struct node_info *info)
{
	struct bus_relay_opts	o = {
		.node = n->name, .ipv6 = is_ipv6(l), .user = n,
		.secret = l->curve ? &l->secret : NULL,
	};
	char			at[BUS_ENDPOINT_MAX], host[256];
	uint32_t		port = port_of(l, info);
	int			rc;

	if (info->parked) {
		if (n->relay != NULL)
			bus_relay_close(&n->relay);
		n->endpoint[0] = '\0';
		return;
	}
	snprintf(host, sizeof(host), "%.*s", (int)info->host.len,
	    (const char *)info->host.data);
	if (port == 0 || !endpoint_of(at, sizeof(at), host, port))
		return;			/* it has not told yet */
	if (n->relay != NULL && strcmp(at, n->endpoint) == 0)
		return;
	if (n->relay != NULL)
		bus_relay_close(&n->relay);
	memcpy(n->endpoint, at, strlen(at) + 1);
	o.endpoint = n->endpoint;
	if ((rc = bus_relay_open(&n->relay, l->bus, &o)) < 0) {
		log_error("link.open", "node=%s endpoint=%s error=%s",
		    log_quote(n->name), n->endpoint, log_quote(err_str(rc)));
		n->relay = NULL;
		n->endpoint[0] = '\0';	/* the next NODES tries again */
	}
}

static struct node *
node_get(struct link_process *l, const struct slice *name)
{
	struct node *n = node_find(l, name->data, name->len);

	if (n != NULL)
		return n;
	if ((n = calloc(1, sizeof(*n) + name->len + 1)) == NULL) {
		metric_inc(&m_memory);
		return NULL;
	}
	memcpy(n->name, name->data, name->len);
	HASH_ADD_KEYPTR(hh, l->nodes, n->name, name->len, n);
	log_info("link.node_new", "node=%s", log_quote(n->name));
	return n;
}

/* Those that are none any more, as far as a router can tell that has just been
 * started. */
static void
nodes_forget(struct link_process *l)
{
	struct node *n, *next;

	if (mono_ms() - l->router_ms < ROUTER_NEW_MS)
		return;
	HASH_ITER(hh, l->nodes, n, next)
		if (!n->seen)
			node_close(l, n);
}

int
on_nodes(void *ctx, struct bus_frame *f)
{
	struct link_process	*l = ctx;
	struct node		*n;
	struct node_info	 info;
	struct nodes		 m;

	if (nodes_decode(&m, f->body, f->len) < 0)
		return ERR_PROTO;
	if (m.router_incarnation != f->from.incarnation)
		return 0;
	for (n = l->nodes; n != NULL; n = n->hh.next)
		n->seen = false;
	while (nodes_next(&m, &info) == 1) {
		if (info.name.len == 0 ||
		    (n = node_get(l, &info.name)) == NULL)
			continue;
		n->seen = true;
		node_update(l, n, &info);
	}
	nodes_forget(l);
	l->state_due = true;
	count_up(l);
	return 0;
}

/* --- Our port --------------------------------------------------------------- */

static bool
bind_at(struct link_process *l, const char *host, uint32_t port)
{
	char at[300];

	if (!endpoint_of(at, sizeof(at), host, port) || bus_bind_outer(l->bus,
	    at, is_ipv6(l), l->curve ? &l->secret : NULL) < 0)
		return false;
	l->port = port;
	log_info("link.bound", "endpoint=%s", at);
	l->state_due = true;
	return true;
}

/* At the host of our name, if that is an address; else at all of ours. */
static const char *
own_host(const struct link_process *l)
{
	const char	*host = strchr(proc_node(l->proc), '@');
	struct in6_addr	 a;

	host = host != NULL ? host + 1 : "";
	if (inet_pton(AF_INET, host, &a) == 1 ||
	    inet_pton(AF_INET6, host, &a) == 1)
		return host;
	return "*";
}

void
nodes_bind(struct link_process *l)
{
	static uint64_t	 next_ms;
	const char	*host = own_host(l);
	uint32_t	 port = l->conf->cluster_message_port +
	    conf_node_suffix(proc_node(l->proc)), i;

	if (l->port != 0 || mono_ms() < next_ms)
		return;
	if (l->self == 0) {
		if (bind_at(l, host, port))
			return;
	} else {
		for (i = l->conf->node_dist_listen_min;
		    i <= l->conf->node_dist_listen_max; i++)
			if (bind_at(l, host, i))
				return;
		port = l->conf->node_dist_listen_max;
	}
	metric_inc(&m_bind_failures);
	log_error("link.bind", "host=%s port=%" PRIu32 " error=%s", host, port,
	    log_quote(strerror(errno)));
	next_ms = mono_ms() + 2000;
}

/* --- What the router hears -------------------------------------------------- */

void
nodes_tick(struct link_process *l)
{
	const char	*why;
	struct node	*n;

	if (++l->ticks % REPEAT_TICKS == 0)
		l->state_due = true;
	nodes_forget(l);
	for (n = l->nodes; n != NULL; n = n->hh.next) {
		why = n->relay != NULL ? bus_relay_trouble(n->relay) : NULL;
		if (why != NULL && n->said != why)
			log_warn("link.refused", "node=%s endpoint=%s why=%s",
			    log_quote(n->name), n->endpoint, log_quote(why));
		n->said = why;
	}
}

void
nodes_turn(struct link_process *l)
{
	static uint8_t		 buf[LINK_STATE_BUF];
	const struct node	*n;
	struct wire_out		 out;
	struct link_flow	 flow;

	if (!l->state_due || l->router == NULL)
		return;
	l->state_due = false;
	link_state_begin(&out, buf, sizeof(buf), l->port);
	for (n = l->nodes; n != NULL; n = n->hh.next) {
		flow.node = (struct slice){ (const uint8_t *)n->name,
		    strlen(n->name) };
		flow.flows = n->relay != NULL && bus_relay_is_up(n->relay);
		(void)link_state_add(&out, &flow);
	}
	(void)bus_send(l->router, KIND_LINK_STATE, buf, wire_out_len(&out));
}

void
nodes_close(struct link_process *l)
{
	struct node *n, *next;

	HASH_ITER(hh, l->nodes, n, next)
		node_close(l, n);
}

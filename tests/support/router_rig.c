/*
 * router_rig: a node around one real mqttc-router, in which everything else is
 * played here: the supervisor, and any number of processes that own routes
 * and read the index. It does what it is told on stdin, a command a line, and
 * says what happens on stdout, a JSON object a line; {"event":"done"} follows
 * the last event of each command. tests/support/rig.py speaks to it.
 *
 *	run				start the router (argv[1]) in the cwd
 *	signal N			send it a signal
 *	peer NAME INC STATE		a row of PEERS (0 down .. 3 draining)
 *	unpeer NAME			take it out of PEERS
 *	peers				tell PEERS to all who want them
 *	open NAME INC			play that process: bind, say hello
 *	close NAME			it dies
 *	routes NAME SEQ FLAGS [+F|-F]...	one ROUTES: b begins a snapshot, e ends
 *				it, s is written for another router. F is
 *				a filter or NAME@MEMBERS@filter, of a group
 *	bulk NAME SEQ FLAGS OP FROM N PATTERN	many, filters made of numbers
 *	raw NAME KIND [HEX]		any message
 *	read NAME			map the newest index and confirm it
 *	map NAME			map it and do not confirm
 *	links NAME PORT [NODE=0|1]...	LinkState: bound, and what flows
 *	enter NAME, leave NAME		hold an epoch, and no more
 *	match NAME TOPIC		where the index leads, and its groups
 *	id NAME FILTER			of that group
 *	ping N				N pings to the router: it answers still?
 */
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pb_decode.h>
#include <pb_encode.h>

#include "base/err.h"
#include "base/util.h"
#include "bus/bus.h"
#include "conf/conf.h"
#include "fib/fib.h"
#include "log/log.h"
#include "proc/proc.h"
#include "proc/sup.h"
#include "proto/nodes.h"
#include "proto/route.h"
#include "proto/route.pb.h"
#include "shm/segment.h"
#include "topic/group.h"

#define CONNS_MAX	16
#define FAKES_MAX	512
#define WORDS_MAX	4096

struct conn {			/* of supervise.sock */
	ev_io		 io;
	int		 fd;	/* -1: free */
	bool		 router;
	uint32_t	 wants;
};

struct fake {			/* a process we play */
	char		 name[64];	/* "": free */
	uint64_t	 incarnation;
	struct bus	*bus;
	struct bus_peer	*router;
	struct shm_segment data, epochs;
	struct fib_reader *reader;
	uint64_t	 generation;
};

static struct ev_loop	*loop;
static struct conn	 conns[CONNS_MAX];
static struct fake	 fakes[FAKES_MAX];
static struct fib_reader *dead[4096];	/* kept, so that nobody calls it a leak */
static size_t		 ndead;
static SupPeer		 peers[PROC_PEERS_MAX];
static size_t		 npeers;
static struct sup_msg	 msg;
static struct conf	 conf;
static const char	*program;
static pid_t		 router_pid;
static uint64_t		 router_incarnation = 1000;
static uint64_t		 generation;
static int		 generation_fds[2] = { -1, -1 };
static char		 line[1 << 20];
static size_t		 line_len;
static uint8_t		 body[BUS_BODY_MAX];

static void
must(bool ok, const char *what)
{
	if (ok)
		return;
	printf("{\"event\":\"broken\",\"why\":\"%s\",\"errno\":%d}\n", what,
	    errno);
	exit(1);
}

/* --- The supervisor ----------------------------------------------------------- */

static void
say_peers(struct conn *c)
{
	SupPeers	*m = &msg.u.peers;
	size_t		 at = 0, n;

	msg.kind = KIND_SUP_PEERS;
	do {
		*m = (SupPeers)SupPeers_init_zero;
		n = MIN(npeers - at, NELEM(m->peers));
		memcpy(m->peers, peers + at, n * sizeof(*peers));
		m->peers_count = (pb_size_t)n;
		m->first = at == 0;
		at += n;
		m->last = at == npeers;
		if (sup_send(c->fd, &msg, NULL, 0) < 0)
			return;		/* a tool, and it has left */
	} while (at < npeers);
}

static int
conf_file(void)
{
	int	 fd = memfd_create("conf", MFD_CLOEXEC);
	FILE	*f = fdopen(dup(fd), "w");

	must(f != NULL && conf_write(&conf, f) == 0 && fclose(f) == 0, "conf");
	return fd;
}

static void
say_welcome(struct conn *c, bool tool)
{
	int	fd;

	msg.kind = KIND_SUP_WELCOME;
	msg.u.welcome = (SupWelcome)SupWelcome_init_zero;
	msg.u.welcome.version = PROTO_VERSION;
	SUP_TEXT(msg.u.welcome.node, conf.node_name);
	if (!tool) {
		SUP_TEXT(msg.u.welcome.name, "router");
		msg.u.welcome.incarnation = router_incarnation;
	}
	must(sup_send(c->fd, &msg, NULL, 0) == 0, "welcome");
	fd = conf_file();
	msg.kind = KIND_SUP_CONF;
	msg.u.conf = (SupConf)SupConf_init_zero;
	if (!tool)
		must(sup_send(c->fd, &msg, &fd, 1) == 0, "conf");
	close(fd);
	if (c->wants & PROC_WANT_PEERS)
		say_peers(c);
}

static void
take_segment(const SupSegment *s, int *fds, size_t nfds)
{
	if (s->op == SUP_SEGMENT_DROP) {
		printf("{\"event\":\"drop\",\"below\":%" PRIu64 "}\n",
		    s->generation);
	} else if (s->kind == PROC_SEGMENT_FIB && nfds == 2) {
		generation = s->generation;
		generation_fds[0] = fds[0];
		generation_fds[1] = fds[1];
		printf("{\"event\":\"segment\",\"generation\":%" PRIu64 "}\n",
		    generation);
		return;
	}
	sup_close_fds(fds, nfds);
}

static void
conn_close(struct conn *c)
{
	ev_io_stop(loop, &c->io);
	close(c->fd);
	c->fd = -1;
}

static void
on_conn(EV_P_ ev_io *w, int revents UNUSED)
{
	struct conn	*c = w->data;
	int		 fds[SUP_FDS_MAX], rc;
	size_t		 nfds = 0;

	(void)loop;
	if ((rc = sup_recv(c->fd, &msg, fds, &nfds)) == ERR_AGAIN)
		return;
	if (rc < 0) {
		conn_close(c);
		return;
	}
	if (msg.kind == KIND_SUP_HELLO) {
		c->wants = msg.u.hello.wants;
		c->router = !msg.u.hello.tool;
		say_welcome(c, msg.u.hello.tool);
	} else if (msg.kind == KIND_SUP_READY) {
		printf("{\"event\":\"ready\"}\n");
	} else if (msg.kind == KIND_SUP_PONG) {
		printf("{\"event\":\"pong\",\"seq\":%" PRIu64 "}\n",
		    msg.u.pong.seq);
	} else if (msg.kind == KIND_SUP_SEGMENT) {
		take_segment(&msg.u.segment, fds, nfds);
	}
}

static void
on_accept(EV_P_ ev_io *w, int revents UNUSED)
{
	struct conn	*c;
	int		 fd;

	if ((fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC)) < 0)
		return;
	for (c = conns; c < conns + CONNS_MAX && c->fd >= 0; c++)
		;
	must(c < conns + CONNS_MAX, "too many connections");
	memset(c, 0, sizeof(*c));
	c->fd = fd;
	ev_io_init(&c->io, on_conn, fd, EV_READ);
	c->io.data = c;
	ev_io_start(EV_A_ &c->io);
}

static void
supervisor_open(ev_io *w)
{
	struct sockaddr_un	sun = { .sun_family = AF_UNIX };
	size_t			i;
	int			fd;

	for (i = 0; i < CONNS_MAX; i++)
		conns[i].fd = -1;
	memcpy(sun.sun_path, SUP_SOCK, sizeof(SUP_SOCK));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	must(fd >= 0 && bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0 &&
	    listen(fd, 16) == 0, "supervise.sock");
	ev_io_init(w, on_accept, fd, EV_READ);
	ev_io_start(loop, w);
}

static SupPeer *
peer_row(const char *name)
{
	SupPeer		*p;
	enum proc_kind	 kind = PROC_ROUTER;
	uint32_t	 instance = 0;
	size_t		 i;

	for (i = 0; i < npeers; i++)
		if (strcmp(peers[i].name, name) == 0)
			return &peers[i];
	must(npeers < NELEM(peers) &&
	    proc_name_parse(name, &kind, &instance) == 0, "peer");
	p = &peers[npeers++];
	SUP_TEXT(p->name, name);
	p->kind = kind;
	p->instance = instance;
	return p;
}

static void
peer_set(const char *name, uint64_t incarnation, unsigned state)
{
	SupPeer	*p = peer_row(name);

	p->incarnation = incarnation;
	p->state = state;
	snprintf(p->endpoint, sizeof(p->endpoint), "ipc://%s.%" PRIu64 ".ipc",
	    name, incarnation);
}

static void
peer_drop(const char *name)
{
	*peer_row(name) = peers[npeers - 1];
	npeers--;
}

static void
peers_tell(void)
{
	size_t	i;

	for (i = 0; i < CONNS_MAX; i++)
		if (conns[i].fd >= 0 && conns[i].wants & PROC_WANT_PEERS)
			say_peers(&conns[i]);
}

static void
router_run(void)
{
	router_incarnation++;
	peer_set("router", router_incarnation, PROC_STARTING);
	if ((router_pid = fork()) == 0) {
		dup2(STDERR_FILENO, STDOUT_FILENO);
		setenv("SUPERVISE_SOCK", SUP_SOCK, 1);
		execl(program, program, "-n", "router", (char *)NULL);
		_exit(127);
	}
	printf("{\"event\":\"started\",\"pid\":%ld,\"incarnation\":%" PRIu64
	    "}\n", (long)router_pid, router_incarnation);
}

static void
on_child(EV_P_ ev_child *w, int revents UNUSED)
{
	(void)loop;
	if (w->rpid == router_pid)
		printf("{\"event\":\"exit\",\"code\":%d,\"signal\":%d}\n",
		    WIFEXITED(w->rstatus) ? WEXITSTATUS(w->rstatus) : -1,
		    WIFSIGNALED(w->rstatus) ? WTERMSIG(w->rstatus) : 0);
}

/* --- Processes we play ----------------------------------------------------------- */

static int
on_route_ack(void *ctx, struct bus_frame *f)
{
	struct fake	*k = ctx;
	RouteAck	 a = RouteAck_init_zero;
	pb_istream_t	 in = pb_istream_from_buffer(f->body, f->len);

	must(pb_decode(&in, RouteAck_fields, &a), "RouteAck");
	printf("{\"event\":\"ack\",\"name\":\"%s\",\"incarnation\":%" PRIu64
	    ",\"seq\":%" PRIu64 ",\"resync\":%s}\n", k->name, a.incarnation,
	    a.seq, a.resync ? "true" : "false");
	return 0;
}

static int
on_nodes(void *ctx, struct bus_frame *f)
{
	struct fake	*k = ctx;
	struct nodes	 m;
	struct node_info info;
	unsigned	 i;
	const char	*sep = "";

	must(nodes_decode(&m, f->body, f->len) == 0, "Nodes");
	printf("{\"event\":\"nodes\",\"name\":\"%s\",\"version\":%" PRIu64
	    ",\"router\":%" PRIu64 ",\"nodes\":{", k->name, m.version,
	    m.router_incarnation);
	for (; nodes_next(&m, &info) == 1; sep = ",") {
		printf("%s\"%.*s\":{\"host\":\"%.*s\",\"state\":%u,"
		    "\"incarnation\":%" PRIu64 ",\"index\":%u,\"core\":%s,"
		    "\"ports\":[", sep, (int)info.name.len, info.name.data,
		    (int)info.host.len, info.host.data, info.state,
		    info.incarnation, info.index, info.core ? "true" :
		    "false");
		for (i = 0; i < NODE_LINKS_MAX; i++)
			printf("%s%u", i > 0 ? "," : "", info.ports[i]);
		printf("]}");
	}
	printf("}}\n");
	return 0;
}

static void
on_up(void *ctx, struct bus_peer *p UNUSED)
{
	struct fake	*k = ctx;

	printf("{\"event\":\"up\",\"name\":\"%s\"}\n", k->name);
}

static const struct bus_rule fake_accepts[] = {
	{ KIND_ROUTE_ACK, PEER_ROUTER, 0, on_route_ack },
	{ KIND_NODES, PEER_ROUTER, 0, on_nodes },
};
static const struct bus_events fake_events = { .up = on_up };

static struct fake *
fake_of(const char *name)
{
	size_t	i;

	for (i = 0; i < FAKES_MAX; i++)
		if (strcmp(fakes[i].name, name) == 0)
			return &fakes[i];
	must(false, name);
	return NULL;
}

static void
fake_connect(struct fake *k)
{
	char	endpoint[BUS_ENDPOINT_MAX];

	if (k->router != NULL)
		bus_peer_close(&k->router);
	snprintf(endpoint, sizeof(endpoint), "ipc://router.%" PRIu64 ".ipc",
	    router_incarnation);
	must(bus_peer_open(&k->router, k->bus, "router", router_incarnation,
	    endpoint, k) == 0, "bus_peer_open");
}

static void
fake_open(const char *name, uint64_t incarnation)
{
	struct fake	*k = fake_of("");
	char		 endpoint[BUS_ENDPOINT_MAX];
	struct bus_opts	 o = {
		.loop = loop, .node = conf.node_name, .name = k->name,
		.incarnation = incarnation, .endpoint = endpoint,
		.accepts = fake_accepts, .naccepts = NELEM(fake_accepts),
		.events = &fake_events, .ctx = k, .stream_max = 512 << 20,
	};

	memset(k, 0, sizeof(*k));
	k->data.fd = k->epochs.fd = -1;
	SUP_TEXT(k->name, name);
	k->incarnation = incarnation;
	snprintf(endpoint, sizeof(endpoint), "ipc://%s.%" PRIu64 ".ipc", name,
	    incarnation);
	must(bus_open(&k->bus, &o) == 0, "bus_open");
	fake_connect(k);
}

/* As kill -9 would: the epoch stays announced. */
static void
fake_close(struct fake *k)
{
	bus_close(&k->bus);
	shm_close(&k->data);
	shm_close(&k->epochs);
	dead[ndead++ % NELEM(dead)] = k->reader;
	k->name[0] = '\0';
}

static struct slice
text(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

static void
routes_send(struct fake *k, struct routes_writer *w, bool end)
{
	size_t	n = routes_end(w, end);

	must(bus_stream_send(k->router, KIND_ROUTES, body, n, NULL) == 0,
	    "bus_stream_send");
}

static void
routes_start(struct routes_writer *w, const char *flags, uint64_t seq,
    bool begin)
{
	routes_begin(w, body, sizeof(body), router_incarnation -
	    (strchr(flags, 's') != NULL), seq, begin);
}

/* NAME@MEMBERS@filter is a row of a group. */
static void
row_parse(struct route_row *row, const char *s)
{
	char		*end;
	const char	*at = strchr(s, '@');
	unsigned long	 n = at == NULL ? 0 : strtoul(at + 1, &end, 10);

	*row = (struct route_row){ .filter = text(s), .qos = 1 };
	if (at == NULL || end == at + 1 || *end != '@')
		return;
	row->share = (struct slice){ (const uint8_t *)s, (size_t)(at - s) };
	row->members = (uint32_t)n;
	row->filter = text(end + 1);
}

static void
do_routes(struct fake *k, char **word, size_t n)
{
	struct routes_writer	w;
	struct route_row	row = { .qos = 1 };
	size_t			i;

	must(n >= 2, "routes");
	routes_start(&w, word[1], strtoull(word[0], NULL, 10),
	    strchr(word[1], 'b') != NULL);
	for (i = 2; i < n; i++) {
		row_parse(&row, word[i] + 1);
		must((word[i][0] == '+' ? routes_add(&w, &row) :
		    routes_del(&w, &row)) == 0, "row");
	}
	routes_send(k, &w, strchr(word[1], 'e') != NULL);
}

/* Filters of PATTERN, whose `%` becomes numbers from FROM on. */
static void
do_bulk(struct fake *k, char **word, size_t n)
{
	struct routes_writer	w;
	struct route_row	row = { .qos = 1 };
	uint64_t		seq, i, from, count;
	char			filter[1024], *hole;
	size_t			rows = 0;

	must(n == 6 && (hole = strchr(word[5], '%')) != NULL, "bulk");
	seq = strtoull(word[0], NULL, 10);
	from = strtoull(word[3], NULL, 10);
	count = strtoull(word[4], NULL, 10);
	*hole = '\0';
	routes_start(&w, word[1], seq, strchr(word[1], 'b') != NULL);
	for (i = from; i < from + count; i++) {
		snprintf(filter, sizeof(filter), "%s%" PRIu64 "%s", word[5], i,
		    hole + 1);
		row_parse(&row, filter);
		must((word[2][0] == '+' ? routes_add(&w, &row) :
		    routes_del(&w, &row)) == 0, "row");
		if (++rows % 4000 == 0) {
			routes_send(k, &w, false);
			routes_start(&w, word[1], ++seq, false);
		}
	}
	routes_send(k, &w, strchr(word[1], 'e') != NULL);
	printf("{\"event\":\"sent\",\"seq\":%" PRIu64 "}\n", seq);
}

static void
do_raw(struct fake *k, unsigned kind, const char *hex)
{
	size_t		n;
	unsigned	byte, tries;
	int		rc;

	for (n = 0; sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
		body[n] = (uint8_t)byte;
	/* A router that has no time yet has its queue full of it. */
	for (tries = 0, rc = -1; rc < 0 && tries < 10000; tries++) {
		rc = kind < 32 ? bus_stream_send(k->router, (enum kind)kind,
		    body, n, NULL) : bus_send(k->router, (enum kind)kind, body,
		    n);
		if (rc < 0)
			usleep(1000);
	}
	must(rc == 0, "raw");
}

static void
reader_close(struct fake *k)
{
	fib_reader_close(&k->reader);
	shm_close(&k->data);
	shm_close(&k->epochs);
}

static void
do_map(struct fake *k)
{
	if (k->reader != NULL)
		reader_close(k);
	must(generation != 0, "no generation");
	must(shm_map(&k->data, dup(generation_fds[0]),
	    SHM_PRIVATE_WRITE) == 0, "map data");
	must(shm_map(&k->epochs, dup(generation_fds[1]), SHM_SHARED) == 0,
	    "map epochs");
	must(fib_reader_open(&k->reader, k->data.base, k->data.len,
	    k->epochs.base, k->epochs.len, k->incarnation) == 0,
	    "fib_reader_open");
	must(fib_reader_generation(k->reader) == generation, "generation");
	k->generation = generation;
}

static void
do_confirm(struct fake *k)
{
	FibConfirm	 c = FibConfirm_init_zero;
	uint8_t		 buf[FibConfirm_size];
	pb_ostream_t	 out = pb_ostream_from_buffer(buf, sizeof(buf));

	c.generation = k->generation;
	must(pb_encode(&out, FibConfirm_fields, &c), "FibConfirm");
	must(bus_send(k->router, KIND_FIB_CONFIRM, buf,
	    out.bytes_written) == 0, "bus_send");
}

static void
say_dest(const struct fake *k, unsigned slot, bool *first)
{
	struct fib_slot	d;

	if (fib_slot(k->reader, slot, &d) < 0)
		return;
	printf("%s\"%s.%" PRIu32 "%s\"", *first ? "" : ",",
	    d.kind == FIB_LISTENER ? "listener" : "session_store", d.instance,
	    d.state == FIB_UP ? "" : "!");
	*first = false;
}

static void
say_group(const struct fake *k, const struct fib_group *g, bool first)
{
	struct fib_slot	d;
	bool		comma = false;
	size_t		i;

	printf("%s\"%016" PRIx64 "%016" PRIx64 "\":{", first ? "" : ",",
	    g->id_hi, g->id_lo);
	for (i = 0; i < g->nslots; i++) {
		if (fib_slot(k->reader, g->slots[i].slot, &d) < 0)
			continue;
		printf("%s\"%s.%" PRIu32 "%s\":%" PRIu32, comma ? "," : "",
		    d.kind == FIB_LISTENER ? "listener" : "session_store",
		    d.instance, d.state == FIB_UP ? "" : "!",
		    g->slots[i].members);
		comma = true;
	}
	printf("}");
}

static void
do_match(struct fake *k, const char *topic)
{
	struct fib_match	m;
	uint64_t		before, retries = 0;
	unsigned		slot;
	size_t			i;
	bool			first = true;

	for (;;) {
		fib_enter(k->reader);
		before = fib_reader_probes(k->reader);
		fib_match(k->reader, topic, strlen(topic), &m);
		if (fib_leave(k->reader))
			break;
		retries++;
	}
	printf("{\"event\":\"match\",\"retries\":%" PRIu64 ",\"probes\":%"
	    PRIu64 ",\"dests\":[", retries,
	    fib_reader_probes(k->reader) - before);
	for (slot = 0; slot < FIB_WORD_SLOTS; slot++)
		if (m.slots >> slot & 1)
			say_dest(k, slot, &first);
	for (i = 0; i < m.nmore; i++)
		say_dest(k, m.more[i], &first);
	printf("],\"groups\":{");
	for (i = 0; i < m.ngroups; i++)
		say_group(k, &m.groups[i], i == 0);
	printf("},\"short\":%s}\n", m.groups_short ? "true" : "false");
}

static void
say_id(const char *name, const char *filter)
{
	struct group_id	id = group_id_of(name, strlen(name), filter,
	    strlen(filter));

	printf("{\"event\":\"id\",\"id\":\"%016" PRIx64 "%016" PRIx64
	    "\"}\n", id.hi, id.lo);
}

static void
do_ping(uint64_t seq)
{
	size_t	i;

	msg.kind = KIND_SUP_PING;
	msg.u.ping.seq = seq;
	for (i = 0; i < CONNS_MAX; i++)
		if (conns[i].fd >= 0 && conns[i].router)
			(void)sup_send(conns[i].fd, &msg, NULL, 0);
}

static void
do_links(struct fake *k, char **word, size_t n)
{
	static uint8_t	 buf[LINK_STATE_BUF];
	struct wire_out	 w;
	struct link_flow flow;
	size_t		 i, len;

	must(n >= 1, "links");
	link_state_begin(&w, buf, sizeof(buf), (uint32_t)atoi(word[0]));
	for (i = 1; i < n; i++) {
		len = strcspn(word[i], "=");
		flow = (struct link_flow){ { (uint8_t *)word[i], len },
		    strcmp(word[i] + len, "=1") == 0 };
		must(link_state_add(&w, &flow) == 0, word[i]);
	}
	must(bus_send(k->router, KIND_LINK_STATE, buf, wire_out_len(&w)) == 0,
	    "bus_send");
}

/* --- Commands ---------------------------------------------------------------------- */

static void
fake_command(const char *what, char **word, size_t n)
{
	struct fake	*k;

	must(n >= 1, what);
	k = fake_of(word[0]);
	if (strcmp(what, "close") == 0)
		fake_close(k);
	else if (strcmp(what, "connect") == 0)
		fake_connect(k);
	else if (strcmp(what, "routes") == 0)
		do_routes(k, word + 1, n - 1);
	else if (strcmp(what, "bulk") == 0)
		do_bulk(k, word + 1, n - 1);
	else if (strcmp(what, "raw") == 0 && n >= 2)
		do_raw(k, (unsigned)atoi(word[1]), n > 2 ? word[2] : "");
	else if (strcmp(what, "links") == 0)
		do_links(k, word + 1, n - 1);
	else if (strcmp(what, "map") == 0 || strcmp(what, "read") == 0)
		do_map(k);
	else if (strcmp(what, "enter") == 0)
		fib_enter(k->reader);
	else if (strcmp(what, "leave") == 0)
		printf("{\"event\":\"left\",\"valid\":%s}\n",
		    fib_leave(k->reader) ? "true" : "false");
	else if (strcmp(what, "match") == 0 && n == 2)
		do_match(k, word[1]);
	else
		must(false, what);
	if (strcmp(what, "read") == 0)
		do_confirm(k);
}

static void
command(char **word, size_t n)
{
	const char	*what = word[0];

	if (strcmp(what, "run") == 0)
		router_run();
	else if (strcmp(what, "signal") == 0 && n == 2)
		kill(router_pid, atoi(word[1]));
	else if (strcmp(what, "peer") == 0 && n == 4)
		peer_set(word[1], strtoull(word[2], NULL, 10),
		    (unsigned)atoi(word[3]));
	else if (strcmp(what, "unpeer") == 0 && n == 2)
		peer_drop(word[1]);
	else if (strcmp(what, "peers") == 0)
		peers_tell();
	else if (strcmp(what, "open") == 0 && n == 3)
		fake_open(word[1], strtoull(word[2], NULL, 10));
	else if (strcmp(what, "id") == 0 && n == 3)
		say_id(word[1], word[2]);
	else if (strcmp(what, "ping") == 0 && n == 2)
		do_ping(strtoull(word[1], NULL, 10));
	else
		fake_command(what, word + 1, n - 1);
	printf("{\"event\":\"done\"}\n");
}

static void
on_line(char *s)
{
	static char	*word[WORDS_MAX];
	char		*save = NULL, *w;
	size_t		 n = 0;

	for (w = strtok_r(s, " ", &save); w != NULL && n < WORDS_MAX;
	    w = strtok_r(NULL, " ", &save))
		word[n++] = w;
	if (n > 0)
		command(word, n);
}

static void
on_stdin(EV_P_ ev_io *w, int revents UNUSED)
{
	ssize_t	n = read(w->fd, line + line_len, sizeof(line) - line_len);
	char	*end;
	size_t	 len;

	if (n <= 0) {
		if (router_pid > 0)
			kill(router_pid, SIGKILL);
		ev_break(EV_A_ EVBREAK_ALL);
		return;
	}
	line_len += (size_t)n;
	while ((end = memchr(line, '\n', line_len)) != NULL) {
		*end = '\0';
		len = (size_t)(end + 1 - line);
		on_line(line);
		memmove(line, line + len, line_len - len);
		line_len -= len;
	}
	must(line_len < sizeof(line), "line too long");
}

int
main(int argc, char **argv)
{
	struct conf_error	e;
	ev_io			in, sup;
	ev_child		child;
	int			i;

	must(argc >= 2, "usage: router_rig PROGRAM [key=value]...");
	setvbuf(stdout, NULL, _IOLBF, 0);
	program = argv[1];
	log_init("rig", LOG_L_WARN);
	conf_init(&conf);
	must(conf_set_option(&conf, "node.name=rig@127.0.0.1", &e) == 0,
	    "conf");
	for (i = 2; i < argc; i++)
		must(conf_set_option(&conf, argv[i], &e) == 0, argv[i]);
	signal(SIGPIPE, SIG_IGN);
	loop = ev_default_loop(EVFLAG_NOENV);
	supervisor_open(&sup);
	ev_io_init(&in, on_stdin, STDIN_FILENO, EV_READ);
	ev_io_start(loop, &in);
	ev_child_init(&child, on_child, 0, 0);
	ev_child_start(loop, &child);
	ev_run(loop, 0);
	return 0;
}

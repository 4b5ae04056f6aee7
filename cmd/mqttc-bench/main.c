/*
 * mqttc-bench: a load for any MQTT broker, what arrived of it, how fast, and
 * what the broker paid. This file is the command line.
 */
#include <sys/resource.h>

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "bench.h"

static const char usage[] =
    "usage: mqttc-bench [-hV] load [option ...]\n";

static const char help[] =
"\n"
"loads\n"
"  pairs              publishers and subscribers two by two (--clients pairs)\n"
"  fanout             one publisher to --subscribers\n"
"  fanin              --publishers to one subscriber\n"
"  shared             --publishers to --groups of --members each, where each\n"
"                     message goes to one member of every group ($share)\n"
"  wildcard           --filters over --subscribers; --publishers to topics that\n"
"                     one of them matches\n"
"  idle               hold --clients N[,N...] with --filters N[,N...]: memory\n"
"  connect            make --clients connections\n"
"  churn              --clients connect and disconnect again and again\n"
"options\n"
"  --host NAME        where the broker is (127.0.0.1)\n"
"  --port P[,P...]    its ports, in turn (1883)\n"
"  --pub-port, --sub-port P[,P...]\n"
"                     the same for publishers or subscribers alone\n"
"  --mqtt 3.1.1|5     protocol version (3.1.1)\n"
"  --username NAME    who to be; the password is MQTTC_BENCH_PASSWORD\n"
"  --qos 0|1|2        (0)         --size BYTES    of a payload (64)\n"
"  --clients N        --subscribers N  --publishers N  --filters N\n"
"  --groups N         --members N\n"
"  --rate R           messages a second of each publisher; connections a\n"
"                     second of connect and churn\n"
"  --window N         QoS 1 and 2: unacknowledged messages of a publisher (100)\n"
"  --outstanding N    undelivered messages of a publisher, 0 for no bound\n"
"  --burst N          publish when at least N are allowed\n"
"  --handshakes N     connections being made at once by a process (64)\n"
"  --seconds S        how long to measure (3)\n"
"  --warmup S         how long before that not to (0.5)\n"
"  --count N          messages of each publisher, whatever time it takes\n"
"  --patience S       what is not delivered by then is lost (2)\n"
"  --settle S         idle: wait before memory is read (1)\n"
"  --procs N          processes to share the load (as many as it needs)\n"
"  --sources N        source addresses from 127.0.0.2 on (as many as it needs)\n"
"  --nameless         let the broker choose the client identifiers\n"
"  --durable          sessions of subscribers outlive their connections\n"
"  --prefix TEXT      begins client identifiers and topics (bench and the pid)\n"
"  --pid P[,P...]     the broker's processes: their CPU and memory\n"
"  --wait, --hold     before and after the traffic say so, await a line\n"
"  --json             one JSON object a line\n"
"  --quiet            no progress on stderr\n";

const char *const mode_names[NMODES] = {
	[PAIRS] = "pairs", [FANOUT] = "fanout", [FANIN] = "fanin",
	[SHARED] = "shared", [WILDCARD] = "wildcard", [IDLE] = "idle",
	[CONNECT] = "connect", [CHURN] = "churn",
};

struct options opt = {
	.host = "127.0.0.1", .version = 4, .window = 100, .size = 64,
	.seconds = 3, .warmup = 0.5, .patience = 2, .settle = 1,
	.handshakes = 64,
};

struct tally *tally;

void
fail(int code, const char *fmt, ...)
{
	char	text[sizeof(tally->why)];
	va_list	ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (tally != NULL) {
		memcpy(tally->why, text, sizeof(text));
		_exit(code);
	}
	fprintf(stderr, "mqttc-bench: %s\n", text);
	if (code == EX_USAGE)
		fputs(usage, stderr);
	exit(code);
}

void *
zalloc(size_t n, size_t size)
{
	void	*p = calloc(n ? n : 1, size);

	if (p == NULL)
		fail(EX_OSERR, "out of memory");
	return p;
}

/* --- Values -------------------------------------------------------------- */

static double
number_parse(const char *name, const char *s, double least, double most)
{
	char	*end;
	double	 v = strtod(s, &end);

	if (end == s || *end != '\0' || !(v >= least && v <= most))
		fail(EX_USAGE, "--%s: '%s' is not a number from %.10g to %.10g",
		    name, s, least, most);
	return v;
}

static uint64_t
whole_parse(const char *name, const char *s, double least, double most)
{
	double	v = number_parse(name, s, least, most);

	if (v != (double)(uint64_t)v)
		fail(EX_USAGE, "--%s: '%s' is not a whole number", name, s);
	return (uint64_t)v;
}

static struct list
list_parse(const char *name, const char *s, uint64_t least, uint64_t most)
{
	struct list	 l = { 0 };
	char		*end;

	do {
		if (l.n == LIST_MAX)
			fail(EX_USAGE, "--%s: more than %d values", name,
			    LIST_MAX);
		l.v[l.n] = strtoull(s, &end, 10);
		if (*s < '0' || *s > '9' || (*end != ',' && *end != '\0') ||
		    l.v[l.n] < least || l.v[l.n] > most)
			fail(EX_USAGE, "--%s: '%s' is not a list of numbers "
			    "from %llu to %llu", name, s,
			    (unsigned long long)least,
			    (unsigned long long)most);
		l.n++;
		s = end + 1;
	} while (*end == ',');
	return l;
}

static unsigned
version_parse(const char *s)
{
	if (strcmp(s, "3.1.1") == 0 || strcmp(s, "4") == 0)
		return 4;
	if (strcmp(s, "5") == 0 || strcmp(s, "5.0") == 0)
		return 5;
	fail(EX_USAGE, "--mqtt: '%s' is neither 3.1.1 nor 5", s);
}

static const char *
prefix_parse(const char *s)
{
	if (*s == '\0' || *s == '$' || strlen(s) > 40 ||
	    strpbrk(s, "+#") != NULL)
		fail(EX_USAGE, "--prefix: '%s' cannot begin topics, or is "
		    "longer than 40 bytes", s);
	return s;
}

/* --- Options ------------------------------------------------------------- */

enum { O_HOST = 256, O_PORT, O_PUB_PORT, O_SUB_PORT, O_MQTT, O_USERNAME, O_QOS,
    O_SIZE, O_PREFIX, O_WINDOW, O_OUTSTANDING, O_BURST, O_RATE, O_COUNT,
    O_SECONDS, O_WARMUP, O_PATIENCE, O_SETTLE, O_PROCS, O_SOURCES, O_PID,
    O_WAIT, O_HOLD, O_JSON, O_QUIET, O_CLIENTS, O_FILTERS, O_PUBLISHERS,
    O_SUBSCRIBERS, O_GROUPS, O_MEMBERS, O_NAMELESS, O_DURABLE,
    O_HANDSHAKES };

static const struct option longs[] = {
	{ "host", 1, NULL, O_HOST }, { "port", 1, NULL, O_PORT },
	{ "pub-port", 1, NULL, O_PUB_PORT },
	{ "sub-port", 1, NULL, O_SUB_PORT },
	{ "mqtt", 1, NULL, O_MQTT }, { "username", 1, NULL, O_USERNAME },
	{ "qos", 1, NULL, O_QOS }, { "size", 1, NULL, O_SIZE },
	{ "prefix", 1, NULL, O_PREFIX }, { "window", 1, NULL, O_WINDOW },
	{ "outstanding", 1, NULL, O_OUTSTANDING },
	{ "burst", 1, NULL, O_BURST }, { "rate", 1, NULL, O_RATE },
	{ "count", 1, NULL, O_COUNT }, { "seconds", 1, NULL, O_SECONDS },
	{ "warmup", 1, NULL, O_WARMUP }, { "patience", 1, NULL, O_PATIENCE },
	{ "settle", 1, NULL, O_SETTLE }, { "procs", 1, NULL, O_PROCS },
	{ "sources", 1, NULL, O_SOURCES }, { "pid", 1, NULL, O_PID },
	{ "wait", 0, NULL, O_WAIT }, { "hold", 0, NULL, O_HOLD },
	{ "json", 0, NULL, O_JSON }, { "quiet", 0, NULL, O_QUIET },
	{ "clients", 1, NULL, O_CLIENTS }, { "filters", 1, NULL, O_FILTERS },
	{ "publishers", 1, NULL, O_PUBLISHERS },
	{ "subscribers", 1, NULL, O_SUBSCRIBERS },
	{ "groups", 1, NULL, O_GROUPS }, { "members", 1, NULL, O_MEMBERS },
	{ "nameless", 0, NULL, O_NAMELESS },
	{ "durable", 0, NULL, O_DURABLE },
	{ "handshakes", 1, NULL, O_HANDSHAKES },
	{ "help", 0, NULL, 'h' }, { "version", 0, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static void
option_take(int c, const char *n)
{
	switch (c) {
	case O_HOST: opt.host = optarg; break;
	case O_PORT:
		opt.pub_ports = opt.sub_ports = list_parse(n, optarg, 1, 65535);
		break;
	case O_PUB_PORT: opt.pub_ports = list_parse(n, optarg, 1, 65535); break;
	case O_SUB_PORT: opt.sub_ports = list_parse(n, optarg, 1, 65535); break;
	case O_MQTT: opt.version = version_parse(optarg); break;
	case O_USERNAME: opt.username = optarg; break;
	case O_QOS: opt.qos = (unsigned)whole_parse(n, optarg, 0, 2); break;
	case O_SIZE:
		opt.size = whole_parse(n, optarg, PAYLOAD_MIN, 1 << 27);
		break;
	case O_PREFIX: opt.prefix = prefix_parse(optarg); break;
	case O_WINDOW:
		opt.window = (unsigned)whole_parse(n, optarg, 1, 32767);
		break;
	case O_OUTSTANDING:
		opt.outstanding = whole_parse(n, optarg, 0, 1e9);
		opt.unbounded = opt.outstanding == 0;
		break;
	case O_BURST: opt.burst = whole_parse(n, optarg, 1, 1e9); break;
	case O_RATE: opt.rate = number_parse(n, optarg, 1e-3, 1e9); break;
	case O_COUNT: opt.count = whole_parse(n, optarg, 1, 4e9); break;
	case O_SECONDS: opt.seconds = number_parse(n, optarg, 0, 1e6); break;
	case O_WARMUP: opt.warmup = number_parse(n, optarg, 0, 1e6); break;
	case O_PATIENCE: opt.patience = number_parse(n, optarg, 1e-3, 1e6); break;
	case O_SETTLE: opt.settle = number_parse(n, optarg, 0, 1e6); break;
	case O_PROCS:
		opt.procs = (unsigned)whole_parse(n, optarg, 1, PROCS_MAX);
		break;
	case O_SOURCES:
		opt.sources = (unsigned)whole_parse(n, optarg, 1, SOURCES_MAX);
		break;
	case O_PID: opt.pids = list_parse(n, optarg, 1, 1u << 22); break;
	case O_WAIT: opt.wait = true; break;
	case O_HOLD: opt.hold = true; break;
	case O_NAMELESS: opt.nameless = true; break;
	case O_DURABLE: opt.durable = true; break;
	case O_JSON: opt.json = true; break;
	case O_QUIET: opt.quiet = true; break;
	case O_CLIENTS:
		opt.clients = list_parse(n, optarg, 1, CLIENTS_MAX);
		break;
	case O_FILTERS: opt.filters = list_parse(n, optarg, 0, 1e8); break;
	case O_PUBLISHERS:
		opt.publishers = (unsigned)whole_parse(n, optarg, 1, 1e6);
		break;
	case O_SUBSCRIBERS:
		opt.subscribers = (unsigned)whole_parse(n, optarg, 1, 1e6);
		break;
	case O_GROUPS:
		opt.groups = (unsigned)whole_parse(n, optarg, 1, 1e5);
		break;
	case O_MEMBERS:
		opt.members = (unsigned)whole_parse(n, optarg, 1, 1e5);
		break;
	case O_HANDSHAKES:
		opt.handshakes = (unsigned)whole_parse(n, optarg, 1, 1e6);
		break;
	case 'h':
		fputs(usage, stdout);
		fputs(help, stdout);
		exit(0);
	case 'V':
		puts("mqttc-bench " MQTTC_VERSION);
		exit(0);
	default:
		fputs(usage, stderr);
		exit(EX_USAGE);
	}
}

/* --- What was not said --------------------------------------------------- */

/* Clients of each kind, and the bound of what is under way. */
static void
defaults(void)
{
	static const struct {
		unsigned	p, s, clients, outstanding;
	} of[NMODES] = {
		[PAIRS] = { 0, 0, 10, 1000 }, [FANOUT] = { 1, 1000, 0, 20 },
		[FANIN] = { 1000, 1, 0, 1 }, [SHARED] = { 10, 0, 0, 100 },
		[WILDCARD] = { 10, 1000, 0, 100 },
		[IDLE] = { 0, 0, 1000, 0 }, [CONNECT] = { 0, 0, 1000, 0 },
		[CHURN] = { 0, 0, 50, 0 },
	};
	enum mode	m = opt.mode;
	unsigned	i;

	if (opt.clients.n == 0)
		opt.clients = (struct list){ 1, { of[m].clients } };
	if (opt.filters.n == 0 && m == WILDCARD)
		opt.filters = (struct list){ 1, { 100000 } };
	if (opt.publishers == 0)
		opt.publishers = of[m].p;
	if (opt.subscribers == 0)
		opt.subscribers = of[m].s;
	if (m == SHARED) {
		opt.groups = MAX(opt.groups, 1u);
		opt.members = opt.members > 0 ? opt.members : 10;
		opt.subscribers = MIN((uint64_t)opt.groups * opt.members,
		    CLIENTS_MAX);
	}
	if (m == PAIRS)
		opt.publishers = opt.subscribers = (unsigned)opt.clients.v[0];
	if (m == IDLE || m == CONNECT || m == CHURN) {
		opt.publishers = opt.subscribers = 0;
		for (i = 0; i < opt.clients.n; i++)
			opt.subscribers = MAX(opt.subscribers,
			    (unsigned)opt.clients.v[i]);
	}
	if (opt.outstanding == 0 && !opt.unbounded)
		opt.outstanding = of[m].outstanding;
	if (opt.burst == 0)
		opt.burst = opt.qos == 0 ? MAX(opt.outstanding / 2, 1u) : 1;
	if (opt.outstanding > 0)
		opt.burst = MIN(opt.burst, opt.outstanding);
	if (opt.pub_ports.n == 0)
		opt.pub_ports = (struct list){ 1, { 1883 } };
	if (opt.sub_ports.n == 0)
		opt.sub_ports = opt.pub_ports;
	opt.password = getenv("MQTTC_BENCH_PASSWORD");
}

/* Processes and addresses enough for all connections. */
static void
spread(void)
{
	uint64_t	total, most = PER_PROCESS, ports = opt.sub_ports.n;
	struct rlimit	rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
		if (rl.rlim_max != RLIM_INFINITY)
			most = rl.rlim_max > 64 ? rl.rlim_max - 64 : 1;
	}
	total = (uint64_t)opt.publishers + opt.subscribers;
	if (opt.procs == 0) {
		opt.procs = 1;
		if (opt.mode != FANOUT && opt.mode != FANIN)
			opt.procs = (unsigned)MIN((uint64_t)PROCS_MAX, (total +
			    MIN(most, PER_PROCESS) - 1) /
			    MIN(most, (uint64_t)PER_PROCESS));
	}
	if (opt.mode == FANOUT)
		opt.publishers = opt.procs;
	if (opt.mode == FANIN)
		opt.subscribers = opt.procs;
	if ((total + opt.procs - 1) / opt.procs > most)
		fail(EX_USAGE, "%llu connections in %u processes: each may "
		    "have %llu (ulimit -Hn); use --procs",
		    (unsigned long long)total, opt.procs,
		    (unsigned long long)most);
	if (opt.sources == 0 && strncmp(opt.host, "127.", 4) == 0)
		opt.sources = opt.mode == CHURN ? 32 : (unsigned)(1 +
		    total / ports / PER_PROCESS);
	opt.sources = MAX(opt.sources, 1u);
}

/* What would end badly later. */
static void
check(void)
{
	uint64_t	filters = 0;
	unsigned	i;

	if (opt.mode != IDLE && opt.clients.n > 1)
		fail(EX_USAGE, "--clients: only idle takes several numbers");
	if (opt.mode != IDLE && opt.mode != WILDCARD && opt.filters.n > 0)
		fail(EX_USAGE, "--filters is for idle and wildcard");
	if (opt.mode == WILDCARD && (opt.filters.n > 1 ||
	    opt.filters.v[0] < opt.subscribers))
		fail(EX_USAGE, "--filters: want one number, and at least a "
		    "filter for each of %u subscribers", opt.subscribers);
	for (i = 0; i < opt.filters.n; i++)
		filters = MAX(filters, opt.filters.v[i]);
	if (opt.mode != SHARED && opt.groups + opt.members > 0)
		fail(EX_USAGE, "--groups and --members are for shared");
	if (opt.mode == SHARED && opt.subscribers !=
	    (uint64_t)opt.groups * opt.members)
		fail(EX_USAGE, "more than %d members", CLIENTS_MAX);
	if (opt.subscribers > 0 &&
	    filters / opt.subscribers > 65000)
		fail(EX_USAGE, "--filters: more than 65000 for one client");
	if (opt.mode != PAIRS &&
	    (uint64_t)opt.publishers * opt.subscribers > 50000000)
		fail(EX_USAGE, "more than 50000000 pairs of publisher and "
		    "subscriber to keep count of");
	if (opt.procs > (opt.mode == SHARED ? opt.members : opt.subscribers) ||
	    (opt.publishers > 0 && opt.procs > opt.publishers))
		fail(EX_USAGE, "--procs: more than there are clients");
	if (opt.password != NULL && opt.username == NULL)
		opt.password = NULL;
	if (strlen(opt.username ? opt.username : "") > 1000 ||
	    strlen(opt.password ? opt.password : "") > 1000)
		fail(EX_USAGE, "a user name or password is longer than 1000");
}

int
main(int argc, char **argv)
{
	static char	prefix[32];
	int		c, at = -1;

	while ((c = getopt_long(argc, argv, "hV", longs, &at)) != -1) {
		option_take(c, at < 0 ? "" : longs[at].name);
		at = -1;
	}
	if (optind == argc)
		fail(EX_USAGE, "which load?");
	if (optind + 1 < argc)
		fail(EX_USAGE, "'%s': one load at a time", argv[optind + 1]);
	for (opt.mode = 0; opt.mode < NMODES; opt.mode++)
		if (strcmp(argv[optind], mode_names[opt.mode]) == 0)
			break;
	if (opt.mode == NMODES)
		fail(EX_USAGE, "there is no load '%s'", argv[optind]);
	if (opt.prefix == NULL) {
		snprintf(prefix, sizeof(prefix), "bench%x",
		    (unsigned)getpid());
		opt.prefix = prefix;
	}
	defaults();
	spread();
	check();
	signal(SIGPIPE, SIG_IGN);
	return run();
}

/*
 * bench_fib: the forwarding index at size. Prints memory, matches and updates a
 * second (of CPU), and the machine; passes no judgement.
 *
 *   bench_fib [routes [seconds]]		default 1000000 routes, 3 s
 *
 * Routes are wildcard filters of the kinds devices use: each has an anchor of
 * its own (dev/<n>/+/temp, dev/<n>/#), which is what costs most. Topics are
 * three or four levels, of known devices, in random order, a million of them so
 * that looks miss the cache.
 */
#include <sys/mman.h>
#include <sys/wait.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "rib/rib.h"
#include "shm/segment.h"

#define BATCH	32

static uint64_t seed = 88172645463325252u;

static uint64_t
rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

static void
check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_fib: %s: %s\n", what, err_str(rc));
	exit(1);
}

static double
seconds_since(uint64_t start_ns)
{
	return (double)(clock_mono_ns() - start_ns) / 1e9;
}

/* Rates are per second of CPU, so that what else runs counts less. */
static double
cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static size_t
route_text(char *out, size_t size, uint64_t i)
{
	return (size_t)snprintf(out, size, i & 1 ? "dev/%07" PRIu64 "/+/temp" :
	    "dev/%07" PRIu64 "/#", i);
}

static size_t
topic_text(char *out, size_t size, uint64_t i)
{
	return (size_t)snprintf(out, size, i & 1 ? "dev/%07" PRIu64
	    "/room5/temp" : "dev/%07" PRIu64 "/room5/temp/now", i);
}

/* --- Reading --------------------------------------------------------- */

#define TOPICS	(1u << 20)

struct topics {
	char		text[TOPICS][40];
	struct slice	slice[TOPICS];
};

static struct topics *
topics_new(uint64_t routes)
{
	struct topics	*t = malloc(sizeof(*t));
	unsigned	 i;

	for (i = 0; i < TOPICS; i++) {
		t->slice[i].len = topic_text(t->text[i], sizeof(t->text[i]),
		    rnd() % routes);
		t->slice[i].data = (uint8_t *)t->text[i];
	}
	return t;
}

struct result {
	double		rate, found, probes;
	uint64_t	evicted;
};

static struct result
read_for(struct fib_reader *r, const struct topics *t, unsigned batch,
    double seconds, atomic_uint *stop,
    unsigned round)
{
	struct fib_match m[BATCH];
	struct result	 res = { 0, 0, 0, 0 };
	uint64_t	 start = clock_mono_ns(), n = 0, found = 0, p0;
	unsigned	 at = 0, i, turn;
	double		 cpu = cpu_seconds();

	p0 = fib_reader_probes(r);
	while (seconds_since(start) < seconds &&
	    (stop == NULL || atomic_load(stop) < round))
		for (turn = 0; turn < 16; turn++) {
			fib_enter(r);
			if (batch == 1)
				fib_match(r, t->slice[at].data,
				    t->slice[at].len, m);
			else
				fib_match_batch(r, &t->slice[at], batch, m);
			if (!fib_leave(r))
				res.evicted++;
			for (i = 0; i < batch; i++)
				found += m[i].slots != 0;
			n += batch;
			at = (at + batch) % TOPICS;
		}
	res.rate = (double)n / (cpu_seconds() - cpu);
	res.found = (double)found / (double)n;
	res.probes = (double)(fib_reader_probes(r) - p0) / (double)n;
	return res;
}

/* --- Writing --------------------------------------------------------- */

struct bed {
	struct shm_segment data, epochs;
	struct fib_writer *w;
	struct rib	*rib;
	unsigned	 owners[4];
};

static void
bed_open(struct bed *b)
{
	struct fib_writer_opts o = { 0 };
	struct rib_opts	ro = { 0 };
	unsigned	i;

	check(shm_create(&b->data, "fib", FIB_LEN_DEFAULT, SHM_PRIVATE_WRITE),
	    "segment");
	check(shm_create(&b->epochs, "epochs", FIB_EPOCHS_LEN, SHM_SHARED),
	    "epochs");
	o.data = b->data.base;
	o.len = b->data.len;
	o.epochs = b->epochs.base;
	o.epochs_len = b->epochs.len;
	o.generation = 1;
	o.key = (struct fib_key){ rnd(), rnd(), 0 };
	o.grow = shm_grow_cb;
	o.grow_ctx = &b->data;
	check(fib_writer_open(&b->w, &o), "writer");
	ro.key = o.key;
	check(rib_new(&b->rib, &ro), "rib");
	check(rib_attach(b->rib, b->w), "attach");
	for (i = 0; i < 4; i++) {
		struct fib_slot d = { FIB_LISTENER, FIB_UP, 0, i, i + 1 };

		check(rib_owner_open(b->rib, &d, &b->owners[i]), "owner");
	}
}

/* One update is one route added or one removed; a turn is 64 of them. */
static double
update_rib(struct bed *b, uint64_t routes, double seconds)
{
	uint64_t	start = clock_mono_ns(), n = 0, i;
	char		f[64];
	size_t		len;
	unsigned	k;
	double		cpu = cpu_seconds();

	while (seconds_since(start) < seconds) {
		for (k = 0; k < 32; k++) {
			i = rnd() % routes;
			len = route_text(f, sizeof(f), i);
			check(rib_del(b->rib, b->owners[i % 4], f, len), "del");
			check(rib_add(b->rib, b->owners[i % 4], f, len, 1),
			    "add");
		}
		n += 64;
		fib_reclaim(b->w, clock_mono_ns() / 1000000);
	}
	return (double)n / (cpu_seconds() - cpu);
}

/* The index alone: terminal and anchor out, terminal and anchor in. */
static double
update_fib(struct bed *b, uint64_t routes, double seconds)
{
	uint64_t	start = clock_mono_ns(), n = 0, i;
	struct fib_dests none = { 0 }, d = { 0 };
	struct fib_cut	cut;
	char		f[64];
	size_t		len;
	unsigned	k;
	double		cpu = cpu_seconds();

	while (seconds_since(start) < seconds) {
		for (k = 0; k < 32; k++) {
			i = rnd() % routes;
			len = route_text(f, sizeof(f), i);
			fib_cut(fib_writer_key(b->w), f, len, &cut);
			d.slots = (uint64_t)1 << i % 4;
			check(fib_anchor_put(b->w, cut.anchor,
			    fib_levels(cut.anchor_levels), NULL, 0), "del");
			check(fib_put(b->w, cut.fp, &none), "del");
			check(fib_put(b->w, cut.fp, &d), "add");
			check(fib_anchor_put(b->w, cut.anchor,
			    fib_levels(cut.anchor_levels), &cut.shape, 1),
			    "add");
		}
		n += 64;
		fib_reclaim(b->w, clock_mono_ns() / 1000000);
	}
	return (double)n / (cpu_seconds() - cpu);
}

/* The reader is another process, forked while there is nothing private to
 * copy; both count rounds. */
struct shared {
	atomic_uint	go, ready, stop, done;
	struct result	result[2];
};

static void
wait_for(atomic_uint *a, unsigned round)
{
	while (atomic_load(a) < round)
		usleep(1000);
}

static void
reader_process(struct bed *b, uint64_t routes, struct shared *s)
{
	struct shm_segment data, epochs;
	struct fib_reader *r;
	struct topics	*t = topics_new(routes);
	unsigned	 round;

	check(shm_map(&data, dup(b->data.fd), SHM_PRIVATE_WRITE), "map");
	check(shm_map(&epochs, dup(b->epochs.fd), SHM_SHARED), "map");
	check(fib_reader_open(&r, data.base, data.len, epochs.base, epochs.len,
	    (uint64_t)getpid()), "reader");
	for (round = 1; round <= 2; round++) {
		wait_for(&s->go, round);
		read_for(r, t, BATCH, 0.5, NULL, 0);	/* page tables */
		atomic_store(&s->ready, round);
		s->result[round - 1] = read_for(r, t, BATCH, 1e9, &s->stop,
		    round);
		atomic_store(&s->done, round);
	}
	_exit(0);
}

static void
machine(void)
{
	char	line[256];
	FILE	*f = fopen("/proc/cpuinfo", "r");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, "model name", 10) == 0) {
			printf("machine       %s", strchr(line, ':') + 2);
			break;
		}
	if (f != NULL)
		fclose(f);
	printf("cpus          %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
}

int
main(int argc, char **argv)
{
	uint64_t	 routes, i;
	double		 seconds, rate, cpu;
	struct bed	 b;
	struct fib_reader *r;
	struct topics	*t;
	struct result	 res;
	struct fib_stats st;
	struct rib_stats rs;
	struct shared	*s;
	char		 f[64];
	pid_t		 pid;
	unsigned	 round;

	routes = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
	seconds = argc > 2 ? strtod(argv[2], NULL) : 3;
	machine();
	bed_open(&b);
	s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return 1;
	if ((pid = fork()) == 0)
		reader_process(&b, routes, s);
	cpu = cpu_seconds();
	for (i = 0; i < routes; i++) {
		size_t len = route_text(f, sizeof(f), i);

		check(rib_add(b.rib, b.owners[i % 4], f, len, 1), "add");
		if (i % 64 == 0)
			fib_reclaim(b.w, clock_mono_ns() / 1000000);
	}
	printf("fill          %.0f routes/s\n",
	    (double)routes / (cpu_seconds() - cpu));
	fib_writer_stats(b.w, &st);
	rib_stats(b.rib, &rs);
	printf("routes        %" PRIu64 " (%" PRIu64 " entries)\n", rs.routes,
	    st.entries);
	printf("segment       %.1f MB, %.1f bytes/route\n",
	    (double)st.bytes / 1e6, (double)st.bytes / (double)routes);
	printf("rib, private  %.1f MB, %.1f bytes/route\n",
	    (double)rs.bytes / 1e6, (double)rs.bytes / (double)routes);

	t = topics_new(routes);
	check(fib_reader_open(&r, b.data.base, b.data.len, b.epochs.base,
	    b.epochs.len, 1), "reader");
	res = read_for(r, t, 1, seconds, NULL, 0);
	printf("match, alone  %.2f M/s (%.1f probes, %.0f%% found)\n",
	    res.rate / 1e6, res.probes, res.found * 100);
	res = read_for(r, t, BATCH, seconds, NULL, 0);
	printf("match, by %u  %.2f M/s\n", BATCH, res.rate / 1e6);
	fib_reader_close(&r);

	for (round = 1; round <= 2; round++) {
		atomic_store(&s->go, round);
		wait_for(&s->ready, round);
		rate = round == 2 ? update_rib(&b, routes, seconds) :
		    update_fib(&b, routes, seconds);
		atomic_store(&s->stop, round);
		wait_for(&s->done, round);
		printf("%s %.2f M updates/s beside a reader at %.2f M/s "
		    "(%.0f%% found, %" PRIu64 " evictions)\n",
		    round == 2 ? "rib and fib  " : "fib          ", rate / 1e6,
		    s->result[round - 1].rate / 1e6,
		    s->result[round - 1].found * 100,
		    s->result[round - 1].evicted);
	}
	waitpid(pid, NULL, 0);
	fib_writer_stats(b.w, &st);
	printf("after         %.1f MB, %" PRIu64 " splits, %" PRIu64
	    " rewrites\n", (double)st.bytes / 1e6, st.splits, st.rewrites);
	return 0;
}

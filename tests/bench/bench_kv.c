/*
 * bench_kv: what a checkpoint costs. `bench_kv [RECORDS [VALUE [DIR]]]`: fills
 * a tree in DIR (made, and emptied in the end; default /tmp) with RECORDS
 * (1000000) of VALUE bytes (300), then times
 *
 *	commit	of 1000, 10000 and 100000 random ones, in one transaction
 *	snap	writing idx.snap
 *	check	opening: the walk in a child process
 *	each	walking over all of them
 *	rebuild	opening with the tree gone
 *
 * and prints the largest memory of this process. Beside every commit another
 * thread appends 4 KiB to a file of its own and syncs it, over and over: the
 * latencies are what acknowledgements would see. `strace -fce fsync,fdatasync`
 * counts what is synced.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "kv/snap.h"
#include "kv/tree.h"

static uint8_t	value[1 << 20];
static size_t	value_len = 300;

static double
now_s(void)
{
	return (double)clock_mono_ns() / 1e9;
}

static long
peak_mb(void)
{
	struct rusage	u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_maxrss / 1024;
}

static void
must(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "bench_kv: %s: %s\n", what, err_str(rc));
		exit(1);
	}
}

static int
count(void *ctx, const struct slice *k, const struct slice *v)
{
	*(uint64_t *)ctx += k->len + v->len;
	return 0;
}

static void
put(struct kv_batch *b, unsigned long i, uint8_t salt)
{
	char	key[64];
	int	n = snprintf(key, sizeof(key), "s/client-%010lu",
	    (unsigned long)(i * 2654435761u % 4294967291u));

	value[0] = salt;
	must(kv_batch_put(b, key, (size_t)n, value, value_len), "put");
}

static char		syncs_path[300];
static atomic_bool	syncs_end;
static double		syncs_ms[1 << 20];
static size_t		nsyncs;

static void *
syncs(void *arg)
{
	static uint8_t	page[4096];
	int		fd = open(syncs_path, O_RDWR | O_CREAT, 0600);
	off_t		at = 0;

	(void)arg;
	if (fd < 0 || posix_fallocate(fd, 0, 64 << 20) != 0)
		exit(1);
	fsync(fd);
	for (nsyncs = 0; !atomic_load(&syncs_end) &&
	    nsyncs < sizeof(syncs_ms) / sizeof(syncs_ms[0]); nsyncs++) {
		double	t0 = now_s();

		if (pwrite(fd, page, sizeof(page), at) < 0 ||
		    fdatasync(fd) < 0)
			exit(1);
		at = (at + (off_t)sizeof(page)) % (64 << 20);
		syncs_ms[nsyncs] = (now_s() - t0) * 1e3;
	}
	close(fd);
	return NULL;
}

static int
double_compare(const void *a, const void *b)
{
	double	x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void
commit_some(struct kv_tree *t, struct kv_batch *b, unsigned long n,
    unsigned long of)
{
	unsigned long	i;
	pthread_t	thread;
	double		t0;

	kv_batch_reset(b);
	for (i = 0; i < n; i++)
		put(b, (unsigned long)random() % of, (uint8_t)i);
	b->position = kv_position(t) + n;
	atomic_store(&syncs_end, false);
	if (pthread_create(&thread, NULL, syncs, NULL) != 0)
		exit(1);
	usleep(200000);
	t0 = now_s();
	must(kv_commit(t, b), "commit");
	t0 = (now_s() - t0) * 1e3;
	atomic_store(&syncs_end, true);
	pthread_join(thread, NULL);
	qsort(syncs_ms, nsyncs, sizeof(syncs_ms[0]), double_compare);
	printf("commit %7lu  %8.1f ms, peak %ld MB; %zu syncs beside it: "
	    "p50 %.2f p99 %.2f max %.2f ms\n", n, t0, peak_mb(), nsyncs,
	    syncs_ms[nsyncs / 2], syncs_ms[nsyncs * 99 / 100],
	    syncs_ms[nsyncs - 1]);
}

int
main(int argc, char **argv)
{
	unsigned long	 records = argc > 1 ? strtoul(argv[1], NULL, 10) :
	    1000000, i;
	char		 dir[256], cmd[600];
	struct kv_report r;
	struct kv_tree	*t;
	struct kv_batch	*b = kv_batch_new();
	uint64_t	 bytes = 0;
	double		 t0;

	if (argc > 2)
		value_len = strtoul(argv[2], NULL, 10);
	if (value_len < 1 || value_len > sizeof(value) || records < 1)
		return 64;
	snprintf(dir, sizeof(dir), "%s/bench_kv.XXXXXX",
	    argc > 3 ? argv[3] : "/tmp");
	if (mkdtemp(dir) == NULL) {
		perror(dir);
		return 1;
	}
	snprintf(syncs_path, sizeof(syncs_path), "%s/syncs", dir);
	must(kv_open(&t, dir, NULL, &r), "open");
	t0 = now_s();
	for (i = 0; i < records; i++) {
		put(b, i, 0);
		if (b->n == 20000 || i + 1 == records) {
			b->position = i;
			must(kv_commit(t, b), "fill");
			kv_batch_reset(b);
		}
	}
	printf("fill   %7lu  %8.1f ms, peak %ld MB\n", records,
	    (now_s() - t0) * 1e3, peak_mb());
	commit_some(t, b, 1000, records);
	commit_some(t, b, 1000, records);
	commit_some(t, b, 10000, records);
	commit_some(t, b, 10000, records);
	commit_some(t, b, 100000, records);
	t0 = now_s();
	must(kv_snapshot(t, NULL, NULL), "snapshot");
	printf("snap            %8.1f ms\n", (now_s() - t0) * 1e3);
	kv_close(&t);
	t0 = now_s();
	must(kv_open(&t, dir, NULL, &r), "open");
	printf("check           %8.1f ms%s%s\n", (now_s() - t0) * 1e3,
	    r.opened ? "" : " NOT BELIEVED: ", r.why);
	t0 = now_s();
	must(kv_each(t, count, &bytes), "each");
	printf("each            %8.1f ms, %llu bytes\n", (now_s() - t0) * 1e3,
	    (unsigned long long)bytes);
	kv_close(&t);
	snprintf(cmd, sizeof(cmd), "ls -l %s; rm %s/idx.tcb", dir, dir);
	if (system(cmd) != 0)
		return 1;
	t0 = now_s();
	must(kv_open(&t, dir, NULL, &r), "open");
	printf("rebuild         %8.1f ms%s, peak %ld MB\n",
	    (now_s() - t0) * 1e3, r.rebuilt ? "" : " NOT", peak_mb());
	kv_close(&t);
	kv_batch_free(&b);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd) != 0;
}

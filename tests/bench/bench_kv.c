/*
 * bench_kv: what a checkpoint costs. `bench_kv [RECORDS [VALUE [DIR]]]`: fills
 * a tree in DIR (made, and emptied in the end; default /tmp) with RECORDS
 * (1000000) of VALUE bytes (300), then times
 *
 *	commit	of 1000, 10000 and 100000 random ones of them, in one transaction
 *	snap	writing idx.snap
 *	check	opening: the walk in a child process
 *	each	walking over all of them
 *	rebuild	opening with the tree gone
 *
 * and prints the largest memory of this process. `strace -fce fsync,fdatasync`
 * counts what is synced.
 */
#include <fcntl.h>
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

static void
commit_some(struct kv_tree *t, struct kv_batch *b, unsigned long n,
    unsigned long of)
{
	unsigned long	i;
	double		t0;

	kv_batch_reset(b);
	for (i = 0; i < n; i++)
		put(b, (unsigned long)random() % of, (uint8_t)i);
	b->position = kv_position(t) + n;
	t0 = now_s();
	must(kv_commit(t, b), "commit");
	printf("commit %7lu  %8.1f ms, peak %ld MB\n", n,
	    (now_s() - t0) * 1e3, peak_mb());
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

/*
 * bench_rlog: rows through a writer, two more cores and a replicant, in one
 * process. Prints memory and time (of CPU, of all nodes together); passes no
 * judgement.
 *
 *   bench_rlog [rows [replicants]]		default 1000000 1
 *
 * Keys are filters like dev/00000042/+/set, values two bytes.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "rlog/message.h"
#include "rlog/rlog.h"

enum { CORES = 3, REPLICANTS_MAX = 60, BUF = 512 * 1024, ROUND = 2000 };

struct node {
	struct rlog	   *r;
	struct rlog_stream *own;
	uint64_t	    acked, told;
};

struct wire {
	struct rlog_link *l[2];
	unsigned	  n[2];
};

static struct node  nodes[CORES + REPLICANTS_MAX + 1];
static struct wire  wires[CORES * CORES + REPLICANTS_MAX + 1];
static unsigned	    nnodes, nwires;
static uint8_t	    buf[BUF];
static uint64_t	    carried, messages;

static void
check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_rlog: %s: %s\n", what, err_str(rc));
	exit(1);
}

static double
cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double
allocated(void)
{
	struct mallinfo2 m = mallinfo2();

	return (double)m.uordblks + (double)m.hblkhd;
}

static int
on_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row)
{
	(void)s;
	(void)row;
	((struct node *)ctx)->told++;
	return 0;
}

static void
on_acked(void *ctx, struct rlog_stream *s, uint64_t seq)
{
	(void)s;
	((struct node *)ctx)->acked = seq;
}

static void
on_wake(void *ctx, struct rlog_link *l)
{
	(void)ctx;
	(void)l;
}

static const struct rlog_calls calls = {
	on_row, on_acked, on_wake, NULL, NULL
};

static unsigned
start(bool core)
{
	struct node	*n = &nodes[nnodes];
	struct rlog_opts o = {
		.node = nnodes + 1, .incarnation = 1, .core = core,
		.tombstones = 1u << 20, .seed = 4711, .calls = &calls,
		.ctx = n,
	};

	check(rlog_new(&n->r, &o), "rlog_new");
	check(rlog_open(n->r, 1, NULL, NULL, &n->own), "rlog_open");
	return nnodes++;
}

static void
link_nodes(unsigned a, unsigned b)
{
	struct wire *w = &wires[nwires++];

	w->n[0] = a;
	w->n[1] = b;
	check(rlog_link_open(nodes[a].r, b + 1, 1, w, &w->l[0]), "link");
	check(rlog_link_open(nodes[b].r, a + 1, 1, w, &w->l[1]), "link");
}

static bool
carry(void)
{
	unsigned k, side;
	size_t	 len;
	bool	 any = false;

	for (k = 0; k < nwires; k++)
		for (side = 0; side < 2; side++) {
			len = rlog_next(wires[k].l[side], buf, BUF, true);
			if (len == 0)
				continue;
			any = true;
			carried += len;
			messages++;
			check(rlog_take(wires[k].l[!side], buf, len), "take");
		}
	return any;
}

static void
settle(void)
{
	unsigned i;
	bool	 any = true;

	while (any) {
		any = carry();
		for (i = 0; i < nnodes; i++)
			any |= rlog_tidy(nodes[i].r, 1000) == 1;
	}
}

static void
change(unsigned node, uint64_t i, bool del, char value)
{
	char	     key[64], v[2] = { 1, value };
	struct slice k = { (const uint8_t *)key, 0 };

	k.len = (size_t)snprintf(key, sizeof(key), "dev/%08" PRIu64 "/+/set",
	    i);
	if (del)
		check(rlog_del(nodes[node].own, k, NULL), "del");
	else
		check(rlog_put(nodes[node].own, k, (struct slice){
		    (const uint8_t *)v, sizeof(v) }, NULL), "put");
}

static void
report(const char *what, uint64_t n, double s)
{
	printf("%-34s %9.0f changes/s of CPU, %5.1f bytes and %.4f messages "
	    "a change\n", what, (double)n / s, (double)carried / (double)n,
	    (double)messages / (double)n);
	carried = messages = 0;
}

int
main(int argc, char **argv)
{
	uint64_t	   rows = argc > 1 ? strtoull(argv[1], NULL, 10) :
	    1000000, i, step;
	unsigned	   replicants = argc > 2 ? (unsigned)atoi(argv[2]) : 1,
	    k, j;
	struct rlog_status st;
	struct rlog_stats  all;
	double		   before, at;

	if (rows == 0 || replicants < 1 || replicants > REPLICANTS_MAX) {
		fprintf(stderr, "usage: bench_rlog [rows [replicants]]\n");
		return 64;
	}
	before = allocated();
	start(true);
	at = cpu_seconds();
	for (i = 0; i < rows; i++)
		change(0, i, false, 0);
	printf("%" PRIu64 " rows at their writer alone: %.1f bytes a row, "
	    "%.0f changes/s of CPU\n", rows, (allocated() - before) /
	    (double)rows, (double)rows / (cpu_seconds() - at));

	for (k = 1; k < CORES; k++) {
		start(true);
		for (j = 0; j < k; j++)
			link_nodes(k, j);
	}
	for (k = 0; k < replicants; k++) {
		start(false);
		link_nodes(nnodes - 1, 1 + k % (CORES - 1));
	}
	at = cpu_seconds();
	settle();
	at = cpu_seconds() - at;
	report("all rows to the other nodes", rows, at);
	if (nodes[0].acked != rows)
		return 1;

	/* Replicant writes, core passes on, the last replicant is behind. */
	step = rows / 4 > 0 ? rows / 4 : 1;
	at = cpu_seconds();
	for (i = 0; i < step; i++) {
		change(nnodes - 1, i, false, 1);
		if (i % ROUND == ROUND - 1)
			settle();
	}
	settle();
	report("a replicant's, 2000 at a time", step, cpu_seconds() - at);
	if (nodes[nnodes - 1].acked != step)
		return 1;
	at = cpu_seconds();
	for (i = 0; i < step; i++) {
		change(0, i, i % 2 == 0, 2);
		if (i % ROUND == ROUND - 1)
			settle();
	}
	settle();
	report("a core's, 2000 at a time", step, cpu_seconds() - at);
	at = cpu_seconds();
	step = step < 100000 ? step : 100000;
	for (i = 0; i < step; i++) {
		change(0, i, false, 3);
		settle();
	}
	report("a core's, one at a time", step, cpu_seconds() - at);

	/* Tombstones seen by all go, so a new one needs a scan. */
	for (k = 0; k < nnodes; k++)
		rlog_members(nodes[k].r, nnodes);
	settle();
	start(false);
	link_nodes(nnodes - 1, 0);
	at = cpu_seconds();
	settle();
	at = cpu_seconds() - at;
	rlog_look(rlog_find(nodes[nnodes - 1].r, (struct rlog_id){ 1, 1 }),
	    &st);
	printf("a new replicant has %" PRIu64 " rows in %.2f s of CPU of both "
	    "(%s)\n", st.rows, at, st.bootstraps > 0 ? "scan" : "in order");
	rlog_stats(nodes[0].r, &all);
	printf("rows sent by the first core: %" PRIu64 "\n", all.rows_out);
	for (k = 0; k < nnodes; k++) {
		rlog_look(nodes[k].own, &st);
		rlog_free(&nodes[k].r);
	}
	return 0;
}

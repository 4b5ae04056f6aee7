/*
 * bench_journal: the log at speed. Prints figures and passes no judgement.
 *
 *   bench_journal [dir [seconds]]	default /tmp/bench_journal.<pid>, 2 s
 *
 * append	CPU of journal_append and journal_write, cached (per record)
 * durable	records made durable a second, so many in a turn, with
 *		journal_sync on the same thread after each
 * replay, read	of what was written
 */
#include <sys/stat.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "journal/journal.h"

static const struct journal_opts opts = { .salt = 1 };
static char	dir[256];
static double	seconds = 2;
static uint8_t	body[64 << 10];

static void
check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_journal: %s: %s\n", what, err_str(rc));
	exit(1);
}

static double
cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static uint64_t
turn(struct journal *j, size_t len, unsigned n)
{
	struct slice	 part = { body, len };
	uint64_t	 pos = 0;

	while (n-- > 0)
		check(journal_append(j, 1, &part, 1, &pos), "append");
	check(journal_write(j), "write");
	return pos;
}

static void
bench_append(struct journal *j, size_t len, unsigned batch)
{
	double		 start = cpu_ns(), wall = (double)clock_mono_ns(), cpu;
	uint64_t	 n = 0, from = journal_end(j);

	do {
		turn(j, len, batch);
		n += batch;
		if (n % (batch * 64) == 0)
			check(journal_drop(j, journal_end(j)), "drop");
		cpu = cpu_ns() - start;
	} while (cpu < seconds * 1e9);
	wall = (double)clock_mono_ns() - wall;
	printf("append   %6zu bytes, %4u a turn: %7.0f ns of CPU, %7.1f MB/s\n",
	    len, batch, cpu / (double)n,
	    (double)(journal_end(j) - from) / wall * 1e3);
	check(journal_sync(j, NULL), "sync");
}

static void
bench_durable(struct journal *j, size_t len, unsigned batch)
{
	double		 start = (double)clock_mono_ns(), took;
	uint64_t	 turns = 0;

	do {
		turn(j, len, batch);
		check(journal_sync(j, NULL), "sync");
		check(journal_prepare(j), "prepare");
		turns++;
		took = (double)clock_mono_ns() - start;
	} while (took < seconds * 1e9);
	printf("durable  %6zu bytes, %4u a turn: %9.0f records/s, %.3f ms a "
	    "turn\n", len, batch, (double)turns * batch / took * 1e9,
	    took / (double)turns / 1e6);
	check(journal_drop(j, journal_end(j)), "drop");
}

static int
on_record(void *ctx, uint64_t pos, unsigned type, const void *data, size_t len)
{
	(void)pos, (void)type, (void)data, (void)len;
	++*(uint64_t *)ctx;
	return 0;
}

static void
bench_replay(struct journal **j)
{
	uint64_t	 n = 0, begin, first = 0, pos, i;
	struct slice	 s;
	double		 start;

	for (i = 0; i < 2000; i++) {
		pos = turn(*j, 256, 200);
		if (i == 0)
			first = pos;
	}
	begin = journal_begin(*j);
	journal_close(j);
	check(journal_open(j, dir, &opts), "open");
	start = (double)clock_mono_ns();
	check(journal_replay(*j, begin, on_record, NULL, &n), "replay");
	printf("replay   %" PRIu64 " records, %.0f MB: %.0f ms\n", n,
	    (double)journal_bytes(*j) / 1e6,
	    ((double)clock_mono_ns() - start) / 1e6);
	start = cpu_ns();
	for (i = 0, pos = first; i < 100000; i++, pos += 256 + 24)
		if (journal_read(*j, pos, NULL, &s) < 0)
			pos += 64 - 256 - 24;	/* a segment's header */
	printf("read     256 bytes from files: %.0f ns of CPU\n",
	    (cpu_ns() - start) / 1e5);
}

int
main(int argc, char **argv)
{
	char		 command[300];
	struct journal	*j;

	snprintf(dir, sizeof(dir), "/tmp/bench_journal.%d", (int)getpid());
	if (argc > 1)
		snprintf(dir, sizeof(dir), "%s", argv[1]);
	if (argc > 2)
		seconds = atof(argv[2]);
	memset(body, 'x', sizeof(body));
	check(journal_open(&j, dir, &opts), dir);
	check(journal_replay(j, journal_begin(j), NULL, NULL, NULL), "replay");
	bench_append(j, 100, 1);
	bench_append(j, 100, 1000);
	bench_append(j, 1000, 100);
	bench_append(j, 65536, 16);
	bench_durable(j, 100, 1);
	bench_durable(j, 100, 100);
	bench_durable(j, 100, 10000);
	bench_durable(j, 1000, 1000);
	bench_replay(&j);
	journal_close(&j);
	if (argc > 1)
		return 0;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

/*
 * bench_retain: retained messages at size. Prints memory, time (of CPU) of each
 * kind of lookup and change, and the machine; passes no judgement.
 *
 *   bench_retain [messages]		default 1000000
 *
 * Topics are plant/<area>/device-<n>/<sensor>, some 30 bytes, 8 sensors to a
 * device and 100 areas, set in random order; payloads have 64 bytes. What is
 * looked up is random, so that looks miss the cache.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "retain/retain.h"

enum { PAYLOAD = 64, SENSORS = 8, AREAS = 100 };

static const char *const sensors[SENSORS] = { "temp", "humidity", "pressure",
	"power", "voltage", "state", "alarm", "firmware" };

static uint64_t seed = 88172645463325252u;

static uint64_t
rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

static double
cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double
rss_mb(void)
{
	unsigned long	 size, rss = 0;
	FILE		*f;

	if ((f = fopen("/proc/self/statm", "r")) != NULL) {
		if (fscanf(f, "%lu %lu", &size, &rss) != 2)
			rss = 0;
		fclose(f);
	}
	return (double)rss * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static size_t
topic_text(char *out, size_t size, uint64_t i)
{
	uint64_t device = i / SENSORS;

	return (size_t)snprintf(out, size, "plant/%02u/device-%06" PRIu64 "/%s",
	    (unsigned)(device % AREAS), device, sensors[i % SENSORS]);
}

static void
set(struct retain *r, uint64_t i, uint64_t version, uint64_t deadline_ms)
{
	static const uint8_t payload[PAYLOAD];
	char	topic[64];
	int	rc;
	struct retain_msg m = {
		.topic = { (uint8_t *)topic, topic_text(topic, sizeof(topic),
		    i) },
		.client_id = { (const uint8_t *)"gateway-0123", 12 },
		.payload = { payload, version == 0 ? 0 : PAYLOAD },
		.version_hi = version == 0 ? UINT64_MAX : version,
		.deadline_ms = deadline_ms
	};

	if ((rc = retain_set(r, &m)) < 0) {
		fprintf(stderr, "bench_retain: set: %s\n", err_str(rc));
		exit(1);
	}
}

static void
say(const char *what, uint64_t n, double seconds)
{
	printf("%-34s %9" PRIu64 " x %9.2f us\n", what, n,
	    seconds / (double)n * 1e6);
}

static void
bench_get(struct retain *r, uint64_t n)
{
	enum { LOOKS = 1000000, TOPICS = 1 << 16 };
	static struct { char text[48]; size_t len; } topics[TOPICS];
	struct retain_msg m;
	uint64_t	  i, found = 0;
	double		  start;

	for (i = 0; i < TOPICS; i++)
		topics[i].len = topic_text(topics[i].text,
		    sizeof(topics[i].text), rnd() % n);
	start = cpu_seconds();
	for (i = 0; i < LOOKS; i++)
		found += retain_get(r, topics[i % TOPICS].text,
		    topics[i % TOPICS].len, 1, &m, NULL) == 0;
	say("exact topic", LOOKS, cpu_seconds() - start);
	if (found != LOOKS)
		printf("  only %" PRIu64 " found\n", found);
}

static bool
take(void *ctx, const struct retain_msg *m, uint32_t left)
{
	uint64_t *sum = ctx;

	*sum += m->payload.data[0] + left;
	return true;
}

/* Pages of 256 messages or 1024 steps, as a loop would ask for. */
static void
bench_filter(struct retain *r, const char *filter)
{
	struct retain_query q = { .filter = { (const uint8_t *)filter,
		strlen(filter) }, .now_ms = 1, .max_messages = 256,
		.max_bytes = 64 * 1024, .max_steps = 1024 };
	struct retain_page  page;
	uint64_t	    messages = 0, steps = 0, pages = 0, sum = 0;
	double		    start = cpu_seconds(), t, last = start, most = 0;

	do {
		retain_match(r, &q, take, &sum, &page);
		messages += page.messages;
		steps += page.steps;
		pages++;
		q.from = page.next;
		t = cpu_seconds();
		most = t - last > most ? t - last : most;
		last = t;
	} while (page.more);
	printf("%-34s %9" PRIu64 " given, %8" PRIu64 " steps, %5" PRIu64
	    " pages, %9.3f ms, longest page %.3f ms\n", filter, messages, steps,
	    pages, (last - start) * 1e3, most * 1e3);
}

int
main(int argc, char **argv)
{
	static const char *const filters[] = { "plant/42/device-000042/#",
		"plant/42/device-000042/+", "plant/42/+/alarm", "plant/42/#",
		"plant/+/+/alarm", "plant/+/device-000042/temp",
		"plant/+/device-000042/#", "+/+/+/none", "$SYS/#", "#" };
	struct retain_limits lim = { UINT32_MAX, UINT64_MAX };
	uint64_t	     n = argc > 1 ? strtoull(argv[1], NULL, 10) :
				1000000, i, *turn;
	struct retain	    *r;
	double		     start, before;

	if (n == 0 || (turn = malloc(n * sizeof(*turn))) == NULL ||
	    (r = retain_new(&lim)) == NULL) {
		fprintf(stderr, "usage: bench_retain [messages]\n");
		return 64;
	}
	for (i = 0; i < n; i++) {
		uint64_t j = rnd() % (i + 1);

		turn[i] = turn[j];
		turn[j] = i;
	}
	before = rss_mb();
	start = cpu_seconds();
	for (i = 0; i < n; i++)
		set(r, turn[i], 1, i % 2 == 0 ? 1000 + rnd() % 1000 : 0);
	say("set, new", n, cpu_seconds() - start);
	printf("%u messages, %.1f MB of topics and payloads, %.1f MB resident: "
	    "%.0f bytes each, half of them with an expiry\n", retain_count(r),
	    (double)retain_bytes(r) / 1e6, rss_mb() - before,
	    (rss_mb() - before) * 1e6 / (double)n);
	bench_get(r, n);
	for (i = 0; i < sizeof(filters) / sizeof(filters[0]); i++)
		bench_filter(r, filters[i]);
	start = cpu_seconds();
	for (i = 0; i < n; i++)
		set(r, turn[i], 2, i % 2 == 0 ? 1000 + rnd() % 1000 : 0);
	say("set, replacing", n, cpu_seconds() - start);
	printf("%.1f MB resident after that\n", rss_mb() - before);
	start = cpu_seconds();
	i = retain_expire(r, 1499, UINT32_MAX);
	say("expired", i, cpu_seconds() - start);
	n = retain_count(r);
	start = cpu_seconds();
	for (i = 0; retain_count(r) > 0; i++)
		set(r, turn[i], 0, 0);
	say("delete", n, cpu_seconds() - start);
	retain_free(&r);
	free(turn);
	return 0;
}

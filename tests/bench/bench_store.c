/*
 * bench_store: durable sessions of one shard at size. Prints memory and time
 * (of CPU); passes no judgement.
 *
 *   bench_store [sessions [wildcards]]		default 1000000 1
 *
 * Each session has three subscriptions: one filter that all share, two of its
 * own, of which so many have a wildcard behind what is the session's own (an
 * anchor each, which is what costs most). Publishes land in sessions at random,
 * with 100 bytes of record, and are acknowledged.
 */
#include <malloc.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "mqtt/mqtt.h"
#include "store/shard.h"

enum { RECORD = 100, OP_MAX = 1 << 17 };

static uint64_t seed = 88172645463325252u;
static uint8_t	op_bytes[OP_MAX];
static size_t	op_len;
static uint64_t pos = 1;

static uint64_t
rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed >> 11;
}

static void
check(long rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "bench_store: %s: %s\n", what, err_str((int)rc));
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

static void
begin(const struct op *o)
{
	long n = op_put(op_bytes, sizeof(op_bytes), o);

	check(n, "op_put");
	op_len = (size_t)n;
}

static void
apply(struct shard *sh)
{
	check(shard_apply(sh, pos, op_bytes, op_len), "shard_apply");
	pos += op_len + 16;
}

static void
subscribe(struct shard *sh, uint64_t handle, const char *filter)
{
	struct op o = {
		.kind = STORE_SUBSCRIBE, .handle = handle, .options = 1,
		.filter = { (const uint8_t *)filter, strlen(filter) },
	};

	begin(&o);
	apply(sh);
}

static void
make(struct shard *sh, uint64_t i, unsigned wildcards)
{
	char	  text[64];
	struct op o = {
		.kind = STORE_OPEN, .handle = i + 1, .at_ms = 1000,
		.expiry_s = 3600, .version = 5, .durable = true,
		.fresh = true,
	};
	struct op c = {
		.kind = STORE_CLOSE, .handle = i + 1, .at_ms = 2000,
		.expiry_s = 3600,
	};

	o.client_id.len = (size_t)snprintf(text, sizeof(text),
	    "device-%08" PRIu64, i);
	o.client_id.data = (const uint8_t *)text;
	begin(&o);
	apply(sh);
	subscribe(sh, i + 1, "all/devices");
	snprintf(text, sizeof(text), wildcards > 1 ? "dev/%08" PRIu64 "/#" :
	    "dev/%08" PRIu64 "/cmd", i);
	subscribe(sh, i + 1, text);
	snprintf(text, sizeof(text), wildcards > 0 ? "dev/%08" PRIu64
	    "/+/set" : "dev/%08" PRIu64 "/a/set", i);
	subscribe(sh, i + 1, text);
	begin(&c);
	apply(sh);
}

static void
publish(struct shard *sh, const uint64_t *handles, uint32_t n)
{
	struct op	 o = {
		.kind = STORE_PUBLISH, .at_ms = 5, .id = { pos, 1 },
		.source = { (const uint8_t *)"listener.0", 10 },
		.ntargets = n, .record = { NULL, RECORD },
	};
	struct op_target t = { .qos = 1 };
	uint32_t	 i;

	begin(&o);
	for (i = 0; i < n; i++) {
		t.handle = handles[i];
		op_len += (size_t)op_put_target(op_bytes + op_len,
		    sizeof(op_bytes) - op_len, &t, NULL);
	}
	op_len += RECORD;
	apply(sh);
}

static void
ack(struct shard *sh, uint64_t handle)
{
	struct op o = {
		.kind = STORE_ACK, .handle = handle, .what = MQTT_PUBACK,
		.offset = shard_session(sh, handle)->base,
	};

	begin(&o);
	apply(sh);
}

/* A hundred operations, then their acknowledgements, until a million landed. */
static void
traffic(struct shard *sh, uint64_t sessions, uint32_t fanout)
{
	static uint64_t handles[100][1000];
	uint64_t	landed = 0, ops = 0;
	double		publishing = 0, acking = 0, t;
	uint32_t	i, k;

	while (landed < 1000000) {
		for (i = 0; i < 100; i++)
			for (k = 0; k < fanout; k++)
				handles[i][k] = 1 + rnd() % sessions;
		t = cpu_seconds();
		for (i = 0; i < 100; i++)
			publish(sh, handles[i], fanout);
		publishing += cpu_seconds() - t;
		t = cpu_seconds();
		for (i = 0; i < 100; i++)
			for (k = 0; k < fanout; k++)
				ack(sh, handles[i][k]);
		acking += cpu_seconds() - t;
		landed += 100 * fanout;
		ops += 100;
	}
	printf("publish to %4u: %8.0f ns, %5.0f ns a session; %5.0f ns an "
	    "acknowledgement\n", fanout, publishing * 1e9 / (double)ops,
	    publishing * 1e9 / (double)landed,
	    acking * 1e9 / (double)landed);
}

struct tape {
	uint8_t	*data;
	size_t	 len, size;
};

static int
save(void *ctx, struct session *s)
{
	struct tape	*t = ctx;
	long		 n;

	if (t->size - t->len < 4096) {
		t->size = t->size == 0 ? 1 << 24 : t->size * 2;
		if ((t->data = realloc(t->data, t->size)) == NULL)
			check(ERR_NOMEM, "tape");
	}
	n = session_save(s, t->data + t->len + 4, t->size - t->len - 4);
	check(n, "session_save");
	put_le32(t->data + t->len, (uint32_t)n);
	t->len += 4 + (size_t)n;
	return 0;
}

static void
report(const char *what, uint64_t sessions, double bytes, double seconds)
{
	printf("%-16s %8.0f ns, %6.1f bytes a session\n", what,
	    seconds * 1e9 / (double)sessions, bytes / (double)sessions);
}

int
main(int argc, char **argv)
{
	uint64_t	 n = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
	unsigned	 wildcards = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
	struct shard	*sh = shard_new(1);
	struct tape	 tape = { NULL, 0, 0 };
	struct dirty	 d[64];
	uint64_t	 i;
	size_t		 at;
	double		 t = cpu_seconds(), before = allocated(), loaded;

	if (n == 0) {
		fputs("usage: bench_store [sessions [wildcards]]\n", stderr);
		return 64;
	}
	for (i = 0; i < n; i++)
		make(sh, i, wildcards);
	report("made by ops:", n, allocated() - before, cpu_seconds() - t);
	while (shard_take_dirty(sh, d, 64) > 0)
		;
	traffic(sh, n, 1);
	traffic(sh, n, 10);
	traffic(sh, n, 1000);

	t = cpu_seconds();
	shard_each(sh, save, &tape);
	report("saved:", n, (double)tape.len, cpu_seconds() - t);
	t = cpu_seconds();
	shard_free(&sh);
	report("freed:", n, 0, cpu_seconds() - t);
	sh = shard_new(2);
	before = allocated();
	t = cpu_seconds();
	for (at = 0; at < tape.len; at += 4 + get_le32(tape.data + at))
		check(shard_load(sh, tape.data + at + 4,
		    get_le32(tape.data + at)), "shard_load");
	loaded = cpu_seconds() - t;
	report("loaded:", n, allocated() - before, loaded);
	printf("%.2f s for all %zu\n", loaded, shard_nsessions(sh));
	shard_free(&sh);
	free(tape.data);
	return 0;
}

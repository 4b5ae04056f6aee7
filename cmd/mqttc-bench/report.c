/*
 * report.c: the figures, for people and as JSON.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "bench.h"
#include "report/report.h"

/* --- Progress ------------------------------------------------------------ */

/* A terminal is written over each second, a file gets a line in ten. */
void
progress(uint64_t at_ns, const char *fmt, ...)
{
	static uint64_t	last_ns;
	static bool	shown;
	bool		tty = isatty(STDERR_FILENO) != 0;
	va_list		ap;

	if (fmt == NULL) {
		if (shown && tty)
			fputs("\r\033[K", stderr);
		shown = false;
		return;
	}
	if (last_ns == 0)
		last_ns = at_ns;
	if (opt.quiet || at_ns - last_ns < (tty ? 1 : 10) * SEC)
		return;
	last_ns = at_ns;
	shown = true;
	fputs(tty ? "\r\033[K" : "mqttc-bench: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (!tty)
		fputc('\n', stderr);
	fflush(stderr);
}

/* --- Figures ------------------------------------------------------------- */

static double
ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

static double
us(const struct histogram *h, double q)
{
	return (double)histogram_quantile(h, q) / 1e3;
}

struct figures {
	uint64_t	measured;
	int64_t		lost;
	double		wall_s, cpu_s, own_s;
	bool		is_connects, has_cpu;
};

static struct figures
figures_of(const struct result *r)
{
	struct figures	f = {
		.is_connects = opt.mode == CONNECT || opt.mode == CHURN,
		.has_cpu = opt.pids.n > 0,
		.wall_s = (double)r->wall_ns / 1e9,
		.cpu_s = (double)r->broker_cpu_ns / 1e9,
		.own_s = (double)r->own_cpu_ns / 1e9,
	};

	f.measured = f.is_connects ? r->end.connects - r->begin.connects :
	    r->end.delivered - r->begin.delivered;
	f.lost = (int64_t)(r->last.due - r->last.delivered);
	return f;
}

static void
out_check(void)
{
	if (fflush(stdout) != 0 || ferror(stdout))
		fail(EX_IOERR, "cannot write: %s", strerror(errno));
}

/* --- JSON ---------------------------------------------------------------- */

static const struct report_col cols[] = {
	{ "mode", 0, 0 }, { "mqtt", 0, 0 }, { "qos", 0, 0 }, { "size", 0, 0 },
	{ "publishers", 0, 0 }, { "subscribers", 0, 0 }, { "procs", 0, 0 },
	{ "interrupted", 0, 0 },
	{ "measured", 0, 0 }, { "wall_s", 0, 0 }, { "per_s", 0, 0 },
	{ "broker_cpu_s", 0, 0 }, { "per_broker_cpu_s", 0, 0 },
	{ "generator_cpu_s", 0, 0 }, { "per_generator_cpu_s", 0, 0 },
	{ "latency_p50_us", 0, 0 }, { "latency_p90_us", 0, 0 },
	{ "latency_p99_us", 0, 0 }, { "latency_p999_us", 0, 0 },
	{ "latency_max_us", 0, 0 },
	{ "published", 0, 0 }, { "delivered", 0, 0 }, { "lost", 0, 0 },
	{ "duplicate", 0, 0 }, { "reordered", 0, 0 }, { "alien", 0, 0 },
	{ "connects", 0, 0 }, { "refused", 0, 0 }, { "closed", 0, 0 },
	{ "reset", 0, 0 }, { "told", 0, 0 },
	{ "pss_bytes", 0, 0 },
	{ "groups", 0, 0 }, { "member_least", 0, 0 }, { "member_most", 0, 0 },
};

static void
json_if(struct report *j, bool have, double v)
{
	if (have)
		report_double(j, v);
	else
		report_none(j);
}

static void
json_u64_if(struct report *j, bool have, uint64_t v)
{
	if (have)
		report_u64(j, v);
	else
		report_none(j);
}

static void
print_json(const struct result *r, const struct figures *f)
{
	const struct counts	*n = &r->last;
	const struct histogram	*h = &r->latency;
	struct report		 j;
	double			 m = (double)f->measured;

	report_init(&j, stdout, true, cols, NELEM(cols));
	report_str(&j, mode_names[opt.mode]);
	report_str(&j, opt.version == 5 ? "5.0" : "3.1.1");
	report_u64(&j, opt.qos);
	report_u64(&j, opt.size);
	report_u64(&j, opt.publishers);
	report_u64(&j, opt.subscribers);
	report_u64(&j, opt.procs);
	report_bool(&j, r->interrupted);
	report_u64(&j, f->measured);
	report_double(&j, f->wall_s);
	report_double(&j, ratio(m, f->wall_s));
	json_if(&j, f->has_cpu, f->cpu_s);
	json_if(&j, f->has_cpu, ratio(m, f->cpu_s));
	report_double(&j, f->own_s);
	report_double(&j, ratio(m, f->own_s));
	json_if(&j, h->n > 0, us(h, 0.5));
	json_if(&j, h->n > 0, us(h, 0.9));
	json_if(&j, h->n > 0, us(h, 0.99));
	json_if(&j, h->n > 0, us(h, 0.999));
	json_if(&j, h->n > 0, us(h, 1));
	report_u64(&j, n->published);
	report_u64(&j, n->delivered);
	report_u64(&j, (uint64_t)MAX(f->lost, 0));
	report_u64(&j, n->duplicate);
	report_u64(&j, n->reordered);
	report_u64(&j, n->alien);
	report_u64(&j, n->connects);
	report_u64(&j, n->refused);
	report_u64(&j, n->closed);
	report_u64(&j, n->reset);
	report_u64(&j, n->told);
	json_u64_if(&j, r->pss > 0, r->pss);
	json_u64_if(&j, opt.mode == SHARED, opt.groups);
	json_u64_if(&j, opt.mode == SHARED, r->member_least);
	json_u64_if(&j, opt.mode == SHARED, r->member_most);
	report_end(&j);
}

/* --- Text ---------------------------------------------------------------- */

/* 1234567 as 1,234,567, in one of a few buffers. */
static const char *
grouped(uint64_t v)
{
	static char	bufs[8][32];
	static unsigned	at;
	char		digits[32], *o = bufs[at++ % NELEM(bufs)], *start = o;
	int		n, i;

	n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v);
	for (i = 0; i < n; i++) {
		*o++ = digits[i];
		if (i + 1 < n && (n - i - 1) % 3 == 0)
			*o++ = ',';
	}
	*o = '\0';
	return start;
}

static void
print_text(const struct result *r, const struct figures *f)
{
	const struct counts	*n = &r->last;
	const struct histogram	*h = &r->latency;
	const char		*unit = f->is_connects ? "connects" : "messages";
	double			 m = (double)f->measured;

	printf("load       %s: ", mode_names[opt.mode]);
	if (f->is_connects)
		printf("%s clients", grouped(opt.subscribers));
	else if (opt.mode == SHARED)
		printf("%s to %s groups of %s, QoS %u, %s bytes",
		    grouped(opt.publishers), grouped(opt.groups),
		    grouped(opt.members), opt.qos, grouped(opt.size));
	else
		printf("%s to %s, QoS %u, %s bytes", grouped(opt.publishers),
		    grouped(opt.subscribers), opt.qos, grouped(opt.size));
	printf(", MQTT %s%s\n", opt.version == 5 ? "5.0" : "3.1.1",
	    r->interrupted ? " (interrupted)" : "");
	printf("measured   %s %s in %.3f s: %s a second\n",
	    grouped(f->measured), unit, f->wall_s,
	    grouped((uint64_t)ratio(m, f->wall_s)));
	if (h->n > 0)
		printf("latency    p50 %.1f us, p90 %.1f, p99 %.1f, "
		    "p99.9 %.1f, most %.1f\n", us(h, 0.5), us(h, 0.9),
		    us(h, 0.99), us(h, 0.999), us(h, 1));
	if (!f->is_connects)
		printf("in all     %s published, %s delivered\n"
		    "faults     %s lost, %s duplicate, %s reordered\n",
		    grouped(n->published), grouped(n->delivered),
		    grouped((uint64_t)MAX(f->lost, 0)), grouped(n->duplicate),
		    grouped(n->reordered));
	if (opt.mode == SHARED)
		printf("members    %s messages the least, %s the most\n",
		    grouped(r->member_least), grouped(r->member_most));
	if (n->refused + n->closed + n->alien > 0)
		printf("also       %s refused, %s closed (%s by a reset, %s with a "
		    "DISCONNECT), %s not ours\n", grouped(n->refused),
		    grouped(n->closed), grouped(n->reset), grouped(n->told),
		    grouped(n->alien));
	if (f->has_cpu)
		printf("broker     %.3f s of CPU: %s %s per CPU second; "
		    "PSS %s kB\n", f->cpu_s,
		    grouped((uint64_t)ratio(m, f->cpu_s)), unit,
		    grouped(r->pss / 1024));
	printf("generator  %.3f s of CPU in %u %s\n", f->own_s, opt.procs,
	    opt.procs == 1 ? "process" : "processes");
}

void
report_result(const struct result *r)
{
	struct figures	f = figures_of(r);

	if (opt.json)
		print_json(r, &f);
	else
		print_text(r, &f);
	out_check();
}

/* --- Idle ---------------------------------------------------------------- */

static const struct report_col step_cols[] = {
	{ "mode", 0, REPORT_JSON_ONLY }, { "procs", 0, REPORT_JSON_ONLY },
	{ "clients", 10, REPORT_RIGHT }, { "filters", 10, REPORT_RIGHT },
	{ "closed", 8, REPORT_RIGHT }, { "pss_bytes", 14, REPORT_RIGHT },
	{ "bytes_per_client", 17, REPORT_RIGHT },
	{ "bytes_per_filter", 17, REPORT_RIGHT },
};

void
report_step(unsigned i, uint64_t first_pss, uint64_t pss, uint64_t closed)
{
	static struct report	r;
	uint64_t		clients = list_at(&opt.clients, i);
	uint64_t		filters = list_at(&opt.filters, i);
	double			c, f;
	bool			have = i > 0 && pss > 0;

	/* Only what alone has grown can be given the growth. */
	c = (double)clients - (double)list_at(&opt.clients, 0);
	f = (double)filters - (double)list_at(&opt.filters, 0);
	if (i == 0)
		report_init(&r, stdout, opt.json, step_cols,
		    NELEM(step_cols));
	report_str(&r, mode_names[opt.mode]);
	report_u64(&r, opt.procs);
	report_u64(&r, clients);
	report_u64(&r, filters);
	report_u64(&r, closed);
	if (pss > 0)
		report_u64(&r, pss);
	else
		report_none(&r);
	json_if(&r, have && c > 0 && f <= 0,
	    ratio((double)pss - (double)first_pss, c));
	json_if(&r, have && f > 0 && c <= 0,
	    ratio((double)pss - (double)first_pss, f));
	report_end(&r);
	out_check();
}

/*
 * metric.h: counters and gauges of one process, in place, readable by others.
 *
 * A metric is a static row. Rows register themselves with metric_register()
 * from tables; metric_attach() then moves the values of every registered row
 * into a segment (a memfd handed to the supervisor), so that mqttc-stat reads
 * them without disturbing anybody. Before that they count in private memory.
 * One writer per segment: increments are relaxed atomic stores, not
 * read-modify-write instructions.
 *
 *   static struct metric m_refused = METRIC_COUNTER("mqtt_packets_refused_total",
 *       "Packets refused because the session's state did not allow them");
 *   metric_inc(&m_refused);
 */
#ifndef METRIC_METRIC_H
#define METRIC_METRIC_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum metric_kind { METRIC_KIND_COUNTER, METRIC_KIND_GAUGE };

struct metric {
	const char	*name;		/* with unit, Prometheus style */
	const char	*help;
	enum metric_kind kind;
	_Atomic uint64_t *cell;		/* where the value lives */
	_Atomic uint64_t own;		/* until attached */
};

#define METRIC_COUNTER(n, h)	{ .name = (n), .help = (h), \
				  .kind = METRIC_KIND_COUNTER }
#define METRIC_GAUGE(n, h)	{ .name = (n), .help = (h), \
				  .kind = METRIC_KIND_GAUGE }

/* Add rows to the list of this process; a name twice is our own mistake. */
void metric_register(struct metric *const *rows, size_t n);

/* One value; registered rows only (cell is set by metric_register). */
static inline void
metric_add(struct metric *m, uint64_t n)
{
	uint64_t v = atomic_load_explicit(m->cell, memory_order_relaxed);

	atomic_store_explicit(m->cell, v + n, memory_order_relaxed);
}

static inline void
metric_inc(struct metric *m)
{
	metric_add(m, 1);
}

static inline void
metric_set(struct metric *m, uint64_t v)
{
	atomic_store_explicit(m->cell, v, memory_order_relaxed);
}

static inline uint64_t
metric_get(const struct metric *m)
{
	return atomic_load_explicit(m->cell, memory_order_relaxed);
}

/* The registered row of that name, or NULL; all of them. */
struct metric *metric_find(const char *name);
void metric_each_own(void (*each)(void *ctx, const struct metric *m),
    void *ctx);

/* Bytes metric_attach needs for what is registered now, whole pages. */
size_t metric_segment_size(void);

/*
 * Move all values into mem (len bytes, zeroed, mapped shared) and describe
 * them there. ERR_INVAL if len is too small. Rows registered later stay
 * private. mem is at least cache-line aligned, as mmap(2) gives it.
 */
int metric_attach(void *mem, size_t len, const char *process);

/* Move the values back into private memory, before mem is unmapped. */
void metric_detach(void);

/* The name given to metric_attach (cut at 39 bytes). ERR_CORRUPT as below. */
int metric_segment_process(const void *mem, size_t len, char *out,
    size_t size);

/*
 * Read somebody's segment, mapped read-only: calls each(ctx, name, help, kind,
 * value) for every row, after checking every offset and length. ERR_CORRUPT if
 * it is not a metrics segment.
 */
typedef void metric_each(void *ctx, const char *name, const char *help,
    enum metric_kind kind, uint64_t value);
int metric_read(const void *mem, size_t len, metric_each *each, void *ctx);

#endif

/*
 * Memory that outlives its makers: descriptors kept here, handed to all who
 * want their kind. A slot is used again once nobody has to be told that what
 * was in it is gone.
 */
#include "super.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

struct metric m_restarts = METRIC_COUNTER("processes_died_total",
    "Processes that ended though nobody had asked them to");
struct metric m_hung = METRIC_COUNTER("processes_killed_total",
    "Processes killed because they were silent or did not end");
struct metric m_dealt = METRIC_COUNTER("sockets_dealt_total",
    "Listening sockets that changed hands");
struct metric m_refused = METRIC_COUNTER("supervise_refused_total",
    "Connections to supervise.sock refused or ended for what they said");
struct metric m_log_dropped = METRIC_COUNTER("log_dropped_lines_total",
    "Log lines dropped because their reader or the disk was too slow");
struct metric m_segments_refused = METRIC_COUNTER("segments_refused_total",
    "Segments not kept because there were too many");
struct metric m_upgrades = METRIC_COUNTER("upgrades_total",
    "Processes whose place another of the same name took");
struct metric m_upgrades_failed = METRIC_COUNTER("upgrades_failed_total",
    "Upgrades that came to nothing: the old process served on, or died");

static struct metric *const rows[] = {
	&m_restarts, &m_hung, &m_dealt, &m_refused, &m_log_dropped,
	&m_segments_refused, &m_upgrades, &m_upgrades_failed,
};

void
segments_metrics(struct super *s)
{
	SupSegment	 m = SupSegment_init_zero;
	size_t		 len;
	void		*mem;
	int		 fd;

	metric_register(rows, NELEM(rows));
	len = metric_segment_size();
	if ((fd = memfd_create("metrics", MFD_CLOEXEC |
	    MFD_ALLOW_SEALING)) < 0 || ftruncate(fd, (off_t)len) < 0)
		goto fail;
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		goto fail;
	(void)fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW |
	    F_SEAL_FUTURE_WRITE);
	if (metric_attach(mem, len, "supervise") < 0)
		goto fail;
	m.kind = PROC_SEGMENT_METRICS;
	SUP_TEXT(m.owner, "supervise");
	m.incarnation = m.generation = s->incarnation;
	(void)segment_keep(s, &m, &fd, 1);
	return;
fail:
	log_warn("metrics.private", "why=%s", log_quote(strerror(errno)));
	if (fd >= 0)
		close(fd);
}

int
segment_keep(struct super *s, const SupSegment *m, const int *fds,
    size_t nfds)
{
	struct segment	*g;
	size_t		 i, slot = SEGMENTS_MAX;

	for (i = 0; i < SEGMENTS_MAX; i++) {
		g = &s->segments[i];
		if (!g->used) {
			slot = MIN(slot, i);
		} else if (!g->dropped && (uint32_t)g->s.kind == m->kind &&
		    g->s.generation == m->generation &&
		    g->s.incarnation == m->incarnation &&
		    strcmp(g->s.owner, m->owner) == 0) {
			sup_close_fds(fds, nfds);	/* known */
			return 0;
		}
	}
	if (slot == SEGMENTS_MAX || fault_hit("supervise.segment")) {
		metric_inc(&m_segments_refused);
		sup_close_fds(fds, nfds);
		return ERR_FULL;
	}
	g = &s->segments[slot];
	memset(g, 0, sizeof(*g));
	g->used = true;
	g->s.kind = (enum proc_segment_kind)m->kind;
	SUP_TEXT(g->s.owner, m->owner);
	g->s.incarnation = m->incarnation;
	g->s.generation = m->generation;
	g->s.nfds = nfds;
	memcpy(g->s.fds, fds, nfds * sizeof(*fds));
	s->segments_version++;
	return 0;
}

static void
drop(struct super *s, size_t slot)
{
	struct segment	*g = &s->segments[slot];

	g->dropped = true;
	sup_close_fds(g->s.fds, g->s.nfds);
	g->s.nfds = 0;
	s->segments_version++;
	conn_forget_segment(s, slot);
}

void
segments_drop_below(struct super *s, const char *owner, uint32_t kind,
    uint64_t below)
{
	struct segment	*g;
	size_t		 i;

	for (i = 0; i < SEGMENTS_MAX; i++) {
		g = &s->segments[i];
		if (g->used && !g->dropped && (uint32_t)g->s.kind == kind &&
		    g->s.generation < below && strcmp(g->s.owner, owner) == 0)
			drop(s, i);
	}
}

/* Routes outlive the router; the figures of who has ended do not. */
void
segments_of_dead(struct super *s, const char *owner)
{
	segments_drop_below(s, owner, PROC_SEGMENT_METRICS, UINT64_MAX);
}

void
segments_sweep(struct super *s)
{
	size_t	i;

	for (i = 0; i < SEGMENTS_MAX; i++)
		if (s->segments[i].dropped && !conn_any_knows(s, i))
			s->segments[i].used = s->segments[i].dropped = false;
}

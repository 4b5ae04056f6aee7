#include "mesh/rules.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

#define LOG_MS	10000

static enum mesh_status PRINTF(4, 5)
refuse(char *why, size_t size, enum mesh_status status, const char *fmt, ...)
{
	va_list	ap;

	va_start(ap, fmt);
	vsnprintf(why, size, fmt, ap);
	va_end(ap);
	return status;
}

static bool
is(struct slice s, const char *text)
{
	return s.len == strlen(text) &&
	    (s.len == 0 || memcmp(s.data, text, s.len) == 0);
}

enum mesh_status
mesh_judge(const struct mesh_self *me, const struct mesh_msg *m,
    uint64_t now_ns, char *why, size_t size)
{
	if (m->version < me->oldest)
		return refuse(why, size, MESH_TOO_OLD, "it speaks version %u "
		    "at most, we %u at least", m->version, me->oldest);
	if (m->oldest > me->version)
		return refuse(why, size, MESH_TOO_NEW, "it speaks version %u "
		    "at least, we %u at most", m->oldest, me->version);
	if (m->called.len > 0 && !is(m->called, me->node))
		return refuse(why, size, MESH_OTHER_NAME, "it called %.*s, "
		    "this is %s", (int)m->called.len, m->called.data,
		    me->node);
	if (is(m->node, me->node))
		return refuse(why, size, MESH_SAME_NAME, "it has the name of "
		    "this node");
	if (me->cluster[0] != '\0' && m->cluster.len > 0 &&
	    !is(m->cluster, me->cluster))
		return refuse(why, size, MESH_OTHER_CLUSTER, "it is of the "
		    "cluster %.*s, we are of %s", (int)m->cluster.len,
		    m->cluster.data, me->cluster);
	if (!me->core && !m->core)
		return refuse(why, size, MESH_ROLES, "both are replicants");
	if (me->max_skew_ns != 0 && m->clock > now_ns &&
	    m->clock - now_ns > me->max_skew_ns)
		return refuse(why, size, MESH_SKEW, "its clock is %" PRIu64
		    " ms ahead of ours", (m->clock - now_ns) / 1000000);
	return MESH_OK;
}

bool
mesh_replaces(const char *me, const char *other, bool have_out, bool new_out)
{
	if (have_out == new_out)
		return true;		/* who calls again has lost the first */
	return new_out == (strcmp(me, other) < 0);
}

uint64_t
mesh_pause_ms(unsigned failed, enum mesh_status last, uint64_t random)
{
	uint64_t base = MESH_RETRY_MS;

	while (failed-- > 1 && base < MESH_RETRY_MAX_MS)
		base *= 2;
	base = MIN(base, (uint64_t)MESH_RETRY_MAX_MS);
	if (last != MESH_OK && last != MESH_DUPLICATE && last != MESH_GOING &&
	    last != MESH_SILENT && last != MESH_CLOSED &&
	    last != MESH_UNREACHED)
		base = MESH_REFUSED_MS;
	return base / 2 + random % base;	/* not all at once */
}

uint64_t
mesh_lost_ms(uint64_t since_last_tick, uint64_t tick_ms)
{
	return since_last_tick > 2 * tick_ms ? since_last_tick - tick_ms : 0;
}

bool
mesh_may_log(struct mesh_limit *l, uint64_t what, uint64_t now_ms,
    uint64_t *more)
{
	if (now_ms < l->until_ms && what == l->what) {
		l->skipped++;
		return false;
	}
	*more = l->skipped;
	l->skipped = 0;
	l->what = what;
	l->until_ms = now_ms + LOG_MS;
	return true;
}

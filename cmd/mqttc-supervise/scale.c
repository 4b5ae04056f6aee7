/*
 * More listeners, or fewer. How many are wanted outlives the supervisor in a
 * file of run_dir, for as long as the node runs; the configuration says it
 * again at the next start.
 *
 * Sockets are made when first needed and never closed: those of a listener
 * that is gone are dealt to the others, so that nobody waits in them for ever.
 */
#include "super.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "log/log.h"

#define SCALE_FILE	"listeners"	/* in run_dir */

/* What the key would say to that many. */
static int
check(const struct super *s, uint32_t listeners, char *why, size_t size)
{
	static struct conf	c;
	struct conf_error	e = { "" };
	char			text[16];

	c = s->conf;
	snprintf(text, sizeof(text), "%u", listeners);
	if (conf_set(&c, "listener.processes", text, "scale", &e) < 0 ||
	    conf_check(&c, &e) < 0) {
		snprintf(why, size, "%s", e.text);
		return EX_USAGE;
	}
	return 0;
}

void
scale_read(struct super *s)
{
	char		text[32] = "", why[512];
	uint32_t	n;
	ssize_t		len;
	int		fd = open(SCALE_FILE, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	n = len > 0 ? (uint32_t)strtoul(text, NULL, 10) : 0;
	if (check(s, n, why, sizeof(why)) != 0)
		return;
	s->scaled = true;
	child_rows(s, n);
	s->listeners = n;
	for (size_t i = 0; i < s->nprocs; i++) {
		if (s->procs[i].kind != PROC_LISTENER)
			continue;
		if (s->procs[i].instance < n)
			keep_revive(&s->table, i, super_now_ms());
		else
			keep_retire(&s->table, i);
	}
}

void
scale_forget(void)
{
	unlink(SCALE_FILE);
}

static void
remember(uint32_t listeners)
{
	char	text[16];
	int	fd, n;
	bool	ok;

	n = snprintf(text, sizeof(text), "%u\n", listeners);
	fd = open(SCALE_FILE ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
	    0600);
	ok = fd >= 0 && write(fd, text, (size_t)n) == n;
	if (fd >= 0)
		close(fd);
	if (!ok || rename(SCALE_FILE ".new", SCALE_FILE) < 0) {
		unlink(SCALE_FILE ".new");
		log_warn("scale.unwritten", "listeners=%u", listeners);
	}
}

int
scale_to(struct super *s, uint32_t listeners, char *why, size_t size)
{
	uint64_t	now = super_now_ms();
	size_t		i;
	int		code;

	if ((code = check(s, listeners, why, size)) != 0 ||
	    (code = sockets_make(s, listeners, why, size)) != 0) {
		log_warn("scale.refused", "listeners=%u why=%s", listeners,
		    log_quote(why));
		return code;
	}
	log_info("scale", "from=%u to=%u", s->listeners, listeners);
	child_rows(s, listeners);
	s->listeners = listeners;
	s->scaled = true;
	remember(listeners);
	for (i = 0; i < s->nprocs; i++) {
		if (s->procs[i].kind != PROC_LISTENER)
			continue;
		if (s->procs[i].instance < listeners)
			keep_revive(&s->table, i, now);
		else
			keep_retire(&s->table, i);
	}
	s->peers_version++;
	s->sockets_changed = true;
	return 0;
}

/* It is tried again by and by; who asked need not wait for that. */
static bool
fails(const struct keep_proc *p)
{
	return p->phase == KEEP_HELD || (p->phase == KEEP_DOWN &&
	    p->backoff_ms > KEEP_BACKOFF_MIN_MS);
}

int
scale_is_done(struct super *s, uint32_t listeners, char *text, size_t size)
{
	const struct keep_proc	*p, *failed = NULL;
	size_t			 i;

	if (s->listeners != listeners) {
		snprintf(text, size, "%u listeners were asked for meanwhile",
		    s->listeners);
		return EX_TEMPFAIL;
	}
	for (i = 0; i < s->nprocs; i++) {
		p = &s->procs[i];
		if (p->kind != PROC_LISTENER || p->phase == KEEP_GONE)
			continue;
		if (fails(p))
			failed = p;
		else if (p->phase != KEEP_READY || p->again || p->retire)
			return ERR_AGAIN;
	}
	if (failed != NULL) {
		snprintf(text, size, "%s did not become ready: %s",
		    failed->name, failed->note);
		return EX_TEMPFAIL;
	}
	snprintf(text, size, "%u listener%s ready", listeners,
	    listeners == 1 ? " is" : "s are");
	return 0;
}

/*
 * One knocks that served under a supervisor before us. Beyond those wanted it
 * was scaled away and has not ended yet, or (that file is lost) is one too
 * many for the configuration, and stays. Returns 1 if it is to go.
 */
int
scale_adopt(struct super *s, const char *name, enum keep_phase phase)
{
	enum proc_kind	kind;
	uint32_t	instance, i;
	char		why[512];

	if (proc_name_parse(name, &kind, &instance) < 0 ||
	    kind != PROC_LISTENER || instance < s->listeners ||
	    check(s, instance + 1, why, sizeof(why)) != 0)
		return 0;
	child_rows(s, instance + 1);
	if (s->scaled || phase == KEEP_DRAINING)
		return 1;
	s->listeners = instance + 1;
	for (i = 0; i < s->nprocs; i++)
		if (s->procs[i].kind == PROC_LISTENER &&
		    s->procs[i].phase == KEEP_GONE)
			keep_revive(&s->table, i, super_now_ms());
	return 0;
}

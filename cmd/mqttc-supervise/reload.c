/*
 * The configuration, read again from where it came from. A bad one changes
 * nothing; of a good one, what may change while serving does.
 */
#include "super.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "log/log.h"

/* Put the configuration where children read it. */
int
reload_publish(struct super *s)
{
	FILE	*f;
	int	 fd, keep, rc;

	if ((fd = memfd_create("conf", MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0)
		return ERR_IO;
	if ((keep = dup(fd)) < 0 || (f = fdopen(keep, "w")) == NULL) {
		if (keep >= 0)
			close(keep);
		close(fd);
		return ERR_IO;
	}
	rc = conf_write(&s->conf, f);
	if (fclose(f) != 0 && rc == 0)
		rc = ERR_IO;
	if (rc < 0) {
		close(fd);
		return rc;
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	if (s->conf_fd >= 0)
		close(s->conf_fd);
	s->conf_fd = fd;
	s->conf_generation++;
	return 0;
}

static void
append(char *text, size_t size, const char *word)
{
	size_t	n = strlen(text);

	if (n < size)
		snprintf(text + n, size - n, " %s", word);
}

/* Take over what may change; say the rest. */
static void
merge(struct conf *now, const struct conf *fresh, char *changed, size_t csize,
    char *later, size_t lsize)
{
	char			 a[CONF_STR_MAX + 64], b[CONF_STR_MAX + 64];
	struct conf_error	 e;
	size_t			 i;

	for (i = 0; i < conf_nkeys; i++) {
		conf_value(now, &conf_keys[i], a, sizeof(a));
		conf_value(fresh, &conf_keys[i], b, sizeof(b));
		if (strcmp(a, b) == 0)
			continue;
		if (!(conf_keys[i].flags & CONF_RELOAD))
			append(later, lsize, conf_keys[i].name);
		else if (conf_set(now, conf_keys[i].name, b, "reload",
		    &e) == 0)
			append(changed, csize, conf_keys[i].name);
	}
}

static int
reload(struct super *s, char *text, size_t size)
{
	static struct conf	fresh, merged;
	char			why[1280], changed[512] = "", later[400] = "";
	int			code;

	if ((code = cmdline_conf(&s->cmd, &fresh, why, sizeof(why))) != 0) {
		log_error("conf.bad", "kept=old why=%s", log_quote(why));
		snprintf(text, size, "the old configuration stays: %s", why);
		return code;
	}
	merged = s->conf;
	merge(&merged, &fresh, changed, sizeof(changed), later,
	    sizeof(later));
	s->conf = merged;
	if (reload_publish(s) < 0) {
		snprintf(text, size, "cannot hand it on: %s",
		    err_str(ERR_IO));
		return EX_OSERR;
	}
	log_set_level((enum log_level)s->conf.log_level);
	s->table.limits.hang_ms = s->conf.supervise_hang_timeout_ms;
	s->table.limits.stop_ms = s->conf.supervise_stop_timeout_ms;
	s->table.limits.backoff_max_ms = s->conf.supervise_backoff_max_ms;
	log_info("conf.reloaded", "changed=\"%s\" after_restart=\"%s\"",
	    changed, later);
	snprintf(text, size, "%s%s%s%s", changed[0] != '\0' ? "changed:" :
	    "nothing changed", changed, later[0] != '\0' ?
	    "; the node must be stopped and started for:" : "", later);
	return 0;
}

int
reload_conf(struct super *s, char *text, size_t size)
{
	int	code;

	notify_reloading();
	code = reload(s, text, size);
	if (s->said_ready)
		notify_ready();
	return code;
}

/*
 * How many session stores the node was made with. A session and a retained
 * message are found by that number, so it is written down in node.data_dir at
 * the first start, before any store is started, and another one is refused.
 */
#include "super.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"

#define SHARDS_FILE	"session_store.shards"	/* in node.data_dir */
#define SHARDS_NEW	SHARDS_FILE ".new"

static int
write_new(const struct super *s, uint32_t n)
{
	char	text[16];
	int	fd, len, rc = ERR_IO;

	len = snprintf(text, sizeof(text), "%u\n", n);
	fd = openat(s->dir_fd, SHARDS_NEW, O_WRONLY | O_CREAT | O_TRUNC |
	    O_CLOEXEC, 0600);
	if (fd < 0)
		return ERR_IO;
	if (fault_hit("supervise.shards"))
		errno = ENOSPC;
	else if (write(fd, text, (size_t)len) == len &&
	    (geteuid() != 0 || fchown(fd, s->user, s->group) == 0) &&
	    fsync(fd) == 0)
		rc = 0;
	close(fd);
	return rc;
}

/* On the disk when it returns 0. */
static int
write_shards(const struct super *s, uint32_t n)
{
	if (write_new(s, n) < 0)
		return ERR_IO;
	if (renameat(s->dir_fd, SHARDS_NEW, s->dir_fd, SHARDS_FILE) < 0 ||
	    fsync(s->dir_fd) < 0)
		return ERR_IO;
	return 0;
}

/* ERR_NOTFOUND: this is the first start. ERR_CORRUPT: that is no number. */
static int
read_shards(const struct super *s, uint32_t *out)
{
	char		 text[16] = "", *end;
	unsigned long	 v;
	ssize_t		 n;
	int		 fd;

	fd = openat(s->dir_fd, SHARDS_FILE, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? ERR_NOTFOUND : ERR_IO;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 0)
		return ERR_IO;
	v = strtoul(text, &end, 10);
	if (text[0] < '1' || text[0] > '9' || strcmp(end, "\n") != 0 ||
	    v > UINT32_MAX)
		return ERR_CORRUPT;
	*out = (uint32_t)v;
	return 0;
}

void
shards_check(struct super *s)
{
	const char	*dir = s->conf.node_data_dir;
	uint32_t	 n = s->conf.session_store_processes, made;
	int		 rc;

	if ((rc = read_shards(s, &made)) == ERR_NOTFOUND) {
		if (write_shards(s, n) < 0)
			fatal(EX_CANTCREAT, "shards.bad", "node.data_dir: "
			    "cannot write '%s/%s': %s", dir, SHARDS_FILE,
			    strerror(errno));
		return;
	}
	if (rc == ERR_CORRUPT)
		fatal(EX_CONFIG, "shards.bad", "'%s/%s' is damaged: it is to "
		    "be one line with the number of session stores that the "
		    "directory was made for", dir, SHARDS_FILE);
	if (rc < 0)
		fatal(EX_CANTCREAT, "shards.bad", "node.data_dir: cannot read "
		    "'%s/%s': %s", dir, SHARDS_FILE, strerror(errno));
	if (made != n)
		fatal(EX_CONFIG, "shards.fixed", "session_store.processes = "
		    "%u, but '%s' was made for %u and where a session lies is "
		    "found by that number: set it back, or export sessions "
		    "and retained messages, start in an empty node.data_dir, "
		    "and import them", n, dir, made);
}

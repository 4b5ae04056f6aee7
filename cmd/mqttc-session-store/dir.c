/*
 * dir.c: the directory of a shard. One process works in it at a time, whatever
 * two supervisors believe that share a node.data_dir by mistake.
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"

#define LOCK_FILE	"lock"

/* The entry of the directory is on the disk before anything is put into it. */
static int
sync_parent(const char *data_dir)
{
	int	fd, rc;

	fd = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ERR_IO;
	rc = fsync(fd) < 0 ? ERR_IO : 0;
	close(fd);
	return rc;
}

static int
make(const char *path, const char *data_dir)
{
	if (fault_hit("store.mkdir")) {
		errno = ENOSPC;
		return ERR_IO;
	}
	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : ERR_IO;
	return sync_parent(data_dir);
}

static int
lock(struct store_dir *d)
{
	char	pid[32];

	d->lock_fd = openat(d->fd, LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC,
	    0600);
	if (d->lock_fd < 0)
		return ERR_IO;
	if (fault_hit("store.lock")) {
		errno = EIO;
		return ERR_IO;
	}
	if (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? ERR_EXISTS : ERR_IO;
	/* For whoever wonders; nobody reads it. */
	snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(d->lock_fd, 0) == 0)
		(void)!pwrite(d->lock_fd, pid, strlen(pid), 0);
	return 0;
}

int
store_dir_open(struct store_dir *d, const char *data_dir, const char *name)
{
	int	n, rc, saved;

	d->fd = d->lock_fd = -1;
	n = snprintf(d->path, sizeof(d->path), "%s/%s", data_dir, name);
	if (n < 0 || (size_t)n >= sizeof(d->path))
		return ERR_INVAL;
	if ((rc = make(d->path, data_dir)) < 0)
		return rc;
	d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->fd < 0)
		return ERR_IO;
	if ((rc = lock(d)) < 0) {
		saved = errno;
		store_dir_close(d);
		errno = saved;
	}
	return rc;
}

void
store_dir_close(struct store_dir *d)
{
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = d->lock_fd = -1;
}

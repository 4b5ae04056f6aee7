/*
 * sync.c: what may run on a helper thread: making durable, preparing, giving
 * back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "journal/internal.h"

static int
sync_dir(struct journal *j)
{
	bool	 dirty;

	pthread_mutex_lock(&j->lock);
	dirty = j->dir_dirty;
	j->dir_dirty = false;
	pthread_mutex_unlock(&j->lock);
	return dirty ? file_sync_dir(j) : 0;
}

static int
sync_file(struct journal *j, struct file *f)
{
	char	 name[NAME_BYTES];
	int	 fd = f->fd, rc = 0;

	if (fd == -1) {			/* left by the process before us */
		segment_name(name, f->first);
		if ((fd = file_open(j, name, O_RDWR)) == -1)
			return errno == ENOENT ? 0 : ERR_IO;
	}
	if (fault_hit("journal.fsync")) {
		errno = EIO;
		rc = ERR_IO;
	} else if (fdatasync(fd) == -1) {
		rc = ERR_IO;
	}
	if (f->fd == -1)
		close(fd);
	return rc;
}

/* Move f from the list, which is locked, to dead. */
static void
file_remove(struct journal *j, struct file *f, struct file **dead)
{
	struct file	**at;

	for (at = &j->files; *at != f; at = &(*at)->next)
		;
	*at = f->next;
	f->next = *dead;
	*dead = f;
}

/* Not under the lock: the last descriptor of a file that was dropped takes its
 * blocks along, which takes its time. */
static void
files_close(struct file *dead)
{
	struct file	*f;
	int		 saved = errno;

	while ((f = dead) != NULL) {
		dead = f->next;
		if (f->fd != -1)
			close(f->fd);
		free(f);
	}
	errno = saved;
}

/* All files that begin below pos. One that is busy stays where it is, so its
 * `next` is good after the lock was away. */
static int
sync_files(struct journal *j, uint64_t pos)
{
	struct file	*f, *next, *dead = NULL;
	bool		 sealed;
	int		 rc = 0;

	pthread_mutex_lock(&j->lock);
	for (f = j->files; rc == 0 && f != NULL && f->first < pos; f = next) {
		f->busy = true;
		sealed = f->sealed;	/* before, or bytes would be missed */
		pthread_mutex_unlock(&j->lock);
		rc = sync_file(j, f);
		pthread_mutex_lock(&j->lock);
		f->busy = false;
		next = f->next;
		if (f->doomed || (rc == 0 && sealed && f->sealed))
			file_remove(j, f, &dead);
	}
	pthread_mutex_unlock(&j->lock);
	files_close(dead);
	return rc;
}

int
journal_sync(struct journal *j, uint64_t *out)
{
	int		 failed = atomic_load(&j->sync_errno), rc;
	uint64_t	 pos;
	bool		 dirty;

	if (failed != 0) {
		errno = failed;
		return ERR_IO;
	}
	pos = atomic_load_explicit(&j->written, memory_order_acquire);
	pthread_mutex_lock(&j->lock);
	dirty = j->dir_dirty;
	pthread_mutex_unlock(&j->lock);
	if (pos != atomic_load(&j->durable) || dirty) {
		if ((rc = sync_files(j, pos)) < 0 || (rc = sync_dir(j)) < 0) {
			atomic_store(&j->sync_errno, errno ? errno : EIO);
			return ERR_IO;
		}
		atomic_store(&j->durable, pos);
	}
	if (out != NULL)
		*out = pos;
	return 0;
}

int
journal_prepare(struct journal *j)
{
	int	 fd, rc, saved;
	bool	 have;

	pthread_mutex_lock(&j->lock);
	have = j->next_fd != -1;
	pthread_mutex_unlock(&j->lock);
	if (have)
		return 0;
	fd = file_open(j, NEXT_NAME, O_RDWR | O_CREAT | O_TRUNC);
	if (fd == -1)
		return file_error();
	if ((rc = file_allocate(fd, j->o.segment_bytes)) < 0) {
		saved = errno;
		close(fd);
		(void)file_unlink(j, NEXT_NAME);
		errno = saved;
		return rc;
	}
	pthread_mutex_lock(&j->lock);
	j->next_fd = fd;
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/* --- giving back --------------------------------------------------------- */

static int
give_back(struct journal *j, const struct dropped *d)
{
	char	 name[NAME_BYTES];
	int	 fd, rc;

	gap_name(name, d->first, d->end);
	if (d->whole)
		return file_unlink(j, name);
	if ((fd = file_open(j, name, O_WRONLY)) == -1)
		return errno == ENOENT ? 0 : ERR_IO;
	rc = file_truncate(fd, 0);
	close(fd);
	return rc;
}

/* Only what was there when it began: the names of those are on the disk. */
int
journal_reclaim(struct journal *j)
{
	struct dropped	*d, *last = NULL;
	int		 rc;

	pthread_mutex_lock(&j->lock);
	if (j->dropped != NULL)
		last = CONTAINER_OF(j->dropped_last, struct dropped, next);
	pthread_mutex_unlock(&j->lock);
	if (last == NULL)
		return 0;
	if ((rc = file_sync_dir(j)) < 0)
		return rc;
	do {
		pthread_mutex_lock(&j->lock);
		d = j->dropped;
		pthread_mutex_unlock(&j->lock);
		if ((rc = give_back(j, d)) < 0)
			return rc;
		pthread_mutex_lock(&j->lock);
		if ((j->dropped = d->next) == NULL)
			j->dropped_last = &j->dropped;
		pthread_mutex_unlock(&j->lock);
		rc = d == last;
		free(d);
	} while (rc == 0);
	return 0;
}

bool
journal_has_dropped(struct journal *j)
{
	bool	 has;

	pthread_mutex_lock(&j->lock);
	has = j->dropped != NULL;
	pthread_mutex_unlock(&j->lock);
	return has;
}

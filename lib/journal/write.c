/*
 * write.c: from memory into files: journal_write, what it makes of segments,
 * and taking back what it did not finish.
 */
#include <sys/uio.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "journal/internal.h"

#define IOV_MAX_HERE	64

/* --- files --------------------------------------------------------------- */

/* The prepared file under the name of a segment, or -1. */
static int
next_take(struct journal *j, const char *name)
{
	int	 fd;

	pthread_mutex_lock(&j->lock);
	fd = j->next_fd;
	pthread_mutex_unlock(&j->lock);
	if (fd == -1)
		return -1;
	if (file_rename(j, NEXT_NAME, name) < 0)
		return -1;
	pthread_mutex_lock(&j->lock);
	j->next_fd = -1;
	pthread_mutex_unlock(&j->lock);
	return fd;
}

/* on_disk is set as long as there may be a file for undo to remove. */
static int
segment_create(struct journal *j, struct segment *s, int *out)
{
	char	 name[NAME_BYTES];
	int	 fd, rc, saved;

	segment_name(name, s->first);
	if ((fd = next_take(j, name)) != -1) {
		s->on_disk = true;
		*out = fd;
		return 0;
	}
	if ((fd = file_open(j, name, O_RDWR | O_CREAT | O_TRUNC)) == -1)
		return file_error();
	s->on_disk = true;
	rc = file_allocate(fd, MAX(j->o.segment_bytes, s->end - s->first));
	if (rc < 0) {
		saved = errno;
		close(fd);
		s->on_disk = file_unlink(j, name) < 0;
		errno = saved;
		return rc;
	}
	*out = fd;
	return 0;
}

/* With sealed files that wait for journal_sync only so many are kept open; it
 * opens the others anew. */
static void
sealed_bound(struct journal *j)
{
	struct file	*f, *oldest = NULL;
	unsigned	 n = 0;

	for (f = j->files; f != NULL; f = f->next) {
		if (!f->sealed || f->busy || f->fd == -1)
			continue;
		if (oldest == NULL)
			oldest = f;
		n++;
	}
	if (n > SEALED_FDS) {
		close(oldest->fd);
		oldest->fd = -1;
	}
}

void
cur_seal(struct journal *j)
{
	size_t	 i;

	if (j->cur == NULL)
		return;
	i = segs_find(j, j->cur->first);
	if (i < j->nsegs && j->segs[i].first == j->cur->first)
		(void)file_truncate(j->cur->fd, j->segs[i].end -
		    j->segs[i].first);
	pthread_mutex_lock(&j->lock);
	j->cur->sealed = true;
	sealed_bound(j);
	pthread_mutex_unlock(&j->lock);
	j->cur = NULL;
}

/* Make the file of s the current one. */
static int
cur_set(struct journal *j, struct segment *s)
{
	int	 fd = -1, rc;

	if (j->cur != NULL && j->cur->first == s->first)
		return 0;
	if ((rc = segment_create(j, s, &fd)) < 0)
		return rc;
	cur_seal(j);
	if ((rc = files_add(j, s->first, fd, false)) < 0) {
		close(fd);
		return rc;
	}
	return 0;
}

/* --- write --------------------------------------------------------------- */

/* The chunk with the byte at pos, which is there. */
static size_t
chunk_at(const struct journal *j, uint64_t pos)
{
	size_t	 i = j->nchunks;

	while (i > 1 && j->chunks[i - 1]->first > pos)
		i--;
	return i - 1;
}

static size_t
gather(const struct journal *j, uint64_t pos, uint64_t end, struct iovec *iov)
{
	size_t		 i, n;
	struct chunk	*c;
	uint64_t	 off;

	for (i = chunk_at(j, pos), n = 0; pos < end && n < IOV_MAX_HERE;
	    i++, n++) {
		c = j->chunks[i];
		off = pos - c->first;
		iov[n].iov_base = c->data + off;
		iov[n].iov_len = MIN(c->len - off, end - pos);
		pos += iov[n].iov_len;
	}
	return n;
}

static ssize_t
write_some(int fd, struct iovec *iov, size_t n, uint64_t off)
{
	if (fault_hit("journal.write")) {
		errno = EIO;
		return -1;
	}
	if (fault_hit("journal.enospc")) {
		errno = ENOSPC;
		return -1;
	}
	if (fault_hit("journal.short")) {
		iov[0].iov_len = (iov[0].iov_len + 1) / 2;
		n = 1;
	}
	return pwritev(fd, iov, (int)n, (off_t)off);
}

/* Write [put, end) to the current file. */
static int
write_to(struct journal *j, uint64_t end)
{
	struct iovec	 iov[IOV_MAX_HERE];
	ssize_t		 n;

	while (j->put < end) {
		n = write_some(j->cur->fd, iov, gather(j, j->put, end, iov),
		    j->put - j->cur->first);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1)
			return file_error();
		j->put += (uint64_t)n;
	}
	return 0;
}

/* Forget the oldest bytes that are written, down to cache_bytes. */
static void
cache_trim(struct journal *j)
{
	size_t		 n = 0;
	struct chunk	*c;

	for (; n < j->nchunks && j->chunk_bytes > j->o.cache_bytes; n++) {
		c = j->chunks[n];
		if (c->first + c->len > journal_written(j))
			break;
		j->chunk_bytes -= c->len;
		if (c->cap == CHUNK_BYTES && j->spare == NULL)
			j->spare = c;
		else
			free(c);
	}
	j->nchunks -= n;
	memmove(j->chunks, j->chunks + n, j->nchunks * sizeof(j->chunks[0]));
}

int
journal_write(struct journal *j)
{
	size_t	 i;
	int	 rc;

	if (journal_written(j) == j->end)
		return 0;
	for (i = segs_find(j, j->put); j->put < j->end; i++)
		if ((rc = cur_set(j, &j->segs[i])) < 0 ||
		    (rc = write_to(j, j->segs[i].end)) < 0)
			return rc;
	atomic_store_explicit(&j->written, j->end, memory_order_release);
	cache_trim(j);
	return 0;
}

/* --- undo ---------------------------------------------------------------- */

/* journal_sync shall not look at the file any more, and nobody write it. */
static void
file_doom(struct journal *j, uint64_t first)
{
	struct file	**at, *f;

	pthread_mutex_lock(&j->lock);
	for (at = &j->files; (f = *at) != NULL && (f->first != first ||
	    f->doomed); at = &f->next)
		;
	if (f != NULL && f->busy) {
		f->doomed = true;
	} else if (f != NULL) {
		*at = f->next;
		close(f->fd);
		free(f);
	}
	pthread_mutex_unlock(&j->lock);
}

/* The file of s is to be written to again. */
static int
file_revive(struct journal *j, const struct segment *s)
{
	char		 name[NAME_BYTES];
	struct file	*f;
	int		 fd;

	segment_name(name, s->first);
	pthread_mutex_lock(&j->lock);
	for (f = j->files; f != NULL && (f->first != s->first ||
	    f->doomed || f->fd == -1); f = f->next)
		;
	if (f != NULL)
		f->sealed = false;
	pthread_mutex_unlock(&j->lock);
	if (f != NULL) {
		j->cur = f;
		return 0;
	}
	if ((fd = file_open(j, name, O_RDWR)) == -1)
		return ERR_IO;
	if (files_add(j, s->first, fd, false) < 0) {
		close(fd);
		return ERR_NOMEM;
	}
	return 0;
}

/* The segment in which the log goes on at w, NULL if in a new one. */
static struct segment *
segment_ending(struct journal *j, uint64_t w)
{
	size_t	 i = w > 0 ? segs_find(j, w - 1) : j->nsegs;

	return i < j->nsegs && j->segs[i].on_disk && !j->segs[i].gap &&
	    j->segs[i].end >= w ? &j->segs[i] : NULL;
}

/*
 * Take out of the files what lies above w. If this fails half way, put is w and
 * cur the file that ends there, so that writing starts over there.
 */
static int
files_cut(struct journal *j, uint64_t w)
{
	struct segment	*last = segment_ending(j, w);
	char		 name[NAME_BYTES];
	size_t		 i;
	int		 rc;

	if (last != NULL && (rc = file_revive(j, last)) < 0)
		return rc;
	if (last == NULL)
		j->cur = NULL;
	j->put = w;
	for (i = j->nsegs; i-- > 0 && j->segs[i].first >= w;)
		if (j->segs[i].on_disk)
			file_doom(j, j->segs[i].first);
	for (i = j->nsegs; i-- > 0 && j->segs[i].first >= w;) {
		if (!j->segs[i].on_disk)
			continue;
		read_forget(j, j->segs[i].first);
		segment_name(name, j->segs[i].first);
		if ((rc = file_unlink(j, name)) < 0)
			return rc;
		j->segs[i].on_disk = false;
	}
	if (last == NULL)
		return 0;
	if ((rc = file_truncate(j->cur->fd, w - last->first)) < 0)
		return rc;
	(void)file_allocate(j->cur->fd, j->o.segment_bytes);
	return 0;
}

/* Whether a journal_write that failed left anything above w. */
static bool
files_reach_beyond(const struct journal *j, uint64_t w)
{
	size_t	 i;

	for (i = j->nsegs; i-- > 0 && j->segs[i].first >= w;)
		if (j->segs[i].on_disk)
			return true;
	return j->put != w;
}

int
journal_undo(struct journal *j)
{
	uint64_t	 w = journal_written(j);
	struct chunk	*c;
	int		 rc;

	if (j->end == w)
		return 0;
	if (files_reach_beyond(j, w) && (rc = files_cut(j, w)) < 0)
		return rc;
	while (j->nsegs > 0 && j->segs[j->nsegs - 1].first >= w)
		j->nsegs--;
	if (j->nsegs > 0 && j->segs[j->nsegs - 1].end > w)
		j->segs[j->nsegs - 1].end = w;
	j->open_end = j->cur != NULL && j->nsegs > 0 &&
	    j->segs[j->nsegs - 1].first == j->cur->first;
	while (j->nchunks > 0 && (c = j->chunks[j->nchunks - 1],
	    c->first + c->len > w)) {
		if (c->first < w) {
			j->chunk_bytes -= c->len - (w - c->first);
			c->len = w - c->first;
			break;
		}
		j->chunk_bytes -= c->len;
		free(c);
		j->nchunks--;
	}
	j->end = w;
	return 0;
}

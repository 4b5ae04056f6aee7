#include <sys/file.h>
#include <sys/stat.h>
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "journal/internal.h"

const char *
journal_damage_str(enum journal_damage_kind kind)
{
	switch (kind) {
	case JOURNAL_TAIL:	return "tail";
	case JOURNAL_BAD:	return "bad";
	case JOURNAL_MISSING:	return "missing";
	case JOURNAL_HEADER:	return "header";
	}
	return "unknown";
}

/* --- small things -------------------------------------------------------- */

void
buf_release(struct journal *j)
{
	free(j->buf);
	j->buf = NULL;
	j->buf_cap = 0;
}

int
buf_need(struct journal *j, size_t len)
{
	uint8_t	*p;

	if (len <= j->buf_cap)
		return 0;
	if ((p = realloc(j->buf, len)) == NULL)
		return ERR_NOMEM;
	j->buf = p;
	j->buf_cap = len;
	return 0;
}

int
files_add(struct journal *j, uint64_t first, int fd, bool sealed)
{
	struct file	*f, **at;

	if ((f = calloc(1, sizeof(*f))) == NULL)
		return ERR_NOMEM;
	f->first = first;
	f->fd = fd;
	f->sealed = sealed;
	pthread_mutex_lock(&j->lock);
	for (at = &j->files; *at != NULL && (*at)->first <= first;
	    at = &(*at)->next)
		;
	f->next = *at;
	*at = f;
	j->dir_dirty = true;
	pthread_mutex_unlock(&j->lock);
	if (!sealed)
		j->cur = f;
	return 0;
}

int
dropped_add(struct journal *j, uint64_t first, uint64_t end, bool whole)
{
	struct dropped	*d;

	if ((d = malloc(sizeof(*d))) == NULL)
		return ERR_NOMEM;
	*d = (struct dropped){ NULL, first, end, whole };
	pthread_mutex_lock(&j->lock);
	*j->dropped_last = d;
	j->dropped_last = &d->next;
	pthread_mutex_unlock(&j->lock);
	return 0;
}

size_t
segs_find(const struct journal *j, uint64_t pos)
{
	size_t	 lo = 0, hi = j->nsegs, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (j->segs[mid].first <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo == 0 ? j->nsegs : lo - 1;
}

static int
segs_reserve(struct journal *j)
{
	size_t		 cap = j->segs_cap ? 2 * j->segs_cap : 16;
	struct segment	*p;

	if (j->nsegs < j->segs_cap)
		return 0;
	if ((p = realloc(j->segs, cap * sizeof(*p))) == NULL)
		return ERR_NOMEM;
	j->segs = p;
	j->segs_cap = cap;
	return 0;
}

void
segs_remove(struct journal *j, size_t i)
{
	j->nsegs--;
	memmove(&j->segs[i], &j->segs[i + 1],
	    (j->nsegs - i) * sizeof(j->segs[0]));
}

/* --- open, close --------------------------------------------------------- */

/* A name of exactly prefix, 16 digits, suffix. */
static bool
name_parse(const char *name, const char *prefix, uint64_t *a,
    const char **rest)
{
	size_t		 i, n = strlen(prefix);
	const char	*c;

	if (strncmp(name, prefix, n) != 0)
		return false;
	for (*a = 0, i = 0, c = name + n; i < 16; i++, c++) {
		if (*c >= '0' && *c <= '9')
			*a = *a << 4 | (uint64_t)(*c - '0');
		else if (*c >= 'a' && *c <= 'f')
			*a = *a << 4 | (uint64_t)(*c - 'a' + 10);
		else
			return false;
	}
	*rest = c;
	return *a <= POS_MAX && *a % RECORD_ALIGN == 0;
}

static int
name_take(struct journal *j, const char *name)
{
	struct segment	 s = { .on_disk = true };
	const char	*rest;
	struct stat	 st;
	uint64_t	 pos;
	int		 rc;

	if (name_parse(name, "quarantine-", &pos, &rest) && *rest == '\0')
		j->quarantines++;
	if (name_parse(name, "seg-", &s.first, &rest) &&
	    strcmp(rest, ".log") == 0) {
		if (fstatat(j->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == -1)
			return ERR_IO;
		if (!S_ISREG(st.st_mode))
			return 0;
		s.end = s.first + MIN((uint64_t)st.st_size, POS_MAX);
	} else if (name_parse(name, "gap-", &s.first, &rest) &&
	    name_parse(rest, "-", &s.end, &rest) && *rest == '\0' &&
	    s.end > s.first) {
		s.gap = true;
		if (fstatat(j->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == -1)
			return ERR_IO;
		/* The process before us did not get that far. */
		if (S_ISREG(st.st_mode) && st.st_size > 0 &&
		    (rc = dropped_add(j, s.first, s.end, false)) < 0)
			return rc;
	} else {
		return 0;		/* not ours */
	}
	if ((rc = segs_reserve(j)) < 0)
		return rc;
	j->segs[j->nsegs++] = s;
	return 0;
}

static int
dir_read(struct journal *j)
{
	struct dirent	*e;
	DIR		*d;
	int		 fd, rc = 0;

	if ((fd = file_open(j, ".", O_RDONLY | O_DIRECTORY)) == -1)
		return ERR_IO;
	if ((d = fdopendir(fd)) == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	while (rc == 0 && (errno = 0, e = readdir(d)) != NULL)
		rc = name_take(j, e->d_name);
	if (rc == 0 && errno != 0)
		rc = ERR_IO;
	closedir(d);
	return rc;
}

/* By position; of the same one the segment before the gap. */
static int
segment_cmp(const void *va, const void *vb)
{
	const struct segment *a = va, *b = vb;

	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return (int)a->gap - (int)b->gap;
}

/* Sort; nothing reaches into the next one (preallocation does). */
static void
segs_settle(struct journal *j)
{
	size_t	 i;

	if (j->nsegs > 0)
		qsort(j->segs, j->nsegs, sizeof(j->segs[0]), segment_cmp);
	for (i = 0; i + 1 < j->nsegs;) {
		if (j->segs[i].first == j->segs[i + 1].first) {
			segs_remove(j, i + 1);	/* a gap made half */
			continue;
		}
		j->segs[i].end = MIN(j->segs[i].end, j->segs[i + 1].first);
		i++;
	}
}

/* Whether a file holds nothing but zeros. */
static int
file_blank(struct journal *j, int fd, bool *blank)
{
	uint64_t	 off;
	size_t		 n, i;
	int		 rc;

	if ((rc = buf_need(j, WINDOW_BYTES)) < 0)
		return rc;
	for (off = 0, *blank = true; *blank; off += n) {
		if ((rc = file_read(fd, j->buf, WINDOW_BYTES, off, &n)) < 0)
			return rc;
		if (n == 0)
			break;
		for (i = 0; i < n && *blank; i++)
			*blank = j->buf[i] == 0;
	}
	return 0;
}

/* Read the header of a segment; blank if it is the last and has no byte. */
static int
head_read(struct journal *j, struct segment *s, bool last, bool *blank)
{
	uint8_t		 p[HEADER_BYTES] = { 0 };
	char		 name[NAME_BYTES];
	bool		 a, b;
	size_t		 n;
	int		 fd, rc;

	*blank = false;
	segment_name(name, s->first);
	if ((fd = file_open(j, name, O_RDONLY)) == -1)
		return ERR_IO;
	if ((rc = file_read(fd, p, sizeof(p), 0, &n)) < 0)
		goto close_fd;
	a = segment_head_valid(p, s->first, &s->salt);
	b = segment_head_valid(p + HEADER_COPY, s->first, &s->salt);
	s->head_lost = !a && !b;
	s->head_hurt = !a || !b;
	if (!s->head_lost && !j->salted) {
		j->salt = s->salt;
		j->salted = true;
	}
	if (s->head_lost && last)
		rc = file_blank(j, fd, blank);
close_fd:
	close(fd);
	return rc;
}

/* The headers, from the end on: a last segment that got no byte yet goes, so
 * that the one before it is the last and may have a torn tail. */
static int
heads_read(struct journal *j)
{
	char		 name[NAME_BYTES];
	bool		 blank, last = true;
	size_t		 i;
	int		 rc;

	for (i = j->nsegs; i-- > 0;) {
		if (j->segs[i].gap)
			continue;
		if ((rc = head_read(j, &j->segs[i], last && i + 1 == j->nsegs,
		    &blank)) < 0)
			return rc;
		if (!blank) {
			last = false;
			continue;
		}
		segment_name(name, j->segs[i].first);
		if ((rc = file_unlink(j, name)) < 0)
			return rc;
		segs_remove(j, i);
	}
	for (i = 0; i < j->nsegs; i++)
		if (j->segs[i].head_lost)
			j->segs[i].salt = j->salt;
	return 0;
}

static int
dir_open(struct journal *j, const char *dir)
{
	bool	 made;
	int	 fd;

	made = mkdir(dir, 0700) == 0;
	if (!made && errno != EEXIST)
		return ERR_IO;
	j->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (j->dirfd == -1)
		return ERR_IO;
	if (flock(j->dirfd, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK)
		return ERR_EXISTS;
	if (!made)
		return 0;
	if ((fd = file_open(j, "..", O_RDONLY | O_DIRECTORY)) == -1)
		return ERR_IO;
	if (fsync(fd) == -1) {
		close(fd);
		return ERR_IO;
	}
	close(fd);
	return 0;
}

static int
opts_take(struct journal_opts *to, const struct journal_opts *o)
{
	*to = *o;
	if (to->segment_bytes == 0)
		to->segment_bytes = 64u << 20;
	if (to->cache_bytes == 0)
		to->cache_bytes = 8u << 20;
	if (to->pending_bytes == 0)
		to->pending_bytes = 64u << 20;
	return to->segment_bytes < JOURNAL_SEGMENT_MIN ||
	    to->segment_bytes > JOURNAL_SEGMENT_MAX ? ERR_INVAL : 0;
}

int
journal_open(struct journal **out, const char *dir,
    const struct journal_opts *o)
{
	struct journal	*j;
	int		 rc;

	if ((j = calloc(1, sizeof(*j))) == NULL)
		return ERR_NOMEM;
	pthread_mutex_init(&j->lock, NULL);
	j->dirfd = j->next_fd = j->read_fd = -1;
	j->dropped_last = &j->dropped;
	j->salt = o->salt;
	if ((rc = opts_take(&j->o, o)) < 0 || (rc = dir_open(j, dir)) < 0 ||
	    (rc = file_unlink(j, NEXT_NAME)) < 0 || (rc = dir_read(j)) < 0)
		goto close_journal;
	segs_settle(j);
	if ((rc = heads_read(j)) < 0)
		goto close_journal;
	*out = j;
	return 0;

close_journal:
	journal_close(&j);
	return rc;
}

void
journal_close(struct journal **jp)
{
	struct journal	*j = *jp;
	int		 saved = errno;
	struct dropped	*d;
	struct file	*f;
	size_t		 i;

	if (j == NULL)
		return;
	if (j->ready)
		(void)journal_reclaim(j);	/* or the next start does */
	while ((d = j->dropped) != NULL) {
		j->dropped = d->next;
		free(d);
	}
	if (j->next_fd != -1) {
		close(j->next_fd);
		(void)file_unlink(j, NEXT_NAME);
	}
	while ((f = j->files) != NULL) {
		j->files = f->next;
		if (f->fd != -1)
			close(f->fd);
		free(f);
	}
	if (j->read_fd != -1)
		close(j->read_fd);
	if (j->dirfd != -1)
		close(j->dirfd);
	for (i = 0; i < j->nchunks; i++)
		free(j->chunks[i]);
	free(j->chunks);
	free(j->spare);
	free(j->segs);
	free(j->buf);
	pthread_mutex_destroy(&j->lock);
	free(j);
	*jp = NULL;
	errno = saved;
}

/* --- append -------------------------------------------------------------- */

static int
chunk_add(struct journal *j, size_t need)
{
	size_t		 cap = j->chunks_cap ? 2 * j->chunks_cap : 16;
	struct chunk	*c, **p;

	if (j->nchunks == j->chunks_cap) {
		if ((p = realloc(j->chunks, cap * sizeof(*p))) == NULL)
			return ERR_NOMEM;
		j->chunks = p;
		j->chunks_cap = cap;
	}
	c = need <= CHUNK_BYTES ? j->spare : NULL;
	if (c != NULL) {
		j->spare = NULL;
	} else {
		cap = MAX(need, CHUNK_BYTES);
		if ((c = malloc(sizeof(*c) + cap)) == NULL)
			return ERR_NOMEM;
		c->cap = cap;
	}
	c->first = j->end;
	c->len = 0;
	j->chunks[j->nchunks++] = c;
	return 0;
}

/* The chunk that has room for need more bytes at the end. */
static int
chunk_reserve(struct journal *j, size_t need, struct chunk **out)
{
	struct chunk	*c = j->nchunks ? j->chunks[j->nchunks - 1] : NULL;
	int		 rc;

	/* After a replay or an undo the end may be elsewhere. */
	if ((c == NULL || c->first + c->len != j->end ||
	    c->cap - c->len < need) && (rc = chunk_add(j, need)) < 0)
		return rc;
	*out = j->chunks[j->nchunks - 1];
	return 0;
}

static void
chunk_grow(struct journal *j, struct chunk *c, size_t n)
{
	c->len += n;
	j->chunk_bytes += n;
	j->end += n;
	j->segs[j->nsegs - 1].end = j->end;
}

static void
segment_start(struct journal *j, struct chunk *c)
{
	j->segs[j->nsegs++] = (struct segment){ .first = j->end,
	    .end = j->end, .salt = j->salt };
	j->open_end = true;
	segment_head(c->data + c->len, j->end, j->salt);
	chunk_grow(j, c, HEADER_BYTES);
}

/* Whether a record of size bytes goes into a new segment. */
static bool
segment_due(const struct journal *j, uint64_t size)
{
	const struct segment *s;
	uint64_t	 used;

	if (!j->open_end)
		return true;
	s = &j->segs[j->nsegs - 1];
	used = s->end - s->first;
	return used > HEADER_BYTES && used + size > j->o.segment_bytes;
}

int
journal_append(struct journal *j, unsigned type, const struct slice *parts,
    size_t nparts, uint64_t *pos)
{
	uint64_t	 len = 0, size, pending = j->end - journal_written(j);
	struct chunk	*c;
	bool		 fresh;
	uint8_t		*p;
	size_t		 i;
	int		 rc;

	for (i = 0; i < nparts; i++) {
		if (parts[i].len > JOURNAL_RECORD_MAX - len)
			return ERR_INVAL;
		len += parts[i].len;
	}
	size = record_bytes(len);
	if (!j->ready || type > JOURNAL_TYPE_MAX ||
	    j->end > POS_MAX - size - HEADER_BYTES)
		return ERR_INVAL;
	if (pending > 0 && pending + size > j->o.pending_bytes)
		return ERR_FULL;
	fresh = segment_due(j, size);
	if ((rc = segs_reserve(j)) < 0 ||
	    (rc = chunk_reserve(j, size + HEADER_BYTES, &c)) < 0)
		return rc;
	if (fresh)
		segment_start(j, c);
	p = c->data + c->len;
	memset(p + size - RECORD_ALIGN, 0, RECORD_ALIGN);
	for (p += RECORD_HEAD, i = 0; i < nparts; p += parts[i++].len)
		if (parts[i].len > 0)
			memcpy(p, parts[i].data, parts[i].len);
	record_seal(c->data + c->len, j->end, j->segs[j->nsegs - 1].salt, type,
	    (uint32_t)len);
	if (pos != NULL)
		*pos = j->end;
	chunk_grow(j, c, size);
	return 0;
}

/* --- segments ------------------------------------------------------------ */

uint64_t
journal_begin(const struct journal *j)
{
	return j->nsegs > 0 ? j->segs[0].first : j->end;
}

uint64_t
journal_end(const struct journal *j)
{
	return j->end;
}

uint64_t
journal_written(const struct journal *j)
{
	return atomic_load_explicit(&j->written, memory_order_relaxed);
}

uint64_t
journal_bytes(const struct journal *j)
{
	uint64_t	 n = 0;
	size_t		 i;

	for (i = 0; i < j->nsegs; i++)
		if (!j->segs[i].gap)
			n += j->segs[i].end - j->segs[i].first;
	return n;
}

bool
journal_segment_at(const struct journal *j, uint64_t pos,
    struct journal_segment *out)
{
	size_t	 i = segs_find(j, pos);

	if (i == j->nsegs || j->segs[i].gap || pos >= j->segs[i].end)
		return false;
	*out = (struct journal_segment){ j->segs[i].first,
	    j->segs[i].end - j->segs[i].first };
	return true;
}

bool
journal_segment_from(const struct journal *j, uint64_t pos,
    struct journal_segment *out)
{
	size_t	 i = segs_find(j, pos);

	if (i == j->nsegs)
		i = 0;			/* all begin above pos, or none is */
	else if (j->segs[i].first < pos)
		i++;
	while (i < j->nsegs && j->segs[i].gap)
		i++;
	return i < j->nsegs && journal_segment_at(j, j->segs[i].first, out);
}

static int
oldest_remove(struct journal *j)
{
	struct segment	*s = &j->segs[0];
	char		 name[NAME_BYTES];
	int		 rc;

	if (s->gap)
		gap_name(name, s->first, s->end);
	else
		segment_name(name, s->first);
	if ((rc = file_unlink(j, name)) < 0)
		return rc;
	read_forget(j, s->first);
	segs_remove(j, 0);
	return 0;
}

static bool
oldest_ends_by(const struct journal *j, uint64_t pos)
{
	return j->nsegs > 1 && j->segs[0].end <= pos &&
	    j->segs[0].end <= journal_written(j);
}

int
journal_drop(struct journal *j, uint64_t pos)
{
	int	 n = 0;
	bool	 gap;

	while (oldest_ends_by(j, pos)) {
		gap = j->segs[0].gap;
		if (oldest_remove(j) < 0)
			return n > 0 ? n : ERR_IO;
		n += !gap;
	}
	return n;
}

/* Gaps that nothing is older than need no name any more. */
static void
gaps_end(struct journal *j)
{
	struct segment	*s;

	while (j->nsegs > 1 && (s = &j->segs[0])->gap &&
	    dropped_add(j, s->first, s->end, true) == 0)
		segs_remove(j, 0);
}

int
journal_drop_segment(struct journal *j, uint64_t first)
{
	char		 name[NAME_BYTES], gap[NAME_BYTES];
	struct segment	*s;
	size_t		 i = segs_find(j, first);

	if (i == j->nsegs || j->segs[i].first != first || j->segs[i].gap)
		return ERR_NOTFOUND;
	s = &j->segs[i];
	if (i + 1 == j->nsegs || s->end > journal_written(j))
		return ERR_INVAL;
	segment_name(name, s->first);
	gap_name(gap, s->first, s[1].first);
	if (file_rename(j, name, gap) < 0)
		return ERR_IO;
	/* The name is the truth from here on. Ours is closed now: the last one
	 * to close a file that is gone gives back its bytes. */
	read_forget(j, s->first);
	s->gap = true;
	s->end = s[1].first;
	pthread_mutex_lock(&j->lock);
	j->dir_dirty = true;
	pthread_mutex_unlock(&j->lock);
	/* Without memory the next start finds it. */
	(void)dropped_add(j, s->first, s->end, false);
	gaps_end(j);
	return 0;
}

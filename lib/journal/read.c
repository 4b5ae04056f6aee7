#include <fcntl.h>
#include <unistd.h>

#include "base/err.h"
#include "journal/internal.h"

#define GUESS_BYTES	4096u		/* head and most bodies in one read */

static int
read_memory(const struct journal *j, uint64_t pos, uint64_t salt,
    struct head *h, const uint8_t **body)
{
	size_t		 lo = 0, hi = j->nchunks, mid;
	const struct chunk *c;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (j->chunks[mid]->first <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == 0)
		return ERR_NOTFOUND;
	c = j->chunks[lo - 1];
	if (pos - c->first >= c->len)
		return ERR_NOTFOUND;
	*body = c->data + (pos - c->first);
	if (c->len - (pos - c->first) < RECORD_HEAD ||
	    !record_head(*body, pos, salt, h) ||
	    record_bytes(h->len) > c->len - (pos - c->first))
		return ERR_CORRUPT;
	*body += RECORD_HEAD;
	return 0;
}

void
read_forget(struct journal *j, uint64_t first)
{
	if (j->read_fd == -1 || j->read_first != first)
		return;
	close(j->read_fd);
	j->read_fd = -1;
}

static int
read_open(struct journal *j, const struct segment *s)
{
	char	 name[NAME_BYTES];

	if (j->read_fd != -1 && j->read_first == s->first)
		return 0;
	if (j->read_fd != -1)
		close(j->read_fd);
	segment_name(name, s->first);
	if ((j->read_fd = file_open(j, name, O_RDONLY)) == -1)
		return ERR_IO;
	j->read_first = s->first;
	return 0;
}

static int
read_disk(struct journal *j, const struct segment *s, uint64_t pos,
    struct head *h, const uint8_t **body)
{
	uint64_t	 off = pos - s->first, size;
	size_t		 n, more;
	int		 rc;

	if ((rc = buf_need(j, GUESS_BYTES)) < 0 ||
	    (rc = read_open(j, s)) < 0 ||
	    (rc = file_read(j->read_fd, j->buf, MIN(GUESS_BYTES, s->end - pos),
	    off, &n)) < 0)
		return rc;
	if (n < RECORD_HEAD || !record_head(j->buf, pos, s->salt, h))
		return ERR_CORRUPT;
	size = record_bytes(h->len);
	if (size > s->end - pos)
		return ERR_CORRUPT;
	if (size > n) {
		if ((rc = buf_need(j, size)) < 0 ||
		    (rc = file_read(j->read_fd, j->buf + n, size - n, off + n,
		    &more)) < 0)
			return rc;
		if (more < size - n)
			return ERR_CORRUPT;
	}
	*body = j->buf + RECORD_HEAD;
	return 0;
}

int
journal_read(struct journal *j, uint64_t pos, unsigned *type,
    struct slice *body)
{
	const struct segment *s;
	const uint8_t	*p = NULL;
	struct head	 h;
	size_t		 i;
	int		 rc;

	if (!j->ready)
		return ERR_INVAL;
	if (j->buf_cap > BUF_KEPT)
		buf_release(j);
	i = segs_find(j, pos);
	if (i == j->nsegs || pos >= j->segs[i].end || j->segs[i].gap)
		return ERR_NOTFOUND;
	s = &j->segs[i];
	if (pos % RECORD_ALIGN != 0 || pos - s->first < HEADER_BYTES)
		return ERR_CORRUPT;
	rc = read_memory(j, pos, s->salt, &h, &p);
	if (rc == ERR_NOTFOUND)
		rc = read_disk(j, s, pos, &h, &p);
	if (rc < 0)
		return rc;
	if (!record_body_valid(p, &h, pos, s->salt))
		return ERR_CORRUPT;
	if (type != NULL)
		*type = h.type;
	*body = (struct slice){ p, h.len };
	return 0;
}

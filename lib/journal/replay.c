/*
 * replay.c: what journal_open found, read from a position on: records to the
 * caller, damage reported and copied, the torn tail cut, the end made ready.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "journal/internal.h"

struct replay {
	struct journal	*j;
	journal_each	*each;
	journal_damaged	*damaged;
	void		*ctx;
};

/* A segment under scan: j->buf holds its bytes [at, at + n). Offsets. */
struct scan {
	struct segment	*s;
	int		 fd;
	uint64_t	 at, limit;	/* limit: no record ends above it */
	size_t		 n;
	bool		 bad;
	uint64_t	 bad_from;
	uint64_t	 noise_end;	/* behind its last byte not zero */
};

/* --- damage -------------------------------------------------------------- */

static int
copy_range(int from, int to, uint64_t a, uint64_t b)
{
	uint8_t	 block[16 << 10];
	uint64_t at = a;
	size_t	 n;
	int	 rc;

	for (; at < b; at += n) {
		if ((rc = file_read(from, block, MIN(sizeof(block), b - at),
		    at, &n)) < 0 ||
		    (rc = file_write(to, block, n, at - a)) < 0)
			return rc;
		if (n == 0)
			break;
	}
	return fsync(to) == -1 ? ERR_IO : 0;
}

/* Copy a range of a file; the name of the copy, or "" if there is none: the
 * disk is full, or there are enough. */
static void
quarantine(struct journal *j, const struct scan *sc, uint64_t a, uint64_t b,
    char name[NAME_BYTES])
{
	struct stat	 st;
	bool		 have;
	int		 fd;

	quarantine_name(name, sc->s->first + a);
	have = fstatat(j->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	if (!have && j->quarantines >= JOURNAL_QUARANTINES)
		goto none;
	if ((fd = file_open(j, name, O_WRONLY | O_CREAT | O_TRUNC)) == -1)
		goto none;
	if (copy_range(sc->fd, fd, a, b) < 0) {
		close(fd);
		(void)file_unlink(j, name);
		goto none;
	}
	close(fd);
	j->quarantines += !have;
	return;
none:
	name[0] = '\0';
}

static void
damage_tell(struct replay *r, enum journal_damage_kind kind, uint64_t pos,
    uint64_t bytes)
{
	struct journal_damage d = { .kind = kind, .pos = pos, .bytes = bytes };

	if (r->damaged != NULL)
		r->damaged(r->ctx, &d);
}

/* Report [a, b) of the segment under scan, with a copy. */
static void
damage_found(struct replay *r, struct scan *sc, enum journal_damage_kind kind,
    uint64_t a, uint64_t b)
{
	struct journal_damage d = { .kind = kind, .pos = sc->s->first + a,
	    .bytes = b - a };

	quarantine(r->j, sc, a, b, d.quarantine);
	if (r->damaged != NULL)
		r->damaged(r->ctx, &d);
}

/* --- one segment --------------------------------------------------------- */

/* len bytes at off, which are below the limit, or ERR_CORRUPT if the file is
 * shorter than it was. */
static int
scan_need(struct journal *j, struct scan *sc, uint64_t off, size_t len,
    const uint8_t **out)
{
	int	 rc;

	if (off < sc->at || off + len > sc->at + sc->n) {
		if ((rc = buf_need(j, MAX(len, WINDOW_BYTES))) < 0 ||
		    (rc = file_read(sc->fd, j->buf, MIN(j->buf_cap,
		    sc->limit - off), off, &sc->n)) < 0)
			return rc;
		sc->at = off;
		if (sc->n < len)
			return ERR_CORRUPT;
	}
	*out = j->buf + (off - sc->at);
	return 0;
}

static void
bad_begin(struct scan *sc, uint64_t off)
{
	if (sc->bad)
		return;
	sc->bad = true;
	sc->bad_from = sc->noise_end = off;
}

/*
 * Look at off: 1 for a record, with its head and body; 0 for none, *size being
 * what to skip.
 */
static int
scan_one(struct journal *j, struct scan *sc, uint64_t off, struct head *h,
    const uint8_t **body, uint64_t *size)
{
	uint64_t	 pos = sc->s->first + off, left = sc->limit - off;
	const uint8_t	*p;
	int		 rc;

	*size = MIN(RECORD_ALIGN, left);
	if (left < RECORD_HEAD) {
		*size = left;
		rc = scan_need(j, sc, off, left, &p);
		if (rc == 0 && memcmp(p, (uint8_t[RECORD_HEAD]){ 0 },
		    left) != 0) {
			bad_begin(sc, off);
			sc->noise_end = sc->limit;
		}
		return rc;
	}
	if ((rc = scan_need(j, sc, off, RECORD_HEAD, &p)) < 0)
		return rc;
	if (!record_head(p, pos, sc->s->salt, h)) {
		bad_begin(sc, off);
		if (get_le64(p) != 0)
			sc->noise_end = off + RECORD_ALIGN;
		return 0;
	}
	*size = record_bytes(h->len);
	if (*size <= left) {
		if ((rc = scan_need(j, sc, off, *size, &p)) < 0)
			return rc;
		*body = p + RECORD_HEAD;
		if (record_body_valid(*body, h, pos, sc->s->salt))
			return 1;
	}
	/* The head says how much of the body there would be. */
	*size = MIN(*size, left);
	bad_begin(sc, off);
	sc->noise_end = off + *size;
	return 0;
}

/* Records from off to the limit, those at or above position from delivered;
 * what is bad at the end is left in sc. *end: of the last one. */
static int
scan_records(struct replay *r, struct scan *sc, uint64_t off, uint64_t from,
    uint64_t *end)
{
	const uint8_t	*body = NULL;
	struct head	 h;
	uint64_t	 size;
	int		 rc;

	for (*end = off; off < sc->limit; off += size) {
		if ((rc = scan_one(r->j, sc, off, &h, &body, &size)) < 0)
			return rc;
		if (rc == 0)
			continue;
		if (sc->bad)
			damage_found(r, sc, JOURNAL_BAD, sc->bad_from, off);
		sc->bad = false;
		*end = off + size;
		if (r->each == NULL || sc->s->first + off < from)
			continue;
		if ((rc = r->each(r->ctx, sc->s->first + off, h.type, body,
		    h.len)) != 0)
			return rc;
	}
	return 0;
}

/* Report a damaged header and write it anew if the salt is known. It does no
 * harm to find it damaged again, so failing is no failure. */
static void
header_mend(struct replay *r, struct scan *sc)
{
	uint8_t	 p[HEADER_BYTES];

	damage_found(r, sc, JOURNAL_HEADER, 0, HEADER_BYTES);
	if (sc->s->head_lost && !r->j->salted)
		return;
	segment_head(p, sc->s->first, sc->s->salt);
	(void)file_write(sc->fd, p, sizeof(p), 0);
}

/* Cut the last segment behind end, an offset. */
static int
tail_cut(struct replay *r, struct scan *sc, uint64_t end)
{
	int	 rc;

	end = MAX(end, HEADER_BYTES);	/* a torn header, one copy whole */
	if (sc->bad && sc->noise_end > sc->bad_from)
		damage_found(r, sc, JOURNAL_TAIL, sc->bad_from,
		    sc->noise_end);
	if ((rc = file_truncate(sc->fd, end)) < 0)
		return rc;
	sc->s->end = sc->s->first + end;
	if (sc->s->head_hurt)
		header_mend(r, sc);
	(void)file_allocate(sc->fd, r->j->o.segment_bytes);
	return 0;
}

/* The last segment: all of it is looked at, or it would not be known where it
 * ends. It stays open for writing. */
static int
scan_last(struct replay *r, struct scan *sc, uint64_t from)
{
	uint64_t	 end;
	int		 rc;

	if ((rc = scan_records(r, sc, MIN(HEADER_BYTES, sc->limit), from,
	    &end)) != 0)
		return rc;
	if ((rc = tail_cut(r, sc, end)) < 0)
		return rc;
	return files_add(r->j, sc->s->first, sc->fd, false);
}

/* Another one, from position from on. */
static int
scan_earlier(struct replay *r, struct scan *sc, uint64_t from)
{
	uint64_t	 off = HEADER_BYTES, end;
	int		 rc;

	if (from > sc->s->first + HEADER_BYTES)
		off = from - sc->s->first;
	if ((rc = scan_records(r, sc, MIN(off, sc->limit), from, &end)) != 0)
		return rc;
	if (sc->bad)
		damage_found(r, sc, JOURNAL_BAD, sc->bad_from, sc->limit);
	if (sc->s->head_hurt)
		header_mend(r, sc);
	if ((rc = files_add(r->j, sc->s->first, -1, true)) < 0)
		return rc;
	close(sc->fd);
	return 0;
}

static int
scan_segment(struct replay *r, struct segment *s, uint64_t from, bool last)
{
	struct scan	 sc = { .s = s, .limit = s->end - s->first };
	char		 name[NAME_BYTES];
	int		 rc;

	segment_name(name, s->first);
	if ((sc.fd = file_open(r->j, name, O_RDWR)) == -1)
		return ERR_IO;
	rc = last ? scan_last(r, &sc, from) : scan_earlier(r, &sc, from);
	if (rc != 0)
		close(sc.fd);
	return rc;
}

/* Whether there is any record in a segment. */
static int
scan_any(struct journal *j, struct scan *sc, bool *any)
{
	const uint8_t	*body;
	struct head	 h;
	uint64_t	 off, size;
	int		 rc = 0;

	for (off = HEADER_BYTES; rc == 0 && off < sc->limit; off += size)
		rc = scan_one(j, sc, off, &h, &body, &size);
	*any = rc > 0;
	return MIN(rc, 0);
}

/* The last segment, of which not one byte is known to be ours: out of the way
 * with it, under another name, so that the one before it is the last. */
static int
segment_refuse(struct replay *r, const struct segment *s)
{
	struct journal_damage d = { .kind = JOURNAL_TAIL, .pos = s->first,
	    .bytes = s->end - s->first };
	char		 name[NAME_BYTES];
	int		 rc;

	segment_name(name, s->first);
	quarantine_name(d.quarantine, s->first);
	if ((rc = file_rename(r->j, name, d.quarantine)) < 0)
		return rc;
	r->j->nsegs--;
	if (r->damaged != NULL)
		r->damaged(r->ctx, &d);
	return 0;
}

static int
noise_refuse(struct replay *r)
{
	struct journal	*j = r->j;
	struct scan	 sc;
	char		 name[NAME_BYTES];
	bool		 any;
	int		 rc;

	while (j->nsegs > 0 && j->segs[j->nsegs - 1].head_lost) {
		sc = (struct scan){ .s = &j->segs[j->nsegs - 1] };
		sc.limit = sc.s->end - sc.s->first;
		segment_name(name, sc.s->first);
		if ((sc.fd = file_open(j, name, O_RDONLY)) == -1)
			return ERR_IO;
		rc = scan_any(j, &sc, &any);
		close(sc.fd);
		if (rc < 0 || any)
			return rc;
		if ((rc = segment_refuse(r, sc.s)) < 0)
			return rc;
	}
	return 0;
}

/* --- all ----------------------------------------------------------------- */

/* Deliver what there is at or above from; *at becomes the end. */
static int
scan_all(struct replay *r, uint64_t from, uint64_t *at)
{
	struct journal	*j = r->j;
	struct segment	*s;
	bool		 last;
	size_t		 i;
	int		 rc;

	for (*at = from, i = 0; i < j->nsegs; i++) {
		s = &j->segs[i];
		last = i + 1 == j->nsegs;
		if (!last && j->segs[i + 1].first <= from)
			continue;
		if (s->first > *at)
			damage_tell(r, JOURNAL_MISSING, *at, s->first - *at);
		if (!s->gap && (rc = scan_segment(r, s, from, last)) != 0)
			return rc;
		*at = s->end;
	}
	return 0;
}

int
journal_replay(struct journal *j, uint64_t from, journal_each *each,
    journal_damaged *damaged, void *ctx)
{
	struct replay	 r = { j, each, damaged, ctx };
	struct segment	*s;
	uint64_t	 at;
	int		 rc;

	if (j->ready || from % RECORD_ALIGN != 0 || from > POS_MAX)
		return ERR_INVAL;
	if ((rc = noise_refuse(&r)) < 0 ||
	    (rc = scan_all(&r, from, &at)) != 0)
		return rc;
	s = j->nsegs > 0 ? &j->segs[j->nsegs - 1] : NULL;
	if (at < from || (s == NULL && from > 0))
		damage_tell(&r, JOURNAL_MISSING, at, from - at);
	j->open_end = j->cur != NULL && at >= from;
	if (j->cur != NULL && !j->open_end)
		cur_seal(j);
	j->end = j->put = MAX(at, from);
	atomic_store(&j->written, j->end);
	j->ready = true;
	buf_release(j);
	return 0;
}

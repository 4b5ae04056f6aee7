#include "kv/snap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "kv/access.h"
#include "kv/internal.h"

#define SNAP_MAGIC	"mqttckvS"
#define SNAP_VERSION	1u
#define SNAP_HEAD	32u
#define RECORD_HEAD	16u
#define TRAILER		24u
#define BUFFER		(256u << 10)
#define SYNC_BYTES	(4u << 20)
#define SLICE_RECORDS	1024u
#define SLICE_BYTES	(1u << 20)

/* --- Reading ------------------------------------------------------------ */

struct reader {
	const struct kv_snap_source *src;
	XXH3_state_t	*hash;		/* of all bytes taken */
	uint64_t	 left;		/* bytes not taken yet */
	uint8_t		*buf;		/* key and value of a record */
	size_t		 room;
	uint8_t		*last;		/* key before it */
	size_t		 last_len;
};

/* Exactly len bytes, into the checksum too unless they are it. */
static int
take(struct reader *r, void *out, size_t len, bool hashed)
{
	uint8_t	*p = out;
	size_t	 got = 0;
	long	 n;

	if (len > r->left)
		return ERR_CORRUPT;
	while (got < len) {
		n = r->src->read(r->src->ctx, p + got, len - got);
		if (n < 0)
			return ERR_IO;
		if (n == 0)
			return ERR_CORRUPT;
		got += (size_t)n;
	}
	r->left -= len;
	if (hashed && len > 0)
		XXH3_64bits_update(r->hash, p, len);
	return 0;
}

static int
take_head(struct reader *r, struct kv_snap_info *info)
{
	uint8_t	head[SNAP_HEAD];
	int	rc;

	if ((rc = take(r, head, sizeof(head), true)) < 0)
		return rc;
	if (memcmp(head, SNAP_MAGIC, 8) != 0 ||
	    get_le32(head + 8) != SNAP_VERSION || get_le32(head + 12) != 0 ||
	    get_le64(head + 24) != XXH3_64bits(head, 24))
		return ERR_CORRUPT;
	info->position = get_le64(head + 16);
	info->records = 0;
	return 0;
}

static int
take_record(struct reader *r, uint32_t klen, uint32_t vlen, uint64_t sum,
    kv_each_fn *fn, void *ctx)
{
	struct slice	 key, value;
	size_t		 len = (size_t)klen + vlen;
	uint8_t		*p;
	int		 rc, order;

	/* What is claimed must be there before memory is given for it. */
	if (klen > KV_KEY_MAX || vlen > KV_VALUE_MAX || len > r->left)
		return ERR_CORRUPT;
	if (len > r->room) {
		if ((p = realloc(r->buf, len)) == NULL)
			return ERR_NOMEM;
		r->buf = p;
		r->room = len;
	}
	if ((rc = take(r, r->buf, len, true)) < 0)
		return rc;
	key = (struct slice){ r->buf, klen };
	value = (struct slice){ r->buf + klen, vlen };
	if (*key.data == 0 || sum != kv_record_sum(key.data, klen, value.data,
	    vlen))
		return ERR_CORRUPT;
	order = memcmp(r->last, key.data, MIN(r->last_len, key.len));
	if (order > 0 || (order == 0 && r->last_len >= key.len))
		return ERR_CORRUPT;
	memcpy(r->last, key.data, key.len);
	r->last_len = key.len;
	return fn(ctx, &key, &value);
}

static int
take_trailer(struct reader *r, const uint8_t *head, uint64_t records)
{
	uint64_t	want;
	uint8_t		sum[8];
	int		rc;

	/* The second half of head is the number of records. */
	want = XXH3_64bits_digest(r->hash);
	if ((rc = take(r, sum, sizeof(sum), false)) < 0)
		return rc;
	if (get_le32(head + 4) != 0 || get_le64(head + 8) != records ||
	    get_le64(sum) != want || r->left != 0)
		return ERR_CORRUPT;
	return 0;
}

int
kv_snap_parse(const struct kv_snap_source *src, kv_each_fn *fn, void *ctx,
    struct kv_snap_info *info)
{
	struct reader		r = { .src = src, .left = src->size };
	struct kv_snap_info	in = { 0 };
	uint8_t			head[RECORD_HEAD];
	int			rc = ERR_NOMEM;

	if ((r.hash = XXH3_createState()) == NULL)
		return ERR_NOMEM;
	XXH3_64bits_reset(r.hash);
	if ((r.last = malloc(KV_KEY_MAX)) == NULL)
		goto free_hash;
	if ((rc = take_head(&r, &in)) < 0)
		goto free_last;
	for (;;) {
		if ((rc = take(&r, head, sizeof(head), true)) < 0)
			break;
		if (get_le32(head) == 0) {
			rc = take_trailer(&r, head, in.records);
			break;
		}
		if ((rc = take_record(&r, get_le32(head), get_le32(head + 4),
		    get_le64(head + 8), fn, ctx)) != 0)
			break;
		in.records++;
	}
	if (rc == 0)
		*info = in;
	free(r.buf);
free_last:
	free(r.last);
free_hash:
	XXH3_freeState(r.hash);
	return rc;
}

struct file_in {
	int	 fd;
	uint8_t	*buf;
	size_t	 at, len;
};

static long
file_read(void *ctx, void *buf, size_t len)
{
	struct file_in	*f = ctx;
	ssize_t		 n;

	if (f->at == f->len) {
		if (fault_hit("kv.snap.read")) {
			errno = EIO;
			return -1;
		}
		while ((n = read(f->fd, f->buf, BUFFER)) < 0 &&
		    errno == EINTR)
			;
		if (n <= 0)
			return (long)n;
		f->at = 0;
		f->len = (size_t)n;
	}
	len = MIN(len, f->len - f->at);
	memcpy(buf, f->buf + f->at, len);
	f->at += len;
	return (long)len;
}

int
kv_snap_read(int dirfd, kv_each_fn *fn, void *ctx, struct kv_snap_info *info)
{
	struct file_in		f = { 0 };
	struct kv_snap_source	src = { .read = file_read, .ctx = &f };
	struct stat		st;
	int			rc = ERR_IO, e;

	f.fd = openat(dirfd, KV_SNAP, O_RDONLY | O_CLOEXEC);
	if (f.fd < 0)
		return errno == ENOENT ? ERR_NOTFOUND : ERR_IO;
	if (fstat(f.fd, &st) < 0)
		goto close_fd;
	src.size = (uint64_t)st.st_size;
	if ((f.buf = malloc(BUFFER)) == NULL) {
		rc = ERR_NOMEM;
		goto close_fd;
	}
	rc = kv_snap_parse(&src, fn, ctx, info);
	free(f.buf);
close_fd:
	e = errno;
	close(f.fd);
	errno = e;
	return rc;
}

/* --- Writing ------------------------------------------------------------ */

struct writer {
	int		 fd;
	XXH3_state_t	*hash;
	uint8_t		*buf;
	size_t		 len;
	size_t		 unsynced;
};

static int
io_error(void)
{
	return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ?
	    ERR_FULL : ERR_IO;
}

static int
out_flush(struct writer *w, bool sync)
{
	size_t	at = 0;
	ssize_t	n;

	while (at < w->len) {
		size_t	len = w->len - at;

		/* A disk that fills up takes a part first. */
		if (fault_hit("kv.snap.write")) {
			if (write(w->fd, w->buf + at, len / 2) >= 0)
				errno = ENOSPC;
			return io_error();
		}
		if ((n = write(w->fd, w->buf + at, len)) < 0) {
			if (errno == EINTR)
				continue;
			return io_error();
		}
		at += (size_t)n;
	}
	w->unsynced += w->len;
	w->len = 0;
	if (sync || w->unsynced >= SYNC_BYTES) {
		if (fault_hit("kv.snap.fsync")) {
			errno = EIO;
			return ERR_IO;
		}
		if (fdatasync(w->fd) < 0)
			return io_error();
		w->unsynced = 0;
	}
	return 0;
}

static int
out(struct writer *w, const void *data, size_t len)
{
	const uint8_t	*p = data;
	size_t		 n;
	int		 rc;

	if (len > 0)
		XXH3_64bits_update(w->hash, p, len);
	while (len > 0) {
		n = MIN(len, BUFFER - w->len);
		memcpy(w->buf + w->len, p, n);
		w->len += n;
		p += n;
		len -= n;
		if (w->len == BUFFER && (rc = out_flush(w, false)) < 0)
			return rc;
	}
	return 0;
}

static int
out_record(struct writer *w, const struct slice *key,
    const struct slice *value)
{
	uint8_t	head[RECORD_HEAD];
	int	rc;

	put_le32(head, (uint32_t)key->len);
	put_le32(head + 4, (uint32_t)value->len);
	put_le64(head + 8, kv_record_sum(key->data, key->len, value->data,
	    value->len));
	if ((rc = out(w, head, sizeof(head))) < 0 ||
	    (rc = out(w, key->data, key->len)) < 0)
		return rc;
	return out(w, value->data, value->len);
}

static int
out_all(struct writer *w, struct kv_tree *t, bool (*stop)(void *),
    void *stop_ctx)
{
	struct kv_cursor	c;
	struct slice		key, value;
	uint8_t			b[SNAP_HEAD] = { 0 };
	uint64_t		n = 0;
	size_t			slice = 0;
	int			rc;

	memcpy(b, SNAP_MAGIC, 8);
	put_le32(b + 8, SNAP_VERSION);
	put_le64(b + 16, kv_position(t));
	put_le64(b + 24, XXH3_64bits(b, 24));
	if ((rc = out(w, b, sizeof(b))) < 0)
		return rc;
	if ((rc = kv_cursor_open(t, &c)) < 0)
		return rc;
	while ((rc = kv_cursor_next(&c, &key, &value)) == 1) {
		if (slice == 0 && stop != NULL && stop(stop_ctx)) {
			rc = ERR_AGAIN;
			break;
		}
		if ((rc = out_record(w, &key, &value)) < 0)
			break;
		slice += value.len;
		if (++n % SLICE_RECORDS == 0 || slice >= SLICE_BYTES)
			slice = 0;
	}
	kv_cursor_close(&c);
	if (rc < 0)
		return rc;
	if (n != kv_records(t))
		return ERR_CORRUPT;
	memset(b, 0, sizeof(b));
	put_le64(b + 8, n);
	if ((rc = out(w, b, RECORD_HEAD)) < 0)
		return rc;
	put_le64(b, XXH3_64bits_digest(w->hash));
	if ((rc = out(w, b, 8)) < 0)
		return rc;
	return out_flush(w, true);
}

static int
put_in_place(int dirfd)
{
	if (fault_hit("kv.snap.rename")) {
		errno = EIO;
		return ERR_IO;
	}
	if (renameat(dirfd, KV_SNAP_NEW, dirfd, KV_SNAP) < 0)
		return io_error();
	if (fault_hit("kv.snap.fsync")) {
		errno = EIO;
		return ERR_IO;
	}
	return fsync(dirfd) < 0 ? io_error() : 0;
}

int
kv_snapshot(struct kv_tree *t, bool (*stop)(void *ctx), void *ctx)
{
	struct writer	w = { 0 };
	int		dirfd = kv_tree_dirfd(t), rc = ERR_NOMEM, e;

	if ((w.hash = XXH3_createState()) == NULL)
		return ERR_NOMEM;
	XXH3_64bits_reset(w.hash);
	if ((w.buf = malloc(BUFFER)) == NULL)
		goto free_hash;
	w.fd = openat(dirfd, KV_SNAP_NEW,
	    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (w.fd < 0) {
		rc = io_error();
		goto free_buf;
	}
	rc = out_all(&w, t, stop, ctx);
	e = errno;
	close(w.fd);
	errno = e;
	if (rc == 0)
		rc = put_in_place(dirfd);
	if (rc == 0) {
		kv_tree_snapped(t, kv_position(t));
	} else {
		e = errno;
		unlinkat(dirfd, KV_SNAP_NEW, 0);
		errno = e;
	}
free_buf:
	free(w.buf);
free_hash:
	XXH3_freeState(w.hash);
	return rc;
}

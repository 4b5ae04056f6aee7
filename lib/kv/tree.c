#include "kv/tree.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "kv/access.h"
#include "kv/internal.h"
#include "kv/snap.h"

#define ASIDE_KEPT	2		/* trees that were set aside */
#define ASIDE_MAX	1000000000
#define UNFINISHED_MAX	3		/* deaths in a commit, in a row */
#define SPACE_SPARE	(1u << 20)

struct kv_tree {
	char		*path;		/* of idx.tcb */
	char		*path_new;
	int		 dirfd;
	int		 mark_fd;	/* holds the lock */
	struct kv_tuning tune;
	TCBDB		*bdb;		/* NULL after a failure: opened anew */
	struct kv_mark	 mark;
	struct kv_meta	 meta;
	uint64_t	 floor;
	bool		 lost;
};

/* --- Small things ------------------------------------------------------- */

uint64_t
kv_position(const struct kv_tree *t)
{
	return t->meta.position;
}

uint64_t
kv_records(const struct kv_tree *t)
{
	return t->meta.records;
}

uint64_t
kv_floor(const struct kv_tree *t)
{
	return t->floor;
}

int
kv_tree_dirfd(const struct kv_tree *t)
{
	return t->dirfd;
}

void
kv_tree_snapped(struct kv_tree *t, uint64_t position)
{
	t->floor = position;
}

/* An error of Tokyo Cabinet's, errno having been 0 before the call. */
static int
bdb_failed(const TCBDB *bdb)
{
	int	e = errno, rc;

	rc = kv_bdb_error(tcbdbecode((TCBDB *)bdb), e);
	errno = e != 0 ? e : EIO;
	return rc;
}

/* Its descriptors are not for programs we start. */
static void
cloexec(const TCBDB *bdb)
{
	if (bdb->hdb->fd >= 0)
		fcntl(bdb->hdb->fd, F_SETFD, FD_CLOEXEC);
	if (bdb->hdb->walfd >= 0)
		fcntl(bdb->hdb->walfd, F_SETFD, FD_CLOEXEC);
}

static int
unlink_quietly(int dirfd, const char *name)
{
	return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? ERR_IO : 0;
}

static int
dir_sync(int dirfd)
{
	if (fault_hit("kv.sync")) {
		errno = EIO;
		return ERR_IO;
	}
	return fsync(dirfd) < 0 ? ERR_IO : 0;
}

/* --- Opening ------------------------------------------------------------ */

static int
meta_read(TCBDB *bdb, struct kv_meta *m)
{
	const void	*v;
	int		 len;

	errno = 0;
	if ((v = tcbdbget3(bdb, KV_META_KEY, KV_META_KLEN, &len)) == NULL)
		return ERR_CORRUPT;
	return kv_meta_decode(m, v, (size_t)len);
}

/* Open the tree that was found whole, or that an abort has left whole. */
static int
bdb_open(struct kv_tree *t, struct kv_meta *m)
{
	TCBDB	*bdb;
	int	 rc;

	if (fault_hit("kv.open")) {
		errno = EIO;
		return ERR_IO;
	}
	if ((bdb = kv_bdb_new(&t->tune)) == NULL)
		return ERR_NOMEM;
	errno = 0;
	if (!tcbdbopen(bdb, t->path, BDBOWRITER | BDBOLCKNB)) {
		rc = bdb_failed(bdb);
		tcbdbdel(bdb);
		return rc;
	}
	cloexec(bdb);
	if ((rc = meta_read(bdb, m)) < 0) {
		tcbdbdel(bdb);
		return rc;
	}
	t->bdb = bdb;
	return 0;
}

static int
meta_put(TCBDB *bdb, const struct kv_meta *m)
{
	uint8_t	value[KV_META_SIZE];

	kv_meta_encode(value, m);
	errno = 0;
	if (!tcbdbput(bdb, KV_META_KEY, KV_META_KLEN, value, sizeof(value)))
		return bdb_failed(bdb);
	return 0;
}

struct build {
	TCBDB		*bdb;
	struct kv_meta	 meta;
	uint8_t		*buf;
	size_t		 room;
};

static int
build_each(void *ctx, const struct slice *key, const struct slice *value)
{
	struct build	*b = ctx;
	uint64_t	 sum;
	uint8_t		*p;

	if (KV_SUM + value->len > b->room) {
		if ((p = realloc(b->buf, KV_SUM + value->len)) == NULL)
			return ERR_NOMEM;
		b->buf = p;
		b->room = KV_SUM + value->len;
	}
	sum = kv_record_sum(key->data, key->len, value->data, value->len);
	put_le64(b->buf, sum);
	if (value->len > 0)
		memcpy(b->buf + KV_SUM, value->data, value->len);
	errno = 0;
	if (fault_hit("kv.put")) {
		errno = ENOSPC;
		return ERR_FULL;
	}
	if (!tcbdbput(b->bdb, key->data, (int)key->len, b->buf,
	    (int)(KV_SUM + value->len)))
		return bdb_failed(b->bdb);
	b->meta.records++;
	b->meta.sum += sum;
	return 0;
}

/* Make idx.tcb.new, empty or (snap) from idx.snap, and put it in place. */
static int
build(struct kv_tree *t, bool snap)
{
	struct kv_snap_info	info = { 0 };
	struct build		b = { 0 };
	int			rc, e, fd;

	if (unlink_quietly(t->dirfd, KV_TREE_NEW) < 0 ||
	    unlink_quietly(t->dirfd, KV_TREE_NEW KV_WAL) < 0 ||
	    unlink_quietly(t->dirfd, KV_TREE KV_WAL) < 0)
		return ERR_IO;
	if ((b.bdb = kv_bdb_new(&t->tune)) == NULL)
		return ERR_NOMEM;
	errno = 0;
	if (fault_hit("kv.open")) {
		errno = EIO;
		rc = ERR_IO;
		goto del_bdb;
	}
	if (!tcbdbopen(b.bdb, t->path_new, BDBOWRITER | BDBOCREAT |
	    BDBOTRUNC | BDBOLCKNB)) {
		rc = bdb_failed(b.bdb);
		goto del_bdb;
	}
	cloexec(b.bdb);
	/* Nobody looks at it before it is renamed: no transaction. */
	if (snap && (rc = kv_snap_read(t->dirfd, build_each, &b, &info)) < 0)
		goto del_bdb;
	b.meta.position = info.position;
	b.meta.commits = t->mark.commits + 1;
	if ((rc = meta_put(b.bdb, &b.meta)) < 0)
		goto del_bdb;
	errno = 0;
	if (!tcbdbclose(b.bdb)) {
		rc = bdb_failed(b.bdb);
		goto del_bdb;
	}
	fd = openat(t->dirfd, KV_TREE_NEW, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		rc = ERR_IO;
		goto del_bdb;
	}
	rc = fault_hit("kv.sync") ? (errno = EIO, ERR_IO) :
	    fchmod(fd, 0600) < 0 || fsync(fd) < 0 ? ERR_IO : 0;
	e = errno;
	close(fd);
	errno = e;
	if (rc < 0)
		goto del_bdb;
	/* Should we die between these, the tree is newer than its mark. */
	memset(&t->mark, 0, sizeof(t->mark));
	t->mark.commits = b.meta.commits;
	if ((rc = kv_mark_write(t->mark_fd, &t->mark)) < 0)
		goto del_bdb;
	if (renameat(t->dirfd, KV_TREE_NEW, t->dirfd, KV_TREE) < 0)
		rc = ERR_IO;
	else
		rc = dir_sync(t->dirfd);
del_bdb:
	e = errno;
	tcbdbdel(b.bdb);
	free(b.buf);
	if (rc < 0) {
		unlink_quietly(t->dirfd, KV_TREE_NEW);
		unlink_quietly(t->dirfd, KV_TREE_NEW KV_WAL);
	}
	errno = e;
	return rc;
}

/* --- Setting aside ------------------------------------------------------ */

static void
aside_name(char *buf, size_t len, unsigned n, const char *suffix)
{
	snprintf(buf, len, KV_TREE ".bad-%u%s", n, suffix);
}

/* The number in the name of a tree that was set aside, 0 for other files. */
static unsigned
aside_number(const char *name)
{
	static const char	start[] = KV_TREE ".bad-";
	unsigned long		n;
	char			*end;

	if (strncmp(name, start, sizeof(start) - 1) != 0)
		return 0;
	n = strtoul(name + sizeof(start) - 1, &end, 10);
	if (n == 0 || n >= ASIDE_MAX ||
	    (*end != '\0' && strcmp(end, KV_WAL) != 0))
		return 0;
	return (unsigned)n;
}

/*
 * Walk those set aside: take those up to number `gone` away and find the
 * highest number.
 */
static int
aside_walk(int dirfd, unsigned gone, unsigned *highest)
{
	struct dirent	*d;
	unsigned	 n;
	int		 fd, rc = 0, e;
	DIR		*dir;

	*highest = 0;
	if ((fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return ERR_IO;
	if ((dir = fdopendir(fd)) == NULL) {
		e = errno;
		close(fd);
		errno = e;
		return ERR_IO;
	}
	while (rc == 0 && (d = readdir(dir)) != NULL) {
		n = aside_number(d->d_name);
		*highest = MAX(*highest, n);
		if (n > 0 && n <= gone)
			rc = unlink_quietly(dirfd, d->d_name);
	}
	e = errno;
	closedir(dir);
	errno = e;
	return rc;
}

/* Give the tree the next number; of too many the oldest go. */
static int
set_aside(struct kv_tree *t, struct kv_report *r)
{
	char		name[64];
	unsigned	n, highest;
	int		rc;

	if ((rc = aside_walk(t->dirfd, 0, &n)) < 0)
		return rc;
	n++;
	aside_name(name, sizeof(name), n, "");
	if (renameat(t->dirfd, KV_TREE, t->dirfd, name) < 0)
		return ERR_IO;
	snprintf(r->aside, sizeof(r->aside), "%s", name);
	aside_name(name, sizeof(name), n, KV_WAL);
	if (renameat(t->dirfd, KV_TREE KV_WAL, t->dirfd, name) < 0 &&
	    errno != ENOENT)
		return ERR_IO;
	if (n > ASIDE_KEPT &&
	    (rc = aside_walk(t->dirfd, n - ASIDE_KEPT, &highest)) < 0)
		return rc;
	return dir_sync(t->dirfd);
}

/* --- Believing ---------------------------------------------------------- */

/*
 * Is the tree that is there to be believed? 0, ERR_CORRUPT with r->why, or
 * what the system refused.
 */
static int
judge(struct kv_tree *t, bool known, struct kv_report *r)
{
	struct kv_mark	*m = &t->mark;
	struct kv_meta	 meta;
	uint64_t	 sum;
	const char	*why = NULL;
	int		 rc;

	if (!known)
		why = "idx.mark is damaged or missing";
	else if (m->lost)
		why = "a commit could not be ended";
	else if (m->dirty && !kv_mark_same_boot(m))
		why = "the machine stopped during a commit";
	else if (m->dirty && m->unfinished >= UNFINISHED_MAX)
		why = "several commits in a row ended the process";
	if (why == NULL && m->closed) {
		if ((rc = kv_head_sum(t->dirfd, &sum)) < 0)
			return rc;
		if (sum != m->head)
			why = "the head of its file";
		m->closed = false;
		if (why == NULL &&
		    (rc = kv_mark_write(t->mark_fd, m)) < 0)
			return rc;
	}
	if (why != NULL) {
		snprintf(r->why, sizeof(r->why), "%s", why);
		return ERR_CORRUPT;
	}
	if ((rc = kv_wal_trim(t->dirfd)) < 0) {
		snprintf(r->why, sizeof(r->why), "its undo log");
		return rc;
	}
	if (fault_hit("kv.open")) {
		errno = EIO;
		return ERR_IO;
	}
	if ((rc = kv_check(t->path, &t->tune, &meta, r->why,
	    sizeof(r->why))) < 0)
		return rc;
	if (meta.commits != m->commits &&
	    (!m->dirty || meta.commits != m->commits + 1)) {
		snprintf(r->why, sizeof(r->why), "it is of another time");
		return ERR_CORRUPT;
	}
	return 0;
}

static int
snap_forget(void *ctx UNUSED, const struct slice *key UNUSED,
    const struct slice *value UNUSED)
{
	return 0;
}

/* What idx.snap is good for; what is not is unlinked by the next snapshot. */
static int
snap_judge(struct kv_tree *t, bool *there, struct kv_report *r)
{
	struct kv_snap_info	info;
	size_t			n;
	int			rc;

	*there = false;
	rc = kv_snap_read(t->dirfd, snap_forget, NULL, &info);
	if (rc == 0) {
		*there = true;
		t->floor = info.position;
	} else if (rc == ERR_CORRUPT) {
		n = strlen(r->why);
		snprintf(r->why + n, sizeof(r->why) - n,
		    "%sidx.snap is damaged", n > 0 ? "; " : "");
		r->damaged = true;
	} else if (rc != ERR_NOTFOUND) {
		return rc;
	}
	return 0;
}

static int
load(struct kv_tree *t, bool known, bool fresh, struct kv_report *r)
{
	struct kv_meta	meta = { 0 };
	struct stat	st;
	bool		there, snap;
	int		rc;

	there = fstatat(t->dirfd, KV_TREE, &st, 0) == 0;
	if (!there && errno != ENOENT)
		return ERR_IO;
	if (there) {
		/* What the system refuses is no damage. */
		if (faccessat(t->dirfd, KV_TREE, R_OK | W_OK, 0) < 0)
			return ERR_IO;
		rc = judge(t, known, r);
		if (rc == ERR_CORRUPT) {
			r->damaged = true;
			if ((rc = set_aside(t, r)) < 0)
				return rc;
			there = false;
		} else if (rc < 0) {
			return rc;
		}
	} else if (known && !fresh) {
		r->damaged = true;
		snprintf(r->why, sizeof(r->why), "idx.tcb is missing");
	}
	if ((rc = snap_judge(t, &snap, r)) < 0)
		return rc;
	if (!there && (rc = build(t, snap)) < 0)
		return rc;
	r->opened = there;
	r->rebuilt = !there && snap;
	if ((rc = bdb_open(t, &meta)) < 0)
		return rc;
	t->meta = meta;
	t->mark.commits = meta.commits;
	r->position = meta.position;
	r->records = meta.records;
	r->snap_position = t->floor;
	return 0;
}

static char *
path_join(const char *dir, const char *name)
{
	char	*p;

	return asprintf(&p, "%s/%s", dir, name) < 0 ? NULL : p;
}

int
kv_open(struct kv_tree **out, const char *dir, const struct kv_opts *o,
    struct kv_report *r)
{
	struct kv_report	 rep = { 0 };
	struct kv_tree		*t;
	bool			 known, fresh;
	int			 rc, e;

	if ((t = calloc(1, sizeof(*t))) == NULL)
		return ERR_NOMEM;
	t->tune.buckets = o != NULL ? o->buckets : 0;
	rc = ERR_NOMEM;
	if ((t->path = path_join(dir, KV_TREE)) == NULL ||
	    (t->path_new = path_join(dir, KV_TREE_NEW)) == NULL)
		goto free_tree;
	t->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dirfd < 0) {
		rc = ERR_IO;
		goto free_tree;
	}
	if ((rc = kv_mark_open(t->dirfd, &t->mark_fd, &t->mark, &known,
	    &fresh)) < 0)
		goto close_dir;
	if (unlink_quietly(t->dirfd, KV_SNAP_NEW) < 0) {
		rc = ERR_IO;
		goto close_mark;
	}
	kv_at_the_tree(true);
	rc = load(t, known, fresh, &rep);
	kv_at_the_tree(false);
	if (rc < 0)
		goto close_mark;
	*r = rep;
	*out = t;
	return 0;

close_mark:
	e = errno;
	close(t->mark_fd);
	errno = e;
close_dir:
	e = errno;
	close(t->dirfd);
	errno = e;
free_tree:
	free(t->path_new);
	free(t->path);
	free(t);
	return rc == ERR_CORRUPT ? ERR_IO : rc;
}

void
kv_close(struct kv_tree **tp)
{
	struct kv_tree	*t = *tp;
	bool		 whole;
	int		 fd;

	if (t == NULL)
		return;
	if (t->bdb != NULL) {
		whole = tcbdbclose(t->bdb);
		tcbdbdel(t->bdb);
		fd = openat(t->dirfd, KV_TREE, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			whole = fsync(fd) == 0 && whole;
			close(fd);
		}
		/* Without this mark the next start asks no less. */
		if (whole && fd >= 0 && !t->mark.dirty &&
		    kv_head_sum(t->dirfd, &t->mark.head) == 0) {
			t->mark.closed = true;
			kv_mark_write(t->mark_fd, &t->mark);
		}
	}
	close(t->mark_fd);
	close(t->dirfd);
	free(t->path_new);
	free(t->path);
	free(t);
	*tp = NULL;
}

/* --- Reading ------------------------------------------------------------ */

static int tree_reopen(struct kv_tree *t);
static int tree_lose(struct kv_tree *t);

int
kv_each(struct kv_tree *t, kv_each_fn *fn, void *ctx)
{
	struct kv_cursor	c;
	struct slice		key, value;
	uint64_t		records = 0, sum = 0;
	int			rc, stopped = 0;

	if ((rc = kv_cursor_open(t, &c)) < 0)
		return rc;
	while ((rc = kv_cursor_next(&c, &key, &value)) == 1) {
		records++;
		sum += c.sum;
		if ((stopped = fn(ctx, &key, &value)) != 0)
			break;
	}
	kv_cursor_close(&c);
	if (stopped != 0)
		return stopped;
	if (rc == ERR_CORRUPT || (rc == 0 && (records != t->meta.records ||
	    sum != t->meta.sum)))
		return tree_lose(t);
	return rc;
}

int
kv_cursor_open(struct kv_tree *t, struct kv_cursor *c)
{
	int	rc;

	if (t->lost)
		return ERR_CORRUPT;
	if (t->bdb == NULL && (rc = tree_reopen(t)) < 0)
		return rc;
	c->t = t;
	c->seen = 0;
	c->sum = 0;
	if ((c->cur = tcbdbcurnew(t->bdb)) == NULL)
		return ERR_NOMEM;
	kv_at_the_tree(true);
	return 0;
}

int
kv_cursor_next(struct kv_cursor *c, struct slice *key, struct slice *value)
{
	TCBDB		*bdb = c->t->bdb;
	const uint8_t	*k, *v;
	int		 klen, vlen;
	bool		 ok;

	for (;;) {
		errno = 0;
		ok = c->seen++ == 0 ? tcbdbcurfirst(c->cur) :
		    tcbdbcurnext(c->cur);
		if (!ok)
			return tcbdbecode(bdb) == TCENOREC ? 0 :
			    bdb_failed(bdb);
		if ((k = tcbdbcurkey3(c->cur, &klen)) == NULL ||
		    (v = tcbdbcurval3(c->cur, &vlen)) == NULL)
			return bdb_failed(bdb);
		if (klen < 1 || vlen < (int)KV_SUM)
			return ERR_CORRUPT;
		if (*k != 0)
			break;
	}
	key->data = k;
	key->len = (size_t)klen;
	value->data = v + KV_SUM;
	value->len = (size_t)vlen - KV_SUM;
	c->sum = get_le64(v);
	return c->sum == kv_record_sum(k, key->len, value->data,
	    value->len) ? 1 : ERR_CORRUPT;
}

void
kv_cursor_close(struct kv_cursor *c)
{
	tcbdbcurdel(c->cur);
	kv_at_the_tree(false);
}

/* --- Committing --------------------------------------------------------- */

/* Nothing of this tree is to be believed any more, at the next start either. */
static int
tree_lose(struct kv_tree *t)
{
	t->lost = true;
	t->mark.lost = t->mark.dirty = true;
	kv_mark_write(t->mark_fd, &t->mark);
	return ERR_CORRUPT;
}

/*
 * After a failure Tokyo Cabinet refuses to go on with what is open, and its
 * cache holds pages of the transaction that was undone.
 */
static int
tree_reopen(struct kv_tree *t)
{
	struct kv_meta	m;
	int		rc;

	if ((rc = bdb_open(t, &m)) < 0)
		return rc == ERR_CORRUPT ? tree_lose(t) : rc;
	if (memcmp(&m, &t->meta, sizeof(m)) != 0)
		return tree_lose(t);
	return 0;
}

/*
 * Undo the transaction and close without writing: tcbdbclose on a disk that
 * fails would call back into the mapping it has just taken away. The undo log
 * may have to be read once more, by whoever opens next.
 */
static void
tree_drop(struct kv_tree *t)
{
	int	e = errno;

	/*
	 * tcbdbtranabort alone forgets what is in the cache; it does not
	 * know of pages that tcbdbmemsync has written.
	 */
	if (t->bdb->tran) {
		tchdbtranabort(t->bdb->hdb);
		tcbdbtranabort(t->bdb);
	}
	free(t->bdb->hdb->fbpool);	/* a reader would forget it */
	t->bdb->hdb->fbpool = NULL;
	t->bdb->wmode = false;
	t->bdb->hdb->omode &= ~(uint32_t)HDBOWRITER;
	tcbdbdel(t->bdb);
	t->bdb = NULL;
	errno = e;
}

static int
entry_compare(const void *a, const void *b)
{
	const struct kv_entry	*x = a, *y = b;
	int			 d;

	d = memcmp(x->key, y->key, MIN(x->klen, y->klen));
	if (d == 0 && x->klen != y->klen)
		d = x->klen < y->klen ? -1 : 1;
	if (d == 0)			/* in the order they were put in */
		d = x->key < y->key ? -1 : 1;
	return d;
}

/* The entries in the order of keys, so that each leaf is visited once. */
static struct kv_entry *
entries_sorted(const struct kv_batch *b)
{
	struct kv_entry	*e;
	size_t		 off = 0;
	uint32_t	 i;

	if ((e = calloc((size_t)b->n + 1, sizeof(*e))) == NULL)
		return NULL;
	for (i = 0; i < b->n; i++)
		kv_entry_at(b, &off, &e[i]);
	assert(off == b->len);
	qsort(e, b->n, sizeof(*e), entry_compare);
	return e;
}

static bool
entry_overtaken(const struct kv_entry *e, const struct kv_entry *next)
{
	return e->klen == next->klen &&
	    memcmp(e->key, next->key, e->klen) == 0;
}

static int
entry_apply(TCBDB *bdb, const struct kv_entry *e, struct kv_meta *m)
{
	const uint8_t	*old;
	int		 len;

	if (fault_hit("kv.put")) {
		errno = ENOSPC;
		return ERR_FULL;
	}
	errno = 0;
	old = tcbdbget3(bdb, e->key, (int)e->klen, &len);
	if (old == NULL && tcbdbecode(bdb) != TCENOREC)
		return bdb_failed(bdb);
	if (old != NULL) {
		if (len < (int)KV_SUM)
			return ERR_CORRUPT;
		m->sum -= get_le64(old);
		m->records--;
	}
	errno = 0;
	if (e->del) {
		if (old != NULL &&
		    !tcbdbout(bdb, e->key, (int)e->klen))
			return bdb_failed(bdb);
		return 0;
	}
	if (!tcbdbput(bdb, e->key, (int)e->klen, e->sum,
	    (int)(KV_SUM + e->vlen)))
		return bdb_failed(bdb);
	m->sum += get_le64(e->sum);
	m->records++;
	return 0;
}

/* All of it up to the commit itself: written, synced, still to be undone. */
static int
apply(struct kv_tree *t, const struct kv_batch *b, struct kv_entry *e,
    struct kv_meta *m)
{
	uint32_t	i;
	int		rc;

	errno = 0;
	if (fault_hit("kv.begin")) {
		errno = EIO;
		return ERR_IO;
	}
	if (!tcbdbtranbegin(t->bdb))
		return bdb_failed(t->bdb);
	cloexec(t->bdb);
	for (i = 0; i < b->n; i++) {
		if (i + 1 < b->n && entry_overtaken(&e[i], &e[i + 1]))
			continue;
		if ((rc = entry_apply(t->bdb, &e[i], m)) < 0)
			return rc;
	}
	if ((rc = meta_put(t->bdb, m)) < 0)
		return rc;
	/*
	 * tcbdbtrancommit does this as well, but once it has emptied its undo
	 * log all must be on the disk.
	 */
	errno = 0;
	if (!tcbdbmemsync(t->bdb, false) || t->bdb->hdb->fatal)
		return bdb_failed(t->bdb);
	if (fault_hit("kv.sync")) {
		errno = EIO;
		return ERR_IO;
	}
	if (fsync(t->bdb->hdb->fd) < 0)
		return errno == ENOSPC || errno == EDQUOT ? ERR_FULL : ERR_IO;
	return 0;
}

/* Tokyo Cabinet copes with a full disk, but it need not come to that. */
static int
space_check(const struct kv_tree *t, const struct kv_batch *b)
{
	struct statvfs	v;

	if (fstatvfs(t->dirfd, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize <
	    SPACE_SPARE + 2 * (uint64_t)b->len) {
		errno = ENOSPC;
		return ERR_FULL;
	}
	return 0;
}

static int
commit(struct kv_tree *t, const struct kv_batch *b)
{
	struct kv_meta	 m = t->meta;
	struct kv_entry	*entries;
	int		 rc;

	if (t->lost)
		return ERR_CORRUPT;
	if (t->bdb == NULL && (rc = tree_reopen(t)) < 0)
		return rc;
	if ((rc = space_check(t, b)) < 0)
		return rc;
	if ((entries = entries_sorted(b)) == NULL)
		return ERR_NOMEM;
	t->mark.dirty = true;
	t->mark.closed = false;
	t->mark.commits = t->meta.commits;
	t->mark.unfinished++;
	if ((rc = kv_mark_write(t->mark_fd, &t->mark)) < 0) {
		t->mark.unfinished--;
		goto free_entries;
	}
	m.position = b->position;
	m.commits++;
	rc = apply(t, b, entries, &m);
	errno = rc == 0 ? 0 : errno;
	if (rc == 0 && fault_hit("kv.commit")) {
		errno = EIO;
		rc = ERR_IO;
	}
	/* Fails before its undo log is emptied: undone here or when opened. */
	if (rc == 0 && !tcbdbtrancommit(t->bdb))
		rc = bdb_failed(t->bdb);
	if (rc < 0) {
		/* We live: it was not the tree that ended us. */
		t->mark.unfinished = 0;
		tree_drop(t);
		if (rc == ERR_CORRUPT)
			tree_lose(t);
		goto free_entries;
	}
	t->meta = m;
	t->mark.dirty = false;
	t->mark.unfinished = 0;
	t->mark.commits = m.commits;
	if ((rc = kv_mark_write(t->mark_fd, &t->mark)) < 0)
		t->mark.dirty = true;
free_entries:
	free(entries);
	return rc;
}

int
kv_commit(struct kv_tree *t, const struct kv_batch *b)
{
	int	rc;

	kv_at_the_tree(true);
	rc = commit(t, b);
	kv_at_the_tree(false);
	return rc;
}

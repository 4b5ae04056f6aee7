/*
 * check.c: is a tree whole? Asked in a child process, because Tokyo Cabinet
 * trusts its file: damaged bytes make it crash, call exit() or run in circles.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/err.h"
#include "kv/internal.h"

#define LEAF_MEMBERS	32		/* a commit rewrites whole leaves */
#define NODE_MEMBERS	256
#define BUCKETS		131071		/* pages of a tree of 4 M records */
#define LEAVES_CACHED	1024
#define NODES_CACHED	512

#define OPEN_CPU_S	60		/* undoing a large transaction */
#define STEP_CPU_S	5		/* for STEP records */
#define STEP		1024

/* What the child has found out, in memory both share. */
struct verdict {
	int		rc;
	int		errnum;
	struct kv_meta	meta;
	char		why[96];
};

/*
 * Tokyo Cabinet calls sched_yield at every operation, mutex or not, and under
 * load each call gives the processor to those who cause the load. Nobody waits
 * for the thread at the tree in that way, so it does not.
 */
static _Thread_local bool	at_the_tree;

void
kv_at_the_tree(bool yes)
{
	at_the_tree = yes;
}

int
sched_yield(void)
{
	return at_the_tree ? 0 : (int)syscall(SYS_sched_yield);
}

TCBDB *
kv_bdb_new(const struct kv_tuning *tune)
{
	TCBDB	*bdb;

	if ((bdb = tcbdbnew()) == NULL)
		return NULL;
	tcbdbtune(bdb, LEAF_MEMBERS, NODE_MEMBERS,
	    tune->buckets > 0 ? tune->buckets : BUCKETS, -1, -1, BDBTLARGE);
	tcbdbsetcache(bdb, LEAVES_CACHED, NODES_CACHED);
	return bdb;
}

int
kv_bdb_error(int ecode, int errnum)
{
	if (errnum == ENOSPC || errnum == EDQUOT || errnum == EFBIG)
		return ERR_FULL;
	switch (ecode) {
	case TCELOCK:
		return ERR_AGAIN;
	case TCENOPERM:
	case TCEOPEN:
	case TCECLOSE:
	case TCETRUNC:
	case TCESYNC:
	case TCESTAT:
	case TCEWRITE:
	case TCEUNLINK:
	case TCERENAME:
		return ERR_IO;
	default:
		return errnum == EIO ? ERR_IO : ERR_CORRUPT;
	}
}

void
kv_meta_encode(uint8_t out[KV_META_SIZE], const struct kv_meta *m)
{
	uint8_t	*p = out + KV_SUM;

	put_le64(p, 1);				/* version */
	put_le64(p + 8, m->position);
	put_le64(p + 16, m->records);
	put_le64(p + 24, m->sum);
	put_le64(p + 32, m->commits);
	put_le64(out, kv_record_sum(KV_META_KEY, KV_META_KLEN, p,
	    KV_META_SIZE - KV_SUM));
}

int
kv_meta_decode(struct kv_meta *m, const void *value, size_t len)
{
	const uint8_t	*p = value;

	if (len != KV_META_SIZE || get_le64(p) != kv_record_sum(KV_META_KEY,
	    KV_META_KLEN, p + KV_SUM, len - KV_SUM))
		return ERR_CORRUPT;
	p += KV_SUM;
	if (get_le64(p) != 1)
		return ERR_CORRUPT;
	m->position = get_le64(p + 8);
	m->records = get_le64(p + 16);
	m->sum = get_le64(p + 24);
	m->commits = get_le64(p + 32);
	return 0;
}

/* So much more processor time, not of the clock, until we are taken to hang. */
static void
watchdog(int seconds)
{
	struct itimerval	t = { .it_value.tv_sec = seconds };

	setitimer(ITIMER_PROF, &t, NULL);
}

static int
damaged(struct verdict *v, const char *why)
{
	snprintf(v->why, sizeof(v->why), "%s", why);
	return ERR_CORRUPT;
}

/* Every record in order, and the way to each from the root. */
static int
check_records(TCBDB *bdb, struct verdict *v)
{
	static uint8_t	 last[KV_KEY_MAX];	/* we are a child */
	struct kv_meta	 seen = { 0 };
	BDBCUR		*cur = tcbdbcurnew(bdb);
	int		 last_len = -1, klen, vlen, glen, n = 0;
	bool		 have_meta = false;

	for (tcbdbcurfirst(cur);; tcbdbcurnext(cur)) {
		const uint8_t	*key = tcbdbcurkey3(cur, &klen), *value, *got;
		int		 order;

		if (key == NULL)
			break;
		if ((value = tcbdbcurval3(cur, &vlen)) == NULL)
			return damaged(v, "a record without a value");
		if (klen < 1 || klen > (int)KV_KEY_MAX || vlen < (int)KV_SUM)
			return damaged(v, "a record of a wrong size");
		if (last_len >= 0) {
			order = memcmp(last, key, (size_t)MIN(last_len, klen));
			if (order > 0 || (order == 0 && last_len >= klen))
				return damaged(v, "records out of order");
		}
		memcpy(last, key, (size_t)klen);
		last_len = klen;
		if (*key == 0) {
			if (klen != KV_META_KLEN || kv_meta_decode(&v->meta,
			    value, (size_t)vlen) < 0)
				return damaged(v, "the tree's own record");
			have_meta = true;
		} else {
			uint64_t	sum = get_le64(value);

			if (sum != kv_record_sum(key, (size_t)klen,
			    value + KV_SUM, (size_t)vlen - KV_SUM))
				return damaged(v, "a record's checksum");
			seen.sum += sum;
			if (++seen.records > v->meta.records)
				return damaged(v, "more records than put in");
		}
		/* From the root this time, unless it is the same leaf. */
		got = tcbdbget3(bdb, last, last_len, &glen);
		if (got == NULL || glen != vlen)
			return damaged(v, "a record that is not found");
		if (++n % STEP == 0)
			watchdog(STEP_CPU_S);
	}
	if (tcbdbecode(bdb) != TCENOREC && tcbdbecode(bdb) != TCESUCCESS)
		return damaged(v, tcbdberrmsg(tcbdbecode(bdb)));
	if (!have_meta)
		return damaged(v, "no record of its own");
	if (seen.records != v->meta.records || tcbdbrnum(bdb) !=
	    seen.records + 1)
		return damaged(v, "records are missing");
	if (seen.sum != v->meta.sum)
		return damaged(v, "not the records that were put in");
	tcbdbcurdel(cur);
	return 0;
}

/* Every block of the file, by its length: none overlaps another. */
static int
check_blocks(TCBDB *bdb, struct verdict *v)
{
	TCHDB		*hdb = bdb->hdb;
	uint64_t	 n = 0;
	void		*key;
	int		 len;

	watchdog(STEP_CPU_S);
	if (!tchdbiterinit(hdb))
		return damaged(v, "no blocks");
	while ((key = tchdbiternext(hdb, &len)) != NULL) {
		free(key);
		if (++n > tchdbrnum(hdb))
			break;
		if (n % STEP == 0)
			watchdog(STEP_CPU_S);
	}
	if (n != tchdbrnum(hdb) || n != bdb->lnum + bdb->nnum ||
	    hdb->iter != hdb->fsiz)
		return damaged(v, "the blocks of its file");
	return 0;
}

static NORETURN void
child(const char *path, const struct kv_tuning *tune, struct verdict *v,
    pid_t parent)
{
	static const int	quiet[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1,
	    SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, SIGPROF, SIGCHLD };
	struct rlimit		nocore = { 0, 0 };
	TCBDB			*bdb;
	size_t			 i;
	sigset_t		 none;
	int			 fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	for (i = 0; i < NELEM(quiet); i++)
		signal(quiet[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setrlimit(RLIMIT_CORE, &nocore);
	/* What the C library has to say of damaged memory helps nobody. */
	if ((fd = open("/dev/null", O_WRONLY | O_CLOEXEC)) >= 0)
		dup2(fd, STDERR_FILENO);
	watchdog(OPEN_CPU_S);
	kv_at_the_tree(true);

	if ((bdb = kv_bdb_new(tune)) == NULL) {
		v->rc = ERR_NOMEM;
		_exit(0);
	}
	errno = 0;
	if (!tcbdbopen(bdb, path, BDBOWRITER | BDBOLCKNB)) {
		v->errnum = errno;
		v->rc = kv_bdb_error(tcbdbecode(bdb), errno);
		if (v->rc == ERR_CORRUPT)
			damaged(v, tcbdberrmsg(tcbdbecode(bdb)));
		_exit(0);
	}
	watchdog(STEP_CPU_S);
	if ((v->rc = check_records(bdb, v)) == 0 &&
	    (v->rc = check_blocks(bdb, v)) == 0) {
		watchdog(STEP_CPU_S);
		errno = 0;
		if (!tcbdbclose(bdb)) {
			v->errnum = errno;
			v->rc = kv_bdb_error(tcbdbecode(bdb), errno);
		}
	}
	_exit(0);
}

int
kv_check(const char *path, const struct kv_tuning *tune, struct kv_meta *m,
    char *why, size_t whylen)
{
	struct verdict	*v;
	pid_t		 pid, parent;
	int		 status, rc, e;

	v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (v == MAP_FAILED)
		return ERR_NOMEM;
	/* Unless it says otherwise it was ended by what it read. */
	v->rc = ERR_CORRUPT;
	snprintf(v->why, sizeof(v->why), "cannot be read");
	parent = getpid();
	if ((pid = fork()) == 0)
		child(path, tune, v, parent);
	if (pid < 0) {
		e = errno;
		munmap(v, sizeof(*v));
		errno = e;
		return ERR_IO;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	rc = v->rc;
	e = v->errnum;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		rc = ERR_CORRUPT;
	if (rc == 0)
		*m = v->meta;
	else if (rc == ERR_CORRUPT)
		snprintf(why, whylen, "%s", v->why);
	munmap(v, sizeof(*v));
	errno = e;
	return rc;
}

/*
 * Debian's Tokyo Cabinet writes numbers with the high byte first, others as
 * their machine has them. Sizes are far from 2^56, so one of both readings is
 * absurd.
 */
static uint64_t
size_of_file(const uint8_t *p, bool *big)
{
	uint64_t	le = get_le64(p), be = get_be64(p);

	*big = be < le;
	return *big ? be : le;
}

/*
 * Tokyo Cabinet's undo log: size of the file 8, then {offset 8, length 4,
 * bytes}. Each is written before what it undoes, so one that is cut short
 * undoes nothing; but Tokyo Cabinet stumbles over it and keeps what it had
 * read of the header before.
 */
static int
wal_walk(int fd, uint64_t size, uint64_t tree_size, uint64_t *end)
{
	uint8_t		head[12];
	uint64_t	at = 8, limit;
	bool		big;

	*end = 0;
	if (size < at)
		return 0;
	if (pread(fd, head, 8, 0) != 8)
		return ERR_IO;
	if ((limit = size_of_file(head, &big)) > tree_size)
		return ERR_CORRUPT;
	for (*end = at; size - at >= sizeof(head); *end = at) {
		uint64_t	off, len;

		if (pread(fd, head, sizeof(head), (off_t)at) !=
		    (ssize_t)sizeof(head))
			return ERR_IO;
		off = big ? get_be64(head) : get_le64(head);
		len = big ? get_be32(head + 8) : get_le32(head + 8);
		if (off > limit || len > limit - off)
			return ERR_CORRUPT;
		if (len > size - at - sizeof(head))
			break;
		at += sizeof(head) + len;
	}
	return 0;
}

int
kv_wal_trim(int dirfd)
{
	struct stat	st, tree;
	uint64_t	end;
	int		fd, rc, e;

	fd = openat(dirfd, KV_TREE KV_WAL, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : ERR_IO;
	if (fstat(fd, &st) < 0 || fstatat(dirfd, KV_TREE, &tree, 0) < 0)
		rc = ERR_IO;
	else if ((rc = wal_walk(fd, (uint64_t)st.st_size,
	    (uint64_t)tree.st_size, &end)) == 0 &&
	    end < (uint64_t)st.st_size && ftruncate(fd, (off_t)end) < 0)
		rc = ERR_IO;
	e = errno;
	close(fd);
	errno = e;
	return rc;
}

int
kv_head_sum(int dirfd, uint64_t *sum)
{
	uint8_t		 head[256], *buf;
	struct stat	 st;
	uint64_t	 len;
	ssize_t		 n;
	bool		 big;
	int		 fd, rc = ERR_IO, e;

	if ((fd = openat(dirfd, KV_TREE, O_RDONLY | O_CLOEXEC)) < 0)
		return ERR_IO;
	if (fstat(fd, &st) < 0)
		goto close_fd;
	memset(head, 0, sizeof(head));
	if (pread(fd, head, sizeof(head), 0) < 0)
		goto close_fd;
	/* Offset of the first record; a wrong one changes the sum anyway. */
	len = MIN(size_of_file(head + 64, &big), (uint64_t)st.st_size);
	len = MIN(len, (uint64_t)64 << 20);
	if ((buf = malloc((size_t)len + 1)) == NULL) {
		rc = ERR_NOMEM;
		goto close_fd;
	}
	if ((n = pread(fd, buf, (size_t)len, 0)) >= 0) {
		*sum = XXH3_64bits(buf, (size_t)n);
		rc = 0;
	}
	free(buf);
close_fd:
	e = errno;
	close(fd);
	errno = e;
	return rc;
}

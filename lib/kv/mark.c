#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "kv/internal.h"

#define MARK_SIZE	64u
#define MARK_MAGIC	"mqttckvM"
#define MARK_VERSION	1u
#define LOCK_TRIES	50		/* 10 ms apart */

enum { MARK_DIRTY = 1, MARK_CLOSED = 2, MARK_LOST = 4 };

/*
 * magic 8, version 4, flags 4, unfinished 4, zero 4, commits 8, head 8,
 * boot 16, checksum 8
 */
static void
mark_encode(uint8_t out[MARK_SIZE], const struct kv_mark *m)
{
	memset(out, 0, MARK_SIZE);
	memcpy(out, MARK_MAGIC, 8);
	put_le32(out + 8, MARK_VERSION);
	put_le32(out + 12, (m->dirty ? MARK_DIRTY : 0) |
	    (m->closed ? MARK_CLOSED : 0) | (m->lost ? MARK_LOST : 0));
	put_le32(out + 16, m->unfinished);
	put_le64(out + 24, m->commits);
	put_le64(out + 32, m->head);
	memcpy(out + 40, m->boot, 16);
	put_le64(out + 56, XXH3_64bits(out, 56));
}

static int
mark_decode(struct kv_mark *m, const uint8_t in[MARK_SIZE])
{
	uint32_t	flags;

	if (memcmp(in, MARK_MAGIC, 8) != 0 ||
	    get_le32(in + 8) != MARK_VERSION ||
	    get_le64(in + 56) != XXH3_64bits(in, 56))
		return ERR_CORRUPT;
	flags = get_le32(in + 12);
	m->dirty = (flags & MARK_DIRTY) != 0;
	m->closed = (flags & MARK_CLOSED) != 0;
	m->lost = (flags & MARK_LOST) != 0;
	m->unfinished = get_le32(in + 16);
	m->commits = get_le64(in + 24);
	m->head = get_le64(in + 32);
	memcpy(m->boot, in + 40, 16);
	return 0;
}

/* The kernel's name for this life of the machine; zeros if it has none. */
static void
boot_id(uint8_t out[16])
{
	char	 text[64];
	ssize_t	 n = 0;
	int	 fd;
	size_t	 i, k = 0;

	memset(out, 0, 16);
	fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text));
		close(fd);
	}
	for (i = 0; n > 0 && i < (size_t)n && k < 32; i++) {
		int	c = text[i], d;

		if (c >= '0' && c <= '9')
			d = c - '0';
		else if (c >= 'a' && c <= 'f')
			d = c - 'a' + 10;
		else
			continue;
		out[k / 2] = (uint8_t)(out[k / 2] << 4 | d);
		k++;
	}
}

/*
 * The check of a process that was killed dies with it, but not in the same
 * moment, and holds the lock until then.
 */
static int
lock(int fd)
{
	const struct timespec	pause = { .tv_nsec = 10 * 1000 * 1000 };
	int			i;

	for (i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK)
			return ERR_IO;
		if (i == LOCK_TRIES)
			return ERR_AGAIN;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int
kv_mark_open(int dirfd, int *fd, struct kv_mark *m, bool *known, bool *empty)
{
	uint8_t	buf[MARK_SIZE];
	ssize_t	n;
	int	f, e, rc;

	f = openat(dirfd, KV_MARK, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (f < 0)
		return ERR_IO;
	if ((rc = lock(f)) < 0) {
		e = errno;
		close(f);
		errno = e;
		return rc;
	}
	if ((n = pread(f, buf, sizeof(buf), 0)) < 0) {
		e = errno;
		close(f);
		errno = e;
		return ERR_IO;
	}
	memset(m, 0, sizeof(*m));
	*empty = n == 0;
	*known = n == (ssize_t)sizeof(buf) && mark_decode(m, buf) == 0;
	*fd = f;
	return 0;
}

int
kv_mark_write(int fd, struct kv_mark *m)
{
	uint8_t	buf[MARK_SIZE];
	ssize_t	n;

	boot_id(m->boot);
	mark_encode(buf, m);
	if (fault_hit("kv.mark")) {
		errno = EIO;
		return ERR_IO;
	}
	if ((n = pwrite(fd, buf, sizeof(buf), 0)) != (ssize_t)sizeof(buf)) {
		if (n >= 0)
			errno = ENOSPC;
		return errno == ENOSPC || errno == EDQUOT ? ERR_FULL : ERR_IO;
	}
	return fdatasync(fd) < 0 ? ERR_IO : 0;
}

bool
kv_mark_same_boot(const struct kv_mark *m)
{
	static const uint8_t	none[16];
	uint8_t			now[16];

	boot_id(now);
	return memcmp(now, none, 16) != 0 && memcmp(now, m->boot, 16) == 0;
}

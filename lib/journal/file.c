/*
 * file.c: the system calls, each with the place where a test may make it fail.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "journal/internal.h"

int
file_error(void)
{
	return errno == ENOSPC || errno == EDQUOT || errno == EFBIG ?
	    ERR_FULL : ERR_IO;
}

int
file_open(struct journal *j, const char *name, int flags)
{
	int	 fd;

	if (fault_hit("journal.open")) {
		errno = EMFILE;
		return -1;
	}
	do {
		fd = openat(j->dirfd, name, flags | O_CLOEXEC | O_NOFOLLOW,
		    0600);
	} while (fd == -1 && errno == EINTR);
	return fd;
}

int
file_read(int fd, uint8_t *buf, size_t len, uint64_t off, size_t *out)
{
	size_t	 n = 0;
	ssize_t	 got;

	while (n < len) {
		if (fault_hit("journal.read")) {
			errno = EIO;
			return ERR_IO;
		}
		got = pread(fd, buf + n, len - n, (off_t)(off + n));
		if (got == -1 && errno == EINTR)
			continue;
		if (got == -1)
			return ERR_IO;
		if (got == 0)
			break;
		n += (size_t)got;
	}
	*out = n;
	return 0;
}

int
file_write(int fd, const uint8_t *buf, size_t len, uint64_t off)
{
	size_t	 n = 0;
	ssize_t	 put;

	while (n < len) {
		if (fault_hit("journal.write")) {
			errno = EIO;
			return ERR_IO;
		}
		put = pwrite(fd, buf + n, len - n, (off_t)(off + n));
		if (put == -1 && errno == EINTR)
			continue;
		if (put == -1)
			return file_error();
		n += (size_t)put;
	}
	return 0;
}

int
file_truncate(int fd, uint64_t len)
{
	int	 rc;

	if (fault_hit("journal.truncate")) {
		errno = EIO;
		return ERR_IO;
	}
	do {
		rc = ftruncate(fd, (off_t)len);
	} while (rc == -1 && errno == EINTR);
	return rc == -1 ? ERR_IO : 0;
}

int
file_rename(struct journal *j, const char *from, const char *to)
{
	if (fault_hit("journal.rename")) {
		errno = ENOSPC;
		return ERR_FULL;
	}
	return renameat(j->dirfd, from, j->dirfd, to) == -1 ? file_error() : 0;
}

int
file_unlink(struct journal *j, const char *name)
{
	if (fault_hit("journal.unlink")) {
		errno = EIO;
		return ERR_IO;
	}
	return unlinkat(j->dirfd, name, 0) == -1 && errno != ENOENT ?
	    ERR_IO : 0;
}

int
file_sync_dir(struct journal *j)
{
	if (fault_hit("journal.fsyncdir")) {
		errno = EIO;
		return ERR_IO;
	}
	return fsync(j->dirfd) == -1 ? ERR_IO : 0;
}

int
file_allocate(int fd, uint64_t bytes)
{
	int	 rc;

	if (fault_hit("journal.fallocate")) {
		errno = ENOSPC;
		return ERR_FULL;
	}
	do {
		/* Not posix_fallocate, which writes where this cannot. */
		rc = fallocate(fd, 0, 0, (off_t)bytes);
	} while (rc == -1 && errno == EINTR);
	if (rc == -1 && (errno == EOPNOTSUPP || errno == ENOSYS))
		return 0;
	return rc == -1 ? file_error() : 0;
}

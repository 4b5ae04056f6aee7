#include "member/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "fault/fault.h"
#include "member/member.h"

#define NEW	MEMBER_FILE ".new"

enum { ASIDE_MAX = 100 };

static int
open_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? ERR_IO : fd;
}

/* Close it, errno as it was. */
static void
let_go(int fd)
{
	int e = errno;

	close(fd);
	errno = e;
}

static int
read_all(int fd, uint8_t *buf, size_t len)
{
	size_t	at = 0;
	ssize_t n;

	while (at < len) {
		if ((n = read(fd, buf + at, len - at)) < 0 && errno != EINTR)
			return ERR_IO;
		if (n == 0)
			return ERR_CORRUPT;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int
read_file(int fd, uint8_t **out, size_t *len)
{
	struct stat	 st;
	uint8_t		*buf;
	int		 rc;

	if (fstat(fd, &st) < 0)
		return ERR_IO;
	/* One byte less than the header is as damaged as none at all. */
	if (!S_ISREG(st.st_mode) || st.st_size == 0 ||
	    st.st_size > MEMBER_IMAGE_MAX)
		return ERR_CORRUPT;
	if ((buf = malloc((size_t)st.st_size)) == NULL)
		return ERR_NOMEM;
	if ((rc = read_all(fd, buf, (size_t)st.st_size)) < 0) {
		free(buf);
		return rc;
	}
	*out = buf;
	*len = (size_t)st.st_size;
	return 0;
}

int
member_file_read(const char *dir, uint8_t **out, size_t *len)
{
	int d, fd, rc;

	if ((d = open_dir(dir)) < 0)
		return d;
	fd = openat(d, MEMBER_FILE, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	let_go(d);
	if (fd < 0 && errno == ENOENT) {
		*out = NULL;
		*len = 0;
		return 0;
	}
	if (fd < 0)
		return ERR_IO;
	rc = read_file(fd, out, len);
	let_go(fd);
	return rc;
}

static int
write_new(int d, const uint8_t *image, size_t len)
{
	int	fd = openat(d, NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
		    0600);
	size_t	at = 0;
	ssize_t n;

	if (fd < 0)
		return ERR_IO;
	while (at < len) {
		if (fault_hit("member.write")) {
			errno = ENOSPC;
			n = -1;
		} else
			n = write(fd, image + at, len - at);
		if (n < 0 && errno != EINTR)
			goto failed;
		at += n > 0 ? (size_t)n : 0;
	}
	if (fault_hit("member.fsync")) {
		errno = EIO;
		goto failed;
	}
	if (fsync(fd) < 0)
		goto failed;
	return close(fd) < 0 ? ERR_IO : 0;

failed:
	let_go(fd);
	return ERR_IO;
}

int
member_file_write(const char *dir, const uint8_t *image, size_t len)
{
	int d, rc;

	if ((d = open_dir(dir)) < 0)
		return d;
	if ((rc = write_new(d, image, len)) == 0 &&
	    (renameat(d, NEW, d, MEMBER_FILE) < 0 || fsync(d) < 0))
		rc = ERR_IO;
	let_go(d);
	return rc;
}

int
member_file_aside(const char *dir, char *name, size_t size)
{
	int d, i, rc = ERR_FULL;

	if ((d = open_dir(dir)) < 0)
		return d;
	for (i = 0; i < ASIDE_MAX && rc == ERR_FULL; i++) {
		if (i == 0)
			snprintf(name, size, MEMBER_FILE ".damaged");
		else
			snprintf(name, size, MEMBER_FILE ".damaged.%d", i);
		if (faccessat(d, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			continue;
		rc = renameat(d, MEMBER_FILE, d, name) < 0 || fsync(d) < 0 ?
		    ERR_IO : 0;
	}
	let_go(d);
	return rc;
}

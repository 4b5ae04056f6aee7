#include <sys/mman.h>
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "fault/fault.h"
#include "shm/segment.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE	0x0010
#endif

#define SEALS_SIZE	(F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int
seals_of(enum shm_mode mode)
{
	switch (mode) {
	case SHM_PRIVATE_WRITE:
		return SEALS_SIZE | F_SEAL_FUTURE_WRITE;
	case SHM_SHARED:
		return SEALS_SIZE;
	}
	return SEALS_SIZE;
}

int
shm_grow(struct shm_segment *s, size_t size)
{
	int rc;

	if (size <= s->size)
		return 0;
	if (size > s->len)
		return ERR_FULL;
	if (fault_hit("shm.grow"))
		return ERR_NOMEM;
	do {
		rc = posix_fallocate(s->fd, (off_t)s->size,
		    (off_t)(size - s->size));
	} while (rc == EINTR);
	if (rc == ENOSPC || rc == ENOMEM || rc == EDQUOT || rc == EFBIG)
		return ERR_NOMEM;
	if (rc != 0) {
		errno = rc;
		return ERR_IO;
	}
	s->size = size;
	return 0;
}

int
shm_grow_cb(void *s, size_t size)
{
	return shm_grow(s, size);
}

int
shm_create(struct shm_segment *out, const char *name, size_t len,
    enum shm_mode mode)
{
	struct shm_segment s = { .fd = -1 };
	size_t		page = (size_t)sysconf(_SC_PAGESIZE);
	int		rc = ERR_IO, saved;

	if (len == 0 || len > SIZE_MAX / 2)
		return ERR_INVAL;
	s.len = (len + page - 1) / page * page;
	if ((s.fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)) == -1)
		return ERR_IO;
	if (ftruncate(s.fd, (off_t)s.len) == -1)
		goto close_fd;
	s.base = mmap(NULL, s.len, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_NORESERVE, s.fd, 0);
	if (s.base == MAP_FAILED)
		goto close_fd;
	if (mode == SHM_SHARED && (rc = shm_grow(&s, s.len)) < 0)
		goto unmap;
	rc = ERR_IO;
	if (fcntl(s.fd, F_ADD_SEALS, seals_of(mode)) == -1)
		goto unmap;
	*out = s;
	return 0;

unmap:
	saved = errno;
	munmap(s.base, s.len);
	errno = saved;
close_fd:
	saved = errno;
	close(s.fd);
	errno = saved;
	return rc;
}

int
shm_map(struct shm_segment *out, int fd, enum shm_mode mode)
{
	struct shm_segment s = { .fd = fd };
	int		need = seals_of(mode), have;
	struct stat	st;

	if ((have = fcntl(fd, F_GET_SEALS)) == -1)
		return errno == EINVAL ? ERR_PROTO : ERR_IO;
	if ((have & need) != need)
		return ERR_PROTO;
	if (fstat(fd, &st) == -1)
		return ERR_IO;
	if (st.st_size <= 0)
		return ERR_PROTO;
	s.len = (size_t)st.st_size;
	s.base = mmap(NULL, s.len, mode == SHM_SHARED ?
	    PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_NORESERVE,
	    fd, 0);
	if (s.base == MAP_FAILED)
		return ERR_IO;
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	*out = s;
	return 0;
}

void
shm_close(struct shm_segment *s)
{
	if (s->base != NULL) {
		munmap(s->base, s->len);
		close(s->fd);
	}
	*s = (struct shm_segment){ .fd = -1 };
}

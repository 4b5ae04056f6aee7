#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "shm/segment.h"

static void
a_segment_takes_memory_only_as_it_grows(void **state UNUSED)
{
	struct shm_segment s;
	struct stat	st;

	assert_int_equal(shm_create(&s, "t", (size_t)1 << 34,
	    SHM_PRIVATE_WRITE), 0);
	assert_int_equal(s.size, 0);
	assert_int_equal(shm_grow(&s, 100000), 0);
	assert_int_equal(shm_grow(&s, 50000), 0);
	assert_int_equal(s.size, 100000);
	memset(s.base, 1, 100000);
	assert_int_equal(fstat(s.fd, &st), 0);
	assert_in_range(st.st_blocks * 512, 100000, 4 << 20);
	assert_int_equal(shm_grow(&s, ((size_t)1 << 34) + 1), ERR_FULL);
	assert_int_equal(s.size, 100000);
	shm_close(&s);
	assert_int_equal(s.fd, -1);
	shm_close(&s);
}

static void
nobody_else_can_write_or_resize_it(void **state UNUSED)
{
	struct shm_segment s, r;

	assert_int_equal(shm_create(&s, "t", 1 << 20, SHM_PRIVATE_WRITE), 0);
	assert_int_equal(shm_grow(&s, 4096), 0);
	assert_int_equal(shm_map(&r, dup(s.fd), SHM_PRIVATE_WRITE), 0);
	assert_int_equal(r.len, 1 << 20);
	s.base[7] = 42;
	assert_int_equal(r.base[7], 42);
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED,
	    r.fd, 0), MAP_FAILED);
	assert_int_equal(mprotect(r.base, 4096, PROT_READ | PROT_WRITE), -1);
	assert_int_equal(pwrite(r.fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(r.fd, 4096), -1);
	assert_int_equal(ftruncate(r.fd, 2 << 20), -1);
	assert_int_equal(fcntl(r.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	/* The writer goes on writing and growing. */
	assert_int_equal(shm_grow(&s, 1 << 20), 0);
	s.base[(1 << 20) - 1] = 43;
	assert_int_equal(r.base[(1 << 20) - 1], 43);
	shm_close(&r);
	shm_close(&s);
}

static void
a_shared_segment_is_written_by_all(void **state UNUSED)
{
	struct shm_segment s, r;

	assert_int_equal(shm_create(&s, "t", 65536, SHM_SHARED), 0);
	assert_int_equal(s.size, 65536);
	assert_int_equal(shm_map(&r, dup(s.fd), SHM_SHARED), 0);
	r.base[100] = 7;
	assert_int_equal(s.base[100], 7);
	assert_int_equal(ftruncate(r.fd, 0), -1);
	shm_close(&s);
	assert_int_equal(r.base[100], 7);
	shm_close(&r);
}

static void
what_is_no_segment_is_refused(void **state UNUSED)
{
	struct shm_segment s = { .fd = -7 };
	int		fd, p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(shm_map(&s, p[0], SHM_PRIVATE_WRITE), ERR_PROTO);
	close(p[0]);
	close(p[1]);
	fd = memfd_create("t", MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(shm_map(&s, fd, SHM_PRIVATE_WRITE), ERR_PROTO);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW |
	    F_SEAL_SEAL), 0);
	assert_int_equal(shm_map(&s, fd, SHM_PRIVATE_WRITE), ERR_PROTO);
	close(fd);
	assert_int_equal(shm_map(&s, -1, SHM_SHARED), ERR_IO);
	assert_int_equal(s.fd, -7);
	assert_int_equal(shm_create(&s, "t", 0, SHM_SHARED), ERR_INVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_segment_takes_memory_only_as_it_grows),
		cmocka_unit_test(nobody_else_can_write_or_resize_it),
		cmocka_unit_test(a_shared_segment_is_written_by_all),
		cmocka_unit_test(what_is_no_segment_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

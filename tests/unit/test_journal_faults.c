/*
 * journal with every system call failing once, each at each of its visits, and
 * with the process killed there: nothing that was written is lost, nothing
 * that was taken back comes again. The room is compiled in here with its fault
 * points, so this works in every build.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#ifndef FAULTS
#define FAULTS
#endif
#include "../../lib/fault/fault.c"
#include "../../lib/journal/file.c"
#include "../../lib/journal/format.c"
#include "../../lib/journal/journal.c"
#include "../../lib/journal/read.c"
#include "../../lib/journal/replay.c"
#include "../../lib/journal/sync.c"
#include "../../lib/journal/write.c"

#include <sys/mman.h>
#include <sys/wait.h>

#include "../support/journal_dir.h"
#include "../support/journal_model.h"

static const char *const names[] = { "journal.open", "journal.read",
    "journal.write", "journal.enospc", "journal.short", "journal.fsync",
    "journal.fsyncdir", "journal.fallocate", "journal.truncate",
    "journal.rename", "journal.unlink" };

static const struct journal_opts opts = { .segment_bytes = 64 << 10,
    .cache_bytes = 1, .salt = 77 };

static char		 dir[64];
static struct dir_image	 start;		/* what every run begins with */
static struct model	 start_model, *m;
static uint64_t		*acked;		/* written, says journal_write */
static struct seen	 seen;
static bool		 sync_failed;	/* and the fault was taken away */

static void
faults_set(const char *name, unsigned long nth, const char *more)
{
	char	 text[128];

	npoints = -1;
	memset(points, 0, sizeof(points));
	if (name == NULL) {
		unsetenv("FAULTS");
		return;
	}
	snprintf(text, sizeof(text), "%s:nth=%lu%s", name, nth, more);
	setenv("FAULTS", text, 1);
}

/* --- a life -------------------------------------------------------------- */

/* One fault at most is asked for, so that what failed works the next time. */
#define TWICE(call) do {						\
	int	 rc_ = (call);						\
									\
	if (rc_ < 0)							\
		rc_ = (call);						\
	assert_int_equal(rc_ < 0 ? rc_ : 0, 0);				\
} while (0)

static int
begin_once(struct journal **out, uint64_t from)
{
	int	 rc;

	if ((rc = journal_open(out, dir, &opts)) < 0)
		return rc;
	memset(&seen, 0, sizeof(seen));
	seen.m = m;
	rc = journal_replay(*out, from, on_record, on_damage, &seen);
	if (rc < 0)
		journal_close(out);
	return rc;
}

static struct journal *
begin(uint64_t from)
{
	struct journal	*j = NULL;

	TWICE(begin_once(&j, from));
	assert_non_null(j);
	return j;
}

static void
cut_model(uint64_t end)
{
	while (m->n > 0 && m->r[m->n - 1].pos >= end)
		m->n--;
}

/* Write; if that fails, again or take it back. */
static void
write_or(struct journal *j, bool undo)
{
	uint64_t	 was = journal_written(j);

	if (journal_write(j) < 0) {
		assert_int_equal(journal_written(j), was);
		read_back(j, m, m->n - 1);
		if (undo) {
			TWICE(journal_undo(j));
			assert_int_equal(journal_end(j), was);
			cut_model(was);
		} else {
			assert_int_equal(journal_write(j), 0);
		}
	}
	*acked = journal_written(j);
}

static void
sync_or(struct journal **j, uint64_t from)
{
	uint64_t	 pos;

	if (journal_sync(*j, &pos) == 0) {
		assert_int_equal(pos, journal_written(*j));
		return;
	}
	sync_failed = true;
	/* Final, even if the disk says no such thing any more. */
	faults_set(NULL, 0, "");
	errno = 0;
	assert_int_equal(journal_sync(*j, &pos), ERR_IO);
	assert_int_not_equal(errno, 0);
	journal_close(j);
	*j = begin(from);
	assert_int_equal(journal_sync(*j, NULL), 0);
}

static void
gone(uint64_t first, uint64_t end)
{
	size_t	 i;

	for (i = 0; i < m->n; i++)
		if (m->r[i].pos >= first && m->r[i].pos < end)
			m->r[i].gone = true;
}

/* All records of the model that are not gone came, and only they. */
static void
compare(uint64_t from, uint64_t upto)
{
	size_t	 i, n = 0;

	for (i = 0; i < m->n; i++)
		n += !m->r[i].gone && m->r[i].pos >= from &&
		    m->r[i].pos < upto;
	assert_true(seen.n >= n);
	if (upto == UINT64_MAX)
		assert_int_equal(seen.n, n);
}

static void
live(bool undo)
{
	struct journal_segment s;
	struct journal	*j = begin(0);
	unsigned	 i, k;

	for (i = 0; i < 12; i++) {
		for (k = 0; k < 3; k++)
			add(j, m, i * 1000 + k * 777);
		if (i % 5 == 4)
			add(j, m, 150000);
		write_or(j, undo);
		if (i % 4 == 3)
			sync_or(&j, 0);
		if (i % 3 == 1)
			(void)journal_prepare(j);
		TWICE(journal_read(j, m->r[m->n - 1].pos, NULL,
		    &(struct slice){ 0 }));
	}
	/* Before it is asked for: it may die in it. */
	assert_true(journal_segment_at(j, m->r[m->n / 2].pos, &s));
	gone(s.first, s.first + s.bytes);
	TWICE(journal_drop_segment(j, s.first));
	TWICE(journal_reclaim(j));
	assert_false(journal_has_dropped(j));
	add(j, m, 5);
	write_or(j, undo);
	journal_close(&j);
	j = begin(0);
	compare(0, UINT64_MAX);
	assert_true(journal_segment_from(j, 0, &s));
	gone(s.first, s.first + s.bytes);
	TWICE(journal_drop(j, s.first + s.bytes));
	journal_close(&j);
	j = begin(s.first + s.bytes);
	compare(s.first + s.bytes, UINT64_MAX);
	journal_close(&j);
}

static void
start_over(void)
{
	dir_put(dir, &start);
	*m = start_model;
	*acked = 0;
}

/* --- the walk ------------------------------------------------------------ */

static void
walk(const char *name, bool undo)
{
	unsigned long	 nth, visits;
	struct journal	*j;
	uint64_t	 from;

	for (nth = 1;; nth++) {
		start_over();
		sync_failed = false;
		faults_set(name, nth, "");
		live(undo);
		visits = points[0].visits;
		faults_set(NULL, 0, "");
		assert_int_equal(journal_open(&j, dir, &opts), 0);
		from = journal_begin(j);
		journal_close(&j);
		j = begin(from);
		compare(from, UINT64_MAX);
		journal_close(&j);
		if (!sync_failed && visits < nth)
			break;		/* that many there are not */
	}
	assert_true(nth > 1);
}

static void
whatever_fails_once_loses_nothing(void **state UNUSED)
{
	size_t	 i;

	for (i = 0; i < NELEM(names); i++) {
		walk(names[i], false);
		walk(names[i], true);
	}
}

/* A child lives until it is killed at the nth visit; its model and what was
 * acknowledged to it are in memory we share. */
static bool
killed_at(const char *name, unsigned long nth)
{
	int	 status;
	pid_t	 pid = fork();

	assert_int_not_equal(pid, -1);
	if (pid == 0) {
		faults_set(name, nth, ":do=kill");
		live(true);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status)) {
		assert_int_equal(WTERMSIG(status), SIGKILL);
		return true;
	}
	assert_int_equal(WEXITSTATUS(status), 0);
	return false;
}

static void
what_was_written_outlives_a_kill_anywhere(void **state UNUSED)
{
	struct journal	*j;
	unsigned long	 nth;
	uint64_t	 from;
	size_t		 i;

	faults_set(NULL, 0, "");
	for (i = 0; i < NELEM(names); i++) {
		for (nth = 1;; nth++) {
			start_over();
			if (!killed_at(names[i], nth))
				break;
			assert_int_equal(journal_open(&j, dir, &opts), 0);
			from = journal_begin(j);
			journal_close(&j);
			/* Dropped, or not yet. */
			gone_is_fine = true;
			j = begin(from);
			compare(from, *acked);
			gone_is_fine = false;
			cut_model(journal_end(j));
			add(j, m, 9);
			assert_int_equal(journal_write(j), 0);
			journal_close(&j);
		}
		assert_true(nth > 1);
	}
}

static void
a_full_disk_is_waited_out(void **state UNUSED)
{
	static const char *const full[] = { "journal.enospc",
	    "journal.fallocate" };
	struct journal	*j;
	size_t		 i, n, k;
	uint64_t	 was;

	for (i = 0; i < NELEM(full); i++) {
		start_over();
		j = begin(0);
		was = journal_written(j);
		faults_set(full[i], 0, "");
		for (k = 0; k < 20; k++) {
			add(j, m, 20000);
			n = m->n;
			if (k > 4) {
				errno = 0;
				assert_int_equal(journal_write(j), ERR_FULL);
				assert_int_equal(errno, ENOSPC);
			} else {
				(void)journal_write(j);
			}
			read_back(j, m, n - 1);
		}
		assert_int_equal(journal_prepare(j), i == 1 ? ERR_FULL : 0);
		faults_set(NULL, 0, "");
		assert_int_equal(journal_write(j), 0);
		assert_true(journal_written(j) > was + 400000);
		journal_close(&j);
		j = begin(0);
		compare(0, UINT64_MAX);
		journal_close(&j);
	}
}

static size_t
open_files(void)
{
	struct dir_image im;

	dir_list("/proc/self/fd", "", &im);
	return im.n;
}

static void
no_file_stays_open_for_what_is_gone(void **state UNUSED)
{
	struct journal	*j;
	uint64_t	 was;
	size_t		 i, n;

	start_over();
	faults_set(NULL, 0, "");
	j = begin(0);
	add(j, m, 60000);
	assert_int_equal(journal_write(j), 0);
	assert_int_equal(journal_sync(j, NULL), 0);
	was = journal_end(j);
	n = open_files();
	for (i = 0; i < 20; i++) {
		/* The second of two new segments finds the disk full. */
		faults_set("journal.enospc", 2, "");
		add(j, m, 64000);
		add(j, m, 64000);
		assert_int_equal(journal_write(j), ERR_FULL);
		assert_int_equal(journal_undo(j), 0);
		assert_int_equal(journal_end(j), was);
		cut_model(was);
	}
	faults_set(NULL, 0, "");
	assert_int_equal(open_files(), n);
	read_back(j, m, 0);
	assert_int_equal(open_files(), n + 1);
	assert_true(journal_drop(j, was) > 0);
	assert_int_equal(open_files(), n);
	journal_close(&j);
}

static int
setup(void **state UNUSED)
{
	static struct model local;
	struct journal	*j;
	unsigned	 i;
	size_t		 k;

	m = &local;
	faults_set(NULL, 0, "");
	dir_make(dir);
	j = begin(0);
	for (i = 0; i < 9; i++)
		add(j, m, 16000);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	dir_take(dir, &start);
	/* A header, a record in the middle, a torn tail. */
	assert_int_equal(start.n, 3);
	start.files[0].data[3] ^= 1;
	start.files[0].data[m->r[1].pos] ^= 1;
	m->r[1].gone = true;
	m->n--;
	k = (size_t)(m->r[8].pos - m->r[7].pos);
	start.files[2].data[64 + k / 2] ^= 1;
	start_model = *m;
	m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	acked = mmap(NULL, sizeof(*acked), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return m == MAP_FAILED || acked == MAP_FAILED;
}

static int
teardown(void **state UNUSED)
{
	munmap(m, sizeof(*m));
	munmap(acked, sizeof(*acked));
	dir_image_free(&start);
	dir_remove(dir);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whatever_fails_once_loses_nothing),
		cmocka_unit_test(what_was_written_outlives_a_kill_anywhere),
		cmocka_unit_test(a_full_disk_is_waited_out),
		cmocka_unit_test(no_file_stays_open_for_what_is_gone),
	};

	return cmocka_run_group_tests_name("journal_faults", tests, setup,
	    teardown);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "kv/snap.h"
#include "kv/tree.h"
#include "kv/worker.h"

#include "../support/kv_model.h"

/* --- Claims ------------------------------------------------------------- */

static void
a_new_one_is_empty_and_stays(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r), *other;

	assert_false(r.opened || r.rebuilt || r.damaged);
	assert_int_equal(r.position, 0);
	assert_int_equal(kv_records(t), 0);
	assert_true(is_a_prefix(t));
	assert_int_equal(kv_open(&other, dir, &small, &r), ERR_AGAIN);
	kv_close(&t);
	assert_null(t);
	kv_close(&t);
	t = open_well(&r);
	assert_true(r.opened);
	assert_false(r.rebuilt || r.damaged);
	kv_close(&t);
}

static void
a_directory_must_be_there(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;

	assert_int_equal(kv_open(&t, "/nonexistent/x", &small, &r), ERR_IO);
	assert_int_equal(errno, ENOENT);
}

static void
what_was_committed_is_there_again(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	uint32_t		 i;

	for (i = 0; i < 20; i++) {
		rounds_commit(t, i * 10 + 1, i * 10 + 10);
		assert_true(is_a_prefix(t));
		kv_close(&t);
		t = open_well(&r);
		assert_true(r.opened && !r.damaged);
		assert_int_equal(r.position, (i + 1) * 10000u);
		assert_true(is_a_prefix(t));
	}
	kv_close(&t);
}

static void
keys_and_values_have_bounds(void **state UNUSED)
{
	struct kv_batch	*b = kv_batch_new();
	uint8_t		*big = calloc(1, KV_KEY_MAX + 1);

	memset(big, 'k', KV_KEY_MAX + 1);
	assert_int_equal(kv_batch_put(b, "", 0, "v", 1), ERR_INVAL);
	assert_int_equal(kv_batch_put(b, "\0k", 2, "v", 1), ERR_INVAL);
	assert_int_equal(kv_batch_put(b, big, KV_KEY_MAX + 1, "v", 1),
	    ERR_INVAL);
	assert_int_equal(kv_batch_put(b, "k", 1, "v", KV_VALUE_MAX + 1u),
	    ERR_INVAL);
	assert_int_equal(kv_batch_del(b, "", 0), ERR_INVAL);
	assert_int_equal(b->n, 0);
	assert_int_equal(b->len, 0);
	assert_int_equal(kv_batch_put(b, big, KV_KEY_MAX, NULL, 0), 0);
	assert_int_equal(b->n, 1);
	free(big);
	kv_batch_free(&b);
	assert_null(b);
}

static int
only_each(void *ctx, const struct slice *key, const struct slice *value)
{
	struct slice	*s = ctx;

	assert_int_equal(s->data == NULL, 1);
	s->data = (const uint8_t *)strndup((const char *)value->data,
	    value->len);
	s->len = key->len;
	return 0;
}

static void
the_last_entry_for_a_key_counts(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct kv_batch		*b = kv_batch_new();
	struct slice		 s = { NULL, 0 };

	kv_batch_put(b, "a", 1, "1", 1);
	kv_batch_put(b, "ab", 2, "1", 1);
	kv_batch_del(b, "a", 1);
	kv_batch_put(b, "a", 1, "2", 1);
	kv_batch_del(b, "ab", 2);
	kv_batch_del(b, "abc", 3);
	b->position = 7;
	assert_int_equal(kv_commit(t, b), 0);
	assert_int_equal(kv_records(t), 1);
	assert_int_equal(kv_position(t), 7);
	assert_int_equal(kv_each(t, only_each, &s), 0);
	assert_string_equal((const char *)s.data, "2");
	assert_int_equal(s.len, 1);
	free((void *)s.data);
	kv_batch_free(&b);
	kv_close(&t);
}

static int
stop_each(void *ctx, const struct slice *key UNUSED,
    const struct slice *value UNUSED)
{
	return ++*(int *)ctx == 3 ? 42 : 0;
}

static void
a_walk_can_be_ended(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	int			 n = 0;

	rounds_commit(t, 1, 5);
	assert_int_equal(kv_each(t, stop_each, &n), 42);
	assert_int_equal(n, 3);
	kv_close(&t);
}

/* A child commits round after round until it is killed. */
static void
commit_until_killed(uint32_t from, int report)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct kv_batch		*b = kv_batch_new();
	struct model		 m = { { 0 } };

	if (kv_open(&t, dir, &small, &r) < 0 || r.damaged ||
	    r.position / 1000 < from)
		_exit(3);
	from = (uint32_t)(r.position / 1000);
	if (write(report, &from, sizeof(from)) != sizeof(from))
		_exit(4);
	for (;;) {
		round_make(++from, b, &m);
		if (kv_commit(t, b) < 0)
			_exit(5);
		if (write(report, &from, sizeof(from)) != sizeof(from))
			_exit(6);
	}
}

static void
a_kill_leaves_a_committed_state(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	uint32_t		 acked = 0, got, i, n;
	int			 p[2], status;
	pid_t			 pid;

	t = open_well(&r);
	kv_close(&t);
	for (i = 0; i < 50; i++) {
		assert_int_equal(pipe(p), 0);
		if ((pid = fork()) == 0) {
			close(p[0]);
			commit_until_killed(acked, p[1]);
		}
		close(p[1]);
		/* Some commits in, and then somewhere in the next one. */
		for (n = 0; n <= i % 5; n++) {
			assert_int_equal(read(p[0], &got, sizeof(got)),
			    sizeof(got));
			assert_true(got >= acked);
			acked = got;
		}
		poll(NULL, 0, (int)(i % 4));
		kill(pid, SIGKILL);
		while (read(p[0], &got, sizeof(got)) == sizeof(got))
			acked = got;
		close(p[0]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		t = open_well(&r);
		if (!r.opened || r.damaged)
			fail_msg("kill %u: %s", i, r.why);
		assert_true(is_a_prefix(t));
		/* A commit in which nobody was told may be in. */
		assert_in_range(kv_position(t), acked * 1000u,
		    (acked + 1) * 1000u);
		acked = (uint32_t)(kv_position(t) / 1000);
		kv_close(&t);
	}
	assert_int_equal(files_like("idx.tcb.bad"), 0);
}

/* What the next start makes of the directory; 1000 * rounds were committed. */
static void
opens_on_something_committed(uint32_t round, uint32_t snap_round,
    uint32_t *not_believed)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);

	if (!is_a_prefix(t))
		fail_msg("invented or lost records; %s", r.why);
	if (r.opened) {
		assert_false(r.rebuilt);
		assert_int_equal(r.position, round * 1000u);
	} else {
		assert_true(r.damaged);
		assert_true(r.why[0] != '\0');
		assert_int_equal(r.position, snap_round * 1000u);
		(*not_believed)++;
	}
	kv_close(&t);
}

/* A fork under a sanitizer takes its time. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FLIP_EVERY	211
#else
#define FLIP_EVERY	31
#endif

/* Sparse in runs of zeros unless the environment asks for all. */
static size_t
next_to_flip(const struct bytes *b, size_t i)
{
	size_t	n;

	if (getenv("KV_FLIP") != NULL)
		return i + 1;
	for (n = 1, i++; i < b->len; i++, n++)
		if ((b->data[i] != 0 && n >= FLIP_EVERY) ||
		    n == 13 * FLIP_EVERY)
			break;
	return i;
}

static void
no_flipped_byte_of_a_tree_is_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct bytes		 tree, mark, snap;
	uint32_t		 flips = 0, found = 0;
	size_t			 i;

	rounds_commit(t, 1, 3);
	assert_int_equal(kv_snapshot(t, NULL, NULL), 0);
	rounds_commit(t, 4, 8);
	kv_close(&t);
	tree = file_get("idx.tcb");
	mark = file_get("idx.mark");
	snap = file_get("idx.snap");
	for (i = 0; i < tree.len; i = next_to_flip(&tree, i)) {
		empty_dir();
		file_put("idx.mark", mark.data, mark.len);
		file_put("idx.snap", snap.data, snap.len);
		tree.data[i] ^= (uint8_t)(1u << i % 8);
		file_put("idx.tcb", tree.data, tree.len);
		tree.data[i] ^= (uint8_t)(1u << i % 8);
		opens_on_something_committed(8, 3, &found);
		flips++;
	}
	print_message("%u of %u flips found\n", found, flips);
	assert_true(found > flips / 2);
	free(tree.data);
	free(mark.data);
	free(snap.data);
}

static void
no_flipped_byte_of_a_killed_tree_is_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct bytes		 tree, mark, snap;
	uint32_t		 flips = 0, found = 0;
	size_t			 i;
	pid_t			 pid;
	int			 status;

	if ((pid = fork()) == 0) {
		t = open_well(&r);
		rounds_commit(t, 1, 3);
		kv_snapshot(t, NULL, NULL);
		rounds_commit(t, 4, 8);
		raise(SIGKILL);
	}
	waitpid(pid, &status, 0);
	tree = file_get("idx.tcb");
	mark = file_get("idx.mark");
	snap = file_get("idx.snap");
	for (i = 0; i < tree.len; i = next_to_flip(&tree, i)) {
		empty_dir();
		file_put("idx.mark", mark.data, mark.len);
		file_put("idx.snap", snap.data, snap.len);
		tree.data[i] ^= 0x41;
		file_put("idx.tcb", tree.data, tree.len);
		tree.data[i] ^= 0x41;
		opens_on_something_committed(8, 3, &found);
		flips++;
	}
	print_message("%u of %u flips found\n", found, flips);
	assert_true(found > 0);
	free(tree.data);
	free(mark.data);
	free(snap.data);
}

static void
no_flipped_byte_of_mark_or_snapshot_is_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct bytes		 mark, snap, tree;
	size_t			 i;

	rounds_commit(t, 1, 3);
	assert_int_equal(kv_snapshot(t, NULL, NULL), 0);
	rounds_commit(t, 4, 4);
	kv_close(&t);
	mark = file_get("idx.mark");
	snap = file_get("idx.snap");
	tree = file_get("idx.tcb");
	for (i = 0; i < mark.len; i++) {
		empty_dir();
		mark.data[i] ^= 0x10;
		file_put("idx.mark", mark.data, mark.len);
		mark.data[i] ^= 0x10;
		file_put("idx.snap", snap.data, snap.len);
		file_put("idx.tcb", tree.data, tree.len);
		t = open_well(&r);
		assert_true(r.damaged && r.rebuilt);
		assert_int_equal(r.position, 3000);
		assert_true(is_a_prefix(t));
		kv_close(&t);
	}
	for (i = 0; i <= snap.len; i++) {
		struct kv_snap_info	info;
		struct model		m = { { 0 } };
		struct compare		c = { .m = &m };
		int			dfd;

		if (i < snap.len)
			snap.data[i] ^= (uint8_t)(1u << i % 8);
		file_put("idx.snap", snap.data, snap.len + (i == snap.len));
		if (i < snap.len)
			snap.data[i] ^= (uint8_t)(1u << i % 8);
		dfd = open(dir, O_RDONLY | O_DIRECTORY);
		assert_int_equal(kv_snap_read(dfd, compare_each, &c, &info),
		    ERR_CORRUPT);
		/* Cut off anywhere. */
		file_put("idx.snap", snap.data, MIN(i, snap.len - 1));
		assert_int_equal(kv_snap_read(dfd, compare_each, &c, &info),
		    ERR_CORRUPT);
		close(dfd);
	}
	/* And with nothing but a damaged one the start is empty. */
	empty_dir();
	snap.data[snap.len / 2] ^= 1;
	file_put("idx.snap", snap.data, snap.len);
	file_put("idx.tcb", snap.data, snap.len);
	t = open_well(&r);
	assert_true(r.damaged);
	assert_false(r.rebuilt || r.opened);
	assert_int_equal(r.position, 0);
	assert_int_equal(kv_floor(t), 0);
	assert_true(is_a_prefix(t));
	assert_int_equal(files_like("idx.tcb.bad-1"), 1);
	kv_close(&t);
	free(mark.data);
	free(snap.data);
	free(tree.data);
}

static void
a_lost_tree_is_made_from_the_snapshot(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);

	rounds_commit(t, 1, 9);
	assert_int_equal(kv_floor(t), 0);
	assert_int_equal(kv_snapshot(t, NULL, NULL), 0);
	assert_int_equal(kv_floor(t), 9000);
	rounds_commit(t, 10, 12);
	kv_close(&t);
	unlink(path("idx.tcb"));
	t = open_well(&r);
	assert_true(r.damaged && r.rebuilt);
	assert_int_equal(r.position, 9000);
	assert_int_equal(r.snap_position, 9000);
	assert_true(is_a_prefix(t));
	rounds_commit(t, 10, 20);
	kv_close(&t);
	t = open_well(&r);
	assert_true(r.opened && !r.damaged);
	assert_int_equal(kv_floor(t), 9000);
	assert_true(is_a_prefix(t));
	kv_close(&t);
}

static void
of_those_set_aside_two_are_kept(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	unsigned		 i;
	char			 want[32];

	for (i = 1; i <= 5; i++) {
		kv_close(&t);
		file_put("idx.tcb", (const uint8_t *)"garbage", 7);
		t = open_well(&r);
		assert_true(r.damaged);
		snprintf(want, sizeof(want), "idx.tcb.bad-%u", i);
		assert_string_equal(r.aside, want);
		assert_int_equal(files_like("idx.tcb.bad"), MIN(i, 2u));
		assert_int_equal(files_like(want), 1);
	}
	kv_close(&t);
}

static void
an_old_tree_put_back_is_not_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct bytes		 old;

	rounds_commit(t, 1, 3);
	kv_close(&t);
	old = file_get("idx.tcb");
	t = open_well(&r);
	rounds_commit(t, 4, 5);
	kv_close(&t);
	file_put("idx.tcb", old.data, old.len);
	t = open_well(&r);
	assert_true(r.damaged);
	assert_int_equal(r.position, 0);
	kv_close(&t);
	free(old.data);
}

static bool
stop_at_once(void *ctx)
{
	return ++*(int *)ctx > 0;
}

static void
a_snapshot_can_be_given_up(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	int			 n = 0;

	rounds_commit(t, 1, 3);
	assert_int_equal(kv_snapshot(t, stop_at_once, &n), ERR_AGAIN);
	assert_int_equal(n, 1);
	assert_int_equal(files_like("idx.snap"), 0);
	assert_int_equal(kv_floor(t), 0);
	kv_close(&t);
}

/*
 * A full disk takes no write that makes a file longer. These stand before the
 * C library's, for Tokyo Cabinet's calls too.
 */
static int	grows_left = -1;	/* so many are taken; -1: no bound */

static bool
refused(int fd, off_t at, size_t len)
{
	struct stat	st;

	if (at < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
	    at + (off_t)len <= st.st_size)
		return false;
	if (grows_left > 0)
		grows_left--;
	else if (grows_left == 0)
		errno = ENOSPC;
	return grows_left == 0 && errno == ENOSPC;
}

ssize_t
write(int fd, const void *buf, size_t len)
{
	int	e = errno;

	errno = 0;
	if (refused(fd, lseek(fd, 0, SEEK_CUR), len))
		return -1;
	errno = e;
	return syscall(SYS_write, fd, buf, len);
}

ssize_t
pwrite(int fd, const void *buf, size_t len, off_t at)
{
	int	e = errno;

	errno = 0;
	if (refused(fd, at, len))
		return -1;
	errno = e;
	return syscall(SYS_pwrite64, fd, buf, len, at);
}

/* What Tokyo Cabinet calls. */
ssize_t pwrite64(int fd, const void *buf, size_t len, off_t at);

ssize_t
pwrite64(int fd, const void *buf, size_t len, off_t at)
{
	return pwrite(fd, buf, len, at);
}

static void
a_full_disk_changes_nothing(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct kv_batch		*b = kv_batch_new();
	struct model		 m = { { 0 } };
	uint32_t		 round = 31, full = 0, passed = 0;
	int			 n, rc, snaps = 0;

	rounds_commit(t, 1, 30);
	for (n = 0; passed < 3; n++) {
		round_make(round, b, &m);
		grows_left = n;
		rc = kv_commit(t, b);
		grows_left = -1;
		if (rc == 0) {
			round++;
			passed++;
		} else {
			assert_int_equal(rc, ERR_FULL);
			assert_int_equal(errno, ENOSPC);
			full++;
			passed = 0;
		}
		assert_int_equal(kv_position(t), (round - 1) * 1000u);
		assert_true(is_a_prefix(t));
		if (n % 5 == 0) {
			kv_close(&t);
			t = open_well(&r);
			assert_true(r.opened && !r.damaged);
			assert_true(is_a_prefix(t));
		}
		/* Space is back. */
		round_make(round, b, &m);
		assert_int_equal(kv_commit(t, b), 0);
		round++;
	}
	print_message("%u commits met a full disk\n", full);
	assert_true(full > 10);
	do {
		grows_left = snaps++;
		rc = kv_snapshot(t, NULL, NULL);
		grows_left = -1;
		assert_true(rc == 0 || rc == ERR_FULL);
		assert_int_equal(files_like("idx.snap"), rc == 0);
	} while (rc != 0);
	assert_true(snaps > 1);
	kv_close(&t);
	t = open_well(&r);
	assert_true(r.opened && !r.damaged);
	assert_true(is_a_prefix(t));
	kv_close(&t);
	kv_batch_free(&b);
}

/* --- The worker --------------------------------------------------------- */

static unsigned	order, dones;
static int	gate[2];

static int
wait_at_gate(void *arg UNUSED)
{
	char	c;

	return read(gate[0], &c, 1) == 1 ? 0 : ERR_IO;
}

static int
refuse(void *arg)
{
	errno = *(int *)arg;
	return ERR_IO;
}

static void
on_done(struct kv_job *j)
{
	*(unsigned *)j->ctx = ++order;
	dones++;
}

static void
run_until(struct ev_loop *loop, unsigned n)
{
	while (dones < n)
		ev_run(loop, EVRUN_ONCE);
}

static void
a_sync_does_not_wait_behind_the_tree(void **state UNUSED)
{
	struct ev_loop		*loop = ev_loop_new(EVFLAG_AUTO);
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct kv_worker	*w;
	struct kv_batch		*b = kv_batch_new();
	struct model		 m = { { 0 } };
	unsigned		 at[5] = { 0 };
	int			 eio = EIO;
	struct kv_job		 held = { .kind = KV_JOB_CALL,
	    .run = wait_at_gate, .done = on_done, .ctx = &at[0] };
	struct kv_job		 commit = { .kind = KV_JOB_COMMIT,
	    .batch = b, .done = on_done, .ctx = &at[1] };
	struct kv_job		 snap = { .kind = KV_JOB_SNAPSHOT,
	    .done = on_done, .ctx = &at[2] };
	struct kv_job		 sync = { .kind = KV_JOB_SYNC, .run = refuse,
	    .arg = &eio, .done = on_done, .ctx = &at[3] };
	struct kv_job		 more = commit;

	order = dones = 0;
	round_make(1, b, &m);
	assert_int_equal(pipe(gate), 0);
	assert_int_equal(kv_worker_new(&w, loop, t, 3), 0);
	assert_int_equal(kv_worker_submit(w, &held), 0);
	assert_int_equal(kv_worker_submit(w, &commit), 0);
	assert_int_equal(kv_worker_submit(w, &snap), 0);
	assert_int_equal(kv_worker_submit(w, &more), ERR_FULL);
	assert_int_equal(kv_worker_submit(w, &sync), 0);
	assert_int_equal(kv_worker_busy(w), 4);
	run_until(loop, 1);
	assert_int_equal(at[3], 1);
	assert_int_equal(sync.rc, ERR_IO);
	assert_int_equal(sync.errnum, EIO);
	assert_int_equal(write(gate[1], "x", 1), 1);
	run_until(loop, 4);
	assert_int_equal(at[0], 2);
	assert_int_equal(at[1], 3);
	assert_int_equal(at[2], 4);
	assert_int_equal(commit.rc, 0);
	assert_int_equal(commit.position, 1000);
	assert_int_equal(commit.floor, 0);
	assert_int_equal(snap.rc, 0);
	assert_int_equal(snap.floor, 1000);
	assert_int_equal(kv_worker_busy(w), 0);
	kv_worker_free(&w);
	assert_null(w);
	assert_true(is_a_prefix(t));
	kv_close(&t);
	kv_batch_free(&b);
	close(gate[0]);
	close(gate[1]);
	ev_loop_destroy(loop);
}

static void
stopping_finishes_all_but_snapshots(void **state UNUSED)
{
	struct ev_loop		*loop = ev_loop_new(EVFLAG_AUTO);
	struct kv_report	 r;
	struct kv_tree		*t = open_well(&r);
	struct kv_worker	*w;
	struct kv_batch		*b[20];
	struct kv_job		 j[20], snap = { .kind = KV_JOB_SNAPSHOT };
	struct model		 m = { { 0 } };
	unsigned		 at[20], i;

	order = dones = 0;
	assert_int_equal(kv_worker_new(&w, loop, t, 100), 0);
	for (i = 0; i < 20; i++) {
		b[i] = kv_batch_new();
		round_make(i + 1, b[i], &m);
		j[i] = (struct kv_job){ .kind = KV_JOB_COMMIT, .batch = b[i],
		    .done = on_done, .ctx = &at[i] };
		assert_int_equal(kv_worker_submit(w, &j[i]), 0);
	}
	assert_int_equal(kv_worker_submit(w, &snap), 0);
	kv_worker_stop(w);
	assert_int_equal(dones, 20);
	for (i = 0; i < 20; i++) {
		assert_int_equal(j[i].rc, 0);
		assert_int_equal(at[i], i + 1);
		kv_batch_free(&b[i]);
	}
	assert_int_equal(snap.rc, ERR_AGAIN);
	assert_int_equal(kv_worker_submit(w, &snap), ERR_STALE);
	kv_worker_free(&w);
	assert_int_equal(kv_position(t), 20000);
	assert_true(is_a_prefix(t));
	kv_close(&t);
	ev_loop_destroy(loop);
}

/* The checkpoint of a start, or of a storm, is large, and most are small. */
static void
a_batch_that_was_large_gives_back_its_memory(void **state UNUSED)
{
	static uint8_t	 value[100000];
	struct kv_batch	*b = kv_batch_new();
	uint8_t		*first;
	unsigned	 i;

	assert_int_equal(kv_batch_put(b, "k", 1, "v", 1), 0);
	first = b->buf;
	kv_batch_reset(b);
	assert_ptr_equal(b->buf, first);	/* not each time anew */
	for (i = 0; i < 100; i++)
		assert_int_equal(kv_batch_put(b, "k", 1, value,
		    sizeof(value)), 0);
	assert_true(b->room >= 100 * sizeof(value));
	kv_batch_reset(b);
	assert_true(b->room <= 1 << 20);
	assert_int_equal(b->len, 0);
	assert_int_equal(kv_batch_put(b, "next", 4, "w", 1), 0);
	assert_int_equal(b->n, 1);
	assert_memory_equal(b->buf + 8, "next", 4);	/* lengths, then it */
	kv_batch_free(&b);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest	tests[] = {
		T(a_new_one_is_empty_and_stays),
		T(a_directory_must_be_there),
		T(what_was_committed_is_there_again),
		T(keys_and_values_have_bounds),
		T(the_last_entry_for_a_key_counts),
		T(a_batch_that_was_large_gives_back_its_memory),
		T(a_walk_can_be_ended),
		T(a_kill_leaves_a_committed_state),
		T(no_flipped_byte_of_a_tree_is_believed),
		T(no_flipped_byte_of_a_killed_tree_is_believed),
		T(no_flipped_byte_of_mark_or_snapshot_is_believed),
		T(a_lost_tree_is_made_from_the_snapshot),
		T(of_those_set_aside_two_are_kept),
		T(an_old_tree_put_back_is_not_believed),
		T(a_snapshot_can_be_given_up),
		T(a_full_disk_changes_nothing),
		T(a_sync_does_not_wait_behind_the_tree),
		T(stopping_finishes_all_but_snapshots),
	};
	const char	*only = getenv("KV_ONLY");

	if (only != NULL)
		cmocka_set_test_filter(only);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

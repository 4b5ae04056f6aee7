/*
 * kv with every call failing once, each at each of its visits, and with the
 * process killed there: what was committed stays, what was not does not half
 * appear. The room is compiled in here with its fault points, so this works in
 * every build.
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
#include "../../lib/kv/batch.c"
#include "../../lib/kv/check.c"
#include "../../lib/kv/mark.c"
#include "../../lib/kv/tree.c"
#include "../../lib/kv/snap.c"

#include "../support/kv_model.h"

#define ROUNDS	6u		/* of a life */

static const char *const names[] = { "kv.open", "kv.mark", "kv.begin",
    "kv.put", "kv.commit", "kv.sync", "kv.snap.read", "kv.snap.write",
    "kv.snap.fsync", "kv.snap.rename" };

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

static bool
fault_was_hit(unsigned long nth)
{
	return points[0].visits >= nth;
}

/* Tells whether once was enough. */
static bool
open_twice(struct kv_tree **t, struct kv_report *r)
{
	int	rc;

	if ((rc = kv_open(t, dir, &small, r)) == 0)
		return true;
	assert_true(rc == ERR_IO || rc == ERR_FULL);
	assert_int_equal(kv_open(t, dir, &small, r), 0);
	return false;
}

/* What fails once works the next time, and changes nothing before it. */
static void
commit_twice(struct kv_tree *t, struct kv_batch *b, uint32_t round)
{
	struct model	m = { { 0 } };
	int		rc;

	round_make(round, b, &m);
	if ((rc = kv_commit(t, b)) < 0) {
		assert_true(rc == ERR_IO || rc == ERR_FULL);
		assert_true(is_a_prefix(t));
		assert_int_equal(kv_commit(t, b), 0);
	}
	assert_int_equal(kv_position(t), round * 1000u);
}

static void
snapshot_twice(struct kv_tree *t)
{
	int	rc;

	if ((rc = kv_snapshot(t, NULL, NULL)) < 0) {
		assert_true(rc == ERR_IO || rc == ERR_FULL);
		assert_int_equal(files_like("idx.snap.new"), 0);
		assert_int_equal(kv_snapshot(t, NULL, NULL), 0);
	}
	assert_int_equal(kv_floor(t), kv_position(t));
}

/* Two starts, commits, a snapshot, a damaged tree and one made from it. */
static void
live(void)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct kv_batch		*b = kv_batch_new();
	uint32_t		 i;

	open_twice(&t, &r);
	for (i = 1; i <= ROUNDS / 2; i++)
		commit_twice(t, b, i);
	snapshot_twice(t);
	for (; i <= ROUNDS; i++)
		commit_twice(t, b, i);
	assert_true(is_a_prefix(t));
	kv_close(&t);
	open_twice(&t, &r);
	assert_true(r.opened && !r.damaged);
	assert_int_equal(r.position, ROUNDS * 1000u);
	assert_true(is_a_prefix(t));
	kv_close(&t);
	file_put("idx.tcb", (const uint8_t *)"damage", 6);
	/* The second one may find what the first one had made anew. */
	if (open_twice(&t, &r))
		assert_true(r.damaged && !r.opened);
	assert_int_equal(r.position, ROUNDS / 2 * 1000u);
	assert_true(is_a_prefix(t));
	commit_twice(t, b, ROUNDS / 2 + 1);
	kv_close(&t);
	kv_batch_free(&b);
}

static void
a_call_that_fails_costs_nothing(void **state UNUSED)
{
	unsigned long	nth, hits = 0;
	size_t		i;

	for (i = 0; i < NELEM(names); i++) {
		for (nth = 1;; nth++) {
			empty_dir();
			faults_set(names[i], nth, "");
			live();
			if (!fault_was_hit(nth))
				break;
			hits++;
			/* Puts are many and alike. */
			if (strcmp(names[i], "kv.put") == 0)
				nth += 12;
		}
		if (nth == 1)
			fail_msg("%s was never visited", names[i]);
	}
	faults_set(NULL, 0, "");
	print_message("%lu faults\n", hits);
}

/* In a child: commits until it is killed, telling what was acknowledged. */
static void
live_and_die(volatile uint32_t *acked, volatile uint32_t *snapped)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct kv_batch		*b = kv_batch_new();
	struct model		 m;
	uint32_t		 i;

	if (kv_open(&t, dir, &small, &r) < 0)
		_exit(3);
	for (i = 1; i <= ROUNDS; i++) {
		memset(&m, 0, sizeof(m));
		round_make(i, b, &m);
		if (kv_commit(t, b) < 0)
			_exit(4);
		*acked = i;
		if (i == ROUNDS / 2) {
			if (kv_snapshot(t, NULL, NULL) < 0)
				_exit(5);
			*snapped = i;
		}
	}
	kv_close(&t);
	_exit(0);
}

static void
a_kill_there_costs_nothing(void **state UNUSED)
{
	volatile uint32_t	*told;
	struct kv_report	 r;
	struct kv_tree		*t;
	unsigned long		 nth, kills = 0;
	size_t			 i;
	pid_t			 pid;
	int			 status;

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(told != MAP_FAILED);
	for (i = 0; i < NELEM(names); i++) {
		for (nth = 1;; nth++) {
			empty_dir();
			told[0] = told[1] = 0;
			faults_set(names[i], nth, ":do=kill");
			if ((pid = fork()) == 0)
				live_and_die(&told[0], &told[1]);
			assert_int_equal(waitpid(pid, &status, 0), pid);
			faults_set(NULL, 0, "");
			t = open_well(&r);
			assert_true(is_a_prefix(t));
			assert_in_range(kv_position(t), told[0] * 1000u,
			    (told[0] + 1) * 1000u);
			assert_true(kv_floor(t) >= told[1] * 1000u);
			kv_close(&t);
			if (!WIFSIGNALED(status)) {
				assert_int_equal(status, 0);
				break;
			}
			kills++;
			if (strcmp(names[i], "kv.put") == 0)
				nth += 12;
		}
	}
	munmap((void *)(uintptr_t)told, 4096);
	print_message("%lu kills\n", kills);
	assert_true(kills > 20);
}

/* Bytes of what undoes the transaction: none makes up a record. */
static void
no_flipped_byte_of_an_undo_log_is_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct bytes		 tree, wal, mark, snap;
	volatile uint32_t	 told[2];
	unsigned		 believed = 0, refused = 0;
	size_t			 i;
	pid_t			 pid;
	int			 status;

	faults_set("kv.commit", ROUNDS - 1, ":do=kill");
	if ((pid = fork()) == 0)
		live_and_die(&told[0], &told[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	faults_set(NULL, 0, "");
	tree = file_get(KV_TREE);
	wal = file_get(KV_TREE KV_WAL);
	mark = file_get(KV_MARK);
	snap = file_get(KV_SNAP);
	assert_true(wal.len > 300);
	/* The last of it uncut, then cut off before each of its bytes. */
	for (i = 0; i < 2 * wal.len; i += i < 400 ? 1 : 53) {
		empty_dir();
		file_put(KV_TREE, tree.data, tree.len);
		file_put(KV_MARK, mark.data, mark.len);
		file_put(KV_SNAP, snap.data, snap.len);
		if (i < wal.len) {
			wal.data[i] ^= (uint8_t)(1u << i % 8);
			file_put(KV_TREE KV_WAL, wal.data, wal.len);
			wal.data[i] ^= (uint8_t)(1u << i % 8);
		} else {
			file_put(KV_TREE KV_WAL, wal.data, i - wal.len);
		}
		t = open_well(&r);
		if (!is_a_prefix(t))
			fail_msg("byte %zu: %s", i, r.why);
		if (r.opened) {
			/* Undone, or with no log to undo it all there. */
			assert_in_range(r.position, (ROUNDS - 2) * 1000u,
			    (ROUNDS - 1) * 1000u);
			believed++;
		} else {
			assert_int_equal(r.position, ROUNDS / 2 * 1000u);
			refused++;
		}
		kv_close(&t);
	}
	print_message("%u believed, %u refused\n", believed, refused);
	assert_true(believed > 0 && refused > 0);
	free(tree.data);
	free(wal.data);
	free(mark.data);
	free(snap.data);
}

/* As when the machine stops: the mark is of another life of it. */
static void
a_commit_cut_off_by_a_power_cut_is_not_believed(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	struct kv_mark		 mark;
	uint8_t			 raw[MARK_SIZE];
	volatile uint32_t	 told[2];
	int			 status, fd;
	pid_t			 pid;

	faults_set("kv.commit", ROUNDS - 1, ":do=kill");
	if ((pid = fork()) == 0)
		live_and_die(&told[0], &told[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	faults_set(NULL, 0, "");
	fd = open(path(KV_MARK), O_RDWR);
	assert_int_equal(read(fd, raw, sizeof(raw)), sizeof(raw));
	assert_int_equal(mark_decode(&mark, raw), 0);
	assert_true(mark.dirty);
	mark.boot[3] ^= 1;
	mark_encode(raw, &mark);
	assert_int_equal(pwrite(fd, raw, sizeof(raw), 0), sizeof(raw));
	close(fd);
	t = open_well(&r);
	assert_true(r.damaged && r.rebuilt);
	assert_int_equal(r.position, ROUNDS / 2 * 1000u);
	assert_true(is_a_prefix(t));
	kv_close(&t);
}

/* A tree over which the process dies again and again is given up. */
static void
a_tree_that_kills_is_set_aside(void **state UNUSED)
{
	struct kv_report	 r;
	struct kv_tree		*t;
	volatile uint32_t	 told[2];
	int			 status, i;
	pid_t			 pid;

	for (i = 0; i < (int)UNFINISHED_MAX; i++) {
		t = open_well(&r);
		assert_false(r.damaged);
		kv_close(&t);
		faults_set("kv.begin", 1, ":do=kill");
		if ((pid = fork()) == 0)
			live_and_die(&told[0], &told[1]);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		faults_set(NULL, 0, "");
	}
	t = open_well(&r);
	assert_true(r.damaged && !r.opened);
	kv_close(&t);
	t = open_well(&r);
	assert_true(r.opened && !r.damaged);
	kv_close(&t);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest	tests[] = {
		T(a_call_that_fails_costs_nothing),
		T(a_kill_there_costs_nothing),
		T(no_flipped_byte_of_an_undo_log_is_believed),
		T(a_commit_cut_off_by_a_power_cut_is_not_believed),
		T(a_tree_that_kills_is_set_aside),
	};

	return cmocka_run_group_tests_name("kv_faults", tests, NULL, NULL);
}

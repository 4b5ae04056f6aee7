/*
 * journal: what was written comes back, whatever happens to the files; nothing
 * else does; and what is lost is said.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../support/journal_dir.h"
#include "../support/journal_model.h"
#include "base/err.h"

static char		dir[64];
static struct model	model;
static struct seen	seen;
static uint64_t		life;		/* its seed, while it lasts */

static const struct journal_opts small = { .segment_bytes = 64 << 10,
    .cache_bytes = 1, .salt = 0x5eed };

static struct journal *
open_from(const struct journal_opts *o, uint64_t from)
{
	struct journal	*j;

	memset(&seen, 0, sizeof(seen));
	seen.m = &model;
	assert_int_equal(journal_open(&j, dir, o), 0);
	assert_int_equal(journal_replay(j, from, on_record, on_damage, &seen),
	    0);
	assert_int_equal(journal_written(j), journal_end(j));
	return j;
}

static int
setup(void **state UNUSED)
{
	memset(&model, 0, sizeof(model));
	dir_make(dir);
	return 0;
}

static int
teardown(void **state UNUSED)
{
	if (life != 0)
		print_message("# failed in life %llu\n",
		    (unsigned long long)life);
	life = 0;
	dir_remove(dir);
	return 0;
}

/* --- what it is for ------------------------------------------------------ */

static void
what_was_written_is_replayed_in_order(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	uint64_t	 end, middle;
	uint32_t	 len;

	assert_int_equal(journal_end(j), 0);
	for (len = 0; len < 40; len++)
		add(j, &model, len);
	middle = journal_end(j);
	add(j, &model, 5000);
	assert_int_equal(journal_written(j), 0);
	assert_int_equal(journal_write(j), 0);
	end = journal_end(j);
	assert_int_equal(journal_written(j), end);
	assert_int_equal(journal_bytes(j), end);
	journal_close(&j);
	assert_null(j);
	journal_close(&j);

	j = open_from(&small, 0);
	assert_int_equal(seen.n, 41);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(journal_end(j), end);
	assert_int_equal(journal_begin(j), 0);
	add(j, &model, 10);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);

	j = open_from(&small, middle);
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.damages, 0);
	journal_close(&j);
}

static void
what_was_not_written_is_gone(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);

	add(j, &model, 10);
	assert_int_equal(journal_write(j), 0);
	add(j, &model, 20);
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.damages, 0);
	journal_close(&j);
}

static void
a_replay_ends_when_told_and_closes_the_log(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct slice	 s;

	add(j, &model, 10);
	assert_int_equal(journal_write(j), 0);
	assert_int_equal(journal_replay(j, 0, NULL, NULL, NULL), ERR_INVAL);
	journal_close(&j);
	assert_int_equal(journal_open(&j, dir, &small), 0);
	assert_int_equal(journal_append(j, 1, NULL, 0, NULL), ERR_INVAL);
	assert_int_equal(journal_read(j, 64, NULL, &s), ERR_INVAL);
	assert_int_equal(journal_replay(j, 4, NULL, NULL, NULL), ERR_INVAL);
	journal_close(&j);
}

static void
a_record_is_read_by_its_position(void **state UNUSED)
{
	struct journal_opts o = small;
	struct journal	*j;
	struct slice	 s;
	size_t		 i;

	o.cache_bytes = 300 << 10;
	j = open_from(&o, 0);
	for (i = 0; i < 100; i++) {
		add(j, &model, (uint32_t)(i * 131));
		if (i % 7 == 0)
			assert_int_equal(journal_write(j), 0);
	}
	add(j, &model, 400000);		/* larger than the cache */
	assert_int_equal(journal_write(j), 0);
	add(j, &model, 77);
	for (i = 0; i < model.n; i++)
		read_back(j, &model, i);
	for (i = model.n; i-- > 0;)
		read_back(j, &model, i);
	assert_int_equal(journal_read(j, journal_end(j), NULL, &s),
	    ERR_NOTFOUND);
	assert_int_equal(journal_read(j, UINT64_MAX, NULL, &s), ERR_NOTFOUND);
	assert_int_equal(journal_read(j, 0, NULL, &s), ERR_CORRUPT);
	assert_int_equal(journal_read(j, model.r[50].pos + 8, NULL, &s),
	    ERR_CORRUPT);
	assert_int_equal(journal_read(j, model.r[50].pos + 1, NULL, &s),
	    ERR_CORRUPT);
	assert_int_equal(journal_read(j, model.r[101].pos + 8, NULL, &s),
	    ERR_CORRUPT);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);

	j = open_from(&o, 0);
	assert_int_equal(seen.n, 102);
	for (i = model.n; i-- > 0;)
		read_back(j, &model, i);
	journal_close(&j);
}

/* --- segments ------------------------------------------------------------ */

/* n segments of 4 records each. */
static void
fill_segments(struct journal *j, size_t n)
{
	size_t	 i;

	for (i = 0; i < 4 * n; i++)
		add(j, &model, 16000);
	assert_int_equal(journal_write(j), 0);
}

static size_t
segments_walk(const struct journal *j, uint64_t *bytes)
{
	struct journal_segment s, same;
	uint64_t	 at;
	size_t		 n = 0;

	*bytes = 0;
	for (at = 0; journal_segment_from(j, at, &s); at = s.first + s.bytes) {
		assert_true(s.first >= at);
		assert_true(s.bytes > 0);
		assert_true(journal_segment_at(j, s.first + s.bytes - 1,
		    &same));
		assert_int_equal(same.first, s.first);
		*bytes += s.bytes;
		n++;
	}
	assert_int_equal(at, journal_end(j));
	return n;
}

static void
segments_follow_each_other(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct journal_segment s;
	uint64_t	 bytes;

	assert_false(journal_segment_from(j, 0, &s));
	assert_false(journal_segment_at(j, 0, &s));
	fill_segments(j, 5);
	assert_int_equal(dir_count(dir, "seg-"), 5);
	assert_int_equal(segments_walk(j, &bytes), 5);
	assert_int_equal(bytes, journal_bytes(j));
	assert_int_equal(bytes, journal_end(j));
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 20);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(segments_walk(j, &bytes), 5);
	journal_close(&j);
}

static void
a_record_may_be_larger_than_a_segment(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct slice	 vast = { body, (size_t)JOURNAL_RECORD_MAX + 1 };

	add(j, &model, 100);
	add(j, &model, 900000);
	add(j, &model, 100);
	add(j, &model, 1000000);
	assert_int_equal(journal_append(j, 1, &vast, 1, NULL), ERR_INVAL);
	assert_int_equal(journal_append(j, JOURNAL_TYPE_MAX + 1, NULL, 0,
	    NULL), ERR_INVAL);
	assert_int_equal(journal_write(j), 0);
	assert_int_equal(dir_count(dir, "seg-"), 4);
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 4);
	assert_int_equal(seen.damages, 0);
	read_back(j, &model, 3);
	add(j, &model, 3);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 5);
	journal_close(&j);
}

static void
old_segments_are_dropped_never_the_last(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct slice	 s;
	uint64_t	 begin;

	fill_segments(j, 5);
	assert_int_equal(journal_drop(j, 0), 0);
	assert_int_equal(journal_drop(j, model.r[9].pos), 2);
	begin = journal_begin(j);
	assert_in_range(model.r[8].pos, begin, begin + 100);
	assert_int_equal(journal_read(j, model.r[7].pos, NULL, &s),
	    ERR_NOTFOUND);
	read_back(j, &model, 8);
	assert_int_equal(dir_count(dir, "seg-"), 3);
	journal_close(&j);
	j = open_from(&small, begin);
	assert_int_equal(seen.n, 12);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(journal_drop(j, UINT64_MAX), 2);
	assert_int_equal(dir_count(dir, "seg-"), 1);
	journal_close(&j);
	/* What was needed is not there: said. */
	j = open_from(&small, begin);
	assert_int_equal(seen.n, 4);
	assert_int_equal(seen.damages, 1);
	assert_int_equal(seen.d[0].kind, JOURNAL_MISSING);
	assert_int_equal(seen.d[0].pos, begin);
	journal_close(&j);
}

static void
a_segment_dropped_from_the_middle_is_no_damage(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct journal_segment s[5], t;
	struct slice	 b;
	uint64_t	 bytes;
	size_t		 i;

	fill_segments(j, 5);
	for (i = 0, bytes = 0; i < 5; bytes += s[i++].bytes)
		assert_true(journal_segment_from(j, bytes, &s[i]));
	read_back(j, &model, 5);
	assert_int_equal(journal_drop_segment(j, s[1].first), 0);
	assert_int_equal(journal_drop_segment(j, s[2].first), 0);
	assert_int_equal(journal_drop_segment(j, s[2].first), ERR_NOTFOUND);
	assert_int_equal(journal_drop_segment(j, s[3].first + 8),
	    ERR_NOTFOUND);
	assert_int_equal(journal_drop_segment(j, s[4].first), ERR_INVAL);
	assert_int_equal(journal_read(j, model.r[5].pos, NULL, &b),
	    ERR_NOTFOUND);
	assert_false(journal_segment_at(j, model.r[5].pos, &t));
	assert_int_equal(segments_walk(j, &bytes), 3);
	assert_int_equal(bytes, journal_bytes(j));
	for (i = 4; i < 12; i++)
		model.r[i].gone = true;
	journal_close(&j);

	j = open_from(&small, 0);
	assert_int_equal(seen.n, 12);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(dir_count(dir, "gap-"), 2);
	assert_int_equal(segments_walk(j, &bytes), 3);
	/* The oldest goes, and the gaps behind it with the next. */
	assert_int_equal(journal_drop(j, s[3].first), 1);
	assert_int_equal(dir_count(dir, "gap-"), 0);
	assert_int_equal(journal_begin(j), s[3].first);
	assert_int_equal(journal_drop_segment(j, s[3].first), 0);
	assert_int_equal(dir_count(dir, "seg-"), 1);
	assert_int_equal(journal_begin(j), s[4].first);
	assert_int_equal(journal_reclaim(j), 0);
	assert_int_equal(dir_count(dir, "gap-"), 0);
	journal_close(&j);
}

/* What the file of the gap in place of s takes; -1: there is none. */
static off_t
gap_size(const struct journal_segment *s)
{
	struct stat	 st;
	char		 path[256];

	snprintf(path, sizeof(path), "%s/gap-%016" PRIx64 "-%016" PRIx64, dir,
	    s->first, s->first + s->bytes);
	return stat(path, &st) == -1 ? -1 : st.st_size;
}

static void
what_was_dropped_is_given_back_by_another_thread(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct journal_segment s[5];
	struct dir_image im;
	uint64_t	 bytes, from;
	size_t		 i;

	fill_segments(j, 5);
	for (i = 0, bytes = 0; i < 5; bytes += s[i++].bytes)
		assert_true(journal_segment_from(j, bytes, &s[i]));
	assert_false(journal_has_dropped(j));
	assert_int_equal(journal_reclaim(j), 0);
	assert_int_equal(journal_drop_segment(j, s[1].first), 0);
	assert_int_equal(journal_drop_segment(j, s[2].first), 0);
	/* Gone, and nothing of it given back. */
	assert_true(gap_size(&s[1]) > 0 && gap_size(&s[2]) > 0);
	assert_true(journal_has_dropped(j));
	assert_int_equal(journal_reclaim(j), 0);
	assert_false(journal_has_dropped(j));
	assert_int_equal(gap_size(&s[1]), 0);
	assert_int_equal(gap_size(&s[2]), 0);
	/* The oldest: that and the gaps behind it go altogether. */
	assert_int_equal(journal_drop_segment(j, s[0].first), 0);
	assert_int_equal(journal_begin(j), s[3].first);
	assert_int_equal(dir_count(dir, "gap-"), 3);
	assert_int_equal(journal_reclaim(j), 0);
	assert_int_equal(dir_count(dir, "gap-"), 0);
	/* As a kill -9 leaves it. */
	assert_int_equal(journal_drop_segment(j, s[3].first), 0);
	from = s[4].first;
	dir_take(dir, &im);
	journal_close(&j);
	assert_int_equal(dir_count(dir, "gap-"), 0);
	dir_put(dir, &im);
	dir_image_free(&im);
	j = open_from(&small, from);
	assert_int_equal(seen.damages, 0);
	assert_true(gap_size(&s[3]) > 0);
	assert_true(journal_has_dropped(j));
	assert_int_equal(journal_reclaim(j), 0);
	assert_int_equal(gap_size(&s[3]), 0);
	journal_close(&j);
}

static void
a_prepared_segment_is_the_next_one(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);

	assert_int_equal(journal_prepare(j), 0);
	assert_int_equal(journal_prepare(j), 0);
	assert_int_equal(dir_count(dir, "next.log"), 1);
	add(j, &model, 16000);
	assert_int_equal(journal_write(j), 0);
	assert_int_equal(dir_count(dir, "next.log"), 0);
	assert_int_equal(journal_prepare(j), 0);
	journal_close(&j);
	assert_int_equal(dir_count(dir, "next.log"), 0);
	dir_write(dir, "next.log", "left by somebody", 16);
	j = open_from(&small, 0);
	assert_int_equal(dir_count(dir, "next.log"), 0);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.damages, 0);
	journal_close(&j);
}

/* --- bounds, taking back ------------------------------------------------- */

static void
only_so_much_may_wait(void **state UNUSED)
{
	struct journal_opts o = small;
	struct journal	*j;

	o.pending_bytes = 100000;
	j = open_from(&o, 0);
	add(j, &model, 300000);		/* one always may */
	assert_int_equal(try_add(j, &model, 0), ERR_FULL);
	assert_int_equal(journal_write(j), 0);
	add(j, &model, 50000);
	assert_int_equal(try_add(j, &model, 50000), ERR_FULL);
	add(j, &model, 40000);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	j = open_from(&o, 0);
	assert_int_equal(seen.n, 3);
	journal_close(&j);
}

static void
what_waits_may_be_taken_back(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct slice	 s;
	uint64_t	 end;
	size_t		 i, n;

	assert_int_equal(journal_undo(j), 0);
	add(j, &model, 10);
	assert_int_equal(journal_undo(j), 0);
	assert_int_equal(journal_end(j), 0);
	model.n = 0;
	add(j, &model, 1000);
	assert_int_equal(journal_write(j), 0);
	for (i = 0; i < 3; i++) {
		end = journal_end(j);
		n = model.n;
		fill_segments(j, i);
		end = journal_end(j);
		n = model.n;
		add(j, &model, 60000);
		add(j, &model, 60000);
		add(j, &model, 400);
		assert_int_equal(journal_undo(j), 0);
		assert_int_equal(journal_end(j), end);
		assert_int_equal(journal_read(j, model.r[n].pos, NULL, &s),
		    ERR_NOTFOUND);
		model.n = n;
		add(j, &model, 200);
	}
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, model.n);
	assert_int_equal(seen.damages, 0);
	journal_close(&j);
}

static void
settings_out_of_range_are_refused(void **state UNUSED)
{
	struct journal_opts o = { .segment_bytes = JOURNAL_SEGMENT_MIN - 1 };
	struct journal	*j = NULL, *k = NULL;

	assert_int_equal(journal_open(&j, dir, &o), ERR_INVAL);
	o.segment_bytes = (uint64_t)JOURNAL_SEGMENT_MAX + 1;
	assert_int_equal(journal_open(&j, dir, &o), ERR_INVAL);
	o.segment_bytes = 0;
	assert_int_equal(journal_open(&j, "/nonexistent/journal", &o),
	    ERR_IO);
	assert_null(j);
	assert_int_equal(journal_open(&j, dir, &o), 0);
	assert_int_equal(journal_open(&k, dir, &o), ERR_EXISTS);
	journal_close(&j);
	assert_int_equal(journal_open(&j, dir, &o), 0);
	journal_close(&j);
}

static void
a_directory_is_made(void **state UNUSED)
{
	char		 path[80];
	struct journal	*j;
	struct stat	 st;

	snprintf(path, sizeof(path), "%s/new", dir);
	assert_int_equal(journal_open(&j, path, &small), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(journal_replay(j, 0, NULL, NULL, NULL), 0);
	journal_close(&j);
	dir_remove(path);
}

/* --- durability ---------------------------------------------------------- */

static void
sync_says_up_to_where(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	uint64_t	 pos = 1;

	assert_int_equal(journal_sync(j, &pos), 0);
	assert_int_equal(pos, 0);
	fill_segments(j, 3);
	add(j, &model, 10);
	assert_int_equal(journal_sync(j, &pos), 0);
	assert_int_equal(pos, journal_written(j));
	assert_true(pos < journal_end(j));
	assert_int_equal(journal_write(j), 0);
	assert_int_equal(journal_sync(j, NULL), 0);
	assert_int_equal(journal_sync(j, &pos), 0);
	assert_int_equal(pos, journal_end(j));
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(journal_sync(j, &pos), 0);
	assert_int_equal(pos, journal_end(j));
	journal_close(&j);
}

static void
many_segments_may_wait_for_sync(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	uint64_t	 pos;

	fill_segments(j, 40);
	assert_true(journal_drop(j, model.r[20].pos) > 0);
	assert_int_equal(journal_sync(j, &pos), 0);
	assert_int_equal(pos, journal_end(j));
	journal_close(&j);
}

struct helper {
	struct journal	*j;
	atomic_bool	 stop;
	atomic_uint_least64_t durable;
	atomic_uint	 rounds;
};

static void *
helper_main(void *ctx)
{
	struct helper	*h = ctx;
	uint64_t	 pos;

	while (!atomic_load(&h->stop)) {
		if (journal_sync(h->j, &pos) < 0 || journal_prepare(h->j) < 0)
			abort();
		if (pos < atomic_load(&h->durable))
			abort();
		atomic_store(&h->durable, pos);
		atomic_fetch_add(&h->rounds, 1);
	}
	return NULL;
}

static void
a_helper_syncs_while_the_loop_writes(void **state UNUSED)
{
	struct helper	 h = { .j = open_from(&small, 0) };
	pthread_t	 t;
	uint64_t	 end;
	unsigned	 i;

	assert_int_equal(pthread_create(&t, NULL, helper_main, &h), 0);
	for (i = 0; i < 2000 || atomic_load(&h.rounds) < 20; i++) {
		if (model.n + 8 > RECORDS_MAX) {
			sched_yield();
			continue;
		}
		add(h.j, &model, i * 37 % 9000);
		if (i % 5 == 4) {
			add(h.j, &model, 30);
			assert_int_equal(journal_undo(h.j), 0);
			model.n = model_find(&model, model.r[model.n - 1].pos);
			while (model.n > 0 && model.r[model.n - 1].pos >=
			    journal_end(h.j))
				model.n--;
		} else {
			assert_int_equal(journal_write(h.j), 0);
		}
		if (i % 100 == 99 && atomic_load(&h.durable) > 0)
			(void)journal_drop(h.j, atomic_load(&h.durable) / 2);
		read_back(h.j, &model, model.n - 1);
	}
	end = journal_written(h.j);
	while (atomic_load(&h.durable) < end)
		sched_yield();
	atomic_store(&h.stop, true);
	pthread_join(t, NULL);
	end = journal_begin(h.j);
	journal_close(&h.j);
	h.j = open_from(&small, end);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(seen.last, model.r[model.n - 1].pos);
	journal_close(&h.j);
}

/* --- damage -------------------------------------------------------------- */

/* The offset behind which a file has only zeros. */
static size_t
used_of(const struct dir_file *f)
{
	size_t	 n = f->len;

	while (n > 0 && f->data[n - 1] == 0)
		n--;
	return n;
}

/* A log of eight small records, closed. */
static uint64_t
small_log(void)
{
	struct journal	*j = open_from(&small, 0);
	uint64_t	 end;
	uint32_t	 i;

	for (i = 0; i < 8; i++)
		add(j, &model, i * 9);
	assert_int_equal(journal_write(j), 0);
	end = journal_end(j);
	journal_close(&j);
	return end;
}

/* How many records of the model end at or below pos. */
static size_t
records_below(uint64_t pos)
{
	size_t	 n = 0;

	while (n < model.n && record_end(&model, n) <= pos)
		n++;
	return n;
}

/* After any damage the log goes on, and a second start finds it in order. */
static void
goes_on(struct journal *j, size_t delivered)
{
	uint64_t	 end = journal_end(j);
	size_t		 n = model.n;

	while (model.n > 0 && model.r[model.n - 1].pos >= end)
		model.n--;
	add(j, &model, 33);
	assert_true(model.r[model.n - 1].pos >= end);
	assert_int_equal(journal_write(j), 0);
	read_back(j, &model, model.n - 1);
	journal_close(&j);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, delivered + 1);
	journal_close(&j);
	model.n = n;
}

static void
a_tail_torn_anywhere_is_cut(void **state UNUSED)
{
	uint64_t	 end = small_log();
	struct dir_image im;
	struct model	 whole = model;
	struct dir_file	*f = &im.files[0];
	struct journal	*j;
	size_t		 cut, n, how;
	bool		 part;

	dir_take(dir, &im);
	assert_int_equal(im.n, 1);
	assert_in_range(used_of(f), end - 8, end);
	/* The file ends there, or is zero from there on. */
	for (how = 0; how < 2; how++) {
		for (cut = 0; cut <= end; cut++) {
			size_t	 was = f->len;

			dir_clear(dir);
			if (how == 0) {
				dir_write(dir, f->name, f->data, cut);
			} else {
				dir_write(dir, f->name, f->data, f->len);
				int fd = dir_open_file(dir, f->name, O_WRONLY);
				assert_int_equal(ftruncate(fd, (off_t)cut), 0);
				assert_int_equal(ftruncate(fd, (off_t)was), 0);
				close(fd);
			}
			n = records_below(cut);
			part = cut > (n > 0 ? record_end(&model, n - 1) : 64);
			j = open_from(&small, 0);
			/* Zeros may be what the record ends with. */
			if (how == 1 && seen.n == n + 1) {
				assert_true(part);
				n++;
				part = false;
			}
			assert_int_equal(seen.n, n);
			if (cut == 0)
				part = false;	/* a file not begun */
			else if (cut < 64)
				part = true;
			assert_int_equal(seen.damages, part);
			if (part && cut > 64)
				assert_int_equal(seen.d[0].kind, JOURNAL_TAIL);
			if (seen.lost > 0)
				assert_int_not_equal(
				    seen.d[0].quarantine[0], '\0');
			goes_on(j, seen.n);
			assert_int_equal(seen.damages, 0);
			model = whole;
		}
	}
	dir_image_free(&im);
}

static void
a_flipped_byte_loses_one_record_at_most_and_is_told(void **state UNUSED)
{
	uint64_t	 end = small_log();
	struct dir_image im;
	struct model	 whole = model;
	struct dir_file	*f = &im.files[0];
	struct journal	*j;
	size_t		 at, hit, i, delivered;
	unsigned	 bit;

	dir_take(dir, &im);
	for (at = 0; at < end + 64; at++) {
		for (bit = 0; bit < 8; bit += 1 + (at % 3)) {
			f->data[at] ^= (uint8_t)(1u << bit);
			dir_put(dir, &im);
			f->data[at] ^= (uint8_t)(1u << bit);
			j = open_from(&small, 0);
			for (hit = model.n, i = 0; i < model.n; i++)
				if (at >= model.r[i].pos &&
				    at < record_end(&model, i))
					hit = i;
			assert_int_equal(seen.damages, 1);
			assert_int_equal(seen.n, model.n - (hit < model.n));
			assert_int_not_equal(seen.d[0].quarantine[0], '\0');
			if (at < 64) {
				assert_int_equal(seen.d[0].kind,
				    JOURNAL_HEADER);
			} else if (hit + 1 < model.n) {
				assert_int_equal(seen.d[0].kind, JOURNAL_BAD);
				assert_int_equal(seen.d[0].pos,
				    model.r[hit].pos);
				assert_int_equal(seen.d[0].bytes,
				    record_end(&model, hit) - model.r[hit].pos);
			} else {
				assert_int_equal(seen.d[0].kind, JOURNAL_TAIL);
			}
			delivered = seen.n;
			goes_on(j, delivered);
			model = whole;
		}
	}
	dir_image_free(&im);
}

static void
both_headers_gone_the_neighbour_knows_the_salt(void **state UNUSED)
{
	struct journal_opts other = small;
	struct journal	*j = open_from(&small, 0);
	struct dir_image im;

	fill_segments(j, 2);
	journal_close(&j);
	dir_take(dir, &im);
	memset(im.files[0].data, 0xff, 64);
	dir_put(dir, &im);
	other.salt = 1;
	j = open_from(&other, 0);
	assert_int_equal(seen.n, 8);
	assert_int_equal(seen.damages, 1);
	assert_int_equal(seen.d[0].kind, JOURNAL_HEADER);
	journal_close(&j);
	j = open_from(&other, 0);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(seen.n, 8);
	journal_close(&j);
	dir_image_free(&im);
}

static void
a_segment_nobody_knows_is_put_aside_whole(void **state UNUSED)
{
	struct journal_opts other = small;
	struct journal	*j;
	struct dir_image im;

	(void)small_log();
	dir_take(dir, &im);
	memset(im.files[0].data, 0xff, 64);
	dir_put(dir, &im);
	other.salt = 1;
	j = open_from(&other, 0);
	assert_int_equal(seen.n, 0);
	assert_int_equal(seen.damages, 1);
	assert_int_equal(seen.d[0].kind, JOURNAL_TAIL);
	assert_int_equal(dir_count(dir, seen.d[0].quarantine), 1);
	assert_int_equal(dir_count(dir, "seg-"), 0);
	model.n = 0;
	add(j, &model, 40);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	j = open_from(&other, 0);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.damages, 0);
	journal_close(&j);
	dir_image_free(&im);
}

static void
damage_in_the_middle_is_kept_and_skipped(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct dir_image im, q;
	struct slice	 s;

	fill_segments(j, 3);
	journal_close(&j);
	dir_take(dir, &im);
	/* Over the end of record 4 and the head of record 5, and the last of
	 * the first segment. */
	memset(im.files[1].data + 64 + 16000, 0xa5, 100);
	im.files[0].data[64 + 3 * 16024 + 5] ^= 1;
	dir_put(dir, &im);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 9);
	assert_int_equal(seen.damages, 2);
	assert_int_equal(seen.d[0].kind, JOURNAL_BAD);
	assert_int_equal(seen.d[0].pos, model.r[3].pos);
	assert_int_equal(seen.d[0].bytes, 16024);
	assert_int_equal(seen.d[1].pos, model.r[4].pos);
	assert_int_equal(seen.d[1].bytes, 2 * 16024);
	assert_int_equal(journal_read(j, model.r[5].pos, NULL, &s),
	    ERR_CORRUPT);
	read_back(j, &model, 6);
	journal_close(&j);
	dir_take(dir, &q);
	assert_string_equal(q.files[1].name, seen.d[1].quarantine);
	assert_int_equal(q.files[1].len, 2 * 16024);
	assert_memory_equal(q.files[1].data, im.files[1].data + 64, 2 * 16024);
	dir_image_free(&q);
	/* It stays where it is and is told again. */
	j = open_from(&small, 0);
	assert_int_equal(seen.damages, 2);
	assert_int_equal(dir_count(dir, "quarantine-"), 2);
	journal_close(&j);
	/* Replay from behind it says nothing of it. */
	j = open_from(&small, model.r[8].pos - 64);
	assert_int_equal(seen.damages, 0);
	assert_int_equal(seen.n, 4);
	journal_close(&j);
	dir_image_free(&im);
}

static void
a_missing_or_short_segment_is_told(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct dir_image im;

	fill_segments(j, 4);
	journal_close(&j);
	dir_take(dir, &im);
	im.files[1].len = 64 + 16024 + 100;	/* torn in record 5 */
	dir_put(dir, &im);
	{
		char	 p[192];

		snprintf(p, sizeof(p), "%s/%s", dir, im.files[2].name);
		assert_int_equal(unlink(p), 0);
	}
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 9);
	assert_int_equal(seen.damages, 2);
	assert_int_equal(seen.d[0].kind, JOURNAL_BAD);
	assert_int_equal(seen.d[0].pos, model.r[5].pos);
	assert_int_equal(seen.d[0].bytes, 100);
	assert_int_equal(seen.d[1].kind, JOURNAL_MISSING);
	assert_int_equal(seen.d[1].pos, model.r[5].pos + 100);
	assert_int_equal(seen.d[1].pos + seen.d[1].bytes,
	    model.r[12].pos - 64);
	read_back(j, &model, 4);
	read_back(j, &model, 12);
	journal_close(&j);
	dir_image_free(&im);
}

static void
a_log_shorter_than_the_checkpoint_goes_on_behind_it(void **state UNUSED)
{
	uint64_t	 end = small_log(), pos;
	struct journal	*j;
	size_t		 n;

	/* Inside what is preallocated, and beyond. */
	for (pos = end + 800; pos < 1 << 20; pos += 1 << 19) {
		j = open_from(&small, pos);
		assert_int_equal(seen.n, 0);
		assert_int_equal(seen.damages, 1);
		assert_int_equal(seen.d[0].kind, JOURNAL_MISSING);
		assert_int_equal(seen.d[0].pos, end);
		assert_int_equal(seen.d[0].bytes, pos - end);
		assert_int_equal(journal_end(j), pos);
		n = model.n;
		add(j, &model, 20);
		assert_int_equal(model.r[n].pos, pos + 64);
		assert_int_equal(journal_write(j), 0);
		journal_close(&j);
		j = open_from(&small, pos);
		assert_int_equal(seen.n, 1);
		assert_int_equal(seen.damages, 0);
		end = journal_end(j);
		journal_close(&j);
	}
	/* A log that is not there at all. */
	dir_clear(dir);
	j = open_from(&small, 800);
	assert_int_equal(seen.damages, 1);
	assert_int_equal(seen.d[0].bytes, 0);
	assert_int_equal(journal_end(j), 800);
	journal_close(&j);
}

/* A client that knows the format sends a record in a payload. */
static void
a_payload_that_looks_like_a_record_is_none(void **state UNUSED)
{
	struct journal_opts o = small;
	struct dir_image im;
	struct slice	 forged;
	struct journal	*j;
	int		 round;

	assert_int_equal(try_add(j = open_from(&o, 0), &model, 0), 0);
	add(j, &model, 100);
	assert_int_equal(model.r[1].pos, model.r[0].pos + 24);
	assert_int_equal(journal_write(j), 0);
	journal_close(&j);
	dir_take(dir, &im);
	forged = (struct slice){ im.files[0].data + model.r[1].pos, 128 };

	for (round = 0; round < 2; round++) {
		struct dir_image got;

		/* The first time with the salt it was made for. */
		dir_clear(dir);
		o.salt = round == 0 ? small.salt : small.salt + 1;
		assert_int_equal(journal_open(&j, dir, &o), 0);
		assert_int_equal(journal_replay(j, 0, NULL, NULL, NULL), 0);
		assert_int_equal(journal_append(j, 1, &forged, 1, NULL), 0);
		assert_int_equal(journal_write(j), 0);
		journal_close(&j);
		dir_take(dir, &got);
		got.files[0].data[64] ^= 1;	/* the true head */
		dir_put(dir, &got);
		dir_image_free(&got);
		j = open_from(&o, 0);
		assert_int_equal(seen.n, round == 0 ? 1 : 0);
		assert_int_equal(seen.damages, 1);
		journal_close(&j);
	}
	dir_image_free(&im);
}

/* Old blocks, moved files: valid records, but not of this place. */
static void
records_of_another_position_are_none(void **state UNUSED)
{
	struct journal	*j = open_from(&small, 0);
	struct dir_image im;
	uint8_t		*p;

	fill_segments(j, 4);
	journal_close(&j);
	dir_take(dir, &im);
	assert_int_equal(im.files[1].len, im.files[2].len);
	p = im.files[1].data;
	im.files[1].data = im.files[2].data;
	im.files[2].data = p;
	dir_put(dir, &im);
	j = open_from(&small, 0);
	assert_int_equal(seen.n, 8);
	assert_int_equal(seen.lost, im.files[1].len * 2 - 128);
	journal_close(&j);
	dir_image_free(&im);
}

static void
copies_of_damage_are_bounded(void **state UNUSED)
{
	struct dir_image im;
	struct journal	*j;
	char		 name[128];
	unsigned	 i;

	(void)small_log();
	dir_take(dir, &im);
	im.files[0].data[model.r[3].pos] ^= 1;
	dir_put(dir, &im);
	for (i = 1; i <= JOURNAL_QUARANTINES; i++) {
		snprintf(name, sizeof(name), "quarantine-%016x", i << 20);
		dir_write(dir, name, "x", 1);
	}
	j = open_from(&small, 0);
	assert_int_equal(seen.damages, 1);
	assert_string_equal(seen.d[0].quarantine, "");
	assert_int_equal(dir_count(dir, "quarantine-"), JOURNAL_QUARANTINES);
	journal_close(&j);
	snprintf(name, sizeof(name), "%s/quarantine-%016x", dir, 1u << 20);
	assert_int_equal(unlink(name), 0);
	j = open_from(&small, 0);
	assert_int_not_equal(seen.d[0].quarantine[0], '\0');
	journal_close(&j);
	dir_image_free(&im);
}

/* --- everything at once -------------------------------------------------- */

static uint64_t	seed;

static uint64_t
rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

/* The machine loses power: of what lies above cut nothing is as it was. */
static void
power_cut(uint64_t cut)
{
	struct dir_image im;
	size_t		 i, k;

	dir_take(dir, &im);
	for (i = 0; i < im.n; i++) {
		struct dir_file	*f = &im.files[i];
		uint64_t	 first;

		if (sscanf(f->name, "seg-%16lx", &first) != 1 ||
		    first + f->len <= cut)
			continue;
		k = first >= cut ? 0 : (size_t)(cut - first);
		switch (rnd(3)) {
		case 0:
			f->len = k;
			break;
		case 1:
			memset(f->data + k, 0, f->len - k);
			break;
		default:
			for (; k < f->len; k++)
				f->data[k] = (uint8_t)rnd(256);
			break;
		}
	}
	dir_put(dir, &im);
	dir_image_free(&im);
}

static void
model_drop(uint64_t first, uint64_t end)
{
	size_t	 i;

	for (i = 0; i < model.n; i++)
		if (model.r[i].pos >= first && model.r[i].pos < end)
			model.r[i].gone = true;
}

static void
model_compact(void)
{
	size_t	 i, n = 0;

	for (i = 0; i < model.n; i++)
		if (!model.r[i].gone)
			model.r[n++] = model.r[i];
	model.n = n;
}

struct walk {
	struct journal	*j;
	uint64_t	 durable;
	size_t		 scars;
};

static void
model_cut(uint64_t end)
{
	while (model.n > 0 && model.r[model.n - 1].pos >= end)
		model.n--;
}

/* End as told (0 in order, 1 kill, 2 power cut), start, compare. */
static void
walk_restart(struct walk *w, int how)
{
	uint64_t	 written = journal_written(w->j), keep = written;
	uint64_t	 begin = journal_begin(w->j);
	size_t		 i, n;

	journal_close(&w->j);
	if (how == 2) {
		keep = w->durable + rnd(written - w->durable + 1);
		power_cut(keep);
	}
	model_cut(written);
	w->j = open_from(&small, begin);
	for (i = n = 0; i < model.n; i++) {
		/* Nothing but zeros was cut off it. */
		if (seen.last == model.r[i].pos && record_end(&model, i) >
		    keep && record_end(&model, i) - keep <= 8)
			keep = record_end(&model, i);
		n += !model.r[i].gone && record_end(&model, i) <= keep;
	}
	if (seen.n != n)
		fail_msg("%zu records delivered, %zu were kept", seen.n, n);
	/* What an earlier power cut left between two segments is told again. */
	if (how == 2)
		w->scars = seen.damages;
	else if (journal_bytes(w->j) > 0)	/* or all is gone, told too */
		assert_in_range(seen.damages, 0, w->scars);
	assert_true(journal_end(w->j) >= w->durable);
	model_cut(keep);
	while (model.n > 0 && record_end(&model, model.n - 1) > keep)
		model.n--;
}

static void
walk_step(struct walk *w)
{
	struct journal_segment s;
	uint64_t	 before;
	size_t		 i, k;

	switch (rnd(16)) {
	default:
		for (k = rnd(12); k > 0; k--)
			add(w->j, &model, (uint32_t)(rnd(8) ? rnd(300) :
			    rnd(rnd(20) ? 20000 : 200000)));
		if (rnd(4))
			assert_int_equal(journal_write(w->j), 0);
		break;
	case 10:
		assert_int_equal(journal_sync(w->j, &w->durable), 0);
		assert_int_equal(w->durable, journal_written(w->j));
		break;
	case 11:
		assert_int_equal(journal_undo(w->j), 0);
		model_cut(journal_end(w->j));
		break;
	case 12:
		walk_restart(w, (int)rnd(3));
		break;
	case 13:
		before = journal_begin(w->j);
		if (w->durable > before)
			(void)journal_drop(w->j, before +
			    rnd(w->durable - before));
		model_drop(before, journal_begin(w->j));
		break;
	case 14:
		before = journal_begin(w->j) + rnd(w->durable -
		    MIN(w->durable, journal_begin(w->j)) + 1);
		if (journal_segment_at(w->j, before, &s) &&
		    s.first + s.bytes <= w->durable &&
		    journal_drop_segment(w->j, s.first) == 0)
			model_drop(s.first, s.first + s.bytes);
		if (rnd(2))
			assert_int_equal(journal_reclaim(w->j), 0);
		break;
	case 15:
		assert_int_equal(journal_prepare(w->j), 0);
		break;
	}
	model_compact();
	for (k = 0; k < 4 && model.n > 0; k++) {
		i = rnd(model.n);
		read_back(w->j, &model, i);
	}
}

static void
a_long_life_with_accidents(void **state UNUSED)
{
	struct walk	 w;
	const char	*more = getenv("JOURNAL_SEEDS");
	uint64_t	 seeds = more != NULL ? strtoul(more, NULL, 0) : 60;
	int		 i;

	for (life = 1; life <= seeds; life++) {
		seed = life * 0x9e3779b97f4a7c15u;
		dir_clear(dir);
		memset(&model, 0, sizeof(model));
		w = (struct walk){ .j = open_from(&small, 0) };
		for (i = 0; i < 120; i++)
			walk_step(&w);
		walk_restart(&w, 0);
		journal_close(&w.j);
	}
	life = 0;
}

int
main(void)
{
#define T(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_was_written_is_replayed_in_order),
		T(what_was_not_written_is_gone),
		T(a_replay_ends_when_told_and_closes_the_log),
		T(a_record_is_read_by_its_position),
		T(segments_follow_each_other),
		T(a_record_may_be_larger_than_a_segment),
		T(old_segments_are_dropped_never_the_last),
		T(a_segment_dropped_from_the_middle_is_no_damage),
		T(what_was_dropped_is_given_back_by_another_thread),
		T(a_prepared_segment_is_the_next_one),
		T(only_so_much_may_wait),
		T(what_waits_may_be_taken_back),
		T(settings_out_of_range_are_refused),
		T(a_directory_is_made),
		T(sync_says_up_to_where),
		T(many_segments_may_wait_for_sync),
		T(a_helper_syncs_while_the_loop_writes),
		T(a_tail_torn_anywhere_is_cut),
		T(a_flipped_byte_loses_one_record_at_most_and_is_told),
		T(both_headers_gone_the_neighbour_knows_the_salt),
		T(a_segment_nobody_knows_is_put_aside_whole),
		T(damage_in_the_middle_is_kept_and_skipped),
		T(a_missing_or_short_segment_is_told),
		T(a_log_shorter_than_the_checkpoint_goes_on_behind_it),
		T(a_payload_that_looks_like_a_record_is_none),
		T(records_of_another_position_are_none),
		T(copies_of_damage_are_bounded),
		T(a_long_life_with_accidents),
	};

	return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}

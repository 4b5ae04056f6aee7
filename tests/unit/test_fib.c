/*
 * The index by itself, and its promises to readers in other processes: kill -9
 * of the writer, SIGSTOP of a reader.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../support/fibmem.h"
#include "base/err.h"
#include "fib/layout.h"
#include "shm/segment.h"

static struct fib_cut
cut_of(struct fib_writer *w, const char *filter)
{
	struct fib_cut c;

	fib_cut(fib_writer_key(w), filter, strlen(filter), &c);
	return c;
}

static void
put(struct fib_writer *w, const char *filter, uint64_t slots)
{
	struct fib_cut	c = cut_of(w, filter);
	struct fib_dests d = { slots, NULL, 0 };

	assert_int_equal(fib_put(w, c.fp, &d), 0);
	if (c.shape != FIB_SHAPE_NONE)
		assert_int_equal(fib_anchor_put(w, c.anchor,
		    fib_levels(c.anchor_levels), &c.shape, slots != 0), 0);
}

static uint64_t
ask(struct fib_reader *r, const char *topic)
{
	struct fib_match m;

	fib_enter(r);
	fib_match(r, topic, strlen(topic), &m);
	return fib_leave(r) ? m.slots : ~(uint64_t)0;
}

/* --- Cutting --------------------------------------------------------- */

static void
a_filter_is_cut_at_its_first_wildcard(void **state UNUSED)
{
	static const struct {
		const char	*filter;
		unsigned	 levels, len;
		uint64_t	 shape;
	} rows[] = {
		{ "a/b", 0, 0, FIB_SHAPE_NONE },
		{ "#", 0, 0, FIB_SHAPE_HASH },
		{ "a/#", 1, 1, FIB_SHAPE_HASH },
		{ "/#", 1, 0, FIB_SHAPE_HASH },
		{ "+", 0, 0, 1 << 1 | 1 << 7 },
		{ "a/b/+/c", 2, 3, 2 << 1 | 1 << 7 },
		{ "a/+/+/#", 1, 1, 1 | 2 << 1 | 3 << 7 },
		{ "//+", 2, 1, 1 << 1 | 1 << 7 },
	};
	const struct fib_key key = { 1, 2, 0 };
	struct fib_cut	 c;
	size_t		 i;

	for (i = 0; i < NELEM(rows); i++) {
		fib_cut(&key, rows[i].filter, strlen(rows[i].filter), &c);
		assert_int_equal(c.shape, rows[i].shape);
		assert_int_equal(c.anchor_levels, rows[i].levels);
		assert_int_equal(c.anchor_len, rows[i].len);
		assert_int_equal(c.fp & 1, 0);
		assert_int_equal(c.anchor & 1, c.shape != FIB_SHAPE_NONE);
		if (c.shape == FIB_SHAPE_HASH)
			assert_int_equal(c.fp, fib_wide(c.anchor));
	}
}

static void
fingerprints_depend_on_the_key_and_on_every_level(void **state UNUSED)
{
	static const char *const filters[] = { "a", "b", "a/b", "b/a", "/a",
	    "a/", "ab", "a/+", "+/a", "+/+", "a/+/#", "a/+/+", "+", "/", "//",
	    "aaaaaaaa", "aaaaaaaa/", "aaaaaaaaa", "" };
	const struct fib_key one = { 1, 2, 0 }, two = { 1, 3, 0 };
	struct fib_cut	 c[NELEM(filters)], d;
	size_t		 i, k;

	for (i = 0; i < NELEM(filters); i++) {
		fib_cut(&one, filters[i], strlen(filters[i]), &c[i]);
		fib_cut(&two, filters[i], strlen(filters[i]), &d);
		assert_true(d.fp != c[i].fp);
		for (k = 0; k < i; k++)
			assert_true(c[k].fp != c[i].fp);
	}
}

/* --- One process ----------------------------------------------------- */

static void
what_is_put_is_found_until_it_is_removed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	char		t[64];
	unsigned	i, pass;

	fibmem_init(&mem, 128u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	for (pass = 0; pass < 3; pass++) {
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/+", i);
			put(w, t, (uint64_t)1 << i % 63);
		}
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/x", i);
			assert_int_equal(ask(r, t), (uint64_t)1 << i % 63);
		}
		for (i = 0; i < 30000; i++) {
			snprintf(t, sizeof(t), "d/%u/+", i);
			put(w, t, 0);
			if (i % 1000 == 0)
				fib_reclaim(w, pass + 1);
		}
		assert_int_equal(ask(r, "d/77/x"), 0);
		fib_writer_stats(w, &st);
		assert_int_equal(st.entries, 0);
		assert_int_equal(st.anchors, 0);
	}
	fib_reclaim(w, 10);
	fib_writer_stats(w, &st);
	assert_int_equal(st.held_bytes, 0);
	assert_true(st.bytes <= 16u << 20);	/* three passes, one's memory */
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
sets_beyond_the_word_are_shared_and_go(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	struct fib_match m;
	struct fib_dests d, got, none = { 0 };
	uint16_t	more[FIB_MORE_MAX];
	char		t[64];
	unsigned	i, k;

	fibmem_init(&mem, 64u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	for (i = 0; i < FIB_MORE_MAX; i++)
		more[i] = (uint16_t)(FIB_WORD_SLOTS + i);
	for (i = 0; i < 3000; i++) {
		snprintf(t, sizeof(t), "s/%u", i);
		d = (struct fib_dests){ i % 3, more, 1 + i % 3 };
		assert_int_equal(fib_put(w, cut_of(w, t).fp, &d), 0);
	}
	fib_writer_stats(w, &st);
	assert_int_equal(st.sets, 3);
	assert_int_equal(st.set_uses, 3000);
	fib_enter(r);
	fib_match(r, "s/5", 3, &m);
	assert_int_equal(m.slots, 2);
	assert_int_equal(m.nmore, 3);
	for (k = 0; k < 3; k++)
		assert_int_equal(m.more[k], FIB_WORD_SLOTS + k);
	assert_true(fib_leave(r));
	/* The largest there is. */
	d = (struct fib_dests){ 1, more, FIB_MORE_MAX };
	assert_int_equal(fib_put(w, cut_of(w, "s/7").fp, &d), 0);
	assert_int_equal(fib_get(w, cut_of(w, "s/7").fp, &got), 0);
	assert_int_equal(got.nmore, FIB_MORE_MAX);
	fib_enter(r);
	fib_match(r, "s/7", 3, &m);
	assert_int_equal(m.nmore, FIB_MORE_MAX);
	assert_true(fib_leave(r));
	/* Bad ones. */
	more[0] = 5;
	assert_int_equal(fib_put(w, cut_of(w, "s/8").fp, &d), ERR_INVAL);
	more[0] = more[1];
	assert_int_equal(fib_put(w, cut_of(w, "s/8").fp, &d), ERR_INVAL);
	for (i = 0; i < 3000; i++) {
		snprintf(t, sizeof(t), "s/%u", i);
		assert_int_equal(fib_put(w, cut_of(w, t).fp, &none), 0);
	}
	fib_reclaim(w, 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.sets, 0);
	assert_int_equal(st.set_uses, 0);
	assert_int_equal(st.held_bytes, 0);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_batch_answers_as_one_by_one(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_match one, m[FIB_BATCH];
	struct slice	t[FIB_BATCH];
	static char	text[FIB_BATCH][70000];
	unsigned	i;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	put(w, "+/+/x", 1);
	put(w, "a/#", 2);
	put(w, "////////#", 4);
	for (i = 0; i < FIB_BATCH; i++) {
		/* Some as deep and as long as they come, and beyond. */
		t[i].data = (uint8_t *)text[i];
		if (i % 3 == 0) {
			t[i].len = i % 2 ? 65535 : 65536;
			memset(text[i], '/', t[i].len);
		} else
			t[i].len = (size_t)snprintf(text[i], 64, "%s/%u/x",
			    i & 1 ? "a" : "b", i);
	}
	fib_enter(r);
	fib_match_batch(r, t, FIB_BATCH, m);
	for (i = 0; i < FIB_BATCH; i++) {
		uint64_t slots = m[i].slots;

		fib_match(r, t[i].data, t[i].len, &one);
		assert_int_equal(slots, one.slots);
		if (i % 3 == 0)
			assert_int_equal(slots, t[i].len == 65535 ? 4 : 0);
		else
			assert_int_equal(slots, i & 1 ? 3 : 1);
	}
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_slot_is_numbered_anew_only_when_readers_have_passed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_slot	d = { FIB_NODE, FIB_UP, 3, 1, 0 }, got;
	unsigned	a, b, c;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	assert_int_equal(fib_dest_open(w, &d, &a), 0);
	assert_int_equal(fib_dest_open(w, &d, &b), 0);
	assert_int_equal(a, 0);
	assert_int_equal(b, 1);
	assert_int_equal(fib_slot(r, 1, &got), 0);
	assert_int_equal(got.kind, FIB_NODE);
	assert_int_equal(got.node, 3);
	assert_int_equal(got.instance, 1);
	fib_dest_set(w, 1, FIB_DOWN, 77);
	assert_int_equal(fib_slot(r, 1, &got), 0);
	assert_int_equal(got.state, FIB_DOWN);
	assert_int_equal(got.incarnation, 77);
	assert_int_equal(fib_slot(r, 2, &got), ERR_NOTFOUND);
	assert_int_equal(fib_slot(r, FIB_SLOTS, &got), ERR_NOTFOUND);
	fib_enter(r);
	fib_dest_close(w, a);
	fib_reclaim(w, 1);
	assert_int_equal(fib_dest_open(w, &d, &c), 0);
	assert_int_equal(c, 2);
	assert_int_equal(fib_slot(r, a, &got), 0);
	assert_true(fib_leave(r));
	fib_reclaim(w, 2);
	assert_int_equal(fib_slot(r, a, &got), ERR_NOTFOUND);
	assert_int_equal(fib_dest_open(w, &d, &c), 0);
	assert_int_equal(c, 0);
	for (c = 0; c < FIB_SLOTS - 3; c++)
		assert_int_equal(fib_dest_open(w, &d, &a), 0);
	assert_int_equal(fib_dest_open(w, &d, &a), ERR_FULL);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
grace_is_over_when_readers_have_left(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	uint64_t	ticket;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	ticket = fib_grace(w);
	assert_false(fib_grace_over(w, ticket));
	fib_reclaim(w, 1);
	assert_true(fib_grace_over(w, ticket));
	fib_enter(r);
	ticket = fib_grace(w);
	fib_reclaim(w, 2);
	fib_reclaim(w, 3);
	assert_false(fib_grace_over(w, ticket));
	assert_true(fib_leave(r));
	fib_enter(r);			/* later, hence no matter */
	fib_reclaim(w, 4);
	assert_true(fib_grace_over(w, ticket));
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
who_holds_back_too_long_is_evicted(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	uint64_t	ticket;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	fib_reclaim(w, 5000000);
	fib_enter(r);
	ticket = fib_grace(w);
	fib_reclaim(w, 9000000);	/* long idle before: not its fault */
	fib_reclaim(w, 9001000);
	assert_false(fib_grace_over(w, ticket));
	fib_reclaim(w, 9001001);
	assert_true(fib_grace_over(w, ticket));
	fib_writer_stats(w, &st);
	assert_int_equal(st.evictions, 1);
	assert_false(fib_leave(r));
	fib_enter(r);
	assert_true(fib_leave(r));
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
who_holds_back_too_much_is_evicted(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	struct fib_stats st;
	char		t[64];
	unsigned	i;

	fibmem_init(&mem, 256u << 20);
	w = fibmem_writer(&mem, 0);	/* evict_bytes is 4 MiB */
	r = fibmem_reader(&mem);
	fib_enter(r);
	for (i = 0; i < 200000; i++) {
		snprintf(t, sizeof(t), "d/%u/+", i);
		put(w, t, 1);
		fib_writer_stats(w, &st);
		assert_true(st.held_bytes <= 4u << 20);
	}
	assert_int_equal(st.evictions, 1);
	assert_false(fib_leave(r));
	assert_int_equal(ask(r, "d/199999/x"), 1);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
epoch_slots_are_found_again_and_freed(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r[FIB_READERS], *x;
	struct fib_stats st;
	uint64_t	at;
	unsigned	i;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	for (i = 0; i < FIB_READERS; i++)
		r[i] = fibmem_reader(&mem);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 9999), ERR_FULL);
	assert_int_equal(fib_reader_epoch(w, 9999, &at), ERR_NOTFOUND);
	assert_int_equal(fib_reader_epoch(w, 7, &at), 0);
	assert_int_equal(at, 0);
	fib_enter(r[6]);
	fib_writer_stats(w, &st);
	assert_int_equal(fib_reader_epoch(w, 7, &at), 0);
	assert_int_equal(at, st.epoch);
	assert_true(fib_leave(r[6]));
	fib_reader_gone(w, 5);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 9999), 0);
	assert_int_equal(fib_reader_open(&x, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN, 0), ERR_INVAL);
	fib_writer_stats(w, &st);
	assert_int_equal(st.readers, FIB_READERS);
	fib_reader_close(&x);
	for (i = 0; i < FIB_READERS; i++)
		fib_reader_close(&r[i]);
	fib_writer_stats(w, &st);
	assert_int_equal(st.readers, 0);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_header_that_is_not_ours_is_refused(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r = NULL;
	uint8_t		*h;
	unsigned	 i, refused = 0;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	h = mem.data;
	assert_int_equal(fib_reader_open(&r, mem.data, mem.len - 1, mem.epochs,
	    FIB_EPOCHS_LEN, 1), ERR_PROTO);
	assert_int_equal(fib_reader_open(&r, mem.data, mem.len, mem.epochs,
	    FIB_EPOCHS_LEN - 1, 1), ERR_PROTO);
	for (i = 0; i < 40; i++) {
		h[i] ^= 0x40;
		if (fib_reader_open(&r, mem.data, mem.len, mem.epochs,
		    FIB_EPOCHS_LEN, 1) == ERR_PROTO)
			refused++;
		else
			fib_reader_close(&r);
		h[i] ^= 0x40;
	}
	assert_true(refused >= 36);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

static void
a_change_has_a_new_version(void **state UNUSED)
{
	struct fibmem	mem;
	struct fib_writer *w;
	struct fib_reader *r;
	uint64_t	v;

	fibmem_init(&mem, 16u << 20);
	w = fibmem_writer(&mem, 0);
	r = fibmem_reader(&mem);
	v = fib_reader_version(r);
	assert_int_equal(fib_reader_version(r), v);
	put(w, "a", 1);
	assert_true(fib_reader_version(r) > v);
	assert_int_equal(fib_reader_generation(r), 7);
	fib_reader_close(&r);
	fib_writer_close(&w);
	fibmem_fini(&mem);
}

/* --- Several processes ----------------------------------------------- */

struct proc_bed {
	struct shm_segment data, epochs;
	struct {
		_Atomic uint64_t turns, wrong, evicted, phase;
	} *shared;
};

static void
proc_bed_init(struct proc_bed *b)
{
	assert_int_equal(shm_create(&b->data, "fib", (size_t)1 << 30,
	    SHM_PRIVATE_WRITE), 0);
	assert_int_equal(shm_create(&b->epochs, "epochs", FIB_EPOCHS_LEN,
	    SHM_SHARED), 0);
	b->shared = fibmem_map(4096);
}

static void
proc_bed_fini(struct proc_bed *b)
{
	munmap(b->shared, 4096);
	shm_close(&b->data);
	shm_close(&b->epochs);
}

static struct fib_writer *
proc_writer(struct proc_bed *b)
{
	struct fib_writer_opts o = {
		.data = b->data.base, .len = b->data.len,
		.epochs = b->epochs.base, .epochs_len = b->epochs.len,
		.key = { 3, 4, 0 }, .grow = shm_grow_cb, .grow_ctx = &b->data,
		.evict_bytes = 8u << 20, .evict_ms = 50,
	};
	struct fib_writer *w;

	return fib_writer_open(&w, &o) == 0 ? w : NULL;
}

/* Topics keep/<i>/x are always there, and churn/... come and go. */
static void
proc_read(struct proc_bed *b, uint64_t owner)
{
	struct shm_segment data, epochs;
	struct fib_reader *r;
	char		t[64];
	uint64_t	i = 0, got;

	if (shm_map(&data, dup(b->data.fd), SHM_PRIVATE_WRITE) < 0 ||
	    shm_map(&epochs, dup(b->epochs.fd), SHM_SHARED) < 0 ||
	    fib_reader_open(&r, data.base, data.len, epochs.base, epochs.len,
	    owner) < 0)
		_exit(1);
	for (;; i++) {
		snprintf(t, sizeof(t), "keep/%u/x", (unsigned)(i * 7 % 500));
		got = ask(r, t);
		if (got == ~(uint64_t)0)
			atomic_fetch_add(&b->shared->evicted, 1);
		else if (got != (uint64_t)1 << i * 7 % 500 % 60)
			atomic_fetch_add(&b->shared->wrong, 1);
		atomic_fetch_add(&b->shared->turns, 1);
	}
}

static void
proc_churn(struct fib_writer *w, uint64_t *at, unsigned n)
{
	char	 t[64];
	unsigned k;

	for (k = 0; k < n; k++, ++*at) {
		snprintf(t, sizeof(t), "churn/%u/+", (unsigned)(*at % 30000));
		put(w, t, *at / 30000 % 2 ? 0 : 1);
	}
}

static void
proc_keep(struct fib_writer *w)
{
	char	 t[64];
	unsigned i;

	for (i = 0; i < 500; i++) {
		snprintf(t, sizeof(t), "keep/%u/+", i);
		put(w, t, (uint64_t)1 << i % 60);
	}
}

static void
wait_turns(struct proc_bed *b, uint64_t n)
{
	uint64_t until = atomic_load(&b->shared->turns) + n;

	while (atomic_load(&b->shared->turns) < until)
		usleep(200);
}

static void
kill_9_of_the_writer_hurts_no_reader(void **state UNUSED)
{
	struct proc_bed	b;
	struct fib_writer *w;
	unsigned	round;
	uint64_t	at = 0, ms;
	pid_t		reader, writer;

	for (round = 0; round < 10; round++) {
		proc_bed_init(&b);
		if ((writer = fork()) == 0) {
			if ((w = proc_writer(&b)) == NULL)
				_exit(1);
			proc_keep(w);
			atomic_store(&b.shared->phase, 1);
			for (ms = 1;; ms++) {
				proc_churn(w, &at, 64);
				fib_reclaim(w, ms / 50);
			}
		}
		while (atomic_load(&b.shared->phase) == 0)
			usleep(200);
		if ((reader = fork()) == 0)
			proc_read(&b, 1);
		wait_turns(&b, 2000 + round * 777);
		kill(writer, SIGKILL);
		waitpid(writer, NULL, 0);
		wait_turns(&b, 5000);
		kill(reader, SIGKILL);
		waitpid(reader, NULL, 0);
		assert_int_equal(atomic_load(&b.shared->wrong), 0);
		proc_bed_fini(&b);
	}
}

static void
a_stopped_reader_is_evicted_and_the_writer_stays_bounded(void **state UNUSED)
{
	struct proc_bed	b;
	struct fib_writer *w;
	struct fib_stats st;
	uint64_t	at = 0, ms = 1, wrong, first = 0;
	unsigned	round, i;
	pid_t		reader;

	proc_bed_init(&b);
	w = proc_writer(&b);
	assert_non_null(w);
	proc_keep(w);
	if ((reader = fork()) == 0)
		proc_read(&b, 1);
	for (round = 0; round < 10; round++) {
		wait_turns(&b, 300);
		kill(reader, SIGSTOP);
		waitpid(reader, NULL, WUNTRACED);
		for (i = 0; i < 1200; i++) {
			proc_churn(w, &at, 64);
			fib_reclaim(w, ms += 1);
		}
		fib_writer_stats(w, &st);
		assert_true(st.held_bytes <= 8u << 20);
		if (round == 4)
			first = st.bytes;
		if (round > 4)
			assert_true(st.bytes <= first + (16u << 20));
		kill(reader, SIGCONT);
	}
	wait_turns(&b, 300);
	wrong = atomic_load(&b.shared->wrong);
	/* A reader killed in the middle leaves its slot to be freed. */
	kill(reader, SIGKILL);
	waitpid(reader, NULL, 0);
	fib_reader_gone(w, 1);
	fib_reclaim(w, ms += 1);
	fib_writer_stats(w, &st);
	assert_int_equal(st.held_bytes, 0);
	assert_int_equal(st.readers, 0);
	assert_int_equal(wrong, 0);
	fib_writer_close(&w);
	proc_bed_fini(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_filter_is_cut_at_its_first_wildcard),
		cmocka_unit_test(fingerprints_depend_on_the_key_and_on_every_level),
		cmocka_unit_test(what_is_put_is_found_until_it_is_removed),
		cmocka_unit_test(sets_beyond_the_word_are_shared_and_go),
		cmocka_unit_test(a_batch_answers_as_one_by_one),
		cmocka_unit_test(a_slot_is_numbered_anew_only_when_readers_have_passed),
		cmocka_unit_test(grace_is_over_when_readers_have_left),
		cmocka_unit_test(who_holds_back_too_long_is_evicted),
		cmocka_unit_test(who_holds_back_too_much_is_evicted),
		cmocka_unit_test(epoch_slots_are_found_again_and_freed),
		cmocka_unit_test(a_header_that_is_not_ours_is_refused),
		cmocka_unit_test(a_change_has_a_new_version),
		cmocka_unit_test(kill_9_of_the_writer_hurts_no_reader),
		cmocka_unit_test(a_stopped_reader_is_evicted_and_the_writer_stays_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

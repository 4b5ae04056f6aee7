/*
 * fuzz_segment: hostile bytes in the segment of a forwarding index. A reader
 * may find nonsense there, but never looks outside the mapping, which lies
 * between pages nobody may touch.
 *
 * Input: patches of 12 bytes, {place, 8 bytes}, little-endian, into a valid
 * segment. A place is a 64-bit word of the segment; with the top bit set it is
 * one of the words a reader of our topics does look at.
 */
#include <sys/mman.h>
#include <stdlib.h>
#include <string.h>

#include "../support/fibmem.h"
#include "base/util.h"
#include "fib/layout.h"

#define LEN	FIB_LEN_MIN
#define PATCHES	64u

static const char *const filters[] = { "a/b", "a/+", "a/#", "+/b/c/d/e",
    "a/+/+/#", "a/+/x/+", "#", "dev/1/+/temp", "dev/2/+/temp", "wide/+" };
static const char *const topics[] = { "a/b", "a/c/x/y", "dev/1/r/temp",
    "wide/1", "q/b/c/d/e", "$SYS/x", "", "////", "a",
    ("a/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x"
    "/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x/x") };

static uint8_t		*base, *epochs;
static uint64_t		 used_words;
static uint32_t		*hot;		/* words that are not 0 */
static uint32_t		 nhot;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void *
guarded(size_t len)
{
	uint8_t *p = fibmem_map(len + 2 * FIB_PIECE);

	p += FIB_PIECE - (uintptr_t)p % FIB_LINE;
	mprotect(p - FIB_PIECE, FIB_PIECE, PROT_NONE);
	mprotect(p + len, FIB_PIECE, PROT_NONE);
	return p;
}

static void
add_all(struct fib_writer *w)
{
	uint16_t	more[200];
	uint64_t	shapes[4] = { FIB_SHAPE_HASH, 1 << 1 | 1 << 7,
	    1 | 2 << 1 | 3 << 7, 3 << 1 | 5 << 7 };
	struct fib_group_slot slots[300];
	struct fib_dests d;
	struct fib_cut	c;
	unsigned	i, k;

	(void)fib_node_name_set(w, 1, "a@b");
	(void)fib_node_name_set(w, FIB_NODES - 1, "last@example.org");
	for (i = 0; i < 300; i++)
		slots[i] = (struct fib_group_slot){ (uint16_t)(i * 13), 0,
		    i + 1 };
	for (i = 0; i < 200; i++)
		more[i] = (uint16_t)(FIB_WORD_SLOTS + 3 * i);
	for (i = 0; i < NELEM(filters); i++) {
		fib_cut(fib_writer_key(w), filters[i], strlen(filters[i]), &c);
		d = (struct fib_dests){ 1u << i, more, i % 3 ? 0 : 200 - i };
		(void)fib_put(w, c.fp, &d);
		for (k = 0; i % 2 && k < 20 * i; k++) {
			struct fib_group g = { k, i, slots, 1 + 7 * k % 300 };

			(void)fib_group_put(w, c.fp, &g);
		}
		if (c.shape == FIB_SHAPE_NONE)
			continue;
		if (i >= 1 && i <= 5 && c.anchor_levels == 1)
			(void)fib_anchor_put(w, c.anchor, 2, shapes, 4);
		else
			(void)fib_anchor_put(w, c.anchor,
			    fib_levels(c.anchor_levels), &c.shape, 1);
	}
}

static void
build(void)
{
	struct fib_writer_opts o = { .len = LEN, .epochs_len = FIB_EPOCHS_LEN,
	    .generation = 1, .key = { 11, 12, 0 } };
	struct fib_writer *w;
	struct fib_stats st;
	uint64_t	i, *words;

	base = guarded(LEN);
	epochs = guarded(FIB_EPOCHS_LEN);
	o.data = base;
	o.epochs = epochs;
	if (fib_writer_open(&w, &o) < 0)
		abort();
	add_all(w);
	fib_writer_stats(w, &st);
	used_words = st.pieces_used * FIB_PIECE / 8;
	fib_writer_close(&w);
	words = (uint64_t *)(void *)base;
	hot = malloc(used_words * sizeof(*hot));
	for (i = 0; i < used_words; i++)
		if (words[i] != 0)
			hot[nhot++] = (uint32_t)i;
}

/* What a caller relies on, whatever the segment says. */
static void
check_groups(const struct fib_match *m)
{
	const struct fib_group *g;
	size_t		i, k;

	for (i = 0; i < m->ngroups; i++) {
		g = &m->groups[i];
		if (g->nslots == 0 || g->nslots > FIB_SLOTS ||
		    (i > 0 && g[-1].id_hi == g->id_hi &&
		    g[-1].id_lo == g->id_lo))
			abort();
		for (k = 0; k < g->nslots; k++)
			if (g->slots[k].slot >= FIB_SLOTS ||
			    g->slots[k].members == 0 || (k > 0 &&
			    g->slots[k].slot <= g->slots[k - 1].slot))
				abort();
	}
}

static void
read_all(void)
{
	struct fib_match m[FIB_BATCH];
	struct slice	t[NELEM(topics)];
	struct fib_reader *r;
	struct fib_slot	slot;
	unsigned	i;
	size_t		k;

	if (fib_reader_open(&r, base, LEN, epochs, FIB_EPOCHS_LEN, 1) < 0)
		return;
	for (i = 0; i < NELEM(topics); i++)
		t[i] = (struct slice){ (const uint8_t *)topics[i],
		    strlen(topics[i]) };
	fib_enter(r);
	fib_match_batch(r, t, NELEM(topics), m);
	for (i = 0; i < NELEM(topics); i++) {
		check_groups(&m[i]);
		for (k = 0; k < m[i].nmore; k++)
			if (m[i].more[k] < FIB_WORD_SLOTS ||
			    m[i].more[k] >= FIB_SLOTS)
				abort();
	}
	for (i = 0; i < NELEM(topics); i++) {
		fib_match(r, t[i].data, t[i].len, &m[0]);
		check_groups(&m[0]);
	}
	for (i = 0; i < 70; i++)
		(void)fib_slot(r, i, &slot);
	for (i = 0; i <= FIB_NODES; i++)
		if (strlen(fib_node_name(r, i)) >= FIB_NODE_NAME)
			abort();
	(void)fib_leave(r);
	(void)fib_reader_version(r);
	fib_reader_close(&r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t	*words, was[PATCHES];
	uint32_t	 place[PATCHES], p;
	unsigned	 n = 0;

	if (base == NULL)
		build();
	words = (uint64_t *)(void *)base;
	for (; size >= 12 && n < PATCHES; size -= 12, data += 12, n++) {
		p = get_le32(data);
		p = p & 0x80000000u ? hot[(p & 0x7fffffff) % nhot] :
		    (uint32_t)(p % used_words);
		place[n] = p;
		was[n] = words[p];
		words[p] = get_le64(data + 4);
	}
	read_all();
	while (n-- > 0)
		words[place[n]] = was[n];
	return 0;
}

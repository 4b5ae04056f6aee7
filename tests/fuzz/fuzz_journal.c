/*
 * fuzz_journal: a log whose files are not as they were. Whatever has happened
 * to them, what comes back was written there, the log can be appended to, and
 * the next start finds what was appended.
 *
 * Input: patches of 8 bytes for a log of five segments with 3 records each:
 * {what, file, offset u16, argument u32}. `what`: change a byte, cut, grow by
 * noise, zero or copy a range, remove, name after another position, make a gap
 * of it. If the first byte is 0xff the rest is the first segment as it is.
 */
#include <stdlib.h>
#include <string.h>

#include "../support/journal_dir.h"
#include "base/err.h"
#include "journal/journal.h"

#define RECORDS	15u
#define PATCHES	64u
#define CHECK(cond)	do { if (!(cond)) abort(); } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct journal_opts opts = { .segment_bytes = 64 << 10,
    .cache_bytes = 1, .salt = 42 };

static char		 dir[64];
static struct dir_image	 whole;
static uint64_t		 where[RECORDS + 1];
static uint8_t		 text[400];
static bool		 raw;		/* anything may be in the log */
static size_t		 known;		/* of where[] */

static size_t
length_of(size_t i)
{
	return i * 23;
}

static int
on_record(void *ctx, uint64_t pos, unsigned type, const void *data, size_t len)
{
	uint64_t	*last = ctx;
	size_t		 i;

	CHECK(pos > *last || *last == 0);
	*last = pos;
	if (raw)
		return 0;
	/* The latest: of a log that lost its end positions are used again. */
	for (i = known; i > 0 && where[i - 1] != pos; i--)
		;
	CHECK(i-- > 0 && type == i + 1 && len == length_of(i));
	CHECK(memcmp(data, text + i, len) == 0);
	return 0;
}

static void
on_damage(void *ctx, const struct journal_damage *d)
{
	(void)ctx;
	CHECK(strcmp(journal_damage_str(d->kind), "unknown") != 0);
	CHECK(memchr(d->quarantine, '\0', sizeof(d->quarantine)) != NULL);
}

static void
append(struct journal *j, size_t i)
{
	struct slice	 s = { text + i, length_of(i) };

	CHECK(journal_append(j, (unsigned)i + 1, &s, 1, &where[i]) == 0);
	known = i + 1;
}

static void
finish(void)
{
	dir_remove(dir);
}

/* Segments as short as these are made one by one, each where the one before it
 * ends. Behind the last one are zeros. */
static void
build(void)
{
	struct dir_image im;
	struct journal	*j;
	uint64_t	 end = 0;
	size_t		 i;

	dir_make(dir);
	atexit(finish);
	for (i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7);
	for (i = 0; i < RECORDS;) {
		dir_clear(dir);
		CHECK(journal_open(&j, dir, &opts) == 0);
		CHECK(journal_replay(j, end, NULL, NULL, NULL) == 0);
		do {
			append(j, i);
		} while (++i % 3 != 0);
		CHECK(journal_write(j) == 0);
		dir_take(dir, &im);
		im.files[0].len = journal_end(j) - end + (i < RECORDS ? 0 :
		    200);
		end = journal_end(j);
		journal_close(&j);
		whole.files[whole.n++] = im.files[0];
	}
}

static void
file_patch(struct dir_file *f, const uint8_t *p)
{
	uint32_t	 off = get_le16(p + 2), arg = get_le32(p + 4);
	struct dir_file	*g = &whole.files[arg % whole.n];
	size_t		 n;

	if (off >= f->len)
		off = f->len > 0 ? (uint32_t)(off % f->len) : 0;
	n = MIN((size_t)(arg >> 16), f->len - off);
	switch (p[0] % 8) {
	case 0:
		if (f->len > 0)
			f->data[off] ^= (uint8_t)MAX(arg & 0xff, 1u);
		break;
	case 1:
		f->len = off;
		break;
	case 2:
		f->data = realloc(f->data, f->len + 64);
		memset(f->data + f->len, (int)(arg & 0xff), 64);
		f->len += 64;
		break;
	case 3:
		memset(f->data + off, 0, n);
		break;
	case 4:
		n = MIN(n, g->len);
		memcpy(f->data + off, g->data + g->len - n, n);
		break;
	case 5:
		f->name[0] = 'x';
		break;
	case 6:
		snprintf(f->name, sizeof(f->name), "seg-%016x.log", arg);
		break;
	case 7:
		snprintf(f->name, sizeof(f->name), "gap-%016x-%016x",
		    off & ~7u, arg);
		break;
	}
}

static void
damage(const uint8_t *data, size_t size)
{
	struct dir_image im;
	size_t		 i;

	memset(&im, 0, sizeof(im));
	im.n = whole.n;
	for (i = 0; i < im.n; i++) {
		im.files[i] = whole.files[i];
		im.files[i].data = malloc(whole.files[i].len + 1);
		memcpy(im.files[i].data, whole.files[i].data,
		    whole.files[i].len);
	}
	for (i = 0; i < PATCHES && size >= 8; i++, data += 8, size -= 8)
		file_patch(&im.files[data[1] % im.n], data);
	dir_put(dir, &im);
	dir_image_free(&im);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice	 s;
	struct journal	*j;
	uint64_t	 last = 0, at;
	unsigned	 type;

	if (whole.n == 0)
		build();
	known = RECORDS;
	raw = size > 0 && data[0] == 0xff;
	if (raw) {
		dir_clear(dir);
		dir_write(dir, whole.files[0].name, data + 1, size - 1);
	} else {
		damage(data, size);
	}
	CHECK(journal_open(&j, dir, &opts) == 0);
	CHECK(journal_replay(j, 0, on_record, on_damage, &last) == 0);
	if (size == 0)
		CHECK(last == where[RECORDS - 1]);
	for (at = 0; at < 600; at += 8)
		(void)journal_read(j, at, NULL, &s);
	at = journal_end(j);
	append(j, RECORDS);
	CHECK(where[RECORDS] >= at);
	CHECK(journal_write(j) == 0 && journal_sync(j, NULL) == 0);
	journal_close(&j);

	last = 0;
	CHECK(journal_open(&j, dir, &opts) == 0);
	CHECK(journal_replay(j, 0, on_record, on_damage, &last) == 0);
	CHECK(last == where[RECORDS]);
	CHECK(journal_read(j, last, &type, &s) == 0 && type == RECORDS + 1);
	CHECK(s.len == length_of(RECORDS) &&
	    memcmp(s.data, text + RECORDS, s.len) == 0);
	journal_close(&j);
	return 0;
}

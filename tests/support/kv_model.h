/*
 * kv_model.h: a directory for a checkpoint, and a tree whose content is a
 * function of its position. For the tests of kv.
 */
#ifndef KV_MODEL_H
#define KV_MODEL_H

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "kv/tree.h"

#define KEYS	400		/* the model's */

static const struct kv_opts small = { .buckets = 101 };

/* --- A directory -------------------------------------------------------- */

static char	dir[64];

static UNUSED int
setup(void **state UNUSED)
{
	/* In memory where there is such a place: thousands of syncs. */
	snprintf(dir, sizeof(dir), "%s/test_kv.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	return mkdtemp(dir) == NULL ? -1 : 0;
}

static UNUSED char *
path(const char *name)
{
	static char	p[512];

	snprintf(p, sizeof(p), "%s/%s", dir, name);
	return p;
}

static UNUSED unsigned
files_like(const char *start)
{
	struct dirent	*e;
	unsigned	 n = 0;
	DIR		*d = opendir(dir);

	assert_non_null(d);
	while ((e = readdir(d)) != NULL)
		n += strncmp(e->d_name, start, strlen(start)) == 0;
	closedir(d);
	return n;
}

static UNUSED void
empty_dir(void)
{
	struct dirent	*e;
	DIR		*d = opendir(dir);

	assert_non_null(d);
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] != '.')
			unlink(path(e->d_name));
	closedir(d);
}

static UNUSED int
teardown(void **state UNUSED)
{
	empty_dir();
	return rmdir(dir);
}

struct bytes {
	uint8_t	*data;
	size_t	 len;
};

static UNUSED struct bytes
file_get(const char *name)
{
	struct bytes	b;
	struct stat	st;
	int		fd = open(path(name), O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	b.len = (size_t)st.st_size;
	b.data = malloc(b.len + 1);
	assert_int_equal(read(fd, b.data, b.len), (ssize_t)b.len);
	close(fd);
	return b;
}

static UNUSED void
file_put(const char *name, const uint8_t *data, size_t len)
{
	int	fd = open(path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
}

/* --- A model ------------------------------------------------------------ */

static uint64_t	seed;

static UNUSED uint32_t
rnd(uint32_t n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 33) % n;
}

/*
 * What the tree has to hold after so many rounds is a function of their
 * number: round r puts and deletes some of KEYS keys, with values that tell
 * key and round.
 */
struct model {
	uint32_t	round[KEYS];	/* that put it; 0: not there */
};

static UNUSED size_t
key_make(uint8_t *buf, uint32_t k)
{
	return (size_t)sprintf((char *)buf, "client-%u%s", k,
	    k % 7 == 0 ? "-with-a-rather-long-name" : "");
}

static UNUSED size_t
value_make(uint8_t *buf, uint32_t k, uint32_t round)
{
	size_t	len = (k * 7 + round * 13) % 300, i;

	for (i = 0; i < len; i++)
		buf[i] = (uint8_t)(k + round + i);
	return len;
}

static UNUSED void
round_make(uint32_t round, struct kv_batch *b, struct model *m)
{
	uint8_t		key[64], value[300];
	uint32_t	i, k, n;
	size_t		klen;

	seed = round * 77u + 5;
	n = 1 + rnd(60);
	if (b != NULL)
		kv_batch_reset(b);
	for (i = 0; i < n; i++) {
		k = rnd(KEYS);
		klen = key_make(key, k);
		if (rnd(4) == 0) {
			m->round[k] = 0;
			if (b != NULL)
				assert_int_equal(kv_batch_del(b, key, klen), 0);
		} else {
			m->round[k] = round;
			if (b != NULL)
				assert_int_equal(kv_batch_put(b, key, klen,
				    value, value_make(value, k, round)), 0);
		}
	}
	if (b != NULL)
		b->position = round * 1000u;
}

struct compare {
	const struct model *m;
	uint32_t	    seen;
	uint8_t		    last[64];
	size_t		    last_len;
	bool		    wrong;
};

static UNUSED int
compare_each(void *ctx, const struct slice *key, const struct slice *value)
{
	struct compare	*c = ctx;
	uint8_t		 want[300], k2[64];
	uint32_t	 k;

	if (sscanf((const char *)key->data, "client-%u", &k) != 1 ||
	    k >= KEYS || key_make(k2, k) != key->len ||
	    memcmp(k2, key->data, key->len) != 0 || c->m->round[k] == 0 ||
	    value_make(want, k, c->m->round[k]) != value->len ||
	    memcmp(want, value->data, value->len) != 0)
		c->wrong = true;
	if (c->seen > 0 && memcmp(c->last, key->data,
	    MIN(c->last_len, key->len)) > 0)
		c->wrong = true;
	memcpy(c->last, key->data, MIN(key->len, sizeof(c->last)));
	c->last_len = key->len;
	c->seen++;
	return 0;
}

/* Does the tree hold exactly what its position says? */
static UNUSED bool
is_a_prefix(struct kv_tree *t)
{
	struct model	m = { { 0 } };
	struct compare	c = { .m = &m };
	uint32_t	r, k, there = 0;

	for (r = 1; r <= kv_position(t) / 1000; r++)
		round_make(r, NULL, &m);
	for (k = 0; k < KEYS; k++)
		there += m.round[k] != 0;
	return kv_each(t, compare_each, &c) == 0 && !c.wrong &&
	    c.seen == there && kv_records(t) == there &&
	    kv_position(t) % 1000 == 0;
}

static UNUSED void
rounds_commit(struct kv_tree *t, uint32_t from, uint32_t to)
{
	struct kv_batch	*b = kv_batch_new();
	struct model	 m = { { 0 } };
	uint32_t	 r;

	assert_non_null(b);
	for (r = from; r <= to; r++) {
		round_make(r, b, &m);
		assert_int_equal(kv_commit(t, b), 0);
	}
	kv_batch_free(&b);
}

static UNUSED struct kv_tree *
open_well(struct kv_report *r)
{
	struct kv_tree	*t = NULL;

	assert_int_equal(kv_open(&t, dir, &small, r), 0);
	return t;
}

#endif

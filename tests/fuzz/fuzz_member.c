/*
 * What other nodes say of who belongs to the cluster, and the image on disk.
 * First byte: 0 a row decoded alone, 1 a hello to a node that knows members, 2
 * an answer to one that called, 3 the same to one that asked to join, 4 a view,
 * 5 a row of the stream of a core (key first), 6 an image (its checksum is
 * made good, so that what is behind it is read), 7 an image as it is.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"
#include "member/member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CLOCK = 1000, HEADER = 24 };

static uint64_t nth;

static uint64_t
not_random(void *ctx)
{
	(void)ctx;
	return ++nth;
}

static void
on_event(void *ctx, const struct member_event *e)
{
	(void)ctx;
	if (e->row != NULL && e->row->join == 0)
		abort();
}

static const struct member_calls calls = { not_random, on_event };

static void
row_of(struct member_row *r, uint64_t join, const char *name, uint8_t data,
    enum member_state state)
{
	memset(r, 0, sizeof(*r));
	r->join = join;
	r->version.clock = r->version.node = join;
	r->state = state;
	r->role = MEMBER_CORE;
	r->joined = join;
	memset(r->uuid, data, sizeof(r->uuid));
	strcpy(r->name, name);
	strcpy(r->addrs[0], "h:1");
	r->naddrs = 1;
}

static void
know(struct members *m, const struct member_row *r)
{
	uint8_t key[MEMBER_KEY], row[MEMBER_ROW_MAX];

	member_key(r->join, key);
	if (members_take(m, r->join, (struct slice){ key, sizeof(key) },
	    (struct slice){ row, member_row_encode(r, row, sizeof(row)) },
	    CLOCK) < 0)
		abort();
}

static int
node_open(struct members **m, struct slice image)
{
	static const char	*const addrs[] = { "h:1" };
	char			 why[MEMBER_TEXT_MAX];
	struct members_opts	 o = {
		.name = "a@h", .role = MEMBER_CORE, .cluster = "c",
		.addrs = addrs, .naddrs = 1, .incarnation = 5,
		.max_skew_ns = 1000, .calls = &calls,
	};

	nth = 0;
	return members_open(m, &o, image, CLOCK, why);
}

/* Whatever was taken: the table can be walked, said, written and read again. */
static void
check(struct members *m)
{
	uint8_t			 key[MEMBER_KEY], row[MEMBER_ROW_MAX], *image;
	struct members_count	 n, again;
	struct member_look	 l;
	struct members		*copy;
	uint64_t		 at, serial;
	size_t			 len;

	members_count(m, &n);
	for (at = 0; members_next_row(m, &at, &l) == 1; n.rows--)
		if (!member_name_is_valid(l.row->name))
			abort();
	if (n.rows != 0 || n.members < 1)
		abort();
	members_split(m);
	members_unsaved(m, &serial);
	members_saved(m, serial);
	while (members_say(m, 0, key, row, &len) == 1)
		;
	if (members_image(m, &image, &len) < 0)
		abort();
	if (node_open(&copy, (struct slice){ image, len }) == 0) {
		members_count(copy, &again);
		if (again.members < 1)
			abort();
		members_free(&copy);
	}
	free(image);
}

static void
hello(struct members *m, const uint8_t *data, size_t size)
{
	uint8_t			 buf[MEMBER_HELLO_MAX], *rows;
	struct member_verdict	 v;
	size_t			 len;

	members_judge(m, data, size, CLOCK, &v);
	if (members_refusal(m, &v, buf, sizeof(buf)) == 0)
		abort();
	if (v.reason != MEMBER_OK)
		return;
	if (v.h.join) {
		if (members_join_answer(m, &v.h, &rows, &len) == 0)
			free(rows);
	} else
		members_met(m, &v.h, CLOCK, 1);
}

static void
on_node(uint8_t how, const uint8_t *data, size_t size)
{
	struct member_answer	 a;
	struct member_row	 r;
	struct members		*m;

	if (node_open(&m, (struct slice){ NULL, 0 }) < 0)
		abort();
	row_of(&r, 100, "b@h", 0xb, MEMBER_IN);
	know(m, &r);
	row_of(&r, 101, "c@h", 0xc, MEMBER_CLEANED);
	know(m, &r);
	row_of(&r, 102, "d@h", 0xd, MEMBER_FORCED);
	know(m, &r);
	members_reach(m, 100, true, 1);
	switch (how) {
	case 1:
		hello(m, data, size);
		break;
	case 2:
		members_refused(m, data, size, CLOCK, &a);
		break;
	case 3:
		members_join_take(m, data, size, CLOCK, &a);
		break;
	case 4:
		members_view_take(m, 100, data, size);
		break;
	default:
		if (size >= MEMBER_KEY)
			members_take(m, 100, (struct slice){ data,
			    MEMBER_KEY }, (struct slice){ data + MEMBER_KEY,
			    size - MEMBER_KEY }, CLOCK);
		break;
	}
	check(m);
	members_free(&m);
}

static void
on_image(uint8_t *image, size_t size, int good)
{
	struct members *m;

	if (good && size >= HEADER) {
		memcpy(image, "mqttcmem", 8);
		put_le32(image + 8, 1);
		put_le32(image + 12, (uint32_t)(size - HEADER));
		put_le64(image + 16, XXH3_64bits(image + HEADER,
		    size - HEADER));
	}
	if (node_open(&m, (struct slice){ image, size }) < 0)
		return;
	check(m);
	members_free(&m);
}

static void
on_row(const uint8_t *data, size_t size)
{
	struct member_row	r, again;
	uint8_t			bytes[MEMBER_ROW_MAX];
	size_t			len;

	if (member_row_decode(&r, data, size) < 0)
		return;
	if ((len = member_row_encode(&r, bytes, sizeof(bytes))) == 0 ||
	    member_row_decode(&again, bytes, len) < 0 ||
	    member_row_cmp(&r, &again) != 0)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (size == 0)
		return 0;
	/* One that ends where it ends. */
	if ((copy = malloc(size)) == NULL)
		abort();
	memcpy(copy, data, size);
	if (size == 1)
		;
	else if (copy[0] == 0)
		on_row(copy + 1, size - 1);
	else if (copy[0] <= 5)
		on_node(copy[0], copy + 1, size - 1);
	else if (copy[0] <= 7)
		on_image(copy + 1, size - 1, copy[0] == 6);
	free(copy);
	return 0;
}

/* store: operations and records as bytes, and what the model test does not
 * come across: damage, wraps, bounds, a lack of memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "mqtt/mqtt.h"
#include "store/internal.h"
#include "store/shard.h"

/* --- Memory that runs out ------------------------------------------------ */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_MALLOC 0
#endif
#endif
#ifndef OWN_MALLOC
#define OWN_MALLOC 1
#endif

#if OWN_MALLOC
/* Allocations that succeed before one fails; negative: all do. */
static long allocs_left = -1;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

static bool
refused(void)
{
	if (allocs_left < 0)
		return false;
	return allocs_left-- == 0;
}

void *
malloc(size_t n)
{
	return refused() ? NULL : __libc_malloc(n);
}

void *
calloc(size_t n, size_t size)
{
	return refused() ? NULL : __libc_calloc(n, size);
}

void *
realloc(void *p, size_t n)
{
	return refused() ? NULL : __libc_realloc(p, n);
}
#endif

/* --- Making -------------------------------------------------------------- */

static struct slice
slice(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

struct bytes {
	uint8_t	data[1024];
	size_t	len;
};

static struct bytes
bytes_of(const struct op *o)
{
	struct bytes	b;
	long		n = op_put(b.data, sizeof(b.data), o);

	assert_true(n > 0);
	b.len = (size_t)n;
	return b;
}

static void
add_target(struct bytes *b, uint64_t handle, uint8_t qos,
    const uint32_t *ids, uint16_t nids)
{
	/* Some are for a group. */
	struct op_target t = {
		.handle = handle, .qos = qos, .nids = nids,
		.group = handle % 2 == 0 ? 0xfeed0000 + nids : 0,
	};
	long		 n;

	n = op_put_target(b->data + b->len, sizeof(b->data) - b->len, &t,
	    ids);
	assert_int_equal(n, (t.group != 0 ? STORE_TARGET_MAX :
	    STORE_TARGET_MIN) + 4 * nids);
	b->len += (size_t)n;
}

static void
add_record(struct bytes *b, size_t n)
{
	memset(b->data + b->len, 0x77, n);
	b->len += n;
}

static struct bytes
open_op(uint64_t handle, const char *id, bool fresh)
{
	struct op o = {
		.kind = STORE_OPEN, .handle = handle, .at_ms = 1000,
		.incarnation = 7, .listener = 2, .expiry_s = 60,
		.will_delay_s = 5, .version = 5, .durable = true,
		.fresh = fresh, .client_id = slice(id), .will = slice("will"),
	};

	return bytes_of(&o);
}

static struct bytes
subscribe_op(uint64_t handle, const char *share, const char *filter)
{
	struct op o = {
		.kind = STORE_SUBSCRIBE, .handle = handle, .sub_id = 9,
		.options = 0x1e, .share = slice(share),
		.filter = slice(filter),
	};

	return bytes_of(&o);
}

static struct bytes
publish_op(const uint64_t *handles, uint32_t n, uint8_t qos)
{
	static const uint32_t ids[] = { 3, 1u << 27 };
	struct op	      o = {
		.kind = STORE_PUBLISH, .at_ms = 5, .id = { 100, 1 },
		.slot = 1, .source = slice("listener.0"), .ntargets = n,
		.record = { NULL, 20 }, .deadline_ms = 77,
	};
	struct bytes	      b = bytes_of(&o);
	uint32_t	      i;

	for (i = 0; i < n; i++)
		add_target(&b, handles[i], qos, ids, i % 3);
	add_record(&b, 20);
	return b;
}

static struct bytes
offset_op(enum store_op kind, uint64_t handle, uint64_t offset, uint8_t what)
{
	struct op o = {
		.kind = kind, .handle = handle, .offset = offset,
		.what = what,
	};

	return bytes_of(&o);
}

static int
apply(struct shard *sh, uint64_t pos, struct bytes b)
{
	return shard_apply(sh, pos, b.data, b.len);
}

static struct bytes
saved(const struct session *s)
{
	struct bytes	b;
	long		n = session_save(s, b.data, sizeof(b.data));

	assert_true(n > 0);
	b.len = (size_t)n;
	return b;
}

/* Two sessions with some of everything. */
static struct shard *
a_shard(void)
{
	struct shard	*sh = shard_new(4711);
	static const uint64_t both[] = { 1, 2 };
	struct op	 in = {
		.kind = STORE_INBOUND, .handle = 1, .pid = 500,
		.id = { 3, 3 },
	};

	assert_non_null(sh);
	assert_int_equal(apply(sh, 10, open_op(1, "one", true)), 0);
	assert_int_equal(apply(sh, 20, open_op(2, "two", true)), 0);
	assert_int_equal(apply(sh, 30, subscribe_op(1, "", "a/+")), 0);
	assert_int_equal(apply(sh, 40, subscribe_op(1, "grp", "a/#")), 0);
	assert_int_equal(apply(sh, 50, publish_op(both, 2, 2)), 0);
	assert_int_equal(apply(sh, 60, publish_op(both, 2, 1)), 0);
	assert_int_equal(apply(sh, 70, publish_op(both, 1, 2)), 0);
	assert_int_equal(apply(sh, 80, offset_op(STORE_ACK, 1, 0,
	    MQTT_PUBREC)), 0);
	assert_int_equal(apply(sh, 90, bytes_of(&in)), 0);
	return sh;
}

/* --- Operations as bytes ------------------------------------------------- */

static void
expect_slice(const struct slice *a, const struct slice *b)
{
	assert_int_equal(a->len, b->len);
	if (a->len > 0)
		assert_memory_equal(a->data, b->data, a->len);
}

/* Of each kind one, every field it has with a value of its own. */
static const struct op samples[] = {
	{ .kind = STORE_OPEN, .handle = 1, .at_ms = 2, .incarnation = 3,
	    .serial = 7,
	    .listener = 4, .expiry_s = 5, .will_delay_s = 6, .version = 4,
	    .durable = true, .client_id = { (const uint8_t *)"id", 2 },
	    .will = { (const uint8_t *)"w", 1 } },
	{ .kind = STORE_OPEN, .handle = 1, .version = 5, .fresh = true,
	    .client_id = { (const uint8_t *)"id", 2 } },
	{ .kind = STORE_CLOSE, .handle = 1, .at_ms = 2, .offset = 3,
	    .expiry_s = 4, .keep_will = true },
	{ .kind = STORE_END, .handle = 1 },
	{ .kind = STORE_SUBSCRIBE, .handle = 1, .sub_id = 2, .options = 0x2d,
	    .share = { (const uint8_t *)"g", 1 },
	    .filter = { (const uint8_t *)"a/#", 3 } },
	{ .kind = STORE_UNSUBSCRIBE, .handle = 1,
	    .filter = { (const uint8_t *)"+", 1 } },
	{ .kind = STORE_PUBLISH, .at_ms = 1, .deadline_ms = 2, .id = { 3, 4 },
	    .slot = 5, .source = { (const uint8_t *)"src", 3 } },
	{ .kind = STORE_ACK, .handle = 1, .offset = 2,
	    .what = STORE_PUBREC_REFUSED },
	{ .kind = STORE_DROP, .handle = 1, .offset = 2 },
	{ .kind = STORE_INBOUND, .handle = 1, .id = { 2, 3 }, .pid = 4 },
	{ .kind = STORE_RELEASE, .handle = 1, .pid = 65535 },
	{ .kind = STORE_MARK, .id = { 1, 2 }, .slot = 3,
	    .source = { (const uint8_t *)"src", 3 } },
	{ .kind = STORE_MOVE, .pos = 1, .deadline_ms = 2 },
	{ .kind = STORE_WILL, .handle = UINT64_MAX >> 2 },
	{ .kind = STORE_ONWARD },
	{ .kind = STORE_ONWARD, .id = { 2, 3 }, .slot = 4,
	    .source = { (const uint8_t *)"listener.0", 10 }, .handle = 5,
	    .pid = 6 },
	{ .kind = STORE_ONWARD_DONE, .pos = 1 },
	{ .kind = STORE_SKIP, .handle = 1, .offset = UINT64_MAX >> 2 },
};

static void
operations_come_back(void **state UNUSED)
{
	struct bytes	b;
	struct op	o;
	unsigned	i;
	size_t		n;

	for (i = 0; i < NELEM(samples); i++) {
		const struct op *s = &samples[i];

		b = bytes_of(s);
		assert_int_equal(op_put(NULL, 0, s), b.len);
		for (n = 1; n < b.len; n++)
			assert_int_equal(op_put(b.data, n, s), ERR_FULL);
		b = bytes_of(s);
		assert_int_equal(op_get(&o, b.data, b.len), 0);
		assert_int_equal(o.kind, s->kind);
		assert_int_equal(o.handle, s->handle);
		assert_int_equal(o.at_ms, s->at_ms);
		assert_int_equal(o.offset, s->offset);
		assert_int_equal(o.pos, s->pos);
		assert_int_equal(o.incarnation, s->incarnation);
		assert_int_equal(o.serial, s->serial);
		assert_int_equal(o.listener, s->listener);
		assert_int_equal(o.expiry_s, s->expiry_s);
		assert_int_equal(o.will_delay_s, s->will_delay_s);
		assert_int_equal(o.sub_id, s->sub_id);
		assert_int_equal(o.slot, s->slot);
		assert_int_equal(msgid_cmp(o.id, s->id), 0);
		assert_int_equal(o.deadline_ms, s->deadline_ms);
		assert_int_equal(o.pid, s->pid);
		assert_int_equal(o.version, s->version);
		assert_int_equal(o.options, s->options);
		assert_int_equal(o.what, s->what);
		assert_int_equal(o.durable, s->durable);
		assert_int_equal(o.fresh, s->fresh);
		assert_int_equal(o.keep_will, s->keep_will);
		expect_slice(&o.client_id, &s->client_id);
		expect_slice(&o.share, &s->share);
		expect_slice(&o.filter, &s->filter);
		expect_slice(&o.source, &s->source);
		expect_slice(&o.will, &s->will);
		/* All of it, and no more. */
		for (n = 0; n < b.len; n++)
			assert_int_equal(op_get(&o, b.data, n), ERR_PROTO);
		b.data[b.len] = 0;
		assert_int_equal(op_get(&o, b.data, b.len + 1), ERR_PROTO);
	}
}

static void
targets_and_record_follow(void **state UNUSED)
{
	static const uint64_t handles[] = { 5, 6, 7 };
	struct bytes	 b = publish_op(handles, 3, 2);
	struct op_target t;
	struct op	 o;
	size_t		 at = 0, n;
	uint32_t	 left;
	unsigned	 i;

	assert_int_equal(op_get(&o, b.data, b.len), 0);
	assert_int_equal(o.ntargets, 3);
	assert_int_equal(o.record.len, 20);
	assert_ptr_equal(o.record.data + 20, b.data + b.len);
	left = o.ntargets;
	for (i = 0; i < 3; i++) {
		assert_int_equal(op_next_target(&o, &at, &left, &t), 1);
		assert_int_equal(t.handle, handles[i]);
		assert_int_equal(t.qos, 2);
		assert_int_equal(t.nids, i);
		if (i > 0)
			assert_int_equal(get_le32(t.ids), 3);
	}
	assert_int_equal(op_next_target(&o, &at, &left, &t), 0);
	for (n = 0; n < b.len; n++)
		assert_int_equal(op_get(&o, b.data, n), ERR_PROTO);
}

static void
impossible_operations_are_refused(void **state UNUSED)
{
	static const struct op bad[] = {
		{ .kind = STORE_END, .handle = 0 },
		{ .kind = STORE_END, .handle = UINT64_MAX },
		{ .kind = STORE_OPEN, .handle = 1, .version = 6,
		    .client_id = { (const uint8_t *)"a", 1 } },
		{ .kind = STORE_OPEN, .handle = 1, .version = 5 },
		{ .kind = STORE_OPEN, .handle = 1, .version = 5,
		    .client_id = { (const uint8_t *)"a\0b", 3 } },
		{ .kind = STORE_SUBSCRIBE, .handle = 1 },
		{ .kind = STORE_SUBSCRIBE, .handle = 1,
		    .filter = { (const uint8_t *)"a#", 2 } },
		{ .kind = STORE_SUBSCRIBE, .handle = 1, .options = 3,
		    .filter = { (const uint8_t *)"a", 1 } },
		{ .kind = STORE_SUBSCRIBE, .handle = 1, .options = 0x30,
		    .filter = { (const uint8_t *)"a", 1 } },
		{ .kind = STORE_SUBSCRIBE, .handle = 1, .sub_id = 1 << 28,
		    .filter = { (const uint8_t *)"a", 1 } },
		{ .kind = STORE_UNSUBSCRIBE, .handle = 1,
		    .share = { (const uint8_t *)"a/b", 3 },
		    .filter = { (const uint8_t *)"a", 1 } },
		{ .kind = STORE_ACK, .handle = 1, .what = MQTT_PUBREL },
		{ .kind = STORE_INBOUND, .handle = 1 },
		{ .kind = STORE_RELEASE, .handle = 1 },
		{ .kind = STORE_MARK, .id = { 1, 1 } },
	};
	static const uint64_t one[] = { 1 };
	static char	long_text[70000];
	struct op	o = { .kind = STORE_MARK }, got;
	struct bytes	b;
	unsigned	i;

	for (i = 0; i < NELEM(bad); i++) {
		b = bytes_of(&bad[i]);
		assert_int_equal(op_get(&got, b.data, b.len), ERR_PROTO);
	}
	for (i = 0; i < 4; i++) {
		b = publish_op(one, 1, (uint8_t)i);
		assert_int_equal(op_get(&got, b.data, b.len),
		    i == 1 || i == 2 ? 0 : ERR_PROTO);
	}
	b = publish_op(one, 1, 8 | 1);
	assert_int_equal(op_get(&got, b.data, b.len), ERR_PROTO);
	b = publish_op((const uint64_t[]){ 0 }, 1, 1);
	assert_int_equal(op_get(&got, b.data, b.len), ERR_PROTO);
	o.source.data = (const uint8_t *)long_text;
	o.source.len = sizeof(long_text);
	assert_int_equal(op_put(NULL, 0, &o), ERR_INVAL);
	o.kind = STORE_RETAIN;
	assert_int_equal(op_put(NULL, 0, &o), ERR_INVAL);
	o.kind = (enum store_op)200;
	assert_int_equal(op_put(NULL, 0, &o), ERR_INVAL);
	b.data[0] = 0;
	assert_int_equal(op_get(&got, b.data, 1), ERR_PROTO);
	b.data[0] = 17;
	assert_int_equal(op_get(&got, b.data, 1), ERR_PROTO);
	/* Somebody else's: passed over. */
	b.data[0] = STORE_RETAIN;
	assert_int_equal(op_get(&got, b.data, 9), 0);
	assert_int_equal(got.record.len, 8);
}

/* --- Damage -------------------------------------------------------------- */

/* What is there can be saved, and what was saved is what is loaded. */
static int
is_sound(void *ctx, struct session *s)
{
	struct bytes	 b = saved(s), again;
	struct shard	*sh = shard_new(1);

	assert_int_equal(shard_load(sh, b.data, b.len), 0);
	again = saved(shard_session(sh, s->handle));
	assert_int_equal(again.len, b.len);
	assert_memory_equal(again.data, b.data, b.len);
	shard_free(&sh);
	++*(unsigned *)ctx;
	return 0;
}

static const uint8_t flips[] = { 0x01, 0x02, 0x10, 0x80, 0xff };

static void
flipped_operations_do_no_harm(void **state UNUSED)
{
	static const uint64_t both[] = { 1, 2 };
	struct bytes	 b[NELEM(samples) + 2], damaged;
	struct shard	*sh;
	unsigned	 i, k, n;
	size_t		 at;
	int		 rc;

	for (i = 0; i < NELEM(samples); i++)
		b[i] = bytes_of(&samples[i]);
	b[i++] = publish_op(both, 2, 1);
	b[i] = open_op(3, "one", true);
	for (i = 0; i < NELEM(b); i++)
		for (at = 0; at < b[i].len; at++)
			for (k = 0; k < NELEM(flips); k++) {
				sh = a_shard();
				damaged = b[i];
				damaged.data[at] ^= flips[k];
				rc = apply(sh, 1000, damaged);
				assert_true(rc == 0 || rc == ERR_PROTO ||
				    rc == ERR_NOTFOUND);
				n = 0;
				shard_each(sh, is_sound, &n);
				assert_int_equal(n, shard_nsessions(sh));
				shard_free(&sh);
			}
}

/* A record that is taken says what it says. */
static void
flipped_records_do_no_harm(void **state UNUSED)
{
	struct shard	*sh = a_shard(), *other;
	struct bytes	 b = saved(shard_session(sh, 1)), damaged, again;
	unsigned	 k, refused = 0, taken = 0;
	struct shard_counts c;
	struct dirty	 d;
	size_t		 at;
	int		 rc;

	for (at = 0; at < b.len; at++)
		for (k = 0; k < NELEM(flips); k++) {
			other = shard_new(2);
			damaged = b;
			damaged.data[at] ^= flips[k];
			rc = shard_load(other, damaged.data, damaged.len);
			c = shard_counts(other);
			if (rc < 0) {
				assert_int_equal(rc, ERR_PROTO);
				assert_int_equal(c.sessions + c.queued +
				    c.bodies + c.body_bytes, 0);
				assert_int_equal(index_nfilters(shard_index(
				    other)), 0);
				assert_int_equal(shard_take_dirty(other, &d,
				    1), 0);
				refused++;
			} else {
				uint64_t h = get_le64(damaged.data + 4);

				again = saved(shard_session(other, h));
				assert_int_equal(again.len, b.len);
				assert_memory_equal(again.data, damaged.data,
				    b.len);
				taken++;
			}
			shard_free(&other);
		}
	assert_true(refused > 100 && taken > 100);
	other = shard_new(2);
	for (at = 0; at < b.len; at++)
		assert_int_equal(shard_load(other, b.data, at), ERR_PROTO);
	b.data[b.len] = 0;
	assert_int_equal(shard_load(other, b.data, b.len + 1), ERR_PROTO);
	assert_int_equal(shard_nsessions(other), 0);
	shard_free(&other);
	shard_free(&sh);
}

static void
flipped_marks_do_no_harm(void **state UNUSED)
{
	struct shard	*sh = a_shard(), *other;
	struct bytes	 b, damaged;
	struct slice	 source = slice("listener.0");
	struct msgid	 id;
	unsigned	 k;
	size_t		 at;
	long		 n = shard_save_marks(sh, b.data, sizeof(b.data));
	int		 rc;

	assert_true(n > 0);
	b.len = (size_t)n;
	assert_int_equal(shard_save_marks(sh, b.data, b.len - 1), ERR_FULL);
	for (at = 0; at < b.len; at++)
		for (k = 0; k < NELEM(flips); k++) {
			other = shard_new(2);
			damaged = b;
			damaged.data[at] ^= flips[k];
			rc = shard_load_marks(other, damaged.data,
			    damaged.len);
			assert_true(rc == 0 || rc == ERR_PROTO);
			if (rc < 0)
				assert_int_equal(shard_counts(other).marks,
				    0);
			shard_free(&other);
		}
	other = shard_new(2);
	for (at = 0; at < b.len; at++)
		assert_int_equal(shard_load_marks(other, b.data, at),
		    ERR_PROTO);
	assert_int_equal(shard_load_marks(other, b.data, b.len), 0);
	id = shard_mark(other, &source, 1);
	assert_int_equal(id.hi, 100);
	assert_int_equal(shard_next_handle(other), 3);
	shard_free(&other);
	shard_free(&sh);
}

/* --- Sessions ------------------------------------------------------------ */

static void
an_open_goes_on_or_begins(void **state UNUSED)
{
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 1);
	struct op	 o = {
		.kind = STORE_OPEN, .handle = 1, .version = 4, .listener = 9,
		.client_id = slice("one"),
	};
	struct dirty	 d[8];

	s->sent = 2;
	/* Taken: by somebody who would not have made it durable. */
	assert_int_equal(apply(sh, 200, bytes_of(&o)), 0);
	assert_ptr_equal(shard_find(sh, "one", 3), s);
	assert_true(s->durable && s->connected);
	assert_int_equal(s->version, 4);
	assert_int_equal(session_here(s)->listener, 9);
	assert_int_equal(s->sent, 2);
	assert_int_equal(s->queued, 3);
	assert_int_equal(session_here(s)->will.len, 0);
	assert_int_equal(s->applied, 200);
	/* A handle is for once. */
	assert_int_equal(apply(sh, 210, open_op(1, "one", true)), ERR_PROTO);
	assert_int_equal(apply(sh, 210, open_op(2, "one", true)), ERR_PROTO);
	assert_int_equal(apply(sh, 210, open_op(2, "three", true)),
	    ERR_PROTO);
	assert_int_equal(shard_nsessions(sh), 2);
	assert_int_equal(shard_take_dirty(sh, d, 8), 2);
	/* Fresh: the old one is over. */
	assert_int_equal(shard_next_handle(sh), 3);
	assert_int_equal(apply(sh, 220, open_op(3, "one", true)), 0);
	assert_null(shard_session(sh, 1));
	s = shard_find(sh, "one", 3);
	assert_int_equal(s->handle, 3);
	assert_int_equal(s->queued + s->subs.n + session_here(s)->inbound.n, 0);
	assert_int_equal(index_nfilters(shard_index(sh)), 0);
	assert_int_equal(shard_counts(sh).bodies, 2);
	assert_int_equal(shard_ndirty(sh), 2);
	assert_int_equal(shard_take_dirty(sh, d, 8), 2);
	assert_int_equal(d[0].handle + d[1].handle, 4);
	assert_int_equal((d[0].session == NULL) + (d[1].session == NULL), 1);
	/* Not fresh, but another: the end of the old one was lost. */
	assert_int_equal(apply(sh, 230, open_op(4, "one", false)), 0);
	assert_null(shard_session(sh, 3));
	assert_int_equal(shard_find(sh, "one", 3)->handle, 4);
	shard_free(&sh);
}

/* Records of different moments may know two sessions of one client. */
static void
the_newer_of_two_records_stays(void **state UNUSED)
{
	struct shard	*sh = a_shard(), *other;
	struct bytes	 older = saved(shard_session(sh, 1)), newer;
	const struct bytes *in[2];
	struct dirty	 d[4];
	int		 i;

	assert_int_equal(apply(sh, 300, open_op(8, "one", true)), 0);
	newer = saved(shard_session(sh, 8));
	for (i = 0; i < 2; i++) {
		in[i] = &older;
		in[!i] = &newer;
		other = shard_new(3);
		assert_int_equal(shard_load(other, in[0]->data, in[0]->len),
		    0);
		assert_int_equal(shard_load(other, in[1]->data, in[1]->len),
		    0);
		assert_int_equal(shard_nsessions(other), 1);
		assert_int_equal(shard_find(other, "one", 3)->handle, 8);
		assert_int_equal(shard_counts(other).bodies, 0);
		assert_int_equal(shard_take_dirty(other, d, 4), 1);
		assert_int_equal(d[0].handle, 1);
		assert_null(d[0].session);
		/* What the older one did is over. */
		assert_int_equal(apply(other, 250, open_op(1, "one", false)),
		    0);
		assert_null(shard_session(other, 1));
		shard_free(&other);
	}
	shard_free(&sh);
}

static void
it_ends_and_wills_fire_in_time(void **state UNUSED)
{
	struct {
		uint32_t	expiry_s, delay_s;
		bool		will, connected;
		uint64_t	ends, fires;
	} t[] = {
		{ 60, 5, true, false, 61000, 6000 },
		{ 5, 60, true, false, 6000, 6000 },
		{ 0, 60, true, false, 1000, 1000 },
		{ 0, 0, true, false, 1000, 1000 },
		{ SHARD_NEVER, 60, true, false, UINT64_MAX, 61000 },
		{ SHARD_NEVER, SHARD_NEVER, true, false, UINT64_MAX,
		    UINT64_MAX },
		{ 60, 5, false, false, 61000, UINT64_MAX },
		{ 60, 5, true, true, UINT64_MAX, UINT64_MAX },
	};
	struct session_here here;
	struct session	s;
	unsigned	i;

	for (i = 0; i < NELEM(t); i++) {
		memset(&s, 0, sizeof(s));
		s.at_ms = 1000;
		s.expiry_s = t[i].expiry_s;
		memset(&here, 0, sizeof(here));
		here.will_delay_s = t[i].delay_s;
		here.will.len = t[i].will;
		s.here = &here;
		s.connected = t[i].connected;
		assert_true(session_ends_ms(&s) == t[i].ends);
		assert_true(session_will_ms(&s) == t[i].fires);
	}
	memset(&s, 0, sizeof(s));
	s.at_ms = UINT64_MAX - 10;
	s.expiry_s = 1;
	assert_true(session_ends_ms(&s) == UINT64_MAX);
}

static void
will_and_close(void **state UNUSED)
{
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 1);
	struct op	 o = {
		.kind = STORE_CLOSE, .handle = 1, .at_ms = 5000,
		.expiry_s = 7, .offset = 2, .keep_will = true,
	};
	struct op	 w = { .kind = STORE_WILL, .handle = 2 };

	assert_int_equal(apply(sh, 100, bytes_of(&o)), 0);
	assert_false(s->connected);
	assert_int_equal(session_here(s)->will.len, 4);
	assert_int_equal(s->sent, 2);
	assert_int_equal(session_ends_ms(s), 12000);
	o.keep_will = false;
	o.offset = 99;			/* of a damaged log */
	assert_int_equal(apply(sh, 110, bytes_of(&o)), 0);
	assert_int_equal(session_here(s)->will.len, 0);
	assert_int_equal(s->sent, 3);
	o.offset = 0;			/* what was received was sent */
	assert_int_equal(apply(sh, 115, bytes_of(&o)), 0);
	assert_int_equal(s->sent, 1);
	assert_int_equal(session_here(shard_session(sh, 2))->will.len, 4);
	assert_int_equal(apply(sh, 120, bytes_of(&w)), 0);
	assert_int_equal(session_here(shard_session(sh, 2))->will.len, 0);
	shard_free(&sh);
}

/* --- Queues -------------------------------------------------------------- */

/* A session whose first offset is this one. */
static struct session *
session_at(struct shard **sh, uint64_t offset)
{
	struct shard	*first = shard_new(5);
	struct bytes	 b;

	assert_int_equal(apply(first, 1, open_op(1, "one", true)), 0);
	b = saved(shard_session(first, 1));
	put_le64(b.data + 36, offset);
	put_le64(b.data + 44, offset);
	put_le64(b.data + 52, offset);
	shard_free(&first);
	*sh = shard_new(6);
	assert_int_equal(shard_load(*sh, b.data, b.len), 0);
	return shard_session(*sh, 1);
}

static void
skipped_offsets_are_finished(void **state UNUSED)
{
	static const uint64_t	 one[] = { 1 };
	struct shard		*sh = shard_new(3), *copy;
	struct session		*s;
	struct bytes		 b;

	assert_int_equal(apply(sh, 1, open_op(1, "one", true)), 0);
	s = shard_session(sh, 1);
	assert_int_equal(apply(sh, 2, offset_op(STORE_SKIP, 1, 70000, 0)), 0);
	assert_int_equal(s->base, 70000);
	assert_int_equal(s->sent, 70000);
	assert_int_equal(apply(sh, 3, publish_op(one, 1, 1)), 0);
	/* Behind what waits: that stays where it is. */
	assert_int_equal(apply(sh, 4, offset_op(STORE_SKIP, 1, 70005, 0)), 0);
	assert_int_equal(apply(sh, 5, publish_op(one, 1, 2)), 0);
	assert_int_equal(s->base, 70000);
	assert_int_equal(s->next, 70006);
	assert_int_equal(session_next(s, 70001), 70005);
	assert_int_equal(session_entry(s, 70003)->state, ENTRY_DONE);
	/* Never back. */
	assert_int_equal(apply(sh, 6, offset_op(STORE_SKIP, 1, 5, 0)), 0);
	assert_int_equal(s->next, 70006);
	b = saved(s);
	copy = shard_new(4);
	assert_int_equal(shard_load(copy, b.data, b.len), 0);
	assert_int_equal(session_next(shard_session(copy, 1), 70001), 70005);
	assert_int_equal(apply(sh, 7, offset_op(STORE_ACK, 1, 70000,
	    MQTT_PUBACK)), 0);
	assert_int_equal(s->base, 70005);
	shard_free(&copy);
	shard_free(&sh);
}

/* Sessions are found once each, though others come and go between steps and
 * the table grows and shrinks. */
static void
a_walk_goes_on_whatever_happens(void **state UNUSED)
{
	enum { STAY = 300, MORE = 3000 };
	struct shard	*sh = shard_new(8);
	uint8_t		 seen[STAY + 1] = { 0 };
	struct session	*s;
	uint64_t	 place = 0, pos = 1;
	size_t		 steps, rounds = 0, i, n = 0;
	char		 id[16];

	do {
		steps = 10;
		assert_null(shard_at(sh, &place, &steps));
	} while (place != 0);
	for (i = 1; i <= STAY; i++) {
		snprintf(id, sizeof(id), "%zu", i);
		assert_int_equal(apply(sh, pos++, open_op(i, id, true)), 0);
	}
	for (;; rounds++) {
		/* Grow once, shrink once, on the way. */
		if (rounds == 20)
			for (i = STAY + 1; i <= MORE; i++) {
				snprintf(id, sizeof(id), "%zu", i);
				assert_int_equal(apply(sh, pos++, open_op(i,
				    id, true)), 0);
			}
		if (rounds == 60)
			for (i = STAY + 1; i <= MORE; i++)
				assert_int_equal(apply(sh, pos++, offset_op(
				    STORE_END, i, 0, 0)), 0);
		steps = 7;
		s = shard_at(sh, &place, &steps);
		if (s == NULL && place == 0)
			break;
		if (s == NULL)
			continue;
		assert_true(place == shard_place(s));
		if (s->handle <= STAY) {
			assert_int_equal(seen[s->handle]++, 0);
			n++;
		}
		if (++place == 0)
			break;
	}
	assert_true(rounds > 60);
	assert_int_equal(n, STAY);
	shard_free(&sh);
}

static void
identifiers_wrap(void **state UNUSED)
{
	static const uint64_t from[] = {
		0, 1, 65533, 65534, 65535, 65536, 131069, 131070,
		UINT64_C(65535) * 1000000 + 65000,
	};
	static const uint64_t one[] = { 1 };
	struct session	*s;
	struct shard	*sh;
	unsigned	 i, k;
	uint64_t	 o;
	uint16_t	 pid;

	for (i = 0; i < NELEM(from); i++) {
		s = session_at(&sh, from[i]);
		assert_int_equal(s->base, from[i]);
		assert_true(session_offset(s, session_pid(from[i])) ==
		    UINT64_MAX);
		for (k = 0; k < 600; k++)
			assert_int_equal(apply(sh, 10 + k, publish_op(one, 1,
			    1)), 0);
		s->sent = s->base + 550;
		for (o = s->base; o < s->sent; o++) {
			pid = session_pid(o);
			assert_int_not_equal(pid, 0);
			assert_true(session_offset(s, pid) == o);
			assert_int_equal(session_entry(s, o)->offset, o);
		}
		for (k = 0; k <= UINT16_MAX; k++) {
			o = session_offset(s, (uint16_t)k);
			assert_true(o == UINT64_MAX || (o >= s->base &&
			    o < s->sent && session_pid(o) == k));
		}
		shard_free(&sh);
	}
	/* The largest span there may be: all identifiers but one. */
	s = session_at(&sh, 70000);
	s->next = s->sent = s->base + SHARD_WINDOW_MAX;
	for (k = 0, i = 0; k <= UINT16_MAX; k++)
		i += session_offset(s, (uint16_t)k) != UINT64_MAX;
	assert_int_equal(i, SHARD_WINDOW_MAX);
	shard_free(&sh);
}

/* One that is never acknowledged, and a hundred thousand that come and go
 * behind it, do not make a queue of a hundred thousand. */
static void
what_is_dropped_takes_no_room(void **state UNUSED)
{
	static const uint64_t one[] = { 1 };
	struct shard_limits lim = { 10, 1 << 20 };
	struct session	*s;
	struct shard	*sh;
	uint64_t	 offset, pos = 10, next;
	unsigned	 i, n;

	s = session_at(&sh, 0);
	for (i = 0; i < 100000; i++) {
		assert_int_equal(apply(sh, pos++, publish_op(one, 1, 1)), 0);
		if (i == 0)
			s->sent = 1;
		if (session_overflow(s, &lim, &offset)) {
			assert_int_equal(offset, i - 10);
			assert_int_equal(apply(sh, pos++, offset_op(
			    STORE_DROP, 1, offset, 0)), 0);
			assert_false(session_overflow(s, &lim, &offset));
		}
	}
	assert_int_equal(s->base, 0);
	assert_int_equal(s->sent, 1);
	assert_int_equal(s->next, 100000);
	assert_int_equal(s->queued, 11);
	assert_true(s->queue->cap <= 32);
	assert_int_equal(session_next(s, 1), 99990);
	for (n = 0, next = 1; (next = session_next(s, next)) < s->next;
	    next++, n++)
		assert_int_equal(session_entry(s, next)->offset, next);
	assert_int_equal(n, 10);
	assert_int_equal(session_entry(s, 50000)->state, ENTRY_DONE);
	assert_int_equal(shard_counts(sh).bodies, 11);
	/* Then it is acknowledged. */
	assert_int_equal(apply(sh, pos++, offset_op(STORE_ACK, 1, 0,
	    MQTT_PUBACK)), 0);
	assert_int_equal(s->base, 99990);
	assert_int_equal(s->sent, 99990);
	/* A queue that was long once gives its room back. */
	for (i = 0; i < 5000; i++)
		assert_int_equal(apply(sh, pos++, publish_op(one, 1, 1)), 0);
	assert_true(s->queue->cap >= 5000);
	for (i = 0; i < 5000; i++)
		assert_int_equal(apply(sh, pos++, offset_op(STORE_ACK, 1,
		    s->base, MQTT_PUBACK)), 0);
	assert_int_equal(s->queued, 10);
	assert_true(s->queue->cap <= 64);
	for (i = 0; i < 10; i++)
		assert_int_equal(session_entry(s, s->base + i)->state,
		    ENTRY_WAITS);
	shard_free(&sh);
}

static void
the_oldest_unsent_goes(void **state UNUSED)
{
	static const uint64_t one[] = { 1 };
	struct shard_limits lim = { 2, 1000 };
	struct session	*s;
	struct shard	*sh;
	uint64_t	 offset = 99;
	unsigned	 i;

	s = session_at(&sh, 0);
	for (i = 0; i < 5; i++)
		assert_int_equal(apply(sh, 10 + i, publish_op(one, 1, 1)), 0);
	assert_int_equal(s->queued_bytes, 100);
	assert_true(session_overflow(s, &lim, &offset));
	assert_int_equal(offset, 0);
	s->sent = 2;			/* three wait, two may */
	assert_true(session_overflow(s, &lim, &offset));
	assert_int_equal(offset, 2);
	s->sent = 3;
	assert_false(session_overflow(s, &lim, &offset));
	lim.queue_bytes = 39;		/* two of 20 */
	assert_true(session_overflow(s, &lim, &offset));
	assert_int_equal(offset, 3);
	lim.queue_bytes = 40;
	assert_false(session_overflow(s, &lim, &offset));
	lim.queue_bytes = lim.queue_len = 0;
	s->sent = 5;			/* what is in flight is not dropped */
	assert_false(session_overflow(s, &lim, &offset));
	assert_int_equal(offset, 3);
	shard_free(&sh);
}

static void
a_body_goes_with_its_last_reader(void **state UNUSED)
{
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 1);
	struct body	*b[4];
	struct op	 move = {
		.kind = STORE_MOVE, .pos = 60, .ntargets = 2,
		.record = { NULL, 20 },
	};
	struct bytes	 m;

	/* 50 is received by one: the other still wants it. */
	assert_int_equal(shard_counts(sh).bodies, 3);
	assert_int_equal(session_entry(s, 0)->state, ENTRY_RECEIVED);
	assert_null(session_entry(s, 0)->body);
	assert_int_equal(s->queued_bytes, 40);
	assert_int_equal(session_entry(shard_session(sh, 2), 0)->body->refs,
	    1);
	/* QoS 1 has no PUBREC. */
	assert_int_equal(apply(sh, 100, offset_op(STORE_ACK, 1, 1,
	    MQTT_PUBREC)), 0);
	assert_int_equal(session_entry(s, 1)->state, ENTRY_WAITS);
	assert_int_equal(shard_bodies_in(sh, 50, 61, b, 4), 2);
	assert_int_equal(shard_bodies_in(sh, 60, UINT64_MAX, b, 4), 2);
	assert_int_equal(shard_bodies_in(sh, 0, UINT64_MAX, b, 2), 2);
	assert_int_equal(shard_bodies_in(sh, 71, UINT64_MAX, b, 4), 0);
	assert_int_equal(shard_bodies_in(sh, 71, 70, b, 4), 0);
	m = bytes_of(&move);
	add_target(&m, 1, 1, NULL, 0);
	add_target(&m, 2, 1, NULL, 0);
	add_record(&m, 20);
	assert_int_equal(apply(sh, UINT64_C(1) << 33, m), 0);
	assert_int_equal(session_entry(s, 1)->body->pos, UINT64_C(1) << 33);
	assert_int_equal(session_entry(s, 1)->body->refs, 2);
	assert_int_equal(shard_bodies_in(sh, UINT64_C(1) << 33, UINT64_MAX, b,
	    4), 1);
	assert_int_equal(shard_bodies_in(sh, 60, 61, b, 4), 0);
	assert_int_equal(apply(sh, UINT64_C(1) << 34, offset_op(STORE_DROP, 2,
	    0, 0)), 0);
	assert_int_equal(shard_counts(sh).bodies, 2);
	shard_free(&sh);
}

static void
marks_are_bounded(void **state UNUSED)
{
	static const uint64_t one[] = { 1 };
	struct shard	*sh = a_shard();
	struct op	 o = {
		.kind = STORE_MARK, .id = { 1, 1 }, .source = slice("many"),
	};
	struct session	*s = shard_session(sh, 1);
	uint64_t	 next = s->next;

	for (o.slot = 0; o.slot < SHARD_MARKS_MAX - 1; o.slot++)
		assert_int_equal(apply(sh, 100 + o.slot, bytes_of(&o)), 0);
	assert_int_equal(apply(sh, 100 + o.slot, bytes_of(&o)), ERR_FULL);
	/* Known ones go on; a forgotten one makes room. */
	assert_int_equal(apply(sh, 1000000, publish_op(one, 1, 1)), 0);
	assert_int_equal(s->next, next + 1);
	o.slot = 0;
	o.id.hi = o.id.lo = 0;
	assert_int_equal(apply(sh, 1000001, bytes_of(&o)), 0);
	o.slot = 70000;
	o.id.hi = 1;
	assert_int_equal(apply(sh, 1000002, bytes_of(&o)), 0);
	assert_int_equal(shard_counts(sh).marks, SHARD_MARKS_MAX);
	shard_free(&sh);
}

static void
a_position_is_taken_once(void **state UNUSED)
{
	static const uint64_t both[] = { 1, 2 }, twice[] = { 1, 1, 99 };
	struct shard	*sh = a_shard();
	struct session	*one = shard_session(sh, 1);
	struct session	*two = shard_session(sh, 2);

	assert_int_equal(one->applied, 90);
	assert_int_equal(two->applied, 60);
	/* Between: only the one that has not had it. */
	assert_int_equal(apply(sh, 85, publish_op(both, 2, 1)), 0);
	assert_int_equal(one->next, 3);
	assert_int_equal(two->next, 3);
	assert_int_equal(apply(sh, 90, offset_op(STORE_ACK, 1, 1,
	    MQTT_PUBACK)), 0);
	assert_int_equal(one->queued, 3);
	assert_int_equal(apply(sh, 200, publish_op(twice, 3, 1)), 0);
	assert_int_equal(one->next, 4);
	assert_int_equal(shard_counts(sh).unknown, 1);
	assert_int_equal(session_entry(one, 3)->body->refs, 1);
	assert_int_equal(apply(sh, 300, offset_op(STORE_ACK, 77, 1,
	    MQTT_PUBACK)), ERR_NOTFOUND);
	assert_int_equal(shard_applied(sh), 300);
	assert_int_equal(shard_next_handle(sh), 78);
	shard_free(&sh);
}

/* Live; a replay knows no limits. */
static void
subscriptions_may_be_limited(void **state UNUSED)
{
	struct index_limits lim = { 1, 1 };
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 2);
	struct bytes	 before = saved(s), after;
	size_t		 filters = index_nfilters(shard_index(sh));

	index_set_limits(shard_index(sh), &lim);
	assert_int_equal(apply(sh, 100, subscribe_op(2, "", "a/+/+/x")),
	    ERR_FULL);
	after = saved(s);
	assert_int_equal(after.len, before.len);
	assert_memory_equal(after.data, before.data, before.len);
	assert_int_equal(index_nfilters(shard_index(sh)), filters);
	assert_int_equal(apply(sh, 100, subscribe_op(2, "", "b/+")), 0);
	lim.shapes_owner = lim.shapes_anchor = 100;
	index_set_limits(shard_index(sh), &lim);
	assert_int_equal(apply(sh, 110, subscribe_op(2, "", "a/+/+/x")), 0);
	assert_int_equal(s->subs.n, 2);
	shard_free(&sh);
}

static void
after_a_replay_sent_is_unsure(void **state UNUSED)
{
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 1);
	struct op	 o = {
		.kind = STORE_CLOSE, .handle = 2, .expiry_s = 10, .offset = 1,
	};

	assert_int_equal(apply(sh, 100, bytes_of(&o)), 0);
	shard_replayed(sh);
	assert_true(s->sent_unsure);
	assert_int_equal(s->sent, 3);
	assert_false(shard_session(sh, 2)->sent_unsure);
	assert_int_equal(shard_session(sh, 2)->sent, 1);
	shard_free(&sh);
}

static void
sent_is_what_the_client_has_or_has_answered(void **state UNUSED)
{
	struct shard	*sh = a_shard();
	struct session	*s = shard_session(sh, 1);
	struct op	 o = {
		.kind = STORE_ACK, .handle = 1, .offset = 1, .what = MQTT_PUBACK,
	};

	session_set_sent(s, 0);		/* nobody was unsure */
	assert_int_equal(s->sent, 1);
	shard_replayed(sh);
	assert_int_equal(s->sent, 3);
	assert_int_equal(apply(sh, 100, bytes_of(&o)), 0);
	session_set_sent(s, 1);
	assert_false(s->sent_unsure);
	assert_int_equal(s->sent, 2);
	shard_replayed(sh);
	session_set_sent(s, UINT64_MAX);
	assert_int_equal(s->sent, 3);
	shard_free(&sh);
}

/* --- A lack of memory ---------------------------------------------------- */

static void
without_memory_nothing_changes(void **state UNUSED)
{
#if OWN_MALLOC
	static const uint64_t both[] = { 1, 2 };
	struct op	 in = {
		.kind = STORE_INBOUND, .handle = 2, .pid = 9, .id = { 1, 1 },
	};
	struct op	 move = {
		.kind = STORE_MOVE, .pos = 60, .record = { NULL, 20 },
	};
	struct op	 mark = {
		.kind = STORE_MARK, .id = { 9, 9 }, .source = slice("new"),
	};
	struct bytes	 ops[8], before[2], after[2], record;
	struct shard_counts c, d;
	struct shard	*sh;
	unsigned	 i, fails, n = 0;
	uint64_t	 pos = UINT64_C(1) << 40;
	int		 rc;

	ops[n++] = open_op(3, "three", true);
	ops[n++] = open_op(3, "one", true);
	ops[n++] = open_op(1, "one", false);
	ops[n++] = subscribe_op(2, "some", "new/+");
	ops[n++] = publish_op(both, 2, 1);
	ops[n++] = bytes_of(&in);
	ops[n] = bytes_of(&move);
	add_record(&ops[n++], 20);
	ops[n++] = bytes_of(&mark);
	for (i = 0; i < n; i++)
		for (fails = 0, rc = ERR_NOMEM; rc == ERR_NOMEM; fails++) {
			sh = a_shard();
			before[0] = saved(shard_session(sh, 1));
			before[1] = saved(shard_session(sh, 2));
			c = shard_counts(sh);
			allocs_left = fails;
			rc = apply(sh, pos, ops[i]);
			allocs_left = -1;
			d = shard_counts(sh);
			assert_true(rc == 0 || rc == ERR_NOMEM);
			if (rc == ERR_NOMEM) {
				after[0] = saved(shard_session(sh, 1));
				after[1] = saved(shard_session(sh, 2));
				assert_memory_equal(before[0].data,
				    after[0].data, before[0].len);
				assert_memory_equal(before[1].data,
				    after[1].data, before[1].len);
				assert_memory_equal(&c, &d, sizeof(c));
				assert_int_equal(apply(sh, pos, ops[i]), 0);
			} else {
				assert_true(fails > 0);
			}
			assert_int_equal(shard_session(sh, 1) == NULL,
			    i == 1);
			shard_free(&sh);
		}
	sh = a_shard();
	record = saved(shard_session(sh, 1));
	shard_free(&sh);
	for (fails = 0, rc = ERR_NOMEM; rc == ERR_NOMEM; fails++) {
		sh = shard_new(8);
		allocs_left = fails;
		rc = shard_load(sh, record.data, record.len);
		allocs_left = -1;
		c = shard_counts(sh);
		if (rc < 0) {
			assert_int_equal(rc, ERR_NOMEM);
			assert_int_equal(c.sessions + c.queued + c.bodies, 0);
			assert_int_equal(index_nfilters(shard_index(sh)), 0);
			assert_int_equal(shard_load(sh, record.data,
			    record.len), 0);
		}
		shard_free(&sh);
	}
	assert_true(fails > 8);
#else
	skip();		/* the sanitizer has the allocator */
#endif
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(operations_come_back),
		cmocka_unit_test(targets_and_record_follow),
		cmocka_unit_test(impossible_operations_are_refused),
		cmocka_unit_test(flipped_operations_do_no_harm),
		cmocka_unit_test(flipped_records_do_no_harm),
		cmocka_unit_test(flipped_marks_do_no_harm),
		cmocka_unit_test(an_open_goes_on_or_begins),
		cmocka_unit_test(the_newer_of_two_records_stays),
		cmocka_unit_test(it_ends_and_wills_fire_in_time),
		cmocka_unit_test(will_and_close),
		cmocka_unit_test(skipped_offsets_are_finished),
		cmocka_unit_test(a_walk_goes_on_whatever_happens),
		cmocka_unit_test(identifiers_wrap),
		cmocka_unit_test(what_is_dropped_takes_no_room),
		cmocka_unit_test(the_oldest_unsent_goes),
		cmocka_unit_test(a_body_goes_with_its_last_reader),
		cmocka_unit_test(marks_are_bounded),
		cmocka_unit_test(a_position_is_taken_once),
		cmocka_unit_test(subscriptions_may_be_limited),
		cmocka_unit_test(after_a_replay_sent_is_unsure),
		cmocka_unit_test(sent_is_what_the_client_has_or_has_answered),
		cmocka_unit_test(without_memory_nothing_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

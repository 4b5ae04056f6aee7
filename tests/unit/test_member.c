/*
 * member: what a node makes of its own disk, of hellos, of rows; what counts as
 * written; who is in reach. Many nodes at once: test_member_sim.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/err.h"
#include "base/util.h"
#include "member/file.h"
#include "member/member.h"

enum { CLOCK = 1000000, EVENTS = 64 };

struct node {
	struct members	*m;
	enum member_event_kind events[EVENTS];
	unsigned	 nevents;
	uint64_t	 nth;
	char		 why[MEMBER_TEXT_MAX];
	uint8_t		*image;
	size_t		 len;
};

static uint64_t
count_up(void *ctx)
{
	struct node *n = ctx;

	return ++n->nth;
}

static void
remember(void *ctx, const struct member_event *e)
{
	struct node *n = ctx;

	assert_true(n->nevents < EVENTS);
	n->events[n->nevents++] = e->kind;
}

static const struct member_calls calls = { count_up, remember };
static const char *const	 addrs[] = { "127.0.0.1:4370" };

static struct members_opts
opts_of(struct node *n, const char *name, const char *cluster)
{
	return (struct members_opts){
		.name = name, .role = MEMBER_CORE, .cluster = cluster,
		.addrs = addrs, .naddrs = 1, .incarnation = 10,
		.max_skew_ns = 1000, .autoheal = true, .calls = &calls,
		.ctx = n,
	};
}

static bool
has_event(const struct node *n, enum member_event_kind kind)
{
	unsigned i;

	for (i = 0; i < n->nevents; i++)
		if (n->events[i] == kind)
			return true;
	return false;
}

static void
save(struct node *n)
{
	uint64_t serial;

	if (!members_unsaved(n->m, &serial))
		return;
	free(n->image);
	assert_int_equal(members_image(n->m, &n->image, &n->len), 0);
	members_saved(n->m, serial);
}

static void
begin(struct node *n, const char *name, const char *cluster, uint64_t nth)
{
	struct members_opts o = opts_of(n, name, cluster);

	memset(n, 0, sizeof(*n));
	n->nth = nth;
	assert_int_equal(members_open(&n->m, &o, (struct slice){ NULL, 0 },
	    CLOCK, n->why), 0);
	save(n);
}

static void
end(struct node *n)
{
	members_free(&n->m);
	free(n->image);
}

static int
again_as(struct node *n, const struct members_opts *o)
{
	members_free(&n->m);
	n->nevents = 0;
	return members_open(&n->m, o, (struct slice){ n->image, n->len },
	    CLOCK + 500, n->why);
}

static struct members_self
self_of(const struct node *n)
{
	struct members_self s;

	members_self(n->m, &s);
	return s;
}

static void
say_hello(const struct node *from, struct node *to, const char *name,
    unsigned flags, struct member_verdict *v)
{
	uint8_t	buf[MEMBER_HELLO_MAX];
	size_t	len = members_hello(from->m, name, flags, CLOCK, buf,
		    sizeof(buf));

	assert_true(len > 0);
	members_judge(to->m, buf, len, CLOCK, v);
}

/* They call each other by name, and both are content. */
static void
meet(struct node *a, struct node *b)
{
	struct member_verdict va, vb;

	say_hello(a, b, "", 0, &vb);
	assert_string_equal(vb.text, "");
	assert_int_equal(members_met(b->m, &vb.h, CLOCK, 1), 0);
	save(b);
	say_hello(b, a, "", 0, &va);
	assert_int_equal(va.reason, MEMBER_OK);
	assert_int_equal(members_met(a->m, &va.h, CLOCK, 1), 0);
	save(a);
}

static int
part(struct node *a, struct node *b)
{
	members_reach(a->m, self_of(b).row->join, false, 2);
	members_reach(b->m, self_of(a).row->join, false, 2);
	return 0;
}

/* What the refused makes of it. */
static struct member_answer
refused(struct node *who, struct node *by, const struct member_verdict *v)
{
	uint8_t			buf[MEMBER_HELLO_MAX];
	struct member_answer	a;
	size_t			len = members_refusal(by->m, v, buf,
				    sizeof(buf));

	assert_true(len > 0);
	assert_int_equal(members_refused(who->m, buf, len, CLOCK, &a), 0);
	assert_int_equal(a.reason, v->reason);
	assert_string_equal(a.text, v->text);
	return a;
}

static int
take(struct node *n, uint64_t from, const struct member_row *r)
{
	uint8_t key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	size_t	len = member_row_encode(r, row, sizeof(row));

	member_key(r->join, key);
	return members_take(n->m, from, (struct slice){ key, sizeof(key) },
	    (struct slice){ row, len }, CLOCK);
}

static struct member_row
row_of(uint64_t join, const char *name, uint8_t data)
{
	struct member_row r = {
		.join = join, .version = { CLOCK, join },
		.state = MEMBER_IN, .role = MEMBER_CORE, .joined = CLOCK,
	};

	memset(r.uuid, data, sizeof(r.uuid));
	snprintf(r.name, sizeof(r.name), "%s", name);
	return r;
}

static struct members_count
count(const struct node *n)
{
	struct members_count c;

	members_count(n->m, &c);
	return c;
}

/* All that one has to say goes to the other, as from its stream. */
static void
tell_all(struct node *from, struct node *to)
{
	uint8_t	 key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	uint64_t join = self_of(from).row->join;
	size_t	 len;

	save(from);
	while (members_say(from->m, 0, key, row, &len) == 1)
		assert_int_equal(members_take(to->m, join, (struct slice){
		    key, sizeof(key) }, (struct slice){ row, len }, CLOCK), 0);
}

/* --- Rows ---------------------------------------------------------------- */

static void
a_row_survives_its_bytes(void **state)
{
	struct member_row	r = row_of(7, "a@h", 3), back;
	uint8_t			bytes[MEMBER_ROW_MAX];
	size_t			len, i;

	(void)state;
	r.naddrs = 2;
	strcpy(r.addrs[0], "h:1");
	strcpy(r.addrs[1], "[::1]:2");
	len = member_row_encode(&r, bytes, sizeof(bytes));
	assert_int_equal(member_row_decode(&back, bytes, len), 0);
	assert_memory_equal(&r, &back, sizeof(r));
	/* Cut anywhere it is none, or lacks what makes it one. */
	for (i = 0; i < 60; i++)
		assert_int_equal(member_row_decode(&back, bytes, i), ERR_PROTO);
	assert_int_equal(member_row_encode(&r, bytes, 20), 0);
}

static void
the_longest_row_fits(void **state)
{
	struct member_row	r = row_of(UINT64_MAX - 1, "", 0xff), back;
	uint8_t			bytes[MEMBER_ROW_MAX];
	size_t			len;
	unsigned		i;

	(void)state;
	memset(r.name, 'n', MEMBER_NAME_MAX - 1);
	r.name[1] = '@';
	r.version.clock = r.version.node = r.joined = UINT64_MAX;
	r.naddrs = MEMBER_ADDRS;
	for (i = 0; i < MEMBER_ADDRS; i++)
		memset(r.addrs[i], 'a', MEMBER_ADDR_MAX - 1);
	len = member_row_encode(&r, bytes, sizeof(bytes));
	assert_true(len > 0);
	assert_int_equal(member_row_decode(&back, bytes, len), 0);
	assert_memory_equal(&r, &back, sizeof(r));
}

static void
names_are_name_at_host(void **state)
{
	(void)state;
	assert_true(member_name_is_valid("emqx1@10.0.0.1"));
	assert_true(member_name_is_valid("a@::1"));
	assert_false(member_name_is_valid("a"));
	assert_false(member_name_is_valid("@h"));
	assert_false(member_name_is_valid("a@"));
	assert_false(member_name_is_valid("a@b@c"));
	assert_false(member_name_is_valid("a b@c"));
	assert_false(member_name_is_valid("a@c\n"));
}

static void
what_ended_never_comes_back(void **state)
{
	struct member_row	r = row_of(70, "b@h", 2);
	struct node		a;
	struct member_look	l;

	(void)state;
	begin(&a, "a@h", "c", 0);
	assert_int_equal(take(&a, 70, &r), 0);
	assert_int_equal(members_find(a.m, "b@h", &l), 0);
	r.state = MEMBER_CLEANED;
	assert_int_equal(take(&a, 70, &r), 0);
	assert_int_equal(members_find(a.m, "b@h", &l), ERR_NOTFOUND);
	/* However high the version. */
	r.state = MEMBER_IN;
	r.version.clock = UINT64_MAX;
	assert_int_equal(take(&a, 70, &r), 0);
	assert_int_equal(members_find(a.m, "b@h", &l), ERR_NOTFOUND);
	r.state = MEMBER_FORCED;
	r.version.clock = 1;
	assert_int_equal(take(&a, 70, &r), 0);
	assert_int_equal(members_version(a.m, 70).clock, 1);
	end(&a);
}

static void
of_two_versions_the_higher_wins_in_any_order(void **state)
{
	struct member_row	old = row_of(70, "b@h", 2), new = old;
	struct node		a, b;

	(void)state;
	new.role = MEMBER_REPLICANT;
	new.version.clock++;
	begin(&a, "a@h", "c", 0);
	begin(&b, "a@h", "c", 0);
	take(&a, 70, &old);
	take(&a, 70, &new);
	take(&b, 70, &new);
	take(&b, 70, &old);
	assert_true(count(&a).digest == count(&b).digest);
	assert_int_equal(count(&a).cores, 1);
	end(&a);
	end(&b);
}

static void
rows_that_are_none_are_refused(void **state)
{
	struct member_row	r = row_of(70, "b@h", 2);
	uint8_t			key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	size_t			len = member_row_encode(&r, row, sizeof(row));
	struct node		a;

	(void)state;
	begin(&a, "a@h", "c", 0);
	member_key(71, key);	/* of another join id */
	assert_int_equal(members_take(a.m, 0, (struct slice){ key,
	    sizeof(key) }, (struct slice){ row, len }, CLOCK), ERR_PROTO);
	key[0] = 'B';
	assert_false(member_is_key((struct slice){ key, sizeof(key) }));
	assert_int_equal(members_take(a.m, 0, (struct slice){ key,
	    sizeof(key) }, (struct slice){ row, len }, CLOCK), ERR_PROTO);
	assert_int_equal(take(&a, 70, &r), 0);
	/* A join id belongs to one node for ever. */
	strcpy(r.name, "x@h");
	assert_int_equal(take(&a, 70, &r), ERR_PROTO);
	end(&a);
}

static void
the_past_is_kept_within_bounds(void **state)
{
	struct member_row	r;
	struct node		a, b;
	uint8_t			key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	size_t			len, deleted = 0;
	unsigned		i, n = MEMBERS_ENDED_MAX + 100;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "a@h", "c", 0);
	for (i = 0; i < n; i++) {
		/* One goes through them from the end. */
		r = row_of(1000 + i, "b@h", 2);
		r.state = MEMBER_LEFT;
		r.version.clock = 5000 + i;
		assert_int_equal(take(&a, 0, &r), 0);
		r = row_of(1000 + n - 1 - i, "b@h", 2);
		r.state = MEMBER_LEFT;
		r.version.clock = 5000 + n - 1 - i;
		assert_int_equal(take(&b, 0, &r), 0);
	}
	assert_int_equal(count(&a).rows, 1 + MEMBERS_ENDED_MAX);
	assert_true(count(&a).digest == count(&b).digest);
	/* Those given up are to be deleted from the stream. */
	save(&a);
	while (members_say(a.m, 0, key, row, &len) == 1)
		deleted += len == 0;
	assert_int_equal(deleted, 100);
	assert_int_equal(count(&a).rows, 1 + MEMBERS_ENDED_MAX);
	end(&a);
	end(&b);
}

static void
the_later_of_one_name_stays(void **state)
{
	struct member_row	one = row_of(70, "b@h", 2);
	struct member_row	two = row_of(60, "b@h", 3);
	struct node		a;
	struct member_look	l;

	(void)state;
	two.joined++;
	begin(&a, "a@h", "c", 0);
	take(&a, 0, &two);
	take(&a, 0, &one);
	assert_int_equal(members_find(a.m, "b@h", &l), 0);
	assert_int_equal(l.row->join, 60);
	assert_false(has_event(&a, MEMBER_EV_DISK_LOST));
	end(&a);
	begin(&a, "a@h", "c", 0);
	take(&a, 0, &one);
	take(&a, 0, &two);
	assert_int_equal(members_find(a.m, "b@h", &l), 0);
	assert_int_equal(l.row->join, 60);
	/* And here it shows that a disk was lost. */
	assert_true(has_event(&a, MEMBER_EV_DISK_LOST));
	end(&a);
}

/* --- This node, its disk ------------------------------------------------- */

static void
nodes_of_one_cluster_name_are_one_cluster(void **state)
{
	struct node a, b, c;

	(void)state;
	begin(&a, "a@h", "prod", 0);
	begin(&b, "b@h", "prod", 100);
	begin(&c, "c@h", "test", 200);
	assert_memory_equal(self_of(&a).uid, self_of(&b).uid, MEMBER_ID);
	assert_memory_not_equal(self_of(&a).uid, self_of(&c).uid, MEMBER_ID);
	meet(&a, &b);
	assert_int_equal(count(&a).members, 2);
	assert_true(count(&a).digest == count(&b).digest);
	assert_true(self_of(&a).joined && self_of(&b).joined);
	end(&a);
	end(&b);
	end(&c);
}

static void
a_node_is_the_same_after_a_restart(void **state)
{
	struct node		a, b;
	struct members_opts	o = opts_of(&a, "a@h", "c");
	struct members_count	before;
	struct member_row	row;
	uint64_t		serial;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	before = count(&a);
	row = *self_of(&a).row;
	assert_int_equal(again_as(&a, &o), 0);
	assert_memory_equal(self_of(&a).row, &row, sizeof(row));
	assert_true(count(&a).digest == before.digest);
	assert_int_equal(a.nevents, 0);
	assert_false(members_unsaved(a.m, &serial));
	/* Another role or address: the row says so, newer. */
	o.role = MEMBER_REPLICANT;
	assert_int_equal(again_as(&a, &o), 0);
	assert_int_equal(self_of(&a).row->role, MEMBER_REPLICANT);
	assert_int_equal(self_of(&a).row->join, row.join);
	assert_true(self_of(&a).row->version.clock > row.version.clock);
	assert_true(members_unsaved(a.m, &serial));
	end(&a);
	end(&b);
}

static void
a_name_cannot_change_once_it_was_with_others(void **state)
{
	struct node		a, b;
	struct members_opts	o = opts_of(&a, "x@h", "c");
	uint8_t			uuid[MEMBER_ID];

	(void)state;
	begin(&a, "a@h", "c", 0);
	memcpy(uuid, self_of(&a).row->uuid, MEMBER_ID);
	assert_int_equal(again_as(&a, &o), 0);	/* alone it can */
	assert_string_equal(self_of(&a).row->name, "x@h");
	assert_memory_equal(self_of(&a).row->uuid, uuid, MEMBER_ID);
	assert_int_equal(count(&a).rows, 1);
	save(&a);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	o.name = "y@h";
	assert_int_equal(again_as(&a, &o), ERR_INVAL);
	assert_non_null(strstr(a.why, "'y@h'"));
	assert_non_null(strstr(a.why, "'x@h'"));
	assert_null(a.m);
	end(&a);
	end(&b);
}

static void
a_cluster_name_cannot_change_either(void **state)
{
	struct node		a, b;
	struct members_opts	o = opts_of(&a, "a@h", "d");

	(void)state;
	begin(&a, "a@h", "c", 0);
	assert_int_equal(again_as(&a, &o), 0);
	save(&a);
	begin(&b, "b@h", "d", 100);
	meet(&a, &b);
	o.cluster = "e";
	assert_int_equal(again_as(&a, &o), ERR_INVAL);
	assert_non_null(strstr(a.why, "cluster.name"));
	/* By hand: it stays where it is. */
	o.cluster = NULL;
	assert_int_equal(again_as(&a, &o), 0);
	assert_memory_equal(self_of(&a).uid, self_of(&b).uid, MEMBER_ID);
	end(&a);
	end(&b);
}

static void
every_damaged_bit_of_the_image_shows(void **state)
{
	struct node		a, b;
	struct members_opts	o = opts_of(&a, "a@h", "c");
	size_t			i;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	for (i = 0; i < 8 * a.len; i++) {
		a.image[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(again_as(&a, &o), ERR_CORRUPT);
		assert_true(a.why[0] != '\0');
		a.image[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (i = 1; i < a.len; i++) {
		struct slice cut = { a.image, i };

		assert_int_equal(members_open(&a.m, &o, cut, CLOCK, a.why),
		    ERR_CORRUPT);
	}
	assert_int_equal(again_as(&a, &o), 0);
	end(&a);
	end(&b);
}

static void
bad_settings_are_named(void **state)
{
	struct node		a;
	struct members_opts	o = opts_of(&a, "nohost", "c");

	(void)state;
	memset(&a, 0, sizeof(a));
	assert_int_equal(again_as(&a, &o), ERR_INVAL);
	assert_non_null(strstr(a.why, "nohost"));
	o.name = "a@h";
	o.cluster = "";
	assert_int_equal(again_as(&a, &o), ERR_INVAL);
	assert_non_null(strstr(a.why, "cluster.name"));
}

static void
nothing_is_said_before_it_is_saved(void **state)
{
	uint8_t			buf[MEMBER_HELLO_MAX], key[MEMBER_KEY];
	uint8_t			row[MEMBER_ROW_MAX];
	struct node		a;
	const char		*other[] = { "h:2" };
	size_t			len;

	(void)state;
	begin(&a, "a@h", "c", 0);
	assert_int_equal(members_say(a.m, 0, key, row, &len), 1);
	assert_int_equal(members_say(a.m, 0, key, row, &len), 0);
	assert_int_equal(members_set_addrs(a.m, other, 1, CLOCK), 0);
	assert_int_equal(members_say(a.m, 0, key, row, &len), 0);
	assert_int_equal(members_hello(a.m, "", 0, CLOCK, buf, sizeof(buf)),
	    0);
	save(&a);
	assert_true(members_hello(a.m, "", 0, CLOCK, buf, sizeof(buf)) > 0);
	assert_int_equal(members_say(a.m, 0, key, row, &len), 1);
	end(&a);
}

static void
the_file_is_replaced_whole(void **state)
{
	char		dir[] = "/tmp/member.XXXXXX", path[64], name[32];
	uint8_t		*image;
	size_t		 len;
	struct stat	 st;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(member_file_read(dir, &image, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(member_file_write(dir, (const uint8_t *)"one", 3), 0);
	assert_int_equal(member_file_write(dir, (const uint8_t *)"three", 5),
	    0);
	assert_int_equal(member_file_read(dir, &image, &len), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(image, "three", 5);
	free(image);
	snprintf(path, sizeof(path), "%s/member", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Set aside; the next one does not take its place. */
	assert_int_equal(member_file_aside(dir, name, sizeof(name)), 0);
	assert_string_equal(name, "member.damaged");
	assert_int_equal(member_file_read(dir, &image, &len), 0);
	assert_int_equal(len, 0);
	assert_int_equal(member_file_write(dir, (const uint8_t *)"x", 1), 0);
	assert_int_equal(member_file_aside(dir, name, sizeof(name)), 0);
	assert_string_equal(name, "member.damaged.1");
	/* Empty: it was cut, not missing. */
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(member_file_read(dir, &image, &len), ERR_CORRUPT);
	unlink(path);
	snprintf(path, sizeof(path), "%s/member.damaged", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/member.damaged.1", dir);
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(member_file_read(dir, &image, &len), ERR_IO);
	assert_int_equal(member_file_write(dir, (const uint8_t *)"x", 1),
	    ERR_IO);
}

/* --- Hello --------------------------------------------------------------- */

static void
two_clusters_that_meet_stay_two(void **state)
{
	struct node		a, b;
	struct member_verdict	v;

	(void)state;
	begin(&a, "a@h", NULL, 0);
	begin(&b, "b@h", NULL, 100);
	say_hello(&a, &b, "b@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_OTHER_CLUSTER);
	refused(&a, &b, &v);
	assert_int_equal(count(&a).rows, 1);
	assert_int_equal(count(&b).rows, 1);
	assert_int_equal(a.nevents + b.nevents, 0);
	end(&a);
	end(&b);
}

static void
a_hello_is_judged(void **state)
{
	struct node		a, b;
	struct member_verdict	v;
	uint8_t			buf[MEMBER_HELLO_MAX];
	size_t			len;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	say_hello(&a, &b, "c@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_WRONG_NODE);
	assert_non_null(strstr(v.text, "c@h"));
	say_hello(&a, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_SELF);
	len = members_hello(a.m, "b@h", 0, CLOCK + 1001, buf, sizeof(buf));
	members_judge(b.m, buf, len, CLOCK, &v);
	assert_int_equal(v.reason, MEMBER_SKEW);
	members_judge(b.m, buf, len, CLOCK + 1, &v);
	assert_int_equal(v.reason, MEMBER_OK);
	members_judge(b.m, buf, len - 1, CLOCK + 1, &v);
	assert_int_equal(v.reason, MEMBER_MALFORMED);
	assert_int_equal(v.h.row.join, 0);
	end(&a);
	end(&b);
}

static void
versions_that_do_not_meet_are_told_apart(void **state)
{
	/* version 9, at least 9, and something nobody knows yet. */
	static const uint8_t	 new[] = { 0x08, 9, 0x10, 9, 0xf8, 0x01, 1 };
	/* version 9 that speaks ours as well: but it says nothing else. */
	static const uint8_t	 both[] = { 0x08, 9, 0x10, 1 };
	struct node		 a;
	struct member_verdict	 v;

	(void)state;
	begin(&a, "a@h", "c", 0);
	members_judge(a.m, new, sizeof(new), CLOCK, &v);
	assert_int_equal(v.reason, MEMBER_TOO_NEW);
	members_judge(a.m, both, sizeof(both), CLOCK, &v);
	assert_int_equal(v.reason, MEMBER_MALFORMED);
	end(&a);
}

static void
a_name_in_use_waits_until_that_one_is_down(void **state)
{
	struct node		a, b, twin;
	struct member_verdict	v;
	struct member_look	l;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	begin(&twin, "b@h", "c", 50);
	meet(&a, &b);
	say_hello(&twin, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_NAME_IN_USE);
	refused(&twin, &a, &v);
	assert_int_equal(self_of(&twin).out, MEMBER_NOT_OUT);
	/* b is down: then this is b with a new disk, joined later. */
	part(&a, &b);
	say_hello(&twin, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_IS_CLEANED);
	refused(&twin, &a, &v);
	assert_true(has_event(&twin, MEMBER_EV_SELF_CLEANED));
	save(&twin);
	say_hello(&twin, &a, "a@h", 0, &v);
	/* ... but not as an incarnation of before. */
	assert_int_equal(v.reason, MEMBER_STALE);
	refused(&twin, &a, &v);
	assert_true(has_event(&twin, MEMBER_EV_RAISE));
	assert_int_equal(self_of(&twin).floor, 11);
	save(&twin);
	struct members_opts o = opts_of(&twin, "b@h", "c");
	o.incarnation = 11;
	assert_int_equal(again_as(&twin, &o), 0);
	assert_int_equal(self_of(&twin).floor, 11);
	meet(&twin, &a);
	assert_true(has_event(&a, MEMBER_EV_DISK_LOST));
	assert_int_equal(members_find(a.m, "b@h", &l), 0);
	assert_memory_equal(l.row->uuid, self_of(&twin).row->uuid, MEMBER_ID);
	/* The one of before learns it, and is out; also after a restart. */
	say_hello(&b, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_NAME_TAKEN);
	refused(&b, &a, &v);
	assert_true(has_event(&b, MEMBER_EV_SELF_NAME_LOST));
	assert_int_equal(self_of(&b).out, MEMBER_OUT_NAME);
	save(&b);
	o = opts_of(&b, "b@h", "c");
	assert_int_equal(again_as(&b, &o), 0);
	assert_int_equal(self_of(&b).out, MEMBER_OUT_NAME);
	/* With a name of its own it is a node like any other. */
	o.name = "d@h";
	assert_int_equal(again_as(&b, &o), 0);
	assert_int_equal(self_of(&b).out, MEMBER_NOT_OUT);
	save(&b);
	meet(&a, &b);
	end(&a);
	end(&b);
	end(&twin);
}

/* --- Joining, going ------------------------------------------------------ */

static int
join(struct node *who, struct node *target)
{
	struct member_verdict	v;
	struct member_answer	a;
	uint8_t			*bytes, buf[MEMBER_HELLO_MAX];
	size_t			 len;
	int			 rc;

	say_hello(who, target, "", MEMBER_JOIN, &v);
	if (v.reason != MEMBER_OK) {
		len = members_refusal(target->m, &v, buf, sizeof(buf));
		rc = members_join_take(who->m, buf, len, CLOCK, &a);
		assert_int_equal(rc, ERR_INVAL);
		assert_int_equal(a.reason, v.reason);
		return (int)v.reason;
	}
	assert_true(v.h.join);
	assert_int_equal(members_join_answer(target->m, &v.h, &bytes, &len),
	    0);
	rc = members_join_take(who->m, bytes, len, CLOCK, &a);
	free(bytes);
	assert_int_equal(rc, 0);
	save(who);
	return MEMBER_OK;
}

static void
who_joins_takes_over_the_uid(void **state)
{
	struct node	a, b, c;
	uint64_t	before;

	(void)state;
	begin(&a, "a@h", NULL, 0);
	begin(&b, "b@h", NULL, 100);
	begin(&c, "c@h", NULL, 200);
	before = self_of(&b).row->join;
	assert_int_equal(join(&b, &a), MEMBER_OK);
	assert_memory_equal(self_of(&a).uid, self_of(&b).uid, MEMBER_ID);
	assert_int_not_equal(self_of(&b).row->join, before);
	assert_int_equal(count(&b).members, 2);
	assert_int_equal(count(&a).members, 1);	/* until b calls it */
	meet(&b, &a);
	assert_int_equal(join(&c, &b), MEMBER_OK);
	assert_int_equal(count(&c).members, 3);
	meet(&c, &a);
	meet(&c, &b);
	assert_true(count(&a).digest == count(&c).digest);
	end(&a);
	end(&b);
	end(&c);
}

static void
a_join_needs_a_core_and_a_free_name(void **state)
{
	struct node		a, b, c;
	struct members_opts	o = opts_of(&a, "a@h", NULL);
	struct members_self	s;

	(void)state;
	begin(&a, "a@h", NULL, 0);
	begin(&b, "a@h", NULL, 100);
	begin(&c, "c@h", NULL, 200);
	s = self_of(&b);
	assert_int_equal(join(&b, &a), MEMBER_NAME_IN_USE);
	assert_memory_equal(self_of(&b).uid, s.uid, MEMBER_ID);
	o.role = MEMBER_REPLICANT;
	assert_int_equal(again_as(&a, &o), 0);
	save(&a);
	assert_int_equal(join(&c, &a), MEMBER_NOT_CORE);
	end(&a);
	end(&b);
	end(&c);
}

static void
who_leaves_is_alone_until_it_joins(void **state)
{
	struct node		a, b;
	struct member_verdict	v;
	struct member_look	l;
	struct members_opts	o = opts_of(&b, "b@h", "c");
	uint64_t		before, at = 0;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	assert_int_equal(members_leave(b.m, CLOCK), ERR_INVAL);	/* alone */
	meet(&a, &b);
	before = self_of(&b).row->join;
	assert_int_equal(members_leave(b.m, CLOCK), 0);
	assert_false(members_acks(b.m, before).done);
	tell_all(&b, &a);
	tell_all(&a, &b);
	assert_true(members_acks(b.m, before).done);
	assert_int_equal(members_left(b.m, CLOCK), 0);
	save(&b);
	assert_true(has_event(&a, MEMBER_EV_WENT));
	assert_int_equal(count(&a).members, 1);
	assert_int_equal(self_of(&b).out, MEMBER_OUT_LEFT);
	assert_int_equal(members_peer(b.m, &at, &l), 0);
	/* Also after a restart; and who calls it is told. */
	assert_int_equal(again_as(&b, &o), 0);
	assert_int_equal(self_of(&b).out, MEMBER_OUT_LEFT);
	say_hello(&a, &b, "b@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_IS_OUT);
	/* It joins again, by hand. */
	assert_int_equal(join(&b, &a), MEMBER_OK);
	assert_int_equal(self_of(&b).out, MEMBER_NOT_OUT);
	meet(&b, &a);
	assert_int_equal(count(&a).members, 2);
	end(&a);
	end(&b);
}

/* Nobody was there to hear that it left: they hear it when they call. */
static void
leaving_is_heard_later_too(void **state)
{
	struct node		a, b;
	struct member_verdict	v;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	assert_int_equal(members_leave(b.m, CLOCK), 0);
	save(&b);
	assert_int_equal(members_left(b.m, CLOCK), 0);
	save(&b);
	assert_int_equal(count(&a).members, 2);
	say_hello(&a, &b, "b@h", 0, &v);
	refused(&a, &b, &v);
	assert_int_equal(count(&a).members, 1);
	end(&a);
	end(&b);
}

static void
who_was_forced_does_not_slip_back(void **state)
{
	struct node		a, b;
	struct member_verdict	v;
	struct members_opts	o = opts_of(&b, "b@h", "c");
	uint64_t		id;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	assert_int_equal(members_force(a.m, "a@h", CLOCK, &id), ERR_INVAL);
	assert_int_equal(members_force(a.m, "x@h", CLOCK, &id), ERR_NOTFOUND);
	assert_int_equal(members_force(a.m, "b@h", CLOCK, &id), 0);
	save(&a);
	assert_true(members_acks(a.m, id).done);
	say_hello(&b, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_IS_FORCED);
	refused(&b, &a, &v);
	assert_true(has_event(&b, MEMBER_EV_SELF_FORCED));
	assert_int_equal(self_of(&b).out, MEMBER_OUT_FORCED);
	save(&b);
	/* Not by a restart, not by asking. */
	assert_int_equal(again_as(&b, &o), 0);
	assert_int_equal(self_of(&b).out, MEMBER_OUT_FORCED);
	assert_int_equal(join(&b, &a), MEMBER_IS_FORCED);
	/* Without its data it is another node. */
	end(&b);
	begin(&b, "b@h", "c", 300);
	o.incarnation = 11;
	save(&b);
	assert_int_equal(again_as(&b, &o), 0);
	meet(&b, &a);
	assert_int_equal(count(&a).members, 2);
	end(&a);
	end(&b);
}

/* It came back under another join id, where nobody knew yet. */
static void
a_forced_uuid_bars_every_join_id(void **state)
{
	struct member_row	r = row_of(70, "b@h", 2), again;
	struct node		a;
	struct member_look	l;
	uint64_t		id;

	(void)state;
	begin(&a, "a@h", "c", 0);
	take(&a, 0, &r);
	assert_int_equal(members_force(a.m, "b@h", CLOCK, &id), 0);
	again = r;
	again.join = 71;
	again.joined += 5;
	take(&a, 0, &again);
	assert_int_equal(members_find(a.m, "b@h", &l), ERR_NOTFOUND);
	strcpy(again.name, "other@h");
	again.join = 72;
	take(&a, 0, &again);
	assert_int_equal(members_find(a.m, "other@h", &l), ERR_NOTFOUND);
	end(&a);
}

static void
who_was_cleaned_comes_in_again_by_itself(void **state)
{
	struct node		a, b;
	struct member_verdict	v;
	uint64_t		before;

	(void)state;
	begin(&a, "a@h", "c", 0);	/* the lower join id */
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	before = self_of(&b).row->join;
	part(&a, &b);
	assert_int_equal(members_autoclean(a.m, 1000, CLOCK, 1001), 0);
	assert_int_equal(members_autoclean(a.m, 0, CLOCK, 5000), 0);
	assert_int_equal(members_autoclean(a.m, 1000, CLOCK, 1002), 1);
	/* The other half, without the lowest join id, cleans nobody. */
	assert_false(members_majority(b.m));
	assert_int_equal(members_autoclean(b.m, 1000, CLOCK, 5000), 0);
	save(&a);
	say_hello(&b, &a, "a@h", 0, &v);
	assert_int_equal(v.reason, MEMBER_IS_CLEANED);
	refused(&b, &a, &v);
	/* Once: the same answer again changes nothing. */
	assert_int_not_equal(self_of(&b).row->join, before);
	before = self_of(&b).row->join;
	refused(&b, &a, &v);
	assert_int_equal(self_of(&b).row->join, before);
	assert_int_equal(self_of(&b).out, MEMBER_NOT_OUT);
	save(&b);
	meet(&b, &a);
	tell_all(&b, &a);
	tell_all(&a, &b);
	assert_int_equal(count(&a).members, 2);
	assert_true(count(&a).digest == count(&b).digest);
	end(&a);
	end(&b);
}

/* --- What counts as written ---------------------------------------------- */

static void
a_majority_of_the_cores_is_done(void **state)
{
	struct node		a;
	struct member_row	r[4], row;
	struct member_acks	k;
	uint64_t		id;
	unsigned		i;

	(void)state;
	begin(&a, "a@h", "c", 0);
	for (i = 0; i < 4; i++) {
		char name[8];

		snprintf(name, sizeof(name), "%c@h", 'b' + (int)i);
		r[i] = row_of(100 + i, name, (uint8_t)(2 + i));
		take(&a, 100 + i, &r[i]);
	}
	/* b goes; of a, c, d, e three have to have it. */
	assert_int_equal(members_force(a.m, "b@h", CLOCK, &id), 0);
	k = members_acks(a.m, id);
	assert_int_equal(k.have, 0);	/* not even on our disk */
	assert_int_equal(k.cores, 4);
	save(&a);
	assert_int_equal(members_acks(a.m, id).have, 1);
	row = r[0];
	row.state = MEMBER_FORCED;
	row.version = members_version(a.m, id);
	take(&a, 101, &row);
	take(&a, 101, &row);
	take(&a, 555, &row);		/* nobody */
	assert_int_equal(members_acks(a.m, id).have, 2);
	assert_false(members_acks(a.m, id).done);
	take(&a, 102, &r[0]);		/* the version before it */
	assert_int_equal(members_acks(a.m, id).have, 2);
	take(&a, 102, &row);
	assert_int_equal(members_acks(a.m, id).have, 3);
	assert_true(members_acks(a.m, id).done);
	/* Written above what others answered. */
	members_exceed(a.m, (struct member_version){ CLOCK + 77, 1 });
	assert_int_equal(members_force(a.m, "c@h", CLOCK, &id), 0);
	assert_int_equal(members_version(a.m, id).clock, CLOCK + 78);
	end(&a);
}

static void
a_replicant_says_what_its_core_lacks(void **state)
{
	struct node		a;
	struct members_opts	o = opts_of(&a, "a@h", "c");
	struct member_row	core = row_of(100, "b@h", 2), r;
	uint8_t			key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	size_t			len;
	uint64_t		id, at = 0;
	struct member_look	l;

	(void)state;
	begin(&a, "a@h", "c", 0);
	o.role = MEMBER_REPLICANT;
	assert_int_equal(again_as(&a, &o), 0);
	take(&a, 100, &core);
	r = row_of(101, "c@h", 3);
	r.role = MEMBER_REPLICANT;
	take(&a, 100, &r);
	save(&a);
	assert_int_equal(members_say(a.m, 100, key, row, &len), 1);
	assert_int_equal(get_be64(key + 1), self_of(&a).row->join);
	assert_int_equal(members_say(a.m, 100, key, row, &len), 0);
	assert_int_equal(members_force(a.m, "c@h", CLOCK, &id), 0);
	save(&a);
	assert_int_equal(members_say(a.m, 100, key, row, &len), 1);
	assert_int_equal(member_row_decode(&r, row, len), 0);
	assert_int_equal(r.state, MEMBER_FORCED);
	/* To the core alone it connects. */
	assert_int_equal(members_peer(a.m, &at, &l), 1);
	assert_int_equal(l.row->join, 100);
	assert_int_equal(members_peer(a.m, &at, &l), 0);
	end(&a);
}

/* --- In reach ------------------------------------------------------------ */

static void
view_of(struct node *from, struct node *to)
{
	static uint8_t	buf[MEMBER_VIEW_MAX];
	size_t		len = members_view(from->m, buf, sizeof(buf));

	assert_int_equal(members_view_take(to->m, self_of(from).row->join, buf,
	    len), 0);
}

static void
a_split_shows_and_who_is_seen_is_not_cleaned(void **state)
{
	struct node a, b, c;
	uint64_t    ja, jb, jc;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	begin(&c, "c@h", "c", 200);
	meet(&a, &b);
	meet(&b, &c);
	tell_all(&b, &a);
	meet(&a, &c);
	ja = self_of(&a).row->join;
	jb = self_of(&b).row->join;
	jc = self_of(&c).row->join;
	assert_int_equal(members_sees(a.m, jb, jc), -1);
	view_of(&b, &a);
	assert_int_equal(members_sees(a.m, jb, jc), 1);
	assert_int_equal(members_sees(a.m, ja, jb), 1);
	assert_false(members_split(a.m));
	/* Not transitive: a and c do not see each other, b sees both. */
	part(&a, &c);
	assert_true(members_split(a.m));
	assert_true(members_majority(a.m));
	assert_int_equal(members_autoclean(a.m, 10, CLOCK, 1000), 0);
	/* c is down for everybody. */
	part(&b, &c);
	view_of(&b, &a);
	assert_false(members_split(a.m));
	assert_int_equal(members_sees(a.m, jb, jc), 0);
	assert_int_equal(members_autoclean(a.m, 10, CLOCK, 1000), 1);
	assert_false(members_majority(c.m));
	end(&a);
	end(&b);
	end(&c);
}

/* A replicant is linked with one core: the others have that one's word. */
static void
a_replicant_is_up_where_its_core_is_heard(void **state)
{
	struct node		a, b, r;
	struct members_opts	o = opts_of(&r, "r@h", "c");
	struct member_look	l;

	(void)state;
	begin(&a, "a@h", "c", 0);
	begin(&b, "b@h", "c", 100);
	begin(&r, "r@h", "c", 200);
	o.role = MEMBER_REPLICANT;
	assert_int_equal(again_as(&r, &o), 0);
	save(&r);
	meet(&a, &b);
	meet(&b, &r);
	tell_all(&b, &a);
	assert_int_equal(members_find(a.m, "r@h", &l), 0);
	assert_false(l.up);
	view_of(&b, &a);
	assert_int_equal(members_find(a.m, "r@h", &l), 0);
	assert_true(l.up);
	assert_int_equal(count(&a).up, 3);
	/* The same the other way round. */
	members_say_again(b.m);
	tell_all(&b, &r);
	assert_int_equal(members_find(r.m, "a@h", &l), 0);
	assert_false(l.up);
	view_of(&b, &r);
	assert_int_equal(members_find(r.m, "a@h", &l), 0);
	assert_true(l.up);
	/* Of a core another core has to know by itself. */
	part(&a, &b);
	assert_int_equal(members_find(a.m, "r@h", &l), 0);
	assert_false(l.up);
	end(&a);
	end(&b);
	end(&r);
}

static void
without_autoheal_it_is_parked_until_healed(void **state)
{
	struct node		a, b;
	struct members_opts	o = opts_of(&a, "a@h", "c");
	struct member_look	l;

	(void)state;
	begin(&a, "a@h", "c", 0);
	o.autoheal = false;
	assert_int_equal(again_as(&a, &o), 0);
	begin(&b, "b@h", "c", 100);
	meet(&a, &b);
	members_find(a.m, "b@h", &l);
	assert_false(l.parked);
	part(&a, &b);
	meet(&a, &b);
	assert_true(has_event(&a, MEMBER_EV_PARKED));
	members_find(a.m, "b@h", &l);
	assert_true(l.parked);
	/* The other side hears of it, whatever its own setting. */
	view_of(&a, &b);
	members_find(b.m, "a@h", &l);
	assert_true(l.parked);
	/* Healed over there: the view tells. */
	assert_int_equal(members_heal(b.m, CLOCK), 1);
	view_of(&b, &a);
	assert_true(has_event(&a, MEMBER_EV_HEALED));
	members_find(a.m, "b@h", &l);
	assert_false(l.parked);
	/* A node that was down, not parted, is taken as it comes. */
	part(&a, &b);
	o = opts_of(&b, "b@h", "c");
	o.incarnation = 20;
	save(&b);
	assert_int_equal(again_as(&b, &o), 0);
	meet(&a, &b);
	members_find(a.m, "b@h", &l);
	assert_false(l.parked);
	assert_int_equal(l.incarnation, 20);
	/* A replicant goes on with the core that it finds. */
	o.role = MEMBER_REPLICANT;
	o.incarnation = 21;
	save(&b);
	assert_int_equal(again_as(&b, &o), 0);
	meet(&a, &b);
	part(&a, &b);
	meet(&a, &b);
	members_find(a.m, "b@h", &l);
	assert_false(l.parked);
	end(&a);
	end(&b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_row_survives_its_bytes),
		cmocka_unit_test(the_longest_row_fits),
		cmocka_unit_test(names_are_name_at_host),
		cmocka_unit_test(what_ended_never_comes_back),
		cmocka_unit_test(of_two_versions_the_higher_wins_in_any_order),
		cmocka_unit_test(rows_that_are_none_are_refused),
		cmocka_unit_test(the_past_is_kept_within_bounds),
		cmocka_unit_test(the_later_of_one_name_stays),
		cmocka_unit_test(nodes_of_one_cluster_name_are_one_cluster),
		cmocka_unit_test(a_node_is_the_same_after_a_restart),
		cmocka_unit_test(a_name_cannot_change_once_it_was_with_others),
		cmocka_unit_test(a_cluster_name_cannot_change_either),
		cmocka_unit_test(every_damaged_bit_of_the_image_shows),
		cmocka_unit_test(bad_settings_are_named),
		cmocka_unit_test(nothing_is_said_before_it_is_saved),
		cmocka_unit_test(the_file_is_replaced_whole),
		cmocka_unit_test(two_clusters_that_meet_stay_two),
		cmocka_unit_test(a_hello_is_judged),
		cmocka_unit_test(versions_that_do_not_meet_are_told_apart),
		cmocka_unit_test(a_name_in_use_waits_until_that_one_is_down),
		cmocka_unit_test(who_joins_takes_over_the_uid),
		cmocka_unit_test(a_join_needs_a_core_and_a_free_name),
		cmocka_unit_test(who_leaves_is_alone_until_it_joins),
		cmocka_unit_test(leaving_is_heard_later_too),
		cmocka_unit_test(who_was_forced_does_not_slip_back),
		cmocka_unit_test(a_forced_uuid_bars_every_join_id),
		cmocka_unit_test(who_was_cleaned_comes_in_again_by_itself),
		cmocka_unit_test(a_majority_of_the_cores_is_done),
		cmocka_unit_test(a_replicant_says_what_its_core_lacks),
		cmocka_unit_test(a_split_shows_and_who_is_seen_is_not_cleaned),
		cmocka_unit_test(a_replicant_is_up_where_its_core_is_heard),
		cmocka_unit_test(without_autoheal_it_is_parked_until_healed),
	};

	return cmocka_run_group_tests_name("member", tests, NULL, NULL);
}

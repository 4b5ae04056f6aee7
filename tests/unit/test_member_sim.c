/*
 * member: many nodes in one process under a seeded scheduler. They start all at
 * once or one by one, join, leave, are sent away, fall silent and are cleaned,
 * are parted in two, stop between any two steps, lose their disks or get an old
 * copy of one back; their clocks are apart; some want the name of another, and
 * those of a second cluster are in everybody's list of seeds. Then it becomes
 * quiet, and all that belong together are in one cluster with one table.
 *
 *   MEMBER_SEED=n replays one seed, MEMBER_SEEDS=n runs so many (default 2000)
 *   MEMBER_TRACE=1 tells what happens
 */
#include <inttypes.h>
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
#include "member/member.h"

enum { NODES = 9, STREAM = 160, MAIL = 8, STEPS = 900, ROUNDS = 400,
	ENDED = 512, ROW = 512 };

static uint64_t seed, state_rnd, now_ms;
static bool	trace;

static uint32_t
rnd(uint32_t n)
{
	state_rnd ^= state_rnd << 13;
	state_rnd ^= state_rnd >> 7;
	state_rnd ^= state_rnd << 17;
	return (uint32_t)((state_rnd >> 20) % n);
}

static bool
chance(uint32_t percent)
{
	return rnd(100) < percent;
}

#define CHECK(x) check_at((x), #x, __LINE__)

static void
check_at(bool good, const char *what, int line)
{
	if (!good)
		fail_msg("MEMBER_SEED=%" PRIu64 ": line %d: %s", seed, line,
		    what);
}

#define TRACE(...) do { if (trace) { printf("%7" PRIu64 " ", now_ms); \
	printf(__VA_ARGS__); putchar('\n'); } } while (0)

/* --- The world ----------------------------------------------------------- */

struct srow {
	uint8_t		key[MEMBER_KEY], row[ROW];
	size_t		len;
	uint64_t	seq;
};

/* What one node has of the stream of another: up to which seq. */
struct follow {
	uint64_t	life, seq;
};

struct node {
	char		 name[32], addr[16];
	unsigned	 group;		/* which cluster it is configured for */
	enum member_role role;
	struct members	*m;		/* NULL: stopped */
	uint8_t		*disk, *copy;	/* what is on disk; an old copy */
	size_t		 len, copy_len;
	uint64_t	 incarnation, raise, last_clock;
	int64_t		 skew_ms;
	bool		 changed;	/* who it is: connections close */
	uint64_t	 went[16];	/* with these too */
	unsigned	 nwent;
	uint64_t	 life;		/* of its stream */
	struct srow	 stream[STREAM];
	unsigned	 nstream;
	uint64_t	 seq;
	struct follow	 follows[NODES];
	uint64_t	 ended[ENDED];	/* join ids that ended here */
	unsigned	 nended;
	/* What was done to it. */
	bool		 left, forced, retired, twin;
	bool		 once_left;	/* whatever came then */
	bool		 unsure;	/* an old copy of such a one */
	uint8_t		 uuid[MEMBER_ID];
};

static struct node nodes[NODES];
static unsigned	   nnodes, part[NODES];	/* which side each is on */
static bool	   manual, cleans, autoheal, parted, twins, copies;

struct mail {
	uint8_t		*bytes;
	size_t		 len;
	bool		 refusal, join;
};

/* One connection of a pair: mail[0] to the higher number. */
struct link {
	bool		 open, joining;
	unsigned	 caller;
	struct mail	 mail[2][MAIL];
	unsigned	 n[2];
};

static struct link links[NODES][NODES];
/* What node i thinks of its connection with j: who is there, 0 nobody. */
static uint64_t met[NODES][NODES];
static uint64_t shut[NODES][NODES];	/* it broke, unnoticed: that one was */

/* Forced for good: a majority had it, and no disk was lost since. */
static uint8_t	barred[64][MEMBER_ID];
static unsigned nbarred, ndone;
static struct { unsigned at; uint64_t join; uint8_t uuid[MEMBER_ID]; }
    forcing[16];
static unsigned nforcing;
static uint64_t counts[8];

static uint64_t
clock_of(struct node *n)
{
	uint64_t c = (uint64_t)((int64_t)(1000000 + now_ms) + n->skew_ms) *
	    1000000;

	n->last_clock = MAX(c, n->last_clock + 1);
	return n->last_clock;
}

static uint64_t
sim_random(void *ctx)
{
	(void)ctx;
	return (uint64_t)rnd(1u << 31) << 33 ^ (uint64_t)rnd(1u << 31) << 10 ^
	    rnd(1u << 20);
}

static void
sim_event(void *ctx, const struct member_event *e)
{
	static const char *const names[] = { "", "came", "went", "disk lost",
		"cleaned", "forced", "name lost", "left", "raise", "parked",
		"healed" };
	struct node	*n = ctx;
	unsigned	 i;

	TRACE("%s: %s %s/%" PRIx64 " state %d", n->name, names[e->kind],
	    e->row != NULL ? e->row->name : "",
	    e->row != NULL ? e->row->join : 0,
	    e->row != NULL ? (int)e->row->state : 0);
	if (e->kind == MEMBER_EV_CAME)
		for (i = 0; i < n->nended; i++)
			CHECK(n->ended[i] != e->row->join);
	if (e->kind == MEMBER_EV_WENT && e->row->state != MEMBER_IN &&
	    n->nended < ENDED)
		n->ended[n->nended++] = e->row->join;
	if (e->kind == MEMBER_EV_WENT) {
		CHECK(n->nwent < NELEM(n->went));
		n->went[n->nwent++] = e->row->join;
	}
	if (e->kind == MEMBER_EV_DISK_LOST) {
		CHECK(memcmp(e->row->uuid, e->old->uuid, MEMBER_ID) != 0);
		counts[0]++;
	}
	if (e->kind >= MEMBER_EV_SELF_CLEANED &&
	    e->kind <= MEMBER_EV_SELF_LEFT)
		n->changed = true;
	if (e->kind == MEMBER_EV_RAISE) {
		CHECK(e->incarnation > n->incarnation);
		n->raise = e->incarnation;
	}
	if (e->kind == MEMBER_EV_SELF_CLEANED)
		counts[1]++;
	if (e->kind == MEMBER_EV_SELF_FORCED)
		counts[2]++;
	if (e->kind == MEMBER_EV_SELF_NAME_LOST)
		counts[3]++;
	if (e->kind == MEMBER_EV_PARKED)
		counts[4]++;
}

static const struct member_calls calls = { sim_random, sim_event };

static bool
reachable(unsigned i, unsigned j)
{
	return nodes[i].m != NULL && nodes[j].m != NULL &&
	    (!parted || part[i] == part[j]);
}

static struct link *
link_of(unsigned i, unsigned j)
{
	return &links[MIN(i, j)][MAX(i, j)];
}

/* --- Connections --------------------------------------------------------- */

static void
link_close(unsigned i, unsigned j)
{
	struct link	*l = link_of(i, j);
	unsigned	 d, k;

	if (!l->open)
		return;
	for (d = 0; d < 2; d++)
		for (k = 0; k < l->n[d]; k++)
			free(l->mail[d][k].bytes);
	memset(l, 0, sizeof(*l));
	if (met[i][j] != 0)
		shut[i][j] = met[i][j];
	if (met[j][i] != 0)
		shut[j][i] = met[j][i];
}

/* i finds out that j is not there any more. */
static void
notice(unsigned i, unsigned j)
{
	if (shut[i][j] == 0)
		return;
	if (nodes[i].m != NULL)
		members_reach(nodes[i].m, shut[i][j], false, now_ms);
	if (met[i][j] == shut[i][j])
		met[i][j] = 0;
	shut[i][j] = 0;
}

static void
close_all(unsigned i)
{
	unsigned j;

	for (j = 0; j < nnodes; j++) {
		if (j == i)
			continue;
		link_close(i, j);
		notice(i, j);
	}
}

static void
new_stream(struct node *n)
{
	n->life++;
	n->nstream = 0;
	n->seq = 0;
	memset(n->follows, 0, sizeof(n->follows));
	if (n->m != NULL)
		members_say_again(n->m);
}

static void
self_of(const struct node *n, struct members_self *s)
{
	members_self(n->m, s);
}

static void forget(unsigned i);

/* After anything that may have told events. */
static void
after(unsigned i)
{
	struct node		*n = &nodes[i];
	struct members_self	 s;
	unsigned		 j;

	while (n->nwent-- > 0)
		for (j = 0; j < nnodes; j++)
			if (met[i][j] != 0 && met[i][j] == n->went[n->nwent]) {
				link_close(i, j);
				notice(i, j);
			}
	n->nwent = 0;
	if (!n->changed)
		return;
	n->changed = false;
	self_of(n, &s);
	if (s.out != MEMBER_NOT_OUT) {
		n->nended = 0;
		forget(i);
	}
	close_all(i);
	new_stream(n);
}

static void
post(unsigned from, unsigned to, const void *bytes, size_t len, bool refusal,
    bool join)
{
	struct link	*l = link_of(from, to);
	unsigned	 d = from > to;
	struct mail	*mail;

	CHECK(l->open && l->n[d] < MAIL);
	mail = &l->mail[d][l->n[d]++];
	mail->bytes = malloc(len);
	memcpy(mail->bytes, bytes, len);
	mail->len = len;
	mail->refusal = refusal;
	mail->join = join;
}

static void
dial(unsigned i, unsigned j, unsigned flags)
{
	uint8_t		 buf[MEMBER_HELLO_MAX];
	struct link	*l = link_of(i, j);
	size_t		 len;

	if (l->open || !reachable(i, j))
		return;
	len = members_hello(nodes[i].m, chance(50) ? nodes[j].name : "",
	    flags, clock_of(&nodes[i]), buf, sizeof(buf));
	if (len == 0)
		return;		/* it has to save first */
	l->open = true;
	l->caller = i;
	l->joining = flags != 0;
	post(i, j, buf, len, false, false);
}

static void
save(unsigned i)
{
	struct node	*n = &nodes[i];
	uint64_t	 serial;

	if (n->m == NULL || !members_unsaved(n->m, &serial))
		return;
	free(n->disk);
	CHECK(members_image(n->m, &n->disk, &n->len) == 0);
	members_saved(n->m, serial);
	if (copies && chance(3)) {
		free(n->copy);
		n->copy = malloc(n->len);
		memcpy(n->copy, n->disk, n->len);
		n->copy_len = n->len;
	}
}

static void
took_hello(unsigned i, unsigned j, const struct mail *mail)
{
	uint8_t			 buf[MEMBER_HELLO_MAX], *rows;
	struct link		*l = link_of(i, j);
	struct members		*m = nodes[i].m;
	struct member_verdict	 v;
	size_t			 len;
	int			 rc;

	members_judge(m, mail->bytes, mail->len, clock_of(&nodes[i]), &v);
	if (v.reason != MEMBER_OK) {
		TRACE("%s refuses %s: %s (%s)", nodes[i].name, nodes[j].name,
		    member_reason_name(v.reason), v.text);
		CHECK(v.text[0] != '\0' && v.reason != MEMBER_MALFORMED);
		len = members_refusal(m, &v, buf, sizeof(buf));
		post(i, j, buf, len, true, false);
		return;
	}
	if (v.h.join) {
		save(i);
		CHECK(members_join_answer(m, &v.h, &rows, &len) == 0);
		post(i, j, rows, len, true, true);
		free(rows);
		return;
	}
	/* It may be there under another join id, or come back unnoticed. */
	if (met[i][j] != 0 && met[i][j] != v.h.row.join) {
		shut[i][j] = met[i][j];
		notice(i, j);
	}
	shut[i][j] = 0;
	met[i][j] = v.h.row.join;
	rc = members_met(m, &v.h, clock_of(&nodes[i]), now_ms);
	CHECK(rc == 0);
	if (!nodes[i].changed && l->caller == j) {
		len = members_hello(m, nodes[j].name, 0, clock_of(&nodes[i]),
		    buf, sizeof(buf));
		if (len > 0)
			post(i, j, buf, len, false, false);
		else
			link_close(i, j);
	}
	after(i);
}

static void
took_refusal(unsigned i, unsigned j, const struct mail *mail)
{
	struct member_answer a;
	struct node	*n = &nodes[i];
	bool		 joining = link_of(i, j)->joining;
	int		 rc;

	if (joining) {
		n->nended = 0;		/* another cluster */
		rc = members_join_take(n->m, mail->bytes, mail->len,
		    clock_of(n), &a);
		TRACE("%s asked %s to join: %s %s", n->name, nodes[j].name,
		    member_reason_name(a.reason), a.text);
		if (rc == 0) {
			n->left = false;
			n->changed = true;
			save(i);
		}
	} else
		rc = members_refused(n->m, mail->bytes, mail->len,
		    clock_of(n), &a);
	CHECK(rc == 0 || rc == ERR_INVAL || rc == ERR_PROTO);
	link_close(i, j);
	after(i);
}

static bool
deliver(unsigned i, unsigned j)
{
	struct link	*l = link_of(i, j);
	unsigned	 d = i > j;	/* from i to j */
	struct mail	 mail;

	if (!l->open || l->n[d] == 0)
		return false;
	if (!reachable(i, j)) {
		link_close(i, j);
		return true;
	}
	mail = l->mail[d][0];
	memmove(l->mail[d], l->mail[d] + 1, --l->n[d] * sizeof(mail));
	if (mail.refusal)
		took_refusal(j, i, &mail);
	else
		took_hello(j, i, &mail);
	free(mail.bytes);
	return true;
}

static bool
talk(unsigned i, unsigned j)
{
	return link_of(i, j)->open && reachable(i, j) && met[i][j] != 0 &&
	    met[j][i] != 0 && shut[i][j] == 0 && shut[j][i] == 0;
}

/* --- Rows ---------------------------------------------------------------- */

static void
stream_put(struct node *n, const uint8_t *key, const uint8_t *row, size_t len)
{
	unsigned i;

	CHECK(len <= ROW);
	for (i = 0; i < n->nstream; i++)
		if (memcmp(n->stream[i].key, key, MEMBER_KEY) == 0)
			break;
	CHECK(i < STREAM);
	if (i == n->nstream)
		n->nstream++;
	memcpy(n->stream[i].key, key, MEMBER_KEY);
	memcpy(n->stream[i].row, row, len);
	n->stream[i].len = len;
	n->stream[i].seq = ++n->seq;
}

static void
say(unsigned i)
{
	struct node		*n = &nodes[i];
	uint8_t			 key[MEMBER_KEY], row[MEMBER_ROW_MAX];
	struct members_self	 s;
	size_t			 len;
	unsigned		 core;

	if (n->m == NULL)
		return;
	self_of(n, &s);
	if (s.row->role == MEMBER_CORE) {
		while (members_say(n->m, 0, key, row, &len) == 1)
			stream_put(n, key, row, len);
		return;
	}
	/* It changes cores often. */
	for (core = 0; core < nnodes; core++) {
		if (core == i || !talk(i, core) ||
		    nodes[core].role != MEMBER_CORE)
			continue;
		members_say_again(n->m);
		while (talk(i, core) && members_say(n->m, met[i][core], key,
		    row, &len) == 1) {
			CHECK(members_take(nodes[core].m, 0, (struct slice){
			    key, sizeof(key) }, (struct slice){ row, len },
			    clock_of(&nodes[core])) == 0);
			after(core);
		}
	}
}

/* i takes some of what c's stream has and j has heard (or c is j). */
static bool
pull(unsigned i, unsigned j, unsigned c)
{
	struct node	*n = &nodes[i], *w = &nodes[c];
	struct follow	*f = &n->follows[c];
	struct members_self s;
	struct srow	*r, *next;
	uint64_t	 from, upto;
	unsigned	 k;

	if (i == c || !talk(i, j) || w->role != MEMBER_CORE || w->m == NULL)
		return false;
	if (j != c && (nodes[j].follows[c].life != w->life ||
	    n->role == MEMBER_CORE))
		return false;
	upto = j == c ? w->seq : nodes[j].follows[c].seq;
	if (f->life != w->life) {
		f->life = w->life;
		f->seq = 0;
	}
	self_of(w, &s);
	from = s.row->join;
	for (next = NULL, k = 0; k < w->nstream; k++) {
		r = &w->stream[k];
		if (r->seq > f->seq && r->seq <= upto &&
		    (next == NULL || r->seq < next->seq))
			next = r;
	}
	if (next == NULL)
		return false;
	f->seq = next->seq;
	CHECK(members_take(n->m, from, (struct slice){ next->key, MEMBER_KEY },
	    (struct slice){ next->row, next->len }, clock_of(n)) == 0);
	after(i);
	return true;
}

static void
tell_view(unsigned i, unsigned j)
{
	static uint8_t	buf[MEMBER_VIEW_MAX];
	size_t		len;

	if (!talk(i, j))
		return;
	len = members_view(nodes[i].m, buf, sizeof(buf));
	CHECK(members_view_take(nodes[j].m, met[j][i], buf, len) == 0);
	after(j);
}

/* --- What happens to nodes ----------------------------------------------- */

static void
start(unsigned i)
{
	struct node		*n = &nodes[i];
	const char		*addrs[] = { n->addr };
	char			 why[MEMBER_TEXT_MAX];
	struct members_self	 s;
	struct members_opts	 o = {
		.name = n->name, .role = n->role,
		.cluster = manual ? NULL : n->group == 0 ? "one" : "two",
		.addrs = addrs, .naddrs = 1,
		.autoheal = autoheal, .calls = &calls, .ctx = n,
	};

	if (n->m != NULL || n->retired)
		return;
	n->incarnation += 10 + rnd(5);
	o.incarnation = n->incarnation;
	n->changed = false;
	n->nended = n->nwent = 0;
	memset(n->follows, 0, sizeof(n->follows));
	CHECK(members_open(&n->m, &o, (struct slice){ n->disk, n->len },
	    clock_of(n), why) == 0);
	self_of(n, &s);
	memcpy(n->uuid, s.row->uuid, MEMBER_ID);
	new_stream(n);
	TRACE("%s started as %" PRIx64 " (out %d, %zu bytes)", n->name,
	    s.row->join, (int)s.out, n->len);
	n->changed = false;
}

static void
stop(unsigned i)
{
	unsigned j;

	if (nodes[i].m == NULL)
		return;
	TRACE("%s stops", nodes[i].name);
	for (j = 0; j < nnodes; j++) {
		link_close(i, j);
		met[i][j] = shut[i][j] = 0;
	}
	members_free(&nodes[i].m);
	new_stream(&nodes[i]);
}

static void
lose_disk(unsigned i)
{
	struct node *n = &nodes[i];

	stop(i);
	TRACE("%s loses its disk", n->name);
	free(n->disk);
	n->disk = NULL;
	n->len = 0;
	free(n->copy);
	n->copy = NULL;
	n->left = n->forced = false;
	/* What only that disk knew is gone. */
	nbarred = nforcing = 0;
}

static void
old_copy(unsigned i)
{
	struct node *n = &nodes[i];

	if (n->copy == NULL)
		return;
	stop(i);
	TRACE("%s gets an old copy of its disk", n->name);
	free(n->disk);
	n->disk = n->copy;
	n->len = n->copy_len;
	n->copy = NULL;
	n->unsure |= n->once_left;
	nbarred = nforcing = 0;
}

static bool
is_out(unsigned i)
{
	struct members_self s;

	self_of(&nodes[i], &s);
	return s.out != MEMBER_NOT_OUT;
}

static bool
is_joined(unsigned i)
{
	struct members_self s;

	self_of(&nodes[i], &s);
	return s.joined;
}

static bool
same_cluster(unsigned i, unsigned j)
{
	struct members_self a, b;

	self_of(&nodes[i], &a);
	self_of(&nodes[j], &b);
	return memcmp(a.uid, b.uid, MEMBER_ID) == 0;
}

static void
do_join(unsigned i, unsigned j)
{
	struct node *n = &nodes[i];

	if (n->m == NULL || nodes[j].m == NULL || i == j ||
	    n->group != nodes[j].group || is_joined(i) ||
	    (!manual && !is_out(i)))
		return;
	/* By hand, all are put into the cluster of the first. */
	if (manual && (i == 0 || nodes[0].m == NULL || !same_cluster(0, j)))
		return;
	if (!manual && is_out(j))
		return;
	link_close(i, j);
	dial(i, j, MEMBER_JOIN);
}

static bool
knows_forced(unsigned i, const uint8_t *uuid)
{
	struct member_look	l;
	uint64_t		at = 0;

	while (members_next_row(nodes[i].m, &at, &l) == 1)
		if (l.row->state == MEMBER_FORCED &&
		    memcmp(l.row->uuid, uuid, MEMBER_ID) == 0)
			return true;
	return false;
}

/* i goes: who was sent away is barred as long as somebody remembers. */
static void
forget(unsigned i)
{
	unsigned b, k;

	for (b = 0; b < nbarred; b++) {
		for (k = 0; k < nnodes; k++)
			if (k != i && nodes[k].m != NULL && !is_out(k) &&
			    nodes[k].role == MEMBER_CORE && !nodes[k].twin &&
			    knows_forced(k, barred[b]))
				break;
		if (k == nnodes)
			memcpy(barred[b--], barred[--nbarred], MEMBER_ID);
	}
}

static void
do_leave(unsigned i)
{
	struct node *n = &nodes[i];

	if (n->m == NULL || (manual && i == 0))
		return;
	if (members_leave(n->m, clock_of(n)) < 0)
		return;
	TRACE("%s leaves", n->name);
	forget(i);
	n->left = n->once_left = true;
	save(i);
	say(i);
	/* Sometimes it does not wait for anybody. */
	if (chance(50)) {
		CHECK(members_left(n->m, clock_of(n)) == 0);
		n->changed = true;
		after(i);
	}
}

static void
end_leave(unsigned i)
{
	struct node *n = &nodes[i];

	if (n->m != NULL && members_left(n->m, clock_of(n)) == 0) {
		n->changed = true;
		after(i);
	}
}

static void
do_force(unsigned i, unsigned j)
{
	struct node		*n = &nodes[i];
	struct member_look	 l;
	uint8_t			 uuid[MEMBER_ID];
	uint64_t		 join;

	if (n->m == NULL || (manual && j == 0) || is_out(i) ||
	    members_find(n->m, nodes[j].name, &l) < 0 || l.self)
		return;
	memcpy(uuid, l.row->uuid, MEMBER_ID);
	CHECK(members_force(n->m, nodes[j].name, clock_of(n), &join) == 0);
	after(i);
	TRACE("%s forces %s out", n->name, nodes[j].name);
	for (unsigned k = 0; k < nnodes; k++)
		if (memcmp(nodes[k].uuid, uuid, MEMBER_ID) == 0)
			nodes[k].forced = true;
	if (nforcing < NELEM(forcing)) {
		forcing[nforcing].at = i;
		forcing[nforcing].join = join;
		memcpy(forcing[nforcing++].uuid, uuid, MEMBER_ID);
	}
}

/* Whose order to leave has reached a majority is barred from now on. */
static void
see_forced(void)
{
	struct member_acks	 a;
	struct node		*n;
	unsigned		 i;

	for (i = 0; i < nforcing; i++) {
		n = &nodes[forcing[i].at];
		if (n->m == NULL || is_out(forcing[i].at) ||
		    !knows_forced(forcing[i].at, forcing[i].uuid))
			continue;
		a = members_acks(n->m, forcing[i].join);
		CHECK(a.have <= a.cores);
		if (!a.done || nbarred == NELEM(barred))
			continue;
		memcpy(barred[nbarred++], forcing[i].uuid, MEMBER_ID);
		forcing[i] = forcing[--nforcing];
		ndone++;
	}
}

static bool
is_barred(const uint8_t *uuid)
{
	unsigned i;

	for (i = 0; i < nbarred; i++)
		if (memcmp(barred[i], uuid, MEMBER_ID) == 0)
			return true;
	return false;
}

/* Nobody has a row of the other cluster, whatever state it is in. */
static void
check_apart(unsigned i)
{
	struct member_look	l;
	uint64_t		at = 0;

	while (nodes[i].m != NULL && members_next_row(nodes[i].m, &at, &l))
		CHECK((l.row->name[0] == 'o') == (nodes[i].group == 0));
}

/* It is to come again as a later incarnation. */
static void
restart(unsigned i)
{
	struct node *n = &nodes[i];

	if (n->m == NULL || n->raise == 0)
		return;
	n->incarnation = MAX(n->incarnation, n->raise);
	n->raise = 0;
	stop(i);
	start(i);
}

static bool
clean(unsigned i)
{
	int n = members_autoclean(nodes[i].m, 1500, clock_of(&nodes[i]),
	    now_ms);

	CHECK(n >= 0);
	after(i);
	return n > 0;
}

static void
one_step(void)
{
	unsigned i = rnd(nnodes), j = rnd(nnodes), c = rnd(nnodes), k;

	now_ms += rnd(40);
	if (i == j)
		j = (j + 1) % nnodes;
	switch (rnd(20)) {
	case 0: case 1: case 2:
		if (nodes[i].m != NULL && !is_out(i))
			dial(i, j, 0);	/* seed, or member */
		break;
	case 3: case 4: case 5: case 6: case 7:
		deliver(i, j);
		break;
	case 8: case 9:
		save(i);
		say(i);
		break;
	case 10: case 11: case 12: case 13:
		for (k = 0; k < 3; k++)
			pull(i, chance(70) ? c : j, c);
		break;
	case 14: case 15:
		notice(i, j);
		break;
	case 16:
		tell_view(i, j);
		break;
	case 17:
		if (cleans && nodes[i].m != NULL)
			clean(i);
		see_forced();
		break;
	case 18:
		start(i);
		restart(i);
		break;
	case 19:
		do_join(i, j);
		end_leave(c);
		break;
	}
}

static void
trouble(void)
{
	unsigned i = rnd(nnodes), j = rnd(nnodes), k;

	switch (rnd(12)) {
	case 0: case 1:
		stop(i);
		break;
	case 2:
		if ((!manual || i != 0) && chance(50))
			lose_disk(i);
		break;
	case 3:
		if ((!manual || i != 0) && chance(50))
			old_copy(i);
		break;
	case 4: case 5:
		parted = !parted;
		for (k = 0; k < nnodes; k++)
			part[k] = rnd(2);
		TRACE("parted: %d", parted);
		break;
	case 6:
		do_leave(i);
		break;
	case 7:
		do_force(i, j);
		break;
	case 8:
		nodes[i].skew_ms = (int64_t)rnd(6000) - 3000;
		break;
	case 9:
		link_close(i, j);
		break;
	case 10:
		if (nodes[i].m != NULL)
			members_heal(nodes[i].m, clock_of(&nodes[i]));
		break;
	case 11:
		if (nodes[i].m != NULL && chance(30)) {
			const char *addrs[] = { chance(50) ? "x" : "y" };

			CHECK(members_set_addrs(nodes[i].m, addrs, 1,
			    clock_of(&nodes[i])) == 0);
		}
		break;
	}
}

/* --- Rest ---------------------------------------------------------------- */

static bool
quiet_round(void)
{
	unsigned i, j, c;
	bool	 busy = false;

	now_ms += 300;
	for (i = 0; i < nnodes; i++) {
		start(i);
		restart(i);
		end_leave(i);
		save(i);
		say(i);
	}
	for (i = 0; i < nnodes; i++)
		for (j = 0; j < nnodes; j++) {
			if (i == j)
				continue;
			notice(i, j);
			if (nodes[i].m == NULL || nodes[j].m == NULL)
				continue;
			if (!is_out(i) && !talk(i, j) &&
			    nodes[i].role + nodes[j].role !=
			    2 * MEMBER_REPLICANT)
				dial(i, j, 0);
			while (deliver(i, j))
				;
			while (deliver(j, i))
				;
			tell_view(i, j);
		}
	for (i = 0; i < nnodes; i++)
		for (j = 0; j < nnodes; j++)
			for (c = 0; c < nnodes; c++)
				while (i != j && pull(i, j, c))
					busy = true;
	for (i = 0; i < nnodes; i++)
		if (cleans && nodes[i].m != NULL)
			busy |= clean(i);
	for (i = 0; i < nnodes; i++) {
		/* By hand: whoever should be in and is not, asks. */
		if (manual && i != 0 && nodes[i].group == 0 &&
		    nodes[i].m != NULL && !is_joined(i) &&
		    !nodes[i].left && !nodes[i].forced) {
			do_join(i, 0);
			busy = true;
		}
		check_apart(i);
	}
	return busy;
}

static bool
expected(unsigned i)
{
	const struct node *n = &nodes[i];

	return n->m != NULL && !n->left && !n->forced && !n->twin &&
	    !n->unsure;
}

static void
dump(unsigned i)
{
	struct member_look	l;
	uint64_t		at = 0;

	TRACE("%s has:", nodes[i].name);
	while (trace && members_next_row(nodes[i].m, &at, &l) == 1)
		TRACE("  %" PRIx64 " %s state %d version %" PRIu64 "/%" PRIx64
		    " joined %" PRIu64 " data %02x%02x up %d", l.row->join,
		    l.row->name, (int)l.row->state, l.row->version.clock,
		    l.row->version.node, l.row->joined, l.row->uuid[0],
		    l.row->uuid[1], l.up);
}

static void
check_group(unsigned g)
{
	struct members_count	 n, first = { .digest = 0 };
	struct member_look	 l;
	unsigned		 i, j, lead = NODES;

	/* Replicants without a core have nobody to hear from. */
	for (i = 0; i < nnodes; i++)
		if (nodes[i].group == g && expected(i) &&
		    nodes[i].role == MEMBER_CORE)
			break;
	/* By hand nobody joins those of the second. */
	if (i == nnodes || (manual && g != 0))
		return;
	for (i = 0; i < nnodes; i++) {
		if (nodes[i].group != g || !expected(i))
			continue;
		dump(i);
		CHECK(!is_out(i));
		members_count(nodes[i].m, &n);
		if (lead == NODES) {
			lead = i;
			first = n;
		}
		CHECK(same_cluster(i, lead));
		CHECK(n.digest == first.digest && n.rows == first.rows);
		CHECK(n.members == first.members);
		for (j = 0; j < nnodes; j++)
			if (nodes[j].group == g && expected(j)) {
				CHECK(members_find(nodes[i].m, nodes[j].name,
				    &l) == 0);
				CHECK(memcmp(l.row->uuid, nodes[j].uuid,
				    MEMBER_ID) == 0);
			}
	}
}

static void
check_rest(void)
{
	struct member_look	l;
	struct members_self	s;
	struct members_count	n;
	uint64_t		at;
	unsigned		i;

	check_group(0);
	check_group(1);
	for (i = 0; i < nnodes; i++) {
		if (nodes[i].m == NULL)
			continue;
		self_of(&nodes[i], &s);
		if (nodes[i].left && !nodes[i].unsure)
			CHECK(s.out != MEMBER_NOT_OUT);
		/* An old copy of its disk may be of before it joined. */
		if (is_barred(nodes[i].uuid)) {
			members_count(nodes[i].m, &n);
			CHECK(s.out != MEMBER_NOT_OUT || n.members == 1);
		}
		/* One of two with a name may find nobody to talk to. */
		for (at = 0; expected(i) &&
		    members_next(nodes[i].m, &at, &l) == 1;)
			CHECK(!is_barred(l.row->uuid));
	}
}

static void
world_make(void)
{
	unsigned i;

	memset(nodes, 0, sizeof(nodes));
	memset(links, 0, sizeof(links));
	memset(met, 0, sizeof(met));
	memset(shut, 0, sizeof(shut));
	nbarred = nforcing = ndone = 0;
	now_ms = 1;
	parted = false;
	manual = chance(30);
	cleans = chance(60);
	autoheal = chance(70);
	copies = chance(20);
	nnodes = 3 + rnd(NODES - 2);
	twins = !manual && nnodes > 4 && chance(15);
	for (i = 0; i < nnodes; i++) {
		struct node *n = &nodes[i];

		n->group = i >= 4 && chance(25);
		n->role = i > 1 && n->group == 0 && chance(35) ?
		    MEMBER_REPLICANT : MEMBER_CORE;
		snprintf(n->name, sizeof(n->name), "%s%u@h", n->group == 0 ?
		    "o" : "t", i);
		snprintf(n->addr, sizeof(n->addr), "h:%u", i);
		n->incarnation = 100;
		n->skew_ms = (int64_t)rnd(4000) - 2000;
	}
	if (twins) {
		memcpy(nodes[2].name, nodes[3].name, sizeof(nodes[2].name));
		nodes[2].twin = nodes[3].twin = true;
	}
}

static void
world_end(void)
{
	unsigned i;

	for (i = 0; i < nnodes; i++) {
		stop(i);
		free(nodes[i].disk);
		free(nodes[i].copy);
	}
}

static void
one_world(uint64_t s)
{
	unsigned i, step, quiet = 0, round;
	bool	 at_once;

	seed = s;
	state_rnd = s * 0x9e3779b97f4a7c15 + 1;
	for (i = 0; i < 8; i++)
		rnd(2);
	world_make();
	at_once = chance(50);
	for (i = 0; i < nnodes; i++)
		if (at_once)
			start(i);
	for (step = 0; step < STEPS; step++) {
		one_step();
		if (step > 100 && chance(3))
			trouble();
	}
	TRACE("quiet from now on");
	parted = false;
	for (i = 1; i < nnodes; i++)
		if (chance(10)) {
			forget(i);
			stop(i);
			nodes[i].retired = true;
		}
	for (round = 0; round < ROUNDS && quiet < 12; round++)
		quiet = quiet_round() ? 0 : quiet + 1;
	see_forced();
	CHECK(round < ROUNDS);
	check_rest();
	counts[5] += ndone;
	counts[6]++;
	world_end();
}

static void
all_in_one_cluster_with_one_table_at_rest(void **state)
{
	const char	*s = getenv("MEMBER_SEED"), *n = getenv("MEMBER_SEEDS");
	uint64_t	 i, to = n != NULL ? strtoull(n, NULL, 10) : 2000;

	(void)state;
	trace = getenv("MEMBER_TRACE") != NULL;
	if (s != NULL) {
		one_world(strtoull(s, NULL, 10));
		return;
	}
	for (i = 1; i <= to; i++)
		one_world(i);
	print_message("%" PRIu64 " worlds: %" PRIu64 " disks lost, %" PRIu64
	    " cleaned and back, %" PRIu64 " forced out (%" PRIu64
	    " by a majority), %" PRIu64 " names lost, %" PRIu64 " parked\n",
	    counts[6], counts[0], counts[1], counts[2], counts[5], counts[3],
	    counts[4]);
	/* A world in which nothing happens proves nothing. */
	if (to >= 500)
		for (i = 0; i < 6; i++)
			assert_true(counts[i] > 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_in_one_cluster_with_one_table_at_rest),
	};

	return cmocka_run_group_tests_name("member_sim", tests, NULL, NULL);
}

#include "member/internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"

/* member.proto, MemberImage and MemberKept. */
enum {
	F_NAME = 1, F_UID, F_JOIN, F_CLUSTER, F_JOINED, F_OUT, F_WAS_UID, F_WAS,
	F_FLOOR, F_HEALED, F_ROWS
};
enum { F_ROW = 1, F_INCARNATION };

/* Of the image: magic, version, length of the rest, checksum of that. */
enum { HEADER = 8 + 4 + 4 + 8, VERSION = 1 };
static const char magic[8] = "mqttcmem";

static int
refuse(char why[MEMBER_TEXT_MAX], int rc, const char *fmt, ...) PRINTF(3, 4);

static int
refuse(char why[MEMBER_TEXT_MAX], int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, MEMBER_TEXT_MAX, fmt, ap);
	va_end(ap);
	return rc;
}

/* --- Coming and going ---------------------------------------------------- */

static void
random_id(struct members *m, uint8_t id[MEMBER_ID])
{
	put_le64(id, m->calls->random(m->ctx));
	/* Never all zero, which is none. */
	put_le64(id + 8, m->calls->random(m->ctx) | 1);
}

static uint64_t
random_join(struct members *m)
{
	uint64_t join;

	do {
		join = m->calls->random(m->ctx);
	} while (join == 0 || join == UINT64_MAX ||
	    entry_find(m, join) != NULL);
	return join;
}

int
self_new(struct members *m, const struct member_row *like, uint64_t clock)
{
	struct member_row	 row = *like;
	uint64_t		 before = m->self_join;
	struct entry		*e;
	uint32_t		 i;
	int			 rc;

	row.join = random_join(m);
	row.state = MEMBER_IN;
	row.joined = MAX(clock, m->exceed + 1);
	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (strcmp(e->row.name, row.name) == 0 ||
		    id_is(e->row.uuid, row.uuid))
			row.joined = MAX(row.joined, e->row.joined + 1);
	}
	row.version.clock = row.joined;
	row.version.node = row.join;
	m->self_join = row.join;
	if ((rc = merge(m, &row, &e)) < 0) {
		m->self_join = before;
		return rc;
	}
	assert(e != NULL);
	m->self = e;
	m->leaving = false;
	return 0;
}

int
self_rejoin(struct members *m, uint64_t clock)
{
	struct member_row	 like = m->self->row;
	int			 rc;

	if ((rc = self_new(m, &like, clock)) < 0)
		return rc;
	tell(m, MEMBER_EV_SELF_CLEANED, &m->self->row, NULL);
	return 0;
}

int
self_out(struct members *m, enum member_out why,
    const struct member_row *winner, uint64_t clock)
{
	static const enum member_event_kind kinds[] = {
		[MEMBER_OUT_LEFT] = MEMBER_EV_SELF_LEFT,
		[MEMBER_OUT_FORCED] = MEMBER_EV_SELF_FORCED,
		[MEMBER_OUT_NAME] = MEMBER_EV_SELF_NAME_LOST,
	};
	struct member_row	 like = m->self->row, w;
	bool			 asked = m->leaving &&
				    why == MEMBER_OUT_LEFT;
	int			 rc;

	if (winner != NULL)
		w = *winner;
	memset(&m->was, 0, sizeof(m->was));
	if (why == MEMBER_OUT_LEFT && like.state == MEMBER_LEFT)
		m->was = like;
	memcpy(m->was_uid, m->uid, MEMBER_ID);
	rows_free(m);
	random_id(m, m->uid);
	m->cluster[0] = '\0';
	m->out = why;
	m->joined = false;
	if ((rc = self_new(m, &like, clock)) < 0)
		return rc;
	if (!asked)
		tell(m, kinds[why], winner != NULL ? &w : NULL, NULL);
	return 0;
}

int
self_check(struct members *m, uint64_t clock)
{
	const struct entry *winner;

	switch (fate_of(m, &m->self->row, &winner)) {
	case FATE_FORCED:
		return self_out(m, MEMBER_OUT_FORCED, NULL, clock);
	case FATE_LEFT:
		return m->leaving ? 0 :
		    self_out(m, MEMBER_OUT_LEFT, NULL, clock);
	case FATE_NAME:
		return self_out(m, MEMBER_OUT_NAME,
		    winner != NULL ? &winner->row : NULL, clock);
	case FATE_AGAIN:
		return self_rejoin(m, clock);
	case FATE_MEMBER:
	case FATE_NONE:
		return 0;
	}
	assert(!"a fate");
	return 0;
}

void
self_raise(struct members *m, uint64_t incarnation)
{
	struct member_event ev = { .kind = MEMBER_EV_RAISE,
				   .incarnation = incarnation };

	if (incarnation <= m->floor)
		return;
	m->floor = incarnation;
	touch(m, NULL);
	if (incarnation > m->incarnation)
		m->calls->event(m->ctx, &ev);
}

void
members_self(const struct members *m, struct members_self *out)
{
	out->row = &m->self->row;
	memcpy(out->uid, m->uid, MEMBER_ID);
	out->out = m->out;
	out->incarnation = m->incarnation;
	out->floor = m->floor;
	out->joined = m->joined;
}

static int
set_addrs(struct member_row *row, const char *const *addrs, uint32_t n)
{
	uint32_t i;

	if (n > MEMBER_ADDRS)
		return ERR_INVAL;
	memset(row->addrs, 0, sizeof(row->addrs));
	for (i = 0; i < n; i++)
		if (addrs[i][0] == '\0' || !get_text(row->addrs[i],
		    MEMBER_ADDR_MAX, text_of(addrs[i])))
			return ERR_INVAL;
	row->naddrs = n;
	return 0;
}

static int
self_update(struct members *m, const struct member_row *want, uint64_t clock)
{
	struct member_row row = m->self->row;

	if (row.role == want->role && row.naddrs == want->naddrs &&
	    memcmp(row.addrs, want->addrs, sizeof(row.addrs)) == 0)
		return 0;
	row = *want;
	row.version.clock = MAX(MAX(clock, row.version.clock + 1),
	    m->exceed + 1);
	row.version.node = row.join;
	return MIN(merge(m, &row, NULL), 0);
}

int
members_set_addrs(struct members *m, const char *const *addrs, uint32_t n,
    uint64_t clock)
{
	struct member_row	want = m->self->row;
	int			rc;

	if ((rc = set_addrs(&want, addrs, n)) < 0)
		return rc;
	return self_update(m, &want, clock);
}

int
members_leave(struct members *m, uint64_t clock)
{
	int rc;

	if (m->out != MEMBER_NOT_OUT || !m->joined)
		return ERR_INVAL;
	m->leaving = true;
	if ((rc = rewrite(m, m->self, MEMBER_LEFT, clock)) < 0)
		m->leaving = false;
	return rc;
}

int
members_left(struct members *m, uint64_t clock)
{
	if (!m->leaving)
		return ERR_INVAL;
	return self_out(m, MEMBER_OUT_LEFT, NULL, clock);
}

/* The member of that name; or who had it last, if that may come back. */
static struct entry *
to_force(const struct members *m, const char *name)
{
	struct entry	*e, *best = entry_named(m, name);
	uint32_t	 i;

	for (i = 0; i < m->n && (best == NULL || !best->member); i++) {
		e = m->rows[i];
		if (!e->pruned && e->row.state != MEMBER_FORCED &&
		    strcmp(e->row.name, name) == 0 &&
		    (best == NULL || is_later(&e->row, &best->row)))
			best = e;
	}
	return best;
}

int
members_force(struct members *m, const char *name, uint64_t clock,
    uint64_t *join)
{
	struct entry	*e = to_force(m, name);
	uint64_t	 id;
	int		 rc;

	if (e == NULL)
		return ERR_NOTFOUND;
	if (e == m->self)
		return ERR_INVAL;
	id = e->row.join;
	if ((rc = rewrite(m, e, MEMBER_FORCED, clock)) < 0)
		return rc;
	*join = id;
	return 0;
}

/* --- On disk ------------------------------------------------------------- */

bool
members_unsaved(const struct members *m, uint64_t *serial)
{
	*serial = m->serial;
	return m->serial > m->saved;
}

void
members_saved(struct members *m, uint64_t serial)
{
	m->saved = MAX(m->saved, serial);
}

static void
put_kept(struct wire_out *w, const struct entry *e)
{
	size_t mark = wire_open(w, F_ROWS);

	put_row(w, F_ROW, &e->row);
	wire_put_fixed64(w, F_INCARNATION, e->incarnation);
	wire_close(w, mark);
}

int
members_image(const struct members *m, uint8_t **out, size_t *len)
{
	size_t		 size = 4 * 1024 +
			    ((size_t)m->n + 1) * (MEMBER_ROW_MAX + 32);
	struct wire_out	 w;
	uint8_t		*buf;
	uint32_t	 i;

	if ((buf = malloc(size)) == NULL)
		return ERR_NOMEM;
	wire_out_init(&w, buf + HEADER, size - HEADER);
	wire_put_bytes(&w, F_NAME, text_of(m->self->row.name));
	wire_put_bytes(&w, F_UID, id_of(m->uid));
	wire_put_fixed64(&w, F_JOIN, m->self->row.join);
	wire_put_bytes(&w, F_CLUSTER, text_of(m->cluster));
	wire_put_uint(&w, F_JOINED, m->joined);
	wire_put_uint(&w, F_OUT, m->out);
	if (m->out != MEMBER_NOT_OUT)
		wire_put_bytes(&w, F_WAS_UID, id_of(m->was_uid));
	if (m->was.join != 0)
		put_row(&w, F_WAS, &m->was);
	wire_put_fixed64(&w, F_FLOOR, m->floor);
	wire_put_fixed64(&w, F_HEALED, m->healed);
	for (i = 0; i < m->n; i++)
		if (!m->rows[i]->pruned)
			put_kept(&w, m->rows[i]);
	assert(!w.full);
	memcpy(buf, magic, sizeof(magic));
	put_le32(buf + 8, VERSION);
	put_le32(buf + 12, (uint32_t)wire_out_len(&w));
	put_le64(buf + 16, XXH3_64bits(buf + HEADER, wire_out_len(&w)));
	*out = buf;
	*len = HEADER + wire_out_len(&w);
	return 0;
}

static int
get_kept(struct members *m, struct slice s)
{
	struct member_row	 row;
	struct wire_field	 f;
	struct wire_in		 in;
	struct entry		*e;
	uint64_t		 incarnation = 0;
	bool			 there = false;
	int			 rc;

	wire_in_init(&in, s.data, s.len);
	while ((rc = wire_next(&in, &f)) == 1) {
		if (f.number == F_ROW && f.is_bytes)
			there = member_row_decode(&row, f.bytes.data,
			    f.bytes.len) == 0;
		else if (f.number == F_INCARNATION && !f.is_bytes)
			incarnation = f.value;
	}
	if (rc < 0 || !there)
		return ERR_CORRUPT;
	if ((rc = merge(m, &row, &e)) < 0)
		return rc == ERR_NOMEM ? rc : ERR_CORRUPT;
	if (e != NULL)
		e->incarnation = MAX(e->incarnation, incarnation);
	return 0;
}

struct kept {
	char	 name[MEMBER_NAME_MAX];
	uint64_t join;
	bool	 has_uid;
};

static int
get_bytes(struct members *m, struct kept *k, const struct wire_field *f)
{
	switch (f->number) {
	case F_NAME:
		return get_text(k->name, sizeof(k->name), f->bytes) ? 0 :
		    ERR_CORRUPT;
	case F_UID:
		k->has_uid = get_id(m->uid, f->bytes);
		return k->has_uid ? 0 : ERR_CORRUPT;
	case F_CLUSTER:
		return get_text(m->cluster, sizeof(m->cluster), f->bytes) ? 0 :
		    ERR_CORRUPT;
	case F_WAS_UID:
		return get_id(m->was_uid, f->bytes) ? 0 : ERR_CORRUPT;
	case F_WAS:
		return member_row_decode(&m->was, f->bytes.data,
		    f->bytes.len) == 0 ? 0 : ERR_CORRUPT;
	case F_ROWS:
		return get_kept(m, f->bytes);
	}
	return f->number > F_ROWS ? 0 : ERR_CORRUPT;
}

static int
get_number(struct members *m, struct kept *k, const struct wire_field *f)
{
	switch (f->number) {
	case F_JOIN:
		k->join = f->value;
		return 0;
	case F_JOINED:
		m->joined = f->value != 0;
		return 0;
	case F_OUT:
		m->out = (enum member_out)f->value;
		return f->value <= MEMBER_OUT_NAME ? 0 : ERR_CORRUPT;
	case F_FLOOR:
		m->floor = f->value;
		return 0;
	case F_HEALED:
		m->healed = f->value;
		return 0;
	}
	return f->number > F_ROWS ? 0 : ERR_CORRUPT;
}

static int
image_read(struct members *m, struct slice image)
{
	struct kept		k = { .join = 0 };
	struct wire_field	f;
	struct wire_in		in;
	int			rc, got;

	if (image.len < HEADER || image.len > MEMBER_IMAGE_MAX ||
	    memcmp(image.data, magic, sizeof(magic)) != 0 ||
	    get_le32(image.data + 8) != VERSION ||
	    get_le32(image.data + 12) != image.len - HEADER ||
	    get_le64(image.data + 16) != XXH3_64bits(image.data + HEADER,
	    image.len - HEADER))
		return ERR_CORRUPT;
	wire_in_init(&in, image.data + HEADER, image.len - HEADER);
	while ((got = wire_next(&in, &f)) == 1)
		if ((rc = f.is_bytes ? get_bytes(m, &k, &f) :
		    get_number(m, &k, &f)) < 0)
			return rc;
	if (got < 0 || !k.has_uid ||
	    (m->self = entry_find(m, k.join)) == NULL || m->self->pruned ||
	    strcmp(m->self->row.name, k.name) != 0)
		return ERR_CORRUPT;
	m->self_join = k.join;
	return 0;
}

/* --- Starting ------------------------------------------------------------ */

static void
uid_choose(struct members *m)
{
	if (m->conf_cluster[0] == '\0') {
		random_id(m, m->uid);
		return;
	}
	member_uid_of(m->conf_cluster, m->uid);
	memcpy(m->cluster, m->conf_cluster, sizeof(m->cluster));
}

static int
first_start(struct members *m, const struct member_row *want, uint64_t clock)
{
	struct member_row like = *want;

	random_id(m, like.uuid);
	uid_choose(m);
	return self_new(m, &like, clock);
}

/* Another name: that of a node that is alone. */
static int
rename_self(struct members *m, const struct member_row *want, uint64_t clock)
{
	struct member_row like = *want;

	memcpy(like.uuid, m->self->row.uuid, MEMBER_ID);
	rows_free(m);
	if (m->out == MEMBER_OUT_NAME) {
		m->out = MEMBER_NOT_OUT;	/* that was what was wrong */
		m->cluster[0] = '\0';
		uid_choose(m);
	}
	return self_new(m, &like, clock);
}

static int
check_cluster(struct members *m, char why[MEMBER_TEXT_MAX])
{
	if (m->out != MEMBER_NOT_OUT || m->conf_cluster[0] == '\0' ||
	    strcmp(m->cluster, m->conf_cluster) == 0)
		return 0;
	if (m->joined && m->cluster[0] != '\0')
		return refuse(why, ERR_INVAL, "cluster.name is '%s', but this "
		    "node belongs to the cluster '%s': leave that one first, "
		    "or give the name back", m->conf_cluster, m->cluster);
	/* It was asked to join that cluster, by whatever name it goes. */
	if (m->joined)
		return 0;
	uid_choose(m);
	touch(m, NULL);
	return 0;
}

static int
start_again(struct members *m, const struct member_row *want, uint64_t clock,
    char why[MEMBER_TEXT_MAX])
{
	struct member_row	row;
	int			rc;

	if (strcmp(m->self->row.name, want->name) != 0) {
		if (m->joined)
			return refuse(why, ERR_INVAL, "node.name is '%s', but "
			    "the data in node.data_dir is that of '%s', which "
			    "is in a cluster: a name cannot change then. Give "
			    "the name back, or leave the cluster first",
			    want->name, m->self->row.name);
		if ((rc = rename_self(m, want, clock)) < 0)
			return rc;
	}
	if ((rc = check_cluster(m, why)) < 0)
		return rc;
	if (m->self->row.state == MEMBER_LEFT &&
	    m->self->row.version.node == m->self->row.join)
		m->leaving = true;
	row = m->self->row;
	row.role = want->role;
	memcpy(row.addrs, want->addrs, sizeof(row.addrs));
	row.naddrs = want->naddrs;
	/* It stopped while it left. */
	if (m->leaving)
		return self_out(m, MEMBER_OUT_LEFT, NULL, clock);
	return self_update(m, &row, clock);
}

int
members_open(struct members **out, const struct members_opts *o,
    struct slice image, uint64_t clock, char why[MEMBER_TEXT_MAX])
{
	struct member_row	 want = { .role = o->role };
	struct members		*m;
	int			 rc;

	why[0] = '\0';
	if (!member_name_is_valid(o->name))
		return refuse(why, ERR_INVAL, "'%.200s' is no node name: "
		    "NAME@HOST", o->name);
	if ((m = calloc(1, sizeof(*m))) == NULL)
		return refuse(why, ERR_NOMEM, "out of memory");
	m->calls = o->calls;
	m->ctx = o->ctx;
	m->incarnation = o->incarnation;
	m->max_skew = o->max_skew_ns;
	m->autoheal = o->autoheal;
	m->quiet = true;
	memcpy(want.name, o->name, strlen(o->name) + 1);
	if (set_addrs(&want, o->addrs, o->naddrs) < 0 || (o->cluster != NULL &&
	    (o->cluster[0] == '\0' || !get_text(m->conf_cluster,
	    sizeof(m->conf_cluster), text_of(o->cluster))))) {
		rc = refuse(why, ERR_INVAL, "an address or cluster.name is "
		    "empty or too long");
		goto free_members;
	}
	if (image.len == 0)
		rc = first_start(m, &want, clock);
	else if ((rc = image_read(m, image)) == 0) {
		m->saved = ++m->serial;
		rc = start_again(m, &want, clock, why);
	}
	if (rc == ERR_CORRUPT)
		refuse(why, rc, "what this node knew of its cluster is "
		    "damaged");
	if (rc == ERR_NOMEM)
		refuse(why, rc, "out of memory");
	if (rc < 0)
		goto free_members;
	m->quiet = false;
	*out = m;
	return 0;

free_members:
	members_free(&m);
	return rc;
}

void
members_free(struct members **m)
{
	if (*m == NULL)
		return;
	rows_free(*m);
	free(*m);
	*m = NULL;
}

#include "member/internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* member.proto, MemberHello and MemberAnswer. */
enum {
	H_VERSION = 1, H_VERSION_MIN, H_UID, H_ROW, H_INCARNATION, H_SEEN,
	H_CLOCK, H_JOIN, H_TO, H_TO_JOIN
};
enum {
	A_REASON = 1, A_UID, A_NAME, A_TEXT, A_SEEN, A_EXCEED, A_ROW, A_ROWS,
	A_ABOUT
};

const char *
member_reason_name(enum member_reason r)
{
	static const char *const names[] = {
		[MEMBER_OK] = "ok",
		[MEMBER_MALFORMED] = "malformed",
		[MEMBER_TOO_OLD] = "too_old",
		[MEMBER_TOO_NEW] = "too_new",
		[MEMBER_SELF] = "self",
		[MEMBER_WRONG_NODE] = "wrong_node",
		[MEMBER_WRONG_NAME] = "wrong_name",
		[MEMBER_OTHER_CLUSTER] = "other_cluster",
		[MEMBER_IS_FORCED] = "forced",
		[MEMBER_IS_CLEANED] = "cleaned",
		[MEMBER_HAS_LEFT] = "left",
		[MEMBER_IS_OUT] = "out",
		[MEMBER_NAME_TAKEN] = "name_taken",
		[MEMBER_NAME_IN_USE] = "name_in_use",
		[MEMBER_WRONG_DATA] = "wrong_data",
		[MEMBER_SKEW] = "skew",
		[MEMBER_STALE] = "stale",
		[MEMBER_NOT_CORE] = "not_core",
		[MEMBER_TOO_MANY] = "too_many",
	};

	return (unsigned)r < NELEM(names) ? names[r] : "unknown";
}

uint64_t
seen_of(const struct members *m, const char *name, const uint8_t *uuid)
{
	const struct entry	*e;
	uint64_t		 seen = 0, least;
	uint32_t		 i;

	for (i = 0; i < m->n; i++) {
		e = m->rows[i];
		if (e->incarnation == 0 || strcmp(e->row.name, name) != 0)
			continue;
		/* With other data it is another life. */
		least = e->incarnation + !id_is(e->row.uuid, uuid);
		seen = MAX(seen, least);
	}
	return seen;
}

/* --- Hello --------------------------------------------------------------- */

size_t
members_hello(const struct members *m, const char *to, unsigned flags,
    uint64_t clock, void *buf, size_t size)
{
	const struct entry	*e = entry_named(m, to);
	struct wire_out		 w;

	if (m->self->serial > m->saved)
		return 0;
	wire_out_init(&w, buf, size);
	wire_put_uint(&w, H_VERSION, MEMBER_PROTOCOL);
	wire_put_uint(&w, H_VERSION_MIN, MEMBER_PROTOCOL_MIN);
	wire_put_bytes(&w, H_UID, id_of(m->uid));
	put_row(&w, H_ROW, &m->self->row);
	wire_put_fixed64(&w, H_INCARNATION, m->incarnation);
	/* Of that one alone: two of one name are not to outbid each other. */
	wire_put_fixed64(&w, H_SEEN, e != NULL ? e->incarnation : 0);
	wire_put_fixed64(&w, H_TO_JOIN, e != NULL ? e->row.join : 0);
	wire_put_fixed64(&w, H_CLOCK, clock);
	wire_put_uint(&w, H_JOIN, (flags & MEMBER_JOIN) != 0);
	wire_put_bytes(&w, H_TO, text_of(to));
	return w.full ? 0 : wire_out_len(&w);
}

static bool
hello_bytes(struct member_hello *h, const struct wire_field *f)
{
	switch (f->number) {
	case H_UID:
		return get_id(h->uid, f->bytes);
	case H_ROW:
		return member_row_decode(&h->row, f->bytes.data,
		    f->bytes.len) == 0;
	case H_TO:
		return get_text(h->to, sizeof(h->to), f->bytes);
	}
	return f->number > H_TO_JOIN;
}

static bool
hello_number(struct member_hello *h, const struct wire_field *f)
{
	switch (f->number) {
	case H_VERSION:
		h->version = (uint32_t)f->value;
		return f->value <= UINT32_MAX;
	case H_VERSION_MIN:
		h->version_min = (uint32_t)f->value;
		return f->value <= UINT32_MAX;
	case H_INCARNATION:
		h->incarnation = f->value;
		return true;
	case H_SEEN:
		h->seen = f->value;
		return true;
	case H_CLOCK:
		h->clock = f->value;
		return true;
	case H_TO_JOIN:
		h->to_join = f->value;
		return true;
	case H_JOIN:
		h->join = f->value != 0;
		return true;
	}
	return f->number > H_TO_JOIN;
}

/* The version first: the rest of one we do not speak need make no sense. */
int
member_hello_decode(struct member_hello *h, const void *bytes, size_t len)
{
	static const uint8_t	none[MEMBER_ID];
	struct wire_in		in;
	struct wire_field	f;
	bool			good = true;
	int			rc = 0;

	memset(h, 0, sizeof(*h));
	if (len > MEMBER_HELLO_MAX)
		return ERR_PROTO;
	wire_in_init(&in, bytes, len);
	while ((rc = wire_next(&in, &f)) == 1)
		good &= f.is_bytes ? hello_bytes(h, &f) : hello_number(h, &f);
	if (rc < 0 || h->version == 0)
		return ERR_PROTO;
	if (h->version_min > MEMBER_PROTOCOL)
		return 0;
	return good && h->row.join != 0 && !id_is(h->uid, none) ? 0 :
	    ERR_PROTO;
}

/* --- Judging ------------------------------------------------------------- */

static void
refuse(struct member_verdict *v, enum member_reason r, const char *fmt, ...)
    PRINTF(3, 4);

static void
refuse(struct member_verdict *v, enum member_reason r, const char *fmt, ...)
{
	va_list ap;

	v->reason = r;
	va_start(ap, fmt);
	vsnprintf(v->text, sizeof(v->text), fmt, ap);
	va_end(ap);
}

/* A join id that is new here: may it have this name, this data? */
static void
judge_new(const struct members *m, struct member_verdict *v)
{
	const struct member_row	*r = &v->h.row;
	const struct entry	*e = entry_named(m, r->name), *f;
	struct members_count	 n;
	uint32_t		 i;

	for (i = 0; i < m->n; i++) {
		f = m->rows[i];
		if (f->member && f != e && id_is(f->row.uuid, r->uuid)) {
			refuse(v, MEMBER_WRONG_NAME, "this data is that of %s",
			    f->row.name);
			return;
		}
	}
	if (e == m->self) {
		refuse(v, MEMBER_NAME_IN_USE, "the name is that of the node "
		    "it called");
	} else if (e != NULL && is_alive(m, e) && !(v->h.join &&
	    id_is(e->row.uuid, r->uuid))) {
		refuse(v, MEMBER_NAME_IN_USE, "a node of this name is up");
	} else if (e != NULL && !v->h.join && !is_later(r, &e->row)) {
		refuse(v, MEMBER_IS_CLEANED, "a node of this name seems to "
		    "have joined later: by a new join id it comes after it");
	} else if (e == NULL) {
		members_count(m, &n);
		if (n.members >= MEMBERS_MAX || m->nin >= MEMBERS_IN_MAX)
			refuse(v, MEMBER_TOO_MANY, "the cluster has %" PRIu32
			    " members, which is as many as can be", n.members);
	}
}

static void
judge_known(const struct members *m, struct member_verdict *v)
{
	const struct member_row	*r = &v->h.row;
	const struct entry	*winner, *e = entry_find(m, r->join);

	if (e != NULL && !e->pruned && strcmp(e->row.name, r->name) != 0) {
		refuse(v, MEMBER_WRONG_NAME, "it joined as %s", e->row.name);
		return;
	}
	if (e != NULL && !e->pruned && (!id_is(e->row.uuid, r->uuid) ||
	    e->row.joined != r->joined)) {
		refuse(v, MEMBER_WRONG_DATA, "its join id is that of other "
		    "data");
		return;
	}
	/* One that leaves, saying so. */
	if (r->state == MEMBER_LEFT && e != NULL &&
	    e->row.state <= MEMBER_LEFT)
		return;
	switch (fate_of(m, r, &winner)) {
	case FATE_MEMBER:
		return;
	case FATE_NONE:
		if (r->state == MEMBER_IN)
			judge_new(m, v);
		else
			refuse(v, MEMBER_HAS_LEFT, "it says so");
		return;
	case FATE_AGAIN:
		refuse(v, MEMBER_IS_CLEANED, "its join id was cleaned: it "
		    "comes in by a new one");
		return;
	case FATE_LEFT:
		refuse(v, MEMBER_HAS_LEFT, "it left the cluster");
		return;
	case FATE_FORCED:
		refuse(v, MEMBER_IS_FORCED, "it was forced to leave");
		return;
	case FATE_NAME:
		refuse(v, MEMBER_NAME_TAKEN, "a node with other data joined "
		    "later under this name");
		return;
	}
}

static void
judge_join(const struct members *m, struct member_verdict *v)
{
	const struct entry	*core = NULL;
	uint32_t		 i;

	if (m->out == MEMBER_OUT_FORCED || m->out == MEMBER_OUT_NAME ||
	    m->leaving) {
		refuse(v, MEMBER_IS_OUT, "the node it called is in no cluster "
		    "itself");
	} else if (m->self->row.role != MEMBER_CORE) {
		for (i = 0; i < m->n && core == NULL; i++)
			if (counts_as_core(m->rows[i]) && m->rows[i]->up)
				core = m->rows[i];
		refuse(v, MEMBER_NOT_CORE, "the node it called is a "
		    "replicant: join a core%s%.200s", core != NULL ?
		    ", for one " : "", core != NULL ? core->row.name : "");
	} else {
		judge_new(m, v);
	}
}

static void
judge_hello(const struct members *m, uint64_t clock, struct member_verdict *v)
{
	const struct member_hello *h = &v->h;
	uint64_t seen;

	if (h->version_min > MEMBER_PROTOCOL)
		refuse(v, MEMBER_TOO_NEW, "it speaks version %" PRIu32 " of "
		    "the protocol at least, we %d at most", h->version_min,
		    MEMBER_PROTOCOL);
	else if (h->version < MEMBER_PROTOCOL_MIN)
		refuse(v, MEMBER_TOO_OLD, "it speaks version %" PRIu32 " of "
		    "the protocol, we %d at least", h->version,
		    MEMBER_PROTOCOL_MIN);
	else if (h->row.join == m->self->row.join &&
	    id_is(h->row.uuid, m->self->row.uuid))
		refuse(v, MEMBER_SELF, "it is this node itself");
	else if (h->to[0] != '\0' && strcmp(h->to, m->self->row.name) != 0)
		refuse(v, MEMBER_WRONG_NODE, "%s was called, but this is %s",
		    h->to, m->self->row.name);
	else if (uuid_is_forced(m, h->row.uuid))
		refuse(v, MEMBER_IS_FORCED, "it was forced to leave: only "
		    "without its data can it join again");
	else if (m->max_skew != 0 && h->clock > clock &&
	    h->clock - clock > m->max_skew)
		refuse(v, MEMBER_SKEW, "its clock is %" PRIu64 " ms ahead",
		    (h->clock - clock) / 1000000);
	else if (h->join)
		judge_join(m, v);
	else if (id_is(h->uid, m->uid))
		judge_known(m, v);
	else if (m->out != MEMBER_NOT_OUT && id_is(h->uid, m->was_uid))
		refuse(v, MEMBER_IS_OUT, "the node it called is no longer in "
		    "that cluster");
	else
		refuse(v, MEMBER_OTHER_CLUSTER, "two clusters have met, and "
		    "stay two: mqttc-cluster join makes them one");
	if (v->reason != MEMBER_OK)
		return;
	if ((seen = seen_of(m, h->row.name, h->row.uuid)) > h->incarnation &&
	    !h->join)
		refuse(v, MEMBER_STALE, "its incarnation is %" PRIu64 ", one "
		    "of %" PRIu64 " was here", h->incarnation, seen);
}

void
members_judge(const struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_verdict *out)
{
	memset(out, 0, sizeof(*out));
	if (member_hello_decode(&out->h, bytes, len) < 0) {
		memset(&out->h, 0, sizeof(out->h));
		refuse(out, MEMBER_MALFORMED, "it is no hello");
		return;
	}
	judge_hello(m, clock, out);
}

/* --- Answers ------------------------------------------------------------- */

/* A new join id of this name is to be later than that. */
static uint64_t
exceed_of(const struct members *m, const char *name)
{
	uint64_t clock = 0;
	uint32_t i;

	for (i = 0; i < m->n; i++)
		if (strcmp(m->rows[i]->row.name, name) == 0)
			clock = MAX(clock, m->rows[i]->row.joined);
	return clock;
}

static void
put_answer(const struct members *m, struct wire_out *w,
    enum member_reason reason, const struct member_hello *h)
{
	wire_put_uint(w, A_REASON, reason);
	wire_put_bytes(w, A_UID, id_of(m->uid));
	wire_put_bytes(w, A_NAME, text_of(m->self->row.name));
	wire_put_fixed64(w, A_SEEN, seen_of(m, h->row.name, h->row.uuid));
	wire_put_fixed64(w, A_EXCEED, exceed_of(m, h->row.name));
	wire_put_fixed64(w, A_ABOUT, h->row.join);
}

size_t
members_refusal(const struct members *m, const struct member_verdict *v,
    void *buf, size_t size)
{
	struct wire_out w;

	wire_out_init(&w, buf, size);
	put_answer(m, &w, v->reason, &v->h);
	wire_put_bytes(&w, A_TEXT, text_of(v->text));
	if (v->reason == MEMBER_IS_OUT && m->was.join != 0 &&
	    id_is(v->h.uid, m->was_uid))
		put_row(&w, A_ROW, &m->was);
	return w.full ? 0 : wire_out_len(&w);
}

int
members_join_answer(const struct members *m, const struct member_hello *h,
    uint8_t **out, size_t *len)
{
	size_t		 size = 1024 + ((size_t)m->n + 1) * MEMBER_ROW_MAX;
	struct wire_out	 w;
	uint8_t		*buf;
	uint32_t	 i;

	/* Our uid has to outlive us if others take it over. */
	if (m->self->serial > m->saved)
		return ERR_AGAIN;
	if ((buf = malloc(size)) == NULL)
		return ERR_NOMEM;
	wire_out_init(&w, buf, size);
	put_answer(m, &w, MEMBER_OK, h);
	for (i = 0; i < m->n; i++)
		if (!m->rows[i]->pruned)
			put_row(&w, A_ROWS, &m->rows[i]->row);
	*out = buf;
	*len = wire_out_len(&w);
	return 0;
}

struct answer {
	struct member_answer	 a;
	uint64_t		 seen, exceed, about;
	struct member_row	 row;		/* join 0: none */
	uint32_t		 nrows;
};

static bool
answer_bytes(struct answer *a, const struct wire_field *f)
{
	struct member_row row;

	switch (f->number) {
	case A_UID:
		return get_id(a->a.uid, f->bytes);
	case A_NAME:
		return get_text(a->a.name, sizeof(a->a.name), f->bytes);
	case A_TEXT:
		return get_text(a->a.text, sizeof(a->a.text), f->bytes);
	case A_ROW:
		return member_row_decode(&a->row, f->bytes.data,
		    f->bytes.len) == 0;
	case A_ROWS:
		a->nrows++;
		return member_row_decode(&row, f->bytes.data,
		    f->bytes.len) == 0;
	}
	return f->number > A_ABOUT;
}

static bool
answer_number(struct answer *a, const struct wire_field *f)
{
	switch (f->number) {
	case A_REASON:
		/* One of a later version is a refusal for us all the same. */
		a->a.reason = (enum member_reason)MIN(f->value,
		    MEMBER_NREASONS);
		return true;
	case A_SEEN:
		a->seen = f->value;
		return true;
	case A_EXCEED:
		a->exceed = f->value;
		return true;
	case A_ABOUT:
		a->about = f->value;
		return true;
	}
	return f->number > A_ABOUT;
}

/* All of it is looked at, the rows too. */
static int
answer_decode(struct answer *a, const void *bytes, size_t len)
{
	static const uint8_t	none[MEMBER_ID];
	struct wire_in		in;
	struct wire_field	f;
	int			rc;

	memset(a, 0, sizeof(*a));
	if (len > MEMBER_IMAGE_MAX)
		return ERR_PROTO;
	wire_in_init(&in, bytes, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (!(f.is_bytes ? answer_bytes(a, &f) : answer_number(a, &f)))
			return ERR_PROTO;
	return rc < 0 || id_is(a->a.uid, none) ? ERR_PROTO : 0;
}

int
members_refused(struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_answer *out)
{
	struct answer	a;
	int		rc;

	if ((rc = answer_decode(&a, bytes, len)) < 0)
		return rc;
	*out = a.a;
	if (a.a.reason == MEMBER_IS_OUT && a.row.join != 0) {
		if ((rc = merge(m, &a.row, NULL)) < 0)
			return rc;
		return self_check(m, clock);
	}
	/* Of another cluster, or about who we were before. */
	if (!id_is(a.a.uid, m->uid) || a.about != m->self->row.join)
		return 0;
	if (a.a.reason == MEMBER_STALE)
		self_raise(m, a.seen);
	else if (a.a.reason == MEMBER_IS_CLEANED && !m->leaving) {
		m->exceed = MAX(m->exceed, a.exceed);
		return self_rejoin(m, clock);
	} else if (a.a.reason == MEMBER_IS_FORCED)
		return self_out(m, MEMBER_OUT_FORCED, NULL, clock);
	else if (a.a.reason == MEMBER_HAS_LEFT && !m->leaving)
		return self_out(m, MEMBER_OUT_LEFT, NULL, clock);
	else if (a.a.reason == MEMBER_NAME_TAKEN)
		return self_out(m, MEMBER_OUT_NAME, NULL, clock);
	return 0;
}

int
members_met(struct members *m, const struct member_hello *h, uint64_t clock,
    uint64_t now_ms)
{
	struct entry	*e;
	bool		 returned;
	int		 rc;

	if ((rc = merge(m, &h->row, &e)) < 0)
		return rc;
	if (e == NULL)
		return ERR_FULL;
	/* It may have left by now: then it counts as nobody's reach. */
	returned = e->met && !e->up && e->incarnation == h->incarnation &&
	    e->row.role == MEMBER_CORE && m->self->row.role == MEMBER_CORE;
	if (!returned)
		e->parked = e->parked && e->incarnation == h->incarnation;
	if (returned && !m->autoheal && !e->parked) {
		e->parked = true;
		tell(m, MEMBER_EV_PARKED, &e->row, NULL);
	}
	if (h->incarnation > e->incarnation) {
		e->incarnation = h->incarnation;
		m->serial++;
		/* It says anew what is on its disk: it may be an old copy. */
		acks_forget(m, e->row.join);
	}
	/* Somebody joined one that was out of its own will. */
	if (m->out == MEMBER_OUT_LEFT && e->member)
		m->out = MEMBER_NOT_OUT;
	if (h->to_join == m->self_join)
		self_raise(m, h->seen);
	members_reach(m, h->row.join, true, now_ms);
	return self_check(m, clock);
}

/* --- Joining ------------------------------------------------------------- */

static int
take_rows(struct members *m, const void *bytes, size_t len)
{
	struct member_row	row;
	struct wire_in		in;
	struct wire_field	f;
	int			rc;

	wire_in_init(&in, bytes, len);
	while (wire_next(&in, &f) == 1) {
		if (f.number != A_ROWS)
			continue;
		if ((rc = member_row_decode(&row, f.bytes.data,
		    f.bytes.len)) < 0 || (rc = merge(m, &row, NULL)) < 0)
			return rc;
	}
	return 0;
}

int
members_join_take(struct members *m, const void *bytes, size_t len,
    uint64_t clock, struct member_answer *out)
{
	struct members	joined = *m;
	uint8_t		hashed[MEMBER_ID];
	struct answer	a;
	int		rc;

	if ((rc = answer_decode(&a, bytes, len)) < 0)
		return rc;
	*out = a.a;
	if (a.a.reason != MEMBER_OK)
		return ERR_INVAL;
	if (a.about != m->self->row.join || a.nrows == 0)
		return ERR_PROTO;
	joined.rows = NULL;
	joined.self = NULL;
	joined.self_join = 0;
	joined.n = joined.size = 0;
	joined.nin = joined.nended = joined.nforced = 0;
	joined.out = MEMBER_NOT_OUT;
	joined.leaving = false;
	joined.joined = true;
	joined.exceed = MAX(m->exceed, a.exceed);
	memcpy(joined.uid, a.a.uid, MEMBER_ID);
	memset(&joined.was, 0, sizeof(joined.was));
	joined.cluster[0] = '\0';
	member_uid_of(m->conf_cluster, hashed);
	if (m->conf_cluster[0] != '\0' && id_is(hashed, joined.uid))
		memcpy(joined.cluster, m->conf_cluster,
		    sizeof(joined.cluster));
	if ((rc = take_rows(&joined, bytes, len)) < 0 ||
	    (rc = self_new(&joined, &m->self->row, clock)) < 0) {
		rows_free(&joined);
		return rc;
	}
	rows_free(m);
	*m = joined;
	self_raise(m, a.seen);
	return 0;
}

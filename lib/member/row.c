#include "member/internal.h"

#include <string.h>
#include <xxhash.h>

#include "base/err.h"

enum {
	F_JOIN = 1, F_CLOCK, F_NODE, F_STATE, F_ROLE, F_JOINED, F_UUID, F_NAME,
	F_ADDRS
};

struct slice
text_of(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

struct slice
id_of(const uint8_t id[MEMBER_ID])
{
	return (struct slice){ id, MEMBER_ID };
}

bool
id_is(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, MEMBER_ID) == 0;
}

bool
get_text(char *out, size_t size, struct slice s)
{
	if (s.len >= size || memchr(s.data, '\0', s.len) != NULL)
		return false;
	memcpy(out, s.data, s.len);
	out[s.len] = '\0';
	return true;
}

bool
get_id(uint8_t out[MEMBER_ID], struct slice s)
{
	if (s.len != MEMBER_ID)
		return false;
	memcpy(out, s.data, MEMBER_ID);
	return true;
}

void
member_uid_of(const char *cluster, uint8_t uid[MEMBER_ID])
{
	static const char	 salt[] = "mqttc cluster uid";
	XXH128_canonical_t	 c;

	XXH128_canonicalFromHash(&c, XXH3_128bits_withSeed(cluster,
	    strlen(cluster), XXH3_64bits(salt, sizeof(salt) - 1)));
	memcpy(uid, c.digest, MEMBER_ID);
}

static bool
is_graph(const char *s, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if ((unsigned char)s[i] <= ' ' || s[i] == 0x7f || s[i] == '@')
			return false;
	return n > 0;
}

bool
member_name_is_valid(const char *name)
{
	const char	*at = strchr(name, '@');

	return at != NULL && strlen(name) < MEMBER_NAME_MAX &&
	    is_graph(name, (size_t)(at - name)) &&
	    is_graph(at + 1, strlen(at + 1));
}

void
member_key(uint64_t join, uint8_t key[MEMBER_KEY])
{
	key[0] = 'M';
	put_be64(key + 1, join);
}

bool
member_is_key(struct slice key)
{
	return key.len == MEMBER_KEY && key.data[0] == 'M';
}

static void
put_fields(struct wire_out *w, const struct member_row *r)
{
	uint32_t i;

	wire_put_fixed64(w, F_JOIN, r->join);
	wire_put_fixed64(w, F_CLOCK, r->version.clock);
	wire_put_fixed64(w, F_NODE, r->version.node);
	wire_put_uint(w, F_STATE, r->state);
	wire_put_uint(w, F_ROLE, r->role);
	wire_put_fixed64(w, F_JOINED, r->joined);
	wire_put_bytes(w, F_UUID, id_of(r->uuid));
	wire_put_bytes(w, F_NAME, text_of(r->name));
	for (i = 0; i < r->naddrs; i++)
		wire_put_bytes(w, F_ADDRS, text_of(r->addrs[i]));
}

void
put_row(struct wire_out *w, unsigned field, const struct member_row *r)
{
	size_t mark = wire_open(w, field);

	put_fields(w, r);
	wire_close(w, mark);
}

size_t
member_row_encode(const struct member_row *r, void *buf, size_t size)
{
	struct wire_out w;

	wire_out_init(&w, buf, size);
	put_fields(&w, r);
	return w.full ? 0 : wire_out_len(&w);
}

static bool
get_addr(struct member_row *r, struct slice s)
{
	/* More than we know of, of a later version: those go unused. */
	if (r->naddrs == MEMBER_ADDRS)
		return true;
	return s.len > 0 && get_text(r->addrs[r->naddrs++], MEMBER_ADDR_MAX, s);
}

static bool
get_bytes(struct member_row *r, const struct wire_field *f)
{
	switch (f->number) {
	case F_UUID:
		return get_id(r->uuid, f->bytes);
	case F_NAME:
		return get_text(r->name, sizeof(r->name), f->bytes);
	case F_ADDRS:
		return get_addr(r, f->bytes);
	}
	return f->number > F_ADDRS;
}

static bool
get_number(struct member_row *r, const struct wire_field *f)
{
	switch (f->number) {
	case F_JOIN:
		r->join = f->value;
		return true;
	case F_CLOCK:
		r->version.clock = f->value;
		return true;
	case F_NODE:
		r->version.node = f->value;
		return true;
	case F_STATE:
		r->state = (enum member_state)f->value;
		return f->value >= MEMBER_IN && f->value <= MEMBER_FORCED;
	case F_ROLE:
		r->role = (enum member_role)f->value;
		return f->value >= MEMBER_CORE && f->value <= MEMBER_REPLICANT;
	case F_JOINED:
		r->joined = f->value;
		return true;
	}
	return f->number > F_ADDRS;
}

int
member_row_decode(struct member_row *r, const void *bytes, size_t len)
{
	static const uint8_t	none[MEMBER_ID];
	struct wire_in		in;
	struct wire_field	f;
	int			rc;

	memset(r, 0, sizeof(*r));
	wire_in_init(&in, bytes, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (!(f.is_bytes ? get_bytes(r, &f) : get_number(r, &f)))
			return ERR_PROTO;
	if (rc < 0 || r->join == 0 || r->join == UINT64_MAX ||
	    r->state == 0 || r->role == 0 ||
	    id_is(r->uuid, none) || !member_name_is_valid(r->name))
		return ERR_PROTO;
	return 0;
}

static int
cmp_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

bool
is_later(const struct member_row *a, const struct member_row *b)
{
	return a->joined != b->joined ? a->joined > b->joined :
	    a->join > b->join;
}

/*
 * State first: what ended has ended, whatever is written of it elsewhere
 * meanwhile. One version is written once, so the bytes decide nothing but what
 * a faulty node did: alike everywhere.
 */
int
member_row_cmp(const struct member_row *a, const struct member_row *b)
{
	uint8_t	ab[MEMBER_ROW_MAX], bb[MEMBER_ROW_MAX];
	size_t	an, bn;
	int	rc;

	if ((rc = cmp_u64(a->state, b->state)) != 0 ||
	    (rc = cmp_u64(a->version.clock, b->version.clock)) != 0 ||
	    (rc = cmp_u64(a->version.node, b->version.node)) != 0)
		return rc;
	an = member_row_encode(a, ab, sizeof(ab));
	bn = member_row_encode(b, bb, sizeof(bb));
	if ((rc = memcmp(ab, bb, MIN(an, bn))) != 0)
		return rc;
	return cmp_u64(an, bn);
}

#include "topic/index.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/err.h"
#include "base/spread.h"
#include "base/util.h"

/*
 * Two tables of filters: plain ones by a hash of their whole text, wildcard ones
 * by a hash folded over their levels, so that the hash of "what this topic would
 * be under that shape" can be made from the hashes of the topic's levels
 * without building any text.
 */

struct shape {
	uint64_t	plus[INDEX_LEVELS_MAX / 64];	/* bit i: level i is + */
	uint16_t	levels;		/* after the anchor, without the # */
	bool		hash;		/* ends in # */
	uint32_t	nfilters;
};

struct anchor {
	uint16_t	 depth;
	uint16_t	 nshapes, cap;
	uint16_t	 prefix_len;	/* bytes of text, without the slash */
	struct shape	*shapes;	/* &one as long as that is enough */
	struct shape	 one;
	char		 prefix[];
};

struct index {
	uint64_t	     seed;
	struct index_limits  lim;
	struct spread	     plain, wild, anchors;
	size_t		     nsubs;
	uint32_t	     at_depth[INDEX_LEVELS_MAX + 1];	/* anchors */
	uint32_t	     depth_max;
	struct index_filter **found;
	size_t		     nfound, cap_found;
	uint64_t	     level_hash[INDEX_LEVELS_MAX + 1];
};

enum { CAP_LOG_MAX = 30 };		/* index_sub.own has as many bits */

#define HASH_PLUS	UINT64_C(0x9ae16a3b2f90404f)
#define HASH_HASH	UINT64_C(0xc3a5c85c97cb3127)

static inline uint64_t
fold(uint64_t h, uint64_t level)
{
	h = (h ^ level) * UINT64_C(0x9fb21c651e98df25);
	return h ^ h >> 32;
}

static inline uint64_t
hash_bytes(const struct index *ix, const char *s, size_t len)
{
	return XXH3_64bits_withSeed(s, len, ix->seed);
}

struct index *
index_new(uint64_t seed, const struct index_limits *lim)
{
	struct index *ix;

	if ((ix = calloc(1, sizeof(*ix))) == NULL)
		return NULL;
	ix->seed = seed;
	ix->lim = *lim;
	return ix;
}

void
index_set_limits(struct index *ix, const struct index_limits *lim)
{
	ix->lim = *lim;
}

static void
filter_free(struct index_filter *f)
{
	struct index_share *s = f->share, *next;

	for (; s != NULL && !f->is_group; s = next) {
		next = s->next;
		filter_free(s->group);
	}
	if (f->is_group)
		free(f->share);
	if (f->subs != &f->one)
		free(f->subs);
	free(f);
}

static void
anchor_free(struct anchor *a)
{
	if (a->shapes != &a->one)
		free(a->shapes);
	free(a);
}

static void
free_filters(struct spread *t)
{
	struct index_filter	*f;
	unsigned		 part = 0;
	size_t			 i = 0;

	while ((f = spread_next(t, &part, &i)) != NULL)
		filter_free(f);
	spread_fini(t);
}

void
index_free(struct index **pix)
{
	struct index	*ix = *pix;
	struct anchor	*a;
	unsigned	 part = 0;
	size_t		 i = 0;

	*pix = NULL;
	if (ix == NULL)
		return;
	free_filters(&ix->plain);
	free_filters(&ix->wild);
	while ((a = spread_next(&ix->anchors, &part, &i)) != NULL)
		anchor_free(a);
	spread_fini(&ix->anchors);
	free(ix->found);
	free(ix);
}

/* A filter's parts, as they are looked up. */
struct parts {
	bool		wild;
	uint64_t	hash;
	uint64_t	anchor_hash;
	uint16_t	depth;
	size_t		prefix_len;
	struct shape	shape;
};

static int
parts_of(const struct index *ix, const char *text, size_t len,
    struct parts *p)
{
	const char	*end = text + len, *s = text, *e;
	uint64_t	 h = ix->seed;
	uint16_t	 level = 0;

	memset(p, 0, sizeof(*p));
	if (memchr(text, '+', len) == NULL && memchr(text, '#', len) == NULL) {
		p->hash = hash_bytes(ix, text, len);
		return 0;
	}
	for (;; level++, s = e + 1) {
		if ((e = memchr(s, '/', (size_t)(end - s))) == NULL)
			e = end;
		if (e - s == 1 && *s == '#') {
			if (!p->wild) {
				p->wild = true;
				p->anchor_hash = h;
				p->depth = level;
				p->prefix_len = s > text ?
				    (size_t)(s - text) - 1 : 0;
			}
			p->shape.hash = true;
			h = fold(h, HASH_HASH);
			break;
		}
		if (level == INDEX_LEVELS_MAX)
			return ERR_FULL;
		if (e - s == 1 && *s == '+') {
			if (!p->wild) {
				p->wild = true;
				p->anchor_hash = h;
				p->depth = level;
				p->prefix_len = s > text ?
				    (size_t)(s - text) - 1 : 0;
			}
			p->shape.plus[p->shape.levels / 64] |=
			    UINT64_C(1) << p->shape.levels % 64;
			h = fold(h, HASH_PLUS);
		} else {
			h = fold(h, hash_bytes(ix, s, (size_t)(e - s)));
		}
		if (p->wild)
			p->shape.levels++;
		if (e == end)
			break;
	}
	p->hash = h;
	return 0;
}

static struct index_filter *
lookup(const struct index *ix, const struct parts *p, const char *text,
    size_t len)
{
	const struct spread *t = p->wild ? &ix->wild : &ix->plain;
	struct index_filter *f;
	size_t		     i;

	for (i = spread_first(t, p->hash);
	    (f = spread_at(t, p->hash, &i)) != NULL; i++)
		if (f->len == len && memcmp(f->text, text, len) == 0)
			return f;
	return NULL;
}

/* The group `name` of f; how many it has if there is none, for bounds. */
static struct index_filter *
share_find(const struct index_filter *f, const struct slice *name,
    unsigned *groups)
{
	struct index_share *s;

	*groups = 0;
	for (s = f->share; s != NULL; s = s->next, ++*groups)
		if (s->name_len == name->len &&
		    memcmp(s->name, name->data, name->len) == 0)
			return s->group;
	return NULL;
}

/* The filter, or that group of it. */
static struct index_filter *
find(const struct index *ix, const struct slice *name, const char *text,
    size_t len)
{
	struct index_filter	*f;
	struct parts		 p;
	unsigned		 groups;

	if (parts_of(ix, text, len, &p) < 0)
		return NULL;
	f = lookup(ix, &p, text, len);
	return f == NULL || name == NULL ? f : share_find(f, name, &groups);
}

static bool
same_shape(const struct shape *a, const struct shape *b)
{
	return a->levels == b->levels && a->hash == b->hash &&
	    memcmp(a->plus, b->plus, sizeof(a->plus)) == 0;
}

static struct anchor *
anchor_find(const struct index *ix, const struct parts *p, const char *text)
{
	struct anchor	*a;
	size_t		 i;

	for (i = spread_first(&ix->anchors, p->anchor_hash);
	    (a = spread_at(&ix->anchors, p->anchor_hash, &i)) != NULL; i++)
		if (a->depth == p->depth && a->prefix_len == p->prefix_len &&
		    memcmp(a->prefix, text, p->prefix_len) == 0)
			return a;
	return NULL;
}

static struct shape *
shape_find(const struct anchor *a, const struct shape *s)
{
	uint16_t i;

	for (i = 0; i < a->nshapes; i++)
		if (same_shape(&a->shapes[i], s))
			return &a->shapes[i];
	return NULL;
}

/* Is that f's anchor? There is no wildcard in a prefix, and behind f's one. */
static bool
stands_at(const struct index_filter *f, const struct anchor *a)
{
	size_t at = a->depth == 0 ? 0 : a->prefix_len + 1u;

	return f->wild && f->len > at &&
	    (f->text[at] == '+' || f->text[at] == '#') &&
	    (at == 0 || f->text[at - 1] == '/') &&
	    memcmp(f->text, a->prefix, a->prefix_len) == 0;
}

/* How many shapes this owner has at anchor a, and whether s is among them. */
static uint32_t
owner_shapes(const struct index *ix, const struct index_owner *o,
    const struct anchor *a, const struct shape *s, bool *has)
{
	struct shape	 seen[32];
	struct parts	 p;
	uint32_t	 n = 0, i, k;

	*has = false;
	/* From the newest: who subscribes to many of one kind has one there. */
	for (i = o->n; i-- > 0 && !*has && n < NELEM(seen);) {
		const struct index_filter *f = o->links[i].filter;

		if (!stands_at(f, a) || parts_of(ix, f->text, f->len, &p) < 0)
			continue;
		*has = same_shape(&p.shape, s);
		for (k = 0; k < n && !same_shape(&seen[k], &p.shape); k++)
			;
		if (k == n)
			seen[n++] = p.shape;
	}
	return n;
}

/* An array of `cap` elements: from `old`, or if that is NULL with the n that lie
 * at `one`. */
static void *
grow(void *old, const void *one, size_t n, size_t cap, size_t size)
{
	void *grown = realloc(old, cap * size);

	if (grown != NULL && old == NULL)
		memcpy(grown, one, n * size);
	return grown;
}

/* The anchor for p with one more filter counted in its shape. */
static int
anchor_hold(struct index *ix, const struct parts *p, const char *text)
{
	struct anchor	*a, *fresh = NULL;
	struct shape	*s, *grown;
	int		 rc;

	if ((a = anchor_find(ix, p, text)) == NULL) {
		if ((a = fresh = calloc(1, sizeof(*a) + p->prefix_len)) == NULL)
			return ERR_NOMEM;
		a->depth = p->depth;
		a->prefix_len = (uint16_t)p->prefix_len;
		memcpy(a->prefix, text, p->prefix_len);
		a->shapes = &a->one;
		a->cap = 1;
	}
	if ((s = shape_find(a, &p->shape)) == NULL) {
		rc = ERR_FULL;
		if (a->nshapes >= ix->lim.shapes_anchor)
			goto fail;
		rc = ERR_NOMEM;
		if (a->nshapes == a->cap) {
			uint16_t cap = (uint16_t)(a->cap * 2);

			grown = grow(a->shapes == &a->one ? NULL : a->shapes,
			    &a->one, a->nshapes, cap, sizeof(*grown));
			if (grown == NULL)
				goto fail;
			a->shapes = grown;
			a->cap = cap;
		}
		if (fresh != NULL && spread_add(&ix->anchors,
		    p->anchor_hash, a) < 0)
			goto fail;
		s = &a->shapes[a->nshapes++];
		*s = p->shape;
		s->nfilters = 0;
		if (fresh != NULL) {
			ix->at_depth[a->depth]++;
			if (a->depth > ix->depth_max)
				ix->depth_max = a->depth;
		}
	}
	s->nfilters++;
	return 0;

fail:
	if (fresh != NULL)
		anchor_free(fresh);
	return rc;
}

/* The anchor for p, which is there, with one filter less in its shape. */
static void
anchor_release(struct index *ix, const struct parts *p, const char *text)
{
	struct anchor	*a = anchor_find(ix, p, text);
	struct shape	*s = shape_find(a, &p->shape);

	if (--s->nfilters > 0)
		return;
	*s = a->shapes[--a->nshapes];
	if (a->nshapes > 0)
		return;
	spread_del(&ix->anchors, p->anchor_hash, a);
	ix->at_depth[a->depth]--;
	while (ix->depth_max > 0 && ix->at_depth[ix->depth_max] == 0)
		ix->depth_max--;
	anchor_free(a);
}

/* The text lies in what is padding behind the others: very many are short. */
static struct index_filter *
filter_alloc(const char *text, size_t len)
{
	size_t			 size = offsetof(struct index_filter, text) +
				     len + 1;
	struct index_filter	*f = calloc(1, MAX(size, sizeof(*f)));

	if (f == NULL)
		return NULL;
	f->subs = &f->one;
	f->len = (uint16_t)len;
	memcpy(f->text, text, len);
	return f;
}

static int
filter_new(struct index *ix, const struct parts *p, const char *text,
    size_t len, struct index_filter **out)
{
	struct index_filter	*f;
	int			 rc;

	if ((f = filter_alloc(text, len)) == NULL)
		return ERR_NOMEM;
	f->wild = p->wild;
	if (p->wild && (rc = anchor_hold(ix, p, text)) < 0)
		goto free_filter;
	if ((rc = spread_add(p->wild ? &ix->wild : &ix->plain, p->hash, f)) < 0)
		goto release_anchor;
	*out = f;
	return 0;

release_anchor:
	if (p->wild)
		anchor_release(ix, p, text);
free_filter:
	free(f);
	return rc;
}

/* One more group of f. */
static int
share_new(struct index_filter *f, const struct slice *name,
    struct index_filter **out)
{
	struct index_filter	*g;
	struct index_share	*s;

	g = filter_alloc(f->text, f->len);
	s = calloc(1, sizeof(*s) + name->len + 1);
	if (g == NULL || s == NULL) {
		free(g);
		free(s);
		return ERR_NOMEM;
	}
	g->is_group = true;
	g->wild = f->wild;
	g->share = s;
	s->group = g;
	s->base = f;
	s->name_len = (uint16_t)name->len;
	memcpy(s->name, name->data, name->len);
	s->next = f->share;
	f->share = s;
	*out = g;
	return 0;
}

static void
share_drop(struct index *ix, struct index_filter *g)
{
	struct index_filter	*f = g->share->base;
	struct index_share	**at;

	for (at = &f->share; *at != g->share; at = &(*at)->next)
		;
	*at = g->share->next;
	filter_free(g);
	if (f->nsubs == 0 && !f->dirty)
		index_filter_drop(ix, f);
}

void
index_filter_drop(struct index *ix, struct index_filter *f)
{
	struct parts p;

	if (f->is_group) {
		share_drop(ix, f);
		return;
	}
	if (f->share != NULL)
		return;
	(void)parts_of(ix, f->text, f->len, &p);
	if (f->wild) {
		spread_del(&ix->wild, p.hash, f);
		anchor_release(ix, &p, f->text);
	} else {
		spread_del(&ix->plain, p.hash, f);
	}
	filter_free(f);
}

/* Where owner stands among f's subscribers, searched on the shorter side. */
static struct index_sub *
sub_find(struct index_owner *o, struct index_filter *f)
{
	uint32_t i;

	if (o->n <= f->nsubs) {
		for (i = 0; i < o->n; i++)
			if (o->links[i].filter == f)
				return &f->subs[o->links[i].pos];
		return NULL;
	}
	for (i = 0; i < f->nsubs; i++)
		if (f->subs[i].owner == o)
			return &f->subs[i];
	return NULL;
}

const struct index_sub *
index_get(const struct index *ix, struct index_owner *o,
    const struct slice *name, const char *text, size_t len)
{
	struct index_filter *f = find(ix, name, text, len);

	return f == NULL ? NULL : sub_find(o, f);
}

bool
index_has(const struct index *ix, struct index_owner *o,
    const struct slice *name, const char *text, size_t len)
{
	return index_get(ix, o, name, text, len) != NULL;
}

struct index_filter *
index_find(const struct index *ix, const struct slice *name, const char *text,
    size_t len)
{
	return find(ix, name, text, len);
}

static int
link_add(struct index_owner *o, struct index_filter *f,
    const struct index_sub *opts)
{
	struct index_link	*links;
	struct index_sub	*subs;
	uint32_t		 cap;

	if (o->n == o->cap) {
		cap = o->cap + MAX(1, o->cap / 2);	/* most have few */
		if ((links = realloc(o->links, cap * sizeof(*links))) == NULL)
			return ERR_NOMEM;
		o->links = links;
		o->cap = cap;
	}
	if (f->nsubs >> f->cap_log > 0) {
		if (f->cap_log >= CAP_LOG_MAX || (subs = grow(f->subs ==
		    &f->one ? NULL : f->subs, &f->one, f->nsubs,
		    (size_t)2 << f->cap_log, sizeof(*subs))) == NULL)
			return ERR_NOMEM;
		f->subs = subs;
		f->cap_log++;
	}
	o->links[o->n].filter = f;
	o->links[o->n].pos = f->nsubs;
	f->subs[f->nsubs] = *opts;
	f->subs[f->nsubs].owner = o;
	f->subs[f->nsubs].own = o->n;
	o->n++;
	f->nsubs++;
	return 0;
}

/* Forget what failed before it had a subscriber. */
static void
drop_unused(struct index *ix, struct index_filter *f)
{
	if (f->nsubs == 0 && !f->told && !f->dirty)
		index_filter_drop(ix, f);
}

static int
subscribe(struct index *ix, struct index_owner *o, const struct slice *name,
    const char *text, size_t len, const struct index_sub *opts,
    struct index_filter **out)
{
	struct index_filter	*f, *base;
	struct index_sub	*sub;
	struct parts		 p;
	struct anchor		*a;
	unsigned		 groups = 0;
	bool			 has;
	int			 rc;

	if ((rc = parts_of(ix, text, len, &p)) < 0)
		return rc;
	f = base = lookup(ix, &p, text, len);
	if (f != NULL && name != NULL)
		f = share_find(base, name, &groups);
	if (f != NULL && (sub = sub_find(o, f)) != NULL) {
		sub->id = opts->id;
		sub->qos = opts->qos;
		sub->no_local = opts->no_local;
		sub->rap = opts->rap;
		sub->rh = opts->rh;
		*out = f;
		return 0;
	}
	if (groups >= INDEX_GROUPS_MAX || (p.wild &&
	    (a = anchor_find(ix, &p, text)) != NULL &&
	    owner_shapes(ix, o, a, &p.shape, &has) >= ix->lim.shapes_owner &&
	    !has))
		return ERR_FULL;
	if (base == NULL && (rc = filter_new(ix, &p, text, len, &base)) < 0)
		return rc;
	if (name == NULL)
		f = base;
	else if (f == NULL && (rc = share_new(base, name, &f)) < 0) {
		drop_unused(ix, base);
		return rc;
	}
	if ((rc = link_add(o, f, opts)) < 0) {
		drop_unused(ix, f);
		return rc;
	}
	ix->nsubs++;
	*out = f;
	return 1;
}

int
index_subscribe(struct index *ix, struct index_owner *o, const char *text,
    size_t len, const struct index_sub *opts, struct index_filter **out)
{
	return subscribe(ix, o, NULL, text, len, opts, out);
}

int
index_share(struct index *ix, struct index_owner *o, const struct slice *name,
    const char *text, size_t len, const struct index_sub *opts,
    struct index_filter **out)
{
	return subscribe(ix, o, name, text, len, opts, out);
}

/* Both arrays close their gap with their last element. */
static void
unlink_sub(struct index *ix, struct index_owner *o, uint32_t own)
{
	struct index_filter	*f = o->links[own].filter;
	uint32_t		 pos = o->links[own].pos;
	struct index_sub	*moved;
	struct index_link	*last;

	if (pos != --f->nsubs) {
		moved = &f->subs[pos];
		*moved = f->subs[f->nsubs];
		moved->owner->links[moved->own].pos = pos;
		if (f->is_group && f->share->cursor == f->nsubs)
			f->share->cursor = pos;
	}
	if (own != --o->n) {
		last = &o->links[own];
		*last = o->links[o->n];
		last->filter->subs[last->pos].own = own;
	}
	if (o->n == 0) {
		free(o->links);
		o->links = NULL;
		o->cap = 0;
	}
	ix->nsubs--;
}

static int
unsubscribe(struct index *ix, struct index_owner *o, const struct slice *name,
    const char *text, size_t len, struct index_filter **out)
{
	struct index_filter	*f = find(ix, name, text, len);
	struct index_sub	*sub;

	if (f == NULL || (sub = sub_find(o, f)) == NULL)
		return ERR_NOTFOUND;
	unlink_sub(ix, o, sub->own);
	*out = f;
	return 0;
}

int
index_unsubscribe(struct index *ix, struct index_owner *o, const char *text,
    size_t len, struct index_filter **out)
{
	return unsubscribe(ix, o, NULL, text, len, out);
}

int
index_unshare(struct index *ix, struct index_owner *o,
    const struct slice *name, const char *text, size_t len,
    struct index_filter **out)
{
	return unsubscribe(ix, o, name, text, len, out);
}

int
index_unsubscribe_one(struct index *ix, struct index_owner *o,
    struct index_filter **out)
{
	if (o->n == 0)
		return ERR_NOTFOUND;
	*out = o->links[o->n - 1].filter;
	unlink_sub(ix, o, o->n - 1);
	return 0;
}

int
index_place(struct index_filter *f, struct index_owner *o, uint32_t pos)
{
	struct index_sub	*sub = sub_find(o, f), was;

	if (sub == NULL || pos >= f->nsubs)
		return ERR_NOTFOUND;
	was = f->subs[pos];
	was.owner->links[was.own].pos = (uint32_t)(sub - f->subs);
	o->links[sub->own].pos = pos;
	f->subs[pos] = *sub;
	*sub = was;
	return 0;
}

static int
found_add(struct index *ix, struct index_filter *f)
{
	struct index_filter	**grown;
	size_t			  cap;

	if (ix->nfound == ix->cap_found) {
		cap = ix->cap_found == 0 ? 64 : ix->cap_found * 2;
		if ((grown = realloc(ix->found, cap * sizeof(f))) == NULL)
			return ERR_NOMEM;
		ix->found = grown;
		ix->cap_found = cap;
	}
	ix->found[ix->nfound++] = f;
	return 0;
}

/* Does the wildcard filter f, found by hash, really match? */
static bool
really_matches(const struct index_filter *f, const char *topic, size_t len)
{
	const char	*s = f->text, *se = s + f->len;
	const char	*t = topic, *te = topic + len;

	while (s < se) {
		if (*s == '#')
			return true;
		if (*s == '+') {
			if ((t = memchr(t, '/', (size_t)(te - t))) == NULL)
				t = te;
			s++;
		} else {
			while (s < se && *s != '/') {
				if (t == te || *t != *s)
					return false;
				s++;
				t++;
			}
		}
		if (s == se)
			return t == te;
		/* s is at a slash: the topic must be too, or end before `#`. */
		if (t == te)
			return se - s == 2 && s[1] == '#';
		if (*t != '/')
			return false;
		s++;
		t++;
	}
	return t == te;
}

/* Has f this shape below its anchor? Another one of the same hash that matches
 * as well is found by its own. */
static bool
is_shaped(const struct index_filter *f, const struct anchor *a,
    const struct shape *sh)
{
	const char	*s = f->text + a->prefix_len, *end = f->text + f->len;
	uint32_t	 k = 0;

	if (f->len <= a->prefix_len ||
	    memcmp(f->text, a->prefix, a->prefix_len) != 0)
		return false;
	s += a->depth > 0;		/* the slash behind the prefix */
	for (; s < end && *s != '#'; k++, s++) {
		if (k >= sh->levels || (*s == '+') !=
		    (sh->plus[k / 64] >> k % 64 & 1))
			return false;
		if ((s = memchr(s, '/', (size_t)(end - s))) == NULL)
			return ++k == sh->levels && !sh->hash;
	}
	/* At `#`, or behind a slash that ends it: an empty level. */
	return s < end ? sh->hash && k == sh->levels :
	    !sh->hash && k + 1 == sh->levels;
}

static int
match_anchor(struct index *ix, const struct anchor *a, uint64_t hash,
    const char *topic, size_t len, uint32_t nlevels)
{
	struct index_filter	*f;
	uint32_t		 rest = nlevels - a->depth, k, n;
	uint64_t		 h;
	size_t			 i;
	uint16_t		 s;
	int			 rc;

	for (s = 0; s < a->nshapes; s++) {
		const struct shape *sh = &a->shapes[s];

		if (sh->hash ? rest < sh->levels : rest != sh->levels)
			continue;
		h = hash;
		for (k = 0, n = sh->levels; k < n; k++)
			h = fold(h, sh->plus[k / 64] >> k % 64 & 1 ?
			    HASH_PLUS : ix->level_hash[a->depth + k]);
		if (sh->hash)
			h = fold(h, HASH_HASH);
		for (i = spread_first(&ix->wild, h);
		    (f = spread_at(&ix->wild, h, &i)) != NULL; i++)
			if (really_matches(f, topic, len) &&
			    LIKELY(is_shaped(f, a, sh)) && (rc = found_add(ix, f)) < 0)
				return rc;
	}
	return 0;
}

static int
match_wild(struct index *ix, const char *topic, size_t len)
{
	const char	*s = topic, *end = topic + len, *e;
	struct anchor	*a;
	uint64_t	 h = ix->seed;
	uint32_t	 nlevels = 0, d;
	size_t		 i;
	int		 rc;

	for (;; s = e + 1) {
		if (nlevels == INDEX_LEVELS_MAX)
			return 0;	/* refused as a topic: nothing matches */
		if ((e = memchr(s, '/', (size_t)(end - s))) == NULL)
			e = end;
		ix->level_hash[nlevels++] = hash_bytes(ix, s, (size_t)(e - s));
		if (e == end)
			break;
	}
	for (d = 0; d <= nlevels && d <= ix->depth_max; d++) {
		/* [MQTT-4.7.2-1]: no leading wildcard for $ topics. */
		if (ix->at_depth[d] > 0 && !(d == 0 && *topic == '$'))
			for (i = spread_first(&ix->anchors, h);
			    (a = spread_at(&ix->anchors, h, &i)) != NULL; i++)
				if (a->depth == d && (rc = match_anchor(ix, a,
				    h, topic, len, nlevels)) < 0)
					return rc;
		if (d < nlevels)
			h = fold(h, ix->level_hash[d]);
	}
	return 0;
}

int
index_match(struct index *ix, const char *topic, size_t len,
    struct index_filter ***out)
{
	struct index_filter	*f;
	uint64_t		 h;
	size_t			 i;
	int			 rc;

	ix->nfound = 0;
	if (ix->plain.n > 0) {
		h = hash_bytes(ix, topic, len);
		for (i = spread_first(&ix->plain, h);
		    (f = spread_at(&ix->plain, h, &i)) != NULL; i++) {
			if (f->len == len && memcmp(f->text, topic, len) == 0) {
				if ((rc = found_add(ix, f)) < 0)
					return rc;
				break;
			}
		}
	}
	if (ix->wild.n > 0 && len > 0 && (rc = match_wild(ix, topic, len)) < 0)
		return rc;
	*out = ix->found;
	return (int)ix->nfound;
}

static int
each_of(struct index_filter *f, int (*each)(void *, struct index_filter *),
    void *ctx)
{
	struct index_share *s;

	if (each(ctx, f))
		return 1;
	for (s = f->share; s != NULL; s = s->next)
		if (each(ctx, s->group))
			return 1;
	return 0;
}

static int
each_in(const struct spread *t, int (*each)(void *, struct index_filter *),
    void *ctx)
{
	struct index_filter	*f;
	unsigned		 part = 0;
	size_t			 i = 0;

	while ((f = spread_next(t, &part, &i)) != NULL)
		if (each_of(f, each, ctx))
			return 1;
	return 0;
}

void
index_each(struct index *ix, int (*each)(void *, struct index_filter *),
    void *ctx)
{
	if (!each_in(&ix->plain, each, ctx))
		(void)each_in(&ix->wild, each, ctx);
}

/*
 * The spot of a filter is which table it is in, its part of that, and its key
 * there. Parts grow and shrink, but keys stay in the order of the cells they
 * are due to: a page is all keys that are due to some cells in a row.
 */
enum { PAGE_CELLS = 16 };

uint64_t
index_spot(const struct index *ix, const struct index_filter *f)
{
	struct parts p;

	(void)parts_of(ix, f->text, f->len, &p);
	return (uint64_t)p.wild << 40 | p.hash >> 56 << 32 |
	    spread_key(p.hash);
}

/* The items of p whose keys are from..to-1; that is all of cells' from `cell`
 * up to cell `end`. They lie there or behind, up to the first free cell. */
static void
visit(const struct spread_part *p, uint64_t from, uint64_t to, size_t cell,
    size_t end, int (*each)(void *, struct index_filter *), void *ctx)
{
	const uint32_t	*keys = spread_keys(p);
	size_t		 n, i = cell;

	for (n = 0; n < p->cap; n++, i = i + 1 < p->cap ? i + 1 : 0) {
		if (keys[i] == 0 && cell + n >= end)
			return;
		if (keys[i] != 0 && keys[i] >= from && keys[i] < to &&
		    each_of(p->items[i], each, ctx))
			return;
	}
}

void
index_page(struct index *ix, uint64_t *at,
    int (*each)(void *, struct index_filter *), void *ctx)
{
	const struct spread_part	*p;
	uint64_t			 from, to;
	size_t				 cell, end;

	for (; *at < INDEX_END; *at = ((*at >> 32) + 1) << 32) {
		p = &(*at >> 40 == 0 ? &ix->plain : &ix->wild)->part[*at >> 32 &
		    (SPREAD_PARTS - 1)];
		if (p->n == 0)
			continue;
		from = *at & UINT32_MAX;
		cell = spread_home(p, (uint32_t)from);
		end = MIN(cell + PAGE_CELLS, (size_t)p->cap);
		/* The smallest key that is due to cell `end`. */
		to = (((uint64_t)end << 32) + p->cap - 1) / p->cap;
		*at += to - from;
		visit(p, from, to, cell, end, each, ctx);
		return;
	}
}

size_t
index_nfilters(const struct index *ix)
{
	return ix->plain.n + ix->wild.n;
}

size_t
index_nsubs(const struct index *ix)
{
	return ix->nsubs;
}

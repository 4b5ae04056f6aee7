/*
 * Lookup by filter. We stand at a message, hold its topic against the filter
 * and, if that does not fit, know from where the two part the next topic in
 * order that could. Nothing is remembered but where we stand, so a page may end
 * anywhere.
 */
#include "retain/internal.h"

enum verdict {
	HIT_ONE,	/* and nothing under it */
	HIT_ALL,	/* and all under it: '#' */
	MISS,
	DONE		/* nor anything behind it */
};

/* A topic held against a filter. */
struct look {
	const uint8_t	*filter;
	size_t		 flen;
	bool		 all_dollar;
	const uint8_t	*topic;		/* of the message we stand at */
	bool		 plus;		/* a '+' matched a level ... */
	size_t		 plus_end;	/* ... that ends here, the last one */
};

/* --- The key: where to look next -------------------------------------- */

/* What is cut off was beyond every topic there can be. */
static void
key_append(struct retain *r, const uint8_t *s, size_t n)
{
	n = MIN(n, sizeof(r->key) - r->key_len);
	if (n > 0)
		memcpy(r->key + r->key_len, s, n);
	r->key_len += n;
}

static void
key_set(struct retain *r, const uint8_t *s, size_t n)
{
	r->key_len = 0;
	key_append(r, s, n);
}

/*
 * Append the levels of the filter from `at` on, where a level begins, as far as
 * they are literal: what follows '+' begins with a slash at least, while '#'
 * also matches what is before its slash.
 */
static void
key_append_literals(struct retain *r, const struct look *l, size_t at)
{
	size_t i = at;

	while (i < l->flen && l->filter[i] != '+' && l->filter[i] != '#')
		i++;
	if (i < l->flen && l->filter[i] == '#' && i > at)
		i--;
	key_append(r, l->filter + at, i - at);
}

/*
 * Nothing more can fit in the level that the last '+' matched: the key becomes
 * the first topic that has another one there. False if there is no '+'.
 */
static bool
key_past_plus(struct retain *r, const struct look *l)
{
	/* Lowest but '/', and in no topic [MQTT-1.5.4-2]. */
	static const uint8_t next = 0;

	if (!l->plus)
		return false;
	key_set(r, l->topic, l->plus_end);
	key_append(r, &next, 1);
	return true;
}

/* --- One topic -------------------------------------------------------- */

static bool
level_ends(const uint8_t *s, size_t len, size_t at)
{
	return at == len || s[at] == '/';
}

/* After a MISS the key is set. */
static enum verdict
look_at(struct retain *r, struct look *l, const struct retain_entry *e)
{
	const uint8_t	*f = l->filter, *t = e->bytes;
	size_t		 flen = l->flen, tlen = e->topic_len, fi = 0, ti = 0;
	size_t		 fbegin, tbegin;
	bool		 fend, tend;

	l->topic = t;
	l->plus = false;
	if (t[0] == '$' && (f[0] == '+' || f[0] == '#') && !l->all_dollar) {
		key_set(r, (const uint8_t *)"%", 1);	/* '$' + 1 */
		return MISS;
	}
	for (;; fi++, ti++) {
		/* Both stand at the beginning of a level. */
		if (fi < flen && f[fi] == '#')
			return HIT_ALL;
		fbegin = fi;
		tbegin = ti;
		if (fi < flen && f[fi] == '+') {
			fi++;
			while (!level_ends(t, tlen, ti))
				ti++;
			l->plus = true;
			l->plus_end = ti;
		} else {
			while (fi < flen && ti < tlen && f[fi] == t[ti] &&
			    f[fi] != '/') {
				fi++;
				ti++;
			}
			fend = level_ends(f, flen, fi);
			tend = level_ends(t, tlen, ti);
			if (!fend && (tend || t[ti] < f[fi])) {
				/* Ours comes later in this place. */
				key_set(r, t, tbegin);
				key_append_literals(r, l, fbegin);
				return MISS;
			}
			if (!fend || !tend)
				return key_past_plus(r, l) ? MISS : DONE;
		}
		/* Both stand at the end of a level. */
		if (fi == flen) {
			if (ti == tlen)
				return HIT_ONE;
			return key_past_plus(r, l) ? MISS : DONE;
		}
		if (ti == tlen) {
			if (flen - fi == 2 && f[fi + 1] == '#')
				return HIT_ALL;
			key_set(r, t, tlen);
			key_append(r, (const uint8_t *)"/", 1);
			key_append_literals(r, l, fi + 1);
			return MISS;
		}
	}
}

/* --- One page --------------------------------------------------------- */

struct walk {
	const struct retain_query *q;
	bool			 (*each)(void *, const struct retain_msg *,
				    uint32_t);
	void			  *ctx;
	struct retain_page	  *page;
};

/* False if e must wait for the next page. */
static bool
give(struct walk *w, const struct retain_entry *e)
{
	struct retain_page	*page = w->page;
	struct retain_msg	 m;
	uint32_t		 left;
	size_t			 n = entry_bytes(e);

	if ((left = retain_entry_left(e, w->q->now_ms)) == 0)
		return true;
	if (page->messages >= MAX(w->q->max_messages, 1u) ||
	    (page->messages > 0 && page->bytes + n > w->q->max_bytes))
		return false;
	retain_entry_msg(e, &m);
	if (!w->each(w->ctx, &m, left))
		return false;
	page->messages++;
	page->bytes += n;
	return true;
}

static void
end_page(struct retain *r, struct retain_page *page)
{
	page->more = true;
	page->next = (struct slice){ r->key, r->key_len };
}

void
retain_match(struct retain *r, const struct retain_query *q,
    bool (*each)(void *ctx, const struct retain_msg *m, uint32_t expiry_s),
    void *ctx, struct retain_page *page)
{
	struct walk		 w = { q, each, ctx, page };
	struct look		 l = { .filter = q->filter.data,
				    .flen = q->filter.len,
				    .all_dollar = q->all_dollar };
	struct retain_place	 at;
	struct retain_entry	*e;
	enum verdict		 v;

	*page = (struct retain_page){ .more = false };
	if (l.flen == 0)
		return;
	if (q->from.len == 0) {
		r->key_len = 0;
		key_append_literals(r, &l, 0);
	} else {
		/* Perhaps it is our own key. */
		r->key_len = MIN(q->from.len, sizeof(r->key));
		memmove(r->key, q->from.data, r->key_len);
	}
	at = retain_tree_seek(&r->tree, r->key, r->key_len);
	while ((e = retain_tree_at(&at)) != NULL) {
		if (page->steps >= MAX(q->max_steps, 1u)) {
			key_set(r, e->bytes, e->topic_len);
			end_page(r, page);
			return;
		}
		page->steps += 1u + e->topic_len / 1024u;
		v = look_at(r, &l, e);
		if ((v == HIT_ONE || v == HIT_ALL) && !give(&w, e)) {
			key_set(r, e->bytes, e->topic_len);
			end_page(r, page);
			return;
		}
		if (v == DONE || (v == HIT_ONE && !key_past_plus(r, &l)))
			return;
		retain_tree_next(&at);
		if (v != HIT_ALL)
			at = retain_tree_seek_on(&r->tree, at, r->key,
			    r->key_len);
	}
}

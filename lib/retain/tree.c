#include "retain/tree.h"

#include <assert.h>
#include <stdlib.h>
#include "base/err.h"

/*
 * A full node is split on the way down, so adding never has to go back up and a
 * failure leaves a tree that is merely split already. Deleting joins a node
 * with a neighbour when both together leave some room; it never borrows, for
 * that would need a new key, that is memory. So a node may become very small
 * beside full neighbours, and even empty if it has none; readers step over
 * that.
 *
 * Keys between children are copies, cut after the first byte that tells: they
 * stay right when the message they were made from goes.
 */
enum {
	WIDTH = 64,			/* messages of a leaf, children */
	JOINED = WIDTH * 3 / 4		/* most of a node made from two */
};

struct key {
	uint32_t	len;
	uint8_t		bytes[];
};

struct retain_node {
	bool		is_leaf;
	uint16_t	n;		/* messages or children */
};

struct leaf {
	struct retain_node   node;
	struct leaf	    *next;
	struct retain_entry *entries[WIDTH];
};

/* All under kids[i] < keys[i] <= all under kids[i + 1]. */
struct inner {
	struct retain_node  node;
	struct key	   *keys[WIDTH - 1];
	struct retain_node *kids[WIDTH];
};

static struct leaf *
as_leaf(struct retain_node *n)
{
	assert(n->is_leaf);
	return CONTAINER_OF(n, struct leaf, node);
}

static struct inner *
as_inner(struct retain_node *n)
{
	assert(!n->is_leaf);
	return CONTAINER_OF(n, struct inner, node);
}

/* --- Order ------------------------------------------------------------ */

/* How many bytes of n are the same. */
static size_t
same_bytes(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint64_t x, y;
	size_t	 i;

	for (i = 0; i + 8 <= n; i += 8) {
		memcpy(&x, a + i, 8);
		memcpy(&y, b + i, 8);
		if (x != y)
			break;
	}
	while (i < n && a[i] == b[i])
		i++;
	return i;
}

int
retain_order(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)
{
	size_t n = MIN(alen, blen), i = same_bytes(a, b, n);

	if (i == n)
		return alen < blen ? -1 : alen > blen;
	if (a[i] == '/')
		return -1;
	if (b[i] == '/')
		return 1;
	return a[i] < b[i] ? -1 : 1;
}

static int
order_entry(const struct retain_entry *e, const uint8_t *key, size_t len)
{
	return retain_order(e->bytes, e->topic_len, key, len);
}

/* The child under which key is or would be. */
static unsigned
child_of(const struct inner *in, const uint8_t *key, size_t len)
{
	unsigned lo = 0, hi = in->node.n - 1u, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (retain_order(in->keys[mid]->bytes, in->keys[mid]->len,
		    key, len) <= 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The first message of the leaf, from lo on, that is not before key. */
static unsigned
first_in(const struct leaf *l, unsigned lo, const uint8_t *key, size_t len)
{
	unsigned hi = l->node.n, mid;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		if (order_entry(l->entries[mid], key, len) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* --- Making and freeing ----------------------------------------------- */

static struct leaf *
leaf_new(void)
{
	struct leaf *l;

	if ((l = calloc(1, sizeof(*l))) != NULL)
		l->node.is_leaf = true;
	return l;
}

static struct inner *
inner_new(void)
{
	return calloc(1, sizeof(struct inner));
}

/* The shortest key that is above a and not above b. */
static struct key *
key_between(const struct retain_entry *a, const struct retain_entry *b)
{
	size_t		 n = MIN(a->topic_len, b->topic_len);
	struct key	*k;

	n = same_bytes(a->bytes, b->bytes, n) + 1;
	assert(n <= b->topic_len);
	if ((k = malloc(sizeof(*k) + n)) != NULL) {
		k->len = (uint32_t)n;
		memcpy(k->bytes, b->bytes, n);
	}
	return k;
}

/* The tree is a handful of levels deep. */
static void
free_under(struct retain_node *n)
{
	struct inner	*in;
	struct leaf	*l;
	unsigned	 i;

	if (n->is_leaf) {
		l = as_leaf(n);
		for (i = 0; i < n->n; i++)
			free(l->entries[i]);
		free(l);
		return;
	}
	in = as_inner(n);
	for (i = 0; i < n->n; i++) {
		free_under(in->kids[i]);
		if (i > 0)
			free(in->keys[i - 1]);
	}
	free(in);
}

int
retain_tree_init(struct retain_tree *t)
{
	struct leaf *l;

	if ((l = leaf_new()) == NULL)
		return ERR_NOMEM;
	t->root = &l->node;
	return 0;
}

void
retain_tree_fini(struct retain_tree *t)
{
	if (t->root != NULL)
		free_under(t->root);
	t->root = NULL;
}

/* --- Looking ---------------------------------------------------------- */

static struct leaf *
leaf_of(const struct retain_tree *t, const uint8_t *key, size_t len)
{
	struct retain_node	*n = t->root;
	struct inner		*in;

	while (!n->is_leaf) {
		in = as_inner(n);
		n = in->kids[child_of(in, key, len)];
	}
	return as_leaf(n);
}

struct retain_entry **
retain_tree_find(const struct retain_tree *t, const uint8_t *topic, size_t len)
{
	struct leaf	*l = leaf_of(t, topic, len);
	unsigned	 i = first_in(l, 0, topic, len);

	if (i == l->node.n || order_entry(l->entries[i], topic, len) != 0)
		return NULL;
	return &l->entries[i];
}

struct retain_place
retain_tree_seek(const struct retain_tree *t, const uint8_t *key, size_t len)
{
	struct leaf *l = leaf_of(t, key, len);

	return (struct retain_place){ &l->node, first_in(l, 0, key, len) };
}

struct retain_place
retain_tree_seek_on(const struct retain_tree *t, struct retain_place from,
    const uint8_t *key, size_t len)
{
	const struct leaf *l = CONTAINER_OF(from.leaf, struct leaf, node);

	/* Often it is the very next one. */
	if (from.i < l->node.n &&
	    order_entry(l->entries[from.i], key, len) >= 0)
		return from;
	if (l->node.n == 0 ||
	    order_entry(l->entries[l->node.n - 1], key, len) < 0)
		return retain_tree_seek(t, key, len);
	from.i = first_in(l, from.i, key, len);
	return from;
}

struct retain_entry *
retain_tree_at(struct retain_place *p)
{
	const struct leaf *l = CONTAINER_OF(p->leaf, struct leaf, node);

	while (p->i >= l->node.n) {
		if (l->next == NULL)
			return NULL;
		l = l->next;
		p->leaf = &l->node;
		p->i = 0;
	}
	return l->entries[p->i];
}

/* --- Adding ----------------------------------------------------------- */

/* Make room in `in` for a key and a child after kids[i]. */
static void
open_gap(struct inner *in, unsigned i)
{
	unsigned n = in->node.n;

	memmove(&in->keys[i + 1], &in->keys[i],
	    (n - 1 - i) * sizeof(struct key *));
	memmove(&in->kids[i + 2], &in->kids[i + 1],
	    (n - 1 - i) * sizeof(struct retain_node *));
	in->node.n++;
}

static int
split_leaf(struct inner *parent, unsigned i)
{
	struct leaf	*l = as_leaf(parent->kids[i]), *right;
	struct key	*k;
	unsigned	 half = WIDTH / 2;

	if ((right = leaf_new()) == NULL)
		return ERR_NOMEM;
	if ((k = key_between(l->entries[half - 1], l->entries[half])) == NULL) {
		free(right);
		return ERR_NOMEM;
	}
	right->node.n = (uint16_t)(WIDTH - half);
	memcpy(right->entries, &l->entries[half],
	    right->node.n * sizeof(struct retain_entry *));
	right->next = l->next;
	l->next = right;
	l->node.n = (uint16_t)half;
	open_gap(parent, i);
	parent->keys[i] = k;
	parent->kids[i + 1] = &right->node;
	return 0;
}

static int
split_inner(struct inner *parent, unsigned i)
{
	struct inner	*in = as_inner(parent->kids[i]), *right;
	unsigned	 half = WIDTH / 2;

	if ((right = inner_new()) == NULL)
		return ERR_NOMEM;
	right->node.n = (uint16_t)(WIDTH - half);
	memcpy(right->kids, &in->kids[half],
	    right->node.n * sizeof(struct retain_node *));
	memcpy(right->keys, &in->keys[half],
	    (right->node.n - 1u) * sizeof(struct key *));
	in->node.n = (uint16_t)half;
	open_gap(parent, i);
	parent->keys[i] = in->keys[half - 1];
	parent->kids[i + 1] = &right->node;
	return 0;
}

static int
split(struct inner *parent, unsigned i)
{
	return parent->kids[i]->is_leaf ? split_leaf(parent, i) :
	    split_inner(parent, i);
}

static int
grow_root(struct retain_tree *t)
{
	struct inner	*root;
	int		 rc;

	if ((root = inner_new()) == NULL)
		return ERR_NOMEM;
	root->kids[0] = t->root;
	root->node.n = 1;
	if ((rc = split(root, 0)) < 0) {
		free(root);
		return rc;
	}
	t->root = &root->node;
	return 0;
}

int
retain_tree_add(struct retain_tree *t, struct retain_entry *e)
{
	struct retain_node	*n;
	struct inner		*in;
	struct leaf		*l;
	unsigned		 i;
	int			 rc;

	if (t->root->n == WIDTH && (rc = grow_root(t)) < 0)
		return rc;
	for (n = t->root; !n->is_leaf; n = in->kids[i]) {
		in = as_inner(n);
		i = child_of(in, e->bytes, e->topic_len);
		if (in->kids[i]->n < WIDTH)
			continue;
		if ((rc = split(in, i)) < 0)
			return rc;
		i = child_of(in, e->bytes, e->topic_len);
	}
	l = as_leaf(n);
	i = first_in(l, 0, e->bytes, e->topic_len);
	memmove(&l->entries[i + 1], &l->entries[i],
	    (n->n - i) * sizeof(struct retain_entry *));
	l->entries[i] = e;
	n->n++;
	return 0;
}

/* --- Deleting --------------------------------------------------------- */

/* Make kids[i] and kids[i + 1] one. */
static void
join(struct inner *parent, unsigned i)
{
	struct retain_node	*a = parent->kids[i], *b = parent->kids[i + 1];
	struct inner		*left, *right;
	struct leaf		*lleft, *lright;
	unsigned		 rest = parent->node.n - 2u - i;

	if (a->is_leaf) {
		lleft = as_leaf(a);
		lright = as_leaf(b);
		memcpy(&lleft->entries[a->n], lright->entries,
		    b->n * sizeof(struct retain_entry *));
		lleft->next = lright->next;
		a->n = (uint16_t)(a->n + b->n);
		free(parent->keys[i]);
		free(lright);
	} else {
		left = as_inner(a);
		right = as_inner(b);
		left->keys[a->n - 1] = parent->keys[i];
		memcpy(&left->keys[a->n], right->keys,
		    (b->n - 1u) * sizeof(struct key *));
		memcpy(&left->kids[a->n], right->kids,
		    b->n * sizeof(struct retain_node *));
		a->n = (uint16_t)(a->n + b->n);
		free(right);
	}
	memmove(&parent->keys[i], &parent->keys[i + 1],
	    rest * sizeof(struct key *));
	memmove(&parent->kids[i + 1], &parent->kids[i + 2],
	    rest * sizeof(struct retain_node *));
	parent->node.n--;
}

static void
join_if_small(struct inner *in, unsigned i)
{
	unsigned n = in->kids[i]->n;

	if (n >= WIDTH / 2)
		return;
	if (i > 0 && in->kids[i - 1]->n + n <= JOINED)
		join(in, i - 1);
	else if (i + 1u < in->node.n && in->kids[i + 1]->n + n <= JOINED)
		join(in, i);
}

static void
del_under(struct retain_node *n, const struct retain_entry *e)
{
	struct inner	*in;
	struct leaf	*l;
	unsigned	 i;

	if (!n->is_leaf) {
		in = as_inner(n);
		i = child_of(in, e->bytes, e->topic_len);
		del_under(in->kids[i], e);
		join_if_small(in, i);
		return;
	}
	l = as_leaf(n);
	i = first_in(l, 0, e->bytes, e->topic_len);
	assert(i < n->n && l->entries[i] == e);
	memmove(&l->entries[i], &l->entries[i + 1],
	    (n->n - 1u - i) * sizeof(struct retain_entry *));
	n->n--;
}

void
retain_tree_del(struct retain_tree *t, const struct retain_entry *e)
{
	struct inner *root;

	del_under(t->root, e);
	while (!t->root->is_leaf && t->root->n == 1) {
		root = as_inner(t->root);
		t->root = root->kids[0];
		free(root);
	}
}

/* --- For tests -------------------------------------------------------- */

struct check {
	const struct leaf *next;	/* the one that must come next */
	unsigned	   leaves;	/* so far */
	bool		   ok;
};

/* What is under n is in [lo, hi), NULL: no bound. */
static unsigned
check_under(struct check *c, struct retain_node *n, const struct key *lo,
    const struct key *hi)
{
	struct retain_entry	*e;
	struct inner		*in;
	struct leaf		*l;
	unsigned		 i, depth = 0, d;

	if (n->n > WIDTH)
		c->ok = false;
	if (n->is_leaf) {
		l = as_leaf(n);
		if (c->leaves++ > 0 && c->next != l)
			c->ok = false;
		c->next = l->next;
		for (i = 0; i < n->n; i++) {
			e = l->entries[i];
			if ((lo && order_entry(e, lo->bytes, lo->len) < 0) ||
			    (hi && order_entry(e, hi->bytes, hi->len) >= 0) ||
			    (i > 0 && order_entry(l->entries[i - 1], e->bytes,
			    e->topic_len) >= 0))
				c->ok = false;
		}
		return 1;
	}
	in = as_inner(n);
	if (n->n == 0)
		c->ok = false;
	for (i = 0; i < n->n; i++) {
		d = check_under(c, in->kids[i], i > 0 ? in->keys[i - 1] : lo,
		    i + 1u < n->n ? in->keys[i] : hi);
		if (i > 0 && d != depth)
			c->ok = false;
		depth = d;
	}
	return depth + 1;
}

bool
retain_tree_is_sound(const struct retain_tree *t, unsigned *leaves)
{
	struct check c = { .ok = true };

	check_under(&c, t->root, NULL, NULL);
	if (leaves != NULL)
		*leaves = c.leaves;
	return c.ok && c.next == NULL;
}

/*
 * tree.h: a B+ tree of messages in the order of their topics. Within
 * lib/retain.
 *
 * The order is level by level: '/' sorts below every other byte and an end
 * below '/', so a topic is followed at once by all that is under it, and all
 * that begins with the same levels lies together.
 */
#ifndef RETAIN_TREE_H
#define RETAIN_TREE_H

#include "retain/entry.h"

struct retain_node;

struct retain_tree {
	struct retain_node *root;
};

/* A place in the tree, void after a change of it. */
struct retain_place {
	const struct retain_node *leaf;
	unsigned		  i;
};

/* <0, 0, >0 as a is before, at or after b. */
int retain_order(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen);

int retain_tree_init(struct retain_tree *t);	/* ERR_NOMEM */
/* Frees the entries too. */
void retain_tree_fini(struct retain_tree *t);

/* Where the pointer to this topic's message is kept, NULL if it is not there.
 * It may be changed to another one of that topic. */
struct retain_entry **retain_tree_find(const struct retain_tree *t,
    const uint8_t *topic, size_t len);

/* Add e, whose topic must not be there. ERR_NOMEM. */
int retain_tree_add(struct retain_tree *t, struct retain_entry *e);

/* Take out (not free) the message of e's topic, which must be there. */
void retain_tree_del(struct retain_tree *t, const struct retain_entry *e);

/* The first place at or after key. */
struct retain_place retain_tree_seek(const struct retain_tree *t,
    const uint8_t *key, size_t len);

/* The same from a place that is before key; quick if it is near. */
struct retain_place retain_tree_seek_on(const struct retain_tree *t,
    struct retain_place from, const uint8_t *key, size_t len);

/* The message there, NULL behind the last one; moves *p to where it is. */
struct retain_entry *retain_tree_at(struct retain_place *p);

static inline void
retain_tree_next(struct retain_place *p)
{
	p->i++;
}

/* Is the tree as it should be, and how many leaves has it (leaves may be NULL)?
 * For tests; reads everything. */
bool retain_tree_is_sound(const struct retain_tree *t, unsigned *leaves);

#endif

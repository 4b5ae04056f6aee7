/*
 * fib.h: the forwarding index: which destinations of this node may hold a
 * subscriber for a topic. One writer (the router), many readers (listeners,
 * stores, links), no lock: the writer works in a shared segment that readers
 * map read-only. The layout and the order in which a reader may look at it are
 * told in layout.h.
 *
 * The index may answer too much, never too little: a destination matches again
 * exactly among its own subscribers. So a filter may be installed wider than
 * it is, and two filters of one fingerprint share an entry.
 *
 * Shared groups ($share/name/filter) stand beside the destinations: whoever
 * matched picks one member of each, by the counts given.
 *
 * Pure: works in the memory it is handed, grows it through a function pointer,
 * is told the time.
 */
#ifndef FIB_FIB_H
#define FIB_FIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#define FIB_PIECE	65536u	/* the unit in which memory is taken */
#define FIB_SLOTS	4096u	/* destination slots of a generation, at most */
#define FIB_WORD_SLOTS	63u	/* slots below this are bits of one word */
#define FIB_READERS	512u	/* readers of a generation at a time, at most */
#define FIB_EPOCHS_LEN	(FIB_READERS * 128u)	/* of the epochs segment */
#define FIB_LEN_MIN	(128u * FIB_PIECE)	/* least length of a segment */
#define FIB_LEN_DEFAULT	((size_t)1 << 35)	/* virtual; valgrind's most */
#define FIB_BATCH	64u	/* topics of one fib_match_batch, at most */
#define FIB_GROUPS_MAX	1024u	/* groups under one terminal, at most */
#define FIB_NODES	256u	/* nodes of a generation, at most; 0 is none */
#define FIB_NODE_NAME	256u	/* bytes of a node's name, with the NUL */

/* --- Destinations ---------------------------------------------------- */

enum fib_kind {			/* what a destination slot is; 0: no slot */
	FIB_NONE = 0,
	FIB_LISTENER,		/* listener `instance` of this node */
	FIB_STORE,		/* session shard `instance` of this node */
	FIB_NODE,		/* node `node`; instance: 0 live, 1 durable */
};

enum fib_state {
	FIB_DOWN = 0,		/* known, routes kept, nothing is sent there */
	FIB_UP,
};

struct fib_slot {		/* one row of the node table */
	enum fib_kind	kind;
	enum fib_state	state;
	uint16_t	node;		/* of FIB_NODE: fib_node_name tells */
	uint32_t	instance;
	uint64_t	incarnation;	/* of the process behind it, if one */
};

/* --- Filters, cut ---------------------------------------------------- */

/*
 * The secret behind the fingerprints: random, and new with every router
 * incarnation, so that nobody outside can aim at a collision.
 */
struct fib_key {
	uint64_t	k0, k1;
	unsigned	bits;	/* 0: all. For tests of collisions */
};

/*
 * A filter cut at its first wildcard: the literal levels before it are the
 * anchor, the rest is a shape (number of levels, which of them are `+`, ends
 * in `#`). All fields are fingerprints or codes; the text is not kept here.
 * A filter without wildcards has shape 0 and no anchor. More than
 * FIB_SHAPE_LEVELS levels behind the anchor have the shape FIB_SHAPE_DEEP,
 * which cannot be installed but as FIB_SHAPE_HASH (`anchor/#`). The
 * fingerprint of `anchor/#` is fib_wide(anchor).
 */
#define FIB_SHAPE_LEVELS 56u
#define FIB_SHAPE_NONE	((uint64_t)0)
#define FIB_SHAPE_HASH	((uint64_t)1)
#define FIB_SHAPE_DEEP	(~(uint64_t)0)

struct fib_cut {
	uint64_t	fp;		/* of the terminal; deep: of the text */
	uint64_t	anchor;		/* 0 if there is no wildcard */
	uint64_t	shape;
	uint32_t	anchor_levels;	/* levels before the wildcard */
	uint32_t	anchor_len;	/* their bytes, without the last `/` */
};

/* Cut a filter. Any bytes are survived; sense needs a well-formed filter. */
void fib_cut(const struct fib_key *key, const void *filter, size_t len,
    struct fib_cut *out);

static inline uint64_t
fib_levels(uint32_t anchor_levels)
{
	return (uint64_t)1 << MIN(anchor_levels, 63u);
}

static inline uint64_t
fib_wide(uint64_t anchor)
{
	return anchor & ~(uint64_t)1;
}

/* --- Shared groups --------------------------------------------------- */

struct fib_group_slot {
	uint16_t	 slot;		/* as for fib_slot */
	uint16_t	 unused;	/* 0 */
	uint32_t	 members;	/* there are so many there, > 0 */
};

struct fib_group {
	uint64_t	 id_hi, id_lo;		/* topic/group.h */
	const struct fib_group_slot *slots;	/* ascending by slot */
	size_t		 nslots;
};

/* --- Reader ---------------------------------------------------------- */

struct fib_reader;		/* one per process or thread that matches */

/*
 * more and groups are in the reader's memory until the next match or batch.
 * `more` are slots from FIB_WORD_SLOTS up, each once; `groups` are in no order,
 * each id once. Slots of a group are not among the others unless something
 * else leads there.
 */
struct fib_match {
	uint64_t	 slots;	/* bit i: slot i, i < FIB_WORD_SLOTS */
	const uint16_t	*more;
	size_t		 nmore;
	const struct fib_group *groups;
	size_t		 ngroups;
	bool		 groups_short;	/* there are more than there is memory
					 * for; a topic by itself may fit */
};

/*
 * Read the segment data (len bytes mapped, read-only will do) announcing
 * epochs in epochs (FIB_EPOCHS_LEN bytes, writable). owner names this reader
 * for good: the process incarnation, never 0; the slot it takes is found by
 * it again, and given free by fib_reader_gone. The mappings stay the
 * caller's and must outlive the reader. ERR_PROTO if the header is not ours or
 * does not fit len, ERR_FULL if FIB_READERS are there, ERR_NOMEM.
 */
int fib_reader_open(struct fib_reader **out, const void *data, size_t len,
    void *epochs, size_t epochs_len, uint64_t owner);

/* Give the epoch slot free, free *r, set it to NULL. NULL is fine. */
void fib_reader_close(struct fib_reader **r);

/* The number the writer gave this generation. */
uint64_t fib_reader_generation(const struct fib_reader *r);

/* Rises with every change; equal numbers mean equal answers. */
uint64_t fib_reader_version(const struct fib_reader *r);

/*
 * Begin to read: what is read from here to fib_leave stays in place. Once a
 * turn; do nothing in between that may wait.
 */
void fib_enter(struct fib_reader *r);

/*
 * End to read. False: this reader held the writer up too long and was evicted;
 * every match since fib_enter is void: enter and match again. Only after true
 * may matches be used.
 */
bool fib_leave(struct fib_reader *r);

/*
 * The destinations that may want topic (a topic name, not a filter; beyond
 * 65535 bytes it is none and wanted by nobody). Only between fib_enter and
 * fib_leave.
 */
void fib_match(struct fib_reader *r, const void *topic, size_t len,
    struct fib_match *out);

/* The same for n <= FIB_BATCH topics, hashed and prefetched together. */
void fib_match_batch(struct fib_reader *r, const struct slice *topics,
    size_t n, struct fib_match *out);

/*
 * What a destination slot is. Valid between fib_enter and fib_leave for slots
 * matched there; the state may be asked at any time. ERR_NOTFOUND if none.
 */
int fib_slot(const struct fib_reader *r, unsigned slot, struct fib_slot *out);

/*
 * The name of a node of this generation, which never changes; valid as long as
 * the reader. "": there is none. May be asked at any time.
 */
const char *fib_node_name(const struct fib_reader *r, unsigned node);

/* Slots read so far by this reader, for tests and figures: probes of entries,
 * not of bytes. */
uint64_t fib_reader_probes(const struct fib_reader *r);

/* --- Writer ---------------------------------------------------------- */

struct fib_writer;		/* one per generation; not thread safe */

struct fib_writer_opts {
	void		*data;		/* page aligned, zero, never moves */
	size_t		 len;		/* >= FIB_LEN_MIN; virtual with grow */
	void		*epochs;	/* FIB_EPOCHS_LEN bytes, zero */
	size_t		 epochs_len;
	uint64_t	 generation;	/* any number; readers compare it */
	struct fib_key	 key;
	/* See that the first size bytes of data have memory: 0 or ERR_*. NULL:
	 * they all have. shm_grow_cb fits. */
	int		(*grow)(void *ctx, size_t size);
	void		*grow_ctx;
	size_t		 evict_bytes;	/* a reader may hold back so much, */
	uint64_t	 evict_ms;	/* and so long. 0: 64 MiB, 1000 ms */
};

/* Format the segment. ERR_INVAL, ERR_NOMEM, or what grow said. */
int fib_writer_open(struct fib_writer **out, const struct fib_writer_opts *o);

/* Free what is private; the segment stays as it is, readers read on. */
void fib_writer_close(struct fib_writer **w);

const struct fib_key *fib_writer_key(const struct fib_writer *w);

/*
 * Node `node`, 1 to FIB_NODES - 1, has this name: said before a slot names it.
 * Once said it stays; ERR_EXISTS: it has another one. ERR_INVAL: no such
 * number, or no such name.
 */
int fib_node_name_set(struct fib_writer *w, unsigned node, const char *name);

/* Take the lowest free destination slot. ERR_FULL if there is none. */
int fib_dest_open(struct fib_writer *w, const struct fib_slot *d,
    unsigned *slot);

/* Change state and incarnation of a slot; the rest stays. */
void fib_dest_set(struct fib_writer *w, unsigned slot, enum fib_state state,
    uint64_t incarnation);

/* Give a slot back, its routes being gone: it is numbered anew once every
 * reader has passed an epoch. */
void fib_dest_close(struct fib_writer *w, unsigned slot);

/* A set of destination slots, as matched and as installed. */
struct fib_dests {
	uint64_t	 slots;		/* bit i, i < FIB_WORD_SLOTS */
	const uint16_t	*more;		/* ascending, from FIB_WORD_SLOTS up */
	size_t		 nmore;
};

/*
 * Install d under terminal fp (fib_cut.fp, fib_wide), in place of what was
 * there; the empty set removes. A reader sees the old or the new set. Groups
 * that stand there stay. ERR_NOMEM, ERR_FULL: nothing changed.
 */
int fib_put(struct fib_writer *w, uint64_t fp, const struct fib_dests *d);

/*
 * Install a group under terminal fp, in place of the one of this id there;
 * without slots it is removed. Destinations and other groups stay. Whatever
 * only changes counts or takes slots away cannot fail. ERR_FULL: there are
 * FIB_GROUPS_MAX others, or the segment is; ERR_NOMEM. Nothing changed then.
 */
int fib_group_put(struct fib_writer *w, uint64_t fp,
    const struct fib_group *g);

/* What is installed under fp; d->more is valid until the next change.
 * ERR_NOTFOUND. */
int fib_get(struct fib_writer *w, uint64_t fp, struct fib_dests *d);

/*
 * Install the n <= 64 shapes of an anchor, in place of what was there; none
 * removes it. levels says how many levels the anchor has: fib_levels of
 * fib_cut.anchor_levels, ored if several share a fingerprint. Add terminals
 * before the anchor, delete them after it. ERR_NOMEM, ERR_FULL: nothing
 * changed.
 */
int fib_anchor_put(struct fib_writer *w, uint64_t anchor, uint64_t levels,
    const uint64_t *shapes, size_t n);

/*
 * Once a turn: take back what no reader can see any more, evict readers that
 * hold back more than allowed. now_ms is any clock that does not step back.
 */
void fib_reclaim(struct fib_writer *w, uint64_t now_ms);

/*
 * Grace: what was unlinked before fib_grace may still be looked for by readers
 * that entered before. fib_grace_over(ticket) says that none of them reads any
 * more; only fib_reclaim brings that nearer. Needed by who moves a route from
 * one entry to another: the new one first, grace, then the old one.
 */
uint64_t fib_grace(struct fib_writer *w);
bool fib_grace_over(const struct fib_writer *w, uint64_t ticket);

/* The process behind owner is gone: free its epoch slot, if it has one. */
void fib_reader_gone(struct fib_writer *w, uint64_t owner);

struct fib_stats {
	uint64_t	entries;	/* terminals and anchors */
	uint64_t	anchors;
	uint64_t	sets;		/* interned sets */
	uint64_t	set_uses;	/* terminals that point to one */
	uint64_t	group_sets;	/* terminals that have groups */
	uint64_t	groups;		/* of all terminals together */
	uint64_t	bytes;		/* of the segment that have memory */
	uint64_t	pieces_used, pieces_free;
	uint64_t	held_bytes;	/* retired, not yet taken back */
	uint64_t	evictions;
	uint64_t	epoch;
	uint64_t	readers;	/* epoch slots taken */
	uint64_t	splits, rewrites;
	uint64_t	depth;		/* bits of a hash the directory goes by */
};

void fib_writer_stats(const struct fib_writer *w, struct fib_stats *out);

/*
 * The epoch that reader owner announced when it entered, 0 while it does not
 * read. ERR_NOTFOUND: it has no slot.
 */
int fib_reader_epoch(const struct fib_writer *w, uint64_t owner,
    uint64_t *epoch);

#endif

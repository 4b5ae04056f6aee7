/*
 * layout.h: what lies in a segment of the forwarding index, and in which order
 * a reader may look at it. Private to lib/fib.
 *
 * A segment is pieces of 64 KiB. Piece 0 is the header, piece 1 the node table
 * (a row per destination slot), piece 2 the names of nodes, all others come and
 * go: the directory (a run of pieces), buckets (4096 entries of one extendible
 * hash), slabs (blocks of one size: sets and shape lists). Places are offsets
 * or piece numbers, never pointers.
 *
 *	directory[fp >> 1 & mask] -> bucket; in it, from line fp >> 32 on,
 *	entries {key, word} until one is empty.
 *	anchor word:	up to three short shapes, or a block of shapes
 *	terminal word:	destination slots 0..62 as bits, or a block: a set of
 *			slots, and of groups, which are blocks of their own
 *
 * Writing order. All of it is atomic 64-bit (directory: 32-bit) words; stores
 * that make something reachable are releases, loads that lead on are acquires.
 *	- Memory first: `pieces` says how many pieces have memory and is raised
 *	  before anything points into them.
 *	- An entry comes as word, then key; goes by its key; changes by its
 *	  word. A place is never moved while a reader may walk over it: splitting a
 *	  bucket copies it into two others and then swaps directory entries.
 *	- The directory doubles in place: entries of the upper half first, then
 *	  depth; beyond its pieces it is copied. A reader looks at the depth,
 *	  the entry, and the depth again, and starts over if it changed.
 *	- The name of a node comes with its first word last, and stays.
 *	- Terminals come before the shape in their anchor, and go after it.
 *	- In a group the count of a slot changes in place, one word; 0 is as
 *	  if the slot were not there. For all else the group comes as a new
 *	  block, and its word in the set changes; for another group comes a
 *	  new set.
 *	- What became unreachable (pieces, blocks, destination slots) is kept
 *	  with the number of the epoch and taken back when every announced
 *	  epoch is above it. Pieces return as pieces only, so whoever is late
 *	  (evicted) reads words of some piece, checks what it makes of them, and
 *	  learns from fib_leave that they were void.
 *
 * Lines (128 bytes, as CPUs fetch pairs) that change at every update or turn
 * are not the lines that every probe reads.
 */
#ifndef FIB_LAYOUT_H
#define FIB_LAYOUT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>

#include "fib/fib.h"

#define FIB_MAGIC	0x314249467474716du	/* "mqttFIB1" */
#define FIB_VERSION	2u

#define FIB_LINE	128
#define FIB_ENTRIES	(FIB_PIECE / 16)	/* of a bucket */
#define FIB_GROUP	4u			/* entries of a 64-byte line */
#define FIB_GROUPS	(FIB_ENTRIES / FIB_GROUP)
#define FIB_DEPTH_MAX	20u
#define FIB_PER_DIR	(FIB_PIECE / 4)		/* entries of a piece */
#define FIB_SHAPES_MAX	64u
#define FIB_MORE_MAX	(FIB_SLOTS - FIB_WORD_SLOTS)

#define FIB_WORD_BLOCK	((uint64_t)1 << 63)	/* the rest: an offset */

struct fib_entry {
	_Atomic uint64_t	key;
	_Atomic uint64_t	word;
};

struct fib_header {
	/* Constant. */
	alignas(FIB_LINE) uint64_t magic;
	uint32_t		version;
	uint32_t		header_len;
	uint32_t		piece;
	uint32_t		slots;
	uint32_t		readers;
	uint32_t		key_bits;
	uint64_t		len;
	uint64_t		generation;
	uint64_t		k0, k1;

	/* Read by every match, written seldom. */
	alignas(FIB_LINE) _Atomic uint64_t dir;	/* first piece << 8 | depth */
	_Atomic uint64_t	pieces;		/* that have memory */
	_Atomic uint64_t	anchor_levels;	/* bit i: there are anchors of i
						 * levels; 63: or more */

	/* Written once a turn. */
	alignas(FIB_LINE) _Atomic uint64_t epoch;

	/* Written at every update. */
	alignas(FIB_LINE) _Atomic uint64_t changes;
};

/* The node table: state in bits 0..7, kind 8..15, node 16..31, instance. */
struct fib_row {
	_Atomic uint64_t	what;
	_Atomic uint64_t	incarnation;
};

#define FIB_TABLE_PIECE	1u

/* Names of nodes, by their number. */
struct fib_name {
	union {
		_Atomic uint64_t words[FIB_NODE_NAME / 8];
		char	text[FIB_NODE_NAME];	/* ends in NUL */
	};
};

#define FIB_NAMES_PIECE	2u
#define FIB_FIXED_PIECES 3u
_Static_assert(FIB_NODES * sizeof(struct fib_name) == FIB_PIECE,
    "the names of nodes are one piece");

/* The epochs segment. */
#define FIB_OUT		((uint64_t)0)		/* not reading */
#define FIB_EVICTED	(~(uint64_t)0)
#define FIB_EPOCH_FIRST	((uint64_t)1)

struct fib_epoch {
	alignas(FIB_LINE) _Atomic uint64_t announced;
	_Atomic uint64_t	owner;		/* 0: free */
};

/*
 * Blocks. A shape list: {count, shape...}. A set: {nmore | ngroups << 16, slots
 * 0..62 as bits, the others as 16-bit numbers, four to a word, ascending, then
 * the offsets of the groups, ascending by id}. A group: {id high, id low, count
 * of slots, slot | members << 32 ascending by slot}.
 *
 * A set without groups is shared by all terminals that lead there. One that has
 * groups is its terminal's own: ids hold the filter, so no two are equal.
 */
static inline uint64_t
set_words(uint64_t nmore)
{
	return 2 + (nmore + 3) / 4;
}

#define SET_NMORE(head)		((head) & 0xffff)
#define SET_NGROUPS(head)	((head) >> 16 & 0xffff)
#define SET_OWN			((uint64_t)1 << 32)	/* not shared */

#define GROUP_HEAD		3u
#define GROUP_SLOT(word)	((unsigned)((word) & 0xffff))
#define GROUP_MEMBERS(word)	((uint32_t)((word) >> 32))
#define GROUP_WORD(slot, members) \
	((uint64_t)(slot) | (uint64_t)(members) << 32)

/* Short shapes in an anchor's word: 20 bits, 1 `#`, 4 levels, 15 mask. */
#define FIB_SHORT_BITS	20
#define FIB_SHORTS	3u

static inline uint64_t
shape_short(uint64_t shape)
{
	return (shape & 31) | (shape >> 7 & 0x7fff) << 5;
}

static inline uint64_t
shape_long(uint64_t s)
{
	return (s & 31) | (s >> 5 & 0x7fff) << 7;
}

/* GCC's thread sanitizer does not know fences and says so; nothing but atomic
 * words lies between ours, so it has nothing to say about them either. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#endif

/*
 * internal.h: what the files of the room share.
 *
 *	row.c	a row as bytes, and which of two wins
 *	table.c	the rows, what follows from them, what is to be said of them
 *	self.c	this node: in, out, in again; its image on disk
 *	hello.c	what is said first, and what is answered
 *	reach.c	who sees whom, and what follows
 */
#ifndef MEMBER_INTERNAL_H
#define MEMBER_INTERNAL_H

#include "member/member.h"
#include "proto/wire.h"

struct ids {
	uint64_t	*at;
	uint32_t	 n, size;
};

struct entry {
	struct member_row row;
	uint64_t	serial;		/* of its last change */
	bool		member;		/* what member.h calls one */
	bool		was;		/* that before, within a change */
	bool		unsaid;
	bool		pruned;		/* to be said as deleted, then gone */
	struct ids	have;		/* cores that have it as it stands */

	uint64_t	incarnation;	/* the highest known of it */
	bool		up, met;	/* met: it was up, in this life */
	bool		parked;		/* here, */
	bool		parked_there;	/* or by the other */
	uint64_t	since_ms;
	bool		heard;		/* `sees` is what it said */
	struct ids	sees;
};

struct members {
	const struct member_calls *calls;
	void		*ctx;
	struct entry	**rows;		/* by join id */
	uint32_t	 n, size;
	uint32_t	 nin, nended, nforced;
	struct entry	*self;
	uint64_t	 self_join;	/* its join id; 0: not known yet */
	bool		 quiet;		/* opening: no events */
	uint8_t		 uid[MEMBER_ID];
	char		 cluster[MEMBER_NAME_MAX];	/* uid is its hash */
	char		 conf_cluster[MEMBER_NAME_MAX];
	bool		 joined, leaving;
	enum member_out	 out;
	uint8_t		 was_uid[MEMBER_ID];	/* out: of whom it was, */
	struct member_row was;			/* and as whom (join 0: not) */
	uint64_t	 incarnation, floor, max_skew;
	uint64_t	 exceed;	/* clocks of versions are above this */
	bool		 autoheal;
	uint64_t	 healed;
	uint64_t	 serial, saved;
};

/* --- row.c --- */

void member_uid_of(const char *cluster, uint8_t uid[MEMBER_ID]);
void put_row(struct wire_out *w, unsigned field, const struct member_row *r);
/* Copy text that came; false if it is too long or has a NUL. */
bool get_text(char *out, size_t size, struct slice s);
bool get_id(uint8_t out[MEMBER_ID], struct slice s);
struct slice text_of(const char *s);
struct slice id_of(const uint8_t id[MEMBER_ID]);
bool id_is(const uint8_t *a, const uint8_t *b);
/* Of two with one name: did a join later? */
bool is_later(const struct member_row *a, const struct member_row *b);

/* --- table.c --- */

struct entry *entry_find(const struct members *m, uint64_t join);
/* The member of this name, or NULL. */
struct entry *entry_named(const struct members *m, const char *name);
bool uuid_is_forced(const struct members *m, const uint8_t *uuid);
/*
 * Take a row in: 1 if something changed, 0, ERR_*. *out (may be NULL): its
 * entry, or NULL if it is not kept. Events are told; what it means for this
 * node is for self_check.
 */
int merge(struct members *m, const struct member_row *row,
    struct entry **out);
/* Write a row anew, with a version above what it has. */
int rewrite(struct members *m, struct entry *e, enum member_state state,
    uint64_t clock);
void touch(struct members *m, struct entry *e);
void rows_free(struct members *m);
int ids_add(struct ids *s, uint64_t id);
/* This core is not known to have anything. */
void acks_forget(struct members *m, uint64_t core);
bool ids_has(const struct ids *s, uint64_t id);
void tell(struct members *m, enum member_event_kind kind,
    const struct member_row *row, const struct member_row *old);
bool counts_as_core(const struct entry *e);

/* What the table says of a node of this name and data, with this join id. */
enum fate {
	FATE_NONE,		/* nothing: it is new */
	FATE_MEMBER,
	FATE_AGAIN,		/* to come in again: cleaned, or an old copy */
	FATE_LEFT,
	FATE_FORCED,
	FATE_NAME		/* its name went to *winner (may be NULL) */
};
enum fate fate_of(const struct members *m, const struct member_row *row,
    const struct entry **winner);

/* --- self.c --- */

/* Does the table still have us? Else go out, or in again. ERR_NOMEM. */
int self_check(struct members *m, uint64_t clock);
int self_rejoin(struct members *m, uint64_t clock);
int self_out(struct members *m, enum member_out why,
    const struct member_row *winner, uint64_t clock);
/* A new join id, and a row of that, otherwise as `like`. ERR_NOMEM. */
int self_new(struct members *m, const struct member_row *like,
    uint64_t clock);
/* An incarnation that ours is not to be below. */
void self_raise(struct members *m, uint64_t incarnation);

/* --- hello.c --- */

/* What an incarnation of this name with this data is not to be below. */
uint64_t seen_of(const struct members *m, const char *name,
    const uint8_t *uuid);

/* --- reach.c --- */

/* Does a core that is heard from say that it reaches it? */
bool is_seen(const struct members *m, const struct entry *e);
/* Is it in reach: ours, or, as a replicant is linked with one core, of one who
 * would know? */
bool counts_as_up(const struct members *m, const struct entry *e);
/* Does anybody who is heard from reach it? */
bool is_alive(const struct members *m, const struct entry *e);

#endif

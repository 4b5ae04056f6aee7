/*
 * internal.h: what the files of this room share.
 */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include "base/htab.h"
#include "base/spread.h"
#include "store/shard.h"

/* Handles and offsets are counters from 1 and 0: one that is larger is no
 * number of ours. */
#define HANDLE_MAX	(UINT64_MAX >> 2)
#define OFFSET_MAX	(UINT64_MAX >> 2)

/* Handles are ours, so nobody aims them. */
static inline uint64_t
hash_handle(uint64_t handle)
{
	handle *= UINT64_C(0x9e3779b97f4a7c15);
	return handle ^ handle >> 32;
}

struct mark {
	struct msgid	id;
	uint32_t	slot;
	uint16_t	len;
	uint8_t		source[];
};

/* Bodies that lie near one another. */
struct stretch {
	uint64_t	 number;	/* pos >> STRETCH_SHIFT */
	struct body	*first;
};

enum { STRETCH_SHIFT = 22 };

struct shard {
	uint64_t	 seed;
	uint64_t	 next_handle, applied;
	struct spread	 ids, handles;		/* of struct session */
	struct spread	 bodies;		/* of struct body, by pos */
	struct htab	 stretches;
	struct htab	 marks;
	struct index	*index;
	struct session	*dirty, **dirty_end;
	size_t		 ndirty;
	struct shard_hooks hooks;
	void		*ctx;
	uint64_t	 queued, body_bytes, unknown;

	/* Scratch of one PUBLISH, of shard_match, of its joining. */
	struct landing	*landing;
	size_t		 cap_landing;
	struct store_target *targets;
	size_t		 cap_targets;
	uint32_t	*target_ids;
	size_t		 cap_target_ids;
	uint32_t	*places;
	size_t		 cap_places;
};

/* Entries in rising order of offsets, from the first that is not DONE on; those
 * DONE in between go when room is needed. */
struct queue {
	uint32_t	first, n, cap;
	struct entry	entries[];
};

/* shard.c */
bool is_client_id(const struct slice *id);
bool is_subscription(const struct slice *share, const struct slice *filter);
bool is_options(uint8_t options);
struct session *session_new(uint64_t handle, const struct slice *client_id,
    const struct slice *will);
int session_enter(struct shard *sh, struct session *s);
void session_end(struct shard *sh, struct session *s);
void session_discard(struct shard *sh, struct session *s);
void session_touch(struct shard *sh, struct session *s);
int here_hold(struct session *s);
void here_release(struct session *s);	/* if nothing is in it */
int session_subscribe(struct shard *sh, struct session *s,
    const struct slice *share, const struct slice *filter, uint8_t options,
    uint32_t id);
uint8_t sub_options(const struct index_sub *sub);
struct mark *mark_find(const struct shard *sh, const struct slice *source,
    uint32_t slot);
int mark_hold(struct shard *sh, const struct slice *source, uint32_t slot,
    struct mark **out);
void mark_forget(struct shard *sh, struct mark *m);

/* An array of at least n elements of size bytes instead of the old one: *cap is
 * what it has. NULL, and the old one stays, if out of memory. */
void *scratch(void *old, size_t *cap, size_t n, size_t size);

/* queue.c */
struct body *body_find(const struct shard *sh, uint64_t pos);
int body_new(struct shard *sh, uint64_t pos, uint32_t size, uint32_t bytes,
    uint64_t deadline_ms, struct body **out);
void body_unref(struct shard *sh, struct body *b);
int body_move(struct shard *sh, struct body *b, uint64_t pos, uint32_t size);
void bodies_free(struct shard *sh);

int queue_reserve(struct session *s, uint32_t n);	/* n more */
struct entry *queue_add(struct shard *sh, struct session *s, uint64_t offset,
    struct body *b);
void queue_received(struct shard *sh, struct session *s, struct entry *e);
void queue_done(struct shard *sh, struct session *s, struct entry *e);
void queue_clear(struct shard *sh, struct session *s);
/* NULL: DONE. */
struct entry *queue_find(const struct session *s, uint64_t offset);

#endif

/*
 * worker.h: the threads that wait for the disk while the loop serves: one for
 * syncing the log, one for the tree.
 *
 * Two, because acknowledgements wait for the former: behind a checkpoint of a
 * second in the same queue they would all be a second late (they are to be in
 * time, 25 ms, across checkpoints too). They share nothing: the sync lane
 * calls a function of the caller's, the tree lane is the only thread that
 * touches the tree while the worker lives.
 *
 * A job is a struct of the caller's, who fills it in, submits it and leaves it
 * alone until `done` is called, on the loop's thread. Jobs of a lane are done
 * one after the other in the order of submission, and so are their `done`s.
 */
#ifndef KV_WORKER_H
#define KV_WORKER_H

#include <ev.h>
#include <stdint.h>

#include "kv/tree.h"

enum kv_job_kind {
	KV_JOB_SYNC,		/* run(arg), on the sync lane */
	KV_JOB_COMMIT,		/* kv_commit(batch) */
	KV_JOB_SNAPSHOT,	/* kv_snapshot, given up by a stop */
	KV_JOB_CALL,		/* run(arg), on the tree lane */
};

struct kv_job {
	enum kv_job_kind kind;
	int		(*run)(void *arg);	/* 0 or an error code */
	void		*arg;
	const struct kv_batch *batch;		/* stays the caller's */
	void		(*done)(struct kv_job *j);	/* may be NULL */
	void		*ctx;			/* for done */

	int		 rc;			/* result, for done */
	int		 errnum;		/* errno with it */
	uint64_t	 position;		/* kv_position() then; tree lane */
	uint64_t	 floor;			/* kv_floor() then; tree lane */
	struct kv_job	*next;			/* the worker's */
};

struct kv_worker;		/* opaque */

/*
 * Start both threads. tree may be NULL: then only run-jobs can be submitted.
 * At most jobs_max (>= 1) of a lane are under way. Signals stay with the
 * caller's threads. ERR_NOMEM, ERR_IO.
 */
int kv_worker_new(struct kv_worker **w, struct ev_loop *loop,
    struct kv_tree *tree, unsigned jobs_max);

/*
 * Hand in a job. ERR_FULL when jobs_max are under way in its lane, ERR_STALE
 * after kv_worker_stop; j is untouched then. From the loop's thread only.
 */
int kv_worker_submit(struct kv_worker *w, struct kv_job *j);

/* Jobs submitted and not yet handed to done. */
unsigned kv_worker_busy(const struct kv_worker *w);

/*
 * Finish all that was submitted (a snapshot is given up: ERR_AGAIN), end the
 * threads and call the last `done`s, from here. Blocks. Nothing is taken after
 * it; the tree may be used by the caller's thread again.
 */
void kv_worker_stop(struct kv_worker *w);

/* Stop if it was not, free it, *w is NULL; NULL is fine. */
void kv_worker_free(struct kv_worker **w);

#endif

#include "kv/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "kv/snap.h"

/* Jobs in the order they came in. */
struct queue {
	struct kv_job	*first, **last;
};

enum { LANE_SYNC, LANE_TREE, NLANES };

struct lane {
	struct kv_worker *w;
	pthread_t	 thread;
	bool		 started;
	pthread_mutex_t	 lock;
	pthread_cond_t	 more;
	struct queue	 due;		/* under lock */
	struct queue	 over;		/* under lock */
	bool		 ending;	/* under lock */
	unsigned	 n;		/* not yet done; the loop's only */
};

struct kv_worker {
	struct ev_loop	*loop;
	struct kv_tree	*tree;
	ev_async	 news;		/* some job is over */
	unsigned	 jobs_max;
	atomic_bool	 stopping;	/* a snapshot looks at it */
	bool		 stopped;
	struct lane	 lanes[NLANES];
};

static void
queue_init(struct queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void
queue_put(struct queue *q, struct kv_job *j)
{
	j->next = NULL;
	*q->last = j;
	q->last = &j->next;
}

static struct kv_job *
queue_take(struct queue *q)
{
	struct kv_job	*j = q->first;

	if (j != NULL && (q->first = j->next) == NULL)
		q->last = &q->first;
	return j;
}

/* --- On a lane's thread ------------------------------------------------- */

static bool
must_stop(void *ctx)
{
	struct kv_worker	*w = ctx;

	return atomic_load_explicit(&w->stopping, memory_order_relaxed);
}

static void
job_run(struct kv_worker *w, struct kv_job *j)
{
	errno = 0;
	switch (j->kind) {
	case KV_JOB_SYNC:
	case KV_JOB_CALL:
		j->rc = j->run(j->arg);
		break;
	case KV_JOB_COMMIT:
		j->rc = kv_commit(w->tree, j->batch);
		break;
	case KV_JOB_SNAPSHOT:
		j->rc = must_stop(w) ? ERR_AGAIN :
		    kv_snapshot(w->tree, must_stop, w);
		break;
	}
	j->errnum = errno;
	if (j->kind != KV_JOB_SYNC && w->tree != NULL) {
		j->position = kv_position(w->tree);
		j->floor = kv_floor(w->tree);
	}
}

static void *
lane_main(void *arg)
{
	struct lane	*l = arg;
	struct kv_job	*j;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		if ((j = queue_take(&l->due)) == NULL) {
			if (l->ending)
				break;
			pthread_cond_wait(&l->more, &l->lock);
			continue;
		}
		pthread_mutex_unlock(&l->lock);
		job_run(l->w, j);
		pthread_mutex_lock(&l->lock);
		queue_put(&l->over, j);
		ev_async_send(l->w->loop, &l->w->news);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* --- On the loop's thread ----------------------------------------------- */

/* done may submit again, or free its job. */
static void
lane_collect(struct lane *l)
{
	struct kv_job	*j, *next;

	pthread_mutex_lock(&l->lock);
	j = l->over.first;
	queue_init(&l->over);
	pthread_mutex_unlock(&l->lock);
	for (; j != NULL; j = next) {
		next = j->next;
		l->n--;
		if (j->done != NULL)
			j->done(j);
	}
}

static void
on_news(EV_P UNUSED, ev_async *a, int revents UNUSED)
{
	struct kv_worker	*w = CONTAINER_OF(a, struct kv_worker, news);

	lane_collect(&w->lanes[LANE_SYNC]);
	lane_collect(&w->lanes[LANE_TREE]);
}

static int
lane_start(struct kv_worker *w, struct lane *l)
{
	sigset_t	all, old;
	int		e;

	l->w = w;
	queue_init(&l->due);
	queue_init(&l->over);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->more, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	e = pthread_create(&l->thread, NULL, lane_main, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	l->started = e == 0;
	if (e != 0) {
		errno = e;
		return ERR_IO;
	}
	return 0;
}

static void
lane_end(struct lane *l)
{
	if (!l->started)
		return;
	pthread_mutex_lock(&l->lock);
	l->ending = true;
	pthread_cond_signal(&l->more);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	l->started = false;
}

int
kv_worker_new(struct kv_worker **out, struct ev_loop *loop,
    struct kv_tree *tree, unsigned jobs_max)
{
	struct kv_worker	*w;
	int			 i, rc, e;

	if ((w = calloc(1, sizeof(*w))) == NULL)
		return ERR_NOMEM;
	w->loop = loop;
	w->tree = tree;
	w->jobs_max = jobs_max;
	atomic_init(&w->stopping, false);
	ev_async_init(&w->news, on_news);
	ev_async_start(loop, &w->news);
	for (i = 0; i < NLANES; i++)
		if ((rc = lane_start(w, &w->lanes[i])) < 0)
			goto end_lanes;
	*out = w;
	return 0;

end_lanes:
	e = errno;
	for (; i >= 0; i--) {
		lane_end(&w->lanes[i]);
		pthread_cond_destroy(&w->lanes[i].more);
		pthread_mutex_destroy(&w->lanes[i].lock);
	}
	ev_async_stop(loop, &w->news);
	free(w);
	errno = e;
	return rc;
}

int
kv_worker_submit(struct kv_worker *w, struct kv_job *j)
{
	struct lane	*l;

	if (w->stopped || must_stop(w))
		return ERR_STALE;
	l = &w->lanes[j->kind == KV_JOB_SYNC ? LANE_SYNC : LANE_TREE];
	if (l->n >= w->jobs_max)
		return ERR_FULL;
	l->n++;
	pthread_mutex_lock(&l->lock);
	queue_put(&l->due, j);
	pthread_cond_signal(&l->more);
	pthread_mutex_unlock(&l->lock);
	return 0;
}

unsigned
kv_worker_busy(const struct kv_worker *w)
{
	return w->lanes[LANE_SYNC].n + w->lanes[LANE_TREE].n;
}

void
kv_worker_stop(struct kv_worker *w)
{
	int	i;

	if (w->stopped)
		return;
	atomic_store_explicit(&w->stopping, true, memory_order_relaxed);
	for (i = 0; i < NLANES; i++)
		lane_end(&w->lanes[i]);
	w->stopped = true;
	ev_async_stop(w->loop, &w->news);
	for (i = 0; i < NLANES; i++)
		lane_collect(&w->lanes[i]);
}

void
kv_worker_free(struct kv_worker **wp)
{
	struct kv_worker	*w = *wp;
	int			 i;

	if (w == NULL)
		return;
	kv_worker_stop(w);
	for (i = 0; i < NLANES; i++) {
		pthread_cond_destroy(&w->lanes[i].more);
		pthread_mutex_destroy(&w->lanes[i].lock);
	}
	free(w);
	*wp = NULL;
}

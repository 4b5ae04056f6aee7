/*
 * out.c: what waits to be written to one client: a list of chunks, small ones
 * first so that a client with a packet an hour costs little, and references to
 * shared payloads. An idle client has none.
 */
#include "listener.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

enum {
	SMALL	= 2048 - (int)sizeof(struct chunk),
	BIG	= 32768 - (int)sizeof(struct chunk),
	HEAD	= 192 - (int)sizeof(struct chunk),	/* between payloads */
	POOL_SMALL = 4096, POOL_BIG = 256,	/* kept for the next burst */
	IOVS	= 64
};

/* The chunk that comes after tail. */
static struct chunk *
chunk_new(struct listener *l, size_t need, const struct chunk *tail)
{
	struct chunk	*k;
	size_t		 cap;

	if (tail != NULL && tail->blob != NULL) {
		cap = MAX(need, (size_t)HEAD);
	} else if (tail == NULL && need <= SMALL) {
		cap = SMALL;
		if ((k = l->pool_small) != NULL) {
			l->pool_small = k->next;
			l->npool_small--;
			goto ready;
		}
	} else {
		cap = MAX(need, (size_t)BIG);
		if (cap == BIG && (k = l->pool_big) != NULL) {
			l->pool_big = k->next;
			l->npool_big--;
			goto ready;
		}
	}
	if ((k = malloc(sizeof(*k) + cap)) == NULL)
		return NULL;
	k->cap = (uint32_t)cap;
ready:
	k->next = NULL;
	k->blob = NULL;
	k->begin = k->end = 0;
	return k;
}

static void
chunk_free(struct listener *l, struct chunk *k)
{
	if (k->blob != NULL) {
		blob_unref(&k->blob);
		free(k);
	} else if (k->cap == SMALL && l->npool_small < POOL_SMALL) {
		k->next = l->pool_small;
		l->pool_small = k;
		l->npool_small++;
	} else if (k->cap == BIG && l->npool_big < POOL_BIG) {
		k->next = l->pool_big;
		l->pool_big = k;
		l->npool_big++;
	} else {
		free(k);
	}
}

void
out_pool_free(struct listener *l)
{
	struct chunk *k;

	while ((k = l->pool_small) != NULL) {
		l->pool_small = k->next;
		free(k);
	}
	while ((k = l->pool_big) != NULL) {
		l->pool_big = k->next;
		free(k);
	}
}

static void
append(struct listener *l, struct conn *c, struct chunk *k)
{
	if (c->out.tail != NULL)
		c->out.tail->next = k;
	else
		c->out.head = k;
	c->out.tail = k;
	(void)l;
}

static inline void
mark_dirty(struct listener *l, struct conn *c)
{
	if (!c->dirty && !c->blocked) {
		c->dirty = true;
		c->dirty_next = l->dirty;
		l->dirty = c;
		client_hold(c);
	}
}

uint8_t *
out_reserve(struct listener *l, struct conn *c, size_t n)
{
	struct chunk	*k = c->out.tail;
	uint8_t		*p;

	if (k == NULL || k->blob != NULL || k->cap - k->end < n) {
		if ((k = chunk_new(l, n, k)) == NULL) {
			metric_inc(&m_dropped_memory);
			client_doom(l, c);
			return NULL;
		}
		append(l, c, k);
	}
	p = k->data + k->end;
	k->end += (uint32_t)n;
	c->out.bytes += n;
	mark_dirty(l, c);
	return p;
}

bool
out_blob(struct listener *l, struct conn *c, struct blob *b, size_t len)
{
	struct chunk *k;

	if ((k = malloc(sizeof(*k))) == NULL) {
		metric_inc(&m_dropped_memory);
		client_doom(l, c);
		return false;
	}
	k->next = NULL;
	k->blob = blob_ref(b);
	k->begin = 0;
	k->end = (uint32_t)len;
	k->cap = 0;
	append(l, c, k);
	c->out.bytes += len;
	mark_dirty(l, c);
	return true;
}

void
out_clear(struct listener *l, struct conn *c)
{
	struct chunk *k;

	while ((k = c->out.head) != NULL) {
		c->out.head = k->next;
		chunk_free(l, k);
	}
	c->out.tail = NULL;
	c->out.bytes = 0;
}

static void
set_blocked(struct listener *l, struct conn *c, bool blocked)
{
	c->blocked = blocked;
	client_watch(l, c);
}

/* Enough has left to read c again. */
static bool
hears_again(const struct listener *l, struct conn *c)
{
	if (!c->deaf || c->out.bytes > l->conf->listener_output_max / 2)
		return false;
	c->deaf = false;
	return true;
}

void
out_flush(struct listener *l, struct conn *c)
{
	struct iovec	 iov[IOVS];
	struct chunk	*k;
	ssize_t		 n;
	size_t		 left, want;
	int		 niov;

	if (UNLIKELY(c->corked))
		return;
	while (c->out.head != NULL) {
		want = 0;
		for (k = c->out.head, niov = 0; k != NULL && niov < IOVS;
		    k = k->next) {
			if (k->end == k->begin)
				continue;
			iov[niov].iov_base = (k->blob != NULL ? k->blob->data :
			    k->data) + k->begin;
			iov[niov].iov_len = k->end - k->begin;
			want += iov[niov++].iov_len;
		}
		n = niov == 1 ? write(c->fd, iov[0].iov_base,
		    iov[0].iov_len) : writev(c->fd, iov, niov);
		metric_inc(&m_writes);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN) {
				client_doom(l, c);
				return;
			}
			n = 0;
		}
		metric_add(&m_bytes_out, (uint64_t)n);
		c->bytes_out += (uint64_t)n;
		c->out.bytes -= (size_t)n;
		for (left = (size_t)n; (k = c->out.head) != NULL;) {
			if (left < k->end - k->begin) {
				k->begin += (uint32_t)left;
				break;
			}
			left -= k->end - k->begin;
			c->out.head = k->next;
			if (c->out.head == NULL)
				c->out.tail = NULL;
			chunk_free(l, k);
		}
		if (UNLIKELY(c->deaf) && n > 0)
			c->heard_ms = l->now_ms;	/* it reads: it lives */
		if ((size_t)n < want) {
			if (!c->blocked || hears_again(l, c))
				set_blocked(l, c, true);
			return;
		}
	}
	c->deaf = false;
	if (c->blocked)
		set_blocked(l, c, false);
	if (c->state == CONN_CLOSING)
		client_doom(l, c);
}

void
out_flush_dirty(struct listener *l)
{
	struct conn *c;

	while ((c = l->dirty) != NULL) {
		l->dirty = c->dirty_next;
		c->dirty = false;
		if (c->state != CONN_DOOMED && !c->blocked)
			out_flush(l, c);
		client_release(l, c);
	}
}

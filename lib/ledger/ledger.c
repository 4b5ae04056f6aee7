#include "ledger/ledger.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"

struct frame {
	uint64_t	bytes;		/* up to its end, 0: not done */
	uint32_t	owed[2];	/* by account */
	bool		done;
};

struct ledger_in {
	void		*user;
	unsigned	 refs;		/* debts that name it, and the owner */
	bool		 closed;
	struct frame	*ring;		/* power of two */
	uint32_t	 cap, head, n;
	uint64_t	 first;		/* seq of the frame at head */
	uint64_t	 bytes;		/* of all frames done */
	uint64_t	 upto[2];	/* acknowledged, by account */
	uint64_t	 got_bytes;
};

struct debt {
	struct ledger_in *in;
	uint64_t	 seq;		/* of its frame */
	uint64_t	 out_seq;
};

struct debts {			/* by out_seq */
	struct debt	*ring;
	uint32_t	 cap, head, n;
};

struct ledger_out {
	struct debts	account[2];
};

struct ledger_in *
ledger_in_new(void *user)
{
	struct ledger_in *in = calloc(1, sizeof(*in));

	if (in == NULL)
		return NULL;
	in->user = user;
	in->refs = 1;
	return in;
}

struct ledger_out *
ledger_out_new(void)
{
	return calloc(1, sizeof(struct ledger_out));
}

static void
in_unref(struct ledger_in *in)
{
	if (--in->refs > 0)
		return;
	free(in->ring);
	free(in);
}

void
ledger_in_close(struct ledger_in **in)
{
	if (*in != NULL) {
		(*in)->closed = true;
		in_unref(*in);
	}
	*in = NULL;
}

void
ledger_out_free(struct ledger_out **out)
{
	struct ledger_out *o = *out;
	struct debts	  *d;

	*out = NULL;
	if (o == NULL)
		return;
	for (d = o->account; d < o->account + 2; d++) {
		for (; d->n > 0; d->n--, d->head = (d->head + 1) & (d->cap - 1))
			in_unref(d->ring[d->head].in);
		free(d->ring);
	}
	free(o);
}

void *
ledger_in_user(const struct ledger_in *in)
{
	return in->user;
}

size_t
ledger_open(const struct ledger_in *in)
{
	return in->n;
}

/* A ring of n things of that size, twice as large. */
static int
grow(void **ring, uint32_t *cap, uint32_t *head, uint32_t n, size_t size)
{
	uint32_t more = *cap == 0 ? 16 : *cap * 2, i;
	char	*new = malloc((size_t)more * size), *old = *ring;

	if (new == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++)
		memcpy(new + i * size, old + ((*head + i) & (*cap - 1)) * size,
		    size);
	free(old);
	*ring = new;
	*cap = more;
	*head = 0;
	return 0;
}

static struct frame *
frame_at(struct ledger_in *in, uint64_t seq)
{
	if (seq < in->first || seq - in->first >= in->n)
		return NULL;
	return &in->ring[(in->head + (uint32_t)(seq - in->first)) &
	    (in->cap - 1)];
}

int
ledger_begin(struct ledger_in *in, uint64_t seq)
{
	void *ring = in->ring;
	int   rc;

	if (in->n == 0) {
		in->first = seq;
		in->upto[0] = in->upto[1] = seq - 1;
	}
	while (frame_at(in, seq) == NULL) {
		if (in->n == in->cap) {
			if ((rc = grow(&ring, &in->cap, &in->head, in->n,
			    sizeof(*in->ring))) < 0)
				return rc;
			in->ring = ring;
		}
		/* Those left out are of nobody. */
		in->ring[(in->head + in->n) & (in->cap - 1)] =
		    (struct frame){ in->bytes, { 0, 0 },
		    in->first + in->n < seq };
		in->n++;
	}
	return 0;
}

int
ledger_owe(struct ledger_in *in, struct ledger_out *out, uint64_t out_seq,
    enum ledger_account account)
{
	struct debts	*d = &out->account[account];
	uint64_t	 seq = in->first + in->n - 1;
	struct debt	*last;
	void		*ring = d->ring;
	int		 rc;

	if (d->n > 0) {
		last = &d->ring[(d->head + d->n - 1) & (d->cap - 1)];
		if (last->in == in && last->seq == seq &&
		    last->out_seq == out_seq)
			return 0;
	}
	if (d->n == d->cap) {
		if ((rc = grow(&ring, &d->cap, &d->head, d->n,
		    sizeof(*d->ring))) < 0)
			return rc;
		d->ring = ring;
	}
	d->ring[(d->head + d->n++) & (d->cap - 1)] =
	    (struct debt){ in, seq, out_seq };
	in->refs++;
	frame_at(in, seq)->owed[account]++;
	return 0;
}

/* How far is it, in that account? True if that is news. */
static bool
settle(struct ledger_in *in, enum ledger_account account)
{
	uint64_t	 was = in->upto[account];
	struct frame	*f;

	while ((f = frame_at(in, in->upto[account] + 1)) != NULL && f->done &&
	    f->owed[account] == 0) {
		in->upto[account]++;
		if (account == LEDGER_LIVE)
			in->got_bytes = f->bytes;
	}
	/* Both accounts are past it: forget. */
	while (in->n > 0 && in->first <= MIN(in->upto[0], in->upto[1])) {
		in->head = (in->head + 1) & (in->cap - 1);
		in->first++;
		in->n--;
	}
	return in->upto[account] > was;
}

static void
tell(struct ledger_in *in, ledger_news *news, void *ctx)
{
	if (!in->closed)
		news(ctx, in->user, in->upto[LEDGER_LIVE], in->got_bytes,
		    in->upto[LEDGER_DURABLE]);
}

void
ledger_done(struct ledger_in *in, uint64_t bytes, ledger_news *news, void *ctx)
{
	struct frame	*f = frame_at(in, in->first + in->n - 1);
	bool		 live, durable;

	f->done = true;
	f->bytes = in->bytes += bytes;
	live = settle(in, LEDGER_LIVE);
	durable = settle(in, LEDGER_DURABLE);
	if (live || durable)
		tell(in, news, ctx);
}

void
ledger_paid(struct ledger_out *out, enum ledger_account account,
    uint64_t out_seq, ledger_news *news, void *ctx)
{
	struct debts	 *d = &out->account[account];
	struct ledger_in *moved = NULL;		/* nobody was told yet */
	struct debt	  one;

	while (d->n > 0 && d->ring[d->head].out_seq <= out_seq) {
		one = d->ring[d->head];
		d->head = (d->head + 1) & (d->cap - 1);
		d->n--;
		if (moved != NULL && moved != one.in) {
			tell(moved, news, ctx);
			in_unref(moved);
			moved = NULL;
		}
		frame_at(one.in, one.seq)->owed[account]--;
		if (settle(one.in, account) && moved == NULL) {
			moved = one.in;
			moved->refs++;
		}
		in_unref(one.in);
	}
	if (moved != NULL) {
		tell(moved, news, ctx);
		in_unref(moved);
	}
}

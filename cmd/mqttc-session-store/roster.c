/*
 * roster.c: listeners know which client ids surely have no stored session
 * (session/roster.h), so that the clean start of one of those is served at once.
 * Hence a session that is new is granted only when all listeners have heard of
 * it: its entry goes to each, and the grant waits until they acknowledged, or a
 * second, for one that stands still; and until the session is safe in the log.
 */
#include "store.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/err.h"
#include "log/log.h"

enum {
	CHUNK		= 256 * 1024,
	WAIT_MS		= 1000
};

/* Grants of one turn, and what each listener must have acknowledged. */
struct grants {
	struct grants	*next;
	struct holder	*first;		/* by grant_next */
	uint64_t	 deadline_ms;
	uint64_t	 pos;		/* the end of the log with them */
	size_t		 n;
	struct { uint32_t listener; uint64_t epoch, seq; } due[];
};

static struct roster	 roster;
static struct holder	*turn;		/* new in this turn */
static struct grants	*head, **tail = &head;

static uint64_t
hash_of(const char *id, size_t len)
{
	return XXH3_64bits(id, len);
}

static int
enter(void *ctx UNUSED, struct session *s)
{
	(void)roster_add(&roster, hash_of(s->client_id, s->client_id_len));
	return 0;
}

int
roster_open(struct store *st)
{
	int rc = roster_init(&roster,
	    roster_log2_for(shard_nsessions(st->state)));

	if (rc == 0)
		shard_each(st->state, enter, NULL);
	return rc;
}

/* All of it for a listener that asks. */
void
roster_ask(struct store *st, uint32_t listener)
{
	struct session_msg	 e;
	size_t			 at, n = roster_bytes(&roster);

	for (at = 0; at < n; at += CHUNK) {
		memset(&e, 0, sizeof(e));
		e.kind = SERVE_ROSTER;
		e.what = roster.log2;
		e.token = (uint32_t)at;
		e.more = at + CHUNK < n;
		e.payload = (struct slice){ roster.bits + at,
		    MIN(n - at, (size_t)CHUNK) };
		peer_send(st, listener, &e);
	}
}

/* Too full to say much: a larger one, for everybody. */
static void
grow(struct store *st)
{
	struct roster	old = roster;
	uint32_t	i;

	if (roster.ones < roster_bytes(&roster) * 4 ||
	    roster_log2_for(shard_nsessions(st->state)) <= roster.log2 ||
	    roster_init(&roster, roster_log2_for(shard_nsessions(st->state) *
	    2)) < 0) {
		roster = old;
		return;
	}
	roster_fini(&old);
	shard_each(st->state, enter, NULL);
	for (i = 0; i < LISTENERS_MAX; i++)
		if (st->peers[i].bus != NULL)
			roster_ask(st, i);
}

bool
roster_new(struct store *st, struct holder *h)
{
	struct session_msg	 e = { .kind = SERVE_STORED };
	uint32_t		 i;

	e.time = hash_of(h->client_id, h->len);
	if (roster_add(&roster, e.time) || head != NULL || turn != NULL) {
		grow(st);
		for (i = 0; i < LISTENERS_MAX; i++)
			if (st->peers[i].bus != NULL)
				peer_send(st, i, &e);
	} else if (log_is_safe(st, journal_end(st->journal))) {
		return false;
	}
	h->granting = true;
	h->grant_next = turn;
	turn = h;
	return true;
}

/* The entries of this turn have left. */
void
roster_turn(struct store *st)
{
	struct grants	*g;
	size_t		 n = 0;
	uint32_t	 i;

	if (turn == NULL)
		return;
	for (i = 0; i < LISTENERS_MAX; i++)
		n += st->peers[i].bus != NULL;
	if ((g = malloc(sizeof(*g) + n * sizeof(g->due[0]))) == NULL) {
		metric_inc(&m_dropped_memory);
		return;				/* the next turn */
	}
	g->next = NULL;
	g->first = turn;
	g->deadline_ms = st->now_ms + WAIT_MS;
	g->pos = journal_end(st->journal);
	g->n = 0;
	for (i = 0; i < LISTENERS_MAX; i++) {
		if (st->peers[i].bus == NULL)
			continue;
		g->due[g->n].listener = i;
		g->due[g->n].epoch = st->peers[i].epoch;
		g->due[g->n++].seq = bus_peer_sent(st->peers[i].bus);
	}
	turn = NULL;
	*tail = g;
	tail = &g->next;
}

static bool
is_heard(const struct store *st, const struct grants *g)
{
	const struct peer	*p;
	size_t			 i;

	if (!log_is_safe(st, g->pos))
		return false;
	if (st->now_ms >= g->deadline_ms)
		return true;
	for (i = 0; i < g->n; i++) {
		p = &st->peers[g->due[i].listener];
		if (p->bus != NULL && p->epoch == g->due[i].epoch &&
		    bus_peer_got(p->bus) < g->due[i].seq)
			return false;
	}
	return true;
}

/* Some listener acknowledged, or time has gone by. */
void
roster_heard(struct store *st)
{
	struct grants	*g;
	struct holder	*h;

	while ((g = head) != NULL && is_heard(st, g)) {
		if ((head = g->next) == NULL)
			tail = &head;
		while ((h = g->first) != NULL) {
			g->first = h->grant_next;
			h->granting = false;
			if (!desk_is_lost(st, h))
				serve_begin(st, h, false);
		}
		free(g);
	}
}

static void
leave(struct holder **list, struct holder *h)
{
	for (; *list != NULL; list = &(*list)->grant_next)
		if (*list == h) {
			*list = h->grant_next;
			return;
		}
}

void
roster_forget(struct holder *h)
{
	struct grants *g;

	if (!h->granting)
		return;
	h->granting = false;
	leave(&turn, h);
	for (g = head; g != NULL; g = g->next)
		leave(&g->first, h);
}

void
roster_close(void)
{
	struct grants *g;

	while ((g = head) != NULL) {
		head = g->next;
		free(g);
	}
	tail = &head;
	roster_fini(&roster);
}

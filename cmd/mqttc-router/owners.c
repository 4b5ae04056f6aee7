/*
 * The conversation with owners: ROUTES in, RouteAck out (proto/route.proto).
 *
 * ROUTES of one owner are numbered without gaps from the beginning of its
 * snapshot. The stream they come in loses and doubles nothing, so a gap is a
 * mistake of somebody's; the answer is a RouteAck with `resync`, and the owner
 * begins a new snapshot.
 *
 * A row is in the index for every reader when rib_add returned; it is
 * acknowledged at the end of the turn, unless a running reader still reads
 * another generation.
 */
#include "router.h"

#include <stdlib.h>
#include <string.h>

#include <pb_encode.h>

#include "base/err.h"
#include "base/util.h"
#include "fault/fault.h"
#include "log/log.h"
#include "proto/route.pb.h"
#include "topic/filter.h"

const char *
owner_state_name(enum owner_state s)
{
	switch (s) {
	case OWNER_LEARNING:
		return "learning";
	case OWNER_SYNCED:
		return "synced";
	case OWNER_ASKED:
		return "resync";
	case OWNER_AWAY:
		return "away";
	case OWNER_GONE:
		return "gone";
	}
	return "?";
}

/* --- RouteAck --------------------------------------------------------------- */

static void
ack_send(struct router *r, const struct bus_addr *to, uint64_t incarnation,
    uint64_t seq, bool resync)
{
	RouteAck	 m = RouteAck_init_zero;
	uint8_t		 body[RouteAck_size];
	pb_ostream_t	 out = pb_ostream_from_buffer(body, sizeof(body));

	m.incarnation = incarnation;
	m.seq = seq;
	m.resync = resync;
	if (!pb_encode(&out, RouteAck_fields, &m))
		return;
	/* Lost with its connection: the next one, or its repetition, says all
	 * of it again. */
	if (bus_reply(r->bus, to, KIND_ROUTE_ACK, body, out.bytes_written) == 0)
		metric_inc(resync ? &m_resyncs : &m_acks);
}

static void
ask_again(struct router *r, struct owner *o, const char *why)
{
	log_warn("router.resync", "owner=%s why=%s seq=%llu", o->member->name,
	    why, (unsigned long long)o->seq);
	o->state = OWNER_ASKED;
	o->short_of = false;
	ack_send(r, &o->addr, o->incarnation, o->acked, true);
}

/* Remember that what was taken just now waits for other nodes. Without room the
 * last one waits longer. */
static void
wait_add(struct router *r, struct owner *o)
{
	if (o->due <= nodes_rows_acked(r))
		return;
	if (o->nwaits == OWNER_WAITS)
		o->nwaits--;
	o->waits[o->nwaits].seq = o->seq;
	o->waits[o->nwaits++].due = o->due;
}

/* Up to where all its rows are with the nodes that are waited for. */
static uint64_t
shared_seq(struct router *r, struct owner *o)
{
	uint64_t	acked = nodes_rows_acked(r);
	unsigned	n = 0;

	while (n < o->nwaits && o->waits[n].due <= acked)
		n++;
	if (n > 0) {
		o->nwaits -= n;
		memmove(o->waits, o->waits + n,
		    o->nwaits * sizeof(o->waits[0]));
	}
	return o->nwaits > 0 ? MIN(o->seq, o->waits[0].seq - 1) : o->seq;
}

static void
acks_flush(struct router *r)
{
	struct owner	*o;
	uint64_t	 seq;
	bool		 due = false;

	for (o = r->owners; o != NULL; o = o->next) {
		if (o->state != OWNER_SYNCED || o->acked == o->seq ||
		    o->short_of)
			continue;
		if (r->phase != PHASE_SERVING || r->waited > 0) {
			metric_inc(&m_acks_held);
			due = true;
			continue;
		}
		seq = shared_seq(r, o);
		due |= seq < o->seq;
		if (seq <= o->acked)
			continue;
		ack_send(r, &o->addr, o->incarnation, seq, false);
		o->acked = seq;
		o->repeat = 1;
	}
	r->acks_due = due;
}

/* --- Owners ------------------------------------------------------------------ */

static int
owner_open(struct router *r, struct member *m, struct owner **out)
{
	struct fib_slot	 d = { .state = FIB_UP, .instance = m->instance,
			     .incarnation = m->incarnation };
	struct owner	*o;
	int		 rc;

	d.kind = m->kind == PROC_LISTENER ? FIB_LISTENER : FIB_STORE;
	if ((o = calloc(1, sizeof(*o))) == NULL)
		return ERR_NOMEM;
	if ((rc = rib_owner_open(r->rib, &d, &o->rib)) < 0) {
		free(o);
		return rc;
	}
	o->member = m;
	o->incarnation = m->incarnation;
	o->next = r->owners;
	o->prev = &r->owners;
	if (o->next != NULL)
		o->next->prev = &o->next;
	r->owners = o;
	m->owner = o;
	*out = o;
	return 0;
}

static void
owner_free(struct router *r, struct owner *o)
{
	rib_owner_close(r->rib, o->rib);
	*o->prev = o->next;
	if (o->next != NULL)
		o->next->prev = o->prev;
	free(o);
}

void
owner_gone(struct router *r, struct owner *o)
{
	log_info("router.owner_gone", "owner=%s incarnation=%llu routes=%llu",
	    o->member->name, (unsigned long long)o->incarnation,
	    (unsigned long long)rib_owner_routes(r->rib, o->rib));
	metric_inc(&m_owners_gone);
	/* From here on nobody sends there; the rows go as there is time. */
	rib_owner_set(r->rib, o->rib, FIB_DOWN, o->incarnation);
	o->state = OWNER_GONE;
	o->member->owner = NULL;
	o->member = NULL;
	if (r->part.owner == o)
		r->part.owner = NULL;
	turn_again(r);
}

/*
 * What a store has subscribed to outlives it: until it has told that again,
 * after a replay perhaps, a message may be for it.
 */
void
owner_away(struct router *r, struct owner *o)
{
	if (o->state == OWNER_AWAY)
		return;
	log_info("router.owner_away", "owner=%s incarnation=%llu routes=%llu",
	    o->member->name, (unsigned long long)o->incarnation,
	    (unsigned long long)rib_owner_routes(r->rib, o->rib));
	metric_inc(&m_owners_away);
	rib_owner_set(r->rib, o->rib, FIB_DOWN, o->incarnation);
	o->state = OWNER_AWAY;
	if (r->part.owner == o)
		r->part.owner = NULL;
}

/* It is there again; what it tells now takes the place of what it had. */
static void
owner_back(struct router *r, struct owner *o)
{
	o->incarnation = o->member->incarnation;
	o->seq = o->acked = 0;
	o->repeat = o->nwaits = 0;
	rib_owner_set(r->rib, o->rib, FIB_UP, o->incarnation);
}

bool
node_is_warm(const struct router *r)
{
	const struct member *m;

	for (m = r->members; m != NULL; m = m->hh.next)
		if (m->kind == PROC_LISTENER && member_is_running(m))
			return true;
	return false;
}

/*
 * A new supervisor knows no incarnation of a store that died before it came. If
 * listeners run, they know its routes and must not forget them.
 */
bool
owner_is_unstarted(const struct router *r, const struct member *m)
{
	return m->kind == PROC_SESSION_STORE && m->listed &&
	    m->incarnation == 0 && node_is_warm(r) &&
	    now_ms() - r->since_ms < r->conf->supervise_backoff_max_ms +
	    STORE_GIVEN_UP_MS;
}

/*
 * A store that ran has routes, whatever it is doing now. One that is down for
 * longer than the supervisor ever pauses before a start is not coming.
 */
static bool
store_is_waited(const struct router *r, const struct member *m)
{
	if (m->incarnation == 0)
		return owner_is_unstarted(r, m);
	return m->state != PROC_DOWN || m->down_ms == 0 ||
	    now_ms() - m->down_ms < r->conf->supervise_backoff_max_ms +
	    STORE_GIVEN_UP_MS;
}

/*
 * A listener that is starting has no subscribers before it is ready, so it is
 * waited for only if it has begun to tell.
 */
bool
owner_is_waited(const struct router *r, const struct member *m)
{
	const struct owner	*o = m->owner;

	if (m->kind != PROC_LISTENER && m->kind != PROC_SESSION_STORE)
		return false;
	if (o != NULL && o->state == OWNER_SYNCED)
		return false;
	if (m->kind == PROC_SESSION_STORE)
		return store_is_waited(r, m);
	return member_is_running(m) || o != NULL;
}

/* --- ROUTES ------------------------------------------------------------------ */

static void
snapshot_begin(struct router *r, struct owner *o)
{
	if (rib_owner_routes(r->rib, o->rib) > 0)
		rib_owner_mark(r->rib, o->rib);
	o->state = OWNER_LEARNING;
	o->sweep = false;
	o->short_of = false;
	metric_inc(&m_snapshots);
}

static void
snapshot_end(struct router *r, struct owner *o)
{
	o->state = OWNER_SYNCED;
	o->sweep = true;
	turn_again(r);
	log_info("router.synced", "owner=%s incarnation=%llu routes=%llu",
	    o->member->name, (unsigned long long)o->incarnation,
	    (unsigned long long)rib_owner_routes(r->rib, o->rib));
	phase_check(r);
}

/*
 * No memory for a row: a route too few loses messages, so nothing more is
 * acknowledged to this owner until all of its rows found room.
 */
static void
row_short(struct router *r, struct owner *o, int rc)
{
	metric_inc(&m_rows_short);
	if (o->short_of)
		return;
	o->short_of = true;
	o->retry_ms = now_ms() + RETRY_MS;
	log_error("router.route_refused", "owner=%s why=%s routes=%llu",
	    o->member->name, log_quote(err_str(rc)),
	    (unsigned long long)rib_owner_routes(r->rib, o->rib));
}

/* Is this the name of a group [MQTT-4.8.2-1] [-2]? None is one, too. */
static bool
share_ok(const struct slice *s)
{
	return s->len == 0 || (topic_filter_check(s->data, s->len, 0) == 0 &&
	    memchr(s->data, '+', s->len) == NULL &&
	    memchr(s->data, '#', s->len) == NULL &&
	    memchr(s->data, '/', s->len) == NULL);
}

/*
 * CAVEAT: a group for which there is no place at its filter is left out until
 * its owner names it again: holding back acknowledgements for it, as for want
 * of memory, would let one client with many groups hold up all others.
 */
static void
group_full(struct router *r, struct owner *o, const struct route_row *row)
{
	metric_inc(&m_rows_refused);
	if (r->said_full)
		return;
	r->said_full = true;
	log_warn("router.group_refused", "owner=%s group=%s filter=%s max=%u",
	    o->member->name, log_quote_n(row->share.data, row->share.len),
	    log_quote_n(row->filter.data, row->filter.len), FIB_GROUPS_MAX);
}

static void
group_apply(struct router *r, struct owner *o, const struct route_row *row,
    uint32_t members)
{
	int	rc;

	if (members > 0 && fault_hit("router.row"))
		rc = ERR_NOMEM;
	else
		rc = rib_group(r->rib, o->rib, row->filter.data,
		    row->filter.len, row->share.data, row->share.len, members);
	if (rc == ERR_FULL)
		group_full(r, o, row);
	else if (rc < 0 && rc != ERR_NOTFOUND)
		row_short(r, o, rc);
}

static void
row_apply(struct router *r, struct owner *o, const struct route_row *row,
    bool add)
{
	const struct slice	*f = &row->filter;
	int			 rc;

	if (row->qos > 2 || !share_ok(&row->share) ||
	    topic_filter_check(f->data, f->len, 0) < 0) {
		metric_inc(&m_rows_refused);
		log_debug("router.row_refused", "owner=%s filter=%s group=%s",
		    o->member->name, log_quote_n(f->data, f->len),
		    log_quote_n(row->share.data, row->share.len));
		return;
	}
	metric_inc(&m_rows);
	if (row->share.len > 0)
		group_apply(r, o, row, add ? row->members : 0);
	else if (!add)
		(void)rib_del(r->rib, o->rib, f->data, f->len);
	else if (fault_hit("router.row"))
		row_short(r, o, ERR_NOMEM);
	else if ((rc = rib_add(r->rib, o->rib, f->data, f->len,
	    (uint8_t)row->qos)) < 0)
		row_short(r, o, rc);
}

/*
 * Whom a ROUTES message is from, if it is one to apply: its place in the order
 * is checked here. NULL: it is not.
 */
static struct owner *
routes_begin_apply(struct router *r, struct bus_frame *f,
    const struct routes *m)
{
	struct member	*from = member_of(r, &f->from);
	struct owner	*o;
	int		 rc;

	if (from == NULL || m->router_incarnation != r->incarnation) {
		metric_inc(&m_stale);	/* to a router before us, or from the dead */
		return NULL;
	}
	o = from->owner;
	if (o == NULL || o->incarnation != from->incarnation) {
		if (!m->snapshot_begin) {
			log_warn("router.resync", "owner=%s why=unknown seq=0",
			    from->name);
			ack_send(r, &f->from.addr, from->incarnation, 0, true);
			return NULL;
		}
		if (o != NULL) {
			owner_back(r, o);
		} else if ((rc = owner_open(r, from, &o)) < 0) {
			log_error("router.owner_refused", "owner=%s why=%s",
			    from->name, log_quote(err_str(rc)));
			return NULL;
		}
	}
	o->addr = f->from.addr;
	if (m->snapshot_begin) {
		snapshot_begin(r, o);
	} else if (o->state == OWNER_ASKED) {
		metric_inc(&m_stale);
		return NULL;
	} else if (m->seq != o->seq + 1) {
		ask_again(r, o, "gap");
		return NULL;
	}
	o->seq = m->seq;
	return o;
}

/* Apply rows from r->part on. ERR_AGAIN: the turn is over, there are more. */
static int
routes_apply(struct router *r, const struct bus_frame *f)
{
	struct routes		*m = &r->part.routes;
	struct owner		*o = r->part.owner;
	struct route_row	 row;
	unsigned		 n = 0;
	int			 rc = 0;
	bool			 add;

	m->in.at = f->body + r->part.at;
	m->in.end = f->body + f->len;
	nodes_rows_begin(r);
	while (routes_next(m, &row, &add) == 1) {
		row_apply(r, r->part.owner, &row, add);
		if (++n % TURN_ROWS == 0 && turn_is_over(r)) {
			r->part.at = (size_t)(m->in.at - f->body);
			rc = ERR_AGAIN;
			break;
		}
	}
	o->due = MAX(o->due, nodes_rows_seq(r));
	if (nodes_rows_short(r) && r->phase == PHASE_SERVING)
		row_short(r, o, ERR_NOMEM);
	return rc;
}

int
on_routes(void *ctx, struct bus_frame *f)
{
	struct router	*r = ctx;
	struct owner	*o = r->part.owner;

	if (o == NULL || r->part.frame_seq != f->seq ||
	    o->incarnation != f->from.incarnation ||
	    strcmp(o->member->name, f->from.name) != 0) {
		r->part.owner = NULL;
		if (routes_decode(&r->part.routes, f->body, f->len) < 0)
			return ERR_PROTO;
		r->part.at = (size_t)(r->part.routes.in.at - f->body);
		r->part.frame_seq = f->seq;
		if ((o = routes_begin_apply(r, f, &r->part.routes)) == NULL)
			return 0;
		r->part.owner = o;
	}
	if (routes_apply(r, f) == ERR_AGAIN)
		return ERR_AGAIN;
	r->part.owner = NULL;
	r->acks_due = true;
	/* What it tells again was no change, and may be under way all the same. */
	if (r->part.routes.snapshot_end)
		o->due = MAX(o->due, nodes_rows_all(r));
	wait_add(r, o);
	if (r->part.routes.snapshot_end)
		snapshot_end(r, o);
	return 0;
}

/* --- The turn ---------------------------------------------------------------- */

/* Remove rows of the dead and rows that a snapshot did not name again. */
static void
rows_remove(struct router *r)
{
	struct owner	*o, *next;

	for (o = r->owners; o != NULL; o = next) {
		next = o->next;
		if (o->state != OWNER_GONE && !o->sweep)
			continue;
		for (;;) {
			if (turn_is_over(r)) {
				turn_again(r);
				return;
			}
			if (o->state == OWNER_GONE) {
				if (rib_owner_clear(r->rib, o->rib,
				    TURN_CLEAR) == 1)
					continue;
				owner_free(r, o);
			} else {
				if (rib_owner_sweep(r->rib, o->rib,
				    TURN_CLEAR) == 1)
					continue;
				o->sweep = false;
			}
			break;
		}
	}
}

void
owners_turn(struct router *r)
{
	rows_remove(r);
	if (r->acks_due)
		acks_flush(r);
}

void
owners_tick(struct router *r, uint64_t now)
{
	struct owner	*o;

	r->said_full = false;
	for (o = r->owners; o != NULL; o = o->next) {
		if (o->state != OWNER_SYNCED)
			continue;
		if (o->short_of && now >= o->retry_ms) {
			ask_again(r, o, "memory");
		} else if (o->repeat > 0) {
			o->repeat--;
			ack_send(r, &o->addr, o->incarnation, o->acked, false);
		}
	}
}

void
owners_free(struct router *r)
{
	struct owner	*o;

	while ((o = r->owners) != NULL) {
		r->owners = o->next;
		free(o);
	}
}

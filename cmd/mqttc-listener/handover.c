/*
 * handover.c: another process takes our place, or we take another's: its
 * clients with their sockets and all that is known of them, its streams, its
 * routes. Nobody but the supervisor notices.
 *
 * The old one stands still at the end of a turn while it tells everything and
 * changes nothing, so that until the successor has TAKEN it can go on as if
 * nothing had been. The successor makes everything from what it is told and
 * lets nobody see: no byte to a client, no message, no bind. Who owns the
 * clients, whatever dies when:
 *
 *	old tells ... END
 *			   PREPARED	new could go on from here
 *	COMMIT				old does nothing more but look for TAKEN
 *			   TAKEN	new owns them
 *	_exit
 *
 * The old one that sees an end before TAKEN owns them still. The new one that
 * has PREPARED and sees an end without an ABORT before it knows that the old one
 * is dead, and owns them. An old one that loses patience says ABORT and shuts
 * the socket, after which TAKEN can no longer be said.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/err.h"
#include "fault/fault.h"
#include "log/log.h"
#include "parcel.h"
#include "topic/filter.h"

static uint64_t
mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/* Standing still must not look like hanging. */
static uint64_t
deadline(const struct listener *l)
{
	return mono_ms() + l->conf->supervise_hang_timeout_ms / 2;
}

static struct slice
text_of(const char *s)
{
	return (struct slice){ (const uint8_t *)s, strlen(s) };
}

/* --- Giving ----------------------------------------------------------------- */

/* What several clients share is told once: by address, the number it got. */
struct told {
	const void	*what;
	uint32_t	 number;
};

struct giver {
	struct listener	*l;
	struct parcel	 p;
	uint32_t	 nclients, nblobs, nmessages;
	struct htab	 shared;	/* struct told */
	struct conn	*c;		/* the client being told */
};

static struct told *
told_find(struct giver *g, const void *what)
{
	uint64_t	 h = XXH3_64bits(&what, sizeof(what));
	struct told	*t;
	size_t		 i;

	for (i = htab_first(&g->shared, h);
	    (t = htab_at(&g->shared, h, &i)) != NULL; i++)
		if (t->what == what)
			return t;
	return NULL;
}

static int
told_add(struct giver *g, const void *what, uint32_t number)
{
	struct told *t;

	if ((t = malloc(sizeof(*t))) == NULL)
		return ERR_NOMEM;
	*t = (struct told){ what, number };
	if (htab_add(&g->shared, XXH3_64bits(&what, sizeof(what)), t) < 0) {
		free(t);
		return ERR_NOMEM;
	}
	return 0;
}

static void
told_free(struct giver *g)
{
	size_t i;

	for (i = 0; g->shared.cells != NULL && i <= g->shared.mask; i++)
		free(g->shared.cells[i].item);
	htab_fini(&g->shared);
}

static int
give_blob(struct giver *g, struct blob *b, uint32_t *number)
{
	struct handover_bytes	 row = { { b->data, b->len } };
	struct told		*t;
	int			 rc;

	if ((t = told_find(g, b)) != NULL) {
		*number = t->number;
		return 0;
	}
	if ((rc = parcel_put(&g->p, HANDOVER_BLOB, &row, b->len, -1)) < 0)
		return rc;
	*number = ++g->nblobs;
	return atomic_load(&b->refs) > 1 ? told_add(g, b, *number) : 0;
}

static int
give_message(struct giver *g, struct message *m, uint32_t *number)
{
	struct handover_message	 row;
	struct message_view	 v;
	struct told		*t;
	int			 rc;

	if ((t = told_find(g, m)) != NULL) {
		*number = t->number;
		return 0;
	}
	memset(&row, 0, sizeof(row));
	if (m->blob != NULL && (rc = give_blob(g, m->blob, &row.blob)) < 0)
		return rc;
	message_view(m, m->arrived_ms, &v);
	row.topic = v.topic;
	row.props = v.props;
	if (m->blob == NULL)
		row.payload = v.payload;
	row.expiry_s = m->expiry_s;
	row.qos = m->qos;
	row.retain = m->retain;
	row.arrived_ms = m->arrived_ms;
	row.id_hi = m->id_hi;
	row.id_lo = m->id_lo;
	row.client_id = v.client_id;
	if ((rc = parcel_put(&g->p, HANDOVER_MESSAGE, &row, row.topic.len +
	    row.props.len + row.payload.len + row.client_id.len, -1)) < 0)
		return rc;
	*number = ++g->nmessages;
	return m->refs > 1 ? told_add(g, m, *number) : 0;
}

static uint32_t
attach_flags(const struct attach *a)
{
	if (a == NULL)
		return 0;
	return (a->durable ? HANDOVER_DURABLE : 0) |
	    (a->assigned ? HANDOVER_ASSIGNED : 0) |
	    (a->wants_info ? HANDOVER_WANTS_INFO : 0) |
	    (a->keepalive_told ? HANDOVER_KEEPALIVE_TOLD : 0) |
	    (a->expiry_told ? HANDOVER_EXPIRY_TOLD : 0);
}

static int
give_client(struct giver *g, struct conn *c)
{
	uint8_t sourced[PUBLISH_SAVE];
	struct handover_client row = {
		.has_id = c->client_id != NULL,
		.has_username = c->username != NULL,
		.stash = { c->stash, c->stash_len },
		.stash_need = c->stash_need,
		.state = c->state,
		.version = c->version,
		.flags = (c->clean_start ? HANDOVER_CLEAN_START : 0) |
		    (c->blocked ? HANDOVER_BLOCKED : 0) |
		    (c->deaf ? HANDOVER_DEAF : 0) |
		    (c->graceful ? HANDOVER_GRACEFUL : 0) |
		    (c->eof ? HANDOVER_EOF : 0) |
		    (c->expiry_asked ? HANDOVER_EXPIRY_ASKED : 0) |
		    (c->ended ? HANDOVER_ENDED : 0) |
		    (c->attached ? HANDOVER_ATTACHED : 0) |
		    (c->alone ? HANDOVER_ALONE : 0) |
		    (c->has_will ? HANDOVER_HAS_WILL : 0) |
		    (c->straight ? HANDOVER_STRAIGHT : 0) | attach_flags(c->attach),
		.attach_ns = c->attach_ns,
		.since_ms = c->since_ms,
		.heard_ms = c->heard_ms,
		.deadline_ms = wheel_is_set(&c->timer) ?
		    c->timer.deadline_ms : 0,
		.msgs_in = c->msgs_in, .msgs_out = c->msgs_out,
		.bytes_in = c->bytes_in, .bytes_out = c->bytes_out,
		.dropped = c->dropped, .unheard = c->unheard,
		.max_packet = c->max_packet,
		.packet_granted = c->packet_granted,
		.receive_maximum = c->receive_maximum,
		.inflight_in = c->inflight_in,
		.alias_max = c->alias_max,
		.receive_granted = c->receive_granted,
		.alias_granted = c->alias_granted,
		.keepalive_s = c->keepalive_s,
		.qos_granted = c->qos_granted,
		.parked_for = c->parked_for, .parked_qos = c->parked_qos,
		.serial = c->serial, .handle = c->handle,
		.expiry_s = c->attach == NULL ? 0 : c->attach->expiry_s,
		.asked = c->asked,
		.routes_seq = c->attach == NULL ? 0 : c->attach->seq,
	};

	row.sourced = (struct slice){ sourced, publish_save(g->l, c, sourced) };
	if (c->client_id != NULL)
		row.client_id = (struct slice){ (uint8_t *)c->client_id,
		    c->client_id_len };
	if (c->username != NULL)
		row.username = text_of(c->username);
	c->fan_slot = ++g->nclients;	/* scratch between fan-outs */
	return parcel_put(&g->p, HANDOVER_CLIENT, &row, row.client_id.len +
	    row.username.len + row.stash.len + row.sourced.len, c->fd);
}

/* The name of f if it is a group. */
static struct slice
share_of(const struct index_filter *f)
{
	return f->is_group ? (struct slice){ (uint8_t *)f->share->name,
	    f->share->name_len } : (struct slice){ NULL, 0 };
}

static int
give_subs(struct giver *g, const struct conn *c)
{
	struct handover_sub	 row;
	const struct index_sub	*s;
	uint32_t		 i;
	int			 rc;

	for (i = 0; i < c->subs.n; i++) {
		const struct index_link *link = &c->subs.links[i];

		s = &link->filter->subs[link->pos];
		row = (struct handover_sub){
		    { (uint8_t *)link->filter->text, link->filter->len },
		    s->id, s->qos, s->no_local, s->rap,
		    link->filter->is_group, share_of(link->filter),
		    link->filter->is_group ? link->pos + 1 : 0 };
		if ((rc = parcel_put(&g->p, HANDOVER_SUB, &row, row.text.len +
		    row.share.len, -1)) < 0)
			return rc;
	}
	return 0;
}

static int	queued_rc;		/* of the walk, which only stops */

static struct slice
pack_group(uint8_t out[HANDOVER_GROUP], struct group_id id)
{
	put_le64(out, id.hi);
	put_le64(out + 8, id.lo);
	return (struct slice){ out, HANDOVER_GROUP };
}

static struct group_id
group_of(const struct slice *packed)
{
	return (struct group_id){ get_le64(packed->data),
	    get_le64(packed->data + 8) };
}

static int
give_kept(void *ctx, struct message *m, struct group_id group, uint16_t id)
{
	struct giver		*g = ctx;
	struct handover_kept	 row = { .id = id };
	uint8_t			 packed[HANDOVER_GROUP];
	int			 rc;

	if ((rc = give_message(g, m, &row.message)) < 0)
		return rc;
	row.group = pack_group(packed, group);
	return parcel_put(&g->p, HANDOVER_KEPT, &row, row.group.len, -1);
}

static bool
give_queued(void *ctx, struct message *m, const struct mqueue_how *how)
{
	struct giver		*g = ctx;
	struct handover_queued	 row = { .qos = how->qos,
				    .retain = how->retain };
	uint8_t			*ids = NULL, packed[HANDOVER_GROUP];
	uint32_t		 i;

	if (how->group != NULL)
		row.group = pack_group(packed, *how->group);
	if ((queued_rc = give_message(g, m, &row.message)) < 0)
		return false;
	if (how->nids > 0) {
		if ((ids = malloc(how->nids * 4u)) == NULL) {
			queued_rc = ERR_NOMEM;
			return false;
		}
		for (i = 0; i < how->nids; i++)
			put_le32(ids + 4 * i, how->ids[i]);
		row.ids = (struct slice){ ids, how->nids * 4u };
	}
	queued_rc = parcel_put(&g->p, HANDOVER_QUEUED, &row, row.ids.len +
	    row.group.len, -1);
	free(ids);
	return queued_rc == 0;
}

static int
give_out(struct giver *g, const struct conn *c)
{
	const struct chunk	*k;
	struct handover_out	 row;
	int			 rc;

	for (k = c->out.head; k != NULL; k = k->next) {
		if (k->begin == k->end)
			continue;
		memset(&row, 0, sizeof(row));
		if (k->blob != NULL) {
			if ((rc = give_blob(g, k->blob, &row.blob)) < 0)
				return rc;
			row.begin = k->begin;
			row.end = k->end;
		} else {
			row.data = (struct slice){ k->data + k->begin,
			    k->end - k->begin };
		}
		if ((rc = parcel_put(&g->p, HANDOVER_OUT, &row, row.data.len,
		    -1)) < 0)
			return rc;
	}
	return 0;
}

static int
give_answer(struct giver *g, const struct answer *a)
{
	struct handover_answer	 row = { a->id, a->type, a->reason,
				    { NULL, 0 }, a->straight };
	const struct wait	*w = a->nwaits == 1 ? &a->one : a->many;
	uint8_t			*waits, *at;
	uint16_t		 i;
	int			 rc;

	if ((waits = malloc(a->nwaits * (size_t)HANDOVER_WAIT + 1)) == NULL)
		return ERR_NOMEM;
	for (i = 0, at = waits; i < a->nwaits; i++) {
		if (answer_is_taken(&w[i]))
			continue;
		put_le32(at, (uint32_t)(w[i].peer - g->l->peers));
		put_le64(at + 4, w[i].seq);
		at += HANDOVER_WAIT;
	}
	row.waits = (struct slice){ waits, (size_t)(at - waits) };
	rc = parcel_put(&g->p, HANDOVER_ANSWER, &row, row.waits.len, -1);
	free(waits);
	return rc;
}

static int
give_answers(struct giver *g, const struct answers *q)
{
	uint32_t i;
	int	 rc = 0;

	for (i = 0; q != NULL && i < q->n && rc == 0; i++)
		rc = give_answer(g, &q->ring[(q->head + i) & (q->cap - 1)]);
	return rc;
}

static int
give_alias(struct giver *g, enum handover_kind kind, uint16_t alias,
    const uint8_t *topic, size_t len)
{
	struct handover_alias row = { alias, { topic, len } };

	return parcel_put(&g->p, kind, &row, len, -1);
}

static int
give_aliases(struct giver *g, const struct aliases *a)
{
	uint16_t i;
	int	 rc = 0;

	if (a == NULL)
		return 0;
	for (i = 0; i < a->nin && rc == 0; i++)
		if (a->in[i] != NULL)
			rc = give_alias(g, HANDOVER_ALIAS_IN,
			    (uint16_t)(i + 1), a->in[i]->topic,
			    a->in[i]->len);
	for (i = 0; i < a->nout && rc == 0; i++)
		rc = give_alias(g, HANDOVER_ALIAS_OUT, (uint16_t)(i + 1),
		    a->out[i].topic, a->out[i].len);
	return rc;
}

static int
give_window(struct giver *g, const struct window *w)
{
	struct handover_window	 row = { .next = 0 };
	struct window_cell	*cells;
	uint8_t			*packed;
	uint32_t		 n, i;
	uint16_t		 next, max;
	int			 rc = ERR_NOMEM;

	if (w == NULL)
		return 0;
	n = window_inflight(w);
	cells = malloc((n + 1) * sizeof(*cells));
	packed = malloc((n + 1) * (size_t)HANDOVER_CELL);
	if (cells != NULL && packed != NULL) {
		n = window_export(w, cells, &next, &max);
		for (i = 0; i < n; i++) {
			put_le16(packed + HANDOVER_CELL * i, cells[i].id);
			packed[HANDOVER_CELL * i + 2] = cells[i].state;
		}
		row.next = next;
		row.max = max;
		row.cells = (struct slice){ packed,
		    n * (size_t)HANDOVER_CELL };
		rc = parcel_put(&g->p, HANDOVER_WINDOW, &row, row.cells.len,
		    -1);
	}
	free(cells);
	free(packed);
	return rc;
}

static int
give_inbound(struct giver *g, const struct inbound *in)
{
	struct handover_inbound	 row;
	uint8_t			*packed;
	uint32_t		 i;
	int			 rc;

	if (in->n == 0)
		return 0;
	if ((packed = malloc(in->n * 2u)) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < in->n; i++)
		put_le16(packed + 2 * i, in->ids[i]);
	row.ids = (struct slice){ packed, in->n * 2u };
	rc = parcel_put(&g->p, HANDOVER_INBOUND, &row, row.ids.len, -1);
	free(packed);
	return rc;
}

/* A client and all it has. */
static int
give_conn(struct giver *g, struct conn *c)
{
	int rc;

	if ((rc = give_client(g, c)) < 0 ||
	    (rc = give_subs(g, c)) < 0 ||
	    (rc = give_window(g, c->window)) < 0 ||
	    (rc = give_inbound(g, &c->inbound)) < 0 ||
	    (rc = give_answers(g, c->answers)) < 0 ||
	    (rc = give_aliases(g, c->aliases)) < 0 ||
	    (rc = give_out(g, c)) < 0 ||
	    (rc = groups_each_kept(c, give_kept, g)) < 0)
		return rc;
	queued_rc = 0;
	if (c->mqueue != NULL)
		mqueue_each(c->mqueue, give_queued, g);
	return queued_rc;
}

static int
give_head(struct giver *g, uint64_t frozen_ms)
{
	struct listener		*l = g->l;
	const char		*router = l->tell.router == NULL ? "" :
				    bus_peer_name(l->tell.router);
	const char		*at = l->tell.router == NULL ? "" :
				    bus_peer_endpoint(l->tell.router);
	struct handover_head	 row = {
		.version = HANDOVER_VERSION,
		.name = text_of(proc_name(l->proc)),
		.incarnation = proc_incarnation(l->proc),
		.frozen_ms = frozen_ms,
		.started_ms = l->started_ms,
		.sys_due_ms = l->sys_due_ms,
		.ids_clock = l->ids.clock,
		.ids_origin = l->ids.origin,
		.ids_next = l->ids.next,
		.router_incarnation = l->tell.router == NULL ? 0 :
		    l->tell.router_incarnation,
		.router_name = text_of(router),
		.router_endpoint = text_of(at),
		.route_seq = l->tell.seq, .route_acked = l->tell.acked,
		.serial = l->serial, .token = subscribe_token(0, false),
		.snapshot = l->tell.snapshot,
		.snapshot_first = l->tell.snapshot,	/* all of it again */
	};

	return parcel_put(&g->p, HANDOVER_HEAD, &row, row.name.len +
	    row.router_name.len + row.router_endpoint.len, -1);
}

static int	metric_rc;

static void
give_metric(void *ctx, const struct metric *m)
{
	struct giver		*g = ctx;
	struct handover_metric	 row = { text_of(m->name), metric_get(m) };

	if (metric_rc == 0 && m->kind == METRIC_KIND_COUNTER)
		metric_rc = parcel_put(&g->p, HANDOVER_METRIC, &row,
		    row.name.len, -1);
}

static int
give_metrics(struct giver *g)
{
	metric_rc = 0;
	metric_each_own(give_metric, g);
	return metric_rc;
}

static int
give_piece(void *ctx, const void *piece, size_t len)
{
	struct giver		*g = ctx;
	struct handover_bytes	 row = { { piece, len } };

	return parcel_put(&g->p, HANDOVER_BUS, &row, len, -1);
}

static int
give_peers(struct giver *g)
{
	struct handover_peer	 row;
	const struct peer	*p;
	uint32_t		 i;
	int			 rc;

	for (i = 0; i < PEERS_END; i++) {
		p = &g->l->peers[i];
		if (p->bus == NULL)
			continue;
		row = (struct handover_peer){ i, p->incarnation,
		    text_of(bus_peer_name(p->bus)),
		    text_of(bus_peer_endpoint(p->bus)), p->full,
		    { NULL, 0 } };
		if (i >= FAR_FROM)
			row.node = text_of(bus_peer_node(p->bus));
		if ((rc = parcel_put(&g->p, HANDOVER_PEER, &row, row.name.len +
		    row.endpoint.len + row.node.len, -1)) < 0)
			return rc;
	}
	return bus_export(g->l->bus, give_piece, g);
}

static int	filter_rc;

static int
give_filter(void *ctx, struct index_filter *f)
{
	struct giver		*g = ctx;
	struct handover_filter	 row = { { (uint8_t *)f->text, f->len },
				    route_seq_of(&g->l->tell, f),
				    g->l->tell.snapshot ? 0 : route_told(f),
				    f->is_group,
				    share_of(f),
				    f->is_group ? f->share->cursor : 0 };

	filter_rc = parcel_put(&g->p, HANDOVER_FILTER, &row, f->len +
	    row.share.len, -1);
	return filter_rc;
}

static int
give_share(void *ctx, const struct share_state *st)
{
	struct giver		*g = ctx;
	struct handover_share	 row = { .cursor = st->cursor,
				    .sticky = st->sticky };
	uint8_t			 packed[HANDOVER_GROUP];

	row.group = pack_group(packed, st->id);
	return parcel_put(&g->p, HANDOVER_SHARE, &row, row.group.len, -1);
}

struct waiting {
	struct giver	*g;
	uint32_t	 instance;
};

static int
give_waiter(void *ctx, const struct conn *c, uint64_t seq)
{
	struct waiting		*w = ctx;
	struct handover_waiter	 row = { w->instance, c->fan_slot, seq };

	if (c->state == CONN_DOOMED)
		return 0;		/* only its name is left */
	return parcel_put(&w->g->p, HANDOVER_WAITER, &row, 0, -1);
}

static int
give_sub_wait(void *ctx, const struct sub_wait_view *w)
{
	struct giver		*g = ctx;
	struct handover_sub_wait row = { w->c->fan_slot, w->id, w->type,
				    w->seq, w->deadline_ms, w->codes,
				    w->token, w->unstored, w->asks,
				    w->packet, w->since, w->kept_since };

	if (w->c->state == CONN_DOOMED)
		return 0;
	return parcel_put(&g->p, HANDOVER_SUB_WAIT, &row, w->codes.len +
	    w->packet.len, -1);
}

static int
give_ask(void *ctx, const struct handover_ask *row)
{
	struct giver *g = ctx;

	return parcel_put(&g->p, HANDOVER_ASK, row, row->filter.len +
	    row->cursor.len, -1);
}

static int
give_retained(struct giver *g)
{
	struct handover_live	 row = { .now = retained_now() };
	uint8_t			*buf;
	int			 rc;

	if ((buf = malloc(RETAINED_SAVE)) == NULL)
		return ERR_NOMEM;
	row.ids = (struct slice){ buf, retained_save(buf) };
	rc = parcel_put(&g->p, HANDOVER_LIVE, &row, row.ids.len, -1);
	free(buf);
	return rc < 0 ? rc : retained_each(g->l, give_ask, g);
}

static int
numbers_of(const struct conn *list, uint8_t **out, size_t *len)
{
	const struct conn	*c;
	size_t			 n = 0;

	for (c = list; c != NULL; c = c->list_next)
		n += c->state != CONN_DOOMED;
	if ((*out = malloc(n * 4 + 1)) == NULL)
		return ERR_NOMEM;
	*len = n * 4;
	for (c = list, n = 0; c != NULL; c = c->list_next) {
		if (c->state == CONN_DOOMED)
			continue;
		put_le32(*out + n, c->fan_slot);
		n += 4;
	}
	return 0;
}

static int
give_order(struct giver *g)
{
	struct handover_order	 row;
	uint8_t			*parked = NULL, *waiting = NULL;
	int			 rc;

	memset(&row, 0, sizeof(row));
	if ((rc = numbers_of(g->l->parked, &parked, &row.parked.len)) == 0 &&
	    (rc = numbers_of(g->l->waiting, &waiting,
	    &row.waiting.len)) == 0) {
		row.parked.data = parked;
		row.waiting.data = waiting;
		rc = parcel_put(&g->p, HANDOVER_ORDER, &row, row.parked.len +
		    row.waiting.len, -1);
	}
	free(parked);
	free(waiting);
	return rc;
}

static int
give_all(struct giver *g, uint64_t frozen_ms)
{
	struct listener	*l = g->l;
	struct waiting	 w = { g, 0 };
	struct conn	*c;
	int		 rc;

	if ((rc = give_head(g, frozen_ms)) < 0 ||
	    (rc = give_metrics(g)) < 0 ||
	    (rc = give_peers(g)) < 0)
		return rc;
	for (c = l->conns; c != NULL; c = c->next)
		if ((rc = give_conn(g, c)) < 0)
			return rc;
	filter_rc = 0;
	index_each(l->index, give_filter, g);
	if (filter_rc < 0)
		return filter_rc;
	if ((rc = share_each(&l->shares, give_share, g)) < 0)
		return rc;
	for (; w.instance < PEERS_END; w.instance++)
		if ((rc = answer_waiters_each(&l->peers[w.instance],
		    give_waiter, &w)) < 0)
			return rc;
	if ((rc = subscribe_each(l, give_sub_wait, g)) < 0 ||
	    (rc = give_retained(g)) < 0 ||
	    (rc = give_order(g)) < 0 ||
	    (rc = parcel_put(&g->p, HANDOVER_END, NULL, 0, -1)) < 0)
		return rc;
	return parcel_flush(&g->p);
}

/* The next thing it says that is not how far it is. */
static int
hear(struct parcel *p, unsigned wanted)
{
	union handover_row	row;
	unsigned		kind;
	int			rc;

	do
		if ((rc = parcel_get(p, &kind, &row)) < 0)
			return rc;
	while (kind == HANDOVER_SEEN);
	return kind == wanted ? 0 : ERR_PROTO;
}

static int
say(struct parcel *p, enum handover_kind kind)
{
	int rc;

	if ((rc = parcel_put(p, kind, NULL, 0, -1)) < 0)
		return rc;
	return parcel_flush(p);
}

/*
 * It comes to nothing, whatever the other side does from here on; unless it
 * has taken already: then false.
 */
static bool
take_back(struct parcel *p)
{
	p->out_len = 0;			/* what has left may be half of it */
	p->nfds = 0;
	(void)parcel_put(p, HANDOVER_ABORT, NULL, 0, -1);
	if (p->out_len > 0)
		(void)!send(p->fd, p->out, p->out_len,
		    MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)shutdown(p->fd, SHUT_RDWR);
	p->deadline_ms = mono_ms() + 1000;	/* only to read what is there */
	return hear(p, HANDOVER_TAKEN) < 0;
}

/* 0: the place is the other one's. */
static int
give(struct giver *g, uint64_t frozen_ms)
{
	int rc;

	if ((rc = give_all(g, frozen_ms)) < 0 ||
	    (rc = hear(&g->p, HANDOVER_PREPARED)) < 0)
		return rc;
	(void)fault_hit("handover.commit");
	if ((rc = say(&g->p, HANDOVER_COMMIT)) < 0)
		return rc;
	(void)fault_hit("handover.committed");
	return hear(&g->p, HANDOVER_TAKEN);
}

/* We did not listen for a while: no blame. */
static void
forgive(struct listener *l, uint64_t ms)
{
	struct conn *c;

	for (c = l->conns; c != NULL; c = c->next) {
		c->heard_ms += ms;
		if (wheel_is_set(&c->timer))
			wheel_set(&l->wheel, &c->timer,
			    c->timer.deadline_ms + ms);
	}
}

static const char *
reason(const struct parcel *p, int rc, bool giving)
{
	if (p->why[0] != '\0')
		return p->why;
	if (rc == ERR_AGAIN)
		return giving ? "the new process took too long" :
		    "the old process took too long";
	if (rc == ERR_IO && (errno == EPIPE || errno == ECONNRESET))
		return giving ? "the new process is gone" :
		    "the old process died or gave up";
	if (rc == ERR_PROTO)
		return giving ? "the new process said something wrong" :
		    "the old process said something wrong";
	return err_str(rc);
}

static void
give_place(struct listener *l)
{
	struct giver	 g = { .l = l };
	uint64_t	 frozen_ms = mono_ms(), ms;
	int		 rc, fd = l->handover_fd, err;

	l->handover_fd = -1;
	bus_flush(l->bus);
	htab_init(&g.shared);
	parcel_init(&g.p, fd, deadline(l), "handover.send");
	rc = give(&g, frozen_ms);
	err = errno;
	told_free(&g);
	if (rc == 0 || !take_back(&g.p)) {
		log_info("handover.given", "clients=%u ms=%llu", g.nclients,
		    (unsigned long long)(mono_ms() - frozen_ms));
		_exit(0);	/* what we hold is somebody else's */
	}
	errno = err;
	ms = mono_ms() - frozen_ms;
	log_warn("handover.failed", "clients=%u ms=%llu why=%s", g.nclients,
	    (unsigned long long)ms, log_quote(reason(&g.p, rc, true)));
	forgive(l, ms);
	proc_handover_failed(l->proc, reason(&g.p, rc, true));
	parcel_fini(&g.p);
	close(fd);
}

/* Nothing may be under way within: then all there is stands in its place. */
void
handover_turn(struct listener *l)
{
	int i;

	if (l->handover_fd < 0)
		return;
	for (i = 0; i < 100 && (l->doomed != NULL || l->dirty != NULL); i++) {
		client_reap(l);
		out_flush_dirty(l);
		routes_flush(l);
		flow_flush(l);
	}
	if (l->draining) {
		close(l->handover_fd);
		l->handover_fd = -1;
		proc_handover_failed(l->proc, "it is draining");
	} else if (!l->job.active && l->doomed == NULL && l->dirty == NULL &&
	    l->tell.ndirty == 0) {
		session_settle(l);
		give_place(l);
	}
}

/* --- Taking ----------------------------------------------------------------- */

/* Where a member is to stand in its group when all are there. */
struct place {
	struct index_filter *group;
	struct index_owner *owner;
	uint32_t	 at;
};

struct taker {
	struct listener	*l;
	struct parcel	 p;
	bool		 headed;
	uint64_t	 frozen_ms;
	struct conn	**clients;
	struct message	**messages;
	struct blob	**blobs;
	size_t		 nclients, nmessages, nblobs;
	struct conn	*c;		/* the last one */
	struct place	*places;
	size_t		 nplaces, cap_places;
	struct {
		bool	 there;
		uint64_t incarnation;
		char	 name[BUS_NAME_MAX], endpoint[BUS_ENDPOINT_MAX];
		char	 node[BUS_NODE_MAX];
	} *peers, router;		/* by instance */
};

/* Append item to a list that grows by doubling. */
static int
list_add(void *list, size_t *n, void *item)
{
	void	***at = list, **grown;

	if ((*n & (*n - 1)) == 0) {
		grown = realloc(*at, (*n == 0 ? 1 : *n * 2) * sizeof(*grown));
		if (grown == NULL)
			return ERR_NOMEM;
		*at = grown;
	}
	(*at)[(*n)++] = item;
	return 0;
}

static bool
copy_text(char *out, size_t size, const struct slice *s)
{
	if (s->len == 0 || s->len >= size ||
	    memchr(s->data, '\0', s->len) != NULL)
		return false;
	memcpy(out, s->data, s->len);
	out[s->len] = '\0';
	return true;
}

static bool
same_text(const struct slice *s, const char *text)
{
	return s->len == strlen(text) && memcmp(s->data, text, s->len) == 0;
}

static int
take_head(struct taker *t, const struct handover_head *h)
{
	struct listener *l = t->l;

	if (h->version == 0 || h->version > HANDOVER_VERSION)
		return ERR_STALE;
	if (t->headed || !same_text(&h->name, proc_name(l->proc)) ||
	    h->incarnation != proc_incarnation(l->proc))
		return ERR_PROTO;
	if (h->router_incarnation != 0 && (!copy_text(t->router.name,
	    sizeof(t->router.name), &h->router_name) ||
	    !copy_text(t->router.endpoint, sizeof(t->router.endpoint),
	    &h->router_endpoint)))
		return ERR_PROTO;
	t->headed = true;
	t->router.incarnation = h->router_incarnation;
	t->frozen_ms = h->frozen_ms;
	l->started_ms = h->started_ms;
	l->sys_due_ms = h->sys_due_ms;
	l->ids = (struct msgid_gen){ h->ids_clock, h->ids_origin,
	    h->ids_next };
	l->tell.router_incarnation = h->router_incarnation;
	l->tell.seq = h->route_seq;
	l->tell.acked = h->route_acked;
	if (h->snapshot)
		route_tell_anew(&l->tell);
	l->serial = h->serial;
	subscribe_token(h->token, true);
	return 0;
}

static int
take_metric(struct taker *t UNUSED, const struct handover_metric *m)
{
	char		name[128];
	struct metric	*own;

	if (copy_text(name, sizeof(name), &m->name) &&
	    (own = metric_find(name)) != NULL &&
	    own->kind == METRIC_KIND_COUNTER)
		metric_set(own, m->value);
	return 0;
}

static int
take_peer(struct taker *t, const struct handover_peer *p)
{
	if (p->instance >= PEERS_END ||
	    p->instance == t->l->self || (p->instance < FAR_FROM ?
	    p->incarnation == 0 : !copy_text(t->peers[p->instance].node,
	    sizeof(t->peers[0].node), &p->node)) ||
	    !copy_text(t->peers[p->instance].name,
	    sizeof(t->peers[0].name), &p->name) ||
	    !copy_text(t->peers[p->instance].endpoint,
	    sizeof(t->peers[0].endpoint), &p->endpoint))
		return ERR_PROTO;
	t->peers[p->instance].incarnation = p->incarnation;
	t->peers[p->instance].there = true;
	t->l->peers[p->instance].full = p->full;
	return 0;
}

static int
take_blob(struct taker *t, const struct handover_bytes *b)
{
	struct blob *blob;

	if ((blob = blob_new(b->bytes.len)) == NULL)
		return ERR_NOMEM;
	if (b->bytes.len > 0)
		memcpy(blob->data, b->bytes.data, b->bytes.len);
	if (list_add(&t->blobs, &t->nblobs, blob) < 0) {
		blob_unref(&blob);
		return ERR_NOMEM;
	}
	return 0;
}

static int
take_message(struct taker *t, const struct handover_message *h)
{
	struct message_view	 v = {
		.topic = h->topic, .props = h->props, .payload = h->payload,
		.client_id = h->client_id, .expiry_s = h->expiry_s,
		.qos = (uint8_t)h->qos, .retain = h->retain,
	};
	struct blob		*blob = NULL;
	struct message		*m;

	if (h->blob > t->nblobs)
		return ERR_PROTO;
	if (h->blob > 0) {
		blob = t->blobs[h->blob - 1];
		v.payload = (struct slice){ blob->data, blob->len };
	}
	if ((m = message_new(&v, blob, h->arrived_ms)) == NULL)
		return ERR_NOMEM;
	m->id_hi = h->id_hi;
	m->id_lo = h->id_lo;
	if (list_add(&t->messages, &t->nmessages, m) < 0) {
		message_unref(&m);
		return ERR_NOMEM;
	}
	return 0;
}

static int
keep_text(char **out, const struct slice *s)
{
	if (s->len > 0 && memchr(s->data, '\0', s->len) != NULL)
		return ERR_PROTO;
	if ((*out = malloc(s->len + 1)) == NULL)
		return ERR_NOMEM;
	if (s->len > 0)
		memcpy(*out, s->data, s->len);
	(*out)[s->len] = '\0';
	return 0;
}

static void
client_fields(struct conn *c, const struct handover_client *h)
{
	c->state = (uint8_t)h->state;
	c->version = (uint8_t)h->version;
	c->clean_start = (h->flags & HANDOVER_CLEAN_START) != 0;
	c->blocked = (h->flags & HANDOVER_BLOCKED) != 0;
	c->deaf = (h->flags & HANDOVER_DEAF) != 0;
	c->graceful = (h->flags & HANDOVER_GRACEFUL) != 0;
	c->eof = (h->flags & HANDOVER_EOF) != 0;
	c->expiry_asked = (h->flags & HANDOVER_EXPIRY_ASKED) != 0;
	c->ended = (h->flags & HANDOVER_ENDED) != 0;
	c->attached = (h->flags & HANDOVER_ATTACHED) != 0;
	c->alone = (h->flags & HANDOVER_ALONE) != 0;
	c->has_will = (h->flags & HANDOVER_HAS_WILL) != 0;
	c->straight = (h->flags & HANDOVER_STRAIGHT) != 0;
	c->serial = h->serial;
	c->handle = h->handle;
	c->attach_ns = h->attach_ns;
	c->since_ms = h->since_ms;
	c->heard_ms = h->heard_ms;
	c->msgs_in = h->msgs_in;
	c->msgs_out = h->msgs_out;
	c->bytes_in = h->bytes_in;
	c->bytes_out = h->bytes_out;
	c->dropped = h->dropped;
	c->unheard = h->unheard;
	c->max_packet = h->max_packet;
	c->packet_granted = h->packet_granted;
	c->asked = h->asked;
	c->receive_maximum = (uint16_t)h->receive_maximum;
	c->inflight_in = (uint16_t)h->inflight_in;
	c->alias_max = (uint16_t)h->alias_max;
	c->receive_granted = (uint16_t)h->receive_granted;
	c->alias_granted = (uint16_t)h->alias_granted;
	c->keepalive_s = (uint16_t)h->keepalive_s;
	c->qos_granted = (uint8_t)h->qos_granted;
	c->parked_for = (uint16_t)MIN(h->parked_for, (uint32_t)PEERS_END);
	c->parked_qos = (uint8_t)h->parked_qos;
}

/* It waits for its desk's answer, unread. */
static int
attach_fields(struct conn *c, const struct handover_client *h)
{
	if ((c->attach = calloc(1, sizeof(*c->attach))) == NULL)
		return ERR_NOMEM;
	c->attach->expiry_s = h->expiry_s;
	c->attach->seq = h->routes_seq;
	c->attach->durable = (h->flags & HANDOVER_DURABLE) != 0;
	c->attach->assigned = (h->flags & HANDOVER_ASSIGNED) != 0;
	c->attach->wants_info = (h->flags & HANDOVER_WANTS_INFO) != 0;
	c->attach->keepalive_told = (h->flags & HANDOVER_KEEPALIVE_TOLD) != 0;
	c->attach->expiry_told = (h->flags & HANDOVER_EXPIRY_TOLD) != 0;
	c->parked = true;
	return 0;
}

static int
take_client(struct taker *t, const struct handover_client *h)
{
	struct listener	*l = t->l;
	struct conn	*c;
	int		 fd, rc;

	if ((fd = parcel_fd(&t->p)) < 0)
		return ERR_PROTO;
	if ((c = client_new(l, fd)) == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	t->c = c;
	client_fields(c, h);
	if ((rc = publish_load(l, c, &h->sourced)) < 0)
		return rc;
	wheel_clear(&l->wheel, &c->timer);
	if (h->deadline_ms != 0)
		wheel_set(&l->wheel, &c->timer, h->deadline_ms);
	if ((h->has_id && (rc = keep_text(&c->client_id,
	    &h->client_id)) < 0) ||
	    (h->has_username && (rc = keep_text(&c->username,
	    &h->username)) < 0))
		return rc;
	c->client_id_len = (uint16_t)h->client_id.len;
	if (h->stash.len > 0) {
		if ((c->stash = malloc(h->stash.len)) == NULL)
			return ERR_NOMEM;
		memcpy(c->stash, h->stash.data, h->stash.len);
		c->stash_len = c->stash_cap = (uint32_t)h->stash.len;
		c->stash_need = h->stash_need;
	}
	if (c->state == CONN_ATTACHING && (rc = attach_fields(c, h)) < 0)
		return rc;
	if (c->serial != 0 && (rc = session_restore(l, c)) < 0)
		return rc;
	if (h->has_id && !c->ended && c->state != CONN_ATTACHING &&
	    (rc = connect_restore(l, c)) < 0)
		return rc;
	return list_add(&t->clients, &t->nclients, c);
}

static int
place_add(struct taker *t, struct index_filter *group, uint32_t at)
{
	struct place	*grown;
	size_t		 cap;

	if (t->nplaces == t->cap_places) {
		cap = t->cap_places == 0 ? 64 : t->cap_places * 2;
		if ((grown = realloc(t->places, cap * sizeof(*grown))) == NULL)
			return ERR_NOMEM;
		t->places = grown;
		t->cap_places = cap;
	}
	t->places[t->nplaces++] = (struct place){ group, &t->c->subs, at };
	return 0;
}

static int
take_sub(struct taker *t, const struct handover_sub *s)
{
	struct index_sub	 opts;
	struct index_filter	*f;
	const char		*text = (const char *)s->text.data;
	int			 rc;

	if (topic_filter_check(s->text.data, s->text.len,
	    INDEX_LEVELS_MAX) < 0)
		return ERR_PROTO;
	memset(&opts, 0, sizeof(opts));
	opts.id = s->id & 0xfffffff;
	opts.qos = s->qos & 3;
	opts.no_local = s->no_local;
	opts.rap = s->rap;
	if (!s->shared)
		return MIN(index_subscribe(t->l->index, &t->c->subs, text,
		    s->text.len, &opts, &f), 0);
	if ((rc = index_share(t->l->index, &t->c->subs, &s->share, text,
	    s->text.len, &opts, &f)) < 0 ||
	    (rc = groups_learn(t->l, f)) < 0)
		return rc;
	return s->place == 0 ? 0 : place_add(t, f, s->place - 1);
}

static int
take_queued(struct taker *t, const struct handover_queued *q)
{
	struct conn		*c = t->c;
	struct mqueue_how	 how = { .qos = (uint8_t)q->qos,
				    .retain = q->retain };
	struct group_id		 group;
	uint32_t		*ids = NULL, i;
	int			 rc;

	if (q->message == 0 || q->message > t->nmessages)
		return ERR_PROTO;
	if (c->mqueue == NULL &&
	    (c->mqueue = calloc(1, sizeof(*c->mqueue))) == NULL)
		return ERR_NOMEM;
	how.nids = (uint16_t)(q->ids.len / 4);
	if (how.nids > 0) {
		if ((ids = malloc(how.nids * sizeof(*ids))) == NULL)
			return ERR_NOMEM;
		for (i = 0; i < how.nids; i++)
			ids[i] = get_le32(q->ids.data + 4 * i);
		how.ids = ids;
	}
	if (q->group.len > 0) {
		group = group_of(&q->group);
		how.group = &group;
	}
	/* All of them: what is bounded is what comes, not what is here. */
	rc = mqueue_push(c->mqueue, t->messages[q->message - 1], &how,
	    UINT32_MAX, SIZE_MAX, NULL);
	free(ids);
	return rc;
}

static int
take_kept(struct taker *t, const struct handover_kept *k)
{
	if (k->message == 0 || k->message > t->nmessages)
		return ERR_PROTO;
	return groups_keep_message(t->c, t->messages[k->message - 1],
	    group_of(&k->group), (uint16_t)k->id);
}

static int
take_out(struct taker *t, const struct handover_out *o)
{
	struct conn	*c = t->c;
	struct blob	*b;
	uint8_t		*p;

	if (o->blob == 0) {
		if (o->data.len == 0 || o->data.len > UINT32_MAX / 2)
			return ERR_PROTO;
		if ((p = out_reserve(t->l, c, o->data.len)) == NULL)
			return ERR_NOMEM;
		memcpy(p, o->data.data, o->data.len);
		return 0;
	}
	if (o->blob > t->nblobs)
		return ERR_PROTO;
	b = t->blobs[o->blob - 1];
	if (o->end > b->len)
		return ERR_PROTO;
	if (!out_blob(t->l, c, b, o->end))
		return ERR_NOMEM;
	c->out.tail->begin = o->begin;
	c->out.bytes -= o->begin;
	return 0;
}

/* Waits for peers that are not told of are over. */
static int
take_answer(struct taker *t, const struct handover_answer *h)
{
	struct answer	 a = { .id = (uint16_t)h->id, .type = (uint8_t)h->type,
			    .reason = (uint8_t)h->reason,
			    .straight = h->straight };
	struct wait	*w, one;
	const uint8_t	*at = h->waits.data;
	size_t		 n = h->waits.len / HANDOVER_WAIT, i;
	uint32_t	 instance;
	int		 rc;

	if ((w = malloc((n + 1) * sizeof(*w))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++, at += HANDOVER_WAIT) {
		if ((instance = get_le32(at)) >= PEERS_END ||
		    !t->peers[instance].there)
			continue;
		w[a.nwaits].peer = &t->l->peers[instance];
		w[a.nwaits].epoch = w[a.nwaits].peer->epoch;
		w[a.nwaits++].seq = get_le64(at + 4);
	}
	one = w[0];
	if (a.nwaits <= 1)
		free(w);
	if (a.nwaits == 1)
		a.one = one;
	else if (a.nwaits > 1)
		a.many = w;
	if ((rc = answer_restore(t->c, &a)) < 0 && a.nwaits > 1)
		free(w);
	return rc;
}

static int
aliases_of(struct conn *c, struct aliases **out)
{
	if (c->aliases == NULL)
		c->aliases = calloc(1, sizeof(*c->aliases));
	*out = c->aliases;
	return c->aliases == NULL ? ERR_NOMEM : 0;
}

static int
take_alias_in(struct taker *t, const struct handover_alias *h)
{
	struct aliases	*a;
	struct alias_in	*in, **grown;

	if (h->alias > t->c->alias_granted)
		return ERR_PROTO;
	if (aliases_of(t->c, &a) < 0)
		return ERR_NOMEM;
	if (h->alias > a->nin) {
		grown = realloc(a->in, h->alias * sizeof(*grown));
		if (grown == NULL)
			return ERR_NOMEM;
		memset(grown + a->nin, 0, (h->alias - a->nin) *
		    sizeof(*grown));
		a->in = grown;
		a->nin = (uint16_t)h->alias;
	}
	if (a->in[h->alias - 1] != NULL)
		return ERR_PROTO;
	if ((in = malloc(sizeof(*in) + h->topic.len)) == NULL)
		return ERR_NOMEM;
	in->len = (uint16_t)h->topic.len;
	memcpy(in->topic, h->topic.data, h->topic.len);
	a->in[h->alias - 1] = in;
	a->in_bytes += (uint32_t)h->topic.len;
	return 0;
}

static int
take_alias_out(struct taker *t, const struct handover_alias *h)
{
	struct aliases		*a;
	struct alias_out	*o;

	if (aliases_of(t->c, &a) < 0)
		return ERR_NOMEM;
	if (h->alias != a->nout + 1u || h->alias > ALIASES_OUT_MAX)
		return ERR_PROTO;
	o = &a->out[a->nout];
	if ((o->topic = malloc(h->topic.len)) == NULL)
		return ERR_NOMEM;
	memcpy(o->topic, h->topic.data, h->topic.len);
	o->len = (uint16_t)h->topic.len;
	o->hash = XXH3_64bits(h->topic.data, h->topic.len);
	a->nout++;
	return 0;
}

static int
take_window(struct taker *t, const struct handover_window *h)
{
	struct window_cell	*cells;
	size_t			 n = h->cells.len / HANDOVER_CELL, i;
	int			 rc;

	if (t->c->window != NULL)
		return ERR_PROTO;
	if ((cells = malloc((n + 1) * sizeof(*cells))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++) {
		cells[i].id = get_le16(h->cells.data + HANDOVER_CELL * i);
		cells[i].state = h->cells.data[HANDOVER_CELL * i + 2];
	}
	rc = window_import(&t->c->window, cells, (uint32_t)n,
	    (uint16_t)h->next, (uint16_t)h->max);
	free(cells);
	return rc;
}

static int
take_inbound(struct taker *t, const struct handover_inbound *h)
{
	uint16_t	*ids;
	size_t		 n = h->ids.len / 2, i;
	int		 rc;

	if (t->c->inbound.n > 0)
		return ERR_PROTO;
	if ((ids = malloc((n + 1) * sizeof(*ids))) == NULL)
		return ERR_NOMEM;
	for (i = 0; i < n; i++)
		ids[i] = get_le16(h->ids.data + 2 * i);
	rc = inbound_import(&t->c->inbound, ids, (uint32_t)n);
	free(ids);
	return rc;
}

static int
take_filter(struct taker *t, const struct handover_filter *h)
{
	struct index_filter *f = index_find(t->l->index, h->shared ?
	    &h->share : NULL, (const char *)h->text.data, h->text.len);

	if (f == NULL)
		return ERR_PROTO;
	f->route_seq = (uint32_t)h->route_seq;
	route_told_set(f, h->told);
	if (f->is_group)
		f->share->cursor = h->cursor;
	return 0;
}

static int
take_share(struct taker *t, const struct handover_share *h)
{
	struct share_state *st = share_state(&t->l->shares,
	    group_of(&h->group), 0);

	if (st == NULL)
		return ERR_NOMEM;
	st->cursor = h->cursor;
	st->sticky = h->sticky;
	return 0;
}

/* Members stand in the order in which they stood: hashes and habits go by it. */
static int
take_places(struct taker *t)
{
	size_t i;

	for (i = 0; i < t->nplaces; i++)
		if (index_place(t->places[i].group, t->places[i].owner,
		    t->places[i].at) < 0)
			return ERR_PROTO;
	return 0;
}

static struct conn *
client_of(const struct taker *t, uint32_t number)
{
	return number == 0 || number > t->nclients ? NULL :
	    t->clients[number - 1];
}

static int
take_waiter(struct taker *t, const struct handover_waiter *h)
{
	struct conn *c = client_of(t, h->client);

	if (c == NULL || h->instance >= PEERS_END ||
	    !t->peers[h->instance].there)
		return ERR_PROTO;
	return answer_waiter_restore(&t->l->peers[h->instance], c, h->seq);
}

static int
take_sub_wait(struct taker *t, const struct handover_sub_wait *h)
{
	struct sub_wait_view v = { client_of(t, h->client), h->seq,
	    h->deadline_ms, (uint16_t)h->id, (uint8_t)h->type, h->codes,
	    h->token, h->unstored, h->asks, h->packet, h->since,
	    h->kept_since };

	return v.c == NULL ? ERR_PROTO : subscribe_restore(t->l, &v);
}

static int
take_order(struct taker *t, const struct handover_order *h)
{
	struct listener	*l = t->l;
	struct conn	*c, **tail = &l->waiting;
	size_t		 i;

	for (i = 0; i < h->parked.len; i += 4) {
		c = client_of(t, get_le32(h->parked.data + i));
		if (c == NULL || c->parked || c->waiting)
			return ERR_PROTO;
		c->parked = true;
		client_hold(c);
		*l->parked_tail = c;
		l->parked_tail = &c->list_next;
	}
	for (i = 0; i < h->waiting.len; i += 4) {
		c = client_of(t, get_le32(h->waiting.data + i));
		if (c == NULL || c->parked || c->waiting)
			return ERR_PROTO;
		c->waiting = true;
		client_hold(c);
		*tail = c;
		tail = &c->list_next;
	}
	return 0;
}

/* What belongs to the client before it, which must be there. */
static int
take_of_client(struct taker *t, enum handover_kind kind,
    const union handover_row *row)
{
	if (t->c == NULL)
		return ERR_PROTO;
	switch ((unsigned)kind) {
	case HANDOVER_SUB:
		return take_sub(t, &row->sub);
	case HANDOVER_QUEUED:
		return take_queued(t, &row->queued);
	case HANDOVER_KEPT:
		return take_kept(t, &row->kept);
	case HANDOVER_OUT:
		return take_out(t, &row->out);
	case HANDOVER_ANSWER:
		return take_answer(t, &row->answer);
	case HANDOVER_ALIAS_IN:
		return take_alias_in(t, &row->alias);
	case HANDOVER_ALIAS_OUT:
		return take_alias_out(t, &row->alias);
	case HANDOVER_WINDOW:
		return take_window(t, &row->window);
	case HANDOVER_INBOUND:
		return take_inbound(t, &row->inbound);
	}
	return ERR_PROTO;
}

static int
take_row(struct taker *t, enum handover_kind kind,
    const union handover_row *row)
{
	if (!t->headed && kind != HANDOVER_HEAD)
		return ERR_PROTO;
	switch ((unsigned)kind) {
	case HANDOVER_HEAD:
		return take_head(t, &row->head);
	case HANDOVER_METRIC:
		return take_metric(t, &row->metric);
	case HANDOVER_PEER:
		return take_peer(t, &row->peer);
	case HANDOVER_BUS:
		return bus_import(t->l->bus, row->bytes.bytes.data,
		    row->bytes.bytes.len);
	case HANDOVER_BLOB:
		return take_blob(t, &row->bytes);
	case HANDOVER_MESSAGE:
		return take_message(t, &row->message);
	case HANDOVER_CLIENT:
		return take_client(t, &row->client);
	case HANDOVER_FILTER:
		return take_filter(t, &row->filter);
	case HANDOVER_SHARE:
		return take_share(t, &row->share);
	case HANDOVER_WAITER:
		return take_waiter(t, &row->waiter);
	case HANDOVER_SUB_WAIT:
		return take_sub_wait(t, &row->sub_wait);
	case HANDOVER_ASK:
		return retained_restore(t->l, &row->ask);
	case HANDOVER_LIVE:
		retained_load(&row->live);
		return 0;
	case HANDOVER_ORDER:
		return take_order(t, &row->order);
	}
	return take_of_client(t, kind, row);
}

static int
take_all(struct taker *t)
{
	const struct index_limits	none = { UINT32_MAX, UINT32_MAX };
	union handover_row		row;
	unsigned			kind;
	int				rc;

	/* A limit that is lower now is for who subscribes from now on. */
	index_set_limits(t->l->index, &none);
	for (;;) {
		if ((rc = parcel_get(&t->p, &kind, &row)) < 0)
			return rc;
		if (kind == HANDOVER_END)
			break;
		if (kind == HANDOVER_ABORT) {
			errno = EPIPE;
			return ERR_IO;
		}
		if ((rc = take_row(t, (enum handover_kind)kind, &row)) < 0)
			return rc;
	}
	main_limits(t->l);
	if (!t->headed || t->p.ngot > 0)
		return ERR_PROTO;
	if ((rc = take_places(t)) < 0)
		return rc;
	return bus_import_end(t->l->bus);
}

/* Is the place ours? See the beginning of this file. */
static int
settle(struct taker *t)
{
	union handover_row	row;
	unsigned		kind;
	int			rc;

	/* The supervisor first: it decides by that when the old one dies. */
	proc_prepared(t->l->proc);
	if ((rc = say(&t->p, HANDOVER_PREPARED)) < 0 && errno != EPIPE)
		return rc;
	(void)fault_hit("handover.prepared");
	rc = parcel_get(&t->p, &kind, &row);
	if (rc == 0 && kind == HANDOVER_COMMIT) {
		(void)fault_hit("handover.take");
		if (say(&t->p, HANDOVER_TAKEN) == 0)
			return 0;
		rc = parcel_get(&t->p, &kind, &row);
	}
	if (rc == ERR_IO && (errno == EPIPE || errno == ECONNRESET))
		return 0;		/* no ABORT: it is dead */
	if (rc == 0) {
		errno = EPIPE;
		rc = ERR_IO;
	}
	return rc;
}

static void
peer_resume(struct listener *l, struct peer *p, const char *name,
    uint64_t incarnation, const char *endpoint)
{
	int rc;

	rc = bus_peer_open(&p->bus, l->bus, name, incarnation, endpoint, p);
	if (rc < 0) {			/* as if it had died */
		log_error("peer.open", "peer=%s error=%s", name,
		    log_quote(err_str(rc)));
		p->bus = NULL;
		p->epoch++;
		answer_lost(l, p);
		return;
	}
	p->incarnation = incarnation;
	p->is_store = p >= &l->peers[PEERS_MAX];
	p->moved_ms = l->now_ms;
	l->nremote++;
}

/* The same of another node. */
static void
far_back(struct listener *l, uint32_t instance, const char *node)
{
	if (far_resume(l, instance, node) == 0)
		return;
	l->peers[instance].epoch++;
	l->peers[instance + 1].epoch++;
	answer_lost(l, &l->peers[instance]);
	answer_lost(l, &l->peers[instance + 1]);
}

/* From here on everybody may see us. */
static void
go_on(struct taker *t)
{
	struct listener	*l = t->l;
	struct conn	*c;
	uint32_t	 i;
	int		 rc;

	l->now_ms = mono_ms();
	if ((rc = bus_bind(l->bus)) < 0)
		fatal(EX_OSERR, "bus.open", "cannot bind %s: %s",
		    proc_endpoint(l->proc), err_str(rc));
	for (i = 0; i < PEERS_END; i++) {
		if (!t->peers[i].there || (i >= FAR_FROM && (i & 1) != 0))
			continue;
		if (i >= FAR_FROM)
			far_back(l, i, t->peers[i].node);
		else
			peer_resume(l, &l->peers[i], t->peers[i].name,
			    t->peers[i].incarnation, t->peers[i].endpoint);
	}
	if (t->router.incarnation != 0 && bus_peer_open(&l->tell.router, l->bus,
	    t->router.name, t->router.incarnation, t->router.endpoint,
	    NULL) < 0)
		l->tell.router = NULL;	/* PEERS opens it anew, with all rows */
	for (c = l->conns; c != NULL; c = c->next)
		client_watch(l, c);
	forgive(l, l->now_ms - MIN(t->frozen_ms, l->now_ms));
	l->unpark = l->ready = true;
	metric_set(&m_subscriptions, index_nsubs(l->index));
	metric_set(&m_filters, index_nfilters(l->index));
	log_info("handover.taken", "clients=%zu ms=%llu", t->nclients,
	    (unsigned long long)(l->now_ms - MIN(t->frozen_ms, l->now_ms)));
	proc_taken(l->proc);
	routes_turn(l);			/* before anybody publishes */
}

static void
taker_fini(struct taker *t)
{
	size_t i;

	for (i = 0; i < t->nmessages; i++)
		message_unref(&t->messages[i]);
	for (i = 0; i < t->nblobs; i++)
		blob_unref(&t->blobs[i]);
	free(t->messages);
	free(t->blobs);
	free(t->clients);
	free(t->places);
	free(t->peers);
	parcel_fini(&t->p);
}

/* We never were. The sockets are the other one's: they are not shut, only
 * closed here. */
static void
give_up(struct taker *t, int rc)
{
	struct handover_refused	 row;
	const char		*why = rc == ERR_STALE ?
	    "the old process is of a later version" : reason(&t->p, rc, false);

	log_error("handover.failed", "clients=%zu why=%s", t->nclients,
	    log_quote(why));
	row.why = text_of(why);
	t->p.out_len = 0;
	t->p.nfds = 0;
	t->p.deadline_ms = mono_ms() + 100;
	if (parcel_put(&t->p, HANDOVER_REFUSED, &row, row.why.len, -1) == 0)
		(void)parcel_flush(&t->p);
	proc_handover_failed(t->l->proc, why);
	_exit(EX_TEMPFAIL);
}

static void
take_place(struct listener *l, int fd)
{
	struct taker	t = { .l = l };
	int		rc;

	parcel_init(&t.p, fd, deadline(l), "handover.recv");
	if ((t.peers = calloc(PEERS_END, sizeof(*t.peers))) == NULL)
		give_up(&t, ERR_NOMEM);
	if ((rc = take_all(&t)) < 0 || (rc = settle(&t)) < 0)
		give_up(&t, rc);
	go_on(&t);
	taker_fini(&t);
	close(fd);
}

/*
 * The kernel lets a grace period pass, some 10 ms, each time it makes the table
 * of descriptors of a process with threads larger: better now, without threads
 * and before the other one stands still.
 */
void
handover_expect(void)
{
	struct rlimit	rl;
	int		fd;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return;
	fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC,
	    (int)MIN(rl.rlim_cur - 1, (rlim_t)UINT16_MAX));
	if (fd >= 0)
		close(fd);
}

void
on_handover(void *ctx, int fd, bool give)
{
	struct listener *l = ctx;

	if (!give) {
		take_place(l, fd);
		return;
	}
	if (l->handover_fd >= 0)
		close(l->handover_fd);
	l->handover_fd = fd;		/* at the end of this turn */
}

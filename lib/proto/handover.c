#include "proto/handover.h"

#include "base/err.h"

/* Field numbers are places in these tables: append only. */
#define COL(n, type, row, member) \
	{ n, type, offsetof(struct handover_##row, member) }

static const struct wire_col head_cols[] = {
	COL(1, WIRE_U32, head, version),
	COL(2, WIRE_SLICE, head, name),
	COL(3, WIRE_U64, head, incarnation),
	COL(4, WIRE_U64, head, frozen_ms),
	COL(5, WIRE_U64, head, started_ms),
	COL(6, WIRE_U64, head, sys_due_ms),
	COL(7, WIRE_U64, head, ids_clock),
	COL(8, WIRE_U64, head, ids_origin),
	COL(9, WIRE_U32, head, ids_next),
	COL(10, WIRE_U64, head, router_incarnation),
	COL(11, WIRE_SLICE, head, router_name),
	COL(12, WIRE_SLICE, head, router_endpoint),
	COL(13, WIRE_U64, head, route_seq),
	COL(14, WIRE_U64, head, route_acked),
	COL(15, WIRE_BOOL, head, snapshot),
	COL(16, WIRE_BOOL, head, snapshot_first),
	COL(17, WIRE_U64, head, serial),
	COL(18, WIRE_U32, head, token),
};

static const struct wire_col metric_cols[] = {
	COL(1, WIRE_SLICE, metric, name),
	COL(2, WIRE_U64, metric, value),
};

static const struct wire_col peer_cols[] = {
	COL(1, WIRE_U32, peer, instance),
	COL(2, WIRE_U64, peer, incarnation),
	COL(3, WIRE_SLICE, peer, name),
	COL(4, WIRE_SLICE, peer, endpoint),
	COL(5, WIRE_BOOL, peer, full),
	COL(6, WIRE_SLICE, peer, node),
};

static const struct wire_col bytes_cols[] = {
	COL(1, WIRE_SLICE, bytes, bytes),
};

static const struct wire_col message_cols[] = {
	COL(1, WIRE_SLICE, message, topic),
	COL(2, WIRE_SLICE, message, props),
	COL(3, WIRE_SLICE, message, payload),
	COL(4, WIRE_U32, message, blob),
	COL(5, WIRE_U32, message, expiry_s),
	COL(6, WIRE_U32, message, qos),
	COL(7, WIRE_BOOL, message, retain),
	COL(8, WIRE_U64, message, arrived_ms),
	COL(9, WIRE_U64, message, id_hi),
	COL(10, WIRE_U64, message, id_lo),
	COL(11, WIRE_SLICE, message, client_id),
};

static const struct wire_col client_cols[] = {
	COL(1, WIRE_SLICE, client, client_id),
	COL(2, WIRE_SLICE, client, username),
	COL(3, WIRE_SLICE, client, stash),
	COL(4, WIRE_BOOL, client, has_id),
	COL(5, WIRE_BOOL, client, has_username),
	COL(6, WIRE_U32, client, stash_need),
	COL(7, WIRE_U32, client, state),
	COL(8, WIRE_U32, client, version),
	COL(9, WIRE_U32, client, flags),
	COL(10, WIRE_U64, client, attach_ns),
	COL(11, WIRE_U64, client, since_ms),
	COL(12, WIRE_U64, client, heard_ms),
	COL(13, WIRE_U64, client, deadline_ms),
	COL(14, WIRE_U64, client, msgs_in),
	COL(15, WIRE_U64, client, msgs_out),
	COL(16, WIRE_U64, client, bytes_in),
	COL(17, WIRE_U64, client, bytes_out),
	COL(18, WIRE_U32, client, dropped),
	COL(19, WIRE_U32, client, unheard),
	COL(20, WIRE_U32, client, max_packet),
	COL(21, WIRE_U32, client, packet_granted),
	COL(22, WIRE_U32, client, receive_maximum),
	COL(23, WIRE_U32, client, inflight_in),
	COL(24, WIRE_U32, client, alias_max),
	COL(25, WIRE_U32, client, receive_granted),
	COL(26, WIRE_U32, client, alias_granted),
	COL(27, WIRE_U32, client, keepalive_s),
	COL(28, WIRE_U32, client, qos_granted),
	COL(29, WIRE_U32, client, parked_for),
	COL(30, WIRE_U32, client, parked_qos),
	COL(31, WIRE_U64, client, serial),
	COL(32, WIRE_U64, client, handle),
	COL(33, WIRE_U32, client, expiry_s),
	COL(34, WIRE_U64, client, routes_seq),
	COL(35, WIRE_U32, client, asked),
	COL(36, WIRE_SLICE, client, sourced),
};

static const struct wire_col sub_cols[] = {
	COL(1, WIRE_SLICE, sub, text),
	COL(2, WIRE_U32, sub, id),
	COL(3, WIRE_U32, sub, qos),
	COL(4, WIRE_BOOL, sub, no_local),
	COL(5, WIRE_BOOL, sub, rap),
	COL(6, WIRE_BOOL, sub, shared),
	COL(7, WIRE_SLICE, sub, share),
	COL(8, WIRE_U32, sub, place),
};

static const struct wire_col queued_cols[] = {
	COL(1, WIRE_U32, queued, message),
	COL(2, WIRE_U32, queued, qos),
	COL(3, WIRE_BOOL, queued, retain),
	COL(4, WIRE_SLICE, queued, ids),
	COL(5, WIRE_SLICE, queued, group),
};

static const struct wire_col kept_cols[] = {
	COL(1, WIRE_U32, kept, message),
	COL(2, WIRE_U32, kept, id),
	COL(3, WIRE_SLICE, kept, group),
};

static const struct wire_col out_cols[] = {
	COL(1, WIRE_SLICE, out, data),
	COL(2, WIRE_U32, out, blob),
	COL(3, WIRE_U32, out, begin),
	COL(4, WIRE_U32, out, end),
};

static const struct wire_col answer_cols[] = {
	COL(1, WIRE_U32, answer, id),
	COL(2, WIRE_U32, answer, type),
	COL(3, WIRE_U32, answer, reason),
	COL(4, WIRE_SLICE, answer, waits),
	COL(5, WIRE_BOOL, answer, straight),
};

static const struct wire_col alias_cols[] = {
	COL(1, WIRE_U32, alias, alias),
	COL(2, WIRE_SLICE, alias, topic),
};

static const struct wire_col window_cols[] = {
	COL(1, WIRE_U32, window, next),
	COL(2, WIRE_U32, window, max),
	COL(3, WIRE_SLICE, window, cells),
};

static const struct wire_col inbound_cols[] = {
	COL(1, WIRE_SLICE, inbound, ids),
};

static const struct wire_col filter_cols[] = {
	COL(1, WIRE_SLICE, filter, text),
	COL(2, WIRE_U64, filter, route_seq),
	COL(3, WIRE_U32, filter, told),
	COL(4, WIRE_BOOL, filter, shared),
	COL(5, WIRE_SLICE, filter, share),
	COL(6, WIRE_U32, filter, cursor),
};

static const struct wire_col share_cols[] = {
	COL(1, WIRE_SLICE, share, group),
	COL(2, WIRE_U32, share, cursor),
	COL(3, WIRE_U32, share, sticky),
};

static const struct wire_col waiter_cols[] = {
	COL(1, WIRE_U32, waiter, instance),
	COL(2, WIRE_U32, waiter, client),
	COL(3, WIRE_U64, waiter, seq),
};

static const struct wire_col sub_wait_cols[] = {
	COL(1, WIRE_U32, sub_wait, client),
	COL(2, WIRE_U32, sub_wait, id),
	COL(3, WIRE_U32, sub_wait, type),
	COL(4, WIRE_U64, sub_wait, seq),
	COL(5, WIRE_U64, sub_wait, deadline_ms),
	COL(6, WIRE_SLICE, sub_wait, codes),
	COL(7, WIRE_U32, sub_wait, token),
	COL(8, WIRE_U32, sub_wait, unstored),
	COL(9, WIRE_BOOL, sub_wait, asks),
	COL(10, WIRE_SLICE, sub_wait, packet),
	COL(11, WIRE_U32, sub_wait, since),
	COL(12, WIRE_U32, sub_wait, kept_since),
};

static const struct wire_col ask_cols[] = {
	COL(1, WIRE_U64, ask, serial),
	COL(2, WIRE_U32, ask, store),
	COL(3, WIRE_U32, ask, flags),
	COL(4, WIRE_U32, ask, sub_id),
	COL(5, WIRE_U32, ask, since),
	COL(6, WIRE_U32, ask, what),
	COL(7, WIRE_SLICE, ask, filter),
	COL(8, WIRE_SLICE, ask, cursor),
	COL(9, WIRE_U32, ask, given),
	COL(10, WIRE_U64, ask, seq),
	COL(11, WIRE_U32, ask, kept_since),
	COL(12, WIRE_U32, ask, back),
	COL(13, WIRE_BOOL, ask, last),
};

static const struct wire_col live_cols[] = {
	COL(1, WIRE_U32, live, now),
	COL(2, WIRE_SLICE, live, ids),
};

static const struct wire_col order_cols[] = {
	COL(1, WIRE_SLICE, order, parked),
	COL(2, WIRE_SLICE, order, waiting),
};

static const struct wire_col seen_cols[] = {
	COL(1, WIRE_U32, seen, descriptors),
};

static const struct wire_col refused_cols[] = {
	COL(1, WIRE_SLICE, refused, why),
};

#define ROW(kind, row) [HANDOVER_##kind] = { row##_cols, NELEM(row##_cols), true }
#define BARE(kind) [HANDOVER_##kind] = { NULL, 0, true }

static const struct {
	const struct wire_col	*cols;
	size_t			 n;
	bool			 known;
} kinds[] = {
	ROW(HEAD, head),
	ROW(METRIC, metric),
	ROW(PEER, peer),
	ROW(BUS, bytes),
	ROW(BLOB, bytes),
	ROW(MESSAGE, message),
	ROW(CLIENT, client),
	ROW(SUB, sub),
	ROW(QUEUED, queued),
	ROW(OUT, out),
	ROW(ANSWER, answer),
	ROW(ALIAS_IN, alias),
	ROW(ALIAS_OUT, alias),
	ROW(WINDOW, window),
	ROW(INBOUND, inbound),
	ROW(KEPT, kept),
	ROW(SHARE, share),
	ROW(FILTER, filter),
	ROW(WAITER, waiter),
	ROW(SUB_WAIT, sub_wait),
	ROW(ASK, ask),
	ROW(LIVE, live),
	ROW(ORDER, order),
	ROW(SEEN, seen),
	ROW(REFUSED, refused),
	BARE(END),
	BARE(COMMIT),
	BARE(ABORT),
	BARE(PREPARED),
	BARE(TAKEN),
};

void
handover_put(struct wire_out *w, enum handover_kind kind, const void *row)
{
	if (row != NULL)
		wire_put_cols(w, kinds[kind].cols, kinds[kind].n, row);
}

/* Texts that become lengths of 16 bits, and arrays of whole elements. */
static bool
is_text(const struct slice *s)
{
	return s->len <= UINT16_MAX;
}

static bool
is_array(const struct slice *s, size_t size, size_t max)
{
	return s->len % size == 0 && s->len / size <= max;
}

static bool
is_share(bool shared, const struct slice *name)
{
	return shared ? is_text(name) && name->len > 0 : name->len == 0;
}

static bool
is_group(const struct slice *id)
{
	return id->len == HANDOVER_GROUP;
}

static bool
client_is_possible(const struct handover_client *c)
{
	return is_text(&c->client_id) && is_text(&c->username) &&
	    c->state <= 2 && c->version <= UINT8_MAX &&
	    c->receive_maximum <= UINT16_MAX && c->inflight_in <= UINT16_MAX &&
	    c->alias_max <= UINT16_MAX && c->receive_granted <= UINT16_MAX &&
	    c->alias_granted <= UINT16_MAX && c->keepalive_s <= UINT16_MAX &&
	    c->qos_granted <= 2 && c->parked_for <= UINT16_MAX &&
	    c->parked_qos <= 2 && is_array(&c->sourced, 8, UINT8_MAX) &&
	    (c->has_id || (c->client_id.len == 0 && c->state != 1));
}

/* What numbers and lengths may be. */
static bool
is_possible(const union handover_row *r, enum handover_kind kind)
{
	switch (kind) {
	case HANDOVER_MESSAGE:
		return is_text(&r->message.topic) && r->message.qos <= 2 &&
		    is_text(&r->message.client_id) &&
		    r->message.props.len <= UINT32_MAX &&
		    r->message.payload.len <= UINT32_MAX;
	case HANDOVER_CLIENT:
		return client_is_possible(&r->client);
	case HANDOVER_SUB:
		return is_text(&r->sub.text) && r->sub.text.len > 0 &&
		    is_share(r->sub.shared, &r->sub.share) &&
		    r->sub.qos <= 2 && r->sub.id < 1u << 28;
	case HANDOVER_QUEUED:
		return r->queued.qos <= 2 &&
		    (r->queued.group.len == 0 || is_group(&r->queued.group)) &&
		    is_array(&r->queued.ids, 4, UINT16_MAX);
	case HANDOVER_KEPT:
		return r->kept.id - 1 < UINT16_MAX && is_group(&r->kept.group);
	case HANDOVER_SHARE:
		return is_group(&r->share.group);
	case HANDOVER_OUT:
		return r->out.begin <= r->out.end;
	case HANDOVER_ANSWER:
		return r->answer.id - 1 < UINT16_MAX &&
		    r->answer.type <= UINT8_MAX &&
		    r->answer.reason <= UINT8_MAX &&
		    is_array(&r->answer.waits, HANDOVER_WAIT, UINT16_MAX);
	case HANDOVER_ALIAS_IN:
	case HANDOVER_ALIAS_OUT:
		return r->alias.alias - 1 < UINT16_MAX &&
		    is_text(&r->alias.topic) && r->alias.topic.len > 0;
	case HANDOVER_WINDOW:
		return r->window.next - 1 < UINT16_MAX &&
		    r->window.max - 1 < UINT16_MAX &&
		    is_array(&r->window.cells, HANDOVER_CELL, UINT16_MAX);
	case HANDOVER_INBOUND:
		return is_array(&r->inbound.ids, 2, UINT16_MAX);
	case HANDOVER_FILTER:
		return is_text(&r->filter.text) && r->filter.text.len > 0 &&
		    is_share(r->filter.shared, &r->filter.share);
	case HANDOVER_SUB_WAIT:
		return r->sub_wait.id - 1 < UINT16_MAX &&
		    r->sub_wait.type <= UINT8_MAX &&
		    r->sub_wait.codes.len % 2 == 0 &&
		    r->sub_wait.unstored <= r->sub_wait.codes.len / 2;
	case HANDOVER_ASK:
		return is_text(&r->ask.filter) && r->ask.filter.len > 0 &&
		    r->ask.cursor.len <= UINT16_MAX + 1u &&
		    r->ask.sub_id < 1u << 28 && r->ask.flags <= UINT8_MAX;
	case HANDOVER_LIVE:
		return is_array(&r->live.ids, HANDOVER_LIVE_ID, UINT16_MAX);
	case HANDOVER_ORDER:
		return is_array(&r->order.parked, 4, UINT32_MAX) &&
		    is_array(&r->order.waiting, 4, UINT32_MAX);
	case HANDOVER_HEAD:
		return r->head.ids_next <= UINT16_MAX + 1u;
	case HANDOVER_METRIC:
	case HANDOVER_PEER:
	case HANDOVER_BUS:
	case HANDOVER_BLOB:
	case HANDOVER_WAITER:
	case HANDOVER_END:
	case HANDOVER_COMMIT:
	case HANDOVER_ABORT:
	case HANDOVER_SEEN:
	case HANDOVER_PREPARED:
	case HANDOVER_TAKEN:
	case HANDOVER_REFUSED:
		return true;
	}
	return false;
}

int
handover_get(union handover_row *row, unsigned kind, const void *body,
    size_t len)
{
	struct wire_in		in;
	struct wire_field	f;
	int			rc;

	if (kind >= NELEM(kinds) || !kinds[kind].known)
		return ERR_PROTO;
	memset(row, 0, sizeof(*row));
	wire_in_init(&in, body, len);
	while ((rc = wire_next(&in, &f)) == 1)
		if (wire_get_col(kinds[kind].cols, kinds[kind].n, row, &f) < 0)
			return ERR_PROTO;
	if (rc < 0 || !is_possible(row, (enum handover_kind)kind))
		return ERR_PROTO;
	return 0;
}

int
handover_next(const uint8_t *buf, size_t len, unsigned *kind,
    struct slice *body, size_t *need)
{
	uint32_t n;

	*need = HANDOVER_FRAME;
	if (len < HANDOVER_FRAME)
		return 0;
	if ((n = get_le32(buf)) > HANDOVER_BODY_MAX)
		return ERR_PROTO;
	*need = HANDOVER_FRAME + (size_t)n;
	if (len < *need)
		return 0;
	*kind = get_le16(buf + 4);
	*body = (struct slice){ buf + HANDOVER_FRAME, n };
	return 1;
}

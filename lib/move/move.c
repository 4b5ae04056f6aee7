#include "move/move.h"

#include <string.h>

#include "base/util.h"

static void
say(const struct move *m, const struct move_ops *ops, void *ctx, uint8_t kind,
    uint64_t seq)
{
	struct move_msg	out = { .kind = kind, .flags = m->flags, .x = m->x };

	out.epoch = m->epoch;
	out.snap = m->snap;
	out.seq = seq;
	ops->send(ctx, m->peer, &out);
}

static void
log_step(struct move *m, const struct move_ops *ops, void *ctx, uint8_t step)
{
	m->step = step;
	m->pending = true;
	ops->log(ctx, m);
}

/* --- H ------------------------------------------------------------------- */

static bool
is_out(const struct move *m)
{
	return m->step <= MOVE_FORGOTTEN;
}

void
move_frozen(struct move *m, const struct move_ops *ops, void *ctx)
{
	if (m->step != MOVE_FREEZING && m->step != MOVE_FROZEN)
		return;
	m->step = MOVE_FROZEN;
	say(m, ops, ctx, MOVE_END, ops->state(ctx, m, 0));
}

static void
reply(const struct move_ops *ops, void *ctx, uint64_t to,
    const struct move_msg *in, uint8_t kind, uint64_t epoch)
{
	struct move_msg	out = { .kind = kind, .x = in->x, .snap = in->snap };

	out.epoch = in->epoch;
	out.seq = epoch;
	ops->send(ctx, to, &out);
}

/* release, or installed of a freeze that we know nothing of any more. */
static void
release(struct move *m, const struct move_ops *ops, void *ctx, uint64_t from,
    const struct move_msg *in, uint64_t snap, uint64_t now_ms)
{
	memset(m, 0, sizeof(*m));
	m->x = in->x;
	m->epoch = in->epoch;
	m->peer = from;
	m->flags = in->flags;
	m->snap = snap;
	m->since_ms = now_ms;
	if (m->flags & MOVE_CLEAN) {
		log_step(m, ops, ctx, MOVE_DISCARDING);
		return;
	}
	m->step = MOVE_FREEZING;
	ops->freeze(ctx, m);
}

static bool
is_giving(const struct move *m)
{
	return m->step == MOVE_GIVING || m->step == MOVE_RELAYING ||
	    m->step == MOVE_FORGETTING || m->step == MOVE_FORGOTTEN;
}

/* A step that only makes sense once it is given away. */
static void
given_take(struct move *m, const struct move_ops *ops, void *ctx,
    const struct move_msg *in, uint64_t now_ms)
{
	switch (in->kind) {
	case MOVE_RELEASE:
	case MOVE_INSTALLED:
		if (m->step == MOVE_RELAYING)
			say(m, ops, ctx, MOVE_MOVED, 0);
		break;
	case MOVE_RELAYED:
		m->relays = MAX(m->relays, in->seq);
		break;
	case MOVE_VISIBLE:
		if (m->step != MOVE_RELAYING || m->seen != 0)
			break;
		m->seen = in->seq;
		m->since_ms = now_ms;
		ops->barrier(ctx, m);
		break;
	case MOVE_DONE_ACK:
		m->told = true;
		break;
	default:
		break;
	}
}

void
move_out_take(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t from, const struct move_msg *in, uint64_t own, uint64_t snap,
    uint64_t now_ms)
{
	bool	same = m->peer == from && m->epoch == in->epoch && is_out(m);

	if (same && is_giving(m)) {
		if (in->kind == MOVE_SETTLED_ACK && m->step == MOVE_FORGETTING)
			m->step = MOVE_FORGOTTEN;
		else if (in->kind == MOVE_RELEASE && m->step == MOVE_FORGOTTEN)
			reply(ops, ctx, from, in, MOVE_GONE, 0);
		else if (in->snap == m->snap || in->kind == MOVE_RELEASE)
			given_take(m, ops, ctx, in, now_ms);
		return;
	}
	if (in->kind == MOVE_VISIBLE) {
		/* It went on without us, and we have not given it: nor shall
		 * we, whatever comes late, for it ends the move now. */
		reply(ops, ctx, from, in, MOVE_GONE, 0);
		if (same)
			move_peer_down(m, ops, ctx);
	}
	if (in->kind != MOVE_RELEASE && in->kind != MOVE_INSTALLED)
		return;
	if (own == 0) {
		reply(ops, ctx, from, in, MOVE_GONE, 0);
		return;
	}
	/* Two that ask under one epoch would take it from each other for ever:
	 * of these the higher node has it, as among holders. */
	if (own > in->epoch || (m->step != MOVE_OWN && (m->epoch > in->epoch ||
	    (m->epoch == in->epoch && m->peer > from)))) {
		reply(ops, ctx, from, in, MOVE_REFUSED, MAX(own, m->epoch));
		return;
	}
	if (is_giving(m) && m->step != MOVE_FORGOTTEN)
		return;		/* to another: A asks that one */
	if (same)
		m->since_ms = now_ms;
	if (m->step == MOVE_DISCARDING || (same && m->step == MOVE_FREEZING))
		return;
	if (same && m->step == MOVE_FROZEN) {
		if (in->kind == MOVE_RELEASE || in->snap != m->snap)
			say(m, ops, ctx, MOVE_END, ops->state(ctx, m,
			    in->snap == m->snap ? in->seq : 0));
		else
			log_step(m, ops, ctx, MOVE_GIVING);
		return;
	}
	release(m, ops, ctx, from, in, snap, now_ms);
}

void
move_echoed(struct move *m, const struct move_ops *ops, void *ctx, bool every,
    uint64_t total)
{
	if (m->step != MOVE_RELAYING || m->seen == 0 || m->relays < total)
		return;
	if (!m->done) {
		m->done = true;
		say(m, ops, ctx, MOVE_DONE, total);
	}
	if (every && m->told)
		log_step(m, ops, ctx, MOVE_FORGETTING);
}

/* --- A ------------------------------------------------------------------- */

void
move_in_begin(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t x, uint64_t epoch, uint64_t from, uint8_t flags, uint64_t now_ms)
{
	memset(m, 0, sizeof(*m));
	m->x = x;
	m->epoch = epoch;
	m->peer = from;
	m->flags = flags;
	m->since_ms = now_ms;
	log_step(m, ops, ctx, flags & MOVE_CLEAN ? MOVE_CLEARING :
	    MOVE_ASKING);
}

static bool
state_take(struct move *m, const struct move_ops *ops, void *ctx,
    const struct move_msg *in)
{
	if (m->step != MOVE_ASKING && m->step != MOVE_INSTALLING &&
	    m->step != MOVE_WAITING)
		return false;
	if (in->snap < m->snap)
		return false;
	if (in->snap > m->snap) {
		/* H began again: so do we. */
		m->snap = in->snap;
		m->items = m->asked = 0;
		m->step = MOVE_ASKING;
		ops->restart(ctx, m);
	}
	if (m->step != MOVE_ASKING)
		return false;
	if (in->kind == MOVE_STATE) {
		if (in->seq != m->items)
			return false;
		m->items++;
		return true;
	}
	if (m->items == in->seq) {
		log_step(m, ops, ctx, MOVE_INSTALLING);
	} else if (m->items > m->asked) {
		/* Once for what came: END may come twice. */
		m->asked = m->items;
		say(m, ops, ctx, MOVE_RELEASE, m->items);
	}
	return false;
}

static bool
owns(const struct move *m)
{
	return m->step == MOVE_TAKEN || m->step == MOVE_ENDING ||
	    m->step == MOVE_DIRECT;
}

bool
move_in_take(struct move *m, const struct move_ops *ops, void *ctx,
    const struct move_msg *in)
{
	if (is_out(m) || in->epoch != m->epoch || in->x != m->x)
		return false;
	switch (in->kind) {
	case MOVE_STATE:
	case MOVE_END:
		return state_take(m, ops, ctx, in);
	case MOVE_GONE:
		/* Or nothing more comes this way. */
		if (m->step == MOVE_ASKING)
			log_step(m, ops, ctx, MOVE_EMPTY);
		else if (m->step == MOVE_TAKEN)
			log_step(m, ops, ctx, MOVE_ENDING);
		else if (m->step == MOVE_DIRECT || m->step == MOVE_CLEARED)
			log_step(m, ops, ctx, MOVE_CLOSED);
		else if (m->step == MOVE_WAITING)
			/* It was discarded, or went to a later one. */
			log_step(m, ops, ctx, MOVE_LOST);
		return false;
	case MOVE_REFUSED:
		if (m->step == MOVE_ASKING || m->step == MOVE_WAITING)
			log_step(m, ops, ctx, MOVE_LOST);
		else if (m->step == MOVE_CLEARED)
			/* It will release us. */
			log_step(m, ops, ctx, MOVE_CLOSED);
		return false;
	case MOVE_SETTLED:
		if (m->step == MOVE_DIRECT && in->snap == m->snap)
			log_step(m, ops, ctx, MOVE_CLOSED);
		else if ((m->step == MOVE_CLOSED && !m->pending) ||
		    m->step == MOVE_ASKING)
			/* (Asked for again under the same epoch.) */
			say(m, ops, ctx, MOVE_SETTLED_ACK, 0);
		return false;
	default:
		break;
	}
	if (in->snap != m->snap)
		return false;
	switch (in->kind) {
	case MOVE_MOVED:
		if (m->step == MOVE_WAITING)
			log_step(m, ops, ctx, MOVE_TAKING);
		return false;
	case MOVE_RELAY:
		if (!owns(m) || in->seq != m->relays)
			return false;
		m->relays++;
		return true;
	case MOVE_DONE:
		if (m->step == MOVE_TAKEN && m->relays >= in->seq)
			log_step(m, ops, ctx, MOVE_ENDING);
		else if (m->step == MOVE_DIRECT)
			say(m, ops, ctx, MOVE_DONE_ACK, 0);
		return false;
	default:
		return false;
	}
}

void
move_relayed(struct move *m, const struct move_ops *ops, void *ctx)
{
	if (owns(m))
		say(m, ops, ctx, MOVE_RELAYED, m->relays);
}

void
move_visible(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t seq)
{
	if (m->seen != 0 || !owns(m))
		return;
	m->seen = seq;
	say(m, ops, ctx, MOVE_VISIBLE, seq);
}

/* --- Both ---------------------------------------------------------------- */

void
move_synced(struct move *m, const struct move_ops *ops, void *ctx)
{
	m->pending = false;
	switch (m->step) {
	case MOVE_GIVING:
		m->step = MOVE_RELAYING;
		say(m, ops, ctx, MOVE_MOVED, 0);
		ops->relay(ctx, m, 0);
		break;
	case MOVE_DISCARDING:
		ops->drop(ctx, m);
		m->step = MOVE_OWN;
		say(m, ops, ctx, MOVE_GONE, 0);
		break;
	case MOVE_FORGETTING:
		ops->drop(ctx, m);
		say(m, ops, ctx, MOVE_SETTLED, 0);
		break;
	case MOVE_ASKING:
		say(m, ops, ctx, MOVE_RELEASE, 0);
		break;
	case MOVE_CLEARING:
		/* Once: it may be given on before H has answered. */
		m->step = MOVE_CLEARED;
		m->anew = true;
		ops->own(ctx, m);
		say(m, ops, ctx, MOVE_RELEASE, 0);
		break;
	case MOVE_CLEARED:
		say(m, ops, ctx, MOVE_RELEASE, 0);
		break;
	case MOVE_INSTALLING:
		m->step = MOVE_WAITING;
		say(m, ops, ctx, MOVE_INSTALLED, 0);
		break;
	case MOVE_TAKING:
		m->step = MOVE_TAKEN;
		ops->own(ctx, m);
		break;
	case MOVE_EMPTY:
		m->step = MOVE_CLOSED;
		m->anew = true;
		ops->own(ctx, m);
		break;
	case MOVE_ENDING:
		m->step = MOVE_DIRECT;
		ops->direct(ctx, m);
		say(m, ops, ctx, MOVE_DONE_ACK, 0);
		break;
	case MOVE_CLOSED:
		say(m, ops, ctx, MOVE_SETTLED_ACK, 0);
		break;
	default:
		break;
	}
}

void
move_tick(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t total, uint64_t now_ms)
{
	if (m->pending || now_ms < m->next_ms)
		return;
	m->next_ms = now_ms + MOVE_REPEAT_MS;
	switch (m->step) {
	case MOVE_RELAYING:
		say(m, ops, ctx, MOVE_MOVED, 0);
		if (m->relays < total)
			ops->relay(ctx, m, m->relays);
		if (m->seen != 0)
			ops->barrier(ctx, m);
		if (m->done && !m->told)
			say(m, ops, ctx, MOVE_DONE, 0);
		break;
	case MOVE_FREEZING:
	case MOVE_FROZEN:
		/* A has given up, or its client has. */
		if (now_ms > m->since_ms + MOVE_SILENT_MS)
			move_peer_down(m, ops, ctx);
		break;
	case MOVE_FORGETTING:
		say(m, ops, ctx, MOVE_SETTLED, 0);
		break;
	case MOVE_ASKING:
		/* Not while it comes. */
		if (m->items == m->asked)
			say(m, ops, ctx, MOVE_RELEASE, m->items);
		m->asked = m->items;
		break;
	case MOVE_CLEARED:
		say(m, ops, ctx, MOVE_RELEASE, 0);
		break;
	case MOVE_WAITING:
		say(m, ops, ctx, MOVE_INSTALLED, 0);
		break;
	case MOVE_TAKEN:
	case MOVE_DIRECT:
		/* Until settled: H may have died before it logged this. */
		if (m->seen != 0)
			say(m, ops, ctx, MOVE_VISIBLE, m->seen);
		break;
	default:
		break;
	}
}

void
move_peer_down(struct move *m, const struct move_ops *ops, void *ctx)
{
	if (m->step == MOVE_FREEZING || m->step == MOVE_FROZEN) {
		m->step = MOVE_OWN;
		ops->thaw(ctx, m);
	} else if (m->step == MOVE_WAITING) {
		m->alone = true;
		log_step(m, ops, ctx, MOVE_TAKING);
	} else if (m->step == MOVE_TAKEN) {
		/* Its relays are late, when it returns. */
		log_step(m, ops, ctx, MOVE_ENDING);
	} else if (m->step == MOVE_CLEARED) {
		/* Rows are compared when it returns: then it is merged, and
		 * discards. */
		log_step(m, ops, ctx, MOVE_CLOSED);
	}
}

void
move_resume(struct move *m, const struct move_ops *ops, void *ctx,
    uint64_t now_ms)
{
	m->next_ms = 0;
	m->since_ms = now_ms;
	if (m->step == MOVE_FREEZING || m->step == MOVE_FROZEN)
		m->step = MOVE_OWN;	/* never logged */
	/* Items of a state half received are asked for again. */
	if (m->step == MOVE_ASKING) {
		m->items = m->asked = 0;
		m->snap = 0;
		ops->restart(ctx, m);
	}
	/* Echoes were counted in memory only. */
	m->told = m->done = false;
	move_synced(m, ops, ctx);
}

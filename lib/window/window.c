#include "window/window.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"

enum { IDS = 65535, RING_MIN = 16, TABLE = 65536 };

/*
 * The cells are a ring by offset, as large as the span from the oldest
 * unfinished to the newest needs. A client that leaves one identifier open
 * while thousands pass makes that span as long as there are identifiers; from
 * then on the cells are a table by identifier, and those in flight are stepped
 * over, until nothing is in flight.
 */
struct window {
	uint64_t	 head;		/* offset of the oldest unfinished */
	uint64_t	 tail;		/* offset the next one gets */
	uint32_t	 cells;		/* power of two, 0 until needed */
	uint16_t	 max;
	uint16_t	 inflight;
	bool		 by_id;		/* cells is TABLE, head means nothing */
	uint8_t		*ring;		/* enum window_state */
};

/* Outgoing delivery, MQTT 5.0 section 4.3. Rows: what we wait for. An empty
 * cell is a refusal. */
static const struct {
	enum window_act		act;
	enum window_state	next;
} steps[WINDOW_NSTATES][WINDOW_NEVENTS] = {
	[WINDOW_PUBACK_DUE] = {
		[WINDOW_GOT_PUBACK]   = { WINDOW_RELEASE, WINDOW_DONE },
	},
	[WINDOW_PUBREC_DUE] = {
		[WINDOW_GOT_PUBREC]   = { WINDOW_SEND_PUBREL, WINDOW_PUBCOMP_DUE },
		[WINDOW_GOT_REJECTED] = { WINDOW_RELEASE, WINDOW_DONE },
	},
	[WINDOW_PUBCOMP_DUE] = {
		/* Our PUBREL was not seen: say it again. */
		[WINDOW_GOT_PUBREC]   = { WINDOW_SEND_PUBREL, WINDOW_PUBCOMP_DUE },
		[WINDOW_GOT_PUBCOMP]  = { WINDOW_RELEASE, WINDOW_DONE },
	},
};

struct window *
window_new(uint16_t max)
{
	struct window *w;

	if ((w = calloc(1, sizeof(*w))) != NULL)
		w->max = max;
	return w;
}

void
window_free(struct window **pw)
{
	struct window *w = *pw;

	*pw = NULL;
	if (w == NULL)
		return;
	free(w->ring);
	free(w);
}

static uint16_t
id_of(uint64_t offset)
{
	return (uint16_t)(1 + offset % IDS);
}

static int
grow(struct window *w)
{
	uint32_t	 cells = w->cells == 0 ? RING_MIN : w->cells * 2;
	uint8_t		*ring;
	uint64_t	 o;

	if ((ring = calloc(cells, 1)) == NULL)
		return ERR_NOMEM;
	for (o = w->head; o < w->tail; o++)
		ring[cells == TABLE ? id_of(o) : o & (cells - 1)] =
		    w->ring[o & (w->cells - 1)];
	free(w->ring);
	w->ring = ring;
	w->cells = cells;
	w->by_id = cells == TABLE;
	return 0;
}

bool
window_is_full(const struct window *w)
{
	return w->inflight >= w->max;
}

int
window_send(struct window *w, int qos, uint16_t *id)
{
	uint32_t	at;
	int		rc;

	if (window_is_full(w))
		return ERR_FULL;
	if (!w->by_id && w->tail - w->head == w->cells && (rc = grow(w)) < 0)
		return rc;
	if (w->by_id)			/* fewer than IDS are in flight */
		while (w->ring[id_of(w->tail)] != WINDOW_DONE)
			w->tail++;
	*id = id_of(w->tail);
	at = w->by_id ? *id : (uint32_t)w->tail & (w->cells - 1);
	w->ring[at] = qos == 1 ? WINDOW_PUBACK_DUE : WINDOW_PUBREC_DUE;
	w->tail++;
	w->inflight++;
	return 0;
}

int
window_put(struct window *w, enum window_state state, uint16_t id)
{
	uint64_t	gap;
	int		rc;

	if (id == 0)
		return ERR_INVAL;
	gap = ((uint64_t)id - id_of(w->tail) + IDS) % IDS;
	if (w->inflight == 0 && !w->by_id) {
		w->head = w->tail += gap;
		gap = 0;
	}
	while (!w->by_id && w->tail + gap + 1 - w->head > w->cells)
		if ((rc = grow(w)) < 0)
			return rc;
	if (w->by_id) {
		if (w->ring[id] != WINDOW_DONE)
			return ERR_EXISTS;
		w->ring[id] = (uint8_t)state;
		w->tail += gap + 1;
	} else {
		for (; gap > 0; gap--)
			w->ring[w->tail++ & (w->cells - 1)] = WINDOW_DONE;
		w->ring[w->tail++ & (w->cells - 1)] = (uint8_t)state;
	}
	w->inflight++;
	return 0;
}

/* The cell of id, or NULL if it lies outside the window. */
static uint8_t *
cell(const struct window *w, uint16_t id)
{
	uint64_t offset;

	if (id == 0 || w->inflight == 0)
		return NULL;
	if (w->by_id)
		return &w->ring[id];
	offset = w->head + (id - 1 + IDS - w->head % IDS) % IDS;
	return offset < w->tail ? &w->ring[offset & (w->cells - 1)] : NULL;
}

static void
released(struct window *w)
{
	w->inflight--;
	if (!w->by_id) {
		while (w->head < w->tail &&
		    w->ring[w->head & (w->cells - 1)] == WINDOW_DONE)
			w->head++;
	} else if (w->inflight == 0) {
		free(w->ring);
		w->ring = NULL;
		w->cells = 0;
		w->by_id = false;
		w->head = w->tail;
	}
}

enum window_act
window_step(struct window *w, uint16_t id, enum window_event event)
{
	enum window_act	 act;
	uint8_t		*c;

	if ((c = cell(w, id)) == NULL)
		return WINDOW_REFUSE;
	if ((act = steps[*c][event].act) == WINDOW_REFUSE)
		return act;
	*c = (uint8_t)steps[*c][event].next;
	if (act == WINDOW_RELEASE)
		released(w);
	return act;
}

enum window_state
window_state(const struct window *w, uint16_t id)
{
	const uint8_t *c = cell(w, id);

	return c == NULL ? WINDOW_DONE : (enum window_state)*c;
}

uint32_t
window_inflight(const struct window *w)
{
	return w->inflight;
}

uint32_t
window_export(const struct window *w, struct window_cell *out, uint16_t *next,
    uint16_t *max)
{
	uint32_t	n = 0;
	uint64_t	o = w->head, end = w->tail;
	uint8_t		state;

	*next = id_of(w->tail);
	*max = w->max;
	if (w->by_id) {			/* the oldest is one turn behind */
		o = w->tail;
		end = o + IDS;
	}
	for (; o < end && n < w->inflight; o++) {
		state = w->ring[w->by_id ? id_of(o) : o & (w->cells - 1)];
		if (state == WINDOW_DONE)
			continue;
		out[n].id = id_of(o);
		out[n++].state = state;
	}
	return n;
}

/* The offset of id, counted back from the one that is next at tail. */
static uint64_t
offset_of(uint64_t tail, uint16_t id)
{
	uint64_t back = (tail % IDS + IDS - (uint64_t)(id - 1)) % IDS;

	return tail - (back == 0 ? IDS : back);
}

int
window_import(struct window **out, const struct window_cell *in, uint32_t n,
    uint16_t next, uint16_t max)
{
	struct window	*w;
	uint32_t	 i, cells = RING_MIN, at;
	int		 rc = ERR_PROTO;

	if (next == 0 || max == 0 || n > IDS)
		return ERR_PROTO;
	if ((w = window_new(max)) == NULL)
		return ERR_NOMEM;
	w->head = w->tail = IDS + (uint64_t)(next - 1);
	for (i = 0; i < n; i++) {
		if (in[i].id == 0 || in[i].state == WINDOW_DONE ||
		    in[i].state >= WINDOW_NSTATES)
			goto free_window;
		if (offset_of(w->tail, in[i].id) < w->head)
			w->head = offset_of(w->tail, in[i].id);
	}
	while (n > 0 && cells < w->tail - w->head)
		cells *= 2;
	w->by_id = cells == TABLE;
	rc = ERR_NOMEM;
	if (n > 0 && (w->ring = calloc(cells, 1)) == NULL)
		goto free_window;
	w->cells = n > 0 ? cells : 0;
	rc = ERR_PROTO;
	for (i = 0; i < n; i++) {
		at = w->by_id ? in[i].id : (uint32_t)offset_of(w->tail,
		    in[i].id) & (cells - 1);
		if (w->ring[at] != WINDOW_DONE)
			goto free_window;
		w->ring[at] = in[i].state;
		w->inflight++;
	}
	*out = w;
	return 0;

free_window:
	window_free(&w);
	return rc;
}

/*
 * get.c: lines in. Every member is looked at and nothing is let pass that
 * dump_put would not write, for who edits such a file by hand makes mistakes,
 * and so do disks.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/err.h"
#include "base/utf8.h"
#include "dump/base64.h"
#include "dump/dump.h"
#include "mqtt/frame.h"
#include "mqtt/props.h"
#include "topic/filter.h"

enum { LEVELS_MAX = 128, SUB_ID_MAX = 268435455, DATA_MAX = 268435455 };

struct get {
	json_t		*o;
	const char	*type;
	char		*why;
	size_t		 size;
	size_t		 used;		/* members that were looked at */
	int		 rc;		/* the first that went wrong */
};

static void PRINTF(2, 3)
wrong(struct get *g, const char *fmt, ...)
{
	va_list	ap;
	size_t	n = 0;

	if (g->rc < 0)
		return;
	g->rc = ERR_PROTO;
	if (g->type != NULL)
		n = (size_t)snprintf(g->why, g->size, "%s: ", g->type);
	va_start(ap, fmt);
	vsnprintf(g->why + MIN(n, g->size - 1), g->size - MIN(n, g->size - 1),
	    fmt, ap);
	va_end(ap);
}

/* The member, or NULL; must: it is missed. */
static json_t *
member(struct get *g, const char *key, bool must)
{
	json_t *v = json_object_get(g->o, key);

	if (v != NULL)
		g->used++;
	else if (must)
		wrong(g, "'%s' is missing", key);
	return v;
}

static uint64_t
get_number(struct get *g, const char *key, uint64_t min, uint64_t max,
    bool must)
{
	json_t		*v = member(g, key, must);
	json_int_t	 n;

	if (v == NULL)
		return 0;
	n = json_is_integer(v) ? json_integer_value(v) : -1;
	if (n < 0 || (uint64_t)n < min || (uint64_t)n > max) {
		wrong(g, "'%s' should be a number from %" PRIu64 " to %"
		    PRIu64, key, min, max);
		return 0;
	}
	return (uint64_t)n;
}

static bool
get_bool(struct get *g, const char *key, bool must)
{
	json_t *v = member(g, key, must);

	if (v != NULL && !json_is_boolean(v))
		wrong(g, "'%s' should be true or false", key);
	return json_is_true(v);
}

static struct slice
get_text(struct get *g, const char *key, size_t max, bool must)
{
	struct slice	 s = { NULL, 0 };
	json_t		*v = member(g, key, must);

	if (v == NULL)
		return s;
	s.data = (const uint8_t *)json_string_value(v);
	s.len = json_string_length(v);
	if (!json_is_string(v) || s.len == 0 || s.len > max ||
	    utf8_check(s.data, s.len) < 0) {
		wrong(g, "'%s' should be a text of 1 to %zu bytes", key, max);
		return (struct slice){ NULL, 0 };
	}
	return s;
}

/* Into a buffer that is kept at *buf. */
static struct slice
get_base64(struct get *g, const char *key, uint8_t **buf, bool must)
{
	struct slice	 s = { NULL, 0 };
	json_t		*v = member(g, key, must);
	const char	*text = json_string_value(v);
	size_t		 len = json_string_length(v);
	long		 n;

	if (v == NULL)
		return s;
	free(*buf);
	if ((*buf = malloc(len / 4 * 3 + 1)) == NULL) {
		if (g->rc == 0)
			g->rc = ERR_NOMEM;
		return s;
	}
	n = text == NULL ? ERR_PROTO : base64_get(*buf, text, len);
	if (n <= 0 || n > (long)DATA_MAX) {
		wrong(g, "'%s' should be bytes in base64, with padding", key);
		return s;
	}
	return (struct slice){ *buf, (size_t)n };
}

static void
get_hex(struct get *g, const char *key, uint64_t *hi, uint64_t *lo)
{
	json_t		*v = member(g, key, true);
	const char	*text = json_string_value(v);
	char		 half[17] = "";

	if (v == NULL)
		return;
	if (text == NULL || strlen(text) != 32 ||
	    strspn(text, "0123456789abcdef") != 32) {
		wrong(g, "'%s' should be 32 hexadecimal digits", key);
		return;
	}
	memcpy(half, text, 16);
	*hi = strtoull(half, NULL, 16);
	*lo = strtoull(text + 16, NULL, 16);
}

static struct slice
get_numbers(struct get *g, const char *key, uint8_t **buf, size_t width,
    uint32_t max, bool must)
{
	struct slice	 s = { NULL, 0 };
	json_t		*a = member(g, key, must), *v;
	size_t		 n = json_array_size(a), i;

	if (a == NULL)
		return s;
	if (!json_is_array(a) || n == 0 || n > UINT16_MAX) {
		wrong(g, "'%s' should be a list of 1 to 65535 numbers", key);
		return s;
	}
	free(*buf);
	if ((*buf = malloc(n * width)) == NULL) {
		if (g->rc == 0)
			g->rc = ERR_NOMEM;
		return s;
	}
	for (i = 0; i < n; i++) {
		v = json_array_get(a, i);
		if (!json_is_integer(v) || json_integer_value(v) < 1 ||
		    json_integer_value(v) > (json_int_t)max) {
			wrong(g, "'%s' should hold numbers from 1 to %" PRIu32,
			    key, max);
			return s;
		}
		if (width == 2)
			put_le16(*buf + 2 * i,
			    (uint16_t)json_integer_value(v));
		else
			put_le32(*buf + 4 * i,
			    (uint32_t)json_integer_value(v));
	}
	return (struct slice){ *buf, n * width };
}

/* --- Lines ------------------------------------------------------------------ */

/* Are these what travels with a PUBLISH (proto/record.h)? */
static bool
are_props(const struct slice *s)
{
	struct mqtt_props	 p;
	uint8_t			*buf;
	size_t			 n, used;
	bool			 ok;

	if ((buf = malloc(s->len + 4)) == NULL)
		return false;
	n = mqtt_varint_put(buf, (uint32_t)s->len);
	memcpy(buf + n, s->data, s->len);
	ok = mqtt_props_decode(buf, n + s->len, MQTT_PUBLISH, &p, &used) == 0 &&
	    used == n + s->len && mqtt_props_forward_is_raw(&p);
	free(buf);
	return ok;
}

static void
get_body(struct get *g, struct dump_reader *r, struct item_row *it)
{
	it->topic = get_text(g, "topic", TOPIC_MAX, true);
	if (it->topic.len > 0 && topic_name_check(it->topic.data,
	    it->topic.len, LEVELS_MAX) < 0)
		wrong(g, "'topic' should be one that may be published to: no "
		    "wildcards, %d levels at most", LEVELS_MAX);
	it->deadline_ms = get_number(g, "expires_ms", 1, INT64_MAX, false);
	it->props = get_base64(g, "properties", &r->props, false);
	if (it->props.len > 0 && !are_props(&it->props))
		wrong(g, "'properties' should be those of a PUBLISH that are "
		    "passed on, encoded as in MQTT 5.0");
	it->payload = get_base64(g, "payload", &r->payload,
	    it->kind == ITEM_RETAINED);
}

static void
get_message(struct get *g, struct dump_reader *r, struct item_row *it)
{
	static const char *const states[] = { "waits", "sent", "received" };
	json_t		*v = member(g, "state", true);
	const char	*text = json_string_value(v);

	it->offset = get_number(g, "offset", 0, INT64_MAX >> 2, true);
	for (it->state = 0; it->state < NELEM(states); it->state++)
		if (text != NULL && strcmp(text, states[it->state]) == 0)
			break;
	if (it->state == NELEM(states)) {
		wrong(g, "'state' should be waits, sent or received");
		it->state = ITEM_WAITS;
	}
	it->qos = (uint32_t)get_number(g, "qos",
	    it->state == ITEM_RECEIVED ? 2 : 1, 2, true);
	it->retain = get_bool(g, "retain", false);
	if (it->state == ITEM_RECEIVED)
		return;
	it->ids = get_numbers(g, "subscription_ids", &r->ids, 4, SUB_ID_MAX,
	    false);
	get_body(g, r, it);
}

static void
get_subscription(struct get *g, struct item_row *it)
{
	it->topic = get_text(g, "filter", TOPIC_MAX, true);
	if (it->topic.len > 0 && topic_filter_check(it->topic.data,
	    it->topic.len, LEVELS_MAX) < 0)
		wrong(g, "'filter' should be a topic filter without $share/, "
		    "'+' and '#' alone in their level, %d levels at most",
		    LEVELS_MAX);
	it->share = get_text(g, "share", TOPIC_MAX, false);
	if (it->share.len > 0 && (memchr(it->share.data, '/', it->share.len) ||
	    topic_name_check(it->share.data, it->share.len, 0) < 0))
		wrong(g, "'share' should be a share name: no '/', '+' or '#'");
	it->options = (uint32_t)get_number(g, "qos", 0, 2, true);
	it->options |= (uint32_t)get_bool(g, "no_local", false) << 2;
	it->options |= (uint32_t)get_bool(g, "retain_as_published", false) << 3;
	it->options |= (uint32_t)get_number(g, "retain_handling", 0, 2,
	    false) << 4;
	it->sub_id = (uint32_t)get_number(g, "id", 1, SUB_ID_MAX, false);
}

static void
get_session(struct get *g, struct item_row *it)
{
	it->version = (uint32_t)get_number(g, "version", 3, 5, true);
	it->expiry_s = (uint32_t)get_number(g, "expiry_s", 0, UINT32_MAX,
	    true);
	it->connected = get_bool(g, "connected", true);
	it->at_ms = get_number(g, "at_ms", 0, INT64_MAX, true);
}

static void
get_retained(struct get *g, struct dump_reader *r, struct item_row *it)
{
	it->client_id = get_text(g, "publisher", UINT16_MAX, false);
	it->qos = (uint32_t)get_number(g, "qos", 0, 2, true);
	get_hex(g, "version", &it->version_hi, &it->version_lo);
	get_hex(g, "id", &it->id_hi, &it->id_lo);
	get_body(g, r, it);
}

static void
get_item(struct get *g, struct dump_reader *r, struct dump_line *l)
{
	struct item_row *it = &l->item;

	if (it->kind != ITEM_RETAINED)
		it->client_id = get_text(g, "client_id", UINT16_MAX, true);
	switch ((enum item_kind)it->kind) {
	case ITEM_SESSION:
		get_session(g, it);
		break;
	case ITEM_MESSAGE:
		get_message(g, r, it);
		break;
	case ITEM_INBOUND:
		it->ids = get_numbers(g, "packet_ids", &r->ids, 2, UINT16_MAX,
		    true);
		break;
	case ITEM_SUBSCRIPTION:
		get_subscription(g, it);
		break;
	case ITEM_SESSION_END:
		l->n.messages = get_number(g, "messages", 0, INT64_MAX, true);
		l->n.subscriptions = get_number(g, "subscriptions", 0,
		    INT64_MAX, true);
		break;
	case ITEM_RETAINED:
		get_retained(g, r, it);
		break;
	case ITEM_NKINDS:
		break;
	}
	it->props_len = (uint32_t)it->props.len;
	it->payload_len = (uint32_t)it->payload.len;
}

static void
get_header(struct get *g, struct dump_line *l)
{
	struct slice	 node;
	json_t		*v = json_object_get(g->o, "format");

	if (json_is_integer(v) && json_integer_value(v) > DUMP_FORMAT) {
		wrong(g, "format %" JSON_INTEGER_FORMAT " is newer than this "
		    "program, which knows %d", json_integer_value(v),
		    DUMP_FORMAT);
		return;
	}
	(void)get_number(g, "format", 1, DUMP_FORMAT, true);
	node = get_text(g, "node", DUMP_NODE_MAX - 1, true);
	if (node.len > 0)
		memcpy(l->node, node.data, node.len);
	l->time_ms = get_number(g, "time_ms", 0, INT64_MAX, true);
	l->shards = (uint32_t)get_number(g, "shards", 1, 65535, true);
	l->n.sessions = get_number(g, "sessions", 0, INT64_MAX, true);
	l->n.retained = get_number(g, "retained", 0, INT64_MAX, true);
}

static void
get_end(struct get *g, struct dump_counts *n)
{
	n->lines = get_number(g, "lines", 0, INT64_MAX, true);
	n->sessions = get_number(g, "sessions", 0, INT64_MAX, true);
	n->messages = get_number(g, "messages", 0, INT64_MAX, true);
	n->subscriptions = get_number(g, "subscriptions", 0, INT64_MAX, true);
	n->retained = get_number(g, "retained", 0, INT64_MAX, true);
}

static void
get_line(struct get *g, struct dump_reader *r, struct dump_line *l)
{
	static const struct {
		const char	*type;
		enum dump_kind	 kind;
		uint32_t	 item;
	} types[] = {
		{ "mqttc-export", DUMP_HEADER, 0 },
		{ "session", DUMP_ITEM, ITEM_SESSION },
		{ "message", DUMP_ITEM, ITEM_MESSAGE },
		{ "inbound", DUMP_ITEM, ITEM_INBOUND },
		{ "subscription", DUMP_ITEM, ITEM_SUBSCRIPTION },
		{ "session_end", DUMP_ITEM, ITEM_SESSION_END },
		{ "retained", DUMP_ITEM, ITEM_RETAINED },
		{ "end", DUMP_END, 0 },
	};
	json_t		*v = member(g, "type", true);
	const char	*type = json_string_value(v);
	size_t		 i;

	for (i = 0; type != NULL && i < NELEM(types); i++)
		if (strcmp(type, types[i].type) == 0)
			break;
	if (type == NULL || i == NELEM(types)) {
		wrong(g, "'type' should be mqttc-export, session, message, "
		    "inbound, subscription, session_end, retained or end");
		return;
	}
	g->type = types[i].type;
	l->kind = types[i].kind;
	l->item.kind = types[i].item;
	switch (l->kind) {
	case DUMP_HEADER:
		get_header(g, l);
		break;
	case DUMP_ITEM:
		get_item(g, r, l);
		break;
	case DUMP_END:
		get_end(g, &l->n);
		break;
	}
}

/* One that nobody asked for. */
static void
find_unknown(struct get *g)
{
	if (g->rc == 0 && json_object_size(g->o) != g->used)
		wrong(g, "it has a member that does not belong there");
}

int
dump_get(struct dump_reader *r, const char *text, size_t len,
    struct dump_line *out, char *why, size_t size)
{
	struct get	 g = { .why = why, .size = size };
	struct dump_line l;
	json_error_t	 e;

	json_decref(r->object);
	memset(&l, 0, sizeof(l));
	r->object = g.o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (g.o == NULL || !json_is_object(g.o)) {
		snprintf(why, size, "no JSON object: %s", g.o == NULL ?
		    e.text : "something else");
		return ERR_PROTO;
	}
	get_line(&g, r, &l);
	find_unknown(&g);
	if (g.rc < 0)
		return g.rc;
	*out = l;
	return 0;
}

void
dump_reader_fini(struct dump_reader *r)
{
	json_decref(r->object);
	free(r->props);
	free(r->payload);
	free(r->ids);
	memset(r, 0, sizeof(*r));
}

/* --- The order of lines ------------------------------------------------------ */

static int
no(char *why, size_t size, const char *text)
{
	snprintf(why, size, "%s", text);
	return ERR_PROTO;
}

static int
begin_session(struct dump_order *o, const struct item_row *it)
{
	uint8_t *id = malloc(it->client_id.len);

	if (id == NULL)
		return ERR_NOMEM;
	memcpy(id, it->client_id.data, it->client_id.len);
	free(o->id);
	o->id = id;
	o->id_len = it->client_id.len;
	o->in_session = true;
	o->subs_begun = false;
	o->next = 0;
	memset(&o->session, 0, sizeof(o->session));
	o->n.sessions++;
	return 0;
}

static int
in_session(struct dump_order *o, const struct dump_line *l, char *why,
    size_t size)
{
	const struct item_row *it = &l->item;

	if (!o->in_session || o->id_len != it->client_id.len ||
	    memcmp(o->id, it->client_id.data, o->id_len) != 0)
		return no(why, size, "it should come after the session line of "
		    "its client_id, and before that session's end");
	switch ((enum item_kind)it->kind) {
	case ITEM_MESSAGE:
		if (it->offset < o->next)
			return no(why, size, "message: 'offset' should be "
			    "above that of the message before");
		o->next = it->offset + 1;
		if (o->subs_begun)
			return no(why, size, "message: it should come before "
			    "the subscriptions of its session");
		o->session.messages++;
		o->n.messages++;
		return 0;
	case ITEM_SUBSCRIPTION:
		o->subs_begun = true;
		o->session.subscriptions++;
		o->n.subscriptions++;
		return 0;
	case ITEM_SESSION_END:
		o->in_session = false;
		if (l->n.messages != o->session.messages ||
		    l->n.subscriptions != o->session.subscriptions)
			return no(why, size, "session_end: lines are missing: "
			    "it counts more messages or subscriptions, or "
			    "fewer, than there were");
		return 0;
	case ITEM_INBOUND:
	case ITEM_SESSION:
	case ITEM_RETAINED:
	case ITEM_NKINDS:
		break;
	}
	return 0;
}

static int
ends_rightly(struct dump_order *o, const struct dump_counts *n, char *why,
    size_t size)
{
	o->ended = true;
	if (n->lines == o->n.lines && n->sessions == o->n.sessions &&
	    n->messages == o->n.messages &&
	    n->subscriptions == o->n.subscriptions &&
	    n->retained == o->n.retained)
		return 0;
	snprintf(why, size, "end: it counts %" PRIu64 " lines, %" PRIu64
	    " sessions, %" PRIu64 " messages, %" PRIu64 " subscriptions, %"
	    PRIu64 " retained; there were %" PRIu64 ", %" PRIu64 ", %" PRIu64
	    ", %" PRIu64 ", %" PRIu64, n->lines, n->sessions, n->messages,
	    n->subscriptions, n->retained, o->n.lines, o->n.sessions,
	    o->n.messages, o->n.subscriptions, o->n.retained);
	return ERR_PROTO;
}

int
dump_order_next(struct dump_order *o, const struct dump_line *l, char *why,
    size_t size)
{
	int rc = 0;

	if (o->ended)
		return no(why, size, "nothing should follow the end line");
	if (o->begun != (l->kind != DUMP_HEADER))
		return no(why, size, o->begun ? "there should be one "
		    "mqttc-export line, the first" :
		    "the first line should be of type mqttc-export");
	o->begun = true;
	if (l->kind == DUMP_END)
		return ends_rightly(o, &l->n, why, size);
	if (l->kind == DUMP_ITEM && l->item.kind == ITEM_SESSION) {
		rc = begin_session(o, &l->item);
	} else if (l->kind == DUMP_ITEM && l->item.kind == ITEM_RETAINED) {
		o->in_session = false;
		o->n.retained++;
	} else if (l->kind == DUMP_ITEM) {
		rc = in_session(o, l, why, size);
	}
	o->n.lines++;
	return rc;
}

int
dump_order_end(const struct dump_order *o, char *why, size_t size)
{
	if (!o->begun)
		return no(why, size, "it is empty: an export begins with a "
		    "line of type mqttc-export");
	return o->ended ? 0 : no(why, size,
	    "its end line is missing: it was cut short");
}

void
dump_order_fini(struct dump_order *o)
{
	free(o->id);
	memset(o, 0, sizeof(*o));
}

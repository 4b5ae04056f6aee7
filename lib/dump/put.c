/*
 * put.c: lines out. Members that have their default are left out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/err.h"
#include "dump/base64.h"
#include "dump/dump.h"

struct put {
	json_t	*o;
	bool	 bad, nomem;
};

/* Takes v, which may be NULL. */
static void
put(struct put *p, const char *key, json_t *v)
{
	if (v == NULL || json_object_set_new_nocheck(p->o, key, v) < 0)
		p->nomem = true;
}

static void
put_u64(struct put *p, const char *key, uint64_t v)
{
	put(p, key, json_integer((json_int_t)(v & INT64_MAX)));
}

static void
put_bytes_text(struct put *p, const char *key, struct slice s)
{
	json_t *v = json_stringn((const char *)s.data, s.len);

	if (v == NULL)
		p->bad = true;		/* or no memory, as it may be */
	else
		put(p, key, v);
}

static void
put_base64(struct put *p, const char *key, struct slice s)
{
	size_t	 n = base64_size(s.len);
	char	*text;

	if (s.len == 0)
		return;
	if ((text = malloc(n)) == NULL) {
		p->nomem = true;
		return;
	}
	base64_put(text, s.data, s.len);
	put(p, key, json_stringn_nocheck(text, n));
	free(text);
}

static void
put_hex(struct put *p, const char *key, uint64_t hi, uint64_t lo)
{
	char text[33];

	snprintf(text, sizeof(text), "%016" PRIx64 "%016" PRIx64, hi, lo);
	put(p, key, json_string(text));
}

static void
put_numbers(struct put *p, const char *key, struct slice s, size_t width)
{
	json_t	*a = json_array();
	size_t	 i;

	for (i = 0; a != NULL && i + width <= s.len; i += width)
		if (json_array_append_new(a, json_integer(width == 2 ?
		    get_le16(s.data + i) : get_le32(s.data + i))) < 0)
			p->nomem = true;
	put(p, key, a);
}

static void
put_body(struct put *p, const struct item_row *it)
{
	put_bytes_text(p, "topic", it->topic);
	if (it->deadline_ms != 0)
		put_u64(p, "expires_ms", it->deadline_ms);
	put_base64(p, "properties", it->props);
	put_base64(p, "payload", it->payload);
}

static void
put_message(struct put *p, const struct item_row *it)
{
	static const char *const states[] = { "waits", "sent", "received" };

	put_u64(p, "offset", it->offset);
	put(p, "state", json_string(states[it->state % 3]));
	put_u64(p, "qos", it->qos);
	if (it->retain)
		put(p, "retain", json_true());
	if (it->ids.len > 0)
		put_numbers(p, "subscription_ids", it->ids, 4);
	if (it->state != ITEM_RECEIVED)
		put_body(p, it);
}

static void
put_subscription(struct put *p, const struct item_row *it)
{
	put_bytes_text(p, "filter", it->topic);
	if (it->share.len > 0)
		put_bytes_text(p, "share", it->share);
	put_u64(p, "qos", it->options & 3);
	if (it->options >> 2 & 1)
		put(p, "no_local", json_true());
	if (it->options >> 3 & 1)
		put(p, "retain_as_published", json_true());
	if (it->options >> 4 & 3)
		put_u64(p, "retain_handling", it->options >> 4 & 3);
	if (it->sub_id != 0)
		put_u64(p, "id", it->sub_id);
}

static void
put_item(struct put *p, const struct dump_line *l)
{
	const struct item_row	*it = &l->item;
	static const char *const types[ITEM_NKINDS] = {
		[ITEM_SESSION] = "session", [ITEM_MESSAGE] = "message",
		[ITEM_INBOUND] = "inbound",
		[ITEM_SUBSCRIPTION] = "subscription",
		[ITEM_SESSION_END] = "session_end",
		[ITEM_RETAINED] = "retained",
	};

	if (it->kind == 0 || it->kind >= ITEM_NKINDS) {
		p->bad = true;
		return;
	}
	put(p, "type", json_string(types[it->kind]));
	if (it->kind != ITEM_RETAINED)
		put_bytes_text(p, "client_id", it->client_id);
	switch ((enum item_kind)it->kind) {
	case ITEM_SESSION:
		put_u64(p, "version", it->version);
		put_u64(p, "expiry_s", it->expiry_s);
		put(p, "connected", json_boolean(it->connected));
		put_u64(p, "at_ms", it->at_ms);
		break;
	case ITEM_MESSAGE:
		put_message(p, it);
		break;
	case ITEM_INBOUND:
		put_numbers(p, "packet_ids", it->ids, 2);
		break;
	case ITEM_SUBSCRIPTION:
		put_subscription(p, it);
		break;
	case ITEM_SESSION_END:
		put_u64(p, "messages", l->n.messages);
		put_u64(p, "subscriptions", l->n.subscriptions);
		break;
	case ITEM_RETAINED:
		if (it->client_id.len > 0)
			put_bytes_text(p, "publisher", it->client_id);
		put_u64(p, "qos", it->qos);
		put_hex(p, "version", it->version_hi, it->version_lo);
		put_hex(p, "id", it->id_hi, it->id_lo);
		put_body(p, it);
		break;
	case ITEM_NKINDS:
		break;
	}
}

static void
put_header(struct put *p, const struct dump_line *l)
{
	put(p, "type", json_string("mqttc-export"));
	put_u64(p, "format", DUMP_FORMAT);
	put_bytes_text(p, "node", (struct slice){ (const uint8_t *)l->node,
	    strlen(l->node) });
	put_u64(p, "time_ms", l->time_ms);
	put_u64(p, "shards", l->shards);
	put_u64(p, "sessions", l->n.sessions);
	put_u64(p, "retained", l->n.retained);
}

static void
put_end(struct put *p, const struct dump_counts *n)
{
	put(p, "type", json_string("end"));
	put_u64(p, "lines", n->lines);
	put_u64(p, "sessions", n->sessions);
	put_u64(p, "messages", n->messages);
	put_u64(p, "subscriptions", n->subscriptions);
	put_u64(p, "retained", n->retained);
}

int
dump_put(const struct dump_line *l, char **out)
{
	struct put	 p = { .o = json_object() };
	char		*text = NULL, *grown;
	size_t		 n;
	int		 rc = ERR_NOMEM;

	if (p.o == NULL)
		return ERR_NOMEM;
	switch (l->kind) {
	case DUMP_HEADER:
		put_header(&p, l);
		break;
	case DUMP_ITEM:
		put_item(&p, l);
		break;
	case DUMP_END:
		put_end(&p, &l->n);
		break;
	}
	if (p.bad)
		rc = ERR_INVAL;
	if (!p.bad && !p.nomem &&
	    (text = json_dumps(p.o, JSON_COMPACT)) != NULL) {
		n = strlen(text);
		if ((grown = realloc(text, n + 2)) == NULL) {
			free(text);
		} else {
			memcpy(grown + n, "\n", 2);
			*out = grown;
			rc = 0;
		}
	}
	json_decref(p.o);
	return rc;
}

/*
 * connect.c: the beginning and the end of a connection: what CONNECT asks for
 * and CONNACK says. Who holds a client id is for its desk to say (session.c);
 * while that is away the sibling listeners are told (ATTACH), and of two
 * holders the later one stays and the other is closed with 0x8E [MQTT-3.1.4-3].
 * Spec: MQTT 5.0 sections 3.1, 3.2 and 3.14.
 */
#include "listener.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "base/clock.h"
#include "base/err.h"
#include "log/log.h"

static uint64_t
id_hash(const struct listener *l, const void *id, size_t len)
{
	return XXH3_64bits_withSeed(id, len, l->seed);
}

struct conn *
connect_find(struct listener *l, const void *id, size_t len)
{
	uint64_t	 h = id_hash(l, id, len);
	struct conn	*c;
	size_t		 i;

	for (i = htab_first(&l->clients, h);
	    (c = htab_at(&l->clients, h, &i)) != NULL; i++)
		if (c->client_id_len == len &&
		    memcmp(c->client_id, id, len) == 0)
			return c;
	return NULL;
}

void
connect_refuse(struct listener *l, struct conn *c, unsigned version,
    uint8_t reason)
{
	uint8_t	*p, code = reason;
	size_t	 n;
	int	 v3;

	metric_inc(&m_connects_refused);
	if (version != MQTT_V5) {
		if ((v3 = mqtt_connack_v3_code(reason)) < 0) {
			client_doom(l, c);
			return;
		}
		code = (uint8_t)v3;
	}
	n = mqtt_connack_size(version, NULL);
	if (c->max_packet > 0 && n > c->max_packet) {	/* [MQTT-3.1.2-24] */
		client_doom(l, c);
		return;
	}
	if ((p = out_reserve(l, c, n)) == NULL)
		return;
	mqtt_connack_encode(version, false, code, NULL, p);
	metric_inc(&m_packets_out);
	/* Not CONN_OPEN yet: client_close() adds no DISCONNECT. */
	client_close(l, c, reason);
}

/* The session c has is taken by a newer connection with the same id. */
static void
take_over(struct listener *l, struct conn *old)
{
	char peer[64];

	metric_inc(&m_takeovers);
	log_debug("client.takeover", "client=%s peer=%s",
	    log_quote(old->client_id), client_peer(old, peer, sizeof(peer)));
	client_close(l, old, MQTT_SESSION_TAKEN_OVER);
	connect_end(l, old);
}

void
connect_taken(struct listener *l, const void *id, size_t len,
    uint64_t attach_ns, bool wins_tie)
{
	struct conn *c = connect_find(l, id, len);

	if (c != NULL && (c->attach_ns < attach_ns ||
	    (c->attach_ns == attach_ns && wins_tie)))
		take_over(l, c);
}

static char *
copy_text(const struct slice *s)
{
	char *p;

	if ((p = malloc(s->len + 1)) != NULL) {
		memcpy(p, s->data, s->len);
		p[s->len] = '\0';
	}
	return p;
}

/* What of the CONNECT cannot be had here: a reason code, or 0. */
static uint8_t
unacceptable(const struct listener *l, const struct mqtt_connect *k)
{
	if (l->draining)			/* 0x8B has no place here */
		return MQTT_SERVER_UNAVAILABLE;
	if (k->client_id.len > l->conf->mqtt_max_clientid_len)
		return MQTT_CLIENT_ID_INVALID;
	/* [MQTT-3.1.3-8]; 3.1 knows no empty id at all. */
	if (k->client_id.len == 0 && (k->version == MQTT_V31 ||
	    (k->version == MQTT_V311 && !k->clean_start)))
		return MQTT_CLIENT_ID_INVALID;
	if (mqtt_props_has(&k->props, MQTT_P_AUTH_METHOD))
		return MQTT_BAD_AUTHENTICATION_METHOD;
	if (k->has_will && k->will_qos > l->conf->mqtt_max_qos)
		return MQTT_QOS_NOT_SUPPORTED;	/* [MQTT-3.2.2-12] */
	if (k->has_will && k->will_retain && k->version == MQTT_V5 &&
	    !l->conf->mqtt_retain_available)
		return MQTT_RETAIN_NOT_SUPPORTED;	/* [MQTT-3.2.2-13] */
	if (k->has_will && publish_is_reserved(&k->will_topic))
		return MQTT_NOT_AUTHORIZED;
	return 0;
}

static uint16_t
keepalive_of(const struct conf *conf, uint16_t asked)
{
	if (conf->mqtt_server_keepalive > 0)
		return (uint16_t)conf->mqtt_server_keepalive;
	if (conf->mqtt_keepalive_max < 65535 &&
	    (asked == 0 || asked > conf->mqtt_keepalive_max))
		return (uint16_t)conf->mqtt_keepalive_max;
	return asked;
}

/* CONNACK: what was asked for and is not so. */
static void
welcome(struct listener *l, struct conn *c, const struct attach *a,
    bool present)
{
	const struct conf	*conf = l->conf;
	struct mqtt_props	 r = { .has = 0 };
	uint8_t			*p;
	size_t			 n;

	if (c->version == MQTT_V5) {
		if (a->expiry_told)
			MQTT_PROP_SET(&r, SESSION_EXPIRY, session_expiry_s,
			    a->expiry_s);
		if (c->receive_granted < 65535)
			MQTT_PROP_SET(&r, RECEIVE_MAXIMUM, receive_maximum,
			    c->receive_granted);
		if (c->qos_granted < 2)
			MQTT_PROP_SET(&r, MAXIMUM_QOS, maximum_qos,
			    c->qos_granted);
		if (!conf->mqtt_retain_available)
			MQTT_PROP_SET(&r, RETAIN_AVAILABLE, retain_available,
			    0);
		MQTT_PROP_SET(&r, MAXIMUM_PACKET_SIZE, maximum_packet_size,
		    c->packet_granted);
		if (c->alias_granted > 0)
			MQTT_PROP_SET(&r, TOPIC_ALIAS_MAXIMUM,
			    topic_alias_maximum, c->alias_granted);
		if (!conf->mqtt_wildcard_subscription)
			MQTT_PROP_SET(&r, WILDCARD_AVAILABLE,
			    wildcard_available, 0);
		if (!conf->mqtt_shared_subscription)
			MQTT_PROP_SET(&r, SHARED_AVAILABLE, shared_available,
			    0);
		if (a->keepalive_told)
			MQTT_PROP_SET(&r, SERVER_KEEP_ALIVE,
			    server_keep_alive_s, c->keepalive_s);
		if (a->assigned)
			MQTT_PROP_SET(&r, ASSIGNED_CLIENT_ID,
			    assigned_client_id, ((struct slice){
			    (const uint8_t *)c->client_id, c->client_id_len }));
		if (a->wants_info && conf->mqtt_response_information[0] != '\0')
			MQTT_PROP_SET(&r, RESPONSE_INFO, response_info,
			    ((struct slice){ (const uint8_t *)
			    conf->mqtt_response_information,
			    strlen(conf->mqtt_response_information) }));
	}
	n = mqtt_connack_size(c->version, &r);
	if (c->max_packet > 0 && n > c->max_packet) {	/* [MQTT-3.1.2-24] */
		metric_inc(&m_connects_refused);
		c->graceful = true;		/* never connected: no will */
		client_doom(l, c);
		return;
	}
	if ((p = out_reserve(l, c, n)) == NULL)
		return;
	mqtt_connack_encode(c->version, present, MQTT_SUCCESS, &r, p);
	metric_inc(&m_packets_out);
}

/* An id of our own making: unique in time, space and process. */
static char *
assign_id(struct listener *l)
{
	struct msgid	 id = msgid_next(&l->ids);
	char		*s;

	if ((s = malloc(40)) != NULL)
		snprintf(s, 40, "mqttc-%016llx%016llx",
		    (unsigned long long)id.hi, (unsigned long long)id.lo);
	return s;
}

static void
take_options(const struct listener *l, struct conn *c,
    const struct mqtt_connect *k)
{
	c->version = k->version;
	c->clean_start = k->clean_start;
	c->receive_maximum = 65535;
	/* A reload changes nothing for who has been told. */
	c->packet_granted = l->conf->mqtt_max_packet_size;
	c->receive_granted = (uint16_t)l->conf->mqtt_receive_maximum;
	c->alias_granted = (uint16_t)l->conf->mqtt_max_topic_alias;
	c->qos_granted = (uint8_t)l->conf->mqtt_max_qos;
	if (k->props.has != 0) {
		c->expiry_asked = mqtt_props_has(&k->props,
		    MQTT_P_SESSION_EXPIRY) && k->props.session_expiry_s > 0;
		if (mqtt_props_has(&k->props, MQTT_P_RECEIVE_MAXIMUM))
			c->receive_maximum = k->props.receive_maximum;
		if (mqtt_props_has(&k->props, MQTT_P_TOPIC_ALIAS_MAXIMUM))
			c->alias_max = (uint16_t)MIN(
			    k->props.topic_alias_maximum,
			    l->conf->mqtt_max_topic_alias);
	}
	/* Only 5.0 can be told; others get what they asked for. */
	c->keepalive_s = c->version == MQTT_V5 ?
	    keepalive_of(l->conf, k->keep_alive_s) : k->keep_alive_s;
}

/* How long its session is to be kept, and what CONNACK has to say. */
static void
take_terms(const struct listener *l, const struct conn *c,
    const struct mqtt_connect *k, struct attach *a)
{
	uint32_t max = l->conf->mqtt_session_expiry_max, asked = 0;

	if (mqtt_props_has(&k->props, MQTT_P_SESSION_EXPIRY))
		asked = k->props.session_expiry_s;
	else if (c->version != MQTT_V5 && !k->clean_start)
		asked = max;
	a->expiry_s = MIN(asked, max);
	a->durable = a->expiry_s > 0;
	a->expiry_told = a->expiry_s != asked;
	a->assigned = k->client_id.len == 0;
	a->wants_info = mqtt_props_has(&k->props, MQTT_P_REQUEST_RESPONSE_INFO)
	    && k->props.request_response_info == 1;
	a->keepalive_told = c->keepalive_s != k->keep_alive_s;
}

/* Who c is. */
static int
take_payload(struct listener *l, struct conn *c, const struct mqtt_connect *k)
{
	bool assigned = k->client_id.len == 0;

	c->client_id = assigned ? assign_id(l) : copy_text(&k->client_id);
	if (c->client_id == NULL)
		return ERR_NOMEM;
	c->client_id_len = (uint16_t)(assigned ? strlen(c->client_id) :
	    k->client_id.len);
	c->id_hash = id_hash(l, c->client_id, c->client_id_len);
	/* The moment itself and not that of the turn: of two CONNECTs at two
	 * listeners the later one stays. */
	c->attach_ns = MAX(msgid_next(&l->ids).hi, clock_wall_ns());
	if (k->has_username && (c->username = copy_text(&k->username)) == NULL)
		return ERR_NOMEM;
	if ((c->attach = calloc(1, sizeof(*c->attach))) == NULL)
		return ERR_NOMEM;
	take_terms(l, c, k, c->attach);
	return 0;
}

void
connect_welcome(struct listener *l, struct conn *c, bool present)
{
	struct attach	*a = c->attach;
	struct conn	*old;

	c->attach = NULL;
	if ((old = connect_find(l, c->client_id, c->client_id_len)) != NULL)
		take_over(l, old);
	if (htab_add(&l->clients, c->id_hash, c) < 0) {
		free(a);
		metric_inc(&m_dropped_memory);
		connect_refuse(l, c, c->version, MQTT_SERVER_BUSY);
		return;
	}
	c->placed = true;
	c->state = CONN_OPEN;
	if (old != NULL && c->attach_ns <= old->attach_ns)
		c->attach_ns = old->attach_ns + 1;
	c->since_ms = clock_wall_ns() / 1000000;
	c->heard_ms = l->now_ms;
	l->nready++;
	metric_inc(&m_connects);
	if (c->keepalive_s > 0)
		wheel_set(&l->wheel, &c->timer, l->now_ms +
		    c->keepalive_s * UINT64_C(1500));
	else
		wheel_clear(&l->wheel, &c->timer);
	welcome(l, c, a, present);
	free(a);
	if (c->state == CONN_OPEN)
		sys_client_event(l, c, "connected", NULL);
}

int
connect_restore(struct listener *l, struct conn *c)
{
	c->id_hash = id_hash(l, c->client_id, c->client_id_len);
	if (connect_find(l, c->client_id, c->client_id_len) != NULL)
		return ERR_PROTO;		/* one holder, one socket */
	if (htab_add(&l->clients, c->id_hash, c) < 0)
		return ERR_NOMEM;
	c->placed = true;
	l->nready++;
	return 0;
}

void
on_connect(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_connect	 k;
	char			 peer[64];
	int			 rc;

	rc = mqtt_decode_connect(f, l->conf->mqtt_max_topic_levels, &k);
	if (rc == 0) {
		if (mqtt_props_has(&k.props, MQTT_P_MAXIMUM_PACKET_SIZE))
			c->max_packet = k.props.maximum_packet_size;
		rc = unacceptable(l, &k);
	}
	if (rc != 0) {
		log_debug("client.refused", "peer=%s reason=0x%02x",
		    client_peer(c, peer, sizeof(peer)), (unsigned)rc);
		if (k.version == MQTT_NONE) {
			metric_inc(&m_connects_refused);
			client_doom(l, c);
		} else
			connect_refuse(l, c, k.version, (uint8_t)rc);
		return;
	}
	take_options(l, c, &k);
	rc = take_payload(l, c, &k);
	if (rc == 0) {
		/* An id of our own is nobody else's, and there is nothing to
		 * keep: no desk need know. */
		if (c->attach->assigned && !c->attach->durable && !k.has_will)
			connect_welcome(l, c, false);
		else
			rc = session_attach(l, c, &k);
	}
	if (rc < 0) {
		metric_inc(&m_dropped_memory);
		connect_refuse(l, c, k.version, MQTT_SERVER_BUSY);
	}
}

void
on_disconnect(struct listener *l, struct conn *c, const struct mqtt_frame *f)
{
	struct mqtt_disconnect	d;
	int			rc;

	rc = mqtt_decode_disconnect(f, c->version, MQTT_FROM_CLIENT, &d);
	/* Who asked for none gets none [MQTT-3.14.2.2.2]. */
	if (rc == 0 && mqtt_props_has(&d.props, MQTT_P_SESSION_EXPIRY) &&
	    d.props.session_expiry_s != 0 && !c->expiry_asked)
		rc = MQTT_PROTOCOL_ERROR;
	if (rc != 0) {
		client_refuse(l, c, (uint8_t)rc);
		return;
	}
	/* Only 0x00 takes the will back [MQTT-3.1.2-10]. */
	c->graceful = d.reason == MQTT_NORMAL_DISCONNECTION;
	if (mqtt_props_has(&d.props, MQTT_P_SESSION_EXPIRY)) {
		c->has_expiry = true;
		c->expiry_s = MIN(d.props.session_expiry_s,
		    l->conf->mqtt_session_expiry_max);
	}
	metric_inc(&m_disconnects);
	/* [MQTT-3.14.4-1] [-2]: the client sends no more and closes; what we
	 * still owe it may leave. */
	if (c->out.head != NULL)
		out_flush(l, c);
	client_doom(l, c);
}

/*
 * Everything that outlives the socket's last byte goes here, exactly once: the
 * desk hears of it (and sees to the will), the subscriptions, the queues, the
 * place among the client ids.
 */
void
connect_end(struct listener *l, struct conn *c)
{
	struct index_filter *f;

	if (c->client_id == NULL || c->ended)
		return;
	c->ended = true;
	session_detach(l, c);
	while (index_unsubscribe_one(l->index, &c->subs, &f) == 0)
		routes_changed(l, f);
	if (c->placed) {
		htab_del(&l->clients, c->id_hash, c);
		l->nready--;
		sys_client_event(l, c, "disconnected", NULL);
	}
	window_free(&c->window);
	groups_leave(l, c->kept, c->mqueue);
	c->kept = NULL;
	c->mqueue = NULL;
	inbound_clear(&c->inbound);
	answers_free(&c->answers);
	aliases_free(&c->aliases);
	publish_forget(c);
}

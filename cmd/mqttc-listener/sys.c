/*
 * sys.c: what the listener says about itself: its metrics, and the $SYS topics.
 * Figures are made by each listener for its own subscribers; events of clients
 * are ordinary messages that reach subscribers everywhere.
 */
#include "listener.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"

#define COUNTER(var, name, help) struct metric var = METRIC_COUNTER(name, help)
#define GAUGE(var, name, help)	struct metric var = METRIC_GAUGE(name, help)

GAUGE(m_clients, "clients_connected", "Client sockets open now");
GAUGE(m_subscriptions, "subscriptions", "Subscriptions of this listener's clients");
GAUGE(m_filters, "filters", "Distinct topic filters among them");
COUNTER(m_connects, "connects_total", "CONNECTs accepted");
COUNTER(m_connects_refused, "connects_refused_total",
    "CONNECTs refused, and sockets that never sent one");
COUNTER(m_disconnects, "disconnects_total", "DISCONNECTs received");
COUNTER(m_keepalive_timeouts, "keepalive_timeouts_total",
    "Clients silent for one and a half times their keep-alive");
COUNTER(m_takeovers, "takeovers_total",
    "Connections closed because their client id connected again");
COUNTER(m_accept_refused, "accept_refused_total",
    "Sockets closed at once: a limit on connections or descriptors");
COUNTER(m_packets_in, "packets_received_total", "MQTT packets from clients");
COUNTER(m_packets_out, "packets_sent_total", "MQTT packets to clients");
COUNTER(m_bytes_in, "bytes_received_total", "Bytes from clients");
COUNTER(m_bytes_out, "bytes_sent_total", "Bytes to clients");
COUNTER(m_reads, "reads_total", "read(2) calls on client sockets");
COUNTER(m_writes, "writes_total", "write(2) and writev(2) calls on client sockets");
COUNTER(m_publish_in, "publish_received_total", "PUBLISHes from clients");
COUNTER(m_publish_in_qos0, "publish_received_qos0_total",
    "PUBLISHes from clients with QoS 0");
COUNTER(m_publish_in_qos1, "publish_received_qos1_total",
    "PUBLISHes from clients with QoS 1");
COUNTER(m_publish_in_qos2, "publish_received_qos2_total",
    "PUBLISHes from clients with QoS 2");
COUNTER(m_publish_dup, "publish_duplicate_total",
    "QoS 2 PUBLISHes repeated before their PUBREL: answered, not delivered");
COUNTER(m_publish_out, "publish_sent_total", "PUBLISHes to clients");
COUNTER(m_publish_out_qos0, "publish_sent_qos0_total",
    "PUBLISHes to clients with QoS 0");
COUNTER(m_publish_out_qos1, "publish_sent_qos1_total",
    "PUBLISHes to clients with QoS 1");
COUNTER(m_publish_out_qos2, "publish_sent_qos2_total",
    "PUBLISHes to clients with QoS 2");
COUNTER(m_publish_forwarded, "publish_forwarded_total",
    "Messages sent on to other listeners, one for each");
COUNTER(m_publish_received, "publish_relayed_total",
    "Messages that came from other listeners");
COUNTER(m_no_subscribers, "publish_no_subscribers_total",
    "Messages nobody here or elsewhere had subscribed to");
COUNTER(m_dropped_queue_full, "dropped_queue_full_total",
    "Deliveries dropped because a client's mqueue was full");
COUNTER(m_dropped_too_large, "dropped_too_large_total",
    "Deliveries dropped because they exceed a client's Maximum Packet Size");
COUNTER(m_dropped_expired, "dropped_expired_total",
    "Deliveries dropped because the message expired in a queue");
COUNTER(m_dropped_credit, "dropped_no_credit_total",
    "QoS 0 messages not sent on because a listener had granted no credit");
COUNTER(m_dropped_stream_full, "dropped_stream_full_total",
    "Messages refused because a stream to a listener was full");
COUNTER(m_dropped_quota, "subscribe_refused_total",
    "Subscriptions refused by a limit");
COUNTER(m_dropped_memory, "dropped_no_memory_total",
    "Deliveries and requests refused for want of memory");
COUNTER(m_queued, "mqueue_pushed_total",
    "Deliveries that had to wait in a client's mqueue");
COUNTER(m_suback_timeouts, "suback_timeouts_total",
    "SUBACKs sent before their routes were everywhere");
COUNTER(m_malformed, "packets_malformed_total", "Malformed packets");
COUNTER(m_protocol_errors, "packets_refused_total",
    "Packets that broke the protocol or a limit");
COUNTER(m_parked, "publishers_parked_total",
    "Times a 3.x publisher was not read for want of credit or answers");
COUNTER(m_wills, "wills_total", "Will messages published");
COUNTER(m_fib_evicted, "fib_evictions_total",
    "Times the router evicted this reader and matches were done again");
COUNTER(m_acks_unknown, "acks_unknown_total",
    "Acknowledgements from clients that nothing waited for");
COUNTER(m_shared_passed_on, "shared_passed_on_total",
    "Messages for a group without a member here, given to another listener");
COUNTER(m_shared_redispatched, "shared_redispatched_total",
    "Messages for a group given to another member: the first one is gone");
COUNTER(m_shared_nobody, "shared_no_member_total",
    "Messages for a group dropped: no member was left");

COUNTER(m_retained_sent, "retained_sent_total",
    "Retained messages given to new subscriptions");
COUNTER(m_retained_lost, "retained_unasked_total",
    "Retained messages not asked for: no way to their store");

COUNTER(m_retain_refused, "publish_retain_refused_total",
    "PUBLISHes answered 0x97: they could not be retained");

static struct metric *all[] = {
	&m_clients, &m_subscriptions, &m_filters, &m_connects,
	&m_connects_refused, &m_disconnects, &m_keepalive_timeouts,
	&m_takeovers, &m_accept_refused, &m_packets_in, &m_packets_out,
	&m_bytes_in, &m_bytes_out, &m_reads, &m_writes, &m_publish_in,
	&m_publish_in_qos0, &m_publish_in_qos1, &m_publish_in_qos2,
	&m_publish_dup, &m_publish_out, &m_publish_out_qos0,
	&m_publish_out_qos1, &m_publish_out_qos2, &m_publish_forwarded,
	&m_publish_received, &m_no_subscribers, &m_dropped_queue_full,
	&m_dropped_too_large, &m_dropped_expired, &m_dropped_credit,
	&m_dropped_stream_full, &m_dropped_quota, &m_dropped_memory,
	&m_queued, &m_suback_timeouts, &m_malformed, &m_protocol_errors,
	&m_parked, &m_wills, &m_fib_evicted, &m_acks_unknown,
	&m_shared_passed_on, &m_shared_redispatched, &m_shared_nobody,
	&m_retained_sent, &m_retained_lost, &m_retain_refused,
};

void
metrics_init(void)
{
	metric_register(all, NELEM(all));
}

/* --- $SYS/brokers ------------------------------------------------------- */

static void
say(struct listener *l, const char *topic, const char *text, bool local_only)
{
	struct message_view	v = {
		.topic = { (const uint8_t *)topic, strlen(topic) },
		.payload = { (const uint8_t *)text, strlen(text) },
		.expiry_s = MESSAGE_NO_EXPIRY,
	};
	struct slice		nobody = { NULL, 0 };

	publish_own(l, &v, nobody, local_only);
}

static void PRINTF(3, 4)
figure(struct listener *l, const char *what, const char *fmt, ...)
{
	char	topic[1024], text[256];
	va_list	ap;

	if (what[0] == '\0')
		snprintf(topic, sizeof(topic), "$SYS/brokers");
	else
		snprintf(topic, sizeof(topic), "$SYS/brokers/%s/%s",
		    proc_node(l->proc), what);
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	say(l, topic, text, true);
}

static void
figures(struct listener *l)
{
	char		 now[64], name[160];
	time_t		 t = time(NULL);
	struct tm	 tm;
	uint64_t	 up = (l->now_ms - l->started_ms) / 1000;
	size_t		 i;

	localtime_r(&t, &tm);
	strftime(now, sizeof(now), "%Y-%m-%d %H:%M:%S", &tm);
	figure(l, "", "%s", proc_node(l->proc));
	figure(l, "version", "%s", MQTTC_VERSION);
	figure(l, "sysdescr", "mqttc, a clustered MQTT broker");
	figure(l, "datetime", "%s", now);
	figure(l, "uptime", "%llu days, %llu hours, %llu minutes, %llu seconds",
	    (unsigned long long)(up / 86400),
	    (unsigned long long)(up / 3600 % 24),
	    (unsigned long long)(up / 60 % 60), (unsigned long long)(up % 60));
	for (i = 0; i < NELEM(all); i++) {
		snprintf(name, sizeof(name), "%s/%s/%s",
		    all[i]->kind == METRIC_KIND_GAUGE ? "stats" : "metrics",
		    proc_name(l->proc), all[i]->name);
		figure(l, name, "%llu", (unsigned long long)metric_get(all[i]));
	}
}

void
sys_init(struct listener *l)
{
	l->started_ms = l->now_ms;
	l->sys_due_ms = l->now_ms + l->conf->sys_interval_ms;
}

void
sys_tick(struct listener *l)
{
	if (l->conf->sys_interval_ms == 0 || l->now_ms < l->sys_due_ms)
		return;
	l->sys_due_ms = l->now_ms + l->conf->sys_interval_ms;
	if (index_nsubs(l->index) > 0)
		figures(l);
}

/* A client id or filter as it may stand in JSON. */
static void
json_text(char *out, size_t size, const char *s)
{
	size_t n = 0;

	for (; *s != '\0' && n + 8 < size; s++) {
		if (*s == '"' || *s == '\\')
			n += (size_t)snprintf(out + n, size - n, "\\%c", *s);
		else if ((unsigned char)*s < 0x20 || *s == 0x7f)
			n += (size_t)snprintf(out + n, size - n, "\\u%04x",
			    (unsigned char)*s);
		else
			out[n++] = *s;
	}
	out[n] = '\0';
}

void
sys_client_event(struct listener *l, const struct conn *c, const char *event,
    const char *filter)
{
	char	topic[1024], text[2048], id[600], who[600], peer[64], what[600];
	size_t	i;

	/* An id with a separator or wildcard would be another topic. */
	if (!l->conf->sys_client_events || c->client_id_len > 400 ||
	    strpbrk(c->client_id, "/+#") != NULL)
		return;
	i = (size_t)snprintf(topic, sizeof(topic),
	    "$SYS/brokers/%s/clients/%s/%s", proc_node(l->proc), c->client_id,
	    event);
	if (i >= sizeof(topic) || !routes_wanted(l, topic, i))
		return;
	json_text(id, sizeof(id), c->client_id);
	json_text(who, sizeof(who), c->username == NULL ? "" : c->username);
	json_text(what, sizeof(what), filter == NULL ? "" : filter);
	snprintf(text, sizeof(text), "{\"clientid\":\"%s\",\"username\":\"%s\","
	    "\"peer\":\"%s\",\"proto_ver\":%u,\"keepalive\":%u,"
	    "\"listener\":\"%s\",\"ts\":%llu%s%s%s}", id, who,
	    client_peer(c, peer, sizeof(peer)), c->version, c->keepalive_s,
	    proc_name(l->proc),
	    (unsigned long long)(clock_wall_ns() / 1000000),
	    filter == NULL ? "" : ",\"topic\":\"", what,
	    filter == NULL ? "" : "\"");
	say(l, topic, text, false);
}

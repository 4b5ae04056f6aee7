/*
 * keys.c: every configuration key there is. A new key is one row here and one
 * field in struct conf; the parser, the sample file and mqttc.conf(5) follow.
 */
#include "conf/conf.h"

#include "base/util.h"

#define KB	1024ULL
#define MB	(1024 * KB)
#define GB	(1024 * MB)
#define SEC	1000ULL
#define MINUTE	(60 * SEC)
#define HOUR	(60 * MINUTE)

#define ROW(n, t, field, d, lo, hi, u, v, fl, h) \
	{ .name = (n), .type = (t), .offset = offsetof(struct conf, field), \
	  .def = (d), .min = (lo), .max = (hi), .unit = (u), .values = (v), \
	  .flags = (fl), .help = (h) }
#define U32(n, f, d, lo, hi, u, fl, h) \
	ROW(n, CONF_T_U32, f, d, lo, hi, u, NULL, fl, h)
#define SIZE(n, f, d, lo, hi, fl, h) \
	ROW(n, CONF_T_SIZE, f, d, lo, hi, "bytes", NULL, fl, h)
#define SIZE64(n, f, d, lo, hi, fl, h) \
	ROW(n, CONF_T_SIZE64, f, d, lo, hi, "bytes", NULL, fl, h)
#define DURATION(n, f, d, lo, hi, fl, h) \
	ROW(n, CONF_T_DURATION, f, d, lo, hi, NULL, NULL, fl, h)
#define BOOL(n, f, d, fl, h) \
	ROW(n, CONF_T_BOOL, f, d, 0, 1, NULL, NULL, fl, h)
#define STR(n, f, d, lo, hi, fl, h) \
	ROW(n, CONF_T_STR, f, d, lo, hi, NULL, NULL, fl, h)
#define SYNC(n, f, d, fl, h) \
	ROW(n, CONF_T_SYNC, f, d, 5, 32, NULL, NULL, fl, h)
#define ENUM(n, f, d, v, fl, h) \
	ROW(n, CONF_T_ENUM, f, d, 0, 0, NULL, v, fl, h)
#define ADDR(n, f, d, lo, h) \
	ROW(n, CONF_T_ADDR, f, d, lo, 280, NULL, NULL, 0, h)
#define DIR(n, f, d, lo, h) \
	ROW(n, CONF_T_DIR, f, d, lo, 400, NULL, NULL, 0, h)

const struct conf_key conf_keys[] = {
	/* The node. */
	ROW("node.name", CONF_T_NODE_NAME, node_name, "mqttc@127.0.0.1", 3, 255,
	    NULL, NULL, 0,
	    "The name of this node, unique in its cluster. The host is an "
	    "address or a full domain name by which the other nodes reach it."),
	DIR("node.data_dir", node_data_dir, "/var/lib/mqttc", 1,
	    "Where everything lies that must outlive a restart."),
	DIR("node.run_dir", node_run_dir, "/run/mqttc", 1,
	    "Where the running node keeps its sockets and its lock; one "
	    "directory per node. It is made with mode 0700 if it is missing."),
	STR("node.user", node_user, "", 0, 64, 0,
	    "The user to become once the ports are bound, when started by "
	    "root. Empty: stay who we are."),
	STR("node.cookie", node_cookie, "", 0, 255, 0,
	    "The secret that the nodes of a cluster share: only who has it can "
	    "connect to their metadata and message channels, and it never "
	    "travels. Long and random is good. A configuration can be read by "
	    "others more easily than node.cookie_file; neither is logged."),
	STR("node.cookie_file", node_cookie_file, "", 0, 400, 0,
	    "A file whose first line is the secret, used if node.cookie is "
	    "empty. If both are empty it is node.data_dir/cookie, made at "
	    "random at the first start in a cluster: copy it to the others."),
	ENUM("node.db_role", node_db_role, "core", "core|replicant", 0,
	    "A core keeps what the cluster knows on its disk and speaks to all "
	    "other cores; a replicant speaks to one core at a time, and can "
	    "come and go. Also called node.role."),
	ENUM("node.proto_dist", node_proto_dist, "inet_tcp",
	    "inet_tcp|inet6_tcp|inet_tls", 0,
	    "Over what nodes speak to each other: IPv4 or IPv6. All are "
	    "encrypted (cluster.curve), and inet_tls is inet_tcp. Also called "
	    "cluster.proto_dist."),
	STR("node.ssl_dist_optfile", node_ssl_dist_optfile, "", 0, 400, 0,
	    "Taken and ignored, with a warning: there are no certificates "
	    "between nodes."),
	U32("node.dist_listen_min", node_dist_listen_min, "6369", 1024, 65535,
	    NULL, 0,
	    "The first of the ports of which each cluster link but link 0 "
	    "takes a free one."),
	U32("node.dist_listen_max", node_dist_listen_max, "6384", 1024, 65535,
	    NULL, 0,
	    "The last of them."),

	/* Listeners. */
	ADDR("listener.tcp.external", listener_tcp_external, "0.0.0.0:1883", 0,
	    "The address on which all listeners together serve MQTT over TCP. "
	    "Empty: none."),
	ADDR("listener.tcp.each", listener_tcp_each, "", 0,
	    "A second address that tells the listeners apart: listener i, "
	    "counted from 0, also serves PORT+i. Empty: none."),
	U32("listener.processes", listener_processes, "2", 1, 500, NULL, 0,
	    "How many listener processes to start."),
	U32("listener.sockets", listener_sockets, "16", 1, 1024, NULL, 0,
	    "Listening sockets made for each address and dealt to the "
	    "listeners; never fewer than there are listeners."),
	U32("listener.max_connections", listener_max_connections, "0", 0,
	    16777216, NULL, CONF_RELOAD,
	    "Clients that one listener serves at a time; 0 allows as many as "
	    "it may open descriptors. One that is full leaves new clients to the "
	    "others until a twentieth of its own has left; when all are full, "
	    "new ones are refused."),
	U32("listener.coalesce", listener_coalesce_us, "200", 0, 10000, "us",
	    CONF_RELOAD,
	    "How long a busy listener pauses after it worked, so that more has "
	    "come when it looks again: half the CPU at many small messages, for "
	    "at most this much latency. What comes while nothing happens is not "
	    "delayed. 0: no pause."),
	SIZE("listener.output_max", listener_output_max, "1MB", 4 * KB, GB,
	    CONF_RELOAD,
	    "Output waiting for one client before its messages stay in the "
	    "queue of its session."),
	DURATION("listener.connect_timeout", listener_connect_timeout_ms, "15s",
	    100, HOUR, CONF_RELOAD,
	    "A connection that has not sent its whole CONNECT packet by then "
	    "is closed."),

	/* What outlives a connection. */
	U32("session_store.processes", session_store_processes, "1", 1, 64,
	    "shards", 0,
	    "How many processes keep sessions and retained messages. Where one "
	    "lies is found by this number, so it is fixed at the first start "
	    "in node.data_dir; to have another one, export what is there, "
	    "start in an empty directory, and import it."),
	U32("session_store.coalesce", session_store_coalesce_us, "200", 0, 10000,
	    "us", CONF_RELOAD,
	    "How long a busy session store pauses after it worked, so that more "
	    "has come when it looks again (see listener.coalesce). 0: no pause."),
	SIZE("session_store.segment_size", session_store_segment_size, "64MB",
	    64 * KB, GB, 0,
	    "Size of one file of a store's log."),
	DURATION("session_store.checkpoint_interval",
	    session_store_checkpoint_interval_ms, "5s", 100, HOUR, CONF_RELOAD,
	    "How often a store notes down where it stands. A start replays the "
	    "log from there on, and the log before it is given back."),
	DURATION("session_store.snapshot_interval",
	    session_store_snapshot_interval_ms, "10m", 1 * SEC, 24 * HOUR,
	    CONF_RELOAD,
	    "How often a store writes a second copy of that, from which it is "
	    "made anew if the first one is damaged. The log since then is "
	    "kept."),
	SYNC("session.sync", session_sync, "always", 0,
	    "When what a durable session is sent is on the disk: before the "
	    "publisher gets its acknowledgement, every so many milliseconds, "
	    "or when the system pleases. With the latter two a power failure "
	    "loses what was not written yet; the death of a process loses "
	    "nothing."),
	DURATION("session.attach_timeout", session_attach_timeout_ms, "5s",
	    100, MINUTE, CONF_RELOAD,
	    "How long a client waits for its stored session while the process "
	    "that has it is away; then it is refused with reason 0x88."),
	U32("session.max", session_max, "1000000", 0, 100000000, "sessions",
	    CONF_RELOAD,
	    "Durable sessions that one session store keeps; beyond it, new "
	    "ones are refused with reason 0x97. 0: no limit."),
	U32("session.max_messages", session_max_messages, "10000000", 0,
	    1000000000, "messages", CONF_RELOAD,
	    "Messages that wait in one session store, of all its sessions "
	    "together; beyond it, a session that gets another one gives up "
	    "its oldest. 0: no limit."),
	SIZE64("session.max_bytes", session_max_bytes, "64GB", MB, 1024 * GB,
	    CONF_RELOAD,
	    "Bytes of the messages that wait in one session store, one for "
	    "many sessions counted once; beyond it, a session that gets "
	    "another one gives up its oldest."),

	/* Retained messages. */
	U32("retain.max_messages", retain_max_messages, "1000000", 0,
	    100000000, "messages", CONF_RELOAD,
	    "Retained messages that one session store keeps; beyond it, a "
	    "message of a topic that has none is refused with reason 0x97, or "
	    "(MQTT 3, QoS 0) delivered and not kept. 0: no limit."),
	SIZE("retain.max_size", retain_max_size, "1MB", 1, 268435455,
	    CONF_RELOAD,
	    "The largest payload that is retained; a message with a larger one "
	    "is refused with reason 0x97, or (MQTT 3, QoS 0) delivered and not "
	    "kept."),
	SIZE("retain.max_bytes", retain_max_bytes, "1GB", MB, 4095 * MB,
	    CONF_RELOAD,
	    "Bytes of the retained messages that one session store keeps; a "
	    "message beyond it is refused with reason 0x97, or (MQTT 3, QoS 0) "
	    "delivered and not kept."),

	/* The supervisor. */
	DURATION("supervise.hang_timeout", supervise_hang_timeout_ms, "10s",
	    100, HOUR, CONF_RELOAD,
	    "A process that does not answer the supervisor for so long is "
	    "killed and started again."),
	DURATION("supervise.stop_timeout", supervise_stop_timeout_ms, "30s",
	    100, HOUR, CONF_RELOAD,
	    "How long a process may take to finish its work when it is asked "
	    "to stop; then it is killed."),
	DURATION("supervise.backoff_max", supervise_backoff_max_ms, "10s",
	    100, HOUR, CONF_RELOAD,
	    "The longest pause before a process that keeps failing is started "
	    "again."),

	/* Logs. */
	ENUM("log.level", log_level, "info", "error|warn|info|debug",
	    CONF_RELOAD,
	    "The least important lines that are written; debug says something "
	    "about every packet."),
	DIR("log.dir", log_dir, "", 0,
	    "Where log files go. Empty: to the standard error of "
	    "mqttc-supervise."),
	SIZE("log.rotate_size", log_rotate_size, "10MB", 4 * KB, GB, CONF_RELOAD,
	    "A log file that has grown to this size is put aside and a new one "
	    "begun."),
	U32("log.rotate_count", log_rotate_count, "5", 1, 1000, "files",
	    CONF_RELOAD,
	    "How many log files put aside are kept."),

	/* Between the processes of a node. */
	SIZE("bus.credit", bus_credit, "16MB", 64 * KB, GB, 0,
	    "How far ahead of its consumption a process lets each other "
	    "process send to it."),
	SIZE("bus.stream_max", bus_stream_max, "64MB", 64 * KB, 2 * GB, 0,
	    "What a process keeps at most for one receiver until that has "
	    "acknowledged it. Beyond it QoS 0 is dropped and publishers wait."),

	/* The router. */
	SIZE("router.reader_lag_max", router_reader_lag_max, "64MB", 64 * KB,
	    2 * GB, 0,
	    "Memory of the route index that one slow reader may keep from "
	    "being used again before it has to start its lookup anew."),
	DURATION("router.reader_lag", router_reader_lag_ms, "1s", 10, MINUTE,
	    0,
	    "How long one slow reader may do that."),
	U32("router.anchor_shapes", router_anchor_shapes, "32", 1, 63, NULL, 0,
	    "Kinds of wildcard filters (by the places of their wildcards) "
	    "routed exactly below one literal prefix. Of those beyond it the "
	    "least used is routed by the prefix alone, which costs frames "
	    "but loses nothing."),

	/* The cluster. */
	STR("cluster.name", cluster_name, "mqttc", 1, 255, 0,
	    "Which cluster a node belongs to that finds the others by itself "
	    "(cluster.discovery is not manual): who has the same name is one "
	    "cluster. It cannot change once a node has been in it. Joining by "
	    "hand does not look at it."),
	ENUM("cluster.discovery", cluster_discovery, "manual",
	    "manual|static|singleton", 0,
	    "How a node finds the others: it is told (mqttc-cluster join), or "
	    "it asks those in cluster.static.seeds. With singleton it is alone "
	    "for good: no port is bound for other nodes, and no cluster link "
	    "runs. Also called cluster.discovery_strategy."),
	U32("cluster_link.processes", cluster_link_processes, "1", 1, 4, NULL,
	    0,
	    "How many processes carry messages to and from other nodes. Those "
	    "of one client take the same way always, so their order holds."),
	STR("cluster.static.seeds", cluster_static_seeds, "", 0, 511, 0,
	    "Names of nodes, separated by commas, that are asked at the start "
	    "if cluster.discovery is static. The node itself may be among "
	    "them."),
	DURATION("cluster.autoclean", cluster_autoclean_ms, "24h", 0, 168 * HOUR,
	    CONF_RELOAD,
	    "A node that is down for so long is taken out of the cluster, by "
	    "the side that has over half of the core nodes; when it is back it "
	    "comes in again by itself. 0: never."),
	BOOL("cluster.autoheal", cluster_autoheal, "on", 0,
	    "Whether two parts of a cluster that were apart go on with each "
	    "other when they are in reach again. Off: not before "
	    "mqttc-cluster heal."),
	BOOL("cluster.curve", cluster_curve, "on", 0,
	    "Whether what nodes say to each other is encrypted and authorised "
	    "by node.cookie (CURVE). With off, on all nodes, anybody who "
	    "reaches their ports is one of them; each start warns of it."),
	U32("cluster.meta_port", cluster_meta_port, "4370", 1024, 55535, NULL,
	    0,
	    "Port of the metadata channel, to which the number at the end of "
	    "the node's name is added: emqx1@host has 4371. The same on all "
	    "nodes."),
	U32("cluster.message_port", cluster_message_port, "5370", 1024, 55535,
	    NULL, 0,
	    "Port of the message channel (of cluster link 0), likewise."),
	DURATION("cluster.suback_timeout", cluster_suback_timeout_ms, "1s", 0,
	    MINUTE, CONF_RELOAD,
	    "The longest that a SUBACK waits until everybody knows the "
	    "subscription."),
	DURATION("cluster.max_skew", cluster_max_skew_ms, "10s", 10, HOUR, 0,
	    "A peer whose clock is further ahead of ours is refused."),

	/* MQTT. */
	SIZE("mqtt.max_packet_size", mqtt_max_packet_size, "1MB", 2, 268435455,
	    CONF_RELOAD,
	    "The largest packet taken from a client. It is announced in "
	    "CONNACK; a larger one ends the connection with reason 0x95."),
	/* What lib/topic/index takes: beyond it no wildcard would match. */
	U32("mqtt.max_topic_levels", mqtt_max_topic_levels, "128", 1, 128,
	    NULL, CONF_RELOAD,
	    "The most levels of a topic name or filter."),
	U32("mqtt.max_topic_alias", mqtt_max_topic_alias, "65535", 0, 65535,
	    NULL, CONF_RELOAD,
	    "The highest topic alias a client may use, and the most that we "
	    "use towards a client."),
	U32("mqtt.max_qos", mqtt_max_qos, "2", 0, 2, NULL, CONF_RELOAD,
	    "The highest QoS granted to subscriptions and accepted in "
	    "publishes."),
	U32("mqtt.max_clientid_len", mqtt_max_clientid_len, "65535", 23, 65535,
	    "bytes", CONF_RELOAD,
	    "The longest client identifier."),
	U32("mqtt.max_subscriptions", mqtt_max_subscriptions, "10000", 1,
	    10000000, NULL, CONF_RELOAD,
	    "The most subscriptions of one client; more are answered with "
	    "reason 0x97."),
	U32("mqtt.max_inflight", mqtt_max_inflight, "65535", 1, 65535, "messages",
	    CONF_RELOAD,
	    "QoS 1 and 2 messages on their way to one client at a time. A "
	    "client's own Receive Maximum may lower it."),
	U32("mqtt.receive_maximum", mqtt_receive_maximum, "100", 1, 65535,
	    "messages", CONF_RELOAD,
	    "QoS 1 and 2 messages that a client may have on their way to us; "
	    "announced in CONNACK."),
	U32("mqtt.max_mqueue_len", mqtt_max_mqueue_len, "1000", 1, 10000000,
	    "messages", CONF_RELOAD,
	    "Messages waiting for one client. When it is full, waiting QoS 0 "
	    "messages go first, then the oldest."),
	SIZE("mqtt.max_mqueue_bytes", mqtt_max_mqueue_bytes, "64MB", KB, 2 * GB,
	    CONF_RELOAD,
	    "Bytes of the messages waiting for one client."),
	U32("mqtt.session_expiry_max", mqtt_session_expiry_max, "2h", 0,
	    4294967295, "s", CONF_RELOAD,
	    "The longest that a session outlives its connection. An MQTT 5 "
	    "client that asks for more is told so; an older one with clean "
	    "session 0 gets this. 0: sessions end with their connections; "
	    "4294967295: those that ask for it never end."),
	U32("mqtt.max_offline_queue_len", mqtt_max_offline_queue_len, "1000",
	    1, 10000000, "messages", CONF_RELOAD,
	    "Messages kept for one durable session while its client is away. "
	    "When it is full, the oldest go."),
	SIZE("mqtt.max_offline_queue_bytes", mqtt_max_offline_queue_bytes,
	    "64MB", KB, 2 * GB, CONF_RELOAD,
	    "Bytes of the messages kept for one durable session."),
	BOOL("mqtt.retain_available", mqtt_retain_available, "on", CONF_RELOAD,
	    "Whether messages may be retained; if not, CONNACK says so, and an "
	    "MQTT 5 client that asks for it is disconnected with reason 0x9A."),
	U32("mqtt.server_keepalive", mqtt_server_keepalive, "0", 0, 65535, "s",
	    CONF_RELOAD,
	    "The keep-alive that every MQTT 5 client is told to use; 0 leaves "
	    "it to the client."),
	U32("mqtt.keepalive_max", mqtt_keepalive_max, "65535", 1, 65535, "s",
	    CONF_RELOAD,
	    "The longest keep-alive granted. An MQTT 5 client that asks for "
	    "more is told so."),
	U32("mqtt.wildcard_shapes", mqtt_wildcard_shapes, "32", 1, 32, NULL,
	    CONF_RELOAD,
	    "Kinds of wildcard filters (by the places of their wildcards) one "
	    "client may use below one literal prefix; more are answered with "
	    "reason 0x97."),
	U32("mqtt.wildcard_shapes_all", mqtt_wildcard_shapes_all, "1024", 1,
	    65535, NULL, CONF_RELOAD,
	    "The same of all clients of one listener together below one "
	    "literal prefix: every publish below it costs a look at each."),
	BOOL("mqtt.wildcard_subscription", mqtt_wildcard_subscription, "on",
	    CONF_RELOAD,
	    "Whether filters may contain wildcards; if not, they are answered "
	    "with reason 0xA2."),
	BOOL("mqtt.shared_subscription", mqtt_shared_subscription, "on",
	    CONF_RELOAD,
	    "Whether clients may subscribe as members of a group "
	    "($share/group/filter, $queue/filter); if not, they are answered "
	    "with reason 0x9E."),
	/* In the order of enum share_strategy. */
	ENUM("mqtt.shared_subscription_strategy", mqtt_shared_strategy,
	    "round_robin",
	    "round_robin|random|sticky|hash_clientid|hash_topic|local",
	    CONF_RELOAD,
	    "Which member of a group gets a message: one after the other; any; "
	    "for each listener that messages come from the same one until it "
	    "goes; by the publisher's client identifier or by the topic, the "
	    "same one as long as the members are the same; or one on the "
	    "publisher's own listener if it has any, else one after the "
	    "other."),
	STR("mqtt.response_information", mqtt_response_information, "", 0, 256,
	    CONF_RELOAD,
	    "What an MQTT 5 client gets that asks for response information, "
	    "such as the start of the topics it may use for answers. Empty: "
	    "nothing."),

	/* Figures about the broker itself. */
	DURATION("sys.interval", sys_interval_ms, "60s", 0, 24 * HOUR,
	    CONF_RELOAD,
	    "How often $SYS figures are published; 0 publishes none."),
	BOOL("sys.client_events", sys_client_events, "on", CONF_RELOAD,
	    "Publish $SYS/brokers/<node>/clients/<id>/connected and its like."),
};

const size_t conf_nkeys = NELEM(conf_keys);

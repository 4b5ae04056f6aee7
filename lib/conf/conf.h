/*
 * conf.h: the configuration of a node. One table (conf_keys[] in keys.c) gives
 * each key its name, type, unit, default, range, reloadability and manual
 * text; the parser, `-t`, etc/mqttc.conf and mqttc.conf(5) all read that table.
 *
 * Sources, later ones win: the defaults, a file (`key = value`, # comments),
 * the environment (MQTTC_NODE__NAME=..., two underscores for a dot, lower case),
 * -o key=value. An unknown key or a bad value is an error that names where it
 * stands (file and line, variable, or option), the key, and what would be right.
 */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONF_STR_MAX	512	/* bytes of a text value, with its NUL */

/* Every key there is. Text is NUL-terminated; an empty text is "not set". */
struct conf {
	char		node_name[CONF_STR_MAX];	/* name@host */
	char		node_data_dir[CONF_STR_MAX];
	char		node_run_dir[CONF_STR_MAX];
	char		node_user[CONF_STR_MAX];
	char		node_cookie[CONF_STR_MAX];	/* lib/secret */
	char		node_cookie_file[CONF_STR_MAX];
	uint32_t	node_db_role;			/* enum conf_role */
	uint32_t	node_proto_dist;		/* enum conf_dist */
	char		node_ssl_dist_optfile[CONF_STR_MAX];	/* not read */
	uint32_t	node_dist_listen_min;		/* ports */
	uint32_t	node_dist_listen_max;

	char		listener_tcp_external[CONF_STR_MAX];	/* HOST:PORT */
	char		listener_tcp_each[CONF_STR_MAX];	/* HOST:PORT */
	uint32_t	listener_processes;
	uint32_t	listener_sockets;
	uint32_t	listener_max_connections;	/* 0: by descriptors */
	uint32_t	listener_coalesce_us;		/* 0: not at all */
	uint32_t	listener_output_max;		/* bytes a client */
	uint32_t	listener_connect_timeout_ms;

	uint32_t	session_store_processes;	/* shards */
	uint32_t	session_store_segment_size;	/* bytes */
	uint32_t	session_store_checkpoint_interval_ms;
	uint32_t	session_store_snapshot_interval_ms;
	uint32_t	session_store_coalesce_us;
	char		session_sync[CONF_STR_MAX];	/* conf_sync_parse */
	uint32_t	session_attach_timeout_ms;
	uint32_t	session_max;			/* a shard; 0: no limit */
	uint32_t	session_max_messages;		/* a shard; 0: no limit */
	uint64_t	session_max_bytes;		/* a shard */

	uint32_t	retain_max_messages;		/* a shard; 0: no limit */
	uint32_t	retain_max_size;		/* bytes of a payload */
	uint32_t	retain_max_bytes;		/* a shard */

	uint32_t	supervise_hang_timeout_ms;
	uint32_t	supervise_stop_timeout_ms;
	uint32_t	supervise_backoff_max_ms;

	uint32_t	log_level;			/* enum log_level */
	char		log_dir[CONF_STR_MAX];		/* empty: stderr */
	uint32_t	log_rotate_size;		/* bytes */
	uint32_t	log_rotate_count;

	uint32_t	bus_credit;			/* bytes a stream */
	uint32_t	bus_stream_max;			/* bytes a stream */

	uint32_t	router_reader_lag_max;		/* bytes */
	uint32_t	router_reader_lag_ms;
	uint32_t	router_anchor_shapes;

	char		cluster_name[CONF_STR_MAX];
	uint32_t	cluster_discovery;		/* enum conf_discovery */
	char		cluster_static_seeds[CONF_STR_MAX];
	uint32_t	cluster_link_processes;
	uint32_t	cluster_autoclean_ms;		/* 0: never */
	bool		cluster_autoheal;
	bool		cluster_curve;
	uint32_t	cluster_meta_port;		/* of suffix 0 */
	uint32_t	cluster_message_port;
	uint32_t	cluster_suback_timeout_ms;
	uint32_t	cluster_max_skew_ms;

	uint32_t	mqtt_max_packet_size;
	uint32_t	mqtt_max_topic_levels;
	uint32_t	mqtt_max_topic_alias;
	uint32_t	mqtt_max_qos;
	uint32_t	mqtt_max_clientid_len;
	uint32_t	mqtt_max_subscriptions;		/* a client */
	uint32_t	mqtt_max_inflight;		/* to a client */
	uint32_t	mqtt_receive_maximum;		/* from a client */
	uint32_t	mqtt_max_mqueue_len;
	uint32_t	mqtt_max_mqueue_bytes;
	uint32_t	mqtt_server_keepalive;		/* s; 0: the client's */
	uint32_t	mqtt_keepalive_max;		/* s */
	uint32_t	mqtt_wildcard_shapes;		/* a client and anchor */
	uint32_t	mqtt_wildcard_shapes_all;	/* a client */
	uint32_t	mqtt_session_expiry_max;	/* s; 0: none outlives
							 * its connection */
	uint32_t	mqtt_max_offline_queue_len;
	uint32_t	mqtt_max_offline_queue_bytes;
	bool		mqtt_retain_available;
	bool		mqtt_wildcard_subscription;
	bool		mqtt_shared_subscription;
	uint32_t	mqtt_shared_strategy;		/* enum share_strategy */
	char		mqtt_response_information[CONF_STR_MAX];

	uint32_t	sys_interval_ms;		/* 0: none */
	bool		sys_client_events;
};

enum conf_type {
	CONF_T_U32, CONF_T_SIZE, CONF_T_SIZE64, CONF_T_DURATION, CONF_T_BOOL, CONF_T_STR,
	CONF_T_ENUM, CONF_T_ADDR, CONF_T_NODE_NAME, CONF_T_DIR, CONF_T_SYNC
};

/* In the order of their names in keys.c. */
enum conf_role { CONF_ROLE_CORE, CONF_ROLE_REPLICANT };
enum conf_dist { CONF_DIST_INET, CONF_DIST_INET6, CONF_DIST_TLS };
enum conf_discovery {
	CONF_DISCOVERY_MANUAL, CONF_DISCOVERY_STATIC, CONF_DISCOVERY_SINGLETON
};

enum { CONF_RELOAD = 1 };	/* takes effect on reload, without a restart */

struct conf_key {
	const char	*name;
	enum conf_type	 type;
	size_t		 offset;
	const char	*def;		/* as it would be written in the file */
	uint64_t	 min, max;	/* numbers: inclusive; text: bytes */
	const char	*unit;		/* NULL if none */
	const char	*values;	/* enum: "error|warn|info|debug" */
	int		 flags;
	const char	*help;		/* one or two sentences */
};

extern const struct conf_key conf_keys[];
extern const size_t conf_nkeys;

/* The row of a key, or of what else it is called; NULL if there is none. */
const struct conf_key *conf_find(const char *name);

/* What a key takes, in words: "a number from 0 to 2". */
void conf_key_expects(const struct conf_key *k, char *out, size_t size);

/* What is wrong, ready to print: where, key, value, what would be right. */
struct conf_error {
	char	text[1024];
};

/* Fill c with the defaults. */
void conf_init(struct conf *c);

/*
 * Text forms: sizes 512, 64KB, 1MB; durations 500ms, 10s, 5m, 1h (or bare
 * seconds where the unit is s); on, off, true, false; HOST:PORT, [v6]:PORT,
 * :PORT. Blanks around a value do not count. A directory that does not start with '/' is below the working
 * directory of who reads it, and kept in full. Of a key given twice the later
 * value counts.
 *
 * Set one key from text; origin ("etc/mqttc.conf:12", "-o", "environment
 * MQTTC_X") goes into the error. ERR_INVAL with *e filled and c untouched.
 */
int conf_set(struct conf *c, const char *key, const char *value,
    const char *origin, struct conf_error *e);

/* "key=value" as given to -o. */
int conf_set_option(struct conf *c, const char *arg, struct conf_error *e);

/*
 * A whole file: lines `key = value` of at most 1023 bytes; a comment is a line
 * that starts with # or ;, and both are ordinary bytes inside a value. ERR_IO
 * if it cannot be read, ERR_INVAL if a line is wrong; c is untouched then.
 */
int conf_read_file(struct conf *c, const char *path, struct conf_error *e);

/* The same from an open stream or bytes; name goes into errors. */
int conf_read_stream(struct conf *c, FILE *f, const char *name,
    struct conf_error *e);
int conf_read_bytes(struct conf *c, const char *bytes, size_t len,
    const char *name, struct conf_error *e);

/*
 * Every MQTTC_<KEY> of envp, and MQTTC_NODE_NAME; variables without two
 * underscores after the prefix are not configuration and left alone.
 */
int conf_read_env(struct conf *c, char *const envp[], struct conf_error *e);

/* What only shows when all keys are known (an empty run_dir and such). */
int conf_check(const struct conf *c, struct conf_error *e);

/* Write all keys as `key = value`: to hand to children, read back by
 * conf_read_stream. Returns ERR_IO if the stream failed. */
int conf_write(const struct conf *c, FILE *f);

/* One key's value as text. */
void conf_value(const struct conf *c, const struct conf_key *k, char *out,
    size_t size);

/* Whether a and b agree in key k: for a reload to tell what changed. */
bool conf_same(const struct conf *a, const struct conf *b,
    const struct conf_key *k);

/* The sample file: every key commented with its help, unit and default. */
int conf_write_sample(FILE *f);

/* The rows of mqttc.conf(5) as mdoc, for the page and for `make check`. */
int conf_write_mdoc(FILE *f);

/* Split HOST:PORT, [v6]:PORT or :PORT; host gets size bytes. ERR_INVAL. */
int conf_split_addr(const char *addr, char *host, size_t size, uint16_t *port);

/* When what was written is to be on the disk. */
enum conf_sync {
	CONF_SYNC_ALWAYS,	/* before it is acknowledged */
	CONF_SYNC_INTERVAL,	/* every *ms */
	CONF_SYNC_NEVER		/* when the system pleases */
};

/* "always", "interval:100" (ms; or interval:2s), "never". *ms is 0 unless
 * CONF_SYNC_INTERVAL. ERR_INVAL. */
int conf_sync_parse(const char *text, enum conf_sync *sync, uint32_t *ms);

/* The number at the end of the name of a node, 0 if there is none: what is
 * added to the ports of a cluster. emqx1@host has 1. Of too many digits the
 * last four count. */
unsigned conf_node_suffix(const char *node);

/* The name before '@' and the host after it; ERR_INVAL if not name@host. */
int conf_split_node(const char *node, char *name, size_t nsize, char *host,
    size_t hsize);

#endif

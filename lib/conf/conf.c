/*
 * conf.c: texts to values and back, checked against the rows of keys.c.
 */
#include "conf/conf.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "base/err.h"
#include "base/quote.h"
#include "base/util.h"

#define SHOWN_BYTES	160	/* of a bad value or name in an error */
#define SYNC_MS_MAX	60000

static int wrong(struct conf_error *e, const char *fmt, ...) PRINTF(2, 3);

static int
wrong(struct conf_error *e, const char *fmt, ...)
{
	va_list	 ap;

	va_start(ap, fmt);
	vsnprintf(e->text, sizeof(e->text), fmt, ap);
	va_end(ap);
	return ERR_INVAL;
}

/* --- Units ---------------------------------------------------------------- */

struct unit {
	const char	*name;
	uint64_t	 factor;
};

static const struct unit size_units[] = {	/* the first name is written */
	{ "TB", UINT64_C(1) << 40 }, { "T", UINT64_C(1) << 40 },
	{ "GB", 1 << 30 }, { "MB", 1 << 20 }, { "KB", 1 << 10 },
	{ "G", 1 << 30 }, { "M", 1 << 20 }, { "K", 1 << 10 },
	{ "B", 1 }, { NULL, 0 }
};
static const struct unit duration_units[] = {
	{ "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 },
	{ "d", 86400000 }, { NULL, 0 }
};

/*
 * Digits, then a unit of the list; without units digits alone. bare: the
 * factor of digits without a unit, 0 if that is wrong.
 */
static bool
parse_number(const char *s, const struct unit *units, uint64_t bare,
    uint64_t *out)
{
	const struct unit	*u;
	uint64_t		 v = 0;

	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (v > UINT64_MAX / 100)
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	if (*s == '\0') {
		if (bare == 0 && v != 0)
			return false;
		*out = v * bare;
		return v == 0 || bare <= UINT64_MAX / v;
	}
	while (*s == ' ')
		s++;
	for (u = units; u != NULL && u->name != NULL; u++) {
		if (strcasecmp(s, u->name) != 0)
			continue;
		if (v > UINT64_MAX / u->factor)
			return false;
		*out = v * u->factor;
		return true;
	}
	return false;
}

/* The largest unit that divides v. */
static void
format_number(uint64_t v, const struct unit *units, char *out, size_t size)
{
	const struct unit	*u;

	for (u = units; u->name != NULL; u++) {
		if (v == 0 || v % u->factor != 0 || u->name[0] == 'd')
			continue;
		if (u->factor == 1 && units == size_units)
			break;			/* bytes go bare */
		snprintf(out, size, "%llu%s",
		    (unsigned long long)(v / u->factor), u->name);
		return;
	}
	snprintf(out, size, "%llu", (unsigned long long)v);
}

/* --- Addresses and names -------------------------------------------------- */

int
conf_split_addr(const char *addr, char *host, size_t size, uint16_t *port)
{
	const char	*h = addr, *end, *colon;
	uint64_t	 v;

	if (addr[0] == '[') {
		h = addr + 1;
		if ((end = strchr(h, ']')) == NULL || end == h ||
		    end[1] != ':' || strspn(h, "0123456789abcdefABCDEF:.") !=
		    (size_t)(end - h))
			return ERR_INVAL;
		colon = end + 1;
	} else {
		if ((colon = strchr(addr, ':')) == NULL ||
		    strchr(colon + 1, ':') != NULL)
			return ERR_INVAL;
		end = colon;
	}
	if ((size_t)(end - h) >= size || strcspn(h, " \t/@") <
	    (size_t)(end - h))
		return ERR_INVAL;
	if (strlen(colon + 1) > 5 || !parse_number(colon + 1, NULL, 1, &v) ||
	    v > 65535)
		return ERR_INVAL;
	memcpy(host, h, (size_t)(end - h));
	host[end - h] = '\0';
	*port = (uint16_t)v;
	return 0;
}

int
conf_split_node(const char *node, char *name, size_t nsize, char *host,
    size_t hsize)
{
	static const char	 letters[] = "abcdefghijklmnopqrstuvwxyz"
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
	const char		*at = strchr(node, '@');
	size_t			 nlen, hlen;
	char			 hosts[sizeof(letters) + 2];

	if (at == NULL)
		return ERR_INVAL;
	nlen = (size_t)(at - node);
	hlen = strlen(at + 1);
	snprintf(hosts, sizeof(hosts), "%s.:", letters);
	if (nlen == 0 || nlen >= nsize || strspn(node, letters) != nlen)
		return ERR_INVAL;
	if (hlen == 0 || hlen >= hsize || strspn(at + 1, hosts) != hlen)
		return ERR_INVAL;
	memcpy(name, node, nlen);
	name[nlen] = '\0';
	memcpy(host, at + 1, hlen + 1);
	return 0;
}

unsigned
conf_node_suffix(const char *node)
{
	size_t	 at = strcspn(node, "@"), n = at;
	unsigned v = 0;

	while (n > 0 && at - n < 4 && node[n - 1] >= '0' && node[n - 1] <= '9')
		n--;
	for (; n < at; n++)
		v = v * 10 + (unsigned)(node[n] - '0');
	return v;
}

int
conf_sync_parse(const char *text, enum conf_sync *sync, uint32_t *ms)
{
	static const char	interval[] = "interval:";
	uint64_t		v = 0;

	if (strcasecmp(text, "always") == 0)
		*sync = CONF_SYNC_ALWAYS;
	else if (strcasecmp(text, "never") == 0)
		*sync = CONF_SYNC_NEVER;
	else if (strncasecmp(text, interval, sizeof(interval) - 1) == 0 &&
	    parse_number(text + sizeof(interval) - 1, duration_units, 1, &v) &&
	    v >= 1 && v <= SYNC_MS_MAX)
		*sync = CONF_SYNC_INTERVAL;
	else
		return ERR_INVAL;
	*ms = (uint32_t)v;
	return 0;
}

/* --- Finding a key -------------------------------------------------------- */

/* Names that others gave to keys of ours. */
static const struct {
	const char	*also, *name;
} aliases[] = {
	{ "node.role", "node.db_role" },
	{ "cluster.proto_dist", "node.proto_dist" },
	{ "cluster.discovery_strategy", "cluster.discovery" },
};

const struct conf_key *
conf_find(const char *name)
{
	size_t	 i;

	for (i = 0; i < NELEM(aliases); i++)
		if (strcmp(aliases[i].also, name) == 0)
			name = aliases[i].name;
	for (i = 0; i < conf_nkeys; i++)
		if (strcmp(conf_keys[i].name, name) == 0)
			return &conf_keys[i];
	return NULL;
}

/* Insertions, deletions, changes and swaps of neighbours from a to b. */
static size_t
edit_distance(const char *a, const char *b)
{
	enum { MAX = 64 };
	size_t	 rows[3][MAX + 1], la = strlen(a), lb = strlen(b), i, j, d;

	if (la > MAX || lb > MAX)
		return MAX;
	for (j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (i = 1; i <= la; i++) {
		size_t	*cur = rows[i % 3], *up = rows[(i - 1) % 3];

		cur[0] = i;
		for (j = 1; j <= lb; j++) {
			d = up[j - 1] + (a[i - 1] != b[j - 1]);
			d = MIN(d, MIN(up[j], cur[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
			    a[i - 2] == b[j - 1])
				d = MIN(d, rows[(i - 2) % 3][j - 2] + 1);
			cur[j] = d;
		}
	}
	return rows[la % 3][lb];
}

/* What may have been meant: the same name in another room, or a slip. */
static const struct conf_key *
nearest_key(const char *name)
{
	const struct conf_key	*best = NULL;
	const char		*dot, *last;
	size_t			 i, d, least = strlen(name) / 3 + 1;

	last = (dot = strrchr(name, '.')) != NULL ? dot + 1 : name;
	for (i = 0; i < conf_nkeys; i++) {
		d = edit_distance(name, conf_keys[i].name);
		if (d < least) {
			least = d;
			best = &conf_keys[i];
		}
	}
	for (i = 0; best == NULL && i < conf_nkeys; i++) {
		dot = strrchr(conf_keys[i].name, '.');
		if (strcmp(dot + 1, last) == 0)
			best = &conf_keys[i];
	}
	return best;
}

/* --- Values --------------------------------------------------------------- */

static bool
is_seconds(const struct conf_key *k)
{
	return k->unit != NULL && strcmp(k->unit, "s") == 0;
}

void
conf_key_expects(const struct conf_key *k, char *out, size_t size)
{
	const char	*or_empty = k->min == 0 ? ", or nothing" : "";
	char		 lo[32], hi[32];

	switch (k->type) {
	case CONF_T_U32:
		snprintf(out, size, "a number from %llu to %llu%s%s",
		    (unsigned long long)k->min, (unsigned long long)k->max,
		    k->unit != NULL ? " " : "", k->unit == NULL ? "" :
		    is_seconds(k) ? "seconds" : k->unit);
		break;
	case CONF_T_SIZE:
	case CONF_T_SIZE64:
		format_number(k->min, size_units, lo, sizeof(lo));
		format_number(k->max, size_units, hi, sizeof(hi));
		snprintf(out, size, "a size from %s to %s, such as 512, "
		    "64KB or 1MB", lo, hi);
		break;
	case CONF_T_DURATION:
		format_number(k->min, duration_units, lo, sizeof(lo));
		format_number(k->max, duration_units, hi, sizeof(hi));
		snprintf(out, size, "a duration from %s to %s, such as "
		    "500ms, 10s, 5m or 1h", lo, hi);
		break;
	case CONF_T_BOOL:
		snprintf(out, size, "on or off");
		break;
	case CONF_T_STR:
		snprintf(out, size, "a text of %llu to %llu bytes",
		    (unsigned long long)k->min, (unsigned long long)k->max);
		break;
	case CONF_T_ENUM:
		snprintf(out, size, "one of %s", k->values);
		break;
	case CONF_T_ADDR:
		snprintf(out, size, "HOST:PORT, such as 127.0.0.1:1883 or "
		    "[::1]:1883%s", or_empty);
		break;
	case CONF_T_NODE_NAME:
		snprintf(out, size, "NAME@HOST, such as mqttc@127.0.0.1");
		break;
	case CONF_T_DIR:
		snprintf(out, size, "a directory of at most %llu bytes%s",
		    (unsigned long long)k->max, or_empty);
		break;
	case CONF_T_SYNC:
		snprintf(out, size, "always, never, or interval: and "
		    "milliseconds from 1 to %d, such as interval:100",
		    SYNC_MS_MAX);
		break;
	}
}

static bool
parse_bool(const char *s, uint64_t *out)
{
	static const char *const words[] = { "off", "on", "false", "true" };
	size_t	 i;

	for (i = 0; i < NELEM(words); i++) {
		if (strcasecmp(s, words[i]) == 0) {
			*out = i & 1;
			return true;
		}
	}
	return false;
}

static bool
parse_enum(const char *s, const char *values, uint64_t *out)
{
	size_t	 len, n = 0;

	for (;; values += len + 1, n++) {
		len = strcspn(values, "|");
		if (strlen(s) == len && strncasecmp(s, values, len) == 0) {
			*out = n;
			return true;
		}
		if (values[len] == '\0')
			return false;
	}
}

/* A text as it is kept: a directory becomes absolute, for programs change
 * theirs. False if it is not of the key's form. */
static bool
parse_text(const struct conf_key *k, const char *s, char *out)
{
	char		 a[CONF_STR_MAX], b[CONF_STR_MAX];
	size_t		 len = strlen(s), i, n = 0;
	enum conf_sync	 sync;
	uint32_t	 ms;
	uint16_t	 port;

	for (i = 0; i < len; i++)
		if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			return false;
	if (len < k->min || len > k->max || len >= CONF_STR_MAX)
		return false;
	if (len == 0) {
		out[0] = '\0';
		return true;
	}
	if (k->type == CONF_T_ADDR &&
	    (conf_split_addr(s, a, sizeof(a), &port) < 0 || port == 0))
		return false;
	if (k->type == CONF_T_NODE_NAME &&
	    conf_split_node(s, a, sizeof(a), b, sizeof(b)) < 0)
		return false;
	if (k->type == CONF_T_SYNC && conf_sync_parse(s, &sync, &ms) < 0)
		return false;
	if (k->type == CONF_T_DIR && s[0] != '/') {
		if (getcwd(a, sizeof(a)) == NULL)
			return false;
		n = strlen(a);
		if (n + 1 + len >= sizeof(a))
			return false;
		memcpy(out, a, n);
		if (out[n - 1] != '/')
			out[n++] = '/';
	}
	memcpy(out + n, s, len + 1);
	return true;
}

/* A number of seconds, or a duration that is one. */
static bool
parse_seconds(const char *s, uint64_t *out)
{
	uint64_t	 ms;

	if (!parse_number(s, duration_units, 1000, &ms) || ms % 1000 != 0)
		return false;
	*out = ms / 1000;
	return true;
}

/* Parse s as k says and put it into c; false, c untouched, if it is wrong. */
static bool
value_set(struct conf *c, const struct conf_key *k, const char *s)
{
	char		*field = (char *)c + k->offset;
	char		 text[CONF_STR_MAX];
	uint64_t	 v = 0;
	bool		 ok = false;

	switch (k->type) {
	case CONF_T_U32:
		ok = is_seconds(k) ? parse_seconds(s, &v) :
		    parse_number(s, NULL, 1, &v);
		break;
	case CONF_T_SIZE:
	case CONF_T_SIZE64:
		ok = parse_number(s, size_units, 1, &v);
		break;
	case CONF_T_DURATION:
		ok = parse_number(s, duration_units, 0, &v);
		break;
	case CONF_T_BOOL:
		if ((ok = parse_bool(s, &v)))
			*(bool *)field = v != 0;
		return ok;
	case CONF_T_ENUM:
		if ((ok = parse_enum(s, k->values, &v)))
			*(uint32_t *)(void *)field = (uint32_t)v;
		return ok;
	case CONF_T_STR:
	case CONF_T_ADDR:
	case CONF_T_NODE_NAME:
	case CONF_T_DIR:
	case CONF_T_SYNC:
		if ((ok = parse_text(k, s, text)))
			memcpy(field, text, strlen(text) + 1);
		return ok;
	}
	if (!ok || v < k->min || v > k->max)
		return false;
	if (k->type == CONF_T_SIZE64)
		*(uint64_t *)(void *)field = v;
	else if (v <= UINT32_MAX)
		*(uint32_t *)(void *)field = (uint32_t)v;
	return k->type == CONF_T_SIZE64 || v <= UINT32_MAX;
}

void
conf_value(const struct conf *c, const struct conf_key *k, char *out,
    size_t size)
{
	const char	*field = (const char *)c + k->offset, *s;
	uint64_t	 size64;
	uint32_t	 v, i;

	memcpy(&v, field, k->type == CONF_T_BOOL ? 1 : sizeof(v));
	switch (k->type) {
	case CONF_T_U32:
		snprintf(out, size, "%u", v);
		break;
	case CONF_T_SIZE:
		format_number(v, size_units, out, size);
		break;
	case CONF_T_SIZE64:
		memcpy(&size64, field, sizeof(size64));
		format_number(size64, size_units, out, size);
		break;
	case CONF_T_DURATION:
		format_number(v, duration_units, out, size);
		break;
	case CONF_T_BOOL:
		snprintf(out, size, "%s", *(const bool *)field ? "on" : "off");
		break;
	case CONF_T_ENUM:
		for (s = k->values, i = 0; i < v && *s != '\0'; i++)
			s += strcspn(s, "|") + 1;
		snprintf(out, size, "%.*s", (int)strcspn(s, "|"), s);
		break;
	case CONF_T_STR:
	case CONF_T_ADDR:
	case CONF_T_NODE_NAME:
	case CONF_T_DIR:
	case CONF_T_SYNC:
		snprintf(out, size, "%s", field);
		break;
	}
}

bool
conf_same(const struct conf *a, const struct conf *b, const struct conf_key *k)
{
	char	 x[CONF_STR_MAX], y[CONF_STR_MAX];

	conf_value(a, k, x, sizeof(x));
	conf_value(b, k, y, sizeof(y));
	return strcmp(x, y) == 0;
}

/* --- Setting -------------------------------------------------------------- */

void
conf_init(struct conf *c)
{
	size_t	 i;

	memset(c, 0, sizeof(*c));
	for (i = 0; i < conf_nkeys; i++)
		if (!value_set(c, &conf_keys[i], conf_keys[i].def))
			abort();		/* a row contradicts itself */
}

int
conf_set(struct conf *c, const char *key, const char *value,
    const char *origin, struct conf_error *e)
{
	const struct conf_key	*k = conf_find(key), *near;
	char			 shown[SHOWN_BYTES], expects[256];
	char			 trimmed[2 * CONF_STR_MAX];
	const char		*comment;
	size_t			 len;

	if (k == NULL) {
		near = nearest_key(key);
		return wrong(e, "%s: unknown key %s%s%s%s", origin,
		    quote(shown, sizeof(shown), key, strlen(key)),
		    near != NULL ? "; did you mean " : "",
		    near != NULL ? near->name : "", near != NULL ? "?" :
		    "; mqttc.conf(5) lists all keys");
	}
	value += strspn(value, " \t");
	len = strlen(value);
	while (len > 0 && strchr(" \t\r\n", value[len - 1]) != NULL)
		len--;
	quote(shown, sizeof(shown), value, len);
	if (len < sizeof(trimmed)) {
		memcpy(trimmed, value, len);
		trimmed[len] = '\0';
		if (value_set(c, k, trimmed))
			return 0;
	}
	comment = memmem(value, len, " #", 2);
	if (comment == NULL)
		comment = memmem(value, len, " ;", 2);
	conf_key_expects(k, expects, sizeof(expects));
	return wrong(e, "%s: %s = %s: must be %s%s", origin, k->name, shown,
	    expects, comment != NULL ? " (a comment needs a line of its own)" :
	    "");
}

int
conf_set_option(struct conf *c, const char *arg, struct conf_error *e)
{
	const char	*eq = strchr(arg, '=');
	char		 key[128], shown[SHOWN_BYTES];
	size_t		 len;

	if (eq == NULL)
		return wrong(e, "-o %s: must be key=value",
		    quote(shown, sizeof(shown), arg, strlen(arg)));
	len = (size_t)(eq - arg);
	while (len > 0 && arg[len - 1] == ' ')
		len--;
	if (len >= sizeof(key))
		return wrong(e, "-o: unknown key %s",
		    quote(shown, sizeof(shown), arg, len));
	memcpy(key, arg, len);
	key[len] = '\0';
	return conf_set(c, key, eq + 1, "-o", e);
}

/*
 * NODE__NAME to node.name. Every key has a dot, so a variable without two
 * underscores is somebody else's; NODE_NAME alone is as well known as the key.
 */
static bool
env_key(const char *var, size_t len, char *key, size_t size)
{
	size_t	 i, n = 0;

	if (len == 9 && memcmp(var, "NODE_NAME", 9) == 0) {
		snprintf(key, size, "node.name");
		return true;
	}
	if (len >= size || memmem(var, len, "__", 2) == NULL)
		return false;
	for (i = 0; i < len; i++) {
		if (var[i] == '_' && i + 1 < len && var[i + 1] == '_') {
			key[n++] = '.';
			i++;
		} else if (var[i] >= 'A' && var[i] <= 'Z') {
			key[n++] = (char)(var[i] - 'A' + 'a');
		} else {
			key[n++] = var[i];
		}
	}
	key[n] = '\0';
	return true;
}

int
conf_read_env(struct conf *c, char *const envp[], struct conf_error *e)
{
	static const char	 prefix[] = "MQTTC_";
	char			 key[128] = "", origin[192];
	const char		*var, *eq;
	int			 rc;

	for (; *envp != NULL; envp++) {
		if (strncmp(*envp, prefix, sizeof(prefix) - 1) != 0 ||
		    (eq = strchr(*envp, '=')) == NULL)
			continue;
		var = *envp + sizeof(prefix) - 1;
		if (!env_key(var, (size_t)(eq - var), key, sizeof(key)))
			continue;
		snprintf(origin, sizeof(origin), "environment %.*s",
		    (int)(eq - *envp), *envp);
		if ((rc = conf_set(c, key, eq + 1, origin, e)) < 0)
			return rc;
	}
	return 0;
}

int
conf_check(const struct conf *c, struct conf_error *e)
{
	char		 host[CONF_STR_MAX];
	uint16_t	 port;

	if (c->listener_tcp_external[0] == '\0' &&
	    c->listener_tcp_each[0] == '\0')
		return wrong(e, "listener.tcp.external and listener.tcp.each "
		    "are both empty: nobody could connect; set one of them, "
		    "such as listener.tcp.external = 0.0.0.0:1883");
	if (c->listener_tcp_each[0] != '\0' &&
	    (conf_split_addr(c->listener_tcp_each, host, sizeof(host), &port) <
	    0 || port + c->listener_processes - 1 > 65535))
		return wrong(e, "listener.tcp.each = \"%s\" with "
		    "listener.processes = %u: the last listener's port would "
		    "be above 65535", c->listener_tcp_each,
		    c->listener_processes);
	if (c->bus_stream_max < c->bus_credit)
		return wrong(e, "bus.stream_max (%u bytes) must not be less "
		    "than bus.credit (%u bytes)", c->bus_stream_max,
		    c->bus_credit);
	if (c->mqtt_wildcard_shapes_all < c->mqtt_wildcard_shapes)
		return wrong(e, "mqtt.wildcard_shapes_all (%u) must not be "
		    "less than mqtt.wildcard_shapes (%u)",
		    c->mqtt_wildcard_shapes_all, c->mqtt_wildcard_shapes);
	if (c->node_dist_listen_max < c->node_dist_listen_min)
		return wrong(e, "node.dist_listen_max (%u) must not be less "
		    "than node.dist_listen_min (%u)", c->node_dist_listen_max,
		    c->node_dist_listen_min);
	return 0;
}

#include "proto/noderow.h"

#include "base/err.h"

#define LENGTH_MAX	65535u
#define GROUP_HEAD	4u

static uint8_t
letter(enum noderow_class class)
{
	return class == NODEROW_LIVE ? 'L' : 'D';
}

static int
class_of(uint8_t c)
{
	return c == 'L' ? NODEROW_LIVE : c == 'D' ? NODEROW_DURABLE : -1;
}

/* Up to the last that there is. */
static size_t
ports_put(uint8_t *value, const uint32_t *ports)
{
	size_t	i, len = 0;

	for (i = 0; i < NODE_LINKS_MAX; i++) {
		put_le16(value + 2 * i, (uint16_t)ports[i]);
		if (ports[i] != 0)
			len = 2 * (i + 1);
	}
	return len;
}

/* More than we know of are of a later version. */
static void
ports_get(uint32_t *ports, struct slice value)
{
	size_t	i;

	for (i = 0; i < NODE_LINKS_MAX && 2 * (i + 1) <= value.len; i++)
		ports[i] = get_le16(value.data + 2 * i);
}

int
noderow_encode(const struct noderow *row, uint8_t key[NODEROW_KEY_MAX],
    size_t *key_len, uint8_t value[NODEROW_VALUE_MAX], size_t *value_len)
{
	size_t	at = 1;

	if (row->kind == NODEROW_NAME) {
		if (row->name.len == 0 || row->name.len > NODEROW_VALUE_MAX)
			return ERR_INVAL;
		key[0] = 'N';
		*key_len = at;
		memcpy(value, row->name.data, row->name.len);
		*value_len = row->name.len;
		return 0;
	}
	if (row->kind == NODEROW_PORTS) {
		key[0] = 'P';
		*key_len = at;
		*value_len = ports_put(value, row->ports);
		return 0;
	}
	if (row->filter.len == 0 || row->filter.len > LENGTH_MAX)
		return ERR_INVAL;
	*value_len = 0;
	if (row->kind == NODEROW_GROUP) {
		if (row->group.len == 0 || row->group.len > LENGTH_MAX)
			return ERR_INVAL;
		key[0] = 'G';
		key[1] = letter(row->class);
		put_le16(key + 2, (uint16_t)row->group.len);
		memcpy(key + GROUP_HEAD, row->group.data, row->group.len);
		at = GROUP_HEAD + row->group.len;
		put_le32(value, row->members);
		*value_len = 4;
	} else {
		key[0] = letter(row->class);
	}
	memcpy(key + at, row->filter.data, row->filter.len);
	*key_len = at + row->filter.len;
	return 0;
}

static int
group_decode(struct noderow *r, struct slice key, struct slice value,
    bool deleted)
{
	size_t	n;

	if (key.len <= GROUP_HEAD)
		return ERR_PROTO;
	n = get_le16(key.data + 2);
	if (n == 0 || key.len - GROUP_HEAD <= n ||
	    (!deleted && value.len < 4))
		return ERR_PROTO;
	r->kind = NODEROW_GROUP;
	r->group = (struct slice){ key.data + GROUP_HEAD, n };
	r->filter = (struct slice){ key.data + GROUP_HEAD + n,
	    key.len - GROUP_HEAD - n };
	r->members = deleted ? 0 : get_le32(value.data);
	return 0;
}

int
noderow_decode(struct noderow *out, struct slice key, struct slice value,
    bool deleted)
{
	struct noderow	r = { .kind = NODEROW_FILTER };
	int		class;

	if (key.len == 1 && key.data[0] == 'N') {
		r.kind = NODEROW_NAME;
		if (!deleted)
			r.name = value;
		if (r.name.len > NODEROW_VALUE_MAX)
			return ERR_PROTO;
		*out = r;
		return 0;
	}
	if (key.len == 1 && key.data[0] == 'P') {
		r.kind = NODEROW_PORTS;
		if (!deleted)
			ports_get(r.ports, value);
		*out = r;
		return 0;
	}
	if (key.len < 2)
		return ERR_PROTO;
	if (key.data[0] == 'G') {
		if (group_decode(&r, key, value, deleted) < 0)
			return ERR_PROTO;
		class = class_of(key.data[1]);
	} else {
		r.filter = (struct slice){ key.data + 1, key.len - 1 };
		class = class_of(key.data[0]);
	}
	if (class < 0 || r.filter.len > LENGTH_MAX)
		return ERR_PROTO;
	r.class = (enum noderow_class)class;
	*out = r;
	return 0;
}

static uint32_t
power_of_two(uint64_t n)
{
	return n == 0 ? 0 : n >= 1u << 15 ? 1u << 15 :
	    1u << (31 - __builtin_clz((uint32_t)n));
}

static uint32_t
halves(uint32_t first, uint32_t second)
{
	return MIN(first, (uint32_t)UINT16_MAX) | second << 16;
}

uint32_t
noderow_members(enum noderow_class class, uint64_t first, uint64_t second)
{
	if (class == NODEROW_DURABLE)
		return halves(power_of_two(first), power_of_two(second));
	return halves(power_of_two(first - MIN(first, second)) +
	    power_of_two(second), power_of_two(second));
}

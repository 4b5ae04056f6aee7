/*
 * fuzz_packet: bytes from a client or a server, packet after packet, through
 * every decoder. What is accepted is encoded again and must then say the same.
 *
 * The first byte: bits 0-1 the version (CONNECT changes it), bit 2 who sends,
 * bit 3 the topic is not checked, bits 4-5 a bound of levels.
 */
#include "../support/mqtt_any.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
require(bool ok)
{
	if (!ok)
		abort();
}

/* Accepted, so its encoding is, and that of its encoding is the same bytes. */
static void
round_trip(const struct any *a, unsigned version, unsigned flags)
{
	struct any	 b;
	uint8_t		*once, *twice;
	size_t		 once_len, twice_len;

	once = any_encode(a, &once_len);
	require(any_decode(&b, version, flags, 0, once, once_len) == 0);
	require(b.frame.size == once_len && b.version == a->version);
	twice = any_encode(&b, &twice_len);
	require(once_len == twice_len);
	require(memcmp(once, twice, once_len) == 0);
	free(once);
	free(twice);
}

/* Dropping what may be dropped saves what was asked, or says that it cannot. */
static void
trim(const struct mqtt_props *props)
{
	struct mqtt_props p = *props;
	size_t	before = mqtt_props_size(&p), after;
	bool	enough = mqtt_props_trim(&p, before / 2);

	after = mqtt_props_size(&p);
	require(after <= before);
	require(!enough || before - after >= before / 2);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t versions[] = {
		MQTT_NONE, MQTT_V31, MQTT_V311, MQTT_V5,
	};
	unsigned	version, was, flags, max_levels;
	struct any	a;
	int		rc;

	if (size == 0)
		return 0;
	version = versions[data[0] & 3];
	flags = data[0] >> 2 & 3;
	max_levels = data[0] >> 4 & 3;
	for (data++, size--; size > 0; data += a.frame.size,
	    size -= a.frame.size) {
		was = version;
		rc = any_decode(&a, version, flags, max_levels, data, size);
		if (rc < 0) {
			require(rc == ERR_AGAIN || rc == ERR_PROTO);
			require(mqtt_frame_parse(data, size, version, 1,
			    &a.frame) != 0);
			break;
		}
		require(rc == 0 || (rc >= 0x80 && rc <= 0xa2));
		require(a.frame.size <= size && a.frame.len < a.frame.size);
		if (rc != 0)
			continue;
		version = a.version;
		round_trip(&a, a.frame.type == MQTT_CONNECT ? was : version,
		    flags);
		if (a.frame.type == MQTT_DISCONNECT)
			trim(&a.disconnect.props);
	}
	return 0;
}

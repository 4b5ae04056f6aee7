#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "journal/internal.h"

#define RECORD_MAGIC	0x4a6d		/* "mJ" */

static const uint8_t segment_magic[8] = "mqttcJ1\n";

static uint64_t
body_sum(const uint8_t *body, uint32_t len, uint64_t pos, uint64_t salt)
{
	return XXH3_64bits_withSeed(body, record_bytes(len) - RECORD_HEAD,
	    salt ^ pos);
}

static uint64_t
head_sum(const uint8_t *p, uint64_t pos, uint64_t salt)
{
	uint8_t	 b[24];

	put_le64(b, pos);
	memcpy(b + 8, p, 16);
	return XXH3_64bits_withSeed(b, sizeof(b), salt);
}

void
record_seal(uint8_t *p, uint64_t pos, uint64_t salt, unsigned type,
    uint32_t len)
{
	put_le16(p, RECORD_MAGIC);
	put_le16(p + 2, (uint16_t)type);
	put_le32(p + 4, len);
	put_le64(p + 8, body_sum(p + RECORD_HEAD, len, pos, salt));
	put_le64(p + 16, head_sum(p, pos, salt));
}

bool
record_head(const uint8_t *p, uint64_t pos, uint64_t salt, struct head *out)
{
	if (get_le16(p) != RECORD_MAGIC ||
	    get_le32(p + 4) > JOURNAL_RECORD_MAX ||
	    get_le64(p + 16) != head_sum(p, pos, salt))
		return false;
	*out = (struct head){ get_le16(p + 2), get_le32(p + 4),
	    get_le64(p + 8) };
	return true;
}

bool
record_body_valid(const uint8_t *body, const struct head *h, uint64_t pos,
    uint64_t salt)
{
	return h->body_sum == body_sum(body, h->len, pos, salt);
}

void
segment_head(uint8_t p[HEADER_BYTES], uint64_t first, uint64_t salt)
{
	memcpy(p, segment_magic, 8);
	put_le64(p + 8, first);
	put_le64(p + 16, salt);
	put_le64(p + 24, XXH3_64bits(p, 24));
	memcpy(p + HEADER_COPY, p, HEADER_COPY);
}

bool
segment_head_valid(const uint8_t p[HEADER_COPY], uint64_t first, uint64_t *salt)
{
	if (memcmp(p, segment_magic, 8) != 0 || get_le64(p + 8) != first ||
	    get_le64(p + 24) != XXH3_64bits(p, 24))
		return false;
	*salt = get_le64(p + 16);
	return true;
}

void
segment_name(char name[NAME_BYTES], uint64_t first)
{
	snprintf(name, NAME_BYTES, "seg-%016" PRIx64 ".log", first);
}

void
gap_name(char name[NAME_BYTES], uint64_t first, uint64_t end)
{
	snprintf(name, NAME_BYTES, "gap-%016" PRIx64 "-%016" PRIx64, first,
	    end);
}

void
quarantine_name(char name[NAME_BYTES], uint64_t pos)
{
	snprintf(name, NAME_BYTES, "quarantine-%016" PRIx64, pos);
}

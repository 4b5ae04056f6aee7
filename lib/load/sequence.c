#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "load/sequence.h"

static bool
is_seen(const struct sequence *s, uint32_t n)
{
	return s->seen[n % SEQUENCE_WINDOW / 64] >> (n % 64) & 1;
}

static void
set_seen(struct sequence *s, uint32_t n, bool on)
{
	uint64_t	 bit = 1ull << (n % 64);
	uint64_t	*w = &s->seen[n % SEQUENCE_WINDOW / 64];

	*w = on ? *w | bit : *w & ~bit;
}

void
sequence_fini(struct sequence *s)
{
	free(s->seen);
	memset(s, 0, sizeof(*s));
}

int
sequence_pass(struct sequence *s, uint32_t n)
{
	if (n <= s->next)
		return 0;
	if (s->seen == NULL) {
		s->seen = malloc(SEQUENCE_WINDOW / 8);
		if (s->seen == NULL)
			return ERR_NOMEM;
		memset(s->seen, 0xff, SEQUENCE_WINDOW / 8);
	}
	if (n - s->next > SEQUENCE_WINDOW)
		s->next = n - SEQUENCE_WINDOW;
	for (; s->next < n; s->next++)
		set_seen(s, s->next, false);
	return 0;
}

int
sequence_take_slow(struct sequence *s, uint32_t n, uint32_t *passed)
{
	uint32_t	first = s->next;

	*passed = 0;
	if (n >= first) {
		if (sequence_pass(s, n) < 0)
			return ERR_NOMEM;
		s->next = n + 1;
		if (s->seen != NULL)
			set_seen(s, n, true);
		*passed = n - first + 1;
		return n == first ? SEQUENCE_NEXT : SEQUENCE_AHEAD;
	}
	if (first - n > SEQUENCE_WINDOW || s->seen == NULL || is_seen(s, n))
		return SEQUENCE_DUPLICATE;
	set_seen(s, n, true);
	return SEQUENCE_LATE;
}

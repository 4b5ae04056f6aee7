#include "session/inbound.h"

#include <stdlib.h>
#include <string.h>
#include "base/err.h"

/* A client has few of these at a time, so a plain array it is: at the bound
 * of 65535 a search still takes only microseconds. */

static uint32_t
find(const struct inbound *in, uint16_t id)
{
	uint32_t i;

	for (i = in->n; i-- > 0;)	/* PUBREL mostly follows at once */
		if (in->ids[i] == id)
			return i;
	return in->n;
}

bool
inbound_has(const struct inbound *in, uint16_t id)
{
	return find(in, id) < in->n;
}

int
inbound_add(struct inbound *in, uint16_t id)
{
	uint16_t *grown;
	uint32_t  cap;

	if (inbound_has(in, id))
		return 0;
	if (in->n == in->cap) {
		cap = in->cap == 0 ? 8 : in->cap * 2;
		if ((grown = realloc(in->ids, cap * sizeof(*grown))) == NULL)
			return ERR_NOMEM;
		in->ids = grown;
		in->cap = cap;
	}
	in->ids[in->n++] = id;
	return 1;
}

bool
inbound_del(struct inbound *in, uint16_t id)
{
	uint32_t i = find(in, id);

	if (i == in->n)
		return false;
	in->ids[i] = in->ids[--in->n];
	return true;
}

void
inbound_clear(struct inbound *in)
{
	free(in->ids);
	in->ids = NULL;
	in->n = in->cap = 0;
}

int
inbound_import(struct inbound *in, const uint16_t *ids, uint32_t n)
{
	if (n == 0)
		return 0;
	if ((in->ids = malloc(n * sizeof(*ids))) == NULL)
		return ERR_NOMEM;
	memcpy(in->ids, ids, n * sizeof(*ids));
	in->n = in->cap = n;
	return 0;
}

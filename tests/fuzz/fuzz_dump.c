/* Lines of an export: what is taken is told again, and taken the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "dump/dump.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
same(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 ||
	    memcmp(a.data, b.data, a.len) == 0);
}

static void
back_and_forth(struct dump_line *l)
{
	struct dump_reader	 r = { .object = NULL };
	struct dump_line	 m;
	char			*text, why[256];

	if (dump_put(l, &text) < 0)
		abort();
	if (dump_get(&r, text, strlen(text) - 1, &m, why, sizeof(why)) < 0 ||
	    m.kind != l->kind || m.item.kind != l->item.kind ||
	    !same(m.item.client_id, l->item.client_id) ||
	    !same(m.item.topic, l->item.topic) ||
	    !same(m.item.share, l->item.share) ||
	    !same(m.item.ids, l->item.ids) ||
	    !same(m.item.props, l->item.props) ||
	    !same(m.item.payload, l->item.payload) ||
	    m.item.offset != l->item.offset ||
	    m.item.options != l->item.options ||
	    m.item.version_lo != l->item.version_lo ||
	    m.item.deadline_ms != l->item.deadline_ms)
		abort();
	free(text);
	dump_reader_fini(&r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dump_reader	 r = { .object = NULL };
	struct dump_order	 o = { .next = 0 };
	struct dump_line	 l;
	const char		*at = (const char *)data, *nl;
	char			 why[256];
	size_t			 len;

	while (size > 0) {
		nl = memchr(at, '\n', size);
		len = nl != NULL ? (size_t)(nl - at) : size;
		if (dump_get(&r, at, len, &l, why, sizeof(why)) == 0) {
			back_and_forth(&l);
			(void)dump_order_next(&o, &l, why, sizeof(why));
		}
		size -= MIN(len + 1, size);
		at += nl != NULL ? len + 1 : len;
	}
	(void)dump_order_end(&o, why, sizeof(why));
	dump_order_fini(&o);
	dump_reader_fini(&r);
	return 0;
}

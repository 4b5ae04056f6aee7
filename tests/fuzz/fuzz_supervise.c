/*
 * A packet of supervise.sock of any bytes: never a crash, texts that end, and
 * what is accepted is written and read back the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proc/proc.h"
#include "proc/sup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct sup_msg m, back;
static uint8_t one[SUP_PACKET_MAX], two[SUP_PACKET_MAX];

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t		n1 = sizeof(one), n2 = sizeof(two);
	enum proc_kind	kind;
	uint32_t	instance;

	if (sup_decode(data, size, &m) < 0)
		return 0;
	if (m.kind == KIND_SUP_HELLO)
		(void)proc_name_parse(m.u.hello.name, &kind, &instance);
	if (sup_encode(&m, one, &n1) < 0)
		abort();
	if (sup_decode(one, n1, &back) < 0 || back.kind != m.kind)
		abort();
	if (sup_encode(&back, two, &n2) < 0 || n1 != n2 ||
	    memcmp(one, two, n1) != 0)
		abort();
	return 0;
}

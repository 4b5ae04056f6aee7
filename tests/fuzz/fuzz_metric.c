/* A metrics segment of any bytes: never a read outside it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "metric/metric.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
touch(void *ctx, const char *name, const char *help,
    enum metric_kind kind UNUSED, uint64_t value UNUSED)
{
	*(size_t *)ctx += strlen(name) + strlen(help);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	 name[64];
	size_t	 bytes = 0;
	void	*mem;

	if ((mem = malloc(size + 1)) == NULL)	/* aligned, ends at the end */
		return 0;
	memcpy(mem, data, size);
	(void)metric_read(mem, size, touch, &bytes);
	(void)metric_segment_process(mem, size, name, sizeof(name));
	free(mem);
	return 0;
}

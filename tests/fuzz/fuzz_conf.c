/*
 * A configuration file of any bytes: never a crash, and what is accepted is
 * written and read back the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "conf/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct conf	 c, before, back;
	struct conf_error	 e = { .text = "" };
	char			*text = NULL;
	size_t			 len;
	FILE			*f;

	conf_init(&c);
	before = c;
	if (conf_read_bytes(&c, (const char *)data, size, "fuzz", &e) < 0) {
		if (e.text[0] == '\0' || strchr(e.text, '\n') != NULL ||
		    memcmp(&c, &before, sizeof(c)) != 0)
			abort();
		return 0;
	}
	(void)conf_check(&c, &e);
	if ((f = open_memstream(&text, &len)) == NULL)
		abort();
	if (conf_write(&c, f) < 0)
		abort();
	fclose(f);
	conf_init(&back);
	if (conf_read_bytes(&back, text, len, "back", &e) < 0)
		abort();
	for (size_t i = 0; i < conf_nkeys; i++)
		if (!conf_same(&c, &back, &conf_keys[i]))
			abort();
	free(text);
	return 0;
}

/*
 * confdoc: print the sample configuration or the key list of mqttc.conf(5), for
 * `make docs` and for the check that both are up to date.
 */
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

#include "conf/conf.h"

int
main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "sample") == 0)
		return conf_write_sample(stdout) < 0 ? EX_IOERR : 0;
	if (argc == 2 && strcmp(argv[1], "mdoc") == 0)
		return conf_write_mdoc(stdout) < 0 ? EX_IOERR : 0;
	fprintf(stderr, "usage: confdoc sample|mdoc\n");
	return EX_USAGE;
}

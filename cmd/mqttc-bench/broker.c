/*
 * broker.c: what the broker pays: CPU is the nanoseconds of /proc/P/task/T/
 * schedstat of every thread, memory is Pss of /proc/P/smaps_rollup.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "bench.h"

static uint64_t
read_number(const char *path, const char *key)
{
	unsigned long long	 v = 0;
	char			 line[256];
	FILE			*f;

	if ((f = fopen(path, "re")) == NULL)
		return 0;
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strncmp(line, key, strlen(key)) == 0) {
			v = strtoull(line + strlen(key), NULL, 10);
			break;
		}
	}
	fclose(f);
	return v;
}

static uint64_t
process_cpu_ns(unsigned pid)
{
	uint64_t	 sum = 0;
	struct dirent	*d;
	char		 path[320];
	DIR		*dir;

	snprintf(path, sizeof(path), "/proc/%u/task", pid);
	if ((dir = opendir(path)) == NULL)
		fail(EX_UNAVAILABLE, "there is no broker process %u", pid);
	while ((d = readdir(dir)) != NULL) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%u/task/%s/schedstat",
		    pid, d->d_name);
		sum += read_number(path, "");
	}
	closedir(dir);
	return sum;
}

uint64_t
broker_cpu_ns(void)
{
	uint64_t	sum = 0;
	unsigned	i;

	for (i = 0; i < opt.pids.n; i++)
		sum += process_cpu_ns((unsigned)opt.pids.v[i]);
	return sum;
}

uint64_t
broker_pss_bytes(void)
{
	uint64_t	sum = 0;
	char		path[64];
	unsigned	i;

	for (i = 0; i < opt.pids.n; i++) {
		snprintf(path, sizeof(path), "/proc/%u/smaps_rollup",
		    (unsigned)opt.pids.v[i]);
		sum += read_number(path, "Pss:") * 1024;
	}
	return sum;
}

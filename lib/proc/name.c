#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "proc/proc.h"

static const struct {
	const char	*name, *program;
	bool		 numbered;
} kinds[PROC_NKINDS] = {
	[PROC_SUPERVISE]	= { "supervise", "mqttc-supervise", false },
	[PROC_ROUTER]		= { "router", "mqttc-router", false },
	[PROC_LISTENER]		= { "listener", "mqttc-listener", true },
	[PROC_SESSION_STORE]	= { "session_store", "mqttc-session-store",
				    true },
	[PROC_CLUSTER_LINK]	= { "cluster_link", "mqttc-cluster-link",
				    true },
};

static const char *const states[PROC_NSTATES] = {
	[PROC_DOWN]	= "down",
	[PROC_STARTING]	= "starting",
	[PROC_READY]	= "ready",
	[PROC_DRAINING]	= "draining",
};

const char *
proc_kind_name(enum proc_kind k)
{
	return (unsigned)k < PROC_NKINDS ? kinds[k].name : NULL;
}

const char *
proc_kind_program(enum proc_kind k)
{
	return (unsigned)k < PROC_NKINDS ? kinds[k].program : NULL;
}

const char *
proc_state_name(enum proc_state s)
{
	return (unsigned)s < PROC_NSTATES ? states[s] : NULL;
}

/* A number without sign, blank or leading zero, below PROC_PEERS_MAX. */
static int
parse_instance(const char *s, uint32_t *out)
{
	uint32_t	v = 0;

	if (*s == '\0' || (s[0] == '0' && s[1] != '\0'))
		return ERR_INVAL;
	for (; *s != '\0'; s++) {
		if (*s < '0' || *s > '9')
			return ERR_INVAL;
		if ((v = v * 10 + (uint32_t)(*s - '0')) >= PROC_PEERS_MAX)
			return ERR_INVAL;
	}
	*out = v;
	return 0;
}

int
proc_name_parse(const char *name, enum proc_kind *kind, uint32_t *instance)
{
	uint32_t	v = 0;
	size_t		len;
	int		k;

	for (k = 0; k < PROC_NKINDS; k++) {
		len = strlen(kinds[k].name);
		if (strncmp(name, kinds[k].name, len) != 0)
			continue;
		if (kinds[k].numbered) {
			if (name[len] != '.' ||
			    parse_instance(name + len + 1, &v) < 0)
				continue;
		} else if (name[len] != '\0')
			continue;
		*kind = (enum proc_kind)k;
		*instance = v;
		return 0;
	}
	return ERR_INVAL;
}

#include "fault/fault.h"

#ifdef FAULTS
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS_MAX	32

enum act { ACT_FAIL, ACT_KILL, ACT_STOP };

static struct point {
	char		name[64];
	unsigned long	nth, visits;
	enum act	act;
} points[POINTS_MAX];
static int npoints = -1;		/* the environment was not read yet */
static pthread_mutex_t visits_lock = PTHREAD_MUTEX_INITIALIZER;

/* One NAME:nth=N[:do=ACT]; what is not understood ends the test loudly. */
static void
point_parse(struct point *p, char *text)
{
	char	*save = NULL, *word, *end;

	if ((word = strtok_r(text, ":", &save)) == NULL)
		abort();
	snprintf(p->name, sizeof(p->name), "%s", word);
	while ((word = strtok_r(NULL, ":", &save)) != NULL) {
		if (strncmp(word, "nth=", 4) == 0) {
			p->nth = strtoul(word + 4, &end, 10);
			if (word[4] == '\0' || *end != '\0')
				abort();
		} else if (strcmp(word, "do=kill") == 0) {
			p->act = ACT_KILL;
		} else if (strcmp(word, "do=stop") == 0) {
			p->act = ACT_STOP;
		} else {
			abort();
		}
	}
}

static void
faults_read(void)
{
	const char	*env = getenv("FAULTS");
	char		*text, *save = NULL, *word;

	npoints = 0;
	if (env == NULL || (text = strdup(env)) == NULL)
		return;
	for (word = strtok_r(text, ",", &save); word != NULL;
	    word = strtok_r(NULL, ",", &save)) {
		if (npoints == POINTS_MAX)
			abort();
		point_parse(&points[npoints++], word);
	}
	free(text);
}

/* Count a visit of p; whether it is to fail. */
static bool
point_hit(struct point *p)
{
	p->visits++;
	if (p->nth != 0 && p->visits != p->nth)
		return false;
	fprintf(stderr, "fault: %s visit %lu\n", p->name, p->visits);
	switch (p->act) {
	case ACT_FAIL:
		return true;
	case ACT_KILL:
		raise(SIGKILL);
		break;
	case ACT_STOP:
		raise(SIGSTOP);
		break;
	}
	return false;
}

bool
fault_hit(const char *name)
{
	bool	 hit = false;
	int	 i;

	pthread_mutex_lock(&visits_lock);
	if (npoints < 0)
		faults_read();
	for (i = 0; i < npoints && !hit; i++)
		hit = strcmp(points[i].name, name) == 0 &&
		    point_hit(&points[i]);
	pthread_mutex_unlock(&visits_lock);
	return hit;
}
#endif

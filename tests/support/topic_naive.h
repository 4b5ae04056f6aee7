/*
 * topic_naive.h: a second matcher, level by level and from the text of section
 * 4.7 alone, to hold the others against.
 */
#ifndef SUPPORT_TOPIC_NAIVE_H
#define SUPPORT_TOPIC_NAIVE_H

#include <stdbool.h>
#include <string.h>

/* f and t are well formed; first: they are at their first level. */
static inline bool
naive_matches(const char *f, const char *t, bool first)
{
	const char *fe = f + strcspn(f, "/"), *te = t + strcspn(t, "/");
	bool	f_last = *fe == '\0', t_last = *te == '\0';

	if (strcmp(f, "#") == 0)
		return !(first && *t == '$');
	if (fe - f == 1 && *f == '+') {
		if (first && *t == '$')
			return false;
	} else if (fe - f != te - t || strncmp(f, t, (size_t)(fe - f)) != 0) {
		return false;
	}
	if (f_last && t_last)
		return true;
	if (t_last)
		return strcmp(fe, "/#") == 0;
	return !f_last && naive_matches(fe + 1, te + 1, false);
}

#endif

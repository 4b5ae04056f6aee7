/*
 * doc.c: the table of keys as a sample file and as manual text.
 */
#include "conf/conf.h"

#include "base/err.h"
#include "base/util.h"

#define COLUMNS	78

/* Fill text between the margins, each line starting with prefix. */
static void
wrap(FILE *f, const char *prefix, const char *text)
{
	size_t	 col = 0, len;

	while (*text != '\0') {
		len = strcspn(text, " ");
		if (col > 0 && col + 1 + len > COLUMNS) {
			fputc('\n', f);
			col = 0;
		}
		if (col == 0) {
			fputs(prefix, f);
			col = strlen(prefix);
		} else {
			fputc(' ', f);
			col++;
		}
		fwrite(text, 1, len, f);
		col += len;
		text += len + strspn(text + len, " ");
	}
	if (col > 0)
		fputc('\n', f);
}

/* Whether k opens a group of keys, by the name before the first dot. */
static bool
opens_group(const struct conf_key *k)
{
	return k == conf_keys || strcspn(k->name, ".") !=
	    strcspn(k[-1].name, ".") ||
	    strncmp(k->name, k[-1].name, strcspn(k->name, ".")) != 0;
}

int
conf_write_sample(FILE *f)
{
	const struct conf_key	*k;
	char			 expects[256], text[512];

	fputs("# mqttc.conf: see mqttc.conf(5). A line is a key, '=' and a "
	    "value, or a comment\n# that starts with '#'. Every key is shown "
	    "with its default; remove the '#' in\n# front of a key to change "
	    "it.\n", f);
	for (k = conf_keys; k < conf_keys + conf_nkeys; k++) {
		if (opens_group(k))
			fprintf(f, "\n# --- %.*s ---\n",
			    (int)strcspn(k->name, "."), k->name);
		fputc('\n', f);
		wrap(f, "# ", k->help);
		conf_key_expects(k, expects, sizeof(expects));
		snprintf(text, sizeof(text), "Takes %s%s.", expects,
		    k->flags & CONF_RELOAD ? "" : "; changed by a restart");
		wrap(f, "# ", text);
		fprintf(f, "#%s =%s%s\n", k->name, k->def[0] ? " " : "", k->def);
	}
	return fflush(f) != 0 || ferror(f) ? ERR_IO : 0;
}

/* Manual text: a sentence a line, and nothing at its start that is roff. */
static void
mdoc_text(FILE *f, const char *s)
{
	bool	 start = true;

	for (; *s != '\0'; s++) {
		if (start && (*s == '.' || *s == '\''))
			fputs("\\&", f);
		start = false;
		if (*s == '\\') {
			fputs("\\e", f);
		} else if (*s == ' ' && s[-1] == '.') {
			fputc('\n', f);
			start = true;
		} else {
			fputc(*s, f);
		}
	}
	fputc('\n', f);
}

int
conf_write_mdoc(FILE *f)
{
	const struct conf_key	*k;
	char			 expects[256];

	for (k = conf_keys; k < conf_keys + conf_nkeys; k++) {
		if (opens_group(k))
			fprintf(f, "%s.Ss %.*s\n.Bl -tag -width Ds\n",
			    k == conf_keys ? "" : ".El\n",
			    (int)strcspn(k->name, "."), k->name);
		fprintf(f, ".It Va %s\n", k->name);
		mdoc_text(f, k->help);
		conf_key_expects(k, expects, sizeof(expects));
		fprintf(f, "Takes %s.\n", expects);
		if (k->def[0] != '\0')
			fprintf(f, "Default:\n.Li %s .\n", k->def);
		else
			fputs("Default: empty.\n", f);
		if (!(k->flags & CONF_RELOAD))
			fputs("Changed by a restart only.\n", f);
	}
	fputs(".El\n", f);
	return fflush(f) != 0 || ferror(f) ? ERR_IO : 0;
}

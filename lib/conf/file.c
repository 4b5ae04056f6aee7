/*
 * file.c: configuration files, in and out. inih splits the lines; what it
 * would do silently is refused before it sees it: sections, lines longer than
 * its buffer (cut), continuation lines (appended), lines without '=' and NUL
 * bytes. A comment is a line that starts with '#' or ';'; inside a value both
 * are ordinary bytes, so topic filters need no quoting.
 */
#include "conf/conf.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>

#include "base/err.h"
#include "base/quote.h"
#include "base/util.h"

#define LINE_BYTES	1024	/* a line with its end */

struct reader {
	FILE		*file;		/* or bytes .. end */
	const char	*bytes, *end;
	const char	*name;
	struct conf	*conf;
	struct conf_error *e;
	unsigned	 line;
	int		 rc;
};

static int refuse(struct reader *, const char *fmt, ...) PRINTF(2, 3);

static int
refuse(struct reader *r, const char *fmt, ...)
{
	va_list	 ap;
	int	 n;

	n = snprintf(r->e->text, sizeof(r->e->text), "%.500s:%u: ", r->name,
	    r->line);
	va_start(ap, fmt);
	vsnprintf(r->e->text + n, sizeof(r->e->text) - (size_t)n, fmt, ap);
	va_end(ap);
	return r->rc = ERR_INVAL;
}

static int
next_byte(struct reader *r)
{
	if (r->file != NULL)
		return getc(r->file);
	return r->bytes < r->end ? (unsigned char)*r->bytes++ : EOF;
}

/* What inih must not see; s is a line without its blanks at both ends. */
static int
line_check(struct reader *r, const char *s)
{
	const char	*eq = strchr(s, '=');
	char		 shown[80];

	if (*s == '\0' || *s == '#' || *s == ';')
		return 0;
	if (*s == '[')
		return refuse(r, "sections are not used; write the whole key, "
		    "such as listener.processes = 2");
	if (eq == s)
		return refuse(r, "a key is missing before '='");
	if (eq == NULL || memchr(s, ':', (size_t)(eq - s)) != NULL)
		return refuse(r, "%s is not of the form key = value",
		    quote(shown, sizeof(shown), s, strlen(s)));
	return 0;
}

/* inih's reader: one line into buf, NULL at the end or once refused. */
static char *
read_line(char *buf, int size, void *stream)
{
	struct reader	*r = stream;
	size_t		 n = 0, max = (size_t)size - 1, lead;
	int		 ch;

	if (r->rc < 0 || (ch = next_byte(r)) == EOF)
		return NULL;
	r->line++;
	for (; ch != EOF && ch != '\n'; ch = next_byte(r)) {
		if (ch == '\0' || n == max) {
			if (ch == '\0')
				refuse(r, "a NUL byte in a text file");
			else
				refuse(r, "the line is longer than %zu bytes",
				    max);
			return NULL;
		}
		buf[n++] = (char)ch;
	}
	while (n > 0 && strchr(" \t\r", buf[n - 1]) != NULL)
		n--;
	buf[n] = '\0';
	lead = r->line == 1 && n >= 3 &&
	    memcmp(buf, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
	lead += strspn(buf + lead, " \t");
	memmove(buf, buf + lead, n - lead + 1);
	return line_check(r, buf) < 0 ? NULL : buf;
}

static int
on_pair(void *user, const char *section UNUSED, const char *key,
    const char *value)
{
	struct reader	*r = user;
	char		 origin[600];

	snprintf(origin, sizeof(origin), "%.500s:%u", r->name, r->line);
	if (r->rc == 0)
		r->rc = conf_set(r->conf, key, value, origin, r->e);
	return r->rc == 0;
}

static int
read_all(struct reader *r)
{
	struct conf	 keep = *r->conf;
	int		 rc;

	ini_use_stack = true;
	ini_max_line = LINE_BYTES;
	ini_allow_multiline = false;
	ini_allow_inline_comments = false;
	rc = ini_parse_stream(read_line, r, on_pair, r);
	if (rc != 0 && r->rc == 0) {
		r->line = rc > 0 ? (unsigned)rc : r->line;
		refuse(r, "not of the form key = value");
	}
	if (r->rc == 0 && r->file != NULL && ferror(r->file)) {
		snprintf(r->e->text, sizeof(r->e->text), "%.500s: cannot read: "
		    "%s", r->name, strerror(errno));
		r->rc = ERR_IO;
	}
	if (r->rc < 0)
		*r->conf = keep;
	return r->rc;
}

int
conf_read_stream(struct conf *c, FILE *f, const char *name,
    struct conf_error *e)
{
	struct reader	 r = { .file = f, .name = name, .conf = c, .e = e };

	return read_all(&r);
}

int
conf_read_bytes(struct conf *c, const char *bytes, size_t len,
    const char *name, struct conf_error *e)
{
	struct reader	 r = { .bytes = bytes, .end = bytes + len,
			       .name = name, .conf = c, .e = e };

	return read_all(&r);
}

int
conf_read_file(struct conf *c, const char *path, struct conf_error *e)
{
	FILE	*f;
	int	 rc;

	if ((f = fopen(path, "re")) == NULL) {
		snprintf(e->text, sizeof(e->text), "cannot open '%.500s': %s",
		    path, strerror(errno));
		return ERR_IO;
	}
	rc = conf_read_stream(c, f, path, e);
	fclose(f);
	return rc;
}

int
conf_write(const struct conf *c, FILE *f)
{
	char	 value[CONF_STR_MAX];
	size_t	 i;

	for (i = 0; i < conf_nkeys; i++) {
		conf_value(c, &conf_keys[i], value, sizeof(value));
		fprintf(f, "%s = %s\n", conf_keys[i].name, value);
	}
	return fflush(f) != 0 || ferror(f) ? ERR_IO : 0;
}

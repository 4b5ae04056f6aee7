#include "report/report.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/err.h"
#include "base/quote.h"
#include "base/utf8.h"
#include "base/util.h"

#define CELL_MAX	512

void
report_init(struct report *r, FILE *out, bool json,
    const struct report_col *cols, size_t ncols)
{
	memset(r, 0, sizeof(*r));
	r->out = out;
	r->json = json;
	r->cols = cols;
	r->ncols = ncols;
}

/* A cell of a table. The last one of a line leaves no blanks behind. */
static void
cell(struct report *r, const char *text)
{
	const struct report_col	*c = &r->cols[r->at];
	size_t			 len = strlen(text);
	size_t			 width = (size_t)c->width;
	size_t			 pad = len < width ? width - len : 0;

	if (c->flags & REPORT_RIGHT)
		r->pending += pad;
	fprintf(r->out, "%*s%s", (int)r->pending, "", text);
	r->pending = (c->flags & REPORT_RIGHT ? 0 : pad) + 2;
}

void
report_titles(struct report *r)
{
	char	title[64];
	size_t	i, k;

	if (r->json || r->titled)
		return;
	r->titled = true;
	for (i = 0; i < r->ncols; i++) {
		if (r->cols[i].flags & REPORT_JSON_ONLY)
			continue;
		snprintf(title, sizeof(title), "%s", r->cols[i].name);
		for (k = 0; title[k] != '\0'; k++)
			title[k] = (char)toupper((unsigned char)title[k]);
		r->at = i;
		cell(r, title);
	}
	fputc('\n', r->out);
	r->at = r->pending = 0;
}

/* Add a value to the row, as JSON (taken) or as text. */
static void
add(struct report *r, json_t *value, const char *text)
{
	const struct report_col	*c = &r->cols[r->at];

	assert(r->at < r->ncols);
	if (r->json) {
		if (r->object == NULL)
			r->object = json_object();
		if (c->flags & REPORT_TEXT_ONLY)
			json_decref(value);
		else
			json_object_set_new(r->object, c->name, value);
	} else {
		size_t	at = r->at;

		if (!r->titled) {
			report_titles(r);
			r->at = at;
		}
		if (!(c->flags & REPORT_JSON_ONLY) && text != NULL)
			cell(r, text);
	}
	r->at++;
}

/* JSON has to be UTF-8: bytes that are not become U+FFFD. */
static json_t *
json_of(const uint8_t *s, size_t len)
{
	json_t	*v = json_stringn((const char *)s, len);
	char	*fixed;
	size_t	 i, n = 0, k;

	if (v != NULL)
		return v;
	if ((fixed = malloc(len * 3 + 1)) == NULL)
		return json_null();
	for (i = 0; i < len; i += k) {
		for (k = MIN((size_t)4, len - i); k > 1; k--)
			if (utf8_check(s + i, k) == 0 && (s[i] & 0xc0) == 0xc0)
				break;
		if (k == 1 && s[i] >= 0x80) {
			memcpy(fixed + n, "\xef\xbf\xbd", 3);
			n += 3;
		} else {
			memcpy(fixed + n, s + i, k);
			n += k;
		}
	}
	v = json_stringn(fixed, n);
	free(fixed);
	return v != NULL ? v : json_null();
}

static bool
is_plain(const uint8_t *s, size_t len)
{
	size_t	i;

	for (i = 0; i < len; i++)
		if (s[i] < 0x20 || s[i] == 0x7f)
			return false;
	return utf8_check(s, len) == 0;
}

void
report_bytes(struct report *r, const void *bytes, size_t len)
{
	char	text[CELL_MAX];

	if (r->json) {
		add(r, json_of(bytes, len), NULL);
		return;
	}
	if (len < sizeof(text) && is_plain(bytes, len)) {
		memcpy(text, bytes, len);
		text[len] = '\0';
		add(r, NULL, text);
	} else
		add(r, NULL, quote(text, sizeof(text), bytes, len));
}

void
report_str(struct report *r, const char *s)
{
	report_bytes(r, s, strlen(s));
}

void
report_u64(struct report *r, uint64_t v)
{
	char	text[32];

	snprintf(text, sizeof(text), "%" PRIu64, v);
	if (!r->json)
		add(r, NULL, text);
	else if (v <= INT64_MAX)
		add(r, json_integer((json_int_t)v), NULL);
	else
		add(r, json_real((double)v), NULL);
}

void
report_double(struct report *r, double v)
{
	char	text[64];

	snprintf(text, sizeof(text), "%.1f", v);
	add(r, r->json ? json_real(v) : NULL, text);
}

void
report_bool(struct report *r, bool v)
{
	add(r, r->json ? json_boolean(v) : NULL, v ? "yes" : "no");
}

void
report_none(struct report *r)
{
	add(r, r->json ? json_null() : NULL, "-");
}

int
report_end(struct report *r)
{
	assert(r->at == r->ncols);
	if (r->json) {
		json_dumpf(r->object, r->out, JSON_COMPACT |
		    JSON_REAL_PRECISION(12));
		json_decref(r->object);
		r->object = NULL;
	}
	fputc('\n', r->out);
	r->at = r->pending = 0;
	return ferror(r->out) ? ERR_IO : 0;
}

/*
 * import.c: what an export told, from stdin into the stores of this node, each
 * line to the shard that its client id or topic belongs to here. A file is read
 * to its end first, so that a damaged one changes nothing; what comes through a
 * pipe is taken as it comes.
 */
#include "ctl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"
#include "base/util.h"

enum {
	BATCH_MAX	= 400 * 1024,	/* holds any head of an item */
	BATCH_FULL	= 32 * 1024,	/* it goes: no store shall stand still */
	READ_MIN	= 256 * 1024
};

static const char *const keys[IMPORT_NKEYS] = { IMPORT_KEYS };
enum key { HANDLE, SESSIONS, SUBSCRIPTIONS, MESSAGES, RETAINED, PRESENT,
	NEWER, EXPIRED, INCOMPLETE, TAKEN, SKIPPED };

/* Lines of stdin. */
struct input {
	char		*buf;
	size_t		 at, end, cap;
	uint64_t	 line;		/* the number of the last one given */
	bool		 eof;
};

/* A store and what is to go to it. */
struct target {
	struct store	*s;
	struct wire_out	 w;
	uint64_t	 handle;	/* of the session that goes on */
	uint64_t	 first_line;	/* in this batch */
};

struct import {
	struct stores	 ss;
	struct target	 to[STORES_MAX];
	struct input	 in;
	struct dump_reader reader;
	struct dump_order order;
	uint32_t	 expiry_s;	/* of the session line */
	uint64_t	 at_ms;
	uint64_t	 n[IMPORT_NKEYS];
	uint32_t	 flags;
	int		 code;
};

/* --- Lines ------------------------------------------------------------------- */

static int
fill(struct input *in)
{
	char	*grown;
	ssize_t	 n;

	if (in->at > 0) {
		memmove(in->buf, in->buf + in->at, in->end - in->at);
		in->end -= in->at;
		in->at = 0;
	}
	if (in->cap - in->end < READ_MIN) {
		if (in->end > DUMP_LINE_MAX) {
			fprintf(stderr, "mqttc-ctl: line %" PRIu64 ": it is "
			    "longer than any line of an export\n",
			    in->line + 1);
			return EX_DATAERR;
		}
		if ((grown = realloc(in->buf, in->cap * 2 + READ_MIN)) == NULL) {
			fprintf(stderr, "mqttc-ctl: out of memory\n");
			return EX_OSERR;
		}
		in->buf = grown;
		in->cap = in->cap * 2 + READ_MIN;
	}
	do {
		n = read(STDIN_FILENO, in->buf + in->end, in->cap - in->end);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		fprintf(stderr, "mqttc-ctl: cannot read: %s\n",
		    strerror(errno));
		return EX_IOERR;
	}
	in->eof = n == 0;
	in->end += (size_t)n;
	return 0;
}

/* 1 and a line without its newline; 0 at the end; else *code says why not. */
static int
next_line(struct input *in, char **text, size_t *len, int *code)
{
	size_t	looked = 0;
	char	*nl;

	for (;;) {
		nl = in->end == in->at + looked ? NULL :
		    memchr(in->buf + in->at + looked, '\n',
		    in->end - in->at - looked);
		if (nl != NULL || (in->eof && in->end > in->at))
			break;
		if (in->eof)
			return 0;
		looked = in->end - in->at;
		if ((*code = fill(in)) != 0)
			return -1;
	}
	*text = in->buf + in->at;
	*len = nl != NULL ? (size_t)(nl - *text) : in->end - in->at;
	in->at = nl != NULL ? (size_t)(nl + 1 - in->buf) : in->end;
	in->line++;
	return 1;
}

static int
damaged(const struct input *in, const char *why)
{
	fprintf(stderr, "mqttc-ctl: line %" PRIu64 ": ", in->line);
	for (; *why != '\0'; why++)		/* bytes of the line are in it */
		fputc(*why >= ' ' && *why < 0x7f ? *why : '?', stderr);
	fputc('\n', stderr);
	return EX_DATAERR;
}

/* Every line of stdin: each() is called with those that are right. */
static int
each_line(struct import *im, int (*each)(struct import *,
    struct dump_line *))
{
	struct dump_line l;
	char		 why[512], *text;
	size_t		 len;
	int		 rc, code = 0;

	while ((rc = next_line(&im->in, &text, &len, &code)) == 1) {
		rc = dump_get(&im->reader, text, len, &l, why, sizeof(why));
		if (rc == 0)
			rc = dump_order_next(&im->order, &l, why, sizeof(why));
		if (rc == ERR_NOMEM) {
			fprintf(stderr, "mqttc-ctl: out of memory\n");
			return EX_OSERR;
		}
		if (rc < 0)
			return damaged(&im->in, why);
		if (each != NULL && (code = each(im, &l)) != 0)
			return code;
	}
	if (rc < 0)
		return code;
	im->in.line++;
	if (dump_order_end(&im->order, why, sizeof(why)) < 0)
		return damaged(&im->in, why);
	return 0;
}

static void
from_the_beginning(struct import *im)
{
	im->in.at = im->in.end = 0;
	im->in.line = 0;
	im->in.eof = false;
	dump_order_fini(&im->order);
}

/* A file can be looked at before anything is done. */
static int
check_first(struct import *im)
{
	struct stat	st;
	off_t		at;
	int		code;

	if (fstat(STDIN_FILENO, &st) < 0 || !S_ISREG(st.st_mode) ||
	    (at = lseek(STDIN_FILENO, 0, SEEK_CUR)) < 0)
		return 0;
	if ((code = each_line(im, NULL)) != 0) {
		fprintf(stderr, "mqttc-ctl: nothing was taken in\n");
		return code;
	}
	if (lseek(STDIN_FILENO, at, SEEK_SET) < 0) {
		fprintf(stderr, "mqttc-ctl: cannot read it again: %s\n",
		    strerror(errno));
		return EX_IOERR;
	}
	from_the_beginning(im);
	return 0;
}

/* --- Batches ----------------------------------------------------------------- */

struct answer {
	struct import	*im;
	struct target	*to;
};

static bool
answer_row(void *ctx, struct reply_row *row)
{
	struct answer	*a = ctx;
	char		 text[32];
	uint64_t	 v;
	size_t		 i;

	if (row->kind != REPLY_KV || row->kv.value.len >= sizeof(text))
		return true;
	snprintf(text, sizeof(text), "%.*s", (int)row->kv.value.len,
	    (const char *)row->kv.value.data);
	v = strtoull(text, NULL, 10);
	for (i = 0; i < IMPORT_NKEYS; i++)
		if (row->kv.key.len == strlen(keys[i]) &&
		    memcmp(row->kv.key.data, keys[i], row->kv.key.len) == 0)
			break;
	if (i == HANDLE)
		a->to->handle = v;
	else if (i < IMPORT_NKEYS)
		a->im->n[i] += v;
	return true;
}

static int
send_batch(struct import *im, struct target *to, uint32_t flags)
{
	struct answer	a = { im, to };
	struct query	q = {
		.what = QUERY_IMPORT,
		.flags = im->flags | flags,
		.handle = to->handle,
		.batch = { to->w.buf, wire_out_len(&to->w) },
	};
	uint32_t	status = 0;
	char		why[256] = "";
	int		rc;

	to->handle = 0;
	wire_out_init(&to->w, to->w.buf, to->w.size);
	rc = bus_ask_query(to->s->ask, &q, answer_row, &a, &status, why,
	    sizeof(why), ANSWER_MS);
	if (rc < 0)
		return stores_failed(to->s, rc);
	if (status == 0)
		return 0;
	if (to->first_line < im->in.line)
		fprintf(stderr, "mqttc-ctl: lines %" PRIu64 " to %" PRIu64
		    ": ", to->first_line, im->in.line);
	else
		fprintf(stderr, "mqttc-ctl: line %" PRIu64 ": ", im->in.line);
	fprintf(stderr, "%s does not take it: %s\n", to->s->name, why);
	return (int)status;
}

static int
flush_all(struct import *im, uint32_t flags)
{
	uint32_t	i;
	int		code = 0, one;

	for (i = 0; i < im->ss.n; i++) {
		if (wire_out_len(&im->to[i].w) == 0 && im->to[i].handle == 0)
			continue;
		if (wire_out_len(&im->to[i].w) > 0 &&
		    (one = send_batch(im, &im->to[i], 0)) != 0) {
			code = one;
			continue;
		}
		/* No end of it will come. */
		if (im->to[i].handle != 0 && flags != 0 &&
		    (one = send_batch(im, &im->to[i], flags)) != 0)
			code = one;
	}
	return code;
}

static int
add(struct import *im, struct target *to, struct item_row *it)
{
	int code;

	if (wire_out_len(&to->w) == 0)
		to->first_line = im->in.line;
	do {
		if (item_put(&to->w, ITEMS_FIELD, it,
		    wire_out_len(&to->w) == 0) == ERR_FULL) {
			if ((code = send_batch(im, to, 0)) != 0)
				return code;
			to->first_line = im->in.line;
			continue;
		}
		if (it->at < item_size(it) &&
		    (code = send_batch(im, to, 0)) != 0)
			return code;
	} while (it->at < item_size(it));
	return wire_out_len(&to->w) >= BATCH_FULL ? send_batch(im, to, 0) : 0;
}

static int
take(struct import *im, struct dump_line *l)
{
	struct item_row		*it = &l->item;
	const struct slice	*key;

	if (l->kind != DUMP_ITEM)
		return 0;
	if (it->kind == ITEM_SESSION) {
		im->expiry_s = it->expiry_s;
		im->at_ms = it->at_ms;
	} else if (it->kind == ITEM_SESSION_END) {
		it->expiry_s = im->expiry_s;
		it->at_ms = im->at_ms;
	}
	if (progress_due())
		fprintf(stderr, "mqttc-ctl: line %" PRIu64 ", %" PRIu64
		    " sessions, %" PRIu64 " retained messages\n", im->in.line,
		    im->n[SESSIONS], im->n[RETAINED]);
	key = it->kind == ITEM_RETAINED ? &it->topic : &it->client_id;
	return add(im, &im->to[XXH3_64bits(key->data, key->len) % im->ss.n],
	    it);
}

/* --- All ----------------------------------------------------------------------- */

static void
say_also(uint64_t n, const char *what)
{
	if (n > 0)
		fprintf(stderr, "mqttc-ctl: %" PRIu64 " %s\n", n, what);
}

static void
say_result(const struct import *im)
{
	const struct dump_counts n = {
		.sessions = im->n[SESSIONS], .messages = im->n[MESSAGES],
		.subscriptions = im->n[SUBSCRIPTIONS],
		.retained = im->n[RETAINED],
	};

	fprintf(stderr, "mqttc-ctl: imported ");
	say_counts(&n);
	fprintf(stderr, "\n");
	say_also(im->n[PRESENT], "sessions left alone: there is one of that "
	    "client id");
	say_also(im->n[NEWER], "retained messages left alone: there is one of "
	    "that topic that is as new or newer");
	say_also(im->n[EXPIRED], "sessions and messages had expired");
	say_also(im->n[TAKEN], "sessions given up: their clients came while "
	    "they were brought in");
	say_also(im->n[INCOMPLETE], "sessions without an end were given up");
}

static int
targets_open(struct import *im)
{
	uint32_t	 i;
	uint8_t		*buf;

	for (i = 0; i < im->ss.n; i++) {
		if ((buf = malloc(BATCH_MAX)) == NULL) {
			fprintf(stderr, "mqttc-ctl: out of memory\n");
			return EX_OSERR;
		}
		wire_out_init(&im->to[i].w, buf, BATCH_MAX);
		im->to[i].s = &im->ss.store[i];
	}
	return 0;
}

static int
import(struct import *im)
{
	int code, end;

	(void)progress_due();
	if ((code = check_first(im)) != 0 || (code = targets_open(im)) != 0)
		return code;
	code = each_line(im, take);
	end = flush_all(im, QUERY_GIVE_UP);
	if (code == 0)
		code = end;
	if (code != 0)
		fprintf(stderr, "mqttc-ctl: what came before it is taken in\n");
	say_result(im);
	return code;
}

int
run_import(struct tool *t, bool replace)
{
	static struct import	im;
	uint32_t		i;
	int			code;

	im.flags = replace ? QUERY_REPLACE : 0;
	if ((code = stores_open(&im.ss, t)) != 0)
		return code;
	code = import(&im);
	for (i = 0; i < im.ss.n; i++)
		free(im.to[i].w.buf);
	stores_close(&im.ss);
	dump_reader_fini(&im.reader);
	dump_order_fini(&im.order);
	free(im.in.buf);
	return code;
}

/*
 * What another node says about streams. First byte: 0 decodes alone; else a
 * node with rows of its own and a link hears it, in messages of that length
 * (of 65536 and so on: all at once), says what it has to say, and tidies up.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/err.h"
#include "rlog/message.h"
#include "rlog/rlog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void
touch(struct slice s)
{
	if (s.len > 0)
		sink ^= (uint8_t)(s.data[0] ^ s.data[s.len - 1]);
}

static void
decode(const uint8_t *data, size_t size)
{
	struct rlog_in	 in;
	struct rlog_msg	 m;
	struct rlog_row	 row;
	struct rlog_word w;
	uint32_t	 n;

	if (rlog_in_init(&in, data, size) < 0)
		return;
	while (rlog_msg_next(&in, &m) == 1) {
		n = 0;
		if (m.kind == RLOG_ROWS)
			for (; rlog_rows_next(&m.rows, &row) == 1; n++) {
				touch(row.key);
				touch(row.value);
			}
		else if (m.kind == RLOG_ACK)
			while (rlog_words_next(&m.rows, &w) == 1)
				n++;
		if (n != m.count)
			abort();
	}
}

static int
on_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row)
{
	struct rlog_status st;

	(void)ctx;
	rlog_look(s, &st);
	if (st.own)
		abort();		/* nobody but us writes ours */
	touch(row->key);
	touch(row->value);
	return 0;
}

static void
on_acked(void *ctx, struct rlog_stream *s, uint64_t seq)
{
	struct rlog_status st;

	(void)ctx;
	rlog_look(s, &st);
	if (seq > st.seq)
		abort();
}

static void
on_wake(void *ctx, struct rlog_link *l)
{
	(void)ctx;
	(void)l;
}

static void
hear(const uint8_t *data, size_t size, size_t step)
{
	static const struct rlog_calls calls = {
		on_row, on_acked, on_wake, NULL, NULL
	};
	static uint8_t	   buf[RLOG_BUF_MIN];
	struct rlog_opts   o = {
		.node = 7, .incarnation = 3, .core = true, .tombstones = 4,
		.streams = 16, .calls = &calls,
	};
	struct rlog	  *r;
	struct rlog_stream *own, *s;
	struct rlog_status st;
	struct rlog_link  *l[2];
	size_t		   n, i;
	unsigned	   k;
	uint8_t		   key;

	if (rlog_new(&r, &o) < 0)
		abort();
	if (rlog_open(r, 1, NULL, NULL, &own) < 0 ||
	    rlog_link_open(r, 8, 1, NULL, &l[0]) < 0 ||
	    rlog_link_open(r, 9, 1, NULL, &l[1]) < 0)
		abort();
	for (key = 1; key < 9; key++) {
		(void)rlog_put(own, (struct slice){ &key, 1 },
		    (struct slice){ &key, 1 }, NULL);
		if (key % 3 == 0)
			(void)rlog_del(own, (struct slice){ &key, 1 }, NULL);
	}
	for (i = 0; i < size; i += n) {
		n = size - i < step ? size - i : step;
		rlog_tick(r, i * 16);
		if (rlog_take(l[0], data + i, n) < 0)
			break;
		for (k = 0; k < 4; k++) {
			(void)rlog_next(l[0], buf, sizeof(buf), k > 0);
			(void)rlog_next(l[1], buf, sizeof(buf), true);
		}
		(void)rlog_tidy(r, 2);
	}
	rlog_look(own, &st);
	if (st.rows != 6)
		abort();
	rlog_link_close(&l[0], false);
	while (rlog_tidy(r, 100) == 1)
		;
	for (s = rlog_walk(r, NULL); s != NULL; s = rlog_walk(r, s))
		rlog_look(s, &st);
	rlog_free(&r);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	decode(data + 1, size - 1);
	if (data[0] != 0)
		hear(data + 1, size - 1, data[0] == 255 ? 65536 :
		    (size_t)data[0] + 8);
	return 0;
}

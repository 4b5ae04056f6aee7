/*
 * The books of a stream, told nonsense by the other side: acknowledgements,
 * welcomes and frame numbers as they come. Whatever they are, nothing
 * is sent twice in a row, kept bytes add up, and credit is kept to.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "bus/stream.h"
#include "proto/kinds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t	*at, *end;
};

static uint64_t
number(struct input *in, uint64_t near)
{
	uint8_t	 how;
	uint64_t v;

	if (in->at == in->end)
		return near;
	how = *in->at++;
	if (how != 255)
		return near + how - 100;
	if (in->end - in->at < 8)
		return UINT64_MAX;
	v = get_le64(in->at);
	in->at += 8;
	return v;
}

static void
check(const struct stream_out *s)
{
	const struct stream_frame	*f;
	size_t				 kept = s->open_len;
	uint64_t			 seq = 0;

	for (f = s->head; f != NULL; f = f->next) {
		kept += f->len + f->payload_len;
		if (f->seq <= seq || f->seq > s->seq)
			abort();
		seq = f->seq;
	}
	if (kept != s->kept || s->got > s->sent_seq || s->sent_seq > s->seq)
		abort();
	if (s->next != NULL && s->next->seq <= s->got)
		abort();
}

static void
append(struct stream_out *s, struct input *in)
{
	static uint8_t	payload[100000];
	static uint64_t	id;
	struct record	r = {
		.id = { 0, ++id },
		.flags = (uint16_t)(number(in, 100) % 3),
		.payload = { payload, number(in, 100) * 997 % 100000 },
	};

	(void)stream_append(s, NULL, &r, NULL, NULL);
}

static void
step(struct stream_out *s, struct stream_in *r, struct input *in)
{
	struct stream_frame	*f;
	uint64_t		 resend, a, b, c, d;

	switch (*in->at++ % 8) {
	case 0:
	case 1:
		append(s, in);
		break;
	case 2:
		(void)stream_append_frame(s, KIND_ATTACH, "abc", 3, NULL, NULL, NULL);
		break;
	case 3:
		while (stream_next(s, &f) == 1) {
			if (f->kind == KIND_RECORDS && s->sent >= s->granted)
				abort();
			stream_sent(s);
		}
		break;
	case 4:
		a = number(in, s->got);
		b = number(in, s->stored);
		c = number(in, s->granted - s->base);
		(void)stream_ack(s, a, b, c);
		break;
	case 5:
		a = number(in, s->got);
		b = number(in, s->stored);
		c = number(in, s->granted - s->base);
		d = number(in, s->sent - s->base);
		(void)stream_resume(s, a, a, b, c, d, &resend);
		break;
	case 6:
		stream_take_all(s, 5000);
		break;
	case 7:
		a = number(in, r->seq);
		if (number(in, 100) % 4 == 0)
			stream_in_open(r, 1, a, 5000);
		else if (stream_in_check(r, a) == STREAM_IN_ORDER)
			stream_in_taken(r, 10, false);
		if (stream_in_ack_due(r))
			stream_in_acked(r);
		break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stream_pool	pool = { 0 };
	struct stream_out	s;
	struct stream_in	r = { 0 };
	struct input		in = { data, data + size };

	stream_out_init(&s, &pool, 500000, 5000);
	while (in.at < in.end) {
		step(&s, &r, &in);
		check(&s);
	}
	stream_out_fini(&s);
	if (s.kept != s.open_len)
		abort();
	stream_pool_fini(&pool);
	return 0;
}

/*
 * publish.c: publishers, and what subscribers count of theirs.
 *
 * A publisher never has more deliveries under way than --outstanding allows, so
 * no broker is made to drop what it may drop (QoS 0, full queues), and what is
 * counted is what arrived. Every payload carries its publisher, its number
 * among that publisher's messages to the subscriber, and the time it was sent
 * (with a rate: was due, so that a late sender does not hide a slow broker).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "base/clock.h"
#include "bench.h"
#include "mqtt/encode.h"

enum { FILL_MAX = 128 << 10 };	/* bytes one publisher adds in one turn */
#define SEQ_MAX	4000000000u	/* messages of one publisher */

struct publisher	*pubs;
unsigned		 npubs;

static struct publisher	**touched;
static unsigned		 ntouched;
static struct head	*topics;	/* of wildcard: one per filter */
static unsigned		 ntopics;

/* --- Topics -------------------------------------------------------------- */

void
topic_name(char *buf, size_t len, unsigned i)
{
	snprintf(buf, len, "%s/t/%u", opt.prefix, i);
}

void
group_name(char *buf, size_t len, unsigned group)
{
	snprintf(buf, len, "$share/g%u/%s/t/0", group, opt.prefix);
}

void
wildcard_name(char *buf, size_t len, unsigned i, bool filter)
{
	snprintf(buf, len, "%s/%u/%s/%u/%s", opt.prefix, i / 100,
	    filter ? "+" : "any", i % 100, filter ? "#" : "value");
}

static struct head
head_make(const char *topic)
{
	struct mqtt_publish_out o = {
		.topic = { (const uint8_t *)topic, strlen(topic) },
		.payload_len = opt.size, .qos = (uint8_t)opt.qos,
		.packet_id = 1,
	};
	struct head	h;
	size_t		id_at;

	if (mqtt_publish_size(opt.version, &o) == 0)
		fail(EX_USAGE, "--size %zu: no packet is that large", opt.size);
	h.bytes = zalloc(1, mqtt_publish_head_max(&o));
	h.len = (uint32_t)mqtt_publish_head(opt.version, &o, h.bytes, &id_at);
	h.id_at = (uint32_t)id_at;
	return h;
}

void
publishers_plan(void)
{
	char		name[128];
	unsigned	i;

	pubs = zalloc(npubs, sizeof(*pubs));
	touched = zalloc(npubs, sizeof(*touched));
	if (opt.mode == WILDCARD) {
		ntopics = (unsigned)opt.filters.v[0];
		topics = zalloc(ntopics, sizeof(*topics));
		for (i = 0; i < ntopics; i++) {
			wildcard_name(name, sizeof(name), i, false);
			topics[i] = head_make(name);
		}
	}
	for (i = 0; i < npubs; i++) {
		topic_name(name, sizeof(name), opt.mode == PAIRS ? i : 0);
		pubs[i].conn = &conns[nsubs + i];
		pubs[i].conn->pub = &pubs[i];
		pubs[i].head = head_make(name);
		pubs[i].fan = opt.mode == FANOUT ? nsubs :
		    opt.mode == SHARED ? opt.groups : 1;
		pubs[i].window = opt.window;
		if (opt.mode == WILDCARD)
			pubs[i].seqs = zalloc(nsubs, sizeof(uint32_t));
	}
}

/* --- Sending ------------------------------------------------------------- */

static uint32_t
draw(uint32_t below)
{
	static uint64_t	x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (uint32_t)((x >> 32) * below >> 32);
}

static void
publish_one(struct publisher *p, uint64_t ns)
{
	const struct head	*h = &p->head;
	struct conn		*c = p->conn;
	uint32_t		 seq = p->seq, f;
	uint8_t			*o;

	if (topics != NULL) {
		f = draw(ntopics);
		h = &topics[f];
		seq = p->seqs[f % nsubs]++;
	}
	o = conn_reserve(c, h->len + opt.size);
	memcpy(o, h->bytes, h->len);
	if (opt.qos > 0) {
		p->packet_id = p->packet_id == 65535 ? 1 : p->packet_id + 1;
		put_be16(o + h->id_at, p->packet_id);
		p->unacked++;
	}
	o += h->len;
	put_le32(o, (uint32_t)(p - pubs));
	put_le32(o + 4, seq);
	put_le64(o + 8, ns);
	memset(o + PAYLOAD_MIN, 'x', opt.size - PAYLOAD_MIN);
	c->out_len += h->len + opt.size;
	p->seq++;
	p->due += p->fan;
	tally->now.published++;
	tally->now.due += p->fan;
}

/* How many messages p may send at ns. */
static uint64_t
allowance(const struct publisher *p, uint64_t ns)
{
	uint64_t	n, under_way, most;

	n = (opt.count > 0 ? opt.count : SEQ_MAX) - p->seq;
	if (opt.outstanding > 0) {
		under_way = p->due > p->settled ? p->due - p->settled : 0;
		most = opt.outstanding * p->fan;
		if (under_way + (opt.burst - 1) * p->fan >= most)
			return 0;
		n = MIN(n, (most - under_way + p->fan - 1) / p->fan);
	}
	if (opt.qos > 0)
		n = MIN(n, p->window > p->unacked ? p->window - p->unacked : 0);
	if (opt.rate > 0)
		n = MIN(n, (uint64_t)(ns >= p->next_ns));
	return n;
}

static void
publish(struct publisher *p)
{
	struct conn	*c = p->conn;
	uint64_t	 n, ns;
	size_t		 before;

	p->touched = false;
	if (!publishing || c->state != CONN_UP || c->blocked)
		return;
	ns = clock_mono_ns();
	before = c->out_len - c->out_off;
	for (n = allowance(p, ns); n > 0; n--) {
		publish_one(p, opt.rate > 0 ? p->next_ns : ns);
		if (opt.rate > 0)
			p->next_ns += (uint64_t)(1e9 / opt.rate);
		if (c->out_len - c->out_off - before > FILL_MAX)
			break;
	}
}

void
touch(struct publisher *p)
{
	if (p->touched)
		return;
	p->touched = true;
	touched[ntouched++] = p;
}

bool
publishers_touched(void)
{
	return ntouched > 0;
}

void
publishers_turn(void)
{
	unsigned	i, last = ntouched;

	ntouched = 0;
	for (i = 0; i < last; i++)
		publish(touched[i]);
}

bool
publisher_may_go_on(struct publisher *p)
{
	return publishing && opt.rate == 0 && allowance(p, now_ns) > 0;
}

uint64_t
publishers_due(uint64_t ns, uint64_t until)
{
	unsigned	i;

	for (i = 0; i < npubs && opt.rate > 0 && publishing; i++) {
		if (pubs[i].conn->state != CONN_UP || pubs[i].conn->blocked)
			continue;
		if (pubs[i].next_ns <= ns) {
			if (allowance(&pubs[i], ns) > 0)
				touch(&pubs[i]);
		} else
			until = MIN(until, pubs[i].next_ns);
	}
	return until;
}

void
publishers_start(void)
{
	uint64_t	ns = clock_mono_ns();
	unsigned	i;

	for (i = 0; i < npubs; i++) {
		if (opt.rate > 0)
			pubs[i].next_ns = ns +
			    (uint64_t)(1e9 / opt.rate * i / npubs);
		touch(&pubs[i]);
	}
}

/* --- Receiving ----------------------------------------------------------- */

/*
 * A group's messages come by several connections, of which any may be ahead:
 * only what one member gets has an order, and what was passed over may still
 * come. Returns whether it was late.
 */
static bool
member_count(struct member *m, uint32_t from, uint32_t seq)
{
	bool	late = seq < m->newest[from];

	m->got++;
	m->newest[from] = MAX(m->newest[from], seq + 1);
	return late;
}

void
members_count(void)
{
	unsigned	i;

	tally->member_least = UINT64_MAX;
	for (i = 0; i < nsubs && conns[i].member != NULL; i++) {
		tally->member_least = MIN(tally->member_least,
		    conns[i].member->got);
		tally->member_most = MAX(tally->member_most,
		    conns[i].member->got);
	}
}

void
message_count(struct conn *c, const uint8_t *payload, size_t len)
{
	struct publisher	*p;
	struct counts		*n = &tally->now;
	uint32_t		 from, seq, sent, passed;
	uint64_t		 sent_ns;
	int			 is;

	if (len != opt.size || c->flows == NULL)
		goto alien;
	from = get_le32(payload);
	seq = get_le32(payload + 4);
	sent_ns = get_le64(payload + 8);
	if (from - c->flow_base >= c->nflows)
		goto alien;
	p = &pubs[from];
	sent = p->seqs != NULL ? p->seqs[c - conns] : p->seq;
	if (seq >= sent)
		goto alien;
	is = sequence_take(&c->flows[from - c->flow_base], seq, &passed);
	if (UNLIKELY(is < 0))
		fail(EX_OSERR, "out of memory");
	if (c->member == NULL)
		p->settled += passed;
	if (is == SEQUENCE_DUPLICATE) {
		n->duplicate++;
		return;
	}
	if (c->member == NULL)
		n->reordered += is == SEQUENCE_LATE;
	else {
		p->settled++;
		n->reordered += member_count(c->member, from, seq);
	}
	n->delivered++;
	if (measuring)
		histogram_add(&tally->latency,
		    now_ns > sent_ns ? now_ns - sent_ns : 0);
	touch(p);
	return;
alien:
	n->alien++;
}

bool
all_settled(void)
{
	unsigned	i;

	for (i = 0; i < npubs; i++)
		if (pubs[i].settled < pubs[i].due || pubs[i].unacked > 0)
			return false;
	return true;
}

bool
all_sent(void)
{
	unsigned	i;

	for (i = 0; i < npubs; i++)
		if (pubs[i].seq < opt.count)
			return false;
	return true;
}

void
write_off(void)
{
	struct publisher	*p;
	unsigned		 i, k;

	for (i = 0; i < nsubs; i++) {
		for (k = 0; k < conns[i].nflows; k++) {
			p = &pubs[conns[i].flow_base + k];
			if (sequence_pass(&conns[i].flows[k],
			    p->seqs != NULL ? p->seqs[i] : p->seq) < 0)
				fail(EX_OSERR, "out of memory");
		}
	}
	for (i = 0; i < npubs; i++) {
		pubs[i].settled = pubs[i].due;
		touch(&pubs[i]);
	}
}

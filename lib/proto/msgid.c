#include "proto/msgid.h"

void
msgid_init(struct msgid_gen *g, uint16_t node_hint, uint32_t random,
    uint64_t now_ns)
{
	g->clock = now_ns;
	g->origin = (uint64_t)node_hint << 48 | (uint64_t)random << 16;
	g->next = 0;
}

uint64_t
msgid_turn(struct msgid_gen *g, uint64_t now_ns)
{
	if (now_ns > g->clock) {
		g->clock = now_ns;
		g->next = 0;
	} else if (g->next > 0) {
		g->clock++;
		g->next = 0;
	}
	return g->clock;
}

void
msgid_witness(struct msgid_gen *g, uint64_t clock_ns)
{
	if (clock_ns > g->clock) {
		g->clock = clock_ns;
		g->next = 0;
	}
}

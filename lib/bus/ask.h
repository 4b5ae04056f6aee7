/*
 * ask.h: the bus as tools use it: connect, say hello, ask, wait. Blocking;
 * no loop. Endpoints are those of PEERS, relative to the working directory.
 */
#ifndef BUS_ASK_H
#define BUS_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/kinds.h"
#include "proto/query.h"

struct bus_ask;

/*
 * Connect to endpoint and exchange hellos within timeout_ms. tool is the
 * program's name, for the other's counters. ERR_AGAIN: no answer in time;
 * ERR_PROTO: another protocol version; ERR_IO, ERR_NOMEM, ERR_INVAL.
 */
int bus_ask_open(struct bus_ask **out, const char *endpoint, const char *tool,
    int timeout_ms);
void bus_ask_close(struct bus_ask **a);

/*
 * Ask q and go on until the last page: row is called for each row and returns
 * false to stop there. *status and error (cut to size) say what the other side
 * had against it: 0 and "" if nothing. timeout_ms is for each page. Errors as
 * above.
 */
int bus_ask_query(struct bus_ask *a, const struct query *q,
    bool (*row)(void *ctx, struct reply_row *r), void *ctx, uint32_t *status,
    char *error, size_t size, int timeout_ms);

#endif

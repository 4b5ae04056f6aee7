/*
 * ledger.h: who still owes what. A relay takes frames from streams and hands
 * what is in them to others, in streams of their own; a frame may be
 * acknowledged when all of these have acknowledged what came of it, and only
 * behind those before it. Live and durable are two accounts: `got` waits for
 * the one, `stored` for the other.
 *
 * Pure: numbers alone. Not thread safe.
 */
#ifndef LEDGER_LEDGER_H
#define LEDGER_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger_in;		/* one stream frames come from */
struct ledger_out;		/* one receiver */

enum ledger_account { LEDGER_LIVE, LEDGER_DURABLE };

/* What may be acknowledged of a stream has risen: all frames up to got, of
 * so many bytes together, and up to stored. */
typedef void ledger_news(void *ctx, void *user, uint64_t got,
    uint64_t got_bytes, uint64_t stored);

/* NULL: no memory. user comes back in news. */
struct ledger_in *ledger_in_new(void *user);
struct ledger_out *ledger_out_new(void);

/* The stream is no more; its debts are forgotten as they are paid. */
void ledger_in_close(struct ledger_in **in);
/* All that is owed counts as paid: ledger_out_paid first, or nobody hears. */
void ledger_out_free(struct ledger_out **out);

void *ledger_in_user(const struct ledger_in *in);

/*
 * Frame seq was taken: seq rises, by 1 as a rule; what is left out is of
 * nobody. Then one ledger_owe for each receiver and account, then ledger_done. A
 * frame that was begun may be begun again: it goes on; ledger_done says how many
 * bytes it has. ERR_NOMEM.
 */
int ledger_begin(struct ledger_in *in, uint64_t seq);
/* Receiver out will have it when it acknowledges out_seq (which never falls
 * from one call to the next). The same twice in a row is one. ERR_NOMEM. */
int ledger_owe(struct ledger_in *in, struct ledger_out *out, uint64_t out_seq,
    enum ledger_account account);
void ledger_done(struct ledger_in *in, uint64_t bytes, ledger_news *news,
    void *ctx);

/* out has acknowledged all up to out_seq in that account; UINT64_MAX: it is
 * gone, and all counts as paid. */
void ledger_paid(struct ledger_out *out, enum ledger_account account,
    uint64_t out_seq, ledger_news *news, void *ctx);

/* Frames that are not acknowledged in both accounts. */
size_t ledger_open(const struct ledger_in *in);

#endif

/*
 * Readers of the index: every process that forwards. They get the generation
 * from the supervisor, tell us on the bus which one they read (FibConfirm),
 * and announce their epochs in the segment beside it.
 */
#include "router.h"

#include <pb_decode.h>
#include <sys/random.h>

#include "base/err.h"
#include "base/util.h"
#include "log/log.h"
#include "proto/route.pb.h"

/* The largest address range this machine grants: memory comes as it is used. */
static int
data_create(struct shm_segment *s)
{
	size_t	len;
	int	rc = ERR_NOMEM;

	for (len = FIB_LEN_DEFAULT; len >= FIB_LEN_MIN; len /= 2)
		if ((rc = shm_create(s, "mqttc-fib", len,
		    SHM_PRIVATE_WRITE)) == 0)
			return 0;
	return rc;
}

static int
rib_open(struct router *r)
{
	struct rib_opts		 ro = {
		.anchor_shapes = r->conf->router_anchor_shapes,
	};
	struct fib_writer_opts	 fo = {
		.data = r->data.base,
		.len = r->data.len,
		.epochs = r->epochs.base,
		.epochs_len = r->epochs.len,
		.generation = r->generation,
		.grow = shm_grow_cb,
		.grow_ctx = &r->data,
		.evict_bytes = r->conf->router_reader_lag_max,
		.evict_ms = r->conf->router_reader_lag_ms,
	};
	int			 rc;

	if (getrandom(&ro.key, sizeof(ro.key), 0) != sizeof(ro.key))
		return ERR_IO;
	ro.key.bits = 0;
	fo.key = ro.key;
	if ((rc = fib_writer_open(&r->fib, &fo)) < 0 ||
	    (rc = rib_new(&r->rib, &ro)) < 0)
		return rc;
	return rib_attach(r->rib, r->fib);
}

int
readers_open(struct router *r)
{
	int	rc;

	/* The supervisor's numbers rise over restarts, and so do ours. */
	r->generation = r->incarnation;
	if ((rc = data_create(&r->data)) < 0 ||
	    (rc = shm_create(&r->epochs, "mqttc-fib-epochs", FIB_EPOCHS_LEN,
	    SHM_SHARED)) < 0 ||
	    (rc = rib_open(r)) < 0)
		return rc;
	return fib_reader_open(&r->eye, r->data.base, r->data.len,
	    r->epochs.base, r->epochs.len, r->incarnation);
}

void
readers_close(struct router *r)
{
	fib_reader_close(&r->eye);
	if (r->rib != NULL && r->fib != NULL)
		rib_detach(r->rib, r->fib);
	rib_free(&r->rib);
	fib_writer_close(&r->fib);
	shm_close(&r->epochs);
	shm_close(&r->data);
}

int
readers_publish(struct router *r)
{
	int	fds[] = { r->data.fd, r->epochs.fd };

	return proc_publish_segment(r->proc, PROC_SEGMENT_FIB, r->generation,
	    fds, NELEM(fds));
}

/* Everybody who forwards reads; the router's own eye is not waited for. */
bool
reader_is_waited(const struct router *r, const struct member *m)
{
	if (m->kind != PROC_LISTENER && m->kind != PROC_SESSION_STORE &&
	    m->kind != PROC_CLUSTER_LINK)
		return false;
	return member_is_running(m) && m->generation != r->generation;
}

void
readers_count(struct router *r)
{
	struct member	*m;

	r->waited = 0;
	for (m = r->members; m != NULL; m = m->hh.next)
		r->waited += reader_is_waited(r, m);
}

int
on_confirm(void *ctx, struct bus_frame *f)
{
	struct router	*r = ctx;
	FibConfirm	 c = FibConfirm_init_zero;
	pb_istream_t	 in = pb_istream_from_buffer(f->body, f->len);
	struct member	*m;

	if (!pb_decode(&in, FibConfirm_fields, &c))
		return ERR_PROTO;
	if ((m = member_of(r, &f->from)) == NULL) {
		metric_inc(&m_stale);
		return 0;
	}
	log_debug("router.confirm", "reader=%s generation=%llu", m->name,
	    (unsigned long long)c.generation);
	m->generation = c.generation;
	phase_check(r);
	return 0;
}

void
reader_gone(struct router *r, struct member *m, uint64_t incarnation)
{
	m->generation = 0;
	if (incarnation != 0)
		fib_reader_gone(r->fib, incarnation);
}

void
readers_turn(struct router *r)
{
	fib_reclaim(r->fib, now_ms());
	while (rib_tidy(r->rib, TURN_CLEAR) == 1)
		if (turn_is_over(r)) {
			turn_again(r);
			return;
		}
}

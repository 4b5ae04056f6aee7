/*
 * fibmem.h: memory for a forwarding index in one process, a writer on it and
 * readers, for tests that need no segment.
 */
#ifndef SUPPORT_FIBMEM_H
#define SUPPORT_FIBMEM_H

#include <sys/mman.h>
#include <assert.h>
#include <stdlib.h>

#include "fib/fib.h"

struct fibmem {
	void		*data, *epochs;
	size_t		 len;
	size_t		 bound;		/* grow refuses beyond; 0: none */
	size_t		 asked;		/* the most that grow was asked for */
	uint64_t	 owners;
};

static inline void *
fibmem_map(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert(p != MAP_FAILED);
	return p;
}

static inline void
fibmem_init(struct fibmem *m, size_t len)
{
	*m = (struct fibmem){ fibmem_map(len), fibmem_map(FIB_EPOCHS_LEN), len,
	    0, 0, 0 };
}

static inline void
fibmem_fini(struct fibmem *m)
{
	munmap(m->data, m->len);
	munmap(m->epochs, FIB_EPOCHS_LEN);
}

static inline int
fibmem_grow(void *ctx, size_t size)
{
	struct fibmem *m = ctx;

	if (m->bound > 0 && size > m->bound)
		return -6;		/* ERR_NOMEM */
	m->asked = size > m->asked ? size : m->asked;
	return 0;
}

static inline struct fib_writer *
fibmem_writer(struct fibmem *m, unsigned bits)
{
	struct fib_writer_opts o = {
		.data = m->data, .len = m->len, .epochs = m->epochs,
		.epochs_len = FIB_EPOCHS_LEN, .generation = 7,
		.key = { 0x0706050403020100u, 0x0f0e0d0c0b0a0908u, bits },
		.grow = fibmem_grow, .grow_ctx = m,
		.evict_bytes = 4u << 20, .evict_ms = 1000,
	};
	struct fib_writer *w = NULL;
	int rc = fib_writer_open(&w, &o);

	assert(rc == 0);
	(void)rc;
	return w;
}

static inline struct fib_reader *
fibmem_reader(struct fibmem *m)
{
	struct fib_reader *r = NULL;
	int rc = fib_reader_open(&r, m->data, m->len, m->epochs, FIB_EPOCHS_LEN,
	    ++m->owners);

	assert(rc == 0);
	(void)rc;
	return r;
}

#endif

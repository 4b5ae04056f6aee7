/*
 * Lines of all processes, to stderr or to a file each. Nobody waits for their
 * reader: a pipe, a ring or a disk that is full drops lines and counts them.
 */
#include "super.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "fault/fault.h"
#include "log/log.h"

#define RING_BYTES	(1 << 20)
#define PIPE_BYTES	(256 << 10)
#define READS_PER_TURN	8
#define FINISH_MS	1000

/* --- To stderr ----------------------------------------------------------- */

static void
err_write(struct super *s)
{
	struct pollfd	 p = { .fd = s->err_fd, .events = POLLOUT };
	const char	*bytes;
	size_t		 len;
	ssize_t		 n;

	while ((len = line_ring_peek(&s->ring, &bytes)) > 0) {
		/* One page goes into a pipe that poll calls writable. */
		if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
			break;
		n = write(s->err_fd, bytes, MIN(len, (size_t)PIPE_BUF));
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0) {		/* nobody will ever read it */
			line_ring_take(&s->ring, s->ring.used);
			s->ring.lost++;
			break;
		}
		line_ring_take(&s->ring, (size_t)n);
	}
}

static void
err_flush(struct super *s)
{
	uint64_t	lost;

	err_write(s);
	if (s->ring.used == 0 && (lost = s->ring.lost) > 0) {
		s->ring.lost = 0;
		log_warn("log.dropped", "lines=%llu",
		    (unsigned long long)lost);
	}
	s->err_stuck = s->ring.used > 0;
	if (s->err_stuck && s->loop != NULL)
		ev_io_start(s->loop, &s->err_writer);
	else if (s->loop != NULL)
		ev_io_stop(s->loop, &s->err_writer);
}

static void
on_err_writable(EV_P_ ev_io *w, int revents UNUSED)
{
	(void)loop;
	err_flush(w->data);
}

/* --- To files ------------------------------------------------------------ */

static void
file_name(const struct log_source *l, unsigned k, char *out, size_t size)
{
	if (k == 0)
		snprintf(out, size, "%s/%s.log", l->s->conf.log_dir, l->name);
	else
		snprintf(out, size, "%s/%s.log.%u", l->s->conf.log_dir,
		    l->name, k);
}

static void
file_open(struct log_source *l)
{
	char		path[CONF_STR_MAX + PROC_NAME_MAX + 32];
	struct stat	st;

	file_name(l, 0, path, sizeof(path));
	l->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC |
	    O_NOCTTY, 0640);
	l->file_bytes = 0;
	if (l->file >= 0 && fstat(l->file, &st) == 0)
		l->file_bytes = (uint64_t)st.st_size;
}

/* name.log becomes name.log.1, that name.log.2, the last one goes. */
static void
file_rotate(struct log_source *l)
{
	char		from[CONF_STR_MAX + PROC_NAME_MAX + 32];
	char		to[sizeof(from)];
	unsigned	k;

	close(l->file);
	for (k = l->s->conf.log_rotate_count; k > 0; k--) {
		file_name(l, k - 1, from, sizeof(from));
		file_name(l, k, to, sizeof(to));
		rename(from, to);
	}
	file_open(l);
}

/* Take back the part of a line that a full disk still took. */
static void
file_untear(const struct log_source *l, ssize_t n)
{
	struct stat	st;

	if (fstat(l->file, &st) == 0 && st.st_size >= n)
		(void)!ftruncate(l->file, st.st_size - n);
}

static void
file_line(struct log_source *l, const char *line, size_t len)
{
	uint64_t	lost;
	ssize_t		n;

	if (l->file < 0)
		file_open(l);
	if (l->file >= 0 && l->file_bytes > 0 &&
	    l->file_bytes + len > l->s->conf.log_rotate_size)
		file_rotate(l);
	n = l->file < 0 ? -1 : write(l->file, line, len);
	if (n == (ssize_t)len)
		l->file_bytes += len;
	else if (n > 0)
		file_untear(l, n);
	if (n != (ssize_t)len) {	/* the disk is full */
		l->lost++;
		metric_inc(&m_log_dropped);
	} else if ((lost = l->lost) > 0) {
		l->lost = 0;
		log_warn("log.dropped", "process=%s lines=%llu", l->name,
		    (unsigned long long)lost);
	}
}

/* --- From pipes ---------------------------------------------------------- */

static void
on_line(void *ctx, const char *line, size_t len)
{
	struct log_source	*l = ctx;

	if (l->s->conf.log_dir[0] != '\0')
		file_line(l, line, len);
	else if (!line_ring_put(&l->s->ring, line, len))
		metric_inc(&m_log_dropped);
}

static void
close_source(struct log_source *l)
{
	if (l->fd < 0)
		return;
	if (l->s->loop != NULL)
		ev_io_stop(l->s->loop, &l->reader);
	close(l->fd);
	l->fd = -1;
	line_cutter_end(&l->cutter, on_line, l);
}

/* Read what is there, up to max reads; false: the pipe has ended. */
static bool
drain_source(struct log_source *l, int max)
{
	char	buf[16384];
	ssize_t	n;

	while (max-- > 0) {
		n = read(l->fd, buf, sizeof(buf));
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		if (n == 0)
			return false;
		line_cutter_feed(&l->cutter, buf, (size_t)n, on_line, l);
	}
	return true;
}

static void
on_readable(EV_P_ ev_io *w, int revents UNUSED)
{
	struct log_source	*l = w->data;

	(void)loop;
	if (!drain_source(l, READS_PER_TURN))
		close_source(l);
	err_flush(l->s);
}

void
log_source_init(struct super *s, struct log_source *l, const char *name)
{
	l->s = s;
	l->name = name;
	l->fd = l->file = -1;
	ev_init(&l->reader, on_readable);
}

int
log_source_pipe(struct log_source *l)
{
	int	p[2];

	close_source(l);
	if (fault_hit("supervise.pipe") ||
	    pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	(void)fcntl(p[1], F_SETPIPE_SZ, PIPE_BYTES);
	l->fd = p[0];
	ev_io_init(&l->reader, on_readable, l->fd, EV_READ);
	l->reader.data = l;
	ev_io_start(l->s->loop, &l->reader);
	return p[1];
}

static void
read_on(struct log_source *l)
{
	l->reader.data = l;
	if (l->fd >= 0)
		ev_io_start(l->s->loop, &l->reader);
}

/* Two sources of one name change places. */
void
log_source_swap(struct log_source *a, struct log_source *b)
{
	struct log_source	tmp;

	ev_io_stop(a->s->loop, &a->reader);
	ev_io_stop(b->s->loop, &b->reader);
	tmp = *a;
	*a = *b;
	*b = tmp;
	read_on(a);
	read_on(b);
}

/* Its process has ended: take what is in the pipe; a child of its own may
 * still hold the other end, so do not wait for it to close. */
void
log_source_end(struct log_source *l)
{
	if (l->fd < 0)
		return;
	drain_source(l, PIPE_BYTES / 4096);
	close_source(l);
	err_flush(l->s);
}

/* --- Our own ------------------------------------------------------------- */

void
logs_open(struct super *s)
{
	static char	storage[RING_BYTES];

	line_ring_init(&s->ring, storage, sizeof(storage));
	s->err_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	log_source_init(s, &s->own, "supervise");
	ev_io_init(&s->err_writer, on_err_writable, s->err_fd, EV_WRITE);
	s->err_writer.data = s;
}

/*
 * Let our own lines go the way of all others. lib/log opens descriptor 2 once
 * more for itself, so it is ours for that moment only: what a library or a
 * sanitizer prints there still comes out at once.
 */
void
logs_capture_own(struct super *s)
{
	int	err = log_source_pipe(&s->own);

	if (err < 0)
		return;
	if (dup2(err, STDERR_FILENO) >= 0)
		log_init("supervise", (enum log_level)s->conf.log_level);
	dup2(s->err_fd, STDERR_FILENO);
	close(err);
}

/* The last lines, to a reader who gets a second for them. */
void
logs_finish(struct super *s)
{
	uint64_t	end = super_now_ms() + FINISH_MS;
	struct pollfd	p = { .fd = s->err_fd, .events = POLLOUT };
	size_t		i;

	for (i = 0; i < s->nprocs; i++) {
		log_source_end(&s->children[i].log);
		log_source_end(&s->children[i].up.log);
	}
	log_source_end(&s->own);
	/* What is said from here on goes to stderr without us. */
	log_init("supervise", (enum log_level)s->conf.log_level);
	do
		err_flush(s);
	while (s->err_stuck && super_now_ms() < end &&
	    poll(&p, 1, 100) >= 0);
}

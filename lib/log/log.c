/*
 * log.c: see log.h. A line is written with one write(2) of at most PIPE_BUF
 * bytes, which a pipe takes whole or not at all.
 *
 * The descriptor must not block, but O_NONBLOCK belongs to the open file
 * description, which stderr shares with whoever gave it to us: setting it
 * there would change their writes too. A pipe or a terminal is therefore
 * opened a second time through /proc, a socket is written with MSG_DONTWAIT,
 * and a regular file never blocks for long.
 */
#include "log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/quote.h"

#define LINE_MAX_BYTES	PIPE_BUF
#define QUOTE_BYTES	256
#define QUOTE_RING	4

enum log_level log_level = LOG_L_INFO;

static const char *const level_names[] = {
	[LOG_L_ERROR] = "error", [LOG_L_WARN] = "warn",
	[LOG_L_INFO] = "info", [LOG_L_DEBUG] = "debug",
};

/* How a descriptor is kept from blocking. */
enum sink { SINK_PLAIN, SINK_POLL, SINK_SOCKET };

static struct {
	char			process[64];
	int			fd;
	enum sink		sink;
	bool			ready;
	bool			torn;	/* the last line went out in part */
	unsigned long long	dropped, told;
} lg = { .fd = STDERR_FILENO };

static void
sink_open(void)
{
	struct stat	 st;
	int		 fd;

	if (lg.fd != STDERR_FILENO)
		close(lg.fd);
	lg.fd = STDERR_FILENO;
	lg.sink = SINK_PLAIN;
	lg.ready = true;
	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	if (S_ISSOCK(st.st_mode)) {
		lg.sink = SINK_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || isatty(STDERR_FILENO)) {
		fd = open("/proc/self/fd/2",
		    O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd >= 0)
			lg.fd = fd;
		else
			lg.sink = SINK_POLL;
	}
}

void
log_init(const char *process, enum log_level level)
{
	snprintf(lg.process, sizeof(lg.process), "%s", process);
	log_level = level;
	sink_open();
}

void
log_set_level(enum log_level level)
{
	log_level = level;
}

unsigned long long
log_dropped(void)
{
	return lg.dropped;
}

const char *
log_quote_n(const void *bytes, size_t len)
{
	static char	 ring[QUOTE_RING][QUOTE_BYTES + 6];
	static unsigned	 next;

	next = (next + 1) % QUOTE_RING;
	return quote(ring[next], sizeof(ring[next]), bytes, len);
}

const char *
log_quote(const char *s)
{
	return log_quote_n(s, strlen(s));
}

/* One line to the sink; false if it was not taken whole. */
static bool
sink_write(const char *line, size_t len)
{
	struct pollfd	 pfd = { .fd = lg.fd, .events = POLLOUT };
	ssize_t		 n;

	if (lg.sink == SINK_POLL && poll(&pfd, 1, 0) != 1)
		return false;
	do {
		n = lg.sink == SINK_SOCKET ?
		    send(lg.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) :
		    write(lg.fd, line, len);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		lg.torn = (size_t)n < len;
	return n >= 0 && (size_t)n == len;
}

/* The start of a line, up to and with the event; returns its length. */
static size_t
line_start(char *line, size_t size, enum log_level level, const char *event)
{
	uint64_t	 now = clock_wall_ns();
	time_t		 sec = (time_t)(now / 1000000000);
	struct tm	 tm;
	char		 stamp[32];
	int		 n;

	gmtime_r(&sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	n = snprintf(line, size, "%s%s.%03uZ %s %s %s", lg.torn ? "\n" : "",
	    stamp, (unsigned)(now / 1000000 % 1000), level_names[level],
	    lg.process[0] ? lg.process : program_invocation_short_name, event);
	return MIN((size_t)n, size - 1);
}

static bool
tell_dropped(void)
{
	char	 line[256];
	size_t	 n;

	if (lg.dropped == lg.told)
		return true;
	n = line_start(line, sizeof(line) - 64, LOG_L_WARN, "log.dropped");
	n += (size_t)snprintf(line + n, sizeof(line) - n, " lines=%llu\n",
	    lg.dropped - lg.told);
	if (!sink_write(line, n))
		return false;
	lg.told = lg.dropped;
	return true;
}

static void
log_write(enum log_level level, const char *event, const char *fmt, va_list ap)
{
	int	 saved = errno, n;
	char	 line[LINE_MAX_BYTES];
	size_t	 len, max = sizeof(line) - 1, head, i;

	if (!lg.ready)
		sink_open();
	if (!tell_dropped()) {
		lg.dropped++;
		errno = saved;
		return;
	}
	head = len = line_start(line, max, level, event);
	if (fmt[0] != '\0' && len < max - 1) {
		line[len++] = ' ';
		errno = saved;			/* for %m */
		n = vsnprintf(line + len, max - len, fmt, ap);
		if (n > 0 && (size_t)n >= max - len) {
			len = max - 4;
			memcpy(line + len, "...", 3);
			len += 3;
		} else if (n > 0) {
			len += (size_t)n;
		}
	}
	for (i = head; i < len; i++)		/* whatever came: one line */
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';
	if (!sink_write(line, len))
		lg.dropped++;
	errno = saved;
}

void
log_event(enum log_level level, const char *event, const char *fmt, ...)
{
	va_list	 ap;

	if (level > log_level)
		return;
	va_start(ap, fmt);
	log_write(level, event, fmt, ap);
	va_end(ap);
}

void
fatal(int code, const char *event, const char *fmt, ...)
{
	va_list	 ap;

	va_start(ap, fmt);
	log_write(LOG_L_ERROR, event, fmt, ap);
	va_end(ap);
	exit(code);
}

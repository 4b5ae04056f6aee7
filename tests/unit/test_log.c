/* log: one line an event, never blocking, nothing from outside unescaped. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log/log.h"

static int saved_stderr;

/* Make stderr the write end of a new pipe; returns the other end. */
static int
capture(const char *process, enum log_level level)
{
	int	 fds[2];

	assert_int_equal(pipe(fds), 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	log_init(process, level);
	return fds[0];
}

static void
restore(int fd)
{
	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	close(fd);
	log_init("test", LOG_L_INFO);
}

/* What is in the pipe now, without waiting. */
static const char *
drain(int fd)
{
	static char	 text[1 << 20];
	ssize_t		 n;
	size_t		 len = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (len < sizeof(text) - 1 &&
	    (n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	text[len] = '\0';
	return text;
}

static void
line_has_time_level_process_event_and_values(void **state UNUSED)
{
	int		 fd = capture("listener.0", LOG_L_INFO);
	unsigned	 y, mo, d, h, mi, s, ms;
	char		 rest[128];

	log_warn("session.takeover", "client=%s", log_quote("a b"));
	assert_int_equal(sscanf(drain(fd), "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ "
	    "%127[^\n]", &y, &mo, &d, &h, &mi, &s, &ms, rest), 8);
	assert_string_equal(rest,
	    "warn listener.0 session.takeover client=\"a b\"");
	restore(fd);
}

static void
an_event_may_come_alone(void **state UNUSED)
{
	int		 fd = capture("router", LOG_L_INFO);
	const char	*line;

	log_event(LOG_L_INFO, "router.ready", "%s", "");
	line = strchr(drain(fd), ' ');
	assert_non_null(line);
	assert_non_null(strstr(line, " info router router.ready"));
	restore(fd);
}

static void
lines_below_the_level_are_not_written(void **state UNUSED)
{
	int	 fd = capture("router", LOG_L_WARN);

	log_info("a.b", "x=%d", 1);
	log_debug("a.b", "x=%d", 1);
	assert_string_equal(drain(fd), "");
	log_set_level(LOG_L_DEBUG);
	log_debug("a.b", "x=%d", 1);
	assert_non_null(strstr(drain(fd), "debug router a.b x=1\n"));
	restore(fd);
}

static void
a_line_stays_one_line_whatever_is_in_it(void **state UNUSED)
{
	int		 fd = capture("router", LOG_L_INFO);
	const char	*text;

	log_info("a.b", "x=%s", "one\ntwo\r\033[31m");
	text = drain(fd);
	assert_non_null(strstr(text, "x=one?two??[31m\n"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	restore(fd);
}

static void
a_long_line_is_cut_and_says_so(void **state UNUSED)
{
	int		 fd = capture("router", LOG_L_INFO);
	static char	 big[10000];
	const char	*text;

	memset(big, 'x', sizeof(big) - 1);
	log_info("a.b", "x=%s", big);
	text = drain(fd);
	assert_true(strlen(text) <= 4096);
	assert_string_equal(text + strlen(text) - 5, "x...\n");
	restore(fd);
}

static void
a_full_pipe_drops_counts_and_says_so_later(void **state UNUSED)
{
	int			 fd = capture("router", LOG_L_INFO), flags;
	unsigned long long	 before = log_dropped(), lost, told = 0;
	static char		 pad[1000];
	const char		*text, *p;
	int			 i;

	memset(pad, 'p', sizeof(pad) - 1);
	for (i = 0; i < 1000; i++)
		log_info("a.b", "i=%d %s", i, pad);
	lost = log_dropped() - before;
	assert_true(lost > 0 && lost < 1000);
	flags = fcntl(STDERR_FILENO, F_GETFL);
	assert_int_equal(flags & O_NONBLOCK, 0);	/* not ours to change */
	for (i = 0; i < 2; i++) {		/* some may have been told */
		text = drain(fd);
		for (p = text; (p = strstr(p, "log.dropped lines=")); p++)
			told += strtoull(p + 18, NULL, 10);
		if (i == 0)
			log_info("a.c", "y=%d", 1);
	}
	assert_int_equal(told, lost);
	assert_non_null(strstr(text, "info router a.c y=1\n"));
	log_info("a.c", "y=%d", 2);
	assert_null(strstr(drain(fd), "log.dropped"));
	restore(fd);
}

static void
a_full_socket_does_not_block_either(void **state UNUSED)
{
	int			 fds[2], i;
	unsigned long long	 before = log_dropped();

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	log_init("router", LOG_L_INFO);
	for (i = 0; i < 20000; i++)
		log_info("a.b", "i=%d", i);
	assert_true(log_dropped() > before);
	restore(fds[0]);
}

static void
errno_survives_a_line(void **state UNUSED)
{
	int	 fd = capture("router", LOG_L_INFO);

	errno = ENOSPC;
	log_info("a.b", "why=%m");
	assert_int_equal(errno, ENOSPC);
	assert_non_null(strstr(drain(fd), "why=No space left on device\n"));
	restore(fd);
}

static void
fatal_logs_and_exits_with_its_code(void **state UNUSED)
{
	int	 fd = capture("router", LOG_L_ERROR), status;
	pid_t	 pid = fork();

	if (pid == 0) {
		close(STDOUT_FILENO);		/* not the parent's buffer */
		fatal(78, "conf.invalid", "why=%s", "test");
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 78);
	assert_non_null(strstr(drain(fd), "error router conf.invalid why=test"));
	restore(fd);
}

static void
quoting_escapes_what_could_fool_a_reader(void **state UNUSED)
{
	assert_string_equal(log_quote("plain/+/#"), "\"plain/+/#\"");
	assert_string_equal(log_quote("a\"b\\c"), "\"a\\\"b\\\\c\"");
	assert_string_equal(log_quote("a\nb\x7f"), "\"a\\x0ab\\x7f\"");
	assert_string_equal(log_quote("gr\xc3\xbc\xc3\x9f"),
	    "\"gr\xc3\xbc\xc3\x9f\"");
	assert_string_equal(log_quote("\xc3"), "\"\\xc3\"");
	assert_string_equal(log_quote("\xc0\x80"), "\"\\xc0\\x80\"");
	assert_string_equal(log_quote("\xed\xa0\x80"),
	    "\"\\xed\\xa0\\x80\"");			/* a surrogate */
	assert_string_equal(log_quote("\xe2\x80\xae"),
	    "\"\\xe2\\x80\\xae\"");			/* turns text around */
	assert_string_equal(log_quote_n("a\0b", 3), "\"a\\x00b\"");
	assert_string_equal(log_quote_n(NULL, 0), "\"\"");
}

static void
quoting_cuts_between_characters(void **state UNUSED)
{
	char		 big[1001];
	const char	*q;
	size_t		 n;

	for (n = 0; n < 1000; n += 2)
		memcpy(big + n, "\xc3\xbc", 2);
	big[1000] = '\0';
	q = log_quote(big);
	n = strlen(q);
	assert_true(n <= 262);
	assert_string_equal(q + n - 4, "\"...");
	assert_int_equal((unsigned char)q[n - 5], 0xbc);
}

static void
four_quotes_fit_in_one_statement(void **state UNUSED)
{
	const char	*a = log_quote("a"), *b = log_quote("b"),
			*c = log_quote("c"), *d = log_quote("d");

	assert_string_equal(a, "\"a\"");
	assert_string_equal(b, "\"b\"");
	assert_string_equal(c, "\"c\"");
	assert_string_equal(d, "\"d\"");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(line_has_time_level_process_event_and_values),
		cmocka_unit_test(an_event_may_come_alone),
		cmocka_unit_test(lines_below_the_level_are_not_written),
		cmocka_unit_test(a_line_stays_one_line_whatever_is_in_it),
		cmocka_unit_test(a_long_line_is_cut_and_says_so),
		cmocka_unit_test(a_full_pipe_drops_counts_and_says_so_later),
		cmocka_unit_test(a_full_socket_does_not_block_either),
		cmocka_unit_test(errno_survives_a_line),
		cmocka_unit_test(fatal_logs_and_exits_with_its_code),
		cmocka_unit_test(quoting_escapes_what_could_fool_a_reader),
		cmocka_unit_test(quoting_cuts_between_characters),
		cmocka_unit_test(four_quotes_fit_in_one_statement),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}

/* fault: points fail on the visit that was asked for, and only there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"

#ifndef FAULTS
#define FAULTS
#endif
#include "../../lib/fault/fault.c"

static int
ask(void **state UNUSED)
{
	npoints = -1;
	memset(points, 0, sizeof(points));
	return setenv("FAULTS",
	    "journal.fsync:nth=3,net.write:nth=0,net.kill:nth=1:do=kill", 1);
}

static void
the_nth_visit_fails_once(void **state UNUSED)
{
	assert_false(fault_hit("journal.fsync"));
	assert_false(fault_hit("journal.fsync"));
	assert_true(fault_hit("journal.fsync"));
	assert_false(fault_hit("journal.fsync"));
}

static void
zero_fails_always(void **state UNUSED)
{
	assert_true(fault_hit("net.write"));
	assert_true(fault_hit("net.write"));
}

static void
other_points_do_not_fail(void **state UNUSED)
{
	assert_false(fault_hit("net.read"));
	assert_false(fault_hit("net"));
}

static void
a_point_may_kill(void **state UNUSED)
{
	int	 status;
	pid_t	 pid = fork();

	if (pid == 0) {
		fault_hit("net.kill");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void
nothing_asked_nothing_fails(void **state UNUSED)
{
	npoints = -1;
	unsetenv("FAULTS");
	assert_false(fault_hit("journal.fsync"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_nth_visit_fails_once, ask),
		cmocka_unit_test_setup(zero_fails_always, ask),
		cmocka_unit_test_setup(other_points_do_not_fail, ask),
		cmocka_unit_test_setup(a_point_may_kill, ask),
		cmocka_unit_test(nothing_asked_nothing_fails),
	};

	return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}

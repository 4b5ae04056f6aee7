#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include <zmq.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "log/log.h"
#include "secret/secret.h"

/* Computed by other means. */
#define PUBLIC_OF_COOKIE "NCj$92{/pq+VEDKXxO:sg6*5&72cl8.C!AlIQ+^Q"

static struct conf	conf;
static char		dir[] = "/tmp/test-secret-XXXXXX", why[512];

static int
fresh(void **state UNUSED)
{
	struct conf_error e;

	conf_init(&conf);
	strcpy(dir + sizeof(dir) - 7, "XXXXXX");
	if (mkdtemp(dir) == NULL)
		return -1;
	return conf_set(&conf, "node.data_dir", dir, "test", &e);
}

static int
gone(void **state UNUSED)
{
	char	path[64];

	snprintf(path, sizeof(path), "%s/cookie", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/other", dir);
	unlink(path);
	return rmdir(dir);
}

static const char *
put(const char *name, const char *text, size_t len, mode_t mode)
{
	static char	path[64];
	int		fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_true((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode)) >= 0);
	assert_int_equal(write(fd, text, len), len);
	close(fd);
	return path;
}

static void
set(const char *key, const char *value)
{
	struct conf_error e;

	assert_int_equal(conf_set(&conf, key, value, "test", &e), 0);
}

/* The pair of a cookie is the same for ever and everywhere: nodes of any two
 * versions must agree. */
static void
keys_follow_from_the_cookie_alone(void **state UNUSED)
{
	struct secret	a, b;
	char		public[SECRET_KEY];

	assert_int_equal(secret_keys(&a, "cookie", 6), 0);
	assert_int_equal(secret_keys(&b, "cookie", 6), 0);
	assert_string_equal(a.public, b.public);
	assert_string_equal(a.private, b.private);
	assert_int_equal(zmq_curve_public(public, a.private), 0);
	assert_string_equal(public, a.public);
	assert_string_equal(a.public, PUBLIC_OF_COOKIE);
	assert_int_equal(secret_keys(&b, "cookiE", 6), 0);
	assert_string_not_equal(a.public, b.public);
	secret_fini(&a);
	assert_int_equal(a.private[0], 0);
}

static void
a_cookie_is_made_once_and_kept(void **state UNUSED)
{
	struct secret	a, b;
	struct stat	st;
	char		path[64];

	assert_int_equal(secret_load(&a, &conf, why, sizeof(why)), 0);
	snprintf(path, sizeof(path), "%s/cookie", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, 65);
	assert_int_equal(secret_load(&b, &conf, why, sizeof(why)), 0);
	assert_string_equal(a.public, b.public);
}

static void
what_is_configured_comes_first(void **state UNUSED)
{
	struct secret	s, want;

	put("cookie", "in data_dir\n", 12, 0600);
	set("node.cookie_file", put("other", "in a file \r\nmore", 16, 0600));
	assert_int_equal(secret_keys(&want, "in a file", 9), 0);
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), 0);
	assert_string_equal(s.public, want.public);
	set("node.cookie", "said");
	assert_int_equal(secret_keys(&want, "said", 4), 0);
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), 0);
	assert_string_equal(s.public, want.public);
}

static void
a_file_that_is_no_cookie_is_refused(void **state UNUSED)
{
	static char	long_one[300];
	struct secret	s;

	set("node.cookie_file", put("other", "", 0, 0600));
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
	assert_non_null(strstr(why, "1 to 255 bytes"));
	put("other", "  \t\n", 4, 0600);
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
	put("other", "a\0b\n", 4, 0600);
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
	memset(long_one, 'x', sizeof(long_one));
	put("other", long_one, sizeof(long_one), 0600);
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
	set("node.cookie_file", "/nowhere/at/all");
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
	assert_non_null(strstr(why, "/nowhere/at/all"));
	set("node.cookie_file", "relative");
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), ERR_INVAL);
}

static void
without_curve_there_are_no_keys(void **state UNUSED)
{
	struct secret	s;

	set("cluster.curve", "off");
	assert_int_equal(secret_load(&s, &conf, why, sizeof(why)), 0);
	assert_false(s.curve);
	assert_int_equal(s.public[0], 0);
	/* And no file was made for it. */
	assert_int_equal(access(strcat(strcpy(why, dir), "/cookie"), F_OK), -1);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)
	const struct CMUnitTest tests[] = {
		T(keys_follow_from_the_cookie_alone),
		T(a_cookie_is_made_once_and_kept),
		T(what_is_configured_comes_first),
		T(a_file_that_is_no_cookie_is_refused),
		T(without_curve_there_are_no_keys),
	};

	log_init("test", LOG_L_ERROR);
	return cmocka_run_group_tests_name("secret", tests, NULL, NULL);
}

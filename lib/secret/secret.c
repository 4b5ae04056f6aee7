#include "secret/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <zmq.h>

#include "base/err.h"
#include "base/util.h"
#include "conf/conf.h"
#include "log/log.h"

#define SCRYPT_N	(1u << 15)
#define SCRYPT_R	8
#define SCRYPT_P	1
#define SCRYPT_MEM	(64u << 20)	/* may be taken; it needs 32 MiB */
#define RAW_KEY		32

#define RANDOM_BYTES	32		/* of a cookie made here */

/* What every installation of another broker has unless somebody changed it. */
static const char well_known[] = "emqxsecretcookie";

static int PRINTF(4, 5)
wrong(char *why, size_t size, int rc, const char *fmt, ...)
{
	va_list	ap;

	va_start(ap, fmt);
	vsnprintf(why, size, fmt, ap);
	va_end(ap);
	return rc;
}

int
secret_keys(struct secret *out, const void *cookie, size_t len)
{
	static const uint8_t	salt[] = "mqttc cluster: server key, 1";
	uint8_t			raw[RAW_KEY];
	struct secret		s = { .curve = true };
	int			rc = 0;

	if (EVP_PBE_scrypt(cookie, len, salt, sizeof(salt) - 1, SCRYPT_N,
	    SCRYPT_R, SCRYPT_P, SCRYPT_MEM, raw, sizeof(raw)) != 1)
		return ERR_NOMEM;
	raw[0] &= 248;			/* as Curve25519 has its numbers */
	raw[31] &= 127;
	raw[31] |= 64;
	if (zmq_z85_encode(s.private, raw, sizeof(raw)) == NULL ||
	    zmq_curve_public(s.public, s.private) < 0)
		rc = ERR_IO;
	else
		*out = s;
	OPENSSL_cleanse(raw, sizeof(raw));
	OPENSSL_cleanse(&s, sizeof(s));
	return rc;
}

void
secret_fini(struct secret *s)
{
	OPENSSL_cleanse(s, sizeof(*s));
}

/* --- The cookie --------------------------------------------------------- */

/* The first line, without blanks at its end. Its length, or ERR_*. */
static int
read_line(int fd, char *out, size_t size)
{
	ssize_t	n = 0, k;
	size_t	len;

	while (n < (ssize_t)size && (k = read(fd, out + n,
	    size - (size_t)n)) != 0) {
		if (k < 0 && errno != EINTR)
			return ERR_IO;
		n += MAX(k, 0);
	}
	for (len = 0; len < (size_t)n && out[len] != '\n'; len++)
		if (out[len] == '\0')
			return ERR_INVAL;
	while (len > 0 && strchr(" \t\r", out[len - 1]) != NULL)
		len--;
	return len == 0 || len > SECRET_COOKIE_MAX ? ERR_INVAL : (int)len;
}

static int
read_cookie(const char *path, char *out, size_t size, char *why, size_t wsize)
{
	struct stat	st;
	int		fd, n;

	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return wrong(why, wsize, errno == ENOENT ? ERR_NOTFOUND :
		    ERR_IO, "cannot read the cookie in '%s': %s", path,
		    strerror(errno));
	if ((n = read_line(fd, out, size)) == ERR_IO)
		(void)wrong(why, wsize, n, "cannot read the cookie in '%s': "
		    "%s", path, strerror(errno));
	else if (n < 0)
		(void)wrong(why, wsize, n, "'%s': its first line is to be a "
		    "cookie of 1 to %d bytes", path, SECRET_COOKIE_MAX);
	else if (fstat(fd, &st) == 0 && (st.st_mode & 077) != 0)
		log_warn("secret.readable", "file=%s mode=%03o",
		    log_quote(path), (unsigned)st.st_mode & 0777);
	close(fd);
	return n;
}

static int
write_all(int fd, const char *text, size_t len)
{
	ssize_t	n;

	while (len > 0) {
		if ((n = write(fd, text, len)) < 0) {
			if (errno == EINTR)
				continue;
			return ERR_IO;
		}
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) < 0 ? ERR_IO : 0;
}

/* A cookie nobody has guessed, at path; if another process of the node was
 * quicker, its. */
static int
make_cookie(const char *path)
{
	static const char hex[] = "0123456789abcdef";
	uint8_t		raw[RANDOM_BYTES];
	char		text[2 * RANDOM_BYTES + 1], tmp[PATH_MAX];
	size_t		i;
	int		fd, rc;

	if (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		return ERR_IO;
	for (i = 0; i < sizeof(raw); i++) {
		text[2 * i] = hex[raw[i] >> 4];
		text[2 * i + 1] = hex[raw[i] & 15];
	}
	text[sizeof(text) - 1] = '\n';
	if (snprintf(tmp, sizeof(tmp), "%s.%ld", path, (long)getpid()) >=
	    (int)sizeof(tmp)) {
		errno = ENAMETOOLONG;
		return ERR_IO;
	}
	(void)unlink(tmp);
	if ((fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
	    0600)) < 0)
		return ERR_IO;
	rc = write_all(fd, text, sizeof(text));
	close(fd);
	if (rc == 0 && link(tmp, path) < 0 && errno != EEXIST)
		rc = ERR_IO;
	else if (rc == 0)
		log_info("secret.made", "file=%s", log_quote(path));
	i = (size_t)errno;
	(void)unlink(tmp);
	errno = (int)i;
	OPENSSL_cleanse(raw, sizeof(raw));
	OPENSSL_cleanse(text, sizeof(text));
	return rc;
}

/* The cookie of this node. Its length, or ERR_*. */
static int
find_cookie(const struct conf *conf, char *out, size_t size, char *why,
    size_t wsize)
{
	char	path[CONF_STR_MAX + 16];
	size_t	len = strlen(conf->node_cookie);
	int	n;

	if (len > 0) {
		memcpy(out, conf->node_cookie, len);
		return (int)len;
	}
	if (conf->node_cookie_file[0] != '\0') {
		if (conf->node_cookie_file[0] != '/')
			return wrong(why, wsize, ERR_INVAL,
			    "node.cookie_file = '%s' does not begin with /",
			    conf->node_cookie_file);
		n = read_cookie(conf->node_cookie_file, out, size, why, wsize);
		return n == ERR_NOTFOUND ? ERR_INVAL : n;
	}
	snprintf(path, sizeof(path), "%s/cookie", conf->node_data_dir);
	n = read_cookie(path, out, size, why, wsize);
	if (n != ERR_NOTFOUND)
		return n;
	if ((n = make_cookie(path)) < 0)
		return wrong(why, wsize, n, "cannot make a cookie in '%s': %s",
		    path, strerror(errno));
	return read_cookie(path, out, size, why, wsize);
}

int
secret_load(struct secret *s, const struct conf *conf, char *why, size_t size)
{
	char	cookie[512];
	int	n, rc;

	if (!conf->cluster_curve) {
		log_warn("secret.off", "key=cluster.curve");
		*s = (struct secret){ .curve = false };
		return 0;
	}
	if ((n = find_cookie(conf, cookie, sizeof(cookie), why, size)) < 0)
		return n;
	if (n == (int)sizeof(well_known) - 1 &&
	    memcmp(cookie, well_known, (size_t)n) == 0)
		log_warn("secret.known", "cookie=%s", well_known);
	if ((rc = secret_keys(s, cookie, (size_t)n)) < 0)
		(void)wrong(why, size, rc, "cannot make keys of the cookie: "
		    "%s", rc == ERR_NOMEM ? "not enough memory" :
		    "the ZeroMQ library has no CURVE");
	OPENSSL_cleanse(cookie, sizeof(cookie));
	return rc;
}

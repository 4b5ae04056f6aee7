/*
 * secret.h: what nodes of one cluster have in common and nobody else: a cookie,
 * and the pair of CURVE keys that follows from it. Every node computes the same
 * pair: who binds uses it as the server's, who connects knows the server's
 * public key by computing it, and makes a pair of its own at random. So who
 * does not know the cookie cannot complete a handshake, nor pretend to be a
 * node, and the cookie never travels.
 *
 * Each guess at a cookie costs a guesser one scrypt (32 MiB, about 0.1 s), and
 * for want of anything to compare with one connection as well: the public key
 * is as secret as the private one.
 */
#ifndef SECRET_SECRET_H
#define SECRET_SECRET_H

#include <stdbool.h>
#include <stddef.h>

struct conf;

#define SECRET_COOKIE_MAX	255	/* bytes */
#define SECRET_KEY		41	/* Z85, with the NUL */

struct secret {
	bool	curve;		/* false: cluster.curve = off, no keys */
	char	public[SECRET_KEY], private[SECRET_KEY];
};

/*
 * Find the cookie: node.cookie, else the first line of node.cookie_file, else
 * that of node.data_dir/cookie, which is made if it is missing; then the keys.
 * Logs what a human should know (a cookie that everybody knows, a file that
 * others can read, cluster.curve = off). ERR_INVAL: what is configured cannot be
 * used; ERR_IO, ERR_NOMEM. `why` says so in words.
 */
int secret_load(struct secret *s, const struct conf *conf, char *why,
    size_t size);

/* The pair of a cookie. ERR_NOMEM, ERR_IO: the library refused. */
int secret_keys(struct secret *s, const void *cookie, size_t len);

/* Forget it. */
void secret_fini(struct secret *s);

#endif

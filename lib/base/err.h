/*
 * err.h: the error codes every room returns. 0 is success, all are negative;
 * each says who must act. Where errno says more (ERR_IO), it is left set.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum {
	ERR_AGAIN	= -1,	/* nothing to be had now: wait */
	ERR_FULL	= -2,	/* a bound is reached: slow down */
	ERR_PROTO	= -3,	/* the peer broke its protocol: close it */
	ERR_CORRUPT	= -4,	/* our own stored bytes are damaged */
	ERR_IO		= -5,	/* the system refused: see errno */
	ERR_NOMEM	= -6,	/* refuse this one request */
	ERR_INVAL	= -7,	/* an argument or a setting is wrong */
	ERR_NOTFOUND	= -8,	/* no such thing */
	ERR_EXISTS	= -9,	/* there already */
	ERR_STALE	= -10,	/* belongs to an older incarnation */
};

/* A short English text for rc, never NULL. ERR_IO names errno as it stands. */
const char *err_str(int rc);

#endif

#include "base/err.h"

#include <errno.h>
#include <string.h>

const char *
err_str(int rc)
{
	switch (rc) {
	case 0:			return "success";
	case ERR_AGAIN:		return "not ready yet";
	case ERR_FULL:		return "limit reached";
	case ERR_PROTO:		return "protocol error";
	case ERR_CORRUPT:	return "stored data is damaged";
	case ERR_IO:		return strerror(errno);
	case ERR_NOMEM:		return "out of memory";
	case ERR_INVAL:		return "invalid argument";
	case ERR_NOTFOUND:	return "not found";
	case ERR_EXISTS:	return "exists already";
	case ERR_STALE:		return "from an older incarnation";
	}
	return "unknown error";
}

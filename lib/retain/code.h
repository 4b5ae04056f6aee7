/*
 * code.h: one retained message as bytes, for the log and the checkpoint. All
 * numbers are little-endian:
 *
 *	 0  version	16  clock, node
 *	16  id		16  clock; node, process, sequence
 *	32  deadline	 8  seconds since 1970, 0: none
 *	40  topic	 2  bytes
 *	42  client id	 2  bytes
 *	44  properties	 4  bytes
 *	48  payload	 4  bytes; 0: a delete
 *	52  qos		 1  0..2
 *	53  format	 1  RETAIN_FORMAT
 *	54  0		 2
 *	56  topic, client id, properties, payload
 *
 * The bytes are as long as that says, neither shorter nor longer; whoever keeps
 * them keeps their length and a checksum.
 */
#ifndef RETAIN_CODE_H
#define RETAIN_CODE_H

#include "retain/retain.h"

#define RETAIN_HEADER	56
#define RETAIN_FORMAT	1

static inline size_t
retain_encoded_size(const struct retain_msg *m)
{
	return RETAIN_HEADER + retain_msg_bytes(m);
}

/*
 * Write m to out, which has room for size bytes. Returns how many were written
 * (retain_encoded_size), ERR_FULL if they do not fit, ERR_INVAL for an empty
 * topic, QoS 3 or a length beyond its field. pos is not written.
 */
long retain_encode(void *out, size_t size, const struct retain_msg *m);

/*
 * Read what retain_encode wrote; the slices point into data, pos is 0. Returns
 * 0, or ERR_CORRUPT if the bytes are no message with a topic one may publish
 * to; *m is untouched then. What is in the other fields is not looked at.
 */
int retain_decode(const void *data, size_t len, struct retain_msg *m);

#endif

/*
 * utf8.h: the strings MQTT allows. Spec: MQTT 5.0 section 1.5.4 (3.1.1: 1.5.3).
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>

/*
 * 0 if the len bytes at s are well-formed UTF-8 as RFC 3629 has it (shortest
 * form, no surrogates, nothing above U+10FFFF) [MQTT-1.5.4-1] and hold no
 * U+0000 [MQTT-1.5.4-2]; ERR_PROTO if not. Control and non-characters are
 * allowed: the specification only says they SHOULD NOT be used. A byte order
 * mark is an ordinary character [MQTT-1.5.4-3]. Empty is fine.
 */
int utf8_check(const void *s, size_t len);

/* The same for a payload that says it is UTF-8 (payload format 1, 3.3.2.3.2):
 * that is no MQTT string and may hold U+0000. */
int utf8_check_payload(const void *s, size_t len);

#endif

/*
 * log.h: one event per line on stderr: time, level, process, a stable dotted
 * name, then key=value. mqttc-log(5) lists every name, its cause and its cure.
 *
 *   2026-01-15T10:00:00.123Z warn listener.0 session.takeover client="a" ...
 *
 * Writing never blocks: a pipe that is full drops the line and counts it, and
 * the next line that fits says how many went missing. Not thread safe.
 */
#ifndef LOG_LOG_H
#define LOG_LOG_H

#include <stddef.h>
#include "base/util.h"

enum log_level { LOG_L_ERROR, LOG_L_WARN, LOG_L_INFO, LOG_L_DEBUG };

/* Name this process in every line (copied) and set what is worth writing. */
void log_init(const char *process, enum log_level level);
void log_set_level(enum log_level level);
extern enum log_level log_level;

void log_event(enum log_level level, const char *event, const char *fmt, ...)
    PRINTF(3, 4);

#define log_error(...)	log_event(LOG_L_ERROR, __VA_ARGS__)
#define log_warn(...)	log_event(LOG_L_WARN, __VA_ARGS__)
#define log_info(...)	log_event(LOG_L_INFO, __VA_ARGS__)
#define log_debug(...)	do { if (log_level >= LOG_L_DEBUG) \
	log_event(LOG_L_DEBUG, __VA_ARGS__); } while (0)

/*
 * Bytes from outside, made fit for a line: quoted, control bytes and quotes
 * escaped, cut at 256 bytes with an ellipsis. Up to 4 results may be in use in
 * one statement; they are static and overwritten in turn.
 */
const char *log_quote(const char *s);
const char *log_quote_n(const void *bytes, size_t len);

/* Lines dropped so far because the reader of stderr was too slow. */
unsigned long long log_dropped(void);

/* Log an error and exit with code (sysexits.h). Only before serving. */
void fatal(int code, const char *event, const char *fmt, ...)
    PRINTF(3, 4) NORETURN;

#endif

/*
 * fault.h: named places where a test may make things fail. Compiled in with
 * `make FAULTS=1` only; otherwise fault_hit() is a constant and costs nothing.
 *
 *   if (fault_hit("journal.fsync")) { errno = EIO; return ERR_IO; }
 *
 * Asked for by environment: FAULTS=name:nth=3[,name:nth=N...]; nth counts the
 * visits of that name in this process, from 1; nth=0 means every visit. With
 * `:do=kill` or `:do=stop` the process gets SIGKILL or SIGSTOP there instead.
 * Each hit says `fault: NAME visit N` on stderr, so that a test can walk nth
 * upward until a run meets no fault any more. Any thread may visit.
 */
#ifndef FAULT_FAULT_H
#define FAULT_FAULT_H

#include <stdbool.h>

#ifdef FAULTS
bool fault_hit(const char *name);
#else
#define fault_hit(name)	false
#endif

#endif

/*
 * file.h: the image of member.h on disk, node.data_dir/member. It is replaced
 * whole: written beside it, synced, renamed; the directory is synced too.
 */
#ifndef MEMBER_FILE_H
#define MEMBER_FILE_H

#include <stddef.h>
#include <stdint.h>

#define MEMBER_FILE	"member"

/* Read it: malloc'ed; *len 0 if there is none, which is a first start.
 * ERR_IO; ERR_CORRUPT: longer than any that was written; ERR_NOMEM. */
int member_file_read(const char *dir, uint8_t **out, size_t *len);

/* 0 once it is on disk. ERR_IO: what was there before is there still. */
int member_file_write(const char *dir, const uint8_t *image, size_t len);

/*
 * It is damaged: rename it to member.damaged, .1, .2, ... (the first that is
 * free, 100 at most), which name gets. Then the next start is a first start.
 * ERR_IO, ERR_FULL.
 */
int member_file_aside(const char *dir, char *name, size_t size);

#endif

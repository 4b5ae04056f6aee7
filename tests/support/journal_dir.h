/*
 * journal_dir.h: directories for the tests of lib/journal: made, searched,
 * taken as an image, put back, removed.
 */
#ifndef SUPPORT_JOURNAL_DIR_H
#define SUPPORT_JOURNAL_DIR_H

#include <sys/stat.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIR_FILES	128

struct dir_file {
	char		 name[64];
	uint8_t		*data;
	size_t		 len;
};

struct dir_image {
	struct dir_file	 files[DIR_FILES];
	size_t		 n;
};

/* In memory if there is such a place: these tests write much. */
static inline void
dir_make(char path[64])
{
	snprintf(path, 64, "%s/mqttc-journal-XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (mkdtemp(path) == NULL) {
		perror(path);
		abort();
	}
}

static inline int
dir_file_cmp(const void *a, const void *b)
{
	return strcmp(((const struct dir_file *)a)->name,
	    ((const struct dir_file *)b)->name);
}

/* All files whose names begin with prefix, by name. */
static inline void
dir_list(const char *path, const char *prefix, struct dir_image *im)
{
	struct dirent	*e;
	DIR		*d = opendir(path);

	memset(im, 0, sizeof(*im));
	while (d != NULL && (e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.' ||
		    strncmp(e->d_name, prefix, strlen(prefix)) != 0)
			continue;
		if (im->n == DIR_FILES)
			abort();
		snprintf(im->files[im->n++].name, 64, "%.63s", e->d_name);
	}
	if (d != NULL)
		closedir(d);
	qsort(im->files, im->n, sizeof(im->files[0]), dir_file_cmp);
}

static inline size_t
dir_count(const char *path, const char *prefix)
{
	struct dir_image im;

	dir_list(path, prefix, &im);
	return im.n;
}

static inline int
dir_open_file(const char *path, const char *name, int flags)
{
	char	 p[192];

	snprintf(p, sizeof(p), "%s/%s", path, name);
	return open(p, flags | O_CLOEXEC, 0600);
}

static inline void
dir_take(const char *path, struct dir_image *im)
{
	struct stat	 st;
	size_t		 i;
	int		 fd;

	dir_list(path, "", im);
	for (i = 0; i < im->n; i++) {
		struct dir_file *f = &im->files[i];

		if ((fd = dir_open_file(path, f->name, O_RDONLY)) == -1 ||
		    fstat(fd, &st) == -1)
			abort();
		f->len = (size_t)st.st_size;
		if ((f->data = malloc(f->len + 1)) == NULL ||
		    read(fd, f->data, f->len) != (ssize_t)f->len)
			abort();
		close(fd);
	}
}

static inline void
dir_write(const char *path, const char *name, const void *data, size_t len)
{
	int	 fd = dir_open_file(path, name, O_WRONLY | O_CREAT | O_TRUNC);

	if (fd == -1 || write(fd, data, len) != (ssize_t)len)
		abort();
	close(fd);
}

static inline void
dir_clear(const char *path)
{
	struct dir_image im;
	char		 p[192];
	size_t		 i;

	do {
		dir_list(path, "", &im);
		for (i = 0; i < im.n; i++) {
			snprintf(p, sizeof(p), "%s/%s", path,
			    im.files[i].name);
			if (unlink(p) == -1)
				abort();
		}
	} while (im.n == DIR_FILES);
}

static inline void
dir_put(const char *path, const struct dir_image *im)
{
	size_t	 i;

	dir_clear(path);
	for (i = 0; i < im->n; i++)
		dir_write(path, im->files[i].name, im->files[i].data,
		    im->files[i].len);
}

static inline void
dir_image_free(struct dir_image *im)
{
	size_t	 i;

	for (i = 0; i < im->n; i++)
		free(im->files[i].data);
	im->n = 0;
}

static inline void
dir_remove(const char *path)
{
	dir_clear(path);
	if (rmdir(path) == -1)
		abort();
}

#endif

#include "super.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

#include "log/log.h"

#define LOCK_FILE	"supervise.lock"

void
setup_user(struct super *s)
{
	struct passwd	*pw;

	s->user = geteuid();
	s->group = getegid();
	if (s->conf.node_user[0] == '\0')
		return;
	if ((pw = getpwnam(s->conf.node_user)) == NULL)
		fatal(EX_NOUSER, "user.bad", "there is no user '%s'",
		    s->conf.node_user);
	if (geteuid() != 0 && pw->pw_uid != geteuid())
		fatal(EX_NOPERM, "user.bad",
		    "only root can become '%s'", s->conf.node_user);
	s->user = pw->pw_uid;
	s->group = pw->pw_gid;
}

/* Each client is a descriptor: take as many as we may have. */
void
setup_fd_limit(void)
{
	struct rlimit	r;

	if (getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur == r.rlim_max)
		return;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &r) < 0)
		log_warn("descriptors.limit", "why=%s",
		    log_quote(strerror(errno)));
}

/* mkdir -p: parents as the umask has it, the directory itself 0700. */
static void
make_dir(const struct super *s, const char *key, const char *path)
{
	char	part[CONF_STR_MAX];
	size_t	i;
	bool	made;

	snprintf(part, sizeof(part), "%s", path);
	for (i = 1; part[i] != '\0'; i++) {
		if (part[i] != '/')
			continue;
		part[i] = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			fatal(EX_CANTCREAT, "dir.bad",
			    "%s: cannot make '%s': %s", key, part,
			    strerror(errno));
		part[i] = '/';
	}
	made = mkdir(path, 0700) == 0;
	if (!made && errno != EEXIST)
		fatal(EX_CANTCREAT, "dir.bad", "%s: cannot make '%s': %s",
		    key, path, strerror(errno));
	if (made && geteuid() == 0 && chown(path, s->user, s->group) < 0)
		fatal(EX_CANTCREAT, "dir.bad", "%s: cannot give '%s' to '%s': "
		    "%s", key, path, s->conf.node_user, strerror(errno));
	if (access(path, R_OK | W_OK | X_OK) < 0)
		fatal(EX_CANTCREAT, "dir.bad", "%s: cannot write to '%s': %s",
		    key, path, strerror(errno));
}

void
setup_dirs(struct super *s)
{
	make_dir(s, "node.run_dir", s->conf.node_run_dir);
	make_dir(s, "node.data_dir", s->conf.node_data_dir);
	if (s->conf.log_dir[0] != '\0')
		make_dir(s, "log.dir", s->conf.log_dir);
	/* Names in it stay short then, however long its path is. */
	if (chdir(s->conf.node_run_dir) < 0)
		fatal(EX_CANTCREAT, "dir.bad", "node.run_dir: cannot enter "
		    "'%s': %s", s->conf.node_run_dir, strerror(errno));
	umask(077);
}

bool
setup_lock(struct super *s)
{
	char	pid[32] = "";
	ssize_t	n;

	s->lock_fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->lock_fd < 0)
		fatal(EX_CANTCREAT, "dir.bad", "node.run_dir: cannot open "
		    "'%s/%s': %s", s->conf.node_run_dir, LOCK_FILE,
		    strerror(errno));
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
		fatal(EX_TEMPFAIL, "dir.taken", "node.run_dir '%s' is in use "
		    "by another mqttc-supervise (pid %s)",
		    s->conf.node_run_dir, pid);
	}
	snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(s->lock_fd, 0) < 0 ||
	    pwrite(s->lock_fd, pid, strlen(pid), 0) < 0)
		log_warn("dir.lock", "why=%s",
		    log_quote(strerror(errno)));
	if (geteuid() == 0)
		(void)!fchown(s->lock_fd, s->user, s->group);
	/* Who ends in order takes the socket away. */
	return access(SUP_SOCK, F_OK) == 0;
}

/* The programs lie beside our own. */
void
setup_programs(struct super *s)
{
	char	path[sizeof(s->bin) + 64], *slash;
	ssize_t	n;
	size_t	i;

	n = readlink("/proc/self/exe", s->bin, sizeof(s->bin) - 1);
	if (n < 0)
		fatal(EX_OSERR, "program.missing",
		    "cannot read /proc/self/exe: %s", strerror(errno));
	s->bin[n] = '\0';
	if ((slash = strrchr(s->bin, '/')) != NULL)
		*slash = '\0';
	for (i = 0; i < s->nprocs; i++) {
		snprintf(path, sizeof(path), "%s/%s", s->bin,
		    proc_kind_program((enum proc_kind)s->procs[i].kind));
		if (access(path, X_OK) < 0)
			fatal(EX_OSFILE, "program.missing",
			    "cannot run '%s': %s", path, strerror(errno));
	}
}

void
setup_drop_root(struct super *s)
{
	if (geteuid() != 0 || s->user == 0)
		return;
	if (initgroups(s->conf.node_user, s->group) < 0 ||
	    setresgid(s->group, s->group, s->group) < 0 ||
	    setresuid(s->user, s->user, s->user) < 0)
		fatal(EX_OSERR, "user.bad", "cannot become '%s': %s",
		    s->conf.node_user, strerror(errno));
	if (setuid(0) == 0 || geteuid() == 0)
		fatal(EX_SOFTWARE, "user.bad", "could become root again");
}

/* Does nobody listen there? The file of who was killed stays behind. */
static bool
is_abandoned(const char *path)
{
	struct sockaddr_un	sun = { .sun_family = AF_UNIX };
	size_t			len = strlen(path);
	bool			gone;
	int			fd;

	if (len >= sizeof(sun.sun_path))
		return false;
	memcpy(sun.sun_path, path, len + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	gone = connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 &&
	    errno == ECONNREFUSED;
	close(fd);
	return gone;
}

/* What is left of incarnations that were killed. */
void
setup_clean_ipc(struct super *s)
{
	struct dirent	*e;
	DIR		*d;
	size_t		 len;

	(void)s;
	if ((d = opendir(".")) == NULL)
		return;
	while ((e = readdir(d)) != NULL) {
		len = strlen(e->d_name);
		if (len > 4 && strcmp(e->d_name + len - 4, ".ipc") == 0 &&
		    is_abandoned(e->d_name))
			unlink(e->d_name);
	}
	closedir(d);
}

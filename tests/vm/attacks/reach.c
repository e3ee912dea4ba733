/* Counters, limits, signals, namespaces and asynchronous opens (vectors 28-33). */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void perf(pid_t pid, int cpu, unsigned long sample)
{
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK, .sample_period = 1000000,
		.sample_type = sample, .sample_stack_user = sample & PERF_SAMPLE_STACK_USER ? 8192 : 0,
		.sample_regs_user = sample & PERF_SAMPLE_REGS_USER ? 0xff : 0,
	};
	if (syscall(SYS_perf_event_open, &event, pid, cpu, -1, PERF_FLAG_FD_CLOEXEC) < 0)
		failed("perf_event_open");
	succeeded_with("counting");
}

static void perf_process(const struct target *t) { perf(t->pid, -1, PERF_SAMPLE_IP); }
static void perf_stack(const struct target *t)
{
	(void)t;
	perf(-1, 0, PERF_SAMPLE_IP | PERF_SAMPLE_STACK_USER | PERF_SAMPLE_REGS_USER);
}

static void prlimit_(const struct target *t)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	if (prlimit(t->pid, RLIMIT_CORE, &limit, NULL))
		failed("prlimit");
	succeeded_with("set");
}

static void signal_to(const struct target *t, int number)
{
	if (kill(t->pid, number))
		failed("kill");
	succeeded_with("sent");
}

static void sigquit(const struct target *t) { signal_to(t, SIGQUIT); }
static void sigusr1(const struct target *t) { signal_to(t, SIGUSR1); }

static void sigquit_pidfd(const struct target *t)
{
	int process = (int)syscall(SYS_pidfd_open, t->pid, 0);
	if (syscall(SYS_pidfd_send_signal, process, SIGQUIT, NULL, 0))
		failed("pidfd_send_signal");
	succeeded_with("sent");
}

static void sigquit_thread(const struct target *t)
{
	if (syscall(SYS_tgkill, t->pid, t->tid, SIGQUIT))
		failed("tgkill");
	succeeded_with("sent");
}

static void core_pattern(const struct target *t)
{
	int file = open("/proc/sys/kernel/core_pattern", O_WRONLY | O_CLOEXEC);
	if (file < 0)
		failed("open");
	if (write(file, t->extra, strlen(t->extra)) < 0)
		failed("write");
	succeeded_with("redirected");
}

static void enter(int where, int kind)
{
	if (where < 0)
		failed("open");
	if (setns(where, kind))
		failed("setns");
	succeeded_with("entered");
}

static void setns_file(const struct target *t)
{
	enter(open(proc_path(t->pid, "ns/mnt"), O_RDONLY | O_CLOEXEC), CLONE_NEWNS);
}

static void setns_pidfd(const struct target *t) { enter((int)syscall(SYS_pidfd_open, t->pid, 0), CLONE_NEWNS); }

/* A namespace's file, bound elsewhere while that was allowed: `extra` names it. */
static void setns_bound(const struct target *t) { enter(open(t->extra, O_RDONLY | O_CLOEXEC), 0); }

static void bind_root(const struct target *t)
{
	/* in the victim's own mount namespace: from another one the kernel itself refuses */
	mkdir("/run/bound-root", 0755);
	if (mount(proc_path(t->pid, "root"), "/run/bound-root", NULL, MS_BIND, NULL))
		failed("mount");
	umount2("/run/bound-root", MNT_DETACH);
	succeeded_with("bound");
}

static void open_tree_root(const struct target *t)
{
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, proc_path(t->pid, "root"), 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
	if (tree < 0)
		failed("open_tree");
	mkdir("/run/moved-root", 0755);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		failed("unshare");
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, "/run/moved-root", 4 /* MOVE_MOUNT_F_EMPTY_PATH */))
		failed("move_mount");
	succeeded_with("moved");
}

/* One request through a ring: what the kernel answers, negative errno included. */
static int by_ring(const struct io_uring_sqe *request)
{
	struct io_uring_params ring = {0};
	int file = (int)syscall(SYS_io_uring_setup, 1, &ring);
	if (file < 0)
		failed("io_uring_setup");
	size_t size = ring.cq_off.cqes + ring.cq_entries * sizeof(struct io_uring_cqe) + 4096;
	char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, IORING_OFF_SQ_RING);
	struct io_uring_sqe *queue = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, IORING_OFF_SQES);
	if (rings == MAP_FAILED || queue == MAP_FAILED)
		failed("mmap");
	queue[0] = *request;
	((unsigned *)(rings + ring.sq_off.array))[0] = 0;
	__atomic_add_fetch((unsigned *)(rings + ring.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, file, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		failed("io_uring_enter");
	return ((struct io_uring_cqe *)(rings + ring.cq_off.cqes))[0].res;
}

static void uring(const struct target *t, unsigned char flags)
{
	static char text[65536];
	struct io_uring_sqe request = {
		.opcode = IORING_OP_OPENAT, .flags = flags, .fd = AT_FDCWD, .open_flags = O_RDONLY,
		.addr = (unsigned long)proc_path(t->pid, "environ"),
	};
	int file = by_ring(&request);
	errno = -file;
	if (file < 0)
		failed("openat");
	request = (struct io_uring_sqe){
		.opcode = IORING_OP_READ, .flags = flags, .fd = file, .addr = (unsigned long)text, .len = sizeof text - 1};
	int got = by_ring(&request);
	errno = -got;
	if (got < 0)
		failed("read");
	char *canary = memmem(text, (size_t)got, "CANARY=", 7);
	errno = ENODATA;
	if (!canary)
		failed("no canary");
	succeeded_with(canary + 7);
}

static void uring_plain(const struct target *t) { uring(t, 0); }
static void uring_worker(const struct target *t) { uring(t, IOSQE_ASYNC); } /* a kernel thread opens and reads */

const struct attack reach_attacks[] = {
	{"perf-process", perf_process}, {"perf-stack", perf_stack}, {"prlimit", prlimit_}, {"sigquit", sigquit},
	{"sigusr1", sigusr1}, {"sigquit-pidfd", sigquit_pidfd}, {"sigquit-thread", sigquit_thread},
	{"core_pattern", core_pattern}, {"setns-file", setns_file}, {"setns-pidfd", setns_pidfd},
	{"setns-bound", setns_bound}, {"bind-root", bind_root}, {"open_tree-root", open_tree_root}, {"uring", uring_plain},
	{"uring-worker", uring_worker}, {0},
};

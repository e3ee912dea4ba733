/* Another process's memory and descriptors by system calls (vectors 18-27). */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void peek_all(const struct target *t)
{
	char text[264] = "";
	for (size_t at = 0; at < t->length; at += sizeof(long)) {
		errno = 0;
		long word = ptrace(PTRACE_PEEKDATA, t->pid, t->address + at, 0);
		if (errno)
			failed("peek");
		memcpy(text + at, &word, sizeof word);
	}
	ptrace(PTRACE_DETACH, t->pid, 0, 0);
	succeeded(text, t->length);
}

static void attach(const struct target *t)
{
	if (ptrace(PTRACE_ATTACH, t->pid, 0, 0))
		failed("attach");
	waitpid(t->pid, NULL, __WALL);
	peek_all(t);
}

static void seize(const struct target *t)
{
	if (ptrace(PTRACE_SEIZE, t->pid, 0, 0) || ptrace(PTRACE_INTERRUPT, t->pid, 0, 0))
		failed("seize");
	waitpid(t->pid, NULL, __WALL);
	peek_all(t);
}

static void vm_readv(const struct target *t)
{
	char text[256];
	struct iovec here = {text, t->length}, there = {(void *)t->address, t->length};
	ssize_t got = process_vm_readv(t->pid, &here, 1, &there, 1, 0);
	if (got < 0)
		failed("process_vm_readv");
	succeeded(text, (size_t)got);
}

/* Writes what is there already, so that the victim stays whole. */
static void vm_writev(const struct target *t)
{
	char text[256] = "";
	struct iovec here = {text, t->length}, there = {(void *)t->address, t->length};
	memcpy(text, t->extra, strnlen(t->extra, t->length));
	if (process_vm_writev(t->pid, &here, 1, &there, 1, 0) < 0)
		failed("process_vm_writev");
	succeeded_with("written");
}

/* Root's user id with two capabilities left: one to pass file modes, one that newer kernels take for a permission. */
static void perfmon_only(void)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0}, {0}};
	unsigned long kept[] = {CAP_PERFMON, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE};
	for (size_t number = 0; number < 3; number++)
		data[kept[number] / 32].effective |= 1U << kept[number] % 32;
	data[0].permitted = data[0].effective;
	data[1].permitted = data[1].effective;
	if (syscall(SYS_capset, &header, data))
		failed("capset");
}

static void perfmon(const struct target *t)
{
	char text[4096];
	perfmon_only();
	int file = open(proc_path(t->pid, "environ"), O_RDONLY | O_CLOEXEC);
	if (file < 0)
		failed("open");
	ssize_t got = read(file, text, sizeof text - 1);
	if (got < 0)
		failed("read");
	text[got] = 0;
	char *canary = memmem(text, (size_t)got, "CANARY=", 7);
	errno = ENODATA;
	if (!canary)
		failed("no canary");
	succeeded_with(canary + 7);
}

static int pidfd(const struct target *t)
{
	int process = (int)syscall(SYS_pidfd_open, t->pid, 0);
	if (process < 0)
		failed("pidfd_open");
	return process;
}

static void getfd(const struct target *t)
{
	int file = (int)syscall(SYS_pidfd_getfd, pidfd(t), t->descriptor, 0);
	if (file < 0)
		failed("pidfd_getfd");
	char *text = mmap(NULL, t->length, PROT_READ, MAP_SHARED, file, 0);
	if (text == MAP_FAILED)
		failed("mmap");
	succeeded(text, t->length);
}

static void kcmp(const struct target *t)
{
	if (syscall(SYS_kcmp, getpid(), t->pid, KCMP_VM, 0, 0) < 0)
		failed("kcmp");
	succeeded_with("compared");
}

static void robust_list(const struct target *t)
{
	void *head;
	size_t length;
	if (syscall(SYS_get_robust_list, t->pid, &head, &length))
		failed("get_robust_list");
	succeeded_with("list");
}

static void move_pages(const struct target *t)
{
	void *page = (void *)(t->address & ~4095UL);
	int status = -1;
	if (syscall(SYS_move_pages, t->pid, 1, &page, NULL, &status, 0))
		failed("move_pages");
	succeeded_with("located");
}

static void migrate_pages(const struct target *t)
{
	unsigned long from = 1, to = 1;
	if (syscall(SYS_migrate_pages, t->pid, 64, &from, &to) < 0)
		failed("migrate_pages");
	succeeded_with("migrated");
}

static void madvise_(const struct target *t)
{
	struct iovec page = {(void *)(t->address & ~4095UL), 4096};
	if (syscall(SYS_process_madvise, pidfd(t), &page, 1, MADV_PAGEOUT, 0) < 0)
		failed("process_madvise");
	succeeded_with("paged out");
}

const struct attack trace_attacks[] = {
	{"attach", attach}, {"seize", seize}, {"process_vm_readv", vm_readv}, {"process_vm_writev", vm_writev},
	{"perfmon", perfmon}, {"pidfd_getfd", getfd}, {"kcmp", kcmp}, {"get_robust_list", robust_list},
	{"move_pages", move_pages}, {"migrate_pages", migrate_pages}, {"process_madvise", madvise_}, {0},
};

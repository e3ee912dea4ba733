/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The little of the kernel's own types that guard.bpf.c reads.
 *
 * Written by hand instead of generated: only the members named here are relocated (CO-RE), so one object fits every
 * kernel with BTF, and building it needs neither that kernel nor its headers. Order and offsets here mean nothing.
 */
#ifndef GUARD_KERNEL_H
#define GUARD_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef _Bool bool;

#define EPERM 1

#define PROC_MAGIC 0x9fa0
#define NSFS_MAGIC 0x6e736673
#define BPFFS_MAGIC 0xcafe4a11
#define CGROUP2_MAGIC 0x63677270
#define TMPFS_MAGIC 0x01021994
#define PIDFS_MAGIC 0x50494446

#define FMODE_WRITE 2
#define S_IFMT 0170000
#define S_IFCHR 0020000
#define PF_IO_WORKER 0x10
#define CAP_SYS_ADMIN 21
#define CAP_PERFMON 38
#define PTRACE_NOAUDIT 0x04 /* a question whose "no" only leaves fields blank: /proc/PID/stat, wchan */
#define PTRACE_READ_FSCREDS 0x09 /* PTRACE_MODE_READ | PTRACE_MODE_FSCREDS */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct qstr {
	const unsigned char *name;
};

struct super_block {
	unsigned long s_magic;
	__u32 s_dev;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	__u32 i_rdev;
	unsigned int i_nlink;
	long long i_size;
	void *i_private;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct super_block *mnt_sb;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
	unsigned int f_mode;
	void *private_data;
};

struct ns_common {
	unsigned int inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[1];
};

struct proc_inode {
	struct pid *pid;
	struct inode vfs_inode;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};

struct mm_struct {
	struct file *exe_file;
};

struct notification;

struct seccomp_filter {
	struct notification *notif;
	struct seccomp_filter *prev;
};

struct seccomp {
	struct seccomp_filter *filter;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct thread_info {
	unsigned int status;
};

struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	unsigned int flags;
	unsigned int ptrace;
	__u64 start_boottime;
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct hlist_node pid_links[4];
	struct pid *thread_pid;
	struct nsproxy *nsproxy;
	struct mm_struct *mm;
	struct files_struct *files;
	struct seccomp seccomp;
	char comm[16];
};

struct hw_perf_event {
	struct task_struct *target;
};

struct perf_event_attr {
	__u32 type;
	__u64 sample_type;
};

struct perf_event {
	struct perf_event_attr attr;
	struct hw_perf_event hw;
};

struct userfaultfd_ctx {
	struct mm_struct *mm;
};

struct bpf_map {
	__u32 id;
};

struct bpf_prog_aux {
	__u32 id;
};

struct bpf_prog {
	enum bpf_prog_type type;
	struct bpf_prog_aux *aux;
};

/* registers at system call entry: x86-64 and arm64 by their own members, whichever the running kernel has */
struct pt_regs___x86 {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long ip;
	unsigned long sp;
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 orig_x0;
	__s32 syscallno;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

#pragma clang attribute pop

struct pt_regs;
struct cred;
struct user_namespace;
struct kernel_siginfo;
struct rlimit;
struct linux_binprm;
struct cgroup;

enum lockdown_reason {
	LOCKDOWN_DEV_MEM = 2,
	LOCKDOWN_KEXEC = 4,
	LOCKDOWN_HIBERNATION = 5,
	LOCKDOWN_KCORE = 18,
	LOCKDOWN_KPROBES = 19,
	LOCKDOWN_BPF_READ_KERNEL = 20,
	LOCKDOWN_BPF_WRITE_USER = 21,
	LOCKDOWN_TRACEFS = 24,
};

enum kernel_read_file_id {
	READING_MODULE = 2,
	READING_KEXEC_IMAGE = 3,
	READING_KEXEC_INITRAMFS = 4,
};

enum kernel_load_data_id {
	LOADING_MODULE = 2,
	LOADING_KEXEC_IMAGE = 3,
	LOADING_KEXEC_INITRAMFS = 4,
};

#endif

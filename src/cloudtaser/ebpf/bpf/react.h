/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The tier `kill`, for kernels that take neither LSM nor fmod_ret programs: system calls are watched as they begin and
 * end, and SIGKILL is pending before their result reaches user space. Its holes are in docs/ebpf.md. */
#ifndef GUARD_REACT_H
#define GUARD_REACT_H

#include "access.h"

#define WATCHED 512
#define TS_COMPAT 2
/* the upper bits of a number in the map `syscalls` where a 32-bit program made the call */
#define COMPAT (1U << 16)

enum watch {
	WATCH_PID_FIRST = 1,
	WATCH_PID_SECOND = 2,
	WATCH_PIDFD_FIRST = 4,
	WATCH_OPENS = 8, /* its result is a descriptor */
};

/* by system call number of this machine, and of 32-bit programs on it; filled in before the load */
const volatile __u8 watched[WATCHED] SEC(".rodata.watched") = {};
const volatile __u8 watched_compat[WATCHED] SEC(".rodata.compat") = {};

static __always_inline __u8 watch_of(struct task_struct *me, __u64 number)
{
	if (number >= WATCHED)
		return 0;
	if (bpf_core_field_exists(me->thread_info.status) && (me->thread_info.status & TS_COMPAT))
		return watched_compat[number];
	return watched[number];
}

static __always_inline struct file *file_of(struct task_struct *me, __u32 fd)
{
	struct fdtable *table = BPF_CORE_READ(me, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd), *file = 0;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), files + fd);
	return file;
}

static __always_inline int react_to(struct task_struct *target, struct guard *guard, __s32 number, __u64 request)
{
	struct config *c = configuration();
	__u32 key = number, *vector;

	if (!c)
		return 0;
	vector = bpf_map_lookup_elem(&syscalls, &key);
	refuse(c, !vector ? V_LINKS : *vector == 18 && request == PTRACE_SEIZE ? 19 : *vector, target, guard, number,
	       request, 0);
	return 0;
}

/* a process number as the caller means it: in the pid namespace that it lives in */
static __always_inline int react_to_number(struct task_struct *me, __u32 pid_number, __s32 number, __u64 request)
{
	struct pid *pid = BPF_CORE_READ(me, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct number_key wanted = { .number = pid_number };
	struct task_struct *target;
	struct guard *guard;
	struct upid *upid;
	__u64 *key;

	if (level > 32)
		return 0;
	upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
	wanted.space = BPF_CORE_READ(upid, ns, ns.inum);
	key = bpf_map_lookup_elem(&numbers, &wanted);
	if (!key)
		return 0;
	target = (struct task_struct *)*key;
	guard = guard_of(target);
	if (!guard || guard->tgid == my_tgid())
		return 0;
	return react_to(target, guard, number, request);
}

static __always_inline int react_to_pidfd(struct task_struct *me, __u32 fd, __s32 number)
{
	struct file *file = file_of(me, fd);
	struct inode *inode;
	struct pid *pid;
	struct hlist_node *first;
	struct task_struct *target;
	struct guard *guard;

	if (!file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if (BPF_CORE_READ(inode, i_sb, s_magic) == PIDFS_MAGIC)
		pid = BPF_CORE_READ(inode, i_private);
	else
		pid = BPF_CORE_READ(file, private_data);
	first = BPF_CORE_READ(pid, tasks[0].first);
	if (!first)
		return 0;
	target = (void *)first - bpf_core_field_offset(struct task_struct, pid_links);
	guard = guard_of(target);
	if (!guard || guard->tgid == my_tgid())
		return 0;
	return react_to(target, guard, number, 0);
}

SEC("?tp_btf/sys_enter")
int BPF_PROG(react_enter, struct pt_regs *regs, long number)
{
	struct task_struct *me = bpf_get_current_task_btf();
	__u8 watch = watch_of(me, number);
	struct call call = {};

	if (!(watch & (WATCH_PID_FIRST | WATCH_PID_SECOND | WATCH_PIDFD_FIRST)))
		return 0;
	current_call(&call);
	if (bpf_core_field_exists(me->thread_info.status) && (me->thread_info.status & TS_COMPAT))
		number |= COMPAT;
	if (watch & WATCH_PID_FIRST)
		react_to_number(me, call.first, number, call.first);
	if (watch & WATCH_PID_SECOND)
		react_to_number(me, call.second, number, call.first);
	if (watch & WATCH_PIDFD_FIRST)
		react_to_pidfd(me, call.first, number);
	return 0;
}

SEC("?tp_btf/sys_exit")
int BPF_PROG(react_exit, struct pt_regs *regs, long result)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct file *file;
	struct inode *inode;

	if (!(watch_of(me, call_number(regs)) & WATCH_OPENS) || result < 0 || result > 0x7fffffff)
		return 0;
	file = file_of(me, result);
	if (!file)
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if (BPF_CORE_READ(inode, i_sb, s_magic) == PROC_MAGIC)
		judge_proc_file(file, inode);
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* How protection begins, is inherited and ends; and the iterators by which the agent asks and marks. */
#ifndef GUARD_LIFE_H
#define GUARD_LIFE_H

#include "access.h"

#define EAGAIN 11
#define MAX_LEVELS 4

/* what the agent asks of the iterators; written before each run */
struct request {
	__u32 action;
	__u32 tgid;
	__u32 registration;
	__u32 unused;
	__u64 mm; /* of the process that was marked last, filled in by `mark` */
};

enum action { ACTION_MARK = 1, ACTION_RELEASE = 2, ACTION_LOOK = 3 };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct request);
} request SEC(".maps");

enum trouble { TRACED = 1, SUPERVISED = 2, NO_ROOM = 4 };

/* one record for each thread that `mark` met */
struct found {
	__u64 start; /* start_boottime of the process, ns */
	__u32 tgid;
	__u32 tid;
	__u32 registration;
	__u32 trouble;
	__u32 mounts; /* inode number of its mount namespace */
	__u32 more;
};

/* one record for each handle that `handles` met */
struct handle {
	__u32 holder;
	__u32 fd;
	__u32 vector;
	__u32 unused;
	char name[16];
	char comm[16];
};

/* the number of a task in each pid namespace that sees it */
static __always_inline void keep_numbers(struct task_struct *task, bool keep)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	__u64 key = (__u64)task;

	if (!pid)
		return;
	for (__u32 i = 0; i < MAX_LEVELS; i++) {
		struct upid *upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				    i * bpf_core_type_size(struct upid);
		struct number_key number = {};

		if (i > level)
			break;
		number.space = BPF_CORE_READ(upid, ns, ns.inum);
		number.number = BPF_CORE_READ(upid, nr);
		if (keep)
			bpf_map_update_elem(&numbers, &number, &key, BPF_ANY);
		else
			bpf_map_delete_elem(&numbers, &number);
	}
}

/* a task is being made: nobody knows its number yet, and no file below /proc shows it */
static __always_inline int on_task(struct task_struct *task)
{
	struct guard *mine = guard_of(bpf_get_current_task_btf());
	struct guard guard = { .start = START_UNKNOWN };
	__u64 key = (__u64)task;

	if (!mine)
		return 0;
	guard.registration = mine->registration;
	if (!bpf_map_update_elem(&guarded, &key, &guard, BPF_ANY))
		return 0;
	count(C_FORK_REFUSED); /* better no child than one that is not protected */
	return -EAGAIN;
}

static __always_inline void on_task_freed(struct task_struct *task)
{
	__u64 key = (__u64)task;

	bpf_map_delete_elem(&guarded, &key);
}

SEC("?tp_btf/sched_process_fork")
int BPF_PROG(life_fork, struct task_struct *parent, struct task_struct *child)
{
	__u64 key = (__u64)child;
	struct guard *guard = bpf_map_lookup_elem(&guarded, &key);
	struct guard inherited = {};
	struct config *c;

	if (!guard) {
		/* where no hook saw the task being made (tier `kill`) */
		struct guard *mine = guard_of(parent);

		if (!mine)
			return 0;
		inherited.registration = mine->registration;
		inherited.start = child->start_boottime;
		inherited.tgid = child->tgid;
		bpf_map_update_elem(&guarded, &key, &inherited, BPF_ANY);
		guard = &inherited;
	} else {
		guard->start = child->start_boottime;
		guard->tgid = child->tgid;
	}
	c = configuration();
	if (!c)
		return 0;
	if (c->numbers)
		keep_numbers(child, 1);
	if (c->log_all && child->pid == child->tgid)
		tell(0, NOTED, child, guard, -1, 0, "inherited");
	return 0;
}

SEC("?tp_btf/sched_process_exit")
int BPF_PROG(life_exit, struct task_struct *task)
{
	struct config *c = configuration();

	if (!c)
		return 0;
	if (c->agent_tgid && task->pid == task->tgid && task->tgid == c->agent_tgid)
		c->agent_dead = 1;
	if (c->numbers && guard_of(task))
		keep_numbers(task, 0);
	return 0;
}

SEC("?tp_btf/sched_process_free")
int BPF_PROG(life_free, struct task_struct *task)
{
	on_task_freed(task);
	return 0;
}

/* A pod's first program starts: the agent has its socket there before the second. */
SEC("?tp_btf/sched_process_exec")
int BPF_PROG(life_exec, struct task_struct *task)
{
	__u32 space = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum), known = 1;
	struct config *c;

	if (bpf_map_lookup_elem(&networks, &space))
		return 0;
	c = configuration();
	if (!c || !c->networks)
		return 0;
	bpf_map_update_elem(&networks, &space, &known, BPF_ANY);
	tell(0, NOTED, 0, 0, -1, space, "network");
	return 0;
}

SEC("?tp_btf/cgroup_attach_task")
int BPF_PROG(life_cgroup, struct cgroup *cgroup, const char *path, struct task_struct *task, bool threadgroup)
{
	struct guard *guard = guard_of(task);
	struct call call = {};

	if (!guard || task->pid != task->tgid)
		return 0;
	current_call(&call);
	tell(V_CGROUP, NOTED, task, guard, call.number, 0, path);
	return 0;
}

/* Marks a process, all its threads; or releases it; or only looks. Run for one process (by pidfd). */
SEC("?iter/task")
int iter_mark(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct request *wanted;
	struct guard guard = {}, *known;
	struct found found = {};
	struct seccomp_filter *filter;
	struct config *c;
	__u32 zero = 0;
	__u64 key = (__u64)task;

	if (!task)
		return 0;
	wanted = bpf_map_lookup_elem(&request, &zero);
	c = configuration();
	if (!wanted || !c)
		return 0;
	if (wanted->tgid && task->tgid != wanted->tgid)
		return 0;
	found.start = task->group_leader->start_boottime;
	found.tgid = task->tgid;
	found.tid = task->pid;
	found.mounts = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	if (wanted->tgid && wanted->action == ACTION_MARK) {
		guard.start = task->start_boottime;
		guard.registration = wanted->registration;
		guard.tgid = task->tgid;
		/* one that inherited protection keeps its tree's registration */
		if (!guard_of(task) && bpf_map_update_elem(&guarded, &key, &guard, BPF_ANY))
			found.trouble |= NO_ROOM;
		if (c->numbers)
			keep_numbers(task, 1);
		wanted->mm = (__u64)task->mm;
	} else if (wanted->tgid && wanted->action == ACTION_RELEASE) {
		bpf_map_delete_elem(&guarded, &key);
		if (c->numbers)
			keep_numbers(task, 0);
	}
	known = guard_of(task);
	if (known)
		found.registration = known->registration;
	else if (!wanted->tgid)
		return 0; /* asked for all that are protected */
	if (task->ptrace)
		found.trouble |= TRACED;
	/* a filter whose supervisor answers system calls for it (seccomp user notification) */
	filter = BPF_CORE_READ(task, seccomp.filter);
	for (int i = 0; i < 32 && filter; i++) {
		if (bpf_core_field_exists(filter->notif) && BPF_CORE_READ(filter, notif))
			found.trouble |= SUPERVISED;
		filter = BPF_CORE_READ(filter, prev);
	}
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

/* what the kernel knows of an open file: overlays and subvolumes tell user space another number or device */
struct identity {
	__u64 inode;
	__u64 size;
	__u32 device;
	__u32 fd;
};

/* The file behind descriptor `registration` of process `tgid`, both in `request`. Run for that process. */
SEC("?iter/task_file")
int iter_identity(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct task_struct *task = ctx->task;
	struct identity identity = {};
	struct request *wanted;
	__u32 zero = 0;

	if (!file || !task)
		return 0;
	wanted = bpf_map_lookup_elem(&request, &zero);
	if (!wanted || task->tgid != wanted->tgid || ctx->fd != wanted->registration)
		return 0;
	identity.inode = file->f_inode->i_ino;
	identity.size = file->f_inode->i_size;
	identity.device = file->f_inode->i_sb->s_dev;
	identity.fd = ctx->fd;
	bpf_seq_write(ctx->meta->seq, &identity, sizeof(identity));
	return 0;
}

/* Handles of others on the memory of the process in `request`: files below /proc, perf events, userfaultfd. */
SEC("?iter/task_file")
int iter_handles(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct task_struct *task = ctx->task, *target;
	struct request *wanted;
	struct handle handle = {};
	struct dentry *dentry;
	__u32 zero = 0, magic;

	if (!file || !task)
		return 0;
	wanted = bpf_map_lookup_elem(&request, &zero);
	if (!wanted || !wanted->tgid || task->tgid == wanted->tgid)
		return 0;
	magic = file->f_inode->i_sb->s_magic;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	if (magic == PROC_MAGIC) {
		target = task_of_proc_inode(file->f_inode);
		if (!target || BPF_CORE_READ(target, tgid) != wanted->tgid)
			return 0;
		handle.vector = vector_of_name(dentry, handle.name);
	} else {
		/* anonymous inodes carry their kind as name */
		bpf_probe_read_kernel_str(handle.name, sizeof(handle.name), BPF_CORE_READ(dentry, d_name.name));
		if (IS(handle.name, "[perf_event]")) {
			struct perf_event *event = BPF_CORE_READ(file, private_data);

			target = BPF_CORE_READ(event, hw.target);
			if (!target || BPF_CORE_READ(target, tgid) != wanted->tgid)
				return 0;
			handle.vector = V_PERF;
		} else if (IS(handle.name, "[userfaultfd]")) {
			struct userfaultfd_ctx *fault = BPF_CORE_READ(file, private_data);

			if (!bpf_core_field_exists(fault->mm) || (__u64)BPF_CORE_READ(fault, mm) != wanted->mm)
				return 0;
			handle.vector = 41;
		}
	}
	if (!handle.vector)
		return 0;
	handle.holder = task->tgid;
	handle.fd = ctx->fd;
	bpf_probe_read_kernel(handle.comm, sizeof(handle.comm), &task->comm);
	bpf_seq_write(ctx->meta->seq, &handle, sizeof(handle));
	return 0;
}

#endif

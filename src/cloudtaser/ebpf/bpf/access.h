/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Vectors with a target: an access to a process that is protected, by anyone but itself. */
#ifndef GUARD_ACCESS_H
#define GUARD_ACCESS_H

#include "guard.h"

#define PTRACE_SEIZE 0x4206

/* a container runtime that enters the namespaces of a container: `kubectl exec` */
static __always_inline bool is_runtime(struct config *c)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!c->host_mounts || BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum) != c->host_mounts)
		return 0;
	for (int generation = 0; generation < 4; generation++) {
		struct inode *inode;

		if (trust_in(task) & TRUST_RUNTIME)
			return my_scopes() & SCOPE_RUNTIME;
		/* runc starts its second stage from a sealed copy of itself in memory: its parent is asked */
		inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
		if (!inode || BPF_CORE_READ(inode, i_nlink) || BPF_CORE_READ(inode, i_sb, s_magic) != TMPFS_MAGIC)
			return 0;
		task = BPF_CORE_READ(task, real_parent);
		if (!task)
			return 0;
	}
	return 0;
}

static __always_inline __u32 vector_of_call(struct call *call, __u32 otherwise)
{
	__u32 number = call->number, *vector;

	if (bpf_get_current_task_btf()->flags & PF_IO_WORKER)
		return V_IO_URING;
	vector = bpf_map_lookup_elem(&syscalls, &number);
	if (!vector)
		return otherwise;
	if (*vector == 18 && call->first == PTRACE_SEIZE)
		return 19;
	return *vector;
}

/* ptrace_access_check: attach, process_vm_*, pidfd_getfd, kcmp, links below /proc/PID, namespaces, ... */
static __always_inline int on_access(struct task_struct *child, unsigned int mode)
{
	struct guard *guard;
	struct config *c;
	struct trace *trace;
	struct call call = {};
	__u32 tgid = child->tgid, vector;
	int verdict;

	if (tgid == my_tgid())
		return 0;
	guard = guard_of(child);
	if (!guard)
		return 0;
	c = configuration();
	if (!c)
		return 0;
	if (mode & PTRACE_NOAUDIT)
		return enforces(c, guard) ? -EPERM : 0; /* ps and top ask at each look */
	current_call(&call);
	vector = vector_of_call(&call, V_LINKS);
	if (mode == PTRACE_READ_FSCREDS && is_agent(c))
		return 0; /* links only: it says which executable and which namespaces; files are judged where they are opened */
	if (mode == PTRACE_READ_FSCREDS && is_runtime(c)) {
		count(C_EXEMPT);
		tell(vector, EXEMPT, child, guard, call.number, mode, 0);
		return 0;
	}
	trace = bpf_task_storage_get(&traces, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (trace && trace->told == tgid) {
		trace->told = 0;
		verdict = enforces(c, guard) ? -EPERM : 0;
	} else {
		verdict = refuse(c, vector, child, guard, call.number, mode, 0);
	}
	if (trace && verdict) {
		trace->denied_at = bpf_ktime_get_ns();
		trace->ip = call.ip;
		trace->sp = call.sp;
		trace->syscall = call.number;
	}
	return verdict;
}

/* Newer kernels let CAP_PERFMON (or CAP_SYS_ADMIN) have a look at memory that ptrace_access_check has just refused
 * (mm_access, from about 6.15 on): the same system call gets the same answer. */
static __always_inline int on_capable(int capability)
{
	struct trace *trace;
	struct call call = {};

	if (capability != CAP_PERFMON && capability != CAP_SYS_ADMIN)
		return 0;
	trace = bpf_task_storage_get(&traces, bpf_get_current_task_btf(), 0, 0);
	if (!trace || !trace->denied_at)
		return 0;
	current_call(&call);
	if (call.number != trace->syscall || call.ip != trace->ip || call.sp != trace->sp ||
	    bpf_ktime_get_ns() - trace->denied_at > 10000000000ULL) {
		trace->denied_at = 0;
		return 0;
	}
	count(C_CAPABLE);
	return -EPERM;
}

static __always_inline int on_traceme(struct task_struct *parent)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct guard *guard = guard_of(me);
	struct config *c;
	struct call call = {};

	if (!guard)
		return 0;
	c = configuration();
	if (!c)
		return 0;
	current_call(&call);
	return refuse(c, V_TRACEME, me, guard, call.number, BPF_CORE_READ(parent, tgid), 0);
}

static __always_inline struct task_struct *task_of_proc_inode(struct inode *inode)
{
	struct proc_inode *proc = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);
	struct pid *pid = BPF_CORE_READ(proc, pid);
	struct hlist_node *first;

	if (!pid)
		return 0;
	first = BPF_CORE_READ(pid, tasks[0].first);
	if (!first)
		return 0;
	return (void *)first - bpf_core_field_offset(struct task_struct, pid_links);
}

/* the vector of a file below /proc/PID by its name; 0: anybody may open it (ps, top and monitors do) */
static __always_inline __u32 vector_of_name(struct dentry *dentry, char *name)
{
	__u32 *vector;

	bpf_probe_read_kernel_str(name, 16, BPF_CORE_READ(dentry, d_name.name));
	vector = bpf_map_lookup_elem(&names, name);
	return vector ? *vector : 0;
}

static __always_inline bool below_task_directory(struct dentry *dentry)
{
	char name[8] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dentry, d_parent, d_parent, d_name.name));
	return name[0] == 't' && name[1] == 'a' && name[2] == 's' && name[3] == 'k' && !name[4];
}

static __always_inline int judge_proc_file(struct file *file, struct inode *inode)
{
	struct task_struct *task = task_of_proc_inode(inode);
	struct dentry *dentry;
	struct guard *guard;
	struct config *c;
	struct trace *trace;
	struct call call = {};
	char name[16] = {};
	__u32 tgid, file_vector, vector;

	if (!task)
		return 0;
	tgid = BPF_CORE_READ(task, tgid);
	if (tgid == my_tgid())
		return 0;
	guard = guard_of(task);
	if (!guard)
		return 0;
	dentry = BPF_CORE_READ(file, f_path.dentry);
	file_vector = vector = vector_of_name(dentry, name);
	if (!file_vector)
		return 0;
	c = configuration();
	if (!c)
		return 0;
	if (below_task_directory(dentry))
		vector = V_TASK_DIRECTORY;
	current_call(&call);
	vector = vector_of_call(&call, vector);
	if (!enforces(c, guard)) {
		trace = bpf_task_storage_get(&traces, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (trace)
			trace->told = tgid;
	}
	/* whichever way the file was reached, what it holds decides */
	return refuse_as(c, file_vector, vector, task, guard, call.number, 0, name);
}

/* bind-mounted namespaces and those of unprotected members: by the namespace's own number */
static __always_inline int open_namespace(struct inode *inode)
{
	__u32 number = BPF_CORE_READ(inode, i_ino);
	struct config *c;
	struct call call = {};

	if (!bpf_map_lookup_elem(&namespaces, &number) || guard_of(bpf_get_current_task_btf()))
		return 0;
	c = configuration();
	if (!c || is_agent(c))
		return 0;
	current_call(&call);
	if (is_runtime(c)) {
		count(C_EXEMPT);
		tell(V_NAMESPACES, EXEMPT, 0, 0, call.number, number, 0);
		return 0;
	}
	return refuse(c, V_NAMESPACES, 0, 0, call.number, number, 0);
}

/* mounts inside a namespace of the protected, by a process that came in from outside */
static __always_inline int on_mount(void)
{
	struct task_struct *me = bpf_get_current_task_btf();
	__u32 number = BPF_CORE_READ(me, nsproxy, mnt_ns, ns.inum);
	struct config *c;
	struct call call = {};

	if (!bpf_map_lookup_elem(&namespaces, &number) || guard_of(me))
		return 0;
	c = configuration();
	if (!c || is_agent(c))
		return 0;
	current_call(&call);
	return refuse(c, V_NAMESPACES, 0, 0, call.number, number, 0);
}

static __always_inline bool first_of_its_namespace(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct upid *upid;

	if (!level || level > 32)
		return 0;
	upid = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid);
	return BPF_CORE_READ(upid, nr) == 1;
}

static __always_inline bool runs_node(struct task_struct *task)
{
	char name[8] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name));
	return name[0] == 'n' && name[1] == 'o' && name[2] == 'd' && name[3] == 'e' &&
	       (!name[4] || (name[4] == 'j' && name[5] == 's' && !name[6]));
}

#define SIGNAL(number) (1ULL << (number))
/* QUIT ILL TRAP ABRT BUS FPE SEGV XCPU XFSZ SYS: a core, or a JVM's dump of its threads */
#define CORE_SIGNALS                                                                                            \
	(SIGNAL(3) | SIGNAL(4) | SIGNAL(5) | SIGNAL(6) | SIGNAL(7) | SIGNAL(8) | SIGNAL(11) | SIGNAL(24) | SIGNAL(25) | \
	 SIGNAL(31))
#define SIGUSR1 10

static __always_inline int on_signal(struct task_struct *target, int signal)
{
	struct guard *guard;
	struct config *c;
	struct call call = {};

	if (signal <= 0 || target->tgid == my_tgid())
		return 0;
	guard = guard_of(target);
	if (!guard)
		return 0;
	if (signal > 31 || !((CORE_SIGNALS | SIGNAL(SIGUSR1)) >> signal & 1))
		return 0;
	if (signal == SIGUSR1 && !runs_node(target))
		return 0;
	if (same_tree(guard) || first_of_its_namespace(target))
		return 0;
	c = configuration();
	if (!c)
		return 0;
	current_call(&call);
	return refuse(c, V_SIGNAL, target, guard, call.number, signal, 0);
}

/* a target's limits or pages, by another process of another tree */
static __always_inline int on_tuning(struct task_struct *target, __u32 vector, __u64 argument)
{
	struct guard *guard;
	struct config *c;
	struct call call = {};

	if (target->tgid == my_tgid())
		return 0;
	guard = guard_of(target);
	if (!guard || same_tree(guard))
		return 0;
	c = configuration();
	if (!c)
		return 0;
	current_call(&call);
	return refuse(c, vector, target, guard, call.number, argument, 0);
}

/* a core of a protected process: marked where it begins, ended where it asks for credentials */
static __always_inline int on_dump(void)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct trace *trace;

	if (!guard_of(me))
		return 0;
	trace = bpf_task_storage_get(&traces, me, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (trace)
		trace->dumping = 1;
	return 0;
}

static __always_inline int on_credentials(void)
{
	struct task_struct *me = bpf_get_current_task_btf();
	struct trace *trace = bpf_task_storage_get(&traces, me, 0, 0);
	struct config *c;

	if (!trace || !trace->dumping)
		return 0;
	trace->dumping = 0;
	c = configuration();
	if (!c)
		return 0;
	/* told as denied even where offenders are killed: the process is dying already, and of its own signal */
	tell(V_CORE, c->mode == MODE_ENFORCE ? DENIED : DETECTED, me, guard_of(me), -1, 0, 0);
	return c->mode == MODE_ENFORCE ? -EPERM : 0;
}

#endif

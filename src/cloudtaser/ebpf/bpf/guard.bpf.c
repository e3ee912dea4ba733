/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Nobody else reads a protected process, root included (docs/ebpf.md).
 *
 * One object for every kernel with BTF: which programs are loaded is the agent's choice (ebpf/tiers.py). The same
 * decision hangs on an LSM hook (`lsm_*`) or, where `bpf` is not among the active LSMs, on the function that calls all
 * of them (`mod_*`). Nothing here loops over data, allocates, or sleeps.
 */
#include "guard.h"
#include "access.h"
#include "subject.h"
#include "self.h"
#include "life.h"
#include "react.h"

/* never read: so that the object tells the layout of what crosses to the agent (tests/unit/ebpf/test_layout.py) */
struct shared {
	struct event event;
	struct found found;
	struct handle handle;
	struct identity identity;
	enum verdict verdict;
	enum mode mode;
	enum scope scope;
	enum trust trust;
	enum trouble trouble;
	enum action action;
	enum counter counter;
};
const volatile struct shared shared SEC(".rodata.types") = {};

char LICENSE[] SEC("license") = "GPL";

/* The decision at an LSM hook, and at the function of the kernel that asks all LSMs. `ret` is what a program before us
 * answered. */
#define HOOK(hook, function, decision, ...)                                                    \
	SEC("?lsm/" #hook)                                                                     \
	int BPF_PROG(lsm_##hook, __VA_ARGS__, int ret) { return ret ? ret : (decision); }      \
	SEC("?fmod_ret/" #function)                                                            \
	int BPF_PROG(mod_##hook, __VA_ARGS__, int ret) { return ret ? ret : (decision); }

/* the same for functions that have gained arguments over time, so that `ret` has no fixed place */
#define HOOK_GROWN(name, hook, function, decision, ...)                        \
	SEC("?lsm/" #hook)                                                     \
	int BPF_PROG(lsm_##name, __VA_ARGS__) { return (decision); }           \
	SEC("?fmod_ret/" #function)                                            \
	int BPF_PROG(mod_##name, __VA_ARGS__) { return (decision); }

/* An ordinary file is let go after its file system's kind and its own are looked at: no map is asked. */
static __always_inline int on_open(struct file *file)
{
	struct inode *inode = file->f_inode;
	unsigned long magic = inode->i_sb->s_magic;

	if (magic == PROC_MAGIC) {
		struct proc_inode *proc = (void *)inode - bpf_core_field_offset(struct proc_inode, vfs_inode);

		return BPF_CORE_READ(proc, pid) ? judge_proc_file(file, inode) : open_kernel_file(file);
	}
	if ((inode->i_mode & S_IFMT) == S_IFCHR && inode->i_rdev >> 20 == 1)
		return open_memory_device(file, inode->i_rdev & 0xfffff);
	if (magic == NSFS_MAGIC)
		return open_namespace(inode);
	if (magic == CGROUP2_MAGIC)
		return open_cgroup_file(file);
	return 0;
}

static __always_inline int on_kill(struct task_struct *target, int signal)
{
	int verdict = on_signal(target, signal);

	return verdict ? verdict : on_agent_signal(target, signal);
}

HOOK(file_open, security_file_open, on_open(file), struct file *file)
HOOK(ptrace_access_check, security_ptrace_access_check, on_access(child, mode), struct task_struct *child,
     unsigned int mode)
HOOK(ptrace_traceme, security_ptrace_traceme, on_traceme(parent), struct task_struct *parent)
HOOK(capable, security_capable, on_capable(capability), const struct cred *cred, struct user_namespace *ns,
     int capability, unsigned int options)
HOOK(task_kill, security_task_kill, on_kill(target, signal), struct task_struct *target, struct kernel_siginfo *info,
     int signal, const struct cred *cred)
HOOK(task_movememory, security_task_movememory, on_tuning(target, V_MOVE_MEMORY, 0), struct task_struct *target)
HOOK(task_setrlimit, security_task_setrlimit, on_tuning(target, V_RLIMIT, resource), struct task_struct *target,
     unsigned int resource, struct rlimit *limit)
HOOK(perf_event_alloc, security_perf_event_alloc, on_perf_event(event), struct perf_event *event)
HOOK(cred_prepare, security_prepare_creds, on_credentials(), struct cred *made, const struct cred *old, unsigned int gfp)
HOOK(sb_mount, security_sb_mount, on_mount(), const char *device, const struct path *path, const char *type,
     unsigned long flags, void *data)
HOOK(move_mount, security_move_mount, on_mount(), const struct path *from, const struct path *to)
HOOK(task_alloc, security_task_alloc, on_task(task), struct task_struct *task, unsigned long flags)
HOOK(userns_create, security_create_user_ns, refuse_subject(V_USER_NAMESPACES, 0, 0), const struct cred *cred)
HOOK(locked_down, security_locked_down, on_lockdown(reason), unsigned int reason)
HOOK(sb_umount, security_sb_umount, on_unmount(mount), struct vfsmount *mount, int flags)
HOOK(path_notify, security_path_notify, on_watch(mask), const struct path *path, __u64 mask, unsigned int kind)
HOOK(inode_unlink, security_inode_unlink, on_removal(directory, dentry), struct inode *directory, struct dentry *dentry)
HOOK(inode_rmdir, security_inode_rmdir, on_removal(directory, dentry), struct inode *directory, struct dentry *dentry)

HOOK_GROWN(kernel_read_file, kernel_read_file, security_kernel_read_file, on_kernel_file(id), struct file *file,
	   unsigned int id)
HOOK_GROWN(kernel_load_data, kernel_load_data, security_kernel_load_data, on_kernel_data(id), unsigned int id)
HOOK_GROWN(inode_rename, inode_rename, security_inode_rename,
	   on_removal(directory, dentry) ?: on_removal(target_directory, target), struct inode *directory,
	   struct dentry *dentry, struct inode *target_directory, struct dentry *target)
HOOK_GROWN(bpf_map, bpf_map, security_bpf_map, on_own(BPF_CORE_READ(map, id), OWN_MAP), struct bpf_map *map)
HOOK_GROWN(bpf_prog, bpf_prog, security_bpf_prog, on_own(BPF_CORE_READ(prog, aux, id), OWN_PROGRAM),
	   struct bpf_prog *prog)
HOOK_GROWN(bpf_call, bpf, security_bpf, on_bpf_call(command, attr), int command, union bpf_attr *attr)
HOOK_GROWN(bpf_prog_load, bpf_prog_load, security_bpf_prog_load, on_foreign_program(BPF_CORE_READ(prog, type)),
	   struct bpf_prog *prog)

/* before bpf_prog_load had a hook (6.9): by the attributes, of which the kernel has made a copy */
static __always_inline int on_bpf_load(int command, union bpf_attr *attr)
{
	__u32 type = 0;

	if (command != BPF_PROG_LOAD)
		return 0;
	bpf_probe_read_kernel(&type, sizeof(type), &attr->prog_type);
	return on_foreign_program(type);
}
HOOK_GROWN(bpf_load, bpf, security_bpf, on_bpf_load(command, attr), int command, union bpf_attr *attr)

/* a task whose making failed: no tracepoint tells of it */
SEC("?lsm/task_free")
int BPF_PROG(lsm_task_free, struct task_struct *task)
{
	on_task_freed(task);
	return 0;
}

SEC("?fmod_ret/security_task_free")
int BPF_PROG(mod_task_free, struct task_struct *task)
{
	on_task_freed(task);
	return 0;
}

/* renamed in 6.17 */
SEC("?fentry/vfs_coredump")
int BPF_PROG(dump_vfs_coredump)
{
	return on_dump();
}

SEC("?fentry/do_coredump")
int BPF_PROG(dump_do_coredump)
{
	return on_dump();
}

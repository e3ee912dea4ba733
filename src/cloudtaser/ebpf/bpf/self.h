/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The agent and what is its own: maps, programs, links, pins, socket, life. */
#ifndef GUARD_SELF_H
#define GUARD_SELF_H

#include "access.h"

#define FIXED_ITSELF 1
#define FIXED_CHILDREN 2

/* Who may take over from a dead agent: root, with the very executable that the agent ran, or anything of root's while
 * an agent that was stopped in good order has left the door open for its successor (an upgrade). Each is an event. */
static __always_inline bool is_heir(struct config *c)
{
	struct inode *inode;

	if ((c->agent_tgid && !c->agent_dead) || (__u32)bpf_get_current_uid_gid())
		return 0;
	if (bpf_ktime_get_ns() < c->open_until)
		return 1;
	inode = BPF_CORE_READ(bpf_get_current_task_btf(), mm, exe_file, f_inode);
	return inode && BPF_CORE_READ(inode, i_ino) == c->agent_inode &&
	       BPF_CORE_READ(inode, i_sb, s_dev) == c->agent_device;
}

static __always_inline int on_own(__u64 key, __u64 kind)
{
	struct config *c;
	struct call call = {};

	key |= kind;
	if (!bpf_map_lookup_elem(&own, &key))
		return 0;
	c = configuration();
	if (!c || is_agent(c))
		return 0;
	current_call(&call);
	if (is_heir(c)) {
		tell(V_AGENT, NOTED, 0, 0, call.number, key, "succession");
		return 0;
	}
	return refuse(c, V_OWN_OBJECTS, 0, 0, call.number, key, 0);
}

static __always_inline int on_bpf_call(int command, union bpf_attr *attr)
{
	__u32 id = 0;

	if (command != BPF_LINK_GET_FD_BY_ID)
		return 0;
	bpf_probe_read_kernel(&id, sizeof(id), &attr->link_id);
	return on_own(id, OWN_LINK);
}

static __always_inline bool is_fixed(struct inode *inode, __u32 as)
{
	struct inode_key key;
	__u32 *how;

	if (!inode)
		return 0;
	inode_key_of(inode, &key);
	how = bpf_map_lookup_elem(&fixed, &key);
	return how && (*how & as);
}

static __always_inline int on_removal(struct inode *directory, struct dentry *dentry)
{
	struct config *c;
	struct call call = {};

	if (!is_fixed(directory, FIXED_CHILDREN) && !is_fixed(BPF_CORE_READ(dentry, d_inode), FIXED_ITSELF))
		return 0;
	c = configuration();
	if (!c || is_agent(c))
		return 0;
	current_call(&call);
	return refuse(c, BPF_CORE_READ(directory, i_sb, s_magic) == BPFFS_MAGIC ? V_OWN_PINS : V_AGENT, 0, 0, call.number,
		      0, BPF_CORE_READ(dentry, d_name.name));
}

static __always_inline int on_unmount(struct vfsmount *mount)
{
	struct super_block *sb = mount->mnt_sb;
	struct config *c;
	struct call call = {};

	if (BPF_CORE_READ(sb, s_magic) != BPFFS_MAGIC)
		return 0;
	c = configuration();
	if (!c || !c->pins_device || BPF_CORE_READ(sb, s_dev) != c->pins_device || is_agent(c))
		return 0;
	current_call(&call);
	return refuse(c, V_OWN_PINS, 0, 0, call.number, 0, 0);
}

/* who looks after the agent: the first process, its parent (a runtime's shim), a runtime by its executable */
static __always_inline bool is_keeper(struct config *c, struct task_struct *agent)
{
	__u32 me = my_tgid();

	if (me == 1 || is_agent(c))
		return 1;
	if (agent && BPF_CORE_READ(agent, group_leader, real_parent, tgid) == me)
		return 1;
	return is_runtime(c);
}

/* CHLD, CONT, URG, WINCH neither end nor stop it */
#define HARMLESS_SIGNALS (SIGNAL(17) | SIGNAL(18) | SIGNAL(23) | SIGNAL(28))

static __always_inline int on_agent_signal(struct task_struct *target, int signal)
{
	struct config *c;
	struct call call = {};

	if (signal <= 0 || signal > 63 || (HARMLESS_SIGNALS >> signal & 1))
		return 0;
	c = configuration();
	if (!c || !c->agent_tgid || c->agent_dead || target->tgid != c->agent_tgid || is_keeper(c, target))
		return 0;
	current_call(&call);
	return refuse(c, V_AGENT, target, 0, call.number, signal, 0);
}

/* cgroup.freeze and cgroup.kill of the agent's cgroup and of those around it */
static __noinline int open_cgroup_file(struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	__u64 id = BPF_CORE_READ(dentry, d_parent, d_inode, i_ino);
	char name[16] = {};
	struct config *c;
	struct call call = {};
	__u32 *scope;

	if (!(BPF_CORE_READ(file, f_mode) & FMODE_WRITE))
		return 0;
	scope = bpf_map_lookup_elem(&scopes, &id);
	if (!scope || !(*scope & SCOPE_AGENT))
		return 0;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dentry, d_name.name));
	if (!IS(name, "cgroup.freeze") && !IS(name, "cgroup.kill"))
		return 0;
	c = configuration();
	if (!c || !c->agent_tgid || c->agent_dead || is_keeper(c, 0))
		return 0;
	current_call(&call);
	return refuse(c, V_AGENT, 0, 0, call.number, 0, name);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Vectors without a target: ways to the whole machine, refused to subjects by policy (pods, or everyone). */
#ifndef GUARD_SUBJECT_H
#define GUARD_SUBJECT_H

#include "access.h"

static __always_inline bool bound(struct config *c)
{
	if (is_agent(c))
		return 0;
	return c->everyone || (my_scopes() & SCOPE_SUBJECT);
}

static __always_inline int refuse_subject(__u32 vector, __u64 argument, const void *name)
{
	struct config *c = configuration();
	struct call call = {};

	if (!c || !bound(c))
		return 0;
	current_call(&call);
	return refuse(c, vector, 0, 0, call.number, argument, name);
}

/* files of /proc that belong to no process */
static __noinline int open_kernel_file(struct file *file)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dentry, d_name.name));
	if (IS(name, "kcore") || IS(name, "kallsyms") || IS(name, "sysrq-trigger") || IS(name, "vmcore") ||
	    IS(name, "kpagecount") || IS(name, "kpageflags"))
		return refuse_subject(V_KERNEL_MEMORY, 0, name);
	if (IS(name, "core_pattern") && (BPF_CORE_READ(file, f_mode) & FMODE_WRITE))
		return refuse_subject(V_CORE, 0, name);
	return 0;
}

/* mem, kmem, port */
static __always_inline int open_memory_device(struct file *file, __u32 minor)
{
	if (minor != 1 && minor != 2 && minor != 4)
		return 0;
	return refuse_subject(V_KERNEL_MEMORY, minor, BPF_CORE_READ(file, f_path.dentry, d_name.name));
}

/* user stack or registers of every process on a CPU */
#define PERF_SAMPLE_REGS_USER (1U << 12)
#define PERF_SAMPLE_STACK_USER (1U << 13)

/* types of the PMUs that place a probe (kprobe, uprobe), as this kernel numbers them; filled in before the load */
const volatile __u32 probe_types[2] SEC(".rodata.probes") = {};

static __always_inline bool places_probe(__u32 type)
{
	return type && (type == probe_types[0] || type == probe_types[1]);
}

static __always_inline int on_perf_event(struct perf_event *event)
{
	struct task_struct *target = event->hw.target;

	if (target) {
		struct guard *guard;
		struct config *c;
		struct call call = {};

		if (BPF_CORE_READ(target, tgid) == my_tgid())
			return 0;
		guard = guard_of(target);
		c = guard ? configuration() : 0;
		if (!c)
			return 0;
		current_call(&call);
		return refuse(c, V_PERF, target, guard, call.number, 0, 0);
	}
	if (event->attr.sample_type & (PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER))
		return refuse_subject(V_PERF, 0, 0);
	if (places_probe(event->attr.type) && !(trust_in(bpf_get_current_task_btf()) & TRUST_TRACER))
		return refuse_subject(V_FOREIGN_BPF, event->attr.type, 0);
	return 0;
}

static __always_inline bool reads_memory(__u32 type)
{
	return type == BPF_PROG_TYPE_KPROBE || type == BPF_PROG_TYPE_TRACEPOINT || type == BPF_PROG_TYPE_PERF_EVENT ||
	       type == BPF_PROG_TYPE_RAW_TRACEPOINT || type == BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE ||
	       type == BPF_PROG_TYPE_TRACING || type == BPF_PROG_TYPE_LSM || type == BPF_PROG_TYPE_EXT ||
	       type == BPF_PROG_TYPE_SYSCALL;
}

static __always_inline int on_foreign_program(__u32 type)
{
	if (!reads_memory(type) || (trust_in(bpf_get_current_task_btf()) & TRUST_TRACER))
		return 0;
	return refuse_subject(V_FOREIGN_BPF, type, 0);
}

/* FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM, FAN_PRE_ACCESS: whoever is asked holds up who opens or reads */
#define PERMISSION_EVENTS 0x170000ULL

static __always_inline int on_watch(__u64 mask)
{
	if (!(mask & PERMISSION_EVENTS))
		return 0;
	return refuse_subject(V_WATCHERS, mask, 0);
}

static __always_inline int on_kernel_file(__u32 id)
{
	if (id == bpf_core_enum_value(enum kernel_read_file_id, READING_MODULE))
		return refuse_subject(V_MODULES, id, 0);
	if (id == bpf_core_enum_value(enum kernel_read_file_id, READING_KEXEC_IMAGE) ||
	    id == bpf_core_enum_value(enum kernel_read_file_id, READING_KEXEC_INITRAMFS))
		return refuse_subject(V_KEXEC, id, 0);
	return 0;
}

static __always_inline int on_kernel_data(__u32 id)
{
	if (id == bpf_core_enum_value(enum kernel_load_data_id, LOADING_MODULE))
		return refuse_subject(V_MODULES, id, 0);
	if (id == bpf_core_enum_value(enum kernel_load_data_id, LOADING_KEXEC_IMAGE) ||
	    id == bpf_core_enum_value(enum kernel_load_data_id, LOADING_KEXEC_INITRAMFS))
		return refuse_subject(V_KEXEC, id, 0);
	return 0;
}

static __always_inline int on_lockdown(__u32 reason)
{
	if (reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_DEV_MEM) ||
	    reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_KCORE))
		return refuse_subject(V_KERNEL_MEMORY, reason, 0);
	if (reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_KEXEC) ||
	    reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_HIBERNATION))
		return refuse_subject(V_KEXEC, reason, 0);
	if (reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_KPROBES) ||
	    reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_TRACEFS) ||
	    reason == bpf_core_enum_value(enum lockdown_reason, LOCKDOWN_BPF_WRITE_USER)) {
		if (trust_in(bpf_get_current_task_btf()) & TRUST_TRACER)
			return 0;
		return refuse_subject(V_FOREIGN_BPF, reason, 0);
	}
	return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What all parts share: who is protected, who may, what is told.
 *
 * A process is known by its task's address, entered when the task is made (before its number exists) and removed when
 * it is freed, with the start time as a second proof: a reused address or number belongs to a task that started later.
 * The maps, and the layouts of `config`, `request`, `event` and `found`, are mirrored in ebpf/layout.py.
 */
#ifndef GUARD_GUARD_H
#define GUARD_GUARD_H

#include "kernel.h"

#define MAX_GUARDED 262144
#define START_UNKNOWN (~0ULL)
#define NS_PER_TICK 10000000ULL /* USER_HZ is 100 on every architecture of ours */

enum verdict { DENIED = 1, KILLED = 2, DETECTED = 3, EXEMPT = 4, NOTED = 5 };
enum mode { MODE_DETECT = 0, MODE_ENFORCE = 1 };
enum scope { SCOPE_SUBJECT = 1, SCOPE_RUNTIME = 2, SCOPE_AGENT = 4 };
enum trust { TRUST_RUNTIME = 1, TRUST_TRACER = 2, TRUST_AGENT = 4 };

/* vectors by number, as in ebpf/vectors.py; those of files and system calls come from the maps `names`, `syscalls` */
enum vector {
	V_TASK_DIRECTORY = 13,
	V_LINKS = 17,
	V_TRACEME = 20,
	V_PERF = 28,
	V_RLIMIT = 29,
	V_SIGNAL = 30,
	V_CORE = 31,
	V_NAMESPACES = 32,
	V_IO_URING = 33,
	V_OWN_OBJECTS = 35,
	V_OWN_PINS = 36,
	V_FOREIGN_BPF = 37,
	V_MODULES = 38,
	V_KEXEC = 39,
	V_KERNEL_MEMORY = 40,
	V_WATCHERS = 41,
	V_USER_NAMESPACES = 42,
	V_AGENT = 43,
	V_CGROUP = 44,
	V_MOVE_MEMORY = 26,
};

struct guard {
	__u64 start; /* start_boottime in ns; START_UNKNOWN while the task is being made */
	__u32 registration;
	__u32 tgid;
};

struct config {
	__u32 mode;
	__u32 kills;       /* the kernel cannot deny: a bit for each vector below 32 whose offender SIGKILL ends; 0: it can */
	__u32 everyone;    /* vectors without a target bind every subject, not only those in a scope */
	__u32 log_all;     /* tell of every child that inherits protection */
	__u32 agent_tgid;  /* 0: none lives */
	__u32 agent_dead;
	__u64 agent_start; /* clock ticks, as in /proc/PID/stat */
	__u64 agent_inode; /* of the agent's executable: who may succeed a dead agent */
	__u32 agent_device;
	__u32 host_mounts; /* inode number of the host's mount namespace */
	__u64 open_until;  /* ktime in ns up to which any root process may succeed a dead agent */
	__u32 numbers;     /* keep the map of process numbers (only the tier `kill` needs it) */
	__u32 pins_device; /* of the file system that holds the pins */
	__u32 networks;    /* tell of each network namespace in which a first program starts */
	__u32 unused;
};

struct inode_key {
	__u64 inode;
	__u32 device;
	__u32 unused;
};

struct number_key {
	__u32 space; /* inode number of the pid namespace */
	__u32 number;
};

struct trusted {
	__u64 size; /* bytes, as measured with the digest */
	__u32 trust;
	__u32 unused;
};

struct event {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 cgroup;
	__u32 vector;
	__u32 verdict;
	__s32 syscall;
	__u32 source_tgid;
	__u32 source_tid;
	__u32 source_uid;
	__u32 target_tgid;
	__u32 registration;
	__u64 argument;
	char source_comm[16];
	char target_comm[16];
	char source_exe[32]; /* the last part of its path: the process may be gone when the event is read */
	char name[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GUARDED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct guard);
} guarded SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_GUARDED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct number_key);
	__type(value, __u64);
} numbers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

/* names below /proc/PID that are refused, and their vectors */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, char[16]);
	__type(value, __u32);
} names SEC(".maps");

/* system call numbers of this machine, and the vectors that they are */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} syscalls SEC(".maps");

/* namespaces (by inode number) that protected processes have to themselves */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} namespaces SEC(".maps");

/* network namespaces that the agent has been told of */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} networks SEC(".maps");

/* executables measured by the agent, and what they may */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct inode_key);
	__type(value, struct trusted);
} executables SEC(".maps");

/* cgroups by id: whose processes vectors without a target bind, the runtime's, the agent's */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} scopes SEC(".maps");

/* ids of our own maps (OWN_MAP), programs (OWN_PROGRAM) and links (OWN_LINK) in the upper half of the key */
#define OWN_MAP (1ULL << 32)
#define OWN_PROGRAM (2ULL << 32)
#define OWN_LINK (3ULL << 32)
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2048);
	__type(key, __u64);
	__type(value, __u32);
} own SEC(".maps");

/* inodes nobody but the agent removes or renames: the pins, their folders, the agent's socket */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct inode_key);
	__type(value, __u32);
} fixed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

enum counter { C_LOST = 0, C_FORK_REFUSED = 1, C_CAPABLE = 2, C_EXEMPT = 3, COUNTERS = 8 };
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* what is remembered of a task between two hooks of one system call */
struct trace {
	__u64 denied_at; /* ktime in ns of the last refusal of ptrace_access_check */
	__u64 ip, sp;    /* where in the program that was */
	__s32 syscall;
	__u32 told;      /* tgid whose file's opening was told a moment ago, so that its access check is not told again */
	__u32 dumping;
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct trace);
} traces SEC(".maps");

/* `literal` with its closing zero; `name` has room for it */
#define IS(name, literal) is_same(name, literal, sizeof(literal))

static __always_inline bool is_same(const char *name, const char *literal, unsigned int size)
{
#pragma unroll
	for (unsigned int i = 0; i < 16; i++)
		if (i < size && name[i] != literal[i])
			return 0;
	return 1;
}

static __always_inline struct config *configuration(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline void count(__u32 which)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline __u32 my_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline struct guard *guard_of(struct task_struct *task)
{
	__u64 key = (__u64)task;
	struct guard *guard;

	if (!key)
		return 0;
	guard = bpf_map_lookup_elem(&guarded, &key);
	/* exec by a thread gives it its leader's earlier start; only a reused address has a later one */
	if (guard && BPF_CORE_READ(task, start_boottime) > guard->start)
		return 0;
	return guard;
}

static __always_inline bool same_tree(struct guard *guard)
{
	struct guard *mine = guard_of(bpf_get_current_task_btf());

	return mine && mine->registration == guard->registration;
}

static __always_inline bool is_agent(struct config *c)
{
	if (!c->agent_tgid || c->agent_dead || my_tgid() != c->agent_tgid)
		return 0;
	struct task_struct *leader = BPF_CORE_READ(bpf_get_current_task_btf(), group_leader);

	return BPF_CORE_READ(leader, start_boottime) / NS_PER_TICK == c->agent_start;
}

static __always_inline void inode_key_of(struct inode *inode, struct inode_key *key)
{
	key->inode = BPF_CORE_READ(inode, i_ino);
	key->device = BPF_CORE_READ(inode, i_sb, s_dev);
	key->unused = 0;
}

static __always_inline __u32 trust_in(struct task_struct *task)
{
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	struct inode_key key;
	struct trusted *entry;

	if (!inode)
		return 0;
	inode_key_of(inode, &key);
	entry = bpf_map_lookup_elem(&executables, &key);
	if (!entry || (__u64)BPF_CORE_READ(inode, i_size) != entry->size)
		return 0;
	return entry->trust;
}

/* the union of the scopes of the cgroups that hold this process */
static __always_inline __u32 my_scopes(void)
{
	__u32 found = 0;

	for (int level = 0; level < 8; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);
		__u32 *scope;

		if (!id)
			break;
		scope = bpf_map_lookup_elem(&scopes, &id);
		if (scope)
			found |= *scope;
	}
	return found;
}

struct call {
	__s32 number;
	__u64 first, second, ip, sp;
};

/* only its number, from registers that the verifier knows the type of */
static __always_inline __u64 call_number(struct pt_regs *regs)
{
	struct pt_regs___x86 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm = (void *)regs;

	if (bpf_core_field_exists(x86->orig_ax))
		return x86->orig_ax;
	if (bpf_core_field_exists(arm->syscallno))
		return (__u32)arm->syscallno;
	return ~0ULL;
}

static __always_inline void current_call(struct call *call)
{
	void *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct pt_regs___x86 *x86 = regs;
	struct pt_regs___arm64 *arm = regs;

	if (bpf_core_field_exists(x86->orig_ax)) {
		call->number = BPF_CORE_READ(x86, orig_ax);
		call->first = BPF_CORE_READ(x86, di);
		call->second = BPF_CORE_READ(x86, si);
		call->ip = BPF_CORE_READ(x86, ip);
		call->sp = BPF_CORE_READ(x86, sp);
	} else if (bpf_core_field_exists(arm->syscallno)) {
		call->number = BPF_CORE_READ(arm, syscallno);
		call->first = BPF_CORE_READ(arm, orig_x0);
		call->second = BPF_CORE_READ(arm, regs[1]);
		call->ip = BPF_CORE_READ(arm, pc);
		call->sp = BPF_CORE_READ(arm, sp);
	}
}

static __always_inline void tell(__u32 vector, __u32 verdict, struct task_struct *target, struct guard *guard,
				 __s32 number, __u64 argument, const void *name)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 ids = bpf_get_current_pid_tgid();

	if (!e) {
		count(C_LOST);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->cgroup = bpf_get_current_cgroup_id();
	e->vector = vector;
	e->verdict = verdict;
	e->syscall = number;
	e->source_tgid = ids >> 32;
	e->source_tid = (__u32)ids;
	e->source_uid = (__u32)bpf_get_current_uid_gid();
	e->argument = argument;
	bpf_get_current_comm(e->source_comm, sizeof(e->source_comm));
	bpf_probe_read_kernel_str(e->source_exe, sizeof(e->source_exe),
				  BPF_CORE_READ(bpf_get_current_task_btf(), mm, exe_file, f_path.dentry, d_name.name));
	if (target) {
		e->target_tgid = BPF_CORE_READ(target, tgid);
		bpf_probe_read_kernel(e->target_comm, sizeof(e->target_comm), &target->comm);
	}
	if (guard)
		e->registration = guard->registration;
	if (name)
		bpf_probe_read_kernel_str(e->name, sizeof(e->name), name);
	bpf_ringbuf_submit(e, 0);
}

/* the dummy process of the agent's self-test is defended in every mode; where that means a kill, from the agent's own
 * attackers only */
#define SELF_TEST 0xffffffffU

static __always_inline bool enforces(struct config *c, struct guard *guard)
{
	if (c->mode == MODE_ENFORCE)
		return 1;
	if (!guard || guard->registration != SELF_TEST)
		return 0;
	return !c->kills || BPF_CORE_READ(bpf_get_current_task_btf(), real_parent, tgid) == c->agent_tgid;
}

/* where nothing can be denied, only who is about to have contents dies for it; monitors go on (ebpf/vectors.py) */
static __always_inline bool spares(struct config *c, __u32 rule)
{
	return c->kills && (rule > 31 || !(c->kills >> rule & 1));
}

/* tells of an access as `vector`, judges it as `rule`, and gives what the hook returns: -EPERM, or 0 where it is only
 * to be seen */
static __always_inline int refuse_as(struct config *c, __u32 rule, __u32 vector, struct task_struct *target,
				     struct guard *guard, __s32 number, __u64 argument, const void *name)
{
	if (!enforces(c, guard) || spares(c, rule)) {
		tell(vector, DETECTED, target, guard, number, argument, name);
		return 0;
	}
	if (c->kills) {
		bpf_send_signal(9);
		tell(vector, KILLED, target, guard, number, argument, name);
		return -EPERM;
	}
	tell(vector, DENIED, target, guard, number, argument, name);
	return -EPERM;
}

static __always_inline int refuse(struct config *c, __u32 vector, struct task_struct *target, struct guard *guard,
				  __s32 number, __u64 argument, const void *name)
{
	return refuse_as(c, vector, vector, target, guard, number, argument, name);
}

#endif

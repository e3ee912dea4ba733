/* The kernel itself as the way in: BPF, modules, kexec, memory devices, user namespaces (vectors 37-42). */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A program that calls bpf_probe_read_user, which reads whatever process it runs in. */
static int reader_program(unsigned type)
{
	char license[] = "GPL", log[4096] = "";
	struct bpf_insn code[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 10},
		{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 1, .imm = -8},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 8},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 0},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_probe_read_user},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr request = {
		.prog_type = type, .insn_cnt = sizeof code / sizeof *code, .insns = (unsigned long)code,
		.license = (unsigned long)license, .log_level = 1, .log_size = sizeof log, .log_buf = (unsigned long)log,
	};
	return (int)syscall(SYS_bpf, BPF_PROG_LOAD, &request, sizeof request);
}

static void bpf_load(unsigned type)
{
	if (reader_program(type) < 0)
		failed("bpf");
	succeeded_with("loaded");
}

static void bpf_raw_tracepoint(const struct target *t) { (void)t; bpf_load(BPF_PROG_TYPE_RAW_TRACEPOINT); }
static void bpf_kprobe(const struct target *t) { (void)t; bpf_load(BPF_PROG_TYPE_KPROBE); }
static void bpf_perf_event(const struct target *t) { (void)t; bpf_load(BPF_PROG_TYPE_PERF_EVENT); }

/* A map and a program that cannot read memory: those of network plugins go on. */
static void bpf_harmless(const struct target *t)
{
	(void)t;
	char license[] = "GPL";
	struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0}, {.code = BPF_JMP | BPF_EXIT}};
	union bpf_attr program = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (unsigned long)code,
		.license = (unsigned long)license};
	union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	if (syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program) < 0)
		failed("program");
	if (syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map) < 0)
		failed("map");
	succeeded_with("loaded");
}

/* A breakpoint of the kernel's in a program's file, by perf's own probe type. `extra`: the file. */
static void uprobe_perf(const struct target *t)
{
	char text[16] = "";
	int file = open("/sys/bus/event_source/devices/uprobe/type", O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, text, 15) <= 0)
		failed("open");
	struct perf_event_attr event = {
		.type = (unsigned)atoi(text), .size = sizeof event, .uprobe_path = (unsigned long)t->extra,
		.probe_offset = 0x1000};
	if (syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC) < 0)
		failed("perf_event_open");
	succeeded_with("placed");
}

static void uprobe_tracefs(const struct target *t)
{
	char text[256];
	int file = open("/sys/kernel/tracing/uprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC);
	if (file < 0)
		failed("open");
	int length = snprintf(text, sizeof text, "p:attack/probe_%d %s:0x1000\n", getpid(), t->extra);
	if (write(file, text, (size_t)length) != length)
		failed("write");
	length = snprintf(text, sizeof text, "-:attack/probe_%d\n", getpid());
	if (write(file, text, (size_t)length) != length)
		failed("remove");
	succeeded_with("placed");
}

/* `extra`: a module's file. EEXIST, from a module that is there already, comes after the permission to load. */
static void module_file(const struct target *t)
{
	int file = open(t->extra, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		failed("open");
	if (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
		failed("finit_module");
	succeeded_with("loaded");
}

static void module_bytes(const struct target *t)
{
	static char content[4 << 20];
	int file = open(t->extra, O_RDONLY | O_CLOEXEC);
	ssize_t got, length = 0;
	while (file >= 0 && (got = read(file, content + length, sizeof content - (size_t)length)) > 0)
		length += got;
	if (length <= 0)
		failed("open");
	if (syscall(SYS_init_module, content, length, "") && errno != EEXIST)
		failed("init_module");
	succeeded_with("loaded");
}

/* No segments: asks for nothing but the permission. */
static void kexec(const struct target *t)
{
	(void)t;
	if (syscall(SYS_kexec_load, 0, 0, NULL, 0))
		failed("kexec_load");
	succeeded_with("loaded");
}

/* `extra`: a kernel. ENOEXEC, from a file that is none, comes after the permission to read it as one. */
static void kexec_file(const struct target *t)
{
	int file = open(t->extra, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		failed("open");
	if (syscall(SYS_kexec_file_load, file, -1, 1, "", 4 /* KEXEC_FILE_NO_INITRAMFS */) && errno != ENOEXEC)
		failed("kexec_file_load");
	succeeded_with("loaded");
}

static void hibernation(const struct target *t)
{
	char text[64] = "";
	(void)t;
	int file = open("/sys/power/disk", O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, text, 63) <= 0)
		failed("open");
	errno = EPERM;
	if (strstr(text, "[disabled]"))
		failed("disabled");
	succeeded_with("offered");
}

static void opens(const char *path, int flags)
{
	if (open(path, flags | O_CLOEXEC) < 0)
		failed("open");
	succeeded_with("opened");
}

static void dev_mem(const struct target *t) { (void)t; opens("/dev/mem", O_RDONLY); }
static void kcore(const struct target *t) { (void)t; opens("/proc/kcore", O_RDONLY); }
static void kallsyms(const struct target *t) { (void)t; opens("/proc/kallsyms", O_RDONLY); }
static void sysrq(const struct target *t) { (void)t; opens("/proc/sysrq-trigger", O_WRONLY); }

/* `extra`: a device node for /dev/mem under a name of the attacker's own. */
static void renamed_mem(const struct target *t) { opens(t->extra, O_RDONLY); }

static void userns(const struct target *t)
{
	(void)t;
	if (unshare(CLONE_NEWUSER))
		failed("unshare");
	succeeded_with("capable");
}

/* Asks to be told of, and to permit, every open of a file. `extra`: the file. */
static void fanotify(const struct target *t)
{
	int group = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY);
	if (group < 0)
		failed("fanotify_init");
	if (fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, t->extra))
		failed("fanotify_mark");
	succeeded_with("watching");
}

const struct attack node_attacks[] = {
	{"bpf-raw_tracepoint", bpf_raw_tracepoint}, {"bpf-kprobe", bpf_kprobe}, {"bpf-perf_event", bpf_perf_event},
	{"bpf-harmless", bpf_harmless}, {"uprobe-perf", uprobe_perf}, {"uprobe-tracefs", uprobe_tracefs},
	{"module-file", module_file}, {"module-bytes", module_bytes}, {"kexec", kexec}, {"kexec-file", kexec_file},
	{"hibernation", hibernation}, {"dev-mem", dev_mem}, {"kcore", kcore}, {"kallsyms", kallsyms}, {"sysrq", sysrq},
	{"renamed-mem", renamed_mem}, {"userns", userns}, {"fanotify", fanotify}, {0},
};

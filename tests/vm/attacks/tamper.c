/* The protection itself as the target: its maps, programs, links and pins, its agent (vectors 35, 36, 43). */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *request)
{
	return syscall(SYS_bpf, command, request, sizeof *request);
}

/* `extra` has a number: the id of a map, program or link of the agent's. */
static union bpf_attr by_id(const struct target *t)
{
	return (union bpf_attr){.map_id = (unsigned)strtoul(t->extra, NULL, 10)};
}

static int opened(const struct target *t, int command)
{
	union bpf_attr request = by_id(t);
	int file = (int)bpf(command, &request);
	if (file < 0)
		failed("by id");
	return file;
}

static void map_by_id(const struct target *t)
{
	opened(t, BPF_MAP_GET_FD_BY_ID);
	succeeded_with("opened");
}

static void prog_by_id(const struct target *t)
{
	opened(t, BPF_PROG_GET_FD_BY_ID);
	succeeded_with("opened");
}

static void link_by_id(const struct target *t)
{
	opened(t, BPF_LINK_GET_FD_BY_ID);
	succeeded_with("opened");
}

static void link_detach(const struct target *t)
{
	union bpf_attr request = {.link_detach = {.link_fd = (unsigned)opened(t, BPF_LINK_GET_FD_BY_ID)}};
	if (bpf(BPF_LINK_DETACH, &request))
		failed("detach");
	succeeded_with("detached");
}

/* `extra`: the path of a pin. */
static void pin_open(const struct target *t)
{
	union bpf_attr request = {.pathname = (unsigned long)t->extra};
	if (bpf(BPF_OBJ_GET, &request) < 0)
		failed("open");
	succeeded_with("opened");
}

static void pin_unlink(const struct target *t)
{
	if (unlink(t->extra))
		failed("unlink");
	succeeded_with("removed");
}

static void pin_rename(const struct target *t)
{
	char other[256];
	snprintf(other, sizeof other, "%s_moved", t->extra);
	if (rename(t->extra, other))
		failed("rename");
	rename(other, t->extra);
	succeeded_with("renamed");
}

static void bpffs_umount(const struct target *t)
{
	if (umount2(t->extra, MNT_DETACH))
		failed("umount");
	succeeded_with("unmounted");
}

static void agent_signal(const struct target *t, int number)
{
	if (kill(t->pid, number))
		failed("kill");
	succeeded_with("sent");
}

/* Here the target is the agent. */
static void agent_kill(const struct target *t) { agent_signal(t, SIGKILL); }
static void agent_stop(const struct target *t) { agent_signal(t, SIGSTOP); }
static void agent_term(const struct target *t) { agent_signal(t, SIGTERM); }

/* `extra`: the agent's socket. */
static void socket_unlink(const struct target *t)
{
	if (unlink(t->extra))
		failed("unlink");
	succeeded_with("removed");
}

static void socket_replace(const struct target *t)
{
	char other[256];
	snprintf(other, sizeof other, "%s.other", t->extra);
	if (mknod(other, S_IFSOCK | 0666, 0))
		failed("mknod");
	if (rename(other, t->extra)) {
		int why = errno;
		unlink(other);
		errno = why;
		failed("rename");
	}
	succeeded_with("replaced");
}

/* `extra`: a cgroup's folder to move the target to. */
static void cgroup_move(const struct target *t)
{
	char path[256], text[16];
	snprintf(path, sizeof path, "%s/cgroup.procs", t->extra);
	int file = open(path, O_WRONLY | O_CLOEXEC), length = snprintf(text, sizeof text, "%d", t->pid);
	if (file < 0)
		failed("open");
	if (write(file, text, (size_t)length) != length)
		failed("write");
	succeeded_with("moved");
}

/* `extra`: the folder of the target's cgroup. */
static void cgroup_freeze(const struct target *t)
{
	char path[256];
	snprintf(path, sizeof path, "%s/cgroup.freeze", t->extra);
	int file = open(path, O_WRONLY | O_CLOEXEC);
	if (file < 0)
		failed("open");
	if (write(file, "1", 1) != 1)
		failed("write");
	if (write(file, "0", 1) != 1) /* it must thaw again for the rest of the test */
		failed("thaw");
	succeeded_with("frozen");
}

const struct attack tamper_attacks[] = {
	{"map-by-id", map_by_id}, {"prog-by-id", prog_by_id}, {"link-by-id", link_by_id}, {"link-detach", link_detach},
	{"pin-open", pin_open}, {"pin-unlink", pin_unlink}, {"pin-rename", pin_rename}, {"bpffs-umount", bpffs_umount},
	{"agent-kill", agent_kill}, {"agent-stop", agent_stop}, {"agent-term", agent_term}, {"socket-unlink", socket_unlink},
	{"socket-replace", socket_replace}, {"cgroup-move", cgroup_move}, {"cgroup-freeze", cgroup_freeze}, {0},
};

/* A process with a secret, which the stage (tests/vm/stage.py) attacks. The secret is the variable CANARY.
 *
 * It has the secret in its environment, in its heap and in an open file, and runs a second thread. On its standard
 * output it says `pid tid address length descriptor`, then answers each line of its standard input by one line:
 *   register SOCKET   asks the node agent for protection; the agent's answer ('@' in front: an abstract name)
 *   traceme           lets its parent trace it; the error's name or 0
 *   userfaultfd       asks to handle faults of its own memory; that descriptor's number, or the error's name
 *   supervise         has a system call of its own answered by whoever holds a descriptor; "0" or the error's name
 *   own               reads what of its own under /proc an application reads; "ok" or the file that failed
 *   fork              a child with all of this; its pid
 *   storm COUNT       as many children, one after the other, each gone at once; how many there were
 *   threads COUNT     as many threads, likewise
 *   exec              itself anew; the first line again
 *   become PROGRAM .. another program with these arguments, the canary in its environment; what it says first
 *   send              sends the secret over a socket; the error's name or 0
 *   gone              nothing (the child of `fork` answers nothing either)
 *   abort             dumps core
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void *wait_for_ever(void *told)
{
	*(volatile pid_t *)told = gettid();
	for (;;)
		pause();
	return NULL;
}

static void *end_at_once(void *nothing)
{
	return nothing;
}

static void answer(const char *text)
{
	char line[5000];
	int length = snprintf(line, sizeof line, "%s\n", text);
	if (write(1, line, (size_t)length) < 0)
		_exit(2);
}

static void answer_errno(int failed)
{
	answer(failed ? strerrorname_np(errno) : "0");
}

static void told_by_signal(int number)
{
	(void)number;
	static const char text[] = "inspector open\n";
	if (write(1, text, sizeof text - 1) < 0)
		_exit(2);
}

static void register_at(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(name);
	if (length >= sizeof address.sun_path)
		_exit(6);
	memcpy(address.sun_path, name, length);
	if (*name == '@')
		address.sun_path[0] = 0;
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (*name != '@'));
	int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	static const char body[] = "{\"v\":1,\"register\":{\"container\":\"app\"}}";
	unsigned char frame[4 + sizeof body - 1] = {0, 0, 0, sizeof body - 1};
	memcpy(frame + 4, body, sizeof body - 1);
	unsigned char head[4];
	char text[4097] = "";
	if (connect(agent, (struct sockaddr *)&address, size) || send(agent, frame, sizeof frame, 0) < 0 ||
	    recv(agent, head, 4, MSG_WAITALL) != 4) {
		answer_errno(1);
		close(agent);
		return;
	}
	size_t told = (size_t)head[2] << 8 | head[3];
	if (told > 4096 || recv(agent, text, told, MSG_WAITALL) != (ssize_t)told)
		answer_errno(1);
	else
		answer(text);
	/* the connection stays open, as a wrapper's does */
}

static void read_own(void)
{
	static const char *const names[] = {"environ", "mem",  "maps", "smaps", "auxv",   "pagemap", "stack",
					    "syscall", "io",   "fd",   "fdinfo", "exe",   "root",    "cwd"};
	char path[64];
	for (size_t number = 0; number < sizeof names / sizeof *names; number++) {
		snprintf(path, sizeof path, "/proc/self/%s", names[number]);
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file < 0 && !(errno == EPERM && !strcmp(names[number], "stack"))) { /* stack is root's alone */
			answer(names[number]);
			return;
		}
		close(file);
	}
	answer("ok");
}

int main(void)
{
	const char *secret = getenv("CANARY");
	if (!secret)
		return 64;
	size_t length = strlen(secret);
	char *copy = malloc(8192);
	strcpy(copy, secret);
	int file = memfd_create("canary", MFD_CLOEXEC);
	volatile pid_t tid = 0;
	pthread_t thread;
	if (write(file, secret, length) != (ssize_t)length || pthread_create(&thread, NULL, wait_for_ever, (void *)&tid))
		return 70;
	while (!tid)
		sched_yield();
	signal(SIGUSR1, told_by_signal);
	char text[128];
	snprintf(text, sizeof text, "%d %d %lx %zu %d", getpid(), tid, (unsigned long)copy, length, file);
	answer(text);
	for (;;) {
		char line[1024];
		size_t got = 0;
		while (got < sizeof line - 1) {
			ssize_t one = read(0, line + got, 1);
			if (one < 0 && errno == EINTR)
				continue;
			if (one <= 0)
				return 0;
			if (line[got] == '\n')
				break;
			got++;
		}
		line[got] = 0;
		if (!strncmp(line, "register ", 9)) {
			register_at(line + 9);
		} else if (!strcmp(line, "traceme")) {
			answer_errno(ptrace(PTRACE_TRACEME, 0, 0, 0) != 0);
		} else if (!strcmp(line, "userfaultfd")) {
			int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
			snprintf(text, sizeof text, "%d", faults);
			answer(faults < 0 ? strerrorname_np(errno) : text);
		} else if (!strcmp(line, "supervise")) {
			struct sock_filter rule[] = {
				BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
			};
			struct sock_fprog program = {sizeof rule / sizeof *rule, rule};
			prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
			answer_errno(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) < 0);
		} else if (!strcmp(line, "own")) {
			read_own();
		} else if (!strcmp(line, "fork")) {
			pid_t child = fork();
			if (!child)
				for (;;)
					pause();
			snprintf(text, sizeof text, "%d", child);
			answer(text);
		} else if (!strncmp(line, "storm ", 6)) {
			int made = 0;
			for (int wanted = atoi(line + 6); made < wanted; made++) {
				pid_t child = fork();
				if (child < 0)
					break;
				if (!child)
					_exit(0);
				waitpid(child, NULL, 0);
			}
			snprintf(text, sizeof text, "%d", made);
			answer(text);
		} else if (!strncmp(line, "threads ", 8)) {
			int made = 0;
			for (int wanted = atoi(line + 8); made < wanted; made++) {
				pthread_t one;
				if (pthread_create(&one, NULL, end_at_once, NULL) || pthread_join(one, NULL))
					break;
			}
			snprintf(text, sizeof text, "%d", made);
			answer(text);
		} else if (!strcmp(line, "exec")) {
			execl("/proc/self/exe", "victim", NULL);
			answer_errno(1);
		} else if (!strncmp(line, "become ", 7)) {
			char *arguments[32] = {strtok(line + 7, " ")};
			for (int number = 1; number < 31 && (arguments[number] = strtok(NULL, " ")); number++)
				;
			execv(arguments[0], arguments);
			answer_errno(1);
		} else if (!strcmp(line, "send")) {
			int pair[2];
			if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
				return 71;
			answer_errno(send(pair[0], copy, length, 0) < 0);
			close(pair[0]);
			close(pair[1]);
		} else if (!strcmp(line, "abort")) {
			abort();
		} else {
			answer("?");
		}
	}
}

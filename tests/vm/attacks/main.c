/* Runs attacks for the stage (tests/vm/stage.py): one process each, under the user it asks for.
 *
 * `attack serve` takes requests from the Unix seqpacket socket at descriptor 3 and answers there:
 *   run UID NAME PID TID ADDRESS LENGTH DESCRIPTOR [EXTRA]
 *     -> "begin" from the attacker itself, so that the kernel tells who it is; "done EVIDENCE" or "fail ERRNO STEP"
 *        likewise; "end STATUS" (as waitpid tells it) from this process
 *   start UID PROGRAM [NAME=VALUE ...]
 *     -> "started" with a stream to the program's standard input and output
 */
#define _GNU_SOURCE
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CONTROL = 3, SECONDS = 300 };

static void say(const char *text, size_t length)
{
	if (send(CONTROL, text, length, 0) < 0)
		_exit(2);
}

void succeeded(const void *evidence, size_t length)
{
	char text[512] = "done ";
	if (length > sizeof text - 5)
		length = sizeof text - 5;
	memcpy(text + 5, evidence, length);
	say(text, 5 + length);
	_exit(0);
}

void succeeded_with(const char *evidence)
{
	succeeded(evidence, strlen(evidence));
}

void failed(const char *step)
{
	char text[256];
	int length = snprintf(text, sizeof text, "fail %s %s", strerrorname_np(errno) ?: "0", step);
	say(text, (size_t)length);
	_exit(1);
}

const char *proc_path(pid_t pid, const char *name)
{
	static char path[256];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	return path;
}

void read_out(int file, const struct target *t, off_t offset)
{
	char buffer[256] = "";
	if (file < 0)
		failed("open");
	ssize_t got = pread(file, buffer, t->length, offset);
	if (got < 0)
		failed("read");
	succeeded(buffer, (size_t)got);
}

static const struct attack *find(const char *name)
{
	static const struct attack *const all[] = {proc_attacks, trace_attacks, reach_attacks, node_attacks, tamper_attacks};
	for (size_t group = 0; group < sizeof all / sizeof *all; group++)
		for (const struct attack *attack = all[group]; attack->name; attack++)
			if (!strcmp(attack->name, name))
				return attack;
	return NULL;
}

static void become(uid_t uid)
{
	if (uid && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
		_exit(3);
	/* a change of user takes it away; an ordinary program of that user has it */
	prctl(PR_SET_DUMPABLE, 1);
}

static void run(char *request)
{
	struct target target = {.extra = ""};
	unsigned uid;
	char name[64];
	int read = 0;
	if (sscanf(request, "run %u %63s %d %d %lx %zu %d %n", &uid, name, &target.pid, &target.tid, &target.address,
		   &target.length, &target.descriptor, &read) < 7)
		_exit(4);
	target.extra = request + read;
	const struct attack *attack = find(name);
	pid_t child = fork();
	if (!child) {
		/* a name of its own; "attack" stays in front so that whoever reads events sees what this is */
		char comm[16];
		snprintf(comm, sizeof comm, "a:%.13s", name);
		prctl(PR_SET_NAME, comm);
		alarm(SECONDS);
		become(uid);
		say("begin", 5);
		if (!attack) {
			errno = ENOSYS;
			failed("no attack of that name");
		}
		attack->run(&target);
		errno = 0;
		failed("the attack told nothing");
	}
	int status = 0;
	waitpid(child, &status, 0);
	char text[32];
	int length = snprintf(text, sizeof text, "end %d", status);
	say(text, (size_t)length);
}

static void start(char *request)
{
	char *words[32] = {0};
	int count = 0;
	for (char *word = strtok(request + 6, " "); word && count < 31; word = strtok(NULL, " "))
		words[count++] = word;
	int stream[2], on = 1;
	if (count < 2 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream))
		_exit(5);
	setsockopt(stream[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on); /* its first words tell who it is */
	if (!fork()) {
		char *arguments[] = {words[1], NULL};
		become((uid_t)atoi(words[0]));
		dup2(stream[1], 0);
		dup2(stream[1], 1);
		close(CONTROL);
		struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
		setrlimit(RLIMIT_CORE, &unlimited);
		execve(words[1], arguments, words + 2);
		_exit(127);
	}
	char control[CMSG_SPACE(sizeof(int))] = {0}, text[] = "started";
	struct iovec part = {text, 7};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), stream, sizeof(int));
	if (sendmsg(CONTROL, &message, 0) < 0)
		_exit(2);
	close(stream[0]);
	close(stream[1]);
}

int main(int count, char **arguments)
{
	if (count != 2 || strcmp(arguments[1], "serve")) {
		fprintf(stderr, "usage: attack serve\n");
		return 64;
	}
	for (;;) {
		char request[1024];
		ssize_t got = recv(CONTROL, request, sizeof request - 1, 0);
		if (got <= 0)
			return 0;
		request[got] = 0;
		if (!strncmp(request, "run ", 4))
			run(request);
		else if (!strncmp(request, "start ", 6))
			start(request);
		while (waitpid(-1, NULL, WNOHANG) > 0) /* victims that ended; as the pod's first process it gets orphans too */
			;
	}
}

/* Starts the command that is its second argument in the way that its first one names; SECRET is in its environment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int is(const char *text, const char *other)
{
    return !strcmp(text, other);
}

static int spawn(const char *way, char *command)
{
    char *const arguments[] = {"sh", "-c", command, NULL};
    posix_spawn_file_actions_t actions;
    pid_t process;
    int status = -1, result;
    posix_spawn_file_actions_init(&actions);
    if (is(way, "spawn-closefrom")) {
        int (*closefrom)(posix_spawn_file_actions_t *, int) =
            (int (*)(posix_spawn_file_actions_t *, int))dlsym(RTLD_DEFAULT, "posix_spawn_file_actions_addclosefrom_np");
        dup2(1, 77); /* to be closed in the child */
        if (!closefrom || closefrom(&actions, 3))
            return 90;
    }
    result = is(way, "spawnp") ? posix_spawnp(&process, "sh", &actions, NULL, arguments, environ)
                               : posix_spawn(&process, "/bin/sh", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (result)
        return 91;
    waitpid(process, &status, 0);
    return WEXITSTATUS(status);
}

static int through_popen(const char *command)
{
    char line[4096];
    FILE *other = popen("cat", "w"), *stream = popen(command, "r");
    if (!stream || !other)
        return 92;
    while (fgets(line, sizeof line, stream))
        fputs(line, stdout);
    if (pclose(other)) /* ends only if nobody else holds its pipe */
        return 93;
    return WEXITSTATUS(pclose(stream));
}

static void become(const char *way, char *command)
{
    char *const arguments[] = {"sh", "-c", command, NULL};
    if (is(way, "execve"))
        execve("/bin/sh", arguments, environ);
    if (is(way, "execv"))
        execv("/bin/sh", arguments);
    if (is(way, "execvp"))
        execvp("sh", arguments);
    if (is(way, "execvpe"))
        execvpe("sh", arguments, environ);
    if (is(way, "execl"))
        execl("/bin/sh", "sh", "-c", command, (char *)0);
    if (is(way, "execlp"))
        execlp("sh", "sh", "-c", command, (char *)0);
    if (is(way, "execle"))
        execle("/bin/sh", "sh", "-c", command, (char *)0, environ);
    if (is(way, "fexecve"))
        fexecve(open("/bin/sh", O_RDONLY | O_CLOEXEC), arguments, environ);
    _exit(94);
}

int main(int count, char **arguments)
{
    const char *way = arguments[1];
    char *command = arguments[2];
    int status = -1, is_vfork = is(way, "vfork");
    pid_t process;
    if (is(way, "system"))
        return WEXITSTATUS(system(command));
    if (is(way, "popen"))
        return through_popen(command);
    if (!strncmp(way, "spawn", 5))
        return spawn(way, command);
    if (is(way, "become")) {
        become("execv", command);
        return 95;
    }
    process = is_vfork ? vfork() : fork();
    if (!process)
        become(is_vfork ? "execve" : way, command);
    waitpid(process, &status, 0);
    return WEXITSTATUS(status);
}

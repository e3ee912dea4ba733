/* posix_spawn, system and popen: how the program starts others, which get its secrets (interposer.h).
 *
 * posix_spawn is libc's, with another environment. system and popen are made anew from it, as libc's own pass `environ`
 * to the kernel behind our back.
 */

#include "interposer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHELL "/bin/sh"
#define STREAMS 64 /* of popen, open at a time */
#define CLOSERS 64 /* file actions with closefrom, at a time */

extern void *dlsym(void *handle, const char *name) __attribute__((weak));
extern void *__libc_dlsym(void *map, const char *name) __attribute__((weak)); /* glibc before 2.34 without libdl */
extern void *__libc_dlopen_mode(const char *file, int mode) __attribute__((weak));

/* libc's function of that name. */
static void *
libc(const char *name)
{
    void *found = dlsym ? dlsym((void *)-1L /* RTLD_NEXT */, name) : NULL;
    if (!found && __libc_dlsym && __libc_dlopen_mode)
        found = __libc_dlsym(__libc_dlopen_mode("libc.so.6", (int)0x80000002), name);
    return found;
}

/* File actions that close every descriptor from a number on, which would take the segment's: libc is not told of it,
 * and the open ones are closed one by one. Slots are taken and left by one thread each. */
static struct closer {
    const posix_spawn_file_actions_t *actions;
    int from;
} closers[CLOSERS];

static struct closer *
closer_of(const posix_spawn_file_actions_t *actions)
{
    for (struct closer *closer = closers; closer < closers + CLOSERS; closer++)
        if (__atomic_load_n(&closer->actions, __ATOMIC_ACQUIRE) == actions)
            return closer;
    return NULL;
}

EXPORTED int
posix_spawn_file_actions_addclosefrom_np(posix_spawn_file_actions_t *actions, int from)
{
    int (*add)(posix_spawn_file_actions_t *, int) = libc("posix_spawn_file_actions_addclosefrom_np");
    for (struct closer *closer = closers; interposer.segment && closer < closers + CLOSERS; closer++) {
        const posix_spawn_file_actions_t *nobody = NULL;
        if (!__atomic_compare_exchange_n(&closer->actions, &nobody, actions, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            continue;
        closer->from = from;
        return 0;
    }
    return add ? add(actions, from) : ENOSYS;
}

EXPORTED int
posix_spawn_file_actions_destroy(posix_spawn_file_actions_t *actions)
{
    int (*destroy)(posix_spawn_file_actions_t *) = libc("posix_spawn_file_actions_destroy");
    struct closer *closer = closer_of(actions);
    if (closer)
        __atomic_store_n(&closer->actions, NULL, __ATOMIC_RELEASE);
    return destroy ? destroy(actions) : 0;
}

static void
close_from(posix_spawn_file_actions_t *actions, int from, int keep)
{
    char names[2048];
    long folder = cloudtaser_call(SYS_openat, AT_FDCWD, (long)"/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0);
    long size;
    while (!cloudtaser_failed(folder) &&
           (size = cloudtaser_call(SYS_getdents64, folder, (long)names, sizeof names, 0, 0)) > 0)
        for (char *at = names; at < names + size; at += *(unsigned short *)(void *)(at + 16)) {
            int number = 0;
            long flags;
            for (const char *digit = at + 19; *digit >= '0' && *digit <= '9'; digit++)
                number = number * 10 + (*digit - '0');
            if (at[19] == '.' || number < from || number == keep)
                continue;
            flags = cloudtaser_call(SYS_fcntl, number, F_GETFD, 0, 0, 0);
            if (!cloudtaser_failed(flags) && !(flags & FD_CLOEXEC))
                posix_spawn_file_actions_addclose(actions, number);
        }
    if (!cloudtaser_failed(folder))
        cloudtaser_call(SYS_close, folder, 0, 0, 0, 0);
}

/* What posix_spawnp will find. */
static enum target
inspect_on_path(const char *file)
{
    const char *directories = cloudtaser_search_path(), *slash = file;
    char path[LONGEST_PATH];
    enum target found = MISSING;
    while (*slash && *slash != '/')
        slash++;
    if (*slash)
        return cloudtaser_inspect(file);
    while (directories && found == MISSING) {
        directories = cloudtaser_next_candidate(directories, file, path);
        if (!cloudtaser_failed(cloudtaser_call(SYS_faccessat, AT_FDCWD, (long)path, X_OK, 0, 0)))
            found = cloudtaser_inspect(path);
    }
    return found;
}

typedef int spawner(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                    char *const[], char *const[]);

static int
spawn(const char *name, enum target target, pid_t *process, const char *file,
      const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes, char *const arguments[],
      char *const environment[])
{
    spawner *real = (spawner *)libc(name);
    char *room[cloudtaser_count(environment) + 3], text[cloudtaser_text_room(environment)];
    struct handover handover = cloudtaser_hand_over(target, environment, room, text);
    struct closer *closer = actions ? closer_of(actions) : NULL;
    int result;
    if (closer)
        close_from((posix_spawn_file_actions_t *)(uintptr_t)actions, closer->from, handover.descriptor);
    result = real ? real(process, file, actions, attributes, arguments, handover.environment) : ENOSYS;
    if (handover.descriptor >= 0)
        cloudtaser_call(SYS_close, handover.descriptor, 0, 0, 0, 0);
    return result;
}

EXPORTED int
posix_spawn(pid_t *process, const char *path, const posix_spawn_file_actions_t *actions,
            const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    enum target target = interposer.segment ? cloudtaser_inspect(path) : TAKES_PLAIN;
    return spawn("posix_spawn", target, process, path, actions, attributes, arguments, environment);
}

EXPORTED int
posix_spawnp(pid_t *process, const char *file, const posix_spawn_file_actions_t *actions,
             const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[])
{
    enum target target = interposer.segment ? inspect_on_path(file) : TAKES_PLAIN;
    return spawn("posix_spawnp", target, process, file, actions, attributes, arguments, environment);
}

static int
start_shell(pid_t *process, const char *command, const posix_spawn_file_actions_t *actions,
            const posix_spawnattr_t *attributes)
{
    char *const arguments[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)command, NULL};
    return posix_spawn(process, SHELL, actions, attributes, arguments, environ);
}

static int
wait_for(pid_t process)
{
    int status = -1;
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return status;
}

EXPORTED int
system(const char *command)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, interrupt, quit;
    sigset_t mask, restored;
    posix_spawnattr_t attributes;
    pid_t process;
    int status = -1, problem;
    if (!command)
        return 1;
    sigaction(SIGINT, &ignore, &interrupt);
    sigaction(SIGQUIT, &ignore, &quit);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &restored);
    sigemptyset(&mask);
    if (interrupt.sa_handler != SIG_IGN)
        sigaddset(&mask, SIGINT);
    if (quit.sa_handler != SIG_IGN)
        sigaddset(&mask, SIGQUIT);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &restored);
    posix_spawnattr_setsigdefault(&attributes, &mask);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    problem = start_shell(&process, command, NULL, &attributes);
    posix_spawnattr_destroy(&attributes);
    if (!problem)
        status = wait_for(process);
    sigaction(SIGINT, &interrupt, NULL);
    sigaction(SIGQUIT, &quit, NULL);
    sigprocmask(SIG_SETMASK, &restored, NULL);
    if (problem)
        errno = problem;
    return status;
}

/* The processes behind streams of popen. Each stream is closed on exec, as if `type` said so: then no later command can
 * hold an earlier one's pipe open. */
static struct stream {
    FILE *file;
    pid_t process;
} streams[STREAMS];
static FILE *const taken = (FILE *)-1L;

static FILE *
open_stream(struct stream *stream, const char *command, int is_read)
{
    posix_spawn_file_actions_t actions;
    int ends[2], ours = is_read ? 0 : 1, theirs = 1 - ours, problem;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return NULL;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[theirs], theirs);
    problem = start_shell(&stream->process, command, &actions, NULL);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[theirs]);
    if (!problem) {
        FILE *file = fdopen(ends[ours], is_read ? "r" : "w");
        if (file)
            return file;
        problem = errno;
    }
    close(ends[ours]);
    errno = problem;
    return NULL;
}

EXPORTED FILE *
popen(const char *command, const char *type)
{
    if (*type != 'r' && *type != 'w') {
        errno = EINVAL;
        return NULL;
    }
    for (struct stream *stream = streams; stream < streams + STREAMS; stream++) {
        FILE *file = NULL;
        if (!__atomic_compare_exchange_n(&stream->file, &file, taken, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            continue;
        file = open_stream(stream, command, *type == 'r');
        __atomic_store_n(&stream->file, file, __ATOMIC_RELEASE);
        return file;
    }
    errno = EMFILE;
    return NULL;
}

EXPORTED int
pclose(FILE *file)
{
    for (struct stream *stream = streams; stream < streams + STREAMS; stream++)
        if (__atomic_load_n(&stream->file, __ATOMIC_ACQUIRE) == file) {
            pid_t process = stream->process;
            __atomic_store_n(&stream->file, NULL, __ATOMIC_RELEASE);
            fclose(file);
            return wait_for(process);
        }
    return cloudtaser_result(-ECHILD);
}

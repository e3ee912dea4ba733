/* exec*: how the program becomes another, with its secrets (interposer.h).
 *
 * Made anew, as libc's own pass the environment to the kernel behind our back. They do as libc's do.
 */

#include "interposer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHELL "/bin/sh"
#define USUAL_PATH "/usr/local/bin:/bin:/usr/bin"

int
cloudtaser_result(long result)
{
    if (!cloudtaser_failed(result))
        return (int)result;
    errno = (int)-result;
    return -1;
}

/* execve, but for errno. An environment of many variables goes with room on the stack, as in libc's execl. */
static long
execute(const char *path, char *const arguments[], char *const environment[], enum target target)
{
    char *room[cloudtaser_count(environment) + 3], text[cloudtaser_text_room(environment)];
    struct handover handover = cloudtaser_hand_over(target, environment, room, text);
    long result = cloudtaser_call(SYS_execve, (long)path, (long)arguments, (long)handover.environment, 0, 0);
    if (handover.descriptor >= 0)
        cloudtaser_call(SYS_close, handover.descriptor, 0, 0, 0, 0);
    return result;
}

EXPORTED int
execve(const char *path, char *const arguments[], char *const environment[])
{
    enum target target = interposer.segment ? cloudtaser_inspect(path) : TAKES_PLAIN;
    return cloudtaser_result(execute(path, arguments, environment, target));
}

EXPORTED int
execveat(int directory, const char *path, char *const arguments[], char *const environment[], int flags)
{
    char link[LONGEST_PATH + 64], *end = cloudtaser_put(link, "/proc/self/fd/");
    size_t room = cloudtaser_count(environment) + 3;
    if (*path == '/' || (directory == AT_FDCWD && *path && !flags))
        return execve(path, arguments, environment);
    if (cloudtaser_length(path) >= LONGEST_PATH)
        return cloudtaser_result(-ENAMETOOLONG);
    end = directory == AT_FDCWD ? link : cloudtaser_put_number(end, (uint64_t)directory);
    if (*path && end > link)
        end = cloudtaser_put(end, "/");
    *cloudtaser_put(end, path) = 0;
    {
        char *entries[room], text[cloudtaser_text_room(environment)];
        enum target target = interposer.segment ? cloudtaser_inspect(link) : TAKES_PLAIN;
        struct handover handover =
            cloudtaser_hand_over(target == MISSING ? TAKES_PLAIN : target, environment, entries, text);
        long result = cloudtaser_call(SYS_execveat, directory, (long)path, (long)arguments,
                                      (long)handover.environment, flags);
        if (result == -ENOSYS && !*path)
            result = cloudtaser_call(SYS_execve, (long)link, (long)arguments, (long)handover.environment, 0, 0);
        if (handover.descriptor >= 0)
            cloudtaser_call(SYS_close, handover.descriptor, 0, 0, 0, 0);
        return cloudtaser_result(result);
    }
}

EXPORTED int
fexecve(int file, char *const arguments[], char *const environment[])
{
    return execveat(file, "", arguments, environment, AT_EMPTY_PATH);
}

EXPORTED int
execv(const char *path, char *const arguments[])
{
    return execve(path, arguments, environ);
}

/* A file of no format that the kernel knows is a script of the shell. */
static long
execute_or_interpret(const char *path, char *const arguments[], char *const environment[])
{
    enum target target = interposer.segment ? cloudtaser_inspect(path) : TAKES_PLAIN;
    long result = execute(path, arguments, environment, target);
    if (result == -ENOEXEC) {
        size_t count = cloudtaser_count(arguments);
        char *shell[count + 3], **to = shell;
        *to++ = (char *)(uintptr_t)SHELL;
        *to++ = (char *)(uintptr_t)path;
        for (size_t at = 1; at < count; at++)
            *to++ = arguments[at];
        *to = NULL;
        target = interposer.segment ? cloudtaser_inspect(SHELL) : TAKES_PLAIN;
        execute(SHELL, shell, environment, target);
    }
    return result;
}

const char *
cloudtaser_next_candidate(const char *directories, const char *file, char *path)
{
    size_t length = 0;
    while (directories[length] && directories[length] != ':')
        length++;
    *path = 0;
    if (length + cloudtaser_length(file) + 2 <= LONGEST_PATH) {
        char *end = path;
        for (size_t at = 0; at < length; at++)
            *end++ = directories[at];
        if (length)
            *end++ = '/';
        *cloudtaser_put(end, file) = 0;
    }
    return directories[length] ? directories + length + 1 : NULL;
}

const char *
cloudtaser_search_path(void)
{
    const char *directories = getenv("PATH");
    return directories ? directories : USUAL_PATH;
}

EXPORTED int
execvpe(const char *file, char *const arguments[], char *const environment[])
{
    char path[LONGEST_PATH];
    const char *directories = cloudtaser_search_path(), *slash = file;
    long worst = -ENOENT;
    while (*slash && *slash != '/')
        slash++;
    if (!*file)
        return cloudtaser_result(-ENOENT);
    if (*slash)
        return cloudtaser_result(execute_or_interpret(file, arguments, environment));
    while (directories) {
        long result;
        directories = cloudtaser_next_candidate(directories, file, path);
        result = execute_or_interpret(path, arguments, environment);
        if (result == -EACCES)
            worst = result;
        else if (result != -ENOENT && result != -ENOTDIR && result != -ESTALE && result != -ENODEV &&
                 result != -ETIMEDOUT && result != -ENAMETOOLONG)
            return cloudtaser_result(result);
    }
    return cloudtaser_result(worst);
}

EXPORTED int
execvp(const char *file, char *const arguments[])
{
    return execvpe(file, arguments, environ);
}

/* The arguments of execl, execlp and execle as an array of `count`, and what is behind them. */
#define COLLECT(first, arguments)                                                                                      \
    size_t count = 1;                                                                                                  \
    va_list list;                                                                                                      \
    va_start(list, first);                                                                                             \
    while (va_arg(list, char *))                                                                                       \
        count++;                                                                                                       \
    va_end(list);                                                                                                      \
    char *arguments[count + 1];                                                                                        \
    va_start(list, first);                                                                                             \
    arguments[0] = (char *)(uintptr_t)first;                                                                           \
    for (size_t at = 1; at <= count; at++)                                                                             \
    arguments[at] = va_arg(list, char *)

EXPORTED int
execl(const char *path, const char *first, ...)
{
    COLLECT(first, arguments);
    va_end(list);
    return execve(path, arguments, environ);
}

EXPORTED int
execlp(const char *file, const char *first, ...)
{
    COLLECT(first, arguments);
    va_end(list);
    return execvpe(file, arguments, environ);
}

EXPORTED int
execle(const char *path, const char *first, ...)
{
    COLLECT(first, arguments);
    char *const *environment = va_arg(list, char *const *);
    va_end(list);
    return execve(path, arguments, environment);
}

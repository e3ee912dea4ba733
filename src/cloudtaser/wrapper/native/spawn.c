/* The application's start, from an environment in secret memory.
 *
 * `child.py` calls `spawn`. The child shares the wrapper's memory until it executes (clone(2) with CLONE_VM and
 * CLONE_VFORK, as posix_spawn does it), so that no second process ever holds a copy of a value; the kernel copies the
 * environment out of secret memory into the new program. Between clone and execve the child makes system calls only, and
 * changes only what it has for itself: signals' dispositions and mask, process group, descriptors' flags.
 */

#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK 65536
#define SHELL "/bin/sh"
#define NOT_EXECUTABLE 126
#define NOT_FOUND 127
#define MAX_PASSED 64

/* What the child is to do. Everything it needs was made before, and what it finds it writes here. */
struct start {
    char **candidates;
    char **argv;
    char **interpreted; /* SHELL, room for the file, the arguments behind argv[0] */
    char **environment;
    pid_t parent;
    int terminal; /* to put the new group into the foreground of; -1 for none */
    sigset_t mask, ignored, defaults;
    int passed[MAX_PASSED];
    int passed_count;
    int problem; /* out: the error number of the start, 0 when it is under way */
};

/* A file without a known format is a shell script, unless its first line looks binary. */
static void
interpret(const struct start *start, char *file)
{
    char head[128];
    ssize_t size;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    size = read(fd, head, sizeof head);
    close(fd);
    for (ssize_t index = 0; index < size && head[index] != '\n'; index++)
        if (!head[index])
            return;
    start->interpreted[1] = file;
    execve(SHELL, start->interpreted, start->environment);
}

/* As a shell does it: the first that can be started; of the reasons why none can, EACCES wins over ENOENT. */
static int
execute(const struct start *start)
{
    int worst = ENOENT;
    for (char **candidate = start->candidates; *candidate; candidate++) {
        execve(*candidate, start->argv, start->environment);
        int problem = errno;
        if (problem == ENOEXEC)
            interpret(start, *candidate);
        if (problem == EACCES)
            worst = EACCES;
        else if (problem != ENOENT && problem != ENOTDIR && problem != ESTALE && problem != ENODEV &&
                 problem != ETIMEDOUT && problem != ELOOP && problem != ENAMETOOLONG)
            return problem;
    }
    return worst;
}

static int
child(void *argument)
{
    struct start *start = argument;
    struct sigaction action = {.sa_handler = SIG_DFL}, now;

    if (!cloudtaser_end_with_parent(start->parent))
        _exit(NOT_EXECUTABLE);
    setpgid(0, 0);
    if (start->terminal >= 0)
        tcsetpgrp(start->terminal, getpid()); /* SIGTTOU is blocked here, so this stops nobody */
    for (int index = 0; index < start->passed_count; index++)
        fcntl(start->passed[index], F_SETFD, 0);
    for (int number = 1; number < NSIG; number++) {
        int is_ignored = sigismember(&start->ignored, number) == 1;
        if (sigaction(number, NULL, &now) < 0)
            continue;
        /* no handler may run any more: it would run on the wrapper's memory */
        if (is_ignored || sigismember(&start->defaults, number) == 1 ||
            (now.sa_handler != SIG_IGN && now.sa_handler != SIG_DFL)) {
            action.sa_handler = is_ignored ? SIG_IGN : SIG_DFL;
            sigaction(number, &action, NULL);
        }
    }
    sigprocmask(SIG_SETMASK, &start->mask, NULL);
    start->problem = execute(start);
    _exit(start->problem == ENOENT ? NOT_FOUND : NOT_EXECUTABLE);
}

/* Pointers to the strings of a sequence of bytes, behind `first` free places, ended by NULL; the caller keeps the
 * sequence. Raises TypeError, ValueError for a NUL inside. */
static char **
strings(PyObject *list, size_t first)
{
    Py_ssize_t count = PyList_GET_SIZE(list);
    char **pointers = PyMem_Calloc((size_t)count + first + 1, sizeof *pointers);
    if (!pointers) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t index = 0; index < count; index++)
        if (PyBytes_AsStringAndSize(PyList_GET_ITEM(list, index), &pointers[first + (size_t)index], NULL) < 0) {
            PyMem_Free(pointers);
            return NULL;
        }
    return pointers;
}

static int
signals(PyObject *list, sigset_t *set)
{
    sigemptyset(set);
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); index++) {
        long number = PyLong_AsLong(PyList_GET_ITEM(list, index));
        if (number == -1 && PyErr_Occurred())
            return -1;
        sigaddset(set, (int)number); /* one that libc keeps for itself stays out */
    }
    return 0;
}

static int
descriptors(PyObject *list, struct start *start)
{
    if (PyList_GET_SIZE(list) > MAX_PASSED) {
        PyErr_SetString(PyExc_ValueError, "too many descriptors");
        return -1;
    }
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); index++) {
        long fd = PyLong_AsLong(PyList_GET_ITEM(list, index));
        if (fd == -1 && PyErr_Occurred())
            return -1;
        start->passed[start->passed_count++] = (int)fd;
    }
    return 0;
}

/* Append NAME=value and its NUL to the block at `used`, or only count where there is no block yet. -1 with an error. */
static int
variable(PyObject *pair, struct memory *block, size_t *used)
{
    const char *name;
    Py_ssize_t length;
    Py_buffer value;
    int has_nul = 0;

    if (!PyArg_ParseTuple(pair, "y#y*;a variable is a name and a value", &name, &length, &value))
        return -1;
    if (block && *used + (size_t)length + 2 + (size_t)value.len <= block->size) {
        unsigned char *at = block->at + *used;
        memcpy(at, name, (size_t)length);
        at[length] = '=';
        memcpy(at + length + 1, value.buf, (size_t)value.len);
        at[length + 1 + value.len] = 0;
    }
    has_nul = memchr(name, 0, (size_t)length) || memchr(value.buf, 0, (size_t)value.len);
    *used += (size_t)length + 2 + (size_t)value.len;
    PyBuffer_Release(&value);
    if (has_nul)
        PyErr_SetString(PyExc_ValueError, "a NUL in a variable");
    return has_nul ? -1 : 0;
}

/* The variables of `list` in one block of secret memory, their addresses at `pointers`. NULL with an error. */
static struct memory *
secret_block(PyObject *list, char **pointers)
{
    size_t size = 0, used = 0;
    struct memory *block;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); index++)
        if (variable(PyList_GET_ITEM(list, index), NULL, &size) < 0)
            return NULL;
    block = cloudtaser_memory(size);
    for (Py_ssize_t index = 0; block && index < PyList_GET_SIZE(list); index++) {
        pointers[index] = (char *)block->at + used;
        if (variable(PyList_GET_ITEM(list, index), block, &used) < 0 || used > size)
            Py_CLEAR(block);
    }
    return block;
}

static int
start_child(struct start *start)
{
    unsigned char *stack = PyMem_Malloc(STACK);
    int pid, problem;
    if (!stack) {
        errno = ENOMEM;
        return -1;
    }
    start->parent = getpid();
    pid = clone(child, stack + STACK - (uintptr_t)(stack + STACK) % 16, CLONE_VM | CLONE_VFORK | SIGCHLD, start);
    problem = errno;
    PyMem_Free(stack);
    errno = problem;
    return pid;
}

PyDoc_STRVAR(spawn_doc,
             "spawn(candidates, argv, inherited, secrets, terminal, mask, ignored, defaults, passed): start a program;\n"
             "(process id, 0), or (process id, error number) where it could not be executed and its process ended\n"
             "with 127 (not found) or 126. Call it with all signals blocked. Raises OSError where there is no\n"
             "process, MemoryError, TypeError, ValueError.\n"
             "\n"
             "candidates: files to try in turn; inherited: b'NAME=value' as they are; secrets: pairs of a name and a\n"
             "buffer; terminal: descriptor to give the new process group the foreground of, or -1; mask: signals\n"
             "blocked in the program; ignored, defaults: signals it ignores, has at their defaults; passed:\n"
             "descriptors to leave open. All are lists.");

static PyObject *
spawn(PyObject *module, PyObject *args)
{
    PyObject *candidates, *argv, *inherited, *secrets, *mask, *ignored, *defaults, *passed, *result = NULL;
    struct start start = {.terminal = -1};
    struct memory *block = NULL;
    int pid;

    if (!PyArg_ParseTuple(args, "O!O!O!O!iO!O!O!O!:spawn", &PyList_Type, &candidates, &PyList_Type, &argv,
                          &PyList_Type, &inherited, &PyList_Type, &secrets, &start.terminal, &PyList_Type, &mask,
                          &PyList_Type, &ignored, &PyList_Type, &defaults, &PyList_Type, &passed))
        return NULL;
    if (signals(mask, &start.mask) < 0 || signals(ignored, &start.ignored) < 0 ||
        signals(defaults, &start.defaults) < 0 || descriptors(passed, &start) < 0)
        return NULL;
    if (!(start.candidates = strings(candidates, 0)) || !(start.argv = strings(argv, 0)) ||
        !(start.interpreted = strings(argv, 1)) ||
        !(start.environment = strings(inherited, (size_t)PyList_GET_SIZE(secrets))) ||
        !(block = secret_block(secrets, start.environment)))
        goto done;
    cloudtaser_verify_everything();
    start.interpreted[0] = SHELL; /* then the file in the place of argv[0], then the arguments */
    pid = start_child(&start);
    result = pid < 0 ? PyErr_SetFromErrno(PyExc_OSError) : Py_BuildValue("(ii)", pid, start.problem);
done:
    Py_XDECREF(block);
    PyMem_Free(start.candidates);
    PyMem_Free(start.argv);
    PyMem_Free(start.interpreted);
    PyMem_Free(start.environment);
    return result;
}

static PyMethodDef methods[] = {
    {"spawn", spawn, METH_VARARGS, spawn_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_spawn(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}

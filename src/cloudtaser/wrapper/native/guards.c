/* Canaries round each block, and the ways out that leave only zeros behind.
 *
 * A canary is 16 random bytes of this process, mixed with its block's address. They are looked at when a block is freed,
 * before the application is started and when `check` is called; a broken one means that somebody wrote where he should not, so everything is zeroed and
 * the process ends. A fault of the wrapper itself (SIGSEGV and its like) zeroes everything too before it kills.
 */

#include "native.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

#define BELOW 32768 /* bytes of stack, more than a call of ours goes down */

static uint64_t secret[2];
static unsigned char fault_stack[32768];

static const char broken[] =
    "{\"level\":\"error\",\"program\":\"cloudtaser-wrapper\","
    "\"event\":\"secret memory was overwritten: a canary is broken; everything is wiped, this process ends\"}\n";

void
cloudtaser_wipe(void *at, size_t size)
{
    explicit_bzero(at, size);
}

static void
expected(const struct memory *block, unsigned char canary[CANARY])
{
    uint64_t words[2] = {secret[0] ^ (uintptr_t)block->at, secret[1] ^ ~(uint64_t)(uintptr_t)block->at};
    memcpy(canary, words, CANARY);
}

void
cloudtaser_stamp(const struct memory *block)
{
    expected(block, block->at - CANARY);
    expected(block, block->at + block->size);
}

int
cloudtaser_is_intact(const struct memory *block)
{
    unsigned char canary[CANARY];
    expected(block, canary);
    return memcmp(block->at - CANARY, canary, CANARY) == 0 && memcmp(block->at + block->size, canary, CANARY) == 0;
}

void
cloudtaser_wipe_everything(void)
{
    for (struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        cloudtaser_wipe(chunk->data, chunk->size);
}

static void
die(int number)
{
    sigset_t only;
    signal(number, SIG_DFL);
    sigemptyset(&only);
    sigaddset(&only, number);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    raise(number);
    _exit(128 + number); /* PID 1 does not die of its own signal */
}

void
cloudtaser_verify(const struct memory *block)
{
    ssize_t written;
    if (cloudtaser_is_intact(block))
        return;
    cloudtaser_wipe_everything();
    written = write(2, broken, sizeof broken - 1);
    (void)written;
    die(SIGABRT);
}

/* A fault of ours. One that another process sent to PID 1 had no effect without this handler, and has none now. */
static void
on_fault(int number, siginfo_t *info, void *context)
{
    if (info->si_code <= 0 && getpid() == 1)
        return;
    cloudtaser_wipe_everything();
    die(number);
}

void
cloudtaser_verify_everything(void)
{
    for (const struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        for (const struct memory *block = chunk->first; block; block = block->after)
            cloudtaser_verify(block);
}

PyDoc_STRVAR(check_doc, "check(): look at all canaries. Ends the process, everything wiped, where one is broken.");

static PyObject *
check(PyObject *module, PyObject *unused)
{
    cloudtaser_verify_everything();
    Py_RETURN_NONE;
}

PyDoc_STRVAR(wipe_doc,
             "wipe_everything(): zeros into all secret memory, canaries included; the last call before _exit.");

static PyObject *
wipe_everything(PyObject *module, PyObject *unused)
{
    cloudtaser_wipe_everything();
    for (const struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        for (const struct memory *block = chunk->first; block; block = block->after)
            cloudtaser_stamp(block);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(leftovers_doc,
             "wipe_leftovers(): zeros where the kernel put the registers of whoever a signal interrupted (Python's\n"
             "handlers run on the same stack, SA_ONSTACK), and on the stack below the caller, where a dynamic loader\n"
             "puts them when a function is called for the first time: vector registers still hold the last bytes\n"
             "that memcpy(3) moved. From the main thread.");

static PyObject *
wipe_leftovers(PyObject *module, PyObject *unused)
{
    unsigned char below[BELOW];
    cloudtaser_wipe(below, sizeof below);
    cloudtaser_wipe(fault_stack, sizeof fault_stack);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(close_doc,
             "close_process(): no core dump and no other user's ptrace (PR_SET_DUMPABLE 0), which an execve undoes;\n"
             "a fault of this process wipes everything first.");

static PyObject *
close_process(PyObject *module, PyObject *unused)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    stack_t stack = {.ss_sp = fault_stack, .ss_size = sizeof fault_stack};
    struct sigaction before, action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || sigaltstack(&stack, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    sigemptyset(&action.sa_mask);
    for (size_t index = 0; index < sizeof faults / sizeof *faults; index++)
        if (sigaction(faults[index], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(faults[index], &action, NULL);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"check", check, METH_NOARGS, check_doc},
    {"wipe_everything", wipe_everything, METH_NOARGS, wipe_doc},
    {"wipe_leftovers", wipe_leftovers, METH_NOARGS, leftovers_doc},
    {"close_process", close_process, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_guards(PyObject *module)
{
    while (!secret[0])
        if (getrandom(secret, sizeof secret, 0) != (ssize_t)sizeof secret)
            secret[0] = 0;
    return PyModule_AddFunctions(module, methods);
}

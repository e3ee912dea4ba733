/* The environment that the wrapper itself was started with: secrets in it are taken out of the process's memory.
 *
 * The kernel put the strings on the stack, where /proc/PID/environ shows them for as long as the process lives; the
 * interpreter made `bytes` of them. Both are overwritten in place.
 */

#include "native.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

extern char **environ;

#define LONGEST ((size_t)8 << 20) /* more than the kernel lets a program start with */

static char *const *
variable(const char *name, size_t length)
{
    for (char *const *at = environ; at && *at; at++)
        if (strncmp(*at, name, length) == 0 && (*at)[length] == '=')
            return at;
    return NULL;
}

PyDoc_STRVAR(take_doc,
             "take_variable(name): the value of an environment variable as Memory, or None; what stood in the\n"
             "process's initial environment is overwritten and the variable unset. `posix.environ` is the caller's.");

static PyObject *
take_variable(PyObject *module, PyObject *args)
{
    const char *name;
    Py_ssize_t length;
    struct memory *taken = NULL;
    char *const *at;

    if (!PyArg_ParseTuple(args, "y#:take_variable", &name, &length))
        return NULL;
    while ((at = variable(name, (size_t)length))) { /* a name may stand there twice; the first counts */
        char *value = *at + length + 1;
        size_t size = strlen(value);
        if (!taken) {
            taken = cloudtaser_memory(size);
            if (!taken)
                return NULL;
            memcpy(taken->at, value, size);
        }
        cloudtaser_wipe(value, size);
        for (char **rest = (char **)at; *rest; rest++) /* unsetenv(3) would take one that has the same name only */
            rest[0] = rest[1];
    }
    if (!taken)
        Py_RETURN_NONE;
    return (PyObject *)taken;
}

PyDoc_STRVAR(wipe_doc,
             "wipe_bytes(data): overwrite a bytes object that nobody looks at any more. For the interpreter's own\n"
             "copies of the environment only: whoever still holds it sees zeros.");

static PyObject *
wipe_bytes(PyObject *module, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        PyErr_SetString(PyExc_TypeError, "bytes are wanted");
        return NULL;
    }
    if (PyBytes_GET_SIZE(data) > 1) /* shorter ones are shared by the whole interpreter */
        cloudtaser_wipe(PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(holds_doc,
             "initial_environment_holds(needle): whether the bytes occur in the environment as the kernel laid it\n"
             "out, which is what /proc/PID/environ shows; read without /proc. None where it cannot be found.");

/* The strings lie below the program's file name, in one run, the lowest first. */
static PyObject *
initial_environment_holds(PyObject *module, PyObject *args)
{
    Py_buffer needle;
    const char *end = (const char *)getauxval(AT_EXECFN), *start = end;
    int is_held;

    if (!PyArg_ParseTuple(args, "y*:initial_environment_holds", &needle))
        return NULL;
    for (char *const *at = environ; at && *at; at++)
        if (*at < start && (size_t)(end - *at) < LONGEST)
            start = *at;
    is_held = end && needle.len && start < end && memmem(start, (size_t)(end - start), needle.buf, (size_t)needle.len);
    PyBuffer_Release(&needle);
    if (!end)
        Py_RETURN_NONE;
    return PyBool_FromLong(is_held);
}

static PyMethodDef methods[] = {
    {"take_variable", take_variable, METH_VARARGS, take_doc},
    {"wipe_bytes", wipe_bytes, METH_O, wipe_doc},
    {"initial_environment_holds", initial_environment_holds, METH_VARARGS, holds_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_environ(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}

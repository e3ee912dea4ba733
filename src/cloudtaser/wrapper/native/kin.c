/* What the wrapper and the application are to each other and to the rest of the process tree.
 *
 * `app` asks to be the reaper of orphans where it is not PID 1, and with CLOUDTASER_PARENT_DEATH_SIGNAL that the
 * application does not outlive the wrapper; spawn.c lets each child ask for the latter.
 */

#include "native.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

static int death_signal; /* 0 for none */

/* In the child, which may find its parent gone already: prctl(2) says nothing of a death before it. */
int
cloudtaser_end_with_parent(pid_t parent)
{
    return !death_signal || (prctl(PR_SET_PDEATHSIG, death_signal) == 0 && getppid() == parent);
}

PyDoc_STRVAR(reap_orphans_doc,
             "reap_orphans(): descendants whose parent ends become children of this process (Linux 3.4).\n"
             "Raises OSError.");

static PyObject *
reap_orphans(PyObject *module, PyObject *none)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(end_with_parent_doc,
             "end_with_parent(number): programs that are spawned from now on get this signal when this process ends,\n"
             "however it ends; 0 for none. Raises ValueError.");

static PyObject *
end_with_parent(PyObject *module, PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    if (number < 0 || number >= NSIG) {
        PyErr_SetString(PyExc_ValueError, "no signal");
        return NULL;
    }
    death_signal = (int)number;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reap_orphans", reap_orphans, METH_NOARGS, reap_orphans_doc},
    {"end_with_parent", end_with_parent, METH_O, end_with_parent_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_kin(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}

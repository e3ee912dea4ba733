/* A descriptor that carries a block of values to the application: for delivery in memory or as a file.
 *
 * `delivery` lays the block out and says what is in it. memfd_secret can be mapped and neither read nor opened by its
 * path, and no other process can look into it by /proc; a sealed memfd can be read as a file, by this program and by
 * root. Either is filled here from buffers in secret memory, and nothing of it stays mapped.
 */

#include "native.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SEAL 1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#define F_SEAL_WRITE 8
#endif
#define LARGEST ((size_t)64 << 20)

/* Sum of the parts' sizes; -1 with an error. */
static Py_ssize_t
total(PyObject *parts)
{
    size_t size = 0;
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts); index++) {
        Py_buffer part;
        if (PyObject_GetBuffer(PyList_GET_ITEM(parts, index), &part, PyBUF_SIMPLE) < 0)
            return -1;
        size += (size_t)part.len;
        PyBuffer_Release(&part);
        if (size > LARGEST) {
            PyErr_SetString(PyExc_OverflowError, "too much for one descriptor");
            return -1;
        }
    }
    return (Py_ssize_t)size;
}

static int
fill(unsigned char *at, PyObject *parts)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(parts); index++) {
        Py_buffer part;
        if (PyObject_GetBuffer(PyList_GET_ITEM(parts, index), &part, PyBUF_SIMPLE) < 0)
            return -1;
        memcpy(at, part.buf, (size_t)part.len);
        at += part.len;
        PyBuffer_Release(&part);
    }
    return 0;
}

/* Fill the descriptor's pages and let go of them. -1 with an error. */
static int
fill_descriptor(int fd, size_t size, PyObject *parts)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int filled;
    if (at == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    madvise(at, size, MADV_DONTDUMP);
    filled = fill(at, parts);
    munmap(at, size);
    return filled;
}

static int
sealed_memfd(size_t size, PyObject *parts)
{
    int fd = memfd_create("cloudtaser", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (!size || fill_descriptor(fd, size, parts) == 0) {
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0)
            return fd;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

PyDoc_STRVAR(descriptor_doc,
             "descriptor(parts, secret): a descriptor, closed on exec, that holds the buffers of the list `parts` one\n"
             "after another, and whether it is a memfd_secret. With `secret` a memfd_secret, or where there is none a\n"
             "sealed memfd; else a sealed memfd, which can be read as a file. Raises OSError, OverflowError past\n"
             "64 MiB.");

static PyObject *
descriptor(PyObject *module, PyObject *args)
{
    PyObject *parts;
    Py_ssize_t size;
    int is_secret, fd = -1;

    if (!PyArg_ParseTuple(args, "O!p:descriptor", &PyList_Type, &parts, &is_secret) || (size = total(parts)) < 0)
        return NULL;
    if (is_secret && size)
        fd = cloudtaser_secret_descriptor((size_t)size);
    if (fd >= 0 && fill_descriptor(fd, (size_t)size, parts) < 0) {
        close(fd);
        fd = -1;
        if (!PyErr_ExceptionMatches(PyExc_OSError)) /* RLIMIT_MEMLOCK: the memfd may do */
            return NULL;
        PyErr_Clear();
    }
    if (fd >= 0)
        return Py_BuildValue("(iO)", fd, Py_True);
    fd = sealed_memfd((size_t)size, parts);
    return fd < 0 ? NULL : Py_BuildValue("(iO)", fd, Py_False);
}

static PyMethodDef methods[] = {
    {"descriptor", descriptor, METH_VARARGS, descriptor_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_descriptor(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}

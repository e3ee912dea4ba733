/* A descriptor that carries a block of values to the application: for delivery in memory or as a file.
 *
 * `delivery` lays the block out and says what is in it. memfd_secret can be mapped and neither read nor opened by its
 * path, and no other process can look into it by /proc; a sealed memfd can be read as a file, by this program and by
 * root. Either is filled here from buffers in secret memory, and nothing of it stays mapped. One that is to be written
 * anew while the application runs (`rewrite`) is not sealed.
 */

#include "native.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
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

static unsigned char *
map_descriptor(int fd, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    madvise(at, size, MADV_DONTDUMP);
    return at;
}

/* Fill the descriptor's pages and let go of them. -1 with an error. */
static int
fill_descriptor(int fd, size_t size, PyObject *parts)
{
    unsigned char *at = map_descriptor(fd, size);
    int filled = at ? fill(at, parts) : -1;
    if (at)
        munmap(at, size);
    return filled;
}

static int
filled_memfd(size_t size, PyObject *parts, int seals)
{
    int fd = memfd_create("cloudtaser", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
    } else if (!size || fill_descriptor(fd, size, parts) == 0) {
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | seals) == 0)
            return fd;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

PyDoc_STRVAR(descriptor_doc,
             "descriptor(parts, secret, sealed=True): a descriptor, closed on exec, that holds the buffers of the list\n"
             "`parts` one after another, and whether it is a memfd_secret. With `secret` a memfd_secret, or where there\n"
             "is none a memfd; else a memfd, which can be read as a file. A memfd is sealed: it never changes, or\n"
             "where `sealed` is false never its size. Raises OSError, OverflowError past 64 MiB.");

static PyObject *
descriptor(PyObject *module, PyObject *args)
{
    PyObject *parts;
    Py_ssize_t size;
    int is_secret, is_sealed = 1, fd = -1;

    if (!PyArg_ParseTuple(args, "O!p|p:descriptor", &PyList_Type, &parts, &is_secret, &is_sealed) ||
        (size = total(parts)) < 0)
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
    fd = filled_memfd((size_t)size, parts, is_sealed ? F_SEAL_WRITE : 0);
    return fd < 0 ? NULL : Py_BuildValue("(iO)", fd, Py_False);
}

PyDoc_STRVAR(rewrite_doc,
             "rewrite(fd, offset, parts, number_at, number): the buffers of `parts` into the descriptor from `offset`\n"
             "on; once they are there, `number` as eight bytes at `number_at`, a multiple of eight, at once for whoever\n"
             "reads meanwhile. Raises OSError, OverflowError past the descriptor's size.");

static PyObject *
rewrite(PyObject *module, PyObject *args)
{
    PyObject *parts;
    Py_ssize_t offset, number_at, size;
    unsigned long long number;
    unsigned char *at;
    struct stat status;
    int fd, filled;

    if (!PyArg_ParseTuple(args, "inO!nK:rewrite", &fd, &offset, &PyList_Type, &parts, &number_at, &number) ||
        (size = total(parts)) < 0)
        return NULL;
    if (fstat(fd, &status) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (offset < 0 || offset > status.st_size || size > status.st_size - offset || number_at < 0 || number_at % 8 ||
        number_at > status.st_size - 8) {
        PyErr_SetString(PyExc_OverflowError, "beyond the descriptor's size");
        return NULL;
    }
    at = map_descriptor(fd, (size_t)status.st_size);
    if (!at)
        return NULL;
    filled = fill(at + offset, parts);
    if (filled == 0)
        __atomic_store_n((uint64_t *)(void *)(at + number_at), number, __ATOMIC_RELEASE);
    munmap(at, (size_t)status.st_size);
    if (filled < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"descriptor", descriptor, METH_VARARGS, descriptor_doc},
    {"rewrite", rewrite, METH_VARARGS, rewrite_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_descriptor(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}

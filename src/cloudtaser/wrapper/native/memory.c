/* `Memory`, the type that `buffers.Buffer` fills: blocks of secret memory in chunks (chunks.c).
 *
 * A block of more than SHARED bytes has a chunk of its own and ends at the guard page behind it; smaller ones share slabs
 * of 16 KiB, so that an ordinary start fits the smallest limit. Each block lies between two canaries (guards.c). It is
 * zeroed when it is freed; a chunk without blocks is given back.
 */

#include "native.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define SHARED 4096
#define SLAB 16384
#define LARGEST ((size_t)1 << 31)

static PyTypeObject *memory_type;

static size_t
rounded(size_t size, size_t to)
{
    return (size + to - 1) / to * to;
}

static size_t
footprint(size_t size)
{
    return CANARY + rounded(size + CANARY, CANARY);
}

static void
link_block(struct memory *block, struct chunk *chunk, struct memory *before, unsigned char *at)
{
    block->chunk = chunk;
    block->at = at;
    block->before = before;
    block->after = before ? before->after : chunk->first;
    if (block->after)
        block->after->before = block;
    if (before)
        before->after = block;
    else
        chunk->first = block;
    cloudtaser_stamp(block);
}

/* First fit among the blocks of a slab; whether there was room. */
static int
put_into_slab(struct chunk *chunk, struct memory *block)
{
    unsigned char *free_from = chunk->data;
    size_t wanted = footprint(block->size);
    struct memory *before = NULL, *after;

    for (;; before = after) {
        after = before ? before->after : chunk->first;
        unsigned char *free_to = after ? after->at - CANARY : chunk->data + chunk->size;
        if ((size_t)(free_to - free_from) >= wanted) {
            link_block(block, chunk, before, free_from + CANARY);
            return 1;
        }
        if (!after)
            return 0;
        free_from = after->at - CANARY + footprint(after->size);
    }
}

/* Find a place for `block->size` bytes; -1 where there is none. */
static int
place(struct memory *block)
{
    size_t wanted = footprint(block->size), page = cloudtaser_page();
    struct chunk *chunk;

    if (block->size > SHARED) {
        chunk = cloudtaser_new_chunk(rounded(wanted, page), 0);
        if (!chunk)
            return -1;
        link_block(block, chunk, NULL, chunk->data + chunk->size - wanted + CANARY);
        return 0;
    }
    for (chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        if (chunk->is_slab && put_into_slab(chunk, block))
            return 0;
    chunk = cloudtaser_new_chunk(rounded(SLAB, page), 1);
    return chunk && put_into_slab(chunk, block) ? 0 : -1;
}

struct memory *
cloudtaser_memory(size_t size)
{
    struct memory *block;
    if (size > LARGEST) {
        PyErr_NoMemory();
        return NULL;
    }
    block = (struct memory *)memory_type->tp_alloc(memory_type, 0);
    if (!block)
        return NULL;
    block->size = size;
    if (place(block) < 0) {
        Py_DECREF(block);
        PyErr_SetString(PyExc_MemoryError,
                        cloudtaser_is_required ? "no more memfd_secret memory (RLIMIT_MEMLOCK)" : "no secret memory");
        return NULL;
    }
    return block;
}

static PyObject *
memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"size", NULL};
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:Memory", names, &size))
        return NULL;
    if (size < 0) {
        PyErr_SetString(PyExc_ValueError, "negative size");
        return NULL;
    }
    return (PyObject *)cloudtaser_memory((size_t)size);
}

static int
is_another_empty_slab(const struct chunk *than)
{
    for (const struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        if (chunk != than && chunk->is_slab && !chunk->first)
            return 1;
    return 0;
}

/* Whether a canary of the block lies in that page, which is why it was touched. */
static int
has_canary(const struct memory *block, const unsigned char *page)
{
    const unsigned char *end = page + cloudtaser_page();
    return (block->at - 1 >= page && block->at - 1 < end) || (block->at + block->size >= page && block->at + block->size < end);
}

/* Zeros into a part of a block. Pages of memfd_secret that were never touched are zeros already, and dear to touch: each
 * takes a page out of the kernel's map on all processors. They cannot be swapped out, so mincore(2) knows them. */
static void
wipe_part(const struct memory *block, size_t start, size_t end)
{
    unsigned char resident[64];
    size_t page = cloudtaser_page();
    unsigned char *at = block->at + start, *last = block->at + end;

    if (block->chunk->kind != KIND_SECRET) {
        cloudtaser_wipe(at, end - start);
        return;
    }
    while (at < last) {
        unsigned char *first = (unsigned char *)((uintptr_t)at / page * page);
        size_t pages = rounded((size_t)(last - first), page) / page;
        if (has_canary(block, first)) { /* as the pages of most blocks: they are small */
            unsigned char *next = first + page > last ? last : first + page;
            cloudtaser_wipe(at, (size_t)(next - at));
            at = next;
            continue;
        }
        pages = pages > sizeof resident ? sizeof resident : pages;
        if (mincore(first, pages * page, resident) < 0)
            memset(resident, 1, sizeof resident);
        for (size_t index = 0; index < pages && at < last; index++) {
            unsigned char *next = first + (index + 1) * page;
            next = next > last ? last : next;
            if (resident[index] & 1)
                cloudtaser_wipe(at, (size_t)(next - at));
            at = next;
        }
    }
}

static void
memory_dealloc(struct memory *block)
{
    PyTypeObject *type = Py_TYPE(block);
    struct chunk *chunk = block->chunk;
    if (chunk) {
        cloudtaser_verify(block);
        wipe_part(block, 0, block->size);
        cloudtaser_wipe(block->at - CANARY, CANARY);
        cloudtaser_wipe(block->at + block->size, CANARY);
        if (block->after)
            block->after->before = block->before;
        if (block->before)
            block->before->after = block->after;
        else
            chunk->first = block->after;
        /* one empty slab is kept: most buffers live for one request */
        if (!chunk->first && (!chunk->is_slab || is_another_empty_slab(chunk)))
            cloudtaser_free_chunk(chunk);
    }
    type->tp_free((PyObject *)block);
    Py_DECREF(type);
}

static Py_ssize_t
memory_length(struct memory *block)
{
    return (Py_ssize_t)block->size;
}

static PyObject *
memory_item(struct memory *block, Py_ssize_t index)
{
    if (index < 0 || (size_t)index >= block->size) {
        PyErr_SetString(PyExc_IndexError, "index out of range");
        return NULL;
    }
    return PyLong_FromLong(block->at[index]);
}

static int
memory_getbuffer(struct memory *block, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)block, block->at, (Py_ssize_t)block->size, 0, flags);
}

PyDoc_STRVAR(find_doc, "find(needle, start, end): offset of `needle` in [start, end), or -1; copies nothing.");

static PyObject *
memory_find(struct memory *block, PyObject *args)
{
    Py_buffer needle;
    Py_ssize_t start, end, size = (Py_ssize_t)block->size;
    const unsigned char *found = NULL;
    if (!PyArg_ParseTuple(args, "y*nn:find", &needle, &start, &end))
        return NULL;
    end = end > size ? size : end;
    if (start >= 0 && start <= end)
        found = memmem(block->at + start, (size_t)(end - start), needle.buf, (size_t)needle.len);
    PyBuffer_Release(&needle);
    return PyLong_FromSsize_t(found ? found - block->at : -1);
}

PyDoc_STRVAR(wipe_doc, "wipe(start=0, end=None): zeros into [start, end).");

static PyObject *
memory_wipe(struct memory *block, PyObject *args)
{
    Py_ssize_t start = 0, end = (Py_ssize_t)block->size;
    if (!PyArg_ParseTuple(args, "|nn:wipe", &start, &end))
        return NULL;
    if (start < 0 || end > (Py_ssize_t)block->size || start > end) {
        PyErr_SetString(PyExc_IndexError, "wipe beyond the memory");
        return NULL;
    }
    wipe_part(block, (size_t)start, (size_t)end);
    Py_RETURN_NONE;
}

static PyObject *
memory_repr(struct memory *block)
{
    return PyUnicode_FromFormat("Memory(%zu bytes, ***)", block->size);
}

static PyMethodDef memory_methods[] = {
    {"find", (PyCFunction)memory_find, METH_VARARGS, find_doc},
    {"wipe", (PyCFunction)memory_wipe, METH_VARARGS, wipe_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(memory_doc, "Memory(size): `size` zero bytes in secret memory, a writable buffer of fixed size.");

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)memory_doc},
    {Py_tp_new, (void *)memory_new},
    {Py_tp_dealloc, (void *)memory_dealloc},
    {Py_tp_repr, (void *)memory_repr},
    {Py_tp_methods, memory_methods},
    {Py_sq_length, (void *)memory_length},
    {Py_sq_item, (void *)memory_item},
    {Py_bf_getbuffer, (void *)memory_getbuffer},
    {0, NULL},
};

static PyType_Spec memory_spec = {
    .name = "_cloudtaser.Memory",
    .basicsize = sizeof(struct memory),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = memory_slots,
};

PyDoc_STRVAR(require_doc, "require(): from now on nothing but memfd_secret. Raises MemoryError where there is none.");

static PyObject *
require(PyObject *module, PyObject *unused)
{
    struct memory *first;
    for (struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next)
        if (chunk->kind != KIND_SECRET) {
            PyErr_SetString(PyExc_MemoryError, "memory that is no memfd_secret is in use");
            return NULL;
        }
    cloudtaser_is_required = 1;
    first = cloudtaser_memory(1);
    if (!first)
        return NULL;
    Py_DECREF(first);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"require", require, METH_NOARGS, require_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_memory(PyObject *module)
{
    if (!memory_type) {
        memory_type = (PyTypeObject *)PyType_FromSpec(&memory_spec);
        if (!memory_type)
            return -1;
    }
    if (PyModule_AddObjectRef(module, "Memory", (PyObject *)memory_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}

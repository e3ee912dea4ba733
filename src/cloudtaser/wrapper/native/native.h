/* The wrapper's C extension `_cloudtaser`: what its files share.
 *
 * One module, built into the payload's interpreter and as a shared object for development (tools/native.py).
 * SOURCES lists its files. Each theme has one, and adds what it offers in `cloudtaser_add_THEME`, which
 * `module.c` calls once when the module is made; -1 with a Python error set means that it cannot be made.
 *
 * C is for what Python cannot do here: memory that nobody else reads, a start of the application that leaves no
 * copy, loops over secret bytes, and cryptography on them. Everything else is Python.
 */

#ifndef CLOUDTASER_NATIVE_H
#define CLOUDTASER_NATIVE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <sys/types.h>

/* Where a chunk's pages come from, best first. */
enum kind { KIND_SECRET, KIND_LOCKED, KIND_PLAIN };

struct memory;

/* One mapping between two guard pages. `data` and `size` are the pages that can be touched. */
struct chunk {
    struct chunk *next;
    unsigned char *data;
    size_t size;
    enum kind kind;
    int is_slab;      /* shared by small blocks; else one block has it for itself */
    int left_out;     /* of core dumps, as far as madvise said */
    struct memory *first; /* its blocks by address */
};

/* `Memory`: bytes in secret memory, between two canaries. */
struct memory {
    PyObject_HEAD
    unsigned char *at;
    size_t size;
    struct chunk *chunk;
    struct memory *before, *after;
};

/* chunks.c */
extern struct chunk *cloudtaser_chunks;
extern int cloudtaser_is_required; /* whether memfd_secret is */
struct chunk *cloudtaser_new_chunk(size_t size, int is_slab); /* whole pages; NULL where there are none */
void cloudtaser_free_chunk(struct chunk *chunk);
int cloudtaser_secret_descriptor(size_t size); /* of a memfd_secret, closed on exec; -1 and errno */
size_t cloudtaser_page(void);

/* memory.c */
struct memory *cloudtaser_memory(size_t size); /* a new reference, or NULL with MemoryError set */

/* guards.c */
#define CANARY 16
void cloudtaser_stamp(const struct memory *block);
int cloudtaser_is_intact(const struct memory *block);
void cloudtaser_verify(const struct memory *block); /* ends the process where a canary is broken */
void cloudtaser_verify_everything(void);
void cloudtaser_wipe(void *at, size_t size);        /* what no compiler leaves out */
void cloudtaser_wipe_everything(void);              /* safe in a signal handler */

/* text.c. What is wrong with a JSON document: `jsontext` has the words. */
enum trouble {
    ENDS_EARLY = -1,
    CONTROL = -2,
    NOT_UTF8 = -3,
    UNKNOWN_ESCAPE = -4,
    HALF_PAIR = -5,
    NO_HEX = -6,
    TOO_MANY = -7,
    NO_VALUE = -8,
    TOO_DEEP = -9,
    NO_COMMA = -10,
    NO_NAME = -11,
    NAME_TWICE = -12,
    NO_COLON = -13,
    NO_DIGIT = -14,
    TEXT_BEHIND = -15,
};
Py_ssize_t cloudtaser_string_end(const unsigned char *data, Py_ssize_t start, Py_ssize_t end); /* the quote's offset */
unsigned char *cloudtaser_unescape(unsigned char *start, unsigned char *end); /* in place; the new end, NULL if unchecked */

/* kin.c */
int cloudtaser_end_with_parent(pid_t parent); /* in the child; 0 where the parent is gone already */

int cloudtaser_add_chunks(PyObject *module);
int cloudtaser_add_memory(PyObject *module);
int cloudtaser_add_guards(PyObject *module);
int cloudtaser_add_report(PyObject *module);
int cloudtaser_add_environ(PyObject *module);
int cloudtaser_add_text(PyObject *module);
int cloudtaser_add_json(PyObject *module);
int cloudtaser_add_spawn(PyObject *module);
int cloudtaser_add_kin(PyObject *module);
int cloudtaser_add_descriptor(PyObject *module);
int cloudtaser_add_crypto(PyObject *module);
int cloudtaser_add_cpu(PyObject *module);

#endif

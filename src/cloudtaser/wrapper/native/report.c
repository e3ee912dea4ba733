/* What the secret memory of the running process is really like: measured, for the protection score.
 *
 * /proc/self/smaps tells of each chunk which pages it has (a mapping of `/secretmem`, or the flag `lo`: locked), whether
 * a core dump leaves it out (`dd`) and whether inaccessible pages stand on both sides. Where there is no /proc the
 * guard pages are tried by a system call, and the rest is what the kernel answered when the chunk was made.
 */

#include "native.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

struct measured {
    size_t secret, locked, plain, left_out;
    int chunks, guarded, blocks, intact;
};

/* One mapping of smaps. */
struct mapping {
    unsigned long start, end;
    int is_closed, is_secret, is_locked, is_left_out;
};

static int
next_mapping(FILE *smaps, char line[4096], struct mapping *mapping)
{
    char permissions[5];
    if (sscanf(line, "%lx-%lx %4s", &mapping->start, &mapping->end, permissions) != 3)
        return 0;
    mapping->is_closed = strncmp(permissions, "---", 3) == 0;
    mapping->is_secret = strstr(line, "/secretmem") != NULL;
    mapping->is_locked = mapping->is_left_out = 0;
    while (fgets(line, 4096, smaps)) {
        if (strncmp(line, "VmFlags:", 8) == 0) {
            mapping->is_locked = strstr(line, " lo") != NULL;
            mapping->is_left_out = strstr(line, " dd") != NULL;
        } else if (strchr("0123456789abcdef", line[0])) {
            return 1;
        }
    }
    line[0] = 0;
    return 1;
}

static const struct chunk *
chunk_at(unsigned long start)
{
    const struct chunk *chunk = cloudtaser_chunks;
    while (chunk && (unsigned long)chunk->data != start)
        chunk = chunk->next;
    return chunk;
}

static void
count(struct measured *measured, const struct mapping *mapping)
{
    size_t size = mapping->end - mapping->start;
    if (mapping->is_secret)
        measured->secret += size;
    else if (mapping->is_locked)
        measured->locked += size;
    else
        measured->plain += size;
    measured->left_out += mapping->is_left_out ? size : 0;
}

/* 0 where smaps cannot be read. */
static int
measure_by_smaps(struct measured *measured)
{
    char line[4096];
    struct mapping mapping, before = {0};
    int was_ours = 0;
    FILE *smaps = fopen("/proc/self/smaps", "re");

    if (!smaps)
        return 0;
    if (!fgets(line, sizeof line, smaps))
        line[0] = 0;
    while (line[0] && next_mapping(smaps, line, &mapping)) {
        if (was_ours == 2 && mapping.is_closed && mapping.start == before.end)
            measured->guarded++;
        was_ours = chunk_at(mapping.start) != NULL;
        if (was_ours) {
            count(measured, &mapping);
            was_ours += before.is_closed && before.end == mapping.start;
        }
        before = mapping;
    }
    fclose(smaps);
    return 1;
}

/* Whether the kernel itself cannot read there, which it tries for a path's first letter. */
static int
is_guard(const unsigned char *at)
{
    return access((const char *)at, F_OK) < 0 && errno == EFAULT;
}

static void
measure_by_calls(struct measured *measured)
{
    for (const struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next) {
        struct mapping mapping = {
            .start = (unsigned long)chunk->data,
            .end = (unsigned long)chunk->data + chunk->size,
            .is_secret = chunk->kind == KIND_SECRET,
            .is_locked = chunk->kind == KIND_LOCKED,
            .is_left_out = chunk->left_out || chunk->kind == KIND_SECRET,
        };
        count(measured, &mapping);
        measured->guarded += is_guard(chunk->data - 1) && is_guard(chunk->data + chunk->size);
    }
}

PyDoc_STRVAR(report_doc,
             "report(): how the secret memory is protected now. Bytes in `secret` (memfd_secret), `locked`, `plain`\n"
             "pages and those `left_out` of core dumps; `chunks` and how many of them are `guarded`; `blocks` and how\n"
             "many have `intact` canaries; `dumpable` as prctl(2) has it; `limit`, RLIMIT_MEMLOCK in bytes, -1 for\n"
             "none; `measured`: 1, or 0 where /proc is missing and the kernel's answers must do.");

static PyObject *
report(PyObject *module, PyObject *unused)
{
    struct measured measured = {0};
    struct rlimit limit = {0};
    int is_measured = measure_by_smaps(&measured);

    if (!is_measured)
        measure_by_calls(&measured);
    for (const struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next) {
        measured.chunks++;
        for (const struct memory *block = chunk->first; block; block = block->after) {
            measured.blocks++;
            measured.intact += cloudtaser_is_intact(block);
        }
    }
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return Py_BuildValue("{s:n,s:n,s:n,s:n,s:i,s:i,s:i,s:i,s:i,s:L,s:i}", "secret", measured.secret, "locked",
                         measured.locked, "plain", measured.plain, "left_out", measured.left_out, "chunks",
                         measured.chunks, "guarded", measured.guarded, "blocks", measured.blocks, "intact",
                         measured.intact, "dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), "limit",
                         limit.rlim_cur == RLIM_INFINITY ? -1LL : (long long)limit.rlim_cur, "measured", is_measured);
}

static PyMethodDef methods[] = {
    {"report", report, METH_NOARGS, report_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_report(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
